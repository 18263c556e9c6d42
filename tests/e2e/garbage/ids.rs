//! Ids of tasks and agents: malformed, unknown, used before, too old, ahead.

use std::collections::HashMap;
use std::time::{Duration, UNIX_EPOCH};

use hive_control_plane::store::embedded::{ClusterId, Options};
use hive_control_plane::store::{Embedded, Op, Store as _, Transaction, codec};
use hive_core::id::Namespace;
use hive_core::record::{NamespaceRecord, Record};
use hive_core::time::Time;
use hive_sdk::client::TaskId;
use hive_sdk::proto as v1;

use super::{refused, refused_field, serves, submission, submit, unwanted};
use crate::harness::Rig;

/// A UUIDv7 of that moment.
fn id_at(unix_ms: u64) -> String {
    hive_core::id::TaskId::new(Time(unix_ms), 0x1234_5678_9abc_def0_1122).to_string()
}

async fn cluster_ms(rig: &Rig) -> u64 {
    let status = rig.client().cluster().get_status(v1::GetStatusRequest::default()).await.expect("status");
    let time = status.into_inner().cluster_time.expect("cluster time");
    let since = std::time::SystemTime::try_from(time).expect("a time").duration_since(UNIX_EPOCH);
    since.expect("after 1970").as_millis() as u64
}

fn told_ms(metadata: &HashMap<String, String>) -> u64 {
    metadata["cluster_time_ms"].parse().expect("milliseconds")
}

#[tokio::test]
async fn ids_that_are_none_and_ids_of_nothing() {
    let rig = Rig::new().await;
    let with_id = |id: &str| v1::SubmitTaskRequest { task_id: id.to_owned(), ..submission(unwanted()) };
    let v4 = "f47ac10b-58cc-4372-a567-0e02b2c3d479";
    for id in [
        "x",
        v4,
        "018f0000-0000-7000-c000-00000000000",
        "ä",
        &"0".repeat(5_000),
        "00000000-0000-7000-c000-000000000000",
    ] {
        refused_field(submit(&rig, with_id(id)).await, "task_id");
        let get = v1::GetTaskRequest { task_id: id.to_owned(), ..Default::default() };
        refused_field(rig.client().tasks().get_task(get).await, "task_id");
    }
    let id = rig.client().new_task_id().to_string();
    let get = v1::GetTaskRequest { task_id: id.clone(), ..Default::default() };
    refused(rig.client().tasks().get_task(get.clone()).await, "TASK_NOT_FOUND");
    let wait = v1::WaitTaskRequest { task_id: id.clone(), ..Default::default() };
    refused(rig.client().tasks().wait_task(wait).await, "TASK_NOT_FOUND");
    let watch = v1::WatchTaskRequest { task_id: id.clone(), ..Default::default() };
    refused(rig.client().tasks().watch_task(watch).await.map(|_| ()), "TASK_NOT_FOUND");
    let cancel = v1::CancelTaskRequest { task_id: id.clone(), ..Default::default() };
    refused(rig.client().tasks().cancel_task(cancel).await, "TASK_NOT_FOUND");
    let logs = v1::TailLogsRequest { task_id: id.clone(), ..Default::default() };
    refused(rig.client().tasks().tail_logs(logs).await.map(|_| ()), "TASK_NOT_FOUND");
    for namespace in ["other", "0"] {
        let get = v1::GetTaskRequest { namespace: namespace.to_owned(), ..get.clone() };
        refused(rig.client().tasks().get_task(get).await, "NAMESPACE_NOT_FOUND");
        let other = v1::SubmitTaskRequest { namespace: namespace.to_owned(), ..submission(unwanted()) };
        refused(submit(&rig, other).await, "NAMESPACE_NOT_FOUND");
    }
    let bad = v1::SubmitTaskRequest { namespace: "Not A Name".to_owned(), ..submission(unwanted()) };
    refused_field(submit(&rig, bad).await, "namespace");
    let agent = v1::GetAgentRequest { agent_id: "nobody".to_owned(), ..Default::default() };
    refused(rig.client().agents().get_agent(agent).await, "AGENT_NOT_FOUND");
    serves(&rig).await;
}

#[tokio::test]
async fn an_id_used_before_finds_its_task_or_is_refused() {
    let rig = Rig::new().await;
    let request = v1::SubmitTaskRequest { task_id: rig.client().new_task_id().to_string(), ..submission(unwanted()) };
    let first = submit(&rig, request.clone()).await.expect("a task");
    let again = rig.client().tasks().submit_task(request.clone()).await.expect("the same task").into_inner();
    assert_eq!((again.duplicate, again.task.expect("a task").id), (true, first.id));
    let mut other = request.clone();
    other.spec = Some(v1::TaskSpec { priority: v1::Priority::High.into(), ..unwanted() });
    refused(submit(&rig, other.clone()).await, "TASK_ID_REUSED");
    // In a batch too, where it also meets itself.
    let batch = v1::SubmitTasksRequest { tasks: vec![request.clone(), other, request], ..Default::default() };
    let results = rig.client().tasks().submit_tasks(batch).await.expect("a batch").into_inner().results;
    assert_eq!(results.iter().map(|result| result.duplicate).collect::<Vec<_>>(), [true, false, true]);

    let register =
        v1::RegisterAgentRequest { agent_id: "a".to_owned(), request_id: "r-1".to_owned(), ..Default::default() };
    let mut agents = rig.client().agents();
    agents.register_agent(register.clone()).await.expect("an agent");
    agents.register_agent(register.clone()).await.expect("the same request again");
    let spec = Some(v1::AgentSpec { slots: 7, ..Default::default() });
    let other = v1::RegisterAgentRequest { spec, ..register.clone() };
    refused(agents.register_agent(other).await, "REQUEST_ID_REUSED");
    refused(
        agents.register_agent(v1::RegisterAgentRequest { request_id: "r-2".to_owned(), ..register }).await,
        "AGENT_EXISTS",
    );
    serves(&rig).await;
}

#[tokio::test]
async fn an_id_from_the_future_is_refused_with_the_cluster_time() {
    let rig = Rig::new().await;
    let now = cluster_ms(&rig).await;
    let at = |ms: u64| v1::SubmitTaskRequest { task_id: id_at(ms), ..submission(unwanted()) };
    submit(&rig, at(now + 50_000)).await.expect("an id within the minute");
    for ms in [now + 120_000, (1 << 48) - 1] {
        let details = refused(submit(&rig, at(ms)).await, "TASK_ID_IN_FUTURE");
        let told = told_ms(&details.error_info().expect("info").metadata);
        assert!((now..now + 60_000).contains(&told), "{told} is not the cluster's time");
    }
    serves(&rig).await;
}

/// Retention never raises the floor into the last minute; a store in which it did so earlier does.
#[tokio::test]
async fn an_id_from_before_what_is_remembered_is_refused_with_the_cluster_time() {
    let mut rig = Rig::folder(&[]);
    let made = rig.client().new_task_id();
    let floor = Time(made.unix_ms() - 600_000);
    {
        let options = Options { ballast: 0, ..Options::new(ClusterId(7), floor) };
        let store = Embedded::open(&rig.data(), &options).expect("a new store");
        let loaded = store.acquire().await.expect("the lead");
        let record = Record::Namespace(NamespaceRecord { floor, ..Default::default() }.into());
        let key = codec::record_key(&record.key(&Namespace::parse("default").expect("a name")));
        let ops = vec![Op::Put { key, value: codec::encode(&record) }];
        let seq = loaded.seq + 1;
        let transaction = Transaction { fence: loaded.epoch, prev_seq: loaded.seq, seq, nonce: 1, time: floor, ops };
        store.commit(transaction).await.expect("a commit");
    }
    rig.start_control_plane().await;
    let now = cluster_ms(&rig).await;
    let at = |ms: u64| v1::SubmitTaskRequest { task_id: id_at(ms), ..submission(unwanted()) };
    for ms in [0, floor.0 - 1] {
        let details = refused(submit(&rig, at(ms)).await, "TASK_ID_TOO_OLD");
        let told = told_ms(&details.error_info().expect("info").metadata);
        assert!((now..now + 60_000).contains(&told), "{told} is not the cluster's time");
        let get = v1::GetTaskRequest { task_id: id_at(ms), ..Default::default() };
        refused(rig.client().tasks().get_task(get).await, "TASK_ID_TOO_OLD");
    }
    submit(&rig, at(floor.0)).await.expect("an id at the floor");
    serves(&rig).await;
}

/// So that ids in answers can be compared with those of the SDK.
#[test]
fn ids_read_the_same_everywhere() {
    let text = id_at(1_700_000_000_000);
    let id: TaskId = text.parse().expect("an id");
    assert_eq!((id.to_string(), Duration::from_millis(id.unix_ms())), (text, Duration::from_millis(1_700_000_000_000)));
}
