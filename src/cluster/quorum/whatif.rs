//! The what-if language: a cluster that need not exist, a history, and what every member would show
//! after each of its steps.
//!
//! `nodes`, `quorum` and `qdevice` are words of corosync.conf; `history` is what people and power
//! cuts do. Everything is off at first. The answers are the settled views just before the next
//! step, so they can be laid beside what `corosync-quorumtool` shows.
//!
//! **Does not know:** any real cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;

use super::conf::{Conf, Id, NodeConf, QuorumConf};
use super::model::Model;
use super::reading;
use crate::cluster::HostName;

pub use super::model::View;

/// Between two steps, unless a step says `after`; and after the last one.
const BETWEEN: Duration = Duration::from_secs(15);

/// A cluster and what befalls it, valid by construction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WhatIf {
    pub conf: Conf,
    pub history: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// How long after the step before.
    pub after: Option<Duration>,
    pub act: Act,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Who is up afterwards: newcomers boot, the others stop cleanly.
    Up(BTreeSet<HostName>),
    Crash(BTreeSet<HostName>),
    Partition(Vec<BTreeSet<HostName>>),
    Heal,
    /// The QDevice's server.
    Server {
        alive: bool,
    },
    /// Each host's `corosync-qdevice`.
    Daemon(BTreeMap<HostName, bool>),
    /// `pvecm expected` on one host.
    Expected {
        votes: u32,
        on: HostName,
    },
    /// A new file, which every running host re-reads.
    Reload {
        nodes: Option<Vec<NodeConf>>,
        quorum: QuorumConf,
    },
}

impl Step {
    /// `up host1, host2 (after 2s)`
    pub fn sentence(&self) -> String {
        let names = |hosts: &BTreeSet<HostName>| match hosts.is_empty() {
            true => "nobody".to_owned(),
            false => hosts.iter().map(HostName::as_str).collect::<Vec<_>>().join(", "),
        };
        let said = match &self.act {
            Act::Up(hosts) => format!("up: {}", names(hosts)),
            Act::Crash(hosts) => format!("crash: {}", names(hosts)),
            Act::Partition(parts) => {
                let parts: Vec<String> = parts.iter().map(names).collect();
                format!("partition: {}", parts.join(" | "))
            }
            Act::Heal => "heal".into(),
            Act::Server { alive: true } => "QDevice server alive".into(),
            Act::Server { alive: false } => "QDevice server dead".into(),
            Act::Daemon(hosts) => {
                let one = |(host, on): (&HostName, &bool)| {
                    format!(
                        "corosync-qdevice {} on {host}",
                        if *on { "started" } else { "stopped" }
                    )
                };
                hosts.iter().map(one).collect::<Vec<_>>().join(", ")
            }
            Act::Expected { votes, on } => format!("expected {votes} on {on}"),
            Act::Reload { .. } => "reload of a new corosync.conf".into(),
        };
        match self.after {
            Some(after) => format!("{said} (after {} s)", after.as_secs_f32()),
            None => said,
        }
    }
}

/// What stands after one step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StepAnswer {
    /// Counted from 1.
    pub step: usize,
    /// Every host whose corosync runs.
    pub views: BTreeMap<HostName, View>,
    /// Hosts asked up whose corosync would not start, and why.
    pub refused: BTreeMap<HostName, String>,
}

impl WhatIf {
    /// Reads YAML or JSON; the first fault is told with its line, its path and a remedy.
    pub fn read(text: &str) -> Result<WhatIf, String> {
        reading::what_if(text)
    }
}

/// Node ids in the order of the nodes.
pub fn ids(nodes: Vec<NodeConf>) -> BTreeMap<Id, NodeConf> {
    (1..).zip(nodes).collect()
}

/// Plays the history.
pub fn answer(what_if: &WhatIf) -> Vec<StepAnswer> {
    let mut play = Play {
        model: Model::new(what_if.conf.clone()),
        ids: what_if.conf.nodes.iter().map(|(id, node)| (node.name.clone(), *id)).collect(),
        at: Duration::ZERO,
    };
    let mut answers = Vec::new();
    for (index, step) in what_if.history.iter().enumerate() {
        let refused = play.take(&step.act);
        let next = what_if.history.get(index + 1).and_then(|next| next.after).unwrap_or(BETWEEN);
        play.at += next;
        play.model.pass_until(play.at);
        answers.push(StepAnswer { step: index + 1, views: play.views(), refused });
    }
    answers
}

struct Play {
    model: Model,
    ids: BTreeMap<HostName, Id>,
    at: Duration,
}

impl Play {
    fn take(&mut self, act: &Act) -> BTreeMap<HostName, String> {
        match act {
            Act::Up(hosts) => {
                let refused = self.model.set_up(&self.these(hosts));
                return refused.into_iter().map(|(id, why)| (self.name(id), why)).collect();
            }
            Act::Crash(hosts) => self.model.crash(&self.these(hosts)),
            Act::Partition(parts) => {
                let parts: Vec<_> = parts.iter().map(|part| self.these(part)).collect();
                self.model.partition(&parts);
            }
            Act::Heal => self.model.heal(),
            Act::Server { alive } => self.model.set_server(*alive),
            Act::Daemon(hosts) => {
                for (host, on) in hosts {
                    self.model.set_daemon(self.ids[host], *on);
                }
            }
            Act::Expected { votes, on } => {
                self.model.set_expected(self.ids[on], *votes);
            }
            Act::Reload { nodes, quorum } => self.reload(nodes.as_deref(), quorum),
        }
        BTreeMap::new()
    }

    fn reload(&mut self, nodes: Option<&[NodeConf]>, quorum: &QuorumConf) {
        let mut conf = self.model.conf().clone();
        conf.quorum = conf.quorum.with(quorum);
        if let Some(nodes) = nodes {
            conf.nodes.clear();
            for node in nodes {
                // A host keeps its id for good; a new one takes the next.
                let next = self.ids.values().max().map_or(1, |most| most + 1);
                let id = *self.ids.entry(node.name.clone()).or_insert(next);
                conf.nodes.insert(id, node.clone());
            }
        }
        self.model.reload(conf);
    }

    fn these(&self, hosts: &BTreeSet<HostName>) -> BTreeSet<Id> {
        hosts.iter().map(|host| self.ids[host]).collect()
    }

    fn name(&self, id: Id) -> HostName {
        let named = self.ids.iter().find(|(_, one)| **one == id);
        named.expect("every id was given to a name").0.clone()
    }

    fn views(&self) -> BTreeMap<HostName, View> {
        self.model.views().into_iter().map(|(id, view)| (self.name(id), view)).collect()
    }
}
