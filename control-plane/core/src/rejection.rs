//! Why a command was refused. The shell maps these one to one onto its table of API errors.

use crate::id::{AgentId, SidecarId, TaskId};
use crate::time::Time;

/// A refusal; nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// No such tenant.
    #[error("namespace is not configured")]
    NamespaceNotFound,
    /// No such task, and none with this id was deleted.
    #[error("task {0} does not exist")]
    TaskNotFound(TaskId),
    /// The id lies below the floor: its record may have been deleted.
    #[error("task id was made before {floor}, ids from before then may have been forgotten")]
    TaskIdTooOld {
        /// Ids from here on are accepted.
        floor: Time,
        /// For the client to correct its clock.
        cluster_time: Time,
    },
    /// The id was made too far ahead.
    #[error("task id was made in the future; cluster time is {cluster_time}")]
    TaskIdInFuture {
        /// For the client to correct its clock.
        cluster_time: Time,
    },
    /// The id belongs to a task with another body.
    #[error("task {0} exists with another body")]
    TaskIdReused(TaskId),
    /// Too many pending tasks.
    #[error("the namespace has {limit} pending tasks, which is its limit")]
    PendingLimit {
        /// The limit.
        limit: u64,
    },
    /// The task has ended otherwise.
    #[error("task {0} has ended")]
    TaskTerminal(TaskId),
    /// No question is open.
    #[error("task {0} has no open question")]
    InputNotRequired(TaskId),
    /// Another question is open.
    #[error("question {asked} is not open, {open} is")]
    InputNumberStale {
        /// The one that was answered.
        asked: u32,
        /// The open one.
        open: u32,
    },
    /// The same request id with another body.
    #[error("the request id was used for another request")]
    RequestIdReused,
    /// No such agent.
    #[error("agent {0} does not exist")]
    AgentNotFound(AgentId),
    /// Such an agent exists.
    #[error("agent {0} exists")]
    AgentExists(AgentId),
    /// The agent is being removed.
    #[error("agent {0} is removed")]
    AgentRemoved(AgentId),
    /// Another sidecar hosts the agent.
    #[error("agent {agent} is hosted by sidecar {host}, which is not lost")]
    AgentIdInUse {
        /// The agent.
        agent: AgentId,
        /// Its host.
        host: SidecarId,
    },
    /// Another boot of the sidecar holds the id.
    #[error("sidecar {0} is in use by another boot that is not silent")]
    SidecarIdInUse(SidecarId),
    /// This generation of the sidecar is over.
    #[error("this generation of sidecar {0} is over")]
    SidecarFenced(SidecarId),
}
