//! The minutes of a raw partition that hold a click and are not closed yet.

use std::collections::BTreeMap;
use std::sync::Arc;

use clickmill_model::{Columns, FilterSet, Minute, Offset, Watermark};

use crate::combine::{Combiner, Counted};
use crate::definitions::Definitions;
use crate::identities::Identities;

/// How many minutes may be open where room is made in advance. Only live traffic is worth it: history may have thousands of minutes open, each with few clicks.
const MOST_WITH_ROOM: usize = 4;

/// A minute that is open.
#[derive(Debug)]
pub(crate) struct OpenMinute {
    pub(crate) minute: Minute,
    pub(crate) identities: Identities,
    first: Offset,
    pub(crate) filters: Arc<FilterSet>,
    pub(crate) dedup: bool,
    /// The clicks that wait for [`OpenMinutes::combine`].
    pub(crate) counted: Vec<Counted>,
}

/// The open minutes, each at a place that holds until the next [`OpenMinutes::close`].
#[derive(Debug, Default)]
pub(crate) struct OpenMinutes {
    slots: BTreeMap<Minute, u32>,
    pub(crate) all: Vec<OpenMinute>,
    /// The highest minute that was ever open.
    pub(crate) highest: Option<Minute>,
    expected_identities: usize,
    /// The memory of a minute that was closed, for the next one: to clear it is cheaper than to get new memory from the system.
    spare: Option<Identities>,
}

impl OpenMinutes {
    /// The place of a minute, which a click of the record at `offset` opens if it is not.
    #[inline]
    pub(crate) fn slot(&mut self, minute: Minute, offset: Offset, definitions: &Definitions) -> u32 {
        // Clicks come in runs of one minute, which is most often the one opened last.
        if let Some(last) = self.all.last()
            && last.minute == minute
        {
            return self.all.len() as u32 - 1;
        }
        match self.slots.get(&minute) {
            Some(slot) => *slot,
            None => self.open(minute, offset, definitions),
        }
    }

    fn open(&mut self, minute: Minute, first: Offset, definitions: &Definitions) -> u32 {
        let followed = definitions.of(minute);
        let (filters, dedup) = (Arc::clone(&followed.filters), followed.dedup);
        let expected = if self.all.len() < MOST_WITH_ROOM {
            // The next minutes will hold about as many as those before: their tables need not grow on the way.
            self.all.iter().map(|open| open.identities.len()).fold(self.expected_identities, usize::max)
        } else {
            0
        };
        let identities = match self.spare.take_if(|spare| expected > 0 && spare.has_just_room_for(expected)) {
            Some(spare) => spare.cleared(),
            None => Identities::with_room_for(expected),
        };
        self.all.push(OpenMinute { minute, identities, first, filters, dedup, counted: Vec::new() });
        let slot = self.all.len() as u32 - 1;
        self.slots.insert(minute, slot);
        self.highest = self.highest.max(Some(minute));
        slot
    }

    /// How many clicks wait for [`OpenMinutes::combine`].
    pub(crate) fn counted(&self) -> usize {
        self.all.iter().map(|open| open.counted.len()).sum()
    }

    /// The counts of the clicks that were counted since the last time: for each aggregator partition the columns of each minute that has any.
    pub(crate) fn combine(&mut self, combiner: &mut Combiner) -> Vec<Vec<Columns>> {
        let mut columns = vec![Vec::new(); combiner.partitions() as usize];
        let keeps_room = self.all.len() <= MOST_WITH_ROOM;
        for open in &mut self.all {
            combiner.combine(open.minute, open.filters.ids(), &open.counted, &mut columns);
            open.counted.clear();
            if !keeps_room {
                open.counted = Vec::new();
            }
        }
        columns
    }

    /// The record that holds the oldest line of an open minute.
    pub(crate) fn oldest_line(&self) -> Option<Offset> {
        self.all.iter().map(|open| open.first).min()
    }

    /// Forgets all minutes: nothing will be counted any more.
    pub(crate) fn clear(&mut self) {
        self.all.clear();
        self.slots.clear();
    }

    /// Forgets the minutes that the watermark has closed.
    pub(crate) fn close(&mut self, watermark: Watermark) {
        let closing = self.all.iter().filter(|open| watermark.closes(open.minute));
        if let Some(largest) = closing.map(|open| open.identities.len()).max() {
            self.expected_identities = largest;
            let closed = self.all.extract_if(.., |open| watermark.closes(open.minute));
            self.spare = closed.map(|open| open.identities).chain(self.spare.take()).max_by_key(Identities::room);
            self.slots = self.all.iter().enumerate().map(|(i, open)| (open.minute, i as u32)).collect();
        }
    }
}
