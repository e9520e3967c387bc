//! Where a box can be reached: the addresses of its own interfaces.

use std::net::IpAddr;

use base::limits::BOX_ADDRESSES_MAX;

/// Addresses that another box may dial, those of its interfaces without the loopback: IPv4 first. Link-local IPv6 means
/// nothing on another machine, so it isn't among them.
///
/// An error is the system's, and gives none: the next look may find some.
#[must_use]
pub fn own_addresses() -> Vec<IpAddr> {
    let interfaces = match if_addrs::get_if_addrs() {
        Ok(interfaces) => interfaces,
        Err(error) => {
            tracing::warn!(%error, "the box's own interfaces can't be looked at");
            return Vec::new();
        }
    };
    let mut addresses: Vec<IpAddr> = interfaces.into_iter().map(|interface| interface.ip()).filter(is_useful).collect();
    addresses.sort_by_key(|address| (address.is_ipv6(), *address));
    addresses.dedup();
    addresses.truncate(BOX_ADDRESSES_MAX);
    addresses
}

fn is_useful(address: &IpAddr) -> bool {
    let is_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !is_local && !address.is_loopback() && !address.is_unspecified() && !address.is_multicast()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_else_can_dial_is_no_address() {
        for (text, useful) in [
            ("10.0.0.7", true),
            ("192.0.2.1", true),
            ("fd00::7", true),
            ("127.0.0.1", false),
            ("::1", false),
            ("fe80::1", false),
            ("169.254.3.4", false),
            ("0.0.0.0", false),
        ] {
            assert_eq!(is_useful(&text.parse().expect("an address")), useful, "{text}");
        }
        assert!(own_addresses().iter().all(is_useful));
    }
}
