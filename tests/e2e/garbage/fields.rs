//! Every limit of a field at its edge: the last value taken, and the first one refused.

use std::collections::BTreeMap;

use hive_sdk::proto as v1;
use hive_sdk::proto::{RetryPolicy, TaskSpec};
use prost_types::Duration;
use tonic::Status;

use super::{refused, refused_field, serves, submission, submit, unwanted};
use crate::harness::Rig;

fn labels(count: usize) -> BTreeMap<String, String> {
    (0..count).map(|n| (format!("k{n}"), String::new())).collect()
}

fn label(key: usize, value: usize) -> BTreeMap<String, String> {
    [("k".repeat(key), "v".repeat(value))].into()
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("c{n}")).collect()
}

fn payload(data: usize, content_type: usize) -> Option<v1::Payload> {
    Some(v1::Payload { data: vec![7; data].into(), content_type: "t".repeat(content_type) })
}

fn seconds(seconds: i64, nanos: i32) -> Option<Duration> {
    Some(Duration { seconds, nanos })
}

type Change = fn(&mut TaskSpec);

/// The last good values, then the first bad ones with the field that is named.
const GOOD: &[Change] = &[
    |spec| spec.labels = labels(32),
    |spec| spec.agent_labels = labels(32),
    |spec| spec.labels = label(63, 253),
    |spec| spec.agent_labels = label(1, 0),
    |spec| spec.capabilities = names(32),
    |spec| spec.capabilities = vec!["c".repeat(63)],
    |spec| spec.payload = payload(256 << 10, 127),
    |spec| spec.payload = payload(0, 0),
    |spec| spec.pool = "p".repeat(63),
    |spec| spec.priority = v1::Priority::Critical.into(),
    |spec| spec.disconnect_policy = v1::DisconnectPolicy::Wait.into(),
    |spec| spec.attempt_timeout = seconds(1, 0),
    |spec| spec.attempt_timeout = seconds(7 * 86_400, 0),
    |spec| spec.queue_timeout = seconds(30 * 86_400, 0),
    |spec| spec.input_timeout = seconds(7 * 86_400, 0),
    |spec| spec.retry = Some(RetryPolicy { max_failures: 100, ..Default::default() }),
    |spec| {
        spec.retry =
            Some(RetryPolicy { base_delay: seconds(0, 0), max_delay: seconds(86_400, 0), ..Default::default() })
    },
    |spec| spec.retry = Some(RetryPolicy { base_delay: seconds(3_600, 0), ..Default::default() }),
];

const BAD: &[(&str, Change)] = &[
    ("spec.labels", |spec| spec.labels = labels(33)),
    ("spec.agent_labels", |spec| spec.agent_labels = labels(33)),
    ("spec.labels", |spec| spec.labels = label(64, 1)),
    ("spec.labels", |spec| spec.labels = label(1, 254)),
    ("spec.labels", |spec| spec.labels = label(0, 1)),
    ("spec.labels", |spec| spec.labels = [("a b".to_owned(), String::new())].into()),
    ("spec.agent_labels", |spec| spec.agent_labels = [("a\n".to_owned(), String::new())].into()),
    ("spec.capabilities", |spec| spec.capabilities = names(33)),
    ("spec.capabilities", |spec| spec.capabilities = Vec::new()),
    ("spec.capabilities", |spec| spec.capabilities = vec!["c".repeat(64)]),
    ("spec.capabilities", |spec| spec.capabilities = vec![String::new()]),
    ("spec.payload.data", |spec| spec.payload = payload((256 << 10) + 1, 0)),
    ("spec.payload.content_type", |spec| spec.payload = payload(0, 128)),
    ("spec.pool", |spec| spec.pool = "p".repeat(64)),
    ("spec.pool", |spec| spec.pool = "Pool".to_owned()),
    ("spec.priority", |spec| spec.priority = 5),
    ("spec.priority", |spec| spec.priority = -1),
    ("spec.disconnect_policy", |spec| spec.disconnect_policy = 99),
    ("spec.attempt_timeout", |spec| spec.attempt_timeout = seconds(0, 999_999_999)),
    ("spec.attempt_timeout", |spec| spec.attempt_timeout = seconds(7 * 86_400, 1)),
    ("spec.attempt_timeout", |spec| spec.attempt_timeout = seconds(-5, 0)),
    ("spec.attempt_timeout", |spec| spec.attempt_timeout = seconds(i64::MAX, i32::MAX)),
    ("spec.attempt_timeout", |spec| spec.attempt_timeout = seconds(i64::MIN, i32::MIN)),
    ("spec.queue_timeout", |spec| spec.queue_timeout = seconds(30 * 86_400, 1)),
    ("spec.queue_timeout", |spec| spec.queue_timeout = seconds(0, 0)),
    ("spec.input_timeout", |spec| spec.input_timeout = seconds(7 * 86_400, 1)),
    ("spec.retry.max_failures", |spec| {
        spec.retry = Some(RetryPolicy { max_failures: 101, ..Default::default() });
    }),
    ("spec.retry.base_delay", |spec| {
        spec.retry = Some(RetryPolicy { base_delay: seconds(3_600, 1), ..Default::default() });
    }),
    ("spec.retry.max_delay", |spec| {
        spec.retry = Some(RetryPolicy { max_delay: seconds(86_400, 1), ..Default::default() });
    }),
];

#[tokio::test]
async fn a_task_at_each_edge() {
    let rig = Rig::new().await;
    for change in GOOD {
        let mut spec = unwanted();
        change(&mut spec);
        let shown = TaskSpec { payload: None, ..spec.clone() };
        submit(&rig, submission(spec)).await.unwrap_or_else(|status| panic!("{status:?} to {shown:?}"));
    }
    for (field, change) in BAD {
        let mut spec = unwanted();
        change(&mut spec);
        refused_field(submit(&rig, submission(spec)).await, field);
    }
    refused_field(submit(&rig, v1::SubmitTaskRequest::default()).await, "spec");
    serves(&rig).await;
}

#[tokio::test]
async fn an_agent_at_each_edge() {
    let rig = Rig::new().await;
    let register = async |agent_id: &str, spec: v1::AgentSpec| {
        let request =
            v1::RegisterAgentRequest { agent_id: agent_id.to_owned(), spec: Some(spec), ..Default::default() };
        rig.client().agents().register_agent(request).await
    };
    let good = v1::AgentSpec { capabilities: names(32), labels: labels(32), slots: 100, ..Default::default() };
    register(&"a".repeat(63), good).await.expect("an agent at every edge");
    for id in ["", &"a".repeat(64), "Agent", "-a", "a-", "a.b", "a b", "ä"] {
        refused_field(register(id, v1::AgentSpec::default()).await, "agent_id");
    }
    let bad = [
        ("spec.capabilities", v1::AgentSpec { capabilities: names(33), ..Default::default() }),
        ("spec.labels", v1::AgentSpec { labels: labels(33), ..Default::default() }),
        ("spec.slots", v1::AgentSpec { slots: 101, ..Default::default() }),
        ("spec.pool", v1::AgentSpec { pool: "_".to_owned(), ..Default::default() }),
        ("spec.runtime", v1::AgentSpec { runtime: v1::Runtime::Command.into(), ..Default::default() }),
        ("spec.runtime", v1::AgentSpec { runtime: 99, ..Default::default() }),
    ];
    for (field, spec) in bad {
        refused_field(register("b", spec).await, field);
    }
    let long = v1::RegisterAgentRequest { agent_id: "b".to_owned(), request_id: "r".repeat(64), ..Default::default() };
    refused_field(rig.client().agents().register_agent(long).await, "request_id");
    let update = async |paths: &[&str], spec: v1::AgentSpec| {
        let mask = prost_types::FieldMask { paths: paths.iter().map(|&path| path.to_owned()).collect() };
        let request = v1::UpdateAgentRequest {
            agent_id: "a".repeat(63),
            spec: Some(spec),
            update_mask: Some(mask),
            ..Default::default()
        };
        rig.client().agents().update_agent(request).await
    };
    refused_field(update(&["runtime"], v1::AgentSpec::default()).await, "update_mask");
    refused_field(update(&[], v1::AgentSpec::default()).await, "update_mask");
    refused_field(update(&["slots"], v1::AgentSpec { slots: 101, ..Default::default() }).await, "spec.slots");
    serves(&rig).await;
}

#[tokio::test]
async fn a_batch_a_page_and_a_view_at_each_edge() {
    let rig = Rig::new().await;
    let batch = async |tasks: Vec<v1::SubmitTaskRequest>| {
        rig.client().tasks().submit_tasks(v1::SubmitTasksRequest { tasks, ..Default::default() }).await
    };
    let many = |count: usize| vec![submission(unwanted()); count];
    refused_field(batch(many(0)).await, "tasks");
    refused_field(batch(many(101)).await, "tasks");
    assert_eq!(batch(many(100)).await.expect("a full batch").into_inner().results.len(), 100);
    // A bad item is told in its place.
    let other = v1::SubmitTaskRequest { namespace: "other".to_owned(), ..submission(unwanted()) };
    let same = v1::SubmitTaskRequest { namespace: "default".to_owned(), ..submission(unwanted()) };
    let answer =
        batch(vec![same, other, submission(TaskSpec::default()), submission(unwanted())]).await.expect("a mixed batch");
    let taken = |result: &v1::SubmitTaskResult| matches!(result.result, Some(v1::submit_task_result::Result::Task(_)));
    let results = answer.into_inner().results;
    assert_eq!(results.iter().map(taken).collect::<Vec<_>>(), [true, false, false, true]);
    for (result, field) in results[1..3].iter().zip(["namespace", "spec.capabilities"]) {
        let Some(v1::submit_task_result::Result::Error(error)) = &result.result else { panic!("{result:?}") };
        // What travels in the header of a refused call: the same message.
        let details = prost::Message::encode_to_vec(error).into();
        refused_field(Err::<(), _>(Status::with_details(error.code.into(), &error.message, details)), field);
    }

    let list = async |page_size: i32, page_token: &str, filter: Option<v1::TaskFilter>| {
        let request =
            v1::ListTasksRequest { page_size, page_token: page_token.to_owned(), filter, ..Default::default() };
        rig.client().tasks().list_tasks(request).await.map(tonic::Response::into_inner)
    };
    refused_field(list(-1, "", None).await, "page_size");
    refused_field(list(i32::MIN, "", None).await, "page_size");
    assert_eq!(list(0, "", None).await.expect("the default page").tasks.len(), 50);
    assert_eq!(list(i32::MAX, "", None).await.expect("a page at the cap").tasks.len(), 102);
    let token = list(1, "", None).await.expect("a page").next_page_token;
    assert!(list(1, &token, None).await.is_ok());
    let narrow = v1::TaskFilter { capability: "x".to_owned(), ..Default::default() };
    for (token, filter) in
        [("x", None), ("00000000", None), ("ä", None), (&*"f".repeat(5_000), None), (&*token, Some(narrow))]
    {
        refused(list(1, token, filter).await, "PAGE_TOKEN_INVALID");
    }
    let states = |state: i32| Some(v1::TaskFilter { states: vec![state], ..Default::default() });
    refused_field(list(1, "", states(0)).await, "filter.states");
    refused_field(list(1, "", states(99)).await, "filter.states");
    let agents = async |page_size: i32, token: &str| {
        let request = v1::ListAgentsRequest { page_size, page_token: token.to_owned(), ..Default::default() };
        rig.client().agents().list_agents(request).await
    };
    refused_field(agents(-1, "").await, "page_size");
    refused(agents(1, "!").await, "PAGE_TOKEN_INVALID");
    let get = v1::GetTaskRequest {
        task_id: hive_sdk::Client::new_task_id(&rig.client()).to_string(),
        view: 99,
        ..Default::default()
    };
    refused_field(rig.client().tasks().get_task(get).await, "view");
    serves(&rig).await;
}

/// The cap itself: 1,000 of 1,100.
#[tokio::test]
async fn a_page_is_capped() {
    let rig = Rig::new().await;
    let mut tasks = rig.client().tasks();
    for _ in 0..11 {
        let batch = v1::SubmitTasksRequest { tasks: vec![submission(unwanted()); 100], ..Default::default() };
        tasks.submit_tasks(batch).await.expect("a batch");
    }
    let request = v1::ListTasksRequest { page_size: 5_000, ..Default::default() };
    let page = tasks.list_tasks(request).await.expect("a page").into_inner();
    assert_eq!((page.tasks.len(), page.next_page_token.is_empty()), (1_000, false));
}
