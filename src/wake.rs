//! Magic packets and the sockets they leave by.
//!
//! A packet to 255.255.255.255 leaves by whichever interface the kernel's routes say, without an
//! error when that is the wrong one. So each volley leaves by *every* local interface: one socket
//! per address, bound to it (and to its interface where that is permitted), to the subnet's own
//! broadcast address and to 255.255.255.255, at ports 9 and 7. Where the right to it is given, the
//! same bytes go out as a bare frame as well (`raw`). What a network card needs among these was
//! measured; the rest does no harm.
//!
//! Frames leave by the interfaces that have an IPv4 address, and by the one a policy names, address
//! or not: a host with fifty guests has a hundred interfaces more, none of which leads anywhere.
//!
//! That the kernel took a packet says nothing about the host: whether it woke is seen later.
//!
//! **Does not know:** whose addresses these are, how often to send, where passwords are kept.

mod raw;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use tokio::net::UdpSocket;

use crate::cluster::{Mac, Way};
use crate::site::Waker;
use raw::{Frames, Link};

/// `discard` and `echo`: the two ports that network cards' makers and PVE itself use.
const PORTS: [u16; 2] = [9, 7];

/// Passwords by the name of their credential.
type Passwords = Rc<dyn Fn(&str) -> Result<String, String>>;

/// The real network.
#[derive(Clone)]
pub struct Sockets {
    /// When not empty, packets go here and nowhere else.
    wake_only: Vec<SocketAddr>,
    passwords: Passwords,
}

impl std::fmt::Debug for Sockets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sockets").field("wake_only", &self.wake_only).finish_non_exhaustive()
    }
}

impl Sockets {
    /// `passwords` gives the SecureOn password kept under a credential's name.
    pub fn new(
        wake_only: Vec<SocketAddr>,
        passwords: impl Fn(&str) -> Result<String, String> + 'static,
    ) -> Sockets {
        Sockets { wake_only, passwords: Rc::new(passwords) }
    }

    fn packet(&self, way: &Way) -> Result<Vec<u8>, String> {
        let mut bytes = magic(way.mac);
        if let Some(name) = &way.password {
            let text = (self.passwords)(name)?;
            bytes.extend(password(&text).ok_or_else(|| {
                format!(
                    "the credential `{name}` is no SecureOn password: six pairs of hexadecimal \
                     digits (aa:bb:cc:dd:ee:ff) or four numbers (1.2.3.4)"
                )
            })?);
        }
        Ok(bytes)
    }
}

/// Six times FF, then sixteen times the address.
pub fn magic(mac: Mac) -> Vec<u8> {
    wake_on_lan::MagicPacket::new(&mac.0).magic_bytes().to_vec()
}

/// A SecureOn password: six bytes in hexadecimal or four in decimal.
fn password(text: &str) -> Option<Vec<u8>> {
    let text = text.trim();
    if let Ok(four) = text.parse::<Ipv4Addr>() {
        return Some(four.octets().to_vec());
    }
    let pairs: Vec<&str> = text.split([':', '-']).collect();
    let two_hex = |p: &&str| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit());
    if pairs.len() != 6 || !pairs.iter().all(two_hex) {
        return None;
    }
    pairs.iter().map(|pair| u8::from_str_radix(pair, 16).ok()).collect()
}

/// A local address that packets can leave by.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Source {
    interface: String,
    address: Ipv4Addr,
    broadcast: Option<Ipv4Addr>,
}

/// What packets can leave by: addresses, and links by their interface's name.
#[derive(Default)]
struct Exits {
    sources: Vec<Source>,
    links: BTreeMap<String, Link>,
}

impl Exits {
    /// Every interface that is up, broadcasts and is not loopback.
    fn list() -> Result<Exits, String> {
        let found = getifaddrs().map_err(|why| format!("cannot list network interfaces: {why}"))?;
        let mut exits = Exits::default();
        for interface in found {
            let flags = interface.flags;
            let up = flags.contains(InterfaceFlags::IFF_UP | InterfaceFlags::IFF_BROADCAST);
            if !up || flags.contains(InterfaceFlags::IFF_LOOPBACK) {
                continue;
            }
            let name = interface.interface_name;
            let link = interface.address.as_ref().and_then(|address| address.as_link_addr());
            if let Some(link) = link.copied().and_then(Link::new) {
                exits.links.insert(name.clone(), link);
            }
            let ip = |address: Option<nix::sys::socket::SockaddrStorage>| {
                address.as_ref().and_then(|a| a.as_sockaddr_in()).map(|a| a.ip())
            };
            let Some(address) = ip(interface.address) else {
                continue;
            };
            let mask = ip(interface.netmask);
            // Of an address without a broadcast address of its own the kernel tells that address
            // itself; and with a netmask of 32 bits there is no subnet to broadcast to.
            let broadcast = [ip(interface.broadcast), mask.map(|mask| directed(address, mask))];
            let broadcast = broadcast.into_iter().flatten().find(|to| *to != address);
            exits.sources.push(Source { interface: name, address, broadcast });
        }
        Ok(exits)
    }

    /// The links frames of `way` leave by.
    fn links(&self, way: &Way) -> Vec<(&str, &Link)> {
        let with_address = |name: &str| self.sources.iter().any(|s| s.interface == name);
        let chosen = |name: &str| match &way.interface {
            Some(wanted) => wanted == name,
            None => with_address(name),
        };
        let links = self.links.iter().map(|(name, link)| (name.as_str(), link));
        links.filter(|(name, _)| chosen(name)).collect()
    }
}

/// The interfaces that packets would leave by.
pub fn interfaces() -> Result<Vec<String>, String> {
    let exits = Exits::list()?.sources.into_iter();
    let names: BTreeSet<String> = exits.map(|source| source.interface).collect();
    Ok(names.into_iter().collect())
}

fn directed(address: Ipv4Addr, mask: Ipv4Addr) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(address) | !u32::from(mask))
}

/// Where the packets of one way go, from each of `sources`.
fn targets(way: &Way, source: &Source) -> BTreeSet<SocketAddr> {
    let addresses = match way.broadcast {
        Some(given) => vec![given],
        None => source.broadcast.into_iter().chain([Ipv4Addr::BROADCAST]).collect(),
    };
    let at = |address: Ipv4Addr| PORTS.map(|port| SocketAddr::from((address, port)));
    addresses.into_iter().flat_map(at).collect()
}

impl Waker for Sockets {
    fn confined(&self) -> bool {
        !self.wake_only.is_empty()
    }

    async fn volley(&self, ways: &[Way]) -> Result<(u32, Vec<String>), String> {
        if ways.is_empty() {
            return Err("no hardware address is known to send packets to".into());
        }
        let mut sent = Sent::default();
        if self.wake_only.is_empty() {
            let exits = Exits::list()?;
            let frames = match Frames::open() {
                Ok(frames) => frames,
                Err(why) => {
                    sent.note("a socket for frames", Err(why));
                    None
                }
            };
            for way in ways {
                self.by_every_interface(way, &exits, frames.as_ref(), &mut sent).await;
            }
        } else {
            for way in ways {
                self.by_wake_only(way, &mut sent).await;
            }
        }
        sent.result()
    }
}

/// What became of a volley.
#[derive(Default)]
struct Sent {
    packets: BTreeMap<String, u32>,
    faults: BTreeSet<String>,
}

impl Sent {
    fn note(&mut self, by: &str, outcome: std::io::Result<usize>) {
        match outcome {
            Ok(_) => *self.packets.entry(by.to_owned()).or_default() += 1,
            Err(why) => {
                self.faults.insert(format!("{by}: {why}"));
            }
        }
    }

    /// One packet that left is a volley; none is a reason.
    fn result(self) -> Result<(u32, Vec<String>), String> {
        let faults: Vec<String> = self.faults.into_iter().collect();
        if self.packets.is_empty() {
            return Err(if faults.is_empty() {
                "no network interface is up that packets could leave by".into()
            } else {
                format!("no packet could be sent ({})", faults.join("; "))
            });
        }
        Ok((self.packets.values().sum(), self.packets.into_keys().collect()))
    }
}

impl Sockets {
    async fn by_every_interface(
        &self,
        way: &Way,
        exits: &Exits,
        frames: Option<&Frames>,
        sent: &mut Sent,
    ) {
        let packet = match self.packet(way) {
            Ok(packet) => packet,
            Err(why) => {
                sent.faults.insert(why);
                return;
            }
        };
        let wanted = |source: &&Source| {
            way.interface.as_ref().is_none_or(|wanted| *wanted == source.interface)
        };
        let mut any = false;
        for source in exits.sources.iter().filter(wanted) {
            any = true;
            let socket = match socket(source).await {
                Ok(socket) => socket,
                Err(why) => {
                    sent.note(&source.interface, Err(why));
                    continue;
                }
            };
            for target in targets(way, source) {
                sent.note(&source.interface, socket.send_to(&packet, target).await);
            }
        }
        let links = exits.links(way);
        if let Some(frames) = frames {
            for (name, link) in &links {
                any = true;
                for outcome in frames.send(link, way.mac, &packet) {
                    sent.note(name, outcome);
                }
            }
        }
        if let (false, Some(wanted)) = (any, &way.interface) {
            sent.faults.insert(match links.is_empty() {
                true => format!("the interface {wanted} is not there, or not up"),
                false => format!(
                    "the interface {wanted} has no IPv4 address, and frames without one need the \
                     right CAP_NET_RAW"
                ),
            });
        }
    }

    async fn by_wake_only(&self, way: &Way, sent: &mut Sent) {
        let packet = match self.packet(way) {
            Ok(packet) => packet,
            Err(why) => {
                sent.faults.insert(why);
                return;
            }
        };
        for target in &self.wake_only {
            let by = format!("wake_only {target}");
            sent.note(&by, send_plain(&packet, *target).await);
        }
    }
}

async fn socket(source: &Source) -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::bind((source.address, 0)).await?;
    socket.set_broadcast(true)?;
    // Needs a right that an ordinary user lacks; the address chosen above then decides alone.
    let _ = socket.bind_device(Some(source.interface.as_bytes()));
    Ok(socket)
}

async fn send_plain(packet: &[u8], target: SocketAddr) -> std::io::Result<usize> {
    let any: SocketAddr = match target {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.set_broadcast(true)?;
    socket.send_to(packet, target).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(mac: &str) -> Way {
        Way {
            mac: mac.parse().unwrap(),
            broadcast: None,
            interface: None,
            password: None,
            relay: None,
        }
    }

    #[test]
    fn the_bytes_are_six_ff_and_sixteen_addresses() {
        for mac in ["a8:a1:59:00:00:03", "00:11:22:33:44:55", "fe:ff:ff:ff:ff:ff"] {
            let mac: Mac = mac.parse().unwrap();
            let mut by_hand = vec![0xFF; 6];
            for _ in 0..16 {
                by_hand.extend_from_slice(&mac.0);
            }
            assert_eq!(magic(mac), by_hand);
        }
    }

    #[test]
    fn a_password_is_six_bytes_or_four() {
        assert_eq!(password("aa:bb:cc:dd:ee:0f\n").unwrap(), [0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0x0f]);
        assert_eq!(password("192.168.1.20").unwrap(), [192, 168, 1, 20]);
        for bad in ["", "aa:bb", "300.1.1.1", "aa:bb:cc:dd:ee:+f", "hunter2"] {
            assert_eq!(password(bad), None, "{bad}");
        }
    }

    #[test]
    fn every_interface_gets_its_subnet_and_everybody_at_both_ports() {
        let source = Source {
            interface: "vmbr0".into(),
            address: Ipv4Addr::new(192, 168, 1, 11),
            broadcast: Some(Ipv4Addr::new(192, 168, 1, 255)),
        };
        let mut way = way("a8:a1:59:00:00:03");
        let shown: Vec<String> = targets(&way, &source).iter().map(|t| t.to_string()).collect();
        assert_eq!(
            shown,
            ["192.168.1.255:7", "192.168.1.255:9", "255.255.255.255:7", "255.255.255.255:9"]
        );
        way.broadcast = Some(Ipv4Addr::new(10, 0, 0, 255));
        let shown: Vec<String> = targets(&way, &source).iter().map(|t| t.to_string()).collect();
        assert_eq!(shown, ["10.0.0.255:7", "10.0.0.255:9"]);
        assert_eq!(
            directed(Ipv4Addr::new(10, 1, 2, 3), Ipv4Addr::new(255, 255, 254, 0)),
            Ipv4Addr::new(10, 1, 3, 255)
        );
    }

    #[tokio::test]
    async fn wake_only_sends_there_and_nowhere_else() {
        let (here, elsewhere) = (
            UdpSocket::bind("127.0.0.1:0").await.unwrap(),
            UdpSocket::bind("127.0.0.1:0").await.unwrap(),
        );
        let sockets = Sockets::new(vec![here.local_addr().unwrap()], |name| {
            assert_eq!(name, "wol-host3");
            Ok("1.2.3.4".into())
        });
        let mut second = way("a8:a1:59:00:00:13");
        second.broadcast = Some(Ipv4Addr::new(127, 255, 255, 255));
        second.password = Some("wol-host3".into());
        let ways = [way("a8:a1:59:00:00:03"), second];
        let (packets, by) = sockets.volley(&ways).await.unwrap();
        assert_eq!((packets, by), (2, vec![format!("wake_only {}", here.local_addr().unwrap())]));
        let mut bytes = [0; 200];
        let (first, _) = here.recv_from(&mut bytes).await.unwrap();
        assert_eq!(bytes[..first], magic(ways[0].mac)[..]);
        let (second, _) = here.recv_from(&mut bytes).await.unwrap();
        assert_eq!((second, &bytes[102..106]), (106, &[1, 2, 3, 4][..]));
        assert!(elsewhere.try_recv(&mut bytes).is_err());
        assert!(here.try_recv(&mut bytes).is_err());
    }

    #[tokio::test]
    async fn a_volley_that_cannot_leave_says_why() {
        let sockets = Sockets::new(vec!["127.0.0.1:9".parse().unwrap()], |name| {
            Err(format!("there is no credential `{name}`"))
        });
        assert!(sockets.volley(&[]).await.unwrap_err().contains("no hardware address"));
        let mut way = way("a8:a1:59:00:00:03");
        way.password = Some("wol".into());
        assert!(sockets.volley(&[way.clone()]).await.unwrap_err().contains("no credential `wol`"));
        let sockets = Sockets::new(vec!["127.0.0.1:9".parse().unwrap()], |_| Ok("secret!".into()));
        let why = sockets.volley(&[way]).await.unwrap_err();
        assert!(why.contains("is no SecureOn password") && !why.contains("secret!"), "{why}");
    }
}
