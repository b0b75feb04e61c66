//! Real corosync as the iron under a pretended cluster: power starts and stops daemons in a lab, and
//! what a host shows is what `corosync-quorumtool` prints there.
//!
//! One long-lived watcher per running member asks it twenty times a second; from its answers come
//! the views, and with them the one figure that matters here: whether a member that was quorate, and
//! that nobody is stopping, ever showed that it was not.
//!
//! **Does not know:** who stops hosts, and why.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use jiff::Timestamp;
use spot::cluster::HostName;
use spot::pretend::iron::{Iron, Knob, Member, View};

use crate::cluster::Cluster;
use crate::lab::{BETWEEN, Handle, SERVER};

/// How often each member is asked whether it is quorate.
const WATCH_EVERY: Duration = Duration::from_millis(50);

/// What the tool says of the device's daemon on a member: alive or not, voting or not, or not there.
const STATES: [&str; 4] = ["A,V,NMW", "A,NV,NMW", "NA,NV,NMW", "NR"];

/// Flags that a home may show.
const FLAGS: [&str; 3] = ["Quorate", "Qdevice", "WaitForAll"];

/// What the world and the test share.
#[derive(Clone)]
pub struct Daemons(Arc<Inner>);

struct Inner {
    lab: Handle,
    state: Mutex<State>,
    /// One worker per host, so that a boot never overtakes a stop.
    hands: Mutex<BTreeMap<HostName, Sender<Deed>>>,
}

struct State {
    cluster: Cluster,
    hosts: BTreeMap<HostName, Seen>,
    /// Something was seen to change since the world last looked.
    changed: bool,
    /// Members that showed `Quorate: No` after they had shown Yes, with nobody stopping them.
    lost: Vec<String>,
    samples: usize,
}

#[derive(Default)]
struct Seen {
    view: Option<View>,
    was_quorate: bool,
    stopping: bool,
    config_version: u64,
}

enum Deed {
    Boot,
    Stop,
    Cut,
}

impl Daemons {
    /// Over a lab in which every host of `cluster` is a machine, asleep.
    pub fn over(lab: Handle, cluster: &Cluster) -> Daemons {
        let seen = || Seen { config_version: cluster.config_version, ..Seen::default() };
        let names = cluster.names();
        let hosts: BTreeMap<HostName, Seen> =
            names.iter().map(|name| (HostName::from(name.as_str()), seen())).collect();
        let state =
            State { cluster: cluster.clone(), hosts, changed: false, lost: Vec::new(), samples: 0 };
        let inner = Inner { lab, state: Mutex::new(state), hands: Mutex::default() };
        let daemons = Daemons(Arc::new(inner));
        for name in &names {
            daemons.write_conf(name);
        }
        daemons
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("nobody panics while holding what was seen")
    }

    /// Who lost the quorum it had, and how often anybody was asked.
    pub fn lost(&self) -> (Vec<String>, usize) {
        let state = self.state();
        (state.lost.clone(), state.samples)
    }

    /// What was lost is known and meant: from here on it is watched anew.
    pub fn forgive(&self) {
        self.state().lost.clear();
    }

    /// How many members `host` sees, when it is quorate.
    pub fn company(&self, host: &str) -> Option<usize> {
        let state = self.state();
        let view = state.hosts.get(&HostName::from(host))?.view.as_ref()?;
        view.quorate.then_some(view.members.len())
    }

    fn write_conf(&self, name: &str) {
        let text = self.state().cluster.conf();
        std::fs::write(self.0.lab.file(name, "etc/corosync.conf"), text)
            .expect("a file of the lab can be written");
    }

    /// Hands a deed to the host's worker.
    fn have(&self, host: &HostName, deed: Deed) {
        let mut hands = self.0.hands.lock().expect("nobody panics while holding the hands");
        let hand = hands.entry(host.clone()).or_insert_with(|| {
            let (hand, deeds) = mpsc::channel();
            let (daemons, host) = (self.clone(), host.clone());
            std::thread::spawn(move || {
                for deed in deeds {
                    daemons.act(&host, &deed);
                }
            });
            hand
        });
        hand.send(deed).expect("the worker lives as long as its hand");
    }

    fn act(&self, host: &HostName, deed: &Deed) {
        let lab = &self.0.lab;
        let name = host.as_str();
        // At the end of a test the lab goes first, and then nothing works any more.
        match deed {
            Deed::Boot => {
                if lab.boot(name).is_ok() {
                    self.watch(host.clone());
                }
            }
            Deed::Stop => drop(lab.stop(name)),
            Deed::Cut => {
                lab.cut(name);
                drop(lab.rest_card(name));
            }
        }
    }

    /// Asks `host` again and again until its corosync ends.
    fn watch(&self, host: HostName) {
        let Some(mut process) =
            self.0.lab.watch(host.as_str(), "corosync-quorumtool -siH", WATCH_EVERY)
        else {
            return;
        };
        let Some(output) = process.stdout.take() else { return };
        let daemons = self.clone();
        std::thread::spawn(move || {
            let mut text = String::new();
            let mut answered = false;
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if line != BETWEEN {
                    text += &line;
                    text.push('\n');
                    continue;
                }
                let view = daemons.read(&text);
                text.clear();
                if view.is_some() && !std::mem::replace(&mut answered, true) {
                    daemons.start_device(&host);
                }
                daemons.note(&host, view);
            }
            daemons.note(&host, None);
            let _ = process.wait();
        });
    }

    fn start_device(&self, host: &HostName) {
        if self.state().cluster.device.is_some() {
            let _ = self.0.lab.start_device(host.as_str());
        }
    }

    /// One answer of one member.
    fn note(&self, host: &HostName, view: Option<View>) {
        let mut state = self.state();
        state.samples += 1;
        let seen = state.hosts.get_mut(host).expect("a host of the cluster");
        let lost = match &view {
            Some(view) if view.quorate => {
                seen.was_quorate = true;
                None
            }
            Some(view) if seen.was_quorate && !seen.stopping => {
                seen.was_quorate = false;
                Some(format!(
                    "{host}: {} of {} needed, ring {}",
                    view.total, view.quorum, view.ring
                ))
            }
            Some(_) | None => None,
        };
        let changed = seen.view != view;
        seen.view = view;
        state.changed |= changed;
        state.lost.extend(lost);
    }

    /// What the tool printed, in few words of its own.
    fn read(&self, text: &str) -> Option<View> {
        let value = |name: &str| {
            let mut lines = text.lines().filter_map(|line| line.split_once(':'));
            lines.find(|(key, _)| *key == name).map(|(_, value)| value.trim())
        };
        let figure = |name: &str| value(name)?.split_whitespace().next()?.parse().ok();
        let names = self.state().cluster.names();
        let mut table = text.lines().skip_while(|line| !line.contains("Nodeid"));
        let with_device = table.next()?.contains("Qdevice");
        let mut members = Vec::new();
        let mut device = None;
        for line in table.take_while(|line| !line.trim().is_empty()) {
            let mut words = line.split_whitespace();
            let number = u32::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok()?;
            let votes = words.next()?.parse().ok()?;
            let Some(at) = usize::try_from(number).ok()?.checked_sub(1) else {
                // Number 0 is the device's own line: what it casts for this very host.
                device = Some((votes, None));
                continue;
            };
            let host = HostName::from(names.get(at)?.as_str());
            let state = words.next().filter(|_| with_device);
            let state = state.and_then(|state| STATES.into_iter().find(|known| *known == state));
            members.push(Member { host, number, votes, device: state });
        }
        let flags: Vec<&str> = value("Flags")?.split_whitespace().collect();
        Some(View {
            quorate: value("Quorate")? == "Yes",
            ring: value("Ring ID")?.to_owned(),
            expected: figure("Expected votes")?,
            highest: figure("Highest expected")?,
            total: figure("Total votes")?,
            quorum: figure("Quorum")?,
            flags: FLAGS.into_iter().filter(|flag| flags.contains(flag)).collect(),
            members,
            device,
        })
    }

    /// Raises the configuration's version on every running member.
    fn raise_config(&self) {
        let running: Vec<HostName> = {
            let mut state = self.state();
            state.cluster.config_version += 1;
            let version = state.cluster.config_version;
            let running = state.hosts.iter_mut().filter(|(_, seen)| seen.view.is_some());
            running
                .map(|(host, seen)| {
                    seen.config_version = version;
                    host.clone()
                })
                .collect()
        };
        for host in &running {
            self.write_conf(host.as_str());
        }
        if let Some(host) = running.first() {
            self.0.lab.output(host.as_str(), &["corosync-cfgtool", "-R"]);
        }
    }

    fn expect(&self, votes: u32) {
        let votes = votes.to_string();
        let hosts: Vec<HostName> = self.state().hosts.keys().cloned().collect();
        let say = |host: &HostName| {
            self.0.lab.output(host.as_str(), &["corosync-quorumtool", "-e", &votes])
        };
        // One member tells all.
        let _ = hosts.iter().find_map(say);
    }
}

impl Iron for Daemons {
    fn power_on(&mut self, host: &HostName, _at: Timestamp) {
        if let Some(seen) = self.state().hosts.get_mut(host) {
            (seen.stopping, seen.was_quorate) = (false, false);
        }
        self.have(host, Deed::Boot);
    }

    fn power_off(&mut self, host: &HostName, _at: Timestamp) {
        if let Some(seen) = self.state().hosts.get_mut(host) {
            seen.stopping = true;
        }
        self.have(host, Deed::Stop);
    }

    fn cut(&mut self, host: &HostName, _at: Timestamp) {
        if let Some(seen) = self.state().hosts.get_mut(host) {
            seen.stopping = true;
        }
        self.have(host, Deed::Cut);
    }

    fn view(&self, host: &HostName) -> Option<View> {
        self.state().hosts.get(host)?.view.clone()
    }

    fn turn(&mut self, knob: &Knob, _at: Timestamp) {
        let lab = &self.0.lab;
        match knob {
            Knob::Expect(votes) => self.expect(*votes),
            Knob::DeviceServer(true) => lab.start_server().expect("the server starts"),
            Knob::DeviceServer(false) => lab.cut(SERVER),
            Knob::DeviceDaemon(host, true) => {
                lab.start_device(host.as_str()).expect("a daemon starts");
            }
            Knob::DeviceDaemon(host, false) => lab.stop_device(host.as_str()),
            Knob::Partition(groups) => {
                let names = |group: &std::collections::BTreeSet<HostName>| {
                    group.iter().map(|host| host.0.clone()).collect()
                };
                let groups: Vec<Vec<String>> = groups.iter().map(names).collect();
                lab.part(&groups).expect("a bridge can be made");
            }
            Knob::Heal => lab.heal().expect("cards can be plugged in again"),
            Knob::RaiseConfig => self.raise_config(),
        }
    }

    /// What was seen is to be looked at now; what comes next nobody knows.
    fn next_change_at(&self) -> Option<Timestamp> {
        self.state().changed.then_some(Timestamp::UNIX_EPOCH)
    }

    fn advance_to(&mut self, _at: Timestamp) {
        self.state().changed = false;
    }

    fn config_version(&self, host: &HostName) -> u64 {
        self.state().hosts.get(host).map_or(0, |seen| seen.config_version)
    }

    fn tool_text(&self, host: &HostName, options: &str) -> Option<String> {
        self.0.lab.quorumtool(host.as_str(), options)
    }

    fn conf_text(&self, _host: &HostName) -> Option<String> {
        Some(self.state().cluster.conf())
    }
}
