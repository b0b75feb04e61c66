//! What `spot init` and `spot doctor` read of a cluster beyond what judgement asks: names,
//! addresses and certificates of every host, versions, clocks, hardware addresses, jobs that run
//! by themselves.
//!
//! Each reading is one call at one host's own address, read leniently, and says in one clause why
//! it gave nothing. Nothing here is a base for a power-off.
//!
//! **Does not know:** policies, what is good or bad about what it reads.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::client::{Client, READ_LIMIT, REPORT_LIMIT};
use super::wire::{self, Scalar};
use super::{Fingerprint, evidence};
use crate::cluster::{Evidence, HostName, Mac};
use crate::site::Transport;

/// The API, for looking around.
pub struct Survey<T> {
    client: Client<T>,
}

/// One node as the asked host knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFound {
    pub node: String,
    /// Its number in corosync.conf.
    pub number: u64,
    pub online: bool,
    /// The asked host itself.
    pub local: bool,
    pub address: Option<String>,
    pub fingerprint: Option<Fingerprint>,
    pub votes: Option<u64>,
    pub memory_bytes: Option<u64>,
    pub cores: Option<u64>,
}

/// The cluster as one host shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterFound {
    pub name: Option<String>,
    pub quorate: bool,
    pub nodes: Vec<NodeFound>,
}

/// One interface as `ip -details address` shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Card {
    pub name: String,
    pub mac: Option<Mac>,
    /// The card's own, where it differs from the one in use.
    pub own_mac: Option<Mac>,
    pub addresses: Vec<String>,
    /// The bridge or bond it is part of.
    pub master: Option<String>,
    /// Made by software: a bridge, a bond, a VLAN, a guest's end.
    pub made: bool,
}

/// What a host's report tells beside its evidence.
#[derive(Clone, Debug, PartialEq)]
pub struct Reported {
    pub cards: Vec<Card>,
    /// The address of each storage's server, where storage.cfg names one.
    pub servers: BTreeMap<String, String>,
    pub evidence: Result<Evidence, String>,
}

/// PVE's own `wakeonlan` of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WakeProperty {
    pub mac: Mac,
    pub interface: Option<String>,
}

/// A job that PVE runs by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobFound {
    pub id: String,
    /// A calendar event of systemd's kind, as written.
    pub schedule: String,
    pub enabled: bool,
    /// Only this node, where it is bound to one (for replication: the one it copies to).
    pub node: Option<String>,
    pub storage: Option<String>,
    pub guest: Option<String>,
    /// When it runs next, in seconds since 1970.
    pub next_run: Option<i64>,
    /// What it missed while its host was off it makes up for after the boot.
    pub repeats_missed: bool,
}

type Found<R> = Result<R, String>;

impl<T: Transport> Survey<T> {
    pub fn new(transport: T, token: String) -> Survey<T> {
        Survey { client: Client::new(transport, token) }
    }

    async fn data(&self, to: &HostName, path: String) -> Found<Value> {
        let read = |body: &[u8]| {
            let mut whole: Value = serde_json::from_slice(body).map_err(|why| why.to_string())?;
            Ok(whole.get_mut("data").map(Value::take).unwrap_or_default())
        };
        self.client.get(to, path, &[], READ_LIMIT, read).await.map_err(|why| why.to_string())
    }

    async fn list(&self, to: &HostName, path: &str) -> Found<Vec<Value>> {
        match self.data(to, path.to_owned()).await? {
            Value::Array(entries) => Ok(entries),
            _ => Err(format!("{to}: {path} gave no list")),
        }
    }

    /// Every node with its address, its certificate and its votes.
    pub async fn cluster(&self, to: &HostName) -> Found<ClusterFound> {
        let status = self.list(to, "/cluster/status").await?;
        let mut found = ClusterFound::default();
        for entry in &status {
            match text(entry, "type").as_deref() {
                Some("cluster") => {
                    found.name = text(entry, "name");
                    found.quorate = flag(entry, "quorate");
                }
                Some("node") => found.nodes.push(NodeFound {
                    node: text(entry, "name").unwrap_or_default(),
                    number: number(entry, "nodeid").unwrap_or_default(),
                    online: flag(entry, "online"),
                    local: flag(entry, "local"),
                    address: text(entry, "ip"),
                    ..NodeFound::default()
                }),
                Some(_) | None => {}
            }
        }
        for entry in self.list(to, "/nodes").await? {
            let Some(node) = found.node(text(&entry, "node")) else { continue };
            node.fingerprint = text(&entry, "ssl_fingerprint").and_then(|text| text.parse().ok());
            node.memory_bytes = number(&entry, "maxmem");
            node.cores = number(&entry, "maxcpu");
        }
        // A host that stands alone has no such list.
        for entry in self.list(to, "/cluster/config/nodes").await.unwrap_or_default() {
            let Some(node) = found.node(text(&entry, "node")) else { continue };
            node.votes = Some(number(&entry, "quorum_votes").unwrap_or(1));
            if node.address.is_none() {
                node.address = text(&entry, "ring0_addr");
            }
        }
        found.nodes.sort_by_key(|node| node.number);
        Ok(found)
    }

    /// `9.2.11`
    pub async fn version(&self, to: &HostName) -> Found<String> {
        let found = self.data(to, "/version".into()).await?;
        text(&found, "version").ok_or_else(|| format!("{to} does not say its version"))
    }

    /// PVE's own `wakeonlan`, which it tells of a running host only. Asked at `to`, about `node`.
    pub async fn wake_property(&self, to: &HostName, node: &str) -> Found<Option<WakeProperty>> {
        let found = self.data(to, format!("/nodes/{node}/config")).await?;
        Ok(text(&found, "wakeonlan").as_deref().and_then(wake_property))
    }

    /// Seconds since 1970 by the host's own clock.
    pub async fn clock_seconds(&self, to: &HostName, node: &str) -> Found<u64> {
        let found = self.data(to, format!("/nodes/{node}/time")).await?;
        number(&found, "time").ok_or_else(|| format!("{to} does not say its time"))
    }

    /// Services of the host that run.
    pub async fn services(&self, to: &HostName, node: &str) -> Found<BTreeSet<String>> {
        let entries = self.list(to, &format!("/nodes/{node}/services")).await?;
        let runs = |entry: &Value| text(entry, "state").as_deref() == Some("running");
        Ok(entries.iter().filter(|one| runs(one)).filter_map(|one| text(one, "service")).collect())
    }

    /// `shutdown_policy` of HA; `None` where nobody set one.
    pub async fn shutdown_policy(&self, to: &HostName) -> Found<Option<String>> {
        let found = self.data(to, "/cluster/options".into()).await?;
        let ha = found.get("ha");
        // Older versions hand out the line as it stands in the file.
        let line = ha.and_then(Value::as_str).and_then(|line| {
            line.split(',').find_map(|part| part.strip_prefix("shutdown_policy="))
        });
        Ok(line.map(str::to_owned).or_else(|| text(ha?, "shutdown_policy")))
    }

    /// Guests that HA manages, as it names them: `vm:100`.
    pub async fn ha_services(&self, to: &HostName) -> Found<Vec<String>> {
        let entries = self.list(to, "/cluster/ha/resources").await?;
        Ok(entries.iter().filter_map(|entry| text(entry, "sid")).collect())
    }

    pub async fn backup_jobs(&self, to: &HostName) -> Found<Vec<JobFound>> {
        Ok(self.list(to, "/cluster/backup").await?.iter().map(job).collect())
    }

    pub async fn replications(&self, to: &HostName) -> Found<Vec<JobFound>> {
        Ok(self.list(to, "/cluster/replication").await?.iter().map(job).collect())
    }

    /// Hardware addresses of a guest's network cards.
    pub async fn guest_macs(&self, to: &HostName, guest_path: &str) -> Found<Vec<Mac>> {
        let path = format!("{guest_path}/config");
        let found = self.client.get(to, path, &[], READ_LIMIT, wire::guest_config).await;
        let config: BTreeMap<String, String> = found.map_err(|why| why.to_string())?;
        let cards = config.iter().filter(|(key, _)| key.starts_with("net"));
        let parts = cards.flat_map(|(_, value)| value.split(','));
        Ok(parts.filter_map(|part| part.split_once('=')?.1.parse().ok()).collect())
    }

    /// Guests of one node: `/nodes/…/qemu/100`, their number, whether they run.
    pub async fn guests(&self, to: &HostName, node: &str) -> Found<Vec<(u32, String, bool)>> {
        let mut found = Vec::new();
        for kind in ["qemu", "lxc"] {
            let entries = self.client.guests(to, node, kind).await;
            for guest in entries.map_err(|why| why.to_string())? {
                let path = format!("/nodes/{node}/{kind}/{}", guest.vmid);
                found.push((guest.vmid, path, guest.status == "running"));
            }
        }
        Ok(found)
    }

    /// 6 to 11 s on real servers. `host` translates PVE's names.
    pub async fn report(
        &self,
        to: &HostName,
        node: &str,
        host: impl Fn(&str) -> HostName,
    ) -> Found<Reported> {
        let path = format!("/nodes/{node}/report");
        let found = self.client.get(to, path, &[], REPORT_LIMIT, wire::report).await;
        let report = found.map_err(|why| why.to_string())?;
        Ok(Reported {
            cards: cards(&report),
            servers: servers(&report),
            evidence: evidence::read(&report, node, host),
        })
    }
}

impl ClusterFound {
    fn node(&mut self, name: Option<String>) -> Option<&mut NodeFound> {
        let name = name?;
        self.nodes.iter_mut().find(|node| node.node == name)
    }
}

fn scalar(entry: &Value, key: &str) -> Option<Scalar> {
    serde_json::from_value(entry.get(key)?.clone()).ok()
}

fn text(entry: &Value, key: &str) -> Option<String> {
    scalar(entry, key)?.text()
}

fn number(entry: &Value, key: &str) -> Option<u64> {
    scalar(entry, key)?.number()
}

fn flag(entry: &Value, key: &str) -> bool {
    scalar(entry, key).and_then(|value| value.flag()).unwrap_or(false)
}

fn job(entry: &Value) -> JobFound {
    let disabled = flag(entry, "disable");
    let enabled = scalar(entry, "enabled").and_then(|value| value.flag()).unwrap_or(true);
    JobFound {
        id: text(entry, "id").unwrap_or_default(),
        // PVE's own default for replication.
        schedule: text(entry, "schedule").unwrap_or_else(|| "*/15".into()),
        enabled: enabled && !disabled,
        node: text(entry, "node").or_else(|| text(entry, "target")),
        storage: text(entry, "storage"),
        guest: text(entry, "guest"),
        next_run: number(entry, "next-run").and_then(|seconds| i64::try_from(seconds).ok()),
        repeats_missed: flag(entry, "repeat-missed"),
    }
}

/// `[mac=]MAC[,bind-interface=IFACE][,broadcast-address=IPv4]`
fn wake_property(line: &str) -> Option<WakeProperty> {
    let mut parts = line.split(',');
    let first = parts.next()?;
    let mac = first.strip_prefix("mac=").unwrap_or(first).parse().ok()?;
    let interface = parts.find_map(|part| part.strip_prefix("bind-interface="));
    Some(WakeProperty { mac, interface: interface.map(str::to_owned) })
}

/// Kinds of interface that the kernel makes, as `ip -details` names them.
const MADE: [&str; 10] = [
    "bridge",
    "bond",
    "vlan",
    "veth",
    "tun",
    "vxlan",
    "dummy",
    "openvswitch",
    "macvlan",
    "wireguard",
];
/// A report of 32 bridges and a thousand guests; more is no list of network cards.
const CARDS_AT_MOST: usize = 4_096;

/// The interfaces in a report's `ip -details -statistics address`.
fn cards(report: &str) -> Vec<Card> {
    let mut cards: Vec<Card> = Vec::new();
    let lines = report.lines().skip_while(|line| !line.starts_with("# ip -details -statistics a"));
    for line in
        lines.skip(1).take_while(|line| !line.starts_with("# ") && !line.starts_with("===="))
    {
        if let Some(card) = heading(line) {
            if cards.len() == CARDS_AT_MOST {
                break;
            }
            cards.push(card);
            continue;
        }
        let Some(card) = cards.last_mut() else { continue };
        let mut words = line.split_whitespace();
        match words.next() {
            Some("link/ether") => {
                card.mac = words.next().and_then(|word| word.parse().ok());
                let own = words.skip_while(|word| *word != "permaddr").nth(1);
                card.own_mac = own.and_then(|word| word.parse().ok());
            }
            Some("inet" | "inet6") => {
                let address = words.next().and_then(|word| word.split('/').next());
                card.addresses.extend(address.map(str::to_owned));
            }
            Some(word) => card.made |= MADE.contains(&word),
            None => {}
        }
    }
    cards
}

/// `nfs: shared`, then `server 192.168.1.13` below it, in a report's storage.cfg.
fn servers(report: &str) -> BTreeMap<String, String> {
    let lines = report.lines().skip_while(|line| *line != "# cat /etc/pve/storage.cfg").skip(1);
    let (mut found, mut storage) = (BTreeMap::new(), None);
    for line in lines.take_while(|line| !line.starts_with("# ") && !line.starts_with("====")) {
        if !line.starts_with(char::is_whitespace) {
            storage = line.split_once(": ").map(|(_, name)| name.trim().to_owned());
        } else if let (Some(name), Some(("server", server))) =
            (&storage, line.trim().split_once(char::is_whitespace))
        {
            found.insert(name.clone(), server.trim().to_owned());
        }
    }
    found
}

/// `2: enp1s0: <BROADCAST,…> mtu 1500 qdisc fq master vmbr0 state UP …`
fn heading(line: &str) -> Option<Card> {
    let (number, rest) = line.split_once(": ")?;
    number.parse::<u32>().ok()?;
    let (name, rest) = rest.split_once(": ")?;
    // `eno1.7@eno1` is a VLAN on eno1.
    let (name, on) = name.split_once('@').map_or((name, None), |(name, on)| (name, Some(on)));
    let master = rest.split_whitespace().skip_while(|word| *word != "master").nth(1);
    Some(Card {
        name: name.to_owned(),
        master: master.map(str::to_owned),
        made: on.is_some(),
        ..Card::default()
    })
}

/// The cards behind `address`, from the bridge down to what a magic packet can reach: the card that
/// has the address itself, or the cards of its bridge or bond.
pub fn cards_behind<'a>(cards: &'a [Card], address: &str) -> Vec<&'a Card> {
    /// An address on a VLAN on a bridge on a bond of cards.
    const DEEPEST: usize = 4;
    let Some(top) = cards.iter().find(|card| card.addresses.iter().any(|one| one == address))
    else {
        return Vec::new();
    };
    let below = |top: &Card| -> Vec<&'a Card> {
        let on = top.name.split('.').next().unwrap_or_default().to_owned();
        let top = top.name.clone();
        let part = cards.iter().filter(|card| card.master.as_ref() == Some(&top));
        let carrier = cards.iter().filter(|card| on != top && card.name == on);
        part.chain(carrier).collect()
    };
    let mut found: Vec<&Card> = vec![top];
    for _ in 0..DEEPEST {
        found = found
            .into_iter()
            .flat_map(|card| if card.made { below(card) } else { vec![card] })
            .collect();
    }
    found.retain(|card| !card.made && card.mac.is_some());
    if found.is_empty() && top.mac.is_some() && below(top).is_empty() {
        found.push(top);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "\
==== info about network ====
# ip -details -statistics address
1: lo: <LOOPBACK,UP,LOWER_UP> mtu 65536 qdisc noqueue state UNKNOWN group default qlen 1000
    link/loopback 00:00:00:00:00:00 brd 00:00:00:00:00:00 promiscuity 0
    inet 127.0.0.1/8 scope host lo
2: enp1s0: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1500 qdisc pfifo_fast master vmbr0 state UP
    link/ether a8:a1:59:00:00:02 brd ff:ff:ff:ff:ff:ff promiscuity 1 permaddr a8:a1:59:00:00:22
    bridge_slave state forwarding priority 32
    RX:  bytes packets errors dropped  missed   mcast
3: wlp2s0: <BROADCAST,MULTICAST> mtu 1500 qdisc noop state DOWN
    link/ether a8:a1:59:00:00:99 brd ff:ff:ff:ff:ff:ff promiscuity 0
4: vmbr0: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1500 qdisc noqueue state UP group default
    link/ether a8:a1:59:00:00:02 brd ff:ff:ff:ff:ff:ff promiscuity 0
    bridge forward_delay 0 hello_time 200 max_age 2000
    inet 192.168.1.12/24 scope global vmbr0
       valid_lft forever preferred_lft forever
    inet6 fe80::aaa1:59ff:fe00:2/64 scope link
5: tap100i0: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1500 qdisc fq_codel master vmbr0 state UP
    link/ether 3e:11:22:33:44:55 brd ff:ff:ff:ff:ff:ff promiscuity 2
    tun type tap pi off vnet_hdr on persist off
# ip -details -4 route show
6: no: <X> card
";

    #[test]
    fn the_card_behind_a_bridge_is_the_one_that_wakes() {
        let cards = cards(REPORT);
        assert_eq!(cards.len(), 5);
        let behind = cards_behind(&cards, "192.168.1.12");
        assert_eq!(behind.len(), 1);
        assert_eq!(behind[0].name, "enp1s0");
        assert_eq!(behind[0].mac.unwrap().to_string(), "a8:a1:59:00:00:02");
        assert_eq!(behind[0].own_mac.unwrap().to_string(), "a8:a1:59:00:00:22");
        assert!(cards_behind(&cards, "192.168.1.13").is_empty());
        assert!(super::cards("nothing of the kind").is_empty());
    }

    #[test]
    fn a_storage_is_known_by_its_servers_address() {
        let report = "# cat /etc/pve/storage.cfg\ndir: local\n\tpath /var/lib/vz\n\nnfs: nas\n\t\
                      export /srv\n\tserver 192.168.1.13\n\tcontent images\n# pvesm status\n";
        let expected = BTreeMap::from([("nas".to_owned(), "192.168.1.13".to_owned())]);
        assert_eq!(servers(report), expected);
    }

    #[test]
    fn what_pve_keeps_for_waking_is_read_in_each_of_its_forms() {
        for (line, interface) in [
            ("A8:A1:59:00:00:03", None),
            ("mac=a8:a1:59:00:00:03", None),
            ("a8:a1:59:00:00:03,bind-interface=vmbr0,broadcast-address=10.0.0.255", Some("vmbr0")),
        ] {
            let found = wake_property(line).unwrap();
            assert_eq!(found.mac.to_string(), "a8:a1:59:00:00:03");
            assert_eq!(found.interface.as_deref(), interface);
        }
        assert_eq!(wake_property("ff:ff:ff:ff:ff:ff"), None);
        assert_eq!(wake_property(""), None);
    }
}
