//! The judgement: ledger, watch, agents' lists and the store's last word, side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use futures_util::TryStreamExt as _;
use hive_sdk::client::{TaskExt as _, TaskFilter, TaskView};
use hive_sdk::proto::{Task, TaskState};

use super::clients::Ledger;
use super::watcher::Told;
use crate::harness::{LONG, Rig, eventually, executions};

/// What may happen to a task on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strictness {
    /// One attempt, begun once.
    NothingRestarted,
    /// As many attempts as it takes, each begun at most once.
    OncePerAttempt,
}

#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) tasks: usize,
    attempts: u32,
    accepted: usize,
    /// Calls that had to be made again, because the answer was lost.
    repeated: usize,
    /// Never answered, and taken all the same.
    taken_unanswered: usize,
    /// Results that a client was told before the end of the test.
    told_early: usize,
    /// Accepted without exactly one end, with another result than asked for, or not in the store.
    pub(crate) lost: Vec<String>,
    /// Committed twice, changed after the end, or begun twice under one attempt.
    pub(crate) doubled: Vec<String>,
    /// Begun again although no agent and no sidecar died.
    pub(crate) restarted: Vec<String>,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "tasks offered {}, accepted {}, attempts {}, calls repeated {}, taken without an answer {}, results told early {}; \
             lost {}, doubled {}, restarted {}",
            self.tasks,
            self.accepted,
            self.attempts,
            self.repeated,
            self.taken_unanswered,
            self.told_early,
            self.lost.len(),
            self.doubled.len(),
            self.restarted.len()
        )
    }
}

impl Found {
    pub(crate) fn assert_clean(&self) {
        let first = |list: &[String]| list.iter().take(5).cloned().collect::<Vec<_>>().join("\n  ");
        assert!(
            self.lost.is_empty() && self.doubled.is_empty() && self.restarted.is_empty(),
            "{self}\nlost\n  {}\ndoubled\n  {}\nrestarted\n  {}",
            first(&self.lost),
            first(&self.doubled),
            first(&self.restarted)
        );
    }
}

/// Waits until the store holds no open task.
pub(crate) async fn settle(rig: &Rig, ledger: &Ledger) {
    let offered = ledger.all().len();
    let open = [TaskState::Pending, TaskState::Assigned, TaskState::Running, TaskState::InputRequired];
    let client = rig.client();
    eventually(&format!("all of {offered} tasks have ended"), LONG, || async {
        let filter = TaskFilter { states: open.iter().map(|state| (*state).into()).collect(), ..Default::default() };
        let left: Vec<Task> =
            client.list_view(filter, TaskView::Basic, 1_000).try_collect().await.map_err(|e| e.to_string())?;
        if left.is_empty() { Ok(()) } else { Err(format!("{} are open, such as {:?}", left.len(), left[0])) }
    })
    .await;
}

pub(crate) async fn judge(
    rig: &Rig,
    ledger: &Ledger,
    told: &BTreeMap<String, Told>,
    lists: &[PathBuf],
    strictness: Strictness,
) -> Found {
    let client = rig.client();
    let stored = client.list_view(TaskFilter::default(), TaskView::Full, 500);
    let stored: Vec<Task> = stored.try_collect().await.expect("list all tasks");
    let stored: BTreeMap<String, Task> = stored.into_iter().map(|task| (task.id.clone(), task)).collect();
    let lists: Vec<&Path> = lists.iter().map(PathBuf::as_path).collect();
    let ran = executions(&lists);

    let mut found = Found::default();
    let mut known = BTreeSet::new();
    for (id, entry) in ledger.all() {
        let id = id.to_string();
        known.insert(id.clone());
        found.tasks += 1;
        found.accepted += usize::from(entry.accepted);
        found.repeated += usize::from(entry.calls > 1);
        let Some(task) = stored.get(&id) else {
            if entry.accepted {
                found.lost.push(format!("{id}: accepted, and not in the store"));
            }
            continue;
        };
        found.taken_unanswered += usize::from(!entry.accepted);
        let output = task.output().map(|output| output.data().to_vec()).unwrap_or_default();
        if task.state() != TaskState::Succeeded || output != entry.payload.as_bytes() {
            found.lost.push(format!("{id}: not the end it should have: {task:?}"));
        }
        found.attempts += task.attempt;
        if strictness == Strictness::NothingRestarted && (task.attempt != 1 || task.failures != 0) {
            found.restarted.push(format!("{id}: attempt {}, failures {}", task.attempt, task.failures));
        }
        if let Some(first) = &entry.first {
            found.told_early += 1;
            if first != task {
                found.doubled.push(format!("{id}: told {first:?}, and now {task:?}"));
            }
        }
        let told = told.get(&id);
        found.doubled.extend(told.iter().flat_map(|told| &told.faults).map(|fault| format!("{id}: {fault}")));
        if let Some(end) = told.and_then(|told| told.end.as_ref())
            && (end.state, end.attempt, &end.agent_id, end.end_time)
                != (task.state, task.attempt, &task.agent_id, task.end_time)
        {
            found.doubled.push(format!("{id}: the watch told {end:?}, and now {task:?}"));
        }
        let begun = ran.get(&(id.clone(), task.attempt)).copied().unwrap_or(0);
        if begun != 1 {
            found.doubled.push(format!("{id}: attempt {} was begun {begun} times", task.attempt));
        }
    }
    for ((task, attempt), times) in ran.iter().filter(|(_, times)| **times > 1) {
        found.doubled.push(format!("{task}: attempt {attempt} was begun {times} times"));
    }
    for id in stored.keys().filter(|id| !known.contains(*id)) {
        found.doubled.push(format!("{id}: nobody offered it"));
    }
    let again = ran.keys().filter(|(_, attempt)| *attempt != 1 && strictness == Strictness::NothingRestarted);
    for (task, attempt) in again {
        found.restarted.push(format!("{task}: attempt {attempt} was begun"));
    }
    found
}
