//! `queue.properties` in a configuration: texts, numbers and truth values by name, where a name's dots may be nested tables or written as they are; and what the environment adds.

use std::collections::BTreeMap;

use clickmill_queue::kafka::Properties;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serializer};

/// What a property may be written as.
#[derive(Deserialize)]
#[serde(untagged)]
enum Value {
    Truth(bool),
    Whole(i64),
    Number(f64),
    Text(String),
    Table(BTreeMap<String, Value>),
    /// Nothing that a property could be. Its content is not looked at: it may be a secret.
    Other(serde::de::IgnoredAny),
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Properties, D::Error> {
    let mut flat = Vec::new();
    for (name, value) in BTreeMap::<String, Value>::deserialize(from)? {
        flatten(name, value, &mut flat)
            .map_err(|name| D::Error::custom(format!("{name} is neither a text nor a number nor true or false")))?;
    }
    Ok(Properties::new(flat))
}

/// The error is the name of what is no property.
fn flatten(name: String, value: Value, into: &mut Vec<(String, String)>) -> Result<(), String> {
    let text = match value {
        Value::Truth(truth) => truth.to_string(),
        Value::Whole(number) => number.to_string(),
        Value::Number(number) => number.to_string(),
        Value::Text(text) => text,
        Value::Table(table) => {
            return table.into_iter().try_for_each(|(inner, value)| flatten(format!("{name}.{inner}"), value, into));
        }
        Value::Other(_) => return Err(name),
    };
    into.push((name, text));
    Ok(())
}

/// Only the defaults are ever written, for the other sources to be merged into: there are none.
pub(crate) fn serialize<S: Serializer>(_: &Properties, to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(std::iter::empty::<(String, String)>())
}

/// What stands before a property's name in the environment.
const PREFIX: &str = "CLICKMILL_QUEUE__PROPERTIES__";

/// The properties that the environment sets: `CLICKMILL_QUEUE__PROPERTIES__SASL_PASSWORD` is `sasl.password`.
pub(crate) fn of_environment() -> Vec<(String, String)> {
    let all =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    all.filter_map(|(name, value)| Some((property_of(&name)?, value))).collect()
}

fn property_of(variable: &str) -> Option<String> {
    let variable = variable.to_ascii_uppercase();
    let name = variable.strip_prefix(PREFIX)?;
    Some(name.to_ascii_lowercase().replace('_', "."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_names_a_property() {
        assert_eq!(property_of("CLICKMILL_QUEUE__PROPERTIES__SASL_PASSWORD").as_deref(), Some("sasl.password"));
        assert_eq!(property_of("CLICKMILL_QUEUE__BROKERS"), None);
    }
}
