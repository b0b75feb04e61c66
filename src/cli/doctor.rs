//! `spot doctor`: what is wrong with this installation, and the line that mends it.
//!
//! Each check stands for one thing that would keep `spot` from acting, or its owner from what he
//! expects: it says what was found, how that was found, and where something is amiss the line that
//! mends it. What could not be checked is said too, and is not held against the installation: a
//! host that sleeps cannot be asked. It only looks.
//!
//! **Does not know:** what anybody wants of the cluster.

mod backups;
mod doors;
mod installation;
mod jobs;
mod quorum;
mod rights;
mod waking;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use serde::Serialize;

use super::paper::{Ink, Sheet, plain};
use super::{Exit, Look, live, paper};
use crate::cluster::{Answer, HostName, Observation, Question, Tier};
use crate::config::Config;
use crate::policy::Policy;
use crate::pve::{Reported, Survey, TlsTransport};
use crate::site::{RealClock, Site};

/// Doors that have not answered by then are shut.
const ANSWERS_WITHIN: Duration = Duration::from_secs(12);
const LOOKS_AT_MOST: u32 = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Good,
    /// Something is kept from working.
    Fault,
    /// Worth knowing; nothing is kept from working.
    Warning,
    /// It could not be checked now.
    Unknown,
}

#[derive(Clone, Debug, Serialize)]
struct Check {
    code: &'static str,
    state: State,
    sentence: String,
    how: String,
    remedy: Option<String>,
}

#[derive(Serialize)]
struct Document<'a> {
    version: u32,
    checks: &'a [Check],
}

/// Everything found, in the order of looking.
#[derive(Default)]
struct Checks(Vec<Check>);

/// How one thing is checked, said once for all that may come of it.
struct Checking<'a> {
    checks: &'a mut Checks,
    code: &'static str,
    how: String,
}

impl Checks {
    fn by(&mut self, code: &'static str, how: impl Into<String>) -> Checking<'_> {
        Checking { checks: self, code, how: how.into() }
    }

    fn any(&self, state: State) -> bool {
        self.0.iter().any(|check| check.state == state)
    }
}

impl Checking<'_> {
    fn good(&mut self, sentence: impl Into<String>) {
        self.add(State::Good, sentence.into(), None);
    }

    fn fault(&mut self, sentence: impl Into<String>, remedy: impl Into<String>) {
        self.add(State::Fault, sentence.into(), Some(remedy.into()));
    }

    fn warning(&mut self, sentence: impl Into<String>, remedy: impl Into<String>) {
        self.add(State::Warning, sentence.into(), Some(remedy.into()));
    }

    fn unknown(&mut self, sentence: impl Into<String>, remedy: impl Into<String>) {
        self.add(State::Unknown, sentence.into(), Some(remedy.into()));
    }

    fn add(&mut self, state: State, sentence: String, remedy: Option<String>) {
        let (code, how) = (self.code, self.how.clone());
        self.checks.0.push(Check { code, state, sentence, how, remedy });
    }
}

pub async fn doctor(config: &Config, form: Look) -> anyhow::Result<Exit> {
    let mut checks = Checks::default();
    let policy = installation::installation(config, &mut checks).await;
    let visit = Visit::pay(config, policy.as_ref()).await?;
    doors::doors(&visit, &mut checks).await;
    doors::names(&visit, &mut checks);
    rights::rights(&visit, &mut checks);
    quorum::quorum(&visit, &mut checks);
    waking::waking(&visit, &mut checks).await;
    backups::backups(&visit, &mut checks);
    jobs::jobs(&visit, &mut checks).await;
    match form.json {
        true => paper::json(&Document { version: 1, checks: &checks.0 })?,
        false => paper::raw(draw(&Sheet::stdout(super::now()), &checks.0).as_bytes())?,
    }
    Ok(if checks.any(State::Fault) { Exit::No } else { Exit::Yes })
}

/// One look at the cluster, shared by every check.
struct Visit<'a> {
    config: &'a Config,
    policy: Option<&'a Policy>,
    seen: Observation,
    survey: Rc<Survey<TlsTransport>>,
    /// Hosts whose own door answered, with PVE's name of each.
    awake: BTreeMap<HostName, String>,
    reports: BTreeMap<HostName, Result<Reported, String>>,
}

impl<'a> Visit<'a> {
    async fn pay(config: &'a Config, policy: Option<&'a Policy>) -> anyhow::Result<Visit<'a>> {
        let seen = look(config, policy).await?;
        let transport = TlsTransport::new(config).map_err(anyhow::Error::msg)?;
        let survey = Rc::new(Survey::new(transport, config.access.token.clone()));
        let answered = |host: &HostName| {
            let answer = seen.answers.get(&Question::Membership(host.clone()));
            answer.is_some_and(|stamped| stamped.answer.is_ok())
        };
        let of_host = |host: &HostName| {
            let node = seen.hosts.get(host).map(|look| look.node.clone());
            (host.clone(), node.unwrap_or_else(|| host.to_string()))
        };
        let hosts = config.hosts.iter().map(|(host, _)| host);
        let awake: BTreeMap<_, _> = hosts.filter(|host| answered(host)).map(of_host).collect();
        let mut visit = Visit { config, policy, seen, survey, awake, reports: BTreeMap::new() };
        visit.gather_reports().await;
        Ok(visit)
    }

    /// Every host that is awake is asked for its report at once: each takes 6 to 11 s.
    async fn gather_reports(&mut self) {
        let names: Vec<(String, HostName)> =
            self.seen.hosts.iter().map(|(host, look)| (look.node.clone(), host.clone())).collect();
        let mut asked = Vec::new();
        for (host, node) in self.awake.clone() {
            let (survey, names) = (self.survey.clone(), names.clone());
            let ask = async move {
                let named = |node: &str| {
                    let found = names.iter().find(|(other, _)| other == node);
                    found.map_or_else(|| HostName::from(node), |(_, host)| host.clone())
                };
                (host.clone(), survey.report(&host, &node, named).await)
            };
            asked.push(tokio::task::spawn_local(ask));
        }
        if !asked.is_empty() {
            paper::aside("Each host that is awake is asked for its report: up to 11 seconds.");
        }
        for ask in asked {
            if let Ok((host, report)) = ask.await {
                self.reports.insert(host, report);
            }
        }
    }

    /// Who answers first for what every host knows.
    fn anybody(&self) -> Option<&HostName> {
        self.seen
            .seen_from
            .as_ref()
            .filter(|host| self.awake.contains_key(*host))
            .or_else(|| self.awake.keys().next())
    }

    fn tier(&self, host: &HostName) -> Option<Tier> {
        Some(self.policy?.host(host)?.tier)
    }

    /// Hosts that the policy lets sleep.
    fn may_rest(&self) -> Vec<&HostName> {
        let hosts = self.policy.into_iter().flat_map(Policy::hosts);
        hosts.filter(|(_, host)| host.tier != Tier::Low).map(|(name, _)| name).collect()
    }
}

async fn look(config: &Config, policy: Option<&Policy>) -> anyhow::Result<Observation> {
    let mut site = live::site(config, policy, RealClock::new(true))?;
    let mut questions = vec![Question::Permissions, Question::ConfiguredVotes];
    questions.extend(config.hosts.iter().map(|(host, _)| Question::Membership(host.clone())));
    if policy.into_iter().flat_map(Policy::rules).any(|rule| rule.for_backups.is_some()) {
        questions.push(Question::BackupJobs);
    }
    let began = site.now();
    let mut seen = site.observe(&questions).await;
    for _ in 0..LOOKS_AT_MOST {
        // What has its answer is not asked again.
        questions.retain(|question| !seen.answers.contains_key(question));
        if questions.is_empty() || site.now().since(began) >= ANSWERS_WITHIN {
            break;
        }
        site.wait_until(site.now().plus(Duration::from_millis(200))).await;
        seen = site.observe(&questions).await;
    }
    Ok(seen)
}

/// What `question` was answered, as far as it was.
fn answer<'s>(seen: &'s Observation, question: &Question) -> Option<Result<&'s Answer, String>> {
    let stamped = seen.answers.get(question)?;
    Some(stamped.answer.as_ref().map_err(|gap| gap.why.clone()))
}

/// `host1`, `host1 and host2`, `host1, host2 and host3`.
fn list(names: &[impl ToString]) -> String {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    match names.as_slice() {
        [] => "nobody".into(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

fn draw(sheet: &Sheet, checks: &[Check]) -> String {
    let mut out = String::new();
    for one in checks {
        let mark = match one.state {
            State::Good => sheet.ink(Ink::Green, "good   "),
            State::Fault => sheet.ink(Ink::Red, "FAULT  "),
            State::Warning => sheet.ink(Ink::Yellow, "warning"),
            State::Unknown => sheet.ink(Ink::Dim, "unknown"),
        };
        let indent = "         ";
        out += &format!("{}\n", sheet.wrapped(&format!("{mark}  "), indent, &plain(&one.sentence)));
        let Some(remedy) = &one.remedy else { continue };
        // Lines to copy stand alone, whole.
        for (nth, line) in remedy.lines().enumerate() {
            let first = if nth == 0 { "       → " } else { indent };
            match line.starts_with("    ") {
                true => out += &format!("{indent}{}\n", plain(line)),
                false => out += &format!("{}\n", sheet.wrapped(first, indent, &plain(line))),
            }
        }
        let how = sheet.wrapped(indent, indent, &plain(&format!("(seen by: {})", one.how)));
        for line in how.lines() {
            out += &format!("{}\n", sheet.ink(Ink::Dim, line));
        }
    }
    let count = |state| checks.iter().filter(|one| one.state == state).count();
    let (faults, warnings) = (count(State::Fault), count(State::Warning));
    let unknown = count(State::Unknown);
    out += "\n";
    out += &match faults {
        0 => "Nothing is wrong".to_owned(),
        1 => "1 thing is wrong".to_owned(),
        many => format!("{many} things are wrong"),
    };
    out += &match warnings {
        0 => String::new(),
        1 => ", 1 is worth knowing".to_owned(),
        many => format!(", {many} are worth knowing"),
    };
    out += &match unknown {
        0 => ".\n".to_owned(),
        many => format!(", {many} could not be checked now.\n"),
    };
    out
}
