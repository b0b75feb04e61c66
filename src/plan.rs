//! What ought to happen: the order of questions by which a policy, an observation and the ledger
//! become a [`Plan`].
//!
//! Pure and total. It takes no input about *what changed*: one code path for the happy and the
//! repairing case. Nothing here acts; the next requests of each move are planned anew every turn,
//! and the gate judges each of them without believing a word of this file.
//!
//! **Does not know:** clocks, sockets, the gate's clauses, how requests are sent.

pub mod ahead;
pub mod assignment;
pub mod desire;
pub mod emptying;
pub mod foresight;
pub mod hold;
mod housing;
pub mod inhibit;
mod pacing;
pub mod passage;
pub mod placement;
mod resting;
mod rights;
pub mod schedule;
#[cfg(test)]
mod tests;
mod waking;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use crate::cluster::{BackupRun, ClockState, HostName, Moment, Observation, Question, Tier, Vmid};
use crate::ledger::{Entry, Ledger, Presence, Wants};
use crate::policy::Policy;
use crate::request::{Move, Request};
use crate::undertaking::{Stage, UndertakingId};

pub use desire::{Desire, HostState};
pub use foresight::Forecast;
pub use hold::{Hold, Reason};

use housing::Promised;

/// A request that is not settled by then is told.
const SLOW_REQUEST: Duration = Duration::from_secs(3600);
/// The journal's last entry may be this much ahead of the clock: clocks are slewed now and then.
const CLOCK_BEHIND: Duration = Duration::from_secs(2);
/// After the last sign of another `spot` nothing is moved or switched off for so long.
const STRANGER_FOR: Duration = Duration::from_secs(1800);
/// A guest on its target whose run is not reported by then has not come up; its placing is dropped.
const ARRIVES_WITHIN: Duration = Duration::from_secs(600);

/// What ought to happen next, and why the rest does not.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Per host of the policy, and per host of the cluster the policy does not name.
    pub desire: BTreeMap<HostName, Desire>,
    /// How each host stands.
    pub states: BTreeMap<HostName, HostState>,
    pub moves: Vec<PlannedMove>,
    /// Open undertakings that end now, without their purpose having been seen.
    pub endings: Vec<Ending>,
    /// Hosts that a window or lease wants now: from here on spot's to switch off.
    pub claims: Vec<(HostName, String)>,
    /// How the wakes ahead of the next windows are planned.
    pub ahead: BTreeMap<HostName, ahead::Estimate>,
    /// What experience is to be remembered of this turn.
    pub lessons: Vec<Entry>,
    pub holds: Vec<Hold>,
    /// Guests that will not move when it comes to that, and what will happen to them.
    pub forecasts: Vec<Forecast>,
    pub questions: BTreeSet<Question>,
    /// When to look again at the latest, if nothing else happens before.
    pub revisit_at: Option<Timestamp>,
}

/// One move, with what should be asked next for it (nothing while its requests are in flight).
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedMove {
    pub purpose: Move,
    pub because: String,
    pub requests: Vec<Request>,
}

/// An undertaking that ends without its purpose having been seen.
#[derive(Clone, Debug, PartialEq)]
pub struct Ending {
    pub id: UndertakingId,
    pub stage: Stage,
    pub because: String,
}

/// How often a QDevice that did not vote is looked at again.
const RECOUNTED_AFTER: Duration = Duration::from_secs(300);

/// PVE's backup jobs are read so often, a little before the last answer is forgotten.
const BACKUPS_AGAIN: Duration = Duration::from_secs(540);
/// … and sooner when they could not be read.
const BACKUPS_AFTER_A_GAP: Duration = Duration::from_secs(120);

/// Everything a plan is made from.
pub struct Scene<'a> {
    pub policy: &'a Policy,
    pub seen: &'a Observation,
    pub ledger: &'a Ledger,
    pub now: Moment,
    /// PVE's backups that are due or at work.
    pub backups: Vec<BackupRun>,
    /// Who would come to hosts that wake soon; added up once, when somebody first asks.
    fillings: std::cell::OnceCell<BTreeMap<HostName, ahead::Filling>>,
}

impl Scene<'_> {
    fn filling(&self, host: &HostName) -> ahead::Filling {
        let all = self.fillings.get_or_init(|| ahead::fillings(self));
        all.get(host).copied().unwrap_or_default()
    }

    /// Hosts of the policy, the cheapest tier first, then by name.
    fn by_tier(&self) -> Vec<HostName> {
        let mut hosts: Vec<(Tier, &HostName)> =
            self.policy.hosts().iter().map(|(name, host)| (host.tier, name)).collect();
        hosts.sort();
        hosts.into_iter().map(|(_, name)| name.clone()).collect()
    }

    /// What one migration may take of a link, so that as many as may run at once keep within what
    /// its owner allows.
    fn bandwidth(&self) -> Option<u64> {
        let migrations = self.policy.migrations();
        migrations.bandwidth.map(|bytes| bytes / u64::from(migrations.per_host.max(1)))
    }

    /// Guests for whom something is in flight.
    fn in_flight_guests(&self) -> BTreeSet<Vmid> {
        self.ledger.in_flight().filter_map(|(_, _, asked)| asked.request.guest()).collect()
    }

    /// Whether something is in flight for a guest.
    fn in_flight(&self, guest: Vmid) -> bool {
        self.ledger.in_flight().any(|(_, _, asked)| asked.request.guest() == Some(guest))
    }
}

/// Configurations asked for in one plan: each is two reads, and emptying may want hundreds.
const FACTS_A_TURN: usize = 16;

impl Plan {
    /// Asks for the configuration of a guest, unless enough are asked for already.
    fn ask_facts(&mut self, guest: Vmid) {
        let asked =
            self.questions.iter().filter(|question| matches!(question, Question::Guest(_))).count();
        if asked < FACTS_A_TURN {
            self.questions.insert(Question::Guest(guest));
        }
    }

    fn hold(&mut self, hold: Hold) {
        if !self.holds.contains(&hold) {
            self.holds.push(hold);
        }
    }

    fn revisit(&mut self, at: Timestamp) {
        self.revisit_at = Some(self.revisit_at.map_or(at, |known| known.min(at)));
    }
}

/// The plan for this turn: the order of the questions is the policy of the house.
pub fn plan(policy: &Policy, seen: &Observation, ledger: &Ledger, now: Moment) -> Plan {
    let backups = ledger.backups.runs(now.civil);
    let scene = Scene { policy, seen, ledger, now, backups, fillings: std::cell::OnceCell::new() };
    let mut plan = Plan::default();
    ask_votes(&scene, &mut plan);
    ask_backups(&scene, &mut plan);
    rights::ask(&scene, &mut plan);
    stand(&scene, &mut plan);
    tell_doubts(&scene, &mut plan);
    for host in scene.by_tier() {
        waking::wake(&scene, &mut plan, &host);
    }
    // Without a whole look, or by a clock that may be wrong, nothing is moved and nothing is
    // switched off: a wrong clock would carry every guest out of its window and back. What is under
    // way goes on.
    if !seen.whole() {
        let what = seen.gaps.first().map_or("the cluster was not seen".into(), ToString::to_string);
        plan.hold(Hold::Unseen { what });
    } else if !clock_sound(&scene) {
        plan.hold(Hold::ClockUnsure);
    } else if let Some((what, until)) = stranger(&scene) {
        plan.hold(Hold::AnotherSpot { what, until });
        plan.revisit(until);
    } else {
        let mut promised = Promised::in_flight(&scene);
        resting::rest(&scene, &mut plan, &mut promised);
        placement::place(&scene, &mut plan, &mut promised);
        pacing::begin(&scene, &mut plan);
        foresight::look_ahead(&scene, &mut plan);
        plan.lessons = ahead::lessons(&scene, &plan);
    }
    plan.ahead = ahead::estimates(&scene);
    drop_unwanted(&scene, &mut plan);
    edges(&scene, &mut plan);
    plan
}

fn clock_sound(scene: &Scene<'_>) -> bool {
    let synchronised = match scene.seen.clock {
        ClockState::Synchronised => true,
        ClockState::Unsynchronised | ClockState::Unknown => false,
    };
    let ahead = scene.ledger.last_at.is_none_or(|last| scene.now.civil + CLOCK_BEHIND >= last);
    synchronised && ahead && scene.ledger.clock_stepped.is_none()
}

/// Who else acts in our place, while the last sign of it is fresh.
fn stranger(scene: &Scene<'_>) -> Option<(String, Timestamp)> {
    let (at, what) = scene.ledger.stranger.as_ref()?;
    let until = *at + STRANGER_FOR;
    (scene.now.civil < until).then(|| (what.clone(), until))
}

/// How every host stands and what is wanted of it, before anything is decided.
fn stand(scene: &Scene<'_>, plan: &mut Plan) {
    let rescued = desire::rescued(scene);
    let hosts: BTreeSet<&HostName> =
        scene.policy.hosts().keys().chain(scene.seen.hosts.keys()).collect();
    for host in hosts {
        plan.states.insert(host.clone(), desire::state(scene, host));
        plan.desire.insert(host.clone(), desire::desire(scene, host, &rescued));
    }
    for (host, desire) in &plan.desire {
        let wanted_by = desire.reasons.iter().find(|reason| match reason {
            Reason::Window { .. } | Reason::LeaseAwake { .. } => true,
            Reason::AlwaysOn
            | Reason::Frozen { .. }
            | Reason::Rescue { .. }
            | Reason::LeaseRest { .. }
            | Reason::Emptying { .. }
            | Reason::Proving
            | Reason::Ahead { .. }
            | Reason::Unmanaged
            | Reason::Nothing => false,
        });
        let record = scene.ledger.host(host);
        if let Some(reason) = wanted_by
            && record.presence == Presence::Awake
            && !record.wanted
        {
            plan.claims.push((host.clone(), reason.to_string()));
        }
    }
    // A host that came up, or is being watched on its way, is asked how far it is.
    for host in scene.policy.hosts().keys() {
        let record = scene.ledger.host(host);
        if record.presence == Presence::Awake && record.ready.is_none() {
            plan.questions.insert(Question::Readiness(host.clone()));
        }
    }
}

/// Votes for planning are read again when corosync.conf changed, and at no other time.
fn ask_votes(scene: &Scene<'_>, plan: &mut Plan) {
    let Some(version) = scene.seen.config_version else { return };
    if scene.ledger.votes.as_ref().is_none_or(|(at, _)| *at != version) {
        plan.questions.insert(Question::ConfiguredVotes);
    }
    // A device that did not vote is asked about again, for it may well be back.
    let device_known = |asked: &Question| match scene.ledger.device {
        Some((at, votes, cast)) if at == version => {
            votes == 0 || cast || scene.seen.answer(asked, RECOUNTED_AFTER).is_some()
        }
        Some(_) | None => false,
    };
    if let Some(host) = &scene.seen.seen_from
        && !device_known(&Question::Evidence(host.clone()))
    {
        plan.questions.insert(Question::Evidence(host.clone()));
    }
}

/// PVE's backup jobs are read while some policy opens its windows by them, and at no other time.
fn ask_backups(scene: &Scene<'_>, plan: &mut Plan) {
    if !scene.policy.rules().iter().any(|rule| rule.for_backups.is_some()) {
        return;
    }
    let read = scene.seen.answers.get(&Question::BackupJobs);
    let due = read.is_none_or(|read| {
        let again = if read.answer.is_ok() { BACKUPS_AGAIN } else { BACKUPS_AFTER_A_GAP };
        scene.seen.turn_began.since(read.asked) >= again
    });
    if due {
        plan.questions.insert(Question::BackupJobs);
    }
    if let Some(why) = backups_unseen(scene) {
        for host in scene.policy.hosts().keys() {
            let Some((policy, _)) = scene.policy.backups(host).next() else { continue };
            let (host, policy) = (host.clone(), policy.to_owned());
            plan.hold(Hold::BackupsUnseen { host, policy, why: why.clone() });
        }
    }
}

/// Why the backup jobs could not be read, if they could not.
fn backups_unseen(scene: &Scene<'_>) -> Option<String> {
    match &scene.seen.answers.get(&Question::BackupJobs)?.answer {
        Ok(_) => None,
        Err(gap) => Some(gap.why.clone()),
    }
}

/// Doubts that are told whatever else happens.
fn tell_doubts(scene: &Scene<'_>, plan: &mut Plan) {
    for (host, settings) in scene.policy.hosts() {
        let look = scene.seen.hosts.get(host);
        if scene.seen.quorate.is_some() && !look.is_some_and(|look| look.listed) {
            plan.hold(Hold::UnknownHost { host: host.clone() });
        }
        let record = scene.ledger.host(host);
        if record.presence == Presence::Missing {
            plan.hold(Hold::HostMissing { host: host.clone() });
        }
        if let (Presence::Resting, Some(at_leave), Some(now)) =
            (record.presence, record.config_version_at_leave, scene.ledger.config_version)
            && now > at_leave
        {
            plan.hold(Hold::ConfigRose { host: host.clone(), at_leave, now });
        }
        let gone = matches!(plan.states.get(host), Some(HostState::Resting | HostState::Missing));
        if settings.tier == Tier::Low && gone {
            plan.hold(Hold::LowAbsent { host: host.clone() });
        }
    }
    for (_, _, asked) in scene.ledger.in_flight() {
        if let Some(guest) = asked.request.guest()
            && scene.now.civil >= asked.asked + SLOW_REQUEST
        {
            let host = asked.request.hosts().first().map(|host| (*host).clone());
            let why = format!("asked over an hour ago and not over: {}", asked.request);
            plan.hold(Hold::GuestWaits { guest, host, why, until: None });
        }
    }
    let wanted = desire::short_of_votes(scene);
    match scene.policy.quorum().rescue {
        crate::policy::Rescue::Tell => {
            for host in wanted {
                plan.hold(Hold::RescueTold { host });
            }
        }
        crate::policy::Rescue::Wake => {
            let members = scene.seen.members();
            let anybody_left = scene.policy.hosts().keys().any(|host| !members.contains(host));
            if scene.seen.quorate == Some(false) && !anybody_left {
                let why = "every host of the policy is already up".into();
                plan.hold(Hold::RescueImpossible { why });
            }
        }
    }
}

/// Open undertakings that the plan no longer wants end, once nothing of theirs is in flight: a
/// running migration is finished, never aborted.
fn drop_unwanted(scene: &Scene<'_>, plan: &mut Plan) {
    // What was not planned because it could not be seen is not unwanted.
    if !scene.seen.whole() || !clock_sound(scene) || stranger(scene).is_some() {
        return;
    }
    for one in scene.ledger.undertakings.values().filter(|one| one.open()) {
        let wanted = plan.moves.iter().any(|planned| planned.purpose == one.purpose)
            || arriving(scene, &one.purpose, one.since);
        let ended = plan.endings.iter().any(|ending| ending.id == one.id);
        if !wanted && !ended && one.in_flight.is_empty() {
            let because = "it is no longer wanted, or held".to_owned();
            plan.endings.push(Ending { id: one.id, stage: Stage::Dropped, because });
        }
    }
}

/// Whether a guest is where it was to go, and only PVE's report that it runs is still to come.
fn arriving(scene: &Scene<'_>, purpose: &Move, since: Timestamp) -> bool {
    match purpose {
        Move::Place(guest, host) => {
            let there = scene.seen.guests.get(guest).is_some_and(|look| look.host == *host);
            there && scene.now.civil < since + ARRIVES_WITHIN
        }
        Move::Wake(_) | Move::Empty(_) | Move::Rest(_) => false,
    }
}

/// The next instants at which the plan may change by itself.
fn edges(scene: &Scene<'_>, plan: &mut Plan) {
    let now = scene.now.civil;
    let mut edges: Vec<Timestamp> = Vec::new();
    for (host, settings) in scene.policy.hosts() {
        if settings.tier == Tier::Low {
            continue;
        }
        if let Some((_, opening)) = scene.policy.next_opening(host, now, &scene.backups) {
            let lead = ahead::lead(scene, host, settings);
            edges.extend(opening.opens.checked_sub(lead).ok());
            edges.push(opening.opens);
        }
        if let Some((_, opening)) = scene.policy.opening(host, now, &scene.backups) {
            edges.extend(opening.closes);
        }
    }
    edges.extend(scene.ledger.leases.values().filter_map(|lease| lease.until));
    edges.extend(plan.holds.iter().filter_map(Hold::until));
    for edge in edges.into_iter().filter(|edge| *edge > now) {
        plan.revisit(edge);
    }
}

/// Whether a person granted the host a lease, an emptying or a proof after `since`.
fn commanded_since(scene: &Scene<'_>, host: &HostName, since: Timestamp) -> bool {
    let lease = scene.ledger.leases.get(host);
    let asked = lease.is_some_and(|lease| lease.wants == Wants::Awake && lease.granted >= since);
    asked || scene.ledger.proving.get(host).is_some_and(|asked| *asked >= since)
}
