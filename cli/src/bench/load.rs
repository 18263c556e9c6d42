//! The client under measurement: submits in batches, hears of ends by one watch. Two ways of loading:
//! a closed loop keeps a window of tasks open, an open loop sends by the clock whatever comes back
//! (latencies count from when a task was *meant* to be sent, so a slow server can't hide behind a
//! waiting client).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use hive_proto::v1;
use tokio::sync::{Notify, Semaphore, mpsc};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use uuid::Uuid;

use super::agent;
use super::ledger::{Ledger, histogram};
use crate::args::{Certificates, Mix};
use crate::clock;
use crate::connect::Client;
use crate::failure::Failure;
use crate::tasks::{self, Kind};

/// SubmitTasks calls under way at a time.
const CALLS: usize = 32;
/// Open tasks an open loop may pile up; past it, it holds back and says so.
pub(super) const MOST_OPEN: u64 = 200_000;
/// States by which a task has ended.
const ENDED: [v1::TaskState; 4] =
    [v1::TaskState::Succeeded, v1::TaskState::Failed, v1::TaskState::Cancelled, v1::TaskState::Expired];
/// Bookmarks come every 30 s; one missed means that the watch is dead.
const SILENCE: Duration = Duration::from_secs(45);
/// A call's deadline.
const CALL: Duration = Duration::from_secs(10);

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Load {
    shared: Arc<Shared>,
}

struct Shared {
    submit: Client,
    ledger: Mutex<Ledger>,
    /// Places of the closed loop's window.
    window: Semaphore,
    calls: Arc<Semaphore>,
    moved: Notify,
    last_refusal: Mutex<String>,
    batch: usize,
    bytes: usize,
    mix: Mix,
}

impl Load {
    /// Opens the watch on a connection of its own.
    pub(super) async fn begin(
        server: &str,
        certificates: &Certificates,
        namespace: &str,
        batch: u16,
        bytes: u32,
        mix: Mix,
    ) -> Result<Self, Failure> {
        let load = Self {
            shared: Arc::new(Shared {
                submit: Client::with(server, namespace, CALL, certificates)?,
                ledger: Mutex::default(),
                window: Semaphore::new(0),
                calls: Arc::new(Semaphore::new(CALLS)),
                moved: Notify::new(),
                last_refusal: Mutex::default(),
                batch: usize::from(batch),
                bytes: usize::try_from(bytes).unwrap_or(usize::MAX),
                mix,
            }),
        };
        let client = Client::with(server, namespace, CALL, certificates)?;
        let events = open_watch(&client).await.map_err(|s| Failure::call("cannot watch tasks", server, &s))?;
        let watching = load.clone();
        tasks::spawn(Kind::Watcher, async move { watching.watch(&client, events).await });
        Ok(load)
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.shared.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why a task was last refused or a call failed; empty if none was.
    pub(super) fn last_refusal(&self) -> String {
        self.shared.last_refusal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps `window` tasks open until `until`, on the monotonic clock; then none is added.
    pub(super) async fn closed(&self, window: u32, until: u64) {
        let shared = &self.shared;
        shared.window.forget_permits(usize::MAX >> 4);
        let free = u64::from(window).saturating_sub(self.ledger().open_count());
        shared.window.add_permits(usize::try_from(free).unwrap_or_default());
        let mut number = 0;
        while let Some(left) = until.checked_sub(clock::monotonic_ns()).filter(|left| *left > 0) {
            let first = tokio::time::timeout(Duration::from_nanos(left), shared.window.acquire()).await;
            let Ok(Ok(first)) = first else { break };
            first.forget();
            let more = shared.window.available_permits().min(shared.batch - 1);
            let more = u32::try_from(more).ok().and_then(|more| shared.window.try_acquire_many(more).ok());
            let count = 1 + more.map_or(0, |more| {
                let count = more.num_permits();
                more.forget();
                count
            });
            let now = clock::monotonic_ns();
            let due: Vec<(u64, u64)> = (0..count as u64).map(|n| (number + n, now)).collect();
            number += count as u64;
            self.send(due).await;
        }
    }

    /// Sends `rate` tasks per second until `until`. Returns how many it held back because more than
    /// [`MOST_OPEN`] were open.
    pub(super) async fn open(&self, rate: f64, until: u64) -> u64 {
        let (sender, mut due) = mpsc::channel(16);
        let batch = self.shared.batch;
        let pacing = tasks::blocking(move || pace(rate, until, batch, &sender));
        let mut held_back = 0;
        while let Some(due) = due.recv().await {
            if self.ledger().open_count() > MOST_OPEN {
                held_back += due.len() as u64;
            } else {
                self.send(due).await;
            }
        }
        // It has let go of its end, so it is over.
        let _over = pacing.await;
        held_back
    }

    /// Waits until every task has ended, or nothing has moved for `patience`.
    pub(super) async fn drain(&self, patience: Duration) {
        loop {
            let moved = self.shared.moved.notified();
            if self.ledger().open_count() == 0 || tokio::time::timeout(patience, moved).await.is_err() {
                return;
            }
        }
    }

    /// Asks for each task that is still open; returns those that were accepted and have not ended.
    pub(super) async fn settle(&self) -> Result<Vec<Uuid>, Failure> {
        let mut lost = Vec::new();
        let open = self.ledger().open();
        for id in open {
            match self.get(id).await {
                Ok(task) => {
                    let state = task.state();
                    if !self.ended(id, state, task.attempt) {
                        lost.push(id);
                    }
                }
                Err(status) if status.code() == Code::NotFound && self.ledger().refused(id) => {}
                Err(status) if status.code() == Code::NotFound => lost.push(id),
                Err(status) => return Err(Failure::call("cannot look up a task", &self.shared.submit.server, &status)),
            }
        }
        Ok(lost)
    }

    /// How long each of these tasks, as kept by the ledger, took from its submission to the start of
    /// the attempt that ended it. Looked up after the load, so that the looking costs it nothing.
    pub(super) async fn starts(&self, tasks: Vec<(Uuid, u64)>) -> Histogram<u64> {
        let mut times = histogram();
        for (id, at) in tasks {
            let Ok(task) = self.get(id).await else { continue };
            if let Some(began) = task.result.and_then(|result| agent::began(&result.data)) {
                times.saturating_record(began.saturating_sub(at).max(1_000));
            }
        }
        times
    }

    async fn get(&self, id: Uuid) -> Result<v1::Task, Status> {
        let client = &self.shared.submit;
        let request = v1::GetTaskRequest {
            namespace: client.namespace.clone(),
            task_id: id.to_string(),
            view: v1::TaskView::Full.into(),
            ..Default::default()
        };
        let answer = client.attempt(request, |mut s, r| async move { s.tasks.get_task(r).await }, true).await?;
        Ok(answer.task.unwrap_or_default())
    }

    async fn send(&self, due: Vec<(u64, u64)>) {
        let Ok(permit) = Arc::clone(&self.shared.calls).acquire_owned().await else { return };
        let ids: Vec<Uuid> = due.iter().map(|_| clock::new_id()).collect();
        let request = {
            let mut ledger = self.ledger();
            ids.iter().zip(&due).for_each(|(id, (_, at))| ledger.sent(*id, *at));
            drop(ledger);
            let task = |(id, (number, _)): (&Uuid, &(u64, u64))| self.task(*id, *number);
            v1::SubmitTasksRequest {
                namespace: self.shared.submit.namespace.clone(),
                tasks: ids.iter().zip(&due).map(task).collect(),
            }
        };
        let load = self.clone();
        tasks::spawn(Kind::Watcher, async move {
            load.call(request, &ids).await;
            drop(permit);
        });
    }

    fn task(&self, id: Uuid, number: u64) -> v1::SubmitTaskRequest {
        let data = agent::payload(self.shared.mix.of(number), self.shared.bytes).into();
        v1::SubmitTaskRequest {
            namespace: String::new(),
            task_id: id.to_string(),
            spec: Some(v1::TaskSpec {
                capabilities: vec![super::plant::CAPABILITY.to_owned()],
                payload: Some(v1::Payload { data, content_type: String::new() }),
                ..Default::default()
            }),
        }
    }

    async fn call(&self, request: v1::SubmitTasksRequest, ids: &[Uuid]) {
        let mut tasks = self.shared.submit.services().tasks;
        let mut request = tonic::Request::new(request);
        request.set_timeout(CALL);
        // Sent once: a refusal is a figure here, not something to repeat.
        match tokio::time::timeout(CALL, tasks.submit_tasks(request)).await {
            Ok(Ok(answer)) => {
                let results = answer.into_inner().results;
                for (id, result) in ids.iter().zip(results) {
                    match result.result {
                        Some(v1::submit_task_result::Result::Error(status)) => self.refuse(*id, status.message),
                        _ => self.ledger().accepted(*id),
                    }
                }
            }
            Ok(Err(status)) if is_definite(&status) => {
                ids.iter().for_each(|id| self.refuse(*id, status.message().to_owned()));
            }
            Ok(Err(status)) => self.unknown(status.message().to_owned()),
            Err(_) => self.unknown("no answer in time".to_owned()),
        }
    }

    fn unknown(&self, why: String) {
        self.ledger().unknown();
        *self.shared.last_refusal.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    fn refuse(&self, id: Uuid, why: String) {
        if self.ledger().refused(id) {
            self.shared.window.add_permits(1);
        }
        *self.shared.last_refusal.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    async fn watch(&self, client: &Client, first: tonic::Streaming<v1::WatchTasksResponse>) {
        let mut events = Some(first);
        loop {
            let Some(stream) = &mut events else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                events = open_watch(client).await.ok();
                // What ended meanwhile is looked up; the loop must not stand still for it.
                if events.is_some() {
                    self.ledger().watch_broke();
                    let _unreachable = self.settle().await;
                }
                continue;
            };
            match tokio::time::timeout(SILENCE, stream.message()).await {
                Ok(Ok(Some(response))) if is_resync(&response) => events = None,
                Ok(Ok(Some(response))) => self.heard(response.event.unwrap_or_default()),
                _ => events = None,
            }
        }
    }

    fn heard(&self, event: v1::TaskEvent) {
        let Some(task) = event.task else { return };
        if let Ok(id) = Uuid::try_parse(&task.id) {
            self.ended(id, task.state(), task.attempt);
        }
    }

    /// True if the task has ended.
    fn ended(&self, id: Uuid, state: v1::TaskState, attempt: u32) -> bool {
        let ended = ENDED.contains(&state);
        if ended && self.ledger().ended(id, state, attempt, clock::monotonic_ns()) {
            self.shared.window.add_permits(1);
            self.shared.moved.notify_waiters();
        }
        ended
    }
}

/// Says which tasks are due, and when each was, until `until`. On a thread of its own: the runtime's
/// timers are a millisecond coarse, which would be most of what is measured.
fn pace(rate: f64, until: u64, batch: usize, due: &mpsc::Sender<Vec<(u64, u64)>>) {
    let begun = clock::monotonic_ns();
    let at = |number: u64| begun.saturating_add(nanos(number as f64 / rate));
    let mut number = 0;
    loop {
        let now = clock::monotonic_ns();
        if now >= until {
            return;
        }
        let mut now_due = Vec::new();
        while at(number) <= now && now_due.len() < batch {
            now_due.push((number, at(number)));
            number += 1;
        }
        if now_due.is_empty() {
            clock::sleep_until_ns(at(number).min(until));
        } else if due.blocking_send(now_due).is_err() {
            return;
        }
    }
}

async fn open_watch(client: &Client) -> Result<tonic::Streaming<v1::WatchTasksResponse>, Status> {
    let request = v1::WatchTasksRequest {
        namespace: client.namespace.clone(),
        filter: Some(v1::TaskFilter {
            states: ENDED.iter().map(|state| i32::from(*state)).collect(),
            capability: super::plant::CAPABILITY.to_owned(),
            ..Default::default()
        }),
        skip_snapshot: true,
    };
    client.attempt(request, |mut s, r| async move { s.tasks.watch_tasks(r).await }, false).await
}

fn is_resync(response: &v1::WatchTasksResponse) -> bool {
    response.event.as_ref().is_some_and(|event| event.kind() == v1::TaskEventKind::Resync)
}

/// The control plane itself said that nothing was done.
fn is_definite(status: &Status) -> bool {
    let coded = status.get_error_details().error_info().is_some();
    coded && !matches!(status.code(), Code::DeadlineExceeded | Code::Unknown | Code::Internal)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a time of the run, far from any bound")]
fn nanos(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}
