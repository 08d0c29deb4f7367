//! The order of a customer's changes: one key, given when a change is stored, the same for every reader.
//!
//! It orders folding, what FlexPortal acknowledged, and what a newer change closes. It is total: no two changes are equal,
//! since each has an arrival of its own. No clock but the shop's and Postgres' has a say in it.

use std::cmp::Ordering;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::EventId;

/// A shop's time further ahead of the arrival than this is a mistake (a time zone, a wrong clock), and would win over every
/// right change until its time comes. Within it, times are compared as they are: one clock made them.
pub const CLOCK_AHEAD: TimeDelta = TimeDelta::minutes(5);
/// No shop is older. PHP writes a date that is not set as one of the year -1, and Postgres refuses those before its
/// calendar.
const EARLIEST: DateTime<Utc> = DateTime::UNIX_EPOCH;

/// Where a change stands in the order of its customer's changes; the greatest is the newest.
///
/// Compared in this order: the time of the change; whether it is Shopify's `customers/create`, which comes before all else
/// of its second; `X-Shopify-Triggered-At`, or the time of arrival where there is none; the arrival.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct OrderKey {
    /// When it happened: see [`time_of_change`].
    #[serde(rename = "at")]
    pub changed_at: DateTime<Utc>,
    /// Whether the shop says that the customer was created just then, with less than a later change of the same second.
    #[serde(default, rename = "creation", skip_serializing_if = "std::ops::Not::not")]
    pub is_creation: bool,
    /// When the shop says that it was triggered.
    #[serde(default, rename = "triggered", skip_serializing_if = "Option::is_none")]
    pub triggered_at: Option<DateTime<Utc>>,
    /// The change. Its id is its arrival: the time, and a number that all replicas share.
    pub event: EventId,
}

impl OrderKey {
    /// Of a change that is not a creation, and of which the shop does not say when it was triggered.
    #[must_use]
    pub fn at(changed_at: DateTime<Utc>, event: EventId) -> Self {
        Self { changed_at, is_creation: false, triggered_at: None, event }
    }

    fn compared(&self) -> (DateTime<Utc>, bool, DateTime<Utc>, EventId) {
        let triggered_at = self.triggered_at.unwrap_or_else(|| self.event.arrived_at());
        (self.changed_at, !self.is_creation, triggered_at, self.event)
    }
}

impl Ord for OrderKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.compared().cmp(&other.compared())
    }
}

impl PartialOrd for OrderKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for OrderKey {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for OrderKey {}

/// When a change counts as having happened, and a warning where that is not what the shop says.
///
/// The shop's time, unless there is none, or it cannot be: then the arrival's, or the newest time of a change of that
/// customer, stored or acknowledged, if that is later.
#[must_use]
pub fn time_of_change(
    told: Option<DateTime<Utc>>,
    received_at: DateTime<Utc>,
    newest: Option<DateTime<Utc>>,
) -> (DateTime<Utc>, Option<&'static str>) {
    let of_arrival = || newest.map_or(received_at, |newest| newest.max(received_at));
    match told {
        Some(told) if told > received_at + CLOCK_AHEAD => (
            of_arrival(),
            Some("the shop's time of the change lies more than five minutes ahead: that of arrival counts"),
        ),
        Some(told) if told < EARLIEST => {
            (of_arrival(), Some("the shop's time of the change lies before 1970: that of arrival counts"))
        }
        Some(told) => (told, None),
        None => (of_arrival(), None),
    }
}

/// When a webhook counts as arrived: by Postgres' clock, and no earlier than the one before of the same customer, also
/// where that clock was set back.
#[must_use]
pub fn time_of_arrival(now: DateTime<Utc>, before: Option<DateTime<Utc>>) -> DateTime<Utc> {
    before.map_or(now, |before| before.max(now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn time(millis: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_795_428_000_000 + millis).expect("in range")
    }

    fn key(changed: i64, is_creation: bool, triggered: Option<i64>, arrived: i64, number: i64) -> OrderKey {
        let event = EventId::of_arrival(time(arrived), number);
        OrderKey { changed_at: time(changed), is_creation, triggered_at: triggered.map(time), event }
    }

    fn any_key() -> impl Strategy<Value = OrderKey> {
        let few = || 0_i64..3;
        (few(), any::<bool>(), proptest::option::of(few()), few(), few()).prop_map(
            |(changed, is_creation, triggered, arrived, number)| key(changed, is_creation, triggered, arrived, number),
        )
    }

    proptest! {
        #[test]
        fn the_order_is_total_and_the_same_for_every_reader(a in any_key(), b in any_key(), c in any_key()) {
            prop_assert_eq!(a.cmp(&b), b.cmp(&a).reverse());
            prop_assert_eq!(a.partial_cmp(&b), Some(a.cmp(&b)));
            prop_assert_eq!(a == b, a.cmp(&b).is_eq());
            prop_assert!(a.event == b.event || a != b, "two changes are never equal");
            prop_assert!(!(a <= b && b <= c) || a <= c);
            // What is written down is read back as the same.
            let written = serde_json::to_string(&a).expect("it serialises");
            let read: OrderKey = serde_json::from_str(&written).expect("it is read");
            prop_assert_eq!(read, a);
        }

        #[test]
        fn what_arrives_later_without_a_time_is_newer_than_all_before(
            steps in proptest::collection::vec((-600_000_i64..600_000, proptest::option::of(-300_000_i64..900_000)), 1..20),
        ) {
            // Postgres' clock steps as it likes; shops tell any time, or none.
            let (mut now, mut arrived, mut newest, mut greatest) = (0, None, None, None::<OrderKey>);
            for (number, (step, told)) in (1..).zip(steps) {
                now += step;
                let received_at = time_of_arrival(time(now), arrived);
                prop_assert!(arrived.is_none_or(|before| before <= received_at));
                let (changed_at, warning) = time_of_change(told.map(|ahead| time(now + ahead)), received_at, newest);
                let event = EventId::of_arrival(received_at, number);
                let key = OrderKey::at(changed_at, event);
                if told.is_none() || warning.is_some() {
                    prop_assert!(greatest.is_none_or(|greatest| greatest < key));
                }
                arrived = Some(received_at);
                newest = newest.max(Some(changed_at));
                greatest = greatest.max(Some(key));
            }
        }
    }

    #[test]
    fn keys_are_compared_by_change_then_creation_then_trigger_then_arrival() {
        let in_order = [
            key(0, false, Some(9), 9, 9),
            key(1, true, Some(9), 9, 9),
            key(1, false, Some(2), 9, 9),
            key(1, false, None, 3, 9),
            key(1, false, Some(3), 4, 1),
            key(1, false, Some(3), 4, 2),
            key(1, false, Some(5), 1, 1),
            key(2, true, Some(1), 1, 1),
        ];
        assert!(in_order.windows(2).all(|pair| pair[0] < pair[1]), "{in_order:#?}");
    }

    #[test]
    fn a_time_over_five_minutes_ahead_or_before_1970_is_none() {
        let (arrived, minute) = (time(0), TimeDelta::minutes(1));
        let counted = |told, newest| {
            let (at, warning) = time_of_change(told, arrived, newest);
            (at, warning.is_some())
        };
        assert_eq!(counted(Some(arrived + minute * 5), None), (arrived + minute * 5, false));
        assert_eq!(counted(Some(arrived + minute * 5 + TimeDelta::microseconds(1)), None), (arrived, true));
        assert_eq!(counted(Some(arrived - minute), Some(arrived + minute)), (arrived - minute, false));
        assert_eq!(counted(Some(DateTime::UNIX_EPOCH), None), (DateTime::UNIX_EPOCH, false));
        assert_eq!(counted(Some(DateTime::UNIX_EPOCH - minute), None), (arrived, true));
        assert_eq!(counted(None, None), (arrived, false));
        assert_eq!(counted(None, Some(arrived - minute)), (arrived, false));
        assert_eq!(counted(None, Some(arrived + minute)), (arrived + minute, false), "newer than what was told ahead");
        assert_eq!(counted(Some(arrived + minute * 9), Some(arrived + minute)), (arrived + minute, true));
    }

    #[test]
    fn an_arrival_is_never_earlier_than_the_one_before() {
        assert_eq!(time_of_arrival(time(5), None), time(5));
        assert_eq!(time_of_arrival(time(5), Some(time(3))), time(5));
        assert_eq!(time_of_arrival(time(5), Some(time(7))), time(7));
    }
}
