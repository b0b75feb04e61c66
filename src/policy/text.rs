//! From YAML text to a [`Policy`], or to every fault at once.
//!
//! Each file is read alone into a draft; then all drafts are judged together, since a name must be
//! unique over all files and a host may be described in one file and wanted in another. Reading goes on
//! after a fault, in all files, because an owner who mends one mistake per run loses patience.
//!
//! **Does not know:** where the text came from beyond its file name.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::calendar::Window;
use super::guests::{self, GuestDraft};
use super::hosts::{self, HostDraft};
use super::reader::{At, Place, Reader, nearest};
use super::rules::{self, Frame, RuleDraft};
use super::yaml::{self, Broken};
use super::{Host, Match, Migrations, Policy, QuorumPolicy};
use crate::cluster::{HostName, Mac, Tier};

pub use super::carets::{render, render_coloured};

/// A larger file is refused unread: it is no policy.
pub const LARGEST_FILE_BYTES: usize = 1 << 20;
/// PVE advises against more than 32; eight times that is a mistake.
const MOST_HOSTS: usize = 256;

/// One file's text, as a source hands it over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyFile {
    /// As shown in faults: `policies/homelab.yaml`.
    pub name: String,
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Error,
    Warning,
}

/// One thing wrong in a policy file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub severity: Severity,
    pub file: String,
    /// Counted from 1, in characters.
    pub line: usize,
    pub column: usize,
    /// `policies[0].run[0].from`
    pub path: String,
    pub message: String,
    pub help: String,
    /// Byte range of the offending text in its file, for the carets.
    pub span: std::ops::Range<usize>,
}

impl Fault {
    /// A fault of a whole file or folder, such as one that cannot be read.
    pub fn of_file(file: &str, message: impl Into<String>, help: impl Into<String>) -> Fault {
        Fault {
            severity: Severity::Error,
            file: file.to_owned(),
            line: 1,
            column: 1,
            path: String::new(),
            message: message.into(),
            help: help.into(),
            span: 0..0,
        }
    }
}

/// What reading gave: a policy if nothing was an error, and every fault either way.
#[derive(Debug)]
pub struct Reading {
    pub policy: Option<Policy>,
    pub faults: Vec<Fault>,
}

impl Reading {
    /// Whether anything was an error; warnings alone never refuse a policy.
    pub fn refused(&self) -> bool {
        self.policy.is_none()
    }
}

/// Reads all files of a policy folder together. `guests` concatenate in the order of file names.
pub fn read(files: &[PolicyFile]) -> Reading {
    let mut files: Vec<&PolicyFile> = files.iter().collect();
    files.sort_by(|one, other| one.name.cmp(&other.name));
    let mut pages: Vec<Page<'_>> = files.iter().map(|file| Page::read(file)).collect();
    let policy = together(&mut pages);
    let mut faults: Vec<Fault> = Vec::new();
    if pages.is_empty() {
        faults.push(Fault::of_file(
            "policies",
            "there is no policy file here",
            "write one, such as policies/homelab.yaml; its name ends in .yaml",
        ));
    }
    for page in pages {
        let mut found = page.reader.faults;
        found.sort_by_key(|fault| fault.span.start);
        faults.extend(found);
    }
    let refused = faults.iter().any(|fault| fault.severity == Severity::Error);
    Reading { policy: policy.filter(|_| !refused), faults }
}

/// The policy of one text that is known to be right.
///
/// For tests and examples: panics with the rendered faults.
#[doc(hidden)]
pub fn must_read(text: &str) -> Policy {
    let files = [PolicyFile { name: "policy.yaml".into(), text: text.into() }];
    let Reading { policy, faults } = read(&files);
    policy.unwrap_or_else(|| panic!("{}", render(&faults, &files)))
}

/// One file, read.
struct Page<'f> {
    reader: Reader<'f>,
    draft: Draft,
    /// Its structure could not be read, so what it says is not known.
    lost: bool,
}

/// What one file says, valid on its own.
#[derive(Default)]
struct Draft {
    hosts: Vec<HostDraft>,
    guests: Vec<GuestDraft>,
    rules: Vec<RuleDraft>,
    quorum: Option<(QuorumPolicy, Place)>,
    migrations: Option<(Migrations, Place)>,
}

impl<'f> Page<'f> {
    fn read(file: &'f PolicyFile) -> Page<'f> {
        if file.text.len() > LARGEST_FILE_BYTES {
            let mut page =
                Page { reader: Reader::new(&file.name, ""), draft: Draft::default(), lost: true };
            page.reader.faults.push(too_large(&file.name, file.text.len() as u64));
            return page;
        }
        let mut reader = Reader::new(&file.name, &file.text);
        let (tree, broken) = yaml::tree(reader.text());
        for Broken { span, message, help } in broken {
            reader.error(&Place { span, path: String::new() }, message, help);
        }
        let lost = tree.is_none() && !reader.faults.is_empty();
        let mut draft = Draft::default();
        match &tree {
            Some(root) if !root.is_nothing() => {
                let at = At { node: root, path: String::new(), key: root.span.clone() };
                draft = Draft::read(&mut reader, &at);
            }
            Some(_) | None => {
                if !lost {
                    let start = Place { span: 0..0, path: String::new() };
                    reader.warning(
                        &start,
                        "this file says nothing",
                        "remove it, or write a policy",
                    );
                }
            }
        }
        Page { reader, draft, lost }
    }
}

/// The fault of a file beyond [`LARGEST_FILE_BYTES`].
pub fn too_large(file: &str, bytes: u64) -> Fault {
    Fault::of_file(
        file,
        format!("this file has {bytes} bytes and was not read: at most 1 MiB is"),
        "a policy has a few hundred lines; keep other files out of this folder",
    )
}

impl Draft {
    fn read(reader: &mut Reader<'_>, at: &At<'_>) -> Draft {
        let keys = &["timezone", "hosts", "guests", "policies", "quorum", "migrations"];
        let Some(fields) = reader.fields(at, keys) else { return Draft::default() };
        let zone = fields.get(reader, "timezone");
        let mut frame = Frame::read(reader, zone.as_ref());
        let hosts = fields.get(reader, "hosts");
        let guests = fields.get(reader, "guests");
        let rules = fields.get(reader, "policies");
        let quorum = fields.get(reader, "quorum");
        let migrations = fields.get(reader, "migrations");
        Draft {
            hosts: hosts.map(|at| hosts::read(reader, &at, &mut frame)).unwrap_or_default(),
            guests: guests.map(|at| guests::read(reader, &at)).unwrap_or_default(),
            rules: rules.map(|at| rules::read(reader, &at, &mut frame)).unwrap_or_default(),
            quorum: quorum.map(|at| (rules::quorum(reader, &at), at.key_place())),
            migrations: migrations.map(|at| (rules::migrations(reader, &at), at.key_place())),
        }
    }
}

/// The policy that all files make together, with every fault that shows only then.
fn together(pages: &mut [Page<'_>]) -> Option<Policy> {
    let lost = pages.iter().any(|page| page.lost);
    let hosts = hosts_of_all(pages);
    names_are_unique(pages);
    if !lost {
        // What a lost file would have said cannot be missed.
        some_host_exists(pages, &hosts);
        names_are_known(pages, &hosts);
        low_hosts_need_no_window(pages, &hosts);
        preferred_hosts_wake_some_day(pages, &hosts);
    }
    quiet_leaves_windows(pages, &hosts);
    nothing_follows_any(pages);
    let quorum = once(pages, "quorum", |draft| draft.quorum.as_ref());
    let migrations = once(pages, "migrations", |draft| draft.migrations.as_ref());
    let drafts = || pages.iter().map(|page| &page.draft);
    let guests = drafts().flat_map(|draft| &draft.guests).map(|draft| draft.rule.clone());
    let rules = drafts().flat_map(|draft| &draft.rules).map(|draft| draft.rule.clone());
    Some(Policy {
        guests: guests.collect(),
        rules: rules.collect(),
        quorum: quorum.unwrap_or_default(),
        migrations: migrations.unwrap_or_default(),
        hosts,
    })
}

/// All hosts by name; names, nodes and MAC addresses that stand twice are faults.
fn hosts_of_all(pages: &mut [Page<'_>]) -> BTreeMap<HostName, Host> {
    let mut hosts = BTreeMap::new();
    let mut nodes: BTreeMap<String, HostName> = BTreeMap::new();
    let mut macs: BTreeMap<Mac, HostName> = BTreeMap::new();
    let mut files: BTreeMap<HostName, String> = BTreeMap::new();
    for Page { reader, draft, .. } in pages {
        for HostDraft { name, place, host, node_place, macs: own, .. } in &draft.hosts {
            if let Some(file) = files.get(name) {
                let message = format!("{name} is described twice");
                reader.error(place, message, format!("keep one of them; the other is in {file}"));
                continue;
            }
            if hosts.len() == MOST_HOSTS {
                reader.error(
                    place,
                    format!("more than {MOST_HOSTS} hosts"),
                    "no cluster has so many",
                );
                return hosts;
            }
            if let Some(other) = nodes.insert(host.node.clone(), name.clone()) {
                let message = format!("{other} is the node `{}` already", host.node);
                reader.error(node_place, message, "write this host's own name in PVE under `node`");
            }
            for (mac, place) in own {
                if let Some(other) = macs.insert(*mac, name.clone()) {
                    let message = format!("{mac} is {other}'s already");
                    reader.error(place, message, "no two cards have the same address: look again");
                }
            }
            files.insert(name.clone(), reader.file().to_owned());
            hosts.insert(name.clone(), host.clone());
        }
    }
    hosts
}

fn names_are_unique(pages: &mut [Page<'_>]) {
    let mut files: BTreeMap<String, String> = BTreeMap::new();
    for Page { reader, draft, .. } in pages {
        for RuleDraft { rule, name_place, .. } in &draft.rules {
            if rule.name.is_empty() {
                continue;
            }
            match files.get(&rule.name) {
                Some(file) => {
                    let message = format!("there are two policies named `{}`", rule.name);
                    let help = format!("rename one of them; the other is in {file}");
                    reader.error(name_place, message, help);
                }
                None => {
                    files.insert(rule.name.clone(), reader.file().to_owned());
                }
            }
        }
    }
}

fn some_host_exists(pages: &mut [Page<'_>], hosts: &BTreeMap<HostName, Host>) {
    let described = pages.iter().any(|page| !page.reader.faults.is_empty());
    if hosts.is_empty()
        && let Some(Page { reader, .. }) = pages.first_mut()
    {
        let message = if described { "no file describes a host" } else { "no host is described" };
        let help = "write `hosts:` with each host's tier, such as `host1: { tier: low }`";
        reader.error(&Place { span: 0..0, path: String::new() }, message, help);
    }
}

/// Every host that a rule, a guest or a wake names must be described somewhere.
fn names_are_known(pages: &mut [Page<'_>], hosts: &BTreeMap<HostName, Host>) {
    for Page { reader, draft, .. } in pages {
        let preferred = draft.guests.iter().flat_map(|guest| &guest.prefer);
        let wanted = draft.rules.iter().flat_map(|rule| &rule.hosts);
        let relays = draft.hosts.iter().filter_map(|host| host.relay.as_ref());
        for (name, place) in preferred.chain(wanted).chain(relays) {
            if hosts.contains_key(name) || reader.full() {
                continue;
            }
            let help = match nearest(name.as_str(), hosts.keys().map(HostName::as_str)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "describe it under `hosts`, or name one that is described there".into(),
            };
            reader.error(place, format!("no host is named `{name}`"), help);
        }
    }
}

fn low_hosts_need_no_window(pages: &mut [Page<'_>], hosts: &BTreeMap<HostName, Host>) {
    for Page { reader, draft, .. } in pages {
        for (name, place) in draft.rules.iter().flat_map(|rule| &rule.hosts) {
            if hosts.get(name).is_some_and(|host| host.tier == Tier::Low) {
                reader.error(
                    place,
                    format!("{name} is of tier low: it is always on and can have no window"),
                    "remove it here, or give it the tier `medium` or `high`",
                );
            }
        }
    }
}

/// Hosts that are on at some time without anybody's asking.
fn preferred_hosts_wake_some_day(pages: &mut [Page<'_>], hosts: &BTreeMap<HostName, Host>) {
    let rules = pages.iter().flat_map(|page| &page.draft.rules);
    let wanted: BTreeSet<HostName> =
        rules.flat_map(|rule| rule.hosts.iter().map(|(name, _)| name.clone())).collect();
    for Page { reader, draft, .. } in pages {
        for GuestDraft { prefer, .. } in &draft.guests {
            let wakes = |name: &HostName| {
                wanted.contains(name) || hosts.get(name).is_none_or(|host| host.tier == Tier::Low)
            };
            if let Some((name, place)) = prefer.first()
                && !prefer.iter().any(|(name, _)| wakes(name))
            {
                reader.warning(
                    place,
                    format!("no policy ever wakes {name} or another host preferred here"),
                    "name such a host in a policy, or wake it by `spot up` when you want it",
                );
            }
        }
    }
}

/// Warns of a window during which every host it is for is always quiet.
fn quiet_leaves_windows(pages: &mut [Page<'_>], hosts: &BTreeMap<HostName, Host>) {
    /// A glance at the first openings tells a habit from an accident.
    const OPENINGS: usize = 60;
    /// Pairs of a host and a window looked at; each costs up to 60 openings.
    const PAIRS: usize = 1_000;
    let begin = Timestamp::from_second(1_830_297_600).expect("the first day of 2028");
    let swallowed = |window: &Window, host: &Host| {
        let mut now = begin;
        for _ in 0..OPENINGS {
            let Some(next) = window.next_after(now) else { break };
            let quiet = host.quiet.iter().filter_map(|quiet| quiet.open_at(next.opens));
            let covers = |end: Option<Timestamp>| match (end, next.closes) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(quiet), Some(window)) => quiet >= window,
            };
            if !quiet.into_iter().any(|quiet| covers(quiet.closes)) {
                return false;
            }
            now = next.opens;
        }
        true
    };
    let mut pairs = 0;
    for Page { reader, draft, .. } in pages {
        for RuleDraft { rule, hosts: wanted, windows, .. } in &draft.rules {
            for (name, _) in wanted {
                let Some(host) = hosts.get(name).filter(|host| !host.quiet.is_empty()) else {
                    continue;
                };
                for (window, place) in windows {
                    pairs += 1;
                    if pairs <= PAIRS && swallowed(window, host) {
                        reader.warning(
                            place,
                            format!(
                                "{name} is quiet whenever this window of `{}` is open",
                                rule.name
                            ),
                            "move the window, or shorten the host's `quiet`",
                        );
                    }
                }
            }
        }
    }
}

/// Warns of guest rules that can never be the first to match.
fn nothing_follows_any(pages: &mut [Page<'_>]) {
    let everything = Match { any: true, ..Match::default() };
    let mut seen: Vec<Match> = Vec::new();
    for Page { reader, draft, .. } in pages {
        for GuestDraft { rule, place, .. } in &draft.guests {
            let blank = rule.matches == Match::default();
            if seen.contains(&everything) {
                let message = "the rule `match: { any: true }` before it takes every guest";
                reader.warning(place, message, "move that rule to the end, or remove this one");
            } else if !blank && seen.contains(&rule.matches) {
                let message = "a rule before it matches the same guests";
                reader.warning(place, message, "keep one of them: the first match wins");
            } else if seen.len() < 1_000 {
                seen.push(rule.matches.clone());
            }
        }
    }
}

/// A section that stands once over all files.
fn once<T: Clone>(
    pages: &mut [Page<'_>],
    key: &str,
    section: impl Fn(&Draft) -> Option<&(T, Place)>,
) -> Option<T> {
    let mut first: Option<(T, String)> = None;
    for Page { reader, draft, .. } in pages {
        let Some((value, place)) = section(draft) else { continue };
        match &first {
            None => first = Some((value.clone(), reader.file().to_owned())),
            Some((_, file)) => {
                let message = format!("`{key}` stands in two files");
                reader.error(place, message, format!("keep one of them; the other is in {file}"));
            }
        }
    }
    first.map(|(value, _)| value)
}
