//! The words for what is seen of a cluster: an [`Observation`], its [`Gap`]s, and the [`Question`]s
//! that go beyond the quiet look.
//!
//! Facts come in as data and carry the moment they were asked for. What could not be seen is a
//! [`Gap`], never a zero and never an absence: judgement treats a gap as a reason to wait.
//!
//! **Does not know:** that anybody wants anything, how PVE spells its answers, what time it is.

pub mod backup;
pub mod duty;
pub mod guest;
pub mod host;
pub mod quorum;
pub mod rights;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use backup::{BackupJob, BackupRun, BackupStage};
pub use duty::{CephSeen, HaStatus, ReplicationSeen, StorageConfig};
pub use guest::{
    Device, GuestFacts, GuestKind, GuestSeen, LiveGuest, LocalVolume, RunState, Vmid, VolumeKind,
};
pub use host::{Cpu, HostName, HostSeen, Mac, Memory, Readiness, Reported, Tier, Way};
pub use quorum::{CorosyncConf, Evidence};

/// One instant with both its faces.
///
/// Limits within one run use `monotonic` (time since the process, or the pretended world, began);
/// across a restart only `civil` has meaning. A jump between the two is a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    /// The wall clock.
    pub civil: Timestamp,
    /// Time since this run began; never steps.
    pub monotonic: Duration,
}

impl Moment {
    /// The moment `later` from here, on both faces.
    pub fn plus(self, later: Duration) -> Moment {
        Moment { civil: self.civil + later, monotonic: self.monotonic + later }
    }

    /// How long ago `earlier` was, by the monotonic face; zero if it lies ahead.
    pub fn since(self, earlier: Moment) -> Duration {
        self.monotonic.saturating_sub(earlier.monotonic)
    }
}

/// Whether the wall clock can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClockState {
    Synchronised,
    Unsynchronised,
    Unknown,
}

/// A task of PVE, as `/cluster/tasks` lists it (about 25 per host, every running one among them).
///
/// The list of a host that went off is frozen: `spot` ignores running tasks of absent hosts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSeen {
    /// `UPID:node:…`, as PVE spells it.
    pub upid: String,
    pub host: HostName,
    /// `qmigrate`, `vzdump`, `stopall`, …
    pub kind: String,
    /// The VMID as text, or empty.
    pub id: String,
    /// `user@realm`, with `!token` where a token started it.
    pub user: String,
    pub started: Timestamp,
    /// `None` while it runs; else its exit text (`OK`, `WARNINGS: 2`, `migration aborted`, …).
    pub ended: Option<String>,
    /// When, by its host's clock.
    pub ended_at: Option<Timestamp>,
}

impl TaskSeen {
    pub fn running(&self) -> bool {
        self.ended.is_none()
    }

    /// PVE calls `OK` and `WARNINGS: n` success (`pve-common`, `UPID.pm#status_is_error`).
    pub fn succeeded(&self) -> Option<bool> {
        self.ended.as_ref().map(|text| text == "OK" || text.starts_with("WARNINGS: "))
    }
}

/// When a host that came up at `up_since` began to be shut down, by its tasks: systemd's stop of
/// `pve-guests` shows as a `stopall` task of root@pam, after which nothing else begins
/// (`pve-manager`, `pve-guests.service`).
///
/// The task itself is over in a second where no guest runs; the host may be on for minutes yet.
pub fn shutdown_began(
    tasks: &[TaskSeen],
    host: &HostName,
    up_since: Option<Timestamp>,
) -> Option<Timestamp> {
    let on_host = || tasks.iter().filter(|task| task.host == *host);
    let stopall = on_host()
        .filter(|task| task.kind == "stopall" && task.user == "root@pam")
        .filter(|task| up_since.is_none_or(|since| task.started >= since))
        .map(|task| task.started)
        .max()?;
    // A bulk shutdown from the web page is a `stopall` too; life went on after that one.
    let part_of_it = |task: &TaskSeen| {
        matches!(task.kind.as_str(), "stopall" | "qmshutdown" | "vzshutdown" | "qmstop" | "vzstop")
    };
    let went_on = on_host().any(|task| task.started > stopall && !part_of_it(task));
    (!went_on).then_some(stopall)
}

/// One storage on one host, from `/cluster/resources`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageSeen {
    pub host: HostName,
    pub name: String,
    /// `dir`, `zfspool`, `nfs`, …
    pub kind: Option<String>,
    pub shared: bool,
    pub available: bool,
    pub free_bytes: Option<u64>,
}

/// What could not be seen, and why. Displayed as one sentence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// What is missing: `cluster status`, `resources`, `evidence of host2`, …
    pub what: String,
    /// Why, in one clause: `host1 refused the connection`.
    pub why: String,
}

impl std::fmt::Display for Gap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "could not see {}: {}", self.what, self.why)
    }
}

/// Something judgement wants to know beyond the quiet look.
///
/// Asked with the next observation; a slow answer comes with a later one, stamped with when its
/// asking began.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Question {
    /// Runtime evidence of one member, from its own `/nodes/{n}/report` (6 to 11 s on real
    /// servers).
    Evidence(HostName),
    /// The host's own live guest lists, asked of the host itself.
    LiveGuests(HostName),
    /// The host's own `/cluster/status`: whom it sees, and whether it is quorate. Quick; judged
    /// only when asked in the same turn.
    Membership(HostName),
    /// The host's own connection to the QDevice's server (`/cluster/config/qdevice`). Quick; judged
    /// only when asked in the same turn.
    Device(HostName),
    /// Is the host's API up, does it see quorum, are its storages active?
    Readiness(HostName),
    /// What our token may do, by path (`/access/permissions`).
    Permissions,
    /// The configured votes (`/cluster/config/nodes`).
    ConfiguredVotes,
    /// PVE's own backup jobs and when they run next (`/cluster/backup`).
    BackupJobs,
    /// The address by which PVE itself would wake a host (`/nodes/{n}/config`).
    WakeAddress(HostName),
    /// Config and migration preconditions of a guest.
    Guest(Vmid),
    /// Every replication job, asked of every member.
    Replications,
    /// The HA manager's own picture, and the shutdown policy.
    HaStatus,
    /// Ceph's daemons on a host, and whether Ceph could spare them.
    Ceph(HostName),
    /// Storages as they are configured.
    Storages,
    /// A check that `spot.yaml` names: is this host in use?
    Check { host: HostName, check: String },
    /// What became of a task, asked of the host in its UPID.
    Task(String),
    /// Tasks of a host for one guest since an instant: where a lost request is looked for.
    Tasks { host: HostName, guest: Option<Vmid>, since: Timestamp },
}

/// An answer to a [`Question`]. `Err` says why it could not be had.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Evidence(Box<Evidence>),
    LiveGuests(BTreeMap<Vmid, LiveGuest>),
    Membership(Membership),
    Device(DeviceLink),
    Readiness(Readiness),
    Permissions(Permissions),
    ConfiguredVotes(BTreeMap<HostName, u32>),
    BackupJobs(Vec<BackupJob>),
    /// `None`: PVE knows none for this host.
    WakeAddress(Option<Mac>),
    Guest(Box<GuestFacts>),
    Replications(Vec<ReplicationSeen>),
    HaStatus(Box<HaStatus>),
    Ceph(CephSeen),
    Storages(BTreeMap<String, StorageConfig>),
    /// Whether it is busy.
    Check(bool),
    Task(Option<TaskSeen>),
    Tasks(Vec<TaskSeen>),
}

/// An answer, or why there is none, with the moment its asking began.
#[derive(Clone, Debug, PartialEq)]
pub struct Stamped {
    pub asked: Moment,
    pub answer: Result<Answer, Gap>,
}

/// What one member sees (`/cluster/status`, never forwarded by PVE).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    pub quorate: bool,
    /// `config_version` of corosync.conf as this host has it.
    pub config_version: Option<u64>,
    /// Everybody configured; true = online in this host's view.
    pub members: BTreeMap<HostName, bool>,
}

/// What one host's corosync-qdevice says of its server.
///
/// Its votes are in no other quick answer: a cluster whose QDevice has just died shows the same
/// members and the same quorum, until a host leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceLink {
    Connected,
    /// In its own words: `Connect failed`.
    NotConnected(String),
    /// There is no device, or its daemon does not run there: PVE answers alike.
    NoDaemon,
}

/// Rights of our token: path → privilege → whether it reaches deeper paths
/// (`GET /access/permissions`; the value is PVE's propagate flag, presence is the grant).
///
/// A deeper entry *replaces* what is inherited (`pve-access-control`, `AccessControl.pm#roles`),
/// and a path without any right is not listed at all: hidden guests are found by the report, not
/// here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// `user@realm!name`: whose rights these are.
    pub token: String,
    pub by_path: BTreeMap<String, BTreeMap<String, bool>>,
}

impl Permissions {
    /// Whether `privilege` holds on `path`: the deepest listed ancestor decides.
    pub fn allow(&self, path: &str, privilege: &str) -> bool {
        if let Some(privileges) = self.by_path.get(path) {
            return privileges.contains_key(privilege);
        }
        let mut at = path;
        while at != "/" {
            at = match at.rfind('/') {
                Some(0) | None => "/",
                Some(end) => &at[..end],
            };
            if let Some(privileges) = self.by_path.get(at) {
                return privileges.get(privilege) == Some(&true);
            }
        }
        false
    }

    /// Paths where `VM.Audit` is missing although guests live there: guests may hide.
    pub fn blind_spots(&self) -> Vec<String> {
        let deeper = self.by_path.keys().filter(|path| path.starts_with("/vms/"));
        let blind = |path: &&str| !self.allow(path, "VM.Audit");
        // A grant on /vms that does not reach deeper paths shows no guest at all.
        let below = if self.allow("/vms/0", "VM.Audit") { None } else { Some("/vms") };
        below
            .into_iter()
            .chain(deeper.map(String::as_str).filter(blind))
            .map(str::to_owned)
            .collect()
    }
}

/// Everything seen of the cluster in one look.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// When this look began.
    pub at: Moment,
    /// When the turn that made it began: later than `at` when an earlier look came late.
    pub turn_began: Moment,
    pub clock: ClockState,
    /// The cluster's name, where it was seen.
    pub cluster: Option<String>,
    /// Who was asked: the host whose view this is.
    pub seen_from: Option<HostName>,
    /// That host's own view of quorum; `None` is a gap (and never "stand-alone").
    pub quorate: Option<bool>,
    pub config_version: Option<u64>,
    /// Every host that is configured in `spot.yaml` or listed by PVE.
    pub hosts: BTreeMap<HostName, HostSeen>,
    /// Every guest our token may see.
    pub guests: BTreeMap<Vmid, GuestSeen>,
    pub storages: Vec<StorageSeen>,
    /// Tasks that run or ended lately; empty with a gap named `tasks` when unseen.
    pub tasks: Vec<TaskSeen>,
    /// The latest answer to every question that was ever answered and not yet forgotten.
    pub answers: BTreeMap<Question, Stamped>,
    /// Named outside figures; reserved for conditions on signals.
    pub signals: BTreeMap<String, Option<(f64, Timestamp)>>,
    pub gaps: Vec<Gap>,
}

impl Observation {
    /// An observation in which nothing was seen.
    pub fn blank(at: Moment) -> Observation {
        Observation {
            at,
            turn_began: at,
            clock: ClockState::Unknown,
            cluster: None,
            seen_from: None,
            quorate: None,
            config_version: None,
            hosts: BTreeMap::new(),
            guests: BTreeMap::new(),
            storages: Vec::new(),
            tasks: Vec::new(),
            answers: BTreeMap::new(),
            signals: BTreeMap::new(),
            gaps: Vec::new(),
        }
    }

    /// Whether the quiet look was whole: status, resources and tasks were all seen.
    pub fn whole(&self) -> bool {
        self.quorate.is_some() && self.saw("resources") && self.saw("tasks")
    }

    /// Whether no gap names `what`.
    pub fn saw(&self, what: &str) -> bool {
        !self.gaps.iter().any(|gap| gap.what == what)
    }

    /// Members of the cluster in this view.
    pub fn members(&self) -> BTreeSet<HostName> {
        let present = |(name, seen): (&HostName, &HostSeen)| {
            (seen.member == Some(true)).then(|| name.clone())
        };
        self.hosts.iter().filter_map(present).collect()
    }

    /// The answer to `question`, if it was had and its asking began no longer ago than `age`.
    pub fn answer(&self, question: &Question, age: Duration) -> Option<&Answer> {
        let stamped = self.answers.get(question)?;
        let fresh = self.turn_began.since(stamped.asked) <= age;
        stamped.answer.as_ref().ok().filter(|_| fresh)
    }

    /// Guests on `host`, running or not, as `/cluster/resources` places them.
    pub fn guests_on<'a>(
        &'a self,
        host: &'a HostName,
    ) -> impl Iterator<Item = (&'a Vmid, &'a GuestSeen)> + 'a {
        self.guests.iter().filter(move |(_, guest)| guest.host == *host)
    }
}
