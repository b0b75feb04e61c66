//! PVE's own backup jobs: when they run, whom they back up, and how `/cluster/backup` shows them.
//!
//! Each host runs a job for its own guests, by its own scheduler; one that is off misses it. A job
//! whose storage is not there fails at once, as PVE's does. Schedules are calendar events as PVE's
//! page offers them (`02:30`, `mon..fri 22:00`, `sat 18:15`, `*/2:00`, `daily`), read in UTC; dates
//! in them are not understood.
//!
//! **Does not know:** retention, or `repeat-missed`.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};
use serde_json::{Map, Value, json};

use super::world::{Due, World};
use crate::cluster::{HostName, Vmid};

/// What a run takes for all guests of one host, where the world file does not say (`lasts`).
const LASTS: Duration = Duration::from_secs(1200);
/// A week and a day: every schedule that ever runs runs within it.
const MINUTES_AHEAD: i64 = 8 * 1440;

/// One entry of the world file's `backups`.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    /// Handed out as it is, but for `next-run`.
    entry: Map<String, Value>,
    schedule: Option<Schedule>,
    lasts: Duration,
}

impl Job {
    /// Takes `lasts` out of the entry, which PVE does not have; `number` names what has no id.
    pub fn read(mut entry: Map<String, Value>, number: usize) -> Result<Job, String> {
        let id = entry.entry("id").or_insert_with(|| json!(format!("backup-{number}"))).clone();
        let id = id.as_str().unwrap_or("a backup").to_owned();
        let lasts = match entry.remove("lasts") {
            None => LASTS,
            Some(value) => {
                let text = value.as_str().unwrap_or_default();
                let length: Option<SignedDuration> = text.parse().ok();
                let length = length.and_then(|length| Duration::try_from(length).ok());
                length.ok_or(format!("`lasts` of {id} is no length of time such as 20m"))?
            }
        };
        let schedule = match entry.get("schedule").and_then(Value::as_str) {
            None => None,
            Some(text) => Some(
                Schedule::read(text)
                    .ok_or(format!("the schedule `{text}` of {id} is not understood here"))?,
            ),
        };
        entry.entry("type").or_insert(json!("vzdump"));
        Ok(Job { entry, schedule, lasts })
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.entry.get(key).and_then(Value::as_str)
    }

    fn flag(&self, key: &str) -> Option<bool> {
        match self.entry.get(key)? {
            Value::Bool(flag) => Some(*flag),
            Value::Number(number) => number.as_u64().map(|number| number != 0),
            Value::String(text) => Some(text != "0"),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        }
    }

    fn numbers(&self, key: &str) -> BTreeSet<u32> {
        let text = match self.entry.get(key) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            _ => return BTreeSet::new(),
        };
        text.split([',', ';', ' ']).filter_map(|one| one.parse().ok()).collect()
    }
}

impl World {
    /// The list as PVE gives it.
    pub(crate) fn backup_jobs(&self) -> Value {
        let shown = |job: &Job| {
            let mut entry = job.entry.clone();
            let next = job.schedule.as_ref().and_then(|schedule| schedule.next(self.now));
            if let Some(next) = next {
                entry.entry("next-run").or_insert(json!(next.as_second()));
            }
            Value::Object(entry)
        };
        self.backups.iter().map(shown).collect()
    }

    /// Puts the next run of each job into the queue.
    pub(crate) fn schedule_backups(&mut self) {
        for at in 0..self.backups.len() {
            self.schedule_backup(at);
        }
    }

    fn schedule_backup(&mut self, index: usize) {
        let job = &self.backups[index];
        if job.flag("enabled") == Some(false) {
            return;
        }
        if let Some(next) = job.schedule.as_ref().and_then(|schedule| schedule.next(self.now)) {
            self.at(next, Due::Backup(index));
        }
    }

    /// The time of a job has come.
    pub(crate) fn run_backup(&mut self, index: usize) {
        let job = self.backups[index].clone();
        let storage = job.text("storage").and_then(|name| self.storages.get(name)).cloned();
        let hosts: Vec<HostName> = self
            .hosts
            .values()
            .filter(|host| host.phase.api_answers())
            .filter(|host| job.text("node").is_none_or(|node| node == host.node))
            .map(|host| host.name.clone())
            .collect();
        for host in hosts {
            let guests = self.backed_up(&job, &host);
            let Ok(many) = u32::try_from(guests.len()) else { continue };
            if many == 0 {
                continue;
            }
            match storage.as_ref().filter(|storage| !self.storage_active(storage, &host)) {
                None => self.back_up(&host, guests, job.lasts / many),
                Some(storage) => {
                    let name = storage.file.name.clone();
                    self.backup_fails(&host, &format!("could not activate storage '{name}'"));
                }
            }
        }
        self.schedule_backup(index);
    }

    /// The guests of `host` that are a job's.
    fn backed_up(&self, job: &Job, host: &HostName) -> Vec<Vmid> {
        let (listed, without) = (job.numbers("vmid"), job.numbers("exclude"));
        // PVE takes `exclude` for `all`.
        let all = job.flag("all") == Some(true) || (listed.is_empty() && !without.is_empty());
        let pool = job.text("pool");
        let here = self.guests().filter(|guest| guest.host == *host);
        let ours = here.filter(|guest| {
            let number = guest.vmid.0;
            let pooled = pool.is_some() && guest.pool.as_deref() == pool;
            (all && !without.contains(&number)) || listed.contains(&number) || pooled
        });
        ours.map(|guest| guest.vmid).collect()
    }
}

/// Weekdays, hours and minutes at which a job begins.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Schedule {
    /// 0 is Monday.
    days: BTreeSet<i8>,
    hours: BTreeSet<i8>,
    minutes: BTreeSet<i8>,
}

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

impl Schedule {
    fn read(text: &str) -> Option<Schedule> {
        let text = text.trim().to_lowercase();
        let text = match text.as_str() {
            "minutely" => "*:*",
            "hourly" => "*:00",
            "daily" => "00:00",
            "weekly" => "mon 00:00",
            other => other,
        };
        let parts: Vec<&str> = text.split_whitespace().collect();
        let (days, time) = match parts.as_slice() {
            [days, time] => (Schedule::days(days)?, *time),
            [days] if days.starts_with(|c: char| c.is_ascii_alphabetic()) => {
                (Schedule::days(days)?, "00:00")
            }
            [time] => ((0..7).collect(), *time),
            _ => return None,
        };
        let time = time.strip_suffix(":00").filter(|rest| rest.contains(':')).unwrap_or(time);
        // Without a colon it is minutes of every hour.
        let (hours, minutes) = time.split_once(':').unwrap_or(("*", time));
        Some(Schedule { days, hours: numbers(hours, 24)?, minutes: numbers(minutes, 60)? })
    }

    fn days(text: &str) -> Option<BTreeSet<i8>> {
        let day = |name: &str| {
            let at = DAYS.iter().position(|day| name.len() >= 3 && name.starts_with(day))?;
            i8::try_from(at).ok()
        };
        let mut days = BTreeSet::new();
        for part in text.split(',') {
            match part.split_once("..") {
                None => days.extend([day(part)?]),
                Some((first, last)) => days.extend(day(first)?..=day(last)?),
            }
        }
        Some(days)
    }

    fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let now = after.to_zoned(TimeZone::UTC);
        let whole = now.with().second(0).subsec_nanosecond(0).build().ok()?;
        let due = (1..=MINUTES_AHEAD).filter_map(|ahead| whole.checked_add(ahead.minutes()).ok());
        let fits = |at: &jiff::Zoned| {
            self.days.contains(&at.weekday().to_monday_zero_offset())
                && self.hours.contains(&at.hour())
                && self.minutes.contains(&at.minute())
        };
        due.into_iter().find(fits).map(|at| at.timestamp())
    }
}

/// `*`, `8`, `8..17,22`, `0/15`, `*/2` below `end`.
fn numbers(text: &str, end: i8) -> Option<BTreeSet<i8>> {
    let mut found = BTreeSet::new();
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(step.parse::<usize>().ok().filter(|n| *n > 0)?)),
            None => (part, None),
        };
        let (first, last) = match range.split_once("..") {
            Some((first, last)) => (first.parse().ok()?, last.parse().ok()?),
            None if range == "*" => (0, end - 1),
            None => {
                let first: i8 = range.parse().ok()?;
                (first, if step.is_some() { end - 1 } else { first })
            }
        };
        if first < 0 || last >= end {
            return None;
        }
        found.extend((first..=last).step_by(step.unwrap_or(1)));
    }
    (!found.is_empty()).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pretend::answer::{ApiRequest, answer};
    use crate::pretend::rights::{DEFAULT_SECRET, DEFAULT_TOKEN};

    fn next(schedule: &str) -> String {
        // A Monday.
        let now = "2026-01-05T05:10:30Z".parse().expect("an instant");
        let schedule = Schedule::read(schedule).expect("it is understood");
        schedule.next(now).expect("it comes").to_string()
    }

    #[test]
    fn schedules_run_when_pve_says() {
        for (schedule, at) in [
            ("02:30", "2026-01-06T02:30:00Z"),
            ("21:00", "2026-01-05T21:00:00Z"),
            ("mon..fri 22:00", "2026-01-05T22:00:00Z"),
            ("sat 18:15", "2026-01-10T18:15:00Z"),
            ("sun", "2026-01-11T00:00:00Z"),
            ("*/2:00", "2026-01-05T06:00:00Z"),
            ("*:0/15", "2026-01-05T05:15:00Z"),
            ("8..17,22:30", "2026-01-05T08:30:00Z"),
            ("05:10", "2026-01-06T05:10:00Z"),
            ("06:00:00", "2026-01-05T06:00:00Z"),
            ("daily", "2026-01-06T00:00:00Z"),
            ("45", "2026-01-05T05:45:00Z"),
        ] {
            assert_eq!(next(schedule), at, "{schedule}");
        }
        for odd in ["", "25:00", "2026-01-01 02:00", "moon 02:00", "2:60", "0/0"] {
            assert_eq!(Schedule::read(odd), None, "{odd}");
        }
    }

    const WORLD: &str = "
hosts: [{ name: a }, { name: b }, { name: c, state: off }]
storages: [{ name: pbs, kind: pbs, content: backup, served_by: c }, { name: nas, kind: nfs }]
guests:
  - { vmid: 100, kind: vm, host: a, disks: [] }
  - { vmid: 101, kind: ct, host: b, disks: [] }
backups:
  - { id: nightly, schedule: '06:00', storage: nas, all: 1, exclude: '101', lasts: 10m }
  - { id: away, schedule: '06:00', storage: pbs, vmid: '101' }
  - { id: off, schedule: '06:00', storage: nas, all: 1, enabled: 0 }
";

    fn get(world: &mut World, path: &str) -> Value {
        let authorization = Some(format!("PVEAPIToken={DEFAULT_TOKEN}={DEFAULT_SECRET}"));
        let (method, path) = ("GET".to_owned(), path.to_owned());
        let request = ApiRequest { method, path, query: vec![], form: vec![], authorization };
        let reply = answer(world, &"a".into(), &request);
        let body: Value = serde_json::from_slice(&reply.body).expect("JSON");
        body["data"].clone()
    }

    #[test]
    fn jobs_are_listed_with_their_next_run_and_run_on_each_host_for_its_guests() {
        let mut world = World::read(WORLD).expect("a world");
        let jobs = get(&mut world, "/cluster/backup");
        assert_eq!(jobs[0]["id"], "nightly");
        assert_eq!(jobs[0]["next-run"], 1_767_592_800, "2026-01-05T06:00:00Z");
        assert_eq!((&jobs[0]["type"], jobs[0].get("lasts")), (&json!("vzdump"), None));
        let six: Timestamp = "2026-01-05T06:00:00Z".parse().expect("an instant");
        world.advance_to(six + Duration::from_secs(60));
        let tasks = get(&mut world, "/cluster/tasks");
        let told: BTreeSet<String> = tasks
            .as_array()
            .expect("a list")
            .iter()
            .filter(|task| task["type"] == "vzdump")
            .map(|task| format!("{} {}", task["node"], task.get("status").unwrap_or(&json!("-"))))
            .collect();
        let expected = ["\"a\" \"-\"", "\"b\" \"could not activate storage 'pbs'\""];
        assert_eq!(told, expected.map(str::to_owned).into());
        assert_eq!(get(&mut world, "/cluster/backup")[0]["next-run"], 1_767_679_200);
        world.advance_to(six + Duration::from_secs(660));
        let running = world.running_tasks(&"a".into()).count();
        assert_eq!(running, 0, "it is over after ten minutes");
    }
}
