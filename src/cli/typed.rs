//! What a person types: durations, instants, times of day, host names; each with one sentence when
//! it is not what was meant.
//!
//! **Does not know:** which hosts exist.

use std::time::Duration;

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan, Zoned};

use crate::cluster::{HostName, Vmid};

/// PVE's own limits of a guest's number.
const VMIDS: std::ops::RangeInclusive<u32> = 100..=999_999_999;
/// Longer than any host name; what is longer was pasted by mistake.
const HOST_CHARACTERS: usize = 63;

pub fn host(text: &str) -> Result<HostName, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.' || c == '_';
    match !text.is_empty() && text.len() <= HOST_CHARACTERS && text.chars().all(fits) {
        true => Ok(HostName::new(text)),
        false => {
            Err("a host is named by letters, digits, `-`, `_` and `.`, as in the policy".into())
        }
    }
}

pub fn vmid(text: &str) -> Result<Vmid, String> {
    match text.parse::<u32>() {
        Ok(number) if VMIDS.contains(&number) => Ok(Vmid(number)),
        Ok(_) | Err(_) => Err("a guest is named by its number in PVE, from 100 on".into()),
    }
}

pub fn duration(text: &str) -> Result<Duration, String> {
    match crate::policy::scalars::duration(text) {
        Ok(length) if length.is_zero() => Err("it must be longer than nothing".into()),
        Ok(length) => Ok(length),
        Err(fault) => Err(format!("{}: {}", fault.message, fault.help)),
    }
}

/// An RFC 3339 instant, or a date [and time] by this machine's time zone.
pub fn instant(text: &str) -> Result<Timestamp, String> {
    absolute(text, &TimeZone::system()).ok_or_else(|| {
        "write an instant such as 2026-11-23T06:00:00Z, or a date such as 2026-11-23".into()
    })
}

fn absolute(text: &str, zone: &TimeZone) -> Option<Timestamp> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Some(at);
    }
    let civil = match text.parse::<DateTime>() {
        Ok(civil) => civil,
        Err(_) => text.parse::<Date>().ok()?.at(0, 0, 0, 0),
    };
    Some(civil.to_zoned(zone.clone()).ok()?.timestamp())
}

/// When `--until` ends: the next time the wall clock of `now`'s zone shows it, or the instant
/// named.
pub fn until(text: &str, now: &Zoned) -> Result<Timestamp, String> {
    let at = match time_of_day(text) {
        Some(time) => next(time, now),
        None => absolute(text, now.time_zone()),
    };
    match at {
        Some(at) if at > now.timestamp() => Ok(at),
        Some(_) => Err(format!("--until {text} is in the past")),
        None => Err(format!(
            "--until {text}: write a time such as 18:00, a date and time such as \
             `2026-11-24 07:30`, or an instant such as 2026-11-24T06:30:00Z"
        )),
    }
}

fn time_of_day(text: &str) -> Option<Time> {
    let digits = text.bytes().all(|b| b.is_ascii_digit() || b == b':');
    (digits && text.contains(':')).then(|| text.parse().ok()).flatten()
}

fn next(time: Time, now: &Zoned) -> Option<Timestamp> {
    let on = |date: Date| {
        Some(date.to_datetime(time).to_zoned(now.time_zone().clone()).ok()?.timestamp())
    };
    let today = on(now.date())?;
    match today > now.timestamp() {
        true => Some(today),
        false => on(now.date().checked_add(1.day()).ok()?),
    }
}

/// A clock for a service that talks to a pretended cluster: where it begins, how fast it runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FastClock {
    pub start: Timestamp,
    pub speed: f64,
}

pub fn clock(text: &str) -> Result<FastClock, String> {
    let wrong = || "write START@SPEED, such as 2026-11-23T06:00:00Z@60".to_owned();
    let (start, speed) = text.rsplit_once('@').ok_or_else(wrong)?;
    let start = start.parse().map_err(|_| wrong())?;
    match speed.parse() {
        // Slower or faster than this no duration holds.
        Ok(speed) if (0.001..=100_000.0).contains(&speed) => Ok(FastClock { start, speed }),
        Ok(_) | Err(_) => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_day_is_the_next_one() {
        let now: Zoned = "2026-11-23T17:30:00+01:00[Europe/Berlin]".parse().unwrap();
        for (text, at) in [
            ("18:00", "2026-11-23T17:00:00Z"),
            ("07:30", "2026-11-24T06:30:00Z"),
            ("2026-11-24 07:30", "2026-11-24T06:30:00Z"),
            ("2026-12-01", "2026-11-30T23:00:00Z"),
            ("2026-11-24T06:30:00Z", "2026-11-24T06:30:00Z"),
        ] {
            assert_eq!(until(text, &now), Ok(at.parse().unwrap()), "{text}");
        }
        for bad in ["25:00", "soon", "2026-11-01", "18", ""] {
            assert!(until(bad, &now).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_fast_clock_has_a_start_and_a_speed() {
        assert_eq!(clock("2026-11-23T06:00:00Z@60").unwrap().speed, 60.0);
        for bad in [
            "",
            "@",
            "2026-11-23T06:00:00Z",
            "2026-11-23T06:00:00Z@0",
            "x@60",
            "2026-11-23T06:00:00Z@-1",
        ] {
            assert!(clock(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_names() {
        assert!(host("pve-3.lan").is_ok());
        for bad in ["", "a b", "h\x1b[0m", "../x", &"a".repeat(64)] {
            assert!(host(bad).is_err(), "{bad:?}");
        }
        assert!(vmid("99").is_err() && vmid("201").is_ok() && vmid("x").is_err());
    }
}
