//! Reaching the sidecar: a dialer hands over a stream, or says why not.

use std::path::PathBuf;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use hive_proto::agent_v1::agent_service_client::AgentServiceClient;
use hive_proto::agent_v1::{SessionRequest, SessionResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::Endpoint;

/// What the sidecar says, until the stream ends.
pub(crate) type Incoming = BoxStream<'static, Result<SessionResponse, Status>>;

/// Opens one stream per call. The hello waits in `outgoing` when it is called.
pub(crate) trait Dial: Send + 'static {
    fn dial(&mut self, outgoing: mpsc::Receiver<SessionRequest>) -> BoxFuture<'static, Result<Incoming, Status>>;
}

/// Dials an agent's Unix socket.
pub(crate) struct UnixSocket(pub(crate) PathBuf);

impl Dial for UnixSocket {
    fn dial(&mut self, outgoing: mpsc::Receiver<SessionRequest>) -> BoxFuture<'static, Result<Incoming, Status>> {
        let path = self.0.clone();
        Box::pin(async move {
            let endpoint = Endpoint::from_shared(format!("unix:{}", path.display()))
                .map_err(|error| Status::unavailable(crate::client::root_cause(&error)))?
                .connect_timeout(Duration::from_secs(3))
                .http2_keep_alive_interval(Duration::from_secs(10))
                .keep_alive_timeout(Duration::from_secs(5))
                .keep_alive_while_idle(true);
            let channel =
                endpoint.connect().await.map_err(|error| Status::unavailable(crate::client::root_cause(&error)))?;
            let answer = AgentServiceClient::new(channel).session(ReceiverStream::new(outgoing)).await?;
            Ok(answer.into_inner().boxed())
        })
    }
}
