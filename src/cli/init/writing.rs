//! The files that `spot init` writes: `spot.yaml`, the token's secret and a first policy, each with
//! the comments that let its owner go on by himself.
//!
//! **Does not know:** where the answers came from.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use nix::unistd::{AccessFlags, access};

use super::finding::Seat;
use crate::cluster::{Mac, Tier};
use crate::pve::{Fingerprint, Secret};

/// Where the package and systemd's unit expect everything.
const USUAL_FOLDER: &str = "/etc/spot";
const CREDENTIAL: &str = "pve-token";
const FIRST_POLICY: &str = "home.yaml";

/// Everything that was found and answered.
pub(super) struct Draft {
    pub cluster: String,
    pub hosts: Vec<HostDraft>,
    pub token: String,
    pub here: Seat,
    pub wake_only: Option<SocketAddr>,
    pub clock_trusted: bool,
    pub timezone: String,
}

pub(super) struct HostDraft {
    pub name: String,
    pub url: String,
    pub pin: Option<Fingerprint>,
    pub tier: Tier,
    pub macs: Vec<Mac>,
    /// It may be put to sleep although somebody else switched it on.
    pub enforce: bool,
    pub online: bool,
    pub votes: Option<u64>,
}

/// Which file goes where.
pub(super) struct Places {
    pub config: PathBuf,
    folder: PathBuf,
    secret: PathBuf,
    pub policies: PathBuf,
    pub policy: PathBuf,
    state: PathBuf,
    socket: PathBuf,
}

impl Places {
    pub(super) fn of(config: &Path, state: Option<PathBuf>, socket: Option<PathBuf>) -> Places {
        let folder = match config.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
            Some(_) | None => PathBuf::from("."),
        };
        let usual = folder == Path::new(USUAL_FOLDER);
        let beside = |given: Option<PathBuf>, usually: &str, beside: &str| {
            given.unwrap_or_else(|| PathBuf::from(if usual { usually } else { beside }))
        };
        let policies = folder.join("policies");
        Places {
            config: config.to_owned(),
            secret: folder.join("credentials").join(CREDENTIAL),
            policy: policies.join(FIRST_POLICY),
            policies,
            state: beside(state, "/var/lib/spot", "state"),
            socket: beside(socket, "/run/spot/spot.sock", "spot.sock"),
            folder,
        }
    }

    pub(super) fn usual(&self) -> bool {
        self.config == Path::new(crate::config::DEFAULT_FILE)
    }

    /// Whether the files can be written, before anybody answers a question.
    pub(super) fn writable(&self) -> anyhow::Result<()> {
        let there = self.folder.ancestors().find(|folder| folder.exists());
        let there = there.filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        access(there, AccessFlags::W_OK).map_err(|why| {
            anyhow::anyhow!(
                "{} cannot be written in ({}); run it as root, or name another file with --config",
                there.display(),
                why.desc()
            )
        })
    }

    /// Files that would be written over.
    pub(super) fn taken(&self) -> Vec<&Path> {
        let mut all = vec![self.config.as_path(), self.secret.as_path()];
        if self.other_policies().is_empty() {
            all.push(&self.policy);
        }
        all.retain(|path| path.exists());
        all
    }

    /// Policies of the owner's own: a first one beside them would only contradict them.
    pub(super) fn other_policies(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.policies).into_iter().flatten().flatten();
        let mut found: Vec<PathBuf> = entries
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|end| end == "yaml" || end == "yml"))
            .filter(|path| *path != self.policy)
            .collect();
        found.sort();
        found
    }

    /// Writes everything; what was written is told, line by line.
    pub(super) fn write(
        &self,
        draft: &Draft,
        secret: &Secret,
        keep_policies: bool,
    ) -> anyhow::Result<Vec<String>> {
        let mut told = Vec::new();
        folder(&self.folder, 0o755)?;
        folder(&self.folder.join("credentials"), 0o700)?;
        put(&self.secret, &format!("{}\n", secret.reveal()), 0o600)?;
        told.push(format!("wrote {} (the secret, readable by you alone)", self.secret.display()));
        put(&self.config, &self.spot_yaml(draft), 0o644)?;
        told.push(format!("wrote {} (how to reach the cluster)", self.config.display()));
        if !keep_policies {
            folder(&self.policies, 0o755)?;
            put(&self.policy, &policy(draft), 0o644)?;
            told.push(format!("wrote {} (what to want of it)", self.policy.display()));
        }
        Ok(told)
    }

    fn spot_yaml(&self, draft: &Draft) -> String {
        let mut out = format!(
            "# How spot reaches the cluster {} and acts on it; what it should want of it stands\n\
             # in the policies. Relative paths are meant from this file's folder. Written by\n\
             # `spot init`.\n\n\
             # Every host with its own address, and the SHA-256 fingerprint of its certificate as\n\
             # `pvenode cert info` shows it. PVE renews certificates about every two years; then\n\
             # a second pin belongs here. Instead of pins: `ca: pve-root-ca.pem`, copied from\n\
             # /etc/pve.\nhosts:\n",
            quoted_comment(&draft.cluster)
        );
        for host in &draft.hosts {
            let pin = host.pin.map(|pin| pin.to_string()).unwrap_or_default();
            let _ = write!(
                out,
                "  {}:\n    url: \"{}\"\n    pins:\n      - \"{pin}\"\n",
                host.name, host.url
            );
        }
        let _ = write!(
            out,
            "\n# The token; its secret lies in credentials/{CREDENTIAL} beside this file, or comes from\n\
             # systemd's `LoadCredential={CREDENTIAL}:…`.\n\
             token: {{ id: \"{}\", credential: {CREDENTIAL} }}\n\n\
             # rehearse: only report what would be done; what you ask for yourself acts after a\n\
             # confirmation. act: do it.\nmode: rehearse\n\n\
             # Where spot itself lives, so that it never switches off the ground under its feet.\n",
            draft.token
        );
        let _ = match &draft.here {
            Seat::Host(host) => writeln!(out, "here: {host}"),
            Seat::Guest(vmid) => writeln!(out, "here: {{ vmid: {vmid} }}"),
            Seat::Outside => writeln!(out, "here: outside"),
        };
        let clock = if draft.clock_trusted { "trust" } else { "check" };
        let _ = write!(
            out,
            "\n# check: power nothing off while systemd says that this machine's clock is not synchronised.\n\
             # trust: you vouch for it.\nclock: {clock}\n\n\
             # The journal, the socket by which `spot status` and the others ask, the policies.\n\
             state: {}\nsocket: {}\npolicies: policies\n",
            quoted(&self.state),
            quoted(&self.socket)
        );
        if let Some(address) = draft.wake_only {
            let _ = write!(
                out,
                "\n# Magic packets go here and nowhere else: this cluster is a pretended one.\n\
                 wake_only: [\"{address}\"]\n"
            );
        }
        out
    }
}

/// A first policy that harms nobody: windows by day for what is on now, the rest on demand.
fn policy(draft: &Draft) -> String {
    let mut out = format!(
        "# What spot should want of the cluster {}. Keep this file in git; check it with `spot check`.\n\
         # Written by `spot init` as a beginning: change whatever does not fit.\n\n\
         timezone: {}\n\nhosts:\n",
        quoted_comment(&draft.cluster),
        draft.timezone
    );
    for host in &draft.hosts {
        out += &of_host(host);
    }
    out += "\n# Where guests run; the first rule that matches counts. Without a rule a guest stays where it is\n\
            # until its host is to sleep, and then goes wherever it fits.\n\
            # guests:\n\
            #   - { match: { vmid: [100] }, pinned: true }                # never moved\n\
            #   - { match: { tag: desktop }, prefer: [HOST], otherwise: shutdown }\n\n";
    let by_day: Vec<&str> = draft
        .hosts
        .iter()
        .filter(|host| host.tier == Tier::Medium && !host.macs.is_empty())
        .map(|host| host.name.as_str())
        .collect();
    out += "# When hosts should be awake: minute, hour, day, month, weekday as in crontab, and for how long.\n\
            # What no window and no `spot up` wants may sleep.\n";
    match by_day.is_empty() {
        true => {
            out += "# policies:\n#   - { name: by-day, hosts: [HOST], run: [{ from: \"0 8 * * *\", for: 14h }] }\n";
        }
        false => {
            let _ = write!(
                out,
                "policies:\n  - {{ name: by-day, hosts: [{}], run: [{{ from: \"0 8 * * *\", for: 14h }}] }}\n",
                by_day.join(", ")
            );
        }
    }
    out += "\nquorum:\n  spare: 0            # votes to keep above the bare majority after every power-off\n";
    out
}

fn of_host(host: &HostDraft) -> String {
    let votes = match host.votes {
        Some(1) => " (1 vote)".to_owned(),
        Some(votes) => format!(" ({votes} votes)"),
        None => String::new(),
    };
    let note = match (host.tier, host.online) {
        (Tier::Low, _) => "always on: spot never powers it off",
        (Tier::Medium | Tier::High, true) => "it was on when this was written",
        (Tier::Medium | Tier::High, false) => "it was off when this was written",
    };
    let mut out =
        format!("  {}:                      # {note}{votes}\n    tier: {}\n", host.name, host.tier);
    match (host.tier, host.macs.as_slice()) {
        (Tier::Low, _) => {}
        (Tier::Medium | Tier::High, []) => {
            out += "    # mac: \"aa:bb:cc:dd:ee:ff\"   # without it spot cannot wake it and lets it be\n";
        }
        (Tier::Medium | Tier::High, macs) => {
            let macs: Vec<String> = macs.iter().map(|mac| format!("\"{mac}\"")).collect();
            let _ = match macs.as_slice() {
                [one] => writeln!(out, "    mac: {one}"),
                many => writeln!(out, "    mac: [{}]", many.join(", ")),
            };
        }
    }
    if host.tier != Tier::Low {
        out += "    lease: 4h               # what `spot up` means without --for\n";
    }
    if host.enforce && host.tier != Tier::Low {
        out += "    enforce: true           # may sleep although somebody else switched it on\n";
    }
    out
}

/// Inside a comment a name must not end the line.
fn quoted_comment(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).collect()
}

fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-".contains(&b);
    match text.bytes().all(plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', "''")),
    }
}

fn folder(path: &Path, mode: u32) -> anyhow::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder
        .recursive(true)
        .mode(mode)
        .create(path)
        .with_context(|| format!("cannot make the folder {}", path.display()))
}

/// Written beside and then put in place, so that nobody ever meets half a file.
fn put(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    // Left over from an end in between; its rights may be wrong.
    let _ = std::fs::remove_file(&beside);
    let write = || -> std::io::Result<()> {
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&beside, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}
