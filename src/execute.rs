//! Sends what was cleared: intent to disk, request to the world, answer to disk.
//!
//! All intents of a turn are on disk before its first request leaves, so that after a crash the
//! journal knows of everything that may have been asked. An intent without an answer means: it may
//! have been done, look it up. The answers of one turn are waited for together, each journaled as
//! it comes.
//!
//! **Does not know:** policy, plan. It cannot choose: it takes only what the gate has cleared.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use crate::cluster::Moment;
use crate::gate::Cleared;
use crate::journal::{Books, Fault};
use crate::ledger::{Entry, Ledger};
use crate::request::{Answered, Move, Request};
use crate::site::Site;
use crate::undertaking::{Event, RequestId, UndertakingId};

/// One request with its numbers.
struct Intent {
    undertaking: UndertakingId,
    request_id: RequestId,
    request: Request,
}

/// A request on its way, with what will be its answer.
type Asking<'a> = (UndertakingId, RequestId, Pin<Box<dyn Future<Output = Answered> + 'a>>);

/// Begins undertakings where none is open for the purpose, journals every intent, asks, and
/// journals every answer. `because` says why, by purpose.
///
/// When the intents cannot be written nothing is asked. When an answer cannot be written the rest
/// is still waited for; what is missing in the journal then is looked up, as after a crash.
pub async fn advance<S: Site>(
    cleared: Vec<Cleared>,
    because: &BTreeMap<Move, String>,
    books: &mut Books,
    site: &S,
) -> Result<(), Fault> {
    if cleared.is_empty() {
        return Ok(());
    }
    let now = site.now();
    let (entries, intents) = intend(&cleared, because, books.ledger(), now);
    books.note(now, &entries)?;
    let mut asking: Vec<Asking<'_>> = intents
        .iter()
        .map(|intent| {
            let answer: Pin<Box<dyn Future<Output = Answered> + '_>> =
                Box::pin(site.perform(&intent.request));
            (intent.undertaking, intent.request_id, answer)
        })
        .collect();
    let mut written = Ok(());
    while !asking.is_empty() {
        let (id, request_id, answer) = first_answer(&mut asking).await;
        let event = Event::Answered { request_id, answer };
        let noted = books.note(site.now(), &[Entry::Progress { id, event }]);
        written = written.and(noted);
    }
    written
}

/// The entries by which all of this is meant, and the requests with their numbers.
fn intend(
    cleared: &[Cleared],
    because: &BTreeMap<Move, String>,
    ledger: &Ledger,
    now: Moment,
) -> (Vec<Entry>, Vec<Intent>) {
    let mut entries = Vec::new();
    let mut intents = Vec::new();
    let mut begun: BTreeMap<&Move, UndertakingId> = BTreeMap::new();
    let mut last_undertaking = ledger.last_undertaking;
    let mut last_request = ledger.last_request;
    for one in cleared {
        let purpose = one.purpose();
        let open = ledger.undertaking(purpose).map(|undertaking| undertaking.id);
        let id = open.or_else(|| begun.get(purpose).copied()).unwrap_or_else(|| {
            last_undertaking += 1;
            begun.insert(purpose, last_undertaking);
            let because = because.get(purpose).cloned().unwrap_or_default();
            let id = last_undertaking;
            entries.push(Entry::Begun { id, purpose: purpose.clone(), because });
            id
        });
        last_request += 1;
        let (request_id, request) = (last_request, one.request().clone());
        let by_configured_votes = one.by_configured_votes();
        let event = Event::Intended {
            request_id,
            request: request.clone(),
            at: now.civil,
            by_configured_votes,
        };
        entries.push(Entry::Progress { id, event });
        intents.push(Intent { undertaking: id, request_id, request });
    }
    (entries, intents)
}

/// Waits for whichever answer comes first and takes it out.
async fn first_answer(asking: &mut Vec<Asking<'_>>) -> (UndertakingId, RequestId, Answered) {
    poll_fn(|context| {
        for place in 0..asking.len() {
            if let Poll::Ready(answer) = asking[place].2.as_mut().poll(context) {
                let (id, request_id, _over) = asking.remove(place);
                return Poll::Ready((id, request_id, answer));
            }
        }
        Poll::Pending
    })
    .await
}
