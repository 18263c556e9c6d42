//! Reading what is committed, while batches are undecided.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::id::{AgentId, Namespace, Revision, TaskId};
use crate::record::{AgentRecord, Key, Record, TaskRecord};
use crate::state::{AgentEntry, Counts, Progress, State};
use crate::time::Time;

type Before = BTreeMap<Key, Option<Record>>;

/// The committed state at one revision. Reads never wait.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    state: &'a State,
    flying: Option<&'a Before>,
    forming: &'a Before,
    revision: Revision,
}

/// What is softly known of a task.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TaskSoft {
    /// When its attempt said it started.
    pub started: Option<Time>,
    /// What it last said.
    pub progress: Option<Progress>,
    /// Nobody registered could take it, free or not; only for pending tasks.
    pub nobody_fits: bool,
}

impl<'a> View<'a> {
    pub(super) fn new(state: &'a State, flying: Option<&'a Before>, forming: &'a Before, revision: Revision) -> Self {
        Self { state, flying, forming, revision }
    }

    /// What it is read at.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The namespace is known.
    #[must_use]
    pub fn has(&self, namespace: &Namespace) -> bool {
        self.state.space(namespace).is_some()
    }

    /// The pre-image of a key with undecided changes: the oldest batch knows what is committed.
    fn before(&self, key: &Key) -> Option<&Option<Record>> {
        self.flying.and_then(|b| b.get(key)).or_else(|| self.forming.get(key))
    }

    /// A task.
    #[must_use]
    pub fn task(&self, namespace: &Namespace, id: TaskId) -> Option<Arc<TaskRecord>> {
        match self.before(&Key::Task(namespace.clone(), id)) {
            Some(Some(Record::Task(task))) => Some(task.clone()),
            Some(_) => None,
            None => self.state.space(namespace)?.task(id).cloned(),
        }
    }

    /// What is softly known of a task as returned by this view.
    #[must_use]
    pub fn task_soft(&self, namespace: &Namespace, task: &TaskRecord) -> TaskSoft {
        let Some(space) = self.state.space(namespace) else { return TaskSoft::default() };
        let nobody_fits = matches!(task.phase, crate::record::Phase::Pending { .. })
            && !space.demand().anyone_fits(&task.spec.requirement);
        let slot = space.slot(task).filter(|slot| slot.attempt == task.attempt);
        TaskSoft { started: slot.and_then(|s| s.started), progress: slot.and_then(|s| s.progress.clone()), nobody_fits }
    }

    /// Committed tasks below an id, newest first, that pass a test: at most `most` are looked at.
    /// Returns them and where to go on, unless all were seen.
    pub fn tasks(
        &self,
        namespace: &Namespace,
        below: Option<TaskId>,
        most: usize,
        page: usize,
        mut test: impl FnMut(&TaskRecord) -> bool,
    ) -> (Vec<Arc<TaskRecord>>, Option<TaskId>) {
        let Some(space) = self.state.space(namespace) else { return (Vec::new(), None) };
        // Tasks whose delete is undecided are not in the state any more.
        let mut deleted: Vec<TaskId> = self
            .flying
            .into_iter()
            .chain([self.forming])
            .flat_map(|batch| batch.keys())
            .filter_map(|key| match key {
                Key::Task(ns, id) if ns == namespace && space.task(*id).is_none() => Some(*id),
                _ => None,
            })
            .filter(|id| below.is_none_or(|below| *id < below))
            .collect();
        deleted.sort_unstable();
        deleted.dedup();
        let mut found = Vec::new();
        let mut looked_at = 0;
        let mut last = None;
        let mut living = space.tasks_before(below).map(|task| task.id).peekable();
        loop {
            let id = match (living.peek(), deleted.last()) {
                (Some(living_id), Some(deleted_id)) if deleted_id > living_id => deleted.pop(),
                (Some(_), _) => living.next(),
                (None, _) => deleted.pop(),
            };
            let Some(id) = id else { return (found, None) };
            if found.len() == page || looked_at == most {
                return (found, last);
            }
            looked_at += 1;
            last = Some(id);
            if let Some(task) = self.task(namespace, id)
                && test(&task)
            {
                found.push(task);
            }
        }
    }

    /// An agent, with what is softly known of it.
    #[must_use]
    pub fn agent(&self, namespace: &Namespace, id: &AgentId) -> Option<(Arc<AgentRecord>, AgentEntry)> {
        let record = match self.before(&Key::Agent(namespace.clone(), id.clone())) {
            Some(Some(Record::Agent(agent))) => agent.clone(),
            Some(_) => return None,
            None => self.state.space(namespace)?.agent(id)?.clone(),
        };
        let entry = self.state.space(namespace)?.agent_entry(id).cloned().unwrap_or_default();
        Some((record, entry))
    }

    /// Ids of agents after one, in order.
    pub fn agents_after(&self, namespace: &Namespace, after: Option<&AgentId>) -> impl Iterator<Item = AgentId> {
        self.state
            .space(namespace)
            .into_iter()
            .flat_map(move |space| space.agents_after(after).map(|(id, _)| id.clone()))
    }

    /// Generation of an agent's host.
    #[must_use]
    pub fn incarnation(&self, namespace: &Namespace, agent: &AgentRecord) -> crate::id::Incarnation {
        let Some(space) = self.state.space(namespace) else { return Default::default() };
        let mut incarnation = space.incarnation(agent);
        let host = agent.host.as_ref().and_then(|host| self.before(&Key::Sidecar(namespace.clone(), host.clone())));
        if let Some(before) = host {
            incarnation.generation = match before {
                Some(Record::Sidecar(sidecar)) => sidecar.generation,
                _ => Default::default(),
            };
        }
        incarnation
    }

    /// Tasks by state.
    #[must_use]
    pub fn counts(&self, namespace: &Namespace) -> Counts {
        let Some(space) = self.state.space(namespace) else { return Counts::default() };
        let mut counts = space.counts();
        let undecided =
            self.flying.into_iter().flatten().chain(
                self.forming.iter().filter(|(key, _)| !self.flying.is_some_and(|batch| batch.contains_key(*key))),
            );
        for (key, before) in undecided {
            let Key::Task(ns, id) = key else { continue };
            if ns != namespace {
                continue;
            }
            if let Some(task) = space.task(*id) {
                *counts.slot(&task.phase) -= 1;
            }
            if let Some(Record::Task(task)) = before {
                *counts.slot(&task.phase) += 1;
            }
        }
        counts
    }

    /// Ids from here on are accepted.
    #[must_use]
    pub fn floor(&self, namespace: &Namespace) -> Time {
        match self.before(&Key::Namespace(namespace.clone())) {
            Some(Some(Record::Namespace(record))) => record.floor,
            Some(_) => Time::ZERO,
            None => self.state.space(namespace).map(crate::state::Space::floor).unwrap_or_default(),
        }
    }
}
