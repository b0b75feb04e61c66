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

/// How often an answer is spoilt in all; each kind of answer gets its share.
const SPOILT: usize = 20_000;

type Fact = std::collections::BTreeSet<String>;

/// What judgement rests on, one line a fact; an error is no fact at all.
fn facts(name: &str, body: &[u8]) -> Result<Fact, String> {
    let lines = |lines: Vec<String>| lines.into_iter().collect::<Fact>();
    Ok(match name {
        name if name.contains("status") && !name.contains("node") => {
            let status = cluster_status(body)?;
            let of = |node: &NodeMember| format!("{} online {}", node.node, node.online);
            let mut facts: Vec<String> = status.nodes.iter().map(of).collect();
            facts.push(format!("quorate {}", status.quorate));
            lines(facts)
        }
        name if name.contains("resources") => {
            let guests = resources(body)?.guests;
            lines(guests.iter().map(|guest| format!("{} on {}", guest.vmid, guest.node)).collect())
        }
        name if name.contains("qemu") => {
            let of = |guest: &GuestEntry| format!("{}", guest.vmid);
            lines(guests(body)?.iter().map(of).collect())
        }
        name if name.contains("config-nodes") => {
            lines(configured_votes(body)?.iter().map(|(n, v)| format!("{n} {v}")).collect())
        }
        name if name.contains("permissions") => {
            let rights = permissions(body)?;
            let of = |(path, names): (&String, &BTreeMap<String, bool>)| {
                names.keys().map(|name| format!("{path} {name}")).collect::<Vec<_>>()
            };
            lines(rights.iter().flat_map(of).collect())
        }
        _ => {
            // No facts of these are compared; none of them may panic either.
            let _ = (tasks(body), task_status(body), uptime_seconds(body), guest_config(body));
            let _ = (storages_missing(body), precondition(body), backup_jobs(body), word(body));
            let _ = (upid(body), error_text(body), report(body));
            Fact::new()
        }
    })
}

/// Takes one value out of an answer or puts nonsense in its place; the key, where it was one.
fn spoil(value: &mut serde_json::Value, draw: &mut fastrand::Rng) -> Option<String> {
    use serde_json::{Value, json};
    let nonsense = [json!(null), json!({}), json!([]), json!(-1), json!(1e300), json!([[1]])];
    match value {
        Value::Object(map) if !map.is_empty() => {
            let nth = draw.usize(..map.len());
            let key = map.keys().nth(nth).expect("below its length").clone();
            let inside = map.get_mut(&key).expect("its own key");
            if (inside.is_object() || inside.is_array()) && draw.u8(..) > 20 {
                return spoil(inside, draw);
            }
            match draw.usize(..=nonsense.len()) {
                0 => drop(map.remove(&key)),
                nth => *inside = nonsense[nth - 1].clone(),
            }
            Some(key)
        }
        Value::Array(items) if !items.is_empty() => {
            let nth = draw.usize(..items.len());
            spoil(&mut items[nth], draw)
        }
        _ => None,
    }
}

/// Whatever is taken out of an answer or put into it: never a panic, and never a host, a guest or a
/// vote that reads otherwise or is silently not there. What is garbled is an error, and so a gap.
#[test]
fn a_spoilt_answer_is_a_gap_and_never_another_fact() {
    let folder = format!("{}/tests/recorded/client", env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|one| one.unwrap()).collect();
    files.retain(|file| file.file_name().to_string_lossy().ends_with(".json"));
    files.sort_by_key(std::fs::DirEntry::file_name);
    for (seed, file) in (1..).zip(&files) {
        let name = file.file_name().to_string_lossy().into_owned();
        let body = std::fs::read(file.path()).unwrap();
        let whole: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let honest = facts(&name, &body);
        let mut draw = fastrand::Rng::with_seed(seed);
        for _ in 0..SPOILT / files.len() / 2 {
            let mut bytes = body.clone();
            for _ in 0..draw.usize(1..4) {
                let at = draw.usize(..bytes.len());
                match draw.u8(..3) {
                    0 => bytes[at] = draw.u8(..),
                    1 => bytes.truncate(at.max(1)),
                    _ => bytes.insert(at, b"{}[]\"\\,:\x00\xff"[draw.usize(..10)]),
                }
            }
            let _ = facts(&name, &bytes);
            let mut spoilt = whole.clone();
            let key = spoil(&mut spoilt, &mut draw);
            let (Ok(honest), Ok(read)) = (&honest, facts(&name, spoilt.to_string().as_bytes()))
            else {
                continue;
            };
            let more: Vec<&String> = read.difference(honest).collect();
            let less = honest.difference(&read).count();
            // A right that cannot be read counts as not granted.
            let careful = more.is_empty() && (less == 0 || name.contains("permissions"));
            // A name or a number that reads as another is PVE's own word, garbled or not.
            let renamed =
                matches!(key.as_deref(), Some("name" | "vmid" | "node" | "type" | "data"));
            assert!(careful || renamed, "{name}, seed {seed}: {key:?}: {more:?} {less}\n{spoilt}");
        }
    }
}
