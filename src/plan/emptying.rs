//! What happens to each guest of a host that ought to be empty, before it may rest.
//!
//! The fate of *every* guest is decided before the first one moves: a drain that cannot finish is
//! not begun, and whoever cannot leave is named. Nothing is forced: a guest that does not stop
//! keeps its host awake.
//!
//! **Does not know:** why the host ought to be empty.

use super::desire::HostState;
use super::hold::{Hold, Stays};
use super::housing::{Homeless, Housed, Promised, Seeker, house};
use super::passage::{Barred, Passage, barred_from, facts, passage};
use super::placement::{eligible, paused, rule};
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
    /// It may go to one of these; which, is decided for all of them together.
    Seek {
        how: Migration,
        local_disks: bool,
        hosts: Vec<(HostName, u32)>,
        /// What to say when none of them takes it.
        unhoused: Nowhere,
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
    let mut fates: Vec<(Vmid, &GuestSeen, Fate)> = guests
        .into_iter()
        .map(|(vmid, guest)| (vmid, guest, fate(scene, plan, vmid, guest)))
        .collect();
    // Promised only if it comes to that: a drain that is held must not crowd others out.
    let mut booked = promised.clone();
    settle(scene, plan, &mut booked, &mut fates);
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
            Fate::Go { .. } | Fate::Seek { .. } | Fate::Hibernate | Fate::ShutDown | Fate::Wait => {
            }
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
    Emptying::Going(next(scene, host, &fates))
}

/// A place for everybody who seeks one, all of them together, or for nobody.
fn settle(
    scene: &Scene<'_>,
    plan: &mut Plan,
    promised: &mut Promised,
    fates: &mut [(Vmid, &GuestSeen, Fate)],
) {
    let mut seeking = Vec::new();
    let mut seekers = Vec::new();
    for (index, (vmid, guest, fate)) in fates.iter().enumerate() {
        let Fate::Seek { local_disks, hosts, .. } = fate else { continue };
        let rule = rule(scene, *vmid, guest);
        seeking.push(index);
        seekers.push(Seeker {
            vmid: *vmid,
            guest,
            hosts: hosts.clone(),
            stays: None,
            away: stoppable(scene, plan, *vmid, guest, rule),
            local_disks: *local_disks,
            apart: rule.and_then(|rule| rule.apart.clone()),
        });
    }
    let housed = house(scene, promised, &seekers);
    for (at, index) in seeking.into_iter().enumerate() {
        let (vmid, guest, fate) = &mut fates[index];
        let Fate::Seek { how, local_disks, unhoused, .. } = std::mem::replace(fate, Fate::Wait)
        else {
            continue;
        };
        let homeless = match &housed {
            Ok(housed) => match &housed[at] {
                Housed::At(to) => {
                    *fate = Fate::Go { to: to.clone(), how, local_disks };
                    continue;
                }
                Housed::Stays | Housed::Away => None,
            },
            // Nobody moves; who would have had a place has nothing to say.
            Err(homeless) => match homeless.iter().find(|(left_over, _)| *left_over == at) {
                Some((_, why)) => Some(why.clone()),
                None => continue,
            },
        };
        *fate = left_over(scene, plan, *vmid, guest, unhoused, homeless);
    }
}

/// What becomes of a guest that found no host.
fn left_over(
    scene: &Scene<'_>,
    plan: &mut Plan,
    vmid: Vmid,
    guest: &GuestSeen,
    unhoused: Nowhere,
    homeless: Option<Homeless>,
) -> Fate {
    let why = match (unhoused, homeless) {
        (Nowhere::Yet(why), _) | (Nowhere::AtAll(_), Some(Homeless::Unknown(why))) => {
            let host = Some(guest.host.clone());
            return Fate::Held(Hold::GuestWaits { guest: vmid, host, why, until: None });
        }
        (Nowhere::AtAll(_), Some(Homeless::NoRoom(why))) | (Nowhere::AtAll(why), None) => why,
    };
    let rule = rule(scene, vmid, guest);
    put_away(scene, plan, vmid, guest, rule, Stays::NowhereToGo { why })
}

/// Whether its rule lets it be put away where it finds no host.
fn stoppable(
    scene: &Scene<'_>,
    plan: &mut Plan,
    vmid: Vmid,
    guest: &GuestSeen,
    rule: Option<&GuestRule>,
) -> bool {
    let why = String::new();
    match put_away(scene, plan, vmid, guest, rule, Stays::NowhereToGo { why }) {
        Fate::Hibernate | Fate::ShutDown => true,
        Fate::Go { .. } | Fate::Seek { .. } | Fate::Stay(_) | Fate::Wait | Fate::Held(_) => false,
    }
}

/// Everything decided; which of the migrations begin now, the schedule of the whole plan says.
fn next(scene: &Scene<'_>, host: &HostName, fates: &[(Vmid, &GuestSeen, Fate)]) -> Vec<Request> {
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
        Fate::Seek { .. } | Fate::Hibernate | Fate::ShutDown | Fate::Stay(_) | Fate::Held(_) => {
            false
        }
    });
    let mut stops = if leaving { STOPS_AT_ONCE } else { stopping.count() };
    for (vmid, guest, fate) in fates {
        match fate {
            Fate::Go { to, how, local_disks } => {
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
            Fate::Seek { .. }
            | Fate::Hibernate
            | Fate::ShutDown
            | Fate::Stay(_)
            | Fate::Wait
            | Fate::Held(_) => {}
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

fn fate(scene: &Scene<'_>, plan: &mut Plan, vmid: Vmid, guest: &GuestSeen) -> Fate {
    if scene.in_flight(vmid) {
        return Fate::Wait;
    }
    if let Some(hold) = paused(scene, vmid, &guest.host) {
        return Fate::Held(hold);
    }
    if let Some(lock) = &guest.lock {
        let (host, lock) = (guest.host.clone(), lock.clone());
        return Fate::Held(Hold::GuestLocked { host, guest: vmid, kind: guest.kind, lock });
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
            let (hosts, unhoused) = destinations(scene, plan, vmid, guest, rule);
            if hosts.is_empty() {
                return left_over(scene, plan, vmid, guest, unhoused, None);
            }
            return Fate::Seek { how, local_disks, hosts, unhoused };
        }
        Passage::Closed(obstacle) => Stays::Obstacle(obstacle),
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

/// Where a guest may go when its host must be empty: the preferred hosts in their order, then,
/// where the rule allows it or no rule speaks, any other. Beside them what to say when none takes
/// it.
fn destinations(
    scene: &Scene<'_>,
    plan: &Plan,
    vmid: Vmid,
    guest: &GuestSeen,
    rule: Option<&GuestRule>,
) -> (Vec<(HostName, u32)>, Nowhere) {
    let preferred = rule.map(|rule| rule.prefer.clone()).unwrap_or_default();
    let anywhere = rule.is_none_or(|rule| rule.otherwise == Otherwise::Migrate);
    // All others are liked alike.
    let last = u32::try_from(preferred.len()).unwrap_or(u32::MAX);
    let mut candidates: Vec<HostName> = preferred;
    if anywhere {
        let others = scene.by_tier().into_iter().filter(|host| !candidates.contains(host));
        candidates.extend(others.collect::<Vec<_>>());
    }
    let mut why = String::from("no other host that may take it is awake, ready and wanted");
    let mut open: Vec<(HostName, u32)> = Vec::new();
    let mut passing = None;
    for (rank, host) in (0u32..).zip(candidates) {
        if host == guest.host || open.iter().any(|(known, _)| *known == host) {
            continue;
        }
        if !eligible(scene, plan, &host) {
            // Wanted and on its way: nobody is put away for a host that is about to be there.
            if coming(scene, plan, &host) {
                return (open, Nowhere::Yet(format!("{host} is still coming up")));
            }
            continue;
        }
        match barred_from(scene, vmid, rule, &host) {
            None => {}
            Some(Barred::AtAll(barred)) => {
                why = barred;
                continue;
            }
            Some(Barred::ForNow(barred)) => {
                passing.get_or_insert(barred);
                continue;
            }
        }
        open.push((host, rank.min(last)));
    }
    (open, passing.map_or(Nowhere::AtAll(why), Nowhere::Yet))
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
            let free = facts?.passthrough().is_none();
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
