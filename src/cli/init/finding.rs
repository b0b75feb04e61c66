//! What `spot init` finds out by itself: the hosts and where each one's API is, hardware addresses,
//! which host is the cheap one, and where this very program runs.
//!
//! The cluster vouches for its own hosts: once the first certificate is confirmed, it tells the
//! fingerprints of all others, and an address is believed only when that certificate is shown
//! there.
//!
//! **Does not know:** what the owner will answer.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::Context;
use nix::ifaddrs::getifaddrs;

use crate::cluster::{HostName, Mac, Tier};
use crate::config::secret_of;
use crate::pve::{
    self, Access, ClusterFound, Door, Fingerprint, NodeFound, Secret, Survey, TlsTransport, Trust,
    cards_behind,
};

const PVE_PORT: u16 = 8006;
/// Guests whose network cards are compared with this machine's, one request each.
const GUESTS_AT_MOST: usize = 200;

/// The cluster as its first host shows it.
pub(super) struct Found {
    pub url: String,
    pub cluster: ClusterFound,
    first: HostName,
    survey: Survey<TlsTransport>,
}

/// Where `spot` lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seat {
    Host(String),
    Guest(u32),
    Outside,
}

impl fmt::Display for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Seat::Host(host) => f.write_str(host),
            Seat::Guest(vmid) => write!(f, "{vmid}"),
            Seat::Outside => f.write_str("outside"),
        }
    }
}

impl Found {
    pub(super) async fn of(
        url: &str,
        pin: Fingerprint,
        token: &str,
        secret: &Secret,
    ) -> anyhow::Result<Found> {
        // Until it has told its own name.
        let first = HostName::from("this host");
        let door = Door { url: url.to_owned(), trust: Trust::Pins(vec![pin]) };
        let access = Access {
            doors: BTreeMap::from([(first.clone(), door)]),
            token: token.to_owned(),
            secret: secret.clone(),
        };
        let transport = TlsTransport::new(access).map_err(anyhow::Error::msg)?;
        let survey = Survey::new(transport, token.to_owned());
        let mut cluster = survey
            .cluster(&first)
            .await
            .map_err(anyhow::Error::msg)
            .context("the cluster could not be read")?;
        anyhow::ensure!(!cluster.nodes.is_empty(), "{url} names no host of its cluster");
        for node in cluster.nodes.iter_mut().filter(|node| node.local) {
            // Seen with our own eyes, which is better than told.
            node.fingerprint = Some(pin);
        }
        if let Some(node) = cluster.nodes.iter().find(|node| node.fingerprint.is_none()) {
            anyhow::bail!(
                "{url} does not tell the certificate of {}; start {} and try again",
                node.node,
                node.node
            );
        }
        Ok(Found { url: url.to_owned(), cluster, first, survey })
    }

    pub(super) fn name(&self) -> String {
        self.cluster.name.clone().unwrap_or_else(|| "(a single host)".into())
    }

    pub(super) fn names(&self) -> String {
        let names: Vec<&str> = self.cluster.nodes.iter().map(|node| node.node.as_str()).collect();
        names.join(", ")
    }

    /// `host1 (3 votes), host2 (1 vote, asleep)`
    pub(super) fn members(&self) -> String {
        let one = |node: &NodeFound| {
            let votes = match node.votes {
                Some(1) => "1 vote".to_owned(),
                Some(votes) => format!("{votes} votes"),
                None => "votes unknown".to_owned(),
            };
            let asleep = if node.online { "" } else { ", not a member now" };
            format!("{} ({votes}{asleep})", node.node)
        };
        self.cluster.nodes.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    fn port(&self) -> u16 {
        self.url.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(PVE_PORT)
    }

    fn address(&self) -> Option<IpAddr> {
        let place = self.url.strip_prefix("https://")?;
        place.parse::<SocketAddr>().ok().map(|address| address.ip())
    }

    pub(super) fn on_loopback(&self) -> bool {
        self.address().is_some_and(|address| address.is_loopback())
    }

    /// Where the API of `node` most likely is. A pretended cluster on loopback has its hosts on one
    /// address and the next ports, in their order; a real one has them on addresses of their own.
    pub(super) fn proposed_door(&self, node: &NodeFound) -> Option<String> {
        if let (true, Some(address)) = (self.on_loopback(), self.address()) {
            let at = |wanted: &NodeFound| {
                self.cluster.nodes.iter().position(|node| node.node == wanted.node)
            };
            let local = self.cluster.nodes.iter().find(|node| node.local)?;
            let first = usize::from(self.port()).checked_sub(at(local)?)?;
            let port = u16::try_from(first + at(node)?).ok()?;
            return Some(format!("https://{}", SocketAddr::new(address, port)));
        }
        let address: IpAddr = node.address.as_ref()?.parse().ok()?;
        Some(format!("https://{}", SocketAddr::new(address, self.port())))
    }

    /// Whether `url` shows the certificate that the cluster knows `node` by.
    pub(super) async fn is_door_of(&self, node: &NodeFound, url: &str) -> Result<(), String> {
        let shown = pve::shown(url).await?.fingerprint;
        match node.fingerprint {
            Some(known) if known == shown => Ok(()),
            Some(known) => Err(format!(
                "{url} is not {}: it shows the certificate {shown}, and the cluster knows {known}",
                node.node
            )),
            None => Err(format!("the cluster does not know the certificate of {}", node.node)),
        }
    }

    /// A host whose votes alone are the majority is meant to be always on; else the one where spot
    /// lives, else the smallest.
    pub(super) fn proposed_tier(&self, node: &NodeFound, here: Option<&Seat>) -> (Tier, String) {
        let votes: u64 = self.cluster.nodes.iter().filter_map(|node| node.votes).sum();
        let alone = |node: &NodeFound| node.votes.is_some_and(|own| own * 2 > votes);
        if self.cluster.nodes.len() == 1 {
            return (Tier::Low, "it is the only one".into());
        }
        if alone(node) {
            return (Tier::Low, "it is quorate alone".into());
        }
        if here == Some(&Seat::Host(node.node.clone())) {
            return (Tier::Low, "spot lives here".into());
        }
        let by_votes = self.cluster.nodes.iter().any(alone);
        let lived_in = matches!(here, Some(Seat::Host(_)));
        let size = |node: &NodeFound| (node.memory_bytes, node.cores, node.number);
        let online = self.cluster.nodes.iter().filter(|node| node.online);
        let smallest = online.min_by_key(|node| size(node));
        if !by_votes && !lived_in && smallest.is_some_and(|small| small.node == node.node) {
            return (Tier::Low, "it is the smallest that is on".into());
        }
        match node.online {
            true => (Tier::Medium, "it is on now".into()),
            false => (Tier::High, "it is off now".into()),
        }
    }

    /// The hardware address that wakes `node`, and how it is known.
    pub(super) async fn mac(&self, node: &NodeFound) -> (Option<Mac>, String) {
        if !node.online {
            return (None, "it is off, and PVE tells it of running hosts only".into());
        }
        let why = match self.survey.wake_property(&self.first, &node.node).await {
            Ok(Some(property)) => return (Some(property.mac), "PVE keeps it for waking".into()),
            Ok(None) => "PVE keeps none".to_owned(),
            Err(why) => why,
        };
        let Some(address) = &node.address else { return (None, why) };
        let report = self.survey.report(&self.first, &node.node, |node| HostName::from(node)).await;
        let cards = match &report {
            Ok(report) => cards_behind(&report.cards, address),
            Err(why) => return (None, why.clone()),
        };
        match cards.as_slice() {
            [card] => (card.mac, format!("of its card {}, which carries {address}", card.name)),
            [] => (None, format!("{why}, and no card is seen to carry {address}")),
            many => {
                let names: Vec<&str> = many.iter().map(|card| card.name.as_str()).collect();
                (many[0].mac, format!("of {}, the first of {}", names[0], names.join(", ")))
            }
        }
    }

    /// Where this program runs: on a host that has an address of this machine, in a guest that has
    /// a network card of this machine, or elsewhere.
    pub(super) async fn seat(&self) -> (Option<Seat>, String) {
        let (addresses, macs) = own_addresses();
        let here = self.cluster.nodes.iter().find(|node| {
            let address = node.address.as_ref().and_then(|text| text.parse::<IpAddr>().ok());
            address.is_some_and(|address| !address.is_loopback() && addresses.contains(&address))
        });
        if let Some(node) = here {
            let address = node.address.clone().unwrap_or_default();
            let why = format!("This machine has the address {address}, so it is {}.", node.node);
            return (Some(Seat::Host(node.node.clone())), why);
        }
        let mut whole = true;
        for node in self.cluster.nodes.iter().filter(|node| node.online) {
            let Ok(guests) = self.survey.guests(&self.first, &node.node).await else {
                whole = false;
                continue;
            };
            whole &= guests.len() <= GUESTS_AT_MOST;
            for (vmid, path, runs) in guests.into_iter().take(GUESTS_AT_MOST) {
                if !runs {
                    continue;
                }
                match self.survey.guest_macs(&self.first, &path).await {
                    Ok(found) => {
                        if let Some(mac) = found.iter().find(|mac| macs.contains(mac)) {
                            let why =
                                format!("This machine has the network card {mac} of guest {vmid}.");
                            return (Some(Seat::Guest(vmid)), why);
                        }
                    }
                    Err(_) => whole = false,
                }
            }
        }
        match whole {
            true => (
                Some(Seat::Outside),
                "No host has an address of this machine and no guest a network card of it.".into(),
            ),
            false => (None, "Not every guest could be compared with this machine.".into()),
        }
    }

    pub(super) fn read_seat(&self, text: &str) -> Result<Seat, String> {
        let text = text.strip_prefix("vmid:").unwrap_or(text).trim();
        if text == "outside" {
            return Ok(Seat::Outside);
        }
        if self.cluster.nodes.iter().any(|node| node.node == text) {
            return Ok(Seat::Host(text.to_owned()));
        }
        match text.parse() {
            Ok(vmid) => Ok(Seat::Guest(vmid)),
            Err(_) => {
                Err(format!("`{text}` is no host ({}), no VMID and not `outside`", self.names()))
            }
        }
    }
}

/// This machine's addresses, and the hardware addresses of its network cards.
fn own_addresses() -> (BTreeSet<IpAddr>, BTreeSet<Mac>) {
    let (mut addresses, mut macs) = (BTreeSet::new(), BTreeSet::new());
    for interface in getifaddrs().into_iter().flatten() {
        let Some(address) = interface.address else { continue };
        if let Some(four) = address.as_sockaddr_in() {
            addresses.insert(IpAddr::V4(four.ip()));
        } else if let Some(six) = address.as_sockaddr_in6() {
            addresses.insert(IpAddr::V6(six.ip()));
        } else if let Some(bytes) = address.as_link_addr().and_then(|link| link.addr())
            && bytes != [0; 6]
        {
            macs.insert(Mac(bytes));
        }
    }
    (addresses, macs)
}

/// `https://ADDRESS:PORT`; what people leave out is added.
pub(super) fn url(text: &str) -> Result<String, String> {
    let text = text.trim().trim_end_matches('/');
    let place = text.strip_prefix("https://").unwrap_or(text);
    let wrong = || format!("`{text}` is not an address such as https://192.168.1.11:8006");
    if place.starts_with("http://") || place.contains(['/', '@', '#', '?', ' ']) {
        return Err(wrong());
    }
    let uri: http::Uri = format!("https://{place}").parse().map_err(|_| wrong())?;
    let authority = uri.authority().filter(|one| !one.host().is_empty()).ok_or_else(wrong)?;
    Ok(format!("https://{}:{}", authority.host(), authority.port_u16().unwrap_or(PVE_PORT)))
}

pub(super) fn token_id(text: &str) -> Result<String, String> {
    let parts = text.split_once('!').and_then(|(user, name)| Some((user.split_once('@')?, name)));
    match parts {
        Some(((user, realm), name))
            if !user.is_empty()
                && !realm.is_empty()
                && !name.is_empty()
                && !text.contains(['=', ' ', '"']) =>
        {
            Ok(text.to_owned())
        }
        Some(_) | None => {
            Err(format!("`{text}` is no token's name: USER@REALM!NAME, such as spot@pve!spot"))
        }
    }
}

pub(super) fn tier(text: &str) -> Result<Tier, String> {
    match text {
        "low" => Ok(Tier::Low),
        "medium" => Ok(Tier::Medium),
        "high" => Ok(Tier::High),
        _ => Err(format!("`{text}` is no tier: low, medium or high")),
    }
}

pub(super) fn secret_in_file(path: &Path) -> anyhow::Result<Secret> {
    secret_of(path).map_err(|why| anyhow::anyhow!("--token-file: {why}"))
}

#[expect(
    clippy::disallowed_methods,
    reason = "--token-env names the variable that holds the secret"
)]
pub(super) fn secret_in_variable(name: &str) -> anyhow::Result<Secret> {
    match std::env::var(name) {
        Ok(text) if !text.trim().is_empty() => Ok(Secret::new(text.trim())),
        Ok(_) | Err(_) => {
            anyhow::bail!("--token-env: the environment variable `{name}` holds no secret")
        }
    }
}

/// People paste what `pveum` shows, or the whole header.
pub(super) fn bare_secret(secret: &Secret, token: &str) -> anyhow::Result<Secret> {
    let text = secret.reveal().trim();
    let text = text.strip_prefix("PVEAPIToken=").unwrap_or(text);
    let text = text.strip_prefix(&format!("{token}=")).unwrap_or(text);
    let plain = |b: u8| b.is_ascii_graphic() && b != b';' && b != b'=';
    anyhow::ensure!(
        !text.is_empty() && text.bytes().all(plain),
        "the secret holds more than one word; it is the `value` that `pveum user token add` showed, \
         alone"
    );
    Ok(Secret::new(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_completed_and_nothing_else_is_taken_for_one() {
        for (text, meant) in [
            ("192.168.1.11", "https://192.168.1.11:8006"),
            ("https://host1.lan/", "https://host1.lan:8006"),
            ("https://[fd00::1]:8007", "https://[fd00::1]:8007"),
        ] {
            assert_eq!(url(text).as_deref(), Ok(meant));
        }
        for text in ["", "http://192.168.1.11", "https://a/b", "root@host1", "https://:8006"] {
            assert!(url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_tokens_name_has_user_realm_and_name() {
        assert!(token_id("spot@pve!spot").is_ok());
        for text in ["spot@pve", "spot!spot", "@pve!spot", "spot@pve!", "spot@pve!spot=x"] {
            assert!(token_id(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_pasted_header_is_cut_down_to_its_secret() {
        let bare = |text: &str| bare_secret(&Secret::new(text), "spot@pve!spot");
        assert_eq!(bare("PVEAPIToken=spot@pve!spot=abc-1").unwrap().reveal(), "abc-1");
        assert_eq!(bare(" abc-1 \n").unwrap().reveal(), "abc-1");
        assert!(bare("two words").is_err() && bare("").is_err());
    }
}
