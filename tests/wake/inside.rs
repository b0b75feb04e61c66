//! What this test's program does when it is started again inside a machine: send, listen, mark.
//!
//! The senders here are plain sockets in the forms that people try; [`volley`] is `spot`'s own.
//!
//! **Does not know:** which machine it is in.

use std::error::Error;
use std::ffi::OsString;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, sendto,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use spot::cluster::{Mac, Way};
use spot::site::Waker;
use spot::wake::{Sockets, magic};

use super::wires::SLEEPER;

/// An EtherType for experiments: it ends the listening.
const MARK: [u8; 2] = [0x88, 0xb5];
/// A mark comes within moments; a listener that hears none has lost its interface.
const LISTEN_SECONDS: i64 = 20;

type Outcome = Result<(), Box<dyn Error>>;

pub fn act(arguments: &[String]) -> Outcome {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["hear", interface] => hear(interface),
        ["mark", interface] => {
            let frame = [&[0xff; 6][..], &own(interface)?, &MARK, &[0; 46]].concat();
            throw(interface, &frame)
        }
        ["frame", interface, to] => {
            let sleeper: Mac = SLEEPER.parse()?;
            let to = if *to == "everybody" { [0xff; 6] } else { sleeper.0 };
            let frame = [&to[..], &own(interface)?, &[0x08, 0x42], &magic(sleeper)].concat();
            throw(interface, &frame)
        }
        ["learn", interface, from] => {
            let from: Mac = from.parse()?;
            throw(interface, &[&[0xff; 6][..], &from.0, &[0x88, 0xb6], &[0; 46]].concat())
        }
        ["udp", to, how @ ..] => udp(to.parse()?, how),
        ["volley", ways, only @ ..] => volley(ways, only),
        other => Err(format!("there is no {other:?}").into()),
    }
}

/// A datagram as anybody would send one; says how it went.
fn udp(to: SocketAddr, how: &[&str]) -> Outcome {
    let mut from = "0.0.0.0";
    let (mut device, mut broadcast) = (None, true);
    for word in how {
        match word.split_once('=') {
            Some(("from", address)) => from = address,
            Some(("device", name)) => device = Some(name),
            _ => broadcast = false,
        }
    }
    let socket = UdpSocket::bind((from, 0))?;
    socket.set_broadcast(broadcast)?;
    if let Some(name) = device {
        setsockopt(&socket, sockopt::BindToDevice, &OsString::from(name))?;
    }
    match socket.send_to(&magic(SLEEPER.parse()?), to) {
        Ok(_) => println!("sent"),
        Err(why) => println!("{:?}", Errno::from_raw(why.raw_os_error().unwrap_or(0))),
    }
    Ok(())
}

/// `spot`'s own volley by `ways` (JSON), to nowhere but `only` where given.
fn volley(ways: &str, only: &[&str]) -> Outcome {
    let ways: Vec<Way> = serde_json::from_str(ways)?;
    let only = only.iter().map(|at| at.parse()).collect::<Result<_, _>>()?;
    let sockets = Sockets::new(only, |_| Ok("01:02:03:04:05:06".into()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match runtime.block_on(sockets.volley(&ways)) {
        Ok((packets, by)) => println!("{packets} by {}", by.join(", ")),
        Err(why) => println!("none: {why}"),
    }
    Ok(())
}

/// The interface's place in the kernel's list: where frames are sent and heard.
fn link(interface: &str) -> Result<LinkAddr, Box<dyn Error>> {
    nix::ifaddrs::getifaddrs()?
        .filter(|found| found.interface_name == interface)
        .find_map(|found| found.address.as_ref().and_then(|a| a.as_link_addr()).copied())
        .ok_or_else(|| format!("there is no interface {interface}").into())
}

fn own(interface: &str) -> Result<[u8; 6], Box<dyn Error>> {
    link(interface)?.addr().ok_or_else(|| "it has no address".into())
}

fn frames(listens: bool) -> Result<OwnedFd, Box<dyn Error>> {
    let everything = listens.then_some(SockProtocol::EthAll);
    Ok(socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, everything)?)
}

fn throw(interface: &str, frame: &[u8]) -> Outcome {
    sendto(frames(false)?.as_raw_fd(), frame, &link(interface)?, MsgFlags::empty())?;
    Ok(())
}

/// Tells every frame with the sleeper's magic packet in it, as its firmware would look for one:
/// anywhere in the frame. Ends at the mark.
fn hear(interface: &str) -> Outcome {
    let socket = frames(true)?;
    bind(socket.as_raw_fd(), &link(interface)?)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(LISTEN_SECONDS))?;
    println!("ready");
    let wanted = magic(SLEEPER.parse()?);
    let mut frame = [0; 2048];
    loop {
        let length = match recv(socket.as_raw_fd(), &mut frame, MsgFlags::empty()) {
            Ok(length) => length,
            // Told once when the interface goes down; when it is up again frames come again.
            Err(Errno::ENETDOWN) => continue,
            Err(why) => return Err(why.into()),
        };
        let frame = &frame[..length];
        if frame[12..14] == MARK {
            return Ok(());
        }
        if frame.windows(wanted.len()).any(|part| part == wanted) {
            let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
            println!("{hex}");
        }
    }
}
