//! What the journal holds, as facts to append and as the state they add up to.
//!
//! How facts become bytes is left to [`crate::journal`].

use std::collections::BTreeMap;

use hive_proto::sidecar_v1::DeclineReason;
use hive_proto::v1::{DesiredState, DisconnectPolicy};

use super::settled::{Settled, Settlement};
use super::types::{Connection, Leader, Revision};
use crate::attempt::{AttemptEnd, AttemptKey};

/// A fact, appended before anything that rests on it is done or told.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry {
    /// A new boot: its random id, and the host boot it belongs to. Ends the generation.
    Boot {
        /// Random.
        boot_id: [u8; 16],
        /// The kernel's.
        host_boot: [u8; 16],
    },
    /// The cluster all that follows belongs to. What was settled and wished for in another one is over.
    Cluster(String),
    /// The generation the control plane gave this boot.
    Generation(u64),
    /// The number of the stream about to be dialled.
    Connection(Connection),
    /// The attempt will be started.
    Intent {
        /// Which.
        key: AttemptKey,
        /// How it was assigned.
        assigned: Assigned,
    },
    /// The attempt ended.
    Ended {
        /// Which.
        key: AttemptKey,
        /// How.
        end: AttemptEnd,
    },
    /// Nothing will ever be started or told under this attempt again, but for this answer.
    Settled {
        /// Which.
        key: AttemptKey,
        /// Why.
        settlement: Settlement,
        /// Not before its assignment; orders the forgetting.
        revision: Revision,
    },
    /// Settlements up to this revision are forgotten: nothing assigned up to there is started.
    Floor(Revision),
    /// What an operator wants of an agent.
    Desired {
        /// The agent.
        agent: String,
        /// What.
        state: DesiredState,
    },
}

/// The part of an assignment that outlives its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assigned {
    /// For which agent.
    pub agent: String,
    /// Where it was committed.
    pub revision: Revision,
    /// The leader that sent it.
    pub leader: Leader,
    /// Behaviour without contact.
    pub policy: DisconnectPolicy,
    /// Questions the task had asked before.
    pub inputs_asked: u32,
    /// Between TERM and KILL, in ms.
    pub grace_ms: u64,
}

/// An attempt intended and not settled.
#[derive(Debug, Clone, PartialEq)]
pub struct Unsettled {
    /// How it was assigned.
    pub assigned: Assigned,
    /// How it ended, once it has.
    pub end: Option<AttemptEnd>,
}

/// What the facts add up to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Recovered {
    /// Id of the boot; absent in a new journal.
    pub boot_id: Option<[u8; 16]>,
    /// The host boot it belongs to.
    pub host_boot: [u8; 16],
    /// The cluster; empty before the first Welcome.
    pub cluster: String,
    /// Generation of the boot; 0 before the first Welcome.
    pub generation: u64,
    /// Number of the last stream.
    pub connection: Connection,
    /// Attempts intended and not settled.
    pub attempts: BTreeMap<AttemptKey, Unsettled>,
    /// Attempts that are over here.
    pub settled: Settled,
    /// Levels other than ACTIVE.
    pub desired: BTreeMap<String, DesiredState>,
}

impl Recovered {
    /// Adds a fact.
    pub fn apply(&mut self, entry: Entry) {
        match entry {
            Entry::Boot { boot_id, host_boot } => {
                self.boot_id = Some(boot_id);
                self.host_boot = host_boot;
                self.generation = 0;
            }
            Entry::Cluster(cluster) => {
                if !self.cluster.is_empty() && self.cluster != cluster {
                    self.settled = Settled::default();
                    self.desired.clear();
                }
                self.cluster = cluster;
            }
            Entry::Generation(generation) => self.generation = generation,
            Entry::Connection(connection) => self.connection = self.connection.max(connection),
            Entry::Intent { key, assigned } => {
                self.attempts.insert(key, Unsettled { assigned, end: None });
            }
            Entry::Ended { key, end } => {
                if let Some(attempt) = self.attempts.get_mut(&key) {
                    attempt.end = Some(end);
                }
            }
            Entry::Settled { key, settlement, revision } => {
                self.attempts.remove(&key);
                self.settled.insert(key, settlement, revision);
            }
            Entry::Floor(revision) => self.settled.raise_floor(revision),
            Entry::Desired { agent, state: DesiredState::Active } => {
                self.desired.remove(&agent);
            }
            Entry::Desired { agent, state } => {
                self.desired.insert(agent, state);
            }
        }
    }

    /// Attempts of an agent that were intended and have not ended: for its runtime to adopt.
    #[must_use]
    pub fn adopt(&self, agent: &str) -> Vec<AttemptKey> {
        let open = self.attempts.iter().filter(|(_, a)| a.end.is_none() && a.assigned.agent == agent);
        open.map(|(&key, _)| key).collect()
    }

    /// The fewest facts that add up to this state.
    #[must_use]
    pub fn entries(self) -> Vec<Entry> {
        let mut entries = Vec::new();
        if let Some(boot_id) = self.boot_id {
            entries.push(Entry::Boot { boot_id, host_boot: self.host_boot });
        }
        if !self.cluster.is_empty() {
            entries.push(Entry::Cluster(self.cluster));
        }
        entries.push(Entry::Generation(self.generation));
        entries.push(Entry::Connection(self.connection));
        entries.push(Entry::Floor(self.settled.floor()));
        entries.extend(self.desired.into_iter().map(|(agent, state)| Entry::Desired { agent, state }));
        let settled = self.settled.iter();
        entries.extend(settled.map(|(key, settlement, revision)| Entry::Settled { key, settlement, revision }));
        for (key, Unsettled { assigned, end }) in self.attempts {
            entries.push(Entry::Intent { key, assigned });
            entries.extend(end.map(|end| Entry::Ended { key, end }));
        }
        entries
    }
}

impl Entry {
    /// The settlement of an attempt declined.
    #[must_use]
    pub fn declined(key: AttemptKey, reason: DeclineReason, revision: Revision) -> Self {
        Self::Settled { key, settlement: Settlement::Declined(reason), revision }
    }
}
