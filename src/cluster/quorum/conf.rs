//! The part of corosync.conf that decides about votes: nodelist, quorum section, device section.
//!
//! `corosync.conf(5)`, `votequorum(5)` and `corosync-qdevice(8)` name the keys; what contradicts
//! itself so that corosync exits with status 20 was measured.
//!
//! **Does not know:** addresses, and whether anybody runs.

use std::collections::BTreeMap;

use crate::cluster::HostName;

/// A node id. They count from 1 in the order of the nodes.
pub type Id = u32;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConf {
    pub name: HostName,
    /// 1 where the file says nothing.
    pub votes: u32,
}

/// Keys of the quorum section; `None` where the file says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QuorumConf {
    pub two_node: Option<u32>,
    pub wait_for_all: Option<u32>,
    pub last_man_standing: Option<u32>,
    pub last_man_standing_window: Option<u32>,
    pub auto_tie_breaker: Option<u32>,
    pub auto_tie_breaker_node: Option<TieBreaker>,
    pub expected_votes: Option<u32>,
    pub allow_downscale: Option<u32>,
}

/// Which half goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TieBreaker {
    Lowest,
    Highest,
    Listed(Vec<Id>),
}

impl QuorumConf {
    pub fn two_node(&self) -> bool {
        self.two_node.is_some_and(|on| on > 0)
    }

    pub fn last_man_standing(&self) -> bool {
        self.last_man_standing.is_some_and(|on| on > 0)
    }

    pub fn allow_downscale(&self) -> bool {
        self.allow_downscale.is_some_and(|on| on > 0)
    }

    pub fn tie_breaker(&self) -> Option<TieBreaker> {
        let on = self.auto_tie_breaker.is_some_and(|on| on > 0);
        on.then(|| self.auto_tie_breaker_node.clone().unwrap_or(TieBreaker::Lowest))
    }

    /// This section with the keys that `newer` gives put over it.
    pub fn with(&self, newer: &QuorumConf) -> QuorumConf {
        let tie = || self.auto_tie_breaker_node.clone();
        QuorumConf {
            two_node: newer.two_node.or(self.two_node),
            wait_for_all: newer.wait_for_all.or(self.wait_for_all),
            last_man_standing: newer.last_man_standing.or(self.last_man_standing),
            last_man_standing_window: newer
                .last_man_standing_window
                .or(self.last_man_standing_window),
            auto_tie_breaker: newer.auto_tie_breaker.or(self.auto_tie_breaker),
            auto_tie_breaker_node: newer.auto_tie_breaker_node.clone().or_else(tie),
            expected_votes: newer.expected_votes.or(self.expected_votes),
            allow_downscale: newer.allow_downscale.or(self.allow_downscale),
        }
    }
}

/// How a QDevice's server shares out its votes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    Ffsplit,
    Lms,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceSection {
    pub algorithm: Algorithm,
    pub votes: Option<u32>,
}

/// One corosync.conf, the same on every host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conf {
    pub nodes: BTreeMap<Id, NodeConf>,
    pub quorum: QuorumConf,
    pub device: Option<DeviceSection>,
}

impl Conf {
    pub fn votes_sum(&self) -> u32 {
        self.nodes.values().fold(0, |sum, node| sum.saturating_add(node.votes))
    }

    pub fn votes_of(&self, id: Id) -> Option<u32> {
        self.nodes.get(&id).map(|node| node.votes)
    }

    /// As many votes as hosts: all that corosync asks before it gives a QDevice one vote less.
    pub fn one_each_on_average(&self) -> bool {
        u32::try_from(self.nodes.len()) == Ok(self.votes_sum())
    }

    /// Why the device section contradicts the rest of the file.
    pub fn device_conflict(&self, tie_breaker: bool) -> Option<String> {
        let device = self.device.as_ref()?;
        let expected = self.quorum.expected_votes.unwrap_or(0);
        let text = if self.quorum.last_man_standing() {
            "a quorum device does not go with last_man_standing"
        } else if tie_breaker {
            "a quorum device does not go with auto_tie_breaker"
        } else if self.quorum.allow_downscale() {
            "a quorum device does not go with allow_downscale"
        } else if expected > 0 && device.votes.is_none() {
            "the quorum device's votes must be written out where expected_votes is set"
        } else if device.votes.is_none() && !self.one_each_on_average() {
            "the quorum device's votes must be written out where not every node has one vote"
        } else if expected > 0
            && device.votes.is_some_and(|votes| {
                votes > 0 && i64::from(expected) - i64::from(votes) < LEAST_WITHOUT_DEVICE
            })
        {
            "the quorum device has too many votes, or expected_votes is too low"
        } else {
            return None;
        };
        Some(text.into())
    }
}

/// Expected votes that must be left beside a QDevice's own.
const LEAST_WITHOUT_DEVICE: i64 = 2;
