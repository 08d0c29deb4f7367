//! What to do about a request that did not succeed.

use std::time::Duration;

use crate::domain::RetryPolicy;
use crate::flexportal::FlexportalError;

/// The decision.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// A person is needed.
    Fail,
    /// The id leads nowhere: drop the link and look once more.
    LookUpAgain,
    /// Nothing gets through until the credentials are mended; costs no attempt.
    PauseTarget,
    /// FlexPortal asks everybody to wait; costs no attempt.
    HoldTarget(Duration),
    /// Once more, after this time.
    RetryIn(Duration),
    /// A pause is not over yet; costs no attempt, and the next probe is another customer's.
    StayPaused,
}

/// Decides, from what happened and the number of the attempt (the first is 1); `roll` is uniform in `[0, 1)`.
///
/// `is_probe` tells the request that was to find out whether a pause is over: it failing again is the target's fault.
#[must_use]
pub fn decide(error: &FlexportalError, attempt: u32, policy: &RetryPolicy, roll: f64, is_probe: bool) -> Verdict {
    use FlexportalError as E;
    match error {
        E::Refused { .. } => Verdict::Fail,
        E::CustomerNotFound => Verdict::LookUpAgain,
        E::Unauthorized { .. } => Verdict::PauseTarget,
        E::RateLimited { retry_after } => Verdict::HoldTarget(*retry_after),
        E::Unavailable { .. } | E::TimedOut | E::Unreached(_) | E::Disconnected(_) if is_probe => Verdict::StayPaused,
        E::Unavailable { .. } | E::TimedOut | E::Unreached(_) | E::Disconnected(_) => {
            policy.delay(attempt, roll).map_or(Verdict::Fail, Verdict::RetryIn)
        }
    }
}

/// Whether the outcome of a probe ends the pause it was to probe.
#[must_use]
pub fn ends_pause<T>(outcome: &Result<T, FlexportalError>) -> bool {
    use FlexportalError as E;
    match outcome {
        Ok(_) | Err(E::Refused { .. } | E::CustomerNotFound | E::RateLimited { .. }) => true,
        Err(E::Unauthorized { .. } | E::Unavailable { .. } | E::TimedOut | E::Unreached(_) | E::Disconnected(_)) => {
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_of_outcome_has_its_verdict() {
        let policy = RetryPolicy::default();
        let verdict = |error, attempt| decide(&error, attempt, &policy, 0.5, false);
        let unavailable = || FlexportalError::Unavailable { code: None, what: "503".to_owned() };
        assert_eq!(
            verdict(FlexportalError::Refused { code: None, message: String::new(), fields: vec![] }, 1),
            Verdict::Fail
        );
        assert_eq!(verdict(FlexportalError::CustomerNotFound, 1), Verdict::LookUpAgain);
        assert_eq!(verdict(FlexportalError::Unauthorized { code: None }, 12), Verdict::PauseTarget);
        let minute = Duration::from_mins(1);
        assert_eq!(verdict(FlexportalError::RateLimited { retry_after: minute }, 12), Verdict::HoldTarget(minute));
        assert_eq!(verdict(unavailable(), 3), Verdict::RetryIn(Duration::from_secs(2)));
        assert_eq!(verdict(FlexportalError::TimedOut, 1), Verdict::RetryIn(Duration::from_millis(500)));
        assert_eq!(verdict(unavailable(), 12), Verdict::Fail);
        assert_eq!(decide(&unavailable(), 12, &policy, 0.5, true), Verdict::StayPaused);
    }
}
