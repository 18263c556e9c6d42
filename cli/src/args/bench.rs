//! Options of `hive bench`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::value::duration;

#[derive(Args, Debug)]
pub(crate) struct Bench {
    #[command(subcommand)]
    pub(crate) verb: BenchVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchVerb {
    /// Put a fleet of real processes under load and measure it.
    Run(Box<BenchRun>),
    /// Compare two reports; exits 1 if a figure became worse by more than noise.
    Compare(BenchCompare),
    /// The agent of `hive bench run`.
    #[command(hide = true)]
    Agent,
}

/// A part of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchPhase {
    /// Tasks at a low, fixed rate: latency.
    Delegation,
    /// A closed loop over a window of open tasks: throughput.
    Steady,
    /// An open loop at twice the throughput just measured: what happens beyond the limit.
    Stress,
}

#[derive(Args, Debug)]
pub(crate) struct BenchRun {
    /// Load the fleet behind --server instead of starting one; its agents need the capability
    /// `bench` and the command `hive bench agent`.
    #[arg(long)]
    pub(crate) attach: bool,
    /// Sidecar processes of the fleet, each with one agent process.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=500))]
    pub(crate) sidecars: u16,
    /// Tasks at a time, per agent.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(crate) slots: u16,
    /// Parts of the run; preparation, join and cleanup are always there.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "delegation,steady,stress")]
    pub(crate) phases: Vec<BenchPhase>,
    /// Open tasks of the closed loop.
    #[arg(long, default_value_t = 1_024, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) window: u32,
    /// Most tasks in one SubmitTasks call.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(crate) batch: u16,
    /// Times the steady part is measured.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    pub(crate) runs: u16,
    /// Length of each steady run, and of the stress.
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = duration)]
    pub(crate) duration: Duration,
    /// Load of the same kind before the first steady run, not measured.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration)]
    pub(crate) warmup: Duration,
    /// Tasks per second of the delegation part.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) rate: u32,
    /// Length of the delegation part.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub(crate) delegation: Duration,
    /// Bytes of each payload and result.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(16..=262_144))]
    pub(crate) bytes: u32,
    /// Kinds of tasks and their shares: noop, work (10 ms), large (64 KiB), flaky (fails once).
    #[arg(long, default_value = "noop=1", value_parser = mix)]
    pub(crate) mix: Mix,
    /// Keep the fleet's data and logs in this folder.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Write what was measured to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct BenchCompare {
    /// The report to hold against.
    pub(crate) before: PathBuf,
    /// The new report.
    pub(crate) after: PathBuf,
    /// Least change that counts, in percent; more where the runs of a report differ by more.
    #[arg(long, default_value_t = 10.0)]
    pub(crate) noise: f64,
}

/// What a task does to its agent. The number travels as the first byte of the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Noop = 0,
    Work = 1,
    Large = 2,
    Flaky = 3,
}

/// Kinds and their shares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mix(Vec<(Kind, u32)>);

impl Mix {
    /// The kind of the task with this number: the shares hold over every full round.
    pub(crate) fn of(&self, number: u64) -> Kind {
        let round: u64 = self.0.iter().map(|(_, share)| u64::from(*share)).sum();
        let mut place = number % round.max(1);
        for (kind, share) in &self.0 {
            if place < u64::from(*share) {
                return *kind;
            }
            place -= u64::from(*share);
        }
        Kind::Noop
    }
}

fn mix(text: &str) -> Result<Mix, String> {
    let hint = || "give it as noop=90,work=5,large=4,flaky=1".to_owned();
    let mut shares = Vec::new();
    for part in text.split(',') {
        let (kind, share) = part.split_once('=').ok_or_else(hint)?;
        let kind = match kind {
            "noop" => Kind::Noop,
            "work" => Kind::Work,
            "large" => Kind::Large,
            "flaky" => Kind::Flaky,
            _ => return Err(hint()),
        };
        let share: u32 = share.parse().ok().filter(|share| (1..=1_000_000).contains(share)).ok_or_else(hint)?;
        shares.push((kind, share));
    }
    Ok(Mix(shares))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_hold_over_a_round() {
        let mix = mix("noop=3,large=1").unwrap();
        let kinds: Vec<Kind> = (0..8).map(|n| mix.of(n)).collect();
        assert_eq!(kinds.iter().filter(|kind| **kind == Kind::Large).count(), 2);
        assert_eq!(kinds[..4], kinds[4..]);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "noop", "noop=0", "noop=x", "nap=1", "noop=1,"] {
            assert!(mix(text).is_err(), "{text}");
        }
    }
}
