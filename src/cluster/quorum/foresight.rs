//! What would come next in the cluster as it is: the model, started so that it shows what the
//! members show now.
//!
//! The configuration a report shows is played from a cold boot to the present members. Only if
//! every figure then equals what the members show is the model believed; else (lowered expected
//! votes, an edit not reloaded, a daemon that stands still) nothing is foretold.
//!
//! **Does not know:** whether anything that it foretells is allowed.

use std::collections::{BTreeMap, BTreeSet};

use super::conf::{Algorithm, Conf, DeviceSection, Id, NodeConf, QuorumConf, TieBreaker};
use super::model::Model;
use super::{CorosyncConf, DeviceAlgorithm, Evidence};
use crate::cluster::HostName;

/// A model that shows what the members show.
#[derive(Clone, Debug)]
pub struct Foresight {
    model: Model,
    ids: BTreeMap<HostName, Id>,
}

/// One thing that may fail next.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    Host(HostName),
    QDevice,
}

impl Foresight {
    pub fn of(evidence: &BTreeMap<HostName, &Evidence>) -> Option<Foresight> {
        let (_, any) = evidence.first_key_value()?;
        let conf = conf(&any.conf)?;
        let ids: BTreeMap<HostName, Id> =
            conf.nodes.iter().map(|(id, node)| (node.name.clone(), *id)).collect();
        let all: BTreeSet<Id> = ids.values().copied().collect();
        let up: BTreeSet<Id> =
            evidence.keys().map(|host| ids.get(host).copied()).collect::<Option<_>>()?;
        let voting = evidence.values().any(|view| view.device_votes.is_some_and(|votes| votes > 0));
        let shown = |model: &Model| {
            let views = model.views();
            ids.iter().filter(|(_, id)| up.contains(id)).all(|(host, id)| {
                views.get(id).is_some_and(|view| {
                    let seen = evidence[host];
                    (view.expected, view.total, view.quorum, view.quorate)
                        == (seen.expected, seen.total, seen.quorum, seen.quorate)
                })
            })
        };
        // Everybody was up once, or never since the members booted.
        for first in [&all, &up] {
            let mut model = Model::new(conf.clone());
            model.set_up(first);
            model.set_server(voting);
            model.set_up(&up);
            if shown(&model) {
                return Some(Foresight { model, ids });
            }
        }
        None
    }

    /// The cluster once these have stopped.
    pub fn without(&self, stops: &BTreeSet<HostName>) -> Foresight {
        let mut after = self.clone();
        let stay = self
            .model
            .up()
            .into_iter()
            .filter(|id| !stops.iter().any(|host| self.ids.get(host) == Some(id)));
        let stay = stay.collect();
        after.model.set_up(&stay);
        after
    }

    /// Whether there is somebody, and all of them are quorate.
    pub fn quorate(&self) -> bool {
        let views = self.model.views();
        !views.is_empty() && views.values().all(|view| view.quorate)
    }

    /// The single failures that would end the quorum of whoever is left.
    pub fn lost_with(&self) -> Vec<Failure> {
        let up = self.model.up();
        let mut lost = Vec::new();
        for (host, id) in self.ids.iter().filter(|(_, id)| up.contains(id)) {
            let mut after = self.clone();
            after.model.crash(&BTreeSet::from([*id]));
            if !after.quorate() {
                lost.push(Failure::Host(host.clone()));
            }
        }
        if self.model.conf().device.is_some() {
            let mut after = self.clone();
            after.model.set_server(false);
            if !after.quorate() {
                lost.push(Failure::QDevice);
            }
        }
        lost
    }
}

/// The words of a report's corosync.conf that decide about votes; ids in the order of the names,
/// for a report's table names no ids.
pub fn conf(shown: &CorosyncConf) -> Option<Conf> {
    let number = |key: &str| match shown.quorum.get(key) {
        None => Some(None),
        Some(text) => text.trim().parse::<u32>().ok().map(Some),
    };
    let nodes = shown
        .votes
        .iter()
        .map(|(name, votes)| NodeConf { name: HostName(name.clone()), votes: *votes });
    let device = match &shown.device {
        None => None,
        Some(device) => Some(DeviceSection {
            algorithm: match device.algorithm {
                DeviceAlgorithm::Ffsplit => Algorithm::Ffsplit,
                DeviceAlgorithm::Lms => Algorithm::Lms,
                DeviceAlgorithm::Other(_) => return None,
            },
            votes: device.votes,
        }),
    };
    Some(Conf {
        nodes: (1..).zip(nodes).collect(),
        quorum: QuorumConf {
            two_node: number("two_node")?,
            wait_for_all: number("wait_for_all")?,
            last_man_standing: number("last_man_standing")?,
            last_man_standing_window: number("last_man_standing_window")?,
            auto_tie_breaker: number("auto_tie_breaker")?,
            expected_votes: number("expected_votes")?,
            allow_downscale: number("allow_downscale")?,
            auto_tie_breaker_node: match shown
                .quorum
                .get("auto_tie_breaker_node")
                .map(String::as_str)
            {
                None => None,
                Some("lowest") => Some(TieBreaker::Lowest),
                Some("highest") => Some(TieBreaker::Highest),
                // Ids of hosts, which this does not know by their names.
                Some(_) => return None,
            },
        },
        device,
    })
}
