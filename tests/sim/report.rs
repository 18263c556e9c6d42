//! Running seeds, adding up what they did, and telling what failed.

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;
use std::panic::AssertUnwindSafe;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::options::{Fault, Mode, Options};
use crate::plan::{Cut, Strike, shrink};
use crate::rng::Digest;
use crate::world::{Stats, Verbose, World};

/// Runs that break something must get this share of them, in percent, to finish work meanwhile.
const BUSY: usize = 60;
/// Seconds between two lines of progress.
const PROGRESS: f64 = 2.0;

/// One seed's run.
pub(crate) struct Run {
    pub(crate) options: Options,
    pub(crate) strikes: Vec<Strike>,
    pub(crate) stats: Stats,
    pub(crate) digest: Digest,
    pub(crate) failure: Option<String>,
    pub(crate) timeline: Vec<String>,
}

pub(crate) fn run_one(seed: u64, verbose: Verbose) -> Run {
    run_cut(seed, verbose, &Cut::default())
}

/// A run with some of its faults left out.
pub(crate) fn run_cut(seed: u64, verbose: Verbose, cut: &Cut) -> Run {
    let mut world = World::new(seed, verbose, cut);
    if let Err(panic) = std::panic::catch_unwind(AssertUnwindSafe(|| world.run())) {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        world.fail(format!("panic: {}", text.unwrap_or_default()));
    }
    Run {
        timeline: world.take_timeline(),
        options: world.options,
        strikes: world.strikes,
        stats: world.stats,
        digest: world.digest,
        failure: world.failure,
    }
}

/// Lines of a timeline printed, the last ones.
const LINES: usize = 150;

/// A failed seed as a reader wants it: what its world was like, the fewest faults it fails under, and
/// what happened to those it is about.
pub(crate) fn failed(seed: u64, first: &Run) -> String {
    let (cut, run) = shrink(seed, first.strikes.len());
    let mut text =
        format!("seed {seed}: {:#?}\n\nfaults it still fails under, of {}:\n", run.options, run.strikes.len());
    for (nth, strike) in run.strikes.iter().enumerate().filter(|(nth, _)| cut.keeps(*nth)) {
        let Strike { at, fault, side, lasts, .. } = strike;
        let at = *at as f64 / 1000.0;
        let _infallible = writeln!(text, "{at:>9.3} fault {nth}: {fault:?} (sidecar s{side}) for {lasts} ms");
    }
    let failure = run.failure.as_deref().unwrap_or_default();
    let about = subjects(failure);
    let chosen: Vec<&String> = run.timeline.iter().filter(|line| is_about(line, &about)).collect();
    let _infallible = writeln!(text, "\ntimeline, {} of {} lines:", chosen.len().min(LINES), run.timeline.len());
    for line in &chosen[chosen.len().saturating_sub(LINES)..] {
        let _infallible = writeln!(text, "{line}");
    }
    let whole = first.failure.as_deref().unwrap_or_default();
    let _infallible = writeln!(text, "\nseed {seed} FAILED: {whole}");
    if failure != whole {
        let _infallible = writeln!(text, "with the faults above alone: {failure}");
    }
    let _infallible = writeln!(
        text,
        "replay it with: HIVE_SEED={seed} make sim\nthe faults above alone: HIVE_SEED={seed} HIVE_FAULTS={} make sim",
        cut.variable()
    );
    text
}

/// The ends of the task ids a failure names.
fn subjects(failure: &str) -> Vec<&str> {
    let words = failure.split(|c: char| !(c.is_ascii_hexdigit() || c == '-'));
    words.filter(|word| word.len() == 36).map(|word| &word[24..]).collect()
}

/// Of these tasks, or of the world at large: those lines have a word in capitals.
fn is_about(line: &str, subjects: &[&str]) -> bool {
    let capital = |word: &str| word.len() > 2 && word.chars().all(|c| c.is_ascii_uppercase());
    subjects.is_empty()
        || subjects.iter().any(|id| line.contains(id))
        || line.split(' ').any(capital)
        || line.contains("leads under epoch")
}

/// What many runs did together.
#[derive(Default)]
pub(crate) struct Totals {
    runs: usize,
    stats: Stats,
    /// Runs with faults, and those of them that ended tasks under fault.
    faulty: (usize, usize),
    /// Liveness runs, and those of them in which the core ended tasks.
    lively: (usize, usize),
    seconds: f64,
    /// Of all cores.
    core_seconds: f64,
    failures: BTreeMap<u64, String>,
}

impl Totals {
    pub(crate) fn of(seeds: &[u64], run: impl Fn(u64) -> Run + Sync) -> Self {
        let next = AtomicUsize::new(0);
        let totals = Mutex::new(Self::default());
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let (began, spent) = (now(), cpu());
        let said = Mutex::new(began);
        std::thread::scope(|scope| {
            for _ in 0..threads.min(seeds.len()) {
                scope.spawn(|| {
                    while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let run = run(*seed);
                        let mut totals = totals.lock().expect("no panic");
                        totals.add(*seed, &run);
                        let mut said = said.lock().expect("no panic");
                        if now() >= *said + PROGRESS {
                            *said = now();
                            totals.progress(seeds.len(), now() - began);
                        }
                    }
                });
            }
        });
        let mut totals = totals.into_inner().expect("no panic");
        (totals.seconds, totals.core_seconds) = (now() - began, cpu() - spent);
        totals
    }

    fn add(&mut self, seed: u64, run: &Run) {
        self.runs += 1;
        let (sum, one) = (&mut self.stats, &run.stats);
        sum.events += one.events;
        sum.steps += one.steps;
        sum.virtual_ms += one.virtual_ms;
        sum.commits += one.commits;
        sum.assigned += one.assigned;
        sum.started += one.started;
        sum.accepted += one.accepted;
        sum.ended += one.ended;
        sum.succeeded += one.succeeded;
        sum.under_fault += one.under_fault;
        sum.by_core += one.by_core;
        sum.doubted += one.doubted;
        sum.evicted += one.evicted;
        sum.unknown += one.unknown;
        sum.fenced += one.fenced;
        for (fault, count) in &one.faults {
            *sum.faults.entry(*fault).or_default() += count;
        }
        if one.faults.values().sum::<u64>() > 0 {
            self.faulty.0 += 1;
            self.faulty.1 += usize::from(one.under_fault > 0);
        }
        if run.options.mode == Mode::Liveness {
            self.lively.0 += 1;
            self.lively.1 += usize::from(one.by_core > 0);
        }
        if let Some(failure) = &run.failure {
            eprintln!("  seed {seed} FAILED: {}", cut(failure));
            self.failures.insert(seed, failure.clone());
        }
    }

    fn progress(&self, of: usize, seconds: f64) {
        let rate = self.runs as f64 / seconds.max(0.001);
        eprintln!(
            "  {:>8} of {of} seeds, {rate:.0} a second, {} tasks ended under faults, {} failed",
            self.runs,
            self.stats.under_fault,
            self.failures.len()
        );
    }

    /// Fails if a run failed, or if the runs did too little to prove anything.
    pub(crate) fn verdict(&self, again: impl Fn(u64) -> Run) {
        if let Some(seed) = self.failures.keys().next() {
            eprintln!("{}", failed(*seed, &again(*seed)));
            let all: Vec<_> = self.failures.iter().map(|(seed, why)| format!("{seed}: {}", cut(why))).collect();
            panic!("{} of {} seeds failed:\n  {}", all.len(), self.runs, all.join("\n  "));
        }
        let share = |part: usize, whole: usize| part * 100 / whole.max(1);
        let ((faulty, busy), (live, moved)) = (self.faulty, self.lively);
        let empty = "the schedules are empty";
        assert!(
            faulty < 10 || share(busy, faulty) >= BUSY,
            "only {busy} of {faulty} runs with faults finished any work under them: {empty}"
        );
        assert!(
            live < 10 || share(moved, live) >= BUSY,
            "in only {moved} of {live} runs the core did any work: {empty}"
        );
        let (doubted, commits) = (self.stats.doubted, self.stats.commits);
        assert!(
            commits < 1_000 || doubted * 100 > commits,
            "only {doubted} of {commits} commits had an unknown outcome: {empty}"
        );
    }
}

fn cut(text: &str) -> String {
    text.chars().take(200).collect()
}

#[expect(clippy::disallowed_methods, reason = "how long the runs took is printed; nothing in them depends on it")]
fn now() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// CPU time of this process so far, in seconds: what other work takes does not count. Elsewhere than on
/// Linux it is not known.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Behind the name, which may hold anything, in hundredths: utime and stime are the 12th and 13th.
    let ticks = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    ticks.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { runs, stats: s, seconds, core_seconds, failures, .. } = self;
        let ((faulty, busy), (live, moved)) = (self.faulty, self.lively);
        let faults: u64 = s.faults.values().sum();
        let rate = *runs as f64 / seconds.max(0.001);
        let hourly = *runs as f64 * 3_600.0 / core_seconds.max(0.01);
        writeln!(f, "{runs} seeds in {seconds:.1} s ({rate:.0} a second), {} failed", failures.len())?;
        writeln!(f, "  {core_seconds:.1} core-seconds: {hourly:.0} seeds per core-hour")?;
        writeln!(f, "  {} s of virtual time, {} events, {} steps", s.virtual_ms / 1000, s.events, s.steps)?;
        writeln!(f, "  {} tasks accepted, {} attempts assigned, {} started", s.accepted, s.assigned, s.started)?;
        writeln!(f, "  {} tasks ended ({} succeeded, {} evicted)", s.ended, s.succeeded, s.evicted)?;
        let doubted = s.doubted as f64 * 100.0 / (s.commits.max(1)) as f64;
        writeln!(
            f,
            "  {} commits, {} of unknown outcome ({doubted:.1} %); {} calls of unknown outcome",
            s.commits, s.doubted, s.unknown
        )?;
        writeln!(
            f,
            "  {faults} faults; {} tasks ended under them, in {busy} of {faulty} runs with faults",
            s.under_fault
        )?;
        writeln!(f, "  {} tasks ended by the core alone, in {moved} of {live} runs in liveness mode", s.by_core)?;
        let kinds: Vec<_> =
            s.faults.iter().map(|(fault, count): (&Fault, &u64)| format!("{fault:?} {count}")).collect();
        write!(f, "  {}", kinds.join(", "))
    }
}
