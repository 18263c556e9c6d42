//! A sidecar made of frames: it says whatever a test wants, true or not.

use std::collections::VecDeque;

use hive_proto::sidecar_v1::control_message::Kind as Said;
use hive_proto::sidecar_v1::sidecar_message::Kind;
use hive_proto::sidecar_v1::sidecar_service_client::SidecarServiceClient;
use hive_proto::sidecar_v1::{
    Assign, AttemptRef, Hello, HostedAgent, LeaderEpoch, SessionRequest, SessionResponse, SidecarMessage, Welcome,
};
use hive_proto::v1::AgentSpec;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

use crate::harness::{LONG, Rig};

/// One session.
pub(super) struct Peer {
    out: Option<mpsc::Sender<SessionRequest>>,
    inbound: Streaming<SessionResponse>,
    /// As heard in the last frame.
    pub(super) leader: Option<LeaderEpoch>,
    /// The largest frame heard, in bytes.
    pub(super) largest: usize,
    heard: VecDeque<Said>,
}

/// A hello of a sidecar `id` with one agent of the same name, that takes two tasks of capability `id`.
pub(super) fn hello(id: &str, boot: u8, generation: u64, connection: u64) -> Hello {
    let spec = AgentSpec { capabilities: vec![id.to_owned()], slots: 2, ..Default::default() };
    let agent = HostedAgent { agent_id: id.to_owned(), spec: Some(spec), free_slots: 2, ready: true, removed: false };
    Hello {
        sidecar_id: id.to_owned(),
        boot_id: vec![boot; 16].into(),
        generation,
        connection,
        agents: vec![agent],
        ..Default::default()
    }
}

pub(super) fn frame(kinds: impl IntoIterator<Item = Kind>) -> SessionRequest {
    let messages = kinds.into_iter().map(|kind| SidecarMessage { kind: Some(kind) }).collect();
    SessionRequest { messages, ..Default::default() }
}

/// A connection of its own, with the smallest window HTTP/2 has without asking for less.
pub(super) async fn dial(rig: &Rig) -> SidecarServiceClient<Channel> {
    let endpoint = Endpoint::from_shared(rig.endpoint()).expect("an endpoint");
    let channel = endpoint.initial_stream_window_size(65_535).connect().await.expect("connect");
    SidecarServiceClient::new(channel)
}

impl Peer {
    /// Opens a session with these frames.
    pub(super) async fn open(rig: &Rig, first: impl IntoIterator<Item = SessionRequest>) -> Result<Self, Status> {
        Self::open_over(dial(rig).await, first).await
    }

    /// The same over a connection of the caller's.
    pub(super) async fn open_over(
        mut client: SidecarServiceClient<Channel>,
        first: impl IntoIterator<Item = SessionRequest>,
    ) -> Result<Self, Status> {
        let (out, frames) = mpsc::channel(64);
        for frame in first {
            out.try_send(frame).expect("room for the first frames");
        }
        let inbound = client.session(ReceiverStream::new(frames)).await?.into_inner();
        Ok(Self { out: Some(out), inbound, leader: None, largest: 0, heard: VecDeque::new() })
    }

    /// Says hello and hears its welcome.
    pub(super) async fn welcomed(rig: &Rig, hello: Hello) -> (Self, Welcome) {
        let mut peer = Self::open(rig, [frame([Kind::Hello(hello)])]).await.expect("a session");
        let welcome = peer.welcome().await;
        (peer, welcome)
    }

    /// Says hello and is refused.
    pub(super) async fn unwelcome(rig: &Rig, hello: Hello) -> Status {
        Self::refused(rig, [frame([Kind::Hello(hello)])]).await
    }

    /// Opens a session that must end with a status.
    pub(super) async fn refused(rig: &Rig, first: impl IntoIterator<Item = SessionRequest>) -> Status {
        match Self::open(rig, first).await {
            Err(status) => status,
            Ok(mut peer) => peer.end().await.expect_err("a refusal"),
        }
    }

    /// Sends a frame under the leader last heard. False if the session has ended.
    pub(super) async fn say(&mut self, kinds: impl IntoIterator<Item = Kind>) -> bool {
        let frame = SessionRequest { leader: self.leader, ..frame(kinds) };
        self.send(frame).await
    }

    pub(super) async fn send(&mut self, frame: SessionRequest) -> bool {
        match &self.out {
            Some(out) => out.send(frame).await.is_ok(),
            None => false,
        }
    }

    /// Has nothing more to say.
    pub(super) fn finish(&mut self) {
        self.out = None;
    }

    /// The next message; none at an orderly end.
    pub(super) async fn next(&mut self) -> Result<Option<Said>, Status> {
        loop {
            if let Some(said) = self.heard.pop_front() {
                return Ok(Some(said));
            }
            let read = tokio::time::timeout(LONG, self.inbound.message()).await.expect("a message in time");
            let Some(frame) = read? else { return Ok(None) };
            self.largest = self.largest.max(prost::Message::encoded_len(&frame));
            self.leader = frame.leader.or(self.leader);
            self.heard.extend(frame.messages.into_iter().filter_map(|message| message.kind));
        }
    }

    /// The first message that is wanted; others are passed over.
    pub(super) async fn until<T>(&mut self, what: &str, mut wanted: impl FnMut(Said) -> Option<T>) -> T {
        loop {
            match self.next().await {
                Ok(Some(said)) => {
                    if let Some(found) = wanted(said) {
                        return found;
                    }
                }
                end => panic!("{what} expected, the session ended: {end:?}"),
            }
        }
    }

    pub(super) async fn welcome(&mut self) -> Welcome {
        self.until("a welcome", |said| if let Said::Welcome(welcome) = said { Some(welcome) } else { None }).await
    }

    pub(super) async fn assign(&mut self) -> Assign {
        self.until("an assignment", |said| if let Said::Assign(assign) = said { Some(assign) } else { None }).await
    }

    /// How the session ends; messages before that are passed over.
    pub(super) async fn end(&mut self) -> Result<(), Status> {
        while self.next().await?.is_some() {}
        Ok(())
    }
}

/// The first attempt of a task.
pub(super) fn first_attempt(task_id: &str) -> AttemptRef {
    let id = hive_core::id::TaskId::parse(task_id).expect("an id");
    AttemptRef { task_id: id.0.to_vec().into(), attempt: 1 }
}
