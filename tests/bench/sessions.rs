//! Many sidecar sessions in one process, each on a connection of its own: what a thousand sidecars
//! are to the control plane. They say hello, beat as they are told, and work on nothing. Processes of
//! their own would measure this machine's fork, not the control plane.

use std::time::Duration;

use hive_proto::sidecar_v1::sidecar_service_client::SidecarServiceClient;
use hive_proto::sidecar_v1::{
    AgentCredit, Heartbeat, Hello, HostedAgent, SessionEpoch, SessionRequest, SidecarMessage, control_message,
    sidecar_message::Kind,
};
use hive_proto::v1::AgentSpec;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use crate::yardstick::wire::monotonic;

/// Milliseconds of each session.
#[derive(Debug, Default, serde::Deserialize, serde::Serialize)]
pub struct Times {
    /// From its dial to its connection, all dialling at once.
    pub dial: Vec<f64>,
    /// From its hello to its welcome, all saying hello at once over standing connections.
    pub register: Vec<f64>,
}

/// Opens `count` sessions at once; prints their [`Times`], then holds them until it is killed.
pub async fn hold(server: String, count: usize) {
    let dialling: Vec<_> = (0..count).map(|_| tokio::spawn(dial(server.clone()))).collect();
    let (mut times, mut channels) = (Times::default(), Vec::new());
    for dialled in dialling {
        let (channel, took) = dialled.await.expect("a connection");
        channels.push(channel);
        times.dial.push(took);
    }
    let opening: Vec<_> = channels.into_iter().enumerate().map(|(n, channel)| tokio::spawn(open(channel, n))).collect();
    for open in opening {
        times.register.push(open.await.expect("a session"));
    }
    println!("{}", serde_json::to_string(&times).expect("written"));
    std::future::pending().await
}

async fn dial(server: String) -> (Channel, f64) {
    let begun = monotonic();
    let endpoint = Endpoint::from_shared(server).expect("an address").tcp_nodelay(true);
    let channel = endpoint.connect().await.expect("connected");
    (channel, (monotonic() - begun) as f64 / 1e6)
}

async fn open(channel: Channel, number: usize) -> f64 {
    let begun = monotonic();
    let (out, requests) = mpsc::channel(8);
    let agent = format!("idle-{number}");
    let spec = AgentSpec { capabilities: vec!["idle".to_owned()], slots: 1, ..AgentSpec::default() };
    let hosted = HostedAgent { agent_id: agent.clone(), spec: Some(spec), free_slots: 1, ready: true, removed: false };
    let hello = Hello {
        sidecar_id: format!("idle-{number}"),
        boot_id: (number as u128 + 1).to_be_bytes().to_vec().into(),
        connection: 1,
        agents: vec![hosted],
        ..Hello::default()
    };
    out.send(frame(None, Kind::Hello(hello))).await.expect("room");
    let mut client = SidecarServiceClient::new(channel);
    let mut stream = client.session(ReceiverStream::new(requests)).await.expect("a stream").into_inner();
    let welcome = loop {
        let frame = stream.message().await.expect("a frame").expect("a welcome");
        let welcome = frame.messages.into_iter().find_map(|message| match message.kind {
            Some(control_message::Kind::Welcome(welcome)) => Some(welcome),
            _ => None,
        });
        if let Some(welcome) = welcome {
            break welcome;
        }
    };
    let took = (monotonic() - begun) as f64 / 1e6;
    let every = welcome.beat_interval.and_then(|d| Duration::try_from(d).ok()).unwrap_or(Duration::from_secs(5));
    let session = SessionEpoch { generation: welcome.generation, connection: 1 };
    tokio::spawn(async move {
        let mut beat = 0;
        let mut tick = tokio::time::interval(every);
        loop {
            tokio::select! {
                _ = tick.tick() => {
                    beat += 1;
                    let credit = AgentCredit { agent_id: agent.clone(), free_slots: 1, ready: true };
                    let heartbeat = Heartbeat { beat, agents: vec![credit], ..Heartbeat::default() };
                    if out.send(frame(Some(session), Kind::Heartbeat(heartbeat))).await.is_err() {
                        return;
                    }
                }
                heard = stream.message() => if !matches!(heard, Ok(Some(_))) { return },
            }
        }
    });
    took
}

fn frame(session: Option<SessionEpoch>, kind: Kind) -> SessionRequest {
    SessionRequest { session, leader: None, messages: vec![SidecarMessage { kind: Some(kind) }] }
}
