//! Sequences of inputs into the sidecar's session: a control plane that keeps no rule, runtimes, links and
//! a journal that fails, crashes. No attempt starts twice, none before its intent is written; an end
//! that is written stays until it is settled; nothing is sent but on the link that stands.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use hive_proto::sidecar_v1::{self as pb, control_message::Kind};
use hive_proto::v1;
use hive_sidecar::attempt::{AttemptEnd, AttemptKey};
use hive_sidecar::config::{AgentConfig, RuntimeKind, SidecarConfig};
use hive_sidecar::runtime::{RuntimeCommand, RuntimeEvent};
use hive_sidecar::session::record::{Entry, Recovered};
use hive_sidecar::session::{Connection, Input, JournalSeq, LinkEnd, Now, Output, Session, Settings};
use prost::Message as _;

use super::source::Source;

const AGENTS: [&str; 2] = ["a", "b"];
const STEPS: usize = 400;

struct Game<'a> {
    source: Source<'a>,
    session: Session,
    now: Now,
    random: u64,
    journal: Recovered,
    /// Appends not answered yet.
    waiting: VecDeque<(JournalSeq, Vec<Entry>)>,
    dialled: Option<Connection>,
    link: Option<Connection>,
    /// Over all lives.
    started: BTreeSet<AttemptKey>,
    /// Of this machine's programs.
    running: BTreeMap<AttemptKey, String>,
    over: bool,
}

fn session() -> Session {
    let agent = |id: &str| AgentConfig { slots: 2, ..AgentConfig::new(id, RuntimeKind::Command, &["x"], &["true"]) };
    Session::new(Settings::new(&SidecarConfig {
        namespace: "default".into(),
        id: "s".into(),
        server: "http://127.0.0.1:1".into(),
        state_dir: "state".into(),
        socket_dir: "sockets".into(),
        stop_on_stdin_eof: false,
        tls: None,
        agents: AGENTS.iter().map(|id| agent(id)).collect(),
    }))
}

pub fn run(data: &[u8]) {
    let mut game = Game {
        source: Source::new(data),
        session: session(),
        now: Now { mono_ms: 1_000, wall_ms: 1_800_000_000_000 },
        random: 7,
        journal: Recovered::default(),
        waiting: VecDeque::new(),
        dialled: None,
        link: None,
        started: BTreeSet::new(),
        running: BTreeMap::new(),
        over: false,
    };
    game.boot();
    for _ in 0..STEPS {
        if game.source.is_dry() || game.over {
            return;
        }
        game.step();
    }
}

impl Game<'_> {
    fn boot(&mut self) {
        let recovered = Box::new(self.journal.clone());
        let adopt: Vec<_> = AGENTS.iter().flat_map(|id| recovered.adopt(id)).collect();
        self.input(Input::Start { recovered, host_boot: [3; 16] });
        for key in adopt {
            let agent = self.running.get(&key).cloned();
            let event = match agent {
                Some(agent) => RuntimeEvent::Started { agent, key, started_ms: 5 },
                None => RuntimeEvent::Lost { agent: AGENTS[0].into(), key },
            };
            self.input(Input::Runtime(event));
        }
        for agent in AGENTS {
            self.input(Input::Runtime(RuntimeEvent::Agent {
                agent: agent.into(),
                ready: true,
                message: String::new(),
            }));
        }
    }

    fn input(&mut self, input: Input) {
        let mut out = Vec::new();
        let random = &mut self.random;
        let mut rng = || {
            *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *random
        };
        if std::env::var("DBG").is_ok() {
            eprintln!("IN {input:?}");
        }
        self.session.step(self.now, input, &mut rng, &mut out);
        if std::env::var("DBG").is_ok() {
            for o in &out {
                eprintln!("  OUT {o:?}");
            }
        }
        for output in out {
            self.perform(output);
        }
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::Journal(seq, entries) => self.waiting.push_back((seq, entries)),
            Output::Dial(connection) => {
                assert!(self.dialled.is_none() && self.link.is_none(), "two links at a time");
                assert!(self.journal.connection >= connection, "dialled before its number was written");
                self.dialled = Some(connection);
            }
            Output::Send(connection, request) => {
                assert_eq!(self.link, Some(connection), "sent where no link stands");
                // Whatever is sent, the other side can read.
                let bytes = request.encode_to_vec();
                assert!(pb::SessionRequest::decode(bytes.as_slice()).is_ok());
            }
            Output::CloseStream(connection) => {
                self.link.take_if(|link| *link == connection);
                self.dialled.take_if(|link| *link == connection);
            }
            Output::Runtime { agent, command } => {
                assert!(AGENTS.contains(&agent.as_str()), "for an agent that is not here");
                if let RuntimeCommand::Start(start) = command {
                    let key = start.key;
                    assert!(self.journal.attempts.contains_key(&key), "{key} starts before its intent is written");
                    assert!(self.started.insert(key), "{key} starts twice");
                    self.running.insert(key, agent);
                    let busy = |agent: &str| self.running.values().filter(|other| *other == agent).count();
                    // Two slots; what a crash left behind counts as well.
                    assert!(AGENTS.iter().all(|agent| busy(agent) <= 2), "more work than slots: {:?}", self.running);
                }
            }
            Output::TailLogs(_) => {}
            Output::Exit(_) => self.over = true,
        }
    }

    fn key(&mut self) -> AttemptKey {
        AttemptKey { task: [1 + self.source.below(5) as u8; 16], attempt: 1 + self.source.below(3) as u32 }
    }

    fn step(&mut self) {
        match self.source.below(16) {
            0..=2 => self.answer(true),
            3 => {
                let refused = self.source.chance(80);
                self.answer(!refused);
            }
            4 => {
                let Some(connection) = self.dialled.take() else { return };
                if self.source.chance(200) {
                    self.link = Some(connection);
                    self.input(Input::Dialed(connection));
                } else {
                    self.input(Input::DialFailed(connection, LinkEnd::Broken));
                }
            }
            5 => {
                let Some(connection) = self.link.take() else { return };
                let end = if self.source.chance(40) { LinkEnd::Occupied } else { LinkEnd::Broken };
                self.input(Input::StreamEnded(connection, end));
            }
            6..=9 => self.hear(),
            10 | 11 => {
                let passed = self.source.number().min(100_000) * 40;
                self.now = Now { mono_ms: self.now.mono_ms + passed, wall_ms: self.now.wall_ms + passed };
                self.input(Input::Tick);
            }
            12 | 13 => self.end(),
            14 => {
                if self.source.chance(40) {
                    self.input(Input::Shutdown);
                } else {
                    let key = self.key();
                    self.input(Input::Runtime(RuntimeEvent::Progress { key, fraction: None, message: String::new() }));
                }
            }
            _ => self.crash(),
        }
    }

    /// The journal answers its oldest append.
    fn answer(&mut self, written: bool) {
        let Some((seq, entries)) = self.waiting.pop_front() else { return };
        if written {
            for entry in entries {
                if let Entry::Settled { key, .. } = &entry {
                    self.running.remove(key);
                }
                self.journal.apply(entry);
            }
            self.input(Input::Journaled(seq));
        } else {
            self.input(Input::JournalFailed(seq));
        }
    }

    /// What was not answered may have been written or not, in order.
    fn crash(&mut self) {
        let written = self.source.below(self.waiting.len() + 1);
        for (_, entries) in std::mem::take(&mut self.waiting).into_iter().take(written) {
            entries.into_iter().for_each(|entry| self.journal.apply(entry));
        }
        (self.dialled, self.link) = (None, None);
        self.session = session();
        self.boot();
    }

    /// A program ends.
    fn end(&mut self) {
        let keys: Vec<_> = self.running.keys().copied().collect();
        if keys.is_empty() {
            return;
        }
        let key = *self.source.pick(&keys);
        let Some(agent) = self.running.remove(&key) else { return };
        let failed = AttemptEnd::failed(pb::FailureReason::ExitCode, "", true, 1, 2);
        let end = if self.source.chance(200) {
            let payload = Some(v1::Payload { data: Bytes::from_static(b"done"), content_type: String::new() });
            AttemptEnd { outcome: pb::Outcome::Succeeded, payload, ..failed }
        } else {
            failed
        };
        self.input(Input::Runtime(RuntimeEvent::Ended { agent, key, end }));
    }

    /// A frame of a control plane that keeps no rule.
    fn hear(&mut self) {
        let Some(connection) = self.link else { return };
        let messages = (0..=self.source.below(3)).map(|_| pb::ControlMessage { kind: Some(self.message()) }).collect();
        let leader = pb::LeaderEpoch { cluster_generation: 1, number: 1 + self.source.below(3) as u64 };
        self.input(Input::Frame(connection, pb::SessionResponse { leader: Some(leader), messages }));
    }

    fn revision(&mut self) -> Option<v1::Revision> {
        Some(v1::Revision { cluster_generation: 1, seq: self.source.number() })
    }

    fn attempt(&mut self) -> Option<pb::AttemptRef> {
        Some(self.key().into())
    }

    fn release(&mut self) -> Option<pb::Release> {
        Some(pb::Release { kind: self.source.below(4) as i32, revision: self.revision() })
    }

    fn span(&mut self) -> Option<prost_types::Duration> {
        let seconds = self.source.number();
        Some(prost_types::Duration { seconds: i64::try_from(seconds).unwrap_or(i64::MAX), nanos: 0 })
    }

    fn message(&mut self) -> Kind {
        match self.source.below(14) {
            0 | 1 => {
                let verdicts = (0..self.source.below(3))
                    .map(|_| pb::AttemptVerdict {
                        attempt: self.attempt(),
                        verdict: self.source.below(3) as i32,
                        release: self.release(),
                    })
                    .collect();
                Kind::Welcome(pb::Welcome {
                    generation: self.source.number(),
                    connection: self.link.map_or(0, |link| link.0),
                    beat_interval: self.span(),
                    beat_jitter_permille: self.source.number() as u32,
                    kill_after: self.span(),
                    verdicts,
                    ..Default::default()
                })
            }
            2..=5 => Kind::Assign(pb::Assign {
                number: self.source.number(),
                attempt: self.attempt(),
                agent_id: (*self.source.pick(&["a", "b", "c"])).into(),
                capabilities: vec!["x".into()],
                attempt_timeout: self.span(),
                cancel_grace: self.span(),
                disconnect_policy: self.source.below(4) as i32,
                revision: self.revision(),
                generation: self.source.number(),
                ..Default::default()
            }),
            6 | 7 => Kind::ResultAck(pb::ResultAck { attempt: self.attempt(), release: self.release() }),
            8 => Kind::Cancel(pb::Cancel {
                attempt: self.attempt(),
                reason: self.source.below(5) as i32,
                grace: self.span(),
            }),
            9 => Kind::Input(pb::Input { attempt: self.attempt(), number: self.source.below(3) as u32, input: None }),
            10 => Kind::Drain(pb::Drain {
                agent_id: (*self.source.pick(&["a", "b", "c"])).into(),
                desired_state: self.source.below(5) as i32,
            }),
            11 => Kind::HeartbeatAck(pb::HeartbeatAck { beat: self.source.number(), beat_interval: self.span() }),
            12 => match self.source.below(3) {
                0 => Kind::Resync(pb::Resync {}),
                1 => Kind::Goaway(pb::Goaway { reason: String::new(), retry_after: self.span() }),
                _ => Kind::TailLogs(pb::TailLogs::default()),
            },
            _ => {
                let chunk = self.source.chunk();
                pb::ControlMessage::decode(chunk).ok().and_then(|m| m.kind).unwrap_or(Kind::Resync(pb::Resync {}))
            }
        }
    }
}
