//! The one place of this crate that reads a clock or makes randomness.
#![expect(clippy::disallowed_methods, reason = "this file owns clock and randomness for the crate")]

use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::Instant;
use uuid::{NoContext, Timestamp, Uuid};

/// Monotonic time, for deadlines.
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// This machine's wall clock, in milliseconds since the Unix epoch; it may be wrong.
pub(crate) fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// 62 random bits, in the upper ones.
pub(crate) fn random() -> u64 {
    // A version 7 id without context is random but for its time and six fixed bits; the lower 62
    // are free.
    let id = Uuid::new_v7(Timestamp::from_unix(NoContext, 0, 0));
    (id.as_u64_pair().1) << 2
}

/// An id for a request or a sandbox, unique for all practical purposes.
pub(crate) fn unique() -> Uuid {
    Uuid::now_v7()
}
