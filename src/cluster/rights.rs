//! The rights `spot` needs in PVE: which, on what, and what for. This table is the only place.
//!
//! Each role is complete for the path it is granted on, because in PVE an entry on a deeper path
//! *replaces* what the path would inherit: a role on `/nodes/pve3` that lacks `Sys.Audit` takes it
//! away there. Nothing is here that nothing asks for, so that every right that is missing keeps
//! something from being done, and can be told with what it keeps.
//!
//! Hosts that are always on get no `Sys.PowerMgmt`: PVE itself then refuses to power them off,
//! whatever becomes of us. What hibernation needs stands apart, for most homes do without.
//!
//! **Does not know:** policies; who asks passes in the hosts that sleep.

use std::collections::BTreeMap;

use super::Permissions;

/// Where a role is granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// `/`, and everything below it that has no entry of its own.
    Everything,
    /// `/nodes/NODE` of each host that may be put to sleep.
    Sleepers,
    /// `/vms`.
    Guests,
    /// `/storage/STORAGE`, where the memory of hibernated guests is kept.
    States,
}

/// A role of ours in PVE.
#[derive(Debug, PartialEq, Eq)]
pub struct Role {
    pub name: &'static str,
    pub on: On,
    /// Each with what it is needed for: "to …".
    pub privileges: &'static [(&'static str, &'static str)],
    /// Needed only where guests are hibernated.
    pub hibernation: bool,
}

pub const ROLES: [Role; 5] = [
    Role {
        name: "SpotAudit",
        on: On::Everything,
        privileges: &[
            ("Sys.Audit", "to see hosts, votes, tasks and what each host reports of itself"),
            ("Datastore.Audit", "to see which storages a host can reach"),
        ],
        hibernation: false,
    },
    Role {
        name: "SpotNode",
        on: On::Sleepers,
        privileges: &[
            ("Sys.Audit", "to see what the host reports of itself"),
            ("Sys.PowerMgmt", "to power the host off, and to wake it by a relay"),
        ],
        hibernation: false,
    },
    Role {
        name: "SpotGuest",
        on: On::Guests,
        privileges: &[
            ("VM.Audit", "to see every guest: one that hides keeps its host awake"),
            ("VM.Migrate", "to move guests"),
            ("VM.PowerMgmt", "to shut guests down, to hibernate them and to start them again"),
        ],
        hibernation: false,
    },
    Role {
        name: "SpotHibernate",
        on: On::Guests,
        privileges: &[("VM.Config.Disk", "to hibernate guests")],
        hibernation: true,
    },
    Role {
        name: "SpotStore",
        on: On::States,
        privileges: &[
            ("Datastore.Audit", "to see which hosts can reach this storage"),
            ("Datastore.AllocateSpace", "to keep the memory of hibernated guests there"),
        ],
        hibernation: true,
    },
];

impl Role {
    /// As `pveum role add NAME --privs` takes them.
    pub fn list(&self) -> String {
        self.privileges.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(",")
    }
}

/// What a home needs rights for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Home {
    /// PVE's names of hosts that may be put to sleep, and of those that never are.
    pub sleepers: Vec<String>,
    pub always_on: Vec<String>,
    /// Storages where hibernated memory may be kept; `None` where nobody hibernates.
    pub states: Option<Vec<String>>,
}

impl Home {
    /// Path → role, as they are to be granted.
    pub fn grants(&self) -> Vec<(String, &'static Role)> {
        let roles = ROLES.iter().filter(|role| !role.hibernation || self.states.is_some());
        let each = |role: &'static Role| -> Vec<String> {
            match role.on {
                On::Everything => vec!["/".into()],
                On::Guests => vec!["/vms".into()],
                On::Sleepers => self.sleepers.iter().map(|at| format!("/nodes/{at}")).collect(),
                On::States => {
                    self.states.iter().flatten().map(|at| format!("/storage/{at}")).collect()
                }
            }
        };
        roles.flat_map(|role| each(role).into_iter().map(move |path| (path, role))).collect()
    }

    /// Every right that is missing: path, privilege, what for.
    pub fn missing(&self, permissions: &Permissions) -> Vec<Missing> {
        let mut missing: BTreeMap<(String, &'static str), &'static str> = BTreeMap::new();
        let mut need = |path: String, privilege: &'static str, what_for: &'static str| {
            if !permissions.allow(&path, privilege) {
                missing.insert((path, privilege), what_for);
            }
        };
        // An entry below a path replaces what stands above it, so those are looked at as well.
        let below = |top: &'static str| {
            let deeper = permissions.by_path.keys().filter(move |path| path.starts_with(top));
            deeper.cloned().collect::<Vec<String>>()
        };
        for (path, role) in self.grants() {
            for (privilege, what_for) in role.privileges {
                match (role.on, *privilege) {
                    (On::Everything, "Datastore.Audit") => {
                        need("/storage".into(), privilege, what_for);
                        below("/storage/").into_iter().for_each(|at| need(at, privilege, what_for));
                    }
                    (On::Everything, _) => {
                        need(path.clone(), privilege, what_for);
                        for node in &self.always_on {
                            need(format!("/nodes/{node}"), privilege, what_for);
                        }
                    }
                    (On::Guests, _) => {
                        need(path.clone(), privilege, what_for);
                        below("/vms/").into_iter().for_each(|at| need(at, privilege, what_for));
                    }
                    // One storage is enough, and whoever may write there is seen to see it.
                    (On::States, _) => {}
                    (On::Sleepers, _) => need(path.clone(), privilege, what_for),
                }
            }
        }
        if let Some(states) = &self.states {
            let (privilege, what_for) = ROLES[4].privileges[1];
            let paths: Vec<String> = states.iter().map(|at| format!("/storage/{at}")).collect();
            if let Some(first) = paths.first()
                && !paths.iter().any(|path| permissions.allow(path, privilege))
            {
                need(first.clone(), privilege, what_for);
            }
        }
        missing
            .into_iter()
            .map(|((path, privilege), what_for)| Missing { path, privilege, what_for })
            .collect()
    }
}

/// A right our token lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    pub path: String,
    pub privilege: &'static str,
    pub what_for: &'static str,
}

/// The role that holds `privilege` for `path`, and the path it is best granted on.
fn role_for<'a>(path: &'a str, privilege: &str) -> (&'static str, &'a str) {
    let on = match path.split('/').nth(1) {
        // A right on one guest is better granted for all, or the next guest is missing it again.
        Some("vms") => On::Guests,
        Some("nodes") => On::Sleepers,
        Some("storage") if path != "/storage" => On::States,
        Some(_) | None => On::Everything,
    };
    let at = match path {
        // Seeing storages is granted at the top, unless an entry below took it away.
        "/storage" => "/",
        _ if on == On::Guests => "/vms",
        _ => path,
    };
    let holds = |role: &&Role| role.privileges.iter().any(|(name, _)| *name == privilege);
    let fits = ROLES.iter().filter(holds);
    let role = fits.clone().find(|role| role.on == on).or_else(|| fits.clone().next());
    match role {
        Some(role) => (role.name, at),
        None => ("SpotAudit", at),
    }
}

/// The lines that grant `privilege` on `path` to `token` (`user@realm!name`).
pub fn grant(token: &str, path: &str, privilege: &str) -> String {
    let (role, at) = role_for(path, privilege);
    let user = token.split_once('!').map_or(token, |(user, _)| user);
    format!(
        "put it into a role (`pveum role modify {role} --append --privs {privilege}`) and grant it \
         with `pveum acl modify {at} --roles {role} --tokens '{token}'`, and the same with \
         `--users {user}`"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home() -> Home {
        Home {
            sleepers: vec!["pve2".into(), "pve3".into()],
            always_on: vec!["pve1".into()],
            states: Some(vec!["nas".into()]),
        }
    }

    /// What PVE shows of these grants, less the one that is taken away.
    fn shown(home: &Home, without: Option<(&str, &str)>) -> Permissions {
        let mut permissions = Permissions::default();
        for (path, role) in home.grants() {
            for (privilege, _) in role.privileges {
                if without != Some((&path, privilege)) {
                    let at = permissions.by_path.entry(path.clone()).or_default();
                    at.insert((*privilege).to_owned(), true);
                }
            }
        }
        // These two are listed whoever wrote an entry for them.
        for path in ["/nodes", "/storage"] {
            let inherited = permissions.by_path["/"].clone();
            permissions.by_path.insert(path.into(), inherited);
        }
        permissions
    }

    #[test]
    fn what_is_granted_is_all_that_is_needed_and_each_right_is_missed() {
        let home = home();
        assert_eq!(home.missing(&shown(&home, None)), []);
        for (path, role) in home.grants() {
            for (privilege, _) in role.privileges {
                let less = shown(&home, Some((&path, privilege)));
                let missing = home.missing(&less);
                let named = missing.iter().any(|one| one.privilege == *privilege);
                assert!(named, "{path} {privilege}: {missing:?}");
            }
        }
    }

    #[test]
    fn hosts_that_are_always_on_cannot_be_powered_off() {
        let home = home();
        let permissions = shown(&home, None);
        assert!(!permissions.allow("/nodes/pve1", "Sys.PowerMgmt"));
        assert!(permissions.allow("/nodes/pve1", "Sys.Audit"));
        assert!(permissions.allow("/nodes/pve3", "Sys.PowerMgmt"));
    }

    #[test]
    fn a_right_names_its_role_its_path_and_its_line() {
        for (path, privilege, line) in [
            (
                "/vms/100",
                "VM.Migrate",
                "acl modify /vms --roles SpotGuest --tokens 'spot@pve!spot'",
            ),
            ("/nodes/pve3", "Sys.PowerMgmt", "acl modify /nodes/pve3 --roles SpotNode"),
            ("/nodes/pve1", "Sys.Audit", "acl modify /nodes/pve1 --roles SpotNode"),
            ("/", "Sys.Audit", "acl modify / --roles SpotAudit"),
            ("/storage", "Datastore.Audit", "acl modify / --roles SpotAudit"),
            (
                "/storage/nas",
                "Datastore.AllocateSpace",
                "acl modify /storage/nas --roles SpotStore",
            ),
            ("/vms/100", "VM.Config.Disk", "acl modify /vms --roles SpotHibernate"),
            ("/pool/lab", "Pool.Audit", "acl modify /pool/lab --roles SpotAudit"),
        ] {
            let told = grant("spot@pve!spot", path, privilege);
            assert!(told.contains(line), "{told}");
            assert!(told.contains(&format!("--append --privs {privilege}")), "{told}");
        }
    }
}
