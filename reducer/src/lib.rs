//! The reducer: local rankings become the ranking of every window
