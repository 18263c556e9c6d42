//! Python's gRPC: knows no `.proto`, builds every message from what reflection v1alpha tells.

use std::process::Stdio;

use super::program;
use crate::harness::{AgentDef, LONG, Rig};

#[tokio::test]
async fn python_submits_waits_watches_lists_and_reads_errors() {
    let test = "python_submits_waits_watches_lists_and_reads_errors";
    let Some(python) = program(test, "python/bin/python3") else { return };
    let mut rig = Rig::new().await;
    rig.sidecar("s1", &[AgentDef::script("shouter", &["shout"], "tr a-z A-Z")]).await;
    let mut command = tokio::process::Command::new(python);
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/clients/client.py"));
    command.arg(rig.endpoint().replace("http://", "")).stdin(Stdio::null()).kill_on_drop(true);
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    let output = tokio::time::timeout(LONG, command.output()).await.expect("python to end").expect("run python");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    assert!(text(&output.stdout).ends_with("all well\n"), "{}", text(&output.stdout));
}
