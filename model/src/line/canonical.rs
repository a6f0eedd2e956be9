//! The canonical form of a text line: what the columns of a click are written back as.
//!
//! `[AdClickEvent] {ad_id}, {YYYY-MM-DD HH:MM:SS}, {user_id}, {ip}, {country}`, without anything before or after, where the second has no fraction, one of three digits (whole
//! milliseconds) or one of six; an IPv4 address is written with dots, an IPv6 address as RFC 5952 says. A click with an event id has no canonical form.
//! Most lines of a log are canonical, so that their bytes need not be kept.

use std::io::Write;
use std::net::IpAddr;

use memchr::memchr;

use crate::calendar::civil_from_days;
use crate::click::Click;
use crate::time::Timestamp;

const PREFIX: &[u8] = b"[AdClickEvent] ";
const BETWEEN: &[u8] = b", ";
const MICROS_PER_SECOND: i64 = 1_000_000;

/// Writes the canonical line of a click to the end of `out`.
pub fn original_line(
    ad_id: &str,
    click_timestamp: Timestamp,
    user_id: &str,
    ip: &str,
    country: &str,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(PREFIX);
    out.extend_from_slice(ad_id.as_bytes());
    out.extend_from_slice(BETWEEN);
    write_time(click_timestamp, out);
    for field in [user_id, ip, country] {
        out.extend_from_slice(BETWEEN);
        out.extend_from_slice(field.as_bytes());
    }
}

/// The address as it stands in `line`, where `line` is the canonical one of `click`, which was parsed from it; otherwise nothing.
///
/// Every byte of the line is compared, so that an address back means that [`original_line`] writes exactly this line.
pub fn ip_of_canonical<'a>(line: &'a [u8], click: &Click<'a>) -> Option<&'a [u8]> {
    if let Some(text) = click.plain {
        return Some(text.ip);
    }
    if click.event_id.is_some() {
        return None;
    }
    let rest = line.strip_prefix(PREFIX)?.strip_prefix(click.ad_id.as_bytes())?.strip_prefix(BETWEEN)?;
    let (time, rest) = rest.split_at_checked(memchr(b',', rest)?)?;
    if !is_canonical_time(time, click.timestamp) {
        return None;
    }
    let rest = rest.strip_prefix(BETWEEN)?.strip_prefix(click.user_id.as_bytes())?.strip_prefix(BETWEEN)?;
    let ip = rest.strip_suffix(click.country.as_bytes())?.strip_suffix(BETWEEN)?;
    let canonical = match click.ip {
        // Dots and digits name an address in one way only: leading zeros are not accepted.
        IpAddr::V4(_) => ip.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.'),
        IpAddr::V6(address) => {
            let mut text = Vec::with_capacity(40);
            write!(text, "{address}").is_ok() && text == ip
        }
    };
    canonical.then_some(ip)
}

fn is_canonical_time(text: &[u8], time: Timestamp) -> bool {
    if text.len() == 19 && time.as_micros().rem_euclid(MICROS_PER_SECOND) == 0 {
        // Nineteen bytes that were read as a time differ from the canonical ones in the separator at most.
        return text.get(10) == Some(&b' ');
    }
    let mut canonical = Vec::with_capacity(26);
    write_time(time, &mut canonical);
    canonical == text
}

/// Writes a time as a canonical line has it.
pub(crate) fn write_time(time: Timestamp, out: &mut Vec<u8>) {
    let seconds = time.as_micros().div_euclid(MICROS_PER_SECOND);
    let micros = time.as_micros().rem_euclid(MICROS_PER_SECOND).unsigned_abs();
    let day = civil_from_days(seconds.div_euclid(86_400));
    let of_day = seconds.rem_euclid(86_400).unsigned_abs();
    digits(day.year.unsigned_abs(), 4, out);
    out.push(b'-');
    digits(day.month.into(), 2, out);
    out.push(b'-');
    digits(day.day.into(), 2, out);
    for (separator, number) in [(b' ', of_day / 3600), (b':', of_day / 60 % 60), (b':', of_day % 60)] {
        out.push(separator);
        digits(number, 2, out);
    }
    match micros {
        0 => {}
        m if m % 1000 == 0 => {
            out.push(b'.');
            digits(m / 1000, 3, out);
        }
        m => {
            out.push(b'.');
            digits(m, 6, out);
        }
    }
}

fn digits(number: u64, width: u32, out: &mut Vec<u8>) {
    for place in (0..width).rev() {
        out.push(b'0' + (number / 10_u64.pow(place) % 10) as u8);
    }
}

/// Writes an address as the columns hold it.
pub fn write_ip(ip: IpAddr, out: &mut String) {
    out.clear();
    // Writing to a string never fails.
    let _ = std::fmt::Write::write_fmt(out, format_args!("{ip}"));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::line::LineParser;

    fn written_back(line: &[u8]) -> Option<Vec<u8>> {
        let mut parser = LineParser::new();
        let click = parser.parse(line).ok()?;
        let ip = std::str::from_utf8(ip_of_canonical(line, &click)?).unwrap();
        assert_eq!(ip, click.ip.to_string());
        let mut out = Vec::new();
        original_line(click.ad_id, click.timestamp, click.user_id, ip, click.country, &mut out);
        Some(out)
    }

    #[test]
    fn a_canonical_line_is_written_back_from_its_columns() {
        for line in [
            "[AdClickEvent] ad001, 2021-01-01 00:00:01, user 1, 207.148.22.22, USA",
            "[AdClickEvent] ad/001 %?, 2021-12-31 23:59:59, u, 0.0.0.0, Côte d’Ivoire",
            "[AdClickEvent] ad001, 1969-12-31 23:59:59.999, user 1, 2001:db8::1, USA",
            "[AdClickEvent] ad001, 0000-01-01 00:00:00.000001, user 1, ::1, USA",
            "[AdClickEvent] ad001, 9999-12-31 23:59:59.999999, user 1, 255.255.255.255, USA",
        ] {
            assert_eq!(written_back(line.as_bytes()).map(|l| String::from_utf8(l).unwrap()).as_deref(), Some(line));
        }
    }

    #[test]
    fn every_other_spelling_is_kept_as_it_is() {
        for line in [
            " [AdClickEvent] ad001, 2021-01-01 00:00:01, user 1, 207.148.22.22, USA",
            "[AdClickEvent] ad001, 2021-01-01 00:00:01, user 1, 207.148.22.22, USA\r",
            "[AdClickEvent]ad001, 2021-01-01 00:00:01, user 1, 207.148.22.22, USA",
            "[AdClickEvent] ad001 , 2021-01-01 00:00:01, user 1, 207.148.22.22, USA",
            "[AdClickEvent] ad001,2021-01-01 00:00:01, user 1, 207.148.22.22, USA",
            "[AdClickEvent] ad001, 2021-01-01 00:00:01, user 1, 207.148.22.22 , USA",
            "[AdClickEvent] ad001, 2021-01-01 00:00:01, user 1,  207.148.22.22, USA",
            "[AdClickEvent] ad001, 2021-01-01 00:00:01, user 1, \u{2003}207.148.22.22, USA",
            "[AdClickEvent] ad001, 2021-01-01 00:00:01,  user 1, 207.148.22.22, USA",
            "[AdClickEvent] ad001, 2021-01-01T00:00:01, user 1, 207.148.22.22, USA",
            "[AdClickEvent] ad001, 2021-01-01 00:00:01Z, user 1, 207.148.22.22, USA",
            "[AdClickEvent] ad001, 2021-01-01 00:00:01.0, user 1, 207.148.22.22, USA",
            "[AdClickEvent] ad001, 2021-01-01 00:00:01.5, user 1, 207.148.22.22, USA",
            "[AdClickEvent] ad001, 2021-01-01 00:00:01.1234567, user 1, 207.148.22.22, USA",
            "[AdClickEvent] ad001, 2016-12-31 23:59:60, user 1, 207.148.22.22, USA",
            "[AdClickEvent] ad001, 2021-01-01 00:00:01, user 1, 2001:DB8::1, USA",
            "[AdClickEvent] ad001, 2021-01-01 00:00:01, user 1, 2001:db8:0::1, USA",
            "[AdClickEvent] ad001, 2021-01-01 00:00:01, user 1, ::ffff:1.2.3.4, USA",
            "[AdClickEvent] ad001, 2021-01-01 00:00:01, user 1, 0:0:0:0:0:ffff:1.2.3.4, USA",
            r#"{"ad_id":"ad001","click_timestamp":"2021-01-01T00:00:01Z","user_id":"user 1","ip":"1.1.1.1","country":"USA"}"#,
        ] {
            assert!(LineParser::new().parse(line.as_bytes()).is_ok(), "{line}");
            assert_eq!(written_back(line.as_bytes()), None, "{line}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_written_back_is_always_the_line(
            ad in "[a-z0-9 ,]{0,4}", space in " {0,2}", time in "2021-0[12]-(29|3[01])[ T]23:59:(59|60)(\\.[0-9]{0,7})?Z?",
            user in "[a-z, ]{1,4}", ip in "[0-9a-f:.]{2,9}|1\\.1\\.1\\.1|::1|::ffff:1.1.1.1", end in "[ \r]{0,1}",
        ) {
            let line = format!("[AdClickEvent]{space}{ad}, {time},{space}{user}, {ip}, USA{end}");
            if let Some(back) = written_back(line.as_bytes()) {
                prop_assert_eq!(String::from_utf8(back).unwrap(), line);
            }
        }
    }
}
