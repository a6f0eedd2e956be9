//! The most clicked ads of any range.

mod cover;
mod plan;
mod threshold;

pub(crate) use plan::{Known, top};
