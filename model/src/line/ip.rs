//! The address of a click as it is written.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::short;

/// An IPv4 address, or an IPv6 address in any spelling; one that only wraps an IPv4 address (`::ffff:1.2.3.4`) is that.
pub fn parse_ip(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

/// The IPv4 address that stands from `start` to `end` in a line whose dots are known, as [`parse_ip`] takes it, faster.
#[inline(always)]
pub(super) fn ipv4_at(line: &[u8], start: usize, end: usize, dots: u128) -> Option<Ipv4Addr> {
    const LONGEST: usize = 15;
    let text = line.get(start..end)?;
    if text.len() > LONGEST {
        return None;
    }
    let bytes = match line.get(start..).and_then(|rest| rest.first_chunk::<16>()) {
        Some(bytes) => u128::from_le_bytes(*bytes),
        None => short::word(text)?,
    };
    // The digits' values.
    let digits = bytes ^ 0x3030_3030_3030_3030_3030_3030_3030_3030;
    let mut dots = (dots >> start) as u32 & ((1 << text.len()) - 1);
    let mut octets = [0_u8; 4];
    let mut at = 0;
    let mut is_good = true;
    for (i, octet) in octets.iter_mut().enumerate() {
        let next = if i < 3 { dots.trailing_zeros().min(LONGEST as u32) } else { text.len() as u32 };
        dots &= dots.wrapping_sub(1);
        let width = next.wrapping_sub(at);
        is_good &= width.wrapping_sub(1) < 3;
        let (value, is_number) = number((digits >> (8 * (at & 15))) as u32, width & 3);
        *octet = value;
        is_good &= is_number;
        at = next + 1;
    }
    (is_good && dots == 0).then(|| Ipv4Addr::from(octets))
}

/// The number that the first `width` (1 to 3) of four digits write, and whether it is one: without a leading zero, up to 255.
#[inline(always)]
fn number(digits: u32, width: u32) -> (u8, bool) {
    let digits = digits & ((1 << (8 * width)) - 1);
    let is_digits = (digits | digits.wrapping_add(0x0606_0606)) & 0xf0f0_f0f0 == 0;
    // Moved up until the last one is the highest byte.
    let [_, hundreds, tens, ones] = digits.unbounded_shl(8 * (4 - width)).to_le_bytes().map(u32::from);
    let value = hundreds * 100 + tens * 10 + ones;
    let leading_zero = width > 1 && digits & 0xff == 0;
    (value as u8, is_digits & !leading_zero & (value < 256))
}

/// An IPv6 address in groups, as [`parse_ip`] takes it, faster, and whether it is written as RFC 5952 says. `None` for every other spelling, and where it only wraps an IPv4 address.
#[inline]
pub(super) fn ipv6(text: &[u8]) -> Option<(Ipv6Addr, bool)> {
    let mut groups = [0_u16; 8];
    let mut count = 0;
    let mut gap = None;
    let mut is_short = true;
    let mut rest = text;
    if let Some(behind) = rest.strip_prefix(b"::") {
        gap = Some(0);
        rest = behind;
    }
    while !rest.is_empty() {
        let Group { value, width, is_shortest } = group(rest)?;
        *groups.get_mut(count)? = value;
        count += 1;
        is_short &= is_shortest;
        rest = match &rest[width..] {
            [] => break,
            [b':', b':', behind @ ..] if gap.is_none() => {
                gap = Some(count);
                behind
            }
            [b':', behind @ ..] if !behind.is_empty() => behind,
            _ => return None,
        };
    }
    // A gap stands for one group of zeros or more.
    let zeros = 8_usize.checked_sub(count)?;
    match gap {
        Some(at) if zeros > 0 => groups[at..].rotate_right(zeros),
        None if zeros == 0 => {}
        _ => return None,
    }
    let address = Ipv6Addr::from(groups);
    let is_rfc_5952 = is_short && gap.map(|at| (at, zeros)) == longest_zeros(&groups);
    address.to_ipv4_mapped().is_none().then_some((address, is_rfc_5952))
}

struct Group {
    value: u16,
    width: usize,
    /// In lower case, without a leading zero.
    is_shortest: bool,
}

/// The one to four hexadecimal digits that the text begins with.
#[inline]
fn group(text: &[u8]) -> Option<Group> {
    let mut value = 0;
    let mut width = 0;
    let mut is_lower = true;
    for byte in text.iter().take(4) {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => {
                is_lower = false;
                byte - b'A' + 10
            }
            _ => break,
        };
        value = value << 4 | u16::from(digit);
        width += 1;
    }
    let is_shortest = is_lower && (width == 1 || text.first() != Some(&b'0'));
    (width > 0).then_some(Group { value, width, is_shortest })
}

/// Where the longest run of two or more groups of zeros begins, the first of several, and its length.
#[inline]
fn longest_zeros(groups: &[u16; 8]) -> Option<(usize, usize)> {
    let (mut run, mut longest, mut start) = (0, 1, 0);
    for (i, group) in groups.iter().enumerate() {
        run = if *group == 0 { run + 1 } else { 0 };
        if run > longest {
            (start, longest) = (i + 1 - run, run);
        }
    }
    (longest > 1).then_some((start, longest))
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

    #[test]
    fn ipv6_in_groups_is_parsed_as_any_and_known_where_it_is_canonical() {
        for text in [
            "::",
            "::1",
            "1::",
            "2001:db8::1",
            "2001:DB8::1",
            "2001:0db8::1",
            "1:2:3:4:5:6:7:8",
            "1:2:3:4:5:6:7::",
            "1::3:4:5:6:7:8",
            "::2:3:4:5:6:7:8",
            "1:0:0:2:0:0:0:3",
            "1:0:0:2::3",
            "1::2:0:0:0:3",
            "1:0:0:2:3:0:0:4",
            "1::2:3:0:0:4",
            "1:0:0:2:3::4",
            "0:0:0:0:0:0:0:0",
            "0::",
            "::0",
            "0:1::0",
            "e:0:524::0",
            "1:2:3:4:5:6:0:0",
            "1:2:3:4:5:6::",
            "::ffff:1.2.3.4",
            "::ffff:102:304",
            "::1.2.3.4",
            "fe80::1%eth0",
            "1:2:3",
            "1:2:3:4:5:6:7:8:9",
            "1:2:3:4:5:6:7:8::",
            ":1",
            "1:",
            "1:::2",
            "1::2::3",
            ":::",
            ":",
            "",
            "12345::",
            "g::",
        ] {
            check_ipv6(text);
        }
    }

    fn check_ipv6(text: &str) {
        let right: Option<Ipv6Addr> = text.parse().ok();
        match ipv6(text.as_bytes()) {
            Some((address, is_canonical)) => {
                assert_eq!(Some(address), right, "{text}");
                assert_eq!(is_canonical, address.to_string() == text, "{text}");
            }
            None => assert!(right.is_none_or(|right| right.to_ipv4_mapped().is_some() || text.contains('.')), "{text}"),
        }
    }

    proptest::proptest! {
        #[test]
        fn any_groups_are_read_like_any_address(
            text in "(0|[0-9a-f]{1,4}|00?|A1)((:|::|:)(0|0|[0-9a-f]{1,4})){0,8}(::)?|:{0,2}([0-9a-fA-F]{0,5}:{1,2}){0,8}[0-9a-f.]{0,5}",
            groups: [u16; 8], zeros: u8,
        ) {
            check_ipv6(&text);
            let mut groups = groups;
            for (i, group) in groups.iter_mut().enumerate() {
                *group *= u16::from(zeros >> i & 1);
            }
            check_ipv6(&Ipv6Addr::from(groups).to_string());
        }

        #[test]
        fn ipv4_is_found_as_it_is_parsed(
            before in "[0-9., ]{0,20}", text in "[0-9]{1,3}(\\.[0-9]{1,3}){3}|[0-9.:/;]{0,17}", after in "[0-9., ]{0,9}",
        ) {
            let line = format!("{before}{text}{after}");
            let dots = line.bytes().enumerate().fold(0, |dots, (i, byte)| dots | u128::from(byte == b'.') << i);
            let found = ipv4_at(line.as_bytes(), before.len(), before.len() + text.len(), dots);
            proptest::prop_assert_eq!(found, text.parse().ok());
        }
    }
}
