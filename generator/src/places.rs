//! Where clicks come from: addresses, each with its country.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::random::Random;

/// Countries with their share of the addresses in thousandths.
const COUNTRIES: [(&str, u64); 20] = [
    ("USA", 230),
    ("India", 140),
    ("Germany", 90),
    ("Brazil", 80),
    ("UK", 70),
    ("Japan", 60),
    ("France", 55),
    ("Indonesia", 45),
    ("Mexico", 40),
    ("Canada", 35),
    ("Italy", 30),
    ("Spain", 25),
    ("Turkey", 20),
    ("Poland", 17),
    ("Netherlands", 15),
    ("Australia", 13),
    ("Sweden", 12),
    ("Kenya", 10),
    ("Chile", 8),
    ("New Zealand", 5),
];

/// The first two numbers of the IPv4 addresses: few, so that filters by network find something.
const NETWORKS: [[u8; 2]; 16] = [
    [207, 148],
    [203, 0],
    [198, 51],
    [192, 0],
    [81, 2],
    [185, 60],
    [45, 33],
    [104, 16],
    [13, 107],
    [52, 95],
    [31, 13],
    [151, 101],
    [172, 217],
    [93, 184],
    [8, 8],
    [1, 1],
];

/// How many addresses there are: enough for filters and skew, and all of it stays in the processor's cache.
const PLACES: usize = 4096;

/// Bits of a random number that choose a place.
pub(crate) const PLACE_BITS: u32 = PLACES.trailing_zeros();

/// Of a thousand addresses, how many are of IPv6.
const IPV6: u64 = 150;

/// An address and its country, ready to be copied.
#[derive(Debug)]
pub(crate) struct Place {
    /// `, 207.148.22.22, USA` and a line end.
    pub(crate) text: [u8; 64],
    pub(crate) len: usize,
    /// `207.148.22.22`, or an IPv6 address in full and in capitals, as another program might spell it.
    pub(crate) other_spelling: String,
    pub(crate) country: &'static str,
}

/// All places.
pub(crate) fn places(seed: u64) -> Vec<Place> {
    let mut random = Random::new(seed, 1);
    (0..PLACES)
        .map(|_| {
            let mut share = random.below(1000);
            let mut country = "USA";
            for (name, its) in COUNTRIES {
                country = name;
                match share.checked_sub(its) {
                    Some(left) => share = left,
                    None => break,
                }
            }
            let is_v6 = random.below(1000) < IPV6;
            let bits = random.next();
            let [a, b, c, d, ..] = bits.to_le_bytes();
            let (ip, other_spelling) = if is_v6 {
                let groups = [u16::from_le_bytes([a, b]) & 0xf, u16::from(c), 0, u16::from_le_bytes([c, d])];
                let ip = Ipv6Addr::new(0x2001, 0xdb8, groups[0], groups[1], 0, 0, groups[2], groups[3]);
                let full: Vec<String> = ip.segments().iter().map(|group| format!("{group:04X}")).collect();
                (ip.to_string(), full.join(":"))
            } else {
                let [first, second] = NETWORKS[usize::from(a) % NETWORKS.len()];
                let ip = Ipv4Addr::new(first, second, b, c).to_string();
                (ip.clone(), ip)
            };
            let line_end = format!(", {ip}, {country}\n");
            let mut text = [0; 64];
            let len = line_end.len().min(text.len());
            text[..len].copy_from_slice(&line_end.as_bytes()[..len]);
            Place { text, len, other_spelling, country }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn every_place_has_an_address_spelled_in_two_ways() {
        let places = places(3);
        for place in &places {
            let text = std::str::from_utf8(&place.text[..place.len]).unwrap();
            let [_, ip, country] = text.trim_end().split(", ").collect::<Vec<_>>().try_into().unwrap();
            assert_eq!(ip.parse::<IpAddr>().unwrap(), place.other_spelling.parse::<IpAddr>().unwrap());
            assert_eq!(country, place.country);
            assert!(text.ends_with('\n'));
        }
        let share = |n: usize| n as f64 / places.len() as f64;
        let v6 = share(places.iter().filter(|p| p.other_spelling.contains(':')).count());
        assert!((0.13..0.17).contains(&v6), "{v6}");
        let usa = share(places.iter().filter(|p| p.country == "USA").count());
        assert!((0.2..0.26).contains(&usa), "{usa}");
        assert_eq!(COUNTRIES.iter().map(|(_, share)| share).sum::<u64>(), 1000);
    }
}
