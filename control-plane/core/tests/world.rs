//! A leader with a store in memory, watched: after every step what it tells is held against what is
//! committed, and the invariants against a recomputation.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hive_core::command::{Command, Release, Reply, StopReason};
use hive_core::id::{LeaderEpoch, Namespace, TaskId};
use hive_core::invariant;
use hive_core::leader::{CallError, CallId, CloseCause, Connection, Input, Leader, Output, ToSidecar, Transaction};
use hive_core::record::{Change, Key, Phase, Record, TaskRecord};
use hive_core::rejection::Rejection;
use hive_core::settings::Settings;
use hive_core::state::{Counts, State};
use hive_core::time::Time;

pub(crate) use hive_core::leader::StoreRefusal;

/// Deterministic randomness (splitmix64).
#[derive(Clone)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

pub(crate) type Answer = (CallId, Result<Reply, CallError>);

pub(crate) struct World {
    pub(crate) now: Time,
    pub(crate) leader: Leader,
    pub(crate) settings: Settings,
    pub(crate) ns: Namespace,
    pub(crate) committed: BTreeMap<Key, Record>,
    log: Vec<Vec<(Key, Option<Record>)>>,
    versions: BTreeMap<TaskId, Vec<Arc<TaskRecord>>>,
    deleted: BTreeSet<TaskId>,
    pub(crate) flying: Option<Transaction>,
    pub(crate) rng: Rng,
    /// To be delivered, in order.
    pub(crate) down: Vec<(Connection, ToSidecar)>,
    pub(crate) closed: Vec<(Connection, CloseCause)>,
    pub(crate) answers: Vec<Answer>,
    /// Changes committed since last drained.
    pub(crate) fresh: Vec<(Key, Option<Record>)>,
    calls: u64,
    /// Tells what goes in and out; set by `VERBOSE=1`.
    verbose: bool,
}

impl World {
    pub(crate) fn new(settings: Settings, seed: u64) -> Self {
        let ns = Namespace::parse("default").unwrap();
        let now = Time(1_700_000_000_000);
        let state = State::new(settings.clone(), [ns.clone()]);
        let epoch = LeaderEpoch { cluster_generation: 1, number: 1 };
        Self {
            now,
            leader: Leader::new(epoch, state, 0, now),
            settings,
            ns,
            committed: BTreeMap::new(),
            log: Vec::new(),
            versions: BTreeMap::new(),
            deleted: BTreeSet::new(),
            flying: None,
            rng: Rng(seed),
            down: Vec::new(),
            closed: Vec::new(),
            answers: Vec::new(),
            fresh: Vec::new(),
            calls: 0,
            verbose: std::env::var_os("VERBOSE").is_some(),
        }
    }

    pub(crate) fn call(&mut self, command: Command) -> CallId {
        self.calls += 1;
        let call = CallId(self.calls);
        self.step(Input::Call { call, namespace: self.ns.clone(), command });
        call
    }

    pub(crate) fn step(&mut self, input: Input) {
        if self.verbose && !matches!(input, Input::Tick) {
            eprintln!("{} <- {input:?}", self.now);
        }
        let mut out = Vec::new();
        let rng = &mut self.rng;
        self.leader.step(self.now, input, &mut || rng.next(), &mut out);
        self.absorb(out);
        self.check();
    }

    /// Starts a commit if none is in flight.
    pub(crate) fn take_off(&mut self) -> bool {
        let mut out = Vec::new();
        let Some(transaction) = self.leader.take_transaction(self.now, &mut out) else { return false };
        self.absorb(out);
        assert!(self.flying.is_none(), "two transactions in flight");
        assert_eq!(transaction.fence, self.leader.epoch());
        assert_eq!(transaction.prev_seq, self.log.len() as u64, "a commit does not follow the last one");
        assert_eq!(transaction.seq, transaction.prev_seq + 1);
        self.flying = Some(transaction);
        self.check();
        true
    }

    /// The commit in flight lands.
    pub(crate) fn land(&mut self) {
        let Some(transaction) = self.flying.take() else { return };
        self.write(transaction);
        self.step(Input::Committed);
    }

    /// The commit in flight is refused.
    pub(crate) fn refuse(&mut self, reason: StoreRefusal) {
        if self.flying.take().is_some() {
            self.step(Input::Refused(reason));
        }
    }

    /// Commits until nothing is left to commit.
    pub(crate) fn settle(&mut self) {
        for _ in 0..10_000 {
            if !self.take_off() && self.flying.is_none() {
                return;
            }
            self.land();
        }
        panic!("the leader never comes to rest");
    }

    /// Another leader takes office; the commit in flight landed or not.
    pub(crate) fn take_over(&mut self, landed: bool) {
        if let Some(transaction) = self.flying.take()
            && landed
        {
            self.write(transaction);
        }
        let epoch = LeaderEpoch { number: self.leader.epoch().number + 1, ..self.leader.epoch() };
        let leader = Leader::new(epoch, self.replay(), self.log.len() as u64, self.now);
        let abandoned = std::mem::replace(&mut self.leader, leader).abandon();
        let (mut lost, waiting) = (abandoned.decided, abandoned.waiting);
        let refused = || Err(CallError::Refused(StoreRefusal::Unavailable));
        if !landed {
            lost.iter_mut().for_each(|(_, result)| *result = refused());
        }
        self.answers.extend(lost);
        self.answers.extend(waiting.into_iter().map(|call| (call, refused())));
        self.check();
    }

    /// All committed changes, applied in order to an empty state.
    fn replay(&self) -> State {
        let mut state = State::new(self.settings.clone(), [self.ns.clone()]);
        for changes in &self.log {
            for (key, value) in changes {
                state.apply(Change { key: key.clone(), value: value.clone() });
            }
        }
        state
    }

    pub(crate) fn check_replay(&self) {
        let state = self.replay();
        for (key, record) in &self.committed {
            assert_eq!(state.get(key).as_ref(), Some(record), "replay differs at {key:?}");
        }
        let (_, space) = state.spaces().next().unwrap();
        let tasks = self.committed.keys().filter(|key| matches!(key, Key::Task(..))).count();
        assert_eq!(space.tasks_before(None).count(), tasks);
        invariant::check(&state).unwrap();
    }

    pub(crate) fn task(&self, id: TaskId) -> Option<&Arc<TaskRecord>> {
        match self.committed.get(&Key::Task(self.ns.clone(), id)) {
            Some(Record::Task(task)) => Some(task),
            _ => None,
        }
    }

    /// It has ended, whether its record is still kept or not.
    pub(crate) fn has_ended(&self, id: TaskId) -> bool {
        self.deleted.contains(&id) || self.task(id).is_some_and(|task| task.is_ended())
    }

    fn write(&mut self, transaction: Transaction) {
        assert_eq!(transaction.prev_seq, self.log.len() as u64);
        let mut assigned = Vec::new();
        for (key, value) in &transaction.records {
            let before = self.committed.get(key);
            match (key, before, value) {
                (Key::Task(_, id), before, Some(Record::Task(after))) => {
                    if let Some(Record::Task(before)) = before {
                        invariant::check_succession(before, after).unwrap();
                    }
                    assert!(!self.deleted.contains(id), "task {id} is accepted a second time");
                    if let Phase::Assigned(run) = &after.phase
                        && !matches!(before, Some(Record::Task(before)) if before.attempt == after.attempt)
                    {
                        assigned.push(run.agent.clone());
                    }
                    self.versions.entry(*id).or_default().push(after.clone());
                }
                (Key::Task(_, id), Some(Record::Task(before)), None) => {
                    assert!(before.is_ended(), "task {id} is deleted before its end");
                    self.deleted.insert(*id);
                }
                (Key::Namespace(_), Some(Record::Namespace(before)), Some(Record::Namespace(after))) => {
                    assert!(after != before, "a write for nothing");
                    assert!(after.floor >= before.floor, "the floor goes down");
                    assert!(after.generation >= before.generation, "forgotten generations are forgotten");
                    assert!(after.moved >= before.moved, "forgotten moves are forgotten");
                }
                (Key::Sidecar(..), Some(Record::Sidecar(before)), Some(Record::Sidecar(after))) => {
                    assert!(after.generation > before.generation, "a generation goes down");
                }
                (Key::Agent(..), Some(Record::Agent(before)), Some(Record::Agent(after))) => {
                    assert!(after.moved >= before.moved, "an agent's moves go down");
                }
                _ => {}
            }
        }
        for (key, value) in &transaction.records {
            match value {
                Some(record) => drop(self.committed.insert(key.clone(), record.clone())),
                None => drop(self.committed.remove(key)),
            }
        }
        let floor = match self.committed.get(&Key::Namespace(self.ns.clone())) {
            Some(Record::Namespace(record)) => record.floor,
            _ => Time::ZERO,
        };
        for (key, value) in &transaction.records {
            if let (Key::Task(_, id), None) = (key, value) {
                assert!(id.time() < floor, "task {id} is forgotten above the floor");
            }
        }
        for agent in assigned {
            let key = Key::Agent(self.ns.clone(), agent.clone());
            if transaction.records.iter().any(|(changed, _)| *changed == key) {
                continue;
            }
            let Some(Record::Agent(record)) = self.committed.get(&key) else {
                panic!("{agent} has work and no record")
            };
            let holds = self.tasks().filter(|t| t.run().is_some_and(|run| run.agent == agent)).count();
            assert!(holds <= record.spec.slots as usize, "{agent} holds {holds} of {} slots", record.spec.slots);
        }
        self.fresh.extend(transaction.records.iter().cloned());
        self.log.push(transaction.records);
    }

    pub(crate) fn tasks(&self) -> impl Iterator<Item = &Arc<TaskRecord>> {
        self.committed.values().filter_map(|r| if let Record::Task(task) = r { Some(task) } else { None })
    }

    /// What holds after every step: the invariants, and the view shows exactly what is committed.
    fn check(&self) {
        invariant::check(self.leader.state()).unwrap();
        let view = self.leader.view();
        assert_eq!(view.revision().seq, self.log.len() as u64);
        let mut counts = [0u64; 7];
        for (key, record) in &self.committed {
            match record {
                Record::Task(task) => {
                    assert_eq!(view.task(&self.ns, task.id).as_ref(), Some(task), "the view of a task");
                    counts[kind(&task.phase)] += 1;
                }
                Record::Agent(agent) => {
                    let seen = view.agent(&self.ns, &agent.id).map(|(record, _)| record);
                    assert_eq!(seen.as_ref(), Some(agent), "the view of an agent");
                }
                Record::Namespace(record) => assert_eq!(view.floor(&self.ns), record.floor),
                Record::Sidecar(_) => assert!(matches!(key, Key::Sidecar(..))),
            }
        }
        let c: Counts = view.counts(&self.ns);
        let seen = [c.pending, c.assigned, c.input_required, c.succeeded, c.failed, c.cancelled, c.expired];
        assert_eq!(seen, counts, "the view's counts");
        let (listed, _) = view.tasks(&self.ns, None, usize::MAX, usize::MAX, |_| true);
        assert_eq!(listed.len() as u64, counts.iter().sum::<u64>(), "the view's list");
    }

    /// What was told of a task is committed, as such or within a later version: one transaction may
    /// hold several steps of a task.
    fn was(&self, told: &Arc<TaskRecord>) -> bool {
        let implies = |v: &Arc<TaskRecord>| {
            let later = v.attempt > told.attempt || (v.run().is_none() && told.run().is_some());
            let answer = |t: &TaskRecord| t.run().and_then(|run| run.answer.as_ref()).map(|a| a.number);
            v == told
                || (!told.is_ended()
                    && invariant::check_succession(told, v).is_ok()
                    && (later || v.cancel >= told.cancel && answer(v) >= answer(told)))
        };
        self.versions.get(&told.id).is_some_and(|versions| versions.iter().any(implies))
    }

    fn absorb(&mut self, out: Vec<Output>) {
        for output in out {
            if self.verbose {
                eprintln!("{} -> {output:?}", self.now);
            }
            match output {
                Output::Reply { call, result, revision } => {
                    assert!(revision.seq <= self.log.len() as u64);
                    self.check_answer(&result);
                    self.answers.push((call, result));
                }
                Output::Send { connection, message } => {
                    self.check_message(&message);
                    self.down.push((connection, message));
                }
                Output::Close { connection, cause } => self.closed.push((connection, cause)),
                Output::Committed { revision, changes } => {
                    assert_eq!(revision.seq, self.log.len() as u64);
                    assert_eq!(Some(&changes), self.log.last());
                }
                _ => {}
            }
        }
    }

    /// An answer speaks of committed state alone.
    fn check_answer(&self, result: &Result<Reply, CallError>) {
        match result {
            Ok(Reply::Task { task, .. } | Reply::Asked(task)) => {
                assert!(self.was(task), "told before its commit: {task:?}")
            }
            Ok(Reply::Agent(agent)) => {
                let key = Key::Agent(self.ns.clone(), agent.id.clone());
                let implied = |v: &Option<Record>| matches!(v, Some(Record::Agent(v)) if v == agent || v.updated >= agent.updated && v != agent);
                let was = self.log.iter().flatten().any(|(k, v)| *k == key && implied(v));
                assert!(was, "told before its commit: {agent:?}");
            }
            Err(CallError::Rejected(Rejection::TaskIdReused(id))) => {
                assert!(self.versions.contains_key(id), "{id} is reused before it is used");
            }
            Err(CallError::Rejected(Rejection::TaskTerminal(id))) => {
                assert!(self.has_ended(*id), "{id} is called ended before its end is committed");
            }
            Err(CallError::Rejected(Rejection::AgentExists(id))) => {
                assert!(self.committed.contains_key(&Key::Agent(self.ns.clone(), id.clone())));
            }
            _ => {}
        }
    }

    /// So does a message.
    fn check_message(&self, message: &ToSidecar) {
        let running = |token: &hive_core::id::AttemptId| {
            self.task(token.task).is_some_and(|task| task.attempt == token.attempt && task.run().is_some())
        };
        match message {
            ToSidecar::Assign(assignment) => {
                assert!(self.was(&assignment.task), "offered before its commit: {:?}", assignment.task);
            }
            ToSidecar::ResultAck { token, release, .. } => {
                assert!(!running(token), "released while current: {token:?}");
                assert_eq!(*release == Release::Gone, self.task(token.task).is_none_or(|t| t.attempt < token.attempt));
            }
            ToSidecar::Stop { token, reason: StopReason::Requested, .. } => {
                assert!(self.task(token.task).is_none_or(|t| t.cancel.is_some() || !running(token)));
            }
            ToSidecar::Stop { token, .. } => assert!(!running(token), "stopped while current: {token:?}"),
            ToSidecar::Answer { token, number, .. } => {
                // What came after the answer may be in the same commit.
                let answered = |t: &Arc<TaskRecord>| {
                    let answer = t.run().and_then(|run| run.answer.as_ref());
                    t.questions >= *number
                        && (answer.is_some_and(|a| a.number >= *number)
                            || t.attempt > token.attempt
                            || t.run().is_none())
                };
                assert!(self.versions[&token.task].iter().any(answered), "answered before its commit");
            }
            ToSidecar::Desire { agent, desired } => {
                let Some(Record::Agent(record)) = self.committed.get(&Key::Agent(self.ns.clone(), agent.clone()))
                else {
                    panic!("{agent} is wanted before its commit")
                };
                assert_eq!(record.desired, *desired, "{agent}: told what is not committed");
            }
            ToSidecar::Welcome(welcome) => {
                let minted = self
                    .committed
                    .values()
                    .any(|r| matches!(r, Record::Sidecar(sidecar) if sidecar.generation == welcome.generation));
                assert!(minted, "welcomed under a generation that is not committed");
                for verdict in welcome.verdicts.iter().filter(|v| v.over.is_some()) {
                    assert!(!running(&verdict.token), "judged over while current: {verdict:?}");
                }
            }
            ToSidecar::BeatAck { .. } | ToSidecar::Resync => {}
        }
    }
}

fn kind(phase: &Phase) -> usize {
    use hive_core::record::End;
    match phase {
        Phase::Pending { .. } => 0,
        Phase::Assigned(_) => 1,
        Phase::InputRequired(..) => 2,
        Phase::Ended { end: End::Succeeded(_), .. } => 3,
        Phase::Ended { end: End::Failed, .. } => 4,
        Phase::Ended { end: End::Cancelled(_), .. } => 5,
        Phase::Ended { end: End::Expired, .. } => 6,
    }
}
