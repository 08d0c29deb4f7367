//! HMAC-SHA256 over the raw bytes, compared in constant time; secret rotation; timestamp tolerance.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use crate::config::ShopKind;

/// Standard Webhooks: 300 s still pass, 301 s fail, into the past and into the future.
pub const TIMESTAMP_TOLERANCE_SECONDS: i64 = 300;

/// A signature has 32 bytes; the decoder asks for room to spare. What has no room in it is no signature.
const MAX_DECODED_BYTES: usize = 64;

/// Base64 with or without padding, as senders differ.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The keys of a source: the secret and, while it is rotated, the one before.
#[derive(Clone)]
pub struct Keys(Vec<Hmac<Sha256>>);

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

impl Keys {
    /// Makes the keys of a source from its secrets.
    ///
    /// # Errors
    /// What is wrong with a secret; never the secret.
    pub fn new(kind: ShopKind, secrets: &[SecretString]) -> Result<Self, &'static str> {
        let keys = secrets.iter().map(|secret| {
            let bytes = key_bytes(kind, secret.expose_secret())?;
            if bytes.is_empty() {
                // HMAC takes an empty key, and then anybody can sign.
                return Err("the secret is empty");
            }
            Hmac::new_from_slice(&bytes).map_err(|_| "the secret cannot be a key")
        });
        Ok(Self(keys.collect::<Result<_, _>>()?))
    }

    /// Whether `signature` (base64) is that of `parts`, one after the other, under any of the keys.
    #[must_use]
    pub fn accept(&self, parts: &[&[u8]], signature: &str) -> bool {
        let mut decoded = [0; MAX_DECODED_BYTES];
        let Ok(length) = BASE64.decode_slice(signature, &mut decoded) else { return false };
        let given = &decoded[..length];
        // Every key is tried whatever the outcome of the others: the time taken tells nothing.
        self.0
            .iter()
            .fold(false, |accepted, key| accepted | authenticate(key.clone(), parts).verify_slice(given).is_ok())
    }

    /// The signature of `parts` under the first key, base64: what the shop would send.
    #[must_use]
    pub fn sign(&self, parts: &[&[u8]]) -> Option<String> {
        let key = self.0.first()?;
        Some(BASE64.encode(authenticate(key.clone(), parts).finalize().into_bytes()))
    }
}

fn authenticate(mut key: Hmac<Sha256>, parts: &[&[u8]]) -> Hmac<Sha256> {
    for part in parts {
        key.update(part);
    }
    key
}

/// The bytes that a shop uses as key for this secret.
fn key_bytes(kind: ShopKind, secret: &str) -> Result<Vec<u8>, &'static str> {
    Ok(match kind {
        ShopKind::Shopify => secret.as_bytes().to_vec(),
        ShopKind::WooCommerce => decode_entities(secret).into_bytes(),
        ShopKind::Generic => match secret.strip_prefix("whsec_") {
            Some(encoded) => BASE64.decode(encoded).map_err(|_| "what follows `whsec_` is not base64")?,
            None => secret.as_bytes().to_vec(),
        },
    })
}

/// `WooCommerce` decodes these entities in its stored secret before it signs
/// (`class-wc-webhook.php`, `generate_signature`: `wp_specialchars_decode` with `ENT_QUOTES`).
fn decode_entities(secret: &str) -> String {
    ["&lt;/<", "&gt;/>", "&quot;/\"", "&#039;/'", "&amp;/&"].iter().fold(secret.to_owned(), |text, pair| {
        let (entity, character) = pair.split_once('/').unwrap_or((pair, ""));
        text.replace(entity, character)
    })
}

/// SHA-256 in lower-case hex.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(kind: ShopKind, secrets: &[&str]) -> Keys {
        let secrets: Vec<_> = secrets.iter().map(|s| SecretString::from(*s)).collect();
        Keys::new(kind, &secrets).expect("usable")
    }

    #[test]
    fn the_published_vectors_of_standard_webhooks_hold() {
        let first = keys(ShopKind::Generic, &["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]);
        assert!(first.accept(
            &[b"msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.", br#"{"test": 2432232314}"#],
            "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        ));
        let second = keys(ShopKind::Generic, &["whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"]);
        assert!(second.accept(
            &[
                b"msg_27UH4WbU6Z5A5EzD8u03UvzRbpk.1649367553.",
                br#"{"email":"test@example.com","username":"test_user"}"#
            ],
            "tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw="
        ));
    }

    #[test]
    fn the_reference_library_agrees() {
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let reference = standardwebhooks::Webhook::new(secret).expect("a secret");
        let ours = keys(ShopKind::Generic, &[secret]);
        for (id, body) in [("msg_1", "{}"), ("msg_2", r#"{"type":"customer.updated","name":"Zoë"}"#)] {
            let theirs = reference.sign(id, 1_795_428_000, body.as_bytes()).expect("a signature");
            let signed = ours.sign(&[id.as_bytes(), b".1795428000.", body.as_bytes()]).expect("a key");
            assert_eq!(theirs, format!("v1,{signed}"));
        }
    }

    #[test]
    fn githubs_vector_holds_for_a_key_that_is_plain_text() {
        let keys = keys(ShopKind::Shopify, &["It's a Secret to Everybody"]);
        let published = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        let bytes = hex::decode(published).expect("hex");
        assert!(keys.accept(&[b"Hello, World!"], &BASE64.encode(bytes)));
    }

    #[test]
    fn either_secret_is_accepted_while_one_is_rotated_out() {
        let old = keys(ShopKind::Shopify, &["old"]);
        let both = keys(ShopKind::Shopify, &["new", "old"]);
        let signature = old.sign(&[b"body"]).expect("a key");
        assert!(both.accept(&[b"body"], &signature));
        assert!(both.accept(&[b"body"], signature.trim_end_matches('=')));
        assert!(!keys(ShopKind::Shopify, &["new"]).accept(&[b"body"], &signature));
    }

    #[test]
    fn a_short_long_or_unreadable_signature_is_refused() {
        let keys = keys(ShopKind::Shopify, &["secret"]);
        let signature = keys.sign(&[b"body"]).expect("a key");
        for bad in ["", "AAAA", "not base64!", &signature[..40], &format!("{signature}AAAA"), &signature.to_lowercase()]
        {
            assert!(!keys.accept(&[b"body"], bad), "{bad}");
        }
    }

    #[test]
    fn an_empty_secret_is_no_key() {
        for (kind, secret) in [(ShopKind::Shopify, ""), (ShopKind::Generic, "whsec_"), (ShopKind::Generic, "whsec_!")] {
            assert!(Keys::new(kind, &[SecretString::from(secret)]).is_err(), "{secret}");
        }
    }

    #[test]
    fn woocommerce_decodes_entities_in_its_secret_once() {
        assert_eq!(decode_entities("a&amp;b&lt;&quot;&#039;&amp;lt;"), "a&b<\"'&lt;");
    }
}
