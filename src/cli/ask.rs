//! The commands that ask: `up`, `down`, `empty`, `release`, `freeze`, `thaw`, `prove`.
//!
//! What is asked becomes an entry of the journal before anything happens, and the service pursues
//! it whether or not the one who asked keeps watching. So Ctrl-C leaves the undertaking to the
//! service, and says so.
//!
//! **Does not know:** whether what is asked is possible; the plan and the gate find out.

use std::io::{BufRead, IsTerminal, Write};

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::progress::{End, Goal, Progress};
use super::{Cli, DownArgs, Exit, LeaseArgs, UpArgs, alone, look, paper, typed};
use crate::cluster::HostName;
use crate::config::Config;
use crate::control::{Client, News};
use crate::service::{Ask, Asked};
use crate::status::Status;

/// An end of a lease as the service takes it.
struct Ends {
    until: Option<Timestamp>,
    for_seconds: Option<u64>,
}

fn ends(lease: &LeaseArgs) -> anyhow::Result<Ends> {
    let now = super::now().to_zoned(TimeZone::system());
    let until = match &lease.until {
        Some(text) => Some(typed::until(text, &now).map_err(anyhow::Error::msg)?),
        None => None,
    };
    if let Some(until) = until {
        let zone = now.time_zone().iana_name().unwrap_or("this machine's time zone").to_owned();
        let said = until.to_zoned(now.time_zone().clone()).strftime("%a %Y-%m-%d %H:%M");
        paper::aside(&format!("until {said} ({zone})"));
    }
    Ok(Ends { until, for_seconds: lease.length.map(|length| length.as_secs()) })
}

pub async fn up(cli: &Cli, config: &Config, args: &UpArgs) -> anyhow::Result<Exit> {
    let Ends { until, for_seconds } = ends(&args.lease)?;
    let because = args.because.clone();
    let ask = Ask::Up { hosts: args.hosts.clone(), guest: args.guest, until, for_seconds, because };
    let watch = (!args.no_wait).then_some(Goal::Serves);
    perform(cli, config, ask, &args.hosts, watch).await
}

pub async fn down(cli: &Cli, config: &Config, args: &DownArgs) -> anyhow::Result<Exit> {
    let Ends { until, for_seconds } = ends(&args.lease)?;
    let ask = Ask::Down { hosts: args.hosts.clone(), until, for_seconds };
    let watch = (!args.no_wait).then_some(Goal::Rests);
    perform(cli, config, ask, &args.hosts, watch).await
}

/// Everything that is about one host.
pub async fn one(
    cli: &Cli,
    config: &Config,
    ask: Ask,
    host: &HostName,
    watch: Option<Goal>,
) -> anyhow::Result<Exit> {
    perform(cli, config, ask, std::slice::from_ref(host), watch).await
}

async fn perform(
    cli: &Cli,
    config: &Config,
    ask: Ask,
    hosts: &[HostName],
    watch: Option<Goal>,
) -> anyhow::Result<Exit> {
    let Some(mut client) = look::service(config).await? else {
        return alone::perform(cli, config, ask, hosts, watch).await;
    };
    let asked = match client.ask(ask.clone(), cli.yes).await.map_err(look::remedied)? {
        Asked::Confirm { sentence } if confirmed(&sentence)? => {
            client.ask(ask, true).await.map_err(look::remedied)?
        }
        Asked::Confirm { .. } => {
            paper::aside("Nothing was done.");
            return Ok(Exit::No);
        }
        asked @ (Asked::Taken { .. } | Asked::Refused { .. }) => asked,
    };
    match (said(&asked)?, watch) {
        (Exit::No, _) => Ok(Exit::No),
        (Exit::Yes, None) => Ok(Exit::Yes),
        (Exit::Yes, Some(goal)) => {
            let document = client.look(crate::control::Look::Status).await;
            let status = serde_json::from_value(document.map_err(look::remedied)?)?;
            follow(client, goal, &concerned(hosts, &asked, &status)).await
        }
    }
}

/// The hosts it is about. Where a guest was named, the service chose the host, and says which: each
/// of its sentences begins with one.
pub fn concerned(hosts: &[HostName], asked: &Asked, status: &Status) -> Vec<HostName> {
    let Asked::Taken { sentences } = asked else { return hosts.to_vec() };
    if !hosts.is_empty() {
        return hosts.to_vec();
    }
    let firsts = sentences.iter().filter_map(|sentence| sentence.split_whitespace().next());
    let host = |first: &str| status.hosts.iter().find(|shown| shown.name.as_str() == first);
    firsts.filter_map(host).map(|shown| shown.name.clone()).collect()
}

/// Prints what the service said to an ask.
pub fn said(asked: &Asked) -> anyhow::Result<Exit> {
    match asked {
        Asked::Taken { sentences } => {
            let sheet = paper::Sheet::stdout(super::now());
            for sentence in sentences {
                paper::line(&sheet.localised(&paper::plain(sentence)))?;
            }
            Ok(Exit::Yes)
        }
        Asked::Refused { sentence, remedy } => {
            paper::aside(&format!("No: {}", paper::plain(sentence)));
            if !remedy.is_empty() {
                paper::aside(&format!("  → {}", paper::plain(remedy)));
            }
            Ok(Exit::No)
        }
        Asked::Confirm { sentence } => anyhow::bail!("it still wants a confirmation: {sentence}"),
    }
}

/// Asks the person at the terminal. Without one there is nobody to ask, which is an error.
pub fn confirmed(sentence: &str) -> anyhow::Result<bool> {
    let mut sentence = paper::plain(sentence);
    if !sentence.ends_with('.') {
        sentence.push('.');
    }
    if !std::io::stdin().is_terminal() {
        anyhow::bail!("{sentence} Nobody is there to confirm it: say --yes");
    }
    let mut err = std::io::stderr();
    write!(err, "{sentence} Go on? [y/N] ")?;
    err.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

async fn follow(client: Client, goal: Goal, hosts: &[HostName]) -> anyhow::Result<Exit> {
    let mut news = client.follow().await.map_err(look::remedied)?;
    let mut teller = Teller::new(goal, hosts);
    loop {
        let heard = tokio::select! {
            heard = news.next() => heard.map_err(look::remedied)?,
            _ = tokio::signal::ctrl_c() => {
                teller.clear();
                paper::aside(&left_to_the_service(goal, hosts));
                return Ok(Exit::No);
            }
        };
        match heard {
            None => anyhow::bail!("the service has ended; it goes on when it is started again"),
            Some(News::Entry(_)) => {}
            Some(News::Status(status)) => {
                if let Some(exit) = teller.tell(&status)? {
                    return Ok(exit);
                }
            }
        }
    }
}

fn left_to_the_service(goal: Goal, hosts: &[HostName]) -> String {
    let names: Vec<&str> = hosts.iter().map(HostName::as_str).collect();
    let names = names.join(" ");
    let undo = match goal {
        Goal::Serves | Goal::Rests | Goal::Empty | Goal::Proven => format!("spot release {names}"),
    };
    format!("The service goes on with it: see spot status; {undo} takes it back.")
}

/// Tells the progress: lines, and on a terminal one more that is written over.
pub struct Teller {
    progress: Progress,
    terminal: bool,
    standing: bool,
}

impl Teller {
    pub fn new(goal: Goal, hosts: &[HostName]) -> Teller {
        let terminal = std::io::stderr().is_terminal() && paper::terminal();
        Teller { progress: Progress::new(goal, hosts), terminal, standing: false }
    }

    /// Takes one more status; the exit once it is over.
    pub fn tell(&mut self, status: &Status) -> anyhow::Result<Option<Exit>> {
        let lines = self.progress.take(status);
        self.clear();
        for line in lines {
            paper::line(&paper::plain(&line))?;
        }
        match self.progress.end() {
            Some(End::Reached) => {
                for line in self.progress.reached(status) {
                    paper::line(&paper::plain(&line))?;
                }
                Ok(Some(Exit::Yes))
            }
            Some(End::Missed(why)) => {
                paper::aside(&format!("Not done: {}", paper::plain(&why)));
                Ok(Some(Exit::No))
            }
            None if self.terminal => {
                let standing = paper::plain(&self.progress.standing(status));
                let mut err = std::io::stderr();
                let _ = write!(err, "\r\x1b[K{standing}");
                let _ = err.flush();
                self.standing = true;
                Ok(None)
            }
            None => Ok(None),
        }
    }

    /// Takes the line away that is written over.
    pub fn clear(&mut self) {
        if std::mem::take(&mut self.standing) {
            let mut err = std::io::stderr();
            let _ = write!(err, "\r\x1b[K");
            let _ = err.flush();
        }
    }
}
