//! The picture published after each turn: what the command line, the page and the metrics show.
//!
//! One document for everybody, so that the same sentence stands everywhere. Its JSON is a promise
//! to scripts: `version` is 1, instants are RFC 3339 in UTC, durations whole seconds, and what is
//! not known is `null`, never 0. Fields may be added, never renamed.
//!
//! **Does not know:** how anything is drawn, or how a plan came about.

mod agenda;

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::cluster::{
    Answer, BackupRun, GuestKind, GuestSeen, HostName, Moment, Observation, Question, Tier, Vmid,
};
use crate::gate::{EvidenceKind, Here, Mode};
use crate::ledger::tell::takes;
use crate::ledger::{Ledger, Parked, ParkedGuest, VoteCount, Wants};
use crate::plan::{Forecast, Hold, Plan, Reason};
use crate::policy::{EvidencePolicy, Policy};
use crate::undertaking::UndertakingId;

pub use agenda::{Agenda, WindowShown};

/// Version of every document here.
pub const VERSION: u32 = 1;
/// Runtime votes older than this are history; then the configured ones are shown, and named so.
const RUNTIME_VOTES_WITHIN: Duration = Duration::from_secs(60);

/// Everything there is to say after a turn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub version: u32,
    pub cluster: Option<String>,
    pub at: Timestamp,
    /// `rehearse` or `act`.
    pub mode: String,
    pub policy: PolicyShown,
    pub quorate: Option<bool>,
    pub votes: Votes,
    /// How a power-off is judged: `runtime`, or the weaker `configured`.
    pub evidence: Option<String>,
    /// What is weaker about the evidence, where it is; null with `runtime`.
    #[serde(default)]
    pub evidence_weaker: Option<String>,
    /// Where spot itself lives: a host's name, `guest 105`, `outside`, or null while unknown.
    pub here: Option<String>,
    pub hosts: Vec<HostShown>,
    /// Guests that use a host, and those that spot put away; the others are nobody's concern here.
    #[serde(default)]
    pub guests: Vec<GuestShown>,
    pub undertakings: Vec<UndertakingShown>,
    pub holds: Vec<HoldShown>,
    /// Guests that will not move when a window opens or closes, and what will happen to them.
    #[serde(default)]
    pub forecasts: Vec<ForecastShown>,
    /// What could not be seen, one sentence each.
    pub gaps: Vec<String>,
    /// Why the service itself does not act, although it runs (its disk is full, …).
    pub trouble: Option<Trouble>,
}

/// Something wrong with the service's own footing, and how to mend it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    pub sentence: String,
    pub remedy: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyShown {
    pub commit: Option<String>,
    /// Seconds since it came into force in this run.
    pub age: Option<u64>,
    /// Why a newer one was refused.
    pub refused: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Votes {
    pub expected: Option<u32>,
    pub present: Option<u32>,
    pub needed: Option<u32>,
    /// What is left above the majority now; below zero when quorum is lost.
    pub spare: Option<i64>,
    /// `runtime` or `configured`.
    pub source: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostShown {
    pub name: HostName,
    /// PVE's name of it.
    pub node: Option<String>,
    /// `null`: no policy names it.
    pub tier: Option<Tier>,
    /// `awake`, `resting`, `missing`, `waking`, `leaving` or `unknown`.
    pub state: String,
    /// `null`: nothing is wanted of it, it is left alone.
    pub desired: Option<Wants>,
    pub since: Option<Timestamp>,
    pub reasons: Vec<ReasonShown>,
    pub holds: Vec<HoldShown>,
    pub lease: Option<LeaseShown>,
    /// Guests that use it now.
    pub guests: Vec<Vmid>,
    pub frozen: bool,
    pub emptying: bool,
    pub proving: bool,
    /// Seen to wake by packet, or vouched for.
    pub proven: bool,
    /// Its API answered and it saw quorum since it came up.
    pub answering: Option<Timestamp>,
    /// It may take guests since.
    pub ready: Option<Timestamp>,
    /// A wake under way.
    pub wake: Option<WakeShown>,
    /// The wake ahead of its next window.
    pub ahead: Option<AheadShown>,
}

/// How early a host is woken for its next window, and why so early.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AheadShown {
    pub host: HostName,
    pub policy: String,
    pub wakes_at: Timestamp,
    pub serves_at: Timestamp,
    pub boot_seconds: u64,
    /// How many guests come to it.
    pub guests: u32,
    pub move_seconds: u64,
    /// What was added because the last estimates fell short.
    pub late_seconds: u64,
    pub sentence: String,
}

impl AheadShown {
    fn of(host: &HostName, estimate: &crate::plan::ahead::Estimate) -> AheadShown {
        let (wakes_at, serves_at) = (estimate.wakes_at(), estimate.opens);
        let mut takes = takes(estimate.boot_seconds, estimate.guests, estimate.move_seconds);
        if estimate.late_seconds > 0 {
            takes += &format!(", {} s by which it was late before", estimate.late_seconds);
        }
        let wakes = if estimate.begun.is_some() { "is woken since" } else { "wakes at" };
        let sentence = match estimate.quiet_until {
            Some(until) => format!(
                "would wake at {wakes_at} so that {host} serves by {serves_at}, but its quiet hours \
                 last until {until}: {takes}"
            ),
            None => format!("{wakes} {wakes_at} so that {host} serves by {serves_at}: {takes}"),
        };
        AheadShown {
            host: host.clone(),
            policy: estimate.policy.clone(),
            wakes_at,
            serves_at,
            boot_seconds: estimate.boot_seconds,
            guests: estimate.guests,
            move_seconds: estimate.move_seconds,
            late_seconds: estimate.late_seconds,
            sentence,
        }
    }
}

/// How far a wake is: all that can honestly be shown before the host is seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WakeShown {
    pub since: Timestamp,
    pub volleys: u32,
    pub last_volley: Option<Timestamp>,
    /// When it counts as failed.
    pub until: Option<Timestamp>,
    /// The slowest of the learned boots.
    pub usual_seconds: Option<u64>,
}

/// A guest that uses its host, or that spot put away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestShown {
    pub vmid: Vmid,
    pub kind: GuestKind,
    /// As PVE says it, or last said it.
    pub name: Option<String>,
    pub host: HostName,
    /// PVE's word: `running`, `stopped`, `paused`, …
    pub status: String,
    pub put_away: Option<PutAwayShown>,
}

/// What spot did to a guest so that its host could rest; it undoes that when the host is back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutAwayShown {
    pub how: Parked,
    pub since: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReasonShown {
    pub code: String,
    pub sentence: String,
    pub until: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldShown {
    pub code: String,
    pub host: Option<HostName>,
    pub guest: Option<Vmid>,
    pub sentence: String,
    pub remedy: String,
    pub until: Option<Timestamp>,
}

/// A guest that will not move, and what will happen to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForecastShown {
    pub guest: Vmid,
    pub host: HostName,
    /// `has a PCI device (hostpci0)`
    pub why: String,
    /// `it will be shut down, not migrated`
    pub then: String,
    /// Both, in one.
    pub sentence: String,
}

impl From<&Forecast> for ForecastShown {
    fn from(forecast: &Forecast) -> ForecastShown {
        ForecastShown {
            guest: forecast.guest,
            host: forecast.host.clone(),
            why: forecast.why.clone(),
            then: forecast.then(),
            sentence: forecast.sentence(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseShown {
    pub wants: Wants,
    pub until: Option<Timestamp>,
    pub because: Option<String>,
    pub by: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UndertakingShown {
    pub id: UndertakingId,
    /// `wake host3`
    pub purpose: String,
    pub host: HostName,
    /// What is in flight, one sentence each.
    pub requests: Vec<String>,
    pub since: Timestamp,
}

/// What `spot plan` shows: the moves of the last turn and what holds the rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanShown {
    pub version: u32,
    pub cluster: Option<String>,
    pub at: Timestamp,
    pub mode: String,
    pub moves: Vec<MoveShown>,
    /// Wakes ahead of the next windows.
    pub ahead: Vec<AheadShown>,
    pub holds: Vec<HoldShown>,
    #[serde(default)]
    pub forecasts: Vec<ForecastShown>,
    pub revisit_at: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveShown {
    pub purpose: String,
    pub host: HostName,
    pub because: String,
    /// What is asked next, one sentence each; empty while requests are in flight.
    pub requests: Vec<String>,
}

/// What `spot why HOST` shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    pub version: u32,
    pub cluster: Option<String>,
    pub at: Timestamp,
    pub mode: String,
    pub host: HostShown,
    /// What is under way for it.
    pub undertakings: Vec<UndertakingShown>,
    /// Holds of the whole cluster, which concern it too.
    pub holds: Vec<HoldShown>,
    /// One sentence each: what would change its state.
    pub changes: Vec<String>,
}

/// What the service knows beyond observation, ledger and plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Footing {
    pub cluster: String,
    pub mode: Mode,
    pub here: Here,
    pub policy: PolicyShown,
    pub trouble: Option<Trouble>,
}

impl Status {
    /// The picture after a turn. `plan` already carries the gate's refusals among its holds.
    pub fn of(
        policy: Option<&Policy>,
        seen: &Observation,
        ledger: &Ledger,
        plan: &Plan,
        footing: &Footing,
    ) -> Status {
        let names: BTreeSet<&HostName> = seen
            .hosts
            .keys()
            .chain(plan.desire.keys())
            .chain(policy.into_iter().flat_map(|policy| policy.hosts().keys()))
            .collect();
        let view = View { policy, seen, ledger, plan };
        let mut hosts: Vec<HostShown> = names.into_iter().map(|name| view.host(name)).collect();
        hosts.sort_by(|a, b| {
            (a.tier.is_none(), a.tier, &a.name).cmp(&(b.tier.is_none(), b.tier, &b.name))
        });
        Status {
            version: VERSION,
            cluster: seen.cluster.clone().or_else(|| Some(footing.cluster.clone())),
            at: seen.at.civil,
            mode: mode_word(footing.mode).into(),
            policy: footing.policy.clone(),
            quorate: seen.quorate,
            votes: votes(seen, ledger),
            evidence: policy.map(|policy| evidence_word(policy.quorum().evidence).into()),
            evidence_weaker: policy.and_then(|policy| weaker(policy.quorum().evidence)),
            here: here_word(&footing.here),
            hosts,
            guests: guests(seen, ledger),
            undertakings: undertakings(ledger),
            holds: plan.holds.iter().map(HoldShown::from).collect(),
            forecasts: plan.forecasts.iter().map(ForecastShown::from).collect(),
            gaps: seen.gaps.iter().map(ToString::to_string).collect(),
            trouble: footing.trouble.clone(),
        }
    }

    /// Everything about one host; `None` when nobody has heard of it.
    pub fn why(&self, host: &HostName) -> Option<Why> {
        let shown = self.hosts.iter().find(|shown| shown.name == *host)?;
        let about = |undertaking: &&UndertakingShown| undertaking.host == *host;
        let everywhere = |hold: &&HoldShown| hold.host.is_none() && hold.guest.is_none();
        let released = shown.holds.iter().map(|hold| hold.remedy.clone());
        let by_time = shown.reasons.iter().filter_map(|reason| {
            let until = reason.until?;
            Some(format!("at {until} this is over: {}", reason.sentence))
        });
        Some(Why {
            version: VERSION,
            cluster: self.cluster.clone(),
            at: self.at,
            mode: self.mode.clone(),
            host: shown.clone(),
            undertakings: self.undertakings.iter().filter(about).cloned().collect(),
            holds: self.holds.iter().filter(everywhere).cloned().collect(),
            changes: released.chain(by_time).collect(),
        })
    }
}

impl PlanShown {
    pub fn of(plan: &Plan, status: &Status) -> PlanShown {
        let moves = plan.moves.iter().map(|planned| MoveShown {
            purpose: planned.purpose.to_string(),
            host: planned.purpose.host().clone(),
            because: planned.because.clone(),
            requests: planned.requests.iter().map(ToString::to_string).collect(),
        });
        PlanShown {
            version: VERSION,
            cluster: status.cluster.clone(),
            at: status.at,
            mode: status.mode.clone(),
            moves: moves.collect(),
            ahead: status.hosts.iter().filter_map(|host| host.ahead.clone()).collect(),
            holds: status.holds.clone(),
            forecasts: status.forecasts.clone(),
            revisit_at: plan.revisit_at,
        }
    }
}

struct View<'a> {
    policy: Option<&'a Policy>,
    seen: &'a Observation,
    ledger: &'a Ledger,
    plan: &'a Plan,
}

impl View<'_> {
    fn host(&self, name: &HostName) -> HostShown {
        let described = self.policy.and_then(|policy| policy.host(name));
        let look = self.seen.hosts.get(name);
        let record = self.ledger.host(name);
        let desire = self.plan.desire.get(name);
        let node = look.map(|look| look.node.clone());
        let lease = self.ledger.leases.get(name).map(|lease| LeaseShown {
            wants: lease.wants,
            until: lease.until,
            because: lease.because.clone(),
            by: lease.by.clone(),
        });
        let concerns = |hold: &&Hold| hold.host() == Some(name);
        let uses = |guest: &crate::cluster::GuestSeen| !guest.template && guest.status.may_run();
        HostShown {
            name: name.clone(),
            node: node.or_else(|| described.map(|host| host.node.clone())),
            tier: described.map(|host| host.tier),
            state: self.plan.states.get(name).map_or("unknown", |state| state.word()).into(),
            desired: desire.filter(|desire| !desire.untouched).map(|desire| match desire.awake {
                true => Wants::Awake,
                false => Wants::Rest,
            }),
            since: record.since,
            reasons: desire
                .map(|desire| desire.reasons.iter().map(ReasonShown::from).collect())
                .unwrap_or_default(),
            holds: self.plan.holds.iter().filter(concerns).map(HoldShown::from).collect(),
            lease,
            guests: self
                .seen
                .guests_on(name)
                .filter(|(_, guest)| uses(guest))
                .map(|(vmid, _)| *vmid)
                .collect(),
            frozen: self.ledger.frozen.contains_key(name),
            emptying: self.ledger.emptying.contains_key(name),
            proving: self.ledger.proving.contains_key(name),
            proven: described.is_some_and(|host| {
                record.proof.as_deref() == Some(host.wake_print().as_str())
                    || host.wake.proven && record.unproven_because.is_none()
            }),
            answering: record.answering,
            ready: record.ready,
            wake: self.wake(name, described.map(|host| host.boot_within)),
            ahead: self.plan.ahead.get(name).map(|estimate| AheadShown::of(name, estimate)),
        }
    }

    fn wake(&self, name: &HostName, boot_within: Option<Duration>) -> Option<WakeShown> {
        let purpose = crate::request::Move::Wake(name.clone());
        let undertaking = self.ledger.undertaking(&purpose)?;
        Some(WakeShown {
            since: undertaking.since,
            volleys: undertaking.volleys,
            last_volley: undertaking.last_volley,
            until: boot_within.map(|limit| undertaking.since + limit),
            usual_seconds: self.ledger.host(name).boot_seconds(),
        })
    }
}

impl From<&ParkedGuest> for PutAwayShown {
    fn from(parked: &ParkedGuest) -> PutAwayShown {
        PutAwayShown { how: parked.how, since: parked.at }
    }
}

impl From<&Reason> for ReasonShown {
    fn from(reason: &Reason) -> ReasonShown {
        ReasonShown {
            code: reason.code().into(),
            sentence: reason.to_string(),
            until: reason.until(),
        }
    }
}

impl From<&Hold> for HoldShown {
    fn from(hold: &Hold) -> HoldShown {
        HoldShown {
            code: hold.code().into(),
            host: hold.host().cloned(),
            guest: hold.guest(),
            sentence: hold.to_string(),
            remedy: hold.remedy(),
            until: hold.until(),
        }
    }
}

fn guests(seen: &Observation, ledger: &Ledger) -> Vec<GuestShown> {
    let shown = |(vmid, guest): (&Vmid, &GuestSeen)| {
        let record = ledger.guests.get(vmid);
        let parked = record.and_then(|record| record.parked.as_ref());
        let uses = !guest.template && guest.status.may_run();
        (uses || parked.is_some()).then(|| GuestShown {
            vmid: *vmid,
            kind: guest.kind,
            name: guest.name.clone().or_else(|| record.and_then(|record| record.name.clone())),
            host: guest.host.clone(),
            status: guest.status.word().to_owned(),
            put_away: parked.map(PutAwayShown::from),
        })
    };
    seen.guests.iter().filter_map(shown).collect()
}

fn undertakings(ledger: &Ledger) -> Vec<UndertakingShown> {
    let show = |one: &crate::undertaking::Undertaking| UndertakingShown {
        id: one.id,
        purpose: one.purpose.to_string(),
        host: one.purpose.host().clone(),
        requests: one.in_flight.values().map(|asked| asked.request.to_string()).collect(),
        since: one.since,
    };
    ledger.undertakings.values().map(show).collect()
}

/// The votes as the members count them now; else as configured; else unknown.
fn votes(seen: &Observation, ledger: &Ledger) -> Votes {
    runtime_votes(seen).or_else(|| configured_votes(seen, ledger)).unwrap_or_default()
}

/// From the newest view of any member, for views of one ring agree.
fn runtime_votes(seen: &Observation) -> Option<Votes> {
    let newest = seen
        .answers
        .iter()
        .filter(|(_, stamped)| seen.at.since(stamped.asked) <= RUNTIME_VOTES_WITHIN)
        .filter_map(|(question, stamped)| match (question, &stamped.answer) {
            (Question::Evidence(host), Ok(Answer::Evidence(evidence))) => {
                let member = seen.hosts.get(host).is_some_and(|look| look.member == Some(true));
                member.then_some((stamped.asked.monotonic, evidence))
            }
            _ => None,
        })
        .max_by_key(|(asked, _)| *asked)?
        .1;
    // Who joined or left since is not in it: then it is not what the members count now.
    if newest.members.keys().cloned().collect::<BTreeSet<_>>() != seen.members() {
        return None;
    }
    Some(Votes {
        expected: Some(newest.expected),
        present: Some(newest.total),
        needed: Some(newest.quorum),
        spare: Some(i64::from(newest.total) - i64::from(newest.quorum)),
        source: Some("runtime".into()),
    })
}

/// From corosync.conf and the members, as the ledger keeps them.
fn configured_votes(seen: &Observation, ledger: &Ledger) -> Option<Votes> {
    seen.quorate?;
    let VoteCount { expected, present, needed } = ledger.vote_count(&seen.members(), false)?;
    Some(Votes {
        expected: Some(expected),
        present: Some(present),
        needed: Some(needed),
        spare: Some(i64::from(present) - i64::from(needed)),
        source: Some("configured".into()),
    })
}

pub fn mode_word(mode: Mode) -> &'static str {
    match mode {
        Mode::Rehearse => "rehearse",
        Mode::Act => "act",
    }
}

fn evidence_word(evidence: EvidencePolicy) -> &'static str {
    match EvidenceKind::from(evidence) {
        EvidenceKind::Runtime => "runtime",
        EvidenceKind::Configured => "configured",
    }
}

/// Said wherever the owner's choice makes a power-off less safe.
fn weaker(evidence: EvidencePolicy) -> Option<String> {
    match EvidenceKind::from(evidence) {
        EvidenceKind::Runtime => None,
        EvidenceKind::Configured => Some(
            "power-offs are judged by configured votes only, the weaker evidence: votes lowered or \
             edited at run time and a silent QDevice go unseen (`quorum: {evidence: configured}`)"
                .into(),
        ),
    }
}

impl From<EvidencePolicy> for EvidenceKind {
    fn from(policy: EvidencePolicy) -> EvidenceKind {
        match policy {
            EvidencePolicy::Runtime => EvidenceKind::Runtime,
            EvidencePolicy::Configured => EvidenceKind::Configured,
        }
    }
}

pub fn here_word(here: &Here) -> Option<String> {
    match here {
        Here::Host(host) => Some(host.to_string()),
        Here::Guest(guest) => Some(format!("guest {guest}")),
        Here::Outside => Some("outside".into()),
        Here::Unknown => None,
    }
}

/// The picture when nothing was seen yet.
impl Footing {
    pub fn blank_status(&self, at: Moment) -> Status {
        let plan = Plan::default();
        Status::of(None, &Observation::blank(at), &Ledger::default(), &plan, self)
    }
}

/// All that is shown after a turn, in one piece.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    pub status: Status,
    pub plan: PlanShown,
    /// The policy in force and PVE's backups, for the agenda.
    pub policy: Option<std::sync::Arc<Policy>>,
    pub backups: Vec<BackupRun>,
}

/// One journal entry as it is shown and sent to followers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryShown {
    pub seq: u64,
    pub at: Timestamp,
    /// A host, `guest 201`, or `spot`.
    pub who: String,
    /// The entry's name: `lease_granted`, `progress`, …
    pub kind: String,
    pub sentence: String,
    pub host: Option<HostName>,
    pub guest: Option<Vmid>,
}

/// What `spot history` shows, the oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    pub version: u32,
    pub cluster: Option<String>,
    pub entries: Vec<EntryShown>,
}
/// The text with every control character and direction mark spelled out.
pub fn plain(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if unruly(c) => safe.extend(c.escape_unicode()),
            c => safe.push(c),
        }
    }
    safe
}

/// Moves the cursor, rings, colours, or turns the line around.
pub fn unruly(c: char) -> bool {
    let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}');
    let parts = matches!(c, '\u{2028}' | '\u{2029}' | '\u{2066}'..='\u{2069}');
    c.is_control() || turns || parts
}
