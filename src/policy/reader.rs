//! Reading one file's tree key by key, and collecting every fault with its place.
//!
//! A [`Reader`] never stops at a fault: it reports it, answers `None`, and whoever reads goes on
//! with the next key, so that one look at `spot check` is enough. A value that was already refused
//! is passed over in silence.
//!
//! **Does not know:** what any key means.

use std::ops::Range;
use std::time::Duration;

use jiff::tz::TimeZone;

use super::scalars::{self, ValueFault};
use super::text::{Fault, Mark, Severity};
use super::yaml::{Entry, Node, Value, brief};

/// Faults reported of one file; beyond that nobody reads on.
const MOST_FAULTS: usize = 200;

/// A value, with the way that leads to it.
#[derive(Clone, Debug)]
pub(crate) struct At<'n> {
    pub node: &'n Node,
    /// `policies[0].run[0].from`
    pub path: String,
    /// The key it stands at, or the value itself in a list.
    pub key: Range<usize>,
}

/// Where a fault is reported: kept by what was read for checks that need all files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub span: Range<usize>,
    pub path: String,
}

impl At<'_> {
    pub fn place(&self) -> Place {
        Place { span: self.node.span.clone(), path: self.path.clone() }
    }

    pub fn key_place(&self) -> Place {
        Place { span: self.key.clone(), path: self.path.clone() }
    }
}

/// The keys of one mapping.
pub(crate) struct Fields<'n> {
    path: String,
    key: Range<usize>,
    entries: &'n [Entry],
}

impl<'n> Fields<'n> {
    pub fn get(&self, reader: &mut Reader<'_>, key: &str) -> Option<At<'n>> {
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        let at = self.at(entry);
        if entry.node.is_nothing() {
            reader.error(
                &at.key_place(),
                format!("`{key}` has no value"),
                "write a value behind the colon, or remove the key",
            );
            return None;
        }
        Some(at)
    }

    /// A key that must stand here.
    pub fn need(&self, reader: &mut Reader<'_>, key: &str, help: &str) -> Option<At<'n>> {
        // A misspelt key is reported where it stands, and is not missing as well.
        let misspelt = |entry: &Entry| nearest(&entry.key, [key].into_iter()).is_some();
        if !self.has(key) && !reader.full() && !self.entries.iter().any(misspelt) {
            reader.error(&self.place(), format!("the key `{key}` is missing"), help);
        }
        self.get(reader, key)
    }

    pub fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|entry| entry.key == key)
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Every entry, whatever its key is called.
    pub fn all(&self) -> impl Iterator<Item = (&'n str, At<'n>)> + '_ {
        self.entries.iter().map(|entry| (entry.key.as_str(), self.at(entry)))
    }

    /// The key under which the whole mapping stands.
    pub fn place(&self) -> Place {
        Place { span: self.key.clone(), path: self.path.clone() }
    }

    fn at(&self, entry: &'n Entry) -> At<'n> {
        let key = brief(&entry.key);
        let path = if self.path.is_empty() { key } else { format!("{}.{key}", self.path) };
        At { node: &entry.node, path, key: entry.key_span.clone() }
    }
}

/// One file being read, and what was found wrong with it.
pub(crate) struct Reader<'f> {
    file: &'f str,
    text: &'f str,
    /// Bytes of a byte order mark before `text`.
    mark: usize,
    line_starts: Vec<usize>,
    pub faults: Vec<Fault>,
    /// Every zone that was named, where it was.
    pub zones: Vec<(TimeZone, Place)>,
}

impl<'f> Reader<'f> {
    pub fn new(file: &'f str, whole: &'f str) -> Reader<'f> {
        let text = whole.strip_prefix('\u{feff}').unwrap_or(whole);
        let line_starts = line_starts(text);
        let mark = whole.len() - text.len();
        Reader { file, text, mark, line_starts, faults: Vec::new(), zones: Vec::new() }
    }

    pub fn file(&self) -> &'f str {
        self.file
    }

    /// Whether further faults would not be shown, so that looking for remedies is idle.
    pub fn full(&self) -> bool {
        self.faults.len() > MOST_FAULTS
    }

    /// The text without its byte order mark.
    pub fn text(&self) -> &'f str {
        self.text
    }

    pub fn error(&mut self, at: &Place, message: impl Into<String>, help: impl Into<String>) {
        self.report(Severity::Error, at, message.into(), help.into());
    }

    pub fn warning(&mut self, at: &Place, message: impl Into<String>, help: impl Into<String>) {
        self.report(Severity::Warning, at, message.into(), help.into());
    }

    fn report(&mut self, severity: Severity, at: &Place, message: String, help: String) {
        if self.full() {
            return;
        }
        let (message, help) = if self.faults.len() == MOST_FAULTS {
            // The last one says that there are more, and refuses the file whatever the rest is.
            ("more faults than are shown".to_owned(), "mend those above first".to_owned())
        } else {
            (message, help)
        };
        let severity = if self.faults.len() == MOST_FAULTS { Severity::Error } else { severity };
        self.faults.push(self.mark(at).fault(severity, message, help));
    }

    /// A place as it is told outside.
    pub fn mark(&self, at: &Place) -> Mark {
        let (line, column) = self.line_and_column(at.span.start);
        // What runs over several lines is shown by its first.
        let end = self.line_starts.get(line).map_or(self.text.len(), |next| *next);
        let end = at.span.end.min(at.span.start.max(self.text[..end].trim_end().len()));
        let span = at.span.start + self.mark..end + self.mark;
        Mark { file: self.file.to_owned(), line, column, path: at.path.clone(), span }
    }

    /// Counted from 1, in characters.
    fn line_and_column(&self, byte: usize) -> (usize, usize) {
        let line = self.line_starts.partition_point(|start| *start <= byte);
        let start = self.line_starts[line - 1];
        (line, self.text[start..byte].chars().count() + 1)
    }

    /// A mapping with only the keys `known`.
    pub fn fields<'n>(&mut self, at: &At<'n>, known: &[&str]) -> Option<Fields<'n>> {
        let fields = self.open_fields(at)?;
        for entry in fields.entries {
            if !known.contains(&entry.key.as_str()) && !self.full() {
                let place = Place { span: entry.key_span.clone(), path: fields.at(entry).path };
                let message = format!("unknown key `{}`", brief(&entry.key));
                let help = match nearest(&entry.key, known.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("the keys here are {}", listed(known)),
                };
                self.error(&place, message, help);
            }
        }
        Some(fields)
    }

    /// A mapping whose keys are names of the owner's.
    pub fn open_fields<'n>(&mut self, at: &At<'n>) -> Option<Fields<'n>> {
        match &at.node.value {
            Value::Map(entries) => {
                Some(Fields { path: at.path.clone(), key: at.key.clone(), entries })
            }
            Value::Refused => None,
            Value::Scalar { .. } | Value::List(_) => {
                self.wrong_kind(at, "a mapping", "write `key: value` pairs");
                None
            }
        }
    }

    pub fn list<'n>(&mut self, at: &At<'n>, help: &str) -> Option<Vec<At<'n>>> {
        match &at.node.value {
            Value::List(nodes) => Some(items(at, nodes)),
            Value::Refused => None,
            Value::Scalar { .. } | Value::Map(_) => {
                self.wrong_kind(at, "a list", help);
                None
            }
        }
    }

    /// A list, or one value that stands for a list of one.
    pub fn list_or_one<'n>(&mut self, at: &At<'n>, help: &str) -> Option<Vec<At<'n>>> {
        match &at.node.value {
            Value::Scalar { .. } => Some(vec![at.clone()]),
            Value::List(_) | Value::Map(_) | Value::Refused => self.list(at, help),
        }
    }

    /// A single value that is not empty.
    pub fn word<'n>(&mut self, at: &At<'n>, help: &str) -> Option<&'n str> {
        match &at.node.value {
            Value::Scalar { .. } if at.node.is_nothing() => {
                self.error(&at.key_place(), "there is no value here", help);
                None
            }
            Value::Scalar { text, .. } if text.trim().is_empty() => {
                self.error(&at.place(), "the text is empty", help);
                None
            }
            Value::Scalar { text, .. } => Some(text),
            Value::Refused => None,
            Value::List(_) | Value::Map(_) => {
                self.wrong_kind(at, "a single value", help);
                None
            }
        }
    }

    /// A single value, read by `read`.
    pub fn value<T>(
        &mut self,
        at: &At<'_>,
        help: &str,
        read: impl FnOnce(&str) -> Result<T, ValueFault>,
    ) -> Option<T> {
        let word = self.word(at, help)?;
        read(word)
            .map_err(|ValueFault { message, help }| self.error(&at.place(), message, help))
            .ok()
    }

    pub fn duration(&mut self, at: &At<'_>) -> Option<Duration> {
        self.value(at, "write a duration such as `10m`", scalars::duration)
    }

    /// A duration that is not zero.
    pub fn some_time(&mut self, at: &At<'_>) -> Option<Duration> {
        let duration = self.duration(at)?;
        if duration.is_zero() {
            self.error(&at.place(), "this lasts no time at all", "write at least `1s`");
            return None;
        }
        Some(duration)
    }

    pub fn yes_or_no(&mut self, at: &At<'_>) -> Option<bool> {
        self.value(at, "write true or false", scalars::yes_or_no)
    }

    /// One of a few words.
    pub fn one_of<T: Copy>(&mut self, at: &At<'_>, words: &[(&str, T)]) -> Option<T> {
        let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let word = self.word(at, &format!("write {}", either(&names)))?;
        let found = words.iter().find(|(name, _)| *name == word).map(|(_, value)| *value);
        if found.is_none() {
            let help = match nearest(word, names.iter().copied()) {
                Some(near) => format!("did you mean `{near}`? It is {}", either(&names)),
                None => format!("write {}", either(&names)),
            };
            self.error(&at.place(), format!("`{}` is not known here", brief(word)), help);
        }
        found
    }

    fn wrong_kind(&mut self, at: &At<'_>, wanted: &str, help: &str) {
        let message = format!("{wanted} is wanted here, not {}", at.node.kind());
        self.error(&at.place(), message, help);
    }
}

fn items<'n>(at: &At<'n>, nodes: &'n [Node]) -> Vec<At<'n>> {
    let item = |(index, node): (usize, &'n Node)| At {
        node,
        path: format!("{}[{index}]", at.path),
        key: node.span.clone(),
    };
    nodes.iter().enumerate().map(item).collect()
}

/// Bytes at which lines begin, by the line breaks YAML knows.
fn line_starts(text: &str) -> Vec<usize> {
    let bytes = text.as_bytes();
    let ends = (0..bytes.len()).filter(|at| match bytes[*at] {
        b'\n' => true,
        b'\r' => bytes.get(at + 1) != Some(&b'\n'),
        _ => false,
    });
    std::iter::once(0).chain(ends.map(|at| at + 1)).collect()
}

/// `a`, `b` or `c`
pub(crate) fn either(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [one] => format!("`{one}`"),
        [first @ .., last] => {
            let first: Vec<String> = first.iter().map(|word| format!("`{word}`")).collect();
            format!("{} or `{last}`", first.join(", "))
        }
    }
}

fn listed(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    quoted.join(", ")
}

/// The name most like `word`, if one is like it.
pub(crate) fn nearest<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Nobody misspells longer words than these, and the distance costs their product.
    const LONGEST: usize = 64;
    if word.is_empty() || word.chars().count() > LONGEST {
        return None;
    }
    let lower = word.to_lowercase();
    let near = names.filter(|name| name.chars().count() <= LONGEST).map(|name| {
        let limit = (name.chars().count().min(lower.chars().count()) / 3).max(1);
        (distance(&lower, &name.to_lowercase()), limit, name)
    });
    near.filter(|(distance, limit, _)| distance <= limit)
        .min_by_key(|(distance, _, _)| *distance)
        .map(|(_, _, name)| name)
}

/// How many letters differ: left out, put in, changed, or two neighbours swapped.
fn distance(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let mut before: Vec<usize> = vec![];
    let mut last: Vec<usize> = (0..=other.len()).collect();
    for i in 1..=one.len() {
        let mut row = vec![i; other.len() + 1];
        for j in 1..=other.len() {
            let changed = usize::from(one[i - 1] != other[j - 1]);
            row[j] = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + changed);
            let swapped =
                i > 1 && j > 1 && one[i - 1] == other[j - 2] && one[i - 2] == other[j - 1];
            if swapped {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_word_finds_its_neighbour() {
        let known = ["tier", "mac", "boot_within", "min_on", "min_off", "host1", "host3"];
        for (word, near) in [
            ("teir", Some("tier")),
            ("Mac", Some("mac")),
            ("boot_withn", Some("boot_within")),
            ("boot-within", Some("boot_within")),
            ("hots3", Some("host3")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known.into_iter()), near, "{word}");
        }
    }

    #[test]
    fn lines_and_columns_count_characters_from_one() {
        let reader = Reader::new("a.yaml", "\u{feff}ä: b\r\n  cö: d\n");
        assert_eq!(reader.mark, 3);
        let at = reader.text().find('d').unwrap();
        assert_eq!(reader.line_and_column(at), (2, 7));
    }
}
