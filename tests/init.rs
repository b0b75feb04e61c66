//! `spot init` from outside: against a pretended cluster, by flags as a script gives them, and at a
//! terminal as a person answers.
//!
//! The terminal is one that `script` makes: prompts end without a line's end, so they are waited
//! for byte by byte. Nothing sleeps.
//!
//! **Does not know:** anything that is not printed, exited with, or written to a file.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(60);
const SECRET: &str = "11111111-2222-3333-4444-555555555555";

/// host3 sleeps, so its hardware address is the one thing that nobody but its owner knows.
const WORLD: &str = "
cluster: homelab
hosts:
  - { name: host1, votes: 3, mac: 'a8:a1:59:00:00:01', always_on: true, memory_gib: 16 }
  - { name: host2, votes: 1, mac: 'a8:a1:59:00:00:02' }
  - { name: host3, votes: 1, mac: 'a8:a1:59:00:00:03', state: off }
storages: [{ name: shared, shared: true, kind: nfs }]
guests:
  - { vmid: 100, kind: vm, name: router, host: host1, disks: [{ storage: shared }] }
tokens:
  - { id: 'spot@pve!spot', secret: '11111111-2222-3333-4444-555555555555' }
";

fn spot() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spot"));
    command
        .env_remove("JOURNAL_STREAM")
        .env("NO_COLOR", "1")
        .env("TZ", "UTC")
        .env("COLUMNS", "1000");
    command
}

/// A process whose output is waited for, ended when it is dropped.
struct Talking {
    child: Child,
    bytes: Receiver<Vec<u8>>,
    heard: String,
    /// How much of it has been answered already.
    past: usize,
}

impl Talking {
    fn start(command: &mut Command) -> Talking {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let (sender, bytes) = channel();
        let mut out = child.stdout.take().expect("piped");
        std::thread::spawn(move || {
            let mut some = [0; 4_096];
            while let Ok(many @ 1..) = out.read(&mut some) {
                if sender.send(some[..many].to_vec()).is_err() {
                    return;
                }
            }
        });
        Talking { child, bytes, heard: String::new(), past: 0 }
    }

    /// Waits until it has said `text` after whatever was answered before.
    fn says(&mut self, text: &str) {
        loop {
            if let Some(at) = self.heard[self.past..].find(text) {
                self.past += at + text.len();
                return;
            }
            match self.bytes.recv_timeout(LIMIT) {
                Ok(bytes) => self.heard += &String::from_utf8_lossy(&bytes),
                Err(_) => panic!("never said `{text}`, but:\n{}", self.heard),
            }
        }
    }

    fn answer(&mut self, text: &str) {
        let mut stdin = self.child.stdin.as_ref().expect("piped");
        stdin.write_all(format!("{text}\n").as_bytes()).expect("it listens");
    }

    fn ends(mut self) -> (i32, String) {
        while let Ok(bytes) = self.bytes.recv_timeout(LIMIT) {
            self.heard += &String::from_utf8_lossy(&bytes);
        }
        let status = self.child.wait().expect("it has ended");
        (status.code().unwrap_or(-1), std::mem::take(&mut self.heard))
    }
}

impl Drop for Talking {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A pretended cluster and an empty folder.
struct Home {
    folder: TempDir,
    _cluster: Talking,
    urls: Vec<String>,
    pin: String,
    magic: String,
}

impl Home {
    fn new() -> Home {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("world.yaml"), WORLD).expect("written");
        let mut cluster = Talking::start(
            spot()
                .current_dir(folder.path())
                .args(["pretend", "--world", "world.yaml", "--speed", "20"])
                .args(["--listen", "127.0.0.1:0", "--magic", "127.0.0.1:0"]),
        );
        cluster.says("serving until");
        let word = |line: &str, nth: usize| {
            let found = cluster.heard.lines().find(|one| one.starts_with(line));
            let word = found.and_then(|line| line.split_whitespace().nth(nth));
            word.expect("it is printed").to_owned()
        };
        let urls = ["host1 ", "host2 ", "host3 "].map(|host| word(host, 1)).to_vec();
        let (pin, magic) = (word("host1 ", 2), word("magic packets", 3));
        Home { folder, urls, pin, magic, _cluster: cluster }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = spot();
        command.current_dir(self.folder.path()).args(["--config", "here/spot.yaml"]).args(args);
        command
    }

    fn spot(&self, args: &[&str]) -> (i32, String) {
        told(&self.command(args).stdin(Stdio::null()).output().expect("it runs"))
    }

    /// Every answer as a flag.
    fn flags(&self) -> Vec<String> {
        let Home { urls, pin, magic, .. } = self;
        fs::write(self.path("secret"), SECRET).expect("written");
        fs::set_permissions(self.path("secret"), fs::Permissions::from_mode(0o600)).expect("set");
        [
            format!("--url={}", urls[0]),
            format!("--fingerprint={pin}"),
            "--token-id=spot@pve!spot".into(),
            "--token-file=secret".into(),
            format!("--host=host2={}", urls[1]),
            format!("--host=host3={}", urls[2]),
            "--tier=host1=low".into(),
            "--tier=host2=medium".into(),
            "--tier=host3=high".into(),
            "--mac=host2=a8:a1:59:00:00:02".into(),
            "--mac=host3=a8:a1:59:00:00:03".into(),
            "--here=outside".into(),
            "--rest-now=yes".into(),
            format!("--wake-only={magic}"),
        ]
        .to_vec()
    }

    fn init(&self, flags: &[String]) -> (i32, String) {
        let mut args = vec!["init"];
        args.extend(flags.iter().map(String::as_str));
        self.spot(&args)
    }

    /// What was written passes both examiners.
    fn is_sound(&self) {
        let (code, said) = self.spot(&["check", "here/policies"]);
        assert_eq!(code, 0, "{said}");
        let (code, said) = self.spot(&["doctor"]);
        assert!(code == 0 && said.contains("Nothing is wrong"), "{said}");
        let secret = self.path("here/credentials/pve-token");
        assert_eq!(fs::read_to_string(&secret).expect("there").trim(), SECRET);
        let mode = fs::metadata(&secret).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "nobody else reads the secret");
        for file in ["here/spot.yaml", "here/policies/home.yaml"] {
            let text = fs::read_to_string(self.path(file)).expect("there");
            assert!(!text.contains(SECRET), "{file} holds the secret");
        }
    }
}

fn told(output: &Output) -> (i32, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout) + &text(&output.stderr))
}

#[test]
fn a_script_answers_every_question_by_a_flag() {
    let home = Home::new();
    let flags = home.flags();
    let (code, said) = home.init(&flags);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("And this is what doctor says") && !said.contains(SECRET), "{said}");
    let config = fs::read_to_string(home.path("here/spot.yaml")).expect("written");
    assert!(config.contains("mode: rehearse") && config.contains("here: outside"), "{config}");
    let policy = fs::read_to_string(home.path("here/policies/home.yaml")).expect("written");
    assert!(policy.contains("enforce: true") && policy.contains("hosts: [host2]"), "{policy}");
    home.is_sound();

    // Nothing is written over unasked, and the owner's own policies stay in any case.
    let (code, said) = home.init(&flags);
    assert!(code == 2 && said.contains("--overwrite"), "{code}: {said}");
    fs::write(home.path("here/policies/own.yaml"), "timezone: UTC\n").expect("written");
    let before = fs::read_to_string(home.path("here/policies/home.yaml")).expect("there");
    let (_, said) = home.init(&[flags.clone(), vec!["--overwrite".into()]].concat());
    assert!(said.contains("no first one is written"), "{said}");
    assert_eq!(fs::read_to_string(home.path("here/policies/home.yaml")).expect("there"), before);
}

#[test]
fn without_a_terminal_a_missing_answer_names_its_flag() {
    let home = Home::new();
    let flags = home.flags();
    for flag in &flags {
        let rest: Vec<String> = flags.iter().filter(|one| *one != flag).cloned().collect();
        let (code, said) = home.init(&rest);
        let name = flag.split('=').next().expect("a name");
        // Where host2 is awake its own port is not the next one here, so it is asked for as well.
        assert_eq!(code, 2, "{flag}: {said}");
        assert!(said.contains(name), "{flag}: {said}");
        assert!(!home.path("here/spot.yaml").exists(), "{flag}: nothing is written");
    }
    // --yes takes what is proposed, and vouches for no certificate.
    let without = |names: &[&str]| -> Vec<String> {
        let kept = flags.iter().filter(|flag| !names.iter().any(|name| flag.starts_with(name)));
        kept.cloned().chain(["--yes".into()]).collect()
    };
    let (code, said) = home.init(&without(&["--fingerprint"]));
    assert!(code == 2 && said.contains("--fingerprint"), "{code}: {said}");
    let (code, said) =
        home.init(&without(&["--tier", "--here", "--rest-now", "--token-id", "--mac=host2"]));
    assert_eq!(code, 0, "{said}");
    home.is_sound();
}

#[test]
fn a_wrong_answer_is_refused_before_the_token_leaves() {
    let home = Home::new();
    let flags = home.flags();
    let with = |old: &str, new: &str| -> Vec<String> {
        let change = |flag: &String| if flag.starts_with(old) { new.into() } else { flag.clone() };
        flags.iter().map(change).collect()
    };
    let other = "--fingerprint=".to_owned() + &"AB:".repeat(31) + "AB";
    for (flags, expected) in [
        (with("--fingerprint", &other), "shows another certificate"),
        (with("--url", "--url=http://127.0.0.1:1"), "is not an address"),
        (with("--url", "--url=https://127.0.0.1:1"), "cannot be reached"),
        (with("--token-id", "--token-id=spot"), "USER@REALM!NAME"),
        (with("--token-file", "--token-file=nowhere"), "nowhere does not exist"),
        (with("--token-file", "--token-env=SPOT_NO_SUCH"), "holds no secret"),
        (with("--tier=host3", "--tier=host3=dear"), "`dear` is no tier"),
        (with("--tier=host3", "--tier=host9=high"), "the cluster has host1, host2, host3"),
        (with("--mac=host3", "--mac=host3=ff:ff:ff:ff:ff:ff"), "group (multicast)"),
        (with("--here", "--here=moon"), "is no host"),
        (with("--host=host2", &format!("--host=host2={}", home.urls[0])), "is not host2"),
    ] {
        let (code, said) = home.init(&flags);
        assert!(code == 2 && said.contains(expected), "{expected}: {code}: {said}");
        assert!(!home.path("here/spot.yaml").exists(), "{expected}: nothing is written");
        assert!(!said.contains(SECRET), "{said}");
    }
    fs::set_permissions(home.path("secret"), fs::Permissions::from_mode(0o644)).expect("set");
    let (code, said) = home.init(&flags);
    // Everybody could read the secret now.
    assert!(code == 2 && said.contains("chmod 600"), "{code}: {said}");
}

#[test]
fn a_person_answers_at_a_terminal() {
    let home = Home::new();
    let program = env!("CARGO_BIN_EXE_spot");
    let line = format!("'{program}' --config here/spot.yaml init");
    let mut talk = Talking::start(
        Command::new("script")
            .current_dir(home.folder.path())
            .env("NO_COLOR", "1")
            .env("TZ", "UTC")
            .env("COLUMNS", "1000")
            .args(["-qefc", &line, "/dev/null"]),
    );
    for (question, answer) in [
        ("host's API, such as", home.urls[0].as_str()),
        ("Is it the same? [y/N]", "y"),
        ("The token's name [spot@pve!spot]", ""),
        ("Its secret (not shown):", SECRET),
        ("The address of host2's API", &home.urls[1]),
        ("The address of host3's API", &home.urls[2]),
        ("Where does spot itself live", ""),
        ("How dear is host1 (it is quorate alone)", ""),
        ("How dear is host2 (it is on now)", ""),
        ("How dear is host3 (it is off now)", "dear"),
        ("`dear` is no tier", ""),
        ("wakes host2 (PVE keeps it for waking), or none [a8:a1:59:00:00:02]", ""),
        ("wakes host3 (it is off, and", "a8:a1:59:00:00:03"),
        ("May spot put to sleep what somebody else has switched on", "n"),
        ("Where does it hear magic packets", &home.magic),
    ] {
        talk.says(question);
        talk.answer(answer);
    }
    let (code, said) = talk.ends();
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("Nothing is wrong"), "{said}");
    assert!(said.contains(&home.pin), "the fingerprint was shown: {said}");
    assert!(!said.contains(SECRET), "the secret was not: {said}");
    let policy = fs::read_to_string(home.path("here/policies/home.yaml")).expect("written");
    assert!(!policy.contains("enforce"), "{policy}");
    home.is_sound();
}
