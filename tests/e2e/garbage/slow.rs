//! A sidecar that does not read: it is cut, others are not held up, and what it missed is found.

use hive_proto::sidecar_v1::sidecar_message::Kind;
use hive_proto::sidecar_v1 as pb;
use hive_sdk::proto::{self as v1, AgentPhase};

use super::peer::{Peer, first_attempt, hello};
use super::{explained, serves, submission, submit};
use crate::harness::{AgentDef, LONG, Rig, eventually};
use hive_sdk::client::TaskSpec;

#[tokio::test]
async fn a_sidecar_that_does_not_read_is_cut_and_finds_its_work_again() {
    let mut rig = Rig::with(&[("session.beat", "30s"), ("session.lost", "60s")]).await;
    rig.sidecar("fast", &[AgentDef::script("fast", &["fast"], "cat")]).await;
    let (mut slow, _) = Peer::welcomed(&rig, hello("slow", 1, 0, 1)).await;
    // More than the window holds.
    let payload = Some(v1::Payload { data: vec![0; 200 << 10].into(), ..Default::default() });
    let spec = v1::TaskSpec { capabilities: vec!["slow".to_owned()], payload, ..Default::default() };
    let id = submit(&rig, submission(spec)).await.expect("a task").id;

    // Every beat wants an answer that is not read.
    let phase = async || rig.client().get_agent("slow").await.expect("the agent").phase();
    let mut beat = 0;
    eventually("the slow one is cut", LONG, || {
        let beats: Vec<_> = (0..64).map(|n| pb::Heartbeat { beat: beat + n, ..Default::default() }).collect();
        beat += 64;
        let (slow, phase) = (&mut slow, &phase);
        async move {
            for beat in beats {
                slow.say([Kind::Heartbeat(beat)]).await;
            }
            match phase().await {
                AgentPhase::Suspect => Ok(()),
                other => Err(other),
            }
        }
    })
    .await;
    // Nobody else has noticed.
    let other = rig.submit(TaskSpec::new("fast").payload("x")).await.id();
    rig.result(other).await;
    serves(&rig).await;

    // When it reads on, it hears why; and with a new session it gets what it missed.
    explained(&slow.end().await.expect_err("it was cut"), "SESSION_STALE");
    let (mut again, _) = Peer::welcomed(&rig, hello("slow", 1, 1, 2)).await;
    let assign = again.assign().await;
    assert_eq!(assign.attempt, Some(first_attempt(&id)));
    assert_eq!(assign.payload.expect("a payload").data.len(), 200 << 10);
    rig.phase("slow", AgentPhase::Ready).await;
}
