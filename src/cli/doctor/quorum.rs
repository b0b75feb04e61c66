//! The votes: what every member shows of them, what the policies expect of them, the QDevice, and
//! uneven votes beside shared storage.
//!
//! **Does not know:** which power-offs the gate would clear.

use std::collections::BTreeMap;

use super::{Checks, Visit, answer};
use crate::cluster::quorum::device_fault;
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
    members(&evidence, checks);
    device(&evidence, checks);
    votes(visit, &evidence, checks);
    uneven(visit, checks);
}

/// Every member shows the same.
fn members(evidence: &BTreeMap<&HostName, &Evidence>, checks: &mut Checks) {
    let mut by = checks.by("quorum", "pvecm status in every member's own report");
    let Some((first, shown)) = evidence.iter().next() else { return };
    if let Some((host, _)) = evidence.iter().find(|(_, one)| !one.quorate) {
        return by.fault(
            format!("{host} sees no quorum"),
            "wake hosts until the majority of votes is there: spot up HOST",
        );
    }
    if let Some((host, _)) = evidence.iter().find(|(_, one)| one.ring != shown.ring) {
        return by.fault(
            format!("{first} and {host} are in different rings: the cluster is cut apart"),
            "look at the network between them: corosync-cfgtool -s",
        );
    }
    by.good(format!(
        "{} of {} votes are here and {} are needed, as every member shows",
        shown.total, shown.expected, shown.quorum
    ));
}

fn device(evidence: &BTreeMap<&HostName, &Evidence>, checks: &mut Checks) {
    let mut by =
        checks.by("qdevice", "pvecm status and corosync.conf in every member's own report");
    let configured = evidence.values().find(|one| one.conf.device.is_some());
    let Some(configured) = configured else { return };
    if let Some(fault) = device_fault(&configured.conf) {
        return by.fault(fault, "pvecm qdevice remove; pvecm qdevice setup ADDRESS");
    }
    let mut well = true;
    for (host, shown) in evidence {
        let cast = shown.device_votes.unwrap_or(0);
        if cast == 0 {
            well = false;
            by.fault(
                format!("the QDevice casts no vote for {host}"),
                format!(
                    "ssh root@{host} systemctl restart corosync-qdevice; then look at its server"
                ),
            );
        }
    }
    if well {
        by.good("the QDevice is alive and casts its vote for every member");
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
    let mut by = checks.by("uneven-votes", how);
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
