//! Which addresses a webhook may go to.
//!
//! Who may name a URL must not get at what only this machine can reach: its own ports, its network, the metadata service of
//! its cloud. So an address has to be one of the public internet, by the special-purpose registries of IANA (RFC 6890 and
//! what was added since), or in a network that the configuration allows.
//!
//! Some addresses of IPv6 lead to one of IPv4: mapped and translated ones, and tunnels. Such an address has to pass twice, as
//! the one that it is and as the one that it leads to, so nothing is reached by a detour that is not open on the straight way.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Networks that webhooks may go to although they are no part of the public internet.
#[derive(Debug, Clone, Default)]
pub struct Allowed {
    networks: Vec<IpNet>,
}

/// An address that a webhook may not go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{address} is {what}: webhooks go there only if the configuration allows its network")]
pub struct Refused {
    pub address: IpAddr,
    /// What it is, or what the address of IPv4 is that it leads to: "a private address".
    pub what: &'static str,
}

impl Allowed {
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self { networks }
    }

    /// Whether a webhook may go to `address`.
    pub fn judge(&self, address: IpAddr) -> Result<(), Refused> {
        if let Some(what) = special(address)
            && !self.networks.iter().any(|network| network.contains(&address))
        {
            return Err(Refused { address, what });
        }
        match leads_to(address) {
            Some(inner) => self.judge(inner.into()).map_err(|refused| Refused { address, what: refused.what }),
            None => Ok(()),
        }
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8, length: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length)
}

const fn v6(a: u16, b: u16, c: u16, length: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), length)
}

/// Everything else in IPv4 is the public internet.
const SPECIAL_V4: &[(Ipv4Net, &str)] = &[
    (v4(0, 0, 0, 0, 8), "an address of this network"),
    (v4(10, 0, 0, 0, 8), "a private address"),
    (v4(100, 64, 0, 0, 10), "an address shared behind a carrier's NAT"),
    (v4(127, 0, 0, 0, 8), "a loopback address"),
    // Of Azure: public by its number, and answered by the host of a virtual machine
    (v4(168, 63, 129, 16, 32), "the address of a cloud's own services"),
    (v4(169, 254, 0, 0, 16), "a link-local address"),
    (v4(172, 16, 0, 0, 12), "a private address"),
    (v4(192, 0, 0, 0, 24), "an address reserved for protocols"),
    (v4(192, 0, 2, 0, 24), "an address for documentation"),
    (v4(192, 88, 99, 0, 24), "a relay to 6to4"),
    (v4(192, 168, 0, 0, 16), "a private address"),
    (v4(198, 18, 0, 0, 15), "an address for benchmarks"),
    (v4(198, 51, 100, 0, 24), "an address for documentation"),
    (v4(203, 0, 113, 0, 24), "an address for documentation"),
    (v4(224, 0, 0, 0, 4), "a multicast address"),
    (v4(255, 255, 255, 255, 32), "the broadcast address"),
    (v4(240, 0, 0, 0, 4), "a reserved address"),
];

const MAPPED: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96);
const COMPATIBLE: Ipv6Net = v6(0, 0, 0, 96);
const NAT64: Ipv6Net = v6(0x64, 0xff9b, 0, 96);
const NAT64_LOCAL: Ipv6Net = v6(0x64, 0xff9b, 1, 48);
const TEREDO: Ipv6Net = v6(0x2001, 0, 0, 32);
const SIX_TO_FOUR: Ipv6Net = v6(0x2002, 0, 0, 16);

/// The first that contains an address tells what it is. What none of them contains is public in `GLOBAL`, else reserved.
const SPECIAL_V6: &[(Ipv6Net, &str)] = &[
    (Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 128), "the unspecified address"),
    (Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128), "the loopback address"),
    (MAPPED, "an address of IPv4, mapped"),
    (COMPATIBLE, "an address of IPv4, in the form called compatible"),
    (NAT64, "an address of IPv4 behind NAT64"),
    (NAT64_LOCAL, "an address of IPv4 behind a local NAT64"),
    (v6(0x100, 0, 0, 64), "an address of what is discarded"),
    (TEREDO, "the end of a Teredo tunnel"),
    (v6(0x2001, 2, 0, 48), "an address for benchmarks"),
    (v6(0x2001, 0, 0, 23), "an address reserved for protocols"),
    (v6(0x2001, 0xdb8, 0, 32), "an address for documentation"),
    (SIX_TO_FOUR, "the end of a 6to4 tunnel"),
    (v6(0x3fff, 0, 0, 20), "an address for documentation"),
    (v6(0x5f00, 0, 0, 16), "a segment identifier of a routing network"),
    (v6(0xfc00, 0, 0, 7), "a private address"),
    (v6(0xfe80, 0, 0, 10), "a link-local address"),
    (v6(0xfec0, 0, 0, 10), "a site-local address"),
    (v6(0xff00, 0, 0, 8), "a multicast address"),
];

/// All of IPv6 that is given out to the public internet.
const GLOBAL: Ipv6Net = v6(0x2000, 0, 0, 3);

/// What `address` is, unless it is one of the public internet.
fn special(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => SPECIAL_V4.iter().find(|(network, _)| network.contains(&address)).map(|(_, what)| *what),
        IpAddr::V6(address) => {
            let found = SPECIAL_V6.iter().find(|(network, _)| network.contains(&address)).map(|(_, what)| *what);
            found.or((!GLOBAL.contains(&address)).then_some("a reserved address"))
        }
    }
}

/// The address of IPv4 at which packets to `address` come out, where they do.
fn leads_to(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(address) = address else { return None };
    let [_, first, second, _, fifth, sixth, seventh, eighth] = address.segments();
    let joined = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    let last = joined(seventh, eighth);
    // Of the ways to put an address behind a prefix (RFC 6052) a local NAT64 is taken to use the one of the well-known prefix
    let at_the_end = [MAPPED, NAT64, NAT64_LOCAL].iter().any(|network| network.contains(&address));
    let compatible = COMPATIBLE.contains(&address) && !address.is_unspecified() && !address.is_loopback();
    // An interface that tunnels within a site, ISATAP (RFC 5214), under whatever prefix
    let tunnels = matches!(fifth, 0 | 0x200) && sixth == 0x5efe;
    if at_the_end || compatible || tunnels {
        Some(last)
    } else if TEREDO.contains(&address) {
        Some(Ipv4Addr::from_bits(!last.to_bits()))
    } else if SIX_TO_FOUR.contains(&address) {
        Some(joined(first, second))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn allowed(networks: &[&str]) -> Allowed {
        Allowed::new(networks.iter().map(|network| network.parse().unwrap()).collect())
    }

    fn judge(allowed: &Allowed, address: &str) -> Result<(), &'static str> {
        allowed.judge(address.parse().unwrap()).map_err(|refused| refused.what)
    }

    #[test]
    fn borders_of_networks_are_where_the_registries_have_them() {
        let inside = [
            ["0.0.0.0", "0.255.255.255"],
            ["10.0.0.0", "10.255.255.255"],
            ["100.64.0.0", "100.127.255.255"],
            ["127.0.0.0", "127.255.255.255"],
            ["169.254.0.0", "169.254.255.255"],
            ["172.16.0.0", "172.31.255.255"],
            ["192.0.0.0", "192.0.0.255"],
            ["192.0.2.0", "192.0.2.255"],
            ["192.88.99.0", "192.88.99.255"],
            ["192.168.0.0", "192.168.255.255"],
            ["198.18.0.0", "198.19.255.255"],
            ["198.51.100.0", "198.51.100.255"],
            ["203.0.113.0", "203.0.113.255"],
            ["224.0.0.0", "255.255.255.255"],
            ["::", "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"],
            ["2001::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff"],
            ["2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"],
            ["2002::", "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff"],
            ["3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff"],
            ["4000::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"],
        ];
        for address in inside.as_flattened() {
            assert!(judge(&allowed(&[]), address).is_err(), "{address}");
        }
        let outside = [
            ["1.0.0.0", "9.255.255.255"],
            ["11.0.0.0", "100.63.255.255"],
            ["100.128.0.0", "126.255.255.255"],
            ["128.0.0.0", "168.63.129.15"],
            ["168.63.129.17", "169.253.255.255"],
            ["169.255.0.0", "172.15.255.255"],
            ["172.32.0.0", "191.255.255.255"],
            ["192.0.1.0", "192.0.3.0"],
            ["192.88.98.255", "192.88.100.0"],
            ["192.167.255.255", "192.169.0.0"],
            ["198.17.255.255", "198.20.0.0"],
            ["198.51.99.255", "198.51.101.0"],
            ["203.0.112.255", "203.0.114.0"],
            ["223.255.255.255", "8.8.8.8"],
            ["2000::", "2000:ffff::"],
            ["2001:200::", "2001:db7:ffff::"],
            ["2001:db9::", "2001:4860:4860::8888"],
            ["2003::", "3ffe:ffff::"],
            ["3fff:1000::", "2606:4700:4700::1111"],
        ];
        for address in outside.as_flattened() {
            assert_eq!(judge(&allowed(&[]), address), Ok(()), "{address}");
        }
    }

    #[test]
    fn a_refusal_says_what_the_address_is() {
        let refused = Allowed::default().judge([169, 254, 169, 254].into()).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "169.254.169.254 is a link-local address: webhooks go there only if the configuration allows its network"
        );
    }

    #[test]
    fn the_configuration_opens_a_network_and_no_more() {
        let own = allowed(&["10.1.0.0/16", "fd00:1::/32"]);
        assert_eq!(judge(&own, "10.1.2.3"), Ok(()));
        assert_eq!(judge(&own, "fd00:1::5"), Ok(()));
        assert_eq!(judge(&own, "10.2.0.1"), Err("a private address"));
        assert_eq!(judge(&own, "fd00:2::5"), Err("a private address"));
        assert_eq!(judge(&own, "127.0.0.1"), Err("a loopback address"));
    }

    #[test]
    fn a_detour_has_to_be_open_as_well_as_where_it_leads() {
        let detours =
            ["::ffff:0:0/96", "::/96", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32"].map(str::to_owned);
        let detours: Vec<&str> = detours.iter().map(String::as_str).collect();
        let own = allowed(&["10.0.0.0/8"]);
        let both = allowed(&[&detours[..], &["10.0.0.0/8"]].concat());
        let detours = allowed(&detours);
        // Each leads to 10.0.0.1, and the one beside it to 8.8.8.8
        let forms = [
            ["::ffff:10.0.0.1", "::ffff:8.8.8.8"],
            ["::10.0.0.1", "::8.8.8.8"],
            ["64:ff9b::a00:1", "64:ff9b::808:808"],
            ["64:ff9b:1::a00:1", "64:ff9b:1::808:808"],
            ["2002:a00:1::1", "2002:808:808::1"],
            ["2001:0:0:0:0:0:f5ff:fffe", "2001:0:0:0:0:0:f7f7:f7f7"],
        ];
        for [private, public] in forms {
            assert!(judge(&own, private).is_err(), "{private}");
            assert_eq!(judge(&detours, private), Err("a private address"), "{private}");
            assert_eq!(judge(&both, private), Ok(()), "{private}");
            assert!(judge(&own, public).is_err(), "{public}");
            assert_eq!(judge(&detours, public), Ok(()), "{public}");
        }
        assert_eq!(judge(&own, "2606:4700::5efe:127.0.0.1"), Err("a loopback address"));
        assert_eq!(judge(&own, "2606:4700::200:5efe:8.8.8.8"), Ok(()));
        assert_eq!(judge(&allowed(&["::1/128"]), "::1"), Ok(()));
    }

    proptest! {
        #[test]
        fn what_is_refused_is_refused_in_every_form(bits: u32) {
            let inner = Ipv4Addr::from_bits(bits);
            let detours = allowed(&["::ffff:0:0/96", "64:ff9b::/96", "2002::/16"]);
            let [a, b] = [(bits >> 16) as u16, bits as u16];
            let expected = detours.judge(inner.into()).map_err(|refused| refused.what);
            for form in [
                inner.to_ipv6_mapped(),
                Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, a, b),
                Ipv6Addr::new(0x2002, a, b, 0, 0, 0, 0, 1),
            ] {
                let refused = |refused: Refused| refused.what;
                prop_assert_eq!(detours.judge(form.into()).map_err(refused), expected);
                prop_assert!(Allowed::default().judge(form.into()).is_err());
            }
        }
    }
}
