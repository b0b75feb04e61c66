//! The world file as people write it: read whole, checked whole, turned into a `World` elsewhere.
//!
//! Everything but the hosts' names is optional, with the value of an ordinary home as its default.
//! Unknown keys are refused: a misspelt fault would otherwise be a test that tests nothing.
//!
//! **Does not know:** how a world behaves.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Deserialize;

use super::script::Scripted;
use crate::cluster::{GuestKind, HostName, Mac, Vmid};

/// Worlds larger than this are refused: PVE itself knows no larger cluster.
const HOSTS_AT_MOST: usize = 32;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorldFile {
    #[serde(default = "default_cluster")]
    pub cluster: String,
    #[serde(default = "default_start")]
    pub start: Timestamp,
    #[serde(default)]
    pub seed: u64,
    pub hosts: Vec<HostFile>,
    #[serde(default)]
    pub storages: Vec<StorageFile>,
    #[serde(default)]
    pub guests: Vec<GuestFile>,
    #[serde(default)]
    pub qdevice: Option<DeviceFile>,
    #[serde(default)]
    pub wait_for_all: bool,
    #[serde(default = "default_config_version")]
    pub config_version: u64,
    #[serde(default)]
    pub tokens: Vec<TokenFile>,
    /// `ha: shutdown_policy` of the datacenter's options.
    #[serde(default)]
    pub shutdown_policy: Option<String>,
    /// Ceph's flag `noout`.
    #[serde(default)]
    pub noout: bool,
    /// Entries of `/cluster/backup`, handed out as they are but for `lasts`; they run.
    #[serde(default)]
    pub backups: Vec<serde_json::Map<String, serde_json::Value>>,
    /// Megabytes a second a migration copies.
    #[serde(default = "default_link")]
    pub link_megabytes_per_second: u64,
    #[serde(default)]
    pub script: Vec<Scripted>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostFile {
    pub name: HostName,
    /// PVE's name of it, where it differs.
    #[serde(default)]
    pub node: Option<String>,
    #[serde(default = "one")]
    pub votes: u32,
    #[serde(default)]
    pub mac: Option<Mac>,
    #[serde(default)]
    pub address: Option<String>,
    #[serde(default = "default_version")]
    pub version: String,
    #[serde(default = "default_host_memory")]
    pub memory_gib: u64,
    #[serde(default = "default_host_cores")]
    pub cores: u32,
    /// From the button to the cluster's membership.
    #[serde(default = "default_boot")]
    pub boot_seconds: u32,
    /// From membership to an API that answers (recorded: 7 to 14).
    #[serde(default = "default_api")]
    pub api_seconds: u32,
    /// From a request to shut down to power off, without guests.
    #[serde(default = "default_shutdown")]
    pub shutdown_seconds: u32,
    #[serde(default = "default_report")]
    pub report_seconds: u32,
    /// SecureOn: packets without these six bytes at their end are ignored.
    #[serde(default)]
    pub wol_password: Option<String>,
    /// The world counts a power-off of it as a broken promise.
    #[serde(default)]
    pub always_on: bool,
    /// Starts by itself when power comes back.
    #[serde(default)]
    pub starts_with_power: bool,
    #[serde(default)]
    pub state: Power,
    /// Ceph's daemons on it: `mon`, or the number of a disk.
    #[serde(default)]
    pub ceph: Vec<String>,
    /// PVE's `wakeonlan` property; the MAC when left out, `""` for none.
    #[serde(default)]
    pub wakeonlan: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Power {
    #[default]
    On,
    Off,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageFile {
    pub name: String,
    #[serde(default)]
    pub shared: bool,
    #[serde(default = "default_storage_kind")]
    pub kind: String,
    #[serde(default = "default_content")]
    pub content: String,
    /// Hosts that have it; everybody when left out.
    #[serde(default)]
    pub hosts: Option<BTreeSet<HostName>>,
    /// Switched off by its owner (`pvesm set NAME --disable 1`).
    #[serde(default)]
    pub disabled: bool,
    /// It lives on this host: inactive everywhere while that host is off.
    #[serde(default)]
    pub served_by: Option<HostName>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestFile {
    pub vmid: Vmid,
    pub kind: GuestKind,
    #[serde(default)]
    pub name: Option<String>,
    pub host: HostName,
    #[serde(default)]
    pub state: GuestState,
    #[serde(default = "default_guest_memory")]
    pub memory_mib: u64,
    #[serde(default = "one")]
    pub cores: u32,
    #[serde(default)]
    pub disks: Option<Vec<DiskFile>>,
    #[serde(default)]
    pub onboot: bool,
    #[serde(default)]
    pub startup: StartupFile,
    #[serde(default)]
    pub tags: BTreeSet<String>,
    #[serde(default)]
    pub pool: Option<String>,
    #[serde(default)]
    pub lock: Option<String>,
    /// PCI addresses passed through.
    #[serde(default)]
    pub hostpci: Vec<String>,
    /// More lines of its configuration, as PVE writes them: `ide2: "local:iso/x.iso,media=cdrom"`.
    #[serde(default)]
    pub config: BTreeMap<String, String>,
    /// Hosts that have a copy of its local disks by PVE's replication.
    #[serde(default)]
    pub replicated_to: BTreeSet<HostName>,
    /// Does not heed a request to shut down.
    #[serde(default)]
    pub deaf: bool,
    /// How long it takes to shut down when it heeds the request.
    #[serde(default = "default_guest_shutdown")]
    pub shutdown_seconds: u32,
    /// Requested state in the HA manager, where that manages it.
    #[serde(default)]
    pub ha: Option<String>,
    #[serde(default)]
    pub protection: bool,
    #[serde(default)]
    pub template: bool,
    /// No token may see it.
    #[serde(default)]
    pub hidden: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GuestState {
    #[default]
    Running,
    Stopped,
    Paused,
    Hibernated,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskFile {
    pub storage: String,
    #[serde(default = "default_disk")]
    pub gib: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartupFile {
    #[serde(default)]
    pub order: Option<u32>,
    #[serde(default)]
    pub up: Option<u32>,
    #[serde(default)]
    pub down: Option<u32>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceFile {
    pub algorithm: DeviceKind,
    #[serde(default)]
    pub votes: Option<u32>,
    /// Address of its server.
    #[serde(default = "default_qnetd")]
    pub server: String,
    /// Its server runs on this host, and dies with it.
    #[serde(default)]
    pub server_on: Option<HostName>,
    /// Its server runs in this guest, and dies with it.
    #[serde(default)]
    pub server_in: Option<Vmid>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    Ffsplit,
    Lms,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenFile {
    /// `user@realm!name`.
    pub id: String,
    pub secret: String,
    #[serde(default)]
    pub rights: RightsFile,
    /// What the token's user may do, where the token has fewer rights by itself (`--privsep 1`).
    #[serde(default)]
    pub user_rights: Option<RightsFile>,
    /// Refused like an unknown one.
    #[serde(default)]
    pub expired: bool,
}

/// `full`, `suffices` (the least that `spot` needs), or privileges by path.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RightsFile {
    #[default]
    Full,
    Suffices,
    /// path → privileges; deeper paths replace what they would inherit.
    By(BTreeMap<String, Vec<String>>),
}

fn default_cluster() -> String {
    "homelab".into()
}

fn default_start() -> Timestamp {
    // A Monday morning in winter, well before the first window opens.
    "2026-01-05T05:00:00Z".parse().expect("an instant")
}

fn default_config_version() -> u64 {
    5
}

fn default_link() -> u64 {
    110
}

fn default_version() -> String {
    "8.4.21".into()
}

fn default_host_memory() -> u64 {
    32
}

fn default_host_cores() -> u32 {
    8
}

fn default_boot() -> u32 {
    75
}

fn default_api() -> u32 {
    10
}

fn default_shutdown() -> u32 {
    40
}

fn default_report() -> u32 {
    8
}

fn default_storage_kind() -> String {
    "dir".into()
}

fn default_content() -> String {
    "images,rootdir".into()
}

fn default_guest_memory() -> u64 {
    2048
}

fn default_guest_shutdown() -> u32 {
    15
}

fn default_disk() -> u64 {
    8
}

fn default_qnetd() -> String {
    "10.0.0.9".into()
}

fn one() -> u32 {
    1
}

impl WorldFile {
    /// Reads a world's text. The error is one sentence with the place of the fault.
    pub fn read(text: &str) -> Result<WorldFile, String> {
        let yaml: serde_yaml::Value = serde_yaml::from_str(text)
            .map_err(|error| format!("the world is not YAML: {error}"))?;
        // By way of JSON, where an enum is written as `key: value` and not as a `!Tag`.
        let json: serde_json::Value = serde_json::to_value(yaml)
            .map_err(|error| format!("the world uses YAML that has no plain form: {error}"))?;
        let file: WorldFile = serde_path_to_error::deserialize(json)
            .map_err(|error| format!("the world's `{}`: {}", error.path(), error.inner()))?;
        file.checked()
    }

    /// Whether everything that is named exists, once.
    fn checked(self) -> Result<WorldFile, String> {
        if self.hosts.is_empty() {
            return Err("the world has no hosts: give it at least one under `hosts:`".into());
        }
        if self.hosts.len() > HOSTS_AT_MOST {
            let many = self.hosts.len();
            return Err(format!("the world has {many} hosts; {HOSTS_AT_MOST} is the limit"));
        }
        let mut names = BTreeSet::new();
        let mut nodes = BTreeSet::new();
        for host in &self.hosts {
            if !names.insert(&host.name) {
                return Err(format!("two hosts are called `{}`", host.name));
            }
            if !nodes.insert(host.node.clone().unwrap_or_else(|| host.name.0.clone())) {
                return Err(format!("two hosts have the node name of `{}`", host.name));
            }
            if host.boot_seconds < 5 || host.shutdown_seconds < 14 {
                return Err(format!(
                    "`{}` is faster than any machine: give boot_seconds 5 or more and \
                     shutdown_seconds 14 or more",
                    host.name
                ));
            }
        }
        let known = |host: &HostName, what: &str| match names.contains(host) {
            true => Ok(()),
            false => Err(format!("{what} names `{host}`, which is not under `hosts:`")),
        };
        let storages: BTreeSet<&str> = self.storages.iter().map(|s| s.name.as_str()).collect();
        for storage in &self.storages {
            let what = format!("storage `{}`", storage.name);
            for host in storage.hosts.iter().flatten().chain(&storage.served_by) {
                known(host, &what)?;
            }
        }
        let mut vmids = BTreeSet::new();
        for guest in &self.guests {
            let what = format!("guest {}", guest.vmid);
            known(&guest.host, &what)?;
            if !vmids.insert(guest.vmid) {
                return Err(format!("two guests have the number {}", guest.vmid));
            }
            if guest.vmid.0 < 100 {
                return Err(format!("{what}: PVE's numbers begin at 100"));
            }
            let paused = matches!(guest.state, GuestState::Paused | GuestState::Hibernated);
            if guest.kind == GuestKind::Ct && paused {
                return Err(format!("{what}: a container can be running or stopped"));
            }
            for disk in guest.disks.iter().flatten() {
                if !storages.contains(disk.storage.as_str()) {
                    return Err(format!(
                        "{what} has a disk on `{}`, which is not under `storages:`",
                        disk.storage
                    ));
                }
            }
        }
        if let Some(device) = &self.qdevice {
            if let Some(host) = &device.server_on {
                known(host, "qdevice.server_on")?;
            }
            if let Some(guest) = device.server_in.filter(|guest| !vmids.contains(guest)) {
                return Err(format!("qdevice.server_in names {guest}, which is no guest here"));
            }
        }
        for scripted in &self.script {
            for host in scripted.event.hosts() {
                known(host, "the script")?;
            }
        }
        Ok(self)
    }
}
