//! `buf curl --protocol grpc`: finds the services by reflection v1 and speaks JSON.

use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tonic_types::pb;

use super::program;
use crate::harness::{AgentDef, LONG, Rig};

struct Buf<'a> {
    program: &'a Path,
    endpoint: String,
}

/// What it wrote, and whether it was content.
struct Said {
    out: String,
    err: String,
    ok: bool,
}

impl Buf<'_> {
    fn command(&self, args: &[String]) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(self.program);
        command.arg("curl").args(args).stdin(Stdio::null()).kill_on_drop(true);
        // Nothing of this machine's, and nothing left on it.
        command.env("BUF_CACHE_DIR", std::env::temp_dir().join("hive-e2e-buf")).current_dir(std::env::temp_dir());
        command
    }

    async fn run(&self, args: &[String]) -> Said {
        let output = self.command(args).output();
        let output = tokio::time::timeout(LONG, output).await.expect("buf to end").expect("run buf");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        Said { out: text(output.stdout), err: text(output.stderr), ok: output.status.success() }
    }

    /// What reflection names: `--list-services` or `--list-methods`.
    async fn list(&self, what: &str) -> Vec<String> {
        let args =
            ["--protocol", "grpc", "--http2-prior-knowledge", "--reflect-protocol", "grpc-v1", what, &self.endpoint];
        let said = self.run(&args.map(ToOwned::to_owned)).await;
        assert!(said.ok, "{}", said.err);
        let mut names: Vec<_> = said.out.lines().map(ToOwned::to_owned).collect();
        names.sort_unstable();
        names
    }

    fn request(&self, method: &str, request: &Value) -> [String; 7] {
        let (data, url) = (request.to_string(), format!("{}/{method}", self.endpoint));
        ["--protocol", "grpc", "--reflect-protocol", "grpc-v1", "-d", &data, &url].map(ToOwned::to_owned)
    }

    /// Calls a method that must answer once.
    async fn one(&self, method: &str, request: &Value) -> Value {
        let said = self.run(&self.request(method, request)).await;
        assert!(said.ok, "{method}: {}\n{}", said.err, said.out);
        let mut answers = values(&said.out);
        assert_eq!(answers.len(), 1, "{answers:?}");
        answers.remove(0)
    }

    /// A call that must be refused: what it says of that.
    async fn refused(&self, method: &str, request: &Value) -> Value {
        let said = self.run(&self.request(method, request)).await;
        assert!(!said.ok, "{method} was not refused: {}", said.out);
        let from = said.err.find('{').unwrap_or_else(|| panic!("no JSON in {}", said.err));
        serde_json::from_str(&said.err[from..]).unwrap_or_else(|error| panic!("{error}: {}", said.err))
    }
}

/// JSON values, one after the other.
fn values(text: &str) -> Vec<Value> {
    let values = serde_json::Deserializer::from_str(text).into_iter();
    values.collect::<Result<_, _>>().unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// One of the details of a refusal; buf hands them on in base64.
fn detail<M: prost::Message + Default>(refusal: &Value, kind: &str) -> M {
    let details = refusal["details"].as_array().unwrap_or_else(|| panic!("no details in {refusal}"));
    let found = details.iter().find(|detail| detail["type"] == format!("google.rpc.{kind}"));
    let found = found.unwrap_or_else(|| panic!("no {kind} in {refusal}"));
    M::decode(&base64(found["value"].as_str().expect("base64"))[..]).expect("a detail that decodes")
}

/// The code and the reason of a refusal.
fn reason(refusal: &Value) -> (String, String) {
    let info: pb::ErrorInfo = detail(refusal, "ErrorInfo");
    assert_eq!(info.domain, "hive");
    (refusal["code"].as_str().expect("a code").to_owned(), info.reason)
}

fn base64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bytes, mut held, mut bits) = (Vec::new(), 0_usize, 0);
    for digit in text.bytes().filter_map(|byte| DIGITS.iter().position(|digit| *digit == byte)) {
        held = held << 6 | digit;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits & 0xff) as u8);
        }
    }
    bytes
}

#[tokio::test]
async fn buf_lists_describes_calls_streams_and_reads_errors() {
    let Some(program) = program("buf_lists_describes_calls_streams_and_reads_errors", "bin/buf") else { return };
    let mut rig = Rig::with(&[("limits.pending_tasks", "1")]).await;
    let buf = Buf { program: &program, endpoint: rig.endpoint() };

    let services = [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "hive.sidecar.v1.SidecarService",
        "hive.v1.AgentService",
        "hive.v1.ClusterService",
        "hive.v1.TaskService",
    ];
    assert_eq!(buf.list("--list-services").await, services);
    let methods = buf.list("--list-methods").await;
    let of = |service: &str| methods.iter().filter(|method| method.starts_with(&format!("hive.v1.{service}/"))).count();
    assert_eq!([of("TaskService"), of("AgentService"), of("ClusterService")], [10, 7, 3], "{methods:?}");

    let health = buf.one("grpc.health.v1.Health/Check", &json!({"service": "hive.v1.TaskService"})).await;
    assert_eq!(health["status"], "SERVING");

    // Nobody there yet: the one task there is room for waits, the next is told when to come again.
    let spec = json!({"capabilities": ["shout"], "payload": {"data": "aGl2ZQ==", "contentType": "text/plain"}});
    let submitted = buf.one("hive.v1.TaskService/SubmitTask", &json!({"spec": spec})).await;
    let id = submitted["task"]["id"].as_str().expect("an id").to_owned();
    assert_eq!(submitted["task"]["state"], "TASK_STATE_PENDING");
    let refusal = buf.refused("hive.v1.TaskService/SubmitTask", &json!({"spec": spec})).await;
    assert_eq!(reason(&refusal), ("resource_exhausted".to_owned(), "PENDING_LIMIT".to_owned()));
    let delay = detail::<pb::RetryInfo>(&refusal, "RetryInfo").retry_delay;
    assert_eq!(delay.map(|delay| delay.seconds), Some(5));
    let refusal = buf.refused("hive.v1.TaskService/SubmitTask", &json!({"spec": {}})).await;
    assert_eq!(reason(&refusal), ("invalid_argument".to_owned(), "INVALID_FIELD".to_owned()));
    let violations = detail::<pb::BadRequest>(&refusal, "BadRequest").field_violations;
    assert_eq!(violations[0].field, "spec.capabilities");

    // Somebody comes while we watch; the stream tells all of it and ends with the task.
    let mut watch = buf.command(&buf.request("hive.v1.TaskService/WatchTask", &json!({"taskId": id})));
    let mut watch = watch.stdout(Stdio::piped()).spawn().expect("run buf");
    let mut lines = BufReader::new(watch.stdout.take().expect("its output")).lines();
    let mut told = String::new();
    let mut served = false;
    while let Some(line) = tokio::time::timeout(LONG, lines.next_line()).await.expect("an event").expect("a line") {
        if line.contains("TASK_EVENT_KIND_SYNC") {
            rig.sidecar("s1", &[AgentDef::script("shouter", &["shout"], "tr a-z A-Z")]).await;
            served = true;
        }
        told += &line;
    }
    assert!(served && watch.wait().await.expect("buf to end").success(), "{told}");
    let events = values(&told);
    let kinds: Vec<_> = events.iter().filter_map(|event| event["event"]["kind"].as_str()).collect();
    assert_eq!(kinds[0], "TASK_EVENT_KIND_SNAPSHOT");
    assert!(kinds.contains(&"TASK_EVENT_KIND_SYNC"), "{kinds:?}");
    let last = &events.iter().rfind(|event| event["event"].get("task").is_some()).expect("a task")["event"]["task"];
    assert_eq!((&last["state"], &last["agentId"]), (&json!("TASK_STATE_SUCCEEDED"), &json!("shouter")), "{events:?}");

    let done = buf.one("hive.v1.TaskService/WaitTask", &json!({"taskId": id, "timeout": "10s"})).await;
    assert_eq!((&done["done"], &done["task"]["result"]["data"]), (&json!(true), &json!("SElWRQ==")), "{done}");
    let refusal = buf.refused("hive.v1.TaskService/CancelTask", &json!({"taskId": id})).await;
    assert_eq!(reason(&refusal), ("failed_precondition".to_owned(), "TASK_TERMINAL".to_owned()));
}
