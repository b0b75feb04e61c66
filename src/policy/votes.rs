//! What the votes will never allow: hosts that the policy lets sleep together although the others
//! could not keep the quorum.
//!
//! Such a policy is not wrong, for the gate simply keeps one of them awake; but its owner expects
//! them to rest, and looks for the fault elsewhere. Only configured votes are known here, so this
//! is a doubt told beforehand and never a permission: every power-off is judged by the gate.
//!
//! **Does not know:** who is a member now, how many votes are cast.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::Policy;
use super::calendar::judged_from;
use crate::cluster::{HostName, Tier};

/// Votes as corosync.conf gives them, by host; and those of a QDevice that goes on voting.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Votes {
    pub hosts: BTreeMap<HostName, u32>,
    pub device: u32,
}

/// Hosts that sleep together by the policy, and never will by the votes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wakeful {
    pub hosts: Vec<HostName>,
    /// Votes that would stay without them.
    pub remaining: u32,
    /// The majority and the spare.
    pub needed: u32,
}

impl Wakeful {
    /// `with these votes host2 and host3 can never rest together: 1 would stay and 2 are needed`
    pub fn sentence(&self) -> String {
        let names: Vec<&str> = self.hosts.iter().map(HostName::as_str).collect();
        let can = match names.as_slice() {
            [one] => format!("{one} can never rest"),
            [first @ .., last] => {
                format!("{} and {last} can never rest together", first.join(", "))
            }
            [] => "nobody can ever rest".to_owned(),
        };
        let Wakeful { remaining, needed, .. } = self;
        let stay = if *remaining == 1 {
            "1 vote would stay"
        } else {
            &format!("{remaining} votes would stay")
        };
        format!("with these votes {can}: {stay} and {needed} are needed")
    }
}

/// Instants looked at for who sleeps together; a few months of an ordinary home.
const INSTANTS_AT_MOST: usize = 500;
/// Openings of one window among them.
const OPENINGS_EACH: usize = 60;
/// Larger sets are told as the whole that sleeps at once: nobody thinks in sets of four.
const LARGEST_SET: usize = 3;
const TOLD_AT_MOST: usize = 20;

/// The smallest sets of hosts that the votes cannot spare together.
pub fn never_resting(policy: &Policy, votes: &Votes) -> Vec<Wakeful> {
    let all: u32 = votes.hosts.values().fold(votes.device, |sum, votes| sum.saturating_add(*votes));
    let needed = (all / 2 + 1).saturating_add(policy.quorum().spare);
    let without = |hosts: &BTreeSet<&HostName>| {
        let gone = hosts.iter().filter_map(|host| votes.hosts.get(*host)).sum::<u32>();
        all.saturating_sub(gone)
    };
    let mut found: Vec<BTreeSet<&HostName>> = Vec::new();
    for asleep in asleep_together(policy) {
        let mut short = false;
        for size in 1..=LARGEST_SET.min(asleep.len()) {
            for set in sets(&asleep, size) {
                if without(&set) < needed {
                    short = true;
                    if !found.iter().any(|smaller| smaller.is_subset(&set)) {
                        found.push(set);
                    }
                }
            }
        }
        if !short && without(&asleep) < needed && !found.contains(&asleep) {
            found.push(asleep);
        }
    }
    found
        .sort_by_key(|set| (set.len(), set.iter().map(|host| (*host).clone()).collect::<Vec<_>>()));
    let told = |set: BTreeSet<&HostName>| Wakeful {
        remaining: without(&set),
        needed,
        hosts: set.into_iter().cloned().collect(),
    };
    found.into_iter().take(TOLD_AT_MOST).map(told).collect()
}

/// Every set of hosts that no window wants at some time; the largest first.
pub fn asleep_together(policy: &Policy) -> Vec<BTreeSet<&HostName>> {
    let may_sleep = policy.hosts().iter().filter(|(_, host)| host.tier != Tier::Low);
    let may_sleep: Vec<&HostName> = may_sleep.map(|(name, _)| name).collect();
    let mut found: BTreeSet<BTreeSet<&HostName>> = BTreeSet::new();
    for at in edges(policy) {
        let asleep = may_sleep.iter().filter(|host| policy.opening(host, at, &[]).is_none());
        found.insert(asleep.copied().collect());
    }
    let mut found: Vec<BTreeSet<&HostName>> = found.into_iter().collect();
    found.sort_by_key(|set| std::cmp::Reverse(set.len()));
    found
}

/// Instants after which another set of hosts is wanted: whoever sleeps together does so at one of
/// them.
fn edges(policy: &Policy) -> BTreeSet<Timestamp> {
    let begin = judged_from();
    let mut edges = BTreeSet::from([begin]);
    for window in policy.rules().iter().flat_map(|rule| &rule.run) {
        let mut at = window.open_at(begin).and_then(|opening| opening.closes).unwrap_or(begin);
        for _ in 0..OPENINGS_EACH {
            edges.insert(at);
            let Some(closes) = window.next_after(at).and_then(|opening| opening.closes) else {
                break;
            };
            at = closes;
        }
        if edges.len() >= INSTANTS_AT_MOST {
            break;
        }
    }
    edges
}

/// Every subset of `size` hosts.
fn sets<'h>(hosts: &BTreeSet<&'h HostName>, size: usize) -> Vec<BTreeSet<&'h HostName>> {
    let mut sets: Vec<BTreeSet<&HostName>> = vec![BTreeSet::new()];
    for _ in 0..size {
        let mut larger = Vec::new();
        for set in &sets {
            let last = set.last().copied();
            let after = hosts.iter().filter(|host| last.is_none_or(|last| **host > last));
            larger.extend(after.map(|host| set.iter().copied().chain([*host]).collect()));
        }
        sets = larger;
    }
    sets
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::text::must_read;

    fn told(policy: &str, votes: &[(&str, u32)], device: u32) -> String {
        let hosts = votes.iter().map(|(host, votes)| (HostName::from(*host), *votes)).collect();
        let found = never_resting(&must_read(policy), &Votes { hosts, device });
        found.iter().map(Wakeful::sentence).collect::<Vec<_>>().join("\n")
    }

    const HOSTS: &str = r#"timezone: Europe/Berlin
hosts:
  host1: { tier: low }
  host2: { tier: medium, mac: "a8:a1:59:00:00:02" }
  host3: { tier: high, mac: "a8:a1:59:00:00:03" }
"#;

    #[test]
    fn the_reference_home_lets_both_rest() {
        let policy = include_str!("../../policies/homelab.yaml");
        assert_eq!(told(policy, &[("host1", 3), ("host2", 1), ("host3", 1)], 0), "");
        let spare = policy.replace("spare: 0", "spare: 1");
        assert_eq!(
            told(&spare, &[("host1", 3), ("host2", 1), ("host3", 1)], 0),
            "with these votes host2 and host3 can never rest together: 3 votes would stay and 4 are needed"
        );
    }

    #[test]
    fn of_three_equal_votes_one_may_rest() {
        assert_eq!(
            told(HOSTS, &[("host1", 1), ("host2", 1), ("host3", 1)], 0),
            "with these votes host2 and host3 can never rest together: 1 vote would stay and 2 are needed"
        );
    }

    #[test]
    fn hosts_that_never_sleep_at_once_are_no_doubt() {
        let shifts = r#"policies:
  - { name: day, hosts: [host2], run: [{ from: 0 6 * * *, to: 0 20 * * * }] }
  - { name: night, hosts: [host3], run: [{ from: 0 18 * * *, to: 0 8 * * * }] }
"#;
        let votes = [("host1", 1), ("host2", 1), ("host3", 1)];
        assert_eq!(told(&format!("{HOSTS}{shifts}"), &votes, 0), "");
        let gap = shifts.replace("0 18", "0 21");
        assert!(told(&format!("{HOSTS}{gap}"), &votes, 0).contains("host2 and host3"));
    }

    #[test]
    fn a_device_counts_and_a_lonely_pair_cannot_rest() {
        let home = include_str!("../../policies/qdevice/qdevice.yaml");
        let votes = [("nuc", 1), ("vault", 1)];
        assert_eq!(told(home, &votes, 1), "");
        assert_eq!(
            told(home, &votes, 0),
            "with these votes vault can never rest: 1 vote would stay and 2 are needed"
        );
    }

    #[test]
    fn many_hosts_end_soon() {
        let mut hosts = String::from("timezone: UTC\nhosts:\n  host1: { tier: low }\n");
        let mut votes = vec![("host1".to_owned(), 1)];
        for n in 2..32 {
            hosts += &format!("  host{n}: {{ tier: high, mac: \"a8:a1:59:00:00:{n:02x}\" }}\n");
            votes.push((format!("host{n}"), 1));
        }
        let votes: Vec<(&str, u32)> =
            votes.iter().map(|(host, votes)| (host.as_str(), *votes)).collect();
        assert!(
            told(&hosts, &votes, 0).contains("host9 can never rest together: 1 vote would stay")
        );
    }
}
