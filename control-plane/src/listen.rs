//! Our own accept loop: bounds connections, gives each a time to show its protocol and to
//! agree on TLS, survives a lack of file descriptors. What is said on a connection is left to `server` and `ops`.
//!
//! Generic over [`Listener`], so that a simulated network can be put under it.

mod accept;
mod answer;
mod caps;
mod conn;
mod preface;
mod stream;
mod tcp;

pub use accept::{Incoming, accept};
pub use caps::Caps;
pub use conn::{Conn, Peer};
pub use preface::Speaks;
pub use tcp::{BindError, Tcp, bind, raise_descriptor_limit};

use std::future::Future;
use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncWrite};

/// Where connections come from.
pub trait Listener: Send + 'static {
    /// One connection.
    type Io: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// The next connection and its peer.
    fn accept(&mut self) -> impl Future<Output = io::Result<(Self::Io, SocketAddr)>> + Send;

    /// The address bound.
    ///
    /// # Errors
    /// The listener has none.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

/// The ports of a control plane. Closed sets make labels of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// Clients and sidecars.
    Main,
    /// Health and metrics.
    Ops,
}

impl Port {
    /// Its name in logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Ops => "ops",
        }
    }
}
