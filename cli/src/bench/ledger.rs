//! What became of every task: the judge of lost and doubled, and the keeper of latencies. Pure.

use std::collections::HashMap;

use hdrhistogram::Histogram;
use hive_proto::v1::TaskState;
use uuid::Uuid;

/// Times between 1 µs and 10 min, to three digits, in nanoseconds.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, 600_000_000_000, 3).unwrap_or_else(|_| unreachable!("the bounds are sound"))
}

/// Where a task stands, as far as this client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// Sent, at this time; whether it was accepted is not known yet.
    Sent(u64),
    /// The control plane has answered for it.
    Accepted(u64),
    /// Its end was told before its acceptance.
    EndedEarly(TaskState),
    /// Its end was told.
    Ended(TaskState),
}

/// What was counted. Every task sent is in exactly one of `succeeded`, `failed`, `cancelled`,
/// `expired`, `refused` and `open`; `unknown` and `doubled` say more of some of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(super) struct Counts {
    pub(super) sent: u64,
    pub(super) succeeded: u64,
    pub(super) failed: u64,
    pub(super) cancelled: u64,
    pub(super) expired: u64,
    /// Not accepted, and told so.
    pub(super) refused: u64,
    /// Calls whose outcome nobody told; their tasks are looked up at the end.
    pub(super) unknown: u64,
    /// Times the watch broke; what ended meanwhile was looked up.
    pub(super) watches_broken: u64,
    /// Ended by a later attempt than the first.
    pub(super) retried: u64,
    /// Whose end was told twice, and not the same.
    pub(super) doubled: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Ledger {
    tasks: HashMap<Uuid, Known>,
    open: u64,
    counts: Counts,
    /// Tasks and when each was meant to be sent, if that is kept.
    times: Option<Vec<(Uuid, u64)>>,
    /// Submission to the news of the end, in nanoseconds.
    done: Histogram<u64>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self { tasks: HashMap::new(), open: 0, counts: Counts::default(), times: None, done: histogram() }
    }
}

impl Ledger {
    /// A task goes out; `at` is when it was meant to.
    pub(super) fn sent(&mut self, id: Uuid, at: u64) {
        self.counts.sent += 1;
        self.open += 1;
        self.tasks.insert(id, Known::Sent(at));
        if let Some(times) = &mut self.times {
            times.push((id, at));
        }
    }

    /// Whether to keep the time of each task; gives back what was kept.
    pub(super) fn keep_times(&mut self, keep: bool) -> Vec<(Uuid, u64)> {
        std::mem::replace(&mut self.times, keep.then(Vec::new)).unwrap_or_default()
    }

    pub(super) fn accepted(&mut self, id: Uuid) {
        match self.tasks.get_mut(&id) {
            Some(known @ Known::Sent(_)) => {
                if let Known::Sent(at) = *known {
                    *known = Known::Accepted(at);
                }
            }
            Some(known @ Known::EndedEarly(_)) => {
                if let Known::EndedEarly(state) = *known {
                    *known = Known::Ended(state);
                }
            }
            _ => {}
        }
    }

    /// The control plane has not taken it. True: a place in the window is free.
    pub(super) fn refused(&mut self, id: Uuid) -> bool {
        let was_open = matches!(self.tasks.remove(&id), Some(Known::Sent(_)));
        if was_open {
            self.open -= 1;
            self.counts.refused += 1;
        }
        was_open
    }

    pub(super) fn watch_broke(&mut self) {
        self.counts.watches_broken += 1;
    }

    pub(super) fn unknown(&mut self) {
        self.counts.unknown += 1;
    }

    /// The end of a task was told. True: a place in the window is free.
    pub(super) fn ended(&mut self, id: Uuid, state: TaskState, attempt: u32, now: u64) -> bool {
        let Some(known) = self.tasks.get_mut(&id) else { return false };
        let (at, next) = match *known {
            Known::Sent(at) => (at, Known::EndedEarly(state)),
            Known::Accepted(at) => (at, Known::Ended(state)),
            Known::EndedEarly(before) | Known::Ended(before) => {
                self.counts.doubled += u64::from(before != state);
                return false;
            }
        };
        *known = next;
        self.open -= 1;
        self.counts.retried += u64::from(attempt > 1);
        match state {
            TaskState::Succeeded => self.counts.succeeded += 1,
            TaskState::Cancelled => self.counts.cancelled += 1,
            TaskState::Expired => self.counts.expired += 1,
            _ => self.counts.failed += 1,
        }
        self.done.saturating_record(now.saturating_sub(at).max(1_000));
        true
    }

    /// Tasks that were sent and of whose end nothing was told.
    pub(super) fn open(&self) -> Vec<Uuid> {
        let open = |known: &Known| matches!(known, Known::Sent(_) | Known::Accepted(_));
        self.tasks.iter().filter(|(_, known)| open(known)).map(|(id, _)| *id).collect()
    }

    pub(super) fn open_count(&self) -> u64 {
        self.open
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// The latencies since the last call.
    pub(super) fn take_done(&mut self) -> Histogram<u64> {
        std::mem::replace(&mut self.done, histogram())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_counted_once_whatever_comes_first() {
        let mut ledger = Ledger::default();
        let (early, late, no) = (Uuid::from_u128(1), Uuid::from_u128(2), Uuid::from_u128(3));
        for id in [early, late, no] {
            ledger.sent(id, 5_000);
        }
        assert!(ledger.ended(early, TaskState::Succeeded, 1, 9_000));
        ledger.accepted(early);
        ledger.accepted(late);
        assert!(!ledger.ended(early, TaskState::Succeeded, 1, 10_000), "told again");
        assert!(ledger.ended(late, TaskState::Failed, 2, 20_000));
        assert!(ledger.refused(no));
        assert!(!ledger.ended(no, TaskState::Succeeded, 1, 0), "not ours any more");
        let expected = Counts { sent: 3, succeeded: 1, failed: 1, refused: 1, retried: 1, ..Counts::default() };
        assert_eq!((ledger.counts(), ledger.open_count()), (expected, 0));
        assert_eq!(ledger.take_done().len(), 2);
    }

    #[test]
    fn two_ends_that_differ_are_a_double() {
        let mut ledger = Ledger::default();
        let id = Uuid::from_u128(1);
        ledger.sent(id, 0);
        ledger.ended(id, TaskState::Succeeded, 1, 1);
        ledger.ended(id, TaskState::Failed, 1, 2);
        assert_eq!(ledger.counts().doubled, 1);
    }

    #[test]
    fn what_nobody_told_of_stays_open() {
        let mut ledger = Ledger::default();
        let id = Uuid::from_u128(7);
        ledger.sent(id, 0);
        ledger.accepted(id);
        assert_eq!(ledger.open(), [id]);
    }
}
