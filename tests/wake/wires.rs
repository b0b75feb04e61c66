//! Network namespaces as machines, veth pairs as cables, and what travels on them.
//!
//! Every house has three machines: `home`, where `spot` lives, with the bridge `vmbr0` as on any
//! PVE host; `switch`; and `sleeper`, whose interface `eno1` is up and has nothing configured, as a
//! network card that waits for a magic packet. Nothing touches the machine's own network.
//!
//! Commands inside a machine are this test's own program, started again by `ip netns exec`: a
//! namespace belongs to a process, and to enter one by oneself would need `unsafe`.
//!
//! **Does not know:** what ought to arrive.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use libtest_mimic::Failed;

/// The sleeper's own hardware address.
pub const SLEEPER: &str = "a8:a1:59:00:00:03";

static HOUSES: AtomicU32 = AtomicU32::new(0);

/// One house, taken down when dropped.
pub struct House {
    name: String,
    machines: Vec<String>,
}

impl House {
    /// `home` at 10.77.0.11/24 on `vmbr0`, the switch, the sleeper.
    pub fn new() -> Result<House, Failed> {
        let house = House::wired()?;
        house.ip("home", "addr add 10.77.0.11/24 brd + dev vmbr0")?;
        Ok(house)
    }

    /// The same without any address at `home`.
    pub fn wired() -> Result<House, Failed> {
        let number = HOUSES.fetch_add(1, Ordering::Relaxed);
        let name = format!("spot-{}-{number}", std::process::id());
        let mut house = House { name, machines: Vec::new() };
        for machine in ["home", "switch", "sleeper"] {
            house.machine(machine)?;
        }
        house.ip("home", "link add vmbr0 type bridge")?;
        house.ip("switch", "link add ports type bridge")?;
        house.cable("home", "nic0", "p-home")?;
        house.ip("home", "link set nic0 master vmbr0")?;
        house.ip("home", "link set vmbr0 up")?;
        house.ip("switch", "link set ports up")?;
        house.cable("sleeper", "eno1", "p-sleeper")?;
        house.ip("sleeper", &format!("link set eno1 address {SLEEPER}"))?;
        house.ip("sleeper", "link set eno1 arp off")?;
        Ok(house)
    }

    /// A further machine; it has no interface but loopback, and no IPv6 that talks by itself.
    pub fn machine(&mut self, machine: &str) -> Result<(), Failed> {
        let name = self.inside(machine);
        done("ip", &["netns", "add", &name])?;
        self.machines.push(name);
        self.run(machine, "sysctl -qw net.ipv6.conf.all.disable_ipv6=1")?;
        self.run(machine, "sysctl -qw net.ipv6.conf.default.disable_ipv6=1")?;
        self.ip(machine, "link set lo up")
    }

    /// A cable from `machine` to the switch, both ends up.
    pub fn cable(&self, machine: &str, interface: &str, port: &str) -> Result<(), Failed> {
        let other = self.inside(machine);
        self.ip(
            "switch",
            &format!("link add {port} type veth peer name {interface} netns {other}"),
        )?;
        self.ip("switch", &format!("link set {port} master ports"))?;
        self.ip("switch", &format!("link set {port} up"))?;
        self.ip(machine, &format!("link set {interface} up"))
    }

    fn inside(&self, machine: &str) -> String {
        format!("{}-{machine}", self.name)
    }

    pub fn ip(&self, machine: &str, arguments: &str) -> Result<(), Failed> {
        let name = self.inside(machine);
        let mut words = vec!["-n", name.as_str()];
        words.extend(arguments.split(' '));
        done("ip", &words).map(drop)
    }

    /// Runs a program of the system inside a machine; its output.
    pub fn run(&self, machine: &str, command: &str) -> Result<String, Failed> {
        let name = self.inside(machine);
        let mut words = vec!["netns", "exec", &name];
        words.extend(command.split(' '));
        done("ip", &words)
    }

    /// This program inside a machine.
    pub fn own(&self, machine: &str, arguments: &[&str]) -> Result<Command, Failed> {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.inside(machine)]);
        command.arg(std::env::current_exe()?).arg(super::INSIDE).args(arguments);
        Ok(command)
    }

    /// What this program says inside a machine.
    pub fn says(&self, machine: &str, arguments: &[&str]) -> Result<String, Failed> {
        let output = self.own(machine, arguments)?.output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(format!("{arguments:?} on {machine}: {said}").into());
        }
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// Listens at an interface from now on.
    pub fn listen(&self, machine: &str, interface: &str) -> Result<Ear, Failed> {
        let mut command = self.own(machine, &["hear", interface])?;
        let mut child = command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn()?;
        let mut heard = BufReader::new(child.stdout.take().ok_or("no output")?);
        let mut line = String::new();
        heard.read_line(&mut line)?;
        if line.trim() != "ready" {
            return Err(format!("nobody listens at {interface} of {machine}: {line}").into());
        }
        Ok(Ear { child, heard })
    }

    /// The magic packets that came to `ear`, which hears the far end of the switch's `port`. A
    /// mark sent last tells the end, so that nobody waits for what does not come.
    pub fn heard(&self, ear: Ear, port: &str) -> Result<Vec<Heard>, Failed> {
        self.says("switch", &["mark", port])?;
        ear.end()
    }
}

impl Drop for House {
    fn drop(&mut self) {
        for machine in &self.machines {
            let _ = Command::new("ip").args(["netns", "del", machine]).status();
        }
    }
}

/// Somebody who listens.
pub struct Ear {
    child: Child,
    heard: BufReader<ChildStdout>,
}

impl Ear {
    pub fn end(mut self) -> Result<Vec<Heard>, Failed> {
        let mut told = String::new();
        self.heard.read_to_string(&mut told)?;
        if !self.child.wait()?.success() {
            return Err("the mark was never heard".into());
        }
        told.lines().map(Heard::read).collect()
    }
}

/// One frame with a magic packet for the sleeper in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    pub frame: Vec<u8>,
}

impl Heard {
    fn read(line: &str) -> Result<Heard, Failed> {
        let pair = |at| u8::from_str_radix(line.get(at..at + 2).unwrap_or("?"), 16);
        let frame = (0..line.len()).step_by(2).map(pair).collect::<Result<_, _>>()?;
        Ok(Heard { frame })
    }

    /// How it came: `udp 10.77.0.255:9`, `frame to everybody`, `frame to the sleeper`.
    pub fn how(&self) -> String {
        let frame = &self.frame;
        match (&frame[12..14], &frame[..6]) {
            ([0x08, 0x42], [0xff, 0xff, 0xff, 0xff, 0xff, 0xff]) => "frame to everybody".into(),
            ([0x08, 0x42], _) => "frame to the sleeper".into(),
            _ => {
                let to: Vec<String> = frame[30..34].iter().map(u8::to_string).collect();
                let port = u16::from_be_bytes([frame[36], frame[37]]);
                format!("udp {}:{port}", to.join("."))
            }
        }
    }
}

/// How each came, sorted.
pub fn ways(heard: &[Heard]) -> Vec<String> {
    let mut ways: Vec<String> = heard.iter().map(Heard::how).collect();
    ways.sort();
    ways
}

impl Drop for Ear {
    fn drop(&mut self) {
        // A test that failed early leaves nobody listening.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command that must succeed; its output.
pub fn done(program: &str, arguments: &[&str]) -> Result<String, Failed> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(format!("{program} {}: {said}", arguments.join(" ")).into())
}
