//! The quiet look: three requests to one host, and the [`Observation`] they add up to.
//!
//! A host that does not answer is passed over and then avoided for a while, so that the look stays
//! at three requests while the preferred host is off; it is tried again when the others see it as a
//! member.
//!
//! **Does not know:** questions beyond the quiet look.

use std::time::Duration;

use super::asking::Asking;
use super::client::Trouble;
use super::wire::{ClusterStatus, GuestResource, NodeResource, Resources, TaskEntry};
use super::{Board, Endpoints, tasks};
use crate::cluster::{
    Gap, GuestKind, GuestSeen, HostName, HostSeen, Memory, Moment, Observation, Reported, RunState,
    StorageSeen, TaskSeen, Vmid,
};
use crate::site::{Clock, Transport};

/// How long a host that did not answer is not asked again by the quiet look.
const AVOID_FOR: Duration = Duration::from_secs(300);

/// What the quiet look brought.
pub struct Look {
    began: Moment,
    from: Option<HostName>,
    status: Option<ClusterStatus>,
    resources: Option<Resources>,
    tasks: Option<Vec<TaskSeen>>,
    gaps: Vec<Gap>,
    /// Hosts that did not answer, and when to ask them again (monotonic).
    silent: Vec<(HostName, Duration)>,
}

/// Names of the gaps that make a look less than whole.
const STATUS: &str = "cluster status";
const RESOURCES: &str = "resources";
const TASKS: &str = "tasks";

/// Asks the first host that answers; `began` is when the look was asked for.
pub async fn look<T: Transport, C: Clock>(asking: &mut Asking<'_, T, C>, began: Moment) -> Look {
    let mut look = Look::blank(began);
    let core = asking.core();
    let client = &core.client;
    let mut told = Vec::new();
    let hosts = candidates(&core.endpoints(), &core.board.borrow(), look.began);
    for host in hosts {
        match asking.at(&host, client.cluster_status(&host)).await {
            Ok(status) => {
                look.from = Some(host.clone());
                look.status = Some(status);
                break;
            }
            Err(trouble) => {
                let everywhere = matches!(trouble, Trouble::Refused { status: 403, .. });
                told.push(trouble.to_string());
                // A right that is missing is missing at every host.
                if everywhere {
                    break;
                }
                look.silent.push((host, asking.now().monotonic + AVOID_FOR));
            }
        }
    }
    let Some(host) = look.from.clone() else {
        if told.is_empty() {
            told.push("spot.yaml names no host with an address".into());
        }
        look.gap(STATUS, told.join("; "));
        look.gap(RESOURCES, "no host answered".into());
        look.gap(TASKS, "no host answered".into());
        return look;
    };
    match asking.at(&host, client.resources(&host)).await {
        Ok(resources) => look.resources = Some(resources),
        Err(trouble) => look.gap(RESOURCES, trouble.to_string()),
    }
    let seen = |entry: TaskEntry| tasks::seen(entry, |node| core.endpoints().host(node));
    let tasks = asking.at(&host, client.cluster_tasks(&host)).await;
    match tasks
        .map_err(|trouble| trouble.to_string())
        .and_then(|entries| entries.into_iter().map(seen).collect::<Result<Vec<_>, _>>())
    {
        Ok(tasks) => look.tasks = Some(tasks),
        Err(why) => look.gap(TASKS, why),
    }
    look
}

/// In the order of preference; those to be avoided last, for they may be all there is.
fn candidates(endpoints: &Endpoints, board: &Board, now: Moment) -> Vec<HostName> {
    let avoided = |host: &HostName| {
        board.avoid.get(host).is_some_and(|until| {
            // A host that is off stays silent; one that the others see is worth another try.
            now.monotonic < *until || !board.online.contains(host)
        })
    };
    let (last, first): (Vec<_>, Vec<_>) = endpoints.in_order().into_iter().partition(avoided);
    first.into_iter().chain(last).collect()
}

impl Look {
    fn blank(began: Moment) -> Look {
        Look {
            began,
            from: None,
            status: None,
            resources: None,
            tasks: None,
            gaps: Vec::new(),
            silent: Vec::new(),
        }
    }

    /// A look that is not over yet.
    pub fn late(began: Moment, limit: Duration) -> Look {
        let mut look = Look::blank(began);
        for what in [STATUS, RESOURCES, TASKS] {
            look.gap(what, format!("no answer within {} s", limit.as_secs()));
        }
        look
    }

    fn gap(&mut self, what: &str, why: String) {
        self.gaps.push(Gap { what: what.into(), why });
    }

    /// Leaves on the board what later looks and questions need.
    pub fn remember(&self, board: &mut Board, endpoints: &Endpoints) {
        if let Some(host) = &self.from {
            board.avoid.remove(host);
        }
        board.avoid.extend(self.silent.iter().cloned());
        if let Some(status) = &self.status {
            board.listed = Some(status.nodes.iter().map(|node| node.node.clone()).collect());
            let online = status.nodes.iter().filter(|node| node.online);
            board.online = online.map(|node| endpoints.host(&node.node)).collect();
        }
        if let Some(resources) = &self.resources {
            let place = |guest: &GuestResource| {
                (Vmid(guest.vmid), (endpoints.host(&guest.node), kind(guest.container)))
            };
            board.guests = resources.guests.iter().map(place).collect();
            let shared = resources.storages.iter().filter(|storage| storage.shared);
            board.shared = shared.map(|storage| storage.storage.clone()).collect();
        }
    }

    /// What was seen, as judgement wants it.
    pub fn picture(&self, endpoints: &Endpoints, board: &Board) -> Observation {
        let mut seen = Observation::blank(self.began);
        seen.gaps = self.gaps.clone();
        if let Some(status) = &self.status {
            seen.cluster = status.name.clone();
            seen.quorate = Some(status.quorate);
            seen.config_version = status.config_version;
            // The host says itself who it is; an address may have been given to the wrong name.
            let local = status.nodes.iter().find(|node| node.local);
            seen.seen_from =
                local.map(|node| endpoints.host(&node.node)).or_else(|| self.from.clone());
        }
        let empty = Resources::default();
        let resources = self.resources.as_ref().unwrap_or(&empty);
        self.hosts(endpoints, board, resources, &mut seen);
        for guest in &resources.guests {
            let entry = guest_seen(guest, endpoints.host(&guest.node));
            if seen.guests.insert(Vmid(guest.vmid), entry).is_some() {
                let why = format!("guest {} is listed twice", guest.vmid);
                seen.gaps.push(Gap { what: RESOURCES.into(), why });
            }
        }
        let storage = |storage: &super::wire::StorageResource| StorageSeen {
            host: endpoints.host(&storage.node),
            name: storage.storage.clone(),
            kind: storage.kind.clone(),
            shared: storage.shared,
            available: storage.available,
            free_bytes: storage.free_bytes,
        };
        seen.storages = resources.storages.iter().map(storage).collect();
        seen.tasks = self.tasks.clone().unwrap_or_default();
        seen
    }

    /// Everybody whom `spot.yaml` or PVE names.
    fn hosts(
        &self,
        endpoints: &Endpoints,
        board: &Board,
        resources: &Resources,
        seen: &mut Observation,
    ) {
        let nodes = self.status.as_ref().map(|status| &status.nodes);
        let configured = endpoints.hosts.iter().map(|(host, end)| (host.clone(), end.node.clone()));
        let found = nodes.into_iter().flatten().map(|node| &node.node);
        let found = found.map(|node| (endpoints.host(node), node.clone()));
        for (host, node) in configured.chain(found) {
            let reported = resources.nodes.iter().find(|entry| entry.node == node);
            let member = nodes.and_then(|nodes| nodes.iter().find(|entry| entry.node == node));
            // While nobody answers, the last word on who is listed stands.
            let listed = board.listed.as_ref().is_none_or(|listed| listed.contains(&node));
            let entry = HostSeen {
                member: member.map(|entry| entry.online),
                listed: member.is_some() || (nodes.is_none() && listed),
                addressed: endpoints.addressed(&host),
                reported: reported.map_or(Reported::Unknown, reported_as),
                uptime_seconds: reported.and_then(|entry| entry.uptime_seconds),
                memory: reported.and_then(memory),
                cpu: reported.and_then(|entry| entry.cpu),
                power: None,
                node,
            };
            seen.hosts.insert(host, entry);
        }
    }
}

fn reported_as(entry: &NodeResource) -> Reported {
    match entry.status.as_str() {
        "online" => Reported::Online,
        "offline" => Reported::Offline,
        _ => Reported::Unknown,
    }
}

fn memory(entry: &NodeResource) -> Option<Memory> {
    Some(Memory { total_bytes: entry.memory_total_bytes?, used_bytes: entry.memory_used_bytes? })
}

fn kind(container: bool) -> GuestKind {
    if container { GuestKind::Ct } else { GuestKind::Vm }
}

fn guest_seen(guest: &GuestResource, host: HostName) -> GuestSeen {
    GuestSeen {
        kind: kind(guest.container),
        host,
        name: guest.name.clone(),
        status: RunState::parse(&guest.status),
        template: guest.template,
        tags: guest.tags.iter().cloned().collect(),
        pool: guest.pool.clone(),
        lock: guest.lock.clone(),
        memory_bytes: guest.memory_bytes,
        cpu: guest.cpu,
        ha: guest.ha.clone(),
        uptime_seconds: guest.uptime_seconds,
    }
}
