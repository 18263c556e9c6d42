//! Keeping the indexes over tasks.

use std::sync::Arc;

use super::soft::{Offer, Slot};
use super::space::Space;
use crate::id::{AgentId, TaskId};
use crate::mutant::{self, Mutant};
use crate::record::{Phase, TaskRecord};
use crate::settings::Settings;
use crate::time::Time;

/// The next moment at which the leader has to look at a task, from its record alone.
pub(crate) fn deadline(task: &TaskRecord, settings: &Settings) -> Time {
    let cancelled = task.cancel.map_or(Time::NEVER, |at| at + settings.cancel_grace + settings.report_margin);
    match &task.phase {
        Phase::Pending { since, .. } => *since + task.spec.queue_timeout,
        Phase::Assigned(run) => {
            let began = run.started.unwrap_or(run.assigned);
            let began = if mutant::is(Mutant::StaleTimer) { run.since } else { began };
            let limit = task.spec.attempt_timeout + run.waited + settings.cancel_grace + settings.report_margin;
            cancelled.min(began + limit)
        }
        Phase::InputRequired(_, question) => cancelled.min(question.asked + task.spec.input_timeout),
        Phase::Ended { .. } => Time::NEVER,
    }
}

impl Space {
    pub(crate) fn put_task(
        &mut self,
        id: TaskId,
        new: Option<Arc<TaskRecord>>,
        clock: Time,
        settings: &Settings,
    ) -> Option<Arc<TaskRecord>> {
        let old = match &new {
            Some(task) => self.tasks.insert(id, task.clone()),
            None => self.tasks.remove(&id),
        };
        // The same attempt of the same agent keeps its slot and what is softly known of it.
        let holder = |task: &Option<Arc<TaskRecord>>| {
            task.as_ref().and_then(|t| t.run().map(|run| (run.agent.clone(), t.attempt)))
        };
        let (before, after) = (holder(&old), holder(&new));
        if let Some(task) = &old {
            self.unindex(task, settings);
        }
        if before != after {
            if let Some((agent, _)) = &before {
                self.free_slot(agent, id);
            }
            if let Some((agent, attempt)) = &after {
                let entry = self.agents.entry(agent.clone()).or_default();
                entry.slots.insert(id, Slot::new(*attempt));
                if entry.must_reap() {
                    self.reap.insert(agent.clone());
                }
                self.relist(agent);
            }
        }
        match &new {
            Some(task) => self.index(task, clock, settings),
            None => drop(self.snoozed.remove(&id)),
        }
        old
    }

    fn index(&mut self, task: &Arc<TaskRecord>, clock: Time, settings: &Settings) {
        *self.counts.slot(&task.phase) += 1;
        match &task.phase {
            Phase::Pending { not_before, .. } => {
                self.demand.hold(&task.spec.requirement);
                if *not_before > clock {
                    self.delayed.insert((*not_before, task.id));
                } else {
                    self.demand.enqueue(&task.spec.requirement, task.spec.priority, (task.created, task.id));
                }
            }
            Phase::Ended { at, .. } => {
                self.ended.insert((*at, task.id));
                self.ended_ids.insert(task.id);
                self.ended_bytes += task.retained_bytes();
                self.snoozed.remove(&task.id);
            }
            Phase::Assigned(_) | Phase::InputRequired(..) => {}
        }
        let timer = self.timer(task, settings);
        if timer < Time::NEVER {
            self.timers.insert((timer, task.id));
        }
    }

    fn unindex(&mut self, task: &Arc<TaskRecord>, settings: &Settings) {
        *self.counts.slot(&task.phase) -= 1;
        self.timers.remove(&(self.timer(task, settings), task.id));
        match &task.phase {
            Phase::Pending { not_before, .. } => {
                let key = (task.created, task.id);
                if !self.demand.dequeue(&task.spec.requirement, task.spec.priority, &key) {
                    self.delayed.remove(&(*not_before, task.id));
                }
                self.demand.release(&task.spec.requirement);
            }
            Phase::Ended { at, .. } => {
                self.ended.remove(&(*at, task.id));
                self.ended_ids.remove(&task.id);
                self.ended_bytes -= task.retained_bytes();
            }
            Phase::Assigned(_) | Phase::InputRequired(..) => {}
        }
    }

    fn timer(&self, task: &TaskRecord, settings: &Settings) -> Time {
        let hard = deadline(task, settings);
        if hard == Time::NEVER {
            return hard;
        }
        self.snoozed.get(&task.id).map_or(hard, |soft| hard.max(*soft))
    }

    /// Puts a deadline off that can't be acted upon now.
    pub(crate) fn snooze(&mut self, id: TaskId, until: Time, settings: &Settings) {
        let Some(task) = self.tasks.get(&id).cloned() else { return };
        self.timers.remove(&(self.timer(&task, settings), id));
        self.snoozed.insert(id, until);
        let timer = self.timer(&task, settings);
        if timer < Time::NEVER {
            self.timers.insert((timer, id));
        }
    }

    pub(crate) fn wake_delayed(&mut self, now: Time) {
        while let Some((at, id)) = self.delayed.first().copied() {
            if at > now {
                break;
            }
            self.delayed.pop_first();
            if let Some(task) = self.tasks.get(&id) {
                self.demand.enqueue(&task.spec.requirement, task.spec.priority, (task.created, id));
            }
        }
    }

    fn free_slot(&mut self, agent: &AgentId, task: TaskId) {
        let Some(entry) = self.agents.get_mut(agent) else { return };
        // Slots are given back by the sidecar's word, not by hope: one that was sent and that the
        // free slots told do not know of yet is taken off them.
        if let Some(Slot { offer: Offer::Sent(_), .. }) = entry.slots.remove(&task) {
            entry.soft.free = entry.soft.free.saturating_sub(1);
        }
        if entry.slots.is_empty() && entry.record.is_none() {
            self.agents.remove(agent);
            return;
        }
        self.relist(agent);
    }

    /// Sets how far an assignment has come, if the attempt is still current.
    pub(crate) fn set_offer(&mut self, agent: &AgentId, task: TaskId, offer: Offer) {
        let Some(slot) = self.agents.get_mut(agent).and_then(|e| e.slots.get_mut(&task)) else { return };
        slot.offer = offer;
        self.relist(agent);
    }
}
