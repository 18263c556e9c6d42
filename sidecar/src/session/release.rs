//! Results are kept until a release that counts. A stale leader's word releases nothing.

use hive_proto::sidecar_v1::{Release, ReleaseKind, ResultAck};
use hive_proto::sidecar_v1::{SidecarMessage, sidecar_message::Kind};
use prost::Message as _;
use std::time::Duration;

use super::attempt::{Phase, StopCause};
use super::journal::Then;
use super::record::Entry;
use super::settled::Settlement;
use super::types::{Output, Revision, key_of};
use super::{Session, wire};
use crate::attempt::AttemptKey;
use crate::mutant::{self, Mutant};
use crate::runtime::RuntimeCommand;

/// First and longest wait before a result is sent again on the same stream.
const RESEND_MS: (u64, u64) = (5_000, 60_000);
/// Results on their way, in bytes: more would only queue up behind them.
const WINDOW: usize = 4 << 20;

impl Session {
    pub(super) fn acked(&mut self, ack: ResultAck, out: &mut Vec<Output>) {
        match (key_of(ack.attempt.as_ref()), &ack.release) {
            (Some(key), Some(release)) => self.release(key, release, out),
            _ => self.nonsense("an acknowledgement without attempt or release"),
        }
    }

    /// Forgets an attempt, if the release counts.
    pub(super) fn release(&mut self, key: AttemptKey, release: &Release, out: &mut Vec<Output>) {
        let Some(attempt) = self.attempts.get_mut(&key) else { return };
        let revision = Revision::from_wire(release.revision.as_ref());
        let assigned = &attempt.assigned;
        let stale = revision < assigned.revision || self.leader < assigned.leader;
        if release.kind() == ReleaseKind::Unspecified || stale && !mutant::is(Mutant::StaleNo) {
            self.stats.releases_refused += 1;
            tracing::warn!(attempt = %key, ?revision, leader = ?self.leader, "refused a release");
            return;
        }
        if attempt.end().is_some() {
            self.forget(key, out);
        } else {
            attempt.released = true;
            let grace = Duration::from_millis(attempt.assigned.grace_ms);
            self.stop_attempt(key, StopCause::Superseded, grace, out);
        }
    }

    /// It ended, and nobody waits for its end.
    pub(super) fn forget(&mut self, key: AttemptKey, out: &mut Vec<Output>) {
        self.stats.released += 1;
        self.drop_attempt(key, Settlement::Released, Then::Keep(key), out);
    }

    /// It neither runs nor finished.
    pub(super) fn lose(&mut self, key: AttemptKey, out: &mut Vec<Output>) {
        self.stats.lost += 1;
        tracing::warn!(attempt = %key, "an attempt is lost: it neither runs nor finished");
        self.drop_attempt(key, Settlement::Lost, Then::Tell(key), out);
    }

    fn drop_attempt(&mut self, key: AttemptKey, settlement: Settlement, then: Then, out: &mut Vec<Output>) {
        let Some(attempt) = self.attempts.remove(&key) else { return };
        let mut entries = Vec::new();
        let revision = attempt.assigned.revision;
        self.settle(Entry::Settled { key, settlement, revision }, &mut entries);
        self.append(entries, vec![then], out);
        if self.agents.contains_key(&attempt.assigned.agent) {
            out.push(Output::Runtime { agent: attempt.assigned.agent, command: RuntimeCommand::Forget { key } });
        }
    }

    /// Results due, the longest due first, as many as the window has room for.
    pub(super) fn due_results(&mut self, messages: &mut Vec<SidecarMessage>) {
        let now = self.now.mono_ms;
        let mut due = Vec::new();
        let mut flying = 0;
        for (&key, attempt) in &self.attempts {
            if let Phase::Finished { end, due_ms, wait_ms } = &attempt.phase {
                if *due_ms <= now {
                    due.push((*due_ms, key));
                } else if *wait_ms > 0 {
                    flying += end.payload.as_ref().map_or(0, |p| p.data.len());
                }
            }
        }
        due.sort_unstable();
        for (_, key) in due {
            if flying >= WINDOW {
                return;
            }
            let Some(Phase::Finished { end, due_ms, wait_ms }) = self.attempts.get_mut(&key).map(|a| &mut a.phase)
            else {
                continue;
            };
            let result = wire::result(key, end);
            flying += result.encoded_len();
            messages.push(wire::message(Kind::Result(result)));
            *wait_ms = (*wait_ms * 2).clamp(RESEND_MS.0, RESEND_MS.1);
            *due_ms = if mutant::is(Mutant::ResultOnce) { u64::MAX } else { now + *wait_ms };
            self.stats.results_sent += 1;
        }
    }

    pub(super) fn result_wakes(&self, due: &mut Vec<u64>) {
        if self.is_open() {
            due.extend(self.attempts.values().filter_map(|a| match a.phase {
                Phase::Finished { due_ms, .. } => Some(due_ms),
                _ => None,
            }));
        }
    }
}
