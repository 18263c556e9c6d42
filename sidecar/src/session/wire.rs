//! Between the machine's words and the wire's.

use std::time::Duration;

use hive_proto::sidecar_v1::{self, DeclineReason, SidecarMessage, sidecar_message::Kind};

use super::settled::Settlement;
use crate::attempt::{AttemptEnd, AttemptKey, MESSAGE_LIMIT, cut};

/// Absent and negative are absent.
pub(super) fn duration(wire: Option<&prost_types::Duration>) -> Option<Duration> {
    wire.and_then(|&w| Duration::try_from(w).ok())
}

/// In whole milliseconds.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// From milliseconds since the Unix epoch.
pub(super) fn timestamp(ms: u64) -> prost_types::Timestamp {
    let seconds = i64::try_from(ms / 1_000).unwrap_or(i64::MAX);
    let nanos = i32::try_from(ms % 1_000).unwrap_or(0) * 1_000_000;
    prost_types::Timestamp { seconds, nanos }
}

pub(super) fn message(kind: Kind) -> SidecarMessage {
    SidecarMessage { kind: Some(kind) }
}

/// An end as it is told.
pub(crate) fn result(key: AttemptKey, end: &AttemptEnd) -> sidecar_v1::Result {
    sidecar_v1::Result {
        attempt: Some(key.into()),
        outcome: end.outcome.into(),
        payload: end.payload.clone(),
        reason: end.reason.into(),
        message: cut(&end.message, MESSAGE_LIMIT).to_owned(),
        exit_code: end.exit_code,
        signal: end.signal,
        retryable: end.retryable,
        end_time: Some(timestamp(end.ended_ms)),
        start_time: Some(timestamp(end.started_ms)),
    }
}

/// A settlement as it is told.
pub(super) fn settlement(key: AttemptKey, settlement: Settlement) -> Kind {
    match settlement {
        Settlement::Declined(reason) => {
            let message = match reason {
                DeclineReason::Unspecified => "the assignment is outdated",
                DeclineReason::NoSlot => "no free slot",
                DeclineReason::AgentNotReady => "the agent is unknown here or is not up",
                DeclineReason::JournalFull => "the sidecar's journal is full",
                DeclineReason::Draining => "the sidecar or the agent is draining",
            };
            let (attempt, reason) = (Some(key.into()), reason.into());
            Kind::Declined(sidecar_v1::Declined { attempt, reason, message: message.to_owned() })
        }
        Settlement::Lost | Settlement::Released => {
            Kind::AttemptLost(sidecar_v1::AttemptLost { attempt: Some(key.into()) })
        }
    }
}
