//! Faults as people read them: the place, the line, carets under the offending text, the remedy.
//!
//! **Does not know:** what is wrong; only how to show it.

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use super::text::{Fault, PolicyFile, Severity};

/// A longer line is not drawn: it is not read by people, and would be copied for each of its
/// faults.
const LONGEST_LINE: usize = 4_096;

/// All faults, drawn as the Rust compiler draws its own, with a count at the end. Empty without
/// faults.
pub fn render(faults: &[Fault], files: &[PolicyFile]) -> String {
    draw(faults, files, &Renderer::plain())
}

/// The same in colour, for a terminal.
pub fn render_coloured(faults: &[Fault], files: &[PolicyFile]) -> String {
    draw(faults, files, &Renderer::styled())
}

fn draw(faults: &[Fault], files: &[PolicyFile], renderer: &Renderer) -> String {
    let mut text = String::new();
    for fault in faults {
        let file = files.iter().find(|file| file.name == fault.file);
        text += &renderer.render(&[group(&tamed(fault), file)]);
        text += "\n\n";
    }
    if !faults.is_empty() {
        text += &count(faults);
        text.push('\n');
    }
    text
}

/// Without what would draw on the reader's terminal: a name of a file or of a host may hold
/// anything. (The renderer itself lets C1 controls through.)
fn tame(text: &str) -> String {
    let tame = |c: char| if c.is_control() && c != '\t' { char::REPLACEMENT_CHARACTER } else { c };
    text.chars().map(tame).collect()
}

fn tamed(fault: &Fault) -> Fault {
    Fault {
        file: tame(&fault.file),
        path: tame(&fault.path),
        message: tame(&fault.message),
        help: tame(&fault.help),
        ..fault.clone()
    }
}

fn group<'a>(fault: &'a Fault, file: Option<&'a PolicyFile>) -> Group<'a> {
    let level = match fault.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let group = level.primary_title(fault.message.as_str());
    let group = match file.and_then(|file| line_of(fault, &file.text)) {
        Some((line, span)) => {
            let [before, at, after] =
                [&line[..span.start], &line[span.clone()], &line[span.end..]].map(tame);
            let span = before.len()..before.len() + at.len();
            let line = before + &at + &after;
            // Only the line is shown, so that a long file costs nothing.
            let label = (!fault.path.is_empty()).then_some(fault.path.as_str());
            let carets = AnnotationKind::Primary.span(span).label(label);
            let snippet = Snippet::source(line)
                .line_start(fault.line)
                .path(fault.file.as_str())
                .annotation(carets);
            group.element(snippet)
        }
        None => {
            let origin = Origin::path(fault.file.as_str());
            group.element(origin.line(fault.line).char_column(fault.column))
        }
    };
    group.element(Level::HELP.message(fault.help.as_str()))
}

/// The fault's first line, and the part of it that is at fault.
fn line_of<'t>(fault: &Fault, text: &'t str) -> Option<(&'t str, std::ops::Range<usize>)> {
    let before = text.get(..fault.span.start)?;
    let start = before.rfind(['\n', '\r']).map_or(0, |end| end + 1);
    let rest = &text[start..];
    let line = &rest[..rest.find(['\n', '\r']).unwrap_or(rest.len())];
    // A byte order mark is no text.
    let mark = if line.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
    let (line, start) = (&line[mark..], start + mark);
    if line.is_empty() || line.len() > LONGEST_LINE {
        return None;
    }
    let from = fault.span.start.saturating_sub(start).min(line.len());
    let to = fault.span.end.saturating_sub(start).clamp(from, line.len());
    Some((line, from..to))
}

/// `2 errors and 1 warning`
fn count(faults: &[Fault]) -> String {
    let of = |severity| faults.iter().filter(|fault| fault.severity == severity).count();
    let some = |count: usize, word: &str| match count {
        0 => None,
        1 => Some(format!("1 {word}")),
        _ => Some(format!("{count} {word}s")),
    };
    let parts = [some(of(Severity::Error), "error"), some(of(Severity::Warning), "warning")];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" and ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::text::read;

    #[test]
    fn nothing_in_a_file_or_its_name_draws_on_the_terminal() {
        let text = "hosts:\n  host1: { tier: low, \u{9b}31m: 1 } # \u{9b}2J\n";
        let file = PolicyFile { name: "m\u{1b}[31mX\n.yaml".into(), text: text.into() };
        let faults = read(std::slice::from_ref(&file)).faults;
        assert!(!faults.is_empty());
        let drawn = render(&faults, &[file]);
        let wild = drawn.chars().find(|c| c.is_control() && *c != '\n');
        assert_eq!(wild, None, "{drawn:?}");
        assert!(drawn.contains("m\u{fffd}[31mX\u{fffd}.yaml"), "{drawn}");
    }
}
