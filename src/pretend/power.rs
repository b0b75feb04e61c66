//! Hosts that boot, serve, stop, hang and vanish.
//!
//! The order of a boot and of a shutdown is the recorded one: membership comes some 10 s before the
//! API, the API goes some 3 s before membership, guests are stopped while the API still answers,
//! and a host is off only well after it left. A magic packet starts a host that is truly off and
//! nothing else.
//!
//! **Does not know:** who asked, and whether that was wise (it only counts).

use std::time::Duration;

use jiff::Timestamp;

use super::file::HostFile;
use super::guests::Run;
use super::iron::Knob;
use super::world::{Due, Figures, World};
use crate::cluster::{GuestKind, HostName, Mac, Vmid};
use crate::pretend::task::Step;

/// `(sleep 2; poweroff)&`, as PVE does it.
const POWEROFF_DELAY: Duration = Duration::from_secs(2);
/// Between the end of the API and leaving the cluster (recorded).
const API_GOES_FIRST: Duration = Duration::from_secs(3);
/// From guests stopped to the end of the API (recorded: a host asked to stop still answers 5 s
/// later, and leaves after 12).
const DAEMONS_STOP: Duration = Duration::from_secs(6);
/// The network is up so long before corosync has joined: connections are refused then.
const REFUSES_BEFORE_JOINING: Duration = Duration::from_secs(4);
/// From an API that answers to the start of the guests.
const GUESTS_START_AFTER_API: Duration = Duration::from_secs(2);
/// From an API that answers to the first report of pvestatd.
const FIRST_REPORT_AFTER_API: Duration = Duration::from_secs(7);
/// pvestatd's round.
const REPORT_EVERY: Duration = Duration::from_secs(10);
/// After a host vanished, packets to it go unanswered so long before there is no route to it.
const SILENT_AFTER_VANISHING: Duration = Duration::from_secs(40);
/// What a guest must be given before a shutdown of its host stops it hard (PVE's stopall).
const STOPALL_PATIENCE: u32 = 180;
/// A start or a crash within this time before a request could not have been seen by whoever asked.
pub(crate) const TOO_RECENT_TO_SEE: Duration = Duration::from_secs(10);
/// How often an HA manager looks.
pub(crate) const HA_ROUND: Duration = Duration::from_secs(10);
/// From a vanished host to its HA guests' recovery elsewhere.
const HA_RECOVERY: Duration = Duration::from_secs(120);
/// The same after an orderly leave.
const HA_RECOVERY_AFTER_LEAVING: Duration = Duration::from_secs(60);

/// How far a host is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Off,
    /// Powered, before its network is up.
    Firmware,
    /// Its network answers, nothing listens.
    Kernel,
    /// A member whose API does not answer yet.
    Joined,
    Up,
    /// Asked to stop; its API still answers.
    Stopping,
    /// Its API is gone, it is still a member.
    Closing,
    /// It has left.
    Unmounting,
    /// It has left and will never be off by itself.
    Hung,
    /// Its kernel is dead; it draws power.
    Dead,
}

impl Phase {
    pub fn draws_power(self) -> bool {
        self != Phase::Off
    }

    /// Corosync runs.
    pub fn in_cluster(self) -> bool {
        matches!(self, Phase::Joined | Phase::Up | Phase::Stopping | Phase::Closing)
    }

    pub fn api_answers(self) -> bool {
        matches!(self, Phase::Up | Phase::Stopping)
    }
}

/// What happens next to a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    KernelUp,
    Join,
    ApiUp,
    StartGuests,
    Report,
    StopGuests,
    CloseApi,
    Leave,
    PowerGone,
}

/// How a host's API meets a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    Answers,
    /// Nothing listens: refused at once.
    Refuses,
    /// Packets vanish: no answer until the caller gives up.
    Silent,
    /// The kernel says after about three seconds that there is no route.
    NoRoute,
}

/// One pretended machine.
#[derive(Clone, Debug)]
pub struct Host {
    pub name: HostName,
    pub node: String,
    pub number: u32,
    pub votes: u32,
    pub mac: Option<Mac>,
    pub address: String,
    pub version: String,
    pub phase: Phase,
    pub always_on: bool,
    pub(crate) wakeonlan: Option<String>,
    pub(crate) memory_bytes: u64,
    pub(crate) cores: u32,
    pub(crate) boot_takes: Duration,
    pub(crate) api_takes: Duration,
    pub(crate) shutdown_takes: Duration,
    pub(crate) report_takes: Duration,
    pub(crate) password: Option<[u8; 6]>,
    pub(crate) starts_with_power: bool,
    /// Counts boots: what was planned for an earlier one no longer happens.
    pub(crate) boot: u64,
    pub(crate) mains: bool,
    pub(crate) booted_at: Timestamp,
    pub(crate) joined_at: Timestamp,
    pub(crate) vanished_at: Option<Timestamp>,
    pub(crate) asked_off: Option<Asked>,
    pub(crate) had_quorum: bool,
    pub(crate) missed_quorum: bool,
    pub(crate) next_pid: u32,
    pub(crate) reported_at: Option<Timestamp>,
    pub(crate) reported_uptime: u64,
    pub(crate) api_hangs_until: Option<Timestamp>,
    pub(crate) api_down_until: Option<Timestamp>,
    pub(crate) boot_slower_by: Duration,
    pub(crate) no_boot: bool,
    pub(crate) hangs_in_shutdown: bool,
    pub(crate) packets_to_lose: u32,
    /// Ceph's daemons: `mon`, or the number of a disk.
    pub(crate) ceph: Vec<String>,
    /// When the HA manager's agent last had a service here.
    pub(crate) ha_busy_at: Option<Timestamp>,
    /// SHA-256 of its certificate, as PVE writes fingerprints.
    pub fingerprint: String,
}

/// Who asked for a power-off, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub at: Timestamp,
    pub over_api: bool,
}

impl Host {
    pub(crate) fn new(file: &HostFile, number: u32) -> Host {
        let seconds = |count: u32| Duration::from_secs(u64::from(count));
        let password = file.wol_password.as_ref().and_then(|text| text.parse::<Mac>().ok());
        let mac = file.mac.map(|mac| mac.to_string());
        Host {
            name: file.name.clone(),
            node: file.node.clone().unwrap_or_else(|| file.name.0.clone()),
            number,
            votes: file.votes,
            mac: file.mac,
            address: file.address.clone().unwrap_or_else(|| format!("10.0.0.{}", 10 + number)),
            version: file.version.clone(),
            phase: Phase::Off,
            always_on: file.always_on,
            wakeonlan: file.wakeonlan.clone().or(mac).filter(|text| !text.is_empty()),
            memory_bytes: file.memory_gib << 30,
            cores: file.cores,
            boot_takes: seconds(file.boot_seconds),
            api_takes: seconds(file.api_seconds),
            shutdown_takes: seconds(file.shutdown_seconds),
            report_takes: seconds(file.report_seconds),
            password: password.map(|mac| mac.0),
            starts_with_power: file.starts_with_power,
            boot: 0,
            mains: true,
            booted_at: Timestamp::UNIX_EPOCH,
            joined_at: Timestamp::UNIX_EPOCH,
            vanished_at: None,
            asked_off: None,
            had_quorum: false,
            missed_quorum: false,
            next_pid: 1_000,
            reported_at: None,
            reported_uptime: 0,
            api_hangs_until: None,
            api_down_until: None,
            boot_slower_by: Duration::ZERO,
            no_boot: false,
            hangs_in_shutdown: false,
            packets_to_lose: 0,
            ceph: file.ceph.clone(),
            ha_busy_at: None,
            fingerprint: invented_fingerprint(number),
        }
    }

    pub fn uptime_seconds(&self, now: Timestamp) -> u64 {
        u64::try_from(now.duration_since(self.booted_at).as_secs()).unwrap_or(0)
    }

    /// `8` of `8.4.21`.
    pub(crate) fn major(&self) -> u32 {
        self.version.split('.').next().and_then(|text| text.parse().ok()).unwrap_or(8)
    }
}

/// A fingerprint for worlds without real certificates.
fn invented_fingerprint(number: u32) -> String {
    let pair = |index: u32| format!("{:02X}", (index * 7 + number * 31) % 256);
    (0..32).map(pair).collect::<Vec<_>>().join(":")
}

impl World {
    /// A host that has been serving for days when the world begins.
    pub(crate) fn has_been_up(&mut self, name: &HostName) {
        let now = self.now;
        let host = self.host_mut(name);
        host.phase = Phase::Up;
        host.boot = 1;
        host.booted_at = now - Duration::from_secs(6 * 86_400 + 3_600 * u64::from(host.number));
        host.joined_at = host.booted_at + Duration::from_secs(30);
        let first = Duration::from_millis(3_300) * host.number;
        self.iron.power_on(name, now);
        self.membership_changed();
        self.report(name);
        self.after(first, Due::Host(name.clone(), 1, Stage::Report));
    }

    /// How `name`'s own address meets a connection now.
    pub fn door(&self, name: &HostName) -> Door {
        let Some(host) = self.hosts.get(name) else {
            return Door::NoRoute;
        };
        let until = |instant: Option<Timestamp>| instant.is_some_and(|until| self.now < until);
        match host.phase {
            Phase::Up | Phase::Stopping if until(host.api_down_until) => Door::Refuses,
            Phase::Up | Phase::Stopping if until(host.api_hangs_until) => Door::Silent,
            Phase::Up | Phase::Stopping => Door::Answers,
            Phase::Kernel | Phase::Joined | Phase::Closing | Phase::Unmounting | Phase::Hung => {
                Door::Refuses
            }
            Phase::Off | Phase::Firmware | Phase::Dead => {
                let silent = host.vanished_at.map(|at| at + SILENT_AFTER_VANISHING);
                if until(silent) { Door::Silent } else { Door::NoRoute }
            }
        }
    }

    /// What the firmware does with a frame: six times FF and sixteen times its own address anywhere
    /// in it, and the password behind them where one is set. Names the hosts that woke.
    pub fn magic_packet(&mut self, frame: &[u8]) -> Vec<HostName> {
        let mut woken = Vec::new();
        for name in self.hosts.keys().cloned().collect::<Vec<_>>() {
            let host = self.host_mut(&name);
            if !meant_for(host, frame) {
                continue;
            }
            if host.packets_to_lose > 0 {
                host.packets_to_lose -= 1;
                self.tell(name.as_str(), "a magic packet was lost on its way");
            } else if host.phase == Phase::Off && host.mains {
                self.tell(name.as_str(), "firmware got the magic packet");
                self.tally.wakes += 1;
                self.power_on(&name);
                woken.push(name);
            }
        }
        woken
    }

    /// Electricity flows and the machine starts.
    pub(crate) fn power_on(&mut self, name: &HostName) {
        let now = self.now;
        let host = self.host_mut(name);
        host.phase = Phase::Firmware;
        host.boot += 1;
        host.vanished_at = None;
        host.asked_off = None;
        host.had_quorum = false;
        host.missed_quorum = false;
        host.next_pid = 1_000;
        let (boot, takes) = (host.boot, host.boot_takes + host.boot_slower_by);
        host.boot_slower_by = Duration::ZERO;
        if std::mem::take(&mut host.no_boot) {
            self.tell(name.as_str(), "stays in its firmware");
            return;
        }
        host.booted_at = now + takes / 3;
        let kernel = takes.saturating_sub(REFUSES_BEFORE_JOINING);
        self.after(kernel, Due::Host(name.clone(), boot, Stage::KernelUp));
        self.after(takes, Due::Host(name.clone(), boot, Stage::Join));
    }

    /// Begins an orderly shutdown: by the API, by the button, or not at all if it is under way.
    ///
    /// PVE itself checks nothing here, and a second request is as good as the first.
    pub(crate) fn ask_off(&mut self, name: &HostName, over_api: bool) {
        let now = self.now;
        let host = self.host_mut(name);
        if host.asked_off.is_some() || !host.phase.api_answers() {
            return;
        }
        host.asked_off = Some(Asked { at: now, over_api });
        let (boot, always_on) = (host.boot, host.always_on);
        self.after(POWEROFF_DELAY, Due::Host(name.clone(), boot, Stage::StopGuests));
        if !over_api {
            return;
        }
        self.tally.power_offs += 1;
        if always_on {
            self.broken(format!("{name} is always on, and was asked to power off"));
        }
        let cut_off: Vec<(Vmid, GuestKind, Timestamp)> = self
            .guests
            .values()
            .filter(|guest| guest.host == *name && guest.run != Run::Stopped)
            .map(|guest| (guest.vmid, guest.kind, guest.since))
            .collect();
        for (vmid, kind, since) in cut_off {
            if now.duration_since(since) <= TOO_RECENT_TO_SEE.try_into().expect("seconds") {
                self.unlucky(format!("{kind} {vmid} was started on {name} as it was asked off"));
            } else {
                self.broken(format!("{name} was asked to power off while {kind} {vmid} ran on it"));
            }
        }
    }

    /// A person presses the button.
    pub(crate) fn press(&mut self, name: &HostName) {
        match self.hosts[name].phase {
            Phase::Off if self.hosts[name].mains => {
                self.tell("owner", format!("pressed the power button of {name}: on"));
                self.power_on(name);
            }
            Phase::Up => {
                self.tell("owner", format!("pressed the power button of {name}: off"));
                self.ask_off(name, false);
            }
            // Held long enough, the button always works.
            Phase::Dead | Phase::Hung | Phase::Firmware => {
                self.tell("owner", format!("held the power button of {name} and started it anew"));
                self.vanish(name, Phase::Off);
                self.power_on(name);
            }
            Phase::Off
            | Phase::Kernel
            | Phase::Joined
            | Phase::Stopping
            | Phase::Closing
            | Phase::Unmounting => {}
        }
    }

    /// The host is gone from one instant to the next, and with it what ran on it.
    pub(crate) fn vanish(&mut self, name: &HostName, into: Phase) {
        let now = self.now;
        let host = self.host_mut(name);
        let was_in_cluster = host.phase.in_cluster();
        let asked = host.asked_off.take();
        host.boot += 1;
        host.phase = into;
        if was_in_cluster {
            host.vanished_at = Some(now);
            self.last_crash = Some(now);
        }
        self.iron.cut(name, now);
        for guest in self.guests.values_mut().filter(|guest| guest.host == *name) {
            guest.run = Run::Stopped;
        }
        if was_in_cluster && asked.is_none() {
            self.ha_will_recover(name, HA_RECOVERY);
        }
        self.device_server_follows();
        self.membership_changed();
    }

    pub(crate) fn host_stage(&mut self, name: &HostName, boot: u64, stage: Stage) {
        if self.hosts[name].boot != boot {
            return;
        }
        let next = |world: &mut World, after, stage| {
            world.after(after, Due::Host(name.clone(), boot, stage));
        };
        match stage {
            Stage::KernelUp => self.host_mut(name).phase = Phase::Kernel,
            Stage::Join => {
                self.join(name);
                let api = self.hosts[name].api_takes;
                next(self, api, Stage::ApiUp);
            }
            Stage::ApiUp => {
                self.host_mut(name).phase = Phase::Up;
                self.tell(name.as_str(), "its API answers");
                next(self, GUESTS_START_AFTER_API, Stage::StartGuests);
                next(self, FIRST_REPORT_AFTER_API, Stage::Report);
            }
            Stage::StartGuests if !self.quorate(name) => {
                next(self, Duration::from_secs(1), Stage::StartGuests);
            }
            Stage::StartGuests => self.start_all(name),
            Stage::Report => {
                if self.hosts[name].phase.api_answers() {
                    self.report(name);
                    next(self, REPORT_EVERY, Stage::Report);
                }
            }
            Stage::StopGuests => {
                self.host_mut(name).phase = Phase::Stopping;
                let patience = self.stop_all(name, STOPALL_PATIENCE);
                next(self, patience + DAEMONS_STOP, Stage::CloseApi);
            }
            Stage::CloseApi => {
                self.host_mut(name).phase = Phase::Closing;
                self.interrupt_tasks(name);
                self.cut_remaining(name);
                next(self, API_GOES_FIRST, Stage::Leave);
            }
            Stage::Leave => self.leave(name, boot),
            Stage::PowerGone => self.power_gone(name),
        }
    }

    fn join(&mut self, name: &HostName) {
        let now = self.now;
        let host = self.host_mut(name);
        host.phase = Phase::Joined;
        host.joined_at = now;
        self.iron.power_on(name, now);
        self.tell(name.as_str(), "joined the cluster");
        self.end_lost_tasks(name);
        self.device_server_follows();
        self.membership_changed();
    }

    /// The host leaves in order; the survivors' quorum is compared before and after.
    fn leave(&mut self, name: &HostName, boot: u64) {
        let survivors: Vec<HostName> = self
            .hosts
            .keys()
            .filter(|other| *other != name && self.sees(name, other) && self.quorate(other))
            .cloned()
            .collect();
        let now = self.now;
        self.host_mut(name).phase = Phase::Unmounting;
        self.iron.power_off(name, now);
        self.device_server_follows();
        self.tell(name.as_str(), "left the cluster");
        self.ha_will_recover(name, HA_RECOVERY_AFTER_LEAVING);
        if survivors.iter().any(|other| !self.quorate(other)) {
            self.quorum_was_lost_by(name);
        }
        self.membership_changed();
        let host = self.host_mut(name);
        if std::mem::take(&mut host.hangs_in_shutdown) {
            host.phase = Phase::Hung;
            self.tell(name.as_str(), "hangs in its shutdown");
            return;
        }
        let before = POWEROFF_DELAY + DAEMONS_STOP + API_GOES_FIRST;
        let left = host.shutdown_takes.saturating_sub(before);
        self.after(left, Due::Host(name.clone(), boot, Stage::PowerGone));
    }

    fn quorum_was_lost_by(&mut self, name: &HostName) {
        let Some(asked) = self.hosts[name].asked_off.filter(|asked| asked.over_api) else {
            return;
        };
        let unforeseen = self.last_crash.is_some_and(|at| at + TOO_RECENT_TO_SEE >= asked.at);
        if unforeseen {
            self.unlucky(format!("a crash beside the power-off of {name} cost the quorum"));
        } else {
            self.broken(format!("the power-off of {name} cost the cluster its quorum"));
        }
    }

    fn power_gone(&mut self, name: &HostName) {
        let now = self.now;
        let host = self.host_mut(name);
        host.phase = Phase::Off;
        host.boot += 1;
        host.asked_off = None;
        self.iron.power_off(name, now);
        self.tell(name.as_str(), "is off");
    }

    /// pvestatd's broadcast: what the others believe of this host and its guests until the next.
    pub(crate) fn report(&mut self, name: &HostName) {
        let now = self.now;
        let host = self.host_mut(name);
        host.reported_at = Some(now);
        host.reported_uptime = host.uptime_seconds(now);
        for guest in self.guests.values().filter(|guest| guest.host == *name) {
            let figures =
                Figures { at: now, status: guest.run.word(), uptime: guest.uptime_seconds(now) };
            self.figures.insert(guest.vmid, figures);
        }
    }

    /// The device's server dies and returns with what it lives on.
    pub(crate) fn device_server_follows(&mut self) {
        let Some(device) = &self.device else {
            return;
        };
        let host = device.server_on.as_ref();
        let guest = device.server_in.and_then(|vmid| self.guests.get(&vmid));
        let alive = host.is_none_or(|name| self.hosts[name].phase.in_cluster())
            && guest.is_none_or(|guest| guest.run == Run::Running);
        if host.is_some() || guest.is_some() {
            let now = self.now;
            self.iron.turn(&Knob::DeviceServer(alive), now);
        }
    }

    /// Workers that are still at it when the host's daemons stop are interrupted.
    fn interrupt_tasks(&mut self, name: &HostName) {
        let running: Vec<_> = self.running_tasks(name).map(|task| task.id).collect();
        for task in running {
            self.task_step(task, Step::Fail("received interrupt".into()));
        }
    }
}

fn meant_for(host: &Host, frame: &[u8]) -> bool {
    let Some(mac) = host.mac else {
        return false;
    };
    let mut magic = vec![0xff; 6];
    magic.extend(mac.0.repeat(16));
    let Some(at) = frame.windows(magic.len()).position(|window| window == magic) else {
        return false;
    };
    let behind = &frame[at + magic.len()..];
    host.password.is_none_or(|password| behind.starts_with(&password))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pretend::script::Event;

    fn magic(mac: [u8; 6]) -> Vec<u8> {
        let mut frame = vec![0xff; 6];
        frame.extend(mac.repeat(16));
        frame
    }

    const HOST3: [u8; 6] = [0xa8, 0xa1, 0x59, 0, 0, 3];

    fn pass(world: &mut World, seconds: u64) {
        world.advance_to(world.now() + Duration::from_secs(seconds));
    }

    #[test]
    fn a_magic_packet_wakes_its_own_host_and_nobody_else() {
        let mut world = World::reference();
        let host3 = HostName::from("host3");
        assert!(world.magic_packet(&magic([2, 0, 0, 0, 0, 9])).is_empty());
        assert!(world.magic_packet(&[0xff; 40]).is_empty());
        let mut framed = b"some header".to_vec();
        framed.extend(magic(HOST3));
        assert_eq!(world.magic_packet(&framed), std::slice::from_ref(&host3));
        assert!(world.magic_packet(&framed).is_empty(), "it is no longer off");
        assert_eq!(world.tally().wakes, 1);
    }

    #[test]
    fn a_boot_joins_before_its_api_answers() {
        let mut world = World::reference();
        let (host1, host3) = (HostName::from("host1"), HostName::from("host3"));
        world.magic_packet(&magic(HOST3));
        let mut seen = Vec::new();
        for _ in 0..240 {
            let now = (world.sees(&host1, &host3), world.door(&host3));
            if seen.last() != Some(&now) {
                seen.push(now);
            }
            pass(&mut world, 1);
        }
        assert_eq!(
            seen,
            [
                (false, Door::NoRoute),
                (false, Door::Refuses),
                (true, Door::Refuses),
                (true, Door::Answers)
            ]
        );
    }

    #[test]
    fn a_shutdown_closes_the_api_leaves_and_only_then_is_off() {
        let mut world = World::reference();
        let (host1, host3) = (HostName::from("host1"), HostName::from("host3"));
        world.magic_packet(&magic(HOST3));
        pass(&mut world, 300);
        world.ask_off(&host3, true);
        let mut seen = Vec::new();
        for _ in 0..300 {
            let now = (world.sees(&host1, &host3), world.door(&host3));
            if seen.last() != Some(&now) {
                seen.push(now);
            }
            pass(&mut world, 1);
        }
        assert_eq!(
            seen,
            [
                (true, Door::Answers),
                (true, Door::Refuses),
                (false, Door::Refuses),
                (false, Door::NoRoute)
            ]
        );
        assert!(world.tally().promises_broken.is_empty(), "{:?}", world.tally());
        assert_eq!(world.tally().power_offs, 1);
    }

    #[test]
    fn a_power_off_that_costs_quorum_is_a_broken_promise() {
        let mut world = World::read(
            "hosts: [{name: a}, {name: b}, {name: c, state: off}]\nguests: []\nstorages: []",
        )
        .unwrap();
        world.ask_off(&"b".into(), true);
        pass(&mut world, 100);
        assert!(world.tally().promises_broken[0].contains("cost the cluster its quorum"));
        assert!(world.tally().seconds_without_quorum() > 60);
    }

    #[test]
    fn a_device_that_dies_while_a_host_stops_is_bad_luck() {
        let mut world =
            World::read("{hosts: [{name: a}, {name: b}], qdevice: {algorithm: ffsplit, votes: 1}}")
                .unwrap();
        world.ask_off(&"b".into(), true);
        world.befall(&Event::Qdevice(crate::pretend::script::DeviceState::Dead));
        pass(&mut world, 100);
        assert!(world.tally().promises_broken.is_empty(), "{:?}", world.tally());
        assert_eq!(world.tally().bad_luck, 1);
        assert!(world.tally().seconds_without_quorum() > 0);
    }

    #[test]
    fn a_crash_beside_a_power_off_is_bad_luck() {
        let mut world =
            World::read("hosts: [{name: a, votes: 2}, {name: b}, {name: c}, {name: d}]").unwrap();
        world.ask_off(&"b".into(), true);
        world.befall(&Event::Cut("c".into()));
        world.befall(&Event::Cut("d".into()));
        pass(&mut world, 100);
        assert!(world.tally().promises_broken.is_empty());
    }

    #[test]
    fn a_vanished_host_is_silent_before_there_is_no_route() {
        let mut world = World::reference();
        let host2 = HostName::from("host2");
        world.befall(&Event::Cut(host2.clone()));
        assert_eq!(world.door(&host2), Door::Silent);
        assert!(world.sees(&"host1".into(), &host2), "nobody noticed yet");
        pass(&mut world, 9);
        assert!(!world.sees(&"host1".into(), &host2));
        pass(&mut world, 40);
        assert_eq!(world.door(&host2), Door::NoRoute);
        assert!(world.magic_packet(&magic([0xa8, 0xa1, 0x59, 0, 0, 2])).is_empty(), "no power");
    }
}
