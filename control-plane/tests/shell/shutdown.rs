//! Stopping ends in time, whatever clients do.

use hive_control_plane::server::Routes;
use hive_proto::v1::WatchTasksRequest;
use hive_proto::v1::task_service_client::TaskServiceClient;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::support::{PREFACE, Server, Stub, reason, say, within};

const SHORT: &[(&str, &str)] = &[("HIVE_SHUTDOWN__DRAIN", "2s"), ("HIVE_SHUTDOWN__HARD_STOP", "10s")];

#[tokio::test]
async fn open_streams_are_ended_by_us() {
    let server = Server::with(SHORT, Routes::of_hive().with_service(Stub::Streams));
    let mut tasks = TaskServiceClient::new(server.channel().await);
    let mut watch = tasks.watch_tasks(WatchTasksRequest::default()).await.expect("watch").into_inner();
    let mut health = HealthClient::new(server.channel().await);
    let mut status = health.watch(HealthCheckRequest::default()).await.expect("health watch").into_inner();
    let first = within("the first status", status.message()).await.expect("status").expect("status");
    assert_eq!(first.status(), ServingStatus::Serving);

    server.stop.cancel();
    let told = within("the last status", status.message()).await.expect("status").expect("status");
    assert_eq!(told.status(), ServingStatus::NotServing);
    for ended in [
        within("the end of the health watch", status.message()).await.expect_err("ended"),
        within("the end of the watch", watch.message()).await.expect_err("ended"),
    ] {
        assert_eq!((ended.code(), reason(&ended).as_str()), (Code::Unavailable, "SHUTTING_DOWN"));
    }
    within("the stop", server.ended).await.expect("join").expect("orderly");
}

#[tokio::test]
async fn clients_that_never_leave_are_cut() {
    let server = Server::with(SHORT, Routes::of_hive().with_service(Stub::Hangs));
    let mut silent = TcpStream::connect(server.main).await.expect("connect");
    silent.write_all(PREFACE).await.expect("write");
    let mut idle = HealthClient::new(server.channel().await);
    idle.check(HealthCheckRequest::default()).await.expect("served");
    server.stop.cancel();
    within("the stop", server.ended).await.expect("join").expect("orderly");
    assert!(TcpStream::connect(server.main).await.is_err(), "the port is closed");
    drop(silent);
}

#[tokio::test]
async fn new_connections_are_refused_while_old_calls_finish() {
    let server = Server::with(SHORT, Routes::of_hive().with_service(Stub::Streams));
    let mut tasks = TaskServiceClient::new(server.channel().await);
    let mut watch = tasks.watch_tasks(WatchTasksRequest::default()).await.expect("watch").into_inner();
    server.stop.cancel();
    super::support::eventually("the closed port", || async { TcpStream::connect(server.main).await.err() }).await;
    let page = say(server.ops, b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(page.starts_with("HTTP/1.1 503") && page.ends_with("stopping\n"), "{page}");
    within("the end of the watch", watch.message()).await.expect_err("ended");
    within("the stop", server.ended).await.expect("join").expect("orderly");
}
