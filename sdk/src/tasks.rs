//! Every spawn of the crate, with a kind that says what its end means.
#![expect(clippy::disallowed_methods, reason = "this file owns spawning for the crate")]

use std::future::Future;
use std::io;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// What a task is, which fixes what cancelling it and its failure mean.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// A user's handler. A panic is its end and told as a result; aborting it drops the work.
    Handler,
    /// Part of a sandbox. Ends with it; a failure shows in the test that uses it.
    Sandbox,
}

/// Spawns on the current runtime what nobody waits for.
pub(crate) fn spawn<F: Future<Output = ()> + Send + 'static>(kind: Kind, future: F) {
    drop(spawn_on(&Handle::current(), kind, future));
}

/// Spawns on a runtime that may be another one than the current.
pub(crate) fn spawn_on<F>(runtime: &Handle, kind: Kind, future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    tracing::trace!(?kind, "task started");
    runtime.spawn(future)
}

/// Runs `body` on a thread of its own with a runtime of its own; it ends when `body` does.
pub(crate) fn thread<F, Fut>(name: &str, body: F) -> io::Result<()>
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = ()>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name(name.to_owned()).spawn(move || runtime.block_on(async { body().await }))?;
    Ok(())
}
