//! The streams the driver speaks to. Messages of one step travel in one frame.

use std::collections::BTreeMap;

use hive_core::id::LeaderEpoch;
use hive_core::leader::{CloseCause, Connection, ToSidecar};
use hive_proto::sidecar_v1::TailLogs;
use tokio::sync::mpsc;
use tonic::Status;

/// To one stream.
#[derive(Debug)]
pub enum Down {
    /// Messages, in order.
    Frame {
        /// Who speaks.
        leader: LeaderEpoch,
        /// What.
        messages: Vec<ToSidecar>,
    },
    /// From the edge itself: output is wanted.
    TailLogs(Box<TailLogs>),
    /// The last one, from the edge itself: the sidecar spoke nonsense.
    Broken(Box<Status>),
    /// The last one.
    Close(CloseCause),
}

#[derive(Default)]
pub(super) struct Edges {
    down: BTreeMap<Connection, mpsc::Sender<Down>>,
    pending: BTreeMap<Connection, Vec<ToSidecar>>,
}

impl Edges {
    pub(super) fn attach(&mut self, connection: Connection, down: mpsc::Sender<Down>) {
        self.down.insert(connection, down);
    }

    pub(super) fn detach(&mut self, connection: Connection) {
        self.down.remove(&connection);
        self.pending.remove(&connection);
    }

    pub(super) fn push(&mut self, connection: Connection, message: ToSidecar) {
        if self.down.contains_key(&connection) {
            let pending = self.pending.entry(connection).or_default();
            // Each would be answered by a hello; one is enough.
            if !matches!((pending.last(), &message), (Some(ToSidecar::Resync), ToSidecar::Resync)) {
                pending.push(message);
            }
        }
    }

    /// Ends a stream; what was pushed before goes out first, if its queue has room.
    pub(super) fn close(&mut self, connection: Connection, leader: LeaderEpoch, cause: CloseCause) {
        let pending = self.pending.remove(&connection);
        if let Some(down) = self.down.remove(&connection) {
            if let Some(messages) = pending {
                let _full_or_gone = down.try_send(Down::Frame { leader, messages });
            }
            let _full_or_gone = down.try_send(Down::Close(cause));
        }
    }

    /// Every stream is to say hello to a new leader; what was meant for it by the old one is dropped.
    pub(super) fn resync(&mut self) {
        self.pending.clear();
        for connection in self.down.keys() {
            self.pending.insert(*connection, vec![ToSidecar::Resync]);
        }
    }

    /// Sends what is pending and returns the streams that were too slow: they are cut, and find
    /// everything again by their next hello.
    pub(super) fn flush(&mut self, leader: LeaderEpoch) -> Vec<Connection> {
        let mut cut = Vec::new();
        for (connection, messages) in std::mem::take(&mut self.pending) {
            let Some(down) = self.down.get(&connection) else { continue };
            if down.try_send(Down::Frame { leader, messages }).is_err() {
                self.down.remove(&connection);
                cut.push(connection);
            }
        }
        cut
    }
}
