//! Several shop customers that lead to one FlexPortal customer: whose word counts.
//!
//! An office's e-mail goes on to a successor; somebody is deleted and registers anew; one person has an account in two
//! shops. FlexPortal knows one customer, since it joins orders by e-mail.

use chrono::{DateTime, Utc};

use super::fold::{Folded, Spoken};
use crate::domain::{CustomerStatus, Field, FieldValue, FlexportalCustomerId, OrderKey, Said, SourceName};
use crate::flexportal::Status;
use crate::outbox::Sharer;

/// What becomes of the status, when it is known who else leads to the customer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StatusWord {
    /// What the change itself says.
    AsSaid,
    /// Active again: it was this service that set inactive, because of a deletion, and somebody lives there now.
    Reactivate,
    /// Nothing, though the change says inactive, for this reason.
    Withhold(String),
}

/// The shop customer to whom a match by e-mail belongs rather than to the one that is looked up: it led there before, and
/// has another e-mail by now.
#[must_use]
pub fn holder<'a>(source: &SourceName, sharers: &'a [Sharer]) -> Option<&'a Sharer> {
    sharers.iter().find(|sharer| sharer.source == *source && sharer.has_email == Some(false))
}

/// What becomes of the inactive that a deletion in the shop says: nothing while another live customer leads there.
#[must_use]
pub fn on_deletion(id: &FlexportalCustomerId, sharers: &[Sharer]) -> StatusWord {
    match sharers.iter().find(|sharer| !sharer.is_deleted) {
        None => StatusWord::AsSaid,
        Some(Sharer { source, customer, .. }) => StatusWord::Withhold(format!(
            "{id} was not set inactive: customer {customer} of {source}, who is not deleted, leads to it too"
        )),
    }
}

/// What becomes of the status when somebody is first told of, or again: active if this service set inactive because of a
/// deletion, and that is the last that FlexPortal showed. What its staff set stays.
#[must_use]
pub fn on_return(sharers: &[Sharer]) -> StatusWord {
    let last_shown = sharers.iter().filter_map(|sharer| sharer.status_shown).max_by_key(|(at, _)| *at);
    let is_still_ours = last_shown.is_none_or(|(_, status)| status == Status::Inactive);
    if is_still_ours && sharers.iter().any(|sharer| sharer.was_deactivated) {
        StatusWord::Reactivate
    } else {
        StatusWord::AsSaid
    }
}

/// The customer itself, as one that leads to its own FlexPortal customer: deleted, and told of again.
#[must_use]
pub fn returned(
    source: &SourceName,
    customer: &crate::domain::ShopCustomerId,
    status_shown: Option<(DateTime<Utc>, Status)>,
) -> Sharer {
    Sharer {
        source: source.clone(),
        customer: customer.clone(),
        has_email: None,
        is_deleted: true,
        was_deactivated: true,
        status_shown,
    }
}

impl StatusWord {
    /// Puts the word in the place of what the changes say of the status; `head` is the newest of them. What a change says of
    /// the status by itself is not written over by a return.
    pub fn apply(&self, folded: &mut Folded<'_>, head: OrderKey) {
        const ACTIVE: Said<'static> = Said::Value(FieldValue::Status(CustomerStatus::Active));
        match self {
            Self::AsSaid => {}
            Self::Reactivate => {
                folded.fields.entry(Field::Status).or_insert(Spoken { said: &ACTIVE, key: head });
            }
            Self::Withhold(_) => {
                if let Some(status) = folded.fields.get_mut(&Field::Status) {
                    status.said = &Said::Nothing;
                }
            }
        }
    }

    /// What people are told of it.
    #[must_use]
    pub fn warning(&self) -> Option<&str> {
        match self {
            Self::AsSaid | Self::Reactivate => None,
            Self::Withhold(why) => Some(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{EventId, ShopCustomerId};
    use std::collections::BTreeMap;

    fn name(name: &str) -> SourceName {
        SourceName::parse(name).expect("a name")
    }

    fn sharer(source: &str) -> Sharer {
        Sharer {
            source: name(source),
            customer: ShopCustomerId::parse("7").expect("an id"),
            has_email: None,
            is_deleted: false,
            was_deactivated: false,
            status_shown: None,
        }
    }

    fn shown(second: i64, status: Status) -> (DateTime<Utc>, Status) {
        (DateTime::from_timestamp(second, 0).expect("in range"), status)
    }

    #[test]
    fn a_match_belongs_to_whom_it_was_linked_to_if_that_ones_email_has_changed() {
        let with = |source, has_email| [Sharer { has_email, ..sharer(source) }];
        assert!(holder(&name("a"), &with("a", Some(false))).is_some());
        assert!(holder(&name("a"), &with("a", Some(true))).is_none(), "two accounts of one person");
        assert!(holder(&name("a"), &with("a", None)).is_none(), "nobody knows");
        assert!(holder(&name("a"), &with("b", Some(false))).is_none(), "another shop's customers are others");
    }

    #[test]
    fn a_deletion_deactivates_nobody_to_whom_another_live_customer_leads() {
        let id = FlexportalCustomerId::parse("cus_1").expect("an id");
        assert_eq!(on_deletion(&id, &[]), StatusWord::AsSaid);
        assert_eq!(on_deletion(&id, &[Sharer { is_deleted: true, ..sharer("b") }]), StatusWord::AsSaid);
        let both = [Sharer { is_deleted: true, ..sharer("a") }, sharer("b")];
        let word = on_deletion(&id, &both);
        assert_eq!(
            word.warning(),
            Some("cus_1 was not set inactive: customer 7 of b, who is not deleted, leads to it too")
        );
    }

    #[test]
    fn whoever_returns_is_active_again_if_the_last_status_shown_was_set_by_us() {
        let ours = |status_shown| Sharer { was_deactivated: true, is_deleted: true, status_shown, ..sharer("a") };
        assert_eq!(on_return(&[]), StatusWord::AsSaid);
        assert_eq!(on_return(&[sharer("a")]), StatusWord::AsSaid, "nobody was set inactive");
        assert_eq!(on_return(&[ours(None)]), StatusWord::Reactivate);
        assert_eq!(on_return(&[ours(Some(shown(1, Status::Inactive)))]), StatusWord::Reactivate);
        assert_eq!(
            on_return(&[ours(Some(shown(1, Status::Active)))]),
            StatusWord::AsSaid,
            "somebody else has been there"
        );
        let seen_since = |second, status| Sharer { status_shown: Some(shown(second, status)), ..sharer("b") };
        let since = [ours(Some(shown(5, Status::Inactive))), seen_since(9, Status::Active)];
        assert_eq!(on_return(&since), StatusWord::AsSaid, "staff made it active, and inactive by now");
        let before = [ours(Some(shown(5, Status::Inactive))), seen_since(2, Status::Active)];
        assert_eq!(on_return(&before), StatusWord::Reactivate);
        let staff = [Sharer { status_shown: Some(shown(5, Status::Inactive)), ..sharer("b") }];
        assert_eq!(on_return(&staff), StatusWord::AsSaid, "inactive by staff");
    }

    const INACTIVE: Said<'static> = Said::Value(FieldValue::Status(CustomerStatus::Inactive));

    #[test]
    fn a_word_takes_the_place_of_what_is_said_of_the_status_only() {
        let key = |n| OrderKey::at(DateTime::UNIX_EPOCH, EventId::of_arrival(DateTime::UNIX_EPOCH, n));
        let folded = |fields| Folded { head: None, fields, contributors: vec![], superseded: vec![], silent: vec![] };
        let apply = |word: StatusWord, said: Option<&'static Said<'static>>| {
            let fields = said.map(|said| (Field::Status, Spoken { said, key: key(1) }));
            let mut folded = folded(fields.into_iter().collect::<BTreeMap<_, _>>());
            word.apply(&mut folded, key(2));
            folded.fields.get(&Field::Status).map(|status| (status.said.clone(), status.key))
        };
        let active = Said::Value(FieldValue::Status(CustomerStatus::Active));
        assert_eq!(apply(StatusWord::AsSaid, Some(&INACTIVE)), Some((INACTIVE, key(1))));
        assert_eq!(apply(StatusWord::Reactivate, None), Some((active, key(2))));
        assert_eq!(apply(StatusWord::Reactivate, Some(&INACTIVE)), Some((INACTIVE, key(1))));
        assert_eq!(apply(StatusWord::Withhold(String::new()), Some(&INACTIVE)), Some((Said::Nothing, key(1))));
        assert_eq!(apply(StatusWord::Withhold(String::new()), None), None);
    }
}
