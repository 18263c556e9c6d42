//! Readers that do not read: they are cut, or told to begin anew, and others do not notice.

use std::sync::Arc;
use std::time::Duration;

use hive_core::id::TaskId;
use hive_core::time::Time;
use hive_proto::sidecar_v1 as pb;
use hive_proto::sidecar_v1::sidecar_message::Kind;
use hive_proto::sidecar_v1::sidecar_service_client::SidecarServiceClient;
use hive_proto::v1;
use hive_proto::v1::task_service_client::TaskServiceClient;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use crate::client::Client;
use crate::lab::{Lab, now};
use crate::stage::{Stage, at, connected, hello, reason, said, until, until_connected};
use crate::wire;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_sidecar_that_does_not_read_is_cut_and_others_go_on() {
    let mut stage = Stage::new(&[], &["s0"]);
    let (lab, book) = (Arc::clone(&stage.lab), Arc::clone(&stage.lab));
    stage.actor("deaf", async move {
        until_connected(1).await;
        let (frames, said_by) = tokio::sync::mpsc::channel(4);
        frames.send(hello("deaf", "deaf", 4)).await.expect("room");
        let frames_out = ReceiverStream::new(said_by);
        let mut stream = SidecarServiceClient::new(wire::narrow_channel())
            .session(frames_out)
            .await
            .expect("a session")
            .into_inner();
        let welcome = stream.next().await.expect("a welcome").expect("a welcome");
        let leader = welcome.leader;
        let epoch = match welcome.messages.into_iter().next().and_then(|message| message.kind) {
            Some(pb::control_message::Kind::Welcome(w)) => {
                pb::SessionEpoch { generation: w.generation, connection: w.connection }
            }
            other => panic!("not a welcome: {other:?}"),
        };
        // Work larger than window and send buffer stops the stream; then each beat is acknowledged in a
        // frame of its own.
        let mut tasks = TaskServiceClient::new(wire::channel());
        for n in 0..3 {
            tasks.submit_task(submission(&book, n, "deaf", 250_000)).await.expect("accepted");
        }
        let channel = wire::channel();
        let mut sent = 0;
        while connected(&channel).await != Some(1) {
            sent += 1;
            let message = Kind::Heartbeat(pb::Heartbeat { beat: sent, ..Default::default() });
            frames.send(pb::SessionRequest { leader, ..said(message, Some(epoch)) }).await.expect("room");
            assert!(sent < 1_000, "the queue for it is bounded");
        }
        let end = loop {
            match tokio::time::timeout(30 * SECOND, stream.message()).await.expect("an end") {
                Ok(Some(_)) => {}
                Ok(None) => panic!("ended without a word"),
                Err(status) => break status,
            }
        };
        assert!(sent > 200, "{sent}");
        assert_eq!(reason(&end), "SESSION_STALE", "{end:?}");
    });
    stage.actor("other", async move {
        until_connected(1).await;
        let mut client = Client::new(lab, "other");
        for _ in 0..20 {
            let begun = at();
            if let Some(id) = client.submit().await {
                client.wait(id).await;
                // The work itself takes up to 4.05 s.
                assert!(at() - begun < 5 * SECOND, "{:?}", at() - begun);
            }
        }
    });
    stage.play(600 * SECOND, &mut []);
}

#[test]
fn a_watch_that_does_not_read_is_told_to_begin_anew_and_others_go_on() {
    let mut stage = Stage::new(&[("watch.buffer", "16")], &["s0"]);
    let (lab, told) = (Arc::clone(&stage.lab), Arc::clone(&stage.lab));
    stage.actor("deaf", async move {
        until_connected(1).await;
        let request = v1::WatchTasksRequest::default();
        let mut stream =
            TaskServiceClient::new(wire::narrow_channel()).watch_tasks(request).await.expect("a watch").into_inner();
        // Events of 1,300 tasks are more than windows and buffers hold.
        until("work", || async { (told.book().stats.ended > 0 && told.book().tasks.len() >= 1_300).then_some(()) })
            .await;
        let (mut last, mut heard) = (None, 0);
        let end = loop {
            match stream.message().await {
                Ok(Some(answer)) => last = answer.event.map(|event| event.kind()),
                end => break end.map(drop),
            }
            heard += 1;
        };
        let resync = last == Some(v1::TaskEventKind::Resync);
        assert!(resync, "what did not fit is passed over in silence: {heard} events, {last:?}, {end:?}");
    });
    stage.actor("other", async move {
        until_connected(1).await;
        let mut client = Client::new(lab, "other");
        for _ in 0..1_300 {
            let begun = at();
            client.submit_labelled(30).await;
            assert!(at() - begun < SECOND, "{:?}", at() - begun);
        }
    });
    stage.play(600 * SECOND, &mut []);
}

/// Of somebody who does not wait for it.
fn submission(lab: &Lab, n: u128, capability: &str, bytes: usize) -> v1::SubmitTaskRequest {
    let id = TaskId::new(Time(now()), n);
    lab.book().tasks.entry(id).or_default();
    let payload = v1::Payload { data: vec![b'.'; bytes].into(), content_type: String::new() };
    let spec = v1::TaskSpec { capabilities: vec![capability.into()], payload: Some(payload), ..Default::default() };
    v1::SubmitTaskRequest { task_id: id.to_string(), spec: Some(spec), ..Default::default() }
}
