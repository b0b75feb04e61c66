//! Which hosts ought to be awake, for whose sake, and how each one stands.
//!
//! **Does not know:** guests, requests.

use jiff::Timestamp;

use super::hold::Reason;

/// How a host stands, as spot sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostState {
    /// A member, and ready.
    Awake,
    /// Off, and left in order.
    Resting,
    /// It vanished.
    Missing,
    /// Called by packets, or up and not ready yet.
    Waking,
    /// Asked to power off, or being shut down, and still there.
    Leaving,
    Unknown,
}

impl HostState {
    pub fn word(self) -> &'static str {
        match self {
            HostState::Awake => "awake",
            HostState::Resting => "resting",
            HostState::Missing => "missing",
            HostState::Waking => "waking",
            HostState::Leaving => "leaving",
            HostState::Unknown => "unknown",
        }
    }
}

/// What is wanted of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desire {
    pub awake: bool,
    /// Left exactly as it is: frozen, or not in any policy.
    pub untouched: bool,
    /// The strongest first.
    pub reasons: Vec<Reason>,
    pub until: Option<Timestamp>,
    /// On a person's own word (lease, emptying, proof), not by itself.
    pub commanded: bool,
}
