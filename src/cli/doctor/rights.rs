//! What the token may do: each right that is missing, by path, with the lines that grant it; and
//! those it has and `spot` never uses.
//!
//! **Does not know:** which call of PVE needs which right.

use std::collections::{BTreeMap, BTreeSet};

use super::{Checks, Visit, answer, list};
use crate::cluster::{Answer, Permissions, Question, Tier};
use crate::policy::Otherwise;

pub(super) fn rights(visit: &Visit<'_>, checks: &mut Checks) {
    let how = "GET /access/permissions";
    match answer(&visit.seen, &Question::Permissions) {
        Some(Ok(Answer::Permissions(permissions))) => {
            missing(visit, permissions, checks);
            too_many(visit, permissions, checks);
        }
        Some(Err(why)) => {
            checks.by("rights", how).unknown(
                format!("what our token may do is not known: {why}"),
                "mend what is above first",
            );
        }
        Some(Ok(_)) | None => checks
            .by("rights", how)
            .unknown("no host said what our token may do", "mend what is above first"),
    }
}

/// What each path needs, and the lines that grant it.
fn missing(visit: &Visit<'_>, permissions: &Permissions, checks: &mut Checks) {
    let mut missing: BTreeMap<String, Vec<&'static str>> = BTreeMap::new();
    let mut need = |path: String, privilege: &'static str| {
        if !permissions.allow(&path, privilege) {
            missing.entry(path).or_default().push(privilege);
        }
    };
    for privilege in ["VM.Audit", "VM.Migrate", "VM.PowerMgmt"] {
        need("/vms".into(), privilege);
    }
    need("/".into(), "Sys.Audit");
    for (name, look) in visit.seen.hosts.iter().filter(|(_, look)| look.listed) {
        let path = format!("/nodes/{}", look.node);
        need(path.clone(), "Sys.Audit");
        if visit.tier(name).is_some_and(|tier| tier != Tier::Low) {
            need(path, "Sys.PowerMgmt");
        }
    }
    let hibernates = hibernating(visit);
    if !hibernates.is_empty() {
        need("/vms".into(), "VM.Config.Disk");
        if stores(visit).iter().all(|store| !permissions.allow(store, "Datastore.AllocateSpace")) {
            need("/storage/STORAGE".into(), "Datastore.AllocateSpace");
        }
    }
    for path in permissions.blind_spots() {
        missing.entry(path).or_insert_with(|| vec!["VM.Audit"]);
    }
    let mut by = checks.by("rights", "GET /access/permissions, against what the policies need");
    if missing.is_empty() {
        by.good("our token may do everything spot needs");
    }
    for (path, privileges) in missing {
        let needed_for = match privileges.contains(&"Datastore.AllocateSpace") {
            true => format!(" (to hibernate, as {} says)", list(&hibernates)),
            false => String::new(),
        };
        by.fault(
            format!("our token lacks {} on {path}{needed_for}", privileges.join(" ")),
            grant(&visit.config.access.token, &path, !hibernates.is_empty()),
        );
    }
}

/// The rules that put guests to sleep on disk, as the policies place them.
fn hibernating(visit: &Visit<'_>) -> Vec<String> {
    let rules = visit.policy.into_iter().flat_map(|policy| policy.guest_rules().iter().enumerate());
    rules
        .filter(|(_, rule)| matches!(rule.otherwise, Otherwise::Hibernate { .. }))
        .map(|(at, _)| format!("guests[{at}]"))
        .collect()
}

/// Storages a memory image could lie on, as paths; any of them may be the one.
fn stores(visit: &Visit<'_>) -> BTreeSet<String> {
    visit.seen.storages.iter().map(|store| format!("/storage/{}", store.name)).collect()
}

/// The lines that grant what a path needs, all of it: an entry on a deeper path replaces what the
/// path would inherit, so a role of its own for each kind of path.
fn grant(token: &str, path: &str, hibernates: bool) -> String {
    let (role, privileges) = match path.split('/').nth(1) {
        Some("vms") if hibernates => {
            ("SpotGuest", "VM.Audit,VM.Migrate,VM.PowerMgmt,VM.Config.Disk")
        }
        Some("vms") => ("SpotGuest", "VM.Audit,VM.Migrate,VM.PowerMgmt"),
        Some("nodes") => ("SpotNode", "Sys.Audit,Sys.PowerMgmt"),
        Some("storage") => ("SpotStore", "Datastore.Audit,Datastore.AllocateSpace"),
        Some(_) | None => ("SpotAudit", "Sys.Audit,VM.Audit,Datastore.Audit,Pool.Audit"),
    };
    let user = token.split('!').next().unwrap_or(token);
    // `modify` makes no role and `add` changes none, so both: whichever fits does it.
    format!(
        "on any host:\n    pveum role modify {role} --privs {privileges} || pveum role add {role} \
         --privs {privileges}\n    pveum acl modify {path} --roles {role} --users '{user}'\n    \
         pveum acl modify {path} --roles {role} --tokens '{token}'"
    )
}

/// Everything any feature of spot asks for.
const USED: [&str; 9] = [
    "Sys.Audit",
    "Sys.PowerMgmt",
    "VM.Audit",
    "VM.Migrate",
    "VM.PowerMgmt",
    "VM.Config.Disk",
    "Datastore.Audit",
    "Datastore.AllocateSpace",
    "Pool.Audit",
];

/// Rights nobody uses, and rights to power off what must never be: PVE's own refusal is the last
/// line of defence, so it is worth having.
fn too_many(visit: &Visit<'_>, permissions: &Permissions, checks: &mut Checks) {
    let mut by =
        checks.by("rights_unused", "GET /access/permissions, against all spot ever asks for");
    let all = permissions.by_path.values().flat_map(BTreeMap::keys);
    let unused: BTreeSet<&String> = all.filter(|one| !USED.contains(&one.as_str())).collect();
    let user = visit.config.access.token.split('!').next().unwrap_or_default();
    if !unused.is_empty() {
        let some: Vec<&str> = unused.iter().take(4).map(|one| one.as_str()).collect();
        let more = match unused.len().saturating_sub(some.len()) {
            0 => String::new(),
            many => format!(" and {many} more"),
        };
        by.warning(
            format!("our token may also {}{more}, which spot never uses", some.join(", ")),
            format!(
                "give spot a user of its own instead of {user}: the lines stand in the README and in \
                 deploy/rights.sh"
            ),
        );
    }
    let mut low = Vec::new();
    for (name, look) in visit.seen.hosts.iter().filter(|(_, look)| look.listed) {
        let may = permissions.allow(&format!("/nodes/{}", look.node), "Sys.PowerMgmt");
        if may && visit.tier(name) == Some(Tier::Low) {
            low.push((name, &look.node));
        }
    }
    let names: Vec<_> = low.iter().map(|(name, _)| name).collect();
    if let Some((_, node)) = low.first() {
        by.warning(
            format!(
                "our token may power off {}, which spot never does; without that right PVE itself \
                 would refuse it",
                list(&names)
            ),
            format!("pveum acl modify /nodes/{node} --roles SpotAudit --users '{user}'"),
        );
    }
    if unused.is_empty() && low.is_empty() {
        by.good("our token may do nothing that spot does not use");
    }
}
