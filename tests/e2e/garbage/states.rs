//! Calls that come at the wrong time.

use hive_sdk::client::TaskSpec;
use hive_sdk::proto as v1;
use hive_sdk::proto::{AgentPhase, TaskState};

use super::{refused, serves, submission, submit, unwanted, waits};
use crate::harness::{AgentDef, LONG, Rig, eventually, spawn};

fn cancel(id: &str) -> v1::CancelTaskRequest {
    v1::CancelTaskRequest { task_id: id.to_owned(), ..Default::default() }
}

fn answer(id: &str, number: u32, text: &str, request_id: &str) -> v1::ProvideInputRequest {
    v1::ProvideInputRequest {
        task_id: id.to_owned(),
        number,
        input: Some(v1::Payload { data: text.to_owned().into(), content_type: "text/plain".to_owned() }),
        request_id: request_id.to_owned(),
        ..Default::default()
    }
}

#[tokio::test]
async fn an_ended_task_is_left_alone() {
    let mut rig = Rig::new().await;
    rig.sidecar("s1", &[AgentDef::script("c1", &["run"], "cat")]).await;
    let mut tasks = rig.client().tasks();
    let id = rig.submit(TaskSpec::new("run").payload("x")).await.id();
    rig.result(id).await;
    let id = id.to_string();
    refused(tasks.cancel_task(cancel(&id)).await, "TASK_TERMINAL");
    refused(tasks.provide_input(answer(&id, 0, "y", "")).await, "TASK_TERMINAL");
    // A cancelled one may be cancelled again.
    let other = submit(&rig, submission(unwanted())).await.expect("a task").id;
    for _ in 0..2 {
        let task = tasks.cancel_task(cancel(&other)).await.expect("cancelled").into_inner().task.expect("a task");
        assert_eq!(task.state(), TaskState::Cancelled);
    }
    refused(tasks.provide_input(answer(&other, 0, "y", "")).await, "TASK_TERMINAL");
    serves(&rig).await;
}

#[tokio::test]
async fn an_answer_needs_its_question() {
    let mut rig = Rig::new().await;
    rig.sidecar("s1", &[AgentDef::demo("d1")]).await;
    let mut tasks = rig.client().tasks();
    let waiting = submit(&rig, submission(unwanted())).await.expect("a task").id;
    refused(tasks.provide_input(answer(&waiting, 0, "y", "")).await, "INPUT_NOT_REQUIRED");

    let id = rig.submit(TaskSpec::new("echo").payload(r#"{"ask": "sure?", "sleep_ms": 0}"#)).await.id();
    rig.state(id, TaskState::InputRequired).await;
    let task = id.to_string();
    let details = refused(tasks.provide_input(answer(&task, 7, "y", "")).await, "INPUT_NUMBER_STALE");
    assert_eq!(details.error_info().expect("info").metadata["open"], "1");
    let big = v1::ProvideInputRequest {
        input: Some(v1::Payload { data: vec![0; (256 << 10) + 1].into(), ..Default::default() }),
        ..answer(&task, 1, "", "")
    };
    super::refused_field(tasks.provide_input(big).await, "input.data");
    tasks.provide_input(answer(&task, 1, "yes", "r-1")).await.expect("an answer");
    let (_, text) = rig.result(id).await;
    assert!(text.contains("yes"), "{text}");
    serves(&rig).await;
}

#[tokio::test]
async fn a_removed_agent_takes_no_orders() {
    let mut rig = Rig::new().await;
    rig.sidecar("s1", &[AgentDef::script("c1", &["run"], "cat")]).await;
    let mut agents = rig.client().agents();
    let id = || "c1".to_owned();
    agents.remove_agent(v1::RemoveAgentRequest { agent_id: id(), ..Default::default() }).await.expect("removed");
    for undo in [false, true] {
        let drain = v1::DrainAgentRequest { agent_id: id(), undo, ..Default::default() };
        refused(agents.drain_agent(drain).await, "AGENT_REMOVED");
    }
    let spec = Some(v1::AgentSpec { slots: 2, ..Default::default() });
    let update = v1::UpdateAgentRequest { agent_id: id(), spec, ..Default::default() };
    refused(agents.update_agent(update).await, "AGENT_REMOVED");
    rig.phase("c1", AgentPhase::Gone).await;
    for call in ["nobody", ""] {
        let drain = v1::DrainAgentRequest { agent_id: call.to_owned(), ..Default::default() };
        let reason = if call.is_empty() { "INVALID_FIELD" } else { "AGENT_NOT_FOUND" };
        refused(agents.drain_agent(drain).await, reason);
    }
    serves(&rig).await;
}

#[tokio::test]
async fn a_lead_without_a_successor_stays() {
    let rig = Rig::new().await;
    let mut cluster = rig.client().cluster();
    let epoch = cluster.get_status(v1::GetStatusRequest::default()).await.expect("status").into_inner().leader_epoch;
    let transfer = |leader_epoch| v1::TransferLeadershipRequest { leader_epoch, ..Default::default() };
    refused(cluster.transfer_leadership(transfer(epoch)).await, "NO_SUCCESSOR");
    refused(cluster.transfer_leadership(transfer(None)).await, "NO_SUCCESSOR");
    let stale = Some(v1::LeaderEpoch { cluster_generation: 0, number: 0 });
    refused(cluster.transfer_leadership(transfer(stale)).await, "LEADER_EPOCH_STALE");
    serves(&rig).await;
}

#[tokio::test]
async fn what_is_not_there_yet_says_when_to_ask_again() {
    let rig = Rig::with(&[("limits.pending_tasks", "2"), ("limits.watches", "1")]).await;
    let mut tasks = rig.client().tasks();
    let task = submit(&rig, submission(unwanted())).await.expect("a task").id;
    let ahead = Some(v1::Revision { cluster_generation: 1, seq: u64::MAX });
    let get = v1::GetTaskRequest { task_id: task.clone(), min_revision: ahead, ..Default::default() };
    waits(&refused(tasks.get_task(get).await, "REVISION_TOO_NEW"));
    let logs = |attempt| v1::TailLogsRequest { task_id: task.clone(), attempt, ..Default::default() };
    refused(tasks.tail_logs(logs(0)).await.map(|_| ()), "LOGS_NOT_FOUND");

    submit(&rig, submission(unwanted())).await.expect("the last task there is room for");
    waits(&refused(submit(&rig, submission(unwanted())).await, "PENDING_LIMIT"));

    let watch = tasks.watch_tasks(v1::WatchTasksRequest::default()).await.expect("a watch");
    waits(&refused(tasks.watch_tasks(v1::WatchTasksRequest::default()).await.map(|_| ()), "TOO_MANY_WATCHES"));
    drop(watch);
    eventually("a place for a watch", LONG, || {
        let mut tasks = tasks.clone();
        async move { tasks.watch_tasks(v1::WatchTasksRequest::default()).await.map(|_| ()) }
    })
    .await;
    // What ends makes room.
    tasks.cancel_task(cancel(&task)).await.expect("cancelled");
    serves(&rig).await;
}

#[tokio::test]
async fn more_calls_than_may_wait_are_not_begun() {
    let rig = Rig::with(&[("limits.calls", "1")]).await;
    let task_id = submit(&rig, submission(unwanted())).await.expect("a task").id;
    let get = || v1::GetTaskRequest { task_id: task_id.clone(), ..Default::default() };
    let wait = v1::WaitTaskRequest { task_id: task_id.clone(), ..Default::default() };
    let tasks = rig.client().tasks();
    // Whoever comes first has the place; the wait tries until it does.
    let waiting = spawn(async move {
        eventually("a place for the wait", LONG, || {
            let (mut tasks, wait) = (tasks.clone(), wait.clone());
            async move { tasks.wait_task(wait).await }
        })
        .await
    });
    let refusal = eventually("no place is left", LONG, || {
        let mut tasks = rig.client().tasks();
        let get = get();
        async move { tasks.get_task(get).await.map_or_else(Ok, |_| Err("there is a place")) }
    })
    .await;
    waits(&refused(Err::<(), _>(refusal), "OVERLOADED"));
    waiting.abort();
    eventually("the place is free again", LONG, || {
        let mut tasks = rig.client().tasks();
        let get = get();
        async move { tasks.get_task(get).await }
    })
    .await;
    serves(&rig).await;
}

/// A deadline that the caller brings, and the one it is given.
#[tokio::test]
async fn a_call_past_its_deadline_says_so() {
    let rig = Rig::with(&[("limits.call_deadline", "1s")]).await;
    let task_id = submit(&rig, submission(unwanted())).await.expect("a task").id;
    let timeout = Some(prost_types::Duration { seconds: 60, nanos: 0 });
    let wait = v1::WaitTaskRequest { task_id, timeout, ..Default::default() };
    refused(rig.client().tasks().wait_task(wait.clone()).await, "DEADLINE");
    let too_long = v1::WaitTaskRequest { timeout: Some(prost_types::Duration { seconds: 601, nanos: 0 }), ..wait };
    super::refused_field(rig.client().tasks().wait_task(too_long).await, "timeout");
    serves(&rig).await;
}
