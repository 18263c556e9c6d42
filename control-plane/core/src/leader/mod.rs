//! The leader as one step machine: it takes inputs, decides, commits, then tells.
//!
//! Its state is what is committed plus the undecided batches. Every reply and every effect is parked
//! on the newest batch it was decided upon and leaves only once that batch has committed; nothing
//! uncommitted is told. One transaction is in flight at a time; while it flies the next one forms.
//!
//! The shell owns the clock, the store and the streams: it calls [`Leader::step`], takes
//! transactions from [`Leader::take_transaction`] and brings their outcome back as an input.

mod batch;
mod commit;
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

use crate::command::{Command, Context, Reply};
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
                let heard = if mutant::is(Mutant::NoGrace) { Time::ZERO } else { now };
                hosts.insert((namespace.clone(), sidecar.clone()), Host::unheard(heard, Duration::ZERO));
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
                    let early = match &result {
                        Err(_) => mutant::is(Mutant::RejectionTold),
                        Ok(Reply::Task { duplicate, .. }) => *duplicate && mutant::is(Mutant::DuplicateTold),
                        Ok(_) => false,
                    };
                    let reply = Parked::Reply(call, result.map_err(CallError::from));
                    if early { self.tell(reply, out) } else { self.park(reply, out) }
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
