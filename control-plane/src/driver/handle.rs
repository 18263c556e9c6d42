//! How the rest of the server speaks to the driver: a cloneable handle over a bounded mailbox.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hive_core::command::{Command, Reply};
use hive_core::id::{LeaderEpoch, Namespace, Revision};
use hive_core::leader::{CallError, Connection, FromSidecar, Leader, StoreRefusal, View};
use hive_core::rejection::Rejection;
use hive_core::time::Time;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{broadcast, mpsc, oneshot};

use super::down::Down;
use super::events::Event;
use crate::clock::ClusterClock;
use crate::tasks::{TaskKind, Tasks};

/// Why a call was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The rules refused it.
    #[error(transparent)]
    Rejected(Rejection),
    /// The store refused it; nothing was done.
    #[error("the store refused the write: {0}")]
    Store(StoreRefusal),
    /// The mailbox is full; nothing was done.
    #[error("the driver's mailbox is full")]
    Overloaded,
    /// The driver has ended. Whether the call was carried out is not known.
    #[error("the server is stopping")]
    Stopping,
}

impl From<CallError> for Refusal {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Rejected(rejection) => Refusal::Rejected(rejection),
            CallError::Refused(reason) => Refusal::Store(reason),
        }
    }
}

/// The answer to a call, with the revision it stands upon.
pub(super) type Answer = (Result<Reply, Refusal>, Revision);

/// What waits in the mailbox.
pub(super) enum Request {
    Call { namespace: Namespace, command: Box<Command>, answer: oneshot::Sender<Answer> },
    Barrier { answer: oneshot::Sender<Answer> },
    Read(Box<dyn FnOnce(&Leader) + Send>),
    Attach { connection: Connection, down: mpsc::Sender<Down> },
    Frame { connection: Connection, leader: LeaderEpoch, messages: Vec<FromSidecar> },
    Hangup(Connection),
}

/// See the module.
#[derive(Clone)]
pub struct Handle {
    mailbox: mpsc::Sender<Request>,
    events: broadcast::Sender<Event>,
    clock: ClusterClock,
    connections: Arc<AtomicU64>,
}

impl Handle {
    pub(super) fn new(mailbox: mpsc::Sender<Request>, events: broadcast::Sender<Event>, clock: ClusterClock) -> Self {
        Self { mailbox, events, clock, connections: Arc::default() }
    }

    /// Cluster time.
    #[must_use]
    pub fn now(&self) -> Time {
        self.clock.now()
    }

    /// Has a command decided and committed. Dropping the future does not take it back.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn call(&self, namespace: Namespace, command: Command) -> Result<(Reply, Revision), Refusal> {
        let (answer, answered) = oneshot::channel();
        self.offer(Request::Call { namespace, command: Box::new(command), answer })?;
        let (result, revision) = answered.await.map_err(|_| Refusal::Stopping)?;
        Ok((result?, revision))
    }

    /// Waits for a commit later than everything told so far: what is read after it is linearizable.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn barrier(&self) -> Result<Revision, Refusal> {
        let (answer, answered) = oneshot::channel();
        self.offer(Request::Barrier { answer })?;
        let (result, revision) = answered.await.map_err(|_| Refusal::Stopping)?;
        result.map(|_| revision)
    }

    /// Reads committed state.
    ///
    /// # Errors
    /// [`Refusal::Overloaded`] or [`Refusal::Stopping`].
    pub async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&View<'_>) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        self.inspect(move |leader| read(&leader.view())).await
    }

    /// Reads the leader itself, for status.
    ///
    /// # Errors
    /// [`Refusal::Overloaded`] or [`Refusal::Stopping`].
    pub async fn inspect<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Leader) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let (answer, answered) = oneshot::channel();
        self.offer(Request::Read(Box::new(move |leader| {
            // A reader that has gone does not wait for its answer.
            let _gone = answer.send(read(leader));
        })))?;
        answered.await.map_err(|_| Refusal::Stopping)
    }

    fn offer(&self, request: Request) -> Result<(), Refusal> {
        self.mailbox.try_send(request).map_err(|error| match error {
            TrySendError::Full(_) => Refusal::Overloaded,
            TrySendError::Closed(_) => Refusal::Stopping,
        })
    }

    /// What happens from here on. Subscribe first, read then: events up to the revision read are
    /// in what was read.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Tells the driver where to send what is for a sidecar, until the attachment is dropped. Waits
    /// while the mailbox is full.
    ///
    /// # Errors
    /// [`Refusal::Stopping`].
    pub async fn attach(&self, down: mpsc::Sender<Down>, tasks: &Tasks) -> Result<Attachment, Refusal> {
        let connection = Connection(self.connections.fetch_add(1, Ordering::Relaxed) + 1);
        self.deliver(Request::Attach { connection, down }).await?;
        Ok(Attachment { handle: self.clone(), connection, tasks: tasks.clone() })
    }

    async fn deliver(&self, request: Request) -> Result<(), Refusal> {
        self.mailbox.send(request).await.map_err(|_| Refusal::Stopping)
    }
}

/// A sidecar's stream as the driver knows it. Dropping it tells the driver that the stream has ended,
/// whatever the reason: a call that its client gave up, or a panic.
pub struct Attachment {
    handle: Handle,
    connection: Connection,
    tasks: Tasks,
}

impl Attachment {
    /// Which stream.
    #[must_use]
    pub fn connection(&self) -> Connection {
        self.connection
    }

    /// Brings messages of the sidecar. Waits while the mailbox is full.
    ///
    /// # Errors
    /// [`Refusal::Stopping`].
    pub async fn frame(&self, leader: LeaderEpoch, messages: Vec<FromSidecar>) -> Result<(), Refusal> {
        self.handle.deliver(Request::Frame { connection: self.connection, leader, messages }).await
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let Err(TrySendError::Full(hangup)) = self.handle.mailbox.try_send(Request::Hangup(self.connection)) else {
            // Told; or the driver has ended, and knows of no streams.
            return;
        };
        // A runtime that is gone has taken the driver with it.
        if tokio::runtime::Handle::try_current().is_ok() {
            let handle = self.handle.clone();
            self.tasks.spawn(TaskKind::Session, async move {
                let _ended = handle.deliver(hangup).await;
                Ok(())
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio_util::sync::CancellationToken;

    use super::*;

    struct Rig {
        handle: Handle,
        mailbox: mpsc::Receiver<Request>,
        tasks: Tasks,
        stop: CancellationToken,
    }

    fn rig(room: usize) -> Rig {
        let (sender, mailbox) = mpsc::channel(room);
        let handle = Handle::new(sender, broadcast::channel(1).0, ClusterClock::simulated(Time(1)));
        let stop = CancellationToken::new();
        Rig { handle, mailbox, tasks: Tasks::new(&stop), stop }
    }

    impl Rig {
        async fn attach(&self) -> Attachment {
            self.handle.attach(mpsc::channel(1).0, &self.tasks).await.expect("a driver")
        }

        async fn hears(&mut self) -> Request {
            let heard = tokio::time::timeout(Duration::from_secs(10), self.mailbox.recv());
            heard.await.expect("in time").expect("a request")
        }
    }

    #[tokio::test]
    async fn a_stream_given_up_is_hung_up_though_the_mailbox_is_full() {
        let mut rig = rig(1);
        let attachment = rig.attach().await;
        let connection = attachment.connection();
        drop(attachment);
        assert!(matches!(rig.hears().await, Request::Attach { connection: c, .. } if c == connection));
        assert!(matches!(rig.hears().await, Request::Hangup(c) if c == connection));
        rig.stop.cancel();
        rig.tasks.ended_all().await;
    }

    #[tokio::test]
    async fn a_stream_whose_task_panics_is_hung_up() {
        let mut rig = rig(4);
        let attachment = rig.attach().await;
        rig.tasks.spawn(TaskKind::Session, async move {
            let _held = attachment;
            tokio::task::yield_now().await;
            panic!("expected by the test");
        });
        assert!(matches!(rig.hears().await, Request::Attach { .. }));
        assert!(matches!(rig.hears().await, Request::Hangup(_)));
        rig.stop.cancel();
        rig.tasks.ended_all().await;
    }
}
