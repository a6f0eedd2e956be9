//! The time of a click as it is written.

use crate::calendar::Civil;
use crate::time::Timestamp;

/// `YYYY-MM-DD HH:MM:SS`, with `T` or a space between, an optional fraction of 1 to 9 digits, an optional `Z`.
pub fn parse_timestamp(text: &[u8]) -> Option<Timestamp> {
    let (fixed, rest) = text.split_first_chunk::<19>()?;
    let digits = |at: usize, n: usize| -> Option<u32> {
        let mut number = 0;
        for byte in &fixed[at..at + n] {
            let digit = byte.wrapping_sub(b'0');
            if digit > 9 {
                return None;
            }
            number = number * 10 + u32::from(digit);
        }
        Some(number)
    };
    let separators = fixed[4] == b'-'
        && fixed[7] == b'-'
        && matches!(fixed[10], b' ' | b'T' | b't')
        && fixed[13] == b':'
        && fixed[16] == b':';
    if !separators {
        return None;
    }
    let day = Civil { year: i64::from(digits(0, 4)?), month: digits(5, 2)?, day: digits(8, 2)? };
    let rest = rest.strip_suffix(b"Z").or_else(|| rest.strip_suffix(b"z")).unwrap_or(rest);
    let micros = match rest.split_first() {
        None => 0,
        Some((b'.', fraction)) if (1..=9).contains(&fraction.len()) && fraction.iter().all(u8::is_ascii_digit) => {
            let kept = fraction.iter().chain([b'0'; 6].iter()).take(6);
            kept.fold(0, |number, digit| number * 10 + u32::from(digit - b'0'))
        }
        Some(_) => return None,
    };
    Timestamp::from_civil(day, digits(11, 2)?, digits(14, 2)?, digits(17, 2)?, micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(parse_timestamp(text.as_bytes()).map(|t| t.to_string()).as_deref(), expected, "{text}");
        };
        check("2021-01-01 00:00:01", Some("2021-01-01T00:00:01Z"));
        check("2021-01-01T00:00:01Z", Some("2021-01-01T00:00:01Z"));
        check("2021-01-01 00:00:01.5", Some("2021-01-01T00:00:01.500Z"));
        check("2021-01-01 00:00:59.999999999Z", Some("2021-01-01T00:00:59.999999Z"));
        check("1969-12-31 23:59:59.999", Some("1969-12-31T23:59:59.999Z"));
        check("2016-12-31 23:59:60", Some("2016-12-31T23:59:59.999999Z"));
        check("2024-02-29 12:00:00", Some("2024-02-29T12:00:00Z"));
        for bad in [
            "2021-02-30 00:00:00",
            "2023-02-29 00:00:00",
            "2021-01-01 25:00:00",
            "2021-01-01 24:00:00",
            "2021-01-01 00:60:00",
            "2021-01-01 00:00:60",
            "2021-13-01 00:00:00",
            "2021-00-01 00:00:00",
            "2021-01-00 00:00:00",
            "2021-1-1 00:00:00",
            "2021-01-01",
            "2021-01-01 00:00",
            "2021-01-01 00:00:01.",
            "2021-01-01 00:00:01.1234567890",
            "2021-01-01 00:00:01+01",
            "+021-01-01 00:00:00",
            "yesterday",
            "2021-01-01  00:00:01",
            "2021/01/01 00:00:01",
        ] {
            check(bad, None);
        }
    }
}
