//! Every metric: name, labels, help and buckets, and the only functions that record them.
//!
//! Label values are closed sets. Serving them over HTTP is the ops port's work.

use std::fmt::Write as _;
use std::sync::OnceLock;
use std::time::Duration;

use ::metrics::{counter, gauge, histogram};
use hive_core::leader::Stats;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

/// How often gauges of the process are read and old samples are folded.
pub const UPKEEP_EVERY: Duration = Duration::from_secs(5);

#[derive(Clone, Copy)]
enum Shape {
    Counter,
    Gauge,
    Histogram(&'static [f64]),
}

struct Definition {
    name: &'static str,
    shape: Shape,
    labels: &'static [(&'static str, &'static str)],
    help: &'static str,
}

/// From a hundred microseconds to a minute: calls and commits.
const SECONDS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];
/// From a millisecond to a day: waiting for an agent.
const WAITS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1_800.0, 7_200.0, 86_400.0];
/// Commands in one commit.
const SIZES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1_024.0];

const METHOD: &[(&str, &str)] =
    &[("service", "a service served, or `other`"), ("method", "a method served, or `other`")];
const CALL: &[(&str, &str)] = &[METHOD[0], METHOD[1], ("code", "a gRPC code, such as `OK` or `NOT_FOUND`")];

const fn metric(
    name: &'static str,
    shape: Shape,
    labels: &'static [(&'static str, &'static str)],
    help: &'static str,
) -> Definition {
    Definition { name, shape, labels, help }
}

/// The table. `docs/metrics.md` is written from it.
const METRICS: &[Definition] = {
    use Shape::{Counter, Gauge, Histogram};
    &[
        metric(
            "hive_grpc_server_handled_total",
            Counter,
            CALL,
            "Calls answered, by code. A stream counts when it ends.",
        ),
        metric(
            "hive_grpc_server_handling_seconds",
            Histogram(SECONDS),
            METHOD,
            "Time from a call's headers to its answer; of a stream, to its end.",
        ),
        metric("hive_grpc_server_in_flight", Gauge, METHOD, "Calls begun and not ended, streams included."),
        metric("hive_grpc_server_panics_total", Counter, METHOD, "Calls that panicked and were answered INTERNAL."),
        metric("hive_connections", Gauge, &[("port", "`main`, `ops`")], "Connections open."),
        metric(
            "hive_connections_refused_total",
            Counter,
            &[
                ("port", "`main`, `ops`"),
                (
                    "reason",
                    "`limit`, `address_limit`, `silent`, `tls`, `plain`, `handshake`, `http1`, `garbage`, `closed`",
                ),
            ],
            "Connections closed before they carried a call.",
        ),
        metric(
            "hive_accept_errors_total",
            Counter,
            &[("port", "`main`, `ops`")],
            "Failures to accept a connection, such as no file descriptor left. Each is followed by a pause.",
        ),
        metric(
            "hive_tls_reload_errors_total",
            Counter,
            &[],
            "Times the certificate files could not be used; those in use stayed.",
        ),
        metric("hive_agents", Gauge, &[("phase", "an agent's phase in lower case")], "Agents known, by phase."),
        metric("hive_tasks", Gauge, &[("state", "a task's state in lower case")], "Tasks kept, by state."),
        metric(
            "hive_commands_total",
            Counter,
            &[("kind", "kind of the command"), ("outcome", "`done`, `rejected`, `rolled_back`")],
            "Commands decided.",
        ),
        metric("hive_store_commit_seconds", Histogram(SECONDS), &[], "Time of one commit, with its fsync."),
        metric("hive_store_batch_records", Histogram(SIZES), &[], "Records written by one commit."),
        metric("hive_store_errors_total", Counter, &[], "Commits that failed or whose outcome was unknown."),
        metric("hive_submit_to_start_seconds", Histogram(WAITS), &[], "Time from accepting a task to its first start."),
        metric("hive_sessions", Gauge, &[], "Sidecars connected."),
        metric("hive_agents_suspected_total", Counter, &[], "Times an agent became SUSPECT."),
        metric("hive_agents_lost_total", Counter, &[], "Times an agent became LOST."),
        metric("hive_tasks_assigned_total", Counter, &[], "Tasks given to agents."),
        metric(
            "hive_assignments_reoffered_total",
            Counter,
            &[],
            "Assignments offered again because their sidecar did not show them.",
        ),
        metric(
            "hive_results_refused_total",
            Counter,
            &[("reason", "`superseded`, `gone`, `committed` (a repeat), `not_host`")],
            "Results of an attempt that was not current.",
        ),
        metric("hive_watch_clients", Gauge, &[], "Watches open."),
        metric("hive_watch_dropped_total", Counter, &[], "Watches told to resync because they read too slowly."),
        metric("hive_build_info", Gauge, &[("version", "version of this build")], "Always 1."),
        metric("process_resident_memory_bytes", Gauge, &[], "Memory in use. Linux only."),
        metric("process_open_fds", Gauge, &[], "File descriptors open. Linux only."),
        metric("process_max_fds", Gauge, &[], "File descriptors allowed."),
    ]
};

static HANDLE: OnceLock<Metrics> = OnceLock::new();

/// The process's metrics, as text.
#[derive(Clone)]
pub struct Metrics(PrometheusHandle);

/// Why metrics could not start.
#[derive(Debug, thiserror::Error)]
#[error("metrics could not start")]
pub struct Error(#[from] BuildError);

/// Starts the recorder of this process, or returns the one that runs.
///
/// # Errors
/// Another recorder is installed.
pub fn install() -> Result<Metrics, Error> {
    if let Some(running) = HANDLE.get() {
        return Ok(running.clone());
    }
    let mut builder = PrometheusBuilder::new();
    for metric in METRICS {
        if let Shape::Histogram(buckets) = metric.shape {
            // Without buckets the exporter writes a summary, which cannot be aggregated.
            builder = builder.set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), buckets)?;
        }
    }
    let recorder = builder.build_recorder();
    let handle = recorder.handle();
    let metrics = HANDLE.get_or_init(|| Metrics(handle));
    // A second caller at the same time loses here and records into the first one's.
    if ::metrics::set_global_recorder(recorder).is_ok() {
        describe();
    }
    Ok(metrics.clone())
}

fn describe() {
    for Definition { name, shape, help, .. } in METRICS {
        match shape {
            Shape::Counter => ::metrics::describe_counter!(*name, *help),
            Shape::Gauge => ::metrics::describe_gauge!(*name, *help),
            Shape::Histogram(_) => ::metrics::describe_histogram!(*name, *help),
        }
    }
    gauge!("hive_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    // What has not happened yet is zero, not absent.
    for name in [
        "hive_agents_suspected_total",
        "hive_agents_lost_total",
        "hive_tasks_assigned_total",
        "hive_assignments_reoffered_total",
        "hive_watch_dropped_total",
        "hive_store_errors_total",
    ] {
        counter!(name).absolute(0);
    }
    gauge!("hive_sessions").set(0.0);
    gauge!("hive_watch_clients").set(0.0);
}

impl Metrics {
    /// Prometheus's text form.
    #[must_use]
    pub fn render(&self) -> String {
        self.0.render()
    }

    /// Reads the process's gauges and folds samples. Memory grows if nobody calls it.
    pub fn upkeep(&self) {
        self.0.run_upkeep();
        record_process();
    }
}

/// A count as a sample. Exact up to 2^53.
#[expect(clippy::cast_precision_loss, reason = "samples are floats; no count here reaches 2^53")]
fn sample(count: u64) -> f64 {
    count as f64
}

fn record_process() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    if let Some(max) = limit.current {
        gauge!("process_max_fds").set(sample(max));
    }
    #[cfg(target_os = "linux")]
    {
        if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
            gauge!("process_open_fds").set(sample(u64::try_from(open.count()).unwrap_or(0)));
        }
        let pages = std::fs::read_to_string("/proc/self/statm").ok();
        if let Some(resident) =
            pages.as_deref().and_then(|s| s.split_ascii_whitespace().nth(1)).and_then(|s| s.parse::<u64>().ok())
        {
            let page = u64::try_from(rustix::param::page_size()).unwrap_or(4_096);
            gauge!("process_resident_memory_bytes").set(sample(resident * page));
        }
    }
}

/// A call begins. Pair with [`call_ended`].
pub fn call_begun(service: &'static str, method: &'static str) {
    gauge!("hive_grpc_server_in_flight", "service" => service, "method" => method).increment(1.0);
}

/// A call ended with a code after a time.
pub fn call_ended(service: &'static str, method: &'static str, code: &'static str, took: Duration) {
    gauge!("hive_grpc_server_in_flight", "service" => service, "method" => method).decrement(1.0);
    counter!("hive_grpc_server_handled_total", "service" => service, "method" => method, "code" => code).increment(1);
    histogram!("hive_grpc_server_handling_seconds", "service" => service, "method" => method).record(took);
}

/// A call panicked.
pub fn call_panicked(service: &'static str, method: &'static str) {
    counter!("hive_grpc_server_panics_total", "service" => service, "method" => method).increment(1);
}

/// A connection was opened (+1) or closed (-1) on a port.
pub fn connections(port: &'static str, by: i8) {
    gauge!("hive_connections", "port" => port).increment(f64::from(by));
}

/// A connection was closed before it carried a call.
pub fn connection_refused(port: &'static str, reason: &'static str) {
    counter!("hive_connections_refused_total", "port" => port, "reason" => reason).increment(1);
}

/// Renewed certificates could not be used.
pub fn tls_reload_failed() {
    counter!("hive_tls_reload_errors_total").increment(1);
}

/// Accepting failed.
pub fn accept_failed(port: &'static str) {
    counter!("hive_accept_errors_total", "port" => port).increment(1);
}

/// Number of agents in a phase.
pub fn agents(phase: &'static str, count: u64) {
    gauge!("hive_agents", "phase" => phase).set(sample(count));
}

/// Number of tasks in a state.
pub fn tasks(state: &'static str, count: u64) {
    gauge!("hive_tasks", "state" => state).set(sample(count));
}

/// A command was decided; `outcome` is `done`, `rejected` or `rolled_back`.
pub fn command(kind: &'static str, outcome: &'static str) {
    counter!("hive_commands_total", "kind" => kind, "outcome" => outcome).increment(1);
}

/// A commit of some commands took a time.
pub fn store_committed(records: u64, took: Duration) {
    histogram!("hive_store_commit_seconds").record(took);
    histogram!("hive_store_batch_records").record(sample(records));
}

/// A commit failed, or nobody knows.
pub fn store_failed() {
    counter!("hive_store_errors_total").increment(1);
}

/// A task started for the first time after waiting.
pub fn started_after(wait: Duration) {
    histogram!("hive_submit_to_start_seconds").record(wait);
}

/// Number of sidecars connected.
pub fn sessions(count: u64) {
    gauge!("hive_sessions").set(sample(count));
}

/// What the leader has counted since it was last asked.
pub fn leader_counts(now: Stats, before: Stats) {
    counter!("hive_agents_suspected_total").increment(now.suspected - before.suspected);
    counter!("hive_agents_lost_total").increment(now.agents_lost - before.agents_lost);
    counter!("hive_tasks_assigned_total").increment(now.assigned - before.assigned);
    counter!("hive_assignments_reoffered_total").increment(now.reoffers - before.reoffers);
}

/// A result was refused; `reason` is `superseded`, `gone`, `committed` or `not_host`.
pub fn result_refused(reason: &'static str) {
    counter!("hive_results_refused_total", "reason" => reason).increment(1);
}

/// A watch was opened (+1) or closed (-1).
pub fn watches(by: i8) {
    gauge!("hive_watch_clients").increment(f64::from(by));
}

/// A watch read too slowly and was told to resync.
pub fn watch_dropped() {
    counter!("hive_watch_dropped_total").increment(1);
}

/// The table as a page for people.
#[must_use]
pub fn page() -> String {
    let mut page = String::from(
        "# Metrics\n\nServed by the control plane at `/metrics` on the ops port (7071), in Prometheus's text form.\n\
         Written from `control-plane/src/metrics.rs`; `UPDATE=1 cargo test -p hive-control-plane metrics` rewrites it.\n\n\
         | metric | type | labels | meaning |\n|---|---|---|---|\n",
    );
    for Definition { name, shape, labels, help } in METRICS {
        let shape = match shape {
            Shape::Counter => "counter".to_owned(),
            Shape::Gauge => "gauge".to_owned(),
            Shape::Histogram(buckets) => match buckets {
                [first, .., last] => format!("histogram, {} buckets from {first} to {last}", buckets.len()),
                _ => "histogram".to_owned(),
            },
        };
        let labels: Vec<_> = labels.iter().map(|(label, values)| format!("`{label}`: {values}")).collect();
        let _ = writeln!(page, "| `{name}` | {shape} | {} | {help} |", labels.join("; "));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_equals_the_table() {
        crate::testing::same_as_file("docs/metrics.md", &page());
    }

    #[test]
    fn every_recorded_metric_is_in_the_table_and_histograms_have_buckets() {
        let metrics = install().expect("recorder");
        call_begun("s", "m");
        call_ended("s", "m", "OK", Duration::from_millis(3));
        call_panicked("s", "m");
        connections("main", 1);
        connection_refused("main", "tls");
        accept_failed("main");
        tls_reload_failed();
        agents("ready", 1);
        tasks("pending", 1);
        command("submit", "done");
        store_committed(3, Duration::from_millis(1));
        store_failed();
        started_after(Duration::from_secs(1));
        sessions(1);
        leader_counts(Stats::default(), Stats::default());
        result_refused("gone");
        watches(1);
        watch_dropped();
        metrics.upkeep();
        let text = metrics.render();
        let described: Vec<_> = METRICS.iter().map(|metric| metric.name).collect();
        let written: Vec<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE "))
            .filter_map(|line| line.split_once(' '))
            .collect();
        for (name, shape) in &written {
            assert!(described.contains(name), "{name} is recorded and not in the table");
            assert_ne!(*shape, "summary", "{name} has no buckets");
        }
        for name in described {
            assert!(written.iter().any(|(found, _)| *found == name), "{name} is in the table and not recorded");
        }
        assert!(text.contains("hive_store_commit_seconds_bucket{le=\"0.001\"}"), "{text}");
    }
}
