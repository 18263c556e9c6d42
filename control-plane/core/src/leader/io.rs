//! What goes into the leader and what comes out of it: plain data.

use super::message::{CloseCause, FromSidecar, ToSidecar};
use crate::command::{Command, Release, Reply};
use crate::id::{AttemptId, LeaderEpoch, Namespace, Revision};
use crate::record::{Key, Record};
use crate::rejection::Rejection;

/// Names a call until it is answered; chosen by the shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// Names a sidecar's stream; chosen by the shell, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Connection(pub u64);

/// Why a call was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The rules refused it.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The store refused its batch; nothing was done.
    #[error("the store refused the write: {0}")]
    Refused(StoreRefusal),
}

/// Why the store refused a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreRefusal {
    /// No space left.
    #[error("no space left")]
    NoSpace,
    /// Over the store's limits.
    #[error("too large")]
    TooLarge,
    /// The store failed, and it is known that nothing was written.
    #[error("the store is unavailable")]
    Unavailable,
}

/// What the shell brings.
#[derive(Clone, Debug)]
pub enum Input {
    /// A client's command.
    Call {
        /// Names the answer.
        call: CallId,
        /// The tenant.
        namespace: Namespace,
        /// The command.
        command: Command,
    },
    /// A client wants a commit later than everything told so far.
    Barrier(CallId),
    /// Messages of a sidecar, in order.
    Frame {
        /// The stream.
        connection: Connection,
        /// The leader they answer to.
        leader: LeaderEpoch,
        /// The messages.
        messages: Vec<FromSidecar>,
    },
    /// A stream has ended.
    Hangup(Connection),
    /// The transaction in flight has committed.
    Committed,
    /// The transaction in flight was refused; nothing of it was written.
    Refused(StoreRefusal),
    /// Time has passed.
    Tick,
}

/// What the shell has to do.
#[derive(Clone, Debug)]
pub enum Output {
    /// Answer a call.
    Reply {
        /// Which.
        call: CallId,
        /// The answer.
        result: Result<Reply, CallError>,
        /// Where it was committed, or what it was decided upon.
        revision: Revision,
    },
    /// Send to a sidecar.
    Send {
        /// The stream.
        connection: Connection,
        /// The message.
        message: ToSidecar,
    },
    /// End a stream.
    Close {
        /// The stream.
        connection: Connection,
        /// Why.
        cause: CloseCause,
    },
    /// A transaction has committed: for watchers and metrics.
    Committed {
        /// Where.
        revision: Revision,
        /// What.
        changes: Vec<(Key, Option<Record>)>,
    },
    /// Something softly known changed: for watchers.
    Touched(Key),
    /// A result was not taken: its attempt is over, or is not this sidecar's. For metrics and the log.
    ResultRefused {
        /// Which.
        token: AttemptId,
        /// Why; none if the attempt is current but not this sidecar's.
        release: Option<Release>,
    },
    /// A task's first attempt said it started, so long after the task was accepted: for metrics.
    Started {
        /// From acceptance to start.
        waited: std::time::Duration,
    },
}

/// The calls of a leader that gave up.
#[derive(Debug, Default)]
pub struct Abandoned {
    /// Carried out if the transaction in flight landed.
    pub decided: Vec<(CallId, Result<Reply, CallError>)>,
    /// Not carried out.
    pub waiting: Vec<CallId>,
}

/// Counters the shell turns into metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Tasks given to agents.
    pub assigned: u64,
    /// Results that were not current any more.
    pub results_refused: u64,
    /// Times an agent became suspect.
    pub suspected: u64,
    /// Agents declared lost.
    pub agents_lost: u64,
    /// Assignments offered again.
    pub reoffers: u64,
}
