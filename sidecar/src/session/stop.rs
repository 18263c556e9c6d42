//! Stopping: take nothing new, let work end, deliver what can be delivered, say goodbye.

use std::time::Duration;

use super::Session;
use super::attempt::StopCause;
use super::types::{ExitReason, Output};
use crate::runtime::RuntimeCommand;

/// Attempts may end by themselves for this long.
const DRAIN_MS: u64 = 30_000;
/// After that, and after a second word, it ends within this.
const HARD_MS: u64 = 10_000;
/// Releases are awaited for this long once nothing runs.
const DELIVER_MS: u64 = 3_000;
/// TERM to KILL at a hard stop.
const HARD_GRACE: Duration = Duration::from_secs(2);

/// How far it has come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stopping {
    hard_at: u64,
    hard: bool,
    /// Nothing runs since then.
    idle_since: Option<u64>,
}

impl Session {
    pub(super) fn shutdown(&mut self) {
        let now = self.now.mono_ms;
        match &mut self.stopping {
            None => {
                tracing::info!(attempts = self.attempts.len(), "stopping: no new work, waiting for what runs");
                self.stopping = Some(Stopping { hard_at: now + DRAIN_MS, hard: false, idle_since: None });
            }
            Some(stopping) => stopping.hard_at = stopping.hard_at.min(now),
        }
    }

    pub(super) fn check_stop(&mut self, out: &mut Vec<Output>) {
        let now = self.now.mono_ms;
        let Some(mut stopping) = self.stopping else { return };
        let idle = self.attempts.values().all(|a| !a.occupies()) && self.pending.is_empty();
        stopping.idle_since = stopping.idle_since.filter(|_| idle).or(idle.then_some(now));
        if !stopping.hard && stopping.hard_at <= now && !idle {
            stopping.hard = true;
            tracing::warn!("stopping hard: ending what still runs");
            for key in self.attempts.keys().copied().collect::<Vec<_>>() {
                self.stop_attempt(key, StopCause::Shutdown, HARD_GRACE, out);
            }
        }
        self.stopping = Some(stopping);
        let deliverable = self.is_open() && !self.attempts.is_empty();
        let over = stopping.idle_since.is_some_and(|since| !deliverable || since + DELIVER_MS <= now);
        if over || stopping.hard_at + HARD_MS <= now {
            self.report(&mut || 0, Some("stopped"), out);
            self.exit(ExitReason::Stopped, HARD_GRACE, out);
        }
    }

    /// The last outputs.
    pub(super) fn exit(&mut self, reason: ExitReason, grace: Duration, out: &mut Vec<Output>) {
        self.exited = true;
        self.close(out);
        for agent in self.agents.keys() {
            out.push(Output::Runtime { agent: agent.clone(), command: RuntimeCommand::Shutdown { deadline: grace } });
        }
        tracing::info!(?reason, stats = ?self.stats, kept = self.attempts.len(), "the session is over");
        out.push(Output::Exit(reason));
    }

    pub(super) fn stop_wakes(&self, due: &mut Vec<u64>) {
        if let Some(stopping) = self.stopping {
            due.extend([stopping.hard_at, stopping.hard_at + HARD_MS]);
            due.extend(stopping.idle_since.map(|since| since + DELIVER_MS));
        }
    }
}
