//! What can be wrong with the journal, each with its sentence and its remedy.
//!
//! **Does not know:** what the service does about it (nothing is done until it is mended).

use rusqlite::ErrorCode;

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("another spot{} uses the journal {place}", process(by.as_deref()))]
    Held { place: String, by: Option<String> },
    #[error("there is no journal {place}")]
    Absent { place: String },
    #[error("{place} was written by a newer spot (schema {found}; this one knows {known})")]
    Newer { place: String, found: i64, known: i64 },
    #[error("{place} is not a journal of spot")]
    Foreign { place: String },
    #[error("the disk with {place} is full")]
    Full {
        place: String,
        #[source]
        source: rusqlite::Error,
    },
    #[error("{place} cannot be written")]
    ReadOnly {
        place: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("{place} was moved or deleted while it was in use")]
    Gone { place: String },
    #[error("{place} is damaged: {why}")]
    Damaged { place: String, why: String },
    #[error("the journal {place} cannot be used")]
    Unusable {
        place: String,
        #[source]
        source: rusqlite::Error,
    },
}

fn process(pid: Option<&str>) -> String {
    pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
}

impl Fault {
    pub(super) fn of(place: &str, source: rusqlite::Error) -> Fault {
        let place = place.to_owned();
        match source.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Fault::Full { place, source },
            Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
                Fault::ReadOnly { place, source: Box::new(source) }
            }
            Some(ErrorCode::DatabaseCorrupt) => Fault::Damaged { place, why: source.to_string() },
            Some(ErrorCode::NotADatabase) => Fault::Foreign { place },
            Some(_) | None => Fault::Unusable { place, source },
        }
    }

    pub(super) fn unwritable(place: &str, fault: &std::io::Error) -> Fault {
        // The folder, the lock file or the database: all one to the owner.
        let source = std::io::Error::new(fault.kind(), fault.to_string());
        Fault::ReadOnly { place: place.to_owned(), source: Box::new(source) }
    }

    /// The sentence with its cause, for places that show one line.
    pub fn sentence(&self) -> String {
        match std::error::Error::source(self) {
            Some(source) => format!("{self}: {source}"),
            None => self.to_string(),
        }
    }

    /// What the owner can do.
    pub fn remedy(&self) -> String {
        match self {
            Fault::Held { .. } => {
                "stop the other one first: systemctl stop spot (or use the commands, which ask it)"
                    .into()
            }
            Fault::Absent { .. } => {
                "start the service once, or set `state:` in spot.yaml to its folder".into()
            }
            Fault::Newer { .. } => "install the newer spot again, or move the journal away".into(),
            Fault::Foreign { place } => {
                format!("set `state:` in spot.yaml to another folder, or move {place} away")
            }
            Fault::Gone { .. } => "put it back, or restart spot: it then begins a new journal".into(),
            Fault::Full { .. } => "free some space; a running spot goes on by itself".into(),
            Fault::ReadOnly { .. } => {
                "make the state folder writable for spot's user; a running spot then goes on by itself".into()
            }
            Fault::Damaged { place, .. } => format!(
                "stop spot, move {place} with its -wal and -shm files away and start it again: \
                 it then begins a new journal and learns anew what it sees"
            ),
            Fault::Unusable { .. } => {
                "look at the disk (journalctl -k); a running spot goes on by itself when it can write".into()
            }
        }
    }
}
