//! PVE's JSON in the forms it really comes in.
//!
//! **Does not know:** a whole answer; the site's tests read those.

use super::*;

#[test]
fn numbers_and_booleans_are_read_in_every_form_perl_gives_them() {
    let parse = |json: &str| serde_json::from_str::<Scalar>(json).unwrap();
    for (json, number, flag) in [
        ("1", Some(1), Some(true)),
        ("\"1\"", Some(1), Some(true)),
        ("1.0", Some(1), None),
        ("true", Some(1), Some(true)),
        ("false", Some(0), Some(false)),
        ("0", Some(0), Some(false)),
        ("\"\"", None, Some(false)),
        ("null", None, None),
        ("-1", None, None),
        ("\"3.0\"", Some(3), None),
        ("[1]", None, None),
        ("{\"a\":1}", None, None),
        ("1e300", None, None),
    ] {
        assert_eq!((parse(json).number(), parse(json).flag()), (number, flag), "{json}");
    }
}

#[test]
fn a_status_without_a_cluster_is_never_a_cluster_of_one() {
    let alone = br#"{"data":[{"type":"node","name":"pve1","nodeid":0,"online":1,"local":1}]}"#;
    assert!(cluster_status(alone).unwrap_err().contains("no cluster"));
    let garbled = br#"{"data":[{"type":"cluster","quorate":1},{"type":"node","name":"pve1"}]}"#;
    assert!(cluster_status(garbled).unwrap_err().contains("`online` of pve1"));
}

#[test]
fn strings_for_numbers_read_the_same() {
    let body = br#"{"data":[
        {"type":"lxc","id":"lxc/203","vmid":"203","node":"pve3","status":"unknown",
         "lock":"backup"},
        {"type":"pool","pool":"x","id":"/pool/x"},
        {"type":"storage","id":"storage/pve1/s","storage":"s","node":"pve1","shared":"1",
         "status":"available"}]}"#;
    let seen = resources(body).unwrap();
    assert_eq!(seen.guests[0].vmid, 203);
    assert!(seen.guests[0].container);
    assert_eq!(seen.guests[0].lock.as_deref(), Some("backup"));
    assert!(seen.storages[0].shared && seen.storages[0].available);
}

#[test]
fn a_mapped_device_travels_only_where_live_migration_is_marked() {
    let body = |running: u8, live: &str| {
        format!(
            r#"{{"data":{{"running":{running},"allowed_nodes":["pve2"],"local_disks":[],
            "local_resources":[],"mapped-resources":["hostpci0"],
            "mapped-resource-info":{{"hostpci0":{{"name":"gpu"{live}}}}}}}}}"#
        )
    };
    let holds = |running, live| {
        let devices = precondition(body(running, live).as_bytes()).unwrap().devices;
        assert!(devices.len() == 1 && devices[0].mapped && devices[0].key == "hostpci0");
        devices[0].holds
    };
    assert!(holds(1, ""));
    assert!(!holds(1, r#","live-migration":1"#));
    assert!(!holds(0, ""));
}

#[test]
fn containers_spell_their_precondition_with_dashes() {
    let body = br#"{"data":{"running":0,"allowed-nodes":["pve2"],"not-allowed-nodes":{}}}"#;
    assert_eq!(precondition(body).unwrap().allowed, Some(vec!["pve2".to_owned()]));
}

#[test]
fn an_error_tells_its_message_and_its_parameters() {
    let body = br#"{"data":null,"errors":{"target":"target is local node."},
        "message":"Parameter verification failed.\n"}"#;
    assert_eq!(
        error_text(body).unwrap(),
        "Parameter verification failed.; target: target is local node."
    );
    assert_eq!(error_text(b""), None);
}
