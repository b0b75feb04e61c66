//! What experience teaches: how fast guests travel, how long a wake really took, and who moves
//! guests back that were just placed.
//!
//! A link's pace is learned from the tasks of migrations, as bytes over time: a surprise that was
//! faster is believed at once, a slower one little by little, for one slow migration may have had
//! bad company. Of two hosts the slower one is to blame. Estimates keep their errors, and only
//! lateness is added to the next one: being early costs minutes, being late breaks a promise.
//!
//! **Does not know:** what is wanted, when anything is due.

use std::collections::VecDeque;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Ledger, SAMPLES};
use crate::cluster::{HostName, Vmid};

/// What a migration takes beside its bytes: the other side starts, locks come and go (recorded).
pub const OVERHEAD_SECONDS: u64 = 6;
/// A surprise that was slower counts this much of ten.
const SLOWER_COUNTS: u64 = 3;
/// Less than this says nothing of a link.
const LEAST_SAMPLE_BYTES: u64 = 256 << 20;
/// Errors of this many latest estimates are heeded.
const ERRORS_HEEDED: usize = 5;
/// Moves by others longer ago than this are another story.
const STORY_SECONDS: i64 = 86_400;

/// Where we last moved a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    pub from: HostName,
    pub to: HostName,
    pub at: Timestamp,
}

/// A wake ahead of a window, as it was planned when it began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    pub policy: String,
    /// When the window opens.
    pub opens: Timestamp,
    pub began: Timestamp,
    pub boot_seconds: u64,
    pub guests: u32,
    pub move_seconds: u64,
}

impl Expected {
    pub fn seconds(&self) -> u64 {
        self.boot_seconds.saturating_add(self.move_seconds)
    }
}

/// Keeps the newest samples.
pub(super) fn keep<T>(samples: &mut VecDeque<T>, sample: T) {
    samples.push_back(sample);
    while samples.len() > SAMPLES {
        samples.pop_front();
    }
}

impl super::HostRecord {
    /// How much later than estimated its latest wakes served: what the next estimate adds.
    pub fn late_seconds(&self) -> u64 {
        let latest = self.estimate_errors.iter().rev().take(ERRORS_HEEDED);
        latest.copied().max().map_or(0, |worst| u64::try_from(worst).unwrap_or(0))
    }
}

impl Ledger {
    /// Bytes a second between two hosts, as far as either is known.
    pub fn pace_between(&self, from: &HostName, to: &HostName) -> Option<u64> {
        let link = |host: &HostName| self.hosts.get(host).and_then(|host| host.link_pace);
        match (link(from), link(to)) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }

    /// A migration of `bytes` took `seconds` beside `beside` others.
    pub(super) fn learn_pace(
        &mut self,
        hosts: [&HostName; 2],
        bytes: u64,
        seconds: u64,
        beside: u32,
    ) {
        if bytes < LEAST_SAMPLE_BYTES {
            return;
        }
        let travelled = seconds.saturating_sub(OVERHEAD_SECONDS).max(1);
        let sample = bytes.saturating_mul(u64::from(beside) + 1) / travelled;
        let link = |host: &HostName| self.hosts.get(host).and_then(|host| host.link_pace);
        let [one, other] = hosts.map(link);
        let known = one.into_iter().chain(other).min();
        for (host, pace) in hosts.into_iter().zip([one, other]) {
            let learned = match pace {
                None => sample,
                Some(pace) if pace <= sample => sample,
                Some(pace) if Some(pace) == known => {
                    (pace * (10 - SLOWER_COUNTS) + sample * SLOWER_COUNTS) / 10
                }
                // The other host is slower than this one: nothing is learned of it.
                Some(pace) => pace,
            };
            self.hosts.entry(host.clone()).or_default().link_pace = Some(learned);
        }
    }

    /// Somebody else moved a guest that we had placed.
    pub(super) fn moved_by_others(&mut self, at: Timestamp, guest: Vmid) {
        let record = self.guests.entry(guest).or_default();
        let last = record.moved_away_at.map_or(i64::MIN, Timestamp::as_second);
        let same_story = last.saturating_add(STORY_SECONDS) >= at.as_second();
        record.moved_away = if same_story { record.moved_away.saturating_add(1) } else { 1 };
        record.moved_away_at = Some(at);
        record.placed = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn learn(ledger: &mut Ledger, from: &str, to: &str, mib_per_second: u64) {
        let bytes = 100 * mib_per_second * MIB;
        ledger.learn_pace([&from.into(), &to.into()], bytes, 100 + OVERHEAD_SECONDS, 0);
    }

    fn pace(ledger: &Ledger, from: &str, to: &str) -> Option<u64> {
        ledger.pace_between(&from.into(), &to.into()).map(|pace| pace / MIB)
    }

    #[test]
    fn the_slower_host_of_two_is_to_blame() {
        let mut ledger = Ledger::default();
        assert_eq!(pace(&ledger, "a", "b"), None);
        learn(&mut ledger, "a", "b", 100);
        assert_eq!(pace(&ledger, "a", "c"), Some(100), "what is not known is not slower");
        learn(&mut ledger, "a", "c", 1000);
        assert_eq!((pace(&ledger, "a", "c"), pace(&ledger, "a", "b")), (Some(1000), Some(100)));
        learn(&mut ledger, "a", "b", 100);
        assert_eq!(pace(&ledger, "a", "c"), Some(1000), "b held it up, not a");
    }

    #[test]
    fn a_slow_one_counts_little_by_little_and_a_fast_one_at_once() {
        let mut ledger = Ledger::default();
        learn(&mut ledger, "a", "b", 100);
        learn(&mut ledger, "a", "b", 50);
        assert_eq!(pace(&ledger, "a", "b"), Some(85));
        for _ in 0..20 {
            learn(&mut ledger, "a", "b", 50);
        }
        assert_eq!(pace(&ledger, "a", "b"), Some(50));
        learn(&mut ledger, "a", "b", 110);
        assert_eq!(pace(&ledger, "a", "b"), Some(110));
    }

    #[test]
    fn who_shared_the_link_was_not_slow() {
        let mut ledger = Ledger::default();
        ledger.learn_pace([&"a".into(), &"b".into()], 5000 * MIB, 106, 1);
        assert_eq!(pace(&ledger, "a", "b"), Some(100));
    }

    #[test]
    fn only_lateness_is_added_to_the_next_estimate() {
        let mut record = super::super::HostRecord::default();
        assert_eq!(record.late_seconds(), 0);
        record.estimate_errors.extend([400, -30, -60, 45, -10, 20]);
        assert_eq!(record.late_seconds(), 45, "the 400 was too long ago");
    }
}
