//! `spot agenda`: when which host will be wanted, by which policy; drawn as days of hours for
//! people.
//!
//! The service tells it for the policy in force, with PVE's backup jobs in it. With `--policies`
//! they are read here and now, so that a change can be looked at before it is committed; neither
//! cluster nor service is needed then.
//!
//! **Does not know:** what the cluster is doing.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan, Zoned};

use super::paper::{Ink, Sheet, plain, table};
use super::{AgendaArgs, Exit, check, live, look, paper};
use crate::cluster::HostName;
use crate::control::Look;
use crate::policy::Policy;
use crate::status::{Agenda, WindowShown};

/// More days than this are listed, not drawn.
const DRAWN_DAYS: u32 = 14;
const HOURS: usize = 24;

pub async fn agenda(config: &Path, args: &AgendaArgs) -> anyhow::Result<Exit> {
    let (agenda, zone) = match &args.policies {
        Some(path) => read(path, args)?,
        None => match asked(config, args).await? {
            Some(agenda) => agenda,
            None => read(&check::place(config, None)?, args)?,
        },
    };
    match args.look.json {
        true => paper::json(&agenda)?,
        false => {
            // The owner thinks in the zone the policies are written in.
            let sheet = Sheet::stdout(agenda.at);
            let sheet = match zone {
                Some(zone) => sheet.in_zone(zone),
                None => sheet,
            };
            paper::raw(draw(&sheet, &agenda).as_bytes())?;
        }
    }
    Ok(Exit::Yes)
}

/// By the policies as they are written here and now.
fn read(place: &Path, args: &AgendaArgs) -> anyhow::Result<(Agenda, Option<TimeZone>)> {
    let policy = check::valid(place)?;
    let waits = policy.rules().iter().filter(|rule| rule.for_backups.is_some());
    for rule in waits {
        paper::aside(&format!(
            "When {} opens is not shown: PVE's backup jobs are known to the running service alone.",
            plain(&rule.name)
        ));
    }
    let from = args.from.unwrap_or_else(super::now);
    let agenda = Agenda::of(&policy, &[], None, from, u32::from(args.days));
    Ok((agenda, zone(&policy)))
}

/// By the policy in force, and PVE's backup jobs; `None` when no service runs.
async fn asked(
    config: &Path,
    args: &AgendaArgs,
) -> anyhow::Result<Option<(Agenda, Option<TimeZone>)>> {
    if !config.exists() {
        return Ok(None);
    }
    let config = live::config(config)?;
    let ask = Look::Agenda { days: u32::from(args.days), from: args.from };
    let agenda: Option<Agenda> = look::ask(&config, ask).await?;
    let zone = || check::valid(&config.policies).ok().and_then(|policy| zone(&policy));
    Ok(agenda.map(|agenda| (agenda, zone())))
}

fn zone(policy: &Policy) -> Option<TimeZone> {
    let windows = policy.rules().iter().flat_map(|rule| &rule.run);
    windows.map(|one| one.zone().clone()).next()
}

/// Host by host: a line for each day, or a line for each window where the days are many.
fn draw(sheet: &Sheet, agenda: &Agenda) -> String {
    if agenda.windows.is_empty() {
        return format!("No window opens within {} days.\n", agenda.days);
    }
    let mut by_host: BTreeMap<&HostName, Vec<&WindowShown>> = BTreeMap::new();
    for window in &agenda.windows {
        by_host.entry(&window.host).or_default().push(window);
    }
    let zone =
        sheet.local(agenda.at).time_zone().iana_name().unwrap_or("this machine's zone").to_owned();
    let mut out = sheet.ink(Ink::Dim, &format!("times in {zone}")) + "\n";
    for (host, windows) in by_host {
        out += &format!("\n{}\n", sheet.ink(Ink::Bold, host.as_str()));
        let rows = match agenda.days <= DRAWN_DAYS {
            true => days(sheet, agenda, &windows),
            false => windows.iter().map(|one| listed(sheet, one)).collect(),
        };
        out += &table(sheet, &rows);
    }
    out
}

fn listed(sheet: &Sheet, window: &WindowShown) -> Vec<String> {
    let at = |at: Timestamp| sheet.local(at).strftime("%a %Y-%m-%d %H:%M").to_string();
    let closes = window.closes.map_or("not known".into(), at);
    vec![format!("  {}", at(window.opens)), format!("to {closes}"), plain(&window.policy)]
}

/// One row a day: its hours, and what opens on it.
fn days(sheet: &Sheet, agenda: &Agenda, windows: &[&WindowShown]) -> Vec<Vec<String>> {
    let first = sheet.local(agenda.at).date();
    let count = i64::from(agenda.days);
    let row = |day: i64| {
        let date = first.checked_add(day.days()).ok()?;
        let opening = |one: &&&WindowShown| sheet.local(one.opens).date() == date;
        let told: Vec<String> =
            windows.iter().filter(opening).map(|one| brief(sheet, one)).collect();
        let name = format!("  {}", date.strftime("%a %m-%d"));
        Some(vec![name, hours(sheet, date, windows), told.join(", ")])
    };
    let whole = sheet.local(agenda.at).time() == jiff::civil::Time::midnight();
    (0..count + i64::from(!whole)).map_while(row).collect()
}

/// A cell for each hour of the day in which some window is open.
fn hours(sheet: &Sheet, date: Date, windows: &[&WindowShown]) -> String {
    let zone = sheet.local(sheet.now).time_zone().clone();
    let hour = |hour: i8| -> Option<Zoned> { date.at(hour, 0, 0, 0).to_zoned(zone.clone()).ok() };
    let open = |from: Timestamp, to: Timestamp| {
        windows.iter().any(|one| one.opens < to && one.closes.is_none_or(|closes| closes > from))
    };
    let cell = |at: usize| {
        let from = i8::try_from(at).ok().and_then(hour)?;
        let to = from.checked_add(1.hour()).ok()?;
        Some(if open(from.timestamp(), to.timestamp()) { '█' } else { '·' })
    };
    (0..HOURS).filter_map(cell).collect()
}

/// `08:00-18:00 office-hours`
fn brief(sheet: &Sheet, window: &WindowShown) -> String {
    let (opens, closes) = (sheet.local(window.opens), window.closes.map(|at| sheet.local(at)));
    let closes = match closes {
        Some(at) if at.date() == opens.date() => at.strftime("%H:%M").to_string(),
        Some(at) => at.strftime("%a %H:%M").to_string(),
        None => "?".into(),
    };
    format!("{}-{closes} {}", opens.strftime("%H:%M"), plain(&window.policy))
}
