//! The pretended cluster on real sockets: TLS and HTTP/1, one address per host, and a listener for
//! real magic packets.
//!
//! Each host's port behaves as its machine would: it refuses while the host sleeps or its API is
//! down, is silent just after a crash, and drops what was connected when the API stops. The wire
//! has PVE's habits: errors carry their text as the reason phrase and close the connection, an idle
//! one is closed after 5 s and every one after 100 requests, chunked bodies are refused, so are
//! bodies on GET and DELETE. Hosts have certificates of one CA, as PVE makes them.
//!
//! Socket limits are real time, answers take the world's.
//!
//! **Does not know:** what the API answers.

mod wire;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::answer::{ApiRequest, ApiResponse, answer};
use super::clock::Passing;
use super::memory::{Log, RequestLine};
use super::power::Door;
use super::world::{Shared, World};
use crate::cluster::HostName;

/// PVE closes idle connections after this.
const IDLE: Duration = Duration::from_secs(5);
/// PVE serves so many requests on one connection.
const REQUESTS_PER_CONNECTION: u32 = 100;
/// Connections that wait to be taken.
const BACKLOG: u32 = 256;
/// On a silent host a caller waits this long, on the world's clock; no call waits longer on PVE's
/// proxy.
const SILENCE: Duration = Duration::from_secs(30);
/// Binding a host's port again may meet the last breath of the old listener.
const BIND_ATTEMPTS: u32 = 50;
const BIND_PAUSE: Duration = Duration::from_millis(20);
/// How often a world on a running clock is looked after when nothing asks it, in real time.
const LOOK_AFTER: Duration = Duration::from_millis(100);

/// A pretended cluster that is being served. Dropping it ends the serving.
pub struct Serving {
    /// `https://127.0.0.1:18006` by host.
    pub urls: BTreeMap<HostName, String>,
    /// SHA-256 of each host's certificate, as PVE writes it.
    pub fingerprints: BTreeMap<HostName, String>,
    /// The certificate of the cluster's own CA, in PEM.
    pub ca_pem: String,
    /// Where magic packets are heard.
    pub magic: SocketAddr,
    /// Name and secret of the first token.
    pub token: (String, String),
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// What every connection shares.
struct Rooms<C> {
    world: Shared,
    clock: C,
    log: Option<Log>,
}

impl<C: Passing> Rooms<C> {
    /// Lets the world catch up with the clock, then does something in it.
    fn with_world<R>(&self, act: impl FnOnce(&mut World) -> R) -> R {
        let now = self.clock.now().monotonic;
        let mut world = self.world.lock().expect("no code panics while it holds the world");
        let at = world.start() + now;
        world.advance_to(at);
        act(&mut world)
    }
}

/// Serves `world` at `listen` (its first host; the others on the next ports, or on any when the
/// port is 0) and hears magic packets at `magic`. Must be called inside a `LocalSet`.
pub async fn serve<C: Passing>(
    world: Shared,
    listen: SocketAddr,
    magic: SocketAddr,
    clock: C,
    log: Option<Log>,
) -> Result<Serving, String> {
    let rooms = Rc::new(Rooms { world, clock, log });
    let hosts: Vec<(HostName, String)> =
        rooms.with_world(|world| world.hosts().map(|h| (h.name.clone(), h.node.clone())).collect());
    let papers = Papers::issue(&hosts)?;
    let udp = UdpSocket::bind(magic)
        .await
        .map_err(|error| format!("cannot listen for magic packets at {magic}: {error}"))?;
    let magic = udp.local_addr().map_err(|error| error.to_string())?;
    let mut serving = Serving {
        urls: BTreeMap::new(),
        fingerprints: papers.fingerprints.clone(),
        ca_pem: papers.ca_pem.clone(),
        magic,
        token: rooms
            .with_world(|world| {
                world.first_token().map(|(id, secret)| (id.to_owned(), secret.to_owned()))
            })
            .unwrap_or_default(),
        tasks: Vec::new(),
    };
    let mut doors = BTreeMap::new();
    for ((name, _), nth) in hosts.iter().zip(0u16..) {
        let mut at = listen;
        if listen.port() != 0 {
            let port = listen.port().checked_add(nth);
            at.set_port(port.ok_or_else(|| format!("there is no port for {name} above {listen}"))?);
        }
        let socket =
            reserve(at).map_err(|error| format!("cannot listen at {at} for {name}: {error}"))?;
        let at = socket.local_addr().map_err(|error| error.to_string())?;
        serving.urls.insert(name.clone(), format!("https://{at}"));
        let door = rooms.with_world(|world| world.door(name));
        let (tell, told) = watch::channel(door);
        doors.insert(name.clone(), tell);
        let port = Port { name: name.clone(), at, rooms: rooms.clone(), door: told };
        let tls = papers.acceptor(name)?;
        // Whoever is told the addresses may use them at once.
        let held = match shut_out(door) {
            true => Held::Reserved(socket),
            false => Held::Open(socket.listen(BACKLOG).map_err(|error| error.to_string())?),
        };
        serving.tasks.push(tokio::task::spawn_local(port.keep(held, tls)));
    }
    let fingerprints = papers.fingerprints;
    rooms.with_world(move |world| {
        world.show_fingerprints(&fingerprints);
        world.watch(move |world| {
            for (name, tell) in &doors {
                let door = world.door(name);
                tell.send_if_modified(|old| std::mem::replace(old, door) != door);
            }
        });
    });
    serving.tasks.push(tokio::task::spawn_local(hear(rooms.clone(), udp)));
    serving.tasks.push(tokio::task::spawn_local(look_after(rooms)));
    Ok(serving)
}

/// Binds without listening: the port is ours, and whoever connects is refused.
fn reserve(at: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = if at.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(at)?;
    Ok(socket)
}

/// Magic packets from the wire into the world.
async fn hear<C: Passing>(rooms: Rc<Rooms<C>>, udp: UdpSocket) {
    let mut frame = [0; 2_048];
    loop {
        if let Ok((length, _)) = udp.recv_from(&mut frame).await {
            rooms.with_world(|world| world.magic_packet(&frame[..length]));
        }
    }
}

/// On a clock that runs by itself somebody must keep the world up with it.
async fn look_after<C: Passing>(rooms: Rc<Rooms<C>>) {
    let mut ticks = tokio::time::interval(LOOK_AFTER);
    loop {
        ticks.tick().await;
        rooms.with_world(|_| {});
    }
}

/// Whether a connection is refused at once.
fn shut_out(door: Door) -> bool {
    match door {
        Door::Refuses | Door::NoRoute => true,
        Door::Answers | Door::Silent => false,
    }
}

/// A port that is ours, listening or not.
enum Held {
    Reserved(TcpSocket),
    Open(TcpListener),
}

/// One host's address.
struct Port<C> {
    name: HostName,
    at: SocketAddr,
    rooms: Rc<Rooms<C>>,
    door: watch::Receiver<Door>,
}

impl<C: Passing> Port<C> {
    /// Listens while the host's API would, and only then; never ends by itself.
    async fn keep(mut self, held: Held, tls: TlsAcceptor) {
        let mut held = Some(held);
        loop {
            let door = *self.door.borrow_and_update();
            let now = match held.take() {
                Some(held) => held,
                None => match self.bind_again().await {
                    Some(socket) => Held::Reserved(socket),
                    None => return,
                },
            };
            held = match (shut_out(door), now) {
                (true, Held::Reserved(socket)) => {
                    if self.door.changed().await.is_err() {
                        return;
                    }
                    Some(Held::Reserved(socket))
                }
                // Dropped, and bound again without listening.
                (true, Held::Open(_)) => None,
                (false, Held::Reserved(socket)) => socket.listen(BACKLOG).ok().map(Held::Open),
                (false, Held::Open(listener)) => {
                    self.receive(&listener, &tls).await;
                    Some(Held::Open(listener))
                }
            };
        }
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "sockets are real, and so is the time the kernel keeps an address"
    )]
    async fn bind_again(&self) -> Option<TcpSocket> {
        for _ in 0..BIND_ATTEMPTS {
            if let Ok(socket) = reserve(self.at) {
                return Some(socket);
            }
            tokio::time::sleep(BIND_PAUSE).await;
        }
        None
    }

    /// Takes connections until the door closes.
    async fn receive(&mut self, listener: &TcpListener, tls: &TlsAcceptor) {
        loop {
            tokio::select! {
                changed = self.door.changed() => {
                    let shut = shut_out(*self.door.borrow());
                    if changed.is_err() || shut {
                        return;
                    }
                }
                taken = listener.accept() => {
                    let Ok((stream, _)) = taken else { continue };
                    let caller = Visit {
                        name: self.name.clone(),
                        rooms: self.rooms.clone(),
                        door: self.door.clone(),
                        served: Arc::new(AtomicU32::new(0)),
                    };
                    tokio::task::spawn_local(caller.attend(stream, tls.clone()));
                }
            }
        }
    }
}

/// One connection.
struct Visit<C> {
    name: HostName,
    rooms: Rc<Rooms<C>>,
    door: watch::Receiver<Door>,
    served: Arc<AtomicU32>,
}

impl<C: Passing> Visit<C> {
    async fn attend(self, stream: TcpStream, tls: TlsAcceptor) {
        let _ = stream.set_nodelay(true);
        let silent = || self.rooms.with_world(|world| world.door(&self.name)) == Door::Silent;
        if silent() {
            return self.be_silent().await;
        }
        let Ok(Ok(stream)) = tokio::time::timeout(IDLE, tls.accept(stream)).await else {
            return;
        };
        let mut door = self.door.clone();
        let visit = Rc::new(self);
        let service = service_fn(move |request| {
            let visit = visit.clone();
            async move { visit.serve(request).await }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE)
            .max_headers(64)
            .serve_connection(TokioIo::new(stream), service);
        tokio::select! {
            // An error here is the caller's: it went away, or spoke something else than HTTP.
            _ = connection => {}
            // When the API stops, what is connected is cut.
            () = shut(&mut door) => {}
        }
    }

    async fn be_silent(&self) {
        let until = self.rooms.clock.now().monotonic + SILENCE;
        self.rooms.clock.pass_until(until).await;
    }

    /// One request; an error ends the connection without an answer.
    async fn serve(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Silenced> {
        let count = self.served.fetch_add(1, Ordering::Relaxed) + 1;
        let request = match wire::read(request).await {
            Ok(request) => request,
            Err(refusal) => return Ok(wire::refused(refusal)),
        };
        let began = self.rooms.clock.now().monotonic;
        let met = self.rooms.with_world(|world| match world.door(&self.name) {
            Door::Answers => Some((answer(world, &self.name, &request), world.now())),
            Door::Refuses | Door::Silent | Door::NoRoute => None,
        });
        let Some((response, at)) = met else {
            self.be_silent().await;
            return Err(Silenced);
        };
        self.write_down(&request, &response, at);
        let takes = if response.lost { SILENCE } else { response.takes };
        self.rooms.clock.pass_until(began + takes).await;
        if response.lost {
            return Err(Silenced);
        }
        let last = count >= REQUESTS_PER_CONNECTION;
        Ok(wire::written(response, last))
    }

    fn write_down(&self, request: &ApiRequest, response: &ApiResponse, at: jiff::Timestamp) {
        if let Some(log) = &self.rooms.log {
            log(&RequestLine::new(request, response, at));
        }
    }
}

/// Ends when the API no longer answers; a silent host keeps its connections.
async fn shut(door: &mut watch::Receiver<Door>) {
    // The sender lives as long as the world: an error means that nobody serves any more.
    let _ = door.wait_for(|door| shut_out(*door)).await;
}

/// The connection ends without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the host went silent")]
struct Silenced;

/// Certificates of the pretended hosts, issued by a CA of their own.
struct Papers {
    ca_pem: String,
    fingerprints: BTreeMap<HostName, String>,
    keys: BTreeMap<HostName, (CertificateDer<'static>, Vec<u8>)>,
}

impl Papers {
    fn issue(hosts: &[(HostName, String)]) -> Result<Papers, String> {
        let wrong = |error: rcgen::Error| format!("cannot make certificates: {error}");
        let ca_key = rcgen::KeyPair::generate().map_err(wrong)?;
        let mut ca = rcgen::CertificateParams::new(Vec::new()).map_err(wrong)?;
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        ca.distinguished_name.push(rcgen::DnType::CommonName, "Pretended Cluster CA");
        let ca_pem = ca.self_signed(&ca_key).map_err(wrong)?.pem();
        let issuer = rcgen::Issuer::new(ca, ca_key);
        let mut papers = Papers { ca_pem, fingerprints: BTreeMap::new(), keys: BTreeMap::new() };
        for (name, node) in hosts {
            let names = vec!["127.0.0.1".into(), "::1".into(), "localhost".into(), node.clone()];
            let mut params = rcgen::CertificateParams::new(names).map_err(wrong)?;
            params.distinguished_name.push(rcgen::DnType::CommonName, node.as_str());
            let key = rcgen::KeyPair::generate().map_err(wrong)?;
            let certificate = params.signed_by(&key, &issuer).map_err(wrong)?;
            let der = certificate.der().clone();
            papers.fingerprints.insert(name.clone(), fingerprint(&der));
            papers.keys.insert(name.clone(), (der, key.serialize_der()));
        }
        Ok(papers)
    }

    fn acceptor(&self, name: &HostName) -> Result<TlsAcceptor, String> {
        let (certificate, key) = &self.keys[name];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.clone()));
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|builder| {
                builder.with_no_client_auth().with_single_cert(vec![certificate.clone()], key)
            })
            .map_err(|error| format!("cannot serve TLS for {name}: {error}"))?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

/// SHA-256, upper-case pairs with colons.
fn fingerprint(der: &CertificateDer) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, der);
    let pairs: Vec<String> = digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
    pairs.join(":")
}

#[cfg(test)]
mod tests;
