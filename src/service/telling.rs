//! Telling once: which holds are new, changed or gone since they were last journaled.
//!
//! A hold that flickers would fill the journal with noise and hide what matters. So nothing is
//! called lifted while the look is not whole, nor while the gate only waits for fresh answers to
//! the same request.
//!
//! **Does not know:** what a hold means.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use crate::cluster::{HostName, Vmid};
use crate::gate::Refusal;
use crate::ledger::{Entry, HoldKey, Ledger};
use crate::plan::Hold;
use crate::request::Request;

/// Holds whose sentence changes with every look while the matter stays the same: in an outage, each
/// host fails to answer in one way now and in another then.
const TOLD_ONCE: &[&str] = &["unseen"];

/// A hold that keeps a host awake is told again when it has stood for this long, and then daily.
const TOLD_DAILY: Duration = Duration::from_secs(24 * 3600);

/// What a gate's refusal is about: the host a request begins at, and its guest.
fn about(request: &Request) -> (Option<HostName>, Option<Vmid>) {
    (request.hosts().first().map(|host| (*host).clone()), request.guest())
}

/// A refusal as a hold, beside those of the plan.
pub(super) fn hold_of(refusal: &Refusal) -> Hold {
    let (host, guest) = about(&refusal.request);
    Hold::Gate {
        code: refusal.code,
        host,
        guest,
        sentence: refusal.sentence.clone(),
        remedy: refusal.remedy.clone(),
    }
}

/// The entries by which the journal hears of every change.
pub(super) fn changes(
    holds: &[Hold],
    refusals: &[Refusal],
    ledger: &Ledger,
    whole: bool,
    at: Timestamp,
) -> Vec<Entry> {
    let mut now: BTreeMap<HoldKey, BTreeSet<String>> = BTreeMap::new();
    let mut keeps_awake = BTreeSet::new();
    for hold in holds {
        let (host, guest) = (hold.host().cloned(), hold.guest());
        let key = HoldKey { code: hold.code().to_owned(), host, guest };
        if hold.keeps_awake() {
            keeps_awake.insert(key.clone());
        }
        now.entry(key).or_default().insert(hold.to_string());
    }
    let mut refused: BTreeMap<HoldKey, &Request> = BTreeMap::new();
    let mut waiting = BTreeSet::new();
    for refusal in refusals {
        let (host, guest) = about(&refusal.request);
        if refusal.waiting {
            waiting.insert((host, guest));
        } else {
            let key = HoldKey { code: refusal.code.to_owned(), host, guest };
            refused.insert(key, &refusal.request);
        }
    }
    let mut entries = Vec::new();
    for (key, sentences) in &now {
        let sentence = sentences.iter().cloned().collect::<Vec<_>>().join("; ");
        let told = ledger.held.get(key);
        let standing = ledger.standing.get(key);
        if told == Some(&sentence) || (told.is_some() && TOLD_ONCE.contains(&key.code.as_str())) {
            // What keeps a host awake for so long is told again, for its owner pays for it.
            let long =
                standing.filter(|one| keeps_awake.contains(key) && at >= one.told + TOLD_DAILY);
            if let Some(standing) = long {
                let HoldKey { code, host, guest } = key.clone();
                let held = at.duration_since(standing.since);
                let for_seconds = u64::try_from(held.as_secs()).ok();
                entries.push(Entry::Held { code, host, guest, sentence, for_seconds });
            }
            continue;
        }
        let HoldKey { code, host, guest } = key.clone();
        entries.push(match refused.get(key) {
            Some(request) => Entry::Refused { request: (*request).clone(), clause: code, sentence },
            None => Entry::Held { code, host, guest, sentence, for_seconds: None },
        });
    }
    let gone = ledger.held.keys().filter(|key| !now.contains_key(*key));
    for HoldKey { code, host, guest } in gone.cloned() {
        if whole && !waiting.contains(&(host.clone(), guest)) {
            entries.push(Entry::HoldLifted { code, host, guest });
        }
    }
    entries
}
