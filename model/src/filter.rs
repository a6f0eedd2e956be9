//! Predefined filters, and which of them a click matches.

use std::net::IpAddr;

use hashbrown::HashMap;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::click::Click;
use crate::ids::FilterId;
use crate::short;

/// A predicate over a click. Its fields are and-ed, the values of one field or-ed; an empty field says nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// Its number, for good.
    pub id: FilterId,
    /// What people call it.
    #[serde(default)]
    pub name: String,
    /// The click's country is one of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub country: Vec<String>,
    /// The click's country is none of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude_country: Vec<String>,
    /// The click's address is, or lies within, one of these: `207.148.22.22`, `207.148.0.0/16`, `2001:db8::/32`.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "addresses")]
    pub ip: Vec<IpNet>,
    /// The click's user is one of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub user_id: Vec<String>,
}

impl Filter {
    /// Filter 0, which matches every click.
    pub fn all() -> Self {
        Self { id: FilterId::ALL, name: "all".into(), ..Self::default() }
    }

    /// True where both match the same clicks: everything but id and name is equal, in whatever order.
    pub fn has_predicate_of(&self, other: &Self) -> bool {
        fn sorted<T: Ord + Clone>(values: &[T]) -> Vec<T> {
            let mut values = values.to_vec();
            values.sort();
            values.dedup();
            values
        }
        sorted(&self.country) == sorted(&other.country)
            && sorted(&self.exclude_country) == sorted(&other.exclude_country)
            && sorted(&self.ip) == sorted(&other.ip)
            && sorted(&self.user_id) == sorted(&other.user_id)
    }
}

mod addresses {
    use ipnet::IpNet;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(nets: &[IpNet], serializer: S) -> Result<S::Ok, S::Error> {
        nets.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        texts
            .iter()
            .map(|text| {
                let net = text.parse::<IpNet>().or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from));
                net.map(|net| net.trunc()).map_err(|_| {
                    serde::de::Error::custom(format!(
                        "{text:?} is neither an IP address nor a network such as 10.0.0.0/8"
                    ))
                })
            })
            .collect()
    }
}

/// The filters that a click matches: bit `i` is the filter at place `i` of a [`FilterSet`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FilterMask(pub u64);

impl FilterMask {
    /// The places of the filters that match, in order.
    pub fn places(self) -> impl Iterator<Item = usize> {
        let mut bits = self.0;
        std::iter::from_fn(move || {
            let place = bits.trailing_zeros();
            bits &= bits.wrapping_sub(1);
            (place < 64).then_some(place as usize)
        })
    }
}

/// The filters of one definition, prepared so that a click is matched in a few nanoseconds.
#[derive(Debug, Clone)]
pub struct FilterSet {
    ids: Vec<FilterId>,
    countries: FieldMasks,
    users: FieldMasks,
    without_ip: u64,
    /// Network, mask and the filter's bit.
    v4: Vec<(u32, u32, u64)>,
    v6: Vec<(u128, u128, u64)>,
}

#[derive(Debug, Clone)]
struct FieldMasks {
    values: Values,
    other: u64,
}

/// The values of a field that filters name, each with its mask.
#[derive(Debug, Clone)]
enum Values {
    /// Few and short ones are compared one after the other: as words, with their lengths.
    Few(Vec<(u128, usize, u64)>),
    Many(HashMap<String, u64>),
}

impl FieldMasks {
    const FEW: usize = 8;

    fn new(by_value: HashMap<String, u64>, other: u64) -> Self {
        let short = |(value, mask): (&String, &u64)| short::word(value.as_bytes()).map(|w| (w, value.len(), *mask));
        let few = by_value.iter().map(short).collect::<Option<Vec<_>>>().filter(|few| few.len() <= Self::FEW);
        Self { values: few.map_or(Values::Many(by_value), Values::Few), other }
    }

    #[inline]
    fn of(&self, value: &str) -> u64 {
        let found = match &self.values {
            Values::Few(few) if few.is_empty() => None,
            Values::Few(few) => short::word(value.as_bytes()).and_then(|word| {
                let found = few.iter().find(|(other, len, _)| (*other == word) & (*len == value.len()));
                found.map(|(_, _, mask)| *mask)
            }),
            Values::Many(by_value) => by_value.get(value).copied(),
        };
        found.unwrap_or(self.other)
    }
}

impl FilterSet {
    /// How many filters there may be, filter 0 among them.
    pub const MOST: usize = 64;

    /// Prepares these filters, whose places are their order here. Those behind the first [`FilterSet::MOST`] are left out
    /// (a definition never holds more).
    pub fn new(filters: &[Filter]) -> Self {
        let filters = &filters[..filters.len().min(Self::MOST)];
        let mask = |matches: &dyn Fn(&Filter) -> bool| {
            filters.iter().enumerate().filter(|(_, f)| matches(f)).fold(0, |mask, (place, _)| mask | 1 << place)
        };
        let country_values = filters.iter().flat_map(|f| f.country.iter().chain(&f.exclude_country));
        let country_matches =
            |f: &Filter, c: &String| (f.country.is_empty() || f.country.contains(c)) && !f.exclude_country.contains(c);
        let countries = FieldMasks::new(
            country_values.map(|c| (c.clone(), mask(&|f| country_matches(f, c)))).collect(),
            mask(&|f| f.country.is_empty()),
        );
        let user_values = filters.iter().flat_map(|f| &f.user_id);
        let users = FieldMasks::new(
            user_values.map(|u| (u.clone(), mask(&|f| f.user_id.is_empty() || f.user_id.contains(u)))).collect(),
            mask(&|f| f.user_id.is_empty()),
        );
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (place, filter) in filters.iter().enumerate() {
            for net in &filter.ip {
                match net {
                    IpNet::V4(net) => v4.push((net.network().to_bits(), net.netmask().to_bits(), 1 << place)),
                    IpNet::V6(net) => v6.push((net.network().to_bits(), net.netmask().to_bits(), 1 << place)),
                }
            }
        }
        Self {
            ids: filters.iter().map(|f| f.id).collect(),
            countries,
            users,
            without_ip: mask(&|f| f.ip.is_empty()),
            v4,
            v6,
        }
    }

    /// The ids of the filters, by place.
    pub fn ids(&self) -> &[FilterId] {
        &self.ids
    }

    /// Which filters the click matches.
    #[inline]
    pub fn matches(&self, click: &Click<'_>) -> FilterMask {
        FilterMask(self.countries.of(click.country) & self.users.of(click.user_id) & self.ip_mask(click.ip))
    }

    fn ip_mask(&self, ip: IpAddr) -> u64 {
        match ip {
            IpAddr::V4(ip) => within(self.without_ip, &self.v4, |net, mask| ip.to_bits() & mask == *net),
            IpAddr::V6(ip) => within(self.without_ip, &self.v6, |net, mask| ip.to_bits() & mask == *net),
        }
    }
}

fn within<T>(without: u64, networks: &[(T, T, u64)], holds: impl Fn(&T, &T) -> bool) -> u64 {
    networks.iter().fold(without, |found, (net, mask, bit)| if holds(net, mask) { found | bit } else { found })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Timestamp;

    fn filters() -> Vec<Filter> {
        let parse = |json: &str| serde_json::from_str::<Filter>(json).unwrap();
        vec![
            Filter::all(),
            parse(r#"{"id":1,"country":["USA"]}"#),
            parse(r#"{"id":2,"exclude_country":["USA","France"]}"#),
            parse(r#"{"id":3,"ip":["207.148.0.0/16","2001:db8::/32","10.1.2.3"]}"#),
            parse(r#"{"id":4,"user_id":["user 1"]}"#),
            parse(r#"{"id":5,"country":["USA","France"],"user_id":["user 1","user 2"]}"#),
        ]
    }

    fn check(country: &str, ip: &str, user_id: &str, expected: &[usize]) {
        let click = Click {
            ad_id: "a",
            timestamp: Timestamp::EPOCH,
            user_id,
            ip: ip.parse().unwrap(),
            country,
            event_id: None,
            plain: None,
        };
        let places: Vec<usize> = FilterSet::new(&filters()).matches(&click).places().collect();
        assert_eq!(places, expected, "{country} {ip} {user_id}");
    }

    #[test]
    fn a_click_counts_once_under_every_filter_that_it_matches() {
        check("USA", "1.1.1.1", "x", &[0, 1]);
        check("usa", "1.1.1.1", "x", &[0, 2]);
        check("France", "1.1.1.1", "x", &[0]);
        check("France", "207.148.22.22", "user 2", &[0, 3, 5]);
        check("USA", "2001:db8:1::1", "user 1", &[0, 1, 3, 4, 5]);
        check("Chad", "10.1.2.3", "user 1", &[0, 2, 3, 4]);
        check("Chad", "10.1.2.4", "user 1", &[0, 2, 4]);
        check("Chad", "2001:db9::1", "user 3", &[0, 2]);
    }

    #[test]
    fn sixty_four_filters_fit() {
        let many: Vec<Filter> = (0..64).map(|i| Filter { id: FilterId(i), ..Filter::all() }).collect();
        let set = FilterSet::new(&many);
        let click = Click {
            ad_id: "a",
            timestamp: Timestamp::EPOCH,
            user_id: "u",
            ip: "1.1.1.1".parse().unwrap(),
            country: "c",
            event_id: None,
            plain: None,
        };
        assert_eq!(set.matches(&click).places().count(), 64);
    }

    #[test]
    fn an_address_that_is_none_is_named() {
        let error = serde_json::from_str::<Filter>(r#"{"id":1,"ip":["10.0.0.0/33"]}"#).unwrap_err();
        assert!(error.to_string().contains("10.0.0.0/33"), "{error}");
    }
}
