//! Sidecars that speak nonsense: their session ends with a reason, or what they said is passed
//! over; nothing that is not theirs changes.

use hive_proto::sidecar_v1 as pb;
use hive_proto::sidecar_v1::control_message::Kind as Said;
use hive_proto::sidecar_v1::sidecar_message::Kind;
use hive_sdk::proto::{self as v1, AgentSpec, Payload, TaskState};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use super::peer::{Peer, first_attempt, frame, hello};
use super::{explained, refused, serves, submission, submit};
use crate::harness::{LONG, Rig};

/// Contact does not end while a test runs, so that what ends is the session's doing.
const PATIENT: &[(&str, &str)] = &[("session.beat", "30s"), ("session.lost", "60s"), ("session.hello", "500ms")];

fn beat(number: u64) -> pb::Heartbeat {
    pb::Heartbeat { beat: number, ..Default::default() }
}

fn result(attempt: pb::AttemptRef, text: &'static str) -> Kind {
    let payload = Some(Payload { data: text.into(), ..Default::default() });
    let outcome = pb::Outcome::Succeeded.into();
    Kind::Result(pb::Result { attempt: Some(attempt), outcome, payload, ..Default::default() })
}

#[tokio::test]
async fn a_session_begins_with_a_hello_that_makes_sense() {
    let rig = Rig::with(PATIENT).await;
    let hosted = |agent: pb::HostedAgent| pb::Hello { agents: vec![agent], ..hello("h", 1, 0, 1) };
    let spec =
        |spec: AgentSpec| hosted(pb::HostedAgent { agent_id: "h".to_owned(), spec: Some(spec), ..Default::default() });
    let names = |count: usize| (0..count).map(|n| format!("c{n}")).collect::<Vec<_>>();
    let agents = |count: usize| {
        let agent = |n| pb::HostedAgent { agent_id: format!("a{n}"), ..Default::default() };
        pb::Hello { agents: (0..count).map(agent).collect(), ..hello("h", 1, 0, 1) }
    };
    let bad = [
        frame([]),
        frame([Kind::Heartbeat(beat(1))]),
        frame([Kind::Hello(hello("h", 1, 0, 1)), Kind::Heartbeat(beat(1))]),
        frame([Kind::Hello(hello("h", 1, 0, 1)), Kind::Hello(hello("h", 1, 0, 1))]),
        pb::SessionRequest { messages: vec![pb::SidecarMessage { kind: None }], ..Default::default() },
        frame([Kind::Hello(pb::Hello { boot_id: Vec::new().into(), ..hello("h", 1, 0, 1) })]),
        frame([Kind::Hello(pb::Hello { boot_id: vec![1; 17].into(), ..hello("h", 1, 0, 1) })]),
        frame([Kind::Hello(pb::Hello { sidecar_id: String::new(), ..hello("h", 1, 0, 1) })]),
        frame([Kind::Hello(pb::Hello { sidecar_id: "x".repeat(64), ..hello("h", 1, 0, 1) })]),
        frame([Kind::Hello(pb::Hello { namespace: "No".to_owned(), ..hello("h", 1, 0, 1) })]),
        frame([Kind::Hello(hosted(pb::HostedAgent::default()))]),
        frame([Kind::Hello(spec(AgentSpec { capabilities: names(33), ..Default::default() }))]),
        frame([Kind::Hello(spec(AgentSpec { slots: 101, ..Default::default() }))]),
        frame([Kind::Hello(agents(1_001))]),
        frame([Kind::Hello(pb::Hello {
            agents: vec![pb::HostedAgent { agent_id: "twice".to_owned(), ..Default::default() }; 2],
            ..hello("h", 1, 0, 1)
        })]),
    ];
    for first in bad {
        explained(&Peer::refused(&rig, [first]).await, "INVALID_FIELD");
    }
    let elsewhere = pb::Hello { namespace: "other".to_owned(), ..hello("h", 1, 0, 1) };
    explained(&Peer::unwelcome(&rig, elsewhere).await, "NAMESPACE_NOT_FOUND");
    // Says nothing at all.
    explained(&Peer::refused(&rig, []).await, "DEADLINE");
    // Brings output that nobody asked for.
    let chunk = pb::PushLogsRequest { request_id: "x".to_owned(), ..Default::default() };
    let push = super::peer::dial(&rig).await.push_logs(tokio_stream::once(chunk)).await;
    super::refused_field(push, "request_id");
    serves(&rig).await;
    let (_peer, welcome) = Peer::welcomed(&rig, hello("h", 1, 0, 1)).await;
    assert_eq!((welcome.generation, welcome.connection), (1, 1));
}

#[tokio::test]
async fn nonsense_in_a_session_ends_that_session_with_its_reason() {
    let rig = Rig::with(PATIENT).await;
    let attempt = |bytes: usize| Some(pb::AttemptRef { task_id: vec![7; bytes].into(), attempt: 1 });
    let id = first_attempt(&rig.client().new_task_id().to_string());
    let running = pb::RunningAttempt { attempt: Some(id.clone()), agent_id: "n".to_owned(), ..Default::default() };
    let payload = |bytes: usize| Some(Payload { data: vec![0; bytes].into(), ..Default::default() });
    let bad = [
        ("INVALID_FIELD", pb::SessionRequest { messages: vec![pb::SidecarMessage::default()], ..Default::default() }),
        ("INVALID_FIELD", frame([Kind::Started(pb::Started::default())])),
        ("INVALID_FIELD", frame([Kind::Started(pb::Started { attempt: attempt(15), ..Default::default() })])),
        ("INVALID_FIELD", frame([Kind::Started(pb::Started { attempt: attempt(16), ..Default::default() })])),
        ("INVALID_FIELD", frame([Kind::Result(pb::Result { attempt: Some(id.clone()), ..Default::default() })])),
        (
            "INVALID_FIELD",
            frame([Kind::Result(pb::Result { attempt: Some(id.clone()), outcome: 99, ..Default::default() })]),
        ),
        (
            "INVALID_FIELD",
            frame([Kind::InputRequired(pb::InputRequired {
                attempt: Some(id.clone()),
                number: 1,
                prompt: payload((256 << 10) + 1),
            })]),
        ),
        (
            "INVALID_FIELD",
            frame([Kind::Credit(pb::Credit { agents: vec![pb::AgentCredit::default()], ..Default::default() })]),
        ),
        ("INVALID_FIELD", frame([Kind::Heartbeat(pb::Heartbeat { running: vec![running; 100_001], ..beat(1) })])),
        ("INVALID_FIELD", frame(std::iter::repeat_n(Kind::Receipt(pb::Receipt { assigns_seen: 0 }), 10_001))),
        (
            "MESSAGE_TOO_LARGE",
            frame([Kind::Result(pb::Result {
                attempt: Some(id),
                outcome: pb::Outcome::Succeeded.into(),
                payload: payload(4 << 20),
                ..Default::default()
            })]),
        ),
    ];
    for (connection, (reason, nonsense)) in (1..).zip(bad) {
        let (mut peer, _) = Peer::welcomed(&rig, hello("n", 1, u64::from(connection > 1), connection)).await;
        peer.send(nonsense).await;
        explained(&peer.end().await.expect_err("a refusal"), reason);
    }
    serves(&rig).await;
}

/// Frames of another type altogether.
#[tokio::test]
async fn bytes_that_are_no_frame_end_the_session() {
    let rig = Rig::with(PATIENT).await;
    let channel = tonic::transport::Endpoint::from_shared(rig.endpoint()).expect("an endpoint").connect_lazy();
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.expect("a connection");
    let path = PathAndQuery::from_static("/hive.sidecar.v1.SidecarService/Session");
    let codec = ProstCodec::<Payload, pb::SessionResponse>::default();
    let noise = tokio_stream::once(Payload { data: vec![0xff; 9].into(), ..Default::default() });
    let answer: Result<_, Status> = grpc.streaming(Request::new(noise), path, codec).await;
    refused(answer.map(|_| ()), "MESSAGE_MALFORMED");
    serves(&rig).await;
}

async fn task_state(rig: &Rig, id: &str) -> (TaskState, u32) {
    let request = v1::GetTaskRequest { task_id: id.to_owned(), linearizable: true, ..Default::default() };
    let task = rig.client().tasks().get_task(request).await.expect("a task").into_inner().task.expect("a task");
    (task.state(), task.attempt)
}

#[tokio::test]
async fn what_a_sidecar_says_of_another_ones_attempt_changes_nothing() {
    let rig = Rig::with(PATIENT).await;
    let (mut owner, _) = Peer::welcomed(&rig, hello("owner", 1, 0, 1)).await;
    let (mut liar, _) = Peer::welcomed(&rig, hello("liar", 2, 0, 1)).await;
    let spec = v1::TaskSpec { capabilities: vec!["owner".to_owned()], ..Default::default() };
    let id = submit(&rig, submission(spec)).await.expect("a task").id;
    let assign = owner.assign().await;
    let token = assign.attempt.expect("an attempt");
    assert_eq!(token, first_attempt(&id));

    let attempt = || Some(token.clone());
    let later = pb::AttemptRef { attempt: 2, ..token.clone() };
    let unknown = first_attempt(&rig.client().new_task_id().to_string());
    let lies = [
        result(token.clone(), "a lie"),
        result(later.clone(), "a lie"),
        Kind::Result(pb::Result { attempt: attempt(), outcome: pb::Outcome::Failed.into(), ..Default::default() }),
        Kind::Result(pb::Result { attempt: attempt(), outcome: pb::Outcome::Cancelled.into(), ..Default::default() }),
        Kind::AttemptLost(pb::AttemptLost { attempt: attempt() }),
        Kind::Declined(pb::Declined { attempt: attempt(), ..Default::default() }),
        Kind::InputRequired(pb::InputRequired { attempt: attempt(), number: 1, ..Default::default() }),
        Kind::Progress(pb::Progress { attempt: attempt(), fraction: Some(0.5), message: "a lie".to_owned() }),
        Kind::Started(pb::Started { attempt: attempt(), ..Default::default() }),
        Kind::Credit(pb::Credit {
            assigns_seen: 0,
            agents: vec![pb::AgentCredit { agent_id: "owner".to_owned(), free_slots: 0, ready: false }],
        }),
        result(unknown.clone(), "of nothing"),
    ];
    assert!(liar.say(lies).await);
    // What never was is released, in its turn; what is another one's is not.
    let mut released = Vec::new();
    while released.last() != Some(&unknown) {
        let ack = |said| if let Said::ResultAck(ack) = said { ack.attempt } else { None };
        released.push(liar.until("a release", ack).await);
    }
    assert_eq!(released, [later.clone(), unknown]);
    assert_eq!(task_state(&rig, &id).await, (TaskState::Assigned, 1));

    // Its owner, too, may speak for the current attempt only; then it is heard.
    assert!(owner.say([result(later, "of an attempt that is not"), result(token, "the truth")]).await);
    let wait = v1::WaitTaskRequest { task_id: id.clone(), ..Default::default() };
    let task = rig.client().tasks().wait_task(wait).await.expect("the end").into_inner().task.expect("a task");
    assert_eq!((task.state(), task.result.expect("a result").data.as_ref()), (TaskState::Succeeded, &b"the truth"[..]));
    assert!(task.progress.is_none());
    // Repeated, it is released and changes nothing.
    assert!(owner.say([result(first_attempt(&id), "another truth")]).await);
    owner.until("a release", |said| matches!(said, Said::ResultAck(_)).then_some(())).await;
    assert_eq!(task_state(&rig, &id).await, (TaskState::Succeeded, 1));
    serves(&rig).await;
}

#[tokio::test]
async fn assignments_that_were_never_sent_cannot_be_counted() {
    let rig = Rig::with(PATIENT).await;
    let (mut peer, _) = Peer::welcomed(&rig, hello("counter", 1, 0, 1)).await;
    let none = |seen| {
        let agents = vec![pb::AgentCredit { agent_id: "counter".to_owned(), free_slots: 0, ready: true }];
        pb::Credit { assigns_seen: seen, agents }
    };
    // Passed over: there is room still.
    assert!(peer.say([Kind::Receipt(pb::Receipt { assigns_seen: u64::MAX }), Kind::Credit(none(u64::MAX))]).await);
    let spec = v1::TaskSpec { capabilities: vec!["counter".to_owned()], ..Default::default() };
    let id = submit(&rig, submission(spec)).await.expect("a task").id;
    assert_eq!(peer.assign().await.attempt, Some(first_attempt(&id)));
    // A beat that counts so is of another session: begin anew.
    assert!(peer.say([Kind::Heartbeat(pb::Heartbeat { assigns_seen: 99, ..beat(1) })]).await);
    peer.until("a resync", |said| matches!(said, Said::Resync(_)).then_some(())).await;
    // Which is what a second hello is for. It does not list the attempt, so that is offered again.
    assert!(peer.say([Kind::Hello(hello("counter", 1, 1, 1))]).await);
    assert_eq!(peer.welcome().await.generation, 1);
    assert_eq!(peer.assign().await.attempt, Some(first_attempt(&id)));
    assert!(peer.say([result(first_attempt(&id), "done")]).await);
    rig.result(id.parse().expect("an id")).await;
    // An orderly end is no fault.
    peer.finish();
    peer.end().await.expect("an orderly end");
    serves(&rig).await;
}

#[tokio::test]
async fn a_flood_of_progress_holds_nobody_up() {
    let rig = Rig::with(PATIENT).await;
    let (mut flood, _) = Peer::welcomed(&rig, hello("flood", 1, 0, 1)).await;
    let (mut quiet, _) = Peer::welcomed(&rig, hello("quiet", 2, 0, 1)).await;
    let task = |name: &str| submission(v1::TaskSpec { capabilities: vec![name.to_owned()], ..Default::default() });
    let flooded = submit(&rig, task("flood")).await.expect("a task").id;
    let token = flood.assign().await.attempt.expect("an attempt");
    let message = "x".repeat(3_000);
    for n in 0..200_u32 {
        let progress = |k: u32| {
            let fraction = Some(if k == 0 { f64::NAN } else { f64::from(n * k) });
            Kind::Progress(pb::Progress { attempt: Some(token.clone()), fraction, message: message.clone() })
        };
        assert!(flood.say((0..100).map(progress)).await);
        if n % 50 == 0 {
            let id = submit(&rig, task("quiet")).await.expect("a task amid the flood").id;
            let token = quiet.assign().await.attempt.expect("an attempt");
            assert!(quiet.say([result(token, "quiet"), credit("quiet", n / 50 + 1)]).await);
            tokio::time::timeout(LONG, rig.result(id.parse().expect("an id"))).await.expect("in time");
        }
    }
    let kept = rig.until(flooded.parse().expect("an id"), "progress", |task| task.progress.is_some()).await;
    let kept = kept.progress.expect("progress");
    assert!(kept.message.len() <= 1_024 && kept.fraction.is_none_or(|share| (0.0..=1.0).contains(&share)), "{kept:?}");
    assert!(flood.say([result(token, "after the flood")]).await);
    rig.result(flooded.parse().expect("an id")).await;
    serves(&rig).await;
}

fn credit(agent: &str, seen: u32) -> Kind {
    let agents = vec![pb::AgentCredit { agent_id: agent.to_owned(), free_slots: 2, ready: true }];
    Kind::Credit(pb::Credit { assigns_seen: u64::from(seen), agents })
}
