//! Windows over three years in many zones, against a reading of the rule minute by minute that shares
//! nothing with the calendar but the zones' offsets.
//!
//! The default run walks 44 zones at two times of the day drawn for each; `SPOT_ALL_ZONES=1 cargo test
//! --test calendar` walks all zones at a dozen. `SPOT_SEED=N` draws again what a failure names.
//!
//! **Does not know:** cron; every window here opens once a day.

use std::collections::BTreeSet;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use spot::policy::calendar::{Window, zone, zone_names};

/// Every rule for changing clocks in force today, and some places without one.
const ZONES: [&str; 44] = [
    "Africa/Cairo",
    "Africa/Casablanca",
    "Africa/El_Aaiun",
    "Africa/Johannesburg",
    "Africa/Lagos",
    "America/Asuncion",
    "America/Chicago",
    "America/Halifax",
    "America/Havana",
    "America/Los_Angeles",
    "America/Miquelon",
    "America/New_York",
    "America/Nuuk",
    "America/Phoenix",
    "America/Santiago",
    "America/Sao_Paulo",
    "America/Scoresbysund",
    "America/St_Johns",
    "America/Tijuana",
    "Antarctica/Troll",
    "Asia/Beirut",
    "Asia/Gaza",
    "Asia/Jerusalem",
    "Asia/Kathmandu",
    "Asia/Kolkata",
    "Asia/Nicosia",
    "Asia/Tehran",
    "Asia/Tokyo",
    "Atlantic/Azores",
    "Australia/Adelaide",
    "Australia/Eucla",
    "Australia/Lord_Howe",
    "Australia/Sydney",
    "Europe/Berlin",
    "Europe/Chisinau",
    "Europe/Dublin",
    "Europe/Lisbon",
    "Europe/London",
    "Pacific/Apia",
    "Pacific/Auckland",
    "Pacific/Chatham",
    "Pacific/Easter",
    "Pacific/Kiritimati",
    "Pacific/Norfolk",
];

const DAY: i64 = 1440;
const THREE_YEARS: i64 = 1096 * DAY;

fn begin() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().expect("an instant")
}

/// Minutes after `begin` at which the clock on the wall first shows `minute_of_day`, or anything
/// later on that day or after it.
fn by_the_minute(zone: &TimeZone, minute_of_day: i64) -> Vec<i64> {
    let start = begin().as_second() / 60;
    let shown = |minute: i64| {
        let at = Timestamp::from_second((start + minute) * 60).expect("within range");
        start + minute + i64::from(zone.to_offset(at).seconds()).div_euclid(60)
    };
    let mut found = Vec::new();
    let mut highest = shown(0);
    for minute in 1..THREE_YEARS {
        let now = shown(minute);
        while highest < now {
            highest += 1;
            if highest.rem_euclid(DAY) == minute_of_day {
                found.push(minute);
            }
        }
    }
    found
}

/// The openings of a daily window, one after the other.
fn walked(window: &Window) -> Vec<i64> {
    let mut found = Vec::new();
    let mut now = begin();
    while let Some(next) = window.next_after(now) {
        assert!(next.opens > now, "an answer lies ahead of {now}");
        let minute = next.opens.duration_since(begin()).as_mins();
        if minute >= THREE_YEARS {
            break;
        }
        found.push(minute);
        now = next.opens;
    }
    found
}

/// What must hold around an opening, whoever asks when.
fn consistent(window: &Window, opens: Timestamp) {
    let second = SignedDuration::from_secs(1);
    let open = window.open_at(opens).expect("it is open when it opens");
    assert_eq!(open.opens, opens);
    let closes = open.closes.expect("a short window closes");
    assert!(closes > opens);
    assert_eq!(window.open_at(closes - second), Some(open), "until it closes it is the same one");
    assert_eq!(window.open_at(closes), None, "and then it is shut");
    assert_eq!(window.next_after(opens - second), Some(open), "what was next is now");
}

#[test]
fn every_day_opens_once_in_every_zone() {
    let all = std::env::var_os("SPOT_ALL_ZONES").is_some();
    let names: Vec<String> =
        if all { zone_names() } else { ZONES.iter().map(|name| (*name).to_owned()).collect() };
    // Most clocks change between midnight and four; the drawing walks through that and the day.
    let given = std::env::var_os("SPOT_SEED");
    let given = given.map(|seed| seed.to_string_lossy().parse().expect("a number"));
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    let mut draw = fastrand::Rng::with_seed(seed);
    for name in names {
        let zone = zone(&name).unwrap_or_else(|| panic!("{name} is a zone"));
        let night = (0..if all { 8 } else { 1 }).map(|_| draw.i64(0..240)).collect::<Vec<_>>();
        let day = (0..if all { 4 } else { 1 }).map(|_| draw.i64(0..DAY)).collect::<Vec<_>>();
        for minute in night.into_iter().chain(day) {
            let (hour, past) = (minute / 60, minute % 60);
            let window = Window::parse(&format!("{past} {hour} * * *"), "1m", &name);
            let window = window.expect("a daily window");
            let case = format!("{name} at {hour:02}:{past:02}, seed {seed}");
            let (ours, theirs) = (walked(&window), by_the_minute(&zone, minute));
            assert_eq!(ours, theirs, "{case}");
            assert!(ours.is_sorted_by(|one, next| one < next), "{case}: later, and none doubled");
            no_day_is_lost(&zone, &ours, minute, &case);
            for opens in ours.iter().step_by(if all { 1 } else { 13 }) {
                consistent(&window, begin() + SignedDuration::from_mins(*opens));
            }
        }
    }
}

/// Each civil date of the three years has its opening; where a gap swallows the time, at its end.
fn no_day_is_lost(zone: &TimeZone, opens: &[i64], minute_of_day: i64, case: &str) {
    let seen: BTreeSet<Date> = opens
        .iter()
        .map(|minute| zone.to_datetime(begin() + SignedDuration::from_mins(*minute)))
        .map(|at| at.date())
        .collect();
    let mut date = zone.to_datetime(begin()).date().tomorrow().expect("a date");
    let last = zone.to_datetime(begin() + SignedDuration::from_mins(THREE_YEARS)).date();
    while date < last {
        let there = zone.to_datetime(
            date.at(23, 59, 59, 0).to_zoned(zone.clone()).expect("a date").timestamp(),
        );
        // A gap from late evening over midnight puts the opening on the day after.
        let late = minute_of_day >= 23 * 60;
        assert!(seen.contains(&date) || late || there.date() != date, "{case}: {date} is lost");
        date = date.tomorrow().expect("a date");
    }
}

#[test]
fn the_zones_walked_are_as_many_as_promised() {
    let different: BTreeSet<&str> = ZONES.into_iter().collect();
    assert!(different.len() >= 40 && ZONES.iter().all(|name| zone(name).is_some()));
}
