//! The attempts of one long-lived agent: what each waits for, and how each ends.
//!
//! An attempt is handed to the agent once. What the agent, on reconnecting, no longer knows has ended.

use std::collections::BTreeMap;
use std::time::Duration;

use hive_proto::agent_v1::{self, session_response::Kind};
use hive_proto::sidecar_v1::{FailureReason, Outcome};
use hive_proto::v1;

use super::later;
use super::running::{Running, Timer, Why};
use crate::attempt::{AttemptEnd, AttemptKey, MESSAGE_LIMIT, RESULT_LIMIT, StartAttempt, cut};
use crate::clock;
use crate::config::AgentConfig;
use crate::local::Link;
use crate::runtime::RuntimeEvent;
use crate::runtime::ledger::Ledger;
use crate::runtime::outbox::Outbox;

/// Grace where nobody named one.
const GRACE: Duration = Duration::from_secs(10);

/// Times are boot-time milliseconds unless they say otherwise.
enum Phase {
    /// Of a former sidecar; the agent's hello decides.
    Adopted { cancel: Option<Duration> },
    /// The agent is not ready for it yet.
    Waiting { start: StartAttempt, until: u64 },
    /// Handed over.
    Running(Running),
    /// The agent reported its end; it hears of it once that is journaled.
    Reported,
}

pub(super) struct Attempts {
    agent: String,
    slots: usize,
    start_timeout: Duration,
    held: BTreeMap<AttemptKey, Phase>,
    ledger: Ledger,
    /// For whose sake the process is being killed.
    culprit: Option<AttemptKey>,
}

impl Attempts {
    pub(super) fn new(agent: &AgentConfig, ledger: Ledger, adopt: &[AttemptKey]) -> Self {
        Self {
            agent: agent.id.clone(),
            slots: usize::try_from(agent.slots).unwrap_or(usize::MAX),
            start_timeout: agent.start_timeout,
            held: adopt.iter().map(|&key| (key, Phase::Adopted { cancel: None })).collect(),
            ledger,
            culprit: None,
        }
    }

    /// Ends a round.
    pub(super) fn settle(&mut self) {
        self.ledger.settle();
    }

    pub(super) fn has_unanswered(&self) -> bool {
        self.held.values().any(|phase| matches!(phase, Phase::Adopted { .. }))
    }

    /// Nothing of the agent's runs or is about to.
    pub(super) fn is_idle(&self) -> bool {
        self.held.values().all(|phase| matches!(phase, Phase::Reported))
    }

    pub(super) fn start(&mut self, start: StartAttempt, stopping: bool, out: &mut Outbox) {
        let key = start.key;
        if self.held.contains_key(&key) {
            tracing::warn!(attempt = %key, "asked to start an attempt that is here");
            return;
        }
        let busy = self.held.values().filter(|phase| !matches!(phase, Phase::Reported)).count();
        if stopping || busy >= self.slots {
            // The session gives no more than there is room for; this is the net below it.
            let why = if stopping { "the sidecar is stopping" } else { "no free slot" };
            let now = clock::wall_ms();
            self.push_end(key, AttemptEnd::failed(FailureReason::StartFailed, why, true, now, now), out);
            return;
        }
        let until = later(clock::boot_ms(), self.start_timeout);
        self.held.insert(key, Phase::Waiting { start, until });
    }

    /// Hands over what waits.
    pub(super) fn deliver(&mut self, link: &Link, out: &mut Outbox) {
        for (&key, phase) in &mut self.held {
            let Phase::Waiting { start, .. } = phase else { continue };
            let assign = agent_v1::Assign {
                token: key.to_string(),
                task_id: key.task_id(),
                attempt: key.attempt,
                capabilities: start.capabilities.clone(),
                payload: Some(start.payload.clone()),
                attempt_timeout: prost_types::Duration::try_from(start.timeout).ok(),
            };
            if !link.send(Kind::Assign(assign)) {
                return;
            }
            let started_ms = clock::wall_ms();
            let timeout_ms = u64::try_from(start.timeout.as_millis()).unwrap_or(u64::MAX);
            self.ledger.started(key, started_ms, timeout_ms);
            let timer = Timer::Runs { until: later(clock::boot_ms(), start.timeout) };
            *phase = Phase::Running(Running::new(started_ms, timer, start.grace));
            out.push(RuntimeEvent::Started { agent: self.agent.clone(), key, started_ms });
        }
    }

    pub(super) fn cancel(&mut self, key: AttemptKey, grace: Duration, link: Option<&Link>, out: &mut Outbox) {
        match self.held.get_mut(&key) {
            Some(Phase::Adopted { cancel }) => *cancel = Some(grace),
            Some(Phase::Running(running)) => running.stop(key, Why::Cancelled, grace, link),
            Some(Phase::Waiting { .. }) => {
                let now = clock::wall_ms();
                let end = AttemptEnd::failed(FailureReason::Unspecified, "", false, now, now);
                self.held.remove(&key);
                self.push_end(key, AttemptEnd { outcome: Outcome::Cancelled, ..end }, out);
            }
            // Its end is on its way.
            Some(Phase::Reported) | None => {}
        }
    }

    pub(super) fn input(&mut self, key: AttemptKey, number: u32, input: v1::Payload, link: Option<&Link>) {
        let Some(Phase::Running(running)) = self.held.get_mut(&key) else { return };
        let Timer::Stands { left } = running.timer else { return };
        // A second copy, or an answer to what was never asked.
        if number != running.asked {
            return;
        }
        running.timer = Timer::Runs { until: clock::boot_ms().saturating_add(left) };
        running.answer = Some((number, input));
        running.tell_answer(key, link);
    }

    pub(super) fn journaled(&mut self, key: AttemptKey, link: Option<&Link>) {
        if matches!(self.held.get(&key), Some(Phase::Reported)) {
            self.held.remove(&key);
            if let Some(link) = link {
                link.send(Kind::ResultAck(agent_v1::ResultAck { token: key.to_string() }));
            }
        }
    }

    /// What the agent runs though nobody wants it.
    pub(super) fn stale(&self, hello: &agent_v1::Hello) -> Vec<String> {
        let wanted = |token: &str| {
            AttemptKey::parse(token)
                .is_ok_and(|key| matches!(self.held.get(&key), Some(Phase::Adopted { .. } | Phase::Running(_))))
        };
        hello.running.iter().filter(|token| !wanted(token)).cloned().collect()
    }

    /// Compares what is held with what the agent says it has.
    pub(super) fn reconcile(&mut self, hello: &agent_v1::Hello, link: &Link, out: &mut Outbox) {
        let parse = |tokens: &[String]| tokens.iter().filter_map(|token| AttemptKey::parse(token).ok()).collect();
        let running: std::collections::BTreeSet<AttemptKey> = parse(&hello.running);
        let finished: std::collections::BTreeSet<AttemptKey> = parse(&hello.finished);
        let keys: Vec<_> = self.held.keys().copied().collect();
        for key in keys {
            let known = running.contains(&key) || finished.contains(&key);
            match self.held.get_mut(&key) {
                Some(phase @ Phase::Adopted { .. }) if known => {
                    let Phase::Adopted { cancel } = *phase else { continue };
                    let now = clock::wall_ms();
                    let (started_ms, timeout_ms) =
                        self.ledger.get(key).map_or((now, u64::MAX), |span| (span.started_ms, span.timeout_ms));
                    // Time spent on questions is not known any more; never less than one grace.
                    let left = timeout_ms.saturating_sub(now.saturating_sub(started_ms)).max(10_000);
                    let timer = Timer::Runs { until: clock::boot_ms().saturating_add(left) };
                    let mut adopted = Running::new(started_ms, timer, GRACE);
                    if let Some(grace) = cancel {
                        adopted.stop(key, Why::Cancelled, grace, Some(link));
                    }
                    *phase = Phase::Running(adopted);
                    out.push(RuntimeEvent::Started { agent: self.agent.clone(), key, started_ms });
                }
                Some(Phase::Adopted { .. }) => self.lose(key, out),
                Some(Phase::Running(attempt)) if known => {
                    attempt.tell_answer(key, Some(link));
                    attempt.tell_stop(key, Some(link));
                }
                Some(Phase::Running(_)) => self.end_unheard(key, "the agent no longer knows of it", out),
                Some(Phase::Waiting { .. } | Phase::Reported) | None => {}
            }
        }
    }

    pub(super) fn progress(&self, progress: agent_v1::Progress, out: &mut Outbox) {
        let key = AttemptKey::parse(&progress.token).ok();
        let Some(key) = key.filter(|key| matches!(self.held.get(key), Some(Phase::Running(_)))) else { return };
        out.push_soft(RuntimeEvent::Progress {
            key,
            fraction: progress.fraction.filter(|share| (0.0..=1.0).contains(share)),
            message: cut(&progress.message, MESSAGE_LIMIT).to_owned(),
        });
    }

    pub(super) fn asked(&mut self, asked: agent_v1::InputRequired, link: &Link, out: &mut Outbox) {
        let key = AttemptKey::parse(&asked.token).ok();
        let Some((key, Phase::Running(running))) = key.and_then(|key| Some((key, self.held.get_mut(&key)?))) else {
            tracing::warn!(agent = self.agent, "an agent asks for an attempt it does not have");
            return;
        };
        // Said again after a reconnect, or too late.
        if asked.number <= running.asked || running.stopping.is_some() {
            return;
        }
        let prompt = asked.prompt.unwrap_or_default();
        if prompt.data.len() > RESULT_LIMIT {
            return running.stop(key, Why::Broken("its question has more than 256 KiB"), running.grace, Some(link));
        }
        let Timer::Runs { until } = running.timer else {
            return running.stop(key, Why::Broken("it asked while a question was open"), running.grace, Some(link));
        };
        running.timer = Timer::Stands { left: until.saturating_sub(clock::boot_ms()) };
        running.asked = asked.number;
        running.answer = None;
        out.push(RuntimeEvent::InputRequired { key, local_number: asked.number, prompt });
    }

    pub(super) fn result(&mut self, result: agent_v1::Result, link: &Link, out: &mut Outbox) {
        let key = AttemptKey::parse(&result.token).ok();
        match key.and_then(|key| Some((key, self.held.get(&key)?))) {
            Some((key, Phase::Running(running))) => {
                let end = running.end(result);
                self.held.insert(key, Phase::Reported);
                self.ledger.ended(key);
                self.push_end(key, end, out);
            }
            // Said twice; it hears once the first is journaled.
            Some((_, Phase::Reported)) => {}
            Some((key, Phase::Waiting { .. } | Phase::Adopted { .. })) => {
                tracing::warn!(attempt = %key, "an agent reports the end of what it was not given");
            }
            // Journaled or given up before: the agent may forget it.
            None => {
                link.send(Kind::ResultAck(agent_v1::ResultAck { token: result.token }));
            }
        }
    }

    /// What is due. Returns whether the process must be killed, because an attempt does not end.
    pub(super) fn tick(&mut self, now: u64, link: Option<&Link>, out: &mut Outbox) -> bool {
        let mut kill = false;
        let mut overdue = Vec::new();
        for (&key, phase) in &mut self.held {
            match phase {
                Phase::Waiting { until, .. } if now >= *until => overdue.push(key),
                Phase::Running(running) => match (&mut running.stopping, &running.timer) {
                    (Some(stopping), _) if stopping.kill_at.is_some_and(|at| now >= at) => {
                        tracing::warn!(attempt = %key, "an attempt does not end and its agent is killed");
                        stopping.kill_at = None;
                        self.culprit = Some(key);
                        kill = true;
                    }
                    (None, Timer::Runs { until }) if now >= *until => {
                        running.stop(key, Why::TimedOut, running.grace, link);
                    }
                    _ => {}
                },
                _ => {}
            }
        }
        for key in overdue {
            self.held.remove(&key);
            let now = clock::wall_ms();
            let why = "the agent was not ready for it in time";
            self.push_end(key, AttemptEnd::failed(FailureReason::StartFailed, why, true, now, now), out);
        }
        kill
    }

    pub(super) fn next_wake(&self) -> Option<u64> {
        let due = |phase: &Phase| match phase {
            Phase::Waiting { until, .. } => Some(*until),
            Phase::Running(Running { stopping: Some(stopping), .. }) => stopping.kill_at,
            Phase::Running(Running { timer: Timer::Runs { until }, .. }) => Some(*until),
            Phase::Running(_) | Phase::Adopted { .. } | Phase::Reported => None,
        };
        self.held.values().filter_map(due).min()
    }

    /// The agent's process is gone, and all it had sent was heard.
    pub(super) fn process_ended(&mut self, why: &str, out: &mut Outbox) {
        let why = match self.culprit.take() {
            Some(culprit) => format!("the agent's process was killed because {culprit} did not end"),
            None => format!("the agent's process {why}"),
        };
        let keys: Vec<_> = self.held.keys().copied().collect();
        for key in keys {
            match self.held.get(&key) {
                Some(Phase::Running(_)) => self.end_unheard(key, &why, out),
                Some(Phase::Adopted { .. }) => self.lose(key, out),
                Some(Phase::Reported) => {
                    self.held.remove(&key);
                }
                Some(Phase::Waiting { .. }) | None => {}
            }
        }
    }

    /// There is no process that could know of adopted attempts.
    pub(super) fn lose_adopted(&mut self, out: &mut Outbox) {
        let keys: Vec<_> = self.held.keys().copied().collect();
        for key in keys {
            self.lose(key, out);
        }
    }

    /// What still waits never starts here.
    pub(super) fn end_all(&mut self, why: &str, out: &mut Outbox) {
        let keys: Vec<_> = self.held.keys().copied().collect();
        for key in keys {
            if let Some(Phase::Waiting { .. }) = self.held.get(&key) {
                self.held.remove(&key);
                let now = clock::wall_ms();
                self.push_end(key, AttemptEnd::failed(FailureReason::AgentLost, why, true, now, now), out);
            }
        }
    }

    fn lose(&mut self, key: AttemptKey, out: &mut Outbox) {
        self.held.remove(&key);
        self.ledger.ended(key);
        out.push(RuntimeEvent::Lost { agent: self.agent.clone(), key });
    }

    /// It ended without a result.
    fn end_unheard(&mut self, key: AttemptKey, why: &str, out: &mut Outbox) {
        let Some(Phase::Running(running)) = self.held.remove(&key) else { return };
        self.ledger.ended(key);
        let end = running.stopped(FailureReason::AgentLost, why, true);
        self.push_end(key, end, out);
    }

    fn push_end(&self, key: AttemptKey, end: AttemptEnd, out: &mut Outbox) {
        out.push(RuntimeEvent::Ended { agent: self.agent.clone(), key, end });
    }
}
