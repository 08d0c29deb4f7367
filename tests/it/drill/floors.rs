//! The ideal that freshness is measured against.

use chrono::{DateTime, TimeDelta, Utc};

use super::floor::{Waiting, faultless_queue, knowing_the_future};

fn at(milliseconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(1_000_000 + milliseconds).expect("in range")
}

fn customer(answered: &[i64], requests: u32) -> Waiting {
    Waiting { answered: answered.iter().map(|moment| at(*moment)).collect(), requests, is_refused: false }
}

/// Under a limit of 20: two at once, the others 60 s / 18 apart.
type Schedule = fn(&[Waiting], u32, TimeDelta) -> Vec<TimeDelta>;

fn milliseconds(schedule: Schedule, customers: &[Waiting]) -> Vec<i64> {
    let mut ages = schedule(customers, 20, TimeDelta::milliseconds(40));
    ages.sort_unstable();
    ages.iter().map(TimeDelta::num_milliseconds).collect()
}

#[test]
fn a_tenth_goes_at_once_and_the_rest_evenly() {
    let customers = vec![customer(&[0], 1); 4];
    for schedule in [knowing_the_future as Schedule, faultless_queue] {
        assert_eq!(milliseconds(schedule, &customers), [40, 40, 3_373, 6_706]);
    }
}

#[test]
fn a_lookup_takes_a_place_of_its_own() {
    for schedule in [knowing_the_future as Schedule, faultless_queue] {
        assert_eq!(milliseconds(schedule, &[customer(&[0], 2), customer(&[0], 2)]), [40, 6_706]);
    }
}

#[test]
fn who_knows_the_future_serves_a_customer_once_and_lets_nobody_wait_for_it() {
    let customers = [customer(&[0, 5_000], 1), customer(&[1_000], 1)];
    assert_eq!(milliseconds(knowing_the_future, &customers), [40, 40, 5_040]);
}

#[test]
fn a_queue_serves_a_customer_again_after_its_next_change_without_a_lookup() {
    let customers = [customer(&[0, 100, 200], 2)];
    // Both places at once are taken by lookup and update; what is said until the next one goes with that.
    assert_eq!(milliseconds(faultless_queue, &customers), [40, 3_173, 3_273]);
}

#[test]
fn who_is_refused_takes_a_place_and_does_not_count() {
    let refused = Waiting { is_refused: true, ..customer(&[0], 2) };
    for schedule in [knowing_the_future as Schedule, faultless_queue] {
        assert_eq!(milliseconds(schedule, &[refused.clone(), customer(&[1], 1)]), [3_372]);
    }
}
