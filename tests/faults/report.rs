//! What came of it: the table, `report.json`, and the table's place in docs/reliability.md.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::checker::{Finding, Kind as Promise};
use crate::fault::{ALL, Fault};
use crate::harness::{MIB, unix_seconds};
use crate::round::Round;

/// Everything found, fleet by fleet.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) rounds: Vec<Round>,
    /// Found by the checker or by the lab outside any round.
    pub(crate) unplaced: Vec<Finding>,
    pub(crate) skipped: Vec<String>,
    pub(crate) accepted: usize,
    pub(crate) attempts: usize,
}

/// One line of the table.
#[derive(Debug, Default)]
struct Row {
    runs: usize,
    found: BTreeMap<Promise, usize>,
    first: Vec<f64>,
    last: Vec<f64>,
    cpu: f64,
    peak: u64,
}

impl Report {
    /// Puts what a fleet's checker found to the rounds in whose time it lies.
    pub(crate) fn place(&mut self, from_round: usize, findings: Vec<Finding>) {
        for finding in findings {
            let round =
                self.rounds[from_round..].iter_mut().find(|round| round.from <= finding.at && finding.at <= round.to);
            match round {
                Some(round) => round.found.push(finding),
                None => self.unplaced.push(finding),
            }
        }
    }

    pub(crate) fn found(&self) -> impl Iterator<Item = &Finding> {
        self.rounds.iter().flat_map(|round| &round.found).chain(&self.unplaced)
    }

    fn count(&self, kind: Promise) -> usize {
        self.found().filter(|finding| finding.kind == kind).count()
    }

    fn row(&self, fault: &Fault) -> Row {
        let mut row = Row::default();
        for round in self.rounds.iter().filter(|round| round.faults.iter().any(|done| done.kind == fault.kind)) {
            row.runs += 1;
            round.found.iter().for_each(|finding| *row.found.entry(finding.kind).or_default() += 1);
            row.first.push(round.first_ms);
            row.last.push(round.last_ms);
            row.cpu = row.cpu.max(round.cpu_percent);
            row.peak = row.peak.max(round.peak);
        }
        row.first.sort_by(f64::total_cmp);
        row.last.sort_by(f64::total_cmp);
        row
    }

    /// The table as markdown, which a terminal shows as well.
    pub(crate) fn table(&self) -> String {
        let mut text = String::from(
            "| fault | runs | lost | doubled | restarted | other | first work after, ms p50 / p99 / max | all back, ms p50 / max | CPU % | memory MiB |\n\
             |---|---|---|---|---|---|---|---|---|---|\n",
        );
        for fault in ALL {
            let row = self.row(fault);
            if row.runs == 0 {
                continue;
            }
            let count = |kind| row.found.get(&kind).copied().unwrap_or(0);
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {:.0} / {:.0} / {:.0} | {:.0} / {:.0} | {:.0} | {} |",
                fault.name,
                row.runs,
                count(Promise::Lost),
                count(Promise::Doubled),
                count(Promise::Restarted),
                count(Promise::Broken),
                percentile(&row.first, 50),
                percentile(&row.first, 99),
                percentile(&row.first, 100),
                percentile(&row.last, 50),
                percentile(&row.last, 100),
                row.cpu,
                row.peak / MIB,
            );
        }
        text
    }

    /// One line that says it all.
    pub(crate) fn verdict(&self, seed: u64, failure: Option<&str>) -> (bool, String) {
        let counts = format!(
            "{} rounds, {} tasks accepted, {} attempts begun: lost {}, doubled {}, restarted {}, other {}; skipped {}; SEED={seed}",
            self.rounds.len(),
            self.accepted,
            self.attempts,
            self.count(Promise::Lost),
            self.count(Promise::Doubled),
            self.count(Promise::Restarted),
            self.count(Promise::Broken),
            self.skipped.len(),
        );
        let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
        match failure {
            Some(failure) => (false, format!("faults: FAILED ({failure}) {counts}")),
            None if self.found().next().is_some() => (false, format!("faults: FAILED {counts}")),
            None if ci && !self.skipped.is_empty() => {
                (false, format!("faults: FAILED (in CI nothing may be skipped) {counts}"))
            }
            None if self.skipped.is_empty() => (true, format!("faults: PASSED {counts}")),
            None => (true, format!("faults: PASSED, SKIPPED {} {counts}", self.skipped.len())),
        }
    }

    pub(crate) fn json(&self, seed: u64, command: &str, seconds: f64, verdict: &str) -> Value {
        let faults: Vec<Value> = ALL.iter().map(|fault| (fault, self.row(fault))).filter(|(_, row)| row.runs > 0).map(|(fault, row)| {
            let count = |kind| row.found.get(&kind).copied().unwrap_or(0);
            let times = |sorted: &[f64]| {
                json!({"p50": percentile(sorted, 50), "p99": percentile(sorted, 99), "max": percentile(sorted, 100)})
            };
            json!({
                "fault": fault.name,
                "runs": row.runs,
                "lost": count(Promise::Lost),
                "doubled": count(Promise::Doubled),
                "restarted": count(Promise::Restarted),
                "other": count(Promise::Broken),
                "first_work_ms": times(&row.first),
                "all_back_ms": times(&row.last),
                "cpu_percent_max": row.cpu,
                "memory_bytes_max": row.peak,
            })
        }).collect();
        json!({
            "command": command,
            "date": date(),
            "machine": machine(),
            "seed": seed,
            "seconds": seconds,
            "rounds": self.rounds.len(),
            "accepted": self.accepted,
            "attempts": self.attempts,
            "lost": self.count(Promise::Lost),
            "doubled": self.count(Promise::Doubled),
            "restarted": self.count(Promise::Restarted),
            "other": self.count(Promise::Broken),
            "skipped": self.skipped,
            "findings": self.found().map(|finding| finding.to_string()).collect::<Vec<_>>(),
            "faults": faults,
            "verdict": verdict,
        })
    }

    /// The part of docs/reliability.md that is written from a run.
    pub(crate) fn section(&self, command: &str, seconds: f64) -> String {
        format!(
            "`{command}`, {}, {}: {} rounds in {:.0} min, {} tasks accepted, {} attempts begun.\n\n{}",
            date(),
            machine(),
            self.rounds.len(),
            seconds / 60.0,
            self.accepted,
            self.attempts,
            self.table()
        )
    }
}

const BEGIN: &str = "<!-- faults: begin -->";
const END: &str = "<!-- faults: end -->";

/// The page with the section in place of the old one.
pub(crate) fn insert(page: &str, section: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{section}\n{END}{after}"))
}

/// Of sorted values the one at or above so many per cent of them.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(0.0)
}

fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let kib: u64 = read("/proc/meminfo").split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0);
    let model = read("/proc/cpuinfo");
    let model =
        model.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("", |(_, name)| name);
    let release = read("/proc/sys/kernel/osrelease");
    // What stands behind the version is of the one machine.
    let version = release.trim().split('-').next().unwrap_or_default();
    format!("{cpus} × {model}, {} GiB, Linux {version}", kib.div_ceil(1 << 20))
}

/// Today in UTC. Days to date after H. Hinnant, "chrono-compatible low-level date algorithms".
fn date() -> String {
    let days = unix_seconds() / 86_400 + 719_468;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    format!("{:04}-{month:02}-{day:02}", era * 400 + year + u64::from(month <= 2))
}
