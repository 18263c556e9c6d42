//! What sidecars and the leader say to each other, as the rules see it.
//!
//! The wire form is `hive.sidecar.v1`; the shell converts.

use std::sync::Arc;
use std::time::Duration;

use crate::command::{Delivered, Outcome, Release, StopReason};
use crate::id::{
    AgentId, AssignNumber, AttemptId, BootId, ConnectionNumber, Generation, Namespace, Revision, SidecarId,
};
use crate::record::{AgentSpec, Body, Desired, Digest, TaskRecord};
use crate::rejection::Rejection;
use crate::time::Time;

/// An agent's room, as its sidecar tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credit {
    /// The agent.
    pub agent: AgentId,
    /// Free slots.
    pub free: u32,
    /// It is up.
    pub ready: bool,
}

/// An agent as its sidecar declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declared {
    /// The declaration.
    pub spec: AgentSpec,
    /// Its fingerprint.
    pub digest: Digest,
    /// Its room.
    pub credit: Credit,
    /// The sidecar was told to remove it.
    pub removed: bool,
}

/// An attempt a sidecar knows of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Which.
    pub token: AttemptId,
    /// On which agent.
    pub agent: AgentId,
    /// It runs, since then by the sidecar's clock.
    pub started: Option<Time>,
    /// It has ended.
    pub finished: bool,
    /// The question it waits on.
    pub input: Option<u32>,
}

/// A session's first message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The tenant.
    pub namespace: Namespace,
    /// The sidecar.
    pub sidecar: SidecarId,
    /// Its boot.
    pub boot: BootId,
    /// The generation it holds; zero before the first.
    pub generation: Generation,
    /// Its dial.
    pub connection: ConnectionNumber,
    /// Its agents.
    pub agents: Vec<Declared>,
    /// Its attempts.
    pub attempts: Vec<Listed>,
}

/// A sign of life with the inventory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    /// Its number.
    pub number: u64,
    /// The last assignment taken into account.
    pub seen: AssignNumber,
    /// All agents.
    pub agents: Vec<Credit>,
    /// All attempts.
    pub attempts: Vec<Listed>,
}

/// From a sidecar.
#[derive(Clone, Debug, PartialEq)]
pub enum FromSidecar {
    /// First message, and the answer to a resync.
    Hello(Box<Hello>),
    /// Free slots.
    Credit {
        /// The last assignment taken into account.
        seen: AssignNumber,
        /// Agents whose room changed.
        agents: Vec<Credit>,
    },
    /// Assignments taken in, up to here.
    Receipt(AssignNumber),
    /// An attempt started.
    Started(AttemptId),
    /// Sign of life.
    Beat(Box<Beat>),
    /// Progress.
    Progress {
        /// Which.
        token: AttemptId,
        /// Share done.
        fraction: Option<f64>,
        /// Text for people.
        message: Arc<str>,
    },
    /// It will never start.
    Declined(AttemptId),
    /// It neither runs nor finished.
    AttemptLost(AttemptId),
    /// A question.
    InputRequired {
        /// Which.
        token: AttemptId,
        /// Number within the task.
        number: u32,
        /// The question.
        prompt: Delivered,
    },
    /// An attempt's end.
    Result {
        /// Which.
        token: AttemptId,
        /// How.
        outcome: Outcome,
    },
    /// It leaves on purpose.
    Goodbye,
}

impl FromSidecar {
    /// Holds whichever leader the sidecar last heard of.
    pub(super) fn outlives_leader(&self) -> bool {
        matches!(self, FromSidecar::Hello(_) | FromSidecar::Result { .. } | FromSidecar::Goodbye)
    }
}

/// What to do with an attempt the hello listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptVerdict {
    /// Which.
    pub token: AttemptId,
    /// None: it is current, go on. Some: stop it; it may be forgotten for this reason.
    pub over: Option<Release>,
}

/// The answer to a hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// Generation of this boot.
    pub generation: Generation,
    /// The dial it answers.
    pub connection: ConnectionNumber,
    /// Time between beats.
    pub beat: Duration,
    /// Jitter on it, in thousandths either way.
    pub jitter_permille: u32,
    /// Silence after which STOP attempts end themselves.
    pub kill_after: Duration,
    /// What to do with each listed attempt.
    pub verdicts: Vec<AttemptVerdict>,
    /// What is wanted of each agent.
    pub agents: Vec<(AgentId, Desired)>,
    /// Agents it may not host, because this other sidecar does and may be alive.
    pub in_use: Vec<(AgentId, SidecarId)>,
    /// Read at.
    pub revision: Revision,
}

/// Work for a sidecar.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    /// Position in the session.
    pub number: AssignNumber,
    /// The task; its run names the agent.
    pub task: Arc<TaskRecord>,
    /// From TERM to KILL when it must end.
    pub grace: Duration,
    /// Committed by then.
    pub revision: Revision,
}

/// To a sidecar.
#[derive(Clone, Debug, PartialEq)]
pub enum ToSidecar {
    /// Answer to a hello.
    Welcome(Box<Welcome>),
    /// Work.
    Assign(Box<Assignment>),
    /// An attempt may be forgotten: the answer to a result, and to `Declined` and `AttemptLost`.
    ResultAck {
        /// Which.
        token: AttemptId,
        /// Why.
        release: Release,
        /// Read at.
        revision: Revision,
    },
    /// An attempt must end.
    Stop {
        /// Which.
        token: AttemptId,
        /// Why.
        reason: StopReason,
        /// From TERM to KILL.
        grace: Duration,
    },
    /// An answer.
    Answer {
        /// Which attempt.
        token: AttemptId,
        /// Number of the question within the task.
        number: u32,
        /// The answer.
        body: Body,
    },
    /// What is wanted of an agent.
    Desire {
        /// Which.
        agent: AgentId,
        /// What.
        desired: Desired,
    },
    /// The leader heard a beat.
    BeatAck {
        /// Which.
        number: u64,
        /// Time between beats from now on.
        interval: Duration,
    },
    /// Say hello again.
    Resync,
}

/// Why the leader ends a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseCause {
    /// The hello was refused.
    Rejected(Rejection),
    /// A later session of the sidecar exists.
    SessionStale,
    /// The hello was decided, but its write failed.
    StoreFailed,
    /// It said goodbye.
    Goodbye,
}
