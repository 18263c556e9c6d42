//! The loop itself.
//!
//! When the port or an address is full, a new connection is closed at once: its peer learns it
//! and can turn elsewhere. When too many are unidentified, the loop waits: each of them gives its
//! place back within the handshake limit, and the kernel's backlog holds the rest.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::answer::{Mistake, answer, part};
use super::caps::{Caps, Counter, Place};
use super::conn::Conn;
use super::preface::{Found, Speaks, identify};
use super::stream::{Replay, Stream};
use super::{Listener, Port};
use crate::clock;
use crate::metrics;
use crate::tasks::{TaskKind, Tasks};
use crate::tls::{Acceptor, Who};

/// Identified connections waiting for the server; when full, handshake tasks wait.
const READY: usize = 64;
const BACK_OFF: Duration = Duration::from_millis(10);
const BACK_OFF_CAP: Duration = Duration::from_secs(1);
/// Peers cause these lines; one of a kind per this time is enough.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// Connections for tonic to serve. Ends when the loop does.
pub type Incoming<I> = ReceiverStream<Result<Conn<I>, Infallible>>;

/// Starts the loop; with `tls`, what the port speaks is spoken inside TLS. It ends, and closes the listener, when the server begins to stop; `cut` ends
/// the connections themselves.
pub fn accept<L: Listener>(
    tasks: &Tasks,
    port: Port,
    listener: L,
    speaks: Speaks,
    tls: Option<Acceptor>,
    caps: &Caps,
    cut: CancellationToken,
) -> Incoming<L::Io> {
    let (ready, incoming) = mpsc::channel(READY);
    let shared = Arc::new(Shared {
        tasks: tasks.clone(),
        port,
        speaks,
        tls,
        handshake: caps.handshake,
        cut,
        ready,
        log: LogGate::default(),
    });
    let counter = Counter::new(port, caps);
    let pending = Arc::new(Semaphore::new(usize::try_from(caps.pending).unwrap_or(usize::MAX)));
    let stopping = tasks.stopping();
    tasks.spawn(TaskKind::Accept, async move {
        stopping.run_until_cancelled(run(listener, shared, counter, pending)).await;
        Ok(())
    });
    ReceiverStream::new(incoming)
}

struct Shared<I> {
    tasks: Tasks,
    port: Port,
    speaks: Speaks,
    tls: Option<Acceptor>,
    handshake: Duration,
    cut: CancellationToken,
    ready: mpsc::Sender<Result<Conn<I>, Infallible>>,
    log: LogGate,
}

async fn run<L: Listener>(mut listener: L, shared: Arc<Shared<L::Io>>, counter: Counter, pending: Arc<Semaphore>) {
    let mut pause = BACK_OFF;
    loop {
        // The semaphore is never closed.
        let Ok(unidentified) = Arc::clone(&pending).acquire_owned().await else { return };
        let (io, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            // The peer gave up while it waited: nobody's fault, and no reason to pause.
            Err(error) if of_the_peer(&error) => continue,
            Err(error) => {
                metrics::accept_failed(shared.port.as_str());
                if shared.log.open("accept") {
                    tracing::error!(port = shared.port.as_str(), %error, pause_ms = pause.as_millis(), "cannot accept connections");
                }
                // Out of descriptors or memory: the next accept would fail at once, for ever.
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(BACK_OFF_CAP);
                continue;
            }
        };
        pause = BACK_OFF;
        let place = match counter.admit(peer) {
            Ok(place) => place,
            Err(full) => {
                refused(&shared, peer, full.as_str());
                continue;
            }
        };
        let task = Arc::clone(&shared);
        shared.tasks.spawn(TaskKind::Handshake, async move {
            let conn = tokio::time::timeout(task.handshake, shake(&task, io, peer, place)).await;
            drop(unidentified);
            match conn {
                // The server is gone: so is the need for the connection.
                Ok(Some(conn)) => drop(task.ready.send(Ok(conn)).await),
                Ok(None) => {}
                Err(_) => refused(&task, peer, "silent"),
            }
            Ok(())
        });
    }
}

async fn shake<I>(shared: &Shared<I>, mut io: I, peer: SocketAddr, place: Place) -> Option<Conn<I>>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let mut seen = Vec::new();
    let found = identify(&mut io, shared.speaks, &mut seen).await.unwrap_or(Found::Closed);
    let mistake = match (found, &shared.tls) {
        (Found::Tls, Some(tls)) => return secure(shared, tls, Replay::new(io, seen), peer, place).await,
        (Found::Expected, None) => {
            let io = Stream::Left(Replay::new(io, seen));
            return Some(Conn::new(io, peer, Who::Unasked, shared.cut.clone(), place));
        }
        (Found::Tls, None) => Mistake::Tls,
        (Found::Http1, None) => Mistake::Http1,
        (Found::Expected, Some(_)) => Mistake::PlainHttp2,
        (Found::Http1, Some(_)) => Mistake::PlainHttp1,
        (Found::Garbage | Found::Closed, _) => {
            unknown(shared, peer, found);
            return None;
        }
    };
    refused(shared, peer, reason(mistake));
    answer(&mut io, mistake).await;
    None
}

/// Agrees on TLS, then looks again at what is spoken inside.
async fn secure<I>(shared: &Shared<I>, tls: &Acceptor, io: Replay<I>, peer: SocketAddr, place: Place) -> Option<Conn<I>>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let mut io = match TlsAcceptor::from(tls.config()).accept(io).into_fallible().await {
        Ok(io) => io,
        Err((error, mut io)) => {
            metrics::connection_refused(shared.port.as_str(), "handshake");
            if shared.log.open("handshake") {
                tracing::warn!(port = shared.port.as_str(), %peer, %error, "a TLS handshake failed");
            }
            part(&mut io).await;
            return None;
        }
    };
    let certificate = io.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let who = certificate.map_or(Who::Unasked, Who::of);
    let mut seen = Vec::new();
    match identify(&mut io, shared.speaks, &mut seen).await.unwrap_or(Found::Closed) {
        Found::Expected => {
            let io = Stream::Right(Box::new(Replay::new(io, seen)));
            return Some(Conn::new(io, peer, who, shared.cut.clone(), place));
        }
        Found::Http1 => {
            refused(shared, peer, reason(Mistake::Http1));
            answer(&mut io, Mistake::Http1).await;
        }
        other => unknown(shared, peer, other),
    }
    None
}

fn unknown<I>(shared: &Shared<I>, peer: SocketAddr, found: Found) {
    match found {
        // Port scans and probes of load balancers: counted, not logged.
        Found::Closed => metrics::connection_refused(shared.port.as_str(), "closed"),
        _ => refused(shared, peer, "garbage"),
    }
}

fn reason(mistake: Mistake) -> &'static str {
    match mistake {
        Mistake::Http1 => "http1",
        Mistake::PlainHttp1 | Mistake::PlainHttp2 => "plain",
        Mistake::Tls => "tls",
    }
}

fn refused<I>(shared: &Shared<I>, peer: SocketAddr, reason: &'static str) {
    let port = shared.port.as_str();
    metrics::connection_refused(port, reason);
    if !shared.log.open(reason) {
        return;
    }
    match reason {
        "tls" => {
            tracing::warn!(port, %peer, "a client speaks TLS to this plain-text port: use http:// (no TLS) at the client")
        }
        "plain" => {
            tracing::warn!(port, %peer, "a client speaks plain text to this TLS port: use https:// and --ca at the client")
        }
        "http1" => tracing::warn!(port, %peer, "a client speaks HTTP/1 to this gRPC port"),
        _ => tracing::warn!(port, %peer, reason, "connection refused"),
    }
}

fn of_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted, TimedOut};
    matches!(
        error.kind(),
        BrokenPipe | ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted | TimedOut
    )
}

/// Lets one line of a kind through per [`LOG_EVERY`].
#[derive(Default)]
struct LogGate(Mutex<BTreeMap<&'static str, Instant>>);

impl LogGate {
    fn open(&self, kind: &'static str) -> bool {
        let now = clock::monotonic();
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let open = last.get(kind).is_none_or(|last| now.saturating_duration_since(*last) >= LOG_EVERY);
        if open {
            last.insert(kind, now);
        }
        open
    }
}
