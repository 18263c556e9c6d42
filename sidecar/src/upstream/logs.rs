//! Kept output, pushed on demand over a connection of its own: bulk never delays the session.

use std::io;
use std::path::Path;

use hive_proto::sidecar_v1::sidecar_service_client::SidecarServiceClient;
use hive_proto::sidecar_v1::{PushLogsRequest, TailLogs};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

use super::Connect;
use crate::attempt::AttemptKey;
use crate::output::{Stream, Tail};

/// Chunks handed to the transport; more wait in the file.
const FLYING: usize = 8;

/// Answers one request, until all is sent, the attempt has ended (`follow`) or nobody listens.
pub async fn push<C: Connect>(connect: C, endpoint: Endpoint, state_dir: &Path, tail: TailLogs) {
    let Some(key) = tail.attempt.as_ref().and_then(|a| AttemptKey::try_from(a).ok()) else {
        tracing::warn!(request = tail.request_id, "output was asked for without an attempt");
        return;
    };
    let channel = match connect.connect(&endpoint).await {
        Ok(channel) => channel,
        Err(error) => {
            tracing::warn!(attempt = %key, %error, "cannot connect to push output");
            return;
        }
    };
    let (chunks, flying) = mpsc::channel(FLYING);
    let mut client = SidecarServiceClient::new(channel);
    let read = async {
        if let Err(error) = read(state_dir, key, &tail, chunks).await {
            tracing::warn!(attempt = %key, %error, "cannot read kept output");
        }
    };
    let (answer, ()) = tokio::join!(client.push_logs(ReceiverStream::new(flying)), read);
    if let Err(status) = answer {
        tracing::debug!(attempt = %key, code = ?status.code(), detail = status.message(), "output was not taken to its end");
    }
}

async fn read(
    state_dir: &Path,
    key: AttemptKey,
    tail: &TailLogs,
    chunks: mpsc::Sender<PushLogsRequest>,
) -> io::Result<()> {
    let open = |number: u32, stream: Stream| -> io::Result<Option<(u32, Tail)>> {
        let wanted = tail.stream == 0 || tail.stream == number;
        Ok(if wanted { Tail::open(state_dir, key, stream)?.map(|t| (number, t)) } else { None })
    };
    let (out, err) = (open(1, Stream::Stdout)?, open(2, Stream::Stderr)?);
    let request_id = tail.request_id.clone();
    // Names the request before the first output, which may be long in coming.
    let first = PushLogsRequest { request_id, not_found: out.is_none() && err.is_none(), ..PushLogsRequest::default() };
    if chunks.send(first).await.is_err() {
        return Ok(());
    }
    let (a, b) = tokio::join!(copy(out, tail, &chunks), copy(err, tail, &chunks));
    a.and(b)
}

async fn copy(from: Option<(u32, Tail)>, request: &TailLogs, chunks: &mpsc::Sender<PushLogsRequest>) -> io::Result<()> {
    let Some((stream, mut tail)) = from else { return Ok(()) };
    loop {
        let chunk = tokio::select! {
            chunk = tail.next(request.follow) => chunk?,
            () = chunks.closed() => return Ok(()),
        };
        let Some(chunk) = chunk else { return Ok(()) };
        let piece = PushLogsRequest {
            request_id: request.request_id.clone(),
            stream,
            data: chunk.data,
            offset: chunk.offset,
            truncated: chunk.truncated,
            not_found: false,
        };
        if chunks.send(piece).await.is_err() {
            return Ok(());
        }
    }
}
