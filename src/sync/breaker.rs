//! The circuit breaker: when many customers in a row fail by FlexPortal's own fault, the whole target pauses.
//!
//! It counts customers, not requests, so that one whose change FlexPortal cannot digest does not stop the others. In a small
//! shop few have changes: there, more than one, all failing for a minute, is enough. What it decides is written down as a
//! pause of the target, which every replica obeys; the count itself is each process's own.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::{ShopCustomerId, SourceName};
use crate::flexportal::FlexportalError;

/// So many customers in a row, with no answer in between that shows FlexPortal at work.
const OPENS_AFTER: usize = 10;
/// Or so many, if nothing else has come for [`ALL_FAIL_FOR`].
const OPENS_AFTER_A_WHILE: usize = 2;
/// A hiccup is shorter.
const ALL_FAIL_FOR: Duration = Duration::from_mins(1);

/// Who failed since FlexPortal last gave an answer of its own.
#[derive(Debug, Default)]
pub struct Breaker {
    failing: BTreeSet<(SourceName, ShopCustomerId)>,
    /// When the first of them did.
    since: Option<Instant>,
}

impl Breaker {
    /// Takes note of an outcome at `now`; `true` if the target is to pause.
    pub fn hears<T>(
        &mut self,
        source: &SourceName,
        customer: &ShopCustomerId,
        outcome: &Result<T, FlexportalError>,
        now: Instant,
    ) -> bool {
        if !outcome.as_ref().is_err_and(FlexportalError::is_outage) {
            *self = Self::default();
            return false;
        }
        if self.failing.len() < OPENS_AFTER {
            self.failing.insert((source.clone(), customer.clone()));
        }
        let lasting = now.saturating_duration_since(*self.since.get_or_insert(now));
        self.failing.len() >= OPENS_AFTER || self.failing.len() >= OPENS_AFTER_A_WHILE && lasting >= ALL_FAIL_FOR
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMED_OUT: Result<(), FlexportalError> = Err(FlexportalError::TimedOut);

    fn hears(breaker: &mut Breaker, customer: usize, outcome: &Result<(), FlexportalError>) -> bool {
        let source = SourceName::parse("shop").expect("a name");
        let customer = ShopCustomerId::parse(customer.to_string()).expect("an id");
        breaker.hears(&source, &customer, outcome, Instant::now())
    }

    #[test]
    fn it_opens_when_ten_customers_in_a_row_failed_and_stays_so_until_an_answer() {
        let mut breaker = Breaker::default();
        for customer in 1..10 {
            assert!(!hears(&mut breaker, customer, &TIMED_OUT));
        }
        assert!(hears(&mut breaker, 10, &TIMED_OUT));
        assert!(hears(&mut breaker, 1, &TIMED_OUT), "a probe that failed");
        assert!(!hears(&mut breaker, 1, &Ok(())));
        assert!(!hears(&mut breaker, 2, &TIMED_OUT));
    }

    #[test]
    fn one_customer_that_always_fails_does_not_open_it_nor_do_refusals() {
        let mut breaker = Breaker::default();
        let refused = Err(FlexportalError::Refused { code: None, message: String::new(), fields: vec![] });
        for customer in 0..100 {
            assert!(!hears(&mut breaker, 7, &TIMED_OUT));
            if customer % 9 == 8 {
                assert!(!hears(&mut breaker, customer, &refused));
            }
        }
        for customer in 0..100 {
            assert!(!hears(&mut breaker, customer, &refused));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn in_a_small_shop_it_opens_when_more_than_one_fail_and_nothing_else_came_for_a_minute() {
        let mut breaker = Breaker::default();
        assert!(!hears(&mut breaker, 1, &TIMED_OUT));
        tokio::time::advance(ALL_FAIL_FOR).await;
        assert!(!hears(&mut breaker, 1, &TIMED_OUT), "one customer may be the cause itself");
        assert!(hears(&mut breaker, 2, &TIMED_OUT), "two for a minute");
        assert!(!hears(&mut breaker, 1, &Ok(())));
        assert!(!hears(&mut breaker, 1, &TIMED_OUT) && !hears(&mut breaker, 2, &TIMED_OUT), "it begins anew");
        tokio::time::advance(Duration::from_millis(59_999)).await;
        assert!(!hears(&mut breaker, 1, &TIMED_OUT));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(hears(&mut breaker, 1, &TIMED_OUT));
    }
}
