//! Filters as SQL.

use std::fmt::Write;
use std::net::IpAddr;

use clickmill_model::{Filter, FilterId};

use crate::clicks::ip_key;

/// The name of the column that counts a filter's clicks.
pub(crate) fn column_of(filter: FilterId) -> String {
    format!("f{}", filter.0)
}

/// The condition that a click fulfils which the filter matches: its fields are and-ed, the values of one field or-ed, an empty field says nothing.
pub(crate) fn condition(filter: &Filter) -> String {
    let mut parts = Vec::new();
    for (column, not, values) in [
        ("country", "", &filter.country),
        ("country", "NOT ", &filter.exclude_country),
        ("user_id", "", &filter.user_id),
    ] {
        if !values.is_empty() {
            let values: Vec<String> = values.iter().map(|value| text(value)).collect();
            parts.push(format!("{column} {not}IN ({})", values.join(", ")));
        }
    }
    if !filter.ip.is_empty() {
        let ranges: Vec<String> = filter
            .ip
            .iter()
            .map(|net| {
                let (first, last) = bounds(net.network(), net.prefix_len());
                format!("(ip >= {} AND ip <= {})", bytes(first), bytes(last))
            })
            .collect();
        parts.push(format!("({})", ranges.join(" OR ")));
    }
    if parts.is_empty() { "TRUE".to_owned() } else { parts.join(" AND ") }
}

/// The first and the last address of a network, computed bit by bit from its prefix.
fn bounds(network: IpAddr, prefix: u8) -> (IpAddr, IpAddr) {
    match network {
        IpAddr::V4(ip) => {
            let host = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
            (IpAddr::V4((ip.to_bits() & !host).into()), IpAddr::V4((ip.to_bits() | host).into()))
        }
        IpAddr::V6(ip) => {
            let host = u128::MAX.checked_shr(prefix.into()).unwrap_or(0);
            (IpAddr::V6((ip.to_bits() & !host).into()), IpAddr::V6((ip.to_bits() | host).into()))
        }
    }
}

/// A text in SQL.
pub(crate) fn text(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

fn bytes(ip: IpAddr) -> String {
    let (key, length) = ip_key(ip);
    let mut hex = String::from("X'");
    for byte in key.iter().take(length) {
        // Writing to a string never fails.
        let _ = write!(hex, "{byte:02x}");
    }
    hex + "'"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_as_conditions() {
        let check = |json: &str, expected: &str| {
            assert_eq!(condition(&serde_json::from_str(json).unwrap()), expected, "{json}");
        };
        check(r#"{"id":0}"#, "TRUE");
        check(r#"{"id":1,"country":["USA","Côte d'Ivoire"]}"#, "country IN ('USA', 'Côte d''Ivoire')");
        check(r#"{"id":1,"exclude_country":["USA"],"user_id":["u"]}"#, "country NOT IN ('USA') AND user_id IN ('u')");
        check(
            r#"{"id":1,"ip":["207.148.0.0/15","1.2.3.4","0.0.0.0/0"]}"#,
            "((ip >= X'04cf940000' AND ip <= X'04cf95ffff') OR (ip >= X'0401020304' AND ip <= X'0401020304') OR (ip >= X'0400000000' AND ip <= X'04ffffffff'))",
        );
        check(
            r#"{"id":1,"ip":["2001:db8::/33"]}"#,
            "((ip >= X'0620010db8000000000000000000000000' AND ip <= X'0620010db87fffffffffffffffffffffff'))",
        );
    }
}
