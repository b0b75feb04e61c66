//! The gate's cautious arithmetic against the model, exhaustively on small clusters, and what holds
//! in every history.

use super::super::conf::{DeviceSection, NodeConf, QuorumConf};
use super::super::{
    CorosyncConf, DeviceAlgorithm, DeviceConf, Evidence, MemberVotes, Tally, tally,
};
use super::*;
use crate::cluster::HostName;

fn host(id: Id) -> HostName {
    HostName(format!("n{id}"))
}

fn conf(votes: &[u32], quorum: &QuorumConf, device: Option<DeviceSection>) -> Conf {
    let nodes =
        (1..).zip(votes).map(|(id, votes)| (id, NodeConf { name: host(id), votes: *votes }));
    Conf { nodes: nodes.collect(), quorum: quorum.clone(), device }
}

/// What a member's report would show.
fn evidence(model: &Model, member: &Member) -> Evidence {
    let device = model.conf.device.map(|device| DeviceConf {
        algorithm: match device.algorithm {
            Algorithm::Ffsplit => DeviceAlgorithm::Ffsplit,
            Algorithm::Lms => DeviceAlgorithm::Lms,
        },
        votes: device.votes,
        server: None,
    });
    let column = |flags: &super::super::member::Flags| {
        let column = match (flags.registered, flags.alive, flags.cast) {
            (false, _, _) => "NR",
            (true, false, _) => "NA,NV,NMW",
            (true, true, false) => "A,NV,NMW",
            (true, true, true) => "A,V,NMW",
        };
        device.is_some().then(|| column.to_owned())
    };
    let cast = member.total() - member.table().map(|(_, votes, _)| votes).sum::<u32>();
    Evidence {
        expected: member.expected(),
        highest_expected: member.expected(),
        total: member.total(),
        quorum: member.quorum(),
        quorate: member.quorate(),
        flags: member.shown_flags(),
        ring: "1.1".into(),
        members: member
            .table()
            .map(|(id, votes, flags)| (host(id), MemberVotes { votes, device: column(&flags) }))
            .collect(),
        device_votes: device.is_some().then_some(cast),
        conf: CorosyncConf {
            config_version: Some(1),
            votes: model.conf.nodes.values().map(|n| (n.name.0.clone(), n.votes)).collect(),
            device: device.clone(),
            ..CorosyncConf::default()
        },
        guests: Ok(BTreeMap::new()),
        addresses: vec![],
    }
}

fn tallied(model: &Model, stops: &BTreeSet<Id>) -> Tally {
    let all: BTreeMap<HostName, Evidence> =
        model.members().map(|(id, member)| (host(id), evidence(model, member))).collect();
    let views = all.iter().map(|(host, one)| (host.clone(), one)).collect();
    tally(&views, &stops.iter().map(|id| host(*id)).collect(), false, true)
}

fn of_mask(mask: u32, among: &BTreeSet<Id>) -> BTreeSet<Id> {
    among.iter().copied().filter(|id| mask >> (id - 1) & 1 == 1).collect()
}

fn all_quorate(model: &Model) -> bool {
    model.members().all(|(_, member)| member.quorate())
}

/// What came of every set of stops the cautious rule was asked about.
#[derive(Default)]
struct Count {
    safe: usize,
    refused: usize,
    needlessly: usize,
    wrong: Vec<String>,
}

const SECONDS: Duration = Duration::from_secs(15);

/// Judges every set of stops of this living cluster: at once and one by one, cleanly and by a
/// crash.
fn judge(model: &Model, told: &str, count: &mut Count) {
    // The gate refuses whoever is not quorate, before it counts.
    if !all_quorate(model) {
        return;
    }
    let up = model.up();
    for mask in 1..1u32 << 5 {
        let stops = of_mask(mask, &up);
        if stops.is_empty()
            || stops.len() == up.len()
            || u32::from(mask.count_ones() as u8) != stops.len() as u32
        {
            continue;
        }
        let stay: BTreeSet<Id> = up.difference(&stops).copied().collect();
        let mut ends = [model.clone(), model.clone(), model.clone(), model.clone()];
        ends[0].set_up(&stay);
        ends[1].crash(&stops);
        let mut left = up.clone();
        for id in &stops {
            left.remove(id);
            ends[2].set_up(&left);
        }
        let mut left = up.clone();
        for id in stops.iter().rev() {
            left.remove(id);
            ends[3].set_up(&left);
            let later = ends[3].now + SECONDS;
            ends[3].pass_until(later);
        }
        let kept = ends.iter().all(all_quorate);
        let verdict = tallied(model, &stops);
        match (verdict.keeps(0), kept) {
            (true, true) => count.safe += 1,
            (true, false) => {
                let which: Vec<bool> = ends.iter().map(all_quorate).collect();
                count
                    .wrong
                    .push(format!("{told}: up {up:?} less {stops:?}: {verdict:?} {which:?}"));
            }
            (false, kept) => {
                count.refused += 1;
                count.needlessly += usize::from(kept);
            }
        }
    }
}

/// Every living set of this cluster, come by in two ways.
fn judge_cluster(conf: &Conf, server: bool, count: &mut Count) {
    let all: BTreeSet<Id> = conf.nodes.keys().copied().collect();
    let told = |way: &str| {
        let votes: Vec<u32> = conf.nodes.values().map(|node| node.votes).collect();
        format!("{votes:?} {:?} {:?} server {server} {way}", conf.quorum, conf.device)
    };
    for mask in 1..1u32 << all.len() {
        let live = of_mask(mask, &all);
        let mut booted = Model::new(conf.clone());
        booted.set_server(server);
        booted.set_up(&live);
        judge(&booted, &told("booted"), count);
        let mut shrunk = Model::new(conf.clone());
        shrunk.set_up(&all);
        shrunk.set_server(server);
        shrunk.set_up(&live);
        shrunk.pass_until(SECONDS);
        judge(&shrunk, &told("shrunk"), count);
    }
}

fn vote_vectors(hosts: u32) -> impl Iterator<Item = Vec<u32>> {
    (0..5u32.pow(hosts)).map(move |code| (0..hosts).map(|i| code / 5u32.pow(i) % 5).collect())
}

fn devices() -> Vec<Option<DeviceSection>> {
    let mut devices = vec![None];
    for algorithm in [Algorithm::Ffsplit, Algorithm::Lms] {
        for votes in [None, Some(1), Some(2), Some(4)] {
            devices.push(Some(DeviceSection { algorithm, votes }));
        }
    }
    devices
}

fn report(count: &Count) {
    println!("safe {}, refused {} ({} needlessly)", count.safe, count.refused, count.needlessly);
    let some = count.wrong.iter().take(TOLD_AT_MOST).cloned().collect::<Vec<_>>().join("\n");
    assert!(count.wrong.is_empty(), "{} called safe and lost:\n{some}", count.wrong.len());
    assert!(count.safe > 0 && count.refused > 0);
}

const TOLD_AT_MOST: usize = 40;

/// Of every cluster of up to 4 hosts with 0 to 4 votes, with every kind of QDevice alive or dead,
/// every living set and every set of stops: whatever the cautious rule calls safe leaves every
/// survivor quorate.
#[test]
fn what_the_cautious_rule_calls_safe_leaves_all_survivors_quorate() {
    let mut count = Count::default();
    let plain = QuorumConf::default();
    for hosts in 1..=4 {
        for votes in vote_vectors(hosts) {
            for device in devices() {
                // Who has which votes matters to no rule but a tie's, so four hosts with a QDevice
                // are taken in rising and falling order only.
                if hosts == 4
                    && device.is_some()
                    && !votes.is_sorted()
                    && !votes.iter().rev().is_sorted()
                {
                    continue;
                }
                let conf = conf(&votes, &plain, device);
                judge_cluster(&conf, true, &mut count);
                if device.is_some() {
                    judge_cluster(&conf, false, &mut count);
                }
            }
        }
    }
    report(&count);
}

/// The same under every switch of the quorum section, none of which the rule gives credit for.
#[test]
fn no_switch_of_the_quorum_section_turns_a_safe_stop_into_a_lost_quorum() {
    let mut count = Count::default();
    for hosts in 1..=4 {
        // Of more hosts only rising votes, of four up to two each: the rest adds time alone.
        let most = if hosts < 4 { 4 } else { 2 };
        let few = |votes: &Vec<u32>| votes.is_sorted() && votes.iter().all(|one| *one <= most);
        for votes in vote_vectors(hosts).filter(|votes| hosts < 3 || few(votes)) {
            for switches in 0..1u32 << 7 {
                let on = |bit: u32| (switches >> bit & 1 == 1).then_some(1);
                let quorum = QuorumConf {
                    two_node: on(0),
                    wait_for_all: on(1),
                    last_man_standing: on(2),
                    auto_tie_breaker: on(3),
                    allow_downscale: on(4),
                    expected_votes: on(5).map(|_| 1 + votes.iter().sum::<u32>() / 2),
                    ..QuorumConf::default()
                };
                let device =
                    on(6).map(|_| DeviceSection { algorithm: Algorithm::Lms, votes: Some(1) });
                judge_cluster(&conf(&votes, &quorum, device), true, &mut count);
            }
        }
    }
    report(&count);
}

/// Partitions of the living, as their members show them.
fn rings(model: &Model) -> BTreeSet<BTreeSet<Id>> {
    model.members().map(|(_, member)| member.ring().clone()).collect()
}

/// One of the things that may befall a cluster, drawn.
fn befall(model: &mut Model, random: &mut fastrand::Rng) {
    let all: Vec<Id> = model.conf.nodes.keys().copied().collect();
    let mut some = || -> BTreeSet<Id> { all.iter().copied().filter(|_| random.bool()).collect() };
    let (one, other) = (some(), some());
    match random.u32(0..6) {
        0 | 1 => {
            model.set_up(&one.union(&other).copied().collect());
        }
        2 => model.crash(&one.intersection(&other).copied().collect()),
        3 => model.partition(&[
            one.clone(),
            all.iter().copied().filter(|id| !one.contains(id)).collect(),
        ]),
        4 => model.heal(),
        _ => model.set_server(random.bool()),
    }
    let later = model.now + SECONDS;
    model.pass_until(later);
}

const HISTORIES: u64 = 400;
const STEPS: usize = 12;

/// Whatever befalls a cluster without switches: the members of a ring count each other's votes, all
/// rings together count every vote once, no two rings are quorate, and nobody ever expects fewer
/// votes than the file gives or than it counts.
#[test]
fn in_every_history_votes_are_counted_once_and_one_ring_rules() {
    for seed in 0..HISTORIES {
        let mut random = fastrand::Rng::with_seed(seed);
        let votes: Vec<u32> = (0..random.usize(2..6)).map(|_| random.u32(0..5)).collect();
        let device = random.bool().then(|| DeviceSection {
            algorithm: if random.bool() { Algorithm::Ffsplit } else { Algorithm::Lms },
            votes: Some(random.u32(1..4)),
        });
        let mut model = Model::new(conf(&votes, &QuorumConf::default(), device));
        for step in 0..STEPS {
            let before = model.views();
            befall(&mut model, &mut random);
            let told = format!("seed {seed}, step {step}: {votes:?} {device:?}");
            let own = |id: &Id| votes[*id as usize - 1];
            let mut counted = 0;
            for ring in rings(&model) {
                let sum: u32 = ring.iter().map(own).sum();
                counted += sum;
                for (id, member) in model.members().filter(|(id, _)| ring.contains(id)) {
                    let seen: u32 = member.table().map(|(_, votes, _)| votes).sum();
                    assert_eq!(seen, sum, "{told}: n{id} of {ring:?}");
                    let extra = member.total() - sum;
                    assert!(extra == 0 || device.is_some_and(|d| d.votes == Some(extra)), "{told}");
                }
            }
            assert_eq!(counted, model.up().iter().map(own).sum::<u32>(), "{told}");
            let ruling = rings(&model)
                .iter()
                .filter(|ring| model.members().any(|(id, m)| ring.contains(&id) && m.quorate()))
                .count();
            // An lms QDevice's votes are expected only once they were seen beside everybody's,
            // and a ring that boots finds them given to another: then two rings may rule.
            let lms = device.is_some_and(|device| device.algorithm == Algorithm::Lms);
            assert!(lms || ruling <= 1, "{told}: two rings are quorate: {:?}", model.views());
            for (id, view) in model.views() {
                let all: u32 = votes.iter().sum();
                let least = if device.is_none() { all } else { all.max(view.total) };
                assert!(view.expected >= least, "{told}: n{id} expects {}", view.expected);
                assert!(device.is_some() || view.expected == all, "{told}: n{id}");
                // Within one run of a member nothing here lowers what it expects below the file.
                let was = before.get(&id).map_or(0, |was| was.expected.min(all));
                assert!(view.expected >= was, "{told}: n{id} forgot");
            }
        }
    }
}

#[test]
fn one_more_failure_is_foretold_from_what_the_members_show() {
    use super::super::foresight::{Failure, Foresight};
    let foretold = |votes: &[u32], device: Option<DeviceSection>, off: &[Id], stops: &[Id]| {
        let mut model = Model::new(conf(votes, &QuorumConf::default(), device));
        let all = model.conf.nodes.keys().copied().collect();
        model.set_up(&all);
        model.set_up(&all.difference(&off.iter().copied().collect()).copied().collect());
        let shown: BTreeMap<HostName, Evidence> =
            model.members().map(|(id, member)| (host(id), evidence(&model, member))).collect();
        let views = shown.iter().map(|(host, one)| (host.clone(), one)).collect();
        let now = Foresight::of(&views).expect("the model shows the same");
        now.without(&stops.iter().map(|id| host(*id)).collect()).lost_with()
    };
    let hosts = |ids: &[Id]| ids.iter().map(|id| Failure::Host(host(*id))).collect::<Vec<_>>();
    assert_eq!(foretold(&[3, 1, 1], None, &[], &[]), hosts(&[1]));
    assert_eq!(foretold(&[1, 1, 1], None, &[], &[]), hosts(&[]));
    assert_eq!(foretold(&[1, 1, 1], None, &[], &[3]), hosts(&[1, 2]));
    assert_eq!(foretold(&[1, 1, 1], None, &[3], &[]), hosts(&[1, 2]));
    let half = Some(DeviceSection { algorithm: Algorithm::Ffsplit, votes: Some(1) });
    assert_eq!(foretold(&[1, 1], half, &[], &[]), hosts(&[]));
    assert_eq!(
        foretold(&[1, 1], half, &[], &[2]),
        [Failure::Host(host(1)), Failure::QDevice],
        "the last one is lost with itself"
    );
}
