//! The live site over the pretended cluster, where requests have effects.
//!
//! **Does not know:** who would ask for such things, and whether they may.

#[cfg(test)]
use crate::pretend::{LeapClock, MemoryTransport, MemoryWaker, Shared, World};

use super::alone;
use crate::cluster::{Answer, GuestKind, HostName, Observation, Question, RunState, Vmid, Way};
use crate::pve::{Endpoint, Endpoints, Live};
use crate::request::{Answered, Migration, Request};
use crate::site::Site;
use std::time::Duration;

struct Home {
    site: Live<MemoryTransport<LeapClock>, MemoryWaker, LeapClock>,
    world: Shared,
}

impl Home {
    fn new() -> Home {
        let world = World::reference();
        let clock = LeapClock::new(world.start());
        let end = |host: &crate::pretend::power::Host| {
            (host.name.clone(), Endpoint { node: host.node.clone(), addressed: true, fixed: true })
        };
        let hosts = world.hosts().map(end).collect();
        let world = world.share(&clock);
        let transport = MemoryTransport::new(world.clone(), clock.clone());
        let waker = MemoryWaker::new(world.clone());
        let prefer = vec!["host1".into()];
        let endpoints = Endpoints { hosts, prefer, token: "spot@pve!spot".into() };
        Home { site: Live::new(transport, waker, clock, endpoints), world }
    }

    async fn wait(&self, seconds: u64) {
        let at = self.site.now().plus(Duration::from_secs(seconds));
        self.site.wait_until(at).await;
    }

    /// Asks until `question` is answered; 20 turns of 3 s are enough for a report.
    async fn answer(&mut self, question: Question) -> Answer {
        let began = self.site.now();
        for _ in 0..20 {
            let seen = self.site.observe(std::slice::from_ref(&question)).await;
            if let Some(stamped) = seen.answers.get(&question).filter(|s| s.asked >= began) {
                return stamped.answer.clone().unwrap_or_else(|gap| panic!("{gap}"));
            }
            self.wait(3).await;
        }
        panic!("{question:?} is never answered");
    }

    /// Looks every 5 s until `there`, for 10 minutes at most.
    async fn until(&mut self, there: impl Fn(&Observation) -> bool) -> Observation {
        for _ in 0..120 {
            let seen = self.site.observe(&[]).await;
            if there(&seen) {
                return seen;
            }
            self.wait(5).await;
        }
        panic!("it never comes true");
    }
}

fn member(seen: &Observation, host: &str) -> Option<bool> {
    seen.hosts[&HostName::from(host)].member
}

#[test]
fn the_reference_home_is_seen_whole() {
    alone(async {
        let mut home = Home::new();
        let seen = home.site.observe(&[]).await;
        assert!(seen.whole(), "{:?}", seen.gaps);
        assert_eq!((seen.quorate, seen.cluster.as_deref()), (Some(true), Some("homelab")));
        assert_eq!(seen.seen_from, Some("host1".into()));
        assert_eq!((member(&seen, "host2"), member(&seen, "host3")), (Some(true), Some(false)));
        assert_eq!(seen.guests.len(), 6);
        assert_eq!(seen.guests[&Vmid(301)].kind, GuestKind::Ct);
    });
}

#[test]
fn evidence_and_live_lists_agree_with_the_world() {
    alone(async {
        let mut home = Home::new();
        home.site.observe(&[]).await;
        let Answer::Evidence(evidence) = home.answer(Question::Evidence("host1".into())).await
        else {
            panic!("another answer than asked for")
        };
        let votes: Vec<String> =
            evidence.members.iter().map(|(host, m)| format!("{host}={}", m.votes)).collect();
        assert_eq!(votes, ["host1=3", "host2=1"]);
        assert_eq!((evidence.expected, evidence.quorum, evidence.total), (5, 3, 4));
        let listed = evidence.guests.unwrap();
        let Answer::LiveGuests(live) = home.answer(Question::LiveGuests("host1".into())).await
        else {
            panic!("another answer than asked for")
        };
        assert_eq!(listed.keys().collect::<Vec<_>>(), live.keys().collect::<Vec<_>>());
        assert!(live.values().all(|guest| guest.status == RunState::Running));
        for question in [
            Question::Readiness("host2".into()),
            Question::Membership("host2".into()),
            Question::Permissions,
            Question::ConfiguredVotes,
            Question::Guest(Vmid(201)),
            Question::Guest(Vmid(301)),
        ] {
            home.answer(question).await;
        }
        // PVE forwards the question to the guest's host, and that one sleeps.
        let asleep = Question::Guest(Vmid(202));
        let seen = home.site.observe(std::slice::from_ref(&asleep)).await;
        let told = seen.answers.get(&asleep).map(|stamped| stamped.answer.is_err());
        assert_ne!(told, Some(false));
    });
}

#[test]
fn a_host_is_woken_gets_a_guest_gives_it_back_and_goes_off_again() {
    alone(async {
        let mut home = Home::new();
        let way = Way {
            mac: "a8:a1:59:00:00:03".parse().unwrap(),
            broadcast: None,
            interface: None,
            password: None,
            relay: None,
        };
        let wake = Request::Wake { host: "host3".into(), ways: vec![way] };
        assert!(matches!(home.site.perform(&wake).await, Answered::Sent { packets: 1, .. }));
        home.until(|seen| member(seen, "host3") == Some(true)).await;
        let readiness = Question::Readiness("host3".into());
        let mut ready = false;
        for _ in 0..20 {
            let seen = home.site.observe(std::slice::from_ref(&readiness)).await;
            let answer = seen.answers.get(&readiness).map(|stamped| &stamped.answer);
            ready = matches!(answer, Some(Ok(Answer::Readiness(host3))) if host3.ready());
            if ready {
                break;
            }
            home.wait(5).await;
        }
        assert!(ready, "host3 serves");
        for (from, to) in [("host2", "host3"), ("host3", "host2")] {
            let migrate = Request::Migrate {
                guest: Vmid(201),
                kind: GuestKind::Vm,
                from: from.into(),
                to: to.into(),
                how: Migration::Live,
                local_disks: false,
                bandwidth: None,
            };
            let answered = home.site.perform(&migrate).await;
            let Answered::Accepted { task: Some(upid) } = answered else { panic!("{answered:?}") };
            home.until(|seen| {
                let guest = &seen.guests[&Vmid(201)];
                guest.host == to.into() && guest.lock.is_none()
            })
            .await;
            let Answer::Task(Some(task)) = home.answer(Question::Task(upid)).await else {
                panic!("the task is known where it ran")
            };
            assert_eq!(task.succeeded(), Some(true));
        }
        let off = Request::PowerOff { host: "host3".into() };
        assert_eq!(home.site.perform(&off).await, Answered::Accepted { task: None });
        let seen = home.until(|seen| member(seen, "host3") == Some(false)).await;
        assert_eq!(seen.quorate, Some(true));
        let again = home.site.perform(&off).await;
        assert!(matches!(again, Answered::Undelivered { .. }), "{again:?}");
        let tally = home.world.lock().unwrap().tally();
        assert_eq!((tally.wakes, tally.power_offs, tally.migrations), (1, 1, 2));
        assert!(tally.promises_broken.is_empty(), "{:?}", tally.promises_broken);
    });
}

fn by_relay(relay: &str) -> Way {
    Way {
        mac: "a8:a1:59:00:00:03".parse().unwrap(),
        broadcast: None,
        interface: None,
        password: None,
        relay: Some(relay.into()),
    }
}

#[test]
fn a_relay_sends_pves_own_packet_as_a_second_path() {
    alone(async {
        let mut home = Home::new();
        let wake = |way: Way| Request::Wake { host: "host3".into(), ways: vec![way] };
        // Before the first look nothing is known against the relay.
        let Answered::Sent { packets, by, but } = home.site.perform(&wake(by_relay("host2"))).await
        else {
            panic!("it is sent")
        };
        assert_eq!((packets, by.as_slice()), (2, &["memory".into(), "host2 as relay".into()][..]));
        assert_eq!(but, Vec::<String>::new());
        home.until(|seen| member(seen, "host3") == Some(true)).await;
        assert_eq!(home.world.lock().unwrap().tally().wakes, 1);
    });
}

#[test]
fn a_relay_that_fails_is_told_and_harms_nothing() {
    alone(async {
        let mut home = Home::new();
        home.site.observe(&[]).await;
        let cases = [
            ("host9", "a8:a1:59:00:00:03", "spot.yaml names no address for it"),
            ("host3", "a8:a1:59:00:00:03", "it is not up"),
            ("host1", "a8:a1:59:00:00:77", "PVE knows host3 by the address `a8:a1:59:00:00:03`"),
        ];
        for (relay, mac, told) in cases {
            let mut way = by_relay(relay);
            way.mac = mac.parse().unwrap();
            let wake = Request::Wake { host: "host3".into(), ways: vec![way] };
            let Answered::Sent { packets: 1, but, .. } = home.site.perform(&wake).await else {
                panic!("our own packet is sent all the same")
            };
            assert!(but[0].contains(told), "{but:?}");
        }
    });
}

#[test]
fn other_names_of_hosts_take_effect_at_once_and_what_was_found_under_the_old_is_gone() {
    alone(async {
        let mut home = Home::new();
        assert_eq!(member(&home.site.observe(&[]).await, "host2"), Some(true));
        let mut site = home.site;
        // What spot.yaml names itself outranks the policies.
        site.name_nodes(&[("host2".into(), "other".into())].into());
        assert_eq!(member(&site.observe(&[]).await, "host2"), Some(true));
        let free = |(host, end): (&HostName, &Endpoint)| {
            (host.clone(), Endpoint { fixed: false, ..end.clone() })
        };
        let hosts = site.core.endpoints().hosts.iter().map(free).collect();
        let endpoints = Endpoints { hosts, ..(*site.core.endpoints()).clone() };
        *site.core.endpoints.borrow_mut() = std::rc::Rc::new(endpoints);
        site.name_nodes(&[("big".into(), "host2".into()), ("host2".into(), "other".into())].into());
        let seen = site.observe(&[Question::Membership("host2".into())]).await;
        assert_eq!(member(&seen, "big"), Some(true), "{:?}", seen.hosts);
        assert_eq!(seen.hosts[&HostName::from("host2")].member, None);
        let why = seen.gaps.iter().map(|gap| gap.why.as_str()).collect::<String>();
        assert!(why.is_empty() || !why.contains("correct its URL in"), "{why}");
    });
}

#[test]
fn a_wrong_secret_is_a_gap_with_its_remedy() {
    alone(async {
        let home = Home::new();
        let world = home.world.clone();
        let start = world.lock().unwrap().start();
        let clock = LeapClock::new(start);
        let transport =
            MemoryTransport::new(world.clone(), clock.clone()).asking_as("spot@pve!spot", "wrong");
        let ends =
            [("host1".into(), Endpoint { node: "host1".into(), addressed: true, fixed: true })]
                .into();
        let endpoints =
            Endpoints { hosts: ends, prefer: Vec::new(), token: "spot@pve!spot".into() };
        let mut site = Live::new(transport, MemoryWaker::new(world), clock, endpoints);
        let seen = site.observe(&[]).await;
        assert!(!seen.whole());
        assert!(seen.gaps[0].why.contains("does not accept the token spot@pve!spot"), "{seen:?}");
        assert!(seen.gaps[0].why.contains("pveum user token add spot@pve spot"));
    });
}
