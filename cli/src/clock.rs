//! The only place of this crate that reads a clock or randomness; what to do with either is decided
//! elsewhere.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use uuid::Uuid;

/// Monotonic now.
#[expect(clippy::disallowed_methods, reason = "this file owns the crate's clock")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Wall clock, for display and for names of files; since the Unix epoch.
#[expect(clippy::disallowed_methods, reason = "this file owns the crate's clock")]
pub(crate) fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// A fresh UUIDv7.
#[expect(clippy::disallowed_methods, reason = "this file owns the crate's clock and randomness")]
pub(crate) fn new_id() -> Uuid {
    Uuid::now_v7()
}

/// A number in 0..1, for jitter.
pub(crate) fn random() -> f64 {
    let id = new_id();
    let bytes = id.as_bytes();
    // The last eight bytes of a UUIDv7 are two bits of variant and 62 random ones.
    let tail = u32::from_be_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]);
    f64::from(tail) / (f64::from(u32::MAX) + 1.0)
}

/// Time of day in UTC as `HH:MM:SS`, for notices.
pub(crate) fn time_of_day() -> String {
    let seconds = wall().as_secs() % 86_400;
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// Nanoseconds of the machine's monotonic clock, the same in every process on it.
#[expect(clippy::disallowed_methods, reason = "this file owns the crate's clock")]
pub(crate) fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or_default() * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or_default()
}

/// Blocks until the monotonic clock shows `at`, to some 50 µs.
#[expect(clippy::disallowed_methods, reason = "this file owns the crate's clock")]
pub(crate) fn sleep_until_ns(at: u64) {
    let left = at.saturating_sub(monotonic_ns());
    std::thread::sleep(Duration::from_nanos(left));
}
