//! Policies as accidents and ill will write them: drawn texts by the thousand, held against the same
//! claims as the fuzzer's.
//!
//! `PROPTEST_CASES=2000000 cargo test --test odd_inputs` draws as many as wanted.
//!
//! **Does not know:** what a policy means.

#[path = "fuzz/claims.rs"]
mod claims;

use proptest::prelude::*;

/// Cheap enough for every run; `PROPTEST_CASES` says otherwise.
fn drawn(cases: u32) -> ProptestConfig {
    let asked = ProptestConfig::default();
    let default = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    let cases = if asked.cases == 256 { cases } else { asked.cases };
    ProptestConfig { cases, ..default }
}

/// Pieces of which policies are made, and some of which they are not.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => prop::sample::select(vec![
            "hosts:", "guests:", "policies:", "quorum:", "timezone: UTC", "host1", "tier: low",
            "tier: high", "mac: \"a8:a1:59:00:00:03\"", "- name: a", "run:", "from: ", "to: ", "for: 1h",
            "\"0 8 * * 1-5\"", "\"30 2 * * *\"", "* * * * *", "except: [05-01]", "match: { any: true }",
            "prefer: [host1]", "otherwise: { hibernate: { else: migrate } }", "hosts: [host1]",
            "{", "}", "[", "]", ", ", ": ", "\n", "\n  ", "\n    ", "- ", "&a ", "*a", "!!str ", "<<: ",
            "---\n", "...\n", "\t", "\r\n", "\r", "\u{feff}", "\u{85}", "\u{2028}", "|\n", ">-\n", "? ",
            "#", "'", "\"", "\\", "\0", "ä", "🦀", "~", "null", "true", "-1", "99999999999999999999",
        ]).prop_map(str::to_owned),
        1 => "\\PC{0,6}",
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

fn cron_like() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => "[0-9*?/,-]{1,5}( [0-9*?/,-]{1,4}){4,5}",
        2 => "[0-9]{1,2} ([0-9]|1[0-9]|2[0-3]) \\* \\* (\\*|[0-7]|[0-3]-[4-7]|Mon-Fri|sat)",
        1 => "[ -~]{0,24}",
        1 => "\\PC{0,24}",
    ]
}

fn value_like() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => "-?[0-9]{1,21} ?(w|d|h|m|s|min|GiB|MB|%|MiB/s|Gbit/s|B)?([0-9]{1,3}[hms])?",
        2 => "[0-9]{0,4}-?[0-9]{2}-[0-9]{2}(\\.\\.)?([0-9]{4}-)?[0-9]{0,2}-?[0-9]{0,2}",
        2 => "\\PC{0,24}",
    ]
}

/// A real server's report with a stretch of it replaced.
fn report_like() -> impl Strategy<Value = String> {
    let whole = include_str!("recorded/client/report-8.4-qdevice-alive.txt");
    let insert = prop_oneof!["\\PC{0,12}", "[0-9]{1,3}", Just(String::new())];
    (0..whole.len(), 0usize..90, insert).prop_map(move |(start, length, insert)| {
        let end = (start + length).min(whole.len());
        let (before, after) = (whole.get(..start), whole.get(end..));
        format!("{}{insert}{}", before.unwrap_or(whole), after.unwrap_or(""))
    })
}

proptest! {
    #![proptest_config(drawn(10_000))]
    #[test]
    fn any_text_is_a_report_that_adds_up_or_refused_in_words(text in report_like()) {
        claims::report(&text);
    }

    #[test]
    fn any_text_is_a_policy_or_refused_in_words(text in pieces()) {
        claims::policy(&text);
    }
}

proptest! {
    #![proptest_config(drawn(20_000))]
    #[test]
    fn any_text_is_a_cron_expression_or_refused_in_words(text in cron_like()) {
        claims::cron(&text);
    }
}

proptest! {
    #![proptest_config(drawn(20_000))]
    #[test]
    fn any_text_is_a_value_or_refused_in_words(text in value_like()) {
        claims::scalars(&text);
    }
}

/// What no drawing finds: large, deep, or written to hurt.
#[test]
fn hostile_texts_are_refused_and_cost_little() {
    let billion =
        "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b]\n";
    for text in [
        "x".repeat(10 << 20),
        "\n".repeat((1 << 20) - 1),
        "[".repeat(1 << 20),
        "{a: ".repeat(200_000),
        "- ".repeat(500_000),
        "? ".repeat(400_000),
        "\t".repeat(100_000),
        format!("hosts: {}", "'".repeat(100_001)),
        format!("timezone: {}", "é".repeat(500_000)),
        billion.repeat(1_000),
        format!("policies: [{}]", "*a, ".repeat(100_000)),
        format!(
            "policies:\n{}",
            " - {name: a, hosts: [b], run: [{from: 0 8 * * *, for: 1h}]}\n".repeat(15_000)
        ),
    ] {
        claims::policy(&text);
    }
}

/// Heap and stacks together, in KiB: what `ulimit -d` counts.
const MEMORY_KIB: u32 = 64 * 1024;
const MIB: usize = 1 << 20;

/// How `spot check` of this text ends with so much memory: its exit code.
fn checked_within(memory_kib: u32, name: &str, text: &str) -> Option<i32> {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("a.yaml");
    std::fs::write(&file, text).expect("written");
    let output = std::process::Command::new("sh")
        .args(["-c", &format!("ulimit -d {memory_kib} && exec \"$0\" check \"$1\"")])
        .args([env!("CARGO_BIN_EXE_spot").as_ref(), file.as_os_str()])
        .output()
        .expect("a shell");
    if memory_kib == MEMORY_KIB {
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.is_empty(), "{name}: {said}");
    }
    output.status.code()
}

#[test]
fn no_file_takes_more_than_64_mib() {
    let many = |start: &str, piece: &str| {
        let room = (MIB - start.len()) / piece.len();
        format!("{start}{}", piece.repeat(room))
    };
    let window = "- {name: a, hosts: [b], run: [{from: \"0 8 * * *\", for: 1h}]}\n";
    let bomb: String = ('b'..'t')
        .map(|c| {
            let before = char::from(u8::try_from(c).expect("ASCII") - 1);
            format!("{c}: &{c} [{}]\n", vec![format!("*{before}"); 9].join(", "))
        })
        .collect();
    for (name, text) in [
        ("ten megabytes", "a: b\n".repeat(2 * MIB)),
        ("an alias bomb", format!("a: &a [x, x, x, x, x, x, x, x, x]\n{bomb}")),
        ("nested lists", many("", "[")),
        ("nested mappings", many("", "{a: ")),
        ("nested blocks", many("", "- ")),
        ("empty values", many("[", ",")),
        ("empty values on lines", many("[", ",\n")),
        ("pairs", many("{", "a: b,")),
        ("colons", many("[", ":,")),
        ("keys", many("", "k: 1\n")),
        ("hosts", (0..40_000).map(|n| format!("h{n}: {{}}\n")).collect()),
        ("windows", many("policies:\n", window)),
        ("one long value", many("a: ", "é")),
        ("escapes", many("a: \"", "\\n")),
        ("aliases", many("", "*a ")),
        ("lines", many("", "\n")),
    ] {
        assert_eq!(checked_within(MEMORY_KIB, name, &text), Some(1), "{name}");
    }
    // And the limit is one: with a hundredth of it, nothing begins.
    assert_ne!(checked_within(MEMORY_KIB / 100, "little", "a: b"), Some(1));
}
