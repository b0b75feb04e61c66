//! `spot quorum`: the votes as the members themselves show them, and what a power-off would leave.
//!
//! It asks every member for its own report, as the gate does before a power-off; that takes 6 to 11
//! seconds on real servers. Where the reports cannot be had the configured votes are shown, and are
//! called so: they are the weaker evidence. It only looks; a real power-off is judged by the gate,
//! which hears many more clauses than votes.
//!
//! **Does not know:** whether anybody wants a host off.

mod advice;
mod whatif;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;

use super::paper::{Ink, Sheet, plain, table};
use super::{Exit, QuorumArgs, check, live, paper};
use crate::cluster::quorum::disorder::{Disorder, recognise};
use crate::cluster::quorum::foresight::{Failure, Foresight};
use crate::cluster::quorum::{Tally, sets, tally};
use crate::cluster::{Answer, Evidence, HostName, Observation, Question, Tier};
use crate::config::Config;
use crate::policy::{Policy, Serves};
use crate::site::{RealClock, Site};

/// A report may take 45 s; whoever has not answered then is a gap.
const REPORTS_WITHIN: Duration = Duration::from_secs(50);
/// An observation returns within 5 s; this many cover the reports' limit.
const LOOKS_AT_MOST: u32 = 60;

#[derive(Serialize)]
struct Document {
    version: u32,
    cluster: Option<String>,
    at: jiff::Timestamp,
    source: &'static str,
    quorate: Option<bool>,
    expected: Option<u32>,
    present: Option<u32>,
    needed: Option<u32>,
    spare: Option<i64>,
    reserve: u32,
    device: Option<String>,
    hosts: Vec<HostVotes>,
    without: Vec<Off>,
    /// Every set of members that could be off together; empty where there are too many.
    sets: Vec<Off>,
    /// The smallest sets that may not be off together, and whether these are all of them.
    forbidden: Vec<Vec<HostName>>,
    forbidden_all: bool,
    /// Single failures that would end the quorum as things are; `null` where nothing can be
    /// foretold.
    lost_with: Option<Vec<String>>,
    off: Option<Off>,
    /// What is out of order with the votes, by name; the gate refuses by the same ones.
    disorders: Vec<DisorderShown>,
    gaps: Vec<String>,
}

#[derive(Serialize)]
struct DisorderShown {
    code: &'static str,
    sentence: String,
    remedy: String,
}

#[derive(Serialize)]
struct HostVotes {
    name: HostName,
    /// As counted now.
    votes: Option<u32>,
    configured: Option<u32>,
    member: Option<bool>,
}

/// What would remain if these were powered off together.
#[derive(Clone, Serialize)]
struct Off {
    hosts: Vec<HostName>,
    remaining: u32,
    credit: u32,
    needed: u32,
    keeps: bool,
    /// Single failures that would then end the quorum of whoever is left; `null` where nothing can
    /// be foretold.
    lost_with: Option<Vec<String>>,
    sentence: String,
}

/// Whether what is asked can be answered without a configuration.
pub fn needs_no_cluster(args: &QuorumArgs) -> bool {
    args.what_if.is_some()
}

pub fn on_paper(config: &Path, args: &QuorumArgs) -> anyhow::Result<Exit> {
    let file = args.what_if.as_ref().context("a file is asked about")?;
    match args.advise {
        true => advice::on_paper(config, args, file),
        false => whatif::what_if(file, args.look.json),
    }
}

pub async fn quorum(config: &Config, args: &QuorumArgs) -> anyhow::Result<Exit> {
    if args.advise {
        return advice::live(config, args).await;
    }
    let policy = check::valid(&config.policies)?;
    let seen = reports(config, &policy).await?;
    let view = View::new(&policy, &seen);
    for host in &args.off {
        anyhow::ensure!(
            seen.hosts.contains_key(host),
            "the cluster has no host {host}; it has {}",
            seen.hosts.keys().map(HostName::as_str).collect::<Vec<_>>().join(", ")
        );
    }
    let document = view.document(&args.off)?;
    let keeps = document.off.as_ref().is_none_or(|off| off.keeps);
    match args.look.json {
        true => paper::json(&document)?,
        false => paper::raw(draw(&Sheet::stdout(super::now()), &document).as_bytes())?,
    }
    Ok(if keeps { Exit::Yes } else { Exit::No })
}

/// Looks until every member's report is there, or is known not to come.
async fn reports(config: &Config, policy: &Policy) -> anyhow::Result<Observation> {
    let mut site = live::site(config, Some(policy), RealClock::new(true))?;
    let mut questions = vec![Question::ConfiguredVotes];
    let began = site.now();
    let mut seen = site.observe(&questions).await;
    if seen.members().is_empty() {
        let gaps: Vec<String> = seen.gaps.iter().map(ToString::to_string).collect();
        anyhow::bail!("no member of the cluster could be asked: {}", gaps.join("; "));
    }
    questions.extend(seen.members().into_iter().map(Question::Evidence));
    paper::aside("Every member is asked for its report; that takes up to 11 seconds.");
    for _ in 0..LOOKS_AT_MOST {
        let waits = questions.iter().any(|question| !seen.answers.contains_key(question));
        if !waits || site.now().since(began) >= REPORTS_WITHIN {
            break;
        }
        seen = site.observe(&questions).await;
        site.wait_until(site.now().plus(Duration::from_millis(200))).await;
    }
    Ok(seen)
}

/// What the members show, checked for agreement.
struct View<'a> {
    policy: &'a Policy,
    seen: &'a Observation,
    evidence: BTreeMap<HostName, &'a Evidence>,
    configured: Option<&'a BTreeMap<HostName, u32>>,
    foresight: Option<Foresight>,
    gaps: Vec<String>,
}

impl<'a> View<'a> {
    fn new(policy: &'a Policy, seen: &'a Observation) -> View<'a> {
        let mut gaps: Vec<String> = seen.gaps.iter().map(ToString::to_string).collect();
        let mut evidence = BTreeMap::new();
        for host in seen.members() {
            match seen.answers.get(&Question::Evidence(host.clone())).map(|one| &one.answer) {
                Some(Ok(Answer::Evidence(one))) => {
                    evidence.insert(host, &**one);
                }
                Some(Ok(_)) | None => gaps.push(format!("{host} has not sent its report in time")),
                Some(Err(gap)) => gaps.push(gap.to_string()),
            }
        }
        let configured = match seen.answers.get(&Question::ConfiguredVotes).map(|one| &one.answer) {
            Some(Ok(Answer::ConfiguredVotes(votes))) => Some(votes),
            Some(Ok(_)) | None => None,
            Some(Err(gap)) => {
                gaps.push(gap.to_string());
                None
            }
        };
        let rings: BTreeSet<&str> = evidence.values().map(|one| one.ring.as_str()).collect();
        let all = evidence.len() == seen.members().len() && rings.len() == 1;
        let foresight = if all { Foresight::of(&evidence) } else { None };
        View { policy, seen, evidence, configured, foresight, gaps }
    }

    /// Every member has sent its report, and they agree.
    fn runtime(&self) -> bool {
        let rings: BTreeSet<&str> = self.evidence.values().map(|one| one.ring.as_str()).collect();
        rings.len() == 1 && self.evidence.len() == self.seen.members().len()
    }

    fn document(self, off: &[HostName]) -> anyhow::Result<Document> {
        let runtime = self.runtime();
        let any = self.evidence.values().next().filter(|_| runtime);
        let members = self.seen.members();
        let sum = |only: &dyn Fn(&HostName) -> bool| {
            let votes = self.configured?;
            Some(votes.iter().filter(|(host, _)| only(host)).map(|(_, votes)| votes).sum::<u32>())
        };
        let expected = any.map(|one| one.expected).or_else(|| sum(&|_| true));
        let present = any.map(|one| one.total).or_else(|| sum(&|host| members.contains(host)));
        let needed = any.map(|one| one.quorum).or(expected.map(|expected| expected / 2 + 1));
        let spare = present.zip(needed).map(|(has, needs)| i64::from(has) - i64::from(needs));
        let off = match off {
            [] => None,
            hosts => Some(self.without(hosts)?),
        };
        let stoppable: Vec<HostName> = match self.evidence.is_empty() && self.configured.is_none() {
            true => Vec::new(),
            false => members.iter().cloned().collect(),
        };
        let listed = sets::every(&stoppable).unwrap_or_default();
        let listed = listed.iter().map(|set| self.without(&Vec::from_iter(set.iter().cloned())));
        let listed = listed.collect::<Result<Vec<_>, _>>()?;
        let mut may = |set: &BTreeSet<HostName>| {
            self.tally(set).is_ok_and(|tally| tally.keeps(self.policy.quorum().spare))
        };
        let (forbidden, forbidden_all) = sets::smallest_forbidden(&stoppable, &mut may);
        let host = |(name, look): (&HostName, &crate::cluster::HostSeen)| HostVotes {
            name: name.clone(),
            votes: any.and_then(|one| Some(one.members.get(name)?.votes)),
            configured: self.configured.and_then(|votes| votes.get(name)).copied(),
            member: look.member,
        };
        Ok(Document {
            version: 1,
            cluster: self.seen.cluster.clone(),
            at: self.seen.at.civil,
            source: if runtime { "runtime" } else { "configured" },
            quorate: self.seen.quorate,
            expected,
            present,
            needed,
            spare,
            reserve: self.policy.quorum().spare,
            device: any.and_then(|one| device(one)),
            hosts: self.seen.hosts.iter().map(host).collect(),
            without: self
                .sets()
                .iter()
                .map(|hosts| self.without(hosts))
                .collect::<Result<_, _>>()?,
            sets: listed,
            forbidden: forbidden.into_iter().map(|set| set.into_iter().collect()).collect(),
            forbidden_all,
            lost_with: self.foresight.as_ref().map(failures),
            off,
            disorders: self.disorders(),
            gaps: self.gaps,
        })
    }

    fn disorders(&self) -> Vec<DisorderShown> {
        let views = self.evidence.iter().map(|(host, one)| (host.clone(), *one)).collect();
        let node = |host: &HostName| {
            self.seen.hosts.get(host).map_or_else(|| host.0.clone(), |look| look.node.clone())
        };
        let shown = |one: &Disorder| DisorderShown {
            code: one.code(),
            sentence: one.to_string(),
            remedy: one.remedy(),
        };
        recognise(&views, &node).iter().map(shown).collect()
    }

    /// Each awake host that may sleep by itself, then all of them together.
    fn sets(&self) -> Vec<Vec<HostName>> {
        let low = |host: &HostName| self.policy.host(host).is_some_and(|one| one.tier == Tier::Low);
        if self.evidence.is_empty() && self.configured.is_none() {
            return Vec::new();
        }
        let may: Vec<HostName> =
            self.seen.members().into_iter().filter(|host| !low(host)).collect();
        let mut sets: Vec<Vec<HostName>> = may.iter().map(|host| vec![host.clone()]).collect();
        if may.len() > 1 {
            sets.push(may);
        }
        sets
    }

    fn without(&self, hosts: &[HostName]) -> anyhow::Result<Off> {
        let stops: BTreeSet<HostName> = hosts.iter().cloned().collect();
        let tally = self.tally(&stops)?;
        let mut off = told(hosts, &tally, self.policy.quorum().spare);
        off.lost_with = self.foresight.as_ref().map(|now| failures(&now.without(&stops)));
        Ok(off)
    }

    /// What the gate would count.
    fn tally(&self, stops: &BTreeSet<HostName>) -> anyhow::Result<Tally> {
        let tally = match self.runtime() {
            true => {
                let lost = stops.iter().any(|host| self.serves_device(host));
                let outside = |(host, look): (&HostName, &crate::cluster::HostSeen)| {
                    look.listed && look.member != Some(true) && !stops.contains(host)
                };
                // Whether an absent host is off nobody can tell from here; the gate asks the
                // journal.
                let rest_off = !self.seen.hosts.iter().any(outside);
                tally(&self.evidence, stops, lost, rest_off)
            }
            false => self.configured_without(stops)?,
        };
        // Where nobody is left, nobody shows what would be needed.
        let needed = match self.evidence.values().map(|one| one.quorum).max() {
            Some(needed) if tally.needed == u32::MAX => needed,
            Some(_) | None => tally.needed,
        };
        Ok(Tally { needed, ..tally })
    }

    fn configured_without(&self, stops: &BTreeSet<HostName>) -> anyhow::Result<Tally> {
        let Some(votes) = self.configured else {
            anyhow::bail!(
                "neither runtime nor configured votes are known: {}",
                self.gaps.join("; ")
            );
        };
        let members = self.seen.members();
        let stays = |host: &HostName| members.contains(host) && !stops.contains(host);
        Ok(Tally {
            remaining: votes.iter().filter(|(host, _)| stays(host)).map(|(_, votes)| votes).sum(),
            credit: 0,
            needed: votes.values().sum::<u32>() / 2 + 1,
            no_credit_because: None,
        })
    }

    fn serves_device(&self, host: &HostName) -> bool {
        let serves = |one: &Serves| match one {
            Serves::Qnetd => true,
            Serves::Storage { .. } => false,
        };
        self.policy.host(host).is_some_and(|host| host.serves.iter().any(serves))
    }
}

/// What would end the quorum, in words: `host1`, `the QDevice`.
fn failures(cluster: &Foresight) -> Vec<String> {
    let name = |failure: Failure| match failure {
        Failure::Host(host) => host.0,
        Failure::QDevice => "the QDevice".to_owned(),
    };
    cluster.lost_with().into_iter().map(name).collect()
}

fn device(evidence: &Evidence) -> Option<String> {
    let device = evidence.conf.device.as_ref()?;
    let votes = evidence.device_votes.unwrap_or(0);
    let server = device.server.as_deref().unwrap_or("a server not named");
    Some(match votes {
        0 => format!("a QDevice at {server}, which casts no vote now"),
        votes => format!("a QDevice at {server}, which casts {votes} now"),
    })
}

fn told(hosts: &[HostName], tally: &Tally, reserve: u32) -> Off {
    let names: Vec<&str> = hosts.iter().map(HostName::as_str).collect();
    let has = u64::from(tally.remaining) + u64::from(tally.credit);
    let keeps = tally.keeps(reserve);
    let verdict = match keeps {
        true => "the cluster keeps its quorum",
        false if has >= u64::from(tally.needed) => "the spare votes would be gone",
        false => "the cluster would lose its quorum",
    };
    let mut sentence = format!(
        "without {} {has} votes stay and {} are needed: {verdict}",
        names.join(" and "),
        tally.needed
    );
    if let Some(why) = &tally.no_credit_because {
        sentence += &format!(" (no credit for the QDevice: {why})");
    }
    let Tally { remaining, credit, needed, .. } = tally.clone();
    Off { hosts: hosts.to_vec(), remaining, credit, needed, keeps, lost_with: None, sentence }
}

fn draw(sheet: &Sheet, document: &Document) -> String {
    let number = |votes: Option<u32>| votes.map_or("?".into(), |votes| votes.to_string());
    let source = match document.source {
        "runtime" => "as the members count them now",
        _ => "as configured only: the weaker evidence",
    };
    let mut out = format!(
        "{} of {} votes present, {} needed, {} kept in reserve ({source})\n",
        number(document.present),
        number(document.expected),
        number(document.needed),
        document.reserve
    );
    if let Some(device) = &document.device {
        out += &format!("{}\n", plain(device));
    }
    out.push('\n');
    let titles = ["HOST", "VOTES", "CONFIGURED", "PRESENT"];
    let mut rows = vec![titles.map(|title| sheet.ink(Ink::Bold, title)).to_vec()];
    for host in &document.hosts {
        let votes = host.votes.map_or("-".into(), |votes| votes.to_string());
        let member = match host.member {
            Some(true) => sheet.ink(Ink::Green, "yes"),
            Some(false) => sheet.ink(Ink::Dim, "no"),
            None => sheet.ink(Ink::Red, "not seen"),
        };
        rows.push(vec![plain(host.name.as_str()), votes, number(host.configured), member]);
    }
    out += &table(sheet, &rows);
    match &document.off {
        Some(off) => out += &format!("\n{}{}", sentence(sheet, off), then(sheet, off)),
        None => out += &glance(sheet, document),
    }
    for one in &document.disorders {
        out += &format!("{}\n", sheet.wrapped("!    ", "     ", &plain(&one.sentence)));
        out += &format!("{}\n", sheet.wrapped("     → ", "       ", &plain(&one.remedy)));
    }
    for gap in &document.gaps {
        out += &format!("{}\n", sheet.wrapped("!    ", "     ", &plain(gap)));
    }
    out
}

fn sentence(sheet: &Sheet, off: &Off) -> String {
    let ink = if off.keeps { Ink::Green } else { Ink::Red };
    let mark = sheet.ink(ink, if off.keeps { "yes" } else { "no " });
    format!("{}\n", sheet.wrapped(&format!("{mark}  "), "     ", &plain(&off.sentence)))
}

/// What one more failure would do then.
fn then(sheet: &Sheet, off: &Off) -> String {
    match off.lost_with.as_deref().filter(|_| off.keeps) {
        None => String::new(),
        Some([]) => format!(
            "{}\n",
            sheet.wrapped("     ", "     ", "No single failure would then end the quorum.")
        ),
        Some(lost) => {
            let text = format!("The quorum would then end with the loss of {}.", lost.join(" or "));
            format!("{}\n", sheet.wrapped("     ", "     ", &plain(&text)))
        }
    }
}

/// Sets drawn as a table; more are told by the smallest that may not.
const MOST_DRAWN: usize = 31;

/// Which hosts may be off together, read at a glance.
fn glance(sheet: &Sheet, document: &Document) -> String {
    let mut out = String::new();
    let now = match document.lost_with.as_deref() {
        None => None,
        Some([]) => Some("As things are no single failure would end the quorum.".to_owned()),
        Some(lost) => {
            Some(format!("As things are the quorum ends with the loss of {}.", lost.join(" or ")))
        }
    };
    if let Some(now) = now {
        out += &format!("\n{}\n", sheet.wrapped("", "", &plain(&now)));
    }
    if !document.sets.is_empty() && document.sets.len() <= MOST_DRAWN {
        let titles = ["OFF TOGETHER", "MAY", "STAY", "NEEDED", "THEN ENDS WITH"];
        let mut rows = vec![titles.map(|title| sheet.ink(Ink::Bold, title)).to_vec()];
        for off in &document.sets {
            let names: Vec<&str> = off.hosts.iter().map(HostName::as_str).collect();
            let may = match off.keeps {
                true => sheet.ink(Ink::Green, "yes"),
                false => sheet.ink(Ink::Red, "no"),
            };
            let ends = match off.lost_with.as_deref().filter(|_| off.keeps) {
                None => "-".to_owned(),
                Some([]) => "no single failure".to_owned(),
                Some(lost) => plain(&lost.join(" or ")),
            };
            let stay = u64::from(off.remaining) + u64::from(off.credit);
            rows.push(vec![
                plain(&names.join(", ")),
                may,
                stay.to_string(),
                off.needed.to_string(),
                ends,
            ]);
        }
        return out + "\n" + &table(sheet, &rows);
    }
    if !document.hosts.is_empty() && (!document.forbidden.is_empty() || !document.sets.is_empty()) {
        out += "\nThese may not be off together, nor any more hosts beside them:\n";
        for set in &document.forbidden {
            let names: Vec<&str> = set.iter().map(HostName::as_str).collect();
            out += &format!("  {}\n", plain(&names.join(", ")));
        }
        if !document.forbidden_all {
            out += "  and more of this size\n";
        }
    }
    out
}
