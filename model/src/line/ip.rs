//! The address of a click as it is written.

use std::net::{IpAddr, Ipv4Addr};

/// An IPv4 address, or an IPv6 address in any spelling; one that only wraps an IPv4 address (`::ffff:1.2.3.4`) is that.
pub fn parse_ip(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

/// The IPv4 address that stands from `start` to `end` in a line whose dots are known, as [`parse_ip`] takes it, faster. `None` also where the line ends less than three bytes behind it.
#[inline]
pub(super) fn ipv4_at(line: &[u8], start: usize, end: usize, dots: u128) -> Option<Ipv4Addr> {
    let length = end.checked_sub(start).filter(|length| *length <= 15)?;
    let mut dots = (dots >> start) as u32 & ((1 << length) - 1);
    if dots.count_ones() != 3 {
        return None;
    }
    let mut octets = [0_u8; 4];
    let mut at = 0;
    for octet in &mut octets {
        let next = if dots == 0 { length } else { dots.trailing_zeros() as usize };
        dots &= dots.wrapping_sub(1);
        let text = line.get(start + at..)?.first_chunk::<4>()?;
        *octet = number(*text, next - at)?;
        at = next + 1;
    }
    Some(Ipv4Addr::from(octets))
}

/// The number that the first `width` of four bytes write: one to three digits without a leading zero, up to 255.
#[inline]
fn number(text: [u8; 4], width: usize) -> Option<u8> {
    if !(1..=3).contains(&width) {
        return None;
    }
    // The digits' values, those of the bytes behind them taken as 0.
    let digits = (u32::from_le_bytes(text) ^ 0x3030_3030) & ((1 << (8 * width)) - 1);
    let is_digits = (digits | digits.wrapping_add(0x0606_0606)) & 0xf0f0_f0f0 == 0;
    // Moved up until the last one is the highest byte.
    let [_, hundreds, tens, ones] = (digits << (8 * (4 - width))).to_le_bytes().map(u32::from);
    let value = hundreds * 100 + tens * 10 + ones;
    let leading_zero = width > 1 && digits & 0xff == 0;
    u8::try_from(value).ok().filter(|_| is_digits && !leading_zero)
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
        fn ipv4_is_found_as_it_is_parsed(
            before in "[0-9., ]{0,20}", text in "[0-9]{1,3}(\\.[0-9]{1,3}){3}|[0-9.:/;]{0,17}", after in "[0-9., ]{3}",
        ) {
            let line = format!("{before}{text}{after}");
            let dots = line.bytes().enumerate().fold(0, |dots, (i, byte)| dots | u128::from(byte == b'.') << i);
            let found = ipv4_at(line.as_bytes(), before.len(), before.len() + text.len(), dots);
            proptest::prop_assert_eq!(found, text.parse().ok());
        }
    }
}
