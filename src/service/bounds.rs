//! The bounds within which the gate may clear anything: plain data from policy, ledger and
//! settings.
//!
//! It asks the same questions as the planner and shares no line with it: a mistake would have to be
//! made twice, in two different ways, before a host that should run is powered off.
//!
//! **Does not know:** the plan.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::cluster::{GuestSeen, HostName, Observation, Question, Tier, Vmid};
use crate::gate::{Bounds, EvidenceKind};
use crate::ledger::{HostRecord, Ledger, Presence, Wants};
use crate::policy::{GuestRule, GuestTraits, Host, Inhibitor, OrElse, Otherwise, Policy, Serves};

use super::Settings;

/// Everything the gate may rely on beyond what is seen.
pub(super) fn bounds(
    policy: &Policy,
    seen: &Observation,
    ledger: &Ledger,
    settings: &Settings,
    now: Timestamp,
    clock_sound: bool,
) -> Bounds {
    let resting = |(host, record): (&HostName, &HostRecord)| {
        (record.presence == Presence::Resting).then(|| host.clone())
    };
    let leased = ledger.leases.keys();
    let commanded = leased.chain(ledger.emptying.keys()).chain(ledger.proving.keys());
    let parked = ledger.guests.iter().filter(|(_, record)| record.parked.is_some());
    Bounds {
        mode: settings.mode,
        spare: policy.quorum().spare,
        evidence: EvidenceKind::from(policy.quorum().evidence),
        may_rest: may_rest(policy, seen, ledger, now),
        may_stop_guests: guests_where(policy, seen, ledger, stops),
        may_hibernate_guests: guests_where(policy, seen, ledger, hibernates),
        may_restart_guests: guests_where(policy, seen, ledger, |rule| rule.restart),
        may_start_guests: parked.map(|(guest, _)| *guest).collect(),
        never: never(policy, seen),
        frozen: ledger.frozen.keys().cloned().collect(),
        tasks_ignored: ignoring(policy, Inhibitor::Tasks),
        backups_ignored: ignoring(policy, Inhibitor::Backups),
        locks_ignored: ignoring(policy, Inhibitor::Locks),
        commanded: commanded.cloned().collect(),
        here: settings.here.clone(),
        qnetd_on: qnetd_on(policy),
        known_off: ledger.hosts.iter().filter_map(resting).collect(),
        device_votes: ledger.device.map(|(_, votes, _)| votes),
        config_changed_at: ledger.config_changed,
        clock_sound,
    }
}

/// Hosts that may be powered off now, as far as their owner's wishes go.
fn may_rest(
    policy: &Policy,
    seen: &Observation,
    ledger: &Ledger,
    now: Timestamp,
) -> BTreeSet<HostName> {
    let backups = ledger.backups.runs(now);
    let jobs = seen.answers.get(&Question::BackupJobs);
    let jobs_known = jobs.is_some_and(|one| one.answer.is_ok());
    let may = |(name, host): (&HostName, &Host)| {
        let wanted = ledger.leases.get(name).map(|lease| lease.wants);
        let kept_on = wanted == Some(Wants::Awake)
            || ledger.emptying.contains_key(name)
            || ledger.frozen.contains_key(name)
            || host.tier == Tier::Low;
        let on_command = wanted == Some(Wants::Rest) || ledger.proving.contains_key(name);
        let record = ledger.host(name);
        let by_itself = policy.opening(name, now, &backups).is_none()
            && (jobs_known || policy.backups(name).next().is_none())
            && (record.ours() || host.enforce)
            && proven(host, &record);
        (!kept_on && (on_command || by_itself)).then(|| name.clone())
    };
    policy.hosts().iter().filter_map(may).collect()
}

/// Seen to wake by the very ways the policy names now, or vouched for by its owner and not found
/// wanting since.
pub(super) fn proven(host: &Host, record: &HostRecord) -> bool {
    match &record.proof {
        Some(print) => *print == host.wake_print(),
        None => host.wake.proven && record.unproven_because.is_none(),
    }
}

/// Guests for whose rule `may` holds, as far as it is certain which rule is theirs.
fn guests_where(
    policy: &Policy,
    seen: &Observation,
    ledger: &Ledger,
    may: fn(&GuestRule) -> bool,
) -> BTreeSet<Vmid> {
    let by_name = policy.guest_rules().iter().any(|rule| rule.matches.name.is_some());
    let ruled = |(vmid, guest): (&Vmid, &GuestSeen)| {
        let known = ledger.guests.get(vmid).and_then(|record| record.name.as_deref());
        let name = guest.name.as_deref().or(known);
        // A guest whose name is not known might fall to another rule: then to none.
        if name.is_none() && by_name {
            return None;
        }
        let traits = GuestTraits {
            vmid: *vmid,
            kind: guest.kind,
            name,
            tags: &guest.tags,
            pool: guest.pool.as_deref(),
        };
        policy.guest_rule(&traits).filter(|rule| may(rule)).map(|_| *vmid)
    };
    seen.guests.iter().filter_map(ruled).collect()
}

/// The owner lets it be shut down when it has nowhere to go.
fn stops(rule: &GuestRule) -> bool {
    match rule.otherwise {
        Otherwise::ShutDown | Otherwise::Hibernate { or: OrElse::ShutDown } => true,
        Otherwise::Hibernate { or: OrElse::Migrate | OrElse::KeepAwake }
        | Otherwise::Migrate
        | Otherwise::KeepAwake => false,
    }
}

/// The owner lets it be suspended to disk when it has nowhere to go.
fn hibernates(rule: &GuestRule) -> bool {
    match rule.otherwise {
        Otherwise::Hibernate { .. } => true,
        Otherwise::ShutDown | Otherwise::Migrate | Otherwise::KeepAwake => false,
    }
}

/// Hosts of tier low, and hosts that no policy names.
fn never(policy: &Policy, seen: &Observation) -> BTreeSet<HostName> {
    let low = policy.hosts().iter().filter(|(_, host)| host.tier == Tier::Low);
    let unnamed = seen.hosts.keys().filter(|host| policy.host(host).is_none());
    low.map(|(name, _)| name).chain(unnamed).cloned().collect()
}

/// Hosts whose owner switched an inhibitor off.
fn ignoring(policy: &Policy, inhibitor: Inhibitor) -> BTreeSet<HostName> {
    let off = |host: &Host| host.uninhibited.contains(&inhibitor);
    policy.hosts().iter().filter(|(_, host)| off(host)).map(|(name, _)| name.clone()).collect()
}

fn qnetd_on(policy: &Policy) -> BTreeSet<HostName> {
    let serves = |host: &Host| host.serves.contains(&Serves::Qnetd);
    policy.hosts().iter().filter(|(_, host)| serves(host)).map(|(name, _)| name.clone()).collect()
}
