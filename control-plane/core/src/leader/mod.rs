//! The leader as one step machine: it takes inputs, decides, commits, then tells.
//!
//! Its state is what is committed plus the undecided batches. Every reply and every effect is parked
//! on the newest batch it was decided upon and leaves only once that batch has committed; nothing
//! uncommitted is told. One transaction is in flight at a time; while it flies the next one forms.
//!
//! The shell owns the clock, the store and the streams: it calls [`Leader::step`], takes
//! transactions from [`Leader::take_transaction`] and brings their outcome back as an input.

mod batch;
mod hello;
mod hosts;
mod io;
mod message;
mod reconcile;
mod sidecar;
mod tick;
mod view;

pub use batch::Transaction;
pub use io::{Abandoned, CallError, CallId, Connection, Input, Output, Stats, StoreRefusal};
pub use message::{
    Assignment, AttemptVerdict, Beat, CloseCause, Credit, Declared, FromSidecar, Hello, Listed, ToSidecar, Welcome,
};
pub use view::{TaskSoft, View};

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::command::{Command, Context, Effect, Reply};
use crate::id::{AgentId, AttemptId, LeaderEpoch, Namespace, Revision, SidecarId};
use crate::mutant::{self, Mutant};
use crate::record::{Key, Record};
use crate::rejection::Rejection;
use crate::rules;
use crate::state::{Offer, State};
use crate::time::Time;
use batch::{Batch, Parked};
use hosts::{Host, Hosts};

/// Most operations of one command, retention aside.
const COMMAND_OPS: usize = 4;
/// After repeated refusals the leader's own work waits so long: the same would only be refused again.
const STORE_PAUSE: Duration = Duration::from_secs(1);

/// One thing to decide, in the order it came.
#[derive(Debug)]
enum Work {
    Call { call: CallId, namespace: Namespace, command: Command },
    Barrier(CallId),
    Internal { namespace: Namespace, command: Command },
    Message { connection: Connection, message: FromSidecar },
    Host { connection: Connection, declared: Declared },
    Welcome { connection: Connection },
    Reap { namespace: Namespace, agent: AgentId },
    Evict { namespace: Namespace, rounds: u32 },
}

/// See the module.
#[derive(Debug)]
pub struct Leader {
    epoch: LeaderEpoch,
    state: State,
    committed: u64,
    took_office: Time,
    flying: Option<Batch>,
    forming: Batch,
    queue: VecDeque<Work>,
    /// Commands of its own in the queue.
    chores: usize,
    hosts: Hosts,
    /// Starts not yet worth a write, oldest first.
    starts: VecDeque<(Time, Namespace, AttemptId)>,
    /// Retention that waits for a batch with room.
    evictions: Vec<Work>,
    last_sweep: Time,
    lost_this_second: u32,
    /// Batches refused since the last one that landed.
    refusals: u32,
    /// Till then nothing is decided that nobody asks for.
    hold_until: Time,
    resync_owed: bool,
    resynced: Time,
    stats: Stats,
}

impl Leader {
    /// Takes office over a state as loaded: every grace starts anew.
    #[must_use]
    pub fn new(epoch: LeaderEpoch, state: State, committed: u64, now: Time) -> Self {
        let mut hosts = BTreeMap::new();
        for (namespace, space) in state.spaces() {
            for sidecar in space.sidecars.keys().chain(space.hosts.keys()) {
                hosts.insert((namespace.clone(), sidecar.clone()), Host::unheard(now, Duration::ZERO));
            }
        }
        // What each was told by an earlier leader is not known: as much as for all of them together.
        let liveness = &state.settings().liveness;
        let kill_after = liveness.kill_after(liveness.beat(hosts.len()));
        hosts.values_mut().for_each(|host| host.kill_after = kill_after);
        let mut leader = Self {
            epoch,
            state,
            committed,
            took_office: now,
            flying: None,
            forming: Batch::default(),
            queue: VecDeque::new(),
            chores: 0,
            hosts: Hosts::new(hosts),
            starts: VecDeque::new(),
            evictions: Vec::new(),
            last_sweep: now,
            lost_this_second: 0,
            refusals: 0,
            hold_until: Time::ZERO,
            resync_owed: false,
            resynced: Time::ZERO,
            stats: Stats::default(),
        };
        leader.state.advance(now);
        leader
    }

    /// Its fence.
    #[must_use]
    pub fn epoch(&self) -> LeaderEpoch {
        self.epoch
    }

    /// The last commit.
    #[must_use]
    pub fn revision(&self) -> Revision {
        Revision { cluster_generation: self.epoch.cluster_generation, seq: self.committed }
    }

    /// Counters so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// The state with its undecided batches, for the invariants.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Sidecars with a live session.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.hosts.sessions()
    }

    /// Everything brought so far is decided: the shell may bring more.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    /// Takes one input and says what is to be done. `random` is drawn from for jitter only.
    pub fn step(&mut self, now: Time, input: Input, random: &mut dyn FnMut() -> u64, out: &mut Vec<Output>) {
        self.state.advance(now);
        match input {
            Input::Call { call, namespace, command } => self.queue.push_back(Work::Call { call, namespace, command }),
            Input::Barrier(call) => self.queue.push_back(Work::Barrier(call)),
            Input::Frame { connection, leader, messages } => {
                let current = leader == self.epoch;
                for message in messages {
                    if current || message.outlives_leader() {
                        self.queue.push_back(Work::Message { connection, message });
                    }
                }
            }
            Input::Hangup(connection) => self.hang_up(connection, out),
            Input::Committed => self.land(out),
            Input::Refused(reason) => self.roll_back(now, reason, out),
            Input::Tick => self.tick(now, out),
        }
        self.run(now, random, out);
    }

    /// Works the queue off, then gives work to free agents, as far as the forming batch has room.
    fn run(&mut self, now: Time, random: &mut dyn FnMut() -> u64, out: &mut Vec<Output>) {
        self.reap(now);
        while self.has_room() {
            let Some(work) = self.queue.pop_front() else { break };
            match work {
                Work::Call { call, namespace, command } => {
                    let result = self.decide(now, &namespace, command, random(), out);
                    self.park(Parked::Reply(call, result.map_err(CallError::from)), out);
                }
                Work::Barrier(call) => {
                    self.forming.forced = true;
                    self.park(Parked::Reply(call, Ok(Reply::Done)), out);
                }
                Work::Internal { namespace, command } => {
                    self.chores = self.chores.saturating_sub(1);
                    let _refused = self.decide(now, &namespace, command, random(), out);
                }
                Work::Message { connection, message } => self.hear(now, connection, message, random, out),
                Work::Host { connection, declared } => self.host(now, connection, declared, random(), out),
                Work::Welcome { connection } => self.welcome(now, connection, random, out),
                Work::Reap { namespace, agent } => self.reap_agent(now, namespace, agent, random, out),
                Work::Evict { namespace, rounds } => self.evict(now, namespace, rounds, random(), out),
            }
            self.reap(now);
        }
        if now >= self.hold_until {
            self.dispatch(now, out);
        }
    }

    fn has_room(&self) -> bool {
        let settings = self.state.settings();
        self.forming.has_room(COMMAND_OPS, settings.batch_ops, settings.batch_bytes)
    }

    /// Decides one command and takes its changes into the forming batch.
    fn decide(
        &mut self,
        now: Time,
        namespace: &Namespace,
        command: Command,
        random: u64,
        out: &mut Vec<Output>,
    ) -> Result<Reply, Rejection> {
        let ctx = Context { namespace, now, random };
        let decision = rules::decide(&self.state, command, &ctx)?;
        for change in decision.changes {
            let key = change.key.clone();
            let bytes = change.value.as_ref().map_or(0, Record::text_bytes);
            let before = self.state.apply(change);
            self.forming.touch(key, before, bytes);
        }
        for (key, bytes) in decision.blobs {
            self.forming.attach(key, bytes);
        }
        for effect in decision.effects {
            self.park(Parked::Effect(namespace.clone(), effect), out);
        }
        Ok(decision.reply)
    }

    /// Gives ready tasks to free agents.
    fn dispatch(&mut self, now: Time, out: &mut Vec<Output>) {
        let namespaces: Vec<Namespace> = self.state.spaces.keys().cloned().collect();
        for namespace in namespaces {
            while self.has_room() {
                let Some(matched) = self.state.spaces.get(&namespace).and_then(|s| s.demand.next()) else { break };
                let decided = self.decide(now, &namespace, Command::Assign(matched.clone()), 0, out);
                if decided.is_err() || !self.forming.before.contains_key(&Key::Task(namespace.clone(), matched.task)) {
                    break;
                }
                let Some(space) = self.state.spaces.get_mut(&namespace) else { break };
                space.demand.served(&matched);
                space.mark_used(&matched.agent);
                self.stats.assigned += 1;
            }
        }
    }

    /// Tells now, or once the newest batch has committed.
    fn park(&mut self, parked: Parked, out: &mut Vec<Output>) {
        if mutant::is(Mutant::ToldBeforeCommit) {
            self.tell(parked, out);
        } else if !self.forming.is_empty() {
            self.forming.parked.push(parked);
        } else if let Some(flying) = &mut self.flying {
            flying.parked.push(parked);
        } else {
            self.tell(parked, out);
        }
    }

    fn tell(&mut self, parked: Parked, out: &mut Vec<Output>) {
        match parked {
            Parked::Reply(call, result) => out.push(Output::Reply { call, result, revision: self.revision() }),
            Parked::Effect(namespace, effect) => self.tell_effect(&namespace, effect, out),
            Parked::Release { connection, token, release } => {
                let revision = self.revision();
                out.push(Output::Send { connection, message: ToSidecar::ResultAck { token, release, revision } });
            }
            Parked::Welcome { connection, welcome } => self.tell_welcome(connection, *welcome, out),
            Parked::Close { connection, cause } => out.push(Output::Close { connection, cause }),
        }
    }

    fn tell_effect(&mut self, namespace: &Namespace, effect: Effect, out: &mut Vec<Output>) {
        match effect {
            Effect::Offer(task) => {
                // A welcome told meanwhile has offered it already.
                let slot = self.state.space(namespace).and_then(|space| space.slot(&task));
                if slot.is_some_and(|slot| slot.offer == Offer::Decided) {
                    self.offer(namespace, &task, out);
                }
            }
            Effect::Stop { agent, token, reason } => {
                let grace = self.state.settings().cancel_grace;
                self.send_to_agent(namespace, &agent, ToSidecar::Stop { token, reason, grace }, out);
            }
            Effect::Answer(task) => {
                let Some(run) = task.run() else { return };
                let Some(answer) = &run.answer else { return };
                let (number, body) = (answer.number, answer.body.clone());
                let message = ToSidecar::Answer { token: task.token(), number, body };
                self.send_to_agent(namespace, &run.agent, message, out);
            }
            Effect::Desire(agent) => {
                // A later wish may be undecided.
                let Some((record, _)) = self.view().agent(namespace, &agent) else { return };
                let message = ToSidecar::Desire { agent: agent.clone(), desired: record.desired };
                self.send_to_agent(namespace, &agent, message, out);
                out.push(Output::Touched(Key::Agent(namespace.clone(), agent)));
            }
        }
    }

    fn land(&mut self, out: &mut Vec<Output>) {
        let Some(batch) = self.flying.take() else { return };
        self.committed += 1;
        self.refusals = 0;
        let revision = self.revision();
        out.push(Output::Committed { revision, changes: batch.written });
        for parked in batch.parked {
            self.tell(parked, out);
        }
    }

    fn roll_back(&mut self, now: Time, reason: StoreRefusal, out: &mut Vec<Output>) {
        let forming = std::mem::take(&mut self.forming);
        let flying = self.flying.take().unwrap_or_default();
        for batch in [forming, flying] {
            for (key, before) in batch.before {
                self.state.apply(crate::record::Change { key, value: before });
            }
            for parked in batch.parked {
                match parked {
                    // A rejection too: what it was decided upon has not happened.
                    Parked::Reply(call, _) => {
                        let result = Err(CallError::Refused(reason));
                        out.push(Output::Reply { call, result, revision: self.revision() });
                    }
                    Parked::Close { connection, .. } => {
                        out.push(Output::Close { connection, cause: CloseCause::StoreFailed });
                    }
                    // Level-triggered: the next hello or beat brings it up again.
                    Parked::Effect(..) | Parked::Release { .. } | Parked::Welcome { .. } => {}
                }
            }
        }
        for connection in self.hosts.connections() {
            if self.hosts.session_mut(connection).is_none_or(|session| !session.open) {
                // Its generation may never have been minted: it begins anew.
                self.hang_up(connection, out);
                out.push(Output::Close { connection, cause: CloseCause::StoreFailed });
            }
        }
        self.refusals += 1;
        if self.refusals > 1 {
            self.hold_until = now + STORE_PAUSE;
        }
        self.resync_owed = true;
        self.resync(now, out);
    }

    /// What was parked on a refused batch is found again by hellos: all are asked for one, but not
    /// more often than the store is tried.
    fn resync(&mut self, now: Time, out: &mut Vec<Output>) {
        if !self.resync_owed || now < self.resynced + STORE_PAUSE {
            return;
        }
        self.resync_owed = false;
        self.resynced = now;
        for connection in self.hosts.connections() {
            if self.hosts.session_mut(connection).is_some_and(|session| session.open) {
                out.push(Output::Send { connection, message: ToSidecar::Resync });
            }
        }
    }

    /// Gives the next transaction to the store, if none is in flight and there is one.
    pub fn take_transaction(&mut self, now: Time, out: &mut Vec<Output>) -> Option<Transaction> {
        if self.flying.is_some() || self.forming.is_empty() {
            return None;
        }
        self.join_starts(now, out);
        let mut batch = std::mem::take(&mut self.forming);
        self.queue.extend(self.evictions.drain(..));
        batch.written = batch.before.keys().map(|key| (key.clone(), self.state.get(key))).collect();
        let transaction = Transaction {
            fence: self.epoch,
            prev_seq: self.committed,
            seq: self.committed + 1,
            time: now,
            records: batch.written.clone(),
            blobs: std::mem::take(&mut batch.blobs).into_iter().collect(),
        };
        self.flying = Some(batch);
        Some(transaction)
    }

    /// Gives up the lead: the calls that wait for the transaction in flight, and all others that
    /// wait. Whether the former were carried out is for the store to settle.
    pub fn abandon(self) -> Abandoned {
        let mut replies = Vec::new();
        let mut waiting = Vec::new();
        for parked in self.flying.map(|b| b.parked).unwrap_or_default() {
            if let Parked::Reply(call, result) = parked {
                replies.push((call, result));
            }
        }
        for parked in self.forming.parked {
            if let Parked::Reply(call, _) = parked {
                waiting.push(call);
            }
        }
        for work in self.queue {
            if let Work::Call { call, .. } | Work::Barrier(call) = work {
                waiting.push(call);
            }
        }
        Abandoned { decided: replies, waiting }
    }

    /// What is committed, for reading.
    #[must_use]
    pub fn view(&self) -> View<'_> {
        View::new(&self.state, self.flying.as_ref().map(|b| &b.before), &self.forming.before, self.revision())
    }

    /// The record has changes that are not committed.
    fn is_undecided(&self, key: &Key) -> bool {
        self.forming.before.contains_key(key) || self.flying.as_ref().is_some_and(|b| b.before.contains_key(key))
    }

    /// A sidecar by its session.
    fn host_key(&self, connection: Connection) -> Option<(Namespace, SidecarId)> {
        self.hosts.by_connection(connection).cloned()
    }

    fn set_offer(&mut self, namespace: &Namespace, agent: &AgentId, task: crate::id::TaskId, offer: Offer) {
        if let Some(space) = self.state.spaces.get_mut(namespace) {
            space.set_offer(agent, task, offer);
        }
    }
}
