//! Which guests will not move when their host goes to sleep, or when the host they prefer wakes,
//! and what will happen to them instead: said before it comes to that.
//!
//! A guest's configuration is read once when the guest is first seen on a host that may sleep, and
//! again shortly before a window opens or closes there; it costs a quiet hour nothing.
//!
//! **Does not know:** when anything will happen, whether a guest fits anywhere.

use std::time::Duration;

use super::emptying::{Instead, instead};
use super::passage::{Passage, way};
use super::placement::rule;
use super::{Plan, Scene};
use crate::cluster::{
    Answer, GuestFacts, GuestKind, GuestSeen, HostName, Question, RunState, Tier, Vmid,
};
use crate::policy::{GuestRule, Otherwise, Policy};

/// So long before a window opens or closes, what is known of its guests is read again …
const BEFORE_AN_EDGE: Duration = Duration::from_secs(1800);
/// … unless it is younger than this.
const YOUNG: Duration = Duration::from_secs(2700);

/// What will happen to a guest that cannot move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    Hibernated,
    ShutDown,
    KeepsAwake,
    /// So it does, for the HA manager would start it again.
    KeepsAwakeByHa,
    /// Its host does not sleep.
    Stays,
    Unknown,
}

/// One guest that will not move, and what will happen to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forecast {
    pub guest: Vmid,
    pub kind: GuestKind,
    pub host: HostName,
    /// A predicate: `has a PCI device (hostpci0)`.
    pub why: String,
    pub then: Then,
}

impl Forecast {
    /// What will happen, with the host's name.
    pub fn then(&self) -> String {
        let host = &self.host;
        match self.then {
            Then::Hibernated => "it will be hibernated, not migrated".into(),
            Then::ShutDown => "it will be shut down, not migrated".into(),
            Then::KeepsAwake => format!("it keeps {host} awake while it runs"),
            Then::KeepsAwakeByHa => format!(
                "it keeps {host} awake while it runs, for the HA manager would start it again"
            ),
            Then::Stays => format!("it stays on {host}"),
            Then::Unknown => "what happens to it is not known".into(),
        }
    }

    /// `vm 201 has a PCI device (hostpci0): it will be shut down, not migrated`.
    pub fn sentence(&self) -> String {
        format!("{} {} {}: {}", self.kind, self.guest, self.why, self.then())
    }
}

/// What lies ahead for one guest, if it has reason to move some day, and cannot.
pub fn foresee(
    policy: &Policy,
    rule: Option<&GuestRule>,
    vmid: Vmid,
    guest: &GuestSeen,
    facts: Option<&GuestFacts>,
) -> Option<Forecast> {
    let sleeps = |host: &HostName| policy.host(host).is_some_and(|host| host.tier != Tier::Low);
    let pinned = rule.is_some_and(|rule| rule.pinned);
    let goes = rule.is_some_and(|rule| {
        !pinned && rule.prefer.first().is_some_and(|first| *first != guest.host)
    });
    if guest.template || !sleeps(&guest.host) && !goes {
        return None;
    }
    let why = match (pinned, facts.map(|facts| way(guest.kind, facts, rule))) {
        (true, _) => "is pinned".to_owned(),
        (false, Some(Passage::Closed(obstacle))) => obstacle.to_string(),
        (false, Some(Passage::Open { .. } | Passage::Unknown) | None) => return None,
    };
    let otherwise = rule.map_or(Otherwise::Migrate, |rule| rule.otherwise);
    let then = match instead(otherwise, guest, facts) {
        _ if !sleeps(&guest.host) => Then::Stays,
        Some(Instead::Hibernate) => Then::Hibernated,
        Some(Instead::ShutDown) => Then::ShutDown,
        Some(Instead::Stay) => Then::KeepsAwake,
        Some(Instead::Ha) => Then::KeepsAwakeByHa,
        None => Then::Unknown,
    };
    Some(Forecast { guest: vmid, kind: guest.kind, host: guest.host.clone(), why, then })
}

/// Fills in the plan's forecasts, and asks for what they are made from.
pub(super) fn look_ahead(scene: &Scene<'_>, plan: &mut Plan) {
    for (vmid, guest) in &scene.seen.guests {
        let up = scene.seen.hosts.get(&guest.host).is_some_and(|look| look.member == Some(true));
        if guest.template || guest.status == RunState::Stopped || !up {
            continue;
        }
        let rule = rule(scene, *vmid, guest);
        let question = Question::Guest(*vmid);
        let stamped = scene.seen.answers.get(&question);
        let known = match stamped.map(|stamped| &stamped.answer) {
            Some(Ok(Answer::Guest(facts)))
                if facts.on.as_ref().is_none_or(|on| *on == guest.host) =>
            {
                Some(&**facts)
            }
            Some(Ok(_) | Err(_)) | None => None,
        };
        let fresh = stamped.is_some_and(|one| scene.seen.turn_began.since(one.asked) < YOUNG);
        let unread = known.is_none() && !matches!(stamped.map(|one| &one.answer), Some(Err(_)));
        // PVE tells nothing of a locked guest.
        let matters =
            guest.lock.is_none() && (may_sleep(scene, &guest.host) || wants_elsewhere(rule, guest));
        if matters && (unread || !fresh && edge_is_near(scene, guest, rule)) {
            plan.ask_facts(*vmid);
        }
        plan.forecasts.extend(foresee(scene.policy, rule, *vmid, guest, known));
    }
}

fn may_sleep(scene: &Scene<'_>, host: &HostName) -> bool {
    let frozen = scene.ledger.frozen.contains_key(host);
    !frozen && scene.policy.host(host).is_some_and(|host| host.tier != Tier::Low)
}

fn wants_elsewhere(rule: Option<&GuestRule>, guest: &GuestSeen) -> bool {
    rule.is_some_and(|rule| {
        !rule.pinned && rule.prefer.first().is_some_and(|first| *first != guest.host)
    })
}

/// Whether a window opens or closes, or a lease ends, on the guest's host or on the one it prefers.
fn edge_is_near(scene: &Scene<'_>, guest: &GuestSeen, rule: Option<&GuestRule>) -> bool {
    let now = scene.now.civil;
    let near = |at: jiff::Timestamp| at > now && at <= now + BEFORE_AN_EDGE;
    let preferred = rule.and_then(|rule| rule.prefer.first());
    [Some(&guest.host), preferred].into_iter().flatten().any(|host| {
        let opens = scene.policy.next_opening(host, now, &scene.backups).map(|(_, one)| one.opens);
        let closes =
            scene.policy.opening(host, now, &scene.backups).and_then(|(_, one)| one.closes);
        let ends = scene.ledger.leases.get(host).and_then(|lease| lease.until);
        [opens, closes, ends].into_iter().flatten().any(near)
    })
}
