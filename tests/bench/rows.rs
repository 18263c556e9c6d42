//! The rows: one function each, as `docs/targets.toml` numbers them.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::child::own;
use crate::hive::{self, ControlPlane, Figure};
use crate::report::{Line, Measured, Target};
use crate::sessions::Times;
use crate::yardstick;

/// Sidecars, slots and window of the throughput rows.
const SIDECARS: &str = "50";
const WINDOW: usize = 1_024;
/// Sidecars that join at once.
const CROWD: usize = 1_000;

/// What rows have in common.
pub struct Bench {
    pub targets: Vec<Target>,
    pub quick: bool,
    pub root: std::path::PathBuf,
}

fn measured(figure: &Figure, command: &str) -> Measured {
    Measured {
        value: figure.value,
        p50: figure.p50,
        p99: figure.p99,
        min: figure.min,
        max: figure.max,
        runs: figure.runs,
        yardstick: None,
        command: command.to_owned(),
    }
}

impl Bench {
    fn held(&self, row: u32, part: Option<&str>, measured: Measured) -> Line {
        Line::held(&self.targets, row, part, measured)
    }

    /// Measures a row.
    pub fn row(&self, row: u32) -> Vec<Line> {
        match row {
            1 => self.throughput(),
            2 => self.latency(),
            3 => self.registration(),
            4 => self.server_memory(),
            5 => self.idle_sidecar(),
            6 | 7 => self.core(row),
            8 => self.simulator(),
            _ => panic!("no row {row} here"),
        }
    }

    fn throughput(&self) -> Vec<Line> {
        let (runs, length) = if self.quick { (2, "1s") } else { (5, "3s") };
        let seconds = Duration::from_secs(if self.quick { 1 } else { 3 });
        let folder = tempfile::tempdir().expect("a folder");
        let bare = yardstick::pipeline(Some(folder.path()), 50, WINDOW, runs, seconds);
        let bare = Measured::median(&bare.rates, "tests/bench/yardstick/pipeline.rs over redb");
        let raw = yardstick::store::writes_per_second(folder.path(), 64, seconds);
        let runs = runs.to_string();
        let arguments = ["--sidecars", SIDECARS, "--phases", "steady", "--runs", &runs, "--duration", length];
        let command = format!("hive bench run {}", arguments.join(" "));
        let figures = hive::bench(&arguments);
        let held = measured(&figures["throughput"], &command).against(bare.value);
        let mut lines = vec![self.held(1, None, held)];
        lines.push(Line::free(1, "yardstick_pipeline", "tasks/s", true, bare));
        lines.push(Line::free(
            1,
            "yardstick_redb_64",
            "writes/s",
            true,
            Measured::median(&[raw], "raw redb, 64 writes a commit"),
        ));
        lines.extend(beside(1, &figures, &command));
        if !self.quick {
            let steady =
                ["--sidecars", SIDECARS, "--phases", "steady", "--warmup", "90s", "--runs", "1", "--duration", "60s"];
            let command = format!("hive bench run {}", steady.join(" "));
            let figures = hive::bench(&steady);
            let line = measured(&figures["throughput"], &command).against(lines[0].yardstick().unwrap_or(1.0));
            lines.push(Line::free(1, "embedded_throughput.steady_state", "tasks/s", true, line));
        }
        lines
    }

    fn latency(&self) -> Vec<Line> {
        let length = if self.quick { "4s" } else { "60s" };
        let folder = tempfile::tempdir().expect("a folder");
        let bare = yardstick::pipeline(Some(folder.path()), 50, WINDOW, 0, Duration::ZERO);
        let arguments = ["--sidecars", SIDECARS, "--phases", "delegation", "--rate", "50", "--delegation", length];
        let command = format!("hive bench run {}", arguments.join(" "));
        let figures = hive::bench(&arguments);
        let mut lines = Vec::new();
        for (part, bare) in [("p50", bare.start.0), ("p99", bare.start.1)] {
            let figure = &figures[&format!("submit_to_start_{part}")];
            lines.push(self.held(2, Some(part), measured(figure, &command).against(bare)));
        }
        let done = measured(&figures["submit_to_done_p99"], &command);
        lines.push(Line::free(2, "submit_to_done.p99", "ms", false, done));
        lines
    }

    fn registration(&self) -> Vec<Line> {
        let rounds = if self.quick { 1 } else { 5 };
        let (bare, _) = yardstick::connections(CROWD);
        let mut all = Times::default();
        for _ in 0..rounds {
            let server = ControlPlane::start();
            let mut crowd = own("sessions", [server.server.clone(), CROWD.to_string()]);
            let times: Times = serde_json::from_str(&crowd.line()).expect("times");
            all.dial.extend(times.dial);
            all.register.extend(times.register);
        }
        let command = "tests/bench/sessions.rs: 1,000 sessions of one process, hello to welcome, all at once";
        let bare = Measured::quantile(&bare, 0.99, "1,000 bare streams").value;
        let dial = Measured::quantile(&all.dial, 0.99, "1,000 connections of one process, all at once");
        vec![
            self.held(3, Some("p99"), Measured::quantile(&all.register, 0.99, command).against(bare)),
            Line::free(3, "dial.p99", "ms", false, dial),
        ]
    }

    fn server_memory(&self) -> Vec<Line> {
        let count = if self.quick { 500 } else { 2_000 };
        let (_, bare) = yardstick::connections(count);
        let rounds = if self.quick { 1 } else { 3 };
        let (mut base, mut each) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let server = ControlPlane::start();
            let before = server.process.rss_kib();
            base.push(before / 1024.0);
            let mut crowd = own("sessions", [server.server.clone(), count.to_string()]);
            crowd.line();
            // Two beats of everyone: what they cost is there by then.
            settle(|| server.process.rss_kib());
            each.push((server.process.rss_kib() - before) / count as f64);
        }
        let command =
            format!("tests/bench/sessions.rs: {count} idle sessions of one process, each on a connection of its own");
        vec![
            self.held(4, Some("base"), Measured::median(&base, "a fresh hive-control-plane")),
            self.held(4, Some("per_session"), Measured::median(&each, &command).against(bare)),
        ]
    }

    fn idle_sidecar(&self) -> Vec<Line> {
        let length = Duration::from_secs(if self.quick { 5 } else { 60 });
        let server = ControlPlane::start();
        let sidecar = server.sidecar();
        settle(|| sidecar.rss_kib());
        let (before, begun) = (sidecar.cpu_seconds(), Instant::now());
        std::thread::sleep(length);
        let percent = (sidecar.cpu_seconds() - before) / begun.elapsed().as_secs_f64() * 100.0;
        let command = "hive-sidecar with one command agent, nothing to do";
        let one = |value| Measured::median(&[value], command);
        let memory = sidecar.rss_kib() / 1024.0;
        drop((sidecar, server));
        vec![
            self.held(5, Some("memory"), one(memory)),
            self.held(
                5,
                Some("binary"),
                Measured::median(&[hive::stripped(hive::SIDECAR) / 1_048_576.0], "strip hive-sidecar"),
            ),
            self.held(5, Some("cpu"), one(percent)),
            self.cold_start(),
        ]
    }

    fn cold_start(&self) -> Line {
        let starts = crate::cold::starts(if self.quick { 3 } else { 11 });
        self.held(5, Some("cold_start"), Measured::median(&starts, "tests/bench/cold.rs: hive dev on an empty folder"))
    }

    fn core(&self, row: u32) -> Vec<Line> {
        let pending = if self.quick { 100_000 } else { 1_000_000 };
        let mut child = own("core", [pending.to_string()]);
        let found: crate::core::Found = serde_json::from_str(&child.line()).expect("figures");
        let command = format!("tests/bench/core.rs with {pending} tasks pending");
        if row == 7 {
            let bytes = found.bytes_per_task / 1024.0;
            return vec![self.held(7, None, Measured::median(&[bytes], &command))];
        }
        let of = |agents: usize| found.decisions.iter().find(|d| d.agents == agents).expect("measured");
        let largest = of(100_000);
        let cost = Measured {
            value: largest.p50_us,
            p50: Some(largest.p50_us),
            p99: Some(largest.p99_us),
            min: of(100).p50_us,
            max: largest.p50_us,
            runs: largest.times,
            yardstick: None,
            command: command.clone(),
        };
        let growth = Measured::median(&[largest.p50_us / of(100).p50_us], &command);
        let mut lines = vec![self.held(6, Some("cost"), cost), self.held(6, Some("growth"), growth)];
        for decision in &found.decisions {
            let labels = if decision.distinct { "_distinct_labels" } else { "" };
            let name = format!("decision_cost.{}_agents{labels}", decision.agents);
            let m = Measured { p99: Some(decision.p99_us), ..Measured::median(&[decision.p50_us], &command) };
            lines.push(Line::free(6, &name, "us", false, m));
        }
        lines
    }

    fn simulator(&self) -> Vec<Line> {
        let seeds = if self.quick { 500 } else { 5_000 };
        let cargo = option_env!("CARGO").unwrap_or("cargo");
        let mut rates = Vec::new();
        for _ in 0..if self.quick { 1 } else { 3 } {
            let mut command = Command::new(cargo);
            command.args([
                "test",
                "--quiet",
                "--profile",
                "sim",
                "--package",
                "hive",
                "--test",
                "sim",
                "--",
                "--nocapture",
            ]);
            command.current_dir(&self.root).env("HIVE_SEEDS", seeds.to_string()).env_remove("HIVE_SEED");
            let output = command.output().expect("the simulator runs");
            assert!(output.status.success(), "the simulator failed:\n{}", String::from_utf8_lossy(&output.stderr));
            let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
            rates.push(per_core_hour(&text).expect("the simulator says its seeds per core-hour"));
        }
        vec![self.held(8, None, Measured::median(&rates, &format!("make sim SEEDS={seeds}")))]
    }
}

/// The number before "seeds per core-hour".
fn per_core_hour(text: &str) -> Option<f64> {
    let (before, _) = text.split_once(" seeds per core-hour")?;
    before.rsplit(' ').next()?.replace(',', "").parse().ok()
}

/// Figures that say where a row's time and memory went.
fn beside(row: u32, figures: &std::collections::BTreeMap<String, Figure>, command: &str) -> Vec<Line> {
    let kept = |name: &str| !matches!(name, "throughput" | "control_plane_start");
    figures
        .values()
        .filter(|figure| kept(&figure.name))
        .map(|figure| Line::free(row, &figure.name, &figure.unit, figure.better == "higher", measured(figure, command)))
        .collect()
}

/// Waits until a measure has not moved by more than one part in a hundred for three seconds.
fn settle(mut look: impl FnMut() -> f64) {
    let until = Instant::now() + Duration::from_secs(30);
    let (mut last, mut since) = (look(), Instant::now());
    while Instant::now() < until && since.elapsed() < Duration::from_secs(3) {
        std::thread::sleep(Duration::from_millis(100));
        let now = look();
        if (now - last).abs() > last / 100.0 {
            (last, since) = (now, Instant::now());
        }
    }
}

/// Where the report is written.
pub fn report_path(root: &Path) -> std::path::PathBuf {
    root.join("target/bench/report.json")
}
