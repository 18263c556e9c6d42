//! Beats at the server's pace, and contact: a beat acknowledged by the leader, nothing less.

use std::collections::VecDeque;
use std::time::Duration;

use hive_proto::sidecar_v1::{HeartbeatAck, Welcome};
use hive_proto::v1::DisconnectPolicy;

use super::attempt::StopCause;
use super::types::Output;
use super::{Rng, Session, wire};
use crate::attempt::AttemptKey;

/// What a server may dictate.
const INTERVAL_MS: (u64, u64) = (50, 600_000);
const KILL_MS: (u64, u64) = (1_000, 3_600_000);
/// Beats whose acknowledgement is still awaited.
const AWAITED: usize = 16;
/// TERM to KILL for a copy that must not outlive the contact.
const KILL_GRACE: Duration = Duration::from_secs(2);

/// Pace and contact.
#[derive(Debug)]
pub(super) struct Beats {
    pub(super) interval_ms: u64,
    jitter_permille: u64,
    kill_after_ms: u64,
    /// When the next one is due, while the stream is open.
    pub(super) next: u64,
    number: u64,
    sent: VecDeque<(u64, u64)>,
    /// When the last acknowledged beat was sent: the leader heard it later than that.
    pub(super) contact: u64,
    /// When a beat or a hello was last answered. Other frames only show that this side can hear.
    pub(super) heard: u64,
}

impl Default for Beats {
    fn default() -> Self {
        Self {
            interval_ms: 5_000,
            jitter_permille: 200,
            kill_after_ms: 25_000,
            next: 0,
            number: 0,
            sent: VecDeque::new(),
            contact: 0,
            heard: 0,
        }
    }
}

impl Beats {
    /// A hello is said; on a new stream the numbers begin again.
    pub(super) fn greet(&mut self, resync: bool, now_ms: u64) {
        self.heard = now_ms;
        if !resync {
            self.number = 0;
            self.sent.clear();
        }
    }

    fn pace(&mut self, welcome: &Welcome, now_ms: u64) {
        if let Some(interval) = wire::duration(welcome.beat_interval.as_ref()) {
            self.interval_ms = wire::millis(interval).clamp(INTERVAL_MS.0, INTERVAL_MS.1);
        }
        self.jitter_permille = u64::from(welcome.beat_jitter_permille.min(900));
        if let Some(kill_after) = wire::duration(welcome.kill_after.as_ref()) {
            self.kill_after_ms = wire::millis(kill_after).clamp(KILL_MS.0, KILL_MS.1);
        }
        self.next = now_ms;
    }

    /// The next beat's number.
    pub(super) fn beat(&mut self, now_ms: u64, rng: Rng<'_>) -> u64 {
        self.number += 1;
        self.sent.push_back((self.number, now_ms));
        if self.sent.len() > AWAITED {
            self.sent.pop_front();
        }
        let spread = self.interval_ms * self.jitter_permille / 1_000;
        self.next = now_ms + (self.interval_ms - spread + rng() % (2 * spread + 1)).max(1);
        self.number
    }
}

impl Session {
    pub(super) fn set_pace(&mut self, welcome: &Welcome, said_at: u64) {
        self.beats.pace(welcome, self.now.mono_ms);
        self.beats.heard = self.now.mono_ms;
        // A hello is no contact. But with no copy to stop, the count may begin here.
        if self.guarded().next().is_none() {
            self.beats.contact = self.beats.contact.max(said_at);
        }
    }

    pub(super) fn beat_acked(&mut self, ack: HeartbeatAck) {
        if let Some(interval) = wire::duration(ack.beat_interval.as_ref()).filter(|i| !i.is_zero()) {
            self.beats.interval_ms = wire::millis(interval).clamp(INTERVAL_MS.0, INTERVAL_MS.1);
        }
        if let Some(&(_, sent_at)) = self.beats.sent.iter().find(|(number, _)| *number == ack.beat) {
            self.beats.sent.retain(|(number, _)| *number > ack.beat);
            self.beats.contact = self.beats.contact.max(sent_at);
            self.beats.heard = self.now.mono_ms;
            self.link_proved();
        }
    }

    /// Copies that must not outlive the contact.
    fn guarded(&self) -> impl Iterator<Item = AttemptKey> + '_ {
        let guarded = self
            .attempts
            .iter()
            .filter(|(_, a)| a.assigned.policy == DisconnectPolicy::Stop && a.end().is_none() && a.stop.is_none());
        guarded.map(|(&key, _)| key)
    }

    fn kill_at(&self) -> u64 {
        self.beats.contact + self.beats.kill_after_ms
    }

    pub(super) fn check_contact(&mut self, out: &mut Vec<Output>) {
        if self.kill_at() > self.now.mono_ms {
            return;
        }
        for key in self.guarded().collect::<Vec<_>>() {
            tracing::warn!(attempt = %key, "out of contact for too long; stopping this copy");
            self.stop_attempt(key, StopCause::NoContact, KILL_GRACE, out);
        }
    }

    pub(super) fn beat_wakes(&self, due: &mut Vec<u64>) {
        if self.is_open() {
            due.push(self.beats.next);
        }
        if self.guarded().next().is_some() {
            due.push(self.kill_at());
        }
    }
}
