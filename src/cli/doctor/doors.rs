//! Each host's own door: address, certificate and its age, token, version, clock; and whether
//! policies, spot.yaml and the cluster mean the same hosts.
//!
//! **Does not know:** what the token may do.

use jiff::Timestamp;

use super::{Checks, Visit, answer, list};
use crate::cluster::{HostName, Question};
use crate::pve::{self, Trust};

/// PVE renews its own certificates 14 days before their end.
const RENEWED_DAYS_BEFORE: i64 = 14;
/// Half of what corosync.conf's stillness and evidence bear; a synchronised clock is far below.
const CLOCKS_APART_SECONDS: i64 = 5;
/// Older ones lack calls that spot rests on (their error texts among them).
const OLDEST_MAJOR: u64 = 7;
/// What it is made for.
const MADE_FOR: (u64, u64) = (8, 4);

pub(super) async fn doors(visit: &Visit<'_>, checks: &mut Checks) {
    for (host, _) in &visit.config.hosts {
        door(visit, host, checks);
        certificate(visit, host, checks).await;
        if let Some(node) = visit.awake.get(host) {
            version(visit, host, checks).await;
            clock(visit, host, node, checks).await;
        }
    }
}

fn door(visit: &Visit<'_>, host: &HostName, checks: &mut Checks) {
    let absent = visit.seen.hosts.get(host).is_some_and(|look| look.member == Some(false));
    let url = visit.config.access.doors.get(host).map_or("", |door| door.url.as_str());
    let mut by = checks.by("endpoint", format!("GET /cluster/status at {url}"));
    match answer(&visit.seen, &Question::Membership(host.clone())) {
        Some(Ok(_)) => {
            by.good(format!("{host} answers at {url}; its certificate and our token are right"))
        }
        Some(Err(why)) if absent => by.unknown(
            format!("{host} is no member now, and its address could not be tried: {why}"),
            "try again while it is awake",
        ),
        Some(Err(why)) => by.fault(
            format!("{host} at {url}: {why}"),
            format!(
                "is it up, and are `url`, `pins` and the token right in spot.yaml? \
                     `spot init --url {url}` shows its certificate again"
            ),
        ),
        None => by.fault(
            format!("{host} at {url} did not answer in time"),
            format!("ssh root@{host} systemctl status pveproxy"),
        ),
    }
}

async fn certificate(visit: &Visit<'_>, host: &HostName, checks: &mut Checks) {
    let Some(door) = visit.config.access.doors.get(host) else { return };
    if !visit.awake.contains_key(host) {
        return;
    }
    let mut by = checks.by("certificate", format!("the certificate shown at {}", door.url));
    let shown = match pve::shown(&door.url).await {
        Ok(shown) => shown,
        Err(why) => return by.unknown(why, "try again"),
    };
    let Some((_, until)) = shown.holds else {
        return by.unknown(
            format!("the dates of {host}'s certificate cannot be read"),
            "pvenode cert info",
        );
    };
    let days = (until.as_second() - super::super::now().as_second()).div_euclid(86_400);
    let date = until.strftime("%Y-%m-%d");
    let pinned = match &door.trust {
        Trust::Pins(pins) => {
            if pins.len() > 1 {
                "one of its pins"
            } else {
                "its only pin"
            }
        }
        Trust::Authority(_) => "vouched for by the cluster's own CA",
    };
    let only = matches!(&door.trust, Trust::Pins(pins) if pins.len() == 1);
    if days < 0 {
        let sentence = format!("the certificate of {host} ended on {date}; it is {pinned}");
        return by.warning(sentence, format!("ssh root@{host} pvecm updatecerts --force"));
    }
    if days <= 2 * RENEWED_DAYS_BEFORE && only {
        return by.warning(
            format!(
                "the certificate of {host} ends on {date}, PVE will renew it before, and it is \
                 {pinned}: spot will then not believe {host}"
            ),
            "use the cluster's CA instead of pins: copy /etc/pve/pve-root-ca.pem beside spot.yaml \
             and write `ca: pve-root-ca.pem`",
        );
    }
    by.good(format!("the certificate of {host} holds until {date} and is {pinned}"));
}

async fn version(visit: &Visit<'_>, host: &HostName, checks: &mut Checks) {
    let mut by = checks.by("version", format!("GET /version of {host}"));
    let version = match visit.survey.version(host).await {
        Ok(version) => version,
        Err(why) => {
            return by.unknown(format!("the version of {host} is not known: {why}"), "try again");
        }
    };
    let mut parts = version.split('.').map_while(|part| part.parse::<u64>().ok());
    let known = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if known >= MADE_FOR {
        by.good(format!("{host} runs PVE {version}"));
    } else if known.0 >= OLDEST_MAJOR {
        by.warning(
            format!("{host} runs PVE {version}; spot is made for 8.4 and later, and only bears it"),
            format!("ssh root@{host} 'apt update && apt full-upgrade'"),
        );
    } else {
        by.fault(
            format!("{host} runs PVE {version}, which is too old"),
            "upgrade it to 8.4 or later",
        );
    }
}

async fn clock(visit: &Visit<'_>, host: &HostName, node: &str, checks: &mut Checks) {
    let mut by = checks.by("host_clock", format!("GET /nodes/{node}/time, against this machine's"));
    let before = super::super::now();
    match visit.survey.clock_seconds(host, node).await {
        Ok(seconds) => {
            let middle = middle(before, super::super::now());
            let apart = i64::try_from(seconds).unwrap_or(i64::MAX).saturating_sub(middle);
            match apart.abs() <= CLOCKS_APART_SECONDS {
                true => by.good(format!("the clock of {host} agrees with this machine's")),
                false => by.warning(
                    format!(
                        "the clock of {host} is {} {} this machine's",
                        long(apart.unsigned_abs()),
                        if apart > 0 { "ahead of" } else { "behind" }
                    ),
                    format!("ssh root@{host} chronyc makestep"),
                ),
            }
        }
        Err(why) => by.unknown(format!("the clock of {host} is not known: {why}"), "try again"),
    }
    let mut by = checks.by("host_time_service", format!("GET /nodes/{node}/services"));
    match visit.survey.services(host, node).await {
        Ok(services) => {
            let keepers = ["chrony", "systemd-timesyncd", "ntp", "ntpsec", "openntpd"];
            match keepers.iter().find(|keeper| services.contains(**keeper)) {
                Some(keeper) => by.good(format!("{keeper} keeps the clock of {host}")),
                None => by.warning(
                    format!("nothing on {host} is seen to keep its clock"),
                    format!("ssh root@{host} 'apt install chrony'"),
                ),
            }
        }
        Err(why) => by.unknown(format!("the services of {host} are not known: {why}"), "try again"),
    }
}

/// `7 s`, `5 min`, `3 h`, `12 days`.
fn long(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

fn middle(before: Timestamp, after: Timestamp) -> i64 {
    before.as_second() + (after.as_second() - before.as_second()) / 2
}

/// Hosts as the policies, spot.yaml and the cluster name them.
pub(super) fn names(visit: &Visit<'_>, checks: &mut Checks) {
    let seen = &visit.seen;
    let mut by = checks.by("names", "comparing policies and spot.yaml with GET /cluster/status");
    if seen.quorate.is_none() {
        return by.unknown("the cluster's hosts could not be seen", "mend what is above first");
    }
    let listed = |host: &HostName| seen.hosts.get(host).is_some_and(|look| look.listed);
    let there: Vec<&HostName> = seen.hosts.keys().filter(|host| listed(host)).collect();
    let mut agree = true;
    for name in visit.policy.into_iter().flat_map(|policy| policy.hosts().keys()) {
        if !listed(name) {
            agree = false;
            by.fault(
                format!("the policy names {name}, and the cluster has {}", list(&there)),
                format!("give {name} the name PVE has for it, or set `node:` in its policy"),
            );
        }
    }
    for (name, _) in &visit.config.hosts {
        if !listed(name) && visit.policy.is_none_or(|policy| policy.host(name).is_none()) {
            agree = false;
            by.fault(
                format!("spot.yaml names {name}, which is no node of the cluster; it has {}", list(&there)),
                format!("take {name} out of `hosts:` in spot.yaml, or give it `node:` with PVE's name of it"),
            );
        }
    }
    for (name, look) in &seen.hosts {
        if look.listed && !look.addressed {
            agree = false;
            by.fault(
                format!("{name} has no address in spot.yaml, so nothing is powered off"),
                format!("add {name} under `hosts:` in spot.yaml, with its `url` and `pins`"),
            );
        }
    }
    for name in there.iter().filter(|_| visit.policy.is_some()) {
        if visit.policy.is_some_and(|policy| policy.host(name).is_none()) {
            by.warning(
                format!("no policy names {name}, so spot leaves it as it is"),
                format!("add `{name}: {{ tier: … }}` under `hosts:` of a policy"),
            );
        }
    }
    if agree {
        by.good("policies, spot.yaml and the cluster agree about the hosts");
    }
}
