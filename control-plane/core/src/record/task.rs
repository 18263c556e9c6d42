//! Tasks as stored.

use std::sync::Arc;
use std::time::Duration;

use super::{Body, Capabilities, Capability, Digest, Labels};
use crate::id::{AgentId, Attempt, AttemptId, Incarnation, TaskId};
use crate::time::Time;

/// How urgently a task is dispatched; later variants first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Work that can wait.
    Low,
    /// The default.
    #[default]
    Normal,
    /// Ahead of normal.
    High,
    /// Ahead of everything.
    Critical,
}

impl Priority {
    /// All classes, most urgent first.
    pub const ALL: [Priority; 4] = [Priority::Critical, Priority::High, Priority::Normal, Priority::Low];

    /// Position in arrays with one element per class.
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }
}

/// What happens to a running attempt when its host is cut off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DisconnectPolicy {
    /// Another attempt takes over after the grace.
    #[default]
    Replace,
    /// The sidecar stops its copy first.
    Stop,
    /// Never replaced.
    Wait,
}

/// When a failed attempt is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Failures after which the task ends.
    pub max_failures: u32,
    /// First delay; doubles per failure.
    pub base_delay: Duration,
    /// Ceiling of the delay.
    pub max_delay: Duration,
}

/// What an agent must have to be given a task.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Requirement {
    /// All of these.
    pub capabilities: Capabilities,
    /// All of these, with these values.
    pub labels: Labels,
    /// This pool; none means any.
    pub pool: Option<Arc<str>>,
}

/// What a client asked for. Never changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskSpec {
    /// What the agent must have.
    pub requirement: Requirement,
    /// The capability that names the work.
    pub capability: Capability,
    /// Urgency.
    pub priority: Priority,
    /// What the agent gets.
    pub payload: Body,
    /// Labels of the task itself.
    pub labels: Labels,
    /// Retries.
    pub retry: RetryPolicy,
    /// Longest run of one attempt.
    pub attempt_timeout: Duration,
    /// Longest single wait for an agent.
    pub queue_timeout: Duration,
    /// Longest wait for input.
    pub input_timeout: Duration,
    /// What to do when the host is cut off.
    pub disconnect: DisconnectPolicy,
    /// Fingerprint of the request, by which a repeated submit is told from another one.
    pub digest: Digest,
}

/// Why a task stands where it stands. The same values as `hive.v1.TaskReason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// Exit code other than 0.
    ExitCode,
    /// Ended by a signal.
    Signal,
    /// Ran too long.
    Timeout,
    /// Host out of contact for too long, or came back without the attempt.
    AgentLost,
    /// The agent was removed.
    AgentRemoved,
    /// The agent's own error.
    AgentError,
    /// Result over the limit.
    ResultTooLarge,
    /// The program could not be started.
    StartFailed,
    /// Cancelled and confirmed.
    CancelRequested,
    /// Cancelled, not confirmed in time.
    Unconfirmed,
    /// No agent in time.
    QueueDeadline,
    /// No input in time.
    InputTimeout,
    /// Handed back without starting.
    Declined,
}

/// How an attempt ended when it was not a success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Stable reason.
    pub cause: Cause,
    /// Text for people, at most 1 KiB.
    pub message: Arc<str>,
    /// When a program exited.
    pub exit_code: Option<i32>,
    /// When a signal ended it.
    pub signal: Option<i32>,
}

impl Failure {
    /// A failure with nothing but its cause.
    #[must_use]
    pub fn of(cause: Cause) -> Self {
        Self { cause, message: Arc::from(""), exit_code: None, signal: None }
    }
}

/// The current attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Who has it.
    pub agent: AgentId,
    /// Which life of the agent it belongs to.
    pub incarnation: Incarnation,
    /// When the wait began that the assignment ended; handed back unstarted, the task waits on from there.
    pub since: Time,
    /// When it was assigned.
    pub assigned: Time,
    /// When it started, once that was worth a write.
    pub started: Option<Time>,
    /// Time spent waiting for input so far; the attempt timeout stands still meanwhile.
    pub waited: Duration,
    /// The last answer, kept until the attempt ends because its delivery may have to be repeated.
    pub answer: Option<Answer>,
}

/// An open question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Number within the task, from 1.
    pub number: u32,
    /// What is asked.
    pub prompt: Body,
    /// When it was asked.
    pub asked: Time,
}

/// An answer to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Number of the question.
    pub number: u32,
    /// What was answered.
    pub body: Body,
    /// Fingerprint of the request that answered.
    pub request: Digest,
}

/// A terminal state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// With a result.
    Succeeded(Body),
    /// Without one; why is in [`TaskRecord::failure`].
    Failed,
    /// By request.
    Cancelled(Cause),
    /// No agent in time.
    Expired,
}

/// Where a task stands. The lifecycle:
///
/// | from | to | by |
/// |---|---|---|
/// | (none) | Pending | submit |
/// | Pending | Assigned | assign: the attempt grows |
/// | Pending | Ended | cancel, queue deadline |
/// | Assigned | InputRequired | the agent's question |
/// | InputRequired | Assigned | an answer |
/// | Assigned, InputRequired | Pending | retryable failure, decline, agent lost or removed |
/// | Assigned, InputRequired | Ended | result, cancel, last failure |
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Waits for an agent.
    Pending {
        /// Not dispatched before.
        not_before: Time,
        /// When this wait began.
        since: Time,
    },
    /// An agent has it.
    Assigned(Run),
    /// Its agent waits for input.
    InputRequired(Run, Question),
    /// Terminal.
    Ended {
        /// When.
        at: Time,
        /// How.
        end: End,
        /// The current attempt's own report ended it, not a decision of the leader.
        reported: bool,
    },
}

/// A task as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskRecord {
    /// Its id.
    pub id: TaskId,
    /// What was asked for.
    pub spec: Arc<TaskSpec>,
    /// When it was accepted.
    pub created: Time,
    /// Number of the current or last assignment; 0 before the first.
    pub attempt: Attempt,
    /// Failures counted against the retry policy.
    pub failures: u32,
    /// Questions asked so far.
    pub questions: u32,
    /// When a cancel was asked for that is not yet decided.
    pub cancel: Option<Time>,
    /// Agent of the current or last attempt.
    pub agent: Option<AgentId>,
    /// How the last attempt failed.
    pub failure: Option<Failure>,
    /// Where it stands.
    pub phase: Phase,
}

impl TaskRecord {
    /// The current attempt, while an agent has it.
    #[must_use]
    pub fn run(&self) -> Option<&Run> {
        match &self.phase {
            Phase::Assigned(run) | Phase::InputRequired(run, _) => Some(run),
            Phase::Pending { .. } | Phase::Ended { .. } => None,
        }
    }

    /// The token of the current or last attempt.
    #[must_use]
    pub fn token(&self) -> AttemptId {
        AttemptId { task: self.id, attempt: self.attempt }
    }

    /// It has reached a terminal state.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended { .. })
    }

    /// Bytes of its texts and bodies; see [`super::Record::text_bytes`].
    pub(super) fn text_bytes(&self) -> usize {
        let spec = &self.spec;
        let inline = |body: &Body| body.content_type.len() + body.inline.as_ref().map_or(0, bytes::Bytes::len);
        let phase = match &self.phase {
            Phase::Pending { .. } => 0,
            Phase::Assigned(run) => run.answer.as_ref().map_or(0, |answer| inline(&answer.body)),
            Phase::InputRequired(run, question) => {
                inline(&question.prompt) + run.answer.as_ref().map_or(0, |answer| inline(&answer.body))
            }
            Phase::Ended { end: End::Succeeded(body), .. } => inline(body),
            Phase::Ended { .. } => 0,
        };
        phase
            + inline(&spec.payload)
            + super::labels_bytes(&spec.labels)
            + super::labels_bytes(&spec.requirement.labels)
            + super::capabilities_bytes(&spec.requirement.capabilities)
            + self.failure.as_ref().map_or(0, |failure| failure.message.len())
    }

    /// Bytes it holds against the retention limit: bodies and a flat share for the rest.
    #[must_use]
    pub fn retained_bytes(&self) -> u64 {
        let result = match &self.phase {
            Phase::Ended { end: End::Succeeded(body), .. } => body.size,
            _ => 0,
        };
        512 + u64::from(self.spec.payload.size) + u64::from(result)
    }
}
