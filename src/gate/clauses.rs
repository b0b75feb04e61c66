//! The bodies of the gate's clauses, in the order of the table in [`super`].
//!
//! Each looks at one danger and at nothing else, so that it can be read, tested and left out alone.
//!
//! **Does not know:** the other clauses.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Case, EvidenceKind, Finding, Here, Mode};
use crate::cluster::quorum::{device_fault, tally};
use crate::cluster::{
    Answer, Evidence, GuestKind, GuestSeen, HostName, Observation, Question, RunState, Stamped,
    Vmid,
};
use crate::request::{Migration, Request};

/// Evidence older than this is void (design section 7).
const EVIDENCE_AGE: Duration = Duration::from_secs(60);
/// After a change of corosync.conf a host that stops may not find its way back (`corosync.md` g).
const CONFIG_SETTLES_IN: Duration = Duration::from_secs(600);
/// Reported uptimes lag by one broadcast.
const REPORT_LAG: Duration = Duration::from_secs(15);

fn refuse(sentence: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding::Refuse { sentence: sentence.into(), remedy: remedy.into() }
}

fn content_unless(danger: bool, finding: impl FnOnce() -> Finding) -> Finding {
    if danger { finding() } else { Finding::Content }
}

fn ask(questions: impl IntoIterator<Item = Question>) -> Finding {
    Finding::Ask { questions: questions.into_iter().collect(), sentence: None }
}

fn ask_again(question: Question, sentence: String) -> Finding {
    Finding::Ask { questions: BTreeSet::from([question]), sentence: Some(sentence) }
}

impl Case<'_> {
    /// The host a power-off (or any single-host request) is about.
    fn host(&self) -> &HostName {
        self.request.hosts()[0]
    }

    fn guest(&self) -> Option<&GuestSeen> {
        self.request.guest().and_then(|guest| self.seen.guests.get(&guest))
    }

    /// Every request in flight or cleared in this turn, other than this one.
    fn others(&self) -> impl Iterator<Item = &Request> {
        let in_flight = self.under_way.iter().flat_map(|one| one.in_flight.values());
        let cleared = self.cleared.iter().map(|cleared| &cleared.request);
        in_flight.map(|asked| &asked.request).chain(cleared)
    }

    /// Hosts with a power-off under way.
    fn stopping(&self) -> BTreeSet<&HostName> {
        self.others().filter_map(stopped_by).collect()
    }

    /// This host, every host we asked to stop, and every host somebody else is shutting down:
    /// judged as one set.
    fn stops(&self) -> BTreeSet<HostName> {
        let mut stops: BTreeSet<HostName> = self.stopping().into_iter().cloned().collect();
        stops.insert(self.host().clone());
        let stopall = |task: &&crate::cluster::TaskSeen| task.kind == "stopall" && task.running();
        stops.extend(self.seen.tasks.iter().filter(stopall).map(|task| task.host.clone()));
        stops
    }

    /// Every member's evidence, if it is complete and fresh.
    fn evidence(&self) -> Option<BTreeMap<HostName, &Evidence>> {
        let members = self.seen.members();
        let fresh = members.iter().filter_map(|host| match fresh_evidence(self.seen, host) {
            Fresh::Yes(evidence) => Some((host.clone(), evidence)),
            Fresh::No | Fresh::Gap(_) => None,
        });
        let evidence: BTreeMap<_, _> = fresh.collect();
        (evidence.len() == members.len() && !members.is_empty()).then_some(evidence)
    }
}

/// The host that a request powers off.
fn stopped_by(request: &Request) -> Option<&HostName> {
    match request {
        Request::PowerOff { host } => Some(host),
        Request::Wake { .. }
        | Request::Migrate { .. }
        | Request::Hibernate { .. }
        | Request::ShutDownGuest { .. }
        | Request::StartGuest { .. } => None,
    }
}

fn is_member(seen: &Observation, host: &HostName) -> bool {
    seen.hosts.get(host).is_some_and(|look| look.member == Some(true))
}

// ---- May anything be done here at all? ----------------------------------------------------------

/// `localhost` would power off whoever is asked; a name PVE does not know would reach anybody.
pub(super) fn known_host(case: &Case<'_>) -> Finding {
    for host in case.request.hosts() {
        let Some(look) = case.seen.hosts.get(host) else {
            return refuse(
                format!("{host} is not in this cluster"),
                format!("write PVE's name of it as `node:` of {host} in the policy"),
            );
        };
        if look.node.eq_ignore_ascii_case("localhost") || look.node.is_empty() {
            return refuse(
                format!("`{}` names whatever host is asked, not {host}", look.node),
                "write PVE's own name of the host".to_owned(),
            );
        }
        // A sleeping host is listed too; who is not in corosync.conf is nobody's to touch. (Rescue
        // wakes by packets even when the listing is a gap.)
        if !look.listed && case.seen.quorate.is_some() {
            return refuse(
                format!("PVE does not list {host} in this cluster"),
                format!("write PVE's name of it as `node:` of {host} in the policy"),
            );
        }
    }
    Finding::Content
}

pub(super) fn frozen(case: &Case<'_>) -> Finding {
    match case.request.hosts().into_iter().find(|host| case.bounds.frozen.contains(*host)) {
        Some(host) => refuse(
            format!("{host} is frozen and left exactly as it is"),
            format!("spot thaw {host}"),
        ),
        None => Finding::Content,
    }
}

pub(super) fn rehearsal(case: &Case<'_>) -> Finding {
    let commanded =
        || case.request.hosts().iter().any(|host| case.bounds.commanded.contains(*host));
    let rehearse = match case.bounds.mode {
        Mode::Rehearse => !commanded(),
        Mode::Act => false,
    };
    content_unless(rehearse, || {
        refuse(
            format!("rehearse: spot would {} now", case.request),
            "set `mode: act` in spot.yaml when you agree with what it would do",
        )
    })
}

pub(super) fn whole_look(case: &Case<'_>) -> Finding {
    content_unless(!case.seen.whole(), || {
        let gap = case.seen.gaps.first().map(ToString::to_string);
        refuse(
            gap.unwrap_or_else(|| "the cluster could not be seen as a whole".into()),
            "it goes on when the cluster answers again; `spot doctor` says what does not",
        )
    })
}

pub(super) fn quorate_now(case: &Case<'_>) -> Finding {
    content_unless(case.seen.quorate == Some(false), || {
        refuse(
            "the cluster has no quorum, so nothing is moved, stopped or started",
            "switch on more hosts; `pvecm status` on each shows what it sees",
        )
    })
}

pub(super) fn clock(case: &Case<'_>) -> Finding {
    content_unless(!case.bounds.clock_sound, || {
        refuse(
            "the clock is not synchronised, stepped, or runs before the journal's last entry",
            "start time synchronisation (chrony) where spot runs, then `timedatectl` shows it",
        )
    })
}

// ---- Waking -------------------------------------------------------------------------------------

/// A packet to a host on its way down is lost, and one to a host that is up says nothing.
pub(super) fn absent(case: &Case<'_>) -> Finding {
    let host = case.host();
    content_unless(is_member(case.seen, host), || {
        refuse(
            format!("{host} is still a member of the cluster"),
            "packets are sent once it has left",
        )
    })
}

// ---- Guests -------------------------------------------------------------------------------------

/// One request at a time for one guest.
pub(super) fn guest_free(case: &Case<'_>) -> Finding {
    let busy = |other: &&Request| other.guest().is_some() && other.guest() == case.request.guest();
    match case.others().find(busy) {
        Some(other) => refuse(
            format!("something is under way for that guest: {other}"),
            "it goes on when that is over",
        ),
        None => Finding::Content,
    }
}

/// The guest is where the request says, in the state it says, and nobody holds a lock on it.
pub(super) fn guest_as_said(case: &Case<'_>) -> Finding {
    let Some(guest) = case.guest() else {
        return refuse("that guest is not listed any more", "nothing to do");
    };
    let vmid = case.request.guest().map(|guest| guest.to_string()).unwrap_or_default();
    let host = case.host();
    if guest.host != *host {
        let there = &guest.host;
        return refuse(
            format!("guest {vmid} is on {there}, not on {host}"),
            "it is planned anew in the next turn",
        );
    }
    if guest.template {
        return refuse(format!("guest {vmid} is a template"), "nothing to do");
    }
    let starts = matches!(case.request, Request::StartGuest { .. });
    match guest.lock.as_deref() {
        None => {}
        // Hibernated by us: a start resumes it.
        Some("suspended") if starts => {}
        Some(lock) => {
            return refuse(
                format!("guest {vmid} is locked ({lock})"),
                format!(
                    "it goes on when the lock is gone; a stale one goes with `qm unlock {vmid}`"
                ),
            );
        }
    }
    let wanted = match case.request {
        Request::Migrate { how: Migration::Offline, .. } | Request::StartGuest { .. } => {
            RunState::Stopped
        }
        Request::Migrate { how: Migration::Live | Migration::Restart, .. }
        | Request::Hibernate { .. }
        | Request::ShutDownGuest { .. }
        | Request::Wake { .. }
        | Request::PowerOff { .. } => RunState::Running,
    };
    content_unless(guest.status != wanted, || {
        refuse(
            format!("guest {vmid} is {}, not {wanted}", guest.status),
            "it is planned anew in the next turn",
        )
    })
}

/// Every host the request touches is a member and stays one. (PVE takes a migration to a dead host
/// and fails it later.)
pub(super) fn hosts_up(case: &Case<'_>) -> Finding {
    let stopping = case.stopping();
    for host in case.request.hosts() {
        if !is_member(case.seen, host) {
            return refuse(format!("{host} is not up"), format!("spot up {host}"));
        }
        if stopping.contains(host) {
            return refuse(format!("{host} is on its way down"), "it goes on when it has left");
        }
    }
    Finding::Content
}

/// A guest is interrupted only where its owner's rule says so.
pub(super) fn may_stop_guest(case: &Case<'_>) -> Finding {
    let allowed =
        |guests: &BTreeSet<_>| case.request.guest().is_some_and(|guest| guests.contains(&guest));
    let denied = match case.request {
        Request::Migrate { how: Migration::Restart, .. } => {
            !allowed(&case.bounds.may_restart_guests)
        }
        Request::Hibernate { .. } => !allowed(&case.bounds.may_hibernate_guests),
        Request::ShutDownGuest { .. } => !allowed(&case.bounds.may_stop_guests),
        Request::Migrate { how: Migration::Live | Migration::Offline, .. }
        | Request::Wake { .. }
        | Request::StartGuest { .. }
        | Request::PowerOff { .. } => false,
    };
    content_unless(denied, || {
        let vmid = case.request.guest().map(|guest| guest.to_string()).unwrap_or_default();
        refuse(
            format!("no rule lets spot interrupt guest {vmid}"),
            format!("give a rule for guest {vmid} `restart: true` or another `otherwise:`"),
        )
    })
}

/// Whoever is interrupted must not be the one that does it.
pub(super) fn own_guest(case: &Case<'_>) -> Finding {
    let interrupts = match case.request {
        Request::Migrate { how, .. } => *how == Migration::Restart,
        Request::Hibernate { .. } | Request::ShutDownGuest { .. } => true,
        Request::Wake { .. } | Request::StartGuest { .. } | Request::PowerOff { .. } => false,
    };
    let own = match &case.bounds.here {
        Here::Guest(here) => case.request.guest() == Some(*here),
        Here::Host(_) | Here::Outside | Here::Unknown => false,
    };
    content_unless(interrupts && own, || {
        refuse("spot itself runs in that guest", "run spot on the always-on host")
    })
}

/// PVE refuses to hibernate an HA guest; a shutdown would change the state HA is asked to keep.
pub(super) fn no_ha_stop(case: &Case<'_>) -> Finding {
    let stops = matches!(case.request, Request::Hibernate { .. } | Request::ShutDownGuest { .. });
    let managed = case.guest().is_some_and(|guest| guest.ha.is_some());
    content_unless(stops && managed, || {
        refuse(
            "the HA manager runs that guest, so spot does not stop it",
            "let it migrate, or take it out of HA",
        )
    })
}

/// A running container cannot move without a restart (`pct`: "lxc live migration is currently not
/// implemented").
pub(super) fn live_only_for_vms(case: &Case<'_>) -> Finding {
    let live_ct = match case.request {
        Request::Migrate { kind: GuestKind::Ct, how: Migration::Live, .. } => true,
        Request::Migrate { .. }
        | Request::Wake { .. }
        | Request::Hibernate { .. }
        | Request::ShutDownGuest { .. }
        | Request::StartGuest { .. }
        | Request::PowerOff { .. } => false,
    };
    content_unless(live_ct, || {
        refuse("a running container cannot move live", "give its rule `restart: true`")
    })
}

/// A guest that somebody else stopped is not started.
pub(super) fn may_start_guest(case: &Case<'_>) -> Finding {
    let allowed =
        case.request.guest().is_some_and(|guest| case.bounds.may_start_guests.contains(&guest));
    content_unless(!allowed, || {
        refuse("spot did not put that guest away, so it does not start it", "start it by hand")
    })
}

// ---- Powering off: whose host is it? ------------------------------------------------------------

pub(super) fn never_low(case: &Case<'_>) -> Finding {
    let host = case.host();
    content_unless(case.bounds.never.contains(host), || {
        refuse(format!("{host} is of tier low, which is always on"), "nothing to do")
    })
}

pub(super) fn not_here(case: &Case<'_>) -> Finding {
    let host = case.host();
    match &case.bounds.here {
        Here::Outside => Finding::Content,
        Here::Host(here) => content_unless(here == host, || {
            refuse(format!("spot itself runs on {host}"), "run spot on the always-on host")
        }),
        // Where that guest is must be seen: elsewhere, and nowhere means anywhere.
        Here::Guest(here) => match case.seen.guests.get(here) {
            Some(guest) if guest.host != *host => Finding::Content,
            Some(_) => refuse(
                format!("spot itself runs in guest {here}, on {host}"),
                "move that guest, or run spot on the always-on host",
            ),
            None => refuse(
                format!("spot runs in guest {here}, which is not seen on any host"),
                "correct `here:` in spot.yaml",
            ),
        },
        Here::Unknown => refuse(
            "spot does not know where it runs itself, so it powers nothing off",
            "write `here:` into spot.yaml: a host's name, {vmid: N}, or outside",
        ),
    }
}

pub(super) fn may_rest(case: &Case<'_>) -> Finding {
    let host = case.host();
    content_unless(!case.bounds.may_rest.contains(host), || {
        refuse(
            format!(
                "{host} may not be powered off now: it is wanted, not spot's, or not proven to wake"
            ),
            format!("spot why {host}"),
        )
    })
}

/// Evidence comes from every member directly; who has no address cannot be asked when it is up.
pub(super) fn every_address(case: &Case<'_>) -> Finding {
    let missing = case.seen.hosts.iter().find(|(_, look)| look.listed && !look.addressed);
    match missing {
        Some((host, _)) => refuse(
            format!(
                "PVE lists {host}, and spot.yaml has no address for it, so nothing is powered off"
            ),
            format!("add {host} with its url under `hosts:` in spot.yaml"),
        ),
        None => Finding::Content,
    }
}

/// After a stop, membership settles before the next one is judged: two clean stops at the same
/// moment can cost a full token timeout (8.6 s measured).
pub(super) fn one_at_a_time(case: &Case<'_>) -> Finding {
    match case.stopping().into_iter().next() {
        Some(other) => refuse(
            format!("{other} is on its way down, and only one host stops at a time"),
            format!("it goes on when {other} has left"),
        ),
        None => Finding::Content,
    }
}

// ---- Is anybody using it? -----------------------------------------------------------------------

pub(super) fn nothing_in_flight(case: &Case<'_>) -> Finding {
    let host = case.host();
    let touches = |other: &&Request| match other {
        Request::PowerOff { .. } | Request::Wake { .. } => false,
        Request::Migrate { .. }
        | Request::Hibernate { .. }
        | Request::ShutDownGuest { .. }
        | Request::StartGuest { .. } => other.hosts().contains(&host),
    };
    match case.others().find(touches) {
        Some(other) => refuse(format!("still under way: {other}"), "it goes on when that is over"),
        None => Finding::Content,
    }
}

/// A host's shutdown kills a running backup or migration; so every running task is a reason to
/// wait.
pub(super) fn no_task(case: &Case<'_>) -> Finding {
    let host = case.host();
    match case.seen.tasks.iter().find(|task| task.host == *host && task.running()) {
        Some(task) => refuse(
            format!("a task runs on {host}: {} of {}", task.kind, task.user),
            "it goes on when the task has ended",
        ),
        None => Finding::Content,
    }
}

pub(super) fn no_lock(case: &Case<'_>) -> Finding {
    let host = case.host();
    let locked = |guest: &GuestSeen| match guest.lock.as_deref() {
        // A hibernated guest is locked as long as it sleeps.
        None | Some("suspended") => None,
        Some(lock) => Some(lock.to_owned()),
    };
    let found = case.seen.guests_on(host).find_map(|(vmid, guest)| Some((vmid, locked(guest)?)));
    match found {
        Some((vmid, lock)) => refuse(
            format!("guest {vmid} on {host} is locked ({lock})"),
            format!("it goes on when the lock is gone; a stale one goes with `qm unlock {vmid}`"),
        ),
        None => Finding::Content,
    }
}

/// A guest on its way to this host belongs to its source until the last second: its lock and its
/// task are there. Whoever moves, and not by us to somewhere else, may be coming here.
pub(super) fn nobody_arrives(case: &Case<'_>) -> Finding {
    let host = case.host();
    let goes_elsewhere = |vmid: &Vmid| {
        case.others().any(|other| match other {
            Request::Migrate { guest, to, .. } => guest == vmid && to != host,
            Request::Wake { .. }
            | Request::Hibernate { .. }
            | Request::ShutDownGuest { .. }
            | Request::StartGuest { .. }
            | Request::PowerOff { .. } => false,
        })
    };
    let moving = |guest: &GuestSeen| guest.lock.as_deref() == Some("migrate");
    let arriving = case.seen.guests.iter().find(|(vmid, guest)| {
        moving(guest) && is_member(case.seen, &guest.host) && !goes_elsewhere(vmid)
    });
    match arriving {
        Some((vmid, guest)) => refuse(
            format!("guest {vmid} is moving away from {}, perhaps to {host}", guest.host),
            "it goes on when that migration is over",
        ),
        None => Finding::Content,
    }
}

pub(super) fn no_guest_runs(case: &Case<'_>) -> Finding {
    let host = case.host();
    match case.seen.guests_on(host).find(|(_, guest)| guest.status.may_run() && !guest.template) {
        Some((vmid, guest)) => refuse(
            format!("guest {vmid} on {host} is {}", guest.status),
            format!("it goes on when guest {vmid} has moved or stopped"),
        ),
        None => Finding::Content,
    }
}

/// A host that sleeps through a change of corosync.conf is thrown out when it returns.
pub(super) fn config_settled(case: &Case<'_>) -> Finding {
    let recent = case
        .bounds
        .config_changed_at
        .is_some_and(|changed| case.seen.at.civil < changed + CONFIG_SETTLES_IN);
    content_unless(recent, || {
        refuse(
            "corosync.conf changed, or was seen for the first time, less than 10 minutes ago",
            "it goes on by itself when 10 minutes have passed",
        )
    })
}

/// Emptiness is worth nothing if guests can hide from our token.
pub(super) fn sees_every_guest(case: &Case<'_>) -> Finding {
    let question = Question::Permissions;
    let stamped = case.seen.answers.get(&question).filter(|one| is_fresh(case.seen, one));
    let Some(stamped) = stamped else { return ask([question]) };
    let permissions = match &stamped.answer {
        Ok(Answer::Permissions(permissions)) => permissions,
        Ok(_) => return ask([question]),
        Err(gap) => return ask_again(question, gap.to_string()),
    };
    match permissions.blind_spots().first() {
        Some(path) => refuse(
            format!("our token lacks VM.Audit on {path}, so guests may hide there"),
            format!(
                "pveum acl modify {path} --tokens 'USER@REALM!TOKEN' --roles ROLE, with VM.Audit in ROLE (and the same for --users where the token is not privilege-separated)"
            ),
        ),
        None => Finding::Content,
    }
}

// ---- Does the cluster keep its quorum? ----------------------------------------------------------

enum Fresh<'a> {
    Yes(&'a Evidence),
    No,
    Gap(String),
}

fn is_fresh(seen: &Observation, stamped: &Stamped) -> bool {
    seen.turn_began.since(stamped.asked) <= EVIDENCE_AGE
}

/// A member's evidence, unless it is old or overtaken: void when anybody booted since its asking.
fn fresh_evidence<'a>(seen: &'a Observation, host: &HostName) -> Fresh<'a> {
    let Some(stamped) = seen.answers.get(&Question::Evidence(host.clone())) else {
        return Fresh::No;
    };
    if !is_fresh(seen, stamped) {
        return Fresh::No;
    }
    let evidence = match &stamped.answer {
        Ok(Answer::Evidence(evidence)) => evidence,
        Ok(_) => return Fresh::No,
        Err(gap) => return Fresh::Gap(gap.to_string()),
    };
    let age = seen.turn_began.since(stamped.asked);
    let booted_since = |member: &HostName| {
        let uptime = seen.hosts.get(member).and_then(|look| look.uptime_seconds);
        uptime.is_some_and(|uptime| Duration::from_secs(uptime).saturating_add(REPORT_LAG) < age)
    };
    let members = seen.members();
    let overtaken = evidence.members.keys().cloned().collect::<BTreeSet<_>>() != members
        || evidence.conf.config_version != seen.config_version
        || members.iter().any(booted_since);
    if overtaken { Fresh::No } else { Fresh::Yes(evidence) }
}

/// Evidence from every member, or configured votes where the owner chose that.
pub(super) fn evidence(case: &Case<'_>) -> Finding {
    match case.bounds.evidence {
        EvidenceKind::Configured => {
            configured_votes(case).map_or_else(|finding| finding, |_| Finding::Content)
        }
        EvidenceKind::Runtime => {
            let mut questions = BTreeSet::new();
            let mut told = None;
            for host in case.seen.members() {
                match fresh_evidence(case.seen, &host) {
                    Fresh::Yes(_) => {}
                    Fresh::No => {
                        questions.insert(Question::Evidence(host));
                    }
                    Fresh::Gap(why) => {
                        told.get_or_insert(why);
                        questions.insert(Question::Evidence(host));
                    }
                }
            }
            content_unless(!questions.is_empty(), || Finding::Ask { questions, sentence: told })
        }
    }
}

fn configured_votes<'a>(case: &Case<'a>) -> Result<&'a BTreeMap<HostName, u32>, Finding> {
    let question = Question::ConfiguredVotes;
    let stamped = case.seen.answers.get(&question).filter(|one| is_fresh(case.seen, one));
    let Some(stamped) = stamped else { return Err(ask([question])) };
    match &stamped.answer {
        Ok(Answer::ConfiguredVotes(votes)) => Ok(votes),
        Ok(_) => Err(ask([question])),
        Err(gap) => Err(ask_again(question, gap.to_string())),
    }
}

/// One ring and one member list in every member's eyes; reading one node is wrong (measured).
pub(super) fn same_view(case: &Case<'_>) -> Finding {
    let Some(evidence) = case.evidence() else { return Finding::Content };
    let mut views = evidence.iter();
    let Some((first, reference)) = views.next() else { return Finding::Content };
    let names = |view: &Evidence| view.members.keys().cloned().collect::<BTreeSet<_>>();
    for (host, view) in views {
        if view.ring != reference.ring || names(view) != names(reference) {
            return refuse(
                format!(
                    "{first} and {host} do not see the same cluster (ring {} and {})",
                    reference.ring, view.ring
                ),
                "`pvecm status` on each host shows the difference; it goes on when they agree",
            );
        }
    }
    Finding::Content
}

pub(super) fn every_member_quorate(case: &Case<'_>) -> Finding {
    let Some(evidence) = case.evidence() else { return Finding::Content };
    match evidence.iter().find(|(_, view)| !view.quorate) {
        Some((host, view)) if view.flags.contains("WaitForAll") => refuse(
            format!("{host} is not quorate: wait_for_all waits until every host was seen once"),
            "switch every host on once, or run `corosync-cmapctl -s quorum.cancel_wait_for_all u8 1`",
        ),
        Some((host, _)) => refuse(
            format!("{host} is a member and not quorate"),
            format!("`pvecm status` on {host} shows what it sees"),
        ),
        None => Finding::Content,
    }
}

/// The file is a second opinion: where it and what is counted now disagree, somebody is in the
/// middle of something.
pub(super) fn configured_agrees(case: &Case<'_>) -> Finding {
    let Some(evidence) = case.evidence() else { return Finding::Content };
    for (host, view) in &evidence {
        for (member, counted) in &view.members {
            let node = case.seen.hosts.get(member).map_or(member.as_str(), |look| &look.node);
            let Some(configured) = view.conf.votes.get(node) else {
                return refuse(
                    format!("corosync.conf on {host} does not list the member {member}"),
                    "`corosync-cfgtool -R` takes over an edited file",
                );
            };
            if *configured != counted.votes {
                return refuse(
                    format!(
                        "{member} counts {} vote{} and corosync.conf says {configured}",
                        counted.votes,
                        if counted.votes == 1 { "" } else { "s" }
                    ),
                    "`corosync-cfgtool -R` on one host takes over the edited file",
                );
            }
        }
        let written: u32 = view.conf.votes.values().sum();
        let explicit = view.conf.quorum.get("expected_votes").and_then(|text| text.parse().ok());
        let at_least = explicit.map_or(written, |explicit: u32| explicit.min(written));
        if view.expected < at_least {
            return refuse(
                format!(
                    "{host} expects {} votes and corosync.conf has {at_least}: `pvecm expected` is in force",
                    view.expected
                ),
                format!(
                    "`pvecm expected {at_least}` when every host is back, or wait until they are"
                ),
            );
        }
    }
    Finding::Content
}

/// The heart: what stays must be a majority, with the owner's spare, when this host and every other
/// stop under way are gone.
pub(super) fn votes(case: &Case<'_>) -> Finding {
    let stops = case.stops();
    let spare = case.bounds.spare;
    let result = match case.bounds.evidence {
        EvidenceKind::Runtime => {
            let Some(evidence) = case.evidence() else { return Finding::Content };
            tally(&evidence, &stops, server_lost(case, &evidence, &stops), rest_off(case))
        }
        EvidenceKind::Configured => {
            let Ok(votes) = configured_votes(case) else { return Finding::Content };
            // The device counts in what is expected, and is never credited here.
            let Some(device) = case.bounds.device_votes else {
                return refuse(
                    "whether the cluster has a QDevice is not known yet, so its votes cannot be counted",
                    "it goes on when a host's report could be read once",
                );
            };
            let members = case.seen.members();
            let stay =
                votes.iter().filter(|(host, _)| members.contains(*host) && !stops.contains(*host));
            crate::cluster::quorum::Tally {
                remaining: stay.map(|(_, votes)| votes).sum(),
                credit: 0,
                needed: votes.values().sum::<u32>().saturating_add(device) / 2 + 1,
                no_credit_because: None,
            }
        }
    };
    content_unless(!result.keeps(spare), || {
        let names: Vec<&str> = stops.iter().map(HostName::as_str).collect();
        let mut sentence = format!(
            "without {} the cluster would have {} where {} are needed",
            names.join(" and "),
            crate::cluster::quorum::votes(result.remaining + result.credit),
            result.needed
        );
        if spare > 0 {
            sentence += &format!(" and {spare} to spare");
        }
        if let Some(why) = result.no_credit_because {
            sentence += &format!("; {why}");
        }
        refuse(sentence, "wake another host first; `spot quorum` shows who may be off together")
    })
}

/// Whether the QDevice's server goes down with the stops: by the owner's word, or by its address.
fn server_lost(
    case: &Case<'_>,
    evidence: &BTreeMap<HostName, &Evidence>,
    stops: &BTreeSet<HostName>,
) -> bool {
    if case.bounds.qnetd_on.iter().any(|host| stops.contains(host)) {
        return true;
    }
    stops.iter().any(|host| {
        let node = case.seen.hosts.get(host).map_or(host.as_str(), |look| look.node.as_str());
        evidence.values().any(|view| {
            let Some(server) = view.conf.device.as_ref().and_then(|device| device.server.as_ref())
            else {
                return false;
            };
            let by_file = view.conf.addresses.get(node).is_some_and(|all| all.contains(server));
            let own = evidence.get(host).is_some_and(|view| view.addresses.contains(server));
            by_file || own || server == node
        })
    })
}

/// Whether everybody who is no member left in order: a host that vanished may still be talking to
/// the QDevice's server.
fn rest_off(case: &Case<'_>) -> bool {
    let known_off = |host: &HostName| case.bounds.known_off.contains(host);
    let absent =
        case.seen.hosts.iter().filter(|(_, look)| look.listed && look.member != Some(true));
    absent.map(|(host, _)| host).all(known_off)
}

/// A host is stopped only when it can come back: with a device section that corosync starts with.
pub(super) fn can_return(case: &Case<'_>) -> Finding {
    let Some(evidence) = case.evidence() else { return Finding::Content };
    let host = case.host();
    match evidence.values().find_map(|view| device_fault(&view.conf)) {
        Some(fault) => refuse(
            format!("{host} could not rejoin after a boot: {fault}"),
            "correct the device section of corosync.conf, and raise its config_version; see corosync.conf(5)",
        ),
        None => Finding::Content,
    }
}

/// The host's own lists name every guest, whatever our token may see. One that we do not see, or
/// that runs, is a reason never to power off.
pub(super) fn no_hidden_guest(case: &Case<'_>) -> Finding {
    let host = case.host();
    // Asked of this host whatever the owner chose for the votes: nothing else lists every guest.
    let view = match fresh_evidence(case.seen, host) {
        Fresh::Yes(view) => view,
        Fresh::No => return ask([Question::Evidence(host.clone())]),
        Fresh::Gap(why) => return ask_again(Question::Evidence(host.clone()), why),
    };
    let listed = match &view.guests {
        Ok(listed) => listed,
        Err(why) => {
            return refuse(
                format!("the list of all guests on {host} could not be read: {why}"),
                format!("`qm list` and `pct list` on {host} must answer"),
            );
        }
    };
    for (vmid, state) in listed {
        let here = case.seen.guests.get(vmid);
        if here.is_none() {
            return refuse(
                format!("guest {vmid} on {host} is hidden from our token"),
                format!(
                    "give the token a role with VM.Audit on /vms/{vmid} (a deeper ACL replaces what it inherits)"
                ),
            );
        }
        let template = here.is_some_and(|guest| guest.template);
        if state.may_run() && !template {
            return refuse(
                format!("guest {vmid} runs on {host}, as the host itself lists it"),
                format!("it goes on when guest {vmid} has moved or stopped"),
            );
        }
    }
    Finding::Content
}

// ---- And now, in the turn of the request, once more. --------------------------------------------

/// The answer to a question asked in this very turn.
fn this_turn<'a>(seen: &'a Observation, question: &Question) -> Option<&'a Stamped> {
    seen.answers.get(question).filter(|stamped| stamped.asked >= seen.turn_began)
}

/// The host's own live list: nothing runs, and nothing is locked.
pub(super) fn empty_itself(case: &Case<'_>) -> Finding {
    let host = case.host();
    let question = Question::LiveGuests(host.clone());
    let Some(stamped) = this_turn(case.seen, &question) else { return ask([question]) };
    let guests = match &stamped.answer {
        Ok(Answer::LiveGuests(guests)) => guests,
        Ok(_) => return ask([question]),
        Err(gap) => return ask_again(question, gap.to_string()),
    };
    let locked = guests.iter().find_map(|(vmid, guest)| match guest.lock.as_deref() {
        None | Some("suspended") => None,
        Some(lock) => Some((vmid, lock)),
    });
    if let Some((vmid, lock)) = locked {
        return refuse(
            format!("guest {vmid} on {host} is locked ({lock}), as its own list says"),
            format!("it goes on when the lock is gone; a stale one goes with `qm unlock {vmid}`"),
        );
    }
    match guests.iter().find(|(_, guest)| guest.status.may_run() && !guest.template) {
        Some((vmid, guest)) => refuse(
            format!("guest {vmid} runs on {host} (its own list says {})", guest.status),
            format!("it goes on when guest {vmid} has moved or stopped"),
        ),
        None => Finding::Content,
    }
}

/// Every survivor, asked now, sees the members we judged, and is quorate.
pub(super) fn survivors_agree(case: &Case<'_>) -> Finding {
    let members = case.seen.members();
    let stops = case.stops();
    let mut questions = BTreeSet::new();
    let mut told = None;
    for host in members.iter().filter(|host| !stops.contains(*host)) {
        let question = Question::Membership(host.clone());
        let Some(stamped) = this_turn(case.seen, &question) else {
            questions.insert(question);
            continue;
        };
        let view = match &stamped.answer {
            Ok(Answer::Membership(view)) => view,
            Ok(_) => {
                questions.insert(question);
                continue;
            }
            Err(gap) => {
                told.get_or_insert(gap.to_string());
                questions.insert(question);
                continue;
            }
        };
        let online =
            view.members.iter().filter(|(_, online)| **online).map(|(host, _)| host.clone());
        let same = online.collect::<BTreeSet<_>>() == members
            && view.config_version == case.seen.config_version;
        if !view.quorate || !same {
            return refuse(
                format!("{host} sees another cluster than it did a moment ago"),
                "it is judged anew when every member agrees again",
            );
        }
    }
    content_unless(!questions.is_empty(), || Finding::Ask { questions, sentence: told })
}
