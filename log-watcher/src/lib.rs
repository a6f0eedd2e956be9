//! The log watcher: follows log files into the queue, each line exactly once
