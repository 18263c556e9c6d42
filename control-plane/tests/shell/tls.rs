//! TLS of the main port: who is let in, what the others are told, and renewal under an open stream.

use std::time::Duration;

use hive_proto::tls::{ClientTls, endpoint, explain};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_types::StatusExt as _;

use super::certs::Folder;
use super::support::{PREFACE, Server, eventually, say, within};

const CLIENT: &str = "spiffe://hive.test/client/ada";

/// A CA, a server's and a client's certificate, and a server that shows and asks.
fn secured(more: &[(&str, &str)]) -> (Folder, super::certs::Ca, Server) {
    let folder = Folder::new();
    let ca = folder.ca("ca.pem");
    folder.issue("server", &ca, &["spiffe://hive.test/control-plane/a"]);
    folder.issue("client", &ca, &[CLIENT]);
    let settings = folder.settings();
    let settings: Vec<_> = settings.iter().map(|(k, v)| (*k, v.as_str())).chain(more.iter().copied()).collect();
    let server = Server::start(&settings);
    (folder, ca, server)
}

/// One health check over a connection of its own.
async fn check(server: &Server, tls: &ClientTls) -> Result<HealthCheckResponse, String> {
    let endpoint = endpoint(&format!("https://localhost:{}", server.main.port())).expect("endpoint");
    let words = |error: &(dyn std::error::Error + 'static)| explain(error).unwrap_or_else(|| innermost(error));
    let channel = within("connect", tls.connect(&endpoint)).await.map_err(|error| words(&error))?;
    let answer = within("check", HealthClient::new(channel).check(HealthCheckRequest::default())).await;
    answer.map(tonic::Response::into_inner).map_err(|status| match status.get_error_details().error_info() {
        Some(info) => info.reason.clone(),
        None => words(&status),
    })
}

fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    error.source().map_or_else(|| error.to_string(), innermost)
}

#[tokio::test]
async fn who_has_a_certificate_of_the_ca_is_served_and_others_are_told_why_not() {
    let (folder, ca, server) = secured(&[]);
    let stranger = folder.ca("other.pem");
    folder.issue("stranger", &stranger, &[CLIENT]);
    folder.issue_until("late", &ca, &[CLIENT], Err(Duration::from_secs(3_600)));
    folder.issue("nameless", &ca, &[]);
    folder.issue("two", &ca, &["spiffe://hive.test/a", "spiffe://hive.test/b"]);
    check(&server, &folder.client("ca.pem", Some("client"))).await.expect("served");
    for (trusts, shows, told) in [
        ("ca.pem", None, "the server wants a client certificate, and none was given"),
        ("ca.pem", Some("stranger"), "is it of the CA that the server trusts?"),
        ("ca.pem", Some("late"), "it has expired"),
        ("other.pem", Some("client"), "the server's certificate is not of the CA given"),
        ("ca.pem", Some("nameless"), "IDENTITY_INVALID"),
        ("ca.pem", Some("two"), "IDENTITY_INVALID"),
    ] {
        let refused = check(&server, &folder.client(trusts, shows)).await.expect_err(told);
        assert!(refused.contains(told), "{shows:?}: {refused}");
    }
    let page = server.page("/metrics").await;
    assert!(page.contains("hive_connections_refused_total{port=\"main\",reason=\"handshake\"}"), "{page}");
}

#[tokio::test]
async fn plain_text_on_a_tls_port_is_told_so() {
    let (_folder, _ca, server) = secured(&[]);
    let answer = say(server.main, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.ends_with("use https://\n"), "{answer}");
    let answer = say(server.main, PREFACE).await;
    assert!(answer.contains("this port speaks TLS"), "{answer:?}");
    let called = match tonic::transport::Endpoint::from_shared(format!("http://{}", server.main))
        .expect("url")
        .connect()
        .await
    {
        Ok(channel) => {
            let answer = within("check", HealthClient::new(channel).check(HealthCheckRequest::default())).await;
            innermost(&answer.expect_err("plain text is not served"))
        }
        Err(error) => innermost(&error),
    };
    assert!(called.contains("this port speaks TLS: use https://"), "{called}");
    let page = server.page("/metrics").await;
    assert!(page.contains("hive_connections_refused_total{port=\"main\",reason=\"plain\"}"), "{page}");
}

#[tokio::test]
async fn tls_on_a_plain_port_is_told_so() {
    let (folder, _ca, _secured) = secured(&[]);
    let server = Server::start(&[]);
    let refused = check(&server, &folder.client("ca.pem", None)).await.expect_err("no TLS here");
    assert!(refused.contains("if it serves plain text, use http://"), "{refused}");
}

#[tokio::test]
async fn a_handshake_has_its_deadline_and_holds_up_nobody() {
    let (folder, _ca, server) = secured(&[("HIVE_LIMITS__HANDSHAKE", "500ms")]);
    let mut stuck = TcpStream::connect(server.main).await.expect("connect");
    // The head of a ClientHello that never comes to its end.
    stuck.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03]).await.expect("write");
    check(&server, &folder.client("ca.pem", Some("client"))).await.expect("served beside it");
    let mut left = Vec::new();
    let _cut = within("the cut", stuck.read_to_end(&mut left)).await;
}

#[tokio::test]
async fn renewed_certificates_reach_new_connections_and_drop_no_stream() {
    let (folder, ca, server) = secured(&[]);
    let old = folder.client("ca.pem", Some("client"));
    let endpoint = endpoint(&format!("https://localhost:{}", server.main.port())).expect("endpoint");
    let channel = within("connect", old.connect(&endpoint)).await.expect("connect");
    let mut health = HealthClient::new(channel);
    let mut watch = within("watch", health.watch(HealthCheckRequest::default())).await.expect("watch").into_inner();
    within("the first", watch.message()).await.expect("stream").expect("status");

    // A key that does not fit: what served goes on, and is said to.
    let key = std::fs::read_to_string(folder.path("server.key")).expect("key");
    folder.put("server.key", &key.replacen("M", "N", 3));
    let failed = || async { server.page("/metrics").await.contains("hive_tls_reload_errors_total 1").then_some(()) };
    eventually("the broken file is counted", failed).await;
    check(&server, &old).await.expect("the old pair still serves");
    folder.put("server.key", &key);

    // Another CA for everything: the server's own certificate, and whom it lets in.
    let next = folder.ca("next.pem");
    folder.issue("client2", &next, &[CLIENT]);
    folder.issue("server", &next, &["spiffe://hive.test/control-plane/a"]);
    folder.put("ca.pem", &next.pem);
    let renewed = folder.client("next.pem", Some("client2"));
    eventually("new connections see it", || async { check(&server, &renewed).await.ok() }).await;
    folder.put("first.pem", &ca.pem);
    let refused = check(&server, &folder.client("first.pem", Some("client"))).await.expect_err("the old CA has gone");
    assert!(refused.contains("not of the CA given"), "{refused}");

    within("a call on the old connection", health.check(HealthCheckRequest::default())).await.expect("still served");
    server.stop.cancel();
    let last = within("the stream's next", watch.message()).await.expect("the stream stood");
    assert!(last.is_some(), "the stream ended before the server did");
}
