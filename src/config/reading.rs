//! From the tree of `spot.yaml` to a [`Config`], gathering every fault on the way.
//!
//! Each key is read by a function of its own that tells what is wrong and what mends it, and goes
//! on, so that the owner mends the file once and not fault by fault.
//!
//! **Does not know:** what is done with the values.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::tree::{self, Node, Value};
use super::{
    Asks, Check, Config, DEFAULT_POLICIES, DEFAULT_SOCKET, DEFAULT_STATE, DeadMan, Notice,
    PVE_PORT, credential, secret_of, text_of,
};
use crate::cluster::{HostName, Vmid};
use crate::gate::{Here, Mode};
use crate::pve::{Access, Door, Fingerprint, Secret, Trust};

/// Walks the tree and gathers faults.
pub struct Reader {
    /// Relative paths are meant from here.
    folder: PathBuf,
    faults: Vec<tree::Fault>,
}

/// The entries of a mapping, by key.
type Entries<'a> = BTreeMap<&'a str, &'a Node>;

pub const KEYS: [&str; 14] = [
    "hosts",
    "ca",
    "token",
    "mode",
    "here",
    "state",
    "socket",
    "wake_only",
    "policies",
    "clock",
    "page",
    "checks",
    "notices",
    "dead_man",
];

impl Reader {
    pub fn new(folder: PathBuf) -> Reader {
        Reader { folder, faults: Vec::new() }
    }

    /// In the order of the file, each once.
    pub fn faults(&self) -> Vec<tree::Fault> {
        let mut faults = self.faults.clone();
        faults.sort();
        faults.dedup();
        faults
    }

    fn fault<T>(&mut self, line: usize, why: impl fmt::Display) -> Option<T> {
        self.faults.push((line, why.to_string()));
        None
    }

    /// A mapping with none but `known` keys.
    fn entries<'a>(&mut self, node: &'a Node, what: &str, known: &[&str]) -> Option<Entries<'a>> {
        let Value::Map(pairs) = &node.value else {
            let keys = known.join("`, `");
            return self
                .fault(node.line, format!("{what} must be a mapping with the keys `{keys}`"));
        };
        for (key, value) in pairs {
            if !known.contains(&key.as_str()) {
                let remedy = match tree::meant(key, known) {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => format!("there are `{}`", known.join("`, `")),
                };
                self.fault::<()>(value.line, format!("{what} has no key `{key}`; {remedy}"));
            }
        }
        Some(pairs.iter().map(|(key, value)| (key.as_str(), value)).collect())
    }

    fn text<'a>(&mut self, node: &'a Node, what: &str) -> Option<&'a str> {
        match &node.value {
            Value::Scalar(text) if !text.trim().is_empty() => Some(text.trim()),
            Value::Scalar(_) => self.fault(node.line, format!("{what} is empty")),
            Value::List(_) | Value::Map(_) => {
                self.fault(node.line, format!("{what} must be a single text"))
            }
        }
    }

    fn list<'a>(&mut self, node: &'a Node, what: &str) -> Option<&'a [Node]> {
        match &node.value {
            Value::List(items) => Some(items),
            Value::Scalar(_) | Value::Map(_) => {
                self.fault(node.line, format!("{what} must be a list"))
            }
        }
    }

    /// `text` as one of `words`.
    fn word<T: Copy>(&mut self, node: &Node, what: &str, words: &[(&str, T)]) -> Option<T> {
        let text = self.text(node, what)?;
        match words.iter().find(|(word, _)| *word == text) {
            Some((_, value)) => Some(*value),
            None => {
                let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
                let known = known.join("` or `");
                self.fault(node.line, format!("{what} is `{known}`, not `{text}`"))
            }
        }
    }

    fn path(&mut self, node: &Node, what: &str) -> Option<PathBuf> {
        let text = self.text(node, what)?;
        Some(self.folder.join(text))
    }

    fn socket_address(&mut self, node: &Node, what: &str) -> Option<SocketAddr> {
        let text = self.text(node, what)?;
        match text.parse() {
            Ok(address) => Some(address),
            Err(_) => {
                let why =
                    format!("{what} must be ADDRESS:PORT such as 127.0.0.1:8010, not `{text}`");
                self.fault(node.line, why)
            }
        }
    }

    fn duration(&mut self, node: &Node, what: &str) -> Option<Duration> {
        let text = self.text(node, what)?;
        let parsed = text.parse::<jiff::SignedDuration>().ok();
        match parsed.and_then(|duration| Duration::try_from(duration).ok()) {
            Some(duration) if !duration.is_zero() => Some(duration),
            Some(_) | None => self
                .fault(node.line, format!("{what} must be a time such as 10s or 5m, not `{text}`")),
        }
    }

    /// The whole file; `None` after a fault that leaves nothing to go by.
    pub fn config(&mut self, root: &Node) -> Option<Config> {
        let entries = self.entries(root, "spot.yaml", &KEYS)?;
        let get = |key: &str| entries.get(key).copied();
        let authority = get("ca").map(|node| self.authority(node));
        let hosts = match get("hosts") {
            Some(node) => self.hosts(node, authority.as_ref()),
            None => self.fault(
                root.line,
                "`hosts` is missing: it names each host's address, such as `host1: { url: \
                 \"https://192.168.1.11:8006\", pins: [\"AB:CD:…\"] }`",
            ),
        };
        let token = match get("token") {
            Some(node) => self.token(node),
            None => self.fault(
                root.line,
                "`token` is missing: `token: { id: \"spot@pve!spot\", file: token }`; make one with \
                 `pveum user token add spot@pve spot`",
            ),
        };
        let names: Vec<&HostName> = hosts.iter().flatten().map(|(host, _, _)| host).collect();
        let modes = [("rehearse", Mode::Rehearse), ("act", Mode::Act)];
        let mode = get("mode").and_then(|node| self.word(node, "`mode`", &modes));
        let here = get("here").map_or(Some(Here::Unknown), |node| self.here(node, &names));
        let clocks = [("check", false), ("trust", true)];
        let clock_trusted = get("clock").and_then(|node| self.word(node, "`clock`", &clocks));
        let path = |own: &mut Reader, key: &str, default: &str| match get(key) {
            Some(node) => own.path(node, &format!("`{key}`")),
            None => Some(PathBuf::from(default)),
        };
        let state = path(self, "state", DEFAULT_STATE);
        let socket = path(self, "socket", DEFAULT_SOCKET);
        let policies = get("policies")
            .map_or(Some(PathBuf::from(DEFAULT_POLICIES)), |node| self.policies(node));
        let wake_only = get("wake_only").map_or(Some(Vec::new()), |node| self.wake_only(node));
        let page = get("page").and_then(|node| {
            let entries = self.entries(node, "`page`", &["listen"])?;
            self.socket_address(entries.get("listen").copied().unwrap_or(node), "`page.listen`")
        });
        let checks = get("checks").map_or_else(BTreeMap::new, |node| self.checks(node));
        let notices = get("notices").map_or_else(Vec::new, |node| self.notices(node));
        let dead_man = get("dead_man").and_then(|node| self.dead_man(node));
        let (hosts, (id, secret)) = (hosts?, token?);
        let doors = hosts.iter().map(|(host, door, _)| (host.clone(), door.clone())).collect();
        Some(Config {
            hosts: hosts.into_iter().map(|(host, _, node)| (host, node)).collect(),
            access: Access { doors, token: id, secret },
            mode: mode.unwrap_or(Mode::Rehearse),
            here: here?,
            state: state?,
            socket: socket?,
            wake_only: wake_only?,
            policies: policies?,
            clock_trusted: clock_trusted.unwrap_or(false),
            page,
            checks,
            notices,
            dead_man,
            credentials: self.folder.join("credentials"),
        })
    }

    /// The PEM text of the cluster's own authority; `None` after a fault.
    fn authority(&mut self, node: &Node) -> Option<Vec<u8>> {
        let path = self.path(node, "`ca`")?;
        match text_of(&path) {
            Ok(text) if text.contains("BEGIN CERTIFICATE") => Some(text.into_bytes()),
            Ok(_) => self.fault(
                node.line,
                format!(
                    "{} holds no certificate; copy PVE's /etc/pve/pve-root-ca.pem there",
                    path.display()
                ),
            ),
            Err(why) => {
                self.fault(node.line, format!("`ca`: {why}; copy PVE's /etc/pve/pve-root-ca.pem"))
            }
        }
    }

    /// `authority` is `None` without a `ca` key, `Some(None)` with one that is at fault.
    fn hosts(
        &mut self,
        node: &Node,
        authority: Option<&Option<Vec<u8>>>,
    ) -> Option<Vec<(HostName, Door, Option<String>)>> {
        let Value::Map(pairs) = &node.value else {
            return self.fault(node.line, "`hosts` must be a mapping from host names to addresses");
        };
        if pairs.is_empty() {
            return self
                .fault(node.line, "`hosts` is empty: name at least the host that is always on");
        }
        let mut hosts: Vec<(HostName, Door, Option<String>)> = Vec::new();
        for (name, entry) in pairs {
            let Some((door, own)) = self.host(name, entry, authority) else {
                continue;
            };
            let called = |host: &HostName, node: &Option<String>| {
                node.clone().unwrap_or_else(|| host.to_string())
            };
            let host = HostName::new(name.as_str());
            for (other, other_door, other_node) in &hosts {
                if other_door.url == door.url {
                    self.faults.push((entry.line, format!("{name} and {other} have the same URL")));
                }
                if called(other, other_node) == called(&host, &own) {
                    let why = format!("{name} and {other} are the same node of PVE");
                    self.faults.push((entry.line, why));
                }
            }
            hosts.push((host, door, own));
        }
        (hosts.len() == pairs.len()).then_some(hosts)
    }

    fn host(
        &mut self,
        name: &str,
        node: &Node,
        authority: Option<&Option<Vec<u8>>>,
    ) -> Option<(Door, Option<String>)> {
        let what = format!("host `{name}`");
        if !plain_name(name) {
            self.fault::<()>(
                node.line,
                format!("`{name}` is no host's name: letters, digits and `-`"),
            );
        }
        let entries = self.entries(node, &what, &["url", "pins", "node"])?;
        let url = match entries.get("url") {
            Some(node) => self.url(node, name),
            None => self.fault(node.line, format!("{what} has no `url`: https://ADDRESS:8006")),
        };
        let pins = entries.get("pins").map(|node| self.pins(node, name));
        let own = match entries.get("node") {
            Some(node) => {
                let own = self.text(node, &format!("`node` of {name}"))?;
                if !plain_name(own) || own.eq_ignore_ascii_case("localhost") {
                    return self
                        .fault(node.line, format!("`{own}` is no name that PVE gives a node"));
                }
                Some(own.to_owned())
            }
            None => None,
        };
        let trust = match (pins, authority) {
            (Some(pins), _) => pins.map(Trust::Pins),
            // Its own fault has been told.
            (None, Some(authority)) => authority.clone().map(Trust::Authority),
            (None, None) => self.fault(
                node.line,
                format!(
                    "the certificate of {name} cannot be judged: give it `pins` (as `pvenode cert \
                     info` shows them) or the whole cluster a `ca`"
                ),
            ),
        };
        Some((Door { url: url?, trust: trust? }, own))
    }

    /// `https://ADDRESS[:PORT]` and nothing more.
    fn url(&mut self, node: &Node, name: &str) -> Option<String> {
        let text = self.text(node, &format!("`url` of {name}"))?;
        let uri = text.parse::<http::Uri>().ok();
        let whole = uri.as_ref().and_then(|uri| {
            let authority = uri.authority()?;
            let bare = uri.path() == "/" && uri.query().is_none();
            let plain = uri.scheme_str() == Some("https") && !authority.as_str().contains('@');
            let port = authority.port_u16().unwrap_or(PVE_PORT);
            (bare && plain && !authority.host().is_empty())
                .then(|| format!("https://{}:{port}", authority.host()))
        });
        match whole {
            Some(url) => Some(url),
            None => self.fault(
                node.line,
                format!(
                    "`url` of {name} must be https://ADDRESS:8006 without a path, not `{text}`"
                ),
            ),
        }
    }

    fn pins(&mut self, node: &Node, name: &str) -> Option<Vec<Fingerprint>> {
        let items = match &node.value {
            Value::Scalar(_) => std::slice::from_ref(node),
            Value::List(_) | Value::Map(_) => self.list(node, &format!("`pins` of {name}"))?,
        };
        let mut pins = Vec::new();
        for item in items {
            let text = self.text(item, &format!("a pin of {name}"))?;
            match text.parse() {
                Ok(pin) => pins.push(pin),
                Err(why) => return self.fault(item.line, why),
            }
        }
        if pins.is_empty() {
            return self.fault(
                node.line,
                format!("`pins` of {name} is empty, so no certificate would do"),
            );
        }
        Some(pins)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "spot.yaml names the variable that holds the secret"
    )]
    fn token(&mut self, node: &Node) -> Option<(String, Secret)> {
        let entries = self.entries(node, "`token`", &["id", "file", "env", "credential"])?;
        let id = match entries.get("id") {
            Some(node) => {
                let id = self.text(node, "`token.id`")?;
                let parts = id.split_once('!').filter(|(user, name)| {
                    user.contains('@') && !name.is_empty() && !id.contains(['=', ' ', ';'])
                });
                match parts {
                    Some(_) => Some(id.to_owned()),
                    None => self.fault(
                        node.line,
                        format!(
                            "`token.id` must be USER@REALM!NAME such as spot@pve!spot, not `{id}`"
                        ),
                    ),
                }
            }
            None => {
                self.fault(node.line, "`token` has no `id`: USER@REALM!NAME such as spot@pve!spot")
            }
        };
        let places: Vec<(&str, &Node)> = ["file", "env", "credential"]
            .into_iter()
            .filter_map(|key| Some((key, *entries.get(key)?)))
            .collect();
        let [(kind, place)] = places.as_slice() else {
            return self.fault(
                node.line,
                "`token` needs exactly one place of its secret: `file`, `env` or `credential`",
            );
        };
        let named = self.text(place, &format!("`token.{kind}`"))?.to_owned();
        let secret = match *kind {
            "file" => secret_of(&self.folder.join(&named)),
            "env" => match std::env::var(&named) {
                Ok(text) if !text.trim().is_empty() => Ok(Secret::new(text.trim())),
                Ok(_) | Err(_) => {
                    Err(format!("the environment variable `{named}` holds no secret"))
                }
            },
            _ => credential(&named, &self.folder.join("credentials")),
        };
        let secret = match secret {
            Ok(secret) => secret,
            Err(why) => return self.fault(place.line, format!("`token.{kind}`: {why}")),
        };
        let id = id?;
        // People paste what `pveum` shows, or the whole header.
        let text = secret.reveal();
        let text = text.strip_prefix("PVEAPIToken=").unwrap_or(text);
        let text = text.strip_prefix(&format!("{id}=")).unwrap_or(text);
        let plain = |b: u8| b.is_ascii_graphic() && b != b';' && b != b'=';
        if !text.bytes().all(plain) {
            return self.fault(
                place.line,
                "the secret holds more than one word; it is the `value` that `pveum user token add` \
                 showed, alone",
            );
        }
        Some((id, Secret::new(text)))
    }

    fn here(&mut self, node: &Node, names: &[&HostName]) -> Option<Here> {
        if let Value::Map(_) = node.value {
            let entries = self.entries(node, "`here`", &["vmid"])?;
            let Some(node) = entries.get("vmid") else {
                return self.fault(node.line, "`here` names no guest: `here: { vmid: 105 }`");
            };
            let text = self.text(node, "`here.vmid`")?;
            return match text.parse() {
                Ok(vmid) => Some(Here::Guest(Vmid(vmid))),
                Err(_) => {
                    self.fault(node.line, format!("`here.vmid` must be a VMID, not `{text}`"))
                }
            };
        }
        let text = self.text(node, "`here`")?;
        if text == "outside" {
            return Some(Here::Outside);
        }
        if let Some(host) = names.iter().find(|host| host.as_str() == text) {
            return Some(Here::Host((*host).clone()));
        }
        let known: Vec<&str> = names.iter().map(|host| host.as_str()).collect();
        let remedy = match tree::meant(text, &known) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => "name a host of `hosts`, `{ vmid: 105 }` or `outside`".into(),
        };
        self.fault(node.line, format!("`here: {text}` is no host of this file; {remedy}"))
    }

    fn policies(&mut self, node: &Node) -> Option<PathBuf> {
        match &node.value {
            Value::Map(_) => {
                let entries = self.entries(node, "`policies`", &["folder"])?;
                match entries.get("folder") {
                    Some(folder) => self.path(folder, "`policies.folder`"),
                    None => self.fault(node.line, "`policies` names no `folder`"),
                }
            }
            Value::Scalar(_) | Value::List(_) => self.path(node, "`policies`"),
        }
    }

    fn wake_only(&mut self, node: &Node) -> Option<Vec<SocketAddr>> {
        let items = self.list(node, "`wake_only`")?;
        if items.is_empty() {
            // An empty list could mean "nowhere" or "no limit"; neither is guessed.
            return self.fault(node.line, "`wake_only` is empty; leave it out to send everywhere");
        }
        items.iter().map(|item| self.socket_address(item, "an address of `wake_only`")).collect()
    }

    fn checks(&mut self, node: &Node) -> BTreeMap<String, Check> {
        let Value::Map(pairs) = &node.value else {
            self.fault::<()>(node.line, "`checks` must be a mapping from names to commands");
            return BTreeMap::new();
        };
        let mut checks = BTreeMap::new();
        for (name, node) in pairs {
            let what = format!("check `{name}`");
            let keys = ["run", "url", "within"];
            let Some(entries) = self.entries(node, &what, &keys) else { continue };
            let within = entries.get("within").map_or(Some(Duration::from_secs(10)), |node| {
                self.duration(node, &format!("`within` of {what}"))
            });
            let asks = match (entries.get("run"), entries.contains_key("url")) {
                (Some(run), false) => self.command(run, &what).map(Asks::Run),
                (None, true) => self.web_address(&entries, node.line, &what).map(Asks::Url),
                (Some(_), true) => {
                    self.fault(node.line, format!("{what} has both `run` and `url`; keep one"))
                }
                (None, false) => {
                    self.fault(node.line, format!("{what} names no command in `run` and no `url`"))
                }
            };
            if let (Some(asks), Some(within)) = (asks, within) {
                checks.insert(name.clone(), Check { asks, within });
            }
        }
        checks
    }

    /// A program with its full path, and its arguments.
    fn command(&mut self, node: &Node, what: &str) -> Option<Vec<String>> {
        let words = self.list(node, &format!("`run` of {what}"))?;
        let words: Option<Vec<String>> = words
            .iter()
            .map(|word| self.text(word, "a word of `run`").map(str::to_owned))
            .collect();
        let words = words?;
        if words.first().is_some_and(|program| program.starts_with('/')) {
            return Some(words);
        }
        let why = format!("`run` of {what} must begin with the full path of a program");
        self.fault(node.line, why)
    }

    fn web_address(&mut self, entries: &Entries<'_>, line: usize, what: &str) -> Option<String> {
        let Some(node) = entries.get("url") else {
            return self.fault(line, format!("{what} has no `url`"));
        };
        let text = self.text(node, &format!("`url` of {what}"))?;
        if text.starts_with("https://") || text.starts_with("http://") {
            return Some(text.to_owned());
        }
        self.fault(node.line, format!("`url` of {what} must begin with https:// or http://"))
    }

    fn notices(&mut self, node: &Node) -> Vec<Notice> {
        let Some(items) = self.list(node, "`notices`") else { return Vec::new() };
        let mut notices = Vec::new();
        for item in items {
            let Some(entries) = self.entries(item, "a notice", &["url", "credential"]) else {
                continue;
            };
            let credential = entries
                .get("credential")
                .and_then(|node| self.text(node, "`credential` of a notice").map(str::to_owned));
            if let Some(url) = self.web_address(&entries, item.line, "a notice") {
                notices.push(Notice { url, credential });
            }
        }
        notices
    }

    fn dead_man(&mut self, node: &Node) -> Option<DeadMan> {
        let entries = self.entries(node, "`dead_man`", &["url", "every"])?;
        let url = self.web_address(&entries, node.line, "`dead_man`")?;
        let every = match entries.get("every") {
            Some(node) => Some(self.duration(node, "`dead_man.every`")?),
            None => None,
        };
        Some(DeadMan { url, every })
    }
}

/// What PVE calls a node: letters, digits and inner dashes.
fn plain_name(name: &str) -> bool {
    let inner = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    inner && !name.is_empty() && !name.starts_with('-') && !name.ends_with('-')
}
