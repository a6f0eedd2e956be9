//! The query API and the dashboard
