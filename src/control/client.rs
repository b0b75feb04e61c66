//! The asking end of the control socket.
//!
//! **Does not know:** how an answer is printed.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::{Look, News, Reply, Said, Sent, Unheard, VERSION, Wish};
use crate::service::{Ask, Asked};

/// A turn takes up to 15 s (5 s of observing, 10 s of asking), and an ask waits for the next one.
const ANSWER_WITHIN: Duration = Duration::from_secs(45);

/// One connection to the service; it serves any number of asks and looks, one at a time.
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    pub async fn connect(path: &Path) -> Result<Client, Unheard> {
        let shown = || path.display().to_string();
        match UnixStream::connect(path).await {
            Ok(stream) => Ok(Client { stream: BufReader::new(stream) }),
            Err(source) if source.kind() == ErrorKind::PermissionDenied => {
                Err(Unheard::Forbidden { path: shown(), source })
            }
            Err(source) => Err(Unheard::NotRunning { path: shown(), source }),
        }
    }

    /// Asks for something; the answer comes with the service's next turn.
    pub async fn ask(&mut self, ask: Ask, confirmed: bool) -> Result<Asked, Unheard> {
        match self.exchange(Wish::Ask(ask), confirmed).await? {
            Said::Answered(asked) => Ok(asked),
            other => Err(strange(&other)),
        }
    }

    /// Looks at one of the published documents.
    pub async fn look(&mut self, look: Look) -> Result<serde_json::Value, Unheard> {
        match self.exchange(Wish::Look(look), false).await? {
            Said::Seen(document) => Ok(document),
            other => Err(strange(&other)),
        }
    }

    /// From here on the service tells what happens: first the status as it stands.
    pub async fn follow(mut self) -> Result<Following, Unheard> {
        self.send(Wish::Follow(true), false).await?;
        Ok(Following { client: self })
    }

    async fn exchange(&mut self, wish: Wish, confirmed: bool) -> Result<Said, Unheard> {
        self.send(wish, confirmed).await?;
        match tokio::time::timeout(ANSWER_WITHIN, self.hear()).await {
            Ok(heard) => heard?.ok_or(Unheard::Closed),
            Err(_late) => Err(Unheard::Late),
        }
    }

    async fn send(&mut self, what: Wish, confirmed: bool) -> Result<(), Unheard> {
        let sent = Sent { v: VERSION, what, confirmed };
        let mut line = serde_json::to_string(&sent).expect("our own words are always JSON");
        line.push('\n');
        match self.stream.get_mut().write_all(line.as_bytes()).await {
            Ok(()) => Ok(()),
            // The service may have said why before it closed; that is worth more than "broken
            // pipe".
            Err(broken) => match self.hear().await {
                Err(said @ Unheard::Said(_)) => Err(said),
                Ok(_) | Err(_) => Err(Unheard::Broken(broken)),
            },
        }
    }

    /// The next line; `None` when the service closed the connection.
    async fn hear(&mut self) -> Result<Option<Said>, Unheard> {
        let mut line = String::new();
        if self.stream.read_line(&mut line).await.map_err(Unheard::Broken)? == 0 {
            return Ok(None);
        }
        let reply: Reply =
            serde_json::from_str(&line).map_err(|fault| Unheard::Strange(fault.to_string()))?;
        match reply.what {
            Said::Error(trouble) => Err(Unheard::Said(trouble)),
            said => Ok(Some(said)),
        }
    }
}

/// What the service tells as it happens.
pub struct Following {
    client: Client,
}

impl Following {
    /// Waits for the next news; `None` when the service has ended.
    pub async fn next(&mut self) -> Result<Option<News>, Unheard> {
        match self.client.hear().await? {
            None => Ok(None),
            Some(Said::Status(status)) => Ok(Some(News::Status(status))),
            Some(Said::Entry(entry)) => Ok(Some(News::Entry(entry))),
            Some(other) => Err(strange(&other)),
        }
    }
}

fn strange(said: &Said) -> Unheard {
    let word = match said {
        Said::Answered(_) => "answered",
        Said::Seen(_) => "seen",
        Said::Status(_) => "status",
        Said::Entry(_) => "entry",
        Said::Error(_) => "error",
    };
    Unheard::Strange(format!("`{word}` where something else was due"))
}
