//! Real corosync daemons against what `spot` believes of them.
//!
//! Each host is a set of namespaces of its own with Debian's corosync in it (`corosync/lab.rs`).
//! Clusters drawn from a seed are walked through stops, starts, crashes and dying QDevice servers:
//! the model must show what `corosync-quorumtool` shows, and no stop that the gate clears may cost
//! anybody the quorum. And the unchanged service runs homes whose hosts are such daemons, woken by
//! real magic packets: whoever is quorate must never show anything else because of it.
//!
//! `tests/run corosync --clusters 40 --seed 7` walks so many clusters of that seed. Ends standard
//! output with one line of JSON: `{clusters, points, views, agree, stops_cleared, quorum_lost,
//! refused_needlessly: {reason: n}}`.
//!
//! Without root or without the packages everything is skipped, and said so; with `CI=true` that is
//! a failure.
//!
//! **Does not know:** PVE.

#[path = "corosync/agreement.rs"]
mod agreement;
#[path = "corosync/cluster.rs"]
mod cluster;
#[path = "corosync/daemons.rs"]
mod daemons;
#[path = "corosync/draw.rs"]
mod draw;
#[path = "corosync/home.rs"]
mod home;
#[path = "corosync/lab.rs"]
mod lab;
#[path = "corosync/stories.rs"]
mod stories;
#[path = "corosync/walk.rs"]
mod walk;

use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use libtest_mimic::{Arguments, Failed, Trial};

use agreement::Figures;

/// How many clusters the default run walks, and through how many steps each.
const CLUSTERS: u64 = 6;
const STEPS: usize = 8;
/// Drawn anew by hand now and then.
const SEED: u64 = 1;
/// Clusters walked side by side: mostly they wait.
const SIDE_BY_SIDE: usize = 5;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(SIDE_BY_SIDE);
    if let Err(why) = able() {
        // Read by tests/run, and seen by whoever runs this alone.
        println!("skipped: {why}");
        let strict = std::env::var_os("CI").is_some_and(|ci| ci == "true");
        let none = libtest_mimic::run(&arguments, Vec::new());
        return if strict { ExitCode::FAILURE } else { none.exit_code() };
    }
    let seed = setting("SPOT_COROSYNC_SEED").unwrap_or(SEED);
    let clusters = setting("SPOT_COROSYNC_CLUSTERS").unwrap_or(CLUSTERS);
    println!("seed {seed}, {clusters} clusters");
    let figures = Arc::new(Mutex::new(Figures::default()));
    let trial = |index: u64| {
        let (cluster, history) = draw::draw(seed, index, STEPS);
        let figures = figures.clone();
        let name = format!("cluster {index} of seed {seed}: {}", cluster.summary());
        Trial::test(name, move || {
            let (walked, faults) = agreement::walk(&cluster, &history);
            figures.lock().expect("counting does not panic").add(walked);
            if faults.is_empty() { Ok(()) } else { Err(Failed::from(faults.join("\n"))) }
        })
    };
    let story = |(name, story): &(&'static str, stories::Story)| {
        let story = *story;
        Trial::test(*name, move || story().map_err(Failed::from))
    };
    let trials = stories::ALL.iter().map(story).chain((0..clusters).map(trial));
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    let figures = figures.lock().expect("counting does not panic");
    if figures.clusters > 0 {
        println!("{}", figures.json());
    }
    conclusion.exit_code()
}

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var_os(name)?;
    Some(text.to_str().and_then(|text| text.parse().ok()).expect("a whole number"))
}

/// Whether labs can be made here: root, the packages, and a kernel that lets us.
fn able() -> Result<(), String> {
    for program in ["corosync", "corosync-qdevice", "corosync-qnetd", "ip", "unshare", "nsenter"] {
        let found = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
            .iter()
            .any(|folder| std::path::Path::new(folder).join(program).exists());
        if !found {
            return Err(format!(
                "{program} is not installed (as root: apt-get install corosync corosync-qdevice \
                 corosync-qnetd iproute2 util-linux)"
            ));
        }
    }
    lab::Lab::open().map(drop).map_err(|why| format!("corosync needs root: {why}"))
}
