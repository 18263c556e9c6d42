//! One connection, from its dial to its end.

use std::time::Duration;

use hive_proto::sidecar_v1::sidecar_service_client::SidecarServiceClient;
use hive_proto::sidecar_v1::{SessionRequest, SessionResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use super::{Connect, frames, status};
use crate::session::{Connection, LinkEnd};
use crate::tasks::{Kind, Tasks};

/// Frames waiting for the peer. Full: the peer is too slow and is cut off.
const OUTBOUND: usize = 256;
/// Frames handed to the transport.
const FLYING: usize = 4;
/// Largest frame taken, as the control plane's limit.
const MAX_FRAME: usize = 4 << 20;
/// The peer's time to end its side after ours has ended.
const FAREWELL: Duration = Duration::from_secs(1);

/// What a connection tells.
#[derive(Debug)]
pub enum LinkEvent {
    /// It stands.
    Dialed(Connection),
    /// It could not be made.
    DialFailed(Connection, LinkEnd),
    /// A frame arrived.
    Frame(Connection, SessionResponse),
    /// It is gone.
    Ended(Connection, LinkEnd),
}

/// Leads to a connection's task. Dropped: what was sent goes out, then the stream ends.
#[derive(Debug)]
pub struct Link {
    connection: Connection,
    outbound: mpsc::Sender<SessionRequest>,
    task: tokio::task::JoinHandle<()>,
}

impl Link {
    /// Dials.
    pub fn dial<C: Connect>(
        connect: &C,
        endpoint: &Endpoint,
        connection: Connection,
        events: mpsc::Sender<LinkEvent>,
        tasks: &Tasks,
    ) -> Self {
        let (outbound, queue) = mpsc::channel(OUTBOUND);
        let (connect, endpoint) = (connect.clone(), endpoint.clone());
        let task = tasks.spawn(Kind::Attendant, "upstream", async move {
            let channel = dial(connect, &endpoint, connection, queue, &events).await;
            if let Some((channel, queue)) = channel {
                let end = talk(channel, connection, queue, &events).await;
                tell(&events, LinkEvent::Ended(connection, end)).await;
            }
        });
        Self { connection, outbound, task }
    }

    /// Which one.
    #[must_use]
    pub fn connection(&self) -> Connection {
        self.connection
    }

    /// Sends a frame; says whether there was room.
    #[must_use]
    pub fn send(&self, frame: SessionRequest) -> bool {
        self.outbound.try_send(frame).is_ok()
    }

    /// Ends the stream after what was sent, and waits until it has ended.
    pub async fn close(self) {
        drop(self.outbound);
        if self.task.await.is_err() {
            tracing::debug!("the connection's task was gone already");
        }
    }
}

async fn tell(events: &mpsc::Sender<LinkEvent>, event: LinkEvent) {
    // The driver is gone only at the very end, when nobody asks any more.
    let _gone = events.send(event).await;
}

/// The channel, unless it fails or is not wanted any more.
async fn dial<C: Connect>(
    connect: C,
    endpoint: &Endpoint,
    connection: Connection,
    mut queue: mpsc::Receiver<SessionRequest>,
    events: &mpsc::Sender<LinkEvent>,
) -> Option<(Channel, mpsc::Receiver<SessionRequest>)> {
    let dialled = tokio::select! {
        biased;
        dialled = connect.connect(endpoint) => dialled,
        // Nothing is sent before the connection stands, so this is the end of the queue.
        _ = queue.recv() => return None,
    };
    match dialled {
        Ok(channel) => {
            tell(events, LinkEvent::Dialed(connection)).await;
            Some((channel, queue))
        }
        Err(error) => {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::warn!(server = %endpoint.uri().authority().map_or("", |a| a.as_str()), %error, cause, "cannot reach the control plane");
            tell(events, LinkEvent::DialFailed(connection, LinkEnd::Broken)).await;
            None
        }
    }
}

async fn talk(
    channel: Channel,
    connection: Connection,
    queue: mpsc::Receiver<SessionRequest>,
    events: &mpsc::Sender<LinkEvent>,
) -> LinkEnd {
    let (frames, flying) = mpsc::channel(FLYING);
    let mut client = SidecarServiceClient::new(channel).max_decoding_message_size(MAX_FRAME);
    let read = async {
        let mut stream = match client.session(ReceiverStream::new(flying)).await {
            Ok(response) => response.into_inner(),
            Err(status) => return ended(&status),
        };
        loop {
            match stream.message().await {
                Ok(Some(frame)) => tell(events, LinkEvent::Frame(connection, frame)).await,
                Ok(None) => {
                    tracing::info!("the control plane ended the stream");
                    return LinkEnd::Broken;
                }
                Err(status) => return ended(&status),
            }
        }
    };
    let write = async {
        let alive = write(queue, frames).await;
        if alive {
            // Our side has ended on purpose; the peer ends its own.
            tokio::time::sleep(FAREWELL).await;
        } else {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        biased;
        end = read => end,
        () = write => LinkEnd::Broken,
    }
}

/// Sends until the queue ends; false if the transport ended first.
async fn write(mut queue: mpsc::Receiver<SessionRequest>, frames: mpsc::Sender<SessionRequest>) -> bool {
    let mut next = queue.recv().await;
    while let Some(mut frame) = next.take() {
        // Whoever can run now may have more to say: a receipt leaves with the start that follows it.
        tokio::task::yield_now().await;
        // Whatever waits meanwhile travels along.
        while let Ok(more) = queue.try_recv() {
            next = frames::join(&mut frame, more);
            if next.is_some() {
                break;
            }
        }
        for frame in frames::split(frame) {
            if frames.send(frame).await.is_err() {
                return false;
            }
        }
        if next.is_none() {
            next = queue.recv().await;
        }
    }
    true
}

fn ended(status: &tonic::Status) -> LinkEnd {
    let end = status::meaning(status);
    let reason = status::reason(status);
    let detail = hive_proto::tls::explain(status).unwrap_or_else(|| status.message().to_owned());
    tracing::warn!(code = ?status.code(), reason, detail, "the stream ended");
    end
}
