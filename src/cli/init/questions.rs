//! Questions to a person, each with the flag that answers it beforehand.
//!
//! With a terminal whatever no flag answers is asked, and Enter takes what is proposed. Without one
//! `--yes` takes what is proposed; what is still open is gathered and told at once, by the names of
//! the flags.
//!
//! **Does not know:** what the answers are for.

use std::io::{BufRead, IsTerminal, Write};

use nix::sys::termios::{self, LocalFlags, SetArg};

use crate::cli::paper::plain;
use crate::pve::Secret;

/// Whoever answers wrongly this often wants to read the manual.
const ATTEMPTS: usize = 5;
/// A secret of PVE has 36 characters.
const SECRET_AT_MOST_BYTES: usize = 4_096;

pub(super) struct Questions {
    terminal: bool,
    yes: bool,
    missing: Vec<String>,
}

pub(super) struct Question<'a> {
    pub flag: &'a str,
    pub text: &'a str,
    /// What the flag says.
    pub given: Option<&'a str>,
    pub proposal: Option<&'a str>,
}

impl Questions {
    pub(super) fn new(yes: bool) -> Questions {
        Questions { terminal: std::io::stdin().is_terminal(), yes, missing: Vec::new() }
    }

    pub(super) fn missing(&mut self, flag: &str) {
        self.missing.push(flag.to_owned());
    }

    pub(super) fn unanswered(&self) -> bool {
        !self.missing.is_empty()
    }

    /// Ends it, with exit code 2, if a question is open and nobody is there to answer.
    pub(super) fn all_answered(&self) -> anyhow::Result<()> {
        if self.missing.is_empty() {
            return Ok(());
        }
        let flags = self.missing.join("\n  ");
        anyhow::bail!(
            "nobody is at a terminal to answer, so these must be given:\n  {flags}\n(--yes takes what \
             is proposed, where something is)"
        )
    }

    /// `None`: nobody answered, which [`Questions::all_answered`] tells later.
    pub(super) fn text<T>(
        &mut self,
        question: Question<'_>,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> anyhow::Result<Option<T>> {
        let Question { flag, text, given, proposal } = question;
        if let Some(given) = given {
            let name = flag.split(' ').next().unwrap_or(flag);
            return read(given).map(Some).map_err(|why| anyhow::anyhow!("{name}: {why}"));
        }
        if let (true, Some(proposal)) = (self.yes, proposal) {
            return read(proposal).map(Some).map_err(anyhow::Error::msg);
        }
        if !self.terminal {
            self.missing(flag);
            return Ok(None);
        }
        for _ in 0..ATTEMPTS {
            let offer = proposal.map(|one| format!(" [{one}]")).unwrap_or_default();
            prompt(&format!("{text}{offer}: "))?;
            let answer = line()?;
            let answer = match (answer.trim(), proposal) {
                ("", Some(proposal)) => proposal.to_owned(),
                (answer, _) => answer.to_owned(),
            };
            if answer.is_empty() {
                continue;
            }
            match read(&answer) {
                Ok(value) => return Ok(Some(value)),
                Err(why) => prompt(&format!("  {why}\n"))?,
            }
        }
        anyhow::bail!("no answer was one; {flag} answers it beforehand")
    }

    /// A choice; `--yes` takes what is proposed, which is no.
    pub(super) fn decide(
        &mut self,
        flag: &str,
        text: &str,
        given: Option<bool>,
    ) -> anyhow::Result<Option<bool>> {
        match (given, self.yes) {
            (Some(given), _) => Ok(Some(given)),
            (None, true) => Ok(Some(false)),
            (None, false) => self.yes_or_no(flag, text),
        }
    }

    /// A confirmation, which `--yes` gives.
    pub(super) fn confirm(
        &mut self,
        flag: &str,
        text: &str,
        given: bool,
    ) -> anyhow::Result<Option<bool>> {
        if given || self.yes {
            return Ok(Some(true));
        }
        self.yes_or_no(flag, text)
    }

    /// Yes or no, by a person at a terminal and by nothing else.
    pub(super) fn vouch(&mut self, flag: &str, text: &str) -> anyhow::Result<Option<bool>> {
        self.yes_or_no(flag, text)
    }

    fn yes_or_no(&mut self, flag: &str, text: &str) -> anyhow::Result<Option<bool>> {
        if !self.terminal {
            self.missing(flag);
            return Ok(None);
        }
        for _ in 0..ATTEMPTS {
            prompt(&format!("{text} [y/N] "))?;
            let answer = line()?;
            match answer.trim() {
                "" => return Ok(Some(false)),
                answer => match yes_or_no(answer) {
                    Ok(said) => return Ok(Some(said)),
                    Err(why) => prompt(&format!("  {why}\n"))?,
                },
            }
        }
        anyhow::bail!("no answer was one; {flag} answers it beforehand")
    }

    /// Typed without being shown.
    pub(super) fn secret(&mut self, flag: &str, text: &str) -> anyhow::Result<Option<Secret>> {
        if !self.terminal {
            self.missing(flag);
            return Ok(None);
        }
        for _ in 0..ATTEMPTS {
            prompt(&format!("{text}: "))?;
            let typed = unseen()?;
            prompt("\n")?;
            if !typed.is_empty() {
                return Ok(Some(Secret::new(typed)));
            }
        }
        anyhow::bail!("no secret was typed; {flag} gives it beforehand")
    }
}

pub(super) fn yes_or_no(text: &str) -> Result<bool, String> {
    match text.to_lowercase().as_str() {
        "y" | "yes" => Ok(true),
        "n" | "no" => Ok(false),
        _ => Err(format!("`{text}` is neither yes nor no")),
    }
}

fn prompt(text: &str) -> anyhow::Result<()> {
    let mut err = std::io::stderr();
    // The line's own end stays; names from the cluster may hold anything.
    let (text, end) = text.strip_suffix('\n').map_or((text, ""), |text| (text, "\n"));
    write!(err, "{}{end}", plain(text))?;
    Ok(err.flush()?)
}

fn line() -> anyhow::Result<String> {
    let mut answer = String::new();
    if std::io::stdin().lock().read_line(&mut answer)? == 0 {
        anyhow::bail!("the answers ended before the questions did");
    }
    Ok(answer)
}

/// One line from the terminal, which meanwhile neither shows nor interprets what is typed: Ctrl-C
/// must not end the program and leave the terminal mute.
fn unseen() -> anyhow::Result<String> {
    let stdin = std::io::stdin();
    let before = termios::tcgetattr(&stdin)?;
    let mut mute = before.clone();
    mute.local_flags &= !(LocalFlags::ECHO | LocalFlags::ICANON | LocalFlags::ISIG);
    termios::tcsetattr(&stdin, SetArg::TCSANOW, &mute)?;
    let typed = until_enter(stdin.lock());
    termios::tcsetattr(&stdin, SetArg::TCSANOW, &before)?;
    typed
}

fn until_enter(from: impl BufRead) -> anyhow::Result<String> {
    const CTRL_C: u8 = 3;
    const CTRL_D: u8 = 4;
    const CTRL_U: u8 = 21;
    const ERASE: [u8; 2] = [8, 127];
    let mut typed = Vec::new();
    for byte in from.bytes() {
        match byte? {
            b'\n' | b'\r' => return Ok(String::from_utf8(typed)?.trim().to_owned()),
            CTRL_C | CTRL_D => anyhow::bail!("it was given up, and nothing was done"),
            CTRL_U => typed.clear(),
            byte if ERASE.contains(&byte) => {
                typed.pop();
            }
            byte => typed.push(byte),
        }
        anyhow::ensure!(typed.len() <= SECRET_AT_MOST_BYTES, "that is too long for a secret");
    }
    anyhow::bail!("the answers ended before the questions did")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_can_be_mended_while_it_is_typed() {
        let typed = |bytes: &[u8]| until_enter(bytes);
        assert_eq!(typed(b"secreX\x7ft\n").unwrap(), "secret");
        assert_eq!(typed(b"wrong\x15right\r").unwrap(), "right");
        assert!(typed(b"sec\x03").unwrap_err().to_string().contains("given up"));
        assert!(typed(b"sec").is_err());
    }

    #[test]
    fn without_a_terminal_every_open_question_is_named_at_once() {
        let mut ask = Questions { terminal: false, yes: false, missing: Vec::new() };
        let question = |flag, given, proposal| Question { flag, text: "?", given, proposal };
        let plain = |text: &str| Ok::<_, String>(text.to_owned());
        assert_eq!(ask.text(question("--a", Some("x"), None), plain).unwrap().unwrap(), "x");
        assert_eq!(ask.text(question("--b", None, Some("y")), plain).unwrap(), None);
        assert_eq!(ask.decide("--c", "?", None).unwrap(), None);
        assert_eq!(ask.vouch("--d", "?").unwrap(), None);
        let said = ask.all_answered().unwrap_err().to_string();
        assert!(said.contains("--b\n  --c\n  --d") && !said.contains("--a"), "{said}");

        let mut yes = Questions { terminal: false, yes: true, missing: Vec::new() };
        assert_eq!(yes.text(question("--b", None, Some("y")), plain).unwrap().unwrap(), "y");
        assert_eq!(yes.decide("--c", "?", None).unwrap(), Some(false));
        assert_eq!(yes.confirm("--e", "?", false).unwrap(), Some(true));
        assert_eq!(yes.vouch("--d", "?").unwrap(), None, "--yes vouches for no certificate");
    }
}
