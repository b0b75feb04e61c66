//! From YAML text to a [`Policy`], or to every fault at once.
//!
//! **Does not know:** where the text came from beyond its file name.

use super::Policy;

/// One file's text, as a source hands it over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyFile {
    /// As shown in faults: `policies/homelab.yaml`.
    pub name: String,
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Error,
    Warning,
}

/// One thing wrong in a policy file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub severity: Severity,
    pub file: String,
    /// Counted from 1, in characters.
    pub line: usize,
    pub column: usize,
    /// `policies[0].run[0].from`
    pub path: String,
    pub message: String,
    pub help: String,
    /// Byte range of the offending text in its file, for the carets.
    pub span: std::ops::Range<usize>,
}

/// What reading gave: a policy if nothing was an error, and every fault either way.
pub struct Reading {
    pub policy: Option<Policy>,
    pub faults: Vec<Fault>,
}

/// Reads all files of a policy folder together.
pub fn read(files: &[PolicyFile]) -> Reading {
    let _ = files;
    Reading { policy: None, faults: Vec::new() }
}
