//! What is stored: one entity, one key, one record.
//!
//! Records hold absolute cluster times and nothing soft. How they are encoded is for the control
//! plane's codec; which transitions are allowed is for [`crate::rules`].

mod agent;
mod body;
mod sidecar;
mod task;

pub use agent::{AgentRecord, AgentSpec, Depth, Desired, Runtime};
pub use body::{BlobKey, BlobPart, Body};
pub use sidecar::{NamespaceRecord, SidecarRecord};
pub use task::{
    Answer, Cause, DisconnectPolicy, End, Failure, Phase, Priority, Question, Requirement, RetryPolicy, Run,
    TaskRecord, TaskSpec,
};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::id::{AgentId, Namespace, SidecarId, TaskId};

/// A capability's name, at most 63 bytes.
pub type Capability = Arc<str>;
/// Labels: keys of at most 63 bytes, values of at most 253.
pub type Labels = BTreeMap<Arc<str>, Arc<str>>;
/// Capabilities without order.
pub type Capabilities = BTreeSet<Capability>;
/// A fingerprint of something a client or sidecar sent, made by the shell (SHA-256, cut).
pub type Digest = [u8; 16];

/// Which record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// A tenant's own record.
    Namespace(Namespace),
    /// A sidecar.
    Sidecar(Namespace, SidecarId),
    /// An agent.
    Agent(Namespace, AgentId),
    /// A task.
    Task(Namespace, TaskId),
}

impl Key {
    /// The namespace the record belongs to.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        match self {
            Key::Namespace(ns) | Key::Sidecar(ns, _) | Key::Agent(ns, _) | Key::Task(ns, _) => ns,
        }
    }
}

/// A record of any kind. Cheap to clone.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// See [`NamespaceRecord`].
    Namespace(Arc<NamespaceRecord>),
    /// See [`SidecarRecord`].
    Sidecar(Arc<SidecarRecord>),
    /// See [`AgentRecord`].
    Agent(Arc<AgentRecord>),
    /// See [`TaskRecord`].
    Task(Arc<TaskRecord>),
}

impl Record {
    /// The key it is stored under.
    #[must_use]
    pub fn key(&self, ns: &Namespace) -> Key {
        match self {
            Record::Namespace(_) => Key::Namespace(ns.clone()),
            Record::Sidecar(r) => Key::Sidecar(ns.clone(), r.id.clone()),
            Record::Agent(r) => Key::Agent(ns.clone(), r.id.clone()),
            Record::Task(r) => Key::Task(ns.clone(), r.id),
        }
    }

    /// Bytes of its texts and bodies: all of it that has no small bound of its own.
    #[must_use]
    pub fn text_bytes(&self) -> usize {
        match self {
            Record::Namespace(_) | Record::Sidecar(_) => 0,
            Record::Agent(r) => labels_bytes(&r.spec.labels) + capabilities_bytes(&r.spec.capabilities),
            Record::Task(r) => r.text_bytes(),
        }
    }
}

/// An entry's texts and what frames them.
const ENTRY: usize = 8;

fn labels_bytes(labels: &Labels) -> usize {
    labels.iter().map(|(key, value)| ENTRY + key.len() + value.len()).sum()
}

fn capabilities_bytes(capabilities: &Capabilities) -> usize {
    capabilities.iter().map(|name| ENTRY + name.len()).sum()
}

/// A put (with a value) or a delete (without) of one record.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Which record.
    pub key: Key,
    /// Its new value; none deletes it.
    pub value: Option<Record>,
}
