//! From YAML text to a [`Policy`], or to every fault at once.
//!
//! Each file is read alone into a draft; then all drafts are judged together, since a name must be
//! unique over all files and a host may be described in one file and wanted in another. Reading
//! goes on after a fault, in all files, because an owner who mends one mistake per run loses
//! patience.
//!
//! **Does not know:** where the text came from beyond its file name.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::calendar::{Window, judged_from};
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

/// A place in a file, for whoever finds a fault that only shows outside the files: a zone the
/// system knows otherwise, a host the cluster does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    pub file: String,
    pub line: usize,
    pub column: usize,
    pub path: String,
    pub span: std::ops::Range<usize>,
}

impl Mark {
    pub fn fault(
        &self,
        severity: Severity,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Fault {
        let Mark { file, line, column, path, span } = self.clone();
        let (message, help) = (message.into(), help.into());
        Fault { severity, file, line, column, path, message, help, span }
    }

    pub fn error(&self, message: impl Into<String>, help: impl Into<String>) -> Fault {
        self.fault(Severity::Error, message, help)
    }

    pub fn warning(&self, message: impl Into<String>, help: impl Into<String>) -> Fault {
        self.fault(Severity::Warning, message, help)
    }
}

/// Where in the files things stand.
#[derive(Clone, Debug, Default)]
pub struct Marks {
    pub hosts: BTreeMap<HostName, Mark>,
    /// The first address of each host that has one.
    pub macs: BTreeMap<HostName, Mark>,
    /// In the order of the policy's guest rules.
    pub guests: Vec<Mark>,
    /// By the policy's name.
    pub rules: BTreeMap<String, Mark>,
    pub zones: Vec<(TimeZone, Mark)>,
}

/// What reading gave: a policy if nothing was an error, and every fault either way.
#[derive(Debug)]
pub struct Reading {
    pub policy: Option<Policy>,
    pub faults: Vec<Fault>,
    pub marks: Marks,
}

impl Reading {
    /// Whether anything was an error; warnings alone never refuse a policy.
    pub fn refused(&self) -> bool {
        self.policy.is_none()
    }
}

/// Reads all files of a policy folder together. `guests` concatenate in the order of file names.
pub fn read(files: &[PolicyFile]) -> Reading {
    read_despite(files, &[])
}

/// The same, where `missing` tells of files that could not be had: they refuse the policy, and what
/// they would have said is not held against the others.
pub fn read_despite(files: &[PolicyFile], missing: &[Fault]) -> Reading {
    let mut files: Vec<&PolicyFile> = files.iter().collect();
    files.sort_by(|one, other| one.name.cmp(&other.name));
    let mut pages: Vec<Page<'_>> = files.iter().map(|file| Page::read(file)).collect();
    let policy = together(&mut pages, !missing.is_empty());
    let marks = marks(&pages);
    let mut faults: Vec<Fault> = missing.to_vec();
    if pages.is_empty() && missing.is_empty() {
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
    Reading { policy: policy.filter(|_| !refused), faults, marks }
}

fn marks(pages: &[Page<'_>]) -> Marks {
    let mut marks = Marks::default();
    for Page { reader, draft, .. } in pages {
        for host in &draft.hosts {
            marks.hosts.entry(host.name.clone()).or_insert_with(|| reader.mark(&host.place));
            if let Some((_, place)) = host.macs.first() {
                marks.macs.entry(host.name.clone()).or_insert_with(|| reader.mark(place));
            }
        }
        marks.guests.extend(draft.guests.iter().map(|guest| reader.mark(&guest.place)));
        for rule in &draft.rules {
            let mark = || reader.mark(&rule.name_place);
            marks.rules.entry(rule.rule.name.clone()).or_insert_with(mark);
        }
        let zones = reader.zones.iter().map(|(zone, place)| (zone.clone(), reader.mark(place)));
        marks.zones.extend(zones);
    }
    marks
}

/// The policy of one text that is known to be right.
///
/// For tests and examples: panics with the rendered faults.
#[doc(hidden)]
pub fn must_read(text: &str) -> Policy {
    let files = [PolicyFile { name: "policy.yaml".into(), text: text.into() }];
    let Reading { policy, faults, .. } = read(&files);
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
                    says_nothing(&mut reader, &file.text);
                }
            }
        }
        Page { reader, draft, lost }
    }
}

/// A file of comments may be one that its owner switched off; one with nothing at all is more
/// likely a copy that went wrong, and what it should say must not be taken for gone.
fn says_nothing(reader: &mut Reader<'_>, text: &str) {
    let start = Place { span: 0..0, path: String::new() };
    let help = "remove it, or write a policy";
    match text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}').is_empty() {
        true => reader.error(&start, "this file is empty", help),
        false => reader.warning(&start, "this file says nothing", help),
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
fn together(pages: &mut [Page<'_>], missing: bool) -> Option<Policy> {
    let lost = missing || pages.iter().any(|page| page.lost);
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
    if hosts.is_empty()
        && let Some(Page { reader, .. }) = pages.first_mut()
    {
        let help = "write `hosts:` with each host's tier, such as `host1: { tier: low }`";
        reader.error(&Place { span: 0..0, path: String::new() }, "no host is described", help);
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
    let begin = judged_from();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::cases::{DOUBTFUL, EVERY_KEY, SOUND, WRONG};
    use crate::policy::{Ahead, Inhibitor, OrElse, Otherwise, Reserve, Serves};
    use std::time::Duration;

    fn file(name: &str, text: &str) -> PolicyFile {
        PolicyFile { name: name.into(), text: text.into() }
    }

    /// `file:line:column path: message; help`, one line per fault.
    fn told(files: &[PolicyFile]) -> String {
        let reading = read(files);
        let errors = reading.faults.iter().any(|fault| fault.severity == Severity::Error);
        assert_eq!(reading.refused(), errors, "only errors refuse, and all of them do");
        let line = |fault: &Fault| {
            let Fault { file, line, column, path, message, help, .. } = fault;
            format!("{:?} {file}:{line}:{column} {path}: {message}; {help}\n", fault.severity)
        };
        reading.faults.iter().map(line).collect()
    }

    #[test]
    fn the_reference_home_is_read_without_a_fault() {
        let text = include_str!("../../policies/homelab.yaml");
        let files = [file("policies/homelab.yaml", text)];
        let Reading { policy, faults, .. } = read(&files);
        assert_eq!(render(&faults, &files), "");
        let policy = policy.unwrap();
        let host3 = policy.host(&"host3".into()).unwrap();
        assert_eq!((host3.tier, host3.lease), (Tier::High, Duration::from_secs(4 * 3600)));
        assert_eq!(host3.macs, ["a8:a1:59:00:00:03".parse().unwrap()]);
        assert_eq!(policy.guest_rules().len(), 5);
        assert!(policy.guest_rules()[0].pinned);
        assert_eq!(policy.guest_rules()[0].otherwise, Otherwise::KeepAwake);
        let hibernate = Otherwise::Hibernate { or: OrElse::KeepAwake };
        assert_eq!(policy.guest_rules()[2].otherwise, hibernate);
        let monday: Timestamp = "2026-11-23T09:00:00Z".parse().unwrap();
        let (name, opening) = policy.opening(&"host2".into(), monday, &[]).unwrap();
        assert_eq!(name, "office-hours");
        assert_eq!(opening.closes, Some("2026-11-23T17:00:00Z".parse().unwrap()));
        let (name, next) = policy.next_opening(&"host3".into(), monday, &[]).unwrap();
        assert_eq!(name, "weekend-render");
        assert_eq!(next.opens, "2026-11-28T08:00:00Z".parse().unwrap());
        assert_eq!(policy.opening(&"host3".into(), monday, &[]), None);
        let night: Timestamp = "2026-11-23T02:00:00Z".parse().unwrap();
        assert!(policy.quiet_now(&"host3".into(), night).is_some());
        assert!(policy.quiet_now(&"host3".into(), monday).is_none());
    }

    #[test]
    fn every_key_of_the_language_is_read() {
        let files = [file("a.yaml", EVERY_KEY)];
        let Reading { policy, faults, .. } = read(&files);
        let policy = policy.unwrap_or_else(|| panic!("{}", render(&faults, &files)));
        assert!(faults.is_empty(), "{}", render(&faults, &files));
        let host3 = policy.host(&"host3".into()).unwrap();
        assert_eq!((host3.node.as_str(), host3.enforce), ("pve3", true));
        assert_eq!(host3.ahead, Ahead::By(Duration::from_secs(600)));
        assert_eq!(host3.reserve, Reserve::Bytes(2 << 30));
        assert_eq!(host3.uninhibited, BTreeSet::from([Inhibitor::Backups]));
        assert_eq!(host3.wake.password.as_deref(), Some("wol-host3"));
        assert!(host3.wake.proven);
        let host2 = policy.host(&"host2".into()).unwrap();
        assert_eq!((host2.macs.len(), &host2.serves[1]), (2, &Serves::Qnetd));
        assert_eq!(policy.quorum().spare, 1);
        assert_eq!(policy.migrations().bandwidth, Some(110 << 20));
        let friday: Timestamp = "2026-11-27T20:00:00Z".parse().unwrap();
        assert_eq!(policy.opening(&"host3".into(), friday, &[]).unwrap().0, "elsewhere");
    }

    #[test]
    fn what_is_not_said_has_its_default() {
        let policy = must_read(SOUND);
        let host = policy.host(&"host3".into()).unwrap();
        let minutes = |n: u64| Duration::from_secs(n * 60);
        assert_eq!(
            (host.boot_within, host.min_on, host.min_off),
            (minutes(10), minutes(15), minutes(10))
        );
        assert_eq!((host.lease, host.enforce, host.ahead), (minutes(240), false, Ahead::Auto));
        assert_eq!((policy.quorum().spare, policy.migrations().per_host), (0, 1));
        assert_eq!(policy.migrations().bandwidth, None);
    }

    #[test]
    fn one_mistake_is_one_error_under_its_own_text() {
        for (old, new, says, place) in WRONG {
            assert!(SOUND.contains(old), "{old}");
            let text = SOUND.replacen(old, new, 1);
            let reading = read(&[file("a.yaml", &text)]);
            let errors: Vec<&Fault> =
                reading.faults.iter().filter(|fault| fault.severity == Severity::Error).collect();
            let [fault] = errors[..] else { panic!("{new}: {}", told(&[file("a.yaml", &text)])) };
            let said = format!("{}; {}", fault.message, fault.help);
            assert!(said.contains(says), "{new}: {said}");
            assert_eq!(&text[fault.span.clone()], *place, "{new}: {said}");
            assert!(!fault.help.is_empty() && reading.policy.is_none());
        }
    }

    #[test]
    fn a_doubt_is_a_warning_and_refuses_nothing() {
        for (old, new, says) in DOUBTFUL {
            assert!(SOUND.contains(old), "{old}");
            let mut text = SOUND.replacen(old, new, 1);
            if says.contains("ever wakes") {
                text += "guests: [{ match: { any: true }, prefer: [host3] }]\n";
                text = text.replace(
                    "  host3:",
                    "  host4: { tier: high, mac: \"a8:a1:59:00:00:04\" }\n  host3:",
                );
            }
            let reading = read(&[file("a.yaml", &text)]);
            let said = told(&[file("a.yaml", &text)]);
            assert_eq!(reading.faults.len(), 1, "{new}: {said}");
            assert!(said.starts_with("Warning") && said.contains(says), "{new}: {said}");
        }
    }

    #[test]
    fn all_faults_of_all_files_are_told_at_once() {
        let one = SOUND.replace("Mon-Fri", "Mon-Fry").replace("tier: low", "tier: lwo");
        let two = r#"hosts:
  host3: { tier: high, mac: "a8:a1:59:00:00:03" }
policies:
  - name: work
    hosts: [host9]
    run: []
quorum: {}
"#;
        let three = "quorum: { spare: 1 }\n";
        let files = [file("c.yaml", three), file("a.yaml", &one), file("b.yaml", two)];
        let all = told(&files);
        let message = |line: &str| line.split_once("; ").unwrap().0.to_owned() + "\n";
        let without_help: String = all.lines().map(message).collect();
        assert_eq!(
            without_help,
            "Error a.yaml:3:18 hosts.host1.tier: `lwo` is not known here\n\
             Error a.yaml:8:19 policies[0].run[0].from: \
             `Fry` does not fit the field for the day of the week\n\
             Error b.yaml:2:3 hosts.host3: host3 is described twice\n\
             Warning b.yaml:4:5 policies[0]: no `timezone` is given, so times are read as UTC\n\
             Error b.yaml:4:11 policies[0].name: there are two policies named `work`\n\
             Error b.yaml:5:13 policies[0].hosts[0]: no host is named `host9`\n\
             Error b.yaml:6:10 policies[0].run: an empty list of windows\n\
             Error c.yaml:1:1 quorum: `quorum` stands in two files\n"
        );
    }

    #[test]
    fn faults_are_drawn_under_the_line() {
        let files = [file("policies/a.yaml", &SOUND.replace("[host3]", "[hots3]"))];
        assert_eq!(
            render(&read(&files).faults, &files),
            r#"error: no host is named `hots3`
 --> policies/a.yaml:7:13
  |
7 |     hosts: [hots3]
  |             ^^^^^ policies[0].hosts[0]
  |
  = help: did you mean `host3`?

1 error
"#
        );
    }

    #[test]
    fn odd_texts_are_read_or_refused_but_never_misread() {
        let marked = format!("\u{feff}{}", SOUND.replace('\n', "\r\n"));
        assert_eq!(told(&[file("a.yaml", &marked)]), "");
        let wrong = format!("\u{feff}{}", SOUND.replace("low", "lwo").replace('\n', "\r\n"));
        assert!(told(&[file("a.yaml", &wrong)]).starts_with("Error a.yaml:3:18 "));
        assert!(
            render(&read(&[file("a.yaml", &wrong)]).faults, &[file("a.yaml", &wrong)])
                .contains("^^^")
        );
        for (text, says) in [
            ("", "no host is described"),
            ("# nothing\n", "no host is described"),
            ("[]", "a mapping is wanted"),
            ("hosts: {}\n", "no host is described"),
            ("hosts:\n", "`hosts` has no value"),
            ("a: b: c\n", "not YAML"),
            ("hosts: [\n", "not YAML"),
            ("hosts: \"\n", "not YAML"),
            ("\0", "YAML"),
        ] {
            let said = told(&[file("a.yaml", text)]);
            assert!(said.contains(says), "{text:?}: {said}");
        }
        assert!(told(&[]).contains("there is no policy file here"));
        let large = "#".repeat(LARGEST_FILE_BYTES + 1);
        assert!(told(&[file("a.yaml", &large)]).contains("was not read"));
        // What a broken file would have said is not held against the others.
        let said = told(&[
            file("a.yaml", "hosts: [\n"),
            file(
                "b.yaml",
                "policies:\n- {name: a, hosts: [host3], run: [{from: 0 8 * * *, for: 1h}]}\n",
            ),
        ]);
        assert_eq!(said.matches("Error").count(), 1, "{said}");
    }

    #[test]
    fn several_files_make_one_policy() {
        let hosts = r#"timezone: Asia/Tokyo
hosts:
  host1: { tier: low }
  host3: { tier: high, mac: "a8:a1:59:00:00:03" }
guests: [{ match: { tag: b } }]
"#;
        let rules = r#"timezone: UTC
guests: [{ match: { tag: a } }]
policies: [{ name: a, hosts: [host3], run: [{ from: 0 8 * * *, for: 1h }] }]
"#;
        let files = [file("b.yaml", hosts), file("a.yaml", rules)];
        assert_eq!(told(&files), "");
        let policy = read(&files).policy.unwrap();
        let tags: Vec<_> =
            policy.guest_rules().iter().map(|rule| rule.matches.tag.clone().unwrap()).collect();
        assert_eq!(tags, ["a", "b"]);
        let opens =
            policy.next_opening(&"host3".into(), "2026-11-23T12:00:00Z".parse().unwrap(), &[]);
        assert_eq!(opens.unwrap().1.opens, "2026-11-24T08:00:00Z".parse().unwrap());
    }

    #[test]
    fn hostile_files_end_soon_and_within_bounds() {
        let many = |line: &str, count: usize| line.repeat(count);
        let texts = [
            format!(
                "hosts:\n{}",
                (0..20_000).map(|n| format!("  h{n}: {{ tier: hgh }}\n")).collect::<String>()
            ),
            format!(
                "policies:\n{}",
                many(
                    "- { name: a, hosts: [x], run: [{ from: '* * * * * *', for: 1s }] }\n",
                    10_000
                )
            ),
            format!("policies:\n- name: a\n  hosts: [{}]\n", many("hostx,", 50_000)),
            format!("? {}\n: x\n", many("k", 500_000)),
            format!("hosts: {{ a: {{ mac: [{}] }} }}\n", many("z,", 90_000)),
            format!("guests:\n{}", many("- { match: { any: true } }\n", 20_000)),
        ];
        for text in texts {
            let files = [file("a.yaml", &text)];
            let reading = read(&files);
            assert!(reading.refused());
            assert!(reading.faults.len() <= MOST_TOLD, "{}", reading.faults.len());
            assert!(render(&reading.faults, &files).len() < 1 << 20);
        }
    }
    const MOST_TOLD: usize = 201;

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(200))]
        #[test]
        fn no_text_makes_it_stumble(
            cut in 0usize..1000,
            put in "[\\PC\\n\\t:{}\\[\\]*&!#\"']{0,12}",
            drop in 0usize..30,
        ) {
            let text = include_str!("../../policies/homelab.yaml");
            let mut cut = cut * text.len() / 1000;
            while !text.is_char_boundary(cut) { cut -= 1; }
            let mut rest = (cut + drop).min(text.len());
            while !text.is_char_boundary(rest) { rest -= 1; }
            let rest = rest.max(cut);
            let mutated = format!("{}{put}{}", &text[..cut], &text[rest..]);
            let files = [file("a.yaml", &mutated)];
            let reading = read(&files);
            render(&reading.faults, &files);
            for fault in &reading.faults {
                proptest::prop_assert!(mutated.get(fault.span.clone()).is_some());
            }
        }
    }
}
