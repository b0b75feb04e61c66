//! How far what was asked has got: from one published status to the next, what is worth a line, and
//! when it is over.
//!
//! Reads nothing but statuses, as the page does, so that it shows only what was seen. A wake is
//! many volleys; they are counted, not listed.
//!
//! **Does not know:** sockets, terminals, what time it is beyond the status it is shown.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use crate::cluster::{HostName, Vmid};
use crate::plan::hold::about;
use crate::status::{HostShown, Status};

/// A line on the packets at most this often.
const PACKETS_EVERY: Duration = Duration::from_secs(30);
/// Held this long with nothing under way, it is an answer and not a pause.
const HELD_FOR: Duration = Duration::from_secs(90);
/// Longer than any boot, drain and shutdown together ought to take.
const LONGEST: Duration = Duration::from_secs(4 * 3600);
/// Statuses in a row without anything under way, before a host that is ready also serves: the moves
/// of a turn are in its own status, those they make room for in the next.
const CALM_STATUSES: u32 = 2;

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    Serves,
    Rests,
    Empty,
    Proven,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    Reached,
    /// It did not come about, and why; the service may go on trying.
    Missed(String),
}

/// What was seen of one host so far.
#[derive(Debug, Default)]
struct Course {
    began: Option<Timestamp>,
    calling: bool,
    packets_said: Option<Timestamp>,
    joined: bool,
    answered: bool,
    ready: bool,
    calm: u32,
    state: String,
    guests: Option<BTreeSet<Vmid>>,
    held_since: Option<Timestamp>,
    proving: bool,
    end: Option<End>,
}

/// Follows some hosts to one goal.
#[derive(Debug)]
pub struct Progress {
    goal: Goal,
    courses: BTreeMap<HostName, Course>,
    holds_said: BTreeSet<String>,
    purposes_said: BTreeSet<String>,
}

impl Progress {
    pub fn new(goal: Goal, hosts: &[HostName]) -> Progress {
        let courses = hosts.iter().map(|host| (host.clone(), Course::default())).collect();
        Progress { goal, courses, holds_said: BTreeSet::new(), purposes_said: BTreeSet::new() }
    }

    /// What is new in this status, a line each.
    pub fn take(&mut self, status: &Status) -> Vec<String> {
        let mut lines = Vec::new();
        for (name, course) in &mut self.courses {
            if course.end.is_some() {
                continue;
            }
            let Some(shown) = status.hosts.iter().find(|shown| shown.name == *name) else {
                course.end = Some(End::Missed(format!("{name} is in no policy any more")));
                continue;
            };
            let busy = status.undertakings.iter().any(|one| one.host == *name);
            course.waking(shown, status.at, &mut lines);
            course.guests(shown, &mut lines);
            course.judge(self.goal, shown, status.at, busy);
        }
        self.undertakings(status, &mut lines);
        self.holds(status, &mut lines);
        lines
    }

    /// One short line on where it stands, for a terminal to write over.
    pub fn standing(&self, status: &Status) -> String {
        let one = |(name, course): (&HostName, &Course)| {
            let shown = status.hosts.iter().find(|shown| shown.name == *name)?;
            let since = course.began.map_or(Duration::ZERO, |began| elapsed(began, status.at));
            let packets = shown.wake.as_ref().map_or(String::new(), |wake| {
                let usually = wake
                    .usual_seconds
                    .map_or(String::new(), |usual| format!(" of usually {usual} s"));
                format!(", {} volleys{usually}", wake.volleys)
            });
            Some(format!("{name} {} ({}{packets})", shown.state, about(since)))
        };
        self.courses.iter().filter_map(one).collect::<Vec<_>>().join(" · ")
    }

    /// How it ended, once it has for every host.
    pub fn end(&self) -> Option<End> {
        let ends: Option<Vec<&End>> = self.courses.values().map(|one| one.end.as_ref()).collect();
        let missed: Vec<&str> = ends?
            .into_iter()
            .filter_map(|end| match end {
                End::Reached => None,
                End::Missed(why) => Some(why.as_str()),
            })
            .collect();
        Some(if missed.is_empty() { End::Reached } else { End::Missed(missed.join("; ")) })
    }

    /// What was reached, a line for each host.
    pub fn reached(&self, status: &Status) -> Vec<String> {
        let shown = |name: &HostName| status.hosts.iter().find(|shown| shown.name == *name);
        let line = |shown: &HostShown| {
            let name = &shown.name;
            let guests: Vec<String> = shown.guests.iter().map(ToString::to_string).collect();
            match self.goal {
                Goal::Serves if guests.is_empty() => format!("{name} serves"),
                Goal::Serves => format!("{name} serves, with guests {}", guests.join(" ")),
                Goal::Rests => format!("{name} is off, and left in order"),
                Goal::Empty => format!("{name} is empty and stays on, until spot release {name}"),
                Goal::Proven => format!("{name} is proven to wake by packet"),
            }
        };
        self.courses.keys().filter_map(shown).map(line).collect()
    }

    fn undertakings(&mut self, status: &Status, lines: &mut Vec<String>) {
        for one in &status.undertakings {
            let guests = one.purpose.starts_with("place") || one.purpose.starts_with("empty");
            let ours = self.courses.contains_key(&one.host);
            if ours && guests && self.purposes_said.insert(format!("{} {}", one.id, one.purpose)) {
                lines.push(format!("under way: {}", one.purpose));
            }
        }
    }

    fn holds(&mut self, status: &Status, lines: &mut Vec<String>) {
        for hold in &status.holds {
            let ours = hold.host.as_ref().is_none_or(|host| self.courses.contains_key(host));
            if ours && self.holds_said.insert(hold.sentence.clone()) {
                lines.push(format!("held: {} → {}", hold.sentence, hold.remedy));
            }
        }
    }
}

impl Course {
    /// Packets, joining, answering, ready.
    fn waking(&mut self, shown: &HostShown, at: Timestamp, lines: &mut Vec<String>) {
        let name = &shown.name;
        let began = *self.began.get_or_insert(at);
        if let Some(wake) = &shown.wake {
            let due = self.packets_said.is_none_or(|said| elapsed(said, at) >= PACKETS_EVERY);
            if due && wake.volleys > 0 && !self.joined {
                self.packets_said = Some(at);
                lines.push(match self.calling {
                    false => {
                        let usual = wake.usual_seconds.map_or(String::new(), |seconds| {
                            format!("; it usually takes {}", about(Duration::from_secs(seconds)))
                        });
                        format!("magic packets leave for {name}{usual}")
                    }
                    true => format!(
                        "{name} is still being called: {} volleys of packets in {}",
                        wake.volleys,
                        about(elapsed(wake.since, at))
                    ),
                });
                self.calling = true;
            }
        }
        let took = about(elapsed(began, at));
        if shown.answering.is_some() && !self.answered && self.calling {
            lines.push(format!("{name} answers, after {took}"));
        }
        if shown.ready.is_some() && !self.ready && self.calling {
            lines.push(format!("{name} is ready, after {took}"));
        }
        self.joined |= shown.answering.is_some();
        self.answered |= shown.answering.is_some();
        self.ready = shown.ready.is_some();
        if self.state != shown.state {
            match shown.state.as_str() {
                "leaving" => lines.push(format!("{name} is leaving")),
                "missing" => lines.push(format!("{name} is missing")),
                _ => {}
            }
            self.state.clone_from(&shown.state);
        }
    }

    fn guests(&mut self, shown: &HostShown, lines: &mut Vec<String>) {
        let now: BTreeSet<Vmid> = shown.guests.iter().copied().collect();
        if let Some(before) = &self.guests {
            let name = &shown.name;
            lines.extend(now.difference(before).map(|one| format!("guest {one} is on {name}")));
            lines.extend(before.difference(&now).map(|one| format!("guest {one} is off {name}")));
        }
        self.guests = Some(now);
    }

    fn judge(&mut self, goal: Goal, shown: &HostShown, at: Timestamp, busy: bool) {
        self.calm = if busy { 0 } else { self.calm + 1 };
        let calm = self.calm >= CALM_STATUSES;
        let reached = match goal {
            Goal::Serves => shown.state == "awake" && calm,
            Goal::Rests => shown.state == "resting",
            Goal::Empty => shown.emptying && shown.guests.is_empty() && calm,
            Goal::Proven => self.proving && !shown.proving && shown.proven,
        };
        let over = goal == Goal::Proven && self.proving && !shown.proving;
        self.proving |= shown.proving;
        let held = shown.holds.first().filter(|_| !busy && !reached);
        self.held_since = held.and(self.held_since.or(Some(at)));
        let began = self.began.unwrap_or(at);
        self.end = if reached {
            Some(End::Reached)
        } else if over {
            Some(End::Missed(format!("{} is not proven to wake", shown.name)))
        } else if let Some(hold) = held
            && self.held_since.is_some_and(|since| elapsed(since, at) >= HELD_FOR)
        {
            Some(End::Missed(hold.sentence.clone()))
        } else if let Some(hold) = shown.holds.iter().find(|hold| hold.code.starts_with("wake_")) {
            Some(End::Missed(hold.sentence.clone()))
        } else if elapsed(began, at) >= LONGEST {
            Some(End::Missed(format!("{} took longer than {}", shown.name, about(LONGEST))))
        } else {
            None
        };
    }
}

fn elapsed(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{HoldShown, PolicyShown, UndertakingShown, Votes, WakeShown};

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn host(state: &str) -> HostShown {
        HostShown {
            name: "host3".into(),
            node: None,
            tier: None,
            state: state.into(),
            desired: None,
            since: None,
            reasons: Vec::new(),
            holds: Vec::new(),
            lease: None,
            guests: Vec::new(),
            frozen: false,
            emptying: false,
            proving: false,
            proven: false,
            answering: None,
            ready: None,
            wake: None,
            ahead: None,
        }
    }

    fn status(seconds: i64, host: HostShown, under_way: &[&str]) -> Status {
        let one = |purpose: &&str| UndertakingShown {
            id: 1,
            purpose: (*purpose).into(),
            host: "host3".into(),
            requests: Vec::new(),
            since: at(0),
        };
        Status {
            version: 1,
            cluster: None,
            at: at(seconds),
            mode: "act".into(),
            policy: PolicyShown::default(),
            quorate: None,
            votes: Votes::default(),
            evidence: None,
            evidence_weaker: None,
            here: None,
            holds: host.holds.clone(),
            forecasts: Vec::new(),
            hosts: vec![host],
            guests: Vec::new(),
            undertakings: under_way.iter().map(one).collect(),
            gaps: Vec::new(),
            trouble: None,
        }
    }

    fn called(volleys: u32) -> Option<WakeShown> {
        Some(WakeShown {
            since: at(0),
            volleys,
            last_volley: None,
            until: None,
            usual_seconds: Some(80),
        })
    }

    fn hold(code: &str) -> HoldShown {
        HoldShown {
            code: code.into(),
            host: Some("host3".into()),
            guest: None,
            sentence: "a backup runs on host3".into(),
            remedy: "it goes on when the backup has ended".into(),
            until: None,
        }
    }

    #[test]
    fn a_wake_is_told_from_the_first_packet_to_the_last_guest() {
        let mut progress = Progress::new(Goal::Serves, &["host3".into()]);
        let waking = |volleys| HostShown { wake: called(volleys), ..host("waking") };
        let up = HostShown { answering: Some(at(80)), ready: Some(at(85)), ..host("awake") };
        let full = HostShown { guests: vec![Vmid(201)], ..up.clone() };
        let mut told = Vec::new();
        for status in [
            status(0, host("resting"), &[]),
            status(1, waking(1), &["wake host3"]),
            status(10, waking(3), &["wake host3"]),
            status(40, waking(5), &["wake host3"]),
            status(85, up.clone(), &["wake host3"]),
            status(87, up, &["place guest 201 on host3"]),
            status(99, full.clone(), &[]),
            status(101, full.clone(), &[]),
        ] {
            assert_eq!(progress.end(), None, "{}", status.at);
            told.extend(progress.take(&status));
        }
        assert_eq!(
            told,
            [
                "magic packets leave for host3; it usually takes 80 s",
                "host3 is still being called: 5 volleys of packets in 40 s",
                "host3 answers, after 85 s",
                "host3 is ready, after 85 s",
                "under way: place guest 201 on host3",
                "guest 201 is on host3",
            ]
        );
        assert_eq!(progress.end(), Some(End::Reached));
        assert_eq!(progress.reached(&status(101, full, &[])), ["host3 serves, with guests 201"]);
    }

    #[test]
    fn what_is_held_for_long_is_an_answer_and_what_is_held_shortly_is_not() {
        let mut progress = Progress::new(Goal::Rests, &["host3".into()]);
        let held = HostShown { holds: vec![hold("no_task")], ..host("awake") };
        let told = progress.take(&status(0, held.clone(), &[]));
        assert_eq!(told, ["held: a backup runs on host3 → it goes on when the backup has ended"]);
        assert!(progress.take(&status(60, held.clone(), &[])).is_empty(), "told once");
        assert_eq!(progress.end(), None);
        progress.take(&status(91, held, &[]));
        assert_eq!(progress.end(), Some(End::Missed("a backup runs on host3".into())));
    }

    #[test]
    fn a_failed_wake_ends_the_waiting() {
        let mut progress = Progress::new(Goal::Serves, &["host3".into()]);
        let failed = HostShown { holds: vec![hold("wake_failing")], ..host("resting") };
        progress.take(&status(400, failed, &[]));
        assert!(matches!(progress.end(), Some(End::Missed(_))));
    }

    #[test]
    fn a_proof_ends_when_the_host_slept_and_woke() {
        let mut progress = Progress::new(Goal::Proven, &["host3".into()]);
        let proving = HostShown { proving: true, ..host("awake") };
        progress.take(&status(0, HostShown { proven: true, ..host("awake") }, &[]));
        assert_eq!(progress.end(), None, "it has not begun");
        progress.take(&status(2, proving, &[]));
        progress.take(&status(300, HostShown { proven: true, ..host("awake") }, &[]));
        assert_eq!(progress.end(), Some(End::Reached));
    }
}
