//! Reports spoiled on their way: truncated, with lines lost, doubled or garbled, with other digits.
//!
//! Whatever still reads must not claim more votes, a smaller majority or a quorum that is not
//! there, unless what the other members show, or corosync.conf, contradicts it.
//!
//! **Does not know:** whether anybody would spoil a report in just that way.

use super::*;
use crate::cluster::quorum::disorder::{About, recognise};

const CASES: u64 = 20_000;
const SEED: u64 = 0x0051_0704;

const REPORTS: &[(&str, &str)] = &[
    ("9.2-votes-3-1-1", "pve1"),
    ("9.2-votes-3-1-1-3", "pve2"),
    ("9.2-votes-1-1-1-host-down", "pve1"),
    ("9.2-lone-node-expected-1", "pve1"),
    ("9.2-wait-for-all", "pve1"),
    ("8.4-votes-3-1-1-2", "pve1"),
    ("8.4-qdevice-alive", "pve1"),
    ("8.4-qdevice-daemon-stopped", "pve1"),
    ("8.4-qdevice-server-dead", "pve1"),
];

/// What the spoiled view claims beyond the true one, if nothing contradicts it.
fn lie(spoiled: Evidence, truth: &Evidence, node: &str) -> Option<String> {
    let own = host(node);
    let others = truth.members.keys().filter(|other| **other != own);
    let mut views: BTreeMap<HostName, Evidence> =
        others.map(|other| (other.clone(), truth.clone())).collect();
    views.insert(own, spoiled.clone());
    let views: BTreeMap<HostName, &Evidence> =
        views.iter().map(|(host, view)| (host.clone(), view)).collect();
    let known = recognise(&views, &|host| host.as_str().replace("host", "pve"));
    if known.iter().any(|one| matches!(one.about(), About::Views | About::Quorate | About::File)) {
        return None;
    }
    let more = |(member, shown): (&HostName, &MemberVotes)| {
        let true_votes = truth.members.get(member).map(|member| member.votes);
        true_votes.is_none_or(|votes| shown.votes > votes)
    };
    if let Some(member) = spoiled.members.iter().find(|one| more(*one)) {
        return Some(format!("{member:?}"));
    }
    let device = |view: &Evidence| view.device_votes.unwrap_or(0);
    (spoiled.quorate && !truth.quorate
        || spoiled.total > truth.total
        || spoiled.quorum < truth.quorum
        || device(&spoiled) > device(truth))
    .then(|| format!("{spoiled:?}"))
}

fn must_not_lie(spoiled: &str, name: &str, node: &str, truth: &Evidence, how: &str) -> bool {
    let Ok(read) = read(spoiled, node, host) else { return false };
    if let Some(lie) = lie(read, truth, node) {
        panic!("{name}, {how}: nothing contradicts {lie}\n{spoiled}");
    }
    true
}

#[test]
fn a_report_cut_short_anywhere_never_reads_as_more() {
    for (name, node) in REPORTS {
        let (whole, truth) = (recorded(name), evidence(name, node));
        let lines: Vec<&str> = whole.split_inclusive('\n').collect();
        for kept in 0..lines.len() {
            let cut: String = lines[..kept].concat();
            must_not_lie(&cut, name, node, &truth, &format!("the first {kept} lines"));
            let half = lines[kept].len() / 2;
            if let Some(half) = lines[kept].get(..half) {
                must_not_lie(
                    &(cut + half),
                    name,
                    node,
                    &truth,
                    &format!("{kept} lines and a half"),
                );
            }
        }
    }
}

/// One change of one line.
fn spoil(lines: &mut Vec<String>, random: &mut fastrand::Rng) {
    // Most of a report is about other things; the votes are where it hurts.
    let start = lines.iter().position(|line| line.starts_with("# pvecm nodes")).unwrap_or(0);
    if lines.len() <= start + 1 {
        return;
    }
    let at = random.usize(start..lines.len());
    match random.u8(0..8) {
        0 => {
            lines.remove(at);
        }
        1 => lines.insert(at, lines[at].clone()),
        2 => lines.truncate(at),
        3 => {
            let other = random.usize(start..lines.len());
            lines.swap(at, other);
        }
        4 => {
            let kept: String = lines[at].chars().filter(|_| random.u8(0..8) > 0).collect();
            lines[at] = kept;
        }
        5 => {
            let garbled = |c: char| if random.u8(0..6) == 0 { random.char(' '..'~') } else { c };
            lines[at] = lines[at].chars().map(garbled).collect();
        }
        _ => {
            // Another digit in a line that has one.
            let with_digit = |line: &&String| line.bytes().any(|b| b.is_ascii_digit());
            let count = lines[start..].iter().filter(with_digit).count();
            if count == 0 {
                return;
            }
            let chosen = random.usize(0..count);
            let line = lines[start..]
                .iter_mut()
                .filter(|line| line.bytes().any(|b| b.is_ascii_digit()))
                .nth(chosen);
            let Some(line) = line else { return };
            let digits = line.matches(|c: char| c.is_ascii_digit()).count();
            let mut left = random.usize(0..digits);
            let other = |c: char| {
                if !c.is_ascii_digit() {
                    return c;
                }
                left = left.wrapping_sub(1);
                if left == usize::MAX { random.digit(10) } else { c }
            };
            *line = line.chars().map(other).collect();
        }
    }
}

#[test]
fn no_spoiled_report_panics_or_claims_more_than_is_true() {
    let mut random = fastrand::Rng::with_seed(SEED);
    let truths: Vec<(String, Evidence)> =
        REPORTS.iter().map(|(name, node)| (recorded(name), evidence(name, node))).collect();
    let mut still_read = 0;
    for case in 0..CASES {
        let which = random.usize(0..REPORTS.len());
        let ((name, node), (whole, truth)) = (REPORTS[which], &truths[which]);
        let mut lines: Vec<String> = whole.lines().map(str::to_owned).collect();
        for _ in 0..random.usize(1..=3) {
            spoil(&mut lines, &mut random);
        }
        let how = format!("case {case} of seed {SEED:#x}");
        still_read += u64::from(must_not_lie(&lines.join("\n"), name, node, truth, &how));
    }
    // Both ends are met: a parser that refuses everything would pass as well.
    assert!(still_read > CASES / 20 && still_read < CASES, "{still_read} of {CASES} still read");
}
