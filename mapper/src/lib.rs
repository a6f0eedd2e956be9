//! The mapper: clicks become partial counts
