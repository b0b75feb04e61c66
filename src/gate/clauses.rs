//! The bodies of the gate's clauses, in the order of the table in [`super`].
//!
//! Each looks at one danger and at nothing else, so that it can be read, tested and left out alone.
//!
//! **Does not know:** the other clauses.

mod quorum;

use std::collections::BTreeSet;
use std::time::Duration;

use self::quorum::{Fresh, fresh_evidence, is_fresh};
pub(super) use self::quorum::{
    can_return, configured_agrees, device_still_votes, every_member_quorate, evidence, same_view,
    survivors_agree, votes,
};
use super::{Case, Finding, Here, Mode};
use crate::cluster::{
    Answer, GuestKind, GuestSeen, HostName, Observation, Question, RunState, Stamped, Vmid,
    shutdown_began,
};
use crate::request::{Migration, Request};

/// After a change of corosync.conf a host that stops may not find its way back (`corosync.md` g).
const CONFIG_SETTLES_IN: Duration = Duration::from_secs(600);
/// Whoever has not left so long after its shutdown began has had it cancelled, or hangs.
const SHUTDOWN_AT_MOST: jiff::SignedDuration = jiff::SignedDuration::from_mins(15);

fn refuse(sentence: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding::Refuse { code: None, sentence: sentence.into(), remedy: remedy.into() }
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

fn lock_goes(kind: GuestKind, guest: Vmid, host: &HostName) -> String {
    let unlock = kind.unlock(guest, host);
    format!("it goes on when the lock is gone; a stale one goes with {unlock}")
}

impl Case<'_> {
    /// The host a power-off (or any single-host request) is about.
    fn host(&self) -> &HostName {
        self.request.hosts()[0]
    }

    /// PVE's name of a host.
    fn node<'h>(&'h self, host: &'h HostName) -> &'h str {
        self.seen.hosts.get(host).map_or(host.as_str(), |look| look.node.as_str())
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
        stops.extend(self.seen.hosts.keys().filter(|host| self.shutting_down(host)).cloned());
        stops
    }

    /// Whether somebody else began to shut this member down: without guests the task by which that
    /// shows is over at once, and the host goes on answering until its services have stopped.
    fn shutting_down(&self, host: &HostName) -> bool {
        let now = self.seen.at.civil;
        let up = self.seen.hosts.get(host).and_then(|look| look.uptime_seconds);
        let up_since = up.and_then(|up| now.checked_sub(Duration::from_secs(up)).ok());
        shutdown_began(&self.seen.tasks, host, up_since)
            .is_some_and(|began| now.duration_since(began) <= SHUTDOWN_AT_MOST)
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
    let (Some(guest), Some(vmid)) = (case.guest(), case.request.guest()) else {
        return refuse("that guest is not listed any more", "nothing to do");
    };
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
                lock_goes(guest.kind, vmid, host),
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
    let ignored = |task: &&crate::cluster::TaskSeen| match task.kind == "vzdump" {
        true => case.bounds.backups_ignored.contains(host),
        false => case.bounds.tasks_ignored.contains(host),
    };
    let on_it = |task: &&crate::cluster::TaskSeen| task.host == *host && task.running();
    match case.seen.tasks.iter().filter(on_it).find(|task| !ignored(task)) {
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
    let found = case
        .seen
        .guests_on(host)
        .find_map(|(vmid, guest)| Some((*vmid, guest.kind, locked(guest)?)));
    match found.filter(|_| !case.bounds.locks_ignored.contains(host)) {
        Some((vmid, kind, lock)) => refuse(
            format!("guest {vmid} on {host} is locked ({lock})"),
            lock_goes(kind, vmid, host),
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
            crate::cluster::rights::grant(&permissions.token, path, "VM.Audit"),
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
        Some(lock) => Some((*vmid, guest.kind, lock)),
    });
    if let Some((vmid, kind, lock)) = locked
        && !case.bounds.locks_ignored.contains(host)
    {
        return refuse(
            format!("guest {vmid} on {host} is locked ({lock}), as its own list says"),
            lock_goes(kind, vmid, host),
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
