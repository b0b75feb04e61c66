//! The live [`Site`]: a cluster seen and asked through PVE's API, and woken by magic packets.
//!
//! A turn never waits long for the world. Looks and questions run as jobs beside it; each writes
//! what it found, stamped with when its asking began, on a board. [`Live::observe`] starts what is
//! asked, waits at most 5 s for what is quick and copies the board; what is late is a gap now and
//! stands in a later observation. A report (6 to 11 s) is always gathered that way.
//!
//! The quiet look asks *one* host, the first that answers, so that it costs 3 requests whatever the
//! cluster's size. What must be seen on a host itself (its guests, its quorum, its readiness) is
//! asked at that host's own address and never through another, because PVE forwards with a time
//! limit and answers from caches.
//!
//! Jobs run on the caller's thread (`spawn_local`): run a [`Live`] inside a
//! `tokio::task::LocalSet`. On a clock that leaps, the site's owner counts as at work except while
//! it waits inside one of the site's methods; the site holds the [`Working`] for it, so the owner
//! needs none.
//!
//! **Does not know:** policies, plans, the gate, the ledger.

pub mod client;
pub mod evidence;
pub mod tasks;
pub mod tls;
pub mod wire;

mod asking;
mod lanes;
mod look;
mod probe;
mod relay;
mod survey;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::cluster::{Gap, GuestKind, HostName, Moment, Observation, Question, Stamped, Vmid};
use crate::request::{Answered, Migration, Request};
use crate::site::{Clock, Site, Transport, Waker, Working};

use asking::Asking;
use client::Client;
use lanes::Lanes;
use look::Look;
pub use probe::{Shown, shown};
pub use survey::{
    Card, ClusterFound, JobFound, NodeFound, Reported, Survey, WakeProperty, cards_behind,
};
pub use tls::{Access, Door, Fingerprint, Secret, TlsTransport, Trust};

/// How long one observation may take.
const OBSERVE_LIMIT: Duration = Duration::from_secs(5);
/// Answers older than this are of no use to anybody.
const FORGET_AFTER: Duration = Duration::from_secs(600);
/// A guest's configuration changes seldom, and what is said ahead of it costs no request: what was
/// once read is kept until it is read anew, a day at most.
const GUESTS_KEPT: Duration = Duration::from_secs(24 * 3600);

/// How the cluster can be reached, host by host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints {
    pub hosts: BTreeMap<HostName, Endpoint>,
    /// Whom the quiet look asks first; hosts left out come after, by name.
    pub prefer: Vec<HostName>,
    /// `user@realm!name`: who we are in PVE's eyes.
    pub token: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// PVE's own name of the host.
    pub node: String,
    /// `spot.yaml` names an address for it.
    pub addressed: bool,
    /// `spot.yaml` names the node itself, which outranks the policies.
    pub fixed: bool,
}

impl Endpoints {
    /// The owner's name of a node; a node that nobody named is called as PVE calls it.
    pub fn host(&self, node: &str) -> HostName {
        let named = self.hosts.iter().find(|(_, endpoint)| endpoint.node == node);
        named.map_or_else(|| HostName::from(node), |(host, _)| host.clone())
    }

    pub fn node<'a>(&'a self, host: &'a HostName) -> &'a str {
        self.hosts.get(host).map_or(host.as_str(), |endpoint| &endpoint.node)
    }

    /// With the policies' hosts and PVE's names of them: these outlive no policy, but what
    /// `spot.yaml` itself says stays.
    pub fn renamed(&self, nodes: &BTreeMap<HostName, String>) -> Endpoints {
        let mut hosts: BTreeMap<HostName, Endpoint> = self
            .hosts
            .iter()
            .filter(|(_, endpoint)| endpoint.addressed)
            .map(|(host, endpoint)| {
                let own = if endpoint.fixed { &endpoint.node } else { &host.0 };
                (host.clone(), Endpoint { node: own.clone(), ..endpoint.clone() })
            })
            .collect();
        for (host, node) in nodes {
            let fresh = Endpoint { node: node.clone(), addressed: false, fixed: false };
            let endpoint = hosts.entry(host.clone()).or_insert(fresh);
            if !endpoint.fixed {
                endpoint.node.clone_from(node);
            }
        }
        Endpoints { hosts, ..self.clone() }
    }

    pub fn addressed(&self, host: &HostName) -> bool {
        self.hosts.get(host).is_some_and(|endpoint| endpoint.addressed)
    }

    /// Everybody with an address, the preferred first.
    fn in_order(&self) -> Vec<HostName> {
        let mut order: Vec<HostName> = Vec::new();
        for host in self.prefer.iter().chain(self.hosts.keys()) {
            if self.addressed(host) && !order.contains(host) {
                order.push(host.clone());
            }
        }
        order
    }

    /// Whom to ask about `host` when an answer by forwarding is good enough.
    fn door(&self, host: &HostName) -> HostName {
        if self.addressed(host) {
            return host.clone();
        }
        self.in_order().into_iter().next().unwrap_or_else(|| host.clone())
    }
}

/// The real world, or anything that speaks PVE's API.
pub struct Live<T, W, C> {
    core: Rc<Core<T, C>>,
    waker: W,
    clock: C,
    /// The owner's guard; away only while the owner rests here.
    turn: RefCell<Option<Working>>,
    /// Aborted when the site is dropped.
    jobs: JoinSet<()>,
}

/// What the jobs share.
struct Core<T, C> {
    client: Client<T>,
    clock: C,
    endpoints: RefCell<Rc<Endpoints>>,
    lanes: RefCell<Lanes>,
    board: RefCell<Board>,
}

impl<T, C> Core<T, C> {
    /// How hosts are reached now; a policy may give them other names of PVE's at any turn.
    fn endpoints(&self) -> Rc<Endpoints> {
        self.endpoints.borrow().clone()
    }
}

/// What the jobs found.
#[derive(Default)]
struct Board {
    answers: BTreeMap<Question, Stamped>,
    /// Counts the renamings of hosts: what a job found under older names is nobody's.
    names: u64,
    /// Questions that a job is at work on.
    pending: BTreeSet<Question>,
    looking: bool,
    look: Option<Look>,
    /// Told of every job's end while somebody observes, with the job's guard, so that time cannot
    /// leap between the end and its reader.
    listener: Option<mpsc::UnboundedSender<Working>>,
    /// Hosts that did not answer the quiet look: not asked before this (monotonic).
    avoid: BTreeMap<HostName, Duration>,
    /// From the last look that saw them: who is in corosync.conf, who is a member.
    listed: Option<BTreeSet<String>>,
    online: BTreeSet<HostName>,
    /// From the last look that saw them: where the guests are, which storages are shared.
    guests: BTreeMap<Vmid, (HostName, GuestKind)>,
    shared: BTreeSet<String>,
}

impl Board {
    /// A job ended: whoever observes hears of it.
    fn tell(&self, working: Working) {
        if let Some(listener) = &self.listener {
            // A listener that is gone drops the guard, which is right.
            let _ = listener.send(working);
        }
    }
}

impl<T: Transport, W: Waker, C: Clock> Live<T, W, C> {
    pub fn new(transport: T, waker: W, clock: C, endpoints: Endpoints) -> Live<T, W, C> {
        let core = Core {
            client: Client::new(transport, endpoints.token.clone()),
            clock: clock.clone(),
            endpoints: RefCell::new(Rc::new(endpoints)),
            lanes: RefCell::default(),
            board: RefCell::default(),
        };
        let turn = RefCell::new(Some(clock.working()));
        Live { core: Rc::new(core), waker, clock, turn, jobs: JoinSet::new() }
    }

    fn begin_look(&mut self) {
        {
            let mut board = self.core.board.borrow_mut();
            if board.looking {
                return;
            }
            board.looking = true;
            board.look = None;
        }
        let core = self.core.clone();
        let working = self.clock.working();
        // Now, and not when the job first runs: on a real clock that is later than the questions of
        // the same turn, and their answers would never count as this turn's.
        let began = self.clock.now();
        let names = core.board.borrow().names;
        self.jobs.spawn_local(async move {
            let mut asking = Asking::new(&core, working);
            let look = look::look(&mut asking, began).await;
            let working = asking.end();
            let mut board = core.board.borrow_mut();
            board.looking = false;
            if board.names == names {
                look.remember(&mut board, &core.endpoints());
                board.look = Some(look);
            }
            board.tell(working);
        });
    }

    /// Starts a job for `question`, unless one is at work on it.
    fn begin_asking(&mut self, question: &Question) {
        if !self.core.board.borrow_mut().pending.insert(question.clone()) {
            return;
        }
        let core = self.core.clone();
        let question = question.clone();
        let working = self.clock.working();
        let asked = self.clock.now();
        let names = core.board.borrow().names;
        self.jobs.spawn_local(async move {
            let mut asking = Asking::new(&core, working);
            let answer = asking.answer(&question).await;
            let working = asking.end();
            let mut board = core.board.borrow_mut();
            board.pending.remove(&question);
            if board.names == names {
                board.answers.insert(question, Stamped { asked, answer });
            }
            board.tell(working);
        });
    }

    /// Ended jobs; one that panicked is our own mistake and stops us.
    fn reap(&mut self) {
        while let Some(ended) = self.jobs.try_join_next() {
            if let Err(why) = ended
                && let Ok(panic) = why.try_into_panic()
            {
                std::panic::resume_unwind(panic);
            }
        }
    }

    /// The board as an observation. `late` are the quick questions that were not answered in time.
    fn picture(&self, began: Moment, late: &[&Question]) -> Observation {
        let board = self.core.board.borrow();
        let mut seen = match &board.look {
            Some(look) => look.picture(&self.core.endpoints(), &board),
            None => {
                let late = Look::late(began, OBSERVE_LIMIT);
                late.picture(&self.core.endpoints(), &board)
            }
        };
        seen.turn_began = began;
        seen.clock = self.clock.state();
        seen.answers = board.answers.clone();
        for question in late {
            let seconds = OBSERVE_LIMIT.as_secs();
            let why = format!("no answer within {seconds} s");
            seen.gaps.push(Gap { what: asking::name(question), why });
        }
        seen
    }
}

/// Awaited within the observation that asks it; the others come with a later one.
fn quick(question: &Question) -> bool {
    match question {
        Question::Evidence(_) => false,
        // Ceph's own commands take seconds each.
        Question::Ceph(_) => false,
        Question::LiveGuests(_)
        | Question::Membership(_)
        | Question::Device(_)
        | Question::Readiness(_)
        | Question::Permissions
        | Question::ConfiguredVotes
        | Question::BackupJobs
        | Question::WakeAddress(_)
        | Question::Guest(_)
        | Question::Replications
        | Question::HaStatus
        | Question::Storages
        | Question::Check { .. }
        | Question::Task(_)
        | Question::Tasks { .. } => true,
    }
}

/// Needs the look's places of guests.
fn after_look(question: &Question) -> bool {
    matches!(question, Question::Guest(_) | Question::Replications)
}

impl<T: Transport, W: Waker, C: Clock> Site for Live<T, W, C> {
    fn now(&self) -> Moment {
        self.clock.now()
    }

    async fn wait_until(&self, at: Moment) {
        Resting::until(at.monotonic, &self.turn, &self.clock).await;
    }

    fn name_nodes(&mut self, nodes: &BTreeMap<HostName, String>) {
        let renamed = self.core.endpoints().renamed(nodes);
        if *self.core.endpoints() == renamed {
            return;
        }
        *self.core.endpoints.borrow_mut() = Rc::new(renamed);
        // What was found under other names is nobody's now.
        let mut board = self.core.board.borrow_mut();
        board.names += 1;
        board.look = None;
        board.answers.clear();
        board.listed = None;
        board.online.clear();
        board.guests.clear();
    }

    async fn observe(&mut self, questions: &[Question]) -> Observation {
        self.reap();
        let began = self.clock.now();
        let deadline = began.monotonic + OBSERVE_LIMIT;
        let (listener, mut ends) = mpsc::unbounded_channel();
        {
            let mut board = self.core.board.borrow_mut();
            board.listener = Some(listener);
            let guests: BTreeSet<Vmid> = board.guests.keys().copied().collect();
            board.answers.retain(|question, stamped| {
                // Rights change by their owner's hand alone; whoever judges by them looks at
                // their age.
                if *question == Question::Permissions {
                    return true;
                }
                let kept = match (question, &stamped.answer) {
                    (Question::Guest(vmid), Ok(_)) if guests.contains(vmid) => GUESTS_KEPT,
                    (_, Ok(_) | Err(_)) => FORGET_AFTER,
                };
                began.since(stamped.asked) <= kept
            });
        }
        self.begin_look();
        for question in questions.iter().filter(|question| !after_look(question)) {
            self.begin_asking(question);
        }
        let mut looked = false;
        loop {
            if !looked && !self.core.board.borrow().looking {
                looked = true;
                for question in questions.iter().filter(|question| after_look(question)) {
                    self.begin_asking(question);
                }
            }
            let waits = {
                let board = self.core.board.borrow();
                board.looking || questions.iter().any(|q| quick(q) && board.pending.contains(q))
            };
            if !waits {
                break;
            }
            tokio::select! {
                biased;
                // The ended job's guard is dropped here, when the owner's is back.
                _ended = ends.recv() => {}
                () = Resting::until(deadline, &self.turn, &self.clock) => break,
            }
        }
        self.core.board.borrow_mut().listener = None;
        let late: Vec<&Question> = {
            let board = self.core.board.borrow();
            let open = |q: &&Question| {
                quick(q) && (board.pending.contains(q) || (after_look(q) && !looked))
            };
            questions.iter().filter(open).collect()
        };
        self.picture(began, &late)
    }

    async fn perform(&self, request: &Request) -> Answered {
        match request {
            Request::Wake { host, ways } => self.wake(host, ways).await,
            Request::Migrate { .. }
            | Request::Hibernate { .. }
            | Request::ShutDownGuest { .. }
            | Request::StartGuest { .. }
            | Request::PowerOff { .. } => match self.core.endpoints().spelled(request) {
                Ok((to, path, params)) => self.core.client.post(&to, path, params).await,
                Err(sentence) => Answered::Refused { sentence },
            },
        }
    }
}

/// The owner's rest: gives up its guard, and takes one again however the rest ends.
struct Resting<'a, C: Clock> {
    turn: &'a RefCell<Option<Working>>,
    clock: &'a C,
    sleep: Pin<Box<dyn Future<Output = Working> + 'a>>,
}

impl<'a, C: Clock> Resting<'a, C> {
    fn until(at: Duration, turn: &'a RefCell<Option<Working>>, clock: &'a C) -> Resting<'a, C> {
        let working = turn.borrow_mut().take().unwrap_or_else(|| clock.working());
        Resting { turn, clock, sleep: Box::pin(clock.rest_until(at, working)) }
    }
}

impl<C: Clock> Future for Resting<'_, C> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let rested = self.sleep.as_mut().poll(context);
        rested.map(|working| *self.turn.borrow_mut() = Some(working))
    }
}

impl<C: Clock> Drop for Resting<'_, C> {
    /// Before the sleep itself goes, or time could leap in between.
    fn drop(&mut self) {
        self.turn.borrow_mut().get_or_insert_with(|| self.clock.working());
    }
}

type Spelled = (HostName, String, Vec<(String, String)>);

impl Endpoints {
    /// A request in PVE's words: whom to ask, the path, the form.
    fn spelled(&self, request: &Request) -> Result<Spelled, String> {
        let form = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<Vec<_>>()
        };
        let path_of = |host: &HostName, kind: GuestKind, guest: Vmid, verb: &str| {
            let kind = api_name(kind);
            Ok::<_, String>(format!("/nodes/{}/{kind}/{guest}/{verb}", self.plain_node(host)?))
        };
        match request {
            Request::Wake { host, .. } => Err(format!("packets to {host} are no call of the API")),
            Request::Migrate { guest, kind, from, to, how, local_disks, bandwidth } => {
                let mut params = form(&[("target", self.plain_node(to)?)]);
                match (kind, how) {
                    (GuestKind::Vm, Migration::Live) => {
                        params.extend(form(&[("online", "1")]));
                        if *local_disks {
                            params.extend(form(&[("with-local-disks", "1")]));
                        }
                    }
                    (GuestKind::Ct, Migration::Restart) => params.extend(form(&[("restart", "1")])),
                    (GuestKind::Vm | GuestKind::Ct, Migration::Offline) => {}
                    (GuestKind::Ct, Migration::Live) => {
                        return Err(format!("container {guest} cannot migrate live in PVE"));
                    }
                    (GuestKind::Vm, Migration::Restart) => {
                        return Err(format!("PVE has no migration by restart for vm {guest}"));
                    }
                }
                if let Some(bytes) = bandwidth {
                    // PVE counts in KiB, and 0 would be no limit at all.
                    params.extend(form(&[("bwlimit", &(bytes / 1024).max(1).to_string())]));
                }
                Ok((self.door(from), path_of(from, *kind, *guest, "migrate")?, params))
            }
            Request::Hibernate { guest, host } => {
                let path = path_of(host, GuestKind::Vm, *guest, "status/suspend")?;
                Ok((self.door(host), path, form(&[("todisk", "1")])))
            }
            Request::ShutDownGuest { guest, kind, host, timeout_seconds } => {
                let path = path_of(host, *kind, *guest, "status/shutdown")?;
                Ok((self.door(host), path, form(&[("timeout", &timeout_seconds.to_string())])))
            }
            Request::StartGuest { guest, kind, host } => {
                Ok((self.door(host), path_of(host, *kind, *guest, "status/start")?, Vec::new()))
            }
            Request::PowerOff { host } => {
                if !self.addressed(host) {
                    return Err(format!(
                        "spot.yaml names no address for {host}, and a power-off is asked only of the \
                         host itself; add its URL under `hosts`"
                    ));
                }
                let path = format!("/nodes/{}/status", self.plain_node(host)?);
                Ok((host.clone(), path, form(&[("command", "shutdown")])))
            }
        }
    }

    /// The node's name for a path. `localhost` is whoever is asked, so it names nobody; anything
    /// but PVE's own characters could lead elsewhere.
    fn plain_node<'a>(&'a self, host: &'a HostName) -> Result<&'a str, String> {
        let node = self.node(host);
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        if node.is_empty() || !node.bytes().all(plain) || node.eq_ignore_ascii_case("localhost") {
            return Err(format!("`{node}` is no node's name that spot will send requests to"));
        }
        Ok(node)
    }
}

/// PVE's word for a kind of guest, in paths.
fn api_name(kind: GuestKind) -> &'static str {
    match kind {
        GuestKind::Vm => "qemu",
        GuestKind::Ct => "lxc",
    }
}

#[cfg(test)]
mod tests;
