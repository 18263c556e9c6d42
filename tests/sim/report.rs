//! Running seeds, adding up what they did, and telling what failed.

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;
use std::panic::AssertUnwindSafe;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::options::{Fault, Options};
use crate::rng::Digest;
use crate::world::{Stats, Verbose, World};

/// Runs that break something must get this share of them, in percent, to finish work meanwhile.
const BUSY: usize = 60;

/// One seed's run.
pub(crate) struct Run {
    pub(crate) options: Options,
    pub(crate) stats: Stats,
    pub(crate) digest: Digest,
    pub(crate) failure: Option<String>,
    pub(crate) timeline: Vec<String>,
}

pub(crate) fn run_one(seed: u64, verbose: Verbose) -> Run {
    let mut world = World::new(seed, verbose);
    if let Err(panic) = std::panic::catch_unwind(AssertUnwindSafe(|| world.run())) {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        world.fail(format!("panic: {}", text.unwrap_or_default()));
    }
    Run {
        timeline: world.timeline().cloned().collect(),
        options: world.options,
        stats: world.stats,
        digest: world.digest,
        failure: world.failure,
    }
}

pub(crate) fn failed(seed: u64, run: &Run) -> String {
    let mut text = format!("seed {seed}: {:#?}\n\nlast events:\n", run.options);
    for line in &run.timeline {
        let _infallible = writeln!(text, "{line}");
    }
    let failure = run.failure.as_deref().unwrap_or_default();
    let _infallible = writeln!(text, "\nseed {seed} FAILED: {failure}\nreplay it with: HIVE_SEED={seed} make sim");
    text
}

/// What many runs did together.
#[derive(Default)]
pub(crate) struct Totals {
    runs: usize,
    stats: Stats,
    /// Runs with faults, and those of them that ended tasks under fault.
    faulty: (usize, usize),
    seconds: f64,
    failures: BTreeMap<u64, (String, String)>,
}

impl Totals {
    pub(crate) fn of(seeds: &[u64], run: impl Fn(u64) -> Run + Sync) -> Self {
        let next = AtomicUsize::new(0);
        let totals = Mutex::new(Self::default());
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let began = now();
        std::thread::scope(|scope| {
            for _ in 0..threads.min(seeds.len()) {
                scope.spawn(|| {
                    while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let run = run(*seed);
                        totals.lock().expect("no panic").add(*seed, &run);
                    }
                });
            }
        });
        let mut totals = totals.into_inner().expect("no panic");
        totals.seconds = now() - began;
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
        if let Some(failure) = &run.failure {
            self.failures.insert(seed, (failure.clone(), failed(seed, run)));
        }
    }

    /// Fails if a run failed, or if the runs did too little to prove anything.
    pub(crate) fn verdict(&self) {
        if let Some((_, (_, text))) = self.failures.first_key_value() {
            eprintln!("{text}");
            let all: Vec<_> = self.failures.iter().map(|(seed, (why, _))| format!("{seed}: {}", cut(why))).collect();
            panic!("{} of {} seeds failed:\n  {}", all.len(), self.runs, all.join("\n  "));
        }
        let (faulty, busy) = self.faulty;
        assert!(
            faulty < 10 || busy * 100 >= faulty * BUSY,
            "only {busy} of {faulty} runs with faults finished any work under them: the schedules are empty"
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

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { runs, stats: s, faulty: (faulty, busy), seconds, failures } = self;
        let faults: u64 = s.faults.values().sum();
        let rate = *runs as f64 / seconds.max(0.001);
        writeln!(f, "{runs} seeds in {seconds:.1} s ({rate:.0} a second), {} failed", failures.len())?;
        writeln!(f, "  {} s of virtual time, {} events, {} steps", s.virtual_ms / 1000, s.events, s.steps)?;
        writeln!(f, "  {} tasks accepted, {} attempts assigned, {} started", s.accepted, s.assigned, s.started)?;
        writeln!(f, "  {} tasks ended ({} succeeded, {} evicted)", s.ended, s.succeeded, s.evicted)?;
        writeln!(f, "  {} commits; {} calls of unknown outcome to their clients", s.commits, s.unknown)?;
        writeln!(
            f,
            "  {faults} faults; {} tasks ended under them, in {busy} of {faulty} runs with faults",
            s.under_fault
        )?;
        let kinds: Vec<_> =
            s.faults.iter().map(|(fault, count): (&Fault, &u64)| format!("{fault:?} {count}")).collect();
        write!(f, "  {}", kinds.join(", "))
    }
}
