//! The local API, `hive.agent.v1`, on a Unix socket that belongs to one agent.
//!
//! It carries messages between the agent and the runtime that owns it and knows nothing of attempts:
//! what a message means, and which stream is the current one, is for the runtime.

mod socket;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hive_proto::agent_v1::agent_service_server::{AgentService, AgentServiceServer};
use hive_proto::agent_v1::{Hello, SessionRequest, SessionResponse, session_request, session_response};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::tasks::{Kind, Tasks};
pub use socket::{BindError, bind};

/// Largest message either way.
pub const MESSAGE_LIMIT: usize = 4 << 20;
/// Messages to an agent that may wait; one that falls further behind is cut off.
const OUTGOING: usize = 512;
/// How long a new stream may take to say hello.
const HELLO: Duration = Duration::from_secs(5);
/// Heartbeats missed before a stream counts as dead.
const MISSED: u32 = 3;

/// What reaches the runtime. A stream's messages come in order between its `Opened` and `Closed`.
#[derive(Debug)]
pub enum FromAgent {
    /// A stream said hello.
    Opened(Link, Hello),
    /// A message of the stream with this number.
    Message(u64, session_request::Kind),
    /// That stream is over, with everything it had sent heard.
    Closed(u64),
}

/// The way back to an agent. Dropping it ends the stream.
#[derive(Debug)]
pub struct Link {
    /// Number of the stream; a later one is higher.
    pub number: u64,
    out: mpsc::Sender<Result<SessionResponse, Status>>,
    ended: CancellationToken,
}

impl Link {
    /// Sends, or cuts off an agent that reads too slowly. `false`: the stream is over.
    pub fn send(&self, kind: session_response::Kind) -> bool {
        let sent = self.out.try_send(Ok(SessionResponse { kind: Some(kind) })).is_ok();
        if !sent {
            self.ended.cancel();
        }
        sent
    }

    /// Ends the stream with a status.
    pub fn end(self, status: Status) {
        // Full: it ends without one.
        let _ = self.out.try_send(Err(status));
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.ended.cancel();
    }
}

/// Serves `listener` until `stop`, then closes it; streams end with the [`Link`]s.
pub async fn serve(
    listener: UnixListener,
    heartbeat: Duration,
    to: mpsc::Sender<FromAgent>,
    tasks: Tasks,
    stop: CancellationToken,
) {
    let local = Local { to, heartbeat, streams: Arc::new(AtomicU64::new(0)), tasks, stop: stop.clone() };
    let service = AgentServiceServer::new(local)
        .max_decoding_message_size(MESSAGE_LIMIT)
        .max_encoding_message_size(MESSAGE_LIMIT);
    let served = tonic::transport::Server::builder()
        .max_concurrent_streams(16)
        .serve_with_incoming_shutdown(service, UnixListenerStream::new(listener), stop.cancelled_owned())
        .await;
    if let Err(error) = served {
        tracing::warn!(%error, "an agent's socket is no longer served");
    }
}

struct Local {
    to: mpsc::Sender<FromAgent>,
    heartbeat: Duration,
    streams: Arc<AtomicU64>,
    tasks: Tasks,
    stop: CancellationToken,
}

#[tonic::async_trait]
impl AgentService for Local {
    type SessionStream = ReceiverStream<Result<SessionResponse, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let number = self.streams.fetch_add(1, Ordering::Relaxed) + 1;
        let (out, responses) = mpsc::channel(OUTGOING);
        let ended = self.stop.child_token();
        let reader = Reader {
            number,
            from: request.into_inner(),
            to: self.to.clone(),
            silence: self.heartbeat * MISSED,
            out,
            ended,
        };
        // In a task, for the agent sends its hello only when it has seen the response's headers.
        self.tasks.spawn(Kind::Attendant, "agent-stream", reader.run());
        Ok(Response::new(ReceiverStream::new(responses)))
    }
}

struct Reader {
    number: u64,
    from: Streaming<SessionRequest>,
    to: mpsc::Sender<FromAgent>,
    silence: Duration,
    out: mpsc::Sender<Result<SessionResponse, Status>>,
    ended: CancellationToken,
}

impl Reader {
    async fn run(mut self) {
        let hello = match tokio::time::timeout(HELLO, self.from.message()).await {
            Ok(Ok(Some(SessionRequest { kind: Some(session_request::Kind::Hello(hello)) }))) => hello,
            Ok(Ok(_)) => return self.refuse(Status::invalid_argument("the first message must be Hello")),
            Ok(Err(status)) => return self.refuse(status),
            Err(_) => return self.refuse(Status::deadline_exceeded("no Hello in time")),
        };
        let link = Link { number: self.number, out: self.out.clone(), ended: self.ended.clone() };
        if self.to.send(FromAgent::Opened(link, hello)).await.is_err() {
            return self.refuse(Status::unavailable("the sidecar is stopping"));
        }
        let ended = self.ended.clone();
        let status = tokio::select! {
            status = self.forward() => status,
            () = ended.cancelled() => None,
        };
        if let Some(status) = status {
            self.refuse(status);
        }
        let _ = self.to.send(FromAgent::Closed(self.number)).await;
    }

    /// Forwards until the stream ends. A status is for the agent.
    async fn forward(&mut self) -> Option<Status> {
        loop {
            match tokio::time::timeout(self.silence, self.from.message()).await {
                Ok(Ok(Some(SessionRequest { kind: Some(session_request::Kind::Hello(_)) }))) => {
                    return Some(Status::invalid_argument("a second Hello on one stream"));
                }
                Ok(Ok(Some(SessionRequest { kind: Some(session_request::Kind::Heartbeat(_)) }))) => {}
                Ok(Ok(Some(SessionRequest { kind: Some(kind) }))) => {
                    if self.to.send(FromAgent::Message(self.number, kind)).await.is_err() {
                        return Some(Status::unavailable("the sidecar is stopping"));
                    }
                }
                Ok(Ok(Some(SessionRequest { kind: None }))) => {
                    return Some(Status::invalid_argument("a message of no known kind"));
                }
                Ok(Ok(None)) => return None,
                // Malformed or oversize: the peer should hear which.
                Ok(Err(status)) => return Some(status),
                Err(_) => return Some(Status::deadline_exceeded("three heartbeats missed")),
            }
        }
    }

    fn refuse(&self, status: Status) {
        tracing::warn!(stream = self.number, code = ?status.code(), detail = status.message(), "an agent's stream ends");
        let _ = self.out.try_send(Err(status));
    }
}
