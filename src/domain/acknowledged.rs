//! What FlexPortal acknowledged of a customer, field by field: times and hashes, no values.

use std::collections::BTreeMap;
use std::io;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Field, OrderKey};

/// Kept on a customer's link as JSON, by FlexPortal's field names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Acknowledged(pub BTreeMap<Field, Acknowledgement>);

impl Acknowledged {
    /// The newest change in it.
    #[must_use]
    pub fn newest(&self) -> Option<OrderKey> {
        self.0.values().map(|settled| settled.key).max()
    }

    /// The words without their values: all that is known where another customer of FlexPortal has taken the place of
    /// the one that acknowledged them. What was said is said, and nothing older is to follow.
    #[must_use]
    pub fn without_values(&self) -> Self {
        let bare = |known: &Acknowledgement| Acknowledgement { hash: None, acked: None, ..known.clone() };
        Self(self.0.iter().map(|(field, known)| (*field, bare(known))).collect())
    }

    /// Takes note of words that went out, or may have, in a request of which nobody knows whether it was carried out: no
    /// value is known any more, and nothing older may follow.
    pub fn doubt(&mut self, sent: impl Iterator<Item = (Field, OrderKey)>) {
        for (field, key) in sent {
            let (deactivated, deleted) = self.0.get(&field).map_or((false, false), |k| (k.deactivated, k.deleted));
            self.0.insert(field, Acknowledgement { key, hash: None, acked: None, deactivated, deleted });
        }
    }

    /// Whether we have, or may have, set the customer inactive, and nobody acknowledged that it is active again.
    #[must_use]
    pub fn is_deactivated_by_us(&self) -> bool {
        self.0.get(&Field::Status).is_some_and(|known| known.deactivated)
    }

    /// Whether that was because the shop had deleted the customer.
    #[must_use]
    pub fn is_deactivated_by_deletion(&self) -> bool {
        self.0.get(&Field::Status).is_some_and(|known| known.deactivated && known.deleted)
    }
}

/// The newest word on one field that was settled, or went out without anybody knowing what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledgement {
    /// The change it stands in: nothing older is sent any more.
    #[serde(flatten)]
    pub key: OrderKey,
    /// Hash of the value FlexPortal last acknowledged; none if nothing was ever sent, or nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<ValueHash>,
    /// When FlexPortal acknowledged it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acked: Option<DateTime<Utc>>,
    /// Of the status: it was we who set, or may have set, inactive. Outlives every doubt of the value, and a move to
    /// another customer of FlexPortal.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deactivated: bool,
    /// Of the status: that was because the shop had deleted the customer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
}

/// The first 64 bits of the SHA-256 of a value as JSON, in hex: tells "the same as last time" and no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ValueHash(String);

impl ValueHash {
    /// Of a value as it is sent.
    #[must_use]
    pub fn of(value: &impl Serialize) -> Self {
        let mut hashing = Hashing(Sha256::new());
        // Field types are strings and structs of strings: they always serialise, and hashing takes all.
        let _ = serde_json::to_writer(&mut hashing, value);
        Self(hex::encode(&hashing.0.finalize()[..8]))
    }
}

/// What is written is hashed.
struct Hashing(Sha256);

impl io::Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
