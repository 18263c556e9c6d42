//! The crash lab, `make faults`: real processes on a real disk under load, disturbed in every way we
//! know, judged from outside by what clients and agents wrote down.
//!
//! Each fault is done once; then come random rounds, most of them of two faults at once. QUICK=1
//! leaves the random rounds out, ROUNDS=n says how many, FAULT=text picks the faults whose name
//! holds it, SEED=n draws the same rounds again. UPDATE=1 writes the table into
//! docs/reliability.md. The last line is the verdict.
#![allow(clippy::unwrap_used, reason = "a test may, and so may what only tests use")]

mod act;
mod agent;
mod attack;
mod checker;
mod clients;
mod fault;
mod fleet;
#[path = "../e2e/harness/mod.rs"]
mod harness;
mod history;
mod recorder;
mod report;
mod round;
mod tools;

use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;

use fault::{ALL, Fault, Place};
use fleet::{Fleet, Size};
use harness::{MIB, Rng, now, spawn, unix_seconds, uptime_us};
use report::Report;
use tools::Tools;

/// Random rounds of a fleet before it is judged and another takes its place.
const ROUNDS_OF_A_FLEET: usize = 40;
const RANDOM_ROUNDS: usize = 200;

/// A round to be done.
#[derive(Debug, Clone)]
struct Planned {
    faults: Vec<&'static Fault>,
    thorough: bool,
}

struct Wish {
    rounds: usize,
    fault: Option<String>,
    seed: u64,
}

impl Wish {
    fn read() -> Self {
        let var = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
        let number = |name: &str| {
            var(name).map(|text| text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}")))
        };
        let fault = var("FAULT");
        let quick = var("QUICK").is_some_and(|quick| quick != "0");
        let rounds = number("ROUNDS").map_or(if quick || fault.is_some() { 0 } else { RANDOM_ROUNDS }, |n| n as usize);
        Self { rounds, fault, seed: number("SEED").unwrap_or_else(unix_seconds) }
    }
}

/// What is being done, for the lines of progress.
type Status = Arc<Mutex<String>>;

struct Lab {
    tools: Tools,
    seed: u64,
    report: Report,
    status: Status,
    /// Counts of the fleets that run, by a glance.
    glance: Arc<Mutex<Vec<Glance>>>,
}

type Glance = (Arc<recorder::Recorder>, Arc<fleet::Peak>);

fn main() -> ExitCode {
    if agent::run() {
        return ExitCode::SUCCESS;
    }
    raise_descriptors();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let passed = runtime.block_on(lab());
    // Attackers may still hold connections.
    runtime.shutdown_timeout(Duration::from_secs(1));
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The floods need more than what a shell gives.
fn raise_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _as_it_is = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

async fn lab() -> bool {
    let wish = Wish::read();
    let begun = now();
    let tools = Tools::find();
    let mut lab =
        Lab { tools, seed: wish.seed, report: Report::default(), status: Arc::default(), glance: Arc::default() };
    let plan = lab.plan(&wish);
    let planned: usize = plan.iter().map(|(_, rounds)| rounds.len()).sum();
    println!("faults: {planned} rounds, SEED={}", wish.seed);
    for skipped in &lab.report.skipped {
        println!("SKIPPED  {skipped}");
    }
    let progress = spawn(progress(Arc::clone(&lab.status), Arc::clone(&lab.glance)));
    let failure = tokio::select! {
        () = lab.run(plan) => None,
        () = interrupted() => Some("interrupted"),
    };
    progress.abort();
    let failure = failure.or((planned == 0).then_some("no fault has this name"));
    lab.conclude(&wish, now().duration_since(begun).as_secs_f64(), failure)
}

/// Ctrl-C or SIGTERM. What was started is killed as the fleets are dropped.
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate()).expect("a handler for SIGTERM");
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = term.recv() => {}
    }
}

async fn progress(status: Status, glance: Arc<Mutex<Vec<Glance>>>) {
    let begun = now();
    loop {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let what = status.lock().expect("the status").clone();
        let (mut accepted, mut ended, mut memory) = (0, 0, 0);
        for (recorder, peak) in glance.lock().expect("the glance").iter() {
            let counts = recorder.counts();
            (accepted, ended, memory) = (accepted + counts.0, ended + counts.1, memory.max(peak.bytes()));
        }
        let seconds = now().duration_since(begun).as_secs();
        println!("{seconds:>6} s  {what}; {accepted} accepted, {ended} ended, at most {} MiB", memory / MIB);
    }
}

impl Lab {
    /// Rounds by fleet, those that must be skipped left out and said.
    fn plan(&mut self, wish: &Wish) -> Vec<(Size, Vec<Planned>)> {
        let mut able = Vec::new();
        for fault in ALL {
            if wish.fault.as_ref().is_some_and(|text| !fault.name.contains(text.as_str())) {
                continue;
            }
            match self.tools.lacks(fault.need) {
                Some(why) => self.report.skipped.push(format!("{}: {why}", fault.name)),
                None => able.push(fault),
            }
        }
        let mut rng = Rng(wish.seed);
        let mut random: Vec<Planned> = Vec::new();
        while random.len() < wish.rounds && !able.is_empty() {
            random.push(draw(&able, &mut rng));
        }
        let mut plan = Vec::new();
        for size in [Size::Six, Size::Clock, Size::Hundred, Size::Disk] {
            let of_size = |round: &&Planned| round.faults[0].size == size;
            let once = able.iter().map(|fault| Planned { faults: vec![fault], thorough: true });
            let once: Vec<Planned> = once.filter(|round| of_size(&round)).collect();
            let mut rounds = once;
            rounds.extend(random.iter().filter(of_size).cloned());
            for part in rounds.chunks(ROUNDS_OF_A_FLEET) {
                plan.push((size, part.to_vec()));
            }
        }
        plan
    }

    async fn run(&mut self, plan: Vec<(Size, Vec<Planned>)>) {
        let total: usize = plan.iter().map(|(_, rounds)| rounds.len()).sum();
        let mut aging = None;
        // Its records must be a minute old when its disk is filled.
        if plan.len() > 1 && plan.last().is_some_and(|(size, _)| *size == Size::Disk) {
            aging = self.start(Size::Disk).await;
        }
        let mut done = 0;
        for (size, rounds) in plan {
            let mut left = &rounds[..];
            while !left.is_empty() {
                let ready = if size == Size::Disk { aging.take() } else { None };
                let fleet = match ready {
                    Some(fleet) => Some(fleet),
                    None => self.start(size).await,
                };
                let Some(fleet) = fleet else { break };
                let count = self.rounds_of(fleet, left, done, total).await;
                done += count;
                left = &left[count..];
            }
        }
    }

    async fn start(&mut self, size: Size) -> Option<Fleet> {
        self.say(&format!("starting {size:?}"));
        match AssertUnwindSafe(Fleet::start(size, self.seed, &self.tools)).catch_unwind().await {
            Ok(fleet) => {
                let glance = (Arc::clone(&fleet.recorder), Arc::clone(&fleet.peak));
                self.glance.lock().expect("the glance").push(glance);
                Some(fleet)
            }
            Err(panic) => {
                self.gave_up(&format!("no fleet {size:?}"), &*panic);
                None
            }
        }
    }

    /// Does rounds with a fleet and judges it. How many were done: fewer than all if one could not
    /// be brought to its end.
    async fn rounds_of(&mut self, mut fleet: Fleet, rounds: &[Planned], before: usize, total: usize) -> usize {
        let first = self.report.rounds.len();
        let mut rng = Rng(self.seed ^ (before as u64 + 1));
        let mut count = 0;
        for planned in rounds {
            count += 1;
            let names: Vec<_> = planned.faults.iter().map(|fault| fault.name).collect();
            let names = names.join(" + ");
            self.say(&format!("round {}/{total} {names}", before + count));
            let from = uptime_us();
            let round = round::run(&mut fleet, &planned.faults, planned.thorough, &mut rng, &self.tools);
            match AssertUnwindSafe(round).catch_unwind().await {
                Ok(round) => {
                    println!(
                        "round {}/{total} {names}: {:.1} s; first work after {:.0} ms, all back after {:.0} ms; calls {} answered, {} not, slowest {:.0} ms; CPU {:.0} %, {} MiB",
                        before + count,
                        (round.to - round.from) as f64 / 1e6,
                        round.first_ms,
                        round.last_ms,
                        round.fared.told,
                        round.fared.failed,
                        round.fared.slowest_us as f64 / 1e3,
                        round.cpu_percent,
                        round.peak / MIB,
                    );
                    round.found.iter().for_each(|finding| println!("   FOUND {finding}"));
                    let bad = !round.found.is_empty();
                    self.report.rounds.push(round);
                    if bad {
                        println!("--- the control plane's last lines\n{}", fleet.log_tail("control-plane", 30));
                    }
                }
                Err(panic) => {
                    println!("--- the control plane's last lines\n{}", fleet.log_tail("control-plane", 30));
                    self.gave_up(&format!("{names} at {from}"), &*panic);
                    break;
                }
            }
        }
        self.say("judging");
        match AssertUnwindSafe(fleet.finish()).catch_unwind().await {
            Ok(judged) => {
                self.report.accepted += judged.accepted;
                self.report.attempts += judged.attempts;
                judged.found.iter().take(20).for_each(|finding| println!("   FOUND {finding}"));
                println!(
                    "judged: {} tasks accepted, {} attempts begun, {} found",
                    judged.accepted,
                    judged.attempts,
                    judged.found.len()
                );
                self.report.place(first, judged.found);
            }
            Err(panic) => self.gave_up("judging", &*panic),
        }
        self.glance.lock().expect("the glance").pop();
        count
    }

    fn gave_up(&mut self, where_: &str, panic: &(dyn std::any::Any + Send)) {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        let what = format!("{where_}: {}", text.unwrap_or("a panic"));
        println!("   FOUND {what}");
        self.report.unplaced.push(checker::Finding { kind: checker::Kind::Broken, at: u64::MAX, what });
    }

    fn say(&self, what: &str) {
        what.clone_into(&mut self.status.lock().expect("the status"));
    }

    /// Table, report, verdict.
    fn conclude(&self, wish: &Wish, seconds: f64, failure: Option<&str>) -> bool {
        let settings = ["QUICK", "ROUNDS", "FAULT"]
            .iter()
            .filter_map(|name| Some(format!("{name}={} ", std::env::var(name).ok().filter(|v| !v.is_empty())?)));
        let command = format!("{}SEED={} make faults", settings.collect::<String>(), wish.seed);
        let (passed, verdict) = self.report.verdict(wish.seed, failure);
        println!("\n{}", self.report.table());
        for finding in self.report.found().take(50) {
            println!("FOUND {finding}");
        }
        for skipped in &self.report.skipped {
            println!("SKIPPED  {skipped}");
        }
        let folder = std::path::Path::new("target/faults");
        let json = self.report.json(wish.seed, &command, seconds, &verdict);
        let written = std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::write(folder.join("report.json"), serde_json::to_string_pretty(&json)? + "\n"));
        if let Err(error) = written {
            println!("target/faults/report.json cannot be written: {error}");
        }
        if passed && std::env::var("UPDATE").is_ok_and(|update| update == "1") {
            let path = "docs/reliability.md";
            let page = std::fs::read_to_string(path).expect("docs/reliability.md");
            let page = report::insert(&page, &self.report.section(&command, seconds)).expect("its marks");
            std::fs::write(path, page).expect("write docs/reliability.md");
        }
        println!("{seconds:.0} s in all; target/faults/report.json holds the figures");
        println!("{verdict}");
        passed
    }
}

/// One fault, or two that touch different places.
fn draw(able: &[&'static Fault], rng: &mut Rng) -> Planned {
    let pick = |from: &[&'static Fault], rng: &mut Rng| from[rng.within(0, from.len() as u64 - 1) as usize];
    let first = pick(able, rng);
    let others: Vec<&'static Fault> = able
        .iter()
        .filter(|other| other.place != first.place && other.size == first.size && first.size == Size::Six)
        .copied()
        .collect();
    let mut faults = vec![first];
    if !others.is_empty() && rng.within(0, 9) < 7 {
        faults.push(pick(&others, rng));
    }
    // The control plane last: what is done to others must find it alive.
    faults.sort_by_key(|fault| fault.place == Place::ControlPlane);
    Planned { faults, thorough: false }
}
