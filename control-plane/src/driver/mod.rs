//! The owner of the state: one loop takes commands, lets the leader decide, commits, then tells.
//!
//! All logic is [`hive_core::leader::Leader`]'s. Here are the mailbox, the store's transaction in
//! flight, and the streams it speaks to. While a transaction flies the next one is decided; at low
//! load a command commits at once, there is no timer.

mod edges;
mod events;
mod handle;
mod store;

pub use edges::Down;
pub use events::Event;
pub use handle::{Handle, Refusal};
pub use store::{lead, refusal};

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hive_core::command::Reply;
use hive_core::id::{Namespace, Revision};
use hive_core::leader::{Abandoned, CallError, CallId, Input, Leader, Output, Stats, StoreRefusal};
use hive_core::settings::Settings;
use hive_core::time::Time;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::clock::ClusterClock;
use crate::store::{CommitError, OpenError, Store, codec};
use crate::{metrics, tasks};
use edges::Edges;
use handle::{Answer, Request};

/// Requests that may wait for the loop.
const MAILBOX: usize = 4096;
/// Requests taken in before what they led to is committed.
const SITTING: usize = 1024;
/// Deadlines, receipts and silences are looked at this often.
const TICK: Duration = Duration::from_millis(100);
/// A loop that did not run for so long was stopped, or slept with its machine: silences in between
/// are its own.
const SLEPT: Duration = Duration::from_secs(2);
/// Watchers may be this many commits behind.
const EVENTS: usize = 1024;

/// Why the driver could not begin, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store could not be taken over.
    #[error("the store could not be opened")]
    Open(#[from] OpenError),
    /// A record could not be read.
    #[error("the store holds a record that this version can't read")]
    Decode(#[from] codec::DecodeError),
    /// Another process has taken the store over.
    #[error("another process has taken the store over")]
    Fenced,
}

type Flight = Pin<Box<dyn Future<Output = Result<Revision, CommitError>> + Send>>;

/// See the module.
pub struct Driver<S> {
    store: Arc<S>,
    settings: Settings,
    namespaces: Vec<Namespace>,
    clock: ClusterClock,
    leader: Leader,
    mailbox: mpsc::Receiver<Request>,
    calls: HashMap<CallId, (&'static str, oneshot::Sender<Answer>)>,
    next_call: u64,
    edges: Edges,
    events: broadcast::Sender<Event>,
    random: Random,
    flight: Option<InFlight>,
    /// When the leader last took a step.
    stepped: Time,
    /// The leader's counters as last published.
    counted: Stats,
}

struct InFlight {
    commit: Flight,
    seq: u64,
    nonce: u64,
    records: u64,
    since: tokio::time::Instant,
}

/// Takes the store over and prepares the loop.
///
/// # Errors
/// The store can't be opened or read.
pub async fn prepare<S: Store>(
    store: Arc<S>,
    settings: Settings,
    namespaces: Vec<Namespace>,
    seed: u64,
) -> Result<(Driver<S>, Handle), Error> {
    let loaded = store.acquire().await?;
    let clock = ClusterClock::start(loaded.time);
    let stepped = clock.now();
    let leader = store::lead(loaded, &settings, &namespaces, stepped)?;
    let (sender, mailbox) = mpsc::channel(MAILBOX);
    let (events, _) = broadcast::channel(EVENTS);
    let handle = Handle::new(sender, events.clone(), clock.clone());
    let driver = Driver {
        store,
        settings,
        namespaces,
        clock,
        leader,
        mailbox,
        calls: HashMap::new(),
        next_call: 0,
        edges: Edges::default(),
        events,
        random: Random(seed),
        flight: None,
        stepped,
        counted: Stats::default(),
    };
    Ok((driver, handle))
}

impl<S: Store> Driver<S> {
    /// Runs until `stop` is cancelled. What was accepted by then is committed first.
    ///
    /// # Errors
    /// The lead was lost for good, or the store's content can't be trusted.
    pub async fn run(mut self, stop: CancellationToken) -> tasks::Outcome {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut census = tokio::time::interval(metrics::UPKEEP_EVERY);
        let mut out = Vec::new();
        loop {
            let stopping = stop.is_cancelled();
            if stopping && self.flight.is_none() && self.mailbox.is_empty() {
                return Ok(());
            }
            tokio::select! {
                landed = landed(&mut self.flight) => self.land(landed, &mut out).await?,
                request = self.mailbox.recv(), if self.leader.is_idle() => match request {
                    Some(request) => self.take(request, &mut out),
                    None => return Ok(()),
                },
                _ = tick.tick() => self.step(Input::Tick, &mut out),
                _ = census.tick() => self.count(),
                () = stop.cancelled(), if !stopping => continue,
            }
            let mut taken = 1;
            while taken < SITTING && self.leader.is_idle() {
                let Ok(request) = self.mailbox.try_recv() else { break };
                self.take(request, &mut out);
                taken += 1;
            }
            self.take_off(&mut out);
            self.tell(&mut out);
        }
    }

    fn take(&mut self, request: Request, out: &mut Vec<Output>) {
        match request {
            Request::Call { namespace, command, answer } => {
                let call = self.call(command.name(), answer);
                self.step(Input::Call { call, namespace, command: *command }, out);
            }
            Request::Barrier { answer } => {
                let call = self.call("barrier", answer);
                self.step(Input::Barrier(call), out);
            }
            Request::Read(read) => read(&self.leader),
            Request::Attach { connection, down } => self.edges.attach(connection, down),
            Request::Frame { connection, leader, messages } => {
                self.step(Input::Frame { connection, leader, messages }, out);
            }
            Request::Hangup(connection) => {
                self.edges.detach(connection);
                self.step(Input::Hangup(connection), out);
            }
        }
    }

    fn call(&mut self, kind: &'static str, answer: oneshot::Sender<Answer>) -> CallId {
        self.next_call += 1;
        let call = CallId(self.next_call);
        self.calls.insert(call, (kind, answer));
        call
    }

    fn step(&mut self, input: Input, out: &mut Vec<Output>) {
        let now = self.clock.now();
        let gap = now.since(self.stepped);
        if gap >= SLEPT {
            tracing::warn!(seconds = gap.as_secs(), "did not run for a while; every grace starts anew");
            self.leader.resume(now);
        }
        self.stepped = now;
        let random = &mut self.random;
        self.leader.step(now, input, &mut || random.next(), out);
    }

    /// Sends the next transaction off, if none is in flight.
    fn take_off(&mut self, out: &mut Vec<Output>) {
        if self.flight.is_some() {
            return;
        }
        let now = self.clock.now();
        let Some(transaction) = self.leader.take_transaction(now, out) else { return };
        let (seq, nonce) = (transaction.seq, self.random.next());
        let records = transaction.records.len() as u64;
        let store = Arc::clone(&self.store);
        let transaction = codec::transaction(transaction, nonce);
        let commit: Flight = Box::pin(async move { store.commit(transaction).await });
        self.flight = Some(InFlight { commit, seq, nonce, records, since: crate::clock::monotonic() });
    }

    async fn land(&mut self, result: Result<Revision, CommitError>, out: &mut Vec<Output>) -> Result<(), Error> {
        let Some(flight) = self.flight.take() else { return Ok(()) };
        match result {
            Ok(_) => {
                metrics::store_committed(flight.records, flight.since.elapsed_by_clock());
                self.step(Input::Committed, out);
            }
            Err(CommitError::Refused(reason)) => {
                metrics::store_failed();
                tracing::error!(reason = ?reason, "the store refused a transaction");
                self.step(Input::Refused(store::refusal(reason)), out);
            }
            Err(CommitError::Fenced { .. } | CommitError::SeqDiffers { .. }) => return Err(Error::Fenced),
            Err(CommitError::Unknown(cause)) => {
                metrics::store_failed();
                tracing::error!(error = %cause, "a commit has an unknown outcome; the store is taken over anew");
                self.take_over(flight.seq, flight.nonce, out).await?;
            }
        }
        Ok(())
    }

    /// Reopens the store under a new epoch: what it loads settles the transaction in flight.
    async fn take_over(&mut self, seq: u64, nonce: u64, out: &mut Vec<Output>) -> Result<(), Error> {
        let loaded = store::acquire_patiently(&*self.store).await?;
        let landed = loaded.seq == seq && loaded.nonce == nonce;
        self.clock.raise(loaded.time);
        let leader = store::lead(loaded, &self.settings, &self.namespaces, self.clock.now())?;
        let Abandoned { decided, waiting } = std::mem::replace(&mut self.leader, leader).abandon();
        let revision = self.leader.revision();
        let refused = || Err(CallError::Refused(StoreRefusal::Unavailable));
        for (call, result) in decided {
            let result = if landed { result } else { refused() };
            out.push(Output::Reply { call, result, revision });
        }
        out.extend(waiting.into_iter().map(|call| Output::Reply { call, result: refused(), revision }));
        // A new leader counts from zero.
        self.counted = Stats::default();
        tracing::warn!(landed, epoch = %self.leader.epoch(), "the store is open again");
        self.edges.resync();
        Ok(())
    }

    fn tell(&mut self, out: &mut Vec<Output>) {
        for output in out.drain(..) {
            match output {
                Output::Reply { call, result, revision } => {
                    if let Some((kind, answer)) = self.calls.remove(&call) {
                        metrics::command(kind, outcome(&result));
                        // A caller that has gone does not wait for its answer.
                        let _gone = answer.send((result.map_err(Refusal::from), revision));
                    }
                }
                Output::Send { connection, message } => self.edges.push(connection, message),
                Output::Close { connection, cause } => self.edges.close(connection, self.leader.epoch(), cause),
                Output::Committed { revision, changes } => {
                    if self.events.receiver_count() > 0 {
                        let _none_left = self.events.send(Event::Committed { revision, changes: changes.into() });
                    }
                }
                Output::ResultRefused { token, release } => {
                    let reason = release.map_or("not_host", events::release_name);
                    metrics::result_refused(reason);
                    let (task, attempt) = (token.task, token.attempt);
                    tracing::info!(%task, %attempt, reason, "a result was refused: its attempt is not current");
                }
                Output::Started { waited } => metrics::started_after(waited),
                Output::Touched(key) => {
                    if self.events.receiver_count() > 0 {
                        let revision = self.leader.revision();
                        let _none_left = self.events.send(Event::Touched { revision, key });
                    }
                }
            }
        }
        for connection in self.edges.flush(self.leader.epoch()) {
            let mut hung_up = Vec::new();
            self.step(Input::Hangup(connection), &mut hung_up);
            out.append(&mut hung_up);
        }
    }

    fn count(&mut self) {
        events::count(&self.leader);
        let stats = self.leader.stats();
        metrics::leader_counts(stats, std::mem::replace(&mut self.counted, stats));
    }
}

fn outcome(result: &Result<Reply, CallError>) -> &'static str {
    match result {
        Ok(_) => "done",
        Err(CallError::Rejected(_)) => "rejected",
        Err(CallError::Refused(_)) => "rolled_back",
    }
}

/// Resolves when the transaction in flight has landed; never without one.
async fn landed(flight: &mut Option<InFlight>) -> Result<Revision, CommitError> {
    match flight {
        Some(flight) => flight.commit.as_mut().await,
        None => std::future::pending().await,
    }
}

trait ElapsedByClock {
    fn elapsed_by_clock(&self) -> Duration;
}

impl ElapsedByClock for tokio::time::Instant {
    fn elapsed_by_clock(&self) -> Duration {
        crate::clock::monotonic().saturating_duration_since(*self)
    }
}

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014). For jitter
/// and nonces only; nothing secret comes from it.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
