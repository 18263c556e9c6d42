//! Full disks, on file systems small enough to fill. Needs root, to mount them.

use std::fs;
use std::path::Path;

use hive_sdk::client::TaskSpec;
use hive_sdk::proto::{self as v1, TaskState};

use super::{refused, serves, submission, submit, unwanted, waits};
use crate::clients::skip;
use crate::harness::{AgentDef, LONG, MIB, Rig, Small, eventually};

fn small(test: &str, at: &Path, mib: u64) -> Option<Small> {
    let mounted = Small::mount(at, mib);
    if mounted.is_none() {
        skip(test, "cannot mount a tmpfs to fill", "run the tests as root");
    }
    mounted
}

async fn shedding(rig: &Rig) -> bool {
    let status = rig.client().cluster().get_status(v1::GetStatusRequest::default()).await.expect("status");
    status.into_inner().store.expect("the store").shedding
}

/// A program that ends when `gate` is there.
fn gated(gate: &Path) -> AgentDef {
    let script = format!("while [ ! -e '{}' ]; do sleep 0.02; done; cat", gate.display());
    AgentDef::script("gated", &["gated"], &script)
}

#[tokio::test]
async fn a_full_disk_at_the_server_loses_nothing() {
    let mut rig = Rig::folder(&[("store.min_free", "8MiB"), ("store.ballast", "2MiB")]);
    let data = rig.data();
    let Some(disk) = small("a_full_disk_at_the_server_loses_nothing", &data, 32) else { return };
    rig.start_control_plane().await;
    let gates = [rig.path().join("gate-1"), rig.path().join("gate-2")];
    rig.sidecar("s1", &[gated(&gates[0])]).await;
    let agent = AgentDef::script(
        "late",
        &["late"],
        &format!("while [ ! -e '{}' ]; do sleep 0.02; done; cat", gates[1].display()),
    );
    rig.sidecar("s2", &[agent]).await;
    let first = rig.submit(TaskSpec::new("gated").payload("first")).await.id();
    let second = rig.submit(TaskSpec::new("late").payload("second")).await.id();
    let accepted = v1::SubmitTaskRequest { task_id: rig.client().new_task_id().to_string(), ..submission(unwanted()) };
    let pending = submit(&rig, accepted.clone()).await.expect("a task").id;
    for id in [first, second] {
        rig.until(id, "assigned", |task| task.attempt == 1).await;
    }

    // Low: nothing new, and what runs goes on to its end.
    let filler = disk.fill(6 * MIB);
    eventually("the shortage is noticed", LONG, || {
        let shedding = shedding(&rig);
        async move { shedding.await.then_some(()).ok_or("not yet") }
    })
    .await;
    waits(&refused(submit(&rig, submission(unwanted())).await, "STORE_LOW_SPACE"));
    // A repeat of what was accepted is found, not refused.
    assert_eq!(submit(&rig, accepted).await.expect("the same task").id, pending);
    let batch = v1::SubmitTasksRequest { tasks: vec![submission(unwanted())], ..Default::default() };
    let results = rig.client().tasks().submit_tasks(batch).await.expect("an answer per item").into_inner().results;
    assert!(matches!(results[0].result, Some(v1::submit_task_result::Result::Error(_))), "{results:?}");
    fs::write(&gates[0], "").expect("open the gate");
    assert_eq!(rig.result(first).await.1, "first");

    // Full: an end that cannot be kept is not lost but brought again.
    disk.fill(0);
    fs::write(&gates[1], "").expect("open the gate");
    let get = v1::GetTaskRequest { task_id: pending.clone(), ..Default::default() };
    rig.client().tasks().get_task(get).await.expect("a read from a full disk");
    fs::remove_file(&filler).expect("free the disk");
    assert_eq!(rig.result(second).await.1, "second");
    eventually("submissions are taken again", LONG, || {
        let again = submit(&rig, submission(unwanted()));
        async move { again.await.map(|_| ()) }
    })
    .await;
    serves(&rig).await;

    // And all of it is on the disk.
    rig.crash_control_plane().await;
    for (id, text) in [(first, "first"), (second, "second")] {
        assert_eq!(rig.result(id).await.1, text);
    }
    assert_eq!(rig.client().get(pending.parse().expect("an id")).await.expect("a task").state(), TaskState::Pending);
}

#[tokio::test]
async fn a_full_disk_at_a_sidecar_takes_no_work_and_loses_none() {
    let mut rig = Rig::new().await;
    let state = rig.path().join("s1/state");
    let Some(disk) = small("a_full_disk_at_a_sidecar_takes_no_work_and_loses_none", &state, 160) else { return };
    let gate = rig.path().join("gate");
    rig.sidecar("s1", &[gated(&gate)]).await;
    let running = rig.submit(TaskSpec::new("gated").payload("running")).await.id();
    rig.until(running, "assigned", |task| task.attempt == 1).await;
    rig.state(running, TaskState::Running).await;

    let filler = disk.fill(64 * MIB);
    let waiting = rig.submit(TaskSpec::new("gated").payload("waiting")).await.id();
    // It never starts there; it may be offered and handed back, which counts as no failure.
    let log = rig.path().join("s1.log");
    eventually("the sidecar says that its journal is full", LONG, || {
        let said = fs::read_to_string(&log).unwrap_or_default().contains("taking no work");
        async move { said.then_some(()).ok_or("nothing") }
    })
    .await;
    fs::write(&gate, "").expect("open the gate");
    // What ran is reported all the same.
    assert_eq!(rig.result(running).await.1, "running");
    let task = rig.client().get(waiting).await.expect("a task");
    assert!(!task.is_terminal_state() && task.failures == 0, "{task:?}");

    fs::remove_file(&filler).expect("free the disk");
    assert_eq!(rig.result(waiting).await.1, "waiting");
    let attempts = rig.client().get(waiting).await.expect("a task").attempt;
    assert!(attempts < 100, "handed back and offered again {attempts} times: it ought to take none");
}

trait Terminal {
    fn is_terminal_state(&self) -> bool;
}

impl Terminal for v1::Task {
    fn is_terminal_state(&self) -> bool {
        use TaskState::{Cancelled, Expired, Failed, Succeeded};
        matches!(self.state(), Cancelled | Expired | Failed | Succeeded)
    }
}
