//! What a recalculation goes on without, where that was asked.

use std::fmt;

use clickmill_db_writer::raw::{FileSpan, FilesError};
use clickmill_model::{Minute, Offset, RawPartition, Timestamp};

use crate::RecalcError;

/// Raw lines that were left out: a file that cannot be read, or one that is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Which file. `None`: one that is gone, whose name nobody knows.
    pub path: Option<String>,
    /// What is wrong.
    pub why: String,
    /// Whose lines it may hold, where that is known.
    pub raw: Option<RawPartition>,
    /// The first offset that it may hold. `None`: not known.
    pub first_offset: Option<Offset>,
    /// The last one.
    pub last_offset: Option<Offset>,
    /// When its first record arrived.
    pub first_arrival: Option<Timestamp>,
    /// When its last one did.
    pub last_arrival: Option<Timestamp>,
    /// The first and the last minute of its clicks. `None`: not known.
    pub minutes: Option<(Minute, Minute)>,
    /// Clicks of minutes before this one were counted before it was found out. `None`: none was.
    pub counted_until: Option<Minute>,
}

impl LeftOut {
    /// A file that cannot be read, with what its footer says, or else its name.
    pub(crate) fn file(path: &str, error: &FilesError, span: Option<&FileSpan>) -> Self {
        let why = match error {
            FilesError::Damaged { why, .. } => why.clone(),
            FilesError::Gone { .. } => "it was deleted after it was listed".to_owned(),
            FilesError::Unavailable { .. } | FilesError::Refused { .. } => error.to_string(),
        };
        let path_shown = match error {
            FilesError::Damaged { path, .. }
            | FilesError::Gone { path }
            | FilesError::Unavailable { path, .. }
            | FilesError::Refused { path, .. } => path.clone(),
        };
        let named = FileSpan::first_line_of(path);
        Self {
            path: Some(path_shown),
            why,
            raw: span.map(|span| span.from.clone()).or_else(|| named.as_ref().map(|(raw, ..)| raw.clone())),
            first_offset: span.map(|span| span.first_offset).or(named.as_ref().map(|(_, first, _)| *first)),
            last_offset: span.map(|span| span.last_offset),
            first_arrival: span.map(|span| span.first_arrival).or(named.map(|(.., arrival)| arrival)),
            last_arrival: span.map(|span| span.last_arrival),
            minutes: span.and_then(|span| span.minutes),
            counted_until: None,
        }
    }

    /// Notes a file that is gone: the one that was found unreadable, where it may be that.
    pub(crate) fn missing(all: &mut Vec<Self>, error: RecalcError) -> Result<(), RecalcError> {
        let RecalcError::Missing { raw, last_offset, last_arrival, have, told_by } = &error else { return Err(error) };
        let is_it = |left: &&mut Self| {
            left.raw.as_ref() == Some(raw)
                && left.first_offset.is_some_and(|first| {
                    first.import() == last_offset.import()
                        && first <= *last_offset
                        && have.is_none_or(|have| first > have)
                })
        };
        let import = last_offset.import();
        let of_all = import.and_then(|number| Offset::imported(number, 0)).unwrap_or(Offset(0));
        let first = have.map_or(of_all, Offset::next);
        if let Some(found) = all.iter_mut().find(is_it) {
            // Of several that stand side by side, what is known is where the first begins and the last ends.
            found.last_offset = Some(found.last_offset.map_or(*last_offset, |known| known.max(*last_offset)));
            found.last_arrival = Some(found.last_arrival.map_or(*last_arrival, |known| known.max(*last_arrival)));
            return Ok(());
        }
        all.push(Self {
            path: None,
            why: format!("a file is gone, as {told_by} says"),
            raw: Some(raw.clone()),
            first_offset: Some(first),
            last_offset: Some(*last_offset),
            first_arrival: None,
            last_arrival: Some(*last_arrival),
            minutes: None,
            counted_until: None,
        });
        Ok(())
    }
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.path, &self.raw) {
            (Some(path), _) => write!(f, "{path}: {}", self.why)?,
            (None, Some(raw)) => write!(f, "{raw}: {}", self.why)?,
            (None, None) => write!(f, "{}", self.why)?,
        }
        let known = |text: Option<String>| text.unwrap_or_else(|| "?".to_owned());
        f.write_str("; it may hold ")?;
        match &self.raw {
            None => f.write_str("lines of any partition")?,
            Some(raw) => write!(
                f,
                "{raw} offsets {} to {}",
                known(self.first_offset.map(|offset| offset.to_string())),
                known(self.last_offset.map(|offset| offset.to_string()))
            )?,
        }
        if self.first_arrival.is_some() || self.last_arrival.is_some() {
            write!(
                f,
                ", arrived {} to {}",
                known(self.first_arrival.map(|at| at.to_string())),
                known(self.last_arrival.map(|at| at.to_string()))
            )?;
        }
        match self.minutes {
            Some((first, last)) => write!(f, ", clicks of the minutes {first} to {last}")?,
            None => f.write_str(", clicks of minutes that are not known")?,
        }
        if let Some(until) = self.counted_until {
            write!(f, "; its clicks before {until} were counted")?;
        }
        Ok(())
    }
}
