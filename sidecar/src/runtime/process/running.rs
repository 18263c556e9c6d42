//! One attempt in the agent's hands: its timer, its open question, how it is told to stop, how it ended.
//!
//! Times are boot-time milliseconds unless they say otherwise.

use std::time::Duration;

use hive_proto::agent_v1::{self, session_response::Kind};
use hive_proto::sidecar_v1::{FailureReason, Outcome};
use hive_proto::v1;

use super::later;
use crate::attempt::{AttemptEnd, AttemptKey, RESULT_LIMIT};
use crate::clock;
use crate::local::Link;

pub(super) struct Running {
    /// Wall clock.
    pub(super) started_ms: u64,
    pub(super) timer: Timer,
    pub(super) grace: Duration,
    /// Number of the last question.
    pub(super) asked: u32,
    /// The last answer, told again after a reconnect; the agent goes by the number.
    pub(super) answer: Option<(u32, v1::Payload)>,
    pub(super) stopping: Option<Stopping>,
}

pub(super) enum Timer {
    Runs {
        until: u64,
    },
    /// A question is open.
    Stands {
        left: u64,
    },
}

pub(super) struct Stopping {
    pub(super) why: Why,
    /// `None`: the process is being killed.
    pub(super) kill_at: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    Cancelled,
    TimedOut,
    Broken(&'static str),
}

impl Running {
    pub(super) fn new(started_ms: u64, timer: Timer, grace: Duration) -> Self {
        Self { started_ms, timer, grace, asked: 0, answer: None, stopping: None }
    }

    pub(super) fn stop(&mut self, key: AttemptKey, why: Why, grace: Duration, link: Option<&Link>) {
        let kill_at = later(clock::boot_ms(), grace);
        match &mut self.stopping {
            // A second word can only shorten the grace.
            Some(old) => old.kill_at = old.kill_at.map(|at| at.min(kill_at)),
            None => self.stopping = Some(Stopping { why, kill_at: Some(kill_at) }),
        }
        self.tell_stop(key, link);
    }

    pub(super) fn tell_stop(&self, key: AttemptKey, link: Option<&Link>) {
        let Some(kill_at) = self.stopping.as_ref().and_then(|stopping| stopping.kill_at) else { return };
        let left = Duration::from_millis(kill_at.saturating_sub(clock::boot_ms()));
        if let Some(link) = link {
            let grace = prost_types::Duration::try_from(left).ok();
            link.send(Kind::Cancel(agent_v1::Cancel { token: key.to_string(), grace }));
        }
    }

    pub(super) fn tell_answer(&self, key: AttemptKey, link: Option<&Link>) {
        if let (Some((number, input)), Some(link)) = (&self.answer, link) {
            let input = Some(input.clone());
            link.send(Kind::Input(agent_v1::Input { token: key.to_string(), number: *number, input }));
        }
    }

    /// The end the agent reports.
    pub(super) fn end(&self, result: agent_v1::Result) -> AttemptEnd {
        let failed = |reason, message: &str, retryable| {
            AttemptEnd::failed(reason, message, retryable, self.started_ms, clock::wall_ms())
        };
        match result.outcome() {
            agent_v1::Outcome::Succeeded => {
                let payload = result.payload.unwrap_or_default();
                let size = payload.data.len();
                if size > RESULT_LIMIT {
                    let message = format!("the result has {size} bytes; at most {RESULT_LIMIT}");
                    return failed(FailureReason::ResultTooLarge, &message, false);
                }
                // Also after a Cancel: a result that arrives first wins.
                let end = failed(FailureReason::Unspecified, "", false);
                AttemptEnd { outcome: Outcome::Succeeded, payload: Some(payload), ..end }
            }
            agent_v1::Outcome::Failed if self.stopping.is_none() => {
                failed(FailureReason::AgentError, &result.message, result.retryable)
            }
            agent_v1::Outcome::Unspecified => failed(FailureReason::AgentError, "it ended without an outcome", false),
            agent_v1::Outcome::Failed | agent_v1::Outcome::Cancelled => {
                self.stopped(FailureReason::AgentError, "the agent gave it up unasked", true)
            }
        }
    }

    /// The end of what was told to stop, or, if it was not, the one given.
    pub(super) fn stopped(&self, reason: FailureReason, message: &str, retryable: bool) -> AttemptEnd {
        let failed = |reason, message: &str, retryable| {
            AttemptEnd::failed(reason, message, retryable, self.started_ms, clock::wall_ms())
        };
        match self.stopping.as_ref().map(|stopping| stopping.why) {
            Some(Why::Cancelled) => {
                AttemptEnd { outcome: Outcome::Cancelled, ..failed(FailureReason::Unspecified, "", false) }
            }
            Some(Why::TimedOut) => failed(FailureReason::Timeout, "ended by its timeout", true),
            Some(Why::Broken(what)) => failed(FailureReason::AgentError, what, false),
            None => failed(reason, message, retryable),
        }
    }
}
