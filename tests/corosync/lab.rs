//! Machines with real corosync daemons, each in namespaces of its own, on a switch nobody else sees.
//!
//! One process stands for the whole lab: the first one of a PID namespace, holding the lab's mounts
//! and the network of its switch. Its standard input is a pipe from the test, and it ends when that
//! pipe does; with it the kernel ends every daemon of the lab, and the namespaces, the bridges and
//! the files (a tmpfs) are gone. So nothing is left behind however the test ends, killed included,
//! and no process number of the lab can ever name a process outside it.
//!
//! A machine is a network namespace that is always there (its card), with further mount and host
//! name namespaces while it runs. Asleep its card is up without any address, as a network card is
//! that waits for a magic packet.
//!
//! **Does not know:** what is configured, what any figure means, and `spot`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Where the lab keeps its files, in mounts of its own.
const FILES: &str = "/mnt";
/// Daemons live in `sbin`, which the path of a user may lack.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// The machine of the QDevice's server: its name and its number in every network.
pub const SERVER: &str = "server";
pub const SERVER_NUMBER: u32 = 250;
/// Stands between the outputs of a watch.
pub const BETWEEN: &str = "== seen ==";
/// How often a state is looked at that is waited for.
const GLANCE: Duration = Duration::from_millis(40);
/// No daemon takes longer to end when told to; then it is cut off. (The longest seen is 9 s.)
const STOPS_WITHIN: Duration = Duration::from_secs(30);

/// Waits for `what`, looking again and again; whether it came within `limit`.
pub fn until(limit: Duration, mut what: impl FnMut() -> bool) -> bool {
    let began = now();
    loop {
        if what() {
            return true;
        }
        if began.elapsed() >= limit {
            return false;
        }
        pause(GLANCE);
    }
}

#[expect(clippy::disallowed_methods, reason = "daemons live in real time")]
pub fn now() -> Instant {
    Instant::now()
}

/// Between two looks at a state.
#[expect(clippy::disallowed_methods, reason = "daemons live in real time")]
pub fn pause(length: Duration) {
    std::thread::sleep(length);
}

/// The lab; when it is dropped, everything in it ends.
pub struct Lab(Arc<Cellar>);

/// What threads beside the test hold of the lab.
pub type Handle = Arc<Cellar>;

pub struct Cellar {
    /// The process whose namespaces are the lab's. It is ours and not waited for before the end, so
    /// its number stays its own.
    id: u32,
    root: Mutex<Root>,
    machines: Mutex<BTreeMap<String, Machine>>,
}

struct Root {
    process: Child,
    /// The lab lives as long as this is open.
    life: Option<ChildStdin>,
}

/// A machine: its card, and what runs on it.
struct Machine {
    number: u32,
    /// The process that holds its network namespace, by its number in the lab.
    card: u32,
    _holder: Child,
    corosync: Option<Daemon>,
    device: Option<Daemon>,
}

/// A running daemon.
struct Daemon {
    /// Its number in the lab.
    id: u32,
    /// Ends when the daemon does, and as it does.
    process: Child,
}

/// How a daemon ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Code(i32),
    /// Cut off, or crashed.
    Signal,
}

impl Daemon {
    fn ended(&mut self) -> Option<Ended> {
        let status = self.process.try_wait().ok().flatten()?;
        // `nsenter` ends as what it ran: by the same signal.
        Some(status.code().map_or(Ended::Signal, Ended::Code))
    }
}

impl Lab {
    /// A switch with nothing on it.
    pub fn open() -> Result<Lab, String> {
        let script = format!(
            "set -e; mount -t tmpfs -o size=512m lab {FILES}; ip link set lo up
             for bridge in ring backstage; do
                 ip link add $bridge type bridge stp_state 0 forward_delay 0 mcast_snooping 0
                 ip link set $bridge up
             done
             echo open; exec cat >/dev/null"
        );
        let mut process = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "--net", "--uts", "--pid", "--fork"])
            .args(["--kill-child", "--mount-proc", "--", "sh", "-c", &script])
            .env("PATH", PATH)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|why| format!("unshare cannot be run: {why}"))?;
        let life = process.stdin.take();
        let id = process.id();
        let said = first_line(&mut process);
        if said.as_deref() != Some("open") {
            drop(life);
            let output = process.wait_with_output().map_err(|why| why.to_string())?;
            let why = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(format!("namespaces cannot be made here: {}", why.trim()));
        }
        let root = Mutex::new(Root { process, life });
        Ok(Lab(Arc::new(Cellar { id, root, machines: Mutex::default() })))
    }

    pub fn handle(&self) -> Handle {
        self.0.clone()
    }
}

impl std::ops::Deref for Lab {
    type Target = Cellar;

    fn deref(&self) -> &Cellar {
        &self.0
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let mut root = self.0.root.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // The first process of the lab reads the end of its input, ends, and takes all with it.
        drop(root.life.take());
        let _ = root.process.wait();
        drop(root);
        let mut machines =
            self.0.machines.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for machine in machines.values_mut() {
            let daemons = [&mut machine.corosync, &mut machine.device].into_iter().flatten();
            for process in daemons.map(|daemon| &mut daemon.process) {
                let _ = process.wait();
            }
            let _ = machine._holder.wait();
        }
    }
}

impl Cellar {
    fn machines(&self) -> MutexGuard<'_, BTreeMap<String, Machine>> {
        self.machines.lock().expect("nobody panics while holding the machines")
    }

    /// A file of `machine`, as the test reaches it.
    pub fn file(&self, machine: &str, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{FILES}/{machine}/{path}", self.id))
    }

    /// A command inside the lab, on its switch.
    fn inside(&self) -> Command {
        let id = self.id;
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--mount=/proc/{id}/ns/mnt"))
            .arg(format!("--net=/proc/{id}/ns/net"))
            .arg(format!("--pid=/proc/{id}/ns/pid_for_children"))
            .arg("--")
            .env("PATH", PATH)
            .stdin(Stdio::null());
        command
    }

    fn script(&self, script: &str) -> Result<(), String> {
        let output = self.inside().args(["sh", "-ec", script]).output();
        let output = output.map_err(|why| format!("nsenter cannot be run: {why}"))?;
        if output.status.success() {
            return Ok(());
        }
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(format!("{}: {script}", why.trim()))
    }

    /// Puts a machine on the switch, asleep. `mac` is its card's address in the ring.
    pub fn add(&self, name: &str, number: u32, mac: Option<&str>) -> Result<(), String> {
        for folder in ["etc", "lib", "log"] {
            fs::create_dir_all(self.file(name, folder)).map_err(|why| why.to_string())?;
        }
        let mut holder = self
            .inside()
            .args(["unshare", "--net", "sh", "-ec", "ip link set lo up; echo $$; exec sleep inf"])
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|why| why.to_string())?;
        let card: u32 = first_line(&mut holder)
            .and_then(|line| line.parse().ok())
            .ok_or("a network namespace could not be made")?;
        let address = mac.map(|mac| format!("address {mac}")).unwrap_or_default();
        self.script(&format!(
            "ip link add ring-{number} type veth peer name ring0 {address} netns {card}
             ip link add back-{number} type veth peer name back0 netns {card}
             ip link set ring-{number} master ring up
             ip link set back-{number} master backstage up"
        ))?;
        let machine = Machine { number, card, _holder: holder, corosync: None, device: None };
        self.machines().insert(name.to_owned(), machine);
        self.rest_card(name)
    }

    fn card(&self, name: &str) -> (u32, u32) {
        let machines = self.machines();
        let machine = machines.get(name).expect("the test names machines it added");
        (machine.number, machine.card)
    }

    /// The card as its firmware leaves it: up, hearing everything, answering nothing.
    pub fn rest_card(&self, name: &str) -> Result<(), String> {
        let (_, card) = self.card(name);
        self.on_card(
            card,
            "for card in ring0 back0; do
                 echo 1 > /proc/sys/net/ipv6/conf/$card/disable_ipv6
                 ip addr flush dev $card
                 ip link set $card arp off up
             done",
        )
    }

    /// The card with its addresses, as a running system sets it.
    pub fn rouse_card(&self, name: &str) -> Result<(), String> {
        let (number, card) = self.card(name);
        self.on_card(
            card,
            &format!(
                "ip link set ring0 arp on; ip link set back0 arp on
                 ip addr replace {} brd + dev ring0
                 ip addr replace {} brd + dev back0",
                ring_address(number) + "/24",
                backstage_address(number) + "/24"
            ),
        )
    }

    fn on_card(&self, card: u32, script: &str) -> Result<(), String> {
        // /proc/sys is per network namespace of whoever opens it.
        self.script(&format!("nsenter --net=/proc/{card}/ns/net sh -ec '{script}'"))
    }

    /// The network namespace of `name`'s card, for a thread of the test that goes there.
    pub fn network(&self, name: &str) -> Result<File, String> {
        let (_, card) = self.card(name);
        // The lab's own /proc has the lab's own numbers.
        let path = format!("/proc/{}/root/proc/{card}/ns/net", self.id);
        File::open(&path).map_err(|why| format!("{path}: {why}"))
    }

    /// Starts corosync on `name`; returns before it has joined anybody.
    pub fn boot(&self, name: &str) -> Result<(), String> {
        self.rouse_card(name)?;
        let (_, card) = self.card(name);
        // The tools look into /run and /dev/shm, so each machine has its own; the files under
        // `lib` stay for its next boot.
        let script = format!(
            "set -e; hostname {name}
             mount -t tmpfs shm /dev/shm
             mount --bind {FILES}/{name}/etc /etc/corosync
             mount --bind {FILES}/{name}/lib /var/lib/corosync
             mkdir -p /var/log/corosync; mount --bind {FILES}/{name}/log /var/log/corosync
             mount -t tmpfs run /run; mkdir -p /run/corosync-qdevice
             echo $$; exec corosync -f >>/var/log/corosync/output 2>&1"
        );
        let daemon = self.daemon(card, &script)?;
        let mut machines = self.machines();
        let machine = machines.get_mut(name).expect("it was there above");
        machine.corosync = Some(daemon);
        machine.device = None;
        Ok(())
    }

    fn daemon(&self, card: u32, script: &str) -> Result<Daemon, String> {
        let network = format!("--net=/proc/{card}/ns/net");
        let mut process = self
            .inside()
            .args(["nsenter", &network, "--", "unshare", "--mount", "--uts"])
            .args(["--propagation", "private", "sh", "-c", script])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|why| why.to_string())?;
        match first_line(&mut process).and_then(|line| line.parse().ok()) {
            Some(id) => Ok(Daemon { id, process }),
            None => {
                let _ = process.wait();
                Err(format!("a daemon could not be started: {script}"))
            }
        }
    }

    /// Starts corosync-qdevice on `name`, where corosync must answer already.
    pub fn start_device(&self, name: &str) -> Result<(), String> {
        let mut machines = self.machines();
        let machine = machines.get_mut(name).expect("the test names machines it added");
        let Some(corosync) = &machine.corosync else { return Ok(()) };
        let into = corosync.id.to_string();
        let mut process = self
            .inside()
            .args(["nsenter", "--target", &into, "--mount", "--net", "--uts", "--", "sh", "-c"])
            .arg("echo $$; exec corosync-qdevice -f >>/var/log/corosync/qdevice 2>&1")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|why| why.to_string())?;
        if let Some(id) = first_line(&mut process).and_then(|line| line.parse().ok()) {
            machine.device = Some(Daemon { id, process });
        } else {
            // Corosync went away meanwhile; whoever waits for the device will see that.
            let _ = process.wait();
        }
        Ok(())
    }

    /// Starts the QDevice's server.
    pub fn start_server(&self) -> Result<(), String> {
        self.rouse_card(SERVER)?;
        let (_, card) = self.card(SERVER);
        let script = format!(
            "set -e; hostname {SERVER}
             mount -t tmpfs run /run; mkdir -p /run/corosync-qnetd
             echo $$; exec corosync-qnetd -f -s off -c off >>{FILES}/{SERVER}/log/qnetd 2>&1"
        );
        let daemon = self.daemon(card, &script)?;
        self.machines().get_mut(SERVER).expect("it was there above").corosync = Some(daemon);
        Ok(())
    }

    /// Stops `name` in order: the device's daemon, then corosync; then its card rests.
    pub fn stop(&self, name: &str) -> Result<(), String> {
        self.stop_device(name);
        self.end(name, "TERM", |machine| &mut machine.corosync);
        self.rest_card(name)
    }

    /// Stops corosync-qdevice on `name` alone.
    pub fn stop_device(&self, name: &str) {
        self.end(name, "TERM", |machine| &mut machine.device);
    }

    /// Everything on `name` is gone from one instant to the next.
    pub fn cut(&self, name: &str) {
        self.end(name, "KILL", |machine| &mut machine.device);
        self.end(name, "KILL", |machine| &mut machine.corosync);
    }

    /// Signals one daemon and waits until it has ended.
    fn end(&self, name: &str, signal: &str, which: fn(&mut Machine) -> &mut Option<Daemon>) {
        let taken = which(self.machines().get_mut(name).expect("a machine of the lab")).take();
        let Some(mut daemon) = taken else { return };
        let tell = |signal: &str| {
            let id = daemon.id.to_string();
            // Gone already: then there is nobody to tell.
            let _ = self.inside().args(["kill", "-s", signal, &id]).output();
        };
        if daemon.process.try_wait().ok().flatten().is_some() {
            return;
        }
        tell(signal);
        if !until(STOPS_WITHIN, || !matches!(daemon.process.try_wait(), Ok(None))) {
            let id = daemon.id.to_string();
            let _ = self.inside().args(["kill", "-s", "KILL", &id]).output();
        }
        let _ = daemon.process.wait();
    }

    /// Whether corosync runs on `name`.
    pub fn runs(&self, name: &str) -> bool {
        let mut machines = self.machines();
        let machine = machines.get_mut(name).expect("the test names machines it added");
        machine.corosync.as_mut().is_some_and(|daemon| daemon.ended().is_none())
    }

    /// How corosync on `name` ended by itself.
    pub fn ended(&self, name: &str) -> Option<Ended> {
        let mut machines = self.machines();
        machines.get_mut(name).and_then(|machine| machine.corosync.as_mut()?.ended())
    }

    /// Whether corosync-qdevice runs on `name`.
    pub fn device_runs(&self, name: &str) -> bool {
        let mut machines = self.machines();
        let machine = machines.get_mut(name).expect("the test names machines it added");
        machine.device.as_mut().is_some_and(|daemon| daemon.ended().is_none())
    }

    /// A command on `name`, where corosync runs; `None` where it does not.
    pub fn command(&self, name: &str, words: &[&str]) -> Option<Command> {
        let id = {
            let mut machines = self.machines();
            let daemon = machines.get_mut(name)?.corosync.as_mut()?;
            if daemon.ended().is_some() {
                return None;
            }
            daemon.id.to_string()
        };
        let mut command = self.inside();
        command.args(["nsenter", "--target", &id, "--mount", "--net", "--uts", "--"]).args(words);
        Some(command)
    }

    pub fn output(&self, name: &str, words: &[&str]) -> Option<Output> {
        self.command(name, words)?.stderr(Stdio::null()).output().ok()
    }

    /// What `corosync-quorumtool` prints on `name`, as soon as it answers at all.
    pub fn quorumtool(&self, name: &str, options: &str) -> Option<String> {
        let output = self.output(name, &["timeout", "5", "corosync-quorumtool", options])?;
        // 0 is quorate, 2 is not; 1 means that nobody answers.
        let answered = matches!(output.status.code(), Some(0 | 2));
        answered.then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs `words` on `name` again and again, `every` so often, until corosync there ends; a line
    /// with [`BETWEEN`] follows each run's output.
    pub fn watch(&self, name: &str, words: &str, every: Duration) -> Option<Child> {
        let id = self.machines().get(name)?.corosync.as_ref()?.id;
        let every = every.as_secs_f64();
        let script =
            format!("while [ -d /proc/{id} ]; do {words}; echo '{BETWEEN}'; sleep {every}; done");
        let mut command = self.command(name, &["sh", "-c", &script])?;
        command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()
    }

    /// The network falls apart into these groups; everybody still reaches the QDevice's server.
    pub fn part(&self, groups: &[Vec<String>]) -> Result<(), String> {
        let mut script = String::new();
        for (index, group) in groups.iter().enumerate() {
            let bridge = format!("part{index}");
            script += &format!(
                "ip link show {bridge} >/dev/null 2>&1 || {{
                     ip link add {bridge} type bridge forward_delay 0 mcast_snooping 0
                     ip link set {bridge} up; }}\n"
            );
            for name in group {
                script += &format!("ip link set ring-{} master {bridge}\n", self.card(name).0);
            }
        }
        self.script(&script)
    }

    /// Everybody reaches everybody again.
    pub fn heal(&self) -> Result<(), String> {
        let numbers: Vec<u32> = self.machines().values().map(|machine| machine.number).collect();
        let line = |number: &u32| format!("ip link set ring-{number} master ring\n");
        self.script(&numbers.iter().map(line).collect::<String>())
    }
}

/// Where a machine is in the ring.
pub fn ring_address(number: u32) -> String {
    format!("10.77.0.{number}")
}

/// Where it reaches the QDevice's server, whatever the ring is like.
pub fn backstage_address(number: u32) -> String {
    format!("10.77.1.{number}")
}

/// The first line a process prints; the rest of its output goes nowhere.
fn first_line(process: &mut Child) -> Option<String> {
    let mut line = String::new();
    BufReader::new(process.stdout.take()?).read_line(&mut line).ok()?;
    Some(line.trim().to_owned()).filter(|line| !line.is_empty())
}
