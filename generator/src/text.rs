//! Clicks as lines.

use clickmill_model::calendar::civil_from_days;

use crate::places::Place;

/// A click that shall be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Click {
    /// When it happened, in seconds.
    pub(crate) second: i64,
    pub(crate) ad: u32,
    pub(crate) user: u32,
    pub(crate) place: u16,
}

const PREFIX: &[u8; 17] = b"[AdClickEvent] ad";

/// Seconds whose text is kept: those within the usual disorder.
const KEPT: usize = 64;

/// Writes clicks as lines. It remembers how the latest seconds are written.
#[derive(Debug)]
pub(crate) struct LineWriter {
    ad_digits: usize,
    /// `, 2021-01-01 00:00:01, user ` for seconds, each at its remainder.
    seconds: Vec<(i64, [u8; 28])>,
}

impl LineWriter {
    pub(crate) fn new(ad_digits: usize) -> Self {
        Self { ad_digits, seconds: vec![(i64::MIN, [0; 28]); KEPT] }
    }

    /// As a text line.
    #[inline]
    pub(crate) fn text(&mut self, out: &mut Vec<u8>, click: &Click, place: &Place) {
        // Pieces of fixed size are copied in a few instructions; each covers what the one before wrote too far.
        let mut line = [0; 160];
        let mut at = 0;
        put(&mut line, &mut at, PREFIX, PREFIX.len());
        put(&mut line, &mut at, &fixed_digits(click.ad + 1, self.ad_digits), self.ad_digits);
        let kept = &mut self.seconds[click.second.rem_euclid(KEPT as i64) as usize];
        if kept.0 != click.second {
            *kept = (click.second, second_text(click.second));
        }
        put(&mut line, &mut at, &kept.1, 28);
        let (user, user_len) = digits(click.user);
        put(&mut line, &mut at, &user, user_len);
        put(&mut line, &mut at, &place.text, place.len);
        out.extend_from_slice(&line[..at]);
    }

    /// As a JSON line, with the time and the address spelled otherwise than in [`LineWriter::text`].
    pub(crate) fn json(&mut self, out: &mut Vec<u8>, click: &Click, place: &Place) {
        let second = second_text(click.second);
        let mut put = |piece: &[u8]| out.extend_from_slice(piece);
        put(b"{\"ad_id\":\"ad");
        put(&fixed_digits(click.ad + 1, self.ad_digits)[..self.ad_digits]);
        put(b"\",\"click_timestamp\":\"");
        put(&second[2..12]);
        put(b"T");
        put(&second[13..21]);
        put(b"Z\",\"user_id\":\"user ");
        let (user, user_len) = digits(click.user);
        put(&user[..user_len]);
        put(b"\",\"ip\":\"");
        put(place.other_spelling.as_bytes());
        put(b"\",\"country\":\"");
        put(place.country.as_bytes());
        put(b"\"}\n");
    }
}

/// Copies all of `piece`, of which `len` bytes count.
#[inline(always)]
fn put<const N: usize>(line: &mut [u8; 160], at: &mut usize, piece: &[u8; N], len: usize) {
    if let Some(place) = line.get_mut(*at..*at + N) {
        place.copy_from_slice(piece);
    }
    *at += len;
}

fn second_text(second: i64) -> [u8; 28] {
    let mut text = *b", 0000-00-00 00:00:00, user ";
    let day = civil_from_days(second.div_euclid(86_400));
    let of_day = second.rem_euclid(86_400) as u32;
    let mut two = |at: usize, number: u32| {
        text[at] = b'0' + (number / 10 % 10) as u8;
        text[at + 1] = b'0' + (number % 10) as u8;
    };
    let year = day.year.clamp(0, 9999) as u32;
    two(2, year / 100);
    two(4, year % 100);
    two(7, day.month);
    two(10, day.day);
    two(13, of_day / 3600);
    two(16, of_day / 60 % 60);
    two(19, of_day % 60);
    text
}

/// Eight decimal digits, the first in the lowest byte, each as its value: halves, quarters and eighths are divided side by side (Paul Khuong, "How to
/// print integers really fast", 2017). The number must have at most eight.
#[inline]
fn eight_digits(number: u32) -> u64 {
    let number = u64::from(number);
    let halves = (number / 10_000) | ((number % 10_000) << 32);
    let hundreds = ((halves * 10_486) >> 20) & 0x0000_007f_0000_007f;
    let quarters = hundreds | ((halves - hundreds * 100) << 16);
    let tens = ((quarters * 103) >> 10) & 0x000f_000f_000f_000f;
    tens | ((quarters - tens * 10) << 8)
}

const ZEROS: u64 = 0x3030_3030_3030_3030;

/// The last `len` of a number's eight digits; the rest of the bytes means nothing.
#[inline]
pub(crate) fn fixed_digits(number: u32, len: usize) -> [u8; 8] {
    ((eight_digits(number) | ZEROS) >> (8 * 8_usize.saturating_sub(len))).to_le_bytes()
}

/// A number of at most eight digits, without leading zeros, and how many digits it has.
#[inline]
pub(crate) fn digits(number: u32) -> ([u8; 8], usize) {
    let eight = eight_digits(number);
    let leading = (eight.trailing_zeros() / 8).min(7);
    (((eight | ZEROS) >> (8 * leading)).to_le_bytes(), 8 - leading as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::places::places;

    #[test]
    fn numbers_are_written_as_the_standard_library_does() {
        for number in (0..100_000).chain((0..27).map(|bit| 1 << bit)).chain([9_999_999, 10_000_000, 99_999_999]) {
            let (text, len) = digits(number);
            assert_eq!(std::str::from_utf8(&text[..len]).unwrap(), number.to_string());
            let fixed = fixed_digits(number, 8);
            assert_eq!(std::str::from_utf8(&fixed).unwrap(), format!("{number:08}"));
        }
        assert_eq!(&fixed_digits(42, 5)[..5], b"00042");
    }

    #[test]
    fn a_click_is_written_as_text_and_as_json() {
        let places = places(1);
        let (index, place) = places.iter().enumerate().find(|(_, p)| p.other_spelling.contains(':')).unwrap();
        let ip: std::net::Ipv6Addr = place.other_spelling.parse().unwrap();
        let country = place.country;
        let check = |second: i64, ad: u32, user: u32, time: &str, name: &str| {
            let click = Click { second, ad, user, place: index as u16 };
            let (mut text, mut json) = (Vec::new(), Vec::new());
            let mut writer = LineWriter::new(name.len() - 2);
            writer.text(&mut text, &click, place);
            writer.json(&mut json, &click, place);
            let text = String::from_utf8(text).unwrap();
            assert_eq!(text, format!("[AdClickEvent] {name}, {time}, user {user}, {ip}, {country}\n"));
            let (day, time) = time.split_once(' ').unwrap();
            assert_eq!(
                String::from_utf8(json).unwrap(),
                format!(
                    r#"{{"ad_id":"{name}","click_timestamp":"{day}T{time}Z","user_id":"user {user}","ip":"{}","country":"{country}"}}"#,
                    place.other_spelling
                ) + "\n"
            );
        };
        check(1_609_459_201, 0, 1, "2021-01-01 00:00:01", "ad001");
        check(-1, 99_998, 66_000_000, "1969-12-31 23:59:59", "ad0099999");
        check(1_709_251_199, 12_344, 0, "2024-02-29 23:59:59", "ad12345");
    }
}
