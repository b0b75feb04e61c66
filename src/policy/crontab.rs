//! Cron expressions as sets of civil times: the [`Crontab`].
//!
//! The `cron` crate is kept behind a strict reading of our own, because it means other things than
//! crontab(5): seconds come first, 1 is Sunday, and day of month *and* day of week must both match
//! where crontab says *or*; and it accepts nonsense such as `0 0 0***`. So this file decides what
//! may be written (five fields as in crontab, or six with the seconds first; names and numbers as
//! in crontab in both), hands a normalised expression to the crate, and keeps the sets it answers
//! with. Walking those sets is ours: it is bounded by a date, and knows no zone, so no night can
//! surprise it.
//!
//! **Does not know:** time zones, windows, what time it is.

use std::str::FromStr;

use cron::TimeUnitSpec;
use jiff::ToSpan;
use jiff::civil::{Date, DateTime, Time};

/// The civil times a cron expression names. Two expressions that name the same times are equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crontab {
    seconds: u64,
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    /// Bit 0 is Sunday.
    weekdays: u64,
}

/// Why an expression was refused, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CronFault {
    pub message: String,
    pub help: String,
}

fn fault<T>(message: impl Into<String>, help: impl Into<String>) -> Result<T, CronFault> {
    Err(CronFault { message: message.into(), help: help.into() })
}

const FORMS: &str = "write five fields, `minute hour day-of-month month day-of-week`, such as \
                     `0 8 * * Mon-Fri`, or six with the seconds first";

impl FromStr for Crontab {
    type Err = CronFault;

    fn from_str(text: &str) -> Result<Crontab, CronFault> {
        let fields = split(text)?;
        let mut sets = [0u64; 6];
        for ((set, field), text) in sets.iter_mut().zip(&FIELDS).zip(fields) {
            *set = field.read(text)?;
        }
        let [_, _, _, days, _, weekdays] = fields;
        if !is_any(days) && !is_any(weekdays) {
            return fault(
                format!(
                    "both the day of the month (`{days}`) and the day of the week (`{weekdays}`) are set"
                ),
                "crontab means either of the two, most people mean both: set one to `*`, and write \
                 two windows if you want either",
            );
        }
        Ok(Crontab::by_the_crate(sets))
    }
}

/// Whether a field leaves everything open.
fn is_any(field: &str) -> bool {
    field == "*" || field == "?"
}

/// Six fields, seconds first; `0` where crontab has none.
fn split(text: &str) -> Result<[&str; 6], CronFault> {
    let fields: Vec<&str> = text.split_ascii_whitespace().collect();
    match fields[..] {
        [] => fault("an empty cron expression", FORMS),
        [one] if one.starts_with('@') => {
            let instead = match one {
                "@hourly" => "0 * * * *",
                "@daily" | "@midnight" => "0 0 * * *",
                "@weekly" => "0 0 * * Sun",
                "@monthly" => "0 0 1 * *",
                "@yearly" | "@annually" => "0 0 1 1 *",
                _ => return fault(format!("`{one}` is not a cron expression"), FORMS),
            };
            fault(format!("`{one}` is not accepted"), format!("write `{instead}`"))
        }
        [a, b, c, d, e] => Ok(["0", a, b, c, d, e]),
        [a, b, c, d, e, f] => Ok([a, b, c, d, e, f]),
        [_, _, _, _, _, _, _] => {
            fault("a cron expression with seven fields: years are not accepted", FORMS)
        }
        _ => {
            let count = fields.len();
            let word = if count == 1 { "field" } else { "fields" };
            fault(format!("a cron expression with {count} {word} instead of five or six"), FORMS)
        }
    }
}

/// One field of an expression: its name, its range, its names for numbers.
struct Field {
    name: &'static str,
    first: u8,
    last: u8,
    names: &'static [&'static str],
}

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

const FIELDS: [Field; 6] = [
    Field { name: "second", first: 0, last: 59, names: &[] },
    Field { name: "minute", first: 0, last: 59, names: &[] },
    Field { name: "hour", first: 0, last: 23, names: &[] },
    Field { name: "day of the month", first: 1, last: 31, names: &[] },
    Field { name: "month", first: 1, last: 12, names: &MONTHS },
    // Crontab knows two Sundays, so that both `0-6` and `1-7` are a whole week.
    Field { name: "day of the week", first: 0, last: 7, names: &WEEKDAYS },
];

impl Field {
    fn weekday(&self) -> bool {
        self.last == 7
    }

    /// The numbers `text` names, as bits.
    fn read(&self, text: &str) -> Result<u64, CronFault> {
        let mut set = 0u64;
        for part in text.split(',') {
            set |= self.part(part)?;
        }
        // The second Sunday is the first one.
        if self.weekday() && set & 1 << 7 != 0 {
            set = set & !(1 << 7) | 1;
        }
        Ok(set)
    }

    /// `*`, `*/n`, `a`, `a-b` or `a-b/n`.
    fn part(&self, text: &str) -> Result<u64, CronFault> {
        let (range, step) = match text.split_once('/') {
            Some((range, step)) => (range, Some(step)),
            None => (text, None),
        };
        let (first, last) = match range {
            // One Sunday is enough: `*/2` is Sun, Tue, Thu, Sat.
            "*" => (self.first, if self.weekday() { 6 } else { self.last }),
            "?" if step.is_none() && (self.weekday() || self.last == 31) => {
                (self.first, if self.weekday() { 6 } else { self.last })
            }
            _ => match range.split_once('-') {
                Some((first, last)) => self.ends(first, last)?,
                None => {
                    let only = self.number(range)?;
                    if let Some(step) = step {
                        let last = if self.weekday() { 6 } else { self.last };
                        return fault(
                            format!(
                                "`{text}` has a step but no range in the field for the {}",
                                self.name
                            ),
                            format!("write `{only}-{last}/{step}`"),
                        );
                    }
                    (only, only)
                }
            },
        };
        let step = match step {
            None => 1,
            Some(step) => match digits(step) {
                Some(step) if step > 0 && step <= self.last => step,
                _ => {
                    return fault(
                        format!("`{step}` is not a step for the {}", self.name),
                        format!("write a number from 1 to {}", self.last),
                    );
                }
            },
        };
        Ok((first..=last).step_by(usize::from(step)).fold(0, |set, n| set | 1 << n))
    }

    /// Both ends of a range, which must not wrap.
    fn ends(&self, first: &str, last: &str) -> Result<(u8, u8), CronFault> {
        let (from, mut to) = (self.number(first)?, self.number(last)?);
        // `Sat-Sun` ends on the second Sunday.
        if self.weekday() && to == 0 && from > 0 {
            to = 7;
        }
        if from > to {
            let (low, high) = (self.first, if self.weekday() { 6 } else { self.last });
            return fault(
                format!("`{first}-{last}` runs backwards in the field for the {}", self.name),
                format!(
                    "write `{}-{},{}-{}`",
                    self.show(from),
                    self.show(high),
                    self.show(low),
                    self.show(to)
                ),
            );
        }
        Ok((from, to))
    }

    fn show(&self, number: u8) -> String {
        match self.names.get(usize::from(number - self.first)) {
            Some(name) => name[..1].to_uppercase() + &name[1..],
            None => number.to_string(),
        }
    }

    /// A number or a name; weekdays and months also in full.
    fn number(&self, text: &str) -> Result<u8, CronFault> {
        if let Some(number) = digits(text) {
            if (self.first..=self.last).contains(&number) {
                return Ok(number);
            }
        } else if let Some(number) = self.named(text) {
            return Ok(number);
        }
        let names = match self.names {
            [] => String::new(),
            [first, .., last] => format!(" or a name from {first} to {last}"),
            [only] => format!(" or {only}"),
        };
        fault(
            format!("`{text}` does not fit the field for the {}", self.name),
            format!("write a number from {} to {}{names}, `*` for any", self.first, self.last),
        )
    }

    fn named(&self, text: &str) -> Option<u8> {
        const FULL: [&str; 19] = [
            "january",
            "february",
            "march",
            "april",
            "may",
            "june",
            "july",
            "august",
            "september",
            "october",
            "november",
            "december",
            "sunday",
            "monday",
            "tuesday",
            "wednesday",
            "thursday",
            "friday",
            "saturday",
        ];
        let text = text.to_ascii_lowercase();
        let fits = |name: &&str| {
            *name == text || FULL.iter().any(|full| *full == text && full.starts_with(name))
        };
        let at = self.names.iter().position(fits)?;
        u8::try_from(at).ok().map(|at| at + self.first)
    }
}

/// A number of at most two digits, and nothing else: no sign, no blank.
fn digits(text: &str) -> Option<u8> {
    let plain = (1..=2).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

impl Crontab {
    /// Hands the sets to the `cron` crate in its own spelling, and takes over what it understood.
    fn by_the_crate(sets: [u64; 6]) -> Crontab {
        let list = |set: u64, shift: u32| {
            let numbers = (0..64u32).filter(|n| set & 1 << n != 0).map(|n| (n + shift).to_string());
            numbers.collect::<Vec<_>>().join(",")
        };
        let [seconds, minutes, hours, days, months, weekdays] = sets;
        let normalised = [
            list(seconds, 0),
            list(minutes, 0),
            list(hours, 0),
            list(days, 0),
            list(months, 0),
            list(weekdays, 1), // there 1 is Sunday
        ]
        .join(" ");
        let schedule = cron::Schedule::from_str(&normalised)
            .expect("lists of numbers within their ranges are cron expressions");
        let set = |unit: &dyn Fn() -> Vec<u32>, shift: u32| {
            unit().into_iter().fold(0u64, |set, n| set | 1 << (n - shift))
        };
        Crontab {
            seconds: set(&|| schedule.seconds().iter().collect(), 0),
            minutes: set(&|| schedule.minutes().iter().collect(), 0),
            hours: set(&|| schedule.hours().iter().collect(), 0),
            days: set(&|| schedule.days_of_month().iter().collect(), 0),
            months: set(&|| schedule.months().iter().collect(), 0),
            weekdays: set(&|| schedule.days_of_week().iter().collect(), 1),
        }
    }

    /// Whether any time of `date` is named.
    pub fn names_day(&self, date: Date) -> bool {
        let has = |set: u64, at: i8| set & 1 << at != 0;
        has(self.months, date.month())
            && has(self.days, date.day())
            && has(self.weekdays, date.weekday().to_sunday_zero_offset())
    }

    /// The earliest time named that is not before `from`, on a date not after `limit`.
    pub fn next(&self, from: DateTime, limit: Date) -> Option<DateTime> {
        let mut date = from.date();
        if self.names_day(date)
            && date <= limit
            && let Some(time) = self.next_in_day(from.time())
        {
            return Some(date.to_datetime(time));
        }
        while date < limit {
            date = date.checked_add(1.day()).ok()?;
            if self.names_day(date) {
                return Some(date.to_datetime(self.first_in_day()));
            }
        }
        None
    }

    /// The latest time named that is not after `until`, on a date not before `limit`.
    pub fn previous(&self, until: DateTime, limit: Date) -> Option<DateTime> {
        let mut date = until.date();
        if self.names_day(date)
            && date >= limit
            && let Some(time) = self.previous_in_day(until.time())
        {
            return Some(date.to_datetime(time));
        }
        while date > limit {
            date = date.checked_sub(1.day()).ok()?;
            if self.names_day(date) {
                return Some(date.to_datetime(self.last_in_day()));
            }
        }
        None
    }

    /// The first time on every day named.
    pub fn first_in_day(&self) -> Time {
        time(lowest(self.hours), lowest(self.minutes), lowest(self.seconds))
    }

    /// The last time on every day named.
    pub fn last_in_day(&self) -> Time {
        time(highest(self.hours), highest(self.minutes), highest(self.seconds))
    }

    /// The longest stretch between two neighbouring times of one day, in seconds; 0 if there is
    /// one.
    pub fn widest_gap_in_day_seconds(&self) -> u32 {
        // From a minute's last second to the first of the next minute named, and so for hours.
        let within_minute = lowest(self.seconds).abs_diff(highest(self.seconds));
        let within_hour = u32::from(lowest(self.minutes).abs_diff(highest(self.minutes))) * 60
            + u32::from(within_minute);
        let minutes = (widest(self.minutes) * 60).saturating_sub(u32::from(within_minute));
        let hours = (widest(self.hours) * 3600).saturating_sub(within_hour);
        widest(self.seconds).max(minutes).max(hours)
    }

    /// How many times each day named has.
    pub fn times_in_day(&self) -> u32 {
        self.hours.count_ones() * self.minutes.count_ones() * self.seconds.count_ones()
    }

    fn next_in_day(&self, from: Time) -> Option<Time> {
        let (hour, minute, second) = (from.hour(), from.minute(), from.second());
        // A fraction of a second later is already too late for this second.
        let second = second + i8::from(from.subsec_nanosecond() > 0);
        if has(self.hours, hour) {
            if has(self.minutes, minute)
                && let Some(second) = at_least(self.seconds, second)
            {
                return Some(time(hour, minute, second));
            }
            if let Some(minute) = at_least(self.minutes, minute + 1) {
                return Some(time(hour, minute, lowest(self.seconds)));
            }
        }
        let hour = at_least(self.hours, hour + 1)?;
        Some(time(hour, lowest(self.minutes), lowest(self.seconds)))
    }

    fn previous_in_day(&self, until: Time) -> Option<Time> {
        let (hour, minute, second) = (until.hour(), until.minute(), until.second());
        if has(self.hours, hour) {
            if has(self.minutes, minute)
                && let Some(second) = below(self.seconds, second + 1)
            {
                return Some(time(hour, minute, second));
            }
            if let Some(minute) = below(self.minutes, minute) {
                return Some(time(hour, minute, highest(self.seconds)));
            }
        }
        let hour = below(self.hours, hour)?;
        Some(time(hour, highest(self.minutes), highest(self.seconds)))
    }
}

fn has(set: u64, n: i8) -> bool {
    set & 1 << n != 0
}

/// The smallest member not less than `n`; `n` is at most 60.
fn at_least(set: u64, n: i8) -> Option<i8> {
    let rest = set & (u64::MAX << n);
    (rest != 0).then(|| lowest(rest))
}

/// The largest member less than `n`; `n` is at most 60.
fn below(set: u64, n: i8) -> Option<i8> {
    let rest = set & !(u64::MAX << n);
    (rest != 0).then(|| highest(rest))
}

fn lowest(set: u64) -> i8 {
    i8::try_from(set.trailing_zeros()).expect("below 64").min(59)
}

fn highest(set: u64) -> i8 {
    i8::try_from(63u32.saturating_sub(set.leading_zeros())).expect("below 64")
}

/// The widest step from one member to the next; 0 if there is one.
fn widest(set: u64) -> u32 {
    let members: Vec<u32> = (0..64).filter(|n| set & 1 << n != 0).collect();
    members.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
}

fn time(hour: i8, minute: i8, second: i8) -> Time {
    Time::new(hour, minute, second, 0).expect("fields within their ranges")
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::{date, datetime};
    use proptest::prelude::*;

    fn read(text: &str) -> Crontab {
        text.parse().unwrap_or_else(|fault: CronFault| panic!("{text}: {}", fault.message))
    }

    fn refusal(text: &str) -> String {
        match text.parse::<Crontab>() {
            Ok(_) => panic!("`{text}` was accepted"),
            Err(CronFault { message, help }) => format!("{message}; {help}"),
        }
    }

    #[test]
    fn numbers_and_names_follow_crontab_in_both_forms() {
        for (one, other) in [
            ("0 8 * * 1-5", "0 8 * * Mon-Fri"),
            ("0 8 * * 1-5", "0 0 8 * * 1-5"),
            ("0 8 * * 0", "0 8 * * 7"),
            ("0 8 * * 0", "0 0 8 * * sunday"),
            ("0 8 * * 6-7", "0 8 * * Sat-Sun"),
            ("0 8 * * 6-7", "0 8 * * 0,6"),
            ("0 8 * * 0-6", "0 8 * * 1-7"),
            ("0 8 * * *", "0 8 ? * ?"),
            ("0 8 * * */2", "0 8 * * Sun,Tue,Thu,Sat"),
            ("0 8 1 Jan-mar *", "0 8 1 1-3 *"),
            ("5-59/15 8 * * *", "5,20,35,50 8 * * *"),
        ] {
            assert_eq!(read(one), read(other), "{one} | {other}");
        }
    }

    #[test]
    fn what_crontab_does_not_mean_is_refused_with_a_remedy() {
        for (text, says) in [
            ("", "five fields"),
            ("0 0 0***", "instead of five or six"),
            ("0 1 - 5 2 * *", "seven fields"),
            ("60 8 * * *", "`60` does not fit the field for the minute"),
            ("0 24 * * *", "`24` does not fit the field for the hour"),
            ("0 8 0 * *", "`0` does not fit the field for the day of the month"),
            ("0 8 * 13 *", "`13` does not fit the field for the month"),
            ("0 8 * * 8", "`8` does not fit the field for the day of the week"),
            ("0 8 * * Fri-Mon", "`Fri-Sat,Sun-Mon`"),
            ("0 22-6 * * *", "`22-23,0-6`"),
            ("0 8 13 * Fri", "set one to `*`"),
            ("0 8 */2 * Mon", "set one to `*`"),
            ("5/15 * * * *", "`5-59/15`"),
            ("*/0 * * * *", "not a step"),
            ("*/99 * * * *", "not a step"),
            ("0 8 * * Mo", "`Mo` does not fit the field for the day of the week"),
            ("@daily", "write `0 0 * * *`"),
            ("0 0 8 * * * 2027", "seven fields"),
            ("+5 8 * * *", "`+5` does not fit the field for the minute"),
            ("0 8 L * *", "`L` does not fit the field for the day of the month"),
            ("0 8 * * Mon#1", "`Mon#1` does not fit the field for the day of the week"),
            ("0, 8 * * *", "`` does not fit the field for the minute"),
            ("? 8 * * *", "`?` does not fit the field for the minute"),
        ] {
            let said = refusal(text);
            assert!(said.contains(says), "{text}: {said}");
        }
    }

    #[test]
    fn an_impossible_date_is_never_named() {
        let from = datetime(2028, 1, 1, 0, 0, 0, 0);
        assert_eq!(read("0 8 30 2 *").next(from, date(2029, 2, 4)), None);
        assert!(read("0 8 29 2 *").next(from, date(2029, 2, 4)).is_some());
    }

    #[test]
    fn the_widest_gap_is_the_one_a_walk_finds() {
        for text in [
            "0 8 * * *",
            "0 8,17 * * *",
            "*/7 * * * *",
            "30 5,10 3-5 * * *",
            "0,59 59 * * * *",
            "*/20 1,2 0,23 * * *",
            "* * * * * *",
            "5 0,23 * * *",
            "10,20 * 4,5 * * *",
        ] {
            let cron = read(text);
            let day = date(2026, 1, 1);
            let mut walked = 0;
            let mut at = day.to_datetime(cron.first_in_day());
            while let Some(next) = cron.next(at + 1.second(), day) {
                walked = walked.max(next.duration_since(at).as_secs());
                at = next;
                if at.date() != day {
                    break;
                }
            }
            assert_eq!(i64::from(cron.widest_gap_in_day_seconds()), walked, "{text}");
        }
    }

    /// The crate's own walk on a zone-less calendar is a second opinion on ours.
    fn crate_walk(text: &str, from: DateTime) -> Vec<DateTime> {
        use chrono::{Datelike, NaiveDate, Timelike};
        let day = NaiveDate::from_ymd_opt(
            from.year().into(),
            u32::try_from(from.month()).unwrap(),
            u32::try_from(from.day()).unwrap(),
        );
        let at = day.unwrap().and_hms_opt(
            u32::try_from(from.hour()).unwrap(),
            u32::try_from(from.minute()).unwrap(),
            u32::try_from(from.second()).unwrap(),
        );
        let schedule = cron::Schedule::from_str(text).unwrap();
        let civil = |t: chrono::DateTime<chrono::Utc>| {
            let small = |n: u32| i8::try_from(n).unwrap();
            datetime(
                i16::try_from(t.year()).unwrap(),
                small(t.month()),
                small(t.day()),
                small(t.hour()),
                small(t.minute()),
                small(t.second()),
                0,
            )
        };
        schedule.after(&at.unwrap().and_utc()).take(20).map(civil).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn our_walk_and_the_crates_agree(
            second in 0u8..60, minute in 0u8..60, step in 1u8..30, hour in 0u8..24,
            weekday in 0u8..7, shape in 0u8..4, day in 0i32..1200, at in 0i32..86_400,
        ) {
            let names = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
            let text = match shape {
                0 => format!("{second} {minute} {hour} * * *"),
                1 => format!("{second} */{step} {hour},23 * * {}", names[usize::from(weekday)]),
                2 => format!("*/{step} {minute} * * 2,11 *"),
                _ => format!("{second} {minute} * {} * *", weekday + 25),
            };
            let from = datetime(2026, 1, 1, 0, 0, 0, 0) + day.days() + at.seconds();
            let cron = read(&text);
            let limit = from.date() + 4000.days();
            let mut ours = Vec::new();
            let mut at = from;
            while ours.len() < 20 {
                at = cron.next(at + 1.second(), limit).unwrap();
                ours.push(at);
            }
            prop_assert_eq!(&ours, &crate_walk(&text, from));
            // And the way back is the same way.
            for pair in ours.windows(2) {
                let back = cron.previous(pair[1] - 1.second(), date(2020, 1, 1));
                prop_assert_eq!(back, Some(pair[0]));
            }
        }
    }
}
