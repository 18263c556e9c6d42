//! Checking what comes in, and the small conversions both directions share. Every limit of a
//! message's content is here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hive_core::command::Delivered;
use hive_core::id::{AgentId, Namespace, Revision, TaskId};
use hive_core::record::{AgentSpec, Body, Capabilities, Desired, Digest, Labels, Runtime};
use hive_core::time::Time;
use hive_proto::v1;
use prost::Message;
use sha2::{Digest as _, Sha256};
use tonic::Status;

use super::error::invalid;

/// Longest name of a capability or label key, in bytes.
pub const NAME: usize = 63;
/// Longest value of a label, in bytes.
pub const VALUE: usize = 253;
/// Longest media type, in bytes.
pub const MEDIA_TYPE: usize = 127;

/// Limits that are configured.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Payload or result, in bytes.
    pub payload: usize,
    /// Labels.
    pub labels: usize,
    /// Capabilities.
    pub capabilities: usize,
    /// Slots of an agent.
    pub slots: u32,
}

/// What one page of a list may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page {
    default: usize,
    most: usize,
    /// Bytes after which a page ends early: one more item at most half a message large still fits.
    bytes: usize,
}

impl Page {
    pub(super) fn of(limits: &crate::config::Limits) -> Self {
        let size = |size: u32| usize::try_from(size).unwrap_or(usize::MAX);
        let bytes = usize::try_from(limits.message_bytes.0 / 2).unwrap_or(usize::MAX);
        Self { default: size(limits.page_default), most: size(limits.page), bytes }
    }

    /// How many items were asked for.
    pub(super) fn size(&self, asked: i32) -> Result<usize, Status> {
        match usize::try_from(asked) {
            Ok(0) => Ok(self.default),
            Ok(size) => Ok(size.min(self.most)),
            Err(_) => Err(invalid("page_size", "must not be negative")),
        }
    }

    /// One more item has no place beside those that take up so many bytes; the first always has.
    pub(super) fn is_full(&self, used: usize, item: usize) -> bool {
        used > 0 && used.saturating_add(item) > self.bytes
    }
}

/// Empty means "default".
pub(super) fn namespace(name: &str) -> Result<Namespace, Status> {
    let name = if name.is_empty() { "default" } else { name };
    Namespace::parse(name).map_err(|e| invalid("namespace", e.to_string()))
}

pub(super) fn task_id(id: &str) -> Result<TaskId, Status> {
    if id.is_empty() {
        return Err(invalid("task_id", "is missing"));
    }
    TaskId::parse(id).map_err(|e| invalid("task_id", e.to_string()))
}

pub(super) fn agent_id(id: &str) -> Result<AgentId, Status> {
    AgentId::parse(id).map_err(|e| invalid("agent_id", e.to_string()))
}

pub(crate) fn body(field: &str, payload: Option<v1::Payload>, limits: &Limits) -> Result<Delivered, Status> {
    let payload = payload.unwrap_or_default();
    if payload.data.len() > limits.payload {
        let text = format!("is {} bytes long, at most {} are allowed", payload.data.len(), limits.payload);
        return Err(invalid(&format!("{field}.data"), text));
    }
    if payload.content_type.len() > MEDIA_TYPE {
        return Err(invalid(&format!("{field}.content_type"), format!("must be at most {MEDIA_TYPE} bytes long")));
    }
    let (body, blob) = Body::split(payload.content_type.into(), payload.data);
    Ok(Delivered { body, blob })
}

pub(crate) fn labels(field: &str, labels: BTreeMap<String, String>, limits: &Limits) -> Result<Labels, Status> {
    if labels.len() > limits.labels {
        return Err(invalid(field, format!("holds {} labels, at most {} are allowed", labels.len(), limits.labels)));
    }
    let mut checked = Labels::new();
    for (key, value) in labels {
        name(field, &key)?;
        if value.len() > VALUE {
            return Err(invalid(field, format!("value of {key:?} must be at most {VALUE} bytes long")));
        }
        checked.insert(key.into(), value.into());
    }
    Ok(checked)
}

/// A capability or the key of a label.
fn name(field: &str, name: &str) -> Result<(), Status> {
    if name.is_empty() || name.len() > NAME {
        return Err(invalid(field, format!("names must be 1 to {NAME} bytes long, {:?} is not", cut(name, NAME))));
    }
    if name.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(invalid(field, format!("{name:?} holds white space or control characters")));
    }
    Ok(())
}

pub(crate) fn capabilities(field: &str, names: &[String], limits: &Limits) -> Result<Capabilities, Status> {
    if names.len() > limits.capabilities {
        let text = format!("holds {} entries, at most {} are allowed", names.len(), limits.capabilities);
        return Err(invalid(field, text));
    }
    let mut checked = Capabilities::new();
    for capability in names {
        name(field, capability)?;
        checked.insert(Arc::from(capability.as_str()));
    }
    Ok(checked)
}

pub(crate) fn agent_spec(field: &str, spec: v1::AgentSpec, limits: &Limits) -> Result<AgentSpec, Status> {
    let runtime = match spec.runtime() {
        v1::Runtime::Unspecified => Runtime::Unknown,
        v1::Runtime::Process => Runtime::Process,
        v1::Runtime::Command => Runtime::Command,
        v1::Runtime::Container => Runtime::Container,
        v1::Runtime::Attached => Runtime::Attached,
    };
    let of = |part: &str| format!("{field}.{part}");
    Ok(AgentSpec {
        pool: pool(&of("pool"), &spec.pool)?.unwrap_or_else(|| Arc::from("default")),
        capabilities: capabilities(&of("capabilities"), &spec.capabilities, limits)?,
        labels: labels(&of("labels"), spec.labels, limits)?,
        slots: slots(&of("slots"), spec.slots, limits)?,
        runtime,
    })
}

pub(crate) fn slots(field: &str, slots: u32, limits: &Limits) -> Result<u32, Status> {
    match slots {
        0 => Ok(1),
        slots if slots <= limits.slots => Ok(slots),
        slots => Err(invalid(field, format!("is {slots}, at most {} are allowed", limits.slots))),
    }
}

pub(crate) fn pool(field: &str, pool: &str) -> Result<Option<Arc<str>>, Status> {
    if pool.is_empty() {
        return Ok(None);
    }
    Namespace::parse(pool).map_err(|e| invalid(field, e.to_string()))?;
    Ok(Some(Arc::from(pool)))
}

/// A duration within its bounds; absent means the default.
pub(super) fn duration(
    field: &str,
    value: Option<prost_types::Duration>,
    default: Duration,
    least: Duration,
    most: Duration,
) -> Result<Duration, Status> {
    let Some(value) = value else { return Ok(default) };
    let text = || format!("must be between {} s and {} s", least.as_secs_f64(), most.as_secs_f64());
    // Not by prost's conversion, which overflows on the far end of what the wire can hold.
    let seconds = u64::try_from(value.seconds);
    let nanos = u32::try_from(value.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
    let (Ok(seconds), Some(nanos)) = (seconds, nanos) else { return Err(invalid(field, text())) };
    let value = Duration::new(seconds, nanos);
    if value < least || value > most { Err(invalid(field, text())) } else { Ok(value) }
}

/// A fingerprint of a message, by which repeated requests are told from others. Maps are sorted, so
/// equal messages have equal encodings.
pub(crate) fn digest(message: &impl Message) -> Digest {
    let mut digest = Digest::default();
    digest.copy_from_slice(&Sha256::digest(message.encode_to_vec())[..16]);
    digest
}

/// A fingerprint of a request under its id: half of it the id's, half the body's. None without an id.
pub(super) fn request_digest(request_id: &str, message: &impl Message) -> Result<Option<Digest>, Status> {
    if request_id.len() > NAME {
        return Err(invalid("request_id", format!("must be at most {NAME} bytes long")));
    }
    if request_id.is_empty() {
        return Ok(None);
    }
    let mut digest = digest(message);
    digest[..8].copy_from_slice(&Sha256::digest(request_id)[..8]);
    Ok(Some(digest))
}

pub(crate) fn time(time: prost_types::Timestamp) -> Time {
    let seconds = u64::try_from(time.seconds).unwrap_or(0);
    Time(seconds.saturating_mul(1000).saturating_add(u64::try_from(time.nanos / 1_000_000).unwrap_or(0)))
}

pub(super) fn time_out(time: Time) -> prost_types::Timestamp {
    let nanos = i32::try_from(time.0 % 1000).unwrap_or(0) * 1_000_000;
    prost_types::Timestamp { seconds: i64::try_from(time.0 / 1000).unwrap_or(i64::MAX), nanos }
}

pub(crate) fn duration_out(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

pub(crate) fn revision(revision: Revision) -> v1::Revision {
    v1::Revision { cluster_generation: revision.cluster_generation, seq: revision.seq }
}

pub(crate) fn desired_out(desired: Desired) -> v1::DesiredState {
    match desired {
        Desired::Active => v1::DesiredState::Active,
        Desired::Drained => v1::DesiredState::Drained,
        Desired::Removed => v1::DesiredState::Removed,
    }
}

/// At most so many bytes of a text, cut between characters.
pub(crate) fn cut(text: &str, most: usize) -> &str {
    if text.len() <= most {
        return text;
    }
    let end = (0..=most).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    &text[..end]
}
