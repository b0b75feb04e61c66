//! Advice for the homes there are, and the diff it comes with.

use super::super::conf::{NodeConf, QuorumConf};
use super::super::diff;
use super::*;

fn set(digits: &str) -> BTreeSet<HostName> {
    digits.chars().map(|digit| HostName(format!("host{digit}"))).collect()
}

/// `3/1/1`, awake sets such as `1` or `12`.
fn home(shape: &str, awake: &[&str], spare: u32) -> Home {
    let node = |(id, votes): (u32, &str)| {
        let name = HostName(format!("host{id}"));
        (id, NodeConf { name, votes: votes.parse().expect("a number") })
    };
    Home {
        conf: Conf { nodes: (1..).zip(shape.split('/')).map(node).collect(), ..Conf::default() },
        awake: awake.iter().map(|digits| set(digits)).collect(),
        spare,
        shared_storage: false,
        server_inside: None,
        server: None,
    }
}

fn change(remedy: &Remedy) -> &Change {
    match remedy {
        Remedy::Change(change) => change,
        Remedy::Nothing | Remedy::Impossible(_) => panic!("{remedy:?}"),
    }
}

fn shape(change: &Change) -> String {
    let votes = change.conf.nodes.values().map(|node| node.votes.to_string());
    votes.collect::<Vec<_>>().join("/")
}

#[test]
fn the_reference_home_needs_three_one_one() {
    let advice = advise(&home("1/1/1", &["1", "12", "123"], 0));
    assert_eq!(advice.awake, [set("1")]);
    assert_eq!(advice.failing, [set("1")]);
    let chosen = change(&advice.with_spare);
    assert_eq!((shape(chosen).as_str(), chosen.votes.len()), ("3/1/1", 1));
    // The other way is a QDevice, and its cost is said.
    let other = advice.other.expect("an odd cluster can have lms");
    assert_eq!(other.device, Some(DeviceSection { algorithm: Algorithm::Lms, votes: Some(2) }));
    assert!(other.cost.expect("told").contains("all 3 hosts must be up"));
    // As it is, nothing needs to change.
    assert_eq!(advise(&home("3/1/1", &["1"], 0)).with_spare, Remedy::Nothing);
}

#[test]
fn the_spare_is_kept_by_more_votes_and_told_beside() {
    let advice = advise(&home("3/1/1", &["1"], 1));
    assert_eq!(advice.without_spare, Remedy::Nothing);
    assert_eq!(advice.failing_with_spare, [set("1")]);
    assert_eq!(shape(change(&advice.with_spare)), "5/1/1");
}

#[test]
fn two_hosts_get_a_qdevice_that_splits_in_half() {
    let advice = advise(&home("1/1", &["1"], 0));
    let chosen = change(&advice.with_spare);
    assert_eq!(
        chosen.device,
        Some(DeviceSection { algorithm: Algorithm::Ffsplit, votes: Some(1) })
    );
    assert_eq!(shape(chosen), "1/1");
    assert_eq!(shape(&advice.other.expect("votes would do")), "2/1");
}

#[test]
fn half_of_four_hosts_keep_going_with_a_qdevice_and_one_alone_by_votes() {
    let half = advise(&home("1/1/1/1", &["12", "34"], 0));
    assert_eq!(change(&half.with_spare).device.map(|one| one.votes), Some(Some(1)));
    let one = advise(&home("1/1/1/1", &["1"], 0));
    assert_eq!(shape(change(&one.with_spare)), "4/1/1/1");
}

#[test]
fn hosts_that_take_turns_cannot_be_helped_by_votes() {
    let advice = advise(&home("1/1/1", &["1", "2"], 0));
    let chosen = change(&advice.with_spare);
    assert_eq!(chosen.device.map(|device| device.algorithm), Some(Algorithm::Lms));
    let nobody = advise(&home("1/1", &[""], 0));
    assert!(matches!(nobody.with_spare, Remedy::Impossible(_)));
}

/// Every advice for every small home does what it says, by the model.
#[test]
fn whatever_is_advised_lets_every_set_keep_its_quorum() {
    let mut advised = 0;
    for hosts in 1..=4u32 {
        for code in 0..3u32.pow(hosts) {
            let votes: Vec<String> =
                (0..hosts).map(|i| (code / 3u32.pow(i) % 3).to_string()).collect();
            for mask in 1..1u32 << hosts {
                let digits: String = (1..=hosts)
                    .filter(|n| mask >> (n - 1) & 1 == 1)
                    .map(|n| n.to_string())
                    .collect();
                for spare in 0..2 {
                    let home = home(&votes.join("/"), &[&digits], spare);
                    let advice = advise(&home);
                    let conf = match &advice.with_spare {
                        Remedy::Nothing => &home.conf,
                        Remedy::Change(change) => &change.conf,
                        Remedy::Impossible(_) => continue,
                    };
                    assert!(keeps(conf, &set(&digits), spare), "{votes:?} {digits} {spare}");
                    advised += 1;
                }
            }
        }
    }
    assert!(advised > 1000, "{advised}");
}

#[test]
fn every_trap_is_named() {
    let codes =
        |home: &Home| -> Vec<&str> { advise(home).warnings.iter().map(|w| w.code).collect() };
    let mut trap = home("3/1/1", &["1"], 0);
    assert!(codes(&trap).is_empty());
    trap.shared_storage = true;
    assert_eq!(codes(&trap), ["uneven-votes-shared-storage"]);
    trap.conf.device = Some(DeviceSection { algorithm: Algorithm::Lms, votes: None });
    trap.server_inside = Some("host2".into());
    assert_eq!(
        codes(&trap),
        ["uneven-votes-shared-storage", "odd-lms", "device-votes-unset", "qnetd-inside"]
    );
    trap.conf.device = Some(DeviceSection { algorithm: Algorithm::Ffsplit, votes: Some(1) });
    assert!(codes(&trap).contains(&"uneven-ffsplit"));
    trap.conf = Conf {
        quorum: QuorumConf { wait_for_all: Some(1), ..QuorumConf::default() },
        ..home("1/1/1", &["1"], 0).conf
    };
    assert!(codes(&trap).contains(&"wait-for-all"));
}

const FILE: &str = "logging {
  debug: off
}

nodelist {
  node {
    name: host1
    nodeid: 1
    quorum_votes: 1
    ring0_addr: 10.0.0.1
  }
  node {
    name: host2
    nodeid: 2
    ring0_addr: 10.0.0.2
  }
}

quorum {
  provider: corosync_votequorum
  two_node: 1
}

totem {
  cluster_name: home
  config_version: 7
  interface {
    linknumber: 0
  }
}
";

#[test]
fn a_diff_touches_only_what_changes_and_raises_the_version() {
    let votes = BTreeMap::from([(HostName::from("host1"), 3), (HostName::from("host2"), 1)]);
    let told = diff::diff(FILE, &votes, None).expect("it is sound");
    let expected = "--- /etc/pve/corosync.conf
+++ /etc/pve/corosync.conf.new
@@ -6,13 +6,14 @@
   node {
     name: host1
     nodeid: 1
-    quorum_votes: 1
+    quorum_votes: 3
     ring0_addr: 10.0.0.1
   }
   node {
     name: host2
     nodeid: 2
     ring0_addr: 10.0.0.2
+    quorum_votes: 1
   }
 }
 
@@ -23,7 +24,7 @@
 
 totem {
   cluster_name: home
-  config_version: 7
+  config_version: 8
   interface {
     linknumber: 0
   }
";
    assert_eq!(told, expected);
    let device = DeviceSection { algorithm: Algorithm::Ffsplit, votes: Some(1) };
    let told = diff::diff(FILE, &BTreeMap::new(), Some(device)).expect("it is sound");
    assert!(told.contains("+  device {\n+    model: net\n+    votes: 1\n"), "{told}");
    assert!(told.contains("-  two_node: 1\n"), "{told}");
}

#[test]
fn a_file_that_lacks_what_is_needed_says_so() {
    let votes = BTreeMap::from([(HostName::from("host9"), 3)]);
    assert!(diff::diff(FILE, &votes, None).unwrap_err().contains("host9"));
    assert!(diff::diff("quorum {\n}\n", &votes, None).unwrap_err().contains("totem"));
    assert!(diff::diff("quorum {\n", &votes, None).unwrap_err().contains("not closed"));
    assert!(diff::diff("}\n", &votes, None).is_err());
    assert!(diff::diff("", &votes, None).is_err());
}
