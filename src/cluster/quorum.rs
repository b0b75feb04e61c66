//! Votes as corosync counts them: the words for runtime [`Evidence`], and the cautious arithmetic
//! by which a power-off is judged.
//!
//! The naive formula (votes alive ≥ half the sum + 1) was wrong in 90 of 589 views measured on real
//! corosync, in both directions. So nothing here is computed from a file: expected votes, quorum
//! and every member's votes are what the *members themselves* show now, and no bonus
//! (last_man_standing, auto_tie_breaker, two_node, allow_downscale) is ever credited. The figures
//! and rules come from corosync 3.1.7's votequorum as measured, `votequorum(5)` and
//! `corosync.conf(5)`.
//!
//! **Does not know:** how a report is fetched or spelled, and who wants a host off.

pub mod disorder;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{HostName, RunState, Vmid};

pub mod advise;
pub mod conf;
mod device;
pub mod diff;
pub mod foresight;
mod member;
pub mod model;
mod reading;
pub mod sets;
#[cfg(test)]
mod tests;
mod tree;
pub mod whatif;

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
    /// The file itself, to show a change of it against.
    #[serde(default)]
    pub text: String,
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

/// `1 vote`, `2 votes`.
pub fn votes(count: u32) -> String {
    format!("{count} vote{}", if count == 1 { "" } else { "s" })
}

/// What would remain if all of `stops` left at once.
///
/// `evidence` must hold every member's own view (the gate has checked that they agree), `rest_off`
/// says whether everybody who is no member is known to be off, `server_lost` whether the QDevice's
/// server lives on a stopping host.
pub fn tally(
    evidence: &BTreeMap<HostName, &Evidence>,
    stops: &BTreeSet<HostName>,
    server_lost: bool,
    rest_off: bool,
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
    let needed =
        views().map(|view| view.quorum.max(counted_by_heads(view))).max().unwrap_or(u32::MAX);
    let (credit, no_credit_because) =
        match device_credit(evidence, &survivors, server_lost, rest_off) {
            Ok(votes) => (votes, None),
            Err(why) => (0, why),
        };
    Tally { remaining, credit, needed, no_credit_because }
}

/// last_man_standing and allow_downscale set the expected votes to the number of *members*, which
/// is more than their votes where some have none: of 1/0/0 the one vote that is a majority of all
/// then stands against a quorum of 2.
fn counted_by_heads(view: &Evidence) -> u32 {
    let by_heads = ["LastManStanding", "AllowDownscale"];
    match by_heads.iter().any(|flag| view.flags.contains(*flag)) {
        true => u32::try_from(view.members.len()).unwrap_or(u32::MAX) / 2 + 1,
        false => 0,
    }
}

/// The QDevice's votes that the survivors may count on, or why none (`Err(None)`: there is none).
fn device_credit(
    evidence: &BTreeMap<HostName, &Evidence>,
    survivors: &BTreeSet<&HostName>,
    server_lost: bool,
    rest_off: bool,
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
        // lms votes for the largest partition it can see, so nobody outside may still run.
        DeviceAlgorithm::Lms => {
            if !rest_off {
                return Err(Some(
                    "a host that vanished may still talk to the QDevice's server".into(),
                ));
            }
            if device.votes.is_none() && !all_one {
                return Err(Some("lms without `votes` needs one vote per host".into()));
            }
            // With wait_for_all its daemons go on voting when their server has died, and only the
            // next change of membership takes the vote away (measured; `man corosync-qdevice` says
            // nothing of it). So alive and voting shows nothing here.
            let waits = |view: &Evidence| view.flags.contains("WaitForAll");
            if survivors.iter().any(|host| waits(evidence[*host])) {
                return Err(Some(
                    "with wait_for_all an lms device goes on voting after its server died, until \
                     a host leaves"
                        .into(),
                ));
            }
        }
        DeviceAlgorithm::Other(name) => {
            return Err(Some(format!("`{name}` is not an algorithm spot knows")));
        }
    }
    Ok(credit)
}

/// Whether a device section lets a host that boots start corosync at all: with uneven votes, or lms
/// and uneven votes, `votes` must be written out (corosync exits with status 20 otherwise), and
/// ffsplit works only with one vote each (measured; `corosync-qdevice(8)`).
pub fn device_fault(conf: &CorosyncConf) -> Option<String> {
    let device = conf.device.as_ref()?;
    let all_one = conf.votes.values().all(|votes| *votes == 1);
    match &device.algorithm {
        DeviceAlgorithm::Ffsplit if !all_one || device.votes != Some(1) => Some(
            "its QDevice section says ffsplit, which needs `votes: 1` and one vote per host".into(),
        ),
        DeviceAlgorithm::Lms if !all_one && device.votes.is_none() => Some(
            "its QDevice section lacks `votes`, and corosync does not start like that with uneven votes"
                .into(),
        ),
        DeviceAlgorithm::Other(name) => {
            Some(format!("its QDevice section names the algorithm `{name}`, which spot does not know"))
        }
        DeviceAlgorithm::Ffsplit | DeviceAlgorithm::Lms => None,
    }
}

#[cfg(test)]
mod tally_tests {
    use super::*;

    /// A cluster of hosts h1, h2, … with these votes, everybody up and agreeing.
    fn cluster(
        votes: &[u32],
        device: Option<(DeviceAlgorithm, u32, bool)>,
    ) -> BTreeMap<HostName, Evidence> {
        let name = |index: usize| HostName(format!("h{}", index + 1));
        let device_votes = device.as_ref().map_or(0, |(_, votes, _)| *votes);
        let expected = votes.iter().sum::<u32>() + device_votes;
        let conf = CorosyncConf {
            config_version: Some(1),
            votes: votes.iter().enumerate().map(|(i, v)| (name(i).0, *v)).collect(),
            device: device.as_ref().map(|(algorithm, votes, _)| DeviceConf {
                algorithm: algorithm.clone(),
                votes: Some(*votes),
                server: None,
            }),
            ..CorosyncConf::default()
        };
        let alive = device.as_ref().is_some_and(|(_, _, alive)| *alive);
        let column = device.as_ref().map(|_| if alive { "A,V,NMW" } else { "A,NV,NMW" }.to_owned());
        let members: BTreeMap<_, _> = (0..votes.len())
            .map(|i| (name(i), MemberVotes { votes: votes[i], device: column.clone() }))
            .collect();
        let view = Evidence {
            expected,
            highest_expected: expected,
            total: expected,
            quorum: expected / 2 + 1,
            quorate: true,
            flags: BTreeSet::new(),
            ring: "1.1".into(),
            members,
            device_votes: device.as_ref().map(|_| if alive { device_votes } else { 0 }),
            conf,
            guests: Ok(BTreeMap::new()),
            addresses: vec![],
        };
        (0..votes.len()).map(|i| (name(i), view.clone())).collect()
    }

    fn safe(cluster: &BTreeMap<HostName, Evidence>, off: &[usize]) -> bool {
        let stops = off.iter().map(|i| HostName(format!("h{i}"))).collect();
        let views = cluster.iter().map(|(host, view)| (host.clone(), view)).collect();
        tally(&views, &stops, false, true).keeps(0)
    }

    /// Every set of stops of every cluster of 1 to 4 hosts with 0 to 4 votes each: safe exactly
    /// when the votes that stay are a majority of all.
    #[test]
    fn without_a_device_the_majority_of_all_votes_decides() {
        let mut judged = 0;
        for hosts in 1..=4u32 {
            for code in 0..5u32.pow(hosts) {
                let votes: Vec<u32> = (0..hosts).map(|i| code / 5u32.pow(i) % 5).collect();
                let all: u32 = votes.iter().sum();
                let view = cluster(&votes, None);
                for mask in 0..(1u32 << hosts) - 1 {
                    let off: Vec<usize> =
                        (0..hosts).filter(|i| mask >> i & 1 == 1).map(|i| i as usize + 1).collect();
                    let stay: u32 =
                        (0..hosts).filter(|i| mask >> i & 1 == 0).map(|i| votes[i as usize]).sum();
                    assert_eq!(safe(&view, &off), 2 * stay > all, "{votes:?} without {off:?}");
                    judged += 1;
                }
            }
        }
        assert_eq!(judged, 10_330);
    }

    #[test]
    fn a_living_device_is_credited_as_measured_and_a_dead_one_never() {
        let ffsplit = |alive| cluster(&[1, 1], Some((DeviceAlgorithm::Ffsplit, 1, alive)));
        assert!(safe(&ffsplit(true), &[2]));
        assert!(!safe(&ffsplit(false), &[2]));
        // Four hosts: half suffices with the device, a single one gets no vote at all.
        let four = cluster(&[1; 4], Some((DeviceAlgorithm::Ffsplit, 1, true)));
        assert!(safe(&four, &[3, 4]));
        assert!(!safe(&four, &[2, 3, 4]));
        // lms 1/1/1: one host with the device alive, all three with it dead.
        assert!(safe(&cluster(&[1; 3], Some((DeviceAlgorithm::Lms, 2, true))), &[2, 3]));
        assert!(!safe(&cluster(&[1; 3], Some((DeviceAlgorithm::Lms, 2, false))), &[3]));
        // lms 3/1/1 votes 4 with a dead server needs all five votes.
        assert!(!safe(&cluster(&[3, 1, 1], Some((DeviceAlgorithm::Lms, 4, false))), &[3]));
    }

    #[test]
    fn a_device_is_credited_only_as_far_as_every_survivor_sees_it() {
        let mut views = cluster(&[1, 1, 1], Some((DeviceAlgorithm::Lms, 2, true)));
        views.get_mut(&HostName::from("h2")).unwrap().device_votes = Some(0);
        assert!(!safe(&views, &[3]), "h2 is not voted for");
        let mut views = cluster(&[1, 1], Some((DeviceAlgorithm::Ffsplit, 1, true)));
        views.get_mut(&HostName::from("h1")).unwrap().conf.device = None;
        assert!(!safe(&views, &[2]), "h1 reads another file");
    }

    #[test]
    fn the_device_is_lost_with_its_server_and_with_a_host_that_vanished() {
        let views = cluster(&[1, 1], Some((DeviceAlgorithm::Ffsplit, 1, true)));
        let views: BTreeMap<_, _> = views.iter().map(|(h, v)| (h.clone(), v)).collect();
        let stops = BTreeSet::from([HostName::from("h2")]);
        assert!(tally(&views, &stops, false, false).keeps(0));
        assert!(!tally(&views, &stops, true, true).keeps(0));
        let views = cluster(&[1; 3], Some((DeviceAlgorithm::Lms, 2, true)));
        let views: BTreeMap<_, _> = views.iter().map(|(h, v)| (h.clone(), v)).collect();
        let stops = BTreeSet::from([HostName::from("h2"), HostName::from("h3")]);
        assert!(tally(&views, &stops, false, true).keeps(0));
        assert!(!tally(&views, &stops, false, false).keeps(0));
    }

    /// Measured on 3/1/1 with lms of 4 votes: the server died, everybody went on showing `A,V` and
    /// 9 of 9 votes, and the orderly stop of one host cost the others the quorum.
    #[test]
    fn with_wait_for_all_a_vote_of_lms_shows_nothing() {
        let mut views = cluster(&[3, 1, 1], Some((DeviceAlgorithm::Lms, 4, true)));
        assert!(safe(&views, &[2]));
        for view in views.values_mut() {
            view.flags.insert("WaitForAll".into());
        }
        assert!(!safe(&views, &[2]));
    }

    #[test]
    fn spare_votes_are_kept_above_the_majority_without_wrapping() {
        let tally = Tally { remaining: 3, credit: 0, needed: 3, no_credit_because: None };
        assert!(tally.keeps(0));
        assert!(!tally.keeps(1));
        assert!(!tally.keeps(u32::MAX));
    }
}
