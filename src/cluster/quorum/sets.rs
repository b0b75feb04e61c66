//! Which hosts may be off together: every set of a few hosts, the smallest forbidden sets of many.
//!
//! Ten hosts have 1023 sets, which is the most that is worth a list; of more, only the smallest
//! sets that may not are told, for whatever holds one of them may not either.
//!
//! **Does not know:** by which rule a set is judged.

use std::collections::BTreeSet;

use crate::cluster::HostName;

/// So many hosts have all their sets listed.
pub const MOST_LISTED: usize = 10;
/// Smallest forbidden sets that are told.
pub const MOST_FORBIDDEN: usize = 100;
/// Sets looked at for them: equal votes of many hosts have more of them than anybody reads.
const MOST_JUDGED: usize = 20_000;

type Set = BTreeSet<HostName>;

/// Every set of these hosts but the empty one, the smaller first; `None` where they are too many.
pub fn every(hosts: &[HostName]) -> Option<Vec<Set>> {
    if hosts.len() > MOST_LISTED {
        return None;
    }
    let of = |mask: u32| -> Set {
        let chosen = hosts.iter().enumerate().filter(|(at, _)| mask >> at & 1 == 1);
        chosen.map(|(_, host)| host.clone()).collect()
    };
    let mut sets: Vec<Set> = (1..1u32 << hosts.len()).map(of).collect();
    sets.sort_by_key(|set| (set.len(), set.iter().cloned().collect::<Vec<_>>()));
    Some(sets)
}

/// The smallest sets that may not be off together, and whether these are all of them.
pub fn smallest_forbidden(
    hosts: &[HostName],
    may: &mut dyn FnMut(&Set) -> bool,
) -> (Vec<Set>, bool) {
    let mut forbidden: Vec<Set> = Vec::new();
    // Sets of one size that may, by the place of their last host, from which the next size grows.
    let mut allowed: Vec<(usize, Set)> = vec![(0, Set::new())];
    let mut judged = 0;
    while !allowed.is_empty() {
        let mut larger = Vec::new();
        for (from, set) in &allowed {
            for (at, host) in hosts.iter().enumerate().skip(*from) {
                let mut set = set.clone();
                set.insert(host.clone());
                if forbidden.iter().any(|small| small.is_subset(&set)) {
                    continue;
                }
                judged += 1;
                if judged > MOST_JUDGED || forbidden.len() >= MOST_FORBIDDEN {
                    return (forbidden, false);
                }
                if may(&set) {
                    larger.push((at + 1, set));
                } else {
                    forbidden.push(set);
                }
            }
        }
        allowed = larger;
    }
    (forbidden, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(count: usize) -> Vec<HostName> {
        (1..=count).map(|n| HostName(format!("h{n:02}"))).collect()
    }

    #[test]
    fn ten_hosts_have_all_their_sets_listed_and_eleven_have_not() {
        assert_eq!(every(&hosts(10)).unwrap().len(), 1023);
        assert_eq!(every(&hosts(3)).unwrap()[0].len(), 1);
        assert_eq!(every(&hosts(3)).unwrap()[6].len(), 3);
        assert!(every(&hosts(11)).is_none());
    }

    #[test]
    fn the_smallest_forbidden_sets_say_all_about_the_larger_ones() {
        let three = hosts(5);
        let mut may = |set: &BTreeSet<HostName>| set.len() < 3;
        let (forbidden, all) = smallest_forbidden(&three, &mut may);
        assert!(all);
        assert_eq!(forbidden.len(), 10);
        for set in every(&three).unwrap() {
            let held = forbidden.iter().any(|small| small.is_subset(&set));
            assert_eq!(!held, may(&set), "{set:?}");
        }
    }

    #[test]
    fn many_equal_hosts_end_soon_and_say_that_there_are_more() {
        let (forbidden, all) = smallest_forbidden(&hosts(32), &mut |set| set.len() < 16);
        assert!(!all && forbidden.len() <= MOST_FORBIDDEN);
        let (forbidden, all) = smallest_forbidden(&hosts(32), &mut |set| set.len() < 2);
        assert!(!all && forbidden.len() == MOST_FORBIDDEN);
        let (forbidden, all) =
            smallest_forbidden(&hosts(32), &mut |set| !set.contains(&HostName::from("h01")));
        assert!(forbidden.len() <= 1, "{all}");
    }
}
