//! Waking: when packets go out, when a wake has failed, and how long the next one waits.
//!
//! Packets are repeated at 0, 1, 5, 15 and 30 s and then every 30 s until the host is seen or its
//! `boot_within` is over. A failed wake is followed by growing pauses, and after a few of them by
//! silence until somebody asks again: a host without power is not called for ever.
//!
//! **Does not know:** how a packet is sent.

use std::time::Duration;

use super::desire::HostState;
use super::hold::{Hold, Reason};
use super::{Ending, Plan, PlannedMove, Scene, commanded_since};
use crate::cluster::{Answer, HostName, Question, Tier};
use crate::policy::Host;
use crate::request::{Move, Request};
use crate::undertaking::{Stage, Undertaking};

/// Offsets of the first volleys from the beginning of a wake.
const VOLLEYS: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(15),
    Duration::from_secs(30),
];
/// After those, one volley every so often.
const EVERY: Duration = Duration::from_secs(30);
/// The pause after a failed wake doubles from here …
const FIRST_PAUSE: Duration = Duration::from_secs(600);
/// … up to here …
const LONGEST_PAUSE: Duration = Duration::from_secs(7200);
/// … and after so many failures in a row nothing is sent until somebody asks again.
const ATTEMPTS: u32 = 5;

/// Plans the wake of one host, if one is wanted.
pub fn wake(scene: &Scene<'_>, plan: &mut Plan, host: &HostName) {
    let (Some(settings), Some(desire)) = (scene.policy.host(host), plan.desire.get(host)) else {
        return;
    };
    let (awake, untouched) = (desire.awake, desire.untouched);
    let state = plan.states.get(host).copied().unwrap_or(HostState::Unknown);
    let absent = scene.seen.hosts.get(host).and_then(|look| look.member) == Some(false);
    let leave_alone = settings.tier == Tier::Low && !desire.rescued() && !desire.commanded;
    if !awake || untouched || leave_alone {
        return;
    }
    match state {
        HostState::Resting | HostState::Missing => call(scene, plan, host, settings),
        HostState::Waking if absent => call(scene, plan, host, settings),
        HostState::Waking => settle(scene, plan, host, settings),
        HostState::Awake if scene.ledger.host(host).ready.is_none() => {
            settle(scene, plan, host, settings);
        }
        HostState::Leaving => {
            let with = "it is on its way down, and is woken when it has left".to_owned();
            plan.hold(Hold::Busy { host: host.clone(), with });
        }
        // A gap in the look does not end a wake: its packets go on.
        HostState::Unknown if scene.ledger.undertaking(&Move::Wake(host.clone())).is_some() => {
            call(scene, plan, host, settings);
        }
        HostState::Awake | HostState::Unknown => {}
    }
}

/// It is up, and not ready yet: packets are over, the undertaking goes on until it is ready.
fn settle(scene: &Scene<'_>, plan: &mut Plan, host: &HostName, settings: &Host) {
    let purpose = Move::Wake(host.clone());
    let since = scene.ledger.host(host).since;
    let overdue = since.is_some_and(|since| scene.now.civil >= since + settings.boot_within);
    if overdue {
        let question = Question::Readiness(host.clone());
        let why = match scene.seen.answers.get(&question).map(|stamped| &stamped.answer) {
            Some(Ok(Answer::Readiness(readiness))) if !readiness.quorate => {
                "it does not see quorum itself".into()
            }
            Some(Ok(Answer::Readiness(readiness))) if !readiness.storages_missing.is_empty() => {
                format!("storages missing there: {}", readiness.storages_missing.join(", "))
            }
            Some(Ok(Answer::Readiness(_))) => "it answers, and is looked at once more".into(),
            Some(Ok(_)) | None => "it has not answered yet".into(),
            Some(Err(gap)) => gap.why.clone(),
        };
        plan.hold(Hold::NotReady { host: host.clone(), why });
    }
    let Some(open) = scene.ledger.undertaking(&purpose) else { return };
    if overdue {
        let because = format!("{host} is up and not ready; spot goes on looking");
        plan.endings.push(Ending { id: open.id, stage: Stage::Dropped, because });
        return;
    }
    plan.moves.push(PlannedMove { purpose, because: reason(plan, host), requests: vec![] });
}

fn reason(plan: &Plan, host: &HostName) -> String {
    let first = plan.desire.get(host).and_then(|desire| desire.reasons.first());
    first.map(ToString::to_string).unwrap_or_default()
}

/// It is off: packets, unless something stands against them.
fn call(scene: &Scene<'_>, plan: &mut Plan, host: &HostName, settings: &Host) {
    let purpose = Move::Wake(host.clone());
    if let Some(hold) = against(scene, plan, host, settings) {
        return plan.hold(hold);
    }
    let because = reason(plan, host);
    let now = scene.now.civil;
    let request = || Request::Wake { host: host.clone(), ways: settings.ways() };
    let Some(open) = scene.ledger.undertaking(&purpose) else {
        plan.moves.push(PlannedMove { purpose, because, requests: vec![request()] });
        plan.revisit(now + VOLLEYS[1]);
        return;
    };
    // By time, and by packets: a clock that stepped forward has not given it its chance.
    let packets = settings.boot_within.as_secs() / EVERY.as_secs() / 2;
    let called = u64::from(open.volleys) >= packets;
    if now >= open.since + settings.boot_within && called {
        let limit = super::hold::about(settings.boot_within);
        let because = format!("{host} did not come up within {limit}");
        plan.endings.push(Ending { id: open.id, stage: Stage::Failed, because });
        return;
    }
    if let Some(why) = &open.unsent {
        plan.hold(Hold::NotSent { host: host.clone(), why: why.clone() });
    }
    let due = match open.last_volley {
        Some(last) => last + pause_before(open),
        None => open.since,
    };
    let requests = if now >= due { vec![request()] } else { vec![] };
    plan.revisit(if now >= due { now + VOLLEYS[1] } else { due });
    plan.moves.push(PlannedMove { purpose, because, requests });
}

/// How long after the last volley the next one is due.
fn pause_before(open: &Undertaking) -> Duration {
    let sent = open.volleys as usize;
    match (VOLLEYS.get(sent), VOLLEYS.get(sent.saturating_sub(1))) {
        (Some(next), Some(last)) => *next - *last,
        (None, _) | (_, None) => EVERY,
    }
}

/// What stands against calling it now.
fn against(scene: &Scene<'_>, plan: &Plan, host: &HostName, settings: &Host) -> Option<Hold> {
    let (host, now) = (host.clone(), scene.now.civil);
    let desire = plan.desire.get(&host)?;
    if settings.macs.is_empty() {
        return Some(Hold::NoMac { host });
    }
    let record = scene.ledger.host(&host);
    let urgent = desire.commanded || desire.rescued();
    let calling = scene.ledger.undertaking(&Move::Wake(host.clone())).is_some();
    if !urgent && let Some(quiet) = scene.policy.quiet_now(&host, now) {
        return Some(Hold::Quiet { host, until: quiet.closes });
    }
    // A window that is open, a command and a rescue do not wait; an early start for one does.
    let early = matches!(desire.reasons.first(), Some(Reason::Ahead { .. }));
    if early
        && !calling
        && let Some(until) = record.since.map(|since| since + settings.min_off)
        && record.presence == crate::ledger::Presence::Resting
        && now < until
    {
        return Some(Hold::JustLeft { host, until });
    }
    let failed = record.last_failed_wake?;
    if calling || commanded_since(scene, &host, failed) {
        return None;
    }
    let attempts = record.failed_wakes;
    if attempts >= ATTEMPTS {
        return Some(Hold::WakeGivenUp { host, attempts });
    }
    let doubled = FIRST_PAUSE.saturating_mul(2u32.saturating_pow(attempts.saturating_sub(1)));
    let until = failed + doubled.min(LONGEST_PAUSE);
    (now < until).then_some(Hold::WakeFailing { host, attempts, until })
}
