//! The writers: results to the aggregate store, raw and late clicks to Parquet
