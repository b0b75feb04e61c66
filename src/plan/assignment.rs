//! Where a set of guests goes: the whole set at once, or nobody.
//!
//! A drain that gets stuck halfway has moved guests for nothing, so what matters first is that an
//! assignment of *everybody* is found whenever there is one. Memory and the free space of storages
//! are hard, processors are soft. Of the assignments that are possible the one is taken that keeps
//! to the owner's preferences, then moves the fewest bytes, then strains the processors least; who
//! may stay moves nothing, so a second call changes nothing. First a quick draft, the largest
//! guests first, with chains of evictions where somebody does not fit; then a search that is exact
//! for small sets and gives up after a number of steps on large ones. No randomness: the same
//! question has the same answer in every turn.
//!
//! What a leaving guest frees is not counted: it is free only when the guest has left, and then the
//! next turn sees it.
//!
//! **Does not know:** hosts by name, policies, how a guest moves.

mod search;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

/// What a host has to give.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Memory for guests: what is free now, less its reserve and what is promised.
    pub free_bytes: u64,
    /// Processors not in use, in thousandths of a core.
    pub free_millicores: u64,
    /// Free bytes by storage, for guests that bring their disks.
    pub storages: BTreeMap<String, u64>,
}

/// A guest that needs a place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tenant {
    pub memory_bytes: u64,
    pub millicores: u64,
    /// Bytes of local disks that go along, by storage.
    pub disks: BTreeMap<String, u64>,
    /// Tenants of one name stay in different rooms.
    pub apart: Option<String>,
    /// Where it may be, in the order in which equals are tried.
    pub choices: Vec<Choice>,
}

impl Tenant {
    /// Bytes that a move carries.
    pub fn burden_bytes(&self) -> u64 {
        self.disks.values().fold(self.memory_bytes, |sum, bytes| sum.saturating_add(*bytes))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    pub place: Place,
    /// 0 is liked best.
    pub rank: u32,
}

/// Where a tenant may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Where it is: it takes nothing that it does not have.
    Stay(usize),
    Room(usize),
    /// Put away: it needs no room.
    Away,
}

/// What an assignment costs; the first difference decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cost {
    /// Steps down the lists of preferences.
    pub rank: u64,
    /// Memory and local disks moved.
    pub bytes: u64,
    /// Thousandths of cores asked for beyond what is free.
    pub strain: u64,
}

impl Cost {
    fn plus(self, other: Cost) -> Cost {
        Cost {
            rank: self.rank + other.rank,
            bytes: self.bytes.saturating_add(other.bytes),
            strain: self.strain + other.strain,
        }
    }
}

/// Not everybody fits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shortfall {
    /// Tenants left over, as few as were found.
    pub left_over: Vec<usize>,
    /// What each room they may go to lacks for each of them, everybody else in place.
    pub lacks: Vec<Lack>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lack {
    pub tenant: usize,
    pub room: usize,
    pub what: Missing,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    Memory {
        bytes: u64,
    },
    Storage {
        name: String,
        bytes: u64,
    },
    /// Another guest that it must stay apart from is there.
    Apart,
}

/// A place for every tenant, in their order; or who is left over and what is missing.
pub fn assign(rooms: &[Room], tenants: &[Tenant]) -> Result<Vec<Place>, Shortfall> {
    search::best(rooms, tenants)
}

/// What is free in each room as tenants are put there and taken out again.
#[derive(Clone)]
struct Board<'a> {
    rooms: &'a [Room],
    tenants: &'a [Tenant],
    free_bytes: Vec<u64>,
    taken_millicores: Vec<u64>,
    free_disks: Vec<BTreeMap<&'a str, u64>>,
    groups: Vec<BTreeSet<&'a str>>,
    at: Vec<Option<Place>>,
}

impl<'a> Board<'a> {
    fn new(rooms: &'a [Room], tenants: &'a [Tenant]) -> Board<'a> {
        let disks = |room: &'a Room| {
            room.storages.iter().map(|(name, bytes)| (name.as_str(), *bytes)).collect()
        };
        Board {
            rooms,
            tenants,
            free_bytes: rooms.iter().map(|room| room.free_bytes).collect(),
            taken_millicores: vec![0; rooms.len()],
            free_disks: rooms.iter().map(disks).collect(),
            groups: vec![BTreeSet::new(); rooms.len()],
            at: vec![None; tenants.len()],
        }
    }

    /// What stands against a tenant in a place, the first reason only.
    fn missing(&self, tenant: usize, place: Place) -> Option<Missing> {
        let wants = &self.tenants[tenant];
        let room = match place {
            Place::Away => return None,
            Place::Stay(room) | Place::Room(room) => room,
        };
        let met =
            wants.apart.as_ref().is_some_and(|name| self.groups[room].contains(name.as_str()));
        if met {
            return Some(Missing::Apart);
        }
        if matches!(place, Place::Stay(_)) {
            return None;
        }
        if wants.memory_bytes > self.free_bytes[room] {
            return Some(Missing::Memory { bytes: wants.memory_bytes - self.free_bytes[room] });
        }
        wants.disks.iter().find_map(|(name, bytes)| {
            let free = self.free_disks[room].get(name.as_str()).copied().unwrap_or(0);
            let bytes = bytes.checked_sub(free).filter(|missing| *missing > 0)?;
            Some(Missing::Storage { name: name.clone(), bytes })
        })
    }

    fn admits(&self, tenant: usize, place: Place) -> bool {
        let wants = &self.tenants[tenant];
        match place {
            Place::Away => true,
            // The cheap question first: this is the innermost of all loops.
            Place::Room(room) if wants.memory_bytes > self.free_bytes[room] => false,
            Place::Stay(_) | Place::Room(_) => self.missing(tenant, place).is_none(),
        }
    }

    /// What it would cost to put it there now.
    fn price(&self, tenant: usize, choice: Choice) -> Cost {
        let strain = match choice.place {
            Place::Stay(_) | Place::Away => 0,
            Place::Room(room) => {
                let (taken, free) = (self.taken_millicores[room], self.rooms[room].free_millicores);
                let after = taken.saturating_add(self.tenants[tenant].millicores);
                after.saturating_sub(free) - taken.saturating_sub(free)
            }
        };
        Cost { strain, ..bare_price(&self.tenants[tenant], choice) }
    }

    fn put(&mut self, tenant: usize, place: Place) {
        self.at[tenant] = Some(place);
        let wants = &self.tenants[tenant];
        let room = match place {
            Place::Away => return,
            Place::Stay(room) | Place::Room(room) => room,
        };
        if let Some(name) = &wants.apart {
            self.groups[room].insert(name);
        }
        if matches!(place, Place::Stay(_)) {
            return;
        }
        self.free_bytes[room] -= wants.memory_bytes;
        self.taken_millicores[room] += wants.millicores;
        for (name, bytes) in &wants.disks {
            let free = self.free_disks[room].get_mut(name.as_str());
            *free.expect("only who is admitted is put") -= bytes;
        }
    }

    fn take(&mut self, tenant: usize) -> Option<Place> {
        let place = self.at[tenant].take()?;
        let wants = &self.tenants[tenant];
        let room = match place {
            Place::Away => return Some(place),
            Place::Stay(room) | Place::Room(room) => room,
        };
        if let Some(name) = &wants.apart {
            self.groups[room].remove(name.as_str());
        }
        if matches!(place, Place::Stay(_)) {
            return Some(place);
        }
        self.free_bytes[room] += wants.memory_bytes;
        self.taken_millicores[room] -= wants.millicores;
        for (name, bytes) in &wants.disks {
            *self.free_disks[room].entry(name.as_str()).or_default() += bytes;
        }
        Some(place)
    }

    /// The cheapest choice it may have now; of equals the first.
    fn cheapest(&self, tenant: usize) -> Option<Place> {
        let choices = self.tenants[tenant].choices.iter();
        let open = choices.filter(|choice| self.admits(tenant, choice.place));
        open.min_by_key(|choice| self.price(tenant, **choice)).map(|choice| choice.place)
    }

    /// What everybody's place costs together; `None` while somebody has none.
    fn cost(&self) -> Option<Cost> {
        let mut sum = Cost::default();
        for (tenant, place) in self.tenants.iter().zip(&self.at) {
            let place = (*place)?;
            let choice = tenant.choices.iter().find(|choice| choice.place == place)?;
            sum = sum.plus(bare_price(tenant, *choice));
        }
        let strained = self.taken_millicores.iter().zip(self.rooms);
        sum.strain = strained.map(|(taken, room)| taken.saturating_sub(room.free_millicores)).sum();
        Some(sum)
    }

    /// Who has no place, and what each room lacks for them.
    fn shortfall(&self) -> Shortfall {
        let left_over: Vec<usize> =
            (0..self.tenants.len()).filter(|tenant| self.at[*tenant].is_none()).collect();
        let mut lacks: Vec<Lack> = Vec::new();
        for tenant in &left_over {
            for choice in &self.tenants[*tenant].choices {
                let (Place::Room(room) | Place::Stay(room)) = choice.place else { continue };
                let Some(what) = self.missing(*tenant, choice.place) else { continue };
                lacks.push(Lack { tenant: *tenant, room, what });
            }
        }
        Shortfall { left_over, lacks }
    }
}

/// What a choice costs whoever else is there.
fn bare_price(tenant: &Tenant, choice: Choice) -> Cost {
    let bytes = match choice.place {
        Place::Stay(_) | Place::Away => 0,
        Place::Room(_) => tenant.burden_bytes(),
    };
    Cost { rank: u64::from(choice.rank), bytes, strain: 0 }
}
