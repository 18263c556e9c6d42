//! Sidecars whose time is over, and those that come too early.

use std::fs;

use hive_proto::sidecar_v1 as pb;
use hive_proto::sidecar_v1::sidecar_message::Kind;
use hive_sdk::client::TaskSpec;
use hive_sdk::proto::AgentPhase;

use super::peer::{Peer, hello};
use super::{explained, serves, waits};
use crate::harness::{AgentDef, LONG, Rig};

const PATIENT: &[(&str, &str)] = &[("session.beat", "30s"), ("session.lost", "60s")];

#[tokio::test]
async fn another_boot_waits_until_the_first_has_gone_and_then_fences_it() {
    let rig = Rig::with(PATIENT).await;
    let (mut first, welcome) = Peer::welcomed(&rig, hello("s", 1, 0, 1)).await;
    assert_eq!(welcome.generation, 1);
    // While it is alive, nobody else is it, nor hosts its agent.
    waits(&explained(&Peer::unwelcome(&rig, hello("s", 2, 0, 1)).await, "AGENT_ID_IN_USE"));
    let thief = pb::Hello { agents: hello("s", 3, 0, 1).agents, ..hello("thief", 3, 0, 1) };
    waits(&explained(&Peer::unwelcome(&rig, thief).await, "AGENT_ID_IN_USE"));
    // Nor with a generation that was never its own.
    for (boot, generation) in [(1, 2), (1, u64::MAX), (2, 1)] {
        explained(&Peer::unwelcome(&rig, hello("s", boot, generation, 9)).await, "SIDECAR_FENCED");
    }
    assert!(first.say([Kind::Goodbye(pb::Goodbye::default())]).await);
    first.end().await.expect("an orderly goodbye");

    let (_second, welcome) = Peer::welcomed(&rig, hello("s", 2, 0, 1)).await;
    assert_eq!(welcome.generation, 2);
    explained(&Peer::unwelcome(&rig, hello("s", 1, 1, 2)).await, "SIDECAR_FENCED");
    serves(&rig).await;
}

#[tokio::test]
async fn of_two_connections_the_later_one_holds() {
    let rig = Rig::with(PATIENT).await;
    let (mut older, _) = Peer::welcomed(&rig, hello("s", 1, 0, 5)).await;
    // A dial that was overtaken on the way.
    for connection in [0, 4, 5] {
        explained(&Peer::unwelcome(&rig, hello("s", 1, 1, connection)).await, "SESSION_STALE");
    }
    let (mut newer, welcome) = Peer::welcomed(&rig, hello("s", 1, 1, 6)).await;
    assert_eq!((welcome.generation, welcome.connection), (1, 6));
    explained(&older.end().await.expect_err("the older one ends"), "SESSION_STALE");
    // The later one is none the worse.
    assert!(newer.say([Kind::Heartbeat(pb::Heartbeat { beat: 1, ..Default::default() })]).await);
    let acked = newer.until("an answer to a beat", |said| match said {
        pb::control_message::Kind::HeartbeatAck(ack) => Some(ack.beat),
        _ => None,
    });
    assert_eq!(acked.await, 1);
    rig.phase("s", AgentPhase::Ready).await;
    serves(&rig).await;
}

/// The real program, put back to a state of an earlier life: it is told, says so and exits.
#[tokio::test]
async fn a_sidecar_with_an_old_journal_is_fenced_and_exits() {
    let mut rig = Rig::new().await;
    let agents = [AgentDef::script("c1", &["run"], "cat")];
    rig.sidecar("s1", &agents).await;
    rig.sidecar_process("s1").terminate(LONG).await;
    let (state, old) = (rig.path().join("s1/state"), rig.path().join("s1/old"));
    fs::rename(&state, &old).expect("put the journal away");
    rig.start_sidecar("s1");
    rig.phase("c1", AgentPhase::Ready).await;
    rig.sidecar_process("s1").terminate(LONG).await;
    fs::rename(&state, rig.path().join("s1/new")).expect("put the journal away");
    fs::rename(&old, &state).expect("put the old journal back");

    rig.start_sidecar("s1");
    let process = rig.sidecar_process("s1");
    let status = process.wait(LONG).await;
    let log = process.log();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("SIDECAR_FENCED") || log.contains("fenced") || log.contains("replaced"), "{log}");

    // The life that holds goes on.
    fs::rename(&state, rig.path().join("s1/old-again")).expect("put away");
    fs::rename(rig.path().join("s1/new"), &state).expect("put back");
    rig.start_sidecar("s1");
    let id = rig.submit(TaskSpec::new("run").payload("x")).await.id();
    rig.result(id).await;
}
