//! A small YAML file as a tree that remembers on which line everything stands.
//!
//! Every fault of `spot.yaml` is told at once and with its line, so the text is read here as plain
//! scalars, lists and mappings; what they mean is decided by whoever walks the tree. Anchors,
//! aliases, tags and keys that stand twice are refused: they make such a file say something else
//! than it shows.
//!
//! **Does not know:** any key.

use saphyr_parser::{Event, Parser};

/// `spot.yaml` nests four deep.
const DEEPEST: usize = 16;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub line: usize,
    pub value: Value,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Also an empty value, which is an empty text.
    Scalar(String),
    List(Vec<Node>),
    /// In the order of the file.
    Map(Vec<(String, Node)>),
}

/// A fault and its line.
pub type Fault = (usize, String);

/// The one document of `text`; an empty one is an empty mapping.
pub fn read(text: &str) -> Result<Node, Fault> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut events = Vec::new();
    let mut documents = 0;
    for event in Parser::new_from_str(text) {
        let (event, span) = event
            .map_err(|why| (why.marker().line(), format!("this is no YAML: {}", why.info())))?;
        if matches!(event, Event::DocumentStart(_)) {
            documents += 1;
        }
        if documents > 1 {
            return Err((
                span.start.line(),
                "one file holds one document; remove this `---`".into(),
            ));
        }
        events.push((event, span.start.line()));
    }
    let skipped = |(event, _): &(Event<'_>, usize)| {
        !matches!(
            event,
            Event::Nothing
                | Event::StreamStart
                | Event::StreamEnd
                | Event::DocumentStart(_)
                | Event::DocumentEnd
        )
    };
    let mut rest = events.into_iter().filter(skipped);
    match rest.next() {
        Some(first) => node(first, &mut rest, 0),
        None => Ok(Node { line: 1, value: Value::Map(Vec::new()) }),
    }
}

fn node<'a>(
    (event, line): (Event<'a>, usize),
    rest: &mut impl Iterator<Item = (Event<'a>, usize)>,
    depth: usize,
) -> Result<Node, Fault> {
    if depth > DEEPEST {
        return Err((line, "nested too deeply".into()));
    }
    let plain = |anchor: usize, tagged: bool| {
        if anchor > 0 || tagged {
            return Err((
                line,
                "anchors (`&`) and tags (`!`) are not used here; write it out".into(),
            ));
        }
        Ok(())
    };
    let ended = || (line, "the file ends inside this".to_owned());
    let value = match event {
        Event::Scalar(text, _, anchor, tag) => {
            plain(anchor, tag.is_some())?;
            Value::Scalar(text.into_owned())
        }
        Event::SequenceStart(anchor, tag) => {
            plain(anchor, tag.is_some())?;
            let mut items = Vec::new();
            loop {
                match rest.next().ok_or_else(ended)? {
                    (Event::SequenceEnd, _) => break Value::List(items),
                    item => items.push(node(item, rest, depth + 1)?),
                }
            }
        }
        Event::MappingStart(anchor, tag) => {
            plain(anchor, tag.is_some())?;
            let mut entries: Vec<(String, Node)> = Vec::new();
            loop {
                let (key, key_line) = match rest.next().ok_or_else(ended)? {
                    (Event::MappingEnd, _) => break,
                    (Event::Scalar(key, _, 0, None), line) => (key.into_owned(), line),
                    (_, line) => return Err((line, "a key must be a plain word".into())),
                };
                if entries.iter().any(|(other, _)| *other == key) {
                    return Err((key_line, format!("`{key}` stands twice")));
                }
                let value = rest.next().ok_or_else(ended)?;
                let value = node(value, rest, depth + 1)?;
                // A key's line says more than that of a value on the next line.
                entries.push((key, Node { line: key_line, value: value.value }));
            }
            Value::Map(entries)
        }
        Event::Alias(_) => {
            return Err((line, "aliases (`*`) are not used here; write it out".into()));
        }
        Event::Nothing
        | Event::StreamStart
        | Event::StreamEnd
        | Event::DocumentStart(_)
        | Event::DocumentEnd
        | Event::SequenceEnd
        | Event::MappingEnd => return Err((line, "this is no YAML".into())),
    };
    Ok(Node { line, value })
}

/// The word of `known` that `given` was probably meant to be.
pub fn meant<'a>(given: &str, known: &[&'a str]) -> Option<&'a str> {
    let nearest = known.iter().min_by_key(|word| distance(given, word))?;
    (distance(given, nearest) <= 2.min(given.len().saturating_sub(1))).then_some(*nearest)
}

/// Letters to add, drop or change.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let changed = corner + usize::from(x != *y);
            corner = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(corner + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_of_the_keys() {
        let tree = read("\n# a note\na: 1\nb:\n  - x\n  -  { c: y }\n").unwrap();
        let Value::Map(entries) = tree.value else { panic!("a mapping") };
        assert_eq!(entries[0].1, Node { line: 3, value: Value::Scalar("1".into()) });
        assert_eq!(entries[1].1.line, 4);
        let Value::List(items) = &entries[1].1.value else { panic!("a list") };
        assert_eq!((items[0].line, items[1].line), (5, 6));
    }

    #[test]
    fn what_hides_its_meaning_is_refused_with_its_line() {
        for (text, line, why) in [
            ("a: 1\na: 2\n", 2, "`a` stands twice"),
            ("a: &x 1\n", 1, "anchors"),
            ("a: 1\nb: !!str 1\n", 2, "tags"),
            ("a: 1\n---\nb: 2\n", 2, "one document"),
            ("a: [1\n", 2, "no YAML"),
            ("[a]: 1\n", 1, "plain word"),
        ] {
            let (at, said) = read(text).unwrap_err();
            assert!(said.contains(why) && at == line, "{text:?}: {at}: {said}");
        }
        assert!(read(&"[".repeat(5000)).is_err());
        assert_eq!(read("").unwrap().value, Value::Map(vec![]));
    }

    #[test]
    fn a_slip_of_the_pen_is_understood() {
        assert_eq!(meant("pinz", &["pins", "url", "node"]), Some("pins"));
        assert_eq!(meant("hosst", &["hosts", "here"]), Some("hosts"));
        assert_eq!(meant("colour", &["hosts", "here"]), None);
        assert_eq!(meant("x", &["ca"]), None);
    }
}
