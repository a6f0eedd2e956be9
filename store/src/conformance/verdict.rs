//! The last reconciliation.

use clickmill_model::{Minute, Timestamp};

use super::Store;
use crate::Verdict;

/// The last one is told, whatever it came to; before the first there is none.
pub fn the_last_verdict_is_told(store: &Store) {
    assert_eq!(store.last_verdict().expect("read"), None);
    let first = Verdict {
        agrees: false,
        exceeds: true,
        from: Minute::from_epoch(-5),
        to: Minute::from_epoch(60),
        made_at: Timestamp::from_micros(1_609_459_200_000_001),
        differing: 3,
        raw_clicks: u64::MAX >> 1,
        lacks: 2,
        surplus: 1,
        report: Some("/var/lib/clickmill/reports/\"1\".html".into()),
    };
    let second = Verdict { agrees: true, exceeds: false, differing: 0, report: None, ..first.clone() };
    for verdict in [first, second] {
        store.write_verdict(&verdict).expect("written");
        store.write_verdict(&verdict).expect("written");
        assert_eq!(store.last_verdict().expect("read"), Some(verdict));
    }
}
