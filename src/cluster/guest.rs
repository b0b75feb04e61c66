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

/// What a guest's configuration and PVE's own precondition say about moving it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestFacts {
    /// Where it was when PVE said so: after a move the rest is out of date.
    pub on: Option<HostName>,
    /// Volumes on storages that are not shared, by volume name.
    pub local_disks: Vec<String>,
    /// Bytes of those volumes by storage, as far as their sizes are told.
    pub local_bytes: BTreeMap<String, u64>,
    /// Passed-through devices (`hostpci0`, `usb1`, …) that are not mapped.
    pub local_devices: Vec<String>,
    /// Hosts PVE would let it go to by configuration; offline hosts appear here too. `None` when
    /// PVE has no such call (containers before 9.0).
    pub allowed: Option<BTreeSet<HostName>>,
    /// Started when its host boots.
    pub onboot: bool,
    /// `startup: order=`; missing sorts last.
    pub startup_order: Option<u32>,
    /// `startup: down=`: seconds PVE waits for a shutdown.
    pub shutdown_seconds: Option<u32>,
    pub protection: bool,
}
