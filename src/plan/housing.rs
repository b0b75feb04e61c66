//! Guests and hosts as tenants and rooms: what a host can still take, what a guest needs, and the
//! assignment of a whole set of them.
//!
//! Nobody moves before everybody of the set has a place. What is promised to a host earlier in the
//! turn, and what arrived so lately that the host's own figure cannot show it yet, is taken.
//!
//! **Does not know:** why these guests need a place, what happens to those who find none.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use super::Scene;
use super::assignment::{Choice, Missing, Place, Room, Shortfall, Tenant, assign};
use super::placement::rule;
use crate::cluster::{Answer, GuestSeen, HostName, Question, Vmid};
use crate::policy::Reserve;
use crate::request::Request;

/// Of a reserve given in percent, at least this is kept free on a target.
const LEAST_RESERVE_BYTES: u64 = 1 << 30;
/// A host's own figures are broadcast every 10 s: a guest that arrived shows in the next but one.
const SHOWN_WITHIN: Duration = Duration::from_secs(25);
/// Being put away is liked less than any host.
const AWAY_RANK: u32 = 1_000;

/// What is promised to targets and not yet in their own figures.
#[derive(Clone, Default)]
pub struct Promised {
    memory: BTreeMap<HostName, u64>,
    disks: BTreeMap<(HostName, String), u64>,
}

impl Promised {
    /// What is on its way already, or has just arrived.
    pub fn in_flight(scene: &Scene<'_>) -> Promised {
        let mut promised = Promised::default();
        for (_, _, asked) in scene.ledger.in_flight() {
            let (guest, target, disks) = match &asked.request {
                Request::Migrate { guest, to, local_disks, .. } => (guest, to, *local_disks),
                Request::StartGuest { guest, host, .. } => (guest, host, false),
                Request::Wake { .. }
                | Request::Hibernate { .. }
                | Request::ShutDownGuest { .. }
                | Request::PowerOff { .. } => continue,
            };
            let Some(look) = scene.seen.guests.get(guest) else { continue };
            promised.take(target, memory_of(scene, *guest, look).unwrap_or(0));
            if disks {
                promised.take_disks(target, &local_bytes(scene, *guest));
            }
        }
        for (guest, record) in &scene.ledger.guests {
            let Some(placed) = &record.placed else { continue };
            let look = scene.seen.guests.get(guest).filter(|look| look.host == placed.to);
            if let Some(look) = look
                && scene.now.civil < placed.at + SHOWN_WITHIN
            {
                promised.take(&placed.to, memory_of(scene, *guest, look).unwrap_or(0));
            }
        }
        promised
    }

    fn take(&mut self, host: &HostName, bytes: u64) {
        let taken = self.memory.entry(host.clone()).or_default();
        *taken = taken.saturating_add(bytes);
    }

    fn take_disks(&mut self, host: &HostName, disks: &BTreeMap<String, u64>) {
        for (storage, bytes) in disks {
            let taken = self.disks.entry((host.clone(), storage.clone())).or_default();
            *taken = taken.saturating_add(*bytes);
        }
    }
}

/// A guest's memory, as PVE says it or last said it.
pub fn memory_of(scene: &Scene<'_>, vmid: Vmid, guest: &GuestSeen) -> Option<u64> {
    let remembered = || scene.ledger.guests.get(&vmid).and_then(|record| record.memory_bytes);
    guest.memory_bytes.or_else(remembered)
}

/// Bytes of its local disks by storage, as far as they were told.
pub fn local_bytes(scene: &Scene<'_>, vmid: Vmid) -> BTreeMap<String, u64> {
    let stamped = scene.seen.answers.get(&Question::Guest(vmid));
    match stamped.map(|stamped| &stamped.answer) {
        Some(Ok(Answer::Guest(facts))) => facts.local_bytes.clone(),
        Some(Ok(_) | Err(_)) | None => BTreeMap::new(),
    }
}

/// What a host can still take, or why that is not known.
fn room(scene: &Scene<'_>, promised: &Promised, host: &HostName) -> Result<Room, String> {
    let look = scene.seen.hosts.get(host);
    let Some(memory) = look.and_then(|look| look.memory) else {
        return Err(format!("the memory of {host} is not known yet"));
    };
    let reserve = match scene.policy.host(host).map(|host| host.reserve) {
        Some(Reserve::Bytes(bytes)) => bytes,
        Some(Reserve::Percent(percent)) => {
            (memory.total_bytes / 100 * u64::from(percent)).max(LEAST_RESERVE_BYTES)
        }
        None => LEAST_RESERVE_BYTES,
    };
    let taken = promised.memory.get(host).copied().unwrap_or(0);
    let free = memory.total_bytes.saturating_sub(reserve).saturating_sub(memory.used_bytes);
    let here = scene.seen.storages.iter().filter(|storage| storage.host == *host);
    let storages = here.filter(|storage| storage.available).map(|storage| {
        let taken = promised.disks.get(&(host.clone(), storage.name.clone())).copied();
        // What is not told is not held against it: PVE looks again before it copies.
        let free = storage.free_bytes.unwrap_or(u64::MAX);
        (storage.name.clone(), free.saturating_sub(taken.unwrap_or(0)))
    });
    let cpu = look.and_then(|look| look.cpu);
    Ok(Room {
        free_bytes: free.saturating_sub(taken),
        // Unknown processors strain nobody.
        free_millicores: cpu.map_or(u64::MAX / 4, |cpu| {
            (u64::from(cpu.cores) * 1000).saturating_sub(cpu.used_millicores)
        }),
        storages: storages.collect(),
    })
}

/// A guest that looks for a place.
pub struct Seeker<'a> {
    pub vmid: Vmid,
    pub guest: &'a GuestSeen,
    /// Hosts that may take it, with how far down its list of preferences they are.
    pub hosts: Vec<(HostName, u32)>,
    /// It may stay where it is, and how far down the list that is.
    pub stays: Option<u32>,
    /// It may be put away instead.
    pub away: bool,
    /// Its local disks go along.
    pub local_disks: bool,
    pub apart: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Housed {
    At(HostName),
    Stays,
    Away,
}

/// Why one of them has no place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Homeless {
    /// A figure is missing: it may fit yet.
    Unknown(String),
    /// Nobody can take it beside the others.
    NoRoom(String),
}

impl fmt::Display for Homeless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Homeless::Unknown(why) | Homeless::NoRoom(why) => f.write_str(why),
        }
    }
}

/// A place for each of them, in their order, with everything promised; or, by number, who has none
/// and why.
pub fn house(
    scene: &Scene<'_>,
    promised: &mut Promised,
    seekers: &[Seeker<'_>],
) -> Result<Vec<Housed>, Vec<(usize, Homeless)>> {
    let wanted = seekers
        .iter()
        .flat_map(|seeker| seeker.hosts.iter().map(|(host, _)| host).chain([&seeker.guest.host]));
    let names: Vec<HostName> =
        wanted.collect::<BTreeSet<&HostName>>().into_iter().cloned().collect();
    let known: Vec<Result<Room, String>> =
        names.iter().map(|host| room(scene, promised, host)).collect();
    let taken = companions(scene, seekers);
    let mut homeless = Vec::new();
    let mut tenants = Vec::new();
    for (index, seeker) in seekers.iter().enumerate() {
        match tenant(scene, seeker, &names, &known, &taken) {
            Ok(tenant) => tenants.push(tenant),
            Err(why) => homeless.push((index, why)),
        }
    }
    if !homeless.is_empty() {
        return Err(homeless);
    }
    let rooms: Vec<Room> = known.into_iter().map(Result::unwrap_or_default).collect();
    let places = assign(&rooms, &tenants)
        .map_err(|short| sentences(scene, &short, seekers, &tenants, &names))?;
    let mut housed = Vec::new();
    for ((place, tenant), seeker) in places.into_iter().zip(&tenants).zip(seekers) {
        housed.push(match place {
            Place::Stay(_) => Housed::Stays,
            Place::Away => Housed::Away,
            Place::Room(room) => {
                promised.take(&names[room], tenant.memory_bytes);
                promised.take_disks(&names[room], &tenant.disks);
                debug_assert!(seeker.hosts.iter().any(|(host, _)| *host == names[room]));
                Housed::At(names[room].clone())
            }
        });
    }
    Ok(housed)
}

fn tenant(
    scene: &Scene<'_>,
    seeker: &Seeker<'_>,
    names: &[HostName],
    known: &[Result<Room, String>],
    taken: &BTreeMap<String, BTreeSet<HostName>>,
) -> Result<Tenant, Homeless> {
    let Some(memory_bytes) = memory_of(scene, seeker.vmid, seeker.guest) else {
        return Err(Homeless::Unknown("its memory is not known".into()));
    };
    let number = |host: &HostName| names.binary_search(host).expect("every host was collected");
    let mut choices = Vec::new();
    let (mut unknown, mut apart) = (None, None);
    for (host, rank) in &seeker.hosts {
        let others = seeker.apart.as_ref().and_then(|name| Some((name, taken.get(name)?)));
        if let Some((name, _)) = others.filter(|(_, hosts)| hosts.contains(host)) {
            apart = Some(format!("another guest of `apart: {name}` runs on {host}"));
            continue;
        }
        match &known[number(host)] {
            Ok(_) => choices.push(Choice { place: Place::Room(number(host)), rank: *rank }),
            Err(why) => unknown = Some(why.clone()),
        }
    }
    if let Some(rank) = seeker.stays {
        choices.push(Choice { place: Place::Stay(number(&seeker.guest.host)), rank });
    }
    if seeker.away {
        choices.push(Choice { place: Place::Away, rank: AWAY_RANK });
    }
    match (choices.is_empty(), unknown, apart) {
        (true, Some(why), _) => return Err(Homeless::Unknown(why)),
        (true, None, Some(why)) => return Err(Homeless::NoRoom(why)),
        (true, None, None) | (false, _, _) => {}
    }
    let disks = if seeker.local_disks { local_bytes(scene, seeker.vmid) } else { BTreeMap::new() };
    Ok(Tenant {
        memory_bytes,
        millicores: seeker.guest.cpu.map_or(0, |cpu| cpu.used_millicores),
        disks,
        apart: seeker.apart.clone(),
        choices,
    })
}

/// Hosts on which another guest of a group runs, or is about to; the seekers themselves aside.
fn companions(scene: &Scene<'_>, seekers: &[Seeker<'_>]) -> BTreeMap<String, BTreeSet<HostName>> {
    let mut taken: BTreeMap<String, BTreeSet<HostName>> = BTreeMap::new();
    if seekers.iter().all(|seeker| seeker.apart.is_none()) {
        return taken;
    }
    let seeking: BTreeSet<Vmid> = seekers.iter().map(|seeker| seeker.vmid).collect();
    let bound: BTreeMap<Vmid, &HostName> = scene
        .ledger
        .in_flight()
        .filter_map(|(_, _, asked)| match &asked.request {
            Request::Migrate { guest, to, .. } => Some((*guest, to)),
            Request::Wake { .. }
            | Request::Hibernate { .. }
            | Request::ShutDownGuest { .. }
            | Request::StartGuest { .. }
            | Request::PowerOff { .. } => None,
        })
        .collect();
    for (vmid, guest) in &scene.seen.guests {
        if seeking.contains(vmid) || guest.template || !guest.status.may_run() {
            continue;
        }
        if let Some(name) = rule(scene, *vmid, guest).and_then(|rule| rule.apart.clone()) {
            let hosts = taken.entry(name).or_default();
            hosts.insert(guest.host.clone());
            hosts.extend(bound.get(vmid).map(|host| (*host).clone()));
        }
    }
    taken
}

/// For each guest left over: what every host lacks for it.
fn sentences(
    scene: &Scene<'_>,
    short: &Shortfall,
    seekers: &[Seeker<'_>],
    tenants: &[Tenant],
    names: &[HostName],
) -> Vec<(usize, Homeless)> {
    let beside = if seekers.len() > 1 { " beside the others" } else { "" };
    let lacks = |index: &usize| {
        let mut parts = Vec::new();
        for lack in short.lacks.iter().filter(|lack| lack.tenant == *index) {
            let host = &names[lack.room];
            parts.push(match &lack.what {
                Missing::Memory { bytes } => {
                    format!("{host} lacks {} MiB of memory for it", bytes.div_ceil(1 << 20))
                }
                Missing::Storage { name, bytes } => {
                    let mib = bytes.div_ceil(1 << 20);
                    format!("storage {name} of {host} lacks {mib} MiB for its disks")
                }
                Missing::Apart => format!("another guest it stays apart from goes to {host}"),
            });
        }
        let unknown = seekers[*index]
            .hosts
            .iter()
            .find_map(|(host, _)| room(scene, &Promised::default(), host).err());
        match (parts.is_empty(), unknown) {
            // A host whose figures are still to come may have room for it.
            (_, Some(why)) => Homeless::Unknown(why),
            (true, None) => {
                let mib = tenants[*index].memory_bytes >> 20;
                Homeless::NoRoom(format!("no host takes its {mib} MiB"))
            }
            (false, None) => Homeless::NoRoom(format!("{}{beside}", parts.join(", "))),
        }
    };
    short.left_over.iter().map(|index| (*index, lacks(index))).collect()
}
