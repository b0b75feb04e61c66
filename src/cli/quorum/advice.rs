//! `spot quorum --advise`: what to change in corosync.conf so that the hosts may sleep as the
//! policies want them to, and how to apply that safely. It never applies anything.
//!
//! With `--what-if FILE` the nodes of that file are advised on and no cluster is needed; else the
//! members are asked for their reports.
//!
//! **Does not know:** how an advice is found.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Serialize;

use super::super::paper::{Ink, Sheet, plain, table};
use super::super::{Exit, QuorumArgs, check, paper};
use super::whatif;
use crate::cluster::quorum::advise::{Advice, Change, Home, Remedy, advise};
use crate::cluster::quorum::conf::{Algorithm, Conf};
use crate::cluster::quorum::{diff, foresight};
use crate::cluster::{Evidence, HostName, Observation};
use crate::config::Config;
use crate::policy::Policy;
use crate::policy::votes::asleep_together;

#[derive(Serialize)]
struct Document {
    version: u32,
    cluster: Option<String>,
    hosts: Vec<Votes>,
    /// The smallest sets of hosts the policies leave awake.
    awake: Vec<Vec<HostName>>,
    reserve: u32,
    /// Those that would not keep the quorum as things are, without and with the reserve.
    failing: Vec<Vec<HostName>>,
    failing_with_reserve: Vec<Vec<HostName>>,
    without_reserve: Told,
    with_reserve: Told,
    other: Option<Told>,
    apply: Vec<String>,
    warnings: Vec<Warned>,
}

#[derive(Serialize)]
struct Votes {
    name: HostName,
    votes: u32,
}

#[derive(Serialize)]
struct Told {
    /// `nothing`, `votes`, `qdevice` or `impossible`.
    kind: &'static str,
    sentence: String,
    hosts: Vec<Votes>,
    device: Option<Device>,
    cost: Option<String>,
    diff: Option<String>,
}

#[derive(Serialize)]
struct Device {
    algorithm: &'static str,
    votes: Option<u32>,
}

#[derive(Serialize)]
struct Warned {
    code: &'static str,
    sentence: String,
}

/// For the nodes of a what-if file.
pub(super) fn on_paper(config: &Path, args: &QuorumArgs, file: &Path) -> anyhow::Result<Exit> {
    let conf = whatif::read(file)?.conf;
    let policy = check::valid(&check::place(config, args.policies.as_deref())?)?;
    let text = diff::sketch(&conf);
    let home = home(&policy, conf, false, None);
    tell(args, None, &home, &text)
}

/// For the cluster as it is.
pub(super) async fn live(config: &Config, args: &QuorumArgs) -> anyhow::Result<Exit> {
    let policy = check::valid(args.policies.as_deref().unwrap_or(&config.policies))?;
    let seen = super::reports(config, &policy).await?;
    let view = super::View::new(&policy, &seen);
    let Some((_, any)) = view.evidence.first_key_value() else {
        anyhow::bail!(
            "no member has sent its report, and only that shows corosync.conf: {}",
            view.gaps.join("; ")
        );
    };
    let Some(conf) = foresight::conf(&any.conf) else {
        anyhow::bail!("the quorum section of corosync.conf says something spot does not know");
    };
    let shared = seen.storages.iter().any(|storage| storage.shared);
    let inside = server_inside(&seen, any, &view);
    let mut home = home(&policy, conf, shared, inside);
    home.server = any.conf.device.as_ref().and_then(|device| device.server.clone());
    tell(args, seen.cluster.clone(), &home, &any.conf.text)
}

/// Where the QDevice's server lives, if that is inside the cluster.
fn server_inside(seen: &Observation, any: &Evidence, view: &super::View) -> Option<String> {
    let device = any.conf.device.as_ref()?;
    if let Some(host) = seen.hosts.keys().find(|host| view.serves_device(host)) {
        return Some(host.to_string());
    }
    let server = device.server.as_ref()?;
    let reported = view.evidence.iter().find(|(_, one)| one.addresses.contains(server));
    let named = any.conf.addresses.iter().find(|(_, addresses)| addresses.contains(server));
    reported.map(|(host, _)| host.to_string()).or_else(|| named.map(|(node, _)| node.clone()))
}

fn home(policy: &Policy, conf: Conf, shared_storage: bool, server_inside: Option<String>) -> Home {
    let all: BTreeSet<HostName> = conf.nodes.values().map(|node| node.name.clone()).collect();
    // corosync.conf has PVE's names.
    let node = |host: &HostName| {
        HostName(policy.host(host).map_or(host.as_str(), |one| &one.node).to_owned())
    };
    let awake = asleep_together(policy)
        .into_iter()
        .map(|asleep| {
            let asleep: BTreeSet<HostName> = asleep.into_iter().map(node).collect();
            all.difference(&asleep).cloned().collect()
        })
        .collect();
    Home { conf, awake, spare: policy.quorum().spare, shared_storage, server_inside, server: None }
}

fn tell(
    args: &QuorumArgs,
    cluster: Option<String>,
    home: &Home,
    text: &str,
) -> anyhow::Result<Exit> {
    let advice = advise(home);
    let document = document(cluster, home, &advice, text);
    match args.look.json {
        true => paper::json(&document)?,
        false => {
            paper::raw(draw(&Sheet::stdout(super::super::now()), &document).as_bytes())?;
        }
    }
    Ok(Exit::Yes)
}

fn document(cluster: Option<String>, home: &Home, advice: &Advice, text: &str) -> Document {
    let lists = |sets: &[BTreeSet<HostName>]| -> Vec<Vec<HostName>> {
        sets.iter().map(|set| set.iter().cloned().collect()).collect()
    };
    let with_reserve = told(&home.conf, &advice.with_spare, text);
    let without_reserve = told(&home.conf, &advice.without_spare, text);
    let changes = with_reserve.diff.is_some() || without_reserve.diff.is_some();
    let qdevice = with_reserve.kind == "qdevice" && home.conf.device.is_none();
    let warned = |warning: &crate::cluster::quorum::advise::Warning| Warned {
        code: warning.code,
        sentence: warning.sentence.clone(),
    };
    Document {
        version: 1,
        cluster,
        hosts: hosts(&home.conf),
        awake: lists(&advice.awake),
        reserve: home.spare,
        failing: lists(&advice.failing),
        failing_with_reserve: lists(&advice.failing_with_spare),
        without_reserve,
        with_reserve,
        other: advice.other.as_ref().map(|change| changed(change, text)),
        apply: if changes { apply(qdevice) } else { Vec::new() },
        warnings: advice.warnings.iter().map(warned).collect(),
    }
}

fn hosts(conf: &Conf) -> Vec<Votes> {
    let one = |node: &crate::cluster::quorum::conf::NodeConf| Votes {
        name: node.name.clone(),
        votes: node.votes,
    };
    conf.nodes.values().map(one).collect()
}

fn told(conf: &Conf, remedy: &Remedy, text: &str) -> Told {
    let plain = |kind, sentence: &str| Told {
        kind,
        sentence: sentence.to_owned(),
        hosts: hosts(conf),
        device: None,
        cost: None,
        diff: None,
    };
    match remedy {
        Remedy::Nothing => plain("nothing", "nothing needs to change"),
        Remedy::Impossible(why) => plain("impossible", why),
        Remedy::Change(change) => changed(change, text),
    }
}

fn changed(change: &Change, text: &str) -> Told {
    let (diff, sentence) = match diff::diff(text, &change.votes, change.device) {
        Ok(diff) => (Some(diff), change.sentence.clone()),
        Err(why) => (None, format!("{} (no diff can be shown: {why})", change.sentence)),
    };
    let name = |algorithm| match algorithm {
        Algorithm::Ffsplit => "ffsplit",
        Algorithm::Lms => "lms",
    };
    Told {
        kind: if change.device.is_some() { "qdevice" } else { "votes" },
        sentence,
        hosts: hosts(&change.conf),
        device: change
            .device
            .map(|one| Device { algorithm: name(one.algorithm), votes: one.votes }),
        cost: change.cost.clone(),
        diff,
    }
}

/// How PVE's own manual wants corosync.conf changed, and what bit others.
fn apply(qdevice: bool) -> Vec<String> {
    let mut steps = vec![
        "Wake every host first: one that sleeps while config_version rises is thrown out when it \
         comes back."
            .to_owned(),
    ];
    if qdevice {
        steps.push(
            "Install corosync-qnetd on a machine outside the cluster and corosync-qdevice on every \
             host, then let PVE write the device section and the certificates: pvecm qdevice setup \
             ADDRESS-OF-THE-QDEVICE. Where votes change as well, change them first, as below. \
             Afterwards compare corosync.conf with the diff."
                .into(),
        );
    }
    steps.extend(
        [
            "On one host: cp /etc/pve/corosync.conf /root/corosync.conf.bak",
            "cp /etc/pve/corosync.conf /etc/pve/corosync.conf.new, and edit only that copy",
            "diff -u /etc/pve/corosync.conf /etc/pve/corosync.conf.new, and compare it with the \
             diff above; config_version must be one higher",
            "mv /etc/pve/corosync.conf.new /etc/pve/corosync.conf: PVE hands it to every host and \
             corosync takes it up",
            "pvecm status on every host, then spot quorum: all must show the same expected votes",
        ]
        .map(str::to_owned),
    );
    steps
}

fn named(sets: &[Vec<HostName>]) -> String {
    let one = |set: &Vec<HostName>| match set.as_slice() {
        [] => "nobody".to_owned(),
        hosts => hosts.iter().map(HostName::as_str).collect::<Vec<_>>().join(" + "),
    };
    sets.iter().map(one).collect::<Vec<_>>().join("; ")
}

fn draw(sheet: &Sheet, document: &Document) -> String {
    let mut out = String::new();
    let mut say = |text: &str| {
        out += &format!("{}\n", sheet.wrapped("", "", &plain(text)));
    };
    say(&format!("Left awake by the policies: {}.", named(&document.awake)));
    match document.failing.as_slice() {
        [] => say("Each of these keeps the quorum as things are."),
        failing => say(&format!("As things are these would lose the quorum: {}.", named(failing))),
    }
    if document.reserve > 0 {
        let kept = format!("quorum.spare ({})", document.reserve);
        match document.failing_with_reserve.as_slice() {
            [] => say(&format!("Each keeps the {kept} as well.")),
            failing => say(&format!("Not with the {kept} kept: {}.", named(failing))),
        }
        out += &section(sheet, "Without the spare", &document.without_reserve);
        out += &section(sheet, "With the spare", &document.with_reserve);
    } else {
        out += &section(sheet, "Advice", &document.with_reserve);
    }
    if let Some(other) = &document.other {
        out += &section(sheet, "The other way", other);
    }
    for warning in &document.warnings {
        let mark = sheet.ink(Ink::Red, "!");
        out +=
            &format!("\n{}", sheet.wrapped(&format!("{mark}  "), "   ", &plain(&warning.sentence)));
    }
    if !document.warnings.is_empty() {
        out.push('\n');
    }
    if !document.apply.is_empty() {
        out += &format!("\n{}\n", sheet.ink(Ink::Bold, "How to apply it (spot never does)"));
        for (number, step) in (1..).zip(&document.apply) {
            out += &format!("{}\n", sheet.wrapped(&format!("{number}. "), "   ", &plain(step)));
        }
    }
    out
}

fn section(sheet: &Sheet, title: &str, told: &Told) -> String {
    let mut out = format!("\n{}\n", sheet.ink(Ink::Bold, title));
    out += &format!("{}\n", sheet.wrapped("", "", &plain(&told.sentence)));
    if let Some(cost) = &told.cost {
        out += &format!("{}\n", sheet.wrapped("", "", &plain(cost)));
    }
    if told.kind == "votes" || told.kind == "qdevice" {
        let titles = ["HOST", "VOTES"].map(|title| sheet.ink(Ink::Bold, title)).to_vec();
        let row = |one: &Votes| vec![plain(one.name.as_str()), one.votes.to_string()];
        let rows: Vec<Vec<String>> =
            [titles].into_iter().chain(told.hosts.iter().map(row)).collect();
        out += &table(sheet, &rows);
    }
    if let Some(diff) = &told.diff {
        out.push('\n');
        for line in diff.lines() {
            let ink = match line.chars().next() {
                Some('+') => Some(Ink::Green),
                Some('-') => Some(Ink::Red),
                Some(_) | None => None,
            };
            let line = plain(line);
            out += &format!("{}\n", ink.map_or(line.clone(), |ink| sheet.ink(ink, &line)));
        }
    }
    out
}
