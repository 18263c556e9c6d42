//! The front door: where the agent's socket is, and serving it until told to stop.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::dial::UnixSocket;
use super::handlers;
use super::shell::{self, Limits};
use super::task::Board;
use super::{Error, Failure, Task};
use crate::{Output, tasks};

/// The environment variable a sidecar sets for its agents: the path of the agent's Unix socket.
pub const SOCKET_VARIABLE: &str = "HIVE_AGENT_SOCKET";

/// An agent, ready to serve.
#[derive(Debug, Clone)]
pub struct Agent {
    socket: PathBuf,
    first_connect: Duration,
    gone: Duration,
    stop: CancellationToken,
    signals: bool,
}

impl Agent {
    /// The agent whose socket `HIVE_AGENT_SOCKET` names. Fails with [`Error::NoSocket`].
    pub fn from_env() -> Result<Self, Error> {
        let socket = std::env::var_os(SOCKET_VARIABLE).filter(|path| !path.is_empty()).ok_or(Error::NoSocket)?;
        Ok(Self::at(socket))
    }

    /// The agent whose socket is at this path.
    pub fn at(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            first_connect: Duration::from_secs(30),
            gone: Duration::from_secs(600),
            stop: CancellationToken::new(),
            signals: true,
        }
    }

    /// How long the first connect is tried; 30 s unless said.
    pub fn first_connect(mut self, limit: Duration) -> Self {
        self.first_connect = limit;
        self
    }

    /// How long to go on, idle, after the sidecar has vanished; 10 min unless said.
    pub fn give_up_after(mut self, limit: Duration) -> Self {
        self.gone = limit;
        self
    }

    /// Cancelling the token has the effect of a SIGTERM.
    pub fn stop_on(mut self, stop: CancellationToken) -> Self {
        self.stop = stop;
        self
    }

    /// Leaves SIGTERM and SIGINT alone; by default the first one finishes what runs and stops, a
    /// second one stops at once.
    pub fn without_signals(mut self) -> Self {
        self.signals = false;
        self
    }

    /// Serves until the sidecar drains this agent or the process is told to stop, and what ran is
    /// finished and acknowledged. Handlers run side by side on the current runtime, as many as the
    /// agent has slots; while the sidecar is away they go on and their results are kept.
    ///
    /// Dropping the future ends the session and drops running handlers.
    pub async fn serve<F, Fut>(self, handler: F) -> Result<(), Error>
    where
        F: Fn(Task) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Output, Failure>> + Send + 'static,
    {
        let handler = handlers::boxed(handler);
        let runtime = Handle::current();
        let abandon = CancellationToken::new();
        let _end_with_me = abandon.clone().drop_guard();
        let limits = Limits {
            socket: self.socket.clone(),
            first_connect: self.first_connect,
            gone: self.gone,
            stop: self.stop.child_token(),
            abandon: abandon.clone(),
        };
        let (told, end) = oneshot::channel();
        tasks::thread("hive-session", move || async move {
            let stop = limits.stop.clone();
            let session = shell::run(UnixSocket(self.socket), handler, runtime, Arc::new(Board::default()), limits);
            let end = tokio::select! {
                end = session => end,
                never = heed_signals(self.signals, stop, abandon) => match never {},
            };
            // Nobody listens when the caller dropped the future.
            drop(told.send(end));
        })
        .map_err(Error::Thread)?;
        end.await.map_err(|_| Error::Lost)?
    }
}

async fn heed_signals(heed: bool, stop: CancellationToken, abandon: CancellationToken) -> std::convert::Infallible {
    let handlers = heed.then(|| Some((signal(SignalKind::terminate()).ok()?, signal(SignalKind::interrupt()).ok()?)));
    let Some(Some((mut terminate, mut interrupt))) = handlers else { return std::future::pending().await };
    for then in [stop, abandon] {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        then.cancel();
    }
    std::future::pending().await
}
