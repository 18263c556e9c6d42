//! One watch over all tasks, through all kills: what it is told of a task must only ever move
//! forward, and an end must be the end.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use hive_sdk::Client;
use hive_sdk::client::{Event, TaskExt as _, TaskFilter};
use hive_sdk::proto::Task;

use super::clients::Ledger;
use crate::harness::{LONG, eventually, spawn};

/// What was told of a task.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told {
    attempt: u32,
    /// The first end told: state, attempt, agent.
    pub(crate) end: Option<Task>,
    /// What went backwards, or changed after the end.
    pub(crate) faults: Vec<String>,
}

type Shared = Arc<Mutex<BTreeMap<String, Told>>>;

pub(crate) struct Watcher {
    told: Shared,
    running: tokio::task::JoinHandle<()>,
}

impl Watcher {
    pub(crate) fn start(client: Client) -> Self {
        let told = Shared::default();
        let writing = told.clone();
        let running = spawn(async move {
            let mut watch = client.watch(TaskFilter::default());
            while let Some(event) = watch.next().await {
                match event.expect("a watch goes on through kills") {
                    Event::Changed { item, .. } => hear(&writing, item),
                    Event::Deleted { id, .. } => {
                        let fault = "its record went away".to_owned();
                        writing.lock().expect("told").entry(id).or_default().faults.push(fault);
                    }
                    _ => {}
                }
            }
        });
        Self { told, running }
    }

    /// Tasks that have ended.
    pub(crate) fn ended(&self) -> usize {
        self.told.lock().expect("told").values().filter(|told| told.end.is_some()).count()
    }

    /// Waits until the end of every accepted task was told, and gives what was told.
    pub(crate) async fn finish(self, ledger: &Ledger) -> BTreeMap<String, Told> {
        let accepted: Vec<_> =
            ledger.all().into_iter().filter(|(_, entry)| entry.accepted).map(|(id, _)| id.to_string()).collect();
        eventually("the watch has told every end", LONG, || {
            let told = self.told.lock().expect("told");
            let open = accepted.iter().filter(|id| told.get(*id).is_none_or(|told| told.end.is_none())).count();
            async move { if open == 0 { Ok(()) } else { Err(format!("{open} ends were not told")) } }
        })
        .await;
        assert!(!self.running.is_finished(), "the watch broke off");
        self.running.abort();
        std::mem::take(&mut self.told.lock().expect("told"))
    }
}

fn hear(shared: &Shared, task: Task) {
    let mut all = shared.lock().expect("told");
    let told = all.entry(task.id.clone()).or_default();
    if task.attempt < told.attempt {
        told.faults.push(format!("attempt {} after {}", task.attempt, told.attempt));
    }
    told.attempt = told.attempt.max(task.attempt);
    match &told.end {
        Some(end) if (end.state, end.attempt, &end.agent_id) != (task.state, task.attempt, &task.agent_id) => {
            told.faults.push(format!("{:?} by attempt {} after its end {end:?}", task.state(), task.attempt));
        }
        None if task.is_terminal() => told.end = Some(task),
        _ => {}
    }
}
