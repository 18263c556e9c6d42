//! Sessions over loopback, day and night.

use hive_proto::sidecar_v1::{self as wire, control_message::Kind as Down, sidecar_message::Kind as Up};
use hive_sidecar::attempt::AttemptKey;
use hive_sidecar::journal::{Journal, Limits};
use hive_sidecar::runtime::RuntimeCommand;
use hive_sidecar::session::ExitReason;

use crate::control_plane::{ControlPlane, DEADLINE, GENERATION};
use crate::sidecar::{AGENT, Sidecar};

const ONE: AttemptKey = AttemptKey { task: [1; 16], attempt: 1 };

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

#[tokio::test(flavor = "multi_thread")]
async fn work_goes_down_its_result_comes_up_and_is_released() {
    let dir = folder();
    let mut control_plane = ControlPlane::start().await;
    let mut sidecar = Sidecar::start(&control_plane, dir.path()).await;
    let (mut peer, hello) = control_plane.welcomed().await;
    assert_eq!((hello.sidecar_id.as_str(), hello.generation, hello.connection), ("s", 0, 1));
    assert_eq!((hello.agents[0].agent_id.as_str(), hello.agents[0].free_slots), (AGENT, 2));
    let beat = peer.find(|k| if let Up::Heartbeat(beat) = k { Some(beat.beat) } else { None }).await;
    assert_eq!(beat, 1);
    peer.assign(1, ONE, AGENT).await;
    peer.find(|k| if let Up::Receipt(r) = k { (r.assigns_seen == 1).then_some(()) } else { None }).await;
    assert_eq!(sidecar.begin().await.payload.data.as_ref(), b"work");
    peer.find(|k| if let Up::Started(_) = k { Some(()) } else { None }).await;
    sidecar.succeed(ONE, b"done").await;
    let result = peer.result().await;
    assert_eq!(
        (result.outcome(), result.payload.expect("one").data.as_ref()),
        (wire::Outcome::Succeeded, b"done".as_slice())
    );
    let epoch = peer.last.as_ref().and_then(|f| f.session).expect("every frame names its session");
    assert_eq!((epoch.generation, epoch.connection), (GENERATION, 1));
    peer.release(ONE).await;
    sidecar.command(|c| if let RuntimeCommand::Forget { key } = c { (*key == ONE).then_some(()) } else { None }).await;
    sidecar.kill(dir.path()).await;
    let (_, state) = Journal::open(dir.path(), Limits::default()).expect("opens");
    assert_eq!((state.attempts.len(), state.generation), (0, GENERATION));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_stream_is_resumed_and_delivers_what_ended_meanwhile() {
    let dir = folder();
    let mut control_plane = ControlPlane::start().await;
    let mut sidecar = Sidecar::start(&control_plane, dir.path()).await;
    let (mut peer, _) = control_plane.welcomed().await;
    peer.assign(1, ONE, AGENT).await;
    sidecar.begin().await;
    drop(peer);
    let (mut peer, hello) = control_plane.welcomed().await;
    assert_eq!((hello.generation, hello.connection, hello.running.len()), (GENERATION, 2, 1));
    sidecar.succeed(ONE, b"done").await;
    peer.result().await;
    drop(peer);
    let (mut peer, hello) = control_plane.welcomed().await;
    assert_eq!((hello.running.len(), hello.finished.len()), (0, 1));
    peer.result().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_sidecar_comes_back_with_what_it_owes() {
    let dir = folder();
    let two = AttemptKey { task: [2; 16], attempt: 1 };
    let mut control_plane = ControlPlane::start().await;
    let mut sidecar = Sidecar::start(&control_plane, dir.path()).await;
    let (mut peer, first) = control_plane.welcomed().await;
    peer.assign(1, ONE, AGENT).await;
    peer.assign(2, two, AGENT).await;
    sidecar.begin().await;
    sidecar.begin().await;
    sidecar.succeed(ONE, b"done").await;
    peer.result().await;
    sidecar.kill(dir.path()).await;
    let sidecar = Sidecar::start(&control_plane, dir.path()).await;
    assert_eq!(sidecar.adopt, [two]);
    let (mut peer, hello) = control_plane.welcomed().await;
    assert_eq!((hello.boot_id, hello.generation), (first.boot_id, GENERATION));
    assert!(hello.connection > first.connection);
    assert_eq!((hello.running.len(), hello.finished.len()), (1, 1));
    assert_eq!(peer.result().await.payload.expect("one").data.as_ref(), b"done");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deposed_leader_is_not_heard_and_a_hello_has_a_deadline() {
    let dir = folder();
    let mut control_plane = ControlPlane::start().await;
    let mut sidecar = Sidecar::start(&control_plane, dir.path()).await;
    let mut peer = control_plane.session().await;
    let hello = peer.hello().await;
    peer.leader = 5;
    peer.welcome(&hello).await;
    peer.assign(1, ONE, AGENT).await;
    sidecar.begin().await;
    sidecar.succeed(ONE, b"done").await;
    peer.result().await;
    peer.leader = 4;
    peer.release(ONE).await;
    drop(peer);
    let mut stale = control_plane.session().await;
    let hello = stale.hello().await;
    assert_eq!(hello.finished.len(), 1, "the deposed one released nothing");
    stale.leader = 4;
    stale.welcome(&hello).await;
    // Its welcome is none: after the deadline the sidecar dials again.
    let mut peer = control_plane.session().await;
    peer.leader = 5;
    let hello = peer.hello().await;
    peer.welcome(&hello).await;
    peer.result().await;
    peer.release(ONE).await;
    sidecar.command(|c| matches!(c, RuntimeCommand::Forget { .. }).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_occupied_place_is_waited_for_and_a_fenced_sidecar_exits() {
    let dir = folder();
    let mut control_plane = ControlPlane::start().await;
    let sidecar = Sidecar::start(&control_plane, dir.path()).await;
    control_plane.session().await.refuse(tonic::Code::FailedPrecondition, "AGENT_ID_IN_USE").await;
    control_plane.session().await.refuse(tonic::Code::PermissionDenied, "SIDECAR_FENCED").await;
    assert!(matches!(sidecar.outcome().await, Ok(ExitReason::Fenced)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_waits_for_work_delivers_it_and_says_goodbye() {
    let dir = folder();
    let mut control_plane = ControlPlane::start().await;
    let mut sidecar = Sidecar::start(&control_plane, dir.path()).await;
    let (mut peer, _) = control_plane.welcomed().await;
    peer.assign(1, ONE, AGENT).await;
    sidecar.begin().await;
    sidecar.stop.send(()).await.expect("listens");
    peer.find(|k| {
        if let Up::Credit(c) = k { (c.agents[0].free_slots == 0 && !c.agents[0].ready).then_some(()) } else { None }
    })
    .await;
    sidecar.succeed(ONE, b"done").await;
    peer.result().await;
    peer.release(ONE).await;
    peer.find(|k| if let Up::Goodbye(_) = k { Some(()) } else { None }).await;
    drop(peer);
    assert!(matches!(sidecar.outcome().await, Ok(ExitReason::Stopped)));
}

#[tokio::test(flavor = "multi_thread")]
async fn output_nobody_kept_is_answered_over_its_own_connection() {
    let dir = folder();
    let mut control_plane = ControlPlane::start().await;
    let _sidecar = Sidecar::start(&control_plane, dir.path()).await;
    let (mut peer, _) = control_plane.welcomed().await;
    let tail = wire::TailLogs { request_id: "r".into(), attempt: Some(ONE.into()), follow: true, stream: 0 };
    peer.send(Down::TailLogs(tail)).await;
    let piece = tokio::time::timeout(DEADLINE, control_plane.logs.recv()).await.expect("in time").expect("a piece");
    assert_eq!((piece.request_id.as_str(), piece.not_found), ("r", true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_comes_late_is_found() {
    let dir = folder();
    let mut control_plane = ControlPlane::start().await;
    let address = std::mem::replace(&mut control_plane.address, "127.0.0.1:1".parse().expect("an address"));
    let sidecar = Sidecar::start(&control_plane, dir.path()).await;
    // Nobody listens there: it goes on trying, and stops when asked to.
    sidecar.stop.send(()).await.expect("listens");
    assert!(matches!(sidecar.outcome().await, Ok(ExitReason::Stopped)));
    control_plane.address = address;
    let _sidecar = Sidecar::start(&control_plane, dir.path()).await;
    let (_, hello) = control_plane.welcomed().await;
    assert!(hello.connection >= 2, "each dial has its own number");
}
