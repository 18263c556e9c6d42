//! Time passes: deadlines, silence, receipts, starts worth a write, retention.

use std::time::Duration;

use super::{Leader, Output, Work};
use crate::command::{Command, Decision};
use crate::id::{AgentId, Namespace, TaskId};
use crate::record::{DisconnectPolicy, Key};
use crate::rules;
use crate::state::Contact;
use crate::time::Time;

/// A running attempt's start joins another write after this.
const START_JOINS: Duration = Duration::from_secs(1);
/// And causes one after this.
const START_FORCES: Duration = Duration::from_secs(2);
/// Liveness and retention are looked at this often.
const SWEEP: Duration = Duration::from_secs(1);
/// Retention commands per namespace and sweep.
const EVICT_ROUNDS: u32 = 1_000;

impl Leader {
    pub(super) fn tick(&mut self, now: Time, out: &mut Vec<Output>) {
        self.expire(now);
        self.record_starts(now, START_FORCES);
        self.offer_again(now, out);
        if now >= self.last_sweep + SWEEP {
            self.last_sweep = now;
            self.lost_this_second = 0;
            self.watch_hosts(now, out);
            self.retain(now);
        }
    }

    /// No grace is shorter after a takeover than it was before.
    fn patient_until(&self) -> Time {
        let liveness = &self.state.settings().liveness;
        self.took_office + liveness.grace(liveness.beat(self.hosts.sessions()))
    }

    /// Issues the deadlines that have come. Each is put off first, so that one which can't be acted
    /// upon is looked at again and not in a loop.
    fn expire(&mut self, now: Time) {
        let patient_until = self.patient_until();
        let settings = self.state.settings.clone();
        for (namespace, space) in &mut self.state.spaces {
            while let Some((at, id)) = space.timers.first().copied() {
                if at > now {
                    break;
                }
                if now < patient_until {
                    space.snooze(id, patient_until, &settings);
                    continue;
                }
                space.snooze(id, now + SWEEP, &settings);
                if acts_now(space, id, now, &settings) {
                    self.queue.push_back(Work::Internal { namespace: namespace.clone(), command: Command::Expire(id) });
                }
            }
        }
    }

    fn record_starts(&mut self, now: Time, after: Duration) {
        while self.starts.front().is_some_and(|(at, ..)| now >= *at + after) {
            let Some((started, namespace, token)) = self.starts.pop_front() else { break };
            self.queue.push_back(Work::Internal { namespace, command: Command::RecordStart { token, started } });
        }
    }

    /// A transaction is about to leave: starts that are old enough join it.
    pub(super) fn join_starts(&mut self, now: Time, out: &mut Vec<Output>) {
        while self.has_room() && self.starts.front().is_some_and(|(at, ..)| now >= *at + START_JOINS) {
            let Some((started, namespace, token)) = self.starts.pop_front() else { break };
            let command = Command::RecordStart { token, started };
            let _always_decided = self.decide(now, &namespace, command, 0, out);
        }
    }

    /// Assignments without receipt are offered again under the same attempt.
    fn offer_again(&mut self, now: Time, out: &mut Vec<Output>) {
        let limit = self.state.settings().liveness.receipt;
        for connection in self.hosts.connections() {
            let Some((namespace, _)) = self.host_key(connection) else { continue };
            let mut overdue = Vec::new();
            if let Some(session) = self.hosts.session_mut(connection) {
                while session.unreceipted.front().is_some_and(|(_, sent, ..)| now >= *sent + limit) {
                    overdue.extend(session.unreceipted.pop_front());
                }
            }
            for (_, _, _, token) in overdue {
                let task = self.state.space(&namespace).and_then(|s| s.task(token.task)).cloned();
                if let Some(task) = task.filter(|t| t.attempt == token.attempt)
                    && !self.is_undecided(&Key::Task(namespace.clone(), token.task))
                {
                    self.stats.reoffers += 1;
                    self.offer(&namespace, &task, out);
                }
            }
        }
    }

    /// Silent sidecars: their agents become suspect, and after the grace lost, a few at a time.
    fn watch_hosts(&mut self, now: Time, out: &mut Vec<Output>) {
        let liveness = self.state.settings().liveness.clone();
        let beat = liveness.beat(self.hosts.sessions());
        let silent: Vec<_> = self
            .hosts
            .iter()
            .filter(|(_, host)| now >= host.heard + liveness.suspect_after(beat))
            .map(|(key, host)| (key.clone(), now.since(host.heard)))
            .collect();
        for (key, silence) in silent {
            self.set_contact(&key, Contact::Suspect, out);
            if silence < liveness.grace(beat) || self.lost_this_second >= liveness.max_lost_per_second {
                continue;
            }
            let Some(space) = self.state.space(&key.0) else { continue };
            let agents: Vec<AgentId> = space.hosted(&key.1).cloned().collect();
            if agents.is_empty() {
                self.hosts.forget(&key);
                continue;
            }
            let mut any = false;
            for agent in agents {
                if space.agent(&agent).is_some_and(|record| !record.lost) {
                    any = true;
                    self.stats.agents_lost += 1;
                    let command = Command::LoseAgent(agent);
                    self.queue.push_back(Work::Internal { namespace: key.0.clone(), command });
                }
            }
            self.lost_this_second += u32::from(any);
        }
    }

    /// Agents that are lost or evicted: their attempts end, by policy.
    pub(super) fn reap(&mut self) {
        let mut commands = Vec::new();
        for (namespace, space) in &mut self.state.spaces {
            for agent in std::mem::take(&mut space.reap) {
                let Some(entry) = space.agents.get(&agent).filter(|entry| entry.must_reap()) else { continue };
                let Some(record) = &entry.record else { continue };
                let message = if record.evict { "its agent was removed" } else { "its agent is out of contact" };
                for (task, slot) in &entry.slots {
                    let waits = space.tasks.get(task).is_some_and(|t| t.spec.disconnect == DisconnectPolicy::Wait);
                    if record.evict || !waits {
                        let token = crate::command::token(*task, slot.attempt);
                        commands.push((namespace.clone(), Command::LoseAttempt { token, message }));
                    }
                }
            }
        }
        for (namespace, command) in commands {
            self.queue.push_back(Work::Internal { namespace, command });
        }
    }

    fn retain(&mut self, now: Time) {
        let settings = self.state.settings.clone();
        for (namespace, space) in &self.state.spaces {
            if !rules::evictable(space, &settings.retention, now, 1).is_empty() {
                let namespace = namespace.clone();
                self.queue.push_back(Work::Internal { namespace: namespace.clone(), command: Command::RaiseFloor });
                self.queue.push_back(Work::Evict { namespace, rounds: EVICT_ROUNDS });
            }
            for (updated, agent) in &space.leaving {
                if now < *updated + settings.retention.age {
                    break;
                }
                let command = Command::ForgetAgent(agent.clone());
                self.queue.push_back(Work::Internal { namespace: namespace.clone(), command });
            }
        }
    }

    /// One round of retention; full rounds are followed by another.
    pub(super) fn evict(&mut self, now: Time, namespace: Namespace, rounds: u32, random: u64, out: &mut Vec<Output>) {
        let before = self.state.space(&namespace).map_or(0, |s| s.tasks.len());
        let _always_decided = self.decide(now, &namespace, Command::Evict, random, out);
        let after = self.state.space(&namespace).map_or(0, |s| s.tasks.len());
        if before - after == Decision::MAX_RECORDS && rounds > 0 {
            if rounds.is_multiple_of(64) {
                self.queue.push_back(Work::Internal { namespace: namespace.clone(), command: Command::RaiseFloor });
            }
            self.queue.push_back(Work::Evict { namespace, rounds: rounds - 1 });
        }
    }
}

/// Out of contact an attempt's deadlines act only through its disconnect policy; a cancel always does.
fn acts_now(space: &crate::state::Space, id: TaskId, now: Time, settings: &crate::settings::Settings) -> bool {
    let Some(task) = space.task(id) else { return false };
    let Some(run) = task.run() else { return true };
    let cancelled = task.cancel.is_some_and(|at| now >= at + settings.cancel_grace + settings.report_margin);
    let in_contact = space.agent_entry(&run.agent).is_some_and(|entry| entry.soft.contact == Contact::Connected);
    let lost = space.agent(&run.agent).is_none_or(|agent| agent.lost);
    cancelled || in_contact || (lost && task.spec.disconnect == DisconnectPolicy::Wait)
}
