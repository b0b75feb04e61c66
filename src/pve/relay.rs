//! A wake by all its ways: our own packets, and PVE's own packet sent by a relay.
//!
//! A relay is another host, on the sleeper's own switch perhaps, where `spot` itself is not. It is
//! asked by `POST /nodes/{sleeper}/wakeonlan` at *its own* address, for PVE lets whoever is asked
//! send. It knows the sleeper's address from the cluster's files, which the owner must have told it
//! (`pvenode config set --wakeonlan`), and sends one packet. So it comes on top of our own packets
//! and never instead of them; when it fails the wake goes on, and the answer says so.
//!
//! **Does not know:** how often a wake is tried, by which sockets our own packets leave.

use std::collections::BTreeSet;

use super::{Core, Live};
use crate::cluster::{HostName, Mac, Way};
use crate::request::Answered;
use crate::site::{Clock, Transport, Waker};

impl<T: Transport, W: Waker, C: Clock> Live<T, W, C> {
    /// One volley to `host`.
    pub(super) async fn wake(&self, host: &HostName, ways: &[Way]) -> Answered {
        let (mut packets, mut by, mut but) = match self.waker.volley(ways).await {
            Ok((packets, by)) => (packets, by, Vec::new()),
            Err(why) => (0, Vec::new(), vec![why]),
        };
        let relays: BTreeSet<&HostName> =
            ways.iter().filter_map(|way| way.relay.as_ref()).collect();
        // Confined packets go to named addresses; PVE's own would go out into the real network.
        for relay in relays.into_iter().filter(|_| !self.waker.confined()) {
            let macs: Vec<Mac> = ways.iter().map(|way| way.mac).collect();
            match self.core.relayed(relay, host, &macs).await {
                Ok(()) => {
                    packets += 1;
                    by.push(format!("{relay} as relay"));
                }
                Err(why) => but.push(format!("the relay {relay} sent none: {why}")),
            }
        }
        match packets {
            0 => Answered::Undelivered { sentence: but.join("; ") },
            1.. => Answered::Sent { packets, by, but },
        }
    }
}

impl<T: Transport, C> Core<T, C> {
    /// Asks `relay` to send PVE's packet to `host`.
    async fn relayed(&self, relay: &HostName, host: &HostName, macs: &[Mac]) -> Result<(), String> {
        if !self.endpoints().addressed(relay) {
            return Err("spot.yaml names no address for it; add its URL under `hosts`".into());
        }
        // An address where nobody is costs seconds that the turn has better use for.
        if self.board.borrow().listed.is_some() && !self.board.borrow().online.contains(relay) {
            return Err("it is not up".into());
        }
        let node = self.endpoints().plain_node(host)?.to_owned();
        let mend = |mac: &Mac| format!("pvenode config set --wakeonlan {mac}");
        let remedy = macs.first().map(mend).unwrap_or_default();
        let sent_to =
            self.client.wake_by_relay(relay, &node).await.map_err(|why| match why.to_string() {
                text if text.contains("No wake on LAN MAC") => {
                    format!("{text} (on {host}, while it is up: `{remedy}`)")
                }
                text => text,
            })?;
        match sent_to.parse::<Mac>() {
            Ok(mac) if macs.contains(&mac) => Ok(()),
            Ok(_) | Err(_) => Err(format!(
                "PVE knows {host} by the address `{sent_to}`, which its policy does not name (on \
                 {host}: `{remedy}`)"
            )),
        }
    }
}
