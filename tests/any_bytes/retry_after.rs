//! `Retry-After`: whatever FlexPortal, or a proxy before it, may write.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use flexportal_sync::flexportal::retry_after;
use proptest::prelude::*;

use crate::{cases, edits};

const HOUR: Duration = Duration::from_hours(1);

/// The three spellings that HTTP knows (RFC 9110, section 5.6.7).
const SPELLINGS: [&str; 3] = ["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"];

/// Up to 2069: the second spelling has two digits for the year.
fn any_second() -> impl Strategy<Value = DateTime<Utc>> {
    (0_i64..3_155_760_000).prop_map(|second| DateTime::from_timestamp(second, 0).expect("in range"))
}

/// Three hours around a moment, to the nanosecond.
fn any_offset() -> impl Strategy<Value = TimeDelta> {
    (-10_800_000_000_000_i64..10_800_000_000_000).prop_map(TimeDelta::nanoseconds)
}

proptest! {
    #![proptest_config(cases(5_000))]

    #[test]
    fn no_text_makes_the_wait_longer_than_an_hour(text in "(?s).{0,40}", now in any_second()) {
        prop_assert!(retry_after(Some(&text), None, now) <= HOUR);
    }

    #[test]
    fn no_slip_in_a_date_makes_the_wait_longer_than_an_hour(
        (date, offset) in (any_second(), any_offset()),
        spelling in 0..SPELLINGS.len(),
        slips in edits::of_text(3),
    ) {
        let text = edits::text_with(&date.format(SPELLINGS[spelling]).to_string(), &slips);
        prop_assert!(retry_after(Some(&text), None, date - offset) <= HOUR);
    }

    #[test]
    fn seconds_are_taken_to_the_second(digits in "[ \t]{0,2}[0-9]{1,30}[ \t]{0,2}", now in any_second()) {
        let wait = digits.trim().parse().map_or(HOUR, Duration::from_secs).min(HOUR);
        prop_assert_eq!(retry_after(Some(&digits), None, now), wait);
    }

    #[test]
    fn dates_are_taken_to_the_moment_in_every_spelling(
        (date, offset) in (any_second(), any_offset()),
        spelling in 0..SPELLINGS.len(),
    ) {
        let wait = offset.to_std().unwrap_or_default().min(HOUR);
        prop_assert_eq!(retry_after(Some(&date.format(SPELLINGS[spelling]).to_string()), None, date - offset), wait);
    }
}
