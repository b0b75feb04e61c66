//! PVE's own backup jobs, and the runs that come of them.
//!
//! PVE alone decides when a job runs and says so itself (`next-run`); its schedule is kept only to
//! be shown. Which storage a running backup writes to is in no list of PVE's, so a run is known by
//! when it began.
//!
//! **Does not know:** which hosts anybody wants awake for them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::HostName;

/// One entry of `/cluster/backup`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupJob {
    pub id: String,
    /// `None` where it writes to a folder of its host.
    pub storage: Option<String>,
    /// A calendar event of systemd, as PVE has it.
    pub schedule: String,
    /// Runs on this host alone; else on every host, for its own guests.
    pub node: Option<HostName>,
    pub enabled: bool,
    /// As PVE says; `None` for a job that is switched off.
    pub next_run: Option<Timestamp>,
}

/// One run of a backup job that writes to a storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupRun {
    pub storage: String,
    pub stage: BackupStage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackupStage {
    /// PVE will begin it then.
    Due(Timestamp),
    Running {
        since: Timestamp,
    },
    Ended {
        since: Timestamp,
        at: Timestamp,
    },
}
