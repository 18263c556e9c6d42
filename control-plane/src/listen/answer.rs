//! What a peer that speaks the wrong protocol is told, in its own.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Enough for the request of a browser or curl, which we read so that our answer is not reset away.
const LEFT_OVER: u64 = 64 * 1_024;
/// Time for the peer to take the answer and leave.
const LINGER: Duration = Duration::from_secs(1);

const SPEAKS_GRPC: &str = "this port speaks gRPC (HTTP/2); /metrics, /healthz and /readyz are served on the ops port\n";
const SPEAKS_TLS: &str = "this port speaks TLS, and the request came in plain text: use https://\n";
/// RFC 9113: an empty SETTINGS frame, then GOAWAY because of INADEQUATE_SECURITY.
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
const GOAWAY: u8 = 7;
const INADEQUATE_SECURITY: u8 = 0xc;
const GOAWAY_TEXT: &str = "this port speaks TLS: use https://";
/// RFC 8446: a fatal alert `protocol_version`, which every TLS client shows.
const ALERT: [u8; 7] = [0x15, 0x03, 0x03, 0, 2, 2, 70];

/// A wrong guess of the peer.
#[derive(Clone, Copy)]
pub(super) enum Mistake {
    /// HTTP/1 where gRPC is spoken.
    Http1,
    /// HTTP/1 in plain text where TLS is spoken.
    PlainHttp1,
    /// HTTP/2 in plain text where TLS is spoken.
    PlainHttp2,
    /// TLS where plain text is spoken.
    Tls,
}

/// Tells the peer, and gives it a moment to hear. Whether it does is its own affair.
pub(super) async fn answer<I: AsyncRead + AsyncWrite + Unpin>(io: &mut I, mistake: Mistake) {
    let text = match mistake {
        Mistake::Http1 => http1("505 HTTP Version Not Supported", SPEAKS_GRPC),
        Mistake::PlainHttp1 => http1("400 Bad Request", SPEAKS_TLS),
        Mistake::PlainHttp2 => goaway(),
        Mistake::Tls => ALERT.to_vec(),
    };
    let told = async {
        io.write_all(&text).await?;
        linger(io).await
    };
    let _unheard = tokio::time::timeout(LINGER, told).await;
}

/// Waits for the peer to leave: closing with unread bytes resets the connection and can destroy what we said
/// last, such as the alert that says why its certificate is refused.
pub(super) async fn part<I: AsyncRead + AsyncWrite + Unpin>(io: &mut I) {
    let _unheard = tokio::time::timeout(LINGER, linger(io)).await;
}

async fn linger<I: AsyncRead + AsyncWrite + Unpin>(io: &mut I) -> io::Result<()> {
    io.shutdown().await?;
    tokio::io::copy(&mut io.take(LEFT_OVER), &mut tokio::io::sink()).await?;
    Ok(())
}

fn http1(status: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

fn goaway() -> Vec<u8> {
    let debug = GOAWAY_TEXT.as_bytes();
    let mut frame = SETTINGS.to_vec();
    // The text is far below 256 bytes.
    frame.extend([0, 0, 8 + debug.len() as u8, GOAWAY, 0, 0, 0, 0, 0]);
    frame.extend([0, 0, 0, 0, 0, 0, 0, INADEQUATE_SECURITY]);
    frame.extend(debug);
    frame
}
