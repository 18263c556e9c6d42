//! What the leader is asked to decide, and what a decision holds.

use std::sync::Arc;

use bytes::Bytes;

use crate::id::{AgentId, Attempt, AttemptId, BootId, Generation, Namespace, SidecarId, TaskId};
use crate::record::{
    AgentRecord, AgentSpec, BlobKey, Body, Capabilities, Change, Digest, Failure, Labels, TaskRecord, TaskSpec,
};
use crate::state::Match;
use crate::time::Time;

/// A body as it arrives: the record's part, and the bytes to be stored beside it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Delivered {
    /// The record's part.
    pub body: Body,
    /// The bytes, when they are too many for the record.
    pub blob: Option<Bytes>,
}

/// How an attempt ended, by its sidecar's word.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// With a result.
    Succeeded(Delivered),
    /// Without one.
    Failed {
        /// How.
        failure: Failure,
        /// Trying again may help.
        retryable: bool,
    },
    /// It was stopped.
    Cancelled,
}

/// Fields of an agent's spec that an operator changes; those absent stay.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AgentUpdate {
    /// New pool.
    pub pool: Option<Arc<str>>,
    /// New capabilities.
    pub capabilities: Option<Capabilities>,
    /// New labels.
    pub labels: Option<Labels>,
    /// New slots.
    pub slots: Option<u32>,
}

/// Something to decide, within one namespace.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Accept a task.
    Submit {
        /// Chosen by the client.
        id: TaskId,
        /// What is asked for.
        spec: Arc<TaskSpec>,
        /// The payload's bytes, when they are too many for the record.
        blob: Option<Bytes>,
    },
    /// Give a task to an agent.
    Assign(Match),
    /// End a task early.
    Cancel(TaskId),
    /// Answer a question.
    ProvideInput {
        /// The task.
        id: TaskId,
        /// The question; 0 means the open one.
        number: u32,
        /// The answer.
        input: Delivered,
        /// Fingerprint of the request: the first half that of its id, the other that of its body.
        request: Digest,
    },
    /// An attempt ended.
    Report {
        /// Which.
        token: AttemptId,
        /// On whose word.
        agent: AgentId,
        /// How.
        outcome: Outcome,
    },
    /// An attempt will never start where it was assigned.
    Decline {
        /// Which.
        token: AttemptId,
        /// On whose word.
        agent: AgentId,
    },
    /// An attempt neither runs nor has finished.
    LoseAttempt {
        /// Which.
        token: AttemptId,
        /// Text for people.
        message: &'static str,
    },
    /// An attempt asks something.
    AskInput {
        /// Which.
        token: AttemptId,
        /// Number of the question within the task.
        number: u32,
        /// The question.
        prompt: Delivered,
    },
    /// An attempt's start is worth a write.
    RecordStart {
        /// Which.
        token: AttemptId,
        /// When it started.
        started: Time,
    },
    /// A task's deadline has come.
    Expire(TaskId),
    /// Declare an agent.
    RegisterAgent {
        /// Its id.
        id: AgentId,
        /// Its declaration.
        spec: AgentSpec,
        /// Fingerprint of the request: the first half that of its id, the other that of its body.
        request: Digest,
    },
    /// Change an agent's declaration.
    UpdateAgent {
        /// Which.
        id: AgentId,
        /// What.
        update: AgentUpdate,
    },
    /// Stop giving an agent work, or go on.
    DrainAgent {
        /// Which.
        id: AgentId,
        /// Go on.
        undo: bool,
    },
    /// Let an agent go.
    RemoveAgent {
        /// Which.
        id: AgentId,
        /// End what runs.
        force: bool,
    },
    /// Bring a removed agent back as it was.
    RestoreAgent(AgentId),
    /// A sidecar says hello.
    AdmitSidecar {
        /// Which.
        id: SidecarId,
        /// Its boot.
        boot: BootId,
        /// The generation its journal holds; zero before the first.
        claimed: Generation,
        /// The boot on record may still be alive.
        rival: bool,
    },
    /// A sidecar declares an agent.
    HostAgent {
        /// The sidecar.
        host: SidecarId,
        /// The agent.
        id: AgentId,
        /// Its declaration.
        spec: AgentSpec,
        /// Fingerprint of the declaration.
        digest: Digest,
        /// The host on record may still be alive.
        rival: bool,
    },
    /// A sidecar does not declare an agent any more.
    UnhostAgent(AgentId),
    /// An agent was out of contact for longer than the grace.
    LoseAgent(AgentId),
    /// Raise the floor as far as retention needs it.
    RaiseFloor,
    /// Delete ended tasks below the floor.
    Evict {
        /// Most operations.
        most: usize,
    },
    /// Delete a removed agent's record.
    ForgetAgent(AgentId),
}

impl Command {
    /// A stable name, for metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Command::Submit { .. } => "submit",
            Command::Assign(_) => "assign",
            Command::Cancel(_) => "cancel",
            Command::ProvideInput { .. } => "provide_input",
            Command::Report { .. } => "report",
            Command::Decline { .. } => "decline",
            Command::LoseAttempt { .. } => "lose_attempt",
            Command::AskInput { .. } => "ask_input",
            Command::RecordStart { .. } => "record_start",
            Command::Expire(_) => "expire",
            Command::RegisterAgent { .. } => "register_agent",
            Command::UpdateAgent { .. } => "update_agent",
            Command::DrainAgent { .. } => "drain_agent",
            Command::RemoveAgent { .. } => "remove_agent",
            Command::RestoreAgent(_) => "restore_agent",
            Command::AdmitSidecar { .. } => "admit_sidecar",
            Command::HostAgent { .. } => "host_agent",
            Command::UnhostAgent(_) => "unhost_agent",
            Command::LoseAgent(_) => "lose_agent",
            Command::RaiseFloor => "raise_floor",
            Command::Evict { .. } => "evict",
            Command::ForgetAgent(_) => "forget_agent",
        }
    }
}

/// Why an attempt may be forgotten by its sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// Its end is committed.
    Committed,
    /// A later attempt or a terminal state stands in its place.
    Superseded,
    /// The record is gone.
    Gone,
}

/// Why an attempt must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// A client asked for it.
    Requested,
    /// It is not current.
    Superseded,
    /// It ran too long.
    Timeout,
    /// Its agent is removed.
    AgentRemoved,
}

/// What must be told once the decision is committed.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Offer an attempt to the agent that has it.
    Offer(Arc<TaskRecord>),
    /// Stop an attempt.
    Stop {
        /// Where.
        agent: AgentId,
        /// Which.
        token: AttemptId,
        /// Why.
        reason: StopReason,
    },
    /// Bring an answer.
    Answer(Arc<TaskRecord>),
    /// Tell what is wanted of an agent.
    Desire(AgentId),
}

/// What the asker is told once the decision is committed.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// Nothing.
    Done,
    /// A task.
    Task {
        /// As it stands after the decision.
        task: Arc<TaskRecord>,
        /// The command found it done before.
        duplicate: bool,
    },
    /// An agent, as it stands after the decision.
    Agent(Arc<AgentRecord>),
    /// A reporter may forget an attempt.
    Release(Release),
    /// A sidecar is in, under this generation.
    Admitted(Generation),
    /// A question is open under this number, or was answered: then the task says so.
    Asked(Arc<TaskRecord>),
}

/// A decision: at most [`Decision::MAX_RECORDS`] changes that stand or fall together.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// Records.
    pub changes: Vec<Change>,
    /// Bodies stored beside them; none deletes.
    pub blobs: Vec<(BlobKey, Option<Bytes>)>,
    /// To be told.
    pub effects: Vec<Effect>,
    /// To the asker.
    pub reply: Reply,
}

impl Decision {
    /// Most records one command changes.
    pub const MAX_RECORDS: usize = 64;
    /// Most operations one command causes, blobs included.
    pub const MAX_OPS: usize = 96;

    /// Nothing but an answer.
    #[must_use]
    pub fn reply(reply: Reply) -> Self {
        Self { changes: Vec::new(), blobs: Vec::new(), effects: Vec::new(), reply }
    }
}

/// What a decision may depend on besides the state.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The namespace the command is about.
    pub namespace: &'a Namespace,
    /// Cluster time.
    pub now: Time,
    /// Randomness, for jitter.
    pub random: u64,
}

impl Context<'_> {
    /// A share of `most`, evenly spread by this context's randomness.
    #[must_use]
    pub fn jitter(&self, most: std::time::Duration) -> std::time::Duration {
        most.mul_f64((self.random >> 11) as f64 / (1u64 << 53) as f64)
    }
}

/// The token of an attempt of a task.
#[must_use]
pub fn token(task: TaskId, attempt: Attempt) -> AttemptId {
    AttemptId { task, attempt }
}
