//! The dead man's URL: somebody outside is called after each turn, and misses the call when `spot`
//! is dead, stuck, or without a network. Nothing else can tell that.
//!
//! It goes beside the turns: one call at a time, given up after a while, and turns that end
//! meanwhile are called for once. The URL often is a secret of its own, so it stands in no log
//! line.
//!
//! **Does not know:** whether the turn was a good one; only that it ended.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::config::DeadMan;
use crate::site::{Clock, RealClock, Working};
use crate::status::Picture;

/// Longer than any such service takes; turns never wait for it.
const LIMIT: Duration = Duration::from_secs(10);

/// Calls after each turn, until the service ends.
pub(super) async fn call(dead_man: DeadMan, mut turns: watch::Receiver<Arc<Picture>>) {
    let client = match client() {
        Ok(client) => client,
        Err(why) => return tracing::error!("the dead man's URL cannot be called: {why}"),
    };
    let clock = RealClock::new(true);
    let mut heard = true;
    // The first turn that ends is one to call for.
    turns.mark_unchanged();
    while turns.changed().await.is_ok() {
        let began = clock.now().monotonic;
        let now = match client.get(&dead_man.url).send().await {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => Err(format!("it answers {}", answer.status())),
            Err(why) => Err(told(&why.without_url())),
        };
        match (&now, heard) {
            (Err(why), true) => tracing::warn!("the dead man's URL does not hear us: {why}"),
            (Ok(()), false) => tracing::info!("the dead man's URL hears us again"),
            (Ok(()), true) | (Err(_), false) => {}
        }
        heard = now.is_ok();
        if let Some(every) = dead_man.every {
            let _rested = clock.rest_until(began + every, Working::untracked()).await;
        }
    }
}

fn client() -> Result<reqwest::Client, String> {
    // An error says that one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .timeout(LIMIT)
        .redirect(reqwest::redirect::Policy::limited(3))
        .user_agent(concat!("spot/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|why| told(&why))
}

/// The innermost cause, which is the one that says something.
fn told(error: &reqwest::Error) -> String {
    let mut at: &dyn std::error::Error = error;
    // Longer chains are not made here; the bound keeps a circular one from hanging.
    for _ in 0..10 {
        match at.source() {
            Some(cause) => at = cause,
            None => break,
        }
    }
    at.to_string()
}
