//! Which of all planned migrations begin in this turn.
//!
//! Emptying and filling plan every migration they want; here, once, the whole plan's are held
//! against the limits of every host and put in the order that ends first. Emptying goes before
//! filling, filling by the policy's order of rules. What does not begin now is planned again in the
//! next turn.
//!
//! **Does not know:** why a guest moves.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::housing::{local_bytes, memory_of};
use super::placement::rule;
use super::schedule::{Link, Transfer, Yard};
use super::{Plan, Scene};
use crate::cluster::{HostName, Vmid};
use crate::ledger::learned::OVERHEAD_SECONDS;
use crate::request::{Migration, Move, Request};

/// A link nobody has measured: gigabit, as most homes have it.
const UNMEASURED_BYTES_PER_SECOND: u64 = 110 << 20;
/// The end of a migration is seen some seconds after it.
const SEEN_LATER: Duration = Duration::from_secs(4);
/// Of a transfer under way at least this part is taken to be left: nobody sees how far it is.
const LEFT_AT_LEAST: f64 = 0.05;

/// What a host can send and take, as far as it was learned.
pub fn link(scene: &Scene<'_>, host: &HostName) -> Link {
    let record = scene.ledger.hosts.get(host);
    let pace = record.and_then(|record| record.link_pace).unwrap_or(UNMEASURED_BYTES_PER_SECOND);
    let most = scene.policy.migrations().bandwidth.unwrap_or(u64::MAX);
    let at_once = scene.policy.migrations().per_host;
    Link { bytes_per_second: pace.min(most) as f64, at_once }
}

/// What a migration takes beside its bytes.
pub fn overhead() -> Duration {
    Duration::from_secs(OVERHEAD_SECONDS) + SEEN_LATER
}

/// Bytes that a migration carries, as far as they are known.
pub fn burden(scene: &Scene<'_>, guest: Vmid, how: Migration, local_disks: bool) -> u64 {
    let look = scene.seen.guests.get(&guest);
    let memory = match how {
        Migration::Live => look.and_then(|look| memory_of(scene, guest, look)).unwrap_or(0),
        // It is stopped, and only its disks travel.
        Migration::Restart | Migration::Offline => 0,
    };
    let disks: u64 = match local_disks {
        true => local_bytes(scene, guest).values().sum(),
        false => 0,
    };
    memory.saturating_add(disks)
}

/// Keeps of every planned move what begins now.
pub fn begin(scene: &Scene<'_>, plan: &mut Plan) {
    let planned = plan.moves.iter().flat_map(|planned| &planned.requests);
    let in_flight = scene.ledger.in_flight().map(|(_, _, asked)| &asked.request);
    let all = planned.chain(in_flight).filter(|request| migrates(request));
    let hosts: Vec<HostName> =
        all.flat_map(Request::hosts).collect::<BTreeSet<_>>().into_iter().cloned().collect();
    if hosts.is_empty() {
        return;
    }
    let numbers: BTreeMap<&HostName, usize> =
        hosts.iter().enumerate().map(|(number, host)| (host, number)).collect();
    let links: Vec<Link> = hosts.iter().map(|host| link(scene, host)).collect();
    let transfer = |request: &Request, class: u32| match request {
        Request::Migrate { guest, from, to, how, local_disks, .. } => Some(Transfer {
            from: numbers[from],
            to: numbers[to],
            bytes: burden(scene, *guest, *how, *local_disks) as f64,
            class,
        }),
        Request::Wake { .. }
        | Request::Hibernate { .. }
        | Request::ShutDownGuest { .. }
        | Request::StartGuest { .. }
        | Request::PowerOff { .. } => None,
    };
    let (mut waiting, mut where_from) = (Vec::new(), Vec::new());
    for (index, planned) in plan.moves.iter().enumerate() {
        let class = class(scene, &planned.purpose);
        for (at, request) in planned.requests.iter().enumerate() {
            if let Some(transfer) = transfer(request, class) {
                waiting.push(transfer);
                where_from.push((index, at));
            }
        }
    }
    let running: Vec<Transfer> = scene
        .ledger
        .in_flight()
        .filter_map(|(_, _, asked)| {
            let mut transfer = transfer(&asked.request, 0)?;
            let (from, to) = (links[transfer.from], links[transfer.to]);
            let since = scene.now.civil.duration_since(asked.asked).as_secs_f64().max(0.0);
            let pace = from.bytes_per_second.min(to.bytes_per_second);
            transfer.bytes = (transfer.bytes - since * pace).max(transfer.bytes * LEFT_AT_LEAST);
            Some(transfer)
        })
        .collect();
    let each = scene.bandwidth().map(|bytes| bytes as f64);
    let yard = Yard { links: &links, each, overhead: overhead() };
    let now: BTreeSet<(usize, usize)> =
        yard.begin(&waiting, &running).into_iter().map(|index| where_from[index]).collect();
    for (index, planned) in plan.moves.iter_mut().enumerate() {
        let mut at = 0;
        planned.requests.retain(|request| {
            at += 1;
            !migrates(request) || now.contains(&(index, at - 1))
        });
    }
}

fn migrates(request: &Request) -> bool {
    matches!(request, Request::Migrate { .. })
}

/// Emptying first, then the guests of the first rule, of the second …
fn class(scene: &Scene<'_>, purpose: &Move) -> u32 {
    match purpose {
        Move::Empty(_) | Move::Wake(_) | Move::Rest(_) => 0,
        Move::Place(guest, _) => {
            let rule = scene.seen.guests.get(guest).and_then(|look| rule(scene, *guest, look));
            let number = rule.map_or(usize::MAX, |rule| scene.policy.rule_number(rule));
            u32::try_from(number.saturating_add(1)).unwrap_or(u32::MAX)
        }
    }
}
