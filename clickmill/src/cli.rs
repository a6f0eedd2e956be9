//! The command line.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clickmill_model::Minute;

/// Counts ad clicks, exactly once, and ranks the most clicked ads.
#[derive(Debug, Parser)]
#[command(name = "clickmill", version, about, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run every stage in one process
    Up(Up),
    /// Follow log files into the queue
    LogWatcher(Common),
    /// Parse, clean and combine clicks
    Mapper(Common),
    /// Close minutes and rank the ads of each partition
    Aggregator(Common),
    /// Merge the partitions' rankings
    Reducer(Common),
    /// Write results to the store, and raw and late clicks to Parquet
    DbWriter(Common),
    /// Answer queries over HTTP
    Api(Common),
    /// Make the configuration's filters, windows and inputs the pipeline's definition
    Define(Define),
    /// Count a span of minutes again from raw Parquet, and let readers see that
    Recalc(Recalc),
    /// Merge the files of raw and late lines
    #[command(subcommand)]
    Raw(Raw),
    /// Count a day or a span again by other means than the pipeline's, and compare every figure: starts clickmill-reconcile
    #[command(disable_help_flag = true)]
    Reconcile {
        /// Its arguments: see clickmill reconcile --help
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Print as JSON how far raw and late lines are in files
    #[command(hide = true)]
    Written {
        #[command(flatten)]
        common: Common,
        /// Wait until what is counted by now is written
        #[arg(long)]
        wait: bool,
    },
    /// Make the queue's topics, and look whether those that are there keep what is promised
    #[command(subcommand)]
    Topics(TopicsCommand),
    /// Make the tables in Cassandra
    #[command(subcommand)]
    Schema(Schema),
    /// Write log files with a known truth
    Generate(Generate),
}

/// What every command takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Common {
    /// The configuration file [default: clickmill.toml if it is there]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where the embedded queue and store and the local files are [default: clickmill-data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// The log files: a file, a folder or a glob; may be given several times
    #[arg(long, value_name = "PATTERN")]
    pub(crate) logs: Vec<String>,
    /// Where to serve HTTP; port 0 picks a free one, which is printed [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<SocketAddr>,
}

#[derive(Debug, Args)]
pub(crate) struct Up {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Start afresh on generated live traffic, with a dashboard to open
    #[arg(long, conflicts_with_all = ["drain", "logs"])]
    pub(crate) demo: bool,
    /// Read every matching log file to its end, close every minute as though time had passed, write all results, and end
    #[arg(long)]
    pub(crate) drain: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Define {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Only say what would change
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(subcommand)]
    pub(crate) action: Option<DefineAction>,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Recalc {
    #[command(flatten)]
    pub(crate) common: Common,
    /// The first minute, yyyyMMddHHmm
    #[arg(long, value_name = "M", value_parser = minute, requires = "to")]
    pub(crate) from: Option<Minute>,
    /// The first minute that does not belong to it, yyyyMMddHHmm
    #[arg(long, value_name = "M", value_parser = minute, requires = "from")]
    pub(crate) to: Option<Minute>,
    /// Go on with a recalculation that did not come to its end
    #[arg(long, value_name = "REVISION", conflicts_with_all = ["from", "to", "dry_run", "wait"])]
    pub(crate) resume: Option<u32>,
    /// Only say what would change, by ad, minute and filter
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Say it as JSON: a summary, and with --dry-run one change a line before it
    #[arg(long)]
    pub(crate) json: bool,
    /// Read about so many lines a second at most
    #[arg(long, value_name = "CLICKS_PER_SECOND", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) rate: Option<u64>,
    /// Wait while minutes of the span are open, or its raw lines are not all in Parquet
    #[arg(long)]
    pub(crate) wait: bool,
    /// Go on without raw files that are damaged or missing, name them, and exit with status 4
    #[arg(long)]
    pub(crate) skip_damaged: bool,
    #[command(subcommand)]
    pub(crate) action: Option<RecalcAction>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RecalcAction {
    /// Print every recalculation: number, state, span, who began it and when, what it changed
    List {
        #[command(flatten)]
        common: Common,
        /// As JSON, one a line
        #[arg(long)]
        json: bool,
    },
    /// Let readers see what they saw without this recalculation, for good; drop it where it did not come to its end
    Undo {
        #[command(flatten)]
        common: Common,
        /// Its number
        #[arg(value_name = "REVISION")]
        revision: u32,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Raw {
    /// Make large files of small ones. The pipeline may run meanwhile; what was interrupted goes on the next time
    Compact {
        #[command(flatten)]
        common: Common,
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Take the lines of old log files in, for recalculations to count: each file once, whatever its name. What was interrupted goes on the next time
    Import(Import),
}

#[derive(Debug, Args)]
pub(crate) struct Import {
    #[command(flatten)]
    pub(crate) common: Common,
    /// The log files, as they are or compressed by gzip
    #[arg(value_name = "FILE", required_unless_present_any = ["drop", "list"])]
    pub(crate) files: Vec<PathBuf>,
    /// The input topic whose clicks they are told with [default: the only one]
    #[arg(long, value_name = "NAME")]
    pub(crate) topic: Option<String>,
    /// The files are complete: a last line without an end is a whole one
    #[arg(long)]
    pub(crate) complete: bool,
    /// No line of these files was ever read by a log watcher: needed where duplicates are not removed, since it would count twice
    #[arg(long)]
    pub(crate) unread: bool,
    /// Only say what would be imported
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print every import, as JSON, one a line
    #[arg(long, conflicts_with_all = ["files", "drop", "dry_run"])]
    pub(crate) list: bool,
    /// Give up an import that has not come to its end
    #[arg(long, value_name = "NUMBER", conflicts_with_all = ["files", "dry_run"])]
    pub(crate) drop: Option<u32>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TopicsCommand {
    /// Make the topics that the configuration needs and that are not there; refuse those that are there, but lack what the pipeline's promises need
    Create {
        #[command(flatten)]
        common: Common,
        /// Only say what would be made
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum DefineAction {
    /// Print every definition that the pipeline ever had, as JSON, one a line
    List,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Schema {
    /// Make the keyspace and its tables, or bring them up to date; print what was done
    Create {
        #[command(flatten)]
        common: Common,
        /// Only print what would be done
        #[arg(long)]
        dry_run: bool,
    },
}

fn minute(text: &str) -> Result<Minute, String> {
    Minute::parse(text).ok_or_else(|| format!("{text:?} is no minute yyyyMMddHHmm, such as 202101010000"))
}

#[derive(Debug, Args)]
pub(crate) struct Generate {
    /// The folder to write log files and truth.csv to
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// How many different clicks [default: 1000000; without end where --rate is given and --start is not]
    #[arg(long, value_name = "N")]
    pub(crate) clicks: Option<u64>,
    /// How many ads, the first the most clicked (Zipf)
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub(crate) ads: u64,
    /// How many minutes the clicks are spread over
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub(crate) minutes: u32,
    /// The first minute, yyyyMMddHHmm [default: 202101010000; now where --rate is given]
    #[arg(long, value_name = "M", value_parser = minute)]
    pub(crate) start: Option<Minute>,
    /// What everything random follows from
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// How many files are written side by side
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) files: u32,
    /// How many lines tell a click again, as a share of the clicks
    #[arg(long, value_name = "RATE", default_value_t = 0.01)]
    pub(crate) duplicates: f64,
    /// How far lines may be out of order, in seconds
    #[arg(long, value_name = "SECS", default_value_t = 5)]
    pub(crate) disorder: u64,
    /// Lines a second, with files rotated by rename meanwhile [default: as fast as it goes]
    #[arg(long, value_name = "PER_SECOND")]
    pub(crate) rate: Option<u64>,
}
