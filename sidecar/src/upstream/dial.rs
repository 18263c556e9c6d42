//! A fresh connection, with deadlines on everything.

use std::future::Future;
use std::time::Duration;

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

/// The real network.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tcp;

impl Connect for Tcp {
    async fn connect(&self, endpoint: &Endpoint) -> Result<Channel, Error> {
        endpoint.connect().await
    }
}

/// How the control plane is dialled.
///
/// # Errors
/// `server` is no URL.
pub fn endpoint(server: &str) -> Result<Endpoint, Error> {
    Ok(Endpoint::from_shared(server.to_owned())?
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true))
}
