//! What goes down a stream, from the driver and from the stream's own edge.

use hive_core::id::LeaderEpoch;
use hive_core::leader::{CloseCause, ToSidecar};
use hive_proto::sidecar_v1::TailLogs;
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
