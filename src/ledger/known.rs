//! Which of PVE's tasks are ours, so that a stranger's stand out.
//!
//! Two `spot`s that serve one cluster would each undo what the other does. They share nothing but
//! the cluster, and there the other one shows: by tasks of our own token that we never asked for. A
//! task of ours is known by the UPID that PVE answered with; while that answer is missing, whatever
//! happens to the same guest may be ours.
//!
//! **Does not know:** what follows from a stranger.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::cluster::{TaskSeen, Vmid};
use crate::request::Answered;
use crate::undertaking::{Event, Undertaking};

/// Older tasks are nobody's concern: a journal may have been lost since.
const CONCERNS_US: Duration = Duration::from_secs(600);
/// Kept for longer than that, for clocks and answers that are late.
const KEPT_FOR: Duration = Duration::from_secs(7200);
/// Clocks of hosts and of ours may differ by this much.
const CLOCK_SKEW: Duration = Duration::from_secs(90);

/// Kinds of tasks that one of our requests begins.
const KINDS: [&str; 11] = [
    "qmigrate",
    "vzmigrate",
    "hamigrate",
    "qmsuspend",
    "qmshutdown",
    "vzshutdown",
    "hastop",
    "qmstart",
    "qmresume",
    "vzstart",
    "hastart",
];

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tasks {
    by_upid: BTreeMap<String, Timestamp>,
    /// Guests asked for something whose answer is missing or unclear, by their numbers.
    unclear: BTreeMap<String, Timestamp>,
}

impl Tasks {
    pub(super) fn learn(&mut self, at: Timestamp, upid: &str) {
        self.by_upid.insert(upid.to_owned(), at);
        self.by_upid.retain(|_, since| *since + KEPT_FOR >= at);
    }

    /// What an event of an undertaking says of tasks.
    pub(super) fn follow(&mut self, at: Timestamp, before: &Undertaking, event: &Event) {
        match event {
            Event::Intended { request, .. } => {
                if let Some(guest) = request.guest() {
                    self.unclear.insert(guest.to_string(), at);
                }
                self.unclear.retain(|_, since| *since + KEPT_FOR >= at);
            }
            Event::Answered { request_id, answer } => {
                let asked = before.in_flight.get(request_id);
                let guest = asked.and_then(|asked| asked.request.guest());
                match answer {
                    Answered::Accepted { task: Some(upid) } => self.learn(at, upid),
                    Answered::Refused { .. } | Answered::Undelivered { .. } => {}
                    Answered::Accepted { task: None }
                    | Answered::Ambiguous { .. }
                    | Answered::Sent { .. } => return,
                }
                if let Some(guest) = guest {
                    self.unclear.remove(&guest.to_string());
                }
            }
            Event::Settled { .. } | Event::Ended { .. } => {}
        }
    }

    /// Whether `task`, begun by `token` just now, is none of ours.
    pub(super) fn strange(&self, task: &TaskSeen, token: &str, now: Timestamp) -> bool {
        let may_be_ours = |since: &Timestamp| task.started + CLOCK_SKEW >= *since;
        task.user == token
            && KINDS.contains(&task.kind.as_str())
            && task.started + CONCERNS_US >= now
            && !self.by_upid.contains_key(&task.upid)
            && !self.unclear.get(&task.id).is_some_and(may_be_ours)
    }
}

/// What a stranger did, in words.
pub(super) fn told(task: &TaskSeen) -> String {
    match task.id.parse().map(Vmid) {
        Ok(guest) => format!("{} of guest {guest} on {}", task.kind, task.host),
        Err(_) => format!("{} on {}", task.kind, task.host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::GuestKind;
    use crate::request::{Move, Request};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn task(upid: &str, guest: &str, second: i64) -> TaskSeen {
        TaskSeen {
            upid: upid.into(),
            host: "host2".into(),
            kind: "qmstart".into(),
            id: guest.into(),
            user: "spot@pve!spot".into(),
            started: at(second),
            ended: None,
            ended_at: None,
        }
    }

    fn answered(answer: Answered) -> Tasks {
        let mut tasks = Tasks::default();
        let before = Undertaking::begun(1, Move::Rest("host2".into()), at(0));
        let guest = Vmid(100);
        let request = Request::StartGuest { guest, kind: GuestKind::Vm, host: "host2".into() };
        let intended =
            Event::Intended { request_id: 1, request, at: at(0), by_configured_votes: false };
        tasks.follow(at(0), &before, &intended);
        let before = before.after(&intended).unwrap();
        tasks.follow(at(1), &before, &Event::Answered { request_id: 1, answer });
        tasks
    }

    #[test]
    fn a_task_of_our_token_that_nobody_asked_for_is_a_strangers() {
        let accepted = answered(Answered::Accepted { task: Some("UPID:a".into()) });
        let strange = |tasks: &Tasks, task: TaskSeen| tasks.strange(&task, "spot@pve!spot", at(60));
        assert!(!strange(&accepted, task("UPID:a", "100", 1)), "ours");
        assert!(strange(&accepted, task("UPID:b", "100", 2)), "the same guest, and not our task");
        assert!(strange(&accepted, task("UPID:c", "101", 2)));
        assert!(!accepted.strange(&task("UPID:c", "101", 2), "other@pve!x", at(60)));
        assert!(!strange(&accepted, task("UPID:c", "101", -600)), "long ago");
        let lost = answered(Answered::Ambiguous { sentence: "timed out".into() });
        assert!(!strange(&lost, task("UPID:b", "100", 2)), "it may be ours");
        assert!(strange(&lost, task("UPID:c", "101", 2)));
        let refused = answered(Answered::Refused { sentence: "locked".into() });
        assert!(strange(&refused, task("UPID:b", "100", 2)), "ours never began");
    }
}
