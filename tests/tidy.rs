//! Keeps the house tidy: the floors stay apart, every file says what it is for, and nothing is left
//! lying about. A rule that nobody checks is a wish; here each one is a test that names the place.
//!
//! It reads the sources as text, with a small scanner that tells code from comments and strings. The
//! compiler could say more, but not whether the gate knows of a policy.
//!
//! **Does not know:** whether the code is right.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Which modules each module may name in its code (its own tests may name more: they build worlds).
/// A file's module is the first part of its path below `src`.
const FLOORS: &[(&str, &[&str])] = &[
    ("cluster", &[]),
    ("request", &["cluster"]),
    ("policy", &["cluster"]),
    ("undertaking", &["cluster", "request"]),
    ("ledger", &["cluster", "request", "undertaking"]),
    ("plan", &["cluster", "request", "policy", "ledger", "undertaking"]),
    ("gate", &["cluster", "request", "undertaking"]),
    ("site", &["cluster", "request"]),
    ("pve", &["cluster", "request", "site"]),
    ("wake", &["cluster", "request", "site"]),
    ("checks", &["cluster", "request", "site"]),
    ("pretend", &["cluster", "request", "site"]),
    ("journal", &["cluster", "undertaking", "ledger"]),
    ("sources", &["policy"]),
    ("execute", &["cluster", "request", "undertaking", "ledger", "gate", "journal", "site"]),
    ("status", &["cluster", "request", "policy", "undertaking", "ledger", "plan", "gate"]),
    (
        "service",
        &[
            "cluster",
            "request",
            "policy",
            "undertaking",
            "ledger",
            "plan",
            "gate",
            "journal",
            "execute",
            "status",
            "site",
            "sources",
        ],
    ),
    ("control", &["cluster", "status", "ledger", "service"]),
    ("web", &["status", "ledger", "service"]),
    ("notify", &["status", "ledger", "service"]),
];

/// These may use everything, but not reach into the rooms behind `pve` and `pretend`.
const FACES: &[&str] = &["cli", "config", "main", "lib"];
const CLOSED_TO_FACES: &[&str] = &["pve", "pretend"];

/// Here a new variant must force a decision, so no arm may catch what nobody thought of.
const JUDGEMENT: &[&str] = &["plan", "gate", "ledger", "undertaking"];

const LINE_WIDTH: usize = 100;

const TOP_LEVEL: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "README.md",
    "CHANGELOG.md",
    "LICENSE-MIT",
    "LICENSE-APACHE",
    "src",
    "tests",
    "deploy",
    "policies",
    "target",
];

/// One source file, with its code alone: comments and the insides of strings blanked, line by line.
struct Source {
    path: PathBuf,
    text: String,
    code: String,
}

impl Source {
    fn read(path: &Path) -> Source {
        let text = fs::read_to_string(path).expect("a source file can be read");
        let code = code_of(&text);
        let path = path.strip_prefix(root()).expect("below the root").to_owned();
        Source { path, text, code }
    }

    /// The first part of its path below `src`, without `.rs`.
    fn module(&self) -> String {
        let below = self.path.strip_prefix("src").expect("below src");
        let first = below.components().next().expect("it has a name").as_os_str();
        first.to_string_lossy().trim_end_matches(".rs").to_owned()
    }

    /// How many `super` lead from the file's own items to the root of the library.
    fn depth(&self) -> usize {
        self.path.components().count() - 1
    }

    /// Whether it is all tests, split off from the file it tests.
    fn is_tests(&self) -> bool {
        self.path.ends_with("tests.rs")
    }

    /// Its code without its tests, which stand at its end.
    fn own_code(&self) -> &str {
        if self.is_tests() {
            return "";
        }
        let end = self.code.find("#[cfg(test)]").unwrap_or(self.code.len());
        &self.code[..end]
    }

    fn places<'a>(&'a self, code: &'a str, needle: &'a str) -> impl Iterator<Item = String> + 'a {
        code.lines()
            .enumerate()
            .filter(move |(_, line)| line.contains(needle))
            .map(move |(number, _)| format!("{}:{}", self.path.display(), number + 1))
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files_below(folder: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder can be listed") {
            let path = entry.expect("an entry can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn sources(folder: &str) -> Vec<Source> {
    files_below(folder, ".rs").iter().map(|path| Source::read(path)).collect()
}

/// What the scanner is inside of.
enum Inside {
    Code,
    LineComment,
    /// How deep: block comments nest.
    BlockComment(usize),
    Text,
    /// How many `#` end it.
    RawText(usize),
}

/// `text` with comments and the insides of strings and characters replaced by spaces.
fn code_of(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut inside = Inside::Code;
    let mut at = 0;
    let blank = |c: char| if c == '\n' { '\n' } else { ' ' };
    while at < chars.len() {
        let c = chars[at];
        let next = chars.get(at + 1).copied().unwrap_or('\0');
        let mut taken = 1;
        match inside {
            Inside::Code => match (c, next) {
                ('/', '/') => inside = Inside::LineComment,
                ('/', '*') => inside = Inside::BlockComment(1),
                ('"', _) => inside = Inside::Text,
                ('r', '"' | '#') if !chars[..at].last().is_some_and(|c| c.is_alphanumeric()) => {
                    let hashes = chars[at + 1..].iter().take_while(|c| **c == '#').count();
                    if chars.get(at + 1 + hashes) == Some(&'"') {
                        inside = Inside::RawText(hashes);
                        taken = 2 + hashes;
                    }
                }
                // A character, not a lifetime: 'x' or '\…'.
                ('\'', '\\') => {
                    let end = chars[at + 3..].iter().position(|c| *c == '\'');
                    taken = end.map_or(1, |end| end + 4);
                }
                ('\'', _) if chars.get(at + 2) == Some(&'\'') => taken = 3,
                (_, _) => {}
            },
            Inside::LineComment if c == '\n' => inside = Inside::Code,
            Inside::LineComment => {}
            Inside::BlockComment(depth) => match (c, next) {
                ('*', '/') => {
                    taken = 2;
                    inside =
                        if depth == 1 { Inside::Code } else { Inside::BlockComment(depth - 1) };
                }
                ('/', '*') => {
                    taken = 2;
                    inside = Inside::BlockComment(depth + 1);
                }
                (_, _) => {}
            },
            Inside::Text => match c {
                '\\' => taken = 2,
                '"' => inside = Inside::Code,
                _ => {}
            },
            Inside::RawText(hashes) => {
                let tail = chars[at + 1..].iter().take(hashes);
                if c == '"' && tail.filter(|c| **c == '#').count() == hashes {
                    inside = Inside::Code;
                    taken = 1 + hashes;
                }
            }
        }
        let plain = matches!(inside, Inside::Code) && taken == 1 && c != '"';
        for c in &chars[at..(at + taken).min(chars.len())] {
            code.push(if plain { *c } else { blank(*c) });
        }
        at += taken;
    }
    code
}

/// The first names of every path that begins with `prefix`: `crate::{a::b, c}` gives a and c. With
/// each comes the name after it.
fn paths_from(code: &str, prefix: &str) -> Vec<(String, Option<String>)> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(position) = code[from..].find(prefix) {
        let start = from + position;
        from = start + prefix.len();
        let joined = code[..start].ends_with(|c: char| c.is_alphanumeric() || "_:".contains(c));
        if !joined {
            first_names(&code[from..], &mut found);
        }
    }
    found
}

/// Reads one path or one group of paths at the start of `code`.
fn first_names(code: &str, found: &mut Vec<(String, Option<String>)>) {
    let code = code.trim_start();
    let Some(group) = code.strip_prefix('{') else {
        let (name, rest) = name_at(code);
        let second = rest.strip_prefix("::").map(|rest| name_at(rest).0);
        found.push((name, second.filter(|second| !second.is_empty())));
        return;
    };
    let mut depth = 0;
    let mut begins = true;
    for (at, c) in group.char_indices() {
        match c {
            '}' if depth == 0 => return,
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => begins = true,
            c if begins && !c.is_whitespace() => {
                begins = false;
                first_names(&group[at..], found);
            }
            _ => {}
        }
    }
}

fn name_at(code: &str) -> (String, &str) {
    let code = code.trim_start();
    let end = code.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(code.len());
    (code[..end].to_owned(), &code[end..])
}

/// Every module of the library that a file's own code names, with the name after it.
fn modules_named(source: &Source, modules: &BTreeSet<String>) -> Vec<(String, Option<String>)> {
    let mut named = paths_from(source.own_code(), "crate::");
    named.extend(paths_from(source.own_code(), &"super::".repeat(source.depth())));
    named.extend(paths_from(source.own_code(), "spot::"));
    named.retain(|(module, _)| modules.contains(module));
    named
}

fn assert_none(broken: Vec<String>, rule: &str) {
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}

#[test]
fn every_floor_knows_only_what_it_may_know() {
    let sources = sources("src");
    let modules: BTreeSet<String> = sources.iter().map(Source::module).collect();
    let mut broken = Vec::new();
    for source in &sources {
        let module = source.module();
        for (named, then) in modules_named(source, &modules) {
            let place = source.path.display();
            if FACES.contains(&module.as_str()) {
                let inside = then.as_ref().is_some_and(|then| {
                    CLOSED_TO_FACES.contains(&named.as_str())
                        && root().join(format!("src/{named}/{then}.rs")).exists()
                });
                if inside {
                    let then = then.expect("it was just looked at");
                    broken.push(format!("{place} reaches into {named}::{then}"));
                }
                continue;
            }
            let Some((_, may)) = FLOORS.iter().find(|(floor, _)| *floor == module) else {
                broken.push(format!("{place} is on no floor: give {module} its line in FLOORS"));
                continue;
            };
            if named != module && !may.contains(&named.as_str()) {
                broken.push(format!("{place} names {named}, which {module} may not know"));
            }
        }
    }
    broken.dedup();
    assert_none(broken, "the floors of the house");
}

/// The pretended cluster must not share its arithmetic with the judge it examines.
#[test]
fn the_pretended_cluster_counts_votes_in_its_own_words() {
    let mut broken = Vec::new();
    for source in sources("src").iter().filter(|source| source.module() == "pretend") {
        for word in ["cluster::quorum", "Evidence", "CorosyncConf"] {
            broken.extend(source.places(source.own_code(), word));
        }
    }
    assert_none(broken, "pretend may not use cluster::quorum");
}

#[test]
fn every_file_says_what_it_is_for_and_what_it_does_not_know() {
    let mut broken = Vec::new();
    for source in sources("src") {
        let head: Vec<&str> =
            source.text.lines().take_while(|line| line.starts_with("//!")).collect();
        let place = source.path.display();
        // The library's first page tells the whole story; it knows everything by design.
        let whole_story =
            ["src/lib.rs", "src/main.rs"].iter().any(|path| source.path.ends_with(path));
        if head.is_empty() {
            broken.push(format!("{place} does not begin with //!"));
        } else if !whole_story
            && !source.is_tests()
            && !head.join(" ").contains("**Does not know:**")
        {
            broken.push(format!("{place} does not say what it does not know"));
        }
    }
    for source in sources("tests") {
        if !source.text.starts_with("//!") {
            broken.push(format!("{} does not begin with //!", source.path.display()));
        }
    }
    assert_none(broken, "the first lines of a file");
}

#[test]
fn no_file_has_a_name_that_says_nothing() {
    let mut broken = Vec::new();
    for folder in ["src", "tests"] {
        for path in files_below(folder, ".rs") {
            let name = path.file_name().expect("a file").to_string_lossy().into_owned();
            let empty = ["mod", "util", "utils", "common", "types", "error", "errors", "helpers"];
            if empty.iter().any(|empty| name == format!("{empty}.rs")) {
                broken.push(path.display().to_string());
            }
        }
    }
    assert_none(broken, "names that say nothing");
}

#[test]
fn no_type_is_named_after_nothing_in_particular() {
    let mut broken = Vec::new();
    for source in sources("src") {
        for kind in ["struct ", "enum ", "trait "] {
            for empty in ["Manager", "Handler", "Helper", "Util", "Processor"] {
                for (number, line) in source.code.lines().enumerate() {
                    let named = line.split_once(kind).map(|(_, rest)| name_at(rest).0);
                    if named.is_some_and(|name| name.ends_with(empty)) {
                        broken.push(format!("{}:{}", source.path.display(), number + 1));
                    }
                }
            }
        }
    }
    assert_none(broken, "nouns that could head a chapter");
}

#[test]
fn nothing_is_left_lying_about() {
    let mut broken = Vec::new();
    let mut find = |source: &Source, needle: &str, why: &str| {
        broken.extend(source.places(&source.code, needle).map(|at| format!("{at} {why}")));
    };
    for folder in ["src", "tests"] {
        for source in sources(folder) {
            find(&source, "todo!", "is not finished");
            find(&source, "unimplemented!", "is not finished");
            find(&source, "dbg!", "prints for its writer");
            find(&source, "#[ignore", "is a test that nobody runs");
            find(&source, "#[allow", "should be #[expect(…, reason = \"…\")]");
            find(&source, "#![allow", "should be #[expect(…, reason = \"…\")]");
        }
    }
    // Marks of unfinished work, spelled in two halves so that this file passes its own test.
    for mark in [["TO", "DO"].concat(), ["FIX", "ME"].concat(), ["XX", "X"].concat()] {
        for path in ["src", "tests"].iter().flat_map(|folder| files_below(folder, ".rs")) {
            let source = Source::read(&path);
            let marks: Vec<String> = source
                .places(&source.text, &mark)
                .map(|at| format!("{at} has unfinished work marked in it"))
                .collect();
            broken.extend(marks);
        }
    }
    assert_none(broken, "left lying about");
}

/// Real daemons live in real time: whoever waits for a state of theirs looks at it now and then.
const LOOKS_AT_DAEMONS: &str = "tests/corosync/lab.rs";

#[test]
fn tests_do_not_sleep() {
    let mut broken = Vec::new();
    for folder in ["src", "tests"] {
        for source in sources(folder) {
            if source.path.ends_with(LOOKS_AT_DAEMONS) {
                continue;
            }
            let tests = if folder == "src" {
                &source.code[source.own_code().len()..]
            } else {
                &source.code[..]
            };
            for sleep in ["thread::sleep", "time::sleep"] {
                broken.extend(tests.contains(sleep).then(|| source.path.display().to_string()));
            }
        }
    }
    assert_none(broken, "a test that sleeps is slow or flaky, and mostly both");
}

#[test]
fn judgement_decides_every_variant_by_name() {
    let mut broken = Vec::new();
    for source in sources("src") {
        if JUDGEMENT.contains(&source.module().as_str()) {
            for (number, line) in source.own_code().lines().enumerate() {
                let arm = line.trim_start();
                if arm.starts_with("_ =>") || line.contains("{ _ =>") || line.contains(", _ =>") {
                    broken.push(format!("{}:{}", source.path.display(), number + 1));
                }
            }
        }
    }
    assert_none(broken, "no `_ =>` where a new variant must force a decision");
}

#[test]
fn lines_fit_the_page() {
    let mut broken = Vec::new();
    for source in sources("src") {
        for (number, (line, code)) in source.text.lines().zip(source.code.lines()).enumerate() {
            // Sentences and addresses are not broken: what cannot wrap does not count.
            let without: usize = code.split_whitespace().map(|word| word.chars().count() + 1).sum();
            let sentence = line.contains('"') && without <= LINE_WIDTH;
            if line.chars().count() > LINE_WIDTH && !sentence && !line.contains("://") {
                broken.push(format!("{}:{}", source.path.display(), number + 1));
            }
        }
    }
    assert_none(broken, "lines over 100 characters");
}

#[test]
fn the_top_level_holds_nothing_else() {
    let mut broken = Vec::new();
    for entry in fs::read_dir(root()).expect("the root can be listed") {
        let name = entry.expect("an entry").file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && !TOP_LEVEL.contains(&name.as_str()) {
            broken.push(name);
        }
    }
    assert_none(broken, "the top level");
}

#[test]
fn every_dependency_says_what_it_saves() {
    let text = fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml can be read");
    let mut broken = Vec::new();
    let mut among_dependencies = false;
    for line in text.lines() {
        if line.starts_with('[') {
            among_dependencies = line.contains("dependencies");
        } else if among_dependencies && line.contains('=') && !line.contains('#') {
            broken.push(line.to_owned());
        }
    }
    assert_none(broken, "a dependency without a reason");
}

#[test]
fn the_scanner_tells_code_from_comments_and_strings() {
    let text = r##"let a = "crate::plan // no"; // crate::gate
/* crate::web /* deep */ */ let c = '"'; let s = r#"x " crate::cli"#; use crate::{
    ledger::{self, Entry}, site::Site,
}; fn f<'a>(x: &'a str) { crate::policy::text::read(x) }"##;
    let named = paths_from(&code_of(text), "crate::");
    let named: Vec<(&str, Option<&str>)> =
        named.iter().map(|(name, then)| (name.as_str(), then.as_deref())).collect();
    assert_eq!(named, [("ledger", None), ("site", Some("Site")), ("policy", Some("text"))]);
}
