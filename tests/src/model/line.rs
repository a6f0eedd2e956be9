//! Lines, slowly: split, trimmed, looked at field by field.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use clickmill_model::Timestamp;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

/// A click.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlowClick {
    /// The ad.
    pub ad_id: String,
    /// When.
    pub timestamp: Timestamp,
    /// Who.
    pub user_id: String,
    /// From where.
    pub ip: IpAddr,
    /// The country.
    pub country: String,
    /// The producer's own name of the click.
    pub event_id: Option<String>,
}

/// What two lines of the same click have in common.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Identity {
    /// Event, ad and time.
    Event(String, String, Timestamp),
    /// Ad, time, user, address, country.
    Fields(String, Timestamp, String, IpAddr, String),
}

impl SlowClick {
    /// Its identity.
    pub fn identity(&self) -> Identity {
        match &self.event_id {
            Some(event) => Identity::Event(event.clone(), self.ad_id.clone(), self.timestamp),
            None => Identity::Fields(
                self.ad_id.clone(),
                self.timestamp,
                self.user_id.clone(),
                self.ip,
                self.country.clone(),
            ),
        }
    }
}

/// The click that a line tells, if it does.
pub fn read(line: &[u8]) -> Option<SlowClick> {
    if line.len() > 65_536 {
        return None;
    }
    let text = std::str::from_utf8(line).ok()?.trim_matches(|c: char| c.is_ascii_whitespace());
    if text.starts_with('{') { read_json(text) } else { read_text(text) }
}

fn read_text(text: &str) -> Option<SlowClick> {
    if text.chars().any(|c| c.is_ascii_control()) {
        return None;
    }
    let fields: Vec<&str> = text.strip_prefix("[AdClickEvent]")?.split(',').map(str::trim).collect();
    let [ad_id, time, user_id, ip, country] = fields.try_into().ok()?;
    click(ad_id, time, user_id, ip, country, None)
}

fn read_json(text: &str) -> Option<SlowClick> {
    let Members(members) = serde_json::from_str(text).ok()?;
    let mut fields = [const { None::<String> }; 6];
    for (place, name) in ["ad_id", "click_timestamp", "user_id", "ip", "country", "event_id"].iter().enumerate() {
        let values: Vec<&Value> = members.iter().filter(|(n, _)| n == name).map(|(_, value)| value).collect();
        fields[place] = match values.as_slice() {
            [] | [Value::Null] => None,
            [Value::String(text)] if !text.chars().any(|c| c.is_ascii_control()) => Some(text.trim().to_owned()),
            _ => return None,
        };
    }
    let [ad_id, time, user_id, ip, country, event_id] = fields;
    let event_id = event_id.filter(|id| !id.is_empty());
    click(&ad_id?, &time?, &user_id?, &ip?, &country?, event_id)
}

/// The members of a JSON object, those that are there twice too.
struct Members(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(All)
    }
}

fn click(
    ad_id: &str,
    time: &str,
    user_id: &str,
    ip: &str,
    country: &str,
    event_id: Option<String>,
) -> Option<SlowClick> {
    let fits = |text: &str, most: usize| (1..=most).contains(&text.chars().count());
    if !fits(ad_id, 256) || !fits(user_id, 256) || !fits(country, 64) {
        return None;
    }
    if event_id.as_ref().is_some_and(|id| !fits(id, 256)) {
        return None;
    }
    Some(SlowClick {
        ad_id: ad_id.to_owned(),
        timestamp: read_time(time)?,
        user_id: user_id.to_owned(),
        ip: read_ip(ip)?,
        country: country.to_owned(),
        event_id,
    })
}

fn read_ip(text: &str) -> Option<IpAddr> {
    if let Ok(ip) = text.parse::<Ipv4Addr>() {
        return Some(IpAddr::V4(ip));
    }
    let ip: Ipv6Addr = text.parse().ok()?;
    Some(match ip.segments() {
        [0, 0, 0, 0, 0, 0xffff, upper, lower] => {
            IpAddr::V4(Ipv4Addr::from_bits(u32::from(upper) * 65_536 + u32::from(lower)))
        }
        _ => IpAddr::V6(ip),
    })
}

/// `2021-01-01 00:00:01.5Z`, digit by digit.
fn read_time(text: &str) -> Option<Timestamp> {
    let text = text.strip_suffix(['Z', 'z']).unwrap_or(text);
    let (whole, fraction) = match text.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (text, None),
    };
    let (date, clock) = whole.split_once([' ', 'T', 't'])?;
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let [hour, minute, second] = numbers(clock, ':', [2, 2, 2])?;
    let micros = match fraction {
        None => 0,
        Some(digits) => {
            if digits.is_empty() || digits.len() > 9 || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            format!("{digits:0<9}")[..6].parse().ok()?
        }
    };
    if !(1..=12).contains(&month) || day < 1 || day > month_length(year, month) || hour > 23 || minute > 59 {
        return None;
    }
    let is_leap_second = second == 60 && hour == 23 && minute == 59;
    if second > 59 && !is_leap_second {
        return None;
    }
    // A leap second is held as the last microsecond of its minute.
    let (second, micros) = if is_leap_second { (59, 999_999) } else { (second, micros) };
    let seconds = days_since_1970(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    Some(Timestamp::from_micros(seconds * 1_000_000 + micros))
}

fn numbers(text: &str, separator: char, lengths: [usize; 3]) -> Option<[i64; 3]> {
    let parts: Vec<&str> = text.split(separator).collect();
    let right = parts.iter().zip(lengths).all(|(part, n)| part.len() == n && part.bytes().all(|b| b.is_ascii_digit()));
    let numbers: Vec<i64> = parts.iter().filter_map(|part| part.parse().ok()).collect();
    if right { numbers.try_into().ok() } else { None }
}

fn is_leap_year(year: i64) -> bool {
    (year % 4 == 0 && year % 100 != 0) || year % 400 == 0
}

fn month_length(year: i64, month: i64) -> i64 {
    match month {
        2 => 28 + i64::from(is_leap_year(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Counts the days of all years and months between.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year_length = |year| 365 + i64::from(is_leap_year(year));
    let years: i64 =
        if year >= 1970 { (1970..year).map(year_length).sum() } else { -(year..1970).map(year_length).sum::<i64>() };
    let months: i64 = (1..month).map(|month| month_length(year, month)).sum();
    years + months + day - 1
}
