//! The text of `GET /nodes/{n}/report`: the only place where PVE shows the votes as counted now.
//!
//! Sections and lines stand where a real report has them, column for column where a reader parses
//! them: `qm list`, `pct list`, the addresses, `pvecm nodes`, `pvecm status`, corosync.conf. What
//! no reader needs is left out inside its section.
//!
//! **Does not know:** who may read it.

use std::fmt::Write;

use crate::cluster::{GuestKind, HostName};
use crate::pretend::file::DeviceKind;
use crate::pretend::guests::{Guest, Run};
use crate::pretend::iron::{Member, View};
use crate::pretend::world::World;

pub(super) fn text(world: &World, at: &HostName) -> String {
    let mut out = String::new();
    let host = &world.hosts[at];
    let nine = host.major() >= 9;
    let _ = writeln!(out, "==== general system info ====\n");
    command(&mut out, "hostname", &host.node);
    command(&mut out, "date -R", &world.now().strftime("%a, %d %b %Y %H:%M:%S +0000").to_string());
    command(&mut out, "pveversion --verbose", &format!("pve-manager: {}", host.version));
    command(&mut out, "cat /etc/hosts", &format!("{} {}", host.address, host.node));
    let _ = writeln!(out, "==== overall system load info ====\n");
    command(&mut out, "head /proc/pressure/*", "");
    let _ = writeln!(out, "==== info about storage ====\n");
    command(&mut out, "cat /etc/pve/storage.cfg", &storage_cfg(world));
    command(&mut out, "pvesm status", &pvesm_status(world, at));
    let _ = writeln!(out, "==== info about virtual guests ====\n");
    command(&mut out, "qm list", &qm_list(world, at));
    command(&mut out, "output '/etc/pve/qemu-server/\\d+\\.conf' file(s)", "");
    for guest in here(world, at, GuestKind::Vm) {
        command(&mut out, &format!("cat /etc/pve/qemu-server/{}.conf", guest.vmid), &config(guest));
    }
    command(&mut out, "pct list", &pct_list(world, at));
    command(&mut out, "output '/etc/pve/lxc/\\d+\\.conf' file(s)", "");
    for guest in here(world, at, GuestKind::Ct) {
        command(&mut out, &format!("cat /etc/pve/lxc/{}.conf", guest.vmid), &config(guest));
    }
    let _ = writeln!(out, "==== info about network ====\n");
    command(&mut out, "ip -details -statistics address", &addresses(world, at));
    let _ = writeln!(out, "==== info about firewall ====\n");
    command(&mut out, "cat /etc/pve/local/host.fw", "");
    let _ = writeln!(out, "==== info about cluster ====\n");
    cluster(&mut out, world, at);
    let _ = writeln!(out, "==== info about jobs ====\n");
    command(&mut out, "cat /etc/pve/jobs.cfg", "");
    if nine {
        let _ = writeln!(out, "==== info about replication ====\n");
        command(&mut out, "cat /etc/pve/replication.cfg", "");
    }
    let _ = writeln!(out, "==== info about hardware ====\n");
    command(&mut out, "dmidecode -t bios", "");
    let _ = writeln!(out, "==== info about block devices ====\n");
    let _ = writeln!(out, "==== info about volumes ====\n");
    command(&mut out, "pvs", "");
    command(&mut out, "lvs", "");
    out += "# vgs";
    out
}

fn command(out: &mut String, command: &str, output: &str) {
    let _ = writeln!(out, "# {command}");
    if !output.is_empty() {
        let _ = writeln!(out, "{}", output.trim_end_matches('\n'));
    }
    out.push('\n');
}

fn here<'a>(
    world: &'a World,
    at: &'a HostName,
    kind: GuestKind,
) -> impl Iterator<Item = &'a Guest> + 'a {
    world.guests().filter(move |guest| guest.host == *at && guest.kind == kind)
}

fn qm_list(world: &World, at: &HostName) -> String {
    let mut guests = here(world, at, GuestKind::Vm).peekable();
    if guests.peek().is_none() {
        return String::new();
    }
    let row = |columns: [&str; 6]| {
        let [vmid, name, status, memory, disk, pid] = columns;
        format!("{vmid:>10} {name:<20} {status:<10} {memory:<10} {disk:>12} {pid:<10}\n")
    };
    let mut out = row(["VMID", "NAME", "STATUS", "MEM(MB)", "BOOTDISK(GB)", "PID"]);
    for guest in guests {
        let disk = guest.disks.first().map_or(0, |disk| disk.gib);
        let pid = if guest.run == Run::Stopped { 0 } else { guest.pid };
        out += &row([
            &guest.vmid.to_string(),
            &guest.name,
            // The list asks every VM for its state: a paused one says so here.
            guest.run.word(),
            &guest.memory_mib.to_string(),
            &format!("{disk}.00"),
            &pid.to_string(),
        ]);
    }
    out
}

fn pct_list(world: &World, at: &HostName) -> String {
    let mut guests = here(world, at, GuestKind::Ct).peekable();
    if guests.peek().is_none() {
        return String::new();
    }
    let row = |vmid: &str, status: &str, lock: &str, name: &str| {
        format!("{vmid:<10} {status:<10} {lock:<12} {name:<20}\n")
    };
    let mut out = row("VMID", "Status", "Lock", "Name");
    for guest in guests {
        let lock = guest.lock.as_deref().unwrap_or_default();
        out += &row(&guest.vmid.to_string(), guest.run.live_word(), lock, &guest.name);
    }
    out
}

fn config(guest: &Guest) -> String {
    let text = |value: &serde_json::Value| match value {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    super::guest::config_keys(guest)
        .iter()
        .map(|(key, value)| format!("{key}: {}\n", text(value)))
        .collect()
}

fn storage_cfg(world: &World) -> String {
    let entry = |storage: &crate::pretend::world::Storage| {
        let file = &storage.file;
        let shared = if file.shared { "\tshared 1\n" } else { "" };
        let host = file.served_by.as_ref().map(|host| &world.hosts[host].address);
        let server = host.map(|address| format!("\tserver {address}\n")).unwrap_or_default();
        format!("{}: {}\n\tcontent {}\n{server}{shared}\n", file.kind, file.name, file.content)
    };
    world.storages.values().map(entry).collect()
}

fn pvesm_status(world: &World, at: &HostName) -> String {
    let mut out = "Name             Type     Status           Total            Used       \
                   Available        %\n"
        .to_owned();
    for storage in world.storages.values() {
        let state = if world.storage_active(storage, at) { "active" } else { "inactive" };
        let (name, kind) = (&storage.file.name, &storage.file.kind);
        let _ = writeln!(out, "{name:<12} {kind:>8} {state:>10} 264212084 20198283 75087604 7.64%");
    }
    out
}

fn addresses(world: &World, at: &HostName) -> String {
    let host = &world.hosts[at];
    let mac = host.mac.map(|mac| mac.to_string()).unwrap_or_else(|| "00:00:00:00:00:00".into());
    format!(
        "1: lo: <LOOPBACK,UP,LOWER_UP> mtu 65536 qdisc noqueue state UNKNOWN group default\n    \
         link/loopback 00:00:00:00:00:00 brd 00:00:00:00:00:00 promiscuity 0\n    \
         inet 127.0.0.1/8 scope host lo\n       valid_lft forever preferred_lft forever\n\
         2: vmbr0: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1500 qdisc noqueue state UP \
         group default\n    \
         link/ether {mac} brd ff:ff:ff:ff:ff:ff promiscuity 0\n    \
         inet {}/24 scope global vmbr0\n       valid_lft forever preferred_lft forever\n",
        host.address
    )
}

fn cluster(out: &mut String, world: &World, at: &HostName) {
    let Some(view) = world.view(at) else {
        // Corosync does not run: pvecm says so and nothing else.
        let error = "Error: Corosync is not running";
        command(out, "pvecm nodes", error);
        command(out, "pvecm status", error);
        return command(out, "cat /etc/pve/corosync.conf 2>/dev/null", &corosync_conf(world, at));
    };
    let local = |member: &Member| if member.host == *at { " (local)" } else { "" };
    let node = |member: &Member| world.hosts[&member.host].node.clone() + local(member);
    let address = |member: &Member| world.hosts[&member.host].address.clone() + local(member);
    let plain = |number: u32| format!("{number:>10}");
    let hexadecimal = |number: u32| format!("0x{number:08x}");
    let nodes = world
        .iron
        .tool_text(at, "-l")
        .unwrap_or_else(|| format!("\n{}", membership(&view, plain, node)));
    command(out, "pvecm nodes", &nodes);
    let tool = world.iron.tool_text(at, "-siH").unwrap_or_else(|| {
        quorum_information(world, at, &view)
            + &votequorum_information(&view)
            + &membership(&view, hexadecimal, address)
    });
    let status = cluster_information(world, at) + tool.trim_start();
    command(out, "pvecm status", &status);
    command(out, "cat /etc/pve/corosync.conf 2>/dev/null", &corosync_conf(world, at));
    let quorum = if view.quorate {
        "quorum OK".into()
    } else {
        format!("quorum No quorum on node '{}'!", world.hosts[at].node)
    };
    command(out, "ha-manager status", &quorum);
    command(out, "cat /etc/pve/datacenter.cfg", "");
}

fn cluster_information(world: &World, at: &HostName) -> String {
    format!(
        "Cluster information\n-------------------\nName:             {}\nConfig Version:   {}\n\
         Transport:        knet\nSecure auth:      on\n\n",
        world.cluster(),
        world.iron.config_version(at)
    )
}

fn quorum_information(world: &World, at: &HostName, view: &View) -> String {
    format!(
        "Quorum information\n------------------\nDate:             {}\n\
         Quorum provider:  corosync_votequorum\nNodes:            {}\n\
         Node ID:          0x{:08x}\nRing ID:          {}\nQuorate:          {}\n\n",
        world.now().strftime("%a %b %e %H:%M:%S %Y"),
        view.members.len(),
        world.hosts[at].number,
        view.ring,
        if view.quorate { "Yes" } else { "No" }
    )
}

fn votequorum_information(view: &View) -> String {
    let flags: String = view.flags.iter().map(|flag| format!("{flag} ")).collect();
    // Blanks at the ends as corosync-quorumtool leaves them.
    let blocked = if view.quorate { " " } else { "Activity blocked" };
    format!(
        "Votequorum information\n----------------------\nExpected votes:   {}\n\
         Highest expected: {}\nTotal votes:      {}\nQuorum:           {} {blocked}\n\
         Flags:            {flags}\n\n",
        view.expected, view.highest, view.total, view.quorum
    )
}

fn membership(
    view: &View,
    number: impl Fn(u32) -> String,
    name: impl Fn(&Member) -> String,
) -> String {
    let mut out = "Membership information\n----------------------\n".to_owned();
    let column = view.device.is_some();
    out += if column {
        "    Nodeid      Votes    Qdevice Name\n"
    } else {
        "    Nodeid      Votes Name\n"
    };
    for member in &view.members {
        let id = number(member.number);
        let votes = member.votes;
        let name = name(member);
        match member.device.filter(|_| column) {
            Some(device) => {
                let _ = writeln!(out, "{id} {votes:>10} {device:>10} {name}");
            }
            None => {
                let _ = writeln!(out, "{id} {votes:>10} {name}");
            }
        }
    }
    if let Some((cast, configured)) = view.device {
        let note = configured.map(|votes| format!(" (votes {votes})")).unwrap_or_default();
        let _ = writeln!(out, "{} {cast:>10} {:>10} Qdevice{note}", number(0), "");
    }
    out
}

fn corosync_conf(world: &World, at: &HostName) -> String {
    if let Some(text) = world.iron.conf_text(at) {
        return text;
    }
    let mut out = "logging {\n  debug: off\n  to_syslog: yes\n}\n\nnodelist {\n".to_owned();
    for host in world.hosts() {
        let _ = write!(
            out,
            "  node {{\n    name: {}\n    nodeid: {}\n    quorum_votes: {}\n    \
             ring0_addr: {}\n  }}\n",
            host.node, host.number, host.votes, host.address
        );
    }
    out += "}\n\nquorum {\n";
    if let Some(device) = &world.device {
        let algorithm = match device.algorithm {
            DeviceKind::Ffsplit => "ffsplit",
            DeviceKind::Lms => "lms",
        };
        let _ = write!(
            out,
            "  device {{\n    model: net\n    net {{\n      algorithm: {algorithm}\n      \
             host: {}\n      tls: on\n    }}\n",
            device.server
        );
        if let Some(votes) = device.votes {
            let _ = writeln!(out, "    votes: {votes}");
        }
        out += "  }\n";
    }
    out += "  provider: corosync_votequorum\n";
    if world.wait_for_all {
        out += "  wait_for_all: 1\n";
    }
    let _ = write!(
        out,
        "}}\n\ntotem {{\n  cluster_name: {}\n  config_version: {}\n  \
         interface {{\n    linknumber: 0\n  }}\n  ip_version: ipv4-6\n  \
         link_mode: passive\n  secauth: on\n  version: 2\n}}\n",
        world.cluster(),
        world.iron.config_version(at)
    );
    out
}
