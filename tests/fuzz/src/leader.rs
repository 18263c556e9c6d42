//! Sequences of inputs into the driver's machine and the leader in it: clients and operators, sidecars
//! that keep no rule (any boot, any generation, any list, any result, any order), a store that
//! refuses. After every step the invariants hold; every transaction is one the store takes and reads
//! back; no ended task changes; every call is answered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hive_control_plane::api::check::Limits;
use hive_control_plane::session;
use hive_control_plane::store::{MAX_OPS, Op, codec};
use hive_core::command::{AgentUpdate, Command, Delivered};
use hive_core::driver::{Act, Landing, Machine, Next};
use hive_core::id::{AgentId, LeaderEpoch, Namespace, TaskId};
use hive_core::invariant;
use hive_core::leader::{CallId, Connection, Input, Leader, StoreRefusal};
use hive_core::record::{
    AgentSpec, Body, DisconnectPolicy, Key, Priority, Record, Requirement, RetryPolicy, Runtime, TaskRecord, TaskSpec,
};
use hive_core::settings::Settings;
use hive_core::state::State;
use hive_core::time::Time;
use hive_proto::sidecar_v1::{self as pb, sidecar_message::Kind};
use hive_proto::v1;
use prost::Message as _;

use super::source::Source;

const BEGIN: u64 = 1_800_000_000_000;
const AGENTS: [&str; 3] = ["a0", "a1", "a2"];
const CAPABILITIES: [&str; 2] = ["wc", "echo"];
/// Longest sequence; a longer one proves no more and takes its time.
const STEPS: usize = 400;

struct Game<'a> {
    source: Source<'a>,
    now: Time,
    machine: Machine,
    flying: bool,
    next: u64,
    connections: Vec<Connection>,
    asked: BTreeSet<CallId>,
    records: BTreeMap<Key, Arc<TaskRecord>>,
    random: u64,
}

pub fn run(data: &[u8]) {
    let settings = Settings {
        id_window: Duration::from_secs(600),
        max_pending: 12,
        batch_ops: if data.first().is_some_and(|byte| byte % 2 == 0) { 6 } else { 120 },
        ..Settings::default()
    };
    let epoch = LeaderEpoch { cluster_generation: 1, number: 1 };
    let leader = Leader::new(epoch, State::new(settings, [namespace()]), 0, Time(BEGIN));
    let mut game = Game {
        source: Source::new(data),
        now: Time(BEGIN),
        machine: Machine::new(leader, Time(BEGIN)),
        flying: false,
        next: 0,
        connections: Vec::new(),
        asked: BTreeSet::new(),
        records: BTreeMap::new(),
        random: 1,
    };
    let mut steps = 0;
    while !game.source.is_dry() && steps < STEPS {
        game.step();
        steps += 1;
    }
    game.settle();
}

fn namespace() -> Namespace {
    Namespace::parse("default").expect("a name")
}

fn task(n: usize) -> TaskId {
    TaskId::new(Time(BEGIN + n as u64), n as u128 + 1)
}

impl Game<'_> {
    fn step(&mut self) {
        match self.source.below(16) {
            0 => self.connect(),
            1..=6 => self.speak(),
            7 => {
                let connection = self.connection();
                self.input(Input::Hangup(connection));
            }
            8 | 9 => {
                let millis = self.source.number().min(120_000) * 25;
                self.now = self.now + Duration::from_millis(millis);
                self.input(Input::Tick);
            }
            10..=12 => self.land(),
            _ => self.ask(),
        }
        self.perform();
    }

    fn input(&mut self, input: Input) {
        if let Input::Call { call, .. } | Input::Barrier(call) = &input {
            self.asked.insert(*call);
        }
        let random = &mut self.random;
        self.machine.step(self.now, input, &mut || {
            *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *random
        });
        self.check();
    }

    fn check(&self) {
        if let Err(faults) = invariant::check(self.machine.leader().state()) {
            panic!("{faults}");
        }
    }

    fn land(&mut self) {
        if !self.flying {
            return;
        }
        self.flying = false;
        let landing = match self.source.below(8) {
            0 => Landing::Refused(StoreRefusal::NoSpace),
            1 => Landing::Refused(StoreRefusal::TooLarge),
            _ => Landing::Committed,
        };
        let random = &mut self.random;
        let next = self.machine.land(self.now, landing, &mut || {
            *random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
            *random
        });
        assert_eq!(next, Next::GoOn);
        self.check();
    }

    fn perform(&mut self) {
        let mut number = self.random;
        while let Some(act) = self.machine.next(self.now, &mut || {
            number = number.wrapping_add(1);
            number
        }) {
            match act {
                Act::Commit(transaction, nonce) => {
                    assert!(!self.flying, "two transactions in flight");
                    self.flying = true;
                    let transaction = codec::transaction(transaction, nonce);
                    transaction.check(MAX_OPS).expect("a transaction the store takes");
                    for op in &transaction.ops {
                        let Op::Put { key, value } = op else { continue };
                        if codec::decode_key(key).is_some() {
                            let change = codec::decode(key, value).expect("what we write we can read");
                            assert_eq!(
                                codec::encode(change.value.as_ref().expect("a put")),
                                value,
                                "not what was written"
                            );
                        }
                    }
                }
                Act::Reply { call, .. } => assert!(self.asked.remove(&call), "answered twice or unasked"),
                Act::Committed { changes, .. } => {
                    for (key, record) in changes {
                        self.committed(key, record);
                    }
                }
                Act::Frame { messages, .. } => assert!(!messages.is_empty(), "an empty frame"),
                Act::Close { connection, .. } => self.connections.retain(|other| *other != connection),
                Act::Touched(_) | Act::ResultRefused { .. } | Act::Started { .. } => {}
            }
        }
        self.random = number;
    }

    fn committed(&mut self, key: Key, record: Option<Record>) {
        match record {
            Some(Record::Task(after)) => {
                if let Some(before) = self.records.insert(key, Arc::clone(&after))
                    && let Err(fault) = invariant::check_succession(&before, &after)
                {
                    panic!("{fault}");
                }
            }
            Some(_) => {}
            None => {
                if let Some(before) = self.records.remove(&key) {
                    assert!(before.is_ended(), "deleted before its end: {before:?}");
                }
            }
        }
    }

    /// Everything lands: nobody who asked is left without an answer.
    fn settle(&mut self) {
        for _ in 0..1_000 {
            self.perform();
            if !self.flying {
                break;
            }
            self.flying = false;
            assert_eq!(self.machine.land(self.now, Landing::Committed, &mut || 0), Next::GoOn);
            self.check();
        }
        self.perform();
        assert!(self.asked.is_empty(), "never answered: {:?}", self.asked);
    }

    fn connection(&mut self) -> Connection {
        if self.connections.is_empty() { Connection(0) } else { *self.source.pick(&self.connections) }
    }

    fn connect(&mut self) {
        self.next += 1;
        let connection = Connection(self.next);
        self.machine.attach(connection);
        self.connections.push(connection);
        let hello = self.hello();
        self.frame(connection, vec![hello]);
    }

    fn speak(&mut self) {
        let connection = self.connection();
        let messages = (0..=self.source.below(3)).map(|_| self.message()).collect();
        self.frame(connection, messages);
    }

    fn frame(&mut self, connection: Connection, kinds: Vec<Kind>) {
        let leader = self.machine.leader().epoch();
        let leader = if self.source.chance(8) { None } else { Some(leader) };
        let request = pb::SessionRequest {
            session: None,
            leader: leader.map(|l| pb::LeaderEpoch { cluster_generation: l.cluster_generation, number: l.number }),
            messages: kinds.into_iter().map(|kind| pb::SidecarMessage { kind: Some(kind) }).collect(),
        };
        // Through the edge, which is to keep nonsense out.
        let limits = Limits { payload: 4_096, labels: 4, capabilities: 4, slots: 10 };
        let Ok((leader, messages)) = session::read_frame(request, &limits) else { return };
        self.input(Input::Frame { connection, leader, messages });
    }

    fn attempt(&mut self) -> Option<pb::AttemptRef> {
        let task = task(self.source.below(8));
        let attempt = 1 + self.source.below(4) as u32;
        Some(pb::AttemptRef { task_id: Bytes::copy_from_slice(&task.0), attempt })
    }

    fn agent(&mut self) -> String {
        (*self.source.pick(&AGENTS)).to_owned()
    }

    fn running(&mut self) -> Vec<pb::RunningAttempt> {
        (0..self.source.below(3))
            .map(|_| pb::RunningAttempt {
                attempt: self.attempt(),
                agent_id: self.agent(),
                start_time: None,
                input_number: self.source.below(3) as u32,
            })
            .collect()
    }

    fn finished(&mut self) -> Vec<pb::FinishedAttempt> {
        (0..self.source.below(3))
            .map(|_| pb::FinishedAttempt { attempt: self.attempt(), agent_id: self.agent() })
            .collect()
    }

    fn credits(&mut self) -> Vec<pb::AgentCredit> {
        (0..self.source.below(4))
            .map(|_| pb::AgentCredit {
                agent_id: self.agent(),
                free_slots: self.source.below(6) as u32,
                ready: self.source.chance(200),
            })
            .collect()
    }

    fn payload(&mut self) -> Option<v1::Payload> {
        let size = [0, 3, 2_000][self.source.below(3)];
        Some(v1::Payload { data: vec![b'x'; size].into(), content_type: String::new() })
    }

    fn hello(&mut self) -> Kind {
        let hosted = (0..self.source.below(4))
            .map(|_| pb::HostedAgent {
                agent_id: self.agent(),
                spec: Some(v1::AgentSpec {
                    pool: "default".into(),
                    capabilities: CAPABILITIES[..=self.source.below(2)].iter().map(|c| (*c).to_owned()).collect(),
                    slots: 1 + self.source.below(4) as u32,
                    runtime: v1::Runtime::Command.into(),
                    ..Default::default()
                }),
                free_slots: self.source.below(5) as u32,
                ready: self.source.chance(200),
                removed: self.source.chance(20),
            })
            .collect();
        Kind::Hello(pb::Hello {
            namespace: String::new(),
            sidecar_id: format!("s{}", self.source.below(3)),
            boot_id: vec![1 + self.source.below(3) as u8; 16].into(),
            generation: self.source.number(),
            connection: self.source.number(),
            agents: hosted,
            running: self.running(),
            finished: self.finished(),
            ..Default::default()
        })
    }

    fn message(&mut self) -> Kind {
        match self.source.below(14) {
            0 => self.hello(),
            1 => Kind::Credit(pb::Credit { assigns_seen: self.source.number(), agents: self.credits() }),
            2 => Kind::Receipt(pb::Receipt { assigns_seen: self.source.number() }),
            3 | 4 => Kind::Started(pb::Started { attempt: self.attempt(), start_time: None }),
            5 => Kind::Heartbeat(pb::Heartbeat {
                beat: self.source.number(),
                assigns_seen: self.source.number(),
                agents: self.credits(),
                running: self.running(),
                finished: self.finished(),
            }),
            6 => Kind::Declined(pb::Declined {
                attempt: self.attempt(),
                reason: 1 + self.source.below(4) as i32,
                message: String::new(),
            }),
            7 => Kind::AttemptLost(pb::AttemptLost { attempt: self.attempt() }),
            8 => Kind::InputRequired(pb::InputRequired {
                attempt: self.attempt(),
                number: self.source.below(4) as u32,
                prompt: self.payload(),
            }),
            9 | 10 => Kind::Result(pb::Result {
                attempt: self.attempt(),
                outcome: self.source.below(4) as i32,
                payload: self.payload(),
                reason: self.source.below(8) as i32,
                retryable: self.source.chance(128),
                ..Default::default()
            }),
            11 => Kind::Progress(pb::Progress { attempt: self.attempt(), fraction: Some(0.5), message: String::new() }),
            12 => Kind::Goodbye(pb::Goodbye::default()),
            _ => {
                // Any message at all.
                let chunk = self.source.chunk();
                let message = pb::SidecarMessage::decode(chunk).unwrap_or_default();
                message.kind.unwrap_or(Kind::Goodbye(pb::Goodbye::default()))
            }
        }
    }

    fn ask(&mut self) {
        self.next += 1;
        let call = CallId(self.next);
        let agent = AgentId::parse(&self.agent()).expect("a name");
        let n = self.source.below(8);
        let command = match self.source.below(12) {
            0..=4 => Command::Submit { id: task(n), spec: Arc::new(self.spec()), blob: None },
            5 => Command::Cancel(task(n)),
            6 => Command::ProvideInput {
                id: task(n),
                number: self.source.below(4) as u32,
                input: Delivered::default(),
                request: [self.source.byte(); 16],
            },
            7 => Command::RegisterAgent { id: agent, spec: self.agent_spec(), request: [self.source.byte(); 16] },
            8 => {
                let slots = Some(1 + self.source.below(4) as u32);
                Command::UpdateAgent { id: agent, update: AgentUpdate { slots, ..AgentUpdate::default() } }
            }
            9 => Command::DrainAgent { id: agent, undo: self.source.chance(128) },
            10 => Command::RemoveAgent { id: agent, force: self.source.chance(128) },
            _ if self.source.chance(128) => return self.input(Input::Barrier(call)),
            _ => Command::RestoreAgent(agent),
        };
        self.input(Input::Call { call, namespace: namespace(), command });
    }

    fn agent_spec(&mut self) -> AgentSpec {
        AgentSpec {
            pool: Arc::from("default"),
            capabilities: CAPABILITIES.iter().take(1 + self.source.below(2)).map(|c| Arc::from(*c)).collect(),
            labels: Default::default(),
            slots: 1 + self.source.below(4) as u32,
            runtime: Runtime::Command,
        }
    }

    fn spec(&mut self) -> TaskSpec {
        let capability: Arc<str> = Arc::from(*self.source.pick(&CAPABILITIES));
        let policies = [DisconnectPolicy::Replace, DisconnectPolicy::Stop, DisconnectPolicy::Wait];
        TaskSpec {
            requirement: Requirement { capabilities: [Arc::clone(&capability)].into(), ..Requirement::default() },
            capability,
            priority: *self.source.pick(&Priority::ALL),
            payload: Body::default(),
            labels: Default::default(),
            retry: RetryPolicy {
                max_failures: 1 + self.source.below(3) as u32,
                base_delay: Duration::from_millis(100),
                max_delay: Duration::from_secs(1),
            },
            attempt_timeout: Duration::from_secs(5),
            queue_timeout: Duration::from_secs(30),
            input_timeout: Duration::from_secs(5),
            disconnect: *self.source.pick(&policies),
            digest: [self.source.below(2) as u8; 16],
        }
    }
}
