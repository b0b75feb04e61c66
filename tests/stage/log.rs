//! A story's log: the journal as its owner would read it, with what befell the house written between
//! the lines, and at its end what the world itself saw.
//!
//! **Does not know:** what ought to stand in it; somebody blessed it by eye.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// One line: local time, who, what.
#[derive(Clone, Debug)]
pub struct Line {
    /// Since the story began, by the clock that never steps.
    after: Duration,
    text: String,
}

/// Stories are told by the clock on the wall of their home.
fn local(at: Timestamp) -> String {
    let zone = TimeZone::get("Europe/Berlin").expect("zones are bundled");
    at.to_zoned(zone).strftime("%a %H:%M:%S").to_string()
}

impl Line {
    /// `at` is what the wall clock showed.
    pub fn journaled(after: Duration, at: Timestamp, who: &str, sentence: &str) -> Line {
        // Every release would change every story.
        let sentence = sentence.replace(env!("CARGO_PKG_VERSION"), "VERSION");
        Line { after, text: format!("{} {who:<9} {sentence}", local(at)) }
    }

    pub fn befell(after: Duration, at: Timestamp, what: &str) -> Line {
        Line { after, text: format!("{} ~         {what}", local(at)) }
    }
}

/// All lines in the order of their time; what befell comes before what was made of it.
pub fn written(befell: &[Line], journaled: &[Line]) -> String {
    let mut lines: Vec<(bool, &Line)> = befell.iter().map(|line| (false, line)).collect();
    lines.extend(journaled.iter().map(|line| (true, line)));
    lines.sort_by_key(|(journaled, line)| (line.after, *journaled));
    lines.iter().map(|(_, line)| format!("{}\n", line.text)).collect()
}

/// The lines in which two texts differ, a few of them, for a reader without a diff at hand.
pub fn difference(expected: &str, found: &str) -> String {
    const SHOWN: usize = 12;
    let (expected, found): (Vec<&str>, Vec<&str>) =
        (expected.lines().collect(), found.lines().collect());
    let same = expected.iter().zip(&found).take_while(|(a, b)| a == b).count();
    let show = |sign: &str, lines: &[&str]| -> String {
        lines.iter().skip(same).take(SHOWN).map(|line| format!("{sign} {line}\n")).collect()
    };
    let before = same.saturating_sub(3);
    let context: String = expected[before..same].iter().map(|line| format!("  {line}\n")).collect();
    format!("from line {}:\n{context}{}{}", same + 1, show("-", &expected), show("+", &found))
}
