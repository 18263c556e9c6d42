//! Time passes: deadlines, silence, receipts, starts worth a write, retention.

use std::time::Duration;

use super::{Leader, Output, Work};
use crate::command::{Command, Decision};
use crate::id::{AgentId, AttemptId, Namespace, TaskId};
use crate::record::{Desired, DisconnectPolicy, Key, Phase};
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
        self.offer_again(now, out);
        self.resync(now, out);
        if self.chores > 0 {
            // The store is behind: the same would only be asked for again.
            return;
        }
        self.expire(now);
        self.record_starts(now, START_FORCES);
        if now >= self.last_sweep + SWEEP {
            self.last_sweep = now;
            self.lost_this_second = 0;
            self.watch_hosts(now, out);
            self.offer_hosting(out);
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
                if now < patient_until && began(space, id) < self.took_office {
                    space.snooze(id, patient_until, &settings);
                    continue;
                }
                space.snooze(id, now + SWEEP, &settings);
                if acts_now(space, id, now, &settings) {
                    self.chores += 1;
                    self.queue.push_back(Work::Internal { namespace: namespace.clone(), command: Command::Expire(id) });
                }
            }
        }
    }

    fn internal(&mut self, namespace: Namespace, command: Command) {
        self.chores += 1;
        self.queue.push_back(Work::Internal { namespace, command });
    }

    fn started_at(&self, namespace: &Namespace, token: AttemptId) -> Option<Time> {
        let space = self.state.space(namespace)?;
        space.slot(space.task(token.task)?).filter(|slot| slot.attempt == token.attempt)?.started
    }

    fn record_starts(&mut self, now: Time, after: Duration) {
        while self.starts.front().is_some_and(|(at, ..)| now >= *at + after) {
            let Some((noted, namespace, token)) = self.starts.pop_front() else { break };
            let started = self.started_at(&namespace, token).unwrap_or(noted);
            self.internal(namespace, Command::RecordStart { token, started });
        }
    }

    /// A transaction is about to leave: starts that are old enough join it.
    pub(super) fn join_starts(&mut self, now: Time, out: &mut Vec<Output>) {
        while self.has_room() && self.starts.front().is_some_and(|(at, ..)| now >= *at + START_JOINS) {
            let Some((noted, namespace, token)) = self.starts.pop_front() else { break };
            let started = self.started_at(&namespace, token).unwrap_or(noted);
            let command = Command::RecordStart { token, started };
            let _always_decided = self.decide(now, &namespace, command, 0, out);
        }
    }

    /// Assignments without receipt are offered again under the same attempt.
    fn offer_again(&mut self, now: Time, out: &mut Vec<Output>) {
        let limit = self.state.settings().liveness.receipt;
        for connection in self.hosts.unreceipted(now - limit) {
            let Some((namespace, _)) = self.host_key(connection) else { continue };
            let mut overdue = Vec::new();
            if let Some(session) = self.hosts.session_mut(connection) {
                while session.unreceipted.front().is_some_and(|(_, sent, ..)| now >= *sent + limit) {
                    overdue.extend(session.unreceipted.pop_front());
                }
            }
            let mut kept = Vec::new();
            for entry in overdue {
                let token = entry.3;
                let task = self.state.space(&namespace).and_then(|s| s.task(token.task)).cloned();
                let current = task.filter(|t| t.attempt == token.attempt && t.run().is_some());
                let undecided = self.is_undecided(&Key::Task(namespace.clone(), token.task));
                let Some(task) = current.filter(|_| !undecided) else {
                    // Kept while it is under way: it takes a slot there until the receipt.
                    kept.push(entry);
                    continue;
                };
                self.stats.reoffers += 1;
                self.offer(&namespace, &task, out);
            }
            if let Some(session) = self.hosts.session_mut(connection) {
                for entry in kept.into_iter().rev() {
                    session.unreceipted.push_front(entry);
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
            .map(|(key, host)| {
                // Also when the fleet has become smaller since, or seems so because most of it is cut off.
                let grace = liveness.grace(beat).max(host.kill_after + liveness.kill_margin);
                (key.clone(), now.since(host.heard), grace)
            })
            .collect();
        for (key, silence, grace) in silent {
            self.set_contact(&key, Contact::Suspect, out);
            if silence < grace || self.lost_this_second >= liveness.max_lost_per_second {
                continue;
            }
            let Some(space) = self.state.space(&key.0) else { continue };
            let agents: Vec<AgentId> = space.hosted(&key.1).cloned().collect();
            if agents.is_empty() {
                self.hosts.forget(&key);
                continue;
            }
            let living: Vec<AgentId> =
                agents.into_iter().filter(|agent| space.agent(agent).is_some_and(|record| !record.lost)).collect();
            self.lost_this_second += u32::from(!living.is_empty());
            for agent in living {
                self.stats.agents_lost += 1;
                self.internal(key.0.clone(), Command::LoseAgent(agent));
            }
        }
    }

    /// Agents that are lost or evicted are due.
    pub(super) fn reap(&mut self, now: Time) {
        if now < self.hold_until {
            return;
        }
        for (namespace, space) in &mut self.state.spaces {
            for agent in std::mem::take(&mut space.reap) {
                self.queue.push_back(Work::Reap { namespace: namespace.clone(), agent });
            }
        }
    }

    /// The attempts of a lost or evicted agent end, by policy, unless it has come back meanwhile.
    pub(super) fn reap_agent(
        &mut self,
        now: Time,
        namespace: Namespace,
        agent: AgentId,
        random: &mut dyn FnMut() -> u64,
        out: &mut Vec<Output>,
    ) {
        let Some(space) = self.state.space(&namespace) else { return };
        let Some(entry) = space.agent_entry(&agent).filter(|entry| entry.must_reap()) else { return };
        let Some(record) = &entry.record else { return };
        let message = if record.evict { "its agent was removed" } else { "its agent is out of contact" };
        let removed = record.desired == Desired::Removed;
        let waits = |task: &TaskId| space.task(*task).is_some_and(|t| t.spec.disconnect == DisconnectPolicy::Wait);
        let over = entry.slots.iter().filter(|(task, _)| removed || !waits(task));
        let tokens: Vec<_> = over.map(|(task, slot)| crate::command::token(*task, slot.attempt)).collect();
        for token in tokens {
            if !self.has_room() {
                self.queue.push_front(Work::Reap { namespace, agent });
                return;
            }
            let command = Command::LoseAttempt { token, message };
            let _always_decided = self.decide(now, &namespace, command, random(), out);
        }
    }

    fn retain(&mut self, now: Time) {
        let retention = self.state.settings.retention.clone();
        let mut commands = Vec::new();
        for (namespace, space) in &self.state.spaces {
            let due = space.leaving.iter().take_while(|(updated, _)| now >= *updated + retention.age);
            commands.extend(due.map(|(_, agent)| (namespace.clone(), Command::ForgetAgent(agent.clone()))));
            if !rules::evictable(space, &retention, now, 1).is_empty() {
                commands.push((namespace.clone(), Command::RaiseFloor));
            }
        }
        for (namespace, command) in commands {
            let full = matches!(command, Command::RaiseFloor);
            self.internal(namespace.clone(), command);
            if full {
                self.queue.push_back(Work::Evict { namespace, rounds: EVICT_ROUNDS });
            }
        }
    }

    /// One round of retention; full rounds are followed by another.
    pub(super) fn evict(&mut self, now: Time, namespace: Namespace, rounds: u32, random: u64, out: &mut Vec<Output>) {
        if now < self.hold_until {
            // The next sweep begins again.
            return;
        }
        let settings = self.state.settings();
        let most = Decision::MAX_OPS.min(settings.batch_ops);
        let space = self.state.space(&namespace);
        let due = space.map(|space| rules::evictable(space, &settings.retention, now, Decision::MAX_RECORDS));
        let forming = |id: TaskId| self.forming.before.contains_key(&Key::Task(namespace.clone(), id));
        // An end is written before it is deleted: in one batch nobody would ever see it.
        let unseen = due.into_iter().flatten().any(forming);
        if unseen || !self.forming.has_room(most, settings.batch_ops, settings.batch_bytes) {
            // Retention waits for a batch with room; the rest of the queue does not.
            self.evictions.push(Work::Evict { namespace, rounds });
            return;
        }
        let before = self.state.space(&namespace).map_or(0, |s| s.tasks.len());
        let _always_decided = self.decide(now, &namespace, Command::Evict { most }, random, out);
        let after = self.state.space(&namespace).map_or(0, |s| s.tasks.len());
        if after < before && rounds > 0 {
            if rounds.is_multiple_of(64) {
                self.internal(namespace.clone(), Command::RaiseFloor);
            }
            self.queue.push_back(Work::Evict { namespace, rounds: rounds - 1 });
        }
    }
}

/// When what a task waits for began; what began under another leader gets a grace of this one.
fn began(space: &crate::state::Space, id: TaskId) -> Time {
    let Some(task) = space.task(id) else { return Time::ZERO };
    match &task.phase {
        Phase::Pending { since, .. } => *since,
        Phase::Assigned(run) | Phase::InputRequired(run, _) => run.assigned,
        Phase::Ended { at, .. } => *at,
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
