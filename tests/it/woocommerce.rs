//! WooCommerce as it is: texts escaped for HTML, and bodies without a customer in them.

use flexportal_sync::config::ShopKind;
use serde_json::{Value, json};

use crate::support::App;
use crate::support::shop::{Webhook, generic};

fn updated(body: &Value) -> Webhook {
    Webhook::new(ShopKind::WooCommerce, "customer.updated", body.to_string())
}

fn customer(second: u32, last_name: &str, company: &str) -> Webhook {
    let modified = format!("2026-11-23T09:00:{second:02}");
    updated(&json!({
        "id": 7, "date_modified_gmt": modified, "email": "customer1@example.com", "first_name": "Ada",
        "last_name": last_name, "role": "customer",
        "billing": {
            "first_name": "Ada", "last_name": last_name, "company": company, "address_1": "O&#039;Connell St &amp; 1",
            "city": "Dublin", "postcode": "", "country": "IE", "state": "D", "email": "", "phone": "",
        },
    }))
}

#[tokio::test]
async fn texts_are_decoded_once_and_both_forms_of_one_text_cause_one_request() {
    let app = App::start().await;
    app.sync(customer(1, "M\u{fc}ller &amp; S\u{f6}hne", "R&D &copy; &amp;lt;")).await;
    let put = app.puts().pop().expect("a request");
    assert_eq!(put["lastName"], "M\u{fc}ller & S\u{f6}hne");
    assert_eq!(put["company"], "R&D &copy; &lt;");
    assert_eq!(put["billingAddress"]["streetAddress"], "O'Connell St & 1");
    let raw = app.sync(customer(2, "M\u{fc}ller & S\u{f6}hne", "R&D &copy; &amp;lt;")).await;
    assert_eq!((raw.status.as_str(), app.puts().len()), ("unchanged", 1));
    // Another shop's texts are what they are.
    app.sync(generic("x", 0, &json!({"flexportalCustomerId": "cus_2", "company": "A &amp; B"}))).await;
    assert_eq!(app.puts().pop().expect("a request")["company"], "A &amp; B");
}

#[tokio::test]
async fn a_well_signed_body_without_a_customer_is_ignored_with_its_reason() {
    let app = App::start().await;
    let error =
        |code: &str, status: u16| json!({"code": code, "message": "Invalid resource ID.", "data": {"status": status}});
    for (body, reason) in [
        (error("wc_user_invalid_id", 404), "gone"),
        (error("woocommerce_rest_invalid_id", 404), "gone"),
        (error("woocommerce_rest_cannot_view", 403), "may not read"),
        (error("woocommerce_rest_cannot_view", 401), "may not read"),
        (error("rest_error", 500), "an error of the shop"),
        (json!({"id": 0, "email": "guest@example.com"}), "guest"),
        (json!({"email": "a@example.com"}), "missing"),
        (json!({"id": 7}), "does not fit"),
        (json!([1, 2]), "not a JSON object"),
        (json!("text"), "not a JSON object"),
    ] {
        let answer = app.deliver(updated(&body)).await;
        assert_eq!((answer.status, answer.word()), (200, "ignored"), "{body}: {answer:?}");
        assert!(answer.body["reason"].as_str().is_some_and(|why| why.contains(reason)), "{answer:?}");
    }
    let unreadable = Webhook::new(ShopKind::WooCommerce, "customer.updated", "{\"id\": 7");
    assert_eq!(app.deliver(unreadable).await.status, 400);
    let mut forged = updated(&error("wc_user_invalid_id", 404)).signed_at(app.clock.now());
    forged.insert("x-wc-webhook-signature", "bm8=".parse().expect("a header"));
    let forged = app.post("woocommerce", forged, error("wc_user_invalid_id", 404).to_string()).await;
    assert_eq!(forged.status, 401);
    assert_eq!(app.count("select count(*) from deliveries").await, 0);
}

#[tokio::test]
async fn a_slash_at_the_end_of_the_address_leads_to_the_source() {
    let app = App::start().await;
    let webhook = customer(1, "Lovelace", "");
    let headers = webhook.signed_at(app.clock.now());
    assert_eq!(app.post("woocommerce/", headers, webhook.body).await.word(), "accepted");
}
