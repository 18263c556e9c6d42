//! A world for the machine under test: journal, runtimes and peer, all by hand. It checks what must
//! hold after every step.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use hive_proto::sidecar_v1::{
    self as wire, AgentCredit, ControlMessage, Outcome, SessionResponse, SidecarMessage, control_message::Kind as Down,
    sidecar_message::Kind as Up,
};
use hive_proto::v1;

use super::record::{Entry, Recovered};
use super::{Connection, ExitReason, Input, JournalSeq, Leader, LinkEnd, Now, Output, Session, Settings};
use crate::attempt::{AttemptEnd, AttemptKey};
use crate::runtime::{RuntimeCommand, RuntimeEvent};

pub(super) const SLOTS: u32 = 2;
pub(super) const GENERATION: u64 = 7;
const HOST: [u8; 16] = [9; 16];

/// What the journal does with an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Disk {
    Writes,
    Waits,
    Fails,
    /// Intents are refused, the rest is written.
    Full,
}

pub(super) struct Rig {
    pub(super) session: Session,
    pub(super) now: Now,
    random: u64,
    pub(super) disk: Disk,
    pub(super) journal: Recovered,
    waiting: VecDeque<(JournalSeq, Vec<Entry>)>,
    pub(super) dialled: Option<Connection>,
    pub(super) stream: Option<Connection>,
    pub(super) sent: Vec<Up>,
    pub(super) commands: Vec<RuntimeCommand>,
    pub(super) started: BTreeSet<AttemptKey>,
    pub(super) running: BTreeMap<AttemptKey, String>,
    pub(super) exit: Option<ExitReason>,
    pub(super) leader: Leader,
    pub(super) cluster: &'static str,
    pub(super) tails: usize,
    /// The journal has failed since the last crash, so settlements may be told from memory.
    pub(super) failed: bool,
}

impl Rig {
    /// Started, with agents `a` and `b` up.
    pub(super) fn new() -> Self {
        let mut rig = Self {
            session: Session::new(settings()),
            now: Now { mono_ms: 1_000_000, wall_ms: 5_000 },
            random: 1,
            disk: Disk::Writes,
            journal: Recovered::default(),
            waiting: VecDeque::new(),
            dialled: None,
            stream: None,
            sent: Vec::new(),
            commands: Vec::new(),
            started: BTreeSet::new(),
            running: BTreeMap::new(),
            exit: None,
            leader: Leader { cluster_generation: 1, number: 1 },
            cluster: "one",
            tails: 0,
            failed: false,
        };
        rig.boot();
        rig
    }

    /// Starts on what the journal holds.
    pub(super) fn boot(&mut self) {
        let recovered = Box::new(self.journal.clone());
        self.input(Input::Start { recovered, host_boot: HOST });
        // The runtimes' answer to what they should adopt.
        for (key, attempt) in self.journal.attempts.clone() {
            if attempt.end.is_none() && !self.running.contains_key(&key) {
                self.input(Input::Runtime(RuntimeEvent::Lost { agent: attempt.assigned.agent, key }));
            }
        }
        self.ready("a", true);
        self.ready("b", true);
    }

    /// Kill -9: what was appended stays, and the first `kept` of what was being appended.
    pub(super) fn crash(&mut self, kept: usize) {
        for (_, entries) in self.waiting.drain(..).take(kept) {
            entries.into_iter().for_each(|entry| self.journal.apply(entry));
        }
        (self.dialled, self.stream, self.failed) = (None, None, false);
        self.session = Session::new(settings());
        self.boot();
    }

    pub(super) fn input(&mut self, input: Input) {
        let mut out = Vec::new();
        let random = &mut self.random;
        self.session.step(
            self.now,
            input,
            &mut || {
                *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                *random >> 16
            },
            &mut out,
        );
        for output in out {
            self.output(output);
        }
        self.check();
        if self.disk != Disk::Waits {
            self.write(usize::MAX);
        }
    }

    /// The journal answers up to `count` appends.
    pub(super) fn write(&mut self, count: usize) {
        for _ in 0..count {
            let Some((seq, entries)) = self.waiting.pop_front() else { return };
            let refused = self.disk == Disk::Fails
                || self.disk == Disk::Full && entries.iter().any(|e| matches!(e, Entry::Intent { .. }));
            if refused {
                self.failed = true;
                self.input(Input::JournalFailed(seq));
            } else {
                entries.into_iter().for_each(|entry| self.journal.apply(entry));
                self.input(Input::Journaled(seq));
            }
        }
    }

    fn output(&mut self, output: Output) {
        match output {
            Output::Journal(seq, entries) => self.waiting.push_back((seq, entries)),
            Output::Dial(connection) => {
                assert!(self.journal.connection >= connection, "dialled before its number was journaled");
                assert!(self.dialled.is_none_or(|last| last < connection), "a connection number came twice");
                self.dialled = Some(connection);
            }
            Output::Send(connection, request) => {
                if self.stream == Some(connection) {
                    request.messages.into_iter().for_each(|message| self.take(message));
                }
            }
            Output::CloseStream(connection) => self.stream = self.stream.filter(|c| *c != connection),
            Output::Runtime { agent, command } => {
                if let RuntimeCommand::Start(start) = &command {
                    let key = start.key;
                    assert!(self.journal.attempts.contains_key(&key), "started {key} without an intent");
                    assert!(self.started.insert(key), "started {key} twice");
                    self.running.insert(key, agent);
                }
                self.commands.push(command);
            }
            Output::TailLogs(_) => self.tails += 1,
            Output::Exit(reason) => self.exit = Some(reason),
        }
    }

    /// A message arrived at the other side.
    fn take(&mut self, message: SidecarMessage) {
        let kind = message.kind.expect("a kind");
        match &kind {
            Up::Hello(hello) => {
                for agent in &hello.agents {
                    self.room(&agent.agent_id, agent.free_slots);
                }
            }
            Up::Credit(wire::Credit { agents, .. }) | Up::Heartbeat(wire::Heartbeat { agents, .. }) => {
                for AgentCredit { agent_id, free_slots, .. } in agents {
                    self.room(agent_id, *free_slots);
                }
            }
            Up::Result(result) => {
                let key = key(&result.attempt);
                assert!(self.journal.attempts[&key].end.is_some(), "sent the result of {key} before it was journaled");
            }
            Up::Declined(wire::Declined { attempt, .. }) | Up::AttemptLost(wire::AttemptLost { attempt }) => {
                let key = key(attempt);
                let known = self.journal.settled.rules_out(key, super::Revision::default());
                assert!(self.failed || known, "settled {key} before it was journaled");
                assert!(!self.running.contains_key(&key), "called {key} over while it runs");
            }
            _ => {}
        }
        self.sent.push(kind);
    }

    fn room(&self, agent: &str, free: u32) {
        let running = self.running.values().filter(|a| *a == agent).count();
        assert!(free as usize + running <= SLOTS as usize, "{agent} told {free} free slots while {running} run");
    }

    fn check(&self) {
        for agent in ["a", "b"] {
            let running = self.running.values().filter(|a| *a == agent).count();
            assert!(running <= SLOTS as usize, "{agent} runs {running}");
        }
        let mut again = Recovered::default();
        self.journal.clone().entries().into_iter().for_each(|entry| again.apply(entry));
        assert_eq!(again, self.journal, "compaction changes what the journal says");
    }

    pub(super) fn ready(&mut self, agent: &str, ready: bool) {
        let message = String::new();
        self.input(Input::Runtime(RuntimeEvent::Agent { agent: agent.into(), ready, message }));
    }

    /// Lets time pass, ticking whenever the machine asks for it.
    pub(super) fn pass(&mut self, ms: u64) {
        let end = self.now.mono_ms + ms;
        while let Some(at) = self.session.next_wake().filter(|&at| at <= end) {
            assert!(at > self.now.mono_ms, "asked to be woken in the past");
            self.wall(at);
            self.input(Input::Tick);
        }
        self.wall(end);
    }

    fn wall(&mut self, mono_ms: u64) {
        self.now.wall_ms += mono_ms - self.now.mono_ms;
        self.now.mono_ms = mono_ms;
    }

    /// The dial asked for succeeds, if there is one.
    pub(super) fn dial(&mut self) {
        if let Some(connection) = self.dialled.filter(|c| self.stream.is_none_or(|s| s < *c)) {
            self.stream = Some(connection);
            self.input(Input::Dialed(connection));
        }
    }

    /// Nothing is on its way to the journal, and it is well.
    pub(super) fn settled(&self) -> bool {
        self.waiting.is_empty() && self.session.disk.ill_until.is_none() && self.session.is_open()
    }

    /// Answers the last hello: keep everything.
    pub(super) fn welcome(&mut self) {
        let Some(connection) = self.stream else { return };
        self.down(vec![Down::Welcome(wire::Welcome {
            generation: GENERATION,
            connection: connection.0,
            beat_interval: Some(prost_types::Duration { seconds: 5, nanos: 0 }),
            beat_jitter_permille: 200,
            kill_after: Some(prost_types::Duration { seconds: 25, nanos: 0 }),
            cluster_id: self.cluster.to_owned(),
            ..wire::Welcome::default()
        })]);
    }

    /// Connects, whatever it takes.
    pub(super) fn connect(&mut self) {
        for _ in 0..40 {
            if self.session.is_open() && self.stream.is_some() {
                return;
            }
            self.pass(1_000);
            self.dial();
            self.welcome();
        }
        panic!("does not connect: {:?}", self.session.link);
    }

    pub(super) fn cut(&mut self) {
        if let Some(connection) = self.stream.take() {
            self.input(Input::StreamEnded(connection, LinkEnd::Broken));
        }
    }

    /// A frame of the current leader.
    pub(super) fn down(&mut self, messages: Vec<Down>) {
        self.down_from(self.leader, messages);
    }

    pub(super) fn down_from(&mut self, leader: Leader, messages: Vec<Down>) {
        let Some(connection) = self.stream else { return };
        let messages = messages.into_iter().map(|kind| ControlMessage { kind: Some(kind) }).collect();
        self.input(Input::Frame(connection, SessionResponse { leader: Some(leader.to_wire()), messages }));
    }

    /// Its program says it runs.
    pub(super) fn begin(&mut self, key: AttemptKey) {
        if let Some(agent) = self.running.get(&key).cloned() {
            let started_ms = self.now.wall_ms;
            self.input(Input::Runtime(RuntimeEvent::Started { agent, key, started_ms }));
        }
    }

    /// Its program ends.
    pub(super) fn end(&mut self, key: AttemptKey, outcome: Outcome) {
        if let Some(agent) = self.running.remove(&key) {
            let at = self.now.wall_ms;
            let end = AttemptEnd { outcome, ..AttemptEnd::failed(wire::FailureReason::Unspecified, "", false, at, at) };
            self.input(Input::Runtime(RuntimeEvent::Ended { agent, key, end }));
        }
    }

    /// It is neither running nor finished.
    pub(super) fn lose(&mut self, key: AttemptKey) {
        if let Some(agent) = self.running.remove(&key) {
            self.input(Input::Runtime(RuntimeEvent::Lost { agent, key }));
        }
    }

    /// Takes what was sent so far.
    pub(super) fn told(&mut self) -> Vec<Up> {
        std::mem::take(&mut self.sent)
    }
}

fn settings() -> Settings {
    let spec = v1::AgentSpec { slots: SLOTS, ..v1::AgentSpec::default() };
    Settings {
        namespace: "default".into(),
        sidecar_id: "s".into(),
        version: "test".into(),
        agents: [("a".to_owned(), spec.clone()), ("b".to_owned(), spec)].into(),
    }
}

pub(super) fn key(wire: &Option<wire::AttemptRef>) -> AttemptKey {
    AttemptKey::try_from(wire.as_ref().expect("a reference")).expect("a key")
}

pub(super) fn attempt(task: u8, attempt: u32) -> AttemptKey {
    AttemptKey { task: [task; 16], attempt }
}

/// The revision at which the tests' control plane commits the assignment of an attempt.
pub(super) fn committed(key: AttemptKey) -> u64 {
    u64::from(key.task[0]) * 10 + u64::from(key.attempt)
}

pub(super) fn revision(seq: u64) -> v1::Revision {
    v1::Revision { cluster_generation: 1, seq }
}

pub(super) fn assign(number: u64, key: AttemptKey, agent: &str, policy: v1::DisconnectPolicy) -> Down {
    Down::Assign(wire::Assign {
        number,
        attempt: Some(key.into()),
        agent_id: agent.into(),
        disconnect_policy: policy.into(),
        revision: Some(revision(committed(key))),
        generation: GENERATION,
        inputs_asked: 3,
        ..wire::Assign::default()
    })
}

pub(super) fn release(key: AttemptKey, kind: wire::ReleaseKind, seq: u64) -> Down {
    let release = wire::Release { kind: kind.into(), revision: Some(revision(seq)) };
    Down::ResultAck(wire::ResultAck { attempt: Some(key.into()), release: Some(release) })
}
