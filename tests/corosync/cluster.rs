//! A cluster and what happens to it, in the words of `spot quorum --what-if`, and the corosync.conf
//! that says the same to corosync.
//!
//! Both sides read one description, so that a difference between them is a difference of behaviour
//! and not of wording.
//!
//! **Does not know:** what corosync or the model make of it.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};

use crate::lab::{SERVER_NUMBER, backstage_address, ring_address};

#[derive(Clone, Debug)]
pub struct Cluster {
    /// Names and votes; numbers follow the order.
    pub nodes: Vec<(String, u32)>,
    /// Keys of the quorum section, as corosync.conf has them.
    pub quorum: BTreeMap<String, Value>,
    pub device: Option<Device>,
    pub config_version: u64,
}

#[derive(Clone, Debug)]
pub struct Device {
    pub algorithm: &'static str,
    pub votes: Option<u32>,
}

/// What happens next.
#[derive(Clone, Debug)]
pub enum Step {
    /// Who is up afterwards.
    Up(Vec<String>),
    Crash(Vec<String>),
    Partition(Vec<Vec<String>>),
    Heal,
    /// The QDevice's server lives or dies.
    Server(bool),
    /// The QDevice's daemon runs on a host or not.
    Daemon(String, bool),
    Expected(u32, String),
}

impl Step {
    pub fn words(&self) -> Value {
        match self {
            Step::Up(names) => json!({ "up": names }),
            Step::Crash(names) => json!({ "crash": names }),
            Step::Partition(groups) => json!({ "partition": groups }),
            Step::Heal => json!({ "heal": true }),
            Step::Server(alive) => json!({ "qdevice": if *alive { "alive" } else { "dead" } }),
            Step::Daemon(name, on) => {
                let state = if *on { "on" } else { "off" };
                json!({ "daemon": BTreeMap::from([(name, state)]) })
            }
            Step::Expected(votes, on) => json!({ "expected": votes, "on": on }),
        }
    }
}

impl Cluster {
    pub fn names(&self) -> Vec<String> {
        self.nodes.iter().map(|(name, _)| name.clone()).collect()
    }

    pub fn flag(&self, key: &str) -> bool {
        self.quorum.get(key).is_some_and(|value| *value == json!(1))
    }

    /// The what-if file for this cluster and this history.
    pub fn what_if(&self, history: &[Step]) -> Value {
        let nodes = self.nodes.iter().map(|(name, votes)| json!({ "name": name, "votes": votes }));
        let mut file = json!({
            "nodes": nodes.collect::<Vec<_>>(),
            "quorum": self.quorum,
            "history": history.iter().map(Step::words).collect::<Vec<_>>(),
        });
        if let Some(device) = &self.device {
            file["qdevice"] = json!({ "algorithm": device.algorithm });
            if let Some(votes) = device.votes {
                file["qdevice"]["votes"] = votes.into();
            }
        }
        file
    }

    /// In a few words: `3/1/1 lms:4 wait_for_all=1`.
    pub fn summary(&self) -> String {
        let votes: Vec<String> = self.nodes.iter().map(|(_, votes)| votes.to_string()).collect();
        let mut summary = votes.join("/");
        if let Some(Device { algorithm, votes }) = &self.device {
            let votes = votes.map_or_else(|| "unset".into(), |votes| votes.to_string());
            let _ = write!(summary, " {algorithm}:{votes}");
        }
        for (key, value) in &self.quorum {
            let _ = match value {
                Value::String(text) => write!(summary, " {key}={text}"),
                other => write!(summary, " {key}={other}"),
            };
        }
        summary
    }

    /// corosync.conf, in the order in which PVE writes its sections.
    pub fn conf(&self) -> String {
        let mut out = "logging {\n  debug: off\n  to_stderr: no\n  to_syslog: no\n  \
                       to_logfile: yes\n  logfile: /var/log/corosync/corosync.log\n}\n\nnodelist {\n"
            .to_owned();
        for ((name, votes), number) in self.nodes.iter().zip(1..) {
            let address = ring_address(number);
            let _ = write!(
                out,
                "  node {{\n    name: {name}\n    nodeid: {number}\n    quorum_votes: {votes}\n    \
                 ring0_addr: {address}\n  }}\n"
            );
        }
        out += "}\n\nquorum {\n";
        if let Some(Device { algorithm, votes }) = &self.device {
            let server = backstage_address(SERVER_NUMBER);
            let _ = write!(
                out,
                "  device {{\n    model: net\n    net {{\n      algorithm: {algorithm}\n      \
                 host: {server}\n      tls: off\n    }}\n"
            );
            if let Some(votes) = votes {
                let _ = writeln!(out, "    votes: {votes}");
            }
            out += "  }\n";
        }
        out += "  provider: corosync_votequorum\n";
        for (key, value) in &self.quorum {
            let _ = match value {
                Value::String(text) => writeln!(out, "  {key}: {text}"),
                other => writeln!(out, "  {key}: {other}"),
            };
        }
        let _ = write!(
            out,
            "}}\n\ntotem {{\n  cluster_name: lab\n  config_version: {}\n  interface {{\n    \
             linknumber: 0\n  }}\n  ip_version: ipv4-6\n  link_mode: passive\n  secauth: off\n  \
             transport: knet\n  version: 2\n}}\n",
            self.config_version
        );
        out
    }
}

/// The parts of PVE's report that are about the cluster and its guests, around what
/// `corosync-quorumtool` printed with `-l` and with `-siH` (PVE's `pvecm nodes` and `pvecm status`
/// run just that, the latter with a heading above it).
pub fn report(config_version: u64, nodes: &str, status: &str, conf: &str) -> String {
    format!(
        "==== info about virtual guests ====\n\n# qm list\n\n# pct list\n\n\
         ==== info about cluster ====\n\n# pvecm nodes\n{nodes}\n# pvecm status\n\
         Cluster information\n-------------------\nName:             lab\n\
         Config Version:   {config_version}\nTransport:        knet\nSecure auth:      off\n\n\
         {}\n\n# cat /etc/pve/corosync.conf 2>/dev/null\n{conf}\n# ha-manager status\n\n\
         ==== info about jobs ====\n",
        status.trim()
    )
}
