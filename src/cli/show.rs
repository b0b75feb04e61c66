//! Status, plan and why, as a person reads them: what stands at the top is what one looks for
//! first.
//!
//! **Does not know:** where the documents come from.

use super::paper::{Ink, Sheet, plain, table};
use crate::ledger::{Parked, Wants};
use crate::status::{
    ForecastShown, GuestShown, HoldShown, HostShown, MoveShown, PlanShown, ReasonShown, Status,
    UndertakingShown, Votes, Why,
};

/// The whole cluster on one page.
pub fn status(sheet: &Sheet, status: &Status) -> String {
    let mut out = head(sheet, status);
    out.push('\n');
    out += &hosts(sheet, &status.hosts);
    out += &guests(sheet, status);
    out += &under_way(sheet, &status.undertakings);
    out += &held(sheet, &status.holds);
    out += &ahead(sheet, &status.forecasts);
    if !status.gaps.is_empty() {
        out += &heading(sheet, "NOT SEEN");
        for gap in &status.gaps {
            out += &format!("{}\n", sheet.wrapped("  ", "  ", &plain(gap)));
        }
    }
    out
}

fn head(sheet: &Sheet, status: &Status) -> String {
    let mut parts = vec![sheet.ink(Ink::Bold, status.cluster.as_deref().unwrap_or("cluster"))];
    parts.push(match status.mode.as_str() {
        "rehearse" => sheet.ink(Ink::Yellow, "rehearse (nothing automatic is done)"),
        mode => plain(mode),
    });
    parts.push(quorum(sheet, status.quorate, &status.votes));
    parts.push(match &status.policy.commit {
        Some(commit) => {
            // A commit's first characters are what people recognise it by.
            let short: String = commit.chars().take(12).collect();
            format!("policy {}", plain(&short))
        }
        None => sheet.ink(Ink::Red, "no policy"),
    });
    let mut out = sheet.wrapped("", "  ", &parts.join(" · "));
    out += &format!(
        "\n{}\n",
        sheet.ink(
            Ink::Dim,
            &format!("seen {} {}", sheet.stamp(status.at), sheet.local(status.at).strftime("%Z"))
        )
    );
    if let Some(weaker) = &status.evidence_weaker {
        let weaker = sheet.wrapped("! ", "  ", &plain(weaker));
        out += &format!("{}\n", sheet.ink(Ink::Yellow, &weaker));
    }
    if let Some(refused) = &status.policy.refused {
        let text =
            format!("a newer policy was refused, the last good one stays: {}", plain(refused));
        out += &format!("{}\n", sheet.wrapped("! ", "  ", &text));
    }
    if let Some(trouble) = &status.trouble {
        let text = format!("{}. {}", plain(&trouble.sentence), plain(&trouble.remedy));
        out += &format!("{}\n", sheet.wrapped("! ", "  ", &text));
    }
    if status.here.is_none() {
        let text = "where spot runs is not known, so nothing is powered off: set `here:`";
        out += &format!("{}\n", sheet.wrapped("! ", "  ", text));
    }
    out
}

fn quorum(sheet: &Sheet, quorate: Option<bool>, votes: &Votes) -> String {
    let word = match quorate {
        Some(true) => sheet.ink(Ink::Green, "quorate"),
        Some(false) => sheet.ink(Ink::Red, "NOT quorate"),
        None => sheet.ink(Ink::Red, "quorum not seen"),
    };
    let (Some(present), Some(expected), Some(needed)) =
        (votes.present, votes.expected, votes.needed)
    else {
        return word;
    };
    let spare = match votes.spare {
        Some(spare) if spare >= 0 => format!(", {spare} to spare"),
        Some(_) | None => String::new(),
    };
    let source = match votes.source.as_deref() {
        Some("configured") => " as configured",
        Some(_) | None => "",
    };
    format!("{word}, {present} of {expected} votes{source} ({needed} needed{spare})")
}

fn heading(sheet: &Sheet, text: &str) -> String {
    format!("\n{}\n", sheet.ink(Ink::Bold, text))
}

fn hosts(sheet: &Sheet, hosts: &[HostShown]) -> String {
    let titles = ["HOST", "TIER", "STATE", "WANTED", "SINCE", "WHY"];
    let mut rows = vec![titles.map(|title| sheet.ink(Ink::Bold, title)).to_vec()];
    for host in hosts {
        rows.push(vec![
            plain(host.name.as_str()),
            host.tier.map_or("-".into(), |tier| tier.to_string()),
            state(sheet, &host.state),
            wanted(host).into(),
            host.since.map_or("-".into(), |since| sheet.when(since)),
            why_briefly(sheet, host),
        ]);
    }
    table(sheet, &rows)
}

fn state(sheet: &Sheet, state: &str) -> String {
    let ink = match state {
        "awake" => Ink::Green,
        "resting" => Ink::Dim,
        "waking" | "leaving" => Ink::Yellow,
        _ => Ink::Red,
    };
    sheet.ink(ink, state)
}

fn wanted(host: &HostShown) -> &'static str {
    match host.desired {
        Some(Wants::Awake) => "awake",
        Some(Wants::Rest) => "rest",
        None => "-",
    }
}

/// The strongest reason, and how far a wake is.
fn why_briefly(sheet: &Sheet, host: &HostShown) -> String {
    let mut parts = Vec::new();
    if let Some(wake) = &host.wake {
        let packets =
            format!("{} volleys of packets since {}", wake.volleys, sheet.when(wake.since));
        parts.push(packets);
    }
    parts.extend(host.reasons.first().map(|one| reason(sheet, one)));
    parts.extend(host.ahead.iter().map(|ahead| sheet.localised(&plain(&ahead.sentence))));
    if host.emptying {
        parts.push("it is kept empty".into());
    }
    if host.proving {
        parts.push("it is being proven".into());
    }
    parts.join("; ")
}

fn reason(sheet: &Sheet, reason: &ReasonShown) -> String {
    let until = match (reason.until, reason.code.as_str()) {
        (Some(at), "ahead") => format!(", from {}", sheet.when(at)),
        (Some(at), _) => format!(", until {}", sheet.when(at)),
        (None, _) => String::new(),
    };
    format!("{}{until}", sheet.localised(&plain(&reason.sentence)))
}

/// Who uses each host, and whom spot put away: those it owes their owner.
fn guests(sheet: &Sheet, status: &Status) -> String {
    let mut rows = Vec::new();
    for host in &status.hosts {
        let here = status.guests.iter().filter(|guest| guest.host == host.name);
        let (away, using): (Vec<&GuestShown>, _) = here.partition(|one| one.put_away.is_some());
        let mut list: Vec<String> = using.into_iter().map(guest).collect();
        list.extend(away.into_iter().map(|one| put_away(sheet, one)));
        if !list.is_empty() {
            let name = format!("  {}", plain(host.name.as_str()));
            rows.push(vec![name, list.join(", ")]);
        }
    }
    match rows.is_empty() {
        true => String::new(),
        false => heading(sheet, "GUESTS") + &table(sheet, &rows),
    }
}

/// `201 gpu-box`, and PVE's word for it if it does not simply run.
fn guest(one: &GuestShown) -> String {
    let name = one.name.as_deref().filter(|name| !name.is_empty());
    let name = name.map_or(String::new(), |name| format!(" {}", plain(name)));
    match one.status.as_str() {
        "running" => format!("{}{name}", one.vmid),
        other => format!("{}{name} ({})", one.vmid, plain(other)),
    }
}

fn put_away(sheet: &Sheet, one: &GuestShown) -> String {
    let name = one.name.as_deref().map_or(String::new(), |name| format!(" {}", plain(name)));
    let away = one.put_away.as_ref();
    let how = away.map_or("put away", |away| match away.how {
        Parked::Hibernated => "hibernated",
        Parked::ShutDown => "shut down",
    });
    let since = away.map_or(String::new(), |away| format!(" since {}", sheet.when(away.since)));
    format!("{}{name} ({how} by spot{since})", one.vmid)
}

fn under_way(sheet: &Sheet, undertakings: &[UndertakingShown]) -> String {
    if undertakings.is_empty() {
        return String::new();
    }
    let mut rows = Vec::new();
    for one in undertakings {
        let what = match one.requests.as_slice() {
            [] => "nothing in flight".to_owned(),
            requests => {
                requests.iter().map(|request| plain(request)).collect::<Vec<_>>().join("; ")
            }
        };
        let since = sheet.when(one.since);
        rows.push(vec![format!("  {}", plain(&one.purpose)), format!("since {since}"), what]);
    }
    heading(sheet, "UNDER WAY") + &table(sheet, &rows)
}

fn held(sheet: &Sheet, holds: &[HoldShown]) -> String {
    if holds.is_empty() {
        return String::new();
    }
    heading(sheet, "HELD") + &hold_lines(sheet, holds)
}

/// Guests that will not move when it comes to that.
fn ahead(sheet: &Sheet, forecasts: &[ForecastShown]) -> String {
    if forecasts.is_empty() {
        return String::new();
    }
    let row =
        |one: &ForecastShown| vec![format!("  {}", plain(one.host.as_str())), plain(&one.sentence)];
    let rows: Vec<Vec<String>> = forecasts.iter().map(row).collect();
    heading(sheet, "WILL NOT MOVE") + &table(sheet, &rows)
}

/// One hold: what holds it, and below what would release it.
fn hold_lines(sheet: &Sheet, holds: &[HoldShown]) -> String {
    let mut out = String::new();
    for hold in holds {
        let until = hold.until.map_or(String::new(), |at| format!(" (until {})", sheet.when(at)));
        let text = format!("{}{until}", sheet.localised(&plain(&hold.sentence)));
        out += &format!("{}\n", sheet.wrapped("  ", "  ", &text));
        if !hold.remedy.is_empty() {
            out += &format!("{}\n", sheet.wrapped("    → ", "      ", &plain(&hold.remedy)));
        }
    }
    out
}

/// What the next turns would do.
pub fn plan(sheet: &Sheet, plan: &PlanShown) -> String {
    let mut out = String::new();
    if plan.mode == "rehearse" {
        let text = "rehearse: this is what would be done; nothing automatic is, until `mode: act`";
        out += &format!("{}\n\n", sheet.ink(Ink::Yellow, text));
    }
    match plan.moves.as_slice() {
        [] => out += "Nothing is to be done.\n",
        moves => {
            for one in moves {
                out += &planned(sheet, one);
            }
        }
    }
    for one in &plan.ahead {
        out += &format!("{} {}\n", one.host, sheet.localised(&plain(&one.sentence)));
    }
    out += &held(sheet, &plan.holds);
    out += &ahead(sheet, &plan.forecasts);
    if let Some(at) = plan.revisit_at {
        out += &format!(
            "\n{}\n",
            sheet.ink(Ink::Dim, &format!("looked at again {}", sheet.stamp(at)))
        );
    }
    out
}

fn planned(sheet: &Sheet, one: &MoveShown) -> String {
    let purpose = sheet.ink(Ink::Bold, &one.purpose);
    let text = format!("because {}", sheet.localised(&plain(&one.because)));
    let mut out = format!("{}\n", sheet.wrapped(&format!("{purpose}, "), "  ", &text));
    for request in &one.requests {
        out += &format!("{}\n", sheet.wrapped("    next: ", "      ", &plain(request)));
    }
    out
}

/// One host, in full.
pub fn why(sheet: &Sheet, why: &Why) -> String {
    let host = &why.host;
    let wants = match host.desired {
        Some(Wants::Awake) => "wanted awake",
        Some(Wants::Rest) => "wanted at rest",
        None => "left alone",
    };
    let since = host.since.map_or(String::new(), |at| format!(" since {}", sheet.when(at)));
    let name = sheet.ink(Ink::Bold, host.name.as_str());
    let mut out = format!("{name} is {}{since}, and {wants}.\n", state(sheet, &host.state));
    for one in &host.reasons {
        out += &format!("{}\n", sheet.wrapped("  because ", "    ", &reason(sheet, one)));
    }
    if let Some(lease) = &host.lease {
        let until = lease.until.map_or("its next window opens".into(), |at| sheet.when(at));
        let because =
            lease.because.as_deref().map_or(String::new(), |why| format!(", {}", plain(why)));
        let text =
            format!("lease: {} until {until}, by {}{because}", lease.wants, plain(&lease.by));
        out += &format!("{}\n", sheet.wrapped("  ", "    ", &text));
    }
    if !host.guests.is_empty() {
        let list: Vec<String> = host.guests.iter().map(ToString::to_string).collect();
        out += &format!("{}\n", sheet.wrapped("  guests: ", "    ", &list.join(" ")));
    }
    let proof = match host.proven {
        true => "it is proven to wake by packet",
        false => "it is not proven to wake, so it is not put to sleep by itself",
    };
    if host.tier.is_some_and(|tier| tier != crate::cluster::Tier::Low) {
        out += &format!("  {proof}\n");
    }
    out += &under_way(sheet, &why.undertakings);
    let holds: Vec<HoldShown> = host.holds.iter().chain(&why.holds).cloned().collect();
    out += &held(sheet, &holds);
    let ends = host.reasons.iter().filter_map(|one| Some((one.until?, one)));
    let changes: Vec<String> = ends
        .map(|(at, one)| {
            format!("at {} this ends: {}", sheet.when(at), sheet.localised(&plain(&one.sentence)))
        })
        .collect();
    if !changes.is_empty() {
        out += &heading(sheet, "WHAT WOULD CHANGE IT");
        for change in changes {
            out += &format!("{}\n", sheet.wrapped("  ", "    ", &change));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{GuestKind, Vmid};
    use crate::status::PutAwayShown;

    fn shown(vmid: u32, name: &str, status: &str, put_away: Option<Parked>) -> GuestShown {
        let since = "2026-11-23T17:02:00Z".parse().unwrap();
        GuestShown {
            vmid: Vmid(vmid),
            kind: GuestKind::Vm,
            name: (!name.is_empty()).then(|| name.to_owned()),
            host: "host3".into(),
            status: status.into(),
            put_away: put_away.map(|how| PutAwayShown { how, since }),
        }
    }

    #[test]
    fn a_guest_is_shown_with_its_name_and_one_that_was_put_away_with_how_and_since_when() {
        let sheet =
            Sheet::stdout("2026-11-23T18:00:00Z".parse().unwrap()).in_zone(jiff::tz::TimeZone::UTC);
        assert_eq!(guest(&shown(201, "gpu", "running", None)), "201 gpu");
        assert_eq!(guest(&shown(202, "", "paused", None)), "202 (paused)");
        for (how, said) in [
            (Parked::Hibernated, "203 desktop (hibernated by spot since 17:02)"),
            (Parked::ShutDown, "203 desktop (shut down by spot since 17:02)"),
        ] {
            assert_eq!(put_away(&sheet, &shown(203, "desktop", "stopped", Some(how))), said);
        }
        assert_eq!(guest(&shown(204, "\u{1b}[2J", "running", None)), "204 \\u{1b}[2J");
    }
}
