//! The address of a click as it is written.

use std::net::{IpAddr, Ipv4Addr};

/// An IPv4 address, or an IPv6 address in any spelling; one that only wraps an IPv4 address (`::ffff:1.2.3.4`) is that.
pub fn parse_ip(text: &str) -> Option<IpAddr> {
    parse_ipv4(text.as_bytes())
        .map(IpAddr::V4)
        .or_else(|| text.parse::<std::net::Ipv6Addr>().ok().map(|ip| IpAddr::V6(ip).to_canonical()))
}

/// Four numbers of at most three digits up to 255 without leading zeros, as the standard library takes them, faster.
fn parse_ipv4(text: &[u8]) -> Option<Ipv4Addr> {
    let mut octets = [0_u8; 4];
    let mut at = 0;
    for (i, octet) in octets.iter_mut().enumerate() {
        let start = at;
        let mut value = 0_u32;
        while let Some(digit) = text.get(at).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit <= 9) {
            value = value * 10 + u32::from(digit);
            at += 1;
            if at - start > 3 {
                return None;
            }
        }
        let leading_zero = at - start > 1 && text.get(start) == Some(&b'0');
        if at == start || value > 255 || leading_zero {
            return None;
        }
        *octet = value as u8;
        if i < 3 {
            if text.get(at) != Some(&b'.') {
                return None;
            }
            at += 1;
        }
    }
    (at == text.len()).then_some(Ipv4Addr::from(octets))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let same = |a: &str, b: &str| assert_eq!(parse_ip(a), Some(b.parse().unwrap()), "{a}");
        same("0.0.0.0", "0.0.0.0");
        same("255.255.255.255", "255.255.255.255");
        same("2001:DB8:0:0:0:0:0:1", "2001:db8::1");
        same("2001:0db8:0000:0000:0000:0000:0000:0001", "2001:db8::1");
        same("::ffff:1.2.3.4", "1.2.3.4");
        same("::ffff:102:304", "1.2.3.4");
        for bad in [
            "256.1.1.1",
            "1.1.1",
            "1.1.1.1.1",
            "01.1.1.1",
            "1.1.1.1 ",
            "1..1.1",
            "1.1.1.1000",
            "::g",
            "fe80::1%eth0",
            "",
        ] {
            assert_eq!(parse_ip(bad), None, "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn ipv4_is_taken_as_the_standard_library_does(text in "[0-9.]{0,16}") {
            proptest::prop_assert_eq!(parse_ipv4(text.as_bytes()), text.parse().ok());
        }
    }
}
