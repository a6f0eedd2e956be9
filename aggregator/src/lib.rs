//! The aggregator: partial counts become the counts of closed minutes and local rankings
