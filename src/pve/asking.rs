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
    Answer, BackupJob, Gap, GuestFacts, GuestKind, HostName, LiveGuest, Membership, Moment,
    Permissions, Question, Readiness, RunState, TaskSeen, Vmid,
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
        facts.on = Some(host);
        Ok(Answer::Guest(Box::new(facts)))
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
    let (local_disks, local_devices, sizes) = match kind {
        // PVE knows best what of a VM is local.
        GuestKind::Vm => (seen.local_disks, seen.local_devices, seen.local_sizes),
        // For containers it checks no storage at all.
        GuestKind::Ct => container_locals(config, shared),
    };
    let mut local_bytes: BTreeMap<String, u64> = BTreeMap::new();
    for (volume, bytes) in &sizes {
        if let Some((storage, _)) = volume.split_once(':') {
            *local_bytes.entry(storage.to_owned()).or_default() += bytes;
        }
    }
    GuestFacts {
        on: None,
        local_disks,
        local_bytes,
        local_devices,
        allowed: seen.allowed.map(|nodes| nodes.iter().map(|node| host(node)).collect()),
        onboot: flag("onboot"),
        startup_order: number("order"),
        shutdown_seconds: number("down"),
        protection: flag("protection"),
    }
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
) -> (Vec<String>, Vec<String>, BTreeMap<String, u64>) {
    let numbered = |key: &str, prefix: &str| {
        key.strip_prefix(prefix)
            .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    let (mut disks, mut devices, mut sizes) = (Vec::new(), Vec::new(), BTreeMap::new());
    for (key, value) in config {
        if key == "rootfs" || numbered(key, "mp") || numbered(key, "unused") {
            let volume = value.split(',').next().unwrap_or("");
            let volume = volume.strip_prefix("volume=").unwrap_or(volume);
            let marked = value.split(',').any(|option| option == "shared=1");
            let on_shared = volume.split_once(':').is_some_and(|(name, _)| shared.contains(name));
            if !marked && !on_shared {
                let size = value.split(',').find_map(|option| option.strip_prefix("size="));
                sizes.extend(size.and_then(bytes).map(|bytes| (volume.to_owned(), bytes)));
                disks.push(volume.to_owned());
            }
        } else if numbered(key, "dev") {
            devices.push(key.clone());
        }
    }
    (disks, devices, sizes)
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
        assert_eq!(facts.local_disks, ["local-lvm:vm-203-disk-1", "/srv/media"]);
        assert_eq!(facts.local_bytes, BTreeMap::new(), "no size is told for what is local");
        assert_eq!(facts.local_devices, ["dev0"]);
        assert_eq!(facts.allowed, None);
        assert!(facts.onboot && !facts.protection);
        assert_eq!((facts.startup_order, facts.shutdown_seconds), (Some(2), Some(90)));
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
