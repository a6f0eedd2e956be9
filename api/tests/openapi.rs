//! The OpenAPI document says what is served: every path, parameter, status and field.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where anything fails")]

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;

use clickmill_api::Limits;
use serde_json::{Value, json};
use support::{MapQueue, MapStore, Server, sources};

fn server() -> Server {
    let store = MapStore::complete_until("202101010003");
    store.click(0, "ad001", "202101010000", 5);
    Server::with(Limits::default(), sources(Arc::new(store), Some(Arc::new(MapQueue::default()))))
}

/// What `value` has against `schema`; empty where it conforms, with no member that the schema does not know.
fn against(document: &Value, schema: &Value, value: &Value, at: &str) -> Vec<String> {
    if let Some(name) = schema["$ref"].as_str() {
        let target = document.pointer(name.trim_start_matches('#')).unwrap_or_else(|| panic!("{name} is not there"));
        return against(document, target, value, at);
    }
    if let Some(any) = schema["oneOf"].as_array().or(schema["anyOf"].as_array()) {
        let all: Vec<Vec<String>> = any.iter().map(|schema| against(document, schema, value, at)).collect();
        return if all.iter().any(Vec::is_empty) { vec![] } else { all.concat() };
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let kinds = match &schema["type"] {
        Value::Array(kinds) => kinds.clone(),
        Value::Null => vec![json!(kind)],
        one => vec![one.clone()],
    };
    if !(kinds.contains(&json!(kind)) || kind == "integer" && kinds.contains(&json!("number"))) {
        return vec![format!("{at} is {kind}, not one of {kinds:?}")];
    }
    let mut found = Vec::new();
    if let Some(names) = schema["enum"].as_array()
        && !names.contains(value)
    {
        found.push(format!("{at} is {value}, not one of {names:?}"));
    }
    if let Value::Array(items) = value {
        for (i, item) in items.iter().enumerate() {
            found.extend(against(document, &schema["items"], item, &format!("{at}[{i}]")));
        }
    }
    if let Value::Object(members) = value {
        let known = schema["properties"].as_object();
        for (name, member) in members {
            let place = format!("{at}.{name}");
            match known.and_then(|known| known.get(name)).or(schema.get("additionalProperties")) {
                Some(schema) => found.extend(against(document, schema, member, &place)),
                None => found.push(format!("{place} is not documented")),
            }
        }
        for name in schema["required"].as_array().into_iter().flatten() {
            if !members.contains_key(name.as_str().unwrap()) {
                found.push(format!("{at}.{} is missing", name.as_str().unwrap()));
            }
        }
    }
    found
}

#[test]
fn every_documented_path_answers_as_documented() {
    let server = server();
    let document = server.json("/openapi.json");
    let mut served = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        assert_eq!(operations.as_object().unwrap().keys().collect::<Vec<_>>(), ["get"], "{path}");
        let operation = &operations["get"];
        served.insert(path.clone());
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        let mut url = path.clone();
        let mut query = Vec::new();
        for parameter in &parameters {
            let name = parameter["name"].as_str().unwrap();
            let example = match parameter.get("example").unwrap_or_else(|| panic!("{name} of {path} has no example")) {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            match parameter["in"].as_str().unwrap() {
                "path" => url = url.replace(&format!("{{{name}}}"), &example),
                _ => query.push(format!("{name}={example}")),
            }
        }
        for asked in [url.clone(), format!("{url}?{}", query.join("&"))] {
            let answer = server.get(&asked);
            let documented = &operation["responses"][answer.status.to_string()];
            assert_eq!(answer.status, 200, "{asked}: {}", answer.body);
            let media = answer.header("content-type").unwrap().split(';').next().unwrap();
            let schema = &documented["content"][media]["schema"];
            assert!(!schema.is_null(), "{asked} is {media}, which is not documented");
            let value = if media == "application/json" { answer.json() } else { json!(answer.body) };
            assert_eq!(against(&document, schema, &value, ""), Vec::<String>::new(), "{asked}");
        }
        // Each documented parameter is checked, and no other is taken.
        for parameter in parameters.iter().filter(|parameter| parameter["in"] == "query") {
            let name = parameter["name"].as_str().unwrap();
            assert_eq!(server.get(&format!("{url}?{name}=x")).problem(), (400, Some(name.into())), "{url}");
        }
        let unknown = server.get(&format!("{url}?unknown=1"));
        assert_eq!(unknown.problem(), (400, Some("unknown".into())), "{url}");
        let schema = json!({"$ref": "#/components/schemas/ProblemBody"});
        assert_eq!(against(&document, &schema, &unknown.json(), ""), Vec::<String>::new(), "{url}");
    }
    let expected = [
        "/healthz",
        "/metrics",
        "/readyz",
        "/v1/ads/popular_ads",
        "/v1/ads/{ad_id}/aggregated_count",
        "/v1/ads/{ad_id}/counts",
        "/v1/filters",
        "/v1/late",
        "/v1/rejected",
        "/v1/status",
    ];
    assert_eq!(served.iter().map(String::as_str).collect::<Vec<_>>(), expected);
}

#[test]
fn the_comparison_notices_what_differs() {
    let schema = json!({"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}, "b": {"type": ["string", "null"]}}});
    for (value, faults) in [
        (json!({"a": 1}), 0),
        (json!({"a": 1, "b": null}), 0),
        (json!({"a": "1"}), 1),
        (json!({"b": 1}), 2),
        (json!({"a": 1, "c": 1}), 1),
        (json!([]), 1),
    ] {
        assert_eq!(against(&json!({}), &schema, &value, "").len(), faults, "{value}");
    }
}
