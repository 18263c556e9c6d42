//! The only place that spawns. A task's kind fixes what its cancellation and its failure mean.

use std::future::Future;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt as _;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What a task is to the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A part the sidecar cannot do without. It ends by itself when its inputs end or it is told to;
    /// its panic stops the sidecar.
    Essential,
    /// Serves one attempt, connection or request. Dropped at the end of the grace; its panic is
    /// logged and costs only what it served.
    Attendant,
}

/// Spawns, and knows what still runs.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    failed: CancellationToken,
    over: CancellationToken,
}

impl Tasks {
    /// Nothing runs.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs `work` until it ends. `name` is for logs.
    #[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
    pub fn spawn<F>(&self, kind: Kind, name: &'static str, work: F) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (failed, over) = (self.failed.clone(), self.over.clone());
        tokio::spawn(self.tracker.track_future(async move {
            let work = AssertUnwindSafe(work).catch_unwind();
            let outcome = match kind {
                Kind::Essential => work.await,
                Kind::Attendant => tokio::select! {
                    biased;
                    outcome = work => outcome,
                    () = over.cancelled() => Ok(()),
                },
            };
            if outcome.is_err() {
                tracing::error!(task = name, kind = ?kind, "a task panicked");
                if kind == Kind::Essential {
                    failed.cancel();
                }
            }
        }))
    }

    /// Runs blocking `work` on a thread that may block. It cannot be cancelled.
    pub fn spawn_blocking<T, F>(&self, work: F) -> JoinHandle<T>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        self.tracker.spawn_blocking(work)
    }

    /// Resolves when an essential task has panicked.
    pub async fn failed(&self) {
        self.failed.cancelled().await;
    }

    /// Drops attendants and waits for the rest.
    pub async fn finish(&self) {
        self.over.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// A thread of its own for work that blocks for the whole life of the sidecar. It ends when its
/// inputs do; a panic ends its answers, by which its owner knows.
///
/// # Errors
/// No thread could be started.
pub fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn kinds_decide_what_a_panic_and_the_end_mean() {
        let tasks = Tasks::new();
        tasks.spawn(Kind::Attendant, "guest", async { panic!("expected by the test") }).await.expect("caught");
        assert!(!tasks.failed.is_cancelled());
        tasks.spawn(Kind::Essential, "host", async { panic!("expected by the test") }).await.expect("caught");
        tasks.failed().await;
        tasks.spawn(Kind::Attendant, "guest", std::future::pending());
        tasks.finish().await;
    }
}
