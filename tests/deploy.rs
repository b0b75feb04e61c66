//! What `deploy/` promises: the unit is closed to all but what is used, it speaks with systemd as
//! `Type=notify` wants it, hears SIGHUP and SIGTERM, and calls the dead man's URL after its turns.
//!
//! Nothing sleeps: every wait is for a datagram, a connection or a line, with a limit on how long.
//!
//! **Does not know:** anything that is not sent, printed or exited with.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(40);

const WORLD: &str = "
cluster: homelab
hosts:
  - { name: host1, votes: 3, mac: 'a8:a1:59:00:00:01', always_on: true }
  - { name: host2, votes: 1, mac: 'a8:a1:59:00:00:02', state: off }
";
const POLICY: &str = "
timezone: UTC
hosts:
  host1: { tier: low }
  host2: { tier: medium, mac: 'a8:a1:59:00:00:02' }
";

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name)
}

fn spot() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spot"));
    command.env_remove("JOURNAL_STREAM").env("NO_COLOR", "1").env("TZ", "UTC");
    command
}

struct Running {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Running {
    fn start(command: &mut Command) -> Running {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let (sender, lines) = channel();
        let streams: [Box<dyn Read + Send>; 2] = [
            Box::new(child.stdout.take().expect("piped")),
            Box::new(child.stderr.take().expect("piped")),
        ];
        for stream in streams {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        return;
                    }
                }
            });
        }
        Running { child, lines, seen: Vec::new() }
    }

    fn says(&mut self, text: &str) -> String {
        loop {
            match self.lines.recv_timeout(LIMIT) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(_) => panic!("never said `{text}`, but:\n{}", self.seen.join("\n")),
            }
        }
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status().expect("kill runs");
        assert!(sent.success(), "it still runs");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A folder with everything the service needs, beside a pretended cluster.
struct Home {
    folder: TempDir,
    _cluster: Running,
}

impl Home {
    fn new(more: &str) -> Home {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        fs::write(at("world.yaml"), WORLD).expect("written");
        fs::create_dir(at("policies")).expect("made");
        fs::write(at("policies/home.yaml"), POLICY).expect("written");
        let mut cluster =
            Running::start(
                spot()
                    .current_dir(folder.path())
                    .args(["pretend", "--world", "world.yaml"])
                    .args(["--listen", "127.0.0.1:0", "--magic", "127.0.0.1:0"]),
            );
        cluster.says("serving until");
        let yaml = cluster.seen.iter().skip_while(|line| *line != "hosts:");
        let config: Vec<&str> =
            yaml.take_while(|line| !line.is_empty()).map(String::as_str).collect();
        fs::write(at("spot.yaml"), config.join("\n") + "\n" + more).expect("written");
        Home { folder, _cluster: cluster }
    }

    fn run(&self) -> Command {
        let mut command = spot();
        command
            .current_dir(self.folder.path())
            .env("SPOT_TOKEN", "00000000-0000-0000-0000-000000000000")
            .args(["--config", "spot.yaml", "run"]);
        command
    }
}

/// The messages of `sd_notify`, until one begins with `wanted`.
fn notified(socket: &UnixDatagram, wanted: &str) -> String {
    let mut seen = Vec::new();
    let mut bytes = [0; 4_096];
    // A turn tells two or three things; the service takes a few turns here.
    for _ in 0..200 {
        let many = socket
            .recv(&mut bytes)
            .unwrap_or_else(|why| panic!("systemd never heard `{wanted}` ({why}), but {seen:?}"));
        let text = String::from_utf8_lossy(&bytes[..many]).trim().to_owned();
        if text.starts_with(wanted) {
            return text;
        }
        seen.push(text);
    }
    panic!("systemd never heard `{wanted}`, but {seen:?}")
}

#[test]
fn systemd_hears_that_it_is_ready_alive_and_stopping() {
    let home = Home::new("");
    let place = home.folder.path().join("notify");
    let socket = UnixDatagram::bind(&place).expect("a socket");
    socket.set_read_timeout(Some(LIMIT)).expect("set");
    let mut service = Running::start(home.run().env("NOTIFY_SOCKET", &place));
    notified(&socket, "READY=1");
    notified(&socket, "WATCHDOG=1");
    let status = notified(&socket, "STATUS=act: ");
    assert!(status.contains("host1 ") && status.contains("host2 "), "{status}");

    // SIGHUP is no end: policies are read again, and a changed spot.yaml is told.
    service.signal("HUP");
    service.says("the policies are read again");
    let config = home.folder.path().join("spot.yaml");
    let text = fs::read_to_string(&config).expect("there");
    fs::write(&config, text.replace("mode: act", "mode: rehearse")).expect("written");
    service.signal("HUP");
    service.says("has changed; restart spot to take that up");
    fs::write(&config, text.replace("mode: act", "mode: often")).expect("written");
    service.signal("HUP");
    service.says("not `often`");

    service.signal("TERM");
    notified(&socket, "STOPPING=1");
    let status = service.child.wait().expect("it ends");
    assert_eq!(status.code(), Some(0));
}

#[test]
fn the_dead_mans_url_is_called_after_each_turn_and_delays_none() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/ping/secret-name", listener.local_addr().expect("bound"));
    let home = Home::new(&format!("dead_man: {{ url: \"{url}\" }}\n"));
    let mut service = Running::start(&mut home.run());

    // The first call is left without an answer: the turns go on all the same.
    let (mut silent, _) = listener.accept().expect("it calls");
    let mut asked = [0; 1_024];
    let many = silent.read(&mut asked).expect("it asks");
    let asked = String::from_utf8_lossy(&asked[..many]).into_owned();
    assert!(asked.starts_with("GET /ping/secret-name HTTP/1.1"), "{asked}");
    service.says("host1 is ready");
    service.says("the dead man's URL does not hear us");

    // Two more, answered.
    for _ in 0..2 {
        let (mut caller, _) = listener.accept().expect("it calls again");
        let _ = caller.read(&mut [0; 1_024]);
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        caller.write_all(answer).expect("it listens");
    }
    service.says("the dead man's URL hears us again");
    assert!(!service.seen.join("\n").contains("secret-name"), "the URL is a secret of its own");
}

#[test]
fn the_unit_is_exposed_to_one_and_a_half_at_most() {
    let unit = fs::read_to_string(deploy("spot.service")).expect("there");
    for line in ["Type=notify", "WatchdogSec=", "LoadCredential=pve-token:", "User=spot"] {
        assert!(unit.contains(line), "{line}");
    }
    let rights = unit.lines().filter_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    assert!(rights.clone().all(|one| one.is_empty() || one == "CAP_NET_RAW"), "{unit}");
    assert_eq!(rights.count(), 1, "without it every right would be there");
    let judged = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--threshold=15"])
        .arg(deploy("spot.service"))
        .output();
    match judged {
        Ok(judged) => {
            let said = String::from_utf8_lossy(&judged.stdout).into_owned();
            let last = said.lines().last().unwrap_or_default().to_owned();
            assert!(judged.status.success(), "{last}");
        }
        Err(_) => println!("skipped: systemd-analyze is not here to judge the unit"),
    }
}

/// What the unit starts is what the program understands, and what the package ships is there.
#[test]
fn the_package_ships_what_there_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let pages = folder.path().join("man");
    let made = spot().args(["man", "--to"]).arg(&pages).status().expect("it runs");
    assert!(made.success());
    for page in ["spot.1", "spot-run.1", "spot-init.1", "spot-doctor.1"] {
        assert!(pages.join(page).exists(), "{page}");
    }
    let manifest = fs::read_to_string(deploy("../Cargo.toml")).expect("there");
    let assets = manifest.split("assets = [").nth(1).and_then(|rest| rest.split("\n]").next());
    let sources = assets.expect("assets").lines().filter_map(|line| line.split('"').nth(1));
    for source in sources.filter(|one| !one.starts_with("target/") && !one.contains('*')) {
        assert!(deploy("..").join(source).exists(), "{source}");
    }
}
