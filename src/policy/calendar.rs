//! When a window is open: civil rules in a time zone, answered afresh each turn.
//!
//! Cron is used only on a zone-less calendar and mapped to instants by our own rule, because the
//! `cron` crate given a zone skips a spring night, doubles an autumn one, and answers with times in
//! the past (measured). A gap in spring opens a window at the first instant after it; a repeated hour
//! in autumn counts once, at its first pass.
//!
//! **Does not know:** what time it is, which host a window is for.

use jiff::Timestamp;

/// One stretch in which a window is open. `closes` is after `opens`; `None` when it is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Opening {
    pub opens: Timestamp,
    pub closes: Option<Timestamp>,
}

/// A recurring window: where it opens, how it closes, on which dates it does not open.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {}

impl Window {
    /// The opening that holds at `now`, if one does. Overlapping openings are joined: `opens` is the
    /// earliest, `closes` the latest of the run.
    pub fn open_at(&self, now: Timestamp) -> Option<Opening> {
        let _ = now;
        None
    }

    /// The first opening that opens after `now`; `None` if none within 400 days.
    pub fn next_after(&self, now: Timestamp) -> Option<Opening> {
        let _ = now;
        None
    }
}
