//! What lies on this machine: `spot.yaml`, policies, journal, the service, the clock, and where
//! `spot` itself lives.
//!
//! **Does not know:** the cluster.

use super::super::{check, live, look};
use super::Checks;
use crate::cluster::ClockState;
use crate::config::Config;
use crate::gate::{Here, Mode};
use crate::journal::Journal;
use crate::policy::{Policy, calendar};
use crate::site::RealClock;
use crate::sources;

pub(super) async fn installation(config: &Config, checks: &mut Checks) -> Option<Policy> {
    checks.by("config", "reading spot.yaml").good("spot.yaml can be read and has no fault");
    mode(config, checks);
    let policy = policies(config, checks);
    zones(config, checks);
    service(config, checks).await;
    journal(config, checks);
    clock(config, checks).await;
    here(config, checks);
    policy
}

fn mode(config: &Config, checks: &mut Checks) {
    let mut by = checks.by("mode", "`mode` in spot.yaml");
    match config.mode {
        Mode::Act => by.good("mode act: spot does what it plans"),
        Mode::Rehearse => by.warning(
            "mode rehearse: spot only reports what it would do",
            "write `mode: act` into spot.yaml once its plans convince you",
        ),
    }
}

fn policies(config: &Config, checks: &mut Checks) -> Option<Policy> {
    let place = config.policies.display();
    let mut by = checks.by("policies", format!("reading {place}, as `spot check` does"));
    match check::valid(&config.policies) {
        Ok(policy) => {
            by.good(format!("the policies in {place} are valid"));
            Some(policy)
        }
        Err(error) => {
            by.fault(format!("{error:#}"), format!("spot check {place}"));
            None
        }
    }
}

/// By which rules time zones are read, and where this machine knows others.
fn zones(config: &Config, checks: &mut Checks) {
    let marks = sources::read_folder(&config.policies).read().marks;
    let how = "comparing the bundled rules with this machine's, for every window of the policies";
    let differences = check::zones::differences(&marks, super::super::now());
    let mut by = checks.by("zones", how);
    if differences.is_empty() {
        let edition = calendar::zone_rules();
        by.good(format!("time zones go by the rules bundled with spot, tzdata {edition}"));
    }
    for one in differences {
        by.warning(one.message, one.help);
    }
}

async fn service(config: &Config, checks: &mut Checks) {
    let how = format!("asking at {}", config.socket.display());
    let mut by = checks.by("service", how);
    match look::service(config).await {
        Ok(Some(_)) => by.good("the service runs and answers at its socket"),
        Ok(None) => by.warning(
            "the service does not run",
            "systemctl start spot (or `spot run` in a terminal)",
        ),
        Err(error) => by.fault(format!("{error:#}"), "journalctl -u spot"),
    }
}

fn journal(config: &Config, checks: &mut Checks) {
    let place = live::journal(config);
    let mut by = checks.by("journal", format!("opening {} for reading", place.display()));
    let replayed = Journal::read_only(&place).and_then(|journal| journal.replay());
    match replayed {
        Ok(_) => by.good(format!("the journal {} can be read", place.display())),
        Err(fault @ crate::journal::Fault::Absent { .. }) => {
            by.warning(fault.sentence(), fault.remedy());
        }
        Err(fault) => by.fault(fault.sentence(), fault.remedy()),
    }
}

async fn clock(config: &Config, checks: &mut Checks) {
    if config.clock_trusted {
        checks
            .by("clock", "`clock: trust` in spot.yaml")
            .good("you vouch for this machine's clock");
        return;
    }
    let mut by = checks.by("clock", "timedatectl show --property=NTPSynchronized");
    match RealClock::new(false).ask_state().await {
        ClockState::Synchronised => by.good("this machine's clock is synchronised"),
        ClockState::Unsynchronised => by.fault(
            "this machine's clock is not synchronised, so nothing is powered off",
            "systemctl enable --now chrony",
        ),
        ClockState::Unknown => by.fault(
            "systemd does not say whether this machine's clock is synchronised, so nothing is \
             powered off",
            "install systemd's timedatectl, or write `clock: trust` into spot.yaml",
        ),
    }
}

fn here(config: &Config, checks: &mut Checks) {
    let mut by = checks.by("here", "`here` in spot.yaml");
    match &config.here {
        Here::Host(host) => by.good(format!("spot lives on {host}")),
        Here::Guest(guest) => by.good(format!("spot lives in guest {guest}")),
        Here::Outside => by.good("spot lives outside the cluster"),
        Here::Unknown => by.fault(
            "where spot lives is not known, so nothing is powered off",
            "write `here: HOST`, `here: { vmid: N }` or `here: outside` into spot.yaml",
        ),
    }
}
