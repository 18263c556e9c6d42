//! The rig itself: a task goes through, by an SDK agent and by a command.

use hive_sdk::client::TaskSpec;

use crate::harness::{AgentDef, Rig};

#[tokio::test]
async fn a_task_goes_through() {
    let mut rig = Rig::new().await;
    let log = rig.path().join("ran");
    let agents = [
        AgentDef::logging("sdk-1", &["echo"], &log),
        AgentDef::script("cmd-1", &["shout"], "tr a-z A-Z"),
        AgentDef::demo("demo-1"),
    ];
    rig.sidecar("sidecar-1", &agents).await;
    for (capability, result) in [("echo", "hello"), ("shout", "HELLO")] {
        let task = rig.submit(TaskSpec::new(capability).payload("hello")).await;
        let (task, text) = rig.result(task.id()).await;
        assert_eq!((text.as_str(), task.attempt), (result, 1));
    }
}
