//! Limits and deadlines the rules keep. Values come from configuration; defaults are documented
//! there and here.

use std::time::Duration;

/// What the rules need to know of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Most pending tasks of a namespace.
    pub max_pending: u64,
    /// From TERM to KILL when an attempt must end.
    pub cancel_grace: Duration,
    /// What a sidecar gets on top of a deadline of its own before the leader acts in its place.
    pub report_margin: Duration,
    /// How far the task-id floor stays behind cluster time, and how far ahead of it an id may be.
    pub id_window: Duration,
    /// Session pace and graces.
    pub liveness: Liveness,
    /// When ended tasks are deleted.
    pub retention: Retention,
    /// Most operations in one transaction.
    pub batch_ops: usize,
    /// Most bytes in one transaction, roughly.
    pub batch_bytes: usize,
}

/// Session pace and graces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Liveness {
    /// Shortest time between beats.
    pub min_beat: Duration,
    /// Beats per second the leader takes from all sidecars together; stretches the interval.
    pub beats_per_second: u32,
    /// Jitter on the interval, in thousandths either way.
    pub jitter_permille: u32,
    /// Missed beats until SUSPECT.
    pub suspect_beats: u32,
    /// Least grace until LOST, also after a takeover.
    pub min_grace: Duration,
    /// The grace in beats.
    pub grace_beats: u32,
    /// Least time without contact after which a sidecar ends STOP attempts itself.
    pub min_kill: Duration,
    /// The same in beats.
    pub kill_beats: u32,
    /// Added to both.
    pub kill_margin: Duration,
    /// An assignment without receipt is offered again after this.
    pub receipt: Duration,
    /// Most sidecars declared lost per second.
    pub max_lost_per_second: u32,
}

/// When ended tasks are deleted: at the first limit reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Oldest, by end.
    pub age: Duration,
    /// Most records per namespace.
    pub count: u64,
    /// Most bytes per namespace.
    pub bytes: u64,
    /// Kept at least this long after the end.
    pub min_age: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_pending: 1_000_000,
            cancel_grace: Duration::from_secs(10),
            report_margin: Duration::from_secs(5),
            id_window: Duration::from_secs(60),
            liveness: Liveness::default(),
            retention: Retention::default(),
            batch_ops: 120,
            batch_bytes: 1 << 20,
        }
    }
}

impl Default for Liveness {
    fn default() -> Self {
        Self {
            min_beat: Duration::from_secs(5),
            beats_per_second: 2_000,
            jitter_permille: 200,
            suspect_beats: 2,
            min_grace: Duration::from_secs(30),
            grace_beats: 6,
            min_kill: Duration::from_secs(20),
            kill_beats: 4,
            kill_margin: Duration::from_secs(5),
            receipt: Duration::from_secs(3),
            max_lost_per_second: 50,
        }
    }
}

impl Default for Retention {
    fn default() -> Self {
        Self { age: Duration::from_secs(24 * 3600), count: 200_000, bytes: 256 << 20, min_age: Duration::from_secs(60) }
    }
}

impl Liveness {
    /// Time between beats for a fleet of `sidecars`.
    #[must_use]
    pub fn beat(&self, sidecars: usize) -> Duration {
        let load = sidecars as u64 * 1_000 / u64::from(self.beats_per_second.max(1));
        self.min_beat.max(Duration::from_millis(load))
    }

    /// Silence after which an agent is suspect: the missed beats, each as late as jitter allows.
    #[must_use]
    pub fn suspect_after(&self, beat: Duration) -> Duration {
        (beat + beat * self.jitter_permille / 1_000) * self.suspect_beats
    }

    /// Silence after which a sidecar ends its STOP attempts.
    #[must_use]
    pub fn kill_after(&self, beat: Duration) -> Duration {
        self.min_kill.max(beat * self.kill_beats) + self.kill_margin
    }

    /// Silence after which an agent is lost: never before a sidecar has ended its STOP attempts.
    #[must_use]
    pub fn grace(&self, beat: Duration) -> Duration {
        self.min_grace.max(beat * self.grace_beats).max(self.kill_after(beat) + self.kill_margin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_follows_the_fleet_and_the_grace_never_undercuts_the_kill() {
        let live = Liveness::default();
        assert_eq!(live.beat(10), Duration::from_secs(5));
        assert_eq!(live.beat(20_000), Duration::from_secs(10));
        for beat in [1, 5, 30] {
            let beat = Duration::from_secs(beat);
            assert!(live.grace(beat) >= live.kill_after(beat) + live.kill_margin);
            assert!(live.suspect_after(beat) < live.grace(beat));
        }
        assert_eq!(live.grace(Duration::from_secs(5)), Duration::from_secs(30));
    }
}
