//! Entries as sentences: who, what, from → to, because. The same words in the history, on the page,
//! in the demo and in every test's expected journal.
//!
//! Never claims what was not seen: "asked host3 to power off", later "host3 left".
//!
//! **Does not know:** colours, columns, time zones.

use std::fmt;

use super::{Entry, Leaving, Parked};
use crate::cluster::BackupJob;
use crate::undertaking::{Event, Outcome, Stage};

impl Entry {
    /// Whom this is about: a host, `vm 201`-like guests, or `spot` itself.
    pub fn who(&self) -> String {
        match self {
            Entry::LeaseGranted { host, .. }
            | Entry::LeaseEnded { host, .. }
            | Entry::EmptyingAsked { host, .. }
            | Entry::EmptyingReleased { host, .. }
            | Entry::Frozen { host, .. }
            | Entry::Thawed { host, .. }
            | Entry::ProofAsked { host, .. }
            | Entry::ProofEnded { host, .. }
            | Entry::HostCame { host, .. }
            | Entry::HostAnswered { host, .. }
            | Entry::HostReady { host, .. }
            | Entry::HostLeft { host, .. }
            | Entry::HostWanted { host, .. }
            | Entry::WakeEstimated { host, .. }
            | Entry::WakeServed { host, .. }
            | Entry::WakeProven { host, .. }
            | Entry::WakeUnproven { host, .. }
            | Entry::WakeVouched { host, .. }
            | Entry::StopFailed { host, .. }
            | Entry::BackupBegan { host, .. }
            | Entry::BackupOver { host, .. }
            | Entry::WakeFailed { host, .. } => host.to_string(),
            Entry::GuestMoved { guest, .. }
            | Entry::GuestMovedAway { guest, .. }
            | Entry::GuestParked { guest, .. }
            | Entry::GuestBack { guest, .. }
            | Entry::GuestKnown { guest, .. } => format!("guest {guest}"),
            Entry::Held { host, guest, .. } | Entry::HoldLifted { host, guest, .. } => {
                match (host, guest) {
                    (_, Some(guest)) => format!("guest {guest}"),
                    (Some(host), None) => host.to_string(),
                    (None, None) => "spot".into(),
                }
            }
            Entry::Begun { purpose, .. } => purpose.host().to_string(),
            Entry::Progress { event, .. } => match event {
                Event::Intended { request, .. } => match request.guest() {
                    Some(guest) => format!("guest {guest}"),
                    None => request.hosts()[0].to_string(),
                },
                Event::Answered { .. } | Event::Settled { .. } | Event::Ended { .. } => {
                    "spot".into()
                }
            },
            Entry::Refused { request, .. } => match request.guest() {
                Some(guest) => format!("guest {guest}"),
                None => request.hosts()[0].to_string(),
            },
            Entry::Started { .. }
            | Entry::Stopped
            | Entry::ConfigVersion { .. }
            | Entry::VotesSeen { .. }
            | Entry::DeviceSeen { .. }
            | Entry::BackupJobs { .. }
            | Entry::ClockStepped { .. }
            | Entry::ClockSettled
            | Entry::StrangerSeen { .. }
            | Entry::PolicyTaken { .. }
            | Entry::PolicyRefused { .. } => "spot".into(),
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Entry::Started { version, mode, holder, term } => {
                write!(f, "spot {version} started in mode {mode} (term {term}, held by {holder})")
            }
            Entry::Stopped => f.write_str("spot stopped"),
            Entry::LeaseGranted { host, wants, until, because, by } => {
                write!(
                    f,
                    "{by} wants {host} {}",
                    if *wants == super::Wants::Awake { "awake" } else { "at rest" }
                )?;
                match until {
                    Some(until) => write!(f, " until {until:.0}")?,
                    None => f.write_str(" until its next window opens")?,
                }
                because.as_ref().map_or(Ok(()), |because| write!(f, ", because {because}"))
            }
            Entry::LeaseEnded { host, why } => write!(f, "the lease of {host} ended: {why}"),
            Entry::EmptyingAsked { host, by } => write!(f, "{by} wants {host} empty and on"),
            Entry::EmptyingReleased { host, by } => write!(f, "{by} released {host}"),
            Entry::Frozen { host, by } => {
                write!(f, "{by} froze {host}: it is left exactly as it is")
            }
            Entry::Thawed { host, by } => write!(f, "{by} thawed {host}"),
            Entry::ProofAsked { host, by } => {
                write!(f, "{by} wants a supervised sleep and wake of {host}")
            }
            Entry::ProofEnded { host, why } => write!(f, "the proof of {host} ended: {why}"),
            Entry::HostCame { host, first_look, same_boot } => match (first_look, same_boot) {
                (true, _) => write!(f, "{host} is awake (first look)"),
                (false, true) => write!(f, "{host} is a member again, and had never stopped"),
                (false, false) => write!(f, "{host} joined the cluster: off → awake"),
            },
            Entry::HostAnswered { host, .. } => write!(f, "{host} answers"),
            Entry::HostReady { host, boot_seconds } => {
                write!(f, "{host} is ready")?;
                boot_seconds.map_or(Ok(()), |s| write!(f, " {s} s after our first packet"))
            }
            Entry::HostLeft { host, leaving, .. } => match leaving {
                Leaving::Ours => write!(f, "{host} left as we asked: awake → resting"),
                Leaving::Others => {
                    write!(f, "{host} was shut down by somebody else: awake → resting")
                }
                Leaving::BeforeFirstLook => write!(f, "{host} is off (first look): resting"),
                Leaving::Vanished => {
                    write!(f, "{host} vanished without a shutdown: awake → missing")
                }
            },
            Entry::StrangerSeen { what, .. } => {
                write!(f, "somebody else acts with our token: {what}")
            }
            Entry::HostWanted { host, because } => {
                write!(f, "{host} is wanted and so spot's to switch off later ({because})")
            }
            Entry::WakeProven { host, .. } => write!(f, "{host} is proven to wake by packet"),
            Entry::WakeVouched { host, .. } => {
                write!(f, "the owner vouches that {host} wakes by packet")
            }
            Entry::WakeUnproven { host, why } => {
                write!(f, "{host} is no longer proven to wake: {why}")
            }
            Entry::WakeFailed { host, attempts } => {
                write!(f, "waking {host} failed (attempt {attempts})")
            }
            Entry::GuestMoved { guest, from, to, .. } => {
                write!(f, "guest {guest} moved: {from} → {to}")
            }
            Entry::GuestMovedAway { guest, from, to } => {
                write!(f, "somebody else moved guest {guest}: {from} → {to}")
            }
            Entry::WakeEstimated { host, policy, boot_seconds, guests, move_seconds, .. } => {
                write!(
                    f,
                    "{host} wakes so that it serves when policy {policy} opens its window: {}",
                    takes(*boot_seconds, *guests, *move_seconds)
                )
            }
            Entry::WakeServed { host, expected_seconds, took_seconds, .. } => {
                let (took, expected) = (took_seconds, expected_seconds);
                write!(f, "{host} serves: it took {took} s where {expected} s were estimated")
            }
            Entry::GuestParked { guest, host, how, .. } => match how {
                Parked::Hibernated => write!(f, "guest {guest} hibernated on {host}"),
                Parked::ShutDown => write!(f, "guest {guest} shut down on {host}"),
            },
            Entry::GuestBack { guest, why } => write!(f, "guest {guest} is back: {why}"),
            Entry::GuestKnown { guest, name, .. } => {
                write!(f, "guest {guest} is {}", name.as_deref().unwrap_or("nameless"))
            }
            Entry::ConfigVersion { version } => {
                write!(f, "corosync.conf has config_version {version}")
            }
            Entry::VotesSeen { votes, .. } => {
                let list: Vec<String> =
                    votes.iter().map(|(host, votes)| format!("{host} {votes}")).collect();
                write!(f, "votes by corosync.conf: {}", list.join(", "))
            }
            Entry::DeviceSeen { votes: 0, .. } => f.write_str("there is no QDevice"),
            Entry::DeviceSeen { votes, cast, .. } => {
                write!(
                    f,
                    "the QDevice has {} and {}",
                    crate::cluster::quorum::votes(*votes),
                    if *cast { "casts them" } else { "does not cast them" }
                )
            }
            Entry::BackupJobs { jobs } => f.write_str(&told_jobs(jobs)),
            Entry::BackupBegan { host, storages, .. } => {
                let list: Vec<&str> = storages.iter().map(String::as_str).collect();
                write!(f, "a backup to {} began on {host}", list.join(" or "))
            }
            Entry::BackupOver { host, how, .. } => {
                write!(f, "the backup on {host} is over: {how}")
            }
            Entry::StopFailed { host, sentence } => {
                write!(f, "{host} did not power off: {sentence}")
            }
            Entry::ClockStepped { seconds } => {
                write!(
                    f,
                    "the clock stepped by {seconds} s: nothing is powered off until it holds still"
                )
            }
            Entry::ClockSettled => f.write_str("the clock holds still again"),
            Entry::Begun { purpose, because, .. } => {
                write!(f, "began to {purpose}, because {because}")
            }
            Entry::Progress { event, .. } => fmt::Display::fmt(event, f),
            Entry::Held { sentence, for_seconds: Some(seconds), .. } => {
                write!(f, "held for {} h by now: {sentence}", seconds / 3600)
            }
            Entry::Held { sentence, for_seconds: None, .. } => write!(f, "held: {sentence}"),
            Entry::HoldLifted { code, .. } => write!(f, "no longer held ({code})"),
            Entry::Refused { request, sentence, .. } => {
                write!(f, "the gate refused to {request}: {sentence}")
            }
            Entry::PolicyTaken { commit } => write!(f, "policy {commit} is in force"),
            Entry::PolicyRefused { sentence } => write!(f, "policy refused: {sentence}"),
        }
    }
}

/// When each job runs next; those that never do are not told.
fn told_jobs(jobs: &[BackupJob]) -> String {
    let next = |job: &BackupJob| {
        let storage = job.storage.as_deref().unwrap_or("a folder");
        job.next_run.map(|at| format!("{} to {storage} at {at}", job.id))
    };
    let coming: Vec<String> = jobs.iter().filter_map(next).collect();
    match coming.as_slice() {
        [] => "PVE has no backup job that will run".into(),
        some => format!("PVE's next backups: {}", some.join(", ")),
    }
}

/// What a wake ahead of a window takes: `boot 2 min, 3 guests 7 min`.
pub fn takes(boot_seconds: u64, guests: u32, move_seconds: u64) -> String {
    let about = |seconds: u64| match seconds {
        0..120 => format!("{seconds} s"),
        minutes => format!("{} min", minutes.div_ceil(60)),
    };
    let boot = format!("boot {}", about(boot_seconds));
    match guests {
        0 => boot,
        1 => format!("{boot}, 1 guest {}", about(move_seconds)),
        many => format!("{boot}, {many} guests {}", about(move_seconds)),
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Intended { request, by_configured_votes: false, .. } => {
                write!(f, "asks: {request}")
            }
            Event::Intended { request, by_configured_votes: true, .. } => write!(
                f,
                "asks: {request} (quorum judged by configured votes only, the weaker evidence)"
            ),
            Event::Answered { answer, .. } => write!(f, "the answer: {answer}"),
            Event::Settled { outcome, .. } => match outcome {
                Outcome::Effective => f.write_str("seen: it worked"),
                Outcome::Failed { sentence } => write!(f, "seen: it failed: {sentence}"),
                Outcome::NeverBegan => f.write_str("seen: it never began"),
                Outcome::Overdue => f.write_str("its limit passed without a sign"),
            },
            Event::Ended { stage, because } => match stage {
                Stage::Done => write!(f, "done: {because}"),
                Stage::Failed => write!(f, "failed: {because}"),
                Stage::Dropped => write!(f, "dropped: {because}"),
                Stage::Open => write!(f, "open: {because}"),
            },
        }
    }
}
