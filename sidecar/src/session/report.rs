//! One frame per step with all there is to tell.

use hive_proto::sidecar_v1::{
    Credit, Goodbye, Heartbeat, InputRequired, Progress, Receipt, SidecarMessage, Started, sidecar_message::Kind,
};

use super::attempt::Phase;
use super::journal::Then;
use super::link::Link;
use super::types::Output;
use super::{Rng, Session, wire};
use crate::attempt::{MESSAGE_LIMIT, cut};

/// Progress waits this long for more of it.
pub(super) const PROGRESS_MS: u64 = 250;

impl Session {
    /// Sends what is due, if the stream is open; `goodbye` ends it.
    pub(super) fn report(&mut self, rng: Rng<'_>, goodbye: Option<&str>, out: &mut Vec<Output>) {
        let Link::Open(connection) = self.link else { return };
        let mut messages = Vec::new();
        if std::mem::take(&mut self.assigns.receipt_owed) {
            messages.push(wire::message(Kind::Receipt(Receipt { assigns_seen: self.assigns.taken })));
        }
        for key in std::mem::take(&mut self.owed) {
            let settlement = self.settled.get(key);
            messages.extend(settlement.map(|settlement| wire::message(wire::settlement(key, settlement))));
        }
        self.due_news(&mut messages);
        self.due_results(&mut messages);
        self.due_credit(&mut messages);
        if self.beats.next <= self.now.mono_ms {
            let (running, finished) = self.inventory();
            messages.push(wire::message(Kind::Heartbeat(Heartbeat {
                beat: self.beats.beat(self.now.mono_ms, rng),
                assigns_seen: self.assigns.taken,
                agents: self.room(),
                running,
                finished,
            })));
        }
        messages.extend(goodbye.map(|reason| wire::message(Kind::Goodbye(Goodbye { reason: reason.to_owned() }))));
        if !messages.is_empty() {
            self.send(connection, messages, out);
        }
    }

    /// Starts, progress and questions.
    fn due_news(&mut self, messages: &mut Vec<SidecarMessage>) {
        let progress = self.progress_due.is_some_and(|at| at <= self.now.mono_ms);
        if progress {
            self.progress_due = None;
        }
        for (&key, attempt) in &mut self.attempts {
            if let Phase::Running { started_ms } = attempt.phase
                && std::mem::take(&mut attempt.tell_started)
            {
                let start_time = Some(wire::timestamp(started_ms));
                messages.push(wire::message(Kind::Started(Started { attempt: Some(key.into()), start_time })));
            }
            if let Some((fraction, text)) = attempt.progress.take_if(|_| progress) {
                let message = cut(&text, MESSAGE_LIMIT).to_owned();
                messages.push(wire::message(Kind::Progress(Progress { attempt: Some(key.into()), fraction, message })));
            }
            if let Some(question) = attempt.question.as_mut().filter(|q| !q.told) {
                question.told = true;
                messages.push(wire::message(Kind::InputRequired(InputRequired {
                    attempt: Some(key.into()),
                    number: question.number,
                    prompt: Some(question.prompt.clone()),
                })));
            }
        }
    }

    /// Room that changed since it was told.
    fn due_credit(&mut self, messages: &mut Vec<SidecarMessage>) {
        // An assignment on its way to the journal brings its own frame: its credit travels there.
        if self.pending.iter().any(|p| p.then.iter().any(|then| matches!(then, Then::Take(_)))) {
            return;
        }
        let mut agents = self.room();
        agents.retain(|credit| {
            let Some(agent) = self.agents.get_mut(&credit.agent_id) else { return false };
            let told = agent.told.replace((credit.free_slots, credit.ready));
            told != agent.told
        });
        if !agents.is_empty() {
            messages.push(wire::message(Kind::Credit(Credit { assigns_seen: self.assigns.taken, agents })));
        }
    }
}
