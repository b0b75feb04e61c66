//! The live site over answers that real servers were recorded to give, on a clock that leaps.
//!
//! **Does not know:** a world behind the answers: nothing here has an effect.

#[cfg(test)]
use crate::pretend::{LeapClock, Passing};

use jiff::Timestamp;

use super::*;
use crate::cluster::{Answer, ClockState, Reported, RunState, Way};
use crate::site::{Call, Fault, Method, Reply};

type Answers = BTreeMap<(String, String), (Duration, Result<Reply, Fault>)>;

/// Answers by host and path; everything else is a 501, and every call is noted.
#[derive(Clone)]
struct Recorded {
    clock: LeapClock,
    answers: Rc<RefCell<Answers>>,
    calls: Rc<RefCell<Vec<Call>>>,
    /// In flight now, and the most there ever were, by host.
    crowd: Rc<RefCell<BTreeMap<HostName, (usize, usize)>>>,
}

impl Transport for Recorded {
    async fn send(&self, call: Call) -> Result<Reply, Fault> {
        let key = (call.to.to_string(), call.path.clone());
        let (takes, answer) = self.answers.borrow().get(&key).cloned().unwrap_or_else(|| {
            let reason = format!("Method '{} {}' not implemented", call.method.as_str(), call.path);
            (Duration::ZERO, Ok(Reply { status: 501, reason, body: Vec::new() }))
        });
        let began = self.clock.now().monotonic;
        self.calls.borrow_mut().push(call.clone());
        {
            let mut crowd = self.crowd.borrow_mut();
            let (now, most) = crowd.entry(call.to.clone()).or_default();
            *now += 1;
            *most = (*now).max(*most);
        }
        self.clock.pass_until(began + takes.min(call.limit)).await;
        self.crowd.borrow_mut().get_mut(&call.to).unwrap().0 -= 1;
        if takes > call.limit {
            let seconds = call.limit.as_secs();
            return Err(Fault::Lost(format!("{} gave no answer within {seconds} s", call.to)));
        }
        answer
    }
}

/// Notes nothing, sends nothing.
#[derive(Clone)]
struct Mute;

impl Waker for Mute {
    async fn volley(&self, ways: &[Way]) -> Result<(u32, Vec<String>), String> {
        Ok((ways.len() as u32, vec!["vmbr0".into()]))
    }
}

fn file(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/recorded/client/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|why| panic!("{path}: {why}"))
}

fn body(bytes: Vec<u8>) -> Result<Reply, Fault> {
    Ok(Reply { status: 200, reason: "OK".into(), body: bytes })
}

/// The recorded cluster of three, with everybody answering at once.
struct House {
    clock: LeapClock,
    transport: Recorded,
    site: Live<Recorded, Mute, LeapClock>,
}

const HOSTS: [(&str, &str); 3] = [("host1", "pve1"), ("host2", "pve2"), ("host3", "pve3")];

impl House {
    fn new() -> House {
        let hosts = HOSTS.map(|(host, node)| {
            (host.into(), Endpoint { node: node.into(), addressed: true, fixed: true })
        });
        House::with(BTreeMap::from(hosts))
    }

    fn with(hosts: BTreeMap<HostName, Endpoint>) -> House {
        // The recordings were made on this day; 1795408400 is just after their newest task.
        let clock = LeapClock::new(Timestamp::from_second(1_795_408_400).unwrap());
        let transport = Recorded {
            clock: clock.clone(),
            answers: Rc::default(),
            calls: Rc::default(),
            crowd: Rc::default(),
        };
        let token = "spot@pve!spot".to_owned();
        let endpoints = Endpoints { hosts, prefer: vec!["host1".into(), "host2".into()], token };
        let site = Live::new(transport.clone(), Mute, clock.clone(), endpoints);
        let house = House { clock, transport, site };
        for (host, node) in HOSTS {
            house.says(host, "/cluster/status", status_of(node));
            house.says(host, "/cluster/resources", file("9.2-resources.json"));
            house.says(host, "/cluster/tasks", file("9.2-cluster-tasks.json"));
            house.says(host, "/cluster/config/nodes", file("9.2-config-nodes.json"));
            house.says(host, "/access/permissions", file("9.2-permissions.json"));
            house.says(host, &format!("/nodes/{node}/status"), file("9.2-node-status.json"));
            house.says(host, &format!("/nodes/{node}/storage"), file("9.2-storage.json"));
            house.says(host, &format!("/nodes/{node}/tasks"), br#"{"data":[]}"#.to_vec());
            house.says(host, &format!("/nodes/{node}/qemu"), file("9.2-qemu.json"));
            house.says(host, &format!("/nodes/{node}/lxc"), br#"{"data":[]}"#.to_vec());
        }
        house
    }

    fn says(&self, host: &str, path: &str, bytes: Vec<u8>) {
        self.answers(host, path, 0, body(bytes));
    }

    fn answers(&self, host: &str, path: &str, seconds: u64, answer: Result<Reply, Fault>) {
        let takes = Duration::from_secs(seconds);
        let key = (host.to_owned(), path.to_owned());
        self.transport.answers.borrow_mut().insert(key, (takes, answer));
    }

    /// The host and its answers are gone.
    fn cut(&self, host: &str, seconds: u64) {
        for ((name, _), answer) in self.transport.answers.borrow_mut().iter_mut() {
            if name == host {
                let why = format!("{host} cannot be reached: No route to host");
                *answer = (Duration::from_secs(seconds), Err(Fault::Unreached(why)));
            }
        }
    }

    /// Paths asked since the last time, with the host.
    fn asked(&self) -> Vec<String> {
        let calls = std::mem::take(&mut *self.transport.calls.borrow_mut());
        calls.iter().map(|call| format!("{} {}", call.to, call.path)).collect()
    }

    async fn wait(&self, seconds: u64) {
        let at = self.site.now().plus(Duration::from_secs(seconds));
        self.site.wait_until(at).await;
    }

    async fn observe(&mut self, questions: &[Question]) -> Observation {
        let began = self.clock.now();
        let seen = self.site.observe(questions).await;
        assert!(self.clock.now().since(began) <= OBSERVE_LIMIT, "an observation takes 5 s at most");
        seen
    }
}

/// `/cluster/status` as `node` would answer it.
fn status_of(node: &str) -> Vec<u8> {
    let text = String::from_utf8(file("9.2-cluster-status.json")).unwrap();
    let mut answer: serde_json::Value = serde_json::from_str(&text).unwrap();
    for entry in answer["data"].as_array_mut().unwrap() {
        if entry["type"] == "node" {
            entry["local"] = serde_json::json!(i32::from(entry["name"] == node));
        }
    }
    serde_json::to_vec(&answer).unwrap()
}

fn alone<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, future)
}

fn refused(status: u16, reason: &str) -> Result<Reply, Fault> {
    Ok(Reply { status, reason: reason.into(), body: Vec::new() })
}

#[test]
fn the_quiet_look_is_three_requests_to_one_host() {
    alone(async {
        let mut house = House::new();
        let seen = house.observe(&[]).await;
        let three = ["host1 /cluster/status", "host1 /cluster/resources", "host1 /cluster/tasks"];
        assert_eq!(house.asked(), three);
        assert!(seen.whole() && seen.gaps.is_empty(), "{:?}", seen.gaps);
        assert_eq!((seen.cluster.as_deref(), seen.quorate), (Some("realtest"), Some(true)));
        assert_eq!(seen.config_version, Some(3));
        assert_eq!(seen.seen_from, Some("host1".into()));
        assert_eq!(seen.clock, ClockState::Synchronised);
        assert_eq!(seen.members().len(), 3);
        let host3 = &seen.hosts[&HostName::from("host3")];
        assert_eq!((host3.node.as_str(), host3.reported), ("pve3", Reported::Online));
        assert_eq!(host3.uptime_seconds, Some(5841));
        let web = &seen.guests[&Vmid(100)];
        assert_eq!((web.host.as_str(), &web.status), ("host1", &RunState::Running));
        assert_eq!(web.tags.iter().collect::<Vec<_>>(), ["prod", "web"]);
        assert_eq!(seen.guests[&Vmid(200)].kind, GuestKind::Ct);
        assert_eq!(seen.storages.iter().filter(|s| s.shared).count(), 3);
        assert_eq!(seen.tasks[0].host, "host2".into());
        assert_eq!(seen.tasks[0].user, "root@pam!full");
        assert_eq!(seen.tasks[0].succeeded(), Some(true));
    });
}

#[test]
fn a_host_that_is_off_is_passed_over_and_costs_nothing_later() {
    alone(async {
        let mut house = House::new();
        house.cut("host1", 3);
        let status = String::from_utf8(status_of("pve2")).unwrap();
        let gone = status.replacen(r#""name":"pve1","nodeid":1,"online":1"#, "", 1);
        assert_ne!(gone, status);
        let gone = status.replacen(
            r#""name":"pve1","nodeid":1,"online":1"#,
            r#""name":"pve1","nodeid":1,"online":0"#,
            1,
        );
        house.says("host2", "/cluster/status", gone.into_bytes());
        let seen = house.observe(&[]).await;
        assert_eq!(seen.seen_from, Some("host2".into()));
        assert_eq!(seen.hosts[&HostName::from("host1")].member, Some(false));
        assert_eq!(house.asked().len(), 4);
        for _ in 0..30 {
            house.wait(30).await;
            house.observe(&[]).await;
            assert_eq!(house.asked().len(), 3, "the host that is off is left alone");
        }
        // Back again: the others see it, and the preferred host is asked first once more.
        house.says("host2", "/cluster/status", status_of("pve2"));
        house.says("host1", "/cluster/status", status_of("pve1"));
        house.says("host1", "/cluster/resources", file("9.2-resources.json"));
        house.says("host1", "/cluster/tasks", file("9.2-cluster-tasks.json"));
        house.observe(&[]).await;
        let seen = house.observe(&[]).await;
        assert_eq!(seen.seen_from, Some("host1".into()));
        assert_eq!(house.asked().len(), 6);
    });
}

#[test]
fn when_nobody_answers_everything_is_a_gap_and_no_host_is_called_absent() {
    alone(async {
        let mut house = House::new();
        house.observe(&[]).await;
        for (host, _) in HOSTS {
            house.cut(host, 1);
        }
        let seen = house.observe(&[]).await;
        assert!(!seen.whole());
        let gaps: Vec<&str> = seen.gaps.iter().map(|gap| gap.what.as_str()).collect();
        assert_eq!(gaps, ["cluster status", "resources", "tasks"]);
        assert!(seen.gaps[0].why.contains("host1 cannot be reached: No route to host"));
        assert!(seen.gaps[0].why.contains("host3"));
        assert_eq!(seen.quorate, None);
        assert!(seen.hosts.values().all(|host| host.member.is_none() && host.listed));
        for (host, _) in HOSTS {
            house.cut(host, 60);
        }
        let seen = house.observe(&[]).await;
        assert!(seen.gaps[0].why.contains("no answer within 5 s"), "{:?}", seen.gaps);
    });
}

#[test]
fn a_burst_of_errors_is_a_gap_and_never_a_small_cluster() {
    alone(async {
        let mut house = House::new();
        let alone = br#"{"data":[{"type":"node","name":"pve1","nodeid":0,"online":1,"local":1}]}"#;
        for answer in [
            body(alone.to_vec()),
            refused(500, "ipcc_send_rec[1] failed: Connection refused"),
            refused(401, "permission denied - invalid PVE ticket"),
            refused(595, "Connection refused"),
            body(b"{".to_vec()),
        ] {
            for (host, _) in HOSTS {
                house.answers(host, "/cluster/status", 0, answer.clone());
            }
            let seen = house.observe(&[]).await;
            assert_eq!((seen.quorate, seen.members().len()), (None, 0), "{answer:?}");
            assert!(!seen.saw("cluster status"));
        }
        // A right that is missing is missing everywhere: one answer tells it.
        house.asked();
        let forbidden = refused(403, "Permission check failed (/, Sys.Audit)");
        house.answers("host1", "/cluster/status", 0, forbidden.clone());
        let mut fresh = House::new();
        fresh.answers("host1", "/cluster/status", 0, forbidden);
        let seen = fresh.observe(&[]).await;
        assert_eq!(fresh.asked(), ["host1 /cluster/status"]);
        assert!(seen.gaps[0].why.contains("pveum acl modify / --roles SpotAudit"));
    });
}

#[test]
fn a_report_is_gathered_beside_the_turns() {
    alone(async {
        let mut house = House::new();
        let report = std::fs::read_to_string(format!(
            "{}/tests/recorded/client/report-9.2-votes-3-1-1.txt",
            env!("CARGO_MANIFEST_DIR")
        ));
        let text = serde_json::json!({ "data": report.unwrap() }).to_string();
        house.answers("host1", "/nodes/pve1/report", 9, body(text.into_bytes()));
        let question = Question::Evidence("host1".into());
        let asked = house.clock.now();
        let first = house.observe(std::slice::from_ref(&question)).await;
        assert!(first.answers.is_empty() && first.gaps.is_empty());
        assert_eq!(house.clock.now(), asked, "nobody waits for a report");
        house.wait(5).await;
        assert!(house.observe(std::slice::from_ref(&question)).await.answers.is_empty());
        house.wait(5).await;
        let later = house.observe(&[]).await;
        let stamped = &later.answers[&question];
        assert_eq!(stamped.asked, asked, "stamped with when its asking began");
        let Ok(Answer::Evidence(evidence)) = &stamped.answer else { panic!("{stamped:?}") };
        assert_eq!(evidence.members[&HostName::from("host1")].votes, 3);
        let reports = house.asked().iter().filter(|call| call.ends_with("/report")).count();
        assert_eq!(reports, 1, "one job a question");
        house.wait(601).await;
        assert!(house.observe(&[]).await.answers.is_empty(), "answers are forgotten");
    });
}

#[test]
fn what_is_late_is_a_gap_now_and_an_answer_later() {
    alone(async {
        let mut house = House::new();
        house.answers("host2", "/nodes/pve2/storage", 8, body(file("9.2-storage.json")));
        let question = Question::Readiness("host2".into());
        let seen = house.observe(std::slice::from_ref(&question)).await;
        assert!(seen.answers.is_empty());
        assert_eq!(
            seen.gaps[0].to_string(),
            "could not see readiness of host2: no answer within 5 s"
        );
        assert!(seen.whole(), "the look itself was whole");
        house.wait(4).await;
        let seen = house.observe(&[]).await;
        let Ok(Answer::Readiness(ready)) = &seen.answers[&question].answer else { panic!() };
        assert!(ready.ready());
        assert_eq!(ready.uptime_seconds, 5850);
        assert_eq!(ready.startall_done, Some(true), "long after the boot, without a trace");
    });
}

#[test]
fn no_host_is_asked_more_than_two_things_at_once() {
    alone(async {
        let mut house = House::new();
        for path in ["/cluster/status", "/cluster/resources", "/access/permissions"] {
            let answers = house.transport.answers.borrow().clone();
            let (_, answer) = answers[&("host1".to_owned(), path.to_owned())].clone();
            house.answers("host1", path, 1, answer);
        }
        house.answers("host1", "/nodes/pve1/report", 9, body(br#"{"data":""}"#.to_vec()));
        let questions = [
            Question::Evidence("host1".into()),
            Question::Permissions,
            Question::Membership("host1".into()),
            Question::LiveGuests("host1".into()),
            Question::ConfiguredVotes,
        ];
        let seen = house.observe(&questions).await;
        assert_eq!(house.transport.crowd.borrow()[&HostName::from("host1")].1, 2);
        assert!(seen.answers.contains_key(&Question::Permissions), "{:?}", seen.gaps);
        house.wait(10).await;
        let seen = house.observe(&[]).await;
        assert_eq!(seen.answers.len(), 5);
        let evidence = &seen.answers[&questions[0]].answer;
        assert!(evidence.as_ref().unwrap_err().why.contains("report of host1"), "{evidence:?}");
    });
}

#[test]
fn quick_questions_are_answered_in_the_look_that_asks_them() {
    alone(async {
        let mut house = House::new();
        house.says("host1", "/nodes/pve1/qemu/100/config", file("9.2-guest-config.json"));
        house.says("host1", "/nodes/pve1/qemu/100/migrate", file("9.2-guest-migrate.json"));
        let upid = "UPID:pve1:00000600:0008360B:6B03C034:qmigrate:100:root@pam!full:";
        let path = format!("/nodes/pve1/tasks/{upid}/status");
        house.says("host1", &path, file("9.2-task-running.json"));
        house.says("host2", "/nodes/pve2/tasks", file("9.2-cluster-tasks.json"));
        let since = Timestamp::from_second(1_795_408_000).unwrap();
        let questions = [
            Question::Membership("host2".into()),
            Question::LiveGuests("host1".into()),
            Question::Permissions,
            Question::ConfiguredVotes,
            Question::Guest(Vmid(100)),
            Question::Guest(Vmid(999)),
            Question::Task(upid.into()),
            Question::Tasks { host: "host2".into(), guest: Some(Vmid(105)), since },
        ];
        let seen = house.observe(&questions).await;
        let answer = |index: usize| match &seen.answers[&questions[index]].answer {
            Ok(answer) => answer.clone(),
            Err(gap) => panic!("{gap}"),
        };
        let Answer::Membership(members) = answer(0) else { panic!() };
        assert!(members.quorate && members.members[&HostName::from("host3")]);
        let Answer::LiveGuests(guests) = answer(1) else { panic!() };
        assert_eq!(guests.len(), 4);
        assert_eq!(guests[&Vmid(101)].status, RunState::Stopped);
        let Answer::Permissions(rights) = answer(2) else { panic!() };
        assert!(rights.allow("/vms/100", "VM.Migrate"));
        assert!(!rights.allow("/nodes/pve2", "Sys.PowerMgmt"));
        let Answer::ConfiguredVotes(votes) = answer(3) else { panic!() };
        assert_eq!(votes[&HostName::from("host3")], 1);
        let Answer::Guest(facts) = answer(4) else { panic!() };
        assert!(facts.local.is_empty() && facts.devices.is_empty());
        let allowed = facts.allowed.unwrap();
        assert_eq!(allowed.iter().map(HostName::as_str).collect::<Vec<_>>(), ["host2", "host3"]);
        let Err(gap) = &seen.answers[&questions[5]].answer else { panic!() };
        assert!(gap.why.contains("not among the guests"), "{gap}");
        let Answer::Task(Some(task)) = answer(6) else { panic!() };
        assert!(task.running() && task.host == "host1".into());
        let Answer::Tasks(tasks) = answer(7) else { panic!() };
        assert_eq!(tasks.len(), 4);
        let filter = house.transport.calls.borrow();
        let list = filter.iter().find(|call| call.path == "/nodes/pve2/tasks").unwrap();
        let shown: Vec<String> = list.params.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(shown, ["source=all", "since=1795408000", "limit=500", "vmid=105"]);
    });
}

#[test]
fn a_task_that_nobody_knows_is_none_and_an_older_pve_has_no_precondition_for_containers() {
    alone(async {
        let mut house = House::new();
        let upid = "UPID:pve1:0000ABCD:00ABCDEF:66666666:qmigrate:100:root@pam!full:";
        let unknown = Reply {
            status: 400,
            reason: "Parameter verification failed.".into(),
            body: file("8.4-task-unknown.json"),
        };
        let path = format!("/nodes/pve1/tasks/{upid}/status");
        house.answers("host1", &path, 0, Ok(unknown));
        let config = br#"{"data":{"rootfs":"local:200/vm-200-disk-0.raw,size=64M","onboot":1}}"#;
        house.says("host3", "/nodes/pve3/lxc/200/config", config.to_vec());
        house.says("host3", "/nodes/pve3/replication", br#"{"data":[]}"#.to_vec());
        let questions = [Question::Task(upid.into()), Question::Guest(Vmid(200))];
        let seen = house.observe(&questions).await;
        assert_eq!(seen.answers[&questions[0]].answer, Ok(Answer::Task(None)));
        let Ok(Answer::Guest(facts)) = &seen.answers[&questions[1]].answer else { panic!() };
        assert_eq!(facts.local[0].name, "local:200/vm-200-disk-0.raw");
        assert_eq!(facts.local[0].bytes, Some(64 << 20));
        assert_eq!((facts.allowed.as_ref(), facts.onboot), (None, true));
    });
}

#[test]
fn an_address_given_to_the_wrong_name_is_no_view_of_that_host() {
    alone(async {
        let mut house = House::new();
        house.says("host2", "/cluster/status", status_of("pve3"));
        let question = Question::Membership("host2".into());
        let seen = house.observe(std::slice::from_ref(&question)).await;
        let Err(gap) = &seen.answers[&question].answer else { panic!() };
        assert!(gap.why.contains("the address of host2 in spot.yaml is host3's"), "{gap}");
    });
}

#[test]
fn the_start_of_guests_after_a_boot_is_told_from_its_end() {
    alone(async {
        let mut house = House::new();
        let young = br#"{"data":{"uptime":60}}"#.to_vec();
        house.says("host1", "/nodes/pve1/status", young);
        let question = Question::Readiness("host1".into());
        let started = 1_795_408_400 - 20;
        let task = |more: &str, started: i64| {
            format!(
                r#"{{"data":[{{"upid":"UPID:pve1:00000001:00000001:{started:08X}:startall::root@pam:"{more}}}]}}"#
            )
        };
        for (list, done) in [
            (r#"{"data":[]}"#.to_owned(), None),
            (task(r#","status":"RUNNING""#, started), Some(false)),
            (task(r#","status":"OK","endtime":1795408390"#, started), Some(true)),
            // That of the boot before says nothing.
            (task(r#","status":"OK","endtime":1795408390"#, started - 3600), None),
        ] {
            house.says("host1", "/nodes/pve1/tasks", list.into_bytes());
            let seen = house.observe(std::slice::from_ref(&question)).await;
            let Ok(Answer::Readiness(ready)) = &seen.answers[&question].answer else { panic!() };
            assert_eq!(ready.startall_done, done);
        }
    });
}

#[test]
fn hosts_without_an_address_and_hosts_unknown_to_pve_are_told_apart() {
    alone(async {
        let end = |node: &str, addressed| Endpoint { node: node.into(), addressed, fixed: true };
        let mut house = House::with(BTreeMap::from([
            ("host1".into(), end("pve1", true)),
            ("host2".into(), end("pve2", false)),
            ("host9".into(), end("pve9", true)),
        ]));
        let question = Question::Evidence("host2".into());
        let seen = house.observe(std::slice::from_ref(&question)).await;
        let facts: Vec<String> = seen
            .hosts
            .iter()
            .map(|(h, s)| format!("{h} {} {} {:?}", s.listed, s.addressed, s.member))
            .collect();
        assert_eq!(
            facts,
            [
                "host1 true true Some(true)",
                "host2 true false Some(true)",
                "host9 false true None",
                "pve3 true false Some(true)"
            ]
        );
        let seen = house.observe(&[]).await;
        let Err(gap) = &seen.answers[&question].answer else { panic!() };
        assert!(gap.why.contains("spot.yaml names no address for host2"));
        assert!(!house.asked().iter().any(|call| call.contains("report")));
        let off = house.site.perform(&Request::PowerOff { host: "host2".into() }).await;
        assert!(matches!(off, Answered::Refused { .. }), "{off:?}");
        let off = house.site.perform(&Request::PowerOff { host: "pve3".into() }).await;
        assert!(matches!(off, Answered::Refused { .. }), "{off:?}");
        assert!(house.asked().is_empty(), "nothing was sent");
    });
}

/// Every request in PVE's own words.
#[test]
fn requests_are_spelled_as_pve_expects_them() {
    let house = House::new();
    let ends = house.site.core.endpoints();
    let migrate = |kind, how, local_disks| Request::Migrate {
        guest: Vmid(100),
        kind,
        from: "host1".into(),
        to: "host3".into(),
        how,
        local_disks,
        bandwidth: None,
    };
    let spelled = |request: &Request| match ends.spelled(request) {
        Ok((to, path, params)) => {
            let form: Vec<String> = params.iter().map(|(k, v)| format!("{k}={v}")).collect();
            format!("{to} {path} {}", form.join("&"))
        }
        Err(why) => why,
    };
    let host: HostName = "host3".into();
    for (request, expected) in [
        (
            migrate(GuestKind::Vm, Migration::Live, true),
            "host1 /nodes/pve1/qemu/100/migrate target=pve3&online=1&with-local-disks=1",
        ),
        (
            migrate(GuestKind::Vm, Migration::Live, false),
            "host1 /nodes/pve1/qemu/100/migrate target=pve3&online=1",
        ),
        (
            migrate(GuestKind::Ct, Migration::Restart, false),
            "host1 /nodes/pve1/lxc/100/migrate target=pve3&restart=1",
        ),
        (
            migrate(GuestKind::Ct, Migration::Offline, false),
            "host1 /nodes/pve1/lxc/100/migrate target=pve3",
        ),
        (
            migrate(GuestKind::Ct, Migration::Live, false),
            "container 100 cannot migrate live in PVE",
        ),
        (
            migrate(GuestKind::Vm, Migration::Restart, false),
            "PVE has no migration by restart for vm 100",
        ),
        (
            Request::Hibernate { guest: Vmid(100), host: host.clone() },
            "host3 /nodes/pve3/qemu/100/status/suspend todisk=1",
        ),
        (
            Request::ShutDownGuest {
                guest: Vmid(200),
                kind: GuestKind::Ct,
                host: host.clone(),
                timeout_seconds: 90,
            },
            "host3 /nodes/pve3/lxc/200/status/shutdown timeout=90",
        ),
        (
            Request::StartGuest { guest: Vmid(100), kind: GuestKind::Vm, host: host.clone() },
            "host3 /nodes/pve3/qemu/100/status/start ",
        ),
        (
            Request::Migrate {
                guest: Vmid(100),
                kind: GuestKind::Vm,
                from: "host1".into(),
                to: host.clone(),
                how: Migration::Live,
                local_disks: false,
                bandwidth: Some(110 << 20),
            },
            "host1 /nodes/pve1/qemu/100/migrate target=pve3&online=1&bwlimit=112640",
        ),
        (Request::PowerOff { host }, "host3 /nodes/pve3/status command=shutdown"),
    ] {
        assert_eq!(spelled(&request), expected);
    }
}

#[test]
fn a_power_off_is_never_sent_to_whoever_is_asked() {
    alone(async {
        for node in ["localhost", "LocalHost", "", "pve3/../pve1", "pve3?x"] {
            let end = Endpoint { node: node.into(), addressed: true, fixed: true };
            let house = House::with(BTreeMap::from([("host3".into(), end)]));
            let answered = house.site.perform(&Request::PowerOff { host: "host3".into() }).await;
            let Answered::Refused { sentence } = answered else { panic!("{node}: {answered:?}") };
            assert!(sentence.contains("no node's name"), "{sentence}");
            assert!(house.asked().is_empty());
        }
    });
}

#[test]
fn a_request_passes_by_the_lanes_and_takes_ten_seconds_at_most() {
    alone(async {
        let mut house = House::new();
        house.answers("host3", "/nodes/pve3/report", 40, body(br#"{"data":""}"#.to_vec()));
        house.answers("host3", "/nodes/pve3/storage", 40, body(file("9.2-storage.json")));
        let questions = [Question::Evidence("host3".into()), Question::Readiness("host3".into())];
        house.observe(&questions).await;
        house.answers("host3", "/nodes/pve3/status", 0, body(br#"{"data":null}"#.to_vec()));
        let power_off = Request::PowerOff { host: "host3".into() };
        let began = house.clock.now();
        let answered = house.site.perform(&power_off).await;
        assert_eq!(answered, Answered::Accepted { task: None });
        assert_eq!(house.clock.now(), began);
        house.answers("host3", "/nodes/pve3/status", 60, body(br#"{"data":null}"#.to_vec()));
        let answered = house.site.perform(&power_off).await;
        assert!(matches!(answered, Answered::Ambiguous { .. }), "{answered:?}");
        assert_eq!(house.clock.now().since(began), Duration::from_secs(10));
        let posts = house.transport.calls.borrow();
        let posts = posts.iter().filter(|call| call.method == Method::Post).count();
        assert_eq!(posts, 2, "an ambiguous request is never repeated");
    });
}

#[test]
fn the_last_minutes_of_a_host_that_is_off_are_read_as_recorded() {
    for (name, online) in [
        ("8.4-host3-off-1min-status.json", 2),
        ("9.2-host3-off-1min-status.json", 2),
        ("8.4-cold-start-pve1-alone-status.json", 1),
        ("9.2-cold-start-pve1-alone-status.json", 1),
    ] {
        let status = wire::cluster_status(&file(name)).unwrap();
        let seen = status.nodes.iter().filter(|node| node.online).count();
        assert_eq!((status.nodes.len(), seen), (3, online), "{name}");
    }
    let seen = wire::resources(&file("9.2-host3-off-6min-resources.json")).unwrap();
    let lost: Vec<&wire::GuestResource> =
        seen.guests.iter().filter(|guest| guest.node == "pve3").collect();
    assert!(!lost.is_empty());
    assert!(lost.iter().all(|guest| guest.status == "unknown" && guest.name.is_none()));
}

mod pretended;
mod spoiled;
