//! The `guests` of a policy file: where guests of one kind belong.
//!
//! **Does not know:** which guests there are, nor which hosts.

use std::collections::BTreeSet;

use super::reader::{At, Place, Reader};
use super::rules::host_names;
use super::scalars;
use super::yaml::{Value, brief};
use super::{GuestRule, LocalDisks, Match, OrElse, Otherwise};
use crate::cluster::{GuestKind, HostName, Vmid};

const KEYS: &[&str] =
    &["match", "prefer", "otherwise", "restart", "pinned", "local_disks", "apart"];
const MATCH_HELP: &str =
    "write one or more of `vmid`, `name`, `tag`, `pool`, `type`, or `any: true`";
const OTHERWISE_HELP: &str =
    "write `migrate`, `shutdown`, `keep-awake` or `{ hibernate: { else: keep-awake } }`";

/// A guest rule as one file describes it, with the places that later checks point at.
#[derive(Debug)]
pub(crate) struct GuestDraft {
    pub rule: GuestRule,
    pub place: Place,
    pub prefer: Vec<(HostName, Place)>,
}

pub(crate) fn read(reader: &mut Reader<'_>, at: &At<'_>) -> Vec<GuestDraft> {
    let help = "write a list: each rule begins with `- match: …`";
    let items = reader.list(at, help).unwrap_or_default();
    items.iter().filter_map(|item| rule(reader, item)).collect()
}

fn rule(reader: &mut Reader<'_>, at: &At<'_>) -> Option<GuestDraft> {
    let fields = reader.fields(at, KEYS)?;
    let match_at = fields.need(reader, "match", MATCH_HELP);
    let matches = match_at.as_ref().and_then(|at| matched(reader, at)).unwrap_or_default();
    let prefer_at = fields.get(reader, "prefer");
    let prefer = prefer_at.as_ref().map(|at| host_names(reader, at)).unwrap_or_default();
    let flag = |reader: &mut Reader<'_>, key| {
        let at = fields.get(reader, key)?;
        reader.yes_or_no(&at)
    };
    let pinned = flag(reader, "pinned").unwrap_or(false);
    let restart = flag(reader, "restart").unwrap_or(false);
    let otherwise_at = fields.get(reader, "otherwise");
    let otherwise = otherwise_at.as_ref().and_then(|at| otherwise(reader, at));
    let local_disks = fields.get(reader, "local_disks").and_then(|at| {
        let words = [
            ("replicated", LocalDisks::Replicated),
            ("move", LocalDisks::Move),
            ("stay", LocalDisks::Stay),
        ];
        reader.one_of(&at, &words)
    });
    let apart = fields.get(reader, "apart").and_then(|at| {
        reader
            .word(&at, "write a name; guests of one name stay on different hosts")
            .map(str::to_owned)
    });
    if pinned && let Some(at) = &prefer_at {
        let message = "a pinned guest is never moved, so `prefer` has no effect";
        reader.warning(&at.key_place(), message, "remove `prefer`, or `pinned`");
    }
    if let Some(at) = &otherwise_at {
        contradictions(reader, at, pinned, otherwise, matches.kind);
    }
    if restart && matches.kind == Some(GuestKind::Vm) {
        let message = "VMs move without a restart, so `restart` has no effect";
        reader.warning(&fields.place(), message, "remove `restart`, or write `type: ct`");
    }
    let otherwise =
        otherwise.unwrap_or(if pinned { Otherwise::KeepAwake } else { Otherwise::Migrate });
    let place = match_at.map_or_else(|| fields.place(), |at| at.key_place());
    let rule = GuestRule {
        matches,
        prefer: prefer.iter().map(|(host, _)| host.clone()).collect(),
        otherwise,
        restart,
        pinned,
        local_disks: local_disks.unwrap_or(LocalDisks::Replicated),
        apart,
    };
    Some(GuestDraft { rule, place, prefer })
}

/// What `otherwise` cannot mean for such a guest.
fn contradictions(
    reader: &mut Reader<'_>,
    at: &At<'_>,
    pinned: bool,
    otherwise: Option<Otherwise>,
    kind: Option<GuestKind>,
) {
    match otherwise {
        Some(Otherwise::Migrate | Otherwise::Hibernate { or: OrElse::Migrate }) if pinned => {
            reader.error(
                &at.place(),
                "a pinned guest is never moved",
                "write `keep-awake`, `shutdown`, or `{ hibernate: { else: keep-awake } }`",
            );
        }
        Some(Otherwise::Hibernate { .. }) if kind == Some(GuestKind::Ct) => {
            reader.error(
                &at.place(),
                "PVE cannot hibernate containers, so what stands under `else` would always happen",
                "write that alone",
            );
        }
        Some(
            Otherwise::Migrate
            | Otherwise::Hibernate { .. }
            | Otherwise::ShutDown
            | Otherwise::KeepAwake,
        )
        | None => {}
    }
}

fn matched(reader: &mut Reader<'_>, at: &At<'_>) -> Option<Match> {
    let fields = reader.fields(at, &["vmid", "name", "tag", "pool", "type", "any"])?;
    if fields.is_empty() {
        reader.error(&at.place(), "this matches nothing in particular", MATCH_HELP);
        return None;
    }
    let text = |reader: &mut Reader<'_>, key: &str| {
        let at = fields.get(reader, key)?;
        reader.word(&at, MATCH_HELP).map(str::to_owned)
    };
    let kinds = [("vm", GuestKind::Vm), ("ct", GuestKind::Ct)];
    let any = fields.get(reader, "any").and_then(|at| match reader.yes_or_no(&at)? {
        true => Some(true),
        false => {
            reader.error(&at.place(), "`any: false` would match nothing", MATCH_HELP);
            None
        }
    });
    Some(Match {
        any: any.unwrap_or(false),
        vmids: fields.get(reader, "vmid").map(|at| vmids(reader, &at)),
        tag: text(reader, "tag"),
        name: text(reader, "name"),
        pool: text(reader, "pool"),
        kind: fields.get(reader, "type").and_then(|at| reader.one_of(&at, &kinds)),
    })
}

fn vmids(reader: &mut Reader<'_>, at: &At<'_>) -> BTreeSet<Vmid> {
    const HELP: &str = "write one or more numbers such as `[100, 101]`";
    let items = reader.list_or_one(at, HELP).unwrap_or_default();
    if items.is_empty() && matches!(at.node.value, Value::List(_)) {
        reader.error(&at.place(), "no VMID is named", HELP);
    }
    // PVE's own bounds.
    let vmid = |text: &str| scalars::whole(text, 100, 999_999_999).map(Vmid);
    items.iter().filter_map(|item| reader.value(item, HELP, vmid)).collect()
}

fn otherwise(reader: &mut Reader<'_>, at: &At<'_>) -> Option<Otherwise> {
    const WITH_ELSE: &str =
        "write `{ hibernate: { else: keep-awake } }`: what happens where PVE refuses to hibernate";
    match &at.node.value {
        Value::Scalar { text, .. } if text == "hibernate" => {
            reader.error(&at.place(), "`hibernate` needs an `else`", WITH_ELSE);
            None
        }
        Value::Scalar { .. } => reader.one_of(
            at,
            &[
                ("migrate", Otherwise::Migrate),
                ("shutdown", Otherwise::ShutDown),
                ("keep-awake", Otherwise::KeepAwake),
            ],
        ),
        Value::Map(_) => {
            let fields = reader.fields(at, &["hibernate"])?;
            let hibernate = fields.need(reader, "hibernate", OTHERWISE_HELP)?;
            let fields = reader.fields(&hibernate, &["else"])?;
            let or = fields.need(reader, "else", WITH_ELSE)?;
            let words = [
                ("migrate", OrElse::Migrate),
                ("shutdown", OrElse::ShutDown),
                ("keep-awake", OrElse::KeepAwake),
            ];
            Some(Otherwise::Hibernate { or: reader.one_of(&or, &words)? })
        }
        Value::List(_) => {
            let message = format!("one answer is wanted here, not {}", at.node.kind());
            reader.error(&at.place(), brief(&message), OTHERWISE_HELP);
            None
        }
        Value::Refused => None,
    }
}
