//! The `policies` of a file: named rules, their windows and exceptions; and the two sections that
//! stand once, `quorum` and `migrations`.
//!
//! **Does not know:** which hosts there are; names are checked once all files are read.

use std::time::Duration;

use jiff::tz::TimeZone;

use super::calendar::{self, Except, Part, Until, Window, WindowFault, WindowSpec};
use super::reader::{At, Place, Reader, nearest};
use super::scalars::{self, ValueFault};
use super::yaml::brief;
use super::{EvidencePolicy, ForBackups, Migrations, QuorumPolicy, Rescue, Rule};
use crate::cluster::HostName;

/// Windows read of one file: far more than anybody writes, few enough to judge in a moment.
const MOST_WINDOWS: usize = 1_000;

const WINDOW_HELP: &str =
    "write `{ from: \"0 8 * * Mon-Fri\", for: 10h }`, or `to:` with a second cron expression";

/// What a file says once for all its windows, and how many it has.
pub(crate) struct Frame {
    zone: TimeZone,
    /// Nobody named a zone, and no window has needed one yet.
    unzoned: bool,
    windows: usize,
}

impl Frame {
    pub fn read(reader: &mut Reader<'_>, at: Option<&At<'_>>) -> Frame {
        let named = at.map(|at| zone(reader, at));
        Frame {
            unzoned: named.is_none(),
            zone: named.flatten().unwrap_or(TimeZone::UTC),
            windows: 0,
        }
    }

    /// Says once, where the first window needs it, that no zone was named.
    fn ask_for_zone(&mut self, reader: &mut Reader<'_>, at: &Place) {
        if std::mem::take(&mut self.unzoned) {
            reader.warning(
                at,
                "no `timezone` is given, so times are read as UTC",
                "write `timezone: Europe/Berlin` (or yours) at the top of this file",
            );
        }
    }
}

pub(crate) fn zone(reader: &mut Reader<'_>, at: &At<'_>) -> Option<TimeZone> {
    let zone = reader.value(at, "write an IANA name such as Europe/Berlin", |name| {
        calendar::zone(name).ok_or_else(|| {
            let names = calendar::zone_names();
            let help = match nearest(name, names.iter().map(String::as_str)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "write an IANA name such as Europe/Berlin".into(),
            };
            ValueFault { message: format!("`{}` is not a time zone", brief(name)), help }
        })
    })?;
    reader.zones.push((zone.clone(), at.place()));
    Some(zone)
}

/// A rule as one file describes it, with the places that later checks point at.
#[derive(Debug)]
pub(crate) struct RuleDraft {
    pub rule: Rule,
    pub name_place: Place,
    pub hosts: Vec<(HostName, Place)>,
    pub windows: Vec<(Window, Place)>,
}

pub(crate) fn read(reader: &mut Reader<'_>, at: &At<'_>, frame: &mut Frame) -> Vec<RuleDraft> {
    let help = "write a list: each policy begins with `- name: …`";
    let items = reader.list(at, help).unwrap_or_default();
    items.iter().filter_map(|item| rule(reader, item, frame)).collect()
}

fn rule(reader: &mut Reader<'_>, at: &At<'_>, frame: &mut Frame) -> Option<RuleDraft> {
    let keys = &["name", "hosts", "run", "except", "for_backups", "timezone", "when"];
    let fields = reader.fields(at, keys)?;
    let name_at =
        fields.need(reader, "name", "write `name: …`: it is shown wherever this policy acts");
    let name = name_at.as_ref().and_then(|at| {
        reader.value(at, "write a name such as `office-hours`", |text| {
            // It stands in one line of a log, a page, a metric.
            let fits = text.chars().count() <= 64 && !text.contains(char::is_control);
            if fits {
                Ok(text.to_owned())
            } else {
                scalars::fault(
                    "this name is too long, or not one line",
                    "write at most 64 characters",
                )
            }
        })
    });
    if let Some(at) = fields.get(reader, "when") {
        reader.error(
            &at.key_place(),
            "`when` is kept for conditions on signals, which this version does not know",
            "remove it, and say by `run` when the hosts are wanted",
        );
    }
    let hosts_at =
        fields.need(reader, "hosts", "write `hosts: [host2]`: those this policy wants awake");
    let hosts = hosts_at.map(|at| host_names(reader, &at)).unwrap_or_default();
    let zone = match fields.get(reader, "timezone") {
        Some(at) => zone(reader, &at).unwrap_or(TimeZone::UTC),
        None => {
            if fields.has("run") {
                frame.ask_for_zone(reader, &fields.place());
            }
            frame.zone.clone()
        }
    };
    let except = fields.get(reader, "except").map(|at| excepts(reader, &at)).unwrap_or_default();
    let run_at = fields.get(reader, "run");
    let windows =
        run_at.as_ref().map(|at| windows(reader, at, frame, &zone, &except)).unwrap_or_default();
    let for_backups = fields.get(reader, "for_backups").and_then(|at| backups(reader, &at));
    if !fields.has("run") && !fields.has("for_backups") && !fields.has("when") {
        let help = "write `run: [{ from: \"0 8 * * Mon-Fri\", for: 10h }]`";
        reader.error(&fields.place(), "it is not said when the hosts are wanted", help);
    }
    let rule = Rule {
        name: name.unwrap_or_default(),
        hosts: hosts.iter().map(|(host, _)| host.clone()).collect(),
        run: windows.iter().map(|(window, _)| window.clone()).collect(),
        for_backups,
    };
    let name_place = name_at.map_or_else(|| fields.place(), |at| at.place());
    Some(RuleDraft { rule, name_place, hosts, windows })
}

/// A list of hosts' names, each once.
pub(crate) fn host_names(reader: &mut Reader<'_>, at: &At<'_>) -> Vec<(HostName, Place)> {
    const HELP: &str = "write a list of hosts such as `[host3, host2]`";
    let items = reader.list_or_one(at, HELP).unwrap_or_default();
    if items.is_empty() && matches!(at.node.value, super::yaml::Value::List(_)) {
        reader.error(&at.place(), "no host is named", HELP);
    }
    let mut names: Vec<(HostName, Place)> = Vec::new();
    for item in items {
        let Some(name) = reader.word(&item, HELP).map(|name| HostName::new(brief(name))) else {
            continue;
        };
        // Few hosts exist, so few names are worth comparing; the rest is reported as unknown.
        let again = names.iter().take(300).any(|(earlier, _)| *earlier == name);
        if again {
            reader.warning(&item.place(), format!("{name} stands here twice"), "keep one of them");
        } else {
            names.push((name, item.place()));
        }
    }
    names
}

fn excepts(reader: &mut Reader<'_>, at: &At<'_>) -> Vec<Except> {
    const HELP: &str = "write a list such as `[\"2026-12-24..2027-01-02\", \"05-01\"]`";
    /// Walked for every date looked at.
    const MOST: usize = 200;
    let items = reader.list_or_one(at, HELP).unwrap_or_default();
    if items.len() > MOST {
        reader.error(
            &at.key_place(),
            format!("more than {MOST} exceptions"),
            "write ranges of dates",
        );
    }
    items.iter().take(MOST).filter_map(|item| reader.value(item, HELP, scalars::except)).collect()
}

/// The windows of a host's `quiet`, in the file's zone.
pub(crate) fn quiet(reader: &mut Reader<'_>, at: &At<'_>, frame: &mut Frame) -> Vec<Window> {
    frame.ask_for_zone(reader, &at.key_place());
    let zone = frame.zone.clone();
    let placed = windows(reader, at, frame, &zone, &[]);
    placed.into_iter().map(|(window, _)| window).collect()
}

/// A list of windows.
fn windows(
    reader: &mut Reader<'_>,
    at: &At<'_>,
    frame: &mut Frame,
    zone: &TimeZone,
    except: &[Except],
) -> Vec<(Window, Place)> {
    let items =
        reader.list(at, "write a list, also of one: `[{ from: …, for: … }]`").unwrap_or_default();
    if items.is_empty() && matches!(at.node.value, super::yaml::Value::List(_)) {
        reader.error(&at.place(), "an empty list of windows", WINDOW_HELP);
    }
    let mut windows = Vec::new();
    for item in items {
        frame.windows += 1;
        if frame.windows > MOST_WINDOWS {
            let message = format!("more than {MOST_WINDOWS} windows in one file");
            reader.error(&item.place(), message, "split the file, or write windows that recur");
            break;
        }
        if let Some(window) = window(reader, &item, zone, except) {
            windows.push((window, item.place()));
        }
    }
    windows
}

fn window(
    reader: &mut Reader<'_>,
    at: &At<'_>,
    zone: &TimeZone,
    except: &[Except],
) -> Option<Window> {
    let fields = reader.fields(at, &["from", "for", "to"])?;
    let from_at = fields.need(reader, "from", WINDOW_HELP);
    let from = from_at.as_ref().and_then(|at| reader.word(at, WINDOW_HELP));
    let (for_at, to_at) = (fields.get(reader, "for"), fields.get(reader, "to"));
    let until = match (&for_at, &to_at) {
        (Some(at), None) => Until::For(reader.some_time(at)?),
        (None, Some(at)) => Until::To(reader.word(at, WINDOW_HELP)?),
        (Some(_), Some(to)) => {
            let message = "a window has one end: `for` or `to`, not both";
            reader.error(&to.key_place(), message, "remove one of them");
            return None;
        }
        (None, None) => {
            if !fields.has("for") && !fields.has("to") {
                reader.error(&fields.place(), "it is not said how the window ends", WINDOW_HELP);
            }
            return None;
        }
    };
    let spec = WindowSpec { from: from?, until, except: except.to_vec(), zone: zone.clone() };
    match Window::new(spec) {
        Ok(window) => {
            if window.overlaps_itself() {
                let message = match window.never_closes() {
                    true => "this window is longer than its period, so it never closes",
                    false => "this window opens again before it has closed",
                };
                reader.error(&at.place(), message, "shorten it, or let it open less often");
            }
            Some(window)
        }
        Err(WindowFault { part, message, help }) => {
            let wrong = match part {
                Part::From => from_at.as_ref(),
                Part::For => for_at.as_ref(),
                Part::To => to_at.as_ref(),
                Part::Whole => None,
            };
            reader.error(&wrong.unwrap_or(at).place(), message, help);
            None
        }
    }
}

fn backups(reader: &mut Reader<'_>, at: &At<'_>) -> Option<ForBackups> {
    let fields = reader.fields(at, &["storage", "before"])?;
    let help = "write `{ storage: pbs, before: 10m }`";
    let storage = fields.need(reader, "storage", help);
    let storage =
        storage.and_then(|at| reader.word(&at, "write the storage's name as PVE shows it"));
    let before = match fields.get(reader, "before") {
        Some(at) => reader.duration(&at)?,
        None => Duration::ZERO,
    };
    Some(ForBackups { storage: storage?.to_owned(), before })
}

pub(crate) fn quorum(reader: &mut Reader<'_>, at: &At<'_>) -> QuorumPolicy {
    let mut quorum = QuorumPolicy::default();
    let Some(fields) = reader.fields(at, &["spare", "evidence", "rescue"]) else { return quorum };
    if let Some(at) = fields.get(reader, "spare") {
        /// More than any cluster has votes.
        const MOST: u32 = 1_000;
        let help = "write how many votes to keep above the majority, such as 0 or 1";
        let spare = reader.value(&at, help, |text| scalars::whole(text, 0, MOST));
        quorum.spare = spare.unwrap_or(0);
    }
    if let Some(at) = fields.get(reader, "evidence") {
        let words =
            [("runtime", EvidencePolicy::Runtime), ("configured", EvidencePolicy::Configured)];
        quorum.evidence = reader.one_of(&at, &words).unwrap_or(quorum.evidence);
    }
    if let Some(at) = fields.get(reader, "rescue") {
        let words = [("wake", Rescue::Wake), ("tell", Rescue::Tell)];
        quorum.rescue = reader.one_of(&at, &words).unwrap_or(quorum.rescue);
    }
    quorum
}

pub(crate) fn migrations(reader: &mut Reader<'_>, at: &At<'_>) -> Migrations {
    let mut migrations = Migrations::default();
    let Some(fields) = reader.fields(at, &["per_host", "bandwidth"]) else { return migrations };
    if let Some(at) = fields.get(reader, "per_host") {
        /// More at once only slows all of them.
        const MOST: u32 = 16;
        let help = "write how many migrations may run at once from or to one host, such as 1";
        let per_host = reader.value(&at, help, |text| scalars::whole(text, 1, MOST));
        migrations.per_host = per_host.unwrap_or(migrations.per_host);
    }
    if let Some(at) = fields.get(reader, "bandwidth") {
        let help = "write bytes a second such as `110 MiB/s`";
        migrations.bandwidth = reader.value(&at, help, scalars::bandwidth);
    }
    migrations
}
