//! The grammar of the command line, and what a command's end means to a shell.
//!
//! A command answers with an [`Exit`]: *yes*, or *no* (a fault, a refusal, a limit, a broken
//! promise). Whatever kept it from answering at all is an error, printed once, here, with its
//! causes. So scripts can tell "the cluster says no" (1) from "could not ask" (2). A reader who
//! closes the pipe has read enough, which is a success.
//!
//! **Does not know:** how any command does its work.

mod agenda;
mod alone;
mod ask;
mod check;
mod demo;
mod doctor;
mod init;
mod live;
mod look;
mod paper;
mod pretend;
mod progress;
mod quorum;
mod run;
mod schema;
mod show;
mod typed;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};
use jiff::Timestamp;

use crate::cluster::{HostName, Vmid};
use crate::service::Ask;
use paper::Unprinted;
use progress::Goal;

/// Where `spot.yaml` is looked for.
pub const DEFAULT_CONFIG: &str = "/etc/spot/spot.yaml";

/// Lets the hosts of a Proxmox VE cluster sleep while nobody needs them.
#[derive(Debug, Parser)]
#[command(name = "spot", version, about, disable_help_subcommand = true)]
#[command(after_help = "Try it without a cluster: spot demo\nBegin with your own: spot init")]
pub struct Cli {
    /// How to reach the cluster
    #[arg(long, global = true, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
    /// Answer yes to every confirmation
    #[arg(long, short, global = true)]
    pub yes: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    #[command(flatten)]
    Reaching(Reaching),
    /// The coming windows of every host
    Agenda(AgendaArgs),
    /// Check policy files; for pre-commit hooks and CI
    Check(CheckArgs),
    /// Watch spot at work on a pretended cluster
    Demo(DemoArgs),
    /// Serve a pretended cluster to any client of PVE's API
    Pretend(PretendArgs),
    /// From an address and a token to a spot.yaml and a first policy
    Init(Box<init::InitArgs>),
    /// Write completions for a shell to standard output
    Completions {
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Write the manual page to standard output, or the pages of all commands into a folder
    Man {
        /// Where `spot.1`, `spot-run.1` and the others go
        #[arg(long, value_name = "DIR")]
        to: Option<PathBuf>,
    },
    /// Write the JSON Schema of policy files to standard output, for editors
    Schema,
}

/// The commands that need `spot.yaml`, for they reach the service, its journal or the cluster.
#[derive(Debug, Subcommand)]
pub enum Reaching {
    /// Run the service
    Run(RunArgs),
    /// Wake hosts, and keep them awake for a while
    Up(UpArgs),
    /// Ask hosts to sleep, through the same gate as everything else
    Down(DownArgs),
    /// Move every guest away, keep the host on and let nothing in until released
    Empty(OneHost),
    /// End a host's lease or its emptying now
    Release(OneHost),
    /// Leave a host exactly as it is, until `spot thaw`
    Freeze(OneHost),
    /// Take a frozen host up again
    Thaw(OneHost),
    /// One supervised sleep and wake, which proves that a host can be woken
    Prove(OneHost),
    /// Hosts, guests, what is under way, and why
    Status(StatusArgs),
    /// What the next turns would do, and what holds the rest
    Plan(Look),
    /// Why a host is on or off, in full, and what would change that
    Why(WhyArgs),
    /// What was done, when, and why
    History(HistoryArgs),
    /// Votes as they stand, and what a power-off would leave
    Quorum(QuorumArgs),
    /// What is wrong with this installation, and how to mend it
    Doctor(Look),
}

#[derive(Debug, Args)]
pub struct RunArgs {
    /// Pretend that it is START and that time runs SPEED times as fast: for pretended clusters only
    #[arg(long, hide = true, value_name = "START@SPEED", value_parser = typed::clock)]
    pub clock: Option<typed::FastClock>,
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("whom").required(true).args(["hosts", "guest"])))]
pub struct UpArgs {
    #[arg(value_name = "HOST", value_parser = typed::host)]
    pub hosts: Vec<HostName>,
    /// Wake the first host that guest prefers, instead of naming one
    #[arg(long, value_name = "VMID", value_parser = typed::vmid)]
    pub guest: Option<Vmid>,
    #[command(flatten)]
    pub lease: LeaseArgs,
    /// What for; shown wherever the lease is
    #[arg(long, value_name = "TEXT")]
    pub because: Option<String>,
    /// Come back at once; the service goes on
    #[arg(long)]
    pub no_wait: bool,
}

#[derive(Debug, Args)]
pub struct DownArgs {
    #[arg(value_name = "HOST", required = true, value_parser = typed::host)]
    pub hosts: Vec<HostName>,
    #[command(flatten)]
    pub lease: LeaseArgs,
    /// Come back at once; the service goes on
    #[arg(long)]
    pub no_wait: bool,
}

#[derive(Clone, Debug, Args)]
pub struct LeaseArgs {
    /// For how long, such as 90m or 4h30m
    #[arg(long = "for", value_name = "DURATION", conflicts_with = "until")]
    #[arg(value_parser = typed::duration)]
    pub length: Option<Duration>,
    /// Until when: 18:00, 2026-11-24 07:30, or an RFC 3339 instant
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
}

#[derive(Debug, Args)]
pub struct OneHost {
    #[arg(value_name = "HOST", value_parser = typed::host)]
    pub host: HostName,
}

#[derive(Clone, Copy, Debug, Args)]
pub struct Look {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Show it again whenever it changes, until Ctrl-C
    #[arg(long)]
    pub watch: bool,
    #[command(flatten)]
    pub look: Look,
}

#[derive(Debug, Args)]
pub struct WhyArgs {
    #[arg(value_name = "HOST", value_parser = typed::host)]
    pub host: HostName,
    #[command(flatten)]
    pub look: Look,
}

#[derive(Debug, Args)]
pub struct AgendaArgs {
    /// Read policies from this folder (or file) instead of those in spot.yaml
    #[arg(long, value_name = "DIR")]
    pub policies: Option<PathBuf>,
    /// Where it begins: an RFC 3339 instant, or a date [and time]; now if not given
    #[arg(long, value_name = "INSTANT", value_parser = typed::instant)]
    pub from: Option<Timestamp>,
    /// How many times 24 hours it covers
    #[arg(long, value_name = "N", default_value_t = 7)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=400))]
    pub days: u16,
    #[command(flatten)]
    pub look: Look,
}

#[derive(Debug, Args)]
pub struct QuorumArgs {
    /// Would the cluster keep its quorum if these were powered off together?
    #[arg(long, value_name = "HOST,…", value_delimiter = ',', value_parser = typed::host)]
    pub off: Vec<HostName>,
    /// What every member would show in a cluster that need not exist, step by step (- for stdin)
    #[arg(long, value_name = "FILE", conflicts_with = "off")]
    pub what_if: Option<PathBuf>,
    /// What to change in corosync.conf so that the hosts may sleep as the policies want; never
    /// applied. With --what-if: for the nodes of that file
    #[arg(long, conflicts_with = "off")]
    pub advise: bool,
    /// Advise for these policies instead of those in spot.yaml
    #[arg(long, value_name = "DIR", requires = "advise")]
    pub policies: Option<PathBuf>,
    #[command(flatten)]
    pub look: Look,
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// A policy file or folder; the policies of spot.yaml if not given, else ./policies
    #[arg(value_name = "PATH")]
    pub path: Option<PathBuf>,
    #[arg(long, value_enum, default_value = "human")]
    pub format: check::Format,
    /// Also ask the cluster of spot.yaml: names, addresses, votes, guests that no rule matches
    #[arg(long)]
    pub live: bool,
}

#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// Only what concerns this host
    #[arg(long, value_name = "HOST", value_parser = typed::host)]
    pub host: Option<HostName>,
    /// How many lines at most, the newest last
    #[arg(long, value_name = "N", default_value_t = 200)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub last: u32,
    #[command(flatten)]
    pub look: Look,
}

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Play these policies instead of the built-in ones
    #[arg(long, value_name = "DIR")]
    pub policies: Option<PathBuf>,
    /// Play on this cluster instead of the built-in one
    #[arg(long, value_name = "FILE")]
    pub world: Option<PathBuf>,
    /// How many days it lasts
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=30))]
    pub days: u16,
    /// Let a few faults befall the cluster, drawn from this number; fair weather if not given
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Write every API request served as a line of JSON
    #[arg(long, value_name = "FILE")]
    pub requests: Option<PathBuf>,
    /// One event as JSON per line, the summary last
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct PretendArgs {
    /// What the cluster consists of
    #[arg(long, value_name = "FILE")]
    pub world: PathBuf,
    /// Where the first host's API listens; the others take the next ports
    #[arg(long, value_name = "ADDR")]
    pub listen: std::net::SocketAddr,
    /// Where magic packets are heard (UDP)
    #[arg(long, value_name = "ADDR")]
    pub magic: std::net::SocketAddr,
    /// How many times as fast as real time it runs
    #[arg(long, value_name = "N", default_value_t = 1.0)]
    pub speed: f64,
    /// Let a few faults befall the cluster, drawn from this number; fair weather if not given
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// What happens to it, and when
    #[arg(long, value_name = "FILE")]
    pub script: Option<PathBuf>,
    /// Write every API request served as a line of JSON
    #[arg(long, value_name = "FILE")]
    pub requests: Option<PathBuf>,
}

/// What a command found, once it could do its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Yes,
    /// A fault, a no, a refusal, a limit, a broken promise; said by the command itself.
    No,
}

/// Usage errors, and whatever keeps a command from doing its work.
const COULD_NOT: u8 = 2;

pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match perform(&cli) {
        Ok(Exit::Yes) => ExitCode::SUCCESS,
        Ok(Exit::No) => ExitCode::FAILURE,
        Err(error) if matches!(error.downcast_ref(), Some(Unprinted::Closed)) => ExitCode::SUCCESS,
        Err(error) => {
            let said = format!("{error:#}");
            let lines: Vec<String> = said.lines().map(paper::plain).collect();
            let said = lines.join("\n");
            // If standard error is closed as well, nobody is left to be told.
            let _ =
                std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("spot: {said}\n"));
            ExitCode::from(COULD_NOT)
        }
    }
}

/// The wall clock, for commands that end at once. Whatever goes on for longer takes its time from a
/// site.
#[expect(clippy::disallowed_methods, reason = "commands that end at once have no site to ask")]
fn now() -> Timestamp {
    Timestamp::now()
}

fn perform(cli: &Cli) -> anyhow::Result<Exit> {
    match &cli.command {
        Command::Check(args) => in_time(check::check(&cli.config, args)),
        Command::Agenda(args) => in_time(agenda::agenda(&cli.config, args)),
        Command::Demo(args) => in_time(demo::demo(args)),
        Command::Pretend(args) => in_time(pretend::pretend(args)),
        Command::Init(args) => in_time(init::init(cli, args)),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "spot", &mut text);
            paper::raw(&text)?;
            Ok(Exit::Yes)
        }
        Command::Man { to: Some(folder) } => {
            std::fs::create_dir_all(folder)?;
            clap_mangen::generate_to(Cli::command(), folder)?;
            Ok(Exit::Yes)
        }
        Command::Man { to: None } => {
            let mut text = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut text)?;
            paper::raw(&text)?;
            Ok(Exit::Yes)
        }
        Command::Schema => schema::schema(),
        Command::Reaching(Reaching::Quorum(args)) if quorum::needs_no_cluster(args) => {
            quorum::on_paper(&cli.config, args)
        }
        Command::Reaching(command) => in_time(reach(cli, command)),
    }
}

/// Runs what waits for sockets, on one thread.
fn in_time<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, work)
}

async fn reach(cli: &Cli, command: &Reaching) -> anyhow::Result<Exit> {
    let config = &live::config(&cli.config)?;
    let one = |ask, host, goal| ask::one(cli, config, ask, host, goal);
    match command {
        Reaching::Status(args) => look::status(config, args).await,
        Reaching::Plan(args) => look::plan(config, *args).await,
        Reaching::Why(args) => look::why(config, args).await,
        Reaching::History(args) => look::history(config, args).await,
        Reaching::Up(args) => ask::up(cli, config, args).await,
        Reaching::Down(args) => ask::down(cli, config, args).await,
        Reaching::Empty(OneHost { host }) => {
            one(Ask::Empty { host: host.clone() }, host, Some(Goal::Empty)).await
        }
        Reaching::Prove(OneHost { host }) => {
            one(Ask::Prove { host: host.clone() }, host, Some(Goal::Proven)).await
        }
        Reaching::Release(OneHost { host }) => {
            one(Ask::Release { host: host.clone() }, host, None).await
        }
        Reaching::Freeze(OneHost { host }) => {
            one(Ask::Freeze { host: host.clone() }, host, None).await
        }
        Reaching::Thaw(OneHost { host }) => one(Ask::Thaw { host: host.clone() }, host, None).await,
        Reaching::Doctor(form) => doctor::doctor(config, *form).await,
        Reaching::Quorum(args) => quorum::quorum(config, args).await,
        Reaching::Run(args) => run::run(&cli.config, config, args).await,
    }
}
