//! Sidecars and namespaces as stored.

use crate::id::{BootId, Generation, MoveNumber, SidecarId};
use crate::time::Time;

/// A sidecar: written once per boot of its host, never per beat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SidecarRecord {
    /// Its id.
    pub id: SidecarId,
    /// The boot that holds the generation.
    pub boot: BootId,
    /// Raised for each new boot.
    pub generation: Generation,
    /// When the generation was minted.
    pub updated: Time,
}

/// A tenant's own record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NamespaceRecord {
    /// Unknown task ids made before this are refused: their records may have been deleted.
    pub floor: Time,
    /// Highest generation of a forgotten sidecar: an unknown one begins above it.
    pub generation: Generation,
    /// Most moves of a forgotten agent: an unknown one goes on from there.
    pub moved: MoveNumber,
}
