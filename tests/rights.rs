//! The rights that `deploy/rights.sh` grants are enough for a whole day, and none of them is idle.
//!
//! The pretended cluster lets our token do exactly what the table in `cluster::rights` says. With
//! all of it a day full of wakes, moves, hibernation and power-offs goes by without a word about
//! rights. Then each right is taken away in turn: every time the day must name the right, the path
//! and the line that grants it, and nothing worse may come of it.
//!
//! **Does not know:** what needs which right.

#[expect(dead_code, reason = "the stage is shared, and this test needs only a part of it")]
#[path = "stage/house.rs"]
mod house;
#[expect(dead_code, reason = "the stage is shared, and this test needs only a part of it")]
#[path = "stage/log.rs"]
mod log;
#[expect(dead_code, reason = "the stage is shared, and this test needs only a part of it")]
#[path = "stage/story.rs"]
mod story;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::{Value, json};
use spot::cluster::rights::Home;
use spot::gate::{Here, Mode};
use spot::pretend::World;

use house::Played;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Wakes, moves, hibernation and a power-off of the same day: long enough for one right less.
const MORNING: Duration = Duration::from_secs(4 * 3600 + 1800);
const TOKEN: &str = "spot@pve!spot";

/// Path → privileges, as PVE would hold them.
type Granted = BTreeMap<String, BTreeSet<String>>;

fn main() {
    let arguments = Arguments::from_args();
    let mut trials = vec![
        Trial::test("what is granted is enough for a day", enough_for_a_day),
        Trial::test("the script grants what the table says", the_script_grants_the_table),
        Trial::test("a low host is never powered off, by PVE itself", a_low_host_is_refused),
        Trial::test("an entry that hides a guest keeps its host on", an_entry_that_hides_a_guest),
    ];
    for (path, privileges) in granted() {
        for privilege in privileges {
            let path = path.clone();
            let name = format!("without {privilege} on {path}");
            trials.push(Trial::test(name, move || without(&path, &privilege)));
        }
    }
    libtest_mimic::run(&arguments, trials).exit();
}

fn home() -> Home {
    Home {
        sleepers: vec!["host2".into(), "host3".into()],
        always_on: vec!["host1".into()],
        states: Some(vec!["nas".into()]),
    }
}

fn granted() -> Granted {
    let mut granted = Granted::new();
    for (path, role) in home().grants() {
        let names = role.privileges.iter().map(|(name, _)| (*name).to_owned());
        granted.entry(path).or_default().extend(names);
    }
    granted
}

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rights").join(name)
}

/// A day with a token that may do just this.
fn day(granted: &Granted) -> Result<Played, Failed> {
    played(granted, DAY)
}

fn played(granted: &Granted, lasts: Duration) -> Result<Played, Failed> {
    let text = std::fs::read_to_string(file("world.yaml"))?;
    let mut world: Value = story::shaped(serde_yaml::from_str(&text)?);
    world["tokens"] = json!([{ "id": TOKEN, "secret": "s3cret", "rights": { "by": granted } }]);
    let world = World::read(&serde_yaml::to_string(&world)?)?;
    let policy = story::policy(&file("policy.yaml"));
    Ok(house::play(
        house::Home {
            name: "rights".into(),
            world,
            policies: [("policy.yaml".to_owned(), policy)].into(),
            mode: Mode::Act,
            here: Here::Host("host1".into()),
            lasts,
            events: Vec::new(),
            befalls: None,
        },
        None,
    ))
}

fn ensure(fact: bool, otherwise: impl FnOnce() -> String) -> Result<(), Failed> {
    if fact { Ok(()) } else { Err(otherwise().into()) }
}

fn enough_for_a_day() -> Result<(), Failed> {
    let played = day(&granted())?;
    played.kept_its_promises()?;
    let log = played.log();
    ensure(!log.contains("lacks"), || log.clone())?;
    let tally = &played.tally;
    let done = [
        tally.wakes,
        tally.power_offs,
        tally.migrations,
        tally.restarts,
        tally.hibernations,
        tally.shutdowns,
    ];
    ensure(done.iter().all(|many| *many > 0), || format!("{done:?}\n{log}"))?;
    ensure(log.contains("host1 as relay"), || log.clone())
}

/// Names the right, the path and the line, and breaks no promise.
fn without(path: &str, privilege: &str) -> Result<(), Failed> {
    let mut less = granted();
    if let Some(privileges) = less.get_mut(path) {
        privileges.remove(privilege);
    }
    let played = played(&less, MORNING)?;
    played.kept_its_promises()?;
    let told = played.holds().into_iter().find(|(sentence, _)| {
        sentence.contains(&format!("lacks {privilege} on ")) || sentence.contains(privilege)
    });
    let Some((sentence, remedy)) = told else {
        return Err(format!("{:?}\n{}", played.holds(), played.log()).into());
    };
    // What is granted at the top is missed where it is needed.
    let named = match (path, privilege) {
        ("/", "Datastore.Audit") => "/storage",
        _ => path,
    };
    ensure(sentence.contains(&format!("{privilege} on {named}")), || sentence.clone())?;
    let whole = format!("{sentence}: {remedy}");
    for part in [format!("pveum acl modify {path} --roles Spot"), format!("--tokens '{TOKEN}'")] {
        ensure(whole.contains(&part), || whole.clone())?;
    }
    let line = format!("--append --privs {privilege}");
    ensure(whole.contains(&line), || whole.clone())
}

fn a_low_host_is_refused() -> Result<(), Failed> {
    let text = std::fs::read_to_string(file("world.yaml"))?;
    let mut world: Value = story::shaped(serde_yaml::from_str(&text)?);
    let granted = granted();
    world["tokens"] = json!([{ "id": TOKEN, "secret": "s3cret", "rights": { "by": granted } }]);
    let mut world = World::read(&serde_yaml::to_string(&world)?)?;
    let mut ask = |node: &str| {
        let request = spot::pretend::ApiRequest {
            method: "POST".into(),
            path: format!("/nodes/{node}/status"),
            query: Vec::new(),
            form: vec![("command".into(), "shutdown".into())],
            authorization: Some(format!("PVEAPIToken={TOKEN}=s3cret")),
        };
        spot::pretend::answer(&mut world, &node.into(), &request).status
    };
    ensure(ask("host1") == 403, || "host1 may be powered off".into())
}

/// `/vms/301` has an entry of its own without `VM.Audit`, and 301 runs on host3.
fn an_entry_that_hides_a_guest() -> Result<(), Failed> {
    let mut hidden = granted();
    hidden.insert("/vms/301".into(), ["VM.PowerMgmt".to_owned()].into());
    let played = played(&hidden, MORNING)?;
    played.kept_its_promises()?;
    let log = played.log();
    ensure(!log.contains("asks: power off host3"), || log.clone())?;
    let told = played.holds().into_iter().any(|(sentence, remedy)| {
        sentence.contains("lacks VM.Audit on /vms/301") && remedy.contains("pveum acl modify /vms ")
    });
    ensure(told, || format!("{:?}", played.holds()))
}

/// The script prints one `role add` for each role and two `acl modify` for each grant.
fn the_script_grants_the_table() -> Result<(), Failed> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/rights.sh");
    let words = ["--print", "--hibernate", "nas", "host2", "host3"];
    let output = std::process::Command::new("sh").arg(script).args(words).output()?;
    ensure(output.status.success(), || String::from_utf8_lossy(&output.stderr).into_owned())?;
    let printed = String::from_utf8(output.stdout)?;
    let printed: BTreeSet<&str> = printed.lines().collect();
    let mut expected: BTreeSet<String> = BTreeSet::from([
        "pveum user add spot@pve".to_owned(),
        "pveum user token add spot@pve spot --privsep 1".to_owned(),
    ]);
    for (path, role) in home().grants() {
        expected.insert(format!("pveum role add {} --privs {}", role.name, role.list()));
        for who in ["--users 'spot@pve'", "--tokens 'spot@pve!spot'"] {
            expected.insert(format!("pveum acl modify {path} --roles {} {who}", role.name));
        }
    }
    let expected: BTreeSet<&str> = expected.iter().map(String::as_str).collect();
    ensure(printed == expected, || format!("{printed:#?}\n{expected:#?}"))
}
