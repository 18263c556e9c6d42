//! Clients that submit without pause and write down what they know: what they offered, whether it
//! was accepted, and the first result they were told.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hive_proto::v1;
use hive_sdk::Client;
use hive_sdk::client::{TaskExt as _, TaskId};
use hive_sdk::proto::Task;

use crate::harness::{Rng, spawn};

/// What a client knows of a task.
#[derive(Debug, Clone, Default)]
pub(crate) struct Entry {
    /// The payload, which both kinds of agent give back.
    pub(crate) payload: String,
    /// SubmitTask has answered OK.
    pub(crate) accepted: bool,
    /// Calls made; more than one means that the first had no answer.
    pub(crate) calls: u32,
    /// The end that a wait was told first.
    pub(crate) first: Option<Task>,
}

/// All tasks ever offered.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<BTreeMap<TaskId, Entry>>);

impl Ledger {
    pub(crate) fn write(&self, id: TaskId, change: impl FnOnce(&mut Entry)) {
        change(self.0.lock().expect("the ledger").entry(id).or_default());
    }

    pub(crate) fn all(&self) -> BTreeMap<TaskId, Entry> {
        self.0.lock().expect("the ledger").clone()
    }
}

/// Submits until told to stop; tries again after a lost answer, or, now and then, never learns.
pub(crate) async fn submit(endpoint: String, seed: u64, ledger: Arc<Ledger>, stop: Arc<AtomicBool>) {
    let client =
        Client::builder().endpoint(endpoint).timeout(Duration::from_secs(60)).connect_lazy().expect("a client");
    let mut rng = Rng(seed);
    let mut waits = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let id = client.new_task_id();
        let capability = if rng.within(0, 9) < 8 { "sdk" } else { "cmd" };
        let payload = format!(r#"{{"task": "{id}", "sleep_ms": {}}}"#, rng.within(0, 400));
        ledger.write(id, |entry| entry.payload = payload.clone());
        let request = v1::SubmitTaskRequest {
            namespace: String::new(),
            task_id: id.to_string(),
            spec: Some(v1::TaskSpec {
                capabilities: vec![capability.to_owned()],
                payload: Some(v1::Payload { data: payload.into(), content_type: "application/json".to_owned() }),
                ..Default::default()
            }),
        };
        let gives_up = rng.within(0, 9) == 0;
        loop {
            ledger.write(id, |entry| entry.calls += 1);
            let mut tasks = client.tasks();
            let call = tasks.submit_task(request.clone());
            match tokio::time::timeout(Duration::from_secs(5), call).await {
                Ok(Ok(_)) => {
                    ledger.write(id, |entry| entry.accepted = true);
                    break;
                }
                // Nothing is known: it may or may not be accepted.
                Ok(Err(_)) | Err(_) if gives_up => break,
                Ok(Err(_)) | Err(_) => tokio::time::sleep(rng.millis(5, 50)).await,
            }
        }
        if rng.within(0, 3) == 0 && ledger.all().get(&id).is_some_and(|entry| entry.accepted) {
            waits.push(spawn(wait(client.clone(), id, ledger.clone())));
        }
        tokio::time::sleep(rng.millis(5, 60)).await;
    }
    for wait in waits {
        wait.await.expect("a wait");
    }
}

async fn wait(client: Client, id: TaskId, ledger: Arc<Ledger>) {
    let task = client.wait(id, Duration::from_secs(120)).await.expect("the task's end");
    assert!(task.is_terminal());
    ledger.write(id, |entry| entry.first = Some(task));
}
