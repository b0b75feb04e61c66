//! Walks drawn clusters and compares, at every settled point, what corosync shows with what the
//! model says, and what became of each stop with what the gate said of it before.
//!
//! The gate is the real one, in front of an observation made from the members' own evidence: the
//! stop of a host that is empty, known and may rest, so that votes alone decide.
//!
//! **Does not know:** how either side counts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use spot::cluster::quorum::whatif::{self, WhatIf};
use spot::cluster::{
    Answer, HostName, HostSeen, Membership, Moment, Observation, Permissions, Question, Reported,
    Stamped, TaskSeen,
};
use spot::gate::{self, Bounds, EvidenceKind, Here, Mode};
use spot::request::{Move, Request};

use crate::cluster::{Cluster, Step};
use crate::walk::{Cut, Views, Walk};

/// What all clusters of a run added up to.
#[derive(Default)]
pub struct Figures {
    pub clusters: usize,
    pub points: usize,
    pub views: usize,
    pub agree: usize,
    pub stops_cleared: usize,
    pub quorum_lost: usize,
    pub refused_needlessly: BTreeMap<String, usize>,
}

impl Figures {
    pub fn add(&mut self, other: Figures) {
        self.clusters += other.clusters;
        self.points += other.points;
        self.views += other.views;
        self.agree += other.agree;
        self.stops_cleared += other.stops_cleared;
        self.quorum_lost += other.quorum_lost;
        for (reason, count) in other.refused_needlessly {
            *self.refused_needlessly.entry(reason).or_default() += count;
        }
    }

    pub fn json(&self) -> Value {
        json!({
            "clusters": self.clusters,
            "points": self.points,
            "views": self.views,
            "agree": self.agree,
            "stops_cleared": self.stops_cleared,
            "quorum_lost": self.quorum_lost,
            "refused_needlessly": self.refused_needlessly,
        })
    }
}

/// Walks one cluster. Faults are told one by one; a walk that corosync itself ended early is not a
/// fault, and is said on standard error.
pub fn walk(cluster: &Cluster, history: &[Step]) -> (Figures, Vec<String>) {
    let mut figures = Figures { clusters: 1, ..Figures::default() };
    let mut faults = Vec::new();
    let mut walk = match Walk::begin(cluster) {
        Ok(walk) => walk,
        Err(cut) => return (figures, vec![cut.to_string()]),
    };
    let mut rulings = Rulings::begin(cluster);
    let mut before = Views::new();
    for (index, step) in history.iter().enumerate() {
        let so_far = &history[..=index];
        let stops = stops(&walk, step);
        let ruling = (!stops.is_empty()).then(|| rulings.judge(&walk, &before, &stops));
        let views = match walk.take(step) {
            Ok(views) => views,
            Err(aborted @ Cut::Aborted(_)) => {
                // Known upstream as issue 63: nothing that a model could foresee.
                eprintln!("left out after {index} steps: {aborted}");
                break;
            }
            Err(cut) => {
                faults.push(format!("{cut}\n{}", cluster.what_if(so_far)));
                break;
            }
        };
        rulings.remember(&walk.up, &stops);
        figures.points += 1;
        figures.views += views.len();
        let (agree, different) = compare(cluster, so_far, &views, &walk.refused);
        figures.agree += agree;
        if !different.is_empty() {
            faults.push(format!("{}\n{}", different.join("\n"), cluster.what_if(so_far)));
        }
        if let Some(ruling) = ruling {
            let lost: Vec<&String> =
                views.iter().filter(|(_, view)| !view.quorate).map(|(name, _)| name).collect();
            match ruling {
                Ok(()) => {
                    figures.stops_cleared += 1;
                    if !lost.is_empty() {
                        figures.quorum_lost += 1;
                        let what_if = cluster.what_if(so_far);
                        faults.push(format!("cleared, and {lost:?} lost quorum\n{what_if}"));
                    }
                }
                Err(reason) if lost.is_empty() && !views.is_empty() => {
                    *figures.refused_needlessly.entry(reason).or_default() += 1;
                }
                Err(_) => {}
            }
        }
        before = views;
    }
    (figures, faults)
}

/// Who stops in order with this step, when nothing else happens in it.
fn stops(walk: &Walk<'_>, step: &Step) -> BTreeSet<String> {
    match step {
        Step::Up(names) if names.iter().all(|name| walk.up.contains(name)) => {
            walk.up.iter().filter(|name| !names.contains(name)).cloned().collect()
        }
        Step::Up(_)
        | Step::Crash(_)
        | Step::Partition(_)
        | Step::Heal
        | Step::Server(_)
        | Step::Daemon(..)
        | Step::Expected(..) => BTreeSet::new(),
    }
}

/// How many views of the last step are as the model says, and what is different.
fn compare(
    cluster: &Cluster,
    history: &[Step],
    views: &Views,
    refused: &BTreeMap<String, String>,
) -> (usize, Vec<String>) {
    let file = cluster.what_if(history).to_string();
    let what_if = match WhatIf::read(&file) {
        Ok(what_if) => what_if,
        Err(why) => return (0, vec![format!("the model cannot read it: {why}")]),
    };
    let answers = whatif::answer(&what_if);
    let said = answers.last().expect("a history has a step");
    let mut agree = 0;
    let mut different = Vec::new();
    for (name, real) in views {
        let real = (real.expected, real.total, real.quorum, real.quorate);
        let said = said.views.get(&HostName::from(name.as_str()));
        let said = said.map(|said| (said.expected, said.total, said.quorum, said.quorate));
        if said == Some(real) {
            agree += 1;
        } else {
            different.push(format!("{name}: the model says {said:?}, corosync {real:?}"));
        }
    }
    let modelled: BTreeSet<&str> = said.views.keys().map(|name| name.as_str()).collect();
    let running: BTreeSet<&str> = views.keys().map(String::as_str).collect();
    if modelled != running {
        different.push(format!("the model has {modelled:?} running, corosync {running:?}"));
    }
    let modelled: BTreeSet<&str> = said.refused.keys().map(|name| name.as_str()).collect();
    let real: BTreeSet<&str> = refused.keys().map(String::as_str).collect();
    if modelled != real {
        different.push(format!("the model refuses {modelled:?}, corosync {real:?}"));
    }
    (agree, different)
}

/// What the gate knows beyond what is seen: who left in order and is off since.
struct Rulings {
    known_off: BTreeSet<HostName>,
}

impl Rulings {
    /// Everybody is off since before the first look.
    fn begin(cluster: &Cluster) -> Rulings {
        Rulings { known_off: cluster.names().iter().map(|name| name.as_str().into()).collect() }
    }

    fn remember(&mut self, up: &BTreeSet<String>, stopped: &BTreeSet<String>) {
        self.known_off.extend(stopped.iter().map(|name| HostName::from(name.as_str())));
        self.known_off.retain(|name| !up.contains(name.as_str()));
    }

    /// What the gate says of these stops: nothing, or by which reason it refuses.
    fn judge(
        &self,
        walk: &Walk<'_>,
        views: &Views,
        stops: &BTreeSet<String>,
    ) -> Result<(), String> {
        let names: Vec<HostName> = stops.iter().map(|name| name.as_str().into()).collect();
        let (first, others) = names.split_first().expect("somebody stops");
        let seen = observation(walk, views, others);
        let bounds = bounds(&seen, self.known_off.clone());
        let request = (Move::Rest(first.clone()), Request::PowerOff { host: first.clone() });
        let ruling = gate::check(&[request], &[], &seen, &bounds);
        match ruling.refusals.first() {
            None => Ok(()),
            Some(refusal) => Err(reason(refusal, views)),
        }
    }
}

/// The clause, and which of corosync's extras it gave no credit for.
fn reason(refusal: &gate::Refusal, views: &Views) -> String {
    let mut reason = refusal.clause.to_owned();
    let extras = ["2Node", "LastManStanding", "AutoTieBreaker", "AllowDownscale", "Qdevice"];
    let shown = |flag: &&&str| views.values().any(|view| view.flags.contains(**flag));
    let extras: Vec<&str> = extras.iter().filter(shown).copied().collect();
    if !extras.is_empty() {
        reason += &format!(" ({})", extras.join(", "));
    }
    reason
}

fn moment() -> Moment {
    Moment {
        civil: Timestamp::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
        monotonic: Duration::from_secs(100_000),
    }
}

/// The cluster as `spot` would see it, with everybody's evidence at hand. `others` are being shut
/// down by somebody else.
fn observation(walk: &Walk<'_>, views: &Views, others: &[HostName]) -> Observation {
    let mut seen = Observation::blank(moment());
    let stamp = |answer| Stamped { asked: moment(), answer: Ok(answer) };
    let everybody = walk.cluster.names();
    let from = views.keys().next();
    seen.quorate = from.map(|name| views[name].quorate);
    seen.config_version = Some(walk.cluster.config_version);
    seen.seen_from = from.map(|name| HostName::from(name.as_str()));
    // Whose view it is, is a matter of chance; members are whom the first one sees.
    let members: BTreeSet<HostName> =
        from.map(|name| views[name].members.keys().cloned().collect()).unwrap_or_default();
    for name in &everybody {
        let host = HostName::from(name.as_str());
        let look = HostSeen {
            node: name.clone(),
            member: Some(members.contains(&host)),
            listed: true,
            addressed: true,
            reported: Reported::Online,
            uptime_seconds: Some(90_000),
            memory: None,
            cpu: None,
            power: None,
        };
        seen.hosts.insert(host, look);
    }
    for (name, view) in views {
        let host = HostName::from(name.as_str());
        let question = Question::Evidence(host.clone());
        seen.answers.insert(question, stamp(Answer::Evidence(Box::new(view.clone()))));
        let online = |other: &String| {
            let other = HostName::from(other.as_str());
            let online = view.members.contains_key(&other);
            (other, online)
        };
        let membership = Membership {
            quorate: view.quorate,
            config_version: Some(walk.cluster.config_version),
            members: everybody.iter().map(online).collect(),
        };
        seen.answers
            .insert(Question::Membership(host.clone()), stamp(Answer::Membership(membership)));
        let link = stamp(Answer::Device(walk.device_link(name)));
        seen.answers.insert(Question::Device(host.clone()), link);
        seen.answers.insert(Question::LiveGuests(host), stamp(Answer::LiveGuests(BTreeMap::new())));
    }
    let audit = BTreeMap::from([("VM.Audit".to_owned(), true)]);
    let by_path = BTreeMap::from([("/vms".to_owned(), audit)]);
    let permissions = Permissions { by_path, ..Permissions::default() };
    seen.answers.insert(Question::Permissions, stamp(Answer::Permissions(permissions)));
    let stopping = |host: &HostName| TaskSeen {
        upid: format!("UPID:{host}:00000001:00000001:00000001:stopall::root@pam:"),
        host: host.clone(),
        kind: "stopall".into(),
        id: String::new(),
        user: "root@pam".into(),
        started: moment().civil,
        ended: None,
        ended_at: None,
    };
    seen.tasks = others.iter().map(stopping).collect();
    seen
}

/// Nothing stands against a power-off but the votes.
fn bounds(seen: &Observation, known_off: BTreeSet<HostName>) -> Bounds {
    Bounds {
        mode: Mode::Act,
        spare: 0,
        evidence: EvidenceKind::Runtime,
        may_rest: seen.hosts.keys().cloned().collect(),
        may_stop_guests: BTreeSet::new(),
        may_hibernate_guests: BTreeSet::new(),
        may_restart_guests: BTreeSet::new(),
        may_start_guests: BTreeSet::new(),
        never: BTreeSet::new(),
        frozen: BTreeSet::new(),
        commanded: BTreeSet::new(),
        here: Here::Outside,
        qnetd_on: BTreeSet::new(),
        known_off,
        tasks_ignored: BTreeSet::new(),
        locks_ignored: BTreeSet::new(),
        backups_ignored: BTreeSet::new(),
        device_votes: None,
        config_changed_at: None,
        clock_sound: true,
    }
}
