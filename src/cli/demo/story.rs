//! The story as it happens: what spot wrote into its journal and what befell the world, by time.
//!
//! Volleys of packets are told once per wake: the rest of them says nothing new.
//!
//! **Does not know:** what will happen next.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use jiff::civil::Date;
use serde::Serialize;
use tokio::sync::Notify;
use tokio::sync::broadcast::{self, error::RecvError};

use super::happenings;
use crate::cli::paper::{self, Ink, Sheet, plain};
use crate::policy::Policy;
use crate::pretend::{Happening, Shared};
use crate::status::EntryShown;

/// Wide enough for `guest 201` and `cluster`.
const WHO_WIDTH: usize = 9;

/// One event of `--json`.
#[derive(Serialize)]
struct Event<'a> {
    at: Timestamp,
    /// `spot` for what stands in its journal, `world` for what befell the cluster.
    from: &'static str,
    who: &'a str,
    what: &'a str,
    /// The journal's name of it; null for the world's.
    kind: Option<&'a str>,
}

pub struct Story {
    sheet: Sheet,
    json: bool,
    world: Shared,
    /// How many of the world's happenings are told.
    told: usize,
    date: Option<Date>,
    refusals: u32,
    /// Hosts whose packets were told since they were last wanted.
    called: BTreeSet<String>,
    /// Rung when nobody reads any more.
    broken: Arc<Notify>,
}

impl Story {
    pub fn new(sheet: Sheet, json: bool, world: Shared, broken: Arc<Notify>) -> Story {
        Story {
            sheet,
            json,
            world,
            told: 0,
            date: None,
            refusals: 0,
            called: BTreeSet::new(),
            broken,
        }
    }

    pub fn begin(&self, days: u16, policy: &Policy) -> anyhow::Result<()> {
        if self.json {
            return Ok(());
        }
        let (cluster, hosts, guests) = {
            let world = self.world.lock().expect("no code panics while it holds the world");
            (world.cluster().to_owned(), world.hosts().count(), world.guests().count())
        };
        let days = if days == 1 { "One day".to_owned() } else { format!("{days} days") };
        let rules: Vec<&str> = policy.rules().iter().map(|rule| rule.name.as_str()).collect();
        let text = format!(
            "{days} of the pretended cluster {}, with {hosts} hosts and {guests} guests, under the \
             policies {}. The service is the real one: it talks TLS to pretended hosts on loopback \
             and wakes them by real magic packets. Lines with a dot are what befell the cluster, \
             all others what spot wrote into its journal.",
            plain(&cluster),
            plain(&rules.join(", ")),
        );
        Ok(paper::line(&self.sheet.wrapped("", "", &text))?)
    }

    /// Tells everything until the service has ended; gives the number of refusals.
    pub async fn tell(
        mut self,
        mut entries: broadcast::Receiver<EntryShown>,
    ) -> anyhow::Result<u32> {
        let told = self.listen(&mut entries).await;
        if told.is_err() {
            self.broken.notify_one();
        }
        told?;
        Ok(self.refusals)
    }

    async fn listen(
        &mut self,
        entries: &mut broadcast::Receiver<EntryShown>,
    ) -> anyhow::Result<()> {
        loop {
            match entries.recv().await {
                Ok(entry) => {
                    self.world_until(Some(entry.at))?;
                    self.entry(&entry)?;
                }
                Err(RecvError::Lagged(missed)) => {
                    paper::aside(&format!("({missed} lines were too quick to be told)"));
                }
                Err(RecvError::Closed) => return self.world_until(None),
            }
        }
    }

    /// What befell the world before `until`.
    fn world_until(&mut self, until: Option<Timestamp>) -> anyhow::Result<()> {
        let all = happenings(&self.world);
        for one in all.iter().skip(self.told) {
            // At one instant the asking comes first, and then what it led to.
            if until.is_some_and(|until| one.at >= until) {
                break;
            }
            self.told += 1;
            let Happening { at, who, what } = one;
            self.line(*at, "world", who, what, None)?;
        }
        Ok(())
    }

    fn entry(&mut self, entry: &EntryShown) -> anyhow::Result<()> {
        let EntryShown { at, who, kind, sentence, .. } = entry;
        self.refusals += u32::from(kind == "refused");
        if self.repeats(entry) && !self.json {
            return Ok(());
        }
        self.line(*at, "spot", who, sentence, Some(kind))
    }

    /// Whether this is one more volley to a host that is being called already.
    fn repeats(&mut self, entry: &EntryShown) -> bool {
        let EntryShown { who, kind, sentence, .. } = entry;
        let packets = sentence.contains("magic packet") || sentence.contains("sent by");
        match (kind.as_str(), packets) {
            ("progress", true) => !self.called.insert(format!("{who} {sentence}")),
            ("host_ready" | "wake_failed" | "begun", _) => {
                self.called.retain(|one| !one.starts_with(&format!("{who} ")));
                false
            }
            (_, _) => false,
        }
    }

    fn line(
        &mut self,
        at: Timestamp,
        from: &'static str,
        who: &str,
        what: &str,
        kind: Option<&str>,
    ) -> anyhow::Result<()> {
        if self.json {
            return paper::json_line(&Event { at, from, who, what, kind });
        }
        self.sheet.now = at;
        let local = self.sheet.local(at);
        if self.date != Some(local.date()) {
            self.date = Some(local.date());
            let date = local.strftime("%A, %-d %B %Y").to_string();
            paper::line(&format!("\n{}", self.sheet.ink(Ink::Bold, &date)))?;
        }
        let time = self.sheet.ink(Ink::Dim, &local.strftime("%H:%M:%S").to_string());
        let mark = if from == "world" { "·" } else { " " };
        let who = format!("{:WHO_WIDTH$}", plain(who));
        let start = format!("{time} {mark} {who} ");
        let indent = " ".repeat(paper::shown(&start) + 2);
        let what = &self.sheet.localised(what);
        let text = match (from, kind) {
            ("world", _) => self.sheet.ink(Ink::Dim, what),
            (_, Some("refused")) => self.sheet.ink(Ink::Red, what),
            (_, Some("lease_granted")) => self.sheet.ink(Ink::Bold, what),
            (_, Some("held")) => self.sheet.ink(Ink::Yellow, what),
            (_, Some("host_ready")) => self.sheet.ink(Ink::Green, what),
            (_, _) => plain(what),
        };
        Ok(paper::line(&self.sheet.wrapped(&start, &indent, &text))?)
    }
}
