//! How long one turn takes, for a home of 3 hosts and 10 guests and for a cluster at PVE's limit of
//! 32 hosts with 10,000 guests.
//!
//! Two figures each: the plan alone, which is `spot`'s own thinking, and a whole turn with client,
//! journal and status over the pretended cluster, whose own work is in it. Ends standard output with
//! one line of JSON. Times are measured here and asserted nowhere; built as the tests are, which
//! optimises little, they are upper bounds.
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

fn main() {
    let cases: Vec<serde_json::Value> =
        [(3, 10), (32, 10_000)].map(|(hosts, guests)| measure(hosts, guests)).into();
    println!("{}", serde_json::json!({ "bench": "turn", "cases": cases }));
}

fn measure(hosts: usize, guests: usize) -> serde_json::Value {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let local = tokio::task::LocalSet::new();
    let (plans, turns) = local.block_on(&runtime, turns(hosts, guests));
    let figure = |times: Vec<Duration>| (median(times).as_secs_f64() * 1e6).round() / 1e3;
    let (plan, turn) = (figure(plans), figure(turns));
    eprintln!("{hosts} hosts, {guests} guests: plan {plan} ms, turn {turn} ms");
    serde_json::json!({
        "hosts": hosts,
        "guests": guests,
        "plan_milliseconds": plan,
        "turn_milliseconds": turn,
    })
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
