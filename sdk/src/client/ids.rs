//! Task ids: UUIDv7 by the cluster's clock.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicI64, Ordering};

use uuid::{Uuid, Variant};

use super::Error;
use crate::clock;

/// A task's id, a UUIDv7. Made once per task; a repeated submission under it finds the first.
///
/// ```
/// use hive_sdk::client::TaskId;
/// let id: TaskId = "019345d0-0000-7000-8000-000000000001".parse()?;
/// assert_eq!(id.to_string(), "019345d0-0000-7000-8000-000000000001");
/// assert!("not-an-id".parse::<TaskId>().is_err());
/// # Ok::<(), hive_sdk::client::InvalidTaskId>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(Uuid);

/// A text that is no task id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a task id: expected a UUIDv7 such as 019345d0-0000-7000-8000-000000000001")]
pub struct InvalidTaskId(String);

impl TaskId {
    /// When it was made: milliseconds since the Unix epoch.
    pub fn unix_ms(self) -> u64 {
        // The upper 48 bits of a UUIDv7.
        self.0.as_u64_pair().0 >> 16
    }

    fn at(unix_ms: u64, random: (u64, u64)) -> Self {
        let mut bytes = [0; 10];
        bytes[..8].copy_from_slice(&random.0.to_be_bytes());
        // The lowest bits of a random number are not random.
        bytes[6..].copy_from_slice(&random.1.to_be_bytes()[..4]);
        Self(uuid::Builder::from_unix_timestamp_millis(unix_ms, &bytes).into_uuid())
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl FromStr for TaskId {
    type Err = InvalidTaskId;

    fn from_str(text: &str) -> Result<Self, InvalidTaskId> {
        let id = Uuid::parse_str(text).ok();
        let id = id.filter(|id| id.get_version_num() == 7 && id.get_variant() == Variant::RFC4122);
        id.map(Self).ok_or_else(|| InvalidTaskId(text.to_owned()))
    }
}

/// Makes ids, and learns by how much the local clock is off.
#[derive(Debug, Default)]
pub(super) struct Ids {
    offset_ms: AtomicI64,
}

impl Ids {
    pub(super) fn next(&self) -> TaskId {
        self.at(clock::unix_ms(), (clock::random(), clock::random()))
    }

    fn at(&self, unix_ms: u64, random: (u64, u64)) -> TaskId {
        TaskId::at(unix_ms.saturating_add_signed(self.offset_ms.load(Ordering::Relaxed)), random)
    }

    /// Takes the cluster's time from a refusal that carries it. The id refused stays refused: it
    /// may have been accepted by an earlier try, so only new tasks get the corrected clock.
    pub(super) fn learn(&self, error: &Error) {
        self.learn_at(clock::unix_ms(), error);
    }

    fn learn_at(&self, unix_ms: u64, error: &Error) {
        if !matches!(error.reason(), Some("TASK_ID_TOO_OLD" | "TASK_ID_IN_FUTURE")) {
            return;
        }
        let Some(cluster) = error.metadata("cluster_time_ms").and_then(|text| text.parse::<i64>().ok()) else { return };
        let offset = cluster.saturating_sub_unsigned(unix_ms);
        self.offset_ms.store(offset, Ordering::Relaxed);
        tracing::info!(offset_ms = offset, "the local clock is off; task ids follow the cluster's");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use tonic::{Code, Status};
    use tonic_types::{ErrorDetails, StatusExt as _};

    fn refusal(reason: &str, cluster_time_ms: &str) -> Error {
        let metadata = HashMap::from([("cluster_time_ms".to_owned(), cluster_time_ms.to_owned())]);
        let details = ErrorDetails::with_error_info(reason, "hive", metadata);
        Error::refused(Status::with_error_details(Code::FailedPrecondition, "clock", details))
    }

    #[test]
    fn ids_carry_their_time_and_differ() {
        let ids = Ids::default();
        let id = ids.at(1_700_000_000_123, (u64::MAX, 0));
        assert_eq!(id.unix_ms(), 1_700_000_000_123);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_ne!(ids.next(), ids.next());
    }

    #[test]
    fn the_cluster_corrects_the_clock_both_ways() {
        let ids = Ids::default();
        for cluster in [5_000_000, 20_000_000] {
            ids.learn_at(10_000_000, &refusal("TASK_ID_IN_FUTURE", &cluster.to_string()));
            assert_eq!(ids.at(10_000_100, (0, 0)).unix_ms(), cluster + 100);
        }
        ids.learn_at(10_000_000, &refusal("TASK_ID_REUSED", "1"));
        ids.learn_at(10_000_000, &refusal("TASK_ID_TOO_OLD", "nonsense"));
        assert_eq!(ids.at(10_000_000, (0, 0)).unix_ms(), 20_000_000);
    }

    #[test]
    fn other_uuids_are_no_task_ids() {
        assert!("7f8b3f9e-3d7c-4f0a-9f64-0c2b8a1d2e3f".parse::<TaskId>().is_err());
    }
}
