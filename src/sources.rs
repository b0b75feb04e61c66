//! Where policies come from: a folder of YAML files, watched by its contents.
//!
//! A [`Source`] is polled, and not told by the kernel, because editors and deployment tools replace
//! files, folders and links in more ways than there are events for; a print of what is there cannot
//! miss one. A change is taken up only when it was seen alike twice in a row, for the first half of
//! a file being written may well be a valid policy. What is not valid is told once and replaces
//! nothing: the last good policy stays in force with whoever holds it.
//!
//! **Does not know:** what a policy says, who goes by it, how often it is polled.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use ring::digest::{Context, SHA256};

use crate::policy::Policy;
use crate::policy::text::{self, Fault, LARGEST_FILE_BYTES, PolicyFile, Reading, Severity};

/// More files than anybody splits a policy into.
const MOST_FILES: usize = 100;
/// Hexadecimal digits that name a state of the folder, as git shortens its own.
const COMMIT_DIGITS: usize = 12;

/// What lies in a folder of policies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    /// By name.
    pub files: Vec<PolicyFile>,
    /// What could not be read, and why.
    pub faults: Vec<Fault>,
    /// The print of names and contents, in hexadecimal.
    pub digest: String,
}

impl Folder {
    /// The policy that its files make together, or every fault.
    pub fn read(&self) -> Reading {
        text::read_despite(&self.files, &self.faults)
    }

    /// What a state of the folder is called where a git commit would be named.
    pub fn commit(&self) -> &str {
        &self.digest[..COMMIT_DIGITS]
    }
}

/// Reads every `*.yaml` and `*.yml` of a folder (hidden files and deeper folders are left out), or
/// one file if `path` is one.
pub fn read_folder(path: &Path) -> Folder {
    let mut shelf = Shelf::default();
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => shelf.take_all(path),
        Ok(_) => shelf.take(path),
        Err(error) => shelf.fault(path, &error.to_string()),
    }
    let digest = shelf.print.finish();
    let hex = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    Folder { files: shelf.files, faults: shelf.faults, digest: hex }
}

/// A folder being read.
struct Shelf {
    files: Vec<PolicyFile>,
    faults: Vec<Fault>,
    print: Context,
}

impl Default for Shelf {
    fn default() -> Shelf {
        Shelf { files: Vec::new(), faults: Vec::new(), print: Context::new(&SHA256) }
    }
}

impl Shelf {
    fn take_all(&mut self, folder: &Path) {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) => return self.fault(folder, &error.to_string()),
        };
        let mut paths: Vec<PathBuf> = Vec::new();
        for entry in entries {
            match entry {
                Ok(entry) if is_policy(&entry.path()) => paths.push(entry.path()),
                Ok(_) => {}
                Err(error) => return self.fault(folder, &error.to_string()),
            }
        }
        paths.sort();
        if paths.len() > MOST_FILES {
            let help = "keep the policies in a folder of their own";
            let message = format!("more than {MOST_FILES} policy files in one folder");
            self.note(folder, &message);
            return self.faults.push(Fault::of_file(&shown(folder), message, help));
        }
        for path in &paths {
            self.take(path);
        }
        if paths.is_empty() {
            self.note(folder, "empty");
            self.faults.push(Fault::of_file(
                &shown(folder),
                "there is no policy file in this folder",
                "write one, such as homelab.yaml; its name ends in .yaml or .yml",
            ));
        }
    }

    fn take(&mut self, path: &Path) {
        // A pipe or a device would keep us waiting.
        let bytes = match fs::metadata(path) {
            Ok(found) if !found.is_file() => return self.fault(path, "it is not a file"),
            Ok(found) if found.len() > LARGEST_FILE_BYTES as u64 => {
                self.note(path, &found.len().to_string());
                return self.faults.push(text::too_large(&shown(path), found.len()));
            }
            Ok(_) => contents(path),
            Err(error) => Err(error),
        };
        let bytes = match bytes {
            Ok(bytes) => bytes,
            Err(error) => return self.fault(path, &error.to_string()),
        };
        self.note(path, "contents");
        self.print.update(&(bytes.len() as u64).to_be_bytes());
        self.print.update(&bytes);
        match String::from_utf8(bytes) {
            Ok(text) => self.files.push(PolicyFile { name: shown(path), text }),
            Err(error) => {
                let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
                let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
                let before = valid.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
                let column = String::from_utf8_lossy(before).chars().count() + 1;
                self.faults.push(Fault {
                    line,
                    column,
                    ..Fault::of_file(
                        &shown(path),
                        format!("line {line} is not UTF-8"),
                        "save this file as UTF-8, or remove what is no text",
                    )
                });
            }
        }
    }

    fn fault(&mut self, path: &Path, why: &str) {
        self.note(path, why);
        self.faults.push(Fault::of_file(
            &shown(path),
            format!("this cannot be read: {why}"),
            "look at the path and at who may read it",
        ));
    }

    /// Lets the print tell this state from any other; the same files elsewhere print the same.
    fn note(&mut self, path: &Path, what: &str) {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        for part in [name, what.as_bytes()] {
            self.print.update(&(part.len() as u64).to_be_bytes());
            self.print.update(part);
        }
    }
}

fn is_policy(path: &Path) -> bool {
    let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    let ending = path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml");
    ending && !hidden
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// The bytes of a file that may grow while it is read.
fn contents(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LARGEST_FILE_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What became of a changed folder.
#[derive(Clone, Debug, PartialEq)]
pub enum News {
    /// A valid policy, with the warnings it was read with.
    Valid { policy: Box<Policy>, commit: String, warnings: Vec<Fault> },
    /// Not valid, or not readable; `sentence` says the first reason and how many more there are.
    Refused { sentence: String, faults: Vec<Fault>, files: Vec<PolicyFile> },
}

/// A folder of policies, looked at again and again.
#[derive(Debug)]
pub struct Source {
    folder: PathBuf,
    /// The print of what was told last.
    told: Option<String>,
    /// The print of a change that was seen once.
    pending: Option<String>,
}

impl Source {
    pub fn new(folder: impl Into<PathBuf>) -> Source {
        Source { folder: folder.into(), told: None, pending: None }
    }

    /// What changed since it was last told; the first poll always tells.
    ///
    /// A later change is told when two polls in a row saw the same, so polls should be seconds
    /// apart.
    pub fn poll(&mut self) -> Option<News> {
        let folder = read_folder(&self.folder);
        if self.told.as_ref() == Some(&folder.digest) {
            self.pending = None;
            return None;
        }
        let settled = self.told.is_none() || self.pending.as_ref() == Some(&folder.digest);
        if settled {
            return Some(self.tell(&folder));
        }
        self.pending = Some(folder.digest);
        None
    }

    /// What lies there now, changed or not: somebody asked for it, and says that it is whole.
    pub fn reload(&mut self) -> News {
        let folder = read_folder(&self.folder);
        self.tell(&folder)
    }

    fn tell(&mut self, folder: &Folder) -> News {
        self.told = Some(folder.digest.clone());
        self.pending = None;
        let Reading { policy, faults, .. } = folder.read();
        match policy {
            Some(policy) => News::Valid {
                policy: Box::new(policy),
                commit: folder.commit().to_owned(),
                warnings: faults,
            },
            None => {
                News::Refused { sentence: sentence(&faults), faults, files: folder.files.clone() }
            }
        }
    }
}

/// The first error, and how many more there are.
fn sentence(faults: &[Fault]) -> String {
    let errors: Vec<&Fault> =
        faults.iter().filter(|fault| fault.severity == Severity::Error).collect();
    let Some((first, rest)) = errors.split_first() else {
        return "the policies were refused without a reason".into();
    };
    let Fault { file, line, column, message, .. } = first;
    let more = match rest.len() {
        0 => String::new(),
        1 => ", and one more error".to_owned(),
        more => format!(", and {more} more errors"),
    };
    format!("{file}:{line}:{column}: {message}{more}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "hosts: { host1: { tier: low } }\n";

    fn write(folder: &Path, name: &str, text: &[u8]) {
        fs::write(folder.join(name), text).unwrap();
    }

    fn refused(news: Option<News>) -> String {
        match news {
            Some(News::Refused { sentence, .. }) => sentence,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_plain_policy_files_are_read_by_name() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "b.yml", b"quorum: { spare: 1 }\n");
        write(folder.path(), "a.yaml", GOOD.as_bytes());
        write(folder.path(), ".hidden.yaml", b"no: [");
        write(folder.path(), "README.md", b"no: [");
        fs::create_dir(folder.path().join("deeper")).unwrap();
        let read = read_folder(folder.path());
        let names: Vec<&str> =
            read.files.iter().map(|f| f.name.rsplit('/').next().unwrap()).collect();
        assert_eq!((names, read.faults.len()), (vec!["a.yaml", "b.yml"], 0));
        assert_eq!(read.read().policy.unwrap().quorum().spare, 1);
        assert_eq!(read_folder(&folder.path().join("a.yaml")).files.len(), 1);
    }

    #[test]
    fn what_cannot_be_read_is_a_fault_and_never_a_policy() {
        let folder = tempfile::tempdir().unwrap();
        let says = |expected: &str| {
            let read = read_folder(folder.path());
            let reading = read.read();
            assert!(reading.policy.is_none());
            let said: Vec<String> = reading.faults.iter().map(|f| f.message.clone()).collect();
            assert!(said.iter().any(|said| said.contains(expected)), "{expected}: {said:?}");
        };
        says("no policy file in this folder");
        write(folder.path(), "a.yaml", GOOD.as_bytes());
        write(folder.path(), "b.yaml", b"hosts:\n  h\xff: {}\n");
        says("line 2 is not UTF-8");
        let odd = read_folder(folder.path()).faults.remove(0);
        assert_eq!((odd.line, odd.column), (2, 4));
        write(folder.path(), "b.yaml", &vec![b'#'; LARGEST_FILE_BYTES + 1]);
        says("was not read");
        fs::remove_file(folder.path().join("b.yaml")).unwrap();
        fs::create_dir(folder.path().join("b.yaml")).unwrap();
        says("not a file");
        let gone = read_folder(&folder.path().join("nowhere"));
        assert!(gone.faults[0].message.contains("cannot be read"), "{gone:?}");
    }

    #[test]
    fn a_change_is_told_once_it_was_seen_alike_twice() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "a.yaml", GOOD.as_bytes());
        let mut source = Source::new(folder.path());
        let Some(News::Valid { commit, .. }) = source.poll() else { panic!("the first is told") };
        assert_eq!(commit.len(), COMMIT_DIGITS);
        assert_eq!(source.poll(), None);
        write(folder.path(), "a.yaml", b"hosts: { host1: { tier: ");
        assert_eq!(source.poll(), None, "it may be half written");
        write(folder.path(), "a.yaml", b"hosts: { host1: { tier: lwo } }\n");
        assert_eq!(source.poll(), None, "it changed again");
        let sentence = refused(source.poll());
        assert!(sentence.ends_with("a.yaml:1:25: `lwo` is not known here"), "{sentence}");
        assert_eq!(source.poll(), None, "told once");
        write(folder.path(), "a.yaml", GOOD.as_bytes());
        assert_eq!(source.poll(), None);
        let Some(News::Valid { commit: again, .. }) = source.poll() else { panic!("valid again") };
        assert_eq!(commit, again, "the same contents have the same name");
        write(folder.path(), "a.yaml", b"hosts: [");
        assert!(matches!(source.reload(), News::Refused { .. }), "at once when asked");
    }

    #[test]
    fn a_name_and_a_text_cannot_trade_places() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write(one.path(), "a.yaml", b"x");
        write(other.path(), "a.yaml", b"");
        assert_ne!(read_folder(one.path()).digest, read_folder(other.path()).digest);
    }
}
