//! What people ask, and what becomes of it: an [`Ask`] is refused with a remedy, or turned into
//! entries.
//!
//! The command line, the page and the tests all ask by the same words. Who asks is never part of
//! the words: the socket knows it from the kernel, so nobody can ask in another's name.
//!
//! **Does not know:** whether what is asked will be possible; the plan and the gate find out.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::cluster::{HostName, Vmid};
use crate::policy::Policy;

/// What people ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "want", rename_all = "snake_case", deny_unknown_fields)]
pub enum Ask {
    /// Awake until `until`, or for so many seconds, or for as long as the host's policy says.
    Up {
        #[serde(default)]
        hosts: Vec<HostName>,
        /// Instead of hosts: the first host this guest prefers.
        #[serde(default)]
        guest: Option<Vmid>,
        #[serde(default)]
        until: Option<Timestamp>,
        #[serde(default)]
        for_seconds: Option<u64>,
        #[serde(default)]
        because: Option<String>,
    },
    /// Asleep until `until`, or for so many seconds, or until its next window opens.
    Down {
        hosts: Vec<HostName>,
        #[serde(default)]
        until: Option<Timestamp>,
        #[serde(default)]
        for_seconds: Option<u64>,
    },
    /// Drained and kept on, until released.
    Empty {
        host: HostName,
    },
    /// Ends its lease, its emptying and its proof now.
    Release {
        host: HostName,
    },
    Freeze {
        host: HostName,
    },
    Thaw {
        host: HostName,
    },
    /// One supervised sleep and wake.
    Prove {
        host: HostName,
    },
}

/// What the service says to an [`Ask`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "said", rename_all = "snake_case")]
pub enum Asked {
    /// Journaled; one sentence for each host, and one for each thing worth knowing beforehand.
    Taken {
        sentences: Vec<String>,
    },
    Refused {
        sentence: String,
        remedy: String,
    },
    /// In `rehearse` nothing is touched before the owner has confirmed: ask again, confirmed.
    Confirm {
        sentence: String,
    },
}

/// An [`Ask`] on its way: who asks, whether it was confirmed, and where the answer goes.
#[derive(Debug)]
pub struct Asking {
    pub ask: Ask,
    /// The user who asks, as the kernel says.
    pub by: String,
    /// The owner has confirmed it; only asked for in `rehearse`.
    pub confirmed: bool,
    /// Dropped unanswered when the asker has gone away.
    pub answer: Option<tokio::sync::oneshot::Sender<Asked>>,
}

/// A policy source's news.
#[derive(Clone, Debug)]
pub enum PolicyNews {
    /// A valid policy, and the commit (or the print of a folder) it came from.
    Valid { policy: Box<Policy>, commit: String },
    /// A newer one that is not valid, or a source that cannot be read: the last valid one stays.
    Refused { sentence: String },
}

/// Everything that came in since the last turn, read once at a turn's start.
#[derive(Debug, Default)]
pub struct Inbox {
    pub asks: Vec<Asking>,
    /// The newest only.
    pub policy: Option<PolicyNews>,
}
