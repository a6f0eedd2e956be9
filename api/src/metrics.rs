//! The metrics of this process: the recorder that all crates write to, and what the process itself uses.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::ApiError;

/// Latencies from a tenth of a millisecond (a count) to minutes (a click on its way while a source is silent).
const SECONDS: [f64; 20] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    120.0, 600.0,
];

/// Sizes from 64 bytes to 256 MiB.
const BYTES: [f64; 12] = [
    64.0,
    256.0,
    1024.0,
    4096.0,
    16384.0,
    65536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
    268_435_456.0,
];

/// Numbers of things, from one to a million.
const NUMBERS: [f64; 13] =
    [1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10_000.0, 30_000.0, 100_000.0, 300_000.0, 1_000_000.0];

/// How often what histograms gathered is put together, so that memory stays flat where nobody reads the metrics.
const UPKEEP: Duration = Duration::from_secs(5);

/// Makes this process's recorder of metrics. Histograms have buckets: by name, for `…_seconds`, `…_bytes`, and everything else.
///
/// # Errors
/// [`ApiError::Metrics`] where the process has one already.
pub fn install_metrics() -> Result<PrometheusHandle, ApiError> {
    let built = PrometheusBuilder::new()
        .set_buckets(&NUMBERS)
        .and_then(|b| b.set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS))
        .and_then(|b| b.set_buckets_for_metric(Matcher::Suffix("_bytes".into()), &BYTES))
        .and_then(PrometheusBuilder::install_recorder);
    let handle = built.map_err(|error| ApiError::Metrics(error.to_string()))?;
    metrics::describe_counter!("clickmill_http_requests_total", "Requests answered, by route and status");
    metrics::describe_histogram!("clickmill_http_request_duration_seconds", "From a request's head to its answer's");
    metrics::describe_gauge!("clickmill_http_connections", "Connections that are open");
    metrics::describe_counter!("clickmill_http_connections_evicted_total", "Idle connections closed to make room");
    metrics::describe_counter!("clickmill_http_connections_refused_total", "Connections refused: all were busy");
    metrics::describe_gauge!("process_cpu_seconds_total", "CPU time of this process, of user and system together");
    metrics::describe_gauge!("process_resident_memory_bytes", "Memory of this process that is in RAM");
    metrics::describe_gauge!("process_open_fds", "File descriptors that are open");
    metrics::describe_gauge!("process_threads", "Threads of this process");
    metrics::describe_gauge!("process_start_time_seconds", "When this process started, in seconds since 1970");
    crate::routes::reconciled::describe();
    started();
    Ok(handle)
}

/// Does the recorder's upkeep for as long as it is polled.
pub(crate) async fn upkeep(handle: PrometheusHandle) {
    let mut ticks = tokio::time::interval(UPKEEP);
    loop {
        ticks.tick().await;
        handle.run_upkeep();
    }
}

/// All metrics in Prometheus' text format.
pub(crate) fn render(handle: &PrometheusHandle) -> String {
    // The exporter's counters are whole numbers: CPU time is added as a gauge under the name that every dashboard knows.
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    metrics::gauge!("process_cpu_seconds_total").set(cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9);
    metrics::gauge!("process_start_time_seconds").set(started());
    if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).and_then(first_number);
        if let Some(kib) = field("VmRSS:") {
            metrics::gauge!("process_resident_memory_bytes").set(kib * 1024.0);
        }
        if let Some(threads) = field("Threads:") {
            metrics::gauge!("process_threads").set(threads);
        }
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        metrics::gauge!("process_open_fds").set(open.count() as f64);
    }
    handle.render()
}

fn first_number(text: &str) -> Option<f64> {
    text.split_ascii_whitespace().next()?.parse().ok()
}

/// When this process started, in seconds since 1970: as good as the first call, which is made when the recorder is.
fn started() -> f64 {
    static STARTED: OnceLock<f64> = OnceLock::new();
    *STARTED.get_or_init(|| {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0.0, |since| since.as_secs_f64())
    })
}

/// Counts a request that was answered.
pub(crate) fn count_request(route: &str, status: u16, began: Instant) {
    let route = route.to_owned();
    metrics::counter!("clickmill_http_requests_total", "route" => route.clone(), "status" => status.to_string())
        .increment(1);
    metrics::histogram!("clickmill_http_request_duration_seconds", "route" => route)
        .record(began.elapsed().as_secs_f64());
}
