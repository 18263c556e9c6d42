//! What runtimes observe, and what they are asked for.

use std::time::Duration;

use hive_proto::sidecar_v1::Drain;
use hive_proto::v1::DesiredState;

use super::Session;
use super::attempt::{Phase, Question, Stop, StopCause};
use super::journal::Then;
use super::record::Entry;
use super::report::PROGRESS_MS;
use super::types::Output;
use crate::attempt::{AttemptEnd, AttemptKey};
use crate::mutant::{self, Mutant};
use crate::runtime::{RuntimeCommand, RuntimeEvent};

impl Session {
    pub(super) fn runtime(&mut self, event: RuntimeEvent, out: &mut Vec<Output>) {
        match event {
            RuntimeEvent::Agent { agent, ready, message } => {
                if let Some(known) = self.agents.get_mut(&agent) {
                    known.ready = ready;
                    tracing::info!(agent, ready, detail = message, "an agent changed");
                }
            }
            RuntimeEvent::Started { key, started_ms, .. } => self.started(key, started_ms, out),
            RuntimeEvent::Progress { key, fraction, message } => {
                if let Some(attempt) = self.attempts.get_mut(&key).filter(|a| a.end().is_none()) {
                    attempt.progress = Some((fraction, message));
                    self.progress_due.get_or_insert(self.now.mono_ms + PROGRESS_MS);
                }
            }
            RuntimeEvent::InputRequired { key, local_number, prompt } => {
                if let Some(attempt) = self.attempts.get_mut(&key).filter(|a| a.end().is_none()) {
                    let number = attempt.assigned.inputs_asked.saturating_add(local_number);
                    attempt.question = Some(Question { number, prompt, told: false });
                    self.pass_answer(key, out);
                }
            }
            RuntimeEvent::Ended { key, end, .. } => self.end_observed(key, end, out),
            RuntimeEvent::Lost { key, .. } => {
                if self.attempts.get(&key).is_some_and(|a| a.end().is_none()) {
                    self.lose(key, out);
                }
            }
        }
    }

    fn started(&mut self, key: AttemptKey, started_ms: u64, out: &mut Vec<Output>) {
        let Some(attempt) = self.attempts.get_mut(&key) else { return };
        let adopted = matches!(attempt.phase, Phase::Adopting);
        if !adopted && !matches!(attempt.phase, Phase::Starting) {
            return;
        }
        attempt.phase = Phase::Running { started_ms };
        attempt.tell_started = true;
        // Asked for while nobody knew whether it runs.
        if let Some(stop) = attempt.stop.filter(|_| adopted) {
            let command = RuntimeCommand::Cancel { key, grace: stop.grace };
            out.push(Output::Runtime { agent: attempt.assigned.agent.clone(), command });
        }
    }

    /// The first end counts; it is journaled before it is told.
    pub(super) fn end_observed(&mut self, key: AttemptKey, end: AttemptEnd, out: &mut Vec<Output>) {
        let Some(attempt) = self.attempts.get_mut(&key).filter(|a| a.end().is_none()) else { return };
        let end = attempt.explain(end);
        attempt.phase = Phase::Ending(end.clone());
        (attempt.question, attempt.progress, attempt.answer) = (None, None, None);
        if attempt.released {
            self.forget(key, out);
        } else {
            if mutant::is(Mutant::ResultUnjournaled) {
                attempt.phase = Phase::Finished { end: end.clone(), due_ms: self.now.mono_ms, wait_ms: 0 };
            }
            self.append(vec![Entry::Ended { key, end }], vec![Then::Finish(key)], out);
        }
    }

    /// Asks for its end: once, and again only if it must be quicker.
    pub(super) fn stop_attempt(&mut self, key: AttemptKey, cause: StopCause, grace: Duration, out: &mut Vec<Output>) {
        let Some(attempt) = self.attempts.get_mut(&key).filter(|a| a.end().is_none()) else { return };
        if attempt.stop.is_some_and(|stop| stop.grace <= grace) {
            return;
        }
        let first = attempt.stop.map_or(cause, |stop| stop.cause);
        attempt.stop = Some(Stop { cause: first, grace });
        if matches!(attempt.phase, Phase::Starting | Phase::Running { .. }) {
            let command = RuntimeCommand::Cancel { key, grace };
            out.push(Output::Runtime { agent: attempt.assigned.agent.clone(), command });
        }
    }

    pub(super) fn drain(&mut self, drain: Drain, out: &mut Vec<Output>) {
        let state = drain.desired_state();
        let known = self.agents.get(&drain.agent_id).map(|agent| agent.desired);
        match known {
            None => self.nonsense("a drain of an unknown agent"),
            Some(_) if state == DesiredState::Unspecified => self.nonsense("a drain without a level"),
            Some(known) if known == state => {}
            Some(_) => {
                let agent = drain.agent_id.clone();
                self.append(vec![Entry::Desired { agent, state }], Vec::new(), out);
                self.desire(&drain.agent_id, state, out);
            }
        }
    }

    /// Sets the level and tells the runtime.
    pub(super) fn desire(&mut self, id: &str, state: DesiredState, out: &mut Vec<Output>) {
        let Some(agent) = self.agents.get_mut(id) else { return };
        agent.desired = state;
        let command = match state {
            DesiredState::Drained => RuntimeCommand::Drain { remove: false },
            DesiredState::Removed => RuntimeCommand::Drain { remove: true },
            DesiredState::Active | DesiredState::Unspecified => RuntimeCommand::Activate,
        };
        tracing::info!(agent = id, ?state, "an agent's level was set");
        out.push(Output::Runtime { agent: id.to_owned(), command });
    }
}
