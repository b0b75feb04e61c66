//! The commands that look: asked of the service over its socket, or read from its journal when no
//! service runs, which is then said with the journal's age.
//!
//! **Does not know:** how a status comes about, or how it is drawn.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::paper::{self, Sheet, plain};
use super::{Exit, HistoryArgs, Look as Form, StatusArgs, WhyArgs, live, show};
use crate::cluster::{HostName, RunState, Vmid};
use crate::config::Config;
use crate::control::{Client, Look, News, Unheard};
use crate::journal::{Filter, Journal};
use crate::ledger::{GuestRecord, Ledger, Presence};
use crate::plan::hold::about;
use crate::service::shown_entry;
use crate::status::{
    EntryShown, GuestShown, History, HoldShown, HostShown, LeaseShown, PlanShown, PolicyShown,
    Status, UndertakingShown, Votes, Why,
};

/// Ends the screen before a status is drawn again.
const CLEAR: &[u8] = b"\x1b[2J\x1b[H";

/// The service, or nobody: a socket that is not there is no error for those who can do without.
pub async fn service(config: &Config) -> anyhow::Result<Option<Client>> {
    match Client::connect(&config.socket).await {
        Ok(client) => Ok(Some(client)),
        Err(Unheard::NotRunning { .. }) => Ok(None),
        Err(error) => Err(remedied(error)),
    }
}

/// The error with what can be done about it.
pub fn remedied(error: Unheard) -> anyhow::Error {
    let remedy = error.remedy();
    match remedy.is_empty() {
        true => error.into(),
        false => anyhow::anyhow!("{:#}; {remedy}", anyhow::Error::new(error)),
    }
}

pub async fn status(config: &Config, args: &StatusArgs) -> anyhow::Result<Exit> {
    if args.watch {
        return watch(config, args.look).await;
    }
    let status: Status = match ask(config, Look::Status).await? {
        Some(status) => status,
        None => remembered(config)?.status(),
    };
    print_status(&status, args.look)?;
    Ok(Exit::Yes)
}

fn print_status(status: &Status, form: Form) -> anyhow::Result<()> {
    match form.json {
        true => paper::json(status),
        false => {
            let sheet = Sheet::stdout(status.at);
            Ok(paper::raw(show::status(&sheet, status).as_bytes())?)
        }
    }
}

/// Draws the status whenever the service publishes one.
async fn watch(config: &Config, form: Form) -> anyhow::Result<Exit> {
    let Some(client) = service(config).await? else {
        anyhow::bail!("no service runs, so nothing changes that could be watched: start it");
    };
    let mut news = client.follow().await.map_err(remedied)?;
    loop {
        let heard = tokio::select! {
            heard = news.next() => heard.map_err(remedied)?,
            _ = tokio::signal::ctrl_c() => return Ok(Exit::Yes),
        };
        match heard {
            None => anyhow::bail!("the service has ended"),
            Some(News::Entry(_)) => {}
            Some(News::Status(status)) if form.json => paper::json_line(&status)?,
            Some(News::Status(status)) => {
                if paper::terminal() {
                    paper::raw(CLEAR)?;
                }
                print_status(&status, form)?;
            }
        }
    }
}

pub async fn plan(config: &Config, form: Form) -> anyhow::Result<Exit> {
    let plan: PlanShown = match ask(config, Look::Plan).await? {
        Some(plan) => plan,
        None => remembered(config)?.plan(),
    };
    match form.json {
        true => paper::json(&plan)?,
        false => paper::raw(show::plan(&Sheet::stdout(plan.at), &plan).as_bytes())?,
    }
    Ok(Exit::Yes)
}

pub async fn why(config: &Config, args: &WhyArgs) -> anyhow::Result<Exit> {
    let why: Why = match ask(config, Look::Why { host: args.host.clone() }).await? {
        Some(why) => why,
        None => {
            let status = remembered(config)?.status();
            let known: Vec<&str> = status.hosts.iter().map(|host| host.name.as_str()).collect();
            status.why(&args.host).ok_or_else(|| {
                let known = known.join(", ");
                anyhow::anyhow!("nobody has heard of {}; the journal knows {known}", args.host)
            })?
        }
    };
    match args.look.json {
        true => paper::json(&why)?,
        false => paper::raw(show::why(&Sheet::stdout(why.at), &why).as_bytes())?,
    }
    Ok(Exit::Yes)
}

/// A row of the history as it is shown.
#[derive(Serialize)]
struct Row {
    seq: u64,
    at: Timestamp,
    who: String,
    what: String,
    kind: String,
    host: Option<HostName>,
    guest: Option<Vmid>,
}

#[derive(Serialize)]
struct HistoryDocument {
    version: u32,
    cluster: Option<String>,
    entries: Vec<Row>,
}

pub async fn history(config: &Config, args: &HistoryArgs) -> anyhow::Result<Exit> {
    let look = Look::History { host: args.host.clone(), since: None, limit: Some(args.last) };
    let history: History = match ask(config, look).await? {
        Some(history) => history,
        None => remembered(config)?.history(args)?,
    };
    match args.look.json {
        true => paper::json(&HistoryDocument {
            version: history.version,
            cluster: history.cluster,
            entries: history.entries.into_iter().map(row).collect(),
        })?,
        false => {
            let sheet = Sheet::stdout(super::now());
            let line = |one: &EntryShown| {
                // Times in a sentence are read from where it was written.
                let then = sheet.clone().at(one.at);
                let sentence = then.localised(&plain(&one.sentence));
                vec![sheet.stamp(one.at), plain(&one.who), sentence]
            };
            let rows: Vec<Vec<String>> = history.entries.iter().map(line).collect();
            paper::raw(paper::table(&sheet, &rows).as_bytes())?;
        }
    }
    Ok(Exit::Yes)
}

fn row(one: EntryShown) -> Row {
    let EntryShown { seq, at, who, kind, sentence, host, guest } = one;
    Row { seq, at, who, what: sentence, kind, host, guest }
}

/// One document from the service; `None` when none runs.
pub async fn ask<D: DeserializeOwned>(config: &Config, look: Look) -> anyhow::Result<Option<D>> {
    let Some(mut client) = service(config).await? else { return Ok(None) };
    let document = client.look(look).await.map_err(remedied)?;
    Ok(Some(serde_json::from_value(document).map_err(|error| {
        anyhow::anyhow!("the service is of another version ({error}); restart it")
    })?))
}

/// What the journal remembers, while nobody looks.
struct Remembered {
    journal: Journal,
    ledger: Ledger,
    mode: String,
    here: Option<String>,
}

/// Opens the journal for reading and says on standard error how old it is.
fn remembered(config: &Config) -> anyhow::Result<Remembered> {
    let place = live::journal(config);
    let journal = Journal::read_only(&place).map_err(|fault| {
        anyhow::anyhow!("no service runs, and {}; {}", fault.sentence(), fault.remedy())
    })?;
    let ledger = journal.replay().map_err(faulty)?;
    let age = ledger.last_at.map(|at| super::now().duration_since(at));
    let age = match age.map(Duration::try_from) {
        Some(Ok(age)) => format!("its last entry is {} old", about(age)),
        Some(Err(_)) => "its last entry lies in the future".into(),
        None => "it is empty".into(),
    };
    paper::aside(&format!("No service runs: this is what its journal remembers; {age}."));
    let mode = crate::status::mode_word(config.mode).into();
    Ok(Remembered { journal, ledger, mode, here: crate::status::here_word(&config.here) })
}

pub fn faulty(fault: crate::journal::Fault) -> anyhow::Error {
    anyhow::anyhow!("{}; {}", fault.sentence(), fault.remedy())
}

impl Remembered {
    /// Only what is remembered: nothing is seen, so nothing is desired, and no votes are known.
    fn status(&self) -> Status {
        Status {
            version: crate::status::VERSION,
            cluster: self.journal.cluster().map(str::to_owned),
            at: self.ledger.last_at.unwrap_or_else(super::now),
            mode: self.mode.clone(),
            policy: PolicyShown { commit: self.ledger.policy.clone(), age: None, refused: None },
            quorate: None,
            votes: Votes::default(),
            evidence: None,
            evidence_weaker: None,
            here: self.here.clone(),
            hosts: self.ledger.hosts.keys().map(|name| self.host(name)).collect(),
            guests: self.put_away(),
            undertakings: self.undertakings(),
            holds: self.holds(None),
            forecasts: Vec::new(),
            gaps: vec!["could not see the cluster: no service runs".into()],
            trouble: None,
        }
    }

    /// Who runs is not known without a look; whom spot owes their owner is.
    fn put_away(&self) -> Vec<GuestShown> {
        let shown = |(vmid, record): (&Vmid, &GuestRecord)| {
            let parked = record.parked.as_ref()?;
            Some(GuestShown {
                vmid: *vmid,
                kind: parked.kind,
                name: record.name.clone(),
                host: parked.host.clone(),
                status: RunState::Unknown.word().to_owned(),
                put_away: Some(parked.into()),
            })
        };
        self.ledger.guests.iter().filter_map(shown).collect()
    }

    fn host(&self, name: &HostName) -> HostShown {
        let record = self.ledger.host(name);
        let state = match record.presence {
            Presence::Awake => "awake",
            Presence::Resting => "resting",
            Presence::Missing => "missing",
            Presence::Unseen => "unknown",
        };
        HostShown {
            name: name.clone(),
            node: None,
            tier: None,
            state: state.into(),
            desired: None,
            since: record.since,
            reasons: Vec::new(),
            holds: self.holds(Some(name)),
            lease: self.ledger.leases.get(name).map(|lease| LeaseShown {
                wants: lease.wants,
                until: lease.until,
                because: lease.because.clone(),
                by: lease.by.clone(),
            }),
            guests: Vec::new(),
            frozen: self.ledger.frozen.contains_key(name),
            emptying: self.ledger.emptying.contains_key(name),
            proving: self.ledger.proving.contains_key(name),
            proven: record.proof.is_some(),
            answering: record.answering,
            ready: record.ready,
            wake: None,
            ahead: None,
        }
    }

    fn holds(&self, host: Option<&HostName>) -> Vec<HoldShown> {
        let told = self.ledger.held.iter();
        let ours = told.filter(|(key, _)| host.is_none() || key.host.as_ref() == host);
        ours.map(|(key, sentence)| HoldShown {
            code: key.code.clone(),
            host: key.host.clone(),
            guest: key.guest,
            sentence: sentence.clone(),
            remedy: "start the service: systemctl start spot".into(),
            until: None,
        })
        .collect()
    }

    fn undertakings(&self) -> Vec<UndertakingShown> {
        let open = self.ledger.undertakings.values();
        open.map(|one| UndertakingShown {
            id: one.id,
            purpose: one.purpose.to_string(),
            host: one.purpose.host().clone(),
            requests: one.in_flight.values().map(|asked| asked.request.to_string()).collect(),
            since: one.since,
        })
        .collect()
    }

    /// Without a look at the cluster nothing can be planned; what was held is still worth showing.
    fn plan(&self) -> PlanShown {
        let status = self.status();
        PlanShown {
            version: status.version,
            cluster: status.cluster,
            at: status.at,
            mode: status.mode,
            moves: Vec::new(),
            ahead: Vec::new(),
            holds: status.holds,
            forecasts: Vec::new(),
            revisit_at: None,
        }
    }

    fn history(&self, args: &HistoryArgs) -> anyhow::Result<History> {
        let filter = Filter { host: args.host.clone(), since: None, limit: Some(args.last) };
        let kept = self.journal.history(&filter).map_err(faulty)?;
        Ok(History {
            version: crate::status::VERSION,
            cluster: self.journal.cluster().map(str::to_owned),
            entries: kept.iter().map(shown_entry).collect(),
        })
    }
}
