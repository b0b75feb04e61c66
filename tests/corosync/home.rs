//! The unchanged service in a home whose hosts are real corosync daemons.
//!
//! It runs in the network of the always-on host: it speaks TLS to the pretended servers there, and
//! its magic packets leave by that host's card like any other's. A sleeping host's card has no
//! address; a raw socket listens on it as a firmware does, and what it hears starts the daemons. The
//! clock is real time: corosync knows no other.
//!
//! A service that sees corosync.conf for the first time powers nothing off for ten minutes. So the
//! journal begins with an earlier life, twenty minutes before by its own clock, that looked once and
//! ended.
//!
//! **Does not know:** what ought to happen in a home.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike};
use spot::cluster::HostName;
use spot::gate::{Here, Mode};
use spot::journal::Journal;
use spot::policy::Policy;
use spot::policy::text::{self, PolicyFile};
use spot::pretend::{
    Event, Log, Phase, RequestLine, ScaledClock, Scripted, Serving, Shared, World, serve,
};
use spot::pve::{
    Access, Door, Endpoint, Endpoints, Fingerprint, Live, Secret, TlsTransport, Trust,
};
use spot::service::{Ask, Asking, Doors, Inbox, PolicyNews, Service, Settings};
use spot::site::Clock;
use spot::status::{EntryShown, Picture};
use spot::wake::Sockets;
use tokio::sync::{mpsc, oneshot, watch};

use crate::cluster::{Cluster, Device};
use crate::daemons::Daemons;
use crate::lab::{Lab, SERVER, SERVER_NUMBER, until};

/// Where `spot` lives.
const HERE: &str = "host1";
/// The earlier life of the service was so long ago: longer than a changed corosync.conf is waited
/// for.
const EARLIER: SignedDuration = SignedDuration::from_mins(20);
/// Boots, drains, reports and stops of a home take seconds; this is for a machine that is busy.
const LIMIT: Duration = Duration::from_secs(180);
/// A card's firmware looks up from its socket so often, to see whether the test is over.
const FIRMWARE_LOOKS_UP: i64 = 200;
/// The largest frame there is on these cards.
const FRAME_BYTES: usize = 2_048;
const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// What a home is made of.
pub struct Plan {
    pub votes: &'static [u32],
    pub device: Option<Device>,
    pub policy: &'static str,
    /// Switched on by hand before the service looks; with them there is a quorum.
    pub on: &'static [&'static str],
}

pub struct Home {
    pub daemons: Daemons,
    pub world: Shared,
    /// What was asked of the servers: `GET /nodes/host2/report`.
    asked: Arc<Mutex<Vec<String>>>,
    told: Arc<Mutex<Vec<EntryShown>>>,
    pictures: watch::Receiver<Arc<Picture>>,
    asks: mpsc::Sender<Asking>,
    stop: Option<oneshot::Sender<()>>,
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    _lab: Lab,
}

/// What the service hands out once it runs.
type Handed = (Arc<Mutex<Vec<EntryShown>>>, watch::Receiver<Arc<Picture>>, mpsc::Sender<Asking>);

impl Home {
    /// Those who are `on` are up, everybody else sleeps; the service runs.
    pub fn open(plan: &Plan) -> Result<Home, String> {
        let cluster = cluster(plan);
        let lab = Lab::open()?;
        for (name, number) in cluster.names().iter().zip(1..) {
            lab.add(name, number, Some(&mac(number)))?;
        }
        if cluster.device.is_some() {
            lab.add(SERVER, SERVER_NUMBER, None)?;
            lab.start_server()?;
        }
        let daemons = Daemons::over(lab.handle(), &cluster);
        let world = World::read(&world(&cluster))?.over(Box::new(daemons.clone()));
        let world: Shared = Arc::new(Mutex::new(world));
        for host in plan.on {
            befall(&world, Event::Press((*host).into()));
        }
        let over = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for name in cluster.names() {
            threads.push(firmware(&lab, &name, world.clone(), over.clone())?);
        }
        let (hand, handed) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let network = lab.network(HERE)?;
        let asked = Arc::new(Mutex::new(Vec::new()));
        let service = Living {
            asked: asked.clone(),
            world: world.clone(),
            policy: policy(plan.policy)?,
            over: over.clone(),
        };
        threads.push(std::thread::spawn(move || {
            setns(network, CloneFlags::CLONE_NEWNET).expect("root may visit a network");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("a runtime");
            tokio::task::LocalSet::new().block_on(&runtime, service.live(hand, stopped));
        }));
        let (told, pictures, asks): Handed =
            handed.recv_timeout(LIMIT).map_err(|_| "the service did not begin".to_owned())?;
        let stop = Some(stop);
        Ok(Home { daemons, world, asked, told, pictures, asks, stop, over, threads, _lab: lab })
    }

    pub fn befall(&self, event: Event) {
        befall(&self.world, event);
    }

    /// Somebody asks, and the service takes it.
    pub fn ask(&self, ask: Ask) {
        let asking = Asking { ask, by: "anna".into(), confirmed: true, answer: None };
        self.asks.blocking_send(asking).expect("the service listens");
    }

    pub fn up(&self, hosts: &[&str]) {
        let hosts = hosts.iter().map(|host| HostName::from(*host)).collect();
        let for_seconds = Some(3_600);
        self.ask(Ask::Up { hosts, guest: None, until: None, for_seconds, because: None });
    }

    pub fn down(&self, hosts: &[&str]) {
        let hosts = hosts.iter().map(|host| HostName::from(*host)).collect();
        self.ask(Ask::Down { hosts, until: None, for_seconds: Some(3_600) });
    }

    /// Waits for it, or says what was told so far.
    pub fn wait(&self, what: &str, done: impl FnMut() -> bool) -> Result<(), String> {
        if until(LIMIT, done) {
            return Ok(());
        }
        let gaps = self.pictures.borrow().status.gaps.join("; ");
        Err(format!("in {LIMIT:?} it did not happen that {what} (gaps: {gaps})\n{}", self.story()))
    }

    pub fn phase(&self, host: &str) -> Phase {
        let world = self.world.lock().expect("no code panics while it holds the world");
        world.host(&host.into()).expect("a host of the home").phase
    }

    /// Its API answers and it is quorate among `members`.
    pub fn is_up(&self, host: &str, members: usize) -> bool {
        self.phase(host) == Phase::Up && self.daemons.company(host) == Some(members)
    }

    /// How often this was asked of the servers: `GET /nodes/host2/report`.
    pub fn times_asked(&self, request: &str) -> usize {
        let asked = self.asked.lock().expect("nobody panics while noting");
        asked.iter().filter(|asked| *asked == request).count()
    }

    /// Whether anything the service told contains these words.
    pub fn was_told(&self, words: &str) -> bool {
        let told = self.told.lock().expect("nobody panics while telling");
        told.iter().any(|entry| entry.sentence.contains(words))
    }

    /// What holds `host`, in the sentences of the service.
    pub fn holds(&self, host: &str) -> Vec<String> {
        let picture = self.pictures.borrow();
        let shown = picture.status.hosts.iter().find(|shown| shown.name.as_str() == host);
        let holds = shown.into_iter().flat_map(|shown| &shown.holds);
        holds.map(|hold| format!("{}: {}", hold.code, hold.sentence)).collect()
    }

    /// What `spot` and the world told, in order.
    pub fn story(&self) -> String {
        let told = self.told.lock().expect("nobody panics while telling");
        let mut lines: Vec<(Timestamp, String)> = told
            .iter()
            .map(|one| (one.at, format!("spot: {}: {}", one.who, one.sentence)))
            .collect();
        let world = self.world.lock().expect("no code panics while it holds the world");
        lines
            .extend(world.story().iter().map(|one| (one.at, format!("{}: {}", one.who, one.what))));
        lines.sort_by_key(|(at, _)| *at);
        let lines =
            lines.iter().map(|(at, line)| format!("{} {line}\n", at.strftime("%H:%M:%S%.3f")));
        lines.collect()
    }

    /// No promise was broken, by the world's own truth.
    pub fn kept_its_promises(&self) -> Result<(), String> {
        let broken = {
            let world = self.world.lock().expect("no code panics while it holds the world");
            world.tally().promises_broken
        };
        if broken.is_empty() { Ok(()) } else { Err(format!("{broken:?}\n{}", self.story())) }
    }

    /// Nobody who was quorate ever showed anything else.
    pub fn stayed_quorate(&self) -> Result<(), String> {
        self.kept_its_promises()?;
        let (lost, looks) = self.daemons.lost();
        if lost.is_empty() && looks > 0 {
            return Ok(());
        }
        Err(format!(
            "Quorate: No was seen in {looks} looks on {}\n{}",
            lost.join("; "),
            self.story()
        ))
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        drop(self.stop.take());
        for thread in self.threads.drain(..) {
            // A panic in there has been printed already.
            let _ = thread.join();
        }
    }
}

/// Lets it befall the world at once.
fn befall(world: &Shared, event: Event) {
    let mut world = world.lock().expect("no code panics while it holds the world");
    world.set_out(vec![Scripted::after(Duration::ZERO, event)]);
}

fn mac(number: u32) -> String {
    format!("a8:a1:59:00:00:{number:02x}")
}

fn cluster(plan: &Plan) -> Cluster {
    let nodes = plan.votes.iter().zip(1..).map(|(votes, at)| (format!("host{at}"), *votes));
    Cluster {
        nodes: nodes.collect(),
        quorum: BTreeMap::new(),
        device: plan.device.clone(),
        config_version: 1,
    }
}

/// The world of these hosts, all off, and quick.
fn world(cluster: &Cluster) -> String {
    let host = |((name, votes), number): (&(String, u32), u32)| {
        serde_json::json!({
            "name": name, "votes": votes, "mac": mac(number), "state": "off",
            "address": crate::lab::ring_address(number), "always_on": name == HERE,
            "boot_seconds": 5, "api_seconds": 2, "shutdown_seconds": 14, "report_seconds": 2,
        })
    };
    let hosts: Vec<serde_json::Value> = cluster.nodes.iter().zip(1..).map(host).collect();
    let mut world = serde_json::json!({
        "cluster": "lab", "start": "2026-01-05T12:00:00Z", "config_version": 1, "hosts": hosts,
        "storages": [{ "name": "nas", "shared": true, "kind": "nfs" }],
        "guests": [{
            "vmid": 201, "kind": "vm", "name": "desktop", "host": HERE, "memory_mib": 256,
            "disks": [{ "storage": "nas" }],
        }],
    });
    if let Some(device) = &cluster.device {
        world["qdevice"] = serde_json::json!({
            "algorithm": device.algorithm, "votes": device.votes,
            "server": crate::lab::backstage_address(SERVER_NUMBER),
        });
    }
    world.to_string()
}

fn policy(text: &str) -> Result<Policy, String> {
    let reading = text::read(&[PolicyFile { name: "home.yaml".into(), text: text.to_owned() }]);
    let faults = reading.faults.iter().map(|fault| format!("{}: {}", fault.line, fault.message));
    reading.policy.ok_or_else(|| faults.collect::<Vec<_>>().join("; "))
}

/// Listens on a card as its firmware does, and hands every frame to the machine it belongs to.
fn firmware(
    lab: &Lab,
    name: &str,
    world: Shared,
    over: Arc<AtomicBool>,
) -> Result<JoinHandle<()>, String> {
    let network = lab.network(name)?;
    Ok(std::thread::spawn(move || {
        setns(network, CloneFlags::CLONE_NEWNET).expect("root may visit a network");
        let card = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::EthAll,
        )
        .expect("root may listen on a card");
        setsockopt(&card, ReceiveTimeout, &TimeVal::milliseconds(FIRMWARE_LOOKS_UP))
            .expect("a socket can be given patience");
        let mut frame = [0; FRAME_BYTES];
        while !over.load(Ordering::Relaxed) {
            // Nothing within its patience, or a card that is just being set up.
            let heard = recv(card.as_raw_fd(), &mut frame, MsgFlags::empty());
            let Ok(bytes) = heard else { continue };
            // Much of what passes is corosync's own; only a magic packet is worth the world's time.
            if frame[..bytes].windows(6).any(|window| window == [0xff; 6]) {
                let mut world = world.lock().expect("no code panics while it holds the world");
                world.magic_packet(&frame[..bytes]);
            }
        }
    }))
}

/// The service and the servers it speaks to, in the network of its host.
struct Living {
    world: Shared,
    asked: Arc<Mutex<Vec<String>>>,
    policy: Policy,
    over: Arc<AtomicBool>,
}

impl Living {
    async fn live(self, hand: std::sync::mpsc::Sender<Handed>, stopped: oneshot::Receiver<()>) {
        let start = self.world.lock().expect("no code panics while it holds the world").start();
        let clock = ScaledClock::new(start, 1.0).expect("real time");
        let asked = self.asked.clone();
        let log: Log = Arc::new(move |line: &RequestLine| {
            let request = format!("{} {}", line.method, line.path);
            asked.lock().expect("nobody panics while noting").push(request);
        });
        let serving = serve(self.world.clone(), LOOPBACK, LOOPBACK, clock, Some(log)).await;
        let serving = serving.expect("loopback is up");
        self.host_answers(&clock).await;
        let folder = tempfile::tempdir().expect("a folder for the journal");
        let journal = folder.path().join("journal.sqlite");
        let earlier = ScaledClock::new(start - EARLIER, 1.0).expect("real time");
        self.service(&serving, earlier, &journal).turn(Inbox::default()).await;

        let service = self.service(&serving, clock, &journal);
        let (asks, mailbox) = mpsc::channel(8);
        let (news, policies) = mpsc::channel(1);
        let policy = Box::new(self.policy.clone());
        news.send(PolicyNews::Valid { policy, commit: "home".into() }).await.expect("it listens");
        let told = Arc::new(Mutex::new(Vec::new()));
        let (mut entries, telling) = (service.entries().subscribe(), told.clone());
        tokio::task::spawn_local(async move {
            while let Ok(entry) = entries.recv().await {
                telling.lock().expect("nobody panics while telling").push(entry);
            }
        });
        let _ = hand.send((told, service.pictures(), asks));
        let stop = async {
            // Dropped counts as rung.
            let _ = stopped.await;
        };
        service.run(Doors { asks: mailbox, policies }, stop).await;
    }

    async fn host_answers(&self, clock: &ScaledClock) {
        let answers = || {
            let world = self.world.lock().expect("no code panics while it holds the world");
            let up = |host: &spot::pretend::power::Host| host.phase == Phase::Up;
            world.quorate(&HERE.into()) && world.host(&HERE.into()).is_some_and(up)
        };
        while !answers() && !self.over.load(Ordering::Relaxed) {
            let soon = clock.now().monotonic + Duration::from_millis(100);
            drop(clock.rest_until(soon, clock.working()).await);
        }
    }

    fn service(
        &self,
        serving: &Serving,
        clock: ScaledClock,
        journal: &Path,
    ) -> Service<Live<TlsTransport, Sockets, ScaledClock>> {
        let (token, secret) = serving.token.clone();
        let mut doors = BTreeMap::new();
        let mut hosts = BTreeMap::new();
        for (name, url) in &serving.urls {
            let pin: Fingerprint = serving.fingerprints[name].parse().expect("a fingerprint");
            let trust = Trust::Pins(vec![pin]);
            doors.insert(name.clone(), Door { url: url.clone(), trust });
            hosts.insert(
                name.clone(),
                Endpoint { node: name.0.clone(), addressed: true, fixed: true },
            );
        }
        let access = Access { doors, token: token.clone(), secret: Secret::new(secret) };
        let transport = TlsTransport::new(&access).expect("TLS can be set up");
        // By every card there is, as at home.
        let waker = Sockets::new(Vec::new(), |name| Err(format!("no credential {name}")));
        let endpoints = Endpoints { hosts, prefer: vec![HERE.into()], token };
        let site = Live::new(transport, waker, clock, endpoints);
        // A process that another thread just began holds the earlier life's lock until its exec.
        let mut books = Err("not opened yet".to_owned());
        until(LIMIT, || {
            books = Journal::open(journal, "lab", "test").map_err(|fault| fault.to_string());
            books.is_ok()
        });
        let books = books.expect("the journal opens");
        let here = Here::Host(HERE.into());
        Service::new(site, books, Settings { cluster: "lab".into(), mode: Mode::Act, here })
    }
}
