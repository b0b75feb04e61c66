//! Reads a story's folder: its world, its policy, and the script of what happens when.
//!
//! A world begins as one of the shared `shapes/` and says only what is different, so that a reader
//! sees at once what the story is about. Hosts, guests and storages are merged by their names.
//!
//! **Does not know:** how a story is played.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::SignedDuration;
use serde_json::{Map, Value};
use spot::gate::{Here, Mode};
use spot::policy::Policy;
use spot::policy::text::{self, PolicyFile};
use spot::pretend::World;

use crate::house::{Event, Home};

/// One story, ready to be played as often as wanted.
pub struct Story {
    pub name: String,
    folder: PathBuf,
    world: Value,
    pub mode: Mode,
    pub lasts: Duration,
    /// Beside what befalls the world itself, in order.
    pub events: Vec<(Duration, Event)>,
}

/// Every story there is, by name.
pub fn all() -> Vec<Story> {
    let folder = stage().join("../scenarios");
    let mut names: Vec<PathBuf> = fs::read_dir(&folder)
        .expect("tests/scenarios can be listed")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_dir())
        .collect();
    names.sort();
    names.iter().map(|folder| Story::read(folder)).collect()
}

fn stage() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stage")
}

fn yaml(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    serde_yaml::from_str(&text).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

impl Story {
    fn read(folder: &Path) -> Story {
        let name = folder.file_name().expect("a folder").to_string_lossy().into_owned();
        let mut world = shaped(yaml(&folder.join("world.yaml")));
        let mut script = yaml(&folder.join("script.yaml"));
        let script = script.as_object_mut().expect("a script is a map");
        let lasts = span(script.remove("lasts"));
        let mode = match script.remove("mode").as_ref().and_then(Value::as_str) {
            None | Some("act") => Mode::Act,
            Some("rehearse") => Mode::Rehearse,
            Some(other) => panic!("{name}: mode {other}"),
        };
        let mut befalls = Vec::new();
        let mut events = Vec::new();
        for line in script.remove("events").into_iter().flat_map(list) {
            match event(&name, &line) {
                Some(event) => events.push(event),
                None => befalls.push(line),
            }
        }
        assert!(script.is_empty(), "{name}: the script says {script:?}, which nobody knows");
        events.sort_by_key(|(after, _)| *after);
        world["script"] = Value::Array(befalls);
        Story { name, folder: folder.to_owned(), world, mode, lasts, events }
    }

    /// The home of the story before anything of it has happened.
    pub fn home(&self) -> Home {
        let text = serde_yaml::to_string(&self.world).expect("a world is plain");
        let world = World::read(&text).unwrap_or_else(|why| panic!("{}: {why}", self.name));
        let pushed = self.events.iter().filter_map(|(_, event)| match event {
            Event::Policy { file } => Some(file.clone()),
            Event::Asked { .. } | Event::Down { .. } => None,
        });
        let files = std::iter::once("policy.yaml".to_owned()).chain(pushed);
        Home {
            name: self.name.clone(),
            world,
            policies: files.map(|file| (file.clone(), policy(&self.file(&file)))).collect(),
            mode: self.mode,
            here: Here::Host("host1".into()),
            lasts: self.lasts,
            events: self.events.clone(),
            befalls: Some(self.befalls()),
        }
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// What befalls the world, for the log: after how long, and the words of the script.
    fn befalls(&self) -> Vec<(Duration, String)> {
        let tell = |line: &Value| {
            let mut line = line.as_object().expect("a line is a map").clone();
            let after = span(line.remove("after"));
            let (what, how) = line.into_iter().next().expect("a line names an event");
            let how = how.as_str().map_or_else(|| how.to_string(), str::to_owned);
            (after, format!("{what}: {how}").replace('"', ""))
        };
        self.world["script"].as_array().expect("set when read").iter().map(tell).collect()
    }
}

/// What a policy file says, or why it is refused.
pub fn policy(path: &Path) -> Result<Policy, String> {
    let text = fs::read_to_string(path).expect("a policy file can be read");
    let name = path.file_name().expect("a file").to_string_lossy().into_owned();
    let reading = text::read(&[PolicyFile { name, text }]);
    let fault = reading.faults.iter().find(|fault| fault.severity == text::Severity::Error);
    reading.policy.ok_or_else(|| {
        let fault = fault.expect("a policy is refused for a fault");
        let place = format!("{}:{}:{}", fault.file, fault.line, fault.column);
        format!("{place}: {}; {}", fault.message, fault.help)
    })
}

/// A world's file laid over the shape it names.
pub fn shaped(mut over: Value) -> Value {
    let Some(shape) = over.as_object_mut().and_then(|over| over.remove("shape")) else {
        return over;
    };
    let shape = shape.as_str().expect("a shape has a name");
    let mut world = yaml(&stage().join(format!("shapes/{shape}.yaml")));
    for (key, value) in over.as_object().expect("a world is a map") {
        let name = if key == "guests" { "vmid" } else { "name" };
        match (world.get_mut(key), value) {
            (Some(Value::Array(base)), Value::Array(changes)) => merge(base, changes, name),
            _ => world[key] = value.clone(),
        }
    }
    world
}

fn merge(base: &mut Vec<Value>, changes: &[Value], name: &str) {
    for change in changes {
        match base.iter_mut().find(|one| one[name] == change[name]) {
            Some(one) => {
                for (key, value) in change.as_object().expect("a map") {
                    one[key] = value.clone();
                }
            }
            None => base.push(change.clone()),
        }
    }
}

fn wrong(story: &str, line: &Map<String, Value>, what: &str) -> ! {
    panic!("{story}: {what} in {line:?}")
}

/// The service's own events; `None` for what befalls the world.
fn event(story: &str, line: &Value) -> Option<(Duration, Event)> {
    let line: &Map<String, Value> = line.as_object().expect("a line of a script is a map");
    let after = || span(line.get("after").cloned());

    if let Some(ask) = line.get("ask") {
        let ask = serde_json::from_value(ask.clone())
            .unwrap_or_else(|_| wrong(story, line, "an ask nobody understands"));
        let by = line
            .get("by")
            .and_then(Value::as_str)
            .unwrap_or_else(|| wrong(story, line, "nobody asks (`by`)"))
            .to_owned();
        let confirmed = line.get("confirmed") == Some(&Value::Bool(true));
        return Some((after(), Event::Asked { ask, by, confirmed }));
    }
    if let Some(lasting) = line.get("service_down") {
        return Some((after(), Event::Down { lasting: span(Some(lasting.clone())) }));
    }
    let file = line
        .get("policy")?
        .as_str()
        .unwrap_or_else(|| wrong(story, line, "no file of a policy"))
        .to_owned();
    Some((after(), Event::Policy { file }))
}

fn list(value: Value) -> Vec<Value> {
    match value {
        Value::Array(lines) => lines,
        other => panic!("events are a list, not {other}"),
    }
}

fn span(value: Option<Value>) -> Duration {
    let text = value.as_ref().and_then(Value::as_str).expect("a length of time");
    let length: SignedDuration = text.parse().expect("a length of time such as 90s or 2h 5m");
    Duration::try_from(length).expect("not below zero")
}
