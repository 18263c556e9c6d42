//! The process's way from start to end and back: who has to be killed, what is started again and when.

use std::time::Duration;

use super::child::Note;
use super::{GRACE, LAST_WORDS, Owner, State, later};
use crate::clock;

impl Owner {
    pub(super) fn note(&mut self, note: Note) {
        let State::Up { process, .. } = &self.state else { return };
        match note {
            Note::Started(number) if number == process.number => {
                tracing::info!(agent = self.agent.id, "an agent's process runs");
            }
            Note::Ended(number, why) if number == process.number => {
                // Its results may still be on their way through the socket.
                let until = later(clock::boot_ms(), if self.stream.is_some() { LAST_WORDS } else { Duration::ZERO });
                self.state = State::Ended { why, until };
            }
            Note::Started(_) | Note::Ended(..) => {}
        }
    }

    /// What time and circumstances ask for.
    pub(super) fn tick(&mut self, now: u64, stop_at: Option<u64>) {
        let link = self.stream.as_ref().map(|stream| &stream.link);
        let mut end = self.attempts.tick(now, link, &mut self.outbox).then_some(Duration::ZERO);
        if self.stopping && (self.attempts.is_idle() || stop_at.is_some_and(|at| now >= at)) {
            end = end.or(Some(GRACE));
        }
        match &mut self.state {
            State::Up { process, speak_by } => {
                if speak_by.is_some_and(|at| now >= at) {
                    *speak_by = None;
                    let limit = self.agent.start_timeout.as_secs();
                    self.trouble = format!("the agent was not heard on its socket for {limit} s");
                    tracing::warn!(agent = self.agent.id, "an agent is not heard and is ended");
                    process.stop(GRACE);
                }
                if self.removing && self.attempts.is_idle() {
                    end = end.or(Some(GRACE));
                }
                if let Some(grace) = end {
                    process.stop(grace);
                }
            }
            State::Ended { until, .. } if self.stream.is_none() || now >= *until => self.down(now),
            State::Down { start_at: Some(at) } if now >= *at && !self.stopping && !self.removing => self.start(None),
            State::Ended { .. } | State::Down { .. } => {}
        }
    }

    fn down(&mut self, now: u64) {
        let State::Ended { why, .. } = std::mem::replace(&mut self.state, State::Down { start_at: None }) else {
            return;
        };
        self.stream = None;
        self.attempts.process_ended(&why, &mut self.outbox);
        if self.stopping || self.removing {
            return;
        }
        let start_at = self.restarts.next(now).map(|delay| (later(now, delay), delay));
        self.trouble = match start_at {
            Some((_, delay)) => format!("{why}; starts again in {:.1} s", delay.as_secs_f64()),
            None => format!("{why}; not started again after {} restarts", self.agent.restart.max),
        };
        tracing::warn!(agent = self.agent.id, reason = self.trouble, "an agent's process ended");
        self.state = State::Down { start_at: start_at.map(|(at, _)| at) };
    }

    pub(super) fn next_wake(&self) -> Option<u64> {
        let state = match &self.state {
            State::Down { start_at } => start_at.filter(|_| !self.removing),
            State::Up { speak_by, .. } => *speak_by,
            State::Ended { until, .. } => Some(*until),
        };
        state.into_iter().chain(self.attempts.next_wake()).min()
    }
}
