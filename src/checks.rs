//! Checks of the owner's own: a command or a URL of `spot.yaml` that says whether a host is in use.
//!
//! They run beside the turn and never delay it: a look starts what is asked and takes with it what
//! has been answered meanwhile. Whatever is neither a clear yes nor a clear no is told as such, and
//! judgement takes it for a yes.
//!
//! A command says yes by exit code 0 and no by 1; a URL says yes by status 200 and no by 204 or
//! 404.
//!
//! **Does not know:** which host asks for which check, or what follows from an answer.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::rc::Rc;
use std::time::Duration;

use tokio::process::Command;
use tokio::task::JoinSet;

use crate::cluster::{Answer, Gap, HostName, Moment, Observation, Question, Stamped};
use crate::request::{Answered, Request};
use crate::site::Site;

/// A word of a command or URL that stands for the host's name.
const HOST: &str = "{host}";
/// Checks at work at once; the others wait for a later look.
const AT_ONCE: usize = 8;
/// Answers older than this are of no use to anybody.
const FORGET_AFTER: Duration = Duration::from_secs(600);

/// What is run or asked, and for how long at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub asks: Asks,
    pub within: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asks {
    /// A program with its full path, and its arguments.
    Run(Vec<String>),
    Url(String),
}

/// A site that also answers for the owner's checks.
pub struct Checked<S> {
    site: S,
    checks: BTreeMap<String, Check>,
    board: Rc<RefCell<Board>>,
    /// Aborted, and their programs ended, when the site is dropped.
    jobs: JoinSet<()>,
}

#[derive(Default)]
struct Board {
    answers: BTreeMap<Question, Stamped>,
    pending: BTreeSet<Question>,
}

impl<S: Site> Checked<S> {
    pub fn new(site: S, checks: BTreeMap<String, Check>) -> Checked<S> {
        Checked { site, checks, board: Rc::default(), jobs: JoinSet::new() }
    }

    /// Begins a check, unless it is at work already.
    fn begin(&mut self, question: &Question, host: &HostName, name: &str, asked: Moment) {
        let mut board = self.board.borrow_mut();
        if board.pending.len() >= AT_ONCE || !board.pending.insert(question.clone()) {
            return;
        }
        drop(board);
        let (board, question) = (self.board.clone(), question.clone());
        let what = format!("check {name} of {host}");
        let check = self.checks.get(name).cloned();
        let (name, host) = (name.to_owned(), host.clone());
        self.jobs.spawn_local(async move {
            let answer = match check {
                Some(check) => busy(&check, &host).await,
                None => Err(format!("spot.yaml names no check {name}; add it under `checks`")),
            };
            let answer = answer.map(Answer::Check).map_err(|why| Gap { what, why });
            let mut board = board.borrow_mut();
            board.pending.remove(&question);
            board.answers.insert(question, Stamped { asked, answer });
        });
    }
}

impl<S: Site> Site for Checked<S> {
    fn now(&self) -> Moment {
        self.site.now()
    }

    async fn wait_until(&self, at: Moment) {
        self.site.wait_until(at).await;
    }

    async fn observe(&mut self, questions: &[Question]) -> Observation {
        while self.jobs.try_join_next().is_some() {}
        let now = self.site.now();
        let mut others = Vec::new();
        for question in questions {
            match question {
                Question::Check { host, check } => self.begin(question, host, check, now),
                other => others.push(other.clone()),
            }
        }
        let mut seen = self.site.observe(&others).await;
        let mut board = self.board.borrow_mut();
        board.answers.retain(|_, stamped| now.since(stamped.asked) <= FORGET_AFTER);
        seen.answers
            .extend(board.answers.iter().map(|(one, answer)| (one.clone(), answer.clone())));
        seen
    }

    async fn perform(&self, request: &Request) -> Answered {
        self.site.perform(request).await
    }
}

/// Whether a host is busy, by one check.
async fn busy(check: &Check, host: &HostName) -> Result<bool, String> {
    let work = async {
        match &check.asks {
            Asks::Run(words) => run(words, host).await,
            Asks::Url(url) => get(&url.replace(HOST, host.as_str()), check.within).await,
        }
    };
    match tokio::time::timeout(check.within, work).await {
        Ok(said) => said,
        Err(_elapsed) => Err(format!("it did not end within {} s", check.within.as_secs())),
    }
}

async fn run(words: &[String], host: &HostName) -> Result<bool, String> {
    let words: Vec<String> = words.iter().map(|word| word.replace(HOST, host.as_str())).collect();
    let Some((program, arguments)) = words.split_first() else {
        return Err("it names no program".into());
    };
    let status = Command::new(program)
        .args(arguments)
        .env("SPOT_HOST", host.as_str())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .status()
        .await
        .map_err(|why| format!("{program} cannot be run: {why}"))?;
    match status.code() {
        Some(0) => Ok(true),
        Some(1) => Ok(false),
        Some(code) => Err(format!("{program} ended with {code}, which is neither 0 nor 1")),
        None => Err(format!("{program} was killed")),
    }
}

async fn get(url: &str, within: Duration) -> Result<bool, String> {
    let told = |why: reqwest::Error| format!("{url} gave no answer: {why}");
    // Somebody else may have chosen one already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder()
        .timeout(within)
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(told)?;
    let status = client.get(url).send().await.map_err(told)?.status().as_u16();
    match status {
        200 => Ok(true),
        204 | 404 => Ok(false),
        other => Err(format!("{url} answered {other}, which is none of 200, 204 and 404")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(words: &[&str], within_millis: u64) -> Result<bool, String> {
        let asks = Asks::Run(words.iter().map(|word| (*word).to_owned()).collect());
        let check = Check { asks, within: Duration::from_millis(within_millis) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(busy(&check, &"host3".into()))
    }

    #[test]
    fn a_command_says_yes_by_0_and_no_by_1_and_anything_else_is_no_answer() {
        assert_eq!(said(&["/bin/sh", "-c", "exit 0"], 10_000), Ok(true));
        assert_eq!(said(&["/bin/sh", "-c", "exit 1"], 10_000), Ok(false));
        assert!(
            said(&["/bin/sh", "-c", "exit 2"], 10_000).unwrap_err().contains("neither 0 nor 1")
        );
        assert!(said(&["/bin/sh", "-c", "kill -9 $$"], 10_000).unwrap_err().contains("killed"));
        assert!(said(&["/nowhere/at-all"], 10_000).unwrap_err().contains("cannot be run"));
        assert!(said(&["/bin/sh", "-c", "sleep 5"], 50).unwrap_err().contains("did not end"));
    }

    #[test]
    fn it_is_told_which_host_it_is_about() {
        assert_eq!(said(&["/bin/sh", "-c", "test $SPOT_HOST = host3"], 10_000), Ok(true));
        assert_eq!(said(&["/bin/sh", "-c", "test {host} = host3"], 10_000), Ok(true));
    }
}
