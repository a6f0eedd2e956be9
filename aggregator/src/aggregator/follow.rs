//! Which raw partitions a minute waits for: how far time has come, and how input topics come and go.

use clickmill_model::inputs::{self, InputChange};
use clickmill_model::{Minute, RawPartition, Watermark};

use super::{Aggregator, Raw};

impl Aggregator {
    /// How far time has come: the slowest raw partition that takes part, [`Watermark::NONE`] while one was not heard. `None` where each has been read to its end for good.
    fn reached(&self) -> Option<Watermark> {
        let definitions = self.published.definitions();
        let of = |(raw, state): (RawPartition, Option<&Raw>)| match state {
            None => Some(Watermark::NONE),
            Some(state) => inputs::goes_on(definitions, &raw, &state.definitions).then_some(state.watermark),
        };
        inputs::taking_part(definitions, self.inputs_since, &self.raws).into_iter().filter_map(of).min()
    }

    /// The first minute that may not be closed yet. Follows each change of inputs that all raw partitions have announced and whose minute has come.
    pub(super) fn target(&mut self) -> Minute {
        loop {
            let reached = self.reached().map(Watermark::open_from);
            let definitions = self.published.definitions();
            match inputs::next_change(definitions, self.inputs_since, &self.raws) {
                Some(InputChange { definition, from: Some(from), agreed: true }) if self.closed_until >= from => {
                    self.inputs_since = definition.version;
                }
                // Who announced the change has closed every minute before it; from there on the new inputs have a say, as soon as it is agreed on where that is.
                Some(InputChange { from: Some(from), .. }) => return reached.map_or(from, |reached| reached.min(from)),
                Some(InputChange { from: None, .. }) | None => return reached.unwrap_or(Minute::MIN),
            }
        }
    }

    /// Forgets the raw partitions that are no input any more, once every minute is closed that they counted in.
    pub(super) fn forget_the_retired(&mut self) {
        let (definitions, since, closed_until) = (self.published.definitions(), self.inputs_since, self.closed_until);
        let is_named = |raw: &RawPartition| definitions.iter().any(|d| d.version >= since && d.has_input(raw));
        self.raws.retain(|raw, state| {
            let has_open = state.definitions.last().is_none_or(|last| last.from > closed_until);
            has_open || inputs::goes_on(definitions, raw, &state.definitions) || is_named(raw)
        });
    }
}
