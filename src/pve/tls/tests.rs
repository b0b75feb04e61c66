//! The transport against small TLS servers on loopback that answer, err and die as PVE's do.
//!
//! **Does not know:** PVE's API; bytes suffice here.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::LocalSet;
use tokio_rustls::TlsAcceptor;

use super::*;

const SECRET: &str = "11111111-2222-3333-4444-555555555555";

/// What a server does with each connection it gets, in turn; the last goes on for ever.
#[derive(Clone, Copy)]
enum Habit {
    /// Answers every request with these bytes.
    Answers(&'static str),
    /// Answers one request, then closes without a word when the next arrives.
    DiesIdle(&'static str),
    /// Reads the request and closes.
    Dies,
    /// Reads the request and stays silent.
    Silent,
    /// A body without end.
    Endless,
    /// A header without end.
    EndlessHeader,
    /// One byte after the other, and never the last.
    Drips,
}

struct Server {
    address: SocketAddr,
    certificate: Vec<u8>,
    /// Whole requests as they arrived.
    requests: Rc<RefCell<Vec<String>>>,
}

impl Server {
    /// A server with its own certificate, issued by itself for 127.0.0.1.
    async fn start(habits: Vec<Habit>) -> Server {
        let key = rcgen::KeyPair::generate().unwrap();
        let names = vec!["127.0.0.1".to_owned()];
        let certificate = rcgen::CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Rc::new(RefCell::new(Vec::new()));
        let seen = requests.clone();
        tokio::task::spawn_local(async move {
            let acceptor = TlsAcceptor::from(Arc::new(config));
            for turn in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                let habit = habits[turn.min(habits.len() - 1)];
                if let Ok(stream) = acceptor.accept(stream).await {
                    tokio::task::spawn_local(serve(stream, habit, seen.clone()));
                }
            }
        });
        Server { address, certificate: certificate.der().to_vec(), requests }
    }

    fn pin(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    fn transport(&self, trust: Trust) -> TlsTransport {
        transport(&format!("https://{}", self.address), trust)
    }

    fn requests(&self) -> Vec<String> {
        self.requests.borrow().clone()
    }
}

async fn serve(
    mut stream: tokio_rustls::server::TlsStream<tokio::net::TcpStream>,
    habit: Habit,
    seen: Rc<RefCell<Vec<String>>>,
) {
    let mut answered = 0;
    loop {
        let Some(request) = request(&mut stream).await else { return };
        seen.borrow_mut().push(request);
        match habit {
            Habit::Answers(text) => stream.write_all(text.as_bytes()).await.unwrap(),
            Habit::DiesIdle(_) if answered > 0 => return,
            Habit::DiesIdle(text) => stream.write_all(text.as_bytes()).await.unwrap(),
            Habit::Dies => return,
            Habit::Silent => std::future::pending().await,
            Habit::EndlessHeader => {
                let mut part = "HTTP/1.1 200 OK\r\nx: ".to_owned();
                while stream.write_all(part.as_bytes()).await.is_ok() {
                    part = "y".repeat(1 << 16);
                }
                return;
            }
            Habit::Drips => {
                let head = "HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n";
                stream.write_all(head.as_bytes()).await.unwrap();
                while stream.write_all(b"x").await.is_ok() && stream.flush().await.is_ok() {
                    tokio::task::yield_now().await;
                }
                return;
            }
            Habit::Endless => {
                let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
                stream.write_all(head.as_bytes()).await.unwrap();
                let chunk = format!("100000\r\n{}\r\n", "x".repeat(1 << 20));
                while stream.write_all(chunk.as_bytes()).await.is_ok() {}
                return;
            }
        }
        let _ = stream.flush().await;
        answered += 1;
    }
}

/// Head and body of one request, or `None` at the end.
async fn request(stream: &mut (impl AsyncReadExt + Unpin)) -> Option<String> {
    let mut text = String::new();
    let mut byte = [0];
    while !text.ends_with("\r\n\r\n") {
        stream.read_exact(&mut byte).await.ok()?;
        text.push(byte[0] as char);
    }
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await.ok()?;
    Some(text + &String::from_utf8(body).unwrap())
}

fn transport(url: &str, trust: Trust) -> TlsTransport {
    let door = Door { url: url.to_owned(), trust };
    let doors = BTreeMap::from([(HostName::from("host1"), door)]);
    let (token, secret) = ("spot@pve!spot".to_owned(), Secret::new(SECRET));
    TlsTransport::new(Access { doors, token, secret }).unwrap()
}

fn call(method: Method, path: &str, params: &[(&str, &str)]) -> Call {
    Call {
        to: "host1".into(),
        method,
        path: path.into(),
        params: params.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
        limit: Duration::from_secs(20),
    }
}

fn alone<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, future)
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n{\"data\":1}\n";

#[test]
fn a_pinned_host_gets_the_token_and_the_parameters() {
    alone(async {
        let server = Server::start(vec![Habit::Answers(OK)]).await;
        let other = Fingerprint([7; 32]);
        let transport = server.transport(Trust::Pins(vec![other, server.pin()]));
        let upid = "/nodes/pve1/tasks/UPID:pve1:0:0:0:a::root@pam!full:/status";
        let read = call(Method::Get, upid, &[("since", "1"), ("x", "a b&c")]);
        let reply = transport.send(read).await.unwrap();
        assert_eq!((reply.status, reply.body.as_slice()), (200, &b"{\"data\":1}\n"[..]));
        let post = call(Method::Post, "/nodes/pve3/status", &[("command", "shutdown")]);
        transport.send(post).await.unwrap();
        transport.send(call(Method::Post, "/x", &[])).await.unwrap();
        let seen = server.requests();
        assert!(seen[0].starts_with(
            "GET /api2/json/nodes/pve1/tasks/UPID:pve1:0:0:0:a::root%40pam%21full:/status\
             ?since=1&x=a%20b%26c HTTP/1.1\r\n"
        ));
        assert!(!seen[0].contains("content-length"), "PVE refuses a body on GET");
        let header = format!("authorization: PVEAPIToken=spot@pve!spot={SECRET}\r\n");
        assert!(seen.iter().all(|request| request.contains(&header)));
        assert!(seen[1].starts_with("POST /api2/json/nodes/pve3/status HTTP/1.1\r\n"));
        assert!(seen[1].ends_with("\r\n\r\ncommand=shutdown"));
        assert!(seen[1].contains("content-type: application/x-www-form-urlencoded\r\n"));
        assert!(seen[2].contains("content-length: 0\r\n"), "PVE refuses chunked bodies");
    });
}

#[test]
fn another_certificate_is_shown_beside_the_expected_and_nothing_is_sent() {
    alone(async {
        let server = Server::start(vec![Habit::Answers(OK)]).await;
        let expected = Fingerprint([0xAB; 32]);
        let transport = server.transport(Trust::Pins(vec![expected]));
        for method in [Method::Get, Method::Post] {
            let Err(Fault::Untrusted(why)) = transport.send(call(method, "/x", &[])).await else {
                panic!("a wrong certificate is believed");
            };
            assert!(why.contains(&expected.to_string()), "{why}");
            assert!(why.contains(&server.pin().to_string()), "{why}");
            assert!(!why.contains(SECRET));
        }
        assert!(server.requests().is_empty());
    });
}

#[test]
fn an_authority_vouches_for_its_own_and_for_nobody_else() {
    alone(async {
        let server = Server::start(vec![Habit::Answers(OK)]).await;
        let other = Server::start(vec![Habit::Answers(OK)]).await;
        let trust = Trust::Authority(pem(&server.certificate).into_bytes());
        server.transport(trust.clone()).send(call(Method::Get, "/x", &[])).await.unwrap();
        let refused = other.transport(trust.clone()).send(call(Method::Get, "/x", &[])).await;
        assert!(matches!(refused, Err(Fault::Untrusted(_))), "{refused:?}");
        // The right certificate under another name is another host's.
        let url = format!("https://localhost:{}", server.address.port());
        let renamed = transport(&url, trust).send(call(Method::Get, "/x", &[])).await;
        assert!(matches!(renamed, Err(Fault::Untrusted(_))), "{renamed:?}");
        assert!(other.requests().is_empty() && server.requests().len() == 1);
    });
}

/// DER as PEM.
fn pem(der: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in der.chunks(3) {
        let word = three.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte));
        let word = word << (8 * (3 - three.len()));
        for place in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * place)) as usize & 63] as char;
            text.push(if place > three.len() { '=' } else { digit });
        }
    }
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}

#[test]
fn an_empty_authority_is_refused_before_anything_is_sent() {
    for text in
        ["", "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"]
    {
        let door = Door { url: "https://127.0.0.1:1".into(), trust: Trust::Authority(text.into()) };
        let doors = BTreeMap::from([(HostName::from("host1"), door)]);
        let access = Access { doors, token: "a@b!c".into(), secret: Secret::new(SECRET) };
        let why = TlsTransport::new(access).unwrap_err();
        assert!(why.contains("`ca` file"), "{why}");
    }
}

#[test]
fn the_words_of_an_error_survive() {
    alone(async {
        let text = "HTTP/1.1 500 VM is locked (backup)\r\ncontent-length: 0\r\n\
                    connection: close\r\n\r\n";
        let server = Server::start(vec![Habit::Answers(text)]).await;
        let transport = server.transport(Trust::Pins(vec![server.pin()]));
        let reply = transport.send(call(Method::Get, "/x", &[])).await.unwrap();
        assert_eq!((reply.status, reply.reason.as_str()), (500, "VM is locked (backup)"));
        let text = "HTTP/1.1 596 Connection timed out\r\ncontent-length: 0\r\n\r\n";
        let server = Server::start(vec![Habit::Answers(text)]).await;
        let transport = server.transport(Trust::Pins(vec![server.pin()]));
        let reply = transport.send(call(Method::Post, "/x", &[])).await.unwrap();
        assert_eq!((reply.status, reply.reason.as_str()), (596, "Connection timed out"));
    });
}

#[test]
fn a_read_is_repeated_once_and_a_request_never() {
    alone(async {
        let server = Server::start(vec![Habit::Dies, Habit::Answers(OK)]).await;
        let transport = server.transport(Trust::Pins(vec![server.pin()]));
        assert_eq!(transport.send(call(Method::Get, "/x", &[])).await.unwrap().status, 200);
        assert_eq!(server.requests().len(), 2);

        let server = Server::start(vec![Habit::Dies]).await;
        let transport = server.transport(Trust::Pins(vec![server.pin()]));
        let twice = transport.send(call(Method::Get, "/x", &[])).await;
        assert!(matches!(twice, Err(Fault::Lost(_))), "{twice:?}");
        assert_eq!(server.requests().len(), 2);

        let server = Server::start(vec![Habit::Dies, Habit::Answers(OK)]).await;
        let transport = server.transport(Trust::Pins(vec![server.pin()]));
        let once = transport.send(call(Method::Post, "/x", &[])).await;
        assert!(matches!(once, Err(Fault::Lost(_))), "{once:?}");
        assert_eq!(server.requests().len(), 1, "a request that changes something is sent once");
    });
}

#[test]
fn a_request_never_meets_the_end_of_a_kept_connection() {
    alone(async {
        let server = Server::start(vec![Habit::DiesIdle(OK), Habit::Answers(OK)]).await;
        let transport = server.transport(Trust::Pins(vec![server.pin()]));
        transport.send(call(Method::Get, "/first", &[])).await.unwrap();
        transport.send(call(Method::Post, "/second", &[])).await.unwrap();
        assert_eq!(server.requests().len(), 2);
        // The read does meet it, and is repeated.
        transport.send(call(Method::Get, "/third", &[])).await.unwrap();
        assert_eq!(server.requests().len(), 4);
    });
}

#[test]
fn silence_ends_at_the_limit_and_a_flood_at_its_own() {
    alone(async {
        let server = Server::start(vec![Habit::Silent]).await;
        let transport = server.transport(Trust::Pins(vec![server.pin()]));
        let mut silent = call(Method::Post, "/x", &[]);
        silent.limit = Duration::from_millis(300);
        assert!(matches!(transport.send(silent).await, Err(Fault::Lost(_))));
        let server = Server::start(vec![Habit::Endless]).await;
        let transport = server.transport(Trust::Pins(vec![server.pin()]));
        let Err(Fault::Lost(why)) = transport.send(call(Method::Get, "/x", &[])).await else {
            panic!("an answer without end has an end");
        };
        assert!(why.contains("more than 16 MiB"), "{why}");
    });
}

#[test]
fn a_closed_port_is_clearly_not_reached() {
    alone(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        drop(listener);
        let transport = transport(&url, Trust::Pins(vec![Fingerprint([0; 32])]));
        for method in [Method::Get, Method::Post] {
            let Err(Fault::Unreached(why)) = transport.send(call(method, "/x", &[])).await else {
                panic!("nobody listens there");
            };
            assert!(why.starts_with("host1 (https://127.0.0.1:"), "{why}");
            assert!(why.contains("refused") && !why.contains(SECRET), "{why}");
        }
        let mut nobody = call(Method::Get, "/x", &[]);
        nobody.to = "host9".into();
        let unknown = transport.send(nobody).await;
        assert_eq!(unknown, Err(Fault::Unreached("spot.yaml names no address for host9".into())));
        assert!(!format!("{transport:?}").contains(SECRET));
    });
}

#[test]
fn fingerprints_read_as_pve_shows_them() {
    let pin = Fingerprint::of(b"certificate");
    assert_eq!(pin.to_string().len(), 95);
    assert_eq!(pin.to_string().parse::<Fingerprint>(), Ok(pin));
    assert_eq!(pin.to_string().to_lowercase().replace(':', "").parse::<Fingerprint>(), Ok(pin));
    assert!("AB:CD".parse::<Fingerprint>().is_err());
}

/// What a server shows at the handshake.
struct Shown {
    certificate: CertificateDer<'static>,
    key: Arc<dyn rustls::sign::SigningKey>,
}

impl Shown {
    /// A certificate of 127.0.0.1 that was over in 2001, and its key.
    fn expired() -> Shown {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(2001, 1, 1);
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Shown { certificate, key: signing(&key) }
    }

    fn pin(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    /// Serves one answer to everybody who gets through the handshake; what they said.
    async fn serve(
        &self,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> (String, Rc<RefCell<Vec<String>>>) {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let certified =
            rustls::sign::CertifiedKey::new(vec![self.certificate.clone()], self.key.clone());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let requests = Rc::new(RefCell::new(Vec::new()));
        let seen = requests.clone();
        tokio::task::spawn_local(async move {
            let acceptor = TlsAcceptor::from(Arc::new(config));
            while let Ok((stream, _)) = listener.accept().await {
                if let Ok(stream) = acceptor.accept(stream).await {
                    tokio::task::spawn_local(serve(stream, Habit::Answers(OK), seen.clone()));
                }
            }
        });
        (url, requests)
    }
}

fn signing(key: &rcgen::KeyPair) -> Arc<dyn rustls::sign::SigningKey> {
    let der = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    rustls::crypto::ring::sign::any_supported_type(&der).unwrap()
}

const BOTH: [&rustls::SupportedProtocolVersion; 2] =
    [&rustls::version::TLS12, &rustls::version::TLS13];

#[test]
fn a_pin_outlives_the_dates_and_an_authority_does_not() {
    alone(async {
        let shown = Shown::expired();
        let (url, requests) = shown.serve(&BOTH).await;
        let pinned = transport(&url, Trust::Pins(vec![Fingerprint([7; 32]), shown.pin()]));
        assert_eq!(pinned.send(call(Method::Get, "/x", &[])).await.unwrap().status, 200);
        assert_eq!(requests.borrow().len(), 1);
        let pem = pem(&shown.certificate).into_bytes();
        let vouched = transport(&url, Trust::Authority(pem));
        let fault = vouched.send(call(Method::Get, "/x", &[])).await.unwrap_err();
        assert!(matches!(fault, Fault::Untrusted(_)), "{fault:?}");
        assert_eq!(requests.borrow().len(), 1, "nothing was sent");
    });
}

#[test]
fn a_certificate_without_its_key_is_worth_nothing() {
    alone(async {
        for version in BOTH {
            let mut shown = Shown::expired();
            let pin = shown.pin();
            // Everybody may copy a certificate; whoever shows it must also sign with its key.
            shown.key = signing(&rcgen::KeyPair::generate().unwrap());
            let (url, requests) = shown.serve(&[version]).await;
            for method in [Method::Get, Method::Post] {
                let replayed = transport(&url, Trust::Pins(vec![pin]));
                let Err(Fault::Untrusted(why)) = replayed.send(call(method, "/x", &[])).await
                else {
                    panic!("it was believed");
                };
                assert!(why.contains("key it does not have"), "{why}");
            }
            assert!(requests.borrow().is_empty(), "nothing was sent");
        }
    });
}

/// A server below TLS: answers whatever comes with these bytes; what came.
async fn bare(answer: &'static [u8]) -> (String, Rc<RefCell<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let came = Rc::new(RefCell::new(Vec::new()));
    let seen = came.clone();
    tokio::task::spawn_local(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut bytes = [0; 4096];
            if let Ok(length) = stream.read(&mut bytes).await {
                seen.borrow_mut().extend_from_slice(&bytes[..length]);
            }
            let _ = stream.write_all(answer).await;
        }
    });
    (url, came)
}

#[test]
fn plain_http_garbage_and_older_tls_never_see_the_token() {
    // A ServerHello of TLS 1.1, as somebody would send who wants less.
    let older: &[u8] = b"\x16\x03\x02\x00\x2a\x02\x00\x00\x26\x03\x02\
        aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\x00\x00\x2f\x00";
    let plain: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n{\"data\":1}\n";
    let alert: &[u8] = b"\x15\x03\x03\x00\x02\x02\x46";
    alone(async {
        for answer in [older, plain, alert, b"\x00\xff\x00garbage", b""] {
            let (url, came) = bare(answer).await;
            for method in [Method::Get, Method::Post] {
                let mut call = call(method, "/x", &[("secret", SECRET)]);
                call.limit = Duration::from_secs(5);
                let transport = transport(&url, Trust::Pins(vec![Fingerprint([0; 32])]));
                let fault = transport.send(call).await.unwrap_err();
                assert!(!fault.to_string().contains(SECRET), "{fault}");
            }
            let came = String::from_utf8_lossy(&came.borrow()).into_owned();
            assert!(!came.contains("PVEAPIToken") && !came.contains(SECRET), "{came}");
        }
    });
}

#[test]
fn whatever_comes_inside_tls_ends_in_time_and_in_words() {
    let redirect =
        "HTTP/1.1 302 Found\r\nlocation: https://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
    alone(async {
        for habit in [
            Habit::Drips,
            Habit::EndlessHeader,
            Habit::Answers("\u{0}\u{1}garbage\r\n\r\n"),
            Habit::Answers("HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551616\r\n\r\n"),
            Habit::Answers("HTTP/9.9 999 ?\r\n\r\n"),
        ] {
            for method in [Method::Get, Method::Post] {
                let server = Server::start(vec![habit]).await;
                let transport = server.transport(Trust::Pins(vec![server.pin()]));
                let mut call = call(method, "/x", &[]);
                call.limit = Duration::from_millis(700);
                let fault = transport.send(call).await.unwrap_err();
                assert!(matches!(fault, Fault::Lost(_)), "{fault:?}");
                assert!(!fault.to_string().contains(SECRET));
            }
        }
        let server = Server::start(vec![Habit::Answers(redirect)]).await;
        let transport = server.transport(Trust::Pins(vec![server.pin()]));
        let reply = transport.send(call(Method::Get, "/x", &[])).await.unwrap();
        assert_eq!((reply.status, server.requests().len()), (302, 1), "it is not followed");
    });
}
