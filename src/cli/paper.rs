//! What a person reads: lines, tables, colours, times of day; and JSON for everybody else.
//!
//! Names come from the cluster and may hold anything, so every text passes [`plain`] on its way
//! out: a guest called `\x1b[2J` must not clear the owner's screen. Colour only on a terminal, and
//! not with `NO_COLOR`; a line is readable without it.
//!
//! **Does not know:** what is said.

use std::io::{IsTerminal, Write};

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use serde::Serialize;

/// Where lines are broken if the terminal does not say how wide it is.
const WIDTH: usize = 80;
/// Narrower, and tables would be nothing but breaks.
const WIDTH_AT_LEAST: usize = 40;

/// Why nothing more can be printed.
#[derive(Debug, thiserror::Error)]
pub enum Unprinted {
    /// The reader has read enough.
    #[error("the reader closed the pipe")]
    Closed,
    #[error("could not write to standard output")]
    Failed(#[source] std::io::Error),
}

impl From<std::io::Error> for Unprinted {
    fn from(error: std::io::Error) -> Unprinted {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Unprinted::Closed,
            _ => Unprinted::Failed(error),
        }
    }
}

/// Prints one line.
pub fn line(text: &str) -> Result<(), Unprinted> {
    raw(format!("{text}\n").as_bytes())
}

/// Prints bytes as they are, at once.
pub fn raw(bytes: &[u8]) -> Result<(), Unprinted> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)?;
    Ok(out.flush()?)
}

/// Says something beside the output: progress, remarks. Nobody needs it to be heard.
pub fn aside(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// A JSON document, for people to read as well.
pub fn json(document: &impl Serialize) -> anyhow::Result<()> {
    Ok(line(&tame(&serde_json::to_string_pretty(document)?))?)
}

/// A JSON document on one line.
pub fn json_line(document: &impl Serialize) -> anyhow::Result<()> {
    Ok(line(&tame(&serde_json::to_string(document)?))?)
}

/// `serde_json` leaves DEL, C1 controls and direction marks as they are; inside JSON they only ever
/// stand in strings, where they may be written as escapes.
fn tame(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '\n' => text.push(c),
            c if unruly(c) => text += &format!("\\u{:04x}", u32::from(c)),
            c => text.push(c),
        }
    }
    text
}

pub use crate::status::plain;
use crate::status::unruly;

/// Whether a person watches standard output.
pub fn terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Whether standard output takes colour.
pub fn colourful() -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    terminal() && !set("NO_COLOR") && !dumb
}

/// How a word stands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ink {
    Bold,
    Dim,
    Green,
    Yellow,
    Red,
}

/// A sheet to write on: how wide it is, whether it takes colour, whose time of day it shows.
#[derive(Clone, Debug)]
pub struct Sheet {
    pub width: usize,
    colour: bool,
    zone: TimeZone,
    pub now: Timestamp,
}

impl Sheet {
    /// Standard output as it is now.
    #[expect(clippy::disallowed_methods, reason = "how wide the terminal is, as the shell says")]
    pub fn stdout(now: Timestamp) -> Sheet {
        let width = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
        Sheet {
            width: width.unwrap_or(WIDTH).max(WIDTH_AT_LEAST),
            colour: colourful(),
            zone: TimeZone::system(),
            now,
        }
    }

    /// A sheet in another zone: the demo tells its story in the world's own.
    pub fn in_zone(mut self, zone: TimeZone) -> Sheet {
        self.zone = zone;
        self
    }

    /// The same sheet at another time.
    pub fn at(mut self, now: Timestamp) -> Sheet {
        self.now = now;
        self
    }

    pub fn ink(&self, ink: Ink, text: &str) -> String {
        let code = match ink {
            Ink::Bold => "1",
            Ink::Dim => "2",
            Ink::Green => "32",
            Ink::Yellow => "33",
            Ink::Red => "31",
        };
        match self.colour {
            true => format!("\x1b[{code}m{}\x1b[0m", plain(text)),
            false => plain(text),
        }
    }

    pub fn local(&self, at: Timestamp) -> Zoned {
        at.to_zoned(self.zone.clone())
    }

    /// `10:15` today, `Tue 10:15` within a week, else with its date.
    pub fn when(&self, at: Timestamp) -> String {
        let (then, now) = (self.local(at), self.local(self.now));
        if then.date() == now.date() {
            return then.strftime("%H:%M").to_string();
        }
        let days = (then.timestamp().as_second() - now.timestamp().as_second()).abs() / 86_400;
        let form = if days < 6 { "%a %H:%M" } else { "%Y-%m-%d %H:%M" };
        then.strftime(form).to_string()
    }

    /// `2026-11-23 10:15:04`
    pub fn stamp(&self, at: Timestamp) -> String {
        self.local(at).strftime("%Y-%m-%d %H:%M:%S").to_string()
    }

    /// `text` with every instant in it (RFC 3339, UTC) as this sheet's time of day.
    pub fn localised(&self, text: &str) -> String {
        let part = |c: char| c.is_ascii_digit() || matches!(c, '-' | ':' | '.' | 'T' | 'Z');
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(start) = rest.find(part) {
            let (before, from) = rest.split_at(start);
            let end = from.find(|c| !part(c)).unwrap_or(from.len());
            let (word, after) = from.split_at(end);
            let bare = word.trim_end_matches(['.', ':', '-']);
            out += before;
            match bare.parse() {
                Ok(at) => out += &format!("{}{}", self.when(at), &word[bare.len()..]),
                Err(_) => out += word,
            }
            rest = after;
        }
        out + rest
    }

    /// `text` broken at spaces, every line indented by `indent` (the first by `first`).
    pub fn wrapped(&self, first: &str, indent: &str, text: &str) -> String {
        let mut out = String::new();
        let mut line = first.to_owned();
        let mut empty = true;
        for word in text.split_whitespace() {
            let fits = shown(&line) + shown(word) + usize::from(!empty) <= self.width;
            if !fits && !empty {
                out += line.trim_end();
                out.push('\n');
                line = indent.to_owned();
                empty = true;
            }
            if !empty {
                line.push(' ');
            }
            line += word;
            empty = false;
        }
        out + line.trim_end()
    }
}

/// How many places a text takes: colours take none.
pub fn shown(text: &str) -> usize {
    let mut places = 0;
    let mut escape = false;
    for c in text.chars() {
        match (escape, c) {
            (false, '\x1b') => escape = true,
            (false, _) => places += 1,
            (true, 'm') => escape = false,
            (true, _) => {}
        }
    }
    places
}

/// Columns as wide as their widest cell, two spaces between them; the last one is broken at the
/// sheet's edge and goes on under itself.
pub fn table(sheet: &Sheet, rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| shown(cell)).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut start = String::new();
        let last = row.len().saturating_sub(1);
        for (column, cell) in row.iter().enumerate().take(last) {
            let gap = widths[column] - shown(cell) + 2;
            start += cell;
            start += &" ".repeat(gap);
        }
        let indent = " ".repeat(shown(&start).min(sheet.width / 2));
        out += &sheet.wrapped(&start, &indent, row.last().map_or("", String::as_str));
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sheet() -> Sheet {
        Sheet {
            width: 40,
            colour: true,
            zone: TimeZone::UTC,
            now: "2026-11-23T10:15:00Z".parse().unwrap(),
        }
    }

    #[test]
    fn hostile_names_are_spelled_out() {
        assert_eq!(plain("a\x1b[2Jb\u{9b}c\u{202e}d\n"), "a\\u{1b}[2Jb\\u{9b}c\\u{202e}d\\u{a}");
        assert_eq!(tame("{\"a\":\"\u{9b}\u{7f}\"}"), "{\"a\":\"\\u009b\\u007f\"}");
        assert_eq!(sheet().ink(Ink::Red, "x\x1b"), "\x1b[31mx\\u{1b}\x1b[0m");
    }

    #[test]
    fn the_last_column_goes_on_under_itself() {
        let rows = vec![
            vec![sheet().ink(Ink::Green, "host1"), "awake".into(), "a long story told".into()],
            vec!["h2".into(), "resting".into(), "in more than thirty places".into()],
        ];
        assert_eq!(
            table(&sheet(), &rows),
            "\x1b[32mhost1\x1b[0m  awake    a long story told\n\
             h2     resting  in more than thirty\n                places\n"
        );
    }

    #[test]
    fn instants_in_a_sentence_become_times_of_day() {
        let text = "anna wants host3 until 2026-11-23T11:45:00.5Z, asked at 2026-11-24T07:00:00Z.";
        assert_eq!(sheet().localised(text), "anna wants host3 until 11:45, asked at Tue 07:00.");
        for same in ["vm 201: 10.0.0.1 - a8:a1:59:00:00:03", "", "2026", "T-Z.", "5 votes"] {
            assert_eq!(sheet().localised(same), same);
        }
    }

    #[test]
    fn times_are_as_short_as_they_are_clear() {
        for (at, said) in [
            ("2026-11-23T18:00:00Z", "18:00"),
            ("2026-11-24T07:30:00Z", "Tue 07:30"),
            ("2026-12-24T07:30:00Z", "2026-12-24 07:30"),
        ] {
            assert_eq!(sheet().when(at.parse().unwrap()), said);
        }
    }
}
