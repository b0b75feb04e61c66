//! Properties of every plan, over drawn worlds: it is total, it leaves alone what must be left
//! alone, and for everything wanted and not done there is a hold.
//!
//! **Does not know:** the gate; what it would refuse is not repaired here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fastrand::Rng;
use jiff::Timestamp;

use super::{HostState, Plan, plan};
use crate::cluster::{
    Answer, ClockState, Device, Gap, GuestFacts, GuestKind, GuestSeen, HostName, HostSeen, Memory,
    Moment, Observation, Question, Readiness, Reported, RunState, Stamped, Tier, Vmid,
};
use crate::ledger::{Entry, Ledger, Wants, notice};
use crate::policy::calendar::Window;
use crate::policy::{
    Ahead, EvidencePolicy, GuestRule, Host, LocalDisks, Match, Migrations, OrElse, Otherwise,
    Policy, QuorumPolicy, Rescue, Reserve, Rule, WakeHints,
};
use crate::request::{Move, Request};

const HOSTS: [&str; 4] = ["h1", "h2", "h3", "h4"];

fn now() -> Moment {
    // A Monday, 10:00 in UTC.
    let civil = Timestamp::from_second(1_795_428_000).unwrap();
    Moment { civil, monotonic: Duration::from_secs(100_000) }
}

fn host(index: usize) -> HostName {
    HostName::from(HOSTS[index])
}

fn one_of<T: Clone>(rng: &mut Rng, all: &[T]) -> T {
    all[rng.usize(..all.len())].clone()
}

fn policy(rng: &mut Rng) -> Policy {
    let mut hosts = BTreeMap::new();
    for (index, name) in HOSTS.iter().enumerate() {
        let tier = if index == 0 { Tier::Low } else { one_of(rng, &[Tier::Medium, Tier::High]) };
        let host = Host {
            node: (*name).into(),
            tier,
            macs: if rng.u8(..8) > 0 { vec!["a8:a1:59:00:00:01".parse().unwrap()] } else { vec![] },
            wake: WakeHints { proven: rng.bool(), ..WakeHints::default() },
            boot_within: Duration::from_secs(600),
            min_on: Duration::from_secs(900),
            min_off: Duration::from_secs(600),
            lease: Duration::from_secs(3600),
            quiet: vec![],
            enforce: rng.bool(),
            ahead: Ahead::Auto,
            serves: vec![],
            busy_while: vec![],
            watts: None,
            reserve: Reserve::Percent(10),
            uninhibited: BTreeSet::new(),
        };
        hosts.insert(HostName::from(*name), host);
    }
    let rule = |rng: &mut Rng, tag: &str| GuestRule {
        matches: Match { tag: Some(tag.into()), ..Match::default() },
        prefer: (0..rng.usize(..4)).map(|_| host(rng.usize(..4))).collect(),
        otherwise: one_of(
            rng,
            &[
                Otherwise::Migrate,
                Otherwise::KeepAwake,
                Otherwise::ShutDown,
                Otherwise::Hibernate { or: OrElse::KeepAwake },
                Otherwise::Hibernate { or: OrElse::ShutDown },
            ],
        ),
        restart: rng.bool(),
        pinned: rng.u8(..6) == 0,
        local_disks: LocalDisks::Replicated,
        apart: None,
    };
    let guests = vec![rule(rng, "a"), rule(rng, "b")];
    let window = Window::parse("0 8 * * *", "10h", "UTC").unwrap();
    let rules = (0..rng.usize(..3))
        .map(|index| Rule {
            name: format!("rule{index}"),
            hosts: vec![host(rng.usize(1..4))],
            run: vec![window.clone()],
            for_backups: None,
        })
        .collect();
    let quorum = QuorumPolicy {
        spare: rng.u32(..2),
        evidence: EvidencePolicy::Runtime,
        rescue: one_of(rng, &[Rescue::Wake, Rescue::Tell]),
    };
    Policy { hosts, guests, rules, quorum, migrations: Migrations { per_host: 1, bandwidth: None } }
}

fn observation(rng: &mut Rng) -> Observation {
    let mut seen = Observation::blank(now());
    seen.clock =
        one_of(rng, &[ClockState::Synchronised, ClockState::Synchronised, ClockState::Unknown]);
    seen.quorate = one_of(rng, &[Some(true), Some(true), Some(true), Some(false), None]);
    seen.config_version = Some(4);
    seen.seen_from = Some(host(0));
    if rng.u8(..10) == 0 {
        seen.gaps.push(Gap { what: "resources".into(), why: "no answer".into() });
    }
    for (index, name) in HOSTS.iter().enumerate() {
        let member = if index == 0 { Some(true) } else { one_of(rng, &[Some(true), Some(false)]) };
        let look = HostSeen {
            node: (*name).into(),
            member: member.filter(|_| seen.quorate.is_some()),
            listed: true,
            addressed: true,
            reported: Reported::Online,
            uptime_seconds: member.filter(|up| *up).map(|_| rng.u64(..100_000)),
            memory: Some(Memory { total_bytes: 32 << 30, used_bytes: rng.u64(..30) << 30 }),
            cpu: None,
            power: None,
        };
        seen.hosts.insert(HostName::from(*name), look);
        if rng.bool() {
            let readiness = Readiness {
                api: true,
                quorate: rng.u8(..8) > 0,
                uptime_seconds: 5000,
                storages_missing: vec![],
                startall_done: one_of(rng, &[Some(true), Some(false), None]),
            };
            let answer = Ok(Answer::Readiness(readiness));
            let question = Question::Readiness(HostName::from(*name));
            seen.answers.insert(question, Stamped { asked: now(), answer });
        }
    }
    for vmid in 100..100 + rng.u32(..8) {
        let guest = GuestSeen {
            kind: one_of(rng, &[GuestKind::Vm, GuestKind::Ct]),
            host: host(rng.usize(..4)),
            name: None,
            status: one_of(
                rng,
                &[
                    RunState::Running,
                    RunState::Running,
                    RunState::Stopped,
                    RunState::Unknown,
                    RunState::Other("paused".into()),
                ],
            ),
            template: rng.u8(..10) == 0,
            tags: BTreeSet::from([one_of(rng, &["a", "b", "c"]).to_owned()]),
            pool: None,
            lock: (rng.u8(..10) == 0).then(|| "backup".into()),
            memory_bytes: Some(rng.u64(1..8) << 30),
            cpu: None,
            ha: None,
            uptime_seconds: None,
        };
        seen.guests.insert(Vmid(vmid), guest);
        if rng.u8(..4) > 0 {
            let pci = Device { key: "hostpci0".into(), mapped: false, holds: true };
            let facts = GuestFacts {
                devices: if rng.u8(..4) == 0 { vec![pci] } else { vec![] },
                ..GuestFacts::default()
            };
            let answer = Ok(Answer::Guest(Box::new(facts)));
            seen.answers.insert(Question::Guest(Vmid(vmid)), Stamped { asked: now(), answer });
        }
    }
    seen
}

/// A past that could have been: earlier looks noticed, leases, frozen hosts, failures.
fn ledger(rng: &mut Rng, seen: &Observation) -> Ledger {
    let mut ledger = Ledger::default();
    let early = now().civil - Duration::from_secs(7200);
    let take = |ledger: &mut Ledger, minutes: u64, entry: Entry| {
        ledger.take(early + Duration::from_secs(60 * minutes), &entry).unwrap();
    };
    for index in 1..4 {
        let host = host(index);
        match rng.u8(..10) {
            0 => take(&mut ledger, 1, Entry::Frozen { host, by: "eva".into() }),
            1 | 2 => {
                let wants = one_of(rng, &[Wants::Awake, Wants::Rest]);
                let (until, because, by) = (None, None, "eva".into());
                take(&mut ledger, 1, Entry::LeaseGranted { host, wants, until, because, by });
            }
            3 => take(&mut ledger, 1, Entry::EmptyingAsked { host, by: "eva".into() }),
            4 => take(&mut ledger, 1, Entry::ProofAsked { host, by: "eva".into() }),
            5 => take(&mut ledger, 90, Entry::WakeFailed { host, attempts: rng.u32(1..7) }),
            6 => {
                let because = "window".into();
                take(&mut ledger, 1, Entry::HostWanted { host, because });
            }
            _ => {}
        }
    }
    if rng.bool() {
        let votes = HOSTS.iter().map(|name| (HostName::from(*name), rng.u32(1..4))).collect();
        take(&mut ledger, 2, Entry::VotesSeen { version: 4, votes });
    }
    for looks in 0..rng.u64(..3) {
        let mut past = seen.clone();
        past.at = Moment {
            civil: early + Duration::from_secs(600 * (looks + 1)),
            monotonic: Duration::from_secs(600 * (looks + 1)),
        };
        past.answers.values_mut().for_each(|stamped| stamped.asked = past.at);
        for entry in notice(&ledger, &past) {
            ledger.take(past.at.civil, &entry).unwrap();
        }
    }
    ledger
}

fn of<'a>(
    plan: &'a Plan,
    wanted: impl Fn(&Request) -> bool + 'a,
) -> impl Iterator<Item = &'a Request> {
    let all = plan.moves.iter().flat_map(|planned| &planned.requests);
    all.filter(move |request| wanted(request))
}

#[test]
fn every_plan_is_sound_and_everything_not_done_is_told() {
    for seed in 0..4000 {
        let mut rng = Rng::with_seed(seed);
        let (policy, seen) = (policy(&mut rng), observation(&mut rng));
        let ledger = ledger(&mut rng, &seen);
        let plan = plan(&policy, &seen, &ledger, now());
        let story = || format!("seed {seed}\n{plan:#?}");

        let frozen = |request: &Request| {
            request.hosts().into_iter().any(|host| ledger.frozen.contains_key(host))
        };
        assert_eq!(of(&plan, frozen).next(), None, "frozen; {}", story());

        for request in of(&plan, |_| true) {
            match request {
                Request::PowerOff { host } => {
                    assert_ne!(policy.hosts[host].tier, Tier::Low, "{}", story());
                    let used = seen.guests_on(host).any(|(_, g)| g.status.may_run() && !g.template);
                    assert!(!used, "{host} is in use; {}", story());
                    assert!(!plan.desire[host].awake, "{host} is wanted; {}", story());
                }
                Request::Wake { host, .. } => {
                    assert!(!seen.members().contains(host), "{host} is up; {}", story());
                }
                Request::Migrate { to, from, .. } => {
                    assert!(plan.desire[to].awake, "nobody wants {to}; {}", story());
                    assert_ne!(to, from, "{}", story());
                    assert!(seen.members().contains(to) && seen.members().contains(from));
                }
                Request::Hibernate { host, .. }
                | Request::ShutDownGuest { host, .. }
                | Request::StartGuest { host, .. } => {
                    assert!(seen.members().contains(host), "{host} is off; {}", story());
                }
            }
        }

        // Nothing happens to guests or power without a whole look and a clock to trust.
        if !seen.whole() || seen.clock != ClockState::Synchronised {
            let beyond_packets = |request: &Request| !matches!(request, Request::Wake { .. });
            assert_eq!(of(&plan, beyond_packets).next(), None, "{}", story());
        }

        // Promise 9: whatever is wanted and not so has a move or a hold.
        for (host, desire) in plan.desire.iter().filter(|(_, desire)| !desire.untouched) {
            let moved = plan.moves.iter().any(|planned| planned.purpose.host() == host);
            let held = plan.holds.iter().any(|hold| hold.host().is_none_or(|on| on == host));
            let done = match plan.states[host] {
                HostState::Awake | HostState::Waking | HostState::Leaving => desire.awake,
                HostState::Resting | HostState::Missing => !desire.awake,
                HostState::Unknown => false,
            };
            assert!(done || moved || held, "{host} is not told; {}", story());
        }
    }
}

#[test]
fn a_plan_is_the_same_for_the_same_world() {
    for seed in 0..200 {
        let drawn = || {
            let mut rng = Rng::with_seed(seed);
            let (policy, seen) = (policy(&mut rng), observation(&mut rng));
            let ledger = ledger(&mut rng, &seen);
            plan(&policy, &seen, &ledger, now())
        };
        assert_eq!(drawn(), drawn());
    }
}

/// The volleys of a wake: at 0, 1, 5, 15 and 30 s, then every 30 s, and no more once it is over.
#[test]
fn packets_go_out_at_their_times_until_the_wake_is_over() {
    let mut rng = Rng::with_seed(1);
    let mut policy = policy(&mut rng);
    policy.rules.clear();
    let mut seen = Observation::blank(now());
    seen.quorate = Some(true);
    for (index, name) in HOSTS.iter().enumerate() {
        let look = HostSeen {
            node: (*name).into(),
            member: Some(index == 0),
            listed: true,
            addressed: true,
            reported: Reported::Offline,
            uptime_seconds: None,
            memory: None,
            cpu: None,
            power: None,
        };
        seen.hosts.insert(HostName::from(*name), look);
    }
    policy.hosts.get_mut(&HostName::from("h2")).unwrap().macs =
        vec!["a8:a1:59:00:00:02".parse().unwrap()];
    let mut ledger = Ledger::default();
    let lease = Entry::LeaseGranted {
        host: "h2".into(),
        wants: Wants::Awake,
        until: None,
        because: None,
        by: "eva".into(),
    };
    ledger.take(now().civil, &lease).unwrap();
    let mut sent: Vec<u64> = Vec::new();
    let mut failed_at = None;
    for second in 0..700 {
        let moment = now().plus(Duration::from_secs(second));
        seen.at = moment;
        for entry in notice(&ledger, &seen) {
            ledger.take(moment.civil, &entry).unwrap();
        }
        let plan = plan(&policy, &seen, &ledger, moment);
        let wake = Move::Wake("h2".into());
        if let Some(ending) = plan.endings.first() {
            assert_eq!(ledger.undertakings[&ending.id].purpose, wake);
            failed_at = Some(second);
            break;
        }
        let Some(planned) = plan.moves.iter().find(|planned| planned.purpose == wake) else {
            continue;
        };
        for request in &planned.requests {
            use crate::request::Answered;
            use crate::undertaking::Event;
            sent.push(second);
            let id = ledger.undertaking(&wake).map_or(1, |open| open.id);
            if ledger.undertaking(&wake).is_none() {
                let begun = Entry::Begun { id, purpose: wake.clone(), because: String::new() };
                ledger.take(moment.civil, &begun).unwrap();
            }
            let request_id = ledger.last_request + 1;
            let (request, at) = (request.clone(), moment.civil);
            let answer = Answered::Sent { packets: 1, by: vec![], but: vec![] };
            for event in [
                Event::Intended { request_id, request, at, by_configured_votes: false },
                Event::Answered { request_id, answer },
            ] {
                ledger.take(moment.civil, &Entry::Progress { id, event }).unwrap();
            }
        }
    }
    assert_eq!(sent[..8], [0, 1, 5, 15, 30, 60, 90, 120]);
    assert_eq!(sent.last(), Some(&570));
    assert_eq!(failed_at, Some(600));
}
