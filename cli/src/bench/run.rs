//! The phases of `hive bench run`: preparation, join, delegation, steady, stress, cleanup.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::figure::{Better, Figure, ms};
use super::ledger::histogram;
use super::load::{Load, MOST_OPEN};
use super::plant::Plant;
use super::usage::{self, Uses};
use crate::args::{BenchPhase, BenchRun, Certificates, Global};
use crate::clock;
use crate::connect::Client;
use crate::failure::Failure;
use crate::output;

/// Nothing has ended for so long: what is open now is not going to end by itself.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a run has found so far.
struct Bench {
    args: BenchRun,
    load: Load,
    plant: Option<Plant>,
    figures: Vec<Figure>,
    /// Tasks per second of the steady phase.
    steady: Option<f64>,
}

pub(crate) async fn run(args: BenchRun, global: &Global) -> Result<(), Failure> {
    let interrupted = async {
        // Without a handler the children would still stop, by their closed pipes, but not cleanly.
        let _caught = tokio::signal::ctrl_c().await;
    };
    tokio::select! {
        done = phases(args, global) => done,
        () = interrupted => Err(Failure::error("interrupted", "the fleet's processes were stopped")),
    }
}

async fn phases(args: BenchRun, global: &Global) -> Result<(), Failure> {
    let mut figures = Vec::new();
    let mut plant = None;
    let mut server = global.server.clone();
    if !args.attach {
        let begun = clock::now();
        let mut started = Plant::start(args.data.as_deref()).await?;
        figures.push(Figure::of("control_plane_start", "ms", Better::Lower, seconds_since(begun) * 1e3));
        server.clone_from(&started.server);
        let client = Client::new(&server, "", Duration::from_secs(5))?;
        output::say(&format!("preparation: the control plane serves on {server}; starting {} sidecars", args.sidecars));
        let took = started.join(args.sidecars, args.slots, &client).await?;
        let mut times = histogram();
        took.iter().for_each(|t| times.saturating_record(u64::try_from(t.as_nanos()).unwrap_or(u64::MAX)));
        figures.push(Figure::of_times("join", 0.99, &times));
        output::say(&format!("join: {} agents ready, the last after {:.0} ms", took.len(), ms(times.max())));
        plant = Some(started);
    }
    // A plant of our own speaks plain text on loopback.
    let certificates = if args.attach { global.certificates.clone() } else { Certificates::default() };
    let load = Load::begin(&server, &certificates, &global.namespace, args.batch, args.bytes, args.mix.clone()).await?;
    let mut bench = Bench { args, load, plant, figures, steady: None };
    for phase in bench.args.phases.clone() {
        match phase {
            BenchPhase::Delegation => bench.delegation().await,
            BenchPhase::Steady => bench.steady().await,
            BenchPhase::Stress => bench.stress().await,
        }
    }
    bench.cleanup().await
}

impl Bench {
    fn uses(&self) -> Uses {
        usage::look(self.plant.as_ref().map_or_else(|| "\0".to_owned(), Plant::mark).as_str())
    }

    async fn delegation(&mut self) {
        let rate = f64::from(self.args.rate);
        let begun = clock::monotonic_ns();
        let until = begun + nanos(self.args.delegation);
        output::say(&format!("delegation: {rate} tasks/s for {:.0?}", self.args.delegation));
        self.load.ledger().keep_times(true);
        self.load.open(rate, until).await;
        self.load.drain(PATIENCE).await;
        let done = self.load.ledger().take_done();
        let sent = self.load.ledger().keep_times(false);
        let starts = self.load.starts(sent).await;
        self.figures.push(Figure::of_times("submit_to_done_p50", 0.5, &done));
        self.figures.push(Figure::of_times("submit_to_done_p99", 0.99, &done));
        self.figures.push(Figure::of_times("submit_to_start_p50", 0.5, &starts));
        self.figures.push(Figure::of_times("submit_to_start_p99", 0.99, &starts));
        output::say(&format!("  submit to start {}; submit to done {}", quantiles(&starts), quantiles(&done)));
    }

    async fn steady(&mut self) {
        let (window, runs) = (self.args.window, self.args.runs);
        output::say(&format!("steady: {window} tasks open, {runs} runs of {:.0?}", self.args.duration));
        // The loop goes on between runs, so that each begins in the middle of the load.
        let whole = self.args.warmup + self.args.duration * u32::from(runs) + Duration::from_millis(200);
        let until = clock::monotonic_ns() + nanos(whole);
        let load = self.load.clone();
        let looping = crate::tasks::spawn(crate::tasks::Kind::Watcher, async move { load.closed(window, until).await });
        tokio::time::sleep(self.args.warmup).await;
        self.load.ledger().take_done();
        let before = self.uses();
        let (mut rates, mut all, mut ended) = (Vec::new(), histogram(), 0u64);
        let mut at = clock::now();
        for run in 1..=runs {
            tokio::time::sleep(self.args.duration).await;
            let now = clock::now();
            let done = self.load.ledger().take_done();
            let rate = count(done.len()) / now.duration_since(at).as_secs_f64();
            at = now;
            output::say(&format!("  run {run}: {rate:.0} tasks/s, submit to done {}", quantiles(&done)));
            rates.push(rate);
            ended += done.len();
            if all.add(&done).is_err() {
                output::say("  times beyond the histogram's bounds are left out");
            }
        }
        let after = self.uses();
        let _ended = looping.await;
        self.load.drain(PATIENCE).await;
        self.load.ledger().take_done();
        let throughput = Figure::of_runs("throughput", "tasks/s", Better::Higher, &rates);
        self.steady = Some(throughput.value);
        self.figures.push(throughput);
        self.figures.push(Figure::of_times("loaded_submit_to_done_p50", 0.5, &all));
        self.figures.push(Figure::of_times("loaded_submit_to_done_p99", 0.99, &all));
        for (kind, used) in &after {
            let cpu = used.cpu_seconds - before.get(kind).map_or(0.0, |b| b.cpu_seconds);
            let micros = cpu * 1e6 / count(ended.max(1));
            output::say(&format!(
                "  {kind}: {} processes, {:.1} MiB, {micros:.1} µs of processor per task",
                used.processes,
                count(used.rss_kib) / 1024.0
            ));
            let name = kind.replace('-', "_");
            self.figures.push(Figure::of(&format!("{name}_cpu_per_task"), "us", Better::Lower, micros));
            self.figures.push(Figure::of(&format!("{name}_rss"), "MiB", Better::Lower, count(used.rss_kib) / 1024.0));
        }
    }

    async fn stress(&mut self) {
        let rate = self.steady.unwrap_or(f64::from(self.args.rate)) * 2.0;
        output::say(&format!("stress: {rate:.0} tasks/s for {:.0?}, twice what it can do", self.args.duration));
        let before = self.load.ledger().counts();
        let begun = clock::now();
        let held_back = self.load.open(rate, clock::monotonic_ns() + nanos(self.args.duration)).await;
        let open = self.load.ledger().open_count();
        self.load.drain(PATIENCE).await;
        let after = self.load.ledger().counts();
        let ended = after.succeeded - before.succeeded;
        let served = count(ended) / seconds_since(begun);
        output::say(&format!(
            "  {} sent, {} refused, {} without answer, {open} open at the end of it; all ended at {served:.0} tasks/s",
            after.sent - before.sent,
            after.refused - before.refused,
            after.unknown - before.unknown,
        ));
        if held_back > 0 {
            output::say(&format!("  {held_back} more were held back: {MOST_OPEN} were open"));
        }
        self.load.ledger().take_done();
        self.figures.push(Figure::of("stress_throughput", "tasks/s", Better::Higher, served));
    }

    async fn cleanup(mut self) -> Result<(), Failure> {
        let lost = self.load.settle().await?;
        let counts = self.load.ledger().counts();
        let dead = self.plant.as_mut().map(Plant::dead).unwrap_or_default();
        for (name, value) in [
            ("sent", counts.sent),
            ("succeeded", counts.succeeded),
            ("failed", counts.failed + counts.cancelled + counts.expired),
            ("refused", counts.refused),
            ("retried", counts.retried),
            ("watches_broken", counts.watches_broken),
            ("lost", lost.len() as u64),
            ("doubled", counts.doubled),
        ] {
            let better = if matches!(name, "sent" | "succeeded") { Better::Higher } else { Better::Lower };
            self.figures.push(Figure::of(name, "tasks", better, count(value)));
        }
        if let Some(path) = &self.args.json {
            let text = serde_json::to_vec_pretty(&self.figures).unwrap_or_default();
            std::fs::write(path, text).map_err(|e| Failure::error(format!("cannot write {}", path.display()), e))?;
        }
        let rows: Vec<Vec<String>> = self
            .figures
            .iter()
            .map(|f| {
                let spread = if f.runs > 1 { format!("{:.2} .. {:.2}", f.min, f.max) } else { String::new() };
                vec![f.name.clone(), format!("{:.2}", f.value), f.unit.clone(), spread]
            })
            .collect();
        output::line(&output::table(&["FIGURE", "VALUE", "UNIT", "MIN .. MAX"], &rows))?;
        let refusal = self.load.last_refusal();
        if !refusal.is_empty() {
            output::say(&format!("the last refusal: {refusal}"));
        }
        if let Some(plant) = self.plant.take() {
            let killed = plant.stop().await;
            if killed > 0 {
                return Err(Failure::error(
                    "the fleet did not stop in order",
                    format!("{killed} processes were killed"),
                ));
            }
        }
        if !dead.is_empty() {
            return Err(Failure::error("processes of the fleet died", dead.join(", ")));
        }
        if !lost.is_empty() || counts.doubled > 0 {
            let first = lost.first().map(|id| format!("; the first lost is {id}")).unwrap_or_default();
            return Err(Failure::error(
                "the fleet broke its promise",
                format!("{} tasks lost, {} doubled{first}", lost.len(), counts.doubled),
            ));
        }
        Ok(())
    }
}

fn quantiles(times: &Histogram<u64>) -> String {
    let at = |q| ms(times.value_at_quantile(q));
    format!("p50 {:.2}, p95 {:.2}, p99 {:.2}, max {:.2} ms", at(0.5), at(0.95), at(0.99), ms(times.max()))
}

fn seconds_since(begun: std::time::Instant) -> f64 {
    clock::now().duration_since(begun).as_secs_f64()
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "counts for people")]
fn count(number: u64) -> f64 {
    number as f64
}
