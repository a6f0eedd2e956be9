//! A click, and what makes two lines the same click.

use std::io::Write;
use std::net::IpAddr;

use memchr::memchr;
use xxhash_rust::xxh3::xxh3_128;

use crate::line::write_time;
use crate::time::Timestamp;

/// One ad click, borrowed from the line (or from the parser) that told it. Two are equal that say the same, however they were written.
#[derive(Debug, Clone, Copy)]
pub struct Click<'a> {
    /// The ad that was clicked: 1 to [`MAX_FIELD_CHARS`] characters.
    pub ad_id: &'a str,
    /// When, by the web server's clock.
    pub timestamp: Timestamp,
    /// Who clicked: 1 to [`MAX_FIELD_CHARS`] characters.
    pub user_id: &'a str,
    /// From where. An IPv4 address written as IPv6 (`::ffff:1.2.3.4`) is the IPv4 address.
    pub ip: IpAddr,
    /// The country: 1 to [`MAX_COUNTRY_CHARS`] characters.
    pub country: &'a str,
    /// The producer's own name of the click, where it has one.
    pub event_id: Option<&'a str>,
    /// How it stands in its line, where it was read from a plain one.
    pub plain: Option<Plain<'a>>,
}

/// A click as most lines write it: `{ad_id}, {YYYY-MM-DD HH:MM:SS}, {user_id}, {ip}, {country}`, an IPv6 address as RFC 5952 says.
#[derive(Debug, Clone, Copy)]
pub struct Plain<'a> {
    /// The line from the ad to the country.
    pub text: &'a [u8],
    /// The address.
    pub ip: &'a [u8],
}

impl Eq for Click<'_> {}

impl PartialEq for Click<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.ad_id == other.ad_id
            && self.timestamp == other.timestamp
            && self.user_id == other.user_id
            && self.ip == other.ip
            && self.country == other.country
            && self.event_id == other.event_id
    }
}

/// Characters that an `ad_id`, a `user_id` and an `event_id` may have.
pub const MAX_FIELD_CHARS: usize = 256;

/// Characters that a country may have.
pub const MAX_COUNTRY_CHARS: usize = 64;

/// What two lines of the same click have in common, as a 128-bit hash (XXH3): of `event_id`, `ad_id` and `click_timestamp`
/// where there is an event id, of all five fields otherwise. With 10⁹ clicks a minute the odds that any two different ones
/// collide are below 10⁻²⁰.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity(pub u128);

impl Click<'_> {
    /// This click's identity. `scratch` is overwritten; handing in the same one each time saves its allocation.
    ///
    /// What is hashed of a click with a whole second and no comma in its fields is its text as [`Plain`] has it, so that nothing is put together for most lines. Every other one is
    /// told by its fields one after the other, behind a NUL, which no text begins with.
    #[inline]
    pub fn identity(&self, scratch: &mut Vec<u8>) -> Identity {
        if let Some(plain) = self.plain {
            return Identity(xxh3_128(plain.text));
        }
        scratch.clear();
        if self.is_plain() {
            scratch.extend_from_slice(self.ad_id.as_bytes());
            scratch.extend_from_slice(b", ");
            write_time(self.timestamp, scratch);
            // Writing to a vector never fails.
            let _ = write!(scratch, ", {}, {}, {}", self.user_id, self.ip, self.country);
        } else {
            self.write_fields(scratch);
        }
        Identity(xxh3_128(scratch))
    }

    /// True where a text line can say it in the form of [`Plain`].
    fn is_plain(&self) -> bool {
        let has_comma = |field: &str| memchr(b',', field.as_bytes()).is_some();
        self.event_id.is_none()
            && self.timestamp.as_micros() % 1_000_000 == 0
            && ![self.ad_id, self.user_id, self.country].into_iter().any(has_comma)
    }

    fn write_fields(&self, out: &mut Vec<u8>) {
        // Fields hold no control character, so that a NUL ends one.
        out.push(0);
        out.extend_from_slice(&self.timestamp.as_micros().to_le_bytes());
        out.extend_from_slice(self.ad_id.as_bytes());
        out.push(0);
        if let Some(event_id) = self.event_id {
            out.push(1);
            out.extend_from_slice(event_id.as_bytes());
            return;
        }
        match self.ip {
            IpAddr::V4(ip) => {
                out.push(4);
                out.extend_from_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                out.push(6);
                out.extend_from_slice(&ip.octets());
            }
        }
        out.extend_from_slice(self.user_id.as_bytes());
        out.push(0);
        out.extend_from_slice(self.country.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn click<'a>() -> Click<'a> {
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

    fn identity(click: Click<'_>) -> Identity {
        click.identity(&mut Vec::new())
    }

    #[test]
    fn without_an_event_id_every_field_counts() {
        let first = identity(click());
        assert_eq!(first, identity(click()));
        for other in [
            Click { ad_id: "ad002", ..click() },
            Click { timestamp: Timestamp::from_secs(1_609_459_202), ..click() },
            Click { user_id: "user 2", ..click() },
            Click { ip: "207.148.22.23".parse().unwrap(), ..click() },
            Click { ip: "2001:db8::1".parse().unwrap(), ..click() },
            Click { country: "France", ..click() },
            Click { user_id: "user", country: " 1USA", ..click() },
            Click { user_id: "user 1, 207.148.22.22, USA", ..click() },
            Click { timestamp: Timestamp::from_micros(1_609_459_201_000_001), ..click() },
            Click { event_id: Some("e"), ..click() },
        ] {
            assert_ne!(first, identity(other), "{other:?}");
        }
    }

    #[test]
    fn with_an_event_id_it_the_ad_and_the_time_count() {
        let first = Click { event_id: Some("e1"), ..click() };
        for same in [
            Click { user_id: "x", ..first },
            Click { country: "x", ..first },
            Click { ip: "::1".parse().unwrap(), ..first },
        ] {
            assert_eq!(identity(first), identity(same), "{same:?}");
        }
        for other in [
            Click { event_id: Some("e2"), ..first },
            Click { ad_id: "ad002", ..first },
            Click { timestamp: Timestamp::from_secs(0), ..first },
        ] {
            assert_ne!(identity(first), identity(other), "{other:?}");
        }
    }
}
