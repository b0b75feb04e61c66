//! PVE's JSON as plain structs: one pure function per endpoint, from the bytes of a body to data.
//!
//! PVE's Perl hands out numbers as strings, booleans as 0, 1, "0", "1" or true, leaves out what is
//! unset, and the published schema is not enforced. So every field is read leniently and may be
//! missing; but what a judgement rests on (who is a member, which guest is where) is required, and
//! its absence is an error with a sentence, never a default.
//!
//! **Does not know:** hosts by their owner's names, requests, how bytes are fetched.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeOwned, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};

use crate::cluster::{Cpu, DeviceLink, Mac};

/// Any JSON scalar; what is nested is skipped.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Scalar {
    #[default]
    Nothing,
    Whole(u64),
    Real(f64),
    Text(String),
    Nested,
}

impl Scalar {
    /// As a number that is not negative: `3`, `"3"`, `3.0`.
    pub fn number(&self) -> Option<u64> {
        let whole = |real: f64| {
            // Above 2^53 a float is no exact count of anything.
            ((0.0..=9_007_199_254_740_992.0).contains(&real) && real.fract() == 0.0)
                .then_some(real as u64)
        };
        match self {
            Scalar::Whole(number) => Some(*number),
            Scalar::Real(real) => whole(*real),
            Scalar::Text(text) => {
                let text = text.trim();
                text.parse().ok().or_else(|| text.parse().ok().and_then(whole))
            }
            Scalar::Nothing | Scalar::Nested => None,
        }
    }

    /// As a boolean: `0`, `1`, `"0"`, `"1"`, `""`, true, false.
    pub fn flag(&self) -> Option<bool> {
        match self {
            Scalar::Whole(0) => Some(false),
            Scalar::Whole(1) => Some(true),
            Scalar::Text(text) => match text.as_str() {
                "" | "0" | "false" | "no" | "off" => Some(false),
                "1" | "true" | "yes" | "on" => Some(true),
                _ => None,
            },
            Scalar::Nothing | Scalar::Whole(_) | Scalar::Real(_) | Scalar::Nested => None,
        }
    }

    pub fn text(&self) -> Option<String> {
        match self {
            Scalar::Text(text) => Some(text.clone()),
            Scalar::Whole(number) => Some(number.to_string()),
            Scalar::Real(real) => Some(real.to_string()),
            Scalar::Nothing | Scalar::Nested => None,
        }
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Scalar, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Scalar;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("anything")
            }
            fn visit_unit<E: de::Error>(self) -> Result<Scalar, E> {
                Ok(Scalar::Nothing)
            }
            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Scalar, E> {
                Ok(Scalar::Whole(value.into()))
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Scalar, E> {
                Ok(Scalar::Whole(value))
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Scalar, E> {
                Ok(u64::try_from(value).map_or(Scalar::Real(value as f64), Scalar::Whole))
            }
            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Scalar, E> {
                Ok(Scalar::Real(value))
            }
            fn visit_str<E: de::Error>(self, value: &str) -> Result<Scalar, E> {
                Ok(Scalar::Text(value.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Scalar, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Scalar::Nested)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Scalar, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Scalar::Nested)
            }
        }
        deserializer.deserialize_any(Any)
    }
}

fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    Ok(Scalar::deserialize(deserializer)?.number())
}

fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<bool>, D::Error> {
    Ok(Scalar::deserialize(deserializer)?.flag())
}

fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Scalar::deserialize(deserializer)?.text())
}

/// The `data` of an answer; what else the envelope holds is not looked at.
fn data<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    #[derive(Deserialize)]
    struct Envelope<T> {
        data: Option<T>,
    }
    match serde_json::from_slice::<Envelope<T>>(body) {
        Ok(Envelope { data: Some(data) }) => Ok(data),
        Ok(Envelope { data: None }) => Err("the answer holds no data".into()),
        Err(why) => Err(format!("the answer cannot be read ({why})")),
    }
}

/// `GET /cluster/status`: the asked host's own view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterStatus {
    pub name: Option<String>,
    pub quorate: bool,
    pub config_version: Option<u64>,
    pub nodes: Vec<NodeMember>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeMember {
    pub node: String,
    pub online: bool,
    /// The asked host itself.
    pub local: bool,
}

/// Without a cluster entry the asked host's pmxcfs is down (it then shows itself alone, as if it
/// stood alone): that is an error here, never a cluster of one.
pub fn cluster_status(body: &[u8]) -> Result<ClusterStatus, String> {
    #[derive(Deserialize)]
    struct Entry {
        #[serde(default, rename = "type", deserialize_with = "text")]
        kind: Option<String>,
        #[serde(default, deserialize_with = "text")]
        name: Option<String>,
        #[serde(default, deserialize_with = "flag")]
        quorate: Option<bool>,
        #[serde(default, deserialize_with = "number")]
        version: Option<u64>,
        #[serde(default, deserialize_with = "flag")]
        online: Option<bool>,
        #[serde(default, deserialize_with = "flag")]
        local: Option<bool>,
    }
    let mut cluster = None;
    let mut nodes = Vec::new();
    for entry in data::<Vec<Entry>>(body)? {
        match entry.kind.as_deref() {
            Some("cluster") => cluster = Some(entry),
            Some("node") => {
                let node = entry.name.ok_or("a host without a name in the cluster's status")?;
                let online = entry
                    .online
                    .ok_or_else(|| format!("`online` of {node} is missing or garbled"))?;
                nodes.push(NodeMember { node, online, local: entry.local == Some(true) });
            }
            Some(_) | None => {}
        }
    }
    let cluster = cluster.ok_or(
        "its answer shows no cluster: its cluster file system is not running, or it stands alone",
    )?;
    let quorate = cluster.quorate.ok_or("`quorate` is missing or garbled")?;
    if nodes.is_empty() {
        return Err("its answer lists no hosts".into());
    }
    Ok(ClusterStatus { name: cluster.name, quorate, config_version: cluster.version, nodes })
}

/// `GET /cluster/resources`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resources {
    pub nodes: Vec<NodeResource>,
    pub guests: Vec<GuestResource>,
    pub storages: Vec<StorageResource>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeResource {
    pub node: String,
    /// `online`, `offline`, `unknown`.
    pub status: String,
    pub uptime_seconds: Option<u64>,
    pub memory_total_bytes: Option<u64>,
    pub memory_used_bytes: Option<u64>,
    pub cpu: Option<Cpu>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestResource {
    pub vmid: u32,
    pub container: bool,
    pub node: String,
    pub name: Option<String>,
    pub status: String,
    pub template: bool,
    pub tags: Vec<String>,
    pub pool: Option<String>,
    pub lock: Option<String>,
    pub memory_bytes: Option<u64>,
    pub cpu: Option<Cpu>,
    pub ha: Option<String>,
    pub uptime_seconds: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageResource {
    pub node: String,
    pub storage: String,
    pub shared: bool,
    pub available: bool,
    pub free_bytes: Option<u64>,
}

pub fn resources(body: &[u8]) -> Result<Resources, String> {
    #[derive(Deserialize)]
    struct Entry {
        #[serde(default, rename = "type", deserialize_with = "text")]
        kind: Option<String>,
        #[serde(default, deserialize_with = "text")]
        id: Option<String>,
        #[serde(default, deserialize_with = "text")]
        node: Option<String>,
        #[serde(default, deserialize_with = "text")]
        status: Option<String>,
        #[serde(default, deserialize_with = "number")]
        uptime: Option<u64>,
        #[serde(default, deserialize_with = "number")]
        mem: Option<u64>,
        #[serde(default, deserialize_with = "number")]
        maxmem: Option<u64>,
        #[serde(default)]
        cpu: Scalar,
        #[serde(default, deserialize_with = "number")]
        maxcpu: Option<u64>,
        #[serde(default, deserialize_with = "number")]
        disk: Option<u64>,
        #[serde(default, deserialize_with = "number")]
        maxdisk: Option<u64>,
        #[serde(default, deserialize_with = "number")]
        vmid: Option<u64>,
        #[serde(default, deserialize_with = "text")]
        name: Option<String>,
        #[serde(default, deserialize_with = "flag")]
        template: Option<bool>,
        #[serde(default, deserialize_with = "text")]
        tags: Option<String>,
        #[serde(default, deserialize_with = "text")]
        pool: Option<String>,
        #[serde(default, deserialize_with = "text")]
        lock: Option<String>,
        #[serde(default, deserialize_with = "text")]
        hastate: Option<String>,
        #[serde(default, deserialize_with = "text")]
        storage: Option<String>,
        #[serde(default, deserialize_with = "flag")]
        shared: Option<bool>,
    }
    let mut seen = Resources::default();
    for entry in data::<Vec<Entry>>(body)? {
        let kind = entry.kind.unwrap_or_default();
        let what = entry.id.unwrap_or_else(|| format!("an entry of type `{kind}`"));
        let node = |node: Option<String>| node.ok_or(format!("{what} names no host"));
        match kind.as_str() {
            "node" => seen.nodes.push(NodeResource {
                node: node(entry.node)?,
                status: entry.status.unwrap_or_default(),
                uptime_seconds: entry.uptime,
                memory_total_bytes: entry.maxmem,
                memory_used_bytes: entry.mem,
                cpu: cpu(&entry.cpu, entry.maxcpu),
            }),
            "qemu" | "lxc" => seen.guests.push(GuestResource {
                vmid: vmid(entry.vmid).ok_or_else(|| format!("{what} has no VMID"))?,
                container: kind == "lxc",
                node: node(entry.node)?,
                name: entry.name,
                status: entry.status.unwrap_or_default(),
                template: entry.template == Some(true),
                tags: entry
                    .tags
                    .as_deref()
                    .unwrap_or("")
                    // PVE writes `;`, people also wrote commas and blanks.
                    .split([';', ',', ' '])
                    .filter(|tag| !tag.is_empty())
                    .map(str::to_owned)
                    .collect(),
                pool: entry.pool.filter(|pool| !pool.is_empty()),
                lock: entry.lock.filter(|lock| !lock.is_empty()),
                memory_bytes: entry.maxmem,
                cpu: cpu(&entry.cpu, entry.maxcpu),
                ha: entry.hastate.filter(|state| !state.is_empty()),
                uptime_seconds: entry.uptime,
            }),
            "storage" => seen.storages.push(StorageResource {
                node: node(entry.node)?,
                storage: entry.storage.ok_or_else(|| format!("{what} has no name"))?,
                shared: entry.shared == Some(true),
                available: entry.status.as_deref() == Some("available"),
                free_bytes: free(entry.disk, entry.maxdisk),
            }),
            // Pools, networks, SDN zones and what later versions add.
            _ => {}
        }
    }
    Ok(seen)
}

/// PVE tells the used part as a share of all cores.
fn cpu(share: &Scalar, cores: Option<u64>) -> Option<Cpu> {
    let share: f64 = share.text()?.parse().ok()?;
    let cores = u32::try_from(cores?).ok()?;
    // No load of any machine is outside of these; `as` keeps within the type.
    let used_millicores = (share.clamp(0.0, 1000.0) * f64::from(cores) * 1000.0).round() as u64;
    Some(Cpu { cores, used_millicores })
}

fn free(used: Option<u64>, total: Option<u64>) -> Option<u64> {
    // A storage that is not there is listed with nothing at all.
    Some(total.filter(|total| *total > 0)?.saturating_sub(used?))
}

fn vmid(number: Option<u64>) -> Option<u32> {
    number.and_then(|number| u32::try_from(number).ok())
}

/// One task, from a list or from its own status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskEntry {
    pub upid: String,
    /// With `!token` where a token started it.
    pub user: String,
    pub id: String,
    /// `None` while it runs.
    pub ended: Option<String>,
    /// Seconds since 1970, by its host's clock.
    pub ended_at: Option<u64>,
}

#[derive(Deserialize)]
struct TaskWire {
    #[serde(default, deserialize_with = "text")]
    upid: Option<String>,
    #[serde(default, deserialize_with = "text")]
    user: Option<String>,
    #[serde(default, deserialize_with = "text")]
    tokenid: Option<String>,
    #[serde(default, deserialize_with = "text")]
    id: Option<String>,
    #[serde(default, deserialize_with = "text")]
    status: Option<String>,
    #[serde(default, deserialize_with = "text")]
    exitstatus: Option<String>,
    #[serde(default, deserialize_with = "number")]
    endtime: Option<u64>,
}

impl TaskWire {
    fn entry(self, ended: Option<String>) -> Result<TaskEntry, String> {
        let upid = self.upid.ok_or("a task without a UPID")?;
        let user = self.user.unwrap_or_default();
        let user = match self.tokenid {
            Some(token) if !user.contains('!') => format!("{user}!{token}"),
            Some(_) | None => user,
        };
        let ended_at = self.endtime.filter(|_| ended.is_some());
        Ok(TaskEntry { upid, user, id: self.id.unwrap_or_default(), ended, ended_at })
    }
}

/// `GET /cluster/tasks` and `GET /nodes/{n}/tasks`: running ones have no `endtime`, or `RUNNING` as
/// their status.
pub fn tasks(body: &[u8]) -> Result<Vec<TaskEntry>, String> {
    let one = |task: TaskWire| {
        let running = task.status.as_deref() == Some("RUNNING") || task.endtime.is_none();
        let ended = (!running).then(|| task.status.clone().unwrap_or_default());
        task.entry(ended)
    };
    data::<Vec<TaskWire>>(body)?.into_iter().map(one).collect()
}

/// `GET /nodes/{n}/tasks/{upid}/status`.
pub fn task_status(body: &[u8]) -> Result<TaskEntry, String> {
    let task = data::<TaskWire>(body)?;
    let ended = match task.status.as_deref() {
        Some("running") => None,
        Some("stopped") => Some(task.exitstatus.clone().unwrap_or_default()),
        Some(other) => {
            return Err(format!("a task that is neither running nor stopped: `{other}`"));
        }
        None => return Err("the task's status is missing".into()),
    };
    task.entry(ended)
}

/// One guest of `GET /nodes/{n}/qemu` or `/lxc`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestEntry {
    pub vmid: u32,
    pub status: String,
    pub lock: Option<String>,
    pub template: bool,
}

pub fn guests(body: &[u8]) -> Result<Vec<GuestEntry>, String> {
    #[derive(Deserialize)]
    struct Entry {
        #[serde(default, deserialize_with = "number")]
        vmid: Option<u64>,
        #[serde(default, deserialize_with = "text")]
        status: Option<String>,
        #[serde(default, deserialize_with = "text")]
        lock: Option<String>,
        #[serde(default, deserialize_with = "flag")]
        template: Option<bool>,
    }
    let one = |entry: Entry| {
        Ok(GuestEntry {
            vmid: vmid(entry.vmid).ok_or("a guest without a VMID")?,
            // A missing status reads as unknown, which counts as running.
            status: entry.status.unwrap_or_default(),
            lock: entry.lock.filter(|lock| !lock.is_empty()),
            template: entry.template == Some(true),
        })
    };
    data::<Vec<Entry>>(body)?.into_iter().map(one).collect()
}

/// `GET /nodes/{n}/status`: seconds since the boot.
pub fn uptime_seconds(body: &[u8]) -> Result<u64, String> {
    #[derive(Deserialize)]
    struct Status {
        #[serde(default, deserialize_with = "number")]
        uptime: Option<u64>,
    }
    data::<Status>(body)?.uptime.ok_or_else(|| "`uptime` is missing or garbled".into())
}

/// `GET /nodes/{n}/storage`: names of storages for guests' disks that are enabled but not active.
/// (A backup storage may sleep without keeping a host from taking guests.)
pub fn storages_missing(body: &[u8]) -> Result<Vec<String>, String> {
    #[derive(Deserialize)]
    struct Entry {
        #[serde(default, deserialize_with = "text")]
        storage: Option<String>,
        #[serde(default, deserialize_with = "flag")]
        enabled: Option<bool>,
        #[serde(default, deserialize_with = "flag")]
        active: Option<bool>,
        #[serde(default, deserialize_with = "text")]
        content: Option<String>,
    }
    let for_disks = |entry: &Entry| {
        entry.content.as_deref().is_none_or(|content| {
            content.split(',').any(|kind| matches!(kind.trim(), "images" | "rootdir"))
        })
    };
    let missing = |entry: &Entry| {
        entry.enabled != Some(false) && entry.active != Some(true) && for_disks(entry)
    };
    let name = |entry: Entry| entry.storage.ok_or_else(|| "a storage without a name".to_owned());
    data::<Vec<Entry>>(body)?.into_iter().filter(missing).map(name).collect()
}

/// One job of `GET /cluster/backup`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupEntry {
    pub id: String,
    pub storage: Option<String>,
    pub schedule: Option<String>,
    pub node: Option<String>,
    pub enabled: bool,
    pub next_run: Option<u64>,
}

pub fn backup_jobs(body: &[u8]) -> Result<Vec<BackupEntry>, String> {
    #[derive(Deserialize)]
    struct Entry {
        #[serde(default, deserialize_with = "text")]
        id: Option<String>,
        #[serde(default, deserialize_with = "text")]
        storage: Option<String>,
        #[serde(default, deserialize_with = "text")]
        schedule: Option<String>,
        #[serde(default, deserialize_with = "text")]
        node: Option<String>,
        #[serde(default, deserialize_with = "flag")]
        enabled: Option<bool>,
        #[serde(default, rename = "next-run", deserialize_with = "number")]
        next_run: Option<u64>,
    }
    let job = |entry: Entry| {
        Ok(BackupEntry {
            id: entry.id.ok_or("a backup job without an id")?,
            storage: entry.storage,
            schedule: entry.schedule,
            node: entry.node.filter(|node| !node.is_empty()),
            // PVE leaves it out where it is on.
            enabled: entry.enabled != Some(false),
            next_run: entry.next_run,
        })
    };
    data::<Vec<Entry>>(body)?.into_iter().map(job).collect()
}

/// `wakeonlan` of `GET /nodes/{n}/config`: `MAC,bind-interface=…,broadcast-address=…`, where the
/// MAC may be spelled `mac=MAC`.
pub fn wake_address(body: &[u8]) -> Result<Option<Mac>, String> {
    #[derive(Deserialize)]
    struct Config {
        #[serde(default, deserialize_with = "text")]
        wakeonlan: Option<String>,
    }
    let Some(property) = data::<Config>(body)?.wakeonlan.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let mac = property.split(',').find_map(|part| match part.split_once('=') {
        Some((name, value)) => (name == "mac").then_some(value),
        None => Some(part),
    });
    let mac = mac.and_then(|mac| mac.parse().ok());
    mac.map(Some).ok_or_else(|| format!("`wakeonlan` is `{property}`, which names no address"))
}

/// `GET /cluster/config/qdevice`: the asked host's own connection to the server; an empty object
/// without a device, and also while its daemon does not run.
pub fn device_link(body: &[u8]) -> Result<DeviceLink, String> {
    #[derive(Deserialize)]
    struct Status {
        #[serde(rename = "State", default, deserialize_with = "text")]
        state: Option<String>,
    }
    Ok(match data::<Status>(body)?.state {
        None => DeviceLink::NoDaemon,
        Some(state) if state == "Connected" => DeviceLink::Connected,
        Some(state) => DeviceLink::NotConnected(state),
    })
}

/// `GET /cluster/config/nodes`: configured votes by node; a missing key counts as 1.
pub fn configured_votes(body: &[u8]) -> Result<BTreeMap<String, u32>, String> {
    #[derive(Deserialize)]
    struct Entry {
        #[serde(default, deserialize_with = "text")]
        name: Option<String>,
        #[serde(default, deserialize_with = "text")]
        node: Option<String>,
        #[serde(default)]
        quorum_votes: Scalar,
    }
    let mut votes = BTreeMap::new();
    for entry in data::<Vec<Entry>>(body)? {
        let node = entry.name.or(entry.node).ok_or("a configured host without a name")?;
        let count = match &entry.quorum_votes {
            Scalar::Nothing => 1,
            given => given
                .number()
                .and_then(|count| u32::try_from(count).ok())
                .filter(|count| *count <= super::evidence::MOST_VOTES)
                .ok_or_else(|| format!("the configured votes of {node} are garbled"))?,
        };
        votes.insert(node, count);
    }
    Ok(votes)
}

/// `GET /access/permissions`: path → privilege → whether it reaches deeper paths.
pub fn permissions(body: &[u8]) -> Result<BTreeMap<String, BTreeMap<String, bool>>, String> {
    let raw = data::<BTreeMap<String, BTreeMap<String, Scalar>>>(body)?;
    // Presence is the grant; a garbled propagate flag grants on the path alone.
    let plain = |(name, value): (String, Scalar)| (name, value.flag() == Some(true));
    Ok(raw
        .into_iter()
        .map(|(path, rights)| (path, rights.into_iter().map(plain).collect()))
        .collect())
}

/// `GET /nodes/{n}/{qemu|lxc}/{vmid}/config`: keys and values as written.
pub fn guest_config(body: &[u8]) -> Result<BTreeMap<String, String>, String> {
    let raw = data::<BTreeMap<String, Scalar>>(body)?;
    Ok(raw.into_iter().filter_map(|(key, value)| Some((key, value.text()?))).collect())
}

/// `GET /nodes/{n}/qemu/{vmid}/migrate` (underscores) or `/lxc/…` (dashes).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Precondition {
    pub allowed: Option<Vec<String>>,
    /// Volume names of disks that are not shared.
    pub local_disks: Vec<String>,
    /// Bytes of each of them, where PVE tells.
    pub local_sizes: BTreeMap<String, u64>,
    /// Devices that hold the guest where it is: not mapped, or mapped without live migration while
    /// it runs.
    pub local_devices: Vec<String>,
}

pub fn precondition(body: &[u8]) -> Result<Precondition, String> {
    #[derive(Deserialize)]
    struct Disk {
        #[serde(default, deserialize_with = "text")]
        volid: Option<String>,
        #[serde(default, deserialize_with = "number")]
        size: Option<u64>,
        #[serde(default, deserialize_with = "flag")]
        shared: Option<bool>,
    }
    #[derive(Default, Deserialize)]
    struct Mapping {
        #[serde(default, rename = "live-migration", deserialize_with = "flag")]
        live: Option<bool>,
    }
    #[derive(Deserialize)]
    struct Wire {
        #[serde(default, deserialize_with = "flag")]
        running: Option<bool>,
        #[serde(default, alias = "allowed-nodes")]
        allowed_nodes: Option<Vec<String>>,
        #[serde(default)]
        local_disks: Option<Vec<Disk>>,
        #[serde(default)]
        local_resources: Option<Vec<String>>,
        #[serde(default, rename = "mapped-resources")]
        mapped: Option<Vec<String>>,
        #[serde(default, rename = "mapped-resource-info")]
        mapping: Option<BTreeMap<String, Mapping>>,
    }
    let wire = data::<Wire>(body)?;
    let mapped = wire.mapped.unwrap_or_default();
    let mapping = wire.mapping.unwrap_or_default();
    let running = wire.running != Some(false);
    let travels = |device: &str| {
        let live = || mapping.get(device).is_some_and(|info| info.live == Some(true));
        mapped.iter().any(|name| name == device) && (!running || live())
    };
    let mut local_devices = wire.local_resources.unwrap_or_default();
    local_devices.extend(
        mapped.iter().filter(|name| !local_devices.contains(name)).cloned().collect::<Vec<_>>(),
    );
    local_devices.retain(|device| !travels(device));
    let (mut local_disks, mut local_sizes) = (Vec::new(), BTreeMap::new());
    for disk in wire.local_disks.unwrap_or_default() {
        if disk.shared != Some(true) {
            let volume = disk.volid.ok_or("a local disk without a name")?;
            local_sizes.extend(disk.size.map(|bytes| (volume.clone(), bytes)));
            local_disks.push(volume);
        }
    }
    Ok(Precondition { allowed: wire.allowed_nodes, local_disks, local_sizes, local_devices })
}

/// `GET /nodes/{n}/report`: plain text in a JSON string.
pub fn report(body: &[u8]) -> Result<String, String> {
    data::<Scalar>(body)?.text().ok_or_else(|| "the report is no text".into())
}

/// Any answer that is a single text.
pub fn word(body: &[u8]) -> Result<String, String> {
    data::<Scalar>(body)?.text().ok_or_else(|| "the answer is no text".into())
}

/// The answer of a POST: a UPID, or nothing.
pub fn upid(body: &[u8]) -> Result<Option<String>, String> {
    #[derive(Deserialize)]
    struct Envelope {
        #[serde(default)]
        data: Scalar,
    }
    let answer: Envelope =
        serde_json::from_slice(body).map_err(|why| format!("the answer cannot be read ({why})"))?;
    Ok(answer.data.text().filter(|text| text.starts_with("UPID:")))
}

/// What went wrong, from an error's body: `message` and the text of every named parameter.
pub fn error_text(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Wire {
        #[serde(default, deserialize_with = "text")]
        message: Option<String>,
        #[serde(default)]
        errors: Option<BTreeMap<String, Scalar>>,
    }
    let wire: Wire = serde_json::from_slice(body).ok()?;
    let mut parts: Vec<String> =
        wire.message.map(|message| message.trim().to_owned()).into_iter().collect();
    for (parameter, why) in wire.errors.unwrap_or_default() {
        parts.push(format!("{parameter}: {}", why.text().unwrap_or_default().trim()));
    }
    parts.retain(|part| !part.is_empty());
    (!parts.is_empty()).then(|| parts.join("; "))
}

#[cfg(test)]
mod tests;
