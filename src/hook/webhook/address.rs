//! Which addresses are those of the public internet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether an address is one that anybody could reach: neither of a private network, nor of this machine, nor of the
/// machinery of a cloud, nor set aside for something else (the IANA special-purpose registries).
pub(super) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => match mapped(address) {
            Some(address) => is_public_v4(address),
            None => is_public_v6(address),
        },
    }
}

/// The IPv4 address that `::ffff:0:0/96` stands for: the system dials that one.
fn mapped(address: Ipv6Addr) -> Option<Ipv4Addr> {
    address.to_ipv4_mapped()
}

/// The address that is dialled.
pub(super) fn canonical(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => mapped(v6).map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

const V4_REFUSED: [(Ipv4Addr, u32); 19] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),        // this network
    (Ipv4Addr::new(10, 0, 0, 0), 8),       // private
    (Ipv4Addr::new(100, 64, 0, 0), 10),    // carriers, and some clouds' metadata
    (Ipv4Addr::new(127, 0, 0, 0), 8),      // this machine
    (Ipv4Addr::new(168, 63, 129, 16), 32), // Azure's machinery, at a public address
    (Ipv4Addr::new(169, 254, 0, 0), 16),   // this link, and the clouds' metadata
    (Ipv4Addr::new(172, 16, 0, 0), 12),    // private
    (Ipv4Addr::new(192, 0, 0, 0), 24),     // protocol assignments
    (Ipv4Addr::new(192, 0, 2, 0), 24),     // documentation
    (Ipv4Addr::new(192, 31, 196, 0), 24),  // AS112
    (Ipv4Addr::new(192, 52, 193, 0), 24),  // AMT
    (Ipv4Addr::new(192, 88, 99, 0), 24),   // 6to4 relays
    (Ipv4Addr::new(192, 168, 0, 0), 16),   // private
    (Ipv4Addr::new(192, 175, 48, 0), 24),  // AS112
    (Ipv4Addr::new(198, 18, 0, 0), 15),    // benchmarks
    (Ipv4Addr::new(198, 51, 100, 0), 24),  // documentation
    (Ipv4Addr::new(203, 0, 113, 0), 24),   // documentation
    (Ipv4Addr::new(224, 0, 0, 0), 4),      // multicast
    (Ipv4Addr::new(240, 0, 0, 0), 4),      // reserved, and broadcast
];

fn is_public_v4(address: Ipv4Addr) -> bool {
    !V4_REFUSED
        .iter()
        .any(|(network, prefix)| is_in_v4(address, *network, *prefix))
}

/// Global unicast: all that is public is in here.
const V6_GLOBAL: (Ipv6Addr, u32) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

const V6_REFUSED: [(Ipv6Addr, u32); 5] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23), // protocol assignments, Teredo among them
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32), // documentation
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16), // 6to4: an IPv4 address within
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20), // documentation
    (Ipv6Addr::new(0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0), 48), // AS112
];

fn is_public_v6(address: Ipv6Addr) -> bool {
    is_in_v6(address, V6_GLOBAL.0, V6_GLOBAL.1)
        && !V6_REFUSED
            .iter()
            .any(|(network, prefix)| is_in_v6(address, *network, *prefix))
}

fn is_in_v4(address: Ipv4Addr, network: Ipv4Addr, prefix: u32) -> bool {
    let mask = u32::MAX.checked_shl(32 - prefix).unwrap_or(0);
    (address.to_bits() ^ network.to_bits()) & mask == 0
}

fn is_in_v6(address: Ipv6Addr, network: Ipv6Addr, prefix: u32) -> bool {
    let mask = u128::MAX.checked_shl(128 - prefix).unwrap_or(0);
    (address.to_bits() ^ network.to_bits()) & mask == 0
}

/// A network that the operator named: `10.1.0.0/16` or `fd00::/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Network {
    address: IpAddr,
    prefix: u32,
}

impl Network {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let digits = prefix.bytes().all(|byte| byte.is_ascii_digit());
        let prefix = prefix.parse().ok().filter(|_| digits)?;
        (prefix <= bits).then_some(Self { address, prefix })
    }

    pub(super) fn contains(&self, address: IpAddr) -> bool {
        match (canonical(address), self.address) {
            (IpAddr::V4(address), IpAddr::V4(network)) => is_in_v4(address, network, self.prefix),
            (IpAddr::V6(address), IpAddr::V6(network)) => is_in_v6(address, network, self.prefix),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn public(address: &str) -> bool {
        is_public(address.parse().unwrap())
    }

    /// The first and the last address of every block that is refused, and its neighbours that are not.
    #[test]
    fn every_special_block_of_ipv4_is_refused_to_its_edges() {
        for (first, last) in [
            ("0.0.0.0", "0.255.255.255"),
            ("10.0.0.0", "10.255.255.255"),
            ("100.64.0.0", "100.127.255.255"),
            ("127.0.0.0", "127.255.255.255"),
            ("169.254.0.0", "169.254.255.255"),
            ("172.16.0.0", "172.31.255.255"),
            ("192.0.0.0", "192.0.0.255"),
            ("192.0.2.0", "192.0.2.255"),
            ("192.31.196.0", "192.31.196.255"),
            ("192.52.193.0", "192.52.193.255"),
            ("192.88.99.0", "192.88.99.255"),
            ("192.168.0.0", "192.168.255.255"),
            ("192.175.48.0", "192.175.48.255"),
            ("198.18.0.0", "198.19.255.255"),
            ("198.51.100.0", "198.51.100.255"),
            ("203.0.113.0", "203.0.113.255"),
            ("224.0.0.0", "239.255.255.255"),
            ("240.0.0.0", "255.255.255.255"),
            ("168.63.129.16", "168.63.129.16"),
        ] {
            assert!(!public(first) && !public(last), "{first} {last}");
            let (first, last): (Ipv4Addr, Ipv4Addr) = (first.parse().unwrap(), last.parse().unwrap());
            let before = first.to_bits().checked_sub(1).map(Ipv4Addr::from_bits);
            let after = last.to_bits().checked_add(1).map(Ipv4Addr::from_bits);
            for neighbour in [before, after].into_iter().flatten() {
                // Where one block follows another, the neighbour is refused as well.
                let touches = ["223.255.255.255", "239.255.255.255", "240.0.0.0"].contains(&&*neighbour.to_string());
                assert!(is_public(neighbour.into()) || touches, "{neighbour}");
            }
        }
        assert!(public("8.8.8.8") && public("1.1.1.1") && public("223.255.255.255"));
    }

    #[test]
    fn of_ipv6_only_global_unicast_is_let_through_and_not_all_of_it() {
        for refused in [
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:7f00:1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "100::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "2001::1",
            "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff",
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
            "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff",
            "2620:4f:8000::1",
            "4000::1",
            "1fff:ffff::1",
        ] {
            assert!(!public(refused), "{refused}");
        }
        for allowed in [
            "2606:4700::1111",
            "2a00::1",
            "::ffff:8.8.8.8",
            "2001:200::1",
            "3ffe::1",
            "3fff:1000::1",
            "2620:4f:8001::1",
        ] {
            assert!(public(allowed), "{allowed}");
        }
    }

    #[test]
    fn a_network_is_a_block_of_addresses() {
        let contains =
            |network: &str, address: &str| Network::parse(network).unwrap().contains(address.parse().unwrap());
        assert!(contains("10.1.0.0/16", "10.1.255.255") && !contains("10.1.0.0/16", "10.2.0.0"));
        assert!(contains("127.0.0.1/32", "127.0.0.1") && !contains("127.0.0.1/32", "127.0.0.2"));
        assert!(contains("127.0.0.0/8", "::ffff:127.0.0.9"));
        assert!(
            contains("fd00::/8", "fdff::1") && !contains("fd00::/8", "fe00::1") && !contains("fd00::/8", "10.0.0.1")
        );
        assert!(contains("::1/128", "::1") && contains("0.0.0.0/0", "1.2.3.4") && contains("::/0", "1::"));
        for bad in [
            "",
            "10.0.0.0/33",
            "::/129",
            "10.0.0/8",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "host/8",
            "10.0.0.1",
            "10.0.0.0/-1",
        ] {
            assert_eq!(Network::parse(bad), None, "{bad}");
        }
    }
}
