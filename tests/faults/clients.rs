//! Clients that submit without pause, read, wait and cancel, and write down each call.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hive_proto::v1;
use hive_sdk::Client;
use hive_sdk::client::{Event, TaskFilter};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::harness::{Rng, spawn, uptime_us};
use crate::history::{Call, Op, Outcome};
use crate::recorder::{Recorder, view};

/// One call may take so long; then its outcome is unknown.
const PATIENCE: Duration = Duration::from_secs(5);

/// Makes calls and writes them down.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    client: Client,
    recorder: Arc<Recorder>,
}

impl Caller {
    pub(crate) fn new(endpoint: &str, recorder: &Arc<Recorder>) -> Self {
        let client = Client::builder().endpoint(endpoint).timeout(PATIENCE).connect_lazy().expect("an endpoint");
        Self { client, recorder: Arc::clone(recorder) }
    }

    /// The same over a connection of its own.
    pub(crate) fn anew(&self, endpoint: &str) -> Self {
        Self::new(endpoint, &self.recorder)
    }

    async fn call(
        &self,
        call: Call,
        task: &str,
        answer: impl Future<Output = Result<(Option<v1::Task>, Option<v1::Revision>), Status>>,
    ) -> Outcome {
        let invoked = uptime_us();
        let outcome = match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok((Some(task), revision))) => Outcome::Told(view(&task, revision, call != Call::Submit)),
            Ok(Ok((None, _))) | Err(_) => Outcome::Unknown,
            Ok(Err(status)) => judged(&status),
        };
        let op = Op { task: task.to_owned(), call, invoked, returned: uptime_us(), outcome: outcome.clone() };
        self.recorder.op(op);
        outcome
    }

    /// A new task's id, its payload noted.
    pub(crate) fn new_task(&self, sleep_ms: u64) -> (String, String) {
        let id = self.client.new_task_id().to_string();
        let payload = format!(r#"{{"task":"{id}","sleep_ms":{sleep_ms}}}"#);
        self.recorder.offer(&id, &payload);
        (id, payload)
    }

    pub(crate) async fn submit(&self, task: &str, payload: &str, capability: &str) -> Outcome {
        let spec = v1::TaskSpec {
            capabilities: vec![capability.to_owned()],
            payload: Some(v1::Payload { data: payload.to_owned().into(), content_type: "application/json".to_owned() }),
            ..Default::default()
        };
        let request = v1::SubmitTaskRequest { namespace: String::new(), task_id: task.to_owned(), spec: Some(spec) };
        let answer = async {
            let answer = self.client.tasks().submit_task(request).await?.into_inner();
            Ok((answer.task, answer.revision))
        };
        self.call(Call::Submit, task, answer).await
    }

    pub(crate) async fn get(&self, task: &str) -> Outcome {
        let request =
            v1::GetTaskRequest { task_id: task.to_owned(), view: v1::TaskView::Full.into(), ..Default::default() };
        let answer = async {
            let answer = self.client.tasks().get_task(request).await?.into_inner();
            Ok((answer.task, answer.revision))
        };
        self.call(Call::Get, task, answer).await
    }

    async fn cancel(&self, task: &str) -> Outcome {
        let request = v1::CancelTaskRequest { task_id: task.to_owned(), ..Default::default() };
        let answer = async {
            let answer = self.client.tasks().cancel_task(request).await?.into_inner();
            Ok((answer.task, answer.revision))
        };
        self.call(Call::Cancel, task, answer).await
    }

    /// Waits until its end is told, or until told to stop.
    pub(crate) async fn wait(&self, task: &str, stop: &AtomicBool) -> bool {
        while !stop.load(Ordering::Relaxed) {
            let request = v1::WaitTaskRequest {
                task_id: task.to_owned(),
                timeout: Some(prost_types::Duration { seconds: 3, nanos: 0 }),
                view: v1::TaskView::Full.into(),
                ..Default::default()
            };
            let answer = async {
                let answer = self.client.tasks().wait_task(request).await?.into_inner();
                Ok((answer.task, answer.revision))
            };
            match self.call(Call::Wait, task, answer).await {
                Outcome::Told(view) if view.end.is_some() => return true,
                Outcome::Told(_) => {}
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        false
    }

    /// Submits until it is accepted. Its id.
    pub(crate) async fn accepted(&self, capability: &str, sleep_ms: u64, stop: &AtomicBool) -> Option<String> {
        let (id, payload) = self.new_task(sleep_ms);
        while !stop.load(Ordering::Relaxed) {
            if matches!(self.submit(&id, &payload, capability).await, Outcome::Told(_)) {
                return Some(id);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        None
    }

    /// Submits until it is accepted, and waits for the end.
    pub(crate) async fn work(&self, capability: &str, sleep_ms: u64, stop: &AtomicBool) -> bool {
        match self.accepted(capability, sleep_ms, stop).await {
            Some(id) => self.wait(&id, stop).await,
            None => false,
        }
    }
}

/// What a failure says about the effect.
fn judged(status: &Status) -> Outcome {
    let ours = status.get_error_details().error_info().filter(|info| info.domain == "hive").cloned();
    match (status.code(), ours) {
        (Code::NotFound, Some(info)) if info.reason == "TASK_NOT_FOUND" => Outcome::Absent,
        (Code::ResourceExhausted | Code::InvalidArgument | Code::FailedPrecondition, Some(info)) => {
            Outcome::Refused(info.reason)
        }
        _ => Outcome::Unknown,
    }
}

/// Submits until told to stop; tries again after a lost answer, or, now and then, never learns.
pub(crate) async fn load(caller: Caller, seed: u64, pace_ms: (u64, u64), commands: bool, stop: Arc<AtomicBool>) {
    let mut rng = Rng(seed);
    let mut waits = tokio::task::JoinSet::new();
    while !stop.load(Ordering::Relaxed) {
        let capability = if commands && rng.within(0, 9) == 0 { "cmd" } else { "sdk" };
        // Mostly short; some run through the whole of a fault.
        let sleep_ms = if rng.within(0, 24) == 0 { rng.within(800, 2_000) } else { rng.within(0, 150) };
        let (id, payload) = caller.new_task(sleep_ms);
        let gives_up = rng.within(0, 9) == 0;
        let accepted = loop {
            if let Outcome::Told(_) = caller.submit(&id, &payload, capability).await {
                break true;
            }
            if gives_up || stop.load(Ordering::Relaxed) {
                break false;
            }
            tokio::time::sleep(rng.millis(10, 100)).await;
        };
        if accepted {
            match rng.within(0, 19) {
                0 => drop(caller.cancel(&id).await),
                1..=6 => drop(caller.get(&id).await),
                7..=9 if waits.len() < 64 => {
                    let (caller, stop) = (caller.clone(), Arc::clone(&stop));
                    waits.spawn(async move { caller.wait(&id, &stop).await });
                }
                _ => {}
            }
        }
        while waits.try_join_next().is_some() {}
        tokio::time::sleep(rng.millis(pace_ms.0, pace_ms.1)).await;
    }
    while waits.join_next().await.is_some() {}
}

/// One watch over all tasks, through all faults.
pub(crate) fn watch(endpoint: &str, recorder: &Arc<Recorder>) -> tokio::task::JoinHandle<()> {
    let client = Client::builder().endpoint(endpoint).connect_lazy().expect("an endpoint");
    let recorder = Arc::clone(recorder);
    spawn(async move {
        let mut watch = client.watch(TaskFilter::default());
        while let Some(event) = watch.next().await {
            // A watch that breaks off for good shows as tasks whose end nobody was told.
            let Ok(event) = event else { return };
            if let Event::Changed { item, revision, .. } = event {
                recorder.watched(uptime_us(), view(&item, Some(revision), false));
            }
        }
    })
}
