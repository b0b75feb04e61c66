//! From an [`Ask`] to the entries that make it so, or to the sentence why not.
//!
//! Everything is judged here that can be judged at once: unknown, `low` and frozen hosts, times
//! that make no sense. Whether it *works* is for the plan and the gate, which tell it turn by turn.
//! An ask for several hosts is taken for all of them or for none.
//!
//! **Does not know:** sockets, and how sentences are printed.

use std::time::Duration;

use jiff::Timestamp;

use super::bounds::proven;
use super::{Ask, Asked};
use crate::cluster::{HostName, Moment, Observation, Tier, Vmid};
use crate::gate::{Here, Mode};
use crate::ledger::{Entry, Lease, Ledger, Presence, Wants};
use crate::plan::hold::about;
use crate::policy::{GuestTraits, Host, Policy};

/// Nobody means a lease of more than a year; a slip of the keyboard does.
const LEASE: Duration = Duration::from_secs(366 * 24 * 3600);
/// Hosts in one ask: corosync knows no more than 32 anyway.
const HOSTS: usize = 32;
/// Of a `because`; it is shown in one line.
const BECAUSE_CHARACTERS: usize = 200;

/// What an ask is judged by.
pub(super) struct Counter<'a> {
    pub policy: Option<&'a Policy>,
    pub ledger: &'a Ledger,
    /// The last look, where there was one.
    pub seen: Option<&'a Observation>,
    pub mode: Mode,
    pub here: &'a Here,
    pub now: Moment,
}

/// Entries to be journaled, and what is said when they are.
#[derive(Debug, Default)]
pub(super) struct Granted {
    pub entries: Vec<Entry>,
    pub sentences: Vec<String>,
}

impl Granted {
    fn one(entry: Entry, sentence: String) -> Granted {
        Granted { entries: vec![entry], sentences: vec![sentence] }
    }

    fn add(&mut self, more: Granted) {
        self.entries.extend(more.entries);
        self.sentences.extend(more.sentences);
    }
}

fn refused(sentence: String, remedy: String) -> Asked {
    Asked::Refused { sentence, remedy }
}

impl Counter<'_> {
    pub(super) fn judge(&self, ask: &Ask, by: &str, confirmed: bool) -> Result<Granted, Asked> {
        let granted = match ask {
            Ask::Up { hosts, guest, until, for_seconds, because } => {
                let mut hosts = hosts.clone();
                if let Some(guest) = guest {
                    hosts.push(self.preferred(*guest)?);
                }
                let because = tidy(because.as_deref())?;
                self.each(&hosts, |name, host| {
                    self.up(name, host, self.end(*until, *for_seconds)?, because.clone(), by)
                })?
            }
            Ask::Down { hosts, until, for_seconds } => self.each(hosts, |name, host| {
                self.down(name, host, self.end(*until, *for_seconds)?, by)
            })?,
            Ask::Empty { host } => self.empty(host, by)?,
            Ask::Release { host } => self.release(host, by)?,
            Ask::Freeze { host } => self.freeze(host, by)?,
            Ask::Thaw { host } => self.thaw(host, by)?,
            Ask::Prove { host } => self.prove(host, by)?,
        };
        match (self.mode, ask) {
            (
                Mode::Rehearse,
                Ask::Up { .. } | Ask::Down { .. } | Ask::Empty { .. } | Ask::Prove { .. },
            ) if !confirmed => Err(Asked::Confirm {
                sentence: format!(
                    "spot only rehearses, and this would really be done: {}",
                    granted.sentences.join("; ")
                ),
            }),
            (Mode::Rehearse | Mode::Act, _) => Ok(granted),
        }
    }

    fn each(
        &self,
        hosts: &[HostName],
        one: impl Fn(&HostName, &Host) -> Result<Granted, Asked>,
    ) -> Result<Granted, Asked> {
        if hosts.is_empty() {
            return Err(refused("no host was named".into(), self.known_hosts()));
        }
        if hosts.len() > HOSTS {
            return Err(refused(
                format!("{} hosts at once are too many", hosts.len()),
                format!("name at most {HOSTS}"),
            ));
        }
        let mut all = Granted::default();
        for (place, name) in hosts.iter().enumerate() {
            if !hosts[..place].contains(name) {
                all.add(one(name, self.known(name)?)?);
            }
        }
        Ok(all)
    }

    /// The host's description, if both the policy and the cluster know it.
    fn known(&self, name: &HostName) -> Result<&Host, Asked> {
        let Some(policy) = self.policy else {
            return Err(refused(
                "there is no valid policy, so spot knows no host".into(),
                "spot check shows what is wrong with the policy files".into(),
            ));
        };
        let Some(host) = policy.host(name) else {
            return Err(refused(format!("no policy names a host {name}"), self.known_hosts()));
        };
        let listed = self
            .seen
            .filter(|seen| seen.quorate.is_some())
            .map(|seen| seen.hosts.get(name).is_some_and(|look| look.listed));
        if listed == Some(false) {
            return Err(refused(
                format!("the policy names {name}, and the cluster has no such host"),
                format!("give {name} the name PVE has for it, or set `node:` in its policy"),
            ));
        }
        Ok(host)
    }

    fn known_hosts(&self) -> String {
        let hosts = self.policy.into_iter().flat_map(|policy| policy.hosts().keys());
        let names: Vec<&str> = hosts.map(HostName::as_str).collect();
        match names.is_empty() {
            true => "write a policy first; policies/homelab.yaml is a place to start".into(),
            false => format!("known hosts: {}", names.join(", ")),
        }
    }

    fn thawed(&self, name: &HostName) -> Result<(), Asked> {
        match self.ledger.frozen.get(name) {
            Some(by) => Err(refused(
                format!("{name} is frozen by {by}, so it is left exactly as it is"),
                format!("spot thaw {name}"),
            )),
            None => Ok(()),
        }
    }

    fn not_low(&self, name: &HostName, host: &Host) -> Result<(), Asked> {
        match host.tier {
            Tier::Low => Err(refused(
                format!("{name} is of tier low: it is always on, and spot never switches it"),
                "give it another tier in its policy if it may sleep".into(),
            )),
            Tier::Medium | Tier::High => Ok(()),
        }
    }

    fn not_here(&self, name: &HostName) -> Result<(), Asked> {
        let lives_on = match self.here {
            Here::Host(host) => Some(host),
            Here::Guest(vmid) => {
                self.seen.and_then(|seen| seen.guests.get(vmid)).map(|guest| &guest.host)
            }
            Here::Outside | Here::Unknown => None,
        };
        match lives_on == Some(name) {
            true => Err(refused(
                format!("spot itself runs on {name}"),
                "move spot to a host that is always on".into(),
            )),
            false => Ok(()),
        }
    }

    /// When a lease ends, if the ask says so.
    fn end(
        &self,
        until: Option<Timestamp>,
        seconds: Option<u64>,
    ) -> Result<Option<Timestamp>, Asked> {
        let now = self.now.civil;
        let end = match (until, seconds) {
            (None, None) => return Ok(None),
            (Some(_), Some(_)) => {
                return Err(refused(
                    "both an end and a length were given".into(),
                    "give one: --for 4h or --until 18:00".into(),
                ));
            }
            (Some(until), None) => Some(until),
            (None, Some(seconds)) => now.checked_add(Duration::from_secs(seconds)).ok(),
        };
        match end {
            Some(end) if end <= now => Err(refused(
                format!("{end} is not in the future"),
                "give an end that lies ahead, or a length: --for 4h".into(),
            )),
            Some(end) if end.duration_since(now).unsigned_abs() <= LEASE => Ok(Some(end)),
            Some(_) | None => Err(refused(
                "that is longer than a year".into(),
                "give a shorter time; a host that should always run is of tier low".into(),
            )),
        }
    }

    fn up(
        &self,
        name: &HostName,
        host: &Host,
        end: Option<Timestamp>,
        because: Option<String>,
        by: &str,
    ) -> Result<Granted, Asked> {
        self.not_low(name, host)?;
        self.thawed(name)?;
        if host.macs.is_empty() && self.ledger.host(name).presence != Presence::Awake {
            return Err(refused(
                format!("the MAC address of {name} is not known, so it cannot be woken"),
                format!("write `mac:` for {name} into its policy"),
            ));
        }
        let until = match end {
            Some(end) => end,
            None => self.end(None, Some(host.lease.as_secs()))?.unwrap_or(self.now.civil),
        };
        let mut granted = Granted::default();
        if self.ledger.proving.contains_key(name) {
            let why = format!("{by} wants it awake");
            granted.entries.push(Entry::ProofEnded { host: name.clone(), why });
        }
        let left = until.duration_since(self.now.civil).unsigned_abs();
        granted.sentences.push(format!(
            "{name} is wanted awake for {} (until {until:.0}), and guests that prefer it go there",
            about(left)
        ));
        granted.sentences.extend(self.replaced(name));
        granted.entries.push(Entry::LeaseGranted {
            host: name.clone(),
            wants: Wants::Awake,
            until: Some(until),
            because,
            by: by.to_owned(),
        });
        Ok(granted)
    }

    /// The newer of two wishes counts; whoever had the older one may want to hear of it.
    fn replaced(&self, name: &HostName) -> Option<String> {
        let Lease { wants, until, by, .. } = self.ledger.leases.get(name)?;
        let until = until.map_or(String::new(), |until| format!(" until {until:.0}"));
        let wants = match wants {
            Wants::Awake => "awake",
            Wants::Rest => "at rest",
        };
        Some(format!("this replaces the lease by which {by} wanted {name} {wants}{until}"))
    }

    fn down(
        &self,
        name: &HostName,
        host: &Host,
        until: Option<Timestamp>,
        by: &str,
    ) -> Result<Granted, Asked> {
        self.not_low(name, host)?;
        self.thawed(name)?;
        self.not_here(name)?;
        let mut granted = Granted::default();
        if let Some(who) = self.ledger.emptying.get(name) {
            granted.entries.push(Entry::EmptyingReleased { host: name.clone(), by: by.to_owned() });
            granted.sentences.push(format!("this ends the emptying that {who} asked for"));
        }
        granted.entries.push(Entry::LeaseGranted {
            host: name.clone(),
            wants: Wants::Rest,
            until,
            because: None,
            by: by.to_owned(),
        });
        let backups = self.ledger.backups.runs(self.now.civil);
        let next = self.policy;
        let next = next.and_then(|policy| policy.next_opening(name, self.now.civil, &backups));
        granted.sentences.push(match (until, next) {
            (Some(until), _) => {
                let left = until.duration_since(self.now.civil).unsigned_abs();
                format!("{name} is wanted at rest for {} (until {until:.0})", about(left))
            }
            (None, Some((policy, opening))) => {
                format!("{name} is wanted at rest until {policy} opens ({})", opening.opens)
            }
            (None, None) => format!("{name} is wanted at rest until spot up or spot release"),
        });
        granted.sentences.extend(self.replaced(name));
        if !proven(host, &self.ledger.host(name)) {
            granted.sentences.push(format!(
                "spot has not seen {name} wake by packet: you may have to switch it on by hand"
            ));
        }
        Ok(granted)
    }

    fn empty(&self, name: &HostName, by: &str) -> Result<Granted, Asked> {
        self.known(name)?;
        self.thawed(name)?;
        if self.ledger.emptying.contains_key(name) {
            return Ok(Granted {
                sentences: vec![format!("{name} is being emptied already")],
                ..Granted::default()
            });
        }
        let mut granted = Granted::default();
        if self.ledger.leases.get(name).is_some_and(|lease| lease.wants == Wants::Rest) {
            let why = format!("{by} wants it empty and on");
            granted.entries.push(Entry::LeaseEnded { host: name.clone(), why });
        }
        granted.add(Granted::one(
            Entry::EmptyingAsked { host: name.clone(), by: by.to_owned() },
            format!("{name} is emptied and kept on until spot release {name}"),
        ));
        Ok(granted)
    }

    fn release(&self, name: &HostName, by: &str) -> Result<Granted, Asked> {
        let mut granted = Granted::default();
        if let Some(lease) = self.ledger.leases.get(name) {
            granted.add(Granted::one(
                Entry::LeaseEnded { host: name.clone(), why: format!("{by} released it") },
                format!("the lease of {name} ({}) is over", lease.wants),
            ));
        }
        if self.ledger.emptying.contains_key(name) {
            granted.add(Granted::one(
                Entry::EmptyingReleased { host: name.clone(), by: by.to_owned() },
                format!("{name} takes guests again"),
            ));
        }
        if self.ledger.proving.contains_key(name) {
            granted.add(Granted::one(
                Entry::ProofEnded { host: name.clone(), why: format!("{by} released it") },
                format!("the proof of {name} is given up"),
            ));
        }
        if granted.entries.is_empty() {
            self.known(name)?;
            return Err(refused(
                format!("{name} has no lease, is not being emptied and not being proven"),
                format!("spot why {name} says what keeps it as it is"),
            ));
        }
        Ok(granted)
    }

    fn freeze(&self, name: &HostName, by: &str) -> Result<Granted, Asked> {
        self.known(name)?;
        if let Some(by) = self.ledger.frozen.get(name) {
            return Ok(Granted {
                sentences: vec![format!("{name} is frozen already, by {by}")],
                ..Granted::default()
            });
        }
        Ok(Granted::one(
            Entry::Frozen { host: name.clone(), by: by.to_owned() },
            format!("{name} is left exactly as it is until spot thaw {name}"),
        ))
    }

    /// Possible for a host that no policy names any more, or it would stay frozen for ever.
    fn thaw(&self, name: &HostName, by: &str) -> Result<Granted, Asked> {
        if self.ledger.frozen.contains_key(name) {
            return Ok(Granted::one(
                Entry::Thawed { host: name.clone(), by: by.to_owned() },
                format!("{name} is taken up again"),
            ));
        }
        self.known(name)?;
        Ok(Granted { sentences: vec![format!("{name} was not frozen")], ..Granted::default() })
    }

    fn prove(&self, name: &HostName, by: &str) -> Result<Granted, Asked> {
        let host = self.known(name)?;
        self.not_low(name, host)?;
        self.thawed(name)?;
        self.not_here(name)?;
        if host.macs.is_empty() {
            return Err(refused(
                format!("the MAC address of {name} is not known, so it cannot be woken"),
                format!("write `mac:` for {name} into its policy"),
            ));
        }
        let taken =
            self.ledger.leases.contains_key(name) || self.ledger.emptying.contains_key(name);
        if taken {
            return Err(refused(
                format!("{name} has a lease or is being emptied"),
                format!("spot release {name} first"),
            ));
        }
        if self.ledger.proving.contains_key(name) {
            return Ok(Granted {
                sentences: vec![format!("{name} is being proven already")],
                ..Granted::default()
            });
        }
        Ok(Granted::one(
            Entry::ProofAsked { host: name.clone(), by: by.to_owned() },
            format!(
                "{name} is put to sleep and woken once, under supervision; should the packet not \
                 wake it, it has to be switched on by hand"
            ),
        ))
    }

    /// The first host a guest prefers.
    fn preferred(&self, vmid: Vmid) -> Result<HostName, Asked> {
        let seen = self.seen.and_then(|seen| seen.guests.get(&vmid));
        let Some(guest) = seen else {
            return Err(refused(
                format!("no guest {vmid} is seen"),
                "look at the guests: spot status".into(),
            ));
        };
        let known = self.ledger.guests.get(&vmid).and_then(|record| record.name.as_deref());
        let traits = GuestTraits {
            vmid,
            kind: guest.kind,
            name: guest.name.as_deref().or(known),
            tags: &guest.tags,
            pool: guest.pool.as_deref(),
        };
        let rule = self.policy.and_then(|policy| policy.guest_rule(&traits));
        rule.and_then(|rule| rule.prefer.first()).cloned().ok_or_else(|| {
            refused(
                format!("no rule says which host guest {vmid} prefers"),
                format!("give a rule for guest {vmid} `prefer:`, or name the host"),
            )
        })
    }
}

/// A reason in one line: control characters would draw on somebody's terminal.
fn tidy(because: Option<&str>) -> Result<Option<String>, Asked> {
    let Some(because) = because else { return Ok(None) };
    let clean: String = because.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let clean = clean.trim();
    if clean.chars().count() > BECAUSE_CHARACTERS {
        return Err(refused(
            format!("the reason is longer than {BECAUSE_CHARACTERS} characters"),
            "say it in fewer words".into(),
        ));
    }
    Ok((!clean.is_empty()).then(|| clean.to_owned()))
}
