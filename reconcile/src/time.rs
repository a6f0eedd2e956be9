//! Minutes, hours, days and windows, computed here once more: an error in the stream's own arithmetic must not be repeated.

use clickmill_model::{Minute, SpanKind, Window};

/// The minute of a time in microseconds since 1970.
pub(crate) fn minute_of(micros: i64) -> Minute {
    Minute::from_epoch(micros.div_euclid(60_000_000))
}

/// How many minutes a span has.
pub(crate) const fn length(kind: SpanKind) -> i64 {
    match kind {
        SpanKind::Minute => 1,
        SpanKind::Hour => 60,
        SpanKind::Day => 24 * 60,
    }
}

/// The first minute of the span of a kind that holds a minute.
pub(crate) fn start_of(kind: SpanKind, minute: Minute) -> Minute {
    let minute = minute.as_epoch();
    Minute::from_epoch(minute - minute.rem_euclid(length(kind)))
}

/// The first minute behind the span of a kind that holds a minute.
pub(crate) fn end_of(kind: SpanKind, minute: Minute) -> Minute {
    start_of(kind, minute).plus(length(kind))
}

/// The first of the minutes that a window which ends with `last` looks back on.
pub(crate) fn first_of(window: Window, last: Minute) -> Minute {
    Minute::from_epoch(last.as_epoch() + 1 - i64::from(window.0))
}

/// True where a window of this length that ends with `last` is a whole minute, hour or day.
pub(crate) fn is_whole(window: Window, last: Minute) -> bool {
    (last.as_epoch() + 1).rem_euclid(i64::from(window.0)) == 0
}

/// The number of the hour that holds a minute.
pub(crate) fn hour_of(minute: Minute) -> i64 {
    minute.as_epoch().div_euclid(60)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minute(text: &str) -> Minute {
        Minute::parse(text).unwrap()
    }

    #[test]
    fn spans_and_windows_are_what_the_calendar_says() {
        assert_eq!(minute_of(1_609_459_199_999_999), minute("202012312359"));
        assert_eq!(minute_of(-1), minute("196912312359"));
        assert_eq!(start_of(SpanKind::Hour, minute("202101010259")), minute("202101010200"));
        assert_eq!(end_of(SpanKind::Day, minute("202101010000")), minute("202101020000"));
        assert_eq!(start_of(SpanKind::Day, minute("196912312359")), minute("196912310000"));
        assert_eq!(first_of(Window(5), minute("202101010002")), minute("202012312358"));
        assert!(is_whole(Window::HOUR, minute("202101010059")) && !is_whole(Window::HOUR, minute("202101010100")));
        assert!(is_whole(Window::DAY, minute("202101012359")) && !is_whole(Window::DAY, minute("202101010059")));
    }
}
