//! Every corosync of a cluster together: who hears whom, and what a QDevice adds.
//!
//! Hosts boot, stop, crash and are cut apart; the members of each new ring exchange their words in
//! the order of their ids, the QDevice's daemons ask their server, and then everybody settles. What
//! comes out is what `corosync-quorumtool` shows on each. The order within one ring is the one
//! thing that real time decides; where it matters, real clusters differ among themselves as well.
//! Two such races are known: whose daemon first reaches an lms server that comes back while the
//! network is split, and which ffsplit daemons start before they see a host of other votes.
//!
//! **Does not know:** wishes, files, how long real corosync takes to notice anything.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::conf::{Algorithm, Conf, Id};
use super::device::Server;
use super::member::{Member, Word};

#[cfg(test)]
mod tests;

/// Answers of a QDevice may change quorums, which makes it judge again, and each newcomer has a
/// round of its own; real ones settle in three beyond those.
const ROUNDS_AT_MOST: usize = 256;

/// The `corosync-qdevice` of one host.
#[derive(Clone, Copy, Debug, Default)]
struct Daemon {
    running: bool,
    /// ffsplit ends itself where the votes do not suit it.
    fit: bool,
    casts: bool,
    /// lms keeps its vote without its server on hosts that wait for all.
    keeps: bool,
    /// Its server was there.
    connected: bool,
}

#[derive(Clone, Debug, Default)]
struct Host {
    member: Option<Member>,
    /// Which part of a split network it is plugged into.
    side: usize,
    daemon: Daemon,
}

/// What one member shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct View {
    pub expected: u32,
    pub total: u32,
    pub quorum: u32,
    pub quorate: bool,
}

/// A cluster in which nothing runs at first.
#[derive(Clone, Debug)]
pub struct Model {
    conf: Conf,
    hosts: BTreeMap<Id, Host>,
    server: Option<Server>,
    now: Duration,
}

impl Model {
    pub fn new(conf: Conf) -> Model {
        let hosts = conf.nodes.keys().map(|id| (*id, Host::default())).collect();
        Model { conf, hosts, server: Some(Server::default()), now: Duration::ZERO }
    }

    pub fn conf(&self) -> &Conf {
        &self.conf
    }

    pub fn up(&self) -> BTreeSet<Id> {
        self.members().map(|(id, _)| id).collect()
    }

    pub fn views(&self) -> BTreeMap<Id, View> {
        self.members().map(|(id, member)| (id, view(member))).collect()
    }

    fn members(&self) -> impl Iterator<Item = (Id, &Member)> {
        self.hosts.iter().filter_map(|(id, host)| Some((*id, host.member.as_ref()?)))
    }

    fn member_mut(&mut self, id: Id) -> Option<&mut Member> {
        self.hosts.get_mut(&id)?.member.as_mut()
    }

    /// Lets time pass; timers that end before `then` ring.
    pub fn pass_until(&mut self, then: Duration) {
        loop {
            let next = self.members().filter_map(|(id, m)| Some((m.due?, id))).min();
            match next {
                Some((due, id)) if due < then => {
                    self.now = self.now.max(due);
                    self.member_mut(id).expect("its timer runs").stand();
                    self.consult();
                }
                Some(_) | None => break,
            }
        }
        self.now = self.now.max(then);
    }

    /// Exactly these are up afterwards: the others stop cleanly, newcomers boot. Answers why a
    /// newcomer's corosync would not start.
    pub fn set_up(&mut self, wanted: &BTreeSet<Id>) -> BTreeMap<Id, String> {
        let up = self.up();
        self.stop(&up.difference(wanted).copied().collect());
        self.boot(&wanted.difference(&up).copied().collect())
    }

    fn stop(&mut self, leaving: &BTreeSet<Id>) {
        if leaving.is_empty() {
            return;
        }
        for id in leaving {
            self.end_daemon(*id);
        }
        self.consult();
        for id in leaving {
            if let Some(word) = self.member_mut(*id).and_then(Member::farewell) {
                self.say(*id, &[word]);
            }
        }
        self.crash(leaving);
    }

    /// Gone without a word.
    pub fn crash(&mut self, gone: &BTreeSet<Id>) {
        for id in gone {
            if let Some(host) = self.hosts.get_mut(id) {
                host.member = None;
                host.daemon = Daemon::default();
            }
        }
        self.regroup();
    }

    fn boot(&mut self, newcomers: &BTreeSet<Id>) -> BTreeMap<Id, String> {
        let mut refused = BTreeMap::new();
        let mut booted = Vec::new();
        for id in newcomers {
            match Member::start(*id, &self.conf) {
                Ok(mut member) => {
                    // Alone at first, as every corosync is.
                    let first = member.word();
                    member.hear(*id, &first);
                    member.meet(&BTreeSet::from([*id]), self.now);
                    for word in member.words() {
                        member.hear(*id, &word);
                    }
                    member.settle();
                    let host = self.hosts.entry(*id).or_default();
                    host.member = Some(member);
                    host.side = 0;
                    booted.push(*id);
                }
                Err(why) => {
                    refused.insert(*id, why);
                }
            }
        }
        // Corosync's units start the QDevice's daemon at once, seconds before a host meets others.
        for id in &booted {
            self.start_daemon(*id);
        }
        self.consult();
        self.regroup();
        refused
    }

    /// The network falls apart; whom no part names stays with the first.
    pub fn partition(&mut self, parts: &[BTreeSet<Id>]) {
        for (id, host) in &mut self.hosts {
            host.side = parts.iter().position(|part| part.contains(id)).unwrap_or(0);
        }
        self.regroup();
    }

    pub fn heal(&mut self) {
        self.partition(&[]);
    }

    /// The QDevice's server lives or dies.
    pub fn set_server(&mut self, alive: bool) {
        match (&self.server, alive) {
            (None, true) => self.server = Some(Server::default()),
            (Some(_), false) => self.server = None,
            (None, false) | (Some(_), true) => {}
        }
        self.consult();
    }

    /// The `corosync-qdevice` of one host is started or stopped.
    pub fn set_daemon(&mut self, id: Id, on: bool) {
        let host = self.hosts.get(&id);
        let Some(running) = host.filter(|h| h.member.is_some()).map(|h| h.daemon.running) else {
            return;
        };
        match (running, on) {
            (false, true) => self.start_daemon(id),
            (true, false) => self.end_daemon(id),
            (true, true) | (false, false) => {}
        }
        self.consult();
    }

    /// `pvecm expected`: false where corosync refuses it.
    pub fn set_expected(&mut self, id: Id, votes: u32) -> bool {
        let Some(word) = self.member_mut(id).and_then(|member| member.set_expected(votes)) else {
            return false;
        };
        self.say(id, &[word]);
        self.consult();
        true
    }

    /// Every host that runs re-reads the new file; the others will when they boot.
    pub fn reload(&mut self, conf: Conf) {
        self.conf = conf;
        for id in self.conf.nodes.keys() {
            self.hosts.entry(*id).or_default();
        }
        let mut said = Vec::new();
        for (id, host) in &mut self.hosts {
            if let Some(member) = &mut host.member {
                said.push((*id, member.reload(&self.conf)));
            }
        }
        for (id, words) in said {
            self.say(id, &words);
        }
        self.consult();
    }

    /// Everybody in the ring of `from`, itself included, hears it.
    fn say(&mut self, from: Id, words: &[Word]) {
        let Some(ring) = self.hosts[&from].member.as_ref().map(|member| member.ring().clone())
        else {
            return;
        };
        for word in words {
            for id in &ring {
                if let Some(member) = self.member_mut(*id) {
                    member.hear(from, word);
                }
            }
        }
    }

    /// New rings, where the network and the living ask for them.
    fn regroup(&mut self) {
        let mut sides: BTreeMap<usize, BTreeSet<Id>> = BTreeMap::new();
        for (id, host) in self.hosts.iter().filter(|(_, host)| host.member.is_some()) {
            sides.entry(host.side).or_default().insert(*id);
        }
        let changed: Vec<BTreeSet<Id>> = sides
            .into_values()
            .filter(|ring| self.members().any(|(id, m)| ring.contains(&id) && m.ring() != ring))
            .collect();
        for ring in &changed {
            let now = self.now;
            for id in ring {
                self.member_mut(*id).expect("it lives").meet(ring, now);
            }
            // Everybody has written its words before it hears the first.
            let said: Vec<(Id, Vec<Word>)> = self
                .members()
                .filter(|(id, _)| ring.contains(id))
                .map(|(id, member)| (id, member.words()))
                .collect();
            for (id, words) in said {
                self.say(id, &words);
            }
        }
        // A ring is not settled before the QDevice has answered for it.
        self.consult();
        for id in changed.iter().flatten() {
            self.member_mut(*id).expect("it lives").settle();
        }
        self.consult();
    }

    fn start_daemon(&mut self, id: Id) {
        let Some(device) = self.conf.device else { return };
        let Some(member) = self.member_mut(id) else { return };
        if !member.device_can_operate {
            return;
        }
        let fit = match device.algorithm {
            Algorithm::Ffsplit => device.votes == Some(1) && member.all_have_one_vote(),
            Algorithm::Lms => true,
        };
        member.poll(true, false, false);
        let words: Vec<Word> = member.words().into_iter().rev().collect();
        let keeps = self.conf.quorum.wait_for_all.is_some_and(|on| on > 0)
            && device.algorithm == Algorithm::Lms;
        let daemon = Daemon { running: true, fit, keeps, ..Daemon::default() };
        self.hosts.get_mut(&id).expect("it lives").daemon = daemon;
        self.say(id, &words);
    }

    fn end_daemon(&mut self, id: Id) {
        let Some(host) = self.hosts.get_mut(&id) else { return };
        host.daemon = Daemon::default();
        let Some(member) = &mut host.member else { return };
        if member.registered() {
            member.poll(false, false, false);
            let word = member.word();
            self.say(id, &[word]);
        }
    }

    /// The daemons ask their server and tell their members, until nothing changes.
    fn consult(&mut self) {
        let Some(device) = self.conf.device else { return };
        for _ in 0..ROUNDS_AT_MOST {
            let asking = self.heard(device.algorithm);
            let (answers, all_connected) = self.asked(device.algorithm, asking);
            if !self.polled(&answers) && all_connected {
                break;
            }
        }
    }

    /// Whose listeners were told of a quorum; the ffsplit daemon looks at the votes once more when
    /// the expected votes change.
    fn heard(&mut self, algorithm: Algorithm) -> BTreeSet<Id> {
        let mut asking = BTreeSet::new();
        for (id, host) in &mut self.hosts {
            let Some(member) = &mut host.member else { continue };
            let expected = std::mem::take(&mut member.told_expected);
            match algorithm {
                Algorithm::Ffsplit if expected && !member.all_have_one_vote() => {
                    host.daemon.fit = false;
                }
                Algorithm::Ffsplit | Algorithm::Lms => {}
            }
            if std::mem::take(&mut member.told_quorum) {
                asking.insert(*id);
                if !host.daemon.connected {
                    host.daemon.casts = false;
                }
            }
        }
        asking
    }

    /// The server's answers, and whether all its newcomers have had one.
    fn asked(
        &mut self,
        algorithm: Algorithm,
        mut asking: BTreeSet<Id>,
    ) -> (BTreeMap<Id, bool>, bool) {
        let alive = self.server.is_some();
        let mut rings = BTreeMap::new();
        for (id, host) in &mut self.hosts {
            let Some(member) = &host.member else { continue };
            let connected = host.daemon.running && host.daemon.fit && alive;
            if host.daemon.connected && !connected {
                host.daemon.casts &= host.daemon.running && host.daemon.keeps && member.quorate();
            }
            host.daemon.connected = connected;
            if connected {
                rings.insert(*id, member.ring().clone());
            }
        }
        let Some(server) = &mut self.server else { return (BTreeMap::new(), true) };
        asking.append(&mut server.connected(&rings));
        let answers = server.answer(algorithm, &self.conf.nodes.keys().copied().collect(), &asking);
        (answers, server.len() == rings.len())
    }

    /// Tells the members; true if that changed anything for anybody.
    fn polled(&mut self, answers: &BTreeMap<Id, bool>) -> bool {
        let mut news = Vec::new();
        for (id, host) in &mut self.hosts {
            let Some(member) = host.member.as_mut().filter(|_| host.daemon.running) else {
                continue;
            };
            if let Some(vote) = answers.get(id) {
                host.daemon.casts = *vote;
            }
            let alive = host.daemon.fit && member.device_can_operate;
            if member.poll(true, alive, alive && host.daemon.casts) {
                news.push((*id, member.word()));
            }
        }
        for (id, word) in &news {
            self.say(*id, &[*word]);
        }
        !news.is_empty() || self.members().any(|(_, m)| m.told_quorum || m.told_expected)
    }
}

fn view(member: &Member) -> View {
    View {
        expected: member.expected(),
        total: member.total(),
        quorum: member.quorum(),
        quorate: member.quorate(),
    }
}
