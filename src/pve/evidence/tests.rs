//! Reports of real servers read as what they show; anything less is an error, never a figure.
//!
//! **Does not know:** where reports come from.

mod disorders;
mod mutations;

use proptest::prelude::*;

use super::*;

/// A recorded report, as far as it was carried over.
fn recorded(name: &str) -> String {
    let path = format!("{}/tests/recorded/client/report-{name}.txt", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|why| panic!("{path}: {why}"))
}

fn host(node: &str) -> HostName {
    HostName::from(node.replace("pve", "host").as_str())
}

fn evidence(name: &str, node: &str) -> Evidence {
    read(&recorded(name), node, host).unwrap_or_else(|why| panic!("{name}: {why}"))
}

/// One line per report: the figures, flags, ring, members and the device.
fn rendered(name: &str, node: &str) -> String {
    let e = evidence(name, node);
    let members: Vec<String> = e
        .members
        .iter()
        .map(|(host, m)| {
            format!(
                "{host}={}{}",
                m.votes,
                m.device.as_ref().map_or(String::new(), |d| format!("({d})"))
            )
        })
        .collect();
    let flags: Vec<&str> = e.flags.iter().map(String::as_str).collect();
    let conf: Vec<String> = e.conf.votes.iter().map(|(n, v)| format!("{n}={v}")).collect();
    let device = e.conf.device.as_ref().map_or("none".to_owned(), |d| {
        format!("{:?}/{:?}@{}", d.algorithm, d.votes, d.server.as_deref().unwrap_or("?"))
    });
    format!(
        "E{} H{} V{} Q{} {} [{}] ring {} | {} | device votes {:?} | v{} {} {} {:?}",
        e.expected,
        e.highest_expected,
        e.total,
        e.quorum,
        if e.quorate { "quorate" } else { "blocked" },
        flags.join(" "),
        e.ring,
        members.join(" "),
        e.device_votes,
        e.conf.config_version.unwrap_or(0),
        conf.join(" "),
        device,
        e.conf.quorum,
    )
}

#[test]
fn recorded_reports_read_as_they_show() {
    let all = [
        ("9.2-votes-3-1-1", "pve1"),
        ("9.2-votes-3-1-1-2", "pve1"),
        ("9.2-votes-3-1-1-3", "pve2"),
        ("9.2-votes-1-1-1-all-up", "pve1"),
        ("9.2-votes-1-1-1-all-up-2", "pve2"),
        ("9.2-votes-1-1-1-host-down", "pve1"),
        ("9.2-lone-node-expected-1", "pve1"),
        ("9.2-lone-node-expected-1-2", "pve1"),
        ("9.2-lone-node-expected-1-3", "pve1"),
        ("9.2-wait-for-all", "pve1"),
        ("9.2-wait-for-all-2", "pve2"),
        ("8.4-votes-3-1-1", "pve1"),
        ("8.4-votes-3-1-1-2", "pve1"),
        ("8.4-votes-3-1-1-3", "pve2"),
        ("8.4-votes-1-1-1-all-up", "pve1"),
        ("8.4-votes-1-1-1-all-up-2", "pve2"),
        ("8.4-votes-1-1-1-host-down", "pve1"),
        ("8.4-qdevice-alive", "pve1"),
        ("8.4-qdevice-daemon-stopped", "pve1"),
        ("8.4-qdevice-server-dead", "pve1"),
    ];
    let shown: String =
        all.iter().map(|(name, node)| format!("{name}: {}\n", rendered(name, node))).collect();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/recorded/client/evidence.expect");
    if std::env::var_os("SPOT_BLESS").is_some() {
        std::fs::write(path, &shown).unwrap();
    }
    assert_eq!(shown, std::fs::read_to_string(path).unwrap());
}

#[test]
fn a_dead_device_is_told_from_a_stopped_daemon_and_from_none() {
    let own = |name: &str| evidence(name, "pve1").members[&host("pve1")].device.clone();
    assert_eq!(own("8.4-qdevice-alive").as_deref(), Some("A,V,NMW"));
    assert_eq!(own("8.4-qdevice-server-dead").as_deref(), Some("A,NV,NMW"));
    assert_eq!(own("8.4-qdevice-daemon-stopped").as_deref(), Some("NR"));
    assert_eq!(own("8.4-votes-3-1-1"), None);
    assert_eq!(evidence("8.4-qdevice-alive", "pve1").device_votes, Some(2));
    assert_eq!(evidence("8.4-qdevice-server-dead", "pve1").device_votes, Some(0));
    assert_eq!(evidence("8.4-votes-3-1-1", "pve1").device_votes, None);
    assert_eq!(evidence("9.2-wait-for-all", "pve1").conf.quorum["wait_for_all"], "1");
}

#[test]
fn guest_lists_that_were_cut_are_a_gap_of_the_guests_alone() {
    let cut = evidence("9.2-votes-3-1-1", "pve1");
    assert!(cut.guests.unwrap_err().contains("`qm list`"));
    assert_eq!(cut.addresses, ["10.99.0.11"]);
}

/// A report with the guest lists and addresses that recordings leave out.
fn whole(qm: &str, pct: &str) -> String {
    let addresses = "2: vmbr0: <BROADCAST> mtu 1500\n    link/ether bc:24:11:00:00:01 brd ff:ff\n    \
                     inet 10.99.0.11/24 brd 10.99.0.255 scope global vmbr0\n    inet6 fe80::1/64 \
                     scope link\n    inet 192.168.7.2/24 scope global vmbr1\n";
    recorded("9.2-votes-3-1-1")
        .replacen("# qm list\n(cut)\n", &format!("# qm list\n{qm}"), 1)
        .replacen("# pct list\n", &format!("# pct list\n{pct}"), 1)
        .replacen(
            "# ip -details -statistics address\n(cut)\n",
            &format!("# ip -details -statistics address\n{addresses}"),
            1,
        )
}

const QM: &str = "      VMID NAME                 STATUS     MEM(MB)    BOOTDISK(GB) PID       \n       \
                  100 web                  running    512                1.00 2537      \n       \
                  101 VM 101               stopped    256                0.00 0         \n       \
                  102 db                   paused     256                0.06 11        \n";
const PCT: &str = "VMID       Status     Lock         Name                \n\
                   200        stopped                 ct1                 \n\
                   201        running    backup       ct2                 \n";

fn guests_of(qm: &str, pct: &str) -> Result<BTreeMap<Vmid, RunState>, String> {
    read(&whole(qm, pct), "pve1", host).unwrap().guests
}

#[test]
fn every_guest_of_both_lists_is_seen_with_its_state() {
    let guests = guests_of(QM, PCT).unwrap();
    let shown: Vec<String> = guests.iter().map(|(id, state)| format!("{id} {state:?}")).collect();
    assert_eq!(
        shown,
        ["100 Running", "101 Stopped", "102 Other(\"paused\")", "200 Stopped", "201 Running"]
    );
    assert_eq!(guests_of("", "").unwrap().len(), 0, "both lists print nothing without guests");
    let read = read(&whole(QM, PCT), "pve1", host).unwrap();
    assert_eq!(read.addresses, ["10.99.0.11", "192.168.7.2"]);
}

#[test]
fn a_guest_list_in_doubt_is_no_list() {
    for (qm, pct, why) in [
        ("\nERROR: command 'qm list' failed: got timeout\n", "", "`qm list`"),
        (
            &format!("{QM}\nERROR: command 'qm list' failed: got timeout\n"),
            "",
            "a line of `qm list`",
        ),
        (&QM.replace("running", "Running?"), "", "a line of `qm list`"),
        (&QM.replace("2537", ""), "", "a line of `qm list`"),
        (QM, &PCT.replace("200 ", "100 "), "guest 100 is listed twice"),
        (QM, &format!("{PCT}# pct list\n"), "`pct list` twice"),
        // A description in a guest's config may imitate a heading.
        (&format!("{QM}# cat /etc/pve/qemu-server/100.conf\n# pct list\n"), "", "`pct list` twice"),
        ("Permission denied\n", "", "`qm list`"),
    ] {
        let said = guests_of(qm, pct).unwrap_err();
        assert!(said.contains(why), "{said}");
    }
}

/// What each spoiled report must complain of.
#[test]
fn what_is_missing_or_garbled_is_named() {
    let good = recorded("9.2-votes-3-1-1");
    for (from, to, why) in [
        ("==== info about cluster ====", "==== info ====", "no section `info about cluster`"),
        ("# pvecm status", "# pvecm state", "does not show `pvecm status`"),
        ("# pvecm status", "# pvecm status\n# pvecm status", "`pvecm status` twice"),
        ("Expected votes:   5\n", "", "`Expected votes`"),
        ("Expected votes:   5", "Expected votes:   five", "`Expected votes` is garbled"),
        ("Expected votes:   5", "Expected votes:   -5", "`Expected votes` is garbled"),
        ("Expected votes:   5", "Expected votes:   99999", "`Expected votes` is garbled"),
        ("Highest expected: 5\n", "", "`Highest expected`"),
        ("Total votes:      5\n", "", "`Total votes`"),
        ("Quorum:           3  \n", "", "`Quorum`"),
        ("Quorum:           3  \n", "Quorum: 3\nQuorum: 1\n", "`Quorum` twice"),
        ("Flags:            Quorate \n", "", "`Flags`"),
        ("Quorate:          Yes", "Quorate:          Maybe", "neither Yes nor No"),
        ("Ring ID:          1.51", "Ring ID:", "`Ring ID` is empty"),
        ("Node ID:          0x00000001", "Node ID:          0x00000002", "number 2 as local"),
        ("Nodes:            3", "Nodes:            2", "`Nodes` is 2, and 3 are listed"),
        ("Nodes:            3\n", "", "`Nodes`"),
        ("Total votes:      5", "Total votes:      6", "`Total votes` is 6, and 5 are listed"),
        ("Quorum:           3  ", "Quorum:           2  ", "`Quorum` 2 is no majority of 5"),
        ("Quorum:           3  ", "Quorum:           0  ", "no majority"),
        (
            "Quorum:           3  ",
            "Quorum:           6  ",
            "quorate with 5 votes where 6 are needed",
        ),
        ("Quorum:           3  ", "Quorum:  3 Activity blocked", "do not say the same"),
        ("Quorate:          Yes", "Quorate:          No", "do not say the same"),
        ("Expected votes:   5", "Expected votes:   6", "above `Highest expected` 5"),
        ("Ring ID:          1.51", "Ring ID:          1;51", "`Ring ID` is garbled"),
        (" 10.99.0.11 (local)", " 10.99.0.11", "number 1 as local"),
        (" 10.99.0.11 (local)", " 10.99.0.12 (local)", "calls number 1 10.99.0.12"),
        ("0x00000002          1 10", "0x00000002          - 10", "membership table is garbled"),
        (
            "0x00000002          1 10",
            "0x00000002 4294967295 10",
            "more than 255, which spot takes for garbled",
        ),
        ("0x00000002          1 10", "0x00000002        256 10", "256 votes in"),
        ("0x00000002          1 10", "0x00000002            10", "membership table is garbled"),
        (
            "0x00000002          1 10.99.0.12",
            "0x00000002          1",
            "membership table is garbled",
        ),
        ("0x00000002          1 10", "0x00000003          1 10", "number 3 stands twice"),
        ("0x00000003          1 10", "0x00000009          1 10", "show different votes or members"),
        ("0x00000001          3 10.99.0.11 (local)\n", "", "`Nodes` is 3, and 2 are listed"),
        ("    quorum_votes: 3", "    quorum_votes: many", "`quorum_votes` of pve1"),
        ("    nodeid: 2\n", "", "`nodeid` of pve2"),
        ("    nodeid: 2\n", "    nodeid: 9\n", "number 2 is not in corosync.conf's nodelist"),
        ("    name: pve2\n", "", "has no name"),
        ("  config_version: 4", "  config_version: 4a", "`config_version` is garbled"),
        ("  config_version: 4\n", "", "no `config_version`"),
        ("quorum {", "quorun {", "no `quorum` section"),
        ("# pvecm nodes", "# pvecm nodez", "does not show `pvecm nodes`"),
        ("         2          1 pve2", "         2          2 pve2", "show different votes"),
        ("totem {", "totem", "cannot read line"),
        ("quorum {", "quorum {\n{", "ends inside"),
        ("quorum {", "}\nquorum {", "a closing brace too many"),
    ] {
        assert!(good.contains(from), "{from}");
        let at = good.find("# pvecm status").unwrap();
        let spoiled = match good[at..].find(from) {
            Some(_) => format!("{}{}", &good[..at], good[at..].replacen(from, to, 1)),
            None => good.replacen(from, to, 1),
        };
        match read(&spoiled, "pve1", host) {
            Ok(read) => panic!("{from} → {to}: read as {read:?}"),
            Err(said) => assert!(said.contains(why), "{from} → {to}: {said}"),
        }
    }
}

#[test]
fn a_report_of_another_host_is_not_taken_for_this_ones() {
    let said = read(&recorded("9.2-votes-3-1-1"), "pve2", host).unwrap_err();
    assert_eq!(said, "the report is pve1's, not pve2's");
    // A name that begins another is another.
    let longer = recorded("9.2-votes-3-1-1").replace("pve1", "pve10");
    assert_eq!(read(&longer, "pve1", host).unwrap_err(), "the report is pve10's, not pve1's");
    assert!(read(&longer, "pve10", host).is_ok());
}

#[test]
fn a_stopped_corosync_is_told_in_its_own_words() {
    let good = recorded("9.2-votes-3-1-1");
    let (start, end) =
        (good.find("# pvecm status").unwrap(), good.find("# cat /etc/pve/coro").unwrap());
    let text = "# pvecm status\nCannot initialize CMAP service\n\n";
    let said =
        read(&format!("{}{text}{}", &good[..start], &good[end..]), "pve1", host).unwrap_err();
    assert!(said.contains("Cannot initialize CMAP service"), "{said}");
}

#[test]
fn comments_and_odd_spacing_in_corosync_conf_do_no_harm() {
    let good = recorded("8.4-qdevice-alive");
    let odd = good
        .replacen("quorum {\n", "# the owner's note: three hosts {\n\nquorum {\n", 1)
        .replacen("      algorithm: lms", "\talgorithm :  lms  ", 1);
    let read = read(&odd, "pve1", host).unwrap();
    assert_eq!(read.conf.device.unwrap().algorithm, DeviceAlgorithm::Lms);
}

proptest! {
    #[test]
    fn no_mutation_of_a_report_makes_it_panic_or_read_as_more_votes_than_can_be(
        place in 0usize..2700, length in 0usize..80, text in "[ -~\n]{0,40}",
        which in 0usize..3,
    ) {
        let names = ["9.2-votes-3-1-1", "8.4-qdevice-daemon-stopped", "9.2-lone-node-expected-1"];
        let name = names[which];
        let mut report = recorded(name);
        let start = place.min(report.len());
        let end = (start + length).min(report.len());
        report.replace_range(start..end, &text);
        if let Ok(read) = read(&report, "pve1", host) {
            prop_assert!(read.members.values().all(|member| member.votes <= MOST_VOTES));
            prop_assert!(read.members.contains_key(&host("pve1")));
        }
    }

    #[test]
    fn no_text_at_all_makes_it_panic(text in "\\PC{0,400}") {
        let _ = read(&text, "pve1", host);
        let wrapped = format!(
            "==== info about cluster ====\n# pvecm status\n{text}\n# cat /etc/pve/corosync.conf\n{text}"
        );
        let _ = read(&wrapped, "pve1", host);
    }
}
