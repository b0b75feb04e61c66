//! Why: every reason to be awake is a [`Reason`], every reason not to act a [`Hold`], each with its
//! one sentence, and a hold with what would release it.
//!
//! The same sentence goes to the command line, the page, the metrics and the journal. Not acting is
//! not an error; a hold is a value that the plan carries, so that nothing wanted is ever silently
//! not done.
//!
//! **Does not know:** how anything is shown.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;

use super::inhibit::Inhibits;
use super::passage::Obstacle;
use crate::cluster::{GuestKind, HostName, RunState, Vmid};

/// Why a host ought to be awake, asleep or left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Tier `low`: always on.
    AlwaysOn,
    Frozen {
        by: String,
    },
    Rescue {
        spare: u32,
    },
    LeaseAwake {
        by: String,
        because: Option<String>,
        until: Option<Timestamp>,
    },
    LeaseRest {
        by: String,
        until: Option<Timestamp>,
    },
    Emptying {
        by: String,
    },
    Proving,
    Window {
        policy: String,
        until: Option<Timestamp>,
    },
    /// The wake for a window that opens soon has begun.
    Ahead {
        policy: String,
        opens: Timestamp,
    },
    /// No policy knows it: it is left alone.
    Unmanaged,
    /// Nothing wants it: the rest state of its tier.
    Nothing,
}

impl Reason {
    pub fn code(&self) -> &'static str {
        match self {
            Reason::AlwaysOn => "always_on",
            Reason::Frozen { .. } => "frozen",
            Reason::Rescue { .. } => "rescue",
            Reason::LeaseAwake { .. } => "lease_awake",
            Reason::LeaseRest { .. } => "lease_rest",
            Reason::Emptying { .. } => "emptying",
            Reason::Proving => "proving",
            Reason::Window { .. } => "window",
            Reason::Ahead { .. } => "ahead",
            Reason::Unmanaged => "unmanaged",
            Reason::Nothing => "nothing",
        }
    }

    pub fn until(&self) -> Option<Timestamp> {
        match self {
            Reason::LeaseAwake { until, .. }
            | Reason::LeaseRest { until, .. }
            | Reason::Window { until, .. } => *until,
            Reason::Ahead { opens, .. } => Some(*opens),
            Reason::AlwaysOn
            | Reason::Frozen { .. }
            | Reason::Rescue { .. }
            | Reason::Emptying { .. }
            | Reason::Proving
            | Reason::Unmanaged
            | Reason::Nothing => None,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::AlwaysOn => f.write_str("it is of tier low, which is always on"),
            Reason::Frozen { by } => write!(f, "{by} froze it"),
            Reason::Rescue { spare } => {
                write!(
                    f,
                    "the cluster has too few votes ({spare} should be to spare), and this host's would help"
                )
            }
            Reason::LeaseAwake { by, because, .. } => {
                write!(f, "{by} asked for it")?;
                because.as_ref().map_or(Ok(()), |because| write!(f, " ({because})"))
            }
            Reason::LeaseRest { by, .. } => write!(f, "{by} asked it to sleep"),
            Reason::Emptying { by } => write!(f, "{by} wants it empty and on"),
            Reason::Proving => f.write_str("it is being proven: one supervised sleep and wake"),
            Reason::Window { policy, .. } => write!(f, "policy {policy} wants it"),
            Reason::Ahead { policy, .. } => write!(f, "policy {policy} wants it soon"),
            Reason::Unmanaged => f.write_str("no policy file names it, so it is left alone"),
            Reason::Nothing => f.write_str("nothing wants it awake"),
        }
    }
}

/// Why something wanted is not done now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hold {
    /// The look was not whole.
    Unseen {
        what: String,
    },
    ClockUnsure,
    /// PVE or the policy does not know the host.
    UnknownHost {
        host: HostName,
    },
    HostFrozen {
        host: HostName,
    },
    /// Woken by policies only outside its quiet hours.
    Quiet {
        host: HostName,
        until: Option<Timestamp>,
    },
    NoMac {
        host: HostName,
    },
    /// Off for less than `min_off`.
    JustLeft {
        host: HostName,
        until: Timestamp,
    },
    /// Awake for less than `min_on`.
    JustCame {
        host: HostName,
        until: Timestamp,
    },
    /// The next window is too near for a sleep to be worth it.
    WantedSoon {
        host: HostName,
        opens: Timestamp,
    },
    /// It is wanted for PVE's backup jobs, and they could not be read.
    BackupsUnseen {
        host: HostName,
        policy: String,
        why: String,
    },
    /// Never seen to wake.
    Unproven {
        host: HostName,
        why: Option<String>,
    },
    /// Somebody else switched it on, outside every window.
    NotOurs {
        host: HostName,
    },
    WakeFailing {
        host: HostName,
        attempts: u32,
        until: Timestamp,
    },
    WakeGivenUp {
        host: HostName,
        attempts: u32,
    },
    /// Its packets do not leave.
    NotSent {
        host: HostName,
        why: String,
    },
    /// A low host is off: its owner's affair.
    LowAbsent {
        host: HostName,
    },
    /// It joined long ago and is still not ready.
    NotReady {
        host: HostName,
        why: String,
    },
    /// Our last power-off did nothing.
    StopFailing {
        host: HostName,
        until: Timestamp,
    },
    /// Asked to power off long ago, and still a member.
    SlowStop {
        host: HostName,
        since: Timestamp,
    },
    /// By the configured votes the cluster cannot spare it.
    VotesShort {
        host: HostName,
        remaining: u32,
        needed: u32,
    },
    /// Another undertaking touches it.
    Busy {
        host: HostName,
        with: String,
    },
    /// A guest keeps its host awake.
    GuestStays {
        host: HostName,
        guest: Vmid,
        why: Stays,
    },
    /// A guest waits: where it belongs is not awake, or the last try failed.
    GuestWaits {
        guest: Vmid,
        host: Option<HostName>,
        why: String,
        until: Option<Timestamp>,
    },
    GuestLocked {
        host: HostName,
        guest: Vmid,
        kind: GuestKind,
        lock: String,
    },
    /// Something other than its guests needs the host.
    Inhibited {
        host: HostName,
        what: Inhibits,
    },
    /// The host vanished; it is told, not counted, and its guests are never started elsewhere.
    HostMissing {
        host: HostName,
    },
    /// corosync.conf changed while it sleeps: it will be thrown out when it returns.
    ConfigRose {
        host: HostName,
        at_leave: u64,
        now: u64,
    },
    RescueImpossible {
        why: String,
    },
    /// The policy lets hosts sleep together that the configured votes can never spare.
    NeverTogether {
        sentence: String,
    },
    /// `rescue: tell`: quorum is at stake and the owner wants only to be told.
    RescueTold {
        host: HostName,
    },
    /// Somebody acts with our token, or shuts down a host under our hands.
    AnotherSpot {
        what: String,
        until: Timestamp,
    },
    /// Our token may not do what this home needs.
    RightMissing {
        privilege: &'static str,
        path: String,
        what_for: &'static str,
        grant: String,
    },
    /// The gate said no.
    Gate {
        code: &'static str,
        host: Option<HostName>,
        guest: Option<Vmid>,
        sentence: String,
        remedy: String,
    },
}

/// Why a guest keeps its host awake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stays {
    /// `pinned: true`
    Pinned,
    /// `otherwise: keep-awake`
    KeepAwake,
    /// It cannot change hosts.
    Obstacle(Obstacle),
    /// No awake, wanted and ready host has room or is allowed.
    NowhereToGo { why: String },
    /// It runs in a state that cannot move.
    State { state: RunState },
    /// Managed by HA: spot does not stop it.
    Ha,
}

impl fmt::Display for Stays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stays::Pinned => f.write_str("it is pinned there"),
            Stays::KeepAwake => f.write_str("its rule says keep-awake"),
            Stays::Obstacle(obstacle) => write!(f, "it {obstacle}"),
            Stays::NowhereToGo { why } => write!(f, "it has nowhere to go: {why}"),
            Stays::State { state } => write!(f, "it is {state} and cannot be moved"),
            Stays::Ha => f.write_str("the HA manager runs it"),
        }
    }
}

impl Hold {
    /// Whether a host is awake for its sake alone, at its owner's cost.
    pub fn keeps_awake(&self) -> bool {
        matches!(self, Hold::Inhibited { .. } | Hold::GuestStays { .. } | Hold::GuestLocked { .. })
    }

    pub fn code(&self) -> &'static str {
        match self {
            Hold::Unseen { .. } => "unseen",
            Hold::ClockUnsure => "clock_unsure",
            Hold::UnknownHost { .. } => "unknown_host",
            Hold::HostFrozen { .. } => "host_frozen",
            Hold::Quiet { .. } => "quiet",
            Hold::NoMac { .. } => "no_mac",
            Hold::JustLeft { .. } => "min_off",
            Hold::JustCame { .. } => "min_on",
            Hold::WantedSoon { .. } => "wanted_soon",
            Hold::BackupsUnseen { .. } => "backups_unseen",
            Hold::Unproven { .. } => "unproven",
            Hold::NotOurs { .. } => "not_ours",
            Hold::WakeFailing { .. } => "wake_failing",
            Hold::WakeGivenUp { .. } => "wake_given_up",
            Hold::NotSent { .. } => "not_sent",
            Hold::LowAbsent { .. } => "low_absent",
            Hold::NotReady { .. } => "not_ready",
            Hold::StopFailing { .. } => "stop_failing",
            Hold::SlowStop { .. } => "slow_stop",
            Hold::VotesShort { .. } => "votes_short",
            Hold::Busy { .. } => "busy",
            Hold::GuestStays { .. } => "guest_stays",
            Hold::GuestWaits { .. } => "guest_waits",
            Hold::GuestLocked { .. } => "guest_locked",
            Hold::Inhibited { what, .. } => what.code(),
            Hold::HostMissing { .. } => "host_missing",
            Hold::ConfigRose { .. } => "config_rose",
            Hold::RescueImpossible { .. } => "rescue_impossible",
            Hold::NeverTogether { .. } => "never_together",
            Hold::RescueTold { .. } => "rescue_told",
            Hold::AnotherSpot { .. } => "another_spot",
            Hold::RightMissing { .. } => "right_missing",
            Hold::Gate { code, .. } => code,
        }
    }

    pub fn host(&self) -> Option<&HostName> {
        match self {
            Hold::UnknownHost { host }
            | Hold::HostFrozen { host }
            | Hold::Quiet { host, .. }
            | Hold::NoMac { host }
            | Hold::JustLeft { host, .. }
            | Hold::JustCame { host, .. }
            | Hold::WantedSoon { host, .. }
            | Hold::BackupsUnseen { host, .. }
            | Hold::Unproven { host, .. }
            | Hold::NotOurs { host }
            | Hold::WakeFailing { host, .. }
            | Hold::WakeGivenUp { host, .. }
            | Hold::NotSent { host, .. }
            | Hold::LowAbsent { host }
            | Hold::NotReady { host, .. }
            | Hold::StopFailing { host, .. }
            | Hold::SlowStop { host, .. }
            | Hold::VotesShort { host, .. }
            | Hold::Busy { host, .. }
            | Hold::GuestStays { host, .. }
            | Hold::GuestLocked { host, .. }
            | Hold::Inhibited { host, .. }
            | Hold::HostMissing { host }
            | Hold::ConfigRose { host, .. }
            | Hold::RescueTold { host } => Some(host),
            Hold::GuestWaits { host, .. } | Hold::Gate { host, .. } => host.as_ref(),
            Hold::Unseen { .. }
            | Hold::ClockUnsure
            | Hold::RightMissing { .. }
            | Hold::AnotherSpot { .. }
            | Hold::RescueImpossible { .. }
            | Hold::NeverTogether { .. } => None,
        }
    }

    pub fn guest(&self) -> Option<Vmid> {
        match self {
            Hold::GuestStays { guest, .. }
            | Hold::GuestLocked { guest, .. }
            | Hold::GuestWaits { guest, .. } => Some(*guest),
            Hold::Inhibited { what, .. } => what.guest(),
            Hold::Gate { guest, .. } => *guest,
            Hold::Unseen { .. }
            | Hold::ClockUnsure
            | Hold::UnknownHost { .. }
            | Hold::HostFrozen { .. }
            | Hold::Quiet { .. }
            | Hold::NoMac { .. }
            | Hold::JustLeft { .. }
            | Hold::JustCame { .. }
            | Hold::WantedSoon { .. }
            | Hold::BackupsUnseen { .. }
            | Hold::Unproven { .. }
            | Hold::NotOurs { .. }
            | Hold::WakeFailing { .. }
            | Hold::WakeGivenUp { .. }
            | Hold::NotSent { .. }
            | Hold::LowAbsent { .. }
            | Hold::NotReady { .. }
            | Hold::StopFailing { .. }
            | Hold::SlowStop { .. }
            | Hold::VotesShort { .. }
            | Hold::Busy { .. }
            | Hold::HostMissing { .. }
            | Hold::ConfigRose { .. }
            | Hold::RescueImpossible { .. }
            | Hold::NeverTogether { .. }
            | Hold::RightMissing { .. }
            | Hold::AnotherSpot { .. }
            | Hold::RescueTold { .. } => None,
        }
    }

    /// When it ends by itself, where that is known.
    pub fn until(&self) -> Option<Timestamp> {
        match self {
            Hold::Quiet { until, .. } | Hold::GuestWaits { until, .. } => *until,
            Hold::JustLeft { until, .. }
            | Hold::JustCame { until, .. }
            | Hold::StopFailing { until, .. }
            | Hold::WakeFailing { until, .. }
            | Hold::AnotherSpot { until, .. } => Some(*until),
            Hold::WantedSoon { opens, .. } => Some(*opens),
            Hold::Unseen { .. }
            | Hold::ClockUnsure
            | Hold::UnknownHost { .. }
            | Hold::HostFrozen { .. }
            | Hold::NoMac { .. }
            | Hold::BackupsUnseen { .. }
            | Hold::Unproven { .. }
            | Hold::NotOurs { .. }
            | Hold::WakeGivenUp { .. }
            | Hold::NotSent { .. }
            | Hold::LowAbsent { .. }
            | Hold::NotReady { .. }
            | Hold::SlowStop { .. }
            | Hold::VotesShort { .. }
            | Hold::Busy { .. }
            | Hold::GuestStays { .. }
            | Hold::GuestLocked { .. }
            | Hold::Inhibited { .. }
            | Hold::HostMissing { .. }
            | Hold::ConfigRose { .. }
            | Hold::RescueImpossible { .. }
            | Hold::NeverTogether { .. }
            | Hold::RescueTold { .. }
            | Hold::RightMissing { .. }
            | Hold::Gate { .. } => None,
        }
    }

    /// What would release it.
    pub fn remedy(&self) -> String {
        match self {
            Hold::Unseen { .. } => {
                "it goes on when the cluster answers again; `spot doctor` says what does not".into()
            }
            Hold::ClockUnsure => {
                "start time synchronisation (chrony) where spot runs; `timedatectl` shows whether it works".into()
            }
            Hold::UnknownHost { host } => {
                format!("give {host} the name PVE has for it, or set `node:` in its policy")
            }
            Hold::HostFrozen { host } => format!("spot thaw {host}"),
            Hold::Quiet { host, .. } => format!("wait, or spot up {host}"),
            Hold::NoMac { host } => format!("write `mac:` for {host} into its policy"),
            Hold::JustLeft { host, .. } => format!("wait, or spot up {host}"),
            Hold::JustCame { host, .. } => format!("wait, or spot down {host}"),
            Hold::WantedSoon { host, .. } => {
                format!("nothing to do; spot down {host} puts it to sleep anyway")
            }
            Hold::BackupsUnseen { .. } => {
                "it goes on when PVE shows its jobs, which takes Sys.Audit on /; `spot doctor` says what is missing".into()
            }
            Hold::Unproven { host, .. } => {
                format!("spot prove {host}, or `wake: {{proven: true}}` in its policy")
            }
            Hold::NotOurs { host } => {
                format!(
                    "spot down {host} hands it over; it is also taken over when its next window closes"
                )
            }
            Hold::WakeFailing { host, .. } => {
                format!("check that {host} has power and Wake-on-LAN is on in its firmware")
            }
            Hold::WakeGivenUp { host, .. } => {
                format!("switch {host} on by hand, or try again with spot up {host}")
            }
            Hold::NotSent { .. } => "check the interface, broadcast address and credential under `wake:` in the policy".into(),
            Hold::LowAbsent { host } => format!("switch {host} on"),
            Hold::NotReady { host, .. } => {
                format!(
                    "look at {host}: its API, its quorum (`pvecm status`) and its storages (`pvesm status`)"
                )
            }
            Hold::StopFailing { host, .. } => format!("look at {host}; spot asks again later"),
            Hold::SlowStop { host, .. } => {
                format!("look at the console of {host}: something there does not stop")
            }
            Hold::VotesShort { host, .. } => {
                format!(
                    "wake another host first, or let {host} stay on; `spot quorum` shows who may be off together"
                )
            }
            Hold::Busy { .. } => "it goes on when that is over".into(),
            Hold::GuestStays { host, guest, why } => match why {
                Stays::Pinned | Stays::KeepAwake => {
                    format!("stop guest {guest}, or give its rule `otherwise: shutdown`")
                }
                Stays::Obstacle(obstacle) => obstacle.remedy(*guest),
                Stays::NowhereToGo { .. } => {
                    format!(
                        "wake another host it may run on, or stop guest {guest}; {host} stays awake until then"
                    )
                }
                Stays::State { .. } => format!("resume or stop guest {guest}"),
                Stays::Ha => format!(
                    "migrate guest {guest} with the HA manager, or give its rule `otherwise: migrate`"
                ),
            },
            Hold::GuestWaits { guest, .. } => {
                format!("spot tries again by itself; see to the cause, or see to guest {guest} by hand")
            }
            Hold::GuestLocked { guest, kind, host, .. } => {
                let unlock = kind.unlock(*guest, host);
                format!("it goes on when the lock is gone; a stale one goes with {unlock}")
            }
            Hold::Inhibited { host, what } => what.remedy(host),
            Hold::HostMissing { host } => format!(
                "look at {host}: it left without a shutdown; switch it on, or spot up {host}"
            ),
            Hold::ConfigRose { host, .. } => format!(
                "when {host} is up, at its console: `scp MEMBER:/etc/pve/corosync.conf /etc/corosync/corosync.conf && systemctl restart corosync`, with a member's name"
            ),
            Hold::RescueImpossible { .. } => "switch a host on by hand".into(),
            Hold::NeverTogether { .. } => {
                "give the cluster a QDevice, or let a window keep one of them awake; `spot quorum` shows who may be off together".into()
            }
            Hold::RescueTold { host } => format!("spot up {host}, or `quorum: {{rescue: wake}}`"),
            Hold::AnotherSpot { .. } => {
                "let one spot alone serve this cluster: stop the other, or give it a token of its own; this one goes on half an hour after the last sign".into()
            }
            Hold::RightMissing { grant, .. } => grant.clone(),
            Hold::Gate { remedy, .. } => remedy.clone(),
        }
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hold::Unseen { what } => write!(f, "{what}, so nothing is switched off or moved"),
            Hold::ClockUnsure => f.write_str(
                "the clock is not known to be right, so nothing is moved or switched off",
            ),
            Hold::UnknownHost { host } => {
                write!(f, "the policy names {host}, and the cluster has no such host")
            }
            Hold::HostFrozen { host } => write!(f, "{host} is frozen"),
            Hold::Quiet { host, .. } => write!(f, "{host} is wanted, but it is in its quiet hours"),
            Hold::NoMac { host } => write!(f, "{host} is wanted, but its MAC address is not known"),
            Hold::JustLeft { host, .. } => {
                write!(f, "{host} is wanted, but it went to sleep only just now (min_off)")
            }
            Hold::JustCame { host, .. } => {
                write!(f, "{host} may sleep, but it came up only just now (min_on)")
            }
            Hold::WantedSoon { host, .. } => {
                write!(f, "{host} may sleep, but it is wanted again too soon")
            }
            Hold::BackupsUnseen { host, policy, why } => write!(
                f,
                "policy {policy} wants {host} for PVE's backup jobs, and they could not be seen ({why}): it is not put to sleep"
            ),
            Hold::Unproven { host, why } => match why {
                Some(why) => {
                    write!(f, "{host} may sleep, but it is no longer proven to wake: {why}")
                }
                None => write!(f, "{host} may sleep, but spot has never seen it wake"),
            },
            Hold::NotOurs { host } => write!(
                f,
                "somebody else switched {host} on outside every window, so it is left alone"
            ),
            Hold::WakeFailing { host, attempts, .. } => {
                write!(
                    f,
                    "{host} did not come up in {attempts} attempt{}; the next one waits",
                    if *attempts == 1 { "" } else { "s" }
                )
            }
            Hold::WakeGivenUp { host, attempts } => write!(
                f,
                "{host} did not come up in {attempts} attempts, and spot has stopped trying"
            ),
            Hold::NotSent { host, why } => write!(f, "no packet to {host} leaves: {why}"),
            Hold::LowAbsent { host } => {
                write!(f, "{host} is of tier low and off, and spot leaves that to its owner")
            }
            Hold::NotReady { host, why } => write!(f, "{host} is up and not ready: {why}"),
            Hold::StopFailing { host, .. } => {
                write!(f, "{host} did not take its last power-off; the next try waits")
            }
            Hold::SlowStop { host, since } => {
                write!(f, "{host} was asked to power off at {since} and is still there")
            }
            Hold::VotesShort { host, remaining, needed } => write!(
                f,
                "{host} may sleep, but without it the cluster would have {} where {needed} are needed",
                crate::cluster::quorum::votes(*remaining)
            ),
            Hold::Busy { host, with } => write!(f, "{host} waits for something else: {with}"),
            Hold::GuestStays { host, guest, why } => {
                write!(f, "guest {guest} keeps {host} awake: {why}")
            }
            Hold::GuestWaits { guest, why, .. } => write!(f, "guest {guest} waits: {why}"),
            Hold::GuestLocked { host, guest, lock, .. } => {
                write!(f, "guest {guest} on {host} is locked ({lock})")
            }
            Hold::Inhibited { host, what } => what.told(host, f),
            Hold::HostMissing { host } => write!(
                f,
                "{host} left the cluster without a shutdown; its guests are not started elsewhere"
            ),
            Hold::ConfigRose { host, at_leave, now } => write!(
                f,
                "corosync.conf rose from config_version {at_leave} to {now} while {host} sleeps: it will be thrown out of the cluster when it returns"
            ),
            Hold::RescueImpossible { why } => {
                write!(f, "the cluster needs more votes and no host can be woken: {why}")
            }
            Hold::NeverTogether { sentence } => f.write_str(sentence),
            Hold::RescueTold { host } => {
                write!(f, "the cluster has too few spare votes; {host}'s would help")
            }
            Hold::AnotherSpot { what, .. } => {
                write!(
                    f,
                    "another spot seems to serve this cluster ({what}), so nothing is moved or switched off"
                )
            }
            Hold::RightMissing { privilege, path, what_for, .. } => {
                write!(f, "our token lacks {privilege} on {path}, which is needed {what_for}")
            }
            Hold::Gate { sentence, .. } => f.write_str(sentence),
        }
    }
}

/// A stretch of time as people say it: `45 s`, `12 min`, `3 h`, `2 days`.
pub fn about(length: Duration) -> String {
    match length.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}
