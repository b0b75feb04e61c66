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
            Some(_) => {}
            // It may be a host, and a host that is left out would count as gone.
            None => return Err("an entry of the cluster's status has no `type`".into()),
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
    pub kind: Option<String>,
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
        #[serde(default, deserialize_with = "text")]
        plugintype: Option<String>,
    }
    let mut seen = Resources::default();
    for entry in data::<Vec<Entry>>(body)? {
        // It may be a guest, and a guest that is left out would count as gone.
        let kind = entry.kind.ok_or("an entry of the resources has no `type`")?;
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
                kind: entry.plugintype,
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
    /// Why PVE does not let it go to a node. Allowed nodes stand in PVE's answer too, with nothing
    /// in them; they are left out here.
    pub barred: BTreeMap<String, String>,
    pub local_disks: Vec<LocalDisk>,
    /// Devices of the host, mapped ones among them.
    pub devices: Vec<LocalDevice>,
    /// HA resources that move along.
    pub dependents: Vec<String>,
}

/// A volume that PVE calls local.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalDisk {
    pub volume: String,
    pub cdrom: bool,
    pub cloud_init: bool,
    pub unused: bool,
    /// `replicate=0` in its line.
    pub unreplicated: bool,
    pub in_snapshot: bool,
    pub bytes: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalDevice {
    pub key: String,
    pub mapped: bool,
    /// It stands in the way: not mapped, or mapped without live migration while the guest runs.
    pub holds: bool,
}

pub fn precondition(body: &[u8]) -> Result<Precondition, String> {
    #[derive(Deserialize)]
    struct Disk {
        #[serde(default, deserialize_with = "text")]
        volid: Option<String>,
        #[serde(default, deserialize_with = "flag")]
        shared: Option<bool>,
        #[serde(default, deserialize_with = "flag")]
        cdrom: Option<bool>,
        #[serde(default, deserialize_with = "flag")]
        is_cloudinit: Option<bool>,
        #[serde(default, deserialize_with = "flag")]
        is_unused: Option<bool>,
        #[serde(default, deserialize_with = "flag")]
        replicate: Option<bool>,
        #[serde(default)]
        referenced_in_snapshot: Scalar,
        #[serde(default, deserialize_with = "number")]
        size: Option<u64>,
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
        #[serde(default, alias = "not-allowed-nodes")]
        not_allowed_nodes: Option<BTreeMap<String, serde_json::Value>>,
        #[serde(default)]
        local_disks: Option<Vec<Disk>>,
        #[serde(default)]
        local_resources: Option<Vec<String>>,
        #[serde(default, rename = "mapped-resources")]
        mapped: Option<Vec<String>>,
        #[serde(default, rename = "mapped-resource-info")]
        mapping: Option<BTreeMap<String, Mapping>>,
        #[serde(default, rename = "dependent-ha-resources")]
        dependents: Option<Vec<String>>,
    }
    let wire = data::<Wire>(body)?;
    let mapped = wire.mapped.unwrap_or_default();
    let mapping = wire.mapping.unwrap_or_default();
    let running = wire.running != Some(false);
    let mut keys = wire.local_resources.unwrap_or_default();
    keys.extend(mapped.iter().filter(|name| !keys.contains(name)).cloned().collect::<Vec<_>>());
    let device = |key: String| {
        let is_mapped = mapped.contains(&key);
        let live = mapping.get(&key).is_some_and(|info| info.live == Some(true));
        let holds = !(is_mapped && (!running || live));
        LocalDevice { key, mapped: is_mapped, holds }
    };
    let mut local_disks = Vec::new();
    for disk in wire.local_disks.unwrap_or_default() {
        if disk.shared == Some(true) {
            continue;
        }
        let volume = disk.volid.ok_or("a local disk without a name")?;
        let cloud_init = disk.is_cloudinit == Some(true) || volume.contains("-cloudinit");
        local_disks.push(LocalDisk {
            cdrom: disk.cdrom == Some(true) && !cloud_init,
            cloud_init,
            unused: disk.is_unused == Some(true),
            unreplicated: disk.replicate == Some(false),
            in_snapshot: !matches!(disk.referenced_in_snapshot, Scalar::Nothing)
                && disk.referenced_in_snapshot.flag() != Some(false),
            bytes: disk.size,
            volume,
        });
    }
    let barred = wire.not_allowed_nodes.unwrap_or_default().into_iter();
    Ok(Precondition {
        allowed: wire.allowed_nodes,
        barred: barred.filter_map(|(node, why)| Some((node, why_barred(&why)?))).collect(),
        local_disks,
        devices: keys.into_iter().map(device).collect(),
        dependents: wire.dependents.unwrap_or_default(),
    })
}

/// What stands against a node, in a clause; `None` for an allowed one.
fn why_barred(why: &serde_json::Value) -> Option<String> {
    let fields = why.as_object().filter(|fields| !fields.is_empty())?;
    let words = |key: &str| -> Vec<String> {
        let list = fields.get(key).and_then(|list| list.as_array()).cloned().unwrap_or_default();
        let word = |one: &serde_json::Value| match one {
            serde_json::Value::String(text) => Some(text.clone()),
            // `{"sid": "vm:101", "cause": "resource-affinity"}`
            serde_json::Value::Object(entry) => {
                Some(entry.get("sid").and_then(|sid| sid.as_str())?.to_owned())
            }
            _ => None,
        };
        list.iter().filter_map(word).collect()
    };
    let any = |keys: [&str; 2]| keys.into_iter().flat_map(words).collect::<Vec<_>>().join(", ");
    let storages = any(["unavailable_storages", "unavailable-storages"]);
    let resources = any(["unavailable-resources", "unavailable_resources"]);
    let affinity = any(["blocking-ha-resources", "blocking_ha_resources"]);
    Some(match (storages.as_str(), resources.as_str(), affinity.as_str()) {
        ("", "", "") => "PVE does not say why".into(),
        ("", "", sids) => format!("an affinity rule keeps it away from {sids}"),
        ("", resources, _) => format!("no device is mapped there for {resources}"),
        (storages, _, _) => format!("it has no storage {storages}"),
    })
}

/// `GET /nodes/{n}/replication`: the jobs of one node's guests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replication {
    pub guest: u32,
    pub target: String,
    /// It runs now.
    pub running: bool,
    /// It has run at least once.
    pub synced: bool,
    pub disabled: bool,
    pub error: Option<String>,
}

pub fn replications(body: &[u8]) -> Result<Vec<Replication>, String> {
    #[derive(Deserialize)]
    struct Entry {
        #[serde(default, deserialize_with = "number")]
        guest: Option<u64>,
        #[serde(default, deserialize_with = "text")]
        target: Option<String>,
        #[serde(default, deserialize_with = "number")]
        pid: Option<u64>,
        #[serde(default, deserialize_with = "number")]
        last_sync: Option<u64>,
        #[serde(default, deserialize_with = "flag")]
        disable: Option<bool>,
        #[serde(default, deserialize_with = "text")]
        remove_job: Option<String>,
        #[serde(default, deserialize_with = "text")]
        error: Option<String>,
    }
    let one = |entry: Entry| {
        Ok(Replication {
            guest: vmid(entry.guest).ok_or("a replication job without a guest")?,
            target: entry.target.ok_or("a replication job without a target")?,
            running: entry.pid.is_some_and(|pid| pid > 0),
            synced: entry.last_sync.is_some_and(|at| at > 0),
            disabled: entry.disable == Some(true) || entry.remove_job.is_some(),
            error: entry.error.filter(|text| !text.is_empty()),
        })
    };
    data::<Vec<Entry>>(body)?.into_iter().map(one).collect()
}

/// `GET /cluster/ha/status/manager_status`: by node and by service, as written there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HighAvailability {
    pub nodes: BTreeMap<String, String>,
    pub agents: BTreeMap<String, String>,
    /// sid → (node, state)
    pub services: BTreeMap<String, (String, String)>,
}

/// Where HA was never used most of it is missing: then there is nothing to care for.
pub fn manager_status(body: &[u8]) -> Result<HighAvailability, String> {
    #[derive(Default, Deserialize)]
    struct Service {
        #[serde(default, deserialize_with = "text")]
        node: Option<String>,
        #[serde(default, deserialize_with = "text")]
        state: Option<String>,
    }
    #[derive(Default, Deserialize)]
    struct Inner {
        #[serde(default)]
        node_status: Option<BTreeMap<String, Scalar>>,
        #[serde(default)]
        service_status: Option<BTreeMap<String, Service>>,
    }
    #[derive(Default, Deserialize)]
    struct Agent {
        #[serde(default, deserialize_with = "text")]
        state: Option<String>,
        #[serde(default, deserialize_with = "text")]
        mode: Option<String>,
    }
    #[derive(Deserialize)]
    struct Wire {
        #[serde(default)]
        manager_status: Option<Inner>,
        #[serde(default)]
        lrm_status: Option<BTreeMap<String, Agent>>,
    }
    let wire = data::<Wire>(body)?;
    let inner = wire.manager_status.unwrap_or_default();
    let mut manager = HighAvailability::default();
    for (node, status) in inner.node_status.unwrap_or_default() {
        manager.nodes.insert(node, status.text().unwrap_or_default());
    }
    for (node, agent) in wire.lrm_status.unwrap_or_default() {
        let state = match agent.mode.as_deref() {
            Some("maintenance") => Some("maintenance".to_owned()),
            Some(_) | None => agent.state,
        };
        manager.agents.insert(node, state.unwrap_or_default());
    }
    for (sid, service) in inner.service_status.unwrap_or_default() {
        let node = service.node.ok_or_else(|| format!("{sid} is on no host"))?;
        manager.services.insert(sid, (node, service.state.unwrap_or_default()));
    }
    Ok(manager)
}

/// `GET /cluster/options`: `ha.shutdown_policy`, parsed or as the line it is written in.
pub fn shutdown_policy(body: &[u8]) -> Result<Option<String>, String> {
    #[derive(Deserialize)]
    struct Options {
        #[serde(default)]
        ha: Option<serde_json::Value>,
    }
    Ok(match data::<Options>(body)?.ha {
        Some(serde_json::Value::String(line)) => line
            .split(',')
            .find_map(|part| part.trim().strip_prefix("shutdown_policy="))
            .map(str::to_owned),
        Some(value) => {
            value.get("shutdown_policy").and_then(|word| word.as_str()).map(str::to_owned)
        }
        None => None,
    })
}

/// `GET /nodes/{n}/ceph/mon`: every monitor's name and host.
pub fn ceph_monitors(body: &[u8]) -> Result<Vec<(String, String)>, String> {
    #[derive(Deserialize)]
    struct Entry {
        #[serde(default, deserialize_with = "text")]
        name: Option<String>,
        #[serde(default, deserialize_with = "text")]
        host: Option<String>,
    }
    let one = |entry: Entry| {
        let name = entry.name.ok_or("a Ceph monitor without a name")?;
        // PVE names a monitor after its host.
        Ok((name.clone(), entry.host.unwrap_or(name)))
    };
    data::<Vec<Entry>>(body)?.into_iter().map(one).collect()
}

/// `GET /nodes/{n}/ceph/osd`: numbers of the disks under `node` in the tree.
pub fn ceph_disks(body: &[u8], node: &str) -> Result<Vec<u64>, String> {
    fn below(tree: &serde_json::Value, node: &str, inside: bool, found: &mut Vec<u64>) {
        let word = |key: &str| tree.get(key).and_then(|value| value.as_str()).unwrap_or("");
        let inside = inside || word("type") == "host" && word("name") == node;
        if inside && word("type") == "osd" {
            let id = tree.get("id").cloned().unwrap_or_default();
            let read = serde_json::from_value::<Scalar>(id).ok().and_then(|id| id.number());
            found.extend(read);
        }
        for child in tree.get("children").and_then(|list| list.as_array()).into_iter().flatten() {
            below(child, node, inside, found);
        }
    }
    let tree = data::<serde_json::Value>(body)?;
    let root = tree.get("root").ok_or("the answer holds no tree of disks")?;
    let mut found = Vec::new();
    below(root, node, false, &mut found);
    Ok(found)
}

/// `GET /cluster/ceph/flags`: whether `noout` is set.
pub fn ceph_noout(body: &[u8]) -> Result<bool, String> {
    #[derive(Deserialize)]
    struct Entry {
        #[serde(default, deserialize_with = "text")]
        name: Option<String>,
        #[serde(default, deserialize_with = "flag")]
        value: Option<bool>,
    }
    let flags = data::<Vec<Entry>>(body)?;
    let noout = flags.iter().find(|entry| entry.name.as_deref() == Some("noout"));
    Ok(noout.is_some_and(|entry| entry.value == Some(true)))
}

/// `GET /nodes/{n}/ceph/cmd-safety`: `None` where it is safe, else Ceph's own words.
pub fn ceph_safety(body: &[u8]) -> Result<Option<String>, String> {
    #[derive(Deserialize)]
    struct Wire {
        #[serde(default, deserialize_with = "flag")]
        safe: Option<bool>,
        #[serde(default, deserialize_with = "text")]
        status: Option<String>,
    }
    let wire = data::<Wire>(body)?;
    let words = || wire.status.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    Ok(match wire.safe {
        Some(true) => None,
        Some(false) => Some(words().unwrap_or_else(|| "not safe".into())),
        None => return Err("`safe` is missing or garbled".into()),
    })
}

/// `GET /storage`: one storage as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageEntry {
    pub name: String,
    pub kind: String,
    pub disabled: bool,
    pub nodes: Option<Vec<String>>,
}

pub fn storages(body: &[u8]) -> Result<Vec<StorageEntry>, String> {
    #[derive(Deserialize)]
    struct Entry {
        #[serde(default, deserialize_with = "text")]
        storage: Option<String>,
        #[serde(default, rename = "type", deserialize_with = "text")]
        kind: Option<String>,
        #[serde(default, deserialize_with = "flag")]
        disable: Option<bool>,
        #[serde(default, deserialize_with = "text")]
        nodes: Option<String>,
    }
    let one = |entry: Entry| {
        let nodes = entry.nodes.filter(|nodes| !nodes.is_empty());
        Ok(StorageEntry {
            name: entry.storage.ok_or("a storage without a name")?,
            kind: entry.kind.unwrap_or_default(),
            disabled: entry.disable == Some(true),
            nodes: nodes.map(|nodes| nodes.split(',').map(|one| one.trim().to_owned()).collect()),
        })
    };
    data::<Vec<Entry>>(body)?.into_iter().map(one).collect()
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
