//! The search behind an assignment: a draft, chains of evictions, and a branch and bound.
//!
//! The draft is nearly always the end of it: when everybody has the cheapest of his own choices
//! nothing can be better. Only where rooms are tight is there anything to search, and every part of
//! that counts its steps, for a turn must not wait for a puzzle.
//!
//! **Does not know:** what rooms and tenants stand for.

use super::{Board, Cost, Place, Room, Shortfall, Tenant, bare_price};

/// Steps of the exact search, in which 6 guests on 4 hosts (4,096 assignments) are nothing and 20
/// on 4 are usually decided.
const STEPS: u32 = 20_000;
/// Steps of all evictions together …
const EVICTIONS: u32 = 20_000;
/// … and how long a chain of them may be.
const CHAIN: u32 = 4;
/// Sets larger than this are searched only when the draft failed: their draft is good, and exact is
/// out of reach.
const SEARCHED: usize = 48;
/// Sets larger than this are not searched at all: the search goes as deep as the set is large.
const TOO_MANY: usize = 400;
/// Rounds of improving a draft, each of which sees every guest once.
const ROUNDS: u32 = 8;
/// Pairs are exchanged in sets up to this size, for they are many.
const EXCHANGED: usize = 200;

pub(super) fn best(rooms: &[Room], tenants: &[Tenant]) -> Result<Vec<Place>, Shortfall> {
    let cheapest: Vec<Cost> = tenants.iter().map(least).collect();
    let bound = cheapest.iter().fold(Cost::default(), |sum, cost| sum.plus(*cost));
    let mut board = draft(rooms, tenants);
    let mut found = board.cost().map(|cost| (cost, board.at.clone()));
    if found.as_ref().is_some_and(|(cost, _)| *cost > bound) {
        polish(&mut board);
        found = board.cost().map(|cost| (cost, board.at.clone()));
    }
    let decided = found.as_ref().is_some_and(|(cost, _)| *cost <= bound);
    let limit = if found.is_none() { TOO_MANY } else { SEARCHED };
    if !decided && tenants.len() <= limit {
        let mut search = Search::new(rooms, tenants, &cheapest, found);
        search.go(0, Cost::default());
        found = search.found;
    }
    match found {
        Some((_, at)) => Ok(at.into_iter().flatten().collect()),
        None => Err(board.shortfall()),
    }
}

/// The cheapest of a tenant's own choices, whoever else is there.
fn least(tenant: &Tenant) -> Cost {
    tenant.choices.iter().map(|choice| bare_price(tenant, *choice)).min().unwrap_or_default()
}

/// The hardest first: who has the fewest choices, then the largest.
fn by_difficulty(tenants: &[Tenant]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..tenants.len()).collect();
    order.sort_by_key(|tenant| {
        let one = &tenants[*tenant];
        (one.choices.len(), std::cmp::Reverse(one.burden_bytes()), *tenant)
    });
    order
}

fn by_size(tenants: &[Tenant]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..tenants.len()).collect();
    order.sort_by_key(|tenant| (std::cmp::Reverse(tenants[*tenant].memory_bytes), *tenant));
    order
}

/// Everybody at his cheapest, evicting others where he does not fit; in two orders, the better one.
fn draft<'a>(rooms: &'a [Room], tenants: &'a [Tenant]) -> Board<'a> {
    let mut best: Option<Board<'a>> = None;
    for order in [by_size(tenants), by_difficulty(tenants)] {
        let mut board = Board::new(rooms, tenants);
        let mut steps = EVICTIONS;
        for tenant in order {
            if let Some(place) = board.cheapest(tenant) {
                board.put(tenant, place);
            } else {
                evict(&mut board, tenant, CHAIN, &mut steps);
            }
        }
        let left = board.at.iter().filter(|place| place.is_none()).count();
        if left == 0 {
            return board;
        }
        let before = best.as_ref().map(|best| best.at.iter().filter(|at| at.is_none()).count());
        if before.is_none_or(|before| left < before) {
            best = Some(board);
        }
    }
    best.expect("two drafts were made")
}

/// Makes room for `tenant` by sending somebody else elsewhere, who may send the next one.
fn evict(board: &mut Board<'_>, tenant: usize, chain: u32, steps: &mut u32) -> bool {
    if chain == 0 {
        return false;
    }
    let tenants = board.tenants;
    for choice in &tenants[tenant].choices {
        let Place::Room(room) = choice.place else { continue };
        let there: Vec<usize> =
            (0..tenants.len()).filter(|one| board.at[*one] == Some(Place::Room(room))).collect();
        for other in there {
            if *steps == 0 {
                return false;
            }
            *steps -= 1;
            let Some(before) = board.take(other) else { continue };
            if board.admits(tenant, choice.place) {
                board.put(tenant, choice.place);
                if let Some(place) = board.cheapest(other) {
                    board.put(other, place);
                    return true;
                }
                if evict(board, other, chain - 1, steps) {
                    return true;
                }
                board.take(tenant);
            }
            board.put(other, before);
        }
    }
    false
}

/// Moves and exchanges that make a whole assignment cheaper, until there are none.
fn polish(board: &mut Board<'_>) {
    let Some(mut cost) = board.cost() else { return };
    for _ in 0..ROUNDS {
        let before = cost;
        for tenant in 0..board.tenants.len() {
            let Some(place) = board.take(tenant) else { continue };
            let better = board.cheapest(tenant).unwrap_or(place);
            board.put(tenant, better);
        }
        if board.tenants.len() <= EXCHANGED {
            exchange(board);
        }
        cost = board.cost().unwrap_or(before);
        if cost >= before {
            return;
        }
    }
}

/// Lets each tenant that would rather be elsewhere change places with somebody there.
fn exchange(board: &mut Board<'_>) {
    let tenants = board.tenants;
    for one in 0..tenants.len() {
        let (Some(here), Some(cost)) = (board.at[one], board.cost()) else { continue };
        for other in 0..tenants.len() {
            let Some(there) = board.at[other].filter(|there| *there != here && other != one) else {
                continue;
            };
            let likes = tenants[one].choices.iter().any(|choice| choice.place == there);
            if !likes || !matches!(there, Place::Room(_)) {
                continue;
            }
            board.take(one);
            board.take(other);
            if board.admits(one, there) {
                board.put(one, there);
                if let Some(place) = board.cheapest(other) {
                    board.put(other, place);
                    if board.cost().is_some_and(|after| after < cost) {
                        break;
                    }
                    board.take(other);
                }
                board.take(one);
            }
            board.put(one, here);
            board.put(other, there);
        }
    }
}

/// Branch and bound over all assignments, the hardest tenants first.
struct Search<'a> {
    board: Board<'a>,
    order: Vec<usize>,
    /// The least that the tenants from here on cost, and the memory they cannot do without.
    to_come: Vec<(Cost, u64)>,
    found: Option<(Cost, Vec<Option<Place>>)>,
    steps: u32,
}

impl<'a> Search<'a> {
    fn new(
        rooms: &'a [Room],
        tenants: &'a [Tenant],
        cheapest: &[Cost],
        found: Option<(Cost, Vec<Option<Place>>)>,
    ) -> Search<'a> {
        let order = by_difficulty(tenants);
        let mut to_come = vec![(Cost::default(), 0u64)];
        for tenant in order.iter().rev() {
            let (cost, bytes) = to_come[to_come.len() - 1];
            let only_rooms = |choice: &super::Choice| matches!(choice.place, Place::Room(_));
            let needs = tenants[*tenant].choices.iter().all(only_rooms);
            let needed = if needs { tenants[*tenant].memory_bytes } else { 0 };
            to_come.push((cost.plus(cheapest[*tenant]), bytes.saturating_add(needed)));
        }
        to_come.reverse();
        Search { board: Board::new(rooms, tenants), order, to_come, found, steps: STEPS }
    }

    fn go(&mut self, depth: usize, cost: Cost) {
        if self.steps == 0 {
            return;
        }
        self.steps -= 1;
        let (least, needed) = self.to_come[depth];
        let cannot_win = self.found.as_ref().is_some_and(|(known, _)| cost.plus(least) >= *known);
        if cannot_win || needed > self.board.free_bytes.iter().sum::<u64>() {
            return;
        }
        let Some(tenant) = self.order.get(depth).copied() else {
            self.found = Some((cost, self.board.at.clone()));
            return;
        };
        let choices = self.board.tenants[tenant].choices.iter();
        let mut open: Vec<(Cost, usize, Place)> = choices
            .enumerate()
            .filter(|(_, choice)| self.board.admits(tenant, choice.place))
            .map(|(index, choice)| (self.board.price(tenant, *choice), index, choice.place))
            .collect();
        open.sort();
        for (price, _, place) in open {
            self.board.put(tenant, place);
            self.go(depth + 1, cost.plus(price));
            self.board.take(tenant);
        }
    }
}
