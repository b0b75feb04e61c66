//! What is remembered of PVE's backup jobs: when they are due, and which of their runs go on.
//!
//! PVE's list says when a job runs next, and nothing of the run before; its task list says what
//! runs, and not for which storage. So every due time that was ever announced is kept for a while,
//! and a backup counts for the storages whose jobs were due when it began. One that was at work
//! before anybody watched counts for all of them: a host kept awake for nothing is the lesser harm.
//!
//! What cannot be read changes nothing here, so a window that is open stays as it was last known.
//!
//! **Does not know:** policies, or how early a host is wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::cluster::{BackupJob, BackupRun, BackupStage, HostName, TaskSeen};

/// PVE's scheduler looks once a minute, and spreads jobs that begin together.
const LATE_AT_MOST: Duration = Duration::from_secs(10 * 60);
/// Once one host has begun, the others have had their chance after this: each runs the job for its
/// own guests, by its own scheduler.
const ALL_BEGUN_WITHIN: Duration = Duration::from_secs(3 * 60);
/// Clocks of hosts and of ours may differ by this much.
const CLOCK_SKEW: Duration = Duration::from_secs(90);
/// A backup found running is told by when it began; the longest take a day or two.
const KEPT: Duration = Duration::from_secs(3 * 24 * 3600);
/// More than any cluster announces in that time; the oldest go first.
const SLOTS_AT_MOST: usize = 2_000;

/// PVE's backups, as far as anybody watched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Backups {
    pub jobs: Vec<BackupJob>,
    /// Since when the jobs and their tasks are watched in this run of the service.
    pub watched: Option<Timestamp>,
    /// Every announced run that is not long past.
    slots: Vec<Slot>,
    /// Backups at work, by their UPID.
    pub running: BTreeMap<String, RunningBackup>,
}

/// A time at which a job was to begin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Slot {
    job: String,
    storage: String,
    node: Option<HostName>,
    at: Timestamp,
    /// A backup began for it.
    begun: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningBackup {
    pub host: HostName,
    pub started: Timestamp,
    pub storages: BTreeSet<String>,
}

impl Slot {
    fn fits(&self, host: &HostName, started: Timestamp) -> bool {
        let here = self.node.as_ref().is_none_or(|node| node == host);
        here && self.at <= started + CLOCK_SKEW && started <= self.at + LATE_AT_MOST
    }
}

impl Backups {
    /// The service began anew: nobody watched meanwhile.
    pub(super) fn unwatched(&mut self) {
        self.watched = None;
    }

    /// PVE's list, as read at `now`.
    pub(super) fn listed(&mut self, now: Timestamp, jobs: &[BackupJob]) {
        self.watched.get_or_insert(now);
        self.jobs = jobs.to_vec();
        // What was announced for later and no longer is was cancelled, or put off.
        self.slots.retain(|slot| slot.at <= now && slot.at + KEPT > now);
        for job in jobs {
            let (Some(storage), Some(at)) = (&job.storage, job.next_run) else { continue };
            if !self.slots.iter().any(|slot| slot.job == job.id && slot.at == at) {
                self.slots.push(Slot {
                    job: job.id.clone(),
                    storage: storage.clone(),
                    node: job.node.clone(),
                    at,
                    begun: false,
                });
            }
        }
        self.slots.sort_by_key(|slot| slot.at);
        let many = self.slots.len().saturating_sub(SLOTS_AT_MOST);
        self.slots.drain(..many);
    }

    pub(super) fn began(&mut self, upid: &str, backup: RunningBackup) {
        for slot in &mut self.slots {
            let ours = backup.storages.contains(&slot.storage);
            slot.begun |= ours && slot.fits(&backup.host, backup.started);
        }
        self.running.insert(upid.to_owned(), backup);
    }

    pub(super) fn over(&mut self, upid: &str) {
        self.running.remove(upid);
    }

    /// The storages a backup counts for; none for one that no job asked for.
    pub fn storages_of(&self, task: &TaskSeen) -> BTreeSet<String> {
        if self.watched.is_some_and(|watched| task.started < watched) {
            return self.jobs.iter().filter_map(|job| job.storage.clone()).collect();
        }
        let slots = self.slots.iter().filter(|slot| slot.fits(&task.host, task.started));
        slots.map(|slot| slot.storage.clone()).collect()
    }

    /// Whether a backup that is over was the first sign of a run.
    pub fn unseen(&self, task: &TaskSeen) -> bool {
        let watched = self.watched.is_some_and(|watched| task.started >= watched);
        let fits = |slot: &Slot| !slot.begun && slot.fits(&task.host, task.started);
        watched && self.slots.iter().any(fits)
    }

    /// Every run that is due or at work, as the policy's windows want them.
    pub fn runs(&self, now: Timestamp) -> Vec<BackupRun> {
        let waits = |slot: &&Slot| !slot.begun || now < slot.at + ALL_BEGUN_WITHIN;
        let due = self.slots.iter().filter(waits).map(|slot| BackupRun {
            storage: slot.storage.clone(),
            stage: BackupStage::Due(slot.at),
        });
        let running = self.running.values().flat_map(|backup| {
            backup.storages.iter().map(|storage| {
                // From when it was due, so that its window does not seem to open anew.
                let due = self.slots.iter().filter(|slot| {
                    slot.storage == *storage && slot.fits(&backup.host, backup.started)
                });
                let since = due.map(|slot| slot.at).min().unwrap_or(backup.started);
                let stage = BackupStage::Running { since: since.min(backup.started) };
                BackupRun { storage: storage.clone(), stage }
            })
        });
        due.chain(running).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(time: &str) -> Timestamp {
        format!("2026-11-24T{time}:00Z").parse().expect("an instant")
    }

    fn job(id: &str, storage: &str, next: &str) -> BackupJob {
        BackupJob {
            id: id.into(),
            storage: Some(storage.into()),
            schedule: String::new(),
            node: None,
            enabled: true,
            next_run: Some(at(next)),
        }
    }

    fn backup(started: &str) -> TaskSeen {
        TaskSeen {
            upid: format!("UPID:{started}"),
            host: "host1".into(),
            kind: "vzdump".into(),
            id: String::new(),
            user: "root@pam".into(),
            started: at(started),
            ended: None,
            ended_at: None,
        }
    }

    fn watched() -> Backups {
        let mut backups = Backups::default();
        backups.listed(at("00:00"), &[job("a", "pbs", "02:00"), job("b", "nas", "04:00")]);
        backups
    }

    /// `pbs due 02:00`, `pbs runs 02:00`.
    fn told(backups: &Backups, now: &str) -> Vec<String> {
        let time = |at: Timestamp| at.strftime("%H:%M").to_string();
        let tell = |run: BackupRun| match run.stage {
            BackupStage::Due(at) => format!("{} due {}", run.storage, time(at)),
            BackupStage::Running { since } => format!("{} runs {}", run.storage, time(since)),
            BackupStage::Ended { .. } => format!("{} is over", run.storage),
        };
        backups.runs(at(now)).into_iter().map(tell).collect()
    }

    #[test]
    fn a_backup_counts_for_the_storages_whose_jobs_were_due() {
        let backups = watched();
        for (started, storages) in
            [("02:01", &["pbs"][..]), ("01:50", &[]), ("02:11", &[]), ("04:10", &["nas"])]
        {
            let found: Vec<String> = backups.storages_of(&backup(started)).into_iter().collect();
            assert_eq!(found, storages, "{started}");
        }
        let mut anew = backups;
        anew.unwatched();
        anew.listed(at("03:00"), &[job("a", "pbs", "12:00"), job("b", "nas", "04:00")]);
        let both: BTreeSet<String> = ["nas".to_owned(), "pbs".to_owned()].into();
        assert_eq!(anew.storages_of(&backup("02:40")), both, "it began while nobody watched");
    }

    #[test]
    fn a_run_is_due_until_it_began_and_runs_until_it_is_over() {
        let mut backups = watched();
        assert_eq!(told(&backups, "01:00"), ["pbs due 02:00", "nas due 04:00"]);
        let task = backup("02:01");
        let (host, storages) = (task.host.clone(), backups.storages_of(&task));
        backups.began(&task.upid, RunningBackup { host, started: task.started, storages });
        // The other hosts may be a little later.
        assert_eq!(told(&backups, "02:02"), ["pbs due 02:00", "nas due 04:00", "pbs runs 02:00"]);
        // PVE's list has gone on to tomorrow: what runs is remembered.
        backups.listed(at("02:05"), &[job("a", "pbs", "23:00"), job("b", "nas", "04:00")]);
        assert_eq!(told(&backups, "03:00"), ["nas due 04:00", "pbs due 23:00", "pbs runs 02:00"]);
        backups.over(&task.upid);
        assert_eq!(told(&backups, "03:30"), ["nas due 04:00", "pbs due 23:00"]);
        // A job that is put off or taken away is due no longer.
        backups.listed(at("03:40"), &[job("a", "pbs", "22:00")]);
        assert_eq!(told(&backups, "03:45"), ["pbs due 22:00"]);
    }
}
