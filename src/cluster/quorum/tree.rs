//! A small YAML (or JSON) text as a tree in which every value knows its line.
//!
//! The languages of this folder are small and their faults must name a line, which a deserialiser
//! does not do. JSON is read as the YAML it is; blanks instead of tabs, which YAML forbids.
//!
//! **Does not know:** which keys there are.

use saphyr_parser::{Event, Parser, ScalarStyle};

/// Far more than any file nests.
const DEEPEST: usize = 16;
/// Larger files are refused unread.
const MOST_BYTES: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct Node {
    pub line: usize,
    pub value: Value,
}

#[derive(Debug)]
pub(super) enum Value {
    Scalar { text: String, plain: bool },
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

impl Node {
    /// What a person would call it.
    pub fn kind(&self) -> &'static str {
        match &self.value {
            Value::Scalar { text, plain: true } if text.is_empty() => "nothing",
            Value::Scalar { .. } => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }
}

enum Open {
    List(usize, Vec<Node>),
    Map(usize, Vec<(String, Node)>, Option<String>),
}

/// The tree, or one sentence that begins with the line.
pub(super) fn tree(text: &str) -> Result<Node, String> {
    if text.len() > MOST_BYTES {
        return Err("it is larger than 1 MiB; cut the history into several files".into());
    }
    let untabbed;
    let text = match text.trim_start().starts_with(['{', '[']) {
        true => {
            untabbed = text.replace('\t', " ");
            &untabbed
        }
        false => text,
    };
    let mut open: Vec<Open> = Vec::new();
    let mut root = None;
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|error| {
            format!(
                "line {}: this is neither YAML nor JSON: {}",
                error.marker().line(),
                error.info()
            )
        })?;
        let line = span.start.line();
        let done = match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => None,
            Event::DocumentStart(_) => {
                if root.is_some() {
                    return Err(format!(
                        "line {line}: a second document begins here; keep one a file"
                    ));
                }
                None
            }
            Event::Alias(_) => {
                return Err(format!("line {line}: an alias stands here; write the value out"));
            }
            Event::Scalar(text, style, ..) => {
                let plain = style == ScalarStyle::Plain;
                Some(Node { line, value: Value::Scalar { text: text.into_owned(), plain } })
            }
            Event::SequenceStart(..) => {
                open.push(Open::List(line, Vec::new()));
                None
            }
            Event::MappingStart(..) => {
                open.push(Open::Map(line, Vec::new(), None));
                None
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(Open::List(line, nodes)) => Some(Node { line, value: Value::List(nodes) }),
                Some(Open::Map(line, pairs, _)) => Some(Node { line, value: Value::Map(pairs) }),
                None => None,
            },
        };
        if open.len() > DEEPEST {
            return Err(format!("line {line}: this is nested too deeply; nothing here needs it"));
        }
        let Some(node) = done else { continue };
        match open.last_mut() {
            None => root = Some(node),
            Some(Open::List(_, nodes)) => nodes.push(node),
            Some(Open::Map(_, pairs, key)) => match key.take() {
                Some(key) => pairs.push((key, node)),
                None => *key = Some(new_key(pairs, node)?),
            },
        }
    }
    root.ok_or_else(|| "it is empty; it needs `nodes` and `history`".into())
}

fn new_key(pairs: &[(String, Node)], node: Node) -> Result<String, String> {
    let Value::Scalar { text, .. } = node.value else {
        return Err(format!("line {}: a key must be a single word", node.line));
    };
    if pairs.iter().any(|(key, _)| *key == text) {
        return Err(format!(
            "line {}: `{text}` stands here a second time; keep one of the two",
            node.line
        ));
    }
    Ok(text)
}
