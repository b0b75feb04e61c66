//! Reports spoiled on their way through the in-memory door: each is a gap that names its host and
//! says why, and none is evidence.
//!
//! **Does not know:** what the gate makes of a gap; its own tests show that it refuses.

use std::time::Duration;

use crate::cluster::{Answer, Evidence, HostName, Question};
#[cfg(test)]
use crate::pretend::{LeapClock, MemoryTransport, MemoryWaker, Passing, World};
use crate::pve::{Endpoint, Endpoints, Live};
use crate::site::{Call, Clock, Fault, Reply, Site, Transport};

use super::alone;

/// What becomes of a report.
#[derive(Clone, Copy)]
enum Spoil {
    Nothing,
    /// The first is replaced by the second, everywhere.
    Replace(&'static str, &'static str),
    /// Cut before this.
    Cut(&'static str),
    Empty,
    Hang,
}

/// The pretended cluster, whose host2 sends spoiled reports.
#[derive(Clone)]
struct Spoiling {
    inner: MemoryTransport<LeapClock>,
    clock: LeapClock,
    spoil: Spoil,
}

impl Transport for Spoiling {
    async fn send(&self, call: Call) -> Result<Reply, Fault> {
        let report = call.path.ends_with("/report") && call.to == HostName::from("host2");
        let (began, limit) = (self.clock.now().monotonic, call.limit);
        let mut reply = self.inner.send(call).await?;
        if !report {
            return Ok(reply);
        }
        let body: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
        let text = body["data"].as_str().unwrap();
        let spoiled = match self.spoil {
            Spoil::Nothing => text.to_owned(),
            Spoil::Replace(from, to) => {
                assert!(text.contains(from), "the report does not show {from}");
                text.replace(from, to)
            }
            Spoil::Cut(before) => text.split(before).next().unwrap().to_owned(),
            Spoil::Empty => String::new(),
            Spoil::Hang => {
                self.clock.pass_until(began + limit).await;
                let seconds = limit.as_secs();
                return Err(Fault::Lost(format!("host2 gave no answer within {seconds} s")));
            }
        };
        reply.body = serde_json::json!({ "data": spoiled }).to_string().into_bytes();
        Ok(reply)
    }
}

/// Evidence of `host` when host2's reports are spoiled, or the sentence of the gap.
async fn evidence(world: World, spoil: Spoil, host: &str) -> Result<Box<Evidence>, String> {
    let clock = LeapClock::new(world.start());
    let end = |host: &crate::pretend::power::Host| {
        (host.name.clone(), Endpoint { node: host.node.clone(), addressed: true, fixed: true })
    };
    let hosts = world.hosts().map(end).collect();
    let world = world.share(&clock);
    let inner = MemoryTransport::new(world.clone(), clock.clone());
    let transport = Spoiling { inner, clock: clock.clone(), spoil };
    let endpoints =
        Endpoints { hosts, prefer: vec!["host1".into()], token: "spot@pve!spot".into() };
    let mut site = Live::new(transport, MemoryWaker::new(world), clock, endpoints);
    let question = Question::Evidence(host.into());
    // A report may take 45 s; 20 looks of 3 s are enough.
    for _ in 0..20 {
        let seen = site.observe(std::slice::from_ref(&question)).await;
        if let Some(stamped) = seen.answers.get(&question) {
            return match stamped.answer.clone() {
                Ok(Answer::Evidence(evidence)) => Ok(evidence),
                Ok(other) => panic!("{other:?}"),
                Err(gap) => Err(gap.to_string()),
            };
        }
        site.wait_until(site.now().plus(Duration::from_secs(3))).await;
    }
    panic!("neither evidence nor a gap");
}

#[test]
fn a_spoiled_report_is_a_gap_that_names_its_host_and_says_why() {
    let table = [
        (Spoil::Empty, "no section `info about cluster`"),
        (Spoil::Cut("==== info about cluster"), "no section `info about cluster`"),
        (Spoil::Cut("Votequorum information"), "does not show"),
        (Spoil::Cut("totem {"), "no `config_version`"),
        (Spoil::Cut("# cat /etc/pve/corosync.conf"), "does not show `cat /etc/pve/corosync.conf`"),
        (Spoil::Hang, "host2"),
        (Spoil::Replace("Quorate:          Yes", "Quorate:          Ye"), "neither Yes nor No"),
        (Spoil::Replace("Ring ID:          ", "Ring ID:          ?"), "`Ring ID` is garbled"),
        // Votes as words, missing, above 255, below zero.
        (Spoil::Replace("0x00000001          3", "0x00000001      three"), "table is garbled"),
        (Spoil::Replace("0x00000001          3", "0x00000001           "), "table is garbled"),
        (Spoil::Replace("0x00000001          3", "0x00000001        256"), "more than 255"),
        (Spoil::Replace("0x00000001          3", "0x00000001         -3"), "table is garbled"),
        (Spoil::Replace("quorum_votes: 3", "quorum_votes: 256"), "no number up to 255"),
        (Spoil::Replace("quorum_votes: 3", "quorum_votes: three"), "no number up to 255"),
        // Less than there is does not add up either.
        (Spoil::Replace("0x00000001          3", "0x00000001          0"), "contradicts itself"),
        // Another host under this one's name, and one whose name begins like it.
        (Spoil::Replace("name: host2", "name: host20"), "the report is host20's, not host2's"),
    ];
    for (spoil, why) in table {
        alone(async {
            let said = evidence(World::reference(), spoil, "host2").await;
            let said = said.expect_err("a spoiled report is no evidence");
            assert!(said.starts_with("could not see evidence of host2"), "{said}");
            assert!(said.contains(why), "{why}: {said}");
        });
    }
    alone(async {
        assert!(evidence(World::reference(), Spoil::Nothing, "host2").await.is_ok());
    });
}

#[test]
fn a_cluster_of_32_hosts_with_names_that_begin_alike_is_read() {
    let hosts: String = (1..=32)
        .map(|n| format!("  - {{ name: host{n}, votes: {} }}\n", if n == 1 { 0 } else { 1 }))
        .collect();
    let world = || World::read(&format!("hosts:\n{hosts}")).unwrap();
    for host in ["host1", "host10", "host2"] {
        alone(async {
            let read = evidence(world(), Spoil::Nothing, host).await.unwrap();
            assert_eq!((read.members.len(), read.total, read.quorum), (32, 31, 16));
            assert_eq!(read.members[&HostName::from("host1")].votes, 0);
        });
    }
}
