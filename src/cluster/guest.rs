//! Words for guests: a VM or container, what is seen of it, and what its configuration says.
//!
//! **Does not know:** where a guest ought to run.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Cpu, HostName};

/// A guest's number, unique in the cluster over VMs and containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Vmid(pub u32);

impl fmt::Display for Vmid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GuestKind {
    Vm,
    Ct,
}

impl GuestKind {
    /// The command that takes a stale lock away; PVE knows a guest only on its own host.
    pub fn unlock(self, guest: Vmid, host: &HostName) -> String {
        match self {
            GuestKind::Vm => format!("`qm unlock {guest}` on {host}"),
            GuestKind::Ct => format!("`pct unlock {guest}` on {host}"),
        }
    }
}

impl fmt::Display for GuestKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            GuestKind::Vm => "vm",
            GuestKind::Ct => "ct",
        })
    }
}

/// Whether a guest uses its host.
///
/// PVE reports any QMP run state for a VM (`paused`, `prelaunch`, `io-error`, …): whatever is not
/// `stopped` uses the host. `unknown` is PVE's word for "no report for 5 minutes".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunState {
    Running,
    Stopped,
    Unknown,
    /// Any other word of PVE; it runs, in some state.
    Other(String),
}

impl RunState {
    pub fn parse(word: &str) -> RunState {
        match word {
            "running" => RunState::Running,
            "stopped" => RunState::Stopped,
            "unknown" | "" => RunState::Unknown,
            other => RunState::Other(other.to_owned()),
        }
    }

    /// PVE's own word for it.
    pub fn word(&self) -> &str {
        match self {
            RunState::Running => "running",
            RunState::Stopped => "stopped",
            RunState::Unknown => "in an unknown state",
            RunState::Other(word) => word,
        }
    }

    /// Uses its host, as far as anyone can tell: anything but a plain `stopped`.
    pub fn may_run(&self) -> bool {
        match self {
            RunState::Stopped => false,
            RunState::Running | RunState::Unknown | RunState::Other(_) => true,
        }
    }
}

impl fmt::Display for RunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// One guest in `/cluster/resources`.
///
/// `host`, `lock` and `tags` are exact; `status` and every figure are up to 10 s late, and up to 5
/// minutes wrong after a host died.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestSeen {
    pub kind: GuestKind,
    pub host: HostName,
    /// PVE forgets it 5 minutes after a host went off.
    pub name: Option<String>,
    pub status: RunState,
    pub template: bool,
    pub tags: BTreeSet<String>,
    pub pool: Option<String>,
    /// `backup`, `migrate`, `suspended`, …
    pub lock: Option<String>,
    /// Configured memory.
    pub memory_bytes: Option<u64>,
    pub cpu: Option<Cpu>,
    /// State in the HA manager, where HA manages it.
    pub ha: Option<String>,
    pub uptime_seconds: Option<u64>,
}

/// One guest in its host's own live list (`/nodes/{n}/qemu`, `/nodes/{n}/lxc`): exact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveGuest {
    pub kind: GuestKind,
    pub status: RunState,
    pub lock: Option<String>,
    pub template: bool,
}

/// What a volume that lies on its host is to its guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumeKind {
    Disk,
    /// Made anew from the configuration by PVE; small, and never replicated.
    CloudInit,
    /// Detached, and still the guest's.
    Unused,
    /// In the drive; PVE moves no local image.
    Iso,
    /// A directory or device of the host, mounted into a container.
    Mount,
}

/// A volume of a guest on a storage that is not shared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalVolume {
    /// `local-lvm:vm-100-disk-0`; for a mount its path on the host.
    pub name: String,
    pub kind: VolumeKind,
    /// PVE's replication takes it along (`replicate=0` in its line leaves it out).
    pub replicated: bool,
    /// It rests on a base volume of the same storage (a linked clone).
    pub linked: bool,
    pub bytes: Option<u64>,
}

impl LocalVolume {
    /// The storage it lies on; none for a mount.
    pub fn storage(&self) -> Option<&str> {
        match self.kind {
            VolumeKind::Mount => None,
            VolumeKind::Disk | VolumeKind::CloudInit | VolumeKind::Unused | VolumeKind::Iso => {
                self.name.split_once(':').map(|(storage, _)| storage)
            }
        }
    }
}

/// A device of the host that a guest uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// `hostpci0`, `usb1`, `dev0`, …
    pub key: String,
    /// Every host may have one of its kind by PVE's resource mapping.
    pub mapped: bool,
    /// It stands in the way of a move as the guest is now.
    pub holds: bool,
}

impl Device {
    /// As people call it: `a PCI device (hostpci0)`.
    pub fn spoken(&self) -> String {
        let kind = match self.key.trim_end_matches(|c: char| c.is_ascii_digit()) {
            "hostpci" => "a PCI device",
            "usb" => "a USB device",
            "serial" => "a serial port of its host",
            "parallel" => "a parallel port of its host",
            _ => "a device of its host",
        };
        let mapped = if self.mapped { ", mapped" } else { "" };
        format!("{kind} ({}{mapped})", self.key)
    }
}

/// What a guest's configuration and PVE's own precondition say about moving it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestFacts {
    /// Where it was when PVE said so: after a move the rest is out of date.
    pub on: Option<HostName>,
    /// Volumes on storages that are not shared, and mounts of the host.
    pub local: Vec<LocalVolume>,
    /// Bytes of those volumes by storage, as far as their sizes are told.
    pub local_bytes: BTreeMap<String, u64>,
    /// Devices of the host, passed through.
    pub devices: Vec<Device>,
    /// Every storage that holds something of it: disks, images in its drives, unused volumes.
    pub storages: BTreeSet<String>,
    /// It has snapshots.
    pub snapshots: bool,
    /// Its processor is that of its host (`cpu: host`): another model may not run it on.
    pub host_cpu: bool,
    /// Hosts PVE would let it go to by configuration; offline hosts appear here too. `None` when
    /// PVE has no such call (containers before 9.0).
    pub allowed: Option<BTreeSet<HostName>>,
    /// Why PVE does not let it go to a host, in a clause.
    pub barred: BTreeMap<HostName, String>,
    /// HA resources that move along with it (PVE 9: positive affinity).
    pub dependents: Vec<String>,
    /// Hosts to which PVE replicates it, and has done so at least once.
    pub replicated_to: BTreeSet<HostName>,
    /// Where its memory goes when it is hibernated.
    pub state_storage: Option<String>,
    /// Started when its host boots.
    pub onboot: bool,
    /// `startup: order=`; missing sorts last.
    pub startup_order: Option<u32>,
    /// `startup: up=`: seconds until the next guest in order is started.
    pub startup_seconds: Option<u32>,
    /// `startup: down=`: seconds PVE waits for a shutdown.
    pub shutdown_seconds: Option<u32>,
    pub protection: bool,
}

impl GuestFacts {
    /// A device passed through, moved or not: PVE hibernates no such guest.
    pub fn passthrough(&self) -> Option<&Device> {
        self.devices.first()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_lock_goes_with_the_command_of_its_kind_on_its_own_host() {
        let host = HostName::from("host2");
        assert_eq!(GuestKind::Vm.unlock(Vmid(201), &host), "`qm unlock 201` on host2");
        assert_eq!(GuestKind::Ct.unlock(Vmid(102), &host), "`pct unlock 102` on host2");
    }
}
