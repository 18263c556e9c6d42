//! The verbs of `hive` against a real server: exit codes, and the three forms of output.

use std::process::Stdio;

use hive_sdk::client::TaskSpec;
use hive_sdk::proto::TaskState;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::harness::{AgentDef, Ended, HIVE, LONG, Rig, eventually, hive};
use crate::programs::Gate;

async fn rig() -> Rig {
    let mut rig = Rig::new().await;
    let gate = Gate::new(rig.path());
    rig.sidecar("sidecar-1", &[AgentDef::demo("demo-1"), gate.agent("cmd-1")]).await;
    rig
}

fn id_of(ended: &Ended) -> String {
    ended.out.trim().to_owned()
}

#[tokio::test]
async fn verbs_about_tasks() {
    let rig = rig().await;
    let id = id_of(
        &rig.hive(&["submit", "-c", "echo", "--payload", "hello", "--label", "a=b", "-o", "name"]).await.expect(0),
    );
    let waited = rig.hive(&["wait", &id, "-o", "json"]).await.expect(0).json_lines();
    assert_eq!((waited[0]["id"].as_str(), waited[0]["state"].as_str()), (Some(&*id), Some("TASK_STATE_SUCCEEDED")));
    // Bytes are base64 in proto JSON.
    assert_eq!(waited[0]["result"]["data"], "aGVsbG8=");

    let got = rig.hive(&["get", &id, "-o", "json"]).await.expect(0).json();
    assert_eq!(got, waited[0], "the same task in the same words");
    assert!(rig.hive(&["get", &id]).await.expect(0).out.contains("SUCCEEDED"));
    assert_eq!(id_of(&rig.hive(&["get", &id, "-o", "name"]).await.expect(0)), id);

    let listed = rig.hive(&["list", "--label", "a=b", "-o", "json"]).await.expect(0).json();
    assert_eq!(listed["tasks"][0]["id"], *id);
    assert!(listed["tasks"][0]["result"]["data"].is_null(), "a list leaves payloads and results out");
    assert_eq!(id_of(&rig.hive(&["list", "-o", "name"]).await.expect(0)), id);
    assert!(rig.hive(&["list", "--state", "failed"]).await.expect(0).out.is_empty());

    let events = rig.hive(&["watch", &id, "-o", "json"]).await.expect(0).json_lines();
    assert!(events.iter().any(|event| event.to_string().contains("TASK_STATE_SUCCEEDED")), "{events:?}");

    let shown = rig.hive(&["submit", "-c", "echo", "--payload", "now", "--wait"]).await.expect(0);
    assert!(shown.out.contains("now"), "{shown:?}");
    let failed = rig.hive(&["submit", "-c", "echo", "--payload", r#"{"fail": "it broke"}"#, "--wait"]).await.expect(6);
    assert!(failed.err.contains("it broke"), "{failed:?}");
}

#[tokio::test]
async fn verbs_about_agents_and_the_cluster() {
    let rig = rig().await;
    let agents = rig.hive(&["agents", "-o", "json"]).await.expect(0).json();
    let ids: Vec<_> = agents["agents"].as_array().unwrap().iter().map(|agent| agent["id"].clone()).collect();
    assert_eq!(ids, ["cmd-1", "demo-1"]);
    assert_eq!(rig.hive(&["agents", "-o", "name"]).await.expect(0).out, "cmd-1\ndemo-1\n");
    assert!(rig.hive(&["agents"]).await.expect(0).out.contains("READY"));
    assert_eq!(
        rig.hive(&["drain", "cmd-1", "-o", "json"]).await.expect(0).json()["desiredState"],
        "DESIRED_STATE_DRAINED"
    );
    assert_eq!(
        rig.hive(&["drain", "cmd-1", "--undo", "-o", "json"]).await.expect(0).json()["desiredState"],
        "DESIRED_STATE_ACTIVE"
    );
    assert_eq!(
        rig.hive(&["remove", "cmd-1", "-o", "json"]).await.expect(0).json()["desiredState"],
        "DESIRED_STATE_REMOVED"
    );
    let status = rig.hive(&["status", "-o", "json"]).await.expect(0).json();
    assert_eq!((status["store"]["kind"].as_str(), status["connectedSidecars"].as_u64()), (Some("embedded"), Some(1)));
    assert!(rig.hive(&["status"]).await.expect(0).out.contains("revision"));
}

#[tokio::test]
async fn exit_codes_say_what_went_wrong() {
    let rig = rig().await;
    let absent = rig.client().new_task_id().to_string();
    let refused = rig.hive(&["get", &absent]).await.expect(3);
    assert!(
        refused.out.is_empty() && refused.err.contains("TASK_NOT_FOUND") && refused.err.contains("next:"),
        "{refused:?}"
    );
    rig.hive(&["agents", "nobody"]).await.expect(3);
    rig.hive(&["wait", &absent]).await.expect(3);
    rig.hive(&["fly"]).await.expect(2);
    rig.hive(&["get", "not-an-id"]).await.expect(1);
    let open = rig.submit(TaskSpec::new("nobody-can")).await.id().to_string();
    rig.hive(&["wait", &open, "--timeout", "100ms"]).await.expect(4);
    rig.hive(&["cancel", &open]).await.expect(0);
    rig.hive(&["wait", &open]).await.expect(6);
    let nobody = hive(&["--server", "http://127.0.0.1:9", "--deadline", "1s", "status"]).await.expect(5);
    assert!(nobody.err.contains("hive dev"), "{nobody:?}");
    rig.hive(&["--namespace", "absent", "list"]).await.expect(3);
}

#[tokio::test]
async fn a_question_is_answered_from_the_shell() {
    let rig = rig().await;
    let id =
        id_of(&rig.hive(&["submit", "-c", "echo", "--payload", r#"{"ask": "Go on?"}"#, "-o", "name"]).await.expect(0));
    rig.state(id.parse().unwrap(), TaskState::InputRequired).await;
    assert!(rig.hive(&["get", &id]).await.expect(0).out.contains("Go on?"));
    rig.hive(&["input", &id, "--payload", "yes"]).await.expect(0);
    let done: Value = rig.hive(&["wait", &id, "-o", "json"]).await.expect(0).json();
    assert_eq!(done["result"]["data"], "eWVz");
}

#[tokio::test]
async fn a_wait_and_a_watch_outlast_a_crash_of_the_server() {
    let mut rig = rig().await;
    let id = rig.submit(TaskSpec::new("gated")).await.id().to_string();
    let args = [["wait", &id], ["watch", &id]];
    let [wait, watch] = args.map(|args| {
        let mut command = tokio::process::Command::new(HIVE);
        command.args(["--server", &rig.endpoint(), "-o", "json"]).args(args).stdin(Stdio::null()).kill_on_drop(true);
        command.stdout(Stdio::piped()).spawn().unwrap()
    });
    eventually("both hang on the server", LONG, || async {
        let waits = rig.metric(r#"hive_grpc_server_in_flight{service="hive.v1.TaskService",method="WaitTask"}"#).await;
        let watches = rig.metric("hive_watch_clients").await;
        if waits >= 1.0 && watches >= 1.0 { Ok(()) } else { Err((waits, watches)) }
    })
    .await;
    rig.crash_control_plane().await;
    std::fs::write(rig.path().join("gate/go"), "").unwrap();
    for child in [wait, watch] {
        let output =
            tokio::time::timeout(LONG, child.wait_with_output()).await.expect("it ends with the task").unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("TASK_STATE_SUCCEEDED"), "{output:?}");
    }
}

#[tokio::test]
async fn logs_are_followed_to_the_end() {
    let mut rig = Rig::new().await;
    let gate = Gate::new(rig.path());
    rig.sidecar("sidecar-1", &[gate.agent("cmd-1")]).await;
    let id = rig.submit(TaskSpec::new("gated")).await.id().to_string();
    gate.begun(1).await;
    let mut tail = tokio::process::Command::new(HIVE)
        .args(["--server", &rig.endpoint(), "logs", &id, "-f"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut err = BufReader::new(tail.stderr.take().unwrap()).lines();
    let mut out = BufReader::new(tail.stdout.take().unwrap()).lines();
    let line = tokio::time::timeout(LONG, err.next_line()).await.expect("in time").unwrap();
    assert_eq!(line.as_deref(), Some("begun 1"), "what is there is shown while it runs");
    gate.open();
    let line = tokio::time::timeout(LONG, err.next_line()).await.expect("in time").unwrap();
    assert_eq!(line.as_deref(), Some("done 1"));
    let line = tokio::time::timeout(LONG, out.next_line()).await.expect("in time").unwrap();
    assert_eq!(line.as_deref(), Some("cmd-1 1"));
    let status = tokio::time::timeout(LONG, tail.wait()).await.expect("it ends with the attempt").unwrap();
    assert!(status.success());
    // And without following, what is kept.
    let kept = rig.hive(&["logs", &id]).await.expect(0);
    assert_eq!((kept.out.as_str(), kept.err.as_str()), ("cmd-1 1\n", "begun 1\ndone 1\n"));
    let kept = rig.hive(&["logs", &id, "-o", "json"]).await.expect(0).json_lines();
    assert!(kept.iter().all(|chunk| chunk["stream"].as_str().is_some()), "{kept:?}");
}
