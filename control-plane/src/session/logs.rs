//! Output of attempts on its way from a sidecar to a client.
//!
//! The request travels down the sidecar's session; the output comes over a connection of the
//! sidecar's own, so that it never stands in the way of assignments.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hive_core::id::{AttemptId, Namespace, SidecarId};
use hive_core::leader::Connection;
use hive_proto::sidecar_v1 as pb;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use uuid::Uuid;

use crate::api::error::{Reason, invalid};
use crate::driver::Down;
use crate::tls::Who;

/// Chunks that may wait for a client; then the sidecar waits.
const CHUNKS: usize = 64;
/// Time a sidecar has to answer.
const ANSWER: std::time::Duration = std::time::Duration::from_secs(10);

type SidecarKey = (Namespace, SidecarId);

#[derive(Default)]
struct Inner {
    sidecars: BTreeMap<SidecarKey, (Connection, mpsc::WeakSender<Down>)>,
    /// Whom each was asked of, and who waits.
    pipes: BTreeMap<String, (SidecarKey, mpsc::Sender<pb::PushLogsRequest>)>,
}

/// Who can be asked, and who waits. Clones share it.
#[derive(Clone, Default)]
pub struct Logs(Arc<Mutex<Inner>>);

/// One client's output. Dropping it ends the push.
pub struct LogPipe {
    logs: Logs,
    request_id: String,
    chunks: mpsc::Receiver<pb::PushLogsRequest>,
    first: Option<pb::PushLogsRequest>,
}

/// A sidecar that can be asked for output, until this is dropped.
pub(super) struct Registered {
    logs: Logs,
    sidecar: SidecarKey,
    connection: Connection,
}

impl Logs {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        // No code panics while it holds the lock; if one did, the maps are still maps.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn register(
        &self,
        sidecar: SidecarKey,
        connection: Connection,
        down: mpsc::WeakSender<Down>,
    ) -> Registered {
        self.inner().sidecars.insert(sidecar.clone(), (connection, down));
        Registered { logs: self.clone(), sidecar, connection }
    }

    /// Asks a sidecar for an attempt's output.
    ///
    /// # Errors
    /// `SIDECAR_UNREACHABLE` when it has no session or does not read it.
    pub fn ask(&self, sidecar: SidecarKey, token: AttemptId, follow: bool, stream: u32) -> Result<LogPipe, Status> {
        let unreachable = || {
            let text = format!("sidecar {} is not connected", sidecar.1);
            Reason::SidecarUnreachable.retry_after(text, std::time::Duration::from_secs(5))
        };
        let down = self.inner().sidecars.get(&sidecar).and_then(|(_, down)| down.upgrade()).ok_or_else(unreachable)?;
        let request_id = request_id();
        let (sender, chunks) = mpsc::channel(CHUNKS);
        let ask = pb::TailLogs {
            request_id: request_id.clone(),
            attempt: Some(pb::AttemptRef {
                task_id: bytes::Bytes::copy_from_slice(&token.task.0),
                attempt: token.attempt.0,
            }),
            follow,
            stream,
        };
        self.inner().pipes.insert(request_id.clone(), (sidecar.clone(), sender));
        let pipe = LogPipe { logs: self.clone(), request_id, chunks, first: None };
        down.try_send(Down::TailLogs(Box::new(ask))).map_err(|_| unreachable())?;
        Ok(pipe)
    }

    /// The waiting reader of a request, for the sidecar that was asked.
    fn claim(&self, who: &Who, request_id: &str) -> Result<mpsc::Sender<pb::PushLogsRequest>, Status> {
        let mut inner = self.inner();
        let unknown = || invalid("request_id", "nobody asked for this, or has gone");
        let ((namespace, sidecar), _) = inner.pipes.get(request_id).ok_or_else(unknown)?;
        who.may_speak_for(namespace, sidecar)?;
        inner.pipes.remove(request_id).map(|(_, pipe)| pipe).ok_or_else(unknown)
    }

    /// Takes a sidecar's output in, as fast as the client reads.
    pub(super) async fn push(
        &self,
        who: &Who,
        mut inbound: Streaming<pb::PushLogsRequest>,
        stop: CancellationToken,
    ) -> Result<(), Status> {
        let first = tokio::time::timeout(ANSWER, inbound.message());
        let Some(first) = first.await.map_err(|_| Reason::Deadline.status("no output in time"))?? else {
            return Ok(());
        };
        let pipe = self.claim(who, &first.request_id)?;
        let mut next = Some(first);
        while let Some(chunk) = next {
            next = tokio::select! {
                // Its reader may leave while the attempt is silent: that must not hold the call open.
                () = pipe.closed() => return Err(Status::cancelled("the reader has gone")),
                () = stop.cancelled() => return Err(Reason::ShuttingDown.status("the server is stopping")),
                sent = async { pipe.send(chunk).await.ok()?; Some(inbound.message().await) } => match sent {
                    Some(next) => next?,
                    None => return Err(Status::cancelled("the reader has gone")),
                },
            };
        }
        Ok(())
    }
}

#[expect(clippy::disallowed_methods, reason = "names a request; nothing is decided by it")]
fn request_id() -> String {
    Uuid::now_v7().to_string()
}

impl LogPipe {
    /// Waits for the sidecar to answer at all. Its first message says whether it knows the attempt.
    ///
    /// # Errors
    /// `SIDECAR_UNREACHABLE` when it does not answer in time, `LOGS_NOT_FOUND` when it knows nothing.
    pub async fn opened(&mut self) -> Result<(), Status> {
        let silent = || {
            let text = "the sidecar did not answer in time";
            Reason::SidecarUnreachable.retry_after(text, std::time::Duration::from_secs(5))
        };
        let first = tokio::time::timeout(ANSWER, self.chunks.recv()).await.map_err(|_| silent())?.ok_or_else(silent)?;
        if first.not_found {
            return Err(Reason::LogsNotFound.status("the sidecar keeps no output of this attempt"));
        }
        self.first = (!first.data.is_empty() || first.truncated).then_some(first);
        Ok(())
    }

    /// The next chunk; none at the end, or when the sidecar's push broke off.
    pub async fn next(&mut self) -> Option<pb::PushLogsRequest> {
        match self.first.take() {
            Some(first) => Some(first),
            None => self.chunks.recv().await,
        }
    }
}

impl Drop for LogPipe {
    fn drop(&mut self) {
        self.logs.inner().pipes.remove(&self.request_id);
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut inner = self.logs.inner();
        if inner.sidecars.get(&self.sidecar).is_some_and(|(connection, _)| *connection == self.connection) {
            inner.sidecars.remove(&self.sidecar);
        }
    }
}
