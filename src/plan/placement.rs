//! Where each running guest belongs: the first host of its rule's `prefer` that is awake, ready,
//! desired, not frozen and not leaving.
//!
//! A host that nobody wants receives no guest, so an emptied host whose power-off is held stays
//! empty. Memory is a hard limit with a reserve; whatever was promised to a target earlier in the
//! same turn counts.
//!
//! **Does not know:** why a host is awake, how a guest is moved.

use std::collections::BTreeMap;
use std::time::Duration;

use super::desire::HostState;
use super::hold::{Hold, about};
use super::{Plan, PlannedMove, Scene};
use crate::cluster::{
    Answer, GuestFacts, GuestKind, GuestSeen, HostName, Question, RunState, Vmid,
};
use crate::ledger::ParkedGuest;
use crate::policy::{GuestRule, GuestTraits, LocalDisks, Reserve};
use crate::request::{Migration, Move, Request};

/// What a guest's configuration said this long ago still holds for a plan. (PVE judges it again.)
const FACTS_AGE: Duration = Duration::from_secs(300);
/// From then on it is asked again, so that a plan never has to stop for an answer that grew old.
const FACTS_RENEWED: Duration = Duration::from_secs(200);
/// A guest that failed to move waits this long, four times longer after each further failure …
const FIRST_PAUSE: Duration = Duration::from_secs(60);
/// … and at most this long.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
/// A host up for this long without a `startall` task has none to come.
const STARTALL_BEGINS_WITHIN: Duration = Duration::from_secs(900);
/// Of a reserve given in percent, at least this is kept free on a target.
const LEAST_RESERVE_BYTES: u64 = 1 << 30;

/// Memory promised to targets in this turn.
#[derive(Clone, Default)]
pub struct Promised(BTreeMap<HostName, u64>);

impl Promised {
    /// What is on its way already: a target's own figure grows only as the guest arrives.
    pub fn in_flight(scene: &Scene<'_>) -> Promised {
        let mut promised = Promised::default();
        for (_, _, asked) in scene.ledger.in_flight() {
            let (guest, target) = match &asked.request {
                Request::Migrate { guest, to, .. } => (guest, to),
                Request::StartGuest { guest, host, .. } => (guest, host),
                Request::Wake { .. }
                | Request::Hibernate { .. }
                | Request::ShutDownGuest { .. }
                | Request::PowerOff { .. } => continue,
            };
            let Some(look) = scene.seen.guests.get(guest) else { continue };
            let bytes = memory_of(scene, *guest, look).unwrap_or(0);
            let on_target = promised.0.entry(target.clone()).or_default();
            *on_target = on_target.saturating_add(bytes);
        }
        promised
    }
}

/// A guest's memory, as PVE says it or last said it.
fn memory_of(scene: &Scene<'_>, vmid: Vmid, guest: &GuestSeen) -> Option<u64> {
    let remembered = || scene.ledger.guests.get(&vmid).and_then(|record| record.memory_bytes);
    guest.memory_bytes.or_else(remembered)
}

/// Moves every guest that has a better place, and starts what was put away and may come back.
pub fn place(scene: &Scene<'_>, plan: &mut Plan, promised: &mut Promised) {
    for (vmid, guest) in &scene.seen.guests {
        if guest.template || scene.in_flight(*vmid) {
            continue;
        }
        if let Some(parked) = parked(scene, *vmid) {
            bring_back(scene, plan, promised, *vmid, guest, parked);
        } else if guest.status == RunState::Running {
            improve(scene, plan, promised, *vmid, guest);
        }
    }
}

fn parked<'a>(scene: &Scene<'a>, vmid: Vmid) -> Option<&'a ParkedGuest> {
    scene.ledger.guests.get(&vmid).and_then(|record| record.parked.as_ref())
}

/// The rule that governs a guest; a name PVE has forgotten comes from the ledger.
pub fn rule<'a>(scene: &Scene<'a>, vmid: Vmid, guest: &GuestSeen) -> Option<&'a GuestRule> {
    let remembered = scene.ledger.guests.get(&vmid).and_then(|record| record.name.as_deref());
    scene.policy.guest_rule(&GuestTraits {
        vmid,
        kind: guest.kind,
        name: guest.name.as_deref().or(remembered),
        tags: &guest.tags,
        pool: guest.pool.as_deref(),
    })
}

/// Whether guests may go to `host`: awake, ready, desired, not frozen, not leaving, not being
/// emptied.
pub fn eligible(scene: &Scene<'_>, plan: &Plan, host: &HostName) -> bool {
    let awake = plan.states.get(host) == Some(&HostState::Awake);
    let ready = scene.ledger.host(host).ready.is_some();
    let desire = plan.desire.get(host);
    let desired = desire.is_some_and(|desire| desire.awake && !desire.untouched);
    awake && ready && desired && !scene.ledger.emptying.contains_key(host)
}

fn improve(
    scene: &Scene<'_>,
    plan: &mut Plan,
    promised: &mut Promised,
    vmid: Vmid,
    guest: &GuestSeen,
) {
    let Some(rule) = rule(scene, vmid, guest).filter(|rule| !rule.pinned) else { return };
    let frozen = scene.ledger.frozen.contains_key(&guest.host);
    let up = scene.seen.hosts.get(&guest.host).is_some_and(|host| host.member == Some(true));
    if frozen || !up {
        return;
    }
    // A host that ought to sleep is emptied as a whole or not at all; one that is left alone keeps
    // its guests; and a guest that the HA manager runs goes where the HA manager has it.
    let wanted =
        plan.desire.get(&guest.host).is_some_and(|desire| desire.awake && !desire.untouched);
    if !wanted || guest.ha.is_some() {
        return;
    }
    let Some(target) = rule.prefer.iter().find(|host| eligible(scene, plan, host)).cloned() else {
        return;
    };
    if target == guest.host || stays_for_a_window(plan, &guest.host) {
        return;
    }
    let purpose = Move::Place(vmid, target.clone());
    if let Some(hold) = paused(scene, vmid, &target) {
        return plan.hold(hold);
    }
    if guest.lock.is_some() || plan.links_busy(scene, &guest.host, &target) {
        // Wanted, and waiting for its turn.
        plan.moves.push(PlannedMove { purpose, because: preferred(&target), requests: vec![] });
        return;
    }
    match passage(scene, plan, vmid, guest, Some(rule)) {
        Passage::Unknown => {}
        Passage::Closed(why) => plan.hold(waits(vmid, &target, why)),
        Passage::Open { how, local_disks } => {
            if !allowed(scene, vmid, &target) {
                let why = format!("PVE does not let it go to {target}");
                return plan.hold(waits(vmid, &target, why));
            }
            if let Err(Misfit::Unknown(why) | Misfit::TooSmall(why)) =
                fits(scene, promised, vmid, guest, &target)
            {
                return plan.hold(waits(vmid, &target, why));
            }
            let (from, to, kind) = (guest.host.clone(), target.clone(), guest.kind);
            let bandwidth = scene.bandwidth();
            let request =
                Request::Migrate { guest: vmid, kind, from, to, how, local_disks, bandwidth };
            plan.moves.push(PlannedMove {
                purpose,
                because: preferred(&target),
                requests: vec![request],
            });
        }
    }
}

/// Its host is wanted again so soon that it does not sleep: whoever left it now would only come
/// back.
fn stays_for_a_window(plan: &Plan, host: &HostName) -> bool {
    plan.holds
        .iter()
        .any(|hold| matches!(hold, Hold::WantedSoon { host: stays, .. } if stays == host))
}

fn preferred(host: &HostName) -> String {
    format!("its rule prefers {host}")
}

fn waits(guest: Vmid, host: &HostName, why: String) -> Hold {
    Hold::GuestWaits { guest, host: Some(host.clone()), why, until: None }
}

/// A guest whose last request failed waits, longer each time.
pub fn paused(scene: &Scene<'_>, guest: Vmid, host: &HostName) -> Option<Hold> {
    let record = scene.ledger.guests.get(&guest)?;
    let failed = record.last_failure?;
    let pause = FIRST_PAUSE
        .saturating_mul(4u32.saturating_pow(record.failures.saturating_sub(1).min(8)))
        .min(LONGEST_PAUSE);
    let until = failed + pause;
    (scene.now.civil < until).then(|| Hold::GuestWaits {
        guest,
        host: Some(host.clone()),
        why: format!(
            "its last request failed ({} in a row), the next try is {} later{}",
            record.failures,
            about(pause),
            record.failed_because.as_ref().map_or(String::new(), |why| format!("; {why}"))
        ),
        until: Some(until),
    })
}

/// Starts a guest that spot put away, where it lies, once that host is wanted again.
fn bring_back(
    scene: &Scene<'_>,
    plan: &mut Plan,
    promised: &mut Promised,
    vmid: Vmid,
    guest: &GuestSeen,
    parked: &ParkedGuest,
) {
    if guest.status != RunState::Stopped || !eligible(scene, plan, &guest.host) {
        return;
    }
    if let Some(hold) = paused(scene, vmid, &guest.host) {
        return plan.hold(hold);
    }
    // PVE's own start of `onboot` guests goes first; ours would only meet its locks.
    if !startall_over(scene, &guest.host) {
        plan.questions.insert(Question::Readiness(guest.host.clone()));
        let why = format!("{} still starts its own guests", guest.host);
        return plan.hold(waits(vmid, &guest.host, why));
    }
    let lock_allows = guest.lock.as_deref().is_none_or(|lock| lock == "suspended");
    if !lock_allows {
        let (host, lock) = (guest.host.clone(), guest.lock.clone().unwrap_or_default());
        return plan.hold(Hold::GuestLocked { host, guest: vmid, lock });
    }
    if let Err(Misfit::Unknown(why) | Misfit::TooSmall(why)) =
        fits(scene, promised, vmid, guest, &guest.host)
    {
        return plan.hold(waits(vmid, &guest.host, why));
    }
    let host = guest.host.clone();
    let request = Request::StartGuest { guest: vmid, kind: parked.kind, host: host.clone() };
    plan.moves.push(PlannedMove {
        purpose: Move::Place(vmid, host.clone()),
        because: format!("spot put it away, and {host} is back"),
        requests: vec![request],
    });
}

/// Whether PVE's own start of `onboot` guests is over on a host that came up. Until `pve-guests`
/// has begun (`startall-onboot-delay` is up to 5 minutes) no task of it exists.
fn startall_over(scene: &Scene<'_>, host: &HostName) -> bool {
    let stamped = scene.seen.answers.get(&Question::Readiness(host.clone()));
    let since = scene.ledger.host(host).since;
    let asked_since = |asked: jiff::Timestamp| since.is_none_or(|since| asked >= since);
    match stamped {
        Some(stamped) if asked_since(stamped.asked.civil) => match &stamped.answer {
            Ok(Answer::Readiness(readiness)) => match readiness.startall_done {
                Some(done) => done,
                None => readiness.uptime_seconds > STARTALL_BEGINS_WITHIN.as_secs(),
            },
            Ok(_) | Err(_) => false,
        },
        Some(_) | None => false,
    }
}

/// Whether and how a running guest can change hosts.
pub enum Passage {
    Open {
        how: Migration,
        local_disks: bool,
    },
    Closed(String),
    /// Its configuration was asked for.
    Unknown,
}

const NO_RESTART: &str = "it is a container, and no rule lets it move by a restart";

/// A container moves by a restart, which its owner must have allowed.
fn bound_to_run(kind: GuestKind, rule: Option<&GuestRule>) -> bool {
    kind == GuestKind::Ct && !rule.is_some_and(|rule| rule.restart)
}

/// How a running guest can leave its host, by its own configuration and its owner's rule.
pub fn passage(
    scene: &Scene<'_>,
    plan: &mut Plan,
    vmid: Vmid,
    guest: &GuestSeen,
    rule: Option<&GuestRule>,
) -> Passage {
    if bound_to_run(guest.kind, rule) {
        // No answer would change that, so none is asked for.
        return Passage::Closed(NO_RESTART.into());
    }
    match facts(scene, plan, vmid) {
        Some(facts) => way(guest.kind, facts, rule),
        None => Passage::Unknown,
    }
}

/// The same once its configuration is known, which is all that `spot check --live` knows.
pub fn way(kind: GuestKind, facts: &GuestFacts, rule: Option<&GuestRule>) -> Passage {
    if bound_to_run(kind, rule) {
        return Passage::Closed(NO_RESTART.into());
    }
    if let Some(device) = facts.local_devices.first() {
        return Passage::Closed(format!("it uses {device} of its host"));
    }
    let disks = rule.map_or(LocalDisks::Replicated, |rule| rule.local_disks);
    let local_disks = match (facts.local_disks.first(), disks) {
        (None, LocalDisks::Move | LocalDisks::Replicated | LocalDisks::Stay) => false,
        (Some(_), LocalDisks::Move) => true,
        (Some(disk), LocalDisks::Replicated | LocalDisks::Stay) => {
            return Passage::Closed(format!("its disk {disk} lies on its host"));
        }
    };
    let how = match kind {
        GuestKind::Vm => Migration::Live,
        GuestKind::Ct => Migration::Restart,
    };
    Passage::Open { how, local_disks }
}

/// A guest's configuration, or the question for it.
pub fn facts<'a>(scene: &Scene<'a>, plan: &mut Plan, vmid: Vmid) -> Option<&'a GuestFacts> {
    let question = Question::Guest(vmid);
    if scene.seen.answer(&question, FACTS_RENEWED).is_none() {
        plan.ask_facts(vmid);
    }
    let here = scene.seen.guests.get(&vmid).map(|guest| &guest.host);
    match scene.seen.answer(&question, FACTS_AGE) {
        Some(Answer::Guest(facts)) if facts.on.is_none() || facts.on.as_ref() == here => {
            Some(facts)
        }
        // It has moved since.
        Some(Answer::Guest(_)) => {
            plan.ask_facts(vmid);
            None
        }
        Some(_) | None => {
            // What could not be read is told; it is asked again as long as it is wanted.
            if let Some(Err(gap)) = scene.seen.answers.get(&question).map(|one| &one.answer) {
                let host = scene.seen.guests.get(&vmid).map(|guest| guest.host.clone());
                let (guest, why) = (vmid, gap.to_string());
                plan.hold(Hold::GuestWaits { guest, host, why, until: None });
            }
            None
        }
    }
}

/// Whether PVE's own judgement of a guest's configuration lets it go to `target`. (Offline hosts
/// are allowed there too, and disks and devices are judged apart.)
pub fn allowed(scene: &Scene<'_>, vmid: Vmid, target: &HostName) -> bool {
    match scene.seen.answer(&Question::Guest(vmid), FACTS_AGE) {
        Some(Answer::Guest(facts)) => {
            facts.allowed.as_ref().is_none_or(|allowed| allowed.contains(target))
        }
        Some(_) | None => true,
    }
}

/// Why a guest does not fit.
pub enum Misfit {
    /// A figure is missing: it may fit yet.
    Unknown(String),
    TooSmall(String),
}

/// Whether a guest's memory fits on a target beside everything promised to it.
pub fn fits(
    scene: &Scene<'_>,
    promised: &mut Promised,
    vmid: Vmid,
    guest: &GuestSeen,
    target: &HostName,
) -> Result<(), Misfit> {
    let Some(needed) = memory_of(scene, vmid, guest) else {
        return Err(Misfit::Unknown("its memory is not known".into()));
    };
    let Some(memory) = scene.seen.hosts.get(target).and_then(|host| host.memory) else {
        return Err(Misfit::Unknown(format!("the memory of {target} is not known yet")));
    };
    let reserve = match scene.policy.host(target).map(|host| host.reserve) {
        Some(Reserve::Bytes(bytes)) => bytes,
        Some(Reserve::Percent(percent)) => {
            (memory.total_bytes / 100 * u64::from(percent)).max(LEAST_RESERVE_BYTES)
        }
        None => LEAST_RESERVE_BYTES,
    };
    let taken = memory.used_bytes.saturating_add(promised.0.get(target).copied().unwrap_or(0));
    let free = memory.total_bytes.saturating_sub(reserve).saturating_sub(taken);
    if needed > free {
        let missing = (needed - free).div_ceil(1 << 20);
        let why = format!("{target} lacks {missing} MiB of memory for it");
        return Err(Misfit::TooSmall(why));
    }
    let promised = promised.0.entry(target.clone()).or_default();
    *promised = promised.saturating_add(needed);
    Ok(())
}
