//! The example homes under `policies/` are promises: each is valid without a doubt, known to the
//! editor's schema, never asks for what its votes cannot give, and can be watched at work.
//!
//! **Does not know:** how any of it is done; the program is run from outside.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use spot::cluster::HostName;
use spot::policy::schema::schema;
use spot::policy::votes::{Votes, never_resting};
use spot::sources::read_folder;

/// Policies, and the world they are played on.
const HOMES: [(&str, &str); 3] = [
    ("policies", "src/cli/demo/world.yaml"),
    ("policies/qdevice", "policies/worlds/qdevice.yaml"),
    ("policies/five-hosts", "policies/worlds/five-hosts.yaml"),
];

fn below_root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn text(path: &str) -> String {
    std::fs::read_to_string(below_root(path)).expect("it can be read")
}

#[test]
fn every_home_is_valid_without_a_doubt() {
    for (policies, _) in HOMES {
        let reading = read_folder(&below_root(policies)).read();
        assert_eq!(reading.faults, [], "{policies}");
        assert!(reading.policy.is_some());
    }
}

#[test]
fn every_home_agrees_with_the_schema_and_names_it() {
    let validator = jsonschema::draft202012::new(&schema()).expect("it is a schema");
    for (policies, _) in HOMES {
        for file in read_folder(&below_root(policies)).files {
            let yaml: serde_yaml::Value = serde_yaml::from_str(&file.text).expect("it is YAML");
            let found = serde_json::to_value(yaml).expect("it has a JSON form");
            let faults: Vec<String> =
                validator.iter_errors(&found).map(|fault| fault.to_string()).collect();
            assert_eq!(faults, [""; 0], "{}", file.name);
            let first = file.text.lines().next().expect("it has a first line");
            let named = first.strip_prefix("# yaml-language-server: $schema=");
            let named = named.unwrap_or_else(|| panic!("{} names no schema", file.name));
            let beside = Path::new(&file.name).parent().expect("it lies in a folder").join(named);
            assert!(beside.exists(), "{} names {named}, which is not there", file.name);
        }
    }
}

/// `SPOT_BLESS=1 cargo test --test policies` writes it anew.
#[test]
fn the_schema_beside_the_policies_is_the_programs_own() {
    let output = Command::new(env!("CARGO_BIN_EXE_spot")).arg("schema").output();
    let printed = String::from_utf8(output.expect("it runs").stdout).expect("it is text");
    let place = below_root("policies/schema.json");
    if std::env::var_os("SPOT_BLESS").is_some() {
        std::fs::write(&place, &printed).expect("it can be written");
    }
    assert!(text("policies/schema.json") == printed, "policies/schema.json is not `spot schema`");
}

#[test]
fn no_home_asks_for_more_than_its_votes_can_give() {
    for (policies, world) in HOMES {
        let policy = read_folder(&below_root(policies)).read().policy.expect("it is valid");
        let world: serde_json::Value =
            serde_yaml::from_str(&text(world)).expect("a world of plain values");
        let hosts = world["hosts"].as_array().expect("it has hosts");
        let votes: BTreeMap<HostName, u32> = hosts
            .iter()
            .map(|host| {
                let name = HostName::new(host["name"].as_str().expect("a name"));
                (name, u32::try_from(host["votes"].as_u64().expect("votes")).expect("a few"))
            })
            .collect();
        let names: Vec<&HostName> = votes.keys().collect();
        assert_eq!(names, policy.hosts().keys().collect::<Vec<_>>(), "{policies}");
        let device = world["qdevice"]["votes"].as_u64().unwrap_or(0);
        let votes = Votes { hosts: votes, device: u32::try_from(device).expect("a few") };
        assert_eq!(never_resting(&policy, &votes), [], "{policies}");
    }
}

#[test]
fn every_home_can_be_watched_and_keeps_its_promises() {
    for (policies, world) in HOMES {
        let output = Command::new(env!("CARGO_BIN_EXE_spot"))
            .args(["demo", "--json", "--days", "1"])
            .args(["--policies".as_ref(), below_root(policies).as_os_str()])
            .args(["--world".as_ref(), below_root(world).as_os_str()])
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&output.stdout);
        let complaint = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().last().unwrap_or_default();
        assert!(output.status.success(), "{policies}: {complaint}{last}");
        let summary: serde_json::Value = serde_json::from_str(last).expect("the summary is JSON");
        assert_eq!(
            summary["summary"]["promises_broken"],
            serde_json::json!([]),
            "{policies}: {last}"
        );
        for asked in ["\"wake", "power"] {
            assert!(said.to_lowercase().contains(asked), "{policies}: no {asked} in the story");
        }
    }
}
