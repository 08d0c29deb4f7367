//! Ids as types of their own, so that a shop's id can never stand where FlexPortal's belongs.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Nothing but white space.
    #[error("is empty")]
    Empty,
    /// Longer than the column and its index can bear.
    #[error("is longer than {max} bytes")]
    TooLong {
        /// The longest that is taken, in bytes.
        max: usize,
    },
    /// A character that the id may not hold.
    #[error("may only hold {allowed}")]
    Character {
        /// The characters that are taken.
        allowed: &'static str,
    },
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $check:path) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, sqlx::Type, utoipa::ToSchema,
        )]
        #[serde(transparent)]
        #[sqlx(transparent)]
        pub struct $name(String);

        impl $name {
            /// Takes the text if it can be such an id.
            ///
            /// # Errors
            /// [`IdError`] says what is wrong with it.
            pub fn parse(text: impl Into<String>) -> Result<Self, IdError> {
                let text = text.into();
                $check(&text)?;
                Ok(Self(text))
            }

            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

/// Postgres refuses index entries over about 2,700 bytes; ids stay far below.
const MAX_ID_BYTES: usize = 255;
/// Names stand in URLs, log fields and labels.
const MAX_NAME_BYTES: usize = 63;

fn check_id(text: &str) -> Result<(), IdError> {
    if text.trim().is_empty() {
        return Err(IdError::Empty);
    }
    if text.len() > MAX_ID_BYTES {
        return Err(IdError::TooLong { max: MAX_ID_BYTES });
    }
    // A tab or line break would vanish from the path of a request, and lead to another customer.
    if text.chars().any(char::is_control) {
        return Err(IdError::Character { allowed: "text without control characters" });
    }
    Ok(())
}

/// `.` and `..` would vanish from `/v1/customers/{customerId}` and make it another address.
fn check_path_segment(text: &str) -> Result<(), IdError> {
    if matches!(text, "." | "..") {
        return Err(IdError::Character { allowed: "more than dots" });
    }
    check_id(text)
}

fn check_name(text: &str) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty);
    }
    if text.len() > MAX_NAME_BYTES {
        return Err(IdError::TooLong { max: MAX_NAME_BYTES });
    }
    let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    if !text.chars().all(is_allowed) {
        return Err(IdError::Character { allowed: "a-z, 0-9, - and _" });
    }
    Ok(())
}

text_id!(
    /// A configured shop, as in `POST /webhooks/{source}`.
    SourceName, check_name
);
text_id!(
    /// A configured FlexPortal tenant.
    TargetName, check_name
);
text_id!(
    /// What tells one delivery of a source from another; a second one with the same id is a duplicate.
    DeliveryId, check_id
);
text_id!(
    /// The shop's own customer id, digit for digit: Shopify's exceed 2^53.
    ShopCustomerId, check_id
);
text_id!(
    /// FlexPortal's customer id: opaque, prefixes differ per Business Unit.
    FlexportalCustomerId, check_path_segment
);

impl ShopCustomerId {
    /// With what tells it from another shop's; longer than others by that.
    pub(super) fn apart(prefix: &str, id: &Self) -> Self {
        Self(format!("{prefix}{id}"))
    }
}

impl DeliveryId {
    /// With what tells it from another shop's; longer than others by that.
    pub(super) fn apart(prefix: &str, id: &Self) -> Self {
        Self(format!("{prefix}{id}"))
    }

    /// From the hex digest of a body, where there is nothing better.
    #[must_use]
    pub fn sha256(hex: &str) -> Self {
        Self(format!("sha256:{hex}"))
    }
}

/// A stored event: a UUID of version 7 made of its arrival, by which it sorts. The time is Postgres' (RFC 9562 section 6.2,
/// method 3: microseconds in `rand_a`), the rest is a number that all replicas share.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, sqlx::Type, utoipa::ToSchema,
)]
#[serde(transparent)]
#[sqlx(transparent)]
pub struct EventId(pub Uuid);

/// Bits of a version 7 UUID that hold the number.
const NUMBER_BITS: u32 = 62;

impl EventId {
    /// Of the webhook with this number that arrived then; the number comes from a sequence, and no two have the same.
    #[must_use]
    pub fn of_arrival(at: DateTime<Utc>, number: i64) -> Self {
        let micros = u128::try_from(at.timestamp_micros()).unwrap_or(0);
        let (millis, fraction) = ((micros / 1_000) & 0xffff_ffff_ffff, (micros % 1_000) * 4_096 / 1_000);
        let number = u128::try_from(number).unwrap_or(0) & ((1 << NUMBER_BITS) - 1);
        Self(Uuid::from_u128(millis << 80 | 7 << 76 | fraction << 64 | 0b10 << NUMBER_BITS | number))
    }

    /// No event that arrived at `at` or later has a smaller id: ids are the index to arrivals.
    #[must_use]
    pub fn first_at(at: DateTime<Utc>) -> Self {
        let milliseconds = u128::try_from(at.timestamp_millis()).unwrap_or(0) & 0xffff_ffff_ffff;
        Self(Uuid::from_u128(milliseconds << 80))
    }

    /// When it arrived, to the microsecond.
    #[must_use]
    pub fn arrived_at(self) -> DateTime<Utc> {
        let bits = self.0.as_u128();
        let (millis, fraction) = (bits >> 80, (bits >> 64) & 0xfff);
        // Rounded up, as the fraction was rounded down.
        let micros = millis * 1_000 + (fraction * 1_000).div_ceil(4_096);
        DateTime::from_timestamp_micros(i64::try_from(micros).unwrap_or(0)).unwrap_or_default()
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The owner token of one claim: whoever writes a result proves with it that the claim still holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, sqlx::Type)]
#[sqlx(transparent)]
pub struct LeaseId(pub Uuid);

impl LeaseId {
    /// A token nobody had before.
    #[must_use]
    pub fn fresh() -> Self {
        Self(Uuid::new_v4())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_lower_case_words() {
        assert!(SourceName::parse("shopify-eu_2").is_ok());
        for bad in ["", "Shop", "a b", "ä", &"x".repeat(64)] {
            assert!(SourceName::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_first_id_of_a_moment_lies_before_all_that_arrive_then_and_after_all_before() {
        let at = DateTime::from_timestamp_millis(1_795_428_000_123).expect("in range");
        let before = EventId::of_arrival(at - chrono::Duration::microseconds(1), i64::MAX);
        assert!(before < EventId::first_at(at) && EventId::first_at(at) <= EventId::of_arrival(at, 0));
    }

    #[test]
    fn an_id_sorts_by_arrival_and_tells_when_it_was() {
        let at = |micros| DateTime::from_timestamp_micros(1_795_428_000_123_000 + micros).expect("in range");
        for micros in 0..1_000_i64 {
            let id = EventId::of_arrival(at(micros), 1 << 61);
            assert_eq!(id.arrived_at(), at(micros));
            assert_eq!((id.0.get_version_num(), id.0.get_variant()), (7, uuid::Variant::RFC4122));
            assert!(EventId::of_arrival(at(micros), 7) < EventId::of_arrival(at(micros), 8), "by number");
            assert!(
                EventId::of_arrival(at(micros), i64::MAX) < EventId::of_arrival(at(micros + 1), 1),
                "by time first"
            );
        }
        assert_eq!(
            EventId::of_arrival(DateTime::UNIX_EPOCH - chrono::Duration::days(1), -1).arrived_at(),
            DateTime::UNIX_EPOCH
        );
    }

    #[test]
    fn ids_are_opaque_but_bounded() {
        assert!(ShopCustomerId::parse("706405506930370084").is_ok());
        assert!(FlexportalCustomerId::parse("ELE/42 ü").is_ok());
        assert_eq!(ShopCustomerId::parse("x".repeat(256)), Err(IdError::TooLong { max: 255 }));
        assert_eq!(DeliveryId::parse(" "), Err(IdError::Empty));
        for control in ["a\0b", "a\tb", "cus_1\n", "\u{7f}a", "a\u{85}b"] {
            assert!(ShopCustomerId::parse(control).is_err(), "{control:?}");
            assert!(FlexportalCustomerId::parse(control).is_err(), "{control:?}");
            assert!(DeliveryId::parse(control).is_err(), "{control:?}");
            assert!(SourceName::parse(control).is_err(), "{control:?}");
        }
        assert!(FlexportalCustomerId::parse("..").is_err());
    }
}
