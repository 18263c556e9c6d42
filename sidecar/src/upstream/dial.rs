//! A fresh connection, with deadlines on everything.

use std::future::Future;
use std::time::Duration;

use hive_proto::tls::{self, ClientTls};
use tonic::transport::{Channel, Endpoint, Error};

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// A peer is asked for a sign of life this often, idle or not…
const KEEPALIVE: Duration = Duration::from_secs(10);
/// …and has this long to give it.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Makes connections; in production [`Tcp`], in tests perhaps a simulated network.
pub trait Connect: Clone + Send + Sync + 'static {
    /// Connects to the endpoint, resolving its name afresh.
    fn connect(&self, endpoint: &Endpoint) -> impl Future<Output = Result<Channel, Error>> + Send;
}

/// The real network, with TLS where there are certificates.
#[derive(Debug, Clone, Default)]
pub struct Tcp {
    /// Whom to trust and what to show.
    pub tls: Option<ClientTls>,
}

impl Connect for Tcp {
    async fn connect(&self, endpoint: &Endpoint) -> Result<Channel, Error> {
        match &self.tls {
            Some(tls) => tls.connect(endpoint).await,
            None => endpoint.connect().await,
        }
    }
}

/// How the control plane is dialled.
///
/// # Errors
/// `server` is no URL.
pub fn endpoint(server: &str) -> Result<Endpoint, Error> {
    Ok(tls::endpoint(server)?
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true))
}
