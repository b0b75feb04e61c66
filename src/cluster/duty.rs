//! Words for what may need a host although no guest runs on it: replication, the HA manager, Ceph,
//! storages that others mount.
//!
//! **Does not know:** whether any of it is a reason to wait.

use std::collections::{BTreeMap, BTreeSet};

use super::{HostName, Vmid};

/// One replication job, as the host that holds its guest tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicationSeen {
    pub guest: Vmid,
    pub from: HostName,
    pub to: HostName,
    pub running: bool,
    pub disabled: bool,
    /// What its last run died of.
    pub error: Option<String>,
}

/// What the HA manager says of itself, and what a shutdown means to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HaStatus {
    /// `online`, `maintenance`, `unknown`, `fence`, `gone`.
    pub hosts: BTreeMap<HostName, String>,
    /// `active`, `wait_for_agent_lock`, `maintenance`, `lost_agent_lock`.
    pub agents: BTreeMap<HostName, String>,
    /// By `vm:100`: where it is and how it stands.
    pub services: BTreeMap<String, (HostName, String)>,
    /// `conditional` where nobody chose another.
    pub shutdown_policy: Option<String>,
}

impl HaStatus {
    /// Services on `host` that the manager would stop or move when the host goes down.
    pub fn cared_for<'a>(&'a self, host: &'a HostName) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.services.iter().filter_map(move |(sid, (on, state))| {
            let left_alone =
                matches!(state.as_str(), "stopped" | "disabled" | "ignored" | "freeze");
            (on == host && !left_alone).then_some((sid.as_str(), state.as_str()))
        })
    }

    /// The agent holds its watchdog: it does for ten minutes after its last service has left.
    pub fn armed(&self, host: &HostName) -> bool {
        self.agents.get(host).is_some_and(|state| state == "active" || state == "lost_agent_lock")
    }
}

/// Ceph's daemons on one host; nothing of it where Ceph is not used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CephSeen {
    /// `mon.host3`, `osd.2`.
    pub daemons: Vec<String>,
    /// The flag without which Ceph copies everything elsewhere once a disk is gone for a while.
    pub noout: bool,
    /// The first daemon that Ceph does not call safe to stop, and its words.
    pub needed: Option<(String, String)>,
}

/// A storage as the cluster's configuration has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageConfig {
    /// `nfs`, `cifs`, `dir`, …
    pub kind: String,
    pub disabled: bool,
    /// Hosts that use it; everybody where `None`.
    pub hosts: Option<BTreeSet<HostName>>,
}
