//! `hive.v1.TaskService`.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use hive_core::command::{Command, Reply};
use hive_core::id::{Namespace, Revision, TaskId};
use hive_core::leader::{TaskSoft, View};
use hive_core::record::TaskRecord;
use hive_proto::google_rpc;
use hive_proto::v1::task_service_server::TaskService;
use hive_proto::v1::{self, TaskView};
use tonic::{Request, Response, Status};

use super::bodies;
use super::check::{self, Limits};
use super::convert;
use super::error::{Reason, invalid};
use super::filter::Filter;
use super::spec::task_spec;
use super::watch::Watches;
use crate::clock;
use crate::config::{self, TaskDefaults};
use crate::driver::Handle;
use crate::session::Logs;
use crate::store::Store;

/// Tasks looked at per turn of a list: the driver is not held up by a filter that matches little.
const LOOK: usize = 5_000;
/// Longest wait of one WaitTask, and the default.
const WAIT: (Duration, Duration) = (Duration::from_secs(600), Duration::from_secs(30));
/// Wait before a refused submission is worth repeating.
pub(super) const LATER: Duration = Duration::from_secs(5);

/// See the module.
pub struct Tasks<S> {
    pub(super) handle: Handle,
    store: Arc<S>,
    watches: Watches,
    logs: Logs,
    limits: Limits,
    page: check::Page,
    batch: usize,
    defaults: TaskDefaults,
}

type EventStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl<S: Store> Tasks<S> {
    /// Over a driver.
    #[must_use]
    pub fn new(handle: Handle, store: Arc<S>, watches: Watches, logs: Logs, config: &config::Config) -> Self {
        let size = |size: u32| usize::try_from(size).unwrap_or(usize::MAX);
        Self {
            handle,
            store,
            watches,
            logs,
            limits: config.limits.content(),
            page: check::Page::of(&config.limits),
            batch: size(config.limits.submit_batch),
            defaults: config.task.clone(),
        }
    }

    async fn submit(&self, request: v1::SubmitTaskRequest) -> Result<v1::SubmitTaskResponse, Status> {
        let namespace = check::namespace(&request.namespace)?;
        let (spec, blob) = task_spec(request.spec, &self.defaults, &self.limits)?;
        let id = match request.task_id.as_str() {
            "" => fresh_id(self.handle.now()),
            id => check::task_id(id)?,
        };
        // A repeat of a task that was accepted costs no space.
        if self.store.health().shedding && self.read(&namespace, id).await.is_err() {
            let text = "the store is short of disk space and takes no new tasks";
            return Err(Reason::StoreLowSpace.retry_after(text, LATER));
        }
        let (reply, revision) = self.handle.call(namespace.clone(), Command::Submit { id, spec, blob }).await?;
        let Reply::Task { task, duplicate } = reply else { return Err(unexpected()) };
        let task = convert::task(&namespace, &task, &TaskSoft::default(), false);
        Ok(v1::SubmitTaskResponse { task: Some(task), duplicate, revision: Some(check::revision(revision)) })
    }

    /// A task as a message, with everything if that was asked for.
    async fn show(
        &self,
        namespace: &Namespace,
        record: &TaskRecord,
        soft: &TaskSoft,
        full: bool,
    ) -> Result<v1::Task, Status> {
        let mut task = convert::task(namespace, record, soft, full);
        bodies::fill(&*self.store, namespace, record, &mut task, full).await?;
        Ok(task)
    }

    async fn read(&self, namespace: &Namespace, id: TaskId) -> Result<(Arc<TaskRecord>, TaskSoft, Revision), Status> {
        let ns = namespace.clone();
        let now = self.handle.now();
        let read = move |view: &View<'_>| find(view, &ns, id, now);
        self.handle.read(read).await?
    }
}

/// A task in a view, or why there is none.
pub(super) fn find(
    view: &View<'_>,
    namespace: &Namespace,
    id: TaskId,
    now: hive_core::time::Time,
) -> Result<(Arc<TaskRecord>, TaskSoft, Revision), Status> {
    use hive_core::rejection::Rejection;
    let refuse = |rejection: &Rejection| Err(super::refusal::rejection(rejection));
    if !view.has(namespace) {
        return refuse(&Rejection::NamespaceNotFound);
    }
    match view.task(namespace, id) {
        Some(task) => {
            let soft = view.task_soft(namespace, &task);
            Ok((task, soft, view.revision()))
        }
        None if id.time() < view.floor(namespace) => {
            refuse(&Rejection::TaskIdTooOld { floor: view.floor(namespace), cluster_time: now })
        }
        None => refuse(&Rejection::TaskNotFound(id)),
    }
}

fn unexpected() -> Status {
    Reason::Internal.status("the driver gave another answer than was asked for")
}

#[expect(clippy::disallowed_methods, reason = "randomness of an id; the time of a task's is the cluster's")]
fn fresh_id(now: hive_core::time::Time) -> TaskId {
    TaskId::new(now, uuid::Uuid::now_v7().as_u128())
}

fn full(view: i32, default: bool) -> Result<bool, Status> {
    match TaskView::try_from(view) {
        Ok(TaskView::Unspecified) => Ok(default),
        Ok(TaskView::Basic) => Ok(false),
        Ok(TaskView::Full) => Ok(true),
        Err(_) => Err(invalid("view", format!("{view} is not a view"))),
    }
}

#[tonic::async_trait]
impl<S: Store> TaskService for Tasks<S> {
    async fn submit_task(
        &self,
        request: Request<v1::SubmitTaskRequest>,
    ) -> Result<Response<v1::SubmitTaskResponse>, Status> {
        Ok(Response::new(self.submit(request.into_inner()).await?))
    }

    async fn submit_tasks(
        &self,
        request: Request<v1::SubmitTasksRequest>,
    ) -> Result<Response<v1::SubmitTasksResponse>, Status> {
        let request = request.into_inner();
        if request.tasks.is_empty() || request.tasks.len() > self.batch {
            let text = format!("holds {} tasks, 1 to {} are allowed", request.tasks.len(), self.batch);
            return Err(invalid("tasks", text));
        }
        let submits = request.tasks.into_iter().map(|mut task| {
            let of_batch = if request.namespace.is_empty() { "default" } else { &request.namespace };
            let mixed = !task.namespace.is_empty() && task.namespace != of_batch;
            task.namespace.clone_from(&request.namespace);
            async move {
                if mixed {
                    Err(invalid("namespace", "must be empty or that of the batch"))
                } else {
                    self.submit(task).await
                }
            }
        });
        // Together, so that they share commits.
        let mut revision = None;
        let mut results = Vec::new();
        for answer in futures_util::future::join_all(submits).await {
            results.push(match answer {
                Ok(answer) => {
                    let newer = |r: &v1::Revision| (r.cluster_generation, r.seq);
                    revision = revision.into_iter().chain(answer.revision).max_by_key(newer);
                    let result = answer.task.map(v1::submit_task_result::Result::Task);
                    v1::SubmitTaskResult { result, duplicate: answer.duplicate }
                }
                Err(status) => v1::SubmitTaskResult { result: Some(item_error(&status)), duplicate: false },
            });
        }
        Ok(Response::new(v1::SubmitTasksResponse { results, revision }))
    }

    async fn get_task(&self, request: Request<v1::GetTaskRequest>) -> Result<Response<v1::GetTaskResponse>, Status> {
        let request = request.into_inner();
        let namespace = check::namespace(&request.namespace)?;
        let id = check::task_id(&request.task_id)?;
        let full = full(request.view, true)?;
        if request.linearizable {
            self.handle.barrier().await?;
        }
        let (record, soft, revision) = self.read(&namespace, id).await?;
        if let Some(least) = request.min_revision {
            let least = Revision { cluster_generation: least.cluster_generation, seq: least.seq };
            if revision < least {
                let text = format!("this replica has reached revision {revision}");
                return Err(Reason::RevisionTooNew.retry_after(text, Duration::from_millis(500)));
            }
        }
        let task = self.show(&namespace, &record, &soft, full).await?;
        Ok(Response::new(v1::GetTaskResponse { task: Some(task), revision: Some(check::revision(revision)) }))
    }

    async fn list_tasks(
        &self,
        request: Request<v1::ListTasksRequest>,
    ) -> Result<Response<v1::ListTasksResponse>, Status> {
        let request = request.into_inner();
        let namespace = check::namespace(&request.namespace)?;
        let full = full(request.view, false)?;
        let size = self.page.size(request.page_size)?;
        let filter = Filter::new(request.filter)?;
        let below = match request.page_token.as_str() {
            "" => None,
            token => Some(filter.open(token)?),
        };
        let (ns, matches) = (namespace.clone(), filter.clone());
        let read = move |view: &View<'_>| {
            let has = view.has(&ns);
            let (tasks, next) =
                view.tasks(&ns, below, LOOK, size, |task| matches.matches(task, &view.task_soft(&ns, task)));
            let tasks: Vec<_> = tasks
                .into_iter()
                .map(|task| {
                    let soft = view.task_soft(&ns, &task);
                    (task, soft)
                })
                .collect();
            (has, tasks, next, view.revision())
        };
        let (has, records, mut next, revision) = self.handle.read(read).await?;
        if !has {
            return Err(super::refusal::rejection(&hive_core::rejection::Rejection::NamespaceNotFound));
        }
        let (mut tasks, mut bytes, mut last) = (Vec::new(), 0, None);
        for (record, soft) in records {
            let task = self.show(&namespace, &record, &soft, full).await?;
            let len = prost::Message::encoded_len(&task);
            if self.page.is_full(bytes, len) {
                next = last;
                break;
            }
            bytes += len;
            last = Some(record.id);
            tasks.push(task);
        }
        let next_page_token = next.map(|id| filter.token(id)).unwrap_or_default();
        Ok(Response::new(v1::ListTasksResponse { tasks, next_page_token, revision: Some(check::revision(revision)) }))
    }

    async fn cancel_task(
        &self,
        request: Request<v1::CancelTaskRequest>,
    ) -> Result<Response<v1::CancelTaskResponse>, Status> {
        let request = request.into_inner();
        let namespace = check::namespace(&request.namespace)?;
        let id = check::task_id(&request.task_id)?;
        let (reply, revision) = self.handle.call(namespace.clone(), Command::Cancel(id)).await?;
        let Reply::Task { task, .. } = reply else { return Err(unexpected()) };
        let task = convert::task(&namespace, &task, &TaskSoft::default(), false);
        Ok(Response::new(v1::CancelTaskResponse { task: Some(task), revision: Some(check::revision(revision)) }))
    }

    type WatchTaskStream = EventStream<v1::WatchTaskResponse>;

    async fn watch_task(
        &self,
        request: Request<v1::WatchTaskRequest>,
    ) -> Result<Response<Self::WatchTaskStream>, Status> {
        let request = request.into_inner();
        let namespace = check::namespace(&request.namespace)?;
        let id = check::task_id(&request.task_id)?;
        let full = full(request.view, false)?;
        let events = self.watches.task(&self.handle, namespace.clone(), id, full).await?;
        let (handle, store) = (self.handle.clone(), Arc::clone(&self.store));
        let events = events.then(move |answer| {
            let (handle, store, namespace) = (handle.clone(), Arc::clone(&store), namespace.clone());
            async move {
                let mut answer: v1::WatchTaskResponse = answer?;
                bodies::fill_event(&handle, &*store, &namespace, answer.event.as_mut(), full).await?;
                Ok(answer)
            }
        });
        Ok(Response::new(Box::pin(events)))
    }

    type WatchTasksStream = EventStream<v1::WatchTasksResponse>;

    async fn watch_tasks(
        &self,
        request: Request<v1::WatchTasksRequest>,
    ) -> Result<Response<Self::WatchTasksStream>, Status> {
        let request = request.into_inner();
        let namespace = check::namespace(&request.namespace)?;
        let filter = Filter::new(request.filter)?;
        let events = self.watches.tasks(&self.handle, namespace.clone(), filter, !request.skip_snapshot).await?;
        let (handle, store) = (self.handle.clone(), Arc::clone(&self.store));
        let events = events.then(move |answer| {
            let (handle, store, namespace) = (handle.clone(), Arc::clone(&store), namespace.clone());
            async move {
                let mut answer: v1::WatchTasksResponse = answer?;
                bodies::fill_event(&handle, &*store, &namespace, answer.event.as_mut(), false).await?;
                Ok(answer)
            }
        });
        Ok(Response::new(Box::pin(events)))
    }

    async fn provide_input(
        &self,
        request: Request<v1::ProvideInputRequest>,
    ) -> Result<Response<v1::ProvideInputResponse>, Status> {
        let request = request.into_inner();
        let namespace = check::namespace(&request.namespace)?;
        let id = check::task_id(&request.task_id)?;
        // Without an id every answer is another one: the same words may answer the next question.
        let digest =
            check::request_digest(&request.request_id, &request)?.unwrap_or_else(|| fresh_id(self.handle.now()).0);
        let input = check::body("input", request.input, &self.limits)?;
        let number = request.number;
        let command = Command::ProvideInput { id, number, input, request: digest };
        let (reply, revision) = self.handle.call(namespace.clone(), command).await?;
        let Reply::Task { task, .. } = reply else { return Err(unexpected()) };
        let task = convert::task(&namespace, &task, &TaskSoft::default(), false);
        Ok(Response::new(v1::ProvideInputResponse { task: Some(task), revision: Some(check::revision(revision)) }))
    }

    async fn wait_task(&self, request: Request<v1::WaitTaskRequest>) -> Result<Response<v1::WaitTaskResponse>, Status> {
        let request = request.into_inner();
        let namespace = check::namespace(&request.namespace)?;
        let id = check::task_id(&request.task_id)?;
        let full = full(request.view, true)?;
        let zero = Duration::ZERO;
        let timeout = check::duration("timeout", request.timeout, WAIT.1, zero, WAIT.0)?;
        let deadline = clock::monotonic() + timeout;
        let _place = self.watches.place()?;
        let mut events = self.handle.events();
        loop {
            let (record, soft, revision) = self.read(&namespace, id).await?;
            let done = record.is_ended();
            let woken = !done
                && tokio::select! {
                    // A task that changes all the time must not put the deadline off.
                    biased;
                    () = tokio::time::sleep_until(deadline) => false,
                    () = self.watches.stopping() => false,
                    () = super::watch::touches(&mut events, &namespace, id) => true,
                };
            if !woken {
                let task = Some(self.show(&namespace, &record, &soft, full).await?);
                let revision = Some(check::revision(revision));
                return Ok(Response::new(v1::WaitTaskResponse { task, done, revision }));
            }
        }
    }

    type TailLogsStream = EventStream<v1::TailLogsResponse>;

    async fn tail_logs(&self, request: Request<v1::TailLogsRequest>) -> Result<Response<Self::TailLogsStream>, Status> {
        let request = request.into_inner();
        let namespace = check::namespace(&request.namespace)?;
        let id = check::task_id(&request.task_id)?;
        let stream = v1::LogStream::try_from(request.stream)
            .map_err(|_| invalid("stream", format!("{} is not a stream", request.stream)))?;
        let place = self.watches.place()?;
        let (record, ..) = self.read(&namespace, id).await?;
        let Some(agent) = record.agent.clone() else {
            return Err(Reason::LogsNotFound.status("the task has not been assigned yet"));
        };
        if request.attempt > record.attempt.0 {
            return Err(Reason::LogsNotFound.status(format!("the task has had {} attempts", record.attempt)));
        }
        if request.attempt != 0 && request.attempt != record.attempt.0 {
            return Err(Reason::LogsNotFound.status("which agent ran an earlier attempt is not kept"));
        }
        let (ns, of) = (namespace.clone(), agent.clone());
        let host =
            self.handle.read(move |view| view.agent(&ns, &of).and_then(|(record, _)| record.host.clone())).await?;
        let Some(host) = host else {
            return Err(Reason::SidecarUnreachable.retry_after(format!("agent {agent} has no host now"), LATER));
        };
        let mut pipe = self.logs.ask((namespace, host), record.token(), request.follow, stream as u32)?;
        pipe.opened().await?;
        let clock = self.handle.clone();
        let chunks = futures_util::stream::unfold(Some((pipe, place)), move |open| {
            let clock = clock.clone();
            async move {
                let (mut pipe, place) = open?;
                let chunk = pipe.next().await?;
                let stream = i32::try_from(chunk.stream).unwrap_or(0);
                let (data, offset, truncated) = (chunk.data, chunk.offset, chunk.truncated);
                let time = Some(check::time_out(clock.now()));
                Some((Ok(v1::TailLogsResponse { stream, data, offset, truncated, time }), Some((pipe, place))))
            }
        });
        Ok(Response::new(Box::pin(chunks)))
    }
}

fn item_error(status: &Status) -> v1::submit_task_result::Result {
    use prost::Message as _;
    // The details of a status are an encoded google.rpc.Status already.
    let error = google_rpc::Status::decode(status.details()).unwrap_or_else(|_| google_rpc::Status {
        code: status.code() as i32,
        message: status.message().to_owned(),
        details: Vec::new(),
    });
    v1::submit_task_result::Result::Error(error)
}
