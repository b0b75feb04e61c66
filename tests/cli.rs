//! The program from outside: the built binary, driven as a person or a script drives it, against a
//! pretended cluster on this machine's loopback.
//!
//! Nothing sleeps: every wait is for a line that a process prints, with a limit on how long. Time in
//! the pretended cluster runs forty times as fast, so that a boot is two seconds.
//!
//! **Does not know:** anything that is not printed, exited with, or written to a file.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

/// Longer than anything here takes, on a machine that does much else.
const LIMIT: Duration = Duration::from_secs(40);
const SPEED: u32 = 40;
const START: &str = "2026-11-23T05:00:00Z";

const WORLD: &str = "
cluster: homelab
start: 2026-11-23T05:00:00Z
hosts:
  - { name: host1, votes: 3, mac: 'a8:a1:59:00:00:01', always_on: true }
  - { name: host2, votes: 1, mac: 'a8:a1:59:00:00:02', state: off }
  - { name: host3, votes: 1, mac: 'a8:a1:59:00:00:03', state: off }
storages: [{ name: shared, shared: true, kind: nfs }]
guests:
  - { vmid: 100, kind: vm, name: router, host: host1 }
  - { vmid: 201, kind: vm, name: \"desk\\e[2Jtop\", host: host1, tags: [desktop], disks: [{ storage: shared }] }
tokens:
  - { id: 'root@pam!full', secret: '11111111-2222-3333-4444-555555555555' }
  - { id: 'zfew@pve!few', secret: '11111111-2222-3333-4444-666666666666', rights: { by: { /: [Sys.Audit] } } }
  - { id: 'zold@pve!old', secret: '11111111-2222-3333-4444-777777777777', expired: true }
";

const POLICY: &str = "
timezone: UTC
hosts:
  host1: { tier: low }
  host2: { tier: medium, mac: 'a8:a1:59:00:00:02' }
  host3: { tier: high, mac: 'a8:a1:59:00:00:03', lease: 2h }
guests:
  - match: { vmid: [100] }
    pinned: true
  - match: { any: true }
    prefer: [host3, host1]
policies:
  - name: office-hours
    hosts: [host2]
    run: [{ from: '0 20 * * *', for: 1h }]
";

/// The promised form of one command's JSON.
struct Shape(jsonschema::Validator);

impl Shape {
    fn named(name: &str) -> Shape {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/shapes");
        let text = fs::read_to_string(folder.join(format!("{name}.schema.json"))).expect(name);
        let schema: Value = serde_json::from_str(&text).expect("a schema is JSON");
        Shape(jsonschema::validator_for(&schema).expect("a schema"))
    }

    fn holds(&self, document: &Value) {
        let faults: Vec<String> = self
            .0
            .iter_errors(document)
            .map(|fault| format!("{}: {fault}", fault.instance_path()))
            .collect();
        assert!(faults.is_empty(), "{}\n{document:#}", faults.join("\n"));
    }
}

/// A process with its lines, ended when it is dropped.
struct Running {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Running {
    fn start(command: &mut Command) -> Running {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let (sender, lines) = channel();
        let out = child.stdout.take().expect("piped");
        let err = child.stderr.take().expect("piped");
        let other = sender.clone();
        std::thread::spawn(move || read(BufReader::new(out), &sender));
        std::thread::spawn(move || read(BufReader::new(err), &other));
        Running { child, lines, seen: Vec::new() }
    }

    /// Waits for a line that holds `text`.
    fn says(&mut self, text: &str) -> String {
        loop {
            match self.lines.recv_timeout(LIMIT) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(_) => panic!("never said `{text}`, but:\n{}", self.seen.join("\n")),
            }
        }
    }

    /// Sends a signal, as a terminal or systemd does.
    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status().expect("kill runs");
        assert!(sent.success(), "it still runs");
    }

    /// Everything it still says, and how it ended.
    fn ends(mut self) -> (i32, String) {
        while let Ok(line) = self.lines.recv_timeout(LIMIT) {
            self.seen.push(line);
        }
        let status = self.child.wait().expect("it has ended");
        (status.code().unwrap_or(-1), self.seen.join("\n"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(lines: impl BufRead, sender: &std::sync::mpsc::Sender<String>) {
    for line in lines.lines().map_while(Result::ok) {
        if sender.send(line).is_err() {
            return;
        }
    }
}

fn spot() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spot"));
    command
        .env_remove("JOURNAL_STREAM")
        .env("NO_COLOR", "1")
        .env("TZ", "UTC")
        .env("COLUMNS", "1000");
    command
}

/// A folder with `spot.yaml`, policies and state, beside a pretended cluster.
struct Home {
    folder: TempDir,
    cluster: Running,
    config: String,
}

impl Home {
    /// The cluster runs and `spot.yaml` is the one it prints.
    fn new() -> Home {
        Home::of(WORLD, POLICY)
    }

    fn of(world: &str, policy: &str) -> Home {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("world.yaml"), world).expect("written");
        fs::create_dir(folder.path().join("policies")).expect("made");
        fs::write(folder.path().join("policies/home.yaml"), policy).expect("written");
        let mut cluster = Running::start(
            spot()
                .current_dir(folder.path())
                .args(["pretend", "--world", "world.yaml", "--requests", "requests.jsonl"])
                .args(["--listen", "127.0.0.1:0", "--magic", "127.0.0.1:0"])
                .args(["--speed", &SPEED.to_string()]),
        );
        cluster.says("serving until");
        let yaml = cluster.seen.iter().skip_while(|line| *line != "hosts:");
        let config: Vec<&str> =
            yaml.take_while(|line| !line.is_empty()).map(String::as_str).collect();
        let home = Home { config: config.join("\n") + "\n", folder, cluster };
        home.configure(|config| config.to_owned());
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes `spot.yaml` as `change` makes it.
    fn configure(&self, change: impl Fn(&str) -> String) {
        fs::write(self.path("spot.yaml"), change(&self.config)).expect("written");
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = spot();
        command
            .current_dir(self.folder.path())
            .env("SPOT_TOKEN", "11111111-2222-3333-4444-555555555555")
            .args(["--config", "spot.yaml"])
            .args(args);
        command
    }

    /// Runs a command to its end: its exit code, and both its streams.
    fn spot(&self, args: &[&str]) -> (i32, String, String) {
        told(&self.command(args).stdin(Stdio::null()).output().expect("it runs"))
    }

    /// The service, once its socket answers.
    fn service(&self) -> Running {
        let clock = format!("{START}@{SPEED}");
        let mut service = Running::start(&mut self.command(&["run", "--clock", &clock]));
        service.says("host1 is ready");
        service
    }

    fn json(&self, args: &[&str]) -> Value {
        let (code, out, err) = self.spot(args);
        assert_eq!(code, 0, "{args:?}: {out}{err}");
        serde_json::from_str(&out).unwrap_or_else(|why| panic!("{args:?}: {why}\n{out}"))
    }
}

fn told(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

#[test]
fn every_looking_command_gives_the_json_it_promises() {
    let home = Home::new();
    let _service = home.service();
    for (shape, args) in [
        ("status", &["status", "--json"][..]),
        ("plan", &["plan", "--json"]),
        ("why", &["why", "host3", "--json"]),
        ("agenda", &["agenda", "--days", "3", "--json"]),
        ("history", &["history", "--json"]),
        ("quorum", &["quorum", "--json"]),
        ("advice", &["quorum", "--advise", "--json"]),
        ("check", &["check", "--format", "json"]),
        ("doctor", &["doctor", "--json"]),
    ] {
        Shape::named(shape).holds(&home.json(args));
    }
    // A name is data from the cluster, and is spelled out on a terminal.
    let (_, out, _) = home.spot(&["history"]);
    assert!(!out.contains('\u{1b}'), "{out:?}");
}

/// A cluster that need not exist is asked about without configuration, service or cluster.
#[test]
fn what_if_answers_from_a_file_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let spot = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_spot"));
        command.current_dir(folder.path()).args(["--config", "/nowhere/spot.yaml", "quorum"]);
        told(&command.args(args).output().expect("spot starts"))
    };
    let write =
        |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("written");
    let home = "nodes: [{name: n1, votes: 3}, {name: n2}, {name: n3, votes: 1}]
history: [{up: [n1]}, {up: [n1, n2, n3]}, {crash: [n1], after: 2s}]
";
    write("home.yaml", home);
    let (code, out, err) = spot(&["--what-if", "home.yaml", "--json"]);
    assert_eq!(code, 0, "{err}");
    let answers: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    Shape::named("what-if").holds(&answers);
    let view = |total, quorate| serde_json::json!({"expected": 5, "total": total, "quorum": 3, "quorate": quorate});
    assert_eq!(answers[0]["views"], serde_json::json!({"n1": view(3, true)}));
    assert_eq!(
        answers[2]["views"],
        serde_json::json!({"n2": view(2, false), "n3": view(2, false)})
    );
    // The same as JSON, with what corosync refuses to start with.
    write(
        "odd.json",
        r#"{"nodes": [{"name": "n1", "votes": 3}, {"name": "n2", "votes": 1}],
            "qdevice": {"algorithm": "lms"}, "history": [{"up": ["n1"]}]}"#,
    );
    let (code, out, _) = spot(&["--what-if", "odd.json", "--json"]);
    let answers: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert!(code == 0 && answers[0]["refused"]["n1"].is_string(), "{out}");
    let (code, out, _) = spot(&["--what-if", "home.yaml"]);
    assert!(code == 0 && out.contains("3. crash: n1 (after 2 s)"), "{out}");
    // A fault names its line, its path and what to write instead.
    write("bad.yaml", &home.replace("{up: [n1]}", "{up: [n9]}"));
    let (code, _, err) = spot(&["--what-if", "bad.yaml", "--json"]);
    assert!(code == 2 && err.contains("line 2: history[0].up[0]: nodes has no host n9"), "{err}");
    assert_eq!(spot(&["--what-if", "missing.yaml"]).0, 2);
    // Advice for those nodes and some policies.
    write(
        "policy.yaml",
        "timezone: UTC
hosts:
  n1: { tier: low }
  n2: { tier: high, mac: \"a8:a1:59:00:00:02\" }
  n3: { tier: high, mac: \"a8:a1:59:00:00:03\" }
",
    );
    write("equal.yaml", "nodes: [{name: n1}, {name: n2}, {name: n3}]\n");
    let args = ["--advise", "--what-if", "equal.yaml", "--policies", "policy.yaml"];
    let (code, out, err) = spot(&[&args[..], &["--json"]].concat());
    assert_eq!(code, 0, "{err}");
    let advice: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    Shape::named("advice").holds(&advice);
    assert_eq!(advice["with_reserve"]["kind"], "votes");
    assert_eq!(advice["with_reserve"]["hosts"][0]["votes"], 3);
    let (code, out, _) = spot(&args);
    assert!(code == 0 && out.contains("+    quorum_votes: 3"), "{out}");
}

#[test]
fn a_host_is_woken_and_put_to_sleep_by_a_person() {
    let home = Home::new();
    let mut service = home.service();

    let (code, out, err) = home.spot(&["up", "host3", "--for", "1h", "--because", "a test"]);
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("magic packets leave for host3"), "{out}");
    assert!(out.contains("host3 serves, with guests 201"), "{out}");
    let status = home.json(&["status", "--json"]);
    Shape::named("status").holds(&status);
    let host3 = status["hosts"].as_array().expect("hosts").iter().find(|h| h["name"] == "host3");
    let host3 = host3.expect("host3");
    assert_eq!((&host3["state"], &host3["desired"]), (&"awake".into(), &"awake".into()));
    assert_eq!(host3["lease"]["because"], "a test");
    assert_eq!(host3["guests"], serde_json::json!([201]));

    // In the first minutes the gate waits for corosync.conf to have been still.
    let (code, out, err) = home.spot(&["down", "host3", "--no-wait"]);
    assert_eq!(code, 0, "{out}{err}");
    service.says("host3 left as we asked");
    let (code, out, err) = home.spot(&["down", "host3"]);
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("host3 is off, and left in order"), "{out}");
    let requests = fs::read_to_string(home.path("requests.jsonl")).expect("written");
    assert!(requests.contains("\"command\":\"shutdown\""), "a power-off was asked for");
    assert!(!requests.contains("11111111-2222"), "the secret is never written");
}

#[test]
fn ctrl_c_leaves_the_undertaking_to_the_service() {
    let home = Home::new();
    let mut service = home.service();
    let mut up = Running::start(&mut home.command(&["up", "host3"]));
    up.says("magic packets leave");
    up.signal("INT");
    let (code, said) = up.ends();
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("The service goes on with it"), "{said}");
    service.says("host3 is ready");
}

#[test]
fn a_no_is_1_and_a_could_not_is_2() {
    let home = Home::new();
    let service = home.service();
    let (code, _, err) = home.spot(&["up", "host9"]);
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("host9") && err.contains("host1, host2, host3"), "{err}");
    let (code, _, err) = home.spot(&["up", "host1"]);
    assert!(code == 1 && err.contains("tier low"), "{code}: {err}");
    assert_eq!(home.spot(&["freeze", "host3"]).0, 0);
    let (code, _, err) = home.spot(&["up", "host3"]);
    assert!(code == 1 && err.contains("frozen") && err.contains("spot thaw host3"), "{err}");
    let (code, _, err) = home.spot(&["down", "host3"]);
    assert!(code == 1 && err.contains("frozen"), "{code}: {err}");
    assert_eq!(home.spot(&["thaw", "host3"]).0, 0);
    let (code, out, _) = home.spot(&["quorum", "--off", "host1"]);
    assert!(code == 1 && out.contains("lose its quorum"), "{code}: {out}");
    let (code, _, err) = home.spot(&["why", "host9"]);
    assert!(code == 2 && err.contains("host9"), "{code}: {err}");

    // Without the service a command that needs it says so.
    drop(service);
    let (code, _, err) = home.spot(&["freeze", "host3"]);
    assert!(code == 2 && err.contains("no service runs"), "{code}: {err}");
}

#[test]
fn what_is_out_of_order_with_the_votes_is_named_by_quorum_too() {
    // ffsplit with uneven votes: a host that boots cannot start corosync like that.
    let world = WORLD.replace("storages:", "qdevice: { algorithm: ffsplit, votes: 1 }\nstorages:");
    let home = Home::of(&world, POLICY);
    let (code, out, err) = home.spot(&["quorum"]);
    let remedy = out.lines().any(|line| line.trim_start().starts_with("→"));
    assert!(code == 0 && out.contains("ffsplit") && remedy, "{code}: {out}{err}");
    let (_, out, _) = home.spot(&["quorum", "--json"]);
    let shown: Value = serde_json::from_str(&out).expect("a document");
    assert_eq!(shown["disorders"][0]["code"], "qdevice_faulty", "{out}");
}

#[test]
fn without_the_service_the_journal_is_read_and_its_age_is_said() {
    let home = Home::new();
    let (code, _, err) = home.spot(&["status"]);
    assert!(code == 2 && err.contains("there is no journal"), "{code}: {err}");
    let service = home.service();
    service.signal("TERM");
    let (code, said) = service.ends();
    assert_eq!(code, 0, "{said}");
    for (shape, args) in [
        ("status", &["status", "--json"][..]),
        ("plan", &["plan", "--json"]),
        ("why", &["why", "host3", "--json"]),
        ("history", &["history", "--json"]),
    ] {
        let (code, out, err) = home.spot(args);
        assert!(code == 0 && err.contains("No service runs"), "{args:?} {code}: {err}");
        Shape::named(shape).holds(&serde_json::from_str(&out).expect("JSON"));
    }
}

#[test]
fn usage_errors_are_2_and_name_the_mistake() {
    for (args, named) in [
        (&["frobnicate"][..], "frobnicate"),
        (&["up"], "HOST"),
        (&["up", "host 3"], "host 3"),
        (&["up", "host3", "--for", "soon"], "soon"),
        (&["up", "host3", "--for", "1h", "--until", "18:00"], "--until"),
        (&["up", "--guest", "7"], "number in PVE"),
        (&["agenda", "--days", "0"], "0"),
        (&["agenda", "--from", "yesterday"], "yesterday"),
        (&["status", "--jsno"], "--jsno"),
        (&["pretend"], "--world"),
        (&["--config", "nowhere.yaml", "status"], "nowhere.yaml"),
        (&["demo", "--policies", "nowhere"], "nowhere"),
    ] {
        let (code, out, err) = told(&spot().args(args).output().expect("it runs"));
        assert_eq!(code, 2, "{args:?}: {out}{err}");
        assert!(err.contains(named), "{args:?}: {err}");
        assert!(out.is_empty(), "{args:?}: {out}");
    }
}

#[test]
fn help_manual_and_completions_are_there_and_a_closed_pipe_is_no_error() {
    for args in [&["--help"][..], &["man"], &["completions", "bash"], &["up", "--help"]] {
        let (code, out, err) = told(&spot().args(args).output().expect("it runs"));
        assert!(code == 0 && out.len() > 300, "{args:?} {code}: {err}");
    }
    let mut child = spot()
        .args(["man"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    drop(child.stdout.take());
    let (code, _, err) = told(&child.wait_with_output().expect("it ends"));
    assert!(code == 0 && err.is_empty(), "{code}: {err}");
}

#[test]
fn policies_are_checked_and_their_windows_listed_without_any_cluster() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("home.yaml");
    let run = |args: &[&str]| {
        told(&spot().current_dir(folder.path()).args(args).output().expect("it runs"))
    };
    fs::write(&file, POLICY).expect("written");
    let (code, out, err) = run(&["check", "home.yaml"]);
    assert!(code == 0 && out.contains("valid"), "{code}: {out}{err}");
    let (code, out, err) = run(&[
        "agenda",
        "--policies",
        ".",
        "--from",
        "2026-11-23T20:30:00Z",
        "--days",
        "1",
        "--json",
    ]);
    assert_eq!(code, 0, "{err}");
    let agenda: Value = serde_json::from_str(&out).expect("JSON");
    Shape::named("agenda").holds(&agenda);
    let opens = |at: &str, to: &str| serde_json::json!({"host": "host2", "policy": "office-hours", "opens": at, "closes": to});
    assert_eq!(
        agenda["windows"],
        serde_json::json!([
            opens("2026-11-23T20:00:00Z", "2026-11-23T21:00:00Z"),
            opens("2026-11-24T20:00:00Z", "2026-11-24T21:00:00Z"),
        ])
    );

    fs::write(&file, POLICY.replace("hosts: [host2]", "hosts: [host4]")).expect("written");
    let (code, out, _) = run(&["check", "home.yaml"]);
    assert!(code == 1 && out.contains("host4") && out.contains("^^^^^"), "{code}: {out}");
    let (code, out, _) = run(&["check", "home.yaml", "--format", "json"]);
    assert_eq!(code, 1);
    let check: Value = serde_json::from_str(&out).expect("JSON");
    Shape::named("check").holds(&check);
    let fault = &check["faults"][0];
    assert_eq!((&fault["line"], &fault["severity"]), (&14.into(), &"error".into()), "{fault}");
    let (code, _, err) = run(&["agenda", "--policies", "."]);
    assert!(code == 2 && err.contains("host4"), "{code}: {err}");
    let (code, _, err) = run(&["check", "--config", "none.yaml"]);
    assert!(code == 2 && err.contains("which policies"), "{code}: {err}");
}

/// Three equal votes; host2 has another card than its owner thinks, and a container that stays.
const MISFIT_WORLD: &str = "
cluster: homelab
start: 2026-11-23T05:00:00Z
hosts:
  - { name: host1, votes: 1, mac: 'a8:a1:59:00:00:01', always_on: true }
  - { name: host2, votes: 1, mac: 'a8:a1:59:00:00:02' }
  - { name: host3, votes: 1, mac: 'a8:a1:59:00:00:03', state: off }
storages: [{ name: shared, shared: true, kind: nfs }, { name: pbs, kind: pbs, content: backup }]
guests:
  - { vmid: 100, kind: vm, name: router, host: host1, disks: [{ storage: shared }] }
  - { vmid: 201, kind: ct, name: build, host: host2, tags: [build], disks: [{ storage: shared }] }
backups: [{ id: nightly, schedule: '23:00', storage: pbs, all: 1 }]
tokens: [{ id: 'root@pam!full', secret: '11111111-2222-3333-4444-555555555555' }]
";

const MISFIT_POLICY: &str = "
timezone: UTC
hosts:
  host1: { tier: low }
  host2: { tier: medium, mac: 'a8:a1:59:00:00:22' }
  host3: { tier: high, mac: 'a8:a1:59:00:00:03' }
guests:
  - match: { tag: gpu }
    prefer: [host3]
  - match: { tag: build }
    prefer: [host2, host1]
policies:
  - name: office-hours
    hosts: [host3]
    run: [{ from: '0 20 * * *', for: 1h }]
  - name: attic
    hosts: [host2]
    for_backups: { storage: attic }
";

#[test]
fn policies_are_held_against_the_cluster_they_are_for() {
    let home = Home::of(MISFIT_WORLD, MISFIT_POLICY);
    let check = home.json(&["check", "--live", "--format", "json"]);
    Shape::named("check").holds(&check);
    let told: Vec<(u64, &str, &str)> = check["faults"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| {
            assert_eq!(one["severity"], "warning", "{one}");
            let word = |key: &str| one[key].as_str().expect("text");
            (one["line"].as_u64().expect("a line"), word("path"), word("message"))
        })
        .collect();
    let other = "host2 is woken at a8:a1:59:00:00:22, and PVE would wake it at a8:a1:59:00:00:02";
    let jobs = "no backup job of the cluster will write to `attic`, so attic never opens by one";
    let votes = "with these votes host2 and host3 can never rest together: 1 vote would stay and \
                 2 are needed";
    for expected in [
        (5, "hosts.host2.mac", other),
        (16, "policies[1].name", jobs),
        (8, "guests[0].match", "no guest of the cluster comes to this rule"),
        (5, "hosts.host2", votes),
    ] {
        assert!(told.contains(&expected), "{expected:?} is not among {told:#?}");
    }
    assert_eq!(told.len(), 4, "{told:#?}");
    let live = &check["live"];
    assert_eq!(live["rules"][1]["guests"][0]["vmid"], 201);
    assert_eq!(live["unmatched"][0]["vmid"], 100);
    assert_eq!(live["stuck"][0]["vmid"], 201, "{live:#}");
    assert_eq!(live["addresses"][0]["cluster"], "a8:a1:59:00:00:02");
    let unseen = "could not compare the MAC address of host3 with PVE's: it is not up";
    assert_eq!(live["gaps"], serde_json::json!([unseen]));
    let (code, out, _) = home.spot(&["check", "--live"]);
    assert!(code == 0 && out.contains("Guests that cannot move"), "{out}");
    assert!(out.contains("pvesh set /nodes/host2/config --wakeonlan a8:a1:59:00:00:22"), "{out}");
    let (_, out, err) = home.spot(&["doctor"]);
    assert!(out.contains(jobs), "{out}{err}");

    // A name that PVE does not know is an error.
    let odd = MISFIT_POLICY.replace("host2", "host4");
    fs::write(home.path("policies/home.yaml"), odd).expect("written");
    let (code, out, _) = home.spot(&["check", "--live", "--format", "json"]);
    let check: Value = serde_json::from_str(&out).expect("JSON");
    Shape::named("check").holds(&check);
    let first =
        check["faults"].as_array().expect("a list").iter().find(|f| f["severity"] == "error");
    let first = first.unwrap_or_else(|| panic!("{check:#}"));
    assert_eq!((code, &first["message"]), (1, &"the cluster has no node named `host4`".into()));

    // And without the cluster there is nothing to hold them against.
    home.configure(|_| "hosts: { host1: { url: 'https://127.0.0.1:1' } }\n".into());
    let (code, out, err) = home.spot(&["check", "--live"]);
    assert!(code == 2 && out.is_empty() && !err.is_empty(), "{code}: {out}{err}");
}

/// What `doctor` says of a changed `spot.yaml`.
fn doctor(home: &Home, token: &str, change: impl Fn(&str) -> String) -> (i32, String) {
    home.configure(change);
    let mut command = home.command(&["doctor"]);
    command.env("SPOT_TOKEN", token);
    let (code, out, err) = told(&command.output().expect("it runs"));
    (code, out + &err)
}

#[test]
fn what_is_wrong_with_an_installation_is_named_with_its_remedy() {
    let home = Home::new();
    let right = "11111111-2222-3333-4444-555555555555";
    let (code, said) = doctor(&home, right, |config| config.to_owned());
    assert!(code == 0 && said.contains("Nothing is wrong"), "{said}");

    let (code, said) = doctor(&home, "11111111-2222-3333-4444-000000000000", |c| c.to_owned());
    assert!(code == 1 && said.contains("does not accept the token"), "a wrong token: {said}");
    assert!(!said.contains("4444-0000"), "the secret is never shown: {said}");

    let old = |config: &str| config.replace("root@pam!full", "zold@pve!old");
    let (code, said) = doctor(&home, "11111111-2222-3333-4444-777777777777", old);
    assert!(code == 1 && said.contains("does not accept the token"), "expired: {said}");

    let few = |config: &str| config.replace("root@pam!full", "zfew@pve!few");
    let (code, said) = doctor(&home, "11111111-2222-3333-4444-666666666666", few);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("lacks VM.Audit VM.Migrate VM.PowerMgmt on /vms"), "{said}");
    assert!(said.contains("pveum acl modify /vms --roles SpotGuest --users"), "{said}");

    let shown = home.cluster.seen.iter().find(|line| line.starts_with("host1  https"));
    let shown = shown.and_then(|line| line.split_whitespace().nth(2)).expect("a fingerprint");
    let wrong = "AB".to_owned() + &":AB".repeat(31);
    let (code, said) = doctor(&home, right, |config| config.replace(shown, &wrong));
    assert_eq!(code, 1, "{said}");
    assert!(said.contains(shown) && said.contains(&wrong), "both fingerprints: {said}");

    // Nobody listens at ports 1 to 3.
    let nobody = |config: &str| {
        let mut config = config.to_owned();
        for (line, port) in home.config.lines().filter(|line| line.contains("url:")).zip(1..) {
            let (before, after) = line.split_once("127.0.0.1:").expect("an address");
            let (_, after) = after.split_once('"').expect("quoted");
            config = config.replace(line, &format!("{before}127.0.0.1:{port}\"{after}"));
        }
        config
    };
    let (code, said) = doctor(&home, right, nobody);
    assert!(code == 1 && said.contains("refused"), "all endpoints down: {said}");

    let (code, said) = doctor(&home, right, |config| config.replace("here: outside\n", ""));
    assert!(code == 1 && said.contains("here: HOST"), "here not known: {said}");

    // A host of the cluster without an address.
    let two = |config: &str| {
        let mut lines: Vec<&str> = config.lines().collect();
        lines.retain(|line| !line.starts_with("  host3:"));
        lines.join("\n") + "\n"
    };
    let (code, said) = doctor(&home, right, two);
    assert!(code == 1 && said.contains("host3 has no address"), "{said}");

    // Policies and cluster disagree about a name.
    fs::write(home.path("policies/home.yaml"), POLICY.replace("host3", "host4")).expect("written");
    let (code, said) = doctor(&home, right, |config| config.to_owned());
    assert!(code == 1 && said.contains("the policy names host4"), "{said}");
}

#[test]
fn a_service_that_cannot_start_says_why() {
    let home = Home::new();
    let run = |args: &[&str]| home.spot(args);
    let first = home.service();
    let (code, _, err) = run(&["run", "--clock", "2026-11-23T05:00:00Z@100"]);
    assert!(code == 2 && err.contains("another spot"), "a second service: {code}: {err}");
    drop(first);

    home.configure(|config| config.replace("state: state", "state: world.yaml/state"));
    let (code, _, err) = run(&["run"]);
    assert!(code == 2 && err.contains("cannot be written"), "no state folder: {code}: {err}");

    home.configure(|config| config.replace("https://127.0.0.1", "https://192.0.2.1"));
    let (code, _, err) = run(&["run", "--clock", "2026-11-23T05:00:00Z@100"]);
    assert!(code == 2 && err.contains("not on loopback"), "{code}: {err}");

    home.configure(|config| config.replace("mode: act", "mode: often\nmoed: act"));
    let (code, _, err) = run(&["run"]);
    assert!(code == 2 && err.contains("often") && err.contains("moed"), "{code}: {err}");

    home.configure(|config| config.to_owned());
    let journal = home.path("state/journal.db");
    newer(&journal);
    let (code, _, err) = run(&["run"]);
    assert!(code == 2 && err.contains("newer spot"), "{code}: {err}");
    let (code, _, err) = run(&["status"]);
    assert!(code == 2 && err.contains("newer spot"), "{code}: {err}");
}

/// Marks a journal as one of a later version.
fn newer(journal: &Path) {
    let database = rusqlite::Connection::open(journal).expect("it is a database");
    database.pragma_update(None, "user_version", 99).expect("it can be written");
}

#[test]
fn a_policy_that_turns_invalid_is_refused_and_the_last_good_one_stays() {
    let home = Home::new();
    let mut service = home.service();
    let before = home.json(&["status", "--json"]);
    let policy = home.path("policies/home.yaml");
    fs::write(&policy, POLICY.replace("tier: high", "tier: hihg")).expect("written");
    service.signal("HUP");
    service.says("hihg");
    service.says("policy refused");
    let after = home.json(&["status", "--json"]);
    Shape::named("status").holds(&after);
    assert_eq!(after["policy"]["commit"], before["policy"]["commit"]);
    assert!(after["policy"]["refused"].as_str().is_some_and(|text| text.contains("hihg")));
    let (_, out, _) = home.spot(&["status"]);
    assert!(out.contains("a newer policy was refused"), "{out}");

    fs::write(&policy, POLICY.replace("lease: 2h", "lease: 3h")).expect("written");
    service.signal("HUP");
    service.says("is in force");
    assert_eq!(home.json(&["status", "--json"])["policy"]["refused"], Value::Null);
}

#[test]
fn in_rehearse_a_command_wants_a_confirmation_and_nothing_else_acts() {
    let home = Home::new();
    home.configure(|config| config.replace("mode: act", "mode: rehearse"));
    let _service = home.service();
    let (code, _, err) = home.spot(&["up", "host3"]);
    assert!(code == 2 && err.contains("--yes"), "nobody is there to confirm: {code}: {err}");
    let (code, out, err) = home.spot(&["up", "host3", "--yes"]);
    assert_eq!(code, 0, "{out}{err}");
}

#[test]
fn up_and_down_work_without_the_service_too() {
    let home = Home::new();
    // The real clock: the cluster is still forty times as fast.
    let (code, out, err) = home.spot(&["up", "host3"]);
    assert_eq!(code, 0, "{out}{err}");
    assert!(err.contains("nobody ends the lease"), "{err}");
    assert!(out.contains("host3 serves"), "{out}");
    let (code, out, err) = home.spot(&["up", "--guest", "201"]);
    assert!(code == 0 && out.contains("host3 serves, with guests 201"), "{code}: {out}{err}");
}

#[test]
fn the_demo_tells_a_day_and_keeps_its_promises() {
    let folder = tempfile::tempdir().expect("a folder");
    let requests = folder.path().join("requests.jsonl");
    let demo =
        spot().args(["demo", "--json", "--requests"]).arg(&requests).output().expect("it runs");
    let (code, out, err) = told(&demo);
    assert_eq!(code, 0, "{err}");
    let lines: Vec<Value> = out.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    let (last, events) = lines.split_last().expect("a summary");
    let summary = &last["summary"];
    assert_eq!(summary["promises_broken"], serde_json::json!([]));
    assert_eq!(
        (&summary["guests_lost"], &summary["seconds_without_quorum"]),
        (&0.into(), &0.into())
    );
    for some in ["wakes", "power_offs", "migrations", "restarts", "refusals"] {
        assert!(summary[some].as_u64().is_some_and(|count| count >= 1), "{some}: {summary}");
    }
    assert!(summary["awake_hours"]["host1"].as_f64().is_some_and(|hours| hours > 23.9));
    let said = |text: &str| events.iter().any(|one| one["what"].as_str().unwrap().contains(text));
    assert!(said("wants host3 awake") && said("the gate refused to power off host3"));
    let served = fs::read_to_string(&requests).expect("written");
    let first: Value = serde_json::from_str(served.lines().next().expect("a request")).unwrap();
    for key in ["method", "path", "query", "form", "token", "status", "at"] {
        assert!(first.get(key).is_some(), "{key}: {first}");
    }
}
