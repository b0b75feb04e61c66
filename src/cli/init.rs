//! `spot init`: from an address and a token to a `spot.yaml`, a first policy and a clean `doctor`.
//!
//! What the cluster can tell is read from it, what only a person can know is asked, and what is
//! proposed can be changed by a key press. Every question has a flag of its own, so that a script
//! answers them all beforehand; without a terminal a missing answer ends it, naming the flag. No
//! token leaves before a person (or `--fingerprint`) has said that the certificate is the right
//! one, and `--yes` does not say that.
//!
//! **Does not know:** how the service works with what is written here.

mod finding;
mod questions;
mod writing;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use jiff::tz::TimeZone;

use super::paper::plain;
use super::{Cli, Exit, Look, doctor, live, paper};
use crate::cluster::{ClockState, Mac, Tier};
use crate::policy::calendar;
use crate::pve::{self, Fingerprint, NodeFound, Secret};
use crate::site::RealClock;
use finding::{Found, Seat};
use questions::{Question, Questions};
use writing::{Draft, HostDraft, Places};

/// The name that the README gives user and token.
const USUAL_TOKEN: &str = "spot@pve!spot";
/// Instead of a hardware address or an address: there is none.
const NONE: &str = "none";

#[derive(Debug, Args)]
pub struct InitArgs {
    /// Any host's API, such as https://192.168.1.11:8006
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// The SHA-256 fingerprint of that host's certificate, as `pvenode cert info` shows it
    #[arg(long, value_name = "SHA256")]
    pub fingerprint: Option<String>,
    /// The token's name [usually spot@pve!spot]
    #[arg(long, value_name = "USER@REALM!NAME")]
    pub token_id: Option<String>,
    /// A file that holds the token's secret, which nobody else may read
    #[arg(long, value_name = "FILE", conflicts_with = "token_env")]
    pub token_file: Option<PathBuf>,
    /// An environment variable that holds the token's secret
    #[arg(long, value_name = "VARIABLE")]
    pub token_env: Option<String>,
    /// The address of a further host's API; once for each host
    #[arg(long = "host", value_name = "HOST=URL", value_parser = pair)]
    pub hosts: Vec<(String, String)>,
    /// What a host costs to run: low (always on), medium or high; once for each host
    #[arg(long = "tier", value_name = "HOST=TIER", value_parser = pair)]
    pub tiers: Vec<(String, String)>,
    /// The hardware address that wakes a host, or none; once for each host
    #[arg(long = "mac", value_name = "HOST=MAC", value_parser = pair)]
    pub macs: Vec<(String, String)>,
    /// Where spot lives: a host, a guest's VMID, or outside
    #[arg(long, value_name = "HOST|VMID|outside")]
    pub here: Option<String>,
    /// Whether spot may put to sleep what somebody else has switched on
    #[arg(long, value_name = "yes|no")]
    pub rest_now: Option<String>,
    /// Send magic packets here and nowhere else; for pretended clusters
    #[arg(long, value_name = "ADDR")]
    pub wake_only: Option<String>,
    /// Check this machine's clock, or trust it
    #[arg(long, value_name = "check|trust")]
    pub clock: Option<String>,
    /// The zone of the first policy's windows [this machine's]
    #[arg(long, value_name = "ZONE")]
    pub timezone: Option<String>,
    /// Where the journal lies [/var/lib/spot; beside a spot.yaml that is not in /etc/spot]
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// Where the service is asked [/run/spot/spot.sock; or beside spot.yaml, as the journal]
    #[arg(long, value_name = "FILE")]
    pub socket: Option<PathBuf>,
    /// Write over a spot.yaml, a token and a first policy that are there already
    #[arg(long)]
    pub overwrite: bool,
}

/// `host3=high`
fn pair(text: &str) -> Result<(String, String), String> {
    let (host, value) = text.split_once('=').ok_or("it must be HOST=VALUE")?;
    if host.is_empty() || value.is_empty() {
        return Err("it must be HOST=VALUE".into());
    }
    Ok((host.to_owned(), value.to_owned()))
}

fn of_host<'a>(given: &'a [(String, String)], host: &str) -> Option<&'a str> {
    given.iter().find(|(name, _)| name == host).map(|(_, value)| value.as_str())
}

pub async fn init(cli: &Cli, args: &InitArgs) -> anyhow::Result<Exit> {
    let mut ask = Questions::new(cli.yes);
    let places = Places::of(&cli.config, args.state.clone(), args.socket.clone());
    places.writable()?;
    let keep_policies = may_write(&places, args, &mut ask)?;

    let (url, pin) = first_door(args, &mut ask).await?;
    let (token, secret) = token(args, &mut ask)?;
    ask.all_answered()?;
    let (url, pin, token, secret) = (
        url.expect("answered"),
        pin.expect("answered"),
        token.expect("answered"),
        secret.expect("answered"),
    );

    let found = Found::of(&url, pin, &token, &secret).await?;
    known_names(&found, args)?;
    say(&format!("This is the cluster {}: {}.", found.name(), found.members()));
    let doors = doors(&found, args, &mut ask).await?;
    let here = here(&found, args, &mut ask).await?;
    let tiers = tiers(&found, here.as_ref(), args, &mut ask)?;
    let macs = macs(&found, &tiers, args, &mut ask).await?;
    let enforce = rest_now(&found, &tiers, args, &mut ask)?;
    let wake_only = wake_only(&found, args, &mut ask)?;
    ask.all_answered()?;

    let host = |node: &NodeFound| HostDraft {
        name: node.node.clone(),
        url: doors.get(&node.node).cloned().unwrap_or_default(),
        pin: node.fingerprint,
        tier: tiers.get(&node.node).copied().unwrap_or(Tier::Low),
        macs: macs.get(&node.node).cloned().unwrap_or_default(),
        enforce: enforce && node.online,
        online: node.online,
        votes: node.votes,
    };
    let draft = Draft {
        cluster: found.name(),
        hosts: found.cluster.nodes.iter().map(host).collect(),
        token,
        here: here.expect("answered"),
        wake_only,
        clock_trusted: clock(args, &found).await?,
        timezone: timezone(args)?,
    };
    for line in places.write(&draft, &secret, keep_policies)? {
        say(&line);
    }
    let config = live::config(&places.config)?;
    say("And this is what doctor says of it:\n");
    let exit = doctor::doctor(&config, Look { json: false }).await?;
    let named = match places.usual() {
        true => String::new(),
        false => format!(" --config {}", places.config.display()),
    };
    say(&format!(
        "\nNext: look into {}, then run `spot{named} run` (or `systemctl enable --now spot`) and see \
         `spot{named} plan`.",
        places.policy.display()
    ));
    Ok(exit)
}

fn say(text: &str) {
    let lines: Vec<String> = text.lines().map(plain).collect();
    paper::aside(&lines.join("\n"));
}

/// Nothing is written over without its owner's word. Whether the policies there are stay.
fn may_write(places: &Places, args: &InitArgs, ask: &mut Questions) -> anyhow::Result<bool> {
    for path in places.taken() {
        let question = format!("{} is there already. Write over it?", path.display());
        match ask.confirm("--overwrite", &question, args.overwrite)? {
            Some(true) => {}
            Some(false) => anyhow::bail!("{} stays as it is, and nothing was done", path.display()),
            None => break,
        }
    }
    ask.all_answered()?;
    let others = places.other_policies();
    if let Some(one) = others.first() {
        say(&format!(
            "There are policies in {} already ({}), so no first one is written.",
            places.policies.display(),
            one.display()
        ));
    }
    Ok(!others.is_empty())
}

/// The address, and the certificate shown there once somebody has said that it is the right one.
async fn first_door(
    args: &InitArgs,
    ask: &mut Questions,
) -> anyhow::Result<(Option<String>, Option<Fingerprint>)> {
    let url = ask.text(
        Question {
            flag: "--url",
            text: "The address of any host's API, such as https://192.168.1.11:8006",
            given: args.url.as_deref(),
            proposal: None,
        },
        finding::url,
    )?;
    let Some(url) = url else {
        if args.fingerprint.is_none() {
            ask.missing("--fingerprint");
        }
        return Ok((None, None));
    };
    let shown = pve::shown(&url).await.map_err(anyhow::Error::msg)?.fingerprint;
    if let Some(given) = &args.fingerprint {
        let given: Fingerprint =
            given.parse().map_err(anyhow::Error::msg).context("--fingerprint")?;
        anyhow::ensure!(
            given == shown,
            "{url} shows another certificate than --fingerprint says: expected {given}, shown \
             {shown}; if the host's certificate was renewed, give the new one; if not, somebody \
             stands between"
        );
        return Ok((Some(url), Some(shown)));
    }
    say(&format!(
        "{url} shows a certificate with the SHA-256 fingerprint\n  {shown}\nCompare it on the host \
         itself: `pvenode cert info`, or System → Certificates in PVE."
    ));
    match ask.vouch("--fingerprint", "Is it the same?")? {
        Some(true) => Ok((Some(url), Some(shown))),
        Some(false) => {
            anyhow::bail!("then something stands between here and {url}; no token was sent")
        }
        None => Ok((Some(url), None)),
    }
}

fn token(args: &InitArgs, ask: &mut Questions) -> anyhow::Result<(Option<String>, Option<Secret>)> {
    let token = ask.text(
        Question {
            flag: "--token-id",
            text: "The token's name",
            given: args.token_id.as_deref(),
            proposal: Some(USUAL_TOKEN),
        },
        finding::token_id,
    )?;
    let given = match (&args.token_file, &args.token_env) {
        (Some(file), _) => Some(finding::secret_in_file(file)?),
        (None, Some(variable)) => Some(finding::secret_in_variable(variable)?),
        (None, None) => None,
    };
    let secret = match given {
        Some(secret) => Some(secret),
        None => ask.secret("--token-file or --token-env", "Its secret (not shown)")?,
    };
    let secret = match (secret, &token) {
        (Some(secret), Some(token)) => Some(finding::bare_secret(&secret, token)?),
        (secret, _) => secret,
    };
    Ok((token, secret))
}

/// A flag for a host that is not there is a slip of the pen.
fn known_names(found: &Found, args: &InitArgs) -> anyhow::Result<()> {
    for (flag, given) in [("--host", &args.hosts), ("--tier", &args.tiers), ("--mac", &args.macs)] {
        for (name, _) in given {
            anyhow::ensure!(
                found.cluster.nodes.iter().any(|node| node.node == *name),
                "{flag} names {name}, and the cluster has {}",
                found.names()
            );
        }
    }
    Ok(())
}

/// Where each host's own API is; asked only where nobody answered with the right certificate.
async fn doors(
    found: &Found,
    args: &InitArgs,
    ask: &mut Questions,
) -> anyhow::Result<BTreeMap<String, String>> {
    let mut doors = BTreeMap::new();
    for node in &found.cluster.nodes {
        let name = &node.node;
        if node.local {
            doors.insert(name.clone(), found.url.clone());
            continue;
        }
        let given = of_host(&args.hosts, name);
        let proposal = found.proposed_door(node);
        if given.is_none()
            && let Some(url) = &proposal
            && node.online
            && found.is_door_of(node, url).await.is_ok()
        {
            say(&format!("{name} is at {url}, with the certificate that the cluster knows."));
            doors.insert(name.clone(), url.clone());
            continue;
        }
        let question = Question {
            flag: &format!("--host {name}=URL"),
            text: &format!("The address of {name}'s API"),
            given,
            proposal: proposal.as_deref(),
        };
        let Some(url) = ask.text(question, finding::url)? else { continue };
        if node.online {
            found.is_door_of(node, &url).await.map_err(anyhow::Error::msg)?;
        }
        doors.insert(name.clone(), url);
    }
    Ok(doors)
}

async fn here(found: &Found, args: &InitArgs, ask: &mut Questions) -> anyhow::Result<Option<Seat>> {
    let (proposal, why) = found.seat().await;
    say(&why);
    let proposal = proposal.map(|seat| seat.to_string());
    let question = Question {
        flag: "--here",
        text: "Where does spot itself live: a host, the VMID of a guest, or outside",
        given: args.here.as_deref(),
        proposal: proposal.as_deref(),
    };
    ask.text(question, |text| found.read_seat(text))
}

fn tiers(
    found: &Found,
    here: Option<&Seat>,
    args: &InitArgs,
    ask: &mut Questions,
) -> anyhow::Result<BTreeMap<String, Tier>> {
    let mut tiers = BTreeMap::new();
    for node in &found.cluster.nodes {
        let name = &node.node;
        let (proposal, why) = found.proposed_tier(node, here);
        let question = Question {
            flag: &format!("--tier {name}=TIER"),
            text: &format!(
                "How dear is {name} ({why})? low is always on, medium sometimes, high seldom"
            ),
            given: of_host(&args.tiers, name),
            proposal: Some(&proposal.to_string()),
        };
        // Unanswered, the proposal stands, so that what follows from it is told at once as well.
        let tier = ask.text(question, finding::tier)?.unwrap_or(proposal);
        tiers.insert(name.clone(), tier);
    }
    anyhow::ensure!(
        ask.unanswered() || tiers.values().any(|tier| *tier == Tier::Low),
        "no host is of tier low, so nothing would be left awake; give --tier HOST=low to the one that \
         is always on"
    );
    Ok(tiers)
}

async fn macs(
    found: &Found,
    tiers: &BTreeMap<String, Tier>,
    args: &InitArgs,
    ask: &mut Questions,
) -> anyhow::Result<BTreeMap<String, Vec<Mac>>> {
    let mut macs = BTreeMap::new();
    for node in &found.cluster.nodes {
        let name = &node.node;
        if tiers.get(name).is_none_or(|tier| *tier == Tier::Low) {
            continue;
        }
        let given = of_host(&args.macs, name);
        let (proposal, why) = match given {
            Some(_) => (None, String::new()),
            None => found.mac(node).await,
        };
        let proposal = proposal.map(|mac| mac.to_string());
        let question = Question {
            flag: &format!("--mac {name}=MAC"),
            text: &format!("The hardware address that wakes {name} ({why}), or {NONE}"),
            given,
            proposal: proposal.as_deref(),
        };
        let read = |text: &str| match text {
            NONE => Ok(Vec::new()),
            text => text.parse().map(|mac| vec![mac]),
        };
        if let Some(found) = ask.text(question, read)? {
            macs.insert(name.clone(), found);
        }
    }
    Ok(macs)
}

/// Whether what is on now, and was not woken by spot, may be put to sleep as well.
fn rest_now(
    found: &Found,
    tiers: &BTreeMap<String, Tier>,
    args: &InitArgs,
    ask: &mut Questions,
) -> anyhow::Result<bool> {
    let dear = |node: &&NodeFound| tiers.get(&node.node).is_some_and(|tier| *tier != Tier::Low);
    let on: Vec<&str> = found
        .cluster
        .nodes
        .iter()
        .filter(|node| node.online)
        .filter(dear)
        .map(|node| node.node.as_str())
        .collect();
    let given = match args.rest_now.as_deref() {
        Some(text) => {
            Some(questions::yes_or_no(text).map_err(anyhow::Error::msg).context("--rest-now")?)
        }
        None => None,
    };
    if on.is_empty() {
        return Ok(given.unwrap_or(false));
    }
    let question = format!(
        "{} on now, and not by spot's doing. May spot put to sleep what somebody else has switched on, \
         when nothing wants it?",
        match on.as_slice() {
            [one] => format!("{one} is"),
            many => format!("{} are", many.join(" and ")),
        }
    );
    Ok(ask.decide("--rest-now", &question, given)?.unwrap_or(false))
}

/// A pretended cluster hears magic packets at an address of its own.
fn wake_only(
    found: &Found,
    args: &InitArgs,
    ask: &mut Questions,
) -> anyhow::Result<Option<SocketAddr>> {
    if !found.on_loopback() && args.wake_only.is_none() {
        return Ok(None);
    }
    let question = Question {
        flag: "--wake-only",
        text: "This cluster is on loopback, so it is a pretended one. Where does it hear magic packets \
               (ADDRESS:PORT), or none",
        given: args.wake_only.as_deref(),
        proposal: None,
    };
    let read = |text: &str| match text {
        NONE => Ok(None),
        text => text.parse().map(Some).map_err(|_| format!("`{text}` is not ADDRESS:PORT")),
    };
    Ok(ask.text(question, read)?.flatten())
}

async fn clock(args: &InitArgs, found: &Found) -> anyhow::Result<bool> {
    match args.clock.as_deref() {
        Some("trust") => Ok(true),
        Some("check") => Ok(false),
        Some(other) => anyhow::bail!("--clock is `check` or `trust`, not `{other}`"),
        // Nobody is harmed by a wrong clock on a pretended cluster.
        None => {
            let state = RealClock::new(false).ask_state().await;
            Ok(state != ClockState::Synchronised && found.on_loopback())
        }
    }
}

fn timezone(args: &InitArgs) -> anyhow::Result<String> {
    match &args.timezone {
        Some(name) if calendar::zone(name).is_some() => Ok(name.clone()),
        Some(name) => {
            anyhow::bail!("--timezone: there is no zone `{name}`; write one like Europe/Berlin")
        }
        None => {
            let own = TimeZone::system().iana_name().map(str::to_owned);
            Ok(own.filter(|name| calendar::zone(name).is_some()).unwrap_or_else(|| "UTC".into()))
        }
    }
}
