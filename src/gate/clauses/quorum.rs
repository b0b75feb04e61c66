//! The clauses by which the cluster keeps its quorum.
//!
//! Every figure comes from the members themselves, no older than a minute and overtaken by nothing;
//! or, on the owner's word, from corosync.conf. What stays after the stop must be a majority with
//! the owner's spare, and every survivor is asked once more in the very turn of the request.
//!
//! **Does not know:** the guests of the host.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{ask, ask_again, content_unless, refuse, this_turn};
use crate::cluster::quorum::{device_fault, tally};
use crate::cluster::{Answer, Evidence, HostName, Observation, Question, Stamped};
use crate::gate::{Case, EvidenceKind, Finding};

/// Evidence older than this is void (design section 7).
const EVIDENCE_AGE: Duration = Duration::from_secs(60);
/// Reported uptimes lag by one broadcast.
const REPORT_LAG: Duration = Duration::from_secs(15);

impl Case<'_> {
    /// Every member's evidence, if it is complete and fresh.
    fn evidence(&self) -> Option<BTreeMap<HostName, &Evidence>> {
        let members = self.seen.members();
        let fresh = members.iter().filter_map(|host| match fresh_evidence(self.seen, host) {
            Fresh::Yes(evidence) => Some((host.clone(), evidence)),
            Fresh::No | Fresh::Gap(_) => None,
        });
        let evidence: BTreeMap<_, _> = fresh.collect();
        (evidence.len() == members.len() && !members.is_empty()).then_some(evidence)
    }
}

pub(super) enum Fresh<'a> {
    Yes(&'a Evidence),
    No,
    Gap(String),
}

pub(super) fn is_fresh(seen: &Observation, stamped: &Stamped) -> bool {
    seen.turn_began.since(stamped.asked) <= EVIDENCE_AGE
}

/// A member's evidence, unless it is old or overtaken: void when anybody booted since its asking.
pub(super) fn fresh_evidence<'a>(seen: &'a Observation, host: &HostName) -> Fresh<'a> {
    let Some(stamped) = seen.answers.get(&Question::Evidence(host.clone())) else {
        return Fresh::No;
    };
    if !is_fresh(seen, stamped) {
        return Fresh::No;
    }
    let evidence = match &stamped.answer {
        Ok(Answer::Evidence(evidence)) => evidence,
        Ok(_) => return Fresh::No,
        Err(gap) => return Fresh::Gap(gap.to_string()),
    };
    let age = seen.turn_began.since(stamped.asked);
    let booted_since = |member: &HostName| {
        let uptime = seen.hosts.get(member).and_then(|look| look.uptime_seconds);
        uptime.is_some_and(|uptime| Duration::from_secs(uptime).saturating_add(REPORT_LAG) < age)
    };
    let members = seen.members();
    let overtaken = evidence.members.keys().cloned().collect::<BTreeSet<_>>() != members
        || evidence.conf.config_version != seen.config_version
        || members.iter().any(booted_since);
    if overtaken { Fresh::No } else { Fresh::Yes(evidence) }
}

/// Evidence from every member, or configured votes where the owner chose that.
pub(in crate::gate) fn evidence(case: &Case<'_>) -> Finding {
    match case.bounds.evidence {
        EvidenceKind::Configured => {
            configured_votes(case).map_or_else(|finding| finding, |_| Finding::Content)
        }
        EvidenceKind::Runtime => {
            let mut questions = BTreeSet::new();
            let mut told = None;
            for host in case.seen.members() {
                match fresh_evidence(case.seen, &host) {
                    Fresh::Yes(_) => {}
                    Fresh::No => {
                        questions.insert(Question::Evidence(host));
                    }
                    Fresh::Gap(why) => {
                        told.get_or_insert(why);
                        questions.insert(Question::Evidence(host));
                    }
                }
            }
            content_unless(!questions.is_empty(), || Finding::Ask { questions, sentence: told })
        }
    }
}

fn configured_votes<'a>(case: &Case<'a>) -> Result<&'a BTreeMap<HostName, u32>, Finding> {
    let question = Question::ConfiguredVotes;
    let stamped = case.seen.answers.get(&question).filter(|one| is_fresh(case.seen, one));
    let Some(stamped) = stamped else { return Err(ask([question])) };
    match &stamped.answer {
        Ok(Answer::ConfiguredVotes(votes)) => Ok(votes),
        Ok(_) => Err(ask([question])),
        Err(gap) => Err(ask_again(question, gap.to_string())),
    }
}

/// One ring and one member list in every member's eyes; reading one node is wrong (measured).
pub(in crate::gate) fn same_view(case: &Case<'_>) -> Finding {
    let Some(evidence) = case.evidence() else { return Finding::Content };
    let mut views = evidence.iter();
    let Some((first, reference)) = views.next() else { return Finding::Content };
    let names = |view: &Evidence| view.members.keys().cloned().collect::<BTreeSet<_>>();
    for (host, view) in views {
        if view.ring != reference.ring || names(view) != names(reference) {
            return refuse(
                format!(
                    "{first} and {host} do not see the same cluster (ring {} and {})",
                    reference.ring, view.ring
                ),
                "`pvecm status` on each host shows the difference; it goes on when they agree",
            );
        }
    }
    Finding::Content
}

pub(in crate::gate) fn every_member_quorate(case: &Case<'_>) -> Finding {
    let Some(evidence) = case.evidence() else { return Finding::Content };
    match evidence.iter().find(|(_, view)| !view.quorate) {
        Some((host, view)) if view.flags.contains("WaitForAll") => refuse(
            format!("{host} is not quorate: wait_for_all waits until every host was seen once"),
            "switch every host on once, or run `corosync-cmapctl -s quorum.cancel_wait_for_all u8 1`",
        ),
        Some((host, _)) => refuse(
            format!("{host} is a member and not quorate"),
            format!("`pvecm status` on {host} shows what it sees"),
        ),
        None => Finding::Content,
    }
}

/// The file is a second opinion: where it and what is counted now disagree, somebody is in the
/// middle of something.
pub(in crate::gate) fn configured_agrees(case: &Case<'_>) -> Finding {
    let Some(evidence) = case.evidence() else { return Finding::Content };
    for (host, view) in &evidence {
        for (member, counted) in &view.members {
            let node = case.seen.hosts.get(member).map_or(member.as_str(), |look| &look.node);
            let Some(configured) = view.conf.votes.get(node) else {
                return refuse(
                    format!("corosync.conf on {host} does not list the member {member}"),
                    "`corosync-cfgtool -R` takes over an edited file",
                );
            };
            if *configured != counted.votes {
                return refuse(
                    format!(
                        "{member} counts {} vote{} and corosync.conf says {configured}",
                        counted.votes,
                        if counted.votes == 1 { "" } else { "s" }
                    ),
                    "`corosync-cfgtool -R` on one host takes over the edited file",
                );
            }
        }
        let written: u32 = view.conf.votes.values().sum();
        let explicit = view.conf.quorum.get("expected_votes").and_then(|text| text.parse().ok());
        let at_least = explicit.map_or(written, |explicit: u32| explicit.min(written));
        if view.expected < at_least {
            return refuse(
                format!(
                    "{host} expects {} votes and corosync.conf has {at_least}: `pvecm expected` is in force",
                    view.expected
                ),
                format!(
                    "`pvecm expected {at_least}` when every host is back, or wait until they are"
                ),
            );
        }
    }
    Finding::Content
}

/// The heart: what stays must be a majority, with the owner's spare, when this host and every other
/// stop under way are gone.
pub(in crate::gate) fn votes(case: &Case<'_>) -> Finding {
    let stops = case.stops();
    let spare = case.bounds.spare;
    let result = match case.bounds.evidence {
        EvidenceKind::Runtime => {
            let Some(evidence) = case.evidence() else { return Finding::Content };
            tally(&evidence, &stops, server_lost(case, &evidence, &stops), rest_off(case))
        }
        EvidenceKind::Configured => {
            let Ok(votes) = configured_votes(case) else { return Finding::Content };
            // The device counts in what is expected, and is never credited here.
            let Some(device) = case.bounds.device_votes else {
                return refuse(
                    "whether the cluster has a QDevice is not known yet, so its votes cannot be counted",
                    "it goes on when a host's report could be read once",
                );
            };
            let members = case.seen.members();
            let stay =
                votes.iter().filter(|(host, _)| members.contains(*host) && !stops.contains(*host));
            crate::cluster::quorum::Tally {
                remaining: stay.map(|(_, votes)| votes).sum(),
                credit: 0,
                needed: votes.values().sum::<u32>().saturating_add(device) / 2 + 1,
                no_credit_because: None,
            }
        }
    };
    content_unless(!result.keeps(spare), || {
        let names: Vec<&str> = stops.iter().map(HostName::as_str).collect();
        let mut sentence = format!(
            "without {} the cluster would have {} where {} are needed",
            names.join(" and "),
            crate::cluster::quorum::votes(result.remaining + result.credit),
            result.needed
        );
        if spare > 0 {
            sentence += &format!(" and {spare} to spare");
        }
        if let Some(why) = result.no_credit_because {
            sentence += &format!("; {why}");
        }
        refuse(sentence, "wake another host first; `spot quorum` shows who may be off together")
    })
}

/// Whether the QDevice's server goes down with the stops: by the owner's word, or by its address.
fn server_lost(
    case: &Case<'_>,
    evidence: &BTreeMap<HostName, &Evidence>,
    stops: &BTreeSet<HostName>,
) -> bool {
    if case.bounds.qnetd_on.iter().any(|host| stops.contains(host)) {
        return true;
    }
    stops.iter().any(|host| {
        let node = case.seen.hosts.get(host).map_or(host.as_str(), |look| look.node.as_str());
        evidence.values().any(|view| {
            let Some(server) = view.conf.device.as_ref().and_then(|device| device.server.as_ref())
            else {
                return false;
            };
            let by_file = view.conf.addresses.get(node).is_some_and(|all| all.contains(server));
            let own = evidence.get(host).is_some_and(|view| view.addresses.contains(server));
            by_file || own || server == node
        })
    })
}

/// Whether everybody who is no member left in order: a host that vanished may still be talking to
/// the QDevice's server.
fn rest_off(case: &Case<'_>) -> bool {
    let known_off = |host: &HostName| case.bounds.known_off.contains(host);
    let absent =
        case.seen.hosts.iter().filter(|(_, look)| look.listed && look.member != Some(true));
    absent.map(|(host, _)| host).all(known_off)
}

/// A host is stopped only when it can come back: with a device section that corosync starts with.
pub(in crate::gate) fn can_return(case: &Case<'_>) -> Finding {
    let Some(evidence) = case.evidence() else { return Finding::Content };
    let host = case.host();
    match evidence.values().find_map(|view| device_fault(&view.conf)) {
        Some(fault) => refuse(
            format!("{host} could not rejoin after a boot: {fault}"),
            "correct the device section of corosync.conf, and raise its config_version; see corosync.conf(5)",
        ),
        None => Finding::Content,
    }
}

/// Every survivor, asked now, sees the members we judged, and is quorate.
pub(in crate::gate) fn survivors_agree(case: &Case<'_>) -> Finding {
    let members = case.seen.members();
    let stops = case.stops();
    let mut questions = BTreeSet::new();
    let mut told = None;
    for host in members.iter().filter(|host| !stops.contains(*host)) {
        let question = Question::Membership(host.clone());
        let Some(stamped) = this_turn(case.seen, &question) else {
            questions.insert(question);
            continue;
        };
        let view = match &stamped.answer {
            Ok(Answer::Membership(view)) => view,
            Ok(_) => {
                questions.insert(question);
                continue;
            }
            Err(gap) => {
                told.get_or_insert(gap.to_string());
                questions.insert(question);
                continue;
            }
        };
        let online =
            view.members.iter().filter(|(_, online)| **online).map(|(host, _)| host.clone());
        let same = online.collect::<BTreeSet<_>>() == members
            && view.config_version == case.seen.config_version;
        if !view.quorate || !same {
            return refuse(
                format!("{host} sees another cluster than it did a moment ago"),
                "it is judged anew when every member agrees again",
            );
        }
    }
    content_unless(!questions.is_empty(), || Finding::Ask { questions, sentence: told })
}
