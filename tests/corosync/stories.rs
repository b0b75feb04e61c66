//! What happens in homes of real corosync daemons: the main job, and the hard cases.
//!
//! **Does not know:** how any of it is brought about.

use spot::pretend::script::DeviceState;
use spot::pretend::{Event, Phase};

use crate::cluster::Device;
use crate::home::{Home, Plan};

/// The reference home, and the one of equal votes: both hosts may be asked for, neither is kept on.
const THREE: &str = "
timezone: UTC
hosts:
  host1: { tier: low }
  host2: { tier: medium, mac: 'a8:a1:59:00:00:02', wake: { proven: true }, min_on: 0s, min_off: 0s }
  host3: { tier: high, mac: 'a8:a1:59:00:00:03', wake: { proven: true }, min_on: 0s, min_off: 0s }
guests:
  - { match: { any: true }, prefer: [host3, host1] }
";

/// Two hosts, of which one may be asked for.
const PAIR: &str = "
timezone: UTC
hosts:
  host1: { tier: low }
  host2: { tier: medium, mac: 'a8:a1:59:00:00:02', wake: { proven: true }, min_on: 0s, min_off: 0s }
guests:
  - { match: { any: true }, prefer: [host2, host1] }
";

/// A story, and what is wrong with it.
pub type Story = fn() -> Result<(), String>;

pub const ALL: &[(&str, Story)] = &[
    ("a_home_of_three_one_one_wakes_and_rests_host_after_host", three_one_one),
    ("a_pair_with_a_device_wakes_and_rests_its_second_host", pair),
    ("of_three_equal_hosts_one_rests_and_the_other_is_held", equals),
    ("a_device_that_dies_before_the_power_off_keeps_the_host_on", device_dies),
    ("a_host_killed_beside_a_power_off_costs_nothing_where_votes_suffice", killed_beside),
    ("lowered_expected_votes_hold_a_power_off_until_a_host_rejoins", lowered),
    ("a_configuration_raised_while_a_host_sleeps_is_told", raised),
    ("quorum_lost_by_a_crash_is_rescued_by_the_sleeping_host", rescue),
];

/// The reference home.
const REFERENCE: Plan = Plan { votes: &[3, 1, 1], device: None, policy: THREE, on: &["host1"] };
const EQUALS: Plan =
    Plan { votes: &[1, 1, 1], device: None, policy: THREE, on: &["host1", "host2"] };
const DEVICE: Plan = Plan {
    votes: &[1, 1],
    device: Some(Device { algorithm: "ffsplit", votes: Some(1) }),
    policy: PAIR,
    on: &["host1"],
};

fn off(home: &Home, host: &str) -> bool {
    home.phase(host) == Phase::Off
}

fn three_one_one() -> Result<(), String> {
    let home = Home::open(&REFERENCE)?;
    home.up(&["host3"]);
    home.wait("host3 is awake", || home.is_up("host3", 2))?;
    home.up(&["host2"]);
    home.wait("host2 is awake too", || home.is_up("host2", 3) && home.is_up("host1", 3))?;
    home.down(&["host3", "host2"]);
    home.wait("both rest", || off(&home, "host2") && off(&home, "host3"))?;
    home.wait("host1 is alone", || home.is_up("host1", 1))?;
    home.up(&["host3"]);
    home.wait("host3 is back", || home.is_up("host3", 2) && home.is_up("host1", 2))?;
    home.stayed_quorate()
}

fn pair() -> Result<(), String> {
    let home = Home::open(&DEVICE)?;
    home.up(&["host2"]);
    home.wait("host2 is awake", || home.is_up("host2", 2) && home.is_up("host1", 2))?;
    home.down(&["host2"]);
    home.wait("host2 rests", || off(&home, "host2"))?;
    home.wait("host1 is alone with the device", || home.is_up("host1", 1))?;
    home.up(&["host2"]);
    home.wait("host2 is back", || home.is_up("host2", 2) && home.is_up("host1", 2))?;
    home.stayed_quorate()
}

fn equals() -> Result<(), String> {
    let home = Home::open(&EQUALS)?;
    home.up(&["host2", "host3"]);
    home.wait("all are awake", || home.is_up("host3", 3) && home.is_up("host2", 3))?;
    home.down(&["host2", "host3"]);
    let one_rests = || off(&home, "host2") != off(&home, "host3");
    home.wait("one of them rests", one_rests)?;
    let left = if off(&home, "host2") { "host3" } else { "host2" };
    home.wait("the other is held for the votes", || {
        home.holds(left).iter().any(|hold| hold.contains("2 are needed"))
    })?;
    home.wait("two are left", || home.is_up("host1", 2) && home.is_up(left, 2))?;
    home.stayed_quorate()
}

/// The server dies while the members are being asked, and before the host is asked to stop.
fn device_dies() -> Result<(), String> {
    let home = Home::open(&DEVICE)?;
    home.up(&["host2"]);
    home.wait("host2 is awake", || home.is_up("host2", 2) && home.is_up("host1", 2))?;
    let report = "GET /nodes/host2/report";
    let before = home.times_asked(report);
    home.down(&["host2"]);
    home.wait("its evidence is asked for", || home.times_asked(report) > before)?;
    home.befall(Event::Qdevice(DeviceState::Dead));
    home.wait("host2 is held for the votes", || {
        home.holds("host2").iter().any(|hold| hold.contains("2 are needed"))
    })?;
    home.befall(Event::Qdevice(DeviceState::Alive));
    home.wait("host2 rests once the device votes again", || off(&home, "host2"))?;
    home.wait("host1 is alone with the device", || home.is_up("host1", 1))?;
    home.stayed_quorate()
}

fn killed_beside() -> Result<(), String> {
    let home = Home::open(&Plan { on: &["host1", "host2"], ..REFERENCE })?;
    home.up(&["host3"]);
    home.wait("all are awake", || home.is_up("host3", 3) && home.is_up("host1", 3))?;
    home.down(&["host3"]);
    home.wait("host3 is asked to stop", || home.times_asked("POST /nodes/host3/status") > 0)?;
    home.befall(Event::Cut("host2".into()));
    home.wait("host3 rests", || off(&home, "host3"))?;
    home.wait("host1 is alone", || home.is_up("host1", 1))?;
    home.stayed_quorate()
}

fn lowered() -> Result<(), String> {
    let home = Home::open(&EQUALS)?;
    home.wait("two are up", || home.is_up("host1", 2) && home.is_up("host2", 2))?;
    home.befall(Event::ExpectedVotes(2));
    home.down(&["host2"]);
    home.wait("host2 is held", || !home.holds("host2").is_empty())?;
    home.up(&["host3"]);
    home.wait("host3 rejoins", || home.is_up("host3", 3) && home.is_up("host1", 3))?;
    home.wait("host2 rests", || off(&home, "host2"))?;
    home.wait("two are left", || home.is_up("host1", 2) && home.is_up("host3", 2))?;
    home.stayed_quorate()
}

fn raised() -> Result<(), String> {
    let home = Home::open(&Plan { on: &["host1", "host2"], ..REFERENCE })?;
    home.wait("two are up", || home.is_up("host1", 2) && home.is_up("host2", 2))?;
    home.befall(Event::RaiseConfig(true));
    home.wait("it is told", || home.was_told("config_version 2"))?;
    home.up(&["host3"]);
    home.wait("host3 was thrown out", || home.phase("host3") == Phase::Up)?;
    home.wait("two are left", || home.is_up("host1", 2) && home.is_up("host2", 2))?;
    home.down(&["host2"]);
    home.wait("host2 is held", || !home.holds("host2").is_empty())?;
    home.stayed_quorate()
}

/// Nobody could have kept it; the vote that is asleep brings it back.
fn rescue() -> Result<(), String> {
    let home = Home::open(&EQUALS)?;
    home.wait("two are up", || home.is_up("host1", 2) && home.is_up("host2", 2))?;
    home.befall(Event::Cut("host2".into()));
    home.wait("host1 has lost its quorum", || home.daemons.company("host1").is_none())?;
    home.wait("host3 came to its rescue", || home.is_up("host1", 2) && home.is_up("host3", 2))?;
    home.daemons.forgive();
    home.down(&["host3"]);
    home.wait("host3 is held for the votes", || !home.holds("host3").is_empty())?;
    home.stayed_quorate()
}
