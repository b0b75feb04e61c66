//! Whether every host that may sleep can be woken: its hardware address, the interface that would
//! send, whether it was ever seen to wake, and the line that arms its card.
//!
//! No answer of PVE's says whether a card is armed; so the line is given wherever a wake was never
//! seen.
//!
//! **Does not know:** how packets are sent.

use crate::cli::live;
use crate::cluster::{HostName, Mac};
use crate::journal::Journal;
use crate::ledger::HostRecord;
use crate::policy::Host;
use crate::pve::{Card, cards_behind};
use crate::wake;

use super::{Checks, Visit};

pub(super) async fn waking(visit: &Visit<'_>, checks: &mut Checks) {
    interfaces(visit, checks);
    let ledger = Journal::read_only(&live::journal(visit.config)).and_then(|one| one.replay()).ok();
    for name in visit.may_rest() {
        let Some(host) = visit.policy.and_then(|policy| policy.host(name)) else { continue };
        if !visit.seen.hosts.get(name).is_none_or(|look| look.listed) {
            continue;
        }
        address(visit, name, host, checks).await;
        let record = ledger.as_ref().and_then(|ledger| ledger.hosts.get(name));
        proof(visit, name, host, record, checks);
    }
}

/// Where packets would leave this machine.
fn interfaces(visit: &Visit<'_>, checks: &mut Checks) {
    let mut by = checks.by("wake_interface", "the network interfaces of this machine");
    if !visit.config.wake_only.is_empty() {
        let only: Vec<String> = visit.config.wake_only.iter().map(ToString::to_string).collect();
        return by.warning(
            format!("magic packets go to {} and nowhere else", only.join(" and ")),
            "take `wake_only` out of spot.yaml when you mean real hosts",
        );
    }
    match wake::interfaces() {
        Ok(names) if names.is_empty() => by.fault(
            "no network interface is up that a magic packet could leave by",
            "run spot where it shares a network segment with the hosts (in a container: host networking)",
        ),
        Ok(names) => by.good(format!("magic packets leave by {}", names.join(" and "))),
        Err(why) => by.unknown(why, "ip address"),
    }
    for name in visit.may_rest() {
        let Some(host) = visit.policy.and_then(|policy| policy.host(name)) else { continue };
        if let (Some(wanted), Ok(names)) = (&host.wake.interface, wake::interfaces())
            && !names.contains(wanted)
        {
            by.fault(
                format!(
                    "{name} is to be woken by {wanted}, which is not up here or has no address"
                ),
                format!("correct `wake.interface` of {name} in its policy: {}", names.join(", ")),
            );
        }
    }
}

/// The hardware address, against what PVE and the host itself say.
async fn address(visit: &Visit<'_>, name: &HostName, host: &Host, checks: &mut Checks) {
    let mut by = checks.by("wake_mac", format!("`mac` of {name}, its node config and its report"));
    if host.macs.is_empty() {
        return by.fault(
            format!("{name} has no `mac` in its policy, so it can never be woken"),
            format!("add `mac:` to {name}; while it is awake: ssh root@{name} ip -br link"),
        );
    }
    let Some(node) = visit.awake.get(name) else {
        return by.unknown(
            format!("{name} is not awake, so its address {} cannot be compared", shown(&host.macs)),
            "try again while it is awake",
        );
    };
    let property = visit.survey.wake_property(name, node).await.ok().flatten();
    if let Some(property) = &property
        && !host.macs.contains(&property.mac)
    {
        by.warning(
            format!(
                "PVE would wake {name} at {}, and the policy at {}",
                property.mac,
                shown(&host.macs)
            ),
            format!(
                "pvenode config set --wakeonlan {} (on {name}), or correct the policy",
                shown(&host.macs)
            ),
        );
    }
    let cards = visit.reports.get(name).and_then(|one| one.as_ref().ok()).map(|one| &one.cards);
    let Some(cards) = cards.filter(|cards| !cards.is_empty()) else {
        return by.unknown(format!("the network cards of {name} are not known"), "try again");
    };
    match host.macs.iter().find(|mac| card(cards, **mac).is_none()) {
        None => {
            by.good(format!("{name} has the address {} that it is woken at", shown(&host.macs)))
        }
        Some(mac) => by.fault(
            format!("{name} has no network card {mac}"),
            format!("its own are: {}", own(visit, name, cards)),
        ),
    }
}

fn card(cards: &[Card], mac: Mac) -> Option<&Card> {
    let has = |card: &&Card| card.mac == Some(mac) || card.own_mac == Some(mac);
    // A bridge borrows the address of a card.
    cards.iter().find(|card| has(card) && !card.made).or_else(|| cards.iter().find(has))
}

fn own(visit: &Visit<'_>, name: &HostName, cards: &[Card]) -> String {
    let evidence =
        visit.reports.get(name).and_then(|one| one.as_ref().ok()?.evidence.as_ref().ok());
    let addresses = evidence.map_or(&[][..], |one| &one.addresses);
    let behind = addresses.iter().flat_map(|address| cards_behind(cards, address));
    let mut told: Vec<String> =
        behind.filter_map(|card| Some(format!("{} ({})", card.mac?, card.name))).collect();
    told.sort();
    told.dedup();
    if told.is_empty() { "not seen".into() } else { told.join(", ") }
}

fn proof(
    visit: &Visit<'_>,
    name: &HostName,
    host: &Host,
    record: Option<&HostRecord>,
    checks: &mut Checks,
) {
    let mut by = checks.by("wake_proven", format!("the journal's entries about {name}"));
    if host.macs.is_empty() {
        return;
    }
    let cards = visit.reports.get(name).and_then(|one| one.as_ref().ok()).map(|one| &one.cards);
    let found = cards.and_then(|cards| host.macs.iter().find_map(|mac| card(cards, *mac)));
    let interface = found.map_or("IFACE", |card| card.name.as_str());
    let arm = format!(
        "arm its card, now and after every boot, then prove it:\n    ssh root@{name} ethtool -s \
         {interface} wol g\n    spot prove {name}\nIn /etc/network/interfaces it belongs under \
         `iface {interface}` as `post-up ethtool -s {interface} wol g`; and the firmware must \
         allow waking by network."
    );
    let proven = record.and_then(|record| record.proof.as_ref());
    match (proven, record) {
        (Some(print), _) if *print == host.wake_print() => {
            by.good(format!("{name} was seen to wake by packet"));
        }
        (Some(_), _) => by.warning(
            format!("{name} was seen to wake, but by another address or way than now"),
            format!("spot prove {name}"),
        ),
        (None, _) if host.wake.proven => {
            by.good(format!("you vouch that {name} wakes (`wake: {{ proven: true }}`)"));
        }
        (None, Some(HostRecord { unproven_because: Some(why), .. })) => {
            by.warning(format!("{name} is not proven to wake: {why}"), arm);
        }
        (None, Some(_) | None) => by.warning(
            format!("{name} was never seen to wake, so spot does not put it to sleep by itself"),
            arm,
        ),
    }
}

fn shown(macs: &[Mac]) -> String {
    let macs: Vec<String> = macs.iter().map(Mac::to_string).collect();
    macs.join(" and ")
}
