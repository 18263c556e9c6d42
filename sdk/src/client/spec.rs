//! What to ask for: a task's specification, with the defaults of the server where nothing is said.

use std::time::Duration;

use hive_proto::v1;

use super::{DisconnectPolicy, Priority, TaskId};
use crate::Payload;

/// A task to submit.
///
/// ```
/// use std::time::Duration;
/// use hive_sdk::client::{Priority, TaskSpec};
///
/// let spec = TaskSpec::new("review")
///     .payload("src/lib.rs")
///     .label("job", "nightly")
///     .priority(Priority::High)
///     .attempt_timeout(Duration::from_secs(60));
/// assert_eq!(spec.as_proto().capabilities, ["review"]);
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TaskSpec {
    pub(super) id: Option<TaskId>,
    pub(super) spec: v1::TaskSpec,
}

impl TaskSpec {
    /// Work for an agent with this capability.
    pub fn new(capability: impl Into<String>) -> Self {
        let spec = v1::TaskSpec { capabilities: vec![capability.into()], ..Default::default() };
        Self { id: None, spec }
    }

    /// The id to submit under, made before with
    /// [`Client::new_task_id`](super::Client::new_task_id) and written down by the caller.
    pub fn id(mut self, id: TaskId) -> Self {
        self.id = Some(id);
        self
    }

    /// Another capability the agent must have as well.
    pub fn and_capability(mut self, capability: impl Into<String>) -> Self {
        self.spec.capabilities.push(capability.into());
        self
    }

    /// What the agent gets; at most 256 KiB.
    pub fn payload(mut self, payload: impl Into<Payload>) -> Self {
        self.spec.payload = Some(payload.into().into());
        self
    }

    /// A label of the task itself, for listing and watching.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.spec.labels.insert(key.into(), value.into());
        self
    }

    /// A label the agent must carry.
    pub fn agent_label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.spec.agent_labels.insert(key.into(), value.into());
        self
    }

    /// The pool the agent must be in.
    pub fn pool(mut self, pool: impl Into<String>) -> Self {
        self.spec.pool = pool.into();
        self
    }

    /// Urgency.
    pub fn priority(mut self, priority: Priority) -> Self {
        self.spec.priority = priority.into();
        self
    }

    /// Failures after which the task ends FAILED; 1 to 100.
    pub fn max_failures(mut self, failures: u32) -> Self {
        self.spec.retry.get_or_insert_default().max_failures = failures;
        self
    }

    /// First and longest delay between attempts.
    pub fn retry_delays(mut self, base: Duration, max: Duration) -> Self {
        let retry = self.spec.retry.get_or_insert_default();
        (retry.base_delay, retry.max_delay) = (wire(base), wire(max));
        self
    }

    /// Longest run of one attempt.
    pub fn attempt_timeout(mut self, limit: Duration) -> Self {
        self.spec.attempt_timeout = wire(limit);
        self
    }

    /// Longest wait for an agent.
    pub fn queue_timeout(mut self, limit: Duration) -> Self {
        self.spec.queue_timeout = wire(limit);
        self
    }

    /// Longest wait for input.
    pub fn input_timeout(mut self, limit: Duration) -> Self {
        self.spec.input_timeout = wire(limit);
        self
    }

    /// What happens when the agent's host is cut off.
    pub fn on_disconnect(mut self, policy: DisconnectPolicy) -> Self {
        self.spec.disconnect_policy = policy.into();
        self
    }

    /// As it goes over the wire.
    pub fn as_proto(&self) -> &v1::TaskSpec {
        &self.spec
    }
}

impl From<v1::TaskSpec> for TaskSpec {
    fn from(spec: v1::TaskSpec) -> Self {
        Self { id: None, spec }
    }
}

/// Durations past the wire's range are past every limit as well; the server says so.
pub(super) fn wire(duration: Duration) -> Option<prost_types::Duration> {
    Some(duration.try_into().unwrap_or(prost_types::Duration { seconds: i64::MAX, nanos: 0 }))
}
