//! Time planned backwards: how early a wake begins, so that everybody is there when the window
//! opens.
//!
//! What is learned decides: the slowest of the latest boots, the guests that would come by the
//! pace of the links they come over, and by how much the last estimates fell short. A host whose
//! boot was never measured is woken when its window opens, and measured then. From the first packet
//! on the estimate stands: as guests arrive there is less to come, and a wish that shrank with it
//! would end itself.
//!
//! **Does not know:** who else wants the host, whether quiet hours forbid its wake.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::housing::memory_of;
use super::pacing::{link, overhead};
use super::placement::rule;
use super::schedule::{Link, Transfer, Yard};
use super::{Plan, Scene};
use crate::cluster::{GuestKind, GuestSeen, HostName, RunState, Tier, Vmid};
use crate::ledger::{Entry, Expected, Presence};
use crate::policy::{Ahead, Host};
use crate::request::{Move, Request};

/// Windows that open later than this are no matter for today.
const LOOKS_AHEAD: Duration = Duration::from_secs(12 * 3600);
/// No wake begins earlier than this before its window.
const LONGEST_LEAD: Duration = Duration::from_secs(4 * 3600);
/// Starting what was put away there.
const STARTS_TAKE: Duration = Duration::from_secs(20);
/// A container's stop and start, around its move by a restart.
const RESTART_TAKES: Duration = Duration::from_secs(30);

/// How a wake ahead of a window is planned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Estimate {
    pub policy: String,
    /// When the window opens, and everybody is there.
    pub opens: Timestamp,
    pub boot_seconds: u64,
    pub guests: u32,
    pub move_seconds: u64,
    /// By how much the last estimates fell short.
    pub late_seconds: u64,
    /// The wake has begun.
    pub begun: Option<Timestamp>,
    /// Quiet hours at that time, and their end.
    pub quiet_until: Option<Timestamp>,
}

impl Estimate {
    pub fn wakes_at(&self) -> Timestamp {
        self.begun.or_else(|| self.opens.checked_sub(self.lead()).ok()).unwrap_or(self.opens)
    }

    fn lead(&self) -> Duration {
        let seconds = self.boot_seconds + self.move_seconds + self.late_seconds;
        Duration::from_secs(seconds).min(LONGEST_LEAD)
    }
}

/// What fills a host once it is awake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filling {
    pub guests: u32,
    pub seconds: u64,
}

/// How long before a window its wake begins.
pub fn lead(scene: &Scene<'_>, host: &HostName, settings: &Host) -> Duration {
    match settings.ahead {
        Ahead::By(lead) => lead,
        Ahead::Auto => {
            let record = scene.ledger.host(host);
            let Some(boot) = record.boot_seconds() else { return Duration::ZERO };
            let boot = Duration::from_secs(boot).min(settings.boot_within);
            let filling = scene.filling(host).seconds + record.late_seconds();
            (boot + Duration::from_secs(filling)).min(LONGEST_LEAD)
        }
    }
}

/// The wake for this window has begun already.
pub fn begun(scene: &Scene<'_>, host: &HostName, opens: Timestamp) -> bool {
    expected(scene, host).is_some_and(|expected| expected.opens == opens)
}

fn expected<'a>(scene: &Scene<'a>, host: &HostName) -> Option<&'a Expected> {
    scene.ledger.hosts.get(host).and_then(|record| record.expected.as_ref())
}

/// The estimate for the next window of every host that is to be woken for it.
pub fn estimates(scene: &Scene<'_>) -> BTreeMap<HostName, Estimate> {
    let one = |(host, settings): (&HostName, &Host)| {
        Some((host.clone(), estimate(scene, host, settings)?))
    };
    scene.policy.hosts().iter().filter_map(one).collect()
}

fn estimate(scene: &Scene<'_>, host: &HostName, settings: &Host) -> Option<Estimate> {
    let record = scene.ledger.hosts.get(host)?;
    if let Some(expected) = &record.expected {
        return Some(Estimate {
            policy: expected.policy.clone(),
            opens: expected.opens,
            boot_seconds: expected.boot_seconds,
            guests: expected.guests,
            move_seconds: expected.move_seconds,
            late_seconds: 0,
            begun: Some(expected.began),
            quiet_until: None,
        });
    }
    let sleeps = scene.seen.hosts.get(host).is_some_and(|look| look.member == Some(false));
    if settings.ahead != Ahead::Auto || settings.tier == Tier::Low || !sleeps {
        return None;
    }
    let boot = Duration::from_secs(record.boot_seconds()?).min(settings.boot_within);
    let (policy, opening) = scene.policy.next_opening(host, scene.now.civil, &scene.backups)?;
    let filling = scene.filling(host);
    let mut estimate = Estimate {
        policy: policy.to_owned(),
        opens: opening.opens,
        boot_seconds: boot.as_secs(),
        guests: filling.guests,
        move_seconds: filling.seconds,
        late_seconds: record.late_seconds(),
        begun: None,
        quiet_until: None,
    };
    let quiet = scene.policy.quiet_now(host, estimate.wakes_at());
    estimate.quiet_until = quiet.and_then(|quiet| quiet.closes);
    Some(estimate)
}

/// What experience is to be kept of this turn: a wake that began ahead of a window by an estimate,
/// and one whose guests are all there.
pub fn lessons(scene: &Scene<'_>, plan: &Plan) -> Vec<Entry> {
    let mut lessons = Vec::new();
    for (host, settings) in scene.policy.hosts() {
        let record = scene.ledger.host(host);
        match &record.expected {
            Some(expected) if record.ready.is_some() && !filling(scene, plan, host) => {
                let took = scene.now.civil.duration_since(expected.began).as_secs();
                lessons.push(Entry::WakeServed {
                    host: host.clone(),
                    opens: expected.opens,
                    expected_seconds: expected.seconds(),
                    took_seconds: u64::try_from(took).unwrap_or(0),
                });
            }
            Some(_) => {}
            None => lessons.extend(beginning(scene, plan, host, settings, record.presence)),
        }
    }
    lessons
}

/// Somebody is still on the way to it, or waits for his turn.
fn filling(scene: &Scene<'_>, plan: &Plan, host: &HostName) -> bool {
    let planned = plan.moves.iter().any(|planned| match &planned.purpose {
        Move::Place(_, to) => to == host,
        Move::Wake(_) | Move::Empty(_) | Move::Rest(_) => false,
    });
    let on_its_way = |request: &Request| match request {
        Request::Migrate { to, .. } => to == host,
        Request::StartGuest { host: on, .. } => on == host,
        Request::Wake { .. }
        | Request::Hibernate { .. }
        | Request::ShutDownGuest { .. }
        | Request::PowerOff { .. } => false,
    };
    planned || scene.ledger.in_flight().any(|(_, _, asked)| on_its_way(&asked.request))
}

fn beginning(
    scene: &Scene<'_>,
    plan: &Plan,
    host: &HostName,
    settings: &Host,
    presence: Presence,
) -> Option<Entry> {
    let sleeps = match presence {
        Presence::Resting | Presence::Missing => true,
        Presence::Awake | Presence::Unseen => false,
    };
    let called = scene.ledger.undertaking(&Move::Wake(host.clone()));
    let called = called.is_some_and(|wake| wake.print.is_some());
    let ahead = plan.desire.get(host).and_then(|desire| desire.reasons.first());
    let ahead = matches!(ahead, Some(super::Reason::Ahead { .. }));
    if !(sleeps && called && ahead) {
        return None;
    }
    let Estimate { policy, opens, boot_seconds, guests, move_seconds, late_seconds, .. } =
        estimate(scene, host, settings)?;
    let (host, move_seconds) = (host.clone(), move_seconds + late_seconds);
    Some(Entry::WakeEstimated { host, policy, opens, boot_seconds, guests, move_seconds })
}

/// Who would come to each sleeping host whose window opens soon, and how long that takes.
pub fn fillings(scene: &Scene<'_>) -> BTreeMap<HostName, Filling> {
    let soon: BTreeSet<&HostName> = scene
        .policy
        .hosts()
        .iter()
        .filter(|(host, settings)| settings.tier != Tier::Low && opens_soon(scene, host))
        .map(|(host, _)| host)
        .collect();
    if soon.is_empty() {
        return BTreeMap::new();
    }
    let mut coming: BTreeMap<&HostName, Vec<(&HostName, Vmid, &GuestSeen)>> = BTreeMap::new();
    for (vmid, guest) in &scene.seen.guests {
        if let Some(to) = goes_to(scene, &soon, *vmid, guest) {
            coming.entry(to).or_default().push((&guest.host, *vmid, guest));
        }
    }
    let mut parked: BTreeMap<&HostName, u32> = BTreeMap::new();
    for record in scene.ledger.guests.values() {
        if let Some(parked_guest) = &record.parked {
            *parked.entry(&parked_guest.host).or_default() += 1;
        }
    }
    let filling = |host: &HostName| {
        let guests = coming.get(host).map(Vec::as_slice).unwrap_or_default();
        let put_away = parked.get(host).copied().unwrap_or(0);
        let starts = if put_away > 0 { STARTS_TAKE } else { Duration::ZERO };
        Filling {
            guests: u32::try_from(guests.len()).unwrap_or(u32::MAX).saturating_add(put_away),
            seconds: (moves_take(scene, host, guests) + starts).as_secs(),
        }
    };
    soon.into_iter().map(|host| (host.clone(), filling(host))).collect()
}

fn opens_soon(scene: &Scene<'_>, host: &HostName) -> bool {
    let sleeps = scene.seen.hosts.get(host).is_some_and(|look| look.member == Some(false));
    let next = || scene.policy.next_opening(host, scene.now.civil, &scene.backups);
    sleeps && next().is_some_and(|(_, opening)| opening.opens <= scene.now.civil + LOOKS_AHEAD)
}

/// The sleeping host that a running guest would rather be on, unless a better one is awake.
fn goes_to<'a>(
    scene: &Scene<'a>,
    soon: &BTreeSet<&'a HostName>,
    vmid: Vmid,
    guest: &GuestSeen,
) -> Option<&'a HostName> {
    if guest.template || guest.status != RunState::Running || guest.ha.is_some() {
        return None;
    }
    let rule = rule(scene, vmid, guest).filter(|rule| !rule.pinned)?;
    if guest.kind == GuestKind::Ct && !rule.restart {
        return None;
    }
    let wanted = |host: &HostName| {
        let low = scene.policy.host(host).is_some_and(|settings| settings.tier == Tier::Low);
        low || scene.policy.opening(host, scene.now.civil, &scene.backups).is_some()
    };
    for host in &rule.prefer {
        if let Some(host) = soon.get(host) {
            return Some(*host);
        }
        if *host == guest.host || wanted(host) {
            return None;
        }
    }
    None
}

/// How long it takes until all of them have arrived.
fn moves_take(
    scene: &Scene<'_>,
    target: &HostName,
    guests: &[(&HostName, Vmid, &GuestSeen)],
) -> Duration {
    let from: BTreeSet<&HostName> = guests.iter().map(|(from, _, _)| *from).collect();
    let sources: Vec<&HostName> = from.into_iter().collect();
    let mut links: Vec<Link> = sources.iter().map(|host| link(scene, host)).collect();
    links.push(link(scene, target));
    let mut restarts = Duration::ZERO;
    let mut transfers = Vec::new();
    for (from, vmid, guest) in guests {
        let bytes = match guest.kind {
            GuestKind::Vm => memory_of(scene, *vmid, guest).unwrap_or(0),
            GuestKind::Ct => {
                restarts += RESTART_TAKES;
                0
            }
        };
        let from = sources.binary_search(from).expect("every source was collected");
        let to = sources.len();
        transfers.push(Transfer { from, to, bytes: bytes as f64, class: 0 });
    }
    let each = scene.bandwidth().map(|bytes| bytes as f64);
    let at_once = scene.policy.migrations().per_host.max(1);
    Yard { links: &links, each, overhead: overhead() }.lasts(&transfers, &[]) + restarts / at_once
}
