//! When PVE's own backup jobs want a host: the windows of `for_backups`.
//!
//! PVE decides when its jobs run and when they are over, so neither a cron expression nor a length
//! could say it; the runs come in as data. A run that is due opens the window `before` it begins;
//! the window stays open while the run goes on, for as long as that takes, and closes when it has
//! ended. A run that does not begin when it was due is waited for a while, and then given up.
//!
//! **Does not know:** how the runs are found out.

use std::time::Duration;

use jiff::Timestamp;

use super::ForBackups;
use super::calendar::Opening;
use crate::cluster::{BackupRun, BackupStage};

/// PVE's scheduler looks once a minute, and spreads jobs that begin together.
const LATE_AT_MOST: Duration = Duration::from_secs(10 * 60);

impl ForBackups {
    /// The opening that holds at `now`: all runs that overlap in one.
    pub fn open_at(&self, runs: &[BackupRun], now: Timestamp) -> Option<Opening> {
        let all: Vec<Stretch> = self.stretches(runs).collect();
        let mut open: Vec<&Stretch> = all.iter().filter(|one| one.holds(now)).collect();
        let mut opens = open.iter().map(|one| one.opens).min()?;
        // Whatever reaches into the run carries its beginning further back; each round takes at
        // least one stretch more, so there are no more rounds than runs.
        while let Some(earlier) = all.iter().find(|one| one.opens < opens && one.reaches(opens)) {
            opens = earlier.opens;
            open.push(earlier);
        }
        let known: Option<Vec<Timestamp>> =
            open.iter().filter(|one| one.holds(now)).map(|one| one.closes).collect();
        Some(Opening { opens, closes: known.and_then(|all| all.into_iter().max()) })
    }

    /// The first opening that opens after `now`, so far as the runs tell.
    pub fn next_after(&self, runs: &[BackupRun], now: Timestamp) -> Option<Opening> {
        let coming = self.stretches(runs).filter(|one| one.opens > now);
        let first = coming.min_by_key(|one| one.opens)?;
        Some(Opening { opens: first.opens, closes: None })
    }

    fn stretches<'a>(&'a self, runs: &'a [BackupRun]) -> impl Iterator<Item = Stretch> + 'a {
        let ours = runs.iter().filter(|run| run.storage == self.storage);
        ours.filter_map(|run| {
            let (begins, until, closes) = match run.stage {
                BackupStage::Due(at) => (at, at.checked_add(LATE_AT_MOST).ok(), None),
                BackupStage::Running { since } => (since, None, None),
                BackupStage::Ended { since, at } => (since, Some(at), Some(at)),
            };
            let opens = begins.checked_sub(self.before).ok()?;
            Some(Stretch { opens, until, closes })
        })
    }
}

/// A run's own part of a window.
struct Stretch {
    opens: Timestamp,
    /// Not held open any longer; `None` while it runs.
    until: Option<Timestamp>,
    /// When it closes, if that is known.
    closes: Option<Timestamp>,
}

impl Stretch {
    fn holds(&self, now: Timestamp) -> bool {
        self.opens <= now && self.until.is_none_or(|until| now < until)
    }

    fn reaches(&self, at: Timestamp) -> bool {
        self.until.is_none_or(|until| until >= at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(time: &str) -> Timestamp {
        format!("2026-11-24T{time}:00Z").parse().unwrap()
    }

    fn due(time: &str) -> BackupRun {
        BackupRun { storage: "pbs".into(), stage: BackupStage::Due(at(time)) }
    }

    fn running(since: &str) -> BackupRun {
        let stage = BackupStage::Running { since: at(since) };
        BackupRun { storage: "pbs".into(), stage }
    }

    fn ended(since: &str, until: &str) -> BackupRun {
        let stage = BackupStage::Ended { since: at(since), at: at(until) };
        BackupRun { storage: "pbs".into(), stage }
    }

    /// `02:20-?` now, and when next.
    fn told(runs: &[BackupRun], now: &str) -> String {
        let nightly = ForBackups { storage: "pbs".into(), before: Duration::from_secs(10 * 60) };
        let time = |at: Timestamp| at.strftime("%H:%M").to_string();
        let open = nightly.open_at(runs, at(now)).map_or("shut".into(), |open| {
            format!("{}-{}", time(open.opens), open.closes.map_or("?".into(), time))
        });
        match nightly.next_after(runs, at(now)) {
            Some(next) => format!("{open}, next {}", time(next.opens)),
            None => open,
        }
    }

    #[test]
    fn a_job_opens_its_window_before_it_begins_and_closes_it_when_it_ends() {
        assert_eq!(told(&[due("02:30")], "02:00"), "shut, next 02:20");
        assert_eq!(told(&[due("02:30")], "02:20"), "02:20-?");
        assert_eq!(told(&[running("02:31")], "05:00"), "02:21-?");
        assert_eq!(told(&[ended("02:31", "05:12")], "05:11"), "02:21-05:12");
        assert_eq!(told(&[ended("02:31", "05:12")], "05:12"), "shut");
    }

    #[test]
    fn a_job_that_does_not_begin_is_given_up_after_a_while() {
        assert_eq!(told(&[due("02:30")], "02:39"), "02:20-?");
        assert_eq!(told(&[due("02:30")], "02:40"), "shut");
    }

    #[test]
    fn jobs_that_follow_each_other_make_one_window() {
        let night = [ended("02:00", "02:50"), running("02:45"), due("04:00")];
        assert_eq!(told(&night, "03:00"), "01:50-?, next 03:50");
        let over = [ended("02:00", "02:50"), ended("03:00", "03:30")];
        assert_eq!(told(&over, "03:10"), "01:50-03:30");
        let apart = [ended("02:00", "02:50"), ended("03:30", "04:00")];
        assert_eq!(told(&apart, "03:40"), "03:20-04:00");
    }

    #[test]
    fn jobs_of_other_storages_open_nothing() {
        let other = BackupRun { storage: "nas".into(), ..running("02:00") };
        assert_eq!(told(&[other], "02:30"), "shut");
        assert_eq!(told(&[], "02:30"), "shut");
    }
}
