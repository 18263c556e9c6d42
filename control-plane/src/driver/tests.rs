//! The loop over the real store, spoken to as a session and an API call would.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use hive_core::command::Command;
use hive_core::id::{
    AgentId, AssignNumber, AttemptId, BootId, ConnectionNumber, Generation, Namespace, SidecarId, TaskId,
};
use hive_core::leader::{Credit, Declared, FromSidecar, Hello, ToSidecar};
use hive_core::record::{AgentSpec, Body, Key, Requirement, RetryPolicy, Runtime, TaskSpec};
use hive_core::settings::Settings;
use hive_core::time::Time;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Down, Event, prepare};
use crate::assemble::Sources;
use crate::store::embedded::{ClusterId, Embedded, Options};
use crate::store::{MAX_OPS, Store as _};
use crate::tasks::{TaskKind, Tasks};

const AGENTS: usize = 12;
const SLOTS: u32 = 100;

fn declared(number: usize) -> Declared {
    let agent = AgentId::parse(&format!("agent-{number}")).expect("a name");
    let (pool, capabilities) = (Arc::from("default"), [Arc::from("work")].into());
    let spec = AgentSpec { pool, capabilities, labels: Default::default(), slots: SLOTS, runtime: Runtime::Command };
    Declared { spec, digest: [1; 16], credit: Credit { agent, free: SLOTS, ready: true }, removed: false }
}

fn task() -> Arc<TaskSpec> {
    let second = Duration::from_secs(1);
    Arc::new(TaskSpec {
        requirement: Requirement { capabilities: [Arc::from("work")].into(), ..Default::default() },
        capability: Arc::from("work"),
        priority: Default::default(),
        payload: Body::split(Arc::from("text/plain"), bytes::Bytes::new()).0,
        labels: Default::default(),
        retry: RetryPolicy { max_failures: 3, base_delay: second, max_delay: second },
        attempt_timeout: 600 * second,
        queue_timeout: 600 * second,
        input_timeout: 600 * second,
        disconnect: Default::default(),
        digest: [0; 16],
    })
}

/// A thousand and more tasks that start at once are one event, or a few: the watchers' buffer is 1,024.
#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_starts_does_not_outrun_the_watchers() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Embedded::open(folder.path(), &Options::new(ClusterId(1), Time::ZERO)).expect("opens");
    let namespace = Namespace::parse("default").expect("a name");
    let (driver, handle) = prepare(Arc::new(store), Settings::default(), vec![namespace.clone()], Sources::real())
        .await
        .expect("it leads");
    let stop = CancellationToken::new();
    let tasks = Tasks::new(&stop);
    tasks.spawn(TaskKind::Driver, driver.run(stop.clone(), stop.clone()));

    let (down, mut heard) = mpsc::channel(256);
    let stream = handle.attach(down, &tasks).await.expect("a driver");
    let hello = Hello {
        namespace: namespace.clone(),
        sidecar: SidecarId::parse("sidecar").expect("a name"),
        boot: BootId(1),
        generation: Generation(0),
        connection: ConnectionNumber(1),
        agents: (0..AGENTS).map(declared).collect(),
        attempts: Vec::new(),
    };
    stream.frame(Default::default(), vec![FromSidecar::Hello(Box::new(hello))]).await.expect("a driver");
    let count = AGENTS * SLOTS as usize;
    let submit = |n: usize| {
        let id = TaskId::new(handle.now(), n as u128);
        handle.call(namespace.clone(), Command::Submit { id, spec: task(), blob: None })
    };
    let submitted = futures_util::future::join_all((0..count).map(submit)).await;
    assert!(submitted.iter().all(Result::is_ok));

    let (mut tokens, mut seen, mut epoch) = (BTreeSet::<AttemptId>::new(), AssignNumber(0), Default::default());
    while tokens.len() < count {
        let down = tokio::time::timeout(Duration::from_secs(20), heard.recv()).await.expect("in time");
        let Some(Down::Frame { leader, messages }) = down else { panic!("a frame, not {down:?}") };
        epoch = leader;
        for message in messages {
            if let ToSidecar::Assign(assignment) = message {
                tokens.insert(assignment.task.token());
                seen = assignment.number;
            }
        }
    }
    let mut events = handle.events();
    let mut messages = vec![FromSidecar::Receipt(seen)];
    messages.extend(tokens.iter().map(|token| FromSidecar::Started(*token)));
    stream.frame(epoch, messages).await.expect("a driver");

    let (mut touched, mut told) = (BTreeSet::new(), 0);
    while touched.len() < count {
        let event = tokio::time::timeout(Duration::from_secs(20), events.recv()).await.expect("in time");
        if let Event::Touched { keys, .. } = event.expect("no watcher lags") {
            told += 1;
            touched.extend(keys.iter().filter(|key| matches!(key, Key::Task(..))).cloned());
        }
    }
    assert!(told < 50, "{count} starts were told in {told} events");
    stop.cancel();
    tasks.ended_all().await;
}

/// A busy leader shares a sync among as many writes as its store takes, not as many as every store would.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_is_as_large_as_the_store_takes() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Embedded::open(folder.path(), &Options::new(ClusterId(1), Time::ZERO)).expect("opens");
    let most = store.max_ops();
    assert!(most > MAX_OPS);
    let namespace = Namespace::parse("default").expect("a name");
    let (driver, handle) = prepare(Arc::new(store), Settings::default(), vec![namespace.clone()], Sources::real())
        .await
        .expect("it leads");
    let stop = CancellationToken::new();
    let tasks = Tasks::new(&stop);
    let mut events = handle.events();
    let submit = |n: usize| {
        let id = TaskId::new(handle.now(), n as u128);
        handle.call(namespace.clone(), Command::Submit { id, spec: task(), blob: None })
    };
    // All of it waits when the loop begins.
    let submitted = async { futures_util::future::join_all((0..most).map(submit)).await };
    let begin = async { tasks.spawn(TaskKind::Driver, driver.run(stop.clone(), stop.clone())) };
    let (submitted, _) = tokio::join!(submitted, begin);
    assert!(submitted.iter().all(Result::is_ok));
    let first = events.recv().await.expect("a commit");
    let Event::Committed { changes, .. } = first else { panic!("a commit, not {first:?}") };
    assert!(changes.len() > MAX_OPS && changes.len() <= most, "{} changes in one commit", changes.len());
    stop.cancel();
    tasks.ended_all().await;
}
