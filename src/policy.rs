//! What the owner wants of the cluster: a [`Policy`], valid by construction.
//!
//! A policy is made only by [`text::read`], which reports every fault of every file at once, with
//! its place and a remedy. Whoever holds a `Policy` may trust it: every host a rule names exists,
//! no `low` host has a window, every window opens some day, every duration is positive.
//!
//! **Does not know:** what is running now, or how any host is reached.

pub mod backups;
pub mod calendar;
mod carets;
#[cfg(test)]
mod cases;
pub mod crontab;
mod guests;
mod hosts;
mod reader;
mod rules;
pub mod scalars;
pub mod schema;
pub mod text;
pub mod votes;
mod yaml;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use jiff::Timestamp;

use crate::cluster::{BackupRun, GuestKind, HostName, Mac, Tier, Vmid, Way};
use calendar::{Opening, Window};

/// Everything the owner's files say, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    pub(crate) hosts: BTreeMap<HostName, Host>,
    pub(crate) guests: Vec<GuestRule>,
    pub(crate) rules: Vec<Rule>,
    pub(crate) quorum: QuorumPolicy,
    pub(crate) migrations: Migrations,
}

impl Policy {
    pub fn hosts(&self) -> &BTreeMap<HostName, Host> {
        &self.hosts
    }

    pub fn host(&self, name: &HostName) -> Option<&Host> {
        self.hosts.get(name)
    }

    pub fn guest_rules(&self) -> &[GuestRule] {
        &self.guests
    }

    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    pub fn quorum(&self) -> &QuorumPolicy {
        &self.quorum
    }

    pub fn migrations(&self) -> &Migrations {
        &self.migrations
    }

    /// The open window that closes last among all rules naming `host`, and its rule's name.
    /// `backups` are PVE's runs, which alone open the windows of `for_backups`.
    pub fn opening(
        &self,
        host: &HostName,
        now: Timestamp,
        backups: &[BackupRun],
    ) -> Option<(&str, Opening)> {
        let windows =
            self.windows(host).filter_map(|(name, window)| Some((name, window.open_at(now)?)));
        let jobs =
            self.backups(host).filter_map(|(name, jobs)| Some((name, jobs.open_at(backups, now)?)));
        // An unknown close is later than any known one.
        windows.chain(jobs).max_by_key(|(_, opening)| {
            (opening.closes.is_none(), opening.closes, Reverse(opening.opens))
        })
    }

    /// The window that opens first after `after` among all rules naming `host`, and its rule's
    /// name.
    pub fn next_opening(
        &self,
        host: &HostName,
        after: Timestamp,
        backups: &[BackupRun],
    ) -> Option<(&str, Opening)> {
        let windows =
            self.windows(host).filter_map(|(name, window)| Some((name, window.next_after(after)?)));
        let jobs = self
            .backups(host)
            .filter_map(|(name, jobs)| Some((name, jobs.next_after(backups, after)?)));
        windows.chain(jobs).min_by_key(|(_, opening)| opening.opens)
    }

    /// Every `for_backups` of every rule naming `host`.
    pub fn backups(&self, host: &HostName) -> impl Iterator<Item = (&str, &ForBackups)> {
        let rules = self.rules.iter().filter(move |rule| rule.hosts.contains(host));
        rules.filter_map(|rule| Some((rule.name.as_str(), rule.for_backups.as_ref()?)))
    }

    /// The stretch of quiet that holds for `host` now: policies do not wake it meanwhile.
    pub fn quiet_now(&self, host: &HostName, now: Timestamp) -> Option<Opening> {
        let quiet = &self.hosts.get(host)?.quiet;
        let open = quiet.iter().filter_map(|window| window.open_at(now));
        open.max_by_key(|opening| (opening.closes.is_none(), opening.closes))
    }

    /// Every window of every rule naming `host`.
    fn windows(&self, host: &HostName) -> impl Iterator<Item = (&str, &Window)> {
        let rules = self.rules.iter().filter(move |rule| rule.hosts.contains(host));
        rules.flat_map(|rule| rule.run.iter().map(|window| (rule.name.as_str(), window)))
    }

    /// The place of a rule of ours in the policy's order.
    pub fn rule_number(&self, rule: &GuestRule) -> usize {
        let ours = |one: &GuestRule| std::ptr::eq(one, rule);
        self.guests.iter().position(ours).unwrap_or(self.guests.len())
    }

    /// The first rule that matches a guest.
    pub fn guest_rule(&self, guest: &GuestTraits<'_>) -> Option<&GuestRule> {
        self.guests.iter().find(|rule| rule.matches.applies(guest))
    }
}

/// One host as its owner describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Host {
    /// PVE's name of it; the host's own name unless `node:` says otherwise.
    pub node: String,
    pub tier: Tier,
    pub macs: Vec<Mac>,
    pub wake: WakeHints,
    /// After this long without a ready host, a wake has failed.
    pub boot_within: Duration,
    /// Not put to sleep sooner after it came up.
    pub min_on: Duration,
    /// Not woken sooner by a window after it went to sleep; never delays a command or a rescue.
    pub min_off: Duration,
    /// What `spot up` means without `--for`.
    pub lease: Duration,
    /// Never woken by policies in these stretches; a lease still wakes.
    pub quiet: Vec<Window>,
    /// May be powered off even when somebody else switched it on.
    pub enforce: bool,
    /// How early a wake starts before a window.
    pub ahead: Ahead,
    pub serves: Vec<Serves>,
    /// Names of checks that keep it awake; what they run is in `spot.yaml`.
    pub busy_while: Vec<String>,
    pub watts: Option<Watts>,
    /// Memory kept free of guests.
    pub reserve: Reserve,
    /// What may not keep it awake, though it would by default.
    pub uninhibited: BTreeSet<Inhibitor>,
}

impl Host {
    /// The ways of a wake, as they travel inside a request.
    pub fn ways(&self) -> Vec<Way> {
        let way = |mac: &Mac| Way {
            mac: *mac,
            broadcast: self.wake.broadcast,
            interface: self.wake.interface.clone(),
            password: self.wake.password.clone(),
            relay: self.wake.relay.clone(),
        };
        self.macs.iter().map(way).collect()
    }

    /// Stands for everything a proof of waking rests on; a change revokes the proof.
    pub fn wake_print(&self) -> String {
        Way::print(&self.ways())
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct WakeHints {
    pub broadcast: Option<Ipv4Addr>,
    pub interface: Option<String>,
    /// Name of the credential with the SecureOn password.
    pub password: Option<String>,
    /// Another host that may send PVE's own packet as a second path.
    pub relay: Option<HostName>,
    /// The owner vouches that it wakes.
    pub proven: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ahead {
    /// By learned boot and move times.
    Auto,
    By(Duration),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserve {
    /// Of the host's whole memory.
    Percent(u32),
    Bytes(u64),
}

/// What keeps a host awake by default, each with a switch under `inhibit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Inhibitor {
    /// A backup to or from it, running or about to.
    Backups,
    /// A replication to or from it.
    Replication,
    /// Any running task on it that is not ours.
    Tasks,
    /// A lock on one of its guests.
    Locks,
    /// A Ceph monitor or disk that is still needed.
    Ceph,
    /// A service of PVE's HA manager.
    Ha,
    /// A guest tagged `spot-stay`.
    StayTag,
}

impl Inhibitor {
    /// Every inhibitor by its key.
    pub const ALL: &[(&str, Inhibitor)] = &[
        ("backups", Inhibitor::Backups),
        ("replication", Inhibitor::Replication),
        ("tasks", Inhibitor::Tasks),
        ("locks", Inhibitor::Locks),
        ("ceph", Inhibitor::Ceph),
        ("ha", Inhibitor::Ha),
        ("stay_tag", Inhibitor::StayTag),
    ];
}

#[derive(Clone, Debug, PartialEq)]
pub enum Serves {
    /// A storage others use; busy when guests use it or backups go to it.
    Storage { name: String, busy_when: BusyWhen },
    /// The QDevice's server lives here.
    Qnetd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BusyWhen {
    Guests,
    Backups,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Watts {
    pub off: f64,
    pub idle: f64,
    pub busy: f64,
}

/// What a rule is matched against.
#[derive(Clone, Copy, Debug)]
pub struct GuestTraits<'a> {
    pub vmid: Vmid,
    pub kind: GuestKind,
    pub name: Option<&'a str>,
    pub tags: &'a BTreeSet<String>,
    pub pool: Option<&'a str>,
}

/// Every named trait must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Match {
    pub any: bool,
    pub vmids: Option<BTreeSet<Vmid>>,
    pub tag: Option<String>,
    /// A name with `*` standing for any run of characters.
    pub name: Option<String>,
    pub pool: Option<String>,
    pub kind: Option<GuestKind>,
}

impl Match {
    pub fn applies(&self, guest: &GuestTraits<'_>) -> bool {
        let vmid = self.vmids.as_ref().is_none_or(|vmids| vmids.contains(&guest.vmid));
        let tag = self.tag.as_ref().is_none_or(|tag| guest.tags.contains(tag));
        let name = self
            .name
            .as_ref()
            .is_none_or(|pattern| guest.name.is_some_and(|name| matches_pattern(pattern, name)));
        let pool = self.pool.as_deref().is_none_or(|pool| guest.pool == Some(pool));
        let kind = self.kind.is_none_or(|kind| guest.kind == kind);
        vmid && tag && name && pool && kind
    }
}

/// Whether `name` fits `pattern`, where `*` stands for any run of characters.
///
/// Greedy with one point of return, so it takes at most |pattern| × |name| steps.
fn matches_pattern(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        if p < pattern.len() && pattern[p] == '*' {
            star = Some((p, n));
            p += 1;
        } else if p < pattern.len() && pattern[p] == name[n] {
            (p, n) = (p + 1, n + 1);
        } else if let Some((star_p, star_n)) = star {
            star = Some((star_p, star_n + 1));
            (p, n) = (star_p + 1, star_n + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// Where guests of one kind belong, and what happens when none of those places is awake.
#[derive(Clone, Debug, PartialEq)]
pub struct GuestRule {
    pub matches: Match,
    pub prefer: Vec<HostName>,
    pub otherwise: Otherwise,
    /// A container may move by a restart.
    pub restart: bool,
    /// Never moved; its host stays awake while it runs, unless `otherwise` stops it.
    pub pinned: bool,
    pub local_disks: LocalDisks,
    /// Guests of one name stay on different hosts.
    pub apart: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Otherwise {
    /// Anywhere that is awake and fits.
    Migrate,
    /// Suspend to disk; where PVE refuses that, `or`.
    Hibernate {
        or: OrElse,
    },
    ShutDown,
    KeepAwake,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrElse {
    Migrate,
    ShutDown,
    KeepAwake,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalDisks {
    /// Move only to a replication target.
    Replicated,
    Move,
    Stay,
}

/// One named policy.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    pub name: String,
    pub hosts: Vec<HostName>,
    pub run: Vec<Window>,
    pub for_backups: Option<ForBackups>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ForBackups {
    pub storage: String,
    pub before: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub struct QuorumPolicy {
    /// Votes to keep above the bare majority after every power-off.
    pub spare: u32,
    pub evidence: EvidencePolicy,
    pub rescue: Rescue,
}

impl Default for QuorumPolicy {
    fn default() -> QuorumPolicy {
        QuorumPolicy { spare: 0, evidence: EvidencePolicy::Runtime, rescue: Rescue::Wake }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvidencePolicy {
    Runtime,
    /// Votes from corosync.conf only: weaker, and said everywhere.
    Configured,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rescue {
    Wake,
    Tell,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Migrations {
    /// Migrations at once from or to one host.
    pub per_host: u32,
    /// Bytes per second on the link; `None` unlimited.
    pub bandwidth: Option<u64>,
}

impl Default for Migrations {
    fn default() -> Migrations {
        Migrations { per_host: 1, bandwidth: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_run_of_characters() {
        for (pattern, name, fits) in [
            ("web-*", "web-1", true),
            ("web-*", "web", false),
            ("*", "", true),
            ("*a*b", "xayab", true),
            ("a*b", "acb-", false),
            ("nas", "nas", true),
        ] {
            assert_eq!(matches_pattern(pattern, name), fits, "{pattern} on {name}");
        }
    }
}
