//! When an agent's process that ended by itself is started again.

use std::collections::VecDeque;
use std::time::Duration;

use crate::config::RestartPolicy;

/// Restarts within the policy's window. Times are boot-time milliseconds.
#[derive(Debug)]
pub(super) struct Restarts {
    policy: RestartPolicy,
    at: VecDeque<u64>,
}

impl Restarts {
    pub(super) fn new(policy: RestartPolicy) -> Self {
        Self { policy, at: VecDeque::new() }
    }

    /// How long to wait before the next start; `None`: not by itself any more.
    pub(super) fn next(&mut self, now_ms: u64) -> Option<Duration> {
        let window = u64::try_from(self.policy.window.as_millis()).unwrap_or(u64::MAX);
        while self.at.front().is_some_and(|&at| now_ms.saturating_sub(at) >= window) {
            self.at.pop_front();
        }
        let recent = u32::try_from(self.at.len()).unwrap_or(u32::MAX);
        if recent >= self.policy.max {
            return None;
        }
        self.at.push_back(now_ms);
        let factor = 1u32.checked_shl(recent).unwrap_or(u32::MAX);
        Some(self.policy.base.saturating_mul(factor).min(self.policy.cap))
    }

    /// An operator's word: as if nothing had happened.
    pub(super) fn clear(&mut self) {
        self.at.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_and_restarts_stop_until_the_window_has_passed() {
        let mut restarts = Restarts::new(RestartPolicy::default());
        let delays: Vec<_> = (0..9).map(|n| restarts.next(n).map(|delay| delay.as_secs())).collect();
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 64, 128].map(Some).into_iter().chain([None]).collect::<Vec<_>>());
        assert_eq!(restarts.next(1_800_000).map(|delay| delay.as_secs()), Some(128));
        restarts.clear();
        assert_eq!(restarts.next(1_800_001).map(|delay| delay.as_secs()), Some(1));
    }
}
