//! `spot check`: every fault of the policies, at once, for people, scripts and CI.
//!
//! **Does not know:** what makes a policy right.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{CheckArgs, Exit, paper};
use crate::policy::Policy;
use crate::policy::text::{self, Fault, PolicyFile, Severity};
use crate::sources;

/// Where policies lie when neither the command line nor `spot.yaml` says so: a checkout of the
/// owner's repository, which is where pre-commit hooks and CI run.
const HERE: &str = "policies";

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Human,
    Json,
}

#[derive(Serialize)]
struct Document<'a> {
    version: u32,
    files: Vec<&'a str>,
    faults: Vec<FaultShape<'a>>,
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

pub fn check(config: &Path, args: &CheckArgs) -> anyhow::Result<Exit> {
    let path = place(config, args.path.as_deref())?;
    let folder = sources::read_folder(&path);
    let faults = folder.read().faults;
    let errors = faults.iter().filter(|fault| fault.severity == Severity::Error).count();
    match args.format {
        Format::Json => paper::json(&Document {
            version: 1,
            files: folder.files.iter().map(|file| file.name.as_str()).collect(),
            faults: faults.iter().map(shape).collect(),
        })?,
        Format::Human => say(&path, &folder.files, &faults, errors)?,
    }
    Ok(if errors == 0 { Exit::Yes } else { Exit::No })
}

/// The policy of `path`; its first error, if there is one, is the error.
pub fn valid(path: &Path) -> anyhow::Result<Policy> {
    let reading = sources::read_folder(path).read();
    let Some(policy) = reading.policy else {
        let mut errors = reading.faults.iter().filter(|fault| fault.severity == Severity::Error);
        let place = paper::plain(&path.display().to_string());
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
        return Ok(super::live::config(config)?.policies);
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
        paper::line(&format!("{}: {many}, valid", paper::plain(&path.display().to_string())))?;
    }
    Ok(())
}

fn shape(fault: &Fault) -> FaultShape<'_> {
    FaultShape {
        severity: match fault.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        },
        file: &fault.file,
        line: fault.line,
        column: fault.column,
        path: &fault.path,
        message: &fault.message,
        help: &fault.help,
    }
}
