//! The `hosts` of a policy file.
//!
//! A host with a fault still comes back whole, with defaults where it was wrong: its name must be
//! known to the checks over all files, or one mistake would be reported many times. The faults
//! alone decide that no `Policy` comes of it.
//!
//! **Does not know:** what the other files say.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::reader::{At, Fields, Place, Reader, either};
use super::rules::{self, Frame};
use super::scalars::{self, ValueFault};
use super::yaml::brief;
use super::{Ahead, BusyWhen, Host, Inhibitor, Reserve, Serves, WakeHints, Watts};
use crate::cluster::{HostName, Mac, Tier};

const KEYS: &[&str] = &[
    "tier",
    "node",
    "mac",
    "wake",
    "boot_within",
    "min_on",
    "min_off",
    "lease",
    "quiet",
    "enforce",
    "ahead",
    "serves",
    "busy_while",
    "reserve",
    "inhibit",
    "watts",
];

/// Boot, quorum and storages of a server take 2 to 5 minutes; twice that has failed.
const BOOT_WITHIN: Duration = Duration::from_secs(10 * 60);
/// A host that came up is worth its boot for at least this long.
const MIN_ON: Duration = Duration::from_secs(15 * 60);
/// Disks and fans are not made for sleeping a minute.
const MIN_OFF: Duration = Duration::from_secs(10 * 60);
/// An evening's work.
const LEASE: Duration = Duration::from_secs(4 * 3600);

const TIERS: &[(&str, Tier)] =
    &[("low", Tier::Low), ("medium", Tier::Medium), ("high", Tier::High)];

/// A host as one file describes it, with the places that later checks point at.
#[derive(Debug)]
pub(crate) struct HostDraft {
    pub name: HostName,
    pub place: Place,
    pub host: Host,
    pub node_place: Place,
    pub macs: Vec<(Mac, Place)>,
    pub relay: Option<(HostName, Place)>,
}

pub(crate) fn read(reader: &mut Reader<'_>, at: &At<'_>, frame: &mut Frame) -> Vec<HostDraft> {
    let Some(names) = reader.open_fields(at) else { return Vec::new() };
    names.all().map(|(name, at)| host(reader, name, &at, frame)).collect()
}

fn host(reader: &mut Reader<'_>, name: &str, at: &At<'_>, frame: &mut Frame) -> HostDraft {
    if !names_a_host(name) {
        reader.error(
            &at.key_place(),
            format!("`{}` cannot be the name of a host", brief(name)),
            "use letters, digits, `-`, `_` and `.`, at most 63 of them",
        );
    }
    let name = HostName::new(brief(name));
    let mut draft = HostDraft {
        place: at.key_place(),
        host: plain(&name),
        node_place: at.key_place(),
        macs: Vec::new(),
        relay: None,
        name,
    };
    if at.node.is_nothing() {
        reader.error(
            &at.key_place(),
            "nothing is said of this host",
            "write at least its tier: `{ tier: high }`",
        );
    } else if let Some(fields) = reader.fields(at, KEYS) {
        basics(reader, &fields, &mut draft);
        limits(reader, &fields, &mut draft.host);
        if let Some(at) = fields.get(reader, "quiet") {
            draft.host.quiet = rules::quiet(reader, &at, frame);
        }
        duties(reader, &fields, &mut draft.host);
    }
    draft
}

/// A host of which nothing but its name is known. Its tier is the one that forbids nothing, so that
/// a fault in it is not reported a second time by the checks over all files.
fn plain(name: &HostName) -> Host {
    Host {
        node: name.0.clone(),
        tier: Tier::High,
        macs: Vec::new(),
        wake: WakeHints::default(),
        boot_within: BOOT_WITHIN,
        min_on: MIN_ON,
        min_off: MIN_OFF,
        lease: LEASE,
        quiet: Vec::new(),
        enforce: false,
        ahead: Ahead::Auto,
        serves: Vec::new(),
        busy_while: Vec::new(),
        watts: None,
        reserve: Reserve::Percent(10),
        uninhibited: Default::default(),
    }
}

/// Names travel in commands, paths and metrics, so they are as plain as host names.
fn names_a_host(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=63).contains(&name.len())
        && name.chars().all(plain)
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
}

/// What it is, and how it is woken.
fn basics(reader: &mut Reader<'_>, fields: &Fields<'_>, draft: &mut HostDraft) {
    let help = "write `tier: low`, `medium` or `high`: how dear it is to run; `low` is always on";
    let tier = fields.need(reader, "tier", help);
    let tier = tier.and_then(|at| reader.one_of(&at, TIERS));
    if let Some(tier) = tier {
        draft.host.tier = tier;
    }
    if let Some(at) = fields.get(reader, "node")
        && let Some(node) = reader.word(&at, "write the node's name as PVE shows it")
    {
        draft.host.node = node.to_owned();
        draft.node_place = at.place();
    }
    if let Some(at) = fields.get(reader, "mac") {
        macs(reader, &at, draft);
    } else if !fields.has("mac") && matches!(tier, Some(Tier::Medium | Tier::High)) {
        reader.warning(
            &fields.place(),
            format!(
                "{} has no `mac`, so it can never be woken and will never be put to sleep",
                draft.name
            ),
            "write `mac: \"…\"` with the address of the card that listens for magic packets",
        );
    }
    if let Some(at) = fields.get(reader, "wake") {
        wake(reader, &at, draft);
    }
}

fn macs(reader: &mut Reader<'_>, at: &At<'_>, draft: &mut HostDraft) {
    const HELP: &str = "write it as the card's label or `ip link` shows it, such as \
                        \"a8:a1:59:00:00:03\"";
    let Some(items) = reader.list_or_one(at, HELP) else { return };
    if items.is_empty() {
        reader.error(&at.place(), "an empty list of MAC addresses", HELP);
    }
    for item in items {
        let read = |text: &str| {
            let fault = |message| ValueFault { message, help: HELP.into() };
            if text.len() > 64 {
                Err(fault("this is not a MAC address".into()))
            } else {
                text.parse().map_err(fault)
            }
        };
        if let Some(mac) = reader.value::<Mac>(&item, HELP, read) {
            if draft.host.macs.contains(&mac) {
                reader.warning(
                    &item.place(),
                    format!("{mac} stands here twice"),
                    "keep one of them",
                );
            } else {
                draft.host.macs.push(mac);
                draft.macs.push((mac, item.place()));
            }
        }
    }
}

fn wake(reader: &mut Reader<'_>, at: &At<'_>, draft: &mut HostDraft) {
    let keys = &["broadcast", "interface", "password", "relay", "proven"];
    let Some(fields) = reader.fields(at, keys) else { return };
    let wake = &mut draft.host.wake;
    if let Some(at) = fields.get(reader, "broadcast") {
        wake.broadcast = reader.value(&at, "write an address such as 192.168.1.255", |text| {
            text.parse::<Ipv4Addr>().map_err(|_| ValueFault {
                message: format!("`{}` is not an IPv4 address", brief(text)),
                help: "write the network's broadcast address, such as 192.168.1.255".into(),
            })
        });
    }
    if let Some(at) = fields.get(reader, "interface") {
        wake.interface = reader.value(&at, "write an interface such as vmbr0", |text| {
            // The kernel's own limit for names of interfaces.
            let fits = (1..=15).contains(&text.len())
                && !text.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control());
            if fits {
                return Ok(text.to_owned());
            }
            scalars::fault(
                format!("`{}` cannot be the name of an interface", brief(text)),
                "write it as `ip link` shows it, such as vmbr0",
            )
        });
    }
    if let Some(at) = fields.get(reader, "password") {
        wake.password = password(reader, &at);
    }
    if let Some(at) = fields.get(reader, "relay")
        && let Some(relay) = reader.word(&at, "write the name of a host that is always on")
    {
        let relay = HostName::from(relay);
        if relay == draft.name {
            reader.error(&at.place(), "a host cannot wake itself", "name another host");
        } else {
            wake.relay = Some(relay.clone());
            draft.relay = Some((relay, at.place()));
        }
    }
    if let Some(at) = fields.get(reader, "proven") {
        wake.proven = reader.yes_or_no(&at).unwrap_or(false);
    }
}

/// The name of a credential; the password itself would be in the owner's git.
fn password(reader: &mut Reader<'_>, at: &At<'_>) -> Option<String> {
    const HELP: &str =
        "write `password: { credential: NAME }`; the password itself stays out of git";
    if !matches!(at.node.value, super::yaml::Value::Map(_)) {
        reader.error(&at.place(), "a password may not stand in a policy", HELP);
        return None;
    }
    let fields = reader.fields(at, &["credential"])?;
    let at = fields.need(reader, "credential", HELP)?;
    reader.value(&at, HELP, |text| {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let named =
            (1..=64).contains(&text.len()) && text.chars().all(plain) && !text.starts_with('.');
        if named {
            return Ok(text.to_owned());
        }
        scalars::fault(
            "this cannot be the name of a credential",
            "use letters, digits, `-`, `_` and `.`, such as `wol-host3`",
        )
    })
}

/// How long things take, and how long they are left in peace.
fn limits(reader: &mut Reader<'_>, fields: &Fields<'_>, host: &mut Host) {
    if let Some(at) = fields.get(reader, "boot_within") {
        host.boot_within = reader.some_time(&at).unwrap_or(BOOT_WITHIN);
    }
    if let Some(at) = fields.get(reader, "min_on") {
        host.min_on = reader.duration(&at).unwrap_or(MIN_ON);
    }
    if let Some(at) = fields.get(reader, "min_off") {
        host.min_off = reader.duration(&at).unwrap_or(MIN_OFF);
    }
    if let Some(at) = fields.get(reader, "lease") {
        host.lease = reader.some_time(&at).unwrap_or(LEASE);
    }
    if let Some(at) = fields.get(reader, "enforce") {
        host.enforce = reader.yes_or_no(&at).unwrap_or(false);
    }
    if let Some(at) = fields.get(reader, "ahead") {
        let ahead =
            reader.value(&at, "write `auto` or a duration such as `10m`", |text| match text {
                "auto" => Ok(Ahead::Auto),
                "0" => Ok(Ahead::By(Duration::ZERO)),
                _ => scalars::duration(text).map(Ahead::By),
            });
        host.ahead = ahead.unwrap_or(Ahead::Auto);
    }
    if let Some(at) = fields.get(reader, "reserve") {
        host.reserve = reader
            .value(&at, "write `10 %` or a size such as `2 GiB`", reserve)
            .unwrap_or(host.reserve);
    }
}

/// `10 %` or `2 GiB`.
fn reserve(text: &str) -> Result<Reserve, ValueFault> {
    match text.trim().strip_suffix('%') {
        Some(percent) => {
            scalars::whole(percent.trim(), 0, 90).map(Reserve::Percent).map_err(|_| ValueFault {
                message: format!("`{}` is not a share of memory", brief(text)),
                help: "write 0 to 90 percent, such as `10 %`".into(),
            })
        }
        None => scalars::size(text).map(Reserve::Bytes),
    }
}

/// What others need it for, what keeps it awake, and what it draws.
fn duties(reader: &mut Reader<'_>, fields: &Fields<'_>, host: &mut Host) {
    if let Some(at) = fields.get(reader, "serves") {
        let help = "write a list such as `[{ storage: pbs, busy_when: backups }]`";
        let items = reader.list(&at, help).unwrap_or_default();
        host.serves = items.iter().filter_map(|item| serves(reader, item)).collect();
    }
    if let Some(at) = fields.get(reader, "busy_while") {
        let help = "write the names of checks that spot.yaml defines, such as `[ssh-sessions]`";
        let items = reader.list_or_one(&at, help).unwrap_or_default();
        let words = items.iter().filter_map(|item| reader.word(item, help));
        host.busy_while = words.map(str::to_owned).collect();
    }
    if let Some(at) = fields.get(reader, "inhibit") {
        inhibit(reader, &at, host);
    }
    if let Some(at) = fields.get(reader, "watts") {
        host.watts = watts(reader, &at);
    }
}

fn serves(reader: &mut Reader<'_>, at: &At<'_>) -> Option<Serves> {
    const HELP: &str = "write `{ storage: NAME, busy_when: guests }`, or `{ qnetd: true }`";
    let fields = reader.fields(at, &["storage", "busy_when", "qnetd"])?;
    match (fields.get(reader, "storage"), fields.get(reader, "qnetd")) {
        (Some(storage), None) => {
            let name = reader.word(&storage, "write the storage's name as PVE shows it");
            let when = fields.need(reader, "busy_when", HELP)?;
            let words = [("guests", BusyWhen::Guests), ("backups", BusyWhen::Backups)];
            let busy_when = reader.one_of(&when, &words)?;
            Some(Serves::Storage { name: name?.to_owned(), busy_when })
        }
        (None, Some(qnetd)) => {
            if let Some(when) = fields.get(reader, "busy_when") {
                let message = "a QDevice's server is needed at all times";
                reader.error(&when.key_place(), message, "remove `busy_when` here");
            }
            reader.yes_or_no(&qnetd)?.then_some(Serves::Qnetd)
        }
        (Some(_), Some(second)) => {
            reader.error(&second.key_place(), "one item serves one thing", HELP);
            None
        }
        (None, None) => {
            if !fields.has("storage") && !fields.has("qnetd") {
                reader.error(&at.place(), "it is not said what is served", HELP);
            }
            None
        }
    }
}

fn inhibit(reader: &mut Reader<'_>, at: &At<'_>, host: &mut Host) {
    let known: Vec<&str> = Inhibitor::ALL.iter().map(|(name, _)| *name).collect();
    let Some(fields) = reader.fields(at, &known) else { return };
    for (name, inhibitor) in Inhibitor::ALL {
        if let Some(at) = fields.get(reader, name)
            && reader.yes_or_no(&at) == Some(false)
        {
            host.uninhibited.insert(*inhibitor);
        }
    }
    if fields.is_empty() {
        let help = format!("write `false` for one of {}", either(&known));
        reader.warning(&at.key_place(), "no inhibitor is named", help);
    }
}

fn watts(reader: &mut Reader<'_>, at: &At<'_>) -> Option<Watts> {
    const HELP: &str = "write all three: `{ off: 2, idle: 48, busy: 210 }`";
    let fields = reader.fields(at, &["off", "idle", "busy"])?;
    let mut one = |key| {
        let at = fields.need(reader, key, HELP)?;
        reader.value(&at, HELP, scalars::watts).map(|watts| (watts, at.place()))
    };
    let (off, idle, busy) = (one("off"), one("idle"), one("busy"));
    let ((off, _), (idle, idle_place), (busy, busy_place)) = (off?, idle?, busy?);
    if idle < off {
        reader.error(
            &idle_place,
            "it draws less when idle than when off",
            "look at the two figures again",
        );
        return None;
    }
    if busy < idle {
        reader.error(
            &busy_place,
            "it draws less when busy than when idle",
            "look at the two figures again",
        );
        return None;
    }
    Some(Watts { off, idle, busy })
}
