//! Inhibitors: what keeps a host awake although nothing wants it, and no guest is the reason.
//!
//! Each is on unless its owner switched it off under `inhibit:`, each counts as active when it
//! cannot be read, and each has its sentence and its own code. They are asked about when a host is
//! about to be emptied or switched off, and seldom while one of them holds; a quiet hour asks
//! nothing.
//!
//! **Does not know:** what a gate would say of the same host.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;

use super::hold::Hold;
use super::{Plan, Scene};
use crate::cluster::{Answer, BackupJob, HostName, Question, RunState, TaskSeen, Vmid};
use crate::policy::{BusyWhen, Host, Inhibitor, Serves};
use crate::request::Request;

/// An answer that found nothing is good for this long …
const CLEAR_FOR: Duration = Duration::from_secs(120);
/// … and is asked again from this age on, while the host is being emptied.
const RENEWED: Duration = Duration::from_secs(60);
/// An answer that found something stands for this long before it is asked again.
const SELDOM: Duration = Duration::from_secs(300);
/// A backup that begins within this is waited for: moving a guest takes minutes.
const IMMINENT: Duration = Duration::from_secs(1800);
/// Kinds of tasks that move one guest; under way for a request of ours they are ours.
const MOVES: [&str; 3] = ["qmigrate", "vzmigrate", "hamigrate"];
/// Network file systems, which a host that still mounts them waits for without end.
const MOUNTED: [&str; 2] = ["nfs", "cifs"];

/// What holds a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inhibits {
    /// vzdump runs on it.
    BackupRuns {
        task: String,
    },
    /// PVE will begin one before long, of guests that are still on it.
    BackupSoon {
        job: String,
        at: Timestamp,
    },
    ReplicationRuns {
        guest: Vmid,
        from: HostName,
        to: HostName,
    },
    Task {
        kind: String,
        user: String,
    },
    /// A guest that runs on another host has something on a storage that this one serves.
    ServesGuest {
        storage: String,
        guest: Vmid,
        on: HostName,
    },
    /// A backup runs that may go to a storage it serves.
    ServesBackup {
        storage: String,
        on: HostName,
    },
    /// A backup to a storage it serves begins before long.
    ServesDue {
        storage: String,
        job: String,
        at: Timestamp,
    },
    /// Others still mount a storage of its.
    Mounted {
        storage: String,
        kind: String,
        by: HostName,
    },
    ServesDevice,
    CephNeeded {
        daemon: String,
        words: String,
    },
    CephFlag {
        daemons: Vec<String>,
    },
    HaServices {
        sids: Vec<String>,
        policy: Option<String>,
    },
    HaArmed,
    Maintenance,
    /// A guest tagged `spot-stay`.
    StayTag {
        guest: Vmid,
    },
    /// A check of the owner's says that it is in use.
    Busy {
        check: String,
    },
    /// What could not be read counts as active.
    Unread {
        what: &'static str,
        code: &'static str,
        why: String,
    },
}

impl Inhibits {
    pub fn code(&self) -> &'static str {
        match self {
            Inhibits::BackupRuns { .. } => "backup_running",
            Inhibits::BackupSoon { .. } => "backup_soon",
            Inhibits::ReplicationRuns { .. } => "replication_running",
            Inhibits::Task { .. } => "task_running",
            Inhibits::ServesGuest { .. } => "serves_guests",
            Inhibits::ServesBackup { .. } | Inhibits::ServesDue { .. } => "serves_backups",
            Inhibits::Mounted { .. } => "storage_mounted",
            Inhibits::ServesDevice => "serves_qnetd",
            Inhibits::CephNeeded { .. } | Inhibits::CephFlag { .. } => "ceph",
            Inhibits::HaServices { .. } | Inhibits::HaArmed => "ha",
            Inhibits::Maintenance => "maintenance",
            Inhibits::StayTag { .. } => "spot_stay",
            Inhibits::Busy { .. } => "busy_while",
            Inhibits::Unread { code, .. } => code,
        }
    }

    pub fn guest(&self) -> Option<Vmid> {
        match self {
            Inhibits::StayTag { guest } => Some(*guest),
            Inhibits::BackupRuns { .. }
            | Inhibits::BackupSoon { .. }
            | Inhibits::ReplicationRuns { .. }
            | Inhibits::Task { .. }
            | Inhibits::ServesGuest { .. }
            | Inhibits::ServesBackup { .. }
            | Inhibits::ServesDue { .. }
            | Inhibits::Mounted { .. }
            | Inhibits::ServesDevice
            | Inhibits::CephNeeded { .. }
            | Inhibits::CephFlag { .. }
            | Inhibits::HaServices { .. }
            | Inhibits::HaArmed
            | Inhibits::Maintenance
            | Inhibits::Busy { .. }
            | Inhibits::Unread { .. } => None,
        }
    }

    /// What would release it.
    pub fn remedy(&self, host: &HostName) -> String {
        let switch =
            |key: &str| format!("`inhibit: {{ {key}: false }}` of {host} switches this off");
        match self {
            Inhibits::BackupRuns { .. } => {
                format!("it goes on when the backup has ended; {}", switch("backups"))
            }
            Inhibits::BackupSoon { job, .. } => {
                format!(
                    "it goes on when {job} has run, or when its guests have gone; {}",
                    switch("backups")
                )
            }
            Inhibits::ReplicationRuns { .. } => {
                format!("it goes on when the replication has ended; {}", switch("replication"))
            }
            Inhibits::Task { .. } => {
                format!("it goes on when the task has ended; {}", switch("tasks"))
            }
            Inhibits::ServesGuest { storage, guest, .. } => {
                format!("stop guest {guest}, or move what it has on {storage} to another storage")
            }
            Inhibits::ServesBackup { .. } | Inhibits::ServesDue { .. } => {
                "it goes on when the backup has ended".into()
            }
            Inhibits::Mounted { storage, .. } => format!(
                "before {host} sleeps, `pvesm set {storage} --disable 1` and then `umount /mnt/pve/{storage}` on every other host (PVE does not unmount it); `--disable 0` when it is back; a host that waits for a mount answers nobody"
            ),
            Inhibits::ServesDevice => {
                "move the QDevice's server (corosync-qnetd) to a machine that is always on".into()
            }
            Inhibits::CephNeeded { .. } => format!(
                "wait until Ceph is healthy (`ceph -s`), or move its daemons off {host}; {}",
                switch("ceph")
            ),
            Inhibits::CephFlag { .. } => format!(
                "`ceph osd set noout` on any host, and `ceph osd unset noout` when {host} is back; spot sets no flags"
            ),
            Inhibits::HaServices { .. } => format!(
                "migrate or disable them with the HA manager (`ha-manager status`); {}",
                switch("ha")
            ),
            Inhibits::HaArmed => {
                format!("nothing to do, it ends by itself; {}", switch("ha"))
            }
            Inhibits::Maintenance => {
                format!("`ha-manager crm-command node-maintenance disable {host}`")
            }
            Inhibits::StayTag { guest } => {
                format!("remove the tag `spot-stay` from guest {guest}; {}", switch("stay_tag"))
            }
            Inhibits::Busy { check } => {
                format!("it goes on when the check {check} of spot.yaml says that nobody uses it")
            }
            Inhibits::Unread { .. } => {
                "spot asks again; `spot doctor` says what does not answer".into()
            }
        }
    }

    /// The sentence, about `host`.
    pub fn told(&self, host: &HostName, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Inhibits::BackupRuns { task } if task.is_empty() => {
                write!(f, "a backup runs on {host}")
            }
            Inhibits::BackupRuns { task } => write!(f, "a backup of guest {task} runs on {host}"),
            Inhibits::BackupSoon { job, at } => {
                write!(f, "a backup of guests on {host} begins soon ({job}, at {at:.0})")
            }
            Inhibits::ReplicationRuns { guest, from, to } => {
                write!(f, "guest {guest} is being replicated from {from} to {to}")
            }
            Inhibits::Task { kind, user } => write!(f, "a task runs on {host}: {kind} of {user}"),
            Inhibits::ServesGuest { storage, guest, on } => write!(
                f,
                "{host} serves storage {storage}, and guest {guest}, which runs on {on}, uses it"
            ),
            Inhibits::ServesBackup { storage, on } => write!(
                f,
                "{host} serves storage {storage}, and a backup runs on {on} that may go there"
            ),
            Inhibits::ServesDue { storage, job, at } => write!(
                f,
                "{host} serves storage {storage}, and a backup to it begins soon ({job}, at {at:.0})"
            ),
            Inhibits::Mounted { storage, kind, by } => {
                write!(f, "{host} serves storage {storage}, and {by} has it mounted ({kind})")
            }
            Inhibits::ServesDevice => {
                write!(f, "the QDevice's server runs on {host}, and it is needed at all times")
            }
            Inhibits::CephNeeded { daemon, words } => {
                write!(f, "Ceph needs {daemon} on {host}: {words}")
            }
            Inhibits::CephFlag { daemons } => write!(
                f,
                "{host} carries {} of Ceph, and the flag noout is not set",
                daemons.join(", ")
            ),
            Inhibits::HaServices { sids, policy } => {
                let what = match policy.as_deref() {
                    Some("migrate") => "a shutdown would wait until it has moved them",
                    Some("failover") => "a shutdown would stop them and start them elsewhere",
                    Some("freeze") => "a shutdown would stop them until the host is back",
                    Some(_) | None => {
                        "a shutdown would stop them and start them elsewhere a minute later"
                    }
                };
                write!(
                    f,
                    "the HA manager has {} on {host}; by its shutdown_policy ({}) {what}",
                    sids.join(", "),
                    policy.as_deref().unwrap_or("conditional")
                )
            }
            Inhibits::HaArmed => write!(
                f,
                "the HA manager's agent on {host} is still active; it holds its watchdog for ten minutes after the last service has left"
            ),
            Inhibits::Maintenance => {
                write!(f, "{host} is in maintenance mode, which is its owner's")
            }
            Inhibits::StayTag { guest } => {
                write!(f, "guest {guest} on {host} is tagged spot-stay")
            }
            Inhibits::Busy { check } => write!(f, "{host} is in use: {check} says so"),
            Inhibits::Unread { what, why, .. } => {
                write!(f, "{what} of {host} could not be read, so it counts as active: {why}")
            }
        }
    }
}

/// What the inhibitors say of a host.
pub enum Verdict {
    Clear,
    /// Answers are on their way.
    Asking,
    Held(Vec<Hold>),
}

/// What one of them says.
enum Said {
    Nothing,
    Asking,
    Holds(Inhibits),
}

/// Asks every inhibitor of `host`. With `empty`, what concerns only a host without guests as well:
/// the HA manager's services and its watchdog.
pub fn verdict(
    scene: &Scene<'_>,
    plan: &mut Plan,
    host: &HostName,
    settings: &Host,
    empty: bool,
) -> Verdict {
    let on = |inhibitor| !settings.uninhibited.contains(&inhibitor);
    let mut said = Vec::new();
    if on(Inhibitor::StayTag) {
        said.extend(stay_tags(scene, host));
    }
    if on(Inhibitor::Backups) {
        said.extend(backup_runs(scene, host));
        said.push(backup_soon(scene, plan, host));
    }
    if on(Inhibitor::Tasks) {
        said.extend(foreign_task(scene, host));
    }
    for check in &settings.busy_while {
        said.push(busy(scene, plan, host, check));
    }
    said.extend(serves(scene, plan, host, settings));
    if on(Inhibitor::Replication) {
        said.push(replication(scene, plan, host));
    }
    if on(Inhibitor::Ceph) {
        said.push(ceph(scene, plan, host));
    }
    if on(Inhibitor::Ha) {
        said.push(ha(scene, plan, host, empty));
    }
    let asking = said.iter().any(|one| matches!(one, Said::Asking));
    let locked = on(Inhibitor::Locks).then(|| locked(scene, host)).flatten();
    let holds: Vec<Hold> = said
        .into_iter()
        .filter_map(|one| match one {
            Said::Holds(what) => Some(Hold::Inhibited { host: host.clone(), what }),
            Said::Nothing | Said::Asking => None,
        })
        .chain(locked)
        .collect();
    match (holds.is_empty(), asking) {
        (false, _) => Verdict::Held(holds),
        (true, true) => Verdict::Asking,
        (true, false) => Verdict::Clear,
    }
}

/// What a question's answer says of inhibiting: judged as long as it is young enough for what it
/// says, and asked again before it is not.
fn asked(
    scene: &Scene<'_>,
    plan: &mut Plan,
    question: Question,
    unread: (&'static str, &'static str),
    judge: impl FnOnce(&Answer) -> Option<Inhibits>,
) -> Said {
    let Some(stamped) = scene.seen.answers.get(&question) else {
        plan.questions.insert(question);
        return Said::Asking;
    };
    let age = scene.seen.turn_began.since(stamped.asked);
    let found = match &stamped.answer {
        Ok(answer) => judge(answer),
        Err(gap) => {
            let ((what, code), why) = (unread, gap.why.clone());
            Some(Inhibits::Unread { what, code, why })
        }
    };
    let good_for = if found.is_some() { SELDOM } else { RENEWED };
    if age > good_for {
        plan.questions.insert(question);
    }
    match found {
        Some(found) => Said::Holds(found),
        None if age <= CLEAR_FOR => Said::Nothing,
        None => Said::Asking,
    }
}

/// The tag by which a guest's owner keeps it where it is.
pub const STAY_TAG: &str = "spot-stay";

fn stay_tags(scene: &Scene<'_>, host: &HostName) -> Option<Said> {
    let tagged = scene.seen.guests_on(host).find(|(_, guest)| {
        !guest.template && guest.status.may_run() && guest.tags.contains(STAY_TAG)
    });
    tagged.map(|(guest, _)| Said::Holds(Inhibits::StayTag { guest: *guest }))
}

/// A guest that somebody holds a lock on. (A hibernated one is locked as long as it sleeps, and one
/// that we move is ours.)
fn locked(scene: &Scene<'_>, host: &HostName) -> Option<Hold> {
    scene.seen.guests_on(host).find_map(|(guest, look)| {
        let lock = look.lock.clone().filter(|lock| lock != "suspended")?;
        // A backup that runs is told as such.
        if lock == "backup" && backup_runs(scene, host).is_some() {
            return None;
        }
        let (host, guest, kind) = (host.clone(), *guest, look.kind);
        (!scene.in_flight(guest)).then_some(Hold::GuestLocked { host, guest, kind, lock })
    })
}

fn running<'a>(scene: &Scene<'a>) -> impl Iterator<Item = &'a TaskSeen> {
    // The list of a host that went off is frozen.
    let up = move |task: &&TaskSeen| {
        scene.seen.hosts.get(&task.host).is_some_and(|look| look.member == Some(true))
    };
    scene.seen.tasks.iter().filter(|task| task.running()).filter(up)
}

fn backup_runs(scene: &Scene<'_>, host: &HostName) -> Option<Said> {
    let task = running(scene).find(|task| task.host == *host && task.kind == "vzdump")?;
    Some(Said::Holds(Inhibits::BackupRuns { task: task.id.clone() }))
}

/// A backup that PVE begins within half an hour of guests that are still there. (Its jobs are asked
/// about like everything else here, when the host is about to be emptied.)
fn backup_soon(scene: &Scene<'_>, plan: &mut Plan, host: &HostName) -> Said {
    let guests = scene.seen.guests_on(host).any(|(_, guest)| !guest.template);
    if !guests {
        return Said::Nothing;
    }
    let (now, unread) = (scene.now.civil, ("the backup jobs", "backup_soon"));
    asked(scene, plan, Question::BackupJobs, unread, |answer| {
        let Answer::BackupJobs(jobs) = answer else { return None };
        let due = |job: &&BackupJob| {
            let here = job.node.as_ref().is_none_or(|node| node == host);
            let soon = job.next_run.is_some_and(|at| at > now && at <= now + IMMINENT);
            job.enabled && here && soon
        };
        let job = jobs.iter().filter(due).min_by_key(|job| job.next_run)?;
        Some(Inhibits::BackupSoon { job: job.id.clone(), at: job.next_run? })
    })
}

/// Any task on it that we did not ask for. (A backup is told as such.)
fn foreign_task(scene: &Scene<'_>, host: &HostName) -> Option<Said> {
    let ours = |task: &TaskSeen| {
        scene.ledger.in_flight().any(|(_, _, asked)| {
            let upid = match &asked.answered {
                Some(crate::request::Answered::Accepted { task: Some(upid) }) => *upid == task.upid,
                Some(_) | None => false,
            };
            // What the HA manager begins for us is root's, and an answer may have been lost.
            let same_guest =
                asked.request.guest().is_some_and(|guest| guest.to_string() == task.id);
            let same_kind = match &asked.request {
                Request::Migrate { .. } => MOVES.contains(&task.kind.as_str()),
                Request::Hibernate { .. } => task.kind == "qmsuspend",
                Request::ShutDownGuest { .. } => task.kind.ends_with("shutdown"),
                Request::StartGuest { .. } => task.kind.ends_with("start"),
                Request::Wake { .. } | Request::PowerOff { .. } => false,
            };
            upid || same_guest && same_kind
        })
    };
    let task =
        running(scene).find(|task| task.host == *host && task.kind != "vzdump" && !ours(task))?;
    let (kind, user) = (task.kind.clone(), task.user.clone());
    Some(Said::Holds(Inhibits::Task { kind, user }))
}

fn busy(scene: &Scene<'_>, plan: &mut Plan, host: &HostName, check: &str) -> Said {
    let question = Question::Check { host: host.clone(), check: check.to_owned() };
    asked(scene, plan, question, ("a check", "busy_while"), |answer| {
        matches!(answer, Answer::Check(true)).then(|| Inhibits::Busy { check: check.to_owned() })
    })
}

fn replication(scene: &Scene<'_>, plan: &mut Plan, host: &HostName) -> Said {
    let unread = ("the replication", "replication_running");
    asked(scene, plan, Question::Replications, unread, |answer| {
        let Answer::Replications(jobs) = answer else { return None };
        let job = jobs.iter().find(|job| job.running && (job.from == *host || job.to == *host))?;
        let (guest, from, to) = (job.guest, job.from.clone(), job.to.clone());
        Some(Inhibits::ReplicationRuns { guest, from, to })
    })
}

fn ceph(scene: &Scene<'_>, plan: &mut Plan, host: &HostName) -> Said {
    let unread = ("Ceph", "ceph");
    asked(scene, plan, Question::Ceph(host.clone()), unread, |answer| {
        let Answer::Ceph(seen) = answer else { return None };
        match (&seen.needed, seen.daemons.is_empty() || seen.noout) {
            (Some((daemon, words)), _) => {
                let (daemon, words) = (daemon.clone(), words.clone());
                Some(Inhibits::CephNeeded { daemon, words })
            }
            (None, false) => Some(Inhibits::CephFlag { daemons: seen.daemons.clone() }),
            (None, true) => None,
        }
    })
}

/// Services of the HA manager that are guests move like any other guest; what is left when nobody
/// runs there any more, and the watchdog, hold the power-off.
fn ha(scene: &Scene<'_>, plan: &mut Plan, host: &HostName, empty: bool) -> Said {
    let unread = ("the HA manager's view", "ha");
    asked(scene, plan, Question::HaStatus, unread, |answer| {
        let Answer::HaStatus(status) = answer else { return None };
        let maintenance = status.hosts.get(host).is_some_and(|word| word == "maintenance");
        if maintenance {
            return Some(Inhibits::Maintenance);
        }
        if !empty {
            return None;
        }
        // What has left since the manager was asked is not there any more.
        let left = |sid: &str| {
            let number = sid.split_once(':').and_then(|(_, number)| number.parse().ok());
            let look = number.and_then(|number| scene.seen.guests.get(&Vmid(number)));
            look.is_some_and(|look| look.host != *host)
        };
        let cared_for = status.cared_for(host).filter(|(sid, _)| !left(sid));
        let sids: Vec<String> = cared_for.map(|(sid, _)| sid.to_owned()).collect();
        if !sids.is_empty() {
            return Some(Inhibits::HaServices { sids, policy: status.shutdown_policy.clone() });
        }
        status.armed(host).then_some(Inhibits::HaArmed)
    })
}

/// What others need of it, as its owner's policy says.
fn serves(scene: &Scene<'_>, plan: &mut Plan, host: &HostName, settings: &Host) -> Vec<Said> {
    let mut said = Vec::new();
    for served in &settings.serves {
        match served {
            Serves::Qnetd => {
                // 0: the cluster is known to have no QDevice.
                if !matches!(scene.ledger.device, Some((_, 0, _))) {
                    said.push(Said::Holds(Inhibits::ServesDevice));
                }
            }
            Serves::Storage { name, busy_when } => {
                said.push(match busy_when {
                    BusyWhen::Guests => guests_use(scene, plan, host, name),
                    BusyWhen::Backups => backups_use(scene, plan, host, name),
                });
                said.push(mounted(scene, plan, host, name));
            }
        }
    }
    said
}

/// The first guest that runs on another host and has something on `storage`. One is enough, so no
/// other is asked about while it is known.
fn guests_use(scene: &Scene<'_>, plan: &mut Plan, host: &HostName, storage: &str) -> Said {
    let mut unknown = Vec::new();
    for (vmid, guest) in &scene.seen.guests {
        let runs = match &guest.status {
            RunState::Stopped => false,
            RunState::Running | RunState::Unknown | RunState::Other(_) => true,
        };
        let up = scene.seen.hosts.get(&guest.host).is_some_and(|look| look.member == Some(true));
        if guest.template || !runs || !up || guest.host == *host {
            continue;
        }
        let stamped = scene.seen.answers.get(&Question::Guest(*vmid));
        let age = stamped.map(|one| scene.seen.turn_began.since(one.asked));
        match stamped.map(|one| &one.answer) {
            Some(Ok(Answer::Guest(facts))) if facts.storages.contains(storage) => {
                if age > Some(SELDOM) {
                    plan.ask_facts(*vmid);
                }
                let (storage, guest, on) = (storage.to_owned(), *vmid, guest.host.clone());
                return Said::Holds(Inhibits::ServesGuest { storage, guest, on });
            }
            Some(Ok(Answer::Guest(_))) if age <= Some(SELDOM) => {}
            Some(Err(gap)) => {
                if age > Some(RENEWED) {
                    plan.ask_facts(*vmid);
                }
                let why = gap.to_string();
                let what = "what other guests have on its storage";
                return Said::Holds(Inhibits::Unread { what, code: "serves_guests", why });
            }
            Some(Ok(_)) | None => unknown.push(*vmid),
        }
    }
    if unknown.is_empty() {
        return Said::Nothing;
    }
    for vmid in unknown {
        plan.ask_facts(vmid);
    }
    Said::Asking
}

/// Which storage a running backup goes to is in no list, so any on another host may go there; one
/// that is due is known by its job.
fn backups_use(scene: &Scene<'_>, plan: &mut Plan, host: &HostName, storage: &str) -> Said {
    let elsewhere = running(scene).find(|task| task.kind == "vzdump" && task.host != *host);
    if let Some(task) = elsewhere {
        let (storage, on) = (storage.to_owned(), task.host.clone());
        return Said::Holds(Inhibits::ServesBackup { storage, on });
    }
    let (now, unread) = (scene.now.civil, ("the backup jobs", "serves_backups"));
    asked(scene, plan, Question::BackupJobs, unread, |answer| {
        let Answer::BackupJobs(jobs) = answer else { return None };
        let due = |job: &&BackupJob| {
            let soon = job.next_run.is_some_and(|at| at > now && at <= now + IMMINENT);
            job.enabled && soon && job.storage.as_deref() == Some(storage)
        };
        let job = jobs.iter().filter(due).min_by_key(|job| job.next_run)?;
        let (storage, job, at) = (storage.to_owned(), job.id.clone(), job.next_run?);
        Some(Inhibits::ServesDue { storage, job, at })
    })
}

/// A network file system that is still enabled on a host that stays: its mount would hang there.
fn mounted(scene: &Scene<'_>, plan: &mut Plan, host: &HostName, storage: &str) -> Said {
    let unread = ("who mounts the storage", "storage_mounted");
    let members = scene.seen.members();
    asked(scene, plan, Question::Storages, unread, |answer| {
        let Answer::Storages(storages) = answer else { return None };
        let config = storages.get(storage)?;
        if config.disabled || !MOUNTED.contains(&config.kind.as_str()) {
            return None;
        }
        let uses = |member: &&HostName| {
            *member != host && config.hosts.as_ref().is_none_or(|hosts| hosts.contains(*member))
        };
        let by = members.iter().find(uses)?.clone();
        let (storage, kind) = (storage.to_owned(), config.kind.clone());
        Some(Inhibits::Mounted { storage, kind, by })
    })
}
