//! What happens to each guest of a host that ought to be empty, before it may rest.
//!
//! The fate of *every* guest is decided before the first one moves: a drain that cannot finish is
//! not begun, and whoever cannot leave is named. Nothing is forced: a guest that does not stop
//! keeps its host awake.
//!
//! **Does not know:** why the host ought to be empty.

use super::desire::HostState;
use super::hold::{Hold, Stays};
use super::placement::{
    Misfit, Passage, Promised, allowed, eligible, facts, fits, passage, paused, rule,
};
use super::{Plan, Scene};
use crate::cluster::{GuestFacts, GuestKind, GuestSeen, HostName, Question, RunState, Vmid};
use crate::policy::{GuestRule, OrElse, Otherwise};
use crate::request::{Migration, Move, Request};

/// PVE's own default for a guest without `startup: down=` (`pve-api.md` section 14).
const SHUTDOWN_SECONDS: u32 = 180;
/// Guests shut down or hibernated at once on one host.
const STOPS_AT_ONCE: usize = 2;

/// What becomes of one guest.
enum Fate {
    Go {
        to: HostName,
        how: Migration,
        local_disks: bool,
    },
    Hibernate,
    ShutDown,
    Stay(Stays),
    /// Not decided yet: an answer is on its way, or something else is under way for it.
    Wait,
    Held(Hold),
}

/// What emptying a host comes to in this turn.
pub enum Emptying {
    /// Nobody runs there.
    Empty,
    /// These requests are next (none while others are in flight).
    Going(Vec<Request>),
    /// It cannot be emptied now; the holds are in the plan.
    Held,
}

/// The next requests that empty `host`.
pub fn empty(
    scene: &Scene<'_>,
    plan: &mut Plan,
    promised: &mut Promised,
    host: &HostName,
) -> Emptying {
    let guests: Vec<(Vmid, &GuestSeen)> = scene
        .seen
        .guests_on(host)
        .filter(|(_, guest)| !guest.template && guest.status.may_run())
        .map(|(vmid, guest)| (*vmid, guest))
        .collect();
    let moving = scene.ledger.in_flight().any(|(_, _, asked)| {
        asked.request.guest().is_some() && asked.request.hosts().contains(&host)
    });
    if guests.is_empty() {
        return if moving { Emptying::Going(vec![]) } else { Emptying::Empty };
    }
    // Promised only if it comes to that: a drain that is held must not crowd others out.
    let mut booked = promised.clone();
    let fates: Vec<(Vmid, &GuestSeen, Fate)> = guests
        .into_iter()
        .map(|(vmid, guest)| (vmid, guest, fate(scene, plan, &mut booked, vmid, guest)))
        .collect();
    let mut held = false;
    for (guest, _, fate) in &fates {
        match fate {
            Fate::Stay(why) => {
                held = true;
                let (host, why) = (host.clone(), why.clone());
                plan.hold(Hold::GuestStays { host, guest: *guest, why });
            }
            Fate::Held(hold) => {
                held = true;
                plan.hold(hold.clone());
            }
            Fate::Go { .. } | Fate::Hibernate | Fate::ShutDown | Fate::Wait => {}
        }
    }
    if held {
        return Emptying::Held;
    }
    *promised = booked;
    // An answer still to come might be that one of them stays.
    let undecided =
        fates.iter().any(|(vmid, _, fate)| matches!(fate, Fate::Wait) && !scene.in_flight(*vmid));
    if undecided {
        return Emptying::Going(vec![]);
    }
    Emptying::Going(next(scene, plan, host, &fates))
}

/// As many of the decided requests as the limits allow now.
fn next(
    scene: &Scene<'_>,
    plan: &Plan,
    host: &HostName,
    fates: &[(Vmid, &GuestSeen, Fate)],
) -> Vec<Request> {
    let mut requests: Vec<Request> = Vec::new();
    let stopping = scene.ledger.in_flight().filter(|(_, _, asked)| match &asked.request {
        Request::Hibernate { host: on, .. } | Request::ShutDownGuest { host: on, .. } => on == host,
        Request::Wake { .. }
        | Request::Migrate { .. }
        | Request::StartGuest { .. }
        | Request::PowerOff { .. } => false,
    });
    // Who can only be interrupted is, once those who can move have moved: a migration that fails
    // keeps the host on, and then nobody was interrupted for nothing.
    let leaving = fates.iter().any(|(vmid, _, fate)| match fate {
        Fate::Go { .. } => true,
        Fate::Wait => scene.in_flight(*vmid) && moves_away(scene, *vmid),
        Fate::Hibernate | Fate::ShutDown | Fate::Stay(_) | Fate::Held(_) => false,
    });
    let mut stops = if leaving { STOPS_AT_ONCE } else { stopping.count() };
    for (vmid, guest, fate) in fates {
        match fate {
            Fate::Go { to, how, local_disks } => {
                let taken = requests
                    .iter()
                    .filter(|request| matches!(request, Request::Migrate { .. }))
                    .count();
                let room = scene.policy.migrations().per_host as usize > taken;
                if room && !plan.links_busy(scene, host, to) {
                    requests.push(Request::Migrate {
                        guest: *vmid,
                        kind: guest.kind,
                        from: host.clone(),
                        to: to.clone(),
                        how: *how,
                        local_disks: *local_disks,
                        bandwidth: scene.bandwidth(),
                    });
                }
            }
            Fate::Hibernate if stops < STOPS_AT_ONCE => {
                stops += 1;
                requests.push(Request::Hibernate { guest: *vmid, host: host.clone() });
            }
            Fate::ShutDown if stops < STOPS_AT_ONCE => {
                stops += 1;
                requests.push(Request::ShutDownGuest {
                    guest: *vmid,
                    kind: guest.kind,
                    host: host.clone(),
                    timeout_seconds: shutdown_seconds(scene, *vmid),
                });
            }
            Fate::Hibernate | Fate::ShutDown | Fate::Stay(_) | Fate::Wait | Fate::Held(_) => {}
        }
    }
    requests
}

fn moves_away(scene: &Scene<'_>, vmid: Vmid) -> bool {
    let migrates = |request: &Request| matches!(request, Request::Migrate { .. });
    scene
        .ledger
        .in_flight()
        .any(|(_, _, asked)| asked.request.guest() == Some(vmid) && migrates(&asked.request))
}

fn shutdown_seconds(scene: &Scene<'_>, vmid: Vmid) -> u32 {
    use crate::cluster::{Answer, Question};
    let stamped = scene.seen.answers.get(&Question::Guest(vmid));
    match stamped.map(|stamped| &stamped.answer) {
        Some(Ok(Answer::Guest(facts))) => facts.shutdown_seconds.unwrap_or(SHUTDOWN_SECONDS),
        Some(Ok(_) | Err(_)) | None => SHUTDOWN_SECONDS,
    }
}

fn fate(
    scene: &Scene<'_>,
    plan: &mut Plan,
    promised: &mut Promised,
    vmid: Vmid,
    guest: &GuestSeen,
) -> Fate {
    if scene.in_flight(vmid) {
        return Fate::Wait;
    }
    if let Some(hold) = paused(scene, vmid, &guest.host) {
        return Fate::Held(hold);
    }
    if let Some(lock) = &guest.lock {
        let (host, lock) = (guest.host.clone(), lock.clone());
        return Fate::Held(Hold::GuestLocked { host, guest: vmid, lock });
    }
    match &guest.status {
        RunState::Running => {}
        RunState::Unknown => return unreported(plan, vmid, guest),
        state @ (RunState::Other(_) | RunState::Stopped) => {
            return Fate::Stay(Stays::State { state: state.clone() });
        }
    }
    let rule = rule(scene, vmid, guest);
    if rule.is_some_and(|rule| rule.pinned) {
        return put_away(scene, plan, vmid, guest, rule, Stays::Pinned);
    }
    let closed = match passage(scene, plan, vmid, guest, rule) {
        Passage::Unknown => return Fate::Wait,
        Passage::Open { how, local_disks } => {
            match destination(scene, plan, promised, vmid, guest, rule) {
                Ok(to) => return Fate::Go { to, how, local_disks },
                Err(Nowhere::Yet(why)) => {
                    let host = Some(guest.host.clone());
                    return Fate::Held(Hold::GuestWaits { guest: vmid, host, why, until: None });
                }
                Err(Nowhere::AtAll(why)) => Stays::NowhereToGo { why },
            }
        }
        Passage::Closed(_) if guest.kind == GuestKind::Ct && !rule.is_some_and(|r| r.restart) => {
            Stays::NoRestart
        }
        Passage::Closed(what) => Stays::Local { what },
    };
    put_away(scene, plan, vmid, guest, rule, closed)
}

/// PVE has had no report of it for 5 minutes; its host is asked itself, and tells the gate the
/// same.
fn unreported(plan: &mut Plan, vmid: Vmid, guest: &GuestSeen) -> Fate {
    plan.questions.insert(Question::LiveGuests(guest.host.clone()));
    let why = format!("{} has not reported its state for 5 minutes (pvestatd)", guest.host);
    let host = Some(guest.host.clone());
    Fate::Held(Hold::GuestWaits { guest: vmid, host, why, until: None })
}

/// Why a guest has no place to go.
enum Nowhere {
    /// A figure is missing, or a host is coming up: it is waited for.
    Yet(String),
    AtAll(String),
}

/// Whether a host is wanted, and being woken or not quite ready.
fn coming(scene: &Scene<'_>, plan: &Plan, host: &HostName) -> bool {
    let wanted = plan.desire.get(host).is_some_and(|desire| desire.awake && !desire.untouched);
    let waking = plan.states.get(host) == Some(&HostState::Waking);
    let begun = scene.ledger.undertaking(&Move::Wake(host.clone())).is_some();
    let called = plan.moves.iter().any(|planned| planned.purpose == Move::Wake(host.clone()));
    wanted && (waking || begun || called) && !scene.ledger.emptying.contains_key(host)
}

/// Where a guest goes when its host must be empty: the first preferred host that can take it, else,
/// where the rule allows it or no rule speaks, any.
fn destination(
    scene: &Scene<'_>,
    plan: &Plan,
    promised: &mut Promised,
    vmid: Vmid,
    guest: &GuestSeen,
    rule: Option<&GuestRule>,
) -> Result<HostName, Nowhere> {
    let preferred = rule.map(|rule| rule.prefer.clone()).unwrap_or_default();
    let anywhere = rule.is_none_or(|rule| rule.otherwise == Otherwise::Migrate);
    let mut candidates: Vec<HostName> = preferred;
    if anywhere {
        let others = scene.by_tier().into_iter().filter(|host| !candidates.contains(host));
        candidates.extend(others.collect::<Vec<_>>());
    }
    let mut why = String::from("no other host that may take it is awake, ready and wanted");
    for host in candidates {
        if host == guest.host {
            continue;
        }
        if !eligible(scene, plan, &host) {
            // Wanted and on its way: nobody is put away for a host that is about to be there.
            if coming(scene, plan, &host) {
                return Err(Nowhere::Yet(format!("{host} is still coming up")));
            }
            continue;
        }
        if !allowed(scene, vmid, &host) {
            why = format!("PVE does not let it go to {host}");
            continue;
        }
        match fits(scene, promised, vmid, guest, &host) {
            Ok(()) => return Ok(host),
            Err(Misfit::Unknown(unknown)) => return Err(Nowhere::Yet(unknown)),
            Err(Misfit::TooSmall(missing)) => why = missing,
        }
    }
    Err(Nowhere::AtAll(why))
}

/// `otherwise`: what the owner wants when a guest has no place to go.
fn put_away(
    scene: &Scene<'_>,
    plan: &mut Plan,
    vmid: Vmid,
    guest: &GuestSeen,
    rule: Option<&GuestRule>,
    stays: Stays,
) -> Fate {
    let Some(rule) = rule else { return Fate::Stay(stays) };
    let known = match rule.otherwise {
        Otherwise::Hibernate { .. } => facts(scene, plan, vmid),
        Otherwise::Migrate | Otherwise::KeepAwake | Otherwise::ShutDown => None,
    };
    match instead(rule.otherwise, guest, known) {
        None => Fate::Wait,
        Some(Instead::Hibernate) => Fate::Hibernate,
        Some(Instead::ShutDown) => Fate::ShutDown,
        Some(Instead::Ha) => Fate::Stay(Stays::Ha),
        Some(Instead::Stay) => Fate::Stay(match (stays, rule.otherwise) {
            (Stays::NowhereToGo { .. }, Otherwise::KeepAwake) => Stays::KeepAwake,
            (
                stays,
                Otherwise::Migrate
                | Otherwise::KeepAwake
                | Otherwise::ShutDown
                | Otherwise::Hibernate { .. },
            ) => stays,
        }),
    }
}

/// What happens to a guest that cannot move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instead {
    Hibernate,
    ShutDown,
    /// It keeps its host awake.
    Stay,
    /// So it does, because the HA manager would start it again.
    Ha,
}

/// What `otherwise` comes to for a guest; `None` while its configuration would decide that and is
/// not known.
pub fn instead(
    otherwise: Otherwise,
    guest: &GuestSeen,
    facts: Option<&GuestFacts>,
) -> Option<Instead> {
    let shut_down = if guest.ha.is_some() { Instead::Ha } else { Instead::ShutDown };
    Some(match otherwise {
        Otherwise::Migrate | Otherwise::KeepAwake => Instead::Stay,
        Otherwise::ShutDown => shut_down,
        Otherwise::Hibernate { or } => {
            let free = facts?.local_devices.is_empty();
            let hibernates = guest.kind == GuestKind::Vm && guest.ha.is_none() && free;
            match (hibernates, or) {
                (true, OrElse::Migrate | OrElse::ShutDown | OrElse::KeepAwake) => {
                    Instead::Hibernate
                }
                (false, OrElse::ShutDown) => shut_down,
                (false, OrElse::Migrate | OrElse::KeepAwake) => Instead::Stay,
            }
        }
    })
}
