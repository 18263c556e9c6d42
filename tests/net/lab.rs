//! What outlives the simulated hosts: the store, the sidecars' machines, and the book in which
//! everything that must add up in the end is written.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use hive_control_plane::store::{Op, Transaction, codec};
use hive_core::id::TaskId;
use hive_core::invariant;
use hive_core::record::{Record, TaskRecord};
use hive_sidecar::attempt::{AttemptKey, StartAttempt};

use crate::memory::{Fate, Memory};
use crate::rng::{Digest, Rng};

/// When a simulation begins; any time will do, but every run the same.
pub(crate) const EPOCH_MS: u64 = 1_800_000_000_000;

/// Virtual time in ms since the Unix epoch. Of the host that runs.
pub(crate) fn now() -> u64 {
    turmoil::since_epoch().map_or(EPOCH_MS, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// A task as its client knows it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Entry {
    pub(crate) payload: Bytes,
    /// SubmitTask has answered OK.
    pub(crate) accepted: bool,
    /// Somebody has asked to cancel it.
    pub(crate) cancelled: bool,
    /// The end as it was told first: state, attempt, result.
    pub(crate) told: Option<(i32, u32, Bytes)>,
}

/// A program under an attempt; it outlives its sidecar.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    pub(crate) start: StartAttempt,
    pub(crate) started_ms: u64,
    pub(crate) ends_ms: u64,
    pub(crate) cancelled: bool,
}

/// How often what happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Stats {
    pub(crate) commits: u64,
    /// Commits while a fault was on.
    pub(crate) commits_under_fault: u64,
    pub(crate) unknown: u64,
    pub(crate) begun: u64,
    pub(crate) ended: u64,
    pub(crate) calls: u64,
    pub(crate) calls_failed: u64,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Book {
    pub(crate) tasks: BTreeMap<TaskId, Entry>,
    /// How often each attempt was begun.
    pub(crate) begun: BTreeMap<AttemptKey, u32>,
    /// How often each task has ended, by the store.
    pub(crate) ended: BTreeMap<TaskId, u32>,
    /// When a sidecar dialled.
    pub(crate) dials: Vec<(u64, String)>,
    pub(crate) programs: BTreeMap<String, BTreeMap<AttemptKey, Program>>,
    pub(crate) stats: Stats,
    /// What should not have happened.
    pub(crate) faults: Vec<String>,
    pub(crate) digest: Option<Digest>,
    /// Faults in force, and whether commits fare badly.
    pub(crate) trouble: u32,
    pub(crate) store: Trouble,
    /// The lead has been taken from the control plane, which is right to fail.
    pub(crate) usurped: bool,
    /// The last words of the story, for a failing run.
    pub(crate) story: Vec<String>,
}

/// What the store does to commits.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Trouble {
    pub(crate) slow_ms: u64,
    /// Commits in a thousand whose outcome is not told.
    pub(crate) unknown: u64,
    pub(crate) full: bool,
}

impl Book {
    pub(crate) fn fault(&mut self, fault: String) {
        self.say(|| format!("FAULT {fault}"));
        self.faults.push(fault);
    }

    pub(crate) fn note(&mut self, what: u64, value: &[u8]) {
        let digest = self.digest.get_or_insert(Digest(0));
        digest.add(now());
        digest.add(what);
        digest.bytes(value);
    }

    pub(crate) fn say(&mut self, line: impl FnOnce() -> String) {
        let line = format!("{:>9.3} {}", (now() - EPOCH_MS) as f64 / 1_000.0, line());
        self.story.push(line);
    }
}

/// Shared by all hosts of one simulation.
pub(crate) struct Lab {
    book: Arc<Mutex<Book>>,
    pub(crate) store: Memory,
    pub(crate) seed: u64,
}

impl Lab {
    pub(crate) fn new(seed: u64) -> Arc<Self> {
        let book = Arc::new(Mutex::new(Book::default()));
        let (drawn, heard) = (Arc::clone(&book), Arc::clone(&book));
        let mut rng = Rng::new(seed ^ 0x5703e);
        let draw = move |_: &Transaction| {
            let mut book = drawn.lock().expect("the book");
            let trouble = book.store;
            let takes = Duration::from_millis(
                rng.between(0, 4) + if trouble.slow_ms > 0 { rng.between(0, trouble.slow_ms) } else { 0 },
            );
            let unknown = rng.chance(trouble.unknown).then(|| rng.chance(500));
            book.stats.unknown += u64::from(unknown.is_some());
            Fate { takes, early: rng.chance(500), unknown, full: trouble.full }
        };
        let landed = move |tx: &Transaction, before: &BTreeMap<Bytes, Bytes>| {
            heard.lock().expect("the book").landed(tx, before);
        };
        Arc::new(Self { book, store: Memory::watched(Box::new(draw), Box::new(landed)), seed })
    }

    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().expect("the book")
    }

    /// A line of the story from outside the hosts.
    pub(crate) fn tell(&self, at_ms: u64, line: impl FnOnce() -> String) {
        let line = format!("{:>9.3} {}", at_ms as f64 / 1_000.0, line());
        self.book().story.push(line);
    }

    /// The tasks of the store.
    pub(crate) fn tasks(&self) -> BTreeMap<TaskId, Arc<TaskRecord>> {
        let records = self.store.records();
        records.iter().filter_map(|(key, value)| task(key, value)).map(|task| (task.id, task)).collect()
    }
}

fn task(key: &Bytes, value: &Bytes) -> Option<Arc<TaskRecord>> {
    match codec::decode(key, value).expect("what was written can be read").value {
        Some(Record::Task(task)) => Some(task),
        _ => None,
    }
}

impl Book {
    /// Held against every commit: ended tasks stay as they ended, attempts only grow (I2, I4), nobody's
    /// tasks are not made (I5).
    fn landed(&mut self, tx: &Transaction, records: &BTreeMap<Bytes, Bytes>) {
        self.stats.commits += 1;
        self.stats.commits_under_fault += u64::from(self.trouble > 0);
        self.note(tx.seq, b"commit");
        for op in &tx.ops {
            self.note(1, op.key());
            let Op::Put { key, value } = op else { continue };
            let Some(after) = codec::decode_key(key).is_some().then(|| task(key, value)).flatten() else { continue };
            let before = records.get(key).and_then(|value| task(key, value));
            if !self.tasks.contains_key(&after.id) {
                self.fault(format!("I5: nobody offered task {}", after.id));
            }
            if let Some(before) = &before
                && let Err(fault) = invariant::check_succession(before, &after)
            {
                self.fault(format!("I2/I4: {fault}"));
            }
            if after.is_ended() && before.is_none_or(|before| !before.is_ended()) {
                self.stats.ended += 1;
                let times = self.ended.entry(after.id).or_default();
                *times += 1;
                if *times > 1 {
                    let id = after.id;
                    self.fault(format!("I1: task {id} ended a second time"));
                }
            }
        }
    }
}
