//! Whether the policies that wait for PVE's backup jobs will ever open: a job must write to their
//! storage, and the token must be let to see it.
//!
//! **Does not know:** when a job runs.

use super::{Checks, Visit, answer};
use crate::cli::check::doubts;
use crate::cluster::{Answer, Question};

pub(super) fn backups(visit: &Visit<'_>, checks: &mut Checks) {
    let Some(policy) = visit.policy else { return };
    let waits = policy.rules().iter().any(|rule| rule.for_backups.is_some());
    if !waits {
        return;
    }
    let mut by = checks.by("backup_jobs", "GET /cluster/backup, against `for_backups`");
    match answer(&visit.seen, &Question::BackupJobs) {
        Some(Ok(Answer::BackupJobs(jobs))) => {
            let without = doubts::jobless(policy, &visit.seen);
            if without.is_empty() {
                let s = if jobs.len() == 1 { "" } else { "s" };
                by.good(format!("PVE shows its {} backup job{s} to our token", jobs.len()));
            }
            for one in without {
                by.warning(one.sentence, one.remedy);
            }
        }
        Some(Err(why)) => by.fault(
            format!(
                "PVE's backup jobs could not be seen, so no host wanted for them is put to sleep: \
                 {why}"
            ),
            "our token needs Sys.Audit on / to see them",
        ),
        Some(Ok(_)) | None => by.unknown("no host showed PVE's backup jobs in time", "try again"),
    }
}
