//! Filters, slowly.

use std::net::IpAddr;

use clickmill_model::Filter;

use super::line::SlowClick;

/// True where the click matches: fields and-ed, the values of one field or-ed, an empty field says nothing.
pub fn matches(filter: &Filter, click: &SlowClick) -> bool {
    let networks =
        filter.ip.iter().any(|net| bits(click.ip).starts_with(&bits(net.addr())[..1 + usize::from(net.prefix_len())]));
    (filter.country.is_empty() || filter.country.contains(&click.country))
        && !filter.exclude_country.contains(&click.country)
        && (filter.user_id.is_empty() || filter.user_id.contains(&click.user_id))
        && (filter.ip.is_empty() || networks)
}

/// The address in binary, behind a letter for its family.
fn bits(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => format!("f{:032b}", ip.to_bits()),
        IpAddr::V6(ip) => format!("s{:0128b}", ip.to_bits()),
    }
}
