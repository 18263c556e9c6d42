//! A sidecar says hello: it is let in, its agents are hosted, its attempts are judged.
//!
//! Level-triggered: whatever was lost on the way is found again here.

use std::collections::BTreeMap;

use super::batch::Parked;
use super::hosts::Session;
use super::message::{AttemptVerdict, CloseCause, Declared, Hello, Welcome};
use super::{Connection, Leader, Output, Work};
use crate::command::{Command, Context, Reply};
use crate::id::{AgentId, AssignNumber, Namespace, SessionEpoch, SidecarId, TaskId};
use crate::record::Desired;
use crate::rejection::Rejection;
use crate::rules;
use crate::state::{Contact, Offer};
use crate::time::Time;

impl Leader {
    /// The sidecar may still be alive: its session is fresh, or this leader can't know yet.
    fn may_live(&self, now: Time, namespace: &Namespace, sidecar: &SidecarId) -> bool {
        let Some(host) = self.hosts.get(&(namespace.clone(), sidecar.clone())) else { return false };
        let liveness = &self.state.settings().liveness;
        let beat = liveness.beat(self.hosts.sessions());
        let patience = if host.heard <= self.took_office && host.session.is_none() {
            liveness.grace(beat)
        } else {
            liveness.suspect_after(beat) / liveness.suspect_beats.max(1)
        };
        !host.left && now < host.heard + patience
    }

    /// First step: is this sidecar who it says, and may it host these agents?
    pub(super) fn admit(
        &mut self,
        now: Time,
        connection: Connection,
        mut hello: Box<Hello>,
        random: &mut dyn FnMut() -> u64,
        out: &mut Vec<Output>,
    ) {
        let host = |id: &AgentId| self.state.space(&hello.namespace)?.agent(id)?.host.as_ref();
        let elsewhere = |id: &AgentId| host(id).is_some_and(|host| *host != hello.sidecar);
        let passed_over: Vec<bool> =
            hello.agents.iter().map(|declared| declared.removed && elsewhere(&declared.credit.agent)).collect();
        let mut passed_over = passed_over.into_iter();
        hello.agents.retain(|_| !passed_over.next().unwrap_or(false));
        let in_use = self.refuse_in_use(&mut hello);
        match self.try_admit(now, connection, &hello, random(), out) {
            Err(cause) => {
                // A sidecar leaves for good upon this, so it takes a commit: a leader that was replaced
                // and does not know it can't make one.
                self.forming.forced |= matches!(cause, CloseCause::Rejected(Rejection::SidecarFenced(_)));
                if self.hosts.by_connection(connection).is_none() {
                    self.park(Parked::Close { connection, cause }, out);
                } else {
                    self.hang_up(connection, out);
                    self.park(Parked::Close { connection, cause }, out);
                }
            }
            Ok(epoch) => {
                let key = (hello.namespace.clone(), hello.sidecar.clone());
                if self.hosts.by_connection(connection).is_some_and(|other| *other != key) {
                    // The stream spoke for another sidecar before.
                    self.hang_up(connection, out);
                }
                let gone = self.no_longer_hosted(&hello);
                self.chores += gone.len();
                let mut steps: Vec<Work> = hello
                    .agents
                    .iter()
                    .map(|declared| Work::Host { connection, declared: declared.clone() })
                    .chain(gone.into_iter().map(|agent| Work::Internal {
                        namespace: hello.namespace.clone(),
                        command: Command::UnhostAgent(agent),
                    }))
                    .collect();
                steps.push(Work::Welcome { connection });
                for step in steps.into_iter().rev() {
                    self.queue.push_front(step);
                }
                let session = Session {
                    connection,
                    epoch,
                    open: false,
                    hello: Some(hello),
                    in_use,
                    sent: AssignNumber::default(),
                    kill_after: Default::default(),
                    unreceipted: Default::default(),
                };
                if let Some(replaced) = self.hosts.open(key, session, now) {
                    out.push(Output::Close { connection: replaced, cause: CloseCause::SessionStale });
                }
            }
        }
    }

    /// Takes those agents out that another live sidecar hosts: one wrong line in a sidecar's file must
    /// not cost it the others. If nothing is left the whole hello is refused.
    fn refuse_in_use(&self, hello: &mut Hello) -> Vec<(AgentId, SidecarId)> {
        let mut in_use = Vec::new();
        for declared in &hello.agents {
            let id = &declared.credit.agent;
            let host = self.state.space(&hello.namespace).and_then(|space| space.agent(id)?.host.clone());
            if let Some(host) = host.filter(|_| self.is_in_use(&hello.namespace, &hello.sidecar, id)) {
                in_use.push((id.clone(), host));
            }
        }
        if in_use.len() < hello.agents.len() {
            hello.agents.retain(|declared| in_use.iter().all(|(id, _)| *id != declared.credit.agent));
            in_use
        } else {
            Vec::new()
        }
    }

    /// Lets sidecars say hello again that were refused an agent which is free by now.
    pub(super) fn offer_hosting(&mut self, out: &mut Vec<Output>) {
        let free = |((namespace, sidecar), session): &(&(Namespace, SidecarId), &Session)| {
            session.in_use.iter().any(|(agent, _)| !self.is_in_use(namespace, sidecar, agent))
        };
        let again: Vec<Connection> = self.hosts.refused().filter(free).map(|(_, session)| session.connection).collect();
        for connection in again {
            self.hang_up(connection, out);
            self.park(Parked::Close { connection, cause: CloseCause::SessionStale }, out);
        }
    }

    fn try_admit(
        &mut self,
        now: Time,
        connection: Connection,
        hello: &Hello,
        random: u64,
        out: &mut Vec<Output>,
    ) -> Result<SessionEpoch, CloseCause> {
        let namespace = &hello.namespace;
        let rejected = CloseCause::Rejected;
        let space = self.state.space(namespace).ok_or(rejected(Rejection::NamespaceNotFound))?;
        let ctx = Context { namespace, now, random };
        for declared in &hello.agents {
            let command = self.host_command(namespace, &hello.sidecar, declared);
            rules::decide(&self.state, command, &ctx).map_err(rejected)?;
        }
        let known = space.sidecar(&hello.sidecar).map(|r| r.boot);
        let rival = known.is_some_and(|boot| boot != hello.boot) && self.may_live(now, namespace, &hello.sidecar);
        let claimed = hello.generation;
        let command = Command::AdmitSidecar { id: hello.sidecar.clone(), boot: hello.boot, claimed, rival };
        // Judged before it is applied, so that a stale dial changes nothing.
        let Reply::Admitted(generation) = rules::decide(&self.state, command.clone(), &ctx).map_err(rejected)?.reply
        else {
            return Err(CloseCause::SessionStale);
        };
        let epoch = SessionEpoch { generation, connection: hello.connection };
        let key = (namespace.clone(), hello.sidecar.clone());
        if let Some(session) = self.hosts.get(&key).and_then(|host| host.session.as_ref()) {
            let again = session.connection == connection && session.epoch == epoch;
            if session.epoch >= epoch && !again {
                return Err(CloseCause::SessionStale);
            }
        }
        self.decide(now, namespace, command, random, out).map_err(rejected)?;
        Ok(epoch)
    }

    fn host_command(&self, namespace: &Namespace, host: &SidecarId, declared: &Declared) -> Command {
        let id = declared.credit.agent.clone();
        let rival = self.is_in_use(namespace, host, &id);
        Command::HostAgent { host: host.clone(), id, spec: declared.spec.clone(), digest: declared.digest, rival }
    }

    /// Another sidecar hosts it, which has neither left nor been silent for a grace.
    fn is_in_use(&self, namespace: &Namespace, host: &SidecarId, agent: &AgentId) -> bool {
        let other = self.state.space(namespace).and_then(|s| s.agent(agent)).and_then(|agent| agent.host.clone());
        other.is_some_and(|other| {
            let left = self.hosts.get(&(namespace.clone(), other.clone())).is_some_and(|host| host.left);
            other != *host && !left && !self.is_lost(namespace, agent)
        })
    }

    fn is_lost(&self, namespace: &Namespace, agent: &AgentId) -> bool {
        self.state.space(namespace).and_then(|s| s.agent(agent)).is_none_or(|agent| agent.lost)
    }

    fn no_longer_hosted(&self, hello: &Hello) -> Vec<AgentId> {
        let Some(space) = self.state.space(&hello.namespace) else { return Vec::new() };
        space
            .hosted(&hello.sidecar)
            .filter(|id| !hello.agents.iter().any(|declared| declared.credit.agent == **id))
            .cloned()
            .collect()
    }

    /// Second step, for each agent.
    pub(super) fn host(
        &mut self,
        now: Time,
        connection: Connection,
        declared: Declared,
        random: u64,
        out: &mut Vec<Output>,
    ) {
        let Some((namespace, sidecar)) = self.host_key(connection) else { return };
        let command = self.host_command(&namespace, &sidecar, &declared);
        if let Err(rejection) = self.decide(now, &namespace, command, random, out) {
            self.hang_up(connection, out);
            self.park(Parked::Close { connection, cause: CloseCause::Rejected(rejection) }, out);
        }
    }

    /// Last step: attempts are judged, room is known, work may come.
    pub(super) fn welcome(
        &mut self,
        now: Time,
        connection: Connection,
        random: &mut dyn FnMut() -> u64,
        out: &mut Vec<Output>,
    ) {
        let Some((namespace, sidecar)) = self.host_key(connection) else { return };
        let Some(session) = self.hosts.session_mut(connection) else { return };
        let epoch = session.epoch;
        let Some(hello) = session.hello.clone() else { return };
        let in_use = session.in_use.clone();
        let listed: BTreeMap<TaskId, &super::Listed> =
            hello.attempts.iter().map(|listed| (listed.token.task, listed)).collect();
        let Some(space) = self.state.spaces.get_mut(&namespace) else { return };
        let verdicts = hello
            .attempts
            .iter()
            .map(|listed| AttemptVerdict { token: listed.token, over: rules::verdict(space, listed.token) })
            .collect();
        let mut lost = Vec::new();
        let mut agents = Vec::new();
        for declared in &hello.agents {
            let id = &declared.credit.agent;
            let Some(record) = space.agent(id).cloned() else { continue };
            if record.host.as_ref() != Some(&sidecar) {
                agents.push((id.clone(), Desired::Removed));
                continue;
            }
            agents.push((id.clone(), record.desired));
            let incarnation = space.incarnation(&record);
            let slots: Vec<(TaskId, crate::id::Attempt)> =
                space.agent_entry(id).into_iter().flat_map(|e| e.slots.iter().map(|(t, s)| (*t, s.attempt))).collect();
            for (task, attempt) in slots {
                let claim = listed.get(&task).filter(|l| l.token.attempt == attempt);
                let older = space.task(task).and_then(|t| t.run().map(|run| run.incarnation < incarnation));
                if claim.is_none() && older == Some(true) {
                    lost.push(crate::command::token(task, attempt));
                }
                space.soften(id, |entry| {
                    let Some(slot) = entry.slots.get_mut(&task) else { return };
                    slot.offer = if claim.is_some() { Offer::Reflected } else { Offer::Decided };
                });
            }
            let credit = declared.credit.clone();
            space.soften(id, |entry| {
                entry.soft.free = credit.free;
                entry.soft.ready = credit.ready;
            });
        }
        for listed in &hello.attempts {
            self.note_start(now, &namespace, &sidecar, listed);
        }
        for token in lost {
            if !self.has_room() {
                // The rest goes into the next batch; what is lost by then is not found again.
                self.queue.push_front(Work::Welcome { connection });
                return;
            }
            let command = Command::LoseAttempt { token, message: "its host came back without it" };
            let _always_decided = self.decide(now, &namespace, command, random(), out);
        }
        let key = (namespace, sidecar);
        self.set_contact(&key, Contact::Connected, out);
        let liveness = &self.state.settings().liveness;
        let beat = liveness.beat(self.hosts.sessions());
        let kill_after = liveness.kill_after(beat);
        if let Some(host) = self.hosts.get_mut(&key) {
            // It may never hear of this one and go by an earlier one.
            host.kill_after = host.kill_after.max(kill_after);
            host.session.iter_mut().for_each(|session| session.kill_after = kill_after);
        }
        let welcome = Box::new(Welcome {
            generation: epoch.generation,
            connection: epoch.connection,
            beat,
            jitter_permille: liveness.jitter_permille,
            kill_after,
            verdicts,
            agents,
            in_use,
            revision: self.revision(),
        });
        self.park(Parked::Welcome { connection, welcome }, out);
    }
}
