//! Sidecars that are cut off: SUSPECT at once, LOST after the grace, their work by its policy, and
//! what they bring when they are back.

use std::time::Duration;

use hive_sdk::client::{DisconnectPolicy, TaskSpec};
use hive_sdk::proto::{AgentPhase, TaskReason, TaskState};
use rustix::process::Signal;

use crate::harness::{AgentDef, LONG, LOSES, Rig, alive, eventually, signal, soon};
use crate::programs::Gate;

#[tokio::test]
async fn replace_takes_over_from_a_frozen_sidecar() {
    let mut rig = Rig::with(LOSES).await;
    let gate = Gate::new(rig.path());
    rig.sidecar("sidecar-1", &[gate.agent("cmd-1")]).await;
    let id = rig.submit(TaskSpec::new("gated")).await.id();
    gate.begun(1).await;
    rig.sidecar("sidecar-2", &[gate.agent("cmd-2")]).await;

    rig.sidecar_process("sidecar-1").pause();
    rig.phase("cmd-1", AgentPhase::Suspect).await;
    let during = rig.client().get(id).await.unwrap();
    assert_eq!((during.attempt, during.agent_id.as_str()), (1, "cmd-1"), "nothing moves before the grace");
    rig.phase("cmd-1", AgentPhase::Lost).await;
    gate.begun(2).await;
    gate.open();
    let (task, text) = rig.result(id).await;
    assert_eq!((text.as_str(), task.attempt), ("cmd-2 2\n", 2));

    // The old copy has ended meanwhile. Whether its sidecar says so or says hello first is a race.
    soon("the old copy ends", || gate.read("pid-1").trim().parse().is_ok_and(|pid| !alive(pid))).await;
    rig.sidecar_process("sidecar-1").resume();
    rig.phase("cmd-1", AgentPhase::Ready).await;
    assert_eq!(rig.client().get(id).await.unwrap(), task, "an ended task never changes");
    assert_eq!(gate.runs(), 2);
}

#[tokio::test]
async fn a_late_result_is_refused_and_counted() {
    let mut rig = Rig::with(LOSES).await;
    let gate = Gate::new(rig.path());
    let wire = rig.sidecar_by_wire("sidecar-1", &[gate.agent("cmd-1")]).await;
    let id = rig.submit(TaskSpec::new("gated")).await.id();
    let old = gate.begun(1).await;
    rig.sidecar("sidecar-2", &[gate.agent("cmd-2")]).await;
    wire.cut();
    gate.begun(2).await;
    gate.open();
    let (task, _) = rig.result(id).await;
    soon("the old copy ends", || !alive(old)).await;
    wire.mend();
    eventually("the late result is refused and counted", LONG, || async {
        let refused = rig.metric(r#"hive_results_refused_total{reason="superseded"}"#).await;
        if refused > 0.0 { Ok(()) } else { Err(refused) }
    })
    .await;
    assert_eq!(rig.client().get(id).await.unwrap(), task, "an ended task never changes");
    assert_eq!(task.attempt, 2);
}

#[tokio::test]
async fn replace_stops_the_old_copy_when_it_is_seen_again() {
    let mut rig = Rig::with(LOSES).await;
    let gate = Gate::new(rig.path());
    let wire = rig.sidecar_by_wire("sidecar-1", &[gate.agent("cmd-1")]).await;
    let id = rig.submit(TaskSpec::new("gated")).await.id();
    let old = gate.begun(1).await;
    rig.sidecar("sidecar-2", &[gate.agent("cmd-2")]).await;
    wire.cut();
    let new = gate.begun(2).await;
    assert!(alive(old), "a cut-off copy works on");
    wire.mend();
    soon("the old copy is stopped", || !alive(old)).await;
    assert!(alive(new));
    gate.open();
    let (task, text) = rig.result(id).await;
    assert_eq!((text.as_str(), task.attempt), ("cmd-2 2\n", 2));
    rig.phase("cmd-1", AgentPhase::Ready).await;
}

#[tokio::test]
async fn a_cut_shorter_than_the_grace_changes_nothing() {
    let mut rig = Rig::with(&[("session.lost", "60s")]).await;
    let gate = Gate::new(rig.path());
    let wire = rig.sidecar_by_wire("sidecar-1", &[gate.agent("cmd-1")]).await;
    let id = rig.submit(TaskSpec::new("gated")).await.id();
    let pid = gate.begun(1).await;
    rig.sidecar("sidecar-2", &[gate.agent("cmd-2")]).await;
    wire.cut();
    rig.phase("cmd-1", AgentPhase::Suspect).await;
    gate.open();
    soon("the cut-off copy ends", || !alive(pid)).await;
    wire.mend();
    let (task, text) = rig.result(id).await;
    assert_eq!((text.as_str(), task.attempt, gate.runs()), ("cmd-1 1\n", 1, 1));
}

#[tokio::test]
async fn wait_is_never_replaced() {
    let mut rig = Rig::with(LOSES).await;
    let gate = Gate::new(rig.path());
    rig.sidecar("sidecar-1", &[gate.agent("cmd-1")]).await;
    let wait = |spec: TaskSpec| spec.on_disconnect(DisconnectPolicy::Wait);
    let patient = rig.submit(wait(TaskSpec::new("gated"))).await.id();
    let pid = gate.begun(1).await;
    let limited = rig.submit(wait(TaskSpec::new("gated").attempt_timeout(Duration::from_secs(6)))).await.id();
    rig.state(limited, TaskState::Running).await;
    rig.sidecar("sidecar-2", &[gate.agent("cmd-2")]).await;
    rig.sidecar_process("sidecar-1").pause();
    rig.phase("cmd-1", AgentPhase::Lost).await;
    let task = rig.ended(limited).await;
    assert_eq!((task.state(), task.reason(), task.attempt), (TaskState::Failed, TaskReason::AgentLost, 1), "{task:?}");
    assert!(alive(pid));
    gate.open();
    soon("the copy ends", || !alive(pid)).await;
    let task = rig.client().get(patient).await.unwrap();
    assert_eq!((task.attempt, task.agent_id.as_str()), (1, "cmd-1"), "{task:?}");
    rig.sidecar_process("sidecar-1").resume();
    let (task, text) = rig.result(patient).await;
    assert_eq!((text.as_str(), task.attempt), ("cmd-1 1\n", 1));
}

#[tokio::test]
async fn stop_never_runs_two_copies() {
    /// Says whether the copy before it still runs.
    const LOOKS: &str = r#"
echo $$ > "$GATE/pid-$HIVE_ATTEMPT"
: > "$GATE/begun-$HIVE_ATTEMPT"
if [ "$HIVE_ATTEMPT" -gt 1 ]; then
  if kill -0 "$(cat "$GATE/pid-$((HIVE_ATTEMPT - 1))")" 2>/dev/null; then echo overlap; else echo alone; fi
  exit 0
fi
while :; do sleep 0.05; done
"#;
    let mut rig = Rig::with(LOSES).await;
    let gate = Gate::new(rig.path());
    let wire = rig.sidecar_by_wire("sidecar-1", &[gate.script("cmd-1", LOOKS)]).await;
    let spec = TaskSpec::new("gated").on_disconnect(DisconnectPolicy::Stop);
    let id = rig.submit(spec).await.id();
    let old = gate.begun(1).await;
    rig.sidecar("sidecar-2", &[gate.script("cmd-2", LOOKS)]).await;
    wire.cut();
    soon("the sidecar stops its copy by itself", || !alive(old)).await;
    let (task, text) = rig.result(id).await;
    assert_eq!((text.as_str(), task.attempt), ("alone\n", 2));
    wire.mend();
    rig.phase("cmd-1", AgentPhase::Ready).await;
    assert_eq!(rig.client().get(id).await.unwrap(), task);
}

#[tokio::test]
async fn a_control_plane_that_slept_blames_nobody() {
    let mut rig = Rig::with(LOSES).await;
    let gate = Gate::new(rig.path());
    rig.sidecar("sidecar-1", &[gate.agent("cmd-1")]).await;
    rig.sidecar("sidecar-2", &[gate.agent("cmd-2")]).await;
    let id = rig.submit(TaskSpec::new("gated")).await.id();
    gate.begun(1).await;
    rig.control_plane().pause();
    // Longer than the grace: this is the time that passes, not a wait for something.
    tokio::time::sleep(Duration::from_secs(5)).await;
    rig.control_plane().resume();
    for agent in ["cmd-1", "cmd-2"] {
        rig.phase(agent, AgentPhase::Ready).await;
    }
    gate.open();
    let (task, _) = rig.result(id).await;
    assert_eq!((task.attempt, gate.runs()), (1, 1));
    assert_eq!(rig.metric("hive_agents_lost_total").await, 0.0);
}

#[tokio::test]
async fn a_machine_that_slept_goes_on_where_it_was() {
    let mut rig = Rig::with(LOSES).await;
    let gate = Gate::new(rig.path());
    rig.sidecar("sidecar-1", &[gate.agent("cmd-1"), AgentDef::demo("demo-1")]).await;
    rig.sidecar("sidecar-2", &[gate.agent("cmd-2"), AgentDef::demo("demo-2")]).await;
    let command = rig.submit(TaskSpec::new("gated")).await.id();
    let sdk = rig.submit(TaskSpec::new("echo").payload(r#"{"sleep_ms": 3000}"#)).await.id();
    gate.begun(1).await;
    rig.state(sdk, TaskState::Running).await;
    let all: Vec<u32> = rig.processes().into_iter().map(|(pid, _)| pid).collect();
    all.iter().for_each(|pid| signal(*pid, Signal::STOP));
    // Longer than the grace: this is the time that passes, not a wait for something.
    tokio::time::sleep(Duration::from_secs(5)).await;
    all.iter().for_each(|pid| signal(*pid, Signal::CONT));
    gate.open();
    assert_eq!(rig.result(command).await.0.attempt, 1);
    assert_eq!(rig.result(sdk).await.0.attempt, 1);
    assert_eq!(rig.metric("hive_agents_lost_total").await, 0.0);
}
