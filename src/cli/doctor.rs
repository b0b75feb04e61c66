//! `spot doctor`: what is wrong with this installation, and the line that mends it.
//!
//! Every finding stands for one thing that would keep `spot` from acting, checked here and now:
//! policies, journal, each host's own door, the token's rights by path, the clock, and where `spot`
//! itself lives. What could not be checked is a finding too. It only looks.
//!
//! **Does not know:** what anybody wants of the cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::paper::{Ink, Sheet, plain};
use super::{Exit, Look, check, live, look, paper};
use crate::cluster::{Answer, ClockState, HostName, Observation, Permissions, Question, Tier};
use crate::config::Config;
use crate::gate::{Here, Mode};
use crate::journal::Journal;
use crate::policy::{Policy, calendar};
use crate::site::{RealClock, Site};
use crate::sources;

/// Doors that have not answered by then are shut.
const ANSWERS_WITHIN: Duration = Duration::from_secs(12);
const LOOKS_AT_MOST: u32 = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Health {
    Well,
    /// Worth knowing; nothing is kept from working.
    Remark,
    Ill,
}

#[derive(Clone, Debug, Serialize)]
struct Finding {
    health: Health,
    what: String,
    sentence: String,
    remedy: String,
}

#[derive(Serialize)]
struct Document {
    version: u32,
    findings: Vec<Finding>,
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn well(&mut self, what: &str, sentence: impl Into<String>) {
        self.add(Health::Well, what, sentence, "");
    }

    fn ill(&mut self, what: &str, sentence: impl Into<String>, remedy: impl Into<String>) {
        self.add(Health::Ill, what, sentence, remedy);
    }

    fn remark(&mut self, what: &str, sentence: impl Into<String>, remedy: impl Into<String>) {
        self.add(Health::Remark, what, sentence, remedy);
    }

    fn add(
        &mut self,
        health: Health,
        what: &str,
        sentence: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let (what, sentence, remedy) = (what.to_owned(), sentence.into(), remedy.into());
        self.0.push(Finding { health, what, sentence, remedy });
    }
}

pub async fn doctor(config: &Config, form: Look) -> anyhow::Result<Exit> {
    let mut findings = Findings::default();
    findings.well("config", "spot.yaml can be read and has no fault");
    mode(config, &mut findings);
    let policy = policies(config, &mut findings);
    zones(config, &mut findings);
    journal(config, &mut findings).await;
    clock(config, &mut findings).await;
    here(config, &mut findings);
    cluster(config, policy.as_ref(), &mut findings).await?;
    let ill = findings.0.iter().any(|one| one.health == Health::Ill);
    match form.json {
        true => paper::json(&Document { version: 1, findings: findings.0 })?,
        false => paper::raw(draw(&Sheet::stdout(super::now()), &findings.0).as_bytes())?,
    }
    Ok(if ill { Exit::No } else { Exit::Yes })
}

fn mode(config: &Config, findings: &mut Findings) {
    match config.mode {
        Mode::Act => findings.well("mode", "mode act: spot does what it plans"),
        Mode::Rehearse => findings.remark(
            "mode",
            "mode rehearse: spot only reports what it would do",
            "write `mode: act` into spot.yaml once its plans convince you",
        ),
    }
}

fn policies(config: &Config, findings: &mut Findings) -> Option<Policy> {
    match check::valid(&config.policies) {
        Ok(policy) => {
            let place = config.policies.display();
            findings.well("policies", format!("the policies in {place} are valid"));
            Some(policy)
        }
        Err(error) => {
            findings.ill("policies", format!("{error:#}"), "spot check shows every fault");
            None
        }
    }
}

/// By which rules time zones are read, and where this machine knows others.
fn zones(config: &Config, findings: &mut Findings) {
    let marks = sources::read_folder(&config.policies).read().marks;
    let differences = check::zones::differences(&marks, super::now());
    if differences.is_empty() {
        let edition = calendar::zone_rules();
        let sentence = format!("time zones go by the rules bundled with spot, tzdata {edition}");
        findings.well("zones", sentence);
    }
    for one in differences {
        findings.remark("zones", one.message, one.help);
    }
}

async fn journal(config: &Config, findings: &mut Findings) {
    match look::service(config).await {
        Ok(Some(_)) => findings.well("service", "the service runs and answers at its socket"),
        Ok(None) => {
            findings.remark("service", "the service does not run", "systemctl start spot");
        }
        Err(error) => findings.ill("service", format!("{error:#}"), "journalctl -u spot"),
    }
    let place = live::journal(config);
    match Journal::read_only(&place) {
        Ok(_) => findings.well("journal", format!("the journal {} can be read", place.display())),
        Err(fault @ crate::journal::Fault::Absent { .. }) => {
            findings.remark("journal", fault.sentence(), fault.remedy());
        }
        Err(fault) => findings.ill("journal", fault.sentence(), fault.remedy()),
    }
}

async fn clock(config: &Config, findings: &mut Findings) {
    if config.clock_trusted {
        findings.well("clock", "you vouch for the clock (`clock: trust`)");
        return;
    }
    match RealClock::new(false).ask_state().await {
        ClockState::Synchronised => findings.well("clock", "the clock is synchronised"),
        ClockState::Unsynchronised => findings.ill(
            "clock",
            "the clock is not synchronised, so nothing is powered off",
            "start time synchronisation: systemctl enable --now chrony",
        ),
        ClockState::Unknown => findings.ill(
            "clock",
            "systemd does not say whether the clock is synchronised, so nothing is powered off",
            "install systemd's timedatectl, or write `clock: trust` into spot.yaml",
        ),
    }
}

fn here(config: &Config, findings: &mut Findings) {
    match &config.here {
        Here::Host(host) => findings.well("here", format!("spot lives on {host}")),
        Here::Guest(guest) => findings.well("here", format!("spot lives in guest {guest}")),
        Here::Outside => findings.well("here", "spot lives outside the cluster"),
        Here::Unknown => findings.ill(
            "here",
            "where spot lives is not known, so nothing is powered off",
            "write `here: HOST`, `here: {vmid: N}` or `here: outside` into spot.yaml",
        ),
    }
}

async fn cluster(
    config: &Config,
    policy: Option<&Policy>,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let mut site = live::site(config, policy, RealClock::new(true))?;
    let mut questions = vec![Question::Permissions, Question::ConfiguredVotes];
    questions.extend(config.hosts.iter().map(|(host, _)| Question::Membership(host.clone())));
    let began = site.now();
    let mut seen = site.observe(&questions).await;
    for _ in 0..LOOKS_AT_MOST {
        let waits = questions.iter().any(|question| !seen.answers.contains_key(question));
        if !waits || site.now().since(began) >= ANSWERS_WITHIN {
            break;
        }
        site.wait_until(site.now().plus(Duration::from_millis(200))).await;
        seen = site.observe(&questions).await;
    }
    doors(config, &seen, findings);
    names(policy, &seen, findings);
    let rights = seen.answers.get(&Question::Permissions).map(|one| &one.answer);
    match rights {
        Some(Ok(Answer::Permissions(permissions))) => {
            rights_by_path(config, policy, &seen, permissions, findings);
        }
        Some(Err(gap)) => findings.ill("rights", gap.to_string(), "mend what is above first"),
        Some(Ok(_)) | None => {
            findings.ill(
                "rights",
                "no host said what our token may do",
                "mend what is above first",
            );
        }
    }
    Ok(())
}

/// Each host's own door: address, certificate, token.
fn doors(config: &Config, seen: &Observation, findings: &mut Findings) {
    for (host, _) in &config.hosts {
        let what = format!("door of {host}");
        let absent = seen.hosts.get(host).is_some_and(|look| look.member == Some(false));
        let url = config.access.doors.get(host).map_or("", |door| door.url.as_str());
        match seen.answers.get(&Question::Membership(host.clone())).map(|one| &one.answer) {
            Some(Ok(_)) => {
                findings.well(
                    &what,
                    format!("{host} answers at {url}, its certificate and our token are right"),
                );
            }
            Some(Err(gap)) if absent => findings.remark(
                &what,
                format!("{host} is no member now, and its door could not be tried: {}", gap.why),
                "try again while it is awake",
            ),
            Some(Err(gap)) => findings.ill(
                &what,
                format!("{host} at {url}: {}", gap.why),
                "is it up, and are its `url:`, its `pins:` and the token in spot.yaml right?",
            ),
            None => findings.ill(
                &what,
                format!("{host} at {url} did not answer in time"),
                "look at its pveproxy",
            ),
        }
    }
}

/// Hosts as the policies, spot.yaml and the cluster name them.
fn names(policy: Option<&Policy>, seen: &Observation, findings: &mut Findings) {
    let listed = |host: &HostName| seen.hosts.get(host).is_some_and(|look| look.listed);
    if seen.quorate.is_none() {
        findings.ill("names", "the cluster's hosts could not be seen", "mend what is above first");
        return;
    }
    let mut agree = true;
    for name in policy.into_iter().flat_map(|policy| policy.hosts().keys()) {
        if !listed(name) {
            agree = false;
            findings.ill(
                "names",
                format!("the policy names {name}, and the cluster has no such host"),
                format!("give {name} the name PVE has for it, or set `node:` in its policy"),
            );
        }
    }
    for (name, look) in &seen.hosts {
        if look.listed && !look.addressed {
            agree = false;
            findings.ill(
                "names",
                format!("{name} has no address in spot.yaml, so nothing is powered off"),
                format!("add {name} under `hosts:` in spot.yaml"),
            );
        }
    }
    if agree {
        findings.well("names", "policies, spot.yaml and the cluster agree about the hosts");
    }
}

/// What each path needs, and the line that grants it.
fn rights_by_path(
    config: &Config,
    policy: Option<&Policy>,
    seen: &Observation,
    permissions: &Permissions,
    findings: &mut Findings,
) {
    let mut missing: BTreeMap<String, Vec<&'static str>> = BTreeMap::new();
    let mut need = |path: String, privilege: &'static str| {
        if !permissions.allow(&path, privilege) {
            missing.entry(path).or_default().push(privilege);
        }
    };
    for privilege in ["VM.Audit", "VM.Migrate", "VM.PowerMgmt"] {
        need("/vms".into(), privilege);
    }
    need("/".into(), "Sys.Audit");
    for (name, look) in seen.hosts.iter().filter(|(_, look)| look.listed) {
        let path = format!("/nodes/{}", look.node);
        need(path.clone(), "Sys.Audit");
        let may_rest =
            policy.and_then(|policy| policy.host(name)).is_some_and(|host| host.tier != Tier::Low);
        if may_rest {
            need(path, "Sys.PowerMgmt");
        }
    }
    for path in permissions.blind_spots() {
        missing.entry(path).or_insert_with(|| vec!["VM.Audit"]);
    }
    if missing.is_empty() {
        findings.well("rights", "our token may do everything spot needs");
    }
    for (path, privileges) in missing {
        let list = privileges.join(" ");
        findings.ill(
            "rights",
            format!("our token lacks {list} on {path}"),
            grant(&config.access.token, &path),
        );
    }
}

/// The line that grants what a path needs, all of it: an entry on a deeper path replaces what the
/// path would inherit.
fn grant(token: &str, path: &str) -> String {
    let (role, privileges) = match path.split('/').nth(1) {
        Some("vms") => ("SpotGuests", "VM.Audit,VM.Migrate,VM.PowerMgmt"),
        Some("nodes") => ("SpotHosts", "Sys.Audit,Sys.PowerMgmt"),
        Some(_) | None => ("SpotCluster", "Sys.Audit"),
    };
    let user = token.split('!').next().unwrap_or(token);
    format!(
        "pveum role add {role} --privs {privileges}; pveum acl modify {path} --roles {role} \
         --tokens '{token}' --users '{user}'"
    )
}

fn draw(sheet: &Sheet, findings: &[Finding]) -> String {
    let mut out = String::new();
    for one in findings {
        let mark = match one.health {
            Health::Well => sheet.ink(Ink::Green, "ok  "),
            Health::Remark => sheet.ink(Ink::Yellow, "note"),
            Health::Ill => sheet.ink(Ink::Red, "ILL "),
        };
        out +=
            &format!("{}\n", sheet.wrapped(&format!("{mark}  "), "      ", &plain(&one.sentence)));
        if !one.remedy.is_empty() {
            out += &format!("{}\n", sheet.wrapped("      → ", "        ", &plain(&one.remedy)));
        }
    }
    let ill = findings.iter().filter(|one| one.health == Health::Ill).count();
    out += &match ill {
        0 => "\nNothing is wrong.\n".to_owned(),
        1 => "\n1 thing is wrong.\n".to_owned(),
        many => format!("\n{many} things are wrong.\n"),
    };
    out
}
