//! Walks a lab through what happens to a cluster, one step after the other, and waits after each
//! until everything has settled.
//!
//! Settled is a state, not a time: everybody who runs sees everybody it should, in one ring; a
//! device's daemon has reached its server, or has lost it; and all that has stood unchanged for as
//! long as the slowest timer of this cluster takes.
//!
//! **Does not know:** what the figures ought to be.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use spot::cluster::{DeviceLink, Evidence, HostName};
use spot::pve::evidence;

use crate::cluster::{Cluster, Step, report};
use crate::lab::{Ended, Lab, SERVER, SERVER_NUMBER, now, pause, until};

/// How often everybody is asked while things settle; asking is not free on a small machine.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Longer than any change takes that was ever measured, on a machine that is busy with other work.
const SETTLES_WITHIN: Duration = Duration::from_secs(120);
/// From the start of corosync to its first answer; 4 s were the most seen.
const ANSWERS_WITHIN: Duration = Duration::from_secs(60);
/// Unchanged for so long is settled …
const STILL: Duration = Duration::from_millis(1_200);
/// … with a device, whose vote comes and goes some seconds after the membership …
const STILL_WITH_DEVICE: Duration = Duration::from_secs(4);
/// … and where last_man_standing lowers what is expected, 10 s after a loss.
const STILL_WITH_WINDOW: Duration = Duration::from_secs(13);

/// A daemon that is just starting says nothing of its server.
const SILENT: &str = "silent";

/// What every member shows, by its own evidence.
pub type Views = BTreeMap<String, Evidence>;

/// Why a walk ends early.
pub enum Cut {
    /// corosync itself aborted (`votequorum.c`: `sender_node != NULL`, upstream issue 63).
    Aborted(String),
    /// It never came to rest.
    Unsettled(String),
    /// The lab itself failed.
    Broken(String),
}

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Cut::Aborted(name) => write!(f, "corosync aborted on {name}"),
            Cut::Unsettled(why) => write!(f, "it did not settle in {SETTLES_WITHIN:?}: {why}"),
            Cut::Broken(why) => write!(f, "the lab failed: {why}"),
        }
    }
}

pub struct Walk<'a> {
    pub lab: Lab,
    pub cluster: &'a Cluster,
    pub up: BTreeSet<String>,
    /// Asked up, and would not run: who, and its log's last words.
    pub refused: BTreeMap<String, String>,
    groups: Option<Vec<Vec<String>>>,
    server_alive: bool,
    daemons_off: BTreeSet<String>,
}

impl<'a> Walk<'a> {
    /// Everything is off, and the QDevice's server lives.
    pub fn begin(cluster: &'a Cluster) -> Result<Walk<'a>, Cut> {
        let lab = Lab::open().map_err(Cut::Broken)?;
        for (name, number) in cluster.names().iter().zip(1..) {
            lab.add(name, number, None).map_err(Cut::Broken)?;
            let file = lab.file(name, "etc/corosync.conf");
            std::fs::write(file, cluster.conf()).map_err(|why| Cut::Broken(why.to_string()))?;
        }
        if cluster.device.is_some() {
            lab.add(SERVER, SERVER_NUMBER, None).map_err(Cut::Broken)?;
            lab.start_server().map_err(Cut::Broken)?;
        }
        Ok(Walk {
            lab,
            cluster,
            up: BTreeSet::new(),
            refused: BTreeMap::new(),
            groups: None,
            server_alive: true,
            daemons_off: BTreeSet::new(),
        })
    }

    /// Lets it happen, and waits until it has settled.
    pub fn take(&mut self, step: &Step) -> Result<Views, Cut> {
        self.refused.clear();
        match step {
            Step::Up(names) => self.have_up(names)?,
            Step::Crash(names) => {
                std::thread::scope(|scope| {
                    for name in names {
                        scope.spawn(|| self.lab.cut(name));
                    }
                });
                for name in names {
                    self.lab.rest_card(name).map_err(Cut::Broken)?;
                    self.up.remove(name);
                    self.daemons_off.remove(name);
                }
            }
            Step::Partition(groups) => {
                self.lab.part(groups).map_err(Cut::Broken)?;
                self.groups = Some(groups.clone());
            }
            Step::Heal => {
                self.lab.heal().map_err(Cut::Broken)?;
                self.groups = None;
            }
            Step::Server(true) if !self.server_alive => {
                self.lab.start_server().map_err(Cut::Broken)?;
                self.server_alive = true;
            }
            Step::Server(true) => {}
            Step::Server(false) => {
                self.lab.cut(SERVER);
                self.server_alive = false;
            }
            Step::Daemon(name, true) => {
                self.daemons_off.remove(name);
                self.lab.start_device(name).map_err(Cut::Broken)?;
            }
            Step::Daemon(name, false) => {
                self.daemons_off.insert(name.clone());
                self.lab.stop_device(name);
            }
            Step::Expected(votes, name) => {
                let votes = votes.to_string();
                // Refused or not: what it shows afterwards is compared, not what it said.
                self.lab.output(name, &["corosync-quorumtool", "-e", &votes]);
            }
        }
        self.settle()
    }

    fn have_up(&mut self, names: &[String]) -> Result<(), Cut> {
        let wanted: BTreeSet<String> = names.iter().cloned().collect();
        let gone: Vec<String> = self.up.difference(&wanted).cloned().collect();
        let new: Vec<String> = wanted.difference(&self.up).cloned().collect();
        std::thread::scope(|scope| {
            let stops: Vec<_> =
                gone.iter().map(|name| scope.spawn(|| self.lab.stop(name))).collect();
            stops.into_iter().try_for_each(|stop| stop.join().expect("stopping does not panic"))
        })
        .map_err(Cut::Broken)?;
        for name in &gone {
            self.daemons_off.remove(name);
        }
        self.up = wanted;
        if let Some(groups) = &mut self.groups {
            // Newcomers join the part that holds the first name of the first list.
            for group in groups.iter_mut() {
                group.retain(|name| !new.contains(name));
            }
            if let Some(first) = groups.first_mut() {
                first.extend(new.iter().cloned());
            }
            let groups = groups.clone();
            self.lab.part(&groups).map_err(Cut::Broken)?;
        }
        for name in &new {
            self.lab.boot(name).map_err(Cut::Broken)?;
        }
        for name in &new {
            let lab = &self.lab;
            until(ANSWERS_WITHIN, || !lab.runs(name) || lab.quorumtool(name, "-s").is_some());
            if self.cluster.device.is_some() && lab.runs(name) {
                lab.start_device(name).map_err(Cut::Broken)?;
            }
        }
        Ok(())
    }

    /// Who should see `name`, itself included.
    fn company(&self, name: &String) -> BTreeSet<HostName> {
        let side = self
            .groups
            .as_ref()
            .and_then(|groups| groups.iter().find(|group| group.contains(name)));
        let with = |other: &&String| side.is_none_or(|group| group.contains(other));
        self.up.iter().filter(with).map(|name| HostName(name.clone())).collect()
    }

    fn settle(&mut self) -> Result<Views, Cut> {
        let still = if self.cluster.flag("last_man_standing") {
            STILL_WITH_WINDOW
        } else if self.cluster.device.is_some() {
            STILL_WITH_DEVICE
        } else {
            STILL
        };
        let began = now();
        let mut since = now();
        let mut last: Result<Views, String> = Err("nobody was asked yet".into());
        while began.elapsed() < SETTLES_WITHIN {
            self.note_the_dead()?;
            let look = self.look();
            if look != last {
                since = now();
                last = look;
            } else if last.is_ok() && since.elapsed() >= still {
                return last.map_err(Cut::Unsettled);
            }
            pause(LOOK_EVERY);
        }
        Err(Cut::Unsettled(last.err().unwrap_or_else(|| "it went on changing".into())))
    }

    /// Who ended by itself is refused, or was aborted by a fault of corosync's own.
    fn note_the_dead(&mut self) -> Result<(), Cut> {
        for name in self.up.clone() {
            match self.lab.ended(&name) {
                None => {}
                Some(Ended::Signal) => return Err(Cut::Aborted(name)),
                Some(Ended::Code(code)) => {
                    self.up.remove(&name);
                    self.refused.insert(name, format!("corosync ended with code {code}"));
                }
            }
        }
        Ok(())
    }

    /// One look at everybody; what is not as it should be yet, is said.
    fn look(&self) -> Result<Views, String> {
        let mut views = Views::new();
        for name in &self.up {
            let view = self.view(name)?;
            let company = self.company(name);
            let members: BTreeSet<HostName> = view.members.keys().cloned().collect();
            if members != company {
                return Err(format!("{name} sees {members:?}, not {company:?}"));
            }
            if let Some(other) = views.values().find(|other: &&Evidence| {
                other.members.keys().eq(view.members.keys()) && other.ring != view.ring
            }) {
                return Err(format!("rings {} and {} differ", other.ring, view.ring));
            }
            self.device_settled(name)?;
            views.insert(name.clone(), view);
        }
        Ok(views)
    }

    /// What `name` shows, read as from a report of PVE.
    pub fn view(&self, name: &str) -> Result<Evidence, String> {
        let silent = || format!("{name} does not answer");
        let nodes = self.lab.quorumtool(name, "-l").ok_or_else(silent)?;
        let status = self.lab.quorumtool(name, "-siH").ok_or_else(silent)?;
        let report = report(self.cluster.config_version, &nodes, &status, &self.cluster.conf());
        evidence::read(&report, name, |node| HostName::from(node))
            .map_err(|why| format!("{name}: {why}\n{nodes}{status}"))
    }

    /// How the device's daemon on `name` stands with its server, by its own tool.
    pub fn device_link(&self, name: &str) -> DeviceLink {
        if !self.lab.device_runs(name) {
            return DeviceLink::NoDaemon;
        }
        let shown = self.lab.output(name, &["timeout", "5", "corosync-qdevice-tool", "-s"]);
        let shown = shown.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        let shown = shown.unwrap_or_default();
        match shown.lines().find_map(|line| line.trim().strip_prefix("State:")).map(str::trim) {
            Some("Connected") => DeviceLink::Connected,
            Some(state) => DeviceLink::NotConnected(state.to_owned()),
            None => DeviceLink::NotConnected(SILENT.to_owned()),
        }
    }

    /// The daemon has reached its server, or has noticed that it is gone.
    fn device_settled(&self, name: &str) -> Result<(), String> {
        let settled = self.cluster.device.is_none()
            || match self.device_link(name) {
                DeviceLink::NoDaemon => true,
                DeviceLink::Connected => self.server_alive,
                DeviceLink::NotConnected(state) => !self.server_alive && state != SILENT,
            };
        if settled { Ok(()) } else { Err(format!("the device of {name} is on its way")) }
    }
}
