//! `spot doctor` from outside, on a pretended home in which much is amiss: each thing is found, with
//! how it was seen and the line that mends it.
//!
//! **Does not know:** anything that is not printed or exited with.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A storage on a host that sleeps, HA that stops its guests, a backup when nothing keeps its host
/// awake, votes that let nobody rest, an old version, a hardware address that is none.
const WORLD: &str = "
cluster: homelab
hosts:
  - { name: host1, votes: 1, mac: 'a8:a1:59:00:00:01', version: '8.1.4' }
  - { name: host2, votes: 1, mac: 'a8:a1:59:00:00:02', wakeonlan: 'a8:a1:59:00:00:22' }
storages:
  - { name: nas, shared: true, kind: nfs, served_by: host2 }
guests:
  - { vmid: 100, kind: vm, name: router, host: host1, disks: [{ storage: nas }], ha: started }
backups:
  - { id: nightly, schedule: '02:30', storage: nas, node: host2, enabled: 1, next-run: 1798770600 }
tokens:
  - { id: 'spot@pve!spot', secret: '11111111-2222-3333-4444-555555555555', rights: suffices }
";
const POLICY: &str = "
timezone: UTC
hosts:
  host1: { tier: low }
  host2: { tier: high, mac: 'a8:a1:59:00:00:0f' }
guests:
  - match: { any: true }
    prefer: [host2]
    otherwise: { hibernate: { else: keep-awake } }
";

fn spot() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spot"));
    command.env("NO_COLOR", "1").env("TZ", "UTC").env("COLUMNS", "1000");
    command
}

/// The pretended cluster and a `spot.yaml` for it.
struct Home {
    folder: TempDir,
    cluster: Child,
    config: String,
}

impl Home {
    fn new() -> Home {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("world.yaml"), WORLD).expect("written");
        fs::create_dir(folder.path().join("policies")).expect("made");
        fs::write(folder.path().join("policies/home.yaml"), POLICY).expect("written");
        let mut cluster = spot()
            .current_dir(folder.path())
            .args(["pretend", "--world", "world.yaml"])
            .args(["--listen", "127.0.0.1:0", "--magic", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let said = BufReader::new(cluster.stdout.take().expect("piped")).lines();
        let said = said.map_while(Result::ok).take_while(|line| !line.starts_with("serving until"));
        let config: Vec<String> = said.skip_while(|line| line != "hosts:").collect();
        let home = Home { folder, cluster, config: config.join("\n") + "\n" };
        home.configure(&home.config);
        home
    }

    fn configure(&self, config: &str) {
        fs::write(self.folder.path().join("spot.yaml"), config).expect("written");
    }

    fn doctor(&self, args: &[&str]) -> (i32, String) {
        let output = spot()
            .current_dir(self.folder.path())
            .env("SPOT_TOKEN", "11111111-2222-3333-4444-555555555555")
            .args(["--config", "spot.yaml", "doctor"])
            .args(args)
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code().unwrap_or(-1), said)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.cluster.kill();
        let _ = self.cluster.wait();
    }
}

fn shape() -> jsonschema::Validator {
    let shapes = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/shapes");
    let text = fs::read_to_string(shapes.join("doctor.schema.json")).expect("there");
    let schema: Value = serde_json::from_str(&text).expect("a schema is JSON");
    jsonschema::validator_for(&schema).expect("a schema")
}

#[test]
fn whatever_is_amiss_is_found_with_how_it_was_seen_and_what_mends_it() {
    let home = Home::new();
    let (code, out) = home.doctor(&["--json"]);
    assert_eq!(code, 1, "{out}");
    let document: Value = serde_json::from_str(&out).expect("JSON");
    assert!(shape().is_valid(&document), "{document:#}");
    let checks = document["checks"].as_array().expect("checks");
    for (code, state, sentence, remedy) in [
        ("version", "warning", "host1 runs PVE 8.1.4", "full-upgrade"),
        ("rights", "fault", "lacks VM.Config.Disk on /vms", "pveum acl modify /vms"),
        ("rights_unused", "warning", "may power off host1", "pveum acl modify /nodes/host1"),
        ("votes", "warning", "host2 can never rest", "spot quorum --advise"),
        ("wake_mac", "warning", "PVE would wake host2 at a8:a1:59:00:00:22", "--wakeonlan"),
        ("wake_mac", "fault", "host2 has no network card a8:a1:59:00:00:0f", "a8:a1:59:00:00:02"),
        ("wake_proven", "warning", "never seen to wake", "ethtool -s IFACE wol g"),
        ("ha", "warning", "manages vm:100", "shutdown_policy=migrate"),
        ("backups", "warning", "the backup nightly (`02:30`) needs host2", "for_backups"),
        ("serves", "fault", "the storage nas lives on host2", "serves: [{ storage: nas"),
    ] {
        let found = checks.iter().find(|one| {
            let holds =
                |key: &str, text: &str| one[key].as_str().is_some_and(|found| found.contains(text));
            one["code"] == code && holds("sentence", sentence) && holds("remedy", remedy)
        });
        let found = found.unwrap_or_else(|| panic!("{code}: {sentence}\n{document:#}"));
        assert_eq!(found["state"], state, "{found:#}");
        assert_ne!(found["how"], "", "{found:#}");
    }
}

#[test]
fn a_host_that_the_cluster_does_not_have_is_named() {
    let home = Home::new();
    let host1 = home.config.lines().find(|line| line.starts_with("  host1:")).expect("there");
    let host9 = host1.replace("host1:", "host9:").replace("127.0.0.1:", "127.0.0.2:");
    home.configure(&home.config.replace(host1, &format!("{host1}\n{host9}")));
    let (code, said) = home.doctor(&[]);
    assert!(code == 1 && said.contains("spot.yaml names host9, which is no node"), "{said}");
    assert!(said.contains("take host9 out of `hosts:`"), "{said}");
}
