//! The one file that reads clocks and randomness.
//!
//! Deadlines run on the boot-time clock, which goes on while the machine sleeps: silence during a
//! suspend is silence. The wall clock is for display only. Everything else takes both as arguments.
#![expect(clippy::disallowed_methods, reason = "the one file that reads clocks")]

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::session::Now;

/// The clocks the session runs by.
#[derive(Debug, Clone, Copy)]
pub struct Clock(fn() -> Now);

impl Clock {
    /// This machine's.
    #[must_use]
    pub fn real() -> Self {
        Self(|| Now { mono_ms: boot_ms(), wall_ms: wall_ms() })
    }

    /// Somebody else's, which must keep pace with the runtime's timers.
    #[must_use]
    pub fn simulated(read: fn() -> Now) -> Self {
        Self(read)
    }

    /// Both clocks, read now.
    #[must_use]
    pub fn now(self) -> Now {
        (self.0)()
    }

    /// Waits until the monotonic clock shows `at_ms`, or a while; may wake early.
    pub async fn sleep_until(self, at_ms: u64) {
        tokio::time::sleep(Duration::from_millis(at_ms.saturating_sub(self.now().mono_ms).min(LONGEST_MS))).await;
    }
}

/// Milliseconds since the host booted, suspension counted.
#[must_use]
pub fn boot_ms() -> u64 {
    millis(clock_gettime(ClockId::Boottime))
}

/// Milliseconds since the Unix epoch.
#[must_use]
pub fn wall_ms() -> u64 {
    millis(clock_gettime(ClockId::Realtime))
}

fn millis(t: rustix::time::Timespec) -> u64 {
    let seconds = u64::try_from(t.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000) + u64::try_from(t.tv_nsec).unwrap_or(0) / 1_000_000
}

/// Timers stand still while the machine sleeps; no wait is longer than this, so that a deadline
/// passed meanwhile is noticed soon.
const LONGEST_MS: u64 = 5_000;

/// A source of random numbers, seeded by the kernel (SplitMix64: spread, not secrecy).
///
/// # Errors
/// `/dev/urandom` cannot be read.
pub fn rng() -> std::io::Result<impl FnMut() -> u64 + Send> {
    use std::io::Read as _;
    let mut seed = [0; 8];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut seed)?;
    let mut state = u64::from_le_bytes(seed);
    Ok(move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

/// The kernel's id of this boot of the host; zero where it has none.
#[must_use]
pub fn host_boot() -> [u8; 16] {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .ok()
        .and_then(|text| uuid::Uuid::try_parse(text.trim()).ok())
        .map_or([0; 16], uuid::Uuid::into_bytes)
}
