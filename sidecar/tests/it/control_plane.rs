//! A control plane by hand: every session that arrives is given to the test.

use std::net::SocketAddr;
use std::time::Duration;

use hive_proto::sidecar_v1::sidecar_service_server::{SidecarService, SidecarServiceServer};
use hive_proto::sidecar_v1::{
    self as wire, ControlMessage, LeaderEpoch, PushLogsRequest, PushLogsResponse, SessionRequest, SessionResponse,
    control_message::Kind as Down, sidecar_message::Kind as Up,
};
use hive_proto::v1;
use hive_sidecar::attempt::AttemptKey;
use hive_sidecar::tasks::{Kind, Tasks};
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

pub(crate) const DEADLINE: Duration = Duration::from_secs(20);
pub(crate) const GENERATION: u64 = 3;

/// One session, as the other side sees it.
pub(crate) struct Peer {
    inbound: Streaming<SessionRequest>,
    outbound: mpsc::Sender<Result<SessionResponse, Status>>,
    waiting: std::collections::VecDeque<Up>,
    pub(crate) last: Option<SessionRequest>,
    pub(crate) leader: u64,
}

pub(crate) struct ControlPlane {
    pub(crate) address: SocketAddr,
    peers: mpsc::Receiver<Peer>,
    pub(crate) logs: mpsc::Receiver<PushLogsRequest>,
    _tasks: Tasks,
}

struct Service {
    peers: mpsc::Sender<Peer>,
    logs: mpsc::Sender<PushLogsRequest>,
}

#[tonic::async_trait]
impl SidecarService for Service {
    type SessionStream = ReceiverStream<Result<SessionResponse, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (outbound, answers) = mpsc::channel(64);
        let peer = Peer { inbound: request.into_inner(), outbound, waiting: [].into(), last: None, leader: 1 };
        self.peers.send(peer).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn push_logs(
        &self,
        request: Request<Streaming<PushLogsRequest>>,
    ) -> Result<Response<PushLogsResponse>, Status> {
        let mut pieces = request.into_inner();
        while let Some(piece) = pieces.message().await? {
            self.logs.send(piece).await.map_err(|_| Status::unavailable("the test is over"))?;
        }
        Ok(Response::new(PushLogsResponse {}))
    }
}

impl ControlPlane {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (peers, arrived) = mpsc::channel(8);
        let (logs, pushed) = mpsc::channel(64);
        let tasks = Tasks::new();
        let service = SidecarServiceServer::new(Service { peers, logs });
        tasks.spawn(Kind::Attendant, "control-plane", async move {
            let incoming = TcpListenerStream::new(listener);
            tonic::transport::Server::builder().serve_with_incoming(service, incoming).await.expect("serves");
        });
        Self { address, peers: arrived, logs: pushed, _tasks: tasks }
    }

    /// The next session.
    pub(crate) async fn session(&mut self) -> Peer {
        timeout(DEADLINE, self.peers.recv()).await.expect("a session in time").expect("served")
    }

    /// The next session, welcomed, and its hello.
    pub(crate) async fn welcomed(&mut self) -> (Peer, wire::Hello) {
        let mut peer = self.session().await;
        let hello = peer.hello().await;
        peer.welcome(&hello).await;
        (peer, hello)
    }
}

impl Peer {
    /// The first message for which `pick` has an answer; others are passed over.
    pub(crate) async fn find<T>(&mut self, pick: impl Fn(&Up) -> Option<T>) -> T {
        timeout(DEADLINE, async {
            loop {
                while let Some(kind) = self.waiting.pop_front() {
                    if let Some(found) = pick(&kind) {
                        return found;
                    }
                }
                let frame = self.inbound.message().await.expect("no error").expect("not ended");
                self.waiting.extend(frame.messages.iter().filter_map(|m| m.kind.clone()));
                self.last = Some(frame);
            }
        })
        .await
        .expect("the message in time")
    }

    pub(crate) async fn hello(&mut self) -> wire::Hello {
        self.find(|kind| if let Up::Hello(hello) = kind { Some(hello.clone()) } else { None }).await
    }

    pub(crate) async fn result(&mut self) -> wire::Result {
        self.find(|kind| if let Up::Result(result) = kind { Some(result.clone()) } else { None }).await
    }

    pub(crate) async fn welcome(&mut self, hello: &wire::Hello) {
        self.send(Down::Welcome(wire::Welcome {
            generation: GENERATION,
            connection: hello.connection,
            beat_interval: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
            ..wire::Welcome::default()
        }))
        .await;
    }

    pub(crate) async fn send(&mut self, kind: Down) {
        let leader = Some(LeaderEpoch { cluster_generation: 1, number: self.leader });
        let messages = vec![ControlMessage { kind: Some(kind) }];
        self.outbound.send(Ok(SessionResponse { leader, messages })).await.expect("the sidecar listens");
    }

    pub(crate) async fn assign(&mut self, number: u64, key: AttemptKey, agent: &str) {
        let revision = Some(v1::Revision { cluster_generation: 1, seq: 10 });
        let payload = Some(v1::Payload { data: b"work".as_slice().into(), content_type: String::new() });
        self.send(Down::Assign(wire::Assign {
            number,
            attempt: Some(key.into()),
            agent_id: agent.into(),
            payload,
            revision,
            generation: GENERATION,
            ..wire::Assign::default()
        }))
        .await;
    }

    pub(crate) async fn release(&mut self, key: AttemptKey) {
        let revision = Some(v1::Revision { cluster_generation: 1, seq: 11 });
        let release = Some(wire::Release { kind: wire::ReleaseKind::Committed.into(), revision });
        self.send(Down::ResultAck(wire::ResultAck { attempt: Some(key.into()), release })).await;
    }

    /// Ends the session with a status that carries one of our reasons.
    pub(crate) async fn refuse(self, code: tonic::Code, reason: &str) {
        let info = ErrorInfo { reason: reason.into(), domain: "hive".into() };
        let any = prost_types::Any {
            type_url: "type.googleapis.com/google.rpc.ErrorInfo".into(),
            value: info.encode_to_vec(),
        };
        let status = hive_proto::google_rpc::Status { code: code.into(), message: reason.into(), details: vec![any] };
        let status = Status::with_details(code, reason, status.encode_to_vec().into());
        self.outbound.send(Err(status)).await.expect("the sidecar listens");
    }
}

#[derive(Clone, PartialEq, Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
}
