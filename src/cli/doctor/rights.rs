//! What the token may do: each right that is missing, by path, with the lines that grant it; and
//! those it has and `spot` never uses.
//!
//! **Does not know:** which right is for what; the table of `cluster::rights` does.

use std::collections::{BTreeMap, BTreeSet};

use super::{Checks, Visit, answer, list};
use crate::cluster::rights::{Home, Missing, ROLES, Role, grant};
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

/// Each right that is missing, path by path, with what it is for and the lines that grant it.
fn missing(visit: &Visit<'_>, permissions: &Permissions, checks: &mut Checks) {
    let home = home(visit);
    let mut by_path: BTreeMap<String, Vec<Missing>> = BTreeMap::new();
    for one in home.missing(permissions) {
        by_path.entry(one.path.clone()).or_default().push(one);
    }
    for path in permissions.blind_spots() {
        let what_for = "to see every guest: one that hides keeps its host awake";
        let hidden = Missing { path: path.clone(), privilege: "VM.Audit", what_for };
        by_path.entry(path).or_insert_with(|| vec![hidden]);
    }
    let mut by = checks.by("rights", "GET /access/permissions, against what the policies need");
    if by_path.is_empty() {
        by.good("our token may do everything spot needs");
    }
    for (path, missing) in by_path {
        let names: Vec<&str> = missing.iter().map(|one| one.privilege).collect();
        let mut uses: Vec<&str> = missing.iter().map(|one| one.what_for).collect();
        uses.dedup();
        by.fault(
            format!("our token lacks {} on {path} ({})", names.join(" "), uses.join("; ")),
            lines(&home, &visit.config.access.token, &path, &names),
        );
    }
}

/// What this home needs rights for.
fn home(visit: &Visit<'_>) -> Home {
    let mut home = Home::default();
    for (name, look) in visit.seen.hosts.iter().filter(|(_, look)| look.listed) {
        match visit.tier(name) {
            Some(Tier::Medium | Tier::High) => home.sleepers.push(look.node.clone()),
            Some(Tier::Low) | None => home.always_on.push(look.node.clone()),
        }
    }
    let hibernates = visit
        .policy
        .into_iter()
        .flat_map(|policy| policy.guest_rules())
        .any(|rule| matches!(rule.otherwise, Otherwise::Hibernate { .. }));
    // Any storage that can be seen may be the one that keeps the memory of guests.
    let stores: BTreeSet<&String> = visit.seen.storages.iter().map(|store| &store.name).collect();
    home.states = hibernates.then(|| stores.into_iter().cloned().collect());
    home
}

/// The lines that make the roles which hold `missing` and grant them on `path`.
fn lines(home: &Home, token: &str, path: &str, missing: &[&str]) -> String {
    let grants = home.grants();
    let holds = |role: &Role| role.privileges.iter().any(|(name, _)| missing.contains(name));
    let roles: Vec<&Role> = grants
        .iter()
        .filter(|(at, role)| at == path && holds(role))
        .map(|(_, role)| *role)
        .collect();
    if roles.is_empty() {
        // A path that no role of ours is granted on: somebody's own entry stands there.
        return grant(token, path, missing.first().copied().unwrap_or_default());
    }
    let user = token.split('!').next().unwrap_or(token);
    let mut out = "on any host (deploy/rights.sh does it for everything at once):".to_owned();
    for role in roles {
        let (name, list) = (role.name, role.list());
        // `modify` makes no role and `add` changes none, so whichever fits does it.
        out += &format!(
            "\n    pveum role modify {name} --privs {list} || pveum role add {name} --privs {list}\
             \n    pveum acl modify {path} --roles {name} --users '{user}'\
             \n    pveum acl modify {path} --roles {name} --tokens '{token}'"
        );
    }
    out
}

/// Rights nobody uses, and rights to power off what must never be: PVE's own refusal is the last
/// line of defence, so it is worth having.
fn too_many(visit: &Visit<'_>, permissions: &Permissions, checks: &mut Checks) {
    let mut by =
        checks.by("rights_unused", "GET /access/permissions, against all spot ever asks for");
    let used: BTreeSet<&str> =
        ROLES.iter().flat_map(|role| role.privileges).map(|(name, _)| *name).collect();
    let all = permissions.by_path.values().flat_map(BTreeMap::keys);
    let unused: BTreeSet<&String> = all.filter(|one| !used.contains(one.as_str())).collect();
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
                "give spot a user of its own instead of {user}: deploy/rights.sh makes it, with its \
                 token and its roles"
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
