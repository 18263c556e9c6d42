//! The edge of a sidecar's session: frames in, frames out. What they mean is the leader's business.
//!
//! Reading never waits for the session's own writing, so a sidecar that reads slowly can't keep
//! what it says from being heard; one that reads too slowly is cut by the driver.

mod incoming;
mod logs;
mod outgoing;

pub use incoming::frame as read_frame;
pub use logs::{LogPipe, Logs};
pub use outgoing::{close as close_status, frame as write_frame};

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use hive_core::id::LeaderEpoch;
use hive_core::leader::{CloseCause, FromSidecar};
use hive_proto::sidecar_v1 as pb;
use hive_proto::sidecar_v1::sidecar_service_server::SidecarService;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

use crate::api::error::Reason;
use crate::driver::{Attachment, Down, Handle};
use crate::listen::Peer;
use crate::server;
use crate::store::Store;
use crate::tasks::{TaskKind, Tasks};
use crate::tls::Who;

/// Frames that may wait for a sidecar to read them; then it is cut.
const DOWN: usize = 256;

/// `hive.sidecar.v1.SidecarService`.
pub struct Sidecars<S> {
    handle: Handle,
    store: Arc<S>,
    logs: Logs,
    tasks: Tasks,
    hello: Duration,
    limits: crate::api::check::Limits,
    cluster: Arc<str>,
}

impl<S: Store> Sidecars<S> {
    /// Ends sessions when `tasks` stop.
    #[must_use]
    pub fn new(
        handle: Handle,
        store: Arc<S>,
        logs: Logs,
        tasks: Tasks,
        hello: Duration,
        limits: crate::api::check::Limits,
        cluster: &str,
    ) -> Self {
        Self { handle, store, logs, tasks, hello, limits, cluster: cluster.into() }
    }
}

type Frames = Pin<Box<dyn Stream<Item = Result<pb::SessionResponse, Status>> + Send>>;

#[tonic::async_trait]
impl<S: Store> SidecarService for Sidecars<S> {
    type SessionStream = Frames;

    async fn session(&self, request: Request<Streaming<pb::SessionRequest>>) -> Result<Response<Frames>, Status> {
        let who = who(&request);
        let mut inbound = request.into_inner();
        let first = tokio::time::timeout(self.hello, inbound.message())
            .await
            .map_err(|_| Reason::Deadline.status("no hello in time"))??
            .ok_or_else(|| crate::api::error::invalid("messages", "the stream ended before its hello"))?;
        self.same_cluster(&first)?;
        let messages = self.read(first)?;
        let [FromSidecar::Hello(hello)] = &messages.1[..] else {
            return Err(crate::api::error::invalid("messages", "the first frame must hold a hello and nothing else"));
        };
        let sidecar = (hello.namespace.clone(), hello.sidecar.clone());
        speaks_for_itself(&who, &messages.1)?;
        let (down, from_driver) = mpsc::channel(DOWN);
        let stopping = || Reason::ShuttingDown.status("the server is stopping");
        // Hangs up when dropped, also if this very call is given up at its next wait.
        let attachment = self.handle.attach(down.clone(), &self.tasks).await.map_err(|_| stopping())?;
        attachment.frame(messages.0, messages.1).await.map_err(|_| stopping())?;
        let connection = attachment.connection();
        let namespace = sidecar.0.clone();
        // Weak, so that the driver's cutting of a slow reader ends its stream.
        let registered = self.logs.register(sidecar, connection, down.downgrade());
        let down = down.downgrade();
        let reader = Reader { attachment, limits: self.limits.clone(), down, who };
        let stop = self.tasks.stopping();
        self.tasks.spawn(TaskKind::Session, async move {
            let ended = stop.run_until_cancelled(reader.read_on(inbound)).await;
            drop(registered);
            let last = match ended {
                Some(End::Nonsense(status)) => {
                    tracing::warn!(code = ?status.code(), error = status.message(), "a sidecar spoke nonsense; its session ends");
                    Some(Down::Broken(Box::new(status)))
                }
                Some(End::Finished) => Some(Down::Close(CloseCause::Goodbye)),
                Some(End::Gone) | None => None,
            };
            if let (Some(last), Some(down)) = (last, reader.down.upgrade()) {
                // A full queue is cut by the driver anyway.
                let _full = down.try_send(last);
            }
            Ok(())
        });
        let cluster = Arc::clone(&self.cluster);
        let out = outgoing::frames(namespace, cluster, from_driver, Arc::clone(&self.store), self.tasks.stopping());
        Ok(Response::new(Box::pin(out)))
    }

    async fn push_logs(
        &self,
        request: Request<Streaming<pb::PushLogsRequest>>,
    ) -> Result<Response<pb::PushLogsResponse>, Status> {
        let who = who(&request);
        self.logs.push(&who, request.into_inner(), self.tasks.stopping()).await?;
        Ok(Response::new(pb::PushLogsResponse {}))
    }
}

fn who<T>(request: &Request<T>) -> Arc<Who> {
    request.extensions().get::<Peer>().map_or_else(|| Arc::new(Who::Unasked), |peer| Arc::clone(&peer.who))
}

/// Every hello, also a later one, names the sidecar that the certificate names.
fn speaks_for_itself(who: &Who, messages: &[FromSidecar]) -> Result<(), Status> {
    messages.iter().try_for_each(|message| match message {
        FromSidecar::Hello(hello) => who.may_speak_for(&hello.namespace, &hello.sidecar).inspect_err(|status| {
            tracing::warn!(refusal = status.message(), "a sidecar is refused by its certificate");
        }),
        _ => Ok(()),
    })
}

impl<S> Sidecars<S> {
    /// What a sidecar holds for another cluster can't be judged here: by our records its tasks never
    /// were, and its results would be given up.
    fn same_cluster(&self, first: &pb::SessionRequest) -> Result<(), Status> {
        for message in &first.messages {
            if let Some(pb::sidecar_message::Kind::Hello(hello)) = &message.kind
                && !hello.cluster_id.is_empty()
                && *hello.cluster_id != *self.cluster
                && !(hello.running.is_empty() && hello.finished.is_empty())
            {
                let held = hello.running.len() + hello.finished.len();
                let (theirs, ours) = (&hello.cluster_id, &self.cluster);
                tracing::error!(
                    sidecar = hello.sidecar_id,
                    held,
                    cluster = theirs,
                    "a sidecar holds attempts of another cluster; it is refused"
                );
                return Err(Reason::OtherCluster.status(format!(
                    "{held} attempts belong to cluster {theirs}, this is cluster {ours}: its data folder is another one or was emptied"
                )));
            }
        }
        Ok(())
    }

    fn read(&self, frame: pb::SessionRequest) -> Result<(LeaderEpoch, Vec<FromSidecar>), Status> {
        incoming::frame(frame, &self.limits)
    }
}

struct Reader {
    attachment: Attachment,
    limits: crate::api::check::Limits,
    down: mpsc::WeakSender<Down>,
    who: Arc<Who>,
}

/// How a sidecar's half of its stream came to an end.
enum End {
    /// It said all it had to say.
    Finished,
    /// The stream broke, or the driver has cut it.
    Gone,
    /// It said what can't be understood.
    Nonsense(Status),
}

impl Reader {
    async fn read_on(&self, mut inbound: Streaming<pb::SessionRequest>) -> End {
        loop {
            let frame = match inbound.message().await {
                Ok(Some(frame)) => frame,
                Ok(None) => return End::Finished,
                Err(status) => return server::fault_of_request(&status).map_or(End::Gone, End::Nonsense),
            };
            let (leader, messages) = match incoming::frame(frame, &self.limits) {
                Ok(read) => read,
                Err(status) => return End::Nonsense(status),
            };
            if let Err(status) = speaks_for_itself(&self.who, &messages) {
                return End::Nonsense(status);
            }
            let cut = self.down.strong_count() == 0;
            if cut || self.attachment.frame(leader, messages).await.is_err() {
                return End::Gone;
            }
        }
    }
}
