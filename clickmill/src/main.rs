//! The clickmill program.
fn main() {}
