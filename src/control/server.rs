//! The answering end of the control socket.
//!
//! **Does not know:** the service's insides: asks go into its mailbox, pictures come from its
//! window.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot, watch};

use super::{LINE_BYTES, Look, PEERS, Reply, Said, Sent, VERSION, Wish};
use crate::service::Asking;
use crate::status::{Agenda, EntryShown, History, Picture, Trouble};

/// A peer that says nothing for this long is let go.
const IDLE: Duration = Duration::from_secs(60);
/// A peer that does not read for this long is let go.
const WRITE_WITHIN: Duration = Duration::from_secs(10);
/// Longer than an ask may wait for its turn.
const TURN_WITHIN: Duration = Duration::from_secs(40);

/// What past entries are read with: host, since, limit.
pub type Recall = Arc<
    dyn Fn(
            Option<&crate::cluster::HostName>,
            Option<jiff::Timestamp>,
            Option<u32>,
        ) -> Result<Vec<EntryShown>, Trouble>
        + Send
        + Sync,
>;

/// Everything the socket needs of the service.
#[derive(Clone)]
pub struct Control {
    pub mailbox: mpsc::Sender<Asking>,
    pub pictures: watch::Receiver<Arc<Picture>>,
    pub entries: broadcast::Sender<EntryShown>,
    pub recall: Recall,
}

/// Opens the socket, mode 0660. A socket left by a service that died is replaced; one that answers,
/// and anything that is not a socket, is left alone.
pub fn bind(path: &Path) -> Result<UnixListener, Trouble> {
    let trouble = |what: String, remedy: String| Trouble { sentence: what, remedy };
    if let Ok(there) = std::fs::symlink_metadata(path) {
        if !there.file_type().is_socket() {
            return Err(trouble(
                format!("{} is in the way: it is not a socket", path.display()),
                "give another path as `socket:` in spot.yaml, or move that file away".into(),
            ));
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(trouble(
                format!("another service answers at {}", path.display()),
                "stop it first: systemctl stop spot".into(),
            ));
        }
        std::fs::remove_file(path).map_err(|fault| cannot_open(path, &fault))?;
    }
    let listener = UnixListener::bind(path).map_err(|fault| cannot_open(path, &fault))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))
        .map_err(|fault| cannot_open(path, &fault))?;
    Ok(listener)
}

fn cannot_open(path: &Path, fault: &io::Error) -> Trouble {
    let folder = path.parent().map(Path::to_path_buf).unwrap_or_else(|| PathBuf::from("/"));
    Trouble {
        sentence: format!("cannot open the socket {}: {fault}", path.display()),
        remedy: format!("make sure that {} exists and spot may write there", folder.display()),
    }
}

impl Control {
    /// Answers peers until dropped. Each peer has a task of its own and cannot delay a turn.
    pub async fn serve(self, listener: UnixListener) {
        let places = Arc::new(Semaphore::new(PEERS));
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                // Out of file descriptors or the like: peers that leave make room.
                Err(_) => {
                    pause().await;
                    continue;
                }
            };
            match places.clone().try_acquire_owned() {
                Ok(place) => {
                    let control = self.clone();
                    tokio::spawn(async move {
                        control.attend(stream).await;
                        drop(place);
                    });
                }
                Err(_full) => {
                    tokio::spawn(turn_away(stream));
                }
            }
        }
    }

    /// One peer, until it leaves, errs or falls silent.
    async fn attend(&self, stream: UnixStream) {
        let by = peer(&stream);
        let (read, mut write) = stream.into_split();
        let mut read = BufReader::new(read);
        loop {
            let line = match tokio::time::timeout(IDLE, next_line(&mut read)).await {
                Ok(Ok(Line::Whole(line))) => line,
                Ok(Ok(Line::TooLong)) => {
                    let said = error(
                        format!("the request is longer than {} KiB", LINE_BYTES / 1024),
                        "send one short JSON line per request",
                    );
                    // What follows of that line cannot be told from a new one: the talk ends here.
                    let _gone_anyway = say(&mut write, said).await;
                    return;
                }
                Ok(Ok(Line::End) | Err(_)) | Err(_) => return,
            };
            let sent = match parse(&line) {
                Ok(sent) => sent,
                Err(said) => match say(&mut write, *said).await {
                    Ok(()) => continue,
                    Err(_) => return,
                },
            };
            let said = match sent.what {
                Wish::Follow(true) => return self.tell(&mut read, &mut write).await,
                Wish::Follow(false) => {
                    error("`follow` can only be true".into(), "close the connection to stop it")
                }
                Wish::Ask(ask) => self.ask(ask, &by, sent.confirmed).await,
                Wish::Look(look) => self.look(look),
            };
            if say(&mut write, said).await.is_err() {
                return;
            }
        }
    }

    async fn ask(&self, ask: crate::service::Ask, by: &str, confirmed: bool) -> Said {
        let (answer, answered) = oneshot::channel();
        let asking = Asking { ask, by: by.to_owned(), confirmed, answer: Some(answer) };
        if let Err(full) = self.mailbox.try_send(asking) {
            return match full {
                mpsc::error::TrySendError::Full(_) => {
                    error("too much is asked at once".into(), "wait a few seconds and ask again")
                }
                mpsc::error::TrySendError::Closed(_) => stopping(),
            };
        }
        match tokio::time::timeout(TURN_WITHIN, answered).await {
            Ok(Ok(asked)) => Said::Answered(asked),
            Ok(Err(_dropped)) => stopping(),
            Err(_late) => error(
                "the service is busy; what you asked may still be taken up".into(),
                "see `spot history` in a moment",
            ),
        }
    }

    fn look(&self, look: Look) -> Said {
        let picture = self.pictures.borrow().clone();
        let status = &picture.status;
        let document = match look {
            Look::Status => serde_json::to_value(status),
            Look::Plan => serde_json::to_value(&picture.plan),
            Look::Why { host } => match status.why(&host) {
                Some(why) => serde_json::to_value(why),
                None => {
                    let known: Vec<&str> =
                        status.hosts.iter().map(|shown| shown.name.as_str()).collect();
                    return error(
                        format!("there is no host {host}"),
                        &format!("known hosts: {}", known.join(", ")),
                    );
                }
            },
            Look::Agenda { days, from } => match &picture.policy {
                Some(policy) => serde_json::to_value(Agenda::of(
                    policy,
                    &picture.backups,
                    status.cluster.clone(),
                    from.unwrap_or(status.at),
                    days,
                )),
                None => {
                    return error(
                        "there is no valid policy yet, so there is no agenda".into(),
                        "spot check shows what is wrong with the policy files",
                    );
                }
            },
            Look::History { host, since, limit } => {
                match (self.recall)(host.as_ref(), since, limit) {
                    Ok(entries) => serde_json::to_value(History {
                        version: crate::status::VERSION,
                        cluster: status.cluster.clone(),
                        entries,
                    }),
                    Err(trouble) => return Said::Error(trouble),
                }
            }
        };
        Said::Seen(document.expect("our documents are always JSON"))
    }

    /// Sends the status as it stands, then every entry and every later status, until the peer
    /// closes.
    async fn tell(&self, read: &mut BufReader<OwnedReadHalf>, write: &mut OwnedWriteHalf) {
        // Subscribed before the first status is read, so that nothing falls between the two.
        let mut entries = self.entries.subscribe();
        let mut pictures = self.pictures.clone();
        pictures.mark_changed();
        let mut ignored = [0u8; 1];
        loop {
            let said = tokio::select! {
                biased;
                // Entries first: a status comes after what led to it.
                entry = entries.recv() => match entry {
                    Ok(entry) => Said::Entry(entry),
                    // A slow follower misses old entries; the history has them.
                    Err(broadcast::error::RecvError::Lagged(_)) => continue,
                    Err(broadcast::error::RecvError::Closed) => return,
                },
                changed = pictures.changed() => match changed {
                    Ok(()) => {
                        let picture = pictures.borrow_and_update().clone();
                        Said::Status(Box::new(picture.status.clone()))
                    }
                    Err(_ended) => return,
                },
                // A follower has nothing more to say: whatever comes, it is leaving.
                _ = read.read(&mut ignored) => return,
            };
            if say(write, said).await.is_err() {
                return;
            }
        }
    }
}

fn stopping() -> Said {
    error("the service is stopping".into(), "ask again when it runs: systemctl status spot")
}

enum Line {
    Whole(Vec<u8>),
    TooLong,
    End,
}

async fn next_line(read: &mut BufReader<OwnedReadHalf>) -> io::Result<Line> {
    let mut line = Vec::new();
    let limit = u64::try_from(LINE_BYTES).expect("a small constant");
    read.take(limit + 1).read_until(b'\n', &mut line).await?;
    Ok(match line.last() {
        None => Line::End,
        Some(b'\n') => Line::Whole(line),
        Some(_) if line.len() > LINE_BYTES => Line::TooLong,
        // Closed in the middle of a line: the peer did not mean it.
        Some(_) => Line::End,
    })
}

fn parse(line: &[u8]) -> Result<Sent, Box<Said>> {
    #[derive(serde::Deserialize)]
    struct Versioned {
        v: u32,
    }
    let help = r#"one JSON line such as {"v":1,"look":{"at":"status"}}"#;
    let versioned: Versioned = serde_json::from_slice(line).map_err(|fault| {
        Box::new(error(format!("the request is not understood: {fault}"), help))
    })?;
    if versioned.v != VERSION {
        return Err(Box::new(error(
            format!("this service speaks version {VERSION}, not {}", versioned.v),
            "use the `spot` command of the service's own version, or restart the service",
        )));
    }
    serde_json::from_slice(line)
        .map_err(|fault| Box::new(error(format!("the request is not understood: {fault}"), help)))
}

async fn say(write: &mut OwnedWriteHalf, what: Said) -> io::Result<()> {
    let mut line = serde_json::to_vec(&Reply { v: VERSION, what }).expect("always JSON");
    line.push(b'\n');
    match tokio::time::timeout(WRITE_WITHIN, write.write_all(&line)).await {
        Ok(written) => written,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

async fn turn_away(stream: UnixStream) {
    let (_read, mut write) = stream.into_split();
    let said = error(
        format!("{PEERS} peers talk to the service already"),
        "close one, or try again in a moment",
    );
    let _gone_anyway = say(&mut write, said).await;
}

/// The least pause before the next try to accept a peer.
#[expect(
    clippy::disallowed_methods,
    reason = "real sockets ran out; no clock of a site is waited for"
)]
async fn pause() {
    tokio::time::sleep(Duration::from_millis(200)).await;
}

fn error(sentence: String, remedy: &str) -> Said {
    Said::Error(Trouble { sentence, remedy: remedy.to_owned() })
}

/// Who is at the other end, as the kernel says: a user's name, or its number where it has no name.
fn peer(stream: &UnixStream) -> String {
    let Ok(credentials) = stream.peer_cred() else {
        return "somebody".into();
    };
    let uid = nix::unistd::Uid::from_raw(credentials.uid());
    match nix::unistd::User::from_uid(uid) {
        Ok(Some(user)) => user.name,
        Ok(None) | Err(_) => format!("user {uid}"),
    }
}
