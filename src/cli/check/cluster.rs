//! `spot check --live`: the policies held against the cluster they are for.
//!
//! Names that no host has, rules that match nobody, guests that cannot leave and what then happens
//! to them, hosts that the votes will never let sleep: none of it shows in the files. It only
//! looks, at the same answers by which the service judges. What could not be seen is said and not
//! held against the policy.
//!
//! **Does not know:** the journal: a guest that spot put away is seen as stopped.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::doubts::{self, About, Addresses, Doubt};
use crate::cli::live;
use crate::cli::paper::{self, Ink, Sheet, plain, table};
use crate::cluster::{Answer, GuestFacts, GuestSeen, HostName, Observation, Question, Vmid};
use crate::config::Config;
use crate::plan::foresight::foresee;
use crate::policy::text::{Fault, Marks};
use crate::policy::votes::{Votes, never_resting};
use crate::policy::{GuestTraits, Policy};
use crate::site::{RealClock, Site};

/// A report, which alone shows a QDevice, may take 45 s.
const ANSWERS_WITHIN: Duration = Duration::from_secs(50);
const LOOKS_AT_MOST: u32 = 60;
/// Guests whose configuration is asked for, one request or two each.
const GUESTS_AT_MOST: usize = 1_000;

/// What the cluster says to the policies.
#[derive(Debug, Default, Serialize)]
pub(super) struct Survey {
    /// The guests of every rule, in the policies' order.
    rules: Vec<RuleFound>,
    /// Guests that no rule matches: they go wherever they fit.
    unmatched: Vec<GuestFound>,
    /// Guests that cannot move although their rule, or the sleep of their host, would have them.
    stuck: Vec<Stuck>,
    /// Where each host is woken, by the policies and by PVE.
    addresses: Vec<Addresses>,
    gaps: Vec<String>,
    #[serde(skip)]
    listed: Vec<HostName>,
    #[serde(skip)]
    votes: Option<Votes>,
    #[serde(skip)]
    doubts: Vec<Doubt>,
    #[serde(skip)]
    guests_seen: bool,
    #[serde(skip)]
    all_named: bool,
}

#[derive(Debug, Serialize)]
struct RuleFound {
    path: String,
    guests: Vec<GuestFound>,
}

#[derive(Clone, Debug, Serialize)]
struct GuestFound {
    vmid: Vmid,
    name: Option<String>,
    host: HostName,
}

#[derive(Debug, Serialize)]
struct Stuck {
    #[serde(flatten)]
    guest: GuestFound,
    why: String,
    then: String,
}

pub(super) async fn ask(config: &Config, policy: &Policy) -> anyhow::Result<Survey> {
    let mut site = live::site(config, Some(policy), RealClock::new(true))?;
    let began = site.now();
    let mut questions = vec![Question::ConfiguredVotes];
    let mut seen = site.observe(&questions).await;
    if seen.members().is_empty() {
        let gaps: Vec<String> = seen.gaps.iter().map(ToString::to_string).collect();
        anyhow::bail!("no member of the cluster could be asked: {}", gaps.join("; "));
    }
    // The one that answered shows the QDevice as well as any other.
    questions.extend(seen.seen_from.clone().map(Question::Evidence));
    questions.extend(doubts::questions(policy, &seen));
    let guests = seen.guests.iter().filter(|(_, guest)| !guest.template);
    questions.extend(guests.take(GUESTS_AT_MOST).map(|(vmid, _)| Question::Guest(*vmid)));
    paper::aside(
        "The cluster is asked about its hosts and guests; a report takes up to 11 seconds.",
    );
    for _ in 0..LOOKS_AT_MOST {
        // What has its answer is not asked again.
        questions.retain(|question| !seen.answers.contains_key(question));
        if questions.is_empty() || site.now().since(began) >= ANSWERS_WITHIN {
            break;
        }
        site.wait_until(site.now().plus(Duration::from_millis(200))).await;
        seen = site.observe(&questions).await;
    }
    Ok(Survey::of(policy, &seen))
}

impl Survey {
    fn of(policy: &Policy, seen: &Observation) -> Survey {
        let mut survey = Survey {
            rules: policy
                .guest_rules()
                .iter()
                .enumerate()
                .map(|(at, _)| RuleFound { path: format!("guests[{at}]"), guests: Vec::new() })
                .collect(),
            gaps: seen.gaps.iter().map(ToString::to_string).collect(),
            listed: seen
                .hosts
                .iter()
                .filter(|(_, look)| look.listed)
                .map(|(n, _)| n.clone())
                .collect(),
            votes: votes(seen),
            addresses: doubts::addresses(policy, seen),
            doubts: doubts::doubts(policy, seen),
            all_named: seen.saw("resources")
                && seen.guests.values().all(|guest| guest.name.is_some()),
            ..Survey::default()
        };
        for (vmid, guest) in seen.guests.iter().filter(|(_, guest)| !guest.template) {
            let found =
                GuestFound { vmid: *vmid, name: guest.name.clone(), host: guest.host.clone() };
            let rule = policy.guest_rule(&traits(*vmid, guest));
            let at = policy.guest_rules().iter().position(|one| Some(one) == rule);
            match at.and_then(|at| survey.rules.get_mut(at)) {
                Some(rule) => rule.guests.push(found.clone()),
                None => survey.unmatched.push(found.clone()),
            }
            match facts(seen, *vmid) {
                Ok(facts) => {
                    let ahead = foresee(policy, rule, *vmid, guest, Some(facts));
                    survey.stuck.extend(ahead.map(|ahead| Stuck {
                        guest: found,
                        why: format!("it {}", ahead.why),
                        then: ahead.then(),
                    }));
                }
                Err(why) => survey.gaps.push(why),
            }
        }
        survey.guests_seen = survey.gaps.is_empty();
        survey.gaps.extend(doubts::gaps(policy, seen));
        survey
    }

    /// What of it is a fault of the policies.
    pub(super) fn faults(&self, policy: &Policy, marks: &Marks) -> Vec<Fault> {
        let mut faults = Vec::new();
        let names: Vec<&str> = self.listed.iter().map(HostName::as_str).collect();
        let first = marks.hosts.values().min_by_key(|mark| (&mark.file, mark.line));
        for (host, mark) in &marks.hosts {
            if !names.is_empty() && !self.listed.contains(host) {
                let node = policy.host(host).map_or(host.as_str(), |host| host.node.as_str());
                faults.push(mark.error(
                    format!("the cluster has no node named `{node}`"),
                    format!(
                        "its hosts are {}; write PVE's name of it under `node`",
                        names.join(", ")
                    ),
                ));
            }
        }
        for host in self.listed.iter().filter(|host| policy.host(host).is_none()) {
            faults.extend(first.map(|mark| {
                mark.warning(
                    format!("the cluster has a host {host} that no policy describes"),
                    "describe it under `hosts`; until then it is left as it is",
                )
            }));
        }
        for doubt in &self.doubts {
            let mark = match &doubt.about {
                About::Mac(host) => marks.macs.get(host).or_else(|| marks.hosts.get(host)),
                About::Rule(name) => marks.rules.get(name),
            };
            faults.extend(mark.map(|mark| mark.warning(&doubt.sentence, &doubt.remedy)));
        }
        for (at, mark) in marks.guests.iter().enumerate() {
            let named =
                policy.guest_rules().get(at).is_some_and(|rule| rule.matches.name.is_some());
            let nobody = self.rules.get(at).is_some_and(|rule| rule.guests.is_empty());
            // A name that PVE has forgotten, of a host long off, may yet match.
            if nobody && self.guests_seen && (self.all_named || !named) {
                faults.push(mark.warning(
                    "no guest of the cluster comes to this rule",
                    "no guest is like this, or rules before it take them all",
                ));
            }
        }
        if let (Some(votes), Some(mark)) = (&self.votes, first) {
            let never = never_resting(policy, votes);
            faults.extend(never.iter().map(|one| {
                let at = one.hosts.first().and_then(|host| marks.hosts.get(host)).unwrap_or(mark);
                at.warning(
                    one.sentence(),
                    "give the cluster a QDevice, or let a window keep one of them awake",
                )
            }));
        }
        faults
    }

    pub(super) fn draw(&self, sheet: &Sheet) -> String {
        let mut out = String::new();
        let mut rows = Vec::new();
        for rule in &self.rules {
            rows.push(vec![rule.path.clone(), names(&rule.guests)]);
        }
        rows.push(vec!["no rule".into(), names(&self.unmatched)]);
        out += &format!("{}\n", sheet.ink(Ink::Bold, "Guests by rule"));
        out += &table(sheet, &rows);
        if !self.stuck.is_empty() {
            out += &format!("\n{}\n", sheet.ink(Ink::Bold, "Guests that cannot move"));
            let row = |one: &Stuck| {
                vec![
                    shown(&one.guest),
                    one.guest.host.to_string(),
                    plain(&format!("{}: {}", one.why, one.then)),
                ]
            };
            out += &table(sheet, &self.stuck.iter().map(row).collect::<Vec<_>>());
        }
        for gap in &self.gaps {
            out += &format!("{}\n", sheet.wrapped("!  ", "   ", &plain(gap)));
        }
        out + "\n"
    }
}

fn shown(guest: &GuestFound) -> String {
    match &guest.name {
        Some(name) => plain(&format!("{} {name}", guest.vmid)),
        None => guest.vmid.to_string(),
    }
}

fn names(guests: &[GuestFound]) -> String {
    match guests {
        [] => "nobody".into(),
        some => some.iter().map(shown).collect::<Vec<_>>().join(", "),
    }
}

fn traits(vmid: Vmid, guest: &GuestSeen) -> GuestTraits<'_> {
    GuestTraits {
        vmid,
        kind: guest.kind,
        name: guest.name.as_deref(),
        tags: &guest.tags,
        pool: guest.pool.as_deref(),
    }
}

fn facts(seen: &Observation, vmid: Vmid) -> Result<&GuestFacts, String> {
    match seen.answers.get(&Question::Guest(vmid)).map(|one| &one.answer) {
        Some(Ok(Answer::Guest(facts))) => Ok(facts),
        Some(Err(gap)) => Err(gap.to_string()),
        Some(Ok(_)) | None => {
            Err(format!("the configuration of guest {vmid} was not seen in time"))
        }
    }
}

/// Votes as configured, with the QDevice as the report shows it.
fn votes(seen: &Observation) -> Option<Votes> {
    let hosts: BTreeMap<HostName, u32> =
        match seen.answers.get(&Question::ConfiguredVotes).map(|one| &one.answer) {
            Some(Ok(Answer::ConfiguredVotes(votes))) => votes.clone(),
            Some(Ok(_) | Err(_)) | None => return None,
        };
    // Without the report a QDevice may be there, and what is not known is no reproach.
    let from = seen.seen_from.clone()?;
    match seen.answers.get(&Question::Evidence(from)).map(|one| &one.answer) {
        Some(Ok(Answer::Evidence(evidence))) => {
            let device = evidence.conf.device.as_ref().map(|device| device.votes.unwrap_or(1));
            Some(Votes { hosts, device: device.unwrap_or(0) })
        }
        Some(Ok(_) | Err(_)) | None => None,
    }
}
