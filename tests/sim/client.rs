//! Clients and operators, and the ledger of what they were told. A client repeats what it has no
//! answer to, under the same id, until it is answered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hive_core::command::{Command, Delivered, Reply};
use hive_core::id::{AgentId, TaskId};
use hive_core::leader::CallError;
use hive_core::record::{Body, DisconnectPolicy, Phase, Priority, Requirement, RetryPolicy, TaskRecord, TaskSpec};
use hive_core::rejection::Rejection;
use hive_core::time::Time;
use hive_sidecar::attempt::AttemptKey;

use crate::control::Mail;
use crate::rng::mix;
use crate::world::{CAPABILITIES, Event, World};

/// What a client asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Accept a task; with another body than the one the task was made with.
    Submit(TaskId, bool),
    Cancel(TaskId),
    Answer(TaskId, u32),
    Drain(AgentId, bool),
    Remove(AgentId, bool),
}

/// A task as its client knows it.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) spec: Arc<TaskSpec>,
    pub(crate) payload: Bytes,
    /// The client was told that it is accepted.
    pub(crate) accepted: bool,
    /// The client gave up: it was told that it is not.
    pub(crate) refused: bool,
    /// The store has held it.
    pub(crate) created: bool,
    pub(crate) deleted: bool,
    /// As it ended.
    pub(crate) ended: Option<Arc<TaskRecord>>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) tasks: BTreeMap<TaskId, Entry>,
    pub(crate) ids: Vec<TaskId>,
    pub(crate) started: BTreeSet<AttemptKey>,
    /// Attempts that a sidecar has told to be over.
    pub(crate) told: BTreeSet<AttemptKey>,
    /// Agents an operator has drained at some time; whether that arrived is not known.
    pub(crate) drained: BTreeSet<AgentId>,
    /// What clients have learnt of the cluster's clock.
    pub(crate) correction: i64,
}

impl Ledger {
    /// Every task the client or the store knows of has come to its end, and no client waits.
    pub(crate) fn is_settled(&self) -> bool {
        self.tasks.values().all(|e| (e.accepted || e.refused) && (!e.created || e.ended.is_some()))
    }
}

/// What is sent as a task's payload, and as the body of another task under its id.
fn payload(id: TaskId, other: bool, large: u64) -> Bytes {
    let mut bytes = id.to_string().into_bytes();
    if other {
        bytes.push(b'!');
    }
    if u64::from(id.0[14]) * 4 < large {
        bytes.resize(2_000, b'-');
    }
    bytes.into()
}

/// The one answer to a question: asked twice it is answered alike.
pub(crate) fn answer(id: TaskId, number: u32) -> Bytes {
    let mut bytes = format!("{id}={number}").into_bytes();
    if id.0[15].is_multiple_of(4) {
        bytes.resize(1_200, b'.');
    }
    bytes.into()
}

impl World {
    pub(crate) fn act(&mut self, client: usize) {
        let wait = self.rng.skewed(5, 2 * self.options.chaos / (1 + self.options.tasks as u64 / 2));
        self.at(self.now + wait, Event::Act(client));
        if self.healing {
            return;
        }
        self.answer_questions();
        let known = self.ledger.ids.len();
        if known > 0 && self.control.up && self.rng.chance(150) {
            let id = self.ledger.ids[self.rng.index(known)];
            self.mail(Mail::Read(id));
        }
        if self.rng.chance(self.options.operators) {
            return self.operate();
        }
        let known = self.ledger.ids.len();
        if known > 0 && self.rng.chance(self.options.cancels) {
            let id = self.ledger.ids[self.rng.index(known)];
            return self.ask(Asked::Cancel(id));
        }
        if known > 0 && self.rng.chance(self.options.repeats) {
            let id = self.ledger.ids[self.rng.index(known)];
            // Another body only under an id that is taken for sure.
            let accepted = self.ledger.tasks.get(&id).is_some_and(|entry| entry.accepted);
            let other = accepted && self.rng.chance(300);
            return self.ask(Asked::Submit(id, other));
        }
        if known < self.options.tasks {
            // Work comes in bursts as well as one by one.
            let burst = if self.rng.chance(200) { self.rng.between(2, 12) as usize } else { 1 };
            for _ in 0..burst.min(self.options.tasks - known) {
                self.submit();
            }
        }
    }

    pub(crate) fn submit(&mut self) {
        let rng = &mut self.rng;
        let skew = rng.between(0, 2_000) as i64 - 1_000 + self.ledger.correction;
        let made = (self.now + crate::world::EPOCH).saturating_add_signed(skew);
        let random = (u128::from(rng.next()) << 64) | u128::from(rng.next());
        let id = TaskId::new(Time(made), random);
        let bytes = payload(id, false, self.options.large);
        let ms = |rng: &mut crate::rng::Rng, low, high| Duration::from_millis(rng.skewed(low, high));
        let capability: Arc<str> = Arc::from(*rng.pick(&CAPABILITIES));
        let (body, _) = Body::split(Arc::from("text/plain"), bytes.clone());
        let spec = TaskSpec {
            requirement: Requirement { capabilities: [capability.clone()].into(), ..Requirement::default() },
            capability,
            priority: *rng.pick(&Priority::ALL),
            payload: body,
            labels: Default::default(),
            retry: RetryPolicy {
                max_failures: rng.between(1, 4) as u32,
                base_delay: ms(rng, 50, 1_000),
                max_delay: Duration::from_secs(4),
            },
            attempt_timeout: Duration::from_millis(*rng.pick(&[600_000, 600_000, 20_000, 4_000])),
            queue_timeout: Duration::from_millis(*rng.pick(&[86_400_000, 86_400_000, 30_000])),
            input_timeout: Duration::from_millis(*rng.pick(&[86_400_000, 10_000])),
            disconnect: *rng.pick(&[
                DisconnectPolicy::Replace,
                DisconnectPolicy::Replace,
                DisconnectPolicy::Stop,
                DisconnectPolicy::Wait,
            ]),
            digest: digest(id, false),
        };
        let entry = Entry {
            spec: Arc::new(spec),
            payload: bytes,
            accepted: false,
            refused: false,
            created: false,
            deleted: false,
            ended: None,
        };
        self.ledger.tasks.insert(id, entry);
        self.ledger.ids.push(id);
        self.ask(Asked::Submit(id, false));
        self.at(self.now + 1_500, Event::Retry(id));
    }

    /// A submit without an answer is sent again.
    pub(crate) fn retry(&mut self, id: TaskId) {
        if self.ledger.tasks.get(&id).is_some_and(|entry| !entry.accepted && !entry.refused) {
            self.ask(Asked::Submit(id, false));
            let wait = self.rng.between(500, 3_000);
            self.at(self.now + wait, Event::Retry(id));
        }
    }

    fn operate(&mut self) {
        let side = self.rng.index(self.sides.len());
        if self.sides[side].agents.is_empty() {
            return;
        }
        let nth = self.rng.index(self.sides[side].agents.len());
        let Ok(agent) = AgentId::parse(&self.sides[side].agents[nth].id) else { return };
        let undo = self.ledger.drained.contains(&agent) && self.rng.chance(600);
        // One agent stays, so that no task is without hope.
        if agent.to_string() != crate::liveness::CORE && self.rng.chance(250) {
            let force = self.rng.chance(500);
            return self.ask(Asked::Remove(agent, force));
        }
        self.ledger.drained.insert(agent.clone());
        self.ask(Asked::Drain(agent, undo));
    }

    /// Open questions, as the store shows them, are answered sooner or later.
    pub(crate) fn answer_questions(&mut self) {
        let open: Vec<(TaskId, u32)> = self
            .store
            .tasks()
            .filter_map(|task| match &task.phase {
                Phase::InputRequired(_, question) => Some((task.id, question.number)),
                _ => None,
            })
            .collect();
        for (id, number) in open {
            if self.healing || self.rng.chance(500) {
                self.ask(Asked::Answer(id, number));
            }
        }
    }

    pub(crate) fn ask(&mut self, asked: Asked) {
        if !self.healing && self.rng.chance(self.options.lost_calls) {
            return;
        }
        let at = self.now + self.latency();
        if !self.healing && self.rng.chance(self.options.repeated) {
            let again = at + self.latency();
            self.at(again, Event::Call(asked.clone()));
        }
        self.at(at, Event::Call(asked));
    }

    /// A call reaches the server.
    pub(crate) fn call(&mut self, asked: Asked) {
        if !self.control.up {
            return self.answer_lost(asked);
        }
        self.say(|| format!("call: {asked:?}"));
        let large = self.options.large;
        let command = match &asked {
            Asked::Submit(id, other) => {
                let Some(entry) = self.ledger.tasks.get(id) else { return };
                let mut spec = TaskSpec::clone(&entry.spec);
                let (body, blob) = Body::split(Arc::from("text/plain"), payload(*id, *other, large));
                spec.payload = body;
                spec.digest = digest(*id, *other);
                Command::Submit { id: *id, spec: Arc::new(spec), blob }
            }
            Asked::Cancel(id) => Command::Cancel(*id),
            Asked::Answer(id, number) => {
                let (body, blob) = Body::split(Arc::from(""), answer(*id, *number));
                let input = Delivered { body, blob };
                Command::ProvideInput { id: *id, number: *number, input, request: request(*id, *number) }
            }
            Asked::Drain(id, undo) => Command::DrainAgent { id: id.clone(), undo: *undo },
            Asked::Remove(id, force) => Command::RemoveAgent { id: id.clone(), force: *force },
        };
        self.mail(Mail::Call { asked, command });
    }

    /// The client finds that its connection broke: the outcome is unknown to it.
    pub(crate) fn answer_lost(&mut self, _asked: Asked) {
        self.stats.unknown += 1;
    }

    pub(crate) fn answer(&mut self, asked: Asked, result: Result<Reply, CallError>) {
        if !self.healing && self.rng.chance(self.options.lost_calls) {
            return self.answer_lost(asked);
        }
        let at = self.now + self.latency();
        self.at(at, Event::Answer(asked, Box::new(result)));
    }

    /// An answer reaches its client.
    pub(crate) fn answered(&mut self, asked: &Asked, result: &Result<Reply, CallError>) {
        let Asked::Submit(id, false) = asked else { return };
        let Some(entry) = self.ledger.tasks.get_mut(id) else { return };
        match result {
            Ok(_) => {
                self.stats.accepted += u64::from(!std::mem::replace(&mut entry.accepted, true));
            }
            // Anything else is tried again.
            Err(CallError::Rejected(
                Rejection::TaskIdTooOld { cluster_time, .. } | Rejection::TaskIdInFuture { cluster_time },
            )) => {
                entry.refused = true;
                // The next ids are made by the cluster's clock.
                self.ledger.correction = cluster_time.0 as i64 - (crate::world::EPOCH + self.now) as i64;
            }
            Err(_) => {}
        }
    }
}

/// The same for a repeated answer, another one for the next question.
fn request(id: TaskId, number: u32) -> [u8; 16] {
    let mut digest = digest(id, false);
    digest[..4].copy_from_slice(&number.to_be_bytes());
    digest
}

/// What the API makes of a request's bytes.
pub(crate) fn digest(id: TaskId, other: bool) -> [u8; 16] {
    let half = |salt: u64| {
        let mut word = [0; 8];
        word.copy_from_slice(&id.0[8..]);
        mix(u64::from_be_bytes(word) ^ salt ^ u64::from(other)).to_be_bytes()
    };
    let mut digest = [0; 16];
    digest[..8].copy_from_slice(&half(1 << 8));
    digest[8..].copy_from_slice(&half(1 << 9));
    digest
}
