//! Where the cluster itself says otherwise than the policies: the address a host is woken at, the
//! storage whose backups a host is wanted for.
//!
//! `check --live` shows them at their place; `doctor` tells the jobs, and looks at cards itself.
//!
//! **Does not know:** who of the two is right.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::cluster::{Answer, BackupJob, HostName, Mac, Observation, Question, Tier};
use crate::policy::Policy;

/// What a doubt is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
    /// A host's `mac`.
    Mac(HostName),
    /// The policy of this name.
    Rule(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubt {
    pub about: About,
    pub sentence: String,
    pub remedy: String,
}

/// One host's addresses, as the policy and PVE have them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Addresses {
    pub host: HostName,
    pub policy: Vec<String>,
    /// PVE's own `wakeonlan` of the host; `null` where it has none, or it could not be asked.
    pub cluster: Option<String>,
}

/// What must be asked for it. PVE has a host's address from the host itself, so only those that are
/// up can be asked.
pub fn questions(policy: &Policy, seen: &Observation) -> Vec<Question> {
    let up = seen.members();
    let hosts = policy.hosts().keys().filter(|host| up.contains(*host));
    let mut questions: Vec<Question> = hosts.cloned().map(Question::WakeAddress).collect();
    if policy.rules().iter().any(|rule| rule.for_backups.is_some()) {
        questions.push(Question::BackupJobs);
    }
    questions
}

/// The address PVE has for a host, where it could be asked.
fn address(seen: &Observation, host: &HostName) -> Option<Option<Mac>> {
    let question = Question::WakeAddress(host.clone());
    match &seen.answers.get(&question)?.answer {
        Ok(Answer::WakeAddress(mac)) => Some(*mac),
        Ok(_) | Err(_) => None,
    }
}

/// The addresses of every host that spot may wake.
pub fn addresses(policy: &Policy, seen: &Observation) -> Vec<Addresses> {
    let shown = |(name, host): (&HostName, &crate::policy::Host)| {
        let cluster = address(seen, name).flatten().map(|mac| mac.to_string());
        let policy: Vec<String> = host.macs.iter().map(ToString::to_string).collect();
        let wanted = host.tier != Tier::Low || !policy.is_empty();
        wanted.then(|| Addresses { host: name.clone(), policy, cluster })
    };
    policy.hosts().iter().filter_map(shown).collect()
}

/// What could not be compared, and why.
pub fn gaps(policy: &Policy, seen: &Observation) -> Vec<String> {
    let mut gaps = Vec::new();
    for one in addresses(policy, seen) {
        match seen.answers.get(&Question::WakeAddress(one.host.clone())).map(|one| &one.answer) {
            Some(Ok(_)) => {}
            Some(Err(gap)) => gaps.push(gap.to_string()),
            None => gaps.push(format!(
                "could not compare the MAC address of {} with PVE's: it is not up",
                one.host
            )),
        }
    }
    if let Some(Err(gap)) = seen.answers.get(&Question::BackupJobs).map(|one| &one.answer) {
        gaps.push(gap.to_string());
    }
    gaps
}

pub fn doubts(policy: &Policy, seen: &Observation) -> Vec<Doubt> {
    let mut doubts = other_addresses(policy, seen);
    doubts.extend(jobless(policy, seen));
    doubts
}

fn other_addresses(policy: &Policy, seen: &Observation) -> Vec<Doubt> {
    let mut doubts = Vec::new();
    // The address of one host under another's name is the likeliest slip.
    let owners: BTreeMap<Mac, &HostName> = policy
        .hosts()
        .keys()
        .filter_map(|host| Some((address(seen, host).flatten()?, host)))
        .collect();
    for (name, host) in policy.hosts() {
        let theirs = address(seen, name).flatten();
        let (sentence, remedy) = match (host.macs.as_slice(), theirs) {
            (_, None) => continue,
            ([], Some(_)) if host.tier == Tier::Low => continue,
            ([], Some(mac)) => (
                format!("{name} has no `mac`, and PVE would wake it at {mac}"),
                format!("write `mac: \"{mac}\"`; without it {name} cannot be woken"),
            ),
            (macs, Some(mac)) if macs.contains(&mac) => continue,
            (macs, Some(mac)) => {
                let ours: Vec<String> = macs.iter().map(ToString::to_string).collect();
                let other = macs.iter().find_map(|mac| owners.get(mac));
                let whose = other.map_or(String::new(), |other| format!(", which is {other}'s"));
                (
                    format!(
                        "{name} is woken at {}{whose}, and PVE would wake it at {mac}",
                        ours.join(", ")
                    ),
                    format!(
                        "write `mac: \"{mac}\"`, or correct PVE: `pvesh set /nodes/{}/config \
                         --wakeonlan {}`",
                        host.node, ours[0]
                    ),
                )
            }
        };
        doubts.push(Doubt { about: About::Mac(name.clone()), sentence, remedy });
    }
    doubts
}

/// Policies that wait for backups no job makes.
pub fn jobless(policy: &Policy, seen: &Observation) -> Vec<Doubt> {
    let Some(Ok(Answer::BackupJobs(jobs))) =
        seen.answers.get(&Question::BackupJobs).map(|one| &one.answer)
    else {
        return Vec::new();
    };
    let coming: Vec<&BackupJob> = jobs.iter().filter(|job| job.next_run.is_some()).collect();
    let mut storages: Vec<&str> = coming.iter().filter_map(|job| job.storage.as_deref()).collect();
    storages.sort_unstable();
    storages.dedup();
    let mut doubts = Vec::new();
    for rule in policy.rules() {
        let Some(wanted) = &rule.for_backups else { continue };
        if storages.contains(&wanted.storage.as_str()) {
            continue;
        }
        let remedy = match storages.as_slice() {
            [] => "the cluster has no backup job that will run: add one under Datacenter, Backup"
                .to_owned(),
            some => format!("its jobs write to {}", some.join(", ")),
        };
        doubts.push(Doubt {
            about: About::Rule(rule.name.clone()),
            sentence: format!(
                "no backup job of the cluster will write to `{}`, so {} never opens by one",
                wanted.storage, rule.name
            ),
            remedy,
        });
    }
    doubts
}
