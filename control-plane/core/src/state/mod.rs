//! The hot state: every record, the indexes over them, and what is softly known beside them.
//!
//! [`State::apply`] is the only way a record changes, on leaders and followers alike; it keeps the
//! indexes and hands back the pre-image, by which an undecided batch is rolled back. What may change
//! is for [`crate::rules`].

mod agents;
mod demand;
mod slab;
mod soft;
mod space;
mod tasks;

pub use agents::AgentEntry;
pub use demand::{Demand, Match};
pub use soft::{Contact, Offer, Progress, Slot, Soft};
pub use space::{Counts, Space};

use std::collections::BTreeMap;

use crate::id::Namespace;
use crate::record::{Change, Key, Record};
use crate::settings::Settings;
use crate::time::Time;

/// All records of a cluster, by namespace.
#[derive(Clone, Debug)]
pub struct State {
    pub(crate) settings: Settings,
    pub(crate) spaces: BTreeMap<Namespace, Space>,
    /// Delayed tasks up to here are ready.
    pub(crate) clock: Time,
}

impl State {
    /// An empty state with the configured namespaces.
    #[must_use]
    pub fn new(settings: Settings, namespaces: impl IntoIterator<Item = Namespace>) -> Self {
        let spaces = namespaces.into_iter().map(|ns| (ns, Space::default())).collect();
        Self { settings, spaces, clock: Time::ZERO }
    }

    /// Limits and deadlines in force.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// A namespace's share, if the namespace is configured or holds records.
    #[must_use]
    pub fn space(&self, ns: &Namespace) -> Option<&Space> {
        self.spaces.get(ns)
    }

    /// All namespaces.
    pub fn spaces(&self) -> impl Iterator<Item = (&Namespace, &Space)> {
        self.spaces.iter()
    }

    /// The record under a key.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Record> {
        let space = self.spaces.get(key.namespace())?;
        match key {
            Key::Namespace(_) => space.record.clone().map(Record::Namespace),
            Key::Sidecar(_, id) => space.sidecars.get(id).cloned().map(Record::Sidecar),
            Key::Agent(_, id) => space.agents.get(id)?.record.clone().map(Record::Agent),
            Key::Task(_, id) => space.tasks.get(id).cloned().map(Record::Task),
        }
    }

    /// Makes one change and returns the record that stood there before.
    pub fn apply(&mut self, change: Change) -> Option<Record> {
        let space = self.spaces.entry(change.key.namespace().clone()).or_default();
        match (change.key, change.value) {
            (Key::Namespace(_), value) => {
                let value = value.and_then(|v| if let Record::Namespace(r) = v { Some(r) } else { None });
                std::mem::replace(&mut space.record, value).map(Record::Namespace)
            }
            (Key::Sidecar(_, id), value) => match value {
                Some(Record::Sidecar(record)) => space.sidecars.insert(id, record),
                _ => space.sidecars.remove(&id),
            }
            .map(Record::Sidecar),
            (Key::Agent(_, id), value) => {
                let value = value.and_then(|v| if let Record::Agent(r) = v { Some(r) } else { None });
                space.put_agent(&id, value).map(Record::Agent)
            }
            (Key::Task(_, id), value) => {
                let value = value.and_then(|v| if let Record::Task(r) = v { Some(r) } else { None });
                space.put_task(id, value, self.clock, &self.settings).map(Record::Task)
            }
        }
    }

    /// Moves the clock on: delayed tasks whose moment has come become ready.
    pub fn advance(&mut self, now: Time) {
        if now > self.clock {
            self.clock = now;
            for space in self.spaces.values_mut() {
                space.wake_delayed(now);
            }
        }
    }

    /// The next moment at which something is due, soft and hard.
    #[must_use]
    pub fn next_due(&self) -> Option<Time> {
        self.spaces.values().filter_map(Space::next_due).min()
    }
}
