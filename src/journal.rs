//! The journal on disk: entries appended, replayed, kept; and the [`Books`], which hold the journal
//! and the ledger it adds up to side by side.
//!
//! SQLite with a write-ahead log and `synchronous=FULL`: when `append` returns, the entries survive
//! a power cut, all of one append or none. That is what "intent on disk before the request" rests
//! on. One writer at a time (a lock file, which the kernel releases however a process ends);
//! readers need no lock. The [`Authority`] names who writes, and grows by one with each taking up,
//! so that every intent says who meant it.
//!
//! After a failed write nobody can tell whether it reached the disk, so the books are read again
//! from disk before anything more is written.
//!
//! **Does not know:** what entries mean to anybody; the ledger adds them up.

mod fault;

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use crate::cluster::{HostName, Moment, Vmid};
use crate::ledger::{Entry, Ledger};
use crate::undertaking::Event;

pub use fault::Fault;

/// "spot" in ASCII: a file with another mark is not ours.
const APPLICATION_ID: i32 = 0x7370_6f74;
/// The schema of this version. A journal with a higher number is refused, never guessed at.
const SCHEMA: i32 = 1;
/// A snapshot each so many entries: replaying them takes a few milliseconds.
const SNAPSHOT_EVERY: u64 = 1_000;
/// Older snapshots are kept as a second and third footing.
const SNAPSHOTS: u64 = 3;
/// Entries are kept at least so long …
const KEEP: Duration = Duration::from_secs(90 * 24 * 3600);
/// … and at least so many of them, whatever the clock says: about 15 MB.
const KEEP_ENTRIES: u64 = 50_000;
/// A reader may hold up a checkpoint for a moment, never a commit.
const BUSY: Duration = Duration::from_secs(2);
/// More past entries than this are not handed out at once.
const HISTORY: u32 = 10_000;

/// Who writes, and for the how-manieth time the journal was taken up. Every intent needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    holder: String,
    term: u64,
}

impl Authority {
    pub fn holder(&self) -> &str {
        &self.holder
    }

    pub fn term(&self) -> u64 {
        self.term
    }
}

/// An entry with its place in the journal.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    pub seq: u64,
    pub at: Timestamp,
    /// The clock that never steps, within its term.
    pub monotonic: Duration,
    pub cluster: String,
    pub term: u64,
    pub kind: String,
    /// What it is about, as the ledger knew it then.
    pub host: Option<HostName>,
    pub guest: Option<Vmid>,
    pub entry: Entry,
}

/// Which past entries are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub host: Option<HostName>,
    pub since: Option<Timestamp>,
    /// The newest so many.
    pub limit: Option<u32>,
}

/// One journal, open.
pub struct Journal {
    connection: Connection,
    /// Held as long as the journal is written; `None` for readers and in memory.
    lock: Option<File>,
    place: String,
    /// Which file it was when it was opened for writing.
    file: Option<(u64, u64)>,
    cluster: String,
}

/// Journal and ledger side by side: what was written, and what it adds up to.
pub struct Books {
    journal: Journal,
    authority: Authority,
    ledger: Ledger,
    /// A write failed: what is on disk is not known.
    stale: bool,
    /// Entries since somebody last took them.
    fresh: Vec<Kept>,
}

impl Journal {
    /// Takes up the journal at `path` for writing, or says who has it.
    pub fn open(path: &Path, cluster: &str, holder: &str) -> Result<Books, Fault> {
        let place = path.display().to_string();
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|fault| Fault::unwritable(&place, &fault))?;
        }
        let lock = lock(path)?;
        let connection = Connection::open(path).map_err(|fault| Fault::of(&place, fault))?;
        let (lock, cluster) = (Some(lock), cluster.to_owned());
        let mut journal = Journal { connection, lock, place, file: None, cluster };
        journal.prepare()?;
        journal.sound()?;
        journal.file = file_of(path);
        journal.take_up(holder)
    }

    /// A journal that ends with the process: for the demo and for tests.
    pub fn in_memory(cluster: &str, holder: &str) -> Result<Books, Fault> {
        let place = "memory".to_owned();
        let connection = Connection::open_in_memory().map_err(|fault| Fault::of(&place, fault))?;
        let cluster = cluster.to_owned();
        let journal = Journal { connection, lock: None, place, file: None, cluster };
        journal.prepare()?;
        journal.take_up(holder)
    }

    /// Opens for reading only: no lock, and nothing is changed.
    pub fn read_only(path: &Path) -> Result<Journal, Fault> {
        let place = path.display().to_string();
        if !path.exists() {
            return Err(Fault::Absent { place });
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection =
            Connection::open_with_flags(path, flags).map_err(|fault| Fault::of(&place, fault))?;
        let cluster = String::new();
        let mut journal = Journal { connection, lock: None, place, file: None, cluster };
        journal.connection.busy_timeout(BUSY).map_err(|fault| journal.fault(fault))?;
        journal.recognise()?;
        journal.cluster = journal
            .connection
            .query_row("SELECT cluster FROM entries ORDER BY seq DESC LIMIT 1", [], |row| {
                row.get(0)
            })
            .optional()
            .map_err(|fault| journal.fault(fault))?
            .unwrap_or_default();
        Ok(journal)
    }

    /// The cluster's name, as the newest entry has it.
    pub fn cluster(&self) -> Option<&str> {
        (!self.cluster.is_empty()).then_some(self.cluster.as_str())
    }

    fn fault(&self, fault: rusqlite::Error) -> Fault {
        Fault::of(&self.place, fault)
    }

    fn prepare(&self) -> Result<(), Fault> {
        let settle = || -> rusqlite::Result<()> {
            self.connection.busy_timeout(BUSY)?;
            self.connection.pragma_update(None, "journal_mode", "WAL")?;
            // NORMAL would lose the newest commits in a power cut: the intents.
            self.connection.pragma_update(None, "synchronous", "FULL")?;
            Ok(())
        };
        settle().map_err(|fault| self.fault(fault))?;
        self.recognise()?;
        self.migrate()
    }

    /// A file that was moved or deleted under us takes everything we write with it.
    fn still_there(&self) -> Result<(), Fault> {
        let Some(opened) = self.file else { return Ok(()) };
        match file_of(Path::new(&self.place)) {
            Some(found) if found == opened => Ok(()),
            Some(_) | None => Err(Fault::Gone { place: self.place.clone() }),
        }
    }

    /// A damaged page is found now and not in the middle of a night.
    fn sound(&self) -> Result<(), Fault> {
        let verdict: String = self
            .connection
            .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
            .map_err(|fault| self.fault(fault))?;
        match verdict.as_str() {
            "ok" => Ok(()),
            why => Err(Fault::Damaged { place: self.place.clone(), why: why.to_owned() }),
        }
    }

    /// Refuses what is not a journal of ours, or of a version to come.
    fn recognise(&self) -> Result<(), Fault> {
        let mark = self.number("PRAGMA application_id")?;
        let schema = self.number("PRAGMA user_version")?;
        let tables = self.number("SELECT count(*) FROM sqlite_schema")?;
        let place = || self.place.clone();
        match (mark, schema) {
            (0, 0) if tables == 0 => Ok(()),
            (mark, _) if mark != i64::from(APPLICATION_ID) => {
                Err(Fault::Foreign { place: place() })
            }
            (_, schema) if schema > i64::from(SCHEMA) => {
                Err(Fault::Newer { place: place(), found: schema, known: i64::from(SCHEMA) })
            }
            _ => Ok(()),
        }
    }

    fn number(&self, query: &str) -> Result<i64, Fault> {
        self.connection.query_row(query, [], |row| row.get(0)).map_err(|fault| self.fault(fault))
    }

    /// Brings an older schema up to this one; each step in one transaction.
    fn migrate(&self) -> Result<(), Fault> {
        if self.number("PRAGMA user_version")? == i64::from(SCHEMA) {
            return Ok(());
        }
        let first = format!(
            "BEGIN IMMEDIATE;
             CREATE TABLE entries (
                 seq INTEGER PRIMARY KEY,
                 at INTEGER NOT NULL,        -- nanoseconds since 1970, UTC
                 monotonic INTEGER NOT NULL, -- milliseconds since the term began
                 cluster TEXT NOT NULL,
                 term INTEGER NOT NULL,
                 kind TEXT NOT NULL,
                 host TEXT,
                 guest INTEGER,
                 entry TEXT NOT NULL         -- JSON
             ) STRICT;
             CREATE INDEX entries_by_host ON entries (host, seq);
             CREATE TABLE snapshots (
                 seq INTEGER PRIMARY KEY,    -- of the last entry it holds
                 at INTEGER NOT NULL,
                 ledger TEXT NOT NULL        -- JSON
             ) STRICT;
             PRAGMA application_id = {APPLICATION_ID};
             PRAGMA user_version = {SCHEMA};
             COMMIT;"
        );
        self.connection.execute_batch(&first).map_err(|fault| self.fault(fault))
    }

    fn take_up(self, holder: &str) -> Result<Books, Fault> {
        let ledger = self.replay()?;
        let authority = Authority { holder: holder.to_owned(), term: ledger.term + 1 };
        Ok(Books { journal: self, authority, ledger, stale: false, fresh: Vec::new() })
    }

    /// What all entries add up to: the newest readable snapshot, and everything after it.
    pub fn replay(&self) -> Result<Ledger, Fault> {
        let snapshots: Vec<(i64, String)> =
            self.rows("SELECT seq, ledger FROM snapshots ORDER BY seq DESC", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?;
        for (seq, text) in snapshots {
            // A snapshot that cannot be read is not the end: an older one and more entries do too.
            if let Ok(ledger) = serde_json::from_str(&text) {
                return self.replay_from(ledger, seq);
            }
        }
        self.replay_from(Ledger::default(), 0)
    }

    /// Folds every entry after `seq` into `ledger`.
    fn replay_from(&self, mut ledger: Ledger, seq: i64) -> Result<Ledger, Fault> {
        let rows: Vec<(i64, i64, String)> = self.rows(
            "SELECT seq, at, entry FROM entries WHERE seq > ?1 ORDER BY seq",
            [seq],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )?;
        for (expected, (seq, at, text)) in (seq + 1..).zip(rows) {
            if seq != expected {
                return Err(self.damaged(format!("entry {expected} is missing")));
            }
            let entry: Entry = serde_json::from_str(&text)
                .map_err(|fault| self.damaged(format!("entry {seq} cannot be read: {fault}")))?;
            ledger
                .take(instant(at), &entry)
                .map_err(|fault| self.damaged(format!("entry {seq} cannot follow: {fault}")))?;
        }
        Ok(ledger)
    }

    /// Past entries, the oldest first.
    pub fn history(&self, filter: &Filter) -> Result<Vec<Kept>, Fault> {
        let limit = filter.limit.unwrap_or(HISTORY).min(HISTORY);
        let host = filter.host.as_ref().map(|host| host.as_str().to_owned());
        let since = filter.since.map_or(i64::MIN, nanoseconds);
        let rows: Vec<Row> = self.rows(
            "SELECT seq, at, monotonic, cluster, term, kind, host, guest, entry FROM entries
             WHERE (?1 IS NULL OR host = ?1) AND at >= ?2 ORDER BY seq DESC LIMIT ?3",
            params![host, since, limit],
            Row::read,
        )?;
        rows.into_iter().rev().map(|row| row.kept(self)).collect()
    }

    fn rows<T>(
        &self,
        query: &str,
        parameters: impl rusqlite::Params,
        read: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, Fault> {
        let collect = || -> rusqlite::Result<Vec<T>> {
            let mut statement = self.connection.prepare_cached(query)?;
            statement.query_map(parameters, read)?.collect()
        };
        collect().map_err(|fault| self.fault(fault))
    }

    /// As if the disk refused every write, or took them again.
    #[cfg(test)]
    pub(crate) fn writable(&self, writable: bool) {
        self.connection.pragma_update(None, "query_only", !writable).expect("memory always obeys");
    }

    fn damaged(&self, why: String) -> Fault {
        Fault::Damaged { place: self.place.clone(), why }
    }

    /// Appends all of `drafts` or none; gives them back with their numbers.
    fn append(
        &mut self,
        authority: &Authority,
        now: Moment,
        drafts: &[Draft],
    ) -> Result<Vec<Kept>, Fault> {
        let at = nanoseconds(now.civil);
        let monotonic = i64::try_from(now.monotonic.as_millis()).unwrap_or(i64::MAX);
        let cluster = self.cluster.clone();
        let mut kept = Vec::with_capacity(drafts.len());
        let mut write = || -> rusqlite::Result<()> {
            let transaction = self
                .connection
                .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            {
                let mut insert = transaction.prepare_cached(
                    "INSERT INTO entries (at, monotonic, cluster, term, kind, host, guest, entry)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                )?;
                for draft in drafts {
                    let seq = insert.insert(params![
                        at,
                        monotonic,
                        cluster,
                        stored(authority.term),
                        draft.kind,
                        draft.host.as_ref().map(HostName::as_str),
                        draft.guest.map(|guest| guest.0),
                        draft.text,
                    ])?;
                    kept.push(Kept {
                        seq: u64::try_from(seq).unwrap_or(0),
                        at: now.civil,
                        monotonic: now.monotonic,
                        cluster: cluster.clone(),
                        term: authority.term,
                        kind: draft.kind.clone(),
                        host: draft.host.clone(),
                        guest: draft.guest,
                        entry: draft.entry.clone(),
                    });
                }
            }
            transaction.commit()
        };
        write().map_err(|fault| Fault::of(&self.place, fault))?;
        Ok(kept)
    }

    /// Writes a snapshot and lets go of entries that are both old and many.
    fn snapshot(&mut self, seq: u64, now: Timestamp, ledger: &Ledger) -> Result<(), Fault> {
        let text = serde_json::to_string(ledger).expect("a ledger is always JSON");
        let keep_since = nanoseconds(now - KEEP);
        let mut write = || -> rusqlite::Result<()> {
            let transaction = self.connection.transaction()?;
            transaction.execute(
                "INSERT OR REPLACE INTO snapshots (seq, at, ledger) VALUES (?1, ?2, ?3)",
                params![stored(seq), nanoseconds(now), text],
            )?;
            transaction.execute(
                "DELETE FROM snapshots WHERE seq NOT IN
                     (SELECT seq FROM snapshots ORDER BY seq DESC LIMIT ?1)",
                [stored(SNAPSHOTS)],
            )?;
            // Never an entry that the oldest kept snapshot still needs.
            transaction.execute(
                "DELETE FROM entries WHERE at < ?1 AND seq <= ?2
                     AND seq <= (SELECT min(seq) FROM snapshots)",
                params![keep_since, stored(seq.saturating_sub(KEEP_ENTRIES))],
            )?;
            transaction.commit()
        };
        write().map_err(|fault| Fault::of(&self.place, fault))
    }
}

impl Books {
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Journals `entries` and takes them into the ledger: all of them or none.
    ///
    /// When this fails, the caller must not act on them, nor on anything it derived from the ledger
    /// of before.
    pub fn note(&mut self, now: Moment, entries: &[Entry]) -> Result<(), Fault> {
        self.refresh()?;
        if entries.is_empty() {
            return Ok(());
        }
        let mut ledger = self.ledger.clone();
        let mut drafts = Vec::with_capacity(entries.len());
        for entry in entries {
            drafts.push(Draft::of(entry, &ledger));
            ledger
                .take(now.civil, entry)
                .map_err(|fault| self.journal.damaged(fault.to_string()))?;
        }
        let before = self.last_seq()?;
        match self.journal.append(&self.authority, now, &drafts) {
            Ok(kept) => {
                self.ledger = ledger;
                let last = kept.last().map_or(before, |kept| kept.seq);
                self.fresh.extend(kept);
                if before / SNAPSHOT_EVERY != last / SNAPSHOT_EVERY {
                    // Without it nothing is lost: replaying takes longer, and the next one is tried
                    // with the next thousand entries.
                    if let Err(fault) = self.journal.snapshot(last, now.civil, &self.ledger) {
                        tracing::warn!("no snapshot was written: {fault}");
                    }
                }
                Ok(())
            }
            Err(fault) => {
                self.stale = true;
                Err(fault)
            }
        }
    }

    /// After a failed write: reads the ledger from disk again.
    pub fn refresh(&mut self) -> Result<(), Fault> {
        self.journal.still_there()?;
        if self.stale {
            self.ledger = self.journal.replay()?;
            self.stale = false;
        }
        Ok(())
    }

    fn last_seq(&self) -> Result<u64, Fault> {
        let last = self.journal.number("SELECT coalesce(max(seq), 0) FROM entries")?;
        Ok(u64::try_from(last).unwrap_or(0))
    }

    /// What was journaled since this was last called.
    pub fn fresh(&mut self) -> Vec<Kept> {
        std::mem::take(&mut self.fresh)
    }

    /// Lets go of the journal and takes it up again, as after a restart.
    pub fn reopen(self, holder: &str) -> Result<Books, Fault> {
        self.journal.take_up(holder)
    }
}

/// An entry about to be written, with what it is about.
struct Draft {
    kind: String,
    host: Option<HostName>,
    guest: Option<Vmid>,
    text: String,
    entry: Entry,
}

impl Draft {
    fn of(entry: &Entry, ledger: &Ledger) -> Draft {
        let json = serde_json::to_value(entry).expect("an entry is always JSON");
        let word = |key: &str| json.get(key).and_then(|value| value.as_str());
        let own_host = word("host").or(word("to")).map(HostName::from);
        let own_guest = json.get("guest").and_then(serde_json::Value::as_u64);
        let own_guest = own_guest.and_then(|guest| u32::try_from(guest).ok()).map(Vmid);
        let (host, guest) = match entry {
            Entry::Begun { purpose, .. } => (Some(purpose.host().clone()), None),
            Entry::Refused { request, .. } => (Some(request.hosts()[0].clone()), request.guest()),
            Entry::Progress { id, event } => match (event, ledger.undertakings.get(id)) {
                (Event::Intended { request, .. }, _) => {
                    (Some(request.hosts()[0].clone()), request.guest())
                }
                (
                    Event::Answered { request_id, .. } | Event::Settled { request_id, .. },
                    Some(one),
                ) => {
                    let asked = one.in_flight.get(request_id);
                    let guest = asked.and_then(|asked| asked.request.guest());
                    (Some(one.purpose.host().clone()), guest)
                }
                (Event::Ended { .. }, Some(one)) => (Some(one.purpose.host().clone()), None),
                (_, None) => (None, None),
            },
            _ => (own_host, own_guest),
        };
        let kind = word("entry").expect("every entry names its kind").to_owned();
        Draft { kind, host, guest, text: json.to_string(), entry: entry.clone() }
    }
}

struct Row {
    seq: i64,
    at: i64,
    monotonic: i64,
    cluster: String,
    term: i64,
    kind: String,
    host: Option<String>,
    guest: Option<u32>,
    entry: String,
}

impl Row {
    fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
        Ok(Row {
            seq: row.get(0)?,
            at: row.get(1)?,
            monotonic: row.get(2)?,
            cluster: row.get(3)?,
            term: row.get(4)?,
            kind: row.get(5)?,
            host: row.get(6)?,
            guest: row.get(7)?,
            entry: row.get(8)?,
        })
    }

    fn kept(self, journal: &Journal) -> Result<Kept, Fault> {
        let entry = serde_json::from_str(&self.entry).map_err(|fault| {
            journal.damaged(format!("entry {} cannot be read: {fault}", self.seq))
        })?;
        Ok(Kept {
            seq: u64::try_from(self.seq).unwrap_or(0),
            at: instant(self.at),
            monotonic: Duration::from_millis(u64::try_from(self.monotonic).unwrap_or(0)),
            cluster: self.cluster,
            term: u64::try_from(self.term).unwrap_or(0),
            kind: self.kind,
            host: self.host.map(HostName),
            guest: self.guest.map(Vmid),
            entry,
        })
    }
}

/// SQLite's integers are signed; numbers of ours never come near the edge.
fn stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Good until the year 2262.
fn nanoseconds(at: Timestamp) -> i64 {
    i64::try_from(at.as_nanosecond()).unwrap_or(if at < Timestamp::UNIX_EPOCH {
        i64::MIN
    } else {
        i64::MAX
    })
}

fn instant(nanoseconds: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanoseconds)).expect("64 bits of nanoseconds fit")
}

/// Device and inode: the same path may be another file by now.
fn file_of(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// Takes the lock file beside the journal; the kernel lets go of it however we end.
fn lock(path: &Path) -> Result<File, Fault> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let lock_path = PathBuf::from(name);
    let place = path.display().to_string();
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&lock_path)
        .map_err(|fault| Fault::unwritable(&place, &fault))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut by = String::new();
            // Only for the sentence; an unreadable name is no name.
            let _unnamed = (&mut file).take(64).read_to_string(&mut by);
            let by = by.trim();
            return Err(Fault::Held { place, by: (!by.is_empty()).then(|| by.to_owned()) });
        }
        Err(TryLockError::Error(fault)) => return Err(Fault::unwritable(&place, &fault)),
    }
    let write = |file: &mut File| -> std::io::Result<()> {
        file.set_len(0)?;
        file.seek(SeekFrom::Start(0))?;
        write!(file, "{}", std::process::id())
    };
    write(&mut file).map_err(|fault| Fault::unwritable(&place, &fault))?;
    Ok(file)
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let writes = if self.lock.is_some() { "locked" } else { "unlocked" };
        write!(f, "Journal({}, {writes})", self.place)
    }
}

#[cfg(test)]
mod tests;
