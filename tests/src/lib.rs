//! What no single crate can show: end to end, faults, killed processes
