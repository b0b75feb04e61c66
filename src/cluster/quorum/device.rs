//! A QDevice: which hosts its server votes for.
//!
//! The server knows the cluster only through the daemons that talk to it: each tells the ring its
//! host is in. `ffsplit` judges anew, for everybody, whenever anything changes; `lms` judges one
//! host at a time, when that host's ring or quorum changes, and remembers its last answer. Facts
//! from `corosync-qnetd(8)`, `corosync-qdevice(8)` and measurements.
//!
//! **Does not know:** what the votes are worth to a member.

use std::collections::{BTreeMap, BTreeSet};

use super::conf::{Algorithm, Id};

/// A daemon that talks to the server.
#[derive(Clone, Debug)]
struct Client {
    ring: BTreeSet<Id>,
    /// lms: what it was last told; `None` for a newcomer.
    last: Option<bool>,
}

/// The server, as long as it lives.
#[derive(Clone, Debug, Default)]
pub(super) struct Server {
    clients: BTreeMap<Id, Client>,
}

impl Server {
    /// These talk to it now, each with its ring; answers whom that concerns. Newcomers connect one
    /// after the other, the lowest first: in real time it is a race, and under lms the first to
    /// connect to a split cluster's server takes the vote.
    pub fn connected(&mut self, rings: &BTreeMap<Id, BTreeSet<Id>>) -> BTreeSet<Id> {
        self.clients.retain(|id, _| rings.contains_key(id));
        let mut changed = BTreeSet::new();
        for (id, client) in &mut self.clients {
            if client.ring != rings[id] {
                client.ring.clone_from(&rings[id]);
                changed.insert(*id);
            }
        }
        if let Some((id, ring)) = rings.iter().find(|(id, _)| !self.clients.contains_key(id)) {
            self.clients.insert(*id, Client { ring: ring.clone(), last: None });
            changed.insert(*id);
        }
        changed
    }

    /// How many talk to it.
    pub fn len(&self) -> usize {
        self.clients.len()
    }

    /// Its answers, for those it judges anew. `asking` are those whose ring or quorum changed.
    pub fn answer(
        &mut self,
        algorithm: Algorithm,
        nodes: &BTreeSet<Id>,
        asking: &BTreeSet<Id>,
    ) -> BTreeMap<Id, bool> {
        match algorithm {
            Algorithm::Ffsplit => {
                let chosen = self.half(nodes);
                let votes = |id: &Id| (*id, chosen.as_ref().is_some_and(|ring| ring.contains(id)));
                self.clients.keys().map(votes).collect()
            }
            Algorithm::Lms => {
                let mut answers = BTreeMap::new();
                for id in asking {
                    if let Some(vote) = self.last_man(*id) {
                        answers.insert(*id, vote);
                    }
                }
                answers
            }
        }
    }

    /// ffsplit: more than half of the configured hosts; of two halves the one with more daemons
    /// connected, else the one with the lowest configured id.
    fn half(&self, nodes: &BTreeSet<Id>) -> Option<BTreeSet<Id>> {
        let connected =
            |ring: &BTreeSet<Id>| ring.iter().filter(|id| self.clients.contains_key(id)).count();
        let preferred = nodes.first()?;
        let mut best: Option<&BTreeSet<Id>> = None;
        for ring in self.clients.values().map(|client| &client.ring) {
            let better = match (2 * ring.len()).cmp(&nodes.len()) {
                std::cmp::Ordering::Less => false,
                std::cmp::Ordering::Greater => true,
                std::cmp::Ordering::Equal => {
                    let other = best.map_or(0, connected);
                    connected(ring) > other || connected(ring) == other && ring.contains(preferred)
                }
            };
            if better {
                best = Some(ring);
            }
        }
        best.cloned()
    }

    /// lms: the ring with the most daemons connected, else the one with the lowest of them. A
    /// newcomer waits as long as another ring has the vote.
    fn last_man(&mut self, id: Id) -> Option<bool> {
        let us = self.clients.get(&id)?.clone();
        let mut sizes: BTreeMap<&BTreeSet<Id>, usize> = BTreeMap::new();
        for client in self.clients.values() {
            *sizes.entry(&client.ring).or_default() += 1;
        }
        let vote = if sizes.len() == 1 {
            true
        } else {
            let other_votes = |client: &Client| client.ring != us.ring && client.last == Some(true);
            if us.last.is_none() && self.clients.values().any(other_votes) {
                return Some(false);
            }
            let most = sizes.values().copied().max().unwrap_or(0);
            let leaders: Vec<_> = sizes.iter().filter(|(_, size)| **size == most).collect();
            match leaders.as_slice() {
                [(ring, _)] => **ring == &us.ring,
                _ => self.clients.first_key_value().is_some_and(|(_, low)| low.ring == us.ring),
            }
        };
        self.clients.get_mut(&id).expect("it was found above").last = Some(vote);
        Some(vote)
    }
}
