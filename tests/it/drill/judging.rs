//! The judge finds what is lost, wrong and set back, and nothing else.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use flexportal_sync::config::ShopKind;
use flexportal_sync::domain::{EventId, EventStatus, Field};
use flexportal_sync::fake_flexportal::{FakeCustomer, RecordedRequest};
use serde_json::{Value, json};
use uuid::Uuid;

use super::burst::{Burst, Change, Customer};
use super::judge::{Accepted, History, StaleOverwrite, WrongField, most_in_a_minute, percentile};

fn second(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(second, 0).expect("in range")
}

fn event(number: usize) -> EventId {
    EventId(Uuid::from_u128(number as u128 + 1))
}

/// One customer; the shop's time and the fields of each change; answered one second apart from second 100.
fn burst(changes: &[(i64, &[Field])]) -> Burst {
    let change = |(at, fields): &(i64, &[Field])| Change {
        customer: 0,
        occurred_at: second(*at),
        fields: fields.to_vec(),
        is_late: false,
    };
    Burst {
        customers: vec![Customer { number: 1, kind: ShopKind::Generic, is_refused: false }],
        changes: changes.iter().map(change).collect(),
        deliveries: (0..changes.len()).collect(),
    }
}

/// What the judge says.
struct Verdict {
    reference: BTreeMap<Field, usize>,
    lost: usize,
    wrong: Vec<WrongField>,
    stale: Vec<StaleOverwrite>,
    ages: Vec<i64>,
}

/// What is found after these updates: when each arrived, what it carried, and what it was answered.
fn judged(burst: &Burst, updates: &[(i64, Value, u16)], status: EventStatus) -> Verdict {
    let accepted: Vec<_> = (0..burst.changes.len())
        .map(|change| {
            let answered_at = second(100 + i64::try_from(change).expect("few"));
            Some(Accepted { event: event(change), answered_at })
        })
        .collect();
    let mut customer = json!(FakeCustomer::new("cus_1", "customer1@example.com"));
    let mut requests = Vec::new();
    for (sequence, (at, body, status)) in (1..).zip(updates) {
        requests.push(RecordedRequest {
            sequence,
            received_at: second(*at),
            method: "PUT".to_owned(),
            path: "/v1/customers/cus_1".to_owned(),
            query: None,
            tenant_id: None,
            idempotency_key: None,
            body: Some(body.clone()),
            status: Some(*status),
            ended_at: Some(second(*at)),
        });
        for (name, value) in body.as_object().into_iter().flatten().filter(|_| *status == 200) {
            customer[name] = value.clone();
        }
    }
    let customer: FakeCustomer = serde_json::from_value(customer).expect("a customer");
    let history = History {
        burst,
        accepted: &accepted,
        requests: &requests,
        customers: [("cus_1".to_owned(), customer)].into(),
        statuses: (0..burst.changes.len()).map(|change| (event(change), status)).collect(),
    };
    Verdict {
        reference: history.reference(0),
        lost: history.lost().len(),
        wrong: history.wrong(),
        stale: history.stale_overwrites(),
        ages: history.freshness().iter().map(TimeDelta::num_seconds).collect(),
    }
}

const PHONE: &[Field] = &[Field::Phone];
const BOTH: &[Field] = &[Field::Phone, Field::Company];

fn phone(change: usize) -> Value {
    json!({"phone": format!("+49 30 {change}")})
}

fn both(of_phone: usize, of_company: usize) -> Value {
    json!({"phone": format!("+49 30 {of_phone}"), "company": format!("Engines {of_company}")})
}

#[test]
fn the_reference_is_the_newest_by_the_shops_time_then_by_arrival_field_by_field() {
    let burst = burst(&[(5, BOTH), (3, BOTH), (6, PHONE), (6, PHONE)]);
    let reference = judged(&burst, &[], EventStatus::Pending).reference;
    assert_eq!(reference, [(Field::Phone, 3), (Field::Company, 0)].into());
}

#[test]
fn an_event_that_waits_is_lost() {
    let burst = burst(&[(1, PHONE)]);
    for (status, lost) in [
        (EventStatus::Synced, 0),
        (EventStatus::Superseded, 0),
        (EventStatus::Failed, 0),
        (EventStatus::Pending, 1),
        (EventStatus::InFlight, 1),
        (EventStatus::Unmatched, 1),
    ] {
        assert_eq!(judged(&burst, &[], status).lost, lost, "{status}");
    }
}

#[test]
fn a_missing_or_older_value_is_wrong_unless_its_change_has_failed() {
    let burst = burst(&[(1, BOTH), (2, PHONE)]);
    let wrong = |updates: &[(i64, Value, u16)], status| judged(&burst, updates, status).wrong;
    let found = |found| WrongField { customer: 0, field: Field::Phone, expected: 1, found };
    assert_eq!(wrong(&[(1, both(1, 0), 200)], EventStatus::Synced), []);
    assert_eq!(wrong(&[(1, both(0, 0), 200)], EventStatus::Synced), [found(Some(0))]);
    assert_eq!(wrong(&[(1, both(0, 0), 200), (2, phone(1), 503)], EventStatus::Synced), [found(Some(0))]);
    assert_eq!(wrong(&[(1, json!({"company": "Engines 0"}), 200)], EventStatus::Superseded), [found(None)]);
    assert_eq!(wrong(&[(1, both(0, 0), 200)], EventStatus::Failed), []);
}

#[test]
fn a_value_that_goes_back_is_a_stale_overwrite_even_if_it_is_mended_later() {
    let burst = burst(&[(2, BOTH), (1, BOTH)]);
    let stale = |updates: &[(i64, Value, u16)]| judged(&burst, updates, EventStatus::Synced).stale;
    let back = StaleOverwrite { sequence: 2, field: Field::Company, written: 1, replaced: 0 };
    assert_eq!(stale(&[(1, both(0, 0), 200), (2, both(0, 1), 200), (3, both(0, 0), 200)]), [back]);
    assert_eq!(stale(&[(1, both(1, 1), 200), (2, both(0, 0), 200)]), []);
    assert_eq!(stale(&[(2, both(0, 0), 200), (1, both(1, 1), 200)]), [], "carried out in the other order");
    assert_eq!(stale(&[(1, both(0, 0), 200), (2, both(1, 1), 422)]), [], "not carried out");
}

#[test]
fn freshness_ends_with_the_state_or_a_newer_one_of_all_its_fields() {
    let burst = burst(&[(1, BOTH), (2, PHONE), (3, PHONE)]);
    let ages = |updates: &[(i64, Value, u16)]| judged(&burst, updates, EventStatus::Synced).ages;
    assert_eq!(ages(&[(110, both(2, 0), 200)]), [10, 9, 8]);
    assert_eq!(ages(&[(110, phone(2), 200)]), [9, 8], "the company of the first never came");
    assert_eq!(ages(&[(101, both(0, 0), 200), (105, phone(1), 503), (110, phone(2), 200)]), [1, 9, 8]);
    assert_eq!(ages(&[(90, both(2, 0), 200)]), [0, 0, 0]);
}

#[test]
fn a_minute_slides_and_ends_before_its_sixtieth_second() {
    let moments: Vec<_> = [0, 30, 59, 60, 61, 119].map(second).into();
    assert_eq!(most_in_a_minute(&moments), 4);
    assert_eq!(most_in_a_minute(&[]), 0);
}

#[test]
fn a_percentile_is_a_value_that_so_many_do_not_exceed() {
    let values: Vec<_> = (1..=200).map(TimeDelta::seconds).collect();
    let seconds = |percent| percentile(values.clone(), percent).num_seconds();
    assert_eq!((seconds(50), seconds(95), seconds(99)), (100, 190, 198));
    assert_eq!(percentile(vec![], 50), TimeDelta::zero());
}
