//! Magic packets as bare Ethernet frames (EtherType 0x0842), without IP.
//!
//! A frame needs no address, no route and no neighbour: it leaves by an interface that has nothing
//! configured, and no kernel rewrites it on its way. One goes to everybody (`ff:ff:ff:ff:ff:ff`),
//! because a switch that has learned the sleeper's address on another port would lead a frame for
//! it astray; one goes to the sleeper itself, because some ports are kept free of broadcasts.
//! Sending needs `CAP_NET_RAW`; without that right UDP packets must do.
//!
//! The destination of such a send is the interface, and the kernel's own list of interfaces hands
//! out exactly that, so no address is put together by hand.
//!
//! **Does not know:** which interfaces packets ought to leave by.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, sendto, socket};

use crate::cluster::Mac;

/// Wake-on-LAN's own EtherType.
const WAKE_ON_LAN: [u8; 2] = [0x08, 0x42];
const EVERYBODY: [u8; 6] = [0xff; 6];
/// Ethernet among the kernel's kinds of hardware (`ARPHRD_ETHER`).
const ETHERNET: u16 = 1;

/// An Ethernet interface as the kernel lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link(LinkAddr);

impl Link {
    /// `None` for what is no Ethernet: a frame for it would have to look otherwise.
    pub fn new(address: LinkAddr) -> Option<Link> {
        (address.hatype() == ETHERNET && address.halen() == EVERYBODY.len())
            .then_some(Link(address))
    }

    /// `payload` in a frame from this interface.
    fn frame(&self, to: [u8; 6], payload: &[u8]) -> Vec<u8> {
        let own = self.0.addr().unwrap_or_default();
        [&to[..], &own, &WAKE_ON_LAN, payload].concat()
    }
}

/// A socket for frames.
#[derive(Debug)]
pub struct Frames(OwnedFd);

impl Frames {
    /// `None` without the right to it.
    pub fn open() -> io::Result<Option<Frames>> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        match socket(AddressFamily::Packet, SockType::Raw, flags, None) {
            Ok(socket) => Ok(Some(Frames(socket))),
            // A sandbox may forbid the whole family instead of the one right.
            Err(Errno::EPERM | Errno::EACCES | Errno::EAFNOSUPPORT) => Ok(None),
            Err(why) => Err(why.into()),
        }
    }

    /// To everybody and to `mac` alone; the outcome of each.
    pub fn send(&self, link: &Link, mac: Mac, payload: &[u8]) -> [io::Result<usize>; 2] {
        [EVERYBODY, mac.0].map(|to| {
            let frame = link.frame(to, payload);
            Ok(sendto(self.0.as_raw_fd(), &frame, &link.0, MsgFlags::MSG_DONTWAIT)?)
        })
    }
}
