//! The inside of a turn: what came in, what was seen, what follows from it, and what is asked.
//!
//! The order is the order of [`Service::turn`]. Every step that concludes anything writes it down
//! before the next one builds on it; the first write that fails ends the turn.
//!
//! **Does not know:** how a turn is begun or shown.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::answering::{Counter, Granted};
use super::bounds::{bounds, proven};
use super::{
    Asked, Asking, InForce, Inbox, LIVELY, PATIENT, PolicyNews, QUIET, Service, telling, word,
};
use crate::cluster::{HostName, Moment, Observation, Question};
use crate::execute;
use crate::gate::{self, Bounds, Refusal, Ruling};
use crate::journal::Fault;
use crate::ledger::{self, Entry, Ledger, Wants};
use crate::plan::{self, Hold, HostState, Plan};
use crate::policy::Policy;
use crate::policy::votes::{Votes, Wakeful, never_resting};
use crate::request::{Move, Request};
use crate::site::Site;
use crate::undertaking::{Event, Stage};

/// After a refusal on reports, the next ones are asked for so much later.
const REPORTS_AGAIN: Duration = Duration::from_secs(300);
/// A proof takes a drained host, a shutdown and a boot; after this it has failed.
const PROOF_WITHIN: Duration = Duration::from_secs(3 * 3600);

/// An answer that is asked again when it is older than this is waited for.
const OLD_ANSWER: Duration = Duration::from_secs(300);

/// What a turn came to.
#[derive(Default)]
pub(super) struct Concluded {
    pub plan: Plan,
    /// Requests sent.
    pub asked: usize,
    /// How soon to look again.
    pub pace: Duration,
}

impl<S: Site> Service<S> {
    /// Journals that the service runs, the policy's news and what people asked.
    pub(super) fn take_in(&mut self, inbox: Inbox) -> Result<(), Fault> {
        self.news = inbox.policy.or(self.news.take());
        let started = self.start().and_then(|()| self.take_policy());
        // Asks are answered even when the journal cannot be written: they are refused then.
        for asking in inbox.asks {
            self.answer(asking);
        }
        started
    }

    fn start(&mut self) -> Result<(), Fault> {
        self.books.refresh()?;
        if !self.started {
            let authority = self.books.authority();
            let entry = Entry::Started {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                mode: word(self.settings.mode),
                holder: authority.holder().to_owned(),
                term: authority.term(),
            };
            self.books.note(self.site.now(), &[entry])?;
            self.started = true;
        }
        Ok(())
    }

    /// A valid policy comes into force; an invalid one never replaces a valid one.
    fn take_policy(&mut self) -> Result<(), Fault> {
        let now = self.site.now();
        match self.news.as_ref() {
            None => {}
            Some(PolicyNews::Valid { policy, commit }) => {
                if self.books.ledger().policy.as_ref() != Some(commit) {
                    let entry = Entry::PolicyTaken { commit: commit.clone() };
                    self.books.note(now, &[entry])?;
                }
                let nodes: BTreeMap<HostName, String> = policy
                    .hosts()
                    .iter()
                    .map(|(name, host)| (name.clone(), host.node.clone()))
                    .collect();
                self.site.name_nodes(&nodes);
                let (policy, commit) = (policy.clone(), commit.clone());
                self.policy = Some(InForce { policy: policy.into(), commit, since: now });
                self.refused = None;
            }
            Some(PolicyNews::Refused { sentence }) => {
                if self.refused.as_ref() != Some(sentence) {
                    let entry = Entry::PolicyRefused { sentence: sentence.clone() };
                    self.books.note(now, &[entry])?;
                }
                self.refused = Some(sentence.clone());
            }
        }
        self.news = None;
        Ok(())
    }

    fn answer(&mut self, asking: Asking) {
        let now = self.site.now();
        let counter = Counter {
            policy: self.policy.as_ref().map(|in_force| &*in_force.policy),
            ledger: self.books.ledger(),
            seen: self.seen.as_ref(),
            mode: self.settings.mode,
            here: &self.settings.here,
            now,
        };
        let said = match counter.judge(&asking.ask, &asking.by, asking.confirmed) {
            Ok(Granted { entries, sentences }) => match self.books.note(now, &entries) {
                Ok(()) => Asked::Taken { sentences },
                Err(fault) => Asked::Refused {
                    sentence: format!("it cannot be written down: {}", fault.sentence()),
                    remedy: fault.remedy(),
                },
            },
            Err(said) => said,
        };
        if let Some(answer) = asking.answer {
            // An asker that has gone away does not take back what it asked.
            let _gone = answer.send(said);
        }
    }

    /// From what was seen to what is asked.
    pub(super) async fn conclude(&mut self, seen: &Observation) -> Result<Concluded, Fault> {
        let now = self.site.now();
        let clock_sound = self.look_at_clock(now, seen)?;
        if clock_sound {
            let ends = lease_ends(self.policy(), self.books.ledger(), now);
            self.books.note(now, &ends)?;
        }
        let noticed = ledger::notice(self.books.ledger(), seen);
        let changed = !noticed.is_empty();
        self.books.note(seen.at, &with_proofs(noticed, self.books.ledger()))?;
        let Some(policy) = self.policy.as_ref().map(|in_force| in_force.policy.clone()) else {
            self.questions = ledger::notice::questions(self.books.ledger(), seen);
            return Ok(Concluded { pace: QUIET, ..Concluded::default() });
        };
        let revoked = changed_ways(&policy, self.books.ledger());
        self.books.note(now, &revoked)?;

        let mut plan = plan::plan(&policy, seen, self.books.ledger(), now);
        plan.holds.extend(self.never_together(&policy));
        let ledger = self.books.ledger();
        let bounds = bounds(&policy, seen, ledger, &self.settings, now.civil, clock_sound);
        self.bar(&mut plan, seen, &bounds);
        let ruling = self.rule(seen, &plan, &bounds);
        self.hold(&mut plan, &ruling);

        let mut entries = endings(&policy, &plan, self.books.ledger());
        entries.extend(plan.claims.iter().map(|(host, because)| Entry::HostWanted {
            host: host.clone(),
            because: because.clone(),
        }));
        entries.append(&mut plan.lessons);
        let whole = seen.whole();
        let ledger = self.books.ledger();
        let told = telling::changes(&plan.holds, &ruling.refusals, ledger, whole, now.civil);
        entries.extend(told);
        self.books.note(now, &entries)?;

        let because: BTreeMap<Move, String> =
            plan.moves.iter().map(|one| (one.purpose.clone(), one.because.clone())).collect();
        let (asked_again, waiting) = self.spare_reports(&ruling, &bounds, now);
        let asked = ruling.cleared.len();
        execute::advance(ruling.cleared, &because, &mut self.books, &self.site).await?;

        self.questions = plan.questions.clone();
        self.questions.extend(asked_again);
        self.questions.extend(ledger::notice::questions(self.books.ledger(), seen));
        let pace = self.pace(&plan, seen, changed || waiting || asked > 0);
        Ok(Concluded { plan, asked, pace })
    }

    /// The gate's questions, and whether anybody waits for them. After a refusal that rests on
    /// reports they are not asked again for a while, unless a person waits: each runs dozens of
    /// commands on every host.
    fn spare_reports(
        &mut self,
        ruling: &Ruling,
        bounds: &Bounds,
        now: Moment,
    ) -> (BTreeSet<Question>, bool) {
        let mut sparing = false;
        let mut waiting = false;
        for refusal in &ruling.refusals {
            let host = refusal.purpose.host();
            let last = self.dear_refusals.get(host).copied();
            let lately = last.is_some_and(|last| now.since(last) < REPORTS_AGAIN)
                && !bounds.commanded.contains(host);
            sparing |= lately && (refusal.waiting || refusal.dear);
            waiting |= refusal.waiting && !lately;
            if refusal.dear && !refusal.waiting && !lately {
                self.dear_refusals.insert(host.clone(), now);
            }
        }
        let report = |question: &Question| matches!(question, Question::Evidence(_));
        let asked = ruling.questions.iter().filter(|question| !(sparing && report(question)));
        (asked.cloned().collect(), waiting)
    }

    /// Hosts that the policy lets sleep together and the votes never will, looked for anew when
    /// either changed: it walks through months of windows.
    fn never_together(&mut self, policy: &Arc<Policy>) -> Vec<Hold> {
        let ledger = self.books.ledger();
        // Without a look at the QDevice it may be there, and what is not known is no reproach.
        let (Some((_, hosts)), Some((_, device, _))) = (&ledger.votes, ledger.device) else {
            return Vec::new();
        };
        let votes = Votes { hosts: hosts.clone(), device };
        let known = self.wakeful.as_ref();
        if known.is_none_or(|(at, for_votes, _)| !Arc::ptr_eq(at, policy) || *for_votes != votes) {
            let found = never_resting(policy, &votes);
            let sentences = found.iter().map(Wakeful::sentence).collect();
            self.wakeful = Some((policy.clone(), votes, sentences));
        }
        let sentences = self.wakeful.iter().flat_map(|(_, _, sentences)| sentences);
        sentences.map(|sentence| Hold::NeverTogether { sentence: sentence.clone() }).collect()
    }

    fn policy(&self) -> Option<&Policy> {
        self.policy.as_ref().map(|in_force| &*in_force.policy)
    }

    fn look_at_clock(&mut self, now: Moment, seen: &Observation) -> Result<bool, Fault> {
        let verdict = self.timekeeping.look(now, seen.clock, self.books.ledger());
        self.books.note(now, &verdict.entries)?;
        Ok(verdict.sound)
    }

    /// Takes out every drain that would only lead to a power-off the gate refuses already.
    fn bar(&self, plan: &mut Plan, seen: &Observation, bounds: &Bounds) {
        let ledger = self.books.ledger();
        let under_way: Vec<_> = ledger.undertakings.values().collect();
        let mut barred = Vec::new();
        plan.moves.retain(|planned| {
            let Move::Empty(host) = &planned.purpose else { return true };
            // Its owner wants it empty and on; or it has begun, and is seen to its end.
            let begun = ledger.undertaking(&planned.purpose).is_some();
            if ledger.emptying.contains_key(host) || begun {
                return true;
            }
            match gate::objection(host, &under_way, seen, bounds) {
                Some(refusal) => {
                    barred.push(telling::hold_of(&refusal));
                    false
                }
                None => true,
            }
        });
        plan.holds.extend(barred);
    }

    /// Has the gate judge every planned request, together with all that is under way.
    fn rule(&self, seen: &Observation, plan: &Plan, bounds: &Bounds) -> Ruling {
        let ledger = self.books.ledger();
        let planned = plan.moves.iter().flat_map(|one| {
            one.requests.iter().map(|request| (one.purpose.clone(), request.clone()))
        });
        let requests: Vec<(Move, Request)> = planned.collect();
        let under_way: Vec<_> = ledger.undertakings.values().collect();
        gate::check(&requests, &under_way, seen, bounds)
    }

    /// Puts the gate's refusals among the plan's holds. While the gate waits for fresh answers to a
    /// request, its last word on it stands.
    fn hold(&mut self, plan: &mut Plan, ruling: &Ruling) {
        let before = std::mem::take(&mut self.refusals);
        for refusal in &ruling.refusals {
            let standing: Option<&Refusal> = match refusal.waiting {
                true => before.get(&refusal.request),
                false => Some(refusal),
            };
            if let Some(standing) = standing {
                plan.holds.push(telling::hold_of(standing));
                self.refusals.insert(standing.request.clone(), standing.clone());
            }
        }
    }

    fn pace(&self, plan: &Plan, seen: &Observation, eventful: bool) -> Duration {
        let ledger = self.books.ledger();
        let open = || ledger.undertakings.values().filter(|one| one.open());
        let waking = open().any(|one| matches!(one.purpose, Move::Wake(_)));
        let in_flight = ledger.in_flight().next().is_some();
        // A question that could not be answered is asked again at leisure.
        let grown_old = |question: &Question| match seen.answers.get(question) {
            Some(known) => known.answer.is_ok() && seen.turn_began.since(known.asked) > OLD_ANSWER,
            None => true,
        };
        let unanswered = self.questions.iter().any(grown_old);
        if eventful || waking || in_flight || unanswered {
            return LIVELY;
        }
        let on_its_way = |state: &HostState| match state {
            HostState::Waking | HostState::Leaving => true,
            HostState::Awake | HostState::Resting | HostState::Missing | HostState::Unknown => {
                false
            }
        };
        match open().next().is_some() || plan.states.values().any(on_its_way) {
            true => PATIENT,
            false => QUIET,
        }
    }

    /// For the picture alone, when the journal cannot be written.
    pub(super) fn only_looked(&self, seen: &Observation) -> Concluded {
        let plan = self
            .policy()
            .map(|policy| plan::plan(policy, seen, self.books.ledger(), self.site.now()));
        Concluded { plan: plan.unwrap_or_default(), asked: 0, pace: PATIENT }
    }
}

/// Leases that are over, and proofs that took too long.
fn lease_ends(policy: Option<&Policy>, ledger: &Ledger, now: Moment) -> Vec<Entry> {
    let mut entries = Vec::new();
    let backups = ledger.backups.runs(now.civil);
    for (host, lease) in &ledger.leases {
        let over = match (lease.until, lease.wants) {
            (Some(until), _) => (until <= now.civil).then(|| "its time is over".to_owned()),
            // A `down` without an end lasts until the next window opens.
            (None, Wants::Rest) => policy
                .and_then(|policy| policy.next_opening(host, lease.granted, &backups))
                .filter(|(_, opening)| opening.opens <= now.civil)
                .map(|(policy, _)| format!("policy {policy} opened its window")),
            (None, Wants::Awake) => None,
        };
        entries.extend(over.map(|why| Entry::LeaseEnded { host: host.clone(), why }));
    }
    for (host, since) in &ledger.proving {
        if *since + PROOF_WITHIN <= now.civil {
            let why = "it was not done within 3 hours".to_owned();
            entries.push(Entry::ProofEnded { host: host.clone(), why });
        }
    }
    entries
}

/// What was noticed, and the end of every proof that it completes.
pub(super) fn with_proofs(noticed: Vec<Entry>, ledger: &Ledger) -> Vec<Entry> {
    let mut ended: Vec<HostName> = Vec::new();
    for entry in &noticed {
        if let Entry::WakeProven { host, .. } = entry
            && ledger.proving.contains_key(host)
            && !ended.contains(host)
        {
            ended.push(host.clone());
        }
    }
    let why = "it slept, and woke by our packet".to_owned();
    let ends = ended.into_iter().map(|host| Entry::ProofEnded { host, why: why.clone() });
    noticed.into_iter().chain(ends).collect()
}

/// A proof rests on MACs and ways; when the policy names others it is void, whoever vouches.
fn changed_ways(policy: &Policy, ledger: &Ledger) -> Vec<Entry> {
    let changed = |(name, host): (&HostName, &crate::policy::Host)| {
        let record = ledger.hosts.get(name)?;
        let (host_name, print) = (name.clone(), host.wake_print());
        match &record.proof {
            Some(proof) if *proof == print => None,
            Some(_) => Some(Entry::WakeUnproven {
                host: host_name,
                why: "its MAC address or `wake:` changed since".into(),
            }),
            // Its owner's word holds for the ways of today, until a wake fails or they change.
            None if host.wake.proven && record.unproven_because.is_none() => {
                Some(Entry::WakeVouched { host: host_name, print })
            }
            None => None,
        }
    };
    policy.hosts().iter().filter_map(changed).collect()
}

/// The ends of undertakings, with what a failure means for the host.
fn endings(policy: &Policy, plan: &Plan, ledger: &Ledger) -> Vec<Entry> {
    let mut entries = Vec::new();
    for ending in &plan.endings {
        let Some(undertaking) = ledger.undertakings.get(&ending.id) else { continue };
        let because = ending.because.clone();
        let event = Event::Ended { stage: ending.stage, because: because.clone() };
        entries.push(Entry::Progress { id: ending.id, event });
        if ending.stage != Stage::Failed {
            continue;
        }
        let host = undertaking.purpose.host();
        match &undertaking.purpose {
            Move::Wake(_) => {
                let record = ledger.host(host);
                let attempts = record.failed_wakes.saturating_add(1);
                entries.push(Entry::WakeFailed { host: host.clone(), attempts });
                if policy.host(host).is_some_and(|settings| proven(settings, &record)) {
                    let why = format!("a wake failed: {because}");
                    entries.push(Entry::WakeUnproven { host: host.clone(), why });
                }
            }
            Move::Rest(_) => {}
            Move::Empty(_) | Move::Place(_, _) => continue,
        }
        if ledger.proving.contains_key(host) {
            let why = format!("it failed: {because}");
            entries.push(Entry::ProofEnded { host: host.clone(), why });
        }
    }
    entries
}
