//! `spot.yaml`: how to reach the cluster and act on it, never what to want of it.
//!
//! The file decides whether anything acts at all (`mode`), which certificates are believed and
//! where the token's secret lies, so it is read strictly: an unknown key is a fault, every fault is
//! told at once with its line and what mends it, and nothing is guessed. Secrets are read from
//! files, the environment or systemd's credentials and are never part of the text, of an error or
//! of `Debug`.
//!
//! **Does not know:** policies, what is running.

mod reading;
mod tree;

use std::collections::BTreeMap;
use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::checks::{Asks, Check};
use crate::cluster::HostName;
use crate::gate::{Here, Mode};
use crate::pve::{Access, Endpoint, Endpoints, Secret};
use reading::Reader;

/// Where `spot.yaml` is looked for.
pub const DEFAULT_FILE: &str = "/etc/spot/spot.yaml";
const DEFAULT_STATE: &str = "/var/lib/spot";
const DEFAULT_SOCKET: &str = "/run/spot/spot.sock";
const DEFAULT_POLICIES: &str = "/etc/spot/policies";
/// PVE's own port, where a URL names none.
const PVE_PORT: u16 = 8006;
/// A `spot.yaml` of 32 hosts is about 8 KiB.
const LARGEST_FILE_BYTES: u64 = 1 << 20;

/// What `spot.yaml` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Hosts in the order of the file, with PVE's name of each where it differs.
    pub hosts: Vec<(HostName, Option<String>)>,
    /// Addresses, certificates and the token.
    pub access: Access,
    pub mode: Mode,
    pub here: Here,
    /// Journal and lock.
    pub state: PathBuf,
    /// The socket by which the command line asks the service.
    pub socket: PathBuf,
    /// When not empty, magic packets go here and nowhere else.
    pub wake_only: Vec<SocketAddr>,
    /// The folder of policies.
    pub policies: PathBuf,
    /// The owner vouches for the wall clock.
    pub clock_trusted: bool,
    /// Where the page listens; reserved.
    pub page: Option<SocketAddr>,
    /// Commands and URLs that `busy_while` may name.
    pub checks: BTreeMap<String, Check>,
    /// Who is told; reserved.
    pub notices: Vec<Notice>,
    /// Whom to tell after each turn that `spot` still lives.
    pub dead_man: Option<DeadMan>,
    /// Beside `spot.yaml`: where credentials lie without systemd.
    pub credentials: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    pub url: String,
    /// Name of the credential sent along.
    pub credential: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadMan {
    pub url: String,
    /// Not more often than this; without it, after each turn.
    pub every: Option<Duration>,
}

impl AsRef<Access> for Config {
    fn as_ref(&self) -> &Access {
        &self.access
    }
}

impl Config {
    /// Reads `path` and the files it names; every fault is one sentence with its place.
    pub fn read(path: impl AsRef<Path>) -> Result<Config, Vec<String>> {
        let path = path.as_ref();
        let text = text_of(path).map_err(|why| vec![why])?;
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        let shown = path.display().to_string();
        let place = |(line, why): (usize, String)| format!("{shown}:{line}: {why}");
        let root = tree::read(&text).map_err(|fault| vec![place(fault)])?;
        let mut reader = Reader::new(folder);
        let config = reader.config(&root);
        let faults = reader.faults();
        match config {
            Some(config) if faults.is_empty() => Ok(config),
            Some(_) | None => Err(faults.into_iter().map(place).collect()),
        }
    }

    /// How the live site finds every host. `nodes` are the policy's hosts with PVE's names of them;
    /// a host that only a policy names has no address.
    pub fn endpoints(&self, nodes: &BTreeMap<HostName, String>) -> Endpoints {
        let own = |(host, node): &(HostName, Option<String>)| {
            let fixed = node.is_some();
            let node = node.clone().unwrap_or_else(|| host.to_string());
            (host.clone(), Endpoint { node, addressed: true, fixed })
        };
        let hosts: BTreeMap<HostName, Endpoint> = self.hosts.iter().map(own).collect();
        let mut prefer: Vec<HostName> = self.hosts.iter().map(|(host, _)| host.clone()).collect();
        if let Here::Host(here) = &self.here {
            // The host where spot lives answers without a network in between.
            prefer.sort_by_key(|host| host != here);
        }
        Endpoints { hosts, prefer, token: self.access.token.clone() }.renamed(nodes)
    }

    /// The secret kept under `name`: a systemd credential, or a file beside `spot.yaml`.
    pub fn credential(&self, name: &str) -> Result<Secret, String> {
        credential(name, &self.credentials)
    }
}

/// A credential of systemd (`LoadCredential=`), else `credentials/NAME` beside `spot.yaml`.
fn credential(name: &str, folder: &Path) -> Result<Secret, String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if name.is_empty() || name.starts_with('.') || !name.bytes().all(plain) {
        return Err(format!("`{name}` is no name of a credential: letters, digits, `-`, `_`, `.`"));
    }
    if let Some(given) = std::env::var_os("CREDENTIALS_DIRECTORY") {
        let path = Path::new(&given).join(name);
        if path.exists() {
            return guarded(&path, OTHERS);
        }
    }
    let path = folder.join(name);
    if path.exists() {
        return secret_of(&path);
    }
    Err(format!(
        "there is no credential `{name}`: give it to the service with systemd's `LoadCredential={name}:…`, \
         or write it to {} (mode 0600)",
        path.display()
    ))
}

/// A text file of bearable size.
fn text_of(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let told = |why: std::io::Error| match why.kind() {
        std::io::ErrorKind::NotFound => format!("{shown} does not exist"),
        std::io::ErrorKind::PermissionDenied => format!("{shown} may not be read by this user"),
        _ => format!("{shown} cannot be read: {why}"),
    };
    // A pipe would be waited for, and a device read without end.
    if !std::fs::metadata(path).map_err(told)?.is_file() {
        return Err(format!("{shown} is not a file"));
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(told)?;
    file.take(LARGEST_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(told)?;
    if bytes.len() as u64 > LARGEST_FILE_BYTES {
        return Err(format!("{shown} is larger than 1 MiB, which no such file is"));
    }
    String::from_utf8(bytes).map_err(|_| format!("{shown} is not UTF-8 text"))
}

/// A secret that nobody else can read.
pub fn secret_of(path: &Path) -> Result<Secret, String> {
    guarded(path, GROUP_AND_OTHERS)
}

const GROUP_AND_OTHERS: u32 = 0o077;
/// systemd lets the service's user read a credential by an access list, whose mask shows where the
/// group's rights usually stand; the folder is closed to everybody else.
const OTHERS: u32 = 0o007;

/// A secret in a file that has none of the rights in `closed_to`.
fn guarded(path: &Path, closed_to: u32) -> Result<Secret, String> {
    let text = text_of(path)?;
    let shown = path.display();
    let mode = std::fs::metadata(path).map(|file| file.permissions().mode()).unwrap_or(0);
    if mode & closed_to != 0 {
        return Err(format!(
            "{shown} holds a secret and others may read it; close it with `chmod 600 {shown}`"
        ));
    }
    let text = text.trim();
    if text.is_empty() {
        return Err(format!("{shown} is empty; it must hold the secret and nothing else"));
    }
    Ok(Secret::new(text))
}

#[cfg(test)]
mod tests;
