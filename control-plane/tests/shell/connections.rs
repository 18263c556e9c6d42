//! What becomes of connections that are silent, mistaken or too many.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::support::{PREFACE, Server, eventually, say, within};

#[tokio::test]
async fn a_connection_that_says_nothing_or_too_little_is_cut() {
    let server = Server::start(&[("HIVE_LIMITS__HANDSHAKE", "200ms")]);
    for said in [&b""[..], &PREFACE[..10], b"GET", &[0x16]] {
        let mut stream = TcpStream::connect(server.main).await.expect("connect");
        stream.write_all(said).await.expect("write");
        let mut answer = [0; 1];
        let read = within("the cut", stream.read(&mut answer)).await;
        assert!(matches!(read, Ok(0) | Err(_)), "{said:?}: {read:?}");
    }
    let page = server.page("/metrics").await;
    assert!(page.contains("hive_connections_refused_total{port=\"main\",reason=\"silent\"}"), "{page}");
}

#[tokio::test]
async fn tls_is_named_and_closed() {
    let server = Server::start(&[]);
    let hello = [0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03];
    // The alert `protocol_version`, which TLS clients put into words.
    let alert = String::from_utf8_lossy(&[0x15, 0x03, 0x03, 0, 2, 2, 70]).into_owned();
    assert_eq!(say(server.main, &hello).await, alert);
    assert_eq!(say(server.ops, &hello).await, alert);
    let page = server.page("/metrics").await;
    for port in ["main", "ops"] {
        assert!(page.contains(&format!("hive_connections_refused_total{{port=\"{port}\",reason=\"tls\"}}")), "{page}");
    }
}

#[tokio::test]
async fn http1_is_told_what_the_port_speaks() {
    let server = Server::start(&[]);
    let answer = say(server.main, b"GET /metrics HTTP/1.1\r\nhost: x\r\naccept: */*\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 505 "), "{answer}");
    assert!(
        answer.ends_with("served on the ops port\n") && answer.contains("this port speaks gRPC (HTTP/2"),
        "{answer}"
    );
}

#[tokio::test]
async fn garbage_is_closed_and_a_preface_followed_by_garbage_too() {
    let server = Server::start(&[]);
    assert_eq!(say(server.main, b"\x00\x01\x02 what is this").await, "");
    // What the HTTP/2 implementation answers is its own affair, as long as it ends.
    say(server.main, &[PREFACE, &[0xff; 64]].concat()).await;
    let checked = HealthClient::new(server.channel().await).check(HealthCheckRequest::default()).await;
    assert!(checked.is_ok(), "{checked:?}");
}

#[tokio::test]
async fn beyond_the_cap_connections_are_closed_until_one_leaves() {
    let server = Server::start(&[("HIVE_LIMITS__CONNECTIONS", "2")]);
    let mut first = HealthClient::new(server.channel().await);
    let mut second = HealthClient::new(server.channel().await);
    for client in [&mut first, &mut second] {
        client.check(HealthCheckRequest::default()).await.expect("served");
    }
    assert_eq!(say(server.main, PREFACE).await, "");
    let page = server.page("/metrics").await;
    assert!(page.contains("reason=\"limit\"}"), "{page}");
    drop(first);
    eventually("room again", || async {
        let mut stream = TcpStream::connect(server.main).await.ok()?;
        // An empty SETTINGS frame makes the preface complete; the server answers with its own.
        stream.write_all(&[PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat()).await.ok()?;
        let mut answer = [0; 9];
        let read = tokio::time::timeout(Duration::from_secs(5), stream.read_exact(&mut answer)).await.ok()?;
        read.ok().filter(|_| answer[3] == 4).map(drop)
    })
    .await;
    second.check(HealthCheckRequest::default()).await.expect("still served");
}

#[tokio::test]
async fn too_many_unidentified_connections_delay_others_no_longer_than_the_handshake() {
    let server = Server::start(&[("HIVE_LIMITS__HANDSHAKE", "300ms"), ("HIVE_LIMITS__PENDING_HANDSHAKES", "1")]);
    let _silent = TcpStream::connect(server.main).await.expect("connect");
    let mut client = HealthClient::new(server.channel().await);
    within("service after the silent one", client.check(HealthCheckRequest::default())).await.expect("served");
}

#[tokio::test]
async fn a_peer_that_stops_answering_is_cut() {
    let server =
        Server::start(&[("HIVE_TRANSPORT__KEEPALIVE", "200ms"), ("HIVE_TRANSPORT__KEEPALIVE_TIMEOUT", "200ms")]);
    // A complete HTTP/2 greeting; after it the pings of the server stay unanswered.
    say(server.main, &[PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat()).await;
}
