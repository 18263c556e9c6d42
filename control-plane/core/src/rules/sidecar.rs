//! Sidecars: who speaks for which agents, and under which generation.

use std::sync::Arc;

use super::Rule;
use crate::command::{Decision, Reply};
use crate::id::{AgentId, BootId, Generation, SidecarId};
use crate::record::{AgentRecord, AgentSpec, Desired, Digest, Record, SidecarRecord};
use crate::rejection::Rejection;

/// No sidecar was ever given such a generation. Taken up, a claim of it would leave no higher one to give.
const BEYOND: Generation = Generation(u64::MAX / 2);

impl Rule<'_> {
    /// A known boot comes back without a write; a new one gets a new generation, unless the one on
    /// record may still be alive.
    pub(super) fn admit_sidecar(
        &self,
        id: SidecarId,
        boot: BootId,
        claimed: Generation,
        rival: bool,
    ) -> Result<Decision, Rejection> {
        let before = self.space.sidecar(&id);
        if let Some(known) = before {
            if known.boot == boot {
                // A journal that holds a later generation than this boot was given is not this boot's.
                // An earlier one is: the welcome that told of the later one was lost.
                return if claimed <= known.generation {
                    Ok(Decision::reply(Reply::Admitted(known.generation)))
                } else {
                    Err(Rejection::SidecarFenced(id))
                };
            }
            if claimed != Generation(0) {
                return Err(Rejection::SidecarFenced(id));
            }
            if rival {
                return Err(Rejection::SidecarIdInUse(id));
            }
        }
        if claimed >= BEYOND {
            return Err(Rejection::SidecarFenced(id));
        }
        // A journal from before a restore may hold a higher generation than any on record.
        let known = before.map_or(self.space.tenant().generation, |known| known.generation);
        let generation = known.max(claimed).next();
        let record = SidecarRecord { id, boot, generation, updated: self.ctx.now };
        Ok(Decision {
            changes: vec![self.put(Record::Sidecar(Arc::new(record)))],
            ..Decision::reply(Reply::Admitted(generation))
        })
    }

    pub(super) fn host_agent(
        &self,
        host: SidecarId,
        id: AgentId,
        spec: AgentSpec,
        digest: Digest,
        rival: bool,
    ) -> Result<Decision, Rejection> {
        let Some(before) = self.space.agent(&id) else {
            let next = AgentRecord { host: Some(host), declared: Some(digest), ..self.new_agent(id, spec) };
            return Ok(self.write_agent(next));
        };
        let mut next = AgentRecord::clone(before);
        if let Some(other) = before.host.as_ref().filter(|other| **other != host) {
            if rival && !before.lost {
                return Err(Rejection::AgentIdInUse { agent: id, host: other.clone() });
            }
            next.moved = before.moved.next();
        }
        if before.desired == Desired::Removed && before.host.as_ref() != Some(&host) {
            // A removed agent is declared by a host that has not heard of it: it stays removed.
            return Ok(self.write_agent(AgentRecord { host: Some(host), ..next }));
        }
        next.host = Some(host);
        next.lost = false;
        if before.declared != Some(digest) {
            next.declared = Some(digest);
            next.spec = spec;
        }
        Ok(self.write_agent(next))
    }

    pub(super) fn unhost_agent(&self, id: &AgentId) -> Decision {
        let Some(agent) = self.space.agent(id).filter(|agent| agent.host.is_some()) else {
            return Decision::reply(Reply::Done);
        };
        // Leaving is half a move: the next host's generation may be lower than this one's.
        let moved = agent.moved.next();
        self.write_agent(AgentRecord { host: None, moved, lost: true, ..AgentRecord::clone(agent) })
    }
}
