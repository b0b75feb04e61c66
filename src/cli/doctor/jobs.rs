//! What PVE does by itself and a sleeping host would miss or upset: high availability, replication,
//! backups, and storages that live on a host that may sleep.
//!
//! **Does not know:** whether such a job runs now; the plan asks that again before every sleep.

use jiff::Timestamp;

use super::{Checks, Visit, list};
use crate::cluster::HostName;
use crate::policy::{Policy, Serves};
use crate::pve::JobFound;

pub(super) async fn jobs(visit: &Visit<'_>, checks: &mut Checks) {
    let Some(to) = visit.anybody() else { return };
    high_availability(visit, to, checks).await;
    let Some(policy) = visit.policy else { return };
    replication(visit, policy, to, checks).await;
    backups(visit, policy, to, checks).await;
    serving(visit, policy, checks);
}

async fn high_availability(visit: &Visit<'_>, to: &HostName, checks: &mut Checks) {
    let mut by = checks.by("ha", "GET /cluster/ha/resources and GET /cluster/options");
    let (services, policy) =
        (visit.survey.ha_services(to).await, visit.survey.shutdown_policy(to).await);
    let services = match services {
        Ok(services) => services,
        Err(why) => {
            return by
                .unknown(format!("whether HA manages guests is not known: {why}"), "try again");
        }
    };
    if services.is_empty() {
        return by.good("high availability manages no guest");
    }
    let many = list(&services);
    match policy {
        Ok(Some(policy)) if policy == "migrate" => by.good(format!(
            "high availability manages {many} and moves them away when a host shuts down"
        )),
        Ok(policy) => {
            let policy = policy.as_deref().unwrap_or("conditional");
            by.warning(
                format!(
                    "high availability manages {many}, and its shutdown policy `{policy}` stops them \
                     with their host instead of moving them"
                ),
                "in Datacenter → Options → HA Settings: pvesh set /cluster/options --ha \
                 shutdown_policy=migrate",
            );
        }
        Err(why) => {
            by.unknown(format!("the shutdown policy of HA is not known: {why}"), "try again")
        }
    }
}

/// The owner's name of a node that may sleep.
fn sleeper<'a>(visit: &'a Visit<'_>, node: &str) -> Option<&'a HostName> {
    let (name, _) = visit.seen.hosts.iter().find(|(_, look)| look.node == node)?;
    visit.may_rest().contains(&name).then_some(name)
}

async fn replication(visit: &Visit<'_>, policy: &Policy, to: &HostName, checks: &mut Checks) {
    let mut by = checks.by("replication", "GET /cluster/replication, against the policies");
    let jobs = match visit.survey.replications(to).await {
        Ok(jobs) => jobs,
        Err(why) => {
            return by.unknown(format!("replication jobs are not known: {why}"), "try again");
        }
    };
    let mut collides = false;
    for job in jobs.iter().filter(|job| job.enabled) {
        let Some(target) = job.node.as_deref().and_then(|node| sleeper(visit, node)) else {
            continue;
        };
        collides = true;
        let guest = job.guest.as_deref().unwrap_or("a guest");
        by.warning(
            format!(
                "guest {guest} is replicated to {target} by `{}`: whenever {target} rests, that fails \
                 and PVE mails about it",
                job.schedule
            ),
            format!(
                "let it run inside a window of {target}{}: pvesr update {} --schedule '…'",
                windows(policy, target),
                job.id
            ),
        );
    }
    if !collides {
        by.good("no replication goes to a host that may rest");
    }
}

fn windows(policy: &Policy, host: &HostName) -> String {
    let names: Vec<&str> = policy
        .rules()
        .iter()
        .filter(|rule| rule.hosts.contains(host))
        .map(|rule| rule.name.as_str())
        .collect();
    if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) }
}

async fn backups(visit: &Visit<'_>, policy: &Policy, to: &HostName, checks: &mut Checks) {
    let mut by = checks.by("backups", "GET /cluster/backup, against the windows of the policies");
    let jobs = match visit.survey.backup_jobs(to).await {
        Ok(jobs) => jobs,
        Err(why) => return by.unknown(format!("backup jobs are not known: {why}"), "try again"),
    };
    let mut collides = false;
    for job in jobs.iter().filter(|job| job.enabled) {
        for host in concerned(visit, policy, job) {
            if covered(policy, host, job) {
                continue;
            }
            collides = true;
            let after = match job.repeats_missed {
                true => "; PVE makes up for it after the next boot",
                false => "",
            };
            by.warning(
                format!(
                    "the backup {} (`{}`) needs {host}, which no window keeps awake then{after}",
                    job.id, job.schedule
                ),
                format!(
                    "add a policy: {{ name: backups-{host}, hosts: [{host}], for_backups: {{ storage: \
                     {} }} }}",
                    job.storage.as_deref().unwrap_or("STORAGE")
                ),
            );
        }
    }
    if !collides {
        by.good("every backup finds the hosts awake that it needs");
    }
}

/// Hosts that may sleep and without which the job cannot do its work: the one it is bound to, and
/// the one that serves its storage.
fn concerned<'a>(visit: &'a Visit<'_>, policy: &'a Policy, job: &JobFound) -> Vec<&'a HostName> {
    let bound = job.node.as_deref().and_then(|node| sleeper(visit, node));
    let serves = |host: &&HostName| {
        let serves = policy.host(host).map(|host| host.serves.as_slice()).unwrap_or_default();
        serves.iter().any(|one| match one {
            Serves::Storage { name, .. } => Some(name) == job.storage.as_ref(),
            Serves::Qnetd => false,
        })
    };
    let mut hosts: Vec<&HostName> = visit.may_rest().into_iter().filter(serves).collect();
    hosts.extend(bound);
    hosts.sort();
    hosts.dedup();
    hosts
}

/// A window, or a policy for backups, keeps `host` awake when the job runs next.
fn covered(policy: &Policy, host: &HostName, job: &JobFound) -> bool {
    let for_backups = policy.rules().iter().any(|rule| {
        let for_this = rule.for_backups.as_ref().map(|one| &one.storage) == job.storage.as_ref();
        rule.hosts.contains(host) && rule.for_backups.is_some() && for_this
    });
    let next = job.next_run.and_then(|seconds| Timestamp::from_second(seconds).ok());
    for_backups || next.is_some_and(|at| policy.opening(host, at, &[]).is_some())
}

/// A shared storage whose server is a host that may sleep: nothing in PVE says so, the owner must.
fn serving(visit: &Visit<'_>, policy: &Policy, checks: &mut Checks) {
    let how =
        "storage.cfg and the addresses in the hosts' reports, against `serves` of the policies";
    let mut by = checks.by("serves", how);
    let declared = |host: &HostName, name: &str| {
        let serves = policy.host(host).map(|host| host.serves.as_slice()).unwrap_or_default();
        serves.iter().any(|one| match one {
            Serves::Storage { name: declared, .. } => declared == name,
            Serves::Qnetd => false,
        })
    };
    let mut well = true;
    for (storage, server) in servers(visit) {
        let Some(host) = visit.may_rest().into_iter().find(|host| lives_at(visit, host, server))
        else {
            continue;
        };
        if !declared(host, storage) {
            well = false;
            by.fault(
                format!("the storage {storage} lives on {host}, and no policy says that {host} serves it"),
                format!(
                    "add `serves: [{{ storage: {storage}, busy_when: guests }}]` to {host}, or spot puts \
                     it to sleep under those who use it"
                ),
            );
        }
    }
    if well {
        by.good("no storage is seen to live on a host that may rest without its policy saying so");
    }
}

/// Storages and the addresses of their servers, as any host shows them.
fn servers<'a>(visit: &'a Visit<'_>) -> impl Iterator<Item = (&'a String, &'a String)> {
    let reports = visit.reports.values().filter_map(|report| report.as_ref().ok());
    reports.take(1).flat_map(|report| &report.servers)
}

/// By its own addresses, or by those that corosync.conf gives it.
fn lives_at(visit: &Visit<'_>, host: &HostName, server: &str) -> bool {
    let node = visit.seen.hosts.get(host).map_or(host.as_str(), |look| look.node.as_str());
    let reports = visit
        .reports
        .iter()
        .filter_map(|(name, report)| Some((name, report.as_ref().ok()?.evidence.as_ref().ok()?)));
    let known = reports.flat_map(|(name, shown)| {
        let own = shown.addresses.iter().filter(move |_| name == host);
        own.chain(shown.conf.addresses.get(node).into_iter().flatten())
    });
    let mut known = known;
    known.any(|address| address == server)
}
