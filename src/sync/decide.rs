//! What to do about a request that did not succeed.

use std::time::Duration;

use crate::domain::RetryPolicy;
use crate::domain::retry::Failures;
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

/// Decides, from what happened and the failures of the event so far, this one included; `roll` is uniform in `[0, 1)`.
///
/// `is_probe` tells the request that was to find out whether a pause is over: it failing again is the target's fault.
#[must_use]
pub fn decide(error: &FlexportalError, failures: Failures, policy: &RetryPolicy, roll: f64, is_probe: bool) -> Verdict {
    use FlexportalError as E;
    match error {
        E::Refused { .. } => Verdict::Fail,
        E::CustomerNotFound => Verdict::LookUpAgain,
        E::Unauthorized { .. } => Verdict::PauseTarget,
        E::RateLimited { retry_after } => Verdict::HoldTarget(*retry_after),
        E::Unavailable { .. } | E::TimedOut | E::Unreached(_) | E::Disconnected(_) if is_probe => Verdict::StayPaused,
        E::Unavailable { .. } | E::TimedOut | E::Unreached(_) | E::Disconnected(_) => {
            policy.delay(failures, roll).map_or(Verdict::Fail, Verdict::RetryIn)
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

/// Whether an answer to the list shows that FlexPortal itself answers: a list as documented does, and so does a refusal of its
/// own. One more 404 or 410 shows nothing: whatever answered the first may have answered the second.
///
/// # Errors
/// What came instead.
pub fn shows_itself<T>(status: Option<u16>, outcome: Result<T, FlexportalError>) -> Result<(), FlexportalError> {
    use FlexportalError as E;
    match outcome {
        Ok(_) => Ok(()),
        Err(E::Refused { .. } | E::Unauthorized { .. }) if !matches!(status, Some(404 | 410)) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unavailable() -> FlexportalError {
        FlexportalError::Unavailable { code: None, what: "503".to_owned() }
    }

    fn refused() -> FlexportalError {
        FlexportalError::Refused { code: None, message: String::new(), fields: vec![] }
    }

    #[test]
    fn each_class_of_outcome_has_its_verdict() {
        let policy = RetryPolicy::default();
        let (hour, day) = (Duration::from_hours(1), Duration::from_hours(24));
        let verdict = |error, attempts, lasting| decide(&error, Failures { attempts, lasting }, &policy, 0.5, false);
        assert_eq!(verdict(refused(), 1, hour), Verdict::Fail);
        assert_eq!(verdict(FlexportalError::CustomerNotFound, 1, hour), Verdict::LookUpAgain);
        assert_eq!(verdict(FlexportalError::Unauthorized { code: None }, 12, day), Verdict::PauseTarget);
        let minute = Duration::from_mins(1);
        let limited = FlexportalError::RateLimited { retry_after: minute };
        assert_eq!(verdict(limited, 12, day), Verdict::HoldTarget(minute));
        assert_eq!(verdict(unavailable(), 3, hour), Verdict::RetryIn(Duration::from_secs(2)));
        assert_eq!(verdict(FlexportalError::TimedOut, 1, hour), Verdict::RetryIn(Duration::from_millis(500)));
        assert_eq!(verdict(unavailable(), 100, hour), Verdict::RetryIn(Duration::from_secs(450)));
        assert_eq!(verdict(unavailable(), 2, day), Verdict::Fail, "for a day");
        let failures = Failures { attempts: 12, lasting: day };
        assert_eq!(decide(&unavailable(), failures, &policy, 0.5, true), Verdict::StayPaused);
    }

    #[test]
    fn flexportal_shows_itself_by_a_list_or_by_a_refusal_of_its_own_that_is_not_one_more_404() {
        let shows = |status, error| shows_itself::<()>(Some(status), Err(error)).is_ok();
        assert_eq!(shows_itself(Some(200), Ok(())), Ok(()));
        assert!(shows(400, refused()) && shows(403, FlexportalError::Unauthorized { code: None }));
        assert!(!shows(404, refused()) && !shows(410, refused()));
        assert!(!shows(404, unavailable()) && !shows(503, unavailable()));
        let limited = FlexportalError::RateLimited { retry_after: Duration::from_secs(1) };
        assert_eq!(shows_itself::<()>(Some(429), Err(limited.clone())), Err(limited));
    }

    #[test]
    fn a_pause_ends_by_any_word_of_flexportals_own_but_that_it_refuses_the_key() {
        let ends = |error| ends_pause::<()>(&Err(error));
        assert!(ends_pause(&Ok(())));
        assert!(ends(refused()) && ends(FlexportalError::CustomerNotFound));
        assert!(ends(FlexportalError::RateLimited { retry_after: Duration::ZERO }));
        assert!(!ends(FlexportalError::Unauthorized { code: None }));
        assert!(!ends(unavailable()) && !ends(FlexportalError::TimedOut));
        assert!(!ends(FlexportalError::Unreached(String::new())));
        assert!(!ends(FlexportalError::Disconnected(String::new())));
    }
}
