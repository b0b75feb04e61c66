//! Typed calls of PVE's API over any [`Transport`], and what its refusals mean.
//!
//! PVE says what went wrong in many places: an empty body and a reason phrase (401, 595 to 599,
//! every error up to 8.3), a `message`, named parameters. Here each becomes one sentence with what
//! would mend it. For a request that changes something the question is whether it *may have been
//! done*: clearly refused, clearly never delivered, or ambiguous and to be looked up.
//!
//! **Does not know:** when to ask what, what is kept, what the owner wants.

use std::collections::BTreeMap;
use std::time::Duration;

use super::wire;
use crate::cluster::{DeviceLink, HostName, Mac, rights};
use crate::request::Answered;
use crate::site::{Call, Fault, Method, Reply, Transport};

/// A quick read: PVE answers these in well under a second, a refused token after 3.
pub const READ_LIMIT: Duration = Duration::from_secs(4);
/// `GET /nodes/{n}/storage` probes every storage; a sleeping server of one makes it slow.
pub const STORAGE_LIMIT: Duration = Duration::from_secs(10);
/// A report takes 6 to 11 s on real servers, and longer when a storage hangs.
pub const REPORT_LIMIT: Duration = Duration::from_secs(45);
/// A request that changes something; after this its answer is ambiguous.
pub const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// Why a read gave nothing. Its text is one clause that names the host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// Never delivered.
    #[error("{0}")]
    Unreached(String),
    /// Not the certificate expected.
    #[error("{0}")]
    Untrusted(String),
    /// No whole answer.
    #[error("{0}")]
    Lost(String),
    /// An answer that says no.
    #[error("{sentence}")]
    Refused { status: u16, sentence: String },
    /// An answer that makes no sense.
    #[error("{0}")]
    Unreadable(String),
}

/// The API as one token sees it.
#[derive(Clone, Debug)]
pub struct Client<T> {
    transport: T,
    /// `user@realm!name`, for sentences; the secret is the transport's.
    token: String,
}

impl<T: Transport> Client<T> {
    pub fn new(transport: T, token: String) -> Client<T> {
        Client { transport, token }
    }

    /// A GET, answered by 200, read by `parse`.
    pub async fn get<R>(
        &self,
        to: &HostName,
        path: String,
        params: &[(&str, &str)],
        limit: Duration,
        parse: impl FnOnce(&[u8]) -> Result<R, String>,
    ) -> Result<R, Trouble> {
        let params = params.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        self.call(Method::Get, to, path, params, limit, parse).await
    }

    /// Any call whose answer is data, and which does no harm when it is done and not heard of.
    async fn call<R>(
        &self,
        method: Method,
        to: &HostName,
        path: String,
        params: Vec<(String, String)>,
        limit: Duration,
        parse: impl FnOnce(&[u8]) -> Result<R, String>,
    ) -> Result<R, Trouble> {
        let call = Call { to: to.clone(), method, path: path.clone(), params, limit };
        let reply = self.transport.send(call).await.map_err(|fault| match fault {
            Fault::Unreached(why) => Trouble::Unreached(why),
            Fault::Untrusted(why) => Trouble::Untrusted(why),
            Fault::Lost(why) => Trouble::Lost(why),
        })?;
        if reply.status != 200 {
            let sentence = refusal(to, &self.token, &path, &reply);
            return Err(Trouble::Refused { status: reply.status, sentence });
        }
        parse(&reply.body).map_err(|why| Trouble::Unreadable(format!("{to}: {path}: {why}")))
    }

    /// A POST: taken up, refused, never delivered, or nobody knows.
    pub async fn post(
        &self,
        to: &HostName,
        path: String,
        params: Vec<(String, String)>,
    ) -> Answered {
        let limit = REQUEST_LIMIT;
        let call = Call { to: to.clone(), method: Method::Post, path: path.clone(), params, limit };
        let reply = match self.transport.send(call).await {
            Ok(reply) => reply,
            Err(Fault::Unreached(sentence) | Fault::Untrusted(sentence)) => {
                return Answered::Undelivered { sentence };
            }
            Err(Fault::Lost(sentence)) => return Answered::Ambiguous { sentence },
        };
        match reply.status {
            200 => match wire::upid(&reply.body) {
                Ok(task) => Answered::Accepted { task },
                Err(why) => Answered::Ambiguous { sentence: format!("{to}: {path}: {why}") },
            },
            // The asked host could not connect to the one the call is for.
            595 => Answered::Undelivered { sentence: refusal(to, &self.token, &path, &reply) },
            // Cut while it was forwarded: the action may well have happened.
            596..=599 => Answered::Ambiguous { sentence: refusal(to, &self.token, &path, &reply) },
            // 1xx and 2xx have no meaning here; what is no clear no is no answer.
            0..=299 => Answered::Ambiguous { sentence: refusal(to, &self.token, &path, &reply) },
            300.. => Answered::Refused { sentence: refusal(to, &self.token, &path, &reply) },
        }
    }

    /// PVE's own packet to `node`, sent by `to`: the hardware address it went to.
    ///
    /// May be asked again and again like any packet, and its answer is quick or of no use.
    pub async fn wake_by_relay(&self, to: &HostName, node: &str) -> Result<String, Trouble> {
        let path = format!("/nodes/{node}/wakeonlan");
        self.call(Method::Post, to, path, Vec::new(), READ_LIMIT, wire::word).await
    }

    pub async fn cluster_status(&self, to: &HostName) -> Result<wire::ClusterStatus, Trouble> {
        self.get(to, "/cluster/status".into(), &[], READ_LIMIT, wire::cluster_status).await
    }

    pub async fn resources(&self, to: &HostName) -> Result<wire::Resources, Trouble> {
        self.get(to, "/cluster/resources".into(), &[], READ_LIMIT, wire::resources).await
    }

    pub async fn cluster_tasks(&self, to: &HostName) -> Result<Vec<wire::TaskEntry>, Trouble> {
        self.get(to, "/cluster/tasks".into(), &[], READ_LIMIT, wire::tasks).await
    }

    pub async fn configured_votes(&self, to: &HostName) -> Result<BTreeMap<String, u32>, Trouble> {
        let path = "/cluster/config/nodes".into();
        self.get(to, path, &[], READ_LIMIT, wire::configured_votes).await
    }

    pub async fn backup_jobs(&self, to: &HostName) -> Result<Vec<wire::BackupEntry>, Trouble> {
        self.get(to, "/cluster/backup".into(), &[], READ_LIMIT, wire::backup_jobs).await
    }

    pub async fn wake_address(&self, to: &HostName, node: &str) -> Result<Option<Mac>, Trouble> {
        let path = format!("/nodes/{node}/config");
        self.get(to, path, &[("property", "wakeonlan")], READ_LIMIT, wire::wake_address).await
    }

    pub async fn device_link(&self, to: &HostName) -> Result<DeviceLink, Trouble> {
        let path = "/cluster/config/qdevice".into();
        self.get(to, path, &[], READ_LIMIT, wire::device_link).await
    }

    pub async fn permissions(
        &self,
        to: &HostName,
    ) -> Result<BTreeMap<String, BTreeMap<String, bool>>, Trouble> {
        self.get(to, "/access/permissions".into(), &[], READ_LIMIT, wire::permissions).await
    }

    pub async fn report(&self, to: &HostName, node: &str) -> Result<String, Trouble> {
        self.get(to, format!("/nodes/{node}/report"), &[], REPORT_LIMIT, wire::report).await
    }

    pub async fn uptime_seconds(&self, to: &HostName, node: &str) -> Result<u64, Trouble> {
        let path = format!("/nodes/{node}/status");
        self.get(to, path, &[], READ_LIMIT, wire::uptime_seconds).await
    }

    pub async fn storages_missing(
        &self,
        to: &HostName,
        node: &str,
    ) -> Result<Vec<String>, Trouble> {
        let path = format!("/nodes/{node}/storage");
        self.get(to, path, &[], STORAGE_LIMIT, wire::storages_missing).await
    }

    /// `kind` is `qemu` or `lxc`.
    pub async fn guests(
        &self,
        to: &HostName,
        node: &str,
        kind: &str,
    ) -> Result<Vec<wire::GuestEntry>, Trouble> {
        self.get(to, format!("/nodes/{node}/{kind}"), &[], READ_LIMIT, wire::guests).await
    }

    pub async fn guest_config(
        &self,
        to: &HostName,
        guest_path: &str,
    ) -> Result<BTreeMap<String, String>, Trouble> {
        self.get(to, format!("{guest_path}/config"), &[], READ_LIMIT, wire::guest_config).await
    }

    /// `None` where this version of PVE has no such call (containers before 9.0).
    pub async fn precondition(
        &self,
        to: &HostName,
        guest_path: &str,
    ) -> Result<Option<wire::Precondition>, Trouble> {
        let path = format!("{guest_path}/migrate");
        match self.get(to, path, &[], READ_LIMIT, wire::precondition).await {
            Ok(seen) => Ok(Some(seen)),
            Err(Trouble::Refused { status: 501, .. }) => Ok(None),
            Err(trouble) => Err(trouble),
        }
    }

    /// Replication jobs of the guests on a node; `guest` alone where one is named.
    pub async fn replications(
        &self,
        to: &HostName,
        node: &str,
        guest: Option<&str>,
    ) -> Result<Vec<wire::Replication>, Trouble> {
        let params: Vec<(&str, &str)> = guest.map(|guest| ("guest", guest)).into_iter().collect();
        let path = format!("/nodes/{node}/replication");
        self.get(to, path, &params, READ_LIMIT, wire::replications).await
    }

    pub async fn manager_status(&self, to: &HostName) -> Result<wire::HighAvailability, Trouble> {
        let path = "/cluster/ha/status/manager_status".into();
        self.get(to, path, &[], READ_LIMIT, wire::manager_status).await
    }

    pub async fn shutdown_policy(&self, to: &HostName) -> Result<Option<String>, Trouble> {
        self.get(to, "/cluster/options".into(), &[], READ_LIMIT, wire::shutdown_policy).await
    }

    pub async fn storages(&self, to: &HostName) -> Result<Vec<wire::StorageEntry>, Trouble> {
        self.get(to, "/storage".into(), &[], READ_LIMIT, wire::storages).await
    }

    /// `None` where Ceph is not used.
    pub async fn ceph_monitors(
        &self,
        to: &HostName,
        node: &str,
    ) -> Result<Option<Vec<(String, String)>>, Trouble> {
        let path = format!("/nodes/{node}/ceph/mon");
        match self.get(to, path, &[], READ_LIMIT, wire::ceph_monitors).await {
            Ok(monitors) => Ok(Some(monitors)),
            // PVE without the call has no Ceph either, and no other word for a Ceph that is not
            // used (`pve-manager`, `Ceph/Tools.pm`).
            Err(Trouble::Refused { status: 501, .. }) => Ok(None),
            Err(Trouble::Refused { status: 500, sentence })
                if sentence.contains("binary not installed")
                    || sentence.contains("not initialized") =>
            {
                Ok(None)
            }
            Err(trouble) => Err(trouble),
        }
    }

    pub async fn ceph_disks(&self, to: &HostName, node: &str) -> Result<Vec<u64>, Trouble> {
        let path = format!("/nodes/{node}/ceph/osd");
        self.get(to, path, &[], READ_LIMIT, |body| wire::ceph_disks(body, node)).await
    }

    pub async fn ceph_noout(&self, to: &HostName) -> Result<bool, Trouble> {
        self.get(to, "/cluster/ceph/flags".into(), &[], READ_LIMIT, wire::ceph_noout).await
    }

    /// What Ceph says against stopping a daemon.
    pub async fn ceph_safety(
        &self,
        to: &HostName,
        node: &str,
        service: &str,
        id: &str,
    ) -> Result<Option<String>, Trouble> {
        let path = format!("/nodes/{node}/ceph/cmd-safety");
        let params = [("service", service), ("id", id), ("action", "stop")];
        self.get(to, path, &params, READ_LIMIT, wire::ceph_safety).await
    }

    /// `None` where the host knows no such task.
    pub async fn task(
        &self,
        to: &HostName,
        node: &str,
        upid: &str,
    ) -> Result<Option<wire::TaskEntry>, Trouble> {
        let path = format!("/nodes/{node}/tasks/{upid}/status");
        match self.get(to, path, &[], READ_LIMIT, wire::task_status).await {
            Ok(task) => Ok(Some(task)),
            Err(Trouble::Refused { status: 400, sentence })
                if sentence.contains("no such task") =>
            {
                Ok(None)
            }
            Err(trouble) => Err(trouble),
        }
    }

    /// Running and ended tasks of a node.
    pub async fn node_tasks(
        &self,
        to: &HostName,
        node: &str,
        filter: &[(&str, &str)],
    ) -> Result<Vec<wire::TaskEntry>, Trouble> {
        let mut params = vec![("source", "all")];
        params.extend_from_slice(filter);
        let path = format!("/nodes/{node}/tasks");
        self.get(to, path, &params, READ_LIMIT, wire::tasks).await
    }
}

/// One clause for a reply that is no 200: who, what, why, and what mends it where that is known.
fn refusal(to: &HostName, token: &str, path: &str, reply: &Reply) -> String {
    let text = wire::error_text(&reply.body).unwrap_or_else(|| reply.reason.trim().to_owned());
    let text = if text.is_empty() { format!("status {}", reply.status) } else { text };
    match reply.status {
        401 => unauthorised(to, token, &text),
        403 => forbidden(to, token, &text),
        301 | 302 | 307 | 308 => {
            format!(
                "{to} redirects {path} elsewhere ({text}); its URL must name PVE's own port 8006"
            )
        }
        501 => format!("{to} does not know this call: {text}"),
        595 => format!("{to} could not connect to the host it should forward to: {text}"),
        596..=599 => format!("{to} lost the host it forwarded to: {text}"),
        _ => format!("{to} answered: {text}"),
    }
}

/// PVE says `Authentication failed!` for a wrong secret and an unknown, expired or disabled token
/// alike; when pmxcfs restarts it may say so of a good one.
fn unauthorised(to: &HostName, token: &str, text: &str) -> String {
    let (user, name) = token.split_once('!').unwrap_or((token, "spot"));
    format!(
        "{to} does not accept the token {token}: {text} (is it there, not expired, and its secret \
         right? `pveum user token list {user}` shows it, `pveum user token add {user} {name}` \
         makes a new one)"
    )
}

/// `Permission check failed (/vms/100, VM.Migrate)`: which right, on which path, and the line that
/// grants it.
fn forbidden(to: &HostName, token: &str, text: &str) -> String {
    let inside = text.split_once('(').and_then(|(_, rest)| rest.split_once(')'));
    let named = inside.and_then(|(inside, _)| inside.split_once(','));
    let Some((path, right)) = named else {
        return format!("{to} does not let the token {token} do this: {text}");
    };
    let (path, right) = (path.trim(), right.trim());
    let grant = rights::grant(token, path, right);
    format!("the token {token} lacks {right} on {path}: {grant}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, reason: &str, body: &str) -> Reply {
        Reply { status, reason: reason.into(), body: body.into() }
    }

    fn said(status: u16, reason: &str, body: &str) -> String {
        refusal(&"host1".into(), "spot@pve!spot", "/cluster/status", &reply(status, reason, body))
    }

    #[test]
    fn a_refused_token_is_named_and_its_remedy() {
        let sentence = said(401, "Authentication failed!", "");
        assert!(
            sentence.starts_with("host1 does not accept the token spot@pve!spot: Authentication")
        );
        assert!(sentence.contains("pveum user token add spot@pve spot"));
    }

    #[test]
    fn a_missing_right_names_right_path_and_line() {
        let body = r#"{"data":null,"message":"Permission check failed (/vms/100, VM.Migrate)\n"}"#;
        let sentence = said(403, "Permission check failed (/vms/100, VM.Migrate)", body);
        assert!(sentence.contains("lacks VM.Migrate on /vms/100"), "{sentence}");
        assert!(
            sentence.contains("pveum acl modify /vms --roles SpotGuest --tokens 'spot@pve!spot'")
        );
        let power = said(403, "Permission check failed (/nodes/pve3, Sys.PowerMgmt)", "");
        assert!(power.contains("acl modify /nodes/pve3 --roles SpotNode"), "{power}");
        let root = said(403, "Permission check failed (user != root@pam)", "");
        assert!(root.contains("user != root@pam"));
    }

    #[test]
    fn the_reason_phrase_speaks_where_the_body_is_silent() {
        assert_eq!(
            said(500, "VM is locked (backup)", r#"{"data":null}"#),
            "host1 answered: VM is locked (backup)"
        );
        assert!(said(595, "No route to host", "").ends_with("forward to: No route to host"));
        assert_eq!(said(500, "", ""), "host1 answered: status 500");
    }

    #[derive(Clone)]
    struct Says(Result<Reply, Fault>);

    impl Transport for Says {
        async fn send(&self, _: Call) -> Result<Reply, Fault> {
            self.0.clone()
        }
    }

    #[tokio::test]
    async fn every_answer_to_a_post_is_clear_or_said_to_be_unclear() {
        let upid = "UPID:pve1:00000600:0008360B:6B03C034:qmigrate:100:root@pam!full:";
        let accepted = reply(200, "OK", &format!(r#"{{"data":"{upid}"}}"#));
        let cases = [
            (Ok(accepted), "accepted"),
            (Ok(reply(200, "OK", r#"{"data":null}"#)), "accepted"),
            (Ok(reply(200, "OK", r#"{"da"#)), "ambiguous"),
            (Ok(reply(500, "VM is locked (migrate)", "")), "refused"),
            (Ok(reply(403, "Permission check failed", "")), "refused"),
            (Ok(reply(401, "No ticket", "")), "refused"),
            (Ok(reply(501, "Method not implemented", "")), "refused"),
            (Ok(reply(595, "Connection refused", "")), "undelivered"),
            (Ok(reply(596, "Connection timed out", "")), "ambiguous"),
            (Ok(reply(599, "Too many redirections", "")), "ambiguous"),
            (Err(Fault::Unreached("refused".into())), "undelivered"),
            (Err(Fault::Untrusted("other".into())), "undelivered"),
            (Err(Fault::Lost("timed out".into())), "ambiguous"),
        ];
        for (answer, meant) in cases {
            let client = Client::new(Says(answer.clone()), "spot@pve!spot".into());
            let answered = client.post(&"host1".into(), "/x".into(), Vec::new()).await;
            let got = match &answered {
                Answered::Accepted { .. } => "accepted",
                Answered::Sent { .. } => "sent",
                Answered::Refused { .. } => "refused",
                Answered::Undelivered { .. } => "undelivered",
                Answered::Ambiguous { .. } => "ambiguous",
            };
            assert_eq!(got, meant, "{answer:?}");
        }
    }
}
