//! How a raw partition follows a newer definition, which may have it no longer as an input.

use clickmill_model::{Definition, DefinitionVersion, Minute, Offset, Watermark};

use super::PartitionMapper;

/// Whether the partition is an input for good.
#[derive(Debug, Clone)]
pub(super) enum Leaving {
    No,
    /// Once every record before `end` was read, it is no input any more, by this definition.
    At {
        definition: Box<Definition>,
        end: Offset,
    },
    /// It has announced that it is none. What follows in it is not read.
    Left,
}

impl PartitionMapper {
    pub(super) fn start_at(&mut self, first: Minute) {
        if first > Minute::MIN {
            self.watermark = self.watermark.raised_to(Watermark::at(first.start()));
        }
    }

    pub(super) fn put_in_force(&mut self, definition: &Definition, from: Minute, open_from: Minute) {
        self.time = definition.time;
        self.clock_bounds.change(self.to, definition.time.max_clock_skew);
        self.required = definition.sources.clone();
        self.definitions.put_in_force(definition, from, open_from);
        self.definition_told = false;
    }

    /// Puts a newer definition in force, from the first minute in which nothing was counted yet; one that has this partition no longer as an input, once every record
    /// before `end` was read, and the partition counts nothing any more. An older or known definition changes nothing.
    pub fn define(&mut self, definition: &Definition, end: Offset) {
        if self.definitions.newest() >= definition.version {
            return;
        }
        match self.leaving {
            // No topic comes back.
            Leaving::Left => {}
            Leaving::No if definition.has_input(&self.raw) => self.put_in_force_now(definition),
            Leaving::No | Leaving::At { .. } => {
                self.leaving = Leaving::At { definition: Box::new(definition.clone()), end };
            }
        }
    }

    fn put_in_force_now(&mut self, definition: &Definition) {
        let open_from = self.watermark.open_from();
        let untouched = self.open.highest.map_or(Minute::MIN, Minute::next);
        self.put_in_force(definition, untouched.max(open_from), open_from);
    }

    /// True where it is no input any more: what follows in it is not read.
    pub fn has_left(&self) -> bool {
        matches!(self.leaving, Leaving::Left)
    }

    /// Notes which definition's inputs are read, for the checkpoint.
    pub fn note_inputs(&mut self, since: DefinitionVersion) {
        self.inputs_since = since;
    }

    /// True where it was read as far as it had to be before it is no input any more.
    pub(super) fn is_read_to_its_end(&self) -> bool {
        matches!(&self.leaving, Leaving::At { end, .. } if self.to >= *end)
    }

    pub(super) fn leave_where_read_to_its_end(&mut self) {
        if !self.is_read_to_its_end() {
            return;
        }
        if let Leaving::At { definition, .. } = std::mem::replace(&mut self.leaving, Leaving::Left) {
            self.put_in_force_now(&definition);
            // Nobody shall wait for it, and a restart needs none of its lines.
            self.sources.forget_all();
        }
    }
}
