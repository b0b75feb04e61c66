//! How planning grows with the cluster: from a home of 3 hosts and 10 guests to PVE's limit of 32
//! hosts with 10,000 guests.
//!
//! Two times each: the plan alone, which is `spot`'s own thinking, and a whole turn with client,
//! journal and status over the pretended cluster, whose own work is in it; and the most memory the
//! process ever held until then, pretended cluster included. Ends standard output with one line of
//! JSON, with the exponent by which the plan's time grows with the number of guests at 32 hosts: 1
//! is linear. Times are measured here and asserted nowhere; the exponent is.
//!
//! **Does not know:** what a turn does.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use spot::gate::{Here, Mode};
use spot::journal::Journal;
use spot::ledger::Ledger;
use spot::plan;
use spot::policy::Policy;
use spot::policy::text::{self, PolicyFile};
use spot::pretend::{LeapClock, MemoryTransport, MemoryWaker, World};
use spot::pve::{Endpoint, Endpoints, Live};
use spot::service::{Inbox, PolicyNews, Service, Settings};
use spot::site::{Clock, Site};

/// Turns measured, after the first few in which everything is new.
const TURNS: usize = 30;
const FIRST: usize = 5;

type Over = Live<MemoryTransport<LeapClock>, MemoryWaker, LeapClock>;

/// The most hosts of a cluster, at which growth with the guests is measured.
const MOST_HOSTS: usize = 32;
/// Growth with the guests may be this steep, in what one noisy machine can tell from linear.
const EXPONENT_AT_MOST: f64 = 1.25;

/// Hosts and guests, the small ones first: the peak of memory only grows.
const POINTS: [(usize, usize); 6] =
    [(3, 10), (8, 200), (32, 1_250), (32, 2_500), (32, 5_000), (32, 10_000)];

fn main() {
    let mut points = Vec::new();
    let mut growth: Vec<(f64, f64)> = Vec::new();
    for (hosts, guests) in POINTS {
        let (point, plan_seconds) = measure(hosts, guests);
        if hosts == MOST_HOSTS {
            growth.push(((guests as f64).ln(), plan_seconds.ln()));
        }
        points.push(point);
    }
    let exponent = slope(&growth);
    let shown = (exponent * 1e3).round() / 1e3;
    println!("{}", serde_json::json!({ "points": points, "exponent": shown }));
    if exponent > EXPONENT_AT_MOST {
        eprintln!("the plan's time grows faster than the guests: exponent {shown}");
        std::process::exit(1);
    }
}

/// The slope of the straight line nearest to the points (least squares).
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let middle = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (middle(|point| point.0), middle(|point| point.1));
    let along: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    along / points.iter().map(|point| (point.0 - x).powi(2)).sum::<f64>()
}

/// The most memory this process ever held, as Linux counts it.
fn peak_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some((kib / 102.4).round() / 10.0)
}

fn measure(hosts: usize, guests: usize) -> (serde_json::Value, f64) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let local = tokio::task::LocalSet::new();
    let (plans, turns) = local.block_on(&runtime, turns(hosts, guests));
    let figure = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
    let least = plans.iter().min().copied().unwrap_or_default();
    let (plan, turn) = (figure(median(plans)), figure(median(turns)));
    eprintln!("{hosts} hosts, {guests} guests: plan {plan} ms, turn {turn} ms");
    let point = serde_json::json!({
        "hosts": hosts,
        "guests": guests,
        "plan_ms": plan,
        "turn_ms": turn,
        "peak_mib": peak_mib(),
    });
    // Of growth the least times tell most: whatever else the machine does only adds.
    (point, least.as_secs_f64())
}

async fn turns(hosts: usize, guests: usize) -> (Vec<Duration>, Vec<Duration>) {
    let world = World::read(&world(hosts, guests)).expect("a sound world");
    let clock = LeapClock::new(world.now());
    let endpoint = |host: &spot::pretend::power::Host| {
        (host.name.clone(), Endpoint { node: host.node.clone(), addressed: true, fixed: true })
    };
    let endpoints = Endpoints {
        hosts: world.hosts().map(endpoint).collect::<BTreeMap<_, _>>(),
        prefer: vec!["host1".into()],
        token: spot::pretend::rights::DEFAULT_TOKEN.into(),
    };
    let world = world.share(&clock);
    let transport = MemoryTransport::new(world.clone(), clock.clone());
    let live: Over =
        Live::new(transport, MemoryWaker::new(world), clock.clone(), endpoints.clone());
    let policy = policy(hosts);
    let books = Journal::in_memory("bench", "bench").expect("a journal in memory");
    let settings =
        Settings { cluster: "bench".into(), mode: Mode::Act, here: Here::Host("host1".into()) };
    let mut service = Service::new(live, books, settings);
    let news = PolicyNews::Valid { policy: Box::new(policy.clone()), commit: "bench".into() };
    let mut inbox = Inbox { asks: Vec::new(), policy: Some(news) };
    let (mut plans, mut turns) = (Vec::new(), Vec::new());
    for _ in 0..FIRST + TURNS {
        let began = now();
        let report = service.turn(std::mem::take(&mut inbox)).await;
        turns.push(began.elapsed());
        service.site().wait_until(report.revisit).await;
    }
    let (mut live, books) = service.dismantle();
    let ledger: Ledger = books.ledger().clone();
    let seen = live.observe(&[]).await;
    assert_eq!(seen.guests.len(), guests, "every guest is seen");
    for _ in 0..TURNS {
        let began = now();
        let plan = plan::plan(&policy, &seen, &ledger, clock.now());
        plans.push(began.elapsed());
        drop(plan);
    }
    (plans, turns.split_off(FIRST))
}

#[expect(clippy::disallowed_methods, reason = "it measures how much time really passes")]
fn now() -> Instant {
    Instant::now()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn world(hosts: usize, guests: usize) -> String {
    let mut text = "hosts:\n".to_owned();
    for host in 1..=hosts {
        let low = if host == 1 { ", always_on: true, votes: 40" } else { "" };
        let mac = format!("a8:a1:59:00:00:{host:02x}");
        let _written =
            writeln!(text, "  - {{ name: host{host}, mac: \"{mac}\", memory_gib: 4096{low} }}");
    }
    text += "storages: [{ name: shared, shared: true }]\nguests:\n";
    for guest in 0..guests {
        let (vmid, host) = (100 + guest, 1 + guest % hosts);
        let kind = if guest % 4 == 0 { "ct" } else { "vm" };
        let _written = writeln!(
            text,
            "  - {{ vmid: {vmid}, kind: {kind}, name: guest{vmid}, host: host{host}, memory_mib: 512, \
             tags: [t{}], disks: [{{ storage: shared }}] }}",
            guest % 7
        );
    }
    text
}

/// Every host but the first in a window, every guest under a rule.
fn policy(hosts: usize) -> Policy {
    let mut text = "timezone: Europe/Berlin\nhosts:\n  host1: { tier: low }\n".to_owned();
    for host in 2..=hosts {
        let mac = format!("a8:a1:59:00:00:{host:02x}");
        let _written = writeln!(
            text,
            "  host{host}: {{ tier: medium, mac: \"{mac}\", wake: {{ proven: true }} }}"
        );
    }
    text += "guests:\n  - { match: { tag: t1 }, prefer: [host2, host1] }\n\
             \x20 - { match: { type: ct }, prefer: [host1], restart: true }\n\
             \x20 - { match: { any: true }, prefer: [host1] }\n\
             policies:\n  - { name: working-days, hosts: [";
    text += &(2..=hosts).map(|host| format!("host{host}")).collect::<Vec<_>>().join(", ");
    text += "], run: [{ from: \"0 5 * * Mon-Fri\", for: 14h }] }\n";
    let reading = text::read(&[PolicyFile { name: "bench.yaml".into(), text }]);
    reading.policy.unwrap_or_else(|| panic!("a sound policy: {:?}", reading.faults))
}
