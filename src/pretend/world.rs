//! The pretended cluster itself: a deterministic state machine over the world's own time.
//!
//! Everything that will happen stands in one queue ordered by instant; [`World::advance_to`] lets
//! it happen in that order. Nothing asks the operating system, and nothing is drawn except from the
//! world's seed, so the same file, script and requests give the same story.
//!
//! The machine rooms are files of their own: `iron` (membership and votes), `power` (hosts that
//! boot and stop), `guests` (what runs on them), `task` (PVE's workers), `rights` (tokens),
//! `answer` (the API over it all).
//!
//! **Does not know:** HTTP, policies, that anybody watches.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;

use super::clock::Wall;
use super::file::{DeviceFile, DeviceKind, HostFile, Power, StorageFile, WorldFile};
use super::guests::{Guest, Run};
use super::iron::{Arithmetic, Device, Iron, View};
use super::jobs::Job;
use super::power::{Host, Phase, Stage};
use super::rights::Token;
use super::script::{AnswerFault, Event, Scripted};
use super::tally::{Happening, Tally};
use super::task::{Step, Task, TaskId};
use crate::cluster::{ClockState, HostName, Vmid};

/// PVE keeps a broadcast figure for five minutes (`status.c`).
pub(crate) const FIGURES_KEPT: Duration = Duration::from_secs(300);

/// A world shared between servers, a clock and a test.
pub type Shared = Arc<Mutex<World>>;

/// A pretended cluster.
pub struct World {
    pub(crate) cluster: String,
    pub(crate) start: Timestamp,
    pub(crate) now: Timestamp,
    /// Numbers that keep order among events of one instant, and make secrets and digests differ.
    pub(crate) sequence: u64,
    pub(crate) due: BTreeMap<(Timestamp, u64), Due>,
    pub(crate) iron: Box<dyn Iron>,
    pub(crate) hosts: BTreeMap<HostName, Host>,
    pub(crate) guests: BTreeMap<Vmid, Guest>,
    pub(crate) storages: BTreeMap<String, Storage>,
    pub(crate) tasks: BTreeMap<TaskId, Task>,
    pub(crate) tokens: BTreeMap<String, Token>,
    pub(crate) device: Option<DeviceFile>,
    pub(crate) wait_for_all: bool,
    pub(crate) backups: Vec<Job>,
    pub(crate) link_bytes_per_second: u64,
    pub(crate) figures: BTreeMap<Vmid, Figures>,
    /// Replications that run: guest, target.
    pub(crate) replicating: BTreeMap<Vmid, HostName>,
    pub(crate) shutdown_policy: Option<String>,
    /// Hosts in the HA manager's maintenance mode.
    pub(crate) in_maintenance: BTreeSet<HostName>,
    pub(crate) noout: bool,
    /// Ceph calls none of its daemons safe to stop.
    pub(crate) ceph_needed: bool,
    pub(crate) answer_faults: Vec<AnswerFault>,
    pub(crate) task_faults: Vec<TaskFault>,
    pub(crate) wall: Wall,
    pub(crate) tally: Tally,
    pub(crate) story: Vec<Happening>,
    /// When a host last vanished, or its QDevice: harm within seconds of it is bad luck.
    pub(crate) last_crash: Option<Timestamp>,
    /// Told after time has passed; the server opens and closes its ports then.
    watcher: Option<Watcher>,
}

type Watcher = Arc<dyn Fn(&World) + Send + Sync>;

/// What waits in the queue.
#[derive(Clone, Debug)]
pub(crate) enum Due {
    Host(HostName, u64, Stage),
    Task(TaskId, Step),
    Script(Box<Event>),
    /// The HA manager looks at a guest.
    HaRound(Vmid),
    /// The time of this backup job has come.
    Backup(usize),
    /// A replication is over.
    Replicated(Vmid),
    /// Somebody's task is over.
    Ends(TaskId),
}

/// A storage and where it is.
#[derive(Clone, Debug)]
pub(crate) struct Storage {
    pub file: StorageFile,
    pub active: bool,
}

/// What a host last broadcast about a guest.
#[derive(Clone, Debug)]
pub(crate) struct Figures {
    pub at: Timestamp,
    pub status: &'static str,
    pub uptime: u64,
}

/// A task that will not do what it says.
#[derive(Clone, Debug)]
pub(crate) struct TaskFault {
    pub kind: String,
    pub guest: Option<Vmid>,
    pub doom: super::task::Doom,
}

impl World {
    /// Reads a world file (see [`crate::pretend`]). The error is one sentence with the place.
    pub fn read(text: &str) -> Result<World, String> {
        let mut file = WorldFile::read(text)?;
        let entries = std::mem::take(&mut file.backups);
        let jobs = entries.into_iter().enumerate().map(|(at, entry)| Job::read(entry, at + 1));
        let backups = jobs.collect::<Result<_, String>>()?;
        let mut world = World::new(file);
        world.backups = backups;
        world.schedule_backups();
        Ok(world)
    }

    /// The reference home: three hosts with 3, 1 and 1 votes and a handful of guests.
    pub fn reference() -> World {
        World::read(super::REFERENCE).expect("the reference world is tested")
    }

    fn new(file: WorldFile) -> World {
        let hosts: BTreeMap<HostName, Host> = file
            .hosts
            .iter()
            .zip(1..)
            .map(|(host, number)| (host.name.clone(), Host::new(host, number)))
            .collect();
        let votes: Vec<(HostName, u32, u32)> =
            hosts.values().map(|host| (host.name.clone(), host.number, host.votes)).collect();
        let device = file.qdevice.as_ref().map(|device| Device {
            ffsplit: device.algorithm == DeviceKind::Ffsplit,
            votes: device.votes,
            server_alive: true,
        });
        let iron = Arithmetic::new(&votes, device, file.wait_for_all, file.config_version);
        let storage =
            |file: &StorageFile| (file.name.clone(), Storage { file: file.clone(), active: true });
        let mut world = World {
            cluster: file.cluster,
            start: file.start,
            now: file.start,
            sequence: file.seed.wrapping_mul(1_000),
            due: BTreeMap::new(),
            iron: Box::new(iron),
            hosts,
            guests: BTreeMap::new(),
            storages: file.storages.iter().map(storage).collect(),
            tasks: BTreeMap::new(),
            tokens: Token::all(&file.tokens),
            device: file.qdevice,
            wait_for_all: file.wait_for_all,
            backups: Vec::new(),
            link_bytes_per_second: file.link_megabytes_per_second.max(1) * 1_000_000,
            figures: BTreeMap::new(),
            replicating: BTreeMap::new(),
            shutdown_policy: file.shutdown_policy,
            in_maintenance: BTreeSet::new(),
            noout: file.noout,
            ceph_needed: false,
            answer_faults: Vec::new(),
            task_faults: Vec::new(),
            wall: Wall::default(),
            tally: Tally::default(),
            story: Vec::new(),
            last_crash: None,
            watcher: None,
        };
        for guest in &file.guests {
            world.put_guest(guest);
        }
        for host in &file.hosts {
            world.set_running(host);
        }
        world.set_out(file.script);
        world
    }

    /// A host that has been on (or off) for long when the world begins.
    fn set_running(&mut self, file: &HostFile) {
        match file.state {
            Power::On => self.has_been_up(&file.name),
            Power::Off => {
                for guest in self.guests.values_mut().filter(|guest| guest.host == file.name) {
                    guest.run = Run::Stopped;
                }
            }
        }
    }

    /// Adds lines to the script; those whose time has passed happen at once.
    pub fn set_out(&mut self, script: Vec<Scripted>) {
        for line in script {
            let at = line.at(self.start).max(self.now);
            self.at(at, Due::Script(Box::new(line.event)));
        }
    }

    pub fn now(&self) -> Timestamp {
        self.now
    }

    pub fn start(&self) -> Timestamp {
        self.start
    }

    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// What the world has seen happen.
    pub fn tally(&self) -> Tally {
        self.tally.clone()
    }

    /// The story so far, oldest first.
    pub fn story(&self) -> &[Happening] {
        &self.story
    }

    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.hosts.values()
    }

    pub fn guests(&self) -> impl Iterator<Item = &Guest> {
        self.guests.values()
    }

    /// What `host`'s corosync shows.
    pub fn view(&self, host: &HostName) -> Option<View> {
        self.iron.view(host)
    }

    /// Puts other iron under the world; every host must be off.
    pub fn over(mut self, iron: Box<dyn Iron>) -> World {
        assert!(
            self.hosts.values().all(|host| host.phase == Phase::Off),
            "membership cannot change hands while hosts run"
        );
        self.iron = iron;
        self
    }

    /// The wall clock of the host `spot` lives on.
    pub fn wall(&self) -> Wall {
        self.wall
    }

    /// When something next happens by itself.
    pub fn next_event_at(&self) -> Option<Timestamp> {
        let queued = self.due.keys().next().map(|(at, _)| *at);
        [queued, self.iron.next_change_at()].into_iter().flatten().min()
    }

    /// Lets everything happen up to and including `to`; earlier instants change nothing.
    pub fn advance_to(&mut self, to: Timestamp) {
        while let Some(next) = self.next_event_at().filter(|next| *next <= to) {
            self.pass(next);
            if self.iron.next_change_at().is_some_and(|at| at <= next) {
                self.iron.advance_to(next);
                self.membership_changed();
            } else if let Some((_, due)) = self.due.pop_first() {
                self.happen(due);
            }
        }
        self.pass(to);
        if let Some(watcher) = self.watcher.clone() {
            watcher(self);
        }
    }

    /// Has `watcher` called whenever time has passed.
    pub fn watch(&mut self, watcher: impl Fn(&World) + Send + Sync + 'static) {
        self.watcher = Some(Arc::new(watcher));
    }

    /// Hosts show these fingerprints as their own.
    pub fn show_fingerprints(&mut self, fingerprints: &BTreeMap<HostName, String>) {
        for (name, fingerprint) in fingerprints {
            if let Some(host) = self.hosts.get_mut(name) {
                host.fingerprint.clone_from(fingerprint);
            }
        }
    }

    fn happen(&mut self, due: Due) {
        match due {
            Due::Host(host, boot, stage) => self.host_stage(&host, boot, stage),
            Due::Task(task, step) => self.task_step(task, step),
            Due::Script(event) => self.befall(&event),
            Due::HaRound(guest) => self.ha_round(guest),
            Due::Replicated(guest) => {
                self.replicating.remove(&guest);
            }
            Due::Ends(task) => self.end_if_running(task),
            Due::Backup(job) => self.run_backup(job),
        }
    }

    /// Time passes, and is counted.
    fn pass(&mut self, to: Timestamp) {
        let Ok(passed) = Duration::try_from(to.duration_since(self.now)) else {
            return;
        };
        for host in self.hosts.values().filter(|host| host.phase.draws_power()) {
            *self.tally.awake.entry(host.name.clone()).or_default() += passed;
        }
        if self.quorum_is_missed() {
            self.tally.without_quorum += passed;
        }
        self.now = to;
    }

    /// Some running host has lost the quorum it had.
    fn quorum_is_missed(&self) -> bool {
        let missed = |host: &Host| {
            host.had_quorum && self.iron.view(&host.name).is_some_and(|view| !view.quorate)
        };
        self.hosts.values().any(missed)
    }

    /// Called after every change of membership or votes.
    pub(crate) fn membership_changed(&mut self) {
        for name in self.hosts.keys().cloned().collect::<Vec<_>>() {
            let quorate = self.quorate(&name);
            let host = self.host_mut(&name);
            if host.had_quorum && !quorate && host.phase.in_cluster() && !host.missed_quorum {
                host.missed_quorum = true;
                self.tell(name.as_str(), "lost quorum");
            } else if quorate {
                let returned = std::mem::take(&mut host.missed_quorum);
                host.had_quorum = true;
                if returned {
                    self.tell(name.as_str(), "has quorum again");
                }
            }
        }
    }

    /// Whether `host` itself sees a quorate cluster.
    pub fn quorate(&self, host: &HostName) -> bool {
        self.iron.view(host).is_some_and(|view| view.quorate)
    }

    /// Whether `seen` is a member in the view of `by`.
    pub fn sees(&self, by: &HostName, seen: &HostName) -> bool {
        self.iron
            .view(by)
            .is_some_and(|view| view.members.iter().any(|member| member.host == *seen))
    }

    pub fn host(&self, name: &HostName) -> Option<&Host> {
        self.hosts.get(name)
    }

    /// The host that PVE calls `node`.
    pub fn by_node(&self, node: &str) -> Option<&Host> {
        self.hosts.values().find(|host| host.node == node)
    }

    pub fn guest(&self, vmid: Vmid) -> Option<&Guest> {
        self.guests.get(&vmid)
    }

    pub(crate) fn host_mut(&mut self, name: &HostName) -> &mut Host {
        self.hosts.get_mut(name).expect("names of hosts are checked when the world is read")
    }

    pub(crate) fn at(&mut self, at: Timestamp, due: Due) {
        self.sequence += 1;
        self.due.insert((at, self.sequence), due);
    }

    pub(crate) fn after(&mut self, after: Duration, due: Due) {
        self.at(self.now + after, due);
    }

    pub(crate) fn tell(&mut self, who: impl Into<String>, what: impl Into<String>) {
        let happening = Happening { at: self.now, who: who.into(), what: what.into() };
        self.story.push(happening);
    }

    /// Books a broken promise, and tells it.
    pub(crate) fn broken(&mut self, what: String) {
        self.tell("promise", format!("broken: {what}"));
        self.tally.promises_broken.push(format!("{}: {what}", self.now));
    }

    pub(crate) fn unlucky(&mut self, what: String) {
        self.tell("bad luck", what);
        self.tally.bad_luck += 1;
    }

    pub(crate) fn set_clock(&mut self, state: ClockState) {
        self.wall.state = state;
    }

    /// Whether `storage` can be used on `host` now.
    pub(crate) fn storage_active(&self, storage: &Storage, host: &HostName) -> bool {
        let there = storage.file.hosts.as_ref().is_none_or(|hosts| hosts.contains(host));
        let served = storage.file.served_by.as_ref().is_none_or(|server| {
            self.hosts.get(server).is_some_and(|server| server.phase.in_cluster())
        });
        there && storage.active && !storage.file.disabled && served
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_home_is_quorate_with_host3_off() {
        let world = World::reference();
        assert!(world.quorate(&"host1".into()));
        let host3 = world.host(&"host3".into()).expect("host3");
        assert_eq!(host3.phase, Phase::Off);
    }

    #[test]
    fn an_earlier_instant_changes_nothing() {
        let mut world = World::reference();
        let now = world.now();
        world.advance_to(now - Duration::from_secs(60));
        assert_eq!(world.now(), now);
    }
}
