//! What is not gRPC, or not a call the port knows.

use std::time::Duration;

use bytes::Bytes;
use hive_sdk::proto as v1;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use super::{refused, serves, submission, submit, unwanted};
use crate::harness::{LONG, Rig, now};

/// Says something to the port and hears its answer to the end.
async fn say(rig: &Rig, bytes: &[u8]) -> Vec<u8> {
    let address = rig.endpoint();
    let mut stream = TcpStream::connect(address.trim_start_matches("http://")).await.expect("connect");
    // The server may hang up before it has read all.
    let _reset = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(LONG, stream.read_to_end(&mut answer)).await;
    let _reset = read.expect("the connection to be ended");
    answer
}

#[tokio::test]
async fn what_is_not_http2_is_turned_away_at_once() {
    let rig = Rig::with(&[("limits.handshake", "1s")]).await;
    let noise: Vec<u8> = (0..4096_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    // A TLS client is told in its own words: the alert `protocol_version`.
    let tls: (&[u8], &[u8]) = (&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01], &[0x15, 0x03, 0x03, 0, 2, 2, 70]);
    for (bytes, told) in [(&noise[..], &b""[..]), (&[0; 64], b""), (&[0xff; 64], b""), (b"hello\r\n", b""), tls] {
        let since = now();
        let answer = say(&rig, bytes).await;
        assert_eq!(answer, told, "to {:?}", &bytes[..8.min(bytes.len())]);
        assert!(since.elapsed_within(Duration::from_secs(30)));
        serves(&rig).await;
    }
    let answer = say(&rig, b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 505 ") && answer.contains("this port speaks gRPC"), "{answer}");
    // Says nothing, and what is HTTP/2 up to its preface and nonsense from there.
    assert_eq!(say(&rig, b"").await, b"");
    say(&rig, &[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &noise[..]].concat()).await;
    serves(&rig).await;
}

async fn channel(rig: &Rig) -> Channel {
    Channel::from_shared(rig.endpoint()).expect("an endpoint").connect().await.expect("connect")
}

/// Calls a method with a message of whatever type.
async fn call<M>(rig: &Rig, path: &'static str, message: M) -> Result<v1::Task, Status>
where
    M: prost::Message + Default + 'static,
{
    let mut grpc = Grpc::new(channel(rig).await);
    grpc.ready().await.expect("a connection");
    let codec = ProstCodec::<M, v1::Task>::default();
    grpc.unary(Request::new(message), PathAndQuery::from_static(path), codec).await.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn what_is_no_call_of_ours_is_explained() {
    let rig = Rig::new().await;
    for path in ["/hive.v1.TaskService/Nothing", "/hive.v1.Nothing/GetTask", "/nothing", "/"] {
        refused(call(&rig, path, v1::GetTaskRequest::default()).await, "METHOD_UNKNOWN");
    }
    // Field 1 of a submission is text; this is not. Field 3 is a message; this is none.
    for data in [&[0xff_u8, 0xfe][..], &[0x0a, 0xff]] {
        let message = v1::Payload { data: Bytes::copy_from_slice(data), ..Default::default() };
        refused(call(&rig, "/hive.v1.TaskService/SubmitTask", message).await, "MESSAGE_MALFORMED");
    }
    serves(&rig).await;
}

#[tokio::test]
async fn an_oversize_message_is_refused_and_the_connection_stays() {
    let rig = Rig::new().await;
    let sized = |bytes: usize| {
        let payload = v1::Payload { data: vec![0; bytes].into(), ..Default::default() };
        submission(v1::TaskSpec { payload: Some(payload), ..unwanted() })
    };
    for bytes in [(4 << 20) + 1, 20 << 20] {
        refused(submit(&rig, sized(bytes)).await, "MESSAGE_TOO_LARGE");
        serves(&rig).await;
    }
    // Below the limit of messages it is the limit of payloads that speaks.
    super::refused_field(submit(&rig, sized((4 << 20) - 1024)).await, "spec.payload.data");
}

trait Within {
    fn elapsed_within(&self, limit: Duration) -> bool;
}

impl Within for std::time::Instant {
    fn elapsed_within(&self, limit: Duration) -> bool {
        now().duration_since(*self) < limit
    }
}
