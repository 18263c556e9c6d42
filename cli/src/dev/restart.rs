//! When a child that died is started again. Pure: time is an argument.

use std::time::Duration;

/// A child that was up for so long had settled: its death starts a new count.
const SETTLED: Duration = Duration::from_secs(10);
const FIRST: Duration = Duration::from_millis(250);
const CAP: Duration = Duration::from_secs(30);
/// Before the fleet was ever ready, so many deaths in a row mean a fault that time won't mend.
const TRIES: u32 = 5;

/// What to do about a death.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Start it again after this long.
    RestartAfter(Duration),
    /// Leave it.
    GiveUp,
}

/// Deaths in a row of one child.
#[derive(Debug, Default)]
pub(crate) struct Restarts {
    deaths: u32,
}

impl Restarts {
    /// Takes note of a death after `up`; `ever_ready` says whether the fleet ever stood. A fleet
    /// that stood is never given up.
    pub(crate) fn died(&mut self, up: Duration, ever_ready: bool) -> Next {
        if up >= SETTLED {
            self.deaths = 0;
        }
        self.deaths = self.deaths.saturating_add(1);
        if !ever_ready && self.deaths >= TRIES {
            return Next::GiveUp;
        }
        let doublings = (self.deaths - 1).min(16);
        Next::RestartAfter((FIRST * 2_u32.pow(doublings)).min(CAP))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(10);

    #[test]
    fn pauses_double_up_to_the_cap_and_never_end_once_ready() {
        let mut restarts = Restarts::default();
        let pauses: Vec<_> = (0..40).map(|_| restarts.died(SOON, true)).collect();
        assert_eq!(pauses[0], Next::RestartAfter(FIRST));
        assert_eq!(pauses[1], Next::RestartAfter(FIRST * 2));
        assert_eq!(pauses[2], Next::RestartAfter(FIRST * 4));
        assert_eq!(pauses[39], Next::RestartAfter(CAP));
    }

    #[test]
    fn a_settled_child_starts_a_new_count() {
        let mut restarts = Restarts::default();
        for _ in 0..4 {
            restarts.died(SOON, true);
        }
        assert_eq!(restarts.died(SETTLED, true), Next::RestartAfter(FIRST));
    }

    #[test]
    fn a_fleet_that_never_stood_is_given_up() {
        let mut restarts = Restarts::default();
        for _ in 1..TRIES {
            assert!(matches!(restarts.died(SOON, false), Next::RestartAfter(_)));
        }
        assert_eq!(restarts.died(SOON, false), Next::GiveUp);
    }
}
