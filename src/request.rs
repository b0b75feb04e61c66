//! What can be asked of the world: a [`Request`], the [`Move`] it serves, and what was answered.
//!
//! Wishes go out as data. A request carries everything its sender needs (the ways of a wake travel
//! inside it), so that contact never looks anything up in a policy.
//!
//! **Does not know:** why something is asked, or whether it may be.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::cluster::{GuestKind, HostName, Vmid, Way};

/// A purpose: one thing that ought to become true.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Move {
    /// The host is awake and ready.
    Wake(HostName),
    /// No guest runs on the host.
    Empty(HostName),
    /// The host is off, and left in order.
    Rest(HostName),
    /// The guest runs on the host.
    Place(Vmid, HostName),
}

impl Move {
    /// The host this is about.
    pub fn host(&self) -> &HostName {
        match self {
            Move::Wake(host) | Move::Empty(host) | Move::Rest(host) | Move::Place(_, host) => host,
        }
    }
}

impl fmt::Display for Move {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Move::Wake(host) => write!(f, "wake {host}"),
            Move::Empty(host) => write!(f, "empty {host}"),
            Move::Rest(host) => write!(f, "rest {host}"),
            Move::Place(guest, host) => write!(f, "place guest {guest} on {host}"),
        }
    }
}

/// How a guest changes hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Migration {
    /// A running VM, without a pause.
    Live,
    /// A running container: stop, move, start.
    Restart,
    /// A stopped guest.
    Offline,
}

/// One thing asked of the world.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Request {
    /// One volley of magic packets by every way.
    Wake {
        host: HostName,
        ways: Vec<Way>,
    },
    Migrate {
        guest: Vmid,
        kind: GuestKind,
        from: HostName,
        to: HostName,
        how: Migration,
        /// Copy local disks along (live migration only).
        local_disks: bool,
        /// Bytes a second it may take of the link; `None` as many as there are.
        #[serde(default)]
        bandwidth: Option<u64>,
    },
    /// Suspend to disk.
    Hibernate {
        guest: Vmid,
        host: HostName,
    },
    /// Ask the guest to shut down; never forced.
    ShutDownGuest {
        guest: Vmid,
        kind: GuestKind,
        host: HostName,
        /// How long PVE waits before it gives up; the guest then keeps running.
        timeout_seconds: u32,
    },
    StartGuest {
        guest: Vmid,
        kind: GuestKind,
        host: HostName,
    },
    PowerOff {
        host: HostName,
    },
}

impl Request {
    pub fn guest(&self) -> Option<Vmid> {
        match self {
            Request::Wake { .. } | Request::PowerOff { .. } => None,
            Request::Migrate { guest, .. }
            | Request::Hibernate { guest, .. }
            | Request::ShutDownGuest { guest, .. }
            | Request::StartGuest { guest, .. } => Some(*guest),
        }
    }

    /// Every host it touches.
    pub fn hosts(&self) -> Vec<&HostName> {
        match self {
            Request::Migrate { from, to, .. } => vec![from, to],
            Request::Wake { host, .. }
            | Request::Hibernate { host, .. }
            | Request::ShutDownGuest { host, .. }
            | Request::StartGuest { host, .. }
            | Request::PowerOff { host } => vec![host],
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Request::Wake { host, ways } => {
                let s = if ways.len() == 1 { "" } else { "s" };
                write!(
                    f,
                    "send magic packets to {host} ({} address{}{s})",
                    ways.len(),
                    if s.is_empty() { "" } else { "e" }
                )
            }
            Request::Migrate { guest, kind, from, to, how, .. } => match how {
                Migration::Live => write!(f, "migrate {kind} {guest} live from {from} to {to}"),
                Migration::Restart => {
                    write!(f, "migrate {kind} {guest} by a restart from {from} to {to}")
                }
                Migration::Offline => {
                    write!(f, "migrate stopped {kind} {guest} from {from} to {to}")
                }
            },
            Request::Hibernate { guest, host } => write!(f, "hibernate vm {guest} on {host}"),
            Request::ShutDownGuest { guest, kind, host, .. } => {
                write!(f, "shut down {kind} {guest} on {host}")
            }
            Request::StartGuest { guest, kind, host } => {
                write!(f, "start {kind} {guest} on {host}")
            }
            Request::PowerOff { host } => write!(f, "power off {host}"),
        }
    }
}

/// What the world said at once. Whether it *worked* is seen later, never read from here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "said", rename_all = "snake_case")]
pub enum Answered {
    /// Taken up; with PVE's task where there is one.
    Accepted { task: Option<String> },
    /// Packets were handed to the kernel: nothing more is known. `but` says which of several ways
    /// stayed closed, one clause each.
    Sent {
        packets: u32,
        by: Vec<String>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        but: Vec<String>,
    },
    /// Clearly refused, with PVE's own words; nothing was done.
    Refused { sentence: String },
    /// Clearly never delivered (connection refused, name unknown); nothing was done.
    Undelivered { sentence: String },
    /// Timed out or cut: it may well have been done. Looked up, never repeated blindly.
    Ambiguous { sentence: String },
}

impl fmt::Display for Answered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answered::Accepted { .. } => f.write_str("accepted"),
            Answered::Sent { packets, by, but } => {
                let s = if *packets == 1 { "" } else { "s" };
                write!(f, "{packets} packet{s} sent by {}", by.join(", "))?;
                if but.is_empty() { Ok(()) } else { write!(f, "; but {}", but.join("; ")) }
            }
            Answered::Refused { sentence } => write!(f, "refused: {sentence}"),
            Answered::Undelivered { sentence } => write!(f, "not delivered: {sentence}"),
            Answered::Ambiguous { sentence } => {
                write!(f, "no clear answer ({sentence}); what became of it will be looked up")
            }
        }
    }
}
