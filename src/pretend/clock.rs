//! Clocks for a pretended world: one that *leaps* from deadline to deadline, one that runs faster.
//!
//! [`LeapClock`] stands still while anybody works and jumps to the earliest deadline when everybody
//! waits, so a working day passes in the time its work takes, always in the same order. Work is
//! declared by holding a [`Working`]; whoever rests is woken *already holding* a new one, so that
//! time cannot leap again before the woken one has run.
//!
//! A caller that waits for an answer over a socket keeps its [`Working`], for the clock must not
//! leap between sending and arriving. The pretended server, when its answer takes a while,
//! therefore sleeps *in the caller's stead* ([`Passing::pass_until`]): its sleep cancels one
//! `Working` until it is over. Several calls in flight need a `Working` each; under a shared one
//! they all end when the slowest does.
//!
//! tokio's paused time was not used: it jumps while sockets still carry bytes.
//!
//! **Does not know:** what the world does in the time that passes; a hook tells the world.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify;

use crate::cluster::{ClockState, Moment};
use crate::site::{Clock, Working};

/// How often the runtime may look at its sockets before time leaps: once to see that a datagram has
/// arrived, once to let its reader run, once for what the reader woke.
const TURNS_BEFORE_LEAP: usize = 3;

/// A clock on which the pretended servers can let time pass for their callers.
pub trait Passing: Clock {
    /// Sleeps until the monotonic `at` in the stead of a caller that waits for this answer.
    fn pass_until(&self, at: Duration) -> impl Future<Output = ()>;
}

/// What the wall clock shows, set against the true instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wall {
    /// How far it is ahead (or behind, when negative).
    pub ahead: SignedDuration,
    pub state: ClockState,
}

impl Default for Wall {
    fn default() -> Wall {
        Wall { ahead: SignedDuration::ZERO, state: ClockState::Synchronised }
    }
}

/// Called before time reaches an instant, so that the world gets there first; says what the wall
/// clock shows then. It must not touch the clock.
type Hook = Arc<dyn Fn(Timestamp) -> Wall + Send + Sync>;

/// Time that stands still while anybody works.
#[derive(Clone)]
pub struct LeapClock(Arc<Leaping>);

struct Leaping {
    inner: Mutex<Inner>,
    /// Set for clocks that live among sockets: time then leaps from a task of its own.
    quiet: Option<Notify>,
}

struct Inner {
    start: Timestamp,
    now: Duration,
    wall: Wall,
    /// Guards held, less callers in whose stead a server sleeps.
    at_work: i64,
    next_id: u64,
    waiting: BTreeMap<(Duration, u64), Option<Waker>>,
    /// Woken, and counted as at work, but not yet run.
    woken: BTreeSet<u64>,
    hook: Option<Hook>,
    leaping: bool,
}

impl LeapClock {
    /// A clock that begins at `start` and leaps at once when everybody waits.
    pub fn new(start: Timestamp) -> LeapClock {
        LeapClock::build(start, None)
    }

    /// A clock for participants that also talk over sockets of this machine: before each leap the
    /// runtime gets to read what has arrived. [`LeapClock::leap_when_quiet`] must run beside them.
    pub fn among_sockets(start: Timestamp) -> LeapClock {
        LeapClock::build(start, Some(Notify::new()))
    }

    fn build(start: Timestamp, quiet: Option<Notify>) -> LeapClock {
        let inner = Inner {
            start,
            now: Duration::ZERO,
            wall: Wall::default(),
            at_work: 0,
            next_id: 0,
            waiting: BTreeMap::new(),
            woken: BTreeSet::new(),
            hook: None,
            leaping: false,
        };
        LeapClock(Arc::new(Leaping { inner: Mutex::new(inner), quiet }))
    }

    /// Has `hook` called with the true instant before time reaches it.
    pub fn on_leap(&self, hook: impl Fn(Timestamp) -> Wall + Send + Sync + 'static) {
        self.lock().hook = Some(Arc::new(hook));
    }

    /// The true instant, whatever the wall clock shows.
    pub fn true_instant(&self) -> Timestamp {
        let inner = self.lock();
        inner.start + inner.now
    }

    /// Leaps for a clock [`among_sockets`](LeapClock::among_sockets); never ends.
    pub async fn leap_when_quiet(self) {
        let Some(quiet) = &self.0.quiet else {
            return;
        };
        loop {
            quiet.notified().await;
            for _ in 0..TURNS_BEFORE_LEAP {
                tokio::task::yield_now().await;
            }
            self.leap();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().expect("no code panics while it holds the clock")
    }

    fn counted(&self) -> Working {
        let clock = self.clone();
        Working::tracked(move || clock.leave_work())
    }

    fn leave_work(&self) {
        self.lock().at_work -= 1;
        self.settle();
    }

    /// Leaps if everybody waits, now or from the task that does it among sockets.
    fn settle(&self) {
        match &self.0.quiet {
            Some(quiet) if self.lock().idle() => quiet.notify_one(),
            Some(_) => {}
            None => self.leap(),
        }
    }

    /// Jumps to the earliest deadline and wakes exactly one sleeper, so that order never depends on
    /// how the runtime schedules two that wake together.
    fn leap(&self) {
        let (target, hook) = {
            let mut inner = self.lock();
            if !inner.idle() {
                return;
            }
            let Some((deadline, _)) = inner.waiting.keys().next().copied() else {
                return;
            };
            inner.leaping = true;
            let target = deadline.max(inner.now);
            (target, inner.hook.clone().filter(|_| target > inner.now).map(|h| (h, inner.start)))
        };
        // The world moves without the clock's lock held: it may well take long.
        let wall = hook.map(|(hook, start)| hook(start + target));
        let waker = {
            let mut inner = self.lock();
            inner.leaping = false;
            inner.now = target;
            inner.wall = wall.unwrap_or(inner.wall);
            inner.waiting.pop_first().and_then(|((_, id), waker)| {
                inner.woken.insert(id);
                inner.at_work += 1;
                waker
            })
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn enlist(&self, at: Duration) -> (Duration, u64) {
        let mut inner = self.lock();
        let key = (at, inner.next_id);
        inner.next_id += 1;
        inner.waiting.insert(key, None);
        key
    }
}

impl Inner {
    fn idle(&self) -> bool {
        self.at_work <= 0 && self.woken.is_empty() && !self.leaping && !self.waiting.is_empty()
    }
}

impl Clock for LeapClock {
    fn now(&self) -> Moment {
        let inner = self.lock();
        let truth = inner.start + inner.now;
        let civil = truth.saturating_add(inner.wall.ahead).unwrap_or(truth);
        Moment { civil, monotonic: inner.now }
    }

    fn working(&self) -> Working {
        self.lock().at_work += 1;
        self.counted()
    }

    async fn rest_until(&self, at: Duration, working: Working) -> Working {
        if at <= self.lock().now {
            return working;
        }
        let sleep = Sleep { clock: self.clone(), key: self.enlist(at), stead: false, over: false };
        // Only now: the deadline stands before the guard goes, so no leap can miss it.
        drop(working);
        sleep.await;
        self.counted()
    }

    fn state(&self) -> ClockState {
        self.lock().wall.state
    }
}

impl Passing for LeapClock {
    async fn pass_until(&self, at: Duration) {
        if at <= self.lock().now {
            return;
        }
        let sleep = Sleep { clock: self.clone(), key: self.enlist(at), stead: true, over: false };
        self.leave_work();
        sleep.await;
        // If the caller went away meanwhile, nobody is left to end its work.
        self.settle();
    }
}

/// A sleep on the leaping clock. Dropped early, it leaves the count as if it had never slept.
struct Sleep {
    clock: LeapClock,
    key: (Duration, u64),
    /// It sleeps in a caller's stead: the caller's work counts again when it ends, however it ends.
    stead: bool,
    over: bool,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let key = self.key;
        let ended = {
            let mut inner = self.clock.lock();
            let ended = inner.woken.remove(&key.1);
            if !ended && let Some(waker) = inner.waiting.get_mut(&key) {
                *waker = Some(context.waker().clone());
            }
            ended
        };
        if !ended {
            return Poll::Pending;
        }
        self.over = true;
        Poll::Ready(())
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        {
            let mut inner = self.clock.lock();
            let woken = inner.woken.remove(&self.key.1);
            inner.waiting.remove(&self.key);
            match (woken, self.stead) {
                // Woken for nobody: the guard that waited for it goes.
                (true, false) => inner.at_work -= 1,
                (false, true) => inner.at_work += 1,
                (true, true) | (false, false) => {}
            }
        }
        self.clock.settle();
    }
}

/// Real time, started at another instant and multiplied; only ever against servers on loopback.
#[derive(Clone, Copy, Debug)]
pub struct ScaledClock {
    start: Timestamp,
    speed: f64,
    began: Instant,
}

impl ScaledClock {
    /// Begins now, at `start`; `speed` must be above zero.
    #[expect(clippy::disallowed_methods, reason = "this clock runs in real time, only faster")]
    pub fn new(start: Timestamp, speed: f64) -> Result<ScaledClock, String> {
        if !(speed.is_finite() && speed > 0.0) {
            return Err(format!(
                "a clock cannot run at {speed} times real time: give a speed above 0"
            ));
        }
        Ok(ScaledClock { start, speed, began: Instant::now() })
    }

    fn elapsed(&self) -> Duration {
        self.began.elapsed().mul_f64(self.speed)
    }

    #[expect(clippy::disallowed_methods, reason = "this clock runs in real time, only faster")]
    async fn sleep_until(&self, at: Duration) {
        let left = at.saturating_sub(self.elapsed());
        if !left.is_zero() {
            tokio::time::sleep(left.div_f64(self.speed)).await;
        }
    }
}

impl Clock for ScaledClock {
    fn now(&self) -> Moment {
        let monotonic = self.elapsed();
        Moment { civil: self.start + monotonic, monotonic }
    }

    fn working(&self) -> Working {
        Working::untracked()
    }

    async fn rest_until(&self, at: Duration, working: Working) -> Working {
        self.sleep_until(at).await;
        working
    }

    fn state(&self) -> ClockState {
        ClockState::Synchronised
    }
}

impl Passing for ScaledClock {
    async fn pass_until(&self, at: Duration) {
        self.sleep_until(at).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::rc::Rc;
    use tokio::task::LocalSet;

    const SECOND: Duration = Duration::from_secs(1);

    fn alone<F: Future>(future: F) -> F::Output {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, future)
    }

    #[test]
    fn time_stands_still_while_anybody_works_and_leaps_in_order() {
        alone(async {
            let clock = LeapClock::new(Timestamp::UNIX_EPOCH);
            let order = Rc::new(RefCell::new(Vec::new()));
            let all = clock.working();
            let mut tasks = Vec::new();
            for (name, waits) in [("a", [3, 7]), ("b", [1, 7]), ("c", [7, 9])] {
                let (clock, order, guard) = (clock.clone(), order.clone(), clock.working());
                tasks.push(tokio::task::spawn_local(async move {
                    let mut guard = guard;
                    for at in waits {
                        guard = clock.rest_until(SECOND * at, guard).await;
                        order.borrow_mut().push((name, clock.now().monotonic.as_secs()));
                        // Work in between, however long, takes no time.
                        for _ in 0..5 {
                            tokio::task::yield_now().await;
                        }
                        assert_eq!(clock.now().monotonic, SECOND * at);
                    }
                    drop(guard);
                }));
            }
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            assert_eq!(clock.now().monotonic, Duration::ZERO, "somebody still works");
            drop(all);
            for task in tasks {
                task.await.unwrap();
            }
            assert_eq!(
                *order.borrow(),
                [("b", 1), ("a", 3), ("c", 7), ("b", 7), ("a", 7), ("c", 9)]
            );
        });
    }

    #[test]
    fn a_dropped_sleep_leaves_no_trace() {
        alone(async {
            let clock = LeapClock::new(Timestamp::UNIX_EPOCH);
            let (short, long) = (clock.working(), clock.working());
            let both = clock.working();
            drop(both);
            tokio::select! {
                _ = clock.rest_until(SECOND * 2, short) => {}
                _ = clock.rest_until(SECOND * 50, long) => panic!("the shorter wait ends first"),
            }
            assert_eq!(clock.now().monotonic, SECOND * 2);
            let inner = clock.lock();
            assert!(inner.waiting.is_empty() && inner.woken.is_empty());
            assert_eq!(inner.at_work, 0);
        });
    }

    #[test]
    fn a_timeout_beats_a_server_that_sleeps_longer() {
        alone(async {
            let clock = LeapClock::new(Timestamp::UNIX_EPOCH);
            let caller = clock.working();
            let limit = clock.working();
            let answer = clock.pass_until(SECOND * 30);
            let timed_out = tokio::select! {
                _ = answer => false,
                _ = clock.rest_until(SECOND * 10, limit) => true,
            };
            assert!(timed_out);
            assert_eq!(clock.now().monotonic, SECOND * 10);
            assert_eq!(clock.lock().at_work, 1, "only the caller is left at work");
            drop(caller);
        });
    }

    #[test]
    fn a_server_sleeps_in_its_callers_stead() {
        alone(async {
            let clock = LeapClock::new(Timestamp::UNIX_EPOCH);
            let caller = clock.working();
            clock.pass_until(SECOND * 8).await;
            assert_eq!(clock.now().monotonic, SECOND * 8);
            for _ in 0..5 {
                tokio::task::yield_now().await;
            }
            assert_eq!(clock.now().monotonic, SECOND * 8, "the caller works again");
            drop(caller);
        });
    }

    #[test]
    fn the_world_gets_there_first() {
        alone(async {
            let clock = LeapClock::new(Timestamp::UNIX_EPOCH);
            let seen = Arc::new(Mutex::new(Vec::new()));
            let told = seen.clone();
            clock.on_leap(move |at| {
                told.lock().unwrap().push(at.as_second());
                Wall { ahead: SignedDuration::from_hours(-1), state: ClockState::Unsynchronised }
            });
            let mut guard = clock.working();
            for at in [4, 9] {
                guard = clock.rest_until(SECOND * at, guard).await;
                assert_eq!(seen.lock().unwrap().last(), Some(&i64::from(at)));
            }
            assert_eq!(clock.now().civil.as_second(), 9 - 3600);
            assert_eq!(clock.state(), ClockState::Unsynchronised);
            drop(guard);
        });
    }

    #[test]
    fn among_sockets_a_datagram_is_read_before_time_leaps() {
        alone(async {
            let clock = LeapClock::among_sockets(Timestamp::UNIX_EPOCH);
            tokio::task::spawn_local(clock.clone().leap_when_quiet());
            let listener = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let to = listener.local_addr().unwrap();
            let (read_at, at) = (Rc::new(RefCell::new(Vec::new())), clock.clone());
            let arrived = read_at.clone();
            tokio::task::spawn_local(async move {
                let mut bytes = [0; 64];
                while listener.recv(&mut bytes).await.is_ok() {
                    arrived.borrow_mut().push(at.now().monotonic.as_secs());
                }
            });
            let sender = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let mut guard = clock.working();
            for at in 1..=20u32 {
                sender.send_to(b"wake", to).await.unwrap();
                guard = clock.rest_until(SECOND * at, guard).await;
            }
            drop(guard);
            assert_eq!(*read_at.borrow(), (0..20).collect::<Vec<u64>>());
        });
    }

    #[test]
    fn a_scaled_clock_refuses_a_speed_of_nothing() {
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(ScaledClock::new(Timestamp::UNIX_EPOCH, bad).is_err(), "{bad}");
        }
        let fast = ScaledClock::new(Timestamp::UNIX_EPOCH, 1000.0).unwrap();
        assert!(fast.now().civil >= Timestamp::UNIX_EPOCH);
    }
}
