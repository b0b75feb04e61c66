//! A change of corosync.conf as a unified diff, its `config_version` raised.
//!
//! Only the lines that change are touched: comments, blanks and keys that nobody here knows stay as
//! they are.
//!
//! **Does not know:** whether the change is wise.

use std::collections::BTreeMap;

use super::conf::{Algorithm, Conf, DeviceSection};
use crate::cluster::HostName;

/// Lines of context around a change, as `diff -u` gives.
const CONTEXT: usize = 3;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Line {
    Kept(String),
    Gone(String),
    New(String),
}

/// The diff from `text` to the same with these votes and this device section. `Err` says what the
/// file lacks.
pub fn diff(
    text: &str,
    votes: &BTreeMap<HostName, u32>,
    device: Option<DeviceSection>,
) -> Result<String, String> {
    let lines: Vec<&str> = text.lines().collect();
    let mut edit = Edit { lines: &lines, replaced: BTreeMap::new(), after: BTreeMap::new() };
    let sections = sections(&lines)?;
    edit.version(&sections)?;
    for (host, votes) in votes {
        edit.votes(&sections, host, *votes)?;
    }
    if let Some(device) = device {
        edit.device(&sections, device)?;
    }
    Ok(unified(&edit.done()))
}

/// `totem { … }` with the lines it spans, the braces among them.
#[derive(Debug)]
struct Section {
    path: String,
    from: usize,
    to: usize,
}

fn sections(lines: &[&str]) -> Result<Vec<Section>, String> {
    let mut open: Vec<(String, usize)> = Vec::new();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let line = line.trim();
        if line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_suffix('{') {
            let above = open.last().map_or(String::new(), |(path, _)| format!("{path}."));
            open.push((format!("{above}{}", name.trim()), at));
        } else if line == "}" {
            let (path, from) =
                open.pop().ok_or_else(|| format!("line {}: a `}}` too many", at + 1))?;
            found.push(Section { path, from, to: at });
        }
    }
    match open.last() {
        None => Ok(found),
        Some((path, from)) => Err(format!("line {}: `{path}` is not closed", from + 1)),
    }
}

struct Edit<'t> {
    lines: &'t [&'t str],
    /// What stands in a line's place; empty for a line that goes.
    replaced: BTreeMap<usize, Option<String>>,
    after: BTreeMap<usize, Vec<String>>,
}

impl Edit<'_> {
    /// The line of a key directly in this section, and its value.
    fn key(&self, section: &Section, key: &str) -> Option<(usize, &str)> {
        let mut depth = 0;
        for at in section.from + 1..section.to {
            let line = self.lines[at].trim();
            if line.starts_with('#') {
                continue;
            }
            if line.ends_with('{') {
                depth += 1;
            } else if line == "}" {
                depth -= 1;
            } else if let Some((name, value)) = line.split_once(':').filter(|_| depth == 0)
                && name.trim() == key
            {
                return Some((at, value.trim()));
            }
        }
        None
    }

    fn indent(&self, at: usize) -> String {
        self.lines[at].chars().take_while(|c| c.is_whitespace()).collect()
    }

    fn set(&mut self, section: &Section, key: &str, value: &str) {
        match self.key(section, key).map(|(at, _)| at) {
            Some(at) => {
                let line = format!("{}{key}: {value}", self.indent(at));
                self.replaced.insert(at, Some(line));
            }
            None => {
                let line = format!("{}  {key}: {value}", self.indent(section.from));
                self.after.entry(section.to - 1).or_default().push(line);
            }
        }
    }

    fn version(&mut self, sections: &[Section]) -> Result<(), String> {
        let totem = sections.iter().find(|section| section.path == "totem");
        let totem = totem.ok_or("corosync.conf has no `totem` section")?;
        let version = self.key(totem, "config_version").and_then(|(_, v)| v.parse::<u64>().ok());
        let version = version.ok_or("corosync.conf has no `config_version`")?;
        self.set(totem, "config_version", &(version + 1).to_string());
        Ok(())
    }

    fn votes(&mut self, sections: &[Section], host: &HostName, votes: u32) -> Result<(), String> {
        let node = sections.iter().find(|section| {
            section.path == "nodelist.node"
                && self.key(section, "name").is_some_and(|(_, name)| name == host.as_str())
        });
        let node = node.ok_or_else(|| format!("corosync.conf has no node {host}"))?;
        self.set(node, "quorum_votes", &votes.to_string());
        Ok(())
    }

    fn device(&mut self, sections: &[Section], device: DeviceSection) -> Result<(), String> {
        let votes = device.votes.unwrap_or(1).to_string();
        let algorithm = match device.algorithm {
            Algorithm::Ffsplit => "ffsplit",
            Algorithm::Lms => "lms",
        };
        if let Some(old) = sections.iter().find(|section| section.path == "quorum.device") {
            self.set(old, "votes", &votes);
            let net = sections.iter().find(|section| section.path == "quorum.device.net");
            let net = net.ok_or("the QDevice of corosync.conf has no `net` section")?;
            self.set(net, "algorithm", algorithm);
            return Ok(());
        }
        let quorum = sections.iter().find(|section| section.path == "quorum");
        let quorum = quorum.ok_or("corosync.conf has no `quorum` section")?;
        let indent = self.indent(quorum.from);
        let lines = [
            "  device {".to_owned(),
            "    model: net".into(),
            format!("    votes: {votes}"),
            "    net {".into(),
            "      tls: on".into(),
            "      host: ADDRESS-OF-THE-QDEVICE".into(),
            format!("      algorithm: {algorithm}"),
            "    }".into(),
            "  }".into(),
        ];
        let lines = lines.iter().map(|line| format!("{indent}{line}"));
        self.after.entry(quorum.from).or_default().extend(lines);
        // Corosync refuses these beside a QDevice.
        for key in [
            "two_node",
            "last_man_standing",
            "auto_tie_breaker",
            "allow_downscale",
            "expected_votes",
        ] {
            if let Some((at, _)) = self.key(quorum, key) {
                self.replaced.insert(at, None);
            }
        }
        Ok(())
    }

    fn done(mut self) -> Vec<Line> {
        let mut out = Vec::new();
        for (at, line) in self.lines.iter().enumerate() {
            let kept = (*line).to_owned();
            match self.replaced.remove(&at) {
                None => out.push(Line::Kept(kept)),
                Some(new) if new.as_ref() == Some(&kept) => out.push(Line::Kept(kept)),
                Some(new) => {
                    out.push(Line::Gone(kept));
                    out.extend(new.map(Line::New));
                }
            }
            out.extend(self.after.remove(&at).unwrap_or_default().into_iter().map(Line::New));
        }
        out
    }
}

fn unified(lines: &[Line]) -> String {
    let kept = |line: &Line| matches!(line, Line::Kept(_));
    let near = |at: usize| {
        let from = at.saturating_sub(CONTEXT);
        lines[from..lines.len().min(at + CONTEXT + 1)].iter().any(|line| !kept(line))
    };
    let mut out = String::from("--- /etc/pve/corosync.conf\n+++ /etc/pve/corosync.conf.new\n");
    let (mut old, mut new) = (1, 1);
    let mut at = 0;
    while at < lines.len() {
        if !near(at) {
            at += 1;
            (old, new) = (old + 1, new + 1);
            continue;
        }
        let end = (at..lines.len()).find(|end| !near(*end)).unwrap_or(lines.len());
        let hunk = &lines[at..end];
        let count = |skip: fn(&Line) -> bool| hunk.iter().filter(|line| !skip(line)).count();
        let (gone, came) = (
            count(|line| matches!(line, Line::New(_))),
            count(|line| matches!(line, Line::Gone(_))),
        );
        out += &format!("@@ -{old},{gone} +{new},{came} @@\n");
        for line in hunk {
            let (mark, text) = match line {
                Line::Kept(text) => (' ', text),
                Line::Gone(text) => ('-', text),
                Line::New(text) => ('+', text),
            };
            out += &format!("{mark}{text}\n");
        }
        (old, new) = (old + gone, new + came);
        at = end;
    }
    out
}

/// The parts of a corosync.conf that decide about votes, for a cluster that has no file.
pub fn sketch(conf: &Conf) -> String {
    let mut out = String::from("totem {\n  version: 2\n  config_version: 1\n}\n\nnodelist {\n");
    for (id, node) in &conf.nodes {
        let (name, votes) = (&node.name, node.votes);
        out += &format!(
            "  node {{\n    name: {name}\n    nodeid: {id}\n    quorum_votes: {votes}\n  }}\n"
        );
    }
    out += "}\n\nquorum {\n  provider: corosync_votequorum\n";
    let quorum = &conf.quorum;
    let keys = [
        ("two_node", quorum.two_node),
        ("wait_for_all", quorum.wait_for_all),
        ("last_man_standing", quorum.last_man_standing),
        ("auto_tie_breaker", quorum.auto_tie_breaker),
        ("expected_votes", quorum.expected_votes),
        ("allow_downscale", quorum.allow_downscale),
    ];
    for (key, value) in keys.iter().filter_map(|(key, value)| Some((key, (*value)?))) {
        out += &format!("  {key}: {value}\n");
    }
    if let Some(device) = &conf.device {
        let algorithm = match device.algorithm {
            Algorithm::Ffsplit => "ffsplit",
            Algorithm::Lms => "lms",
        };
        let votes = device.votes.map_or(String::new(), |votes| format!("    votes: {votes}\n"));
        out += &format!(
            "  device {{\n    model: net\n{votes}    net {{\n      algorithm: {algorithm}\n    }}\n  }}\n"
        );
    }
    out + "}\n"
}
