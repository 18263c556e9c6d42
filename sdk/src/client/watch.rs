//! Watches that outlive their streams.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, unfold};
use futures_util::{FutureExt as _, Stream, StreamExt as _};
use hive_proto::v1::{self, Agent, Task, TaskFilter};
use tonic::Status;

use super::call::backoff;
use super::follow::{Event, Follow, Heard, Item};
use super::{Client, Error, TaskExt as _, TaskId};
use crate::backoff::Backoff;
use crate::clock;

/// A stream opens within this.
const OPEN_LIMIT: Duration = Duration::from_secs(10);
/// Bookmarks come every 30 s; a stream silent for three of them is dead.
const SILENCE_LIMIT: Duration = Duration::from_secs(90);

/// Events of a watch, without end: it dials again when its stream breaks, catches up, and tells
/// nothing twice. An `Err` is final. Dropping it ends it.
pub struct Watch<T> {
    events: BoxStream<'static, Result<Event<T>, Error>>,
}

impl<T> Watch<T> {
    /// The next event; `None` after the end. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<Event<T>, Error>> {
        self.events.next().await
    }
}

impl<T> Stream for Watch<T> {
    type Item = Result<Event<T>, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.poll_next_unpin(cx)
    }
}

impl<T> std::fmt::Debug for Watch<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

impl Client {
    /// Follows all tasks that match: those there are, [`Event::Synced`], then changes, among them
    /// the change by which a task stops matching. Payloads and results are left out.
    pub fn watch(&self, filter: TaskFilter) -> Watch<Task> {
        watch(self.clone(), Tasks(filter))
    }

    /// Follows one task until it has ended.
    pub fn watch_task(&self, id: TaskId) -> Watch<Task> {
        watch(self.clone(), OneTask(id))
    }

    /// Follows all agents of the namespace.
    pub fn watch_agents(&self) -> Watch<Agent> {
        watch(self.clone(), Agents)
    }
}

type Opened<T> = BoxStream<'static, Result<Heard<T>, Status>>;

trait Feed: Send + 'static {
    type Item: Item + Send + 'static;

    fn open(&self, client: &Client) -> BoxFuture<'static, Result<Opened<Self::Item>, Status>>;

    /// The watch asked for such an item.
    fn matches(&self, _item: &Self::Item) -> bool {
        true
    }

    /// Nothing follows after this item.
    fn ends_with(&self, _item: &Self::Item) -> bool {
        false
    }
}

struct Tasks(TaskFilter);

impl Feed for Tasks {
    type Item = Task;

    fn open(&self, client: &Client) -> BoxFuture<'static, Result<Opened<Task>, Status>> {
        let request =
            v1::WatchTasksRequest { namespace: client.ns(), filter: Some(self.0.clone()), skip_snapshot: false };
        let mut tasks = client.tasks();
        async move {
            let stream = tasks.watch_tasks(request).await?.into_inner();
            Ok(stream.map(|message| message.map(|m| of_task(m.event))).boxed())
        }
        .boxed()
    }

    fn matches(&self, task: &Task) -> bool {
        let filter = &self.0;
        let spec = task.spec.as_ref();
        (filter.states.is_empty() || filter.states.contains(&task.state))
            && (filter.agent_id.is_empty() || filter.agent_id == task.agent_id)
            && (filter.capability.is_empty() || spec.is_some_and(|s| s.capabilities.contains(&filter.capability)))
            && filter.labels.iter().all(|(key, value)| spec.is_some_and(|s| s.labels.get(key) == Some(value)))
    }
}

struct OneTask(TaskId);

impl Feed for OneTask {
    type Item = Task;

    fn open(&self, client: &Client) -> BoxFuture<'static, Result<Opened<Task>, Status>> {
        let request = v1::WatchTaskRequest { namespace: client.ns(), task_id: self.0.to_string(), view: 0 };
        let mut tasks = client.tasks();
        async move {
            let stream = tasks.watch_task(request).await?.into_inner();
            Ok(stream.map(|message| message.map(|m| of_task(m.event))).boxed())
        }
        .boxed()
    }

    fn ends_with(&self, task: &Task) -> bool {
        task.is_terminal()
    }
}

fn of_task(event: Option<v1::TaskEvent>) -> Heard<Task> {
    let event = event.unwrap_or_default();
    Heard { kind: event.kind(), revision: event.revision.unwrap_or_default(), item: event.task }
}

struct Agents;

impl Feed for Agents {
    type Item = Agent;

    fn open(&self, client: &Client) -> BoxFuture<'static, Result<Opened<Agent>, Status>> {
        let request = v1::WatchAgentsRequest { namespace: client.ns() };
        let mut agents = client.agents();
        async move {
            let stream = agents.watch_agents(request).await?.into_inner();
            Ok(stream.map(|message| message.map(of_agent)).boxed())
        }
        .boxed()
    }
}

fn of_agent(event: v1::WatchAgentsResponse) -> Heard<Agent> {
    use v1::{AgentEventKind as From, TaskEventKind as To};
    let kind = match event.kind() {
        From::Unspecified => To::Unspecified,
        From::Snapshot => To::Snapshot,
        From::Sync => To::Sync,
        From::Changed => To::Changed,
        From::Deleted => To::Deleted,
        From::Bookmark => To::Bookmark,
        From::Resync => To::Resync,
    };
    Heard { kind, item: event.agent, revision: event.revision.unwrap_or_default() }
}

fn watch<F: Feed + Sync>(client: Client, feed: F) -> Watch<F::Item> {
    let state = Watching {
        client,
        feed,
        follow: Follow::default(),
        stream: None,
        ready: VecDeque::new(),
        backoff: backoff(),
        in_contact: true,
        last: false,
        over: false,
    };
    let events = unfold(state, |mut state| async move {
        let event = state.next().await?;
        Some((event, state))
    });
    Watch { events: events.fuse().boxed() }
}

struct Watching<F: Feed> {
    client: Client,
    feed: F,
    follow: Follow,
    stream: Option<Opened<F::Item>>,
    ready: VecDeque<Event<F::Item>>,
    backoff: Backoff,
    /// No interruption has been told since the last sync.
    in_contact: bool,
    /// The item after which nothing follows has been heard.
    last: bool,
    over: bool,
}

impl<F: Feed> Watching<F> {
    async fn next(&mut self) -> Option<Result<Event<F::Item>, Error>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(Ok(event));
            }
            if self.over {
                return None;
            }
            let cause = match &mut self.stream {
                None => match self.open().await {
                    Ok(()) => continue,
                    Err(error) => error,
                },
                Some(stream) => match tokio::time::timeout(SILENCE_LIMIT, stream.next()).await {
                    Ok(Some(Ok(heard))) => {
                        self.heard(heard);
                        continue;
                    }
                    Ok(None) if self.last => {
                        self.over = true;
                        continue;
                    }
                    Ok(Some(Err(status))) => self.client.failed(status),
                    Ok(None) => self.client.failed(Status::unavailable("the server ended the watch")),
                    Err(_) => self.client.failed(Status::unavailable("nothing heard for 90 s")),
                },
            };
            self.stream = None;
            if !cause.is_retryable() {
                self.over = true;
                return Some(Err(cause));
            }
            if std::mem::take(&mut self.in_contact) {
                // The pause is made after this is told.
                return Some(Ok(Event::Interrupted { cause }));
            }
            let wait = self.backoff.next(clock::random()) + cause.retry_after().unwrap_or_default();
            tokio::time::sleep(wait).await;
        }
    }

    async fn open(&mut self) -> Result<(), Error> {
        let open = tokio::time::timeout(OPEN_LIMIT, self.feed.open(&self.client)).await;
        let unanswered = |_| Error::Deadline { call: "opening the watch", limit: OPEN_LIMIT, last: None };
        self.stream = Some(open.map_err(unanswered)?.map_err(|status| self.client.failed(status))?);
        self.follow.begin();
        Ok(())
    }

    fn heard(&mut self, heard: Heard<F::Item>) {
        use v1::TaskEventKind as Kind;
        let (kind, feed) = (heard.kind, &self.feed);
        self.last |= heard.item.as_ref().is_some_and(|item| feed.ends_with(item));
        let told = self.follow.step(heard, |item| feed.matches(item));
        self.ready.extend(told.events);
        match kind {
            Kind::Sync => {
                self.in_contact = true;
                self.backoff.reset();
                self.over = self.last;
            }
            Kind::Changed => self.over = self.last,
            _ => {}
        }
        if told.again {
            self.stream = None;
        }
    }
}
