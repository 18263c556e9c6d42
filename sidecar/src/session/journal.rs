//! What waits for the journal, and what follows when it refuses.

use hive_proto::sidecar_v1::{DeclineReason, Outcome};

use super::attempt::Phase;
use super::record::Entry;
use super::types::{Connection, JournalSeq, Output};
use super::{Session, assign::Taken};
use crate::attempt::{AttemptEnd, AttemptKey};
use crate::runtime::RuntimeCommand;

/// First and longest wait before the journal is tried again.
const RETRY_MS: (u64, u64) = (1_000, 30_000);

/// An append under way.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) seq: JournalSeq,
    pub(super) then: Vec<Then>,
}

/// What follows an append.
#[derive(Debug)]
pub(super) enum Then {
    /// Dial.
    Dial(Connection),
    /// Start what was intended, answer the rest.
    Take(Taken),
    /// Tell a settlement.
    Tell(AttemptKey),
    /// Only see to it that a settlement gets written.
    Keep(AttemptKey),
    /// Send a result.
    Finish(AttemptKey),
}

/// What is known of the journal's health.
#[derive(Debug, Default)]
pub(super) struct Disk {
    /// Take no work, and try again then.
    pub(super) ill_until: Option<u64>,
    wait_ms: u64,
}

impl Session {
    pub(super) fn journaled(&mut self, seq: JournalSeq, ok: bool, out: &mut Vec<Output>) {
        if self.pending.front().is_none_or(|p| p.seq != seq) {
            self.nonsense("an append that was not asked for");
            return;
        }
        let Some(pending) = self.pending.pop_front() else { return };
        if !ok {
            self.stats.journal_failures += 1;
            self.disk.wait_ms = (self.disk.wait_ms * 2).clamp(RETRY_MS.0, RETRY_MS.1);
            self.disk.ill_until = Some(self.now.mono_ms + self.disk.wait_ms);
            tracing::warn!(retry_ms = self.disk.wait_ms, "the journal refused an append; taking no work");
        }
        for then in pending.then {
            match then {
                Then::Dial(connection) => self.recorded(connection, ok, out),
                Then::Take(taken) if ok => {
                    if !taken.intents.is_empty() {
                        self.disk.wait_ms = 0;
                    }
                    self.taken(taken, out);
                }
                Then::Take(taken) => self.refused(taken, out),
                Then::Tell(key) => {
                    self.owed.insert(key);
                    if !ok {
                        self.unsaved.insert(key);
                    }
                }
                Then::Keep(key) if ok => _ = self.unsaved.remove(&key),
                Then::Keep(key) => _ = self.unsaved.insert(key),
                Then::Finish(key) => self.ended(key, ok, out),
            }
        }
    }

    /// The intents could not be journaled, so nothing of this frame starts.
    fn refused(&mut self, mut taken: Taken, out: &mut Vec<Output>) {
        let mut entries = Vec::new();
        for key in std::mem::take(&mut taken.intents) {
            if let Some(attempt) = self.attempts.remove(&key) {
                let revision = attempt.assigned.revision;
                self.settle(Entry::declined(key, DeclineReason::JournalFull, revision), &mut entries);
                taken.settled.push(key);
                self.stats.declined += 1;
            }
        }
        if entries.is_empty() {
            // Not even this could be written. It is remembered here, and tried again.
            self.unsaved.extend(taken.settled.iter().copied());
            self.taken(taken, out);
        } else {
            self.append(entries, vec![Then::Take(taken)], out);
        }
    }

    /// An end is (or is not) in the journal.
    fn ended(&mut self, key: AttemptKey, ok: bool, out: &mut Vec<Output>) {
        let Some(attempt) = self.attempts.get_mut(&key) else { return };
        if let Phase::Ending(end) = &attempt.phase
            && ok
        {
            let end = end.clone();
            attempt.phase = Phase::Finished { end, due_ms: self.now.mono_ms, wait_ms: 0 };
            let agent = attempt.assigned.agent.clone();
            out.push(Output::Runtime { agent, command: RuntimeCommand::ResultJournaled { key } });
        }
    }

    /// Tries again what the journal has refused.
    pub(super) fn retry_journal(&mut self, out: &mut Vec<Output>) {
        if self.disk.ill_until.is_none_or(|at| at > self.now.mono_ms) || !self.pending.is_empty() {
            return;
        }
        self.disk.ill_until = None;
        let mut entries = Vec::new();
        let mut then = Vec::new();
        for (&key, attempt) in &self.attempts {
            if let Phase::Ending(end) = &attempt.phase {
                entries.push(Entry::Ended { key, end: end.clone() });
                then.push(Then::Finish(key));
            }
        }
        let unsaved = std::mem::take(&mut self.unsaved);
        for (key, settlement, revision) in self.settled.iter().filter(|(key, ..)| unsaved.contains(key)) {
            entries.push(Entry::Settled { key, settlement, revision });
            then.push(Then::Keep(key));
        }
        if !entries.is_empty() {
            self.append(entries, then, out);
        }
    }

    /// Marks an attempt as over, for good.
    pub(super) fn settle(&mut self, entry: Entry, entries: &mut Vec<Entry>) {
        if let Entry::Settled { key, settlement, revision } = &entry {
            self.settled.insert(*key, *settlement, *revision);
        }
        entries.push(entry);
    }

    /// It was cancelled before it began.
    pub(super) fn end_unstarted(&mut self, key: AttemptKey, out: &mut Vec<Output>) {
        let at = self.now.wall_ms;
        let end = AttemptEnd {
            outcome: Outcome::Cancelled,
            ..AttemptEnd::failed(
                hive_proto::sidecar_v1::FailureReason::Unspecified,
                "cancelled before it started",
                false,
                at,
                at,
            )
        };
        self.end_observed(key, end, out);
    }

    pub(super) fn journal_wakes(&self, due: &mut Vec<u64>) {
        due.extend(self.disk.ill_until);
    }
}
