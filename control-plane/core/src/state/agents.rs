//! Keeping the indexes over agents: who hosts whom, who has room.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::demand::LoadKey;
use super::soft::{Contact, Offer, Slot, Soft};
use super::space::Space;
use crate::id::{AgentId, TaskId};
use crate::mutant::{self, Mutant};
use crate::record::{AgentRecord, Depth, Desired};

/// An agent with its slots and what is softly known of it.
#[derive(Clone, Debug, Default)]
pub struct AgentEntry {
    /// Its record; none while only its tasks have been loaded.
    pub record: Option<Arc<AgentRecord>>,
    /// Attempts assigned to it.
    pub slots: BTreeMap<TaskId, Slot>,
    /// What its host told.
    pub soft: Soft,
    profile: Option<u32>,
    listed: Option<LoadKey>,
    used: u64,
}

impl AgentEntry {
    /// Tasks it can be given now. Free slots come from the sidecar's word, less what was given since.
    #[must_use]
    pub fn room(&self) -> u32 {
        let Some(record) = &self.record else { return 0 };
        if mutant::is(Mutant::SlotsIgnored) {
            return u32::from(self.soft.contact == Contact::Connected && self.soft.ready && !record.lost);
        }
        let takes_work = record.desired == Desired::Active
            && record.depth == Depth::Awake
            && !record.lost
            && self.soft.contact == Contact::Connected
            && self.soft.ready;
        if !takes_work {
            return 0;
        }
        let since = self.slots.values().filter(|slot| slot.offer != Offer::Reflected).count();
        let told = self.soft.free.saturating_sub(u32::try_from(since).unwrap_or(u32::MAX));
        let assigned = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
        told.min(record.spec.slots.saturating_sub(assigned))
    }

    /// Its attempts may have to end without its word.
    pub(crate) fn must_reap(&self) -> bool {
        !self.slots.is_empty() && self.record.as_ref().is_some_and(|r| r.lost || r.evict)
    }
}

impl Space {
    pub(crate) fn put_agent(&mut self, id: &AgentId, new: Option<Arc<AgentRecord>>) -> Option<Arc<AgentRecord>> {
        let entry = self.agents.entry(id.clone()).or_default();
        let old = std::mem::replace(&mut entry.record, new.clone());
        let old_host = old.as_ref().and_then(|r| r.host.clone());
        let new_host = new.as_ref().and_then(|r| r.host.clone());
        if old_host != new_host {
            entry.soft = Soft::default();
        }
        if let Some(record) = old.as_ref().filter(|r| r.is_leaving()) {
            self.leaving.remove(&(record.updated, id.clone()));
        }
        if let Some(record) = new.as_ref().filter(|r| r.is_leaving()) {
            self.leaving.insert((record.updated, id.clone()));
        }
        if entry.must_reap() {
            self.reap.insert(id.clone());
        }
        if old.as_ref().map(|r| &r.spec) != new.as_ref().map(|r| &r.spec) {
            self.delist(id);
            if let Some(entry) = self.agents.get_mut(id)
                && let Some(profile) = entry.profile.take()
            {
                self.demand.leave(profile);
            }
            if let Some(record) = &new {
                let profile = self.demand.join(&record.spec);
                if let Some(entry) = self.agents.get_mut(id) {
                    entry.profile = Some(profile);
                }
            }
        }
        if old_host != new_host {
            if let Some(host) = old_host
                && let Some(agents) = self.hosts.get_mut(&host)
            {
                agents.remove(id);
                if agents.is_empty() {
                    self.hosts.remove(&host);
                }
            }
            if let Some(host) = new_host {
                self.hosts.entry(host).or_default().insert(id.clone());
            }
        }
        let gone = self.agents.get(id).is_some_and(|e| e.record.is_none() && e.slots.is_empty());
        if gone {
            self.agents.remove(id);
        } else {
            self.relist(id);
        }
        old
    }

    fn delist(&mut self, id: &AgentId) {
        let Some(entry) = self.agents.get_mut(id) else { return };
        if let (Some(profile), Some(key)) = (entry.profile, entry.listed.take()) {
            self.demand.unlist(profile, &key);
        }
    }

    /// Brings the list of free agents up to date for one of them.
    pub(crate) fn relist(&mut self, id: &AgentId) {
        let Some(entry) = self.agents.get_mut(id) else { return };
        let key = (entry.room() > 0).then(|| {
            let slots = entry.record.as_ref().map_or(1, |r| u64::from(r.spec.slots.max(1)));
            let load = u32::try_from(entry.slots.len() as u64 * 1000 / slots).unwrap_or(u32::MAX);
            (load, entry.used, id.clone())
        });
        if entry.listed == key {
            return;
        }
        let Some(profile) = entry.profile else { return };
        if let Some(old) = entry.listed.take() {
            self.demand.unlist(profile, &old);
        }
        if let Some(key) = key {
            entry.listed = Some(key.clone());
            self.demand.list(profile, key);
        }
    }

    /// Changes what is softly known of an agent.
    pub(crate) fn soften(&mut self, id: &AgentId, change: impl FnOnce(&mut AgentEntry)) {
        if let Some(entry) = self.agents.get_mut(id) {
            change(entry);
            self.relist(id);
        }
    }

    /// An agent was given a task: it goes behind others of the same load.
    pub(crate) fn mark_used(&mut self, id: &AgentId) {
        self.dispatches += 1;
        let now = self.dispatches;
        self.soften(id, |entry| entry.used = now);
    }
}
