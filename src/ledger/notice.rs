//! What changed, as entries: the only place where an observation becomes memory.
//!
//! Pure: the ledger and one observation in, entries out, each folded into a scratch copy before the
//! next is considered, so that a second call with the same observation gives nothing. A request
//! that was sent is *settled* here and nowhere else, by what is seen of the world: a task's OK
//! alone is never success (HA tasks end `OK` with nothing done; a guest arrives before its lock is
//! gone).
//!
//! **Does not know:** whether a change was wanted.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{Entry, Leaving, Ledger, Parked, Presence};
use crate::cluster::quorum::disorder::written_device_votes;
use crate::cluster::{
    Answer, ClockState, HostName, HostSeen, Observation, Question, Readiness, RunState, TaskSeen,
    Vmid, shutdown_began,
};
use crate::request::{Answered, Migration, Move, Request};
use crate::undertaking::{Event, InFlight, Outcome, Stage};

/// Two looks this far apart must both find a host ready (`pve-api.md` section 13).
const READY_TWICE_WITHIN: Duration = Duration::from_secs(5);
/// PVE forwards with a 30 s limit: only after it may a lost request be called never begun.
const LOOK_UP_AFTER: Duration = Duration::from_secs(35);
/// How long a task that ended OK may go without its effect: an HA manager takes rounds of 10 s, and
/// starts the real migration only then.
const EFFECT_WITHIN: Duration = Duration::from_secs(600);
/// A lock that outlives its task by this much has been left behind.
const STALE_LOCK_AFTER: Duration = Duration::from_secs(300);
/// An empty host that has not begun to stop after this has ignored the request.
const STOP_BEGINS_WITHIN: Duration = Duration::from_secs(600);
/// Clocks of hosts and of ours may differ by this much where a task's start is compared.
const CLOCK_SKEW: Duration = Duration::from_secs(90);
/// Somebody else's reboot, or a board that comes back with the mains, takes less than this.
const SILENT_BEFORE: Duration = Duration::from_secs(600);
/// Membership lost for less than this may be a lost token: what is in flight is not given up.
const GONE_FOR: Duration = Duration::from_secs(60);
/// A guest that PVE gave up on may still go down by itself for this long.
const STOPS_LATE: Duration = Duration::from_secs(3600);
/// A host's uptime is in whole seconds and was asked a moment before it is compared.
const BOOT_MARGIN: Duration = Duration::from_secs(5);
/// A host whose reported uptime falls short of what it must be by this much has booted meanwhile.
/// (Reports may be frozen for 5 minutes.)
const REBOOT_MARGIN: Duration = Duration::from_secs(600);

/// Every change between what the ledger remembers and what was seen.
pub fn notice(ledger: &Ledger, seen: &Observation) -> Vec<Entry> {
    let mut changes = Changes { ledger: ledger.clone(), seen, at: seen.at.civil, entries: vec![] };
    // Without the cluster's status nothing is known of anybody, and nothing is concluded.
    if seen.quorate.is_none() {
        return vec![];
    }
    changes.config_version();
    changes.votes();
    for (host, look) in &seen.hosts {
        changes.host(host, look);
    }
    if seen.saw("resources") {
        changes.guests();
    }
    changes.backups();
    changes.strangers();
    changes.requests();
    changes.undertakings();
    changes.entries
}

/// What must be asked to learn what became of the requests in flight.
pub fn questions(ledger: &Ledger, seen: &Observation) -> BTreeSet<Question> {
    let mut questions = BTreeSet::new();
    for (_, _, asked) in ledger.in_flight() {
        let runs_on = match &asked.request {
            Request::Migrate { from, .. } => from,
            Request::Hibernate { host, .. }
            | Request::ShutDownGuest { host, .. }
            | Request::StartGuest { host, .. } => host,
            Request::PowerOff { host } => {
                if seen.at.civil >= asked.asked + STOP_BEGINS_WITHIN {
                    questions.insert(Question::Readiness(host.clone()));
                }
                continue;
            }
            Request::Wake { .. } => continue,
        };
        match &asked.answered {
            Some(Answered::Accepted { task: Some(upid) }) => {
                if !seen.tasks.iter().any(|task| task.upid == *upid && !task.running()) {
                    questions.insert(Question::Task(upid.clone()));
                }
            }
            None | Some(Answered::Ambiguous { .. } | Answered::Accepted { task: None }) => {
                questions.insert(lookup(asked, runs_on));
            }
            Some(
                Answered::Sent { .. } | Answered::Refused { .. } | Answered::Undelivered { .. },
            ) => {}
        }
        if let Some(guest) = asked.request.guest()
            && let Some(look) = seen.guests.get(&guest)
        {
            let arrived_stopped = look.host != *runs_on && !look.status.may_run();
            if look.status == RunState::Unknown || arrived_stopped {
                questions.insert(Question::LiveGuests(look.host.clone()));
            }
        }
    }
    questions
}

/// Where a request whose answer was lost is looked for.
fn lookup(asked: &InFlight, host: &HostName) -> Question {
    Question::Tasks {
        host: host.clone(),
        guest: asked.request.guest(),
        since: asked.asked - CLOCK_SKEW,
    }
}

struct Changes<'a> {
    ledger: Ledger,
    seen: &'a Observation,
    at: Timestamp,
    entries: Vec<Entry>,
}

impl Changes<'_> {
    fn note(&mut self, entry: Entry) {
        self.ledger.take(self.at, &entry).expect("an entry made from this very ledger follows it");
        self.entries.push(entry);
    }

    fn config_version(&mut self) {
        if let Some(version) = self.seen.config_version
            && self.ledger.config_version != Some(version)
        {
            self.note(Entry::ConfigVersion { version });
        }
    }

    /// Votes for planning, read again after every change of corosync.conf.
    fn votes(&mut self) {
        let Some(version) = self.seen.config_version else { return };
        let configured = self.seen.answers.get(&Question::ConfiguredVotes);
        if let Some(Ok(Answer::ConfiguredVotes(votes))) = configured.map(|one| &one.answer) {
            let known = self.ledger.votes.as_ref();
            if known.is_none_or(|(at, known)| (*at, known) != (version, votes)) {
                self.note(Entry::VotesSeen { version, votes: votes.clone() });
            }
        }
        let evidence = self.seen.answers.iter().filter_map(|(question, stamped)| {
            match (question, &stamped.answer) {
                (Question::Evidence(_), Ok(Answer::Evidence(evidence))) => {
                    Some((stamped.asked, evidence))
                }
                (_, Ok(_) | Err(_)) => None,
            }
        });
        if let Some((_, newest)) = evidence.max_by_key(|(asked, _)| *asked)
            && newest.conf.config_version == Some(version)
        {
            let cast = newest.device_votes.is_some_and(|votes| votes > 0);
            let votes = written_device_votes(&newest.conf);
            if self.ledger.device != Some((version, votes, cast)) {
                self.note(Entry::DeviceSeen { version, votes, cast });
            }
        }
    }

    /// PVE's jobs when they changed, and the backups that began or are over.
    fn backups(&mut self) {
        let listed = self.seen.answers.get(&Question::BackupJobs);
        if let Some(Ok(Answer::BackupJobs(jobs))) = listed.map(|one| &one.answer) {
            let known = &self.ledger.backups;
            if known.watched.is_none() || known.jobs != *jobs {
                self.note(Entry::BackupJobs { jobs: jobs.clone() });
            }
        }
        if self.ledger.backups.watched.is_none() || !self.seen.saw("tasks") {
            return;
        }
        // What a host that is gone was doing stays in PVE's list as it was.
        let there = |host: &HostName| {
            self.seen.hosts.get(host).is_some_and(|look| look.member == Some(true))
        };
        let backups: Vec<&TaskSeen> =
            self.seen.tasks.iter().filter(|task| task.kind == "vzdump").collect();
        let mut entries = Vec::new();
        for (upid, backup) in &self.ledger.backups.running {
            let task = backups.iter().find(|task| task.upid == *upid);
            let how = match task.map(|task| &task.ended) {
                _ if !there(&backup.host) => "its host is gone",
                None => "it is no longer listed",
                Some(Some(how)) => how,
                Some(None) => continue,
            };
            let (host, how) = (backup.host.clone(), how.to_owned());
            entries.push(Entry::BackupOver { host, upid: upid.clone(), how });
        }
        for task in backups {
            let backups = &self.ledger.backups;
            let news = !backups.running.contains_key(&task.upid)
                && match &task.ended {
                    None => there(&task.host),
                    Some(_) => backups.unseen(task),
                };
            let storages = backups.storages_of(task);
            if !news || storages.is_empty() {
                continue;
            }
            let (host, upid) = (task.host.clone(), task.upid.clone());
            let (started, over) = (task.started, (host.clone(), upid.clone()));
            entries.push(Entry::BackupBegan { host, upid, started, storages });
            if let (Some(how), (host, upid)) = (task.ended.clone(), over) {
                entries.push(Entry::BackupOver { host, upid, how });
            }
        }
        for entry in entries {
            self.note(entry);
        }
    }

    fn host(&mut self, host: &HostName, look: &HostSeen) {
        let record = self.ledger.host(host);
        match (look.member, record.presence) {
            (None, _) => {}
            (Some(true), Presence::Awake) => {
                if self.clock_holds() && rebooted(&record, look, self.at) {
                    self.left(host);
                    self.came(host, look, false);
                }
                self.readiness(host);
            }
            (Some(true), Presence::Unseen) => self.came(host, look, true),
            (Some(true), Presence::Resting | Presence::Missing) => self.came(host, look, false),
            (Some(false), Presence::Awake | Presence::Unseen) => self.left(host),
            // What a view without quorum left open: it went on our word.
            (Some(false), Presence::Missing) if self.quorate() && self.stopping(host) => {
                let (host, leaving, seconds) = (host.clone(), Leaving::Ours, None);
                let config_version = self.seen.config_version;
                self.note(Entry::HostLeft { host, leaving, config_version, seconds });
            }
            (Some(false), Presence::Resting | Presence::Missing) => {}
        }
    }

    /// Whether whoever shows this is one with the majority. Cut off from the others, a host sees
    /// everybody gone, and all of them may well be up.
    fn quorate(&self) -> bool {
        self.seen.quorate == Some(true)
    }

    /// Whether a power-off of ours is in flight for it.
    fn stopping(&self, host: &HostName) -> bool {
        self.ledger.in_flight().any(|(_, _, asked)| match &asked.request {
            Request::PowerOff { host: stopping } => stopping == host,
            Request::Wake { .. }
            | Request::Migrate { .. }
            | Request::Hibernate { .. }
            | Request::ShutDownGuest { .. }
            | Request::StartGuest { .. } => false,
        })
    }

    /// Whether times of now and times remembered can be compared.
    fn clock_holds(&self) -> bool {
        let synchronised = match self.seen.clock {
            ClockState::Synchronised => true,
            ClockState::Unsynchronised | ClockState::Unknown => false,
        };
        synchronised && self.ledger.clock_stepped.is_none()
    }

    fn came(&mut self, host: &HostName, look: &HostSeen, first_look: bool) {
        let same_boot = same_boot(&self.ledger.host(host), look, self.at);
        self.note(Entry::HostCame { host: host.clone(), first_look, same_boot });
    }

    fn left(&mut self, host: &HostName) {
        let record = self.ledger.host(host);
        let leaving = match (record.presence, record.power_off_asked) {
            (Presence::Unseen, _) => Leaving::BeforeFirstLook,
            // In order is only what the majority saw: until then it counts as missing.
            _ if !self.quorate() => Leaving::Vanished,
            (_, Some(_)) => Leaving::Ours,
            (_, None) if left_in_order(host, &record, &self.seen.tasks) => Leaving::Others,
            (_, None) => Leaving::Vanished,
        };
        let ours = record.power_off_asked.filter(|_| leaving == Leaving::Ours);
        let seconds = ours.map(|asked| whole_seconds(self.at, asked));
        let config_version = self.seen.config_version;
        self.note(Entry::HostLeft { host: host.clone(), leaving, config_version, seconds });
    }

    fn readiness(&mut self, host: &HostName) {
        let record = self.ledger.host(host);
        let Some((asked, readiness)) = self.readiness_since(host, record.since) else { return };
        if !readiness.ready() || record.ready.is_some() {
            return;
        }
        let Some(answering) = record.answering else {
            let uptime_seconds = readiness.uptime_seconds;
            return self.note(Entry::HostAnswered { host: host.clone(), uptime_seconds });
        };
        if asked < answering + READY_TWICE_WITHIN {
            return;
        }
        let wake = self.ledger.undertaking(&Move::Wake(host.clone())).cloned();
        let wake = wake.filter(|wake| wake.print.is_some());
        let boot_seconds = wake.as_ref().map(|wake| whole_seconds(self.at, wake.since));
        self.note(Entry::HostReady { host: host.clone(), boot_seconds });
        // Proven: it had left on our word, or had been silent for so long that it was not on its
        // way back by itself, and its boot came after our first packet.
        if let (Some(wake), Some(booted)) = (wake, record.booted)
            && record.left.is_some_and(|(left, how)| match how {
                Leaving::Ours => true,
                Leaving::Others | Leaving::BeforeFirstLook | Leaving::Vanished => {
                    left + SILENT_BEFORE <= wake.since
                }
            })
            && booted + BOOT_MARGIN >= wake.since
            && let Some(print) = wake.print
        {
            self.note(Entry::WakeProven { host: host.clone(), print });
        }
    }

    fn readiness_since(
        &self,
        host: &HostName,
        since: Option<Timestamp>,
    ) -> Option<(Timestamp, Readiness)> {
        let stamped = self.seen.answers.get(&Question::Readiness(host.clone()))?;
        let asked = stamped.asked.civil;
        match &stamped.answer {
            Ok(Answer::Readiness(readiness)) if since.is_none_or(|since| asked >= since) => {
                Some((asked, readiness.clone()))
            }
            Ok(_) | Err(_) => None,
        }
    }

    /// Guests we put away that run again or are gone; names and sizes PVE may forget.
    fn guests(&mut self) {
        let touched: Vec<Vmid> = self.ledger.guests.keys().copied().collect();
        for guest in touched {
            let record = self.ledger.guests.get(&guest).cloned().unwrap_or_default();
            let look = self.seen.guests.get(&guest);
            self.stopped_late(guest, &record);
            self.moved_away(guest, &record);
            if record.parked.is_some() {
                // A number that was given away belongs to somebody else, who left it as it is.
                let another = look.is_some_and(|look| {
                    let kind = record.parked.as_ref().map(|parked| parked.kind);
                    let renamed = look.name.is_some() && record.name.is_some();
                    kind != Some(look.kind) || renamed && look.name != record.name
                });
                let why = match look.map(|look| &look.status) {
                    None => Some("it is no longer listed"),
                    Some(_) if another => Some("another guest has its number now"),
                    Some(RunState::Running | RunState::Other(_)) => Some("it runs again"),
                    Some(RunState::Stopped | RunState::Unknown) => None,
                };
                // The report of a stop is up to 10 s late: what was just put away still reads
                // `running`.
                let settled = record
                    .parked
                    .as_ref()
                    .is_some_and(|parked| self.at >= parked.at + Duration::from_secs(30));
                // A start of ours tells it when it is settled.
                let ours = self.ledger.in_flight().any(|(_, _, asked)| match &asked.request {
                    Request::StartGuest { guest: started, .. } => *started == guest,
                    Request::Wake { .. }
                    | Request::Migrate { .. }
                    | Request::Hibernate { .. }
                    | Request::ShutDownGuest { .. }
                    | Request::PowerOff { .. } => false,
                });
                if let Some(why) = why.filter(|_| settled && !ours) {
                    self.note(Entry::GuestBack { guest, why: why.into() });
                }
            }
            if let Some(look) = look
                && (look.name.is_some() && look.name != record.name
                    || look.memory_bytes.is_some() && look.memory_bytes != record.memory_bytes)
            {
                let name = look.name.clone().or(record.name);
                let memory_bytes = look.memory_bytes.or(record.memory_bytes);
                self.note(Entry::GuestKnown { guest, name, memory_bytes });
            }
        }
    }

    /// A guest that is no longer where we moved it, and none of our requests is about it.
    fn moved_away(&mut self, guest: Vmid, record: &super::GuestRecord) {
        let Some(placed) = &record.placed else { return };
        let Some(look) = self.seen.guests.get(&guest).filter(|look| look.host != placed.to) else {
            return;
        };
        let ours = self.ledger.in_flight().any(|(_, _, one)| one.request.guest() == Some(guest));
        if !ours && look.lock.is_none() {
            let (from, to) = (placed.to.clone(), look.host.clone());
            self.note(Entry::GuestMovedAway { guest, from, to });
        }
    }

    /// PVE's patience with a shutdown ended before the guest did: it is put away all the same, and
    /// by us.
    fn stopped_late(&mut self, guest: Vmid, record: &super::GuestRecord) {
        let Some(asked) = &record.stop_asked else { return };
        let stopped = self.seen.guests.get(&guest).is_some_and(|look| {
            look.host == asked.host && look.status == RunState::Stopped && look.lock.is_none()
        });
        let in_flight =
            self.ledger.in_flight().any(|(_, _, one)| one.request.guest() == Some(guest));
        if stopped && !in_flight && self.at < asked.at + STOPS_LATE {
            let (kind, host, how) = (asked.kind, asked.host.clone(), Parked::ShutDown);
            self.note(Entry::GuestParked { guest, kind, host, how });
        }
    }

    /// Tasks of our token that we did not start, each once.
    fn strangers(&mut self) {
        let Some(Ok(Answer::Permissions(rights))) =
            self.seen.answers.get(&Question::Permissions).map(|one| &one.answer)
        else {
            return;
        };
        for task in &self.seen.tasks {
            if self.ledger.tasks.strange(task, &rights.token, self.at) {
                let what = super::known::told(task);
                self.note(Entry::StrangerSeen { upid: task.upid.clone(), what });
            }
        }
    }

    /// Settles every request whose end can be seen.
    fn requests(&mut self) {
        let in_flight: Vec<_> = self
            .ledger
            .in_flight()
            .map(|(one, request_id, asked)| (one.id, request_id, asked.clone()))
            .collect();
        for (id, request_id, asked) in in_flight {
            let Some(outcome) = outcome(&asked, &self.ledger, self.seen) else { continue };
            let effective = outcome == Outcome::Effective;
            if let (Request::PowerOff { host }, Outcome::Failed { sentence }) =
                (&asked.request, &outcome)
            {
                self.note(Entry::StopFailed { host: host.clone(), sentence: sentence.clone() });
            }
            self.note(Entry::Progress { id, event: Event::Settled { request_id, outcome } });
            if effective {
                self.effect(&asked);
            } else {
                self.left_stopped(&asked.request);
            }
        }
    }

    /// A guest that our migration stopped and did not start again is ours to start.
    fn left_stopped(&mut self, request: &Request) {
        let Request::Migrate { guest, kind, to, how, .. } = request else { return };
        let there = self.seen.guests.get(guest).is_some_and(|look| {
            look.host == *to && look.lock.is_none() && look.status == RunState::Stopped
        });
        if there && *how != Migration::Offline {
            let (guest, kind, host, how) = (*guest, *kind, to.clone(), Parked::ShutDown);
            self.note(Entry::GuestParked { guest, kind, host, how });
        }
    }

    /// What a request that worked means for the guest it was about.
    fn effect(&mut self, asked: &InFlight) {
        match &asked.request {
            Request::Migrate { guest, from, to, how, local_disks, .. } => {
                let bytes = carried(*guest, *how, *local_disks, self.seen);
                let seconds = task_seconds(asked, self.seen);
                let beside = beside(&self.ledger, [from, to]);
                let (guest, from, to) = (*guest, from.clone(), to.clone());
                self.note(Entry::GuestMoved { guest, from, to, bytes, seconds, beside });
            }
            Request::Hibernate { guest, host } => {
                let kind = crate::cluster::GuestKind::Vm;
                let (host, how) = (host.clone(), Parked::Hibernated);
                self.note(Entry::GuestParked { guest: *guest, kind, host, how });
            }
            Request::ShutDownGuest { guest, kind, host, .. } => {
                let (host, how) = (host.clone(), Parked::ShutDown);
                self.note(Entry::GuestParked { guest: *guest, kind: *kind, host, how });
            }
            Request::StartGuest { guest, .. } => {
                let why = "we started it again".into();
                self.note(Entry::GuestBack { guest: *guest, why });
            }
            Request::Wake { .. } | Request::PowerOff { .. } => {}
        }
    }

    /// Ends every undertaking whose purpose is seen.
    fn undertakings(&mut self) {
        let open: Vec<_> = self
            .ledger
            .undertakings
            .values()
            .filter(|one| one.open() && one.in_flight.is_empty())
            .map(|one| (one.id, one.purpose.clone()))
            .collect();
        for (id, purpose) in open {
            if let Some(because) = fulfilled(&purpose, &self.ledger, self.seen) {
                let event = Event::Ended { stage: Stage::Done, because };
                self.note(Entry::Progress { id, event });
            }
        }
    }
}

/// Bytes that a migration carried: memory where the guest ran on, and the disks that went along.
fn carried(guest: Vmid, how: Migration, local_disks: bool, seen: &Observation) -> Option<u64> {
    let memory = match how {
        Migration::Live => seen.guests.get(&guest)?.memory_bytes?,
        Migration::Restart | Migration::Offline => 0,
    };
    let answer = seen.answers.get(&Question::Guest(guest)).map(|stamped| &stamped.answer);
    let disks = match answer {
        Some(Ok(Answer::Guest(facts))) if local_disks => facts.local_bytes.values().sum(),
        Some(Ok(_) | Err(_)) | None if local_disks => return None,
        Some(Ok(_) | Err(_)) | None => 0,
    };
    Some(memory + disks)
}

/// How long a request's task took, by its own host's clock.
fn task_seconds(asked: &InFlight, seen: &Observation) -> Option<u64> {
    let Some(Answered::Accepted { task: Some(upid) }) = &asked.answered else { return None };
    let listed = seen.tasks.iter().find(|task| task.upid == *upid);
    let answer = seen.answers.get(&Question::Task(upid.clone())).map(|stamped| &stamped.answer);
    let told = match answer {
        Some(Ok(Answer::Task(Some(task)))) => Some(task),
        Some(Ok(_) | Err(_)) | None => None,
    };
    let over = [listed, told].into_iter().flatten().find(|task| task.ended_at.is_some())?;
    // An HA task only passes the wish on.
    let moved = matches!(over.kind.as_str(), "qmigrate" | "vzmigrate");
    moved.then(|| whole_seconds(over.ended_at.unwrap_or(over.started), over.started))
}

/// Other migrations of ours from or to either host.
fn beside(ledger: &Ledger, hosts: [&HostName; 2]) -> u32 {
    let shares = |request: &Request| {
        let moves = matches!(request, Request::Migrate { .. });
        moves && request.hosts().iter().any(|host| hosts.contains(host))
    };
    let others = ledger.in_flight().filter(|(_, _, asked)| shares(&asked.request)).count();
    u32::try_from(others).unwrap_or(u32::MAX)
}

/// Why a purpose counts as seen, if it does.
fn fulfilled(purpose: &Move, ledger: &Ledger, seen: &Observation) -> Option<String> {
    match purpose {
        Move::Wake(host) => ledger.host(host).ready.map(|_| format!("{host} is ready")),
        Move::Rest(host) => {
            let gone = match ledger.host(host).presence {
                Presence::Resting | Presence::Missing => true,
                Presence::Awake | Presence::Unseen => false,
            };
            gone.then(|| format!("{host} left the cluster"))
        }
        Move::Empty(host) => {
            let running = seen.guests_on(host).any(|(_, guest)| guest.status.may_run());
            (seen.saw("resources") && !running).then(|| format!("no guest runs on {host}"))
        }
        Move::Place(guest, host) => {
            let look = seen.guests.get(guest)?;
            let there =
                look.host == *host && look.lock.is_none() && look.status == RunState::Running;
            there.then(|| format!("guest {guest} runs on {host}"))
        }
    }
}

/// Whether the last thing a host did before it left was an orderly stop of its guests.
fn left_in_order(host: &HostName, record: &super::HostRecord, tasks: &[TaskSeen]) -> bool {
    shutdown_began(tasks, host, record.booted.or(record.since)).is_some()
}

/// Whether a host that is a member again reports the very boot that was known before it left.
fn same_boot(record: &super::HostRecord, look: &HostSeen, at: Timestamp) -> bool {
    let (Some(booted), Some(uptime)) = (record.booted, look.uptime_seconds) else { return false };
    let up_since_then = Duration::from_secs(whole_seconds(at, booted));
    Duration::from_secs(uptime).saturating_add(CLOCK_SKEW) >= up_since_then
}

fn rebooted(record: &super::HostRecord, look: &HostSeen, at: Timestamp) -> bool {
    let (Some(booted), Some(uptime)) = (record.booted, look.uptime_seconds) else { return false };
    let up_at_least = whole_seconds(at, booted);
    Duration::from_secs(uptime).saturating_add(REBOOT_MARGIN) < Duration::from_secs(up_at_least)
}

/// What became of a request, once that can be seen.
fn outcome(asked: &InFlight, ledger: &Ledger, seen: &Observation) -> Option<Outcome> {
    match &asked.answered {
        Some(Answered::Refused { sentence }) => {
            return Some(Outcome::Failed { sentence: sentence.clone() });
        }
        Some(Answered::Undelivered { .. }) => return Some(Outcome::NeverBegan),
        Some(Answered::Accepted { .. } | Answered::Sent { .. } | Answered::Ambiguous { .. })
        | None => {}
    }
    match &asked.request {
        // Unanswered packets of a run that died: sent or not, they are over.
        Request::Wake { .. } => Some(Outcome::NeverBegan),
        Request::PowerOff { host } => power_off_outcome(host, asked, ledger, seen),
        Request::Migrate { guest, from, to, .. } => {
            let task = task_of(asked, from, seen);
            migrate_outcome(*guest, from, to, &task, asked, ledger, seen)
        }
        Request::Hibernate { guest, host } => {
            let task = task_of(asked, host, seen);
            guest_outcome(*guest, host, false, &task, asked, ledger, seen)
        }
        Request::ShutDownGuest { guest, host, .. } => {
            let task = task_of(asked, host, seen);
            guest_outcome(*guest, host, false, &task, asked, ledger, seen)
        }
        Request::StartGuest { guest, host, .. } => {
            let task = task_of(asked, host, seen);
            guest_outcome(*guest, host, true, &task, asked, ledger, seen)
        }
    }
}

fn power_off_outcome(
    host: &HostName,
    asked: &InFlight,
    ledger: &Ledger,
    seen: &Observation,
) -> Option<Outcome> {
    let record = ledger.host(host);
    match record.presence {
        // Without quorum it may be up on the other side: its stop is under way until the majority
        // has seen it gone.
        Presence::Resting | Presence::Missing => {
            return (seen.quorate == Some(true)).then_some(Outcome::Effective);
        }
        // It came up again after our request: that stop is over.
        Presence::Awake if record.since.is_some_and(|since| since > asked.asked) => {
            return Some(Outcome::Effective);
        }
        Presence::Awake | Presence::Unseen => {}
    }
    // A stop under way shows as a `stopall`; one that began long ago and is over was something
    // else.
    let stopall = seen.tasks.iter().any(|task| {
        let lately = task.started >= seen.at.civil - STOP_BEGINS_WITHIN;
        task.host == *host
            && task.kind == "stopall"
            && task.started >= asked.asked - CLOCK_SKEW
            && (task.running() || lately)
    });
    if seen.at.civil < asked.asked + STOP_BEGINS_WITHIN || stopall {
        return None;
    }
    // Ten minutes later its API still answers and nothing shows a stop: it was not taken up.
    let stamped = seen.answers.get(&Question::Readiness(host.clone()))?;
    let late_enough = stamped.asked.civil >= asked.asked + STOP_BEGINS_WITHIN;
    let answers = matches!(&stamped.answer, Ok(Answer::Readiness(ready)) if ready.api);
    (late_enough && answers).then(|| match &asked.answered {
        Some(Answered::Accepted { .. }) => Outcome::Failed {
            sentence: format!(
                "{host} took the request and did not begin to stop within 10 minutes"
            ),
        },
        Some(
            Answered::Sent { .. }
            | Answered::Refused { .. }
            | Answered::Undelivered { .. }
            | Answered::Ambiguous { .. },
        )
        | None => Outcome::NeverBegan,
    })
}

/// Whether a host has been absent for so long that what ran on it is over.
fn gone(host: &HostName, ledger: &Ledger, seen: &Observation) -> bool {
    let absent = seen.hosts.get(host).is_some_and(|look| look.member == Some(false));
    let since = ledger.host(host).left.map(|(left, _)| left);
    absent && since.is_none_or(|left| seen.at.civil >= left + GONE_FOR)
}

/// What is known of the task behind a request.
enum TaskState {
    Running,
    Ended {
        ok: bool,
        text: String,
        at_least_since: Timestamp,
        /// As PVE says, where it does.
        ended_at: Option<Timestamp>,
    },
    /// It was looked for, long enough after the asking, and is not there.
    Absent,
    /// Not known yet.
    Unknown,
}

fn task_of(asked: &InFlight, host: &HostName, seen: &Observation) -> TaskState {
    match &asked.answered {
        Some(Answered::Accepted { task: Some(upid) }) => {
            let listed = seen.tasks.iter().find(|task| task.upid == *upid).cloned();
            let looked_up = || match seen.answers.get(&Question::Task(upid.clone())) {
                Some(stamped) => match &stamped.answer {
                    Ok(Answer::Task(task)) => Some(task.clone()),
                    Ok(_) | Err(_) => None,
                },
                None => None,
            };
            match (listed, looked_up()) {
                (Some(task), _) if !task.running() => ended(&task, asked),
                (_, Some(Some(task))) => ended(&task, asked),
                (Some(_), None) => TaskState::Running,
                (Some(_), Some(None)) | (None, Some(None)) => TaskState::Absent,
                (None, None) => TaskState::Unknown,
            }
        }
        Some(_) | None => lost_task(asked, host, seen),
    }
}

fn ended(task: &TaskSeen, asked: &InFlight) -> TaskState {
    match (&task.ended, task.succeeded()) {
        (Some(text), Some(ok)) => {
            let (text, at_least_since) = (text.clone(), asked.asked);
            TaskState::Ended { ok, text, at_least_since, ended_at: task.ended_at }
        }
        (None, _) | (_, None) => TaskState::Running,
    }
}

/// The task of a request whose answer was lost: the newest of its kind for its guest since then.
fn lost_task(asked: &InFlight, host: &HostName, seen: &Observation) -> TaskState {
    let kinds: &[&str] = match &asked.request {
        Request::Migrate { .. } => &["qmigrate", "vzmigrate", "hamigrate"],
        Request::Hibernate { .. } => &["qmsuspend"],
        Request::ShutDownGuest { .. } => &["qmshutdown", "vzshutdown", "hastop"],
        Request::StartGuest { .. } => &["qmstart", "vzstart", "hastart"],
        Request::Wake { .. } | Request::PowerOff { .. } => &[],
    };
    let guest = asked.request.guest().map(|guest| guest.to_string()).unwrap_or_default();
    let looked_up = seen.answers.get(&lookup(asked, host));
    let answered = looked_up.and_then(|stamped| match &stamped.answer {
        Ok(Answer::Tasks(tasks)) => Some((stamped.asked.civil, tasks)),
        Ok(_) | Err(_) => None,
    });
    let candidates = answered.iter().flat_map(|(_, tasks)| tasks.iter()).chain(&seen.tasks);
    let found = candidates
        .filter(|task| kinds.contains(&task.kind.as_str()) && task.id == guest)
        .filter(|task| task.started >= asked.asked - CLOCK_SKEW)
        .max_by_key(|task| (task.started, task.ended.is_some()));
    match (found, answered) {
        (Some(task), _) => ended(task, asked),
        (None, Some((at, _))) if at >= asked.asked + LOOK_UP_AFTER => TaskState::Absent,
        (None, Some(_)) | (None, None) => TaskState::Unknown,
    }
}

fn migrate_outcome(
    guest: Vmid,
    from: &HostName,
    to: &HostName,
    task: &TaskState,
    asked: &InFlight,
    ledger: &Ledger,
    seen: &Observation,
) -> Option<Outcome> {
    if !seen.saw("resources") {
        return None;
    }
    let Some(look) = seen.guests.get(&guest) else {
        return Some(Outcome::Failed { sentence: format!("guest {guest} is no longer listed") });
    };
    let source_gone = gone(from, ledger, seen);
    // On the target, unlocked and with its task over: all three, for the node flips seconds before
    // the guest has arrived (recorded).
    if look.host == *to {
        let over = match task {
            TaskState::Ended { .. } | TaskState::Absent => true,
            TaskState::Running | TaskState::Unknown => source_gone,
        };
        if let Some(sentence) = left_locked(guest, look, task, seen) {
            return Some(Outcome::Failed { sentence });
        }
        if look.lock.is_some() || !over {
            return None;
        }
        return arrived(guest, to, asked, look, seen);
    }
    let elsewhere = look.host != *from;
    let failed = |sentence: String| Some(Outcome::Failed { sentence });
    match task {
        _ if source_gone => failed(format!("{from} vanished while guest {guest} was moving")),
        _ if elsewhere && look.lock.is_none() => {
            failed(format!("guest {guest} was moved to {} by somebody else", look.host))
        }
        // Still locked: the world is not done with it, unless it has forgotten it.
        TaskState::Ended { .. } if look.lock.as_deref() == Some("migrate") => {
            left_locked(guest, look, task, seen).and_then(failed)
        }
        TaskState::Ended { ok: false, text, .. } => failed(text.clone()),
        TaskState::Ended { ok: true, at_least_since, .. } => {
            let waited = seen.at.civil >= *at_least_since + EFFECT_WITHIN;
            waited.then(|| Outcome::Failed {
                sentence: format!("its task ended OK, and guest {guest} did not move"),
            })
        }
        TaskState::Absent => {
            (look.lock.as_deref() != Some("migrate")).then(|| match &asked.answered {
                Some(Answered::Accepted { .. }) => {
                    Outcome::Failed { sentence: "its task vanished without a trace".into() }
                }
                Some(
                    Answered::Sent { .. }
                    | Answered::Refused { .. }
                    | Answered::Undelivered { .. }
                    | Answered::Ambiguous { .. },
                )
                | None => Outcome::NeverBegan,
            })
        }
        TaskState::Running | TaskState::Unknown => None,
    }
}

/// A migration's lock goes with its task (recorded: within 0.1 s). One that stays behind is
/// nobody's any more, and only its owner can remove it.
fn left_locked(
    guest: Vmid,
    look: &crate::cluster::GuestSeen,
    task: &TaskState,
    seen: &Observation,
) -> Option<String> {
    let TaskState::Ended { text, ended_at: Some(ended), .. } = task else { return None };
    let locked = look.lock.as_deref() == Some("migrate");
    (locked && seen.at.civil >= *ended + STALE_LOCK_AFTER)
        .then(|| format!("its task ended ({text}) and left guest {guest} locked (migrate)"))
}

/// A guest on its target: well, if it runs as before. Its run is reported up to 10 s late, so that
/// a stop is believed only from the target's own list.
fn arrived(
    guest: Vmid,
    to: &HostName,
    asked: &InFlight,
    look: &crate::cluster::GuestSeen,
    seen: &Observation,
) -> Option<Outcome> {
    let ran = match &asked.request {
        Request::Migrate { how, .. } => *how != Migration::Offline,
        Request::Wake { .. }
        | Request::Hibernate { .. }
        | Request::ShutDownGuest { .. }
        | Request::StartGuest { .. }
        | Request::PowerOff { .. } => false,
    };
    match &look.status {
        RunState::Running | RunState::Other(_) => Some(Outcome::Effective),
        RunState::Stopped | RunState::Unknown if !ran => Some(Outcome::Effective),
        RunState::Stopped | RunState::Unknown => {
            let state = live_state(guest, to, asked, seen)?;
            if state.may_run() {
                return Some(Outcome::Effective);
            }
            let sentence = format!("guest {guest} moved to {to} and does not run there");
            Some(Outcome::Failed { sentence })
        }
    }
}

/// The end of a start, a shutdown or a hibernation: the guest is seen to run, or not to.
fn guest_outcome(
    guest: Vmid,
    host: &HostName,
    should_run: bool,
    task: &TaskState,
    asked: &InFlight,
    ledger: &Ledger,
    seen: &Observation,
) -> Option<Outcome> {
    if !seen.saw("resources") {
        return None;
    }
    let Some(look) = seen.guests.get(&guest) else {
        return Some(Outcome::Failed { sentence: format!("guest {guest} is no longer listed") });
    };
    if gone(host, ledger, seen) {
        return Some(Outcome::Failed {
            sentence: format!("{host} left while guest {guest} was asked"),
        });
    }
    let live = live_state(guest, host, asked, seen).unwrap_or_else(|| look.status.clone());
    let runs = live.may_run() && live != RunState::Unknown;
    let failed = |sentence: String| Some(Outcome::Failed { sentence });
    match task {
        TaskState::Running | TaskState::Unknown => None,
        TaskState::Ended { .. } if runs == should_run && live != RunState::Unknown => {
            Some(Outcome::Effective)
        }
        TaskState::Ended { ok: false, text, .. } => failed(text.clone()),
        TaskState::Ended { ok: true, .. } => {
            let waited = seen.at.civil >= asked.asked + EFFECT_WITHIN;
            let state = if should_run { "does not run" } else { "still runs" };
            waited.then(|| Outcome::Failed {
                sentence: format!("its task ended OK, and guest {guest} {state}"),
            })
        }
        TaskState::Absent if runs == should_run => Some(Outcome::Effective),
        TaskState::Absent => Some(Outcome::NeverBegan),
    }
}

/// The guest's state in its host's own list, where that was asked after the request.
fn live_state(
    guest: Vmid,
    host: &HostName,
    asked: &InFlight,
    seen: &Observation,
) -> Option<RunState> {
    let stamped = seen.answers.get(&Question::LiveGuests(host.clone()))?;
    if stamped.asked.civil < asked.asked {
        return None;
    }
    match &stamped.answer {
        Ok(Answer::LiveGuests(guests)) => guests.get(&guest).map(|live| live.status.clone()),
        Ok(_) | Err(_) => None,
    }
}

fn whole_seconds(later: Timestamp, earlier: Timestamp) -> u64 {
    let between: SignedDuration = later.duration_since(earlier);
    u64::try_from(between.as_secs()).unwrap_or(0)
}
