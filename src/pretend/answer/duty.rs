//! What hosts do for each other: storages as configured, replication, Ceph.
//!
//! Ceph and replication were not recorded: their answers follow PVE's source (`pve-manager`,
//! `pve-guest-common`), and say what a host without them says.
//!
//! **Does not know:** which host may be spared.

use serde_json::{Map, Value, json};

use super::{Answer, Asking, failed};
use crate::cluster::GuestKind;
use crate::pretend::guests::Guest;

/// `GET /storage`: those that the token may look at.
pub(super) fn storages(asking: &Asking) -> Answer {
    asking.takes_only(&["type"], &[])?;
    let world = &asking.world;
    let seen = world.storages.values().map(|storage| &storage.file).filter(|file| {
        let path = format!("/storage/{}", file.name);
        asking.may(&path, "Datastore.Audit") || asking.may(&path, "Datastore.AllocateSpace")
    });
    let entry = |file: &crate::pretend::file::StorageFile| {
        let mut entry = json!({
            "storage": file.name, "type": file.kind, "content": file.content,
            "digest": world.digest("storage.cfg"), "shared": u8::from(file.shared),
        });
        if file.disabled {
            entry["disable"] = json!(1);
        }
        if let Some(hosts) = &file.hosts {
            let nodes = hosts.iter().map(|host| world.hosts[host].node.as_str());
            entry["nodes"] = json!(nodes.collect::<Vec<_>>().join(","));
        }
        entry
    };
    Ok(seen.map(entry).collect::<Value>().into())
}

/// Every job of the guests that `holds` lets through: one for each host a guest is replicated to.
pub(super) fn replications(
    asking: &Asking,
    live: bool,
    holds: impl Fn(&Guest) -> bool,
) -> Vec<Value> {
    let world = &asking.world;
    let seen =
        |guest: &&Guest| asking.may(&format!("/vms/{}", guest.vmid), "VM.Audit") && holds(guest);
    let mut jobs = Vec::new();
    for guest in world.guests().filter(seen) {
        let running = world.replicating.get(&guest.vmid);
        let also = running.filter(|to| !guest.replicated_to.contains(*to));
        for (number, target) in guest.replicated_to.iter().chain(also).enumerate() {
            let (vmid, target_node) = (guest.vmid, &world.hosts[target].node);
            let mut job = json!({
                "id": format!("{vmid}-{number}"), "guest": vmid.0, "jobnum": number,
                "type": "local", "target": target_node, "source": world.hosts[&guest.host].node,
                "schedule": "*/15",
            });
            if live {
                let synced = guest.replicated_to.contains(target);
                job["vmtype"] = json!(if guest.kind == GuestKind::Vm { "qemu" } else { "lxc" });
                job["last_sync"] = json!(if synced { world.now().as_second() - 300 } else { 0 });
                job["last_try"] = json!(world.now().as_second() - 300);
                job["fail_count"] = json!(0);
                job["duration"] = json!(2.5);
                if running == Some(target) {
                    job["pid"] = json!(4_000 + vmid.0);
                }
            }
            jobs.push(job);
        }
    }
    jobs
}

/// A host without Ceph has no binary of it.
fn with_ceph(asking: &Asking) -> Result<(), super::Refusal> {
    let anybody = asking.world.hosts.values().any(|host| !host.ceph.is_empty());
    match anybody {
        true => Ok(()),
        false => Err(failed("binary not installed: /usr/bin/ceph-mon")),
    }
}

/// `GET /nodes/{n}/ceph/mon`: every monitor of the cluster.
pub(super) fn monitors(asking: &Asking) -> Answer {
    with_ceph(asking)?;
    let hosts = asking.world.hosts.values();
    let with = hosts.filter(|host| host.ceph.iter().any(|daemon| daemon == "mon"));
    let entry = |host: &crate::pretend::power::Host| {
        json!({
            "name": host.node, "host": host.node, "addr": format!("{}:6789/0", host.address),
            "quorum": u8::from(host.phase.in_cluster()), "rank": host.number - 1,
        })
    };
    Ok(with.map(entry).collect::<Value>().into())
}

/// `GET /nodes/{n}/ceph/osd`: the tree of disks.
pub(super) fn disks(asking: &Asking) -> Answer {
    with_ceph(asking)?;
    let host = |host: &crate::pretend::power::Host| {
        let disks = host.ceph.iter().filter(|daemon| *daemon != "mon");
        let disk = |id: &String| json!({ "id": id, "name": format!("osd.{id}"), "type": "osd" });
        json!({
            "id": format!("-{}", host.number + 1), "name": host.node, "type": "host",
            "children": disks.map(disk).collect::<Value>(),
        })
    };
    let hosts: Value = asking.world.hosts.values().map(host).collect();
    let root = json!({ "id": "-1", "name": "default", "type": "root", "children": hosts });
    let flags = if asking.world.noout { "noout" } else { "" };
    Ok(json!({ "flags": flags, "root": { "leaf": 0, "children": [root] } }).into())
}

/// `GET /cluster/ceph/flags`.
pub(super) fn flags(asking: &Asking) -> Answer {
    with_ceph(asking)?;
    let names = ["nobackfill", "nodown", "noin", "noout", "norebalance", "norecover", "noscrub"];
    let flag = |name: &str| {
        let set = name == "noout" && asking.world.noout;
        json!({ "name": name, "value": u8::from(set), "description": format!("{name} is set.") })
    };
    Ok(names.into_iter().map(flag).collect::<Value>().into())
}

/// `GET /nodes/{n}/ceph/cmd-safety`: a heuristic of Ceph's own.
pub(super) fn safety(asking: &Asking) -> Answer {
    with_ceph(asking)?;
    let service = asking.params.get("service").cloned().unwrap_or_default();
    let id = asking.params.get("id").cloned().unwrap_or_default();
    let mut data = Map::new();
    data.insert("safe".into(), json!(u8::from(!asking.world.ceph_needed)));
    if asking.world.ceph_needed {
        let text = format!("stopping {service}.{id} would leave too few copies of some data");
        data.insert("status".into(), json!(text));
    }
    Ok(Value::Object(data).into())
}
