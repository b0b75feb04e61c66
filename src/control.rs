//! The socket by which the command line asks the service.
//!
//! A Unix socket of mode 0660; who asks is what the kernel says of the peer, never what the peer
//! says of itself, and is journaled. One JSON line asks, one JSON line answers, both with `"v": 1`:
//!
//! ```text
//! {"v":1,"ask":{"want":"up","hosts":["host3"],"for_seconds":14400}}
//!     {"v":1,"answered":{"said":"taken","sentences":[…]}}
//! {"v":1,"look":{"at":"status"}}
//!     {"v":1,"seen":{…}}
//! {"v":1,"follow":true}
//!     {"v":1,"status":{…}} and {"v":1,"entry":{…}} until closed
//! anything else
//!     {"v":1,"error":{"sentence":…,"remedy":…}}
//! ```
//!
//! Whatever arrives, the answer is a sentence and never a panic; every length, number and wait has
//! a limit.
//!
//! **Does not know:** what an ask leads to. The service decides, at its next turn.

mod client;
mod server;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::cluster::HostName;
use crate::service::{Ask, Asked};
use crate::status::{EntryShown, Status, Trouble};

pub use client::{Client, Following};
pub use server::{Control, bind};

/// The protocol's version; another one is answered with an error and nothing is done.
pub const VERSION: u32 = 1;
/// A request longer than this is an attack or a mistake.
const LINE_BYTES: usize = 64 * 1024;
/// Peers at once, followers among them.
const PEERS: usize = 32;

/// What a peer sends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sent {
    pub v: u32,
    #[serde(flatten)]
    pub what: Wish,
    /// The owner confirmed it; asked for in `rehearse`.
    #[serde(default)]
    pub confirmed: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wish {
    Ask(Ask),
    Look(Look),
    Follow(bool),
}

/// What can be looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "at", rename_all = "snake_case")]
pub enum Look {
    Status,
    Plan,
    Why {
        host: HostName,
    },
    Agenda {
        days: u32,
        /// The instant of the last look if not given.
        #[serde(default)]
        from: Option<Timestamp>,
    },
    History {
        #[serde(default)]
        host: Option<HostName>,
        #[serde(default)]
        since: Option<Timestamp>,
        #[serde(default)]
        limit: Option<u32>,
    },
}

/// What the service sends back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    pub v: u32,
    #[serde(flatten)]
    pub what: Said,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    Answered(Asked),
    Seen(serde_json::Value),
    Status(Box<Status>),
    Entry(EntryShown),
    Error(Trouble),
}

/// What a follower hears.
#[derive(Clone, Debug, PartialEq)]
pub enum News {
    Status(Box<Status>),
    Entry(EntryShown),
}

/// Why the service could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum Unheard {
    /// No socket, or nobody behind it: the service does not run.
    #[error("no service answers at {path}")]
    NotRunning {
        path: String,
        #[source]
        source: std::io::Error,
    },
    /// The socket is there and we may not use it.
    #[error("no permission to use the socket {path}")]
    Forbidden {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("the service closed the connection")]
    Closed,
    #[error("the service did not answer in time")]
    Late,
    #[error("talking to the service over its socket")]
    Broken(#[source] std::io::Error),
    #[error("the service answered something this version does not understand: {0}")]
    Strange(String),
    /// It refused the request itself, in words.
    #[error("{}", .0.sentence)]
    Said(Trouble),
}

impl Unheard {
    /// What the owner can do about it.
    pub fn remedy(&self) -> String {
        match self {
            Unheard::NotRunning { .. } => "start it: systemctl start spot".into(),
            Unheard::Forbidden { .. } => {
                "run the command as root, or as a member of the socket's group".into()
            }
            Unheard::Closed | Unheard::Late | Unheard::Broken(_) => {
                "look at the service: journalctl -u spot".into()
            }
            Unheard::Strange(_) => {
                "the command and the service are of different versions: restart the service".into()
            }
            Unheard::Said(trouble) => trouble.remedy.clone(),
        }
    }
}

#[cfg(test)]
mod tests;
