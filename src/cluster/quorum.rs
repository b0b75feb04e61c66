//! Votes as corosync counts them: the words for runtime [`Evidence`], and the cautious arithmetic by
//! which a power-off is judged.
//!
//! The naive formula (votes alive ≥ half the sum + 1) was wrong in 90 of 589 views measured on real
//! corosync, in both directions. So nothing here is computed from a file: expected votes, quorum and
//! every member's votes are what the *members themselves* show now, and no bonus (last_man_standing,
//! auto_tie_breaker, two_node, allow_downscale) is ever credited. The figures and rules come from
//! corosync 3.1.7's votequorum as measured, `votequorum(5)` and `corosync.conf(5)`.
//!
//! **Does not know:** how a report is fetched or spelled, and who wants a host off.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{HostName, RunState, Vmid};

/// One line of the membership table, with the QDevice column where there is one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberVotes {
    pub votes: u32,
    /// `A,V,NMW`, `A,NV,NMW`, `NA,NV,NMW`, `NR`; `None` without a QDevice column.
    pub device: Option<String>,
}

/// How a QDevice server decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceAlgorithm {
    /// Half the hosts suffice (even clusters).
    Ffsplit,
    /// Last man standing by the server's grace (odd or uneven clusters).
    Lms,
    /// Anything else is never credited.
    Other(String),
}

/// `quorum { device { … } }` of corosync.conf.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceConf {
    pub algorithm: DeviceAlgorithm,
    /// `None` when the file does not say.
    pub votes: Option<u32>,
    /// `quorum.device.net.host`: where its server lives.
    pub server: Option<String>,
}

/// What a report shows of corosync.conf.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CorosyncConf {
    pub config_version: Option<u64>,
    /// Configured votes by PVE's node name; a missing key counts as 1 (`corosync.conf(5)`).
    pub votes: BTreeMap<String, u32>,
    /// `ring0_addr` and further by node name.
    pub addresses: BTreeMap<String, Vec<String>>,
    /// Keys of the quorum section other than `device`, as written.
    pub quorum: BTreeMap<String, String>,
    pub device: Option<DeviceConf>,
}

/// The runtime state of votequorum as one member shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    pub expected: u32,
    pub highest_expected: u32,
    pub total: u32,
    pub quorum: u32,
    pub quorate: bool,
    /// `Quorate`, `Qdevice`, `WaitForAll`, `LastManStanding`, `AutoTieBreaker`, `2Node`, …
    pub flags: BTreeSet<String>,
    /// As printed: `1.51`. Members of one partition show the same.
    pub ring: String,
    /// Every member with its votes as counted now.
    pub members: BTreeMap<HostName, MemberVotes>,
    /// Votes in the `0 N Qdevice` line: the local truth, above 0 only when the vote is cast for
    /// *this* host. `None` without such a line.
    pub device_votes: Option<u32>,
    pub conf: CorosyncConf,
    /// `qm list` and `pct list` of that host: everything there is, whatever our token may see.
    /// `Err` says which list could not be read.
    pub guests: Result<BTreeMap<Vmid, RunState>, String>,
    /// Addresses of the reporting host, as far as the report shows them.
    pub addresses: Vec<String>,
}

/// Why a set of stops would not be safe, or what remains when it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    /// Votes of the members that stay, from the membership table.
    pub remaining: u32,
    /// Votes the QDevice would go on casting for them.
    pub credit: u32,
    /// The highest quorum any survivor shows.
    pub needed: u32,
    /// Why the QDevice gets no credit, where it could have mattered.
    pub no_credit_because: Option<String>,
}

impl Tally {
    /// Whether the survivors keep `spare` votes above the majority.
    pub fn keeps(&self, spare: u32) -> bool {
        // 64 bits: 32 hosts of 255 votes and a spare of u32::MAX must not wrap into a yes.
        u64::from(self.remaining) + u64::from(self.credit)
            >= u64::from(self.needed) + u64::from(spare)
    }
}

/// What would remain if all of `stops` left at once.
///
/// `evidence` must hold every member's own view (the gate has checked that they agree), `all_off`
/// says whether everybody outside the survivors is known to be off, `server_lost` whether the
/// QDevice's server lives on a stopping host.
pub fn tally(
    evidence: &BTreeMap<HostName, Evidence>,
    stops: &BTreeSet<HostName>,
    server_lost: bool,
) -> Tally {
    let survivors: BTreeSet<&HostName> =
        evidence.keys().filter(|host| !stops.contains(*host)).collect();
    let views = || survivors.iter().filter_map(|host| evidence.get(*host));
    // Votes as the most pessimistic survivor counts them.
    let remaining = views()
        .map(|view| {
            let stays = |(host, _): &(&HostName, &MemberVotes)| survivors.contains(*host);
            view.members.iter().filter(stays).map(|(_, m)| m.votes).sum::<u32>()
        })
        .min()
        .unwrap_or(0);
    let needed = views().map(|view| view.quorum).max().unwrap_or(u32::MAX);
    let (credit, no_credit_because) = match device_credit(evidence, &survivors, server_lost) {
        Ok(votes) => (votes, None),
        Err(why) => (0, why),
    };
    Tally { remaining, credit, needed, no_credit_because }
}

/// The QDevice's votes that the survivors may count on, or why none (`Err(None)`: there is none).
fn device_credit(
    evidence: &BTreeMap<HostName, Evidence>,
    survivors: &BTreeSet<&HostName>,
    server_lost: bool,
) -> Result<u32, Option<String>> {
    let Some(any) = survivors.iter().find_map(|host| evidence.get(*host)) else {
        return Err(None);
    };
    let Some(device) = &any.conf.device else {
        return Err(None);
    };
    if server_lost {
        return Err(Some("the QDevice's server lives on a host that would stop".into()));
    }
    let mut credit = u32::MAX;
    for host in survivors {
        let view = &evidence[*host];
        if view.conf.device.as_ref() != Some(device) {
            return Err(Some(format!("{host} has another device section in its corosync.conf")));
        }
        // The local truth of each survivor: its own row says alive and voting, and the vote is cast
        // for it.
        let own = view.members.get(*host).and_then(|m| m.device.as_deref()).unwrap_or("");
        let mut words = own.split(',');
        if words.next() != Some("A") || words.next() != Some("V") {
            let shown = if own.is_empty() { "nothing" } else { own };
            return Err(Some(format!(
                "{host} shows its QDevice as {shown}, not as alive and voting"
            )));
        }
        match view.device_votes {
            Some(votes) if votes > 0 => credit = credit.min(votes),
            Some(_) | None => {
                return Err(Some(format!("the QDevice casts no vote for {host}")));
            }
        }
    }
    let configured = &any.conf.votes;
    let all_one = configured.values().all(|votes| *votes == 1);
    let hosts = configured.len();
    match &device.algorithm {
        // ffsplit works only with one vote each and `votes: 1` written out; half the hosts suffice.
        DeviceAlgorithm::Ffsplit => {
            if device.votes != Some(1) || !all_one {
                return Err(Some("ffsplit needs `votes: 1` and one vote per host".into()));
            }
            if 2 * survivors.len() < hosts {
                return Err(Some("fewer than half the hosts would remain for ffsplit".into()));
            }
        }
        // lms follows the largest partition, so everyone outside the survivors must be off; the
        // caller's evidence covers every member, and members are all that run corosync.
        DeviceAlgorithm::Lms => {
            if device.votes.is_none() && !all_one {
                return Err(Some("lms without `votes` needs one vote per host".into()));
            }
        }
        DeviceAlgorithm::Other(name) => {
            return Err(Some(format!("`{name}` is not an algorithm spot knows")));
        }
    }
    Ok(credit)
}
