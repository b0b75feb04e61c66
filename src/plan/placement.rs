//! Where each running guest belongs: the first host of its rule's `prefer` that is awake, ready,
//! desired, not frozen and not leaving.
//!
//! A host that nobody wants receives no guest, so an emptied host whose power-off is held stays
//! empty. Memory is a hard limit with a reserve; whatever was promised to a target earlier in the
//! same turn counts.
//!
//! **Does not know:** why a host is awake, how a guest is moved.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::desire::HostState;
use super::hold::{Hold, about};
use super::housing::{Housed, Promised, Seeker, house};
use super::passage::{Passage, barred_from, passage};
use super::{Plan, PlannedMove, Scene};
use crate::cluster::{Answer, GuestSeen, HostName, Question, RunState, Vmid};
use crate::ledger::{GuestRecord, ParkedGuest};
use crate::policy::{GuestRule, GuestTraits, LocalDisks};
use crate::request::{Move, Request};

/// A guest that failed to move waits this long, four times longer after each further failure …
const FIRST_PAUSE: Duration = Duration::from_secs(60);
/// … and at most this long.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
/// A host up for this long without a `startall` task has none to come.
const STARTALL_BEGINS_WITHIN: Duration = Duration::from_secs(900);
/// Guests of one target that are looked at closely at a time: more than ever begin at once.
const HEADS: usize = 20;
/// After so many moves by somebody else a guest is left where it is …
const CONTESTED: u32 = 2;
/// … for this long, twice as long after each further one …
const CONTESTED_PAUSE: Duration = Duration::from_secs(6 * 3600);
/// … and at most this long.
const LONGEST_CONTESTED_PAUSE: Duration = Duration::from_secs(48 * 3600);

/// Moves every guest that has a better place, and starts what was put away and may come back.
pub fn place(scene: &Scene<'_>, plan: &mut Plan, promised: &mut Promised) {
    let hosts = scene.policy.hosts().keys();
    let open: BTreeSet<HostName> =
        hosts.filter(|host| eligible(scene, plan, host)).cloned().collect();
    let moving = scene.in_flight_guests();
    let mut wishes: BTreeMap<usize, Vec<Wish<'_>>> = BTreeMap::new();
    for (vmid, guest) in &scene.seen.guests {
        if guest.template || moving.contains(vmid) {
            continue;
        }
        if let Some(parked) = parked(scene, *vmid) {
            bring_back(scene, plan, promised, *vmid, guest, parked);
        } else if guest.status == RunState::Running
            && let Some(wish) = wish(scene, plan, &open, *vmid, guest)
        {
            wishes.entry(scene.policy.rule_number(wish.rule)).or_default().push(wish);
        }
    }
    fill(scene, plan, promised, wishes);
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

/// A guest that would rather be elsewhere.
struct Wish<'a> {
    vmid: Vmid,
    guest: &'a GuestSeen,
    rule: &'a GuestRule,
    /// Better places, the best first, with their rank.
    better: Vec<(HostName, u32)>,
    /// The rank of where it is.
    here: u32,
}

/// Whether and where a guest would rather be.
fn wish<'a>(
    scene: &Scene<'a>,
    plan: &Plan,
    open: &BTreeSet<HostName>,
    vmid: Vmid,
    guest: &'a GuestSeen,
) -> Option<Wish<'a>> {
    let rule = rule(scene, vmid, guest).filter(|rule| !rule.pinned)?;
    let frozen = scene.ledger.frozen.contains_key(&guest.host);
    let up = scene.seen.hosts.get(&guest.host).is_some_and(|host| host.member == Some(true));
    if frozen || !up {
        return None;
    }
    // A host that ought to sleep is emptied as a whole or not at all; one that is left alone keeps
    // its guests; and a guest that the HA manager runs goes where the HA manager has it.
    let wanted =
        plan.desire.get(&guest.host).is_some_and(|desire| desire.awake && !desire.untouched);
    if !wanted || guest.ha.is_some() {
        return None;
    }
    let ranked = || (0u32..).zip(&rule.prefer);
    let here = ranked().find(|(_, host)| **host == guest.host).map(|(rank, _)| rank);
    let here = here.unwrap_or_else(|| u32::try_from(rule.prefer.len()).unwrap_or(u32::MAX));
    let better: Vec<(HostName, u32)> = ranked()
        .filter(|(rank, host)| *rank < here && open.contains(*host))
        .map(|(rank, host)| (host.clone(), rank))
        .collect();
    let moves = !better.is_empty() && !stays_for_a_window(plan, &guest.host);
    moves.then_some(Wish { vmid, guest, rule, better, here })
}

/// Fills hosts with those who prefer them, rule after rule in the policy's order, the guests of one
/// rule as a set.
fn fill<'a>(
    scene: &Scene<'a>,
    plan: &mut Plan,
    promised: &mut Promised,
    wishes: BTreeMap<usize, Vec<Wish<'a>>>,
) {
    // How many guests of each target were looked at closely: the others' turn comes later, and
    // their configuration is not asked for before it does.
    let mut heads: BTreeMap<HostName, usize> = BTreeMap::new();
    for mut wishes in wishes.into_values() {
        wishes.retain(|wish| match paused(scene, wish.vmid, &wish.better[0].0) {
            Some(hold) => {
                plan.hold(hold);
                false
            }
            None => true,
        });
        for (wish, housed) in improved(scene, promised, &wishes) {
            let target = match housed {
                Ok(Housed::At(target)) => target,
                Ok(Housed::Stays | Housed::Away) => {
                    let why = tight(scene, promised, wish);
                    unhoused(scene, plan, wish, why);
                    continue;
                }
                Err(why) => {
                    unhoused(scene, plan, wish, why);
                    continue;
                }
            };
            carry(scene, plan, &mut heads, wish, target);
        }
    }
}

/// A host that has just come up tells its memory a moment later. While the guest's configuration is
/// still to come as well, there is nothing to say yet.
fn unhoused(scene: &Scene<'_>, plan: &mut Plan, wish: &Wish<'_>, why: String) {
    let target = wish.better[0].0.clone();
    match passage(scene, plan, wish.vmid, wish.guest, Some(wish.rule)) {
        Passage::Unknown => {
            let (purpose, because) = (Move::Place(wish.vmid, target.clone()), preferred(&target));
            plan.moves.push(PlannedMove { purpose, because, requests: vec![] });
        }
        Passage::Open { .. } | Passage::Closed(_) => plan.hold(waits(wish.vmid, &target, why)),
    }
}

/// Where each of them goes. Where they get into each other's way, each is asked alone.
fn improved<'w, 'a>(
    scene: &Scene<'_>,
    promised: &mut Promised,
    wishes: &'w [Wish<'a>],
) -> Vec<(&'w Wish<'a>, Result<Housed, String>)> {
    let seeker = |wish: &Wish<'a>| Seeker {
        vmid: wish.vmid,
        guest: wish.guest,
        hosts: wish.better.clone(),
        stays: Some(wish.here),
        away: false,
        local_disks: wish.rule.local_disks == LocalDisks::Move,
        apart: wish.rule.apart.clone(),
    };
    let seekers: Vec<Seeker<'_>> = wishes.iter().map(seeker).collect();
    if let Ok(housed) = house(scene, promised, &seekers) {
        return wishes.iter().zip(housed.into_iter().map(Ok)).collect();
    }
    let alone = |seeker: &Seeker<'_>| match house(scene, promised, std::slice::from_ref(seeker)) {
        Ok(housed) => housed.into_iter().next().ok_or_else(String::new),
        Err(homeless) => Err(homeless.first().map_or(String::new(), |(_, why)| why.to_string())),
    };
    let housed: Vec<Result<Housed, String>> = seekers.iter().map(alone).collect();
    wishes.iter().zip(housed).collect()
}

/// Why it stays where it is although a better host is awake.
fn tight(scene: &Scene<'_>, promised: &Promised, wish: &Wish<'_>) -> String {
    let seeker = Seeker {
        vmid: wish.vmid,
        guest: wish.guest,
        hosts: wish.better.clone(),
        stays: None,
        away: false,
        local_disks: wish.rule.local_disks == LocalDisks::Move,
        apart: wish.rule.apart.clone(),
    };
    match house(scene, &mut promised.clone(), &[seeker]) {
        Err(homeless) => homeless.first().map_or(String::new(), |(_, why)| why.to_string()),
        Ok(_) => "somebody else needs the room more".into(),
    }
}

/// Plans its move, with the request if its turn may be now.
fn carry(
    scene: &Scene<'_>,
    plan: &mut Plan,
    heads: &mut BTreeMap<HostName, usize>,
    wish: &Wish<'_>,
    target: HostName,
) {
    let (vmid, guest) = (wish.vmid, wish.guest);
    let (purpose, because) = (Move::Place(vmid, target.clone()), preferred(&target));
    let ahead = heads.entry(target.clone()).or_default();
    if guest.lock.is_some() || *ahead >= HEADS {
        // Wanted, and waiting for its turn.
        return plan.moves.push(PlannedMove { purpose, because, requests: vec![] });
    }
    let requests = match passage(scene, plan, vmid, guest, Some(wish.rule)) {
        Passage::Unknown => vec![],
        Passage::Closed(obstacle) => {
            return plan.hold(waits(vmid, &target, format!("it {obstacle}")));
        }
        Passage::Open { how, local_disks } => {
            if let Some(barred) = barred_from(scene, vmid, Some(wish.rule), &target) {
                return plan.hold(waits(vmid, &target, barred.why()));
            }
            let (from, to, kind) = (guest.host.clone(), target.clone(), guest.kind);
            let bandwidth = scene.bandwidth();
            vec![Request::Migrate { guest: vmid, kind, from, to, how, local_disks, bandwidth }]
        }
    };
    *ahead += 1;
    plan.moves.push(PlannedMove { purpose, because, requests });
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
    if let Some(hold) = contested(scene, guest, host, record) {
        return Some(hold);
    }
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

/// PVE's rebalancing, an HA fail-back or a person has moved it away from where we had put it, and
/// again: whoever that is means it, and a guest that is carried to and fro serves nobody.
fn contested(
    scene: &Scene<'_>,
    guest: Vmid,
    host: &HostName,
    record: &GuestRecord,
) -> Option<Hold> {
    let times = record.moved_away;
    let further = times.checked_sub(CONTESTED)?;
    let pause = CONTESTED_PAUSE.saturating_mul(2u32.saturating_pow(further.min(8)));
    let until = record.moved_away_at? + pause.min(LONGEST_CONTESTED_PAUSE);
    (scene.now.civil < until).then(|| Hold::GuestWaits {
        guest,
        host: Some(host.clone()),
        why: format!(
            "somebody else moved it away {times} times after spot had placed it (PVE's own \
             rebalancing, an HA fail-back, or a person), so it is left where it is"
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
        return plan.hold(Hold::GuestLocked { host, guest: vmid, kind: guest.kind, lock });
    }
    let seeker = Seeker {
        vmid,
        guest,
        hosts: vec![(guest.host.clone(), 0)],
        stays: None,
        away: false,
        local_disks: false,
        apart: rule(scene, vmid, guest).and_then(|rule| rule.apart.clone()),
    };
    if let Err(homeless) = house(scene, promised, &[seeker]) {
        let why = homeless.first().map_or(String::new(), |(_, why)| why.to_string());
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
