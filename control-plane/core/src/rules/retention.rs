//! Deleting ended tasks without ever mistaking an old id for a new one.
//!
//! A floor in task-id time is raised by an ordinary commit first; only then are ended records with
//! ids below it deleted. An unknown id below the floor is refused, so a deleted task can't be
//! accepted twice.

use std::sync::Arc;
use std::time::Duration;

use super::Rule;
use crate::command::{Decision, Reply};
use crate::id::TaskId;
use crate::mutant::{self, Mutant};
use crate::record::{BlobPart, Body, Change, End, Key, NamespaceRecord, Phase, Record, TaskRecord};
use crate::settings::Retention;
use crate::state::Space;
use crate::time::Time;

/// Ended tasks that retention lets go now, lowest id first, at most `most`.
#[must_use]
pub fn evictable(space: &Space, retention: &Retention, now: Time, most: usize) -> Vec<TaskId> {
    let mut ids: Vec<TaskId> =
        space.ended.iter().take_while(|(at, _)| now >= *at + retention.age).take(most).map(|(_, id)| *id).collect();
    let excess = (space.ended_ids.len() as u64).saturating_sub(retention.count);
    let mut excess_bytes = space.ended_bytes.saturating_sub(retention.bytes);
    if excess > 0 || excess_bytes > 0 {
        let old_enough = |task: &Arc<TaskRecord>| match task.phase {
            Phase::Ended { at, .. } => now >= at + retention.min_age,
            _ => false,
        };
        // Young ones are stepped over, but not for ever: the next call looks again.
        let oldest = space.ended_ids.iter().take(4 * most).filter_map(|id| space.task(*id)).filter(|t| old_enough(t));
        for (nth, task) in oldest.take(most).enumerate() {
            if nth as u64 >= excess && excess_bytes == 0 {
                break;
            }
            excess_bytes = excess_bytes.saturating_sub(task.retained_bytes());
            ids.push(task.id);
        }
    }
    if mutant::is(Mutant::RetentionLive) {
        let living = space.tasks.values().filter(|task| now >= task.created + retention.min_age);
        ids.extend(living.map(|task| task.id).take(most));
    }
    ids.sort_unstable();
    ids.dedup();
    ids.truncate(most);
    ids
}

impl Rule<'_> {
    /// Raises the floor over what is to be deleted, but never into the last minute.
    pub(super) fn raise_floor(&self) -> Decision {
        let now = self.ctx.now;
        let ids = evictable(self.space, &self.settings.retention, now, 4096);
        let Some(last) = ids.last() else { return Decision::reply(Reply::Done) };
        let floor = (last.time() + Duration::from_millis(1)).min(now - self.settings.id_window);
        if floor <= self.space.floor() {
            return Decision::reply(Reply::Done);
        }
        let record = Record::Namespace(Arc::new(NamespaceRecord { floor, ..self.space.tenant() }));
        Decision { changes: vec![self.put(record)], ..Decision::reply(Reply::Done) }
    }

    pub(super) fn evict(&self, most: usize) -> Decision {
        let floor = self.space.floor();
        let mut decision = Decision::reply(Reply::Done);
        for id in evictable(self.space, &self.settings.retention, self.ctx.now, Decision::MAX_RECORDS) {
            // A record, its payload, its result, its last question and answer.
            if decision.changes.len() + decision.blobs.len() + 5 > most {
                break;
            }
            let Some(task) = self.space.task(id).filter(|_| id.time() < floor) else { continue };
            decision.changes.push(Change { key: Key::Task(self.ctx.namespace.clone(), id), value: None });
            let blob = |part, body: &Body| body.is_blob().then(|| (self.blob(id, part), None));
            decision.blobs.extend(blob(BlobPart::Payload, &task.spec.payload));
            if let Phase::Ended { end: End::Succeeded(body), .. } = &task.phase {
                decision.blobs.extend(blob(BlobPart::Result, body));
            }
            if task.questions > 0 {
                // Whether the last ones were large is not on record any more.
                decision.blobs.push((self.blob(id, BlobPart::Question(task.questions)), None));
                decision.blobs.push((self.blob(id, BlobPart::Answer(task.questions)), None));
            }
        }
        decision
    }
}
