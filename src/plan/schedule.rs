//! In what order guests move: which transfers begin now, and when the last one will have ended.
//!
//! A transfer takes a place at both its hosts for as long as it runs, and shares both their links
//! with whatever else runs there. So the order matters as soon as there are several hosts: two
//! large guests left over for the same target at the end keep everybody waiting. Several orders
//! are tried on paper (what has most still to come behind it, the largest first, the longest
//! first), and the one that ends first is begun. Nothing is fixed beyond this turn: the next one
//! plans the rest anew, from what is then seen.
//!
//! **Does not know:** why guests move, hosts by name, what time it is.

use std::time::Duration;

/// Above this, only one order is tried: trying takes time that grows with the square.
const TRIED: usize = 250;

/// What a host can send and take at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    pub bytes_per_second: f64,
    /// Transfers at once, from and to it together.
    pub at_once: u32,
}

/// One guest on its way, or waiting for it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Transfer {
    pub from: usize,
    pub to: usize,
    pub bytes: f64,
    /// Of two that want the same place the lower one goes first, whatever that costs.
    pub class: u32,
}

/// The paper on which orders are tried.
#[derive(Clone, Debug)]
pub struct Yard<'a> {
    pub links: &'a [Link],
    /// What one transfer gets at most.
    pub each: Option<f64>,
    /// What each transfer takes beside its bytes: the other side starts, locks come and go, and its
    /// end is seen a moment later.
    pub overhead: Duration,
}

/// An order to be tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Order {
    first: First,
    /// Nobody begins on a link that is full already: he would only make the others slower, and take
    /// a place that is worth more later.
    thrifty: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    /// Whoever's host has most still to come.
    Critical,
    Largest,
    Longest,
}

/// What is tried, until one of them ends as early as any can.
const ORDERS: [Order; 5] = [
    Order { first: First::Critical, thrifty: true },
    Order { first: First::Critical, thrifty: false },
    Order { first: First::Largest, thrifty: true },
    Order { first: First::Largest, thrifty: false },
    Order { first: First::Longest, thrifty: true },
];
/// A link counts as full when a newcomer would get less than this share of what it could take.
const WORTH_BEGINNING: f64 = 0.2;
/// Within this of the least possible, nothing more is tried.
const GOOD_ENOUGH: f64 = 1.005;

/// A waiting transfer on paper.
struct Waiting {
    index: usize,
    transfer: Transfer,
    alone: f64,
}

struct Running {
    transfer: Transfer,
    left: f64,
    /// Seconds of its overhead still to go.
    idle: f64,
}

impl Yard<'_> {
    /// Which of `waiting` begin now, beside what is `running` (with the bytes they have left).
    pub fn begin(&self, waiting: &[Transfer], running: &[Transfer]) -> Vec<usize> {
        match self.best(waiting, running) {
            Some((_, first)) => first,
            None => {
                let running: Vec<Running> = running.iter().map(|one| self.run(*one)).collect();
                let begun = self.pick(&mut self.queue(waiting), &running, ORDERS[1]);
                begun.into_iter().map(|one| one.index).collect()
            }
        }
    }

    /// How long it takes until the last of them has arrived.
    pub fn lasts(&self, waiting: &[Transfer], running: &[Transfer]) -> Duration {
        let tried = self.best(waiting, running).map(|(seconds, _)| seconds);
        // Where they are too many to try, the busiest host decides.
        let seconds = tried.unwrap_or_else(|| self.least(waiting, running));
        Duration::from_secs_f64(seconds.clamp(0.0, 1e9))
    }

    /// The order that ends first: when that is, and who begins at once. `None` where they are too
    /// many to try.
    fn best(&self, waiting: &[Transfer], running: &[Transfer]) -> Option<(f64, Vec<usize>)> {
        if waiting.len() > TRIED {
            return None;
        }
        let least = self.least(waiting, running);
        let mut best: Option<(f64, Vec<usize>)> = None;
        for order in ORDERS {
            let (ends, first) = self.play(waiting, running, order);
            if best.as_ref().is_none_or(|(known, _)| ends < *known - 1e-6) {
                best = Some((ends, first));
            }
            if ends <= least * GOOD_ENOUGH {
                break;
            }
        }
        best
    }

    /// No order ends sooner than the busiest host can.
    fn least(&self, waiting: &[Transfer], running: &[Transfer]) -> f64 {
        let running: Vec<Running> = running.iter().map(|one| self.run(*one)).collect();
        self.loads(&self.queue(waiting), &running).into_iter().fold(0.0, f64::max)
    }

    /// Plays one order to its end: when that is, and who begins at once.
    fn play(&self, waiting: &[Transfer], running: &[Transfer], order: Order) -> (f64, Vec<usize>) {
        let mut running: Vec<Running> = running.iter().map(|one| self.run(*one)).collect();
        let mut waiting = self.queue(waiting);
        let mut first: Option<Vec<usize>> = None;
        let mut now = 0.0;
        loop {
            let begun = self.pick(&mut waiting, &running, order);
            first.get_or_insert_with(|| begun.iter().map(|one| one.index).collect());
            running.extend(begun.into_iter().map(|one| self.run(one.transfer)));
            if running.is_empty() {
                return (now, first.unwrap_or_default());
            }
            let rates = self.rates(&running);
            let ends = |one: &Running, rate: f64| match one.idle > 0.0 {
                true => one.idle,
                false => one.left / rate,
            };
            let step = running
                .iter()
                .zip(&rates)
                .map(|(one, rate)| ends(one, *rate))
                .fold(f64::MAX, f64::min);
            now += step;
            for (one, rate) in running.iter_mut().zip(&rates) {
                if one.idle > 0.0 {
                    one.idle -= step;
                } else {
                    one.left -= rate * step;
                }
            }
            // Below a byte or a millisecond there is only rounding.
            running.iter_mut().filter(|one| one.idle < 1e-3).for_each(|one| one.idle = 0.0);
            running.retain(|one| one.left >= 1.0 || one.idle > 0.0);
        }
    }

    fn run(&self, transfer: Transfer) -> Running {
        let left = transfer.bytes.max(1.0);
        Running { transfer, left, idle: self.overhead.as_secs_f64() }
    }

    fn queue(&self, waiting: &[Transfer]) -> Vec<Waiting> {
        let one = |(index, transfer): (usize, &Transfer)| {
            let alone = self.overhead.as_secs_f64() + transfer.bytes / self.pace(transfer);
            Waiting { index, transfer: *transfer, alone }
        };
        waiting.iter().enumerate().map(one).collect()
    }

    /// Bytes a second of a transfer that has both links for itself.
    fn pace(&self, transfer: &Transfer) -> f64 {
        let links = self.links[transfer.from]
            .bytes_per_second
            .min(self.links[transfer.to].bytes_per_second);
        self.each.map_or(links, |each| each.min(links)).max(1.0)
    }

    /// What each running transfer gets: an equal share of the narrower end.
    fn rates(&self, running: &[Running]) -> Vec<f64> {
        let mut sharing = vec![0u32; self.links.len()];
        for one in running.iter().filter(|one| one.idle <= 0.0) {
            sharing[one.transfer.from] += 1;
            sharing[one.transfer.to] += 1;
        }
        let share =
            |host: usize| self.links[host].bytes_per_second / f64::from(sharing[host].max(1));
        let rate = |one: &Running| {
            let links = share(one.transfer.from).min(share(one.transfer.to));
            self.each.map_or(links, |each| each.min(links)).max(1.0)
        };
        running.iter().map(rate).collect()
    }

    /// Seconds that each host is still busy at least: its bytes over its link, and its transfers
    /// through the places it has.
    fn loads(&self, waiting: &[Waiting], running: &[Running]) -> Vec<f64> {
        let mut bytes = vec![0.0; self.links.len()];
        let mut places = vec![0.0; self.links.len()];
        let mut add = |transfer: &Transfer, left: f64, alone: f64| {
            for host in [transfer.from, transfer.to] {
                bytes[host] += left;
                places[host] += alone;
            }
        };
        for one in waiting {
            add(&one.transfer, one.transfer.bytes, one.alone);
        }
        for one in running {
            add(&one.transfer, one.left, one.idle + one.left / self.pace(&one.transfer));
        }
        let load = |(host, link): (usize, &Link)| {
            let over = bytes[host] / link.bytes_per_second.max(1.0);
            over.max(places[host] / f64::from(link.at_once.max(1)))
        };
        self.links.iter().enumerate().map(load).collect()
    }

    /// What is left of each link beside what is running.
    fn left(&self, running: &[Running]) -> Vec<f64> {
        let mut left: Vec<f64> = self.links.iter().map(|link| link.bytes_per_second).collect();
        for one in running {
            let Transfer { from, to, .. } = one.transfer;
            let gets = self.pace(&one.transfer).min(left[from]).min(left[to]).max(0.0);
            left[from] -= gets;
            left[to] -= gets;
        }
        left
    }

    /// Takes out of `waiting` whoever begins now.
    fn pick(&self, waiting: &mut Vec<Waiting>, running: &[Running], order: Order) -> Vec<Waiting> {
        let mut places: Vec<u32> = self.links.iter().map(|link| link.at_once).collect();
        for one in running {
            for host in [one.transfer.from, one.transfer.to] {
                places[host] = places[host].saturating_sub(1);
            }
        }
        let open = |places: &[u32], one: &Waiting| {
            places[one.transfer.from] > 0 && places[one.transfer.to] > 0
        };
        if !waiting.iter().any(|one| open(&places, one)) {
            return Vec::new();
        }
        let loads = self.loads(waiting, running);
        let urgency = |one: &Waiting| {
            let (from, to) = (loads[one.transfer.from], loads[one.transfer.to]);
            match order.first {
                First::Critical => (from.max(to), from.min(to), one.alone),
                First::Largest => (one.transfer.bytes, one.alone, from.max(to)),
                First::Longest => (one.alone, from.max(to), one.transfer.bytes),
            }
        };
        let mut queue: Vec<(u32, (f64, f64, f64), usize)> = waiting
            .iter()
            .enumerate()
            .filter(|(_, one)| open(&places, one))
            .map(|(at, one)| (one.transfer.class, urgency(one), at))
            .collect();
        queue.sort_by(|one, other| {
            let ((a, b, c), (x, y, z)) = (one.1, other.1);
            let urgent = x.total_cmp(&a).then(y.total_cmp(&b)).then(z.total_cmp(&c));
            one.0.cmp(&other.0).then(urgent).then(one.2.cmp(&other.2))
        });
        let mut chosen = vec![false; waiting.len()];
        let mut left = self.left(running);
        for (_, _, at) in queue {
            let one = &waiting[at].transfer;
            let pace = self.pace(one);
            let gets = pace.min(left[one.from]).min(left[one.to]);
            let worth = !order.thrifty || gets >= pace * WORTH_BEGINNING;
            if worth && open(&places, &waiting[at]) {
                for host in [one.from, one.to] {
                    places[host] -= 1;
                    left[host] -= gets.max(0.0);
                }
                chosen[at] = true;
            }
        }
        let (begun, left): (Vec<_>, Vec<_>) =
            std::mem::take(waiting).into_iter().enumerate().partition(|(at, _)| chosen[*at]);
        *waiting = left.into_iter().map(|(_, one)| one).collect();
        begun.into_iter().map(|(_, one)| one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: f64 = (1u64 << 30) as f64;
    const GIGABIT: f64 = 125e6;

    fn yard(links: &[Link]) -> Yard<'_> {
        Yard { links, each: None, overhead: Duration::ZERO }
    }

    fn transfer(from: usize, to: usize, gib: f64) -> Transfer {
        Transfer { from, to, bytes: gib * GIB, class: 0 }
    }

    #[test]
    fn no_host_has_more_transfers_than_it_may() {
        let links = [Link { bytes_per_second: GIGABIT, at_once: 1 }; 4];
        let waiting = [transfer(0, 1, 1.0), transfer(0, 2, 8.0), transfer(3, 2, 2.0)];
        assert_eq!(yard(&links).begin(&waiting, &[]), [1]);
        assert_eq!(yard(&links).begin(&waiting, &[transfer(0, 3, 1.0)]), [] as [usize; 0]);
        assert_eq!(yard(&links).begin(&waiting, &[transfer(0, 1, 1.0)]), [2]);
    }

    #[test]
    fn whoever_keeps_everybody_waiting_goes_first() {
        // Host 0 sends 9 GiB whatever happens; what it sends to host 1 must not wait for host 2's.
        let links = [Link { bytes_per_second: GIGABIT, at_once: 1 }; 3];
        let waiting = [transfer(2, 1, 4.0), transfer(0, 1, 4.0), transfer(0, 2, 5.0)];
        let lasts = yard(&links).lasts(&waiting, &[]);
        let bound = 9.0 * GIB / GIGABIT;
        assert!(lasts.as_secs_f64() < bound * 1.5, "{lasts:?}, at least {bound} s");
        assert_eq!(yard(&links).begin(&waiting, &[]).len(), 1);
    }

    #[test]
    fn the_policys_order_outranks_an_early_end() {
        let links = [Link { bytes_per_second: GIGABIT, at_once: 1 }; 2];
        let late = Transfer { class: 2, ..transfer(0, 1, 9.0) };
        let early = Transfer { class: 1, ..transfer(0, 1, 1.0) };
        assert_eq!(yard(&links).begin(&[late, early], &[]), [1]);
    }

    #[test]
    fn transfers_share_the_narrower_link() {
        let links =
            [10.0, 1.0, 1.0].map(|wide| Link { bytes_per_second: wide * GIGABIT, at_once: 2 });
        let waiting = [transfer(0, 1, 1.0), transfer(0, 2, 1.0)];
        let seconds = yard(&links).lasts(&waiting, &[]).as_secs_f64();
        assert!((seconds - GIB / GIGABIT).abs() < 0.01, "side by side: {seconds}");
        let limited = Yard { each: Some(GIGABIT / 2.0), ..yard(&links) };
        let seconds = limited.lasts(&waiting, &[]).as_secs_f64();
        assert!((seconds - 2.0 * GIB / GIGABIT).abs() < 0.01, "half as fast: {seconds}");
    }

    #[test]
    fn nothing_to_do_takes_no_time() {
        assert_eq!(yard(&[]).lasts(&[], &[]), Duration::ZERO);
        assert_eq!(yard(&[]).begin(&[], &[]), [] as [usize; 0]);
    }

    #[test]
    fn a_thousand_guests_are_ordered_without_trying() {
        let links = [Link { bytes_per_second: GIGABIT, at_once: 2 }; 4];
        let waiting: Vec<Transfer> = (0..1000).map(|n| transfer(0, 1 + n % 3, 1.0)).collect();
        assert_eq!(yard(&links).begin(&waiting, &[]).len(), 2);
        let bound = 1000.0 * GIB / GIGABIT;
        assert!(yard(&links).lasts(&waiting, &[]).as_secs_f64() >= bound - 1.0);
    }
}
