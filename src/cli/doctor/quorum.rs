//! The votes: what every member shows of them, what the policies expect of them, the QDevice, and
//! uneven votes beside shared storage.
//!
//! **Does not know:** which power-offs the gate would clear.

use std::collections::BTreeMap;

use super::{Checks, Visit, answer};
use crate::cluster::quorum::disorder::{About, recognise};
use crate::cluster::{Answer, Evidence, HostName, Question};
use crate::policy::votes::{Votes, never_resting};

pub(super) fn quorum(visit: &Visit<'_>, checks: &mut Checks) {
    let mut evidence: BTreeMap<&HostName, &Evidence> = BTreeMap::new();
    for (host, report) in &visit.reports {
        let node = &visit.awake[host];
        let how = format!("GET /nodes/{node}/report of {host}");
        match report.as_ref().map(|report| report.evidence.as_ref()) {
            Ok(Ok(found)) => {
                evidence.insert(host, found);
            }
            Ok(Err(why)) | Err(why) => checks.by("evidence", how).fault(
                format!("{host} shows no evidence of its votes, so nothing is powered off: {why}"),
                format!("ssh root@{host} pvecm status"),
            ),
        }
    }
    members(visit, &evidence, checks);
    votes(visit, &evidence, checks);
    uneven(visit, checks);
}

/// What every member shows, and whatever is out of order with it.
fn members(visit: &Visit<'_>, evidence: &BTreeMap<&HostName, &Evidence>, checks: &mut Checks) {
    const HOW: &str = "pvecm status and corosync.conf in every member's own report";
    let Some(shown) = evidence.values().next() else { return };
    let views = evidence.iter().map(|(host, view)| ((*host).clone(), *view)).collect();
    let node = |host: &HostName| {
        visit.seen.hosts.get(host).map_or(host.to_string(), |look| look.node.clone())
    };
    let found = recognise(&views, &node);
    for one in &found {
        let mut by = checks.by(one.code(), HOW);
        match one.about() {
            About::Views | About::Quorate | About::File | About::Return | About::Device => {
                by.fault(one.to_string(), one.remedy());
            }
            About::Remark => by.warning(one.to_string(), one.remedy()),
        }
    }
    if found.is_empty() {
        checks.by("quorum", HOW).good(format!(
            "{} of {} votes are here and {} are needed, as every member shows",
            shown.total, shown.expected, shown.quorum
        ));
    }
    match (&shown.conf.device, shown.device_votes) {
        (Some(_), Some(cast))
            if cast > 0 && found.iter().all(|one| one.about() != About::Device) =>
        {
            checks
                .by("qdevice", HOW)
                .good("the QDevice is alive and casts its vote for every member");
        }
        // What is amiss with it has been told; without one there is nothing to tell.
        (Some(_) | None, _) => {}
    }
}

/// What the policies expect of the votes.
fn votes(visit: &Visit<'_>, evidence: &BTreeMap<&HostName, &Evidence>, checks: &mut Checks) {
    let mut by =
        checks.by("votes", "GET /cluster/config/nodes, against the windows of the policies");
    let Some(policy) = visit.policy else { return };
    let configured = match answer(&visit.seen, &Question::ConfiguredVotes) {
        Some(Ok(Answer::ConfiguredVotes(votes))) => votes.clone(),
        Some(Err(why)) => {
            return by.unknown(format!("the configured votes are not known: {why}"), "try again");
        }
        Some(Ok(_)) | None => return,
    };
    let device = evidence.values().filter_map(|one| one.device_votes).min().unwrap_or(0);
    let found = never_resting(policy, &Votes { hosts: configured, device });
    if found.is_empty() {
        by.good("the votes allow every sleep that the policies plan");
    }
    for one in found {
        by.warning(one.sentence(), "spot quorum --advise");
    }
}

/// One host alone quorate, and disks that others write as well.
fn uneven(visit: &Visit<'_>, checks: &mut Checks) {
    let how = "GET /cluster/config/nodes and GET /cluster/resources";
    let mut by = checks.by("uneven_votes", how);
    let Some(Ok(Answer::ConfiguredVotes(votes))) = answer(&visit.seen, &Question::ConfiguredVotes)
    else {
        return;
    };
    let all: u32 = votes.values().sum();
    let alone = votes.iter().find(|(_, votes)| **votes > all / 2);
    let Some((host, _)) = alone.filter(|_| votes.len() > 1) else { return };
    let shared = visit.seen.storages.iter().find(|store| store.shared);
    match shared {
        Some(store) => by.warning(
            format!(
                "{host} alone is quorate by its votes, and the storage {} is shared: a {host} that \
                 is cut off goes on writing there while the others cannot tell",
                store.name
            ),
            "spot quorum --advise (a QDevice is the real solution); never add high availability to it",
        ),
        None => by.warning(
            format!("{host} alone is quorate by its votes, so everything stops when {host} fails"),
            "spot quorum --advise (a QDevice is the real solution)",
        ),
    }
}
