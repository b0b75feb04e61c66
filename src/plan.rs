//! What ought to happen: the order of questions by which a policy, an observation and the ledger
//! become a [`Plan`].
//!
//! Pure and total. It takes no input about *what changed*: one code path for the happy and the
//! repairing case. Nothing here acts; the next requests of each move are planned anew every turn, and
//! the gate judges each of them without believing a word of this file.
//!
//! **Does not know:** clocks, sockets, the gate's clauses, how requests are sent.

pub mod desire;
pub mod emptying;
pub mod hold;
pub mod placement;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::cluster::{HostName, Moment, Observation, Question};
use crate::ledger::Ledger;
use crate::policy::Policy;
use crate::request::{Move, Request};
use crate::undertaking::{Stage, UndertakingId};

pub use desire::{Desire, HostState};
pub use hold::{Hold, Reason};

/// What ought to happen next, and why the rest does not.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Per host of the policy, and per host of the cluster the policy does not name.
    pub desire: BTreeMap<HostName, Desire>,
    /// How each host stands.
    pub states: BTreeMap<HostName, HostState>,
    pub moves: Vec<PlannedMove>,
    /// Open undertakings that end now, without their purpose having been seen.
    pub endings: Vec<Ending>,
    /// Hosts that a window or lease wants now: from here on spot's to switch off.
    pub claims: Vec<(HostName, String)>,
    pub holds: Vec<Hold>,
    pub questions: BTreeSet<Question>,
    /// When to look again at the latest, if nothing else happens before.
    pub revisit_at: Option<Timestamp>,
}

/// One move, with what should be asked next for it (nothing while its requests are in flight).
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedMove {
    pub purpose: Move,
    pub because: String,
    pub requests: Vec<Request>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Ending {
    pub id: UndertakingId,
    pub stage: Stage,
    pub because: String,
}

/// The plan for this turn.
pub fn plan(policy: &Policy, seen: &Observation, ledger: &Ledger, now: Moment) -> Plan {
    let _ = (policy, seen, ledger, now);
    Plan::default()
}
