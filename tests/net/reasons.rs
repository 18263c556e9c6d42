//! Refusals that only a server in trouble gives: a store that fails, an orderly stop.

use std::sync::Arc;
use std::time::Duration;

use hive_core::id::TaskId;
use hive_core::time::Time;
use hive_proto::v1;
use hive_proto::v1::task_service_client::TaskServiceClient;
use tonic::{Request, Status};
use tonic_types::StatusExt as _;

use crate::hosts::CAPABILITY;
use crate::lab::{Lab, Trouble, now};
use crate::stage::{Stage, at, reason, until, until_connected};
use crate::wire::PLANE;

const SECOND: Duration = Duration::from_secs(1);

fn retry_after(status: &Status) -> Option<Duration> {
    status.get_error_details().retry_info().and_then(|info| info.retry_delay)
}

/// A submission of its own.
fn submission(lab: &Lab, n: u128) -> v1::SubmitTaskRequest {
    let id = TaskId::new(Time(now()), n);
    lab.book().tasks.entry(id).or_default();
    v1::SubmitTaskRequest {
        task_id: id.to_string(),
        spec: Some(v1::TaskSpec {
            capabilities: vec![CAPABILITY.into()],
            payload: Some(v1::Payload { data: vec![b'x'; 2_000].into(), content_type: String::new() }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

async fn late<T>(message: T, after: Duration) -> Request<T> {
    tokio::time::sleep(after.saturating_sub(at())).await;
    let mut request = Request::new(message);
    request.set_timeout(20 * SECOND);
    request
}

#[test]
fn a_commit_of_unknown_outcome_that_did_not_land_is_refused_store_unavailable() {
    let mut stage = Stage::new(&[], &[]);
    let lab = Arc::clone(&stage.lab);
    stage.actor("client", async move {
        let mut tasks = TaskServiceClient::new(until_connected(0).await);
        let mut reasons = Vec::new();
        for n in 0..40 {
            let submission = submission(&lab, n);
            let request = late(submission.clone(), 3 * SECOND).await;
            match tasks.submit_task(request).await {
                Ok(_) => {}
                Err(status) => {
                    assert!(retry_after(&status).is_some(), "{status:?}");
                    reasons.push(reason(&status));
                    lab.book().store = Trouble::default();
                    // The same submission goes through afterwards; it is no second task.
                    let again = late(submission, Duration::ZERO).await;
                    tasks.submit_task(again).await.expect("the store is well");
                    lab.book().store = Trouble { unknown: 500, ..Trouble::default() };
                }
            }
        }
        assert!(reasons.len() >= 3, "{reasons:?}");
        assert!(reasons.iter().all(|reason| reason == "STORE_UNAVAILABLE"), "{reasons:?}");
    });
    let trouble = Trouble { unknown: 500, ..Trouble::default() };
    stage.play(120 * SECOND, &mut [(2 * SECOND, &mut |_, lab| lab.book().store = trouble)]);
}

#[test]
fn a_list_of_nothings_is_refused_before_it_takes_memory() {
    let mut stage = Stage::new(&[], &[]);
    stage.actor("client", async move {
        let mut tasks = TaskServiceClient::new(until_connected(0).await);
        // 400 KB on the wire, 67 MB in memory.
        let nothings = vec![v1::SubmitTaskRequest::default(); 200_000];
        let request = v1::SubmitTasksRequest { tasks: nothings, ..Default::default() };
        let status = tasks.submit_tasks(request).await.expect_err("too many");
        assert_eq!(reason(&status), "MESSAGE_MALFORMED", "{status:?}");
    });
    stage.play(60 * SECOND, &mut []);
}

#[test]
fn a_full_store_refuses_with_low_space_and_takes_work_again_later() {
    let mut stage = Stage::new(&[], &[]);
    let lab = Arc::clone(&stage.lab);
    stage.actor("client", async move {
        let mut tasks = TaskServiceClient::new(until_connected(0).await);
        let request = late(submission(&lab, 1), 3 * SECOND).await;
        let status = tasks.submit_task(request).await.expect_err("no room");
        assert_eq!(reason(&status), "STORE_LOW_SPACE", "{status:?}");
        let request = late(submission(&lab, 2), 5 * SECOND).await;
        tasks.submit_task(request).await.expect("there is room again");
    });
    let full = Trouble { full: true, ..Trouble::default() };
    stage.play(
        60 * SECOND,
        &mut [
            (2 * SECOND, &mut |_, lab| lab.book().store = full),
            (4 * SECOND, &mut |_, lab| lab.book().store = Trouble::default()),
        ],
    );
}

#[test]
fn a_lead_taken_by_another_process_leaves_the_outcome_unknown() {
    let mut stage = Stage::new(&[], &[]);
    let lab = Arc::clone(&stage.lab);
    stage.actor("client", async move {
        let mut tasks = TaskServiceClient::new(until_connected(0).await);
        let request = late(submission(&lab, 1), 4 * SECOND).await;
        let status = tasks.submit_task(request).await.expect_err("no leader");
        assert_eq!(reason(&status), "OUTCOME_UNKNOWN", "{status:?}");
        assert!(retry_after(&status).is_some());
        assert!(at() < 5 * SECOND, "{:?}", at());
        // It is started again, and leads again.
        let again = submission(&lab, 2);
        until("it is back", || async { tasks.clone().submit_task(again.clone()).await.ok() }).await;
    });
    stage.play(
        120 * SECOND,
        &mut [(3 * SECOND, &mut |_, lab| {
            lab.book().usurped = true;
            lab.store.usurp();
        })],
    );
}

/// The lab holds every stop to its time.
#[test]
fn a_stop_while_the_store_is_out_of_reach_is_orderly_and_in_time() {
    let mut stage = Stage::new(&[("shutdown.drain", "2s")], &[]);
    let lab = Arc::clone(&stage.lab);
    stage.actor("client", async move {
        let mut tasks = TaskServiceClient::new(until_connected(0).await);
        let request = late(submission(&lab, 1), 3 * SECOND).await;
        tasks.submit_task(request).await.expect_err("no answer");
        assert!(at() >= 6 * SECOND && at() < 9 * SECOND, "{:?}", at());
    });
    let stop = Arc::clone(&stage.stop);
    stage.play(
        60 * SECOND,
        &mut [
            (2 * SECOND, &mut |_, lab| {
                lab.store.set_away(true);
                lab.book().store = Trouble { unknown: 1_000, ..Trouble::default() };
            }),
            (6 * SECOND, &mut |_, _| stop.lock().expect("the token").cancel()),
            (20 * SECOND, &mut |_, lab| assert!(lab.book().story.iter().any(|line| line.contains("has stopped: Ok")))),
        ],
    );
}

#[test]
fn a_body_asked_for_while_the_store_is_closed_is_refused_store_unavailable() {
    let mut stage = Stage::new(&[], &[]);
    let lab = Arc::clone(&stage.lab);
    stage.actor("client", async move {
        let mut tasks = TaskServiceClient::new(until_connected(0).await);
        let submitted = submission(&lab, 1);
        tasks.submit_task(late(submitted.clone(), Duration::ZERO).await).await.expect("accepted");
        assert!(at() < 3 * SECOND);
        // Its commit fails, and the driver waits for the store; a read that waits for the driver is
        // answered when the store is back, or at its deadline.
        let mut second = late(submission(&lab, 2), 4 * SECOND).await;
        second.set_timeout(3 * SECOND);
        let _unknown = tasks.submit_task(second).await.expect_err("the store is out of reach");
        let get = v1::GetTaskRequest { task_id: submitted.task_id, ..Default::default() };
        let answer = tasks.get_task(late(get, Duration::ZERO).await).await;
        assert!(answer.is_ok(), "{answer:?}");
        assert!(at() >= 10 * SECOND && at() < 20 * SECOND, "{:?}", at());
    });
    stage.play(
        60 * SECOND,
        &mut [
            (3 * SECOND, &mut |_, lab| {
                lab.store.set_away(true);
                lab.book().store = Trouble { unknown: 1_000, ..Trouble::default() };
            }),
            (10 * SECOND, &mut |_, lab| {
                lab.store.set_away(false);
                lab.book().store = Trouble::default();
            }),
        ],
    );
}

#[test]
fn a_stop_tells_streams_why_and_lets_calls_finish() {
    let mut stage = Stage::new(&[], &["s0"]);
    let lab = Arc::clone(&stage.lab);
    stage.actor("watcher", async move {
        let mut tasks = TaskServiceClient::new(until_connected(1).await);
        let id = submission(&lab, 1);
        tasks.submit_task(late(id, Duration::ZERO).await).await.expect("accepted");
        let mut stream = tasks.watch_tasks(v1::WatchTasksRequest::default()).await.expect("a watch").into_inner();
        let (mut last, mut end) = (None, None);
        while end.is_none() {
            match stream.message().await {
                Ok(Some(answer)) => last = answer.event.map(|event| event.kind()),
                Ok(None) => end = Some(String::new()),
                Err(status) => end = Some(reason(&status)),
            }
        }
        // Told by an event of ours, or by the refusal that ends what is left.
        let resync = last == Some(v1::TaskEventKind::Resync);
        assert!(resync || end.as_deref() == Some("SHUTTING_DOWN"), "{last:?} {end:?}");
        assert!(at() >= 8 * SECOND && at() < 12 * SECOND, "{:?}", at());
    });
    stage.actor("health", async {
        until_connected(1).await;
        let mut health = health_watch().await;
        let status = loop {
            match health.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("ended without a word"),
                Err(status) => break status,
            }
        };
        assert_eq!(reason(&status), "SHUTTING_DOWN", "{status:?}");
    });
    let stop = Arc::clone(&stage.stop);
    stage.play(
        60 * SECOND,
        &mut [
            (8 * SECOND, &mut |_, _| stop.lock().expect("the token").cancel()),
            (20 * SECOND, &mut |sim, _| sim.bounce(PLANE)),
        ],
    );
}

/// A watch of somebody else's service, which has no last word of its own.
async fn health_watch() -> tonic::Streaming<tonic_health::pb::HealthCheckResponse> {
    let client = tonic_health::pb::health_client::HealthClient::new(crate::wire::channel());
    until("a health watch", || {
        let mut client = client.clone();
        async move {
            let request = tonic_health::pb::HealthCheckRequest { service: String::new() };
            client.watch(request).await.ok().map(tonic::Response::into_inner)
        }
    })
    .await
}
