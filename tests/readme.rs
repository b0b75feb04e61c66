//! The README's first steps, followed to the letter: every `sh` block of the section is read from
//! the README and run by a shell, in an empty folder, as a newcomer with two terminals would.
//!
//! A block that begins `# a terminal of its own` keeps running, every other one must succeed. Only the
//! ports may differ, where those of the README are taken on this machine.
//!
//! **Does not know:** what the steps ought to be.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

const SECTION: &str = "## From nothing to the first woken host";
const OF_ITS_OWN: &str = "# a terminal of its own";
const LIMIT: Duration = Duration::from_secs(120);

/// The `sh` blocks of the section, in their order.
fn steps() -> Vec<String> {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = fs::read_to_string(readme).expect("there is a README");
    let (_, section) = text.split_once(SECTION).expect("the section is there");
    let section = section.split("\n## ").next().expect("it has an end");
    let mut steps = Vec::new();
    let mut rest = section;
    while let Some((_, after)) = rest.split_once("```sh\n") {
        let (block, after) = after.split_once("```").expect("a block ends");
        steps.push(block.to_owned());
        rest = after;
    }
    steps
}

/// The README's own ports, or others where somebody has those.
fn on_free_ports(steps: Vec<String>) -> Vec<String> {
    let taken = |at: &str| TcpListener::bind(at).is_err();
    let tcp = ["127.0.0.1:41006", "127.0.0.1:41007"];
    if !tcp.iter().any(|at| taken(at)) && UdpSocket::bind("127.0.0.1:41009").is_ok() {
        return steps;
    }
    steps.iter().map(|step| step.replace("127.0.0.1:410", "127.0.0.1:433")).collect()
}

/// A shell at work on one step, with its whole family.
struct Shell {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Shell {
    fn start(step: &str, folder: &Path) -> Shell {
        let program = Path::new(env!("CARGO_BIN_EXE_spot")).parent().expect("a folder");
        #[expect(clippy::disallowed_methods, reason = "the shell finds its own programs by it")]
        let path = std::env::var("PATH").unwrap_or_default();
        let mut child = Command::new("bash")
            .args(["-euo", "pipefail", "-c", &format!("exec 2>&1\n{step}")])
            .current_dir(folder)
            .env("PATH", format!("{}:{path}", program.display()))
            .env("NO_COLOR", "1")
            .env("TZ", "UTC")
            .env_remove("JOURNAL_STREAM")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .expect("a shell starts");
        let (sender, lines) = channel();
        let out = child.stdout.take().expect("piped");
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Shell { child, lines, seen: Vec::new() }
    }

    fn says(&mut self, text: &str) {
        loop {
            match self.lines.recv_timeout(LIMIT) {
                Ok(line) => {
                    self.seen.push(line);
                    if self.seen.last().is_some_and(|line| line.contains(text)) {
                        return;
                    }
                }
                Err(_) => panic!("never said `{text}`, but:\n{}", self.seen.join("\n")),
            }
        }
    }

    fn succeeds(mut self, step: &str) -> String {
        while let Ok(line) = self.lines.recv_timeout(LIMIT) {
            self.seen.push(line);
        }
        let status = self.child.wait().expect("it has ended");
        let said = self.seen.join("\n");
        assert!(status.success(), "this step failed:\n{step}\n{said}");
        said
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // The shell and everything it started; all of it may have ended by itself.
        let family = format!("-{}", self.child.id());
        let _ = Command::new("kill").args(["-s", "KILL", "--", &family]).status();
        let _ = self.child.wait();
    }
}

#[test]
fn the_first_steps_lead_to_a_woken_host() {
    let folder = tempfile::tempdir().expect("a folder");
    let steps = on_free_ports(steps());
    assert!(steps.len() >= 4, "the README has its steps: {steps:?}");
    let mut running = Vec::new();
    let mut said = String::new();
    for step in &steps {
        if step.starts_with(OF_ITS_OWN) {
            let mut shell = Shell::start(step, folder.path());
            let goes_on = if step.contains("spot pretend") { "serving until" } else { "is ready" };
            shell.says(goes_on);
            running.push(shell);
        } else {
            said += &Shell::start(step, folder.path()).succeeds(step);
            said.push('\n');
        }
    }
    assert!(said.contains("Nothing is wrong"), "doctor is content: {said}");
    assert!(said.contains("host2 serves"), "host2 was woken: {said}");
}
