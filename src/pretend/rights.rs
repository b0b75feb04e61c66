//! Tokens of the pretended cluster and what they may do.
//!
//! PVE's own rules: a right holds on a path and below it; a deeper entry *replaces* what it would
//! inherit; a token with rights of its own has the intersection of them and its user's.
//!
//! **Does not know:** which call needs which right.

use std::collections::{BTreeMap, BTreeSet};

use super::file::{RightsFile, TokenFile};
use super::task::Caller;
use super::world::World;

/// The token of worlds that name none.
pub const DEFAULT_TOKEN: &str = "root@pam!full";
/// Its secret: nothing worth hiding, for it opens nothing but a pretended cluster.
pub const DEFAULT_SECRET: &str = "00000000-0000-0000-0000-000000000000";

/// Every privilege there is (PVE 8.4, and what 9 has in place of `VM.Monitor`).
const EVERY_PRIVILEGE: [&str; 48] = [
    "Datastore.Allocate",
    "Datastore.AllocateSpace",
    "Datastore.AllocateTemplate",
    "Datastore.Audit",
    "Group.Allocate",
    "Mapping.Audit",
    "Mapping.Modify",
    "Mapping.Use",
    "Permissions.Modify",
    "Pool.Allocate",
    "Pool.Audit",
    "Realm.Allocate",
    "Realm.AllocateUser",
    "SDN.Allocate",
    "SDN.Audit",
    "SDN.Use",
    "Sys.AccessNetwork",
    "Sys.Audit",
    "Sys.Console",
    "Sys.Incoming",
    "Sys.Modify",
    "Sys.PowerMgmt",
    "Sys.Syslog",
    "User.Modify",
    "VM.Allocate",
    "VM.Audit",
    "VM.Backup",
    "VM.Clone",
    "VM.Config.CDROM",
    "VM.Config.CPU",
    "VM.Config.Cloudinit",
    "VM.Config.Disk",
    "VM.Config.HWType",
    "VM.Config.Memory",
    "VM.Config.Network",
    "VM.Config.Options",
    "VM.Console",
    "VM.Migrate",
    "VM.Monitor",
    "VM.PowerMgmt",
    "VM.Snapshot",
    "VM.Snapshot.Rollback",
    "VM.GuestAgent.Audit",
    "VM.GuestAgent.FileRead",
    "VM.GuestAgent.FileSystemMgmt",
    "VM.GuestAgent.FileWrite",
    "VM.GuestAgent.Unrestricted",
    "VM.Replicate",
];

/// Paths PVE lists even where nobody wrote an entry.
const WELL_KNOWN: [&str; 8] =
    ["/", "/access", "/access/groups", "/nodes", "/pool", "/sdn", "/storage", "/vms"];

/// Rights by path: privileges, and whether they reach deeper paths.
#[derive(Clone, Debug, Default)]
pub struct Rights(BTreeMap<String, (BTreeSet<String>, bool)>);

/// One API token.
#[derive(Clone, Debug)]
pub struct Token {
    pub id: String,
    pub secret: String,
    pub expired: bool,
    own: Rights,
    /// What its user may do, where that is asked as well.
    user: Option<Rights>,
}

impl Rights {
    fn read(file: &RightsFile) -> Rights {
        match file {
            RightsFile::Full => {
                let every = EVERY_PRIVILEGE.map(str::to_owned).into();
                Rights(BTreeMap::from([("/".to_owned(), (every, true))]))
            }
            RightsFile::Suffices => Rights::suffices(),
            RightsFile::By(paths) => Rights(
                paths
                    .iter()
                    .map(|(path, names)| (path.clone(), (names.iter().cloned().collect(), true)))
                    .collect(),
            ),
        }
    }

    /// The least that suffices for everything but hibernation, as tried on real servers.
    fn suffices() -> Rights {
        let entry = |path: &str, names: &[&str], deeper: bool| {
            let names: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
            (path.to_owned(), (names, deeper))
        };
        Rights(BTreeMap::from([
            entry("/", &["Sys.Audit"], false),
            entry("/nodes", &["Sys.Audit", "Sys.PowerMgmt"], true),
            entry("/vms", &["VM.Audit", "VM.Migrate", "VM.PowerMgmt"], true),
            entry("/storage", &["Datastore.Audit"], true),
        ]))
    }

    /// What holds on `path`: the deepest entry above it, if that reaches so far.
    fn on(&self, path: &str) -> BTreeMap<String, bool> {
        let entries = self.0.iter().filter(|(at, (_, deeper))| {
            path == at.as_str()
                || *deeper && (at.as_str() == "/" || path.starts_with(&format!("{at}/")))
        });
        entries
            .max_by_key(|(at, _)| at.len())
            .map(|(_, (names, deeper))| names.iter().map(|n| (n.clone(), *deeper)).collect())
            .unwrap_or_default()
    }
}

impl Token {
    pub(crate) fn all(files: &[TokenFile]) -> BTreeMap<String, Token> {
        let full = TokenFile {
            id: DEFAULT_TOKEN.into(),
            secret: DEFAULT_SECRET.into(),
            rights: RightsFile::Full,
            user_rights: None,
            expired: false,
        };
        let files = if files.is_empty() { std::slice::from_ref(&full) } else { files };
        let token = |file: &TokenFile| Token {
            id: file.id.clone(),
            secret: file.secret.clone(),
            expired: file.expired,
            own: Rights::read(&file.rights),
            user: file.user_rights.as_ref().map(Rights::read),
        };
        files.iter().map(|file| (file.id.clone(), token(file))).collect()
    }

    pub(crate) fn caller(&self) -> Caller {
        match self.id.split_once('!') {
            Some((user, token)) => Caller { user: user.into(), token: Some(token.into()) },
            None => Caller { user: self.id.clone(), token: None },
        }
    }

    /// Privilege → whether it reaches deeper, for one path.
    fn on(&self, path: &str) -> BTreeMap<String, bool> {
        let mut own = self.own.on(path);
        if let Some(user) = &self.user {
            let user = user.on(path);
            own.retain(|name, _| user.contains_key(name));
        }
        own
    }
}

impl World {
    /// The first token there is: the one tests and demos ask with.
    pub fn first_token(&self) -> Option<(&str, &str)> {
        self.tokens.values().next().map(|token| (token.id.as_str(), token.secret.as_str()))
    }

    /// What `token` may do on `path`; privileges PVE of this major version does not know are left
    /// out.
    pub(crate) fn rights_on(
        &self,
        token: &Token,
        path: &str,
        major: u32,
    ) -> BTreeMap<String, bool> {
        let hidden = path
            .strip_prefix("/vms/")
            .and_then(|vmid| vmid.parse().ok())
            .and_then(|vmid| self.guests.get(&crate::cluster::Vmid(vmid)))
            .is_some_and(|guest| guest.hidden);
        if hidden {
            return BTreeMap::new();
        }
        let mut rights = token.on(path);
        rights.retain(|name, _| match name.as_str() {
            "VM.Monitor" => major < 9,
            "VM.Replicate" => major >= 9,
            other => major >= 9 || !other.starts_with("VM.GuestAgent."),
        });
        rights
    }

    pub(crate) fn allows(&self, token: &Token, path: &str, privilege: &str) -> bool {
        self.rights_on(token, path, 0).contains_key(privilege) || {
            // Of the newer names only the version differs, never the grant.
            self.rights_on(token, path, 9).contains_key(privilege)
        }
    }

    /// Every path PVE lists for a token, with what holds there; paths without a right are left out.
    pub(crate) fn all_rights(
        &self,
        token: &Token,
        major: u32,
    ) -> BTreeMap<String, BTreeMap<String, bool>> {
        let mut paths: BTreeSet<String> =
            WELL_KNOWN.iter().map(|path| (*path).to_owned()).collect();
        // Paths somebody wrote an entry for are listed for everybody who has a right there.
        for other in self.tokens.values() {
            paths.extend(other.own.0.keys().cloned());
            paths.extend(other.user.iter().flat_map(|user| user.0.keys().cloned()));
        }
        let listed = paths.into_iter().map(|path| {
            let rights = self.rights_on(token, &path, major);
            (path, rights)
        });
        listed.filter(|(_, rights)| !rights.is_empty()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(world: &World) -> Token {
        world.tokens.values().next().expect("a token").clone()
    }

    #[test]
    fn a_deeper_entry_replaces_what_it_would_inherit() {
        let world = World::read(
            "hosts: [{name: a}]\ntokens: [{id: 'u@pve!t', secret: s, \
             rights: {by: {'/': [Sys.Audit], '/nodes/a': [Sys.PowerMgmt]}}}]",
        )
        .unwrap();
        let token = token(&world);
        assert!(world.allows(&token, "/nodes/b", "Sys.Audit"));
        assert!(!world.allows(&token, "/nodes/a", "Sys.Audit"));
        assert!(world.allows(&token, "/nodes/a", "Sys.PowerMgmt"));
        assert!(!world.allows(&token, "/nodesx", "Sys.PowerMgmt"));
    }

    #[test]
    fn what_suffices_does_not_reach_below_the_root() {
        let world = World::read(
            "hosts: [{name: a}]\ntokens: [{id: 'hand@pve!key', secret: s, rights: suffices}]",
        )
        .unwrap();
        let token = token(&world);
        assert!(world.allows(&token, "/", "Sys.Audit"));
        assert!(!world.allows(&token, "/pool", "Sys.Audit"));
        assert!(world.allows(&token, "/vms/100", "VM.Migrate"));
        let listed = world.all_rights(&token, 8);
        assert_eq!(listed.keys().collect::<Vec<_>>(), ["/", "/nodes", "/storage", "/vms"]);
        assert!(!listed["/"]["Sys.Audit"]);
    }
}
