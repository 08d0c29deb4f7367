//! Shops ask for erasure and for data; people erase and export.

use flexportal_sync::config::ShopKind;
use flexportal_sync::fake_flexportal::Failure;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::cli::{folder, program, run};
use crate::support::App;
use crate::support::shop::{Webhook, generic, shopify};

fn privacy(topic: &str, customer: Option<Value>, key: Option<&str>) -> Webhook {
    let mut body = json!({"shop_id": 1, "shop_domain": "shop.example"});
    if let Some(customer) = customer {
        body["customer"] = customer;
    }
    if let Some(key) = key {
        body[key] = json!([]);
    }
    Webhook::new(ShopKind::Shopify, topic, body.to_string())
}

/// Where the words of a customer would stand.
const EVERYWHERE: [&str; 5] = [
    "select count(*) from deliveries d where d::text ilike '%marked%' or d::text ilike '%customer1@example.com%'",
    "select count(*) from event_states s where s::text ilike '%marked%'",
    "select count(*) from sync_attempts a where a::text ilike '%marked%' or a::text ilike '%customer1@example.com%'",
    "select count(*) from customer_links l where l::text like '%hash%'",
    "select count(*) from interventions i where i::text ilike '%marked%'",
];

#[tokio::test]
async fn customers_redact_erases_what_arrived_before_it_and_leaves_a_receipt() {
    let app = App::start().await;
    app.sync(shopify(1, 0, &json!({"first_name": "Marked"}))).await;
    app.fake.fail_next(1, Failure::status(422));
    let failed = app.sync(shopify(1, 1, &json!({"first_name": "Marked again"}))).await;
    assert_eq!(failed.status, "failed");
    let waits = app.deliver(shopify(1, 2, &json!({"first_name": "Marked, waiting"}))).await.event_id();
    app.deliver(shopify(2, 2, &json!({"first_name": "Other"}))).await;
    let customer = json!({"id": 7_120_000_001_u64, "email": "customer1@example.com", "phone": "marked"});
    let request = app.deliver(privacy("customers/redact", Some(customer), Some("orders_to_redact"))).await.event_id();
    let back =
        app.deliver(shopify(1, 9, &json!({"first_name": "Came back", "email": "new@example.com"}))).await.event_id();

    app.upkeep().round().await.expect("the database");

    for sql in EVERYWHERE {
        assert_eq!(app.count(sql).await, 0, "{sql}");
    }
    assert_eq!(app.event(waits).await.status, "discarded");
    let acted_on = app.event(request).await;
    assert_eq!((acted_on.status.as_str(), acted_on.is_finished), ("unchanged", true));
    assert_eq!(acted_on.warnings, ["4 events and 3 requests erased; 1 change that waited is not sent"]);
    assert_eq!(
        app.count("select count(*) from interventions where action = 'erase' and done_by = 'shop' and shop_customer_id = '7120000001'").await,
        1,
        "one receipt"
    );
    let puts = app.puts().len();
    app.drain().await;
    let sent: Vec<_> = app.puts().into_iter().skip(puts).map(|put| put["firstName"].clone()).collect();
    assert_eq!(sent.len(), 2, "the other customer, and what came after the request: {sent:?}");
    assert!(sent.contains(&json!("Came back")), "{sent:?}");
    assert_eq!(app.event(back).await.status, "synced");
}

#[tokio::test]
async fn a_customer_under_a_workers_hands_is_erased_afterwards() {
    let app = App::start().await;
    app.deliver(shopify(1, 0, &json!({"first_name": "Marked"}))).await;
    let target = flexportal_sync::domain::TargetName::parse("default").expect("a name");
    app.outbox.claim(&target, 1).await.expect("claimed, and then it died");
    let customer = json!({"id": 7_120_000_001_u64});
    let request = app.deliver(privacy("customers/redact", Some(customer), Some("orders_to_redact"))).await.event_id();
    app.upkeep().round().await.expect("the database");
    assert_eq!(app.event(request).await.status, "pending", "it stays open");
    app.advance(std::time::Duration::from_secs(31));
    app.upkeep().round().await.expect("the database");
    assert_eq!(app.event(request).await.status, "unchanged");
    assert_eq!(app.count(EVERYWHERE[0]).await, 0);
}

#[tokio::test]
async fn a_redaction_without_an_id_goes_by_the_email_and_shop_redact_takes_the_whole_shop() {
    let app = App::start().await;
    app.sync(shopify(1, 0, &json!({"first_name": "Marked"}))).await;
    let by_email = json!({"email": "Customer1@example.com"});
    app.deliver(privacy("customers/redact", Some(by_email), Some("orders_to_redact"))).await;
    app.upkeep().round().await.expect("the database");
    for sql in EVERYWHERE {
        assert_eq!(app.count(sql).await, 0, "{sql}");
    }

    for n in 1..=3 {
        app.sync(shopify(n, 5, &json!({"first_name": "Marked"}))).await;
    }
    app.sync(generic("other-shop", 0, &json!({"firstName": "Grace", "flexportalCustomerId": "cus_4"}))).await;
    app.deliver(privacy("shop/redact", None, None)).await;
    app.upkeep().round().await.expect("the database");
    for sql in EVERYWHERE {
        assert_eq!(
            app.count(if sql.contains("hash") {
                "select count(*) from customer_links l where source = 'shopify' and l::text like '%hash%'"
            } else {
                sql
            })
            .await,
            0,
            "{sql}"
        );
    }
    assert_eq!(
        app.count("select count(*) from deliveries where payload::text like '%Grace%'").await,
        1,
        "another shop's"
    );
    assert_eq!(app.count("select count(*) from deliveries where source = 'shopify' and email is not null").await, 0);
}

#[tokio::test]
async fn one_busy_customer_does_not_keep_a_shop_from_being_erased_and_the_receipt_counts_all() {
    let app = App::start().await;
    for n in 1..=3 {
        app.deliver(shopify(n, 0, &json!({"first_name": "Marked"}))).await;
    }
    let target = flexportal_sync::domain::TargetName::parse("default").expect("a name");
    app.outbox.claim(&target, 1).await.expect("claimed, and then it died");
    let request = app.deliver(privacy("shop/redact", None, None)).await.event_id();
    app.upkeep().round().await.expect("the database");
    let left = "select count(*) from deliveries where payload::text like '%Marked%'";
    assert_eq!(app.count(left).await, 1, "the one that is under way");
    assert_eq!(app.event(request).await.status, "pending");
    // The shop goes on, also with customers that were erased for it: that is another matter.
    let target = app
        .count("select substr(shop_customer_id, 10)::bigint from waiting_customers where lease_id is not null")
        .await;
    let back = if target == 1 { 2 } else { 1 };
    let back = app.deliver(shopify(back, 9, &json!({"first_name": "Came back"}))).await.event_id();
    app.drain().await;
    assert_eq!(app.event(back).await.status, "synced");
    app.advance(std::time::Duration::from_secs(31));
    app.upkeep().round().await.expect("the database");
    assert_eq!(app.count(left).await, 0);
    assert_eq!(app.count("select count(*) from deliveries where payload::text like '%Came back%'").await, 1);
    assert_eq!(app.count("select count(*) from customer_links l where l::text like '%hash%'").await, 1);
    let acted_on = app.event(request).await;
    assert_eq!(acted_on.warnings, ["3 customers erased; each has a receipt of its own"]);
    assert_eq!(app.count("select count(*) from interventions where action = 'erase'").await, 4, "and the request's");
}

#[tokio::test]
async fn one_privacy_request_does_not_pass_for_another_that_erases_more() {
    let app = App::start().await;
    let customer = || Some(json!({"id": 1}));
    for webhook in [
        privacy("shop/redact", customer(), Some("orders_to_redact")),
        privacy("customers/redact", customer(), Some("orders_requested")),
        privacy("customers/data_request", customer(), Some("orders_to_redact")),
        privacy("customers/redact", None, None),
    ] {
        assert_eq!(app.deliver(webhook).await.status, 400);
    }
}

#[tokio::test]
async fn a_data_request_waits_for_a_person_who_exports_and_closes_it() {
    let app = App::start().await;
    app.sync(shopify(1, 0, &json!({"first_name": "Ada", "note": 12_345_678_901_234_567_890_u64}))).await;
    let customer = json!({"id": 7_120_000_001_u64, "email": "customer1@example.com"});
    let request =
        app.deliver(privacy("customers/data_request", Some(customer), Some("orders_requested"))).await.event_id();
    app.upkeep().round().await.expect("the database");
    assert_eq!(app.event(request).await.status, "pending");
    assert_eq!(app.outbox.status().await.expect("a status").data_requests, 1);

    let folder = folder();
    let mut export = program(&folder);
    export.args(["export", "--source", "shopify", "--customer", "7120000001"]);
    export.env("DATABASE_URL", app.db.url.expose_secret());
    let output = run(export).await;
    assert_eq!(output.code, Some(0), "{}", output.err);
    assert!(output.out.contains("12345678901234567890"), "digit for digit: {}", output.out);
    let held: Value = serde_json::from_str(&output.out).expect("JSON");
    assert_eq!(held[0]["events"].as_array().map(Vec::len), Some(2), "the request itself is held, too");
    assert_eq!(held[0]["events"][1]["requests"][1]["requestBody"]["firstName"], "Ada");
    assert_eq!(held[0]["link"]["flexportalCustomerId"], "cus_1");

    let mut close = program(&folder);
    close.args(["failures", "discard", &request.to_string(), "--reason", "answered by post"]);
    close.env("DATABASE_URL", app.db.url.expose_secret());
    let closed = run(close).await;
    assert!(closed.out.contains("closed; it was pending"), "{}{}", closed.out, closed.err);
    assert_eq!(app.outbox.status().await.expect("a status").data_requests, 0);
    assert_eq!(app.count("select count(*) from interventions where action in ('export', 'discard')").await, 2);
}

#[tokio::test]
async fn a_person_erases_after_seeing_what_that_means() {
    let app = App::start().await;
    app.sync(shopify(1, 0, &json!({"first_name": "Marked"}))).await;
    app.deliver(shopify(1, 1, &json!({"first_name": "Marked, waiting"}))).await;
    let folder = folder();
    let erase = |dry: bool| {
        let mut command = program(&folder);
        command.args(["erase", "--source", "shopify", "--email", "CUSTOMER1@example.com"]);
        command.args(dry.then_some("--dry-run")).env("DATABASE_URL", app.db.url.expose_secret());
        run(command)
    };
    let sentence = "2 events and 2 requests erased; 1 change that waited is not sent";
    let dry = erase(true).await;
    assert!(dry.out.contains(sentence) && dry.out.contains("dry run"), "{}{}", dry.out, dry.err);
    assert_ne!(app.count(EVERYWHERE[0]).await, 0, "nothing was changed");
    let done = erase(false).await;
    assert!(done.out.contains(sentence), "{}{}", done.out, done.err);
    for sql in EVERYWHERE {
        assert_eq!(app.count(sql).await, 0, "{sql}");
    }
    assert_eq!(
        app.count("select count(*) from interventions where action = 'erase' and done_by = 'terminal'").await,
        1
    );
    assert_eq!(erase(false).await.code, Some(1), "nothing is known under that e-mail any more");
}

#[tokio::test]
async fn what_is_left_of_a_customer_when_its_deliveries_are_past_their_time_is_erased_too() {
    let app = App::start().await;
    app.sync(shopify(1, 0, &json!({"first_name": "Marked"}))).await;
    app.sync(shopify(2, 0, &json!({"first_name": "Marked"}))).await;
    for sql in ["delete from sync_attempts", "delete from event_states", "delete from deliveries"] {
        app.db.execute(sql).await;
    }
    let hashes = "select count(*) from customer_links l where l::text like '%hash%'";
    assert_eq!(app.count(hashes).await, 2);
    let folder = folder();
    let mut erase = program(&folder);
    erase.args(["erase", "--source", "shopify", "--customer", "7120000002"]);
    erase.env("DATABASE_URL", app.db.url.expose_secret());
    let told = run(erase).await;
    assert_eq!(told.code, Some(0), "{}", told.err);
    assert!(told.out.contains("hashes of what was sent are gone"), "{}", told.out);
    assert_eq!(app.count(hashes).await, 1);

    let request = app.deliver(privacy("shop/redact", None, None)).await.event_id();
    app.upkeep().round().await.expect("the database");
    assert_eq!(app.count(hashes).await, 0);
    assert!(app.event(request).await.is_finished);
    assert_eq!(app.count("select count(*) from interventions where action = 'erase' and done_by = 'shop'").await, 2);
    let state = "select count(*) from customer_sync_state where state = 'in_sync' and events = 0";
    assert_eq!(app.count(state).await, 2, "who has only a link is known, and in sync");
}

#[tokio::test]
async fn nobody_closes_a_request_for_erasure_in_its_place() {
    let app = App::start().await;
    let customer = json!({"id": 7_120_000_001_u64, "email": "customer1@example.com"});
    let redact = app.deliver(privacy("customers/redact", Some(customer.clone()), None)).await.event_id();
    let data =
        app.deliver(privacy("customers/data_request", Some(customer), Some("orders_requested"))).await.event_id();
    let discard = async |event| -> String {
        let discarded = sqlx::query_scalar("select discard_sync($1, 'seen')").bind(event);
        discarded.fetch_one(&app.db.pool).await.expect("an outcome")
    };
    assert!(discard(redact).await.starts_with("nothing to do: what a shop wants erased"));
    assert!(!app.event(redact).await.is_finished);
    assert_eq!(discard(data).await, "closed; it was pending");
}

#[tokio::test]
async fn words_of_flexportals_answer_go_with_the_data() {
    let app = App::start().await;
    app.fake.fail_next(1, Failure::Status { status: 422, code: "MARKED_49".to_owned(), retry_after: None });
    app.sync(shopify(1, 0, &json!({"first_name": "x"}))).await;
    app.db.execute("update event_states set cause = '`Marked` refused'").await;
    let customer = json!({"id": 7_120_000_001_u64, "email": "customer1@example.com"});
    app.deliver(privacy("customers/redact", Some(customer), None)).await;
    app.upkeep().round().await.expect("the database");
    for sql in EVERYWHERE {
        assert_eq!(app.count(sql).await, 0, "{sql}");
    }
    assert_eq!(app.count("select count(*) from failed_syncs where cause = 'HTTP 422'").await, 1);
}

#[tokio::test]
async fn who_else_has_the_same_email_is_said() {
    let app = App::start().await;
    app.sync(shopify(1, 0, &json!({"first_name": "Ada"}))).await;
    app.sync(generic("other-7'; false '", 1, &json!({"email": "Customer1@Example.com"}))).await;
    let folder = folder();
    for command in ["export", "erase"] {
        let mut run_of = program(&folder);
        run_of.args([command, "--source", "shopify", "--email", "customer1@example.com"]);
        run_of.env("DATABASE_URL", app.db.url.expose_secret());
        let told = run(run_of).await;
        assert_eq!(told.code, Some(0), "{}", told.err);
        // As a shell takes it for one word.
        let quoted = r"'other-7'\''; false '\'''";
        let hint = format!("flexportal-sync {command} --source generic --customer {quoted}");
        assert!(told.err.contains(&hint), "{command}: {}", told.err);
        assert!(!told.out.contains("other-7"), "{command} is of one shop: {}", told.out);
    }
}

#[tokio::test]
async fn one_persons_redaction_leaves_another_ones_request_alone() {
    let app = App::start().await;
    let ada = json!({"email": "ada@example.com"});
    let request = app.deliver(privacy("customers/data_request", Some(ada), Some("orders_requested"))).await.event_id();
    app.deliver(privacy("customers/redact", Some(json!({"id": 5})), Some("orders_to_redact"))).await;
    app.upkeep().round().await.expect("the database");
    assert_eq!(app.count("select count(*) from deliveries where email = 'ada@example.com'").await, 1);
    assert_eq!(app.event(request).await.status, "pending");
}
