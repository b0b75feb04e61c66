//! The search against every assignment there is, where those can be counted, and against planted
//! answers where they cannot.
//!
//! **Does not know:** how the search goes about it: rooms and costs are added up here in other
//! words.

use fastrand::Rng;
use proptest::prelude::*;

use super::*;

const GIB: u64 = 1 << 30;

/// Whether everybody's place is one of his choices and nothing is given twice.
fn holds_up(rooms: &[Room], tenants: &[Tenant], places: &[Place]) -> bool {
    let chosen = tenants
        .iter()
        .zip(places)
        .all(|(tenant, place)| tenant.choices.iter().any(|choice| choice.place == *place));
    let inside = |room: usize| {
        tenants.iter().zip(places).filter(move |(_, place)| **place == Place::Room(room))
    };
    let around = |room: usize| {
        let there = move |place: &Place| *place == Place::Room(room) || *place == Place::Stay(room);
        tenants.iter().zip(places).filter(move |(_, place)| there(place))
    };
    chosen
        && (0..rooms.len()).all(|room| {
            let memory: u64 = inside(room).map(|(tenant, _)| tenant.memory_bytes).sum();
            let mut disks: BTreeMap<&String, u64> = BTreeMap::new();
            for (tenant, _) in inside(room) {
                for (name, bytes) in &tenant.disks {
                    *disks.entry(name).or_default() += bytes;
                }
            }
            let space = disks
                .iter()
                .all(|(name, bytes)| rooms[room].storages.get(*name).unwrap_or(&0) >= bytes);
            let names: Vec<&String> =
                around(room).filter_map(|(tenant, _)| tenant.apart.as_ref()).collect();
            let distinct: BTreeSet<&String> = names.iter().copied().collect();
            memory <= rooms[room].free_bytes && space && names.len() == distinct.len()
        })
}

/// Rank and bytes of an assignment, added up guest by guest.
fn cost(tenants: &[Tenant], places: &[Place]) -> (u64, u64) {
    let mut sum = (0, 0);
    for (tenant, place) in tenants.iter().zip(places) {
        let choice = tenant.choices.iter().find(|choice| choice.place == *place).unwrap();
        sum.0 += u64::from(choice.rank);
        if matches!(place, Place::Room(_)) {
            sum.1 += tenant.memory_bytes + tenant.disks.values().sum::<u64>();
        }
    }
    sum
}

/// The best of all assignments, by trying each.
fn best_of_all(rooms: &[Room], tenants: &[Tenant]) -> Option<(u64, u64)> {
    let count: usize = tenants.iter().map(|tenant| tenant.choices.len()).product();
    let nth = |mut number: usize| -> Vec<Place> {
        let pick = |tenant: &Tenant| {
            let index = number % tenant.choices.len();
            number /= tenant.choices.len();
            tenant.choices[index].place
        };
        tenants.iter().map(pick).collect()
    };
    let sound = (0..count).map(nth).filter(|places| holds_up(rooms, tenants, places));
    sound.map(|places| cost(tenants, &places)).min()
}

/// Up to 6 guests on 4 hosts: tight rooms, local disks, guests that stay apart, may stay or may be
/// put away.
fn drawn(rng: &mut Rng) -> (Vec<Room>, Vec<Tenant>) {
    let hosts = rng.usize(1..=4);
    let room = |rng: &mut Rng| Room {
        free_bytes: rng.u64(0..20) * GIB,
        free_millicores: rng.u64(0..8000),
        storages: [("local".to_owned(), rng.u64(0..200) * GIB)].into(),
    };
    let rooms: Vec<Room> = (0..hosts).map(|_| room(rng)).collect();
    let tenant = |rng: &mut Rng| {
        let mut choices = Vec::new();
        for room in 0..hosts {
            if rng.u8(..4) > 0 {
                choices.push(Choice { place: Place::Room(room), rank: rng.u32(0..3) });
            }
        }
        rng.shuffle(&mut choices);
        if rng.u8(..4) == 0 {
            let room = rng.usize(..hosts);
            choices.retain(|choice| choice.place != Place::Room(room));
            choices.push(Choice { place: Place::Stay(room), rank: rng.u32(0..3) });
        }
        if rng.u8(..6) == 0 || choices.is_empty() {
            choices.push(Choice { place: Place::Away, rank: 100 });
        }
        let disks = match rng.u8(..3) {
            0 => [("local".to_owned(), rng.u64(1..100) * GIB)].into(),
            _ => BTreeMap::new(),
        };
        Tenant {
            memory_bytes: rng.u64(1..10) * GIB,
            millicores: rng.u64(0..4000),
            disks,
            apart: (rng.u8(..4) == 0).then(|| "twins".into()),
            choices,
        }
    };
    let tenants = (0..rng.usize(0..=6)).map(|_| tenant(rng)).collect();
    (rooms, tenants)
}

#[test]
fn of_all_assignments_the_best_is_found_whenever_there_is_one() {
    let (mut possible, mut impossible, mut ours, mut least) = (0, 0, 0.0, 0.0);
    for seed in 0..3000 {
        let mut rng = Rng::with_seed(seed);
        let (rooms, tenants) = drawn(&mut rng);
        match (assign(&rooms, &tenants), best_of_all(&rooms, &tenants)) {
            (Ok(places), Some(best)) => {
                assert!(holds_up(&rooms, &tenants, &places), "seed {seed}: {places:?}");
                let paid = cost(&tenants, &places);
                assert_eq!(paid.0, best.0, "seed {seed}: preferences come first");
                (ours, least) = (ours + paid.1 as f64, least + best.1 as f64);
                possible += 1;
            }
            (Err(short), None) => {
                assert!(!short.left_over.is_empty(), "seed {seed}");
                impossible += 1;
            }
            (ours, all) => panic!("seed {seed}: {ours:?}, and of all assignments {all:?}"),
        }
    }
    assert!(possible > 1000 && impossible > 300, "{possible} possible, {impossible} not");
    assert!(ours <= 1.1 * least, "{ours} bytes moved where {least} would do");
}

#[test]
fn who_may_stay_is_not_moved_for_the_sake_of_an_equal() {
    let rooms = vec![Room { free_bytes: 64 * GIB, ..Room::default() }; 2];
    let stay = Choice { place: Place::Stay(0), rank: 0 };
    let go = Choice { place: Place::Room(1), rank: 0 };
    let tenant = Tenant { memory_bytes: GIB, choices: vec![go, stay], ..Tenant::default() };
    assert_eq!(assign(&rooms, &[tenant]), Ok(vec![Place::Stay(0)]));
}

#[test]
fn what_is_missing_is_told_for_each_who_is_left_over() {
    let rooms = vec![Room { free_bytes: 10 * GIB, ..Room::default() }];
    let choices = vec![Choice { place: Place::Room(0), rank: 0 }];
    let tenant = |gib: u64| Tenant {
        memory_bytes: gib * GIB,
        choices: choices.clone(),
        ..Tenant::default()
    };
    let short = assign(&rooms, &[tenant(8), tenant(3), tenant(4)]).unwrap_err();
    assert_eq!(short.left_over, vec![1, 2]);
    let lack = |tenant, gib| {
        let what = Missing::Memory { bytes: gib * GIB };
        Lack { tenant, room: 0, what }
    };
    assert_eq!(short.lacks, [lack(1, 1), lack(2, 2)]);
}

#[test]
fn strained_processors_are_avoided_and_never_forbid() {
    let room = |cores: u64| Room {
        free_bytes: 64 * GIB,
        free_millicores: cores * 1000,
        storages: BTreeMap::new(),
    };
    let rooms = vec![room(1), room(8)];
    let choices = [0, 1].map(|room| Choice { place: Place::Room(room), rank: 0 }).to_vec();
    let tenant = Tenant { memory_bytes: GIB, millicores: 4000, choices, ..Tenant::default() };
    assert_eq!(assign(&rooms, std::slice::from_ref(&tenant)), Ok(vec![Place::Room(1)]));
    assert!(assign(&rooms, &vec![tenant; 9]).is_ok(), "slow is better than off");
}

/// Rooms with an assignment planted in them: everybody fits, with `slack` percent to spare.
fn planted(seed: u64, guests: usize, hosts: usize, slack: u64) -> (Vec<Room>, Vec<Tenant>) {
    let mut rng = Rng::with_seed(seed);
    let mut rooms = vec![Room::default(); hosts];
    let mut tenants = Vec::new();
    for _ in 0..guests {
        let home = rng.usize(..hosts);
        let memory_bytes = [1, 2, 2, 4, 4, 8, 16, 32][rng.usize(..8)] * GIB / 2;
        rooms[home].free_bytes += memory_bytes;
        let mut choices = vec![Choice { place: Place::Room(home), rank: rng.u32(0..2) }];
        for room in (0..hosts).filter(|room| *room != home) {
            if rng.u8(..3) > 0 {
                choices.push(Choice { place: Place::Room(room), rank: rng.u32(0..2) });
            }
        }
        tenants.push(Tenant { memory_bytes, choices, ..Tenant::default() });
    }
    for room in &mut rooms {
        room.free_bytes += room.free_bytes / 100 * slack;
    }
    (rooms, tenants)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn large_sets_that_fit_are_fitted(
        seed in any::<u64>(), guests in 7usize..200, hosts in 2usize..16,
    ) {
        let (rooms, tenants) = planted(seed, guests, hosts, 3);
        let places = assign(&rooms, &tenants);
        prop_assert!(places.is_ok(), "{places:?}");
        let places = places.unwrap();
        prop_assert!(holds_up(&rooms, &tenants, &places));
        prop_assert_eq!(Ok(places), assign(&rooms, &tenants));
    }

    #[test]
    fn nothing_is_given_twice_however_tight_it_is(
        seed in any::<u64>(), guests in 7usize..80, hosts in 1usize..8,
    ) {
        let (mut rooms, tenants) = planted(seed, guests, hosts, 0);
        let lucky = assign(&rooms, &tenants);
        prop_assert!(lucky.is_err() || holds_up(&rooms, &tenants, &lucky.unwrap()));
        for room in &mut rooms {
            room.free_bytes = room.free_bytes / 10 * 7;
        }
        let short = assign(&rooms, &tenants);
        prop_assert!(short.is_err_and(|short| !short.lacks.is_empty()));
    }
}
