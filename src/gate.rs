//! The judge. Every request passes here before it is sent, and nothing else can make a [`Cleared`].
//!
//! The gate is a table of named [`CLAUSES`]. Each one looks at one danger, and refuses with a
//! sentence and a remedy, asks for what it must know, or is content. A request is cleared only when
//! every clause that concerns its kind is content. The planner may be wrong, may have been handed a
//! foolish policy, or may act on what was true a minute ago: the gate relies on none of it. It
//! judges what is seen now, against [`Bounds`] built by code of its own, together with every stop
//! under way.
//!
//! For a power-off that means: fresh evidence from every member, in one ring, all quorate, and
//! votes that suffice without the host; the host's own lists showing no running guest, and proof
//! that we see every guest there is; and, in the very turn of the request, one more look through
//! the eyes of every survivor. Whatever is unknown is a refusal. What remains is the time between
//! that last look and the stop, and a crash inside it: that is bad luck, and no program can do
//! better without fencing.
//!
//! **Does not know:** policy, plan, ledger, money, time of day. It must refuse the planner's best
//! excuse.

mod clauses;
#[cfg(test)]
mod tests;

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
    /// What the members themselves show now.
    Runtime,
    /// corosync.conf and `/cluster/status` only: weaker, and only on the owner's word.
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
    /// Guests that may be shut down.
    pub may_stop_guests: BTreeSet<Vmid>,
    /// VMs that may be hibernated.
    pub may_hibernate_guests: BTreeSet<Vmid>,
    /// Containers that may move by a restart.
    pub may_restart_guests: BTreeSet<Vmid>,
    /// Guests that may be started: put away by spot, or asked for.
    pub may_start_guests: BTreeSet<Vmid>,
    /// Hosts that are never powered off: tier low.
    pub never: BTreeSet<HostName>,
    pub frozen: BTreeSet<HostName>,
    /// Hosts whose owner lets a shutdown interrupt tasks, backups, or leave locked guests behind.
    pub tasks_ignored: BTreeSet<HostName>,
    pub backups_ignored: BTreeSet<HostName>,
    pub locks_ignored: BTreeSet<HostName>,
    /// Hosts a person's own command is about: the only ones touched in rehearse.
    pub commanded: BTreeSet<HostName>,
    pub here: Here,
    /// Hosts on which the QDevice's server lives, as the owner says.
    pub qnetd_on: BTreeSet<HostName>,
    /// Hosts that left in order and have not been seen since.
    pub known_off: BTreeSet<HostName>,
    /// Configured votes of the QDevice, 0 without one; `None` when no report was ever read. Counted
    /// only where the evidence is `configured`.
    pub device_votes: Option<u32>,
    /// When corosync.conf was last seen to change.
    pub config_changed_at: Option<Timestamp>,
    /// The wall clock is synchronised, holds still, and is not before the journal's last entry.
    pub clock_sound: bool,
}

/// A request that may be sent, now. Made only by [`check`].
#[derive(Clone, Debug, PartialEq)]
pub struct Cleared {
    purpose: Move,
    request: Request,
    by_configured_votes: bool,
}

impl Cleared {
    pub fn purpose(&self) -> &Move {
        &self.purpose
    }

    pub fn request(&self) -> &Request {
        &self.request
    }

    /// A power-off whose quorum was judged by the weaker evidence, which every record of it says.
    pub fn by_configured_votes(&self) -> bool {
        self.by_configured_votes
    }
}

/// Why a request may not be sent now.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    pub purpose: Move,
    pub request: Request,
    /// The clause that refused, by its name.
    pub clause: &'static str,
    /// What it found, where that has a name of its own (`expected_lowered`); else the clause's.
    pub code: &'static str,
    pub sentence: String,
    pub remedy: String,
    /// It only waits for answers that are on their way: not worth telling.
    pub waiting: bool,
    /// It was said on answers that are dear to have: asking again at once would wear hosts out.
    pub dear: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ruling {
    pub cleared: Vec<Cleared>,
    pub refusals: Vec<Refusal>,
    /// What must be known before a refusal can become a clearance.
    pub questions: BTreeSet<Question>,
}

/// What a clause says of a case.
#[derive(Clone, Debug, PartialEq)]
enum Finding {
    Content,
    Refuse {
        /// The name of what was found, where the clause knows several.
        code: Option<&'static str>,
        sentence: String,
        remedy: String,
    },
    /// Not known yet. With a sentence when it was asked and could not be had.
    Ask {
        questions: BTreeSet<Question>,
        sentence: Option<String>,
    },
}

/// When a clause is heard. A later stage is heard only when the earlier ones are content, so that
/// dear questions are asked only for a request that could be cleared, and the last look is the
/// last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// On the quiet look and the bounds alone.
    AtOnce,
    /// On what the members show of themselves: at most 60 s old.
    OnEvidence,
    /// On answers asked in this very turn.
    LastLook,
}

const STAGES: [Stage; 3] = [Stage::AtOnce, Stage::OnEvidence, Stage::LastLook];

/// Kinds of requests, for the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Wake,
    Migrate,
    /// Hibernate or shut down a guest.
    StopGuest,
    StartGuest,
    PowerOff,
}

impl Kind {
    fn of(request: &Request) -> Kind {
        match request {
            Request::Wake { .. } => Kind::Wake,
            Request::Migrate { .. } => Kind::Migrate,
            Request::Hibernate { .. } | Request::ShutDownGuest { .. } => Kind::StopGuest,
            Request::StartGuest { .. } => Kind::StartGuest,
            Request::PowerOff { .. } => Kind::PowerOff,
        }
    }
}

/// One request, with everything it is judged by.
struct Case<'a> {
    request: &'a Request,
    under_way: &'a [&'a Undertaking],
    /// Requests cleared earlier in this same turn.
    cleared: &'a [Cleared],
    seen: &'a Observation,
    bounds: &'a Bounds,
}

struct Clause {
    name: &'static str,
    concerns: &'static [Kind],
    stage: Stage,
    judge: fn(&Case<'_>) -> Finding,
}

const ALL: &[Kind] =
    &[Kind::Wake, Kind::Migrate, Kind::StopGuest, Kind::StartGuest, Kind::PowerOff];
const GUESTS: &[Kind] = &[Kind::Migrate, Kind::StopGuest, Kind::StartGuest];
const BUT_WAKE: &[Kind] = &[Kind::Migrate, Kind::StopGuest, Kind::StartGuest, Kind::PowerOff];
const STOPS: &[Kind] = &[Kind::StopGuest, Kind::PowerOff];
const MIGRATE: &[Kind] = &[Kind::Migrate];
const STOP_GUEST: &[Kind] = &[Kind::Migrate, Kind::StopGuest];
const START_GUEST: &[Kind] = &[Kind::StartGuest];
const WAKE: &[Kind] = &[Kind::Wake];
const POWER_OFF: &[Kind] = &[Kind::PowerOff];

macro_rules! clause {
    ($name:ident, $concerns:expr, $stage:ident) => {
        Clause {
            name: stringify!($name),
            concerns: $concerns,
            stage: Stage::$stage,
            judge: clauses::$name,
        }
    };
}

/// Everything that can stand against a request, in the order in which it is told.
const CLAUSES: &[Clause] = &[
    // May anything be done here at all?
    clause!(known_host, ALL, AtOnce),
    clause!(frozen, ALL, AtOnce),
    clause!(rehearsal, ALL, AtOnce),
    clause!(whole_look, BUT_WAKE, AtOnce),
    clause!(quorate_now, BUT_WAKE, AtOnce),
    clause!(clock, STOPS, AtOnce),
    // Waking.
    clause!(absent, WAKE, AtOnce),
    // Guests.
    clause!(guest_free, GUESTS, AtOnce),
    clause!(guest_as_said, GUESTS, AtOnce),
    clause!(hosts_up, GUESTS, AtOnce),
    clause!(may_stop_guest, STOP_GUEST, AtOnce),
    clause!(own_guest, STOP_GUEST, AtOnce),
    clause!(no_ha_stop, STOP_GUEST, AtOnce),
    clause!(live_only_for_vms, MIGRATE, AtOnce),
    clause!(may_start_guest, START_GUEST, AtOnce),
    // Powering off: whose host is it?
    clause!(never_low, POWER_OFF, AtOnce),
    clause!(not_here, POWER_OFF, AtOnce),
    clause!(may_rest, POWER_OFF, AtOnce),
    clause!(every_address, POWER_OFF, AtOnce),
    clause!(one_at_a_time, POWER_OFF, AtOnce),
    // Is anybody using it?
    clause!(nothing_in_flight, POWER_OFF, AtOnce),
    clause!(no_task, POWER_OFF, AtOnce),
    clause!(no_lock, POWER_OFF, AtOnce),
    clause!(nobody_arrives, POWER_OFF, AtOnce),
    clause!(no_guest_runs, POWER_OFF, AtOnce),
    clause!(config_settled, POWER_OFF, AtOnce),
    clause!(sees_every_guest, POWER_OFF, OnEvidence),
    // Does the cluster keep its quorum?
    clause!(evidence, POWER_OFF, OnEvidence),
    clause!(same_view, POWER_OFF, OnEvidence),
    clause!(every_member_quorate, POWER_OFF, OnEvidence),
    clause!(configured_agrees, POWER_OFF, OnEvidence),
    clause!(votes, POWER_OFF, OnEvidence),
    clause!(can_return, POWER_OFF, OnEvidence),
    clause!(no_hidden_guest, POWER_OFF, OnEvidence),
    // And now, in the turn of the request, once more.
    clause!(empty_itself, POWER_OFF, LastLook),
    clause!(survivors_agree, POWER_OFF, LastLook),
    clause!(device_still_votes, POWER_OFF, LastLook),
];

/// What stands against powering `host` off whatever its guests do.
///
/// Asked before a drain begins: nobody is moved or stopped for a power-off that would be refused
/// anyway. Being content here clears nothing.
pub fn objection(
    host: &HostName,
    under_way: &[&Undertaking],
    seen: &Observation,
    bounds: &Bounds,
) -> Option<Refusal> {
    let whatever_its_guests_do = |clause: &Clause| {
        clause.stage == Stage::AtOnce
            && matches!(
                clause.name,
                "known_host"
                    | "frozen"
                    | "quorate_now"
                    | "clock"
                    | "never_low"
                    | "not_here"
                    | "may_rest"
                    | "every_address"
                    | "no_task"
                    | "config_settled"
            )
    };
    let requests = [(Move::Rest(host.clone()), Request::PowerOff { host: host.clone() })];
    check_by(&whatever_its_guests_do, &requests, under_way, seen, bounds).refusals.pop()
}

/// Judges each request against the observation, together with everything under way.
pub fn check(
    requests: &[(Move, Request)],
    under_way: &[&Undertaking],
    seen: &Observation,
    bounds: &Bounds,
) -> Ruling {
    check_by(&|_| true, requests, under_way, seen, bounds)
}

/// [`check`] with some clauses left out: only tests leave any out, to see what each one prevents.
fn check_by(
    heard: &dyn Fn(&Clause) -> bool,
    requests: &[(Move, Request)],
    under_way: &[&Undertaking],
    seen: &Observation,
    bounds: &Bounds,
) -> Ruling {
    let mut ruling = Ruling::default();
    for (purpose, request) in requests {
        let case = Case { request, under_way, cleared: &ruling.cleared, seen, bounds };
        match judge(heard, &case) {
            Judgement::Clear => {
                let by_configured_votes = bounds.evidence == EvidenceKind::Configured
                    && Kind::of(request) == Kind::PowerOff;
                let (purpose, request) = (purpose.clone(), request.clone());
                let cleared = Cleared { purpose, request, by_configured_votes };
                ruling.cleared.push(cleared);
            }
            Judgement::Against { clause, code, sentence, remedy, questions, waiting, dear } => {
                ruling.questions.extend(questions);
                ruling.refusals.push(Refusal {
                    purpose: purpose.clone(),
                    request: request.clone(),
                    clause,
                    code,
                    sentence,
                    remedy,
                    waiting,
                    dear,
                });
            }
        }
    }
    ruling
}

enum Judgement {
    Clear,
    Against {
        clause: &'static str,
        code: &'static str,
        sentence: String,
        remedy: String,
        questions: BTreeSet<Question>,
        waiting: bool,
        dear: bool,
    },
}

/// Hears the clauses stage by stage. A refusal ends it at once; questions of one stage are asked
/// together.
fn judge(heard: &dyn Fn(&Clause) -> bool, case: &Case<'_>) -> Judgement {
    let kind = Kind::of(case.request);
    for stage in STAGES {
        let dear = stage != Stage::AtOnce;
        let mut asking: Option<(&'static str, Option<String>, BTreeSet<Question>)> = None;
        let concerned = |clause: &&Clause| {
            clause.stage == stage && clause.concerns.contains(&kind) && heard(clause)
        };
        for clause in CLAUSES.iter().filter(concerned) {
            match (clause.judge)(case) {
                Finding::Content => {}
                Finding::Refuse { code, sentence, remedy } => {
                    let (clause, questions) = (clause.name, BTreeSet::new());
                    return Judgement::Against {
                        clause,
                        code: code.unwrap_or(clause),
                        sentence,
                        remedy,
                        questions,
                        waiting: false,
                        dear,
                    };
                }
                Finding::Ask { questions, sentence } => {
                    let (name, told, all) =
                        asking.get_or_insert((clause.name, None, BTreeSet::new()));
                    // Whoever has something to tell is the one that is named.
                    if told.is_none() && sentence.is_some() {
                        (*name, *told) = (clause.name, sentence);
                    }
                    all.extend(questions);
                }
            }
        }
        if let Some((clause, told, questions)) = asking {
            let waiting = told.is_none();
            let sentence =
                told.unwrap_or_else(|| "it waits for answers that are on their way".into());
            let remedy = "spot asks again; it goes on when the answers are there".into();
            let code = clause;
            return Judgement::Against { clause, code, sentence, remedy, questions, waiting, dear };
        }
    }
    Judgement::Clear
}
