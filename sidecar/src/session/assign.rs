//! Taking work in: each assignment is started at most once, or answered for good.

use std::collections::BTreeSet;
use std::time::Duration;

use hive_proto::sidecar_v1::{Assign, Cancel, DeclineReason, Input};
use hive_proto::v1::{DesiredState, DisconnectPolicy};

use super::attempt::{Attempt, Phase, StopCause};
use super::journal::Then;
use super::record::{Assigned, Entry};
use super::settled::Settlement;
use super::types::{Leader, Output, Revision, key_of};
use super::{Rng, Session, wire};
use crate::attempt::{AttemptKey, StartAttempt};
use crate::mutant::{self, Mutant};
use crate::runtime::RuntimeCommand;

/// Longest grace between TERM and KILL that is honoured.
const MAX_GRACE: Duration = Duration::from_secs(600);
const DEFAULT_GRACE: Duration = Duration::from_secs(10);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);

/// Counts the assignments of one stream, under one leader.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    /// Which hello these numbers follow.
    pub(super) hello: u64,
    /// Last one arrived.
    pub(super) arrived: u64,
    /// Last one taken in: its intent is in the journal, or it is answered.
    pub(super) taken: u64,
    /// `taken` is to be told.
    pub(super) receipt_owed: bool,
    /// Where the numbering goes on after a resync is the new leader's choice.
    pub(super) any_first: bool,
}

impl Numbers {
    pub(super) fn restart(&mut self, any_first: bool) {
        *self = Self { hello: self.hello + 1, any_first, ..Self::default() };
    }

    /// Whether this number follows; one seen before does, too.
    fn follows(&mut self, number: u64) -> bool {
        let follows = number >= 1 && (number <= self.arrived + 1 || self.any_first);
        if follows {
            self.any_first = false;
            self.arrived = self.arrived.max(number);
            if mutant::is(Mutant::PrematureSeen) {
                self.taken = self.arrived;
            }
        }
        follows
    }
}

/// What the assignments of one frame come to.
#[derive(Debug, Default)]
pub(super) struct Intake {
    any: bool,
    agents: BTreeSet<String>,
    entries: Vec<Entry>,
    intents: Vec<AttemptKey>,
    settled: Vec<AttemptKey>,
}

/// The same, waiting for the journal.
#[derive(Debug)]
pub(super) struct Taken {
    hello: u64,
    number: u64,
    /// Whose room must be told anew: the control plane counts each assignment until it is answered.
    agents: BTreeSet<String>,
    pub(super) intents: Vec<AttemptKey>,
    pub(super) settled: Vec<AttemptKey>,
}

impl Session {
    pub(super) fn assign(&mut self, assign: Assign, intake: &mut Intake, rng: Rng<'_>, out: &mut Vec<Output>) {
        if !self.is_open() {
            return self.nonsense("an assignment before the welcome");
        }
        if !self.assigns.follows(assign.number) {
            self.nonsense("a gap in the assignments; starting over on a new stream");
            return self.hang_up(rng, out);
        }
        intake.any = true;
        intake.agents.insert(assign.agent_id.clone());
        let Some(key) = key_of(assign.attempt.as_ref()) else {
            return self.nonsense("an assignment without an attempt");
        };
        let revision = Revision::from_wire(assign.revision.as_ref());
        self.newest = self.newest.max(revision);
        if let Some(attempt) = self.attempts.get_mut(&key) {
            match &mut attempt.phase {
                Phase::Running { .. } => attempt.tell_started = true,
                Phase::Finished { due_ms, .. } => *due_ms = self.now.mono_ms,
                _ => {}
            }
            return;
        }
        if self.settled.get(key).is_some() {
            intake.settled.push(key);
            return;
        }
        match self.refusal(key, revision, &assign) {
            Some(reason) => {
                self.stats.declined += 1;
                tracing::info!(attempt = %key, agent = assign.agent_id, ?reason, "declined an assignment");
                self.settle(Entry::declined(key, reason, revision), &mut intake.entries);
                intake.settled.push(key);
            }
            None => {
                let (assigned, start) = accept(key, revision, self.leader, assign);
                intake.entries.push(Entry::Intent { key, assigned: assigned.clone() });
                self.attempts.insert(key, Attempt::intended(assigned, start));
                intake.intents.push(key);
            }
        }
    }

    /// Why an unknown attempt is not taken, if it is not.
    fn refusal(&self, key: AttemptKey, revision: Revision, assign: &Assign) -> Option<DeclineReason> {
        let later = AttemptKey { attempt: u32::MAX, ..key };
        let outdated = self.settled.rules_out(key, revision)
            || self.attempts.range(key..=later).next().is_some()
            || (assign.generation != 0 && assign.generation != self.generation);
        let Some(agent) = self.agents.get(&assign.agent_id) else { return Some(DeclineReason::AgentNotReady) };
        if outdated {
            Some(DeclineReason::Unspecified)
        } else if self.stopping.is_some() || agent.desired != DesiredState::Active {
            Some(DeclineReason::Draining)
        } else if !agent.ready {
            Some(DeclineReason::AgentNotReady)
        } else if self.disk.ill_until.is_some() {
            Some(DeclineReason::JournalFull)
        } else if self.occupied(&assign.agent_id) >= agent.spec.slots {
            Some(DeclineReason::NoSlot)
        } else {
            None
        }
    }

    /// One append for a whole frame.
    pub(super) fn take_in(&mut self, intake: Intake, out: &mut Vec<Output>) {
        if !intake.any {
            return;
        }
        let Numbers { hello, arrived: number, .. } = self.assigns;
        let Intake { agents, entries, intents, settled, .. } = intake;
        let taken = Taken { hello, number, agents, intents, settled };
        if mutant::is(Mutant::SkipJournal) {
            self.append(entries, Vec::new(), out);
            self.taken(taken, out);
        } else if !entries.is_empty() {
            self.append(entries, vec![Then::Take(taken)], out);
        } else if let Some(last) = self.pending.back_mut() {
            // Nothing new to write, but what it repeats may still be on its way to the disk.
            last.then.push(Then::Take(taken));
        } else {
            self.taken(taken, out);
        }
    }

    pub(super) fn taken(&mut self, taken: Taken, out: &mut Vec<Output>) {
        if taken.hello == self.assigns.hello {
            self.assigns.taken = self.assigns.taken.max(taken.number);
            self.assigns.receipt_owed = true;
            for agent in &taken.agents {
                if let Some(agent) = self.agents.get_mut(agent) {
                    agent.told = None;
                }
            }
        }
        self.owed.extend(taken.settled);
        for key in taken.intents {
            let Some(attempt) = self.attempts.get_mut(&key) else { continue };
            if attempt.stop.is_some() {
                self.end_unstarted(key, out);
                continue;
            }
            if let Phase::Intended(start) = std::mem::replace(&mut attempt.phase, Phase::Starting) {
                self.stats.started += 1;
                let agent = attempt.assigned.agent.clone();
                out.push(Output::Runtime { agent, command: RuntimeCommand::Start(*start) });
            }
        }
    }

    pub(super) fn cancel(&mut self, cancel: Cancel, intake: &Intake, out: &mut Vec<Output>) {
        let Some(key) = key_of(cancel.attempt.as_ref()) else { return self.nonsense("a cancel without an attempt") };
        let grace = wire::duration(cancel.grace.as_ref()).unwrap_or(DEFAULT_GRACE).min(MAX_GRACE);
        if let Some(attempt) = self.attempts.get_mut(&key) {
            if let Phase::Finished { due_ms, .. } = &mut attempt.phase {
                *due_ms = self.now.mono_ms;
            }
            self.stop_attempt(key, StopCause::Cancelled, grace, out);
        } else if intake.settled.contains(&key) {
            // Settled by an assignment of the same frame: told once that is in the journal.
        } else if self.settled.get(key).is_some() {
            match self.pending.back_mut() {
                Some(last) => last.then.push(Then::Tell(key)),
                None => _ = self.owed.insert(key),
            }
        } else {
            // It never arrived, and now it never will: a late offer must not start it.
            let mut entries = Vec::new();
            let revision = self.newest;
            self.stats.lost += 1;
            self.settle(Entry::Settled { key, settlement: Settlement::Lost, revision }, &mut entries);
            self.append(entries, vec![Then::Tell(key)], out);
        }
    }

    pub(super) fn answered(&mut self, input: Input, out: &mut Vec<Output>) {
        let Some(key) = key_of(input.attempt.as_ref()) else { return self.nonsense("an input without an attempt") };
        let Some(attempt) = self.attempts.get_mut(&key).filter(|a| a.end().is_none()) else { return };
        if attempt.answer.as_ref().is_none_or(|(number, _)| *number < input.number) {
            attempt.answer = Some((input.number, input.input.unwrap_or_default()));
        }
        self.pass_answer(key, out);
    }

    /// Gives the open question its answer, if both are here.
    pub(super) fn pass_answer(&mut self, key: AttemptKey, out: &mut Vec<Output>) {
        let Some(attempt) = self.attempts.get_mut(&key) else { return };
        let (Some(question), Some((number, input))) = (&attempt.question, &attempt.answer) else { return };
        if question.number != *number {
            return;
        }
        let local_number = number.saturating_sub(attempt.assigned.inputs_asked);
        let command = RuntimeCommand::Input { key, local_number, input: input.clone() };
        out.push(Output::Runtime { agent: attempt.assigned.agent.clone(), command });
        attempt.question = None;
    }
}

fn accept(key: AttemptKey, revision: Revision, leader: Leader, assign: Assign) -> (Assigned, StartAttempt) {
    let grace = wire::duration(assign.cancel_grace.as_ref()).unwrap_or(DEFAULT_GRACE).min(MAX_GRACE);
    let assigned = Assigned {
        policy: match assign.disconnect_policy() {
            DisconnectPolicy::Unspecified => DisconnectPolicy::Replace,
            policy => policy,
        },
        agent: assign.agent_id,
        revision,
        leader,
        inputs_asked: assign.inputs_asked,
        grace_ms: wire::millis(grace),
    };
    let start = StartAttempt {
        key,
        capabilities: assign.capabilities,
        payload: assign.payload.unwrap_or_default(),
        timeout: wire::duration(assign.attempt_timeout.as_ref()).unwrap_or(DEFAULT_TIMEOUT),
        grace,
    };
    (assigned, start)
}
