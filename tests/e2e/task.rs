//! One task's life: its ends, its retries, its questions, its sizes.

use std::time::Duration;

use hive_sdk::Payload;
use hive_sdk::client::{TaskExt as _, TaskSpec};
use hive_sdk::proto::{AgentPhase, TaskReason, TaskState};

use crate::harness::{AgentDef, Rig, alive, processes_with, soon};
use crate::programs::Gate;

/// Neither it nor its child heeds TERM.
const DEAF: &str = r#"
trap '' TERM
sh -c 'trap "" TERM; while :; do sleep 0.05; done' &
echo $! > "$GATE/child"
echo $$ > "$GATE/pid-$HIVE_ATTEMPT"
: > "$GATE/begun-$HIVE_ATTEMPT"
while :; do sleep 0.05; done
"#;

#[tokio::test]
async fn cancel_ends_the_whole_group_even_if_it_is_deaf() {
    let mut rig = Rig::new().await;
    let gate = Gate::new(rig.path());
    rig.sidecar("sidecar-1", &[gate.script("cmd-1", DEAF)]).await;
    let id = rig.submit(TaskSpec::new("gated")).await.id();
    let parent = gate.begun(1).await;
    let child: u32 = gate.read("child").trim().parse().unwrap();
    let asked = rig.client().cancel(id).await.unwrap();
    assert!(asked.cancel_requested || asked.state() == TaskState::Cancelled, "{asked:?}");
    let task = rig.ended(id).await;
    assert_eq!((task.state(), task.reason()), (TaskState::Cancelled, TaskReason::CancelRequested), "{task:?}");
    assert!(!alive(parent) && !alive(child), "confirmed, and still there");
    // Asking again changes nothing, and nothing of it is left.
    assert_eq!(rig.client().cancel(id).await.unwrap().state(), TaskState::Cancelled);
    let left = processes_with(&format!("HIVE_TASK_ID={id}"));
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn cancel_of_a_waiting_task_and_of_an_sdk_task() {
    let mut rig = Rig::new().await;
    let waiting = rig.submit(TaskSpec::new("nobody-can")).await.id();
    assert_eq!(rig.client().cancel(waiting).await.unwrap().state(), TaskState::Cancelled);
    rig.sidecar("sidecar-1", &[AgentDef::demo("demo-1")]).await;
    let running = rig.submit(TaskSpec::new("echo").payload(r#"{"sleep_ms": 600000}"#)).await.id();
    rig.state(running, TaskState::Running).await;
    rig.client().cancel(running).await.unwrap();
    let task = rig.ended(running).await;
    assert_eq!((task.state(), task.reason()), (TaskState::Cancelled, TaskReason::CancelRequested), "{task:?}");
    let done = rig.submit(TaskSpec::new("echo").payload("x")).await.id();
    rig.result(done).await;
    assert_eq!(rig.client().cancel(done).await.unwrap_err().reason(), Some("TASK_TERMINAL"));
}

#[tokio::test]
async fn an_attempt_has_its_time_and_no_more() {
    let mut rig = Rig::new().await;
    let gate = Gate::new(rig.path());
    rig.sidecar("sidecar-1", &[gate.script("cmd-1", DEAF), AgentDef::demo("demo-1")]).await;
    let limit = |spec: TaskSpec| spec.attempt_timeout(Duration::from_secs(1)).max_failures(2);
    let command = rig.submit(limit(TaskSpec::new("gated"))).await.id();
    let sdk = rig.submit(limit(TaskSpec::new("echo").payload(r#"{"sleep_ms": 600000}"#))).await.id();
    for id in [command, sdk] {
        let task = rig.ended(id).await;
        let seen = (task.state(), task.reason(), task.attempt, task.failures);
        assert_eq!(seen, (TaskState::Failed, TaskReason::Timeout, 2, 2), "{task:?}");
    }
    for attempt in 1..=2 {
        let pid = gate.read(&format!("pid-{attempt}")).trim().parse().unwrap();
        soon("the program is gone", || !alive(pid)).await;
    }
}

#[tokio::test]
async fn exit_codes_and_signals_are_told_as_they_are() {
    let mut rig = Rig::new().await;
    let agents = [
        AgentDef::script("cmd-1", &["third-time"], r#"if [ "$HIVE_ATTEMPT" -lt 3 ]; then exit 75; fi; echo third"#),
        AgentDef::script("cmd-2", &["exit"], "echo why >&2; exit 3"),
        AgentDef::script("cmd-3", &["signal"], "kill -SEGV $$"),
        AgentDef::command("cmd-4", &["absent"], &["/absent/program"]),
        AgentDef::script("cmd-5", &["always-75"], "exit 75"),
        AgentDef::demo("demo-1"),
    ];
    rig.sidecar("sidecar-1", &agents).await;
    let task = rig.submit(TaskSpec::new("third-time")).await.id();
    let (task, text) = rig.result(task).await;
    assert_eq!((text.as_str(), task.attempt, task.failures), ("third\n", 3, 2));

    let ended = async |capability: &str, payload: &str| {
        let id = rig.submit(TaskSpec::new(capability).payload(payload)).await.id();
        let task = rig.ended(id).await;
        let failure = task.failure.clone().unwrap_or_default();
        assert_eq!(task.state(), TaskState::Failed, "{task:?}");
        assert_eq!(task.reason(), failure.reason(), "{task:?}");
        (task.reason(), task.attempt, failure.exit_code, failure.signal)
    };
    assert_eq!(ended("exit", "").await, (TaskReason::ExitCode, 1, Some(3), None));
    assert_eq!(ended("signal", "").await, (TaskReason::Signal, 1, None, Some(11)));
    assert_eq!(ended("absent", "").await.0, TaskReason::StartFailed);
    assert_eq!(ended("always-75", "").await, (TaskReason::ExitCode, 3, Some(75), None));
    assert_eq!(ended("echo", r#"{"fail": "no"}"#).await.1, 1);
    assert_eq!(ended("echo", r#"{"fail": "no", "retryable": true}"#).await.1, 3);
}

#[tokio::test]
async fn a_question_waits_for_its_answer_through_a_crash() {
    let mut rig = Rig::new().await;
    rig.sidecar("sidecar-1", &[AgentDef::demo("demo-1").slots(1)]).await;
    let client = rig.client();
    let early = client.submit(TaskSpec::new("nobody-can")).await.unwrap();
    assert_eq!(early.provide_input(1, "x").await.unwrap_err().reason(), Some("INPUT_NOT_REQUIRED"));
    let task = client.submit(TaskSpec::new("echo").payload(r#"{"ask": "Go on?"}"#)).await.unwrap();
    let asked = rig.state(task.id(), TaskState::InputRequired).await;
    let question = asked.input_request.unwrap();
    assert_eq!(question.prompt.unwrap().data, "Go on?");
    rig.crash_control_plane().await;
    let asked = rig.state(task.id(), TaskState::InputRequired).await;
    assert_eq!(asked.input_request.unwrap().number, question.number);
    assert_eq!(task.provide_input(question.number + 1, "no").await.unwrap_err().reason(), Some("INPUT_NUMBER_STALE"));
    // The slot is held meanwhile.
    let next = client.submit(TaskSpec::new("echo").payload("next")).await.unwrap();
    assert_eq!(client.get(next.id()).await.unwrap().state(), TaskState::Pending);
    task.provide_input(question.number, "yes").await.unwrap();
    let (task, text) = rig.result(task.id()).await;
    assert_eq!((text.as_str(), task.attempt), ("yes", 1));
    rig.result(next.id()).await;
}

#[tokio::test]
async fn payloads_and_results_up_to_the_limit() {
    const LIMIT: usize = 256 * 1024;
    let mut rig = Rig::new().await;
    let agents = [
        AgentDef::script("cmd-1", &["cat"], "cat"),
        AgentDef::script("cmd-2", &["one-more"], "cat; printf x"),
        AgentDef::demo("demo-1"),
    ];
    rig.sidecar("sidecar-1", &agents).await;
    let bytes = |length: usize| {
        Payload::bytes((0..length).map(|i| (i % 251) as u8).collect::<Vec<_>>(), "application/octet-stream")
    };
    for capability in ["cat", "echo"] {
        for length in [0, 1024, 1025, LIMIT] {
            let id = rig.submit(TaskSpec::new(capability).payload(bytes(length))).await.id();
            let task = rig.ended(id).await;
            assert!(task.is_success(), "{capability} {length}: {:?} {:?}", task.state(), task.failure);
            let output = task.output().map(|o| o.data().to_vec()).unwrap_or_default();
            assert!(output == bytes(length).data().as_ref(), "{capability} {length}: not what was given");
        }
    }
    let error = rig.client().submit(TaskSpec::new("cat").payload(bytes(LIMIT + 1))).await.unwrap_err();
    assert_eq!(error.reason(), Some("INVALID_FIELD"));
    let fields: Vec<_> = error.violations().iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(fields, ["spec.payload.data"]);
    let id = rig.submit(TaskSpec::new("one-more").payload(bytes(LIMIT))).await.id();
    let task = rig.ended(id).await;
    assert_eq!((task.state(), task.reason()), (TaskState::Failed, TaskReason::ResultTooLarge), "{task:?}");
    // Large ones survive a crash as well.
    let id = rig.submit(TaskSpec::new("cat").payload(bytes(LIMIT))).await.id();
    rig.ended(id).await;
    rig.crash_control_plane().await;
    let task = rig.client().get(id).await.unwrap();
    assert!(task.output().unwrap().data() == bytes(LIMIT).data(), "the result changed by a restart");
}

#[tokio::test]
async fn a_task_nobody_takes_expires() {
    let rig = Rig::new().await;
    let id = rig.submit(TaskSpec::new("nobody-can").queue_timeout(Duration::from_secs(1))).await.id();
    let task = rig.ended(id).await;
    assert_eq!((task.state(), task.reason()), (TaskState::Expired, TaskReason::QueueDeadline), "{task:?}");
}

#[tokio::test]
async fn the_same_id_is_the_same_task() {
    let mut rig = Rig::new().await;
    rig.sidecar("sidecar-1", &[AgentDef::demo("demo-1")]).await;
    let client = rig.client();
    let id = client.new_task_id();
    let spec = |text: &str| TaskSpec::new("echo").payload(text).id(id);
    assert!(!client.submit(spec("a")).await.unwrap().is_duplicate());
    assert!(client.submit(spec("a")).await.unwrap().is_duplicate());
    assert_eq!(client.submit(spec("b")).await.unwrap_err().reason(), Some("TASK_ID_REUSED"));
    rig.result(id).await;
    rig.crash_control_plane().await;
    assert!(client.submit(spec("a")).await.unwrap().is_duplicate());
    assert_eq!(client.submit(spec("b")).await.unwrap_err().reason(), Some("TASK_ID_REUSED"));
    rig.phase("demo-1", AgentPhase::Ready).await;
    assert_eq!(client.get(id).await.unwrap().attempt, 1);
}
