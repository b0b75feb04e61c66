//! A YAML text as a tree in which every key and value knows its place.
//!
//! Built from the parser's events and not through `serde`, because a policy's faults are reported
//! all at once and each under its own text: a deserialiser stops at the first, and points at the
//! parent. Only the plain part of YAML is taken (one document; mappings, lists, scalars); anchors,
//! aliases, tags and merge keys are refused, since a policy is read by people, and each of them
//! makes a text mean what it does not say. Scalars stay text: what a word means is decided by the
//! key it stands at, so no country becomes `false`.
//!
//! **Does not know:** which keys there are.

use std::collections::BTreeMap;
use std::ops::Range;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

/// Far more than any policy nests.
const DEEPEST: usize = 24;
/// Far more than any policy holds, and few enough to stay within 64 MiB.
const MOST_NODES: usize = 100_000;
/// Structural faults reported of one file.
const MOST_BROKEN: usize = 50;
/// What divides values in a flow collection. The parser holds every piece of an outermost `[…]` or
/// `{…}` until it ends, for it might be a key: a million pieces of one byte would be 160 MB.
const MARKS: &[char] = &[',', ':', '[', ']', '{', '}', '?'];
const MOST_MARKS: usize = 100_000;

#[derive(Debug)]
pub(crate) struct Node {
    /// Bytes of the value's text, without a byte order mark.
    pub span: Range<usize>,
    pub value: Value,
}

#[derive(Debug)]
pub(crate) enum Value {
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<Entry>),
    /// Something refused and already reported.
    Refused,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub key: String,
    pub key_span: Range<usize>,
    pub node: Node,
}

impl Node {
    /// Nothing was written: an empty value, `~` or `null`.
    pub fn is_nothing(&self) -> bool {
        match &self.value {
            Value::Scalar { text, plain } => *plain && matches!(text.as_str(), "" | "~" | "null"),
            Value::List(_) | Value::Map(_) | Value::Refused => false,
        }
    }

    /// What a person would call it.
    pub fn kind(&self) -> &'static str {
        match &self.value {
            Value::Scalar { .. } => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
            Value::Refused => "something refused",
        }
    }
}

/// Something wrong with the text as YAML.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Broken {
    pub span: Range<usize>,
    pub message: String,
    pub help: String,
}

/// The tree of `text`, if there is one, and everything broken in it. An empty text has no tree.
pub(crate) fn tree(text: &str) -> (Option<Node>, Vec<Broken>) {
    let mut builder = Builder::of(text);
    if let Some((at, _)) = text.char_indices().filter(|(_, c)| MARKS.contains(c)).nth(MOST_MARKS) {
        let message = format!("more than {MOST_MARKS} commas, colons and brackets in one file");
        builder.refuse(at..at + 1, message, "split the file");
        return (None, builder.broken);
    }
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        match event {
            Ok((event, span)) => {
                if !builder.take(event, span) {
                    break;
                }
            }
            Err(error) => {
                let at = builder.bytes.at(error.marker().index());
                builder.broken.push(explain(text, at, error.info()));
                return (None, builder.broken);
            }
        }
    }
    (builder.root, builder.broken)
}

/// Turns the parser's character positions into bytes.
struct Bytes {
    /// Empty for plain ASCII, where both are the same.
    of_char: Vec<u32>,
    length: usize,
}

impl Bytes {
    fn of(text: &str) -> Bytes {
        let of_char = if text.is_ascii() {
            Vec::new()
        } else {
            text.char_indices()
                .map(|(at, _)| u32::try_from(at).expect("at most 1 MiB is read"))
                .collect()
        };
        Bytes { of_char, length: text.len() }
    }

    fn at(&self, index: usize) -> usize {
        if self.of_char.is_empty() {
            index.min(self.length)
        } else {
            self.of_char.get(index).map_or(self.length, |at| *at as usize)
        }
    }

    fn range(&self, span: Span) -> Range<usize> {
        self.at(span.start.index())..self.at(span.end.index())
    }
}

/// A list or mapping whose end has not come.
struct Open {
    start: usize,
    flow: bool,
    filled: Filled,
}

enum Filled {
    List(Vec<Node>),
    Map { entries: Vec<Entry>, seen: BTreeMap<String, usize>, key: Option<(String, Range<usize>)> },
}

struct Builder<'t> {
    text: &'t str,
    bytes: Bytes,
    open: Vec<Open>,
    root: Option<Node>,
    documents: usize,
    nodes: usize,
    broken: Vec<Broken>,
}

impl<'t> Builder<'t> {
    fn of(text: &'t str) -> Builder<'t> {
        Builder {
            text,
            bytes: Bytes::of(text),
            open: Vec::new(),
            root: None,
            documents: 0,
            nodes: 0,
            broken: Vec::new(),
        }
    }

    fn refuse(&mut self, span: Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        if self.broken.len() < MOST_BROKEN {
            self.broken.push(Broken { span, message: message.into(), help: help.into() });
        }
    }

    /// Takes one event; false when reading on makes no sense.
    fn take(&mut self, event: Event<'_>, span: Span) -> bool {
        let range = self.bytes.range(span);
        // The parser counts blanks behind a quoted value as its own.
        let range = range.start..range.start + self.text[range].trim_end().len();
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => true,
            Event::DocumentStart(_) => self.document(range),
            Event::Alias(_) => {
                self.refuse(
                    range.clone(),
                    "aliases are not accepted in a policy",
                    "write the value out where it is wanted, or put it in quotes if `*` was meant",
                );
                self.place(Node { span: range, value: Value::Refused })
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.plain_only(&range, anchor, tag.is_some());
                let plain = style == ScalarStyle::Plain;
                let value = Value::Scalar { text: text.into_owned(), plain };
                self.place(Node { span: range, value })
            }
            Event::SequenceStart(anchor, tag) => {
                self.plain_only(&range, anchor, tag.is_some());
                self.begin(range, Filled::List(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                self.plain_only(&range, anchor, tag.is_some());
                let (entries, seen) = (Vec::new(), BTreeMap::new());
                self.begin(range, Filled::Map { entries, seen, key: None })
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(range),
        }
    }

    fn document(&mut self, range: Range<usize>) -> bool {
        self.documents += 1;
        if self.documents > 1 {
            self.refuse(
                range,
                "a second document begins here",
                "keep one document a file: remove `---`, or put the rest into a file of its own",
            );
        }
        self.documents == 1
    }

    fn plain_only(&mut self, range: &Range<usize>, anchor: usize, tag: bool) {
        if anchor > 0 {
            self.refuse(
                range.clone(),
                "anchors are not accepted in a policy",
                "remove the `&name` before it",
            );
        }
        if tag {
            self.refuse(
                range.clone(),
                "tags are not accepted in a policy",
                "remove the `!tag` before it",
            );
        }
    }

    fn begin(&mut self, range: Range<usize>, filled: Filled) -> bool {
        if self.open.len() >= DEEPEST {
            self.refuse(
                range,
                format!("nested more than {DEEPEST} levels deep"),
                "a policy needs about six",
            );
            return false;
        }
        let flow = !range.is_empty();
        self.open.push(Open { start: range.start, flow, filled });
        true
    }

    fn end(&mut self, range: Range<usize>) -> bool {
        let open = self.open.pop().expect("the parser ends only what it began");
        // A block ends where the next thing begins; its own text ends before the blanks.
        let stop = if open.flow { range.end } else { range.start };
        let inside = &self.text[open.start..stop.max(open.start)];
        let span = open.start..open.start + inside.trim_end().len();
        let value = match open.filled {
            Filled::List(nodes) => Value::List(nodes),
            Filled::Map { entries, .. } => Value::Map(entries),
        };
        self.place(Node { span, value })
    }

    /// Puts a finished node where it belongs: a key, a value, an item, the root.
    fn place(&mut self, node: Node) -> bool {
        self.nodes += 1;
        if self.nodes > MOST_NODES {
            self.refuse(
                node.span,
                format!("more than {MOST_NODES} values in one file"),
                "split it, if it is a policy at all",
            );
            return false;
        }
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open { filled: Filled::List(nodes), .. }) => nodes.push(node),
            Some(Open { filled: Filled::Map { entries, seen, key }, .. }) => match key.take() {
                None => match node.value {
                    Value::Scalar { text, .. } => *key = Some((text, node.span)),
                    Value::List(_) | Value::Map(_) | Value::Refused => {
                        // Already reported if refused; a value still has to follow.
                        let reported = matches!(node.value, Value::Refused);
                        *key = Some((String::new(), node.span.clone()));
                        if !reported {
                            self.refuse(
                                node.span,
                                "a list or mapping stands where a key belongs",
                                "write a plain word before the colon",
                            );
                        }
                    }
                },
                Some((key, key_span)) => {
                    if key == "<<" {
                        self.refuse(
                            key_span,
                            "merge keys are not accepted in a policy",
                            "write the keys out where they are wanted",
                        );
                    } else if let Some(first) = seen.get(&key) {
                        let line = self.text[..*first].matches('\n').count() + 1;
                        let message = format!("the key `{}` stands here twice", brief(&key));
                        let help = format!("keep one of them; the first is in line {line}");
                        self.refuse(key_span, message, help);
                    } else {
                        seen.insert(key.clone(), key_span.start);
                        entries.push(Entry { key, key_span, node });
                    }
                }
            },
        }
        true
    }
}

/// A word short enough to stand in a sentence.
pub(crate) fn brief(word: &str) -> String {
    const LONGEST: usize = 60;
    if word.chars().count() <= LONGEST {
        word.to_owned()
    } else {
        word.chars().take(LONGEST).chain(['…']).collect()
    }
}

/// What the parser stumbled over, in words of the owner's.
fn explain(text: &str, at: usize, info: &str) -> Broken {
    let line_start = text[..at].rfind(['\n', '\r']).map_or(0, |before| before + 1);
    let line_end = text[at..].find(['\n', '\r']).map_or(text.len(), |after| at + after);
    let line = &text[line_start..line_end];
    // The parser often notices a line late; a value that begins with a sign is in the line of `at`.
    let value = value_in(line);
    let span = |value: &str| {
        let start = line_start + (value.as_ptr() as usize - line.as_ptr() as usize);
        start..start + value.len()
    };
    if let Some(value) = value.filter(|value| value.starts_with('*')) {
        return Broken {
            span: span(value),
            message: "an unquoted `*` begins an alias in YAML".into(),
            help: format!("put it in quotes: \"{}\"", brief(value)),
        };
    }
    if let Some(value) = value.filter(|value| value.starts_with(['@', '`', '%'])) {
        return Broken {
            span: span(value),
            message: "a value may not begin with this sign in YAML".into(),
            help: format!("put it in quotes: \"{}\"", brief(value)),
        };
    }
    if let Some(tab) = line.find('\t').filter(|tab| line[..*tab].trim().is_empty()) {
        return Broken {
            span: line_start + tab..line_start + tab + 1,
            message: "a tab indents this line, which YAML does not allow".into(),
            help: "indent by spaces".into(),
        };
    }
    let end =
        text[at..].chars().next().filter(|c| !c.is_control()).map_or(at, |c| at + c.len_utf8());
    Broken {
        span: at..end,
        message: format!("this is not YAML: {info}"),
        help: "look for a missing quote, bracket or colon, or a wrong indent, here or in the line before"
            .into(),
    }
}

/// What stands behind the first `: ` or `- ` of a line.
fn value_in(line: &str) -> Option<&str> {
    let mut rest = line.trim_start();
    while let Some(item) = rest.strip_prefix("- ") {
        rest = item.trim_start();
    }
    if !rest.starts_with('*') {
        // In `{ from: *, … }` the sign may stand behind a later key.
        let after = rest.match_indices(": ").map(|(at, _)| rest[at + 2..].trim_start());
        let signed = after.clone().find(|value| value.starts_with(['*', '@', '`', '%']));
        rest = signed.or_else(|| after.clone().next())?;
    }
    let end = rest.find([',', '}', ']', '#']).filter(|_| !line.trim_start().starts_with('*'));
    Some(rest[..end.unwrap_or(rest.len())].trim_end()).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(text: &str) -> Vec<(String, String)> {
        let told =
            |broken: Broken| (text[broken.span].to_owned(), broken.message + "; " + &broken.help);
        tree(text).1.into_iter().map(told).collect()
    }

    #[test]
    fn every_value_knows_its_place() {
        let text = "ä: {b: \"ö\", c: [x, 'y z']}\n";
        let (Some(Node { value: Value::Map(top), span }), broken) = tree(text) else {
            panic!("a mapping")
        };
        assert_eq!(broken, []);
        assert_eq!((&text[span], &text[top[0].key_span.clone()]), (text.trim_end(), "ä"));
        assert_eq!(&text[top[0].node.span.clone()], "{b: \"ö\", c: [x, 'y z']}");
        let Value::Map(inner) = &top[0].node.value else { panic!("a mapping") };
        assert_eq!(&text[inner[0].node.span.clone()], "\"ö\"");
        let Value::List(list) = &inner[1].node.value else { panic!("a list") };
        assert_eq!(&text[list[1].span.clone()], "'y z'");
    }

    #[test]
    fn what_hides_meaning_is_refused_where_it_stands() {
        for (text, place, says) in [
            ("a: &x 1\nb: *x\n", "&x 1", "anchors"),
            ("a: !!str 1\n", "!!str 1", "tags"),
            ("a: {<<: {b: 1}}\n", "<<", "merge keys"),
            ("a: 1\n---\nb: 2\n", "---", "second document"),
            ("a: 1\nb: 2\na: 3\n", "a", "the first is in line 1"),
            ("[a]: 1\n", "[a]", "where a key belongs"),
            ("from: * * * * *\n", "* * * * *", "in quotes"),
            ("run: [{ from: */5 * * * *, for: 1m }]\n", "*/5 * * * *", "in quotes"),
            ("a:\n\t- b\n", "\t", "indent by spaces"),
            ("a: @daily\n", "@daily", "in quotes"),
        ] {
            let found = broken(text);
            assert!(
                found.iter().any(|(at, said)| at == place && said.contains(says)),
                "{text:?}: {found:?}"
            );
        }
    }

    #[test]
    fn hostile_texts_end_soon() {
        for text in [
            "[".repeat(100_000),
            "- ".repeat(100_000),
            "{a: ".repeat(50_000),
            "[],".repeat(200_000),
        ] {
            assert!(!tree(&text).1.is_empty());
        }
        assert!(!tree(&format!("[{}]", "1,".repeat(200_000))).1.is_empty());
        assert!(tree("").0.is_none());
    }
}
