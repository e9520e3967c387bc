//! The lab's network: namespaces, the bridges that are its segments, the router, a cable to each box.
//!
//! ```text
//!  the machine          switch                      b1, b2, …
//!  lab-ID ───────────── host ┐
//!                            ├─ segment-a ─ b1 ──── eth0
//!              router-a ─────┘
//!  router ─┤                 ┌─ segment-b ─ b4 ──── eth0
//!              router-b ─────┘
//! ```
//!
//! Bridges pass every multicast frame to every port: they don't snoop (RFC 4541), since nobody here asks who listens.
//! Addresses are set without asking whether others have them (RFC 4862's detection takes a second), since nobody can.
//! Everything is found again by its name, so taking it away needs no memory of what was made.

use std::fmt::Write as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::thread;
use std::time::{Duration, Instant};

use base::limits::{LAB_LOCK_TIME_MAX, LAB_NET_FIRST, LAB_NET_LAST};
use rustix::process::Signal;

use super::address::{Addresses, Net, Port, Segment, networks};
use super::process::{Found, Process};
use super::program::{self, ProgramError};
use super::{Lab, LabError};

/// How often a lock is tried that another lab holds while it looks for a net.
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// What a killed process may take to be gone: it may have much memory to give back.
const KILL_TIME_MAX: Duration = Duration::from_secs(10);

/// What to do where root in a container may not make them.
const NOT_EVEN_ROOT: &str = "try it inside a namespace of your own: firm lab up --rootless. In a container, namespaces need CAP_SYS_ADMIN and CAP_NET_ADMIN, as `--privileged` gives them";

pub const SWITCH: &str = "switch";
const ROUTER: &str = "router";

/// Makes everything but the boxes, and gives the net that the lab got.
pub fn make(lab: &mut Lab) -> Result<(), LabError> {
    let mut namespaces = String::new();
    for of in [SWITCH, ROUTER] {
        let _ = writeln!(namespaces, "netns add {}", lab.namespace(of));
    }
    program::ip(&namespaces).map_err(|error| match error {
        ProgramError::Failed { said, .. } => LabError::NoNamespaces { said, help: NOT_EVEN_ROOT.to_owned() },
        other => LabError::Network(other),
    })?;
    let net = host_port(lab)?;
    lab.net = Some(net);
    program::ip_in(lab, SWITCH, &switch(lab)).map_err(LabError::Network)?;
    program::ip_in(lab, ROUTER, &router(lab, net)).map_err(LabError::Network)?;
    let words = program::inside(lab, ROUTER);
    let mut words: Vec<&str> = words[1..].iter().map(String::as_str).collect();
    // Not sysctl: it is in a package of its own.
    words.extend([
        "sh",
        "-c",
        "echo 1 > /proc/sys/net/ipv4/ip_forward && echo 1 > /proc/sys/net/ipv6/conf/all/forwarding",
    ]);
    program::run("ip", &words, "").map(drop).map_err(LabError::Network)
}

/// The machine's own port on segment a. Its address is what keeps two labs apart, so they take turns here.
fn host_port(lab: &Lab) -> Result<Net, LabError> {
    let _turn = turn()?;
    let net = free_net()?;
    let (name, switch) = (lab.host_interface(), lab.namespace(SWITCH));
    let mac = Addresses::of(net, Segment::A, Port::Host).mac;
    let cable = format!("link add {name} address {mac} type veth peer name host netns {switch}\n");
    program::ip(&cable).map_err(LabError::Network)?;
    // On a machine without IPv6 the lab has it all the same. Where this can't be written, the next step says so.
    let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "0");
    let mut lines = interface(&name, &Addresses::of(net, Segment::A, Port::Host));
    let router = Addresses::of_router(net, Segment::A);
    for segment in lab.segments.iter().filter(|segment| **segment != Segment::A) {
        let (v4, v6) = networks(net, *segment);
        let _ = writeln!(lines, "route replace {v4} via {} dev {name}", router.v4);
        let _ = writeln!(lines, "route replace {v6} via {} dev {name}", router.v6);
    }
    if lab.rootless {
        lines.insert_str(0, "link set lo up\n");
    }
    program::ip(&lines).map_err(LabError::Network)?;
    Ok(net)
}

/// Held by one lab of this machine at a time. The kernel lets it go when its holder ends, however that comes.
fn turn() -> Result<UnixListener, LabError> {
    let name = SocketAddr::from_abstract_name("firm-lab").expect("a name without a zero byte, far below 107 bytes");
    let deadline = Instant::now() + LAB_LOCK_TIME_MAX;
    loop {
        match UnixListener::bind_addr(&name) {
            Ok(lock) => return Ok(lock),
            Err(_) if Instant::now() < deadline => thread::sleep(LOCK_PAUSE),
            Err(_) => return Err(LabError::Lock(LAB_LOCK_TIME_MAX)),
        }
    }
}

/// One that no interface of this machine has an address in.
fn free_net() -> Result<Net, LabError> {
    let listed = program::run("ip", &["-4", "-oneline", "address", "show"], "").map_err(LabError::Network)?;
    let nets = (LAB_NET_FIRST..=LAB_NET_LAST).map(Net);
    let is_free = |Net(net): &Net| !listed.contains(&format!(" 10.{net}."));
    nets.into_iter().find(is_free).ok_or(LabError::NetsTaken)
}

/// Lines that give an interface its addresses and take it up. `replace`, so that they also mend one.
fn interface(name: &str, addresses: &Addresses) -> String {
    let Addresses { v4, v6, link_local, .. } = addresses;
    format!(
        "link set {name} addrgenmode none\n\
         link set {name} up\n\
         address replace {v4}/24 broadcast + dev {name}\n\
         address replace {v6}/64 dev {name} nodad\n\
         address replace {link_local}/64 dev {name} nodad\n"
    )
}

fn switch(lab: &Lab) -> String {
    let mut lines = "link set lo up\n".to_owned();
    for segment in &lab.segments {
        let (bridge, port, router) = (segment.bridge(), segment.router_port(), lab.namespace(ROUTER));
        lines += &bridge_lines(&bridge);
        let _ = writeln!(lines, "link add {port} type veth peer name eth-{segment} netns {router}");
        lines += &plug(&port, &bridge);
    }
    lines += &plug("host", &Segment::A.bridge());
    lines
}

/// A bridge that passes everything on from its first moment.
pub(super) fn bridge_lines(name: &str) -> String {
    format!(
        "link add {name} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
         link set {name} addrgenmode none\n\
         link set {name} up\n"
    )
}

/// Puts an interface of the switch's on a bridge.
pub(super) fn plug(port: &str, bridge: &str) -> String {
    format!("link set {port} addrgenmode none\nlink set {port} master {bridge}\nlink set {port} up\n")
}

fn router(lab: &Lab, net: Net) -> String {
    let mut lines = "link set lo up\n".to_owned();
    for segment in &lab.segments {
        let addresses = Addresses::of_router(net, *segment);
        let _ = writeln!(lines, "link set eth-{segment} address {}", addresses.mac);
        lines += &interface(&format!("eth-{segment}"), &addresses);
    }
    lines
}

/// Makes a box's namespace, and its cable.
pub fn add(lab: &Lab, net: Net, numbers: &[u8]) -> Result<(), LabError> {
    let (mut namespaces, mut cables) = (String::new(), String::new());
    for number in numbers {
        let port = Port::Box(*number);
        let segment = lab.segment_of(port);
        let (namespace, mac) = (lab.namespace(&port.to_string()), Addresses::of(net, segment, port).mac);
        let _ = writeln!(namespaces, "netns add {namespace}");
        let _ = writeln!(cables, "link add {port} type veth peer name eth0 address {mac} netns {namespace}");
        cables += &plug(&port.to_string(), &segment.bridge());
    }
    program::ip(&namespaces).map_err(LabError::Network)?;
    program::ip_in(lab, SWITCH, &cables).map_err(LabError::Network)?;
    numbers.iter().try_for_each(|number| connect(lab, net, *number))
}

/// Gives a box's interface its addresses and ways.
fn connect(lab: &Lab, net: Net, number: u8) -> Result<(), LabError> {
    let port = Port::Box(number);
    let segment = lab.segment_of(port);
    let router = Addresses::of_router(net, segment);
    let mut lines = "link set lo up\n".to_owned();
    lines += &interface("eth0", &Addresses::of(net, segment, port));
    let _ = writeln!(lines, "route replace default via {}", router.v4);
    let _ = writeln!(lines, "route replace default via {}", router.v6);
    program::ip_in(lab, &port.to_string(), &lines).map_err(LabError::Network)
}

/// Takes a box's interface down: its IPv6 addresses and all its routes go with that.
pub fn down(lab: &Lab, number: u8) -> Result<(), LabError> {
    program::ip_in(lab, &Port::Box(number).to_string(), "link set eth0 down\n").map_err(LabError::Network)
}

/// Takes it up again, as what configures a real one would.
pub fn up(lab: &Lab, net: Net, number: u8) -> Result<(), LabError> {
    connect(lab, net, number)
}

/// The lab's namespaces that there are, by the names that nothing else has.
pub fn namespaces(lab: &Lab) -> Result<Vec<String>, ProgramError> {
    let listed = program::run("ip", &["netns", "list"], "")?;
    let names = listed.lines().filter_map(|line| line.split_whitespace().next());
    Ok(names.filter(|name| name.starts_with(&lab.prefix())).map(str::to_owned).collect())
}

/// Every process inside the lab's namespaces, whoever started it.
fn processes(namespaces: &[String]) -> Result<Vec<Found>, ProgramError> {
    let mut found = Vec::new();
    for namespace in namespaces {
        let listed = program::run("ip", &["netns", "pids", namespace], "")?;
        let pids = listed.split_whitespace().filter_map(|pid| pid.parse().ok());
        // Between the list and the hold the number may have gone to another: it is asked again where it is.
        found.extend(
            pids.filter_map(Process::of).filter_map(Process::find).filter(|one| one.process.is_inside(namespace)),
        );
    }
    Ok(found)
}

/// Ends at once whatever runs in these namespaces.
pub fn kill(namespaces: &[String]) -> Result<(), LabError> {
    ended(&processes(namespaces).map_err(LabError::Network)?)
}

/// Kills them all, and waits until they are gone.
fn ended(found: &[Found]) -> Result<(), LabError> {
    for one in found {
        one.send(Signal::KILL);
    }
    let undying = all_end(found, KILL_TIME_MAX);
    if undying.is_empty() { Ok(()) } else { Err(LabError::Undying(undying.len(), undying.join(", "))) }
}

/// Ends every process of the lab, those of its state and whatever else runs in its namespaces, and takes the network
/// away. With `grace` they are asked first.
pub fn unmake(lab: &Lab, grace: Option<Duration>) -> Result<(), LabError> {
    let namespaces = namespaces(lab).map_err(LabError::Network)?;
    let known = || lab.boxes.values().filter_map(|one| one.process?.find());
    if let Some(grace) = grace {
        let asked: Vec<Found> = known().collect();
        for one in &asked {
            one.send(Signal::TERM);
        }
        all_end(&asked, grace);
    }
    let mut left: Vec<Found> = known().collect();
    left.extend(processes(&namespaces).map_err(LabError::Network)?);
    ended(&left)?;
    if let Ok(links) = program::run("ip", &["-oneline", "link", "show", "dev", &lab.host_interface()], "")
        && !links.is_empty()
    {
        program::ip(&format!("link delete {}\n", lab.host_interface())).map_err(LabError::Network)?;
    }
    let mut lines = String::new();
    for name in &namespaces {
        let _ = writeln!(lines, "netns delete {name}");
    }
    program::ip(&lines).map_err(LabError::Network)
}

/// Waits for all of them together. Gives the numbers of those that still run.
fn all_end(found: &[Found], time: Duration) -> Vec<String> {
    let deadline = Instant::now() + time;
    let ends = |one: &&Found| !one.ends_within(deadline.saturating_duration_since(Instant::now()));
    found.iter().filter(ends).map(|one| one.process.pid.to_string()).collect()
}
