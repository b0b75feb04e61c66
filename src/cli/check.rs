//! `spot check`: every fault of the policies, at once, for people, scripts and CI; with `--live`
//! also what only the cluster itself can tell.
//!
//! **Does not know:** what makes a policy right.

mod cluster;
pub mod doubts;
pub mod zones;

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;

use super::paper::{Sheet, plain};
use super::{CheckArgs, Exit, live, paper};
use crate::policy::Policy;
use crate::policy::text::{self, Fault, PolicyFile, Severity};
use crate::sources;
use cluster::Survey;

/// Where policies lie when neither the command line nor `spot.yaml` says so: a checkout of the
/// owner's repository, which is where pre-commit hooks and CI run.
const HERE: &str = "policies";

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Human,
    Json,
    /// Annotations of GitHub Actions, one a line
    Github,
}

#[derive(Serialize)]
struct Document<'a> {
    version: u32,
    files: Vec<&'a str>,
    faults: Vec<FaultShape<'a>>,
    /// Only with `--live`.
    #[serde(skip_serializing_if = "Option::is_none")]
    live: Option<&'a Survey>,
}

#[derive(Serialize)]
struct FaultShape<'a> {
    severity: &'static str,
    file: &'a str,
    line: usize,
    column: usize,
    path: &'a str,
    message: &'a str,
    help: &'a str,
}

pub async fn check(config: &Path, args: &CheckArgs) -> anyhow::Result<Exit> {
    let path = place(config, args.path.as_deref())?;
    anyhow::ensure!(path.exists(), "there is no {}", plain(&path.display().to_string()));
    let folder = sources::read_folder(&path);
    let reading = folder.read();
    let mut faults = reading.faults;
    faults.extend(zones::differences(&reading.marks, super::now()));
    let survey = match (&reading.policy, args.live) {
        (Some(policy), true) => {
            let config = live::config(config).context("--live asks the cluster of spot.yaml")?;
            let survey = cluster::ask(&config, policy).await?;
            faults.extend(survey.faults(policy, &reading.marks));
            Some(survey)
        }
        // What is not valid has nothing to compare with the cluster.
        (None, true | false) | (Some(_), false) => None,
    };
    let errors = faults.iter().filter(|fault| fault.severity == Severity::Error).count();
    match args.format {
        Format::Json => paper::json(&Document {
            version: 1,
            files: folder.files.iter().map(|file| file.name.as_str()).collect(),
            faults: faults.iter().map(shape).collect(),
            live: survey.as_ref(),
        })?,
        Format::Github => paper::raw(annotations(&faults).as_bytes())?,
        Format::Human => {
            if let Some(survey) = &survey {
                paper::raw(survey.draw(&Sheet::stdout(super::now())).as_bytes())?;
            }
            say(&path, &folder.files, &faults, errors)?;
        }
    }
    Ok(if errors == 0 { Exit::Yes } else { Exit::No })
}

/// The policy of `path`; its first error, if there is one, is the error.
pub fn valid(path: &Path) -> anyhow::Result<Policy> {
    let reading = sources::read_folder(path).read();
    let Some(policy) = reading.policy else {
        let mut errors = reading.faults.iter().filter(|fault| fault.severity == Severity::Error);
        let place = plain(&path.display().to_string());
        let Some(Fault { file, line, message, .. }) = errors.next() else {
            anyhow::bail!("the policies in {place} are not valid; see spot check {place}");
        };
        let more = match errors.count() {
            0 => String::new(),
            many => format!(" (and {many} more)"),
        };
        anyhow::bail!("{file}:{line}: {message}{more}; spot check {place} shows it in full");
    };
    Ok(policy)
}

/// Where the policies are: as named, as `spot.yaml` says, or here.
pub fn place(config: &Path, named: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(path) = named {
        return Ok(path.to_owned());
    }
    if config.exists() {
        return Ok(live::config(config)?.policies);
    }
    match Path::new(HERE).exists() {
        true => Ok(HERE.into()),
        false => anyhow::bail!(
            "which policies? There is no {} and no ./{HERE}: name a file or folder",
            config.display()
        ),
    }
}

/// The faults drawn, with their count; or one line on what was found to be right.
fn say(path: &Path, files: &[PolicyFile], faults: &[Fault], errors: usize) -> anyhow::Result<()> {
    let drawn = match paper::colourful() {
        true => text::render_coloured(faults, files),
        false => text::render(faults, files),
    };
    paper::raw(drawn.as_bytes())?;
    if errors == 0 {
        let many = match files.len() {
            1 => "1 file".to_owned(),
            many => format!("{many} files"),
        };
        paper::line(&format!("{}: {many}, valid", plain(&path.display().to_string())))?;
    }
    Ok(())
}

fn shape(fault: &Fault) -> FaultShape<'_> {
    FaultShape {
        severity: word(fault.severity),
        file: &fault.file,
        line: fault.line,
        column: fault.column,
        path: &fault.path,
        message: &fault.message,
        help: &fault.help,
    }
}

fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    }
}

/// One workflow command of GitHub Actions for each fault, which shows it beside its line.
fn annotations(faults: &[Fault]) -> String {
    // The runner takes `::` and line breaks for its own; these are its escapes.
    let data = |text: &str| text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    let property = |text: &str| data(text).replace(':', "%3A").replace(',', "%2C");
    let line = |fault: &Fault| {
        let said = match fault.help.as_str() {
            "" => fault.message.clone(),
            help => format!("{}; {help}", fault.message),
        };
        let title = if fault.path.is_empty() { "spot check" } else { &fault.path };
        format!(
            "::{} file={},line={},col={},title={}::{}\n",
            word(fault.severity),
            // What the escapes leave of a name may still draw on a terminal.
            plain(&property(&fault.file)),
            fault.line,
            fault.column,
            property(&plain(title)),
            data(&plain(&said))
        )
    };
    faults.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_annotation_stands_on_one_line_whatever_it_says() {
        let fault = Fault {
            line: 7,
            column: 13,
            path: "policies[0].name, or so".into(),
            ..Fault::of_file("a,b.yaml", "100 % wrong::\nreally", "mend it")
        };
        let warning =
            Fault { severity: Severity::Warning, ..Fault::of_file("\u{1b}[2J.yaml", "odd", "") };
        assert_eq!(
            annotations(&[fault, warning]),
            "::error file=a%2Cb.yaml,line=7,col=13,title=policies[0].name%2C or so\
             ::100 %25 wrong::\\u{a}really; mend it\n\
             ::warning file=\\u{1b}[2J.yaml,line=1,col=1,title=spot check::odd\n"
        );
    }
}
