//! Keeps the file: appends at once, syncs what stays unreleased, rewrites. What may take long (sync,
//! rewrite) happens on a thread that may block; while a rewrite is under way nothing is appended.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::file::Journal;
use crate::attempt::AttemptKey;
use crate::clock;
use crate::session::JournalSeq;
use crate::session::record::Entry;
use crate::tasks::Tasks;

/// An end that is released by then needs no sync.
const SYNC_AFTER_MS: u64 = 100;

/// An append asked for.
pub type Append = (JournalSeq, Vec<Entry>);

/// Whether the disk is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syncing {
    /// Ends that stay unreleased survive the loss of the host.
    AsNeeded,
    /// Never: for simulations, which own every thread.
    Never,
}

/// The keeper's part failed: nothing can be appended any more.
#[derive(Debug, thiserror::Error)]
#[error("the journal's rewrite panicked")]
pub struct Lost;

/// See the module.
#[derive(Debug)]
pub struct Keeper {
    /// Away while it is rewritten.
    journal: Option<Journal>,
    rewrite: Option<JoinHandle<Journal>>,
    syncing: Syncing,
    /// A sync under way.
    sync: Option<JoinHandle<()>>,
    /// Ends that a loss of the host would take, and since when.
    unsynced: BTreeMap<AttemptKey, u64>,
    tasks: Tasks,
}

impl Keeper {
    /// Of an open journal.
    #[must_use]
    pub fn new(journal: Journal, syncing: Syncing, tasks: Tasks) -> Self {
        Self { journal: Some(journal), rewrite: None, syncing, sync: None, unsynced: BTreeMap::new(), tasks }
    }

    /// Appends all of `appends` with one write, and says of each in order whether it happened. Leaves
    /// them where they are while the file is being rewritten; [`Keeper::turn`] ends with that.
    pub fn append(&mut self, appends: &mut VecDeque<Append>) -> Vec<(JournalSeq, bool)> {
        let Some(journal) = &mut self.journal else { return Vec::new() };
        if appends.is_empty() {
            return Vec::new();
        }
        let results = journal.append(appends.iter().map(|(_, entries)| entries.as_slice()));
        let mut answers = Vec::with_capacity(appends.len());
        for ((seq, entries), result) in appends.drain(..).zip(results) {
            if result.is_ok() && self.syncing == Syncing::AsNeeded {
                note(&mut self.unsynced, &entries);
            }
            answers.push((seq, result.is_ok()));
        }
        if journal.wants_rewrite() {
            self.rewrite();
        }
        answers
    }

    fn rewrite(&mut self) {
        let Some(mut journal) = self.journal.take() else { return };
        if self.syncing == Syncing::Never {
            tidy(&mut journal);
            self.journal = Some(journal);
            return;
        }
        self.rewrite = Some(self.tasks.spawn_blocking(move || {
            tidy(&mut journal);
            journal
        }));
    }

    /// Something to wait for: there is a sync or a rewrite to come or under way.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.rewrite.is_some() || self.sync.is_some() || !self.unsynced.is_empty()
    }

    /// Waits for the next thing that is due or done, and sees to it. Cancel safe.
    ///
    /// # Errors
    /// The journal is lost.
    pub async fn turn(&mut self) -> Result<(), Lost> {
        let since = self.unsynced.values().min().filter(|_| self.sync.is_none());
        let left = since.map(|since| (since + SYNC_AFTER_MS).saturating_sub(clock::boot_ms()));
        tokio::select! {
            journal = done(&mut self.rewrite) => {
                self.rewrite = None;
                self.journal = Some(journal.map_err(|_| Lost)?);
            }
            synced = done(&mut self.sync) => {
                self.sync = None;
                if synced.is_err() {
                    tracing::error!("a sync of the journal panicked");
                }
            }
            () = tokio::time::sleep(Duration::from_millis(left.unwrap_or_default())), if left.is_some() => self.sync(),
        }
        Ok(())
    }

    fn sync(&mut self) {
        self.unsynced.clear();
        // A rewritten file is synced whole.
        let Some(journal) = &self.journal else { return };
        let sync = journal.syncer();
        self.sync = Some(self.tasks.spawn_blocking(move || report(sync())));
    }

    /// Waits until everything appended is on the disk.
    pub async fn close(mut self) {
        while self.sync.is_some() || self.rewrite.is_some() {
            if self.turn().await.is_err() {
                return tracing::error!("the journal's rewrite panicked");
            }
        }
        let Some(journal) = self.journal.filter(|_| self.syncing == Syncing::AsNeeded) else { return };
        let last = self.tasks.spawn_blocking(move || report(journal.sync()));
        if last.await.is_err() {
            tracing::error!("the journal could not be closed");
        }
    }
}

/// Resolves when the work under way has ended; never without one.
async fn done<T>(work: &mut Option<JoinHandle<T>>) -> Result<T, tokio::task::JoinError> {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}

fn report(synced: std::io::Result<()>) {
    if let Err(error) = synced {
        tracing::error!(%error, "cannot sync the journal: results would not survive the loss of this host");
    }
}

fn tidy(journal: &mut Journal) {
    if let Err(error) = journal.tidy() {
        tracing::error!(error = %error, cause = ?std::error::Error::source(&error), "cannot rewrite the journal; going on with the old file");
    }
}

fn note(unsynced: &mut BTreeMap<AttemptKey, u64>, entries: &[Entry]) {
    for entry in entries {
        match entry {
            Entry::Ended { key, .. } => _ = unsynced.insert(*key, clock::boot_ms()),
            Entry::Settled { key, .. } => _ = unsynced.remove(key),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Limits, codec::tests::one_of_each};
    use super::*;

    fn open(dir: &std::path::Path, rewrite: u64) -> (Keeper, Tasks) {
        let limits = Limits { min_free: 0, rewrite, ..Limits::default() };
        let (journal, _) = Journal::open(dir, limits).expect("opens");
        let tasks = Tasks::new();
        (Keeper::new(journal, Syncing::AsNeeded, tasks.clone()), tasks)
    }

    fn appends(from: u64) -> VecDeque<Append> {
        one_of_each().into_iter().enumerate().map(|(n, entry)| (JournalSeq(from + n as u64), vec![entry])).collect()
    }

    #[tokio::test]
    async fn answers_in_order_and_keeps_all_when_closed() {
        let dir = tempfile::tempdir().expect("a folder");
        let (mut keeper, _tasks) = open(dir.path(), u64::MAX);
        let answers = keeper.append(&mut appends(7));
        assert!(answers.iter().enumerate().all(|(n, answer)| *answer == (JournalSeq(7 + n as u64), true)));
        keeper.close().await;
        let (_, state) = Journal::open(dir.path(), Limits::default()).expect("opens again");
        assert_eq!(state.settled.len(), 1);
    }

    #[tokio::test]
    async fn an_end_that_nobody_releases_is_synced_soon_and_one_that_is_released_is_not() {
        let dir = tempfile::tempdir().expect("a folder");
        let (mut keeper, _tasks) = open(dir.path(), u64::MAX);
        let all = one_of_each();
        let ended = all.iter().position(|entry| matches!(entry, Entry::Ended { .. })).expect("one");
        keeper.append(&mut VecDeque::from([(JournalSeq(1), vec![all[ended].clone()])]));
        assert!(keeper.is_busy());
        while keeper.is_busy() {
            let turn = tokio::time::timeout(Duration::from_secs(20), keeper.turn());
            turn.await.expect("in time").expect("kept");
        }
        let Entry::Ended { key, .. } = &all[ended] else { unreachable!() };
        let settled = all.iter().find_map(|entry| match entry {
            Entry::Settled { settlement, revision, .. } => {
                Some(Entry::Settled { key: *key, settlement: *settlement, revision: *revision })
            }
            _ => None,
        });
        let batch = vec![all[ended].clone(), settled.expect("one")];
        keeper.append(&mut VecDeque::from([(JournalSeq(2), batch)]));
        assert!(!keeper.is_busy());
    }

    #[tokio::test]
    async fn nothing_is_appended_or_lost_while_it_is_rewritten() {
        let dir = tempfile::tempdir().expect("a folder");
        let (mut keeper, _tasks) = open(dir.path(), 1);
        assert_eq!(keeper.append(&mut appends(0)).len(), one_of_each().len());
        let mut waiting = appends(100);
        assert!(keeper.append(&mut waiting).is_empty(), "it is away");
        assert_eq!(waiting.len(), one_of_each().len());
        while keeper.append(&mut waiting).is_empty() {
            let turn = tokio::time::timeout(Duration::from_secs(20), keeper.turn());
            turn.await.expect("in time").expect("kept");
        }
        keeper.close().await;
    }
}
