//! The burst is what it is said to be.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::burst::{Burst, FIELDS, Size, change_in, generic_value};

fn burst(seed: u64) -> Burst {
    Burst::new(seed, Size { deliveries: 3_000, customers: 600 }, DateTime::UNIX_EPOCH)
}

#[test]
fn the_shares_are_as_promised() {
    let burst = burst(1);
    assert_eq!((burst.deliveries.len(), burst.changes.len()), (3_000, 2_850));
    assert_eq!(burst.changes.iter().filter(|change| change.is_late).count(), 90);
    assert_eq!(burst.customers.iter().filter(|customer| customer.is_looked_up()).count(), 150);
    let changing: BTreeSet<_> = burst.changes.iter().map(|change| change.customer).collect();
    assert_eq!(changing.len(), 600);
    let refused = (0..burst.changes.len()).filter(|change| burst.customer_of(*change).is_refused).count();
    assert!((15..=16).contains(&refused), "{refused}");
}

#[test]
fn a_late_change_is_older_than_one_sent_before() {
    let burst = burst(2);
    let mut newest: BTreeMap<usize, DateTime<Utc>> = BTreeMap::new();
    for change in &burst.changes {
        let before = newest.entry(change.customer).or_insert(change.occurred_at);
        assert_eq!(change.occurred_at < *before, change.is_late);
        *before = change.occurred_at.max(*before);
    }
}

#[test]
fn the_same_seed_gives_the_same_bodies() {
    let bodies = |burst: Burst| (0..burst.changes.len()).map(|change| burst.body(change)).collect::<Vec<_>>();
    assert_eq!(bodies(burst(3)), bodies(burst(3)));
    assert_ne!(burst(3).deliveries, burst(4).deliveries);
}

#[test]
fn values_are_traced_to_their_change() {
    for field in FIELDS {
        assert_eq!(change_in(&generic_value(field, 17)), Some(17), "{field:?}");
    }
    assert_eq!(change_in(&json!("Customer")), None);
    assert_eq!(change_in(&Value::Null), None);
}
