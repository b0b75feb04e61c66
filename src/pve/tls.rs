//! The [`Transport`] to real hosts: HTTPS to each host's own address, its certificate pinned or
//! verified against the cluster's own authority. There is no switch to skip that.
//!
//! One client per host, because each host has its own certificate. Reads share kept connections; a
//! request that changes something always takes a fresh one, for a kept connection may die under it
//! (PVE closes idle ones after 5 s) and such a request must never be repeated.
//!
//! The token's secret travels in one header, marked as sensitive, and stands in no error, no log
//! line and no `Debug`.
//!
//! **Does not know:** what the calls mean.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};

use crate::cluster::HostName;
use crate::site::{Call, Fault, Method, Reply, Transport};

/// A LAN answers within milliseconds; a host that is off and whose address is still remembered by
/// the kernel stays silent for ever.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// PVE closes an idle connection after 5 s; a client that keeps it longer meets its end.
const IDLE_LIMIT: Duration = Duration::from_secs(4);
/// `/cluster/resources` of 10,000 guests is about 4 MiB; a report is well below 1 MiB.
const BODY_LIMIT_BYTES: usize = 16 << 20;

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text itself, for the one place that sends it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(not shown)")
    }
}

/// SHA-256 of a certificate, as PVE shows it: `AB:CD:…`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    pub fn of(certificate: &[u8]) -> Fingerprint {
        let digest = ring::digest::digest(&ring::digest::SHA256, certificate);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.as_ref());
        Fingerprint(bytes)
    }
}

impl FromStr for Fingerprint {
    type Err = String;

    /// 64 hexadecimal digits in pairs, with or without colons, in either case.
    fn from_str(text: &str) -> Result<Fingerprint, String> {
        let digits: Vec<u8> = text.bytes().filter(|b| *b != b':').collect();
        if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(format!(
                "`{text}` is not a SHA-256 fingerprint: 32 pairs of hexadecimal digits with colons, \
                 as `pvenode cert info` shows them"
            ));
        }
        let value = |digit: u8| (digit as char).to_digit(16).expect("checked above") as u8;
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = value(pair[0]) << 4 | value(pair[1]);
        }
        Ok(Fingerprint(bytes))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            write!(f, "{}{byte:02X}", if index == 0 { "" } else { ":" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How one host's certificate is judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Any of these; several, because PVE renews certificates.
    Pins(Vec<Fingerprint>),
    /// Issued by this authority (PEM) for the address in the URL.
    Authority(Vec<u8>),
}

/// One host's own address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Door {
    /// `https://192.168.1.11:8006`, without a path.
    pub url: String,
    pub trust: Trust,
}

/// Everything needed to reach a cluster's API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    pub doors: BTreeMap<HostName, Door>,
    /// `user@realm!name`.
    pub token: String,
    pub secret: Secret,
}

impl AsRef<Access> for Access {
    fn as_ref(&self) -> &Access {
        self
    }
}

/// HTTPS to every host of `spot.yaml`.
#[derive(Clone)]
pub struct TlsTransport {
    doors: Arc<BTreeMap<HostName, Line>>,
    authorization: HeaderValue,
}

struct Line {
    url: String,
    /// Keeps connections.
    reads: reqwest::Client,
    /// Never reuses one.
    requests: reqwest::Client,
}

impl fmt::Debug for TlsTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.doors.values().map(|line| &line.url)).finish()
    }
}

impl TlsTransport {
    /// Prepares a client per host; nothing is sent yet.
    pub fn new(access: impl AsRef<Access>) -> Result<TlsTransport, String> {
        let access = access.as_ref();
        let text = format!("PVEAPIToken={}={}", access.token, access.secret.reveal());
        let mut authorization = HeaderValue::from_str(&text).map_err(|_| {
            format!("the secret of the token {} holds a character no token has", access.token)
        })?;
        authorization.set_sensitive(true);
        let line = |(host, door): (&HostName, &Door)| {
            let refused = |why: String| format!("{host}: {why}");
            let tls = tls_config(&door.trust).map_err(refused)?;
            let reads = client(tls.clone(), usize::MAX).map_err(refused)?;
            let requests = client(tls, 0).map_err(refused)?;
            let url = door.url.trim_end_matches('/').to_owned();
            Ok((host.clone(), Line { url, reads, requests }))
        };
        let doors = access.doors.iter().map(line).collect::<Result<_, String>>()?;
        Ok(TlsTransport { doors: Arc::new(doors), authorization })
    }
}

fn client(tls: rustls::ClientConfig, idle: usize) -> Result<reqwest::Client, String> {
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .https_only(true)
        .http1_only()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .connect_timeout(CONNECT_LIMIT)
        .pool_idle_timeout(IDLE_LIMIT)
        .pool_max_idle_per_host(idle)
        .build()
        .map_err(|why| format!("cannot prepare TLS: {}", chain(&why)))
}

fn tls_config(trust: &Trust) -> Result<rustls::ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = match trust {
        Trust::Pins(pins) => {
            Arc::new(Pins { pins: pins.clone(), signatures: Signatures(provider.clone()) })
        }
        Trust::Authority(pem) => {
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate = certificate
                    .map_err(|why| format!("the `ca` file is not a PEM certificate ({why})"))?;
                roots.add(certificate).map_err(|why| {
                    format!("a certificate of the `ca` file is not usable ({why})")
                })?;
            }
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .build()
                .map_err(|_| {
                "the `ca` file holds no certificate; give PVE's /etc/pve/pve-root-ca.pem".to_owned()
            })?
        }
    };
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|why| format!("cannot prepare TLS: {why}"))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(config)
}

/// That whoever shows a certificate also holds its key: without it anybody could replay the public
/// part. One piece of code for everybody who judges certificates by their own rule.
#[derive(Debug)]
pub(super) struct Signatures(pub Arc<CryptoProvider>);

impl Signatures {
    pub(super) fn tls12(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    pub(super) fn tls13(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    pub(super) fn schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Accepts the pinned certificates and no other, whatever their names and dates.
#[derive(Debug)]
struct Pins {
    pins: Vec<Fingerprint>,
    signatures: Signatures,
}

/// What the owner pinned and what the host showed.
#[derive(Debug)]
struct Mismatch {
    expected: Vec<Fingerprint>,
    shown: Fingerprint,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let expected: Vec<String> = self.expected.iter().map(Fingerprint::to_string).collect();
        write!(f, "expected {}, shown {}", expected.join(" or "), self.shown)
    }
}

impl Error for Mismatch {}

impl ServerCertVerifier for Pins {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let shown = Fingerprint::of(end_entity);
        if self.pins.contains(&shown) {
            return Ok(ServerCertVerified::assertion());
        }
        let mismatch = Mismatch { expected: self.pins.clone(), shown };
        Err(CertificateError::Other(OtherError(Arc::new(mismatch))).into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signatures.tls12(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signatures.tls13(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signatures.schemes()
    }
}

impl Transport for TlsTransport {
    async fn send(&self, call: Call) -> Result<Reply, Fault> {
        let Some(line) = self.doors.get(&call.to) else {
            let why = format!("spot.yaml names no address for {}", call.to);
            return Err(Fault::Unreached(why));
        };
        let host = &call.to;
        match tokio::time::timeout(call.limit, self.deliver(line, &call)).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(failure)) => Err(failure.fault(host, line)),
            Err(_) => {
                let seconds = call.limit.as_secs();
                Err(Fault::Lost(format!("{host} gave no answer within {seconds} s")))
            }
        }
    }
}

/// Why no reply came, before it is put into words.
enum Failure {
    Http(reqwest::Error),
    TooLong,
}

impl TlsTransport {
    /// A read whose connection died is repeated once; what changes something never is.
    async fn deliver(&self, line: &Line, call: &Call) -> Result<Reply, Failure> {
        let first = self.once(line, call).await;
        match (call.method, &first) {
            (Method::Get, Err(Failure::Http(why))) if !why.is_connect() && !why.is_builder() => {
                self.once(line, call).await
            }
            (Method::Get | Method::Post | Method::Put | Method::Delete, _) => first,
        }
    }

    async fn once(&self, line: &Line, call: &Call) -> Result<Reply, Failure> {
        let params = encoded_params(&call.params);
        let mut url = format!("{}/api2/json{}", line.url, encoded_path(&call.path));
        let in_query = matches!(call.method, Method::Get | Method::Delete);
        if in_query && !params.is_empty() {
            url = format!("{url}?{params}");
        }
        let request = match call.method {
            Method::Get => line.reads.get(url),
            Method::Post => line.requests.post(url),
            Method::Put => line.requests.put(url),
            Method::Delete => line.requests.delete(url),
        };
        let mut request = request.header(AUTHORIZATION, self.authorization.clone());
        if !in_query {
            let form = "application/x-www-form-urlencoded";
            // Always a length: PVE refuses chunked bodies, and an empty one would go without.
            request = request.header(CONTENT_TYPE, form).header(CONTENT_LENGTH, params.len());
            request = request.body(params);
        }
        let mut response = request.send().await.map_err(Failure::Http)?;
        let status = response.status();
        let phrase = response.extensions().get::<hyper::ext::ReasonPhrase>();
        let reason = match phrase {
            Some(phrase) => String::from_utf8_lossy(phrase.as_bytes()).into_owned(),
            // hyper keeps only phrases that are not the usual one.
            None => status.canonical_reason().unwrap_or("").to_owned(),
        };
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(Failure::Http)? {
            if body.len() + chunk.len() > BODY_LIMIT_BYTES {
                return Err(Failure::TooLong);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Reply { status: status.as_u16(), reason, body })
    }
}

impl Failure {
    fn fault(self, host: &HostName, line: &Line) -> Fault {
        let url = &line.url;
        let why = match self {
            Failure::TooLong => {
                let limit = BODY_LIMIT_BYTES >> 20;
                return Fault::Lost(format!("{host} answered more than {limit} MiB"));
            }
            Failure::Http(why) => why,
        };
        if let Some(mismatch) = find::<Mismatch>(&why) {
            return Fault::Untrusted(format!(
                "{host} ({url}) shows another certificate than the one pinned: {mismatch}. If its \
                 certificate was renewed, pin the new one in spot.yaml; if not, somebody stands between"
            ));
        }
        if let Some(rustls::Error::InvalidCertificate(CertificateError::BadSignature)) =
            find::<rustls::Error>(&why)
        {
            return Fault::Untrusted(format!(
                "{host} ({url}) shows a certificate whose key it does not have: somebody stands between"
            ));
        }
        if let Some(rustls::Error::InvalidCertificate(error)) = find::<rustls::Error>(&why) {
            return Fault::Untrusted(format!(
                "{host} ({url}) shows a certificate that the `ca` file does not vouch for: {error}"
            ));
        }
        let told = chain(&why);
        if why.is_connect() || why.is_builder() {
            Fault::Unreached(format!("{host} ({url}) cannot be reached: {told}"))
        } else {
            Fault::Lost(format!("{host} ({url}) was lost before its answer was whole: {told}"))
        }
    }
}

/// The innermost sentences of an error, without the URL that reqwest would add.
fn chain(error: &reqwest::Error) -> String {
    let mut told: Vec<String> = Vec::new();
    let mut at: Option<&(dyn Error + 'static)> = error.source();
    // Longer chains are not made here; the bound keeps a circular one from hanging.
    for _ in 0..10 {
        let Some(cause) = at else { break };
        let text = cause.to_string();
        if told.last().is_none_or(|last| !last.contains(&text)) {
            told.push(text);
        }
        at = cause.source();
    }
    match told.pop() {
        Some(innermost) => innermost,
        None if error.is_timeout() => "no answer in time".into(),
        None => "the HTTP client gave up".into(),
    }
}

/// Looks for a cause of type `E`, also inside an I/O error, which hides what it wraps.
fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut at = Some(error);
    for _ in 0..20 {
        let cause = at?;
        if let Some(found) = cause.downcast_ref::<E>() {
            return Some(found);
        }
        if let Some(rustls::Error::InvalidCertificate(CertificateError::Other(other))) =
            cause.downcast_ref::<rustls::Error>()
            && let Some(found) = other.0.downcast_ref::<E>()
        {
            return Some(found);
        }
        let wrapped = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        at = match wrapped {
            Some(inner) => Some(inner as &(dyn Error + 'static)),
            None => cause.source(),
        };
    }
    None
}

/// Percent-encodes what has a meaning in a URL, so that a UPID's `!` and `@` arrive as they are.
fn encoded(text: &str, also_plain: &[u8]) -> String {
    let mut url = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) || also_plain.contains(&byte) {
            url.push(byte as char);
        } else {
            url.push_str(&format!("%{byte:02X}"));
        }
    }
    url
}

fn encoded_path(path: &str) -> String {
    encoded(path, b"/:")
}

fn encoded_params(params: &[(String, String)]) -> String {
    let pair =
        |(key, value): &(String, String)| format!("{}={}", encoded(key, b""), encoded(value, b""));
    params.iter().map(pair).collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests;
