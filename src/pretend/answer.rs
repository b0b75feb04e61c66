//! PVE's API over the pretended world: one pure function from a request to an answer.
//!
//! It imitates the habits of PVE 8.4 and 9.2 as recorded, not as documented: who checks what in
//! which order (credential, path, right, forwarding, parameters), the exact texts, empty bodies
//! where PVE gives none, strings where PVE has strings, and how long each answer takes. A request
//! is judged by the version of the host that executes it.
//!
//! The rooms: `cluster` for `/cluster`, `/access` and `/version`, `node` for `/nodes/{n}`, `guest`
//! for what is below a guest, `report` for the text of `/nodes/{n}/report`.
//!
//! **Does not know:** sockets, clocks; `takes` says how long the answer is under way.

mod cluster;
mod duty;
mod guest;
mod node;
mod report;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::power::{Door, TOO_RECENT_TO_SEE};
use super::rights::Token;
use super::script::Wrong;
use super::world::World;
use crate::cluster::HostName;

/// How long a refused credential is held back.
const REFUSED_CREDENTIAL: Duration = Duration::from_secs(3);
/// An ordinary answer of the asked host itself.
const AT_ONCE: Duration = Duration::from_millis(20);
/// What forwarding adds.
const FORWARDED: Duration = Duration::from_millis(30);
/// PVE's proxy gives up on a silent host.
const PROXY_PATIENCE: Duration = Duration::from_secs(30);
/// The kernel gives up finding a host on the wire (recorded: about 3 s).
pub(crate) const NO_ROUTE_AFTER: Duration = Duration::from_millis(3_070);
/// Later than any caller waits.
pub(crate) const NEVER: Duration = Duration::from_secs(600);

/// One API request as it reaches a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiRequest {
    /// `GET`, `POST`, `PUT`, `DELETE`, or something PVE refuses.
    pub method: String,
    /// Without `/api2/json`.
    pub path: String,
    pub query: Vec<(String, String)>,
    pub form: Vec<(String, String)>,
    /// The `Authorization` header.
    pub authorization: Option<String>,
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiResponse {
    pub status: u16,
    pub reason: String,
    /// `None`: the body is empty and has no type.
    pub content_type: Option<&'static str>,
    pub body: Vec<u8>,
    pub takes: Duration,
    /// After `takes` the connection ends without an answer.
    pub lost: bool,
    /// The token that asked, where it is known; never its secret.
    pub token: Option<String>,
}

impl ApiResponse {
    /// PVE closes after every error.
    pub fn closes(&self) -> bool {
        self.status >= 400
    }
}

/// What a call gives when all is well.
pub(crate) struct Good {
    pub data: Value,
    pub total: Option<usize>,
    pub takes: Duration,
}

impl From<Value> for Good {
    fn from(data: Value) -> Good {
        Good { data, total: None, takes: Duration::ZERO }
    }
}

/// Why a call gives an error.
#[derive(Debug)]
pub(crate) enum Refusal {
    Credential(&'static str),
    /// 403, with path and privilege.
    Right(String, &'static str),
    /// 400, by parameter.
    Parameters(BTreeMap<String, String>),
    /// 500, PVE's answer to everything else.
    Failed(String),
    /// 501.
    NotThere,
    /// 595 to 599, from forwarding.
    Forwarding(u16, &'static str, Duration),
}

pub(crate) fn bad(parameter: &str, text: impl Into<String>) -> Refusal {
    Refusal::Parameters(BTreeMap::from([(parameter.to_owned(), text.into())]))
}

pub(crate) fn failed(text: impl Into<String>) -> Refusal {
    Refusal::Failed(text.into())
}

/// One request on its way through the world.
pub(crate) struct Asking<'a> {
    pub world: &'a mut World,
    /// The host whose address was asked.
    pub asked: HostName,
    /// The host that executes.
    pub at: HostName,
    pub token: Token,
    pub method: String,
    pub path: String,
    pub params: BTreeMap<String, String>,
}

type Answer = Result<Good, Refusal>;

impl Asking<'_> {
    /// The right, or 403; checked before anything else.
    pub(crate) fn need(&self, path: &str, privilege: &'static str) -> Result<(), Refusal> {
        if self.world.allows(&self.token, path, privilege) {
            return Ok(());
        }
        Err(Refusal::Right(path.to_owned(), privilege))
    }

    pub(crate) fn may(&self, path: &str, privilege: &str) -> bool {
        self.world.allows(&self.token, path, privilege)
    }

    /// Whether this PVE is of version 9 or later.
    pub(crate) fn nine(&self) -> bool {
        self.world.hosts[&self.at].major() >= 9
    }

    /// Refuses parameters the call does not have, and wants those it cannot do without.
    pub(crate) fn takes_only(&self, known: &[&str], required: &[&str]) -> Result<(), Refusal> {
        let mut errors = BTreeMap::new();
        for name in self.params.keys().filter(|name| !known.contains(&name.as_str())) {
            let text = "property is not defined in schema and the schema does not allow \
                        additional properties";
            errors.insert(name.clone(), text.to_owned());
        }
        for name in required.iter().filter(|name| !self.params.contains_key(**name)) {
            errors.insert((*name).to_owned(), "property is missing and it is not optional".into());
        }
        if errors.is_empty() { Ok(()) } else { Err(Refusal::Parameters(errors)) }
    }

    /// A boolean parameter: exactly `0` or `1` in a form.
    pub(crate) fn flag(&self, name: &str) -> Result<bool, Refusal> {
        match self.params.get(name).map(String::as_str) {
            None | Some("0" | "false") => Ok(false),
            Some("1" | "true") => Ok(true),
            Some(other) => Err(bad(name, format!("type check ('boolean') failed - got '{other}'"))),
        }
    }

    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, Refusal> {
        let Some(text) = self.params.get(name) else {
            return Ok(None);
        };
        let wrong = || bad(name, format!("type check ('integer') failed - got '{text}'"));
        text.parse().map(Some).map_err(|_| wrong())
    }

    /// One of a few words, or PVE's text listing them.
    pub(crate) fn word(&self, name: &str, words: &[&str]) -> Result<Option<String>, Refusal> {
        match self.params.get(name) {
            None => Ok(None),
            Some(text) if words.contains(&text.as_str()) => Ok(Some(text.clone())),
            Some(text) => {
                let all = words.join(", ");
                Err(bad(
                    name,
                    format!("value '{text}' does not have a value in the enumeration '{all}'"),
                ))
            }
        }
    }

    /// What changes the cluster's files needs quorum on the executing host.
    pub(crate) fn need_quorum(&self) -> Result<(), Refusal> {
        if self.world.quorate(&self.at) {
            return Ok(());
        }
        Err(failed("cluster not ready - no quorum?"))
    }

    /// Forwards to the host `node` names, as PVE does before it looks at parameters.
    pub(crate) fn forward(&mut self, node: &str) -> Result<Duration, Refusal> {
        if node == "localhost" {
            return Ok(Duration::ZERO);
        }
        let Some(target) = self.world.by_node(node).map(|host| host.name.clone()) else {
            let why = format!("failed to get address info for: {node}: Name or service not known");
            return Err(failed(format!("hostname lookup '{node}' failed - {why}")));
        };
        if target == self.asked {
            return Ok(Duration::ZERO);
        }
        self.count_request_to_missing(&target);
        let cut_apart = self.world.hosts[&target].phase.in_cluster()
            && !self.world.sees(&self.asked, &target)
            && self.world.view(&target).is_some();
        match self.world.door(&target) {
            _ if cut_apart => Err(Refusal::Forwarding(595, "No route to host", NO_ROUTE_AFTER)),
            Door::Answers => {
                self.at = target;
                Ok(FORWARDED)
            }
            Door::Refuses => Err(Refusal::Forwarding(595, "Connection refused", FORWARDED)),
            Door::Silent => Err(Refusal::Forwarding(596, "Connection timed out", PROXY_PATIENCE)),
            Door::NoRoute => Err(Refusal::Forwarding(595, "No route to host", NO_ROUTE_AFTER)),
        }
    }

    /// Asking a vanished host to do something, once everybody has noticed, is a broken promise.
    fn count_request_to_missing(&mut self, target: &HostName) {
        let Some(at) = self.world.hosts[target].vanished_at else {
            return;
        };
        let long = TOO_RECENT_TO_SEE.try_into().expect("seconds");
        if self.method != "GET" && self.world.now().duration_since(at) > long {
            let (method, path) = (&self.method, &self.path);
            self.world.broken(format!("{method} {path} was asked of {target}, which is missing"));
        }
    }

    /// A guest that is moved or started where nothing runs.
    pub(crate) fn count_move_to_absent(&mut self, target: &HostName, what: &str) {
        let host = &self.world.hosts[target];
        if host.phase.in_cluster() {
            return;
        }
        let long = TOO_RECENT_TO_SEE.try_into().expect("seconds");
        let seen = host.vanished_at.is_none_or(|at| self.world.now().duration_since(at) > long);
        let text = format!("{what} onto {target}, which is not there");
        if seen { self.world.broken(text) } else { self.world.unlucky(text) }
    }
}

/// Answers one request asked at `asked`'s own address.
pub fn answer(world: &mut World, asked: &HostName, request: &ApiRequest) -> ApiResponse {
    let wrong = take_fault(world, asked, request);
    match wrong {
        None => plain(world, asked, request),
        Some(Wrong::Status(status)) => refused_by_fault(status),
        Some(Wrong::Hang) => lost(),
        Some(Wrong::ActThenTimeOut) => {
            let done = plain(world, asked, request);
            ApiResponse { token: done.token, ..lost() }
        }
        Some(Wrong::Empty) => ApiResponse { body: Vec::new(), ..plain(world, asked, request) },
        Some(Wrong::Half) => {
            let mut whole = plain(world, asked, request);
            whole.body.truncate(whole.body.len() / 2);
            whole
        }
        Some(Wrong::Types) => {
            let mut whole = plain(world, asked, request);
            if let Ok(body) = serde_json::from_slice::<Value>(&whole.body) {
                whole.body = turned(body).to_string().into_bytes();
            }
            whole
        }
    }
}

fn take_fault(world: &mut World, asked: &HostName, request: &ApiRequest) -> Option<Wrong> {
    let hit = world.answer_faults.iter_mut().find(|fault| {
        fault.times > 0
            && fault.host.as_ref().is_none_or(|host| host == asked)
            && fault.path.as_ref().is_none_or(|part| request.path.contains(part.as_str()))
            && fault.method.as_ref().is_none_or(|method| *method == request.method)
    })?;
    hit.times -= 1;
    let how = hit.how.clone();
    world.answer_faults.retain(|fault| fault.times > 0);
    Some(how)
}

fn lost() -> ApiResponse {
    ApiResponse {
        status: 0,
        reason: String::new(),
        content_type: None,
        body: Vec::new(),
        takes: NEVER,
        lost: true,
        token: None,
    }
}

fn refused_by_fault(status: u16) -> ApiResponse {
    let refusal = match status {
        401 => Refusal::Credential("Authentication failed!"),
        595 => Refusal::Forwarding(595, "Connection refused", FORWARDED),
        596 => Refusal::Forwarding(596, "Connection timed out", PROXY_PATIENCE),
        597..=599 => Refusal::Forwarding(status, "Connection reset by peer", FORWARDED),
        _ => failed("got timeout"),
    };
    written(Err(refusal), None, "")
}

/// Numbers become strings and strings lists: a body no reader expects.
fn turned(value: Value) -> Value {
    match value {
        Value::Number(number) => Value::String(number.to_string()),
        Value::String(text) => Value::Array(vec![Value::String(text)]),
        Value::Array(values) => Value::Array(values.into_iter().map(turned).collect()),
        Value::Object(fields) => {
            Value::Object(fields.into_iter().map(|(key, value)| (key, turned(value))).collect())
        }
        Value::Null | Value::Bool(_) => Value::Bool(true),
    }
}

/// The answer without faults.
fn plain(world: &mut World, asked: &HostName, request: &ApiRequest) -> ApiResponse {
    let call = format!("{} {}", request.method, request.path);
    if !matches!(request.method.as_str(), "GET" | "POST" | "PUT" | "DELETE") {
        return ApiResponse {
            status: 501,
            reason: format!("method '{}' not available", request.method),
            content_type: None,
            body: Vec::new(),
            takes: AT_ONCE,
            lost: false,
            token: None,
        };
    }
    let token = match recognise(world, request.authorization.as_deref()) {
        Ok(token) => token,
        Err(refusal) => return written(Err(refusal), None, &call),
    };
    let id = token.id.clone();
    let params = request.form.iter().chain(&request.query).cloned().collect();
    let asking = Asking {
        world,
        asked: asked.clone(),
        at: asked.clone(),
        token,
        method: request.method.clone(),
        path: request.path.clone(),
        params,
    };
    let mut response = written(route(asking), Some(id), &call);
    // PVE's proxy gives up on a slow host while that goes on with its work.
    let forwarded = request.path.strip_prefix("/nodes/").is_some_and(|rest| {
        let node = rest.split('/').next().unwrap_or_default();
        world.by_node(node).is_some_and(|host| host.name != *asked)
    });
    if forwarded && response.takes > PROXY_PATIENCE {
        let given_up = Refusal::Forwarding(596, "Connection timed out", PROXY_PATIENCE);
        response = written(Err(given_up), response.token, &call);
    }
    response
}

/// The token in the header, as PVE reads it.
fn recognise(world: &World, header: Option<&str>) -> Result<Token, Refusal> {
    let Some(rest) = header.and_then(|header| header.strip_prefix("PVEAPIToken")) else {
        return Err(Refusal::Credential("No ticket"));
    };
    let failed = Refusal::Credential("Authentication failed!");
    let Some(value) = rest.strip_prefix(['=', ' ']) else {
        return Err(failed);
    };
    let Some((id, secret)) = value.split_once('=') else {
        return Err(failed);
    };
    match world.tokens.get(id) {
        Some(token) if token.secret == secret && !token.expired => Ok(token.clone()),
        Some(_) | None => Err(failed),
    }
}

fn route(mut asking: Asking) -> Answer {
    let path = asking.path.clone();
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let method = asking.method.clone();
    match (method.as_str(), parts.as_slice()) {
        (_, ["nodes", node, rest @ ..]) => node::route(asking, &method, node, rest),
        ("GET", ["version"]) => {
            asking.takes_only(&[], &[])?;
            Ok(node::version(&asking).into())
        }
        ("GET", ["nodes"]) => {
            asking.takes_only(&[], &[])?;
            Ok(cluster::nodes(&asking).into())
        }
        ("GET", ["storage"]) => duty::storages(&asking),
        ("GET", ["access", "permissions"]) => cluster::permissions(&asking),
        (_, ["cluster", rest @ ..]) => cluster::route(&mut asking, &method, rest),
        _ => Err(Refusal::NotThere),
    }
}

/// Puts an answer into PVE's envelope.
fn written(answer: Answer, token: Option<String>, call: &str) -> ApiResponse {
    const JSON: Option<&str> = Some("application/json;charset=UTF-8");
    let error = |status: u16, text: &str, errors: Option<&BTreeMap<String, String>>, end: &str| {
        let first = text.lines().next().unwrap_or_default().to_owned();
        let mut body = Map::new();
        body.insert("data".into(), Value::Null);
        body.insert("message".into(), Value::String(format!("{text}{end}")));
        if let Some(errors) = errors {
            body.insert("errors".into(), json!(errors));
        }
        (status, first, JSON, Value::Object(body).to_string().into_bytes(), AT_ONCE)
    };
    let (status, reason, content_type, body, takes) = match answer {
        Ok(good) => {
            let mut body = Map::from_iter([("data".to_owned(), good.data)]);
            if let Some(total) = good.total {
                body.insert("total".into(), json!(total));
            }
            let body = Value::Object(body).to_string().into_bytes();
            (200, "OK".into(), JSON, body, AT_ONCE + good.takes)
        }
        Err(Refusal::Credential(text)) => {
            (401, text.to_owned(), None, Vec::new(), REFUSED_CREDENTIAL)
        }
        Err(Refusal::Right(path, privilege)) => {
            error(403, &format!("Permission check failed ({path}, {privilege})"), None, "\n")
        }
        Err(Refusal::Parameters(errors)) => {
            error(400, "Parameter verification failed.", Some(&errors), "\n")
        }
        Err(Refusal::Failed(text)) => error(500, &text, None, "\n"),
        Err(Refusal::NotThere) => error(501, &format!("Method '{call}' not implemented"), None, ""),
        Err(Refusal::Forwarding(status, text, takes)) => {
            (status, text.to_owned(), None, Vec::new(), takes)
        }
    };
    ApiResponse { status, reason, content_type, body, takes, lost: false, token }
}
