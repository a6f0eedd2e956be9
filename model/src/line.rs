//! A log line becomes a [`Click`], or a named reason why not.
//!
//! Two formats: `[AdClickEvent] ad001, 2021-01-01 00:00:01, user 1, 207.148.22.22, USA`, and a JSON object with the members
//! `ad_id`, `click_timestamp`, `user_id`, `ip`, `country` and, where the producer has one, `event_id`, all of them strings; other members
//! are passed over. Space around a field does not belong to it.
//! A time is `YYYY-MM-DD HH:MM:SS` in UTC, with `T` in place of the space, `Z` at the end and a fraction of a second (kept to
//! the microsecond) as one likes.

use std::net::{IpAddr, Ipv4Addr};

use memchr::memchr;
use serde::{Deserialize, Serialize};

use crate::calendar::Civil;
use crate::click::{Click, MAX_COUNTRY_CHARS, MAX_FIELD_CHARS};
use crate::time::Timestamp;

/// The longest line that may be a click, in bytes, without its line end. Who reads longer ones hands on the first
/// `MAX_LINE_BYTES + 1` of them, which is enough to have them rejected.
pub const MAX_LINE_BYTES: usize = 64 * 1024;

const PREFIX: &[u8] = b"[AdClickEvent]";

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $number:literal $text:literal),* $(,)?) => {
        /// Why a line is not counted as a click. The list is closed: metrics and stored figures go by these names.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[repr(u8)]
        pub enum RejectReason { $($(#[$doc])* $name = $number),* }

        impl RejectReason {
            /// Every reason, in the order of its number.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// Its name in metrics, Parquet and the API.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }

            /// The reason with this number, as it stands in records.
            pub const fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }
        }
    };
}

reasons! {
    /// Nothing but white space.
    Empty = 0 "empty",
    /// Longer than [`MAX_LINE_BYTES`].
    TooLong = 1 "too_long",
    /// Not UTF-8.
    NotUtf8 = 2 "not_utf8",
    /// Holds a control character (a NUL, say).
    ControlCharacter = 3 "control_character",
    /// Begins neither with `[AdClickEvent]` nor with `{`.
    UnknownPrefix = 4 "unknown_prefix",
    /// A field is not there, or is empty.
    MissingField = 5 "missing_field",
    /// A text line has more than five fields.
    ExtraField = 6 "extra_field",
    /// Not a time, or one that the calendar does not have.
    BadTimestamp = 7 "bad_timestamp",
    /// Not an IPv4 or IPv6 address.
    BadIp = 8 "bad_ip",
    /// An ad, user, event or country with more characters than allowed.
    FieldTooLong = 9 "field_too_long",
    /// Not a JSON object.
    BrokenJson = 10 "broken_json",
    /// A member of the JSON object is there twice, or is not a string.
    WrongJsonType = 11 "wrong_json_type",
    /// The click lies further ahead of its arrival than `max_clock_skew`: a wrong or malicious clock.
    WrongClock = 12 "wrong_clock",
}

impl std::fmt::Display for RejectReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct JsonClick {
    ad_id: Option<String>,
    click_timestamp: Option<String>,
    user_id: Option<String>,
    ip: Option<String>,
    country: Option<String>,
    event_id: Option<String>,
}

/// Parses lines one after the other. It remembers the minute that it parsed last, since most lines are of the same one, and holds the unescaped strings of the last JSON
/// line.
#[derive(Default)]
pub struct LineParser {
    json: JsonClick,
    /// `YYYY-MM-DD HH:MM` as it was written, and its first microsecond.
    minute: ([u8; 16], i64),
}

impl LineParser {
    /// A new parser.
    pub fn new() -> Self {
        Self::default()
    }

    /// The click that `line` (without its `\n`) tells.
    pub fn parse<'a>(&'a mut self, line: &'a [u8]) -> Result<Click<'a>, RejectReason> {
        if let Some(fields) = split_common(line) {
            let timestamp = self.timestamp(fields[1].as_bytes());
            return click_of(fields, timestamp);
        }
        self.parse_any(line)
    }

    /// Parses what is not the common form, in which every line may be written.
    fn parse_any<'a>(&'a mut self, line: &'a [u8]) -> Result<Click<'a>, RejectReason> {
        if line.len() > MAX_LINE_BYTES {
            return Err(RejectReason::TooLong);
        }
        let line = line.trim_ascii();
        let Some(first) = line.first() else { return Err(RejectReason::Empty) };
        let text = simdutf8::basic::from_utf8(line).map_err(|_| RejectReason::NotUtf8)?;
        if *first == b'{' {
            return self.parse_json(text);
        }
        if line.iter().fold(false, |found, byte| found | (*byte < 0x20) | (*byte == 0x7f)) {
            return Err(RejectReason::ControlCharacter);
        }
        parse_text(text)
    }

    fn parse_json(&mut self, text: &str) -> Result<Click<'_>, RejectReason> {
        self.json = serde_json::from_str(text).map_err(|error| match error.classify() {
            serde_json::error::Category::Data => RejectReason::WrongJsonType,
            _ => RejectReason::BrokenJson,
        })?;
        let json = &self.json;
        let all = [&json.ad_id, &json.click_timestamp, &json.user_id, &json.ip, &json.country, &json.event_id];
        if all.into_iter().flatten().any(|text| text.chars().any(|c| c.is_ascii_control())) {
            return Err(RejectReason::ControlCharacter);
        }
        let fields = [&json.ad_id, &json.click_timestamp, &json.user_id, &json.ip, &json.country]
            .map(|field| field.as_deref().unwrap_or_default().trim());
        if fields.iter().any(|field| field.is_empty()) {
            return Err(RejectReason::MissingField);
        }
        let event_id = json.event_id.as_deref().map(str::trim).filter(|id| !id.is_empty());
        check_length(event_id.unwrap_or_default(), MAX_FIELD_CHARS)?;
        Ok(Click { event_id, ..click_of(fields, parse_timestamp(fields[1].as_bytes()))? })
    }

    /// As [`parse_timestamp`], faster where the minute is that of the line before.
    fn timestamp(&mut self, text: &[u8]) -> Option<Timestamp> {
        let (minute, rest) = text.split_first_chunk::<16>()?;
        if let [b':', tens @ b'0'..=b'5', ones @ b'0'..=b'9'] = rest
            && *minute == self.minute.0
        {
            let second = i64::from(tens - b'0') * 10 + i64::from(ones - b'0');
            return Some(Timestamp::from_micros(self.minute.1 + second * 1_000_000));
        }
        let timestamp = parse_timestamp(text)?;
        self.minute = (*minute, timestamp.minute().start().as_micros());
        Some(timestamp)
    }
}

fn parse_text(text: &str) -> Result<Click<'_>, RejectReason> {
    let Some(rest) = text.as_bytes().strip_prefix(PREFIX) else { return Err(RejectReason::UnknownPrefix) };
    let mut rest = &text[text.len() - rest.len()..];
    let mut fields = [""; 5];
    let (last, first) = match fields.split_last_mut() {
        Some(parts) => parts,
        None => return Err(RejectReason::MissingField),
    };
    for field in first {
        let Some(comma) = memchr(b',', rest.as_bytes()) else { return Err(RejectReason::MissingField) };
        *field = rest[..comma].trim();
        rest = &rest[comma + 1..];
    }
    if memchr(b',', rest.as_bytes()).is_some() {
        return Err(RejectReason::ExtraField);
    }
    *last = rest.trim();
    if fields.iter().any(|field| field.is_empty()) {
        return Err(RejectReason::MissingField);
    }
    click_of(fields, parse_timestamp(fields[1].as_bytes()))
}

/// The longest line that [`split_common`] takes.
const COMMON_BYTES: usize = 128;

/// The five fields of a text line of the common form: at most [`COMMON_BYTES`] of ASCII without control characters, `[AdClickEvent]` at its very beginning,
/// four commas, every field there. `None` for every other line, whatever is the matter with it.
fn split_common(line: &[u8]) -> Option<[&str; 5]> {
    if line.len() > COMMON_BYTES || !line.starts_with(PREFIX) {
        return None;
    }
    let mut commas = scan::commas_of_plain_ascii(line)?;
    if commas.count_ones() != 4 {
        return None;
    }
    let text = std::str::from_utf8(line).ok()?;
    let mut start = PREFIX.len();
    let mut fields = [""; 5];
    for field in &mut fields {
        let end = if commas == 0 { line.len() } else { commas.trailing_zeros() as usize };
        commas &= commas.wrapping_sub(1);
        *field = text.get(start..end)?.trim_ascii();
        if field.is_empty() {
            return None;
        }
        start = end + 1;
    }
    Some(fields)
}

/// One look at each byte of a line, sixteen at once where the processor can.
mod scan {
    /// Where the commas are: bit `i` is byte `i`. `None` where a byte is a control character or not ASCII. At most 128 bytes.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn commas_of_plain_ascii(line: &[u8]) -> Option<u128> {
        // SAFETY: every x86-64 processor has SSE2.
        #[allow(unsafe_code)]
        unsafe {
            commas_sse2(line)
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "sse2")]
    fn commas_sse2(line: &[u8]) -> Option<u128> {
        let mut commas = 0_u128;
        let mut odd = 0;
        let mut at = 0;
        let (chunks, rest) = line.as_chunks::<16>();
        for chunk in chunks {
            let (found, wrong) = look(*chunk);
            commas |= u128::from(found) << at;
            odd |= wrong;
            at += 16;
        }
        if !rest.is_empty() {
            let mut last = [b' '; 16];
            last[..rest.len()].copy_from_slice(rest);
            let (found, wrong) = look(last);
            commas |= u128::from(found) << at;
            odd |= wrong;
        }
        (odd == 0).then_some(commas)
    }

    /// Which of sixteen bytes are commas, and which are control characters or not ASCII.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "sse2")]
    fn look(chunk: [u8; 16]) -> (u16, u16) {
        use std::arch::x86_64::{
            _mm_cmpeq_epi8, _mm_cmplt_epi8, _mm_movemask_epi8, _mm_or_si128, _mm_set_epi64x, _mm_set1_epi8,
        };
        let both = u128::from_le_bytes(chunk);
        let bytes = _mm_set_epi64x((both >> 64) as i64, both as i64);
        let found = _mm_movemask_epi8(_mm_cmpeq_epi8(bytes, _mm_set1_epi8(b',' as i8)));
        // Bytes are compared as signed: those that are not ASCII are below 0x20 too.
        let low = _mm_cmplt_epi8(bytes, _mm_set1_epi8(0x20));
        let delete = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(0x7f));
        (found as u16, _mm_movemask_epi8(_mm_or_si128(low, delete)) as u16)
    }

    #[cfg(not(target_arch = "x86_64"))]
    pub(super) fn commas_of_plain_ascii(line: &[u8]) -> Option<u128> {
        let mut commas = 0;
        for (i, byte) in line.iter().enumerate() {
            if !(0x20..0x7f).contains(byte) {
                return None;
            }
            commas |= u128::from(*byte == b',') << i;
        }
        Some(commas)
    }
}

fn click_of(
    [ad_id, _, user_id, ip, country]: [&str; 5],
    timestamp: Option<Timestamp>,
) -> Result<Click<'_>, RejectReason> {
    let timestamp = timestamp.ok_or(RejectReason::BadTimestamp)?;
    let ip = parse_ip(ip).ok_or(RejectReason::BadIp)?;
    check_length(ad_id, MAX_FIELD_CHARS)?;
    check_length(user_id, MAX_FIELD_CHARS)?;
    check_length(country, MAX_COUNTRY_CHARS)?;
    Ok(Click { ad_id, timestamp, user_id, ip, country, event_id: None })
}

fn check_length(field: &str, most: usize) -> Result<(), RejectReason> {
    if field.len() > most && field.chars().count() > most { Err(RejectReason::FieldTooLong) } else { Ok(()) }
}

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

    const GOOD: &str = "[AdClickEvent] ad001, 2021-01-01 00:00:01, user 1, 207.148.22.22, USA";

    fn good<'a>() -> Click<'a> {
        Click {
            ad_id: "ad001",
            timestamp: Timestamp::from_secs(1_609_459_201),
            user_id: "user 1",
            ip: "207.148.22.22".parse().unwrap(),
            country: "USA",
            event_id: None,
        }
    }

    fn check(line: impl AsRef<[u8]>, expected: Result<Click<'_>, RejectReason>) {
        let line = line.as_ref();
        assert_eq!(LineParser::new().parse(line), expected, "{}", String::from_utf8_lossy(line));
    }

    #[test]
    fn a_text_line_is_a_click() {
        check(GOOD, Ok(good()));
        check(format!("  {GOOD} \r"), Ok(good()));
        check("[AdClickEvent]ad001,2021-01-01T00:00:01Z,user 1,207.148.22.22,USA", Ok(good()));
        check("[AdClickEvent]   ad001 ,\u{2003}2021-01-01 00:00:01 ,  user 1, 207.148.22.22 , USA", Ok(good()));
        check(GOOD.replace("ad001", "объявление/%?# 1"), Ok(Click { ad_id: "объявление/%?# 1", ..good() }));
        check(GOOD.replace("USA", "Côte d’Ivoire"), Ok(Click { country: "Côte d’Ivoire", ..good() }));
    }

    #[test]
    fn a_json_line_is_a_click() {
        let json = r#"{"ad_id":"ad001","click_timestamp":"2021-01-01T00:00:01Z","user_id":" user 1","ip":"207.148.22.22","country":"USA","agent":7}"#;
        check(json, Ok(good()));
        check(json.replace("\"agent\":7", "\"event_id\":\"e1\""), Ok(Click { event_id: Some("e1"), ..good() }));
        check(json.replace("\"agent\":7", "\"event_id\":null"), Ok(good()));
        check(json.replace("ad001", r"ad\u0030\u00301"), Ok(good()));
        check(json.replace("ad001", r"ad\u0000"), Err(RejectReason::ControlCharacter));
        check(json.replace("\"ad001\"", "1"), Err(RejectReason::WrongJsonType));
        check(json.replace("\"ad001\"", "null"), Err(RejectReason::MissingField));
        check(json.replace("\"ad001\"", "\"  \""), Err(RejectReason::MissingField));
        check(json.replace("\"agent\":7", "\"ad_id\":\"ad002\""), Err(RejectReason::WrongJsonType));
        check(json.replace("2021-01-01T", "2021-02-30T"), Err(RejectReason::BadTimestamp));
        check(&json[..json.len() - 1], Err(RejectReason::BrokenJson));
        check(format!("{json}}}"), Err(RejectReason::BrokenJson));
        check("{}", Err(RejectReason::MissingField));
    }

    #[test]
    fn what_is_no_click_has_a_reason() {
        check("", Err(RejectReason::Empty));
        check(" \t\r", Err(RejectReason::Empty));
        check(b"[AdClickEvent] ad\xff, 2021-01-01 00:00:01, u, 1.1.1.1, USA", Err(RejectReason::NotUtf8));
        check(GOOD.replace("user", "us\0er"), Err(RejectReason::ControlCharacter));
        check(GOOD.replace("AdClickEvent", "AdViewEvent"), Err(RejectReason::UnknownPrefix));
        check("[AdClickEvent]", Err(RejectReason::MissingField));
        check(GOOD.replace(", USA", ""), Err(RejectReason::MissingField));
        check(GOOD.replace("USA", ""), Err(RejectReason::MissingField));
        check(GOOD.replace("user 1", " "), Err(RejectReason::MissingField));
        check(format!("{GOOD}, more"), Err(RejectReason::ExtraField));
        check(GOOD.replace("ad001", &"ä".repeat(257)), Err(RejectReason::FieldTooLong));
        check(GOOD.replace("USA", &"U".repeat(65)), Err(RejectReason::FieldTooLong));
        check(format!("{GOOD}{}", " ".repeat(MAX_LINE_BYTES)), Err(RejectReason::TooLong));
        let longest = "ä".repeat(256);
        check(GOOD.replace("ad001", &longest), Ok(Click { ad_id: &longest, ..good() }));
    }

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

        #[test]
        fn the_common_form_is_parsed_like_every_other(
            ad in "[ -~]{0,9}", time in "2021-01-0[1-3][ T]0[0-2]:[0-9]{2}:[0-9]{2}(\\.5)?Z?", user in "[ -~]{0,9}",
            ip in "[0-9:.]{1,15}|1\\.2\\.3\\.4|::1", country in "[ -~]{0,9}", more in "(, x)?\r?",
        ) {
            let line = format!("[AdClickEvent] {ad}, {time}, {user}, {ip}, {country}{more}");
            let (mut one, mut other) = (LineParser::new(), LineParser::new());
            for text in [GOOD, &line, &line] {
                proptest::prop_assert_eq!(one.parse(text.as_bytes()), other.parse_any(text.as_bytes()), "{}", text);
            }
        }

        #[test]
        fn no_bytes_make_it_panic(line: Vec<u8>) {
            let _ = LineParser::new().parse(&line);
            let _ = LineParser::new().parse(&[b"[AdClickEvent] ", line.as_slice()].concat());
        }
    }
}
