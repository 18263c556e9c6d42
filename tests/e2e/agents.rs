//! Agents by an operator's will: drained, removed, brought back.

use hive_sdk::client::TaskSpec;
use hive_sdk::proto::{AgentPhase, AgentSpec, TaskState};

use crate::harness::{AgentDef, LONG, Rig, alive, soon};
use crate::programs::Gate;

#[tokio::test]
async fn a_drained_agent_finishes_and_takes_nothing_new() {
    let mut rig = Rig::new().await;
    let gate = Gate::new(rig.path());
    rig.sidecar("sidecar-1", &[gate.agent("cmd-1")]).await;
    let client = rig.client();
    let running = rig.submit(TaskSpec::new("gated")).await.id();
    gate.begun(1).await;
    client.drain_agent("cmd-1", false).await.unwrap();
    rig.phase("cmd-1", AgentPhase::Draining).await;
    let waiting = rig.submit(TaskSpec::new("gated")).await.id();
    gate.open();
    assert_eq!(rig.result(running).await.0.attempt, 1);
    rig.phase("cmd-1", AgentPhase::Drained).await;
    assert_eq!(client.get(waiting).await.unwrap().state(), TaskState::Pending);
    // A level, not an event: it holds through restarts of both sides.
    rig.crash_control_plane().await;
    rig.sidecar_process("sidecar-1").kill9();
    rig.start_sidecar("sidecar-1");
    rig.phase("cmd-1", AgentPhase::Drained).await;
    assert_eq!(client.get(waiting).await.unwrap().state(), TaskState::Pending);
    client.drain_agent("cmd-1", true).await.unwrap();
    assert_eq!(rig.result(waiting).await.0.attempt, 1);
}

#[tokio::test]
async fn a_removed_agent_finishes_first_and_can_come_back() {
    let mut rig = Rig::new().await;
    let gate = Gate::new(rig.path());
    rig.sidecar("sidecar-1", &[gate.agent("cmd-1"), AgentDef::demo("demo-1")]).await;
    let client = rig.client();
    let running = rig.submit(TaskSpec::new("gated")).await.id();
    gate.begun(1).await;
    client.remove_agent("cmd-1", false).await.unwrap();
    let waiting = rig.submit(TaskSpec::new("gated")).await.id();
    gate.open();
    assert_eq!(rig.result(running).await.0.attempt, 1);
    rig.phase("cmd-1", AgentPhase::Gone).await;
    assert_eq!(client.drain_agent("cmd-1", true).await.unwrap_err().reason(), Some("AGENT_REMOVED"));
    assert_eq!(client.get(waiting).await.unwrap().state(), TaskState::Pending);
    let spec = AgentSpec { capabilities: vec!["gated".into()], slots: 4, ..Default::default() };
    client.register_agent("cmd-1", spec).await.unwrap();
    rig.phase("cmd-1", AgentPhase::Ready).await;
    assert_eq!(rig.result(waiting).await.0.attempt, 1);

    // An SDK agent goes and comes back, also when its sidecar was started anew meanwhile.
    client.remove_agent("demo-1", false).await.unwrap();
    rig.phase("demo-1", AgentPhase::Gone).await;
    rig.sidecar_process("sidecar-1").kill9();
    rig.start_sidecar("sidecar-1");
    rig.phase("cmd-1", AgentPhase::Ready).await;
    rig.phase("demo-1", AgentPhase::Gone).await;
    client.restore_agent("demo-1").await.unwrap();
    rig.phase("demo-1", AgentPhase::Ready).await;
    let task = rig.submit(TaskSpec::new("echo").payload("back")).await.id();
    assert_eq!(rig.result(task).await.1, "back");
}

#[tokio::test]
async fn removal_by_force_ends_what_runs_and_another_takes_it() {
    let mut rig = Rig::new().await;
    let gate = Gate::new(rig.path());
    rig.sidecar("sidecar-1", &[gate.agent("cmd-1")]).await;
    let id = rig.submit(TaskSpec::new("gated")).await.id();
    let pid = gate.begun(1).await;
    rig.client().remove_agent("cmd-1", true).await.unwrap();
    soon("its program ends", || !alive(pid)).await;
    rig.phase("cmd-1", AgentPhase::Gone).await;
    let task = rig.client().get(id).await.unwrap();
    assert_eq!((task.state(), task.failures), (TaskState::Pending, 0), "not the task's fault: {task:?}");
    rig.sidecar("sidecar-2", &[gate.agent("cmd-2")]).await;
    gate.open();
    let (task, text) = rig.result(id).await;
    assert_eq!((text.as_str(), task.attempt), ("cmd-2 2\n", 2));
}

#[tokio::test]
async fn an_agent_declared_twice_costs_a_sidecar_no_other() {
    let mut rig = Rig::new().await;
    let agent = |id: &str| AgentDef::script(id, &[id], "echo $HIVE_AGENT_ID");
    rig.sidecar("sidecar-1", &[agent("cmd-1")]).await;
    rig.declare_sidecar("sidecar-2", &[agent("cmd-1"), agent("cmd-2")]);
    rig.start_sidecar("sidecar-2");
    let work = async |rig: &Rig, capability: &str| {
        let id = rig.submit(TaskSpec::new(capability)).await.id();
        rig.result(id).await.1
    };
    assert_eq!(work(&rig, "cmd-2").await, "cmd-2\n");
    assert_eq!(work(&rig, "cmd-1").await, "cmd-1\n");
    let said = rig.sidecar_process("sidecar-2").log();
    assert!(said.contains("another sidecar hosts this agent"), "{said}");
    // When its host lets it go, the other one takes it over.
    assert!(rig.sidecar_process("sidecar-1").terminate(LONG).await.success());
    assert_eq!(work(&rig, "cmd-1").await, "cmd-1\n");
}

#[tokio::test]
async fn an_agent_taken_out_of_the_file_leaves_nothing_running() {
    let mut rig = Rig::new().await;
    let gate = Gate::new(rig.path());
    rig.sidecar("sidecar-1", &[gate.agent("cmd-1"), AgentDef::demo("demo-1"), AgentDef::demo("demo-2")]).await;
    let task = rig.submit(TaskSpec::new("gated")).await.id();
    let program = gate.begun(1).await;
    let process = rig.agent_process("demo-1").expect("the agent's process");
    rig.sidecar_process("sidecar-1").kill9();
    rig.sidecar("sidecar-1", &[AgentDef::demo("demo-2")]).await;
    soon("the program and the agent's process end", || !alive(program) && !alive(process)).await;
    // What it ran is tried elsewhere.
    rig.sidecar("sidecar-2", &[gate.agent("cmd-2")]).await;
    gate.begun(2).await;
    gate.open();
    assert_eq!(rig.result(task).await.1, "cmd-2 2\n");
}
