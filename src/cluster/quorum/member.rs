//! What one running corosync knows of votes, and how each word it hears changes that.
//!
//! Votequorum is no formula over who is up: every member keeps a table of its own, learns the
//! highest expected votes it ever saw, forgets them only on certain events, and so two members of
//! one partition may disagree. Hence one [`Member`] per instance, moved by the words the members
//! exchange when a ring forms. Facts from `votequorum(5)` and from measuring corosync 3.1.7; PVE 8
//! and 9 carry the same rules.
//!
//! **Does not know:** who hears whom, what a QDevice's server decides.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::conf::{Conf, Id, TieBreaker};

/// `last_man_standing_window`, unless the file says otherwise.
const LAST_MAN_STANDING_WINDOW: Duration = Duration::from_secs(10);

/// What a member says of itself with its votes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flags {
    pub quorate: bool,
    pub leaving: bool,
    /// It waits for all before its first quorum.
    pub waiting: bool,
    /// It has met nobody yet.
    pub first: bool,
    pub registered: bool,
    pub alive: bool,
    /// The QDevice votes for it.
    pub cast: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Member,
    Dead,
    Leaving,
}

#[derive(Clone, Copy, Debug)]
struct Peer {
    standing: Standing,
    votes: u32,
    expected: u32,
    flags: Flags,
}

/// What members of one ring say to each other; all hear it in the same order.
#[derive(Clone, Copy, Debug)]
pub(super) enum Word {
    Node { of: Id, votes: u32, expected: u32, flags: Flags },
    Device { votes: u32 },
    Expect { votes: u32 },
    Votes { of: Id, votes: u32 },
}

/// One corosync, from its start to its end.
#[derive(Clone, Debug)]
pub(super) struct Member {
    id: Id,
    peers: BTreeMap<Id, Peer>,
    device_votes: u32,
    /// Counted in eight bits by corosync itself.
    quorum: u8,
    quorate: bool,
    two_node: bool,
    wait_for_all: bool,
    /// Not written in the file, so it follows `two_node`.
    wait_for_all_follows: bool,
    waiting: bool,
    last_man_standing: bool,
    window: Duration,
    /// As read at the start; odd votes may disable it for a while.
    tie_breaker_read: Option<TieBreaker>,
    tie_breaker: Option<TieBreaker>,
    allow_downscale: bool,
    barrier: u32,
    highest_tracked: u32,
    lowest_id: Option<Id>,
    highest_id: Option<Id>,
    ring: BTreeSet<Id>,
    ring_before: BTreeSet<Id>,
    syncing: bool,
    /// When the last man stands alone long enough.
    pub due: Option<Duration>,
    /// Whether a QDevice may register; a reload can forbid it.
    pub device_can_operate: bool,
    /// Something its listeners (the QDevice daemon) were told since they last asked.
    pub told_quorum: bool,
    pub told_expected: bool,
}

impl Member {
    /// A corosync started with this file, alone; or why it exits with status 20.
    pub fn start(id: Id, conf: &Conf) -> Result<Member, String> {
        if conf.votes_of(id).is_none() {
            return Err("its corosync.conf does not name it among the nodes".into());
        }
        let quorum = &conf.quorum;
        let us = Peer {
            standing: Standing::Member,
            votes: 1,
            expected: 0,
            flags: Flags { first: true, ..Flags::default() },
        };
        let tie_breaker = quorum.tie_breaker();
        let mut member = Member {
            id,
            peers: BTreeMap::from([(id, us)]),
            device_votes: 0,
            quorum: 0,
            quorate: false,
            two_node: quorum.two_node(),
            wait_for_all: quorum.wait_for_all.is_some_and(|on| on > 0),
            wait_for_all_follows: quorum.wait_for_all.is_none(),
            waiting: false,
            last_man_standing: quorum.last_man_standing(),
            window: quorum
                .last_man_standing_window
                .map_or(LAST_MAN_STANDING_WINDOW, |ms| Duration::from_millis(ms.into())),
            tie_breaker_read: tie_breaker.clone(),
            tie_breaker,
            allow_downscale: quorum.allow_downscale(),
            barrier: 0,
            highest_tracked: 0,
            lowest_id: None,
            highest_id: None,
            ring: BTreeSet::new(),
            ring_before: BTreeSet::new(),
            syncing: false,
            due: None,
            device_can_operate: true,
            told_quorum: false,
            told_expected: false,
        };
        member.read(conf, true)?;
        member.recount(false, false);
        Ok(member)
    }

    /// Takes the file in: at the start, where a contradiction is fatal, or at a reload, where it
    /// switches the QDevice off.
    fn read(&mut self, conf: &Conf, starting: bool) -> Result<(), String> {
        let sum = conf.votes_sum();
        let own = conf.votes_of(self.id);
        let mut expected = conf.quorum.expected_votes.unwrap_or(0);
        if !starting {
            self.two_node = conf.quorum.two_node();
            self.tie_breaker = self.tie_breaker_read.clone();
            if own.is_none() && expected == 0 {
                // Taken out of the list: it goes on with what it has.
                return Ok(());
            }
        }
        let device = conf.device.as_ref();
        if device.is_some() {
            self.device_can_operate = true;
        }
        if self.two_node && device.is_some() {
            if starting {
                return Err("two_node and a quorum device cannot both be configured".into());
            }
            if self.us().flags.registered {
                self.two_node = false;
            } else {
                self.device_can_operate = false;
            }
        }
        if self.wait_for_all_follows {
            self.wait_for_all = self.two_node;
        }
        if self.two_node && self.tie_breaker.is_some() {
            self.two_node = false;
        }
        if self.tie_breaker.is_some() && sum % 2 == 1 && !self.wait_for_all {
            if self.last_man_standing {
                if starting {
                    return Err(
                        "auto_tie_breaker with last_man_standing needs wait_for_all where \
                                the votes are odd"
                            .into(),
                    );
                }
                return Ok(());
            }
            self.tie_breaker = None;
        }
        if let Some(why) = device.and_then(|_| conf.device_conflict(self.tie_breaker.is_some())) {
            if starting {
                return Err(why);
            }
            self.device_can_operate = false;
        }
        let mut nodes_expected = sum;
        let mut device_votes = device.map(|device| device.votes);
        if device_votes == Some(None) && expected == 0 && conf.one_each_on_average() {
            device_votes = Some(Some(sum.saturating_sub(1)));
            nodes_expected += sum.saturating_sub(1);
        }
        if self.allow_downscale {
            expected = self.highest_tracked;
        }
        if let Some(votes) = own {
            self.us_mut().votes = votes;
            self.us_mut().expected = nodes_expected;
        }
        if expected > 0 {
            self.us_mut().expected = expected;
        }
        match device_votes {
            None => self.device_votes = 0,
            Some(Some(votes)) => self.device_votes = votes,
            Some(None) => {}
        }
        self.barrier = self.us().expected;
        if self.wait_for_all {
            if starting {
                self.wait(true);
            }
        } else if self.wait_for_all_follows && self.waiting {
            self.wait(false);
        }
        Ok(())
    }

    /// Re-reads the file, and what it then says to the others.
    pub fn reload(&mut self, conf: &Conf) -> Vec<Word> {
        let (votes, expected) = (self.us().votes, self.us().expected);
        self.read(conf, false).expect("nothing in the file ends a corosync that runs");
        let mut words = self.words();
        if self.us().votes != votes {
            words.push(Word::Votes { of: self.id, votes: self.us().votes });
        }
        if self.us().expected != expected {
            words.push(Word::Expect { votes: self.us().expected });
        }
        words
    }

    fn us(&self) -> &Peer {
        &self.peers[&self.id]
    }

    fn us_mut(&mut self) -> &mut Peer {
        self.peers.get_mut(&self.id).expect("it knows itself from its start")
    }

    fn wait(&mut self, waiting: bool) {
        self.waiting = waiting;
        self.us_mut().flags.waiting = waiting;
    }

    /// What it says of itself.
    pub fn word(&self) -> Word {
        let Peer { votes, expected, flags, .. } = *self.us();
        Word::Node { of: self.id, votes, expected, flags }
    }

    /// What it says whenever a ring forms.
    pub fn words(&self) -> Vec<Word> {
        vec![self.word(), Word::Device { votes: self.device_votes }]
    }

    /// Says it leaves, if the file lets a leaving host lower the expected votes.
    pub fn farewell(&mut self) -> Option<Word> {
        self.allow_downscale.then(|| {
            self.us_mut().flags.leaving = true;
            self.word()
        })
    }

    /// A ring has formed of these.
    pub fn meet(&mut self, ring: &BTreeSet<Id>, now: Duration) {
        self.syncing = true;
        if ring.len() > 1 {
            self.us_mut().flags.first = false;
        }
        let left: Vec<Id> = self.ring.difference(ring).copied().collect();
        for id in &left {
            if let Some(peer) = self.peers.get_mut(id) {
                peer.standing = Standing::Dead;
            }
        }
        if self.last_man_standing {
            let quorum = usize::from(self.quorum);
            let fewer = ring.len() >= quorum && !left.is_empty();
            let tied = ring.len() <= quorum
                && self.tie_breaker.is_some()
                && self.lowest_id.is_some_and(|id| self.sees(id));
            if fewer || tied {
                self.due = Some(now + self.window);
            }
        }
        self.ring_before = std::mem::replace(&mut self.ring, ring.clone());
    }

    fn sees(&self, id: Id) -> bool {
        self.peers.get(&id).is_some_and(|peer| peer.standing == Standing::Member)
    }

    /// The ring has exchanged its words.
    pub fn settle(&mut self) {
        self.recount(false, false);
        self.told_quorum = true;
        self.syncing = false;
    }

    /// The last man has stood long enough.
    pub fn stand(&mut self) {
        self.due = None;
        if self.quorate {
            self.recount(true, true);
        }
    }

    pub fn hear(&mut self, from: Id, word: &Word) {
        match *word {
            Word::Node { of, votes, expected, flags } => self.hear_node(of, votes, expected, flags),
            Word::Device { votes } => {
                let sender_quorate = self.peers.get(&from).is_some_and(|peer| peer.flags.quorate);
                let before = self.device_votes;
                self.device_votes = match !self.quorate && sender_quorate {
                    true => votes,
                    false => before.max(votes),
                };
                if self.device_votes != before {
                    self.recount(false, false);
                }
            }
            Word::Expect { votes } => {
                self.expect(votes);
                self.told_expected = true;
                self.barrier = votes;
                if self.allow_downscale {
                    let tracked = self.highest_tracked;
                    self.us_mut().expected = self.us().expected.max(tracked);
                }
                self.recount(true, false);
            }
            Word::Votes { of, votes } => {
                if let Some(peer) = self.peers.get_mut(&of) {
                    peer.votes = votes;
                    self.recount(true, false);
                }
            }
        }
    }

    fn hear_node(&mut self, of: Id, votes: u32, expected: u32, flags: Flags) {
        let before = self.peers.get(&of).copied();
        let nobody = Peer { standing: Standing::Dead, votes: 0, expected: 0, flags };
        let peer = self.peers.entry(of).or_insert(nobody);
        peer.flags = flags;
        peer.votes = votes;
        peer.standing = if flags.leaving { Standing::Leaving } else { Standing::Member };
        let mut lower = flags.leaving;
        if !self.quorate && flags.quorate {
            lower = true;
            self.us_mut().expected = expected;
        }
        let ours = self.us().expected;
        let believed = if flags.quorate || self.allow_downscale { expected } else { ours };
        self.peers.get_mut(&of).expect("put there above").expected = believed;
        if self.last_man_standing && votes > 1 {
            // It works only with one vote each.
            self.last_man_standing = false;
            self.due = None;
        }
        let now = self.peers[&of];
        let changed = before.is_none_or(|before| {
            before.votes != now.votes
                || before.expected != now.expected
                || before.flags != now.flags
                || before.standing != now.standing
        });
        if changed || of == self.id || flags.first {
            self.recount(lower, flags.leaving);
        }
        // Read again: hearing of itself may have changed its own flags meanwhile.
        let flags = self.peers[&of].flags;
        if self.wait_for_all && !flags.waiting && flags.quorate {
            self.wait(false);
        }
    }

    /// Every member it sees expects this many.
    fn expect(&mut self, votes: u32) {
        if votes > 0 {
            for peer in self.peers.values_mut() {
                if peer.standing == Standing::Member {
                    peer.expected = votes;
                }
            }
        }
    }

    fn members(&self) -> impl Iterator<Item = (&Id, &Peer)> {
        self.peers.iter().filter(|(_, peer)| peer.standing == Standing::Member)
    }

    /// Votes present, as it shows them: the QDevice's only when cast for this very host.
    pub fn total(&self) -> u32 {
        let device = if self.us().flags.cast { self.device_votes } else { 0 };
        self.members().fold(device, |sum, (_, peer)| sum.saturating_add(peer.votes))
    }

    /// `lower` lets the quorum fall; `by_members` sets the expected votes to the number of members.
    fn recount(&mut self, lower: bool, by_members: bool) {
        let nodes = self.members().count();
        let most =
            self.members().fold(self.device_votes, |sum, (_, p)| sum.saturating_add(p.votes));
        let present = u32::try_from(nodes).unwrap_or(u32::MAX) + u32::from(self.device_votes > 0);
        let expect = if by_members { present } else { 0 };
        if most > self.us().expected {
            self.us_mut().expected = most;
            self.told_expected = true;
        }
        if self.allow_downscale {
            self.highest_tracked = self.highest_tracked.max(self.us().expected);
        }
        let asked = match expect > 0 && lower && self.allow_downscale {
            true => expect.max(self.barrier),
            false => expect,
        };
        self.quorum = self.majority(lower, asked);
        self.expect(expect);
        self.judge();
    }

    /// The quorum for `asked` expected votes (0: the highest any member expects).
    fn majority(&self, lower: bool, asked: u32) -> u8 {
        let total = self.total();
        let highest = match asked {
            0 => self.members().map(|(_, peer)| peer.expected).max().unwrap_or(0),
            asked => asked,
        };
        let half = |votes: u32| u32::try_from((u64::from(votes) + 2) / 2).unwrap_or(u32::MAX);
        let mut quorum = half(highest).max(half(total));
        if !lower {
            quorum = quorum.max(self.quorum.into());
        }
        let voices = self.members().count() + usize::from(self.us().flags.cast);
        if self.two_node && voices <= 2 {
            quorum = 1;
        }
        // Corosync keeps it in eight bits.
        #[expect(clippy::cast_possible_truncation, reason = "as corosync itself wraps it")]
        let kept = quorum as u8;
        kept
    }

    fn judge(&mut self) {
        let total = self.total();
        let expected = self.us().expected;
        if self.wait_for_all && self.waiting {
            if total != expected {
                return;
            }
            self.wait(false);
        }
        let mut quorate = u32::from(self.quorum) <= total;
        if quorate {
            let ids = || self.members().map(|(id, _)| *id);
            (self.lowest_id, self.highest_id) = (ids().min(), ids().max());
        }
        let split_off = i64::try_from(self.ring_before.len()).unwrap_or(i64::MAX)
            - i64::try_from(self.ring.len()).unwrap_or(0);
        if total == expected / 2 && split_off < i64::from(self.quorum) && self.ties_go_here() {
            quorate = true;
        }
        let changed = self.quorate != quorate;
        self.quorate = quorate;
        self.us_mut().flags.quorate = quorate;
        if self.wait_for_all {
            self.wait(!quorate);
        }
        if changed && !self.syncing {
            self.told_quorum = true;
        }
    }

    fn ties_go_here(&self) -> bool {
        match &self.tie_breaker {
            None => false,
            Some(TieBreaker::Lowest) => self.lowest_id.is_some_and(|id| self.sees(id)),
            Some(TieBreaker::Highest) => self.highest_id.is_some_and(|id| self.sees(id)),
            Some(TieBreaker::Listed(ids)) => {
                let here = ids.iter().position(|id| self.ring.contains(id));
                here.is_some_and(|at| !ids[..at].iter().any(|id| self.ring_before.contains(id)))
            }
        }
    }

    /// `corosync-quorumtool -e`: what is then said to all, or nothing where it is refused.
    pub fn set_expected(&mut self, votes: u32) -> Option<Word> {
        let total = self.total();
        let quorum = u32::from(self.majority(true, votes));
        if votes < total || (self.quorate && quorum > total) {
            return None;
        }
        self.expect(votes);
        Some(Word::Expect { votes })
    }

    /// What the QDevice daemon beside it says; true if that changed anything.
    pub fn poll(&mut self, registered: bool, alive: bool, cast: bool) -> bool {
        let before = self.us().flags;
        self.us_mut().flags = Flags { registered, alive, cast, ..before };
        self.us().flags != before
    }

    pub fn registered(&self) -> bool {
        self.us().flags.registered
    }

    /// Votes of everybody it ever saw, and of the QDevice: what the ffsplit daemon looks at.
    pub fn all_have_one_vote(&self) -> bool {
        self.device_votes == 1 && self.peers.values().all(|peer| peer.votes == 1)
    }

    #[cfg(test)]
    /// The membership table: votes and flags of everybody it sees.
    pub fn table(&self) -> impl Iterator<Item = (Id, u32, Flags)> {
        self.members().map(|(id, peer)| (*id, peer.votes, peer.flags))
    }

    #[cfg(test)]
    /// As `corosync-quorumtool` names them, less the QDevice's.
    pub fn shown_flags(&self) -> BTreeSet<String> {
        let shown = [
            (self.quorate, "Quorate"),
            (self.two_node, "2Node"),
            (self.wait_for_all, "WaitForAll"),
            (self.last_man_standing, "LastManStanding"),
            (self.tie_breaker.is_some(), "AutoTieBreaker"),
            (self.allow_downscale, "AllowDownscale"),
        ];
        shown.iter().filter(|(on, _)| *on).map(|(_, name)| (*name).to_owned()).collect()
    }

    pub fn ring(&self) -> &BTreeSet<Id> {
        &self.ring
    }

    pub fn expected(&self) -> u32 {
        self.us().expected
    }

    pub fn quorum(&self) -> u32 {
        self.quorum.into()
    }

    pub fn quorate(&self) -> bool {
        self.quorate
    }
}
