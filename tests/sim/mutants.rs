//! Proof that the simulator sees: each planted bug must be caught within so many seeds.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use hive_core::mutant::{self as core, Mutant as Core};
use hive_sidecar::mutant::{self as sidecar, Mutant as Sidecar};

use crate::report::{failed, run_one};
use crate::variable;
use crate::world::Verbose;

#[derive(Debug, Clone, Copy)]
enum Planted {
    Core(Core),
    Sidecar(Sidecar),
}
use Planted::{Core as C, Sidecar as S};

const MUTANTS: &[(&str, Planted)] = &[
    ("told_before_commit", C(Core::ToldBeforeCommit)),
    ("rejection_told", C(Core::RejectionTold)),
    ("duplicate_told", C(Core::DuplicateTold)),
    ("superseded_told", C(Core::SupersededTold)),
    ("stale_attempt", C(Core::StaleAttempt)),
    ("no_reoffer", C(Core::NoReoffer)),
    ("slots_ignored", C(Core::SlotsIgnored)),
    ("id_reused", C(Core::IdReused)),
    ("id_overwritten", C(Core::IdOverwritten)),
    ("stale_timer", C(Core::StaleTimer)),
    ("unknown_landed", C(Core::UnknownLanded)),
    ("retention_live", C(Core::RetentionLive)),
    ("no_grace", C(Core::NoGrace)),
    ("no_resume", C(Core::NoResume)),
    ("stale_no", S(Sidecar::StaleNo)),
    ("skip_journal", S(Sidecar::SkipJournal)),
    ("result_unjournaled", S(Sidecar::ResultUnjournaled)),
    ("premature_seen", S(Sidecar::PrematureSeen)),
    ("no_relist", S(Sidecar::NoRelist)),
    ("result_once", S(Sidecar::ResultOnce)),
];

fn plant(planted: Option<Planted>) {
    core::plant(if let Some(C(mutant)) = planted { Some(mutant) } else { None });
    sidecar::plant(if let Some(S(mutant)) = planted { Some(mutant) } else { None });
}

#[test]
fn mutants() {
    let wanted = std::env::var("HIVE_MUTANT").ok();
    let chosen: Vec<_> = MUTANTS.iter().filter(|(name, _)| wanted.as_deref().is_none_or(|w| w == *name)).collect();
    let names: Vec<_> = MUTANTS.iter().map(|(name, _)| *name).collect();
    assert!(!chosen.is_empty(), "HIVE_MUTANT is one of {names:?}");
    if let (Some(seed), [(_, planted)]) = (variable("HIVE_SEED"), &chosen[..]) {
        plant(Some(*planted));
        let run = run_one(seed, Verbose::Nothing);
        eprintln!("{}", if run.failure.is_some() { failed(seed, &run) } else { format!("seed {seed} is well") });
        return plant(None);
    }
    let count = variable("HIVE_SEEDS").unwrap_or(1_000);
    let (next, missed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some((name, planted)) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                    plant(Some(*planted));
                    let caught = (1..=count).find_map(|seed| Some((seed, run_one(seed, Verbose::Nothing).failure?)));
                    plant(None);
                    match caught {
                        Some((seed, failure)) => {
                            let failure: String =
                                failure.lines().next().unwrap_or_default().chars().take(140).collect();
                            println!("{name}: caught by seed {seed}: {failure}");
                        }
                        None => {
                            println!("{name}: NOT CAUGHT by {count} seeds");
                            missed.lock().expect("no panic").push(*name);
                        }
                    }
                }
            });
        }
    });
    let missed = missed.into_inner().expect("no panic");
    assert!(missed.is_empty(), "not caught by {count} seeds: {missed:?}; the simulator is blind to them");
}
