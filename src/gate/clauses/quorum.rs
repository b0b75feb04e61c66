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
use crate::cluster::quorum::disorder::{About, Disorder, recognise, written_device_votes};
use crate::cluster::quorum::{Tally, tally};
use crate::cluster::{Answer, DeviceLink, Evidence, HostName, Observation, Question, Stamped};
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

/// The gravest disorder about one question.
fn disorder(
    case: &Case<'_>,
    evidence: &BTreeMap<HostName, &Evidence>,
    about: About,
) -> Option<Disorder> {
    let node = |host: &HostName| case.node(host).to_owned();
    recognise(evidence, &node).into_iter().find(|one| one.about() == about)
}

/// A disorder about one question is refused under its own name.
fn disordered(case: &Case<'_>, about: About) -> Finding {
    let Some(evidence) = case.evidence() else { return Finding::Content };
    match disorder(case, &evidence, about) {
        Some(disorder) => refuse_as(&disorder, disorder.to_string()),
        None => Finding::Content,
    }
}

/// A refusal with the name and the remedy of a disorder.
fn refuse_as(disorder: &Disorder, sentence: String) -> Finding {
    Finding::Refuse { code: Some(disorder.code()), sentence, remedy: disorder.remedy() }
}

/// One ring, one member list and one count in every member's eyes; reading one node is wrong
/// (measured).
pub(in crate::gate) fn same_view(case: &Case<'_>) -> Finding {
    disordered(case, About::Views)
}

pub(in crate::gate) fn every_member_quorate(case: &Case<'_>) -> Finding {
    disordered(case, About::Quorate)
}

/// The file is a second opinion: where it and what is counted now disagree, somebody is in the
/// middle of something.
pub(in crate::gate) fn configured_agrees(case: &Case<'_>) -> Finding {
    disordered(case, About::File)
}

/// The heart: what stays must be a majority, with the owner's spare, when this host and every other
/// stop under way are gone.
pub(in crate::gate) fn votes(case: &Case<'_>) -> Finding {
    match case.bounds.evidence {
        EvidenceKind::Runtime => votes_as_counted(case),
        EvidenceKind::Configured => votes_as_configured(case),
    }
}

fn votes_as_counted(case: &Case<'_>) -> Finding {
    let Some(evidence) = case.evidence() else { return Finding::Content };
    let result = what_stays(case, &evidence);
    content_unless(!result.keeps(case.bounds.spare), || {
        let sentence = too_few(case, &result);
        if let Some(disorder) = silent_device(case, &evidence, &result) {
            return refuse_as(&disorder, format!("{sentence}; {disorder}"));
        }
        let because = result.no_credit_because.map(|why| format!("; {why}"));
        refuse(sentence + &because.unwrap_or_default(), WAKE_ANOTHER)
    })
}

fn what_stays(case: &Case<'_>, evidence: &BTreeMap<HostName, &Evidence>) -> Tally {
    let stops = case.stops();
    tally(evidence, &stops, server_lost(case, evidence, &stops), rest_off(case))
}

/// Weaker, and on the owner's word alone: members by `/cluster/status`, votes by corosync.conf.
fn votes_as_configured(case: &Case<'_>) -> Finding {
    let Ok(votes) = configured_votes(case) else { return Finding::Content };
    // The device counts in what is expected, and is never credited here.
    let Some(device) = case.bounds.device_votes else {
        return refuse(
            "whether the cluster has a QDevice is not known yet, so its votes cannot be counted",
            "it goes on when a host's report could be read once",
        );
    };
    let (members, stops) = (case.seen.members(), case.stops());
    let stays = |host: &HostName| members.contains(host) && !stops.contains(host);
    let result = Tally {
        remaining: votes.iter().filter(|(host, _)| stays(host)).map(|(_, votes)| votes).sum(),
        credit: 0,
        needed: votes.values().sum::<u32>().saturating_add(device) / 2 + 1,
        no_credit_because: None,
    };
    content_unless(!result.keeps(case.bounds.spare), || {
        refuse(too_few(case, &result), WAKE_ANOTHER)
    })
}

const WAKE_ANOTHER: &str = "wake another host first; `spot quorum` shows who may be off together";

fn too_few(case: &Case<'_>, result: &Tally) -> String {
    let (stops, spare) = (case.stops(), case.bounds.spare);
    let names: Vec<&str> = stops.iter().map(HostName::as_str).collect();
    let spare = if spare > 0 { format!(" and {spare} to spare") } else { String::new() };
    format!(
        "without {} the cluster would have {} where {} are needed{spare}",
        names.join(" and "),
        crate::cluster::quorum::votes(result.remaining + result.credit),
        result.needed
    )
}

/// What silences the QDevice, where its votes would have sufficed.
fn silent_device(
    case: &Case<'_>,
    evidence: &BTreeMap<HostName, &Evidence>,
    result: &Tally,
) -> Option<Disorder> {
    let conf = &evidence.values().next()?.conf;
    let with_it = Tally { credit: written_device_votes(conf), ..result.clone() };
    let missed = result.credit == 0 && with_it.keeps(case.bounds.spare);
    missed.then(|| disorder(case, evidence, About::Device)).flatten()
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
        let node = case.node(host);
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
    disordered(case, About::Return)
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

/// Where the stop is safe only by the QDevice's vote, every survivor's daemon is asked now: a
/// server that died since the evidence changes neither members nor quorum, until a host leaves.
pub(in crate::gate) fn device_still_votes(case: &Case<'_>) -> Finding {
    let by_evidence = match case.bounds.evidence {
        EvidenceKind::Runtime => case.evidence(),
        // Configured votes credit no device.
        EvidenceKind::Configured => None,
    };
    let Some(evidence) = by_evidence else { return Finding::Content };
    let result = what_stays(case, &evidence);
    if (Tally { credit: 0, ..result }).keeps(case.bounds.spare) {
        return Finding::Content;
    }
    let stops = case.stops();
    let mut questions = BTreeSet::new();
    let mut told = None;
    for (host, view) in evidence.iter().filter(|(host, _)| !stops.contains(*host)) {
        let question = Question::Device(host.clone());
        match this_turn(case.seen, &question).map(|stamped| &stamped.answer) {
            Some(Ok(Answer::Device(DeviceLink::Connected))) => {}
            Some(Ok(Answer::Device(DeviceLink::NotConnected(state)))) => {
                let server = view.conf.device.as_ref().and_then(|device| device.server.clone());
                let server = server.unwrap_or_else(|| "an unnamed place".into());
                let why = format!("{host} has just lost the QDevice's server ({state})");
                return refuse_as(&Disorder::DeviceServerDead { server }, why);
            }
            Some(Ok(Answer::Device(DeviceLink::NoDaemon))) => {
                let stopped = Disorder::DeviceDaemonOff { hosts: vec![host.clone()] };
                return refuse_as(&stopped, stopped.to_string());
            }
            Some(Err(gap)) => {
                told.get_or_insert(gap.to_string());
                questions.insert(question);
            }
            Some(Ok(_)) | None => {
                questions.insert(question);
            }
        }
    }
    content_unless(!questions.is_empty(), || Finding::Ask { questions, sentence: told })
}
