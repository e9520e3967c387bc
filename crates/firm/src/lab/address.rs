//! Who is where in a lab: segments, ports, and the addresses that follow from them.
//!
//! Nothing is drawn or asked for: box 3 of segment a is 10.77.1.3 in the first lab of a machine, always. The second lab
//! that is up at the same time is 10.78, because the machine itself has a port on segment a of each.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use base::limits::{LAB_BOXES_MAX, LAB_NET_FIRST};
use serde::{Deserialize, Serialize};

/// What the machine has on segment a, and the router on each: above all boxes.
const HOST: u8 = 253;
const ROUTER: u8 = 254;

/// The second number of a lab's IPv4 addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Net(pub u8);

impl Net {
    pub const FIRST: Self = Self(LAB_NET_FIRST);
}

/// One layer-2 broadcast domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Segment {
    A,
    B,
}

impl Segment {
    pub const ALL: [Self; 2] = [Self::A, Self::B];

    fn number(self) -> u8 {
        match self {
            Self::A => 1,
            Self::B => 2,
        }
    }

    /// The bridge that it is, and how it is called where boxes are named too.
    #[must_use]
    pub fn bridge(self) -> String {
        format!("segment-{self}")
    }

    /// The router's interface on it.
    #[must_use]
    pub fn router_port(self) -> String {
        format!("router-{self}")
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::A => "a",
            Self::B => "b",
        })
    }
}

/// What a cable leads to: a box, or the machine itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Port {
    Host,
    Box(u8),
}

/// Text that names no port.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is neither `host` nor a box such as b1")]
pub struct PortError(String);

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.pad("host"),
            Self::Box(number) => f.pad(&format!("b{number}")),
        }
    }
}

impl FromStr for Port {
    type Err = PortError;

    fn from_str(text: &str) -> Result<Self, PortError> {
        if text == "host" {
            return Ok(Self::Host);
        }
        let number = text.strip_prefix('b').and_then(|number| number.parse().ok());
        let number = number.filter(|number| (1..=LAB_BOXES_MAX).contains(number));
        // One box, one spelling: not b03.
        let port = number.map(Self::Box).filter(|port| port.to_string() == text);
        port.ok_or_else(|| PortError(text.chars().take(60).collect()))
    }
}

impl TryFrom<String> for Port {
    type Error = PortError;

    fn try_from(text: String) -> Result<Self, PortError> {
        text.parse()
    }
}

impl From<Port> for String {
    fn from(port: Port) -> Self {
        port.to_string()
    }
}

/// All addresses of one interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
    pub link_local: Ipv6Addr,
    pub mac: Mac,
}

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, rest @ ..] = self.0;
        write!(f, "{first:02x}")?;
        rest.iter().try_for_each(|byte| write!(f, ":{byte:02x}"))
    }
}

impl Addresses {
    #[must_use]
    pub fn of(net: Net, segment: Segment, port: Port) -> Self {
        Self::numbered(
            net,
            segment,
            match port {
                Port::Host => HOST,
                Port::Box(number) => number,
            },
        )
    }

    #[must_use]
    pub fn of_router(net: Net, segment: Segment) -> Self {
        Self::numbered(net, segment, ROUTER)
    }

    fn numbered(Net(net): Net, segment: Segment, number: u8) -> Self {
        let segment = segment.number();
        // The second bit of the first byte: administered locally, not a maker's (IEEE 802).
        let mac = Mac([0x02, 0xfb, net, segment, 0, number]);
        // Written so that its numbers read as those of the IPv4 address do. fd00::/8 is RFC 4193's.
        let v6 = Ipv6Addr::new(0xfd77, as_read(net), as_read(segment), 0, 0, 0, 0, as_read(number));
        // RFC 4291, appendix A.
        let link_local = Ipv6Addr::from_bits(
            (0xfe80 << 112)
                | (0x00fb << 48)
                | (u128::from(net) << 40)
                | (0xff_fe << 24)
                | (u128::from(segment) << 16)
                | u128::from(number),
        );
        Self { v4: Ipv4Addr::new(10, net, segment, number), v6, link_local, mac }
    }
}

/// A number whose hexadecimal digits are the decimal ones of `number`.
fn as_read(number: u8) -> u16 {
    let number = u16::from(number);
    number / 100 * 0x100 + number / 10 % 10 * 0x10 + number % 10
}

/// The networks of a segment: a /24 and a /64.
#[must_use]
pub fn networks(net: Net, segment: Segment) -> (String, String) {
    let Addresses { v4, v6, .. } = Addresses::numbered(net, segment, 0);
    (format!("{v4}/24"), format!("{v6}/64"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_follow_from_the_place() {
        let Addresses { v4, v6, link_local, mac } = Addresses::of(Net(77), Segment::B, Port::Box(12));
        let said = format!("{v4} {v6} {link_local} {mac}");
        assert_eq!(said, "10.77.2.12 fd77:77:2::12 fe80::fb:4dff:fe02:c 02:fb:4d:02:00:0c");
        assert_eq!(networks(Net(127), Segment::A), ("10.127.1.0/24".into(), "fd77:127:1::/64".into()));
    }

    #[test]
    fn no_two_ports_share_an_address() {
        let ports = (1..=LAB_BOXES_MAX).map(Port::Box).chain([Port::Host]);
        let all = Segment::ALL.into_iter().flat_map(|segment| {
            let ports = ports.clone().map(move |port| Addresses::of(Net::FIRST, segment, port));
            ports.chain([Addresses::of_router(Net::FIRST, segment)])
        });
        let all: Vec<_> = all.collect();
        for select in [
            |one: &Addresses| one.v4.to_string(),
            |one: &Addresses| one.v6.to_string(),
            |one: &Addresses| one.mac.to_string(),
        ] {
            let different: std::collections::BTreeSet<_> = all.iter().map(select).collect();
            assert_eq!(different.len(), all.len());
        }
    }

    #[test]
    fn a_port_has_one_spelling() {
        for right in ["host", "b1", "b250"] {
            assert_eq!(right.parse::<Port>().map(|port| port.to_string()).ok().as_deref(), Some(right));
        }
        for wrong in ["", "b", "b0", "b03", "b251", "b1000", "B1", "1", "b-1", "b+1", "segment-a"] {
            assert!(wrong.parse::<Port>().is_err(), "{wrong}");
        }
    }
}
