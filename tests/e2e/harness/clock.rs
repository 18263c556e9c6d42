//! The clock, randomness and spawning of the tests: the one file that may.
#![expect(clippy::disallowed_methods, reason = "this file owns clock, randomness and spawning for the tests")]

use std::future::Future;
use std::time::{Duration, Instant, SystemTime};

/// Now.
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Microseconds since the machine's boot: the same clock in every process, and in `/proc/uptime`.
pub(crate) fn uptime_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1_000
}

/// Seconds since 1970.
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Between two looks of a thread at a condition that has a deadline.
pub(crate) fn nap() {
    std::thread::sleep(Duration::from_millis(10));
}

/// Runs beside the test. A panic in it is the waiting test's to notice.
pub(crate) fn spawn<F>(future: F) -> tokio::task::JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    tokio::spawn(future)
}

/// A seed of now, or the one in `E2E_SEED`, printed so that the run can be repeated.
pub(crate) fn seed() -> u64 {
    let given = std::env::var("E2E_SEED").ok().and_then(|text| text.parse().ok());
    let of_now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |d| d.as_micros() as u64);
    let seed = given.unwrap_or_else(of_now);
    println!("seed {seed} (repeat with E2E_SEED={seed})");
    seed
}

/// SplitMix64: small, and good enough to choose moments.
#[derive(Debug, Clone)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in the range.
    pub(crate) fn within(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    pub(crate) fn millis(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.within(low, high))
    }
}
