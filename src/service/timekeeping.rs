//! Whether the wall clock can be trusted: it is synchronised, moves as the clock that never steps
//! does, and is not before the journal's last entry.
//!
//! A wrong clock opens and closes windows at the wrong time, so nothing is powered off and no lease
//! ends on its word. It may still wake hosts: a magic packet harms nothing.
//!
//! **Does not know:** how a clock is synchronised.

use std::time::Duration;

use jiff::SignedDuration;

use crate::cluster::{ClockState, Moment};
use crate::ledger::{Entry, Ledger};

/// Slewing (500 ppm at most) moves a clock by 15 ms in a quiet turn; whatever is beyond this,
/// within one turn, is a step.
const STEP: Duration = Duration::from_secs(5);
/// The journal's entries may be this much ahead: a clock is slewed back a little now and then.
const BEHIND: Duration = Duration::from_secs(2);
/// How long it must hold still before it is trusted again.
const SETTLES: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct Timekeeping {
    /// The last turn's moment.
    last: Option<Moment>,
    /// Still since then.
    still_since: Option<Moment>,
}

/// What a look at the clock gave.
pub(super) struct Verdict {
    pub entries: Vec<Entry>,
    pub sound: bool,
}

impl Timekeeping {
    pub(super) fn look(&mut self, now: Moment, state: ClockState, ledger: &Ledger) -> Verdict {
        let mut entries = Vec::new();
        let stepped = self.last.map_or(SignedDuration::ZERO, |last| step(last, now));
        self.last = Some(now);
        if stepped.unsigned_abs() > STEP {
            self.still_since = None;
            entries.push(Entry::ClockStepped { seconds: stepped.as_secs() });
        }
        let still_since = *self.still_since.get_or_insert(now);
        let behind =
            ledger.last_at.map_or(SignedDuration::ZERO, |last| last.duration_since(now.civil));
        let too_early = behind > SignedDuration::try_from(BEHIND).expect("two seconds");
        let doubted = ledger.clock_stepped.is_some();
        if too_early && !doubted && entries.is_empty() {
            entries.push(Entry::ClockStepped { seconds: behind.as_secs().saturating_neg() });
        }
        let synchronised = match state {
            ClockState::Synchronised => true,
            ClockState::Unsynchronised | ClockState::Unknown => false,
        };
        let settled = synchronised && !too_early && now.since(still_since) >= SETTLES;
        let mut sound = synchronised && !too_early && entries.is_empty() && !doubted;
        if doubted && settled && entries.is_empty() {
            entries.push(Entry::ClockSettled);
            sound = true;
        }
        Verdict { entries, sound }
    }
}

/// How much further the wall clock went than the clock that never steps.
fn step(last: Moment, now: Moment) -> SignedDuration {
    let civil = now.civil.duration_since(last.civil);
    let passed = SignedDuration::try_from(now.since(last)).unwrap_or(SignedDuration::MAX);
    civil.saturating_sub(passed)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    struct Watch {
        keeping: Timekeeping,
        ledger: Ledger,
        told: Vec<String>,
    }

    impl Watch {
        fn new() -> Watch {
            Watch { keeping: Timekeeping::default(), ledger: Ledger::default(), told: vec![] }
        }

        /// Looks at `civil` seconds on the wall and `monotonic` seconds into the run.
        fn look(&mut self, civil: i64, monotonic: u64, state: ClockState) -> bool {
            let civil = Timestamp::from_second(1_000_000 + civil).unwrap();
            let now = Moment { civil, monotonic: Duration::from_secs(monotonic) };
            let verdict = self.keeping.look(now, state, &self.ledger);
            for entry in verdict.entries {
                self.ledger.take(now.civil, &entry).unwrap();
                self.told.push(entry.to_string());
            }
            verdict.sound
        }
    }

    const GOOD: ClockState = ClockState::Synchronised;

    #[test]
    fn a_clock_that_moves_with_time_is_sound() {
        let mut watch = Watch::new();
        assert!((0..10).all(|turn| watch.look(turn * 30, turn.unsigned_abs() * 30, GOOD)));
        assert!(watch.told.is_empty());
    }

    #[test]
    fn a_step_is_told_once_and_trusted_again_after_a_minute() {
        let mut watch = Watch::new();
        assert!(watch.look(0, 0, GOOD));
        assert!(!watch.look(3630, 30, GOOD));
        assert!(!watch.look(3660, 60, GOOD));
        assert!(watch.look(3690, 90, GOOD));
        assert_eq!(
            watch.told,
            [
                "the clock stepped by 3600 s: nothing is powered off until it holds still",
                "the clock holds still again",
            ]
        );
    }

    #[test]
    fn a_clock_an_hour_back_is_unsound_until_it_has_caught_up() {
        let mut watch = Watch::new();
        let last = Entry::ClockSettled;
        watch.ledger.take(Timestamp::from_second(1_003_600).unwrap(), &last).unwrap();
        assert!(!watch.look(0, 0, GOOD));
        assert!(!watch.look(1800, 1800, GOOD));
        assert!(watch.look(3600, 3600, GOOD));
        assert_eq!(watch.told.len(), 2, "{:?}", watch.told);
    }

    #[test]
    fn a_clock_nobody_synchronises_is_unsound_without_a_claim_that_it_stepped() {
        let mut watch = Watch::new();
        assert!(!watch.look(0, 0, ClockState::Unsynchronised));
        assert!(!watch.look(30, 30, ClockState::Unknown));
        assert!(watch.look(60, 60, GOOD));
        assert!(watch.told.is_empty());
    }
}
