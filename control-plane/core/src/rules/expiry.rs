//! Deadlines that have come.

use std::sync::Arc;

use super::Rule;
use crate::command::{Decision, Effect, Reply, StopReason};
use crate::id::TaskId;
use crate::mutant::{self, Mutant};
use crate::record::{Cause, DisconnectPolicy, End, Failure, Phase};
use crate::time::Time;

impl Rule<'_> {
    /// Acts on a task's deadline if it has come; an early or stale call changes nothing.
    pub(super) fn expire(&self, id: TaskId) -> Decision {
        let Some(task) = self.space.task(id) else { return Decision::reply(Reply::Done) };
        let now = if mutant::is(Mutant::StaleTimer) { Time::NEVER } else { self.ctx.now };
        let margin = self.settings.cancel_grace + self.settings.report_margin;
        if let (Some(at), Some(_)) = (task.cancel, task.run())
            && now >= at + margin
        {
            return self.end(task, End::Cancelled(Cause::Unconfirmed), None, false);
        }
        match &task.phase {
            Phase::Pending { since, .. } if now >= *since + task.spec.queue_timeout => {
                let message = task.failure.as_ref().map_or_else(|| Arc::from(""), |last| last.message.clone());
                let failure = Failure { message, ..Failure::of(Cause::QueueDeadline) };
                self.end(task, End::Expired, Some(failure), false)
            }
            Phase::Assigned(run) => {
                let began = self.space.slot(task).and_then(|s| s.started).or(run.started).unwrap_or(run.assigned);
                if now < began + task.spec.attempt_timeout + run.waited + margin {
                    return Decision::reply(Reply::Done);
                }
                let stop = Effect::Stop { agent: run.agent.clone(), token: task.token(), reason: StopReason::Timeout };
                let gone = self.space.agent(&run.agent).is_none_or(|agent| agent.lost);
                let mut decision = if gone && task.spec.disconnect == DisconnectPolicy::Wait {
                    let failure =
                        Failure { message: Arc::from("the agent did not come back"), ..Failure::of(Cause::AgentLost) };
                    self.end(task, End::Failed, Some(failure), false)
                } else {
                    self.time_out(task)
                };
                decision.effects.push(stop);
                decision
            }
            // A cancel has its own, shorter grace.
            Phase::InputRequired(run, question)
                if task.cancel.is_none() && now >= question.asked + task.spec.input_timeout =>
            {
                let stop = Effect::Stop { agent: run.agent.clone(), token: task.token(), reason: StopReason::Timeout };
                let mut decision = self.end(task, End::Failed, Some(Failure::of(Cause::InputTimeout)), false);
                decision.effects.push(stop);
                decision
            }
            Phase::Pending { .. } | Phase::InputRequired(..) | Phase::Ended { .. } => Decision::reply(Reply::Done),
        }
    }
}
