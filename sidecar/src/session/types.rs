//! What goes into the session machine and what comes out of it: plain data.

use hive_proto::{sidecar_v1, v1};

use super::record::{Entry, Recovered};
use crate::attempt::AttemptKey;
use crate::runtime::{RuntimeCommand, RuntimeEvent};

/// The clocks, as arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds on a clock that never goes back and counts suspension; for deadlines.
    pub mono_ms: u64,
    /// Milliseconds since the Unix epoch; for display.
    pub wall_ms: u64,
}

/// A commit of the cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Revision {
    /// Raised by a restore.
    pub cluster_generation: u64,
    /// Number of the commit.
    pub seq: u64,
}

/// A leader's fence.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Leader {
    /// Raised by a restore.
    pub cluster_generation: u64,
    /// Raised by each change of leader.
    pub number: u64,
}

/// Number of a stream; journaled before its dial, only grows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Connection(pub u64);

/// Number of one append to the journal, in the order asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct JournalSeq(pub u64);

/// Why a dial failed or a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkEnd {
    /// The transport broke, the peer left, or it answered a status that says nothing more.
    Broken,
    /// Refused for now: another boot of this sidecar, or a later session of it, is alive.
    Occupied,
    /// Refused for good: this generation is over.
    Fenced,
}

/// Why the sidecar ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitReason {
    /// It was asked to.
    Stopped,
    /// The control plane says this generation is over.
    Fenced,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Input {
    /// First of all: what the journal holds, and the host's boot id.
    Start {
        /// The journal's contents; empty when it is new.
        recovered: Box<Recovered>,
        /// Differs after each boot of the host.
        host_boot: [u8; 16],
    },
    /// The connection asked for stands; frames may be sent on it.
    Dialed(Connection),
    /// It could not be made.
    DialFailed(Connection, LinkEnd),
    /// A frame arrived on it.
    Frame(Connection, sidecar_v1::SessionResponse),
    /// It is gone, by whichever side.
    StreamEnded(Connection, LinkEnd),
    /// A runtime observed something.
    Runtime(RuntimeEvent),
    /// This append and all before it will survive the sidecar's death.
    Journaled(JournalSeq),
    /// This append did not happen (disk full or failing). Answered in order with the successes.
    JournalFailed(JournalSeq),
    /// Time has passed; due at [`next_wake`](super::Session::next_wake), harmless at any time.
    Tick,
    /// Stop: the first one gracefully, the second one hard.
    Shutdown,
}

/// What to do, in order.
#[derive(Debug, Clone)]
pub enum Output {
    /// Append these entries together, then answer `Journaled` or `JournalFailed`.
    Journal(JournalSeq, Vec<Entry>),
    /// Make a fresh connection, then answer `Dialed` or `DialFailed`.
    Dial(Connection),
    /// Send a frame; it may be split between messages. Dropped if that connection is gone.
    Send(Connection, sidecar_v1::SessionRequest),
    /// End the stream after what was sent; nothing of it is answered any more.
    CloseStream(Connection),
    /// For an agent's runtime.
    Runtime {
        /// The agent.
        agent: String,
        /// What to do.
        command: RuntimeCommand,
    },
    /// Push an attempt's kept output over a connection of its own.
    TailLogs(sidecar_v1::TailLogs),
    /// End. Runtimes have been told to shut down.
    Exit(ExitReason),
}

/// What the machine counts; readable in logs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Frames of a leader epoch below one seen.
    pub stale_frames: u64,
    /// Messages that made no sense.
    pub nonsense: u64,
    /// Streams welcomed.
    pub welcomes: u64,
    /// Attempts started.
    pub started: u64,
    /// Attempts declined.
    pub declined: u64,
    /// Attempts found neither running nor finished.
    pub lost: u64,
    /// Results sent, repeats included.
    pub results_sent: u64,
    /// Results released.
    pub released: u64,
    /// Releases that did not count.
    pub releases_refused: u64,
    /// Appends the journal refused.
    pub journal_failures: u64,
}

impl Revision {
    /// From the wire; absent is the lowest.
    #[must_use]
    pub fn from_wire(wire: Option<&v1::Revision>) -> Self {
        wire.map_or_else(Self::default, |w| Self { cluster_generation: w.cluster_generation, seq: w.seq })
    }
}

impl Leader {
    /// From the wire; absent is the lowest.
    #[must_use]
    pub fn from_wire(wire: Option<&sidecar_v1::LeaderEpoch>) -> Self {
        wire.map_or_else(Self::default, |w| Self { cluster_generation: w.cluster_generation, number: w.number })
    }

    /// To the wire.
    #[must_use]
    pub fn to_wire(self) -> sidecar_v1::LeaderEpoch {
        sidecar_v1::LeaderEpoch { cluster_generation: self.cluster_generation, number: self.number }
    }
}

/// An attempt named by a message, or nothing if it names none.
pub(super) fn key_of(wire: Option<&sidecar_v1::AttemptRef>) -> Option<AttemptKey> {
    wire.and_then(|w| AttemptKey::try_from(w).ok())
}
