//! `up`, `down` and `prove` while no service runs: the same turns, in this process, under the
//! journal's lock, until what was asked is seen.
//!
//! In mode `rehearse` whatever `spot.yaml` says, so that nothing but the person's own command is
//! acted upon: nobody who asks for one host expects the others to move. And nobody will be there to
//! end the lease, which is said.
//!
//! **Does not know:** how a turn works.

use tokio::sync::{mpsc, oneshot};

use super::ask::{Teller, concerned, confirmed, said};
use super::progress::Goal;
use super::{Cli, Exit, live, paper, run};
use crate::checks::Checked;
use crate::cluster::HostName;
use crate::config::Config;
use crate::gate::Mode;
use crate::service::{Ask, Asked, Asking, Doors, PolicyNews, Service, Settings};
use crate::site::RealClock;
use crate::sources::Source;

pub async fn perform(
    cli: &Cli,
    config: &Config,
    ask: Ask,
    hosts: &[HostName],
    watch: Option<Goal>,
) -> anyhow::Result<Exit> {
    let goal = match (&ask, watch) {
        (Ask::Up { .. } | Ask::Down { .. } | Ask::Prove { .. }, Some(goal)) => goal,
        (Ask::Up { .. } | Ask::Down { .. } | Ask::Prove { .. }, None) => {
            anyhow::bail!("no service runs, and --no-wait leaves nobody to do it: leave it out")
        }
        (_, _) => anyhow::bail!("no service runs that could see to it: systemctl start spot"),
    };
    let policy = match run::told(Source::new(&config.policies).reload()) {
        PolicyNews::Valid { policy, commit } => (policy, commit),
        PolicyNews::Refused { sentence } => {
            anyhow::bail!("{sentence}; spot check shows every fault")
        }
    };
    paper::aside("No service runs; this command does it itself.");
    let clock = RealClock::new(config.clock_trusted);
    // A power-off needs to know that the clock is right, and nobody waits in the background here.
    clock.ask_state().await;
    let mut site = live::site(config, Some(&policy.0), clock)?;
    let name = run::name(config, &mut site).await;
    let books = run::take_up(config, &name)?;
    let settings = Settings { cluster: name, mode: Mode::Rehearse, here: config.here.clone() };
    let site = Checked::new(site, config.checks.clone());
    let service = Service::new(site, books, settings);
    let mut pictures = service.pictures();

    let (mailbox, asks) = mpsc::channel(1);
    let (news, policies) = mpsc::channel(1);
    let (policy, commit) = policy;
    news.send(PolicyNews::Valid { policy, commit }).await?;
    let (halt, halted) = oneshot::channel::<()>();
    let stop = async {
        // Dropped counts as told.
        let _ = halted.await;
    };
    let turning = tokio::task::spawn_local(service.run(Doors { asks, policies }, stop));

    // Asks are judged by what was seen, so the first turn comes before them.
    pictures.changed().await?;
    let sure = cli.yes || config.mode == Mode::Act;
    let asked = granted(&mailbox, &ask, sure).await?;
    let exit = match said(&asked)? {
        Exit::No => Exit::No,
        Exit::Yes => {
            let hosts = concerned(hosts, &asked, &pictures.borrow().status.clone());
            let mut teller = Teller::new(goal, &hosts);
            // What is there now may be from before the ask.
            pictures.mark_unchanged();
            loop {
                tokio::select! {
                    changed = pictures.changed() => {
                        changed?;
                        let status = pictures.borrow_and_update().status.clone();
                        if let Some(exit) = teller.tell(&status)? {
                            break exit;
                        }
                    }
                    _ = tokio::signal::ctrl_c() => {
                        teller.clear();
                        paper::aside("Stopped. What was asked of a host may still come about.");
                        break Exit::No;
                    }
                }
            }
        }
    };
    drop(halt);
    turning.await?;
    match goal {
        Goal::Serves | Goal::Rests => paper::aside(
            "No service runs, so nobody ends the lease: start it, and use spot release then.",
        ),
        Goal::Empty | Goal::Proven => {}
    }
    Ok(exit)
}

/// Puts the ask into the inbox and waits for its answer, after a confirmation where one is wanted.
async fn granted(mailbox: &mpsc::Sender<Asking>, ask: &Ask, sure: bool) -> anyhow::Result<Asked> {
    let put = async |confirmed: bool| -> anyhow::Result<Asked> {
        let (answer, answered) = oneshot::channel();
        let asking = Asking { ask: ask.clone(), by: whoever(), confirmed, answer: Some(answer) };
        mailbox.send(asking).await.map_err(|_| anyhow::anyhow!("the turns have ended"))?;
        Ok(answered.await?)
    };
    match put(sure).await? {
        Asked::Confirm { sentence } if confirmed(&sentence)? => put(true).await,
        Asked::Confirm { .. } => Ok(Asked::Refused {
            sentence: "it was not confirmed, and nothing was done".into(),
            remedy: String::new(),
        }),
        asked @ (Asked::Taken { .. } | Asked::Refused { .. }) => Ok(asked),
    }
}

/// Who runs this command.
fn whoever() -> String {
    let id = nix::unistd::getuid();
    match nix::unistd::User::from_uid(id) {
        Ok(Some(user)) => user.name,
        Ok(None) | Err(_) => format!("user {id}"),
    }
}
