//! Single values as people write them: durations, sizes, dates.
//!
//! Pure readers of one text each, so that they can be fuzzed and tested alone. Each refusal says
//! what is wrong and what to write.
//!
//! **Does not know:** YAML, or which key a value stands at.

use std::time::Duration;

use jiff::civil::Date;

use super::calendar::Except;

/// Why a value was refused, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueFault {
    pub message: String,
    pub help: String,
}

pub(crate) fn fault<T>(
    message: impl Into<String>,
    help: impl Into<String>,
) -> Result<T, ValueFault> {
    Err(ValueFault { message: message.into(), help: help.into() })
}

/// No duration in a policy is longer: ten years. Beyond it nobody means what was written.
const LONGEST_DURATION_SECONDS: u64 = 3653 * 86_400;

const DURATION_FORM: &str = "write a number with its unit, such as `90s`, `10m`, `4h30m` or `2d`";

/// `90s`, `10m`, `4h30m`, `2d`: whole numbers with the units w, d, h, m, s, the larger first.
pub fn duration(text: &str) -> Result<Duration, ValueFault> {
    let not_one = || fault(format!("`{text}` is not a duration"), DURATION_FORM);
    let mut rest = text.trim();
    if rest.starts_with('-') {
        return fault(format!("`{text}` is negative"), DURATION_FORM);
    }
    if rest.is_empty() {
        return not_one();
    }
    if rest.bytes().all(|b| b.is_ascii_digit()) {
        return fault(format!("`{text}` has no unit"), DURATION_FORM);
    }
    let too_long = || fault(format!("`{text}` is too long: at most ten years"), DURATION_FORM);
    let mut seconds = 0u64;
    let mut last_unit = u64::MAX;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at(digits);
        let after = after.trim_start();
        let letters = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (word, after) = after.split_at(letters);
        let unit = match word {
            "w" | "week" | "weeks" => 7 * 86_400,
            "d" | "day" | "days" => 86_400,
            "h" | "hour" | "hours" => 3_600,
            "m" | "min" | "minute" | "minutes" => 60,
            "s" | "sec" | "second" | "seconds" => 1,
            _ => return not_one(),
        };
        if digits == 0 || unit >= last_unit {
            return not_one();
        }
        let Some(part) = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit))
        else {
            return too_long();
        };
        seconds = match seconds.checked_add(part) {
            Some(sum) if sum <= LONGEST_DURATION_SECONDS => sum,
            Some(_) | None => return too_long(),
        };
        last_unit = unit;
        rest = after.trim_start();
    }
    Ok(Duration::from_secs(seconds))
}

/// `true` or `false`, and nothing that only looks like one.
pub fn yes_or_no(text: &str) -> Result<bool, ValueFault> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => fault(
            format!("`{}` is neither true nor false", super::yaml::brief(text)),
            "write true or false",
        ),
    }
}

/// A whole number within a range.
pub fn whole(text: &str, first: u32, last: u32) -> Result<u32, ValueFault> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse::<u32>() {
        Ok(number) if digits && (first..=last).contains(&number) => Ok(number),
        Ok(_) | Err(_) => fault(
            format!("`{}` is not a whole number from {first} to {last}", super::yaml::brief(text)),
            "write digits only",
        ),
    }
}

/// A figure in watts.
pub fn watts(text: &str) -> Result<f64, ValueFault> {
    /// More than any socket gives.
    const MOST_WATTS: f64 = 20_000.0;
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    match text.parse::<f64>() {
        Ok(watts) if plain && (0.0..=MOST_WATTS).contains(&watts) => Ok(watts),
        Ok(_) | Err(_) => fault(
            format!("`{}` is not a power in watts", super::yaml::brief(text)),
            "write a number from 0 to 20000, such as `48` or `6.5`",
        ),
    }
}

const SIZE_FORM: &str = "write a number with its unit, such as `2 GiB` or `512 MiB`";

/// `2 GiB`, `512 MB`, `1.5 TiB`: bytes.
pub fn size(text: &str) -> Result<u64, ValueFault> {
    let not_one = || fault(format!("`{}` is not a size", super::yaml::brief(text)), SIZE_FORM);
    let trimmed = text.trim();
    let digits = trimmed.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
    let (number, word) = trimmed.split_at(digits);
    let unit: u64 = match word.trim_start() {
        "B" => 1,
        "KiB" | "K" => 1 << 10,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1 << 30,
        "TiB" | "T" => 1 << 40,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "" => return fault(format!("`{}` has no unit", super::yaml::brief(text)), SIZE_FORM),
        _ => return not_one(),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.len() > 3 || number.ends_with('.') {
        return not_one();
    }
    let Ok(whole) = whole.parse::<u64>() else { return not_one() };
    let Ok(thousandths) = format!("{fraction:0<3}").parse::<u64>() else { return not_one() };
    let bytes = whole.checked_mul(unit).and_then(|whole| {
        // Units are at most 2^40, so this product is small.
        whole.checked_add(thousandths * unit / 1000)
    });
    match bytes {
        Some(bytes) if bytes <= i64::MAX as u64 => Ok(bytes),
        Some(_) | None => fault(format!("`{}` is too large", super::yaml::brief(text)), SIZE_FORM),
    }
}

/// `110 MiB/s`, `1 Gbit/s`: bytes per second.
pub fn bandwidth(text: &str) -> Result<u64, ValueFault> {
    const FORM: &str = "write bytes or bits a second, such as `110 MiB/s` or `1 Gbit/s`";
    let not_one = || ValueFault {
        message: format!("`{}` is not a bandwidth", super::yaml::brief(text)),
        help: FORM.into(),
    };
    let amount = text.trim().strip_suffix("/s").ok_or_else(not_one)?;
    let bits = amount.strip_suffix("bit").map(|bits| format!("{bits}B"));
    let bytes = match &bits {
        Some(bits) => size(bits).map(|bits| bits / 8),
        None => size(amount),
    };
    match bytes {
        Ok(0) => fault("a bandwidth of nothing would never end", FORM),
        Ok(bytes) => Ok(bytes),
        Err(_) => Err(not_one()),
    }
}

const DATE_FORM: &str =
    "write `2026-12-24`, `2026-12-24..2027-01-02`, or without a year `05-01` or `12-24..01-02`";

/// A date or a range of dates, both ends with a year or both without.
pub fn except(text: &str) -> Result<Except, ValueFault> {
    let not_one = || ValueFault {
        message: format!("`{}` is not a date or a range of dates", super::yaml::brief(text)),
        help: DATE_FORM.into(),
    };
    let (first, last) = text.split_once("..").unwrap_or((text, text));
    match (first.trim().len(), last.trim().len()) {
        (10, 10) => {
            let day = |text: &str| text.trim().parse::<Date>().map_err(|_| not_one());
            let (first, last) = (day(first)?, day(last)?);
            if last < first {
                return fault(
                    format!("`{}` ends before it begins", super::yaml::brief(text)),
                    format!("write `{last}..{first}`"),
                );
            }
            Ok(Except::Dates { first, last })
        }
        (5, 5) => {
            // A leap year, so that 02-29 is a date.
            let day = |text: &str| {
                let date =
                    format!("2028-{}", text.trim()).parse::<Date>().map_err(|_| not_one())?;
                Ok::<_, ValueFault>((date.month(), date.day()))
            };
            Ok(Except::Yearly { first: day(first)?, last: day(last)? })
        }
        (10, 5) | (5, 10) => fault(
            format!("`{}` has a year at one end only", super::yaml::brief(text)),
            "write the year at both ends, or at none",
        ),
        _ => Err(not_one()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_numbers_with_units() {
        for (text, seconds) in [
            ("90s", 90),
            ("4h30m", 16_200),
            ("10m", 600),
            ("2d", 172_800),
            ("1h 5s", 3605),
            ("0s", 0),
            ("1 week", 604_800),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in [
            "",
            "10",
            "-5m",
            "5x",
            "m",
            "1m1h",
            "1m1m",
            "1.5h",
            "99999999999999999999s",
            "9999999999w",
            "10m5",
            "∞",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_and_bandwidths_have_units() {
        for (text, bytes) in [
            ("2 GiB", 2 << 30),
            ("512MiB", 512 << 20),
            ("1.5 KiB", 1536),
            ("3 kB", 3000),
            ("7 B", 7),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in
            ["", "5", "GiB", "1. GiB", "-1 GiB", "1.2345 GiB", "99999999 TiB", "1 gib", "1..2 GiB"]
        {
            assert!(size(text).is_err(), "{text}");
        }
        assert_eq!(bandwidth("110 MiB/s"), Ok(110 << 20));
        assert_eq!(bandwidth("1 Gbit/s"), Ok(125_000_000));
        assert!(bandwidth("110 MiB").is_err() && bandwidth("0 MiB/s").is_err());
    }

    #[test]
    fn dates_have_a_year_at_both_ends_or_at_none() {
        assert!(matches!(except("2026-12-24..2027-01-02"), Ok(Except::Dates { .. })));
        assert_eq!(except("05-01"), Ok(Except::Yearly { first: (5, 1), last: (5, 1) }));
        assert!(matches!(except("02-29"), Ok(Except::Yearly { .. })));
        for text in [
            "",
            "2026-13-01",
            "2026-02-30",
            "02-30",
            "2027-01-02..2026-12-24",
            "2026-12-24..01-02",
            "24.12.2026",
            "..",
            "é-01",
        ] {
            assert!(except(text).is_err(), "{text}");
        }
    }
}
