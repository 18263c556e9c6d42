//! Writes the history while it happens.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};

use hive_sdk::client::TaskExt as _;
use hive_sdk::proto::{Revision, Task};

use crate::history::{Call, End, Excuse, History, Op, Outcome, View};

#[derive(Debug, Default)]
pub(crate) struct Recorder(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    history: History,
    /// Accepted, and no end of it was told; with the time of the answer.
    open: BTreeMap<String, u64>,
    ended: BTreeSet<String>,
    accepted: usize,
}

/// How calls fared.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Fared {
    pub(crate) told: usize,
    pub(crate) failed: usize,
    pub(crate) slowest_us: u64,
}

impl Recorder {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("the history")
    }

    pub(crate) fn offer(&self, task: &str, payload: &str) {
        self.inner().history.offered.insert(task.to_owned(), payload.as_bytes().to_vec());
    }

    pub(crate) fn op(&self, op: Op) {
        let mut inner = self.inner();
        if let Outcome::Told(view) = &op.outcome {
            if op.call == Call::Submit && !inner.ended.contains(&op.task) && !inner.open.contains_key(&op.task) {
                inner.open.insert(op.task.clone(), op.returned);
                inner.accepted += 1;
            }
            if view.end.is_some() {
                inner.end(&op.task);
            }
        }
        inner.history.ops.push(op);
    }

    pub(crate) fn watched(&self, at: u64, view: View) {
        let mut inner = self.inner();
        if view.end.is_some() {
            inner.end(&view.task);
        }
        inner.history.watched.push((at, view));
    }

    pub(crate) fn excuse(&self, excuse: Excuse) {
        self.inner().history.excuses.push(excuse);
    }

    /// Tasks accepted before then whose end nobody was told yet.
    pub(crate) fn open_since(&self, before: u64) -> Vec<String> {
        self.inner().open.iter().filter(|(_, at)| **at < before).map(|(task, _)| task.clone()).collect()
    }

    /// Nobody waits for it any longer.
    pub(crate) fn write_off(&self, task: &str) {
        self.inner().open.remove(task);
    }

    /// Tasks accepted, and ended.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let inner = self.inner();
        (inner.accepted, inner.ended.len())
    }

    /// Calls other than waits that were made between then and then.
    pub(crate) fn fared(&self, from: u64, to: u64) -> Fared {
        let inner = self.inner();
        let mut fared = Fared::default();
        for op in inner.history.ops.iter().rev().take(20_000).filter(|op| op.call != Call::Wait) {
            if op.invoked < from || op.invoked > to {
                continue;
            }
            let answered = !matches!(op.outcome, Outcome::Unknown);
            fared.told += usize::from(answered);
            fared.failed += usize::from(!answered);
            fared.slowest_us = fared.slowest_us.max(op.returned - op.invoked);
        }
        fared
    }

    /// The history so far, which is given away.
    pub(crate) fn take(&self) -> History {
        std::mem::take(&mut self.inner().history)
    }
}

impl Inner {
    fn end(&mut self, task: &str) {
        self.open.remove(task);
        if !self.ended.contains(task) {
            self.ended.insert(task.to_owned());
        }
    }
}

/// A task as it was told; `whole` with its result.
pub(crate) fn view(task: &Task, revision: Option<Revision>, whole: bool) -> View {
    let end = task.is_terminal().then(|| End {
        state: task.state().as_str_name().trim_start_matches("TASK_STATE_").to_owned(),
        agent: task.agent_id.clone(),
        at: task.end_time.map_or((0, 0), |time| (time.seconds, time.nanos)),
        result: (whole && task.is_success())
            .then(|| task.output().map(|output| output.data().to_vec()).unwrap_or_default()),
    });
    let revision = revision.map_or((0, 0), |revision| (revision.cluster_generation, revision.seq));
    View { task: task.id.clone(), attempt: task.attempt, end, revision }
}
