//! Silence has its limits: peers that say nothing, peers that have gone without a word.

use std::time::Duration;

use hive_proto::sidecar_v1 as pb;
use hive_proto::sidecar_v1::sidecar_service_client::SidecarServiceClient;
use hive_proto::v1;
use hive_proto::v1::task_service_client::TaskServiceClient;
use tokio::io::AsyncReadExt as _;
use tokio_stream::StreamExt as _;
use tonic::{Code, Request};
use turmoil::net::TcpStream;

use crate::stage::{Stage, at, connected, hello, reason, until, until_connected};
use crate::wire::{self, PLANE, PORT};

const SECOND: Duration = Duration::from_secs(1);
/// A few ticks and the way through the network.
const SOON: Duration = Duration::from_millis(300);
/// Keepalive of both sides: asked after 10 s of silence, 5 s to answer.
const KEEPALIVE: Duration = Duration::from_secs(15);

#[test]
fn a_connection_that_says_nothing_is_closed_after_five_seconds() {
    let mut stage = Stage::new(&[], &[]);
    stage.actor("mute", async {
        let mut stream = until("a port", || async { TcpStream::connect((PLANE, PORT)).await.ok() }).await;
        let begun = at();
        let mut byte = [0];
        assert!(matches!(stream.read(&mut byte).await, Ok(0) | Err(_)));
        let took = at() - begun;
        assert!(took >= 5 * SECOND - SOON && took < 5 * SECOND + SOON, "{took:?}");
    });
    stage.play(20 * SECOND, &mut []);
}

#[test]
fn a_session_without_a_hello_ends_after_five_seconds() {
    let mut stage = Stage::new(&[], &[]);
    stage.actor("shy", async {
        until_connected(0).await;
        let begun = at();
        let never = tokio_stream::pending::<pb::SessionRequest>();
        let status = SidecarServiceClient::new(wire::channel()).session(never).await.expect_err("no session");
        let took = at() - begun;
        assert_eq!((status.code(), reason(&status).as_str()), (Code::DeadlineExceeded, "DEADLINE"));
        assert!(took >= 5 * SECOND && took < 5 * SECOND + SOON, "{took:?}");
    });
    stage.play(20 * SECOND, &mut []);
}

#[test]
fn a_sidecar_behind_a_cut_cable_is_noticed_within_keepalive() {
    let mut stage = Stage::new(&[], &[]);
    let cut = 5 * SECOND;
    stage.actor("odd", async {
        until_connected(0).await;
        // It beats no more and asks for no signs of life itself: only the server's keepalive can tell.
        let frames = tokio_stream::once(hello("odd", "odd", 1)).chain(tokio_stream::pending());
        let session = SidecarServiceClient::new(wire::careless_channel()).session(frames).await.expect("a session");
        tokio::time::sleep(60 * SECOND).await;
        drop(session);
    });
    stage.actor("judge", async move {
        let channel = until_connected(1).await;
        assert!(at() < cut, "connected before the cut");
        until("the sidecar is gone", || async { (connected(&channel).await == Some(0)).then_some(()) }).await;
        let took = at() - cut;
        assert!(took > SECOND && took <= KEEPALIVE + SOON, "{took:?}");
    });
    stage.play(120 * SECOND, &mut [(cut, &mut |sim, _| sim.partition("odd", PLANE))]);
}

#[test]
fn a_sidecar_notices_a_black_hole_within_keepalive_and_dials_anew() {
    let mut stage = Stage::new(&[], &["s0"]);
    let hole = 5 * SECOND;
    let lab = std::sync::Arc::clone(&stage.lab);
    stage.actor("judge", async move {
        until_connected(1).await;
        assert!(at() < hole);
        let dialled = lab.book().dials.len();
        until("a dial", || async { (lab.book().dials.len() > dialled).then_some(()) }).await;
        // The first dial after a break backs off by at most a second.
        let took = at() - hole;
        assert!(took > SECOND && took <= KEEPALIVE + SECOND + SOON, "{took:?}");
    });
    stage.play(60 * SECOND, &mut [(hole, &mut |sim, _| sim.hold("s0", PLANE))]);
}

#[test]
fn a_call_into_a_black_hole_ends_by_its_deadline() {
    let mut stage = Stage::new(&[], &[]);
    let hole = 5 * SECOND;
    stage.actor("caller", async move {
        let channel = until_connected(0).await;
        tokio::time::sleep(6 * SECOND - at()).await;
        let mut request = Request::new(v1::ListTasksRequest::default());
        request.set_timeout(3 * SECOND);
        let begun = at();
        let status = TaskServiceClient::new(channel).list_tasks(request).await.expect_err("no answer");
        let took = at() - begun;
        assert!(took >= 3 * SECOND - SOON && took <= 3 * SECOND + SOON, "{took:?} {status:?}");
    });
    stage.play(60 * SECOND, &mut [(hole, &mut |sim, _| sim.hold("caller", PLANE))]);
}

#[test]
fn a_wait_is_answered_at_its_time_and_a_stream_at_its_deadline() {
    let mut stage = Stage::new(&[], &[]);
    stage.actor("caller", async move {
        let mut tasks = TaskServiceClient::new(until_connected(0).await);
        let mut request = Request::new(v1::WatchTasksRequest::default());
        request.set_timeout(4 * SECOND);
        let begun = at();
        let mut stream = tasks.watch_tasks(request).await.expect("a watch").into_inner();
        let status = loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("ended without a word"),
                Err(status) => break status,
            }
        };
        let took = at() - begun;
        assert!(took >= 4 * SECOND - SOON && took <= 4 * SECOND + SOON, "{took:?}");
        assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status:?}");
    });
    stage.play(60 * SECOND, &mut []);
}
