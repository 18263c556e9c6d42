//! Stops and starts of the control plane that are no crash, what watches see of them, and what it
//! costs when nothing happens.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hive_sdk::client::{Event, TaskExt as _, TaskFilter, TaskSpec};
use hive_sdk::proto::{AgentPhase, TaskState};
use rustix::process::Signal;

use crate::harness::{AgentDef, LONG, LOSES, Rig, eventually, now, spawn};
use crate::programs::Gate;

#[tokio::test]
async fn a_graceful_stop_restarts_no_task() {
    let mut rig = Rig::new().await;
    let gate = Gate::new(rig.path());
    rig.sidecar("sidecar-1", &[gate.agent("cmd-1"), AgentDef::demo("demo-1")]).await;
    let command = rig.submit(TaskSpec::new("gated")).await.id();
    let sdk = rig.submit(TaskSpec::new("echo").payload(r#"{"sleep_ms": 2000}"#)).await.id();
    gate.begun(1).await;
    rig.state(sdk, TaskState::Running).await;
    // Open streams of clients do not hold it up.
    let mut watch = rig.client().watch(TaskFilter::default());
    watch.next().await.expect("an event").expect("a watch");
    let begun = now();
    rig.control_plane().signal(Signal::TERM);
    assert!(rig.control_plane().wait(LONG).await.success());
    assert!(now().duration_since(begun) < Duration::from_secs(10), "it stops soon though streams are open");
    rig.start_control_plane().await;
    gate.open();
    assert_eq!(rig.result(command).await.0.attempt, 1);
    assert_eq!(rig.result(sdk).await.0.attempt, 1);
    assert_eq!(gate.runs(), 1);
}

/// While it stops it has sent its sidecars away: their silence is its own doing.
#[tokio::test]
async fn a_slow_stop_blames_nobody() {
    let mut rig = Rig::with(&[LOSES[0], ("shutdown.drain", "8s")]).await;
    let gate = Gate::new(rig.path());
    rig.sidecar("sidecar-1", &[gate.agent("cmd-1")]).await;
    let id = rig.submit(TaskSpec::new("gated")).await.id();
    gate.begun(1).await;
    rig.sidecar("sidecar-2", &[AgentDef::demo("demo-1")]).await;
    // Its stream does not end, so the stop takes the whole drain, which is longer than the grace.
    rig.sidecar_process("sidecar-2").pause();
    let begun = now();
    rig.control_plane().signal(Signal::TERM);
    rig.control_plane().wait(LONG).await;
    assert!(now().duration_since(begun) > Duration::from_secs(5), "too quick a stop to show anything");
    rig.set("session.lost", "30s");
    rig.start_control_plane().await;
    rig.sidecar_process("sidecar-2").resume();
    rig.phase("cmd-1", AgentPhase::Ready).await;
    gate.open();
    assert_eq!((rig.result(id).await.0.attempt, gate.runs()), (1, 1));
}

#[tokio::test]
async fn a_stop_longer_than_the_grace_restarts_no_task() {
    let mut rig =
        Rig::with(&[("session.lost", "1s"), ("session.lost_beats", "2"), ("session.suspect_beats", "1")]).await;
    let gate = Gate::new(rig.path());
    rig.sidecar("sidecar-1", &[gate.agent("cmd-1")]).await;
    rig.sidecar("sidecar-2", &[gate.agent("cmd-2")]).await;
    let id = rig.submit(TaskSpec::new("gated")).await.id();
    gate.begun(1).await;
    rig.control_plane().kill9();
    // The time it is away, three graces; nothing is waited for.
    tokio::time::sleep(Duration::from_secs(3)).await;
    rig.set("session.lost", "30s");
    rig.start_control_plane().await;
    for agent in ["cmd-1", "cmd-2"] {
        rig.phase(agent, AgentPhase::Ready).await;
    }
    gate.open();
    assert_eq!(rig.result(id).await.0.attempt, 1);
    assert_eq!(gate.runs(), 1);
}

#[tokio::test]
async fn a_watch_goes_on_through_a_restart() {
    let mut rig = Rig::new().await;
    rig.sidecar("sidecar-1", &[AgentDef::demo("demo-1")]).await;
    let before = rig.submit(TaskSpec::new("echo").payload("a").label("watched", "yes")).await.id();
    rig.result(before).await;
    let filter = TaskFilter { labels: [("watched".to_owned(), "yes".to_owned())].into(), ..Default::default() };
    let mut watch = rig.client().watch(filter);
    let mut ends: BTreeMap<String, u32> = BTreeMap::new();
    let mut interrupted = 0;
    let mut revision = (0, 0);
    let mut after = None;
    while ends.len() < 2 {
        let event = tokio::time::timeout(LONG, watch.next()).await.expect("in time").expect("an event");
        match event.expect("the watch goes on") {
            Event::Changed { item, revision: at, .. } => {
                if item.state() == TaskState::Succeeded {
                    *ends.entry(item.id).or_default() += 1;
                }
                assert!((at.cluster_generation, at.seq) >= revision, "revisions do not go back");
                revision = (at.cluster_generation, at.seq);
            }
            Event::Synced { .. } if after.is_none() => {
                rig.crash_control_plane().await;
                let other = rig.submit(TaskSpec::new("echo").payload("not ours")).await.id();
                rig.result(other).await;
                after = Some(rig.submit(TaskSpec::new("echo").payload("b").label("watched", "yes")).await.id());
            }
            Event::Interrupted { .. } => interrupted += 1,
            _ => {}
        }
    }
    assert!(interrupted >= 1);
    let expected: BTreeMap<String, u32> = [before, after.unwrap()].into_iter().map(|id| (id.to_string(), 1)).collect();
    assert_eq!(ends, expected, "each end is told once, and nothing else");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_that_begin_in_the_thick_of_it_miss_nothing() {
    const TASKS: usize = 2_000;
    let mut rig = Rig::new().await;
    let agents = [AgentDef::demo("demo-1").slots(100), AgentDef::demo("demo-2").slots(100)];
    rig.sidecar("sidecar-1", &agents).await;
    let client = rig.client();
    let submitting = spawn(async move {
        for _ in 0..TASKS / 100 {
            let specs = (0..100).map(|n| TaskSpec::new("echo").payload(format!(r#"{{"sleep_ms": {n}}}"#)));
            let answers = client.submit_many(specs).await;
            assert!(answers.iter().all(Result::is_ok));
        }
    });
    let mut watches = Vec::new();
    while watches.len() < 12 || !submitting.is_finished() {
        let client = rig.client();
        watches.push(spawn(async move {
            let mut watch = client.watch(TaskFilter::default());
            let mut ended = BTreeSet::new();
            while ended.len() < TASKS {
                match tokio::time::timeout(LONG / 2, watch.next()).await {
                    Ok(Some(Ok(Event::Changed { item, .. }))) if item.is_terminal() => {
                        ended.insert(item.id);
                    }
                    Ok(Some(Ok(_))) => {}
                    other => panic!("{} ends were told; then {other:?}", ended.len()),
                }
            }
        }));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    submitting.await.expect("all were submitted");
    for watch in watches {
        tokio::time::timeout(LONG, watch).await.expect("every end is told").expect("a watch");
    }
}

#[tokio::test]
async fn an_idle_fleet_writes_nothing() {
    let mut rig = Rig::with(&[("session.beat", "100ms")]).await;
    rig.sidecar("sidecar-1", &[AgentDef::demo("demo-1")]).await;
    let id = rig.submit(TaskSpec::new("echo").payload("x")).await.id();
    rig.result(id).await;
    let client = rig.client();
    let contact = async || client.get_agent("demo-1").await.expect("the agent").contact_time.expect("contact");
    let revision = async || {
        let status = client.cluster().get_status(hive_sdk::proto::GetStatusRequest::default()).await.expect("status");
        status.into_inner().revision.expect("a revision")
    };
    let busy = rig.submit(TaskSpec::new("echo").payload(r#"{"sleep_ms": 600000}"#)).await.id();
    rig.state(busy, TaskState::Running).await;
    // Thirty beats pass, each acknowledged.
    let quiet = async || {
        let from = contact().await;
        eventually("thirty beats pass", LONG, || async {
            let heard = contact().await;
            let ms = |time: &prost_types::Timestamp| time.seconds * 1_000 + i64::from(time.nanos) / 1_000_000;
            if ms(&heard) - ms(&from) >= 3_000 { Ok(()) } else { Err(heard) }
        })
        .await;
    };
    // The start of the busy one is written within 2 s; after that a task at work costs nothing either.
    quiet().await;
    let (rest, commits) = (revision().await, rig.metric("hive_store_commit_seconds_count").await);
    quiet().await;
    assert_eq!(revision().await, rest, "beats and progress are not written");
    assert_eq!(rig.metric("hive_store_commit_seconds_count").await, commits);
}
