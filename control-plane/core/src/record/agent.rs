//! Agents as stored.

use super::{Capabilities, Digest, Labels};
use crate::id::{AgentId, MoveNumber, SidecarId};
use crate::time::Time;
use std::sync::Arc;

/// How an agent's work is run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Runtime {
    /// Not declared yet.
    #[default]
    Unknown,
    /// A long-lived process that speaks the local API.
    Process,
    /// A program run once per task.
    Command,
    /// A container.
    Container,
    /// It lives elsewhere and connects to the sidecar.
    Attached,
}

/// What an operator wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Desired {
    /// Takes work.
    #[default]
    Active,
    /// Takes nothing new.
    Drained,
    /// Drained, then gone.
    Removed,
}

/// How deep an agent sleeps, as far as it is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// Up, or lightly asleep by its sidecar's own decision.
    #[default]
    Awake,
    /// On its way down.
    FallingAsleep,
    /// Checkpointed, its process gone.
    Stopped,
    /// Its container gone; may wake on another host.
    Archived,
    /// On its way up.
    Waking,
}

/// An agent's declaration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AgentSpec {
    /// Pool it is in.
    pub pool: Arc<str>,
    /// What it can do.
    pub capabilities: Capabilities,
    /// Labels.
    pub labels: Labels,
    /// Tasks at a time, 1 to 100.
    pub slots: u32,
    /// How its work is run.
    pub runtime: Runtime,
}

/// An agent as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentRecord {
    /// Its id.
    pub id: AgentId,
    /// Its declaration, with what operators changed since.
    pub spec: AgentSpec,
    /// Fingerprint of what its sidecar last declared; a new declaration replaces `spec`.
    pub declared: Option<Digest>,
    /// Fingerprint of the request that registered it, when one did.
    pub request: Option<Digest>,
    /// What an operator wants.
    pub desired: Desired,
    /// How deep it sleeps.
    pub depth: Depth,
    /// Moves between hosts so far.
    pub moved: MoveNumber,
    /// The sidecar that hosts it.
    pub host: Option<SidecarId>,
    /// Out of contact for longer than the grace.
    pub lost: bool,
    /// Removal by force: what runs is ended, not waited for.
    pub evict: bool,
    /// When it was first registered.
    pub created: Time,
    /// When this record last changed.
    pub updated: Time,
}

impl AgentRecord {
    /// It is removed or lost: its record goes after the retention age.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.desired == Desired::Removed || self.lost
    }
}
