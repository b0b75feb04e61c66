//! Resting: which host may go to sleep, in what order, and what holds the others.
//!
//! Each candidate is asked the same questions in the same order; the first that stands against it
//! is told, and nothing is moved off a host that could not rest anyway. One host at a time goes the
//! last step. The gate asks its own questions after all of these.
//!
//! **Does not know:** runtime evidence; the votes it plans by are those of corosync.conf.

use std::collections::BTreeSet;
use std::time::Duration;

use super::desire::HostState;
use super::emptying::{Emptying, empty};
use super::hold::Hold;
use super::housing::Promised;
use super::inhibit::{Verdict, verdict};
use super::{Plan, PlannedMove, Scene};
use crate::cluster::{HostName, Question, Tier};
use crate::policy::Host;
use crate::request::{Move, Request};

/// How long a stop takes before it was ever measured.
const SHUTDOWN_TAKES: Duration = Duration::from_secs(120);
/// How long a boot takes before it was ever measured.
const BOOT_TAKES: Duration = Duration::from_secs(180);
/// After a power-off that did nothing, the next one waits.
const STOP_PAUSE: Duration = Duration::from_secs(600);
/// A stop that takes longer than this is told.
const SLOW_STOP: Duration = Duration::from_secs(900);

/// Plans the emptying and resting of every host that ought to sleep, and the emptying of those
/// whose owner wants them empty.
pub fn rest(scene: &Scene<'_>, plan: &mut Plan, promised: &mut Promised) {
    for host in scene.ledger.emptying.keys() {
        if scene.ledger.frozen.contains_key(host) {
            plan.hold(Hold::HostFrozen { host: host.clone() });
        } else if is_up(scene, host) {
            drain(scene, plan, promised, host, "its owner wants it empty".into());
        }
    }
    let mut going: BTreeSet<HostName> = BTreeSet::new();
    for host in candidates(scene, plan) {
        let Some(settings) = scene.policy.host(&host) else { continue };
        if stopping(scene, plan, &host) {
            going.insert(host);
            continue;
        }
        if let Some(hold) = against(scene, plan, &host, settings) {
            plan.hold(hold);
            continue;
        }
        if let Some(hold) = votes_short(scene, &host, &going) {
            plan.hold(hold);
            continue;
        }
        let empty = !scene
            .seen
            .guests_on(&host)
            .any(|(_, guest)| !guest.template && guest.status.may_run());
        match verdict(scene, plan, &host, settings, empty) {
            Verdict::Clear => {}
            // What is under way for it stays so while the answers come.
            Verdict::Asking => {
                waiting(scene, plan, &host, &mut going);
                continue;
            }
            Verdict::Held(holds) => {
                for hold in holds {
                    plan.hold(hold);
                }
                continue;
            }
        }
        let because = plan.desire.get(&host).and_then(|desire| desire.reasons.first());
        let because = because.map(ToString::to_string).unwrap_or_default();
        match drain(scene, plan, promised, &host, because.clone()) {
            Emptying::Empty => {
                going.insert(host.clone());
                let (purpose, requests) =
                    (Move::Rest(host.clone()), vec![Request::PowerOff { host: host.clone() }]);
                plan.moves.push(PlannedMove { purpose, because, requests });
            }
            Emptying::Going(_) => {
                going.insert(host.clone());
            }
            // It stays for now, and counts for the others.
            Emptying::Held => {}
        }
    }
}

/// Keeps the undertakings of a host open while nothing is decided about it.
fn waiting(scene: &Scene<'_>, plan: &mut Plan, host: &HostName, going: &mut BTreeSet<HostName>) {
    let rest = Move::Rest(host.clone());
    for purpose in [Move::Empty(host.clone()), rest.clone()] {
        let begun = scene.ledger.undertaking(&purpose).is_some();
        if begun {
            going.insert(host.clone());
        }
        if begun || purpose == rest {
            let because = "it is asked what else needs it".to_owned();
            plan.moves.push(PlannedMove { purpose, because, requests: vec![] });
        }
    }
}

fn is_up(scene: &Scene<'_>, host: &HostName) -> bool {
    scene.seen.hosts.get(host).is_some_and(|look| look.member == Some(true))
}

/// Hosts that are up and ought to sleep: those already on their way first, then the dearest tier.
fn candidates(scene: &Scene<'_>, plan: &Plan) -> Vec<HostName> {
    let mut hosts: Vec<HostName> = scene
        .by_tier()
        .into_iter()
        .rev()
        .filter(|host| {
            let unwanted = plan.desire.get(host).is_some_and(|d| !d.awake && !d.untouched);
            let low = scene.policy.host(host).is_none_or(|host| host.tier == Tier::Low);
            unwanted && !low && is_up(scene, host)
        })
        .collect();
    let on_its_way = |host: &HostName| {
        scene.ledger.undertaking(&Move::Rest(host.clone())).is_some()
            || scene.ledger.undertaking(&Move::Empty(host.clone())).is_some()
    };
    hosts.sort_by_key(|host| !on_its_way(host));
    hosts
}

/// Whether its power-off is in flight; told when it takes long.
fn stopping(scene: &Scene<'_>, plan: &mut Plan, host: &HostName) -> bool {
    let asked = scene.ledger.in_flight().find_map(|(_, _, asked)| match &asked.request {
        Request::PowerOff { host: stopping } if stopping == host => Some(asked.asked),
        Request::PowerOff { .. }
        | Request::Wake { .. }
        | Request::Migrate { .. }
        | Request::Hibernate { .. }
        | Request::ShutDownGuest { .. }
        | Request::StartGuest { .. } => None,
    });
    let Some(asked) = asked else { return false };
    if scene.now.civil >= asked + SLOW_STOP {
        plan.hold(Hold::SlowStop { host: host.clone(), since: asked });
    }
    let (purpose, because) = (Move::Rest(host.clone()), "it was asked to power off".to_owned());
    plan.moves.push(PlannedMove { purpose, because, requests: vec![] });
    true
}

/// What stands against its sleep, the first reason only.
fn against(scene: &Scene<'_>, plan: &Plan, host: &HostName, settings: &Host) -> Option<Hold> {
    let (record, now) = (scene.ledger.host(host), scene.now.civil);
    let desire = plan.desire.get(host)?;
    let (state, commanded) = (plan.states.get(host).copied(), desire.commanded);
    let host = host.clone();
    match state {
        Some(HostState::Leaving) => {
            let with = "somebody is shutting it down".into();
            return Some(Hold::Busy { host, with });
        }
        Some(HostState::Waking) => {
            let with = "it is still coming up".into();
            return Some(Hold::Busy { host, with });
        }
        Some(HostState::Awake | HostState::Resting | HostState::Missing | HostState::Unknown)
        | None => {}
    }
    if !commanded && !record.ours() && !settings.enforce {
        return Some(Hold::NotOurs { host });
    }
    let up_since = match (record.booted, record.since) {
        (Some(booted), Some(since)) => Some(booted.min(since)),
        (booted, since) => booted.or(since),
    };
    if !commanded
        && let Some(until) = up_since.map(|since| since + settings.min_on)
        && now < until
    {
        return Some(Hold::JustCame { host, until });
    }
    if !commanded && let Some(opens) = wanted_soon(scene, &host, settings) {
        return Some(Hold::WantedSoon { host, opens });
    }
    if !commanded && let Some(hold) = backups_unread(scene, &host) {
        return Some(hold);
    }
    // A proof counts for the ways it was seen with; an owner's word only until a wake was tried.
    let vouched =
        settings.wake.proven && record.proof.is_none() && record.unproven_because.is_none();
    let proven = record.proof.as_deref() == Some(settings.wake_print().as_str());
    if !commanded && !vouched && !proven {
        let changed = record.proof.is_some().then(|| "its wake settings changed".to_owned());
        return Some(Hold::Unproven { host, why: record.unproven_because.or(changed) });
    }
    let until = record.last_failed_stop? + STOP_PAUSE;
    (now < until).then_some(Hold::StopFailing { host, until })
}

/// A host wanted for PVE's backups is not put to sleep while nobody knows when they run.
fn backups_unread(scene: &Scene<'_>, host: &HostName) -> Option<Hold> {
    let (policy, _) = scene.policy.backups(host).next()?;
    let read = scene.seen.answers.get(&Question::BackupJobs).map(|read| &read.answer);
    let why = match read {
        Some(Ok(_)) => return None,
        Some(Err(gap)) => gap.why.clone(),
        None => "they are being asked about".into(),
    };
    Some(Hold::BackupsUnseen { host: host.clone(), policy: policy.to_owned(), why })
}

/// The next window, if a sleep before it would be too short.
fn wanted_soon(scene: &Scene<'_>, host: &HostName, settings: &Host) -> Option<jiff::Timestamp> {
    let record = scene.ledger.host(host);
    let (_, opening) = scene.policy.next_opening(host, scene.now.civil, &scene.backups)?;
    let boot = record.boot_seconds().map_or(BOOT_TAKES, Duration::from_secs);
    let stop = record.shutdowns.iter().max().map_or(SHUTDOWN_TAKES, |s| Duration::from_secs(*s));
    let too_soon = scene.now.civil + stop + settings.min_off + boot;
    (opening.opens < too_soon).then_some(opening.opens)
}

/// A drain that the votes forbid is not begun. These are configured votes; the gate decides by
/// those that count.
fn votes_short(scene: &Scene<'_>, host: &HostName, going: &BTreeSet<HostName>) -> Option<Hold> {
    let mut stay = scene.seen.members();
    stay.remove(host);
    for other in going {
        stay.remove(other);
    }
    // Whether a QDevice votes is seen when it counts: by the gate.
    let count = scene.ledger.vote_count(&stay, true)?;
    let needed = count.needed.saturating_add(scene.policy.quorum().spare);
    (count.present < needed).then(|| Hold::VotesShort {
        host: host.clone(),
        remaining: count.present,
        needed,
    })
}

/// Empties a host under one undertaking.
fn drain(
    scene: &Scene<'_>,
    plan: &mut Plan,
    promised: &mut Promised,
    host: &HostName,
    because: String,
) -> Emptying {
    let emptying = empty(scene, plan, promised, host);
    if let Emptying::Going(requests) = &emptying {
        let (purpose, requests) = (Move::Empty(host.clone()), requests.clone());
        plan.moves.push(PlannedMove { purpose, because, requests });
    }
    emptying
}
