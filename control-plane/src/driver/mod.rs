//! The owner of the state: one loop takes commands, lets the leader decide, commits, then tells.
//!
//! All logic is [`hive_core::driver::Machine`]'s. Here are the mailbox, the store's transaction in
//! flight, and the streams it speaks to. While a transaction flies the next one is decided; at low
//! load a command commits at once, there is no timer.

mod down;
mod events;
mod handle;
mod store;
#[cfg(test)]
mod tests;

pub use down::Down;
pub use events::Event;
pub use handle::{Attachment, Handle, Refusal};
pub use store::{lead, refusal};

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hive_core::command::Reply;
use hive_core::driver::{Act, Landing, Machine, Next};
use hive_core::id::{Namespace, Revision};
use hive_core::leader::{CallError, CallId, Connection, Input, Stats, Transaction};
use hive_core::record::Key;
use hive_core::settings::Settings;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::assemble::Sources;
use crate::clock::ClusterClock;
use crate::store::{CommitError, OpenError, Store, codec};
use crate::{metrics, tasks};
use handle::{Answer, Request};

/// Requests that may wait for the loop.
const MAILBOX: usize = 4096;
/// Requests taken in before what they led to is committed.
const SITTING: usize = 1024;
/// Deadlines, receipts and silences are looked at this often.
const TICK: Duration = Duration::from_millis(100);
/// Operations of a transaction that are left to the store for its own records.
const STORES_OWN: usize = 8;
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
    machine: Machine,
    mailbox: mpsc::Receiver<Request>,
    calls: HashMap<CallId, (&'static str, oneshot::Sender<Answer>)>,
    next_call: u64,
    edges: HashMap<Connection, mpsc::Sender<Down>>,
    events: broadcast::Sender<Event>,
    /// Records of which something soft changed in this round.
    touched: BTreeSet<Key>,
    random: Random,
    flight: Option<InFlight>,
    /// The leader's counters as last published.
    counted: Stats,
}

struct InFlight {
    commit: Flight,
    records: u64,
    since: tokio::time::Instant,
}

/// Takes the store over and prepares the loop.
///
/// # Errors
/// The store can't be opened or read.
pub async fn prepare<S: Store>(
    store: Arc<S>,
    mut settings: Settings,
    namespaces: Vec<Namespace>,
    sources: Sources,
) -> Result<(Driver<S>, Handle), Error> {
    settings.batch_ops = store.max_ops() - STORES_OWN;
    let loaded = store.acquire().await?;
    let clock = (sources.clock)(loaded.time);
    let now = clock.now();
    let machine = Machine::new(store::lead(loaded, &settings, &namespaces, now)?, now);
    let (sender, mailbox) = mpsc::channel(MAILBOX);
    let (events, _) = broadcast::channel(EVENTS);
    let handle = Handle::new(sender, events.clone(), clock.clone());
    let driver = Driver {
        store,
        settings,
        namespaces,
        clock,
        machine,
        mailbox,
        calls: HashMap::new(),
        next_call: 0,
        edges: HashMap::new(),
        events,
        touched: BTreeSet::new(),
        random: Random(sources.seed),
        flight: None,
        counted: Stats::default(),
    };
    Ok((driver, handle))
}

impl<S: Store> Driver<S> {
    /// Runs until `stop` is cancelled. What was accepted by then is committed first. From `leaving` on
    /// nobody is blamed for being out of contact.
    ///
    /// # Errors
    /// The lead was lost for good, or the store's content can't be trusted.
    pub async fn run(mut self, stop: CancellationToken, leaving: CancellationToken) -> tasks::Outcome {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut census = tokio::time::interval(metrics::UPKEEP_EVERY);
        loop {
            let stopping = stop.is_cancelled();
            if stopping && self.flight.is_none() && self.mailbox.is_empty() {
                return Ok(());
            }
            tokio::select! {
                // A full mailbox must not put the clock off; and a simulated run is to repeat.
                biased;
                landed = landed(&mut self.flight) => if self.land(landed)? == Next::TakeOver {
                    tokio::select! {
                        biased;
                        taken = self.take_over() => taken?,
                        // Whoever waits learns that the outcome is unknown.
                        () = stop.cancelled() => return Ok(()),
                    }
                },
                () = stop.cancelled(), if !stopping => continue,
                _ = tick.tick() => {
                    if leaving.is_cancelled() {
                        self.machine.rest(self.clock.now());
                    }
                    self.step(Input::Tick);
                }
                _ = census.tick() => self.count(),
                request = self.mailbox.recv(), if self.machine.is_ready() => match request {
                    Some(request) => self.take(request),
                    None => return Ok(()),
                },
            }
            let mut taken = 1;
            while taken < SITTING && self.machine.is_ready() {
                let Ok(request) = self.mailbox.try_recv() else { break };
                self.take(request);
                taken += 1;
            }
            let now = self.clock.now();
            while let Some(act) = self.machine.next(now, &mut || self.random.next()) {
                self.perform(act);
            }
            self.tell_touched();
        }
    }

    /// One event for all that a round touched: singly, a burst would outrun every watcher.
    fn tell_touched(&mut self) {
        let keys = std::mem::take(&mut self.touched);
        if !keys.is_empty() && self.events.receiver_count() > 0 {
            let revision = self.machine.leader().revision();
            let _none_left = self.events.send(Event::Touched { revision, keys: keys.into_iter().collect() });
        }
    }

    fn take(&mut self, request: Request) {
        match request {
            Request::Call { namespace, command, answer } => {
                let call = self.call(command.name(), answer);
                self.step(Input::Call { call, namespace, command: *command });
            }
            Request::Barrier { answer } => {
                let call = self.call("barrier", answer);
                self.step(Input::Barrier(call));
            }
            Request::Read(read) => read(self.machine.leader()),
            Request::Attach { connection, down } => {
                self.machine.attach(connection);
                self.edges.insert(connection, down);
            }
            Request::Frame { connection, leader, messages } => {
                self.step(Input::Frame { connection, leader, messages });
            }
            Request::Hangup(connection) => {
                self.edges.remove(&connection);
                self.step(Input::Hangup(connection));
            }
        }
    }

    fn call(&mut self, kind: &'static str, answer: oneshot::Sender<Answer>) -> CallId {
        self.next_call += 1;
        let call = CallId(self.next_call);
        self.calls.insert(call, (kind, answer));
        call
    }

    fn step(&mut self, input: Input) {
        let now = self.clock.now();
        if let Some(gap) = self.machine.step(now, input, &mut || self.random.next()) {
            tracing::warn!(seconds = gap.as_secs(), "did not run for a while; every grace starts anew");
        }
    }

    fn land(&mut self, result: Result<Revision, CommitError>) -> Result<Next, Error> {
        let Some(flight) = self.flight.take() else { return Ok(Next::GoOn) };
        let landing = match result {
            Ok(_) => {
                metrics::store_committed(flight.records, flight.since.elapsed_by_clock());
                Landing::Committed
            }
            Err(CommitError::Refused(reason)) => {
                metrics::store_failed();
                tracing::error!(reason = ?reason, "the store refused a transaction");
                Landing::Refused(store::refusal(reason))
            }
            Err(CommitError::Fenced { .. } | CommitError::SeqDiffers { .. }) => Landing::Fenced,
            Err(CommitError::Unknown(cause)) => {
                metrics::store_failed();
                tracing::error!(error = %cause, "a commit has an unknown outcome; the store is taken over anew");
                Landing::Unknown
            }
        };
        match self.machine.land(self.clock.now(), landing, &mut || self.random.next()) {
            Next::StepDown => Err(Error::Fenced),
            next => Ok(next),
        }
    }

    /// Reopens the store under a new epoch.
    async fn take_over(&mut self) -> Result<(), Error> {
        let loaded = store::acquire_patiently(&*self.store).await?;
        let (seq, nonce) = (loaded.seq, loaded.nonce);
        self.clock.raise(loaded.time);
        let now = self.clock.now();
        let leader = store::lead(loaded, &self.settings, &self.namespaces, now)?;
        let landed = self.machine.take_over(leader, seq, nonce, now);
        // A new leader counts from zero.
        self.counted = Stats::default();
        tracing::warn!(landed, epoch = %self.machine.leader().epoch(), "the store is open again");
        Ok(())
    }

    fn perform(&mut self, act: Act) {
        match act {
            Act::Commit(transaction, nonce) => self.take_off(transaction, nonce),
            Act::Reply { call, result, revision } => {
                if let Some((kind, answer)) = self.calls.remove(&call) {
                    metrics::command(kind, outcome(&result));
                    // A caller that has gone does not wait for its answer.
                    let _gone = answer.send((result.map_err(Refusal::from), revision));
                }
            }
            Act::Frame { connection, messages } => {
                let leader = self.machine.leader().epoch();
                let Some(down) = self.edges.get(&connection) else { return };
                if down.try_send(Down::Frame { leader, messages }).is_err() {
                    self.edges.remove(&connection);
                    self.machine.cut(self.clock.now(), connection, &mut || self.random.next());
                }
            }
            Act::Close { connection, messages, cause } => {
                let Some(down) = self.edges.remove(&connection) else { return };
                if !messages.is_empty() {
                    let leader = self.machine.leader().epoch();
                    let _full_or_gone = down.try_send(Down::Frame { leader, messages });
                }
                let _full_or_gone = down.try_send(Down::Close(cause));
            }
            Act::Committed { revision, changes } => {
                if self.events.receiver_count() > 0 {
                    let _none_left = self.events.send(Event::Committed { revision, changes: changes.into() });
                }
            }
            Act::Touched(key) => _ = self.touched.insert(key),
            Act::ResultRefused { token, release } => {
                let reason = release.map_or("not_host", events::release_name);
                metrics::result_refused(reason);
                let (task, attempt) = (token.task, token.attempt);
                tracing::info!(%task, %attempt, reason, "a result was refused: its attempt is not current");
            }
            Act::Started { waited } => metrics::started_after(waited),
        }
    }

    fn take_off(&mut self, transaction: Transaction, nonce: u64) {
        let records = transaction.records.len() as u64;
        let store = Arc::clone(&self.store);
        let transaction = codec::transaction(transaction, nonce);
        let commit: Flight = Box::pin(async move { store.commit(transaction).await });
        self.flight = Some(InFlight { commit, records, since: crate::clock::monotonic() });
    }

    fn count(&mut self) {
        events::count(self.machine.leader());
        let stats = self.machine.leader().stats();
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
