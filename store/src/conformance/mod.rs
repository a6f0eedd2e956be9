//! The suite that each implementation of the store passes.
//!
//! `conformance_suite!(with_store)` makes a test of each case, where `with_store` is a function that runs a case on an empty store:
//!
//! ```
//! use clickmill_store::MemoryStore;
//! use clickmill_store::conformance::Store;
//!
//! fn with_memory(case: fn(&Store)) {
//!     case(&Store::new(MemoryStore::new()));
//! }
//!
//! clickmill_store::conformance_suite!(with_memory);
//! # fn main() {}
//! ```
//!
//! Expected values are written down, or come from [`told::Told`], which adds up one click after the other.

mod counts;
mod rankings;
mod revised;
pub mod told;
mod verdict;
mod writes;

pub use counts::*;
pub use rankings::*;
pub use revised::*;
pub use verdict::*;
pub use writes::*;

use std::ops::Deref;
use std::sync::Arc;

use clickmill_model::{FilterId, Minute};

use crate::{AggregateStore, MinuteRange, TopAds, View};

/// The store under test, and what it is able to do.
pub struct Store {
    store: Arc<dyn AggregateStore>,
    /// True where it merges the counts of every range of the suite into the most clicked ads. One in which the ads of a minute stand apart from each other cannot, as the trait allows: it must say so, and never
    /// answer wrongly. One that can is held to it.
    pub merges_counts: bool,
}

impl Store {
    /// A store that merges counts.
    pub fn new(store: impl AggregateStore + 'static) -> Self {
        Self { store: Arc::new(store), merges_counts: true }
    }

    /// For another thread.
    fn share(&self) -> Arc<dyn AggregateStore> {
        Arc::clone(&self.store)
    }

    /// Demands the most clicked ads of the store, where it merges counts.
    fn check_top(&self, filter: FilterId, range: MinuteRange, n: usize, expected: &[(&str, u64)]) {
        let found = self.top(&View::STREAM, filter, range, n).expect("the store merges counts");
        if found.is_some() || self.merges_counts {
            let expected: TopAds = expected.iter().map(|(ad, count)| ((*ad).to_owned(), *count)).collect();
            assert_eq!(found, Some(expected), "top {n}, filter {filter}, {} to {}", range.from, range.to);
        }
    }
}

impl Deref for Store {
    type Target = dyn AggregateStore;

    fn deref(&self) -> &Self::Target {
        &*self.store
    }
}

/// Makes a test of each case of the suite. `conformance_suite!(with_store, figures_go_by_themselves)` is for a store that takes figures away at a time that was fixed when they were written, not when
/// [`AggregateStore::expire`] says so: it has tests of its own for that.
#[macro_export]
macro_rules! conformance_suite {
    ($with:expr) => {
        $crate::conformance_suite! { $with, figures_go_by_themselves }
        $crate::conformance_suite! { @each $with;
            old_figures_go_by_their_arrival
            old_events_that_arrived_lately_stay
            what_is_deleted_and_written_again_is_there_again
            a_span_goes_as_a_whole
            figures_of_an_undone_revision_go_by_their_arrival
        }
    };
    ($with:expr, figures_go_by_themselves) => {
        $crate::conformance_suite! { @each $with;
            an_empty_store_answers_with_nothing
            the_same_write_again_changes_nothing
            a_zombie_that_writes_old_rows_and_old_progress_last_changes_nothing
            progress_is_kept_for_each_partition
            progress_without_figures_is_kept
            a_reader_never_sees_progress_without_the_figures
            a_write_that_is_refused_leaves_nothing_behind
            an_ad_belongs_to_one_partition
            filters_are_published_from_the_latest_start_to_the_earliest_end
            an_older_write_does_not_bring_back_its_filters
            a_definition_is_kept_as_it_was_first_told
            another_revision_changes_no_figure
            the_last_verdict_is_told
            counts_are_right_over_every_edge
            each_count_is_handed_out_once
            the_running_hour_and_day_count
            a_range_without_a_minute_has_no_clicks
            an_ad_never_seen_has_no_clicks
            an_unknown_filter_has_no_clicks
            odd_ad_ids_are_kept_as_they_are
            big_counts_are_exact
            the_parts_of_a_span_are_put_together
            a_filter_counts_in_the_hours_in_which_it_began_and_ended
            many_ads_in_one_minute_are_told_apart
            a_series_has_a_figure_for_each_span_that_the_range_touches
            the_most_clicked_ads_of_any_range_are_right
            ties_break_by_ad_id
            fewer_ads_than_asked_for_are_all_that_there_are
            rankings_are_kept_as_they_were_told
            rankings_may_come_before_counts_and_after
            a_ranking_names_more_ads_than_counts_do
            a_recalculation_keeps_others_out_while_it_is_pending
            a_recalculation_changes_its_state_as_it_may_and_no_other_way
            of_many_that_begin_at_once_no_two_overlap
            progress_is_kept_for_each_revision
            a_reader_sees_the_highest_revision_of_each_minute
        }
    };
    (@each $with:expr; $($name:ident)*) => {
        $(#[test]
        fn $name() {
            $with($crate::conformance::$name);
        })*
    };
}

/// The minute `yyyyMMddHHmm`.
fn minute(text: &str) -> Minute {
    Minute::parse(text).expect("a minute of the suite is written yyyyMMddHHmm")
}

/// The minutes `[from, to)`.
fn range(from: &str, to: &str) -> MinuteRange {
    MinuteRange { from: minute(from), to: minute(to) }
}
