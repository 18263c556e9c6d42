//! The simulated network under the real shells: a listener for the control plane, a connector for the
//! sidecar and for clients.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use hive_control_plane::listen::Listener;
use hive_sidecar::upstream::Connect;
use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint, Error, Uri};
use tower::service_fn;
use turmoil::net::{TcpListener, TcpStream};

use crate::lab::{Lab, now};

/// The control plane's port.
pub(crate) const PORT: u16 = 7070;
/// Its port for health and metrics.
pub(crate) const OPS: u16 = 7071;
/// Its name.
pub(crate) const PLANE: &str = "plane";

/// A port of the host that binds it.
pub(crate) struct Port(TcpListener, SocketAddr);

impl Port {
    pub(crate) async fn bind(port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind(("0.0.0.0", port)).await?;
        let address = listener.local_addr()?;
        Ok(Self(listener, address))
    }
}

impl Listener for Port {
    type Io = TcpStream;

    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        self.0.accept().await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.1)
    }
}

async fn dial(uri: Uri) -> io::Result<TokioIo<TcpStream>> {
    let host = uri.host().unwrap_or(PLANE);
    Ok(TokioIo::new(TcpStream::connect((host, uri.port_u16().unwrap_or(PORT))).await?))
}

/// A sidecar's way to the control plane; the lab notes each dial.
#[derive(Clone)]
pub(crate) struct Wire {
    pub(crate) lab: Arc<Lab>,
    pub(crate) host: String,
}

impl Connect for Wire {
    async fn connect(&self, endpoint: &Endpoint) -> Result<Channel, Error> {
        self.lab.book().dials.push((now(), self.host.clone()));
        endpoint.connect_with_connector(service_fn(dial)).await
    }
}

/// A client's channel, with the patience the SDK's has.
pub(crate) fn channel() -> Channel {
    endpoint().connect_with_connector_lazy(service_fn(dial))
}

pub(crate) fn endpoint() -> Endpoint {
    use std::time::Duration;
    Endpoint::from_shared(format!("http://{PLANE}:{PORT}"))
        .expect("an endpoint")
        .connect_timeout(Duration::from_secs(3))
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(5))
        .keep_alive_while_idle(true)
}

/// A channel that takes little in before it is read.
pub(crate) fn narrow_channel() -> Channel {
    let narrow = endpoint().initial_stream_window_size(1 << 16).initial_connection_window_size(1 << 16);
    narrow.connect_with_connector_lazy(service_fn(dial))
}

/// A channel that asks for no signs of life, as a peer's library may not.
pub(crate) fn careless_channel() -> Channel {
    Endpoint::from_shared(format!("http://{PLANE}:{PORT}"))
        .expect("an endpoint")
        .connect_with_connector_lazy(service_fn(dial))
}
