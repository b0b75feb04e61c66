//! Guests of the pretended cluster: what they are, what starts and stops them, what hands do to
//! them.
//!
//! A guest's place is the folder its config lies in, as in PVE: exact at once, and untouched when
//! its host dies. Whether it runs is known to its host alone; the rest of the cluster believes the
//! last broadcast.
//!
//! **Does not know:** HTTP, where a guest ought to be.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::file::{DiskFile, GuestFile, GuestState, StartupFile};
use super::power::HA_ROUND;
use super::task::{Aim, Caller, Step};
use super::world::{Due, World};
use crate::cluster::{GuestKind, HostName, Vmid};

/// Between one guest of startall and the next, where its `up` says nothing (VMs; none for
/// containers).
const UP_DELAY: Duration = Duration::from_secs(3);
/// A start within startall.
const ONE_START: Duration = Duration::from_secs(2);

/// Whether a guest runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    Stopped,
    Running,
    Paused,
}

impl Run {
    /// QMP's word, as broadcast.
    pub fn word(self) -> &'static str {
        match self {
            Run::Stopped => "stopped",
            Run::Running => "running",
            Run::Paused => "paused",
        }
    }

    /// The word of the host's own lists, which know no pause.
    pub fn live_word(self) -> &'static str {
        match self {
            Run::Stopped => "stopped",
            Run::Running | Run::Paused => "running",
        }
    }
}

/// A VM or container.
#[derive(Clone, Debug)]
pub struct Guest {
    pub vmid: Vmid,
    pub kind: GuestKind,
    pub name: String,
    pub host: HostName,
    pub run: Run,
    /// When it last started.
    pub since: Timestamp,
    pub memory_mib: u64,
    pub lock: Option<String>,
    pub hibernated: bool,
    pub template: bool,
    pub hidden: bool,
    pub(crate) cores: u32,
    pub(crate) disks: Vec<DiskFile>,
    pub(crate) onboot: bool,
    pub(crate) startup: StartupFile,
    pub(crate) tags: BTreeSet<String>,
    pub(crate) pool: Option<String>,
    pub(crate) hostpci: Vec<String>,
    pub(crate) config: BTreeMap<String, String>,
    pub(crate) replicated_to: BTreeSet<HostName>,
    pub(crate) deaf: bool,
    pub(crate) shutdown_seconds: u32,
    pub(crate) protection: bool,
    pub(crate) ha: Option<Ha>,
    pub(crate) pid: u32,
    /// A restart migration starts it again at its end.
    pub(crate) to_start_again: bool,
}

/// What the HA manager knows of a guest.
#[derive(Clone, Debug)]
pub(crate) struct Ha {
    pub requested: String,
    pub state: String,
    pub wish: Option<HaWish>,
}

#[derive(Clone, Debug)]
pub(crate) enum HaWish {
    Migrate(HostName),
    Start,
    Stop,
}

impl Guest {
    pub fn uptime_seconds(&self, now: Timestamp) -> u64 {
        match self.run {
            Run::Stopped => 0,
            Run::Running | Run::Paused => {
                u64::try_from(now.duration_since(self.since).as_secs()).unwrap_or(0)
            }
        }
    }

    /// `VM` or `CT`, as error texts have it.
    pub(crate) fn kind_in_capitals(&self) -> &'static str {
        match self.kind {
            GuestKind::Vm => "VM",
            GuestKind::Ct => "CT",
        }
    }

    pub(crate) fn heeds_shutdown(&self) -> bool {
        !self.deaf && self.run == Run::Running
    }

    /// The HA manager wants it running, and it belongs on `host`.
    pub(crate) fn ha_wants(&self, host: &HostName) -> bool {
        self.host == *host && self.ha.as_ref().is_some_and(|ha| ha.requested == "started")
    }

    pub fn tags(&self) -> &BTreeSet<String> {
        &self.tags
    }

    /// `order` first, missing last, then the number: the way PVE starts guests.
    fn place_in_order(&self) -> (u32, Vmid) {
        (self.startup.order.unwrap_or(u32::MAX), self.vmid)
    }
}

impl World {
    /// Adds a guest, in the state its file says.
    pub(crate) fn put_guest(&mut self, file: &GuestFile) {
        let run = match file.state {
            GuestState::Running => Run::Running,
            GuestState::Paused => Run::Paused,
            GuestState::Stopped | GuestState::Hibernated => Run::Stopped,
        };
        let hibernated = file.state == GuestState::Hibernated;
        let lock = file.lock.clone().or(hibernated.then(|| "suspended".to_owned()));
        let default_name = match file.kind {
            GuestKind::Vm => format!("VM {}", file.vmid),
            GuestKind::Ct => format!("CT{}", file.vmid),
        };
        let ha =
            file.ha.clone().map(|requested| Ha { state: requested.clone(), requested, wish: None });
        let guest = Guest {
            vmid: file.vmid,
            kind: file.kind,
            name: file.name.clone().unwrap_or(default_name),
            host: file.host.clone(),
            run: if file.template { Run::Stopped } else { run },
            since: self.now - Duration::from_secs(5 * 86_400),
            memory_mib: file.memory_mib,
            lock,
            hibernated,
            template: file.template,
            hidden: file.hidden,
            cores: file.cores,
            disks: file.disks.clone().unwrap_or_default(),
            onboot: file.onboot,
            startup: file.startup.clone(),
            tags: file.tags.clone(),
            pool: file.pool.clone(),
            hostpci: file.hostpci.clone(),
            config: file.config.clone(),
            replicated_to: file.replicated_to.clone(),
            deaf: file.deaf,
            shutdown_seconds: file.shutdown_seconds,
            protection: file.protection,
            ha,
            pid: 2_000 + file.vmid.0,
            to_start_again: false,
        };
        self.guests.insert(guest.vmid, guest);
    }

    /// Volumes of the guest's further lines that lie on a storage of its host: key, volume, line.
    pub(crate) fn local_lines<'a>(&self, guest: &'a Guest) -> Vec<(&'a str, &'a str, &'a str)> {
        let local = |(key, line): (&'a String, &'a String)| {
            let volume = line.split(',').next().unwrap_or("");
            let (storage, _) = volume.split_once(':')?;
            let known = self.storages.contains_key(storage) && !self.is_shared(storage);
            known.then_some((key.as_str(), volume, line.as_str()))
        };
        guest.config.iter().filter_map(local).collect()
    }

    pub(crate) fn is_shared(&self, storage: &str) -> bool {
        self.storages.get(storage).is_some_and(|storage| storage.file.shared)
    }

    /// Starts a guest by a worker of its host.
    pub(crate) fn start_for(&mut self, host: &HostName, guest: Vmid, caller: &Caller) -> u64 {
        let kind = match self.guests.get(&guest).map(|guest| guest.kind) {
            Some(GuestKind::Ct) => "vzstart",
            Some(GuestKind::Vm) | None => "qmstart",
        };
        self.begin(host, kind, Some(guest), caller, Aim::Start)
    }

    /// PVE's startall after a boot: `onboot` guests in their order, one after the other.
    pub(crate) fn start_all(&mut self, host: &HostName) {
        for guest in self.guests.values_mut().filter(|guest| guest.host == *host) {
            // A lock that a backup left behind goes with the boot.
            if guest.lock.as_deref() == Some("backup") {
                guest.lock = None;
            }
        }
        let mut wanted: Vec<&Guest> = self
            .guests
            .values()
            .filter(|guest| guest.host == *host && guest.onboot && !guest.template)
            .filter(|guest| guest.run == Run::Stopped && guest.ha.is_none())
            .collect();
        wanted.sort_by_key(|guest| guest.place_in_order());
        let pause = |guest: &Guest| match (guest.startup.up, guest.kind) {
            (Some(seconds), _) => Duration::from_secs(u64::from(seconds)),
            (None, GuestKind::Vm) => UP_DELAY,
            (None, GuestKind::Ct) => Duration::ZERO,
        };
        let plan: Vec<(Vmid, Duration)> =
            wanted.iter().map(|guest| (guest.vmid, ONE_START + pause(guest))).collect();
        let task = self.begin(host, "startall", None, &Caller::root(), Aim::Nothing);
        let mut at = Duration::from_millis(100);
        for (vmid, takes) in plan {
            self.then(task, at, Step::StartOne(vmid));
            at += takes;
        }
        self.then(task, at, Step::Done);
    }

    /// PVE's stopall: in reverse order, each guest asked and, past its patience, stopped hard. Says
    /// how long it will take.
    pub(crate) fn stop_all(&mut self, host: &HostName, patience_seconds: u32) -> Duration {
        let task = self.begin(host, "stopall", None, &Caller::root(), Aim::Nothing);
        let mut running: Vec<Guest> = self
            .guests
            .values()
            .filter(|guest| guest.host == *host && guest.run != Run::Stopped)
            .cloned()
            .collect();
        running.sort_by_key(|guest| std::cmp::Reverse(guest.place_in_order()));
        let mut longest = Duration::from_millis(300);
        for guest in running {
            if guest.lock.as_deref() == Some("backup") {
                self.unlock(guest.vmid, "backup");
            }
            let patience = guest.startup.down.unwrap_or(patience_seconds);
            let timeout = Duration::from_secs(u64::from(patience));
            let kind = match guest.kind {
                GuestKind::Vm => "qmshutdown",
                GuestKind::Ct => "vzshutdown",
            };
            let asked = guest.heeds_shutdown() && guest.shutdown_seconds <= patience;
            let takes = if asked {
                Duration::from_secs(u64::from(guest.shutdown_seconds))
            } else {
                self.count_lost(host, guest.vmid, "stopped hard by the shutdown of");
                timeout
            };
            let aim = Aim::ShutDown { force: true, timeout };
            self.begin(host, kind, Some(guest.vmid), &Caller::root(), aim);
            longest = longest.max(takes + Duration::from_millis(500));
        }
        self.then(task, longest, Step::Done);
        longest
    }

    /// A guest that a shutdown of its host hurt; counted when the API was asked for it.
    fn count_lost(&mut self, host: &HostName, guest: Vmid, how: &str) {
        self.tell(format!("guest {guest}"), format!("{how} {host}"));
        let asked = self.hosts[host].asked_off.filter(|asked| asked.over_api);
        let unforeseen = asked.is_some_and(|asked| self.guests[&guest].since >= asked.at);
        match asked {
            Some(_) if unforeseen => self.tally.bad_luck += 1,
            Some(_) => self.tally.guests_lost += 1,
            None => {}
        }
    }

    /// What still runs when a host's daemons stop is cut off.
    pub(crate) fn cut_remaining(&mut self, host: &HostName) {
        let running: Vec<Vmid> = self
            .guests
            .values()
            .filter(|guest| guest.host == *host && guest.run != Run::Stopped)
            .map(|guest| guest.vmid)
            .collect();
        for vmid in running {
            self.count_lost(host, vmid, "cut off by the shutdown of");
            self.guests.get_mut(&vmid).expect("just listed").run = Run::Stopped;
        }
    }

    /// The HA manager takes up a wish at its next round.
    pub(crate) fn ha_wish(&mut self, guest: Vmid, wish: HaWish) {
        let round = i64::try_from(HA_ROUND.as_secs()).expect("seconds");
        let next = (self.now.as_second() / round + 1) * round;
        if let Some(ha) = self.guests.get_mut(&guest).and_then(|there| there.ha.as_mut()) {
            ha.wish = Some(wish);
        }
        if let Ok(at) = Timestamp::from_second(next) {
            self.at(at, Due::HaRound(guest));
        }
    }

    /// A host with HA guests went: they will be looked after in a while.
    pub(crate) fn ha_will_recover(&mut self, host: &HostName, after: Duration) {
        let wanted: Vec<Vmid> =
            self.guests.values().filter(|guest| guest.ha_wants(host)).map(|g| g.vmid).collect();
        for guest in wanted {
            self.after(after, Due::HaRound(guest));
        }
    }

    /// The HA manager looks at one guest: carries out a wish, or recovers it from a dead host.
    pub(crate) fn ha_round(&mut self, vmid: Vmid) {
        let Some(guest) = self.guests.get_mut(&vmid) else {
            return;
        };
        let (host, run) = (guest.host.clone(), guest.run);
        let Some(ha) = &mut guest.ha else {
            return;
        };
        let wish = ha.wish.take();
        if !self.hosts[&host].phase.in_cluster() {
            return self.ha_recover(vmid);
        }
        if !self.quorate(&host) {
            return;
        }
        let root = Caller::root();
        let state = |world: &mut World, state: &str| {
            if let Some(ha) = world.guests.get_mut(&vmid).and_then(|guest| guest.ha.as_mut()) {
                ha.state = state.into();
            }
        };
        match wish {
            Some(HaWish::Migrate(to)) if self.hosts[&to].phase.in_cluster() => {
                state(self, "migrate");
                let restart = self.guests[&vmid].kind == GuestKind::Ct;
                let kind = if restart { "vzmigrate" } else { "qmigrate" };
                let aim = Aim::Migrate { to, local_bytes: 0, restart, bytes_per_second: None };
                self.begin(&host, kind, Some(vmid), &root, aim);
            }
            // A target the manager does not see online is dropped without a word.
            Some(HaWish::Migrate(_)) => state(self, "started"),
            Some(HaWish::Start) if run == Run::Stopped => {
                state(self, "started");
                self.start_for(&host, vmid, &root);
            }
            Some(HaWish::Stop) if run != Run::Stopped => {
                state(self, "stopped");
                let kind = if self.guests[&vmid].kind == GuestKind::Ct {
                    "vzshutdown"
                } else {
                    "qmshutdown"
                };
                let aim = Aim::ShutDown { force: true, timeout: Duration::from_secs(60) };
                self.begin(&host, kind, Some(vmid), &root, aim);
            }
            Some(HaWish::Start | HaWish::Stop) | None => {}
        }
    }

    /// Moves an HA guest's config away from a dead host and starts it elsewhere.
    fn ha_recover(&mut self, vmid: Vmid) {
        let from = self.guests[&vmid].host.clone();
        let able = |name: &&HostName| self.hosts[*name].phase.api_answers() && self.quorate(name);
        let Some(to) = self.hosts.keys().find(able).cloned() else {
            return;
        };
        if !self.guests[&vmid].ha_wants(&from) {
            return;
        }
        self.guests.get_mut(&vmid).expect("just seen").host = to.clone();
        self.tell("ha", format!("recovers guest {vmid} from {from} on {to}"));
        self.start_for(&to, vmid, &Caller::root());
    }
}
