//! The pretended cluster: PVE hosts, guests, votes and an API without any hardware, for the demo,
//! for `spot pretend` and for every test.
//!
//! It ships in the binary because a rehearsal is worth most where the owner can watch it, and it
//! imitates PVE's habits as recorded on real servers (`tests/recorded`), not its documentation.
//!
//! # The world file
//!
//! YAML, shared by the demo, `spot pretend` and the scenarios. Only the hosts' names are required;
//! an unknown key is refused.
//!
//! ```yaml
//! cluster: homelab
//! start: 2026-01-05T05:00:00Z      # the world's first instant
//! seed: 1
//! config_version: 5                # of corosync.conf
//! wait_for_all: false
//! link_megabytes_per_second: 110   # what migrations copy
//! hosts:
//!   - name: host3                  # `node:` where PVE calls it otherwise
//!     votes: 1
//!     mac: "a8:a1:59:00:00:03"     # `wol_password: "aa:bb:cc:dd:ee:ff"` for SecureOn
//!     address: 10.0.0.13
//!     version: "8.4.21"            # or 9.x: its API follows
//!     memory_gib: 32
//!     cores: 8
//!     boot_seconds: 75             # from power to membership
//!     api_seconds: 10              # from membership to an API that answers
//!     shutdown_seconds: 40         # from the request to power off, without guests
//!     report_seconds: 8            # what GET /nodes/host3/report takes
//!     state: off                   # or on
//!     always_on: false             # true: a power-off of it is a broken promise
//!     starts_with_power: false     # boots when the mains return
//! storages:
//!   - { name: shared, shared: true, kind: nfs, content: images, hosts: [host1], served_by: host1 }
//! guests:
//!   - vmid: 201
//!     kind: vm                     # or ct
//!     name: desktop
//!     host: host2
//!     state: running               # stopped, paused, hibernated
//!     memory_mib: 2048
//!     cores: 1
//!     disks: [{ storage: shared, gib: 8 }]
//!     onboot: false
//!     startup: { order: 1, up: 5, down: 60 }
//!     tags: [desktop]              # also pool, lock, protection, template
//!     hostpci: ["0000:01:00.0"]
//!     deaf: false                  # true: does not heed a shutdown
//!     shutdown_seconds: 15
//!     ha: started                  # managed by HA
//!     hidden: false                # true: no token sees it
//! qdevice: { algorithm: ffsplit, votes: 1, server: 10.0.0.9 }   # also lms, server_on, server_in
//! tokens:                          # root@pam!full with every right when left out
//!   - { id: "spot@pve!spot", secret: "…", rights: suffices }    # full, {by: {PATH: [PRIVILEGE]}}
//! backups:                         # entries of /cluster/backup, which run; schedules are in UTC
//!   - { id: nightly, schedule: "02:30", storage: shared, all: 1, lasts: 20m }
//! script:                          # what befalls the world; see `script::Event` for every event
//!   - { after: 2h, press: host3 }
//!   - { at: 2026-01-05T09:00:00Z, crash: host2 }
//!   - { after: 3h, answers: { host: host1, method: POST, times: 1, how: act_then_time_out } }
//!   - { after: 4h, answers: { path: /cluster/resources, how: { status: 596 } } }
//!   - { after: 5h, backup: { host: host2, guests: [203], for: 20m } }
//! ```
//!
//! **Does not know:** policies, plans, the gate, and how `cluster::quorum` counts: two counts that
//! agree by construction would prove nothing.

pub mod answer;
pub mod clock;
mod fate;
pub mod file;
pub mod guests;
pub mod iron;
mod jobs;
pub mod memory;
pub mod power;
pub mod rights;
pub mod script;
pub mod server;
pub mod tally;
pub mod task;
pub mod world;

pub use answer::{ApiRequest, ApiResponse, answer};
pub use clock::{LeapClock, Passing, ScaledClock, Wall};
pub use iron::{Iron, View};
pub use memory::{Log, MemoryTransport, MemoryWaker, RequestLine};
pub use power::{Door, Phase};
pub use script::{Event, Scripted, Weather, storm};
pub use server::{Serving, serve};
pub use tally::{Happening, Tally};
pub use world::{Shared, World};

/// The reference home, as a world file.
pub const REFERENCE: &str = include_str!("pretend/reference.yaml");

#[cfg(test)]
mod tests {
    use super::*;

    /// The example above is what people copy.
    #[test]
    fn the_documented_world_is_read() {
        let source = include_str!("pretend.rs");
        let example: String = source
            .lines()
            .skip_while(|line| *line != "//! ```yaml")
            .skip(1)
            .take_while(|line| *line != "//! ```")
            .map(|line| line.trim_start_matches("//! ").to_owned() + "\n")
            .collect();
        let hosts = "hosts:\n  - name: host1\n    votes: 3\n  - name: host2\n";
        let whole = example.replace("hosts:\n", hosts).replace("guests: [203]", "guests: [201]");
        let world = World::read(&whole).unwrap();
        assert_eq!(world.hosts().count(), 3);
    }

    #[test]
    fn a_faulty_world_says_where() {
        for (text, part) in [
            ("hosts: []", "no hosts"),
            ("hosts: [{name: a}, {name: a}]", "two hosts"),
            ("hosts: [{name: a, vote: 3}]", "hosts[0]"),
            ("hosts: [{name: a}]\nguests: [{vmid: 100, kind: vm, host: b}]", "`b`"),
            ("hosts: [{name: a}]\nscript: [{after: soon, press: a}]", "soon"),
            ("hosts: [{name: a}]\nscript: [{after: 5m, press: b}]", "`b`"),
            ("hosts: [{name: a}]\nscript: [{after: 5m, kick: a}]", "kick"),
            ("hosts: [", "not YAML"),
        ] {
            let error = World::read(text).err().expect(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
