//! `spot.yaml` says what it means, or is refused whole with every fault at its line.
//!
//! **Does not know:** what is done with it.

use std::fs;

use super::reading::KEYS;
use super::*;

const PIN: &str = "3A:41:0E:6D:52:9C:77:18:B0:F3:2D:64:AE:95:01:CC:\
                   8B:1F:E0:36:5A:D9:47:82:6E:13:FB:C4:90:2B:75:D8";

/// A folder with a token file and the given `spot.yaml`, read.
fn read(yaml: &str) -> Result<Config, Vec<String>> {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "token", "11111111-2222-3333-4444-555555555555\n", 0o600);
    write(folder.path(), "open", "secret\n", 0o644);
    write(folder.path(), "words", "the secret\n", 0o600);
    write(folder.path(), "whole", "spot@pve!spot=abc-def\n", 0o600);
    write(folder.path(), "empty", "\n", 0o600);
    write(folder.path(), "ca.pem", "-----BEGIN CERTIFICATE-----\n", 0o644);
    write(folder.path(), "spot.yaml", yaml, 0o644);
    let shown = format!("{}/", folder.path().display());
    Config::read(folder.path().join("spot.yaml"))
        .map_err(|faults| faults.iter().map(|fault| fault.replace(&shown, "")).collect())
}

fn write(folder: &Path, name: &str, text: &str, mode: u32) {
    fs::write(folder.join(name), text).unwrap();
    fs::set_permissions(folder.join(name), fs::Permissions::from_mode(mode)).unwrap();
}

/// The smallest file that is whole, with more lines at its end.
fn smallest(more: &str) -> String {
    format!(
        "hosts:\n  host1: {{ url: \"https://192.168.1.11:8006\", pins: [\"{PIN}\"] }}\n\
         token: {{ id: \"spot@pve!spot\", file: token }}\n{more}"
    )
}

#[test]
fn the_example_of_every_key_is_whole() {
    let example =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/spot.yaml")).unwrap();
    let config = read(&example).unwrap();
    assert_eq!((config.mode, &config.here), (Mode::Rehearse, &Here::Host("host1".into())));
    assert_eq!(config.hosts.len(), 3);
    // Also with everything that stands there as a comment, but for the other places of the secret.
    let all: String = example
        .lines()
        .map(|line| {
            let bare = line.trim_start_matches("# ");
            let key = bare.split([':', ' ']).next().unwrap_or("");
            let more = ["wake_only", "page", "checks", "notices", "dead_man"].contains(&key)
                || bare.starts_with("  ssh-sessions:")
                || bare.starts_with("  - { url")
                || line.starts_with("#   ");
            let line = if more && line.starts_with("# ") { &line[2..] } else { line };
            format!("{line}\n")
        })
        .collect();
    let config = read(&all).unwrap();
    assert_eq!(config.wake_only, ["127.0.0.1:40009".parse().unwrap()]);
    assert_eq!(config.page, Some("127.0.0.1:8010".parse().unwrap()));
    assert_eq!(config.checks["ssh-sessions"].within, Duration::from_secs(10));
    assert_eq!(config.notices[0].credential.as_deref(), Some("ntfy"));
    assert_eq!(config.dead_man.unwrap().every, Some(Duration::from_secs(60)));
    // Every key is named in the example.
    for key in KEYS {
        assert!(example.contains(&format!("{key}:")), "{key}");
    }
}

#[test]
fn what_is_left_out_is_the_careful_choice() {
    let config = read(&smallest("")).unwrap();
    assert_eq!(config.mode, Mode::Rehearse);
    assert_eq!(config.here, Here::Unknown);
    assert!(!config.clock_trusted && config.wake_only.is_empty());
    assert_eq!(config.state, Path::new("/var/lib/spot"));
    assert_eq!(config.socket, Path::new("/run/spot/spot.sock"));
}

#[test]
fn the_secret_is_shown_nowhere() {
    let config = read(&smallest("")).unwrap();
    assert_eq!(config.access.secret.reveal(), "11111111-2222-3333-4444-555555555555");
    assert!(!format!("{config:?}").contains("11111111"));
    let whole = read(&smallest("").replace("file: token", "file: whole")).unwrap();
    assert_eq!(whole.access.secret.reveal(), "abc-def");
}

#[test]
fn every_fault_has_its_line_and_its_remedy() {
    for (yaml, expected) in [
        (smallest("mode: on\n"), "spot.yaml:4: `mode` is `rehearse` or `act`, not `on`"),
        (
            smallest("modus: act\n"),
            "spot.yaml:4: spot.yaml has no key `modus`; did you mean `mode`?",
        ),
        (smallest("here: hots1\n"), "did you mean `host1`?"),
        (smallest("here: { vmid: x }\n"), "spot.yaml:4: `here.vmid` must be a VMID"),
        (smallest("wake_only: [localhost]\n"), "ADDRESS:PORT"),
        (smallest("wake_only: []\n"), "leave it out"),
        (smallest("state:\n"), "spot.yaml:4: `state` is empty"),
        (smallest("clock: yes\n"), "`check` or `trust`"),
        (smallest("policies: { git: x }\n"), "`policies` has no key `git`"),
        (smallest("checks: { a: { run: [ls] } }\n"), "full path"),
        (smallest("dead_man: { url: \"ftp://x\" }\n"), "https://"),
        (smallest("dead_man: { url: \"https://x\", every: soon }\n"), "10s or 5m"),
        (smallest("ca: nowhere.pem\n"), "nowhere.pem does not exist; copy PVE's"),
        (smallest("ca: token\n"), "holds no certificate"),
        (smallest("mode: act\nmode: act\n"), "spot.yaml:5: `mode` stands twice"),
        (
            smallest("").replace("pins", "pinz"),
            "host `host1` has no key `pinz`; did you mean `pins`?",
        ),
        (smallest("").replace(PIN, "AB:CD"), "is not a SHA-256 fingerprint"),
        (smallest("").replace(&format!(", pins: [\"{PIN}\"]"), ""), "cannot be judged"),
        (smallest("").replace("https://", "http://"), "must be https://ADDRESS:8006"),
        (smallest("").replace(":8006\"", ":8006/api2\""), "without a path"),
        (smallest("").replace("https://192", "https://root@192"), "must be https://ADDRESS:8006"),
        (smallest("").replace("host1:", "host_1:"), "no host's name"),
        (smallest("").replace("pins:", "node: localhost, pins:"), "no name that PVE gives a node"),
        (smallest("").replace("spot@pve!spot", "spot@pve"), "USER@REALM!NAME"),
        (smallest("").replace("file: token", "file: nowhere"), "nowhere does not exist"),
        (smallest("").replace("file: token", "file: open"), "chmod 600 open"),
        (smallest("").replace("file: token", "file: empty"), "is empty"),
        (smallest("").replace("file: token", "file: words"), "more than one word"),
        (smallest("").replace("file: token", "env: SPOT_NO_SUCH"), "holds no secret"),
        (smallest("").replace("file: token", "credential: \"../x\""), "no name of a credential"),
        (smallest("").replace("file: token", "credential: none"), "there is no credential `none`"),
        (smallest("").replace(", file: token", ""), "exactly one place"),
        (smallest("").replace("file: token", "file: token, env: X"), "exactly one place"),
        ("hosts: {}\n".into(), "`hosts` is empty"),
        ("- a\n".into(), "must be a mapping"),
        ("a: [\n".into(), "no YAML"),
        (String::new(), "`token` is missing"),
    ] {
        let faults = read(&yaml).unwrap_err();
        assert!(faults.iter().any(|f| f.contains(expected)), "{yaml}\n{faults:#?}");
        assert!(!faults.concat().contains("the secret\n"), "{faults:#?}");
    }
}

#[test]
fn all_faults_are_told_at_once_in_the_order_of_the_file() {
    let faults = read("hosts:\n  host1: { url: x }\ntoken: { id: y }\nmode: z\n").unwrap_err();
    let lines: Vec<&str> = faults.iter().map(|f| f.split(": ").next().unwrap()).collect();
    assert_eq!(lines, ["spot.yaml:2", "spot.yaml:2", "spot.yaml:3", "spot.yaml:3", "spot.yaml:4"]);
}

#[test]
fn two_names_for_one_host_are_refused() {
    let twice = smallest("").replace(
        "token:",
        &format!("  host2: {{ url: \"https://192.168.1.11\", node: host1, pins: {PIN} }}\ntoken:"),
    );
    let faults = read(&twice).unwrap_err().join("\n");
    assert!(faults.contains("host2 and host1 have the same URL"), "{faults}");
    assert!(faults.contains("host2 and host1 are the same node of PVE"), "{faults}");
}

#[test]
fn hosts_are_asked_in_the_order_of_the_file_and_here_first() {
    let yaml = format!(
        "hosts:\n  zeus: {{ url: \"https://10.0.0.9\" }}\n  host1: {{ url: \"https://10.0.0.1:8007\" }}\n\
         \x20 host2: {{ url: \"https://[fd00::2]:8006\", node: pve2, pins: \"{PIN}\" }}\n\
         ca: ca.pem\nhere: host2\ntoken: {{ id: \"spot@pve!spot\", file: token }}\n"
    );
    let config = read(&yaml).unwrap();
    let of_policy = BTreeMap::from([
        (HostName::from("host1"), "pve1".to_owned()),
        (HostName::from("host4"), "pve4".to_owned()),
    ]);
    let ends = config.endpoints(&of_policy);
    let prefer: Vec<&str> = ends.prefer.iter().map(HostName::as_str).collect();
    assert_eq!(prefer, ["host2", "zeus", "host1"]);
    let shown: Vec<String> =
        ends.hosts.iter().map(|(h, e)| format!("{h}={} {}", e.node, e.addressed)).collect();
    assert_eq!(shown, ["host1=pve1 true", "host2=pve2 true", "host4=pve4 false", "zeus=zeus true"]);
    let urls: Vec<&str> = config.access.doors.values().map(|door| door.url.as_str()).collect();
    assert_eq!(urls, ["https://10.0.0.1:8007", "https://[fd00::2]:8006", "https://10.0.0.9:8006"]);
}

#[test]
fn a_credential_of_systemd_may_show_its_access_list_and_a_file_of_ours_may_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pve-token");
    std::fs::write(&path, "the-secret").unwrap();
    for (mode, ours, systemds) in
        [(0o600, true, true), (0o440, false, true), (0o640, false, true), (0o604, false, false)]
    {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(secret_of(&path).is_ok(), ours, "{mode:o}");
        assert_eq!(guarded(&path, OTHERS).is_ok(), systemds, "{mode:o}");
    }
}
