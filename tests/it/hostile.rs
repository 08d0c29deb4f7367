//! Well-signed bodies with anything in them: 200 or 4xx, never 5xx, and nothing lost that could be kept.

use flexportal_sync::config::ShopKind;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::json;

use crate::support::App;
use crate::support::shop::{Webhook, generic, shopify};

fn raw(body: impl Into<Vec<u8>>) -> Webhook {
    Webhook::new(ShopKind::Generic, "", body)
}

fn updated(data: &str) -> Webhook {
    raw(format!(r#"{{"type":"customer.updated","timestamp":"2026-11-23T10:00:00Z","data":{data}}}"#))
}

/// Every source signs what it gets, whatever that is.
fn all_kinds(body: &[u8]) -> [Webhook; 3] {
    [
        Webhook::new(ShopKind::Shopify, "customers/update", body),
        Webhook::new(ShopKind::WooCommerce, "customer.updated", body),
        Webhook::new(ShopKind::Generic, "", body),
    ]
}

#[tokio::test]
async fn what_is_no_customer_event_is_400() {
    let app = App::start().await;
    let deep = format!(r#"{{"id":1,"email":"a","x":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let bodies: Vec<&[u8]> = vec![
        b"",
        b"not json",
        b"[]",
        b"null",
        b"12",
        b"\"text\"",
        b"{",
        b"{}",
        b"{\"id\":null,\"email\":\"a@b.c\"}",
        b"{\"id\":{},\"email\":\"a@b.c\"}",
        b"{\"id\":1.5,\"email\":\"a@b.c\"}",
        b"{\"id\":\"\xff\",\"email\":\"a@b.c\"}",
        b"{\"email\":\"a@b.c\"}",
        b"\xef\xbb\xbf",
        b"\xff\xfe{\0}\0",
        b"{\"type\":\"customer.updated\"}",
        b"{\"type\":\"customer.updated\",\"data\":[]}",
        b"{\"type\":\"customer.updated\",\"data\":{\"customerId\":true}}",
        deep.as_bytes(),
    ];
    for body in bodies {
        for webhook in all_kinds(body) {
            let answer = app.deliver(webhook.clone()).await;
            let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
            // WooCommerce counts refusals: what can be read is ignored.
            let is_read = serde_json::from_slice::<serde_json::Value>(body).is_ok();
            if is_read && webhook.source() == "woocommerce" {
                assert_eq!((answer.status, answer.word()), (200, "ignored"), "{shown}: {answer:?}");
                continue;
            }
            assert_eq!(answer.status, 400, "{}: {shown}: {answer:?}", webhook.source());
            assert_eq!(answer.headers["content-type"], "application/problem+json");
        }
    }
    assert_eq!(app.count("select count(*) from outbox_events").await, 0);
}

#[tokio::test]
async fn a_change_from_before_our_time_is_stored_and_counts_from_its_arrival() {
    let app = App::start().await;
    // Beyond what Postgres has for times, and what PHP makes of a date that is not set.
    for (id, changed) in [(1, "-9999-01-01T00:00:00"), (2, "-0001-11-30T00:00:00")] {
        let body = json!({"id": id, "email": "ada@example.com", "date_modified_gmt": changed});
        let answer = app.deliver(Webhook::new(ShopKind::WooCommerce, "customer.updated", body.to_string())).await;
        assert_eq!(answer.status, 200, "{changed}: {answer:?}");
        let (is_of_arrival, warnings): (bool, i32) =
            sqlx::query_as("select occurred_at = received_at, cardinality(warnings) from outbox_events where id = $1")
                .bind(answer.event_id())
                .fetch_one(&app.db.pool)
                .await
                .expect("the event");
        assert_eq!((is_of_arrival, warnings), (true, 1), "{changed}");
    }
}

#[tokio::test]
async fn ids_are_kept_digit_for_digit() {
    let app = App::start().await;
    for id in ["0", "9007199254740993", "706405506930370084", "18446744073709551617", "123456789012345678901234567890"]
    {
        let answer = app.deliver(updated(&format!(r#"{{"customerId":{id}}}"#))).await;
        let stored: (String, String) = sqlx::query_as(
            "select shop_customer_id, payload -> 'data' ->> 'customerId' from outbox_events where id = $1",
        )
        .bind(answer.event_id())
        .fetch_one(&app.db.pool)
        .await
        .expect("the event");
        assert_eq!(stored, (id.to_owned(), id.to_owned()));
    }
    let too_long = format!(r#"{{"customerId":"{}"}}"#, "9".repeat(256));
    assert_eq!(app.deliver(updated(&too_long)).await.status, 400);
}

#[tokio::test]
async fn characters_that_jsonb_refuses_are_replaced_and_the_event_goes_on() {
    let app = App::start().await;
    let data = r#"{"customerId":"1","flexportalCustomerId":"cus_1","firstName":"A\u0000da","lastName":"\ud800Love\udc00\ud83d\ude80"}"#;
    let event = app.sync(updated(data)).await;
    assert_eq!(event.status, "synced");
    assert_eq!(event.warnings.len(), 1, "{event:?}");
    assert_eq!(app.puts()[0]["firstName"], "A\u{fffd}da");
    assert_eq!(app.puts()[0]["lastName"], "\u{fffd}Love\u{fffd}\u{1f680}");
    let seen = "select count(*) from outbox_events where payload -> 'data' ->> 'firstName' = 'A\u{fffd}da'";
    assert_eq!(app.count(seen).await, 1, "people can look into it");
}

#[tokio::test]
async fn numbers_that_jsonb_refuses_are_kept_as_text() {
    let app = App::start().await;
    let event =
        app.sync(updated(r#"{"customerId":"1","flexportalCustomerId":"cus_1","phone":"1","x":1e999999}"#)).await;
    assert_eq!((event.status.as_str(), event.warnings.len()), ("synced", 1));
    let seen = "select count(*) from outbox_events where payload -> 'data' ->> 'x' = '1e999999'";
    assert_eq!(app.count(seen).await, 1, "people can look into it");
}

/// They are stored as text: a body that cannot be cast would hide all others from whoever looks.
#[tokio::test]
async fn whatever_is_let_through_can_be_looked_into() {
    const LETTERS: [&str; 11] = [
        r"\u0000",
        r"\u0001",
        r"\ud800",
        r"\udbff",
        r"\udc00",
        r"\udfff",
        r"\ud83d\ude80",
        r"\\",
        r"\u005c",
        "u0000",
        r#"\""#,
    ];
    const NUMBERS: [&str; 9] =
        ["1e40", "1e41", "-1E-40", "1e-99999", "1e999999", "0e0", "1.5e+007", "9007199254740993", "-0.0"];
    let app = App::start().await;
    let mut bodies = vec![];
    for first in LETTERS {
        for second in LETTERS {
            bodies.extend(LETTERS.map(|third| format!(r#"{{"{third}{first}":["{first}{second}{third}"]}}"#)));
        }
    }
    bodies.extend(NUMBERS.map(|number| format!("[{number}, {{\"n\":{number}}}]")));
    bodies.extend([300, 301, 20_000].map(|length| format!("[0.{0}, -{0}]", "7".repeat(length))));
    bodies.push(format!("{}{}", "[".repeat(128), "]".repeat(128)));
    let mended: Vec<_> =
        bodies.iter().map(|body| flexportal_sync::shops::json::mend(body.as_bytes()).expect("JSON").text).collect();
    assert!(bodies.iter().zip(&mended).any(|(body, mended)| body != mended));
    let seen: i64 = sqlx::query_scalar("select count(body::json::jsonb) from unnest($1::text[]) as body")
        .bind(&mended)
        .fetch_one(&app.db.pool)
        .await
        .expect("each can be cast");
    assert_eq!(usize::try_from(seen).expect("a number"), bodies.len());
}

#[tokio::test]
async fn of_duplicate_keys_the_last_counts() {
    let app = App::start().await;
    let event = app
        .sync(updated(r#"{"customerId":"0","customerId":"9","flexportalCustomerId":"cus_1","phone":"1","phone":"2"}"#))
        .await;
    assert_eq!(event.status, "synced");
    assert_eq!(app.puts()[0]["phone"], "2");
    assert_eq!(app.count("select count(*) from outbox_events where shop_customer_id = '9'").await, 1);
}

#[tokio::test]
async fn a_byte_order_mark_is_passed_over() {
    let app = App::start().await;
    let mut webhook = updated(r#"{"customerId":"1"}"#);
    webhook.body.splice(0..0, *b"\xef\xbb\xbf");
    assert_eq!(app.deliver(webhook).await.word(), "accepted");
}

#[tokio::test]
async fn nesting_up_to_128_levels_is_stored() {
    let app = App::start().await;
    let nested = |depth| format!(r#"{{"customerId":"1","x":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
    assert_eq!(app.deliver(updated(&nested(126))).await.word(), "accepted");
    assert_eq!(app.deliver(updated(&nested(127))).await.status, 400);
}

#[tokio::test]
async fn bodies_up_to_the_limit_are_taken_and_beyond_it_refused() {
    let app = App::start_with(&[("MAX_BODY_BYTES", "4096")], "").await;
    for (size, status) in [(4095, 200), (4096, 200), (4097, 413), (1 << 20, 413)] {
        let mut webhook = updated(r#"{"customerId":"1"}"#);
        webhook.body.resize(size, b' ');
        let answer = app.deliver(webhook).await;
        assert_eq!(answer.status, status, "{size} bytes: {answer:?}");
    }
}

#[tokio::test]
async fn a_body_that_announces_itself_as_too_large_is_refused_before_it_arrives() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let app = App::start().await;
    for announced in ["Content-Length: 99999999\r\n", "Content-Length: 2000000\r\nExpect: 100-continue\r\n"] {
        let mut stream = tokio::net::TcpStream::connect(app.addr).await.expect("a connection");
        let request = format!("POST /webhooks/shopify HTTP/1.1\r\nHost: x\r\n{announced}\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.expect("an answer, and no invitation to go on");
        assert_eq!(&answer, b"HTTP/1.1 413");
    }
}

#[tokio::test]
async fn a_body_without_a_length_is_limited_too() {
    let app = App::start_with(&[("MAX_BODY_BYTES", "4096")], "").await;
    let webhook = generic("1", 0, &json!({}));
    let headers = webhook.signed_at(app.clock.now());
    let chunks = (0..10).map(|_| Ok::<_, std::io::Error>(vec![b'x'; 1000]));
    let body = reqwest::Body::wrap_stream(futures_util::stream::iter(chunks));
    assert_eq!(app.post("generic", headers, body).await.status, 413);
}

#[tokio::test]
async fn headers_missing_repeated_or_not_ascii_are_never_a_5xx() {
    let app = App::start().await;
    let webhook = shopify(1, 0, &json!({}));
    let signed = webhook.signed_at(app.clock.now());
    let send = async |change: &dyn Fn(&mut HeaderMap)| {
        let mut headers = signed.clone();
        change(&mut headers);
        app.post("shopify", headers, webhook.body.clone()).await.status
    };
    let name = |name: &'static str| HeaderName::from_static(name);
    let bytes = |bytes: &[u8]| HeaderValue::from_bytes(bytes).expect("a value");

    for header in ["x-shopify-hmac-sha256", "x-shopify-topic"] {
        let status = if header.ends_with("sha256") { 401 } else { 400 };
        assert_eq!(send(&|headers| drop(headers.remove(header))).await, status, "{header} missing");
        assert_eq!(
            send(&|headers| assert!(headers.append(name(header), bytes(b"other")))).await,
            status,
            "{header} twice"
        );
        assert_eq!(
            send(&|headers| drop(headers.insert(name(header), bytes(b"\xe9\xff")))).await,
            status,
            "{header} bytes"
        );
        assert_eq!(send(&|headers| drop(headers.insert(name(header), bytes(b"")))).await, status, "{header} empty");
    }
    // Without a usable delivery id the digest of the body stands in.
    assert_eq!(send(&|headers| drop(headers.remove("x-shopify-webhook-id"))).await, 200);
    assert_eq!(send(&|headers| drop(headers.insert(name("x-shopify-webhook-id"), bytes(&[b'x'; 5000])))).await, 200);
    assert_eq!(send(&|headers| drop(headers.insert(name("x-shopify-webhook-id"), bytes(b"\xff")))).await, 200);
    assert_eq!(app.count("select count(*) from outbox_events").await, 1, "the same body");
    assert_eq!(send(&|headers| drop(headers.insert(name("content-type"), bytes(b"\xff")))).await, 415);
    assert_eq!(send(&|headers| drop(headers.insert(name("content-type"), bytes(b"text/xml")))).await, 415);
    assert_eq!(send(&|headers| drop(headers.remove("content-type"))).await, 200);
}

#[tokio::test]
async fn standard_webhook_headers_missing_or_odd_are_401() {
    let app = App::start().await;
    let webhook = generic("1", 0, &json!({}));
    let signed = webhook.signed_at(app.clock.now());
    for header in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
        for value in [None, Some(&b""[..]), Some(b"\xff"), Some(b"99999999999999999999"), Some(b"v1,")] {
            let mut headers = signed.clone();
            headers.remove(header);
            if let Some(value) = value {
                headers.insert(header, HeaderValue::from_bytes(value).expect("a value"));
            }
            assert_eq!(app.post("generic", headers, webhook.body.clone()).await.status, 401, "{header}: {value:?}");
        }
    }
}

#[tokio::test]
async fn only_the_bare_ping_is_taken_unsigned() {
    let app = App::start().await;
    let form = |body: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("application/x-www-form-urlencoded"));
        (headers, body)
    };
    let (headers, body) = form("webhook_id=7");
    assert_eq!(app.post("woocommerce", headers.clone(), body).await.word(), "ignored");
    assert_eq!(app.post("shopify", headers, body).await.status, 401);
    for body in ["webhook_id=", "webhook_id=7&x=1", "webhook_id=abc", "id=7", "webhook_id=111111111111111111111"] {
        let (headers, body) = form(body);
        assert_eq!(app.post("woocommerce", headers, body).await.status, 401, "{body}");
    }
}

#[tokio::test]
async fn odd_values_are_left_out_and_the_rest_is_sent() {
    let app = App::start().await;
    let data = r#"{"customerId":"1","flexportalCustomerId":"cus_1","firstName":["x"],"phone":4930,"customerType":"alien","status":7,"billingAddress":"Berlin","shippingAddress":{"city":{}}}"#;
    let event = app.sync(updated(data)).await;
    assert_eq!(event.status, "synced");
    assert_eq!(app.puts(), [json!({"customerId": "cus_1", "phone": "4930"})]);
    assert!(event.warnings.len() >= 4, "{event:?}");
}
