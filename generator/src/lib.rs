//! Log lines with a known truth
