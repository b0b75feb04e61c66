//! `spot quorum --what-if FILE`: what every member would show, step by step, in a cluster that need
//! not exist. It needs no configuration, no service and no cluster.
//!
//! **Does not know:** how votes are counted.

use std::io::Read;
use std::path::Path;

use anyhow::Context;

use super::super::paper::{Ink, Sheet, plain, table};
use super::super::{Exit, paper};
use crate::cluster::HostName;
use crate::cluster::quorum::whatif::{StepAnswer, View, WhatIf, answer};

/// Larger files are cut off here, and then refused by the reader.
const MOST_BYTES: u64 = (1 << 20) + 1;

pub(super) fn read(file: &Path) -> anyhow::Result<WhatIf> {
    let mut bytes = Vec::new();
    let name = file.display();
    match file.as_os_str().to_str() {
        Some("-") => std::io::stdin().lock().take(MOST_BYTES).read_to_end(&mut bytes),
        Some(_) | None => {
            std::fs::File::open(file).and_then(|one| one.take(MOST_BYTES).read_to_end(&mut bytes))
        }
    }
    .with_context(|| format!("{name} cannot be read"))?;
    let text = String::from_utf8(bytes)
        .map_err(|_| anyhow::anyhow!("{name} is not UTF-8 text; save it as UTF-8"))?;
    WhatIf::read(text.trim_start_matches('\u{feff}'))
        .map_err(|fault| anyhow::anyhow!("{name}: {fault}"))
}

pub(super) fn what_if(file: &Path, json: bool) -> anyhow::Result<Exit> {
    let what_if = read(file)?;
    let answers = answer(&what_if);
    match json {
        true => paper::json(&answers)?,
        false => {
            paper::raw(draw(&Sheet::stdout(super::super::now()), &what_if, &answers).as_bytes())?;
        }
    }
    Ok(Exit::Yes)
}

fn draw(sheet: &Sheet, what_if: &WhatIf, answers: &[StepAnswer]) -> String {
    let mut out = String::new();
    if answers.is_empty() {
        out += "The history has no steps, so nothing runs.\n";
    }
    for (step, answer) in what_if.history.iter().zip(answers) {
        let title = format!("{}. {}", answer.step, step.sentence());
        out += &format!("{}\n", sheet.ink(Ink::Bold, &plain(&title)));
        if answer.views.is_empty() {
            out += "nothing runs\n";
        } else {
            out += &table(sheet, &rows(sheet, answer));
        }
        for (host, why) in &answer.refused {
            let said = format!("{host} would not start corosync: {why}");
            out += &format!("{}\n", sheet.wrapped("!    ", "     ", &plain(&said)));
        }
        out.push('\n');
    }
    out
}

fn rows(sheet: &Sheet, answer: &StepAnswer) -> Vec<Vec<String>> {
    let titles = ["HOST", "VOTES", "EXPECTED", "QUORUM", "QUORATE"];
    let mut rows = vec![titles.map(|title| sheet.ink(Ink::Bold, title)).to_vec()];
    let row = |(host, view): (&HostName, &View)| {
        let quorate = match view.quorate {
            true => sheet.ink(Ink::Green, "yes"),
            false => sheet.ink(Ink::Red, "no"),
        };
        let figures = [view.total, view.expected, view.quorum].map(|figure| figure.to_string());
        [vec![plain(host.as_str())], figures.to_vec(), vec![quorate]].concat()
    };
    rows.extend(answer.views.iter().map(row));
    rows
}
