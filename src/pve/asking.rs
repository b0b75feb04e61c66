//! Answers to [`Question`]s: which calls each needs, of whom, and what their answers add up to.
//!
//! What must be seen on a host itself is asked at its own address; a host without one cannot be
//! asked, and that is the answer. Any doubt on the way is a [`Gap`] in words, never a default.
//!
//! **Does not know:** when it is asked, how long an answer is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::time::Duration;

use jiff::Timestamp;

use super::client::Trouble;
use super::wire::{self, Precondition};
use super::{Core, api_name, evidence, lanes, tasks};
use crate::cluster::{
    Answer, BackupJob, CephSeen, Device, Gap, GuestFacts, GuestKind, HaStatus, HostName, LiveGuest,
    LocalVolume, Membership, Moment, Permissions, Question, Readiness, ReplicationSeen, RunState,
    StorageConfig, TaskSeen, Vmid, VolumeKind,
};
use crate::site::{Clock, Transport, Working};

/// PVE may delay its own start of guests by up to 300 s after the boot; without a trace of it long
/// after that, the task has left the list.
const STARTALL_TRACE: Duration = Duration::from_secs(1800);
/// How far a host's clock may be off when its boot is compared with its tasks.
const CLOCK_SLACK: Duration = Duration::from_secs(60);

/// One job's way to the API: it holds the job's [`Working`] and keeps to the lanes.
pub struct Asking<'a, T, C> {
    core: &'a Core<T, C>,
    working: Option<Working>,
}

/// The question, as a gap names it.
pub fn name(question: &Question) -> String {
    match question {
        Question::Evidence(host) => format!("evidence of {host}"),
        Question::LiveGuests(host) => format!("guests of {host}"),
        Question::Membership(host) => format!("membership of {host}"),
        Question::Device(host) => format!("QDevice as {host} sees it"),
        Question::Readiness(host) => format!("readiness of {host}"),
        Question::Permissions => "permissions".into(),
        Question::ConfiguredVotes => "configured votes".into(),
        Question::BackupJobs => "backup jobs".into(),
        Question::WakeAddress(host) => format!("wake address of {host}"),
        Question::Guest(guest) => format!("configuration of guest {guest}"),
        Question::Replications => "replication jobs".into(),
        Question::HaStatus => "the HA manager's status".into(),
        Question::Ceph(host) => format!("Ceph on {host}"),
        Question::Storages => "storages as configured".into(),
        Question::Check { host, check } => format!("check {check} of {host}"),
        Question::Task(upid) => format!("task {upid}"),
        Question::Tasks { host, guest: Some(guest), .. } => {
            format!("tasks of guest {guest} on {host}")
        }
        Question::Tasks { host, guest: None, .. } => format!("tasks of {host}"),
    }
}

impl<'a, T: Transport, C: Clock> Asking<'a, T, C> {
    pub fn new(core: &'a Core<T, C>, working: Working) -> Asking<'a, T, C> {
        Asking { core, working: Some(working) }
    }

    pub fn core(&self) -> &'a Core<T, C> {
        self.core
    }

    pub fn now(&self) -> Moment {
        self.core.clock.now()
    }

    /// The guard, for whoever reads the result.
    pub fn end(self) -> Working {
        self.working.unwrap_or_default()
    }

    /// Runs `call` in a lane of `host`.
    pub async fn at<R>(&mut self, host: &HostName, call: impl Future<Output = R>) -> R {
        let working = self.working.take().unwrap_or_default();
        let (place, working) =
            lanes::enter(&self.core.lanes, &self.core.clock, host, working).await;
        self.working = Some(working);
        let answer = call.await;
        drop(place);
        answer
    }

    pub async fn answer(&mut self, question: &Question) -> Result<Answer, Gap> {
        let found = match question {
            Question::Evidence(host) => self.evidence(host).await,
            Question::LiveGuests(host) => self.live_guests(host).await,
            Question::Membership(host) => self.membership(host).await.map(Answer::Membership),
            Question::Device(host) => self.device(host).await,
            Question::Readiness(host) => self.readiness(host).await,
            Question::Permissions => self.permissions().await,
            Question::ConfiguredVotes => self.configured_votes().await,
            Question::BackupJobs => self.backup_jobs().await,
            Question::WakeAddress(host) => self.wake_address(host).await,
            Question::Guest(guest) => self.guest(*guest).await,
            Question::Replications => self.replications().await,
            Question::HaStatus => self.ha_status().await,
            Question::Ceph(host) => self.ceph(host).await,
            Question::Storages => self.storages().await,
            Question::Check { check, .. } => Err(format!("`{check}` is no question to PVE")),
            Question::Task(upid) => self.task(upid).await,
            Question::Tasks { host, guest, since } => {
                self.tasks(host, *guest, since.as_second()).await
            }
        };
        found.map_err(|why| Gap { what: name(question), why })
    }

    /// The host's own address, or why it cannot be asked.
    fn own_address(&self, host: &HostName) -> Result<(), String> {
        if self.core.endpoints().addressed(host) {
            return Ok(());
        }
        Err(format!("spot.yaml names no address for {host}; add its URL under `hosts`"))
    }

    async fn evidence(&mut self, host: &HostName) -> Result<Answer, String> {
        self.own_address(host)?;
        let endpoints = self.core.endpoints();
        let node = endpoints.node(host);
        let report = self.at(host, self.core.client.report(host, node)).await.map_err(told)?;
        let evidence = evidence::read(&report, node, |node| endpoints.host(node))
            .map_err(|why| format!("the report of {host}: {why}"))?;
        Ok(Answer::Evidence(Box::new(evidence)))
    }

    async fn live_guests(&mut self, host: &HostName) -> Result<Answer, String> {
        self.own_address(host)?;
        let endpoints = self.core.endpoints();
        let node = endpoints.node(host);
        let mut guests = BTreeMap::new();
        for kind in [GuestKind::Vm, GuestKind::Ct] {
            let call = self.core.client.guests(host, node, api_name(kind));
            for entry in self.at(host, call).await.map_err(told)? {
                let guest = LiveGuest {
                    kind,
                    status: RunState::parse(&entry.status),
                    lock: entry.lock,
                    template: entry.template,
                };
                if guests.insert(Vmid(entry.vmid), guest).is_some() {
                    return Err(format!("{host} lists guest {} twice", entry.vmid));
                }
            }
        }
        Ok(Answer::LiveGuests(guests))
    }

    async fn membership(&mut self, host: &HostName) -> Result<Membership, String> {
        self.own_address(host)?;
        let endpoints = self.core.endpoints();
        let status = self.at(host, self.core.client.cluster_status(host)).await.map_err(told)?;
        let local = status.nodes.iter().find(|node| node.local);
        // Another host's view under this host's name would count one vote twice.
        match local {
            Some(local) if local.node == endpoints.node(host) => {}
            Some(local) if endpoints.hosts.values().all(|named| named.node != local.node) => {
                return Err(format!(
                    "what answers at the address of {host} calls itself `{}`, and its policy calls it \
                     `{}`; write `node: {}` at {host}, or correct its URL in spot.yaml",
                    local.node,
                    endpoints.node(host),
                    local.node
                ));
            }
            Some(local) => {
                return Err(format!(
                    "the address of {host} in spot.yaml is {}'s; correct its URL",
                    endpoints.host(&local.node)
                ));
            }
            None => return Err(format!("{host} does not say which host it is")),
        }
        let member = |node: wire::NodeMember| (endpoints.host(&node.node), node.online);
        Ok(Membership {
            quorate: status.quorate,
            config_version: status.config_version,
            members: status.nodes.into_iter().map(member).collect(),
        })
    }

    async fn device(&mut self, host: &HostName) -> Result<Answer, String> {
        self.own_address(host)?;
        let link = self.at(host, self.core.client.device_link(host)).await.map_err(told)?;
        Ok(Answer::Device(link))
    }

    async fn readiness(&mut self, host: &HostName) -> Result<Answer, String> {
        let quorate = self.membership(host).await?.quorate;
        let client = &self.core.client;
        let endpoints = self.core.endpoints();
        let node = endpoints.node(host);
        let uptime = self.at(host, client.uptime_seconds(host, node)).await.map_err(told)?;
        let storages_missing =
            self.at(host, client.storages_missing(host, node)).await.map_err(told)?;
        let filter = [("typefilter", "startall"), ("limit", "20")];
        let started = self.at(host, client.node_tasks(host, node, &filter)).await;
        let startall_done = started.ok().and_then(|tasks| self.startall_done(tasks, uptime));
        Ok(Answer::Readiness(Readiness {
            api: true,
            quorate,
            uptime_seconds: uptime,
            storages_missing,
            startall_done,
        }))
    }

    /// Whether PVE's start of guests since this boot is over.
    fn startall_done(&self, entries: Vec<wire::TaskEntry>, uptime_seconds: u64) -> Option<bool> {
        let up = i64::try_from(uptime_seconds).ok()?;
        let slack = CLOCK_SLACK.as_secs() as i64;
        let boot = self.now().civil.as_second() - up - slack;
        let seen = entries.into_iter().filter_map(|entry| self.task_seen(entry).ok());
        let newest = seen.filter(|task| task.started.as_second() >= boot).max_by_key(|t| t.started);
        match newest {
            Some(task) => Some(!task.running()),
            None => (uptime_seconds > STARTALL_TRACE.as_secs()).then_some(true),
        }
    }

    async fn permissions(&mut self) -> Result<Answer, String> {
        let host = self.anybody()?;
        let by_path = self.at(&host, self.core.client.permissions(&host)).await.map_err(told)?;
        Ok(Answer::Permissions(Permissions { token: self.core.endpoints().token.clone(), by_path }))
    }

    async fn configured_votes(&mut self) -> Result<Answer, String> {
        let host = self.anybody()?;
        let votes = self.at(&host, self.core.client.configured_votes(&host)).await.map_err(told)?;
        let named = |(node, votes): (String, u32)| (self.core.endpoints().host(&node), votes);
        Ok(Answer::ConfiguredVotes(votes.into_iter().map(named).collect()))
    }

    async fn backup_jobs(&mut self) -> Result<Answer, String> {
        let host = self.anybody()?;
        let jobs = self.at(&host, self.core.client.backup_jobs(&host)).await.map_err(told)?;
        let job = |job: wire::BackupEntry| {
            let next_run = job.next_run.map(|seconds| {
                let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
                Timestamp::from_second(seconds)
                    .map_err(|_| format!("the next run of backup job {} is garbled", job.id))
            });
            Ok(BackupJob {
                storage: job.storage,
                schedule: job.schedule.unwrap_or_default(),
                node: job.node.map(|node| self.core.endpoints().host(&node)),
                // A job that is switched off has a next run all the same, in some versions.
                next_run: next_run.transpose()?.filter(|_| job.enabled),
                enabled: job.enabled,
                id: job.id,
            })
        };
        Ok(Answer::BackupJobs(jobs.into_iter().map(job).collect::<Result<_, String>>()?))
    }

    /// PVE forwards it to the host, although it is a file of the cluster: who sleeps has no answer.
    async fn wake_address(&mut self, host: &HostName) -> Result<Answer, String> {
        let endpoints = self.core.endpoints();
        let node = endpoints.node(host);
        let to = self.core.endpoints().door(host);
        let mac = self.at(&to, self.core.client.wake_address(&to, node)).await.map_err(told)?;
        Ok(Answer::WakeAddress(mac))
    }

    /// Whom to ask what every host knows: the first that is not known to be silent.
    fn anybody(&self) -> Result<HostName, String> {
        let order = self.core.endpoints().in_order();
        let board = self.core.board.borrow();
        let answers = |host: &&HostName| !board.avoid.contains_key(*host);
        let host = order.iter().find(answers).or(order.first());
        host.cloned().ok_or_else(|| "spot.yaml names no host with an address".into())
    }

    async fn guest(&mut self, guest: Vmid) -> Result<Answer, String> {
        let (place, shared) = {
            let board = self.core.board.borrow();
            (board.guests.get(&guest).cloned(), board.shared.clone())
        };
        let (host, kind) = place.ok_or("it is not among the guests that the token sees")?;
        let to = self.core.endpoints().door(&host);
        let path =
            format!("/nodes/{}/{}/{guest}", self.core.endpoints().node(&host), api_name(kind));
        let client = &self.core.client;
        let config = self.at(&to, client.guest_config(&to, &path)).await.map_err(told)?;
        let precondition = self.at(&to, client.precondition(&to, &path)).await.map_err(told)?;
        let named = |node: &str| self.core.endpoints().host(node);
        let mut facts = facts(kind, &config, precondition, &shared, named);
        // Only a guest with something local can have a copy elsewhere.
        if facts.local.iter().any(|volume| volume.replicated) {
            let node = self.core.endpoints().node(&host).to_owned();
            let vmid = guest.to_string();
            let call = client.replications(&to, &node, Some(&vmid));
            let jobs = self.at(&to, call).await.map_err(told)?;
            let good =
                |job: &&wire::Replication| job.guest == guest.0 && !job.disabled && job.synced;
            facts.replicated_to = jobs.iter().filter(good).map(|job| named(&job.target)).collect();
        }
        facts.on = Some(host);
        Ok(Answer::Guest(Box::new(facts)))
    }

    /// A member's jobs are those of the guests on it, so every member is asked.
    async fn replications(&mut self) -> Result<Answer, String> {
        let members = self.core.board.borrow().online.clone();
        let mut jobs = Vec::new();
        for host in members {
            let to = self.core.endpoints().door(&host);
            let node = self.core.endpoints().node(&host).to_owned();
            let call = self.core.client.replications(&to, &node, None);
            for job in self.at(&to, call).await.map_err(told)? {
                jobs.push(ReplicationSeen {
                    guest: Vmid(job.guest),
                    from: host.clone(),
                    to: self.core.endpoints().host(&job.target),
                    running: job.running,
                    disabled: job.disabled,
                    error: job.error,
                });
            }
        }
        Ok(Answer::Replications(jobs))
    }

    async fn ha_status(&mut self) -> Result<Answer, String> {
        let to = self.anybody()?;
        let client = &self.core.client;
        let manager = self.at(&to, client.manager_status(&to)).await.map_err(told)?;
        let shutdown_policy = self.at(&to, client.shutdown_policy(&to)).await.map_err(told)?;
        let named = |node: &str| self.core.endpoints().host(node);
        let by_host = |all: BTreeMap<String, String>| {
            all.into_iter().map(|(node, word)| (named(&node), word)).collect()
        };
        let services = manager.services.into_iter();
        Ok(Answer::HaStatus(Box::new(HaStatus {
            hosts: by_host(manager.nodes),
            agents: by_host(manager.agents),
            services: services.map(|(sid, (node, word))| (sid, (named(&node), word))).collect(),
            shutdown_policy,
        })))
    }

    async fn ceph(&mut self, host: &HostName) -> Result<Answer, String> {
        let to = self.core.endpoints().door(host);
        let node = self.core.endpoints().node(host).to_owned();
        let client = &self.core.client;
        let monitors = self.at(&to, client.ceph_monitors(&to, &node)).await.map_err(told)?;
        let Some(monitors) = monitors else { return Ok(Answer::Ceph(CephSeen::default())) };
        let disks = self.at(&to, client.ceph_disks(&to, &node)).await.map_err(told)?;
        let own = monitors.iter().filter(|(_, on)| *on == node).map(|(name, _)| ("mon", name));
        let mut daemons: Vec<(&str, String)> = own.map(|(kind, id)| (kind, id.clone())).collect();
        daemons.extend(disks.iter().map(|number| ("osd", number.to_string())));
        let mut seen = CephSeen {
            daemons: daemons.iter().map(|(kind, id)| format!("{kind}.{id}")).collect(),
            ..CephSeen::default()
        };
        if daemons.is_empty() {
            return Ok(Answer::Ceph(seen));
        }
        seen.noout = self.at(&to, client.ceph_noout(&to)).await.map_err(told)?;
        for (kind, id) in daemons {
            let call = client.ceph_safety(&to, &node, kind, &id);
            if let Some(words) = self.at(&to, call).await.map_err(told)? {
                seen.needed = Some((format!("{kind}.{id}"), words));
                break;
            }
        }
        Ok(Answer::Ceph(seen))
    }

    async fn storages(&mut self) -> Result<Answer, String> {
        let to = self.anybody()?;
        let entries = self.at(&to, self.core.client.storages(&to)).await.map_err(told)?;
        let named = |node: &String| self.core.endpoints().host(node);
        let one = |entry: wire::StorageEntry| {
            let hosts = entry.nodes.map(|nodes| nodes.iter().map(named).collect());
            (entry.name, StorageConfig { kind: entry.kind, disabled: entry.disabled, hosts })
        };
        Ok(Answer::Storages(entries.into_iter().map(one).collect()))
    }

    async fn task(&mut self, upid: &str) -> Result<Answer, String> {
        let parsed = tasks::Upid::parse(upid)?;
        let host = self.core.endpoints().host(&parsed.node);
        let to = self.core.endpoints().door(&host);
        let call = self.core.client.task(&to, &parsed.node, upid);
        let entry = self.at(&to, call).await.map_err(told)?;
        Ok(Answer::Task(entry.map(|entry| self.task_seen(entry)).transpose()?))
    }

    async fn tasks(
        &mut self,
        host: &HostName,
        guest: Option<Vmid>,
        since: i64,
    ) -> Result<Answer, String> {
        let to = self.core.endpoints().door(host);
        let endpoints = self.core.endpoints();
        let node = endpoints.node(host);
        let (since, guest) = (since.max(0).to_string(), guest.map(|guest| guest.to_string()));
        let mut filter = vec![("since", since.as_str()), ("limit", "500")];
        if let Some(guest) = &guest {
            filter.push(("vmid", guest));
        }
        let entries =
            self.at(&to, self.core.client.node_tasks(&to, node, &filter)).await.map_err(told)?;
        let seen: Result<Vec<TaskSeen>, String> =
            entries.into_iter().map(|entry| self.task_seen(entry)).collect();
        Ok(Answer::Tasks(seen?))
    }

    fn task_seen(&self, entry: wire::TaskEntry) -> Result<TaskSeen, String> {
        tasks::seen(entry, |node| self.core.endpoints().host(node))
    }
}

fn told(trouble: Trouble) -> String {
    trouble.to_string()
}

/// What a guest's configuration and PVE's precondition say together.
fn facts(
    kind: GuestKind,
    config: &BTreeMap<String, String>,
    precondition: Option<Precondition>,
    shared: &BTreeSet<String>,
    host: impl Fn(&str) -> HostName,
) -> GuestFacts {
    let seen = precondition.unwrap_or_default();
    let number = |key: &str| startup_value(config, key).and_then(|value| value.parse().ok());
    let flag = |key: &str| matches!(config.get(key).map(String::as_str), Some("1" | "yes" | "on"));
    let in_snapshot = seen.local_disks.iter().any(|disk| disk.in_snapshot);
    let (local, devices): (Vec<LocalVolume>, Vec<Device>) = match kind {
        // PVE knows best what of a VM is local.
        GuestKind::Vm => (
            seen.local_disks.into_iter().map(volume).collect(),
            seen.devices.into_iter().map(device).collect(),
        ),
        // For containers it checks no storage at all.
        GuestKind::Ct => container_locals(config, shared),
    };
    let storages: BTreeSet<String> =
        volumes(config).map(|(_, storage, _)| storage.into()).collect();
    let first_disk = || volumes(config).find(|(key, _, rest)| *key != "unused" && !is_image(rest));
    let mut local_bytes: BTreeMap<String, u64> = BTreeMap::new();
    for volume in &local {
        if let (Some(storage), Some(bytes)) = (volume.storage(), volume.bytes) {
            *local_bytes.entry(storage.to_owned()).or_default() += bytes;
        }
    }
    GuestFacts {
        on: None,
        local,
        local_bytes,
        devices,
        snapshots: config.contains_key("parent") || in_snapshot,
        host_cpu: config.get("cpu").is_some_and(|cpu| {
            cpu.split(',').any(|part| matches!(part.trim(), "host" | "cputype=host"))
        }),
        allowed: seen.allowed.map(|nodes| nodes.iter().map(|node| host(node)).collect()),
        barred: seen.barred.into_iter().map(|(node, why)| (host(&node), why)).collect(),
        dependents: seen.dependents,
        replicated_to: BTreeSet::new(),
        state_storage: match config.get("vmstatestorage") {
            Some(named) => Some(named.clone()),
            None => first_disk().map(|(_, storage, _)| storage.to_owned()),
        },
        storages,
        onboot: flag("onboot"),
        startup_order: number("order"),
        startup_seconds: number("up"),
        shutdown_seconds: number("down"),
        protection: flag("protection"),
    }
}

fn volume(disk: wire::LocalDisk) -> LocalVolume {
    let kind = match (disk.cdrom, disk.cloud_init, disk.unused) {
        (true, _, _) => VolumeKind::Iso,
        (false, true, _) => VolumeKind::CloudInit,
        (false, false, true) => VolumeKind::Unused,
        (false, false, false) => VolumeKind::Disk,
    };
    LocalVolume {
        linked: is_linked(&disk.volume),
        // PVE replicates the disks a guest uses, and nothing that it makes anew or has put aside.
        replicated: kind == VolumeKind::Disk && !disk.unreplicated,
        name: disk.volume,
        kind,
        bytes: disk.bytes,
    }
}

fn device(found: wire::LocalDevice) -> Device {
    Device { key: found.key, mapped: found.mapped, holds: found.holds }
}

/// `local-zfs:base-100-disk-0/vm-101-disk-0`, or with a folder for each.
fn is_linked(volume: &str) -> bool {
    let name = volume.split_once(':').map_or(volume, |(_, name)| name);
    let mut parts = name.split('/');
    parts.next_back();
    parts.any(|part| part.starts_with("base-") || part.starts_with("basevol-"))
}

/// An image in a drive, by the options of its line.
fn is_image(line: &str) -> bool {
    line.split(',').any(|option| option == "media=cdrom")
}

/// Every line of a configuration that names a volume on a storage: its key without the number, the
/// storage, the line.
fn volumes(config: &BTreeMap<String, String>) -> impl Iterator<Item = (&str, &str, &str)> {
    const KEYS: [&str; 12] = [
        "ide", "sata", "scsi", "virtio", "efidisk", "tpmstate", "unused", "rootfs", "mp",
        "vmstate", "nvme", "disk",
    ];
    config.iter().filter_map(|(key, line)| {
        let plain = key.trim_end_matches(|c: char| c.is_ascii_digit());
        if !KEYS.contains(&plain) {
            return None;
        }
        let volume = line.split(',').next().unwrap_or("");
        let volume = volume.strip_prefix("file=").unwrap_or(volume);
        let volume = volume.strip_prefix("volume=").unwrap_or(volume);
        let (storage, _) = volume.split_once(':').filter(|(name, _)| !name.contains('/'))?;
        Some((plain, storage, line.as_str()))
    })
}

/// `startup: order=2,up=30,down=60`, where a bare number is the order.
fn startup_value<'a>(config: &'a BTreeMap<String, String>, key: &str) -> Option<&'a str> {
    config.get("startup")?.split(',').find_map(|part| match part.trim().split_once('=') {
        Some((name, value)) => (name == key).then_some(value),
        None => (key == "order").then_some(part.trim()),
    })
}

/// Volumes on storages that are not shared and bind mounts not marked shared; devices of the host.
fn container_locals(
    config: &BTreeMap<String, String>,
    shared: &BTreeSet<String>,
) -> (Vec<LocalVolume>, Vec<Device>) {
    let numbered = |key: &str, prefix: &str| {
        key.strip_prefix(prefix)
            .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    let (mut disks, mut devices) = (Vec::new(), Vec::new());
    for (key, line) in config {
        let unused = numbered(key, "unused");
        if key == "rootfs" || numbered(key, "mp") || unused {
            let name = line.split(',').next().unwrap_or("");
            let name = name.strip_prefix("volume=").unwrap_or(name);
            let option = |option: &str| line.split(',').any(|part| part == option);
            let storage = name.split_once(':').map(|(storage, _)| storage);
            let on_shared = storage.is_some_and(|storage| shared.contains(storage));
            if option("shared=1") || on_shared {
                continue;
            }
            let kind = match (name.starts_with('/'), unused) {
                (true, _) => VolumeKind::Mount,
                (false, true) => VolumeKind::Unused,
                (false, false) => VolumeKind::Disk,
            };
            disks.push(LocalVolume {
                name: name.to_owned(),
                kind,
                replicated: kind == VolumeKind::Disk && !option("replicate=0"),
                linked: is_linked(name),
                bytes: line.split(',').find_map(|part| bytes(part.strip_prefix("size=")?)),
            });
        } else if numbered(key, "dev") {
            devices.push(Device { key: key.clone(), mapped: false, holds: true });
        }
    }
    (disks, devices)
}

/// `8G`, `512M`, `4096K`, `1T`, or plain bytes.
fn bytes(text: &str) -> Option<u64> {
    let (number, shift) = match text.char_indices().last()? {
        (end, 'K') => (&text[..end], 10),
        (end, 'M') => (&text[..end], 20),
        (end, 'G') => (&text[..end], 30),
        (end, 'T') => (&text[..end], 40),
        _ => (text, 0),
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(lines: &[(&str, &str)]) -> BTreeMap<String, String> {
        lines.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn a_container_is_held_by_what_is_local_to_its_host() {
        let config = config(&[
            ("rootfs", "nas:203/vm-203-disk-0.raw,size=8G"),
            ("mp0", "local-lvm:vm-203-disk-1,mp=/data"),
            ("mp1", "/srv/media,mp=/media"),
            ("mp2", "/srv/same,mp=/same,shared=1"),
            ("dev0", "/dev/dri/renderD128"),
            ("mpx", "no"),
            ("onboot", "1"),
            ("startup", "order=2,up=30,down=90"),
        ]);
        let shared = BTreeSet::from(["nas".to_owned()]);
        let facts = facts(GuestKind::Ct, &config, None, &shared, |node| node.into());
        let local: Vec<_> = facts.local.iter().map(|one| (one.name.as_str(), one.kind)).collect();
        let disk = ("local-lvm:vm-203-disk-1", VolumeKind::Disk);
        assert_eq!(local, [disk, ("/srv/media", VolumeKind::Mount)]);
        assert!(facts.local[0].replicated && !facts.local[1].replicated);
        assert_eq!(facts.devices[0].spoken(), "a device of its host (dev0)");
        assert_eq!(facts.storages, BTreeSet::from(["local-lvm".to_owned(), "nas".to_owned()]));
        assert_eq!(facts.allowed, None);
        assert!(facts.onboot && !facts.protection);
        assert_eq!((facts.startup_order, facts.shutdown_seconds), (Some(2), Some(90)));
    }

    #[test]
    fn what_of_a_vm_is_local_is_told_apart() {
        let body = br#"{"data":{"running":1,"allowed_nodes":["pve2"],
            "not_allowed_nodes":{"pve2":{},"pve3":{"unavailable_storages":["fast"]},
              "pve4":{"blocking-ha-resources":[{"sid":"vm:101","cause":"resource-affinity"}]}},
            "local_disks":[
              {"volid":"local:100/vm-100-disk-0.qcow2","cdrom":0,"shared":0,"replicate":1,"size":1024},
              {"volid":"local:100/vm-100-disk-1.qcow2","shared":0,"replicate":0},
              {"volid":"local:iso/debian.iso","cdrom":1,"shared":0},
              {"volid":"local:100/vm-100-cloudinit.qcow2","cdrom":1,"shared":0},
              {"volid":"local:100/vm-100-disk-2.qcow2","is_unused":1,"shared":0},
              {"volid":"local:9/base-9-disk-0.qcow2/100/vm-100-disk-3.qcow2","shared":0}],
            "local_resources":["hostpci0","usb0"],"mapped-resources":["usb0"],
            "mapped-resource-info":{"usb0":{"name":"key"}},"dependent-ha-resources":["vm:102"]}}"#;
        let seen = wire::precondition(body).unwrap();
        let config = config(&[
            ("scsi0", "local:100/vm-100-disk-0.qcow2,size=1G"),
            ("ide2", "nas:iso/tools.iso,media=cdrom"),
            ("cpu", "host,flags=+aes"),
            ("parent", "before-upgrade"),
        ]);
        let found = facts(GuestKind::Vm, &config, Some(seen), &BTreeSet::new(), |node| node.into());
        let kinds: Vec<_> = found.local.iter().map(|one| one.kind).collect();
        use VolumeKind::{CloudInit, Disk, Iso, Unused};
        assert_eq!(kinds, [Disk, Disk, Iso, CloudInit, Unused, Disk]);
        let copied: Vec<_> = found.local.iter().map(|one| one.replicated).collect();
        assert_eq!(copied, [true, false, false, false, false, true]);
        assert!(found.local[5].linked && !found.local[0].linked);
        assert_eq!(found.local_bytes, BTreeMap::from([("local".to_owned(), 1024)]));
        assert_eq!(found.barred.len(), 2, "allowed nodes stand there with nothing in them");
        assert_eq!(found.barred[&HostName::from("pve3")], "it has no storage fast");
        assert_eq!(
            found.barred[&HostName::from("pve4")],
            "an affinity rule keeps it away from vm:101"
        );
        let devices: Vec<_> = found.devices.iter().map(|one| (one.spoken(), one.holds)).collect();
        assert_eq!(devices[0], ("a PCI device (hostpci0)".into(), true));
        assert_eq!(devices[1], ("a USB device (usb0, mapped)".into(), true));
        assert!(found.snapshots && found.host_cpu);
        assert_eq!(found.state_storage.as_deref(), Some("local"));
        let storages: Vec<_> = found.storages.iter().map(String::as_str).collect();
        assert_eq!(storages, ["local", "nas"], "an image in the drive counts");
        assert_eq!(found.dependents, ["vm:102"]);
    }

    #[test]
    fn a_bare_startup_is_the_order() {
        assert_eq!(startup_value(&config(&[("startup", "7")]), "order"), Some("7"));
        assert_eq!(startup_value(&config(&[("startup", "7,down=5")]), "down"), Some("5"));
        assert_eq!(startup_value(&config(&[]), "order"), None);
    }

    #[test]
    fn local_volumes_add_up_by_storage() {
        let config = config(&[
            ("rootfs", "local-zfs:subvol-203-disk-0,size=8G"),
            ("mp0", "local-zfs:subvol-203-disk-1,mp=/data,size=512M"),
            ("mp1", "scratch:subvol-203-disk-2,mp=/tmp,size=many"),
        ]);
        let facts = facts(GuestKind::Ct, &config, None, &BTreeSet::new(), |node| node.into());
        assert_eq!(
            facts.local_bytes,
            BTreeMap::from([("local-zfs".into(), (8 << 30) + (512 << 20))])
        );
    }
}
