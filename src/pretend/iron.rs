//! Power and membership of the pretended hosts: who runs corosync, who sees whom, and who is
//! quorate.
//!
//! [`Iron`] is the small seam behind which real corosync daemons can stand in one test;
//! [`Arithmetic`] is what stands there otherwise. It counts votes in its own words, after what was
//! measured on real corosync 3.1.7, and on purpose shares nothing with the code that judges
//! power-offs: two counts that agree by construction would prove nothing.
//!
//! The count, per host and partition: V = votes of the members, plus the device's if it votes for
//! this host; E = the most anybody in the partition expects, learned upwards; Q = E/2 + 1; quorate
//! when V ≥ Q. With wait_for_all a host is not quorate until it has seen everybody once.
//!
//! **Does not know:** booting, guests, the API, two_node and the other bonuses PVE never writes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use crate::cluster::HostName;

/// How long the members need to notice that one vanished (token and consensus of a small cluster;
/// recorded: 8 to 10 s after a power cut).
const NOTICE: Duration = Duration::from_millis(8_400);

/// How long a host with an outdated corosync.conf stays before corosync throws it out (measured).
const THROWN_OUT_AFTER: Duration = Duration::from_secs(3);

/// What one host's corosync shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    pub quorate: bool,
    /// `1.48`: lowest member, and a number that grows with every change.
    pub ring: String,
    pub expected: u32,
    pub highest: u32,
    pub total: u32,
    pub quorum: u32,
    pub flags: Vec<&'static str>,
    pub members: Vec<Member>,
    /// Votes the device casts for this host, with a note of the configured ones where it casts
    /// none.
    pub device: Option<(u32, Option<u32>)>,
}

/// One line of the membership table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub host: HostName,
    pub number: u32,
    pub votes: u32,
    /// `A,V,NMW` and its kin, where a device is configured.
    pub device: Option<&'static str>,
}

/// What can be done to the quorum from outside, all of it rare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Knob {
    /// The owner runs `pvecm expected N` on every member.
    Expect(u32),
    /// The device's server dies or comes back.
    DeviceServer(bool),
    /// The device's daemon stops or starts on one host.
    DeviceDaemon(HostName, bool),
    /// The network falls apart into these groups; a host in none of them is alone.
    Partition(Vec<BTreeSet<HostName>>),
    /// Everybody sees everybody again.
    Heal,
    /// The configuration's version rises on every member (and on nobody else).
    RaiseConfig,
}

/// Power and membership.
pub trait Iron: Send {
    /// Corosync starts on `host`.
    fn power_on(&mut self, host: &HostName, at: Timestamp);
    /// `host` leaves in order: the others know at once.
    fn power_off(&mut self, host: &HostName, at: Timestamp);
    /// `host` vanishes: the others need a while to notice.
    fn cut(&mut self, host: &HostName, at: Timestamp);
    /// What `host` shows; `None` where no corosync runs.
    fn view(&self, host: &HostName) -> Option<View>;
    /// Turns one of the rarer knobs.
    fn turn(&mut self, knob: &Knob, at: Timestamp);
    /// When something next changes by itself.
    fn next_change_at(&self) -> Option<Timestamp>;
    fn advance_to(&mut self, at: Timestamp);
    /// The configuration's version as `host` has it.
    fn config_version(&self, host: &HostName) -> u64;
    /// What `corosync-quorumtool` with these options prints on `host`, where there is a tool (`-l`
    /// is all of `pvecm nodes`, `-siH` nearly all of `pvecm status`); elsewhere the report is
    /// written from the [`View`].
    fn tool_text(&self, _host: &HostName, _options: &str) -> Option<String> {
        None
    }
    /// corosync.conf as `host` shows it, where there is a file.
    fn conf_text(&self, _host: &HostName) -> Option<String> {
        None
    }
}

/// A QDevice as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub ffsplit: bool,
    /// `None` when the file does not say.
    pub votes: Option<u32>,
    pub server_alive: bool,
}

/// Membership and votes by arithmetic alone.
#[derive(Clone, Debug)]
pub struct Arithmetic {
    hosts: BTreeMap<HostName, Node>,
    device: Option<Device>,
    wait_for_all: bool,
    config_version: u64,
    sequence: u32,
}

#[derive(Clone, Debug)]
struct Node {
    number: u32,
    votes: u32,
    running: bool,
    /// Vanished, and noticed by the others then.
    noticed_at: Option<Timestamp>,
    thrown_out_at: Option<Timestamp>,
    config_version: u64,
    side: usize,
    device_daemon: bool,
    expected: u32,
    /// Has seen everybody, or a quorate member, since it last lost quorum.
    seen_all: bool,
    quorate: bool,
    ring: (u32, u32),
    members: BTreeSet<HostName>,
}

impl Arithmetic {
    /// Hosts with their number and votes, all off.
    pub fn new(
        hosts: &[(HostName, u32, u32)],
        device: Option<Device>,
        wait_for_all: bool,
        config_version: u64,
    ) -> Arithmetic {
        let node = |number: u32, votes: u32| Node {
            number,
            votes,
            running: false,
            noticed_at: None,
            thrown_out_at: None,
            config_version,
            side: 0,
            device_daemon: true,
            expected: 0,
            seen_all: false,
            quorate: false,
            ring: (number, 0),
            members: BTreeSet::new(),
        };
        let hosts = hosts.iter().map(|(name, number, votes)| (name.clone(), node(*number, *votes)));
        Arithmetic { hosts: hosts.collect(), device, wait_for_all, config_version, sequence: 4 }
    }

    fn node(&mut self, host: &HostName) -> &mut Node {
        self.hosts.get_mut(host).expect("the world asks only for hosts it has")
    }

    /// Votes the configuration gives the device: one less than there are hosts when it does not
    /// say.
    fn device_votes(&self) -> u32 {
        let unsaid = u32::try_from(self.hosts.len()).expect("few hosts").saturating_sub(1);
        self.device.as_ref().map_or(0, |device| device.votes.unwrap_or(unsaid))
    }

    /// What a host expects that has just read its file.
    fn expected_by_file(&self) -> u32 {
        let hosts: u32 = self.hosts.values().map(|node| node.votes).sum();
        // `votes` written out is learned when the device is seen; left out, it counts at once.
        match &self.device {
            Some(device) if device.votes.is_none() => hosts + self.device_votes(),
            Some(_) | None => hosts,
        }
    }

    /// Everybody a host on `side` takes for a member: running, or vanished and not yet noticed.
    fn members_of(&self, side: usize) -> BTreeSet<HostName> {
        let counted = |node: &Node| node.running || node.noticed_at.is_some();
        let here = self.hosts.iter().filter(|(_, node)| counted(node) && node.side == side);
        here.map(|(name, _)| name.clone()).collect()
    }

    /// Whether the device's server gives its vote to `members`.
    fn device_votes_for(&self, members: &BTreeSet<HostName>) -> bool {
        let Some(device) = self.device.as_ref().filter(|device| device.server_alive) else {
            return false;
        };
        let lowest = |group: &BTreeSet<HostName>| {
            group.iter().map(|host| self.hosts[host].number).min().unwrap_or(u32::MAX)
        };
        let sides: BTreeSet<usize> =
            self.hosts.values().filter(|node| node.running).map(|node| node.side).collect();
        let others: Vec<BTreeSet<HostName>> = sides
            .into_iter()
            .map(|side| self.members_of(side))
            .filter(|group| group != members)
            .collect();
        if device.ffsplit {
            // It refuses to work at all unless every host has one vote and so has the device.
            let one_each = self.hosts.values().all(|node| node.votes == 1);
            let twice = members.len() * 2;
            let rival = others.iter().find(|group| group.len() == members.len());
            device.votes == Some(1)
                && one_each
                && (twice > self.hosts.len()
                    || twice == self.hosts.len()
                        && rival.is_none_or(|group| lowest(members) < lowest(group)))
        } else {
            // It counts hosts, not votes; the lowest number breaks a tie.
            let rank = |group: &BTreeSet<HostName>| (group.len(), std::cmp::Reverse(lowest(group)));
            others.iter().all(|group| rank(members) > rank(group))
        }
    }

    /// Counts anew after anything changed.
    fn count(&mut self) {
        let running: Vec<HostName> = self.names(|node| node.running);
        for host in &running {
            let side = self.hosts[host].side;
            let members = self.members_of(side);
            if self.hosts[host].members != members {
                self.sequence += 1;
                let lowest = members.iter().map(|name| self.hosts[name].number).min().unwrap_or(0);
                let ring = (lowest, self.sequence);
                // One change, one ring, for everybody in it.
                for other in running.iter().filter(|name| members.contains(*name)) {
                    let node = self.node(other);
                    node.members = members.clone();
                    node.ring = ring;
                }
            }
        }
        for host in &running {
            let members = self.hosts[host].members.clone();
            let votes: u32 = members.iter().map(|name| self.hosts[name].votes).sum();
            let most = members.iter().map(|name| self.hosts[name].expected).max().unwrap_or(0);
            let expected = most.max(votes + self.device_votes());
            self.node(host).expected = expected;
        }
        let met_quorate: BTreeSet<HostName> = running
            .iter()
            .filter(|host| {
                let of = |name: &&HostName| self.hosts[*name].seen_all && self.hosts[*name].quorate;
                self.hosts[*host].members.iter().find(of).is_some()
            })
            .cloned()
            .collect();
        for host in &running {
            let (total, quorum) = (self.total(host), self.quorum(host));
            let (all, wait) = (total == self.hosts[host].expected, self.wait_for_all);
            let met = met_quorate.contains(host);
            let node = self.node(host);
            node.seen_all |= all || met || !wait;
            node.quorate = total >= quorum && node.seen_all;
            // Waiting for all begins anew whenever quorum is lost.
            node.seen_all &= node.quorate || !wait;
        }
    }

    fn names(&self, which: impl Fn(&Node) -> bool) -> Vec<HostName> {
        let matching = self.hosts.iter().filter(|(_, node)| which(node));
        matching.map(|(name, _)| name.clone()).collect()
    }

    /// Votes the device casts for this very host.
    fn cast_for(&self, host: &HostName) -> u32 {
        let node = &self.hosts[host];
        let casts = node.device_daemon && self.device_votes_for(&node.members);
        if casts { self.device_votes() } else { 0 }
    }

    fn total(&self, host: &HostName) -> u32 {
        let members = self.hosts[host].members.iter();
        members.map(|name| self.hosts[name].votes).sum::<u32>() + self.cast_for(host)
    }

    fn quorum(&self, host: &HostName) -> u32 {
        self.hosts[host].expected / 2 + 1
    }

    /// A host that runs with a configuration older than its partners' is thrown out in a while.
    fn look_for_outdated(&mut self, at: Timestamp) {
        let newest = self.config_version;
        for host in self.names(|node| node.running && node.config_version < newest) {
            let company = self.members_of(self.hosts[&host].side).len() > 1;
            let node = self.node(&host);
            if company && node.thrown_out_at.is_none() {
                node.thrown_out_at = Some(at + THROWN_OUT_AFTER);
            }
        }
    }

    fn stop(&mut self, host: &HostName) {
        let node = self.node(host);
        node.running = false;
        node.noticed_at = None;
        node.thrown_out_at = None;
        node.quorate = false;
        node.members.clear();
    }
}

impl Iron for Arithmetic {
    fn power_on(&mut self, host: &HostName, at: Timestamp) {
        let expected = self.expected_by_file();
        let node = self.node(host);
        node.running = true;
        node.noticed_at = None;
        node.device_daemon = true;
        node.expected = expected;
        node.seen_all = false;
        node.quorate = false;
        node.members.clear();
        self.look_for_outdated(at);
        self.count();
    }

    fn power_off(&mut self, host: &HostName, _at: Timestamp) {
        self.stop(host);
        self.count();
    }

    fn cut(&mut self, host: &HostName, at: Timestamp) {
        if self.hosts[host].running {
            self.stop(host);
            self.node(host).noticed_at = Some(at + NOTICE);
        }
    }

    fn view(&self, host: &HostName) -> Option<View> {
        let node = self.hosts.get(host).filter(|node| node.running)?;
        let cast = self.cast_for(host);
        let device_column = |name: &HostName| {
            self.device.as_ref()?;
            let other = &self.hosts[name];
            Some(match (other.device_daemon, cast > 0) {
                (false, _) => "NR",
                (true, true) => "A,V,NMW",
                (true, false) => "A,NV,NMW",
            })
        };
        let mut members: Vec<Member> = node
            .members
            .iter()
            .map(|name| Member {
                host: name.clone(),
                number: self.hosts[name].number,
                votes: self.hosts[name].votes,
                device: device_column(name),
            })
            .collect();
        members.sort_by_key(|member| member.number);
        let mut flags = Vec::new();
        if node.quorate {
            flags.push("Quorate");
        }
        if self.wait_for_all {
            flags.push("WaitForAll");
        }
        if self.device.is_some() && node.device_daemon {
            flags.push("Qdevice");
        }
        let highest = node.members.iter().map(|name| self.hosts[name].expected).max();
        Some(View {
            quorate: node.quorate,
            ring: format!("{:x}.{:x}", node.ring.0, node.ring.1),
            expected: node.expected,
            highest: highest.unwrap_or(node.expected),
            total: self.total(host),
            quorum: self.quorum(host),
            flags,
            members,
            device: self.device.as_ref().map(|_| (cast, (cast == 0).then(|| self.device_votes()))),
        })
    }

    fn turn(&mut self, knob: &Knob, at: Timestamp) {
        match knob {
            Knob::Expect(votes) => {
                for host in self.names(|node| node.running) {
                    // Refused by corosync when it would not leave the members quorate by right.
                    if *votes >= self.total(&host) {
                        self.node(&host).expected = *votes;
                    }
                }
            }
            Knob::DeviceServer(alive) => {
                if let Some(device) = &mut self.device {
                    device.server_alive = *alive;
                }
            }
            Knob::DeviceDaemon(host, runs) => self.node(host).device_daemon = *runs,
            Knob::Partition(groups) => {
                let lonely = groups.len();
                for (index, (name, node)) in self.hosts.iter_mut().enumerate() {
                    let group = groups.iter().position(|group| group.contains(name));
                    node.side = group.unwrap_or(lonely + index);
                }
            }
            Knob::Heal => self.hosts.values_mut().for_each(|node| node.side = 0),
            Knob::RaiseConfig => {
                self.config_version += 1;
                let version = self.config_version;
                for node in self.hosts.values_mut().filter(|node| node.running) {
                    node.config_version = version;
                }
            }
        }
        self.look_for_outdated(at);
        self.count();
    }

    fn next_change_at(&self) -> Option<Timestamp> {
        let both = |node: &Node| [node.noticed_at, node.thrown_out_at];
        self.hosts.values().flat_map(both).flatten().min()
    }

    fn advance_to(&mut self, at: Timestamp) {
        let due = |instant: Option<Timestamp>| instant.is_some_and(|when| when <= at);
        let noticed = self.names(|node| due(node.noticed_at));
        let thrown_out = self.names(|node| due(node.thrown_out_at));
        for host in &noticed {
            self.node(host).noticed_at = None;
        }
        for host in &thrown_out {
            self.stop(host);
        }
        if !noticed.is_empty() || !thrown_out.is_empty() {
            self.count();
        }
    }

    fn config_version(&self, host: &HostName) -> u64 {
        self.hosts[host].config_version
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::UNIX_EPOCH;

    fn names() -> [HostName; 4] {
        ["host1", "host2", "host3", "host4"].map(HostName::from)
    }

    fn iron(votes: &[u32], device: Option<(bool, Option<u32>)>, wait: bool) -> Arithmetic {
        let hosts: Vec<(HostName, u32, u32)> =
            names().into_iter().zip(1..).zip(votes).map(|((n, i), v)| (n, i, *v)).collect();
        let device = device.map(|(ffsplit, votes)| Device { ffsplit, votes, server_alive: true });
        Arithmetic::new(&hosts, device, wait, 1)
    }

    fn all_on(iron: &mut Arithmetic) {
        for name in iron.names(|_| true) {
            iron.power_on(&name, START);
        }
    }

    fn figures(iron: &Arithmetic, host: usize) -> (u32, u32, u32, bool) {
        let view = iron.view(&names()[host]).expect("it runs");
        (view.expected, view.total, view.quorum, view.quorate)
    }

    #[test]
    fn with_three_one_one_the_first_host_alone_is_quorate_and_the_others_are_not() {
        let [one, two, three, _] = names();
        let mut iron = iron(&[3, 1, 1], None, false);
        iron.power_on(&one, START);
        assert_eq!(figures(&iron, 0), (5, 3, 3, true));
        all_on(&mut iron);
        assert_eq!(figures(&iron, 2), (5, 5, 3, true));
        iron.power_off(&one, START);
        assert_eq!(figures(&iron, 1), (5, 2, 3, false));
        iron.power_on(&one, START);
        iron.power_off(&two, START);
        iron.power_off(&three, START);
        assert_eq!(figures(&iron, 0), (5, 3, 3, true));
    }

    #[test]
    fn a_vanished_host_counts_until_it_is_noticed() {
        let [_, _, three, _] = names();
        let mut iron = iron(&[1, 1, 1], None, false);
        all_on(&mut iron);
        iron.cut(&three, START);
        assert_eq!(figures(&iron, 0), (3, 3, 2, true));
        let noticed = iron.next_change_at().expect("the others will notice");
        iron.advance_to(noticed);
        assert_eq!(figures(&iron, 0), (3, 2, 2, true));
        assert_eq!(iron.next_change_at(), None);
    }

    #[test]
    fn a_dead_device_counts_against_everybody() {
        // 1/1/1 lms: E5 Q3; with the server any single host is quorate, without it all three are
        // needed.
        let [_, two, three, _] = names();
        let mut iron = iron(&[1, 1, 1], Some((false, Some(2))), false);
        all_on(&mut iron);
        assert_eq!(figures(&iron, 0), (5, 5, 3, true));
        iron.power_off(&two, START);
        iron.power_off(&three, START);
        assert_eq!(figures(&iron, 0), (5, 3, 3, true));
        iron.turn(&Knob::DeviceServer(false), START);
        assert_eq!(figures(&iron, 0), (5, 1, 3, false));
        iron.power_on(&two, START);
        assert_eq!(figures(&iron, 0), (5, 2, 3, false));
        iron.power_on(&three, START);
        assert_eq!(figures(&iron, 0), (5, 3, 3, true));
        assert_eq!(iron.view(&three).unwrap().device, Some((0, Some(2))));
    }

    #[test]
    fn ffsplit_gives_half_its_vote_and_never_less() {
        let mut four = iron(&[1, 1, 1, 1], Some((true, Some(1))), false);
        all_on(&mut four);
        let [one, two, three, _] = names();
        four.power_off(&one, START);
        four.power_off(&two, START);
        assert_eq!(figures(&four, 2), (5, 3, 3, true));
        four.power_off(&three, START);
        assert_eq!(figures(&four, 3), (5, 1, 3, false));
        // Uneven votes: the daemon gives up, its vote still counts in what is expected.
        let mut uneven = iron(&[3, 1, 1], Some((true, Some(1))), false);
        all_on(&mut uneven);
        uneven.power_off(&two, START);
        uneven.power_off(&three, START);
        assert_eq!(figures(&uneven, 0), (6, 3, 4, false));
    }

    #[test]
    fn waiting_for_all_begins_anew_when_quorum_is_lost() {
        let [one, two, three, _] = names();
        let mut iron = iron(&[1, 1, 1], None, true);
        iron.power_on(&one, START);
        iron.power_on(&two, START);
        assert_eq!(figures(&iron, 0), (3, 2, 2, false));
        iron.power_on(&three, START);
        assert_eq!(figures(&iron, 0), (3, 3, 2, true));
        iron.power_off(&two, START);
        assert_eq!(figures(&iron, 0), (3, 2, 2, true));
        iron.power_off(&three, START);
        iron.power_on(&two, START);
        assert_eq!(figures(&iron, 0), (3, 2, 2, false), "everybody is needed again");
    }

    #[test]
    fn a_host_with_an_old_configuration_is_thrown_out() {
        let [_, _, three, _] = names();
        let mut iron = iron(&[3, 1, 1], None, false);
        all_on(&mut iron);
        iron.power_off(&three, START);
        iron.turn(&Knob::RaiseConfig, START);
        iron.power_on(&three, START);
        assert_eq!(iron.view(&three).unwrap().members.len(), 3);
        iron.advance_to(START + THROWN_OUT_AFTER);
        assert!(iron.view(&three).is_none());
        assert_eq!(figures(&iron, 0), (5, 4, 3, true));
    }

    #[test]
    fn a_lowered_expectation_lasts_until_somebody_returns() {
        let [_, two, three, _] = names();
        let mut iron = iron(&[1, 1, 1], None, false);
        all_on(&mut iron);
        iron.power_off(&two, START);
        iron.power_off(&three, START);
        iron.turn(&Knob::Expect(1), START);
        assert_eq!(figures(&iron, 0), (1, 1, 1, true));
        iron.power_on(&two, START);
        assert_eq!(figures(&iron, 0).0, 3);
    }
}
