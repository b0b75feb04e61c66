//! The real cluster, put together from `spot.yaml` and the policies, for every command that reaches
//! it itself: `run`, `quorum`, `doctor`, and the asking ones while no service runs.
//!
//! **Does not know:** what is done with it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::cluster::HostName;
use crate::config::Config;
use crate::policy::Policy;
use crate::pve::{Live, TlsTransport};
use crate::site::Clock;
use crate::wake::Sockets;

/// The journal's name in the state folder.
const JOURNAL: &str = "journal.db";

/// Reads `spot.yaml`; every fault is told, each with its line.
pub fn config(path: &Path) -> anyhow::Result<Config> {
    Config::read(path).map_err(|faults| match faults.as_slice() {
        [one] => anyhow::anyhow!("{one}"),
        many => anyhow::anyhow!("spot.yaml has {} faults:\n  {}", many.len(), many.join("\n  ")),
    })
}

pub fn journal(config: &Config) -> PathBuf {
    config.state.join(JOURNAL)
}

/// The cluster as `spot.yaml` says how to reach it; `policy` knows PVE's names of its hosts.
pub fn site<C: Clock>(
    config: &Config,
    policy: Option<&Policy>,
    clock: C,
) -> anyhow::Result<Live<TlsTransport, Sockets, C>> {
    let transport = TlsTransport::new(config)
        .map_err(anyhow::Error::msg)
        .context("cannot prepare the connections to the cluster")?;
    let nodes: BTreeMap<HostName, String> = policy
        .into_iter()
        .flat_map(|policy| policy.hosts())
        .map(|(name, host)| (name.clone(), host.node.clone()))
        .collect();
    let keys = config.clone();
    let passwords = move |name: &str| Ok(keys.credential(name)?.reveal().to_owned());
    let waker = Sockets::new(config.wake_only.clone(), passwords);
    Ok(Live::new(transport, waker, clock, config.endpoints(&nodes)))
}
