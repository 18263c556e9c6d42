//! One attempt as the session sees it. Its variants hold what each phase needs and no more.

use std::time::Duration;

use hive_proto::{sidecar_v1, v1};

use super::record::Assigned;
use crate::attempt::{AttemptEnd, StartAttempt};

/// Where an attempt stands.
#[derive(Debug)]
pub(super) enum Phase {
    /// Its intent is being journaled.
    Intended(Box<StartAttempt>),
    /// The journal says it was intended; its runtime has not yet said what became of it.
    Adopting,
    /// Given to its runtime.
    Starting,
    /// It runs.
    Running {
        /// Since when, wall clock.
        started_ms: u64,
    },
    /// It ended; its end is not yet in the journal.
    Ending(AttemptEnd),
    /// Its end is in the journal and not yet released.
    Finished {
        /// How it ended.
        end: AttemptEnd,
        /// When to send it (again).
        due_ms: u64,
        /// Wait after that; doubles. 0: not yet sent on this stream.
        wait_ms: u64,
    },
}

/// Why its end was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StopCause {
    /// The control plane says so.
    Cancelled,
    /// It is released while it runs: nobody waits for its end.
    Superseded,
    /// Too long without contact, under policy STOP.
    NoContact,
    /// The sidecar stops.
    Shutdown,
}

/// A wish for its end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stop {
    pub(super) cause: StopCause,
    /// Between TERM and KILL.
    pub(super) grace: Duration,
}

/// An open question.
#[derive(Debug)]
pub(super) struct Question {
    /// As the task counts.
    pub(super) number: u32,
    pub(super) prompt: v1::Payload,
    /// Told on this stream.
    pub(super) told: bool,
}

/// One attempt.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) assigned: Assigned,
    pub(super) phase: Phase,
    pub(super) stop: Option<Stop>,
    /// Released while it ran: its end is not reported.
    pub(super) released: bool,
    /// Started is to be told.
    pub(super) tell_started: bool,
    pub(super) question: Option<Question>,
    /// The last answer heard, in case the question is asked again.
    pub(super) answer: Option<(u32, v1::Payload)>,
    /// The last progress, until it is told.
    pub(super) progress: Option<(Option<f64>, String)>,
}

impl Attempt {
    pub(super) fn intended(assigned: Assigned, start: StartAttempt) -> Self {
        Self::at(assigned, Phase::Intended(Box::new(start)))
    }

    pub(super) fn recovered(assigned: Assigned, end: Option<AttemptEnd>, now_ms: u64) -> Self {
        let phase = end.map_or(Phase::Adopting, |end| Phase::Finished { end, due_ms: now_ms, wait_ms: 0 });
        Self::at(assigned, phase)
    }

    fn at(assigned: Assigned, phase: Phase) -> Self {
        Self {
            assigned,
            phase,
            stop: None,
            released: false,
            tell_started: false,
            question: None,
            answer: None,
            progress: None,
        }
    }

    /// Holds a slot. One whose end is being journaled still does, so that its credit travels with
    /// its result.
    pub(super) fn occupies(&self) -> bool {
        !matches!(self.phase, Phase::Finished { .. })
    }

    /// How it ended, if it has.
    pub(super) fn end(&self) -> Option<&AttemptEnd> {
        match &self.phase {
            Phase::Ending(end) | Phase::Finished { end, .. } => Some(end),
            _ => None,
        }
    }

    /// The question it waits on; 0 for none.
    pub(super) fn question_number(&self) -> u32 {
        self.question.as_ref().map_or(0, |q| q.number)
    }

    /// Its end, corrected by what only the session knows: the agent sees a cancel, whoever wanted it.
    pub(super) fn explain(&self, mut end: AttemptEnd) -> AttemptEnd {
        let message = match self.stop.map(|s| s.cause) {
            Some(StopCause::NoContact) => "stopped by its sidecar, which was out of contact for too long",
            Some(StopCause::Shutdown) => "ended because its sidecar stops",
            _ => return end,
        };
        if end.outcome == sidecar_v1::Outcome::Cancelled {
            end.outcome = sidecar_v1::Outcome::Failed;
            end.reason = sidecar_v1::FailureReason::AgentLost;
            end.retryable = true;
            message.clone_into(&mut end.message);
        }
        end
    }
}
