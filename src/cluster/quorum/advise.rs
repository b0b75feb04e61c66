//! The fewest changes to corosync.conf that let every set of hosts that will be left awake keep its
//! quorum.
//!
//! A QDevice comes first where it costs nothing when it dies: even clusters of one vote each, with
//! ffsplit and one vote. Elsewhere votes do, the fewest hosts changed and then the smallest sum. A
//! QDevice in an odd cluster works by `lms`, whose votes are expected even while it is dead, so it
//! is only ever told as the other way, with what it costs. Every advice is played through the model
//! before it is given.
//!
//! **Does not know:** how to apply anything; it never does.

use std::collections::{BTreeMap, BTreeSet};

use super::conf::{Algorithm, Conf, DeviceSection, Id};
use super::model::Model;
use super::votes;
use crate::cluster::HostName;

#[cfg(test)]
mod tests;

/// Hosts up to which two votes are changed at once in search of an advice.
const MOST_PAIRED: usize = 8;

/// What the advice is for.
#[derive(Clone, Debug)]
pub struct Home {
    pub conf: Conf,
    /// Sets of hosts that the policies leave awake together.
    pub awake: BTreeSet<BTreeSet<HostName>>,
    /// Votes to keep above the bare majority.
    pub spare: u32,
    /// A storage that several hosts reach.
    pub shared_storage: bool,
    /// The host or guest of this cluster on which the QDevice's server lives.
    pub server_inside: Option<String>,
    /// Where its server lives, as corosync.conf says.
    pub server: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The votes that change.
    pub votes: BTreeMap<HostName, u32>,
    /// The device section, if that changes.
    pub device: Option<DeviceSection>,
    pub sentence: String,
    /// What a dead QDevice costs there.
    pub cost: Option<String>,
    pub conf: Conf,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remedy {
    Nothing,
    Change(Change),
    Impossible(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    pub code: &'static str,
    pub sentence: String,
}

#[derive(Clone, Debug)]
pub struct Advice {
    /// The smallest sets left awake.
    pub awake: Vec<BTreeSet<HostName>>,
    /// Those of them that lose their quorum today; with the spare, those that would not keep it.
    pub failing: Vec<BTreeSet<HostName>>,
    pub failing_with_spare: Vec<BTreeSet<HostName>>,
    pub without_spare: Remedy,
    pub with_spare: Remedy,
    /// Another way, where there is one worth telling.
    pub other: Option<Change>,
    pub warnings: Vec<Warning>,
}

pub fn advise(home: &Home) -> Advice {
    let smallest = |set: &&BTreeSet<HostName>| {
        !home.awake.iter().any(|other| other.is_subset(set) && other != *set)
    };
    let awake: Vec<BTreeSet<HostName>> = home.awake.iter().filter(smallest).cloned().collect();
    let failing = |spare| -> Vec<_> {
        awake.iter().filter(|set| !keeps(&home.conf, set, spare)).cloned().collect()
    };
    let without_spare = remedy(&home.conf, &awake, 0);
    let with_spare = match home.spare {
        0 => without_spare.clone(),
        spare => remedy(&home.conf, &awake, spare),
    };
    let other = other_way(&home.conf, &awake, home.spare, &with_spare);
    let mut warnings = warnings(&home.conf, home);
    if let Remedy::Change(change) = &with_spare {
        for warning in self::warnings(&change.conf, home) {
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
        }
    }
    Advice {
        failing: failing(0),
        failing_with_spare: failing(home.spare),
        awake,
        without_spare,
        with_spare,
        other,
        warnings,
    }
}

/// Whether these keep their quorum, and the spare, when all the others go off.
fn keeps(conf: &Conf, awake: &BTreeSet<HostName>, spare: u32) -> bool {
    let ids = |hosts: &dyn Fn(&HostName) -> bool| -> BTreeSet<Id> {
        conf.nodes.iter().filter(|(_, node)| hosts(&node.name)).map(|(id, _)| *id).collect()
    };
    let mut model = Model::new(conf.clone());
    model.set_up(&ids(&|_| true));
    model.set_up(&ids(&|host| awake.contains(host)));
    let views = model.views();
    !views.is_empty()
        && views.values().all(|view| {
            view.quorate && u64::from(view.total) >= u64::from(view.quorum) + u64::from(spare)
        })
}

fn remedy(conf: &Conf, awake: &[BTreeSet<HostName>], spare: u32) -> Remedy {
    let all = |conf: &Conf| awake.iter().all(|set| keeps(conf, set, spare));
    if all(conf) {
        return Remedy::Nothing;
    }
    if awake.iter().any(BTreeSet::is_empty) {
        return Remedy::Impossible(
            "the policies leave nobody awake at some time, and nobody has no quorum; make one \
             host `tier: low`"
                .into(),
        );
    }
    let even = with_device(conf, Algorithm::Ffsplit);
    if conf.nodes.len().is_multiple_of(2) && all(&even.conf) {
        return Remedy::Change(even);
    }
    if let Some(change) = by_votes(conf, awake, spare).filter(|change| all(&change.conf)) {
        return Remedy::Change(change);
    }
    let last = with_device(conf, Algorithm::Lms);
    if all(&last.conf) {
        return Remedy::Change(last);
    }
    Remedy::Impossible(format!(
        "neither votes nor a QDevice let every one of these sets keep {} to spare; let more hosts \
         stay awake, or lower `quorum.spare`",
        votes(spare)
    ))
}

/// One vote each and a QDevice.
fn with_device(conf: &Conf, algorithm: Algorithm) -> Change {
    let hosts = u32::try_from(conf.nodes.len()).unwrap_or(u32::MAX);
    let votes_of_device = match algorithm {
        Algorithm::Ffsplit => 1,
        Algorithm::Lms => hosts.saturating_sub(1).max(1),
    };
    let mut changed = conf.clone();
    for node in changed.nodes.values_mut() {
        node.votes = 1;
    }
    let device = DeviceSection { algorithm, votes: Some(votes_of_device) };
    changed.device = Some(device);
    changed.quorum.expected_votes = None;
    // What corosync refuses or ignores beside a QDevice.
    changed.quorum.two_node = None;
    changed.quorum.last_man_standing = None;
    changed.quorum.auto_tie_breaker = None;
    changed.quorum.allow_downscale = None;
    let name = match algorithm {
        Algorithm::Ffsplit => "ffsplit",
        Algorithm::Lms => "lms",
    };
    let expected = hosts + votes_of_device;
    let needed = expected / 2 + 1;
    let cost = match algorithm {
        Algorithm::Ffsplit => format!(
            "While its server is dead {needed} of {hosts} hosts must be up, as without a QDevice."
        ),
        Algorithm::Lms => format!(
            "While its server is dead its {} are expected all the same: {needed} of {expected} are \
             needed, so all {hosts} hosts must be up, and the first to go off or to fail ends the \
             quorum.",
            votes(votes_of_device)
        ),
    };
    Change {
        votes: differing(conf, &changed),
        device: (conf.device != Some(device)).then_some(device),
        sentence: format!(
            "a QDevice with `algorithm: {name}` and {}, and one vote for every host",
            votes(votes_of_device)
        ),
        cost: Some(cost),
        conf: changed,
    }
}

fn differing(from: &Conf, to: &Conf) -> BTreeMap<HostName, u32> {
    let changed = to.nodes.iter().filter(|(id, node)| from.votes_of(**id) != Some(node.votes));
    changed.map(|(_, node)| (node.name.clone(), node.votes)).collect()
}

/// The fewest hosts whose votes change, and of those the smallest sum; without a QDevice.
fn by_votes(conf: &Conf, awake: &[BTreeSet<HostName>], spare: u32) -> Option<Change> {
    if conf.device.is_some() {
        return None;
    }
    let base: Vec<u32> = conf.nodes.values().map(|node| node.votes).collect();
    let masks: Vec<Vec<bool>> = awake
        .iter()
        .map(|set| conf.nodes.values().map(|node| set.contains(&node.name)).collect())
        .collect();
    let enough = |votes: &[u32]| {
        let all: u32 = votes.iter().sum();
        masks.iter().all(|mask| {
            let mine: u32 = votes.iter().zip(mask).filter(|(_, on)| **on).map(|(v, _)| v).sum();
            u64::from(mine) >= u64::from(all / 2 + 1) + u64::from(spare)
        })
    };
    let most = base.iter().sum::<u32>().saturating_add(2).saturating_add(spare.saturating_mul(2));
    let most = most.min(MOST_TRIED);
    let mut best: Option<(u32, Vec<u32>)> = None;
    let consider = |votes: &[u32], best: &mut Option<(u32, Vec<u32>)>| {
        let sum: u32 = votes.iter().sum();
        if best.as_ref().is_none_or(|(least, _)| sum < *least) && enough(votes) {
            *best = Some((sum, votes.to_vec()));
        }
    };
    for at in 0..base.len() {
        let mut tried = base.clone();
        for votes in 1..=most {
            tried[at] = votes;
            consider(&tried, &mut best);
        }
    }
    if best.is_none() && base.len() <= MOST_PAIRED {
        for one in 0..base.len() {
            for other in one + 1..base.len() {
                let mut tried = base.clone();
                for a in 1..=most.min(MOST_TRIED_PAIRED) {
                    for b in 1..=most.min(MOST_TRIED_PAIRED) {
                        (tried[one], tried[other]) = (a, b);
                        consider(&tried, &mut best);
                    }
                }
            }
        }
    }
    // Or from nothing: one vote for everybody, and for one of them as many as it takes.
    if best.is_none() {
        for at in 0..base.len() {
            let mut tried = vec![1; base.len()];
            for votes in 1..=most {
                tried[at] = votes;
                consider(&tried, &mut best);
            }
        }
    }
    let (_, found) = best?;
    let mut changed = conf.clone();
    for (node, votes) in changed.nodes.values_mut().zip(&found) {
        node.votes = *votes;
    }
    changed.quorum.expected_votes = None;
    let differing = differing(conf, &changed);
    let told: Vec<String> =
        differing.iter().map(|(host, count)| format!("{} for {host}", votes(*count))).collect();
    let shape: Vec<String> = found.iter().map(ToString::to_string).collect();
    Some(Change {
        votes: differing,
        device: None,
        sentence: format!("{} (votes {})", told.join(", "), shape.join("/")),
        cost: None,
        conf: changed,
    })
}

/// Votes tried for one host; corosync keeps a quorum in eight bits.
const MOST_TRIED: u32 = 120;
const MOST_TRIED_PAIRED: u32 = 24;

/// The way not taken: a QDevice beside uneven votes, with its cost; votes beside a QDevice.
fn other_way(
    conf: &Conf,
    awake: &[BTreeSet<HostName>],
    spare: u32,
    chosen: &Remedy,
) -> Option<Change> {
    let uneven = |conf: &Conf| conf.nodes.values().any(|node| node.votes != 1);
    let all = |change: &Change| awake.iter().all(|set| keeps(&change.conf, set, spare));
    let device = || {
        let algorithm = match conf.nodes.len().is_multiple_of(2) {
            true => Algorithm::Ffsplit,
            false => Algorithm::Lms,
        };
        Some(with_device(conf, algorithm)).filter(all)
    };
    match chosen {
        Remedy::Nothing if conf.device.is_none() && uneven(conf) => device(),
        Remedy::Change(change) if change.device.is_none() => device(),
        Remedy::Change(_) => by_votes(conf, awake, spare).filter(all),
        Remedy::Nothing | Remedy::Impossible(_) => None,
    }
}

/// The traps of this file.
fn warnings(conf: &Conf, home: &Home) -> Vec<Warning> {
    let mut found = Vec::new();
    let mut warn = |code, sentence: &str| found.push(Warning { code, sentence: sentence.into() });
    let uneven = conf.nodes.values().any(|node| node.votes != 1);
    let hosts = conf.nodes.len();
    if uneven && home.shared_storage {
        warn(
            "uneven-votes-shared-storage",
            "Uneven votes meet shared storage: the host with most votes goes on alone after a \
             broken network, while the others may still run guests on the same disks. With shared \
             storage give every host one vote, and use a QDevice.",
        );
    }
    if let Some(device) = &conf.device {
        match device.algorithm {
            Algorithm::Lms if hosts % 2 == 1 || uneven => warn(
                "odd-lms",
                "An lms QDevice beside odd or uneven hosts: its votes are expected even while its \
                 server is dead, and then nearly every host must be up. It also counts hosts, not \
                 their votes: in a broken network the part with most hosts wins.",
            ),
            Algorithm::Ffsplit if uneven => warn(
                "uneven-ffsplit",
                "Unequal votes beside ffsplit: corosync-qdevice refuses to vote then, while its \
                 vote is expected all the same. Give every host one vote.",
            ),
            Algorithm::Ffsplit | Algorithm::Lms => {}
        }
        if device.votes.is_none() {
            warn(
                "device-votes-unset",
                "The QDevice's votes are unset: with ffsplit it then never votes, and with uneven \
                 votes no corosync that starts afterwards comes up (it exits with status 20). \
                 Write `votes: 1` for ffsplit, one less than the hosts for lms.",
            );
        }
        if let Some(place) = &home.server_inside {
            warn(
                "qnetd-inside",
                &format!(
                    "The QDevice's server lives on {place}, inside the cluster it is to judge: when \
                     that goes, its vote goes too. Move corosync-qnetd to a machine outside.",
                ),
            );
        } else if let Some(server) = &home.server {
            warn(
                "qnetd-unseen",
                &format!(
                    "Nothing shows whether the QDevice's server at {server} is a guest of this \
                     cluster. If it is, its vote goes with that guest's host; move it outside.",
                ),
            );
        }
    }
    let quorum = &conf.quorum;
    if quorum.two_node() {
        warn("two-node", "two_node lets both halves go on when the network breaks. Use a QDevice.");
    }
    if quorum.wait_for_all.is_some_and(|on| on > 0) {
        warn(
            "wait-for-all",
            "wait_for_all: once the quorum is lost every host must be woken before it comes back.",
        );
    }
    if quorum.allow_downscale() {
        warn(
            "allow-downscale",
            "allow_downscale is not supported by corosync's makers, and lowers the expected votes \
             but not the quorum.",
        );
    }
    if quorum.last_man_standing() && uneven {
        warn(
            "last-man-standing",
            "last_man_standing is silently off where a host has other votes than one.",
        );
    }
    found
}
