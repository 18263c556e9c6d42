use std::time::Duration;

use hive_proto::v1::{Revision, Task, TaskEvent, TaskEventKind as Kind, TaskState};
use hive_sdk::Client;
use hive_sdk::client::{Event, TaskFilter, Watch};
use tonic::Status;

use crate::fake::{Fake, Script};
use crate::soon;

fn event(kind: Kind, seq: u64, task: Option<(&str, TaskState)>) -> Result<TaskEvent, Status> {
    let task = task.map(|(id, state)| Task { id: id.to_owned(), state: state.into(), ..Default::default() });
    let revision = Some(Revision { cluster_generation: 1, seq });
    Ok(TaskEvent { kind: kind.into(), task, revision })
}

fn streams(all: impl IntoIterator<Item = Vec<Result<TaskEvent, Status>>>) -> Script {
    let watch = all.into_iter().map(Ok).collect::<std::collections::VecDeque<_>>().into();
    Script { watch, ..Default::default() }
}

fn client(fake: &Fake) -> Client {
    Client::builder().endpoint(fake.endpoint()).timeout(Duration::from_secs(5)).connect_lazy().expect("an endpoint")
}

async fn told(watch: &mut Watch<Task>) -> String {
    match soon("an event", watch.next()).await {
        Some(Ok(Event::Changed { item, .. })) => format!("{} {:?}", item.id, item.state()),
        Some(Ok(Event::Synced { revision })) => format!("synced {}", revision.seq),
        Some(Ok(Event::Deleted { id, .. })) => format!("{id} gone"),
        Some(Ok(Event::Interrupted { .. })) => "interrupted".to_owned(),
        Some(Ok(other)) => format!("{other:?}"),
        Some(Err(error)) => format!("error {:?}", error.code()),
        None => "end".to_owned(),
    }
}

use TaskState::{Pending, Running, Succeeded};

#[tokio::test]
async fn a_watch_is_made_anew_on_resync_and_tells_nothing_twice() {
    let fake = Fake::start(streams([
        vec![
            event(Kind::Snapshot, 5, Some(("a", Pending))),
            event(Kind::Sync, 5, None),
            event(Kind::Changed, 6, Some(("a", Running))),
            event(Kind::Bookmark, 7, None),
            event(Kind::Resync, 7, None),
        ],
        vec![
            event(Kind::Snapshot, 9, Some(("a", Running))),
            event(Kind::Snapshot, 9, Some(("b", Pending))),
            event(Kind::Sync, 9, None),
            event(Kind::Changed, 8, Some(("b", Pending))),
            event(Kind::Changed, 10, Some(("a", Succeeded))),
        ],
    ]))
    .await;
    let mut watch = client(&fake).watch(TaskFilter::default());
    for expected in ["a Pending", "synced 5", "a Running", "b Pending", "synced 9", "a Succeeded"] {
        assert_eq!(told(&mut watch).await, expected);
    }
}

#[tokio::test]
async fn a_watch_outlives_the_server() {
    let fake =
        Fake::start(streams([vec![event(Kind::Snapshot, 5, Some(("a", Pending))), event(Kind::Sync, 5, None)]])).await;
    let mut watch = client(&fake).watch(TaskFilter::default());
    assert_eq!(told(&mut watch).await, "a Pending");
    assert_eq!(told(&mut watch).await, "synced 5");
    let address = fake.kill().await;
    assert_eq!(told(&mut watch).await, "interrupted");
    let _fake = Fake::start_at(
        address,
        streams([vec![event(Kind::Snapshot, 8, Some(("b", Pending))), event(Kind::Sync, 8, None)]]),
    )
    .await;
    for expected in ["b Pending", "a gone", "synced 8"] {
        assert_eq!(told(&mut watch).await, expected);
    }
}

#[tokio::test]
async fn a_watch_of_one_task_ends_with_it() {
    let fake = Fake::start(streams([vec![
        event(Kind::Snapshot, 5, Some(("a", Pending))),
        event(Kind::Sync, 5, None),
        event(Kind::Changed, 6, Some(("a", Succeeded))),
    ]]))
    .await;
    let client = client(&fake);
    let mut watch = client.watch_task(client.new_task_id());
    for expected in ["a Pending", "synced 5", "a Succeeded", "end", "end"] {
        assert_eq!(told(&mut watch).await, expected);
    }
}

#[tokio::test]
async fn a_refusal_ends_a_watch() {
    let watch = [Err(Status::not_found("no such namespace"))].into_iter().collect::<std::collections::VecDeque<_>>();
    let fake = Fake::start(Script { watch: watch.into(), ..Default::default() }).await;
    let mut watch = client(&fake).watch(TaskFilter::default());
    assert_eq!(told(&mut watch).await, "error NotFound");
    assert_eq!(told(&mut watch).await, "end");
}
