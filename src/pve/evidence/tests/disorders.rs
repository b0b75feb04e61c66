//! States of the votes as corosync was measured to show them, read from the text of the reports and
//! recognised by name, each with the command that mends it.
//!
//! The figures are those of corosync 3.1.7 and corosync-qdevice 3.0.3 in the state that each line
//! names; the layout is that of the recorded reports.
//!
//! **Does not know:** what a power-off would do then.

use super::*;
use crate::cluster::quorum::disorder::{Disorder, recognise};

/// What one member shows.
#[derive(Clone)]
struct Shown {
    expected: u32,
    highest: u32,
    total: u32,
    quorum: u32,
    quorate: bool,
    flags: &'static str,
    ring: &'static str,
    /// Members by number with their votes and QDevice column.
    rows: Vec<(u32, u32, &'static str)>,
    /// Votes cast for this very member.
    device: Option<u32>,
    conf: String,
}

/// Hosts of these votes by the file, with the lines of its quorum section.
fn conf(votes: &[u32], quorum: &str) -> String {
    let node = |(id, votes): (usize, &u32)| {
        format!(
            "  node {{\n    name: pve{id}\n    nodeid: {id}\n    quorum_votes: {votes}\n    \
             ring0_addr: 10.99.0.1{id}\n  }}\n"
        )
    };
    let nodes: String = (1..).zip(votes).map(node).collect();
    format!(
        "nodelist {{\n{nodes}}}\n\nquorum {{\n{quorum}  provider: corosync_votequorum\n}}\n\n\
         totem {{\n  config_version: 7\n}}\n"
    )
}

const LMS: &str = "  device {\n    model: net\n    net {\n      algorithm: lms\n      host: 10.99.0.9\n    }\n  }\n";

/// Everybody up and well, nothing special.
fn well(votes: &[u32]) -> Shown {
    let all = votes.iter().sum();
    Shown {
        expected: all,
        highest: all,
        total: all,
        quorum: all / 2 + 1,
        quorate: true,
        flags: "Quorate",
        ring: "1.51",
        rows: (1..).zip(votes).map(|(id, votes)| (id, *votes, "")).collect(),
        device: None,
        conf: conf(votes, ""),
    }
}

/// 1/1/1 with a QDevice of 2 votes (lms, `votes` left out): E5 Q3.
fn with_device(columns: [&'static str; 3], cast: u32, flags: &'static str) -> Shown {
    let mut shown = well(&[1, 1, 1]);
    (shown.expected, shown.highest, shown.total, shown.quorum) = (5, 5, 3 + cast, 3);
    (shown.flags, shown.device) = (flags, Some(cast));
    shown.rows = (1..).zip(columns).map(|(id, column)| (id, 1, column)).collect();
    shown.conf = conf(&[1, 1, 1], LMS);
    shown
}

const ALIVE: &str = "A,V,NMW";
const MUTE: &str = "A,NV,NMW";

fn report(shown: &Shown, local: u32) -> String {
    let table = |hexadecimal: bool| {
        let column = if shown.device.is_some() { "    Qdevice" } else { "" };
        let mut out = format!(
            "\nMembership information\n----------------------\n    Nodeid      Votes{column} Name\n"
        );
        let number = |id: u32| match hexadecimal {
            true => format!("0x{id:08x}"),
            false => format!("{id:>10}"),
        };
        for (id, votes, device) in &shown.rows {
            let device = shown.device.map_or(String::new(), |_| format!(" {device:>10}"));
            let name = if hexadecimal { format!("10.99.0.1{id}") } else { format!("pve{id}") };
            let mark = if *id == local { " (local)" } else { "" };
            out += &format!("{} {votes:>10}{device} {name}{mark}\n", number(*id));
        }
        if let Some(cast) = shown.device {
            let note = if cast == 0 { " (votes 2)" } else { "" };
            out += &format!("{} {cast:>10}            Qdevice{note}\n", number(0));
        }
        out
    };
    format!(
        "==== info about virtual guests ====\n\n# qm list\n\n# pct list\n\n\
         ==== info about cluster ====\n\n# pvecm nodes\n{}\n# pvecm status\n\
         Quorum information\n------------------\nQuorum provider:  corosync_votequorum\n\
         Nodes:            {}\nNode ID:          0x{local:08x}\nRing ID:          {}\n\
         Quorate:          {}\n\nVotequorum information\n----------------------\n\
         Expected votes:   {}\nHighest expected: {}\nTotal votes:      {}\n\
         Quorum:           {} {}\nFlags:            {} \n{}\n\
         # cat /etc/pve/corosync.conf 2>/dev/null\n{}\n# ha-manager status\nquorum OK\n",
        table(false),
        shown.rows.len(),
        shown.ring,
        if shown.quorate { "Yes" } else { "No" },
        shown.expected,
        shown.highest,
        shown.total,
        shown.quorum,
        if shown.quorate { " " } else { "Activity blocked" },
        shown.flags,
        table(true),
        shown.conf,
    )
}

/// What is recognised when every member shows `all`, but for those that show something else.
fn recognised(all: &Shown, but: &[(u32, Shown)]) -> Vec<Disorder> {
    let mut read_all = BTreeMap::new();
    for (id, _, _) in &all.rows {
        let own = but.iter().find(|(other, _)| other == id).map_or(all, |(_, shown)| shown);
        let text = report(own, *id);
        let node = format!("pve{id}");
        let view = read(&text, &node, host).unwrap_or_else(|why| panic!("{why}\n{text}"));
        read_all.insert(host(&node), view);
    }
    views(&read_all)
}

fn views(all: &BTreeMap<HostName, Evidence>) -> Vec<Disorder> {
    let views = all.iter().map(|(host, view)| (host.clone(), view)).collect();
    recognise(&views, &|host| host.as_str().replace("host", "pve"))
}

fn changed(shown: &Shown, change: impl FnOnce(&mut Shown)) -> Shown {
    let mut shown = shown.clone();
    change(&mut shown);
    shown
}

/// Checks codes in order, a part of the first sentence, and a part of its remedy.
fn assert_disorders(found: &[Disorder], codes: &[&str], sentence: &str, command: &str) {
    let shown: Vec<&str> = found.iter().map(Disorder::code).collect();
    assert_eq!(shown, codes, "{found:?}");
    let first = found.first().expect("a disorder");
    assert!(first.to_string().contains(sentence), "{first}");
    assert!(first.remedy().contains(command), "{}", first.remedy());
}

#[test]
fn what_is_in_order_is_not_doubted() {
    for votes in [&[1, 1, 1][..], &[3, 1, 1], &[1, 1], &[1, 1, 0], &[4, 3, 2, 1]] {
        assert_eq!(recognised(&well(votes), &[]), [], "{votes:?}");
    }
    assert_eq!(recognised(&with_device([ALIVE; 3], 2, "Quorate Qdevice"), &[]), []);
    // `quorum.expected_votes` below the sum is where a cold boot starts, and it grows.
    let low = changed(&well(&[3, 1, 1]), |s| {
        s.conf = conf(&[3, 1, 1], "  expected_votes: 3\n");
        (s.expected, s.highest, s.total, s.quorum, s.rows) = (3, 3, 3, 2, vec![(1, 3, "")]);
    });
    assert_eq!(recognised(&low, &[]), []);
    // `votes` of a device written out are learned: after a cold boot one expects less.
    let learned = changed(&with_device([ALIVE, "", ""], 2, "Quorate Qdevice"), |s| {
        s.rows.truncate(1);
        (s.expected, s.highest, s.total, s.quorum) = (3, 3, 3, 2);
        s.conf = conf(&[1, 1, 1], &LMS.replacen("    model", "    votes: 2\n    model", 1));
    });
    assert_eq!(recognised(&learned, &[]), []);
}

#[test]
fn pvecm_expected_is_recognised_while_it_is_in_force() {
    // Five hosts of one vote, three up, `pvecm expected 3`, then one of them left: V2 Q2 quorate.
    let lowered = changed(&well(&[1; 5]), |s| {
        s.rows.truncate(2);
        (s.expected, s.highest, s.total, s.quorum) = (3, 3, 2, 2);
    });
    assert_disorders(
        &recognised(&lowered, &[]),
        &["expected_lowered"],
        "host1 expects 3 votes and corosync.conf has 5: `pvecm expected` is in force",
        "`pvecm expected 5`",
    );
    // After `pvecm expected 5` on 1/1/1 everybody needs three.
    let raised = changed(&well(&[1; 3]), |s| (s.expected, s.highest, s.quorum) = (5, 5, 3));
    assert_disorders(
        &recognised(&raised, &[]),
        &["expected_raised"],
        "expects 5 votes and corosync.conf has 3",
        "`pvecm expected 3`",
    );
    // And a rebooted third host keeps its file's figure, in the same partition.
    let rebooted = changed(&well(&[1; 3]), |s| s.highest = 5);
    assert_disorders(
        &recognised(&raised, &[(3, rebooted)]),
        &["expected_disagrees", "expected_raised"],
        "host3 expects 3 votes and host1 expects 5",
        "`pvecm expected 3`",
    );
    // 3/1/1: host2 alone had `pvecm expected 1`, then host1 joined: E5 there, E4 here.
    let host1 = changed(&well(&[3, 1, 1]), |s| {
        s.rows.truncate(2);
        s.total = 4;
    });
    let host2 = changed(&host1, |s| s.expected = 4);
    assert_disorders(
        &recognised(&host1, &[(2, host2)]),
        &["expected_disagrees", "expected_lowered"],
        "host2 expects 4 votes and host1 expects 5",
        "`pvecm expected 5`",
    );
    // A real server on which it was typed.
    let read = evidence("9.2-lone-node-expected-1-2", "pve1");
    assert_disorders(
        &views(&BTreeMap::from([(host("pve1"), read)])),
        &["expected_lowered"],
        "host1 expects 1 vote and corosync.conf has 3",
        "`pvecm expected 3`",
    );
}

#[test]
fn an_edit_that_was_not_taken_over_is_recognised() {
    let edited = changed(&well(&[1; 3]), |s| s.conf = conf(&[3, 1, 1], ""));
    assert_disorders(
        &recognised(&edited, &[]),
        &["votes_not_reloaded", "expected_lowered"],
        "host1 counts 1 vote and corosync.conf says 3",
        "`corosync-cfgtool -R`",
    );
    let device_added = changed(&well(&[1; 3]), |s| s.conf = conf(&[1; 3], LMS));
    assert_disorders(
        &recognised(&device_added, &[]),
        &["qdevice_not_reloaded"],
        "a QDevice at 10.99.0.9, and the running corosync does not know it",
        "`corosync-cfgtool -R`",
    );
    let device_removed = changed(&with_device([ALIVE; 3], 2, "Quorate Qdevice"), |s| {
        s.conf = conf(&[1; 3], "");
    });
    assert_disorders(
        &recognised(&device_removed, &[]),
        &["qdevice_still_counted", "expected_raised"],
        "host1 still counts a QDevice",
        "`systemctl stop corosync-qdevice`",
    );
    let votes = LMS.replacen("    model", "    votes: 4\n    model", 1);
    let device_votes = changed(&with_device([ALIVE; 3], 2, "Quorate Qdevice"), |s| {
        s.conf = conf(&[1; 3], &votes);
    });
    assert_disorders(
        &recognised(&device_votes, &[]),
        &["qdevice_votes_not_reloaded"],
        "casts 2 votes and corosync.conf says 4",
        "`corosync-cfgtool -R`",
    );
    // -R does not apply wait_for_all: a real server after such an edit.
    let read = evidence("9.2-wait-for-all", "pve1");
    assert_disorders(
        &views(&BTreeMap::from([(host("pve1"), read)])),
        &["flag_not_in_force"],
        "wait_for_all, which is not in force on host1",
        "`systemctl restart corosync` on host1",
    );
}

#[test]
fn a_qdevice_that_does_not_vote_is_told_by_its_cause() {
    // The server is dead, the daemons run: E5 V3 Q3, as long as all three are up.
    let dead = with_device([MUTE; 3], 0, "Quorate Qdevice");
    assert_disorders(
        &recognised(&dead, &[]),
        &["qdevice_dead"],
        "the QDevice's server at 10.99.0.9 is dead or cannot be reached",
        "`systemctl restart corosync-qnetd` on 10.99.0.9",
    );
    let read = evidence("8.4-qdevice-server-dead", "pve1");
    assert_disorders(
        &views(&BTreeMap::from([(host("pve1"), read)])),
        &["qdevice_dead"],
        "the QDevice's server at 10.98.0.1",
        "corosync-qnetd",
    );
    // corosync-qdevice stopped on host1 only: V3 there, V5 on the others, everybody quorate.
    let columns = ["NR", ALIVE, ALIVE];
    let others = with_device(columns, 2, "Quorate Qdevice");
    assert_disorders(
        &recognised(&others, &[(1, with_device(columns, 0, "Quorate"))]),
        &["qdevice_daemon_off"],
        "the QDevice's daemon does not run on host1",
        "`systemctl restart corosync-qdevice` on host1",
    );
    let read = evidence("8.4-qdevice-daemon-stopped", "pve1");
    assert_disorders(
        &views(&BTreeMap::from([(host("pve1"), read)])),
        &["qdevice_daemon_off"],
        "does not run on host1",
        "`systemctl restart corosync-qdevice` on host1",
    );
    // Registered, and its daemon crashed.
    let columns = [ALIVE, "NA,NV,NMW", ALIVE];
    let others = with_device(columns, 2, "Quorate Qdevice");
    assert_disorders(
        &recognised(&others, &[(2, with_device(columns, 0, "Quorate Qdevice"))]),
        &["qdevice_daemon_off"],
        "does not run on host2",
        "on host2",
    );
    // A server that hangs is lost node by node: views differ for up to 17 s.
    let columns = [ALIVE, ALIVE, MUTE];
    let others = with_device(columns, 2, "Quorate Qdevice");
    assert_disorders(
        &recognised(&others, &[(3, with_device(columns, 0, "Quorate Qdevice"))]),
        &["qdevice_no_vote"],
        "casts no vote for host3",
        "`systemctl restart corosync-qdevice`",
    );
    // In the file, and no daemon anywhere: its votes count in what is needed (V2 Q3).
    let nowhere = changed(&with_device(["NR"; 3], 0, ""), |s| {
        s.rows.truncate(2);
        (s.total, s.quorate) = (2, false);
    });
    assert_disorders(
        &recognised(&nowhere, &[]),
        &["not_quorate", "qdevice_daemon_off"],
        "host1 is a member and not quorate: it has 2 votes and needs 3",
        "switch on more hosts",
    );
}

#[test]
fn a_device_section_that_cannot_work_is_told() {
    // 3/1/1 with ffsplit: its vote counts in what is expected (E6 Q4) and is never cast.
    let ffsplit = LMS.replace("lms", "ffsplit").replacen("    model", "    votes: 1\n    model", 1);
    let shown = changed(&with_device([MUTE; 3], 0, "Quorate Qdevice"), |s| {
        s.rows[0].1 = 3;
        (s.expected, s.highest, s.total, s.quorum) = (6, 6, 5, 4);
        s.conf = conf(&[3, 1, 1], &ffsplit);
    });
    assert_disorders(
        &recognised(&shown, &[]),
        &["qdevice_faulty", "qdevice_dead"],
        "ffsplit, which needs `votes: 1` and one vote per host",
        "device section",
    );
    // lms without `votes` on uneven votes: the first host that reboots cannot start corosync.
    let shown = changed(&shown, |s| {
        (s.expected, s.highest, s.quorum) = (5, 5, 3);
        s.conf = conf(&[3, 1, 1], LMS);
    });
    assert_disorders(
        &recognised(&shown, &[]),
        &["qdevice_faulty", "qdevice_dead"],
        "lacks `votes`",
        "config_version",
    );
}

#[test]
fn a_cluster_that_waits_for_all_is_told_from_one_without_votes() {
    let wait = "  wait_for_all: 1\n";
    // 3/1/1: host1 and host2 have booted, V4 of E5, Q3, and are not quorate.
    let waiting = changed(&well(&[3, 1, 1]), |s| {
        s.rows.truncate(2);
        (s.total, s.quorate, s.flags, s.conf) = (4, false, "WaitForAll", conf(&[3, 1, 1], wait));
    });
    assert_disorders(
        &recognised(&waiting, &[]),
        &["waiting_for_all"],
        "wait_for_all waits until every host was seen once (4 of 5 votes are there)",
        "`corosync-cmapctl -s quorum.cancel_wait_for_all u8 1` on host1",
    );
    let over = changed(&well(&[3, 1, 1]), |s| {
        (s.flags, s.conf) = ("Quorate WaitForAll", conf(&[3, 1, 1], wait));
    });
    assert_eq!(recognised(&over, &[]), []);
    let read = evidence("9.2-votes-3-1-1-3", "pve2");
    assert_disorders(
        &views(&BTreeMap::from([(host("pve2"), read)])),
        &["not_quorate"],
        "it has 2 votes and needs 3",
        "`pvecm status` on host2",
    );
}

#[test]
fn members_that_disagree_are_told_apart() {
    let all = well(&[1; 3]);
    let other_ring = changed(&all, |s| s.ring = "2.55");
    assert_disorders(
        &recognised(&all, &[(2, other_ring)]),
        &["rings_differ"],
        "host1 and host2 do not see the same cluster (ring 1.51 and 2.55)",
        "`pvecm status` on host1 and on host2",
    );
    let fewer = changed(&all, |s| {
        s.rows.truncate(2);
        s.total = 2;
    });
    assert_disorders(&recognised(&all, &[(2, fewer)]), &["rings_differ"], "host1 and host2", "");
    // `corosync-quorumtool -v 0 -n 3`, and not everybody has heard of it.
    let unheard = changed(&all, |s| {
        s.rows[2].1 = 0;
        s.total = 2;
    });
    assert_disorders(
        &recognised(&all, &[(3, unheard)]),
        &["votes_disagree", "votes_not_reloaded"],
        "host1 counts 1 vote for host3 and host3 counts 0",
        "`systemctl restart corosync` on host3",
    );
    let old = changed(&all, |s| s.conf = s.conf.replace("config_version: 7", "config_version: 6"));
    assert_disorders(
        &recognised(&all, &[(3, old)]),
        &["corosync_conf_differs"],
        "host1 and host3 show different corosync.conf files",
        "`systemctl restart pve-cluster`",
    );
}
