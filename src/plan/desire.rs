//! Which hosts ought to be awake, for whose sake, and how each one stands.
//!
//! Wants combine in a fixed order, the stronger first: frozen; rescue; an `up` lease; `empty`; a
//! `down` lease; windows; the rest state of the tier. Inhibitors and pinned guests are not here:
//! they hold a power-off, and never make a host *desired*, so no guest flows back to it.
//!
//! **Does not know:** guests, requests.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;

use super::Scene;
use super::ahead::{begun, lead};
use super::hold::Reason;
use crate::cluster::{HostName, Tier};
use crate::ledger::{Presence, Wants};
use crate::policy::{Host, Rescue};
use crate::request::{Move, Request};

/// A host that joined this recently and is not ready yet is still waking.
const BOOTS_WITHIN: Duration = Duration::from_secs(900);

/// How a host stands, as spot sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostState {
    /// A member of the cluster.
    Awake,
    /// Off, and left in order.
    Resting,
    /// It vanished.
    Missing,
    /// Called by packets, or up and not ready yet.
    Waking,
    /// Asked to power off, or being shut down, and still there.
    Leaving,
    Unknown,
}

impl HostState {
    pub fn word(self) -> &'static str {
        match self {
            HostState::Awake => "awake",
            HostState::Resting => "resting",
            HostState::Missing => "missing",
            HostState::Waking => "waking",
            HostState::Leaving => "leaving",
            HostState::Unknown => "unknown",
        }
    }
}

/// What is wanted of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desire {
    pub awake: bool,
    /// Left exactly as it is: frozen, or not in any policy.
    pub untouched: bool,
    /// The strongest first.
    pub reasons: Vec<Reason>,
    pub until: Option<Timestamp>,
    /// On a person's own word (lease, emptying, proof), not by itself.
    pub commanded: bool,
}

impl Desire {
    /// Woken for the sake of quorum: quiet hours and `min_off` do not stand in the way.
    pub fn rescued(&self) -> bool {
        self.reasons.iter().any(|reason| matches!(reason, Reason::Rescue { .. }))
    }
}

/// How `host` stands now.
pub fn state(scene: &Scene<'_>, host: &HostName) -> HostState {
    let record = scene.ledger.host(host);
    let look = scene.seen.hosts.get(host);
    let called =
        scene.ledger.undertaking(&Move::Wake(host.clone())).is_some_and(|wake| wake.volleys > 0);
    match look.and_then(|look| look.member) {
        None => HostState::Unknown,
        Some(true) if leaving(scene, host) => HostState::Leaving,
        Some(true) => {
            let young = record.since.is_none_or(|since| scene.now.civil < since + BOOTS_WITHIN);
            let long_up = look
                .and_then(|look| look.uptime_seconds)
                .is_some_and(|uptime| Duration::from_secs(uptime) > BOOTS_WITHIN);
            let waking = record.ready.is_none() && young && !long_up;
            if waking { HostState::Waking } else { HostState::Awake }
        }
        Some(false) if called => HostState::Waking,
        Some(false) => match record.presence {
            Presence::Missing => HostState::Missing,
            Presence::Resting | Presence::Awake | Presence::Unseen => HostState::Resting,
        },
    }
}

/// Asked to stop by us, or with a running stop of all its guests by root, which is what a shutdown
/// shows first.
fn leaving(scene: &Scene<'_>, host: &HostName) -> bool {
    let ours = scene.ledger.in_flight().any(|(_, _, asked)| match &asked.request {
        Request::PowerOff { host: stopping } => stopping == host,
        Request::Wake { .. }
        | Request::Migrate { .. }
        | Request::Hibernate { .. }
        | Request::ShutDownGuest { .. }
        | Request::StartGuest { .. } => false,
    });
    let others = scene.seen.tasks.iter().any(|task| {
        task.host == *host && task.kind == "stopall" && task.user == "root@pam" && task.running()
    });
    ours || others
}

/// What is wanted of `host`, for each want that applies, the strongest deciding.
pub fn desire(scene: &Scene<'_>, host: &HostName, rescued: &BTreeSet<HostName>) -> Desire {
    let awake_now = scene.seen.hosts.get(host).and_then(|look| look.member) == Some(true);
    let Some(settings) = scene.policy.host(host) else {
        let reasons = vec![Reason::Unmanaged];
        return Desire {
            awake: awake_now,
            untouched: true,
            reasons,
            until: None,
            commanded: false,
        };
    };
    let mut wants = Wanted::default();
    let ledger = scene.ledger;
    if let Some(by) = ledger.frozen.get(host) {
        wants.add(awake_now, false, Reason::Frozen { by: by.clone() });
    }
    if settings.tier == Tier::Low {
        wants.add(true, false, Reason::AlwaysOn);
    }
    if rescued.contains(host) {
        wants.add(true, false, Reason::Rescue { spare: scene.policy.quorum().spare });
    }
    let lease = ledger.leases.get(host);
    if let Some(lease) = lease.filter(|lease| lease.wants == Wants::Awake) {
        let (by, because, until) = (lease.by.clone(), lease.because.clone(), lease.until);
        wants.add(true, true, Reason::LeaseAwake { by, because, until });
    }
    if let Some(by) = ledger.emptying.get(host) {
        wants.add(true, true, Reason::Emptying { by: by.clone() });
    }
    if let Some(asked) = ledger.proving.get(host) {
        wants.add(slept_since(scene, host, *asked), true, Reason::Proving);
    }
    if let Some(lease) = lease.filter(|lease| lease.wants == Wants::Rest) {
        wants.add(false, true, Reason::LeaseRest { by: lease.by.clone(), until: lease.until });
    }
    if let Some((policy, opening)) = scene.policy.opening(host, scene.now.civil, &scene.backups) {
        let policy = policy.to_owned();
        wants.add(true, false, Reason::Window { policy, until: opening.closes });
    }
    if let Some((policy, opens)) = ahead(scene, host, settings) {
        wants.add(true, false, Reason::Ahead { policy, opens });
    }
    if wants.reasons.is_empty() {
        wants.add(false, false, Reason::Nothing);
    }
    let untouched = ledger.frozen.contains_key(host);
    let until = wants.reasons.first().and_then(Reason::until);
    Desire {
        awake: wants.awake,
        untouched,
        reasons: wants.reasons,
        until,
        commanded: wants.commanded,
    }
}

#[derive(Default)]
struct Wanted {
    awake: bool,
    commanded: bool,
    reasons: Vec<Reason>,
}

impl Wanted {
    /// The first want decides; the others are told beside it.
    fn add(&mut self, awake: bool, commanded: bool, reason: Reason) {
        if self.reasons.is_empty() {
            (self.awake, self.commanded) = (awake, commanded);
        }
        self.reasons.push(reason);
    }
}

/// Whether a host being proven has been seen asleep since the proof was asked for.
fn slept_since(scene: &Scene<'_>, host: &HostName, asked: Timestamp) -> bool {
    let record = scene.ledger.host(host);
    let changed_since = record.since.is_some_and(|since| since > asked);
    match record.presence {
        Presence::Resting | Presence::Missing => true,
        Presence::Awake => changed_since,
        Presence::Unseen => false,
    }
}

/// The window that opens so soon that the wake begins now: by learned boot times, or as the owner
/// says.
fn ahead(scene: &Scene<'_>, host: &HostName, settings: &Host) -> Option<(String, Timestamp)> {
    let (policy, opening) = scene.policy.next_opening(host, scene.now.civil, &scene.backups)?;
    let due = || opening.opens <= scene.now.civil + lead(scene, host, settings);
    let wakes = begun(scene, host, opening.opens) || due();
    wakes.then(|| (policy.to_owned(), opening.opens))
}

/// Hosts to be woken because the cluster has too few votes.
///
/// Without quorum every absent host with votes helps. With quorum and a `spare` to keep, as many as
/// it takes: resting hosts before vanished ones, which may have no power, and nobody whose wake has
/// just failed; then in order of tier and name.
pub fn rescued(scene: &Scene<'_>) -> BTreeSet<HostName> {
    let quorum = scene.policy.quorum();
    if quorum.rescue == Rescue::Tell {
        return BTreeSet::new();
    }
    short_of_votes(scene)
}

/// The same hosts whatever the owner wants done about it.
pub fn short_of_votes(scene: &Scene<'_>) -> BTreeSet<HostName> {
    let mut helping = BTreeSet::new();
    let members = scene.seen.members();
    let absent = || scene.by_tier().into_iter().filter(|host| !members.contains(host));
    let votes = |host: &HostName| match &scene.ledger.votes {
        Some((_, votes)) => votes.get(host).copied().unwrap_or(0),
        // Not known: it may help.
        None => 1,
    };
    match scene.seen.quorate {
        None => {}
        Some(false) => helping.extend(absent().filter(|host| votes(host) > 0)),
        Some(true) => {
            let spare = scene.policy.quorum().spare;
            let Some(count) = scene.ledger.vote_count(&members, false).filter(|_| spare > 0) else {
                return helping;
            };
            let wanted = count.needed.saturating_add(spare);
            let mut coming = count.present;
            let mut willing: Vec<HostName> =
                absent().filter(|host| votes(host) > 0 && may_wake(scene, host)).collect();
            willing.sort_by_key(|host| scene.ledger.host(host).presence == Presence::Missing);
            for host in willing {
                if coming >= wanted {
                    break;
                }
                coming += votes(&host);
                helping.insert(host);
            }
        }
    }
    helping
}

/// Whether a packet may be expected to wake it: not frozen, with an address, and no wake just
/// failed.
fn may_wake(scene: &Scene<'_>, host: &HostName) -> bool {
    let record = scene.ledger.host(host);
    let addressed = scene.policy.host(host).is_some_and(|settings| !settings.macs.is_empty());
    addressed && !scene.ledger.frozen.contains_key(host) && record.failed_wakes == 0
}
