//! What befalls the pretended world from outside: the owner's hand, the mains, faults; as written
//! in a world file, or drawn from a seed.
//!
//! Every fault has a bound (so many times, so long): a world in which nothing ever works again
//! proves only that `spot` can wait.
//!
//! **Does not know:** how the world carries it out.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use super::file::GuestFile;
use crate::cluster::{ClockState, HostName, Mac, Vmid};

/// When something befalls the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    At(Timestamp),
    /// So long after the world's start.
    After(Duration),
}

/// One line of a script: `{after: 2h, press: host3}` or `{at: 2026-01-05T08:00:00Z, crash: host2}`.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "serde_json::Map<String, serde_json::Value>")]
pub struct Scripted {
    pub when: When,
    pub event: Event,
}

impl Scripted {
    pub fn after(after: Duration, event: Event) -> Scripted {
        Scripted { when: When::After(after), event }
    }

    /// The instant in a world that began at `start`.
    pub fn at(&self, start: Timestamp) -> Timestamp {
        match self.when {
            When::At(at) => at,
            When::After(after) => start + after,
        }
    }
}

impl TryFrom<serde_json::Map<String, serde_json::Value>> for Scripted {
    type Error = String;

    fn try_from(mut line: serde_json::Map<String, serde_json::Value>) -> Result<Scripted, String> {
        let text = |value: serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let when = match (line.remove("at"), line.remove("after")) {
            (Some(at), None) => {
                let at = text(at);
                When::At(at.parse().map_err(|_| {
                    format!("`at: {at}` is not an instant such as 2026-01-05T08:00:00Z")
                })?)
            }
            (None, Some(after)) => When::After(span(&text(after))?),
            (Some(_), Some(_)) | (None, None) => {
                return Err("a line of the script needs one of `at:` and `after:`".into());
            }
        };
        if line.len() != 1 {
            return Err("a line of the script needs exactly one event beside its time".into());
        }
        let event = serde_json::from_value(serde_json::Value::Object(line))
            .map_err(|error| error.to_string())?;
        Ok(Scripted { when, event })
    }
}

/// A length of time as people write it: `90s`, `5m`, `2h 30m`.
fn span(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a length of time such as 90s, 5m or 2h");
    let length: SignedDuration = text.parse().map_err(|_| wrong())?;
    Duration::try_from(length).map_err(|_| wrong())
}

/// A [`Duration`] written as people write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Span(pub Duration);

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Span, String> {
        span(&text).map(Span)
    }
}

/// What befalls the world.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Event {
    /// A person presses the power button: on when off, an orderly shutdown when on.
    Press(HostName),
    /// The kernel hangs: the machine draws power and does nothing more.
    Crash(HostName),
    /// Power is cut.
    Cut(HostName),
    /// Power is back; the host starts where it is set to.
    MainsBack(HostName),
    /// The next boot takes so much longer.
    BootSlow {
        host: HostName,
        by: Span,
    },
    /// The next boot ends in the firmware.
    NoBoot(HostName),
    /// The next shutdown hangs after the cluster was left.
    HangInShutdown(HostName),
    /// So many magic packets for this host get lost.
    LosePackets {
        host: HostName,
        packets: u32,
    },
    /// The network card is exchanged.
    ChangeMac {
        host: HostName,
        mac: Mac,
    },
    /// The API takes connections and answers nothing.
    ApiHang {
        host: HostName,
        #[serde(rename = "for")]
        lasting: Span,
    },
    /// The API's daemon is down: connections are refused.
    ApiDown {
        host: HostName,
        #[serde(rename = "for")]
        lasting: Span,
    },
    /// Answers go wrong, so many times.
    Answers(AnswerFault),
    /// The next task of this kind vanishes without effect.
    TaskVanishes {
        kind: String,
        guest: Option<Vmid>,
    },
    /// The next task of this kind ends OK without effect.
    TaskIdle {
        kind: String,
        guest: Option<Vmid>,
    },
    /// The next migration of the guest aborts halfway.
    MigrationAborted(Vmid),
    /// The next migration of the guest arrives, and its task ends in `migration problems`.
    MigrationProblems(Vmid),
    /// The next migration of the guest finds no room for its disks on the target.
    StorageFull(Vmid),
    /// The next hibernation of the guest fails halfway.
    HibernationFails(Vmid),
    /// PVE replicates a guest's disks.
    Replicate {
        guest: Vmid,
        to: HostName,
        #[serde(rename = "for")]
        lasting: Span,
    },
    /// Somebody's task on a host.
    Task {
        host: HostName,
        kind: String,
        #[serde(rename = "for")]
        lasting: Span,
    },
    /// The HA manager moves a guest of its own accord (fail-back, rebalancing).
    Relocate {
        guest: Vmid,
        to: HostName,
    },
    /// The HA manager's maintenance mode.
    Maintenance {
        host: HostName,
        on: bool,
    },
    /// Ceph's flag `noout`.
    Noout(bool),
    /// Whether Ceph can spare no daemon.
    CephNeeded(bool),
    /// `pvesm set NAME --disable`.
    DisableStorage {
        storage: String,
        disabled: bool,
    },
    /// No token may see the guest any more.
    Hide(Vmid),
    Show(Vmid),
    TokenExpires(String),
    CreateGuest(Box<GuestFile>),
    /// By hand and at once.
    MoveGuest {
        guest: Vmid,
        to: HostName,
    },
    LockGuest {
        guest: Vmid,
        lock: String,
    },
    UnlockGuest(Vmid),
    DeleteGuest(Vmid),
    StartGuest(Vmid),
    /// By whoever else holds the first token there is.
    TokenStartsGuest(Vmid),
    /// Pulled by hand.
    StopGuest(Vmid),
    PauseGuest(Vmid),
    /// A backup of the guests of one host, one after the other.
    Backup {
        host: HostName,
        guests: BTreeSet<Vmid>,
        #[serde(rename = "for")]
        lasting: Span,
    },
    Qdevice(DeviceState),
    QdeviceDaemon {
        host: HostName,
        runs: bool,
    },
    ExpectedVotes(u32),
    RaiseConfig(bool),
    /// The owner gives a host other votes in corosync.conf, and no running corosync takes the file
    /// over.
    EditVotes {
        host: HostName,
        votes: u32,
    },
    Partition(Vec<BTreeSet<HostName>>),
    Heal(bool),
    /// The wall clock is off by this from now on, such as `-1h`; `0s` mends it.
    ClockStep(SignedDuration),
    ClockState(ClockWord),
    Storage {
        storage: String,
        active: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceState {
    Alive,
    Dead,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClockWord {
    Synchronised,
    Unsynchronised,
    Unknown,
}

impl From<ClockWord> for ClockState {
    fn from(word: ClockWord) -> ClockState {
        match word {
            ClockWord::Synchronised => ClockState::Synchronised,
            ClockWord::Unsynchronised => ClockState::Unsynchronised,
            ClockWord::Unknown => ClockState::Unknown,
        }
    }
}

/// Which answers go wrong, how often, and how.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnswerFault {
    /// The asked host; any when left out.
    #[serde(default)]
    pub host: Option<HostName>,
    /// A part of the path; any when left out.
    #[serde(default)]
    pub path: Option<String>,
    /// `GET`, `POST`, …; any when left out.
    #[serde(default)]
    pub method: Option<String>,
    #[serde(default = "once")]
    pub times: u32,
    pub how: Wrong,
}

fn once() -> u32 {
    1
}

/// How an answer goes wrong.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wrong {
    /// This status, with an empty body as PVE's proxy gives it; nothing is done.
    Status(u16),
    /// 200, and no body.
    Empty,
    /// The body ends in its middle.
    Half,
    /// Strings where numbers belong and the other way round.
    Types,
    /// It is done, but the answer comes too late for anybody.
    ActThenTimeOut,
    /// Nothing is done and nothing answered.
    Hang,
}

impl Event {
    /// Every host it names, so that a misspelt one is refused when the world is read.
    pub fn hosts(&self) -> Vec<&HostName> {
        match self {
            Event::Press(host)
            | Event::Crash(host)
            | Event::Cut(host)
            | Event::MainsBack(host)
            | Event::NoBoot(host)
            | Event::HangInShutdown(host)
            | Event::BootSlow { host, .. }
            | Event::LosePackets { host, .. }
            | Event::ChangeMac { host, .. }
            | Event::ApiHang { host, .. }
            | Event::ApiDown { host, .. }
            | Event::MoveGuest { to: host, .. }
            | Event::Replicate { to: host, .. }
            | Event::Relocate { to: host, .. }
            | Event::Task { host, .. }
            | Event::Maintenance { host, .. }
            | Event::Backup { host, .. }
            | Event::EditVotes { host, .. }
            | Event::QdeviceDaemon { host, .. } => vec![host],
            Event::CreateGuest(guest) => vec![&guest.host],
            Event::Answers(fault) => fault.host.iter().collect(),
            Event::Partition(groups) => groups.iter().flatten().collect(),
            Event::TaskVanishes { .. }
            | Event::TaskIdle { .. }
            | Event::MigrationAborted(_)
            | Event::MigrationProblems(_)
            | Event::StorageFull(_)
            | Event::HibernationFails(_)
            | Event::Noout(_)
            | Event::CephNeeded(_)
            | Event::DisableStorage { .. }
            | Event::Hide(_)
            | Event::Show(_)
            | Event::TokenExpires(_)
            | Event::LockGuest { .. }
            | Event::UnlockGuest(_)
            | Event::DeleteGuest(_)
            | Event::StartGuest(_)
            | Event::TokenStartsGuest(_)
            | Event::StopGuest(_)
            | Event::PauseGuest(_)
            | Event::Qdevice(_)
            | Event::ExpectedVotes(_)
            | Event::RaiseConfig(_)
            | Event::Heal(_)
            | Event::ClockStep(_)
            | Event::ClockState(_)
            | Event::Storage { .. } => Vec::new(),
        }
    }
}

/// What a storm is drawn over.
#[derive(Clone, Debug)]
pub struct Weather {
    pub hosts: Vec<HostName>,
    pub guests: Vec<Vmid>,
    /// Faults come within this time from the start.
    pub span: Duration,
    pub faults: usize,
}

/// A script of faults drawn from `seed`: the same seed, the same weather.
pub fn storm(seed: u64, weather: &Weather) -> Vec<Scripted> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut lines = Vec::new();
    for _ in 0..weather.faults {
        let after = Duration::from_secs(random.u64(1..weather.span.as_secs().max(2)));
        lines.extend(draw(&mut random, weather, after));
    }
    lines
}

/// One fault, with what ends it where it would not end by itself.
fn draw(random: &mut fastrand::Rng, weather: &Weather, after: Duration) -> Vec<Scripted> {
    let Some(host) = random.choice(&weather.hosts).cloned() else {
        return Vec::new();
    };
    let guest = random.choice(&weather.guests).copied();
    let later = after + Duration::from_secs(random.u64(30..1_800));
    let lasting = Span(Duration::from_secs(random.u64(5..120)));
    let one = |event| vec![Scripted::after(after, event)];
    let pair = |event, end| vec![Scripted::after(after, event), Scripted::after(later, end)];
    let kind = |random: &mut fastrand::Rng| {
        let kinds = ["qmigrate", "qmstart", "qmshutdown", "qmsuspend", "vzmigrate"];
        random.choice(kinds).expect("a kind").to_owned()
    };
    match random.u8(0..24) {
        0 | 1 => one(Event::Press(host)),
        2 => pair(Event::Crash(host.clone()), Event::Press(host)),
        3 | 4 => pair(Event::Cut(host.clone()), Event::MainsBack(host)),
        5 => one(Event::BootSlow { host, by: Span(Duration::from_secs(random.u64(30..400))) }),
        6 => pair(Event::NoBoot(host.clone()), Event::Press(host)),
        7 => pair(Event::HangInShutdown(host.clone()), Event::Cut(host)),
        8 => one(Event::LosePackets { host, packets: random.u32(1..30) }),
        9 => one(Event::ApiHang { host, lasting }),
        10 => one(Event::ApiDown { host, lasting }),
        11 => one(Event::Answers(AnswerFault {
            host: Some(host),
            path: None,
            method: None,
            times: random.u32(1..6),
            how: wrong(random),
        })),
        12 => one(Event::Answers(AnswerFault {
            host: None,
            path: None,
            method: Some("POST".into()),
            times: 1,
            how: Wrong::ActThenTimeOut,
        })),
        13 => one(Event::TaskVanishes { kind: kind(random), guest: None }),
        14 => one(Event::TaskIdle { kind: kind(random), guest: None }),
        15 => pair(Event::Qdevice(DeviceState::Dead), Event::Qdevice(DeviceState::Alive)),
        16 => one(Event::RaiseConfig(true)),
        17 => pair(
            Event::ClockStep(SignedDuration::from_secs(random.i64(-7_200..7_200))),
            Event::ClockStep(SignedDuration::ZERO),
        ),
        18 => pair(Event::Partition(vec![BTreeSet::from([host])]), Event::Heal(true)),
        drawn => match guest {
            Some(guest) => with_guest(drawn, guest, host, &one, &pair, lasting),
            None => Vec::new(),
        },
    }
}

fn with_guest(
    drawn: u8,
    guest: Vmid,
    host: HostName,
    one: &impl Fn(Event) -> Vec<Scripted>,
    pair: &impl Fn(Event, Event) -> Vec<Scripted>,
    lasting: Span,
) -> Vec<Scripted> {
    match drawn {
        19 => one(Event::MigrationAborted(guest)),
        20 => pair(Event::LockGuest { guest, lock: "backup".into() }, Event::UnlockGuest(guest)),
        21 => pair(Event::Hide(guest), Event::Show(guest)),
        22 => one(Event::StopGuest(guest)),
        _ => one(Event::Backup { host, guests: BTreeSet::from([guest]), lasting }),
    }
}

fn wrong(random: &mut fastrand::Rng) -> Wrong {
    match random.u8(0..8) {
        0 => Wrong::Status(595),
        1 => Wrong::Status(596),
        2 => Wrong::Status(599),
        3 => Wrong::Status(401),
        4 => Wrong::Status(500),
        5 => Wrong::Empty,
        6 => Wrong::Half,
        _ => Wrong::Types,
    }
}
