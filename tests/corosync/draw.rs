//! Clusters and what happens to them, drawn from a seed.
//!
//! Drawn is what an owner may have: every flag, alone and with others, with and without a device,
//! also where it is a mistake. Left out, each by name, is what real corosync answers by chance:
//!
//! * *ffsplit over uneven votes*: whether a daemon passes its check depends on who started first;
//! * *two stops at once where a timer or a tie-breaker counts them*: one of the two leave messages
//!   may get lost, and corosync then sees two changes some seconds apart instead of one;
//! * *a server that returns to a network in parts*: the part whose daemons reach it first has the vote
//!   of lms;
//! * *a server that hangs*: its vote goes node by node within 17 s. Here servers die.
//!
//! **Does not know:** what any of it leads to.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use serde_json::{Value, json};

use crate::cluster::{Cluster, Device, Step};

/// The cluster number `index` of `seed`, and a history of so many steps.
pub fn draw(seed: u64, index: u64, steps: usize) -> (Cluster, Vec<Step>) {
    let mut random = Rng::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ index);
    let cluster = cluster(&mut random);
    let history = history(&mut random, &cluster, steps);
    (cluster, history)
}

fn cluster(random: &mut Rng) -> Cluster {
    let count = *random.choice([2, 3, 3, 3, 4, 5].iter()).expect("there are some");
    let mut votes: Vec<u32> = match random.u8(..4) {
        0 | 1 => vec![1; count],
        2 => {
            let mut votes = vec![1; count];
            votes[0] = u32::try_from(count).expect("a few");
            votes
        }
        _ => (0..count).map(|_| random.u32(..=4)).collect(),
    };
    if votes.iter().sum::<u32>() == 0 {
        votes[0] = 1;
    }
    let device = (random.u8(..10) < 4).then(|| device(random, &votes));
    let quorum = flags(random, &votes, device.is_some());
    let nodes = votes.iter().enumerate().map(|(at, votes)| (format!("n{}", at + 1), *votes));
    Cluster { nodes: nodes.collect(), quorum, device, config_version: 1 }
}

fn device(random: &mut Rng, votes: &[u32]) -> Device {
    let even = votes.iter().all(|votes| *votes == 1);
    let sum: u32 = votes.iter().sum();
    match random.u8(..8) {
        0..4 if even => Device { algorithm: "ffsplit", votes: Some(1) },
        4..=6 if even => Device { algorithm: "lms", votes: None },
        // With uneven votes corosync then refuses to start.
        7 => Device { algorithm: "lms", votes: None },
        _ => Device { algorithm: "lms", votes: Some(sum.saturating_sub(1).max(1)) },
    }
}

fn flags(random: &mut Rng, votes: &[u32], with_device: bool) -> BTreeMap<String, Value> {
    let mut flags = BTreeMap::new();
    let mut one_in = |chance: u8, key: &str, value: Value| {
        if random.u8(..chance) == 0 {
            flags.insert(key.to_owned(), value);
        }
    };
    one_in(3, "wait_for_all", json!(1));
    // corosync refuses these beside a device; once in a while that refusal is drawn too.
    let rarer = if with_device { 5 } else { 1 };
    one_in(3 * rarer, "last_man_standing", json!(1));
    one_in(3 * rarer, "auto_tie_breaker", json!(1));
    one_in(6 * rarer, "allow_downscale", json!(1));
    one_in(if votes.len() == 2 { 2 } else { 12 } * rarer, "two_node", json!(1));
    let highest = random.bool();
    if flags.contains_key("auto_tie_breaker") && highest {
        flags.insert("auto_tie_breaker_node".into(), json!("highest"));
    }
    if random.u8(..8) == 0 {
        let sum: u32 = votes.iter().sum();
        let given = random.u32(1.max(sum.saturating_sub(2))..=sum + 2);
        flags.insert("expected_votes".into(), json!(given));
    }
    flags
}

/// Who is up, as far as the drawing needs it.
struct Drawing<'a> {
    random: &'a mut Rng,
    cluster: &'a Cluster,
    up: BTreeSet<String>,
    server: bool,
    daemons_off: BTreeSet<String>,
    parted: bool,
}

fn history(random: &mut Rng, cluster: &Cluster, steps: usize) -> Vec<Step> {
    let mut drawing = Drawing {
        random,
        cluster,
        up: BTreeSet::new(),
        server: true,
        daemons_off: BTreeSet::new(),
        parted: false,
    };
    (0..steps).map(|_| drawing.step()).collect()
}

impl Drawing<'_> {
    fn step(&mut self) -> Step {
        let down: Vec<String> =
            self.cluster.names().into_iter().filter(|name| !self.up.contains(name)).collect();
        if self.up.is_empty() {
            return self.boot(down);
        }
        loop {
            match self.random.u8(..20) {
                0..5 if !down.is_empty() => return self.boot(down),
                5..11 => return self.stop(),
                11..13 => return self.crash(),
                13..15 if self.cluster.device.is_some() && (self.server || !self.parted) => {
                    self.server = !self.server;
                    return Step::Server(self.server);
                }
                15 if self.cluster.device.is_some() => {
                    let name = self.somebody();
                    let on = self.daemons_off.remove(&name);
                    if !on {
                        self.daemons_off.insert(name.clone());
                    }
                    return Step::Daemon(name, on);
                }
                16..18 => {
                    let most: u32 = self.cluster.nodes.iter().map(|(_, votes)| votes).sum();
                    let name = self.somebody();
                    return Step::Expected(self.random.u32(1..=most + 1), name);
                }
                18 if !self.parted && self.up.len() > 1 => return self.part(),
                18 | 19 if self.parted => {
                    self.parted = false;
                    return Step::Heal;
                }
                _ => {}
            }
        }
    }

    fn somebody(&mut self) -> String {
        self.random.choice(self.up.iter()).expect("somebody is up").clone()
    }

    fn some_of(&mut self, names: Vec<String>, at_least: usize) -> Vec<String> {
        let mut names = names;
        self.random.shuffle(&mut names);
        let count = self.random.usize(at_least..=names.len());
        names.truncate(count);
        names
    }

    fn boot(&mut self, down: Vec<String>) -> Step {
        let new = if self.random.bool() { down } else { self.some_of(down, 1) };
        self.up.extend(new);
        self.have_up()
    }

    fn have_up(&self) -> Step {
        Step::Up(self.up.iter().cloned().collect())
    }

    /// Several at once only where nobody counts the changes.
    fn several(&mut self) -> bool {
        let counts = ["last_man_standing", "auto_tie_breaker", "allow_downscale", "wait_for_all"];
        self.up.len() > 2
            && !counts.iter().any(|flag| self.cluster.flag(flag))
            && self.random.u8(..4) == 0
    }

    fn leaving(&mut self) -> Vec<String> {
        let count = if self.several() { 2 } else { 1 };
        let mut up: Vec<String> = self.up.iter().cloned().collect();
        self.random.shuffle(&mut up);
        up.truncate(count);
        for name in &up {
            self.up.remove(name);
            self.daemons_off.remove(name);
        }
        up
    }

    fn stop(&mut self) -> Step {
        self.leaving();
        self.have_up()
    }

    fn crash(&mut self) -> Step {
        Step::Crash(self.leaving())
    }

    fn part(&mut self) -> Step {
        self.parted = true;
        let mut names = self.cluster.names();
        self.random.shuffle(&mut names);
        let cut = self.random.usize(1..names.len());
        let other = names.split_off(cut);
        Step::Partition(vec![names, other])
    }
}
