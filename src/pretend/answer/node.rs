//! `/nodes/{n}`: what a single host says of itself, forwarded where the node is another.
//!
//! **Does not know:** guests beyond handing their calls on.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::cluster::{is_own, tags};
use super::{Answer, Asking, Good, Refusal, bad, duty, failed, guest, report};
use crate::cluster::{GuestKind, HostName, Mac};
use crate::pretend::guests::{Guest, Run};
use crate::pretend::power::Host;
use crate::pretend::task::{Step, Task};
use crate::pretend::world::{Storage, World};

/// The build numbers of the recorded servers.
const REPOID_8: &str = "2606ac850d46da29";
const REPOID_9: &str = "14a22df35955d97d";
/// Entries of a task list where `limit` says nothing.
const TASK_LIMIT: u64 = 50;

const INDEX: [&str; 40] = [
    "aplinfo",
    "apt",
    "capabilities",
    "ceph",
    "certificates",
    "config",
    "disks",
    "dns",
    "firewall",
    "hardware",
    "hosts",
    "journal",
    "lxc",
    "migrateall",
    "netstat",
    "network",
    "qemu",
    "query-url-metadata",
    "replication",
    "report",
    "rrd",
    "rrddata",
    "scan",
    "sdn",
    "services",
    "spiceshell",
    "startall",
    "status",
    "stopall",
    "storage",
    "subscription",
    "suspendall",
    "syslog",
    "tasks",
    "termproxy",
    "time",
    "version",
    "vncshell",
    "vzdump",
    "wakeonlan",
];

const SERVICES: [(&str, bool); 19] = [
    ("chrony", true),
    ("corosync", true),
    ("cron", false),
    ("ksmtuned", false),
    ("postfix", false),
    ("pve-cluster", true),
    ("pve-firewall", false),
    ("pve-ha-crm", true),
    ("pve-ha-lrm", true),
    ("pvedaemon", true),
    ("pvefw-logger", false),
    ("pveproxy", true),
    ("pvescheduler", true),
    ("pvestatd", true),
    ("spiceproxy", false),
    ("sshd", true),
    ("syslog", false),
    ("systemd-journald", false),
    ("systemd-timesyncd", false),
];

pub(super) fn route(mut asking: Asking, method: &str, node: &str, rest: &[&str]) -> Answer {
    let own = format!("/nodes/{node}");
    match (method, rest) {
        // The index and the magic packet are the asked host's own work.
        ("GET", []) => {
            let newer = asking.nine().then_some("query-oci-repo-tags");
            let names = INDEX.into_iter().chain(newer);
            Ok(names.map(|name| json!({ "name": name })).collect::<Value>().into())
        }
        ("POST", ["wakeonlan"]) => wake(&mut asking, node),
        ("GET", ["status"]) => {
            asking.need(&own, "Sys.Audit")?;
            forwarded(asking, node, &[], |asking| Ok(status(asking).into()))
        }
        ("POST", ["status"]) => {
            asking.need(&own, "Sys.PowerMgmt")?;
            forwarded(asking, node, &["command"], shut_down)
        }
        ("GET", ["version"]) => forwarded(asking, node, &[], |asking| Ok(version(asking).into())),
        ("GET", ["config"]) => {
            asking.need("/", "Sys.Audit")?;
            forwarded(asking, node, &["property"], config)
        }
        ("PUT", ["config"]) => {
            asking.need("/", "Sys.Modify")?;
            forwarded(
                asking,
                node,
                &["wakeonlan", "description", "startall-onboot-delay"],
                set_config,
            )
        }
        ("GET", ["report"]) => {
            asking.need(&own, "Sys.Audit")?;
            forwarded(asking, node, &[], |asking| {
                let takes = asking.world.hosts[&asking.at].report_takes;
                let text = report::text(asking.world, &asking.at);
                Ok(Good { data: Value::String(text), total: None, takes })
            })
        }
        ("GET", ["services"]) => {
            asking.need(&own, "Sys.Audit")?;
            forwarded(asking, node, &[], |_| Ok(services().into()))
        }
        ("GET", ["time"]) => {
            asking.need(&own, "Sys.Audit")?;
            forwarded(asking, node, &[], |asking| {
                let now = asking.world.now().as_second();
                Ok(json!({ "time": now, "localtime": now, "timezone": "UTC" }).into())
            })
        }
        ("GET", ["storage"]) => {
            let known = ["content", "enabled", "target", "storage", "format"];
            forwarded(asking, node, &known, |asking| Ok(storages(asking).into()))
        }
        ("GET", ["replication"]) => forwarded(asking, node, &["guest"], |asking| {
            let wanted = asking.number("guest")?;
            let here = |guest: &Guest| {
                let one = wanted.is_none_or(|vmid| vmid == u64::from(guest.vmid.0));
                guest.host == asking.at && one
            };
            Ok(Value::Array(duty::replications(asking, true, here)).into())
        }),
        ("GET", ["ceph", what @ ("mon" | "osd" | "cmd-safety")]) => {
            asking.need("/", "Sys.Audit")?;
            let known: &[&str] =
                if *what == "cmd-safety" { &["service", "id", "action"] } else { &[] };
            let what = (*what).to_owned();
            forwarded(asking, node, known, move |asking| match what.as_str() {
                "mon" => duty::monitors(asking),
                "osd" => duty::disks(asking),
                _ => duty::safety(asking),
            })
        }
        ("GET", ["tasks"]) => {
            let known = [
                "source",
                "typefilter",
                "statusfilter",
                "vmid",
                "since",
                "until",
                "userfilter",
                "limit",
                "start",
                "errors",
            ];
            forwarded(asking, node, &known, tasks)
        }
        ("GET", ["tasks", upid, "status"]) => {
            let upid = unescaped(upid);
            forwarded(asking, node, &[], move |asking| task_status(asking, &upid))
        }
        ("GET", ["tasks", upid, "log"]) => {
            let upid = unescaped(upid);
            forwarded(asking, node, &["start", "limit"], move |asking| task_log(asking, &upid))
        }
        ("DELETE", ["tasks", upid]) => {
            let upid = unescaped(upid);
            forwarded(asking, node, &[], move |asking| stop_task(asking, &upid))
        }
        ("GET", [kind @ ("qemu" | "lxc")]) => {
            let kind = guest_kind(kind);
            forwarded(asking, node, &["full"], move |asking| Ok(guests(asking, kind).into()))
        }
        (_, [kind @ ("qemu" | "lxc"), vmid, rest @ ..]) => {
            guest::route(asking, method, node, guest_kind(kind), vmid, rest)
        }
        _ => Err(Refusal::NotThere),
    }
}

fn guest_kind(word: &str) -> GuestKind {
    if word == "lxc" { GuestKind::Ct } else { GuestKind::Vm }
}

/// `%21` and its kin in a UPID.
fn unescaped(text: &str) -> String {
    text.replace("%3A", ":").replace("%3a", ":").replace("%40", "@").replace("%21", "!")
}

/// Forwards, then looks at parameters, then does it: PVE's order.
pub(super) fn forwarded(
    mut asking: Asking,
    node: &str,
    known: &[&str],
    act: impl FnOnce(&mut Asking) -> Answer,
) -> Answer {
    let added = asking.forward(node)?;
    asking.takes_only(known, &[])?;
    let mut good = act(&mut asking)?;
    good.takes += added;
    Ok(good)
}

pub(super) fn version(asking: &Asking) -> Value {
    let host = &asking.world.hosts[&asking.at];
    let release: Vec<&str> = host.version.split('.').take(2).collect();
    json!({ "release": release.join("."), "repoid": repoid(host), "version": host.version })
}

fn repoid(host: &Host) -> &'static str {
    if host.major() >= 9 { REPOID_9 } else { REPOID_8 }
}

fn wake(asking: &mut Asking, node: &str) -> Answer {
    asking.need(&format!("/nodes/{node}"), "Sys.PowerMgmt")?;
    asking.takes_only(&[], &[])?;
    let Some(target) = asking.world.by_node(node) else {
        return Err(failed(format!("no such cluster node '{node}'")));
    };
    if target.name == asking.asked {
        return Err(failed(format!("'{node}' is local node, cannot wake my self!")));
    }
    let Some(property) = target.wakeonlan.clone() else {
        return Err(failed(format!("No wake on LAN MAC address defined for '{node}'!")));
    };
    let mac = property.split(',').next().unwrap_or_default().trim_start_matches("mac=").to_owned();
    if let Ok(mac) = mac.parse::<Mac>() {
        let mut frame = vec![0xff; 6];
        frame.extend(mac.0.repeat(16));
        asking.world.magic_packet(&frame);
    }
    Ok(Value::String(mac).into())
}

fn status(asking: &Asking) -> Value {
    let (world, nine) = (&asking.world, asking.nine());
    let host = &world.hosts[&asking.at];
    let used = world.memory_used(&asking.at);
    let free = host.memory_bytes.saturating_sub(used);
    let mut memory = json!({ "free": free, "total": host.memory_bytes, "used": used });
    let mut cpu = json!({
        "cores": host.cores, "cpus": host.cores, "flags": "fpu vme de pse tsc msr", "hvm": "",
        "mhz": "2596.138", "model": "Example CPU", "sockets": 1, "user_hz": 100,
    });
    if nine {
        memory["available"] = json!(free);
        cpu["family"] = json!("25");
        cpu["vendor"] = json!("AuthenticAMD");
    }
    let kernel = if nine { "6.17.2-pve" } else { "6.8.12-pve" };
    json!({
        "boot-info": { "mode": "legacy-bios" },
        "cpu": 0.05,
        "cpuinfo": cpu,
        "current-kernel": {
            "machine": "x86_64", "release": kernel, "sysname": "Linux", "version": "#1 SMP",
        },
        "idle": 0,
        "ksm": { "shared": 0 },
        "kversion": format!("Linux {kernel} #1 SMP"),
        "loadavg": ["0.10", "0.20", "0.30"],
        "memory": memory,
        "pveversion": format!("pve-manager/{}/{}", host.version, repoid(host)),
        "rootfs": {
            "avail": 76_889_739_264_u64, "free": 249_870_163_968_u64,
            "total": 270_553_174_016_u64, "used": 20_683_010_048_u64,
        },
        "swap": { "free": 0, "total": 0, "used": 0 },
        "uptime": host.uptime_seconds(world.now()),
        "wait": 0,
    })
}

/// PVE checks nothing here; the world counts what it sees.
fn shut_down(asking: &mut Asking) -> Answer {
    asking.takes_only(&["command"], &["command"])?;
    if asking.word("command", &["reboot", "shutdown"])?.as_deref() == Some("shutdown") {
        let at = asking.at.clone();
        asking.world.tell(at.as_str(), "was asked over the API to power off");
        asking.world.ask_off(&at, true);
        return Ok(Value::Null.into());
    }
    Err(failed("this pretended cluster does not reboot hosts"))
}

fn config(asking: &mut Asking) -> Answer {
    let mut properties = vec![
        "acme",
        "acmedomain0",
        "acmedomain1",
        "acmedomain2",
        "acmedomain3",
        "acmedomain4",
        "acmedomain5",
        "ballooning-target",
        "description",
        "startall-onboot-delay",
        "wakeonlan",
    ];
    if asking.nine() {
        properties.insert(9, "location");
    }
    let wanted = asking.word("property", &properties)?;
    let host = &asking.world.hosts[&asking.at];
    let mut all = Map::new();
    if let Some(property) = &host.wakeonlan {
        all.insert("wakeonlan".into(), json!(property));
        all.insert("description".into(), json!(""));
        all.insert("digest".into(), json!(asking.world.digest(&host.node)));
    }
    if let Some(wanted) = wanted {
        all.retain(|name, _| *name == wanted);
    }
    Ok(Value::Object(all).into())
}

fn set_config(asking: &mut Asking) -> Answer {
    if let Some(text) = asking.params.get("wakeonlan").cloned() {
        let mac = text.split(',').next().unwrap_or_default().trim_start_matches("mac=");
        if mac.parse::<Mac>().is_err() {
            let why = "invalid format - format error\nwakeonlan.mac: invalid format - value does \
                       not look like a valid unicast MAC address\n\n";
            return Err(bad("wakeonlan", why));
        }
        if !asking.world.quorate(&asking.at) {
            let node = &asking.world.hosts[&asking.at].node;
            let file = format!("/etc/pve/nodes/{node}/config.tmp.173");
            return Err(failed(format!("unable to open file '{file}' - Permission denied")));
        }
        let at = asking.at.clone();
        asking.world.host_mut(&at).wakeonlan = Some(text);
    }
    Ok(Value::Null.into())
}

fn services() -> Value {
    let entry = |(name, runs): (&str, bool)| {
        json!({
            "active-state": if runs { "active" } else { "inactive" },
            "desc": name, "name": name, "service": name,
            "state": if runs { "running" } else { "dead" },
            "unit-state": "enabled",
        })
    };
    SERVICES.into_iter().map(entry).collect()
}

fn storages(asking: &Asking) -> Value {
    let (world, at) = (&asking.world, &asking.at);
    let wanted = asking.params.get("storage");
    let content = asking.params.get("content");
    let entry = |storage: &Storage| {
        let file = &storage.file;
        let active = world.storage_active(storage, at);
        let mut entry = json!({
            "storage": file.name, "type": file.kind, "content": file.content,
            "shared": u8::from(file.shared), "enabled": u8::from(!file.disabled), "active": u8::from(active),
            "total": 0, "used": 0, "avail": 0,
        });
        if active {
            entry["total"] = json!(270_553_174_016_u64);
            entry["used"] = json!(20_683_042_816_u64);
            entry["avail"] = json!(76_889_706_496_u64);
            entry["used_fraction"] = json!(0.0764472377425402);
        }
        entry
    };
    let seen = |storage: &&Storage| {
        let file = &storage.file;
        let path = format!("/storage/{}", file.name);
        let here = file.hosts.as_ref().is_none_or(|hosts| hosts.contains(at));
        let holds = |content: &String| file.content.split(',').any(|one| one == content);
        here && wanted.is_none_or(|name| *name == file.name)
            && content.is_none_or(holds)
            && (asking.may(&path, "Datastore.Audit")
                || asking.may(&path, "Datastore.AllocateSpace"))
    };
    world.storages.values().filter(seen).map(entry).collect()
}

/// One task as lists show it.
pub(super) fn task_entry(node: &str, task: &Task) -> Value {
    let mut entry = json!({
        "id": task.subject, "node": node, "pid": task.pid, "pstart": task.pstart,
        "starttime": task.started.as_second(), "type": task.kind, "upid": task.upid,
        "user": task.caller.user,
    });
    match &task.ended {
        Some((at, text)) => {
            entry["endtime"] = json!(at.as_second());
            entry["status"] = json!(text);
            if let Some(token) = &task.caller.token {
                entry["tokenid"] = json!(token);
            }
        }
        // A running task shows its user and token in one (recorded).
        None => {
            entry["status"] = json!("RUNNING");
            entry["user"] = json!(task.caller.id());
        }
    }
    entry
}

fn tasks(asking: &mut Asking) -> Answer {
    let source = asking.word("source", &["archive", "active", "all"])?;
    let source = source.as_deref().unwrap_or("archive");
    let (limit, start) = (asking.number("limit")?, asking.number("start")?.unwrap_or(0));
    let (since, until) = (asking.number("since")?, asking.number("until")?);
    let errors_only = asking.flag("errors")?;
    let world = &asking.world;
    let node = world.hosts[&asking.at].node.clone();
    let all = asking.may(&format!("/nodes/{node}"), "Sys.Audit");
    let second = |task: &Task| u64::try_from(task.started.as_second()).unwrap_or(0);
    let matches = |task: &&Task| {
        let listed = match source {
            "active" => task.running(),
            "all" => true,
            _ => !task.running(),
        };
        let failed = task.ended.as_ref().is_some_and(|(_, text)| text != "OK");
        listed
            && task.host == asking.at
            && (all || is_own(asking, &task.caller))
            && asking.params.get("typefilter").is_none_or(|kind| *kind == task.kind)
            && asking.params.get("vmid").is_none_or(|vmid| *vmid == task.subject)
            && since.is_none_or(|since| second(task) >= since)
            && until.is_none_or(|until| second(task) <= until)
            && (!errors_only || failed)
    };
    let found: Vec<&Task> = world.tasks.values().rev().filter(matches).collect();
    let total = found.len();
    let page = found
        .into_iter()
        .skip(usize::try_from(start).unwrap_or(usize::MAX))
        .take(usize::try_from(limit.unwrap_or(TASK_LIMIT)).unwrap_or(usize::MAX));
    let entry = |task: &Task| {
        let mut entry = task_entry(&node, task);
        if task.running() {
            entry["saved"] = json!("0");
        }
        entry
    };
    let data: Value = page.map(entry).collect();
    // PVE leaves the total out when there is nothing.
    Ok(Good { data, total: (total > 0).then_some(total), takes: Duration::ZERO })
}

/// A task of the executing host, or PVE's refusal.
fn own_task<'a>(asking: &'a Asking, upid: &str) -> Result<&'a Task, Refusal> {
    if upid.split(':').count() != 9 || !upid.starts_with("UPID:") {
        return Err(bad("upid", "unable to parse worker upid"));
    }
    let task = asking.world.task(upid).filter(|task| task.host == asking.at);
    let task = task.ok_or_else(|| bad("upid", "no such task"))?;
    if !is_own(asking, &task.caller) {
        let node = &asking.world.hosts[&asking.at].node;
        asking.need(&format!("/nodes/{node}"), "Sys.Audit")?;
    }
    Ok(task)
}

fn task_status(asking: &mut Asking, upid: &str) -> Answer {
    let task = own_task(asking, upid)?;
    let node = &asking.world.hosts[&asking.at].node;
    let mut entry = json!({
        "upid": task.upid, "node": node, "pid": task.pid, "pstart": task.pstart,
        "starttime": task.started.as_second(), "type": task.kind, "id": task.subject,
        "user": task.caller.user, "status": if task.running() { "running" } else { "stopped" },
    });
    if let Some(token) = &task.caller.token {
        entry["tokenid"] = json!(token);
    }
    if let Some((_, text)) = &task.ended {
        entry["exitstatus"] = json!(text);
    }
    Ok(entry.into())
}

fn task_log(asking: &mut Asking, upid: &str) -> Answer {
    let (start, limit) = (asking.number("start")?.unwrap_or(0), asking.number("limit")?);
    let task = match own_task(asking, upid) {
        Ok(task) => task,
        Err(Refusal::Parameters(errors))
            if errors.get("upid").is_some_and(|e| e == "no such task") =>
        {
            // Recorded: 200, and in version 8 an object where a list belongs.
            let line = json!({ "n": 1, "t": "unable to open file - No such file or directory" });
            let data = if asking.nine() { json!([line]) } else { line };
            return Ok(Good { data, total: Some(1), takes: Duration::ZERO });
        }
        Err(other) => return Err(other),
    };
    let limit = match limit.unwrap_or(TASK_LIMIT) {
        0 => usize::MAX,
        limit => usize::try_from(limit).unwrap_or(usize::MAX),
    };
    let lines = task.log.iter().zip(1..).skip(usize::try_from(start).unwrap_or(usize::MAX));
    let data: Value = lines.take(limit).map(|(line, n)| json!({ "n": n, "t": line })).collect();
    Ok(Good { data, total: Some(task.log.len()), takes: Duration::ZERO })
}

fn stop_task(asking: &mut Asking, upid: &str) -> Answer {
    let task = own_task(asking, upid)?;
    let (id, running, nine) = (task.id, task.running(), asking.nine());
    let mine = is_own(asking, &task.caller);
    if !mine {
        let node = &asking.world.hosts[&asking.at].node;
        asking.need(&format!("/nodes/{node}"), "Sys.Modify")?;
    }
    if !running {
        return Ok(Value::Null.into());
    }
    let text = if nine { "migration problems" } else { "unexpected status" };
    asking.world.task_step(id, Step::Fail(text.into()));
    Ok(Good { data: Value::Null, total: None, takes: Duration::from_secs(5) })
}

/// The host's own live list of one kind.
fn guests(asking: &Asking, kind: GuestKind) -> Value {
    let here = |guest: &&Guest| {
        guest.host == asking.at
            && guest.kind == kind
            && asking.may(&format!("/vms/{}", guest.vmid), "VM.Audit")
    };
    asking.world.guests().filter(here).map(|guest| live_entry(asking, guest)).collect()
}

/// What a host knows of its own guest now.
pub(super) fn live_entry(asking: &Asking, guest: &Guest) -> Value {
    let runs = guest.run != Run::Stopped;
    let memory = guest.memory_mib << 20;
    let used = if runs { memory / 3 } else { 0 };
    let mut entry = json!({
        "vmid": guest.vmid.0, "name": guest.name, "status": guest.run.live_word(),
        "uptime": guest.uptime_seconds(asking.world.now()), "cpu": 0, "cpus": guest.cores,
        "mem": used, "maxmem": memory, "disk": 0,
        "maxdisk": guest.disks.first().map_or(0, |disk| disk.gib << 30),
        "netin": 0, "netout": 0,
    });
    match guest.kind {
        GuestKind::Ct => {
            for name in ["diskread", "diskwrite", "swap", "maxswap"] {
                entry[name] = json!(0);
            }
            entry["type"] = json!("lxc");
        }
        GuestKind::Vm if asking.nine() => entry["memhost"] = json!(used),
        GuestKind::Vm => {}
    }
    if runs {
        entry["pid"] = json!(guest.pid);
        if asking.nine() {
            for what in ["cpu", "io", "memory"] {
                for how in ["some", "full"] {
                    let zero = if guest.kind == GuestKind::Ct { json!("0.00") } else { json!(0) };
                    entry[format!("pressure{what}{how}")] = zero;
                }
            }
        }
    }
    if let Some(lock) = &guest.lock {
        entry["lock"] = json!(lock);
    }
    if !guest.tags().is_empty() {
        entry["tags"] = json!(tags(guest));
    }
    if guest.template {
        entry["template"] = json!(1);
    }
    entry
}

impl World {
    /// Memory in use on a host: its own, and a third of what its running guests were given.
    pub(crate) fn memory_used(&self, host: &HostName) -> u64 {
        let running = self
            .guests
            .values()
            .filter(|guest| guest.host == *host && guest.run != Run::Stopped)
            .map(|guest| guest.memory_mib << 20)
            .sum::<u64>();
        (2 << 30) + running
    }

    /// Forty hexadecimal digits that stay the same for the same thing.
    pub(crate) fn digest(&self, of: &str) -> String {
        let mut state: u64 = 0xcbf2_9ce4_8422_2325;
        let mut text = String::new();
        while text.len() < 40 {
            for byte in of.bytes().chain([u8::try_from(text.len()).unwrap_or(0)]) {
                state = (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
            text += &format!("{state:016x}");
        }
        text.truncate(40);
        text
    }
}
