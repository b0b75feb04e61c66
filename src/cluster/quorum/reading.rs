//! Reads a what-if file: every key known, every host named among the nodes, and a fault told with
//! its line, its path and what to write instead.
//!
//! **Does not know:** what the answers will be.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::conf::{Algorithm, Conf, DeviceSection, NodeConf, QuorumConf, TieBreaker};
use super::tree::{Node, Value, tree};
use super::whatif::{Act, Step, WhatIf, ids};
use crate::cluster::HostName;

/// As many as a cluster can have in practice, and twice that.
const MOST_NODES: usize = 64;
/// A host's votes: far more than anybody gives, and few enough to add up.
const MOST_VOTES: u32 = 100_000;
const MOST_STEPS: usize = 10_000;

const STEPS: &str = "up, crash, partition, heal, qdevice, daemon, expected (with on) or reload";

/// A value and the way to it, such as `history[2].crash`.
struct At<'n> {
    node: &'n Node,
    path: String,
}

type Read<T> = Result<T, String>;

impl<'n> At<'n> {
    fn fault<T>(&self, message: impl std::fmt::Display) -> Read<T> {
        match self.path.is_empty() {
            true => Err(format!("line {}: {message}", self.node.line)),
            false => Err(format!("line {}: {}: {message}", self.node.line, self.path)),
        }
    }

    fn key(&self, key: &str, node: &'n Node) -> At<'n> {
        let path = match self.path.is_empty() {
            true => key.to_owned(),
            false => format!("{}.{key}", self.path),
        };
        At { node, path }
    }

    /// Its pairs, each of whose keys must be one of `known`.
    fn map(&self, known: &[&str]) -> Read<BTreeMap<&'n str, At<'n>>> {
        let Value::Map(pairs) = &self.node.value else {
            return self.fault(format!(
                "{} stands here where a mapping belongs; write some of: {}",
                self.node.kind(),
                known.join(", ")
            ));
        };
        let mut found = BTreeMap::new();
        for (key, node) in pairs {
            let at = self.key(key, node);
            if !known.contains(&key.as_str()) {
                return at.fault(format!("there is no such key here; known: {}", known.join(", ")));
            }
            found.insert(key.as_str(), at);
        }
        Ok(found)
    }

    fn list(&self, of: &str) -> Read<Vec<At<'n>>> {
        let Value::List(nodes) = &self.node.value else {
            let kind = self.node.kind();
            return self.fault(format!("{kind} stands here where a list belongs; write [{of}, …]"));
        };
        let at = |(index, node)| At { node, path: format!("{}[{index}]", self.path) };
        Ok(nodes.iter().enumerate().map(at).collect())
    }

    fn text(&self, wanted: &str) -> Read<&'n str> {
        match &self.node.value {
            Value::Scalar { text, .. } if !text.is_empty() => Ok(text),
            Value::Scalar { .. } | Value::List(_) | Value::Map(_) => {
                self.fault(format!("{} stands here; write {wanted}", self.node.kind()))
            }
        }
    }

    fn number(&self, most: u32) -> Read<u32> {
        let wanted = format!("a whole number from 0 to {most}");
        let Value::Scalar { text, plain: true } = &self.node.value else {
            return self.fault(format!("{} stands here; write {wanted}", self.quoted()));
        };
        match text.parse::<u32>() {
            Ok(number) if number <= most && !text.starts_with('+') => Ok(number),
            Ok(_) | Err(_) => self.fault(format!("`{text}` stands here; write {wanted}")),
        }
    }

    fn quoted(&self) -> &'static str {
        match &self.node.value {
            Value::Scalar { plain: false, .. } => "a text in quotes",
            Value::Scalar { .. } | Value::List(_) | Value::Map(_) => self.node.kind(),
        }
    }

    /// A host among `known`.
    fn host(&self, known: &BTreeSet<HostName>) -> Read<HostName> {
        let name = HostName(self.text("the name of a host")?.to_owned());
        if !known.contains(&name) {
            let names: Vec<&str> = known.iter().map(HostName::as_str).collect();
            return self.fault(format!("nodes has no host {name}; it has {}", names.join(", ")));
        }
        Ok(name)
    }

    fn hosts(&self, known: &BTreeSet<HostName>) -> Read<BTreeSet<HostName>> {
        let mut hosts = BTreeSet::new();
        for at in self.list("n1")? {
            let host = at.host(known)?;
            if hosts.contains(&host) {
                return at.fault(format!("{host} stands here a second time; name it once"));
            }
            hosts.insert(host);
        }
        Ok(hosts)
    }

    fn either(&self, yes: &str, no: &str) -> Read<bool> {
        let text = self.text(&format!("{yes} or {no}"))?;
        match text {
            _ if text == yes => Ok(true),
            _ if text == no => Ok(false),
            _ => self.fault(format!("`{text}` stands here; write {yes} or {no}")),
        }
    }

    /// `2s`, `1m30s`, `500ms`; a bare number means seconds.
    fn duration(&self) -> Read<Duration> {
        let text = self.text("a duration such as 2s")?;
        let seconds = text.parse::<u32>().ok().map(|seconds| Duration::from_secs(seconds.into()));
        let spelled = || {
            let span: jiff::SignedDuration = text.parse().ok()?;
            Duration::try_from(span).ok().filter(|length| *length <= LONGEST)
        };
        match seconds.or_else(spelled) {
            Some(length) => Ok(length),
            None => self.fault(format!("`{text}` is no duration; write one such as 2s or 1m30s")),
        }
    }
}

/// Timers end after seconds; nobody tells a history in years.
const LONGEST: Duration = Duration::from_hours(24 * 366);

pub(super) fn what_if(text: &str) -> Read<WhatIf> {
    let root = tree(text)?;
    let root = At { node: &root, path: String::new() };
    let mut keys = root.map(&["nodes", "quorum", "qdevice", "history"])?;
    let Some(nodes) = keys.remove("nodes") else {
        return root.fault("`nodes` is missing; write nodes: [{name: n1, votes: 1}, …]");
    };
    let nodes = read_nodes(&nodes)?;
    let mut known: BTreeSet<HostName> = nodes.iter().map(|node| node.name.clone()).collect();
    let conf = Conf {
        nodes: ids(nodes),
        quorum: keys.remove("quorum").map(|at| read_quorum(&at)).transpose()?.unwrap_or_default(),
        device: keys.remove("qdevice").map(|at| read_device(&at)).transpose()?,
    };
    let mut history = Vec::new();
    if let Some(at) = keys.remove("history") {
        let steps = at.list("{up: [n1]}")?;
        if steps.len() > MOST_STEPS {
            return at.fault(format!("more than {MOST_STEPS} steps; cut it into several files"));
        }
        for step in &steps {
            let step = read_step(step, &known, conf.device.is_some())?;
            if let Act::Reload { nodes: Some(nodes), .. } = &step.act {
                known.extend(nodes.iter().map(|node| node.name.clone()));
            }
            history.push(step);
        }
    }
    Ok(WhatIf { conf, history })
}

fn read_nodes(at: &At) -> Read<Vec<NodeConf>> {
    let mut nodes: Vec<NodeConf> = Vec::new();
    for at in at.list("{name: n1, votes: 1}")? {
        let mut keys = at.map(&["name", "votes"])?;
        let Some(name) = keys.remove("name") else {
            return at.fault("`name` is missing; write {name: n1, votes: 1}");
        };
        let host = HostName(name.text("the name of a host")?.to_owned());
        if nodes.iter().any(|node| node.name == host) {
            return name.fault(format!("a second host is named {host}; give each its own name"));
        }
        let votes = keys.remove("votes").map_or(Ok(1), |votes| votes.number(MOST_VOTES))?;
        nodes.push(NodeConf { name: host, votes });
    }
    if nodes.is_empty() || nodes.len() > MOST_NODES {
        return at.fault(format!("name 1 to {MOST_NODES} hosts"));
    }
    Ok(nodes)
}

fn read_quorum(at: &At) -> Read<QuorumConf> {
    const SWITCH: u32 = 255;
    let mut keys = at.map(&[
        "two_node",
        "wait_for_all",
        "last_man_standing",
        "last_man_standing_window",
        "auto_tie_breaker",
        "auto_tie_breaker_node",
        "expected_votes",
        "allow_downscale",
    ])?;
    let mut number = |key, most| keys.remove(key).map(|at: At| at.number(most)).transpose();
    Ok(QuorumConf {
        two_node: number("two_node", SWITCH)?,
        wait_for_all: number("wait_for_all", SWITCH)?,
        last_man_standing: number("last_man_standing", SWITCH)?,
        last_man_standing_window: number("last_man_standing_window", u32::MAX)?,
        auto_tie_breaker: number("auto_tie_breaker", SWITCH)?,
        expected_votes: number("expected_votes", MOST_VOTES)?,
        allow_downscale: number("allow_downscale", SWITCH)?,
        auto_tie_breaker_node: keys
            .remove("auto_tie_breaker_node")
            .map(|at| read_tie_breaker(&at))
            .transpose()?,
    })
}

fn read_tie_breaker(at: &At) -> Read<TieBreaker> {
    let text = at.text("lowest or highest")?;
    let listed = || text.split_whitespace().map(|id| id.parse().ok().filter(|id| *id > 0));
    match text {
        "lowest" => Ok(TieBreaker::Lowest),
        "highest" => Ok(TieBreaker::Highest),
        _ => match listed().collect::<Option<Vec<_>>>() {
            Some(ids) if !ids.is_empty() => Ok(TieBreaker::Listed(ids)),
            Some(_) | None => {
                at.fault(format!("`{text}` stands here; write lowest, highest or node ids"))
            }
        },
    }
}

fn read_device(at: &At) -> Read<DeviceSection> {
    let mut keys = at.map(&["algorithm", "votes"])?;
    let Some(algorithm) = keys.remove("algorithm") else {
        return at.fault("`algorithm` is missing; write ffsplit or lms");
    };
    let algorithm = match algorithm.either("ffsplit", "lms")? {
        true => Algorithm::Ffsplit,
        false => Algorithm::Lms,
    };
    let votes = keys.remove("votes").map(|at| at.number(MOST_VOTES)).transpose()?;
    Ok(DeviceSection { algorithm, votes })
}

fn read_step(at: &At, known: &BTreeSet<HostName>, device: bool) -> Read<Step> {
    let mut keys = at.map(&[
        "up",
        "crash",
        "partition",
        "heal",
        "qdevice",
        "daemon",
        "expected",
        "on",
        "reload",
        "after",
    ])?;
    let after = keys.remove("after").map(|at| at.duration()).transpose()?;
    let on = keys.remove("on");
    let mut acts = keys.into_iter();
    let (Some((key, act)), None) = (acts.next(), acts.next()) else {
        return at.fault(format!("a step does one thing; write one of {STEPS}"));
    };
    if let Some(on) = on.as_ref().filter(|_| key != "expected") {
        return on.fault("`on` goes with `expected` only; remove it");
    }
    let no_device = || act.fault("there is no QDevice; write a `qdevice` section beside `nodes`");
    let act = match key {
        "up" => Act::Up(act.hosts(known)?),
        "crash" => Act::Crash(act.hosts(known)?),
        "partition" => Act::Partition(read_parts(&act, known)?),
        "heal" => match act.text("true")? {
            "true" => Act::Heal,
            text => return act.fault(format!("`{text}` stands here; write true")),
        },
        "qdevice" | "daemon" if !device => return no_device(),
        "qdevice" => Act::Server { alive: act.either("alive", "dead")? },
        "daemon" => Act::Daemon(read_daemons(&act, known)?),
        "expected" => {
            let votes = act.number(MOST_VOTES)?;
            if votes == 0 {
                return act.fault("corosync takes no 0 here; write at least 1");
            }
            let Some(on) = on else {
                return at.fault("`on` is missing; write {expected: 2, on: n1}");
            };
            Act::Expected { votes, on: on.host(known)? }
        }
        "reload" => {
            let mut keys = act.map(&["nodes", "quorum"])?;
            let nodes = keys.remove("nodes").map(|at| read_nodes(&at)).transpose()?;
            let quorum = keys.remove("quorum").map(|at| read_quorum(&at)).transpose()?;
            Act::Reload { nodes, quorum: quorum.unwrap_or_default() }
        }
        _ => return act.fault(format!("a step does one thing; write one of {STEPS}")),
    };
    Ok(Step { after, act })
}

fn read_parts(at: &At, known: &BTreeSet<HostName>) -> Read<Vec<BTreeSet<HostName>>> {
    let mut parts: Vec<BTreeSet<HostName>> = Vec::new();
    for part in at.list("[n1], [n2]")? {
        let hosts = part.hosts(known)?;
        if let Some(twice) = hosts.iter().find(|host| parts.iter().any(|p| p.contains(*host))) {
            return part.fault(format!("{twice} stands in two parts; name it in one"));
        }
        parts.push(hosts);
    }
    if parts.len() < 2 {
        return at.fault("name two parts or more, such as [[n1], [n2, n3]]");
    }
    Ok(parts)
}

fn read_daemons(at: &At, known: &BTreeSet<HostName>) -> Read<BTreeMap<HostName, bool>> {
    let Value::Map(pairs) = &at.node.value else {
        return at.fault(format!("{} stands here; write {{n1: off}}", at.node.kind()));
    };
    let mut daemons = BTreeMap::new();
    for (name, node) in pairs {
        let one = at.key(name, node);
        let name_at =
            Node { line: node.line, value: Value::Scalar { text: name.clone(), plain: true } };
        let host = At { node: &name_at, path: one.path.clone() }.host(known)?;
        // What some writers of YAML make of a bare on or off.
        let on = match one.text("on or off")? {
            "true" => true,
            "false" => false,
            _ => one.either("on", "off")?,
        };
        daemons.insert(host, on);
    }
    Ok(daemons)
}
