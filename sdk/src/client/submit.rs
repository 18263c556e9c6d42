//! Submitting: one task, or many.

use std::time::Duration;

use futures_util::StreamExt as _;
use hive_proto::v1::{self, submit_task_result as item};
use prost::Message as _;
use tokio::time::Instant;
use tonic::{Code, Status};

use super::call::{backoff, pause};
use super::{Client, Error, TaskHandle, TaskId, TaskSpec};
use crate::clock;

/// Most tasks in one request.
const BATCH_TASKS: usize = 100;
/// Most bytes in one request: some room below the limit of 4 MiB.
const BATCH_BYTES: usize = 3 * 1024 * 1024;
/// Requests under way at a time.
const BATCHES: usize = 4;

type Answer = Result<TaskHandle, Error>;

impl Client {
    /// Submits a task. Once this has returned `Ok` the task is durable and will end one way or
    /// another. Retries keep the id, so they never make a second task.
    ///
    /// With reason `TASK_ID_TOO_OLD` or `TASK_ID_IN_FUTURE` the local clock was off: it is
    /// corrected for tasks submitted from then on; this one may be submitted anew.
    pub async fn submit(&self, spec: TaskSpec) -> Answer {
        let (id, request) = self.prepare(spec);
        let answer = self
            .call("SubmitTask", request, |request| {
                let mut tasks = self.tasks();
                async move { tasks.submit_task(request).await }
            })
            .await;
        let answer = answer.inspect_err(|error| self.inner.ids.learn(error))?;
        let task = answer.task.ok_or(Error::Answer { call: "SubmitTask", what: "the task" })?;
        Ok(TaskHandle { client: self.clone(), id, task, duplicate: answer.duplicate })
    }

    /// Submits many tasks, each on its own: the answers are in the order of `specs`, and a refused
    /// one leaves the others alone. What waiting can mend is sent again, until the client's timeout.
    pub async fn submit_many(&self, specs: impl IntoIterator<Item = TaskSpec>) -> Vec<Answer> {
        let requests: Vec<_> = specs.into_iter().map(|spec| self.prepare(spec)).collect();
        let batches: Vec<_> = batches(requests).into_iter().map(|batch| self.submit_batch(batch)).collect();
        let answers: Vec<Vec<Answer>> = futures_util::stream::iter(batches).buffered(BATCHES).collect().await;
        answers.into_iter().flatten().collect()
    }

    fn prepare(&self, spec: TaskSpec) -> (TaskId, v1::SubmitTaskRequest) {
        let id = spec.id.unwrap_or_else(|| self.new_task_id());
        let request = v1::SubmitTaskRequest { namespace: self.ns(), task_id: id.to_string(), spec: Some(spec.spec) };
        (id, request)
    }

    async fn submit_batch(&self, requests: Vec<(TaskId, v1::SubmitTaskRequest)>) -> Vec<Answer> {
        let end = clock::now() + self.inner.timeout;
        let mut backoff = backoff();
        let mut answers: Vec<Option<Answer>> = requests.iter().map(|_| None).collect();
        loop {
            let open: Vec<usize> = (0..requests.len()).filter(|&i| !matches!(answers[i], Some(Ok(_)))).collect();
            let open: Vec<usize> = open.into_iter().filter(|&i| again(answers[i].as_ref())).collect();
            let batch: Vec<_> = open.iter().map(|&i| &requests[i]).collect();
            let results = self.send_batch(&batch, end).await;
            for (&i, answer) in open.iter().zip(results) {
                answers[i] = Some(answer);
            }
            let left = end.saturating_duration_since(clock::now());
            let busy = answers.iter().flatten().filter_map(|answer| answer.as_ref().err()).filter(|e| e.is_retryable());
            // The one that has to wait longest.
            let Some(slowest) = busy.max_by_key(|error| error.retry_after()) else { break };
            let Some(wait) = pause(&mut backoff, slowest, left, clock::random()) else { break };
            tokio::time::sleep(wait).await;
        }
        let unanswered = || Err(Error::Answer { call: "SubmitTasks", what: "an item's result" });
        answers.into_iter().map(|answer| answer.unwrap_or_else(unanswered)).collect()
    }

    async fn send_batch(&self, batch: &[&(TaskId, v1::SubmitTaskRequest)], end: Instant) -> Vec<Answer> {
        let tasks = batch.iter().map(|(_, request)| request.clone()).collect();
        let request = v1::SubmitTasksRequest { namespace: self.ns(), tasks };
        let left = end.saturating_duration_since(clock::now()).max(Duration::from_millis(1));
        let answer = self
            .call_within("SubmitTasks", left, request, |request| {
                let mut tasks = self.tasks();
                async move { tasks.submit_tasks(request).await }
            })
            .await;
        match answer {
            Ok(answer) => {
                let items = answer.results.into_iter().map(Some).chain(std::iter::repeat_with(|| None));
                batch.iter().zip(items).map(|((id, _), item)| self.item(*id, item)).collect()
            }
            // The call itself has tried till the end.
            Err(error) => batch.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    fn item(&self, id: TaskId, item: Option<v1::SubmitTaskResult>) -> Answer {
        let lacking = Error::Answer { call: "SubmitTasks", what: "an item's result" };
        let item = item.ok_or(lacking.clone())?;
        match item.result.ok_or(lacking)? {
            item::Result::Task(task) => Ok(TaskHandle { client: self.clone(), id, task, duplicate: item.duplicate }),
            item::Result::Error(status) => {
                let details = status.encode_to_vec().into();
                let error = Error::refused(Status::with_details(Code::from(status.code), status.message, details));
                self.inner.ids.learn(&error);
                Err(error)
            }
        }
    }
}

/// An item to send: not yet sent, or refused for a reason that passes.
fn again(answer: Option<&Answer>) -> bool {
    match answer {
        None => true,
        Some(Ok(_)) => false,
        Some(Err(error)) => error.is_retryable(),
    }
}

fn batches(requests: Vec<(TaskId, v1::SubmitTaskRequest)>) -> Vec<Vec<(TaskId, v1::SubmitTaskRequest)>> {
    let mut batches = vec![Vec::new()];
    let mut bytes = 0;
    for request in requests {
        let size = request.1.encoded_len();
        let full = batches
            .last()
            .is_some_and(|b: &Vec<_>| b.len() == BATCH_TASKS || (!b.is_empty() && bytes + size > BATCH_BYTES));
        if full {
            batches.push(Vec::new());
            bytes = 0;
        }
        bytes += size;
        if let Some(batch) = batches.last_mut() {
            batch.push(request);
        }
    }
    batches.retain(|batch| !batch.is_empty());
    batches
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Payload;
    use crate::client::ids::Ids;

    fn requests(count: usize, bytes: usize) -> Vec<(TaskId, v1::SubmitTaskRequest)> {
        let spec = TaskSpec::new("c").payload(Payload::bytes(vec![0; bytes], "")).spec;
        let request = v1::SubmitTaskRequest { spec: Some(spec), ..Default::default() };
        (0..count).map(|_| (Ids::default().next(), request.clone())).collect()
    }

    #[test]
    fn batches_keep_both_limits() {
        let sizes = |count, bytes| batches(requests(count, bytes)).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes(0, 0), [0; 0]);
        assert_eq!(sizes(250, 10), [100, 100, 50]);
        assert_eq!(sizes(12, 256 * 1024), [11, 1]);
    }
}
