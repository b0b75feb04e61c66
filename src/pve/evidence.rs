//! Reads the text of `GET /nodes/{n}/report` into [`Evidence`]: votequorum's runtime state as one
//! member shows it, corosync.conf, and every guest there is.
//!
//! The report is the only answer of PVE that shows votes as counted now, and the only one that
//! tells a dead QDevice from none. It is text for people, so reading is tolerant of spacing, order
//! and further lines, and strict about meaning: what is missing, garbled or doubtful is an error
//! that names it. A figure is never guessed, for a power-off is judged by it.
//!
//! Descriptions of guests stand in the same text and may imitate a heading; so a heading counts
//! only inside its own section, and one that stands there twice makes the report unreadable.
//!
//! **Does not know:** what follows from the figures, and when they were asked for.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::quorum::{DeviceAlgorithm, DeviceConf, MemberVotes};
use crate::cluster::{CorosyncConf, Evidence, HostName, RunState, Vmid};

/// No single vote count is above this: PVE and corosync both keep votes in homelab sizes, and a
/// larger figure is more likely garbled than meant.
pub const MOST_VOTES: u32 = 255;

/// Votes of a whole cluster: 32 hosts and a QDevice of [`MOST_VOTES`] each.
const MOST_VOTES_IN_ALL: u32 = 33 * MOST_VOTES;

/// Sections of corosync.conf nest three deep (`quorum`, `device`, `net`).
const DEEPEST_SECTION: usize = 8;

/// Reads `report`, which was asked of `node`; `host` translates PVE's node names.
pub fn read(report: &str, node: &str, host: impl Fn(&str) -> HostName) -> Result<Evidence, String> {
    let cluster = section(report, "info about cluster")?;
    let conf_text = command(&cluster, "cat /etc/pve/corosync.conf")?;
    let (conf, ids) = corosync_conf(&conf_text)?;
    let status = Status::read(&command(&cluster, "pvecm status")?)?;
    status.contradiction().map_or(Ok(()), Err)?;
    status.unlike_nodes(&command(&cluster, "pvecm nodes")?)?;
    let shown = ids.get(&status.node_id).map(String::as_str);
    if shown != Some(node) {
        return Err(format!(
            "the report is {}'s, not {node}'s",
            shown.map_or_else(|| format!("node number {}", status.node_id), str::to_owned)
        ));
    }
    let mut members = BTreeMap::new();
    for row in status.members {
        let name = ids.get(&row.id).ok_or_else(|| {
            format!("member number {} is not in corosync.conf's nodelist", row.id)
        })?;
        let another = |(node, addresses): (&String, &Vec<String>)| {
            node != name && (*node == row.name || addresses.contains(&row.name))
        };
        if conf.addresses.iter().any(another) {
            return Err(format!("the membership table calls number {} {}", row.id, row.name));
        }
        if members.insert(host(name), row.votes).is_some() {
            return Err(format!("{name} stands twice in the membership table"));
        }
    }
    if !members.contains_key(&host(node)) {
        return Err(format!("{node} is not in its own membership table"));
    }
    let mut addresses = conf.addresses.get(node).cloned().unwrap_or_default();
    for address in interface_addresses(report) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Ok(Evidence {
        expected: status.expected,
        highest_expected: status.highest_expected,
        total: status.total,
        quorum: status.quorum,
        quorate: status.quorate,
        flags: status.flags,
        ring: status.ring,
        members,
        device_votes: status.device_votes,
        conf,
        guests: guests(report),
        addresses,
    })
}

/// The lines of the section `==== title ====`.
fn section<'a>(report: &'a str, title: &str) -> Result<Vec<&'a str>, String> {
    let heading = format!("==== {title} ====");
    let mut lines = report.lines().skip_while(|line| line.trim_end() != heading);
    if lines.next().is_none() {
        return Err(format!("the report has no section `{title}`"));
    }
    Ok(lines.take_while(|line| !line.starts_with("==== ")).collect())
}

/// What a command printed: from its heading `# command …` to the next heading.
///
/// corosync.conf may hold comments, which look like headings; there only a heading of PVE's next
/// commands ends it.
fn command(section: &[&str], name: &str) -> Result<String, String> {
    let is_heading = |line: &&str| {
        let rest = line.strip_prefix("# ").and_then(|line| line.strip_prefix(name));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
    };
    let mut starts = section.iter().enumerate().filter(|(_, line)| is_heading(line));
    let Some((start, _)) = starts.next() else {
        return Err(format!("the report does not show `{name}`"));
    };
    if starts.next().is_some() {
        return Err(format!("the report shows `{name}` twice"));
    }
    let body = &section[start + 1..];
    let ends = |line: &&&str| {
        if name.starts_with("cat /etc/pve/corosync.conf") {
            line.starts_with("# ha-manager ") || line.starts_with("# cat /etc/pve/")
        } else {
            line.starts_with("# ")
        }
    };
    let end = body.iter().position(|line| ends(&line)).unwrap_or(body.len());
    Ok(body[..end].join("\n"))
}

/// The figures of `pvecm status`.
struct Status {
    /// Members as counted in `Nodes`; the QDevice is none.
    nodes: u32,
    node_id: u32,
    expected: u32,
    highest_expected: u32,
    total: u32,
    quorum: u32,
    quorate: bool,
    /// `Quorum:           3 Activity blocked`.
    blocked: bool,
    flags: BTreeSet<String>,
    ring: String,
    members: Vec<Row>,
    device_votes: Option<u32>,
}

/// A line of the membership table.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    id: u32,
    votes: MemberVotes,
    /// A name, or the address on the first link.
    name: String,
    /// The host that printed the table marks its own line.
    local: bool,
}

impl Status {
    fn read(text: &str) -> Result<Status, String> {
        let value = |name: &str| -> Result<&str, String> {
            let mut found = text.lines().filter_map(|line| {
                let (key, value) = line.split_once(':')?;
                (key.trim() == name).then_some(value.trim())
            });
            let first = found.next();
            match (first, found.next()) {
                (Some(value), None) => Ok(value),
                (Some(_), Some(_)) => Err(format!("`pvecm status` shows `{name}` twice")),
                (None, _) => Err(format!("`pvecm status` does not show `{name}`{}", excuse(text))),
            }
        };
        let votes = |name: &str| -> Result<u32, String> {
            // `Quorum:           3 Activity blocked`
            let word = value(name)?.split_whitespace().next().unwrap_or("");
            count(word, MOST_VOTES_IN_ALL).ok_or_else(|| format!("`{name}` is garbled: `{word}`"))
        };
        let quorate = match value("Quorate")? {
            "Yes" => true,
            "No" => false,
            other => return Err(format!("`Quorate` is neither Yes nor No: `{other}`")),
        };
        let ring = value("Ring ID")?.to_owned();
        if ring.is_empty() {
            return Err("`Ring ID` is empty".into());
        }
        let hexadecimal = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        };
        if !ring.split_once('.').is_some_and(|(rep, seq)| hexadecimal(rep) && hexadecimal(seq)) {
            return Err(format!("`Ring ID` is garbled: `{ring}`"));
        }
        let node_id = value("Node ID")?;
        let nodes = value("Nodes")?;
        let (members, device_votes) = membership(text, "pvecm status")?;
        Ok(Status {
            nodes: number(nodes).ok_or_else(|| format!("`Nodes` is garbled: `{nodes}`"))?,
            blocked: value("Quorum")?.contains("blocked"),
            node_id: number(node_id).ok_or_else(|| format!("`Node ID` is garbled: `{node_id}`"))?,
            expected: votes("Expected votes")?,
            highest_expected: votes("Highest expected")?,
            total: votes("Total votes")?,
            quorum: votes("Quorum")?,
            quorate,
            flags: value("Flags")?.split_whitespace().map(str::to_owned).collect(),
            ring,
            members,
            device_votes,
        })
    }
}

// ---- A report against itself --------------------------------------------------------------------

impl Status {
    /// The same facts stand in a report several times over; a line that was lost or garbled on the
    /// way contradicts the others. So votes cannot grow unnoticed by one mistake.
    fn contradiction(&self) -> Option<String> {
        let votes: u32 = self.members.iter().map(|row| row.votes.votes).sum();
        let counted = votes + self.device_votes.unwrap_or(0);
        let Status { total, quorum, expected, highest_expected, .. } = *self;
        let rows = u32::try_from(self.members.len()).unwrap_or(u32::MAX);
        let two_node = self.flags.contains("2Node");
        let tie_breaker = self.flags.contains("AutoTieBreaker");
        let own: Vec<&Row> = self.members.iter().filter(|row| row.local).collect();
        let against = |what: String| Some(format!("`pvecm status` contradicts itself: {what}"));
        if self.nodes != rows {
            return against(format!("`Nodes` is {}, and {rows} are listed", self.nodes));
        }
        if !matches!(own[..], [row] if row.id == self.node_id) {
            return against(format!(
                "the membership table does not mark number {} as local",
                self.node_id
            ));
        }
        if total != counted {
            return against(format!("`Total votes` is {total}, and {counted} are listed"));
        }
        if expected > highest_expected {
            return against(format!(
                "`Expected votes` is {expected}, above `Highest expected` {highest_expected}"
            ));
        }
        // A majority of what is expected, whatever else; only two_node undercuts it.
        if quorum <= expected / 2 && !two_node || quorum == 0 {
            return against(format!("`Quorum` {quorum} is no majority of {expected}"));
        }
        if self.quorate && total < quorum && !tie_breaker {
            return against(format!("quorate with {total} votes where {quorum} are needed"));
        }
        if self.quorate == self.blocked || self.quorate != self.flags.contains("Quorate") {
            return against("`Quorate`, `Flags` and `Quorum` do not say the same".into());
        }
        if self.device_votes.is_some_and(|votes| votes > 0) && !self.flags.contains("Qdevice") {
            return against("the QDevice votes, and `Flags` does not have it".into());
        }
        let voting = |row: &&Row| row.votes.device.as_deref().is_some_and(|d| d.starts_with("A,V"));
        if self.device_votes.is_some_and(|votes| votes > 0) && !own.iter().all(voting) {
            return against("the QDevice votes, and the host's own line does not show it".into());
        }
        None
    }

    /// `pvecm nodes` stands right above and shows the same table.
    fn unlike_nodes(&self, text: &str) -> Result<(), String> {
        let (members, device_votes) = membership(text, "pvecm nodes")?;
        let of = |rows: &[Row]| -> BTreeMap<u32, (u32, bool)> {
            rows.iter().map(|row| (row.id, (row.votes.votes, row.local))).collect()
        };
        if of(&members) != of(&self.members) || device_votes != self.device_votes {
            return Err("`pvecm nodes` and `pvecm status` show different votes or members".into());
        }
        Ok(())
    }
}

/// What the tool said instead of figures (`Cannot initialize CMAP service`), for the sentence.
fn excuse(text: &str) -> String {
    match text.lines().map(str::trim).find(|line| !line.is_empty()) {
        Some(line) if line.len() <= 120 && !line.contains("nformation") => format!(" (`{line}`)"),
        Some(_) | None => String::new(),
    }
}

/// Rows, and the QDevice's votes.
type Membership = (Vec<Row>, Option<u32>);

/// The membership table that `of` prints: its rows, and the votes of the `0 N Qdevice` row.
fn membership(text: &str, of: &str) -> Result<Membership, String> {
    let mut lines = text.lines().skip_while(|line| !line.trim_start().starts_with("Nodeid"));
    let missing = || format!("`{of}` shows no membership table{}", excuse(text));
    let header = lines.next().ok_or_else(missing)?;
    let with_device = header.split_whitespace().any(|column| column == "Qdevice");
    let mut members: Vec<Row> = Vec::new();
    let mut device_votes = None;
    for line in lines.take_while(|line| !line.trim().is_empty()) {
        let line = line.trim();
        let garbled = || format!("a line of the membership table is garbled: `{line}`");
        let mut words = line.split_whitespace();
        let id = words.next().and_then(number).ok_or_else(garbled)?;
        let votes = vote_count(words.next(), line)?;
        if id == 0 {
            if words.next() != Some("Qdevice") || device_votes.replace(votes).is_some() {
                return Err(garbled());
            }
            continue;
        }
        let device = if with_device {
            let state = words.next().ok_or_else(garbled)?;
            let known = |part: &str| matches!(part, "A" | "NA" | "V" | "NV" | "MW" | "NMW" | "NR");
            if !state.split(',').all(known) {
                return Err(garbled());
            }
            Some(state.to_owned())
        } else {
            None
        };
        // A name or an address follows; without it the line was cut.
        let name = words.next().ok_or_else(garbled)?.to_owned();
        let local = match (words.next(), words.next()) {
            (None, _) => false,
            (Some("(local)"), None) => true,
            (Some(_), _) => return Err(garbled()),
        };
        if members.iter().any(|row| row.id == id) {
            return Err(format!("node number {id} stands twice in the membership table"));
        }
        members.push(Row { id, votes: MemberVotes { votes, device }, name, local });
    }
    if members.is_empty() {
        return Err("the membership table is empty".into());
    }
    Ok((members, device_votes))
}

/// The votes of one line. corosync itself counts in 32 bits and knows no such limit.
fn vote_count(word: Option<&str>, line: &str) -> Result<u32, String> {
    let word = word.filter(|word| !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit()));
    let garbled = || format!("a line of the membership table is garbled: `{line}`");
    let votes = word.ok_or_else(garbled)?;
    count(votes, MOST_VOTES).ok_or_else(|| {
        format!(
            "{votes} votes in `{line}` are more than {MOST_VOTES}, which spot takes for garbled"
        )
    })
}

/// Decimal, or hexadecimal after `0x`.
fn number(word: &str) -> Option<u32> {
    let (digits, radix) = match word.strip_prefix("0x") {
        Some(digits) => (digits, 16),
        None => (word, 10),
    };
    // `from_str_radix` would take a sign.
    digits
        .bytes()
        .all(|b| b.is_ascii_hexdigit())
        .then(|| u32::from_str_radix(digits, radix).ok())?
}

fn count(word: &str, most: u32) -> Option<u32> {
    let digits = word.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| word.parse().ok())?.filter(|votes| *votes <= most)
}

/// A section of corosync.conf: keys and nested sections, both in order and repeatable.
#[derive(Default)]
struct Nested {
    keys: Vec<(String, String)>,
    sections: Vec<(String, Nested)>,
}

impl Nested {
    fn get(&self, key: &str) -> Option<&str> {
        // corosync takes the last.
        self.keys.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Nested> + 'a {
        self.sections.iter().filter(move |(own, _)| own == name).map(|(_, section)| section)
    }
}

fn nested(text: &str) -> Result<Nested, String> {
    let mut open: Vec<(String, Nested)> = vec![(String::new(), Nested::default())];
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        let place = || format!("line {} of corosync.conf: `{line}`", index + 1);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_suffix('{') {
            if open.len() > DEEPEST_SECTION {
                return Err(format!("too many nested sections at {}", place()));
            }
            open.push((name.trim().to_owned(), Nested::default()));
        } else if line == "}" {
            let closed = open.pop().expect("the root is never closed, as checked below");
            let Some((_, parent)) = open.last_mut() else {
                return Err(format!("a closing brace too many at {}", place()));
            };
            parent.sections.push(closed);
        } else if let Some((key, value)) = line.split_once(':') {
            let (_, section) = open.last_mut().expect("the root is always open");
            section.keys.push((key.trim().to_owned(), value.trim().to_owned()));
        } else {
            return Err(format!("cannot read {}", place()));
        }
    }
    match (open.pop(), open.is_empty()) {
        (Some((_, root)), true) => Ok(root),
        (Some((name, _)), false) => Err(format!("corosync.conf ends inside `{name}`")),
        (None, _) => Err("corosync.conf is empty".into()),
    }
}

/// corosync.conf, and node names by node number.
fn corosync_conf(text: &str) -> Result<(CorosyncConf, BTreeMap<u32, String>), String> {
    let root = nested(text)?;
    let mut conf = CorosyncConf { text: text.to_owned(), ..CorosyncConf::default() };
    let mut ids = BTreeMap::new();
    for node in root.all("nodelist").flat_map(|list| list.all("node")) {
        let name = node.get("name").ok_or("a node of corosync.conf has no name")?.to_owned();
        let id = node.get("nodeid").and_then(number).filter(|id| *id > 0);
        let id = id.ok_or_else(|| format!("`nodeid` of {name} in corosync.conf is no number"))?;
        let votes = match node.get("quorum_votes") {
            None => 1,
            Some(given) => count(given, MOST_VOTES).ok_or_else(|| {
                format!(
                    "`quorum_votes` of {name} in corosync.conf is no number up to {MOST_VOTES}: `{given}`"
                )
            })?,
        };
        let ring = |(key, _): &&(String, String)| key.starts_with("ring") && key.ends_with("_addr");
        let addresses = node.keys.iter().filter(ring).map(|(_, value)| value.clone()).collect();
        if ids.insert(id, name.clone()).is_some()
            || conf.votes.insert(name.clone(), votes).is_some()
        {
            return Err(format!("corosync.conf lists {name} or its number {id} twice"));
        }
        conf.addresses.insert(name, addresses);
    }
    if ids.is_empty() {
        return Err("corosync.conf lists no nodes".into());
    }
    for totem in root.all("totem") {
        if let Some(version) = totem.get("config_version") {
            let garbled = |_| format!("`config_version` is garbled: `{version}`");
            conf.config_version = Some(version.parse().map_err(garbled)?);
        }
    }
    if conf.config_version.is_none() {
        return Err("corosync.conf has no `config_version`".into());
    }
    // Without it a QDevice would go unnoticed, and corosync would not start.
    if root.all("quorum").next().is_none() {
        return Err("corosync.conf has no `quorum` section".into());
    }
    for quorum in root.all("quorum") {
        conf.quorum.extend(quorum.keys.iter().cloned());
        for device in quorum.all("device") {
            conf.device = Some(device_conf(device)?);
        }
    }
    Ok((conf, ids))
}

fn device_conf(device: &Nested) -> Result<DeviceConf, String> {
    let votes = match device.get("votes") {
        None => None,
        Some(given) => {
            let garbled = || format!("`quorum.device.votes` is garbled: `{given}`");
            Some(count(given, MOST_VOTES).ok_or_else(garbled)?)
        }
    };
    let net = |key| device.all("net").filter_map(|net| net.get(key)).last();
    let algorithm = match net("algorithm") {
        Some("ffsplit") => DeviceAlgorithm::Ffsplit,
        Some("lms") => DeviceAlgorithm::Lms,
        Some(other) => DeviceAlgorithm::Other(other.to_owned()),
        None => DeviceAlgorithm::Other(String::new()),
    };
    Ok(DeviceConf { algorithm, votes, server: net("host").map(str::to_owned) })
}

/// `qm list` and `pct list`: everything there is on that host, whatever our token may see.
fn guests(report: &str) -> Result<BTreeMap<Vmid, RunState>, String> {
    let section = section(report, "info about virtual guests")?;
    let mut guests = BTreeMap::new();
    for (name, status_of) in
        [("qm list", vm_status as fn(&[&str]) -> Option<usize>), ("pct list", ct_status)]
    {
        let text = command(&section, name)?;
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        // Both print nothing at all when there is no guest.
        let Some(header) = lines.next() else {
            continue;
        };
        let mut columns = header.split_whitespace();
        if columns.next() != Some("VMID")
            || !columns.any(|column| column == "Status" || column == "STATUS")
        {
            return Err(format!("`{name}` of the report cannot be read: `{}`", shortened(header)));
        }
        for line in lines {
            let garbled = || format!("a line of `{name}` cannot be read: `{}`", shortened(line));
            let words: Vec<&str> = line.split_whitespace().collect();
            let vmid = words.first().and_then(|w| count(w, u32::MAX)).ok_or_else(garbled)?;
            let status = status_of(&words).and_then(|at| words.get(at)).ok_or_else(garbled)?;
            if !status.bytes().all(|b| b.is_ascii_lowercase() || b == b'-') {
                return Err(garbled());
            }
            if guests.insert(Vmid(vmid), RunState::parse(status)).is_some() {
                return Err(format!("guest {vmid} is listed twice"));
            }
        }
    }
    Ok(guests)
}

/// `VMID NAME STATUS MEM(MB) BOOTDISK(GB) PID`: from the right, for a nameless VM is called `VM
/// 100`.
fn vm_status(words: &[&str]) -> Option<usize> {
    let at = words.len().checked_sub(4)?;
    let figures = words[at + 1..].iter().all(|word| word.parse::<f64>().is_ok());
    (at >= 1 && figures).then_some(at)
}

/// `VMID Status Lock Name`.
fn ct_status(words: &[&str]) -> Option<usize> {
    (words.len() >= 2).then_some(1)
}

fn shortened(line: &str) -> String {
    line.chars().take(80).collect()
}

/// Addresses from `ip -details -statistics address`, without loopback and link-local ones; none
/// where the report does not show them.
fn interface_addresses(report: &str) -> Vec<String> {
    let Ok(network) = section(report, "info about network") else {
        return Vec::new();
    };
    let Ok(text) = command(&network, "ip -details -statistics address") else {
        return Vec::new();
    };
    let address = |line: &str| {
        let mut words = line.split_whitespace();
        let family = words.next()?;
        let word = words.next().filter(|_| family == "inet" || family == "inet6")?;
        let address: std::net::IpAddr = word.split('/').next()?.parse().ok()?;
        let local = address.is_loopback() || line.contains("scope link");
        (!local).then(|| address.to_string())
    };
    text.lines().filter_map(address).collect()
}

#[cfg(test)]
mod tests;
