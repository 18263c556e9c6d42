//! Agents: what operators want of them, and their loss.

use std::sync::Arc;

use super::{Rule, same_id};
use crate::command::{AgentUpdate, Decision, Effect, Reply};
use crate::id::AgentId;
use crate::record::{AgentRecord, AgentSpec, Change, Desired, Digest, Key, Record};
use crate::rejection::Rejection;
use crate::state::Contact;

impl Rule<'_> {
    pub(super) fn agent(&self, id: &AgentId) -> Result<&Arc<AgentRecord>, Rejection> {
        self.space.agent(id).ok_or_else(|| Rejection::AgentNotFound(id.clone()))
    }

    /// Writes an agent's record if it differs from the one that stands.
    pub(super) fn write_agent(&self, mut next: AgentRecord) -> Decision {
        let before = self.space.agent(&next.id);
        if let Some(before) = before {
            next.updated = before.updated;
            if **before == next {
                return Decision::reply(Reply::Agent(before.clone()));
            }
        }
        next.updated = self.ctx.now;
        let agent = Arc::new(next);
        let told = before.is_none_or(|before| before.desired != agent.desired || before.evict != agent.evict);
        Decision {
            changes: vec![self.put(Record::Agent(agent.clone()))],
            effects: told.then(|| Effect::Desire(agent.id.clone())).into_iter().collect(),
            ..Decision::reply(Reply::Agent(agent))
        }
    }

    pub(super) fn new_agent(&self, id: AgentId, spec: AgentSpec) -> AgentRecord {
        AgentRecord {
            id,
            spec,
            declared: None,
            request: None,
            desired: Desired::Active,
            depth: Default::default(),
            moved: self.space.tenant().moved,
            host: None,
            lost: false,
            evict: false,
            created: self.ctx.now,
            updated: self.ctx.now,
        }
    }

    pub(super) fn register_agent(&self, id: AgentId, spec: AgentSpec, request: Digest) -> Result<Decision, Rejection> {
        let next = match self.space.agent(&id) {
            None => AgentRecord { request: Some(request), ..self.new_agent(id, spec) },
            Some(agent) if agent.desired == Desired::Removed => AgentRecord {
                spec: AgentSpec { runtime: agent.spec.runtime, ..spec },
                request: Some(request),
                desired: Desired::Active,
                evict: false,
                ..AgentRecord::clone(agent)
            },
            Some(agent) if agent.request == Some(request) => {
                return Ok(Decision::reply(Reply::Agent(agent.clone())));
            }
            Some(agent) if agent.request.is_some_and(|before| same_id(&before, &request)) => {
                return Err(Rejection::RequestIdReused);
            }
            Some(_) => return Err(Rejection::AgentExists(id)),
        };
        Ok(self.write_agent(next))
    }

    pub(super) fn update_agent(&self, id: &AgentId, update: AgentUpdate) -> Result<Decision, Rejection> {
        let mut next = AgentRecord::clone(self.agent(id)?);
        if next.desired == Desired::Removed {
            return Err(Rejection::AgentRemoved(id.clone()));
        }
        let spec = &mut next.spec;
        spec.pool = update.pool.unwrap_or_else(|| spec.pool.clone());
        spec.capabilities = update.capabilities.unwrap_or_else(|| spec.capabilities.clone());
        spec.labels = update.labels.unwrap_or_else(|| spec.labels.clone());
        spec.slots = update.slots.unwrap_or(spec.slots);
        Ok(self.write_agent(next))
    }

    pub(super) fn drain_agent(&self, id: &AgentId, undo: bool) -> Result<Decision, Rejection> {
        let mut next = AgentRecord::clone(self.agent(id)?);
        if next.desired == Desired::Removed {
            return Err(Rejection::AgentRemoved(id.clone()));
        }
        next.desired = if undo { Desired::Active } else { Desired::Drained };
        Ok(self.write_agent(next))
    }

    pub(super) fn remove_agent(&self, id: &AgentId, force: bool) -> Result<Decision, Rejection> {
        let mut next = AgentRecord::clone(self.agent(id)?);
        next.desired = Desired::Removed;
        next.evict |= force;
        Ok(self.write_agent(next))
    }

    pub(super) fn restore_agent(&self, id: &AgentId) -> Result<Decision, Rejection> {
        let agent = self.agent(id)?;
        let desired = if agent.desired == Desired::Removed { Desired::Active } else { agent.desired };
        Ok(self.write_agent(AgentRecord { desired, evict: false, ..AgentRecord::clone(agent) }))
    }

    /// An agent whose host was heard meanwhile is not lost.
    pub(super) fn lose_agent(&self, id: &AgentId) -> Decision {
        let silent = self.space.agent_entry(id).filter(|entry| entry.soft.contact != Contact::Connected);
        let Some(agent) = silent.and_then(|entry| entry.record.as_ref()) else { return Decision::reply(Reply::Done) };
        self.write_agent(AgentRecord { lost: true, ..AgentRecord::clone(agent) })
    }

    /// Deletes the record of an agent that has been removed or lost for the retention age, and its
    /// host's with the last of its agents. One whose host still declares it stays: forgotten, it
    /// would come back as new.
    pub(super) fn forget_agent(&self, id: &AgentId) -> Decision {
        let mut decision = Decision::reply(Reply::Done);
        let idle =
            self.space.agent_entry(id).is_some_and(|e| e.slots.is_empty() && (e.soft.contact != Contact::Connected));
        let due = |agent: &&Arc<AgentRecord>| {
            idle && agent.is_leaving() && self.ctx.now >= agent.updated + self.settings.retention.age
        };
        let Some(agent) = self.space.agent(id).filter(due) else { return decision };
        let delete = |key| Change { key, value: None };
        let mut tenant = self.space.tenant();
        tenant.moved = tenant.moved.max(agent.moved);
        decision.changes.push(delete(Key::Agent(self.ctx.namespace.clone(), id.clone())));
        if let Some(host) = agent.host.as_ref().filter(|host| self.space.hosted(host).eq([id])) {
            tenant.generation = tenant.generation.max(self.space.incarnation(agent).generation);
            decision.changes.push(delete(Key::Sidecar(self.ctx.namespace.clone(), host.clone())));
        }
        // Incarnations only grow, also past what was forgotten.
        if tenant != self.space.tenant() {
            decision.changes.push(self.put(Record::Namespace(Arc::new(tenant))));
        }
        decision
    }
}
