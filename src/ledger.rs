//! What happened, as [`Entry`]s, and what they add up to, the [`Ledger`].
//!
//! The journal on disk is a row of entries; the ledger is their fold, and nothing else decides what
//! `spot` remembers. [`notice`](notice::notice) turns what changed in an observation into entries,
//! so that "since", "told once", provenance and the difference between *resting* and *missing*
//! survive a restart. An entry is a fact in the past tense and carries its own time.
//!
//! **Does not know:** that a disk exists, what time it is, what the policies say.

pub mod backups;
mod known;
pub mod learned;
pub mod notice;
pub mod tell;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::cluster::{BackupJob, GuestKind, HostName, Vmid};
use crate::request::{Answered, Move, Request};
use crate::undertaking::{Event, OutOfOrder, RequestId, Undertaking, UndertakingId};

pub use backups::{Backups, RunningBackup};
pub use learned::{Expected, Placed};
pub use notice::notice;

use learned::keep;

/// Learned durations keep this many samples per host and kind.
pub const SAMPLES: usize = 20;
/// A host that comes up so long after our last packet came up by it.
const BOOTS_WITHIN: Duration = Duration::from_secs(900);

/// What a lease wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wants {
    Awake,
    Rest,
}

impl std::fmt::Display for Wants {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Wants::Awake => "awake",
            Wants::Rest => "rest",
        })
    }
}

/// How a host was seen to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Leaving {
    /// After our own power-off.
    Ours,
    /// After an orderly shutdown by somebody else, seen as such.
    Others,
    /// Off since before our first look.
    BeforeFirstLook,
    /// It vanished: crash, power loss, cable.
    Vanished,
}

/// How a guest was put away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Parked {
    Hibernated,
    ShutDown,
}

/// One thing that happened. Serialised into the journal: a variant may gain optional fields, and is
/// never renamed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "snake_case")]
pub enum Entry {
    /// The service took up the journal.
    Started {
        version: String,
        mode: String,
        holder: String,
        term: u64,
    },
    Stopped,

    // What people asked.
    LeaseGranted {
        host: HostName,
        wants: Wants,
        until: Option<Timestamp>,
        because: Option<String>,
        by: String,
    },
    LeaseEnded {
        host: HostName,
        why: String,
    },
    EmptyingAsked {
        host: HostName,
        by: String,
    },
    EmptyingReleased {
        host: HostName,
        by: String,
    },
    Frozen {
        host: HostName,
        by: String,
    },
    Thawed {
        host: HostName,
        by: String,
    },
    /// `spot prove`: one supervised sleep and wake.
    ProofAsked {
        host: HostName,
        by: String,
    },
    ProofEnded {
        host: HostName,
        why: String,
    },

    // What was seen.
    HostCame {
        host: HostName,
        first_look: bool,
        /// It never stopped: only its membership was gone for a while.
        #[serde(default)]
        same_boot: bool,
    },
    /// Its API answered and it saw quorum, once.
    HostAnswered {
        host: HostName,
        uptime_seconds: u64,
    },
    /// The same at least 5 s later: it may take guests.
    HostReady {
        host: HostName,
        boot_seconds: Option<u64>,
    },
    HostLeft {
        host: HostName,
        leaving: Leaving,
        config_version: Option<u64>,
        seconds: Option<u64>,
    },
    /// A wake begins ahead of a window, by this estimate.
    WakeEstimated {
        host: HostName,
        policy: String,
        opens: Timestamp,
        boot_seconds: u64,
        guests: u32,
        move_seconds: u64,
    },
    /// Everybody who was to be there is: how long that took, and how long it was expected to.
    WakeServed {
        host: HostName,
        opens: Timestamp,
        expected_seconds: u64,
        took_seconds: u64,
    },
    /// A window or lease wants it since it came up: it is spot's to switch off.
    HostWanted {
        host: HostName,
        because: String,
    },
    /// Silent before, up after our first packet.
    WakeProven {
        host: HostName,
        print: String,
    },
    WakeUnproven {
        host: HostName,
        why: String,
    },
    /// Its owner vouches that it wakes, by these ways.
    WakeVouched {
        host: HostName,
        print: String,
    },
    WakeFailed {
        host: HostName,
        attempts: u32,
    },
    GuestMoved {
        guest: Vmid,
        from: HostName,
        to: HostName,
        /// What its task carried, how long it took by its own log, and beside how many others.
        #[serde(default)]
        bytes: Option<u64>,
        #[serde(default)]
        seconds: Option<u64>,
        #[serde(default)]
        beside: u32,
    },
    /// A guest that we had placed is elsewhere, and not by us.
    GuestMovedAway {
        guest: Vmid,
        from: HostName,
        to: HostName,
    },
    GuestParked {
        guest: Vmid,
        kind: GuestKind,
        host: HostName,
        how: Parked,
    },
    GuestBack {
        guest: Vmid,
        why: String,
    },
    /// What PVE forgets of a guest 5 minutes after its host went off.
    GuestKnown {
        guest: Vmid,
        name: Option<String>,
        memory_bytes: Option<u64>,
    },
    ConfigVersion {
        version: u64,
    },
    /// Configured votes by host, as of that config_version.
    VotesSeen {
        version: u64,
        votes: BTreeMap<HostName, u32>,
    },
    /// What a QDevice adds: configured votes, and whether they are cast now. 0 without a QDevice.
    DeviceSeen {
        version: u64,
        votes: u32,
        cast: bool,
    },
    /// PVE's backup jobs and when each runs next, as read while a policy asks for it.
    BackupJobs {
        jobs: Vec<BackupJob>,
    },
    /// A backup began that counts for these storages.
    BackupBegan {
        host: HostName,
        upid: String,
        started: Timestamp,
        storages: BTreeSet<String>,
    },
    /// It is over, or its host is gone.
    BackupOver {
        host: HostName,
        upid: String,
        how: String,
    },
    /// Our power-off did nothing.
    StopFailed {
        host: HostName,
        sentence: String,
    },
    /// The wall clock moved against the monotonic one, or runs before the journal's last entry.
    ClockStepped {
        seconds: i64,
    },
    ClockSettled,

    /// Somebody acts with our token, and it is not us.
    StrangerSeen {
        upid: String,
        what: String,
    },

    // What was undertaken.
    Begun {
        id: UndertakingId,
        purpose: Move,
        because: String,
    },
    Progress {
        id: UndertakingId,
        event: Event,
    },

    // What judgement said; told once, when it changes.
    Held {
        code: String,
        host: Option<HostName>,
        guest: Option<Vmid>,
        sentence: String,
        /// Told again, for it has held for so long.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        for_seconds: Option<u64>,
    },
    HoldLifted {
        code: String,
        host: Option<HostName>,
        guest: Option<Vmid>,
    },
    Refused {
        request: Request,
        clause: String,
        sentence: String,
    },

    // Policies.
    PolicyTaken {
        commit: String,
    },
    PolicyRefused {
        sentence: String,
    },
}

/// Where a host was last seen to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    #[default]
    Unseen,
    Awake,
    /// Off, and left in order.
    Resting,
    /// It vanished.
    Missing,
}

/// What is remembered of one host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostRecord {
    pub presence: Presence,
    /// Since when it is where it is.
    pub since: Option<Timestamp>,
    /// First readiness seen since it came up, and the second one that made it ready.
    pub answering: Option<Timestamp>,
    pub ready: Option<Timestamp>,
    /// Its boot, from the uptime it reported itself.
    pub booted: Option<Timestamp>,
    /// When our last packet to it left.
    pub called: Option<Timestamp>,
    /// When and how it last left.
    pub left: Option<(Timestamp, Leaving)>,
    /// `spot` woke it since it was last off.
    pub woken: bool,
    /// A window or lease wanted it since it came up.
    pub wanted: bool,
    /// When we last asked it to power off, since it came up.
    pub power_off_asked: Option<Timestamp>,
    /// Stands for MACs and ways under which it was seen to wake.
    pub proof: Option<String>,
    /// Why the proof is gone.
    pub unproven_because: Option<String>,
    pub failed_wakes: u32,
    pub last_failed_wake: Option<Timestamp>,
    /// corosync's config_version when it left.
    pub config_version_at_leave: Option<u64>,
    /// When our last power-off failed.
    pub last_failed_stop: Option<Timestamp>,
    /// Seconds from our first packet to ready, the newest last.
    pub boots: VecDeque<u64>,
    /// Seconds from our power-off to its leaving.
    pub shutdowns: VecDeque<u64>,
    /// Bytes a second of migrations from and to it.
    pub link_pace: Option<u64>,
    /// The wake ahead of a window that is under way.
    pub expected: Option<Expected>,
    /// Seconds by which wakes served later than estimated, below zero earlier; the newest last.
    pub estimate_errors: VecDeque<i64>,
}

impl HostRecord {
    /// `spot`'s to switch off: it woke it, or a window or lease has wanted it since it came up.
    pub fn ours(&self) -> bool {
        self.woken || self.wanted
    }

    /// A cautious learned boot time: the slowest of the kept samples.
    pub fn boot_seconds(&self) -> Option<u64> {
        self.boots.iter().copied().max()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub wants: Wants,
    pub until: Option<Timestamp>,
    pub because: Option<String>,
    pub by: String,
    pub granted: Timestamp,
}

/// What is remembered of a guest: what PVE may forget, and what we did to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GuestRecord {
    pub name: Option<String>,
    pub memory_bytes: Option<u64>,
    /// Put away by us, and where.
    pub parked: Option<ParkedGuest>,
    /// Asked by us to stop there, without having been seen to: it may still do so.
    pub stop_asked: Option<StopAsked>,
    /// When its last request of ours failed, and how often in a row.
    pub failures: u32,
    pub last_failure: Option<Timestamp>,
    /// In the world's words.
    pub failed_because: Option<String>,
    /// Where we moved it last, while it has not been moved on.
    pub placed: Option<Placed>,
    /// How often in a row somebody else moved it away from there, and when last.
    pub moved_away: u32,
    pub moved_away_at: Option<Timestamp>,
}

/// A guest that outlived the time PVE gives a shutdown, and may still go down by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopAsked {
    pub kind: GuestKind,
    pub host: HostName,
    pub at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParkedGuest {
    pub kind: GuestKind,
    pub host: HostName,
    pub how: Parked,
    pub at: Timestamp,
}

/// Votes by the configuration: for planning and for showing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoteCount {
    pub expected: u32,
    pub present: u32,
    pub needed: u32,
}

/// A hold that was told, by what it is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HoldKey {
    pub code: String,
    pub host: Option<HostName>,
    pub guest: Option<Vmid>,
}

/// How long a hold has stood, and when it was last told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    pub since: Timestamp,
    pub told: Timestamp,
}

/// What all entries add up to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ledger {
    /// Time of the newest entry.
    pub last_at: Option<Timestamp>,
    pub hosts: BTreeMap<HostName, HostRecord>,
    #[serde(with = "pairs")]
    pub guests: BTreeMap<Vmid, GuestRecord>,
    pub leases: BTreeMap<HostName, Lease>,
    /// Hosts being emptied on their owner's word, and whose.
    pub emptying: BTreeMap<HostName, String>,
    pub frozen: BTreeMap<HostName, String>,
    /// Hosts under `spot prove`, and since when.
    pub proving: BTreeMap<HostName, Timestamp>,
    /// Open undertakings, and ended ones whose requests are still in flight.
    #[serde(with = "pairs")]
    pub undertakings: BTreeMap<UndertakingId, Undertaking>,
    pub last_undertaking: UndertakingId,
    pub last_request: RequestId,
    pub config_version: Option<u64>,
    /// When config_version was last seen to change; `None` if never since the journal began.
    pub config_changed: Option<Timestamp>,
    /// Configured votes by host, with the config_version they were read at.
    pub votes: Option<(u64, BTreeMap<HostName, u32>)>,
    /// Votes of the QDevice and whether they are cast, with the config_version they were read at.
    pub device: Option<(u64, u32, bool)>,
    pub backups: Backups,
    /// Tasks that are known to be ours, or were told as a stranger's.
    #[serde(default)]
    pub tasks: known::Tasks,
    /// When somebody else was last seen to act in our place, and how.
    #[serde(default)]
    pub stranger: Option<(Timestamp, String)>,
    /// The wall clock is not trusted since.
    pub clock_stepped: Option<Timestamp>,
    /// Holds told and not yet lifted, with their sentence.
    #[serde(with = "pairs")]
    pub held: BTreeMap<HoldKey, String>,
    /// Since when each of them stands, and when it was last told.
    #[serde(with = "pairs")]
    pub standing: BTreeMap<HoldKey, Standing>,
    /// Commit of the policy in force.
    pub policy: Option<String>,
    pub term: u64,
}

/// Maps whose keys are not strings, as lists of pairs: JSON has no other keys than strings.
mod pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<K: Serialize, V: Serialize, S: Serializer>(
        map: &BTreeMap<K, V>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(map)
    }

    pub fn deserialize<'de, K, V, D>(deserializer: D) -> Result<BTreeMap<K, V>, D::Error>
    where
        K: Deserialize<'de> + Ord,
        V: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        Ok(Vec::<(K, V)>::deserialize(deserializer)?.into_iter().collect())
    }
}

impl Ledger {
    pub fn host(&self, host: &HostName) -> HostRecord {
        self.hosts.get(host).cloned().unwrap_or_default()
    }

    /// The open undertaking with this purpose.
    pub fn undertaking(&self, purpose: &Move) -> Option<&Undertaking> {
        self.undertakings.values().find(|one| one.open() && one.purpose == *purpose)
    }

    /// Every request in flight, ended undertakings included.
    pub fn in_flight(
        &self,
    ) -> impl Iterator<Item = (&Undertaking, RequestId, &crate::undertaking::InFlight)> {
        self.undertakings
            .values()
            .flat_map(|one| one.in_flight.iter().map(move |(id, asked)| (one, *id, asked)))
    }

    /// The ledger after one more entry.
    pub fn after(mut self, at: Timestamp, entry: &Entry) -> Result<Ledger, OutOfOrder> {
        self.take(at, entry)?;
        Ok(self)
    }

    /// Takes one more entry into account.
    pub fn take(&mut self, at: Timestamp, entry: &Entry) -> Result<(), OutOfOrder> {
        self.last_at = Some(self.last_at.map_or(at, |last| last.max(at)));
        match entry {
            Entry::Started { term, .. } => {
                self.term = (*term).max(self.term);
                self.backups.unwatched();
            }
            Entry::Stopped => {}

            Entry::LeaseGranted { host, wants, until, because, by } => {
                let lease = Lease {
                    wants: *wants,
                    until: *until,
                    because: because.clone(),
                    by: by.clone(),
                    granted: at,
                };
                // The newer of `up` and `down` cancels the older.
                self.leases.insert(host.clone(), lease);
            }
            Entry::LeaseEnded { host, .. } => {
                self.leases.remove(host);
            }
            Entry::EmptyingAsked { host, by } => {
                self.emptying.insert(host.clone(), by.clone());
            }
            Entry::EmptyingReleased { host, .. } => {
                self.emptying.remove(host);
            }
            Entry::Frozen { host, by } => {
                self.frozen.insert(host.clone(), by.clone());
            }
            Entry::Thawed { host, .. } => {
                self.frozen.remove(host);
            }
            Entry::ProofAsked { host, .. } => {
                self.proving.insert(host.clone(), at);
            }
            Entry::ProofEnded { host, .. } => {
                self.proving.remove(host);
            }

            Entry::HostCame { host, same_boot, .. } => {
                let record = self.hosts.entry(host.clone()).or_default();
                record.presence = Presence::Awake;
                record.since = Some(at);
                record.answering = None;
                record.ready = None;
                record.power_off_asked = None;
                if !same_boot {
                    record.booted = None;
                    record.wanted = false;
                    // Up after our packets: ours, unless somebody's finger was quicker, which
                    // nobody can tell. A wake that was dropped meanwhile has still woken it.
                    let left = record.left.map(|(left, _)| left);
                    record.woken = record.called.is_some_and(|called| {
                        left.is_none_or(|left| called >= left) && at < called + BOOTS_WITHIN
                    });
                }
            }
            Entry::HostAnswered { host, uptime_seconds } => {
                let record = self.hosts.entry(host.clone()).or_default();
                record.answering = Some(at);
                let uptime = i64::try_from(*uptime_seconds).unwrap_or(i64::MAX);
                record.booted = at.checked_sub(jiff::SignedDuration::from_secs(uptime)).ok();
            }
            Entry::HostReady { host, boot_seconds } => {
                let record = self.hosts.entry(host.clone()).or_default();
                record.ready = Some(at);
                record.failed_wakes = 0;
                record.last_failed_wake = None;
                if let Some(seconds) = boot_seconds {
                    keep(&mut record.boots, *seconds);
                }
            }
            Entry::HostLeft { host, leaving, config_version, seconds } => {
                let record = self.hosts.entry(host.clone()).or_default();
                record.presence = match leaving {
                    Leaving::Ours | Leaving::Others | Leaving::BeforeFirstLook => Presence::Resting,
                    Leaving::Vanished => Presence::Missing,
                };
                record.since = Some(at);
                record.answering = None;
                record.ready = None;
                record.left = Some((at, *leaving));
                // Guests are on their way to or from it: whoever shuts it down now is no owner who
                // looked first, but perhaps a second spot.
                let ours = record.power_off_asked.is_some();
                let busy = self.undertakings.values().find(|one| {
                    let guests = match &one.purpose {
                        Move::Empty(_) | Move::Place(..) => true,
                        Move::Wake(_) | Move::Rest(_) => false,
                    };
                    one.open() && guests && one.purpose.host() == host
                });
                if let (Leaving::Others, false, Some(_)) = (leaving, ours, busy) {
                    self.stranger = Some((at, format!("{host} was shut down while guests moved")));
                }
                let record = self.hosts.entry(host.clone()).or_default();
                record.power_off_asked = None;
                record.last_failed_stop = None;
                record.config_version_at_leave = *config_version;
                record.expected = None;
                if let Some(seconds) = seconds {
                    keep(&mut record.shutdowns, *seconds);
                }
            }
            Entry::WakeEstimated { host, policy, opens, boot_seconds, guests, move_seconds } => {
                self.hosts.entry(host.clone()).or_default().expected = Some(Expected {
                    policy: policy.clone(),
                    opens: *opens,
                    began: at,
                    boot_seconds: *boot_seconds,
                    guests: *guests,
                    move_seconds: *move_seconds,
                });
            }
            Entry::WakeServed { host, expected_seconds, took_seconds, .. } => {
                let record = self.hosts.entry(host.clone()).or_default();
                record.expected = None;
                let error = took_seconds.cast_signed().saturating_sub_unsigned(*expected_seconds);
                keep(&mut record.estimate_errors, error);
            }
            Entry::HostWanted { host, .. } => {
                self.hosts.entry(host.clone()).or_default().wanted = true;
            }
            Entry::WakeProven { host, print } | Entry::WakeVouched { host, print } => {
                let record = self.hosts.entry(host.clone()).or_default();
                record.proof = Some(print.clone());
                record.unproven_because = None;
            }
            Entry::WakeUnproven { host, why } => {
                let record = self.hosts.entry(host.clone()).or_default();
                record.proof = None;
                record.unproven_because = Some(why.clone());
            }
            Entry::WakeFailed { host, attempts } => {
                let record = self.hosts.entry(host.clone()).or_default();
                record.failed_wakes = *attempts;
                record.last_failed_wake = Some(at);
            }
            Entry::GuestMoved { guest, from, to, bytes, seconds, beside } => {
                let record = self.guests.entry(*guest).or_default();
                record.stop_asked = None;
                (record.failures, record.last_failure) = (0, None);
                record.placed = Some(Placed { from: from.clone(), to: to.clone(), at });
                if let (Some(bytes), Some(seconds)) = (bytes, seconds) {
                    self.learn_pace([from, to], *bytes, *seconds, *beside);
                }
            }
            Entry::GuestMovedAway { guest, .. } => self.moved_by_others(at, *guest),
            Entry::GuestParked { guest, kind, host, how } => {
                let record = self.guests.entry(*guest).or_default();
                record.stop_asked = None;
                record.parked =
                    Some(ParkedGuest { kind: *kind, host: host.clone(), how: *how, at });
                (record.failures, record.last_failure) = (0, None);
            }
            Entry::GuestBack { guest, .. } => {
                let record = self.guests.entry(*guest).or_default();
                record.parked = None;
                (record.failures, record.last_failure) = (0, None);
            }
            Entry::GuestKnown { guest, name, memory_bytes } => {
                let record = self.guests.entry(*guest).or_default();
                record.name = name.clone();
                record.memory_bytes = *memory_bytes;
            }
            Entry::ConfigVersion { version } => {
                // Nobody knows how old it is when it is first seen: it counts as changed now.
                if self.config_version != Some(*version) {
                    self.config_changed = Some(at);
                }
                self.config_version = Some(*version);
            }
            Entry::VotesSeen { version, votes } => self.votes = Some((*version, votes.clone())),
            Entry::DeviceSeen { version, votes, cast } => {
                self.device = Some((*version, *votes, *cast));
            }
            Entry::BackupJobs { jobs } => self.backups.listed(at, jobs),
            Entry::BackupBegan { host, upid, started, storages } => {
                let (host, storages) = (host.clone(), storages.clone());
                self.backups.began(upid, RunningBackup { host, started: *started, storages });
            }
            Entry::BackupOver { upid, .. } => self.backups.over(upid),
            Entry::StopFailed { host, .. } => {
                let record = self.hosts.entry(host.clone()).or_default();
                record.last_failed_stop = Some(at);
            }
            Entry::ClockStepped { seconds } => {
                self.clock_stepped = Some(at);
                // On the new clock the same boots were so much later (or earlier); else every host
                // would look as if it had booted meanwhile.
                let stepped = jiff::SignedDuration::from_secs(*seconds);
                for record in self.hosts.values_mut() {
                    record.booted = record.booted.and_then(|at| at.checked_add(stepped).ok());
                }
            }
            Entry::ClockSettled => self.clock_stepped = None,
            Entry::StrangerSeen { upid, what } => {
                self.tasks.learn(at, upid);
                self.stranger = Some((at, what.clone()));
            }

            Entry::Begun { id, purpose, .. } => {
                self.last_undertaking = self.last_undertaking.max(*id);
                self.undertakings.insert(*id, Undertaking::begun(*id, purpose.clone(), at));
            }
            Entry::Progress { id, event } => self.progress(at, *id, event)?,

            Entry::Held { code, host, guest, sentence, .. } => {
                let key = HoldKey { code: code.clone(), host: host.clone(), guest: *guest };
                self.stands(at, &key);
                self.held.insert(key, sentence.clone());
            }
            Entry::HoldLifted { code, host, guest } => {
                let key = HoldKey { code: code.clone(), host: host.clone(), guest: *guest };
                self.held.remove(&key);
                self.standing.remove(&key);
            }
            // Told by itself; until it is lifted it stands like any other hold.
            Entry::Refused { request, clause, sentence } => {
                let host = request.hosts().first().map(|host| (*host).clone());
                let key = HoldKey { code: clause.clone(), host, guest: request.guest() };
                self.stands(at, &key);
                self.held.insert(key, sentence.clone());
            }
            Entry::PolicyTaken { commit } => self.policy = Some(commit.clone()),
            Entry::PolicyRefused { .. } => {}
        }
        Ok(())
    }

    fn stands(&mut self, at: Timestamp, key: &HoldKey) {
        let standing = self.standing.entry(key.clone()).or_insert(Standing { since: at, told: at });
        standing.told = at;
    }

    fn progress(
        &mut self,
        at: Timestamp,
        id: UndertakingId,
        event: &Event,
    ) -> Result<(), OutOfOrder> {
        use crate::undertaking::Stage;

        let Some(before) = self.undertakings.remove(&id) else {
            return Err(OutOfOrder { id, stage: Stage::Dropped, event: "progress" });
        };
        self.tasks.follow(at, &before, event);
        match event {
            Event::Intended { request_id, request, .. } => {
                self.last_request = self.last_request.max(*request_id);
                match request {
                    Request::PowerOff { host } => {
                        self.hosts.entry(host.clone()).or_default().power_off_asked = Some(at);
                    }
                    Request::Wake { .. }
                    | Request::Migrate { .. }
                    | Request::Hibernate { .. }
                    | Request::ShutDownGuest { .. }
                    | Request::StartGuest { .. } => {}
                }
            }
            Event::Settled { request_id, outcome } => {
                let request = before.in_flight.get(request_id).map(|asked| asked.request.clone());
                self.settle(at, request, outcome);
            }
            Event::Answered { request_id, answer: Answered::Sent { .. } } => {
                if let Some(Request::Wake { host, .. }) =
                    before.in_flight.get(request_id).map(|asked| &asked.request)
                {
                    self.hosts.entry(host.clone()).or_default().called = Some(at);
                }
            }
            Event::Answered { .. } | Event::Ended { .. } => {}
        }
        let after = before.after(event)?;
        // Kept while it is open, or while the world still works on what it asked.
        if after.open() || !after.in_flight.is_empty() {
            self.undertakings.insert(id, after);
        }
        Ok(())
    }

    /// What the end of a request means for what it was about.
    fn settle(
        &mut self,
        at: Timestamp,
        request: Option<Request>,
        outcome: &crate::undertaking::Outcome,
    ) {
        use crate::undertaking::Outcome;

        let Some(request) = request else { return };
        let failed = match outcome {
            Outcome::Failed { .. } | Outcome::Overdue => true,
            Outcome::Effective | Outcome::NeverBegan => false,
        };
        if let Some(guest) = request.guest() {
            let record = self.guests.entry(guest).or_default();
            if failed {
                record.failures = record.failures.saturating_add(1);
                record.last_failure = Some(at);
                record.failed_because = match outcome {
                    Outcome::Failed { sentence } => Some(sentence.clone()),
                    Outcome::Effective | Outcome::NeverBegan | Outcome::Overdue => None,
                };
            }
        }
        if let Request::ShutDownGuest { guest, kind, host, .. } = &request
            && failed
        {
            let record = self.guests.entry(*guest).or_default();
            record.stop_asked = Some(StopAsked { kind: *kind, host: host.clone(), at });
        }
        if let Request::PowerOff { host } = &request
            && *outcome != Outcome::Effective
        {
            // It was never asked, as far as anyone can tell, or it did nothing.
            self.hosts.entry(host.clone()).or_default().power_off_asked = None;
        }
    }

    /// Votes as far as they are known for planning; the gate never looks here.
    /// With `hopeful` a QDevice counts as voting whatever was last seen of it.
    pub fn vote_count(&self, members: &BTreeSet<HostName>, hopeful: bool) -> Option<VoteCount> {
        let (_, votes) = self.votes.as_ref()?;
        let (device, cast) = self.device.map_or((0, false), |(_, votes, cast)| (votes, cast));
        let expected = votes.values().sum::<u32>() + device;
        let held: u32 =
            votes.iter().filter(|(host, _)| members.contains(*host)).map(|(_, votes)| votes).sum();
        let present = held + if cast || hopeful { device } else { 0 };
        Some(VoteCount { expected, present, needed: expected / 2 + 1 })
    }

    /// Hosts of open power-offs: asked, and not yet seen to be gone.
    pub fn stopping(&self) -> BTreeSet<HostName> {
        let stop = |request: &Request| match request {
            Request::PowerOff { host } => Some(host.clone()),
            Request::Wake { .. }
            | Request::Migrate { .. }
            | Request::Hibernate { .. }
            | Request::ShutDownGuest { .. }
            | Request::StartGuest { .. } => None,
        };
        self.in_flight().filter_map(|(_, _, asked)| stop(&asked.request)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::undertaking::Stage;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
    }

    fn after(entries: &[(u64, Entry)]) -> Ledger {
        let mut ledger = Ledger::default();
        for (seconds, entry) in entries {
            ledger.take(at(*seconds), entry).unwrap();
        }
        ledger
    }

    fn left(leaving: Leaving) -> Entry {
        Entry::HostLeft { host: "host3".into(), leaving, config_version: None, seconds: None }
    }

    fn came(same_boot: bool) -> Entry {
        Entry::HostCame { host: "host3".into(), first_look: false, same_boot }
    }

    fn wanted() -> Entry {
        Entry::HostWanted { host: "host3".into(), because: "office".into() }
    }

    /// A wake with one volley, dropped before the host came.
    fn called_and_dropped(answer: Answered) -> Vec<(u64, Entry)> {
        let request = Request::Wake { host: "host3".into(), ways: vec![] };
        let because = "no longer wanted".into();
        let events = [
            Event::Intended { request_id: 1, request, at: at(10), by_configured_votes: false },
            Event::Answered { request_id: 1, answer },
            Event::Ended { stage: Stage::Dropped, because },
        ];
        let purpose = Move::Wake("host3".into());
        let mut entries = vec![(0, left(Leaving::Ours))];
        entries.push((10, Entry::Begun { id: 1, purpose, because: String::new() }));
        entries.extend(events.map(|event| (10, Entry::Progress { id: 1, event })));
        entries
    }

    #[test]
    fn a_host_that_comes_up_after_our_packets_is_ours_even_if_the_wish_is_gone() {
        let sent = Answered::Sent { packets: 1, by: vec![], but: vec![] };
        let mut entries = called_and_dropped(sent);
        entries.push((80, came(false)));
        assert!(after(&entries).host(&"host3".into()).ours());
        entries.pop();
        entries.push((80_000, came(false)));
        assert!(!after(&entries).host(&"host3".into()).ours(), "hours later it was somebody else");
    }

    #[test]
    fn packets_that_never_left_woke_nobody() {
        let unsent = Answered::Undelivered { sentence: "no such interface".into() };
        let mut entries = called_and_dropped(unsent);
        entries.push((80, came(false)));
        assert!(!after(&entries).host(&"host3".into()).ours());
    }

    #[test]
    fn a_host_that_was_only_out_of_sight_stays_whose_it_was() {
        let flap = |same_boot| {
            let entries = [
                (0, came(false)),
                (1, wanted()),
                (2, left(Leaving::Vanished)),
                (3, came(same_boot)),
            ];
            after(&entries).host(&"host3".into())
        };
        assert!(flap(true).ours());
        assert!(!flap(false).ours());
        assert_eq!(flap(true).presence, Presence::Awake);
    }

    #[test]
    fn a_snapshot_of_an_older_spot_is_read() {
        let ledger = after(&[(0, came(false)), (1, wanted())]);
        let mut json = serde_json::to_value(&ledger).unwrap();
        // Fields that came later are missing in it.
        json.as_object_mut().unwrap().remove("device");
        let host = json["hosts"]["host3"].as_object_mut().unwrap();
        host.remove("left");
        host.remove("called");
        let read: Ledger = serde_json::from_value(json).unwrap();
        assert_eq!(read, ledger);
    }

    /// On a clock that runs, a question is asked a moment after the look began.
    #[test]
    fn votes_answered_in_the_turn_of_their_asking_are_remembered() {
        use crate::cluster::{Answer, Moment, Observation, Question, Stamped};
        let moment = |millis| Moment {
            civil: at(0) + Duration::from_millis(millis),
            monotonic: Duration::from_millis(millis),
        };
        let mut seen = Observation::blank(moment(0));
        (seen.quorate, seen.config_version) = (Some(true), Some(4));
        let answer = Ok(Answer::ConfiguredVotes([("host1".into(), 3)].into()));
        let asked = moment(7);
        seen.answers.insert(Question::ConfiguredVotes, Stamped { asked, answer });
        let noticed = notice(&Ledger::default(), &seen);
        let votes = [("host1".into(), 3)].into();
        assert!(noticed.contains(&Entry::VotesSeen { version: 4, votes }), "{noticed:?}");
    }

    /// A look in which host3 is absent.
    fn absent(seconds: i64, quorate: bool) -> crate::cluster::Observation {
        use crate::cluster::{HostSeen, Moment, Observation, Reported};
        let monotonic = Duration::from_secs(seconds.unsigned_abs());
        let mut seen = Observation::blank(Moment { civil: at(seconds.unsigned_abs()), monotonic });
        (seen.quorate, seen.config_version) = (Some(quorate), Some(4));
        let look = HostSeen {
            node: "host3".into(),
            member: Some(false),
            listed: true,
            addressed: true,
            reported: Reported::Offline,
            uptime_seconds: None,
            memory: None,
            cpu: None,
            power: None,
        };
        seen.hosts.insert("host3".into(), look);
        seen
    }

    fn leavings(entries: &[Entry]) -> Vec<Leaving> {
        let mut leavings = Vec::new();
        for entry in entries {
            if let Entry::HostLeft { leaving, .. } = entry {
                leavings.push(*leaving);
            }
        }
        leavings
    }

    /// host3 is ready, and its power-off is in flight.
    fn asked_to_stop() -> Ledger {
        let request = Request::PowerOff { host: "host3".into() };
        let answer = Answered::Accepted { task: None };
        let events = [
            Event::Intended { request_id: 1, request, at: at(10), by_configured_votes: false },
            Event::Answered { request_id: 1, answer },
        ];
        let purpose = Move::Rest("host3".into());
        let mut entries = vec![(0, came(false))];
        let host = || HostName::from("host3");
        entries.push((1, Entry::HostAnswered { host: host(), uptime_seconds: 60 }));
        entries.push((2, Entry::HostReady { host: host(), boot_seconds: None }));
        entries.push((10, Entry::Begun { id: 1, purpose, because: String::new() }));
        entries.extend(events.map(|event| (10, Entry::Progress { id: 1, event })));
        after(&entries)
    }

    #[test]
    fn a_view_without_quorum_shows_no_orderly_leave() {
        let mut ledger = asked_to_stop();
        assert!(ledger.host(&"host3".into()).ready.is_some());
        let noticed = notice(&ledger, &absent(20, false));
        assert_eq!(leavings(&noticed), [Leaving::Vanished]);
        for entry in &noticed {
            ledger.take(at(20), entry).unwrap();
        }
        // It may be up on the other side of a partition: the stop stays under way.
        assert_eq!(ledger.in_flight().count(), 1, "{noticed:?}");
        assert_eq!(ledger.host(&"host3".into()).presence, Presence::Missing);
        // Whoever wakes it now waits for a host that is ready again.
        let mut waking = ledger.clone();
        let purpose = Move::Wake("host3".into());
        waking.take(at(21), &Entry::Begun { id: 2, purpose, because: String::new() }).unwrap();
        assert_eq!(notice(&waking, &absent(22, false)), []);
        // The majority sees it gone: it went as we asked.
        let noticed = notice(&ledger, &absent(30, true));
        assert_eq!(leavings(&noticed), [Leaving::Ours]);
        for entry in &noticed {
            ledger.take(at(30), entry).unwrap();
        }
        assert_eq!(ledger.in_flight().count(), 0);
        assert_eq!(ledger.host(&"host3".into()).presence, Presence::Resting);
        assert_eq!(notice(&ledger, &absent(40, true)), []);
    }

    #[test]
    fn a_shutdown_by_hand_seen_without_quorum_is_no_orderly_leave() {
        let ledger = after(&[(0, came(false))]);
        let stopall = crate::cluster::TaskSeen {
            upid: "UPID:host3:1".into(),
            host: "host3".into(),
            kind: "stopall".into(),
            id: String::new(),
            user: "root@pam".into(),
            started: at(15),
            ended: None,
            ended_at: None,
        };
        for (quorate, expected) in [(true, Leaving::Others), (false, Leaving::Vanished)] {
            let mut seen = absent(20, quorate);
            seen.tasks.push(stopall.clone());
            assert_eq!(leavings(&notice(&ledger, &seen)), [expected]);
        }
    }
}
