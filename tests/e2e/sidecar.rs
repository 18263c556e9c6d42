//! What happens to work when the processes beside it die or stop: its sidecar, its agent.

use std::time::Duration;

use hive_sdk::client::TaskSpec;
use hive_sdk::proto::{AgentPhase, TaskReason, TaskState};
use rustix::process::Signal;

use crate::harness::{AgentDef, LONG, Rig, alive, eventually, executions, signal, soon};
use crate::programs::Gate;

#[tokio::test]
async fn a_killed_sidecar_adopts_what_runs() {
    let mut rig = Rig::new().await;
    let gate = Gate::new(rig.path());
    rig.sidecar("sidecar-1", &[gate.agent("cmd-1")]).await;
    let task = rig.submit(TaskSpec::new("gated")).await.id();
    let pid = gate.begun(1).await;
    rig.sidecar_process("sidecar-1").kill9();
    assert!(alive(pid), "the program outlives its sidecar");
    rig.start_sidecar("sidecar-1");
    rig.phase("cmd-1", AgentPhase::Ready).await;
    gate.open();
    let (task, text) = rig.result(task).await;
    assert_eq!((text.as_str(), task.attempt, task.failures, gate.runs()), ("cmd-1 1\n", 1, 0, 1));
}

#[tokio::test]
async fn what_ended_while_the_sidecar_was_dead_is_delivered() {
    let mut rig = Rig::new().await;
    let gate = Gate::new(rig.path());
    rig.sidecar("sidecar-1", &[gate.agent("cmd-1")]).await;
    let task = rig.submit(TaskSpec::new("gated")).await.id();
    let pid = gate.begun(1).await;
    rig.sidecar_process("sidecar-1").kill9();
    gate.open();
    soon("the program ends", || !alive(pid)).await;
    rig.start_sidecar("sidecar-1");
    let (task, text) = rig.result(task).await;
    assert_eq!((text.as_str(), task.attempt, gate.runs()), ("cmd-1 1\n", 1, 1));
}

#[tokio::test]
async fn a_killed_sidecar_and_its_sdk_agent_keep_the_promises() {
    let mut rig = Rig::new().await;
    let list = rig.path().join("ran");
    rig.sidecar("sidecar-1", &[AgentDef::logging("sdk-1", &["echo"], &list)]).await;
    let payload = r#"{"sleep_ms": 1500}"#;
    let task = rig.submit(TaskSpec::new("echo").payload(payload)).await.id();
    soon("the attempt begins", || !executions(&[&list]).is_empty()).await;
    rig.sidecar_process("sidecar-1").kill9();
    rig.start_sidecar("sidecar-1");
    let (task, text) = rig.result(task).await;
    assert_eq!(text, payload);
    // Whether the agent lived on or was started anew, no attempt ran twice.
    let ran = executions(&[&list]);
    assert!(ran.values().all(|times| *times == 1), "{ran:?}");
    assert_eq!(ran.len(), task.attempt as usize, "{task:?}");
}

#[tokio::test]
async fn sidecars_killed_again_and_again_double_nothing() {
    let mut rig = Rig::new().await;
    let list = rig.path().join("ran");
    let script = r#"echo "$HIVE_TASK_ID $HIVE_ATTEMPT" >> "$LIST"; sleep 0.3; cat"#;
    let agent = AgentDef::script("cmd-1", &["slow"], script).env("LIST", list.to_str().unwrap()).slots(8);
    rig.sidecar("sidecar-1", &[agent]).await;
    let client = rig.client();
    let mut tasks = Vec::new();
    let mut rng = crate::harness::Rng(crate::harness::seed());
    for round in 0..8 {
        for number in 0..8 {
            let payload = format!("{round}-{number}");
            tasks.push((client.submit(TaskSpec::new("slow").payload(payload.clone())).await.unwrap().id(), payload));
        }
        tokio::time::sleep(rng.millis(0, 300)).await;
        rig.sidecar_process("sidecar-1").kill9();
        rig.start_sidecar("sidecar-1");
    }
    let count = tasks.len();
    for (id, payload) in tasks {
        let (task, text) = rig.result(id).await;
        assert_eq!(text, payload, "{task:?}");
    }
    let ran = executions(&[&list]);
    assert!(ran.values().all(|times| *times == 1), "an attempt ran twice: {ran:?}");
    println!("tasks {count}, attempts begun {}", ran.len());
}

#[tokio::test]
async fn a_killed_agent_loses_its_attempts_and_they_are_tried_again() {
    let mut rig = Rig::new().await;
    rig.sidecar("sidecar-1", &[AgentDef::demo("demo-1")]).await;
    let payload = r#"{"sleep_ms": 1500}"#;
    let retried = rig.submit(TaskSpec::new("echo").payload(payload)).await.id();
    let hopeless = rig.submit(TaskSpec::new("echo").payload(r#"{"sleep_ms": 600000}"#).max_failures(1)).await.id();
    for id in [retried, hopeless] {
        rig.state(id, TaskState::Running).await;
    }
    let pid = rig.agent_process("demo-1").expect("the agent's process");
    signal(pid, Signal::KILL);
    let (task, text) = rig.result(retried).await;
    assert_eq!((text.as_str(), task.attempt, task.failures), (payload, 2, 1));
    let task = rig.ended(hopeless).await;
    assert_eq!((task.state(), task.reason(), task.attempt), (TaskState::Failed, TaskReason::AgentLost, 1), "{task:?}");
    assert_ne!(rig.agent_process("demo-1"), Some(pid), "another process took its place");
}

/// SIGTERM, and the sidecar has said that it takes no new work.
async fn told_to_stop(rig: &mut Rig) {
    let process = rig.sidecar_process("sidecar-1");
    process.signal(Signal::TERM);
    soon("the sidecar begins to stop", || process.log().contains("stopping: no new work")).await;
    eventually("no slot is free", LONG, || async {
        let agent = rig.client().get_agent("cmd-1").await.expect("the agent");
        if agent.free_slots.unwrap_or(0) == 0 { Ok(()) } else { Err(agent) }
    })
    .await;
}

#[tokio::test]
async fn a_sidecar_told_to_stop_finishes_its_work() {
    let mut rig = Rig::new().await;
    let gate = Gate::new(rig.path());
    rig.sidecar("sidecar-1", &[gate.agent("cmd-1"), AgentDef::demo("demo-1")]).await;
    let ours = rig.submit(TaskSpec::new("gated")).await.id();
    let sdk = rig.submit(TaskSpec::new("echo").payload(r#"{"sleep_ms": 1000}"#)).await.id();
    gate.begun(1).await;
    rig.state(sdk, TaskState::Running).await;
    told_to_stop(&mut rig).await;
    // It takes nothing new; another sidecar does.
    let later = rig.submit(TaskSpec::new("gated")).await.id();
    rig.sidecar("sidecar-2", &[gate.agent("cmd-2")]).await;
    gate.open();
    let (task, text) = rig.result(ours).await;
    assert_eq!((text.as_str(), task.attempt), ("cmd-1 1\n", 1));
    assert_eq!(rig.result(sdk).await.0.attempt, 1);
    let (task, text) = rig.result(later).await;
    assert_eq!((text.as_str(), task.attempt), ("cmd-2 1\n", 1));
    assert!(rig.sidecar_process("sidecar-1").wait(LONG).await.success());
}

#[tokio::test]
async fn a_sidecar_told_to_stop_twice_ends_its_work() {
    let mut rig = Rig::new().await;
    let gate = Gate::new(rig.path());
    rig.sidecar("sidecar-1", &[gate.agent("cmd-1")]).await;
    let task = rig.submit(TaskSpec::new("gated")).await.id();
    let pid = gate.begun(1).await;
    told_to_stop(&mut rig).await;
    let end = crate::harness::now() + LONG;
    // Two requests close together are one, so ask until it has gone.
    while rig.sidecar_process("sidecar-1").ended().is_none() {
        assert!(crate::harness::now() < end, "it did not end");
        rig.sidecar_process("sidecar-1").signal(Signal::TERM);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    soon("its program ends with it", || !alive(pid)).await;
    rig.sidecar("sidecar-2", &[gate.agent("cmd-2")]).await;
    gate.open();
    let (task, text) = rig.result(task).await;
    assert_eq!((text.as_str(), task.attempt), ("cmd-2 2\n", 2));
}
