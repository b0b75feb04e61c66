//! The service's own promises on a site of a few lines: what people ask, what is written before
//! what is sent, what happens when nothing can be written. Whole stories are told on the pretended
//! cluster.
//!
//! **Does not know:** PVE, and how real hosts behave.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use tokio::sync::{mpsc, oneshot};

use super::*;
use crate::cluster::{ClockState, HostSeen, Reported};
use crate::ledger::{Leaving, Presence, Wants};
use crate::policy::text::{PolicyFile, read};
use crate::request::{Answered, Move};
use crate::undertaking::{Event, Stage};

const POLICY: &str = r#"
timezone: UTC
hosts:
  host1: { tier: low }
  host2: { tier: medium, mac: "a8:a1:59:00:00:02" }
  host3: { tier: high, mac: "a8:a1:59:00:00:03", lease: 4h, boot_within: 6m }
policies:
  - name: office
    hosts: [host2]
    run: [{ from: "0 8 * * *", for: 10h }]
"#;

fn policy(text: &str) -> Policy {
    let reading = read(&[PolicyFile { name: "home.yaml".into(), text: text.into() }]);
    let faults: Vec<&str> = reading.faults.iter().map(|fault| fault.message.as_str()).collect();
    reading.policy.unwrap_or_else(|| panic!("{faults:?}"))
}

/// A cluster of three hosts that answers at once and does nothing.
struct Tiny {
    now: Cell<Moment>,
    members: RefCell<BTreeMap<&'static str, bool>>,
    asked: RefCell<Vec<Request>>,
    /// A journal on disk, read while a request is under way.
    journal: Option<std::path::PathBuf>,
    written_before: RefCell<Vec<String>>,
}

fn start() -> Moment {
    let civil = "2026-11-23T06:00:00Z".parse().unwrap();
    Moment { civil, monotonic: Duration::ZERO }
}

impl Tiny {
    fn new() -> Tiny {
        let members = BTreeMap::from([("host1", true), ("host2", false), ("host3", false)]);
        Tiny {
            now: Cell::new(start()),
            members: RefCell::new(members),
            asked: RefCell::default(),
            journal: None,
            written_before: RefCell::default(),
        }
    }

    fn pass(&self, seconds: u64) {
        self.now.set(self.now.get().plus(Duration::from_secs(seconds)));
    }
}

impl Site for Tiny {
    fn now(&self) -> Moment {
        self.now.get()
    }

    async fn wait_until(&self, at: Moment) {
        // Nothing else runs beside the service here, so time may leap at once.
        self.now.set(at);
        tokio::task::yield_now().await;
    }

    async fn observe(&mut self, _questions: &[Question]) -> Observation {
        let mut seen = Observation::blank(self.now.get());
        seen.clock = ClockState::Synchronised;
        seen.quorate = Some(true);
        seen.seen_from = Some("host1".into());
        for (name, member) in self.members.borrow().iter() {
            let look = HostSeen {
                node: (*name).into(),
                member: Some(*member),
                listed: true,
                addressed: true,
                reported: Reported::Unknown,
                uptime_seconds: None,
                memory: None,
                cpu: None,
                power: None,
            };
            seen.hosts.insert((*name).into(), look);
        }
        seen
    }

    async fn perform(&self, request: &Request) -> Answered {
        self.asked.borrow_mut().push(request.clone());
        if let Some(path) = &self.journal {
            let written = Journal::read_only(path).unwrap().history(&Filter::default()).unwrap();
            let last = written.last().unwrap();
            self.written_before.borrow_mut().push(last.entry.to_string());
        }
        Answered::Sent { packets: 1, by: vec!["vmbr0".into()], but: vec![] }
    }
}

fn settings(mode: Mode) -> Settings {
    Settings { cluster: "home".into(), mode, here: Here::Host("host1".into()) }
}

struct Try {
    service: Service<Tiny>,
}

impl Try {
    /// One quiet turn with the policy has passed.
    async fn begun(mode: Mode) -> Try {
        let books = Journal::in_memory("home", "host1").unwrap();
        let service = Service::new(Tiny::new(), books, settings(mode));
        let mut house = Try { service };
        house.policy(POLICY, "abc").await;
        house
    }

    async fn policy(&mut self, text: &str, commit: &str) -> TurnReport {
        let news = PolicyNews::Valid { policy: Box::new(policy(text)), commit: commit.into() };
        self.service.turn(Inbox { policy: Some(news), ..Inbox::default() }).await
    }

    async fn turn(&mut self) -> Vec<String> {
        let report = self.service.turn(Inbox::default()).await;
        report.entries.iter().map(|kept| kept.entry.to_string()).collect()
    }

    async fn later(&mut self, seconds: u64) -> Vec<String> {
        self.service.site.pass(seconds);
        self.turn().await
    }

    async fn ask(&mut self, ask: Ask) -> (Asked, TurnReport) {
        self.ask_as(ask, false).await
    }

    async fn ask_as(&mut self, ask: Ask, confirmed: bool) -> (Asked, TurnReport) {
        let (answer, mut said) = oneshot::channel();
        let asking = Asking { ask, by: "anna".into(), confirmed, answer: Some(answer) };
        let report = self.service.turn(Inbox { asks: vec![asking], policy: None }).await;
        (said.try_recv().unwrap(), report)
    }

    /// Writes entries as if they had happened.
    fn happened(&mut self, entries: &[Entry]) {
        self.service.books.note(self.service.site.now(), entries).unwrap();
        let _told_by_the_test = self.service.books.fresh();
    }

    fn ledger(&self) -> &crate::ledger::Ledger {
        self.service.books.ledger()
    }
}

fn up(host: &str) -> Ask {
    Ask::Up { hosts: vec![host.into()], guest: None, until: None, for_seconds: None, because: None }
}

fn down(host: &str) -> Ask {
    Ask::Down { hosts: vec![host.into()], until: None, for_seconds: None }
}

fn said(asked: Asked) -> String {
    match asked {
        Asked::Taken { sentences } => format!("taken: {}", sentences.join("; ")),
        Asked::Refused { sentence, remedy } => format!("refused: {sentence}\n    {remedy}"),
        Asked::Confirm { sentence } => format!("confirm: {sentence}"),
    }
}

#[tokio::test]
async fn an_up_is_written_down_answered_and_acted_on_in_one_turn() {
    let mut house = Try::begun(Mode::Act).await;
    let (asked, report) = house.ask(up("host3")).await;
    assert_eq!(
        said(asked),
        "taken: host3 is wanted awake for 4 h (until 2026-11-23T10:00:00Z), and guests that prefer it go there"
    );
    assert_eq!(report.asked, 1);
    let asked = house.service.site.asked.borrow().clone();
    assert!(matches!(&asked[..], [Request::Wake { host, .. }] if host.as_str() == "host3"));
    let shown = report.status().hosts.iter().find(|shown| shown.name.as_str() == "host3").unwrap();
    assert_eq!((shown.state.as_str(), shown.desired), ("resting", Some(Wants::Awake)));
    assert_eq!(shown.wake.as_ref().unwrap().volleys, 1);
    assert_eq!(shown.lease.as_ref().unwrap().by, "anna");
    assert!(report.revisit.since(house.service.site.now()) <= LIVELY);
}

#[tokio::test]
async fn the_intent_is_on_disk_before_the_request_and_the_answer_after() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.db");
    let books = Journal::open(&path, "home", "host1").unwrap();
    let site = Tiny { journal: Some(path), ..Tiny::new() };
    let mut house = Try { service: Service::new(site, books, settings(Mode::Act)) };
    house.policy(POLICY, "abc").await;
    house.ask(up("host3")).await;
    let before = house.service.site.written_before.borrow().clone();
    assert_eq!(before, ["asks: send magic packets to host3 (1 address)"]);
    let history = house.service.books.journal().history(&Filter::default()).unwrap();
    let last = history.last().unwrap().entry.to_string();
    assert_eq!(last, "the answer: 1 packet sent by vmbr0");
}

#[tokio::test]
async fn every_intent_of_a_turn_is_on_disk_before_its_first_request() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.db");
    let books = Journal::open(&path, "home", "host1").unwrap();
    let site = Tiny { journal: Some(path), ..Tiny::new() };
    let mut house = Try { service: Service::new(site, books, settings(Mode::Act)) };
    house.policy(POLICY, "abc").await;
    let hosts = vec!["host2".into(), "host3".into()];
    let ask = Ask::Up { hosts, guest: None, until: None, for_seconds: None, because: None };
    assert_eq!(house.ask(ask).await.1.asked, 2);
    let first = house.service.site.written_before.borrow()[0].clone();
    assert_eq!(first, "asks: send magic packets to host3 (1 address)", "the last intent");
    let history = house.service.books.journal().history(&Filter::default()).unwrap();
    let answers = history.iter().filter(|kept| kept.entry.to_string().starts_with("the answer"));
    assert_eq!(answers.count(), 2);
    assert!(house.ledger().in_flight().next().is_none());
}

/// What scripts rely on: names and nulls.
#[tokio::test]
async fn the_status_has_the_fields_it_promises_and_null_for_what_is_not_known() {
    let mut house = Try::begun(Mode::Act).await;
    let (_, report) = house.ask(up("host3")).await;
    let status = serde_json::to_value(report.status()).unwrap();
    let fields = |value: &serde_json::Value, promised: &[&str]| {
        for field in promised {
            assert!(value.get(field).is_some(), "{field} is missing in {value}");
        }
    };
    fields(&status, &["version", "cluster", "at", "mode", "policy", "quorate", "votes"]);
    fields(&status, &["hosts", "undertakings", "holds"]);
    fields(&status["policy"], &["commit", "age"]);
    fields(&status["votes"], &["expected", "present", "needed", "spare", "source"]);
    assert!(status["votes"]["spare"].is_null() && status["votes"]["source"].is_null());
    let host = &status["hosts"][2];
    fields(host, &["name", "node", "tier", "state", "desired", "since", "reasons", "holds"]);
    fields(host, &["lease", "guests"]);
    fields(&host["reasons"][0], &["code", "sentence", "until"]);
    assert_eq!(host["lease"]["wants"], "awake");
    assert_eq!(status["undertakings"][0]["purpose"], "wake host3");
    fields(&status["undertakings"][0], &["id", "requests", "since"]);
    let why = serde_json::to_value(report.status().why(&"host3".into()).unwrap()).unwrap();
    assert_eq!(why["host"]["name"], "host3");
    assert_eq!(why["undertakings"][0]["host"], "host3");
    assert!(report.status().why(&"host9".into()).is_none());
}

#[tokio::test]
async fn while_nothing_can_be_written_nothing_is_asked_and_that_is_said() {
    let mut house = Try::begun(Mode::Act).await;
    house.happened(&[Entry::LeaseGranted {
        host: "host3".into(),
        wants: Wants::Awake,
        until: None,
        because: None,
        by: "anna".into(),
    }]);
    house.service.books.journal().writable(false);
    let (asked, report) = house.ask(Ask::Freeze { host: "host2".into() }).await;
    assert!(said(asked).starts_with("refused: it cannot be written down"));
    assert!(house.service.site.asked.borrow().is_empty());
    let trouble = report.status().trouble.clone().unwrap();
    assert!(trouble.sentence.ends_with("nothing is asked of any host"), "{trouble:?}");
    assert!(trouble.remedy.starts_with("make the state folder writable"), "{trouble:?}");

    house.service.books.journal().writable(true);
    let report = house.service.turn(Inbox::default()).await;
    assert_eq!(report.status().trouble, None);
    assert_eq!(house.service.site.asked.borrow().len(), 1);
}

#[tokio::test]
async fn a_turn_in_which_nothing_happens_writes_nothing() {
    let mut house = Try::begun(Mode::Act).await;
    house.ask(Ask::Freeze { host: "host3".into() }).await;
    for _ in 0..3 {
        assert_eq!(house.later(30).await, Vec::<String>::new());
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_with_a_remedy() {
    let mut house = Try::begun(Mode::Act).await;
    house.ask(Ask::Freeze { host: "host2".into() }).await;
    let past = "2026-11-23T05:00:00Z".parse().unwrap();
    let long = |hosts: &str| Ask::Up {
        hosts: vec![hosts.into()],
        guest: None,
        until: None,
        for_seconds: Some(u64::MAX),
        because: None,
    };
    let mut table = String::new();
    for ask in [
        up("host9"),
        up("host1"),
        up("host2"),
        down("host1"),
        down("host2"),
        Ask::Down { hosts: vec![], until: None, for_seconds: None },
        Ask::Down { hosts: vec!["host3".into()], until: Some(past), for_seconds: None },
        long("host3"),
        Ask::Up {
            hosts: vec!["host3".into()],
            guest: None,
            until: None,
            for_seconds: None,
            because: Some("x".repeat(201)),
        },
        Ask::Up {
            hosts: vec![],
            guest: Some(crate::cluster::Vmid(201)),
            until: None,
            for_seconds: None,
            because: None,
        },
        Ask::Empty { host: "host2".into() },
        Ask::Release { host: "host3".into() },
        Ask::Freeze { host: "host9".into() },
        Ask::Prove { host: "host1".into() },
    ] {
        let (asked, report) = house.ask(ask).await;
        assert!(report.entries.is_empty());
        table += &(said(asked) + "\n");
    }
    assert_eq!(
        table,
        "\
refused: no policy names a host host9
    known hosts: host1, host2, host3
refused: host1 is of tier low: it is always on, and spot never switches it
    give it another tier in its policy if it may sleep
refused: host2 is frozen by anna, so it is left exactly as it is
    spot thaw host2
refused: host1 is of tier low: it is always on, and spot never switches it
    give it another tier in its policy if it may sleep
refused: host2 is frozen by anna, so it is left exactly as it is
    spot thaw host2
refused: no host was named
    known hosts: host1, host2, host3
refused: 2026-11-23T05:00:00Z is not in the future
    give an end that lies ahead, or a length: --for 4h
refused: that is longer than a year
    give a shorter time; a host that should always run is of tier low
refused: the reason is longer than 200 characters
    say it in fewer words
refused: no guest 201 is seen
    look at the guests: spot status
refused: host2 is frozen by anna, so it is left exactly as it is
    spot thaw host2
refused: host3 has no lease, is not being emptied and not being proven
    spot why host3 says what keeps it as it is
refused: no policy names a host host9
    known hosts: host1, host2, host3
refused: host1 is of tier low: it is always on, and spot never switches it
    give it another tier in its policy if it may sleep
"
    );
}

#[tokio::test]
async fn an_ask_for_several_hosts_is_taken_for_all_or_none() {
    let mut house = Try::begun(Mode::Act).await;
    let hosts = vec!["host3".into(), "host9".into()];
    let ask = Ask::Up { hosts, guest: None, until: None, for_seconds: None, because: None };
    let (asked, _) = house.ask(ask).await;
    assert!(said(asked).starts_with("refused"));
    assert!(house.ledger().leases.is_empty());
}

#[tokio::test]
async fn the_newer_of_up_and_down_cancels_the_older() {
    let mut house = Try::begun(Mode::Act).await;
    house.ask(up("host3")).await;
    let (asked, _) = house.ask(down("host3")).await;
    assert_eq!(
        said(asked),
        "taken: host3 is wanted at rest until spot up or spot release; \
         this replaces the lease by which anna wanted host3 awake until 2026-11-23T10:00:00Z; \
         spot has not seen host3 wake by packet: you may have to switch it on by hand"
    );
    assert_eq!(house.ledger().leases[&HostName::from("host3")].wants, Wants::Rest);
    let (asked, _) = house.ask(Ask::Release { host: "host3".into() }).await;
    assert_eq!(said(asked), "taken: the lease of host3 (rest) is over");
    assert!(house.ledger().leases.is_empty());
}

#[tokio::test]
async fn a_reason_is_one_clean_line() {
    let mut house = Try::begun(Mode::Act).await;
    let because = Some(" a game\nnight\u{1b}[31m ".into());
    let hosts = vec!["host3".into()];
    house.ask(Ask::Up { hosts, guest: None, until: None, for_seconds: Some(60), because }).await;
    let lease = &house.ledger().leases[&HostName::from("host3")];
    assert_eq!(lease.because.as_deref(), Some("a game night [31m"));
}

#[tokio::test]
async fn a_lease_ends_when_its_time_is_over() {
    let mut house = Try::begun(Mode::Act).await;
    house.ask(up("host3")).await;
    assert!(!house.later(4 * 3600 - 1).await.iter().any(|told| told.contains("the lease")));
    assert!(
        house.later(1).await.contains(&"the lease of host3 ended: its time is over".to_owned())
    );
}

#[tokio::test]
async fn a_down_without_an_end_lasts_until_the_next_window_opens() {
    let mut house = Try::begun(Mode::Act).await;
    let (asked, _) = house.ask(down("host2")).await;
    assert!(said(asked).contains("at rest until office opens (2026-11-23T08:00:00Z)"));
    // The clock reads 06:00; the window opens at 08:00.
    assert!(house.later(7199).await.is_empty());
    let told = house.later(1).await;
    assert!(
        told.contains(&"the lease of host2 ended: policy office opened its window".to_owned()),
        "{told:?}"
    );
}

#[tokio::test]
async fn no_lease_ends_by_a_clock_that_stepped() {
    let mut house = Try::begun(Mode::Act).await;
    house.ask(up("host3")).await;
    let now = house.service.site.now();
    let day = Duration::from_secs(24 * 3600);
    house.service.site.now.set(Moment { civil: now.civil + day, ..now });
    let told = house.turn().await;
    assert!(told.iter().any(|told| told.starts_with("the clock stepped by 86400 s")), "{told:?}");
    assert_eq!(house.ledger().leases.len(), 1);
}

#[tokio::test]
async fn in_rehearse_a_command_acts_only_when_confirmed() {
    let mut house = Try::begun(Mode::Rehearse).await;
    let (asked, report) = house.ask(up("host3")).await;
    assert!(said(asked).starts_with("confirm: spot only rehearses"));
    assert_eq!(report.asked, 0);
    let (asked, report) = house.ask_as(up("host3"), true).await;
    assert!(said(asked).starts_with("taken"));
    assert_eq!(report.asked, 1);
}

#[tokio::test]
async fn in_rehearse_a_window_only_says_what_it_would_do_and_says_it_once() {
    let mut house = Try::begun(Mode::Rehearse).await;
    let told = house.later(3 * 3600).await;
    let refusal = |told: &[String]| told.iter().filter(|told| told.contains("rehearse")).count();
    assert_eq!(refusal(&told), 1, "{told:?}");
    assert!(house.service.site.asked.borrow().is_empty());
    assert_eq!(refusal(&house.later(30).await), 0);
}

#[tokio::test]
async fn an_invalid_policy_never_replaces_a_valid_one() {
    let mut house = Try::begun(Mode::Act).await;
    let refused = || PolicyNews::Refused { sentence: "home.yaml:3:7: no such tier".into() };
    let inbox = Inbox { policy: Some(refused()), ..Inbox::default() };
    let report = house.service.turn(inbox).await;
    let told: Vec<String> = report.entries.iter().map(|kept| kept.entry.to_string()).collect();
    assert_eq!(told, ["policy refused: home.yaml:3:7: no such tier"]);
    let shown = &report.status().policy;
    assert_eq!(shown.commit.as_deref(), Some("abc"));
    assert_eq!(shown.refused.as_deref(), Some("home.yaml:3:7: no such tier"));
    // The same news again is no news.
    let inbox = Inbox { policy: Some(refused()), ..Inbox::default() };
    assert!(house.service.turn(inbox).await.entries.is_empty());
    let report = house.policy(POLICY, "def").await;
    assert_eq!(report.status().policy.refused, None);
    assert_eq!(house.ledger().policy.as_deref(), Some("def"));
}

#[tokio::test]
async fn without_a_policy_it_looks_and_says_so() {
    let books = Journal::in_memory("home", "host1").unwrap();
    let mut service = Service::new(Tiny::new(), books, settings(Mode::Act));
    let report = service.turn(Inbox::default()).await;
    let trouble = report.status().trouble.clone().unwrap();
    assert_eq!(trouble.sentence, "no policy is in force yet");
    assert_eq!(service.books.ledger().host(&"host2".into()).presence, Presence::Resting);
}

#[tokio::test]
async fn a_failed_wake_is_counted_and_revokes_the_proof_whoever_vouched() {
    let mut house = Try::begun(Mode::Act).await;
    let print = policy(POLICY).host(&"host3".into()).unwrap().wake_print();
    house.happened(&[Entry::WakeProven { host: "host3".into(), print }]);
    house.ask(up("host3")).await;
    let mut told = Vec::new();
    for _ in 0..13 {
        told.extend(house.later(30).await);
    }
    assert!(told.contains(&"waking host3 failed (attempt 1)".to_owned()), "{told:?}");
    let unproven = "host3 is no longer proven to wake: a wake failed: ";
    assert!(told.iter().any(|told| told.starts_with(unproven)), "{told:?}");
    let record = house.ledger().host(&"host3".into());
    assert_eq!((record.failed_wakes, record.proof), (1, None));
}

#[tokio::test]
async fn another_mac_address_revokes_the_proof() {
    let mut house = Try::begun(Mode::Act).await;
    let print = policy(POLICY).host(&"host3".into()).unwrap().wake_print();
    house.happened(&[Entry::WakeProven { host: "host3".into(), print }]);
    assert!(house.turn().await.is_empty());
    house.policy(&POLICY.replace("00:03", "00:33"), "def").await;
    assert_eq!(house.ledger().host(&"host3".into()).proof, None);
}

#[tokio::test]
async fn a_proof_ends_when_the_host_woke_and_when_it_takes_too_long() {
    let ledger = |house: &Try| house.ledger().proving.len();
    let mut house = Try::begun(Mode::Act).await;
    let (asked, _) = house.ask(Ask::Prove { host: "host3".into() }).await;
    assert!(said(asked).starts_with("taken: host3 is put to sleep and woken once"));
    assert_eq!(ledger(&house), 1);
    let noticed = vec![Entry::WakeProven { host: "host3".into(), print: "x".into() }];
    let with = super::turning::with_proofs(noticed, house.ledger());
    assert_eq!(with[1].to_string(), "the proof of host3 ended: it slept, and woke by our packet");
    // The host never comes: the wake fails, and the proof with it.
    let mut told = Vec::new();
    for _ in 0..13 {
        told.extend(house.later(30).await);
    }
    assert!(told.iter().any(|told| told.starts_with("the proof of host3 ended: it failed")));
    assert_eq!(ledger(&house), 0);
}

#[test]
fn a_host_may_rest_only_for_a_reason_of_its_owner() {
    let quiet: Timestamp = "2026-11-23T20:00:00Z".parse().unwrap();
    let open: Timestamp = "2026-11-23T09:00:00Z".parse().unwrap();
    let policy = policy(POLICY);
    let host = HostName::from("host2");
    let print = policy.host(&host).unwrap().wake_print();
    let proven = Entry::WakeProven { host: host.clone(), print };
    let wanted = Entry::HostWanted { host: host.clone(), because: "office".into() };
    let lease = |wants| Entry::LeaseGranted {
        host: host.clone(),
        wants,
        until: None,
        because: None,
        by: "anna".into(),
    };
    let by = || "anna".to_owned();
    let frozen = Entry::Frozen { host: host.clone(), by: by() };
    let emptying = Entry::EmptyingAsked { host: host.clone(), by: by() };
    let proving = Entry::ProofAsked { host: host.clone(), by: by() };
    let left = Entry::HostLeft {
        host: host.clone(),
        leaving: Leaving::Others,
        config_version: None,
        seconds: None,
    };
    let came = |same_boot| Entry::HostCame { host: host.clone(), first_look: false, same_boot };
    let (came_again, back_in_sight) = (came(false), came(true));
    let cases: Vec<(&str, Timestamp, Vec<&Entry>, bool)> = vec![
        ("nothing is known", quiet, vec![], false),
        ("ours and proven", quiet, vec![&wanted, &proven], true),
        ("ours and not proven", quiet, vec![&wanted], false),
        ("proven and not ours", quiet, vec![&proven], false),
        ("ours before it left", quiet, vec![&wanted, &proven, &left, &came_again], false),
        ("only out of sight", quiet, vec![&wanted, &proven, &left, &back_in_sight], true),
        ("a window is open", open, vec![&wanted, &proven], false),
    ];
    let (rest, awake) = (lease(Wants::Rest), lease(Wants::Awake));
    let commands: Vec<(&str, Timestamp, Vec<&Entry>, bool)> = vec![
        ("on command", quiet, vec![&rest], true),
        ("on command in a window", open, vec![&rest], true),
        ("a newer wish to be awake", quiet, vec![&rest, &awake], false),
        ("frozen", quiet, vec![&rest, &frozen], false),
        ("kept on while emptied", quiet, vec![&wanted, &proven, &emptying], false),
        ("under proof", open, vec![&proving], true),
        ("frozen under proof", open, vec![&proving, &frozen], false),
    ];
    for (name, at, entries, may) in cases.into_iter().chain(commands) {
        let mut ledger = crate::ledger::Ledger::default();
        for entry in entries {
            ledger.take(at, entry).unwrap();
        }
        let seen = Observation::blank(Moment { civil: at, monotonic: Duration::ZERO });
        let bounds = bounds::bounds(&policy, &seen, &ledger, &settings(Mode::Act), at, true);
        assert_eq!(bounds.may_rest.contains(&host), may, "{name}");
        assert!(bounds.never.contains(&"host1".into()));
    }
}

#[tokio::test]
async fn the_loop_answers_asks_and_ends_when_told() {
    let books = Journal::in_memory("home", "host1").unwrap();
    let service = Service::new(Tiny::new(), books, settings(Mode::Act));
    let (asks, inbox) = mpsc::channel(4);
    let (policies, news) = mpsc::channel(1);
    let (stop, stopped) = oneshot::channel::<()>();
    let mut pictures = service.pictures();
    let doors = Doors { asks: inbox, policies: news };
    let valid = PolicyNews::Valid { policy: Box::new(policy(POLICY)), commit: "abc".into() };
    policies.send(valid).await.unwrap();
    let life = service.run(doors, async move {
        let _sent_or_dropped = stopped.await;
    });
    let visitor = async move {
        pictures.changed().await.unwrap();
        let (answer, said) = oneshot::channel();
        let ask = Ask::Freeze { host: "host3".into() };
        let asking = Asking { ask, by: "anna".into(), confirmed: false, answer: Some(answer) };
        asks.send(asking).await.unwrap();
        assert!(matches!(said.await.unwrap(), Asked::Taken { .. }));
        stop.send(()).unwrap();
    };
    let ((_, books), ()) = tokio::join!(life, visitor);
    let history = books.journal().history(&Filter::default()).unwrap();
    let told: Vec<&str> = history.iter().map(|kept| kept.kind.as_str()).collect();
    assert_eq!(told.first(), Some(&"started"));
    assert_eq!(told.last(), Some(&"stopped"));
    assert!(told.contains(&"frozen"));
}

#[tokio::test]
async fn a_restart_in_the_middle_of_a_wake_goes_on_where_it_was() {
    let mut house = Try::begun(Mode::Act).await;
    house.ask(up("host3")).await;
    house.service.site.pass(3);
    let (site, books) = house.service.dismantle();
    let books = books.reopen("host1").unwrap();
    assert_eq!(books.authority().term(), 2);
    let mut house = Try { service: Service::new(site, books, settings(Mode::Act)) };
    house.policy(POLICY, "abc").await;
    let undertakings: Vec<_> = house.ledger().undertakings.values().collect();
    assert_eq!(undertakings.len(), 1, "no second undertaking for one purpose");
    assert_eq!(undertakings[0].volleys, 2);
    assert!(house.service.books.journal().history(&Filter::default()).unwrap().iter().all(
        |kept| !matches!(
            &kept.entry,
            Entry::Progress { event: Event::Ended { stage: Stage::Failed, .. }, .. }
        )
    ));
    assert_eq!(undertakings[0].purpose, Move::Wake("host3".into()));
}
