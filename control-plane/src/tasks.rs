//! The only place that spawns. A task's kind fixes what its cancellation and its failure mean.
//!
//! It knows nothing of what the tasks do. Threads of the store belong to the store.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::OnceLock;

use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What a task is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskKind {
    /// The owner of the state, and the thread that commits for it.
    Driver,
    /// Liveness and deadlines of sessions as a whole.
    Sessions,
    /// Accepts connections of one listener.
    Accept,
    /// Serves the connections of one listener.
    Serve,
    /// One sidecar's session.
    Session,
    /// One client's watch, wait or log stream.
    Stream,
    /// One connection until it has shown which protocol it speaks.
    Handshake,
    /// Repeated housekeeping: metrics, retention hints.
    Upkeep,
}

/// What happens to a task when the server stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnStop {
    /// It watches the shutdown token, ends by itself and is waited for.
    Finishes,
    /// It is dropped where it waits: nothing it does needs an orderly end.
    Dropped,
}

/// What it means when a task returns an error or panics; for a critical one also when it ends
/// while the server is not stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// The server can't go on without it: shut down and say so.
    StopsServer,
    /// Logged; the others go on.
    Logged,
}

impl TaskKind {
    /// The table of meanings.
    #[must_use]
    pub const fn meaning(self) -> (OnStop, OnFailure) {
        match self {
            Self::Driver | Self::Sessions | Self::Accept | Self::Serve => (OnStop::Finishes, OnFailure::StopsServer),
            Self::Session | Self::Stream => (OnStop::Finishes, OnFailure::Logged),
            Self::Handshake => (OnStop::Dropped, OnFailure::Logged),
            Self::Upkeep => (OnStop::Dropped, OnFailure::StopsServer),
        }
    }

    /// The name used in logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Driver => "driver",
            Self::Sessions => "sessions",
            Self::Accept => "accept",
            Self::Serve => "serve",
            Self::Session => "session",
            Self::Stream => "stream",
            Self::Handshake => "handshake",
            Self::Upkeep => "upkeep",
        }
    }
}

/// Why a task failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    /// It panicked; the text is for our log only.
    #[error("{task} panicked: {text}")]
    Panicked {
        /// Name of the task.
        task: &'static str,
        /// Text of the panic.
        text: String,
    },
    /// It returned an error.
    #[error("{task} failed")]
    Failed {
        /// Name of the task.
        task: &'static str,
        /// The error.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// It ended although the server still needs it.
    #[error("{task} ended while it was needed")]
    Ended {
        /// Name of the task.
        task: &'static str,
    },
}

/// What a task returns.
pub type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// Spawns tasks and follows them to their end. Clones share one set of tasks.
#[derive(Clone, Default)]
pub struct Tasks(Arc<Inner>);

#[derive(Default)]
struct Inner {
    stop: CancellationToken,
    tracker: TaskTracker,
    failure: OnceLock<Failure>,
}

impl Tasks {
    /// A set of tasks that stops when `stop` is cancelled, or by its own failure.
    #[must_use]
    pub fn new(stop: &CancellationToken) -> Self {
        Self(Arc::new(Inner { stop: stop.child_token(), ..Inner::default() }))
    }

    /// Cancelled when the server begins to stop. Streams end themselves then.
    #[must_use]
    pub fn stopping(&self) -> CancellationToken {
        self.0.stop.clone()
    }

    /// Spawns a task of a kind.
    pub fn spawn(&self, kind: TaskKind, task: impl Future<Output = Outcome> + Send + 'static) {
        let tasks = self.clone();
        let (on_stop, _) = kind.meaning();
        let body = AssertUnwindSafe(task).catch_unwind();
        let supervised = async move {
            let ended = match on_stop {
                OnStop::Finishes => body.await,
                OnStop::Dropped => match tasks.0.stop.run_until_cancelled(body).await {
                    Some(ended) => ended,
                    None => return,
                },
            };
            tasks.ended(kind, ended);
        };
        self.track(supervised);
    }

    /// Runs blocking work on the runtime's threads for that; a panic is handled as the kind says.
    pub fn spawn_blocking(&self, kind: TaskKind, work: impl FnOnce() -> Outcome + Send + 'static) {
        let tasks = self.clone();
        self.0.tracker.spawn_blocking(move || {
            let ended = std::panic::catch_unwind(AssertUnwindSafe(work));
            tasks.ended(kind, ended);
        });
    }

    fn track(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.tracker.spawn(task);
    }

    fn ended(&self, kind: TaskKind, ended: Result<Outcome, Box<dyn Any + Send>>) {
        let task = kind.as_str();
        let (_, on_failure) = kind.meaning();
        let failure = match ended {
            Ok(Ok(())) if on_failure == OnFailure::Logged || self.0.stop.is_cancelled() => return,
            Ok(Ok(())) => Failure::Ended { task },
            Ok(Err(error)) => Failure::Failed { task, source: Arc::from(error) },
            Err(panic) => Failure::Panicked { task, text: panic_text(&*panic) },
        };
        match on_failure {
            OnFailure::Logged => {
                let cause = std::error::Error::source(&failure).map(ToString::to_string);
                tracing::error!(error = %failure, cause, "task failed");
            }
            OnFailure::StopsServer => {
                // The first one is the reason; what falls after it is a consequence.
                let _ = self.0.failure.set(failure);
                self.0.stop.cancel();
            }
        }
    }

    /// The failure that stopped the server, if it was one.
    #[must_use]
    pub fn failure(&self) -> Option<Failure> {
        self.0.failure.get().cloned()
    }

    /// Waits until every task has ended. Only useful once the server is stopping.
    pub async fn ended_all(&self) {
        self.0.tracker.close();
        self.0.tracker.wait().await;
    }
}

/// What a panic said, as far as it is text.
#[must_use]
pub fn panic_text(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no text".to_owned())
}

/// Starts a thread for work that can block for ever, such as reading standard input. It is not
/// waited for: the end of the process ends it.
///
/// # Errors
/// The operating system refused a thread.
pub fn detached_thread(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const SOON: Duration = Duration::from_secs(10);

    async fn end(tasks: &Tasks) {
        tokio::time::timeout(SOON, tasks.ended_all()).await.expect("tasks end");
    }

    #[tokio::test]
    async fn a_panic_of_a_critical_task_stops_the_server() {
        let tasks = Tasks::new(&CancellationToken::new());
        tasks.spawn(TaskKind::Driver, async { panic!("torn") });
        tokio::time::timeout(SOON, tasks.stopping().cancelled()).await.expect("stops");
        end(&tasks).await;
        assert_eq!(tasks.failure().expect("failure").to_string(), "driver panicked: torn");
    }

    #[tokio::test]
    async fn a_critical_task_may_end_only_when_the_server_stops() {
        let tasks = Tasks::new(&CancellationToken::new());
        tasks.spawn(TaskKind::Accept, async { Ok(()) });
        tokio::time::timeout(SOON, tasks.stopping().cancelled()).await.expect("stops");
        assert!(matches!(tasks.failure(), Some(Failure::Ended { task: "accept" })));

        let stop = CancellationToken::new();
        let tasks = Tasks::new(&stop);
        stop.cancel();
        tasks.spawn(TaskKind::Accept, async { Ok(()) });
        end(&tasks).await;
        assert!(tasks.failure().is_none());
    }

    #[tokio::test]
    async fn a_failed_session_stops_nobody() {
        let tasks = Tasks::new(&CancellationToken::new());
        tasks.spawn(TaskKind::Session, async { panic!("bad peer") });
        tasks.spawn(TaskKind::Session, async { Err("bad peer".into()) });
        end(&tasks).await;
        assert!(!tasks.stopping().is_cancelled() && tasks.failure().is_none());
    }

    #[tokio::test]
    async fn stopping_drops_some_kinds_and_waits_for_others() {
        let stop = CancellationToken::new();
        let tasks = Tasks::new(&stop);
        tasks.spawn(TaskKind::Handshake, std::future::pending());
        let stopping = tasks.stopping();
        let (sent, received) = tokio::sync::oneshot::channel();
        tasks.spawn(TaskKind::Stream, async move {
            stopping.cancelled().await;
            let _ = sent.send(());
            Ok(())
        });
        stop.cancel();
        end(&tasks).await;
        received.await.expect("the stream ended itself");
    }
}
