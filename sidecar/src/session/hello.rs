//! The inventory, level-triggered: nothing else is needed to resume.

use hive_proto::sidecar_v1::{
    AgentCredit, FinishedAttempt, Hello, HostedAgent, RunningAttempt, SessionEpoch, SessionRequest, SessionResponse,
    SidecarMessage, Verdict, Welcome, control_message::Kind as Said, sidecar_message::Kind,
};
use hive_proto::v1::DesiredState;

use super::attempt::{Phase, StopCause};
use super::link::Link;
use super::record::Entry;
use super::settled::Settled;
use super::types::{Connection, Leader, Output, Revision, key_of};
use super::{Agent, Rng, Session, wire};
use crate::mutant::{self, Mutant};
use std::time::Duration;

impl Session {
    pub(super) fn hello(&mut self, connection: Connection) -> SidecarMessage {
        let mut hosted = Vec::new();
        for agent in self.agents.values_mut() {
            agent.told = None;
        }
        for credit in self.room() {
            let Some(agent) = self.agents.get_mut(&credit.agent_id) else { continue };
            agent.told = Some((credit.free_slots, credit.ready));
            let AgentCredit { agent_id, free_slots, ready } = credit;
            let removed = agent.desired == DesiredState::Removed;
            hosted.push(HostedAgent { agent_id, spec: Some(agent.spec.clone()), free_slots, ready, removed });
        }
        let (running, finished) = self.inventory();
        wire::message(Kind::Hello(Hello {
            namespace: self.settings.namespace.clone(),
            sidecar_id: self.settings.sidecar_id.clone(),
            boot_id: self.boot_id.to_vec().into(),
            generation: self.generation,
            connection: connection.0,
            agents: hosted,
            running,
            finished,
            cluster_id: self.cluster.clone(),
            version: self.settings.version.clone(),
            capability_flags: Vec::new(),
        }))
    }

    /// What runs or may yet run, and what has ended and is kept.
    pub(super) fn inventory(&self) -> (Vec<RunningAttempt>, Vec<FinishedAttempt>) {
        let (mut running, mut finished) = (Vec::new(), Vec::new());
        for (&key, attempt) in &self.attempts {
            let (reference, agent_id) = (Some(key.into()), attempt.assigned.agent.clone());
            let start_time = match &attempt.phase {
                Phase::Finished { .. } => {
                    finished.push(FinishedAttempt { attempt: reference, agent_id });
                    continue;
                }
                Phase::Running { started_ms } => Some(wire::timestamp(*started_ms)),
                _ => None,
            };
            let input_number = attempt.question_number();
            running.push(RunningAttempt { attempt: reference, agent_id, start_time, input_number });
        }
        (running, finished)
    }

    /// Room of every agent. A removed one is declared like the others: what it still has belongs to it,
    /// and it may be brought back.
    pub(super) fn room(&self) -> Vec<AgentCredit> {
        self.agents.iter().map(|(id, agent)| self.credit(id, agent)).collect()
    }

    fn credit(&self, id: &str, agent: &Agent) -> AgentCredit {
        let takes = self.stopping.is_none() && self.disk.ill_until.is_none();
        let free_slots = if takes { agent.spec.slots.saturating_sub(self.occupied(id)) } else { 0 };
        let ready = agent.ready && self.stopping.is_none();
        AgentCredit { agent_id: id.to_owned(), free_slots, ready }
    }

    /// Epochs and revisions count within one cluster. Under another one, whose store knows nothing of
    /// what was before, this sidecar begins anew, unless it holds what only the old one can settle.
    pub(super) fn follow_cluster(&mut self, frame: &SessionResponse, out: &mut Vec<Output>) -> bool {
        let welcomed = frame.messages.iter().find_map(|message| match &message.kind {
            Some(Said::Welcome(welcome)) => Some(&welcome.cluster_id),
            _ => None,
        });
        let Some(cluster) = welcomed.filter(|cluster| !cluster.is_empty() && **cluster != self.cluster) else {
            return true;
        };
        if !self.cluster.is_empty() {
            if !self.attempts.is_empty() {
                tracing::error!(
                    held = self.attempts.len(),
                    of = self.cluster,
                    cluster,
                    "the control plane leads another cluster than the one whose attempts are held here; they are kept for that one"
                );
                return false;
            }
            tracing::warn!(
                before = self.cluster,
                cluster,
                "the control plane leads another cluster than before; beginning anew with it"
            );
            self.leader = Leader::default();
            self.newest = Revision::default();
            self.settled = Settled::default();
            let changed = self.agents.iter().filter(|(_, agent)| agent.desired != DesiredState::Active);
            for id in changed.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
                self.desire(&id, DesiredState::Active, out);
            }
        }
        self.cluster.clone_from(cluster);
        self.append(vec![Entry::Cluster(cluster.clone())], Vec::new(), out);
        true
    }

    pub(super) fn welcomed(&mut self, connection: Connection, welcome: Welcome, rng: Rng<'_>, out: &mut Vec<Output>) {
        let Link::Greeting { said_at, .. } = self.link else { return self.nonsense("a welcome nobody asked for") };
        if welcome.connection != connection.0 || welcome.generation == 0 {
            self.nonsense("a welcome for another session; starting over on a new stream");
            return self.hang_up(rng, out);
        }
        self.stats.welcomes += 1;
        self.link = Link::Open(connection);
        if welcome.generation != self.generation {
            self.generation = welcome.generation;
            self.append(vec![Entry::Generation(self.generation)], Vec::new(), out);
        }
        tracing::info!(generation = self.generation, connection = connection.0, leader = ?self.leader, "welcomed");
        self.set_pace(&welcome, said_at);
        self.tell_all_again();
        for verdict in welcome.verdicts {
            let stop = verdict.verdict() == Verdict::Stop;
            let Some(key) = key_of(verdict.attempt.as_ref()) else { continue };
            if let Some(release) = verdict.release.as_ref().filter(|_| stop) {
                self.release(key, release, out);
            } else if let Some(attempt) = self.attempts.get(&key).filter(|_| stop) {
                let grace = Duration::from_millis(attempt.assigned.grace_ms);
                self.stop_attempt(key, StopCause::Cancelled, grace, out);
            }
        }
        for drain in welcome.agents {
            self.drain(drain, out);
        }
        for taken in welcome.in_use {
            tracing::error!(
                agent = taken.agent_id,
                sidecar = taken.sidecar_id,
                "another sidecar hosts this agent and is alive: no work comes here for it until that one lets it go"
            );
        }
    }

    /// What an earlier stream may have lost.
    fn tell_all_again(&mut self) {
        for attempt in self.attempts.values_mut() {
            match &mut attempt.phase {
                Phase::Finished { due_ms: u64::MAX, .. } if mutant::is(Mutant::ResultOnce) => {}
                Phase::Finished { due_ms, wait_ms, .. } => (*due_ms, *wait_ms) = (self.now.mono_ms, 0),
                Phase::Running { .. } => attempt.tell_started = true,
                _ => {}
            }
            if let Some(question) = &mut attempt.question {
                question.told = false;
            }
        }
    }

    pub(super) fn send(&self, connection: Connection, messages: Vec<SidecarMessage>, out: &mut Vec<Output>) {
        let session = Some(SessionEpoch { generation: self.generation, connection: connection.0 });
        let request = SessionRequest { session, leader: Some(self.leader.to_wire()), messages };
        out.push(Output::Send(connection, request));
    }
}
