//! One namespace: its records and the indexes over them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::agents::AgentEntry;
use super::demand::Demand;
use super::soft::Slot;
use crate::id::{AgentId, Incarnation, SidecarId, TaskId};
use crate::record::{AgentRecord, End, NamespaceRecord, Phase, SidecarRecord, TaskRecord};
use crate::time::Time;

/// Tasks by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Waiting.
    pub pending: u64,
    /// With an agent.
    pub assigned: u64,
    /// Waiting for input.
    pub input_required: u64,
    /// Ended with a result.
    pub succeeded: u64,
    /// Ended without.
    pub failed: u64,
    /// Ended by request.
    pub cancelled: u64,
    /// Ended in the queue.
    pub expired: u64,
}

impl Counts {
    pub(crate) fn slot(&mut self, phase: &Phase) -> &mut u64 {
        match phase {
            Phase::Pending { .. } => &mut self.pending,
            Phase::Assigned(_) => &mut self.assigned,
            Phase::InputRequired(..) => &mut self.input_required,
            Phase::Ended { end, .. } => match end {
                End::Succeeded(_) => &mut self.succeeded,
                End::Failed => &mut self.failed,
                End::Cancelled(_) => &mut self.cancelled,
                End::Expired => &mut self.expired,
            },
        }
    }

    /// All tasks with a record.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.pending
            + self.assigned
            + self.input_required
            + self.succeeded
            + self.failed
            + self.cancelled
            + self.expired
    }
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Space {
    pub(crate) record: Option<Arc<NamespaceRecord>>,
    pub(crate) sidecars: BTreeMap<SidecarId, Arc<SidecarRecord>>,
    pub(crate) agents: BTreeMap<AgentId, AgentEntry>,
    pub(crate) tasks: BTreeMap<TaskId, Arc<TaskRecord>>,
    /// Agents by host.
    pub(crate) hosts: BTreeMap<SidecarId, BTreeSet<AgentId>>,
    /// Waiting tasks and free agents.
    pub(crate) demand: Demand,
    /// Tasks that are not dispatched before a moment.
    pub(crate) delayed: BTreeSet<(Time, TaskId)>,
    /// Each task's next deadline, or when to look at it again.
    pub(crate) timers: BTreeSet<(Time, TaskId)>,
    /// Deadlines that were looked at and put off.
    pub(crate) snoozed: BTreeMap<TaskId, Time>,
    /// Ended tasks by end.
    pub(crate) ended: BTreeSet<(Time, TaskId)>,
    /// Ended tasks by id.
    pub(crate) ended_ids: BTreeSet<TaskId>,
    /// What ended tasks hold against the retention limit.
    pub(crate) ended_bytes: u64,
    /// Removed and lost agents by last change: forgotten after the retention age.
    pub(crate) leaving: BTreeSet<(Time, AgentId)>,
    /// Agents whose work may have to end: lost or evicted.
    pub(crate) reap: BTreeSet<AgentId>,
    pub(crate) counts: Counts,
    /// Dispatches so far; orders equally loaded agents by last use.
    pub(crate) dispatches: u64,
}

impl Space {
    /// Unknown ids made before this are refused.
    #[must_use]
    pub fn floor(&self) -> Time {
        self.tenant().floor
    }

    /// The namespace's own record; all zero while it has none.
    pub(crate) fn tenant(&self) -> NamespaceRecord {
        self.record.as_deref().copied().unwrap_or_default()
    }

    /// A task.
    #[must_use]
    pub fn task(&self, id: TaskId) -> Option<&Arc<TaskRecord>> {
        self.tasks.get(&id)
    }

    /// Tasks below an id, newest first.
    pub fn tasks_before(&self, id: Option<TaskId>) -> impl Iterator<Item = &Arc<TaskRecord>> {
        let upper = id.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        self.tasks.range((std::ops::Bound::Unbounded, upper)).rev().map(|(_, task)| task)
    }

    /// An agent's record.
    #[must_use]
    pub fn agent(&self, id: &AgentId) -> Option<&Arc<AgentRecord>> {
        self.agents.get(id)?.record.as_ref()
    }

    /// An agent with what is softly known of it.
    #[must_use]
    pub fn agent_entry(&self, id: &AgentId) -> Option<&AgentEntry> {
        self.agents.get(id)
    }

    /// Agents after an id, in order.
    pub fn agents_after(&self, id: Option<&AgentId>) -> impl Iterator<Item = (&AgentId, &AgentEntry)> {
        let lower = id.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        self.agents.range::<AgentId, _>((lower, std::ops::Bound::Unbounded))
    }

    /// A sidecar's record.
    #[must_use]
    pub fn sidecar(&self, id: &SidecarId) -> Option<&Arc<SidecarRecord>> {
        self.sidecars.get(id)
    }

    /// Agents hosted by a sidecar.
    pub fn hosted(&self, id: &SidecarId) -> impl Iterator<Item = &AgentId> {
        self.hosts.get(id).into_iter().flatten()
    }

    /// The life an agent is in; zero while it has no host.
    #[must_use]
    pub fn incarnation(&self, agent: &AgentRecord) -> Incarnation {
        let host = agent.host.as_ref().and_then(|host| self.sidecars.get(host));
        Incarnation { moved: agent.moved, generation: host.map(|h| h.generation).unwrap_or_default() }
    }

    /// The slot an attempt takes up, while it is current.
    #[must_use]
    pub fn slot(&self, task: &TaskRecord) -> Option<&Slot> {
        self.agents.get(&task.run()?.agent)?.slots.get(&task.id)
    }

    /// Tasks by state.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Waiting tasks and free agents.
    #[must_use]
    pub fn demand(&self) -> &Demand {
        &self.demand
    }

    pub(crate) fn next_due(&self) -> Option<Time> {
        let timer = self.timers.first().map(|(at, _)| *at);
        let delayed = self.delayed.first().map(|(at, _)| *at);
        timer.into_iter().chain(delayed).min()
    }
}
