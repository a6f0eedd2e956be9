//! A log line becomes a [`Click`], or a named reason why not.
//!
//! Two formats: `[AdClickEvent] ad001, 2021-01-01 00:00:01, user 1, 207.148.22.22, USA`, and a JSON object with the members
//! `ad_id`, `click_timestamp`, `user_id`, `ip`, `country` and, where the producer has one, `event_id`, all of them strings; other members
//! are passed over. Space around a field does not belong to it.
//! A time is `YYYY-MM-DD HH:MM:SS` in UTC, with `T` in place of the space, `Z` at the end and a fraction of a second (kept to
//! the microsecond) as one likes.

mod canonical;
mod ip;
mod reason;
mod scan;
mod time;

use std::net::IpAddr;

use memchr::memchr;
use serde::Deserialize;

use crate::click::{Click, MAX_COUNTRY_CHARS, MAX_FIELD_CHARS, Plain};
use crate::time::Timestamp;

pub(crate) use canonical::write_time;
pub use canonical::{ip_of_canonical, original_line, write_ip};
pub use ip::parse_ip;
pub use reason::RejectReason;
pub use time::parse_timestamp;

use ip::{ipv4_at, ipv6};
use scan::{Ascii, Marks};

/// The longest line that may be a click, in bytes, without its line end. Who reads longer ones hands on the first
/// `MAX_LINE_BYTES + 1` of them, which is enough to have them rejected.
pub const MAX_LINE_BYTES: usize = 64 * 1024;

const PREFIX: &[u8] = b"[AdClickEvent]";

/// How a line of the common form begins, and one byte more.
const COMMON_BEGIN: u128 = u128::from_be_bytes(*b"\0 ]tnevEkcilCdA[");
/// Where its first field begins.
const COMMON_AT: usize = 15;

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
        match scan::plain_ascii(line).and_then(|(line, marks)| self.parse_common(line, marks)) {
            Some(click) => Ok(click),
            None => self.parse_any(line),
        }
    }

    /// The first line of `text`, up to its `\n` or the end of the text, and the click that it tells: as [`LineParser::parse`], faster.
    #[inline]
    pub fn parse_first<'a>(&'a mut self, text: &'a [u8]) -> (&'a [u8], Result<Click<'a>, RejectReason>) {
        if let Some((line, marks)) = scan::first_line(text)
            && let Some(click) = self.parse_common(line, marks)
        {
            return (line.bytes(), Ok(click));
        }
        let line = &text[..memchr(b'\n', text).unwrap_or(text.len())];
        (line, self.parse(line))
    }

    /// The click of a line of the common form: at most [`scan::MOST`] bytes of ASCII without control characters, `[AdClickEvent] ` and five fields, each with a comma and
    /// a single space between it and the next. `None` for every other line, whatever is the matter with it.
    #[inline(always)]
    fn parse_common<'a>(&mut self, text: Ascii<'a>, marks: Marks) -> Option<Click<'a>> {
        let Marks { mut commas, dots, spaces } = marks;
        let line = text.bytes();
        let begin = u128::from_le_bytes(*line.first_chunk()?);
        if begin << 8 != COMMON_BEGIN << 8 {
            return None;
        }
        let last = 1 << (line.len() - 1);
        // Behind each comma a space; no other one before or behind a field, so that none is empty.
        let is_apart = commas << 1 & !spaces == 0 && commas & last == 0;
        if !is_apart || (commas << 2 | commas >> 1 | 1 << COMMON_AT | last) & spaces != 0 {
            return None;
        }
        let mut start = COMMON_AT;
        let mut fields = [""; 5];
        let mut ip_at = 0;
        for (i, field) in fields.iter_mut().enumerate() {
            let end = match (i, commas) {
                (4, 0) => line.len(),
                (4, _) | (_, 0) => return None,
                _ => commas.trailing_zeros() as usize,
            };
            commas &= commas.wrapping_sub(1);
            *field = text.get(start, end)?;
            if i == 3 {
                ip_at = start;
            }
            start = end + 2;
        }
        let [ad_id, time, user_id, ip, country] = fields;
        if country.len() > MAX_COUNTRY_CHARS {
            return None;
        }
        let timestamp = self.timestamp(time.as_bytes())?;
        let (address, is_canonical) = match ipv4_at(line, ip_at, ip_at + ip.len(), dots) {
            Some(address) => (IpAddr::V4(address), true),
            None => match ipv6(ip.as_bytes()) {
                Some((address, is_canonical)) => (IpAddr::V6(address), is_canonical),
                None => (parse_ip(ip)?, false),
            },
        };
        // Nineteen bytes are a time without a fraction, and what no leap second was folded into is what they say.
        let is_plain_time = time.len() == 19 && time.as_bytes()[10] == b' ' && time.as_bytes()[17] != b'6';
        let plain = (is_canonical && is_plain_time).then(|| Plain { text: &line[COMMON_AT..], ip: ip.as_bytes() });
        Some(Click { ad_id, timestamp, user_id, ip: address, country, event_id: None, plain })
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

fn click_of(
    [ad_id, _, user_id, ip, country]: [&str; 5],
    timestamp: Option<Timestamp>,
) -> Result<Click<'_>, RejectReason> {
    let timestamp = timestamp.ok_or(RejectReason::BadTimestamp)?;
    let ip = parse_ip(ip).ok_or(RejectReason::BadIp)?;
    check_length(ad_id, MAX_FIELD_CHARS)?;
    check_length(user_id, MAX_FIELD_CHARS)?;
    check_length(country, MAX_COUNTRY_CHARS)?;
    Ok(Click { ad_id, timestamp, user_id, ip, country, event_id: None, plain: None })
}

fn check_length(field: &str, most: usize) -> Result<(), RejectReason> {
    if field.len() > most && field.chars().count() > most { Err(RejectReason::FieldTooLong) } else { Ok(()) }
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
            plain: None,
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

    proptest::proptest! {
        #[test]
        fn the_common_form_is_parsed_like_every_other(
            ad in "[ -~]{0,9}", time in "2021-01-0[1-3][ T]0[0-2]:[0-9]{2}:[0-9]{2}(\\.5)?Z?", user in "[ -~]{0,9}",
            ip in "[0-9:.]{1,15}|1\\.2\\.3\\.4|::1", country in "[ -~]{0,9}", more in "(, x)?\r?",
        ) {
            let line = format!("[AdClickEvent] {ad}, {time}, {user}, {ip}, {country}{more}");
            let (mut one, mut other) = (LineParser::new(), LineParser::new());
            for text in [GOOD, &line, &line] {
                let (fast, slow) = (one.parse(text.as_bytes()), other.parse_any(text.as_bytes()));
                proptest::prop_assert_eq!(fast, slow, "{}", text);
                if let (Ok(fast), Ok(slow)) = (fast, slow) {
                    let identity = |click: Click<'_>| click.identity(&mut Vec::new());
                    proptest::prop_assert_eq!(identity(fast), identity(slow), "{}", text);
                }
            }
        }

        #[test]
        fn no_bytes_make_it_panic(line: Vec<u8>) {
            let _ = LineParser::new().parse(&line);
            let _ = LineParser::new().parse(&[b"[AdClickEvent] ", line.as_slice()].concat());
        }
    }
}
