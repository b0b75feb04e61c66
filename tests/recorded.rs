//! Holds the pretended server against what real Proxmox VE 8.4.21 and 9.2.11 servers were recorded
//! to say (`tests/recorded/server`): for each situation the world is brought into it, asked the
//! same things in the same order, and answers with the same status, reason phrase, headers that
//! matter, names, JSON types and texts. The timelines are held to the same order of events.
//!
//! Differences that are meant stand in [`MEANT`], one by one with the reason; one that no longer
//! occurs must be taken out again.
//!
//! **Does not know:** the client; it has recorded answers of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use spot::cluster::{HostName, Vmid};
use spot::pretend::{ApiRequest, Door, Event, Scripted, World, answer};

/// `(part of a difference's text, why it is meant)`.
const MEANT: &[(&str, &str)] = &[
    ("vmgenid", "an option of the recorded guest that nobody here needs"),
    ("scsihw", "every pretended VM has this option, the recorded ones only partly"),
    ("ostype", "every pretended VM has this option, the recorded ones only partly"),
    ("`boot`", "every pretended VM with a disk has this option"),
    ("key=\"boot\"", "every pretended VM with a disk has this option"),
    ("tls: on", "the default; the recorded QDevice was set up without TLS"),
    ("[id=\"master\"]", "which host leads HA is the luck of the first lock"),
    ("[id=\"fencing\"]", "told by the host that leads HA"),
    ("[id=\"lrm:", "how busy HA was lately; its words for that are not read"),
    ("hastate is", "an HA manager that was at work noticed the loss, an idle one does not"),
    ("vm:100", "an HA guest that the recorders put there meanwhile"),
    (
        "no-permission GET /nodes/pve1/qemu/100/status/current",
        "the recorders had stopped this guest",
    ),
    (
        "hibernated-guest GET /nodes/pve1/tasks/",
        "the recorded QEMU could not resume what it had not saved",
    ),
    (
        "hibernated-guest GET /nodes/pve1/qemu/103/config : .data lacks",
        "the resume failed there; here it works, and the state is gone",
    ),
    ("migration-failed GET /nodes/pve1/qemu/101/migrate", "the recorders had started this guest"),
    ("config.tmp.", "the number of a process"),
    ("Connection reset by peer", "a connection cut in its middle is `No route to host` here"),
    ("host3-off-6min GET /nodes/pve1/qemu/105/migrate", "the recorders had moved this guest"),
    ("`node_request`", "left over from a maintenance mode on the recorded cluster"),
];

/// Exchanges that are not asked, by a part of `VERSION-SITUATION METHOD PATH`, and why.
const NOT_ASKED: &[(&str, &str)] = &[
    ("/cluster/ha/resources ", "putting guests under HA is the world file's business"),
    ("/access/ticket", "tickets are not pretended: spot uses tokens"),
    (
        "hibernated-guest POST /nodes/pve1/qemu/103/status/suspend ",
        "there a token got one right after the other, and QEMU could not hibernate",
    ),
    (
        "migration-failed POST /nodes/pve1/qemu/101/migrate ",
        "there the volume's file was missing; here it is copied",
    ),
    ("/storage/nosuch/status ", "nobody asks for one storage of one host"),
    ("report-lone-node-expected-1 ", "one host removed from its cluster by hand; see iron's tests"),
    ("report-wait-for-all GET /nodes/pve", "corosync.conf edited without a restart of corosync"),
];

/// Scalars that must be the same, not only of the same type.
const EXACT: &[&str] = &[
    "status",
    "lock",
    "qmpstatus",
    "online",
    "quorate",
    "local",
    "type",
    "level",
    "template",
    "node",
    "name",
    "nodeid",
    "id",
    "vmid",
    "shared",
    "managed",
    "running",
    "message",
    "exitstatus",
    "nodes",
    "quorum_votes",
    "ring0_addr",
    "active",
    "enabled",
    "cgroup-mode",
    "hastate",
    "key",
    "sid",
    "tags",
    "user",
    "tokenid",
    "release",
    "repoid",
    "State",
    "Model",
    "cluster_name",
    "wakeonlan",
    "ip",
    "storage",
    "cpus",
];

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/recorded/server")
}

/// The recorded cluster as a world file.
fn home(version: &str, votes: &str, more: &str) -> String {
    let net = if version.starts_with('9') { "10.99.0" } else { "10.98.0" };
    let votes: Vec<&str> = votes.split('/').collect();
    let host = |number: usize| {
        format!(
            "  - {{name: pve{number}, votes: {}, address: {net}.1{number}, version: '{version}', \
             mac: '52:54:00:00:00:0{number}', memory_gib: 24, cores: 2, boot_seconds: 8, \
             api_seconds: 10, shutdown_seconds: 14}}\n",
            votes[number - 1]
        )
    };
    let rest = fs::read_to_string(folder().join("home.yaml")).expect("the recorded home");
    let hosts = host(1) + &host(2) + &host(3);
    format!("cluster: realtest\nhosts:\n{hosts}{rest}{more}")
}

/// Brings the world into the situation of a file.
fn world_for(version: &str, situation: &str) -> World {
    let more = match situation {
        "qdevice-alive" | "qdevice-daemon-stopped" | "qdevice-server-dead" => {
            "qdevice: {algorithm: lms, server: 10.98.0.1}\nconfig_version: 4\n"
        }
        "report-wait-for-all" | "votes-3-1-1" | "report-votes-3-1-1" | "no-quorum" => {
            "config_version: 6\n"
        }
        _ => "",
    };
    let votes = match situation {
        "report-lone-node-expected-1" => "1/1/1",
        "votes-3-1-1" | "report-votes-3-1-1" | "no-quorum" | "cold-start-pve1-alone" => "3/1/1",
        _ => "1/1/1",
    };
    let mut file = home(version, votes, more);
    if situation == "wakeonlan" {
        file = file.replace("mac: '52:54:00:00:00:02'", "mac: '52:54:00:00:00:02', wakeonlan: ''");
    }
    if situation == "custom-role-on-user" && version.starts_with('9') {
        return later_without_pve3(&file);
    }
    if situation == "cold-start-pve1-alone" {
        file = file.replace("shutdown_seconds: 14}", "shutdown_seconds: 14, state: off}");
        let mut world = World::read(&file).expect("the recorded home, off");
        befall(&mut world, Event::Press("pve1".into()));
        pass(&mut world, 19);
        return world;
    }
    let mut world = World::read(&file).expect("the recorded home");
    pass(&mut world, 30);
    for event in events_for(situation) {
        befall(&mut world, event);
    }
    let settle = match situation {
        "host3-off-1min" | "report-votes-1-1-1-host-down" | "migration-to-offline-host" => 60,
        "host3-off-6min" | "host3-booting-after-6min" => 360,
        "host3-booting" => 60,
        "dead-host-proxied" => 0,
        _ => 12,
    };
    pass(&mut world, settle);
    world
}

fn later_without_pve3(file: &str) -> World {
    let mut world = World::read(file).expect("the recorded home");
    pass(&mut world, 30);
    befall(&mut world, Event::Cut("pve3".into()));
    pass(&mut world, 60);
    world
}

fn events_for(situation: &str) -> Vec<Event> {
    let pve3 = HostName::from("pve3");
    let apart = || {
        let group = |names: &[&str]| names.iter().map(|n| HostName::from(*n)).collect();
        Event::Partition(vec![group(&["pve1"]), group(&["pve2", "pve3"])])
    };
    match situation {
        "host3-off-1min"
        | "host3-off-6min"
        | "dead-host-proxied"
        | "migration-to-offline-host"
        | "report-votes-1-1-1-host-down" => vec![Event::Cut(pve3)],
        "guest-locked" => vec![Event::LockGuest { guest: Vmid(103), lock: "backup".into() }],
        "unknown-things" => vec![Event::MoveGuest { guest: Vmid(100), to: "pve2".into() }],
        "host3-shutdown" => vec![Event::StopGuest(Vmid(104))],
        "no-quorum" => vec![apart()],
        "qdevice-daemon-stopped" => {
            vec![Event::QdeviceDaemon { host: "pve1".into(), runs: false }]
        }
        "host3-booting" | "host3-booting-after-6min" => {
            vec![Event::StopGuest(Vmid(104)), Event::Press(pve3)]
        }
        "qdevice-server-dead" => vec![Event::Qdevice(spot::pretend::script::DeviceState::Dead)],
        _ => vec![],
    }
}

fn befall(world: &mut World, event: Event) {
    let after = Duration::try_from(world.now().duration_since(world.start())).expect("later");
    world.set_out(vec![Scripted::after(after, event)]);
    pass(world, 0);
}

fn pass(world: &mut World, seconds: u64) {
    world.advance_to(world.now() + Duration::from_secs(seconds));
}

/// One file of recorded exchanges.
fn recording(version: &str, situation: &str) -> Option<Value> {
    let name = format!("{}-{situation}.json", &version[..3]);
    let text = fs::read_to_string(folder().join(name)).ok()?;
    Some(serde_json::from_str(&text).expect("a recording is JSON"))
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn params(request: &Value, key: &str) -> Vec<(String, String)> {
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let fields = request.get(key).and_then(Value::as_object);
    fields.into_iter().flatten().map(|(name, value)| (name.clone(), plain(value))).collect()
}

/// The header a recorded request was sent with.
fn header(exchange: &Value) -> Option<String> {
    match text(exchange, "note") {
        "no Authorization header" => None,
        "space instead of = after the scheme" => Some("PVEAPIToken root@pam!full=s".into()),
        "colon (PBS style)" => Some("PVEAPIToken=root@pam!full:s".into()),
        "other scheme" => Some("Bearer root@pam!full=s".into()),
        "scheme in lower case" => Some("pveapitoken=root@pam!full=s".into()),
        "no secret" => Some("PVEAPIToken=root@pam!full".into()),
        "bad ticket" => Some("PVEAPIToken=x".into()),
        note if note.starts_with("wrong secret") => Some("PVEAPIToken=root@pam!full=wrong".into()),
        _ => {
            let token = text(&exchange["request"], "token");
            Some(format!("PVEAPIToken={token}=s"))
        }
    }
}

/// The guests a situation is about; the recorders used the others for other things meanwhile.
fn subjects(situation: &str) -> &'static [u64] {
    match situation {
        "all-up" => &[100, 101, 102, 103, 104, 105, 200],
        "guest-locked" | "paused-guest" | "hibernated-guest" => &[103],
        "migrating" => &[100],
        "migration-to-offline-host" => &[105],
        "host3-off-1min" | "host3-off-6min" => &[104, 200],
        _ => &[],
    }
}

/// One run through a recording.
struct Run {
    subjects: &'static [u64],
    world: World,
    label: String,
    seen_from: HostName,
    /// Recorded UPID → the one this world gave.
    upids: BTreeMap<String, String>,
    differences: Vec<String>,
}

impl Run {
    fn exchange(&mut self, exchange: &Value) {
        let request = &exchange["request"];
        let (method, path) = (text(request, "method"), text(request, "path"));
        let here = format!("{} {method} {path} ", self.label);
        if NOT_ASKED.iter().any(|(part, _)| here.contains(part)) {
            // The one hibernation that was begun there is begun here as well.
            if path.ends_with("/103/status/suspend") && exchange["status"] == 200 {
                self.ask_for(path, &[("todisk", "1")]);
                pass(&mut self.world, 1);
            }
            return;
        }
        if text(exchange, "note").contains("the role on / taken away") {
            return;
        }
        self.follow(text(exchange, "note"));
        // In between the recorders moved it back.
        if self.label.ends_with("paused-guest") && path.ends_with("/resume") {
            befall(&mut self.world, Event::MoveGuest { guest: Vmid(103), to: "pve1".into() });
        }
        let Some(path) = self.translated(path) else {
            return;
        };
        self.wait_for(exchange, &path);
        let asked = match text(exchange, "asked") {
            "" => self.seen_from.clone(),
            asked => HostName::from(asked),
        };
        let asking = ApiRequest {
            method: method.to_owned(),
            path,
            query: params(request, "query"),
            form: [params(request, "form"), params(request, "json")].concat(),
            authorization: header(exchange),
        };
        let given = answer(&mut self.world, &asked, &asking);
        self.compare(&here, exchange, &given);
        let quick = given.takes.min(Duration::from_secs(40));
        self.world.advance_to(self.world.now() + quick);
    }

    /// Notes that tell of a change in the cluster.
    fn follow(&mut self, note: &str) {
        let group = |names: &[&str]| names.iter().map(|n| HostName::from(*n)).collect();
        if note.starts_with("pve1 alone") {
            let groups: Vec<BTreeSet<HostName>> = vec![group(&["pve1"]), group(&["pve2", "pve3"])];
            befall(&mut self.world, Event::Partition(groups));
            pass(&mut self.world, 12);
        }
        // What the recorders made by writing into the config, this world does by hibernating.
        if note.starts_with("from here on: the state made by hand") {
            pass(&mut self.world, 30);
        }
    }

    /// Asks for something the recording began before its first exchange.
    fn ask_for(&mut self, path: &str, form: &[(&str, &str)]) -> String {
        let asking = ApiRequest {
            method: "POST".into(),
            path: path.into(),
            query: Vec::new(),
            form: form.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            authorization: Some("PVEAPIToken=root@pam!full=s".into()),
        };
        let given = answer(&mut self.world, &self.seen_from, &asking);
        let body: Value = serde_json::from_slice(&given.body).expect("an answer");
        text(&body, "data").to_owned()
    }

    /// The path with this world's own UPIDs; `None` for tasks this world never had.
    fn translated(&self, path: &str) -> Option<String> {
        let Some(at) = path.find("UPID:") else {
            return Some(path.to_owned());
        };
        let (before, rest) = path.split_at(at);
        let (upid, after) = match rest.find("/status").or_else(|| rest.find("/log")) {
            Some(end) => rest.split_at(end),
            None => (rest, ""),
        };
        let known = self.upids.get(upid).cloned();
        let invented = upid == "UPID:junk" || upid.contains(":66666666:");
        known
            .or_else(|| invented.then(|| upid.to_owned()))
            .map(|own| format!("{before}{own}{after}"))
    }

    /// Time passes as it did in the recording: until the task is over, or the report is in.
    fn wait_for(&mut self, exchange: &Value, path: &str) {
        let ended = exchange["body"]["data"].get("exitstatus").is_some() || path.ends_with("/log");
        if let Some(upid) = path.split('/').find(|part| part.starts_with("UPID:")).filter(|_| ended)
        {
            let wanted = exchange["body"]["data"]["exitstatus"].is_string()
                || exchange["body"]["data"].as_array().is_some_and(|lines| {
                    lines.last().is_some_and(|line| text(line, "t").starts_with("TASK"))
                });
            for _ in 0..600 {
                let running = self.world.task(upid).is_some_and(|task| task.running());
                if !(running && wanted) {
                    break;
                }
                self.world.advance_to(self.world.now() + Duration::from_millis(500));
            }
        } else if path == "/cluster/resources" && !self.label.contains("-host3-") {
            pass(&mut self.world, 2);
        }
        self.wait_for_door(exchange, path);
        self.world.advance_to(self.world.now() + Duration::from_millis(200));
    }

    /// The recording's next state of pve3 is waited for: the order counts, not the seconds.
    fn wait_for_door(&mut self, exchange: &Value, path: &str) {
        let mut listed = exchange["body"]["data"].as_array().into_iter().flatten();
        let pve3 = listed.rfind(|entry| entry["id"] == "node/pve3");
        if let Some(entry) = pve3.filter(|_| self.label.contains("-host3-")) {
            let member = match entry.get("online") {
                Some(online) => *online == 1,
                None => text(entry, "status") != "offline",
            };
            for _ in 0..300 {
                if self.world.sees(&self.seen_from, &"pve3".into()) == member {
                    break;
                }
                self.world.advance_to(self.world.now() + Duration::from_millis(500));
            }
            return;
        }
        let Some(rest) = path.strip_prefix("/nodes/pve3/") else {
            return;
        };
        let wanted = match (exchange["status"].as_u64(), text(exchange, "reason")) {
            (Some(595), "Connection refused") => Door::Refuses,
            (Some(595), "No route to host") => Door::NoRoute,
            (Some(596), _) => Door::Silent,
            (Some(200), _) if rest != "wakeonlan" => Door::Answers,
            _ => return,
        };
        for _ in 0..300 {
            if self.world.door(&"pve3".into()) == wanted {
                return;
            }
            self.world.advance_to(self.world.now() + Duration::from_millis(500));
        }
    }

    fn compare(&mut self, here: &str, exchange: &Value, given: &spot::pretend::ApiResponse) {
        let status = exchange["status"].as_u64().unwrap_or(0);
        let mut differ = |what: String| self.differences.push(format!("{here}: {what}"));
        if u64::from(given.status) != status || given.reason != text(exchange, "reason") {
            differ(format!(
                "says {} {}, recorded {status} {}",
                given.status,
                given.reason,
                text(exchange, "reason")
            ));
            return;
        }
        let headers = &exchange["headers"];
        let recorded = headers.get("content-type").and_then(Value::as_str);
        if recorded.is_some() != given.content_type.is_some() {
            differ(format!("content type {:?}, recorded {recorded:?}", given.content_type));
        }
        if given.closes() && text(headers, "connection") != "close" {
            differ("closes the connection, recorded open".into());
        }
        let own: Value =
            serde_json::from_slice(&given.body).unwrap_or(Value::String(String::new()));
        let mut found = Vec::new();
        let (recorded, own) = (aside(&exchange["body"], self.subjects), aside(&own, self.subjects));
        let (recorded, own) = (common(recorded, &own), common(own, &exchange["body"]));
        if ["(same text)", "(the report)"].contains(&text(&recorded, "data")) {
            return;
        }
        if here.contains("/report ") {
            compare_report(text(&recorded, "data"), text(&own, "data"), &mut found);
        } else {
            compare("", "", &recorded, &own, &mut found);
        }
        found.into_iter().for_each(differ);
        if let (Some(recorded), Some(own)) =
            (exchange["body"]["data"].as_str(), own["data"].as_str())
            && recorded.starts_with("UPID:")
        {
            self.upids.insert(recorded.to_owned(), own.to_owned());
        }
    }
}

/// Leaves out what the background of a recording decides: places, locks and tags of other guests.
fn aside(body: &Value, subjects: &[u64]) -> Value {
    let mut body = body.clone();
    let Some(list) = body.get_mut("data").and_then(Value::as_array_mut) else {
        return body;
    };
    for entry in list.iter_mut().filter_map(Value::as_object_mut) {
        let other =
            entry.get("vmid").and_then(Value::as_u64).is_some_and(|v| !subjects.contains(&v));
        if other {
            for name in ["lock", "tags", "node", "hastate"] {
                entry.remove(name);
            }
        }
    }
    body
}

/// Leaves out guests that the other side does not list, or lists as something else than running or
/// stopped alike: only like can be compared with like.
fn common(mut body: Value, other: &Value) -> Value {
    let others: Vec<(u64, String)> = other["data"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|e| e["vmid"].as_u64().map(|vmid| (vmid, text(e, "status").to_owned())))
        .collect();
    if let Some(list) = body.get_mut("data").and_then(Value::as_array_mut) {
        list.retain(|entry| match entry["vmid"].as_u64() {
            None => true,
            Some(vmid) => others.contains(&(vmid, text(entry, "status").to_owned())),
        });
    }
    body
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    }
}

/// What names an element of a list.
fn identity(value: &Value) -> Option<String> {
    for key in ["id", "sid", "vmid", "storage", "key", "service", "node", "name", "volid"] {
        if let Some(found) = value.get(key) {
            return Some(format!("{key}={found}"));
        }
    }
    None
}

fn compare(at: &str, key: &str, recorded: &Value, own: &Value, out: &mut Vec<String>) {
    if kind(recorded) != kind(own) {
        out.push(format!("{at} is a {}, recorded a {}", kind(own), kind(recorded)));
        return;
    }
    match (recorded, own) {
        // The results of an HA manager have random names.
        (Value::Object(_), Value::Object(_)) if key == "results" => {}
        (Value::Object(recorded), Value::Object(own)) => {
            for (name, value) in recorded {
                match own.get(name) {
                    Some(found) => compare(&format!("{at}.{name}"), name, value, found, out),
                    // A world that has just begun has no history of tasks.
                    None if name == "total" => {}
                    None => out.push(format!("{at} lacks `{name}`")),
                }
            }
            for name in own.keys().filter(|name| !recorded.contains_key(*name)) {
                out.push(format!("{at} has `{name}`, not recorded"));
            }
        }
        (Value::Array(recorded), Value::Array(own)) => compare_lists(at, recorded, own, out),
        (Value::String(recorded), Value::String(own)) if recorded.starts_with("UPID:") => {
            let tail = |upid: &str| upid.split(':').skip(5).map(str::to_owned).collect::<Vec<_>>();
            if tail(recorded) != tail(own) {
                out.push(format!("{at} is {own}, recorded {recorded}"));
            }
        }
        _ => {
            let errors = at.contains(".errors.");
            if (errors || EXACT.contains(&key)) && recorded != own {
                out.push(format!("{at} is {own}, recorded {recorded}"));
            }
        }
    }
}

fn compare_lists(at: &str, recorded: &[Value], own: &[Value], out: &mut Vec<String>) {
    let is_task = |value: &Value| value.get("upid").is_some();
    if recorded.iter().chain(own).any(is_task) {
        // Other worlds, other tasks: a task of the same sort must have the same fields.
        for task in own {
            let sort =
                |task: &Value| (task.get("endtime").is_some(), task.get("tokenid").is_some());
            let like = recorded.iter().find(|other| sort(other) == sort(task));
            let names = |value: &Value| {
                value
                    .as_object()
                    .into_iter()
                    .flatten()
                    .map(|(k, _)| k.clone())
                    .collect::<BTreeSet<_>>()
            };
            if let Some(like) = like.filter(|like| names(like) != names(task)) {
                out.push(format!("{at}: a task has {:?}, recorded {:?}", names(task), names(like)));
            }
        }
        return;
    }
    if recorded.iter().any(|value| value.get("n").is_some()) {
        let last = |lines: &[Value]| lines.last().map(|line| text(line, "t").to_owned());
        if last(recorded).is_some_and(|line| line.starts_with("TASK"))
            && last(recorded) != last(own)
        {
            out.push(format!("{at} ends {:?}, recorded {:?}", last(own), last(recorded)));
        }
        return;
    }
    if at.ends_with(".loadavg") || at.ends_with("allowed-tags") {
        return;
    }
    for value in recorded {
        match identity(value) {
            None => {
                if !own.contains(value) {
                    out.push(format!("{at} lacks {value}"));
                }
            }
            Some(name) => {
                let same = own.iter().find(|other| identity(other).as_ref() == Some(&name));
                match same {
                    Some(found) => compare(&format!("{at}[{name}]"), "", value, found, out),
                    None => out.push(format!("{at} lacks [{name}]")),
                }
            }
        }
    }
    // The recorded list of services was shortened.
    for value in own.iter().filter(|value| value.get("service").is_none()) {
        let name = identity(value);
        let known = recorded
            .iter()
            .any(|other| identity(other) == name && (name.is_some() || other == value));
        if !known {
            out.push(format!(
                "{at} has {}, not recorded",
                name.unwrap_or_else(|| value.to_string())
            ));
        }
    }
}

/// The cluster section line by line, and the headings of the others.
fn compare_report(recorded: &str, own: &str, out: &mut Vec<String>) {
    let section = |text: &str| -> Vec<String> {
        let from = text.find("# pvecm nodes").unwrap_or(0);
        let to = text[from..].find("# ha-manager status").map_or(text.len(), |end| from + end);
        let varies = ["Date:", "Ring ID:", "Config Version:", "  config_version:"];
        let fixed = |line: &&str| !varies.iter().any(|start| line.starts_with(start));
        text[from..to].lines().filter(fixed).map(str::to_owned).collect()
    };
    let headings = |text: &str| -> Vec<String> {
        text.lines().filter(|line| line.starts_with("====")).map(str::to_owned).collect()
    };
    if headings(recorded) != headings(own) {
        out.push(format!("headings {:?}, recorded {:?}", headings(own), headings(recorded)));
    }
    let (recorded, own) = (section(recorded), section(own));
    for (number, pair) in recorded.iter().zip(&own).enumerate() {
        if pair.0 != pair.1 {
            out.push(format!("line {number} is {:?}, recorded {:?}", pair.1, pair.0));
        }
    }
    if recorded.len() != own.len() {
        out.push(format!("{} lines, recorded {}", own.len(), recorded.len()));
    }
}

const SITUATIONS: &[&str] = &[
    "all-up",
    "bad-credentials",
    "bad-parameters",
    "unknown-things",
    "no-permission",
    "custom-role-on-user",
    "wakeonlan",
    "guest-locked",
    "guest-start-stop",
    "paused-guest",
    "hibernated-guest",
    "migrating",
    "migration-failed",
    "migration-to-offline-host",
    "dead-host-proxied",
    "host3-off-1min",
    "host3-off-6min",
    "host3-shutdown",
    "host3-shutdown-with-guest",
    "host3-booting",
    "host3-booting-after-6min",
    "cold-start-pve1-alone",
    "no-quorum",
    "votes-3-1-1",
    "qdevice-alive",
    "qdevice-daemon-stopped",
    "qdevice-server-dead",
    "qdevice-none",
    "report-votes-1-1-1-all-up",
    "report-votes-1-1-1-host-down",
    "report-votes-3-1-1",
    "report-lone-node-expected-1",
    "report-wait-for-all",
];

#[test]
fn every_recorded_answer_is_given_in_the_same_form() {
    let mut differences = Vec::new();
    let mut asked = 0;
    for version in ["8.4.21", "9.2.11"] {
        for situation in SITUATIONS {
            let Some(recording) = recording(version, situation) else {
                continue;
            };
            let mut run = Run {
                world: world_for(version, situation),
                subjects: subjects(situation),
                label: format!("{}-{situation}", &version[..3]),
                seen_from: text(&recording["about"], "seen_from").into(),
                upids: BTreeMap::new(),
                differences: Vec::new(),
            };
            if *situation == "migrating" {
                let form = [("target", "pve3"), ("online", "1")];
                let own = run.ask_for("/nodes/pve1/qemu/100/migrate", &form);
                let path = text(&recording["exchanges"][0]["request"], "path");
                let recorded = path.split('/').find(|part| part.starts_with("UPID:"));
                run.upids.insert(recorded.expect("its task").to_owned(), own);
                pass(&mut run.world, 1);
            }
            for exchange in recording["exchanges"].as_array().expect("a list") {
                run.exchange(exchange);
                asked += 1;
            }
            differences.extend(run.differences);
        }
    }
    let meant = |text: &String| MEANT.iter().any(|(part, _)| text.contains(part));
    let (expected, unexpected): (Vec<String>, Vec<String>) =
        differences.into_iter().partition(meant);
    for (part, why) in MEANT {
        let seen = expected.iter().any(|text| text.contains(part));
        assert!(seen, "`{part}` no longer differs ({why}): take it out of the table");
    }
    assert!(unexpected.is_empty(), "of {asked} answers:\n{}", unexpected.join("\n"));
}

/// One line of a timeline, and what the world shows at such a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    online: bool,
    node_status: String,
    /// What pve3's own address says: `200`, `refused`, or neither.
    direct: String,
}

/// A timeline's story about pve3: each line once, however long it lasted.
fn timeline(name: &str) -> Vec<Seen> {
    let text = fs::read_to_string(folder().join(name)).expect("a timeline");
    let mut story: Vec<Seen> = Vec::new();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).expect("a timeline is JSON lines");
        let (Some(online), Some(direct)) = (line["online"].as_u64(), line["direct"].as_str())
        else {
            continue;
        };
        // Silent or unreachable depends on the neighbour cache; both mean that nothing answers.
        let direct = if ["200", "refused"].contains(&direct) { direct } else { "nothing" };
        let node_status = line["node_status"].as_str().unwrap_or_default().to_owned();
        let seen = Seen { online: online == 1, node_status, direct: direct.to_owned() };
        // Two questions were asked one after the other, and the membership changed in between.
        if seen.online == (seen.node_status == "offline") {
            continue;
        }
        if story.last() != Some(&seen) {
            story.push(seen);
        }
    }
    story
}

/// The same story told by the world after `event`.
fn told(world: &mut World, seconds: u32) -> Vec<Seen> {
    let mut story: Vec<Seen> = Vec::new();
    let (pve1, pve3) = (HostName::from("pve1"), HostName::from("pve3"));
    for _ in 0..seconds * 10 {
        let asking = ApiRequest {
            method: "GET".into(),
            path: "/cluster/resources".into(),
            query: vec![("type".into(), "node".into())],
            form: Vec::new(),
            authorization: Some("PVEAPIToken=root@pam!full=s".into()),
        };
        let body = answer(world, &pve1, &asking).body;
        let body: Value = serde_json::from_slice(&body).expect("an answer");
        let entries = body["data"].as_array().expect("a list");
        let entry = entries.iter().find(|entry| entry["node"] == "pve3").expect("pve3");
        let direct = match world.door(&pve3) {
            Door::Answers => "200",
            Door::Refuses => "refused",
            Door::Silent | Door::NoRoute => "nothing",
        };
        let seen = Seen {
            online: world.sees(&pve1, &pve3),
            node_status: text(entry, "status").to_owned(),
            direct: direct.into(),
        };
        if story.last() != Some(&seen) {
            story.push(seen);
        }
        world.advance_to(world.now() + Duration::from_millis(100));
    }
    story
}

fn press(world: &mut World) {
    befall(world, Event::Press("pve3".into()));
}

fn recorded_home(version: &str, guest: bool) -> World {
    let mut world = World::read(&home(version, "1/1/1", "")).expect("the recorded home");
    pass(&mut world, 30);
    if !guest {
        befall(&mut world, Event::StopGuest(Vmid(104)));
        pass(&mut world, 12);
    }
    world
}

#[test]
fn a_shutdown_goes_in_the_recorded_order() {
    for (version, file) in [
        ("8.4.21", "timeline-8.4-a-shutdown-empty.jsonl"),
        ("9.2.11", "timeline-9.2-a-shutdown-empty.jsonl"),
    ] {
        let mut world = recorded_home(version, false);
        press(&mut world);
        let own = told(&mut world, 60);
        // The recorders asked each second: the API's end and the leave often fell into one.
        let ends: Vec<&Seen> = own.iter().filter(|s| s.online || s.direct != "refused").collect();
        let recorded = timeline(file);
        assert_eq!(recorded.first(), own.first(), "{file}");
        assert_eq!(recorded.last(), own.last(), "{file}");
        assert!(ends.iter().any(|seen| seen.online && seen.direct == "refused"), "{own:?}");
        let offline = own.iter().position(|seen| !seen.online).expect("it leaves");
        assert!(own[offline..].iter().all(|seen| !seen.online && seen.node_status == "offline"));
    }
}

#[test]
fn a_wake_goes_in_the_recorded_order() {
    for (version, off_for, file) in [
        ("8.4.21", 60, "timeline-8.4-b-wake-after-1min.jsonl"),
        ("9.2.11", 60, "timeline-9.2-b-wake-after-1min.jsonl"),
        ("9.2.11", 360, "timeline-9.2-b-wake-after-6min.jsonl"),
    ] {
        let mut world = recorded_home(version, false);
        press(&mut world);
        pass(&mut world, 30 + off_for);
        press(&mut world);
        let own = told(&mut world, 90);
        let mut recorded = timeline(file);
        // Before the machine's network is up nothing answers, however long that was asked for.
        recorded.retain(|seen| seen.online || seen.direct != "200");
        assert_eq!(own, recorded, "{file}");
    }
}

#[test]
fn a_power_loss_is_noticed_in_the_recorded_order() {
    for (version, file) in [
        ("8.4.21", "timeline-8.4-c-power-loss.jsonl"),
        ("9.2.11", "timeline-9.2-c-power-loss.jsonl"),
    ] {
        let mut world = recorded_home(version, true);
        let before = told(&mut world, 1);
        befall(&mut world, Event::Cut("pve3".into()));
        let own = [before, told(&mut world, 120)].concat();
        let mut recorded = timeline(file);
        recorded.dedup();
        assert_eq!(own, recorded, "{file}");
    }
}

#[test]
fn a_migration_to_a_dead_host_ends_aborted_and_leaves_the_guest_alone() {
    let mut world = recorded_home("8.4.21", true);
    befall(&mut world, Event::Cut("pve3".into()));
    pass(&mut world, 60);
    let asking = ApiRequest {
        method: "POST".into(),
        path: "/nodes/pve1/qemu/105/migrate".into(),
        query: Vec::new(),
        form: vec![("target".into(), "pve3".into()), ("online".into(), "1".into())],
        authorization: Some("PVEAPIToken=root@pam!full=s".into()),
    };
    let given = answer(&mut world, &"pve1".into(), &asking);
    let body: Value = serde_json::from_slice(&given.body).expect("an answer");
    let upid = text(&body, "data").to_owned();
    assert!(world.task(&upid).expect("its task").running());
    pass(&mut world, 4);
    let ended = world.task(&upid).expect("its task").ended.clone().expect("it ended");
    assert_eq!(ended.1, "migration aborted");
    let guest = world.guest(Vmid(105)).expect("the guest");
    assert_eq!((guest.host.as_str(), guest.lock.as_deref()), ("pve1", None));
    // Asking so is a broken promise, and the world says so.
    assert_eq!(world.tally().promises_broken.len(), 1);
}

#[test]
fn a_cold_start_is_quorate_alone_and_knows_no_names_at_first() {
    let mut world = world_for("8.4.21", "cold-start-pve1-alone");
    let pve1 = HostName::from("pve1");
    assert!(world.quorate(&pve1));
    let names = |world: &mut World| {
        let asking = ApiRequest {
            method: "GET".into(),
            path: "/cluster/resources".into(),
            query: vec![("type".into(), "vm".into())],
            form: Vec::new(),
            authorization: Some("PVEAPIToken=root@pam!full=s".into()),
        };
        let body: Value =
            serde_json::from_slice(&answer(world, &pve1, &asking).body).expect("JSON");
        let entries = body["data"].as_array().expect("a list").clone();
        entries.iter().filter(|entry| entry.get("name").is_some()).count()
    };
    assert_eq!(names(&mut world), 0);
    pass(&mut world, 12);
    // Its own four are known again; those of the hosts that are still off are not.
    assert_eq!(names(&mut world), 4);
}
