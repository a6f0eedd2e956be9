//! The SQL engine, with a bound on its memory and a folder for what does not fit.

use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::ScopedJoinHandle;

use arrow_array::RecordBatch;
use async_trait::async_trait;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::catalog::{MemTable, Session, TableProvider};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::{DataFusionError, Result as EngineResult};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::scalar::ScalarValue;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::error::{ReconcileError, Result};
use crate::files::{FileStore, RawFile};

/// How much memory the engine's operators may take before they go to disk.
const MEMORY_BYTES: usize = 1 << 30;

/// Where the raw files are, for the engine.
const RAW_STORE: &str = "clickmill://files";

/// Where its own files are.
const LOCAL: &str = "file:///";

/// The engine. Its methods block: don't call them from an async task.
pub(crate) struct Engine {
    pub(crate) context: SessionContext,
    runtime: Runtime,
    scratch: TempDir,
    threads: usize,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Engine({})", self.scratch.path().display())
    }
}

impl Engine {
    /// An engine that reads these files and keeps what does not fit into memory in a folder of its own below `scratch`.
    pub(crate) fn new(files: &FileStore, scratch: &Path) -> Result<Self> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .enable_all()
            .build()
            .map_err(|why| unavailable("starting threads".to_owned(), &why))?;
        let scratch = folder_in(scratch)?;
        let env = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(FairSpillPool::new(MEMORY_BYTES)))
            .with_temp_file_path(scratch.path())
            .build_arc()?;
        let mut config = SessionConfig::new().with_target_partitions(threads).with_information_schema(false);
        let options = &mut config.options_mut().execution;
        options.parquet.schema_force_view_types = false;
        // Most groups are of one row: grouping each thread's rows first is soon seen to be of no use.
        options.skip_partial_aggregation_probe_rows_threshold = 10_000;
        let context = SessionContext::new_with_config_rt(config, env);
        let url = ObjectStoreUrl::parse(RAW_STORE)?;
        context.register_object_store(url.as_ref(), Arc::clone(&files.store));
        Ok(Self { context, runtime, scratch, threads })
    }

    pub(crate) fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// The folder for what does not fit into memory.
    pub(crate) fn scratch(&self) -> PathBuf {
        self.scratch.path().to_owned()
    }

    /// A folder in it that goes when it is dropped.
    pub(crate) fn scratch_folder(&self) -> Result<TempDir> {
        folder_in(self.scratch.path())
    }

    /// All rows of a query that has few.
    pub(crate) fn rows(&self, sql: &str) -> Result<Vec<RecordBatch>> {
        self.block_on(async { Ok(self.context.sql(sql).await?.collect().await?) })
    }

    /// Keeps the rows of a query as a table, and returns how many they are.
    pub(crate) fn keep(&self, name: &str, sql: &str) -> Result<u64> {
        let (schema, batches) = self.block_on(async {
            let plan = self.context.sql(sql).await?.create_physical_plan().await?;
            let schema = plan.schema();
            Ok::<_, DataFusionError>((schema, collect(plan, self.context.task_ctx()).await?))
        })?;
        let rows = batches.iter().map(RecordBatch::num_rows).sum::<usize>() as u64;
        self.set_rows(name, &schema, batches)?;
        Ok(rows)
    }

    /// How many threads it has.
    pub(crate) fn threads(&self) -> usize {
        self.threads
    }

    /// The rows of a query, one batch after the other.
    pub(crate) fn each_batch(&self, sql: &str, mut visit: impl FnMut(&RecordBatch) -> Result<()>) -> Result<()> {
        use futures_util::TryStreamExt;
        let mut stream = self.block_on(async { self.context.sql(sql).await?.execute_stream().await })?;
        while let Some(batch) = self.block_on(stream.try_next())? {
            visit(&batch)?;
        }
        Ok(())
    }

    /// The rows of a query in as many streams as there are threads, each of which `take` turns into something of its own.
    pub(crate) fn side_by_side<T, F>(&self, sql: &str, take: impl Fn(SendableRecordBatchStream) -> F) -> Result<Vec<T>>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        self.block_on(async {
            let streams = self.context.sql(sql).await?.execute_stream_partitioned().await?;
            let tasks: Vec<_> = streams.into_iter().map(|stream| tokio::spawn(take(stream))).collect();
            let mut all = Vec::new();
            for task in tasks {
                let end = task.await.map_err(|error| DataFusionError::Execution(error.to_string()))?;
                all.push(end?);
            }
            Ok(all)
        })
    }

    /// Gives a table this name, in place of the one that had it.
    pub(crate) fn set_table(&self, name: &str, table: Arc<dyn TableProvider>) -> Result<()> {
        self.context.deregister_table(name)?;
        self.context.register_table(name, table)?;
        Ok(())
    }

    /// Gives rows in memory this name.
    pub(crate) fn set_rows(&self, name: &str, schema: &SchemaRef, batches: Vec<RecordBatch>) -> Result<()> {
        let mut partitions = vec![Vec::new(); self.threads];
        for (i, batch) in batches.into_iter().enumerate() {
            if let Some(partition) = partitions.get_mut(i % self.threads) {
                partition.push(batch);
            }
        }
        self.set_table(name, Arc::new(MemTable::try_new(Arc::clone(schema), partitions)?))
    }

    /// Gives raw files this name: the columns of each, and from and until which offset its lines are to be taken (`take_from`, `take_until`).
    pub(crate) fn set_raw(&self, name: &str, files: &[&RawFile]) -> Result<()> {
        let mut groups = vec![Vec::new(); self.threads.min(files.len()).max(1)];
        let number = groups.len();
        for (i, file) in files.iter().enumerate() {
            let offset = |offset: u64| ScalarValue::Int64(Some(i64::try_from(offset).unwrap_or(i64::MAX)));
            let part = PartitionedFile::new_from_meta(file.meta.clone())
                .with_partition_values(vec![offset(file.take.start), offset(file.take.end)]);
            if let Some(group) = groups.get_mut(i % number) {
                group.push(part);
            }
        }
        let groups = groups.into_iter().map(FileGroup::new).collect();
        self.set_table(name, Arc::new(FileTable { store: RAW_STORE, schema: raw_schema(), groups }))
    }
}

fn unavailable(what: String, why: &std::io::Error) -> ReconcileError {
    ReconcileError::Unavailable { what, why: why.to_string() }
}

/// A new folder in another one, which goes when it is dropped.
fn folder_in(folder: &Path) -> Result<TempDir> {
    let made = tempfile::Builder::new().prefix("clickmill-reconcile-").tempdir_in(folder);
    made.map_err(|why| unavailable(format!("making a folder in {}", folder.display()), &why))
}

/// What a thread returned.
pub(crate) fn join<T>(thread: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Parquet files of this program's own, in its folder.
impl Engine {
    /// Gives such files a name. Those that are not there have no rows.
    pub(crate) fn set_scratch(&self, name: &str, schema: &SchemaRef, paths: &[PathBuf]) -> Result<()> {
        let mut group = Vec::new();
        for path in paths.iter().filter(|path| path.exists()) {
            group.push(PartitionedFile::from_path(path.display().to_string())?);
        }
        if group.is_empty() {
            return self.set_rows(name, schema, Vec::new());
        }
        let schema = TableSchema::from(Arc::clone(schema));
        self.set_table(name, Arc::new(FileTable { store: LOCAL, schema, groups: vec![FileGroup::new(group)] }))
    }
}

/// The columns of raw and late files that are read, and those that a file gets here.
fn raw_schema() -> TableSchema {
    let time = || DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let field = |name: &str, kind: DataType| Field::new(name, kind, true);
    let columns = Schema::new(vec![
        field("topic", DataType::Utf8),
        field("partition", DataType::Int32),
        field("offset", DataType::Int64),
        field("line_number", DataType::Int32),
        field("arrival", time()),
        field("file", DataType::Utf8),
        field("byte_offset", DataType::Int64),
        field("ad_id", DataType::Utf8),
        field("click_timestamp", time()),
        field("user_id", DataType::Utf8),
        field("ip", DataType::Utf8),
        field("country", DataType::Utf8),
        field("reason", DataType::Utf8),
        field("line", DataType::Binary),
    ]);
    let of_file = ["take_from", "take_until"].map(|name| Arc::new(Field::new(name, DataType::Int64, false)));
    TableSchema::builder(Arc::new(columns)).with_table_partition_cols(of_file.to_vec()).build()
}

/// Parquet files as a table. The engine looks at the statistics of row groups and pages itself.
#[derive(Debug)]
struct FileTable {
    store: &'static str,
    schema: TableSchema,
    groups: Vec<FileGroup>,
}

#[async_trait]
impl TableProvider for FileTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(self.schema.table_schema())
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> EngineResult<Arc<dyn ExecutionPlan>> {
        let source = Arc::new(ParquetSource::new(self.schema.clone()));
        let config = FileScanConfigBuilder::new(ObjectStoreUrl::parse(self.store)?, source)
            .with_file_groups(self.groups.clone())
            .with_projection_indices(projection.cloned())?
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }
}
