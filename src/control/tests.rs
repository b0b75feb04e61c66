//! The control socket with real sockets in a temporary folder; a few lines stand in for the
//! service.
//!
//! **Does not know:** what the service makes of an ask.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{broadcast, mpsc, watch};

use super::*;
use crate::cluster::Moment;
use crate::gate::{Here, Mode};
use crate::plan::Plan;
use crate::service::Asking;
use crate::status::{Footing, Picture, PlanShown, PolicyShown};

struct House {
    _folder: tempfile::TempDir,
    path: PathBuf,
    asks: mpsc::Receiver<Asking>,
    pictures: watch::Sender<Arc<Picture>>,
    entries: broadcast::Sender<EntryShown>,
}

fn picture(second: i64) -> Arc<Picture> {
    let footing = Footing {
        cluster: "home".into(),
        mode: Mode::Act,
        here: Here::Outside,
        policy: PolicyShown::default(),
        trouble: None,
    };
    let civil = Timestamp::from_second(second).unwrap();
    let status = footing.blank_status(Moment { civil, monotonic: Duration::ZERO });
    let plan = PlanShown::of(&Plan::default(), &status);
    Arc::new(Picture { status, plan, policy: None, backups: Vec::new() })
}

fn entry(seq: u64) -> EntryShown {
    EntryShown {
        seq,
        at: Timestamp::UNIX_EPOCH,
        who: "host3".into(),
        kind: "host_came".into(),
        sentence: "host3 joined the cluster: off → awake".into(),
        host: Some("host3".into()),
        guest: None,
    }
}

/// A socket with nobody behind the mailbox but the test.
fn house() -> House {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spot.sock");
    let (mailbox, asks) = mpsc::channel(4);
    let pictures = watch::Sender::new(picture(0));
    let entries = broadcast::Sender::new(16);
    let control = Control {
        mailbox,
        pictures: pictures.subscribe(),
        entries: entries.clone(),
        recall: Arc::new(|host, _since, limit| match host.map(HostName::as_str) {
            Some("host3") => Ok((0..u64::from(limit.unwrap_or(2))).map(entry).collect()),
            Some(_) | None => {
                Err(Trouble { sentence: "no journal".into(), remedy: "start spot".into() })
            }
        }),
    };
    tokio::spawn(control.serve(bind(&path).unwrap()));
    House { _folder: folder, path, asks, pictures, entries }
}

/// Sends raw bytes and gives the first line that comes back.
async fn raw(house: &House, bytes: &[u8]) -> String {
    let mut stream = BufReader::new(UnixStream::connect(&house.path).await.unwrap());
    // It may hang up before it has read everything: what it says counts.
    let _hung_up = stream.get_mut().write_all(bytes).await;
    let mut line = String::new();
    stream.read_line(&mut line).await.unwrap();
    line
}

fn me() -> String {
    let uid = nix::unistd::Uid::current();
    nix::unistd::User::from_uid(uid).unwrap().map_or(format!("user {uid}"), |user| user.name)
}

#[tokio::test]
async fn an_ask_reaches_the_service_in_the_name_of_whoever_asked() {
    let mut house = house();
    let ask = Ask::Freeze { host: "host3".into() };
    let mut client = Client::connect(&house.path).await.unwrap();
    let (said, ()) = tokio::join!(client.ask(ask.clone(), true), async {
        let asking = house.asks.recv().await.unwrap();
        assert_eq!((&asking.ask, asking.by, asking.confirmed), (&ask, me(), true));
        let sentences = vec!["host3 is left exactly as it is".into()];
        asking.answer.unwrap().send(Asked::Taken { sentences }).unwrap();
    });
    assert!(matches!(said.unwrap(), Asked::Taken { sentences } if sentences.len() == 1));
}

#[tokio::test]
async fn the_socket_is_for_its_owner_and_group() {
    let house = house();
    let mode = std::fs::metadata(&house.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
}

#[tokio::test]
async fn what_is_looked_at_is_what_was_published() {
    let house = house();
    let mut client = Client::connect(&house.path).await.unwrap();
    let status: Status = serde_json::from_value(client.look(Look::Status).await.unwrap()).unwrap();
    assert_eq!(status, house.pictures.borrow().status);
    house.pictures.send_replace(picture(60));
    let status = client.look(Look::Status).await.unwrap();
    assert_eq!(status["at"], "1970-01-01T00:01:00Z");
    let plan = client.look(Look::Plan).await.unwrap();
    assert_eq!(plan["version"], 1);
    let history = Look::History { host: Some("host3".into()), since: None, limit: Some(3) };
    assert_eq!(client.look(history).await.unwrap()["entries"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn what_cannot_be_looked_at_is_said_with_a_remedy() {
    let house = house();
    let mut client = Client::connect(&house.path).await.unwrap();
    let mut fault = async |look| client.look(look).await.unwrap_err();
    assert_eq!(
        fault(Look::Why { host: "host9".into() }).await.to_string(),
        "there is no host host9"
    );
    let no_policy = fault(Look::Agenda { days: 7, from: None }).await;
    assert!(no_policy.remedy().starts_with("spot check"), "{no_policy}");
    let history = Look::History { host: None, since: None, limit: None };
    assert_eq!(fault(history).await.remedy(), "start spot");
}

#[tokio::test]
async fn a_follower_hears_the_status_then_everything_that_happens_in_order() {
    let house = house();
    let client = Client::connect(&house.path).await.unwrap();
    let mut following = client.follow().await.unwrap();
    let first = following.next().await.unwrap().unwrap();
    assert!(matches!(first, News::Status(status) if status.at == Timestamp::UNIX_EPOCH));
    house.entries.send(entry(7)).unwrap();
    house.pictures.send_replace(picture(60));
    assert!(matches!(following.next().await.unwrap(), Some(News::Entry(entry)) if entry.seq == 7));
    assert!(matches!(following.next().await.unwrap(), Some(News::Status(_))));
    drop(house.pictures);
    assert!(following.next().await.unwrap().is_none(), "the service ended");
}

#[tokio::test]
async fn hostile_bytes_get_a_sentence() {
    let house = house();
    for (bytes, expected) in [
        (&b"\n"[..], "the request is not understood"),
        (b"rm -rf /\n", "the request is not understood"),
        (b"\xff\xfe\x00\n", "the request is not understood"),
        (b"{}\n", "missing field `v`"),
        (br#"{"v":2,"look":{"at":"status"}}"#, "speaks version 1, not 2"),
        (br#"{"v":1}"#, "the request is not understood"),
        (br#"{"v":1,"look":{"at":"the stars"}}"#, "unknown variant `the stars`"),
        (br#"{"v":1,"ask":{"want":"power_off","host":"host1"}}"#, "unknown variant `power_off`"),
        (br#"{"v":1,"ask":{"want":"freeze","host":"host3","by":"root"}}"#, "unknown field `by`"),
        (br#"{"v":1,"ask":{"want":"up","hosts":["host3"],"for_seconds":-5}}"#, "invalid value"),
        (br#"{"v":1,"follow":false}"#, "`follow` can only be true"),
    ] {
        let mut bytes = bytes.to_vec();
        bytes.push(b'\n');
        let line = raw(&house, &bytes).await;
        assert!(line.starts_with(r#"{"v":1,"error":{"sentence":"#), "{line}");
        assert!(line.contains(expected), "{line}");
        assert!(line.contains(r#""remedy":"#), "{line}");
    }
    let nested = r#"{"v":1,"look":"#.to_owned() + &"[".repeat(50_000) + "\n";
    assert!(raw(&house, nested.as_bytes()).await.contains("is not understood"));
}

#[tokio::test]
async fn a_line_without_an_end_is_cut_off() {
    let house = house();
    let line = raw(&house, &vec![b'a'; 1024 * 1024]).await;
    assert!(line.contains("longer than 64 KiB"), "{line}");
}

#[tokio::test]
async fn after_a_mistake_the_talk_goes_on() {
    let house = house();
    let mut stream = BufReader::new(UnixStream::connect(&house.path).await.unwrap());
    let both = b"nonsense\n{\"v\":1,\"look\":{\"at\":\"plan\"}}\n";
    stream.get_mut().write_all(both).await.unwrap();
    let mut lines = stream.lines();
    assert!(lines.next_line().await.unwrap().unwrap().contains("error"));
    assert!(lines.next_line().await.unwrap().unwrap().contains(r#""seen":{"#));
}

#[tokio::test]
async fn one_peer_too_many_is_turned_away_and_room_comes_back() {
    let house = house();
    let mut peers = Vec::new();
    for _ in 0..PEERS {
        let mut client = Client::connect(&house.path).await.unwrap();
        client.look(Look::Plan).await.unwrap();
        peers.push(client);
    }
    let line = raw(&house, b"").await;
    assert!(line.contains("32 peers talk to the service already"), "{line}");
    drop(peers.pop());
    // The place is free once the service has seen the peer leave.
    let client = loop {
        let mut client = Client::connect(&house.path).await.unwrap();
        if client.look(Look::Plan).await.is_ok() {
            break client;
        }
        tokio::task::yield_now().await;
    };
    drop(client);
}

#[tokio::test]
async fn a_full_mailbox_and_a_stopped_service_are_said() {
    let mut house = house();
    let ask = Ask::Thaw { host: "host3".into() };
    let mut waiting = Vec::new();
    for _ in 0..4 {
        let mut client = Client::connect(&house.path).await.unwrap();
        let ask = ask.clone();
        waiting.push(tokio::spawn(async move { client.ask(ask, false).await }));
    }
    while house.asks.len() < 4 {
        tokio::task::yield_now().await;
    }
    let mut client = Client::connect(&house.path).await.unwrap();
    let full = client.ask(ask.clone(), false).await.unwrap_err();
    assert_eq!(full.to_string(), "too much is asked at once");
    house.asks.close();
    while house.asks.recv().await.is_some() {}
    for waiting in waiting {
        assert_eq!(waiting.await.unwrap().unwrap_err().to_string(), "the service is stopping");
    }
    let stopped = client.ask(ask, false).await.unwrap_err();
    assert_eq!(stopped.to_string(), "the service is stopping");
}

#[tokio::test]
async fn a_socket_left_behind_is_replaced_and_a_living_one_is_not() {
    let house = house();
    let living = bind(&house.path).unwrap_err();
    assert!(living.sentence.starts_with("another service answers at"), "{living:?}");

    let folder = tempfile::tempdir().unwrap();
    let left = folder.path().join("left.sock");
    drop(std::os::unix::net::UnixListener::bind(&left).unwrap());
    bind(&left).unwrap();

    let file = folder.path().join("notes.txt");
    std::fs::write(&file, "buy milk").unwrap();
    assert!(bind(&file).unwrap_err().sentence.ends_with("is in the way: it is not a socket"));
    assert!(bind(&folder.path().join("none/spot.sock")).is_err());
}

#[tokio::test]
async fn a_service_that_does_not_run_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let nobody = Client::connect(&folder.path().join("spot.sock")).await.map(|_| ()).unwrap_err();
    assert!(matches!(nobody, Unheard::NotRunning { .. }));
    assert_eq!(nobody.remedy(), "start it: systemctl start spot");
}
