//! Parameters of a request, taken strictly: what is unknown, repeated or malformed is refused with its name.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use clickmill_model::{FilterId, Minute, SpanKind, click};

use crate::http::problem::{Problem, clip};

/// The longest range that may be asked for, in minutes: a leap year.
pub(crate) const MOST_MINUTES: i64 = 366 * 1440;

/// The most ads that a ranking may be asked for.
pub(crate) const MOST_ADS: usize = 1000;

/// The most lines that `/v1/late` and `/v1/rejected` may be asked for.
pub(crate) const MOST_EXAMPLES: usize = 200;

/// The parameters of a query string, each once.
#[derive(Debug)]
pub(crate) struct Params {
    values: Vec<(String, String)>,
}

impl Params {
    /// Takes a query string apart. Only these names may be in it.
    pub(crate) fn parse(query: Option<&str>, known: &[&str]) -> Result<Self, Problem> {
        let mut values: Vec<(String, String)> = Vec::new();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let broken = || Problem::parameter(name, "Its % escapes are broken or are not UTF-8.");
            let name = decode(&name.replace('+', " ")).ok_or_else(broken)?;
            let value = decode(&value.replace('+', " ")).ok_or_else(broken)?;
            if !known.contains(&name.as_str()) {
                let detail = match known {
                    [] => "This path takes no parameters.".to_owned(),
                    _ => format!("This path takes no such parameter, only {}.", known.join(", ")),
                };
                return Err(Problem::parameter(&name, detail));
            }
            if values.iter().any(|(earlier, _)| *earlier == name) {
                return Err(Problem::parameter(&name, "It is there more than once. Give it once."));
            }
            values.push((name, value));
        }
        Ok(Self { values })
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.values.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn minute(&self, name: &str) -> Result<Option<Minute>, Problem> {
        let Some(text) = self.get(name) else { return Ok(None) };
        Minute::parse(text).map(Some).ok_or_else(|| {
            let detail = format!("{:?} is no minute: write it as yyyyMMddHHmm in UTC, 202101010000 say.", clip(text));
            Problem::parameter(name, detail)
        })
    }

    /// `from` and `to`, as far as they are given; a range that is reversed, empty or too long is refused.
    pub(crate) fn range(&self) -> Result<(Option<Minute>, Option<Minute>), Problem> {
        let (from, to) = (self.minute("from")?, self.minute("to")?);
        if let (Some(from), Some(to)) = (from, to) {
            check_range(from, to)?;
        }
        Ok((from, to))
    }

    /// `filter`; filter 0 where it is not given.
    pub(crate) fn filter(&self) -> Result<FilterId, Problem> {
        let Some(text) = self.get("filter") else { return Ok(FilterId::ALL) };
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
            let detail = format!("{:?} is no filter id: filters are numbers from 0, see /v1/filters.", clip(text));
            return Err(Problem::parameter("filter", detail));
        }
        text.parse().map(FilterId).map_err(|_| Problem::unknown_filter(clip(text)))
    }

    /// A number from 1 to `most`, where it is given.
    pub(crate) fn number(&self, name: &str, most: usize) -> Result<Option<usize>, Problem> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        match text.parse::<usize>() {
            Ok(n) if digits && (1..=most).contains(&n) => Ok(Some(n)),
            _ => Err(Problem::parameter(name, format!("{:?} is not a number from 1 to {most}.", clip(text)))),
        }
    }

    /// `step`; a minute where it is not given.
    pub(crate) fn step(&self) -> Result<SpanKind, Problem> {
        match self.get("step") {
            None | Some("minute") => Ok(SpanKind::Minute),
            Some("hour") => Ok(SpanKind::Hour),
            Some("day") => Ok(SpanKind::Day),
            Some(other) => {
                Err(Problem::parameter("step", format!("{:?} is not one of minute, hour, day.", clip(other))))
            }
        }
    }
}

/// Refuses a range that is reversed, empty or too long.
pub(crate) fn check_range(from: Minute, to: Minute) -> Result<(), Problem> {
    if from >= to {
        let detail = format!("The range is [from, to): to ({to}) must come after from ({from}).");
        return Err(Problem::parameter("to", detail));
    }
    if to.minus(from) > MOST_MINUTES {
        let detail = format!("From {from} to {to} is more than 366 days. Ask for a shorter range.");
        return Err(Problem::parameter("to", detail));
    }
    Ok(())
}

/// Undoes percent-encoding. `None` where an escape is broken, or where the result is not UTF-8.
pub(crate) fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first == b'%' {
            let (escape, after) = after.split_at_checked(2)?;
            let hex = |byte: &u8| char::from(*byte).to_digit(16);
            let [high, low] = escape else { return None };
            bytes.push((hex(high)? * 16 + hex(low)?) as u8);
            rest = after;
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}

/// The ad that a path names: its fourth segment, percent-decoded.
pub(crate) struct AdId(pub(crate) String);

impl<S: Sync> FromRequestParts<S> for AdId {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let segment = parts.uri.path().split('/').nth(3).unwrap_or_default();
        let ad = decode(segment).ok_or_else(|| {
            let detail = "Its % escapes are broken or are not UTF-8. A % in an ad id is written %25, a / %2F.";
            Problem::parameter("ad_id", detail)
        })?;
        if ad.is_empty() || ad.chars().count() > click::MAX_FIELD_CHARS {
            let detail = format!("An ad id has 1 to {} characters.", click::MAX_FIELD_CHARS);
            return Err(Problem::parameter("ad_id", detail));
        }
        Ok(Self(ad))
    }
}

/// The query string of a request.
pub(crate) struct Query(pub(crate) Option<String>);

impl<S: Sync> FromRequestParts<S> for Query {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Ok(Self(parts.uri.query().map(str::to_owned)))
    }
}

impl Query {
    /// Takes it apart; only these names may be in it.
    pub(crate) fn params(&self, known: &[&str]) -> Result<Params, Problem> {
        Params::parse(self.0.as_deref(), known)
    }
}

/// Refuses every parameter.
pub(crate) struct NoParameters;

impl<S: Sync> FromRequestParts<S> for NoParameters {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Params::parse(parts.uri.query(), &[]).map(|_| Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_encoding_is_undone_strictly() {
        for (text, expected) in [
            ("ad001", Some("ad001")),
            ("a%2Fb%2fc", Some("a/b/c")),
            ("100%25", Some("100%")),
            ("%E5%BA%83%E5%91%8A", Some("広告")),
            ("a+b", Some("a+b")),
            ("100%", None),
            ("%2", None),
            ("%zz", None),
            ("%+1", None),
            ("%FF", None),
            ("%é0", None),
        ] {
            assert_eq!(decode(text).as_deref(), expected, "{text}");
        }
    }

    fn named(query: &str) -> String {
        let refused = |problem: Problem| {
            let body: serde_json::Value = serde_json::from_slice(&problem.body()).unwrap();
            format!("{} {}", body["status"], body["parameter"].as_str().unwrap_or("-"))
        };
        let check = || {
            let params = Params::parse(Some(query), &["from", "to", "filter", "n", "step"])?;
            params.range()?;
            params.filter()?;
            params.number("n", MOST_ADS)?;
            params.step().map(|_| ())
        };
        check().map_or_else(refused, |()| "ok".into())
    }

    #[test]
    fn a_parameter_that_cannot_be_is_named() {
        for (query, expected) in [
            ("", "ok"),
            ("&", "ok"),
            ("from=202101010000&to=202101010001&filter=1&n=5&step=hour", "ok"),
            ("from=202001010000&to=202101010000", "ok"),
            ("fr%6fm=202101010000", "ok"),
            ("from=202001010000&to=202101010001", "400 to"),
            ("from=202101010000&to=202101010000", "400 to"),
            ("from=202101010001&to=202101010000", "400 to"),
            ("from=202101010060", "400 from"),
            ("from=", "400 from"),
            ("from", "400 from"),
            ("to=202102300000", "400 to"),
            ("to=+202101010000", "400 to"),
            ("from=202101010000&from=202101010000", "400 from"),
            ("n=0", "400 n"),
            ("n=-1", "400 n"),
            ("n=%2B5", "400 n"),
            ("n=1001", "400 n"),
            ("n=99999999999999999999999", "400 n"),
            ("n=", "400 n"),
            ("filter=x", "400 filter"),
            ("filter=-1", "400 filter"),
            ("filter=65536", "404 filter"),
            ("step=week", "400 step"),
            ("step=", "400 step"),
            ("color=red", "400 color"),
            ("%zz=1", "400 %zz"),
            ("n=%FF", "400 n"),
            ("From=202101010000", "400 From"),
        ] {
            assert_eq!(named(query), expected, "{query}");
        }
    }
}
