//! The circuit breaker: when many customers in a row fail by FlexPortal's own fault, the whole target pauses.
//!
//! It counts customers, not requests, so that one whose change FlexPortal cannot digest does not stop the others. What
//! it decides is written down as a pause of the target, which every replica obeys; the count itself is each process's
//! own.

use std::collections::BTreeSet;

use crate::domain::{ShopCustomerId, SourceName};
use crate::flexportal::FlexportalError;

/// So many customers in a row, with no answer in between that shows FlexPortal at work.
const OPENS_AFTER: usize = 10;

/// Who failed since FlexPortal last gave an answer of its own.
#[derive(Debug, Default)]
pub struct Breaker {
    failing: BTreeSet<(SourceName, ShopCustomerId)>,
}

impl Breaker {
    /// Takes note of an outcome; `true` if the target is to pause.
    pub fn hears<T>(
        &mut self,
        source: &SourceName,
        customer: &ShopCustomerId,
        outcome: &Result<T, FlexportalError>,
    ) -> bool {
        if !outcome.as_ref().is_err_and(FlexportalError::is_outage) {
            self.failing.clear();
            return false;
        }
        if self.failing.len() < OPENS_AFTER {
            self.failing.insert((source.clone(), customer.clone()));
        }
        self.failing.len() >= OPENS_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMED_OUT: Result<(), FlexportalError> = Err(FlexportalError::TimedOut);

    fn hears(breaker: &mut Breaker, customer: usize, outcome: &Result<(), FlexportalError>) -> bool {
        let source = SourceName::parse("shop").expect("a name");
        let customer = ShopCustomerId::parse(customer.to_string()).expect("an id");
        breaker.hears(&source, &customer, outcome)
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
}
