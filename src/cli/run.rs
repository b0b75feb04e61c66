//! `spot run`: the service, put together and kept going until it is told to stop.
//!
//! Everything that can be wrong at the start is said in one sentence and ends it: the owner is
//! still watching then. Later on a policy that turns invalid is refused and the last good one
//! stays.
//!
//! **Does not know:** what a turn does.

mod dead_man;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::{Notify, mpsc};

use super::{Exit, RunArgs, check, live, look, paper};
use crate::checks::Checked;
use crate::cluster::HostName;
use crate::config::Config;
use crate::control::{self, Control};
use crate::journal::{Books, Journal};
use crate::policy::text::Fault;
use crate::pretend::ScaledClock;
use crate::service::{self, Doors, PolicyNews, Service, Settings};
use crate::site::{Clock, RealClock, Site};
use crate::sources::{News, Source};

/// The folder of policies is looked at this often; a change counts when it was seen twice.
const POLICY_EVERY: Duration = Duration::from_secs(2);
/// Asks that wait for the next turn; whoever comes later is told to try again.
const MAILBOX: usize = 64;
/// The cluster's name before anybody has told it.
const NAMELESS: &str = "cluster";

pub async fn run(place: &Path, config: &Config, args: &RunArgs) -> anyhow::Result<Exit> {
    log();
    match args.clock {
        None => serve(place, config, RealClock::new(config.clock_trusted)).await,
        Some(clock) => {
            only_loopback(config)?;
            let clock = ScaledClock::new(clock.start, clock.speed).map_err(anyhow::Error::msg)?;
            serve(place, config, clock).await
        }
    }
}

/// Log lines go to standard error; under systemd without a time of their own, for it writes one.
fn log() {
    use std::io::IsTerminal;
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let lines = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(colour)
        .with_target(false)
        // A log that cannot be written is no reason to stop, and telling the same place of it is.
        .log_internal_errors(false)
        .with_max_level(tracing::Level::INFO);
    match std::env::var_os("JOURNAL_STREAM") {
        Some(_) => lines.without_time().init(),
        None => lines.init(),
    }
}

/// Another clock than the real one would do harm on a real cluster.
fn only_loopback(config: &Config) -> anyhow::Result<()> {
    for (host, door) in &config.access.doors {
        anyhow::ensure!(
            is_loopback(&door.url),
            "--clock is for pretended clusters only, and {host} is at {}, which is not on loopback",
            door.url
        );
    }
    Ok(())
}

fn is_loopback(url: &str) -> bool {
    let rest = url.strip_prefix("https://").unwrap_or(url);
    let place = rest.split('/').next().unwrap_or(rest);
    let name = match place.strip_prefix('[') {
        Some(six) => six.split(']').next().unwrap_or(six),
        None => place.rsplit_once(':').map_or(place, |(name, _)| name),
    };
    name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

async fn serve<C: Clock>(place: &Path, config: &Config, clock: C) -> anyhow::Result<Exit> {
    // A fault in the first policy is told to whoever starts the service; it waits for a better one.
    let policy = check::valid(&config.policies).ok();
    let mut site = live::site(config, policy.as_ref(), clock)?;
    let name = name(config, &mut site).await;
    let books = take_up(config, &name)?;
    let settings = Settings { cluster: name, mode: config.mode, here: config.here.clone() };
    let site = Checked::new(site, config.checks.clone());
    let service = Service::new(site, books, settings);

    let (mailbox, asks) = mpsc::channel(MAILBOX);
    let (news, policies) = mpsc::channel(1);
    let listener = listen(config)?;
    let journal = live::journal(config);
    let recall =
        move |host: Option<&HostName>, since, limit| service::history(&journal, host, since, limit);
    let control = Control {
        mailbox,
        pictures: service.pictures(),
        entries: service.entries(),
        recall: Arc::new(recall),
    };
    let _served = tokio::task::spawn_local(control.serve(listener));
    let reload = Arc::new(Notify::new());
    let _read = tokio::task::spawn_local(watch(config.policies.clone(), news, reload.clone()));
    let _rung = tokio::task::spawn_local(service::hangups(reload));
    let _reread = tokio::task::spawn_local(reread(place.to_owned(), config.clone()));
    if let Some(dead_man) = config.dead_man.clone() {
        let _called = tokio::task::spawn_local(dead_man::call(dead_man, service.pictures()));
    }
    let stop = async {
        if let Err(error) = service::terminated().await {
            tracing::error!("signals cannot be heard: {error}");
        }
    };
    service.run(Doors { asks, policies }, stop).await;
    // Whoever asks now is told at once that nobody is there.
    let _ = std::fs::remove_file(&config.socket);
    Ok(Exit::Yes)
}

/// The cluster's own name, as it says itself or as the journal remembers it.
pub async fn name(config: &Config, site: &mut impl Site) -> String {
    let remembered = || {
        let journal = Journal::read_only(&live::journal(config)).ok()?;
        journal.cluster().map(str::to_owned)
    };
    let seen = site.observe(&[]).await;
    seen.cluster.or_else(remembered).unwrap_or_else(|| NAMELESS.into())
}

/// Takes up the journal for writing.
pub fn take_up(config: &Config, cluster: &str) -> anyhow::Result<Books> {
    let machine = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    let machine = machine.unwrap_or_else(|| "this machine".into());
    let holder = format!("{machine} process {}", std::process::id());
    Journal::open(&live::journal(config), cluster, &holder).map_err(look::faulty)
}

fn listen(config: &Config) -> anyhow::Result<tokio::net::UnixListener> {
    if let Some(folder) = config.socket.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the socket's folder {}", folder.display()))?;
    }
    control::bind(&config.socket)
        .map_err(|trouble| anyhow::anyhow!("{}; {}", trouble.sentence, trouble.remedy))
}

/// Looks at the folder again and again, and hands over what is new; never ends by itself.
async fn watch(folder: PathBuf, news: mpsc::Sender<PolicyNews>, reload: Arc<Notify>) {
    let mut source = Source::new(folder);
    let mut found = Some(source.reload());
    loop {
        if let Some(found) = found
            && news.send(told(found)).await.is_err()
        {
            return;
        }
        found = match tokio::time::timeout(POLICY_EVERY, reload.notified()).await {
            Ok(()) => Some(source.reload()),
            Err(_elapsed) => source.poll(),
        };
    }
}

/// SIGHUP takes up policies. Of spot.yaml nothing can be taken up while undertakings rest on it, so
/// a change is told, and a fault before it would meet a restart.
async fn reread(place: PathBuf, config: Config) {
    let rung = Arc::new(Notify::new());
    let _rung = tokio::task::spawn_local(service::hangups(rung.clone()));
    loop {
        rung.notified().await;
        tracing::info!("SIGHUP: the policies are read again");
        match Config::read(&place) {
            Ok(read) if read == config => {}
            Ok(_) => {
                tracing::warn!("{} has changed; restart spot to take that up", place.display())
            }
            Err(faults) => {
                for fault in faults {
                    tracing::error!("{}", paper::plain(&fault));
                }
            }
        }
    }
}

/// What the service hears of the source's news; the log has every fault.
pub fn told(news: News) -> PolicyNews {
    match news {
        News::Valid { policy, commit, warnings } => {
            for Fault { file, line, message, .. } in warnings {
                tracing::warn!("{}", paper::plain(&format!("{file}:{line}: {message}")));
            }
            PolicyNews::Valid { policy, commit }
        }
        News::Refused { sentence, faults, files: _ } => {
            for Fault { file, line, message, help, .. } in faults {
                tracing::error!("{}", paper::plain(&format!("{file}:{line}: {message}; {help}")));
            }
            PolicyNews::Refused { sentence }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_loopback;

    #[test]
    fn only_addresses_of_this_machine_are_loopback() {
        for (url, loopback) in [
            ("https://127.0.0.1:8006", true),
            ("https://[::1]:8006/", true),
            ("https://127.9.9.9", true),
            ("https://192.168.1.11:8006", false),
            ("https://localhost.example.org:8006", false),
            ("https://127.0.0.1.example.org:8006", false),
        ] {
            assert_eq!(is_loopback(url), loopback, "{url}");
        }
    }
}
