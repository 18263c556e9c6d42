//! What a sidecar says after its hello.

use super::batch::Parked;
use super::message::{Beat, CloseCause, Credit, FromSidecar, Listed};
use super::{Connection, Leader, Output, ToSidecar};
use crate::command::{Command, Outcome, Release, Reply};
use crate::id::{AgentId, AssignNumber, AttemptId, Namespace, SidecarId};
use crate::mutant::{self, Mutant};
use crate::record::Key;
use crate::state::{Contact, Offer, Progress};
use crate::time::Time;

impl Leader {
    pub(super) fn hear(
        &mut self,
        now: Time,
        connection: Connection,
        message: FromSidecar,
        random: &mut dyn FnMut() -> u64,
        out: &mut Vec<Output>,
    ) {
        if let FromSidecar::Hello(hello) = message {
            return self.admit(now, connection, hello, random, out);
        }
        let Some((namespace, sidecar)) = self.host_key(connection) else {
            out.push(Output::Send { connection, message: ToSidecar::Resync });
            return;
        };
        match message {
            FromSidecar::Hello(_) => {}
            FromSidecar::Credit { seen, agents } => self.credit(&namespace, &sidecar, connection, seen, &agents),
            FromSidecar::Receipt(seen) => self.receipt(connection, seen),
            FromSidecar::Started(token) => self.started(now, &namespace, &sidecar, token, out),
            FromSidecar::Beat(beat) => self.beat(now, connection, &namespace, &sidecar, *beat, out),
            FromSidecar::Progress { token, fraction, message } => {
                let progress = Progress { fraction, message, time: now };
                self.with_slot(&namespace, &sidecar, token, |slot| slot.progress = Some(progress));
                out.push(Output::Touched(Key::Task(namespace, token.task)));
            }
            FromSidecar::Declined(token) => {
                let agent = self.speaks_for(&namespace, &sidecar, token);
                let command = agent.map(|agent| Command::Decline { token, agent });
                self.give_back(now, connection, &namespace, token, command, random(), out);
            }
            FromSidecar::AttemptLost(token) => {
                let agent = self.speaks_for(&namespace, &sidecar, token);
                let command = agent.map(|_| Command::LoseAttempt { token, message: "its sidecar lost it" });
                self.give_back(now, connection, &namespace, token, command, random(), out);
            }
            FromSidecar::InputRequired { token, number, prompt } => {
                if self.speaks_for(&namespace, &sidecar, token).is_some() {
                    let command = Command::AskInput { token, number, prompt };
                    let _always_decided = self.decide(now, &namespace, command, random(), out);
                }
            }
            FromSidecar::Result { token, outcome } => {
                self.result(now, connection, &namespace, &sidecar, token, outcome, random(), out);
            }
            FromSidecar::Goodbye => {
                let key = (namespace, sidecar);
                if let Some(host) = self.hosts.get_mut(&key) {
                    host.left = true;
                }
                self.hosts.close(connection);
                self.set_contact(&key, Contact::Suspect, out);
                self.park(Parked::Close { connection, cause: CloseCause::Goodbye }, out);
            }
        }
    }

    /// The agent that has an attempt now, if this sidecar hosts it, or had it when the attempt was
    /// assigned and has only ceased to declare it: what such a one finished still counts.
    fn speaks_for(&self, namespace: &Namespace, sidecar: &SidecarId, token: AttemptId) -> Option<AgentId> {
        let space = self.state.space(namespace)?;
        let current = |attempt| attempt == token.attempt || mutant::is(Mutant::StaleAttempt);
        let task = space.task(token.task).filter(|task| current(task.attempt))?;
        let run = task.run()?;
        let agent = space.agent(&run.agent)?;
        let hosts = agent.host.as_ref() == Some(sidecar);
        let hosted = || {
            // Its host may have rebooted since: the journal kept what had finished.
            let could = space.sidecar(sidecar).is_some_and(|host| host.generation >= run.incarnation.generation);
            agent.host.is_none() && agent.moved == run.incarnation.moved.next() && could
        };
        (hosts || hosted()).then(|| agent.id.clone())
    }

    #[expect(clippy::too_many_arguments, reason = "one message with where it came from")]
    fn result(
        &mut self,
        now: Time,
        connection: Connection,
        namespace: &Namespace,
        sidecar: &SidecarId,
        token: AttemptId,
        outcome: Outcome,
        random: u64,
        out: &mut Vec<Output>,
    ) {
        let agent = self.speaks_for(namespace, sidecar, token);
        if agent.is_none() {
            let release = self.state.space(namespace).and_then(|space| crate::rules::verdict(space, token));
            self.stats.results_refused += 1;
            out.push(Output::ResultRefused { token, release });
        }
        let command = agent.map(|agent| Command::Report { token, agent, outcome });
        self.give_back(now, connection, namespace, token, command, random, out);
    }

    /// An attempt comes back, finished or not: once what follows is committed its sidecar may forget
    /// it. An intent is kept till then, so that an offer still under way does not start it again.
    #[expect(clippy::too_many_arguments, reason = "one message with where it came from")]
    fn give_back(
        &mut self,
        now: Time,
        connection: Connection,
        namespace: &Namespace,
        token: AttemptId,
        command: Option<Command>,
        random: u64,
        out: &mut Vec<Output>,
    ) {
        let release = match command {
            Some(command) => match self.decide(now, namespace, command, random, out) {
                Ok(Reply::Release(release)) => release,
                _ => return,
            },
            None => {
                let Some(space) = self.state.space(namespace) else { return };
                // A current attempt on the word of a sidecar that does not host its agent: no answer.
                let Some(release) = crate::rules::verdict(space, token) else { return };
                release
            }
        };
        let release = Parked::Release { connection, token, release };
        if mutant::is(Mutant::SupersededTold) { self.tell(release, out) } else { self.park(release, out) }
    }

    fn credit(
        &mut self,
        namespace: &Namespace,
        sidecar: &SidecarId,
        connection: Connection,
        seen: AssignNumber,
        agents: &[Credit],
    ) {
        let Some(session) = self.hosts.session_mut(connection) else { return };
        if seen > session.sent {
            return;
        }
        self.receipt(connection, seen);
        let Some(session) = self.hosts.session_mut(connection) else { return };
        let Some(space) = self.state.spaces.get_mut(namespace) else { return };
        for credit in agents {
            if space.agent(&credit.agent).is_none_or(|agent| agent.host.as_ref() != Some(sidecar)) {
                continue;
            }
            let unseen = session.unreceipted.iter().filter(|(.., agent, _)| *agent == credit.agent);
            space.soften(&credit.agent, |entry| {
                // Under way and ended meanwhile: the free slots told do not know of it, and no slot
                // here stands for it.
                let orphaned = unseen.filter(|(number, _, _, token)| {
                    entry.slots.get(&token.task).is_none_or(|slot| slot.offer != Offer::Sent(*number))
                });
                let orphaned = u32::try_from(orphaned.count()).unwrap_or(u32::MAX);
                entry.soft.free = credit.free.saturating_sub(orphaned);
                entry.soft.ready = credit.ready;
                for slot in entry.slots.values_mut() {
                    if matches!(slot.offer, Offer::Sent(number) if number <= seen) {
                        slot.offer = Offer::Reflected;
                    }
                }
            });
        }
    }

    fn receipt(&mut self, connection: Connection, seen: AssignNumber) {
        let Some(session) = self.hosts.session_mut(connection) else { return };
        while session.unreceipted.front().is_some_and(|(number, ..)| *number <= seen) {
            session.unreceipted.pop_front();
        }
    }

    fn with_slot(
        &mut self,
        namespace: &Namespace,
        sidecar: &SidecarId,
        token: AttemptId,
        change: impl FnOnce(&mut crate::state::Slot),
    ) -> bool {
        let Some(agent) = self.speaks_for(namespace, sidecar, token) else { return false };
        let Some(space) = self.state.spaces.get_mut(namespace) else { return false };
        let mut found = false;
        space.soften(&agent, |entry| {
            if let Some(slot) = entry.slots.get_mut(&token.task) {
                change(slot);
                found = true;
            }
        });
        found
    }

    /// An inventory knows of a start that was not heard, or not by this leader.
    pub(super) fn note_start(&mut self, now: Time, namespace: &Namespace, sidecar: &SidecarId, listed: &Listed) {
        let Some(claimed) = listed.started else { return };
        let token = listed.token;
        if self.speaks_for(namespace, sidecar, token).is_none() {
            return;
        }
        let Some(task) = self.state.space(namespace).and_then(|s| s.task(token.task)) else { return };
        let Some(run) = task.run() else { return };
        let (assigned, recorded) = (run.assigned, run.started);
        let mut first = false;
        self.with_slot(namespace, sidecar, token, |slot| {
            first = slot.started.is_none();
            // A sidecar's clock is believed only within what the leader knows.
            slot.started.get_or_insert(recorded.unwrap_or(claimed.clamp(assigned, now.max(assigned))));
        });
        if first && recorded.is_none() {
            self.starts.push_back((now, namespace.clone(), token));
        }
    }

    fn started(
        &mut self,
        now: Time,
        namespace: &Namespace,
        sidecar: &SidecarId,
        token: AttemptId,
        out: &mut Vec<Output>,
    ) {
        let mut first = false;
        self.with_slot(namespace, sidecar, token, |slot| {
            first = slot.started.is_none();
            slot.started.get_or_insert(now);
        });
        if first {
            let task = self.state.space(namespace).and_then(|space| space.task(token.task));
            if let Some(task) = task.filter(|task| task.attempt.0 == 1) {
                out.push(Output::Started { waited: now.since(task.created) });
            }
            self.starts.push_back((now, namespace.clone(), token));
            out.push(Output::Touched(Key::Task(namespace.clone(), token.task)));
        }
    }

    fn beat(
        &mut self,
        now: Time,
        connection: Connection,
        namespace: &Namespace,
        sidecar: &SidecarId,
        beat: Beat,
        out: &mut Vec<Output>,
    ) {
        let Some(session) = self.hosts.session_mut(connection) else { return };
        if !session.open {
            return;
        }
        if beat.seen > session.sent {
            // It counts another session's assignments.
            out.push(Output::Send { connection, message: ToSidecar::Resync });
            return;
        }
        let key = (namespace.clone(), sidecar.clone());
        if let Some(host) = self.hosts.get_mut(&key) {
            host.heard = now;
            // It beats, so it has its welcome.
            host.kill_after = host.session.as_ref().map_or(host.kill_after, |session| session.kill_after);
        }
        self.set_contact(&key, Contact::Connected, out);
        self.credit(namespace, sidecar, connection, beat.seen, &beat.agents);
        let liveness = &self.state.settings().liveness;
        let wanted = liveness.beat(self.hosts.sessions());
        // The fleet may have grown since its welcome. Slower than this it would fall silent by its own measure.
        let told = self.hosts.get(&key).map(|host| host.kill_after).unwrap_or_default();
        let slowest = told.saturating_sub(liveness.kill_margin) / liveness.kill_beats.max(1);
        let interval = wanted.min(slowest.max(liveness.min_beat));
        out.push(Output::Send { connection, message: ToSidecar::BeatAck { number: beat.number, interval } });
        if wanted >= interval * 2 {
            // A welcome tells it anew.
            out.push(Output::Send { connection, message: ToSidecar::Resync });
        }
        self.reconcile(connection, &beat.attempts, Some(beat.seen), out);
        for listed in &beat.attempts {
            self.note_start(now, namespace, sidecar, listed);
        }
        let lost = self.state.space(namespace).is_some_and(|space| {
            space.hosted(sidecar).any(|agent| space.agent(agent).is_some_and(|record| record.lost))
        });
        if lost {
            // Heard again without a new session: only a hello brings an agent back.
            out.push(Output::Send { connection, message: ToSidecar::Resync });
        }
    }

    /// Whether a release may be told from what is committed.
    pub(super) fn committed_verdict(&self, namespace: &Namespace, token: AttemptId) -> Option<Release> {
        if self.is_undecided(&Key::Task(namespace.clone(), token.task)) && !mutant::is(Mutant::SupersededTold) {
            return None;
        }
        crate::rules::verdict(self.state.space(namespace)?, token)
    }
}
