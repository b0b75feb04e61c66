//! The served cluster from outside: a plain TLS client that counts bytes and connections itself.
//!
//! **Does not know:** the client that `spot` has.

use std::sync::Mutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::LocalSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::*;
use crate::pretend::clock::LeapClock;
use crate::site::Clock;

struct Caller {
    connector: TlsConnector,
    token: String,
}

impl Caller {
    fn of(serving: &Serving) -> Caller {
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(serving.ca_pem.as_bytes()).unwrap();
        roots.add(ca).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let (id, secret) = &serving.token;
        Caller {
            connector: TlsConnector::from(Arc::new(config)),
            token: format!("PVEAPIToken={id}={secret}"),
        }
    }

    async fn connect(
        &self,
        serving: &Serving,
        host: &str,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let url = &serving.urls[&HostName::from(host)];
        let stream = TcpStream::connect(url.trim_start_matches("https://")).await?;
        self.connector.connect(ServerName::try_from("127.0.0.1").unwrap(), stream).await
    }

    /// One request on its own connection; the whole answer as text.
    async fn ask(&self, serving: &Serving, host: &str, head: &str, body: &str) -> String {
        let mut stream = self.connect(serving, host).await.unwrap();
        self.send(&mut stream, head, body).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn send(&self, stream: &mut TlsStream<TcpStream>, head: &str, body: &str) {
        let length = if body.is_empty() {
            String::new()
        } else {
            format!("Content-Length: {}\r\n", body.len())
        };
        let text = format!(
            "{head} HTTP/1.1\r\nHost: x\r\nAuthorization: {}\r\n{length}\r\n{body}",
            self.token
        );
        stream.write_all(text.as_bytes()).await.unwrap();
    }
}

fn served(world: World, test: impl AsyncFnOnce(&Serving, &Caller, &LeapClock, Shared)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let clock = LeapClock::among_sockets(world.start());
        tokio::task::spawn_local(clock.clone().leap_when_quiet());
        let shared = world.share(&clock);
        let any = "127.0.0.1:0".parse().unwrap();
        let serving = serve(shared.clone(), any, any, clock.clone(), None).await.unwrap();
        let caller = Caller::of(&serving);
        test(&serving, &caller, &clock, shared).await;
    });
}

#[test]
fn errors_carry_their_text_as_the_reason_and_close() {
    served(World::reference(), async |serving, caller, clock, _| {
        let work = clock.working();
        let answer = caller.ask(serving, "host1", "GET /api2/json/nosuch", "").await;
        assert!(
            answer.starts_with("HTTP/1.1 501 Method 'GET /nosuch' not implemented\r\n"),
            "{answer}"
        );
        assert!(answer.contains("connection: close\r\n"));
        let answer = caller.ask(serving, "host1", "GET /api2/json/nodes/host3/status", "").await;
        assert!(answer.starts_with("HTTP/1.1 595 No route to host\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\n") && !answer.contains("content-type"), "{answer}");
        let answer =
            caller.ask(serving, "host1", "DELETE /api2/json/nodes/host1/tasks/x", "a=b").await;
        assert!(
            answer.starts_with("HTTP/1.1 501 Unexpected content for method 'DELETE'"),
            "{answer}"
        );
        drop(work);
    });
}

#[test]
fn a_connection_serves_a_hundred_requests_and_no_more() {
    served(World::reference(), async |serving, caller, clock, _| {
        let work = clock.working();
        let mut stream = caller.connect(serving, "host1").await.unwrap();
        let mut read = Vec::new();
        for _ in 0..100 {
            caller.send(&mut stream, "GET /api2/json/version", "").await;
            let mut chunk = [0; 4_096];
            let length = stream.read(&mut chunk).await.unwrap();
            read.extend_from_slice(&chunk[..length]);
        }
        let _ = stream.read_to_end(&mut read).await;
        let text = String::from_utf8_lossy(&read).to_string();
        assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 100);
        assert_eq!(text.matches("connection: Keep-Alive").count(), 99);
        assert_eq!(text.matches("connection: close").count(), 1);
        drop(work);
    });
}

#[test]
fn a_sleeping_host_refuses_and_answers_after_a_real_magic_packet() {
    served(World::reference(), async |serving, caller, clock, shared| {
        let mut work = clock.working();
        let refused = caller.connect(serving, "host3").await.unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mac = [0xa8, 0xa1, 0x59, 0, 0, 3];
        udp.send_to(wake_on_lan::MagicPacket::new(&mac).magic_bytes(), serving.magic)
            .await
            .unwrap();
        work = clock.rest_until(Duration::from_secs(200), work).await;
        assert_eq!(shared.lock().unwrap().tally().wakes, 1);
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        let answer = caller.ask(serving, "host3", "GET /api2/json/version", "x").await;
        assert!(answer.starts_with("HTTP/1.1 501"), "a body on GET: {answer}");
        let form = "command=shutdown";
        let mut stream = caller.connect(serving, "host3").await.unwrap();
        caller.send(&mut stream, "POST /api2/json/nodes/host3/status", form).await;
        let mut chunk = [0; 4_096];
        let length = stream.read(&mut chunk).await.unwrap();
        assert!(String::from_utf8_lossy(&chunk[..length]).ends_with("{\"data\":null}"));
        work = clock.rest_until(Duration::from_secs(300), work).await;
        // The API stopped: what was connected has ended, and new callers are refused.
        assert_eq!(stream.read(&mut chunk).await.unwrap_or(0), 0);
        let refused = caller.connect(serving, "host3").await.unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        drop(work);
    });
}

#[test]
fn every_request_is_written_down_without_its_secret() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let world = World::reference();
        let clock = LeapClock::among_sockets(world.start());
        tokio::task::spawn_local(clock.clone().leap_when_quiet());
        let shared = world.share(&clock);
        let any = "127.0.0.1:0".parse().unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let written = lines.clone();
        let log: Log = Arc::new(move |line: &RequestLine| {
            written.lock().unwrap().push(serde_json::to_string(line).unwrap());
        });
        let serving = serve(shared, any, any, clock.clone(), Some(log)).await.unwrap();
        let caller = Caller::of(&serving);
        let work = clock.working();
        let head = "GET /api2/json/cluster/resources?type=nosuch";
        let answer = caller.ask(&serving, "host1", head, "").await;
        assert!(answer.starts_with("HTTP/1.1 400 Parameter verification failed.\r\n"), "{answer}");
        drop(work);
        assert_eq!(
            *lines.lock().unwrap(),
            [concat!(
                r#"{"method":"GET","path":"/cluster/resources","query":{"type":"nosuch"},"#,
                r#""form":{},"token":"root@pam!full","status":400,"at":"2026-01-05T05:00:00Z"}"#
            )]
        );
    });
}
