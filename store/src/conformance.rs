//! The suite that each implementation of the store passes.
