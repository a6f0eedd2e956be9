//! Which stored rankings put a range together.

use clickmill_model::{Definition, Minute, Window};
use clickmill_store::MinuteRange;

/// A stored ranking: its window, and the window's last minute.
pub(super) type Place = (Window, Minute);

/// The windows whose rankings have always stood at every minute: those that every definition has. A missing ranking of another one may only mean that
/// it was not asked for then.
pub(super) fn windows_of_all(definitions: &[Definition]) -> Vec<Window> {
    let Some((first, others)) = definitions.split_first() else { return Vec::new() };
    let everywhere = |window: &Window| others.iter().all(|definition| definition.windows.contains(window));
    first.windows.iter().copied().filter(everywhere).collect()
}

/// Covers a range with few stored rankings, without gap or overlap: whole days, windows of `windows`, whole hours, minutes; the longest first.
pub(super) fn cover(range: MinuteRange, windows: &[Window]) -> Vec<Place> {
    let mut levels: Vec<Level> = windows.iter().map(|window| Level { window: *window, aligned: false }).collect();
    let always = [Window::DAY, Window::HOUR, Window::MINUTE];
    levels.extend(always.map(|window| Level { window, aligned: true }));
    // Of two windows of one length the one that fits anywhere is the better one, but for days: a year is made of whole ones, which are shared by all ranges.
    levels.sort_by_key(|level| (std::cmp::Reverse(level.window), level.aligned != (level.window == Window::DAY)));
    let mut places = Vec::new();
    fill(range, &levels, &mut places);
    places
}

/// The rankings of one window.
#[derive(Debug, Clone, Copy)]
struct Level {
    window: Window,
    /// True where it stands only at the ends of whole hours or days.
    aligned: bool,
}

fn fill(range: MinuteRange, levels: &[Level], places: &mut Vec<Place>) {
    let Some((level, finer)) = levels.split_first() else { return };
    if range.from >= range.to {
        return;
    }
    let length = i64::from(level.window.0);
    let (from, to) = (range.from.as_epoch(), range.to.as_epoch());
    let first = if level.aligned { (from + length - 1).div_euclid(length) * length } else { from };
    let count = (to - first).div_euclid(length).max(0);
    if count == 0 {
        return fill(range, finer, places);
    }
    let (start, end) = (Minute::from_epoch(first), Minute::from_epoch(first + count * length));
    fill(MinuteRange { from: range.from, to: start }, finer, places);
    places.extend((1..=count).map(|i| (level.window, Minute::from_epoch(first + i * length - 1))));
    fill(MinuteRange { from: end, to: range.to }, finer, places);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn minute(text: &str) -> Minute {
        Minute::parse(text).unwrap()
    }

    fn check(from: &str, to: &str, windows: &[u32], expected: &[(u32, usize)]) {
        let windows: Vec<Window> = windows.iter().map(|w| Window(*w)).collect();
        let places = cover(MinuteRange { from: minute(from), to: minute(to) }, &windows);
        let found: Vec<(u32, usize)> =
            places.chunk_by(|a, b| a.0 == b.0).map(|same| (same[0].0.0, same.len())).collect();
        assert_eq!(found, expected, "{from} {to} {windows:?}");
    }

    #[test]
    fn a_range_takes_few_rankings() {
        check("202101010000", "202101010001", &[1, 5, 60], &[(1, 1)]);
        check("202101010003", "202101010008", &[1, 5, 60], &[(5, 1)]);
        check("202101010017", "202101010117", &[1, 5, 60], &[(60, 1)]);
        check("202101011017", "202101021017", &[1, 5, 60], &[(60, 24)]);
        let around_days = [(60, 13), (5, 8), (1, 3), (1440, 2), (60, 10), (5, 3), (1, 2)];
        check("202101011017", "202101041017", &[1, 5, 60], &around_days);
        check("202101010000", "202101020000", &[1, 60], &[(1440, 1)]);
        check("202101011017", "202101021017", &[1, 1440], &[(1440, 1)]);
        check("202101010000", "202201010000", &[5], &[(1440, 365)]);
        check("202101010017", "202101010301", &[5], &[(5, 8), (1, 3), (60, 2), (1, 1)]);
        check("202101010058", "202101010301", &[], &[(1, 2), (60, 2), (1, 1)]);
        check("196912312358", "197001010102", &[], &[(1, 2), (60, 1), (1, 2)]);
    }

    proptest! {
        #[test]
        fn a_cover_has_neither_gap_nor_overlap(
            from in -10_000_i64..10_000,
            length in 0_i64..10_000,
            windows in prop::collection::vec(1_u32..=1440, 0..4),
        ) {
            let windows: Vec<Window> = windows.into_iter().map(Window).collect();
            let range = MinuteRange { from: Minute::from_epoch(from), to: Minute::from_epoch(from + length) };
            let mut at = range.from;
            for (window, last) in cover(range, &windows) {
                prop_assert_eq!(window.first(last), at);
                let standing = [Window::DAY, Window::HOUR, Window::MINUTE].contains(&window) && window.is_aligned_at(last);
                prop_assert!(standing || windows.contains(&window), "{} at {}", window, last);
                at = last.next();
            }
            prop_assert_eq!(at, range.to);
        }
    }

    #[test]
    fn only_a_window_of_every_definition_stands_at_every_minute() {
        let with = |windows: &[u32]| Definition {
            windows: windows.iter().map(|w| Window(*w)).collect(),
            ..Definition::default()
        };
        assert_eq!(windows_of_all(&[with(&[1, 5, 60]), with(&[5, 10, 60])]), [Window(5), Window(60)]);
        assert_eq!(windows_of_all(&[]), []);
    }
}
