//! What arrives of a magic packet and what is lost without a word, on real wires.
//!
//! Each row of what was measured once is a test here: the way of sending as people do it, and what
//! `spot` does in that place. Receivers hear raw frames on links without any configuration, as a
//! sleeping network card does. `wakeonlan` and `etherwake` of Debian are the second opinion on what
//! a magic packet is: what they send must wake the pretended hosts.
//!
//! Needs root, `ip`, `wakeonlan` and `etherwake`; `tests/run wake` installs what is missing.
//!
//! **Does not know:** when a wake is wanted.

#[path = "wake/inside.rs"]
mod inside;
#[path = "wake/wires.rs"]
mod wires;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use spot::cluster::{HostName, Way};
use spot::pretend::World;

use wires::{House, SLEEPER, done, ways};

/// The first argument of this program inside a machine.
const INSIDE: &str = "inside";

type Test = fn() -> Result<(), Failed>;

const TESTS: &[(&str, Test)] = &[
    ("a_subnet_broadcast_arrives", a_subnet_broadcast_arrives),
    ("any_port_will_do", any_port_will_do),
    ("a_password_follows_the_addresses", a_password_follows_the_addresses),
    ("an_address_without_its_broadcast_will_do", an_address_without_its_broadcast_will_do),
    ("everybody_needs_a_default_route", everybody_needs_a_default_route),
    ("everybody_goes_out_of_the_wrong_card", everybody_goes_out_of_the_wrong_card),
    ("everybody_from_an_address_arrives", everybody_from_an_address_arrives),
    ("everybody_by_a_device_arrives", everybody_by_a_device_arrives),
    ("a_frame_to_everybody_arrives", a_frame_to_everybody_arrives),
    ("a_frame_to_the_sleeper_arrives", a_frame_to_the_sleeper_arrives),
    ("debians_wakeonlan_wakes_a_pretended_host", debians_wakeonlan),
    ("debians_wakeonlan_without_an_address_needs_a_route", debians_wakeonlan_by_route),
    ("debians_etherwake_wakes_a_pretended_host", debians_etherwake),
    ("unicast_arrives_while_the_neighbour_is_known", unicast_while_the_neighbour_is_known),
    ("unicast_is_lost_when_nobody_answers_for_it", unicast_when_nobody_answers),
    ("a_router_forwards_a_broadcast_only_when_told_to", a_router_forwards_only_when_told),
    ("a_socket_must_ask_for_broadcast", a_socket_must_ask_for_broadcast),
    ("a_lone_address_has_no_broadcast", a_lone_address_has_no_broadcast),
    ("a_learned_port_leads_a_frame_astray", a_learned_port_leads_a_frame_astray),
    ("a_port_without_broadcasts_still_takes_a_frame", a_port_without_broadcasts),
    ("a_card_that_is_down_hears_again_when_up", a_card_that_is_down_hears_again),
    ("a_bare_bridge_sends_frames", a_bare_bridge_sends_frames),
    ("every_interface_is_used_unless_one_is_named", every_interface_unless_one_is_named),
    ("an_ordinary_user_sends_datagrams", an_ordinary_user_sends_datagrams),
    ("an_interface_that_is_down_is_named", an_interface_that_is_down_is_named),
    ("with_wake_only_nothing_leaves_loopback", with_wake_only_nothing_leaves_loopback),
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == INSIDE) {
        return match inside::act(&words[1..]) {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                eprintln!("{why}");
                ExitCode::FAILURE
            }
        };
    }
    let arguments = Arguments::from_args();
    let trials = match missing() {
        None => TESTS.iter().map(|(name, test)| Trial::test(*name, *test)).collect(),
        // tests/run reads this line, and with CI=true counts it as a failure; so does this.
        Some(why) => {
            println!("skipped: no namespaces for magic packets: {why}");
            let strict = std::env::var_os("CI").is_some_and(|ci| ci == "true");
            let refused = move || Err(Failed::from(format!("skipped in CI: {why}")));
            if strict { vec![Trial::test("namespaces", refused)] } else { Vec::new() }
        }
    };
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// What stands against running here.
fn missing() -> Option<String> {
    for program in ["ip", "wakeonlan", "etherwake", "setpriv", "sysctl"] {
        if done("sh", &["-c", &format!("command -v {program}")]).is_err() {
            return Some(format!("{program} is not installed"));
        }
    }
    let name = format!("spot-{}-try", std::process::id());
    let tried =
        done("ip", &["netns", "add", &name]).and_then(|_| done("ip", &["netns", "del", &name]));
    tried.err().map(|why| why.message().unwrap_or("no namespaces (root?)").to_owned())
}

/// The sleeper as a policy would name it.
fn way() -> Way {
    Way {
        mac: SLEEPER.parse().expect("an address"),
        broadcast: None,
        interface: None,
        password: None,
        relay: None,
    }
}

/// `spot`'s volley at home; what it says.
fn volley(house: &House, way: &Way) -> Result<String, Failed> {
    house.says("home", &["volley", &serde_json::to_string(&[way])?])
}

/// Everything `spot` sends to one host from one address.
const WHOLE: [&str; 6] = [
    "frame to everybody",
    "frame to the sleeper",
    "udp 10.77.0.255:7",
    "udp 10.77.0.255:9",
    "udp 255.255.255.255:7",
    "udp 255.255.255.255:9",
];

/// What arrives at the sleeper when `send` is done.
fn arriving(
    house: &House,
    send: impl FnOnce() -> Result<(), Failed>,
) -> Result<Vec<String>, Failed> {
    let ear = house.listen("sleeper", "eno1")?;
    send()?;
    Ok(ways(&house.heard(ear, "p-sleeper")?))
}

/// A datagram from home; what the kernel said, and what arrived.
fn datagram(house: &House, arguments: &[&str]) -> Result<(String, Vec<String>), Failed> {
    let mut said = String::new();
    let words = [&["udp"], arguments].concat();
    let arrived = arriving(house, || {
        said = house.says("home", &words)?;
        Ok(())
    })?;
    Ok((said, arrived))
}

fn arrives(house: &House, arguments: &[&str]) -> Result<(), Failed> {
    let (said, arrived) = datagram(house, arguments)?;
    same(&said.as_str(), &"sent")?;
    same(&arrived, &vec![format!("udp {}", arguments[0])])
}

/// What `spot` sends arrives whole, whatever befell the other ways.
fn spot_arrives(house: &House, expected: &[&str]) -> Result<(), Failed> {
    let arrived = arriving(house, || volley(house, &way()).map(drop))?;
    same(&arrived, &expected.iter().map(|way| (*way).to_owned()).collect())
}

fn same<T: PartialEq + std::fmt::Debug>(got: &T, expected: &T) -> Result<(), Failed> {
    if got == expected {
        return Ok(());
    }
    Err(format!("expected {expected:?}, got {got:?}").into())
}

fn a_subnet_broadcast_arrives() -> Result<(), Failed> {
    let house = House::new()?;
    arrives(&house, &["10.77.0.255:9"])?;
    spot_arrives(&house, &WHOLE)?;
    // On the wire: Ethernet, IP and UDP before 102 bytes; a bare frame has Ethernet alone.
    let ear = house.listen("sleeper", "eno1")?;
    volley(&house, &way())?;
    for heard in house.heard(ear, "p-sleeper")? {
        let expected = if heard.how().starts_with("udp") { 144 } else { 116 };
        same(&heard.frame.len(), &expected)?;
    }
    Ok(())
}

fn any_port_will_do() -> Result<(), Failed> {
    let house = House::new()?;
    arrives(&house, &["10.77.0.255:7"])?;
    arrives(&house, &["10.77.0.255:40000"])
}

fn a_password_follows_the_addresses() -> Result<(), Failed> {
    let house = House::new()?;
    let way = Way { password: Some("wol".into()), ..way() };
    let ear = house.listen("sleeper", "eno1")?;
    volley(&house, &way)?;
    let heard = house.heard(ear, "p-sleeper")?;
    same(&ways(&heard), &WHOLE.map(str::to_owned).to_vec())?;
    for one in heard {
        same(&one.frame.ends_with(&[1, 2, 3, 4, 5, 6]), &true)?;
    }
    Ok(())
}

fn an_address_without_its_broadcast_will_do() -> Result<(), Failed> {
    let house = House::wired()?;
    house.ip("home", "addr add 10.77.0.11/24 dev vmbr0")?;
    arrives(&house, &["10.77.0.255:9"])?;
    spot_arrives(&house, &WHOLE)
}

fn everybody_needs_a_default_route() -> Result<(), Failed> {
    let house = House::new()?;
    let (said, arrived) = datagram(&house, &["255.255.255.255:9"])?;
    same(&said.as_str(), &"ENETUNREACH")?;
    same(&arrived, &Vec::new())?;
    spot_arrives(&house, &WHOLE)?;
    house.ip("home", "route add default via 10.77.0.1 dev vmbr0")?;
    arrives(&house, &["255.255.255.255:9"])
}

/// A second network at home, which has the default route: `vmbr1` at 10.88.0.11/24.
fn second_network(house: &mut House) -> Result<(), Failed> {
    house.machine("elsewhere")?;
    let other = "link add vmbr1 type veth peer name out netns";
    let elsewhere = house.own("elsewhere", &[])?;
    let name = elsewhere.get_args().nth(2).expect("its name").to_string_lossy().into_owned();
    house.ip("home", &format!("{other} {name}"))?;
    house.ip("home", "addr add 10.88.0.11/24 brd + dev vmbr1")?;
    house.ip("home", "link set vmbr1 up")?;
    house.ip("elsewhere", "link set out up")?;
    house.ip("home", "route add default via 10.88.0.1 dev vmbr1")
}

/// What leaves by the second network when `send` is done.
fn leaving_elsewhere(
    house: &House,
    send: impl FnOnce() -> Result<(), Failed>,
) -> Result<Vec<String>, Failed> {
    let ear = house.listen("elsewhere", "out")?;
    send()?;
    house.says("home", &["mark", "vmbr1"])?;
    Ok(ways(&ear.end()?))
}

fn everybody_goes_out_of_the_wrong_card() -> Result<(), Failed> {
    let mut house = House::new()?;
    second_network(&mut house)?;
    let (said, arrived) = datagram(&house, &["255.255.255.255:9"])?;
    same(&said.as_str(), &"sent")?;
    same(&arrived, &Vec::new())?;
    let elsewhere =
        leaving_elsewhere(&house, || house.says("home", &["udp", "255.255.255.255:9"]).map(drop))?;
    same(&elsewhere, &vec!["udp 255.255.255.255:9".to_owned()])?;
    spot_arrives(&house, &WHOLE)
}

fn everybody_from_an_address_arrives() -> Result<(), Failed> {
    let mut house = House::new()?;
    second_network(&mut house)?;
    house.ip("home", "route del default")?;
    arrives(&house, &["255.255.255.255:9", "from=10.77.0.11"])
}

fn everybody_by_a_device_arrives() -> Result<(), Failed> {
    let mut house = House::new()?;
    second_network(&mut house)?;
    arrives(&house, &["255.255.255.255:9", "device=vmbr0"])
}

fn a_frame_to_everybody_arrives() -> Result<(), Failed> {
    let house = House::wired()?;
    let send = || house.says("home", &["frame", "vmbr0", "everybody"]).map(drop);
    same(&arriving(&house, send)?, &vec!["frame to everybody".to_owned()])
}

fn a_frame_to_the_sleeper_arrives() -> Result<(), Failed> {
    let house = House::wired()?;
    let send = || house.says("home", &["frame", "vmbr0", "sleeper"]).map(drop);
    same(&arriving(&house, send)?, &vec!["frame to the sleeper".to_owned()])
}

/// Hands the frames that came by `command` to a pretended host's firmware.
fn wakes_a_pretended_host(house: &House, command: &str, how: &str) -> Result<(), Failed> {
    let ear = house.listen("sleeper", "eno1")?;
    house.run("home", command)?;
    let heard = house.heard(ear, "p-sleeper")?;
    same(&ways(&heard), &vec![how.to_owned()])?;
    let yaml = format!(
        "hosts:\n  - {{ name: host1 }}\n  - {{ name: host3, mac: '{SLEEPER}', state: off }}\n"
    );
    let mut world = World::read(&yaml)?;
    same(&world.magic_packet(&heard[0].frame), &vec![HostName::from("host3")])
}

fn debians_wakeonlan() -> Result<(), Failed> {
    let house = House::new()?;
    let command = format!("wakeonlan -i 10.77.0.255 {SLEEPER}");
    wakes_a_pretended_host(&house, &command, "udp 10.77.0.255:9")
}

fn debians_wakeonlan_by_route() -> Result<(), Failed> {
    let house = House::new()?;
    house.ip("home", "route add default via 10.77.0.1 dev vmbr0")?;
    wakes_a_pretended_host(&house, &format!("wakeonlan {SLEEPER}"), "udp 255.255.255.255:9")
}

fn debians_etherwake() -> Result<(), Failed> {
    let house = House::new()?;
    let command = format!("etherwake -i vmbr0 {SLEEPER}");
    wakes_a_pretended_host(&house, &command, "frame to the sleeper")?;
    let command = format!("etherwake -b -i vmbr0 {SLEEPER}");
    wakes_a_pretended_host(&house, &command, "frame to everybody")
}

fn unicast_while_the_neighbour_is_known() -> Result<(), Failed> {
    let house = House::new()?;
    for state in ["permanent", "stale"] {
        let entry = format!("neigh replace 10.77.0.13 lladdr {SLEEPER} dev vmbr0 nud {state}");
        house.ip("home", &entry)?;
        arrives(&house, &["10.77.0.13:9"])?;
    }
    Ok(())
}

/// How often the neighbour is looked at until the kernel gives it up, three seconds after asking.
const NEIGHBOUR_LOOKS: u32 = 2_000;

fn unicast_when_nobody_answers() -> Result<(), Failed> {
    let house = House::new()?;
    let ear = house.listen("sleeper", "eno1")?;
    same(&house.says("home", &["udp", "10.77.0.13:9"])?.as_str(), &"sent")?;
    let given_up = |_: &u32| {
        house.run("home", "ip neigh show 10.77.0.13").is_ok_and(|state| state.contains("FAILED"))
    };
    (0..NEIGHBOUR_LOOKS).find(given_up).ok_or("the kernel never gave the neighbour up")?;
    same(&ways(&house.heard(ear, "p-sleeper")?), &Vec::new())?;
    spot_arrives(&house, &WHOLE)
}

fn a_router_forwards_only_when_told() -> Result<(), Failed> {
    let mut house = House::wired()?;
    // Home is behind a router here: 10.99.0.0/24 at home, 10.77.0.0/24 at the sleeper.
    house.machine("router")?;
    house.cable("router", "lan", "p-router")?;
    let router = house.own("router", &[])?;
    let name = router.get_args().nth(2).expect("its name").to_string_lossy().into_owned();
    house.ip("home", &format!("link add up0 type veth peer name wan netns {name}"))?;
    house.ip("home", "link set nic0 down")?;
    house.ip("home", "addr add 10.99.0.11/24 brd + dev up0")?;
    house.ip("home", "link set up0 up")?;
    house.ip("router", "addr add 10.99.0.1/24 brd + dev wan")?;
    house.ip("router", "addr add 10.77.0.1/24 brd + dev lan")?;
    house.ip("router", "link set wan up")?;
    house.ip("home", "route add default via 10.99.0.1 dev up0")?;
    house.run("router", "sysctl -qw net.ipv4.ip_forward=1")?;
    let far = Way { broadcast: Some([10, 77, 0, 255].into()), ..way() };
    let arrived = |house: &House| arriving(house, || volley(house, &far).map(drop));
    let (said, lost) = datagram(&house, &["10.77.0.255:9"])?;
    same(&said.as_str(), &"sent")?;
    same(&lost, &Vec::new())?;
    house.run("router", "sysctl -qw net.ipv4.conf.wan.bc_forwarding=1")?;
    same(&arrived(&house)?, &Vec::new())?;
    house.run("router", "sysctl -qw net.ipv4.conf.all.bc_forwarding=1")?;
    let expected = ["udp 10.77.0.255:7".to_owned(), "udp 10.77.0.255:9".to_owned()];
    same(&arrived(&house)?, &expected.to_vec())
}

fn a_socket_must_ask_for_broadcast() -> Result<(), Failed> {
    let house = House::new()?;
    let (said, arrived) = datagram(&house, &["10.77.0.255:9", "plain"])?;
    same(&said.as_str(), &"EACCES")?;
    same(&arrived, &Vec::new())
}

fn a_lone_address_has_no_broadcast() -> Result<(), Failed> {
    let house = House::wired()?;
    house.ip("home", "addr add 10.77.0.11/32 dev vmbr0")?;
    house.ip("home", "route add 10.77.0.0/24 dev vmbr0")?;
    let (said, arrived) = datagram(&house, &["10.77.0.255:9"])?;
    same(&said.as_str(), &"sent")?;
    same(&arrived, &Vec::new())?;
    // Without a subnet to broadcast to the other ways still lead there.
    let expected = [WHOLE[0], WHOLE[1], WHOLE[4], WHOLE[5]];
    spot_arrives(&house, &expected)
}

fn a_learned_port_leads_a_frame_astray() -> Result<(), Failed> {
    let mut house = House::new()?;
    house.machine("other")?;
    house.cable("other", "eth0", "p-other")?;
    // The switch has heard the sleeper's address from another port.
    house.says("other", &["learn", "eth0", SLEEPER])?;
    let send = || house.says("home", &["frame", "vmbr0", "sleeper"]).map(drop);
    same(&arriving(&house, send)?, &Vec::new())?;
    let expected: Vec<&str> =
        WHOLE.into_iter().filter(|way| *way != "frame to the sleeper").collect();
    spot_arrives(&house, &expected)
}

fn a_port_without_broadcasts() -> Result<(), Failed> {
    let house = House::new()?;
    house.run("switch", "bridge link set dev p-sleeper bcast_flood off")?;
    let (said, arrived) = datagram(&house, &["10.77.0.255:9"])?;
    same(&said.as_str(), &"sent")?;
    same(&arrived, &Vec::new())?;
    spot_arrives(&house, &["frame to the sleeper"])
}

fn a_card_that_is_down_hears_again() -> Result<(), Failed> {
    let house = House::new()?;
    let ear = house.listen("sleeper", "eno1")?;
    house.ip("sleeper", "link set eno1 down")?;
    volley(&house, &way())?;
    house.ip("sleeper", "link set eno1 up")?;
    same(&ways(&house.heard(ear, "p-sleeper")?), &Vec::new())?;
    spot_arrives(&house, &WHOLE)
}

/// An interface without an address is used when the policy names it, and left alone otherwise.
fn a_bare_bridge_sends_frames() -> Result<(), Failed> {
    let house = House::wired()?;
    let said = volley(&house, &way())?;
    same(&said.as_str(), &"none: no network interface is up that packets could leave by")?;
    let named = Way { interface: Some("vmbr0".into()), ..way() };
    let arrived = arriving(&house, || volley(&house, &named).map(drop))?;
    same(&arrived, &WHOLE[..2].iter().map(|way| (*way).to_owned()).collect())
}

fn every_interface_unless_one_is_named() -> Result<(), Failed> {
    let mut house = House::new()?;
    second_network(&mut house)?;
    let all = leaving_elsewhere(&house, || {
        same(&volley(&house, &way())?.as_str(), &"12 by vmbr0, vmbr1")
    })?;
    same(&all.len(), &WHOLE.len())?;
    let named = Way { interface: Some("vmbr0".into()), ..way() };
    let one = leaving_elsewhere(&house, || same(&volley(&house, &named)?.as_str(), &"6 by vmbr0"))?;
    same(&one, &Vec::new())
}

fn an_ordinary_user_sends_datagrams() -> Result<(), Failed> {
    let mut house = House::new()?;
    second_network(&mut house)?;
    let json = serde_json::to_string(&[way()])?;
    let sender = house.own("home", &["volley", &json])?;
    let words: Vec<String> =
        sender.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
    // As any other user, with no right of root's left.
    let (netns, program) = words.split_at(3);
    let user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"];
    let mut all: Vec<&str> = netns.iter().map(String::as_str).collect();
    all.extend(user);
    // The program's own folder may be closed to that user; one that is open is not.
    let folder = tempfile::tempdir()?;
    done("chmod", &["755", &folder.path().display().to_string()])?;
    let copy = folder.path().join("sender");
    std::fs::copy(&program[0], &copy)?;
    let copy = copy.display().to_string();
    all.push(&copy);
    all.extend(program[1..].iter().map(String::as_str));
    let ear = house.listen("sleeper", "eno1")?;
    let said = done("ip", &all)?;
    same(&said.trim(), &"8 by vmbr0, vmbr1")?;
    let expected: Vec<String> = WHOLE[2..].iter().map(|way| (*way).to_owned()).collect();
    same(&ways(&house.heard(ear, "p-sleeper")?), &expected)
}

fn an_interface_that_is_down_is_named() -> Result<(), Failed> {
    let house = House::new()?;
    house.ip("home", "link add vmbr9 type bridge")?;
    for name in ["vmbr9", "eno7"] {
        let wrong = Way { interface: Some(name.into()), ..way() };
        let expected =
            format!("none: no packet could be sent (the interface {name} is not there, or not up)");
        same(&volley(&house, &wrong)?, &expected)?;
    }
    Ok(())
}

fn with_wake_only_nothing_leaves_loopback() -> Result<(), Failed> {
    let mut house = House::new()?;
    second_network(&mut house)?;
    let way =
        Way { broadcast: Some([10, 77, 0, 255].into()), interface: Some("vmbr0".into()), ..way() };
    let json = serde_json::to_string(&[way])?;
    let elsewhere = house.listen("elsewhere", "out")?;
    let arrived = arriving(&house, || {
        let said = house.says("home", &["volley", &json, "127.0.0.1:9999"])?;
        same(&said.as_str(), &"1 by wake_only 127.0.0.1:9999")
    })?;
    same(&arrived, &Vec::new())?;
    house.says("home", &["mark", "vmbr1"])?;
    same(&ways(&elsewhere.end()?), &Vec::new())
}
