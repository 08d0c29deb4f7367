//! WooCommerce as it is: texts escaped for HTML, and bodies without a customer in them.

use flexportal_sync::config::ShopKind;
use serde_json::{Value, json};

use crate::support::shop::{Webhook, generic};
use crate::support::{App, wait_until};

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

fn with_role(role: &str) -> Webhook {
    updated(&json!({"id": 7, "email": "customer1@example.com", "role": role, "first_name": role, "billing": {}}))
}

#[tokio::test]
async fn all_roles_but_those_of_staff_are_customers() {
    let app = App::start().await;
    for role in ["customer", "subscriber", "wholesale_customer"] {
        assert_eq!(app.sync(with_role(role)).await.status, "synced", "{role}");
    }
    for role in ["administrator", "editor", "author", "contributor", "shop_manager"] {
        let answer = app.deliver(with_role(role)).await;
        assert_eq!((answer.status, answer.word()), (200, "ignored"), "{role}");
        assert!(answer.body["reason"].as_str().is_some_and(|reason| reason.contains(role)), "{answer:?}");
    }
    // Who left the customers' roles is not deleted.
    app.drain().await;
    assert!(app.puts().iter().all(|put| put.get("status").is_none()));
    app.intake.keep_notices().await.expect("the database");
    let counted = "select sum(count)::bigint = 5 from notices where kind = 'role_ignored' and subject = 'woocommerce'";
    wait_until(&app.db.pool, counted).await;
    // A deletion names no role.
    let deleted = Webhook::new(ShopKind::WooCommerce, "customer.deleted", r#"{"id":7}"#);
    assert_eq!(app.sync(deleted).await.status, "synced");
    assert_eq!(app.puts().pop().expect("a request")["status"], "inactive");
}

#[tokio::test]
async fn a_source_may_list_the_roles_of_its_customers() {
    let file = "[[source]]\nname = 'woocommerce'\nkind = 'woocommerce'\nroles = ['wholesale_customer', 'editor']";
    let app = App::start_with(&[], file).await;
    for role in ["wholesale_customer", "editor"] {
        assert_eq!(app.sync(with_role(role)).await.status, "synced", "{role}");
    }
    assert_eq!(app.deliver(with_role("customer")).await.word(), "ignored");
}

#[tokio::test]
async fn the_deletion_of_somebody_who_was_never_synced_ends_at_once() {
    let app = App::start().await;
    let deleted = Webhook::new(ShopKind::WooCommerce, "customer.deleted", r#"{"id":8}"#);
    let event = app.sync(deleted).await;
    assert_eq!((event.status.as_str(), event.is_finished), ("unchanged", true));
    assert_eq!(app.puts().len(), 0);
}

#[tokio::test]
async fn a_webhook_whose_owner_lost_its_rights_is_told() {
    let app = App::start().await;
    let body = json!({"code": "woocommerce_rest_cannot_view", "message": "no", "data": {"status": 403}});
    app.deliver(updated(&body)).await;
    app.intake.keep_notices().await.expect("the database");
    wait_until(&app.db.pool, "select count(*) = 1 from notices where kind = 'owner_without_rights'").await;
    let notices = app.outbox.status().await.expect("a status").notices;
    assert!(notices[0].detail.contains("administrator"), "{notices:?}");
}

#[tokio::test]
async fn a_plug_ins_megabytes_do_not_cost_the_customer() {
    let file = "[[source]]\nname = 'woocommerce'\nkind = 'woocommerce'\nflexportal_id_field = 'fp_id'";
    let app = App::start_with(&[("MAX_BODY_BYTES", "65536")], file).await;
    let body = |bytes: usize, email: &str| {
        json!({
            "id": 7, "email": email, "first_name": "Ada", "role": "customer", "billing": {"phone": "1"},
            "meta_data": [
                {"id": 1, "key": "fp_id", "value": "cus_9"},
                {"id": 2, "key": "a_plug_in", "value": {"deep": ["x".repeat(bytes), "fp_id"]}},
            ],
        })
    };
    let event = app.sync(updated(&body(7 * 65_536, "customer1@example.com"))).await;
    assert_eq!((event.status.as_str(), event.flexportal_id.as_deref()), ("synced", Some("cus_9")));
    assert!(event.warnings.iter().any(|warning| warning.contains("`meta_data` was left out")), "{event:?}");
    assert_eq!(app.puts().pop().expect("a request")["phone"], "1");
    assert_eq!(
        app.count("select max(length(payload::text))::bigint from deliveries where payload::text like '%fp_id%'").await
            / 1024,
        0
    );

    // What counts is what would be stored.
    let large = app.deliver(updated(&body(8 * 65_536, "customer1@example.com"))).await;
    assert_eq!(large.status, 413, "{large:?}");
    let large = app.deliver(updated(&body(0, &"x".repeat(65_536)))).await;
    assert_eq!(large.status, 413, "{large:?}");
    // Only bytes that cannot be read count towards switching the webhook off.
    assert_eq!(app.deliver(updated(&json!(["x".repeat(65_536)]))).await.word(), "ignored");
    let unreadable = Webhook::new(ShopKind::WooCommerce, "customer.updated", "[".repeat(70_000));
    assert_eq!(app.deliver(unreadable).await.status, 400);
    // Nobody else's excess is looked through.
    let large = app.deliver(generic("x", 0, &json!({"meta_data": "x".repeat(65_536)}))).await;
    assert_eq!(large.status, 413, "{large:?}");
    // It is signed as a whole.
    let webhook = updated(&body(65_536, "customer1@example.com"));
    let headers = webhook.signed_at(app.clock.now());
    let mut forged = webhook.body.clone();
    let at = forged.len() / 2;
    forged[at] ^= 1;
    assert_eq!(app.post("woocommerce", headers, forged).await.status, 401);
}

#[tokio::test]
async fn meta_data_that_cannot_be_read_is_no_silent_fallback() {
    let file = "[[source]]\nname = 'woocommerce'\nkind = 'woocommerce'\nflexportal_id_field = 'fp_id'";
    let app = App::start_with(&[], file).await;
    let sync = async |meta_data: Value| {
        let body = json!({"id": 7, "email": "customer1@example.com", "billing": {}, "first_name": meta_data.to_string(),
                          "meta_data": meta_data});
        app.sync(updated(&body)).await.warnings
    };
    assert_eq!(sync(json!([])).await, [""; 0], "there may be none yet");
    let with_numbers = sync(json!({"0": {"id": 1, "key": "fp_id", "value": "cus_9"}})).await;
    assert_eq!(with_numbers, ["`meta_data` is not a list, and `fp_id` was not looked for in it"]);
    let of_another_kind = sync(json!([{"id": 1, "key": "fp_id", "value": {"id": "cus_9"}}])).await;
    assert_eq!(of_another_kind, ["`value` is not a text and was left out"]);
}
