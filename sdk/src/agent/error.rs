//! Why an agent stopped serving.

use std::path::PathBuf;
use std::time::Duration;

/// Why [`Agent::serve`](crate::Agent::serve) ended other than by a drain.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The environment names no socket.
    #[error(
        "HIVE_AGENT_SOCKET is not set: a sidecar sets it for the agents it starts; to run an agent \
         by hand, set it to the agent's socket, or test the handler with hive_sdk::local::run"
    )]
    NoSocket,
    /// Nobody answered within the first-connect time.
    #[error(
        "no sidecar answered at {socket} within {waited:?} (last: {cause}): check that hive-sidecar \
         runs and that its configuration has this agent", socket = socket.display()
    )]
    NoSidecar {
        /// Where it was looked for.
        socket: PathBuf,
        /// How long.
        waited: Duration,
        /// What the last try met.
        cause: String,
    },
    /// The sidecar was there, went away and did not come back.
    #[error("the sidecar at {socket} has not come back within {waited:?} (last: {cause})", socket = socket.display())]
    SidecarGone {
        /// Where it was.
        socket: PathBuf,
        /// How long nothing was heard.
        waited: Duration,
        /// What the last try met.
        cause: String,
    },
    /// The other side refuses this agent for good.
    #[error("the sidecar refused the session: {message}")]
    Refused {
        /// What it said.
        message: String,
    },
    /// Another process has taken this agent's socket; work still running here was dropped.
    #[error("another process now serves this agent: {message}")]
    Replaced {
        /// What the sidecar said.
        message: String,
    },
    /// Told to stop, but results were not acknowledged in time.
    #[error("stopped with {count} results the sidecar has not acknowledged")]
    Unacknowledged {
        /// How many results may be lost.
        count: usize,
    },
    /// Told twice to stop: running work was dropped.
    #[error("stopped at once with {running} tasks running")]
    Stopped {
        /// How many were dropped.
        running: usize,
    },
    /// The session's thread could not be started.
    #[error("could not start the session's thread")]
    Thread(#[source] std::io::Error),
    /// The session's thread ended without a word: a fault in the SDK.
    #[error("the session's thread ended unexpectedly")]
    Lost,
}

/// The text and its causes: `main` shows an error by `Debug`, and people should read what to do.
impl std::fmt::Debug for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")?;
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}
