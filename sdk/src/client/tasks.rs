//! Reading, waiting for and ending tasks.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::try_unfold;
use hive_proto::v1::{self, Task, TaskFilter, TaskView};

use super::call::{backoff, pause};
use super::spec::wire;
use super::{Client, Error, Items, TaskId};
use crate::{Payload, clock};

/// One WaitTask asks for no more than this, so that a server that is silently gone is noticed.
const WAIT_STEP: Duration = Duration::from_secs(60);
/// What a wait's answer may take beyond the wait itself.
const WAIT_MARGIN: Duration = Duration::from_secs(5);

impl Client {
    /// Reads a task, payload and result included.
    pub async fn get(&self, id: TaskId) -> Result<Task, Error> {
        self.get_view(id, TaskView::Full).await
    }

    /// Reads a task in a view.
    pub async fn get_view(&self, id: TaskId, view: TaskView) -> Result<Task, Error> {
        let request = v1::GetTaskRequest {
            namespace: self.ns(),
            task_id: id.to_string(),
            view: view.into(),
            ..Default::default()
        };
        let answer = self
            .call("GetTask", request, |request| {
                let mut tasks = self.tasks();
                async move { tasks.get_task(request).await }
            })
            .await?;
        answer.task.ok_or(Error::Answer { call: "GetTask", what: "the task" })
    }

    /// Lists tasks, newest first, page by page as they are taken; payloads and results are left
    /// out.
    pub fn list(&self, filter: TaskFilter) -> Items<Task> {
        self.list_view(filter, TaskView::Basic, 0)
    }

    /// [`Client::list`] in a view and with a page size; 0 lets the server choose.
    pub fn list_view(&self, filter: TaskFilter, view: TaskView, page_size: i32) -> Items<Task> {
        let request = v1::ListTasksRequest {
            namespace: self.ns(),
            filter: Some(filter),
            page_size,
            page_token: String::new(),
            view: view.into(),
        };
        let client = self.clone();
        let start = (VecDeque::new(), Some(request));
        try_unfold(start, move |(mut page, mut next): (VecDeque<Task>, Option<v1::ListTasksRequest>)| {
            let client = client.clone();
            async move {
                loop {
                    if let Some(task) = page.pop_front() {
                        return Ok(Some((task, (page, next))));
                    }
                    let Some(mut request) = next.take() else { return Ok(None) };
                    let answer = client.list_page(request.clone()).await?;
                    page = answer.tasks.into();
                    request.page_token = answer.next_page_token;
                    next = (!request.page_token.is_empty()).then_some(request);
                }
            }
        })
        .fuse()
        .boxed()
    }

    /// One page of tasks, for callers that keep page tokens. The request's namespace is used if it
    /// has one.
    pub async fn list_page(&self, mut request: v1::ListTasksRequest) -> Result<v1::ListTasksResponse, Error> {
        if request.namespace.is_empty() {
            request.namespace = self.ns();
        }
        self.call("ListTasks", request, |request| {
            let mut tasks = self.tasks();
            async move { tasks.list_tasks(request).await }
        })
        .await
    }

    /// Asks for a task to end. Its answer says whether it has, or is about to (`cancel_requested`).
    pub async fn cancel(&self, id: TaskId) -> Result<Task, Error> {
        let request = v1::CancelTaskRequest { namespace: self.ns(), task_id: id.to_string() };
        let answer = self
            .call("CancelTask", request, |request| {
                let mut tasks = self.tasks();
                async move { tasks.cancel_task(request).await }
            })
            .await?;
        answer.task.ok_or(Error::Answer { call: "CancelTask", what: "the task" })
    }

    /// Answers an attempt's open question; `number` 0 means whichever is open. Repeating it by
    /// retry is safe: the request's id is made once.
    pub async fn provide_input(&self, id: TaskId, number: u32, input: impl Into<Payload>) -> Result<Task, Error> {
        let request = v1::ProvideInputRequest {
            namespace: self.ns(),
            task_id: id.to_string(),
            number,
            input: Some(input.into().into()),
            request_id: clock::unique().to_string(),
        };
        let answer = self
            .call("ProvideInput", request, |request| {
                let mut tasks = self.tasks();
                async move { tasks.provide_input(request).await }
            })
            .await?;
        answer.task.ok_or(Error::Answer { call: "ProvideInput", what: "the task" })
    }

    /// Waits until a task has ended, for `limit` at most, across disconnects and restarts of the
    /// server. Any end is `Ok`, see [`TaskExt`](super::TaskExt); [`Error::Deadline`] means that it
    /// has not ended yet.
    pub async fn wait(&self, id: TaskId, limit: Duration) -> Result<Task, Error> {
        let end = clock::now() + limit;
        let mut backoff = backoff();
        let mut last = None;
        loop {
            let left = end.saturating_duration_since(clock::now());
            if left.is_zero() {
                return Err(Error::Deadline { call: "the wait", limit, last });
            }
            let step = left.min(WAIT_STEP);
            let error = match self.wait_once(id, step, left).await {
                Ok(answer) if answer.done => {
                    return answer.task.ok_or(Error::Answer { call: "WaitTask", what: "the task" });
                }
                Ok(_) => {
                    // Not an error, but a server that answers at once must not be asked in a loop.
                    backoff.reset();
                    last = None;
                    let early = step.saturating_sub(left.saturating_sub(end.saturating_duration_since(clock::now())));
                    tokio::time::sleep(early.min(backoff.next(clock::random()))).await;
                    continue;
                }
                Err(error) => error,
            };
            if !error.is_retryable() {
                return Err(error);
            }
            let left = end.saturating_duration_since(clock::now());
            let Some(wait) = pause(&mut backoff, &error, left, clock::random()) else {
                return Err(Error::Deadline { call: "the wait", limit, last: Some(Box::new(error)) });
            };
            tracing::debug!(%error, ?wait, "the wait was interrupted");
            last = Some(Box::new(error));
            tokio::time::sleep(wait).await;
        }
    }

    async fn wait_once(&self, id: TaskId, step: Duration, left: Duration) -> Result<v1::WaitTaskResponse, Error> {
        let request = v1::WaitTaskRequest {
            namespace: self.ns(),
            task_id: id.to_string(),
            timeout: wire(step),
            view: TaskView::Full.into(),
        };
        let limit = (step + WAIT_MARGIN).min(left + WAIT_MARGIN);
        let mut carrier = tonic::Request::new(request);
        carrier.set_timeout(limit);
        match tokio::time::timeout(limit, self.tasks().wait_task(carrier)).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) if status.code() != tonic::Code::DeadlineExceeded => Err(self.failed(status)),
            _ => Err(Error::Deadline { call: "WaitTask", limit, last: None }),
        }
    }
}
