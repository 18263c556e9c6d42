//! A client: submits until it is answered, waits for each end, cancels some, and writes into the book
//! what it was told. Its calls carry deadlines, and each is held to its own.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use hive_core::id::TaskId;
use hive_core::time::Time;
use hive_proto::v1;
use hive_proto::v1::task_service_client::TaskServiceClient;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use crate::hosts::CAPABILITY;
use crate::lab::{Lab, now};
use crate::rng::Rng;
use crate::wire;

/// A call's deadline. tonic's own leaves out the wait for a connection, so each call is held to it as the
/// SDK's are: from outside.
pub(crate) const DEADLINE: Duration = Duration::from_secs(4);
/// Longest wait asked for in one call.
const WAIT: i64 = 3;

/// One client and its work.
pub(crate) struct Client {
    pub(crate) lab: Arc<Lab>,
    pub(crate) rng: Rng,
    channel: Option<Channel>,
}

/// What a call is not answered with.
fn passes(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable
            | Code::Unknown
            | Code::Cancelled
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Internal
    )
}

pub(crate) fn terminal(state: i32) -> bool {
    use v1::TaskState::{Cancelled, Expired, Failed, Succeeded};
    [Succeeded, Failed, Cancelled, Expired].iter().any(|end| *end as i32 == state)
}

impl Client {
    /// On the host that runs.
    pub(crate) fn new(lab: Arc<Lab>, name: &str) -> Self {
        let mut client = Self::new_later(lab, name);
        client.connect();
        client
    }

    /// For a host to be, which connects it.
    pub(crate) fn new_later(lab: Arc<Lab>, name: &str) -> Self {
        let rng = Rng::new(lab.seed ^ name.bytes().fold(7, |hash: u64, byte| hash * 131 + u64::from(byte)));
        Self { lab, rng, channel: None }
    }

    pub(crate) fn connect(&mut self) {
        self.channel = Some(wire::channel());
    }

    pub(crate) fn tasks(&self) -> TaskServiceClient<Channel> {
        TaskServiceClient::new(self.channel.clone().expect("connected"))
    }

    /// One call, held to its deadline.
    async fn call<R, T, Fut>(
        &self,
        name: &str,
        message: R,
        op: impl FnOnce(TaskServiceClient<Channel>, Request<R>) -> Fut,
    ) -> Result<T, Status>
    where
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let mut request = Request::new(message);
        request.set_timeout(DEADLINE);
        let answer = tokio::time::timeout(DEADLINE, op(self.tasks(), request)).await;
        let mut book = self.lab.book();
        book.stats.calls += 1;
        let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
        if let Err(status) = &answer {
            book.stats.calls_failed += 1;
            book.note(3, &(status.code() as i32).to_le_bytes());
            if !passes(status) {
                book.fault(format!("{name} was refused: {status:?}"));
            }
        }
        answer.map(Response::into_inner)
    }

    /// Offers one task until it is answered; says whether it was accepted. Now and then gives up.
    pub(crate) async fn submit(&mut self) -> Option<TaskId> {
        self.submit_labelled(0).await
    }

    /// The same, with so many large labels, which every event of the task carries.
    pub(crate) async fn submit_labelled(&mut self, labels: usize) -> Option<TaskId> {
        let random = u128::from(self.rng.next()) << 64 | u128::from(self.rng.next());
        let id = TaskId::new(Time(now()), random);
        let size = if self.rng.chance(200) { 3_000 } else { 20 };
        let mut payload = id.to_string().into_bytes();
        payload.resize(payload.len() + size, b'.');
        let payload = bytes::Bytes::from(payload);
        self.lab.book().tasks.entry(id).or_default().payload = payload.clone();
        let policy =
            self.rng.pick(&[v1::DisconnectPolicy::Replace, v1::DisconnectPolicy::Replace, v1::DisconnectPolicy::Stop]);
        let request = v1::SubmitTaskRequest {
            namespace: String::new(),
            task_id: id.to_string(),
            spec: Some(v1::TaskSpec {
                capabilities: vec![CAPABILITY.to_owned()],
                payload: Some(v1::Payload { data: payload, content_type: "text/plain".into() }),
                disconnect_policy: (*policy).into(),
                labels: (0..labels).map(|n| (format!("l{n}"), "v".repeat(250))).collect(),
                ..Default::default()
            }),
        };
        let gives_up = self.rng.chance(100);
        loop {
            let request = request.clone();
            let answer =
                self.call("SubmitTask", request, |mut tasks, request| async move { tasks.submit_task(request).await });
            match answer.await {
                Ok(_) => {
                    let mut book = self.lab.book();
                    book.note(4, &id.0);
                    book.say(|| format!("{id} is accepted"));
                    book.tasks.entry(id).or_default().accepted = true;
                    return Some(id);
                }
                Err(_) if gives_up => return None,
                Err(_) => tokio::time::sleep(Duration::from_millis(self.rng.between(50, 500))).await,
            }
        }
    }

    pub(crate) async fn cancel(&mut self, id: TaskId) {
        self.lab.book().tasks.entry(id).or_default().cancelled = true;
        let request = v1::CancelTaskRequest { task_id: id.to_string(), ..Default::default() };
        // Whether it arrives is part of the game.
        let _answer = self
            .call("CancelTask", request, |mut tasks, request| async move {
                match tasks.cancel_task(request).await {
                    // It ended first.
                    Err(status) if status.code() == Code::FailedPrecondition => {
                        Ok(Response::new(v1::CancelTaskResponse::default()))
                    }
                    answer => answer,
                }
            })
            .await;
    }

    /// Waits for the end of an accepted task, however long that takes.
    pub(crate) async fn wait(&mut self, id: TaskId) {
        loop {
            let timeout = Some(prost_types::Duration { seconds: WAIT, nanos: 0 });
            let request = v1::WaitTaskRequest { task_id: id.to_string(), timeout, ..Default::default() };
            let answer =
                self.call("WaitTask", request, |mut tasks, request| async move { tasks.wait_task(request).await });
            match answer.await.map(|answer| answer.task) {
                Ok(Some(task)) if terminal(task.state) => return self.lab.book().told(id, &task),
                Ok(_) => {}
                Err(_) => tokio::time::sleep(Duration::from_millis(self.rng.between(100, 1_000))).await,
            }
        }
    }

    /// Follows all tasks until the simulation ends; begins anew when the stream does.
    pub(crate) async fn watch(mut self) {
        loop {
            if let Ok(stream) = self.tasks().watch_tasks(v1::WatchTasksRequest::default()).await {
                let mut stream = stream.into_inner();
                while let Ok(Some(answer)) = stream.message().await {
                    let task = answer.event.and_then(|event| event.task).filter(|task| terminal(task.state));
                    if let Some(task) = task
                        && let Ok(id) = TaskId::parse(&task.id)
                    {
                        self.lab.book().told_state(id, &task);
                    }
                }
            }
            tokio::time::sleep(Duration::from_millis(self.rng.between(100, 2_000))).await;
        }
    }
}
