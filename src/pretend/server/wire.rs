//! HTTP as PVE's own server speaks it: what it refuses to read, and how it writes an answer.
//!
//! **Does not know:** the API; a refusal here comes before it.

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::ext::ReasonPhrase;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use hyper::{Method, Request, Response, StatusCode};

use crate::pretend::answer::{ApiRequest, ApiResponse};

/// PVE reads no longer body than this.
const BODY_AT_MOST: usize = 512 * 1024;
const ROOT: &str = "/api2/json";

/// Refused before the API saw it: a status and its text.
pub(super) struct Refusal(u16, String);

pub(super) async fn read(request: Request<Incoming>) -> Result<ApiRequest, Refusal> {
    let (head, body) = request.into_parts();
    if head.headers.contains_key(TRANSFER_ENCODING) {
        return Err(Refusal(501, "chunked transfer encoding not supported".into()));
    }
    let writes = head.method == Method::POST || head.method == Method::PUT;
    let method = head.method.as_str().to_owned();
    if !writes && !body.is_end_stream() {
        return Err(Refusal(501, format!("Unexpected content for method '{method}'")));
    }
    let Some(path) = head.uri.path().strip_prefix(ROOT).filter(|rest| rest.starts_with('/')) else {
        return Err(Refusal(501, format!("no such file '{}'", head.uri.path())));
    };
    let path = unescaped(path, false);
    let query = pairs(head.uri.query().unwrap_or_default());
    let whole = Limited::new(body, BODY_AT_MOST).collect().await;
    let body = whole.map_err(|_| Refusal(501, "for data too large".into()))?.to_bytes();
    let form = form(&head.headers, &body)?;
    let text = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
    let authorization = head.headers.get(hyper::header::AUTHORIZATION).and_then(text);
    Ok(ApiRequest { method, path, query, form, authorization })
}

fn form(headers: &HeaderMap, body: &Bytes) -> Result<Vec<(String, String)>, Refusal> {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let unknown = || Refusal(506, format!("unsupported content type '{kind}'"));
    match kind.split(';').next().unwrap_or_default().trim() {
        _ if body.is_empty() => Ok(Vec::new()),
        "" | "application/x-www-form-urlencoded" => {
            Ok(pairs(std::str::from_utf8(body).map_err(|_| unknown())?))
        }
        "application/json" => {
            let fields: serde_json::Map<String, serde_json::Value> =
                serde_json::from_slice(body).map_err(|_| unknown())?;
            let plain = |value: serde_json::Value| match value {
                serde_json::Value::String(text) => text,
                serde_json::Value::Bool(flag) => u8::from(flag).to_string(),
                other => other.to_string(),
            };
            Ok(fields.into_iter().map(|(name, value)| (name, plain(value))).collect())
        }
        _ => Err(unknown()),
    }
}

fn pairs(text: &str) -> Vec<(String, String)> {
    let pair = |part: &str| {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        (unescaped(name, true), unescaped(value, true))
    };
    text.split('&').filter(|part| !part.is_empty()).map(pair).collect()
}

/// Percent escapes, and in forms `+` for a blank; what is no escape stays as it is.
fn unescaped(text: &str, plus_is_blank: bool) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match first {
            b'+' if plus_is_blank => bytes.push(b' '),
            b'%' => match tail {
                [high, low, tail @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                    let pair = [*high, *low];
                    let hex = std::str::from_utf8(&pair).expect("two ASCII digits");
                    bytes.push(u8::from_str_radix(hex, 16).expect("two hexadecimal digits"));
                    rest = tail;
                }
                _ => bytes.push(b'%'),
            },
            other => bytes.push(*other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

pub(super) fn refused(Refusal(status, text): Refusal) -> Response<Full<Bytes>> {
    with_reason(status, &text, None, true, text.clone().into_bytes())
}

/// An answer on the wire; `last` also closes the connection.
pub(super) fn written(response: ApiResponse, last: bool) -> Response<Full<Bytes>> {
    let closes = last || response.closes();
    with_reason(response.status, &response.reason, response.content_type, closes, response.body)
}

fn with_reason(
    status: u16,
    reason: &str,
    content_type: Option<&'static str>,
    closes: bool,
    body: Vec<u8>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if let Ok(reason) = ReasonPhrase::try_from(reason.as_bytes()) {
        response.extensions_mut().insert(reason);
    }
    let connection = if closes { "close" } else { "Keep-Alive" };
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static(connection));
    if let Some(kind) = content_type {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    response
}
