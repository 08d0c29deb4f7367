//! What shops send and what they are answered.

use flexportal_sync::config::ShopKind;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::json;

use crate::support::App;
use crate::support::shop::{Webhook, generic, shopify, shopify_topic};

/// Headers and body of a recorded request of `tests/cases`.
fn case(path: &str) -> (HeaderMap, Vec<u8>) {
    let folder = format!("{}/tests/cases/{path}", env!("CARGO_MANIFEST_DIR"));
    let body =
        std::fs::read(format!("{folder}.json")).or_else(|_| std::fs::read(format!("{folder}.body"))).expect("a body");
    let headers = std::fs::read_to_string(format!("{folder}.headers.json")).expect("headers");
    let headers: std::collections::BTreeMap<String, String> = serde_json::from_str(&headers).expect("a map");
    let headers = headers.iter().filter(|(name, _)| *name != "Connection").map(|(name, value)| {
        (name.parse::<HeaderName>().expect("a name"), HeaderValue::from_str(value).expect("a value"))
    });
    (headers.collect(), body)
}

#[tokio::test]
async fn every_recorded_request_gets_its_answer() {
    let app = App::start().await;
    let expected = [
        ("shopify/update-full", 200, "accepted"),
        ("shopify/update-large-id", 200, "accepted"),
        ("shopify/update-old-retry", 200, "accepted"),
        ("shopify/delete", 200, "accepted"),
        ("shopify/disable", 200, "accepted"),
        ("shopify/enable", 200, "accepted"),
        ("shopify/events-preview-dual-headers", 200, "accepted"),
        ("shopify/gdpr-customers-data-request", 200, "accepted"),
        ("shopify/gdpr-customers-redact", 200, "accepted"),
        ("shopify/gdpr-customers-redact-email-only", 200, "accepted"),
        ("shopify/gdpr-shop-redact", 200, "accepted"),
        ("shopify/merge", 200, "accepted"),
        ("shopify/other-topic-orders-create", 200, "ignored"),
        ("woocommerce/update-full", 200, "accepted"),
        ("woocommerce/create-empty-profile", 200, "accepted"),
        ("woocommerce/delete", 200, "accepted"),
        ("woocommerce/same-delivery-id-first", 200, "accepted"),
        ("woocommerce/same-delivery-id-second", 200, "accepted"),
        ("woocommerce/same-delivery-id-second", 200, "duplicate"),
        ("woocommerce/update-subscriber-role", 200, "accepted"),
        ("woocommerce/other-topic-order-updated", 200, "ignored"),
        ("woocommerce/ping", 200, "ignored"),
        ("woocommerce/rest-error-instead-of-customer", 200, "ignored"),
        ("generic/updated-full", 200, "accepted"),
        ("generic/pretty-printed-body", 200, "accepted"),
        ("generic/rotating-secret-two-signatures", 200, "accepted"),
        ("generic/signed-with-previous-secret", 200, "accepted"),
        ("generic/signed-with-plain-text-secret", 401, ""),
        ("generic/ping-unknown-type", 200, "ignored"),
        ("generic/missing-customer-id", 400, ""),
    ];
    for (path, status, word) in expected {
        let (headers, body) = case(path);
        let source = path.split('/').next().expect("a source");
        let answer = app.post(source, headers, body).await;
        assert_eq!(
            (answer.status, if status == 200 { answer.word() } else { "" }),
            (status, word),
            "{path}: {answer:?}"
        );
    }
    assert_eq!(
        app.count("select count(*) from waiting_customers where shop_customer_id = '706405506930370084'").await,
        1
    );
}

#[tokio::test]
async fn a_plain_text_secret_is_taken_as_its_own_bytes() {
    let app = App::start_with(&[("GENERIC_WEBHOOK_SECRET", "a plain text secret, not base64!")], "").await;
    let (headers, body) = case("generic/signed-with-plain-text-secret");
    assert_eq!(app.post("generic", headers, body).await.word(), "accepted");
}

#[tokio::test]
async fn an_answer_comes_after_the_commit_and_a_second_delivery_is_a_duplicate() {
    let app = App::start().await;
    let webhook = generic("1", 0, &json!({"phone": "1"}));
    let first = app.deliver(webhook.clone()).await;
    assert_eq!(first.word(), "accepted");
    assert_eq!(app.event(first.event_id()).await.status, "pending");
    let second = app.deliver(webhook).await;
    assert_eq!((second.word(), second.event_id()), ("duplicate", first.event_id()));
}

#[tokio::test]
async fn two_woocommerce_deliveries_of_one_second_are_two_events() {
    let app = App::start().await;
    let webhook = |id| {
        let body = json!({"id": id, "email": "a@example.com"}).to_string();
        Webhook::new(ShopKind::WooCommerce, "customer.updated", body).with_delivery_id("same")
    };
    assert_eq!(app.deliver(webhook(1)).await.word(), "accepted");
    assert_eq!(app.deliver(webhook(2)).await.word(), "accepted");
    assert_eq!(app.deliver(webhook(1)).await.word(), "duplicate");
}

#[tokio::test]
async fn a_wrong_signature_is_refused_whatever_the_body_is() {
    let app = App::start().await;
    for webhook in [shopify(1, 0, &json!({})), generic("1", 0, &json!({}))] {
        let headers = webhook.signed_at(app.clock.now());
        for body in [b"{}".to_vec(), b"not json".to_vec(), vec![], vec![0xff; 10]] {
            let answer = app.post(webhook.source(), headers.clone(), body).await;
            assert_eq!(answer.status, 401);
            assert_eq!(answer.headers["content-type"], "application/problem+json");
            assert_eq!(answer.body["status"], 401);
        }
        let answer = app.post(webhook.source(), HeaderMap::new(), webhook.body).await;
        assert_eq!(answer.status, 401);
    }
    assert_eq!(app.count("select count(*) from outbox_events").await, 0);
}

#[tokio::test]
async fn a_standard_webhook_is_fresh_for_five_minutes_either_way() {
    let app = App::start().await;
    for (seconds, status) in [(-300, 200), (-301, 401), (300, 200), (301, 401)] {
        let webhook = generic("1", 0, &json!({"phone": "1"}));
        let headers = webhook.signed_at(app.clock.now() + chrono::TimeDelta::seconds(seconds));
        assert_eq!(app.post("generic", headers, webhook.body).await.status, status, "{seconds} s");
    }
}

#[tokio::test]
async fn svix_header_names_are_taken_too() {
    let app = App::start().await;
    let webhook = generic("1", 0, &json!({"phone": "1"}));
    let headers = webhook.signed_at(app.clock.now());
    let renamed: HeaderMap = headers
        .iter()
        .map(|(name, value)| (name.as_str().replace("webhook-", "svix-").parse().expect("a name"), value.clone()))
        .collect();
    assert_eq!(app.post("generic", renamed, webhook.body).await.word(), "accepted");
}

#[tokio::test]
async fn a_body_has_to_fit_its_unsigned_topic() {
    let app = App::start().await;
    let whole = json!({"state": "enabled"});
    let refused = [
        shopify_topic("customers/delete", 1, 0, &whole),
        shopify_topic("customers/disable", 1, 0, &whole),
        Webhook::new(ShopKind::Shopify, "customers/update", r#"{"id":1,"tax_exemptions":[]}"#),
        Webhook::new(ShopKind::Shopify, "customers/redact", r#"{"id":1,"email":"a@b.c"}"#),
        Webhook::new(ShopKind::WooCommerce, "customer.deleted", r#"{"id":1,"email":"a@b.c","billing":{}}"#),
        Webhook::new(ShopKind::WooCommerce, "customer.updated", r#"{"id":1}"#),
        Webhook::new(ShopKind::WooCommerce, "customer.updated", r#"{"id":0,"email":"guest@b.c"}"#),
    ];
    for webhook in refused {
        let answer = app.deliver(webhook.clone()).await;
        // WooCommerce counts refusals.
        let expected = if webhook.kind == ShopKind::WooCommerce { (200, "ignored") } else { (400, "") };
        assert_eq!((answer.status, answer.word()), expected, "{}: {answer:?}", webhook.topic);
    }
    assert_eq!(app.count("select count(*) from deliveries").await, 0);
}

#[tokio::test]
async fn shopifys_sample_is_taken_under_every_topic_of_a_whole_customer() {
    let app = App::start().await;
    for (second, topic) in ["create", "update", "enable", "disable"].into_iter().enumerate() {
        let second = u32::try_from(second).expect("small");
        let sample = shopify_topic(&format!("customers/{topic}"), 1, second, &json!({"state": "disabled"}));
        assert_eq!(app.deliver(sample).await.word(), "accepted", "{topic}");
    }
}

#[tokio::test]
async fn privacy_requests_are_stored_for_a_person_and_not_synced() {
    let app = App::start().await;
    let (headers, body) = case("shopify/gdpr-customers-redact");
    let id = app.post("shopify", headers, body).await.event_id();
    app.drain().await;
    let event = app.event(id).await;
    assert_eq!((event.status.as_str(), event.next_attempt_at), ("pending", None));
    assert_eq!(app.count("select count(*) from waiting_customers").await, 0);
    assert!(app.fake.requests().is_empty());
}

#[tokio::test]
async fn routes_and_methods_are_told_apart() {
    let app = App::start().await;
    assert_eq!(app.deliver_to("nobody", generic("1", 0, &json!({}))).await.status, 404);
    let get = app.get("/webhooks/shopify").await;
    assert_eq!((get.status, get.headers["allow"].as_bytes()), (405, b"POST".as_slice()));
    assert_eq!(get.headers["content-type"], "application/problem+json");
    assert_eq!(app.get("/nothing").await.status, 404);
    assert_eq!(app.get("/healthz").await.status, 200);
    assert_eq!(app.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn without_its_database_intake_answers_503_and_says_so() {
    let app = App::start().await;
    app.intake.close().await;
    let answer = app.deliver(generic("1", 0, &json!({"phone": "1"}))).await;
    assert_eq!(answer.status, 503);
    assert!(answer.headers.contains_key("retry-after"));
    let ready = app.get("/readyz").await;
    assert_eq!((ready.status, ready.headers["content-type"].as_bytes()), (503, b"application/problem+json".as_slice()));
    assert_eq!(app.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn woocommerces_http_1_0_is_spoken() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let app = App::start().await;
    let webhook = Webhook::new(ShopKind::WooCommerce, "customer.updated", r#"{"id":7,"email":"a@example.com"}"#);
    let signed = webhook.signed_at(app.clock.now());
    let headers: Vec<_> =
        signed.iter().map(|(name, value)| format!("{name}: {}\r\n", value.to_str().expect("text"))).collect();
    let request = format!(
        "POST /webhooks/woocommerce HTTP/1.0\r\nContent-Length: {}\r\n{}",
        webhook.body.len(),
        headers.concat()
    );
    let mut stream = tokio::net::TcpStream::connect(app.addr).await.expect("a connection");
    stream.write_all(format!("{request}Connection: close\r\n\r\n").as_bytes()).await.expect("sent");
    stream.write_all(&webhook.body).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer, and the end of it");
    assert!(answer.starts_with("HTTP/1.0 200 OK") && answer.contains("accepted"), "{answer}");
}

#[tokio::test]
async fn many_deliveries_at_once_are_all_stored() {
    let app = App::start().await;
    let deliveries = (0..200).map(|n| app.deliver(generic(&format!("c{}", n % 50), n, &json!({"phone": n}))));
    let answers = futures_util::future::join_all(deliveries).await;
    assert!(answers.iter().all(|answer| answer.word() == "accepted"));
    assert_eq!(app.count("select count(*) from outbox_events").await, 200);
    assert_eq!(app.count("select count(*) from waiting_customers").await, 50);
}
