//! The thread that owns the file: takes appends in groups, answers each, syncs what stays unreleased.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc::Sender;

use super::file::Journal;
use crate::attempt::AttemptKey;
use crate::session::JournalSeq;
use crate::session::record::Entry;
use crate::{clock, tasks};

/// Appends waiting for the thread. Full: the asker keeps them and reads no more input meanwhile.
const QUEUE: usize = 256;
/// An end that is released by then needs no sync.
const SYNC_AFTER_MS: u64 = 20;

/// An append asked for.
pub type Append = (JournalSeq, Vec<Entry>);

/// Who writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writing {
    /// A thread of its own, so that a slow disk holds nobody up.
    Thread,
    /// Whoever appends, at once and without sync: for simulations, which own every hand-over.
    Inline,
}

/// Leads to the writer. Dropped: a thread syncs and ends.
#[derive(Debug)]
pub struct Handle(Writer);

#[derive(Debug)]
enum Writer {
    Thread { queue: SyncSender<Append>, thread: std::thread::JoinHandle<()> },
    Inline { journal: Mutex<Journal>, answers: Sender<(JournalSeq, bool)> },
}

impl Handle {
    /// Hands an append over, or back if there is no room now; there is after the next answer.
    ///
    /// # Errors
    /// No room, or the thread is gone: its answers have ended then, too.
    pub fn append(&self, append: Append) -> Result<(), Append> {
        match &self.0 {
            Writer::Thread { queue, .. } => queue.try_send(append).map_err(|refused| match refused {
                TrySendError::Full(append) | TrySendError::Disconnected(append) => append,
            }),
            Writer::Inline { journal, answers } => {
                let Ok(place) = answers.try_reserve() else { return Err(append) };
                let mut journal = journal.lock().unwrap_or_else(PoisonError::into_inner);
                let done = journal.append([append.1.as_slice()]).iter().all(Result::is_ok);
                place.send((append.0, done));
                tidy(&mut journal);
                Ok(())
            }
        }
    }

    /// Waits until everything handed over is on the disk. Blocks.
    pub fn close(self) {
        let Writer::Thread { queue, thread } = self.0 else { return };
        drop(queue);
        if thread.join().is_err() {
            tracing::error!("the journal's thread panicked");
        }
    }
}

/// Starts the writer. It answers every append in order: whether it happened.
///
/// # Errors
/// No thread could be started.
pub fn start(journal: Journal, writing: Writing, answers: Sender<(JournalSeq, bool)>) -> std::io::Result<Handle> {
    if writing == Writing::Inline {
        return Ok(Handle(Writer::Inline { journal: Mutex::new(journal), answers }));
    }
    let (queue, appends) = sync_channel(QUEUE);
    let thread = tasks::thread("journal", move || run(journal, &appends, &answers))?;
    Ok(Handle(Writer::Thread { queue, thread }))
}

fn tidy(journal: &mut Journal) {
    if let Err(error) = journal.tidy() {
        tracing::error!(error = %error, cause = ?std::error::Error::source(&error), "cannot rewrite the journal; going on with the old file");
    }
}

fn run(mut journal: Journal, appends: &Receiver<Append>, answers: &Sender<(JournalSeq, bool)>) {
    // Ends in the file that a loss of the host would take, and since when.
    let mut unsynced: BTreeMap<AttemptKey, u64> = BTreeMap::new();
    loop {
        let due = unsynced.values().min().map(|since| since + SYNC_AFTER_MS);
        let first = match due {
            Some(due) => appends.recv_timeout(Duration::from_millis(due.saturating_sub(clock::boot_ms()))),
            None => appends.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        let group: Vec<Append> = match first {
            Ok(first) => std::iter::once(first).chain(appends.try_iter().take(QUEUE)).collect(),
            Err(RecvTimeoutError::Timeout) => Vec::new(),
            Err(RecvTimeoutError::Disconnected) => break,
        };
        if !group.is_empty() {
            let results = journal.append(group.iter().map(|(_, entries)| entries.as_slice()));
            for ((seq, entries), result) in group.iter().zip(results) {
                if result.is_ok() {
                    note(&mut unsynced, entries);
                }
                if answers.blocking_send((*seq, result.is_ok())).is_err() {
                    // Nobody waits any more; what was appended is still synced below.
                    tracing::debug!("an append was not waited for");
                }
            }
            tidy(&mut journal);
        }
        if unsynced.values().any(|since| since + SYNC_AFTER_MS <= clock::boot_ms()) {
            if let Err(error) = journal.sync() {
                tracing::error!(%error, "cannot sync the journal: results would not survive the loss of this host");
            }
            unsynced.clear();
        }
    }
    if let Err(error) = journal.sync() {
        tracing::error!(%error, "cannot sync the journal at the end");
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

    #[tokio::test(flavor = "multi_thread")]
    async fn answers_in_order_and_keeps_all_when_closed() {
        for writing in [Writing::Thread, Writing::Inline] {
            answers_and_keeps(writing).await;
        }
    }

    async fn answers_and_keeps(writing: Writing) {
        let dir = tempfile::tempdir().expect("a folder");
        let limits = Limits { min_free: 0, ..Limits::default() };
        let (journal, _) = Journal::open(dir.path(), limits).expect("opens");
        let (answers, mut heard) = tokio::sync::mpsc::channel(4);
        let handle = start(journal, writing, answers).expect("a thread");
        for (n, entry) in one_of_each().into_iter().enumerate() {
            handle.append((JournalSeq(n as u64), vec![entry])).expect("room");
            assert_eq!(heard.recv().await, Some((JournalSeq(n as u64), true)));
        }
        tokio::task::block_in_place(|| handle.close());
        let (_, state) = Journal::open(dir.path(), limits).expect("opens again");
        assert_eq!(state.settled.len(), 1);
    }
}
