//! Signatures: what was signed is taken, whatever it is, and nothing else.
//!
//! Signatures are made here once more, with nothing but the HMAC in common with the code under test.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use chrono::{DateTime, Utc};
use flexportal_sync::config::{ShopKind, Source};
use flexportal_sync::shops::{Rejection, Shop};
use hmac::{Hmac, KeyInit, Mac};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use sha2::Sha256;

use crate::cases;

const NOW: i64 = 1_795_428_000;

/// Headers that have a part in signatures, and some that have not.
const NAMES: [&str; 11] = [
    "x-shopify-hmac-sha256",
    "x-shopify-webhook-id",
    "x-wc-webhook-signature",
    "x-wc-webhook-delivery-id",
    "webhook-id",
    "webhook-timestamp",
    "webhook-signature",
    "svix-id",
    "svix-timestamp",
    "svix-signature",
    "content-type",
];

/// A delivery as its shop signed it.
#[derive(Debug, Clone)]
struct Signed {
    kind: ShopKind,
    key: Vec<u8>,
    /// The key as it is configured.
    secret: String,
    id: String,
    timestamp: String,
    body: Vec<u8>,
}

impl Signed {
    fn shop(&self, secrets: &[&str]) -> Shop {
        let secrets = secrets.iter().map(|secret| (*secret).into()).collect();
        Shop::new(Source { secrets, ..Source::of_kind(self.kind) }).expect("usable secrets")
    }

    fn signature(&self) -> Vec<u8> {
        let mut hmac = Hmac::<Sha256>::new_from_slice(&self.key).expect("any length will do");
        if self.kind == ShopKind::Generic {
            hmac.update(format!("{}.{}.", self.id, self.timestamp).as_bytes());
        }
        hmac.update(&self.body);
        hmac.finalize().into_bytes().to_vec()
    }

    fn headers(&self, signature: &str) -> HeaderMap {
        let pairs = match self.kind {
            ShopKind::Shopify => vec![("x-shopify-hmac-sha256", signature)],
            ShopKind::WooCommerce => vec![("x-wc-webhook-signature", signature)],
            ShopKind::Generic => vec![
                ("webhook-id", self.id.as_str()),
                ("webhook-timestamp", self.timestamp.as_str()),
                ("webhook-signature", signature),
            ],
        };
        pairs
            .into_iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().expect("a header value")))
            .collect()
    }

    /// One signature as it stands in the header.
    fn written(&self, signature: &[u8]) -> String {
        let version = if self.kind == ShopKind::Generic { "v1," } else { "" };
        format!("{version}{}", STANDARD.encode(signature))
    }
}

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(NOW, 0).expect("in range")
}

/// A key, and a secret that stands for it.
fn any_key(kind: ShopKind) -> BoxedStrategy<(Vec<u8>, String)> {
    let plain = |text: String| (text.as_bytes().to_vec(), text);
    match kind {
        ShopKind::Shopify => "(?s).{1,80}".prop_map(plain).boxed(),
        // Kept with its entities, signed without them.
        ShopKind::WooCommerce => "([a-z&<>'\"#;0-9\u{e9}]|&amp;|&lt;){1,40}"
            .prop_map(|raw| {
                let entities = [("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("\"", "&quot;"), ("'", "&#039;")];
                let kept = entities.iter().fold(raw.clone(), |text, (plain, entity)| text.replace(plain, entity));
                (raw.into_bytes(), kept)
            })
            .boxed(),
        ShopKind::Generic => prop_oneof![
            vec(any::<u8>(), 1..80).prop_map(|key| (key.clone(), format!("whsec_{}", STANDARD.encode(key)))),
            "[^w](?s).{0,80}".prop_map(plain),
        ]
        .boxed(),
    }
}

fn any_signed() -> impl Strategy<Value = Signed> {
    select(ShopKind::ALL.to_vec()).prop_flat_map(|kind| {
        // A timestamp is the text that was signed: leading zeros and a plus are part of it.
        let timestamp = ("(\\+|0{0,3})", -300..=300_i64).prop_map(|(prefix, ago)| format!("{prefix}{}", NOW - ago));
        (any_key(kind), "[!-~]([ -~]{0,60}[!-~])?", timestamp, vec(any::<u8>(), 0..300))
            .prop_map(move |((key, secret), id, timestamp, body)| Signed { kind, key, secret, id, timestamp, body })
    })
}

fn any_signed_and_another_key() -> impl Strategy<Value = (Signed, (Vec<u8>, String))> {
    any_signed().prop_flat_map(|signed| (Just(signed.clone()), any_key(signed.kind)))
}

/// What else may stand in a list of signatures.
fn any_other_signature() -> impl Strategy<Value = String> {
    prop_oneof![
        vec(any::<u8>(), 0..40).prop_map(|bytes| format!("v1,{}", STANDARD.encode(bytes))),
        vec(any::<u8>(), 64).prop_map(|bytes| format!("v1a,{}", STANDARD.encode(bytes))),
        "v[0-9],[!-~]{0,50}",
        "[!-~]{1,50}",
    ]
}

/// A header's value: a piece of the right delivery, or of another one, or anything.
fn any_value(signed: &Signed) -> impl Strategy<Value = Vec<u8>> + use<> {
    let right = signed.written(&signed.signature());
    let other = signed.written(&[7; 32]);
    let pieces = vec![
        format!("{other} {right}"),
        format!("{right},{other}"),
        right.clone(),
        other,
        signed.id.clone(),
        signed.timestamp.clone(),
        NOW.to_string(),
        (NOW - 301).to_string(),
        "99999999999999999999".to_owned(),
        "-1".to_owned(),
        String::new(),
    ];
    prop_oneof![
        6 => select(pieces).prop_map(String::into_bytes),
        1 => any::<Index>().prop_map(move |at| right.as_bytes()[..at.index(right.len())].to_vec()),
        1 => vec(prop_oneof![0x20_u8..0x7f, 0x80_u8..=0xff], 0..60),
        1 => (select(b"v1, =A\xff".to_vec()), 1_000_usize..20_000).prop_map(|(byte, times)| vec![byte; times]),
        1 => vec(any_other_signature(), 0..12).prop_map(|list| list.join(" ").into_bytes()),
    ]
}

fn any_headers() -> impl Strategy<Value = (Signed, Vec<(&'static str, Vec<u8>)>)> {
    any_signed().prop_flat_map(|signed| {
        let header = (select(NAMES.to_vec()), any_value(&signed));
        (Just(signed), vec(header, 0..8))
    })
}

/// Whether the headers hold the right signature for what they say, however they are to be read.
fn hold_the_signature(headers: &HeaderMap, signed: &Signed) -> bool {
    let texts = |name: String| {
        let values: Vec<_> = headers.get_all(name).iter().collect();
        values.into_iter().filter_map(|value| value.to_str().ok()).map(|text| text.trim().to_owned())
    };
    let is_right = |written: &str, signed: &Signed| {
        let decoded = STANDARD_NO_PAD.decode(written.trim_end_matches('='));
        decoded.is_ok_and(|decoded| decoded == signed.signature())
    };
    match signed.kind {
        ShopKind::Shopify => texts("x-shopify-hmac-sha256".into()).any(|text| is_right(&text, signed)),
        ShopKind::WooCommerce => texts("x-wc-webhook-signature".into()).any(|text| is_right(&text, signed)),
        ShopKind::Generic => ["webhook", "svix"].iter().any(|family| {
            let header = |name| texts(format!("{family}-{name}"));
            header("id").any(|id| {
                header("timestamp").any(|timestamp| {
                    let is_fresh = timestamp.parse().is_ok_and(|at: i64| (NOW - 300..=NOW + 300).contains(&at));
                    let said = Signed { id: id.clone(), timestamp, ..signed.clone() };
                    let mut lists = header("signature");
                    is_fresh
                        && lists.any(|list| list.split(' ').any(|one| is_right(one.trim_start_matches("v1,"), &said)))
                })
            })
        }),
    }
}

proptest! {
    #![proptest_config(cases(1_500))]

    #[test]
    fn whatever_a_shop_signs_is_taken(
        signed in any_signed(),
        is_rotated_out in any::<bool>(),
        is_padded in any::<bool>(),
        before in vec(any_other_signature(), 0..7),
        after in vec(any_other_signature(), 0..20),
    ) {
        let secrets = [if is_rotated_out { "another one" } else { &signed.secret }, &signed.secret];
        let mut written = signed.written(&signed.signature());
        if !is_padded {
            written = written.trim_end_matches('=').to_owned();
        }
        if signed.kind == ShopKind::Generic {
            written = [before, vec![written], after].concat().join(" ");
        }
        let headers = signed.headers(&written);
        prop_assert!(signed.shop(&secrets).verify(&headers, &signed.body, now()).is_ok());
    }

    #[test]
    fn one_bit_more_or_less_is_refused(signed in any_signed(), at in any::<Index>(), bit in 0..8_u32, place in 0..8) {
        let mut changed = signed.clone();
        let mut signature = signed.signature();
        let flip = |bytes: &mut [u8]| bytes[at.index(bytes.len())] ^= 1 << bit;
        match place {
            0 => flip(&mut signature),
            1 => signature.truncate(at.index(signature.len())),
            2 => signature.push(0),
            3 if !signed.body.is_empty() => flip(&mut changed.body),
            4 if signed.kind == ShopKind::Generic => changed.id.push('x'),
            // Another second, and the same one written otherwise.
            5 if signed.kind == ShopKind::Generic => {
                let last = changed.timestamp.pop();
                changed.timestamp.push(if last == Some('0') { '1' } else { '0' });
            }
            6 if signed.kind == ShopKind::Generic => changed.timestamp = signed.timestamp.replacen('1', "01", 1),
            _ => changed.body.push(b' '),
        }
        let headers = changed.headers(&signed.written(&signature));
        let verified = signed.shop(&[&signed.secret]).verify(&headers, &changed.body, now());
        prop_assert_eq!(verified.err(), Some(Rejection::Unauthorized));
    }

    #[test]
    fn a_header_given_twice_counts_once_and_two_that_differ_are_refused(signed in any_signed(), at in any::<Index>()) {
        let shop = signed.shop(&[&signed.secret]);
        let mut headers = signed.headers(&signed.written(&signed.signature()));
        let given: Vec<_> = headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        let (name, value) = at.get(&given);
        headers.append(name, value.clone());
        prop_assert!(shop.verify(&headers, &signed.body, now()).is_ok());
        headers.append(name, HeaderValue::from_static("another"));
        prop_assert_eq!(shop.verify(&headers, &signed.body, now()).err(), Some(Rejection::Unauthorized));
    }

    #[test]
    fn another_key_is_refused((signed, (key, secret)) in any_signed_and_another_key()) {
        // A key and the same with zeros after it are one key to HMAC.
        prop_assume!(Signed { key, ..signed.clone() }.signature() != signed.signature());
        let headers = signed.headers(&signed.written(&signed.signature()));
        let verified = signed.shop(&[&secret]).verify(&headers, &signed.body, now());
        prop_assert_eq!(verified.err(), Some(Rejection::Unauthorized));
    }

    #[test]
    fn a_delivery_is_fresh_for_five_minutes_to_the_second(signed in any_signed(), ago in -310..=310_i64) {
        let (timestamp, key) = ((NOW - ago).to_string(), b"s".to_vec());
        let signed = Signed { kind: ShopKind::Generic, timestamp, key, ..signed };
        let headers = signed.headers(&signed.written(&signed.signature()));
        let late = now() + Duration::from_nanos(999_999_999);
        let verified = signed.shop(&["s"]).verify(&headers, &signed.body, late);
        prop_assert_eq!(verified.is_ok(), (-300..=300).contains(&ago));
    }

    #[test]
    fn no_headers_pass_for_a_signature((signed, given) in any_headers()) {
        let mut headers = HeaderMap::new();
        for (name, value) in given {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                headers.append(name, value);
            }
        }
        match signed.shop(&[&signed.secret]).verify(&headers, &signed.body, now()) {
            Ok(_) => prop_assert!(hold_the_signature(&headers, &signed)),
            Err(rejection) => prop_assert_eq!(rejection, Rejection::Unauthorized),
        }
    }
}
