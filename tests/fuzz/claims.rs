//! What must hold for any text an owner, or an accident, may write: claimed once, for the fuzzer and
//! for the drawn inputs of every test run.
//!
//! **Does not know:** where the texts come from.

use jiff::Timestamp;
use spot::policy::calendar::Window;
use spot::policy::crontab::Crontab;
use spot::policy::scalars;
use spot::policy::text::{PolicyFile, read, render};

/// Any policy text is read to its end; every fault points into it, says something, and can be drawn.
pub fn policy(text: &str) {
    let files = [PolicyFile { name: "a.yaml".into(), text: text.into() }];
    let reading = read(&files);
    let errors = reading.faults.iter().filter(|fault| {
        assert!(text.get(fault.span.clone()).is_some(), "a fault points beside the text");
        assert!(fault.line >= 1 && fault.column >= 1 && !fault.message.is_empty());
        fault.severity == spot::policy::text::Severity::Error
    });
    assert_eq!(errors.count() > 0, reading.policy.is_none(), "errors and nothing else refuse");
    let drawn = render(&reading.faults, &files);
    assert!(drawn.is_empty() == reading.faults.is_empty());
    if let Some(policy) = reading.policy {
        for host in policy.hosts().keys() {
            let now = instant();
            let open = policy.opening(host, now, &[]).map(|(_, opening)| opening);
            assert!(
                open.is_none_or(|one| one.opens <= now && one.closes.is_none_or(|at| at > now))
            );
            let next = policy.next_opening(host, now, &[]).map(|(_, opening)| opening);
            assert!(next.is_none_or(|one| one.opens > now));
        }
    }
}

/// A cron expression is refused in words, or makes a window whose answers fit together.
pub fn cron(text: &str) {
    match text.parse::<Crontab>() {
        Err(fault) => assert!(!fault.message.is_empty() && !fault.help.is_empty()),
        Ok(crontab) => {
            assert!(crontab.times_in_day() >= 1);
            assert!(crontab.first_in_day() <= crontab.last_in_day());
            let Ok(window) = Window::parse(text, "1h", "America/Santiago") else { return };
            let now = instant();
            if let Some(open) = window.open_at(now) {
                assert!(open.opens <= now && open.closes.is_none_or(|at| at > now));
            }
            if let Some(next) = window.next_after(now) {
                assert!(next.opens > now && next.closes.is_none_or(|at| at > next.opens));
                assert_eq!(window.open_at(next.opens).map(|open| open.opens), Some(next.opens));
            }
        }
    }
}

/// Single values are read or refused in words.
pub fn scalars(text: &str) {
    let said = |fault: scalars::ValueFault| {
        assert!(!fault.message.is_empty() && !fault.help.is_empty());
    };
    if let Err(fault) = scalars::duration(text) {
        said(fault);
    }
    if let Err(fault) = scalars::size(text) {
        said(fault);
    }
    if let Err(fault) = scalars::bandwidth(text) {
        said(fault);
    }
    if let Err(fault) = scalars::except(text) {
        said(fault);
    }
    if let Err(fault) = scalars::watts(text) {
        said(fault);
    }
    if let Err(fault) = scalars::whole(text, 0, u32::MAX) {
        said(fault);
    }
}

/// A host's report is refused in words, or shows votes that fit together.
pub fn report(text: &str) {
    match spot::pve::evidence::read(text, "pve1", |node| node.into()) {
        Err(why) => assert!(!why.is_empty()),
        Ok(read) => {
            let counted: u32 = read.members.values().map(|member| member.votes).sum();
            assert_eq!(read.total, counted + read.device_votes.unwrap_or(0));
            assert!(read.members.contains_key(&"pve1".into()));
            assert!(read.quorum > read.expected / 2 || read.flags.contains("2Node"));
        }
    }
}

/// An evening before clocks change in Europe and South America is as good as any.
fn instant() -> Timestamp {
    Timestamp::from_second(1_835_000_000).expect("an instant of 2028")
}
