//! Agents and their programs: they take the session's commands, run for a while, and answer as a
//! runtime does. A program outlives the sidecar's process; how it ended is kept until it is forgotten.

use std::time::Duration;

use bytes::Bytes;
use hive_proto::{sidecar_v1 as pb, v1};
use hive_sidecar::attempt::{AttemptEnd, AttemptKey, StartAttempt};
use hive_sidecar::runtime::{RuntimeCommand, RuntimeEvent};

use crate::world::{Event, World};

/// An agent as its host knows it.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) id: String,
    pub(crate) slots: u32,
    pub(crate) up: bool,
}

impl Agent {
    pub(crate) fn new(id: String, slots: u32) -> Self {
        Self { id, slots, up: true }
    }
}

/// What a program does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Begin,
    Work,
    Finish,
    TimeOut,
    Killed,
}

/// A program under an attempt.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) agent: String,
    pub(crate) started_ms: u64,
    pub(crate) begun: bool,
    timeout: u64,
    /// Questions asked so far, and whether the last one waits.
    asked: u32,
    pub(crate) waiting: bool,
    /// Questions it will ask yet.
    to_ask: u32,
    /// How it ends if nobody ends it.
    fate: pb::Outcome,
    retryable: bool,
    stubborn: bool,
    stopping: bool,
    pub(crate) end: Option<AttemptEnd>,
}

/// How an attempt ends whose sidecar takes its agents along.
pub(crate) fn killed(_key: AttemptKey, started_ms: u64) -> AttemptEnd {
    AttemptEnd::failed(pb::FailureReason::AgentLost, "its agent was stopped", true, started_ms, started_ms + 1)
}

/// What an attempt gives back: nothing any other attempt would.
pub(crate) fn product(key: AttemptKey, large: u64) -> Bytes {
    let mut bytes = key.to_string().into_bytes();
    if u64::from(key.task[15]) * 4 < large {
        bytes.resize(1_500, b'.');
    }
    bytes.into()
}

impl World {
    pub(crate) fn command(&mut self, index: usize, agent: &str, command: RuntimeCommand) {
        match command {
            RuntimeCommand::Start(start) => self.start(index, agent, start),
            RuntimeCommand::Cancel { key, grace } => self.stop(index, key, grace),
            RuntimeCommand::Input { key, local_number, input } => self.input(index, key, local_number, &input),
            RuntimeCommand::Forget { key } => {
                self.sides[index].programs.remove(&key);
            }
            RuntimeCommand::ResultJournaled { .. }
            | RuntimeCommand::Drain { .. }
            | RuntimeCommand::Activate
            | RuntimeCommand::Shutdown { .. } => {}
        }
    }

    fn start(&mut self, index: usize, agent: &str, start: StartAttempt) {
        let key = start.key;
        self.say(|| format!("{agent} starts {key}"));
        self.check_start(&start);
        self.stats.started += 1;
        let Some(hosted) = self.sides[index].agents.iter().find(|a| a.id == agent) else {
            return self.fail(format!("{key} is started on {agent}, which is not here"));
        };
        let (slots, up) = (hosted.slots as usize, hosted.up);
        let running = self.sides[index].programs.values().filter(|p| p.agent == agent && p.end.is_none()).count();
        if running >= slots {
            return self.fail(format!("{agent} has {slots} slots and runs {running} when {key} is started"));
        }
        let options = &self.options;
        let rng = &mut self.rng;
        let failing = rng.chance(options.failing);
        let program = Program {
            agent: agent.to_owned(),
            started_ms: 0,
            begun: false,
            timeout: u64::try_from(start.timeout.as_millis()).unwrap_or(u64::MAX),
            asked: 0,
            waiting: false,
            to_ask: if rng.chance(options.asking) { rng.between(1, 2) as u32 } else { 0 },
            fate: if failing { pb::Outcome::Failed } else { pb::Outcome::Succeeded },
            retryable: rng.chance(700),
            stubborn: rng.chance(options.stubborn),
            stopping: false,
            end: None,
        };
        self.sides[index].programs.insert(key, program);
        if !up {
            let now = self.sidecar_wall(index);
            let end = AttemptEnd::failed(pb::FailureReason::AgentLost, "the agent is down", true, now, now);
            return self.ended(index, key, end);
        }
        let wait = self.rng.skewed(1, 300);
        self.at(self.now + wait, Event::Program(index, self.sides[index].boot, key, Step::Begin));
    }

    /// A step of a program; it needs no sidecar to go on.
    pub(crate) fn program(&mut self, index: usize, key: AttemptKey, step: Step) {
        let now = self.sidecar_wall(index);
        let boot = self.sides[index].boot;
        let longest = if self.healing { self.options.run.min(3_000) } else { self.options.run };
        let Some(program) = self.sides[index].programs.get_mut(&key).filter(|p| p.end.is_none()) else { return };
        let agent = program.agent.clone();
        match step {
            Step::Begin => {
                program.begun = true;
                program.started_ms = now;
                let timeout = program.timeout;
                self.runtime_event(index, RuntimeEvent::Started { agent, key, started_ms: now });
                let wait = self.rng.skewed(10, longest.max(20)) / 2;
                self.at(self.now + wait, Event::Program(index, boot, key, Step::Work));
                self.at(self.now + timeout, Event::Program(index, boot, key, Step::TimeOut));
            }
            Step::Work if program.to_ask > 0 => {
                program.to_ask -= 1;
                program.asked += 1;
                program.waiting = true;
                let local_number = program.asked;
                let prompt = v1::Payload { data: question(key, local_number), content_type: String::new() };
                self.runtime_event(index, RuntimeEvent::InputRequired { key, local_number, prompt });
            }
            Step::Work => {
                let message = String::from("half");
                self.runtime_event(index, RuntimeEvent::Progress { key, fraction: Some(0.5), message });
                let wait = self.rng.skewed(10, longest.max(20));
                self.at(self.now + wait, Event::Program(index, boot, key, Step::Finish));
            }
            Step::Finish => {
                let started = program.started_ms;
                let end = match program.fate {
                    pb::Outcome::Succeeded => AttemptEnd {
                        outcome: pb::Outcome::Succeeded,
                        payload: Some(v1::Payload {
                            data: product(key, self.options.large),
                            content_type: "text/plain".into(),
                        }),
                        ..AttemptEnd::failed(pb::FailureReason::Unspecified, "", false, started, now)
                    },
                    _ => {
                        let retryable = program.retryable;
                        AttemptEnd {
                            exit_code: Some(if retryable { 75 } else { 1 }),
                            ..AttemptEnd::failed(pb::FailureReason::ExitCode, "no", retryable, started, now)
                        }
                    }
                };
                self.ended(index, key, end);
            }
            // It stands still while it waits for an answer; the control plane has a deadline for that.
            Step::TimeOut if program.waiting => {}
            Step::TimeOut => {
                let started = program.started_ms;
                let end = AttemptEnd::failed(pb::FailureReason::Timeout, "too long", true, started, now);
                self.ended(index, key, end);
            }
            Step::Killed => {
                let end = AttemptEnd {
                    outcome: pb::Outcome::Cancelled,
                    ..AttemptEnd::failed(pb::FailureReason::Signal, "stopped", false, program.started_ms, now)
                };
                self.ended(index, key, end);
            }
        }
    }

    fn ended(&mut self, index: usize, key: AttemptKey, end: AttemptEnd) {
        let Some(program) = self.sides[index].programs.get_mut(&key) else { return };
        program.end = Some(end.clone());
        program.waiting = false;
        let agent = program.agent.clone();
        self.say(|| format!("{agent} ends {key}: {:?} {:?}", end.outcome, end.reason));
        // Without a sidecar it is only written down.
        self.runtime_event(index, RuntimeEvent::Ended { agent, key, end });
    }

    fn stop(&mut self, index: usize, key: AttemptKey, grace: Duration) {
        let healing = self.healing;
        let Some(program) = self.sides[index].programs.get_mut(&key) else { return };
        let first = !std::mem::replace(&mut program.stopping, true);
        let grace = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        let wait = if !program.stubborn {
            if !first {
                return;
            }
            self.rng.between(0, 500.min(grace))
        } else if healing {
            grace
        } else {
            // It ignores the wish, and now and then even the kernel takes its time.
            grace + if self.rng.chance(200) { self.rng.skewed(100, 20_000) } else { 0 }
        };
        self.at(self.now + wait, Event::Program(index, self.sides[index].boot, key, Step::Killed));
    }

    fn input(&mut self, index: usize, key: AttemptKey, local_number: u32, input: &v1::Payload) {
        self.check_answer(key, input);
        let boot = self.sides[index].boot;
        let Some(program) = self.sides[index].programs.get_mut(&key) else { return };
        if program.asked != local_number || !std::mem::replace(&mut program.waiting, false) {
            return;
        }
        let wait = self.rng.skewed(1, 500);
        self.at(self.now + wait, Event::Program(index, boot, key, Step::Work));
    }

    /// The runtimes of a new process look for what it should adopt.
    pub(crate) fn adopt(&mut self, index: usize, adopt: Vec<(String, Vec<AttemptKey>)>) {
        let wanted: Vec<AttemptKey> = adopt.iter().flat_map(|(_, keys)| keys.iter().copied()).collect();
        // What nobody asks for has been settled, or is a stray.
        self.sides[index].programs.retain(|key, _| wanted.contains(key));
        for (agent, keys) in adopt {
            for key in keys {
                let event = match self.sides[index].programs.get(&key) {
                    None => RuntimeEvent::Lost { agent: agent.clone(), key },
                    Some(Program { end: Some(end), .. }) => {
                        RuntimeEvent::Ended { agent: agent.clone(), key, end: end.clone() }
                    }
                    Some(program) if program.begun => {
                        RuntimeEvent::Started { agent: agent.clone(), key, started_ms: program.started_ms }
                    }
                    // Its start is still under way.
                    Some(_) => continue,
                };
                self.runtime_event(index, event);
                let waits = self.sides[index].programs.get(&key).filter(|p| p.waiting && p.end.is_none());
                if let Some(local_number) = waits.map(|p| p.asked) {
                    let prompt = v1::Payload { data: question(key, local_number), content_type: String::new() };
                    self.runtime_event(index, RuntimeEvent::InputRequired { key, local_number, prompt });
                }
            }
        }
        for nth in 0..self.sides[index].agents.len() {
            self.tell_ready(index, nth);
        }
    }

    pub(crate) fn tell_ready(&mut self, index: usize, nth: usize) {
        let Some(agent) = self.sides[index].agents.get(nth) else { return };
        let event = RuntimeEvent::Agent { agent: agent.id.clone(), ready: agent.up, message: String::new() };
        self.runtime_event(index, event);
    }

    /// An agent's process dies, or is there again.
    pub(crate) fn agent_up(&mut self, index: usize, nth: usize, up: bool) {
        let Some(agent) = self.sides[index].agents.get_mut(nth) else { return };
        if std::mem::replace(&mut agent.up, up) == up {
            return;
        }
        let id = self.sides[index].agents[nth].id.clone();
        self.say(|| format!("agent {id} is {}", if up { "up" } else { "DOWN" }));
        if !up {
            let side = &self.sides[index];
            let theirs: Vec<AttemptKey> =
                side.programs.iter().filter(|(_, p)| p.agent == id && p.end.is_none()).map(|(key, _)| *key).collect();
            let now = self.sidecar_wall(index);
            for key in theirs {
                let end = AttemptEnd::failed(pb::FailureReason::AgentLost, "the agent died", true, now, now);
                self.ended(index, key, end);
            }
        }
        self.tell_ready(index, nth);
    }
}

pub(crate) fn question(key: AttemptKey, number: u32) -> Bytes {
    format!("{key}?{number}").into_bytes().into()
}
