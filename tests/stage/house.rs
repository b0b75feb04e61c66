//! Plays what happens to a [`Home`]: the pretended world, the real client over it in memory, the real service with its
//! journal in a file, and a clock that leaps from one deadline to the next.
//!
//! The service may be stopped at any request and is then started anew on the same journal, as after
//! a crash. Everything asked of the world passes one door here, where it is counted.
//!
//! **Does not know:** what ought to happen.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::MutexGuard;
use std::time::Duration;

use jiff::Timestamp;
use spot::cluster::{Moment, Observation, Question};
use spot::gate::{Here, Mode};
use spot::journal::{Filter, Journal};
use spot::ledger::Wants;
use spot::policy::Policy;
use spot::pretend::{LeapClock, MemoryTransport, MemoryWaker, Shared, Tally, World};
use spot::pve::{Endpoint, Endpoints, Live};
use spot::request::{Answered, Request};
use spot::service::{Ask, Asking, Inbox, PolicyNews, Service, Settings, shown_entry};
use spot::site::{Call, Clock, Fault, Method, Reply, Site, Transport};
use spot::status::{HostShown, Status};
use tokio::sync::Notify;

use crate::log::{self, Line};

/// A service that is stopped at a request comes back after this long, as systemd starts it again.
const STARTED_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// So long before the end nothing may change any more: many quiet turns, and longer than anything
/// seen is kept, so that what is told again and again is found out.
const QUIET_AT_THE_END: Duration = Duration::from_secs(7 * 60);
/// Nothing played here needs more turns than this; one that does goes round in a circle.
const TURNS_AT_MOST: usize = 20_000;

/// What is played: a world, the policies its owner has, and what is asked of the service.
pub struct Home {
    pub name: String,
    pub world: World,
    /// By file name; `policy.yaml` is in force from the beginning.
    pub policies: BTreeMap<String, Result<Policy, String>>,
    pub mode: Mode,
    pub here: Here,
    pub lasts: Duration,
    /// In order.
    pub events: Vec<(Duration, Event)>,
    /// What befalls the world by its own script, for the log; where nobody wrote that down, the
    /// world's own story is told instead.
    pub befalls: Option<Vec<(Duration, String)>>,
}

/// What happens to the service from outside.
#[derive(Clone)]
pub enum Event {
    Asked {
        ask: Ask,
        by: String,
        confirmed: bool,
    },
    /// The service is stopped without warning and started again so much later.
    Down {
        lasting: Duration,
    },
    /// The owner pushes another policy.
    Policy {
        file: String,
    },
}

/// Where the service is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Before its intent was on disk.
    Unmeant,
    /// After that, and before it left.
    Unasked,
    /// After it left, and before its answer was on disk.
    Unanswered,
}

/// Which request, counted from the story's beginning, and where.
#[derive(Clone, Copy, Debug)]
pub struct Halt {
    pub request: usize,
    pub stop: Stop,
}

/// One request as it left the service.
#[derive(Clone, Debug)]
pub struct Asked {
    pub words: String,
    pub packets: bool,
    pub first_of_turn: bool,
}

/// What came of a story.
pub struct Played {
    name: String,
    pub turns: usize,
    /// The picture of the last turn.
    status: Option<Status>,
    journaled: Vec<Line>,
    befell: Vec<Line>,
    pub asked: Vec<Asked>,
    /// Every call that changes something, as it left for the API.
    pub posts: Vec<String>,
    /// How the world stands at the end: hosts, and where each guest runs.
    pub end: String,
    pub tally: Tally,
    /// What changed in the last turns, which should have changed nothing.
    unrest: Vec<String>,
    pub halted: bool,
}

impl Played {
    pub fn kept_its_promises(&self) -> Result<(), String> {
        let broken = &self.tally.promises_broken;
        if broken.is_empty() { Ok(()) } else { Err(format!("broken: {}", broken.join("; "))) }
    }

    pub fn came_to_rest(&self) -> Result<(), String> {
        if self.unrest.is_empty() {
            return Ok(());
        }
        Err(format!("the last turns still change something: {}", self.unrest.join("; ")))
    }

    /// What holds at the end: each sentence and its remedy.
    pub fn holds(&self) -> Vec<(String, String)> {
        let holds = self.status.iter().flat_map(|status| {
            let hosts = status.hosts.iter().flat_map(|host| &host.holds);
            status.holds.iter().chain(hosts)
        });
        holds.map(|hold| (hold.sentence.clone(), hold.remedy.clone())).collect()
    }

    /// What is wanted, not done, and without a word why.
    pub fn left_undone(&self) -> Vec<String> {
        let Some(status) = &self.status else { return Vec::new() };
        // A cluster that cannot be seen at all is told as such, once for all hosts.
        if status.holds.iter().any(|hold| hold.host.is_none() && hold.guest.is_none()) {
            return Vec::new();
        }
        let undone = status.hosts.iter().filter(|host| {
            let done = match host.desired {
                None => true,
                Some(Wants::Awake) => host.state == "awake",
                Some(Wants::Rest) => host.state == "resting" || host.state == "missing",
            };
            !done && host.holds.is_empty()
        });
        let tell = |host: &HostShown| format!("{} is {} without a word why", host.name, host.state);
        undone.map(tell).collect()
    }

    pub fn log(&self) -> String {
        let told = log::written(&self.befell, &self.journaled);
        let Tally { wakes, power_offs, migrations, restarts, hibernations, shutdowns, .. } =
            &self.tally;
        let lost = self.tally.guests_lost;
        let without = self.tally.seconds_without_quorum();
        format!(
            "{}\n{told}\n\
             the world saw: wakes {wakes}, power-offs {power_offs}, migrations {migrations}, \
             restarts {restarts}, hibernations {hibernations}, shutdowns {shutdowns}, \
             guests lost {lost}, seconds without quorum {without}, bad luck {}\n{}",
            self.name, self.tally.bad_luck, self.end
        )
    }
}

/// Plays `home` to its end, stopping the service once where `halt` says. A broken promise ends it
/// at once.
pub fn play(home: Home, halt: Option<Halt>) -> Played {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, async { House::new(home, halt).play().await })
}

/// What the door counts, and where it stops.
struct Count {
    halt: Option<Halt>,
    asked: RefCell<Vec<Asked>>,
    posts: RefCell<Vec<String>>,
    /// The first request of this turn has left.
    turn_asked: Cell<bool>,
    halted: Cell<bool>,
    /// The service is being stopped: nothing more leaves it.
    stopping: Cell<bool>,
    stopped: Notify,
}

/// A home without its world, which lives behind a lock.
struct Setting {
    name: String,
    policies: BTreeMap<String, Result<Policy, String>>,
    mode: Mode,
    here: Here,
    lasts: Duration,
    events: Vec<(Duration, Event)>,
    befalls: Option<Vec<(Duration, String)>>,
}

struct House {
    home: Setting,
    world: Shared,
    clock: LeapClock,
    start: Timestamp,
    count: Rc<Count>,
    journal: PathBuf,
    _folder: tempfile::TempDir,
    unrest: Vec<(Duration, String)>,
    turns: usize,
    status: Option<Status>,
}

/// Why one life of the service ended.
enum End {
    Over,
    /// It is started again at this time.
    Stopped(Duration),
}

impl House {
    fn new(home: Home, halt: Option<Halt>) -> House {
        let Home { name, world, policies, mode, here, lasts, events, befalls } = home;
        let home = Setting { name, policies, mode, here, lasts, events, befalls };
        let start = world.now();
        let clock = LeapClock::new(start);
        let world = world.share(&clock);
        let folder = tempfile::tempdir_in(memory_folder()).expect("a folder for the journal");
        let journal = folder.path().join("journal.sqlite");
        let count = Count {
            halt,
            asked: RefCell::default(),
            posts: RefCell::default(),
            turn_asked: Cell::new(false),
            halted: Cell::new(false),
            stopping: Cell::new(false),
            stopped: Notify::new(),
        };
        House {
            home,
            world,
            clock,
            start,
            count: Rc::new(count),
            journal,
            _folder: folder,
            unrest: Vec::new(),
            turns: 0,
            status: None,
        }
    }

    async fn play(mut self) -> Played {
        let mut policy = "policy.yaml".to_owned();
        let mut events = self.home.events.clone();
        events.reverse();
        while let End::Stopped(until) = self.live(&mut policy, &mut events).await {
            drop(self.clock.rest_until(until, self.clock.working()).await);
        }
        self.told()
    }

    /// One life of the service, from its start to its stop.
    async fn live(&mut self, policy: &mut String, events: &mut Vec<(Duration, Event)>) -> End {
        let books = Journal::open(&self.journal, "home", "test").expect("the journal opens");
        let settings =
            Settings { cluster: "home".into(), mode: self.home.mode, here: self.home.here.clone() };
        let mut service = Service::new(self.site(), books, settings);
        let mut inbox = Inbox { asks: Vec::new(), policy: Some(self.news(policy)) };
        for _ in 0..TURNS_AT_MOST {
            let now = self.clock.now().monotonic;
            while events.last().is_some_and(|(after, _)| *after <= now) {
                match events.pop().expect("it was just looked at").1 {
                    Event::Asked { ask, by, confirmed } => {
                        inbox.asks.push(Asking { ask, by, confirmed, answer: None });
                    }
                    Event::Policy { file } => {
                        *policy = file;
                        inbox.policy = Some(self.news(policy));
                    }
                    Event::Down { lasting } => return End::Stopped(now + lasting),
                }
            }
            self.count.turn_asked.set(false);
            let posts = self.count.posts.borrow().len();
            let report = tokio::select! {
                biased;
                () = self.count.stopped.notified() => None,
                report = service.turn(std::mem::take(&mut inbox)) => Some(report),
            };
            let Some(report) = report else {
                drop(service);
                self.count.stopping.set(false);
                self.lose_intents();
                return End::Stopped(self.clock.now().monotonic + STARTED_AGAIN_AFTER);
            };
            let changes = report.entries.iter().map(|kept| kept.entry.to_string());
            let asked = self.count.posts.borrow()[posts..].to_vec();
            self.unrest.extend(changes.chain(asked).map(|change| (now, change)));
            self.turns += 1;
            self.status = Some(report.status().clone());
            let broken = !self.world().tally().promises_broken.is_empty();
            if now >= self.home.lasts || broken {
                return End::Over;
            }
            let next = events.last().map_or(self.home.lasts, |(after, _)| *after);
            let at = report.revisit.monotonic.min(next.max(now)).min(self.home.lasts);
            let now = self.clock.now();
            service.site().wait_until(now.plus(at.saturating_sub(now.monotonic))).await;
        }
        panic!("{} goes round in a circle", self.home.name);
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("no test goes on after a panic")
    }

    fn site(&self) -> Door {
        let endpoints = {
            let world = self.world();
            let endpoint = |host: &spot::pretend::power::Host| {
                let endpoint = Endpoint { node: host.node.clone(), addressed: true, fixed: true };
                (host.name.clone(), endpoint)
            };
            Endpoints {
                hosts: world.hosts().map(endpoint).collect::<BTreeMap<_, _>>(),
                prefer: vec!["host1".into()],
                token: world.first_token().expect("a token").0.to_owned(),
            }
        };
        let transport = Counted {
            below: MemoryTransport::new(self.world.clone(), self.clock.clone()),
            count: self.count.clone(),
        };
        let waker = MemoryWaker::new(self.world.clone());
        let live = Live::new(transport, waker, self.clock.clone(), endpoints);
        Door { live, count: self.count.clone() }
    }

    fn news(&self, file: &str) -> PolicyNews {
        match self.home.policies.get(file).expect("the home has this policy") {
            Ok(policy) => {
                PolicyNews::Valid { policy: Box::new(policy.clone()), commit: file.into() }
            }
            Err(sentence) => PolicyNews::Refused { sentence: sentence.clone() },
        }
    }

    /// Stopped before the intents of a turn were on disk: takes them out again, as if they had never
    /// been written.
    fn lose_intents(&self) {
        if self.count.halt.is_none_or(|halt| halt.stop != Stop::Unmeant) {
            return;
        }
        let journal = rusqlite::Connection::open(&self.journal).expect("the journal opens");
        // The batch is the tail of begun undertakings and intents, all of one instant.
        let last_other = "SELECT coalesce(max(seq), 0) FROM entries WHERE NOT (
                kind = 'begun'
                OR (kind = 'progress' AND json_extract(entry, '$.event.event') = 'intended'))";
        let lost = journal
            .execute(&format!("DELETE FROM entries WHERE seq > ({last_other})"), [])
            .expect("rows can be deleted");
        assert!(lost > 0, "there was an intent at the journal's end");
    }

    fn told(self) -> Played {
        let journal = Journal::read_only(&self.journal).expect("the journal opens");
        let kept = journal.history(&Filter::default()).expect("the journal can be read");
        let journaled = kept.iter().map(|kept| {
            let shown = shown_entry(kept);
            Line::journaled(kept.monotonic, kept.at, &shown.who, &shown.sentence)
        });
        let world = self.world();
        let befell = match &self.home.befalls {
            Some(lines) => lines
                .iter()
                .map(|(after, what)| Line::befell(*after, self.start + *after, what))
                .collect(),
            None => {
                let told = world.story().iter().map(|told| {
                    let after = Duration::try_from(told.at.duration_since(self.start));
                    let after = after.unwrap_or_default();
                    Line::befell(after, told.at, &format!("{}: {}", told.who, told.what))
                });
                told.collect()
            }
        };
        let quiet_from = self.home.lasts.saturating_sub(QUIET_AT_THE_END);
        let unrest = self.unrest.iter().filter(|(at, _)| *at >= quiet_from);
        Played {
            name: self.home.name.clone(),
            turns: self.turns,
            status: self.status.clone(),
            journaled: journaled.collect(),
            befell,
            asked: self.count.asked.borrow().clone(),
            posts: self.count.posts.borrow().clone(),
            end: standing(&world),
            tally: world.tally(),
            unrest: unrest.map(|(_, change)| change.clone()).collect(),
            halted: self.count.halted.get(),
        }
    }
}

/// How the world stands, whatever anybody believes.
pub fn standing(world: &World) -> String {
    let mut text = String::new();
    for host in world.hosts() {
        let mut guests = Vec::new();
        for guest in world.guests().filter(|guest| guest.host == host.name) {
            let lock = guest.lock.as_ref().map(|lock| format!(" ({lock})")).unwrap_or_default();
            guests.push(format!("{} {}{lock}", guest.vmid, guest.run.word()));
        }
        let phase = format!("{:?}", host.phase).to_lowercase();
        text += &format!("{} is {phase}: {}\n", host.name, guests.join(", "));
    }
    text
}

/// The journal of a test need not outlive the machine: in memory a commit costs next to nothing.
fn memory_folder() -> PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() }
}

/// The world's door: counts what is asked, and stops there when told to.
struct Door {
    live: Live<Counted, MemoryWaker, LeapClock>,
    count: Rc<Count>,
}

impl Door {
    /// The service has been stopped: nothing more happens in it.
    async fn stop(&self) -> ! {
        self.count.halted.set(true);
        self.count.stopping.set(true);
        self.count.stopped.notify_one();
        std::future::pending().await
    }
}

impl Site for Door {
    fn now(&self) -> Moment {
        self.live.now()
    }

    async fn wait_until(&self, at: Moment) {
        self.live.wait_until(at).await;
    }

    async fn observe(&mut self, questions: &[Question]) -> Observation {
        self.live.observe(questions).await
    }

    async fn perform(&self, request: &Request) -> Answered {
        if self.count.stopping.get() {
            return std::future::pending().await;
        }
        let here = {
            let mut asked = self.count.asked.borrow_mut();
            let packets = matches!(request, Request::Wake { .. });
            let first_of_turn = !self.count.turn_asked.replace(true);
            asked.push(Asked { words: request.to_string(), packets, first_of_turn });
            self.count.halt.filter(|halt| halt.request == asked.len() - 1)
        };
        match here.map(|halt| halt.stop) {
            None => self.live.perform(request).await,
            Some(Stop::Unmeant | Stop::Unasked) => self.stop().await,
            Some(Stop::Unanswered) => {
                self.live.perform(request).await;
                self.stop().await
            }
        }
    }
}

/// Notes every call that changes something.
#[derive(Clone)]
struct Counted {
    below: MemoryTransport<LeapClock>,
    count: Rc<Count>,
}

impl Transport for Counted {
    async fn send(&self, call: Call) -> Result<Reply, Fault> {
        if call.method != Method::Get {
            let params: Vec<String> =
                call.params.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let method = call.method.as_str();
            let post = format!("{method} {} {}", call.path, params.join(" "));
            self.count.posts.borrow_mut().push(post);
        }
        self.below.send(call).await
    }
}
