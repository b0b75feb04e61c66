//! Whether and how a guest can change hosts: its obstacles, each with its clause and its remedy,
//! and the storages and copies that a target must have.
//!
//! PVE accepts most migrations that cannot work and fails them in the task, so everything that
//! is known beforehand is judged here: from the guest's own configuration, PVE's precondition call,
//! and the storages as they are seen. PVE judges it again.
//!
//! **Does not know:** where a guest ought to run, whether it fits there.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use super::hold::Hold;
use super::{Plan, Scene};
use crate::cluster::{
    Answer, GuestFacts, GuestKind, GuestSeen, HostName, LocalVolume, Observation, Question,
    Reported, Vmid, VolumeKind,
};
use crate::policy::{GuestRule, LocalDisks};
use crate::request::Migration;

/// What a guest's configuration said this long ago still holds for a plan. (PVE judges it again.)
const FACTS_AGE: Duration = Duration::from_secs(300);
/// From then on it is asked again, so that a plan never has to stop for an answer that grew old.
const FACTS_RENEWED: Duration = Duration::from_secs(200);
/// Storages whose volumes PVE can copy from host to host (`pve-api.md` section 8.2).
const COPIED: [&str; 5] = ["dir", "btrfs", "zfspool", "lvm", "lvmthin"];

/// What keeps a guest from changing hosts. Displayed as a predicate: `has a PCI device (hostpci0)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// A container that no rule lets move by a restart.
    NoRestart,
    /// By [`Device::spoken`](crate::cluster::Device::spoken).
    Device {
        spoken: String,
    },
    Disk {
        volume: String,
        kept: bool,
    },
    CloudInit {
        volume: String,
    },
    Unused {
        volume: String,
    },
    Iso {
        volume: String,
    },
    Mount {
        path: String,
    },
    LinkedClone {
        volume: String,
    },
    /// Local disks, and snapshots on them.
    Snapshots {
        volume: String,
    },
    /// Local disks on a kind of storage that PVE copies nothing from.
    Storage {
        volume: String,
        kind: String,
    },
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Obstacle::NoRestart => {
                f.write_str("is a container, and no rule lets it move by a restart")
            }
            Obstacle::Device { spoken } => write!(f, "has {spoken}"),
            Obstacle::Disk { volume, kept: false } => {
                write!(f, "has a local disk ({volume}) that is replicated nowhere")
            }
            Obstacle::Disk { volume, kept: true } => {
                write!(f, "has a local disk ({volume}), and its rule says `local_disks: stay`")
            }
            Obstacle::CloudInit { volume } => write!(f, "has a local cloud-init drive ({volume})"),
            Obstacle::Unused { volume } => write!(f, "has an unused local volume ({volume})"),
            Obstacle::Iso { volume } => write!(f, "has a local image in its drive ({volume})"),
            Obstacle::Mount { path } => write!(f, "has {path} of its host mounted"),
            Obstacle::LinkedClone { volume } => {
                write!(f, "is a linked clone on a local storage ({volume})")
            }
            Obstacle::Snapshots { volume } => {
                write!(f, "has snapshots on a local disk ({volume})")
            }
            Obstacle::Storage { volume, kind } => {
                write!(
                    f,
                    "has a local disk ({volume}) on a storage of type {kind}, which PVE does not copy"
                )
            }
        }
    }
}

impl Obstacle {
    /// What would mend it.
    pub fn remedy(&self, guest: Vmid) -> String {
        match self {
            Obstacle::NoRestart => format!("give a rule for guest {guest} `restart: true`"),
            Obstacle::Device { .. } => format!(
                "give the rule of guest {guest} `otherwise: shutdown`, or map the device on every host it may run on"
            ),
            Obstacle::Disk { kept: false, .. } => format!(
                "move its disks to a shared storage, replicate it (`pvesr create-local-job {guest}-0 HOST`), or give its rule `local_disks: move` or `otherwise: shutdown`"
            ),
            Obstacle::Disk { kept: true, .. } => {
                format!(
                    "give the rule of guest {guest} `local_disks: move`, or `otherwise: shutdown`"
                )
            }
            Obstacle::CloudInit { .. } | Obstacle::Unused { .. } => format!(
                "move that volume to a shared storage or remove it, or give the rule of guest {guest} `local_disks: move`"
            ),
            Obstacle::Iso { .. } => {
                format!(
                    "take the image out of the drive of guest {guest}, or keep it on a shared storage"
                )
            }
            Obstacle::Mount { .. } => format!(
                "mark the mount `shared=1` if every host has it, or give the rule of guest {guest} `otherwise: shutdown`"
            ),
            Obstacle::LinkedClone { .. } => {
                format!("make guest {guest} a full clone, or keep it on a shared storage")
            }
            Obstacle::Snapshots { .. } => {
                format!("remove the snapshots of guest {guest}, or keep it on a shared storage")
            }
            Obstacle::Storage { .. } => format!(
                "move the disks of guest {guest} to a shared storage, or give its rule `otherwise: shutdown`"
            ),
        }
    }
}

/// Whether and how a running guest can change hosts.
pub enum Passage {
    Open {
        how: Migration,
        /// Local disks are copied along.
        local_disks: bool,
    },
    Closed(Obstacle),
    /// Its configuration was asked for.
    Unknown,
}

/// A container moves by a restart, which its owner must have allowed.
fn bound_to_run(kind: GuestKind, rule: Option<&GuestRule>) -> bool {
    kind == GuestKind::Ct && !rule.is_some_and(|rule| rule.restart)
}

/// How a running guest can leave its host, by its own configuration and its owner's rule.
pub fn passage(
    scene: &Scene<'_>,
    plan: &mut Plan,
    vmid: Vmid,
    guest: &GuestSeen,
    rule: Option<&GuestRule>,
) -> Passage {
    if bound_to_run(guest.kind, rule) {
        // No answer would change that, so none is asked for.
        return Passage::Closed(Obstacle::NoRestart);
    }
    match facts(scene, plan, vmid) {
        Some(facts) => match (way(guest.kind, facts, rule), copied(scene.seen, facts)) {
            (Passage::Open { local_disks: true, .. }, Err(obstacle)) => Passage::Closed(obstacle),
            (passage, _) => passage,
        },
        None => Passage::Unknown,
    }
}

/// The same once its configuration is known, which is all that `spot check --live` knows.
pub fn way(kind: GuestKind, facts: &GuestFacts, rule: Option<&GuestRule>) -> Passage {
    if bound_to_run(kind, rule) {
        return Passage::Closed(Obstacle::NoRestart);
    }
    if let Some(device) = facts.devices.iter().find(|device| device.holds) {
        return Passage::Closed(Obstacle::Device { spoken: device.spoken() });
    }
    let disks = rule.map_or(LocalDisks::Replicated, |rule| rule.local_disks);
    if let Some(obstacle) = facts.local.iter().find_map(|one| held_by(kind, facts, one, disks)) {
        return Passage::Closed(obstacle);
    }
    let how = match kind {
        GuestKind::Vm => Migration::Live,
        GuestKind::Ct => Migration::Restart,
    };
    Passage::Open { how, local_disks: !facts.local.is_empty() }
}

/// Whether one local volume holds its guest where it is.
fn held_by(
    kind: GuestKind,
    facts: &GuestFacts,
    volume: &LocalVolume,
    disks: LocalDisks,
) -> Option<Obstacle> {
    let name = volume.name.clone();
    match volume.kind {
        VolumeKind::Iso => return Some(Obstacle::Iso { volume: name }),
        VolumeKind::Mount => return Some(Obstacle::Mount { path: name }),
        VolumeKind::Disk | VolumeKind::CloudInit | VolumeKind::Unused => {}
    }
    if volume.linked {
        return Some(Obstacle::LinkedClone { volume: name });
    }
    let copied = volume.replicated && !facts.replicated_to.is_empty();
    let held = match (disks, volume.kind) {
        (LocalDisks::Move, _) => None,
        (LocalDisks::Replicated, _) if copied => None,
        (LocalDisks::Replicated | LocalDisks::Stay, VolumeKind::CloudInit) => {
            Some(Obstacle::CloudInit { volume: name.clone() })
        }
        (LocalDisks::Replicated | LocalDisks::Stay, VolumeKind::Unused) => {
            Some(Obstacle::Unused { volume: name.clone() })
        }
        (
            LocalDisks::Replicated | LocalDisks::Stay,
            VolumeKind::Disk | VolumeKind::Iso | VolumeKind::Mount,
        ) => {
            let kept = disks == LocalDisks::Stay;
            Some(Obstacle::Disk { volume: name.clone(), kept })
        }
    };
    // Of a running VM, PVE mirrors disks and not their snapshots, unless replication has them
    // there.
    let snapshots = kind == GuestKind::Vm && facts.snapshots && !copied;
    held.or_else(|| snapshots.then_some(Obstacle::Snapshots { volume: name }))
}

/// Whether PVE can copy every local volume of a guest.
fn copied(seen: &Observation, facts: &GuestFacts) -> Result<(), Obstacle> {
    for volume in &facts.local {
        let kind = seen
            .storages
            .iter()
            .find(|storage| Some(storage.name.as_str()) == volume.storage())
            .and_then(|storage| storage.kind.as_deref());
        if let Some(kind) = kind
            && !COPIED.contains(&kind)
        {
            let (volume, kind) = (volume.name.clone(), kind.to_owned());
            return Err(Obstacle::Storage { volume, kind });
        }
    }
    Ok(())
}

/// Why a guest may not go to a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Barred {
    /// It may pass: a storage that is not active is waited for.
    ForNow(String),
    AtAll(String),
}

impl Barred {
    pub fn why(self) -> String {
        match self {
            Barred::ForNow(why) | Barred::AtAll(why) => why,
        }
    }
}

/// Why a guest may not go to `target`, as far as its configuration and the storages there say. (A
/// target that is off is never asked: PVE accepts that migration and fails it later.)
pub fn barred(
    seen: &Observation,
    facts: &GuestFacts,
    rule: Option<&GuestRule>,
    target: &HostName,
) -> Option<Barred> {
    let at_all = |why: String| Some(Barred::AtAll(why));
    if let Some(why) = facts.barred.get(target) {
        return at_all(format!("PVE does not let it go to {target}: {why}"));
    }
    if facts.allowed.as_ref().is_some_and(|allowed| !allowed.contains(target)) {
        return at_all(format!("PVE does not let it go to {target}"));
    }
    let disks = rule.map_or(LocalDisks::Replicated, |rule| rule.local_disks);
    if !facts.local.is_empty()
        && disks == LocalDisks::Replicated
        && !facts.replicated_to.contains(target)
    {
        return at_all(format!("its disks are not replicated to {target}"));
    }
    // PVE's own judgement looks at no container's storages, and never at whether one is active.
    let listed: BTreeSet<&str> = seen.storages.iter().map(|one| one.name.as_str()).collect();
    // Before its first report nothing is known of its storages; it was asked itself when it came
    // up.
    let reports = seen.hosts.get(target).is_some_and(|look| look.reported == Reported::Online);
    facts.storages.iter().filter(|name| listed.contains(name.as_str())).find_map(|name| {
        let there = seen.storages.iter().find(|one| one.host == *target && one.name == *name);
        match there {
            None => at_all(format!("{target} has no storage {name}, or it is disabled there")),
            Some(storage) if reports && !storage.available => {
                Some(Barred::ForNow(format!("storage {name} is not active on {target}")))
            }
            Some(_) => None,
        }
    })
}

/// The same for a guest whose configuration may not be known yet: then nothing stands against it
/// here.
pub fn barred_from(
    scene: &Scene<'_>,
    vmid: Vmid,
    rule: Option<&GuestRule>,
    target: &HostName,
) -> Option<Barred> {
    match scene.seen.answer(&Question::Guest(vmid), FACTS_AGE) {
        Some(Answer::Guest(facts)) => barred(scene.seen, facts, rule, target),
        Some(_) | None => None,
    }
}

/// A guest's configuration, or the question for it.
pub fn facts<'a>(scene: &Scene<'a>, plan: &mut Plan, vmid: Vmid) -> Option<&'a GuestFacts> {
    let question = Question::Guest(vmid);
    if scene.seen.answer(&question, FACTS_RENEWED).is_none() {
        plan.ask_facts(vmid);
    }
    let here = scene.seen.guests.get(&vmid).map(|guest| &guest.host);
    match scene.seen.answer(&question, FACTS_AGE) {
        Some(Answer::Guest(facts)) if facts.on.is_none() || facts.on.as_ref() == here => {
            Some(facts)
        }
        // It has moved since.
        Some(Answer::Guest(_)) => {
            plan.ask_facts(vmid);
            None
        }
        Some(_) | None => {
            // What could not be read is told; it is asked again as long as it is wanted.
            if let Some(Err(gap)) = scene.seen.answers.get(&question).map(|one| &one.answer) {
                let host = scene.seen.guests.get(&vmid).map(|guest| guest.host.clone());
                let (guest, why) = (vmid, gap.to_string());
                plan.hold(Hold::GuestWaits { guest, host, why, until: None });
            }
            None
        }
    }
}
