//! PVE's workers: tasks with UPIDs and logs, and how each kind of work goes on, step by step.
//!
//! Texts and times follow the recordings: a migration locks its guest 0.9 s after it was asked, the
//! guest changes hosts still locked, and lock and task end together some seconds later. A task
//! whose host loses power never writes its last line; the host finds it so at its next boot.
//!
//! **Does not know:** HTTP, rights.

use std::time::Duration;

use jiff::Timestamp;

use super::guests::Run;
use super::world::{Due, World};
use crate::cluster::{GuestKind, HostName, Vmid};

pub(crate) type TaskId = u64;

/// Tasks a host remembers; PVE keeps many more, nobody reads them.
const REMEMBERED: usize = 400;
/// A migration's lock appears so long after it was asked (recorded).
const LOCKS_AFTER: Duration = Duration::from_millis(900);
/// Starting the other side of a live migration.
const OTHER_SIDE_STARTS: Duration = Duration::from_millis(2_500);
/// From the change of hosts to the end of the task (recorded: 7.6 s under load).
const SETTLES: Duration = Duration::from_secs(3);
/// An ssh to a host that is off gives up (recorded: the task ended after 2.5 s).
const NO_ROUTE_TO_TARGET: Duration = Duration::from_millis(2_500);
const STARTS: Duration = Duration::from_millis(1_500);
const SHORT: Duration = Duration::from_millis(200);
/// How long PVE waits for a guest's lock file.
const LOCK_FILE_WAIT: Duration = Duration::from_secs(10);
/// Bytes a second written when a VM's memory goes to disk.
const HIBERNATES_BYTES_PER_SECOND: u64 = 250_000_000;

/// Who asks: a user, and the token it uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    pub user: String,
    pub token: Option<String>,
}

impl Caller {
    pub(crate) fn root() -> Caller {
        Caller { user: "root@pam".into(), token: None }
    }

    /// As a UPID spells it: `user@realm!token`.
    pub fn id(&self) -> String {
        match &self.token {
            Some(token) => format!("{}!{token}", self.user),
            None => self.user.clone(),
        }
    }
}

/// One worker of one host.
#[derive(Clone, Debug)]
pub struct Task {
    pub(crate) id: TaskId,
    pub upid: String,
    pub host: HostName,
    pub pid: u32,
    pub pstart: u64,
    pub started: Timestamp,
    pub kind: String,
    /// The VMID as text, or empty.
    pub subject: String,
    pub caller: Caller,
    pub ended: Option<(Timestamp, String)>,
    pub log: Vec<String>,
    pub(crate) boot: u64,
    pub(crate) guest: Option<Vmid>,
    pub(crate) aim: Aim,
    pub(crate) doom: Option<Doom>,
}

/// What a task is to bring about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Aim {
    /// Its end is all there is to see.
    Nothing,
    Migrate {
        to: HostName,
        /// Bytes of local disks that go along.
        local_bytes: u64,
        restart: bool,
        /// `bwlimit`, where one was given.
        bytes_per_second: Option<u64>,
    },
    Start,
    ShutDown {
        force: bool,
        timeout: Duration,
    },
    Stop,
    Pause,
    Resume,
    Hibernate,
    Backup {
        each: Duration,
        left: Vec<Vmid>,
    },
}

/// How a task fails its aim although nothing says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doom {
    /// The worker dies without a last line.
    Vanishes,
    /// It says OK and has done nothing.
    Idle,
    /// It aborts halfway.
    Aborted,
    /// The guest arrives, and something fails afterwards.
    Problems,
    /// The target has no room for its disks.
    Full,
}

/// What a task does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It takes the guest's lock and begins in earnest.
    Lock,
    /// The guest changes hosts.
    Switch,
    /// startall starts this guest.
    StartOne(Vmid),
    /// vzdump goes on with its next guest.
    Next,
    Done,
    Fail(String),
    /// The guest heeds a shutdown after its task has given up on it.
    LateOff,
}

impl Task {
    pub fn running(&self) -> bool {
        self.ended.is_none()
    }
}

impl World {
    /// Starts a worker on `host`.
    pub(crate) fn begin(
        &mut self,
        host: &HostName,
        kind: &str,
        guest: Option<Vmid>,
        caller: &Caller,
        aim: Aim,
    ) -> TaskId {
        let now = self.now;
        let there = self.host_mut(host);
        there.next_pid += 1;
        let (pid, boot, node) = (there.next_pid, there.boot, there.node.clone());
        let ticks = now.duration_since(there.booted_at).as_millis() / 10;
        let pstart = u64::try_from(ticks).unwrap_or(0);
        let subject = guest.map(|vmid| vmid.to_string()).unwrap_or_default();
        let upid = format!(
            "UPID:{node}:{pid:08X}:{pstart:08X}:{:08X}:{kind}:{subject}:{}:",
            now.as_second(),
            caller.id()
        );
        self.sequence += 1;
        let id = self.sequence;
        let doomed = self.task_faults.iter().position(|fault| {
            fault.kind == kind && fault.guest.is_none_or(|wanted| Some(wanted) == guest)
        });
        let doom = doomed.map(|index| self.task_faults.remove(index).doom);
        let task = Task {
            id,
            upid,
            host: host.clone(),
            pid,
            pstart,
            started: now,
            kind: kind.to_owned(),
            subject,
            caller: caller.clone(),
            ended: None,
            log: Vec::new(),
            boot,
            guest,
            aim,
            doom,
        };
        self.tasks.insert(id, task);
        self.forget_old_tasks(host);
        match doom {
            Some(Doom::Vanishes) => self.then(id, Duration::from_secs(1), Step::Done),
            Some(Doom::Idle) => self.then(id, Duration::from_secs(2), Step::Done),
            Some(Doom::Aborted | Doom::Problems | Doom::Full) | None => self.set_to_work(id),
        }
        id
    }

    pub(crate) fn then(&mut self, task: TaskId, after: Duration, step: Step) {
        self.after(after, Due::Task(task, step));
    }

    pub(crate) fn upid(&self, task: TaskId) -> String {
        self.tasks[&task].upid.clone()
    }

    pub(crate) fn running_tasks(&self, host: &HostName) -> impl Iterator<Item = &Task> {
        let host = host.clone();
        self.tasks.values().filter(move |task| task.host == host && task.running())
    }

    /// The task with this UPID, wherever it ran.
    pub fn task(&self, upid: &str) -> Option<&Task> {
        self.tasks.values().find(|task| task.upid == upid)
    }

    fn forget_old_tasks(&mut self, host: &HostName) {
        let of_host: Vec<TaskId> =
            self.tasks.values().filter(|task| task.host == *host).map(|task| task.id).collect();
        for id in of_host.iter().take(of_host.len().saturating_sub(REMEMBERED)) {
            if !self.tasks[id].running() {
                self.tasks.remove(id);
            }
        }
    }

    pub(crate) fn log(&mut self, task: TaskId, line: impl Into<String>) {
        if let Some(task) = self.tasks.get_mut(&task) {
            task.log.push(line.into());
        }
    }

    /// A line with its time, as migrations write them.
    fn stamped(&mut self, task: TaskId, line: &str) {
        let at = self.now.strftime("%Y-%m-%d %H:%M:%S").to_string();
        self.log(task, format!("{at} {line}"));
    }

    pub(crate) fn end(&mut self, task: TaskId, text: &str) {
        let now = self.now;
        if let Some(task) = self.tasks.get_mut(&task) {
            let last = if text == "OK" { "TASK OK".into() } else { format!("TASK ERROR: {text}") };
            if text != "unexpected status" {
                task.log.push(last);
            }
            task.ended = Some((now, text.to_owned()));
        }
    }

    /// Tasks that an earlier boot of the host left without a last line.
    pub(crate) fn end_lost_tasks(&mut self, host: &HostName) {
        let lost: Vec<TaskId> = self.running_tasks(host).map(|task| task.id).collect();
        for task in lost {
            self.end(task, "unexpected status");
        }
    }

    /// What the task does first, or why it cannot.
    fn set_to_work(&mut self, id: TaskId) {
        let task = &self.tasks[&id];
        let (aim, kind, host) = (task.aim.clone(), task.kind.clone(), task.host.clone());
        let Some(guest) = task.guest else {
            return;
        };
        let Some(there) = self.guests.get(&guest).filter(|there| there.host == host) else {
            let folder = if kind.starts_with("vz") { "lxc" } else { "qemu-server" };
            let node = self.hosts[&host].node.clone();
            let text =
                format!("Configuration file 'nodes/{node}/{folder}/{guest}.conf' does not exist");
            return self.then(id, SHORT, Step::Fail(text));
        };
        let (run, lock, hibernated) = (there.run, there.lock.clone(), there.hibernated);
        let what = there.kind_in_capitals();
        let busy = self.is_migrating(guest);
        let locked = lock.as_ref().map(|lock| format!("{what} is locked ({lock})"));
        match aim {
            Aim::Nothing | Aim::Backup { .. } => {}
            Aim::Migrate { to, restart, .. } => self.begin_migration(id, guest, &to, restart),
            Aim::Start | Aim::Stop | Aim::ShutDown { .. } if busy => {
                let file = format!("/var/lock/qemu-server/lock-{guest}.conf");
                let text = format!("can't lock file '{file}' - got timeout");
                self.then(id, LOCK_FILE_WAIT, Step::Fail(text));
            }
            Aim::Start if run == Run::Running && lock.is_none() => {
                self.then(id, SHORT, Step::Fail(format!("{what} {guest} already running")));
            }
            Aim::Start if hibernated || run != Run::Stopped => self.then(id, STARTS, Step::Done),
            Aim::Start => match locked {
                Some(text) => self.then(id, SHORT, Step::Fail(text)),
                None => self.then(id, STARTS, Step::Done),
            },
            Aim::ShutDown { .. } if run == Run::Stopped => self.then(id, SHORT, Step::Done),
            Aim::Stop if run == Run::Stopped => self.then(id, SHORT, Step::Done),
            Aim::ShutDown { force, timeout } => match locked {
                Some(text) => self.then(id, SHORT, Step::Fail(text)),
                None => self.begin_shutdown(id, guest, force, timeout),
            },
            Aim::Stop => match locked {
                Some(text) => self.then(id, SHORT, Step::Fail(text)),
                None => self.then(id, Duration::from_secs(1), Step::Done),
            },
            Aim::Pause | Aim::Resume => self.then(id, SHORT, Step::Done),
            Aim::Hibernate => self.then(id, Duration::from_millis(300), Step::Lock),
        }
    }

    /// A migration holds the guest's lock file from its first moment.
    fn is_migrating(&self, guest: Vmid) -> bool {
        let moves = |task: &Task| matches!(task.aim, Aim::Migrate { .. });
        self.tasks.values().any(|task| task.guest == Some(guest) && task.running() && moves(task))
    }

    fn begin_shutdown(&mut self, id: TaskId, guest: Vmid, force: bool, timeout: Duration) {
        let there = &self.guests[&guest];
        let heeds = Duration::from_secs(u64::from(there.shutdown_seconds));
        if there.heeds_shutdown() && heeds <= timeout {
            return self.then(id, heeds, Step::Done);
        }
        if force {
            self.log(id, "VM still running - terminating now with SIGTERM");
            return self.then(id, timeout + SHORT, Step::Done);
        }
        let text = match there.kind {
            GuestKind::Vm => "VM quit/powerdown failed - got timeout".to_owned(),
            GuestKind::Ct => {
                let seconds = timeout.as_secs();
                format!(
                    "command 'lxc-stop -n {guest} --nokill --timeout {seconds}' failed: exit code 1"
                )
            }
        };
        let late = there.heeds_shutdown();
        self.then(id, timeout, Step::Fail(text));
        if late {
            self.then(id, heeds, Step::LateOff);
        }
    }

    fn begin_migration(&mut self, id: TaskId, guest: Vmid, to: &HostName, restart: bool) {
        let there = &self.guests[&guest];
        let running = there.run != Run::Stopped;
        let (node, address) = (self.hosts[to].node.clone(), self.hosts[to].address.clone());
        let what = there.kind_in_capitals();
        let devices: Vec<String> =
            (0..there.hostpci.len()).map(|index| format!("hostpci{index}")).collect();
        if !self.hosts[to].phase.in_cluster() {
            self.stamped(id, &format!("ssh: connect to host {address} port 22: No route to host"));
            let error = "Can't connect to destination address using public key";
            self.stamped(id, &format!("ERROR: migration aborted (duration 00:00:01): {error}"));
            return self.then(id, NO_ROUTE_TO_TARGET, Step::Fail("migration aborted".into()));
        }
        self.stamped(
            id,
            &format!("starting migration of {what} {guest} to node '{node}' ({address})"),
        );
        if !devices.is_empty() {
            let error =
                format!("can't migrate VM which uses local devices: {}", devices.join(", "));
            self.stamped(id, &format!("ERROR: migration aborted (duration 00:00:00): {error}"));
            return self.then(id, LOCKS_AFTER, Step::Fail("migration aborted".into()));
        }
        let there = &self.guests[&guest];
        let Aim::Migrate { local_bytes, .. } = self.tasks[&id].aim else {
            return;
        };
        let image = self.local_lines(there).into_iter().find_map(|(_, volume, line)| {
            line.split(',').any(|option| option == "media=cdrom").then(|| volume.to_owned())
        });
        if let Some(volume) = image.filter(|_| there.kind == GuestKind::Vm) {
            let error = format!("can't migrate local disk '{volume}': local cdrom image");
            self.stamped(id, &format!("ERROR: Problem found while scanning volumes - {error}"));
            return self.then(id, LOCKS_AFTER, Step::Fail("migration aborted".into()));
        }
        let there = &self.guests[&guest];
        let has_local = there.disks.iter().any(|disk| !self.is_shared(&disk.storage));
        if running && there.kind == GuestKind::Vm && has_local && local_bytes == 0 {
            let error = "can't live migrate attached local disks without with-local-disks option";
            self.stamped(id, &format!("ERROR: Problem found while scanning volumes - {error}"));
            return self.then(id, LOCKS_AFTER, Step::Fail("migration aborted".into()));
        }
        if running && restart {
            let heeds = Duration::from_secs(u64::from(there.shutdown_seconds));
            if !there.heeds_shutdown() {
                return self.then(
                    id,
                    Duration::from_secs(180),
                    Step::Fail("migration aborted".into()),
                );
            }
            return self.then(id, heeds, Step::Lock);
        }
        self.then(id, LOCKS_AFTER, Step::Lock);
    }

    /// One step of one task, unless the task or its host is no more.
    pub(crate) fn task_step(&mut self, id: TaskId, step: Step) {
        let Some(task) = self.tasks.get(&id) else {
            return;
        };
        let alive = self.hosts[&task.host].boot == task.boot;
        if step == Step::LateOff && alive {
            return self.late_off(id);
        }
        if !alive || !task.running() {
            return;
        }
        match (task.doom, &step) {
            (Some(Doom::Vanishes), _) => return self.end(id, "unexpected status"),
            (Some(Doom::Idle), _) => return self.end(id, "OK"),
            (Some(Doom::Aborted), Step::Switch) => return self.abort(id, "migration aborted"),
            (Some(Doom::Aborted), Step::Done) if task.aim == Aim::Hibernate => {
                return self.abort(
                    id,
                    "unable to save VM state and RAM - qemu_savevm_state_complete_precopy error -5",
                );
            }
            (Some(Doom::Full), Step::Switch) => {
                let error = "ERROR: storage migration for disk to target failed: no space left";
                self.stamped(id, error);
                return self.abort(id, "migration aborted");
            }
            (Some(Doom::Aborted | Doom::Problems | Doom::Full) | None, _) => {}
        }
        match step {
            Step::Lock => self.lock_step(id),
            Step::Switch => self.switch(id),
            Step::StartOne(guest) => {
                let host = task.host.clone();
                self.start_for(&host, guest, &Caller::root());
            }
            Step::Next => self.next_backup(id),
            Step::Done => self.done(id),
            Step::Fail(text) => self.abort(id, &text),
            Step::LateOff => {}
        }
    }

    fn late_off(&mut self, id: TaskId) {
        let (guest, host) = (self.tasks[&id].guest, self.tasks[&id].host.clone());
        if let Some(there) = guest.and_then(|vmid| self.guests.get_mut(&vmid))
            && there.host == host
            && there.run == Run::Running
        {
            there.run = Run::Stopped;
            let who = format!("{} {}", there.kind, there.vmid);
            self.tell(who, "shut down after all");
        }
    }

    /// The guest gets its lock, and the long part of the work begins.
    fn lock_step(&mut self, id: TaskId) {
        let task = &self.tasks[&id];
        let (Some(guest), aim) = (task.guest, task.aim.clone()) else {
            return;
        };
        let link = self.link_bytes_per_second;
        let Some(there) = self.guests.get_mut(&guest) else {
            return self.end(id, "migration aborted");
        };
        match aim {
            Aim::Migrate { local_bytes, restart, bytes_per_second, .. } => {
                let link = bytes_per_second.map_or(link, |limit| limit.min(link));
                there.lock = Some("migrate".into());
                let live = there.run != Run::Stopped && !restart;
                if there.run != Run::Stopped && restart {
                    there.run = Run::Stopped;
                    there.to_start_again = true;
                }
                let memory = if live { there.memory_mib << 20 } else { 0 };
                let copying = Duration::from_millis((memory + local_bytes) * 1_000 / link);
                let before = if live { OTHER_SIDE_STARTS } else { SHORT * 3 };
                self.then(id, before + copying, Step::Switch);
            }
            Aim::Hibernate => {
                there.lock = Some("suspending".into());
                let bytes = there.memory_mib << 20;
                let takes = Duration::from_millis(bytes * 1_000 / HIBERNATES_BYTES_PER_SECOND);
                self.then(id, takes + STARTS, Step::Done);
            }
            Aim::Nothing
            | Aim::Start
            | Aim::ShutDown { .. }
            | Aim::Stop
            | Aim::Pause
            | Aim::Resume
            | Aim::Backup { .. } => {}
        }
    }

    /// The config changes its directory, and with it the guest its host.
    fn switch(&mut self, id: TaskId) {
        let task = &self.tasks[&id];
        let (Some(guest), Aim::Migrate { to, .. }, from) =
            (task.guest, task.aim.clone(), task.host.clone())
        else {
            return;
        };
        let reachable = self.hosts[&to].phase.in_cluster();
        if !reachable || !self.quorate(&from) {
            return self.abort(id, "migration aborted");
        }
        if let Some(there) = self.guests.get_mut(&guest) {
            // PVE turns the replication round.
            if there.replicated_to.remove(&to) {
                there.replicated_to.insert(from);
            }
            there.host = to;
            let settles =
                if there.run == Run::Stopped && !there.to_start_again { SHORT } else { SETTLES };
            self.then(id, settles, Step::Done);
        }
    }

    /// The task failed: what it held is given back.
    pub(crate) fn abort(&mut self, id: TaskId, text: &str) {
        let task = &self.tasks[&id];
        let (guest, kind, aim) = (task.guest, task.kind.clone(), task.aim.clone());
        let migrating = matches!(aim, Aim::Migrate { .. });
        if migrating && let Some(there) = guest.and_then(|vmid| self.guests.get_mut(&vmid)) {
            if there.lock.as_deref() == Some("migrate") {
                there.lock = None;
            }
            if std::mem::take(&mut there.to_start_again) {
                there.run = Run::Running;
            }
            if let Some(ha) = &mut there.ha {
                ha.state = "started".into();
            }
        }
        if matches!(aim, Aim::Backup { .. }) {
            guest.into_iter().for_each(|vmid| self.unlock(vmid, "backup"));
        }
        if aim == Aim::Hibernate {
            guest.into_iter().for_each(|vmid| self.unlock(vmid, "suspending"));
        }
        self.end(id, text);
        if let Some(vmid) = guest {
            self.tell(format!("guest {vmid}"), format!("{kind} failed: {text}"));
        }
    }

    pub(crate) fn end_if_running(&mut self, id: TaskId) {
        if self.tasks.get(&id).is_some_and(Task::running) {
            self.end(id, "OK");
        }
    }

    pub(crate) fn unlock(&mut self, guest: Vmid, lock: &str) {
        if let Some(there) = self.guests.get_mut(&guest)
            && there.lock.as_deref() == Some(lock)
        {
            there.lock = None;
        }
    }

    /// The work is done: its effect, its count, its line in the story.
    fn done(&mut self, id: TaskId) {
        let now = self.now;
        let task = &self.tasks[&id];
        let (aim, from, started) = (task.aim.clone(), task.host.clone(), task.started);
        let over_api = task.caller.token.is_some();
        let guest = task.guest.filter(|vmid| self.guests.contains_key(vmid));
        let problems = task.doom == Some(Doom::Problems);
        self.end(id, if problems { "migration problems" } else { "OK" });
        let Some(guest) = guest else {
            return;
        };
        let took = f64::from(u32::try_from(now.duration_since(started).as_millis()).unwrap_or(0));
        let there = self.guests.get_mut(&guest).expect("it is there");
        let who = format!("{} {guest}", there.kind);
        match aim {
            Aim::Nothing | Aim::Backup { .. } => {}
            Aim::Migrate { to, restart, .. } => {
                there.lock = None;
                if there.ha.is_some()
                    && let Some(left) = self.hosts.get_mut(&from)
                {
                    left.ha_busy_at = Some(now);
                }
                if let Some(ha) = &mut there.ha {
                    ha.state = "started".into();
                }
                let moved = if restart { "by a restart" } else { "live" };
                let how = match there.run {
                    Run::Stopped if !there.to_start_again => "stopped",
                    Run::Stopped | Run::Running | Run::Paused => moved,
                };
                if std::mem::take(&mut there.to_start_again) {
                    there.run = Run::Running;
                    there.since = now;
                    self.tally.restarts += 1;
                } else {
                    self.tally.migrations += 1;
                }
                let seconds = took / 1_000.0;
                self.tell(who, format!("moved {from} → {to} ({how}, {seconds:.1} s)"));
            }
            Aim::Start => {
                there.run = Run::Running;
                there.since = now;
                there.pid = there.pid.wrapping_add(17);
                let woke = std::mem::take(&mut there.hibernated);
                if woke {
                    there.lock = None;
                }
                let what = if woke { "resumed from disk on" } else { "started on" };
                self.tell(who, format!("{what} {from}"));
                self.device_server_follows();
                self.membership_changed();
            }
            Aim::ShutDown { .. } | Aim::Stop => {
                let was = std::mem::replace(&mut there.run, Run::Stopped);
                if was != Run::Stopped {
                    if over_api && matches!(aim, Aim::ShutDown { .. }) {
                        self.tally.shutdowns += 1;
                    }
                    self.tell(who, format!("shut down on {from}"));
                }
                self.device_server_follows();
                self.membership_changed();
            }
            Aim::Pause => there.run = Run::Paused,
            Aim::Resume => there.run = Run::Running,
            Aim::Hibernate => {
                there.run = Run::Stopped;
                there.hibernated = true;
                there.lock = Some("suspended".into());
                self.tally.hibernations += 1;
                self.tell(who, format!("hibernated on {from}"));
            }
        }
    }

    /// vzdump takes its next guest, or ends.
    fn next_backup(&mut self, id: TaskId) {
        let Some(Aim::Backup { each, left }) = self.tasks.get(&id).map(|task| task.aim.clone())
        else {
            return;
        };
        let mut left = left.into_iter();
        if let Some(finished) = self.tasks.get_mut(&id).and_then(|task| task.guest.take()) {
            self.unlock(finished, "backup");
        }
        let Some(next) = left.next() else {
            return self.end(id, "OK");
        };
        if let Some(there) = self.guests.get_mut(&next).filter(|there| there.lock.is_none()) {
            there.lock = Some("backup".into());
        }
        self.log(id, format!("INFO: Starting Backup of VM {next}"));
        let task = self.tasks.get_mut(&id).expect("it runs");
        task.guest = Some(next);
        task.aim = Aim::Backup { each, left: left.collect() };
        self.then(id, each, Step::Next);
    }

    /// A backup of several guests of one host, one after the other.
    pub(crate) fn back_up(&mut self, host: &HostName, guests: Vec<Vmid>, each: Duration) {
        let id = self.begin(host, "vzdump", None, &Caller::root(), Aim::Nothing);
        let task = self.tasks.get_mut(&id).expect("just begun");
        task.aim = Aim::Backup { each, left: guests };
        if let [one] = task_subject(&task.aim) {
            task.subject = one.to_string();
        }
        self.tell(host.as_str(), "a backup began");
        self.then(id, SHORT, Step::Next);
    }
}

impl World {
    /// A backup that ends before it has begun.
    pub(crate) fn backup_fails(&mut self, host: &HostName, why: &str) {
        let id = self.begin(host, "vzdump", None, &Caller::root(), Aim::Nothing);
        self.tell(host.as_str(), format!("a backup failed: {why}"));
        self.then(id, SHORT, Step::Fail(why.to_owned()));
    }
}

fn task_subject(aim: &Aim) -> &[Vmid] {
    match aim {
        Aim::Backup { left, .. } => left,
        Aim::Nothing
        | Aim::Migrate { .. }
        | Aim::Start
        | Aim::ShutDown { .. }
        | Aim::Stop
        | Aim::Pause
        | Aim::Resume
        | Aim::Hibernate => &[],
    }
}
