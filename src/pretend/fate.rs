//! What befalls the pretended world from outside, carried out: the owner's hand, the mains, faults.
//!
//! One table from a script's event to what it does, so that a new event forces a decision.
//!
//! **Does not know:** when anything befalls (`script`), what the world then makes of it.

use super::guests::{Guest, HaWish, Run};
use super::iron::Knob;
use super::power::Phase;
use super::script::{DeviceState, Event};
use super::task::{Aim, Caller, Doom};
use super::world::{Due, TaskFault, World};
use crate::cluster::Vmid;

impl World {
    /// Carries out one line of the script.
    pub(crate) fn befall(&mut self, event: &Event) {
        let now = self.now;
        match event {
            Event::Press(host) => self.press(host),
            Event::Crash(host) => {
                if self.hosts[host].phase.in_cluster() {
                    self.tell(host.as_str(), "its kernel hangs");
                    self.vanish(host, Phase::Dead);
                }
            }
            Event::Cut(host) => {
                self.tell(host.as_str(), "lost power");
                self.host_mut(host).mains = false;
                self.vanish(host, Phase::Off);
            }
            Event::MainsBack(host) => {
                self.tell(host.as_str(), "has power again");
                let there = self.host_mut(host);
                there.mains = true;
                if there.starts_with_power && there.phase == Phase::Off {
                    self.power_on(host);
                }
            }
            Event::BootSlow { host, by } => self.host_mut(host).boot_slower_by = by.0,
            Event::NoBoot(host) => self.host_mut(host).no_boot = true,
            Event::HangInShutdown(host) => self.host_mut(host).hangs_in_shutdown = true,
            Event::LosePackets { host, packets } => self.host_mut(host).packets_to_lose = *packets,
            Event::ChangeMac { host, mac } => {
                let there = self.host_mut(host);
                there.mac = Some(*mac);
                there.wakeonlan = Some(mac.to_string());
                self.tell("owner", format!("exchanged the network card of {host}"));
            }
            Event::ApiHang { host, lasting } => {
                self.host_mut(host).api_hangs_until = Some(now + lasting.0);
                self.tell(host.as_str(), "its API hangs");
            }
            Event::ApiDown { host, lasting } => {
                self.host_mut(host).api_down_until = Some(now + lasting.0);
                self.tell(host.as_str(), "its API is down");
            }
            Event::Answers(fault) => self.answer_faults.push(fault.clone()),
            Event::TaskVanishes { kind, guest } => {
                let (kind, guest, doom) = (kind.clone(), *guest, Doom::Vanishes);
                self.task_faults.push(TaskFault { kind, guest, doom });
            }
            Event::TaskIdle { kind, guest } => {
                let (kind, guest, doom) = (kind.clone(), *guest, Doom::Idle);
                self.task_faults.push(TaskFault { kind, guest, doom });
            }
            Event::MigrationAborted(guest) => self.doom_moves(*guest, Doom::Aborted),
            Event::MigrationProblems(guest) => self.doom_moves(*guest, Doom::Problems),
            Event::StorageFull(guest) => self.doom_moves(*guest, Doom::Full),
            Event::HibernationFails(guest) => {
                let (kind, guest, doom) = ("qmsuspend".into(), Some(*guest), Doom::Aborted);
                self.task_faults.push(TaskFault { kind, guest, doom });
            }
            Event::Replicate { guest, to, lasting } => {
                self.replicating.insert(*guest, to.clone());
                self.tell(format!("guest {guest}"), format!("is being replicated to {to}"));
                self.after(lasting.0, Due::Replicated(*guest));
            }
            Event::Task { host, kind, lasting } => {
                let task = self.begin(host, kind, None, &Caller::root(), Aim::Nothing);
                self.after(lasting.0, Due::Ends(task));
            }
            Event::Relocate { guest, to } => {
                self.tell("ha", format!("moves guest {guest} to {to} of its own accord"));
                self.ha_wish(*guest, HaWish::Migrate(to.clone()));
            }
            Event::Maintenance { host, on } => {
                match on {
                    true => self.in_maintenance.insert(host.clone()),
                    false => self.in_maintenance.remove(host),
                };
                let what = if *on { "took into" } else { "released from" };
                self.tell("owner", format!("{what} maintenance: {host}"));
            }
            Event::Noout(set) => self.noout = *set,
            Event::CephNeeded(needed) => self.ceph_needed = *needed,
            Event::DisableStorage { storage, disabled } => {
                if let Some(there) = self.storages.get_mut(storage) {
                    there.file.disabled = *disabled;
                }
            }
            Event::Qdevice(state) => {
                let alive = *state == DeviceState::Alive;
                self.tell("qdevice", if alive { "its server is back" } else { "its server died" });
                if !alive {
                    self.last_crash = Some(now);
                }
                self.knob(&Knob::DeviceServer(alive));
            }
            Event::QdeviceDaemon { host, runs } => {
                if !*runs {
                    self.last_crash = Some(now);
                }
                self.knob(&Knob::DeviceDaemon(host.clone(), *runs));
            }
            Event::ExpectedVotes(votes) => {
                self.tell("owner", format!("ran `pvecm expected {votes}`"));
                self.knob(&Knob::Expect(*votes));
            }
            Event::RaiseConfig(_) => {
                self.tell("owner", "changed corosync.conf");
                self.knob(&Knob::RaiseConfig);
            }
            Event::EditVotes { host, votes } => {
                self.tell("owner", format!("wrote {votes} votes for {host} into corosync.conf"));
                self.host_mut(host).votes = *votes;
                self.knob(&Knob::RaiseConfig);
            }
            Event::Partition(groups) => {
                self.tell("network", "fell apart");
                self.last_crash = Some(now);
                self.knob(&Knob::Partition(groups.clone()));
            }
            Event::Heal(_) => {
                self.tell("network", "is whole again");
                self.knob(&Knob::Heal);
            }
            Event::ClockStep(ahead) => self.wall.ahead = *ahead,
            Event::ClockState(word) => self.set_clock((*word).into()),
            Event::Storage { storage, active } => {
                if let Some(there) = self.storages.get_mut(storage) {
                    there.active = *active;
                }
            }
            Event::TokenExpires(id) => {
                if let Some(token) = self.tokens.get_mut(id) {
                    token.expired = true;
                }
            }
            Event::Hide(_)
            | Event::Show(_)
            | Event::CreateGuest(_)
            | Event::MoveGuest { .. }
            | Event::LockGuest { .. }
            | Event::UnlockGuest(_)
            | Event::DeleteGuest(_)
            | Event::StartGuest(_)
            | Event::TokenStartsGuest(_)
            | Event::StopGuest(_)
            | Event::PauseGuest(_)
            | Event::Backup { .. } => self.guest_befalls(event),
        }
    }

    fn doom_moves(&mut self, guest: Vmid, doom: Doom) {
        for kind in ["qmigrate", "vzmigrate"] {
            self.task_faults.push(TaskFault { kind: kind.into(), guest: Some(guest), doom });
        }
    }

    fn knob(&mut self, knob: &Knob) {
        let now = self.now;
        self.iron.turn(knob, now);
        self.membership_changed();
    }

    /// What a hand does to guests.
    pub(crate) fn guest_befalls(&mut self, event: &Event) {
        match event {
            Event::CreateGuest(file) => {
                self.put_guest(file);
                let now = self.now;
                self.guests.get_mut(&file.vmid).expect("just put").since = now;
                self.tell("owner", format!("created {} {} on {}", file.kind, file.vmid, file.host));
            }
            Event::MoveGuest { guest, to } => self.by_hand(*guest, |there| {
                there.host = to.clone();
                format!("moved guest {} to {to}", there.vmid)
            }),
            Event::LockGuest { guest, lock } => self.by_hand(*guest, |there| {
                there.lock = Some(lock.clone());
                format!("locked guest {} ({lock})", there.vmid)
            }),
            Event::UnlockGuest(guest) => self.by_hand(*guest, |there| {
                there.lock = None;
                format!("unlocked guest {}", there.vmid)
            }),
            Event::Hide(guest) => self.by_hand(*guest, |there| {
                there.hidden = true;
                format!("took away every token's right to see guest {}", there.vmid)
            }),
            Event::Show(guest) => self.by_hand(*guest, |there| {
                there.hidden = false;
                format!("gave back the right to see guest {}", there.vmid)
            }),
            Event::StopGuest(guest) => self.by_hand(*guest, |there| {
                there.run = Run::Stopped;
                format!("stopped guest {}", there.vmid)
            }),
            Event::PauseGuest(guest) => self.by_hand(*guest, |there| {
                if there.run == Run::Running {
                    there.run = Run::Paused;
                }
                format!("paused guest {}", there.vmid)
            }),
            Event::StartGuest(guest) => {
                let Some(host) = self.guests.get(guest).map(|there| there.host.clone()) else {
                    return;
                };
                if self.hosts[&host].phase.api_answers() && self.quorate(&host) {
                    self.tell("owner", format!("starts guest {guest} on {host}"));
                    self.start_for(&host, *guest, &Caller::root());
                }
            }
            Event::TokenStartsGuest(guest) => {
                let caller = self.tokens.values().next().map(|token| token.caller());
                let host = self.guests.get(guest).map(|there| there.host.clone());
                if let (Some(caller), Some(host)) = (caller, host) {
                    self.tell("another spot", format!("starts guest {guest} on {host}"));
                    self.start_for(&host, *guest, &caller);
                }
            }
            Event::DeleteGuest(guest) => self.delete_by_hand(*guest),
            Event::Backup { host, guests, lasting } => {
                let there: Vec<Vmid> = guests
                    .iter()
                    .filter(|vmid| self.guests.get(vmid).is_some_and(|guest| guest.host == *host))
                    .copied()
                    .collect();
                if self.hosts[host].phase.api_answers() && !there.is_empty() {
                    let each = lasting.0 / u32::try_from(there.len()).expect("few guests");
                    self.back_up(host, there, each);
                }
            }
            _ => {}
        }
    }

    fn delete_by_hand(&mut self, guest: Vmid) {
        if self.guests.remove(&guest).is_some() {
            self.tell("owner", format!("deleted guest {guest}"));
        }
    }

    fn by_hand(&mut self, guest: Vmid, act: impl FnOnce(&mut Guest) -> String) {
        if let Some(there) = self.guests.get_mut(&guest) {
            let what = act(there);
            self.tell("owner", what);
            self.device_server_follows();
            self.membership_changed();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::pretend::answer::{ApiRequest, answer};
    use crate::pretend::script::{Weather, storm};

    /// The reference home with a QDevice, HA and a host whose storage others use.
    const STORMY: &str = "
hosts:
  - { name: a, mac: '02:00:00:00:00:01', starts_with_power: true }
  - { name: b, mac: '02:00:00:00:00:02', version: '9.2.11' }
  - { name: c, mac: '02:00:00:00:00:03', state: off }
storages: [{ name: s, shared: true, served_by: b }, { name: l }]
qdevice: { algorithm: lms, votes: 2, server_in: 100 }
guests:
  - { vmid: 100, kind: vm, host: a, onboot: true, disks: [{ storage: s }] }
  - { vmid: 101, kind: vm, host: b, ha: started, disks: [{ storage: s }] }
  - { vmid: 102, kind: ct, host: b, onboot: true, disks: [{ storage: l }] }
  - { vmid: 103, kind: vm, host: a, state: hibernated, disks: [{ storage: s }] }
";

    const READS: [&str; 12] = [
        "/cluster/status",
        "/cluster/resources",
        "/cluster/tasks",
        "/cluster/ha/status/current",
        "/cluster/ha/status/manager_status",
        "/cluster/config/qdevice",
        "/access/permissions",
        "/nodes/a/report",
        "/nodes/b/status",
        "/nodes/b/qemu",
        "/nodes/c/storage",
        "/nodes/a/qemu/100/migrate",
    ];

    /// Anything may be asked at any time, also by somebody without sense.
    fn drawn(random: &mut fastrand::Rng) -> ApiRequest {
        let node = random.choice(["a", "b", "c"]).expect("a node");
        let vmid = random.u32(100..104);
        let kind = if vmid == 102 { "lxc" } else { "qemu" };
        let guest = format!("/nodes/{node}/{kind}/{vmid}");
        let target = random.choice(["a", "b", "c"]).expect("a node").to_string();
        let with = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let (method, path, form) = match random.u8(0..10) {
            0 => (
                "POST",
                format!("{guest}/migrate"),
                vec![with("target", &target), with("online", "1")],
            ),
            1 => (
                "POST",
                format!("{guest}/migrate"),
                vec![with("target", &target), with("restart", "1")],
            ),
            2 => ("POST", format!("{guest}/status/start"), vec![]),
            3 => ("POST", format!("{guest}/status/shutdown"), vec![with("timeout", "20")]),
            4 => ("POST", format!("{guest}/status/suspend"), vec![with("todisk", "1")]),
            5 => ("POST", format!("/nodes/{node}/status"), vec![with("command", "shutdown")]),
            6 => ("POST", format!("/nodes/{node}/wakeonlan"), vec![]),
            _ => ("GET", random.choice(READS).expect("a read").to_string(), vec![]),
        };
        let authorization = Some(format!(
            "PVEAPIToken={}={}",
            crate::pretend::rights::DEFAULT_TOKEN,
            crate::pretend::rights::DEFAULT_SECRET
        ));
        ApiRequest { method: method.into(), path, query: vec![], form, authorization }
    }

    fn told(seed: u64) -> Vec<String> {
        let mut world = World::read(STORMY).expect("a world");
        let weather = Weather {
            hosts: world.hosts().map(|host| host.name.clone()).collect(),
            guests: world.guests().map(|guest| guest.vmid).collect(),
            span: Duration::from_secs(7_200),
            faults: 25,
        };
        world.set_out(storm(seed, &weather));
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..400 {
            let asked = random.choice(&weather.hosts).expect("a host").clone();
            answer(&mut world, &asked, &drawn(&mut random));
            world.advance_to(world.now() + Duration::from_secs(random.u64(0..40)));
            assert!(world.next_event_at().is_none_or(|next| next > world.now()), "seed {seed}");
            for guest in world.guests() {
                let host = world.host(&guest.host).expect("a host");
                let runs = guest.run != Run::Stopped;
                assert!(
                    !runs || host.phase.draws_power(),
                    "seed {seed}: {} runs on nothing",
                    guest.vmid
                );
            }
        }
        world.story().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn in_any_weather_the_world_stays_a_world_and_tells_the_same_story_twice() {
        for seed in 0..60 {
            assert_eq!(told(seed), told(seed), "seed {seed}");
        }
    }
}
