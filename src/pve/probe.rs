//! Looks at the certificate that a host shows, before anybody trusts it.
//!
//! `spot init` shows the fingerprint to a person and `spot doctor` says how old a certificate is;
//! both need it without believing it. So this connection ends with the handshake: no request is
//! written, no token leaves. The signatures of the handshake are checked all the same, or anybody
//! could show a certificate that is not theirs.
//!
//! **Does not know:** what the right certificate would be.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::DateTime;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Fingerprint;
use super::tls::Signatures;

/// A LAN answers within milliseconds.
const LIMIT: Duration = Duration::from_secs(6);

/// What a host showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub fingerprint: Fingerprint,
    /// From when until when it holds, where that can be read.
    pub holds: Option<(Timestamp, Timestamp)>,
}

/// The certificate shown at `url` (`https://ADDRESS:PORT`), or one clause why none was.
pub async fn shown(url: &str) -> Result<Shown, String> {
    match tokio::time::timeout(LIMIT, ask(url)).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("{url} gave no answer within {} s", LIMIT.as_secs())),
    }
}

async fn ask(url: &str) -> Result<Shown, String> {
    let place = url.strip_prefix("https://").unwrap_or(url).trim_end_matches('/');
    let (name, _) = place.rsplit_once(':').ok_or_else(|| format!("{url} names no port"))?;
    let name = name.trim_start_matches('[').trim_end_matches(']').to_owned();
    let server = ServerName::try_from(name).map_err(|_| format!("{url} names no host"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let keeper =
        Arc::new(Keeper { signatures: Signatures(provider.clone()), kept: Mutex::default() });
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|why| format!("cannot prepare TLS: {why}"))?
        .dangerous()
        .with_custom_certificate_verifier(keeper.clone())
        .with_no_client_auth();
    let stream = TcpStream::connect(place).await.map_err(|why| {
        let why = why.to_string();
        format!("{url} cannot be reached: {}", why.split(" (os error").next().unwrap_or(&why))
    })?;
    TlsConnector::from(Arc::new(config))
        .connect(server, stream)
        .await
        .map_err(|why| format!("{url} does not speak TLS as PVE does: {why}"))?;
    let kept = keeper.kept.lock().expect("nothing panics while it holds this").take();
    let certificate = kept.ok_or_else(|| format!("{url} showed no certificate"))?;
    Ok(Shown { fingerprint: Fingerprint::of(&certificate), holds: validity(&certificate) })
}

/// Takes any certificate, keeps it, and believes nothing of it but that its owner holds the key.
struct Keeper {
    signatures: Signatures,
    kept: Mutex<Option<Vec<u8>>>,
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keeper")
    }
}

impl ServerCertVerifier for Keeper {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let mut kept = self.kept.lock().expect("nothing panics while it holds this");
        *kept = Some(end_entity.as_ref().to_vec());
        Ok(ServerCertVerified::assertion())
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

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALISED_TIME: u8 = 0x18;

/// `notBefore` and `notAfter`: the one thing wanted of X.509, so the few fields before them are
/// stepped over rather than a whole parser taken in.
fn validity(certificate: &[u8]) -> Option<(Timestamp, Timestamp)> {
    let (_, outer, _) = element(certificate)?;
    let (_, mut rest, _) = element(outer)?;
    if rest.first() == Some(&VERSION) {
        rest = element(rest)?.2;
    }
    // Serial number, signature algorithm, issuer.
    for _ in 0..3 {
        rest = element(rest)?.2;
    }
    let (kind, both, _) = element(rest)?;
    if kind != SEQUENCE {
        return None;
    }
    let (kind, from, rest) = element(both)?;
    let from = time(kind, from)?;
    let (kind, until, _) = element(rest)?;
    Some((from, time(kind, until)?))
}

/// One DER element: its tag, its content, and what follows it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, length, rest) = (*bytes.first()?, *bytes.get(1)?, bytes.get(2..)?);
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        0x81..=0x84 => {
            let many = usize::from(length & 0x7f);
            let length =
                rest.get(..many)?.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
            (length, rest.get(many..)?)
        }
        _ => return None,
    };
    Some((tag, rest.get(..length)?, rest.get(length..)?))
}

/// `261123101500Z`, or with a year of four digits.
fn time(kind: u8, text: &[u8]) -> Option<Timestamp> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let whole = match kind {
        // Years below 50 are this century's (RFC 5280, 4.1.2.5.1).
        UTC_TIME if text.get(..2)? < "50" => format!("20{text}"),
        UTC_TIME => format!("19{text}"),
        GENERALISED_TIME => text.to_owned(),
        _ => return None,
    };
    let civil = DateTime::strptime("%Y%m%d%H%M%S", whole).ok()?;
    Some(civil.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dates_of_a_certificate_are_read() {
        let mut wish = rcgen::CertificateParams::new(vec!["host1".to_owned()]).unwrap();
        wish.not_before = rcgen::date_time_ymd(2025, 3, 1);
        wish.not_after = rcgen::date_time_ymd(2055, 3, 2);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = wish.self_signed(&key).unwrap();
        let (from, until) = validity(certificate.der()).unwrap();
        assert_eq!(from.to_string(), "2025-03-01T00:00:00Z");
        assert_eq!(until.to_string(), "2055-03-02T00:00:00Z");
    }

    #[test]
    fn a_certificate_cut_anywhere_has_no_dates_and_does_no_harm() {
        let key = rcgen::KeyPair::generate().unwrap();
        let wish = rcgen::CertificateParams::new(vec!["host1".to_owned()]).unwrap();
        let certificate = wish.self_signed(&key).unwrap();
        for end in 0..100 {
            assert_eq!(validity(&certificate.der()[..end]), None, "{end}");
        }
    }
}
