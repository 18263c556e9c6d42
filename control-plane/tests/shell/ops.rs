//! The ops port.

use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::support::Server;

#[tokio::test]
async fn metrics_are_text_with_real_histograms() {
    let server = Server::start(&[]);
    HealthClient::new(server.channel().await).check(HealthCheckRequest::default()).await.expect("checked");
    let page = super::support::eventually("the call's sample", || async {
        Some(server.page("/metrics").await).filter(|page| page.contains("method=\"Check\",code=\"OK\""))
    })
    .await;
    assert!(page.starts_with("HTTP/1.1 200 OK"), "{page}");
    assert!(page.contains("content-type: text/plain; version=0.0.4"), "{page}");
    assert!(page.contains("# TYPE hive_grpc_server_handling_seconds histogram"), "{page}");
    let bucket =
        "hive_grpc_server_handling_seconds_bucket{service=\"grpc.health.v1.Health\",method=\"Check\",le=\"0.1\"}";
    assert!(page.contains(bucket), "{page}");
    assert!(page.contains("hive_build_info{version=\""), "{page}");
    assert!(!page.contains("quantile="), "{page}");
}

#[tokio::test]
async fn pages_tell_life_and_readiness() {
    let server = Server::start(&[]);
    let ready = super::support::eventually("readiness", || async {
        Some(server.page("/readyz").await).filter(|page| page.starts_with("HTTP/1.1 200"))
    })
    .await;
    assert!(ready.ends_with("ready\n"), "{ready}");
    assert!(server.page("/healthz").await.ends_with("alive\n"));
    assert!(server.page("/nothing").await.starts_with("HTTP/1.1 404"));
    let posted = super::support::say(
        server.ops,
        b"POST /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
    )
    .await;
    assert!(posted.starts_with("HTTP/1.1 405"), "{posted}");
}
