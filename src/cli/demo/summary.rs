//! What the world itself counted: the end of every demo.
//!
//! **Does not know:** what the service says of itself, but for its refusals, which nobody else
//! sees.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::cli::paper::{self, Ink, Sheet, plain};
use crate::cluster::HostName;
use crate::pretend::Tally;

#[derive(Debug, Serialize)]
pub struct Summary {
    wakes: u32,
    power_offs: u32,
    migrations: u32,
    restarts: u32,
    refusals: u32,
    awake_hours: BTreeMap<HostName, f64>,
    seconds_without_quorum: u64,
    guests_lost: u32,
    bad_luck: u32,
    promises_broken: Vec<String>,
}

#[derive(Serialize)]
struct Last<'a> {
    summary: &'a Summary,
}

impl Summary {
    pub fn of(tally: &Tally, refusals: u32) -> Summary {
        let hours = |length: &std::time::Duration| (length.as_secs_f64() / 36.0).round() / 100.0;
        Summary {
            wakes: tally.wakes,
            power_offs: tally.power_offs,
            migrations: tally.migrations,
            restarts: tally.restarts,
            refusals,
            awake_hours: tally
                .awake
                .iter()
                .map(|(host, length)| (host.clone(), hours(length)))
                .collect(),
            seconds_without_quorum: tally.seconds_without_quorum(),
            guests_lost: tally.guests_lost,
            bad_luck: tally.bad_luck,
            promises_broken: tally.promises_broken.clone(),
        }
    }

    /// Whether every promise was kept.
    pub fn kept(&self) -> bool {
        self.promises_broken.is_empty()
    }

    pub fn print(&self, sheet: &Sheet, json: bool, days: u16) -> anyhow::Result<()> {
        if json {
            return paper::json_line(&Last { summary: self });
        }
        let awake = |(host, hours): (&HostName, &f64)| format!("{host} {hours:.1} h");
        let awake: Vec<String> = self.awake_hours.iter().map(awake).collect();
        let rows = [
            ("wakes", self.wakes.to_string()),
            ("power-offs", self.power_offs.to_string()),
            ("migrations", format!("{} live, {} by a restart", self.migrations, self.restarts)),
            ("refused by the gate", self.refusals.to_string()),
            ("awake", format!("{}, of {} h", plain(&awake.join(", ")), u32::from(days) * 24)),
            ("without quorum", format!("{} s", self.seconds_without_quorum)),
            ("guests lost", self.guests_lost.to_string()),
            ("bad luck", self.bad_luck.to_string()),
        ];
        let rows: Vec<Vec<String>> =
            rows.into_iter().map(|(name, value)| vec![format!("  {name}"), value]).collect();
        let mut out = format!("\n{}\n", sheet.ink(Ink::Bold, "What the world counted"));
        out += &paper::table(sheet, &rows);
        match self.promises_broken.as_slice() {
            [] => out += &format!("  {}\n", sheet.ink(Ink::Green, "every promise was kept")),
            broken => {
                for one in broken {
                    out += &format!("  {}\n", sheet.ink(Ink::Red, &format!("broken: {one}")));
                }
            }
        }
        Ok(paper::raw(out.as_bytes())?)
    }
}
