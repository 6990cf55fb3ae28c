//! The addresses of the public internet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Whether an address is public: not of a private network, this machine or the infrastructure of a cloud, and not
/// reserved for another purpose (IANA special-purpose registries).
pub(super) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => match mapped(address) {
            Some(address) => is_public_v4(address),
            None => is_public_v6(address),
        },
    }
}

/// The IPv4 address of an address in `::ffff:0:0/96`. The system connects to that one.
fn mapped(address: Ipv6Addr) -> Option<Ipv4Addr> {
    address.to_ipv4_mapped()
}

/// The address that the system connects to.
pub(super) fn canonical(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => mapped(v6).map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

const V4_REFUSED: [Ipv4Net; 19] = [
    v4([0, 0, 0, 0], 8),        // this network
    v4([10, 0, 0, 0], 8),       // private
    v4([100, 64, 0, 0], 10),    // carriers, and some clouds' metadata
    v4([127, 0, 0, 0], 8),      // this machine
    v4([168, 63, 129, 16], 32), // Azure's machinery, at a public address
    v4([169, 254, 0, 0], 16),   // this link, and the clouds' metadata
    v4([172, 16, 0, 0], 12),    // private
    v4([192, 0, 0, 0], 24),     // protocol assignments
    v4([192, 0, 2, 0], 24),     // documentation
    v4([192, 31, 196, 0], 24),  // AS112
    v4([192, 52, 193, 0], 24),  // AMT
    v4([192, 88, 99, 0], 24),   // 6to4 relays
    v4([192, 168, 0, 0], 16),   // private
    v4([192, 175, 48, 0], 24),  // AS112
    v4([198, 18, 0, 0], 15),    // benchmarks
    v4([198, 51, 100, 0], 24),  // documentation
    v4([203, 0, 113, 0], 24),   // documentation
    v4([224, 0, 0, 0], 4),      // multicast
    v4([240, 0, 0, 0], 4),      // reserved, and broadcast
];

fn is_public_v4(address: Ipv4Addr) -> bool {
    !V4_REFUSED.iter().any(|network| network.contains(&address))
}

/// Global unicast: all public addresses are in this block.
const V6_GLOBAL: Ipv6Net = v6([0x2000, 0, 0], 3);

const V6_REFUSED: [Ipv6Net; 5] = [
    v6([0x2001, 0, 0], 23),         // protocol assignments, Teredo among them
    v6([0x2001, 0xdb8, 0], 32),     // documentation
    v6([0x2002, 0, 0], 16),         // 6to4: an IPv4 address within
    v6([0x3fff, 0, 0], 20),         // documentation
    v6([0x2620, 0x4f, 0x8000], 48), // AS112
];

fn is_public_v6(address: Ipv6Addr) -> bool {
    V6_GLOBAL.contains(&address) && !V6_REFUSED.iter().any(|network| network.contains(&address))
}

const fn v4([a, b, c, d]: [u8; 4], prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6([a, b, c]: [u16; 3], prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), prefix)
}

/// A network that the operator names: `10.1.0.0/16` or `fd00::/8`.
pub(super) fn network(text: &str) -> Option<IpNet> {
    // The standard library refuses `010`, which `IpNet` reads as 10 and other parsers as 8.
    let (address, _) = text.split_once('/')?;
    address.parse::<IpAddr>().ok()?;
    text.parse().ok()
}

/// Whether the address that the system connects to is in the network.
pub(super) fn is_in(network: &IpNet, address: IpAddr) -> bool {
    network.contains(&canonical(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn public(address: &str) -> bool {
        is_public(address.parse().unwrap())
    }

    /// Tests the first and the last address of every refused block, and its neighbours, which are not refused.
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
        let contains = |name: &str, address: &str| is_in(&network(name).unwrap(), address.parse().unwrap());
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
            "010.0.0.0/8",
        ] {
            assert_eq!(network(bad), None, "{bad}");
        }
    }
}
