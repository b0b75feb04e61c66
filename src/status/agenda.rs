//! The coming windows, as the command line and the page show them.
//!
//! Windows only, as the owner wrote them: quiet hours hold a wake and remove no window. Instants
//! are never clipped to the stretch that was asked for, and what overlaps or touches for one host
//! and policy is one window, for nobody can see the seam.
//!
//! **Does not know:** what the cluster is doing.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::VERSION;
use crate::cluster::{BackupRun, HostName};
use crate::policy::calendar::{Opening, Window};
use crate::policy::{ForBackups, Policy, Rule};

/// Agendas reach this far at most: as far as windows are looked for.
const DAYS: u32 = 400;
/// Windows of one policy; a list longer than that is read by nobody.
const WINDOWS: usize = 100_000;
/// Windows of one policy that run into each other, one after the other.
const JOINS: usize = 10_000;

/// What `spot agenda` shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agenda {
    pub version: u32,
    pub cluster: Option<String>,
    pub at: Timestamp,
    pub days: u32,
    pub windows: Vec<WindowShown>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowShown {
    pub host: HostName,
    pub policy: String,
    pub opens: Timestamp,
    /// `null`: not known.
    pub closes: Option<Timestamp>,
}

impl Agenda {
    /// Every window that closes after `from` and opens before `days` times 24 hours are over, in
    /// the order of opening, host, policy.
    /// `backups` are PVE's runs so far as anybody knows of them: of each job the next, which opens
    /// a window of `for_backups` and leaves its close unknown.
    pub fn of(
        policy: &Policy,
        backups: &[BackupRun],
        cluster: Option<String>,
        from: Timestamp,
        days: u32,
    ) -> Agenda {
        let days = days.min(DAYS);
        let end = from
            .checked_add(Duration::from_secs(u64::from(days) * 24 * 3600))
            .unwrap_or(Timestamp::MAX);
        let mut windows = Vec::new();
        for rule in policy.rules() {
            let jobs =
                rule.for_backups.iter().flat_map(|jobs| for_backups(jobs, backups, from, end));
            for one in joined(openings(&rule.run, from, end), jobs.collect()) {
                windows.extend(rule.hosts.iter().map(|host| shown(rule, host, one)));
            }
        }
        windows.sort_by(|a, b| (a.opens, &a.host, &a.policy).cmp(&(b.opens, &b.host, &b.policy)));
        Agenda { version: VERSION, cluster, at: from, days, windows }
    }
}

fn shown(rule: &Rule, host: &HostName, opening: Opening) -> WindowShown {
    WindowShown {
        host: host.clone(),
        policy: rule.name.clone(),
        opens: opening.opens,
        closes: opening.closes,
    }
}

/// When at least one of `windows` is open, as stretches without a seam.
fn openings(windows: &[Window], from: Timestamp, end: Timestamp) -> Vec<Opening> {
    let mut found = Vec::new();
    let mut opens = began(windows, from).or_else(|| next(windows, from));
    while let Some(start) = opens.filter(|start| *start < end && found.len() < WINDOWS) {
        let closes = closes(windows, start);
        found.push(Opening { opens: start, closes });
        opens = closes.and_then(|closes| next(windows, closes));
    }
    found
}

/// The openings of `for_backups`, the one that holds at `from` first.
fn for_backups(
    jobs: &ForBackups,
    backups: &[BackupRun],
    from: Timestamp,
    end: Timestamp,
) -> Vec<Opening> {
    let mut found: Vec<Opening> = jobs.open_at(backups, from).into_iter().collect();
    let mut after = from;
    while let Some(next) = jobs.next_after(backups, after).filter(|next| next.opens < end) {
        // A job due while another's window is open makes no second one.
        let opening = jobs.open_at(backups, next.opens).unwrap_or(next);
        if found.last().is_none_or(|last| last.opens != opening.opens) {
            found.push(opening);
        }
        after = next.opens;
    }
    found
}

/// Both kinds of one policy's openings. A backup that begins inside a window, or before one has
/// begun and goes on for nobody knows how long, is one with it only where they are seen to meet.
fn joined(mut windows: Vec<Opening>, backups: Vec<Opening>) -> Vec<Opening> {
    for backup in backups {
        let meets = |one: &&mut Opening| {
            let reaches = one.closes.is_none_or(|closes| backup.opens <= closes);
            let reached = backup.closes.is_some_and(|closes| one.opens <= closes);
            (one.opens <= backup.opens && reaches) || (backup.opens <= one.opens && reached)
        };
        match windows.iter_mut().find(meets) {
            Some(one) => {
                one.opens = one.opens.min(backup.opens);
                one.closes = one.closes.zip(backup.closes).map(|(one, other)| one.max(other));
            }
            None => windows.push(backup),
        }
    }
    windows
}

/// When the stretch that holds at `at` began.
fn began(windows: &[Window], at: Timestamp) -> Option<Timestamp> {
    let earliest = |at| windows.iter().filter_map(|one| one.open_at(at)).map(|one| one.opens).min();
    let mut start = earliest(at)?;
    for _ in 0..JOINS {
        let before = start.checked_sub(SignedDuration::from_nanos(1)).ok()?;
        match earliest(before) {
            Some(earlier) if earlier < start => start = earlier,
            Some(_) | None => break,
        }
    }
    Some(start)
}

/// When the stretch that begins at `start` is over; `None` if that is not known.
fn closes(windows: &[Window], start: Timestamp) -> Option<Timestamp> {
    let mut reached = start;
    for _ in 0..JOINS {
        let open: Vec<Opening> = windows.iter().filter_map(|one| one.open_at(reached)).collect();
        if open.is_empty() {
            return Some(reached);
        }
        // One unknown close makes the whole unknown.
        let closes: Option<Vec<Timestamp>> = open.iter().map(|one| one.closes).collect();
        reached = closes?.into_iter().max()?;
    }
    None
}

fn next(windows: &[Window], after: Timestamp) -> Option<Timestamp> {
    windows.iter().filter_map(|one| one.next_after(after)).map(|one| one.opens).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(windows: &[(&str, &str)], from: &str, hours: i64) -> String {
        let windows: Vec<Window> = windows
            .iter()
            .map(|(from, until)| Window::parse(from, until, "UTC").expect("a window"))
            .collect();
        let from: Timestamp = from.parse().expect("an instant");
        let tell = |one: &Opening| {
            let closes = one.closes.map_or("?".into(), |at| at.strftime("%dT%H:%M").to_string());
            format!("{}-{closes}", one.opens.strftime("%dT%H:%M"))
        };
        let found = openings(&windows, from, from + SignedDuration::from_hours(hours));
        found.iter().map(tell).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_overlaps_or_touches_is_one_window() {
        let windows =
            [("0 6 * * *", "3h"), ("0 8 * * *", "4h"), ("0 12 * * *", "1h"), ("0 20 * * *", "1h")];
        assert_eq!(
            told(&windows, "2026-11-23T10:00:00Z", 24),
            "23T06:00-23T13:00 23T20:00-23T21:00 24T06:00-24T13:00"
        );
    }

    #[test]
    fn a_window_that_ends_where_the_stretch_begins_is_not_in_it() {
        let windows = [("0 6 * * *", "3h")];
        assert_eq!(told(&windows, "2026-11-23T09:00:00Z", 21), "");
        assert_eq!(
            told(&windows, "2026-11-23T08:59:59Z", 22),
            "23T06:00-23T09:00 24T06:00-24T09:00"
        );
    }

    #[test]
    fn a_policy_without_windows_has_no_agenda() {
        assert_eq!(told(&[], "2026-11-23T09:00:00Z", 24), "");
    }

    const HOME: &str = r#"
timezone: UTC
hosts:
  host1: { tier: low }
  host2: { tier: medium, mac: "a8:a1:59:00:00:02", quiet: [{ from: "0 19 * * *", for: 2h }] }
  host3: { tier: high, mac: "a8:a1:59:00:00:03" }
policies:
  - { name: z-late, hosts: [host3, host2], run: [{ from: "0 20 * * *", for: 1h }] }
  - { name: a-late, hosts: [host3], run: [{ from: "0 20 * * *", for: 2h }] }
  - name: nightly
    hosts: [host2]
    run: [{ from: "0 2 * * *", for: 1h }]
    for_backups: { storage: pbs, before: 10m }
"#;

    fn shown_windows(backups: &[BackupRun], from: &str, days: u32) -> Vec<String> {
        let policy = crate::policy::text::must_read(HOME);
        let from = from.parse().expect("an instant");
        let agenda = Agenda::of(&policy, backups, None, from, days);
        let time = |at: Timestamp| at.strftime("%dT%H:%M").to_string();
        let tell = |one: &WindowShown| {
            let closes = one.closes.map_or("?".into(), time);
            format!("{} {} {}-{closes}", one.host, one.policy, time(one.opens))
        };
        agenda.windows.iter().map(tell).collect()
    }

    fn due(storage: &str, at: &str) -> BackupRun {
        let stage = crate::cluster::BackupStage::Due(at.parse().expect("an instant"));
        BackupRun { storage: storage.into(), stage }
    }

    #[test]
    fn windows_come_by_opening_host_and_policy_and_quiet_removes_none() {
        // Inside the last ones, and ending where the next ones open.
        assert_eq!(
            shown_windows(&[], "2026-11-23T20:30:00Z", 1),
            [
                "host2 z-late 23T20:00-23T21:00",
                "host3 a-late 23T20:00-23T22:00",
                "host3 z-late 23T20:00-23T21:00",
                "host2 nightly 24T02:00-24T03:00",
                "host2 z-late 24T20:00-24T21:00",
                "host3 a-late 24T20:00-24T22:00",
                "host3 z-late 24T20:00-24T21:00",
            ]
        );
        assert_eq!(shown_windows(&[], "2026-11-22T22:00:00Z", 1).len(), 4, "a-late is over");
    }

    #[test]
    fn a_backup_opens_a_window_whose_close_nobody_knows() {
        let nightly = |backups: &[BackupRun]| -> Vec<String> {
            let shown = shown_windows(backups, "2026-11-23T21:00:00Z", 1);
            shown.into_iter().filter(|one| one.contains("nightly")).collect()
        };
        let apart = [due("pbs", "2026-11-24T01:30:00Z"), due("nas", "2026-11-24T05:00:00Z")];
        assert_eq!(
            nightly(&apart),
            ["host2 nightly 24T01:20-?", "host2 nightly 24T02:00-24T03:00"]
        );
        let inside = [due("pbs", "2026-11-24T02:30:00Z")];
        assert_eq!(nightly(&inside), ["host2 nightly 24T02:00-?"]);
        let touching = [due("pbs", "2026-11-24T03:10:00Z")];
        assert_eq!(nightly(&touching), ["host2 nightly 24T02:00-?"]);
        let beyond = [due("pbs", "2026-11-25T05:00:00Z")];
        assert_eq!(nightly(&beyond), ["host2 nightly 24T02:00-24T03:00"]);
    }
}
