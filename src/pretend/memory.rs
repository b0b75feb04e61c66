//! The in-memory door to the pretended world: a [`Transport`] and a [`Waker`] without sockets.
//!
//! The real client runs over it unchanged. A call takes as long as the answer takes, on the world's
//! clock; one that takes longer than its limit is lost, though what it asked may well be done; a
//! host whose API does not listen refuses, as its kernel would.
//!
//! **Does not know:** TLS, HTTP's wire form; `server` does.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Serialize;

use super::answer::{ApiRequest, ApiResponse, NEVER, NO_ROUTE_AFTER, answer};
use super::clock::{LeapClock, Passing};
use super::power::Door;
use super::world::{Shared, World};
use crate::cluster::{HostName, Way};
use crate::site::{Call, Fault, Method, Reply, Transport, Waker};

/// A refused connection comes back within a round trip.
const REFUSED_AFTER: Duration = Duration::from_millis(1);

impl World {
    /// Makes the world move with a leaping clock: it gets everywhere first.
    pub fn share(self, clock: &LeapClock) -> Shared {
        let shared = Arc::new(Mutex::new(self));
        let world = shared.clone();
        clock.on_leap(move |at| {
            let mut world = world.lock().expect("no code panics while it holds the world");
            world.advance_to(at);
            world.wall()
        });
        shared
    }
}

/// One request that was served, as `--requests` writes it: a JSON object a line.
#[derive(Clone, Debug, Serialize)]
pub struct RequestLine {
    pub method: String,
    /// Without `/api2/json`.
    pub path: String,
    pub query: serde_json::Map<String, serde_json::Value>,
    pub form: serde_json::Map<String, serde_json::Value>,
    /// The token's name, never its secret; `None` where it was not known.
    pub token: Option<String>,
    pub status: u16,
    pub at: jiff::Timestamp,
}

impl RequestLine {
    pub(super) fn new(
        request: &ApiRequest,
        response: &ApiResponse,
        at: jiff::Timestamp,
    ) -> RequestLine {
        let object = |params: &[(String, String)]| {
            params.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect()
        };
        RequestLine {
            method: request.method.clone(),
            path: request.path.clone(),
            query: object(&request.query),
            form: object(&request.form),
            token: response.token.clone(),
            status: response.status,
            at,
        }
    }
}

/// Where served requests are written to.
pub type Log = Arc<dyn Fn(&RequestLine) + Send + Sync>;

/// Carries calls into the world in memory.
#[derive(Clone)]
pub struct MemoryTransport<C> {
    world: Shared,
    clock: C,
    authorization: Option<String>,
    log: Option<Log>,
}

impl<C: Passing> MemoryTransport<C> {
    /// Asks as the world's first token.
    pub fn new(world: Shared, clock: C) -> MemoryTransport<C> {
        let authorization = {
            let world = world.lock().expect("no code panics while it holds the world");
            world.first_token().map(|(id, secret)| format!("PVEAPIToken={id}={secret}"))
        };
        MemoryTransport { world, clock, authorization, log: None }
    }

    /// Asks with this token instead.
    pub fn asking_as(mut self, id: &str, secret: &str) -> MemoryTransport<C> {
        self.authorization = Some(format!("PVEAPIToken={id}={secret}"));
        self
    }

    /// Writes every request that is served.
    pub fn logging(mut self, log: Log) -> MemoryTransport<C> {
        self.log = Some(log);
        self
    }

    fn request(&self, call: &Call) -> ApiRequest {
        let in_query = matches!(call.method, Method::Get | Method::Delete);
        let (query, form) = match in_query {
            true => (call.params.clone(), Vec::new()),
            false => (Vec::new(), call.params.clone()),
        };
        ApiRequest {
            method: call.method.as_str().to_owned(),
            path: call.path.clone(),
            query,
            form,
            authorization: self.authorization.clone(),
        }
    }

    /// What the door and the API make of a call now, without any waiting.
    fn meet(&self, call: &Call) -> (Duration, Result<ApiResponse, Fault>) {
        let mut world = self.world.lock().expect("no code panics while it holds the world");
        let to = &call.to;
        match world.door(to) {
            Door::Refuses => {
                let fault = Fault::Unreached(format!("{to} refused the connection"));
                (REFUSED_AFTER, Err(fault))
            }
            Door::NoRoute => {
                let fault = Fault::Unreached(format!("there is no route to {to}"));
                (NO_ROUTE_AFTER, Err(fault))
            }
            // A connection that is never answered was never made: nothing can have been done.
            Door::Silent if world.hosts[to].vanished_at.is_some() => {
                let fault = Fault::Unreached(format!("{to} did not answer"));
                (NEVER, Err(fault))
            }
            Door::Silent => {
                (NEVER, Err(Fault::Lost(format!("{to} took the request and was silent"))))
            }
            Door::Answers => {
                let request = self.request(call);
                let response = answer(&mut world, to, &request);
                if let Some(log) = &self.log {
                    log(&RequestLine::new(&request, &response, world.now()));
                }
                (response.takes, Ok(response))
            }
        }
    }

    fn boot_of(&self, host: &HostName) -> Option<u64> {
        let world = self.world.lock().expect("no code panics while it holds the world");
        world.host(host).filter(|host| host.phase.api_answers()).map(|host| host.boot)
    }
}

impl<C: Passing> Transport for MemoryTransport<C> {
    async fn send(&self, call: Call) -> Result<Reply, Fault> {
        let began = self.clock.now().monotonic;
        let before = self.boot_of(&call.to);
        let (takes, met) = self.meet(&call);
        self.clock.pass_until(began + takes.min(call.limit)).await;
        if takes > call.limit {
            let (to, limit) = (&call.to, call.limit.as_secs_f64());
            return Err(match met {
                Err(Fault::Unreached(_)) => {
                    Fault::Unreached(format!("{to} took no connection within {limit} s"))
                }
                Ok(_) | Err(Fault::Lost(_) | Fault::Untrusted(_)) => {
                    Fault::Lost(format!("{to} gave no answer within {limit} s"))
                }
            });
        }
        let response = met?;
        if self.boot_of(&call.to) != before {
            return Err(Fault::Lost(format!("{} went away before it answered", call.to)));
        }
        Ok(Reply { status: response.status, reason: response.reason, body: response.body })
    }
}

/// Sends magic packets into the world in memory.
#[derive(Clone)]
pub struct MemoryWaker {
    world: Shared,
}

impl MemoryWaker {
    pub fn new(world: Shared) -> MemoryWaker {
        MemoryWaker { world }
    }
}

impl Waker for MemoryWaker {
    async fn volley(&self, ways: &[Way]) -> Result<(u32, Vec<String>), String> {
        let mut world = self.world.lock().expect("no code panics while it holds the world");
        let mut sent = 0;
        for way in ways {
            let mut frame = wake_on_lan::MagicPacket::new(&way.mac.0).magic_bytes().to_vec();
            // A credential is a name here as everywhere; in memory it stands for itself.
            if let Some(password) =
                way.password.as_ref().and_then(|text| text.parse::<crate::cluster::Mac>().ok())
            {
                frame.extend(password.0);
            }
            world.magic_packet(&frame);
            sent += 1;
        }
        let by = ways.iter().filter_map(|way| way.interface.clone()).next();
        Ok((sent, vec![by.unwrap_or_else(|| "memory".into())]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::site::Clock;

    fn call(to: &str, method: Method, path: &str, params: &[(&str, &str)], limit: u64) -> Call {
        Call {
            to: to.into(),
            method,
            path: path.into(),
            params: params.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            limit: Duration::from_secs(limit),
        }
    }

    fn with(world: World, test: impl AsyncFnOnce(MemoryTransport<LeapClock>, Shared, LeapClock)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let clock = LeapClock::new(world.start());
            let shared = world.share(&clock);
            let transport = MemoryTransport::new(shared.clone(), clock.clone());
            test(transport, shared, clock).await;
        });
    }

    #[test]
    fn an_answer_takes_its_time_on_the_worlds_clock() {
        with(World::reference(), async |door, _, clock| {
            let work = clock.working();
            let reply = door.send(call("host1", Method::Get, "/version", &[], 5)).await.unwrap();
            assert_eq!((reply.status, reply.reason.as_str()), (200, "OK"));
            let before = clock.now().monotonic;
            assert!(!before.is_zero());
            let path = "/nodes/host1/report";
            let reply = door.send(call("host1", Method::Get, path, &[], 45)).await.unwrap();
            assert!(String::from_utf8_lossy(&reply.body).contains("Expected votes:   5"));
            assert!(clock.now().monotonic - before >= Duration::from_secs(8));
            drop(work);
        });
    }

    #[test]
    fn a_limit_shorter_than_the_answer_loses_it() {
        with(World::reference(), async |door, _, clock| {
            let work = clock.working();
            let path = "/nodes/host1/report";
            let lost = door.send(call("host1", Method::Get, path, &[], 3)).await.unwrap_err();
            assert!(matches!(lost, Fault::Lost(_)), "{lost}");
            assert_eq!(clock.now().monotonic, Duration::from_secs(3));
            drop(work);
        });
    }

    #[test]
    fn a_host_that_is_off_cannot_be_reached_directly_nor_through_another() {
        with(World::reference(), async |door, _, clock| {
            let work = clock.working();
            let fault =
                door.send(call("host3", Method::Get, "/version", &[], 5)).await.unwrap_err();
            assert!(matches!(fault, Fault::Unreached(_)), "{fault}");
            let path = "/nodes/host3/status";
            let reply = door.send(call("host1", Method::Get, path, &[], 5)).await.unwrap();
            assert_eq!((reply.status, reply.reason.as_str()), (595, "No route to host"));
            assert!(reply.body.is_empty());
            drop(work);
        });
    }

    #[test]
    fn a_live_migration_locks_switches_and_settles_in_this_order() {
        with(World::reference(), async |door, world, clock| {
            let mut work = clock.working();
            let params = [("target", "host1"), ("online", "1")];
            let path = "/nodes/host2/qemu/203/migrate";
            let reply = door.send(call("host1", Method::Post, path, &params, 10)).await.unwrap();
            assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(&reply.body));
            let mut seen = Vec::new();
            for _ in 0..400 {
                let now = {
                    let world = world.lock().unwrap();
                    let guest = world.guest(crate::cluster::Vmid(203)).unwrap();
                    let running = world.running_tasks(&"host2".into()).count();
                    (guest.host.to_string(), guest.lock.clone(), running)
                };
                if seen.last() != Some(&now) {
                    seen.push(now);
                }
                let next = clock.now().monotonic + Duration::from_millis(100);
                work = clock.rest_until(next, work).await;
            }
            let migrate = Some("migrate".to_owned());
            assert_eq!(
                seen,
                [
                    ("host2".to_owned(), None, 1),
                    ("host2".to_owned(), migrate.clone(), 1),
                    ("host1".to_owned(), migrate, 1),
                    ("host1".to_owned(), None, 0),
                ]
            );
            assert_eq!(world.lock().unwrap().tally().migrations, 1);
            drop(work);
        });
    }
}
