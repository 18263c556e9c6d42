//! Dialing, greeting, hanging up, and how long to wait in between.

use hive_proto::sidecar_v1::Goaway;

use super::journal::Then;
use super::record::Entry;
use super::types::{Connection, ExitReason, LinkEnd, Output};
use super::{Rng, Session, wire};
use std::time::Duration;

/// Longest wait for a connection.
const DIAL_MS: u64 = 10_000;
/// Longest wait for a Welcome.
pub(super) const HELLO_MS: u64 = 5_000;
/// Full jitter between these.
const BACKOFF_MS: (u64, u64) = (100, 10_000);
/// Least wait when another session is alive.
const OCCUPIED_MS: u64 = 1_000;
/// Longest wait a peer may ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);
/// A stream on which no beat is answered for this long, or for six beats, is given up.
const SILENCE_MS: u64 = 30_000;

/// The one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    /// Not started.
    New,
    /// Waiting to dial.
    Down { retry_at: u64 },
    /// The number of the next stream is being journaled.
    Recording(Connection),
    /// Connecting.
    Dialing { connection: Connection, deadline: u64 },
    /// Hello is said.
    Greeting { connection: Connection, said_at: u64 },
    /// Welcomed.
    Open(Connection),
}

impl Link {
    /// Frames of this connection count.
    pub(super) fn is_talking(self, connection: Connection) -> bool {
        matches!(self, Self::Greeting { connection: c, .. } | Self::Open(c) if c == connection)
    }

    fn connection(self) -> Option<Connection> {
        match self {
            Self::New | Self::Down { .. } => None,
            Self::Recording(c) | Self::Open(c) => Some(c),
            Self::Dialing { connection, .. } | Self::Greeting { connection, .. } => Some(connection),
        }
    }
}

impl Session {
    /// The number is (or is not) in the journal.
    pub(super) fn recorded(&mut self, connection: Connection, ok: bool, out: &mut Vec<Output>) {
        if self.link != Link::Recording(connection) {
            return;
        }
        if ok {
            self.link = Link::Dialing { connection, deadline: self.now.mono_ms + DIAL_MS };
            out.push(Output::Dial(connection));
        } else {
            let retry_at = self.disk.ill_until.unwrap_or(self.now.mono_ms + BACKOFF_MS.1);
            self.link = Link::Down { retry_at };
        }
    }

    pub(super) fn dialed(&mut self, connection: Connection, out: &mut Vec<Output>) {
        if matches!(self.link, Link::Dialing { connection: c, .. } if c == connection) {
            self.say_hello(connection, false, out);
        }
    }

    pub(super) fn resync(&mut self, connection: Connection, out: &mut Vec<Output>) {
        tracing::info!(leader = ?self.leader, "a new leader asks for a hello");
        self.say_hello(connection, true, out);
    }

    fn say_hello(&mut self, connection: Connection, resync: bool, out: &mut Vec<Output>) {
        self.link = Link::Greeting { connection, said_at: self.now.mono_ms };
        self.assigns.restart(resync);
        self.beats.greet(resync, self.now.mono_ms);
        let hello = self.hello(connection);
        self.send(connection, vec![hello], out);
    }

    pub(super) fn link_ended(&mut self, connection: Connection, end: LinkEnd, rng: Rng<'_>, out: &mut Vec<Output>) {
        if self.link.connection() != Some(connection) {
            return;
        }
        match end {
            LinkEnd::Broken => self.back_off(0, rng),
            LinkEnd::Occupied => self.back_off(OCCUPIED_MS, rng),
            LinkEnd::Fenced => {
                tracing::error!("the control plane says this sidecar's generation is over");
                self.exit(ExitReason::Fenced, Duration::ZERO, out);
            }
        }
    }

    /// Ends the stream from this side.
    pub(super) fn hang_up(&mut self, rng: Rng<'_>, out: &mut Vec<Output>) {
        self.close(out);
        self.back_off(0, rng);
    }

    pub(super) fn close(&mut self, out: &mut Vec<Output>) {
        if let Link::Dialing { connection, .. } | Link::Greeting { connection, .. } | Link::Open(connection) = self.link
        {
            out.push(Output::CloseStream(connection));
        }
    }

    pub(super) fn goaway(&mut self, connection: Connection, goaway: Goaway, rng: Rng<'_>, out: &mut Vec<Output>) {
        if !self.link.is_talking(connection) {
            return;
        }
        let wait = wire::duration(goaway.retry_after.as_ref()).unwrap_or_default().min(MAX_RETRY_AFTER);
        tracing::info!(reason = goaway.reason, retry_ms = wire::millis(wait), "the control plane asks to go away");
        self.close(out);
        self.back_off(wire::millis(wait), rng);
    }

    /// Full jitter below a doubling ceiling, after `least_ms`.
    fn back_off(&mut self, least_ms: u64, rng: Rng<'_>) {
        let ceiling = BACKOFF_MS.0.saturating_mul(4 << self.failures.min(16)).min(BACKOFF_MS.1);
        let wait = least_ms + BACKOFF_MS.0 + rng() % (ceiling - BACKOFF_MS.0);
        self.failures = self.failures.saturating_add(1);
        self.link = Link::Down { retry_at: self.now.mono_ms + wait };
    }

    /// The stream works: the next failure is a first one.
    pub(super) fn link_proved(&mut self) {
        self.failures = 0;
    }

    pub(super) fn check_link(&mut self, rng: Rng<'_>, out: &mut Vec<Output>) {
        let now = self.now.mono_ms;
        match self.link {
            Link::Down { retry_at } if retry_at <= now => {
                self.connection = Connection(self.connection.0 + 1);
                self.link = Link::Recording(self.connection);
                self.append(vec![Entry::Connection(self.connection)], vec![Then::Dial(self.connection)], out);
            }
            Link::Dialing { deadline, .. } if deadline <= now => self.hang_up(rng, out),
            Link::Greeting { said_at, .. } if said_at + HELLO_MS <= now => {
                tracing::warn!("no welcome in time; starting over on a new stream");
                self.hang_up(rng, out);
            }
            Link::Open(_) if self.silent_at() <= now => {
                tracing::warn!("no beat is answered on this stream; starting over on a new one");
                self.hang_up(rng, out);
            }
            _ => {}
        }
    }

    fn silent_at(&self) -> u64 {
        self.beats.heard + SILENCE_MS.max(6 * self.beats.interval_ms)
    }

    pub(super) fn link_wakes(&self, due: &mut Vec<u64>) {
        match self.link {
            Link::New | Link::Recording(_) => {}
            Link::Down { retry_at } => due.push(retry_at),
            Link::Dialing { deadline, .. } => due.push(deadline),
            Link::Greeting { said_at, .. } => due.push(said_at + HELLO_MS),
            Link::Open(_) => due.push(self.silent_at()),
        }
    }
}
