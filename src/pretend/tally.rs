//! What the pretended world itself saw happen: the count at the end and the story along the way.
//!
//! The world judges from its own truth, not from anything a client reported, so a client that looks
//! away cannot look good.
//!
//! **Does not know:** policies; it counts what anybody would call a broken promise.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use crate::cluster::HostName;

/// What the world saw happen so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// Hosts started by a magic packet.
    pub wakes: u32,
    /// Power-offs asked over the API and carried out.
    pub power_offs: u32,
    /// Live and offline migrations that ended well.
    pub migrations: u32,
    /// Containers moved by a restart.
    pub restarts: u32,
    pub hibernations: u32,
    /// Guests shut down over the API.
    pub shutdowns: u32,
    pub awake: BTreeMap<HostName, Duration>,
    /// How long a running part of the cluster was without the quorum it had had.
    pub without_quorum: Duration,
    /// Guests stopped hard or cut off by a power-off that was asked over the API.
    pub guests_lost: u32,
    /// Harm that nobody could have foreseen when asking: a crash or a hand in the same seconds.
    pub bad_luck: u32,
    pub promises_broken: Vec<String>,
}

impl Tally {
    pub fn awake_seconds(&self, host: &HostName) -> u64 {
        self.awake.get(host).map_or(0, Duration::as_secs)
    }

    pub fn seconds_without_quorum(&self) -> u64 {
        self.without_quorum.as_secs()
    }
}

/// One line of the world's story.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Happening {
    pub at: Timestamp,
    /// `host3`, `vm 201`, `owner`, `cluster`.
    pub who: String,
    pub what: String,
}

impl std::fmt::Display for Happening {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}: {}", self.at, self.who, self.what)
    }
}
