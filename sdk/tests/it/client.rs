use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, TryStreamExt as _};
use hive_proto::google_rpc;
use hive_proto::v1::{self, ListTasksResponse, SubmitTaskResponse, SubmitTasksResponse, Task, submit_task_result};
use hive_sdk::Client;
use hive_sdk::client::{Builder, Error, LogQuery, TaskExt as _, TaskFilter, TaskSpec, TaskState};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::fake::{Fake, Script};
use crate::soon;

fn status(code: Code, reason: &str, metadata: &[(&str, &str)], retry_after: Option<Duration>) -> Status {
    let metadata: HashMap<_, _> = metadata.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let mut details = ErrorDetails::with_error_info(reason, "hive", metadata);
    if retry_after.is_some() {
        details.set_retry_info(retry_after);
    }
    Status::with_error_details(code, "no", details)
}

fn accepted() -> Result<SubmitTaskResponse, Status> {
    Ok(SubmitTaskResponse { task: Some(Task::default()), ..Default::default() })
}

fn to(endpoint: impl Into<String>) -> Builder {
    Client::builder().endpoint(endpoint).timeout(Duration::from_secs(10))
}

async fn client_of(fake: &Fake) -> Client {
    to(fake.endpoint()).connect().await.expect("connected")
}

#[tokio::test]
async fn a_submission_is_repeated_as_the_server_asks_and_keeps_its_id() {
    let pause = Duration::from_millis(150);
    let script = Script {
        submit: vec![
            Err(status(Code::ResourceExhausted, "QUEUE_FULL", &[], Some(pause))),
            Err(status(Code::Unavailable, "NO_LEADER", &[], None)),
            accepted(),
        ]
        .into_iter()
        .collect::<std::collections::VecDeque<_>>()
        .into(),
        ..Default::default()
    };
    let fake = Fake::start(script).await;
    let started = Instant::now();
    let handle = client_of(&fake).await.submit(TaskSpec::new("wc")).await.expect("accepted");
    assert!(started.elapsed() >= pause);
    let submitted = fake.script.submitted.lock().unwrap();
    assert_eq!(submitted.len(), 3);
    assert!(submitted.iter().all(|request| request.task_id == handle.id().to_string()));
    let timeouts = fake.script.timeouts.lock().unwrap();
    assert_eq!(timeouts.len(), 3, "every call carries its deadline");
}

#[tokio::test]
async fn refusals_are_typed_and_not_repeated() {
    let mut details = ErrorDetails::with_error_info("INVALID", "hive", HashMap::new());
    details.add_bad_request_violation("spec.capabilities", "must not be empty");
    let refusal = Status::with_error_details(Code::InvalidArgument, "bad task", details);
    let fake = Fake::start(Script { submit: one(Err(refusal)), ..Default::default() }).await;
    let error = client_of(&fake).await.submit(TaskSpec::new("")).await.expect_err("refused");
    assert_eq!((error.reason(), error.code(), error.is_retryable()), (Some("INVALID"), Code::InvalidArgument, false));
    assert_eq!(error.violations()[0].field, "spec.capabilities");
    assert_eq!(fake.script.submitted.lock().unwrap().len(), 1);
}

fn one<T>(answer: Result<T, Status>) -> std::sync::Mutex<std::collections::VecDeque<Result<T, Status>>> {
    many([answer])
}

fn many<T>(
    answers: impl IntoIterator<Item = Result<T, Status>>,
) -> std::sync::Mutex<std::collections::VecDeque<Result<T, Status>>> {
    answers.into_iter().collect::<std::collections::VecDeque<_>>().into()
}

#[tokio::test]
async fn a_retry_that_would_come_too_late_is_not_waited_for() {
    let hour = Duration::from_secs(3600);
    let refusal = status(Code::ResourceExhausted, "QUEUE_FULL", &[], Some(hour));
    let fake = Fake::start(Script { submit: one(Err(refusal)), ..Default::default() }).await;
    let error = soon("the refusal", client_of(&fake).await.submit(TaskSpec::new("wc"))).await.expect_err("refused");
    assert_eq!((error.reason(), error.retry_after()), (Some("QUEUE_FULL"), Some(hour)));
}

#[tokio::test]
async fn nobody_there_is_explained() {
    let address = Fake::start(Script::default()).await.kill().await;
    let error = to(address.to_string()).connect().await.expect_err("nobody listens");
    let text = error.to_string();
    for part in [&format!("http://{address}"), "Connection refused", "hive dev"] {
        assert!(text.contains(part), "{text} lacks {part}");
    }
    assert!(matches!(to("ftp://x").connect().await, Err(Error::Endpoint { .. })));
}

#[tokio::test]
async fn a_lazy_client_submits_once_the_server_is_there() {
    let address = Fake::start(Script::default()).await.kill().await;
    let client = to(address.to_string()).connect_lazy().expect("an endpoint");
    let submitting = tokio::spawn(async move { client.submit(TaskSpec::new("wc")).await });
    let _fake = Fake::start_at(address, Script { submit: one(accepted()), ..Default::default() }).await;
    soon("the answer", submitting).await.expect("no panic").expect("accepted");
}

#[tokio::test]
async fn a_silent_server_meets_the_deadline() {
    let fake = Fake::start(Script::default()).await;
    let client = to(fake.endpoint()).timeout(Duration::from_millis(100)).connect().await.expect("connected");
    let error = soon("the deadline", client.submit(TaskSpec::new("wc"))).await.expect_err("no answer");
    assert!(matches!(error, Error::Deadline { call: "SubmitTask", .. }), "{error:?}");
    assert!(error.is_retryable());
}

#[tokio::test]
async fn the_clusters_clock_is_taken_for_new_tasks_and_no_id_is_made_twice() {
    let ahead = "1700000000000";
    let refusal = status(Code::FailedPrecondition, "TASK_ID_IN_FUTURE", &[("cluster_time_ms", ahead)], None);
    let fake = Fake::start(Script { submit: many([Err(refusal), accepted()]), ..Default::default() }).await;
    let client = client_of(&fake).await;
    let error = client.submit(TaskSpec::new("wc")).await.expect_err("the clock is off");
    assert_eq!(error.reason(), Some("TASK_ID_IN_FUTURE"));
    assert_eq!(fake.script.submitted.lock().unwrap().len(), 1);
    let handle = client.submit(TaskSpec::new("wc")).await.expect("accepted");
    let off = handle.id().unix_ms() - 1_700_000_000_000;
    assert!(off < 60_000, "{off} ms off the cluster's clock");
}

#[tokio::test]
async fn a_wait_outlives_the_server() {
    let fake = Fake::start(Script::default()).await;
    let client = client_of(&fake).await;
    let id = client.new_task_id();
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.wait(id, Duration::from_secs(15)).await }
    });
    soon("the wait to arrive", async {
        while fake.script.waits.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let address = fake.kill().await;
    let task = Task { id: id.to_string(), state: TaskState::Succeeded.into(), ..Default::default() };
    let not_yet = v1::WaitTaskResponse { done: false, ..Default::default() };
    let done = v1::WaitTaskResponse { task: Some(task), done: true, revision: None };
    let _fake = Fake::start_at(address, Script { wait: many([Ok(not_yet), Ok(done)]), ..Default::default() }).await;
    assert!(soon("the end", waiting).await.expect("no panic").expect("done").is_success());
}

#[tokio::test]
async fn a_wait_that_is_over_says_so() {
    let fake = Fake::start(Script::default()).await;
    let client = client_of(&fake).await;
    let error = client.wait(client.new_task_id(), Duration::ZERO).await.expect_err("not done");
    assert_eq!(error.code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_batch_answers_per_item_and_repeats_what_waiting_mends() {
    let task = |id: &str| v1::SubmitTaskResult {
        result: Some(submit_task_result::Result::Task(Task { id: id.to_owned(), ..Default::default() })),
        duplicate: false,
    };
    let refused = |status: Status| {
        use prost::Message as _;
        let decoded = google_rpc::Status::decode(status.details()).expect("a status");
        v1::SubmitTaskResult { result: Some(submit_task_result::Result::Error(decoded)), duplicate: false }
    };
    let first = vec![
        task("a"),
        refused(status(Code::AlreadyExists, "TASK_ID_REUSED", &[], None)),
        refused(status(Code::ResourceExhausted, "QUEUE_FULL", &[], Some(Duration::from_millis(5)))),
    ];
    let answer = |results| Ok(SubmitTasksResponse { results, revision: None });
    let script = Script { submit_many: many([answer(first), answer(vec![task("c")])]), ..Default::default() };
    let fake = Fake::start(script).await;
    let specs = (0..3).map(|n| TaskSpec::new("wc").label("n", n.to_string()));
    let answers = soon("the answers", client_of(&fake).await.submit_many(specs)).await;
    assert_eq!(answers[0].as_ref().expect("accepted").accepted().id, "a");
    assert_eq!(answers[1].as_ref().expect_err("refused").reason(), Some("TASK_ID_REUSED"));
    assert_eq!(answers[2].as_ref().expect("accepted in the end").accepted().id, "c");
    let batches = fake.script.batches.lock().unwrap();
    assert_eq!(batches[1].tasks, batches[0].tasks[2..], "only the one is sent again, under its id");
}

#[tokio::test]
async fn a_list_is_read_page_by_page() {
    let page = |ids: &[&str], next: &str| {
        let tasks = ids.iter().map(|id| Task { id: (*id).to_owned(), ..Default::default() }).collect();
        Ok(ListTasksResponse { tasks, next_page_token: next.to_owned(), revision: None })
    };
    let script =
        Script { list: many([page(&["a", "b"], "2"), page(&[], "3"), page(&["c"], "")]), ..Default::default() };
    let fake = Fake::start(script).await;
    let tasks: Vec<Task> = client_of(&fake).await.list(TaskFilter::default()).try_collect().await.expect("all pages");
    assert_eq!(tasks.iter().map(|task| task.id.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
}

#[tokio::test]
async fn an_answer_is_repeated_under_one_request_id() {
    let task = v1::ProvideInputResponse { task: Some(Task::default()), revision: None };
    let script = Script {
        input: many([Err(status(Code::Unavailable, "NO_LEADER", &[], None)), Ok(task)]),
        ..Default::default()
    };
    let fake = Fake::start(script).await;
    let client = client_of(&fake).await;
    client.provide_input(client.new_task_id(), 1, "red").await.expect("taken");
    let inputs = fake.script.inputs.lock().unwrap();
    assert_eq!(inputs.len(), 2);
    assert_eq!(inputs[0].request_id, inputs[1].request_id);
}

#[tokio::test]
async fn logs_go_on_where_they_broke() {
    let chunk = |offset, data: &'static str| {
        Ok(v1::TailLogsResponse { stream: 1, offset, data: data.into(), ..Default::default() })
    };
    let broken = Err(status(Code::Unavailable, "SIDECAR_UNREACHABLE", &[], None));
    let script = Script {
        logs: many([Ok(vec![chunk(0, "one "), broken]), Ok(vec![chunk(0, "one "), chunk(4, "two")])]),
        ..Default::default()
    };
    let fake = Fake::start(script).await;
    let client = client_of(&fake).await;
    let chunks = soon("the log", client.logs(LogQuery::of(client.new_task_id())).collect::<Vec<_>>()).await;
    let text: Vec<u8> = chunks.into_iter().flat_map(|chunk| chunk.expect("a chunk").data).collect();
    assert_eq!(String::from_utf8_lossy(&text), "one two");
}
