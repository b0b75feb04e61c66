//! `spot demo`: the unchanged service on a pretended cluster, told line by line.
//!
//! Nothing here is staged but the world and what one person asks of it: the service is the one that
//! `spot run` runs, it talks TLS to a server on loopback and wakes hosts by real magic packets, and
//! the world counts by its own truth what became of it. Time leaps, so a day takes seconds. It
//! cannot reach the owner's network: packets go to the pretended listener and nowhere else.
//!
//! **Does not know:** how the cluster or the service works.

mod story;
mod summary;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use jiff::civil::Time;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::{Notify, mpsc, oneshot};

use super::paper::Sheet;
use super::{DemoArgs, Exit, check, pretend};
use crate::cluster::{HostName, Tier};
use crate::gate::{Here, Mode};
use crate::journal::Journal;
use crate::policy::Policy;
use crate::policy::text::{self, PolicyFile};

use crate::pretend::{LeapClock, Scripted, Serving, Shared, World, serve, storm};
use crate::pve::{
    Access, Door, Endpoint, Endpoints, Fingerprint, Live, Secret, TlsTransport, Trust,
};
use crate::service::{Ask, Asking, Doors, PolicyNews, Service, Settings};
use crate::site::{Clock, Working};
use crate::wake::Sockets;
use story::Story;
use summary::Summary;

/// Played without `--policies` and `--world`: the reference home on a working day.
const POLICIES: &str = include_str!("../../policies/homelab.yaml");
const WORLD: &str = include_str!("demo/world.yaml");
/// Any port of this machine.
const LOOPBACK: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);
/// The person of the story asks at this time of the first day …
const ASKS_AT: Time = Time::constant(10, 15, 0, 0);
/// … for this long.
const ASKS_FOR: Duration = Duration::from_secs(150 * 60);
/// A guest that spot's token may not see comes to that host so long before the lease ends …
const HIDES_BEFORE: SignedDuration = SignedDuration::from_mins(10);
/// … and its owner shows it so long after.
const SHOWS_AFTER: SignedDuration = SignedDuration::from_mins(60);
const HIDDEN_GUEST: u32 = 299;
const ASKED_BY: &str = "anna";

pub async fn demo(args: &DemoArgs) -> anyhow::Result<Exit> {
    let policy = policy(args.policies.as_deref())?;
    let mut world = world(args.world.as_deref())?;
    let cast = Cast::of(&policy, &world);
    let scenes = cast.scenes(&world)?;
    world.set_out(scenes);
    if let Some(seed) = args.seed {
        world.set_out(storm(seed, &pretend::weather(&world, args.days)));
    }
    let cluster = world.cluster().to_owned();
    let start = world.start();
    let end = Duration::from_secs(u64::from(args.days) * 24 * 3600);

    let clock = LeapClock::among_sockets(start);
    // Until the service runs, time stands still.
    let setting_up = clock.working();
    let _leaping = tokio::task::spawn_local(clock.clone().leap_when_quiet());
    let world = world.share(&clock);
    let log = args.requests.as_deref().map(pretend::log).transpose()?;
    let serving = serve(world.clone(), LOOPBACK, LOOPBACK, clock.clone(), log)
        .await
        .map_err(anyhow::Error::msg)?;
    let site = site(&policy, &serving, clock.clone())?;
    let books = Journal::in_memory(&cluster, "spot demo").map_err(super::look::faulty)?;
    let settings = Settings { cluster, mode: Mode::Act, here: cast.here.clone() };
    let service = Service::new(site, books, settings);

    let sheet = Sheet::stdout(start).in_zone(cast.zone.clone());
    let broken = Arc::new(Notify::new());
    let story = Story::new(sheet.clone(), args.json, world.clone(), broken.clone());
    story.begin(args.days, &policy)?;
    let telling = tokio::task::spawn_local(story.tell(service.entries().subscribe()));

    let (mailbox, asks) = mpsc::channel(4);
    let (news, policies) = mpsc::channel(1);
    let commit = if args.policies.is_some() { "policies" } else { "homelab" }.to_owned();
    news.send(PolicyNews::Valid { policy: Box::new(policy), commit }).await?;
    let (over, ended) = oneshot::channel();
    let acts = cast.acts(start);
    let directing = tokio::task::spawn_local(direct(clock, acts, mailbox, end, over, setting_up));
    let stop = async {
        tokio::select! {
            _ = ended => {}
            () = broken.notified() => {}
        }
    };
    let (_site, _books) = service.run(Doors { asks, policies }, stop).await;
    directing.abort();
    let refusals = telling.await??;
    let tally = world.lock().expect("no code panics while it holds the world").tally();
    let summary = Summary::of(&tally, refusals);
    summary.print(&sheet, args.json, args.days)?;
    Ok(if summary.kept() { Exit::Yes } else { Exit::No })
}

fn policy(named: Option<&Path>) -> anyhow::Result<Policy> {
    if let Some(path) = named {
        return check::valid(path);
    }
    let file = PolicyFile { name: "homelab.yaml".into(), text: POLICIES.into() };
    text::read(&[file]).policy.context("the built-in policies are not valid")
}

fn world(named: Option<&Path>) -> anyhow::Result<World> {
    let text = match named {
        Some(path) => pretend::text(path)?,
        None => WORLD.to_owned(),
    };
    World::read(&text).map_err(anyhow::Error::msg)
}

/// Who plays: read from the policies, so that any home can be watched.
struct Cast {
    /// The host somebody asks for, and when.
    wanted: Option<(HostName, Timestamp)>,
    here: Here,
    zone: TimeZone,
}

impl Cast {
    fn of(policy: &Policy, world: &World) -> Cast {
        let known = |host: &&HostName| world.host(host).is_some();
        let of_tier = |tier: Tier| {
            let hosts = policy.hosts().iter().filter(move |(_, host)| host.tier == tier);
            hosts.map(|(name, _)| name).find(known).cloned()
        };
        let zone = policy.rules().iter().flat_map(|rule| &rule.run).map(|one| one.zone().clone());
        let zone = zone.min_by_key(|zone| zone.iana_name().map(str::to_owned));
        let zone = zone.unwrap_or(TimeZone::UTC);
        let day = world.start().to_zoned(zone.clone()).date();
        let asks_at = day.to_datetime(ASKS_AT).to_zoned(zone.clone()).ok();
        let host = of_tier(Tier::High).or_else(|| of_tier(Tier::Medium));
        Cast {
            wanted: host.zip(asks_at.map(|at| at.timestamp())),
            here: of_tier(Tier::Low).map_or(Here::Outside, Here::Host),
            zone,
        }
    }

    /// What befalls the world, so that the gate has something to refuse: just before the lease ends
    /// somebody starts a guest there which spot's token may not see.
    fn scenes(&self, world: &World) -> anyhow::Result<Vec<Scripted>> {
        let Some((host, asks_at)) = &self.wanted else { return Ok(Vec::new()) };
        let taken = |vmid: &u32| world.guest(crate::cluster::Vmid(*vmid)).is_some();
        let vmid = (HIDDEN_GUEST..).find(|vmid| !taken(vmid)).context("every number is taken")?;
        let ends = *asks_at + ASKS_FOR;
        let guest = serde_json::json!({
            "vmid": vmid, "kind": "vm", "name": "private", "host": host, "memory_mib": 2048,
            "hidden": true,
        });
        let lines = serde_json::json!([
            {"at": ends - HIDES_BEFORE, "create_guest": guest},
            {"at": ends + SHOWS_AFTER, "show": vmid},
        ]);
        Ok(serde_json::from_value(lines)?)
    }

    /// What is asked, by the time since the start.
    fn acts(&self, start: Timestamp) -> Vec<(Duration, Ask)> {
        let Some((host, asks_at)) = &self.wanted else { return Vec::new() };
        let Ok(after) = Duration::try_from(asks_at.duration_since(start)) else {
            return Vec::new();
        };
        let up = Ask::Up {
            hosts: vec![host.clone()],
            guest: None,
            until: None,
            for_seconds: Some(ASKS_FOR.as_secs()),
            because: Some("rendering".into()),
        };
        vec![(after, up)]
    }
}

/// Asks what is asked in its time, and ends the day.
async fn direct(
    clock: LeapClock,
    acts: Vec<(Duration, Ask)>,
    mailbox: mpsc::Sender<Asking>,
    end: Duration,
    over: oneshot::Sender<()>,
    mut working: Working,
) {
    for (at, ask) in acts {
        working = clock.rest_until(at, working).await;
        let by = ASKED_BY.to_owned();
        // The answer is in the journal, which is what is told.
        let asking = Asking { ask, by, confirmed: true, answer: None };
        if mailbox.send(asking).await.is_err() {
            return;
        }
    }
    let working = clock.rest_until(end, working).await;
    // Nobody listens any more: then it has ended already.
    let _ = over.send(());
    drop(working);
}

/// The site as `spot run` builds it, from what the server says of itself.
fn site(
    policy: &Policy,
    serving: &Serving,
    clock: LeapClock,
) -> anyhow::Result<Live<TlsTransport, Sockets, LeapClock>> {
    let (token, secret) = serving.token.clone();
    let mut doors = BTreeMap::new();
    let mut hosts = BTreeMap::new();
    for (name, url) in &serving.urls {
        let pin = serving.fingerprints.get(name).context("every host has a certificate")?;
        let pin: Fingerprint = pin.parse().map_err(anyhow::Error::msg)?;
        let trust = Trust::Pins(vec![pin]);
        doors.insert(name.clone(), Door { url: url.clone(), trust });
        let node = policy.host(name).map_or_else(|| name.to_string(), |host| host.node.clone());
        hosts.insert(name.clone(), Endpoint { node, addressed: true, fixed: true });
    }
    let prefer = hosts.keys().cloned().collect();
    let access = Access { doors, token: token.clone(), secret: Secret::new(secret) };
    let transport = TlsTransport::new(&access).map_err(anyhow::Error::msg)?;
    let waker = Sockets::new(vec![serving.magic], |name| {
        Err(format!("a demo has no credential called {name}"))
    });
    Ok(Live::new(transport, waker, clock, Endpoints { hosts, prefer, token }))
}

/// The world as the story needs it.
fn happenings(world: &Shared) -> Vec<crate::pretend::Happening> {
    world.lock().expect("no code panics while it holds the world").story().to_vec()
}
