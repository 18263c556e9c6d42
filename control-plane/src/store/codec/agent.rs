//! Agents as bytes.

use std::sync::Arc;

use bytes::Bytes;
use hive_core::id::{AgentId, MoveNumber, SidecarId};
use hive_core::record::{AgentRecord, AgentSpec, Depth, Desired, Digest, Labels, Runtime};
use hive_core::time::Time;
use hive_proto::{store_v1 as pb, v1};

use super::BadField;

pub(super) fn encode(r: &AgentRecord) -> pb::AgentRecord {
    let digest = |d: &Option<Digest>| d.map(|d| Bytes::copy_from_slice(&d)).unwrap_or_default();
    pb::AgentRecord {
        pool: r.spec.pool.to_string(),
        capabilities: r.spec.capabilities.iter().map(ToString::to_string).collect(),
        labels: labels_out(&r.spec.labels),
        slots: r.spec.slots,
        runtime: runtime_out(r.spec.runtime) as u32,
        declared: digest(&r.declared),
        request: digest(&r.request),
        desired: desired_out(r.desired) as u32,
        depth: r.depth as u32,
        moved: r.moved.0,
        host: r.host.as_ref().map(ToString::to_string).unwrap_or_default(),
        lost: r.lost,
        evict: r.evict,
        create_time: r.created.0,
        update_time: r.updated.0,
    }
}

pub(super) fn decode(id: &AgentId, r: pb::AgentRecord) -> Result<AgentRecord, BadField> {
    let digest = |bytes: &[u8], field| match bytes {
        [] => Ok(None),
        bytes => Digest::try_from(bytes).map(Some).map_err(|_| BadField(field)),
    };
    Ok(AgentRecord {
        id: id.clone(),
        spec: AgentSpec {
            pool: r.pool.into(),
            capabilities: r.capabilities.into_iter().map(Arc::from).collect(),
            labels: labels_in(r.labels),
            slots: r.slots,
            runtime: runtime_in(r.runtime)?,
        },
        declared: digest(&r.declared, "declared")?,
        request: digest(&r.request, "request")?,
        desired: desired_in(r.desired)?,
        depth: match r.depth {
            0 => Depth::Awake,
            1 => Depth::FallingAsleep,
            2 => Depth::Stopped,
            3 => Depth::Archived,
            4 => Depth::Waking,
            _ => return Err(BadField("depth")),
        },
        moved: MoveNumber(r.moved),
        host: match r.host.as_str() {
            "" => None,
            host => Some(SidecarId::parse(host).map_err(|_| BadField("host"))?),
        },
        lost: r.lost,
        evict: r.evict,
        created: Time(r.create_time),
        updated: Time(r.update_time),
    })
}

fn runtime_out(runtime: Runtime) -> v1::Runtime {
    match runtime {
        Runtime::Unknown => v1::Runtime::Unspecified,
        Runtime::Process => v1::Runtime::Process,
        Runtime::Command => v1::Runtime::Command,
        Runtime::Container => v1::Runtime::Container,
        Runtime::Attached => v1::Runtime::Attached,
    }
}

fn runtime_in(runtime: u32) -> Result<Runtime, BadField> {
    let known = i32::try_from(runtime).ok().and_then(|r| v1::Runtime::try_from(r).ok());
    Ok(match known.ok_or(BadField("runtime"))? {
        v1::Runtime::Unspecified => Runtime::Unknown,
        v1::Runtime::Process => Runtime::Process,
        v1::Runtime::Command => Runtime::Command,
        v1::Runtime::Container => Runtime::Container,
        v1::Runtime::Attached => Runtime::Attached,
    })
}

fn desired_out(desired: Desired) -> v1::DesiredState {
    match desired {
        Desired::Active => v1::DesiredState::Active,
        Desired::Drained => v1::DesiredState::Drained,
        Desired::Removed => v1::DesiredState::Removed,
    }
}

fn desired_in(desired: u32) -> Result<Desired, BadField> {
    match i32::try_from(desired).ok().and_then(|d| v1::DesiredState::try_from(d).ok()) {
        Some(v1::DesiredState::Active) => Ok(Desired::Active),
        Some(v1::DesiredState::Drained) => Ok(Desired::Drained),
        Some(v1::DesiredState::Removed) => Ok(Desired::Removed),
        Some(v1::DesiredState::Unspecified) | None => Err(BadField("desired")),
    }
}

pub(super) fn labels_out(labels: &Labels) -> std::collections::BTreeMap<String, String> {
    labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

pub(super) fn labels_in(labels: std::collections::BTreeMap<String, String>) -> Labels {
    labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect()
}
