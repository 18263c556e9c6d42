//! Attempts: what their sidecars report, and how they end.

use std::sync::Arc;
use std::time::Duration;

use super::Rule;
use crate::command::{Decision, Effect, Outcome, Release, Reply, StopReason};
use crate::id::{AgentId, AttemptId};
use crate::mutant::{self, Mutant};
use crate::record::{BlobPart, Cause, DisconnectPolicy, End, Failure, Phase, Record, Run, TaskRecord};
use crate::state::Space;
use crate::time::Time;

/// Whether an attempt is over, and why its sidecar may forget it. None: it is current.
///
/// True of committed state only when the state given is committed.
#[must_use]
pub fn verdict(space: &Space, token: AttemptId) -> Option<Release> {
    let Some(task) = space.task(token.task) else { return Some(Release::Gone) };
    match &task.phase {
        _ if token.attempt < task.attempt => Some(Release::Superseded),
        _ if token.attempt > task.attempt => Some(Release::Gone),
        Phase::Ended { reported: true, .. } => Some(Release::Committed),
        Phase::Ended { .. } | Phase::Pending { .. } => Some(Release::Superseded),
        Phase::Assigned(_) | Phase::InputRequired(..) => None,
    }
}

/// What follows a failed attempt.
enum Next {
    /// Pending again, after a while.
    Retry,
    /// Pending again; nobody failed.
    Requeue,
    /// No more.
    End,
}

/// On whose word an attempt is over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    /// Its sidecar reported its end.
    Report,
    /// Its sidecar does not have it any more.
    Absence,
    /// The leader gave it up.
    Leader,
}

impl Rule<'_> {
    /// The task of a current attempt that this agent has.
    pub(super) fn current(&self, token: AttemptId, agent: Option<&AgentId>) -> Option<&Arc<TaskRecord>> {
        let task = self.space.task(token.task)?;
        let run = task.run()?;
        let current = task.attempt == token.attempt || mutant::is(Mutant::StaleAttempt);
        (current && agent.is_none_or(|agent| *agent == run.agent)).then_some(task)
    }

    fn over(&self, token: AttemptId) -> Decision {
        // A current attempt on another agent's word is no more than one that is over.
        Decision::reply(Reply::Release(verdict(self.space, token).unwrap_or(Release::Superseded)))
    }

    pub(super) fn report(&self, token: AttemptId, agent: &AgentId, outcome: Outcome) -> Decision {
        let Some(task) = self.current(token, Some(agent)) else { return self.over(token) };
        let mut decision = match outcome {
            Outcome::Succeeded(result) => {
                let mut decision = self.end(task, End::Succeeded(result.body), None, true);
                let key = self.blob(task.id, BlobPart::Result);
                decision.blobs.extend(result.blob.map(|bytes| (key, Some(bytes))));
                decision
            }
            Outcome::Failed { failure, retryable } => {
                let next = if retryable { Next::Retry } else { Next::End };
                self.fail(task, failure, next, Word::Report)
            }
            Outcome::Cancelled if task.cancel.is_some() => {
                self.end(task, End::Cancelled(Cause::CancelRequested), None, true)
            }
            // Stopped by the sidecar itself: without contact, or on its way out.
            Outcome::Cancelled => self.fail(task, Failure::of(Cause::AgentLost), Next::Requeue, Word::Report),
        };
        decision.reply = Reply::Release(Release::Committed);
        decision
    }

    pub(super) fn decline(&self, token: AttemptId, agent: &AgentId) -> Decision {
        let Some(task) = self.current(token, Some(agent)) else { return self.over(token) };
        let mut decision = self.fail(task, Failure::of(Cause::Declined), Next::Requeue, Word::Report);
        decision.reply = Reply::Release(Release::Committed);
        decision
    }

    pub(super) fn lose_attempt(&self, token: AttemptId, message: &'static str) -> Decision {
        let Some(task) = self.current(token, None) else { return self.over(token) };
        let agent = task.run().and_then(|run| self.space.agent(&run.agent));
        let evicted = agent.is_some_and(|agent| agent.evict);
        let word = if agent.is_none_or(|agent| agent.lost || agent.evict) { Word::Leader } else { Word::Absence };
        let waits = task.spec.disconnect == DisconnectPolicy::Wait;
        let cause = if evicted && !waits { Cause::AgentRemoved } else { Cause::AgentLost };
        let failure = Failure { message: Arc::from(message), ..Failure::of(cause) };
        let next = match (waits, evicted) {
            (true, _) => Next::End,
            (false, true) => Next::Requeue,
            (false, false) => Next::Retry,
        };
        let mut decision = self.fail(task, failure, next, word);
        decision.reply = Reply::Release(Release::Superseded);
        if let Some(run) = task.run().filter(|_| word == Word::Leader) {
            let reason = if evicted { StopReason::AgentRemoved } else { StopReason::Superseded };
            decision.effects.push(Effect::Stop { agent: run.agent.clone(), token, reason });
        }
        decision
    }

    pub(super) fn record_start(&self, token: AttemptId, started: Time) -> Decision {
        let begun = |run: &Run| Run { started: Some(started), ..run.clone() };
        let unrecorded = self.current(token, None).and_then(|task| match &task.phase {
            Phase::Assigned(run) if run.started.is_none() => Some((task, Phase::Assigned(begun(run)))),
            Phase::InputRequired(run, question) if run.started.is_none() => {
                Some((task, Phase::InputRequired(begun(run), question.clone())))
            }
            _ => None,
        });
        let Some((task, phase)) = unrecorded else { return Decision::reply(Reply::Done) };
        let task = TaskRecord { phase, ..TaskRecord::clone(task) };
        Decision { changes: vec![self.put(Record::Task(Arc::new(task)))], ..Decision::reply(Reply::Done) }
    }

    /// Ends the current attempt at its attempt timeout, in its sidecar's place.
    pub(super) fn time_out(&self, task: &Arc<TaskRecord>) -> Decision {
        self.fail(task, Failure::of(Cause::Timeout), Next::Retry, Word::Leader)
    }

    fn fail(&self, task: &Arc<TaskRecord>, failure: Failure, next: Next, word: Word) -> Decision {
        let reported = word == Word::Report;
        let confirmed = word != Word::Leader;
        if task.cancel.is_some() {
            // Without the sidecar's word nobody knows whether it has stopped.
            let cause = if confirmed { Cause::CancelRequested } else { Cause::Unconfirmed };
            return self.end(task, End::Cancelled(cause), Some(failure), reported);
        }
        let counted = !matches!(next, Next::Requeue);
        let failures = task.failures + u32::from(counted);
        let exhausted = failures >= task.spec.retry.max_failures;
        if matches!(next, Next::End) || (counted && exhausted) {
            let mut decision = self.end(task, End::Failed, Some(failure), reported);
            if let Some(Record::Task(task)) = decision.changes[0].value.as_mut() {
                Arc::make_mut(task).failures = failures;
            }
            return decision;
        }
        let delay = if counted { self.back_off(task, failures) } else { self.ctx.jitter(Duration::from_millis(200)) };
        let delay = delay.max(self.stop_delay(task, word));
        // Handed back unstarted, it waits on: its queue deadline must come however often that happens.
        let since = match task.run() {
            Some(run) if failure.cause == Cause::Declined => run.since,
            _ => self.ctx.now,
        };
        let task = Arc::new(TaskRecord {
            failures,
            failure: Some(failure),
            phase: Phase::Pending { not_before: self.ctx.now + delay, since },
            ..TaskRecord::clone(task)
        });
        Decision { changes: vec![self.put(Record::Task(task))], ..Decision::reply(Reply::Done) }
    }

    /// How long a STOP task waits until its last copy must have stopped: told to, or cut off. An agent
    /// that is lost has been silent for longer than that.
    fn stop_delay(&self, task: &TaskRecord, word: Word) -> Duration {
        let Some(run) = task.run().filter(|_| task.spec.disconnect == DisconnectPolicy::Stop) else {
            return Duration::ZERO;
        };
        let stopped = self.space.agent(&run.agent).is_some_and(|agent| match word {
            Word::Report => true,
            Word::Absence => agent.moved == run.incarnation.moved,
            Word::Leader => agent.lost && agent.host.is_some(),
        });
        let liveness = &self.settings.liveness;
        let silence = liveness.kill_after(liveness.beat(self.space.sidecars.len())) + liveness.kill_margin;
        if stopped { Duration::ZERO } else { silence.max(self.settings.cancel_grace + self.settings.report_margin) }
    }

    /// Exponential back-off with full jitter ("Exponential Backoff And Jitter", AWS Architecture
    /// Blog, 2015).
    fn back_off(&self, task: &TaskRecord, failures: u32) -> Duration {
        let retry = &task.spec.retry;
        let doubled = retry.base_delay.saturating_mul(1 << failures.saturating_sub(1).min(20));
        self.ctx.jitter(doubled.min(retry.max_delay))
    }

    pub(super) fn end(&self, task: &Arc<TaskRecord>, end: End, failure: Option<Failure>, reported: bool) -> Decision {
        let task = Arc::new(TaskRecord {
            cancel: None,
            failure: failure.or_else(|| task.failure.clone()),
            phase: Phase::Ended { at: self.ctx.now, end, reported },
            ..TaskRecord::clone(task)
        });
        Decision {
            changes: vec![self.put(Record::Task(task.clone()))],
            ..Decision::reply(Reply::Task { task, duplicate: false })
        }
    }
}
