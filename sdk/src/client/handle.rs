//! A submitted task, and questions one asks of any task.

use std::time::Duration;

use hive_proto::v1::{self, Task, TaskState};

use super::{Client, Error, LogQuery, TaskId, Watch};
use crate::Payload;

/// A task that was accepted.
#[derive(Debug, Clone)]
pub struct TaskHandle {
    pub(super) client: Client,
    pub(super) id: TaskId,
    pub(super) task: Task,
    pub(super) duplicate: bool,
}

impl TaskHandle {
    /// Its id.
    pub fn id(&self) -> TaskId {
        self.id
    }

    /// The task as it was accepted, or as it stood when the submission was found to be a repetition.
    pub fn accepted(&self) -> &Task {
        &self.task
    }

    /// The submission found a task accepted before.
    pub fn is_duplicate(&self) -> bool {
        self.duplicate
    }

    /// See [`Client::wait`].
    pub async fn wait(&self, limit: Duration) -> Result<Task, Error> {
        self.client.wait(self.id, limit).await
    }

    /// See [`Client::get`].
    pub async fn get(&self) -> Result<Task, Error> {
        self.client.get(self.id).await
    }

    /// See [`Client::cancel`].
    pub async fn cancel(&self) -> Result<Task, Error> {
        self.client.cancel(self.id).await
    }

    /// See [`Client::watch_task`].
    pub fn watch(&self) -> Watch<Task> {
        self.client.watch_task(self.id)
    }

    /// See [`Client::provide_input`].
    pub async fn provide_input(&self, number: u32, input: impl Into<Payload>) -> Result<Task, Error> {
        self.client.provide_input(self.id, number, input).await
    }

    /// See [`Client::logs`]: what the last attempt wrote.
    pub fn logs(&self) -> super::Items<v1::TailLogsResponse> {
        self.client.logs(LogQuery::of(self.id))
    }
}

/// What one wants to know of a [`Task`] message.
pub trait TaskExt {
    /// It has ended, one way or another.
    fn is_terminal(&self) -> bool;
    /// It ended with a result.
    fn is_success(&self) -> bool;
    /// The result, once it succeeded; without data in views other than FULL.
    fn output(&self) -> Option<Payload>;
    /// Its id, if it is one.
    fn task_id(&self) -> Option<TaskId>;
}

impl TaskExt for Task {
    fn is_terminal(&self) -> bool {
        use TaskState as S;
        matches!(self.state(), S::Succeeded | S::Failed | S::Cancelled | S::Expired)
    }

    fn is_success(&self) -> bool {
        self.state() == TaskState::Succeeded
    }

    fn output(&self) -> Option<Payload> {
        self.is_success().then(|| self.result.clone().unwrap_or_default().into())
    }

    fn task_id(&self) -> Option<TaskId> {
        self.id.parse().ok()
    }
}
