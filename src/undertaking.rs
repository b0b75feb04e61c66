//! An [`Undertaking`]: a move once begun, its purpose and the requests in flight. Never a list of
//! steps to come; what comes next is planned anew each turn.
//!
//! One total function, [`Undertaking::after`], serves living and replaying: the journal's events
//! folded through it give back exactly what was under way when the power went. States are nouns,
//! events past tense, and an event that cannot follow is an [`OutOfOrder`], never ignored.
//!
//! **Does not know:** that a disk exists, what happens next, why anybody wants it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::cluster::Way;
use crate::request::{Answered, Move, Request};

/// Number of an undertaking, unique in one journal and never reused.
pub type UndertakingId = u64;
/// Number of a request, unique in one journal and never reused.
pub type RequestId = u64;

/// How far an undertaking is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Its purpose is pursued.
    Open,
    /// Its purpose was seen fulfilled.
    Done,
    /// A limit was reached, or the world made it impossible.
    Failed,
    /// The plan wants something else now.
    Dropped,
}

/// What became of a request, as it was *seen*.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "became", rename_all = "snake_case")]
pub enum Outcome {
    /// The effect was seen.
    Effective,
    /// It ended without its effect, with the world's words.
    Failed { sentence: String },
    /// It was looked for and never began: it may be asked again.
    NeverBegan,
    /// Its limit passed without a clear sign.
    Overdue,
}

/// A request whose end has not been seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InFlight {
    pub request: Request,
    pub asked: Timestamp,
    /// `None` between intent and answer; after a crash that means: look it up.
    pub answered: Option<Answered>,
}

/// What happened to an undertaking.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// Written before the request is sent.
    Intended {
        request_id: RequestId,
        request: Request,
        at: Timestamp,
        /// A power-off whose quorum was judged by configured votes only: the weaker evidence, on
        /// the owner's word.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        by_configured_votes: bool,
    },
    /// Written after the world answered.
    Answered { request_id: RequestId, answer: Answered },
    /// Written when what became of it was seen.
    Settled { request_id: RequestId, outcome: Outcome },
    /// The purpose was seen, given up, or no longer wanted.
    Ended { stage: Stage, because: String },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undertaking {
    pub id: UndertakingId,
    pub purpose: Move,
    pub since: Timestamp,
    pub stage: Stage,
    pub in_flight: BTreeMap<RequestId, InFlight>,
    /// Volleys of packets sent so far, and when the last one left.
    pub volleys: u32,
    pub last_volley: Option<Timestamp>,
    /// Stands for the ways by which packets really left; what a proof of waking rests on.
    #[serde(default)]
    pub print: Option<String>,
    /// Why the last volley did not leave, when it did not.
    #[serde(default)]
    pub unsent: Option<String>,
}

/// An event that cannot follow: the journal is damaged or `spot` is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("undertaking {id} ({stage:?}) cannot take the event {event}")]
pub struct OutOfOrder {
    pub id: UndertakingId,
    pub stage: Stage,
    pub event: &'static str,
}

impl Undertaking {
    pub fn begun(id: UndertakingId, purpose: Move, since: Timestamp) -> Undertaking {
        Undertaking {
            id,
            purpose,
            since,
            stage: Stage::Open,
            in_flight: BTreeMap::new(),
            volleys: 0,
            last_volley: None,
            print: None,
            unsent: None,
        }
    }

    pub fn open(&self) -> bool {
        self.stage == Stage::Open
    }

    /// The undertaking after `event`.
    ///
    /// An ended undertaking still takes answers and outcomes of requests in flight, because the
    /// world finishes what was asked; it takes no new intent and no second end.
    pub fn after(mut self, event: &Event) -> Result<Undertaking, OutOfOrder> {
        let out_of_order = |name| Err(OutOfOrder { id: self.id, stage: self.stage, event: name });
        match event {
            Event::Intended { request_id, request, at, by_configured_votes: _ } => {
                if self.stage != Stage::Open || self.in_flight.contains_key(request_id) {
                    return out_of_order("intended");
                }
                match request {
                    // Packets have no outcome of their own: the host is seen or it is not.
                    Request::Wake { .. } => {
                        self.volleys += 1;
                        self.last_volley = Some(*at);
                    }
                    Request::Migrate { .. }
                    | Request::Hibernate { .. }
                    | Request::ShutDownGuest { .. }
                    | Request::StartGuest { .. }
                    | Request::PowerOff { .. } => {}
                }
                let asked = InFlight { request: request.clone(), asked: *at, answered: None };
                self.in_flight.insert(*request_id, asked);
            }
            Event::Answered { request_id, answer } => match self.in_flight.get_mut(request_id) {
                // Packets are over once they are sent.
                Some(InFlight { request: Request::Wake { ways, .. }, .. }) => {
                    match answer {
                        Answered::Sent { .. } | Answered::Accepted { .. } => {
                            self.print = Some(Way::print(ways));
                            self.unsent = None;
                        }
                        Answered::Refused { sentence }
                        | Answered::Undelivered { sentence }
                        | Answered::Ambiguous { sentence } => {
                            self.unsent = Some(sentence.clone());
                        }
                    }
                    self.in_flight.remove(request_id);
                }
                Some(asked) if asked.answered.is_none() => asked.answered = Some(answer.clone()),
                Some(_) | None => return out_of_order("answered"),
            },
            Event::Settled { request_id, .. } => {
                if self.in_flight.remove(request_id).is_none() {
                    return out_of_order("settled");
                }
            }
            Event::Ended { stage, .. } => match (self.stage, stage) {
                (Stage::Open, Stage::Done | Stage::Failed | Stage::Dropped) => self.stage = *stage,
                (Stage::Open, Stage::Open) | (Stage::Done | Stage::Failed | Stage::Dropped, _) => {
                    return out_of_order("ended");
                }
            },
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::HostName;

    fn at() -> Timestamp {
        Timestamp::UNIX_EPOCH
    }

    fn power_off() -> Request {
        Request::PowerOff { host: HostName::from("host3") }
    }

    fn events() -> [(&'static str, Event); 4] {
        [
            (
                "intended",
                Event::Intended {
                    request_id: 1,
                    request: power_off(),
                    at: at(),
                    by_configured_votes: false,
                },
            ),
            (
                "answered",
                Event::Answered { request_id: 1, answer: Answered::Accepted { task: None } },
            ),
            ("settled", Event::Settled { request_id: 1, outcome: Outcome::Effective }),
            ("ended", Event::Ended { stage: Stage::Done, because: "seen".into() }),
        ]
    }

    /// Every (stage, in flight?, answered?) against every event: which pairs are in order.
    #[test]
    fn every_pair_of_stage_and_event_is_decided() {
        let mut table = String::new();
        for stage in [Stage::Open, Stage::Done, Stage::Failed, Stage::Dropped] {
            for (state, asked) in
                [("nothing", None), ("asked", Some(false)), ("answered", Some(true))]
            {
                let mut before = Undertaking::begun(7, Move::Rest("host3".into()), at());
                before.stage = stage;
                if let Some(answered) = asked {
                    let answered = answered.then_some(Answered::Accepted { task: None });
                    before
                        .in_flight
                        .insert(1, InFlight { request: power_off(), asked: at(), answered });
                }
                let taken: Vec<&str> = events()
                    .iter()
                    .filter(|(_, event)| before.clone().after(event).is_ok())
                    .map(|(name, _)| *name)
                    .collect();
                table += &format!("{stage:?} {state}: {}\n", taken.join(" "));
            }
        }
        assert_eq!(
            table,
            "Open nothing: intended ended\nOpen asked: answered settled ended\n\
             Open answered: settled ended\n\
             Done nothing: \nDone asked: answered settled\nDone answered: settled\n\
             Failed nothing: \nFailed asked: answered settled\nFailed answered: settled\n\
             Dropped nothing: \nDropped asked: answered settled\nDropped answered: settled\n"
        );
    }

    #[test]
    fn volleys_are_counted() {
        let wake = Request::Wake { host: "host3".into(), ways: vec![] };
        let one = Undertaking::begun(1, Move::Wake("host3".into()), at())
            .after(&Event::Intended {
                request_id: 1,
                request: wake,
                at: at(),
                by_configured_votes: false,
            })
            .unwrap();
        assert_eq!((one.volleys, one.last_volley), (1, Some(at())));
    }
}
