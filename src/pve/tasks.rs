//! PVE's tasks: what a UPID says of itself, and tasks as judgement sees them.
//!
//! A UPID names the node that runs the task, when it began and what it is, so that a task can be
//! asked for at the right host and dated without asking anybody.
//!
//! **Does not know:** why a task was started, or what follows from its end.

use jiff::Timestamp;

use super::wire::TaskEntry;
use crate::cluster::{HostName, TaskSeen};

/// The parts of `UPID:node:pid:pstart:starttime:type:id:user:` that matter here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upid {
    pub node: String,
    pub started: Timestamp,
    pub kind: String,
    pub id: String,
    pub user: String,
}

impl Upid {
    pub fn parse(text: &str) -> Result<Upid, String> {
        let garbled = || format!("`{text}` is not a task's UPID");
        let parts: Vec<&str> = text.split(':').collect();
        let ["UPID", node, _pid, _pstart, started, kind, id, user, ""] = parts.as_slice() else {
            return Err(garbled());
        };
        let seconds = i64::from_str_radix(started, 16).map_err(|_| garbled())?;
        let started = Timestamp::from_second(seconds).map_err(|_| garbled())?;
        // The node ends up in a path: nothing but PVE's own characters may stand there.
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        if node.is_empty() || !node.bytes().all(plain) || text.contains(['/', ' ', '?', '#', '%']) {
            return Err(garbled());
        }
        let own = str::to_owned;
        Ok(Upid { node: own(node), started, kind: own(kind), id: own(id), user: own(user) })
    }
}

/// A task as judgement sees it; `host` translates PVE's node name.
pub fn seen(entry: TaskEntry, host: impl Fn(&str) -> HostName) -> Result<TaskSeen, String> {
    let upid = Upid::parse(&entry.upid)?;
    let user = if entry.user.is_empty() { upid.user } else { entry.user };
    Ok(TaskSeen {
        host: host(&upid.node),
        upid: entry.upid,
        kind: upid.kind,
        id: if entry.id.is_empty() { upid.id } else { entry.id },
        user,
        started: upid.started,
        ended: entry.ended,
        ended_at: entry.ended_at.and_then(instant),
    })
}

fn instant(seconds: u64) -> Option<Timestamp> {
    Timestamp::from_second(i64::try_from(seconds).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_upid_tells_its_node_its_start_and_its_guest() {
        let upid = Upid::parse("UPID:pve1:00000600:0008360B:6B03C034:qmigrate:100:root@pam!full:")
            .unwrap();
        assert_eq!(
            (upid.node.as_str(), upid.kind.as_str(), upid.id.as_str()),
            ("pve1", "qmigrate", "100")
        );
        assert_eq!(upid.started.as_second(), 0x6B03_C034);
        assert_eq!(upid.user, "root@pam!full");
    }

    #[test]
    fn what_is_no_upid_is_refused() {
        for text in [
            "",
            "UPID:pve1",
            "UPID:../x:0:0:0:a::u:",
            "UPID:pve1:0:0:zz:a::u:",
            "UPID:pve1:0:0:6B03C034:a:1/2:u:",
            "UPID:pve1:0:0:FFFFFFFFFFFFFFFFFF:a::u:",
        ] {
            assert!(Upid::parse(text).is_err(), "{text}");
        }
    }
}
