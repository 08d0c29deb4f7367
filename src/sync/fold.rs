//! Many waiting events of one customer become one change: for each field the newest word.
//!
//! Newer is decided by the one key of `domain::order`. A field for which something newer was
//! acknowledged already is left out; an event of which nothing is left is superseded.

use std::collections::BTreeMap;

use crate::domain::{
    Acknowledged, CustomerEvent, CustomerStatus, EventId, Field, FieldValue, FlexportalCustomerId, OrderKey, Said,
    ValueHash,
};
use crate::flexportal::Status;

/// A waiting event, read.
#[derive(Debug, Clone)]
pub struct ReadEvent<'a> {
    /// Its place in the order of the customer's changes.
    pub key: OrderKey,
    /// What it says.
    pub event: CustomerEvent<'a>,
}

impl ReadEvent<'_> {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> EventId {
        self.key.event
    }
}

/// The newest word on a field.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spoken<'a> {
    /// What was said.
    pub said: &'a Said<'a>,
    /// The place of the change that said it.
    pub key: OrderKey,
}

/// What is to be said now.
#[derive(Debug, Clone, PartialEq)]
pub struct Folded<'a> {
    /// The newest event that still has something to say; `None` if none has.
    pub head: Option<EventId>,
    /// For each field, its newest word.
    pub fields: BTreeMap<Field, Spoken<'a>>,
    /// Older events that have a word in it: they share the head's fate until it is synced.
    pub contributors: Vec<EventId>,
    /// Events of which nothing is left, and the newer one that spoke for them.
    pub superseded: Vec<(EventId, EventId)>,
    /// Events that said nothing to begin with.
    pub silent: Vec<EventId>,
}

/// Folds the waiting events of one customer.
#[must_use]
pub fn fold<'a>(events: &'a [ReadEvent<'a>], acknowledged: &Acknowledged) -> Folded<'a> {
    let mut ordered: Vec<_> = events.iter().collect();
    ordered.sort_by_key(|event| event.key);

    let mut fields: BTreeMap<Field, Spoken<'a>> = BTreeMap::new();
    let mut once_deactivated = false;
    for event in &ordered {
        for (field, said) in &event.event.says {
            once_deactivated |= *said == Said::Value(FieldValue::Status(CustomerStatus::Inactive));
            fields.insert(*field, Spoken { said, key: event.key });
        }
    }
    // The same key is the same event's own word, sent before and not acknowledged.
    fields.retain(|field, spoken| acknowledged.0.get(field).is_none_or(|settled| settled.key <= spoken.key));
    if let Some(status) = fields.get_mut(&Field::Status) {
        reinstate(status, acknowledged, once_deactivated);
    }

    let speaks = |event: &ReadEvent<'_>| fields.values().any(|spoken| spoken.key.event == event.id());
    let head = ordered.iter().rev().find(|event| speaks(event)).map(|event| event.id());
    let mut folded = Folded { head, fields: BTreeMap::new(), contributors: vec![], superseded: vec![], silent: vec![] };
    for event in ordered {
        if event.event.says.is_empty() {
            folded.silent.push(event.id());
        } else if !speaks(event) {
            folded.superseded.push((event.id(), successor(event, &fields, acknowledged).unwrap_or(event.id())));
        } else if Some(event.id()) != head {
            folded.contributors.push(event.id());
        }
    }
    folded.fields = fields;
    folded
}

/// A deactivation that the shop took back becomes `active` only if it was ours to take back.
fn reinstate(status: &mut Spoken<'_>, acknowledged: &Acknowledged, once_deactivated: bool) {
    if *status.said != Said::Value(FieldValue::Status(CustomerStatus::Reinstated)) {
        return;
    }
    // Before there was a flag, the value alone told.
    let we_deactivated = acknowledged.is_deactivated_by_us()
        || acknowledged
            .0
            .get(&Field::Status)
            .is_some_and(|settled| settled.hash.as_ref() == Some(&ValueHash::of(&Status::Inactive)));
    status.said = if we_deactivated || once_deactivated {
        &Said::Value(FieldValue::Status(CustomerStatus::Active))
    } else {
        &Said::Nothing
    };
}

/// The newest event that spoke for a field of `event` instead of it.
fn successor(
    event: &ReadEvent<'_>,
    fields: &BTreeMap<Field, Spoken<'_>>,
    acknowledged: &Acknowledged,
) -> Option<EventId> {
    let newest = event.event.says.keys().filter_map(|field| {
        let waiting = fields.get(field).map(|spoken| spoken.key);
        let settled = acknowledged.0.get(field).map(|settled| settled.key);
        waiting.max(settled)
    });
    newest.max().map(|key| key.event)
}

/// Events that were given up and have nothing left to say: for every word of theirs something newer was said, by an event that
/// waits or one that was settled. With each the newest of those that spoke instead.
#[must_use]
pub fn overtaken(
    given_up: &[ReadEvent<'_>],
    folded: &Folded<'_>,
    acknowledged: &Acknowledged,
) -> Vec<(EventId, EventId)> {
    let is_old = |event: &ReadEvent<'_>, field: &Field| {
        folded.fields.get(field).is_some_and(|spoken| spoken.key > event.key)
            || acknowledged.0.get(field).is_some_and(|settled| settled.key > event.key)
    };
    given_up
        .iter()
        .filter(|event| event.event.says.keys().all(|field| is_old(event, field)))
        .filter_map(|event| Some((event.id(), successor(event, &folded.fields, acknowledged)?)))
        .collect()
}

/// The e-mail to look the customer up by: the newest that a waiting event gives.
#[must_use]
pub fn newest_email<'a>(events: &'a [ReadEvent<'_>]) -> Option<&'a str> {
    let with_email = events.iter().filter_map(|event| Some((event.key, event.event.email()?)));
    with_email.max().map(|(_, email)| email)
}

/// FlexPortal's id as the newest waiting event that carries one gives it, and when it was said.
#[must_use]
pub fn newest_flexportal_id<'a>(events: &'a [ReadEvent<'_>]) -> Option<(OrderKey, &'a FlexportalCustomerId)> {
    events.iter().filter_map(|event| Some((event.key, event.event.flexportal_id.as_ref()?))).max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Acknowledgement, ShopCustomerId};
    use chrono::{DateTime, Utc};
    use proptest::prelude::*;

    fn time(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_795_428_000 + seconds, 0).expect("in range")
    }

    fn id(n: i64) -> EventId {
        EventId::of_arrival(time(0), n)
    }

    fn key(n: i64, at: i64) -> OrderKey {
        OrderKey::at(time(at), id(n))
    }

    fn event<'a>(n: i64, at: i64, says: &[(Field, Option<&'a str>)]) -> ReadEvent<'a> {
        let mut event = CustomerEvent::of(ShopCustomerId::parse("1").expect("an id"));
        for (field, value) in says {
            let said = value.map_or(Said::Nothing, |value| Said::Value(FieldValue::Text(value.into())));
            event.says.insert(*field, said);
        }
        ReadEvent { key: key(n, at), event }
    }

    fn acknowledged(field: Field, n: i64, at: i64) -> Acknowledged {
        let settled = Acknowledgement { key: key(n, at), hash: None, acked: None, deactivated: false, deleted: false };
        Acknowledged(BTreeMap::from([(field, settled)]))
    }

    fn said<'a>(folded: &Folded<'a>, field: Field) -> Option<&'a str> {
        match folded.fields.get(&field)?.said {
            Said::Value(FieldValue::Text(text)) => Some(text),
            _ => None,
        }
    }

    const PHONE: Field = Field::Phone;
    const COMPANY: Field = Field::Company;
    const PHONE_AND_COMPANY: [Field; 2] = [PHONE, COMPANY];

    #[test]
    fn the_newest_by_the_shops_time_wins_and_arrival_breaks_ties() {
        let older_arrives_later = [event(1, 10, &[(PHONE, Some("new"))]), event(2, 5, &[(PHONE, Some("old"))])];
        let folded = fold(&older_arrives_later, &Acknowledged::default());
        assert_eq!((said(&folded, PHONE), folded.head), (Some("new"), Some(id(1))));
        assert_eq!(folded.superseded, [(id(2), id(1))]);

        let at_once = [event(1, 5, &[(PHONE, Some("first"))]), event(2, 5, &[(PHONE, Some("second"))])];
        assert_eq!(said(&fold(&at_once, &Acknowledged::default()), PHONE), Some("second"));
    }

    #[test]
    fn a_creation_gives_way_to_an_update_of_the_same_second_that_arrived_before() {
        let update = event(1, 5, &[(PHONE, Some("with"))]);
        let mut creation = event(2, 5, &[(PHONE, None)]);
        creation.key.is_creation = true;
        let events = [update, creation];
        let folded = fold(&events, &Acknowledged::default());
        assert_eq!((said(&folded, PHONE), folded.head), (Some("with"), Some(id(1))));
        assert_eq!(folded.superseded, [(id(2), id(1))]);
    }

    #[test]
    fn an_email_and_an_id_are_taken_from_the_newest_that_gives_one() {
        let mut events = [
            event(3, 1, &[(Field::Email, Some("first@example.com"))]),
            event(2, 2, &[(Field::Email, Some("second@example.com"))]),
            event(1, 3, &[]),
        ];
        assert_eq!(newest_email(&events), Some("second@example.com"));
        assert_eq!(newest_email(&events[2..]), None);
        assert_eq!(newest_flexportal_id(&events), None);
        let ids = ["one", "two"].map(|id| FlexportalCustomerId::parse(id).expect("an id"));
        (events[0].event.flexportal_id, events[1].event.flexportal_id) = (Some(ids[0].clone()), Some(ids[1].clone()));
        assert_eq!(newest_flexportal_id(&events), Some((key(2, 2), &ids[1])));
    }

    #[test]
    fn partial_events_are_folded_field_by_field() {
        let events = [event(1, 1, &[(PHONE, Some("p")), (COMPANY, Some("old"))]), event(2, 2, &[(COMPANY, Some("c"))])];
        let folded = fold(&events, &Acknowledged::default());
        assert_eq!((said(&folded, PHONE), said(&folded, COMPANY)), (Some("p"), Some("c")));
        assert_eq!((folded.head, folded.contributors.as_slice()), (Some(id(2)), [id(1)].as_slice()));
        assert!(folded.superseded.is_empty());
    }

    #[test]
    fn an_empty_field_of_a_newer_snapshot_hides_the_older_value() {
        let events = [event(1, 1, &[(PHONE, Some("p"))]), event(2, 2, &[(PHONE, None)])];
        let folded = fold(&events, &Acknowledged::default());
        assert_eq!(*folded.fields[&PHONE].said, Said::Nothing);
        assert_eq!(folded.superseded, [(id(1), id(2))]);
    }

    #[test]
    fn what_was_acknowledged_newer_is_left_out_and_the_rest_still_goes() {
        let late = [event(7, 1, &[(PHONE, Some("old")), (COMPANY, Some("c"))])];
        let folded = fold(&late, &acknowledged(PHONE, 3, 5));
        assert_eq!((said(&folded, PHONE), said(&folded, COMPANY)), (None, Some("c")));
        assert_eq!(folded.head, Some(id(7)));

        let late = [event(7, 1, &[(PHONE, Some("old"))])];
        let nothing_left = fold(&late, &acknowledged(PHONE, 3, 5));
        assert_eq!((nothing_left.head, nothing_left.superseded), (None, vec![(id(7), id(3))]));
    }

    #[test]
    fn a_failed_event_is_overtaken_once_all_its_words_are() {
        let failed = [event(1, 1, &[(PHONE, Some("bad")), (COMPANY, Some("c"))])];
        let of = |waiting: &[ReadEvent<'_>], known: &Acknowledged| overtaken(&failed, &fold(waiting, known), known);
        let none = Acknowledged::default();
        assert_eq!(of(&[event(2, 2, &[(PHONE, Some("good"))])], &none), []);
        assert_eq!(of(&[event(2, 2, &[(PHONE, Some("good")), (COMPANY, None)])], &none), [(id(1), id(2))]);
        assert_eq!(of(&[event(2, 2, &[(PHONE, None)])], &acknowledged(COMPANY, 3, 5)), [(id(1), id(3))]);
        assert_eq!(of(&[event(2, 0, &[(PHONE, None), (COMPANY, None)])], &none), [], "older by the shop's time");
        assert_eq!(overtaken(&[event(1, 1, &[])], &fold(&[], &none), &none), [], "nobody spoke instead");
        // What was settled was its own word, sent before it was given up.
        let own =
            Acknowledged(PHONE_AND_COMPANY.map(|field| acknowledged(field, 1, 1).0).into_iter().flatten().collect());
        assert_eq!(of(&[], &own), [], "its own word is not a newer one");
        assert_eq!(of(&failed, &none), [], "nor is it where it waits again");
    }

    #[test]
    fn an_event_that_says_nothing_is_silent() {
        let events = [event(1, 1, &[])];
        let folded = fold(&events, &Acknowledged::default());
        assert_eq!((folded.head, folded.silent), (None, vec![id(1)]));
    }

    #[test]
    fn a_reinstated_customer_becomes_active_only_where_we_deactivated() {
        let status = |n, at, status| {
            let mut event = event(n, at, &[]);
            event.event.says.insert(Field::Status, Said::Value(FieldValue::Status(status)));
            event
        };
        let enabled = || status(2, 2, CustomerStatus::Reinstated);
        let of = |events: &[ReadEvent<'_>], known: &Acknowledged| match fold(events, known).fields[&Field::Status].said
        {
            Said::Value(FieldValue::Status(status)) => Some(*status),
            _ => None,
        };

        assert_eq!(of(&[enabled()], &Acknowledged::default()), None);
        let active = Some(CustomerStatus::Active);
        assert_eq!(of(&[status(1, 1, CustomerStatus::Inactive), enabled()], &Acknowledged::default()), active);
        let mut known = acknowledged(Field::Status, 1, 1);
        known.0.get_mut(&Field::Status).expect("there").hash = Some(ValueHash::of(&Status::Inactive));
        assert_eq!(of(&[enabled()], &known), active);
    }

    fn any_event() -> impl Strategy<Value = (i64, Vec<(usize, Option<u8>)>)> {
        (0_i64..4, proptest::collection::vec((0_usize..3, proptest::option::of(0_u8..3)), 0..4))
    }

    proptest! {
        #[test]
        fn the_order_of_reading_does_not_matter(
            given in proptest::collection::vec(any_event(), 0..6),
            shuffle in proptest::collection::vec(any::<u32>(), 6),
        ) {
            let fields = [PHONE, COMPANY, Field::FirstName];
            let words = ["0", "1", "2"];
            let events: Vec<_> = given
                .iter()
                .enumerate()
                .map(|(n, (at, says))| {
                    let says: Vec<_> = says.iter().map(|(f, v)| (fields[*f], v.map(|v| words[usize::from(v)]))).collect();
                    event(i64::try_from(n).expect("few") + 1, *at, &says)
                })
                .collect();
            let mut shuffled: Vec<_> = events.iter().cloned().zip(&shuffle).collect();
            shuffled.sort_by_key(|(_, key)| **key);
            let shuffled: Vec<_> = shuffled.into_iter().map(|(event, _)| event).collect();
            let folded = fold(&events, &Acknowledged::default());
            prop_assert_eq!(&fold(&shuffled, &Acknowledged::default()), &folded);
            // Every event has exactly one place.
            let places = folded.contributors.len() + folded.superseded.len() + folded.silent.len();
            prop_assert_eq!(places + usize::from(folded.head.is_some()), events.len());
        }
    }
}
