//! Single values as people write them: durations, sizes, dates.
//!
//! Pure readers of one text each, so that they can be fuzzed and tested alone. Each refusal says what
//! is wrong and what to write.
//!
//! **Does not know:** YAML, or which key a value stands at.

use std::time::Duration;

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
