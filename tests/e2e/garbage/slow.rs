//! A sidecar that does not read: it is cut, others are not held up, and what it missed is found.

use hive_proto::sidecar_v1 as pb;
use hive_proto::sidecar_v1::sidecar_message::Kind;
use hive_sdk::client::TaskSpec;
use hive_sdk::proto::{self as v1, AgentPhase};

use super::peer::{Peer, first_attempt, hello};
use super::{explained, serves, submission, submit, unwanted};
use crate::harness::{AgentDef, LONG, Rig, now, spawn};

#[tokio::test]
async fn a_sidecar_that_does_not_read_is_cut_and_finds_its_work_again() {
    let mut rig = Rig::with(&[("session.beat", "30s"), ("session.lost", "60s")]).await;
    rig.sidecar("fast", &[AgentDef::script("fast", &["fast"], "cat")]).await;
    let (mut slow, _) = Peer::welcomed(&rig, hello("slow", 1, 0, 1)).await;
    // More than the window holds.
    let payload = Some(v1::Payload { data: vec![0; 200 << 10].into(), ..Default::default() });
    let spec = v1::TaskSpec { capabilities: vec!["slow".to_owned()], payload, ..Default::default() };
    let id = submit(&rig, submission(spec)).await.expect("a task").id;

    // Every beat wants an answer that is not read.
    let phase = async || rig.client().get_agent("slow").await.expect("the agent").phase();
    let (end, mut beat) = (now() + LONG, 0);
    while phase().await != AgentPhase::Suspect {
        assert!(now() < end, "not cut after {beat} beats");
        for _ in 0..64 {
            beat += 1;
            slow.say([Kind::Heartbeat(pb::Heartbeat { beat, ..Default::default() })]).await;
        }
    }
    // Nobody else has noticed.
    let other = rig.submit(TaskSpec::new("fast").payload("x")).await.id();
    rig.result(other).await;
    serves(&rig).await;

    // When it reads on, it hears why; and with a new session it gets what it missed.
    explained(&slow.end().await.expect_err("it was cut"), "SESSION_STALE");
    let (mut again, _) = Peer::welcomed(&rig, hello("slow", 1, 1, 2)).await;
    let assign = again.assign().await;
    assert_eq!(assign.attempt, Some(first_attempt(&id)));
    assert_eq!(assign.payload.expect("a payload").data.len(), 200 << 10);
    rig.phase("slow", AgentPhase::Ready).await;
}

/// A watcher that does not read is told that it has missed something, and nobody waits for it.
#[tokio::test]
async fn a_watcher_that_does_not_read_is_told_to_begin_anew() {
    let rig = Rig::with(&[("watch.buffer", "16"), ("store.min_free", "0")]).await;
    let endpoint = tonic::transport::Endpoint::from_shared(rig.endpoint()).expect("an endpoint");
    let channel = endpoint.initial_stream_window_size(65_535).connect().await.expect("connect");
    let mut watcher = hive_sdk::proto::task_service_client::TaskServiceClient::new(channel);
    let mut events = watcher.watch_tasks(v1::WatchTasksRequest::default()).await.expect("a watch").into_inner();
    // Large events until nothing more goes through, then more commits than are kept for it; each
    // submission is one, because it is waited for.
    let labels = (0..32).map(|n| (format!("{n:063}"), "v".repeat(253))).collect();
    let large = v1::TaskSpec { labels, ..unwanted() };
    let mut tasks = rig.client().tasks();
    let commits = 1_024 + 16 + 200;
    for n in 0..commits {
        let spec = if n < 60 { large.clone() } else { unwanted() };
        tasks.submit_task(submission(spec)).await.expect("a task");
    }
    let mut kinds = Vec::new();
    while let Some(answer) = events.message().await.expect("an event") {
        kinds.push(answer.event.expect("an event").kind());
    }
    assert_eq!(kinds.last(), Some(&v1::TaskEventKind::Resync));
    assert!(kinds.len() < commits, "{} events: nothing was left out", kinds.len());
    serves(&rig).await;
}

/// One call more than a connection may have waits at the client until another ends.
#[tokio::test]
async fn calls_beyond_those_of_a_connection_wait() {
    let rig = Rig::with(&[("transport.streams_per_connection", "2")]).await;
    let client = rig.client();
    let watch =
        async || client.tasks().watch_tasks(v1::WatchTasksRequest::default()).await.map(tonic::Response::into_inner);
    let held = [watch().await.expect("a watch"), watch().await.expect("a watch")];
    let waiting = client.clone();
    let third = spawn(async move { waiting.tasks().list_tasks(v1::ListTasksRequest::default()).await });
    // Another connection is served meanwhile.
    serves(&rig).await;
    assert!(!third.is_finished());
    drop(held);
    third.await.expect("a task").expect("a list");
}
