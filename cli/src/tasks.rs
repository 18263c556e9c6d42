//! Background work of this program. Every kind says what its end means.

use std::future::Future;

use tokio::task::JoinHandle;

/// What a background task is, and what its cancellation and failure mean.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// Keeps one child process alive; awaited at shutdown, its failure is told as an event.
    Supervisor,
    /// Reports what happens elsewhere; dropped at shutdown, its failure is retried inside.
    Watcher,
}

/// Starts a background task. A panic in it surfaces where its handle is awaited.
#[expect(clippy::disallowed_methods, reason = "this file owns spawning")]
pub(crate) fn spawn<F>(kind: Kind, work: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    match kind {
        Kind::Supervisor | Kind::Watcher => tokio::spawn(work),
    }
}

/// Does blocking work (files) away from the threads that serve others; it can't be cancelled.
#[expect(clippy::disallowed_methods, reason = "this file owns spawning")]
pub(crate) fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    tokio::task::spawn_blocking(work)
}
