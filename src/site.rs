//! The only seam to the world: [`Site`] for judgement and conduct, [`Clock`] and [`Transport`] for
//! contact.
//!
//! Data crosses the seam, not calls: facts come in as an [`Observation`], wishes go out as a
//! [`Request`]. One world is real (`pve`), one is pretended (`pretend`); nothing above can tell
//! which. `perform` asks and never waits for the effect; whether it worked is seen later.
//!
//! **Does not know:** PVE, policies, the gate.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use crate::cluster::{HostName, Moment, Observation, Question};
use crate::request::{Answered, Request};

/// A world that can be looked at and asked.
pub trait Site {
    fn now(&self) -> Moment;

    /// Sleeps until `at` (by its monotonic face).
    fn wait_until(&self, at: Moment) -> impl Future<Output = ()>;

    /// One quiet look (at most 3 API requests), with the answers to `questions` as far as they
    /// came.
    ///
    /// Returns within 5 s and never fails: what is late or missing is a gap. Slow answers are
    /// gathered beside the turn and come with a later observation.
    fn observe(&mut self, questions: &[Question]) -> impl Future<Output = Observation>;

    /// The policies' hosts and the world's own names of them, from now on.
    fn name_nodes(&mut self, _nodes: &BTreeMap<HostName, String>) {}

    /// Asks one thing of the world; at most 10 s, then the answer is ambiguous.
    fn perform(&self, request: &Request) -> impl Future<Output = Answered>;
}

/// Where time comes from. Nothing below the faces asks the operating system.
///
/// In the demo and in tests time *leaps*: it stands still while anybody works and jumps to the next
/// deadline when everybody waits. So whoever is at work holds a [`Working`], and gives it up only
/// by [`Clock::rest_until`] or by ending.
pub trait Clock: Clone + 'static {
    fn now(&self) -> Moment;

    /// Declares that somebody is at work: time must not leap meanwhile.
    fn working(&self) -> Working;

    /// Gives up `working` until the monotonic `at`, then takes it up again.
    fn rest_until(&self, at: Duration, working: Working) -> impl Future<Output = Working>;

    /// Whether the wall clock is synchronised.
    fn state(&self) -> crate::cluster::ClockState;
}

/// Proof of being at work; dropping it says that the work is over. It may be sent along with the
/// result of the work, so that time cannot leap between a result and its reader.
#[derive(Default)]
pub struct Working(Option<Box<dyn FnOnce() + Send>>);

impl Working {
    /// For clocks that do not leap.
    pub fn untracked() -> Working {
        Working(None)
    }

    /// `over` is called once, when the work ends.
    pub fn tracked(over: impl FnOnce() + Send + 'static) -> Working {
        Working(Some(Box::new(over)))
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        if let Some(over) = self.0.take() {
            over();
        }
    }
}

impl std::fmt::Debug for Working {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Working" } else { "Working(untracked)" })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    Get,
    Post,
    Put,
    Delete,
}

impl Method {
    pub fn as_str(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Delete => "DELETE",
        }
    }
}

/// One API call, before any transport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The host whose own address is asked; PVE may still forward by the node in the path.
    pub to: HostName,
    pub method: Method,
    /// Without `/api2/json`: `/nodes/pve3/status`.
    pub path: String,
    /// Query of a GET or DELETE, form of a POST or PUT.
    pub params: Vec<(String, String)>,
    /// After this the call is given up. At most 45 s.
    pub limit: Duration,
}

/// What came back, uninterpreted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    /// PVE up to 8.3 says what went wrong only here.
    pub reason: String,
    pub body: Vec<u8>,
}

/// Why no reply came.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Never delivered: refused, no route, name unknown. Nothing was done.
    #[error("{0}")]
    Unreached(String),
    /// The certificate is not the one expected. Nothing was sent.
    #[error("{0}")]
    Untrusted(String),
    /// Sent, but no whole answer: it may have been done.
    #[error("{0}")]
    Lost(String),
}

/// Carries API calls: over TLS to real hosts, or in memory to pretended ones.
pub trait Transport: Clone + 'static {
    fn send(&self, call: Call) -> impl Future<Output = Result<Reply, Fault>>;
}

/// Sends magic packets: by sockets, or into the pretended world.
pub trait Waker: Clone + 'static {
    /// Packets may go to named addresses and nowhere else, so nobody else may send any for us.
    fn confined(&self) -> bool {
        false
    }

    /// One volley to every way; the number of packets handed over and by which interfaces, or why
    /// none could be sent.
    fn volley(
        &self,
        ways: &[crate::cluster::Way],
    ) -> impl Future<Output = Result<(u32, Vec<String>), String>>;
}

/// How long one answer about the clock's synchronisation holds.
const CLOCK_STATE_HOLDS: Duration = Duration::from_secs(300);
/// `timedatectl` starts a service over D-Bus; without one it may hang.
const CLOCK_STATE_LIMIT: Duration = Duration::from_secs(10);

/// Real time. Whether it can be trusted is asked of systemd in the background, so that nobody
/// waits.
#[derive(Clone, Debug)]
pub struct RealClock {
    began: tokio::time::Instant,
    /// `None` where the owner vouches for it.
    asked: Option<std::sync::Arc<std::sync::Mutex<ClockAsked>>>,
}

#[derive(Debug)]
struct ClockAsked {
    state: crate::cluster::ClockState,
    /// When it was last asked, or `None` before the first time.
    at: Option<tokio::time::Instant>,
}

impl RealClock {
    /// `trusted`: the owner says that the clock is right (`clock: trust`).
    #[expect(clippy::disallowed_methods, reason = "the real clock itself")]
    pub fn new(trusted: bool) -> RealClock {
        let asked = ClockAsked { state: crate::cluster::ClockState::Unknown, at: None };
        RealClock {
            began: tokio::time::Instant::now(),
            asked: (!trusted).then(|| std::sync::Arc::new(std::sync::Mutex::new(asked))),
        }
    }

    /// Asks now and waits for it: for commands that look once and end.
    #[expect(clippy::disallowed_methods, reason = "the real clock itself")]
    pub async fn ask_state(&self) -> crate::cluster::ClockState {
        let Some(asked) = &self.asked else {
            return crate::cluster::ClockState::Synchronised;
        };
        let state = synchronised().await;
        let mut asked = asked.lock().expect("nothing panics while it holds this");
        *asked = ClockAsked { state, at: Some(tokio::time::Instant::now()) };
        state
    }
}

/// What systemd says; anything but its plain yes or no is unknown.
async fn synchronised() -> crate::cluster::ClockState {
    use crate::cluster::ClockState;
    let mut command = tokio::process::Command::new("timedatectl");
    command
        .args(["show", "--property=NTPSynchronized", "--value"])
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true);
    match tokio::time::timeout(CLOCK_STATE_LIMIT, command.output()).await {
        Ok(Ok(output)) if output.status.success() => match output.stdout.trim_ascii() {
            b"yes" => ClockState::Synchronised,
            b"no" => ClockState::Unsynchronised,
            _ => ClockState::Unknown,
        },
        Ok(Ok(_) | Err(_)) | Err(_) => ClockState::Unknown,
    }
}

impl Clock for RealClock {
    #[expect(clippy::disallowed_methods, reason = "the real clock itself")]
    fn now(&self) -> Moment {
        Moment { civil: jiff::Timestamp::now(), monotonic: self.began.elapsed() }
    }

    fn working(&self) -> Working {
        Working::untracked()
    }

    async fn rest_until(&self, at: Duration, working: Working) -> Working {
        tokio::time::sleep_until(self.began + at).await;
        working
    }

    #[expect(clippy::disallowed_methods, reason = "the real clock itself")]
    fn state(&self) -> crate::cluster::ClockState {
        let Some(shared) = &self.asked else {
            return crate::cluster::ClockState::Synchronised;
        };
        let mut asked = shared.lock().expect("nothing panics while it holds this");
        let due = asked.at.is_none_or(|at| at.elapsed() >= CLOCK_STATE_HOLDS);
        if due && let Ok(runtime) = tokio::runtime::Handle::try_current() {
            asked.at = Some(tokio::time::Instant::now());
            let shared = shared.clone();
            runtime.spawn(async move {
                let state = synchronised().await;
                shared.lock().expect("nothing panics while it holds this").state = state;
            });
        }
        asked.state
    }
}
