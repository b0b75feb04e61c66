//! Words for hosts: name, tier, hardware address, and what is seen of one.
//!
//! **Does not know:** whether a host ought to be awake.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The owner's name of a host. PVE's own name of it (its *node* name) is the same unless the policy
/// says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HostName(pub String);

impl HostName {
    pub fn new(name: impl Into<String>) -> HostName {
        HostName(name.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl From<&str> for HostName {
    fn from(name: &str) -> HostName {
        HostName(name.to_owned())
    }
}

/// How dear a host is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Always on; never powered off by `spot`.
    Low,
    Medium,
    High,
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Tier::Low => "low",
            Tier::Medium => "medium",
            Tier::High => "high",
        })
    }
}

/// A unicast hardware address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

impl FromStr for Mac {
    type Err = String;

    /// Six pairs of hexadecimal digits, separated by `:` or `-`. Group addresses and all zeroes are
    /// refused: no network card has one.
    fn from_str(text: &str) -> Result<Mac, String> {
        let parts: Vec<&str> = text.split([':', '-']).collect();
        let two_hex = |part: &&str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
        if parts.len() != 6 || !parts.iter().all(two_hex) {
            return Err(format!(
                "`{text}` is not a MAC address: six pairs of hexadecimal digits such as a8:a1:59:00:00:03"
            ));
        }
        let mut bytes = [0u8; 6];
        for (byte, part) in bytes.iter_mut().zip(&parts) {
            *byte = u8::from_str_radix(part, 16).expect("two hexadecimal digits");
        }
        if bytes == [0; 6] {
            return Err(format!("`{text}` is all zeroes, which no network card has"));
        }
        if bytes[0] & 1 == 1 {
            return Err(format!(
                "`{text}` is a group (multicast) address, which no network card has"
            ));
        }
        Ok(Mac(bytes))
    }
}

impl TryFrom<String> for Mac {
    type Error = String;
    fn try_from(text: String) -> Result<Mac, String> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> String {
        mac.to_string()
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One way by which a magic packet may reach a host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Way {
    pub mac: Mac,
    /// Directed broadcast address; otherwise every local interface's own.
    pub broadcast: Option<Ipv4Addr>,
    /// Leave by this interface only.
    pub interface: Option<String>,
    /// Name of the credential holding the SecureOn password; never the password.
    pub password: Option<String>,
    /// A host that is asked to send PVE's own packet as well, as a second path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<HostName>,
}

impl Way {
    /// Stands for all ways of a host: a proof of waking holds as long as this stays the same.
    pub fn print(ways: &[Way]) -> String {
        let mut print = String::new();
        for Way { mac, broadcast, interface, password, relay } in ways {
            let broadcast = broadcast.map(|address| address.to_string()).unwrap_or_default();
            let interface = interface.as_deref().unwrap_or_default();
            let password = password.as_deref().unwrap_or_default();
            print += &format!("{mac}/{broadcast}/{interface}/{password}");
            // Proofs from before there were relays stay what they were.
            if let Some(relay) = relay {
                print += &format!("/{relay}");
            }
            print.push(';');
        }
        print
    }
}

/// Bytes of main memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    pub total_bytes: u64,
    pub used_bytes: u64,
}

/// Processors, and how much of them is in use (up to 10 s late). Shares are whole thousandths of
/// one core: what is compared and remembered has no rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    pub cores: u32,
    pub used_millicores: u64,
}

/// What `/cluster/resources` says of a host: its last broadcast, up to 5 minutes old.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reported {
    Online,
    Offline,
    /// A member without a broadcast yet: normal for 10 to 20 s after it joined.
    Unknown,
}

/// What the quiet look says of one host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSeen {
    /// PVE's name of it.
    pub node: String,
    /// Member of the cluster in the asked host's view; `None` when the view is a gap, or when PVE
    /// does not list the host at all.
    pub member: Option<bool>,
    /// PVE lists it (it is in corosync.conf).
    pub listed: bool,
    /// `spot.yaml` names an address for it.
    pub addressed: bool,
    pub reported: Reported,
    /// Seconds since its boot, from its last broadcast (up to 10 s late).
    pub uptime_seconds: Option<u64>,
    pub memory: Option<Memory>,
    pub cpu: Option<Cpu>,
    /// Power as an outside instrument sees it (IPMI, a plug); none yet.
    pub power: Option<bool>,
}

/// How far a host that came up has got; asked of the host itself.
///
/// PVE lists a host as a member 7 to 14 s before its API answers (recorded), so membership alone is
/// never readiness.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// Its own API answered.
    pub api: bool,
    /// It sees a quorate cluster itself.
    pub quorate: bool,
    /// From its own `/nodes/{n}/status`: exact, and small after a new boot.
    pub uptime_seconds: u64,
    /// Storages enabled on it that are not active.
    pub storages_missing: Vec<String>,
    /// Whether PVE's own start of `onboot` guests is over; `None` when it could not be told.
    pub startall_done: Option<bool>,
}

impl Readiness {
    /// Ready to take guests: the API answers, it sees quorum, its storages are there.
    pub fn ready(&self) -> bool {
        self.api && self.quorate && self.storages_missing.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_is_six_pairs_and_unicast() {
        assert_eq!("A8:a1:59:00:00:03".parse::<Mac>().unwrap().to_string(), "a8:a1:59:00:00:03");
        assert!("a8-a1-59-00-00-03".parse::<Mac>().is_ok());
        for bad in [
            "",
            "a8:a1:59:00:00",
            "01:00:5e:00:00:01",
            "00:00:00:00:00:00",
            "a8a159000003",
            "a8:a1:59:00:00:0g",
            "a8:a1:59:00:00:+3",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }
}
