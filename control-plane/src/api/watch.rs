//! Watches: a snapshot, SYNC, then what changes, bookmarks while nothing does, and a resync for a
//! watcher that is too slow.
//!
//! A watch subscribes first and reads then, page by page; what it hears of a page's records from
//! before that page was read is in the page already and is left out.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use hive_core::id::{AgentId, Namespace, Revision, TaskId};
use hive_core::record::{Key, Record};
use hive_proto::v1;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::check::revision;
use super::convert;
use super::error::Reason;
use super::filter::Filter;
use super::tasks::find;
use crate::driver::{Event, Handle, Refusal};
use crate::metrics;
use crate::tasks::{TaskKind, Tasks};

/// Records of one page of a snapshot.
const PAGE: usize = 500;
/// Records looked at for one page.
const LOOK: usize = 5_000;

/// The places for watches, waits and log streams, and how they behave.
#[derive(Clone)]
pub struct Watches {
    places: Arc<Semaphore>,
    tasks: Tasks,
    bookmark: Duration,
    buffer: usize,
}

/// A place taken; dropping it gives it back.
pub(super) struct Place(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

impl Drop for Place {
    fn drop(&mut self) {
        metrics::watches(-1);
    }
}

/// One event, in the form both services share.
enum Told<T> {
    Snapshot(T),
    Sync,
    Changed(T),
    Deleted(T),
    Bookmark,
    Resync,
}

type Sent<T> = (Told<T>, Revision);

impl Watches {
    /// At most `most` at a time; they end when `tasks` stop.
    #[must_use]
    pub fn new(tasks: Tasks, most: u32, watch: &crate::config::Watch) -> Self {
        let places = Arc::new(Semaphore::new(usize::try_from(most).unwrap_or(usize::MAX)));
        let buffer = usize::try_from(watch.buffer).unwrap_or(usize::MAX);
        Self { places, tasks, bookmark: watch.bookmark, buffer }
    }

    pub(super) fn place(&self) -> Result<Place, Status> {
        let permit = Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            Reason::TooManyWatches.retry_after("as many watches are open as may be", Duration::from_secs(5))
        })?;
        metrics::watches(1);
        Ok(Place(permit))
    }

    pub(super) async fn stopping(&self) {
        self.tasks.stopping().cancelled().await;
    }

    pub(super) async fn task(
        &self,
        handle: &Handle,
        namespace: Namespace,
        id: TaskId,
        full: bool,
    ) -> Result<impl Stream<Item = Result<v1::WatchTaskResponse, Status>> + Send + 'static, Status> {
        let place = self.place()?;
        let events = handle.events();
        let now = handle.now();
        let ns = namespace.clone();
        // A task that does not exist is an error of the call, not an empty watch.
        let first = handle.read(move |view| find(view, &ns, id, now)).await??;
        let source =
            OneTask { handle: handle.clone(), namespace, id, full, first: Some(first), told: false, over: false };
        let told = self.start(source, events, place);
        Ok(unfold(told, |told| v1::WatchTaskResponse { event: Some(task_event(told, |task| task)) }))
    }

    pub(super) async fn tasks(
        &self,
        handle: &Handle,
        namespace: Namespace,
        filter: Filter,
        snapshot: bool,
    ) -> Result<impl Stream<Item = Result<v1::WatchTasksResponse, Status>> + Send + 'static, Status> {
        let place = self.place()?;
        let events = handle.events();
        let (known, at) = known(handle, &namespace).await?;
        if !known {
            return Err(super::refusal::rejection(&hive_core::rejection::Rejection::NamespaceNotFound));
        }
        let next = if snapshot { Next::From(None) } else { Next::Done };
        let ns = namespace.clone();
        let source = AllTasks {
            handle: handle.clone(),
            namespace,
            filter,
            next,
            pages: Vec::new(),
            followed: Default::default(),
            since: at,
            ahead: Default::default(),
            at,
        };
        let told = self.start(source, events, place);
        Ok(unfold(told, move |told| v1::WatchTasksResponse { event: Some(task_event(told, |item| item.show(&ns))) }))
    }

    pub(super) async fn agents(
        &self,
        handle: &Handle,
        namespace: Namespace,
    ) -> Result<impl Stream<Item = Result<v1::WatchAgentsResponse, Status>> + Send + 'static, Status> {
        let place = self.place()?;
        let events = handle.events();
        if !known(handle, &namespace).await?.0 {
            return Err(super::refusal::rejection(&hive_core::rejection::Rejection::NamespaceNotFound));
        }
        let source =
            AllAgents { handle: handle.clone(), namespace, after: Some(None), first: true, at: Revision::default() };
        let told = self.start(source, events, place);
        Ok(unfold(told, |(told, at)| {
            let (kind, agent) = match told {
                Told::Snapshot(agent) => (v1::AgentEventKind::Snapshot, Some(agent)),
                Told::Sync => (v1::AgentEventKind::Sync, None),
                Told::Changed(agent) => (v1::AgentEventKind::Changed, Some(agent)),
                Told::Deleted(agent) => (v1::AgentEventKind::Deleted, Some(agent)),
                Told::Bookmark => (v1::AgentEventKind::Bookmark, None),
                Told::Resync => (v1::AgentEventKind::Resync, None),
            };
            v1::WatchAgentsResponse { kind: kind.into(), agent, revision: Some(revision(at)) }
        }))
    }

    fn start<T: Source>(&self, source: T, events: broadcast::Receiver<Event>, place: Place) -> Telling<Sent<T::Item>> {
        let (sender, told) = mpsc::channel(self.buffer.min(1024));
        let (last, last_told) = oneshot::channel();
        let watch = Watch { source, events, sender, last, bookmark: self.bookmark, stop: self.tasks.stopping() };
        self.tasks.spawn(TaskKind::Stream, async move {
            let _place = place;
            watch.run().await;
            Ok(())
        });
        Telling { told, last: last_told }
    }
}

async fn known(handle: &Handle, namespace: &Namespace) -> Result<(bool, Revision), Status> {
    let ns = namespace.clone();
    Ok(handle.read(move |view| (view.has(&ns), view.revision())).await?)
}

fn task_event<T>((told, at): Sent<T>, show: impl FnOnce(T) -> v1::Task) -> v1::TaskEvent {
    let (kind, task) = match told {
        Told::Snapshot(task) => (v1::TaskEventKind::Snapshot, Some(task)),
        Told::Sync => (v1::TaskEventKind::Sync, None),
        Told::Changed(task) => (v1::TaskEventKind::Changed, Some(task)),
        Told::Deleted(task) => (v1::TaskEventKind::Deleted, Some(task)),
        Told::Bookmark => (v1::TaskEventKind::Bookmark, None),
        Told::Resync => (v1::TaskEventKind::Resync, None),
    };
    v1::TaskEvent { kind: kind.into(), task: task.map(show), revision: Some(revision(at)) }
}

/// What a watcher is told, and the last word after it.
struct Telling<T> {
    told: mpsc::Receiver<T>,
    last: oneshot::Receiver<T>,
}

impl<T> Telling<T> {
    async fn next(&mut self) -> Option<T> {
        match self.told.recv().await {
            Some(next) => Some(next),
            None => self.last.try_recv().ok(),
        }
    }
}

fn unfold<A: Send + 'static, B: Send + 'static>(
    told: Telling<A>,
    wrap: impl Fn(A) -> B + Send + 'static,
) -> impl Stream<Item = Result<B, Status>> + Send + 'static {
    futures_util::stream::unfold((told, wrap), |(mut told, wrap)| async move {
        let next = told.next().await?;
        Some((Ok(wrap(next)), (told, wrap)))
    })
}

/// What a watch is about.
trait Source: Send + Sync + 'static {
    type Item: Send + Sync + 'static;
    /// The next part of the snapshot; none when it is complete.
    fn page(&mut self) -> impl Future<Output = Result<Option<Vec<Sent<Self::Item>>>, Refusal>> + Send;
    /// What an event says about it.
    fn hear(&mut self, event: &Event) -> impl Future<Output = Result<Vec<Sent<Self::Item>>, Refusal>> + Send;
    /// What it has reached.
    fn at(&self) -> Revision;
    /// Nothing more can come.
    fn is_over(&self) -> bool {
        false
    }
}

struct Watch<T: Source> {
    source: T,
    events: broadcast::Receiver<Event>,
    sender: mpsc::Sender<Sent<T::Item>>,
    last: oneshot::Sender<Sent<T::Item>>,
    bookmark: Duration,
    stop: CancellationToken,
}

impl<T: Source> Watch<T> {
    /// Runs until the watcher has gone, is too slow, or nothing more can come.
    async fn run(mut self) {
        loop {
            match self.source.page().await {
                Ok(Some(page)) => {
                    if !self.send_all(page).await {
                        return;
                    }
                }
                Ok(None) => break,
                Err(_) => return self.resync(),
            }
        }
        let at = self.source.at();
        if self.sender.send((Told::Sync, at)).await.is_err() {
            return;
        }
        while !self.source.is_over() {
            let event = tokio::select! {
                // Events that never cease must not put the end off.
                biased;
                () = self.sender.closed() => return,
                () = self.stop.cancelled() => return self.resync(),
                event = self.events.recv() => event,
                () = tokio::time::sleep(self.bookmark) => {
                    if self.sender.send((Told::Bookmark, self.source.at())).await.is_err() {
                        return;
                    }
                    continue;
                }
            };
            let heard = match event {
                Ok(event) => self.source.hear(&event).await,
                Err(RecvError::Lagged(_) | RecvError::Closed) => return self.resync(),
            };
            match heard {
                Ok(told) => {
                    if !self.send_all(told).await {
                        return;
                    }
                }
                Err(_) => return self.resync(),
            }
        }
    }

    /// A watcher that does not read holds this task, not the driver: the events pass it by and it
    /// finds itself lagging.
    async fn send_all(&self, all: Vec<Sent<T::Item>>) -> bool {
        for told in all {
            if self.sender.send(told).await.is_err() {
                return false;
            }
        }
        true
    }

    /// The last word, for which there is always room: it follows what the watcher has not read yet.
    fn resync(self) {
        metrics::watch_dropped();
        let _gone = self.last.send((Told::Resync, self.source.at()));
    }
}

/// Waits for the next event about a task, or for one that was missed.
pub(super) async fn touches(events: &mut broadcast::Receiver<Event>, namespace: &Namespace, id: TaskId) {
    let ours = |key: &Key| matches!(key, Key::Task(ns, task) if ns == namespace && *task == id);
    loop {
        match events.recv().await {
            Ok(Event::Committed { changes, .. }) if changes.iter().any(|(key, _)| ours(key)) => return,
            Ok(_) => {}
            Err(RecvError::Lagged(_)) => return,
            // The server is stopping; whoever waits is told so by other means.
            Err(RecvError::Closed) => return std::future::pending().await,
        }
    }
}

struct OneTask {
    handle: Handle,
    namespace: Namespace,
    id: TaskId,
    full: bool,
    /// As last told.
    first: Option<(Arc<hive_core::record::TaskRecord>, hive_core::leader::TaskSoft, Revision)>,
    told: bool,
    over: bool,
}

/// A task that waits to be told. It is made into a message when it leaves: a watch that is not read
/// holds records which are there anyway, not a thousand messages of its own.
enum Waiting {
    Task(Arc<hive_core::record::TaskRecord>, hive_core::leader::TaskSoft),
    Deleted(TaskId),
}

impl Waiting {
    fn show(self, namespace: &Namespace) -> v1::Task {
        match self {
            Self::Task(record, soft) => convert::task(namespace, &record, &soft, false),
            Self::Deleted(id) => deleted_task(namespace, id),
        }
    }
}

enum Next<T> {
    From(Option<T>),
    Done,
}

struct AllTasks {
    handle: Handle,
    namespace: Namespace,
    filter: Filter,
    next: Next<TaskId>,
    /// Down to which id each page reached, and at which revision it was read.
    pages: Vec<(Option<TaskId>, Revision)>,
    /// Living tasks that were told of and may stop matching.
    followed: std::collections::BTreeSet<TaskId>,
    /// Where a watch without snapshot begins.
    since: Revision,
    /// Tasks of which more was told than has been heard, and up to which revision; forgotten once
    /// that is heard.
    ahead: std::collections::BTreeMap<TaskId, Revision>,
    at: Revision,
}

struct AllAgents {
    handle: Handle,
    namespace: Namespace,
    after: Option<Option<AgentId>>,
    first: bool,
    at: Revision,
}

mod source;

fn deleted_task(namespace: &Namespace, id: TaskId) -> v1::Task {
    v1::Task { id: id.to_string(), namespace: namespace.to_string(), ..Default::default() }
}

/// The records of one kind that an event is about.
fn about<'a>(event: &'a Event, namespace: &'a Namespace) -> VecDeque<(&'a Key, Option<&'a Record>, Revision, bool)> {
    match event {
        Event::Committed { revision, changes } => changes
            .iter()
            .filter(|(key, _)| key.namespace() == namespace)
            .map(|(key, record)| (key, record.as_ref(), *revision, true))
            .collect(),
        Event::Touched { revision, keys } => {
            keys.iter().filter(|key| key.namespace() == namespace).map(|key| (key, None, *revision, false)).collect()
        }
    }
}

fn agent_shown(view: &hive_core::leader::View<'_>, ns: &Namespace, id: &AgentId) -> Option<v1::Agent> {
    convert::agent_of(view, ns, id)
}
