//! The faults of a run: drawn before it begins and from a source of their own, so that one can be
//! left out without moving the others. That is how a failure is shrunk.

use std::collections::BTreeSet;

use crate::options::{Fault, Mode, Options};
use crate::report::{Run, run_cut};
use crate::rng::Rng;
use crate::world::Verbose;

/// One fault.
#[derive(Debug, Clone)]
pub(crate) struct Strike {
    pub(crate) at: u64,
    pub(crate) fault: Fault,
    /// Which sidecar, where one is meant.
    pub(crate) side: usize,
    pub(crate) lasts: u64,
    /// What else there is to choose comes from here.
    pub(crate) salt: u64,
}

/// Liveness mode: what is not of the core goes on being struck for so long.
const LINGERS: u64 = 60_000;

/// The strikes of a seed.
pub(crate) fn draw(seed: u64, options: &Options) -> Vec<Strike> {
    let mut rng = Rng::new(seed.rotate_left(32) ^ 0x6a09_e667_f3bc_c908);
    let mut strikes = Vec::new();
    let end = options.chaos + if options.mode == Mode::Liveness { LINGERS } else { 0 };
    let mut at = 1_000 + options.fault_every;
    while at < 1_000 + end && !options.faults.is_empty() {
        strikes.push(Strike {
            at,
            fault: *rng.pick(&options.faults),
            side: rng.index(options.sidecars),
            lasts: rng.skewed(50, options.fault_longest),
            salt: rng.next(),
        });
        at += rng.between(1, 2 * options.fault_every);
    }
    strikes
}

/// What is left out of a run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cut {
    /// The strikes that stay; all of them if absent.
    pub(crate) keep: Option<BTreeSet<usize>>,
    /// Frames are not lost, frames are not repeated, calls are not lost, outcomes are not unknown.
    pub(crate) calm: [bool; 4],
}

const AMBIENT: [&str; 4] = ["lost", "repeated", "calls", "doubts"];

impl Cut {
    /// Of `HIVE_FAULTS`: numbers of strikes and names of what else goes wrong, all others left out.
    pub(crate) fn parse(text: &str) -> Self {
        let words: BTreeSet<&str> = text.split([',', ' ']).filter(|word| !word.is_empty()).collect();
        let calm = AMBIENT.map(|name| !words.contains(name));
        Self { keep: Some(words.iter().filter_map(|word| word.parse().ok()).collect()), calm }
    }

    pub(crate) fn keeps(&self, nth: usize) -> bool {
        self.keep.as_ref().is_none_or(|keep| keep.contains(&nth))
    }

    pub(crate) fn apply(&self, options: &mut Options) {
        let levels = [&mut options.lost, &mut options.repeated, &mut options.lost_calls, &mut options.doubts];
        for (level, calm) in levels.into_iter().zip(self.calm) {
            if calm {
                *level = 0;
            }
        }
    }

    pub(crate) fn variable(&self) -> String {
        let kept = self.keep.iter().flatten().map(ToString::to_string);
        let ambient = AMBIENT.iter().zip(self.calm).filter(|(_, calm)| !calm).map(|(name, _)| (*name).to_owned());
        kept.chain(ambient).collect::<Vec<_>>().join(",")
    }
}

/// Runs spent on making a failure smaller.
const TRIES: usize = 300;

/// The smallest set of faults found under which a seed still fails: halves are left out first, then
/// single ones ("delta debugging", Zeller and Hildebrandt, 2002, without its complements).
pub(crate) fn shrink(seed: u64, strikes: usize) -> (Cut, Run) {
    let mut best = Cut { keep: Some((0..strikes).collect()), calm: [false; 4] };
    let mut tries = 0;
    let mut fails = |cut: &Cut| {
        tries += 1;
        tries <= TRIES && run_cut(seed, Verbose::Nothing, cut).failure.is_some()
    };
    for nth in 0..AMBIENT.len() {
        let mut cut = best.clone();
        cut.calm[nth] = true;
        if fails(&cut) {
            best = cut;
        }
    }
    let mut size = strikes.div_ceil(2).max(1);
    loop {
        let kept: Vec<usize> = best.keep.iter().flatten().copied().collect();
        let mut smaller = false;
        for chunk in kept.chunks(size) {
            let mut cut = best.clone();
            cut.keep.iter_mut().for_each(|keep| keep.retain(|nth| !chunk.contains(nth)));
            if fails(&cut) {
                best = cut;
                smaller = true;
            }
        }
        if size == 1 && !smaller {
            break;
        }
        if !smaller || size > 1 {
            size = size.div_ceil(2).max(1);
        }
        if size == 1 && kept.len() <= 1 && !smaller {
            break;
        }
    }
    let run = run_cut(seed, Verbose::Kept, &best);
    (best, run)
}
