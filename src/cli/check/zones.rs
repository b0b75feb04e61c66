//! Whether this machine knows the time zones of the policies by the same rules as `spot`.
//!
//! `spot` goes by the rules bundled with it (see `policy::calendar`), so that a policy means the
//! same on every machine. Where the system's own rules say otherwise, an owner who looks at the
//! wall clock sees a window open at the wrong time, and is told so before.
//!
//! **Does not know:** which of the two is right.

use jiff::Timestamp;
use jiff::tz::TimeZoneDatabase;

use crate::policy::calendar::first_difference;
use crate::policy::text::{Fault, Marks};

/// As far ahead as windows are looked for.
const AHEAD_HOURS: i64 = 400 * 24;

/// A warning for each zone in use that the system's database reads otherwise.
pub fn differences(marks: &Marks, now: Timestamp) -> Vec<Fault> {
    differ(marks, now, &TimeZoneDatabase::from_env())
}

fn differ(marks: &Marks, now: Timestamp, system: &TimeZoneDatabase) -> Vec<Fault> {
    let mut told: Vec<&str> = Vec::new();
    let mut faults = Vec::new();
    let until = now + jiff::SignedDuration::from_hours(AHEAD_HOURS);
    for (zone, mark) in &marks.zones {
        let Some(name) = zone.iana_name().filter(|name| !told.contains(name)) else { continue };
        // A machine without such a database cannot mislead anybody.
        let Ok(other) = system.get(name) else { continue };
        if let Some(at) = first_difference(zone, &other, now, until) {
            told.push(name);
            let shown = |zone: &jiff::tz::TimeZone| {
                at.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M").to_string()
            };
            faults.push(mark.warning(
                format!("this machine reads {name} by other rules than spot"),
                format!(
                    "from {at} on spot reads {} and this machine {}; update the system's tzdata, or spot",
                    shown(zone),
                    shown(&other)
                ),
            ));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::text::{PolicyFile, read};

    const POLICY: &str = r#"timezone: Europe/Berlin
hosts: { host1: { tier: low }, host3: { tier: high, mac: "a8:a1:59:00:00:03" } }
policies: [{ name: a, hosts: [host3], run: [{ from: 0 8 * * *, for: 1h }] }]
"#;

    #[test]
    fn a_zone_that_the_system_reads_otherwise_is_told_at_its_place() {
        let marks = read(&[PolicyFile { name: "a.yaml".into(), text: POLICY.into() }]).marks;
        let now = "2026-11-23T12:00:00Z".parse().unwrap();
        // A system whose file for Berlin holds the rules of a zone without summer time.
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("Europe")).unwrap();
        // A version 2 file of one type, an hour east, and no change ever.
        let block: Vec<u8> = [&b"TZif2"[..], &[0; 15], &[0, 0, 0, 0].repeat(4), &[0, 0, 0, 1]]
            .concat()
            .into_iter()
            .chain([0, 0, 0, 4, 0, 0, 0x0e, 0x10, 0, 0])
            .chain(*b"CET\0")
            .collect();
        let file = [&block[..], &block[..], b"\nCET-1\n"].concat();
        std::fs::write(folder.path().join("Europe/Berlin"), file).unwrap();
        let odd = TimeZoneDatabase::from_dir(folder.path()).unwrap();
        let faults = differ(&marks, now, &odd);
        let [fault] = &faults[..] else { panic!("{faults:?}") };
        assert_eq!((fault.line, fault.path.as_str()), (1, "timezone"));
        assert!(fault.help.contains("2027-03-28T01:00:00Z"), "{}", fault.help);
        assert_eq!(differ(&marks, now, &TimeZoneDatabase::bundled()), []);
        assert_eq!(differ(&marks, now, &TimeZoneDatabase::none()), []);
    }
}
