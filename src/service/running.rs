//! The loop around the turns: what nudges it, what ends it, and what systemd hears of it.
//!
//! Between turns it waits for whichever comes first: an ask, a policy, the next edge. What comes
//! during a turn waits for the next one, which then begins at once. Told to stop, it finishes the
//! turn at hand without asking anything new, which takes 10 s at most.
//!
//! **Does not know:** what a turn does.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc};

use super::{Asking, Inbox, PolicyNews, Service, TurnReport};
use crate::ledger::Entry;
use crate::site::Site;
use crate::status::{HostShown, Status, plain};

/// Asks taken into one turn; more wait for the next.
const ASKS_A_TURN: usize = 64;

/// Where things come in.
pub struct Doors {
    pub asks: mpsc::Receiver<Asking>,
    pub policies: mpsc::Receiver<PolicyNews>,
}

impl<S: Site> Service<S> {
    /// Turns until `stop` resolves; then lets go of everything.
    pub async fn run(
        mut self,
        mut doors: Doors,
        stop: impl Future<Output = ()>,
    ) -> (S, crate::journal::Books) {
        let mut stop = std::pin::pin!(stop);
        let mut inbox = Inbox::default();
        let mut ready = false;
        loop {
            doors.drain(&mut inbox);
            let report = self.turn_until(&mut stop, std::mem::take(&mut inbox)).await;
            if !ready {
                tell_systemd(NotifyState::Ready);
                ready = true;
            }
            tell_systemd(NotifyState::Watchdog);
            tell_systemd(NotifyState::Status(&in_one_line(&report.picture.status)));
            if self.halting.load(Ordering::Relaxed) {
                break;
            }
            tokio::select! {
                biased;
                () = &mut stop => break,
                Some(asking) = doors.asks.recv() => inbox.asks.push(asking),
                Some(news) = doors.policies.recv() => inbox.policy = Some(news),
                () = self.site.wait_until(report.revisit) => {}
            }
        }
        tell_systemd(NotifyState::Stopping);
        self.stop();
        (self.site, self.books)
    }

    /// One turn; `stop` during it keeps it from asking anything new.
    async fn turn_until(
        &mut self,
        stop: &mut Pin<&mut impl Future<Output = ()>>,
        inbox: Inbox,
    ) -> TurnReport {
        let halting = self.halting.clone();
        let mut turn = std::pin::pin!(self.turn(inbox));
        loop {
            let halted = halting.load(Ordering::Relaxed);
            tokio::select! {
                biased;
                () = stop.as_mut(), if !halted => halting.store(true, Ordering::Relaxed),
                report = &mut turn => return report,
            }
        }
    }

    /// Says in the journal that it was an orderly end.
    fn stop(&mut self) {
        if let Err(fault) = self.books.note(self.site.now(), &[Entry::Stopped]) {
            tracing::warn!("the end could not be written down: {}", fault.sentence());
        }
    }
}

impl Doors {
    /// Takes what has come in meanwhile.
    fn drain(&mut self, inbox: &mut Inbox) {
        while inbox.asks.len() < ASKS_A_TURN
            && let Ok(asking) = self.asks.try_recv()
        {
            inbox.asks.push(asking);
        }
        while let Ok(news) = self.policies.try_recv() {
            inbox.policy = Some(news);
        }
    }
}

/// What `systemctl status` shows: what is wrong, or where every host is.
fn in_one_line(status: &Status) -> String {
    /// 32 hosts with long names would be a paragraph.
    const HOSTS_AT_MOST: usize = 12;
    if let Some(trouble) = &status.trouble {
        return plain(&trouble.sentence);
    }
    let one = |host: &HostShown| format!("{} {}", host.name, host.state);
    let mut hosts: Vec<String> = status.hosts.iter().take(HOSTS_AT_MOST).map(one).collect();
    if status.hosts.len() > HOSTS_AT_MOST {
        hosts.push("…".into());
    }
    let quorate = match status.quorate {
        Some(true) => "",
        Some(false) => "not quorate; ",
        None => "the cluster is not seen; ",
    };
    plain(&format!("{}: {quorate}{}", status.mode, hosts.join(", ")))
}

/// Says it to systemd, if it listens.
fn tell_systemd(state: NotifyState<'_>) {
    if let Err(fault) = sd_notify::notify(&[state]) {
        tracing::warn!("systemd could not be told: {fault}");
    }
}

/// Resolves on SIGTERM or SIGINT.
pub async fn terminated() -> std::io::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    Ok(())
}

/// Rings `reload` with every SIGHUP; never ends by itself.
pub async fn hangups(reload: Arc<Notify>) -> std::io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    while hangup.recv().await.is_some() {
        reload.notify_one();
    }
    Ok(())
}
