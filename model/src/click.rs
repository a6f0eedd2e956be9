//! A click, and what makes two lines the same click.

use std::net::IpAddr;

use xxhash_rust::xxh3::xxh3_128;

use crate::time::Timestamp;

/// One ad click, borrowed from the line (or from the parser) that told it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    pub fn identity(&self, scratch: &mut Vec<u8>) -> Identity {
        // Fields hold no control character, so that a NUL ends one.
        scratch.clear();
        scratch.extend_from_slice(&self.timestamp.as_micros().to_le_bytes());
        scratch.extend_from_slice(self.ad_id.as_bytes());
        scratch.push(0);
        if let Some(event_id) = self.event_id {
            scratch.push(1);
            scratch.extend_from_slice(event_id.as_bytes());
        } else {
            match self.ip {
                IpAddr::V4(ip) => {
                    scratch.push(4);
                    scratch.extend_from_slice(&ip.octets());
                }
                IpAddr::V6(ip) => {
                    scratch.push(6);
                    scratch.extend_from_slice(&ip.octets());
                }
            }
            scratch.extend_from_slice(self.user_id.as_bytes());
            scratch.push(0);
            scratch.extend_from_slice(self.country.as_bytes());
        }
        Identity(xxh3_128(scratch))
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
