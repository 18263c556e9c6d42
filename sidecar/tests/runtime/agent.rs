//! A long-lived agent over its socket. Its process sleeps; the test speaks for it.

use std::time::Duration;

use hive_proto::agent_v1::agent_service_client::AgentServiceClient;
use hive_proto::agent_v1::{self, Hello, Outcome, SessionRequest, session_request, session_response::Kind};
use hive_proto::{sidecar_v1, v1};
use hive_sidecar::config::{AgentConfig, RuntimeKind};
use hive_sidecar::runtime::{RuntimeCommand, RuntimeEvent};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;
use tonic::{Code, Status, Streaming};

use crate::rig::{DEADLINE, Rig, eventually, gone, key, processes, work};

pub(crate) fn config() -> AgentConfig {
    let mut agent =
        AgentConfig::new("p", RuntimeKind::Process, &["sum"], &["/bin/sh", "-c", "echo up; exec sleep 1000"]);
    agent.slots = 2;
    agent.restart.base = Duration::from_millis(10);
    agent
}

/// The agent's end of a stream.
pub(crate) struct Fake {
    pub(crate) to: mpsc::Sender<SessionRequest>,
    from: Streaming<agent_v1::SessionResponse>,
    pub(crate) welcome: agent_v1::Welcome,
}

impl Fake {
    /// Connects once the socket is there, and says hello.
    pub(crate) async fn connect(rig: &Rig, running: &[String], finished: &[String]) -> Self {
        let hello = Hello { client: "test".into(), running: running.to_vec(), finished: finished.to_vec() };
        let mut last = None;
        let connected = tokio::time::timeout(DEADLINE, async {
            loop {
                match Self::open(rig, session_request::Kind::Hello(hello.clone())).await {
                    Ok((to, mut from)) => match from.message().await {
                        Ok(Some(agent_v1::SessionResponse { kind: Some(Kind::Welcome(welcome)) })) => {
                            return Self { to, from, welcome };
                        }
                        // The process is not up yet.
                        other => last = Some(format!("{other:?}")),
                    },
                    Err(error) => last = Some(error.to_string()),
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        connected.await.unwrap_or_else(|_| panic!("never welcome: {last:?}"))
    }

    /// A stream with this first message.
    pub(crate) async fn open(
        rig: &Rig,
        first: session_request::Kind,
    ) -> Result<(mpsc::Sender<SessionRequest>, Streaming<agent_v1::SessionResponse>), Status> {
        let path = rig.dirs.socket_dir.join("p.sock");
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://socket")
            .connect_with_connector(connector)
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let (to, requests) = mpsc::channel(16);
        to.try_send(SessionRequest { kind: Some(first) }).expect("room");
        let mut client = AgentServiceClient::new(channel).max_encoding_message_size(usize::MAX);
        let from = client.session(ReceiverStream::new(requests)).await?.into_inner();
        Ok((to, from))
    }

    /// Connects and takes work.
    pub(crate) async fn ready(rig: &mut Rig) -> Self {
        let fake = Self::connect(rig, &[], &[]).await;
        fake.say(session_request::Kind::Ready(agent_v1::Ready { ready: true, message: String::new() })).await;
        rig.until_agent(true, "").await;
        fake
    }

    pub(crate) async fn say(&self, kind: session_request::Kind) {
        self.to.send(SessionRequest { kind: Some(kind) }).await.expect("the stream lives");
    }

    pub(crate) async fn heard(&mut self) -> Kind {
        tokio::time::timeout(DEADLINE, self.from.message())
            .await
            .expect("a message in time")
            .expect("no error")
            .and_then(|response| response.kind)
            .expect("a message")
    }

    /// How the stream ends.
    pub(crate) async fn end(mut self) -> Code {
        loop {
            match tokio::time::timeout(DEADLINE, self.from.message()).await.expect("an end in time") {
                Ok(Some(_)) => {}
                Ok(None) => return Code::Ok,
                Err(status) => return status.code(),
            }
        }
    }

    pub(crate) async fn assigned(&mut self) -> agent_v1::Assign {
        match self.heard().await {
            Kind::Assign(assign) => assign,
            other => panic!("no work: {other:?}"),
        }
    }

    pub(crate) async fn acked(&mut self, token: &str) {
        match self.heard().await {
            Kind::ResultAck(ack) if ack.token == token => {}
            other => panic!("no ack of {token}: {other:?}"),
        }
    }

    pub(crate) async fn cancelled(&mut self, token: &str) {
        match self.heard().await {
            Kind::Cancel(cancel) if cancel.token == token => {}
            other => panic!("no cancel of {token}: {other:?}"),
        }
    }

    pub(crate) async fn result(&self, token: &str, outcome: Outcome, data: &[u8]) {
        self.say(session_request::Kind::Result(agent_v1::Result {
            token: token.to_owned(),
            outcome: outcome.into(),
            payload: Some(v1::Payload { data: data.to_vec().into(), content_type: "text/plain".into() }),
            message: "because".into(),
            retryable: false,
        }))
        .await;
    }
}

pub(crate) async fn assign_progress_input_result() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut rig = Rig::new(config());
    let mut fake = Fake::ready(&mut rig).await;
    assert_eq!((fake.welcome.agent_id.as_str(), fake.welcome.slots), ("p", 2));
    let socket = std::fs::metadata(rig.dirs.socket_dir.join("p.sock")).expect("a socket");
    assert_eq!(socket.permissions().mode() & 0o777, 0o600);

    rig.send(RuntimeCommand::Start(work(1, b"hello"))).await;
    let assign = fake.assigned().await;
    let token = key(1).to_string();
    assert_eq!((assign.token.as_str(), assign.attempt), (token.as_str(), 1));
    assert_eq!(assign.payload.expect("a payload").data, "hello");
    assert_eq!(assign.capabilities, ["sum", "other"]);
    rig.started(key(1)).await;

    let progress = agent_v1::Progress { token: token.clone(), fraction: Some(0.5), message: "half".into() };
    fake.say(session_request::Kind::Progress(progress)).await;
    let wanted = RuntimeEvent::Progress { key: key(1), fraction: Some(0.5), message: "half".into() };
    assert_eq!(rig.attempt_event().await, wanted);

    let prompt = v1::Payload { data: "sure?".into(), content_type: String::new() };
    let asked = agent_v1::InputRequired { token: token.clone(), number: 1, prompt: Some(prompt.clone()) };
    fake.say(session_request::Kind::InputRequired(asked.clone())).await;
    // Said again, as after a reconnect: it is the same question.
    fake.say(session_request::Kind::InputRequired(asked)).await;
    assert_eq!(rig.attempt_event().await, RuntimeEvent::InputRequired { key: key(1), local_number: 1, prompt });
    let input = v1::Payload { data: "yes".into(), content_type: String::new() };
    for _ in 0..2 {
        rig.send(RuntimeCommand::Input { key: key(1), local_number: 1, input: input.clone() }).await;
    }
    match fake.heard().await {
        Kind::Input(heard) => assert_eq!((heard.number, heard.input), (1, Some(input))),
        other => panic!("{other:?}"),
    }

    fake.result(&token, Outcome::Succeeded, b"42").await;
    fake.result(&token, Outcome::Failed, b"").await;
    let end = rig.ended(key(1)).await;
    assert_eq!(end.outcome, sidecar_v1::Outcome::Succeeded);
    assert_eq!(end.payload.expect("a result").data, "42");
    rig.send(RuntimeCommand::ResultJournaled { key: key(1) }).await;
    fake.acked(&token).await;
}

pub(crate) async fn the_agent_outlives_the_sidecar() {
    let mut rig = Rig::new(config());
    let mut fake = Fake::ready(&mut rig).await;
    for n in 1..=2 {
        rig.send(RuntimeCommand::Start(work(n, b""))).await;
        fake.assigned().await;
    }
    let started_ms = rig.started(key(1)).await;
    rig.started(key(2)).await;
    let (shim, program) = processes(&rig.process_dir()).await;

    let mut rig = rig.crash(&[key(1), key(2), key(3)], async |_| {}).await;
    let tokens = [1, 2].map(|n| key(n).to_string());
    let fake = Fake::connect(&rig, &tokens[..1], &tokens[1..]).await;
    assert_eq!(fake.welcome.stop, Vec::<String>::new());
    assert_eq!(rig.started(key(1)).await, started_ms);
    rig.started(key(2)).await;
    rig.lost(key(3)).await;
    fake.say(session_request::Kind::Ready(agent_v1::Ready { ready: true, message: String::new() })).await;
    rig.until_agent(true, "").await;
    fake.result(&tokens[1], Outcome::Failed, b"").await;
    let end = rig.ended(key(2)).await;
    assert_eq!((end.reason, end.message.as_str()), (sidecar_v1::FailureReason::AgentError, "because"));
    assert!(shim.is_alive() && program.is_alive());

    // Nothing of it is left after a shutdown.
    drop(fake);
    rig.send(RuntimeCommand::Shutdown { deadline: Duration::ZERO }).await;
    let end = rig.ended(key(1)).await;
    assert_eq!((end.reason, end.retryable), (sidecar_v1::FailureReason::AgentLost, true));
    gone(&shim).await;
    gone(&program).await;
}

pub(crate) async fn a_reconnect_reconciles() {
    let mut rig = Rig::new(config());
    let mut fake = Fake::ready(&mut rig).await;
    for n in 1..=2 {
        rig.send(RuntimeCommand::Start(work(n, b""))).await;
        fake.assigned().await;
        rig.started(key(n)).await;
    }
    let asked = agent_v1::InputRequired { token: key(1).to_string(), number: 1, prompt: None };
    fake.say(session_request::Kind::InputRequired(asked)).await;
    rig.attempt_event().await;
    drop(fake);
    rig.until_agent(false, "not connected").await;
    // Answered while nobody listens; told when somebody does.
    let input = v1::Payload { data: "late".into(), content_type: String::new() };
    rig.send(RuntimeCommand::Input { key: key(1), local_number: 1, input: input.clone() }).await;

    let running = [key(1).to_string(), key(7).to_string(), "nonsense".to_owned()];
    let mut fake = Fake::connect(&rig, &running, &[key(8).to_string()]).await;
    assert_eq!(fake.welcome.stop, running[1..]);
    match fake.heard().await {
        Kind::Input(heard) => assert_eq!((heard.number, heard.input), (1, Some(input))),
        other => panic!("{other:?}"),
    }
    let end = rig.ended(key(2)).await;
    assert_eq!((end.reason, end.retryable), (sidecar_v1::FailureReason::AgentLost, true));
    // A result nobody waits for may be forgotten.
    fake.result(&key(8).to_string(), Outcome::Succeeded, b"").await;
    fake.acked(&key(8).to_string()).await;
}

pub(crate) async fn a_later_stream_ends_the_earlier() {
    let mut rig = Rig::new(config());
    let first = Fake::ready(&mut rig).await;
    let _second = Fake::ready(&mut rig).await;
    assert_eq!(first.end().await, Code::Aborted);
}

pub(crate) async fn cancel_reaches_the_agent() {
    let mut rig = Rig::new(config());
    let mut fake = Fake::ready(&mut rig).await;
    let tokens = [1, 2].map(|n| key(n).to_string());
    for n in 1..=2 {
        rig.send(RuntimeCommand::Start(work(n, b""))).await;
        fake.assigned().await;
        rig.started(key(n)).await;
        rig.send(RuntimeCommand::Cancel { key: key(n), grace: DEADLINE }).await;
        fake.cancelled(&tokens[usize::from(n) - 1]).await;
    }
    fake.result(&tokens[0], Outcome::Cancelled, b"").await;
    assert_eq!(rig.ended(key(1)).await.outcome, sidecar_v1::Outcome::Cancelled);
    // A result that comes first wins.
    fake.result(&tokens[1], Outcome::Succeeded, b"x").await;
    assert_eq!(rig.ended(key(2)).await.outcome, sidecar_v1::Outcome::Succeeded);
}

/// Superseded while it ran, its end is told to nobody and never journaled.
pub(crate) async fn the_end_of_a_released_attempt_may_be_forgotten() {
    let mut rig = Rig::new(config());
    let mut fake = Fake::ready(&mut rig).await;
    let token = key(1).to_string();
    rig.send(RuntimeCommand::Start(work(1, b""))).await;
    fake.assigned().await;
    rig.started(key(1)).await;
    rig.send(RuntimeCommand::Cancel { key: key(1), grace: DEADLINE }).await;
    fake.cancelled(&token).await;
    fake.result(&token, Outcome::Cancelled, b"").await;
    rig.ended(key(1)).await;
    rig.send(RuntimeCommand::Forget { key: key(1) }).await;
    fake.acked(&token).await;
}

pub(crate) async fn removal_ends_the_process() {
    let mut rig = Rig::new(config());
    let mut fake = Fake::ready(&mut rig).await;
    rig.send(RuntimeCommand::Start(work(1, b""))).await;
    fake.assigned().await;
    rig.started(key(1)).await;
    let (_, program) = processes(&rig.process_dir()).await;
    rig.send(RuntimeCommand::Drain { remove: true }).await;
    rig.until_agent(false, "removed").await;
    assert!(matches!(fake.heard().await, Kind::Drain(_)));
    assert!(program.is_alive(), "work goes on");
    fake.result(&key(1).to_string(), Outcome::Succeeded, b"").await;
    rig.ended(key(1)).await;
    drop(fake);
    gone(&program).await;
    rig.send(RuntimeCommand::Activate).await;
    eventually("a new process", || {
        hive_sidecar::shim::files::read::<hive_sidecar::shim::files::Started>(
            &rig.process_dir(),
            hive_sidecar::shim::files::STARTED,
        )
        .ok()?
        .filter(|started| started.program != program && started.program.is_alive())
    })
    .await;
    Fake::ready(&mut rig).await;
}
