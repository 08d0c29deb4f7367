//! How long to wait after a failed attempt, and when to stop: exponential backoff with full jitter.

use std::num::NonZeroU32;
use std::time::Duration;

/// `RETRY_BASE_DELAY`, `RETRY_MAX_DELAY`, `RETRY_MAX_AGE`, `RETRY_MAX_ATTEMPTS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    base_delay: Duration,
    max_delay: Duration,
    /// None: no such limit.
    max_age: Option<Duration>,
    /// None: no such limit.
    max_attempts: Option<NonZeroU32>,
}

/// The failed attempts of one event since it began anew: when it arrived, was last unmatched, or was set back by a person.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Failures {
    /// How many, the latest included.
    pub attempts: u32,
    /// From the first to the latest; see [`RetryPolicy::lasting`].
    pub lasting: Duration,
}

impl RetryPolicy {
    /// `None` if the longest delay is shorter than the first, or the first is zero. An age or number of zero is no limit.
    #[must_use]
    pub fn new(base_delay: Duration, max_delay: Duration, max_age: Duration, max_attempts: u32) -> Option<Self> {
        let max_age = (!max_age.is_zero()).then_some(max_age);
        let max_attempts = NonZeroU32::new(max_attempts);
        let is_usable = !base_delay.is_zero() && max_delay >= base_delay;
        is_usable.then_some(Self { base_delay, max_delay, max_age, max_attempts })
    }

    /// For how long attempts have failed once one more has: as long as `before`, and the pause since then.
    ///
    /// Of a pause no more counts than the longest delay: what goes beyond was a hold, a stopped worker, or a queue.
    #[must_use]
    pub fn lasting(&self, before: Duration, pause: Duration) -> Duration {
        before.saturating_add(pause.min(self.max_delay))
    }

    /// The longest delay there is.
    #[must_use]
    pub fn longest_delay(&self) -> Duration {
        self.max_delay
    }

    /// How long to wait after a failed attempt, or `None` if it was the last.
    ///
    /// Full jitter: `roll` (uniform in `[0, 1)`) times the base delay, doubled with every attempt, capped at
    /// the longest delay. Spreads the retries of many customers after an outage evenly.
    #[must_use]
    pub fn delay(&self, failures: Failures, roll: f64) -> Option<Duration> {
        let is_last = self.max_attempts.is_some_and(|most| failures.attempts >= most.get())
            || self.max_age.is_some_and(|longest| failures.lasting >= longest);
        let doubled = self.base_delay.saturating_mul(2_u32.saturating_pow(failures.attempts.saturating_sub(1)));
        (!is_last).then(|| doubled.min(self.max_delay).mul_f64(roll))
    }
}

impl Default for RetryPolicy {
    /// 1 s doubling to 15 min, for a day.
    fn default() -> Self {
        Self {
            base_delay: Duration::from_secs(1),
            max_delay: Duration::from_mins(15),
            max_age: Some(Duration::from_hours(24)),
            max_attempts: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY: Duration = Duration::from_hours(24);
    const ALMOST_A_DAY: Duration = Duration::from_secs(24 * 3600 - 1);

    fn failures(attempts: u32, lasting: Duration) -> Failures {
        Failures { attempts, lasting }
    }

    #[test]
    fn the_delay_doubles_to_its_cap() {
        let policy = RetryPolicy::default();
        let roll = 1.0 - f64::EPSILON;
        let delay = |attempts| policy.delay(failures(attempts, Duration::ZERO), roll).expect("not the last");
        let seconds: Vec<_> = (1..=12).map(|attempts| delay(attempts).as_secs_f64().round()).collect();
        assert_eq!(seconds, [1., 2., 4., 8., 16., 32., 64., 128., 256., 512., 900., 900.]);
        assert_eq!(policy.delay(failures(3, Duration::ZERO), 0.5), Some(Duration::from_secs(2)));
        assert_eq!(policy.longest_delay(), Duration::from_mins(15), "that of RETRY_MAX_DELAY");
    }

    #[test]
    fn the_last_attempt_is_the_one_after_a_day_of_them_however_many_there_were() {
        let policy = RetryPolicy::default();
        assert!(policy.delay(failures(u32::MAX, ALMOST_A_DAY), 0.5).is_some());
        assert_eq!(policy.delay(failures(1, DAY), 0.5), None);
    }

    #[test]
    fn the_number_of_attempts_can_be_limited_and_a_limit_of_zero_is_none() {
        let (second, minute) = (Duration::from_secs(1), Duration::from_mins(1));
        let by_number = RetryPolicy::new(second, minute, Duration::ZERO, 3).expect("a policy");
        assert!(by_number.delay(failures(2, DAY * 365), 0.5).is_some());
        assert_eq!(by_number.delay(failures(3, Duration::ZERO), 0.5), None);
        let by_both = RetryPolicy::new(second, minute, minute, 3).expect("a policy");
        assert_eq!(by_both.delay(failures(2, minute), 0.5), None);
        let unlimited = RetryPolicy::new(second, minute, Duration::ZERO, 0).expect("a policy");
        assert!(unlimited.delay(failures(u32::MAX, Duration::MAX), 0.5).is_some());
    }

    #[test]
    fn a_policy_without_a_first_delay_or_with_a_shorter_longest_one_is_none() {
        let second = Duration::from_secs(1);
        assert!(RetryPolicy::new(second, second, DAY, 0).is_some());
        assert_eq!(RetryPolicy::new(second, second / 2, DAY, 0), None);
        assert_eq!(RetryPolicy::new(Duration::ZERO, second, DAY, 0), None);
    }

    #[test]
    fn of_a_pause_no_more_counts_than_the_longest_delay() {
        let (policy, minute) = (RetryPolicy::default(), Duration::from_mins(1));
        assert_eq!(policy.lasting(Duration::ZERO, Duration::ZERO), Duration::ZERO);
        assert_eq!(policy.lasting(minute, minute), minute * 2);
        assert_eq!(policy.lasting(minute, DAY), minute * 16);
        assert_eq!(policy.lasting(Duration::MAX, DAY), Duration::MAX);
    }

    proptest! {
        #[test]
        fn no_delay_leaves_its_bounds(attempts in 0_u32.., seconds in 0_u64.., roll in 0.0..1.0_f64) {
            let failures = failures(attempts, Duration::from_secs(seconds));
            if let Some(delay) = RetryPolicy::default().delay(failures, roll) {
                prop_assert!(delay <= Duration::from_mins(15));
            }
        }
    }
}
