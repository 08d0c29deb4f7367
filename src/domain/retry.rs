//! How long to wait after a failed attempt: exponential backoff with full jitter.

use std::num::NonZeroU32;
use std::time::Duration;

/// `RETRY_BASE_DELAY`, `RETRY_MAX_DELAY`, `RETRY_MAX_ATTEMPTS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    base_delay: Duration,
    max_delay: Duration,
    max_attempts: NonZeroU32,
}

impl RetryPolicy {
    /// `None` if the longest delay is shorter than the first, or the first is zero.
    #[must_use]
    pub fn new(base_delay: Duration, max_delay: Duration, max_attempts: NonZeroU32) -> Option<Self> {
        (!base_delay.is_zero() && max_delay >= base_delay).then_some(Self { base_delay, max_delay, max_attempts })
    }

    /// How long to wait after failed attempt `attempt` (the first is 1), or `None` if that was the last.
    ///
    /// Full jitter: `roll` (uniform in `[0, 1)`) times the base delay, doubled with every attempt, capped at
    /// the longest delay. Spreads the retries of many customers after an outage evenly.
    #[must_use]
    pub fn delay(&self, attempt: u32, roll: f64) -> Option<Duration> {
        let doubled = self.base_delay.saturating_mul(2_u32.saturating_pow(attempt.saturating_sub(1)));
        (attempt < self.max_attempts.get()).then(|| doubled.min(self.max_delay).mul_f64(roll))
    }
}

impl Default for RetryPolicy {
    /// 1 s doubling to 15 min, 12 attempts: 32 minutes at most, half of that on average.
    fn default() -> Self {
        Self {
            base_delay: Duration::from_secs(1),
            max_delay: Duration::from_mins(15),
            max_attempts: NonZeroU32::MIN.saturating_add(11),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_delay_doubles_to_its_cap_and_the_last_attempt_has_none() {
        let policy = RetryPolicy::default();
        let roll = 1.0 - f64::EPSILON;
        let seconds: Vec<_> = (1..=12).map(|n| policy.delay(n, roll).map(|d| d.as_secs_f64().round())).collect();
        let expected = [1., 2., 4., 8., 16., 32., 64., 128., 256., 512., 900.].map(Some);
        assert_eq!(seconds[..11], expected);
        assert_eq!(seconds[11], None);
    }

    proptest! {
        #[test]
        fn no_delay_leaves_its_bounds(attempt in 0_u32.., roll in 0.0..1.0_f64) {
            if let Some(delay) = RetryPolicy::default().delay(attempt, roll) {
                prop_assert!(delay <= Duration::from_mins(15));
            }
        }
    }
}
