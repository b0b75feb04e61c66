//! The model against what real corosync 3.1.7 was measured to show.
//!
//! Each story is a cluster, then lines of `what happens | who shows what`. Hosts are n1, n2, … and
//! go by their numbers; `12 E5 V4 Q3 Y` means that n1 and n2 both show Expected 5, Total 4, Quorum
//! 3, Quorate. Figures that were not measured are left out.

use std::collections::BTreeMap;

use super::whatif::{StepAnswer, WhatIf, answer};

/// `3/1/1 wait_for_all=1 lms=4` as the nodes, quorum and qdevice of a what-if file.
fn file(cluster: &str, history: &str) -> String {
    let mut words = cluster.split_whitespace();
    let votes = words.next().expect("votes come first").split('/');
    let nodes: Vec<String> =
        (1..).zip(votes).map(|(n, votes)| format!("{{name: n{n}, votes: {votes}}}")).collect();
    let mut quorum = Vec::new();
    let mut device = String::new();
    for word in words {
        match word.split_once('=') {
            Some((algorithm @ ("lms" | "ffsplit"), "")) => {
                device = format!("qdevice: {{algorithm: {algorithm}}}\n");
            }
            Some((algorithm @ ("lms" | "ffsplit"), votes)) => {
                device = format!("qdevice: {{algorithm: {algorithm}, votes: {votes}}}\n");
            }
            Some((key, value)) => quorum.push(format!("{key}: {value}")),
            None => panic!("`{word}` is no key=value"),
        }
    }
    let (nodes, quorum) = (nodes.join(", "), quorum.join(", "));
    format!("nodes: [{nodes}]\nquorum: {{{quorum}}}\n{device}history:\n{history}")
}

fn names(digits: &str) -> String {
    let names: Vec<String> = digits.chars().map(|digit| format!("n{digit}")).collect();
    names.join(", ")
}

/// `up 12`, `cut 1 23`, `-e 2 on 1`, `daemon 1 off`, … as a step of a history.
fn step(line: &str) -> String {
    let (line, after) = match line.split_once(" after ") {
        Some((line, after)) => (line, format!(", after: {after}")),
        None => (line, String::new()),
    };
    let words: Vec<&str> = line.split_whitespace().collect();
    let act = match words.as_slice() {
        ["up"] => "up: []".into(),
        ["up", hosts] => format!("up: [{}]", names(hosts)),
        ["crash", hosts] => format!("crash: [{}]", names(hosts)),
        ["cut", parts @ ..] => {
            let parts: Vec<String> =
                parts.iter().map(|part| format!("[{}]", names(part))).collect();
            format!("partition: [{}]", parts.join(", "))
        }
        ["heal"] => "heal: true".into(),
        ["qnetd", state] => format!("qdevice: {state}"),
        ["daemon", host, state] => format!("daemon: {{{}: {state}}}", names(host)),
        ["-e", votes, "on", host] => format!("expected: {votes}, on: {}", names(host)),
        ["votes", votes] => {
            let nodes: Vec<String> = (1..)
                .zip(votes.split('/'))
                .map(|(n, votes)| format!("{{name: n{n}, votes: {votes}}}"))
                .collect();
            format!("reload: {{nodes: [{}]}}", nodes.join(", "))
        }
        ["set", keys @ ..] => {
            let keys: Vec<String> = keys.iter().map(|key| key.replace('=', ": ")).collect();
            format!("reload: {{quorum: {{{}}}}}", keys.join(", "))
        }
        _ => panic!("`{line}` is no step"),
    };
    format!("  - {{{act}{after}}}\n")
}

fn play(cluster: &str, steps: &[&str]) -> Vec<StepAnswer> {
    let history: String = steps.iter().map(|line| step(line)).collect();
    answer(&WhatIf::read(&file(cluster, &history)).expect("a story reads well"))
}

/// Everything in which a story's answers differ from what was measured.
fn differences(story: &str) -> Vec<String> {
    let mut lines = story.lines().map(str::trim).filter(|line| !line.is_empty());
    let cluster = lines.next().expect("a story begins with its cluster");
    let pairs: Vec<(&str, &str)> = lines.map(|l| l.split_once('|').unwrap_or((l, ""))).collect();
    let steps: Vec<&str> = pairs.iter().map(|(step, _)| step.trim()).collect();
    let answers = play(cluster, &steps);
    let mut wrong = Vec::new();
    for ((step, shown), answer) in pairs.iter().zip(&answers) {
        for who in shown.split(',').map(str::trim).filter(|who| !who.is_empty()) {
            let mut words = who.split_whitespace();
            let hosts = words.next().expect("who shows it");
            let figures: Vec<&str> = words.collect();
            for digit in hosts.chars() {
                if let Some(why) = unlike(answer, &format!("n{digit}"), &figures) {
                    wrong.push(format!("{cluster}: step {} `{}`: {why}", answer.step, step.trim()));
                }
            }
        }
    }
    wrong
}

fn unlike(answer: &StepAnswer, host: &str, figures: &[&str]) -> Option<String> {
    if figures == ["refused"] {
        let refused = answer.refused.keys().any(|name| name.as_str() == host);
        return (!refused).then(|| format!("{host} was not refused"));
    }
    let Some((_, view)) = answer.views.iter().find(|(name, _)| name.as_str() == host) else {
        return Some(format!("{host} shows nothing"));
    };
    let quorate = if view.quorate { "Y" } else { "N" };
    let has = BTreeMap::from([
        ('E', format!("E{}", view.expected)),
        ('V', format!("V{}", view.total)),
        ('Q', format!("Q{}", view.quorum)),
        ('Y', quorate.to_owned()),
        ('N', quorate.to_owned()),
    ]);
    let differs =
        |figure: &&str| figure.chars().next().map(|key| &has[&key]) != Some(&(**figure).to_owned());
    figures.iter().any(differs).then(|| {
        let [e, v, q] = ['E', 'V', 'Q'].map(|key| has[&key].clone());
        format!("{host} shows {e} {v} {q} {quorate}, measured {}", figures.join(" "))
    })
}

fn as_measured(stories: &[&str]) {
    let wrong: Vec<String> = stories.iter().flat_map(|story| differences(story)).collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Every subset of every measured set of plain votes, come by in four ways: a cold boot, clean
/// stops, a power cut, a partition.
#[test]
fn plain_votes_are_a_majority_however_it_came() {
    const CLUSTERS: [&str; 13] = [
        "3/1/1", "1/1/1", "1/1", "2/1", "4/3/2/1", "5/1/1/1", "2/2/1/1", "2/1/1", "2/2/2",
        "1/1/1/1", "1/1/0", "2/1/0", "1/0/0",
    ];
    for cluster in CLUSTERS {
        let votes: Vec<u32> = cluster.split('/').map(|votes| votes.parse().unwrap()).collect();
        let all: u32 = votes.iter().sum();
        let everybody: String = (1..=votes.len()).map(|n| n.to_string()).collect();
        for mask in 1..(1usize << votes.len()) {
            let (stay, go): (Vec<usize>, Vec<usize>) =
                (1..=votes.len()).partition(|n| mask >> (n - 1) & 1 == 1);
            let digits = |of: &[usize]| of.iter().map(ToString::to_string).collect::<String>();
            let mine: u32 = stay.iter().map(|n| votes[n - 1]).sum();
            let (stay, go) = (digits(&stay), digits(&go));
            let quorate = if 2 * mine > all { "Y" } else { "N" };
            let shown = format!("{stay} E{all} V{mine} Q{} {quorate}", all / 2 + 1);
            let mut stories = vec![
                format!("{cluster}\nup {stay} | {shown}"),
                format!("{cluster}\nup {everybody}\nup {stay} | {shown}"),
            ];
            if !go.is_empty() {
                stories.push(format!("{cluster}\nup {everybody}\ncrash {go} | {shown}"));
                stories.push(format!("{cluster}\nup {everybody}\ncut {stay} {go} | {shown}"));
            }
            as_measured(&stories.iter().map(String::as_str).collect::<Vec<_>>());
        }
    }
}

#[test]
fn last_man_standing() {
    as_measured(&[
        "1/1/1 last_man_standing=1 wait_for_all=1
            up 123 | 123 E3 V3 Q2 Y
            up 12 | 12 E2 Q2 Y
            up 1 | 1 E2 V1 Q2 N",
        "1/1/1 last_man_standing=1 wait_for_all=1
            up 123
            up 12
            up 1 after 2s | 1 N",
        // Before the window has passed nothing is forgotten.
        "1/1/1 last_man_standing=1 wait_for_all=1
            up 123
            up 12 | 12 E3 Q2 Y
            -e 3 on 1 after 2s",
        "1/1/1 last_man_standing=1 wait_for_all=1
            up 123
            up 1 | 1 E3 V1 Q2 N",
        "1/1/1 last_man_standing=1
            up 123
            up 12 | 12 E2 Q2 Y
            up 1 | 1 E2 V1 Q2 N",
        // With the tie-breaker the lowest id goes on alone, at once and after the window.
        "1/1/1 last_man_standing=1 wait_for_all=1 auto_tie_breaker=1
            up 123
            up 12
            up 1 | 1 V1 Q2 Y
            -e 1 on 1 after 2s",
        "1/1/1 last_man_standing=1 wait_for_all=1 auto_tie_breaker=1
            up 123
            up 12
            up 1 | 1 E1 Q1 Y",
        "1/1/1 last_man_standing=1 wait_for_all=1 auto_tie_breaker=1
            up 123
            up 12
            up 1 after 2s | 1 Y",
        "1/1/1 last_man_standing=1 wait_for_all=1 auto_tie_breaker=1
            up 123
            up 1 | 1 N",
        "1/1/1 last_man_standing=1 wait_for_all=1 auto_tie_breaker=1
            up 123
            up 23
            up 3 | 3 N",
        "1/1/1/1/1 last_man_standing=1
            up 12345
            up 1234 | 1234 Y
            up 123 | 123 Y
            up 12 | 12 Y
            up 1 | 1 N",
        "1/1/1/1/1 last_man_standing=1
            up 12345
            up 123 | 123 Y
            up 1 | 1 E3 V1 Q2 N",
        // Votes above 1 switch it off.
        "3/1/1 last_man_standing=1
            up 123
            up 12 | 12 E5 V4 Q3 Y
            up 2 | 2 E5 V1 Q3 N",
        // One partition, two opinions, for good.
        "1/1/1 last_man_standing=1 wait_for_all=1
            up 123
            up 12
            up 1 | 1 N
            up 12 | 1 E2 V2 Q2 Y, 2 E3 N
            up 123 | 123 E3 Y",
    ]);
}

#[test]
fn two_node() {
    as_measured(&[
        "1/1 two_node=1
            up 1 | 1 E2 V1 Q1 N
            up 12 | 12 E2 V2 Q1 Y
            up 1 | 1 Q1 Y
            up
            up 1 | 1 N
            up 12
            crash 1 | 2 Y",
        "1/1 two_node=1
            up 12
            cut 1 2 | 12 V1 Q1 Y",
        "1/1 two_node=1 wait_for_all=0
            up 1 | 1 Y",
        "3/1 two_node=1
            up 12
            up 2 | 2 E4 V1 Q1 Y",
        "1/1/1 two_node=1
            up 123 | 123 Q2
            up 12 | 12 Q1
            up 1 | 1 Y",
    ]);
}

#[test]
fn a_qdevice_that_splits_in_half() {
    as_measured(&[
        "1/1 ffsplit=1
            up 1 | 1 V2 Q2 Y
            up 12 | 12 E3 V3 Q2 Y
            up 2 | 2 V2 Q2 Y
            qnetd dead | 2 E3 V1 Q2 N",
        "1/1 ffsplit=1
            up 12
            cut 1 2 | 1 Y, 2 N",
        "1/1/1/1 ffsplit=1
            up 1234 | 1234 E5 V5 Q3 Y
            up 12 | 12 V3 Q3 Y
            up 1 | 1 V1 Q3 N",
        "1/1/1/1 ffsplit=1
            up 1234
            up 34 | 34 V3 Q3 Y",
        "1/1/1/1 ffsplit=1
            up 1234
            cut 12 34 | 12 V3 Y, 34 V2 N",
        "1/1/1/1 ffsplit=1
            up 1234
            qnetd dead | 1234 V4 Q3 Y
            up 123 | 123 V3 Q3 Y
            up 12 | 12 V2 Q3 N",
        "1/1/1 ffsplit=1
            up 123 | 123 E4 V4 Q3 Y
            up 23 | 23 V3 Q3 Y
            up 2 | 2 V1 Q3 N",
        "1/1/1 ffsplit=1
            up 123
            qnetd dead
            up 13 | 13 V2 Q3 N",
        // Uneven votes: it never votes, and is expected all the same.
        "3/1/1 ffsplit=1
            up 123 | 123 E6 V5 Q4 Y
            up 1 | 1 E6 V3 Q4 N",
        // Votes unset: two expected of it in vain.
        "1/1 ffsplit=
            up 12 | 12 E3 V2 Q2 Y
            up 1 | 1 E3 V1 Q2 N",
    ]);
}

#[test]
fn a_qdevice_for_the_last_man() {
    as_measured(&[
        "1/1/1 lms=
            up 123 | 123 E5 V5 Q3 Y
            up 2 | 2 E5 V3 Q3 Y",
        "1/1/1 lms=
            up 123
            qnetd dead | 123 V3 Q3 Y
            up 12 | 12 V2 Q3 N",
        // Votes written out are learned, not expected from the file.
        "1/1/1 lms=2
            up 1 | 1 E3 Q2
            up 12 | 12 E4
            up 123 | 123 E5 Q3",
        "1/1/1 lms=
            up 123
            cut 1 23 | 1 N, 23 Y",
        "3/1/1 lms=4
            up 123 | 123 E9 V9 Q5 Y
            up 1 | 1 Y
            up 12 | 12 Y
            up 123
            up 2 | 2 V5 Q5 Y",
        "3/1/1 lms=4
            up 123
            qnetd dead | 123 V5 Q5 Y
            up 12 | 12 V4 Q5 N",
        "3/1/1 lms=4
            up 123
            qnetd dead
            up 1 | 1 V3 Q5 N",
        "3/1/1 lms=4
            up 123
            cut 1 23 | 1 N, 23 Y",
        "1/1 lms=1
            up 12 | 12 E3 V3 Q2 Y
            up 2 | 2 V2 Q2 Y",
        // The daemon stopped on one host only.
        "1/1/1 lms=
            up 123
            daemon 1 off | 1 V3 Y, 23 V5 Y
            daemon 1 on | 123 V5 Y",
        // No daemon anywhere: expected all the same.
        "1/1/1 lms=
            up 123
            daemon 1 off
            daemon 2 off
            daemon 3 off | 123 E5 V3 Q3 Y
            up 12",
    ]);
    let refused = play("3/1/1 lms=", &["up 123"]);
    assert_eq!(refused[0].refused.len(), 3, "{refused:?}");
    assert!(refused[0].views.is_empty());
}

#[test]
fn lowered_expected_votes_with_a_dead_qdevice_do_nothing_useful() {
    as_measured(&[
        "1/1/1 lms=
            up 123
            qnetd dead
            -e 3 on 1 | 123 E5",
        "1/1/1 lms=
            up 123
            qnetd dead
            up 12 | 12 N
            -e 3 on 1 | 12 E4 V2 Q3 N",
    ]);
}

#[test]
fn expected_votes_at_run_time() {
    as_measured(&[
        "1/1/1
            up 123
            -e 1 on 1 | 123 E3 Q2
            -e 2 on 1 | 123 E3 Q2
            -e 7 on 1 | 123 E3 Q2
            -e 5 on 1 | 123 E5 Q3 Y",
        "1/1/1
            up 123
            up 12
            -e 2 on 1 | 12 E2 Q2 Y",
        "1/1/1
            up 123
            up 1
            -e 1 on 1 | 1 E1 Q1 Y",
        "3/1/1
            up 123
            up 23 | 23 N
            -e 2 on 2 | 23 E2 V2 Q2 Y",
        "1/1/1
            up 123
            cut 1 23
            -e 1 on 1 | 123 Y",
        "1/1/1/1/1
            up 12345
            up 123
            -e 3 on 1 | 123 E3 Q2 Y
            up 12 | 12 V2 Q2 Y
            up 124 | 124 V3 E3
            up 1234 | 1234 E4
            up 12345 | 12345 E5",
        "3/1/1
            up 123
            up 2
            -e 1 on 2 | 2 E1 Q1 Y
            up 12 | 1 E5, 2 E4",
        // A joiner fresh from its boot keeps what its file says.
        "1/1/1
            up 123
            -e 5 on 1 | 123 E5 Q3
            up 12
            up 123 | 12 E5 Q3, 3 E3 Q2",
        // Forgotten when all were off.
        "1/1/1
            up 123
            -e 5 on 1
            up
            up 123 | 123 E3 Q2",
    ]);
}

#[test]
fn an_edited_file() {
    as_measured(&[
        "1/1/1
            up 123
            votes 3/1/1 | 123 E5 V5 Q3 Y
            votes 1/1/1 | 123 E3 V3 Q2 Y",
        "1/1/1
            up 1 | 1 N
            votes 3/1/1 | 1 E5 V3 Q3 Y",
        "1/1 two_node=1
            up 12
            set two_node=0 | 12 Q2",
        "1/1
            up 12
            up 1 | 1 N
            set two_node=1 | 1 Y",
        "1/1/1
            up 123
            set expected_votes=7 | 123 Q4",
        "1/1/1
            up 123
            votes 1/1 | 123 V3 Q2 Y",
    ]);
}

#[test]
fn auto_tie_breaker() {
    as_measured(&[
        "1/1 auto_tie_breaker=1
            up 12 | 12 Y
            up 1 | 1 V1 Q2 Y",
        "1/1 auto_tie_breaker=1
            up 12
            up 2 | 2 N",
        "1/1 auto_tie_breaker=1
            up 12
            cut 1 2 | 1 Y, 2 N",
        "1/1 auto_tie_breaker=1
            up 1 | 1 N",
        "1/1 auto_tie_breaker=1 auto_tie_breaker_node=highest
            up 12
            cut 1 2 | 1 N, 2 Y",
        "1/1/1/1 auto_tie_breaker=1
            up 1234
            crash 34 | 12 V2 Q3 Y",
        "1/1/1/1 auto_tie_breaker=1
            up 1234
            crash 23 | 14 V2 Y",
        "1/1/1/1 auto_tie_breaker=1
            up 1234
            crash 12 | 34 N",
        "1/1/1/1 auto_tie_breaker=1
            up 1234
            crash 13 | 24 N",
        "1/1/1/1 auto_tie_breaker=1
            up 12 | 12 N",
        "1/1/1/1 auto_tie_breaker=1
            up 1234
            up 123 | 123 Y
            up 12 | 12 Y
            up 1 | 1 N",
        "1/1/1/1 auto_tie_breaker=1
            up 1234
            up 234 | 234 Y
            up 34 | 34 N",
        "3/1/1 auto_tie_breaker=1 wait_for_all=1
            up 123
            up 23 | 23 V2 N",
        "3/1/1 auto_tie_breaker=1 wait_for_all=1
            up 123
            up 1 | 1 V3 Y",
        // Odd votes without wait_for_all: silently off.
        "1/1/1 auto_tie_breaker=1
            up 123
            up 12
            up 1 | 1 N",
        "1/1/1 auto_tie_breaker=1 last_man_standing=1
            up 1 | 1 refused",
    ]);
}

#[test]
fn wait_for_all() {
    as_measured(&[
        "3/1/1
            up 1 | 1 Y",
        "3/1/1
            up 2 | 2 N
            up 23 | 23 N
            up 123 | 123 Y",
        "3/1/1 wait_for_all=1
            up 1 | 1 E5 V3 Q3 N
            up 12 | 12 V4 N
            up 123 | 123 Y
            up 1 | 1 Y",
        // Whoever boots into a quorate cluster need not wait.
        "3/1/1 wait_for_all=1
            up 123
            up 12
            up 123 | 123 Y",
        // It waits again whenever the quorum was lost.
        "1/1/1 wait_for_all=1
            up 123
            up 1 | 1 N
            up 12 | 12 V2 Q2 N
            up 123 | 123 Y",
        "3/1/1 wait_for_all=1
            up 123
            up 12 | 12 Y
            up 2 | 2 N
            up 12 | 12 V4 Q3 N",
    ]);
}

#[test]
fn others() {
    as_measured(&[
        "1/1/1/1 allow_downscale=1
            up 1234
            up 123 | 123 E3 V3 Q3 Y
            up 12 | 12 E2 V2 Q3 N",
        "1/1/1 allow_downscale=1
            up 123
            up 12 | 12 E2 Q2 Y
            up 1 | 1 E1 V1 Q2 N",
        "3/1/1 expected_votes=3
            up 1 | 1 E3 Q2 Y
            up 12 | 12 E4
            up 123 | 123 E5",
        "1/1/1 expected_votes=5
            up 12 | 12 Q3 N
            up 123 | 123 Q3 Y",
    ]);
}
