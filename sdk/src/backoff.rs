//! How long to wait before trying again: exponential with full jitter.
//!
//! The algorithm is "full jitter" of Marc Brooker's "Exponential Backoff And Jitter" (AWS, 2015).

use std::time::Duration;

#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    base: Duration,
    cap: Duration,
    tries: u32,
}

impl Backoff {
    pub(crate) const fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap, tries: 0 }
    }

    pub(crate) fn reset(&mut self) {
        self.tries = 0;
    }

    /// The next wait: evenly spread between a tenth of `base`, so that luck never makes a busy
    /// loop, and a ceiling that doubles per call up to `cap`.
    pub(crate) fn next(&mut self, random: u64) -> Duration {
        let ceiling = self.base.saturating_mul(1 << self.tries.min(20)).min(self.cap);
        self.tries = self.tries.saturating_add(1);
        let share = random as f64 / u64::MAX as f64;
        ceiling.mul_f64(share).max(self.base / 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_cap_and_never_spins() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let most: Vec<_> = (0..6).map(|_| backoff.next(u64::MAX).as_millis()).collect();
        assert_eq!(most, [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(backoff.next(0), Duration::from_millis(10));
        backoff.reset();
        assert_eq!(backoff.next(u64::MAX), Duration::from_millis(100));
    }
}
