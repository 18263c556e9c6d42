//! Serves gRPC on the main port: HTTP/2 settings, health, reflection, and around every call a
//! deadline, a count and a net for panics. What the services do is theirs.

mod body;
mod calls;
mod health;
mod methods;
mod routes;

pub use calls::Deadline;
pub use health::{Health, Readiness};
pub use routes::Routes;

pub(crate) use calls::{Calls, fault_of_request};

use tokio_util::sync::CancellationToken;
use tonic::transport;

use crate::config::{Limits, Transport};
use crate::listen::{Caps, Listener, Port, Speaks, accept};
use crate::tasks::{TaskKind, Tasks};
use crate::tls::Acceptor;

/// How a server comes to its end.
#[derive(Clone, Default)]
pub struct Ending {
    /// Streams still open are ended by us.
    pub streams: CancellationToken,
    /// Connections still open are cut.
    pub connections: CancellationToken,
}

/// Why a server could not be built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A descriptor set does not describe what is served.
    #[error("descriptors of the services cannot be read")]
    Descriptors(#[from] routes::DescriptorError),
}

/// Serves `routes`, health and (if wanted) reflection on the main port, until the tasks stop.
/// The serving task ends when the last connection does.
///
/// # Errors
/// The descriptors of the routes are unreadable.
pub fn serve<L: Listener>(
    tasks: &Tasks,
    listener: L,
    routes: Routes,
    health: &Health,
    settings: &Settings<'_>,
    ending: &Ending,
) -> Result<(), Error> {
    let routes = routes.with_health(health);
    let routes = if settings.reflection { routes.with_reflection()? } else { routes };
    let calls = Calls::new(routes, settings.limits, tasks.stopping(), ending.streams.clone())?;
    let caps = Caps::of(settings.limits, Port::Main);
    let incoming =
        accept(tasks, Port::Main, listener, Speaks::Http2, settings.tls.clone(), &caps, ending.connections.clone());
    let stopping = tasks.stopping();
    let http2 = http2(settings.transport);
    tasks.spawn(TaskKind::Serve, async move {
        http2.serve_with_incoming_shutdown(calls, incoming, stopping.cancelled_owned()).await?;
        Ok(())
    });
    Ok(())
}

/// The settings that serving needs.
pub struct Settings<'a> {
    /// Reflection is answered.
    pub reflection: bool,
    /// Bounds of calls and connections.
    pub limits: &'a Limits,
    /// HTTP/2.
    pub transport: &'a Transport,
    /// Certificates of the main port.
    pub tls: Option<Acceptor>,
}

/// Keepalive on our side too: a peer behind a cut cable would hold its streams open for ever.
pub(crate) fn http2(transport: &Transport) -> transport::Server {
    let window = |size: crate::config::ByteSize| u32::try_from(size.0).unwrap_or(u32::MAX);
    transport::Server::builder()
        .http2_keepalive_interval(Some(transport.keepalive))
        .http2_keepalive_timeout(Some(transport.keepalive_timeout))
        .max_concurrent_streams(transport.streams_per_connection)
        .initial_stream_window_size(window(transport.stream_window))
        .initial_connection_window_size(window(transport.connection_window))
}
