//! What the journal promises, tried on real files.
//!
//! **Does not know:** who reads a journal, and why.

use std::fs;

use super::*;
use crate::ledger::Wants;
use crate::request::{Answered, Move, Request};
use crate::undertaking::Stage;

fn now(seconds: i64) -> Moment {
    let civil = Timestamp::from_second(1_790_000_000 + seconds).unwrap();
    Moment { civil, monotonic: Duration::from_secs(u64::try_from(seconds).unwrap()) }
}

fn lease(host: &str) -> Entry {
    Entry::LeaseGranted {
        host: host.into(),
        wants: Wants::Awake,
        until: Some(now(3600).civil),
        because: Some("a game night".into()),
        by: "anna".into(),
    }
}

/// A little life: entries that need what came before them.
fn story(round: u64) -> Vec<Vec<Entry>> {
    let id = round + 1;
    let progress = |event| Entry::Progress { id, event };
    let host = HostName::from("host3");
    let request = Request::Wake { host: host.clone(), ways: vec![] };
    vec![
        vec![lease("host3"), Entry::Frozen { host: "host2".into(), by: "anna".into() }],
        vec![
            Entry::Begun { id, purpose: Move::Wake(host.clone()), because: "anna".into() },
            progress(Event::Intended {
                request_id: id,
                request,
                at: now(1).civil,
                by_configured_votes: false,
            }),
        ],
        vec![progress(Event::Answered {
            request_id: id,
            answer: Answered::Sent { packets: 2, by: vec!["vmbr0".into()], but: vec![] },
        })],
        vec![
            Entry::HostCame { host: host.clone(), first_look: false, same_boot: false },
            progress(Event::Ended { stage: Stage::Done, because: "seen".into() }),
            Entry::LeaseEnded { host, why: "its time is over".into() },
            Entry::Thawed { host: "host2".into(), by: "anna".into() },
        ],
    ]
}

fn entries(journal: &Journal) -> Vec<Entry> {
    let all = journal.history(&Filter::default()).unwrap();
    all.into_iter().map(|kept| kept.entry).collect()
}

#[test]
fn what_was_noted_is_there_again_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state/journal.db");
    let mut books = Journal::open(&path, "home", "host1").unwrap();
    assert_eq!(books.authority().term(), 1);
    let started = Entry::Started {
        version: "0".into(),
        mode: "act".into(),
        holder: "host1".into(),
        term: books.authority().term(),
    };
    books.note(now(0), &[started, lease("host3")]).unwrap();
    let ledger = books.ledger().clone();
    drop(books);

    let again = Journal::open(&path, "home", "host1").unwrap();
    assert_eq!(*again.ledger(), ledger);
    assert_eq!(again.authority().term(), 2);
    assert_eq!(entries(again.journal()).len(), 2);
}

#[test]
fn a_second_service_is_told_who_has_the_journal() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.db");
    let _first = Journal::open(&path, "home", "host1").unwrap();
    let fault = Journal::open(&path, "home", "host1").map(|_| ()).unwrap_err();
    let me = std::process::id().to_string();
    assert!(matches!(&fault, Fault::Held { by: Some(pid), .. } if *pid == me));
    assert!(fault.to_string().starts_with("another spot (process "), "{fault}");
}

#[test]
fn a_reader_needs_no_lock_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.db");
    assert!(matches!(Journal::read_only(&path), Err(Fault::Absent { .. })));
    let mut books = Journal::open(&path, "home", "host1").unwrap();
    books.note(now(0), &[lease("host3")]).unwrap();
    let reader = Journal::read_only(&path).unwrap();
    assert_eq!(reader.cluster(), Some("home"));
    assert_eq!(reader.replay().unwrap(), *books.ledger());
    books.note(now(1), &[lease("host2")]).unwrap();
    assert_eq!(reader.replay().unwrap(), *books.ledger());
    drop(books);
    // The service is gone; what it left can still be read.
    assert_eq!(Journal::read_only(&path).unwrap().replay().unwrap().leases.len(), 2);
}

#[test]
fn a_journal_of_a_newer_spot_is_refused_with_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.db");
    drop(Journal::open(&path, "home", "host1").unwrap());
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 7).unwrap();
    let fault = Journal::open(&path, "home", "host1").map(|_| ()).unwrap_err();
    assert!(fault.to_string().contains("was written by a newer spot (schema 7"), "{fault}");
}

#[test]
fn what_is_not_a_journal_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("notes.txt");
    fs::write(&text, "buy milk ".repeat(100)).unwrap();
    let other = folder.path().join("other.db");
    Connection::open(&other).unwrap().execute_batch("CREATE TABLE milk (litres)").unwrap();
    for path in [&text, &other] {
        let before = fs::read(path).unwrap();
        let fault = Journal::open(path, "home", "host1").map(|_| ()).unwrap_err();
        assert!(matches!(fault, Fault::Foreign { .. }), "{fault}");
        assert_eq!(fs::read(path).unwrap().len(), before.len());
    }
}

#[test]
fn a_full_disk_is_said_and_nothing_is_half_written() {
    let folder = tempfile::tempdir().unwrap();
    let mut books = Journal::open(&folder.path().join("journal.db"), "home", "host1").unwrap();
    books.note(now(0), &[lease("host3")]).unwrap();
    let before = books.ledger().clone();
    let pages = books.journal.number("PRAGMA page_count").unwrap();
    let limit = |books: &Books, pages: i64| {
        books.journal.connection.pragma_update(None, "max_page_count", pages).unwrap();
    };
    limit(&books, pages);
    let many: Vec<Entry> = (0..200).map(|n| lease(&format!("host{n}"))).collect();
    let fault = books.note(now(1), &many).unwrap_err();
    assert!(matches!(fault, Fault::Full { .. }), "{fault:?}");
    assert_eq!(fault.remedy(), "free some space; a running spot goes on by itself");
    assert_eq!(*books.ledger(), before);
    // Space is there again: the next note reads the books anew and goes on.
    limit(&books, pages + 1000);
    books.note(now(2), &many).unwrap();
    assert_eq!(entries(&books.journal).len(), 201);
    assert_eq!(books.journal.replay().unwrap(), *books.ledger());
}

#[test]
fn a_folder_that_cannot_be_written_is_said() {
    // A file where the folder should be: even root cannot write below it.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state");
    fs::write(&file, "").unwrap();
    let fault = Journal::open(&file.join("journal.db"), "home", "host1").map(|_| ()).unwrap_err();
    assert!(matches!(fault, Fault::ReadOnly { .. }), "{fault}");
    assert!(fault.remedy().starts_with("make the state folder writable"));
}

#[test]
fn an_entry_that_cannot_follow_is_never_written() {
    let mut books = Journal::in_memory("home", "host1").unwrap();
    let ended = Event::Ended { stage: Stage::Done, because: "seen".into() };
    let orphan = Entry::Progress { id: 9, event: ended };
    assert!(matches!(books.note(now(0), &[orphan]), Err(Fault::Damaged { .. })));
    assert!(entries(&books.journal).is_empty());
}

/// fold(snapshot + tail) = fold(all), wherever the snapshot was taken.
#[test]
fn a_snapshot_and_what_follows_add_up_to_the_same_as_everything() {
    let mut books = Journal::in_memory("home", "host1").unwrap();
    let mut ledgers = vec![];
    for (round, second) in (0..3u64).zip((0..).step_by(10)) {
        for note in story(round) {
            books.note(now(second), &note).unwrap();
            ledgers.push((books.last_seq().unwrap(), books.ledger().clone()));
        }
    }
    let whole = books.journal.replay().unwrap();
    assert_eq!(whole, *books.ledger());
    for (seq, ledger) in ledgers {
        books.journal.connection.execute("DELETE FROM snapshots", []).unwrap();
        books.journal.snapshot(seq, now(99).civil, &ledger).unwrap();
        assert_eq!(books.journal.replay().unwrap(), whole, "snapshot at {seq}");
    }
}

#[test]
fn an_unreadable_snapshot_costs_nothing_but_time() {
    let mut books = Journal::in_memory("home", "host1").unwrap();
    for note in story(0) {
        books.note(now(0), &note).unwrap();
    }
    let text = "INSERT INTO snapshots VALUES (3, 0, '{\"half\": ')";
    books.journal.connection.execute(text, []).unwrap();
    assert_eq!(books.journal.replay().unwrap(), *books.ledger());
}

#[test]
fn a_missing_entry_is_damage_and_not_overlooked() {
    let mut books = Journal::in_memory("home", "host1").unwrap();
    for note in story(0) {
        books.note(now(0), &note).unwrap();
    }
    books.journal.connection.execute("DELETE FROM entries WHERE seq = 4", []).unwrap();
    let fault = books.reopen("host1").map(|_| ()).unwrap_err();
    assert!(fault.to_string().ends_with("is damaged: entry 4 is missing"), "{fault}");
}

#[test]
fn old_entries_go_only_when_they_are_both_old_and_many() {
    let mut books = Journal::in_memory("home", "host1").unwrap();
    let frozen = |n: u64| Entry::Frozen { host: "host2".into(), by: n.to_string() };
    for batch in 0..60 {
        let many: Vec<Entry> = (0..1_000).map(|n| frozen(batch * 1_000 + n)).collect();
        books.note(now(0), &many).unwrap();
    }
    let count = |books: &Books| books.journal.number("SELECT count(*) FROM entries").unwrap();
    assert_eq!(count(&books), 60_000, "many, but young");
    let old = now(0).plus(KEEP * 2);
    books.note(old, &(0..1_000).map(frozen).collect::<Vec<_>>()).unwrap();
    assert_eq!(count(&books), 50_000);
    assert_eq!(books.journal.replay().unwrap(), *books.ledger());
    assert_eq!(books.journal.number("SELECT count(*) FROM snapshots").unwrap(), 3);
}

#[test]
fn history_knows_whom_an_answer_is_about() {
    let mut books = Journal::in_memory("home", "host1").unwrap();
    for note in story(0) {
        books.note(now(5), &note).unwrap();
    }
    let of = |host: &str, limit| {
        let filter = Filter { host: Some(host.into()), since: Some(now(5).civil), limit };
        let kept = books.journal.history(&filter).unwrap();
        kept.into_iter().map(|kept| kept.kind).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        of("host3", None),
        "lease_granted begun progress progress host_came progress lease_ended"
    );
    assert_eq!(of("host3", Some(2)), "progress lease_ended");
    assert_eq!(of("host2", None), "frozen thawed");
    let late = Filter { since: Some(now(6).civil), ..Filter::default() };
    assert!(books.journal.history(&late).unwrap().is_empty());
}

/// The power goes at any byte of the write-ahead log: what opens then holds whole notes only, from
/// the first on, and the ledger adds up.
#[test]
fn a_power_cut_at_any_place_leaves_a_prefix_of_what_was_noted() {
    const HEADER: usize = 32;
    const FRAME: usize = 24 + 4096;

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.db");
    let mut books = Journal::open(&path, "home", "host1").unwrap();
    // Everything so far goes to the database itself, so that the log holds the story alone.
    let emptied: i64 = books
        .journal
        .connection
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
        .unwrap();
    assert_eq!(emptied, 0);
    let mut lengths = vec![0];
    for round in 0..2 {
        for note in story(round) {
            books.note(now(1), &note).unwrap();
            lengths.push(entries(&books.journal).len());
        }
    }
    let all = entries(&books.journal);
    let database = fs::read(&path).unwrap();
    let log = fs::read(folder.path().join("journal.db-wal")).unwrap();
    let frames = (log.len() - HEADER) / FRAME;
    let whole = (0..=frames).map(|frame| HEADER + frame * FRAME);
    let torn = (0..frames).flat_map(|frame| {
        let begins = HEADER + frame * FRAME;
        [begins + 7, begins + 24 + 1000, begins + FRAME - 1]
    });
    let mut seen = std::collections::BTreeSet::new();
    for length in whole.chain(torn).chain([0, HEADER - 1]) {
        let after = tempfile::tempdir().unwrap();
        let path = after.path().join("journal.db");
        fs::write(&path, &database).unwrap();
        fs::write(after.path().join("journal.db-wal"), &log[..length]).unwrap();
        let books = Journal::open(&path, "home", "host1")
            .unwrap_or_else(|fault| panic!("cut at {length}: {fault}"));
        let left = entries(&books.journal);
        assert_eq!(left, all[..left.len()], "cut at {length}");
        assert!(lengths.contains(&left.len()), "cut at {length}: half a note");
        seen.insert(left.len());
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), lengths, "every prefix was tried");
}

#[test]
fn a_journal_that_is_moved_away_under_us_takes_nothing_more() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.db");
    let mut books = Journal::open(&path, "home", "host1").unwrap();
    assert!(books.refresh().is_ok());
    std::fs::rename(&path, folder.path().join("elsewhere.db")).unwrap();
    assert!(matches!(books.refresh(), Err(Fault::Gone { .. })));
    std::fs::write(&path, "").unwrap();
    assert!(matches!(books.refresh(), Err(Fault::Gone { .. })), "another file of that name");
}
