//! By which name a shop speaks: a webhook's signature says that it may, not which shop it is. Customer ids are unique in one
//! shop only, and a staging copy signs with the same secret.

use std::fmt;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{DeliveryId, ShopCustomerId};

/// The name by which a shop speaks, without what does not tell two shops apart: host and path, in lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, sqlx::Type)]
#[serde(transparent)]
#[sqlx(transparent)]
pub struct ShopName(String);

/// Longer names are shortened to their digest: they stand before ids in an index.
const MAX_BYTES: usize = 100;
/// Between a shop's name and an id of its own; no name holds it.
const APART: char = '#';

impl ShopName {
    /// What a shop calls itself; `None` for a name that holds nothing.
    ///
    /// Scheme, port, letter case, `www.` and a final slash do not count.
    #[must_use]
    pub fn of(text: &str) -> Option<Self> {
        let text = text.trim().to_lowercase();
        let address = text.split_once("://").map_or(text.as_str(), |(_, address)| address);
        let (host, path) = address.find('/').map_or((address, ""), |at| address.split_at(at));
        let host = host.split_once(':').map_or(host, |(host, _)| host).trim_end_matches('.');
        let host = host.strip_prefix("www.").unwrap_or(host);
        let name = format!("{host}{}", path.trim_end_matches('/'));
        if name.is_empty() {
            return None;
        }
        if name.len() > MAX_BYTES || name.contains(|c: char| c == APART || c == ',' || c.is_control()) {
            return Some(Self(format!("sha256:{}", hex::encode(Sha256::digest(&name)))));
        }
        Some(Self(name))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What the ids of this shop begin with while they are kept apart from the source's own.
    #[must_use]
    pub fn prefix(&self) -> String {
        format!("{}{APART}", self.0)
    }

    /// A customer of this shop, apart from the source's own.
    #[must_use]
    pub fn customer(&self, id: &ShopCustomerId) -> ShopCustomerId {
        ShopCustomerId::apart(&self.prefix(), id)
    }

    /// A delivery of this shop, apart from the source's own.
    #[must_use]
    pub fn delivery(&self, id: &DeliveryId) -> DeliveryId {
        DeliveryId::apart(&self.prefix(), id)
    }
}

impl fmt::Display for ShopName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> String {
        ShopName::of(text).expect("a name").0
    }

    #[test]
    fn host_and_path_count_and_nothing_else() {
        for text in [
            "https://Shop.Example/",
            "http://shop.example",
            "shop.example:8443//",
            " HTTPS://www.shop.example:443/ ",
            "shop.example.",
        ] {
            assert_eq!(name(text), "shop.example", "{text}");
        }
        assert_eq!(name("https://example.com/Staging/"), "example.com/staging");
        assert_ne!(name("https://example.com/staging"), name("https://example.com"));
        assert_ne!(name("staging.example.com"), name("example.com"));
    }

    #[test]
    fn a_name_that_holds_nothing_is_none() {
        for text in ["", " ", "https://", "/", "https://:443/"] {
            assert_eq!(ShopName::of(text), None, "{text}");
        }
    }

    #[test]
    fn odd_and_long_names_are_told_apart_by_their_digest() {
        let long = |end: &str| name(&format!("{}{end}", "a".repeat(300)));
        assert!(long("b").starts_with("sha256:") && long("b").len() < MAX_BYTES);
        assert_ne!(long("b"), long("c"));
        for odd in ["a#b", "a\tb", "a,b"] {
            assert!(name(odd).starts_with("sha256:"), "{odd:?}: what stands before an id ends where the id begins");
        }
        assert_eq!(name(&"a".repeat(MAX_BYTES)).len(), MAX_BYTES, "not longer yet");
    }

    #[test]
    fn ids_of_another_shop_are_apart_by_its_name() {
        let shop = ShopName::of("Shop.example").expect("a name");
        let customer = ShopCustomerId::parse("42").expect("an id");
        assert_eq!(shop.customer(&customer).as_str(), "shop.example#42");
        assert_eq!((shop.as_str(), shop.to_string().as_str()), ("shop.example", "shop.example"));
    }
}
