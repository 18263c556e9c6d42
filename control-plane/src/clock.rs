//! The one file that reads clocks.
//!
//! Cluster time drives the rules and is stored; monotonic time drives deadlines of the shell and
//! is never stored or sent. Formatting either for people is left to others.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hive_core::time::Time;

/// Monotonic time, for deadlines within this process. Virtual where the runtime's clock is paused.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this file owns the clocks")]
pub fn monotonic() -> tokio::time::Instant {
    tokio::time::Instant::now()
}

/// Time since this machine started, also counting what it slept.
#[expect(clippy::disallowed_methods, reason = "this file owns the clocks")]
fn since_boot() -> Duration {
    #[cfg(target_os = "linux")]
    let id = rustix::time::ClockId::Boottime;
    // Elsewhere the monotonic clock already counts sleep.
    #[cfg(not(target_os = "linux"))]
    let id = rustix::time::ClockId::Monotonic;
    let now = rustix::time::clock_gettime(id);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

#[expect(clippy::disallowed_methods, reason = "this file owns the clocks")]
fn wall() -> Time {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Time::ZERO + since_epoch
}

/// Cluster time: continued from a base by a clock that neither jumps nor stands still in suspend.
/// Clones share one time; it never goes back.
#[derive(Clone)]
pub struct ClusterClock(Arc<Inner>);

struct Inner {
    ticks: Box<dyn Fn() -> Duration + Send + Sync>,
    /// Cluster milliseconds at tick zero. Grows when somebody shows a later time.
    base: AtomicU64,
    /// The latest time given out.
    given: AtomicU64,
}

impl ClusterClock {
    /// Continues from `stamp`, the latest time found in the store. The wall clock counts only here
    /// and only when it is ahead: there is no other replica to continue from.
    #[must_use]
    pub fn start(stamp: Time) -> Self {
        Self::continued(stamp.max(wall()), since_boot)
    }

    /// Continues from `base` by the runtime's clock, which simulations control.
    #[must_use]
    pub fn simulated(base: Time) -> Self {
        let origin = monotonic();
        Self::continued(base, move || monotonic().saturating_duration_since(origin))
    }

    fn continued(base: Time, ticks: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        let zero = base - ticks();
        Self(Arc::new(Inner { ticks: Box::new(ticks), base: AtomicU64::new(zero.0), given: AtomicU64::new(base.0) }))
    }

    /// The cluster time. At least as late as any returned before.
    #[must_use]
    pub fn now(&self) -> Time {
        let base = Time(self.0.base.load(Ordering::Acquire));
        let now = (base + (self.0.ticks)()).0;
        Time(self.0.given.fetch_max(now, Ordering::AcqRel).max(now))
    }

    /// Moves on to `to` if that is later: a commit of another process carries a later stamp.
    pub fn raise(&self, to: Time) {
        let base = to - (self.0.ticks)();
        self.0.base.fetch_max(base.0, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn continues_from_its_base() {
        let clock = ClusterClock::simulated(Time(5_000));
        assert_eq!(clock.now(), Time(5_000));
        tokio::time::advance(Duration::from_millis(250)).await;
        assert_eq!(clock.now(), Time(5_250));
    }

    #[tokio::test(start_paused = true)]
    async fn raising_moves_on_and_never_back() {
        let clock = ClusterClock::simulated(Time(5_000));
        clock.raise(Time(9_000));
        assert_eq!(clock.now(), Time(9_000));
        clock.raise(Time(1_000));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(clock.now(), Time(9_001));
    }

    #[test]
    fn never_goes_back_when_its_ticks_do() {
        let ticks = Arc::new(AtomicU64::new(1_000));
        let source = Arc::clone(&ticks);
        let clock =
            ClusterClock::continued(Time(10_000), move || Duration::from_millis(source.load(Ordering::Relaxed)));
        ticks.store(1_500, Ordering::Relaxed);
        assert_eq!(clock.now(), Time(10_500));
        ticks.store(1_200, Ordering::Relaxed);
        assert_eq!(clock.now(), Time(10_500));
    }

    #[test]
    fn starts_no_earlier_than_the_stamp_or_the_wall_clock() {
        let far = wall() + Duration::from_secs(3_600);
        assert!(ClusterClock::start(far).now() >= far);
        assert!(ClusterClock::start(Time::ZERO).now() >= wall() - Duration::from_secs(1));
    }
}
