//! One turn after the other: inbox, observe, notice, plan, check, advance, publish.
//!
//! A turn takes no account of *what changed*; it looks at everything and plans afresh, so that a
//! restart, a missed message or a surprise needs no code of its own. Whatever people ask enters here
//! and nowhere else, and becomes a journal entry before it becomes an act.
//!
//! **Does not know:** PVE, sockets, files. It is generic over [`Site`](crate::site::Site), and time is the site's.

mod inbox;

pub use inbox::{Ask, Asked, Asking, Inbox, PolicyNews};

/// What the service is told once, from `spot.yaml`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The cluster's name, in every entry and document.
    pub cluster: String,
    pub mode: crate::gate::Mode,
    pub here: crate::gate::Here,
}

/// What a turn did.
#[derive(Clone, Debug)]
pub struct TurnReport {
    /// What was journaled in this turn, in order.
    pub entries: Vec<(jiff::Timestamp, crate::ledger::Entry)>,
    pub status: crate::status::Status,
    /// When the next turn is due at the latest.
    pub revisit: crate::cluster::Moment,
}
