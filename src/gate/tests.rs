//! Every clause of the gate, left out in turn: what it alone prevents must then be cleared.
//!
//! The reference home is up and host3 may rest: that case is cleared. Each clause has a world in
//! which it alone refuses, built by one change. A clause without such a world, or one that is not
//! needed in it, fails here.
//!
//! **Does not know:** the planner.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::{Bounds, CLAUSES, EvidenceKind, Here, Mode, Ruling, check, check_by};
use crate::cluster::quorum::{DeviceAlgorithm, DeviceConf, MemberVotes};
use crate::cluster::{
    Answer, CorosyncConf, DeviceLink, Evidence, Gap, GuestKind, GuestSeen, HostName, HostSeen,
    LiveGuest, Membership, Moment, Observation, Permissions, Question, Reported, RunState, Stamped,
    TaskSeen, Vmid,
};
use crate::request::{Migration, Move, Request};
use crate::undertaking::{Event, Undertaking};

/// Everything a case is judged by; a test changes one thing.
#[derive(Clone)]
struct World {
    seen: Observation,
    bounds: Bounds,
    under_way: Vec<Undertaking>,
    request: Request,
}

fn host(name: &str) -> HostName {
    HostName::from(name)
}

fn at(seconds: u64) -> Moment {
    let civil = Timestamp::from_second(1_800_000_000).unwrap() + Duration::from_secs(seconds);
    Moment { civil, monotonic: Duration::from_secs(seconds) }
}

const NOW: u64 = 5000;

/// host1 3 votes, host2 and host3 one each; all up. Guest 201 runs on host2, 203 is stopped on
/// host3.
fn home(request: Request) -> World {
    let names = ["host1", "host2", "host3"];
    let mut seen = Observation::blank(at(NOW));
    seen.quorate = Some(true);
    seen.config_version = Some(4);
    seen.seen_from = Some(host("host1"));
    for name in names {
        let look = HostSeen {
            node: name.into(),
            member: Some(true),
            listed: true,
            addressed: true,
            reported: Reported::Online,
            uptime_seconds: Some(4000),
            memory: None,
            cpu: None,
            power: None,
        };
        seen.hosts.insert(host(name), look);
    }
    let guest = |on: &str, status| GuestSeen {
        kind: GuestKind::Vm,
        host: host(on),
        name: None,
        status,
        template: false,
        tags: BTreeSet::new(),
        pool: None,
        lock: None,
        memory_bytes: None,
        cpu: None,
        ha: None,
        uptime_seconds: None,
    };
    seen.guests.insert(Vmid(201), guest("host2", RunState::Running));
    seen.guests.insert(Vmid(203), guest("host3", RunState::Stopped));
    let stamp = |answer| Stamped { asked: at(NOW), answer: Ok(answer) };
    for name in names {
        let question = Question::Evidence(host(name));
        seen.answers.insert(question, stamp(Answer::Evidence(Box::new(evidence()))));
        let members = names.iter().map(|name| (host(name), true)).collect();
        let view = Membership { quorate: true, config_version: Some(4), members };
        seen.answers.insert(Question::Membership(host(name)), stamp(Answer::Membership(view)));
        let link = Answer::Device(DeviceLink::Connected);
        seen.answers.insert(Question::Device(host(name)), stamp(link));
    }
    let everything = BTreeMap::from([("VM.Audit".to_owned(), true)]);
    let permissions = Permissions {
        token: "spot@pve!spot".into(),
        by_path: BTreeMap::from([("/vms".to_owned(), everything)]),
    };
    seen.answers.insert(Question::Permissions, stamp(Answer::Permissions(permissions)));
    let stopped =
        LiveGuest { kind: GuestKind::Vm, status: RunState::Stopped, lock: None, template: false };
    let live = BTreeMap::from([(Vmid(203), stopped)]);
    seen.answers.insert(Question::LiveGuests(host("host3")), stamp(Answer::LiveGuests(live)));
    let all = || BTreeSet::from([host("host2"), host("host3")]);
    let bounds = Bounds {
        mode: Mode::Act,
        spare: 0,
        evidence: EvidenceKind::Runtime,
        may_rest: all(),
        may_stop_guests: BTreeSet::from([Vmid(201)]),
        may_hibernate_guests: BTreeSet::from([Vmid(201)]),
        may_restart_guests: BTreeSet::from([Vmid(201)]),
        may_start_guests: BTreeSet::from([Vmid(203)]),
        never: BTreeSet::from([host("host1")]),
        frozen: BTreeSet::new(),
        tasks_ignored: BTreeSet::new(),
        backups_ignored: BTreeSet::new(),
        locks_ignored: BTreeSet::new(),
        commanded: BTreeSet::new(),
        here: Here::Host(host("host1")),
        qnetd_on: BTreeSet::new(),
        known_off: BTreeSet::new(),
        device_votes: Some(0),
        config_changed_at: None,
        clock_sound: true,
    };
    World { seen, bounds, under_way: vec![], request }
}

fn evidence() -> Evidence {
    let votes = [("host1", 3), ("host2", 1), ("host3", 1)];
    Evidence {
        expected: 5,
        highest_expected: 5,
        total: 5,
        quorum: 3,
        quorate: true,
        flags: BTreeSet::from(["Quorate".to_owned()]),
        ring: "1.51".into(),
        members: votes
            .map(|(name, votes)| (host(name), MemberVotes { votes, device: None }))
            .into(),
        device_votes: None,
        conf: CorosyncConf {
            config_version: Some(4),
            votes: votes.map(|(name, votes)| (name.to_owned(), votes)).into(),
            ..CorosyncConf::default()
        },
        guests: Ok(BTreeMap::from([(Vmid(203), RunState::Stopped)])),
        addresses: vec![],
    }
}

fn power_off() -> World {
    home(Request::PowerOff { host: host("host3") })
}

/// Three votes of one each and a QDevice of two (lms): E5 Q3, so that host1 and host2 need it.
fn by_the_device() -> World {
    changed(power_off(), |w| {
        for name in ["host1", "host2", "host3"] {
            let view = w.evidence(name);
            for member in view.members.values_mut() {
                *member = MemberVotes { votes: 1, device: Some("A,V,NMW".into()) };
            }
            view.conf.votes.insert("host1".into(), 1);
            let (algorithm, server) = (DeviceAlgorithm::Lms, Some("10.0.0.9".to_owned()));
            view.conf.device = Some(DeviceConf { algorithm, votes: Some(2), server });
            view.device_votes = Some(2);
        }
    })
}

fn migrate(how: Migration) -> World {
    let (guest, kind, from, to) = (Vmid(201), GuestKind::Vm, host("host2"), host("host3"));
    home(Request::Migrate { guest, kind, from, to, how, local_disks: false, bandwidth: None })
}

fn shut_down() -> World {
    let (guest, kind, host) = (Vmid(201), GuestKind::Vm, host("host2"));
    home(Request::ShutDownGuest { guest, kind, host, timeout_seconds: 60 })
}

fn hibernate() -> World {
    home(Request::Hibernate { guest: Vmid(201), host: host("host2") })
}

fn start() -> World {
    home(Request::StartGuest { guest: Vmid(203), kind: GuestKind::Vm, host: host("host3") })
}

fn wake() -> World {
    let mut world = home(Request::Wake { host: host("host3"), ways: vec![] });
    world.look("host3").member = Some(false);
    world
}

impl World {
    fn look(&mut self, name: &str) -> &mut HostSeen {
        self.seen.hosts.get_mut(&host(name)).unwrap()
    }

    fn guest(&mut self, vmid: u32) -> &mut GuestSeen {
        self.seen.guests.get_mut(&Vmid(vmid)).unwrap()
    }

    fn evidence(&mut self, name: &str) -> &mut Evidence {
        let stamped = self.seen.answers.get_mut(&Question::Evidence(host(name))).unwrap();
        match &mut stamped.answer {
            Ok(Answer::Evidence(evidence)) => evidence,
            other => panic!("no evidence: {other:?}"),
        }
    }

    fn each_evidence(&mut self, change: impl Fn(&mut Evidence)) {
        for name in ["host1", "host2", "host3"] {
            change(self.evidence(name));
        }
    }

    /// These hosts see no vote of the device, and show `column` for themselves.
    fn mute(&mut self, names: &[&str], column: &str) {
        for name in names {
            let view = self.evidence(name);
            view.device_votes = Some(0);
            let own = view.members.get_mut(&host(name)).unwrap();
            own.device = Some(column.to_owned());
        }
    }

    fn answer(&mut self, question: Question, answer: Answer) {
        self.seen.answers.insert(question, Stamped { asked: at(NOW), answer: Ok(answer) });
    }

    fn under_way(&mut self, purpose: Move, request: Request) {
        let event = Event::Intended {
            request_id: 1,
            request,
            at: at(NOW).civil,
            by_configured_votes: false,
        };
        let one = Undertaking::begun(1, purpose, at(NOW).civil).after(&event).unwrap();
        self.under_way.push(one);
    }

    fn ruling(&self, heard: &dyn Fn(&str) -> bool) -> Ruling {
        let requests = [(Move::Rest(host("host3")), self.request.clone())];
        let under_way: Vec<&Undertaking> = self.under_way.iter().collect();
        check_by(&|clause| heard(clause.name), &requests, &under_way, &self.seen, &self.bounds)
    }

    /// The clause that refuses, or `cleared`.
    fn verdict(&self) -> String {
        let ruling = self.ruling(&|_| true);
        match ruling.refusals.first() {
            Some(refusal) => refusal.clause.to_owned(),
            None => "cleared".into(),
        }
    }
}

fn changed(mut world: World, change: impl FnOnce(&mut World)) -> World {
    change(&mut world);
    world
}

/// For each clause, worlds in which it alone refuses.
fn dangers() -> Vec<(&'static str, World)> {
    let live =
        LiveGuest { kind: GuestKind::Vm, status: RunState::Running, lock: None, template: false };
    let blind = Permissions {
        token: "spot@pve!spot".into(),
        by_path: BTreeMap::from([(
            "/vms".to_owned(),
            BTreeMap::from([("VM.Audit".to_owned(), false)]),
        )]),
    };
    vec![
        (
            "known_host",
            changed(migrate(Migration::Live), |w| w.look("host3").node = "LocalHost".into()),
        ),
        ("known_host", changed(wake(), |w| w.look("host3").listed = false)),
        ("frozen", changed(power_off(), |w| w.bounds.frozen = [host("host3")].into())),
        ("frozen", changed(migrate(Migration::Live), |w| w.bounds.frozen = [host("host3")].into())),
        ("frozen", changed(wake(), |w| w.bounds.frozen = [host("host3")].into())),
        ("rehearsal", changed(power_off(), |w| w.bounds.mode = Mode::Rehearse)),
        ("rehearsal", changed(wake(), |w| w.bounds.mode = Mode::Rehearse)),
        (
            "whole_look",
            changed(power_off(), |w| {
                w.seen.gaps.push(Gap { what: "tasks".into(), why: "no answer".into() });
            }),
        ),
        ("quorate_now", changed(power_off(), |w| w.seen.quorate = Some(false))),
        ("clock", changed(power_off(), |w| w.bounds.clock_sound = false)),
        ("absent", changed(wake(), |w| w.look("host3").member = Some(true))),
        (
            "guest_free",
            changed(migrate(Migration::Live), |w| {
                let other = shut_down().request;
                w.under_way(Move::Empty(host("host2")), other);
            }),
        ),
        ("guest_as_said", changed(migrate(Migration::Live), |w| w.guest(201).host = host("host1"))),
        (
            "guest_as_said",
            changed(migrate(Migration::Live), |w| w.guest(201).lock = Some("backup".into())),
        ),
        (
            "guest_as_said",
            changed(migrate(Migration::Live), |w| {
                w.guest(201).status = RunState::Other("paused".into());
            }),
        ),
        ("guest_as_said", changed(start(), |w| w.guest(203).status = RunState::Running)),
        ("hosts_up", changed(migrate(Migration::Live), |w| w.look("host3").member = Some(false))),
        (
            "hosts_up",
            changed(migrate(Migration::Live), |w| {
                let request = Request::PowerOff { host: host("host3") };
                w.under_way(Move::Rest(host("host3")), request);
            }),
        ),
        ("may_stop_guest", changed(shut_down(), |w| w.bounds.may_stop_guests.clear())),
        ("may_stop_guest", changed(hibernate(), |w| w.bounds.may_hibernate_guests.clear())),
        (
            "may_stop_guest",
            changed(migrate(Migration::Restart), |w| w.bounds.may_restart_guests.clear()),
        ),
        ("own_guest", changed(shut_down(), |w| w.bounds.here = Here::Guest(Vmid(201)))),
        ("no_ha_stop", changed(shut_down(), |w| w.guest(201).ha = Some("started".into()))),
        (
            "live_only_for_vms",
            changed(migrate(Migration::Live), |w| {
                if let Request::Migrate { kind, .. } = &mut w.request {
                    *kind = GuestKind::Ct;
                }
            }),
        ),
        ("may_start_guest", changed(start(), |w| w.bounds.may_start_guests.clear())),
        ("never_low", changed(power_off(), |w| w.bounds.never = [host("host3")].into())),
        ("not_here", changed(power_off(), |w| w.bounds.here = Here::Host(host("host3")))),
        ("not_here", changed(power_off(), |w| w.bounds.here = Here::Unknown)),
        ("not_here", changed(power_off(), |w| w.bounds.here = Here::Guest(Vmid(203)))),
        ("not_here", changed(power_off(), |w| w.bounds.here = Here::Guest(Vmid(999)))),
        ("may_rest", changed(power_off(), |w| w.bounds.may_rest.clear())),
        (
            "every_address",
            changed(power_off(), |w| {
                let mut stranger = w.look("host2").clone();
                stranger.member = Some(false);
                stranger.addressed = false;
                w.seen.hosts.insert(host("host4"), stranger);
            }),
        ),
        (
            "one_at_a_time",
            changed(power_off(), |w| {
                let request = Request::PowerOff { host: host("host2") };
                w.under_way(Move::Rest(host("host2")), request);
            }),
        ),
        (
            "nothing_in_flight",
            changed(power_off(), |w| {
                let request = migrate(Migration::Live).request;
                w.under_way(Move::Place(Vmid(201), host("host3")), request);
            }),
        ),
        (
            "no_task",
            changed(power_off(), |w| {
                w.seen.tasks.push(TaskSeen {
                    upid: "UPID:host3:1".into(),
                    host: host("host3"),
                    kind: "vzdump".into(),
                    id: String::new(),
                    user: "root@pam".into(),
                    started: at(NOW - 60).civil,
                    ended: None,
                    ended_at: None,
                });
            }),
        ),
        ("no_lock", changed(power_off(), |w| w.guest(203).lock = Some("backup".into()))),
        ("nobody_arrives", changed(power_off(), |w| w.guest(201).lock = Some("migrate".into()))),
        ("no_guest_runs", changed(power_off(), |w| w.guest(203).status = RunState::Running)),
        ("no_guest_runs", changed(power_off(), |w| w.guest(203).status = RunState::Unknown)),
        (
            "config_settled",
            changed(power_off(), |w| w.bounds.config_changed_at = Some(at(NOW - 599).civil)),
        ),
        (
            "sees_every_guest",
            changed(power_off(), |w| w.answer(Question::Permissions, Answer::Permissions(blind))),
        ),
        (
            "sees_every_guest",
            changed(power_off(), |w| {
                w.seen.answers.remove(&Question::Permissions);
            }),
        ),
        (
            "evidence",
            changed(power_off(), |w| {
                w.seen.answers.remove(&Question::Evidence(host("host2")));
            }),
        ),
        (
            "evidence",
            changed(power_off(), |w| {
                let question = Question::Evidence(host("host2"));
                w.seen.answers.get_mut(&question).unwrap().asked = at(NOW - 61);
            }),
        ),
        ("same_view", changed(power_off(), |w| w.evidence("host2").ring = "2.4".into())),
        ("every_member_quorate", changed(power_off(), |w| w.evidence("host2").quorate = false)),
        (
            "configured_agrees",
            changed(power_off(), |w| {
                w.each_evidence(|view| {
                    view.conf.votes.insert("host1".into(), 4);
                });
            }),
        ),
        ("configured_agrees", changed(power_off(), |w| w.each_evidence(|view| view.expected = 3))),
        ("votes", changed(power_off(), |w| w.each_evidence(|view| view.quorum = 5))),
        ("votes", changed(power_off(), |w| w.evidence("host2").quorum = 5)),
        ("votes", changed(power_off(), |w| w.bounds.spare = 2)),
        (
            "can_return",
            changed(power_off(), |w| {
                w.each_evidence(|view| {
                    let algorithm = DeviceAlgorithm::Lms;
                    view.conf.device = Some(DeviceConf { algorithm, votes: None, server: None });
                    (view.device_votes, view.expected, view.quorum) = (Some(0), 5, 3);
                });
            }),
        ),
        (
            "no_hidden_guest",
            changed(power_off(), |w| {
                w.evidence("host3").guests = Ok([(Vmid(666), RunState::Stopped)].into());
            }),
        ),
        (
            "no_hidden_guest",
            changed(power_off(), |w| {
                w.evidence("host3").guests = Ok([(Vmid(203), RunState::Running)].into());
            }),
        ),
        (
            "no_hidden_guest",
            changed(power_off(), |w| w.evidence("host3").guests = Err("cut".into())),
        ),
        (
            "empty_itself",
            changed(power_off(), |w| {
                let question = Question::LiveGuests(host("host3"));
                w.answer(question, Answer::LiveGuests([(Vmid(203), live)].into()));
            }),
        ),
        (
            "empty_itself",
            changed(power_off(), |w| {
                let question = Question::LiveGuests(host("host3"));
                w.seen.answers.get_mut(&question).unwrap().asked = at(NOW - 1);
            }),
        ),
        (
            "empty_itself",
            changed(power_off(), |w| {
                let question = Question::LiveGuests(host("host3"));
                let lock = Some("backup".to_owned());
                let stopped = LiveGuest {
                    kind: GuestKind::Vm,
                    status: RunState::Stopped,
                    lock,
                    template: false,
                };
                w.answer(question, Answer::LiveGuests([(Vmid(203), stopped)].into()));
            }),
        ),
        (
            "survivors_agree",
            changed(power_off(), |w| {
                let members =
                    [(host("host1"), true), (host("host2"), false), (host("host3"), true)];
                let view =
                    Membership { quorate: true, config_version: Some(4), members: members.into() };
                w.answer(Question::Membership(host("host1")), Answer::Membership(view));
            }),
        ),
        (
            "survivors_agree",
            changed(power_off(), |w| {
                w.seen.answers.remove(&Question::Membership(host("host2")));
            }),
        ),
        (
            "device_still_votes",
            changed(by_the_device(), |w| {
                let link = DeviceLink::NotConnected("Connect failed".into());
                w.answer(Question::Device(host("host2")), Answer::Device(link));
            }),
        ),
        (
            "device_still_votes",
            changed(by_the_device(), |w| {
                w.answer(Question::Device(host("host1")), Answer::Device(DeviceLink::NoDaemon));
            }),
        ),
        (
            "device_still_votes",
            changed(by_the_device(), |w| {
                w.seen.answers.remove(&Question::Device(host("host2")));
            }),
        ),
    ]
}

#[test]
fn what_is_safe_is_cleared() {
    for world in [
        power_off(),
        by_the_device(),
        migrate(Migration::Live),
        migrate(Migration::Restart),
        shut_down(),
        hibernate(),
        start(),
        wake(),
    ] {
        assert_eq!(world.verdict(), "cleared", "{}", world.request);
    }
}

#[test]
fn each_clause_alone_prevents_its_danger() {
    let mut needed: BTreeSet<&str> = BTreeSet::new();
    for (clause, world) in dangers() {
        assert_eq!(world.verdict(), clause, "{}", world.request);
        let without = world.ruling(&|name| name != clause);
        assert_eq!(
            without.cleared.len(),
            1,
            "without {clause}, still refused by {:?}",
            without.refusals.first().map(|refusal| refusal.clause)
        );
        needed.insert(clause);
    }
    let all: BTreeSet<&str> = CLAUSES.iter().map(|clause| clause.name).collect();
    assert_eq!(needed, all, "every clause has a world that needs it");
}

#[test]
fn what_is_not_known_is_asked_stage_by_stage() {
    let mut world = power_off();
    world.seen.answers.clear();
    let ruling = world.ruling(&|_| true);
    let evidence = ["host1", "host2", "host3"].map(|name| Question::Evidence(host(name)));
    let expected: BTreeSet<Question> =
        evidence.into_iter().chain([Question::Permissions]).collect();
    assert_eq!(ruling.questions, expected);
    assert!(ruling.refusals[0].waiting);
    // With the evidence there, the last look is asked, of every survivor and of the host itself.
    let mut world = power_off();
    world
        .seen
        .answers
        .retain(|question, _| matches!(question, Question::Evidence(_) | Question::Permissions));
    let last = [
        Question::LiveGuests(host("host3")),
        Question::Membership(host("host1")),
        Question::Membership(host("host2")),
    ];
    assert_eq!(world.ruling(&|_| true).questions, last.into());
    // What is refused anyway costs no question.
    world.bounds.clock_sound = false;
    assert!(world.ruling(&|_| true).questions.is_empty());
}

#[test]
fn evidence_is_void_once_anything_changed_since_it_was_asked_for() {
    let asked_for_again = |change: fn(&mut World)| {
        let world = changed(power_off(), change);
        let ruling = world.ruling(&|_| true);
        ruling.questions.iter().any(|question| matches!(question, Question::Evidence(_)))
    };
    assert!(asked_for_again(|w| w.look("host2").member = Some(false)), "a member left");
    assert!(asked_for_again(|w| w.seen.config_version = Some(5)), "corosync.conf changed");
    assert!(
        asked_for_again(|w| {
            for stamped in w.seen.answers.values_mut() {
                stamped.asked = at(NOW - 50);
            }
            w.look("host2").uptime_seconds = Some(10);
        }),
        "a member booted"
    );
    assert!(!asked_for_again(|_| {}));
}

#[test]
fn a_gap_in_the_evidence_is_told_with_its_host() {
    let mut world = power_off();
    let gap = Gap { what: "evidence of host2".into(), why: "its report stops at `pvecm`".into() };
    let question = Question::Evidence(host("host2"));
    world.seen.answers.insert(question, Stamped { asked: at(NOW), answer: Err(gap) });
    let refusal = &world.ruling(&|_| true).refusals[0];
    assert!(!refusal.waiting);
    assert!(refusal.sentence.contains("host2"), "{}", refusal.sentence);
}

#[test]
fn two_power_offs_in_one_turn_are_one_too_many() {
    let world = power_off();
    let requests = ["host2", "host3"]
        .map(|name| (Move::Rest(host(name)), Request::PowerOff { host: host(name) }));
    let mut seen = world.seen.clone();
    seen.guests.get_mut(&Vmid(201)).unwrap().host = host("host1");
    let live = Answer::LiveGuests(BTreeMap::new());
    let stamped = Stamped { asked: at(NOW), answer: Ok(live) };
    seen.answers.insert(Question::LiveGuests(host("host2")), stamped);
    let ruling = check(&requests, &[], &seen, &world.bounds);
    assert_eq!(ruling.cleared.len(), 1);
    assert_eq!(ruling.refusals[0].clause, "one_at_a_time");
}

#[test]
fn a_host_somebody_else_shuts_down_counts_as_gone() {
    // Three equal votes: host2 is being shut down by hand, so host3 must stay.
    let mut world = power_off();
    world.each_evidence(|view| {
        view.members.get_mut(&host("host1")).unwrap().votes = 1;
        view.conf.votes.insert("host1".into(), 1);
        (view.expected, view.total, view.quorum) = (3, 3, 2);
    });
    assert_eq!(world.verdict(), "cleared");
    world.seen.tasks.push(TaskSeen {
        upid: "UPID:host2:1".into(),
        host: host("host2"),
        kind: "stopall".into(),
        id: String::new(),
        user: "root@pam".into(),
        started: at(NOW - 5).civil,
        ended: None,
        ended_at: None,
    });
    assert_eq!(world.verdict(), "votes");

    // Without guests that task is over in a second, and the host is on for minutes yet.
    let last = world.seen.tasks.len() - 1;
    world.seen.tasks[last].ended = Some("OK".into());
    assert_eq!(world.verdict(), "votes");
    // Something began there since: it was the web page's bulk shutdown, or was cancelled.
    let mut goes_on = world.clone();
    let later = TaskSeen {
        kind: "vncproxy".into(),
        started: at(NOW - 2).civil,
        ..world.seen.tasks[last].clone()
    };
    goes_on.seen.tasks.push(later);
    assert_eq!(goes_on.verdict(), "cleared");
    // A shutdown of another boot, or of long ago, is none of today's.
    for began in [NOW - 4_500, NOW - 1_000] {
        world.seen.tasks[last].started = at(began).civil;
        assert_eq!(world.verdict(), "cleared", "{began}");
    }
}

#[test]
fn configured_evidence_counts_the_file_and_credits_no_device() {
    let mut world = power_off();
    world.bounds.evidence = EvidenceKind::Configured;
    // The others' reports may be missing; the host's own is asked for its list of all guests.
    world
        .seen
        .answers
        .retain(|question, _| !matches!(question, Question::Evidence(of) if *of != host("host3")));
    assert_eq!(world.verdict(), "evidence");
    let votes =
        |first| BTreeMap::from([(host("host1"), first), (host("host2"), 1), (host("host3"), 1)]);
    world.answer(Question::ConfiguredVotes, Answer::ConfiguredVotes(votes(3)));
    assert_eq!(world.verdict(), "cleared");
    // A device that this evidence never credits still counts in what is needed.
    world.bounds.device_votes = Some(4);
    assert_eq!(world.verdict(), "votes");
    world.bounds.device_votes = None;
    assert_eq!(world.verdict(), "votes");
    world.bounds.device_votes = Some(0);
    let own = world.seen.answers.remove(&Question::Evidence(host("host3"))).unwrap();
    assert_eq!(world.verdict(), "no_hidden_guest");
    world.seen.answers.insert(Question::Evidence(host("host3")), own);
    world.look("host2").member = Some(false);
    world.evidence("host3").members.remove(&host("host2"));
    for name in ["host1", "host3"] {
        let members = [("host1", true), ("host2", false), ("host3", true)];
        let members = members.map(|(name, up)| (host(name), up)).into();
        let view = Membership { quorate: true, config_version: Some(4), members };
        world.answer(Question::Membership(host(name)), Answer::Membership(view));
    }
    assert_eq!(world.verdict(), "cleared");
    world.answer(Question::ConfiguredVotes, Answer::ConfiguredVotes(votes(1)));
    assert_eq!(world.verdict(), "votes");
}

#[test]
fn in_rehearse_only_what_a_person_asked_for_goes_through() {
    let mut world = power_off();
    world.bounds.mode = Mode::Rehearse;
    assert_eq!(world.verdict(), "rehearsal");
    world.bounds.commanded = [host("host3")].into();
    assert_eq!(world.verdict(), "cleared");
}

#[test]
fn a_hibernated_guest_is_locked_and_may_sleep_and_start() {
    let mut world = power_off();
    world.guest(203).lock = Some("suspended".into());
    assert_eq!(world.verdict(), "cleared");
    let mut world = start();
    world.guest(203).lock = Some("suspended".into());
    assert_eq!(world.verdict(), "cleared");
}

/// A state of the votes: its name, how it comes about, and a part of its remedy.
type Named = (&'static str, fn(&mut World), &'static str);

/// Each named state of the votes is refused under its own name, with the command that mends it.
#[test]
fn what_is_wrong_with_the_votes_is_refused_by_its_name() {
    let named: &[Named] = &[
        ("rings_differ", |w| w.evidence("host2").ring = "2.4".into(), "`pvecm status` on host1"),
        (
            "votes_disagree",
            |w| w.evidence("host2").members.get_mut(&host("host3")).unwrap().votes = 0,
            "`systemctl restart corosync` on host3",
        ),
        ("expected_disagrees", |w| w.evidence("host3").expected = 4, "`pvecm expected 5`"),
        (
            "corosync_conf_differs",
            |w| {
                let conf = &mut w.evidence("host2").conf;
                conf.quorum.insert("two_node".into(), "1".into());
            },
            "`systemctl restart pve-cluster`",
        ),
        (
            "waiting_for_all",
            |w| {
                w.each_evidence(|view| {
                    (view.quorate, view.flags) = (false, ["WaitForAll".to_owned()].into());
                });
            },
            "quorum.cancel_wait_for_all u8 1` on host1",
        ),
        (
            "not_quorate",
            |w| {
                w.each_evidence(|view| (view.quorate, view.quorum) = (false, 6));
            },
            "`pvecm status` on host1",
        ),
        (
            "votes_not_reloaded",
            |w| {
                w.each_evidence(|view| {
                    view.conf.votes.insert("host2".into(), 2);
                });
            },
            "`corosync-cfgtool -R`",
        ),
        ("expected_lowered", |w| w.each_evidence(|view| view.expected = 3), "`pvecm expected 5`"),
        ("expected_raised", |w| w.each_evidence(|view| view.expected = 6), "`pvecm expected 5`"),
        (
            "qdevice_not_reloaded",
            |w| {
                let (algorithm, server) = (DeviceAlgorithm::Lms, None);
                let device = DeviceConf { algorithm, votes: Some(4), server };
                w.each_evidence(|view| view.conf.device = Some(device.clone()));
            },
            "`corosync-cfgtool -R`",
        ),
        (
            "qdevice_still_counted",
            |w| w.each_evidence(|view| view.device_votes = Some(0)),
            "`systemctl stop corosync-qdevice`",
        ),
    ];
    for (code, change, remedy) in named {
        let world = changed(power_off(), change);
        assert_refused(&world, code, remedy);
    }
    let by_device: &[Named] = &[
        ("qdevice_dead", |w| w.mute(&["host1", "host2", "host3"], "A,NV,NMW"), "corosync-qnetd"),
        (
            "qdevice_daemon_off",
            |w| w.mute(&["host2"], "NR"),
            "`systemctl restart corosync-qdevice` on host2",
        ),
        ("qdevice_no_vote", |w| w.mute(&["host2"], "A,NV,NMW"), "`corosync-qdevice-tool -s`"),
        (
            "qdevice_votes_not_reloaded",
            |w| w.each_evidence(|view| view.conf.device.as_mut().unwrap().votes = Some(3)),
            "`corosync-cfgtool -R`",
        ),
        (
            "qdevice_faulty",
            |w| {
                w.each_evidence(|view| {
                    view.conf.device.as_mut().unwrap().algorithm = DeviceAlgorithm::Ffsplit;
                    view.members.get_mut(&host("host1")).unwrap().votes = 3;
                    view.conf.votes.insert("host1".into(), 3);
                });
            },
            "device section",
        ),
    ];
    for (code, change, remedy) in by_device {
        let world = changed(by_the_device(), change);
        assert_refused(&world, code, remedy);
    }
    // A dead device is no matter where the votes suffice without it.
    let world = changed(by_the_device(), |w| {
        w.each_evidence(|view| (view.expected, view.quorum) = (3, 2));
        w.mute(&["host1", "host2", "host3"], "A,NV,NMW");
    });
    assert_eq!(world.verdict(), "cleared");
}

fn assert_refused(world: &World, code: &str, remedy: &str) {
    let ruling = world.ruling(&|_| true);
    let refusal = ruling.refusals.first().unwrap_or_else(|| panic!("{code} is cleared"));
    assert_eq!(refusal.code, code, "{}", refusal.sentence);
    assert!(refusal.remedy.contains(remedy), "{}", refusal.remedy);
    assert!(!refusal.waiting && !refusal.sentence.is_empty());
}
