//! `/nodes/{n}/qemu/{vmid}` and `/nodes/{n}/lxc/{vmid}`: one guest's config, state, power and
//! moves.
//!
//! Order of checks as recorded: right, forwarding, parameters, then the guest. Most of what can go
//! wrong goes wrong in the task, not in the answer; only what PVE refuses at once is refused here.
//!
//! **Does not know:** how the work goes on (`task`).

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::cluster::tags;
use super::node::{forwarded, live_entry};
use super::{Answer, Asking, Refusal, bad, failed};
use crate::cluster::{GuestKind, HostName, Vmid};
use crate::pretend::guests::{Guest, HaWish, Run};
use crate::pretend::task::Aim;

/// What a shutdown waits for where nobody says.
const SHUTDOWN_TIMEOUT: u64 = 60;

pub(super) fn route(
    asking: Asking,
    method: &str,
    node: &str,
    kind: GuestKind,
    vmid: &str,
    rest: &[&str],
) -> Answer {
    let own = format!("/vms/{vmid}");
    let qemu = kind == GuestKind::Vm;
    let needs = match (method, rest) {
        ("GET", ["config" | "pending"] | ["status", "current"]) => "VM.Audit",
        ("GET", ["migrate"]) if qemu || major_of(&asking, node) >= 9 => "VM.Migrate",
        ("POST", ["migrate"]) => "VM.Migrate",
        ("POST", ["status", "start" | "shutdown" | "stop" | "suspend" | "resume"]) => {
            "VM.PowerMgmt"
        }
        _ => return Err(Refusal::NotThere),
    };
    // A number PVE would refuse is refused before any right is looked at only if it is not one.
    let Ok(number) = vmid.parse::<u32>() else {
        return Err(bad("vmid", format!("type check ('integer') failed - got '{vmid}'")));
    };
    asking.need(&own, needs)?;
    let vmid = Vmid(number);
    let known = known_parameters(method, rest, kind);
    forwarded(asking, node, known, |asking| {
        if number < 100 {
            return Err(bad("vmid", "invalid format - value does not look like a valid VM ID\n"));
        }
        match (method, rest) {
            ("GET", ["config"]) => {
                here(asking, kind, vmid).map(|guest| config(asking, guest).into())
            }
            ("GET", ["pending"]) => {
                here(asking, kind, vmid).map(|guest| pending(asking, guest).into())
            }
            ("GET", ["status", "current"]) => {
                here(asking, kind, vmid).map(|guest| current(asking, guest).into())
            }
            ("GET", ["migrate"]) => precondition(asking, kind, vmid),
            ("POST", ["migrate"]) => migrate(asking, kind, vmid),
            ("POST", ["status", "start"]) => start(asking, kind, vmid),
            ("POST", ["status", "shutdown"]) => shut_down(asking, kind, vmid),
            ("POST", ["status", "stop"]) => stop(asking, kind, vmid),
            ("POST", ["status", "suspend"]) => suspend(asking, kind, vmid),
            ("POST", ["status", "resume"]) => resume(asking, kind, vmid),
            _ => Err(Refusal::NotThere),
        }
    })
}

fn major_of(asking: &Asking, node: &str) -> u32 {
    asking.world.by_node(node).map_or(8, |host| host.major())
}

fn known_parameters(method: &str, rest: &[&str], kind: GuestKind) -> &'static [&'static str] {
    match (method, rest, kind) {
        ("GET", ["config"], _) => &["current", "snapshot"],
        ("GET", ["migrate"], _) => &["target"],
        ("POST", ["migrate"], GuestKind::Vm) => &[
            "target",
            "online",
            "with-local-disks",
            "targetstorage",
            "bwlimit",
            "force",
            "migration_type",
            "migration_network",
            "with-conntrack-state",
        ],
        ("POST", ["migrate"], GuestKind::Ct) => {
            &["target", "restart", "timeout", "target-storage", "bwlimit", "online"]
        }
        ("POST", ["status", "start"], GuestKind::Vm) => {
            &["timeout", "skiplock", "machine", "targetstorage"]
        }
        ("POST", ["status", "start"], GuestKind::Ct) => &["debug", "skiplock"],
        ("POST", ["status", "shutdown"], GuestKind::Vm) => {
            &["timeout", "forceStop", "keepActive", "skiplock"]
        }
        ("POST", ["status", "shutdown"], GuestKind::Ct) => &["timeout", "forceStop"],
        ("POST", ["status", "stop"], _) => &["timeout", "overrule-shutdown", "skiplock"],
        ("POST", ["status", "suspend"], GuestKind::Vm) => &["todisk", "statestorage", "skiplock"],
        ("POST", ["status", "resume"], GuestKind::Vm) => &["skiplock", "nocheck"],
        _ => &[],
    }
}

/// The guest, if its config lies on the executing host.
fn here<'a>(asking: &'a Asking, kind: GuestKind, vmid: Vmid) -> Result<&'a Guest, Refusal> {
    let guest = asking.world.guest(vmid);
    guest.filter(|guest| guest.host == asking.at && guest.kind == kind).ok_or_else(|| {
        let folder = if kind == GuestKind::Ct { "lxc" } else { "qemu-server" };
        let node = &asking.world.hosts[&asking.at].node;
        failed(format!("Configuration file 'nodes/{node}/{folder}/{vmid}.conf' does not exist"))
    })
}

fn unlocked(guest: &Guest) -> Result<(), Refusal> {
    match &guest.lock {
        None => Ok(()),
        Some(lock) => Err(failed(format!("{} is locked ({lock})", guest.kind_in_capitals()))),
    }
}

/// The keys of a guest's config file, in its order.
pub(super) fn config_keys(guest: &Guest) -> Vec<(String, Value)> {
    let mut keys: Vec<(String, Value)> = Vec::new();
    let mut put = |key: &str, value: Value| keys.push((key.to_owned(), value));
    put("cores", json!(guest.cores));
    let volume = |storage: &str, index: usize, gib: u64| {
        let vmid = guest.vmid;
        format!("{storage}:{vmid}/vm-{vmid}-disk-{index}.raw,size={gib}G")
    };
    match guest.kind {
        GuestKind::Vm => {
            put("memory", json!(guest.memory_mib.to_string()));
            put("name", json!(guest.name));
            let tail = guest.vmid.0;
            if !guest.disks.is_empty() {
                put("boot", json!("order=scsi0"));
                let mac = format!("BC:24:11:00:{:02X}:{:02X}", tail / 256 % 256, tail % 256);
                put("net0", json!(format!("virtio={mac},bridge=vmbr0")));
            }
            put("ostype", json!("l26"));
            put("scsihw", json!("virtio-scsi-pci"));
            put("smbios1", json!(format!("uuid=4b4f5d52-0e29-4d0e-a0c4-{tail:012}")));
            for (index, disk) in guest.disks.iter().enumerate() {
                put(&format!("scsi{index}"), json!(volume(&disk.storage, index, disk.gib)));
            }
            for (index, address) in guest.hostpci.iter().enumerate() {
                put(&format!("hostpci{index}"), json!(address));
            }
        }
        GuestKind::Ct => {
            put("arch", json!("amd64"));
            put("hostname", json!(guest.name));
            put("memory", json!(guest.memory_mib));
            put("ostype", json!("debian"));
            put("swap", json!(0));
            for (index, disk) in guest.disks.iter().enumerate() {
                let key = if index == 0 { "rootfs".into() } else { format!("mp{}", index - 1) };
                put(&key, json!(volume(&disk.storage, index, disk.gib)));
            }
        }
    }
    for (key, line) in &guest.config {
        put(key, json!(line));
    }
    if guest.onboot {
        put("onboot", json!(1));
    }
    if let Some(text) = startup(guest) {
        put("startup", json!(text));
    }
    if guest.protection {
        put("protection", json!(1));
    }
    if guest.template {
        put("template", json!(1));
    }
    if !guest.tags().is_empty() {
        put("tags", json!(tags(guest)));
    }
    if let Some(lock) = &guest.lock {
        put("lock", json!(lock));
    }
    if guest.hibernated {
        let storage = guest.disks.first().map_or("local", |disk| disk.storage.as_str());
        let vmid = guest.vmid;
        put("vmstate", json!(format!("{storage}:{vmid}/vm-{vmid}-state-suspend.raw")));
        put("runningmachine", json!("pc-i440fx-9.2+pve1"));
        put("runningcpu", json!("kvm64,enforce,+kvm_pv_eoi,+kvm_pv_unhalt"));
    }
    keys
}

fn startup(guest: &Guest) -> Option<String> {
    let parts =
        [("order", guest.startup.order), ("up", guest.startup.up), ("down", guest.startup.down)];
    let written: Vec<String> = parts
        .iter()
        .filter_map(|(name, value)| value.map(|value| format!("{name}={value}")))
        .collect();
    (!written.is_empty()).then(|| written.join(","))
}

fn config(asking: &Asking, guest: &Guest) -> Value {
    let mut all: Map<String, Value> = config_keys(guest).into_iter().collect();
    all.insert("digest".into(), digest(asking, guest));
    Value::Object(all)
}

/// Changes with every change of the config, as a real digest does.
fn digest(asking: &Asking, guest: &Guest) -> Value {
    json!(asking.world.digest(&format!("{:?}", config_keys(guest))))
}

fn pending(asking: &Asking, guest: &Guest) -> Value {
    let mut entries: Vec<Value> = config_keys(guest)
        .into_iter()
        .map(|(key, value)| json!({ "key": key, "value": value }))
        .collect();
    entries.push(json!({ "key": "digest", "value": digest(asking, guest) }));
    Value::Array(entries)
}

fn current(asking: &Asking, guest: &Guest) -> Value {
    let mut entry = live_entry(asking, guest);
    entry["ha"] = match &guest.ha {
        None => json!({ "managed": 0 }),
        Some(ha) if asking.nine() => json!({ "managed": 1, "state": ha.state }),
        Some(ha) => json!({ "managed": 1, "state": ha.state, "group": null }),
    };
    if guest.kind == GuestKind::Vm {
        entry["qmpstatus"] = json!(guest.run.word());
        if guest.run != Run::Stopped {
            let tap = format!("tap{}i0", guest.vmid);
            entry["nics"] = json!({ tap: { "netin": 0, "netout": 0 } });
        }
    }
    entry
}

/// Hosts other than this one, by PVE's name.
fn others(asking: &Asking) -> Vec<(HostName, String)> {
    asking
        .world
        .hosts()
        .filter(|host| host.name != asking.at)
        .map(|host| (host.name.clone(), host.node.clone()))
        .collect()
}

/// Storages of the guest that a host does not have.
fn lacking(asking: &Asking, guest: &Guest, host: &HostName) -> Vec<String> {
    let there = |storage: &str| {
        asking.world.storages.get(storage).is_some_and(|storage| {
            storage.file.hosts.as_ref().is_none_or(|hosts| hosts.contains(host))
        })
    };
    let missing = guest.disks.iter().map(|disk| disk.storage.clone());
    missing.filter(|storage| !there(storage)).collect()
}

fn precondition(asking: &mut Asking, kind: GuestKind, vmid: Vmid) -> Answer {
    let guest = here(asking, kind, vmid)?;
    asking.need_quorum()?;
    let running = u8::from(guest.run != Run::Stopped);
    if kind == GuestKind::Ct {
        let allowed: Vec<String> = others(asking).into_iter().map(|(_, node)| node).collect();
        return Ok(json!({
            "running": running, "allowed-nodes": allowed, "not-allowed-nodes": {},
        })
        .into());
    }
    unlocked(guest)?;
    let mut allowed = Vec::new();
    let mut not_allowed = Map::new();
    for (host, node) in others(asking) {
        let missing = lacking(asking, guest, &host);
        if missing.is_empty() {
            allowed.push(node.clone());
            // A slip of PVE's: allowed nodes stand here as well, with nothing in them.
            not_allowed.insert(node, json!({}));
        } else {
            not_allowed.insert(node, json!({ "unavailable_storages": missing }));
        }
    }
    let local_disks: Vec<Value> = guest
        .disks
        .iter()
        .enumerate()
        .filter(|(_, disk)| !asking.world.is_shared(&disk.storage))
        .map(|(index, disk)| {
            let mut entry = json!({
                "cdrom": 0, "drivename": format!("scsi{index}"), "is_attached": 1,
                "is_tpmstate": 0, "is_unused": 0, "is_vmstate": 0, "replicate": 1, "shared": 0,
                "size": disk.gib << 30,
                "volid": format!("{}:{vmid}/vm-{vmid}-disk-{index}.raw", disk.storage),
            });
            if asking.nine() {
                entry["is_cloudinit"] = json!(0);
            }
            entry
        })
        .collect();
    let lines = asking.world.local_lines(guest);
    let further = lines.into_iter().map(|(key, volume, line)| {
        let image = u8::from(line.split(',').any(|option| option == "media=cdrom"));
        json!({
            "cdrom": image, "drivename": key, "is_attached": u8::from(!key.starts_with("unused")),
            "is_tpmstate": 0, "is_unused": u8::from(key.starts_with("unused")), "is_vmstate": 0,
            "replicate": u8::from(!line.contains("replicate=0")), "shared": 0, "volid": volume,
        })
    });
    let local_disks: Vec<Value> = local_disks.into_iter().chain(further).collect();
    let mut resources: Vec<String> =
        (0..guest.hostpci.len()).map(|index| format!("hostpci{index}")).collect();
    resources.extend(guest.config.keys().filter(|key| key.starts_with("usb")).cloned());
    let mut data = json!({
        "running": running, "allowed_nodes": allowed, "not_allowed_nodes": not_allowed,
        "local_disks": local_disks, "local_resources": resources,
        "mapped-resources": [], "mapped-resource-info": {},
    });
    if asking.nine() {
        data["has-dbus-vmstate"] = json!(1);
    }
    Ok(data.into())
}

fn migrate(asking: &mut Asking, kind: GuestKind, vmid: Vmid) -> Answer {
    asking.takes_only(known_parameters("POST", &["migrate"], kind), &["target"])?;
    let online = asking.flag("online")?;
    let with_disks = asking.flag("with-local-disks")?;
    let restart = asking.flag("restart")?;
    for name in ["force", "migration_type", "migration_network"] {
        if asking.params.contains_key(name) {
            return Err(bad(name, "Only root may use this option."));
        }
    }
    let limit = match asking.params.get("bwlimit").map(|text| text.parse::<u64>()) {
        Some(Ok(kib)) => Some(kib),
        Some(Err(_)) => return Err(bad("bwlimit", "type check ('number') failed")),
        None => None,
    };
    asking.need_quorum()?;
    let node = asking.params["target"].clone();
    if asking.world.hosts[&asking.at].node == node {
        return Err(bad("target", "target is local node."));
    }
    let Some(to) = asking.world.by_node(&node).map(|host| host.name.clone()) else {
        return Err(failed(format!("no such cluster node '{node}'")));
    };
    let guest = here(asking, kind, vmid)?.clone();
    let running = guest.run != Run::Stopped;
    if kind == GuestKind::Vm {
        unlocked(&guest)?;
    }
    match kind {
        GuestKind::Vm if running && !online && guest.ha.is_none() => {
            return Err(failed("can't migrate running VM without --online"));
        }
        GuestKind::Ct if running && !restart && !online && guest.ha.is_none() => {
            let text = "can't migrate running container without --online or --restart";
            return Err(failed(text));
        }
        GuestKind::Vm | GuestKind::Ct => {}
    }
    if let Some(storage) = lacking(asking, &guest, &to).first() {
        return Err(failed(format!("storage '{storage}' is not available on node '{node}'")));
    }
    asking.count_move_to_absent(&to, &format!("{kind} {vmid} was asked to move"));
    let copied = !guest.replicated_to.is_empty() && kind == GuestKind::Vm && running;
    if copied && !guest.replicated_to.contains(&to) {
        return Err(failed(format!(
            "Cannot live-migrate replicated VM to node '{node}' - not a replication target. Use 'force' to override."
        )));
    }
    let (at, caller) = (asking.at.clone(), asking.token.caller());
    if guest.ha.is_some() {
        let text = format!(
            "Requesting HA migration for {} {vmid} to node {node}",
            guest.kind_in_capitals()
        );
        return ha_request(asking, &guest, "hamigrate", &text, HaWish::Migrate(to));
    }
    let local: u64 = guest
        .disks
        .iter()
        .filter(|disk| !asking.world.is_shared(&disk.storage))
        .map(|disk| disk.gib << 30)
        .sum();
    let takes_disks = with_disks || !running || kind == GuestKind::Ct;
    // What is replicated is there already but for the last minutes.
    let local = if guest.replicated_to.contains(&to) { 1 } else { local };
    let aim = Aim::Migrate {
        to,
        local_bytes: if takes_disks { local } else { 0 },
        restart: kind == GuestKind::Ct && running,
        bytes_per_second: limit.filter(|kib| *kib > 0).map(|kib| kib * 1024),
    };
    let name = if kind == GuestKind::Ct { "vzmigrate" } else { "qmigrate" };
    let id = asking.world.begin(&at, name, Some(vmid), &caller, aim);
    Ok(Value::String(asking.world.upid(id)).into())
}

/// What HA does with a request: a task that says OK at once, and work that comes later.
fn ha_request(asking: &mut Asking, guest: &Guest, kind: &str, text: &str, wish: HaWish) -> Answer {
    let (at, caller) = (asking.at.clone(), asking.token.caller());
    let id = asking.world.begin(&at, kind, Some(guest.vmid), &caller, Aim::Nothing);
    asking.world.log(id, text);
    asking.world.then(id, Duration::from_millis(700), crate::pretend::task::Step::Done);
    if let Some(ha) = asking.world.guests.get_mut(&guest.vmid).and_then(|g| g.ha.as_mut()) {
        match wish {
            HaWish::Start => ha.requested = "started".into(),
            HaWish::Stop => ha.requested = "stopped".into(),
            HaWish::Migrate(_) => {}
        }
    }
    asking.world.ha_wish(guest.vmid, wish);
    Ok(Value::String(asking.world.upid(id)).into())
}

fn begin(asking: &mut Asking, kind: &str, vmid: Vmid, aim: Aim) -> Answer {
    let (at, caller) = (asking.at.clone(), asking.token.caller());
    let id = asking.world.begin(&at, kind, Some(vmid), &caller, aim);
    Ok(Value::String(asking.world.upid(id)).into())
}

fn start(asking: &mut Asking, kind: GuestKind, vmid: Vmid) -> Answer {
    asking.need_quorum()?;
    let there = asking.world.guest(vmid).filter(|guest| guest.host == asking.at).cloned();
    if let Some(guest) = &there {
        if guest.ha.is_some() {
            let text = format!("Requesting HA start for {} {vmid}", guest.kind_in_capitals());
            return ha_request(asking, guest, "hastart", &text, HaWish::Start);
        }
        if kind == GuestKind::Ct && guest.run != Run::Stopped {
            return Err(failed(format!("CT {vmid} already running")));
        }
    }
    let name = if kind == GuestKind::Ct { "vzstart" } else { "qmstart" };
    begin(asking, name, vmid, Aim::Start)
}

fn shut_down(asking: &mut Asking, kind: GuestKind, vmid: Vmid) -> Answer {
    let force = asking.flag("forceStop")?;
    let timeout = asking.number("timeout")?;
    let guest = here(asking, kind, vmid)?.clone();
    let waits = timeout.or(guest.startup.down.map(u64::from)).unwrap_or(SHUTDOWN_TIMEOUT);
    if guest.ha.is_some() {
        let text = format!("Requesting HA stop for {} {vmid}", guest.kind_in_capitals());
        return ha_request(asking, &guest, "hastop", &text, HaWish::Stop);
    }
    if kind == GuestKind::Ct && guest.run == Run::Stopped {
        return Err(failed(format!("CT {vmid} not running")));
    }
    if guest.run == Run::Paused && !force {
        return Err(failed("VM is paused - cannot shutdown"));
    }
    let name = if kind == GuestKind::Ct { "vzshutdown" } else { "qmshutdown" };
    begin(asking, name, vmid, Aim::ShutDown { force, timeout: Duration::from_secs(waits) })
}

fn stop(asking: &mut Asking, kind: GuestKind, vmid: Vmid) -> Answer {
    let guest = here(asking, kind, vmid)?.clone();
    if guest.ha.is_some() {
        let text = format!("Requesting HA stop for {} {vmid}", guest.kind_in_capitals());
        return ha_request(asking, &guest, "hastop", &text, HaWish::Stop);
    }
    if kind == GuestKind::Ct && guest.run == Run::Stopped {
        return Err(failed(format!("CT {vmid} not running")));
    }
    let name = if kind == GuestKind::Ct { "vzstop" } else { "qmstop" };
    begin(asking, name, vmid, Aim::Stop)
}

/// Pause, or suspend to disk; the rights for the latter are asked in this order.
fn suspend(asking: &mut Asking, kind: GuestKind, vmid: Vmid) -> Answer {
    if kind == GuestKind::Ct {
        return Err(failed("checkpointing containers is not pretended"));
    }
    let to_disk = asking.flag("todisk")?;
    if asking.params.contains_key("statestorage") && !to_disk {
        let text = match asking.nine() {
            false => "missing property - 'statestorage' requires this property",
            true => "missing property required by 'statestorage'",
        };
        return Err(bad("todisk", text));
    }
    let guest = here(asking, kind, vmid)?.clone();
    if to_disk {
        asking.need(&format!("/vms/{vmid}"), "VM.Config.Disk")?;
        let own = guest.disks.first().map_or("local", |disk| disk.storage.as_str()).to_owned();
        let storage = asking.params.get("statestorage").cloned().unwrap_or(own);
        asking.need(&format!("/storage/{storage}"), "Datastore.AllocateSpace")?;
    }
    if guest.run == Run::Stopped {
        return Err(failed(format!("VM {vmid} not running")));
    }
    if !to_disk {
        return begin(asking, "qmpause", vmid, Aim::Pause);
    }
    if guest.ha.is_some() {
        return Err(failed("Cannot suspend HA managed VM to disk"));
    }
    if !guest.hostpci.is_empty() {
        return Err(failed("cannot suspend VM to disk due to passed-through PCI device(s)"));
    }
    asking.need_quorum()?;
    unlocked(&guest)?;
    begin(asking, "qmsuspend", vmid, Aim::Hibernate)
}

fn resume(asking: &mut Asking, kind: GuestKind, vmid: Vmid) -> Answer {
    let guest = here(asking, kind, vmid)?.clone();
    if guest.hibernated {
        return begin(asking, "qmresume", vmid, Aim::Start);
    }
    if guest.run == Run::Stopped {
        return Err(failed(format!("{} {vmid} not running", guest.kind_in_capitals())));
    }
    begin(asking, "qmresume", vmid, Aim::Resume)
}
