//! How soon hosts are empty: the planner's order of migrations, against the least time it could
//! take, against one at a time and against PVE's own `migrateall`.
//!
//! Instances are drawn by seed: 3 to 16 hosts on mixed links, some of them leaving, 5 to 200 guests
//! on those. Where each guest goes is the planner's assignment, the same for all; what differs is
//! who begins when. The clock here is a model of its own: running transfers share the links of
//! their source and of their target max-min fairly (nobody gets more while somebody with less could
//! have it), and whenever one ends, whoever decides is asked who begins next. Ends standard output
//! with one line of JSON, and fails when the median is above what is promised.
//!
//! **Does not know:** how the planner chooses, or what it expects.

use std::time::Duration;

use fastrand::Rng;
use spot::plan::assignment::{Choice, Place, Room, Tenant, assign};
use spot::plan::schedule::{Link, Transfer, Yard};

const INSTANCES: u64 = 1000;
/// The median of our time over the least possible one may be this much.
const MEDIAN_AT_MOST: f64 = 1.10;
const GIGABIT: f64 = 125e6;
const GIB: u64 = 1 << 30;

/// A guest to be moved, with the model's own figures.
#[derive(Clone, Copy)]
struct Job {
    vmid: u32,
    from: usize,
    to: usize,
    bytes: f64,
}

struct Instance {
    /// Bytes a second of each host's link.
    links: Vec<f64>,
    per_host: usize,
    jobs: Vec<Job>,
}

fn main() {
    let asked = std::env::args().skip(1).find_map(|argument| argument.parse().ok());
    let instances: u64 = asked.unwrap_or(INSTANCES);
    let (mut over_bound, mut one_at_a_time, mut migrateall) = (vec![], vec![], vec![]);
    for seed in 0..instances {
        let instance = drawn(seed);
        let ours = instance.ours();
        over_bound.push(ours / instance.bound());
        one_at_a_time.push(instance.one_at_a_time() / ours);
        migrateall.push(instance.migrateall() / ours);
    }
    let median = at(&mut over_bound, 0.5);
    let figures = serde_json::json!({
        "instances": instances,
        "median_over_bound": rounded(median),
        "p95_over_bound": rounded(at(&mut over_bound, 0.95)),
        "one_at_a_time_over_ours": rounded(mean(&one_at_a_time)),
        "migrateall_order_over_ours": rounded(mean(&migrateall)),
    });
    println!("{figures}");
    if median > MEDIAN_AT_MOST {
        eprintln!("the median is above {MEDIAN_AT_MOST}");
        std::process::exit(1);
    }
}

fn at(figures: &mut [f64], share: f64) -> f64 {
    figures.sort_by(f64::total_cmp);
    let place = (figures.len().saturating_sub(1)) as f64 * share;
    figures.get(place.round() as usize).copied().unwrap_or(f64::NAN)
}

fn mean(figures: &[f64]) -> f64 {
    figures.iter().sum::<f64>() / figures.len() as f64
}

fn rounded(figure: f64) -> f64 {
    (figure * 1e4).round() / 1e4
}

/// Guests as they are found in homes: many small ones, a few large, some with disks of their own.
fn drawn(seed: u64) -> Instance {
    let mut rng = Rng::with_seed(seed);
    let hosts = rng.usize(3..=16);
    let guests = rng.usize(5..=200);
    let leaving = rng.usize(1..=hosts / 2);
    let links: Vec<f64> =
        (0..hosts).map(|_| [1.0, 1.0, 2.5, 10.0][rng.usize(..4)] * GIGABIT).collect();
    let per_host = rng.usize(1..=4);
    let tenants: Vec<(usize, Tenant)> = (0..guests)
        .map(|_| {
            let choices = (leaving..hosts).map(|room| Choice { place: Place::Room(room), rank: 0 });
            let memory_bytes = [1, 1, 2, 2, 4, 4, 8, 16, 32][rng.usize(..9)] * GIB;
            let disks = match rng.u8(..6) {
                0 => [("local".to_owned(), rng.u64(8..64) * GIB)].into(),
                _ => std::collections::BTreeMap::new(),
            };
            let choices = choices.collect();
            (rng.usize(..leaving), Tenant { memory_bytes, disks, choices, ..Tenant::default() })
        })
        .collect();
    let needed: u64 = tenants.iter().map(|(_, tenant)| tenant.memory_bytes).sum();
    // Together the hosts that stay have 1.2 to 2 times what is needed.
    let spare = rng.f64() * 0.8 + 1.2;
    let each = (needed as f64 * spare) as u64 / (hosts - leaving) as u64 + 32 * GIB;
    let room = Room {
        free_bytes: each,
        free_millicores: 0,
        storages: [("local".to_owned(), u64::MAX / 2)].into(),
    };
    let rooms = vec![room; hosts];
    let wanted: Vec<Tenant> = tenants.iter().map(|(_, tenant)| tenant.clone()).collect();
    let places = assign(&rooms, &wanted).expect("there is room for everybody");
    let job = |(index, (from, tenant)): (usize, &(usize, Tenant))| {
        let Place::Room(to) = places[index] else { panic!("nobody stays and nobody is put away") };
        let vmid = 100 + u32::try_from(index).expect("few guests");
        Job { vmid, from: *from, to, bytes: tenant.burden_bytes() as f64 }
    };
    Instance { links, per_host, jobs: tenants.iter().enumerate().map(job).collect() }
}

impl Instance {
    /// No order ends sooner: the largest guest has to pass both its links, and every link has to
    /// pass all its bytes. (Where few may move at once over links of mixed width, no order comes
    /// near it either.)
    fn bound(&self) -> f64 {
        let widest = |job: &Job| self.links[job.from].min(self.links[job.to]);
        let largest = self.jobs.iter().map(|job| job.bytes / widest(job)).fold(0.0, f64::max);
        let over = |host: usize| {
            let there = self.jobs.iter().filter(|job| job.from == host || job.to == host);
            let bytes: f64 = there.map(|job| job.bytes).sum();
            bytes / self.links[host]
        };
        (0..self.links.len()).map(over).fold(largest, f64::max)
    }

    fn ours(&self) -> f64 {
        let at_once = u32::try_from(self.per_host).expect("a small limit");
        let links: Vec<Link> = self
            .links
            .iter()
            .map(|bytes_per_second| Link { bytes_per_second: *bytes_per_second, at_once })
            .collect();
        let yard = Yard { links: &links, each: None, overhead: Duration::ZERO };
        let transfer =
            |job: &Job| Transfer { from: job.from, to: job.to, bytes: job.bytes, class: 0 };
        self.simulate(true, |waiting, running| {
            let waiting: Vec<Transfer> = waiting.iter().map(transfer).collect();
            let running: Vec<Transfer> = running.iter().map(transfer).collect();
            yard.begin(&waiting, &running)
        })
    }

    fn one_at_a_time(&self) -> f64 {
        self.simulate(true, |waiting, running| match (waiting.is_empty(), running.is_empty()) {
            (false, true) => vec![0],
            (true, _) | (_, false) => vec![],
        })
    }

    /// Every leaving host empties itself, by VMID, with as many workers as are allowed; nobody
    /// minds how many arrive at a target.
    fn migrateall(&self) -> f64 {
        self.simulate(false, |waiting, running| {
            let mut begun = Vec::new();
            for host in 0..self.links.len() {
                let busy = running.iter().filter(|job| job.from == host).count();
                let mine = (0..waiting.len()).filter(|index| waiting[*index].from == host);
                begun.extend(mine.take(self.per_host.saturating_sub(busy)));
            }
            begun
        })
    }

    /// Seconds until everybody has arrived, when `next` decides who begins. `strict`: its choice is
    /// held against the limit of every host.
    fn simulate(&self, strict: bool, next: impl Fn(&[Job], &[Job]) -> Vec<usize>) -> f64 {
        let mut waiting = self.jobs.clone();
        waiting.sort_by_key(|job| job.vmid);
        let mut running: Vec<Job> = Vec::new();
        let mut seconds = 0.0;
        loop {
            let begun = next(&waiting, &running);
            running.extend(begun.iter().map(|index| waiting[*index]));
            let mut index = 0;
            waiting.retain(|_| {
                index += 1;
                !begun.contains(&(index - 1))
            });
            if strict {
                self.keeps_to_the_limits(&running);
            }
            if running.is_empty() {
                assert!(waiting.is_empty(), "somebody waits and nobody moves");
                return seconds;
            }
            let rates = self.rates(&running);
            let ends = running.iter().zip(&rates).map(|(job, rate)| job.bytes / rate);
            let step = ends.fold(f64::MAX, f64::min);
            seconds += step;
            for (job, rate) in running.iter_mut().zip(&rates) {
                job.bytes -= rate * step;
            }
            running.retain(|job| job.bytes >= 1.0);
        }
    }

    fn keeps_to_the_limits(&self, running: &[Job]) {
        for host in 0..self.links.len() {
            let there = running.iter().filter(|job| job.from == host || job.to == host).count();
            assert!(there <= self.per_host, "{there} transfers at host {host}");
        }
    }

    /// Max-min fair shares: the tightest link is divided first, and whoever has his share there
    /// takes no more of any other.
    fn rates(&self, running: &[Job]) -> Vec<f64> {
        let mut rates = vec![f64::NAN; running.len()];
        let mut left = self.links.clone();
        loop {
            let unset = |host: usize| {
                let there = running.iter().zip(&rates);
                there
                    .filter(|(job, rate)| rate.is_nan() && (job.from == host || job.to == host))
                    .count()
            };
            let shares = (0..left.len())
                .map(|host| (host, unset(host)))
                .filter(|(_, sharing)| *sharing > 0)
                .map(|(host, sharing)| (left[host] / sharing as f64, host));
            let Some((share, tight)) = shares.min_by(|one, other| one.0.total_cmp(&other.0)) else {
                return rates;
            };
            for (job, rate) in running.iter().zip(&mut rates) {
                if rate.is_nan() && (job.from == tight || job.to == tight) {
                    *rate = share;
                    for host in [job.from, job.to] {
                        left[host] -= share;
                    }
                }
            }
        }
    }
}
