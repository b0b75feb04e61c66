//! `/cluster`, `/nodes` itself and `/access`: the asked host's own view, never forwarded.
//!
//! **Does not know:** what a single host or guest says of itself.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::node::task_entry;
use super::{Answer, Asking, Good, Refusal, bad, duty, failed};
use crate::cluster::{GuestKind, HostName};
use crate::pretend::guests::{Guest, HaWish};
use crate::pretend::power::Host;
use crate::pretend::task::{Caller, Task};
use crate::pretend::world::FIGURES_KEPT;

/// Entries a host broadcasts of its task list.
const TASKS_BROADCAST: usize = 25;
/// An agent without services keeps its watchdog for so long (`LRM.pm`: 60 idle rounds).
const HA_ARMED_SECONDS: i64 = 600;

pub(super) fn route(asking: &mut Asking, method: &str, rest: &[&str]) -> Answer {
    match (method, rest) {
        ("GET", ["status"]) => audited(asking, &[], status),
        ("GET", ["resources"]) => resources(asking),
        ("GET", ["tasks"]) => {
            asking.takes_only(&[], &[])?;
            Ok(tasks(asking).into())
        }
        ("GET", ["nextid"]) => {
            let taken: BTreeSet<u32> = asking.world.guests().map(|guest| guest.vmid.0).collect();
            let free = (100..).find(|vmid| !taken.contains(vmid)).unwrap_or(100);
            Ok(json!(free.to_string()).into())
        }
        ("GET", ["config"]) => {
            let names = ["nodes", "totem", "join", "qdevice", "apiversion"];
            Ok(json!(names.map(|name| json!({ "name": name }))).into())
        }
        ("GET", ["config", "nodes"]) => audited(asking, &[], config_nodes),
        ("GET", ["config", "totem"]) => audited(asking, &[], totem),
        ("GET", ["config", "qdevice"]) => audited(asking, &[], qdevice),
        ("GET", ["config", "join"]) => audited(asking, &["node"], join),
        ("GET", ["options"]) => Ok(options(asking).into()),
        ("GET", ["backup"]) => audited(asking, &[], |asking| asking.world.backup_jobs()),
        ("GET", ["replication"]) => {
            asking.takes_only(&[], &[])?;
            Ok(Value::Array(duty::replications(asking, false, |_| true)).into())
        }
        ("GET", ["ceph", "flags"]) => {
            asking.need("/", "Sys.Audit")?;
            asking.takes_only(&[], &[])?;
            duty::flags(asking)
        }
        ("GET", ["ha", "status", "current"]) => audited(asking, &[], ha_current),
        ("GET", ["ha", "status", "manager_status"]) => audited(asking, &[], manager_status),
        ("GET", ["ha", "resources"]) => audited(asking, &["type"], ha_resources),
        ("GET", ["ha", "resources", sid]) => ha_resource(asking, sid),
        ("GET", ["ha", "groups"]) if asking.nine() => {
            asking.need("/", "Sys.Audit")?;
            Err(failed("cannot index groups: ha groups have been migrated to rules"))
        }
        ("GET", ["ha", "groups"]) => audited(asking, &[], |_| json!([])),
        ("GET", ["ha", "rules"]) if asking.nine() => {
            audited(asking, &["type", "resource"], |_| json!([]))
        }
        ("POST", ["ha", "resources", sid, "migrate" | "relocate"]) => ha_migrate(asking, sid),
        _ => Err(Refusal::NotThere),
    }
}

/// A call that needs Sys.Audit on the very root.
fn audited(asking: &Asking, known: &[&str], give: impl FnOnce(&Asking) -> Value) -> Answer {
    asking.need("/", "Sys.Audit")?;
    asking.takes_only(known, &[])?;
    Ok(give(asking).into())
}

fn status(asking: &Asking) -> Value {
    let world = &asking.world;
    let hosts: Vec<&Host> = world.hosts().collect();
    let mut entries = vec![json!({
        "type": "cluster",
        "id": "cluster",
        "name": world.cluster(),
        "nodes": hosts.len(),
        "version": world.iron.config_version(&asking.at),
        "quorate": u8::from(world.quorate(&asking.at)),
    })];
    entries.extend(hosts.into_iter().map(|host| {
        let mut entry = json!({
            "type": "node",
            "id": format!("node/{}", host.node),
            "name": host.node,
            "nodeid": host.number,
            "local": u8::from(host.name == asking.at),
            "online": u8::from(world.sees(&asking.at, &host.name)),
            "level": "",
        });
        // Announced by the host itself and kept in memory only.
        if announced(asking, host) {
            entry["ip"] = json!(host.address);
        }
        entry
    }));
    Value::Array(entries)
}

/// The asked host has heard of `host` since its own last start.
fn announced(asking: &Asking, host: &Host) -> bool {
    let world = &asking.world;
    world.sees(&asking.at, &host.name)
        || host.reported_at.is_some_and(|at| at >= world.hosts[&asking.at].joined_at)
}

/// A broadcast figure the asked host still has.
fn fresh(asking: &Asking, at: Timestamp) -> bool {
    let world = &asking.world;
    let kept = FIGURES_KEPT.try_into().expect("minutes");
    at >= world.hosts[&asking.at].joined_at && world.now().duration_since(at) < kept
}

fn resources(asking: &Asking) -> Answer {
    asking.takes_only(&["type"], &[])?;
    let kind = asking.word("type", &["vm", "storage", "node", "sdn"])?;
    let wanted = |name: &str| kind.as_deref().is_none_or(|kind| kind == name);
    let mut entries = Vec::new();
    if wanted("vm") {
        let seen = asking.world.guests().filter(|guest| sees_guest(asking, guest));
        entries.extend(seen.map(|guest| guest_resource(asking, guest)));
    }
    if wanted("node") {
        entries.extend(asking.world.hosts().map(|host| {
            let mut entry = node_figures(asking, host);
            // From the host's own broadcast, which outlives its figures.
            let since = asking.world.hosts[&asking.at].joined_at;
            if host.reported_at.is_some_and(|at| at >= since) {
                entry.insert("cgroup-mode".into(), json!(2));
            }
            let word = match asking.world.in_maintenance.contains(&host.name) {
                true => "maintenance",
                false => "online",
            };
            entry.insert("hastate".into(), json!(word));
            Value::Object(entry)
        }));
    }
    if wanted("storage") {
        entries.extend(storage_resources(asking));
    }
    if wanted("sdn") {
        entries.extend(asking.world.hosts().filter_map(|host| zone_resource(asking, host)));
    }
    Ok(Value::Array(entries).into())
}

pub(super) fn sees_guest(asking: &Asking, guest: &Guest) -> bool {
    asking.may(&format!("/vms/{}", guest.vmid), "VM.Audit")
}

fn guest_resource(asking: &Asking, guest: &Guest) -> Value {
    let kind = match guest.kind {
        GuestKind::Vm => "qemu",
        GuestKind::Ct => "lxc",
    };
    let world = &asking.world;
    let mut entry = json!({
        "id": format!("{kind}/{}", guest.vmid),
        "type": kind,
        "vmid": guest.vmid.0,
        "node": world.hosts[&guest.host].node,
        "status": "unknown",
    });
    let figures = world.figures.get(&guest.vmid).filter(|figures| fresh(asking, figures.at));
    if let Some(figures) = figures {
        let runs = figures.status != "stopped";
        entry["status"] = json!(figures.status);
        entry["name"] = json!(guest.name);
        entry["template"] = json!(u8::from(guest.template));
        entry["uptime"] = json!(figures.uptime);
        entry["cpu"] = if runs { json!(0.0411015205357642) } else { json!(0) };
        entry["maxcpu"] = json!(guest.cores);
        let memory = guest.memory_mib << 20;
        entry["mem"] = json!(if runs { memory / 3 } else { 0 });
        entry["maxmem"] = json!(memory);
        entry["disk"] = json!(0);
        entry["maxdisk"] = json!(guest.disks.first().map_or(0, |disk| disk.gib << 30));
        for name in ["netin", "netout", "diskread", "diskwrite"] {
            entry[name] = json!(0);
        }
        if asking.nine() {
            entry["memhost"] = json!(if runs { memory / 3 } else { 0 });
        }
    }
    if let Some(lock) = &guest.lock {
        entry["lock"] = json!(lock);
    }
    if !guest.tags().is_empty() {
        entry["tags"] = json!(tags(guest));
    }
    if let Some(pool) = &guest.pool {
        entry["pool"] = json!(pool);
    }
    if let Some(ha) = &guest.ha {
        entry["hastate"] = json!(ha.state);
    }
    entry
}

pub(super) fn tags(guest: &Guest) -> String {
    guest.tags().iter().cloned().collect::<Vec<_>>().join(";")
}

/// What `/nodes` and `/cluster/resources` have in common.
fn node_figures(asking: &Asking, host: &Host) -> Map<String, Value> {
    let world = &asking.world;
    let member = world.sees(&asking.at, &host.name);
    let known = host.reported_at.filter(|at| fresh(asking, *at));
    let status = match (member, known) {
        (false, _) => "offline",
        (true, Some(_)) => "online",
        (true, None) => "unknown",
    };
    let mut entry = Map::new();
    entry.insert("id".into(), json!(format!("node/{}", host.node)));
    entry.insert("node".into(), json!(host.node));
    entry.insert("type".into(), json!("node"));
    entry.insert("status".into(), json!(status));
    if known.is_none() {
        return entry;
    }
    entry.insert("level".into(), json!(""));
    if !asking.may(&format!("/nodes/{}", host.node), "Sys.Audit") {
        return entry;
    }
    entry.insert("maxcpu".into(), json!(host.cores));
    entry.insert("maxmem".into(), json!(host.memory_bytes));
    entry.insert("maxdisk".into(), json!(270_553_174_016_u64));
    if member {
        entry.insert("disk".into(), json!(20_683_005_952_u64));
        entry.insert("cpu".into(), json!(0.0671471172962227));
        entry.insert("mem".into(), json!(world.memory_used(&host.name)));
        entry.insert("uptime".into(), json!(host.reported_uptime));
    }
    entry
}

pub(super) fn nodes(asking: &Asking) -> Value {
    let entry = |host: &Host| {
        let mut entry = node_figures(asking, host);
        entry.insert("ssl_fingerprint".into(), json!(host.fingerprint));
        Value::Object(entry)
    };
    asking.world.hosts().map(entry).collect()
}

fn storage_resources(asking: &Asking) -> Vec<Value> {
    let world = &asking.world;
    let mut entries = Vec::new();
    for storage in world.storages.values() {
        let file = &storage.file;
        if file.disabled || !asking.may(&format!("/storage/{}", file.name), "Datastore.Audit") {
            continue;
        }
        let there =
            |host: &&Host| file.hosts.as_ref().is_none_or(|hosts| hosts.contains(&host.name));
        for host in world.hosts().filter(there) {
            let known = host.reported_at.is_some_and(|at| fresh(asking, at));
            let available = known && (storage.active || !world.sees(&asking.at, &host.name));
            let mut entry = json!({
                "id": format!("storage/{}/{}", host.node, file.name),
                "storage": file.name,
                "node": host.node,
                "type": "storage",
                "plugintype": file.kind,
                "status": if available { "available" } else { "unknown" },
                "shared": u8::from(file.shared),
                "content": file.content,
            });
            if available {
                entry["disk"] = json!(20_683_010_048_u64);
                entry["maxdisk"] = json!(270_553_174_016_u64);
            }
            entries.push(entry);
        }
    }
    entries
}

/// The zone every host has, whether it is there or not.
fn zone_resource(asking: &Asking, host: &Host) -> Option<Value> {
    let seen = asking.may("/sdn/zones/localnetwork", "SDN.Audit");
    if !seen {
        return None;
    }
    let node = &host.node;
    if asking.nine() {
        return Some(json!({
            "id": format!("network/{node}/zone/localnetwork"), "type": "network", "node": node,
            "network": "localnetwork", "network-type": "zone", "status": "ok",
        }));
    }
    Some(json!({
        "id": format!("sdn/{node}/localnetwork"), "type": "sdn", "node": node,
        "sdn": "localnetwork", "status": "ok",
    }))
}

/// Every host's broadcast list; that of a host which went off stays as it was.
fn tasks(asking: &Asking) -> Value {
    let world = &asking.world;
    let root = asking.may("/", "Sys.Audit");
    let me = asking.token.caller();
    let mut entries = Vec::new();
    for host in world.hosts().filter(|host| announced(asking, host)) {
        let of_host = || world.tasks.values().filter(|task| task.host == host.name).rev();
        let running: Vec<&Task> = of_host().filter(|task| task.running()).collect();
        let ended = of_host().filter(|task| !task.running());
        let few = TASKS_BROADCAST.saturating_sub(running.len());
        let listed = running.iter().copied().chain(ended.take(few));
        let mine = listed.filter(|task| root || task.caller == me);
        entries.extend(mine.map(|task| cluster_task(world.hosts[&task.host].node.as_str(), task)));
    }
    Value::Array(entries)
}

fn cluster_task(node: &str, task: &Task) -> Value {
    let mut entry = task_entry(node, task);
    if task.running() {
        entry["saved"] = json!("0");
    } else {
        entry["saved"] = json!("1");
        if let Some(fields) = entry.as_object_mut() {
            fields.remove("pid");
        }
    }
    if let Some(fields) = entry.as_object_mut() {
        fields.remove("pstart");
        if task.running() {
            fields.remove("status");
        }
    }
    entry
}

fn config_nodes(asking: &Asking) -> Value {
    let entry = |host: &Host| {
        json!({
            "node": host.node,
            "name": host.node,
            "nodeid": host.number.to_string(),
            "quorum_votes": host.votes.to_string(),
            "ring0_addr": host.address,
        })
    };
    asking.world.hosts().map(entry).collect()
}

fn totem(asking: &Asking) -> Value {
    json!({
        "cluster_name": asking.world.cluster(),
        "config_version": asking.world.iron.config_version(&asking.at).to_string(),
        "interface": { "0": { "linknumber": "0" } },
        "ip_version": "ipv4-6",
        "link_mode": "passive",
        "secauth": "on",
        "version": "2",
    })
}

/// The asked host's own qdevice daemon: `{}` when it does not run, just as when there is none.
fn qdevice(asking: &Asking) -> Value {
    let world = &asking.world;
    let view = world.view(&asking.at);
    let Some((device, view)) = world.device.as_ref().zip(view) else {
        return json!({});
    };
    if !view.flags.contains(&"Qdevice") {
        return json!({});
    }
    let connected = view.device.is_some_and(|(cast, _)| cast > 0);
    let ffsplit = device.algorithm == crate::pretend::file::DeviceKind::Ffsplit;
    let last = world.now().strftime("%Y-%m-%dT%H:%M:%S");
    let mut entry = json!({
        "Model": "Net",
        "QNetd host": format!("{}:5403", device.server),
        "State": if connected { "Connected" } else { "Connect failed" },
        "Algorithm": if ffsplit { "Fifty-Fifty split" } else { "LMS" },
        "Tie-breaker": "Node with lowest node ID",
    });
    let vote = if connected { " (cast vote)" } else { "" };
    entry["Last poll call"] = json!(format!("{last}{vote}"));
    entry
}

fn join(asking: &Asking) -> Value {
    let entry = |host: &Host| {
        json!({
            "name": host.node,
            "nodeid": host.number.to_string(),
            "quorum_votes": host.votes.to_string(),
            "ring0_addr": host.address,
            "pve_addr": host.address,
            "pve_fp": host.fingerprint,
        })
    };
    json!({
        "nodelist": asking.world.hosts().map(entry).collect::<Value>(),
        "preferred_node": asking.world.hosts[&asking.at].node,
        "totem": totem(asking),
        "config_digest": asking.world.digest("corosync.conf"),
    })
}

fn options(asking: &Asking) -> Value {
    let mut all: BTreeSet<String> = BTreeSet::new();
    for guest in asking.world.guests().filter(|guest| sees_guest(asking, guest)) {
        all.extend(guest.tags().iter().cloned());
    }
    if asking.may("/", "Sys.Audit") {
        let mut all = json!({
            "allowed-tags": all, "description": "", "mac_prefix": "BC:24:11",
        });
        if let Some(policy) = &asking.world.shutdown_policy {
            all["ha"] = json!({ "shutdown_policy": policy });
        }
        all
    } else {
        json!({ "allowed-tags": all })
    }
}

/// `Mon Nov 23 04:35:33 2026`, as the HA manager writes it.
fn ha_date(at: Timestamp) -> String {
    at.strftime("%a %b %e %H:%M:%S %Y").to_string()
}

fn ha_services(asking: &Asking) -> Vec<Guest> {
    asking.world.guests().filter(|guest| guest.ha.is_some()).cloned().collect()
}

fn sid(guest: &Guest) -> String {
    format!("{}:{}", guest.kind, guest.vmid)
}

fn master(asking: &Asking) -> Option<HostName> {
    let quorate = |host: &&Host| asking.world.quorate(&host.name);
    asking.world.hosts().find(quorate).map(|host| host.name.clone())
}

fn ha_current(asking: &Asking) -> Value {
    let world = &asking.world;
    let here = &world.hosts[&asking.at].node;
    let quorate = world.quorate(&asking.at);
    let quorum = match quorate {
        true => "OK".to_owned(),
        false => format!("No quorum on node '{here}'!"),
    };
    let mut entries = vec![json!({
        "id": "quorum", "type": "quorum", "node": here,
        "quorate": u8::from(quorate), "status": quorum,
    })];
    let services = ha_services(asking);
    let (second, date) = (world.now().as_second(), ha_date(world.now()));
    if let Some(master) = master(asking) {
        let node = &world.hosts[&master].node;
        entries.push(json!({
            "id": "master", "type": "master", "node": node, "timestamp": second,
            "status": format!("{node} (active, {date})"),
        }));
    }
    if asking.nine() {
        entries.push(json!({
            "id": "fencing", "type": "fencing", "node": here, "armed-state": "armed",
            "status": "armed (CRM watchdog active)",
        }));
    }
    for host in world.hosts() {
        let (node, busy) = (&host.node, services.iter().any(|guest| guest.host == host.name));
        let mode = match (world.sees(&asking.at, &host.name), busy) {
            (false, _) => "old timestamp - dead?",
            (true, true) => "active",
            (true, false) => "idle",
        };
        let watchdog = match (asking.nine(), busy) {
            (false, _) => "",
            (true, true) => ", watchdog active",
            (true, false) => ", watchdog standby",
        };
        entries.push(json!({
            "id": format!("lrm:{node}"), "type": "lrm", "node": node, "timestamp": second,
            "status": format!("{node} ({mode}{watchdog}, {date})"),
        }));
    }
    entries.extend(services.iter().map(|guest| {
        let (sid, node) = (sid(guest), &world.hosts[&guest.host].node);
        let ha = guest.ha.as_ref().expect("filtered");
        json!({
            "id": format!("service:{sid}"), "type": "service", "sid": sid, "node": node,
            "state": ha.state, "crm_state": ha.state, "request_state": ha.requested,
            "status": format!("{sid} ({node}, {})", ha.state),
        })
    }));
    Value::Array(entries)
}

/// The agent cares for services that should run.
fn guest_is_served(guest: &Guest) -> bool {
    guest.ha.as_ref().is_some_and(|ha| ha.requested == "started")
}

fn manager_status(asking: &Asking) -> Value {
    let world = &asking.world;
    let quorate = if world.quorate(&asking.at) { "1" } else { "" };
    let services = ha_services(asking);
    let mut lrm = Map::new();
    let mut nodes = Map::new();
    for host in world.hosts() {
        let busy = services.iter().any(|guest| guest.host == host.name && guest_is_served(guest));
        // Armed for ten minutes after the last service has left.
        let lately = host.ha_busy_at.is_some_and(|at| {
            host.phase.in_cluster() && world.now().duration_since(at).as_secs() < HA_ARMED_SECONDS
        });
        let state = if busy || lately { "active" } else { "wait_for_agent_lock" };
        lrm.insert(
            host.node.clone(),
            json!({
                "mode": "active", "results": {}, "state": state,
                "timestamp": world.now().as_second(),
            }),
        );
        let seen = world.sees(&asking.at, &host.name);
        let word = match (seen, world.in_maintenance.contains(&host.name)) {
            (false, _) => "unknown",
            (true, true) => "maintenance",
            (true, false) => "online",
        };
        nodes.insert(host.node.clone(), json!(word));
    }
    let service = |guest: &Guest| {
        let ha = guest.ha.as_ref().expect("filtered");
        let node = &world.hosts[&guest.host].node;
        (sid(guest), json!({ "node": node, "state": ha.state, "uid": world.digest(&sid(guest)) }))
    };
    let service_status: Map<String, Value> = services.iter().map(service).collect();
    let mut manager = json!({
        "node_status": nodes,
        "service_status": service_status,
        "timestamp": world.now().as_second(),
    });
    if let Some(master) = master(asking) {
        manager["master_node"] = json!(world.hosts[&master].node);
    }
    json!({
        "lrm_status": lrm,
        "manager_status": manager,
        "quorum": { "node": world.hosts[&asking.at].node, "quorate": quorate },
    })
}

fn ha_entry(asking: &Asking, guest: &Guest) -> Value {
    let ha = guest.ha.as_ref().expect("filtered");
    json!({
        "sid": sid(guest),
        "type": guest.kind.to_string(),
        "state": ha.requested,
        "digest": asking.world.digest("resources.cfg"),
    })
}

fn ha_resources(asking: &Asking) -> Value {
    ha_services(asking).iter().map(|guest| ha_entry(asking, guest)).collect()
}

fn ha_resource(asking: &Asking, wanted: &str) -> Answer {
    asking.need("/", "Sys.Audit")?;
    let services = ha_services(asking);
    let Some(guest) = services.iter().find(|guest| sid(guest) == wanted) else {
        return Err(failed(format!("no such resource '{wanted}'")));
    };
    Ok(ha_entry(asking, guest).into())
}

fn ha_migrate(asking: &mut Asking, wanted: &str) -> Answer {
    asking.need("/", "Sys.Console")?;
    asking.takes_only(&["node"], &["node"])?;
    let services = ha_services(asking);
    let Some(guest) = services.iter().find(|guest| sid(guest) == wanted) else {
        return Err(failed(format!("resource '{wanted}' is not HA managed")));
    };
    let node = asking.params["node"].clone();
    let Some(target) = asking.world.by_node(&node).map(|host| host.name.clone()) else {
        return Err(bad("node", format!("no such cluster node '{node}'")));
    };
    asking.need_quorum()?;
    asking.world.ha_wish(guest.vmid, HaWish::Migrate(target));
    let data =
        if asking.nine() { json!({ "sid": wanted, "requested-node": node }) } else { Value::Null };
    Ok(Good::from(data))
}

/// Rights of the asking token itself; anybody may ask that.
pub(super) fn permissions(asking: &Asking) -> Answer {
    asking.takes_only(&["path", "userid"], &[])?;
    let major = asking.world.hosts[&asking.at].major();
    let as_numbers = |rights: std::collections::BTreeMap<String, bool>| -> Value {
        rights.into_iter().map(|(name, deeper)| (name, json!(u8::from(deeper)))).collect()
    };
    let data: Map<String, Value> = match asking.params.get("path") {
        Some(path) => {
            let rights = asking.world.rights_on(&asking.token, path, major);
            Map::from_iter([(path.clone(), as_numbers(rights))])
        }
        None => asking
            .world
            .all_rights(&asking.token, major)
            .into_iter()
            .map(|(path, rights)| (path, as_numbers(rights)))
            .collect(),
    };
    Ok(Value::Object(data).into())
}

/// Who a task of `caller` belongs to, for lists that show only one's own.
pub(super) fn is_own(asking: &Asking, caller: &Caller) -> bool {
    asking.token.caller() == *caller
}
