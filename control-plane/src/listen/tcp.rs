//! TCP: binding with an error that helps, and the options of accepted sockets.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::net::sockopt;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::Listener;

/// Connections that may wait to be accepted. When a control plane comes back its whole fleet dials at
/// once; whoever finds no room is answered a second later at the earliest.
const BACKLOG: u32 = 4_096;
/// A cut cable is noticed by HTTP/2 first; this also ends peers that never got so far.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

/// A TCP listener.
pub struct Tcp(TcpListener);

/// A port that cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error("{setting}: cannot listen on {address}{}", hint(source))]
pub struct BindError {
    /// The setting that names the address.
    pub setting: &'static str,
    /// The address.
    pub address: SocketAddr,
    /// What the operating system says.
    #[source]
    pub source: io::Error,
}

fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrInUse => ", another process does; stop it or choose another port",
        io::ErrorKind::AddrNotAvailable => ", this machine does not have that address",
        io::ErrorKind::PermissionDenied => ", which this user may not; choose a port above 1023",
        _ => "",
    }
}

/// Binds the address that `setting` names. Needs a runtime.
///
/// # Errors
/// The address is taken, absent or forbidden; the error names it.
pub fn bind(setting: &'static str, address: SocketAddr) -> Result<Tcp, BindError> {
    let listen = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().map(Tcp).map_err(|source| BindError { setting, address, source })
}

impl Listener for Tcp {
    type Io = TcpStream;

    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, peer) = self.0.accept().await?;
        if let Err(error) = prepare(&stream) {
            // The peer is gone already; reading will say so.
            tracing::debug!(%peer, %error, "socket options not set");
        }
        Ok((stream, peer))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_EVERY)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
    Ok(())
}

/// Raises the soft limit of file descriptors to the hard one and returns it. Call once at start.
#[must_use]
pub fn raise_descriptor_limit() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        // Refused on some systems; the limit then stays what it was.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
    getrlimit(Resource::Nofile).current
}
