//! The judge: a table of named clauses that clears a request or refuses it.
//!
//! **Does not know:** policy, plan, ledger, money, time of day. It must refuse the planner's best
//! excuse.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::cluster::{HostName, Observation, Question, Vmid};
use crate::request::{Move, Request};
use crate::undertaking::Undertaking;

/// Whether anything automatic may act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Only what a person asked for, after a confirmation.
    Rehearse,
    Act,
}

/// Where `spot` itself lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Here {
    Host(HostName),
    Guest(Vmid),
    Outside,
    /// Not known: then nothing is powered off.
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvidenceKind {
    Runtime,
    Configured,
}

/// What the gate may rely on beyond the observation: plain data, built by code that shares nothing
/// with the planner.
#[derive(Clone, Debug, PartialEq)]
pub struct Bounds {
    pub mode: Mode,
    /// Votes to keep above the bare majority.
    pub spare: u32,
    pub evidence: EvidenceKind,
    /// Hosts that may be powered off now.
    pub may_rest: BTreeSet<HostName>,
    /// Guests that may be shut down, hibernated or restarted.
    pub may_stop_guests: BTreeSet<Vmid>,
    /// Guests that may be started: put away by spot, or asked for.
    pub may_start_guests: BTreeSet<Vmid>,
    /// Hosts that are never powered off: tier low.
    pub never: BTreeSet<HostName>,
    pub frozen: BTreeSet<HostName>,
    /// Hosts a person's own command is about: the only ones touched in rehearse.
    pub commanded: BTreeSet<HostName>,
    pub here: Here,
    /// Hosts and guests on which the QDevice's server lives, as the owner says.
    pub qnetd_on: BTreeSet<HostName>,
    /// When corosync.conf was last seen to change.
    pub config_changed_at: Option<Timestamp>,
    /// The wall clock is synchronised, holds still, and is not before the journal's last entry.
    pub clock_sound: bool,
}

/// A request that may be sent. Made only here.
#[derive(Clone, Debug, PartialEq)]
pub struct Cleared {
    purpose: Move,
    request: Request,
}

impl Cleared {
    pub fn purpose(&self) -> &Move {
        &self.purpose
    }

    pub fn request(&self) -> &Request {
        &self.request
    }
}

/// Why a request may not be sent now.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    pub purpose: Move,
    pub request: Request,
    /// The clause that refused, by its name.
    pub clause: &'static str,
    pub sentence: String,
    pub remedy: String,
    /// It only waits for answers that are on their way: not worth telling.
    pub waiting: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ruling {
    pub cleared: Vec<Cleared>,
    pub refusals: Vec<Refusal>,
    /// What must be known before a refusal can become a clearance.
    pub questions: BTreeSet<Question>,
}

/// Judges each request against the observation, together with everything under way.
pub fn check(
    requests: &[(Move, Request)],
    under_way: &[&Undertaking],
    seen: &Observation,
    bounds: &Bounds,
) -> Ruling {
    let _ = (requests, under_way, seen, bounds);
    Ruling::default()
}
