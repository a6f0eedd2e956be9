//! What a log line tells, by the rules of the pipeline, written down a second time.
//!
//! Nothing here is shared with the stream's parser: where the two disagree about a line, one of them is wrong, and the figures tell. The rules:
//!
//! - a text line is `[AdClickEvent]` and five fields with a comma between them: ad, time, user, address, country. A JSON line is an object with the members `ad_id`, `click_timestamp`, `user_id`,
//!   `ip`, `country` and, where the producer has one, `event_id`: texts, each at most once; `null` is as good as nothing, other members are passed over;
//! - white space around the line and around a field belongs to neither; no field is empty, none holds a control character; ad, user and event have at most 256 characters, a country 64, a line
//!   65,536 bytes;
//! - a time is `YYYY-MM-DD HH:MM:SS` in UTC, `T` may stand for the space, a fraction of up to nine digits (cut to microseconds) and a `Z` may follow; a leap second counts as its minute's
//!   last microsecond;
//! - an address is IPv4 or IPv6 in any spelling; an IPv6 address that wraps an IPv4 one is that.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

use chrono::NaiveDate;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

/// The longest line that may be a click, in bytes.
const MOST_BYTES: usize = 65_536;
/// Characters of an ad, a user or an event.
const MOST_CHARS: usize = 256;
/// Characters of a country.
const MOST_COUNTRY_CHARS: usize = 64;

/// A click as a line tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditedClick<'a> {
    /// The ad.
    pub ad_id: Cow<'a, str>,
    /// When, in microseconds since 1970-01-01 00:00 UTC.
    pub micros: i64,
    /// Who.
    pub user_id: Cow<'a, str>,
    /// From where.
    pub ip: IpAddr,
    /// The country.
    pub country: Cow<'a, str>,
    /// The producer's own name of the click.
    pub event_id: Option<Cow<'a, str>>,
}

/// The click that a line (without its newline) tells. `None`: it is no click.
pub fn click_of_line(line: &[u8]) -> Option<AuditedClick<'_>> {
    if line.len() > MOST_BYTES {
        return None;
    }
    let text = std::str::from_utf8(line.trim_ascii()).ok()?;
    if text.starts_with('{') { click_of_json(text) } else { click_of_text(text) }
}

fn click_of_text(text: &str) -> Option<AuditedClick<'_>> {
    if text.contains(|c: char| c.is_ascii_control()) {
        return None;
    }
    let mut fields = text.strip_prefix("[AdClickEvent]")?.split(',').map(str::trim);
    let (ad, time, user, ip, country) =
        (fields.next()?, fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    if fields.next().is_some() {
        return None;
    }
    click_of_fields(ad.into(), micros_of(time)?, user.into(), ip, country.into(), None)
}

/// The click of a line that has no text of its own in Parquet, since it is `[AdClickEvent] ad, time, user, ip, country` with what stands in the columns.
pub fn click_of_columns<'a>(
    ad: &'a str,
    micros: i64,
    user: &'a str,
    ip: &'a str,
    country: &'a str,
) -> Option<AuditedClick<'a>> {
    let fields = [ad, user, ip, country];
    // As the line's reader would see it: a comma would be another field, white space would not belong to it.
    if fields.iter().any(|field| field.bytes().fold(false, |any, byte| any | (byte == b',') | byte.is_ascii_control()))
    {
        return None;
    }
    let [ad, user, ip, country] = fields.map(str::trim);
    click_of_fields(ad.into(), micros, user.into(), ip, country.into(), None)
}

fn click_of_fields<'a>(
    ad_id: Cow<'a, str>,
    micros: i64,
    user_id: Cow<'a, str>,
    ip: &str,
    country: Cow<'a, str>,
    event_id: Option<Cow<'a, str>>,
) -> Option<AuditedClick<'a>> {
    let fits = |text: &str, most: usize| !text.is_empty() && (text.len() <= most || text.chars().count() <= most);
    let all_fit = fits(&ad_id, MOST_CHARS)
        && fits(&user_id, MOST_CHARS)
        && fits(&country, MOST_COUNTRY_CHARS)
        && event_id.as_deref().is_none_or(|event| fits(event, MOST_CHARS));
    let ip = match ip.parse().ok()? {
        IpAddr::V6(ip) => ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4),
        ip => ip,
    };
    all_fit.then_some(AuditedClick { ad_id, micros, user_id, ip, country, event_id })
}

/// `2021-01-01 00:00:01.5Z` in microseconds since 1970.
fn micros_of(text: &str) -> Option<i64> {
    let text = text.strip_suffix(['Z', 'z']).unwrap_or(text);
    let (whole, micros) = match text.split_once('.') {
        None => (text, 0),
        Some((whole, digits)) if (1..=9).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit()) => {
            (whole, format!("{digits:0<6}").get(..6)?.parse().ok()?)
        }
        Some(_) => return None,
    };
    let shape = b"dddd-dd-dd_dd:dd:dd";
    let fits = whole.len() == shape.len()
        && whole.bytes().zip(shape).all(|(byte, kind)| match kind {
            b'd' => byte.is_ascii_digit(),
            b'_' => matches!(byte, b' ' | b'T' | b't'),
            mark => byte == *mark,
        });
    if !fits {
        return None;
    }
    let number = |from: usize, to: usize| whole.get(from..to)?.parse::<u32>().ok();
    let day = NaiveDate::from_ymd_opt(number(0, 4)?.try_into().ok()?, number(5, 7)?, number(8, 10)?)?;
    let (second, micros) = match (number(11, 13)?, number(14, 16)?, number(17, 19)?) {
        (23, 59, 60) => (59, 999_999),
        (.., second) => (second, micros),
    };
    Some(day.and_hms_micro_opt(number(11, 13)?, number(14, 16)?, second, micros)?.and_utc().timestamp_micros())
}

/// The members of a JSON line, as far as they matter.
const MEMBERS: [&str; 6] = ["ad_id", "click_timestamp", "user_id", "ip", "country", "event_id"];

fn click_of_json(text: &str) -> Option<AuditedClick<'static>> {
    let mut json = serde_json::Deserializer::from_str(text);
    let members = json.deserialize_map(Members).ok()?;
    json.end().ok()?;
    if members.iter().flatten().any(|text| text.contains(|c: char| c.is_ascii_control())) {
        return None;
    }
    let [ad, time, user, ip, country, event] = members.map(|text| text.map(|text| text.trim().to_owned()));
    let event = event.filter(|event| !event.is_empty());
    click_of_fields(ad?.into(), micros_of(&time?)?, user?.into(), &ip?, country?.into(), event.map(Cow::Owned))
}

struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = [Option<String>; 6];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut seen = [false; 6];
        let mut values = [const { None }; 6];
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            let place = MEMBERS.iter().position(|member| *member == name);
            let slots = place.and_then(|place| Some((seen.get_mut(place)?, values.get_mut(place)?)));
            match slots {
                None => drop(map.next_value::<IgnoredAny>()?),
                Some((true, _)) => return Err(serde::de::Error::custom("a member is there twice")),
                Some((seen, value)) => (*seen, *value) = (true, map.next_value::<Option<String>>()?),
            }
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "[AdClickEvent] ad001, 2021-01-01 00:00:01, user 1, 207.148.22.22, USA";

    fn good() -> AuditedClick<'static> {
        AuditedClick {
            ad_id: "ad001".into(),
            micros: 1_609_459_201_000_000,
            user_id: "user 1".into(),
            ip: "207.148.22.22".parse().unwrap(),
            country: "USA".into(),
            event_id: None,
        }
    }

    fn check(line: impl AsRef<[u8]>, expected: Option<AuditedClick<'_>>) {
        let line = line.as_ref();
        assert_eq!(click_of_line(line), expected, "{}", String::from_utf8_lossy(line));
    }

    #[test]
    fn text_lines() {
        check(GOOD, Some(good()));
        check(format!("  {GOOD} \r"), Some(good()));
        check("[AdClickEvent]ad001,2021-01-01T00:00:01Z,user 1\u{2003},207.148.22.22,USA", Some(good()));
        check(GOOD.replace("207", "::ffff:207"), Some(good()));
        check(GOOD.replace("ad001", &"ä".repeat(256)), Some(AuditedClick { ad_id: "ä".repeat(256).into(), ..good() }));
        for bad in [
            String::new(),
            " \r".into(),
            GOOD.replace("user", "us\0er"),
            GOOD.replace("AdClickEvent", "AdViewEvent"),
            GOOD.replace(", USA", ""),
            GOOD.replace("USA", " "),
            format!("{GOOD}, more"),
            GOOD.replace("ad001", &"ä".repeat(257)),
            GOOD.replace("USA", &"U".repeat(65)),
            format!("{GOOD}{}", " ".repeat(65_536)),
            GOOD.replace("207", "257"),
            GOOD.replace("207", "007"),
        ] {
            check(bad, None);
        }
        check(b"[AdClickEvent] ad\xff, 2021-01-01 00:00:01, u, 1.1.1.1, USA", None);
    }

    #[test]
    fn json_lines() {
        let json = r#"{"ad_id":"ad001","click_timestamp":"2021-01-01T00:00:01Z","user_id":" user 1","ip":"207.148.22.22","country":"USA","agent":7}"#;
        check(json, Some(good()));
        check(
            json.replace("\"agent\":7", "\"event_id\":\"e1\""),
            Some(AuditedClick { event_id: Some("e1".into()), ..good() }),
        );
        check(json.replace("\"agent\":7", "\"event_id\":\" \""), Some(good()));
        check(json.replace("\"agent\":7", "\"agent\":1,\"agent\":{\"x\":[]}"), Some(good()));
        check(json.replace("ad001", r"ad\u0030\u00301"), Some(good()));
        for (old, new) in [
            ("ad001", r"ad\u0000"),
            ("\"ad001\"", "1"),
            ("\"ad001\"", "null"),
            ("\"ad001\"", "\" \""),
            ("\"agent\":7", "\"ad_id\":\"ad002\""),
            ("\"agent\":7", "\"ad_id\":null"),
            ("2021-01-01T", "2021-02-30T"),
            ("7}", "7"),
            ("7}", "7}}"),
            ("\"agent\":7", "\"agent\":7,"),
        ] {
            check(json.replace(old, new), None);
        }
    }

    #[test]
    fn times() {
        let check = |text: &str, expected: Option<i64>| assert_eq!(micros_of(text), expected, "{text}");
        check("1970-01-01 00:00:00", Some(0));
        check("1969-12-31 23:59:59.999", Some(-1000));
        check("2021-01-01 00:00:01.5", Some(1_609_459_201_500_000));
        check("2021-01-01t00:00:59.999999999z", Some(1_609_459_259_999_999));
        check("2016-12-31 23:59:60", Some(1_483_228_799_999_999));
        check("2024-02-29 12:00:00", Some(1_709_208_000_000_000));
        for bad in [
            "2023-02-29 00:00:00",
            "2021-01-01 24:00:00",
            "2021-01-01 00:60:00",
            "2021-01-01 00:00:60",
            "2021-13-01 00:00:00",
            "2021-1-1 00:00:00",
            "2021-01-01 00:00",
            "2021-01-01 00:00:01.",
            "2021-01-01 00:00:01.1234567890",
            "2021-01-01 00:00:01+01",
            "+021-01-01 00:00:00",
            "2021-01-01 00:00:0é",
            "",
        ] {
            check(bad, None);
        }
    }

    #[test]
    fn columns_are_judged_as_the_line_that_they_stand_for() {
        let of = |ad, user, ip, country| click_of_columns(ad, 1_609_459_201_000_000, user, ip, country);
        assert_eq!(of("ad001", "user 1", "207.148.22.22", "USA"), Some(good()));
        assert_eq!(of(" ad001", "user 1", "207.148.22.22", "USA"), Some(good()));
        assert_eq!(of("ad001", "user, 1", "207.148.22.22", "USA"), None);
        assert_eq!(of("ad001", "user 1", "207.148.22.922", "USA"), None);
        assert_eq!(of("", "user 1", "207.148.22.22", "USA"), None);
    }
}
