//! What is out of order with the votes, recognised from the members' own views and named.
//!
//! Two views are compared: what corosync counts now, and what corosync.conf says. Where they differ
//! somebody is in the middle of something: `pvecm expected` in force, an edited file not taken
//! over, a QDevice that does not vote, a cluster that waits for all. Each such state has a code, a
//! sentence and the command that mends it, so that a refused power-off, `spot doctor` and `spot
//! quorum` say the same thing. What each looks like was measured on corosync 3.1.7.
//!
//! **Does not know:** whether anybody wants a host off, and whether the votes would suffice.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::{CorosyncConf, DeviceConf, Evidence, device_fault};
use crate::cluster::HostName;

/// One thing out of order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disorder {
    /// Two members show another ring or other members: they are not one cluster now.
    RingsDiffer {
        one: HostName,
        ring: String,
        other: HostName,
        other_ring: String,
    },
    /// Two members count another number of votes for a third.
    VotesDisagree {
        of: HostName,
        one: HostName,
        votes: u32,
        other: HostName,
        other_votes: u32,
    },
    /// Two members expect another number of votes; it happens after `pvecm expected`.
    ExpectedDisagrees {
        low: HostName,
        expected: u32,
        high: HostName,
        highest: u32,
        written: u32,
    },
    /// Two members read another corosync.conf.
    ConfDiffers {
        one: HostName,
        other: HostName,
    },
    /// wait_for_all is not over: nobody is quorate until every host was seen once.
    WaitingForAll {
        host: HostName,
        total: u32,
        expected: u32,
    },
    NotQuorate {
        host: HostName,
        total: u32,
        quorum: u32,
    },
    /// corosync.conf no longer lists a member.
    NotInNodelist {
        member: HostName,
    },
    /// A member counts with other votes than corosync.conf gives it.
    VotesNotReloaded {
        member: HostName,
        counted: u32,
        written: u32,
    },
    /// corosync.conf has a QDevice that the running corosync knows nothing of.
    DeviceNotReloaded {
        server: String,
    },
    /// The running corosync counts a QDevice that corosync.conf no longer has.
    DeviceStillCounted {
        by: HostName,
    },
    /// The QDevice casts other votes than corosync.conf gives it.
    DeviceVotesNotReloaded {
        cast: u32,
        written: u32,
    },
    /// `pvecm expected` is in force: fewer votes are expected than there are.
    ExpectedLowered {
        host: HostName,
        expected: u32,
        written: u32,
    },
    /// More votes are expected than corosync.conf has.
    ExpectedRaised {
        host: HostName,
        expected: u32,
        written: u32,
    },
    /// With this device section a host that boots cannot start corosync, or its device never votes.
    DeviceFaulty {
        why: String,
    },
    /// corosync-qdevice does not run on these members.
    DeviceDaemonOff {
        hosts: Vec<HostName>,
    },
    /// Its daemons run, and its server gives nobody a vote: it is dead, or cannot be reached.
    DeviceServerDead {
        server: String,
    },
    /// Its server gives some members a vote, and not these.
    DeviceNoVote {
        hosts: Vec<HostName>,
    },
    /// corosync.conf sets a flag that only a restart of corosync brings into force.
    FlagNotInForce {
        flag: &'static str,
        hosts: Vec<HostName>,
    },
}

/// Which question about the votes a disorder leaves open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// Do the members see one and the same cluster?
    Views,
    Quorate,
    /// Is what corosync.conf says in force?
    File,
    /// Could a host that stops come back?
    Return,
    /// Does the QDevice vote? Only where its vote is needed does that stand against anything.
    Device,
    /// Worth knowing; it stands against nothing.
    Remark,
}

impl Disorder {
    pub fn about(&self) -> About {
        match self {
            Disorder::RingsDiffer { .. }
            | Disorder::VotesDisagree { .. }
            | Disorder::ExpectedDisagrees { .. }
            | Disorder::ConfDiffers { .. } => About::Views,
            Disorder::WaitingForAll { .. } | Disorder::NotQuorate { .. } => About::Quorate,
            Disorder::NotInNodelist { .. }
            | Disorder::VotesNotReloaded { .. }
            | Disorder::DeviceNotReloaded { .. }
            | Disorder::DeviceStillCounted { .. }
            | Disorder::DeviceVotesNotReloaded { .. }
            | Disorder::ExpectedLowered { .. }
            | Disorder::ExpectedRaised { .. } => About::File,
            Disorder::DeviceFaulty { .. } => About::Return,
            Disorder::DeviceDaemonOff { .. }
            | Disorder::DeviceServerDead { .. }
            | Disorder::DeviceNoVote { .. } => About::Device,
            Disorder::FlagNotInForce { .. } => About::Remark,
        }
    }

    /// Its name, for holds and JSON.
    pub fn code(&self) -> &'static str {
        match self {
            Disorder::RingsDiffer { .. } => "rings_differ",
            Disorder::VotesDisagree { .. } => "votes_disagree",
            Disorder::ExpectedDisagrees { .. } => "expected_disagrees",
            Disorder::ConfDiffers { .. } => "corosync_conf_differs",
            Disorder::WaitingForAll { .. } => "waiting_for_all",
            Disorder::NotQuorate { .. } => "not_quorate",
            Disorder::NotInNodelist { .. } => "not_in_nodelist",
            Disorder::VotesNotReloaded { .. } => "votes_not_reloaded",
            Disorder::DeviceNotReloaded { .. } => "qdevice_not_reloaded",
            Disorder::DeviceStillCounted { .. } => "qdevice_still_counted",
            Disorder::DeviceVotesNotReloaded { .. } => "qdevice_votes_not_reloaded",
            Disorder::ExpectedLowered { .. } => "expected_lowered",
            Disorder::ExpectedRaised { .. } => "expected_raised",
            Disorder::DeviceFaulty { .. } => "qdevice_faulty",
            Disorder::DeviceDaemonOff { .. } => "qdevice_daemon_off",
            Disorder::DeviceServerDead { .. } => "qdevice_dead",
            Disorder::DeviceNoVote { .. } => "qdevice_no_vote",
            Disorder::FlagNotInForce { .. } => "flag_not_in_force",
        }
    }

    /// The command that mends it, or what to wait for.
    pub fn remedy(&self) -> String {
        match self {
            Disorder::RingsDiffer { one, other, .. } => format!(
                "it goes on when the membership has settled; otherwise compare `pvecm status` on {one} and on {other}"
            ),
            Disorder::VotesDisagree { of, .. } => format!(
                "with every host awake and the HA manager idle, `systemctl restart corosync` on {of} makes everybody count what its corosync.conf says"
            ),
            Disorder::ExpectedDisagrees { written, .. }
            | Disorder::ExpectedLowered { written, .. } => format!(
                "`pvecm expected {written}` on any member; it is also mended when every host has been back once"
            ),
            Disorder::ConfDiffers { one, other } => format!(
                "`md5sum /etc/pve/corosync.conf` on {one} and on {other}; `systemctl restart pve-cluster` where it is old"
            ),
            Disorder::WaitingForAll { host, .. } => format!(
                "switch every host on once; or, if one is gone for good, `corosync-cmapctl -s quorum.cancel_wait_for_all u8 1` on {host}"
            ),
            Disorder::NotQuorate { host, .. } => {
                format!("switch on more hosts; `pvecm status` on {host} shows whom it sees")
            }
            Disorder::NotInNodelist { member } => format!(
                "if it was removed on purpose: wake every other host, take {member} out of HA, and switch it off for good; else put it back, raise config_version and run `corosync-cfgtool -R`"
            ),
            Disorder::VotesNotReloaded { .. }
            | Disorder::DeviceNotReloaded { .. }
            | Disorder::DeviceVotesNotReloaded { .. } => {
                "`corosync-cfgtool -R` on any member takes the edited file over everywhere".into()
            }
            Disorder::DeviceStillCounted { by } => format!(
                "`corosync-cfgtool -R` on any member, then `systemctl stop corosync-qdevice` on {by} and the others"
            ),
            Disorder::ExpectedRaised { written, .. } => {
                format!("`pvecm expected {written}` on any member, or `corosync-cfgtool -R` after an edit")
            }
            Disorder::DeviceFaulty { .. } => {
                "correct the device section of /etc/pve/corosync.conf and raise its config_version, then `corosync-cfgtool -R`; see corosync.conf(5)".into()
            }
            Disorder::DeviceDaemonOff { hosts } => {
                format!("`systemctl restart corosync-qdevice` on {}", joined(hosts))
            }
            Disorder::DeviceServerDead { server } => format!(
                "`systemctl restart corosync-qnetd` on {server}; `corosync-qdevice-tool -s` on a host shows whether it is connected"
            ),
            Disorder::DeviceNoVote { hosts } => format!(
                "`corosync-qdevice-tool -s` on {hosts} shows whether it is connected; `systemctl restart corosync-qdevice` there connects it anew",
                hosts = joined(hosts)
            ),
            Disorder::FlagNotInForce { hosts, .. } => {
                format!(
                    "only with every host awake and the HA manager idle: `systemctl restart corosync` on {}, one after the other; with hosts asleep that would cost the quorum",
                    joined(hosts)
                )
            }
        }
    }
}

impl fmt::Display for Disorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Disorder::RingsDiffer { one, ring, other, other_ring } => write!(
                f,
                "{one} and {other} do not see the same cluster (ring {ring} and {other_ring})"
            ),
            Disorder::VotesDisagree { of, one, votes, other, other_votes } => write!(
                f,
                "{one} counts {} for {of} and {other} counts {other_votes}",
                super::votes(*votes)
            ),
            Disorder::ExpectedDisagrees { low, expected, high, highest, .. } => {
                write!(f, "{low} expects {} and {high} expects {highest}", super::votes(*expected))
            }
            Disorder::ConfDiffers { one, other } => {
                write!(f, "{one} and {other} show different corosync.conf files")
            }
            Disorder::WaitingForAll { host, total, expected } => write!(
                f,
                "{host} is not quorate: wait_for_all waits until every host was seen once ({total} of {expected} votes are there)"
            ),
            Disorder::NotQuorate { host, total, quorum } => write!(
                f,
                "{host} is a member and not quorate: it has {} and needs {quorum}",
                super::votes(*total)
            ),
            Disorder::NotInNodelist { member } => {
                write!(f, "corosync.conf does not list the member {member}")
            }
            Disorder::VotesNotReloaded { member, counted, written } => write!(
                f,
                "{member} counts {} and corosync.conf says {written}: the file was edited and not taken over",
                super::votes(*counted)
            ),
            Disorder::DeviceNotReloaded { server } => write!(
                f,
                "corosync.conf has a QDevice at {server}, and the running corosync does not know it: the file was edited and not taken over"
            ),
            Disorder::DeviceStillCounted { by } => {
                write!(f, "{by} still counts a QDevice that corosync.conf no longer has")
            }
            Disorder::DeviceVotesNotReloaded { cast, written } => write!(
                f,
                "the QDevice casts {} and corosync.conf says {written}: the file was edited and not taken over",
                super::votes(*cast)
            ),
            Disorder::ExpectedLowered { host, expected, written } => write!(
                f,
                "{host} expects {} and corosync.conf has {written}: `pvecm expected` is in force",
                super::votes(*expected)
            ),
            Disorder::ExpectedRaised { host, expected, written } => write!(
                f,
                "{host} expects {} and corosync.conf has {written}: `pvecm expected` was raised, or a removed host is still counted",
                super::votes(*expected)
            ),
            Disorder::DeviceFaulty { why } => {
                write!(f, "a host could not rejoin after a boot: {why}")
            }
            Disorder::DeviceDaemonOff { hosts } => write!(
                f,
                "the QDevice's daemon does not run on {}, so it casts no vote there",
                joined(hosts)
            ),
            Disorder::DeviceServerDead { server } => write!(
                f,
                "the QDevice's server at {server} is dead or cannot be reached: it casts no vote, and its votes still count in what is needed"
            ),
            Disorder::DeviceNoVote { hosts } => {
                write!(f, "the QDevice's server casts no vote for {}", joined(hosts))
            }
            Disorder::FlagNotInForce { flag, hosts } => write!(
                f,
                "corosync.conf sets {flag}, which is not in force on {}: only a restart of corosync applies it",
                joined(hosts)
            ),
        }
    }
}

/// `host1, host2 and host3`.
fn joined(hosts: &[HostName]) -> String {
    let names: Vec<&str> = hosts.iter().map(HostName::as_str).collect();
    match names.as_slice() {
        [] => "no host".into(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// Everything out of order in `views`, the gravest first; `node` gives a host the name that
/// corosync.conf knows it by.
pub fn recognise(
    views: &BTreeMap<HostName, &Evidence>,
    node: &dyn Fn(&HostName) -> String,
) -> Vec<Disorder> {
    let mut found = Vec::new();
    found.extend(differing(views));
    found.extend(views.iter().find_map(|(host, view)| not_quorate(host, view)));
    // One file for the whole cluster; where two differ, that is told above.
    if let Some(conf) = views.values().next().map(|view| &view.conf) {
        found.extend(members_unlike_the_file(views, conf, node));
        found.extend(device_unlike_the_file(views, conf));
        found.extend(expected_unlike_the_file(views, conf));
        found.extend(device_fault(conf).map(|why| Disorder::DeviceFaulty { why }));
        found.extend(device_silent(views, conf));
        found.extend(flags_pending(views, conf));
    }
    found
}

/// Where two members do not agree: each is compared with the first.
fn differing(views: &BTreeMap<HostName, &Evidence>) -> Option<Disorder> {
    let (one, first) = views.iter().next()?;
    let (one, names) = (one.clone(), first.members.keys().collect::<BTreeSet<_>>());
    for (other, view) in views.iter().skip(1) {
        let other = other.clone();
        if view.ring != first.ring || view.members.keys().collect::<BTreeSet<_>>() != names {
            let (ring, other_ring) = (first.ring.clone(), view.ring.clone());
            return Some(Disorder::RingsDiffer { one, ring, other, other_ring });
        }
        for (of, member) in &view.members {
            let (votes, other_votes) = (first.members.get(of)?.votes, member.votes);
            if votes != other_votes {
                let of = of.clone();
                return Some(Disorder::VotesDisagree { of, one, votes, other, other_votes });
            }
        }
    }
    let by_expected = |(_, view): &(&HostName, &&Evidence)| view.expected;
    let (low, least) = views.iter().min_by_key(by_expected)?;
    let (high, most) = views.iter().rev().max_by_key(by_expected)?;
    if least.expected != most.expected {
        let (expected, highest) = (least.expected, most.expected);
        let (at_least, at_most) = expected_by_file(&first.conf);
        let written = highest.clamp(at_least, at_most);
        let (low, high) = (low.clone(), high.clone());
        return Some(Disorder::ExpectedDisagrees { low, expected, high, highest, written });
    }
    let (other, _) = views.iter().find(|(_, view)| view.conf != first.conf)?;
    Some(Disorder::ConfDiffers { one, other: other.clone() })
}

fn not_quorate(host: &HostName, view: &Evidence) -> Option<Disorder> {
    if view.quorate {
        return None;
    }
    let (host, total, quorum, expected) = (host.clone(), view.total, view.quorum, view.expected);
    let waits = view.flags.contains("WaitForAll") || set(&view.conf, "wait_for_all");
    match waits && total >= quorum {
        true => Some(Disorder::WaitingForAll { host, total, expected }),
        false => Some(Disorder::NotQuorate { host, total, quorum }),
    }
}

fn members_unlike_the_file(
    views: &BTreeMap<HostName, &Evidence>,
    conf: &CorosyncConf,
    node: &dyn Fn(&HostName) -> String,
) -> Option<Disorder> {
    let counted = views.values().flat_map(|view| &view.members);
    counted.into_iter().find_map(|(member, counted)| {
        let (member, counted) = (member.clone(), counted.votes);
        match conf.votes.get(&node(&member)) {
            None => Some(Disorder::NotInNodelist { member }),
            Some(&written) => (written != counted).then_some(Disorder::VotesNotReloaded {
                member,
                counted,
                written,
            }),
        }
    })
}

/// Votes the file gives its QDevice, 0 without one; left out, they are one less than there are
/// hosts (measured).
pub fn written_device_votes(conf: &CorosyncConf) -> u32 {
    let hosts = u32::try_from(conf.votes.len()).unwrap_or(u32::MAX);
    conf.device.as_ref().map_or(0, |device| device.votes.unwrap_or(hosts.saturating_sub(1)))
}

fn server(device: &DeviceConf) -> String {
    device.server.clone().unwrap_or_else(|| "an unnamed place".into())
}

fn device_unlike_the_file(
    views: &BTreeMap<HostName, &Evidence>,
    conf: &CorosyncConf,
) -> Option<Disorder> {
    // A running corosync that knows of a device shows a column for it, whether it votes or not.
    let shows = |view: &Evidence| {
        view.device_votes.is_some() || view.members.values().any(|one| one.device.is_some())
    };
    let shown_by = views.iter().find(|(_, view)| shows(view)).map(|(host, _)| host.clone());
    let Some(device) = &conf.device else {
        return shown_by.map(|by| Disorder::DeviceStillCounted { by });
    };
    if shown_by.is_none() {
        return Some(Disorder::DeviceNotReloaded { server: server(device) });
    }
    let written = written_device_votes(conf);
    let cast = views.values().filter_map(|view| view.device_votes);
    let other = cast.into_iter().find(|cast| *cast > 0 && *cast != written);
    other.map(|cast| Disorder::DeviceVotesNotReloaded { cast, written })
}

/// The least and the most votes that corosync expects by its file.
///
/// A device's votes that are written out are learned only when it is seen, and a smaller explicit
/// figure is a start that grows.
fn expected_by_file(conf: &CorosyncConf) -> (u32, u32) {
    let hosts = conf.votes.values().fold(0_u32, |sum, votes| sum.saturating_add(*votes));
    let explicit = conf.quorum.get("expected_votes").and_then(|text| text.parse::<u32>().ok());
    let least = explicit.map_or(hosts, |explicit| explicit.min(hosts));
    let most = explicit.unwrap_or(0).max(hosts).saturating_add(written_device_votes(conf));
    (least, most)
}

fn expected_unlike_the_file(
    views: &BTreeMap<HostName, &Evidence>,
    conf: &CorosyncConf,
) -> Option<Disorder> {
    let (least, most) = expected_by_file(conf);
    views.iter().find_map(|(host, view)| {
        let (host, expected) = (host.clone(), view.expected);
        if expected < least {
            return Some(Disorder::ExpectedLowered { host, expected, written: least });
        }
        (expected > most).then_some(Disorder::ExpectedRaised { host, expected, written: most })
    })
}

/// What each member's own row says of its device: the rows of others are hearsay.
fn device_silent(views: &BTreeMap<HostName, &Evidence>, conf: &CorosyncConf) -> Vec<Disorder> {
    let Some(device) = &conf.device else { return Vec::new() };
    let mut found = Vec::new();
    let (mut off, mut without, mut voting) = (Vec::new(), Vec::new(), 0);
    for (host, view) in views {
        let Some(own) = view.members.get(host).and_then(|member| member.device.as_deref()) else {
            continue;
        };
        match own.split(',').next() {
            Some("A") if view.device_votes.is_some_and(|votes| votes > 0) => voting += 1,
            Some("A") => without.push(host.clone()),
            Some(_) | None => off.push(host.clone()),
        }
    }
    if !off.is_empty() {
        found.push(Disorder::DeviceDaemonOff { hosts: off });
    }
    match (without.is_empty(), voting) {
        (true, _) => {}
        (false, 0) => found.push(Disorder::DeviceServerDead { server: server(device) }),
        (false, _) => found.push(Disorder::DeviceNoVote { hosts: without }),
    }
    found
}

/// Flags that `corosync-cfgtool -R` does not apply (measured). Others corosync drops by itself
/// where they make no sense, and their absence says nothing.
fn flags_pending(views: &BTreeMap<HostName, &Evidence>, conf: &CorosyncConf) -> Option<Disorder> {
    if !set(conf, "wait_for_all") {
        return None;
    }
    let lacks = |(_, view): &(&HostName, &&Evidence)| !view.flags.contains("WaitForAll");
    let hosts: Vec<HostName> = views.iter().filter(lacks).map(|(host, _)| host.clone()).collect();
    (!hosts.is_empty()).then_some(Disorder::FlagNotInForce { flag: "wait_for_all", hosts })
}

fn set(conf: &CorosyncConf, key: &str) -> bool {
    conf.quorum.get(key).is_some_and(|value| matches!(value.as_str(), "1" | "yes" | "on"))
}
