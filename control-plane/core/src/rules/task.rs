//! Tasks from submission to assignment, and their cancelling.

use std::sync::Arc;

use bytes::Bytes;

use super::Rule;
use crate::command::{Decision, Effect, Reply, StopReason};
use crate::id::TaskId;
use crate::mutant::{self, Mutant};
use crate::record::{BlobKey, BlobPart, Cause, End, Phase, Record, Run, TaskRecord, TaskSpec};
use crate::rejection::Rejection;
use crate::state::Match;
use crate::time::Time;

impl Rule<'_> {
    pub(super) fn submit(&self, id: TaskId, spec: Arc<TaskSpec>, blob: Option<Bytes>) -> Result<Decision, Rejection> {
        let taken = |task: &&Arc<TaskRecord>| !(task.is_ended() && mutant::is(Mutant::IdOverwritten));
        if let Some(task) = self.space.task(id).filter(taken) {
            return if task.spec.digest == spec.digest {
                Ok(Decision::reply(Reply::Task { task: task.clone(), duplicate: true }))
            } else {
                Err(Rejection::TaskIdReused(id))
            };
        }
        let now = self.ctx.now;
        self.refuse_forgotten(id)?;
        if id.time() > now + self.settings.id_window {
            return Err(Rejection::TaskIdInFuture { cluster_time: now });
        }
        if self.space.counts().pending >= self.settings.max_pending {
            return Err(Rejection::PendingLimit { limit: self.settings.max_pending });
        }
        let task = Arc::new(TaskRecord {
            id,
            spec,
            created: now,
            attempt: Default::default(),
            failures: 0,
            questions: 0,
            cancel: None,
            agent: None,
            failure: None,
            phase: Phase::Pending { not_before: Time::ZERO, since: now },
        });
        let blobs = blob.map(|bytes| (self.blob(id, BlobPart::Payload), Some(bytes)));
        Ok(Decision {
            changes: vec![self.put(Record::Task(task.clone()))],
            blobs: blobs.into_iter().collect(),
            effects: Vec::new(),
            reply: Reply::Task { task, duplicate: false },
        })
    }

    fn refuse_forgotten(&self, id: TaskId) -> Result<(), Rejection> {
        let floor = self.space.floor();
        if id.time() < floor && !mutant::is(Mutant::IdReused) {
            return Err(Rejection::TaskIdTooOld { floor, cluster_time: self.ctx.now });
        }
        Ok(())
    }

    /// The task, or why there is none.
    pub(super) fn find(&self, id: TaskId) -> Result<&Arc<TaskRecord>, Rejection> {
        if let Some(task) = self.space.task(id) {
            return Ok(task);
        }
        self.refuse_forgotten(id)?;
        Err(Rejection::TaskNotFound(id))
    }

    pub(super) fn blob(&self, task: TaskId, part: BlobPart) -> BlobKey {
        BlobKey { namespace: self.ctx.namespace.clone(), task, part }
    }

    pub(super) fn assign(&self, matched: &Match) -> Decision {
        let (Some(task), Some(agent)) = (self.space.task(matched.task), self.space.agent(&matched.agent)) else {
            return Decision::reply(Reply::Done);
        };
        let Phase::Pending { since, .. } = task.phase else { return Decision::reply(Reply::Done) };
        let run = Run {
            agent: agent.id.clone(),
            incarnation: self.space.incarnation(agent),
            since,
            assigned: self.ctx.now,
            started: None,
            waited: Default::default(),
            answer: None,
        };
        let task = Arc::new(TaskRecord {
            attempt: task.attempt.next(),
            agent: Some(agent.id.clone()),
            phase: Phase::Assigned(run),
            ..TaskRecord::clone(task)
        });
        Decision {
            changes: vec![self.put(Record::Task(task.clone()))],
            blobs: Vec::new(),
            effects: vec![Effect::Offer(task)],
            reply: Reply::Done,
        }
    }

    pub(super) fn cancel(&self, id: TaskId) -> Result<Decision, Rejection> {
        let task = self.find(id)?;
        let mut next = TaskRecord::clone(task);
        let mut effects = Vec::new();
        match &task.phase {
            Phase::Ended { end: End::Cancelled(_), .. } => {
                return Ok(Decision::reply(Reply::Task { task: task.clone(), duplicate: true }));
            }
            Phase::Ended { .. } => return Err(Rejection::TaskTerminal(id)),
            Phase::Assigned(_) | Phase::InputRequired(..) if task.cancel.is_some() => {
                return Ok(Decision::reply(Reply::Task { task: task.clone(), duplicate: true }));
            }
            Phase::Pending { .. } => {
                let end = End::Cancelled(Cause::CancelRequested);
                next.phase = Phase::Ended { at: self.ctx.now, end, reported: false };
            }
            Phase::Assigned(run) | Phase::InputRequired(run, _) => {
                next.cancel = Some(self.ctx.now);
                let reason = StopReason::Requested;
                effects.push(Effect::Stop { agent: run.agent.clone(), token: task.token(), reason });
            }
        }
        let task = Arc::new(next);
        Ok(Decision {
            changes: vec![self.put(Record::Task(task.clone()))],
            blobs: Vec::new(),
            effects,
            reply: Reply::Task { task, duplicate: false },
        })
    }
}
