//! The loop around the leader, as a machine: what a commit's outcome means, when the next transaction
//! leaves, what is told to which stream, and when silences are the loop's own.
//!
//! The shell brings inputs while [`Machine::is_ready`], then performs every [`Act`] that
//! [`Machine::next`] gives out. It owns the clock, the mailbox, the store and the streams. Production
//! and the simulator are thin shells around the same machine.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::command::{Release, Reply};
use crate::id::{AttemptId, Revision};
use crate::leader::{
    Abandoned, CallError, CallId, CloseCause, Connection, Input, Leader, Output, StoreRefusal, ToSidecar, Transaction,
};
use crate::mutant::{self, Mutant};
use crate::record::{Key, Record};
use crate::time::Time;

/// A loop that did not run for so long was stopped, or slept with its machine: silences in between
/// are its own.
const SLEPT: Duration = Duration::from_secs(2);

/// What the store said of the transaction in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Landing {
    /// It is durable.
    Committed,
    /// Nothing of it was written.
    Refused(StoreRefusal),
    /// Another leader has been there.
    Fenced,
    /// Nobody knows.
    Unknown,
}

/// What follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Next {
    /// Nothing but acts.
    GoOn,
    /// The store is to be taken over anew: what it loads settles the transaction. See
    /// [`Machine::take_over`]; till then nothing is decided or told.
    TakeOver,
    /// The lead is lost for good.
    StepDown,
}

/// What the shell has to do.
#[derive(Clone, Debug)]
pub enum Act {
    /// Give a transaction to the store, under this nonce, and bring back how it landed.
    Commit(Transaction, u64),
    /// Answer a call.
    Reply {
        /// Which.
        call: CallId,
        /// The answer.
        result: Result<Reply, CallError>,
        /// Where it was committed, or what it was decided upon.
        revision: Revision,
    },
    /// Send a frame. A stream that is too slow for it is given up by [`Machine::cut`].
    Frame {
        /// The stream.
        connection: Connection,
        /// What is in it, in order.
        messages: Vec<ToSidecar>,
    },
    /// End a stream, after a last frame if there is something to say.
    Close {
        /// The stream.
        connection: Connection,
        /// The last frame.
        messages: Vec<ToSidecar>,
        /// Why.
        cause: CloseCause,
    },
    /// A transaction has committed: for watchers.
    Committed {
        /// Where.
        revision: Revision,
        /// What.
        changes: Vec<(Key, Option<Record>)>,
    },
    /// Something softly known changed: for watchers.
    Touched(Key),
    /// A result was not taken; see [`Output::ResultRefused`].
    ResultRefused {
        /// Which.
        token: AttemptId,
        /// Why.
        release: Option<Release>,
    },
    /// A task's first attempt started; see [`Output::Started`].
    Started {
        /// From acceptance to start.
        waited: Duration,
    },
}

#[derive(Clone, Copy, Debug)]
struct Flight {
    seq: u64,
    nonce: u64,
    /// Its outcome is unknown.
    doubted: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Machine {
    leader: Leader,
    flight: Option<Flight>,
    /// When the leader last took a step.
    stepped: Time,
    out: Vec<Output>,
    telling: VecDeque<Output>,
    /// What is pending for each stream there is; one frame when all is told.
    streams: BTreeMap<Connection, Vec<ToSidecar>>,
    /// Streams with something pending.
    due: VecDeque<Connection>,
}

impl Machine {
    /// A machine around a leader that has just taken office.
    #[must_use]
    pub fn new(leader: Leader, now: Time) -> Self {
        Self {
            leader,
            flight: None,
            stepped: now,
            out: Vec::new(),
            telling: VecDeque::new(),
            streams: BTreeMap::new(),
            due: VecDeque::new(),
        }
    }

    /// The leader, for reading.
    #[must_use]
    pub fn leader(&self) -> &Leader {
        &self.leader
    }

    /// More may be brought: everything brought so far is decided.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.leader.is_idle() && !self.is_in_doubt()
    }

    /// The leader said something that is not told yet.
    #[must_use]
    pub fn has_news(&self) -> bool {
        !self.out.is_empty()
    }

    fn is_in_doubt(&self) -> bool {
        self.flight.is_some_and(|flight| flight.doubted)
    }

    /// Brings one input. Returns how long the loop stood still, if it did: every grace starts anew.
    pub fn step(&mut self, now: Time, input: Input, random: &mut dyn FnMut() -> u64) -> Option<Duration> {
        if self.is_in_doubt() && matches!(input, Input::Tick) {
            return None;
        }
        let gap = Some(now.since(self.stepped)).filter(|gap| *gap >= SLEPT && !mutant::is(Mutant::NoResume));
        if gap.is_some() {
            self.leader.resume(now);
        }
        self.stepped = now;
        if let Input::Hangup(connection) = &input {
            self.streams.remove(connection);
        }
        self.leader.step(now, input, random, &mut self.out);
        gap
    }

    /// The server is stopping and has sent its sidecars away: that they are silent is its own doing, and
    /// no grace runs.
    pub fn rest(&mut self, now: Time) {
        self.leader.resume(now);
    }

    /// A new stream: what is meant for it is told from here on.
    pub fn attach(&mut self, connection: Connection) {
        self.streams.insert(connection, Vec::new());
    }

    /// A stream was too slow for its frame: it is given up, and finds everything again by its next
    /// hello.
    pub fn cut(&mut self, now: Time, connection: Connection, random: &mut dyn FnMut() -> u64) {
        self.step(now, Input::Hangup(connection), random);
    }

    /// Brings how the transaction in flight landed.
    pub fn land(&mut self, now: Time, landing: Landing, random: &mut dyn FnMut() -> u64) -> Next {
        let Some(flight) = &mut self.flight else { return Next::GoOn };
        let input = match landing {
            Landing::Committed => Input::Committed,
            Landing::Refused(reason) => Input::Refused(reason),
            Landing::Fenced => return Next::StepDown,
            Landing::Unknown => {
                flight.doubted = true;
                return Next::TakeOver;
            }
        };
        self.flight = None;
        self.step(now, input, random);
        Next::GoOn
    }

    /// The store is open again under a new epoch, with `leader` over what it loaded: number and nonce
    /// of its last commit settle the transaction in doubt. True if that had landed.
    pub fn take_over(&mut self, leader: Leader, seq: u64, nonce: u64, now: Time) -> bool {
        let flight = self.flight.take();
        let landed = flight.is_some_and(|flight| (flight.seq, flight.nonce) == (seq, nonce));
        let landed = landed || mutant::is(Mutant::UnknownLanded);
        let Abandoned { decided, waiting } = std::mem::replace(&mut self.leader, leader).abandon();
        self.stepped = now;
        let revision = self.leader.revision();
        let refused = || Err(CallError::Refused(StoreRefusal::Unavailable));
        for (call, result) in decided {
            let result = if landed { result } else { refused() };
            self.out.push(Output::Reply { call, result, revision });
        }
        self.out.extend(waiting.into_iter().map(|call| Output::Reply { call, result: refused(), revision }));
        // Every stream is to say hello to the new leader; what the old one meant for it is dropped.
        self.due.clear();
        for (connection, pending) in &mut self.streams {
            pending.clear();
            pending.push(ToSidecar::Resync);
            self.due.push_back(*connection);
        }
        landed
    }

    /// The next thing to do, the next transaction first; none until the next input.
    pub fn next(&mut self, now: Time, random: &mut dyn FnMut() -> u64) -> Option<Act> {
        if self.flight.is_none()
            && let Some(transaction) = self.leader.take_transaction(now, &mut self.out)
        {
            let nonce = random();
            self.flight = Some(Flight { seq: transaction.seq, nonce, doubted: false });
            return Some(Act::Commit(transaction, nonce));
        }
        loop {
            let Some(output) = self.told() else { return self.frame() };
            match output {
                Output::Reply { call, result, revision } => return Some(Act::Reply { call, result, revision }),
                Output::Send { connection, message } => self.push(connection, message),
                Output::Close { connection, cause } => {
                    if let Some(messages) = self.streams.remove(&connection) {
                        return Some(Act::Close { connection, messages, cause });
                    }
                }
                Output::Committed { revision, changes } => return Some(Act::Committed { revision, changes }),
                Output::Touched(key) => return Some(Act::Touched(key)),
                Output::ResultRefused { token, release } => return Some(Act::ResultRefused { token, release }),
                Output::Started { waited } => return Some(Act::Started { waited }),
            }
        }
    }

    /// What was said is told in order; the two buffers are swapped, not copied.
    fn told(&mut self) -> Option<Output> {
        if self.telling.is_empty() {
            let empty = Vec::from(std::mem::take(&mut self.telling));
            self.telling = std::mem::replace(&mut self.out, empty).into();
        }
        self.telling.pop_front()
    }

    fn push(&mut self, connection: Connection, message: ToSidecar) {
        let Some(pending) = self.streams.get_mut(&connection) else { return };
        if pending.is_empty() {
            self.due.push_back(connection);
        }
        // Each would be answered by a hello; one is enough.
        if !matches!((pending.last(), &message), (Some(ToSidecar::Resync), ToSidecar::Resync)) {
            pending.push(message);
        }
    }

    fn frame(&mut self) -> Option<Act> {
        while let Some(connection) = self.due.pop_front() {
            let pending = self.streams.get_mut(&connection).map(std::mem::take).filter(|pending| !pending.is_empty());
            if let Some(messages) = pending {
                return Some(Act::Frame { connection, messages });
            }
        }
        None
    }
}
