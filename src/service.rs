//! One turn after the other: inbox, observe, notice, plan, check, advance, publish.
//!
//! A turn takes no account of *what changed*; it looks at everything and plans afresh, so that a
//! restart, a missed message or a surprise needs no code of its own. Whatever people ask enters
//! here and nowhere else, and becomes a journal entry before it becomes an act.
//!
//! When the journal cannot be written nothing is asked of the world: `spot` says so, goes on
//! looking, and tries again.
//!
//! **Does not know:** PVE, sockets, files. It is generic over [`Site`], and time is the site's.

mod answering;
mod bounds;
mod inbox;
mod running;
mod telling;
mod timekeeping;
mod turning;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{broadcast, watch};

use crate::cluster::{HostName, Moment, Observation, Question};
use crate::gate::{Here, Mode};
use crate::journal::{Books, Fault, Filter, Journal, Kept};
use crate::ledger::Entry;
use crate::plan::Plan;
use crate::policy::Policy;
use crate::policy::votes::Votes;
use crate::request::Request;
use crate::site::Site;
use crate::status::{
    EntryShown, Footing, Picture, PlanShown, PolicyShown, Status, Trouble, mode_word, plain,
};

pub use inbox::{Ask, Asked, Asking, Inbox, PolicyNews};
pub use running::{Doors, hangups, terminated};

/// While requests are in flight, answers are awaited or a host comes and goes.
const LIVELY: Duration = Duration::from_secs(2);
/// While an undertaking is open and only time can help it, or the journal cannot be written.
const PATIENT: Duration = Duration::from_secs(10);
/// When nothing is under way.
const QUIET: Duration = Duration::from_secs(30);
/// However near an edge lies, a turn does not follow the other sooner than this.
const SOONEST: Duration = Duration::from_millis(500);
/// Followers that fall this far behind miss entries (the history has them).
const FOLLOWERS_KEEP: usize = 1_024;

/// What the service is told once, from `spot.yaml`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The cluster's name, in every entry and document.
    pub cluster: String,
    pub mode: Mode,
    pub here: Here,
}

/// What a turn did.
#[derive(Clone, Debug)]
pub struct TurnReport {
    /// What was journaled in this turn, in order.
    pub entries: Vec<Kept>,
    pub picture: Arc<Picture>,
    /// How many requests were sent.
    pub asked: usize,
    /// When the next turn is due at the latest.
    pub revisit: Moment,
}

impl TurnReport {
    pub fn status(&self) -> &Status {
        &self.picture.status
    }
}

/// The policy the service goes by.
struct InForce {
    policy: Arc<Policy>,
    commit: String,
    since: Moment,
}

/// The service: a site, the books, a policy, and what one turn hands to the next.
pub struct Service<S: Site> {
    site: S,
    books: Books,
    settings: Settings,
    policy: Option<InForce>,
    /// News that could not be journaled yet.
    news: Option<PolicyNews>,
    /// Why the newest policy is not in force.
    refused: Option<String>,
    timekeeping: timekeeping::Timekeeping,
    /// What the last plan and gate wanted to know.
    questions: BTreeSet<Question>,
    /// The last look; asks are judged by it.
    seen: Option<Observation>,
    /// The gate's last word on a request, while it waits for fresh answers.
    refusals: BTreeMap<Request, crate::gate::Refusal>,
    /// When the gate last refused a host's power-off on reports.
    dear_refusals: BTreeMap<HostName, Moment>,
    /// What the votes will never allow of a policy, as it was found for these two.
    wakeful: Option<(Arc<Policy>, Votes, Vec<String>)>,
    started: bool,
    trouble: Option<Trouble>,
    halting: Arc<AtomicBool>,
    pictures: watch::Sender<Arc<Picture>>,
    entries: broadcast::Sender<EntryShown>,
}

impl<S: Site> Service<S> {
    /// Nothing is looked at or asked before the first turn.
    pub fn new(site: S, books: Books, settings: Settings) -> Service<S> {
        let footing = Footing {
            cluster: settings.cluster.clone(),
            mode: settings.mode,
            here: settings.here.clone(),
            policy: PolicyShown::default(),
            trouble: None,
        };
        let status = footing.blank_status(site.now());
        let plan = PlanShown::of(&Plan::default(), &status);
        let picture = Arc::new(Picture { status, plan, policy: None, backups: Vec::new() });
        Service {
            site,
            books,
            settings,
            policy: None,
            news: None,
            refused: None,
            timekeeping: timekeeping::Timekeeping::default(),
            questions: BTreeSet::new(),
            seen: None,
            refusals: BTreeMap::new(),
            dear_refusals: BTreeMap::new(),
            wakeful: None,
            started: false,
            trouble: None,
            halting: Arc::new(AtomicBool::new(false)),
            pictures: watch::Sender::new(picture),
            entries: broadcast::Sender::new(FOLLOWERS_KEEP),
        }
    }

    pub fn site(&self) -> &S {
        &self.site
    }

    pub fn books(&self) -> &Books {
        &self.books
    }

    /// The picture published after each turn.
    pub fn pictures(&self) -> watch::Receiver<Arc<Picture>> {
        self.pictures.subscribe()
    }

    /// Every entry as it is journaled; receivers subscribe to it.
    pub fn entries(&self) -> broadcast::Sender<EntryShown> {
        self.entries.clone()
    }

    /// Lets go of the service, as a crash would: the site and the books remain.
    pub fn dismantle(self) -> (S, Books) {
        (self.site, self.books)
    }

    /// One turn. It never fails: what goes wrong is in the picture.
    pub async fn turn(&mut self, inbox: Inbox) -> TurnReport {
        let taken = self.take_in(inbox);
        let questions: Vec<Question> = self.questions.iter().cloned().collect();
        let seen = self.site.observe(&questions).await;
        let concluded = match taken {
            // Stopping: it is shown how things stand, and nothing new is asked.
            Ok(()) if self.halting.load(Ordering::Relaxed) => Ok(self.only_looked(&seen)),
            Ok(()) => self.conclude(&seen).await,
            Err(fault) => Err(fault),
        };
        let concluded = match concluded {
            Ok(concluded) => {
                self.trouble = self.without_policy();
                concluded
            }
            Err(fault) => {
                let sentence = format!("{}; nothing is asked of any host", fault.sentence());
                // Told once, not every turn.
                if self.trouble.as_ref().is_none_or(|trouble| trouble.sentence != sentence) {
                    tracing::error!("{sentence}: {}", fault.remedy());
                }
                self.trouble = Some(Trouble { sentence, remedy: fault.remedy() });
                self.only_looked(&seen)
            }
        };
        self.publish(seen, concluded)
    }

    fn without_policy(&self) -> Option<Trouble> {
        self.policy.is_none().then(|| Trouble {
            sentence: match &self.refused {
                Some(sentence) => format!("no policy is in force: {sentence}"),
                None => "no policy is in force yet".into(),
            },
            remedy: "spot check shows what is wrong with the policy files".into(),
        })
    }

    fn publish(&mut self, seen: Observation, concluded: turning::Concluded) -> TurnReport {
        let turning::Concluded { plan, asked, pace } = concluded;
        let now = self.site.now();
        let ledger = self.books.ledger();
        let in_force = self.policy.as_ref();
        let footing = Footing {
            cluster: self.settings.cluster.clone(),
            mode: self.settings.mode,
            here: self.settings.here.clone(),
            policy: PolicyShown {
                commit: in_force.map(|in_force| in_force.commit.clone()),
                age: in_force.map(|in_force| now.since(in_force.since).as_secs()),
                refused: self.refused.clone(),
            },
            trouble: self.trouble.clone(),
        };
        let policy = in_force.map(|in_force| in_force.policy.clone());
        let status = Status::of(policy.as_deref(), &seen, ledger, &plan, &footing);
        let shown = PlanShown::of(&plan, &status);
        let backups = ledger.backups.runs(now.civil);
        let picture = Arc::new(Picture { status, plan: shown, policy, backups });
        let entries = self.books.fresh();
        for kept in &entries {
            let shown = shown_entry(kept);
            tracing::info!("{}: {}", plain(&shown.who), plain(&shown.sentence));
            // Nobody follows: nobody misses it.
            let _followers = self.entries.send(shown);
        }
        self.pictures.send_replace(picture.clone());
        self.seen = Some(seen);
        let revisit = now.plus(self.until_next(&plan, pace, now.civil));
        TurnReport { entries, picture, asked, revisit }
    }

    /// How long until the next turn at the latest.
    fn until_next(&self, plan: &Plan, pace: Duration, now: Timestamp) -> Duration {
        let edge = plan.revisit_at.map(|at| at.duration_since(now));
        let edge =
            edge.map(|left| if left.is_negative() { Duration::ZERO } else { left.unsigned_abs() });
        edge.map_or(pace, |edge| edge.min(pace)).max(SOONEST)
    }
}

/// An entry as it is shown: in the history, to followers, in the log.
pub fn shown_entry(kept: &Kept) -> EntryShown {
    let own = kept.entry.who();
    let who = match (own.as_str(), &kept.entry, &kept.guest, &kept.host) {
        // The answer to a request names no host itself; the journal knows whom it is about.
        ("spot", Entry::Progress { .. }, Some(guest), _) => format!("guest {guest}"),
        ("spot", Entry::Progress { .. }, None, Some(host)) => host.to_string(),
        _ => own,
    };
    EntryShown {
        seq: kept.seq,
        at: kept.at,
        who,
        kind: kept.kind.clone(),
        sentence: kept.entry.to_string(),
        host: kept.host.clone(),
        guest: kept.guest,
    }
}

/// Past entries, read without the service's help and without its lock.
pub fn history(
    journal: &Path,
    host: Option<&HostName>,
    since: Option<Timestamp>,
    limit: Option<u32>,
) -> Result<Vec<EntryShown>, Trouble> {
    let read = || -> Result<Vec<Kept>, Fault> {
        Journal::read_only(journal)?.history(&Filter { host: host.cloned(), since, limit })
    };
    match read() {
        Ok(kept) => Ok(kept.iter().map(shown_entry).collect()),
        Err(fault) => Err(Trouble { sentence: fault.sentence(), remedy: fault.remedy() }),
    }
}

/// The mode as a word, for the journal.
fn word(mode: Mode) -> String {
    mode_word(mode).to_owned()
}

#[cfg(test)]
mod tests;
