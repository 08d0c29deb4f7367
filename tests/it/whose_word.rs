//! Whose word it is: customer ids are unique in one shop only, and a staging copy signs with the same secret.

use std::time::Duration;

use flexportal_sync::config::ShopKind;
use flexportal_sync::domain::{ShopName, SourceName};
use flexportal_sync::outbox::{DoneBy, ShopDecision};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::cli::{folder, program, run};
use crate::support::shop::{SHOP, Webhook, shopify, shopify_topic};
use crate::support::{App, wait_until};

const STAGING: &str = "staging.shop.example";

fn source() -> SourceName {
    SourceName::parse("shopify").expect("a name")
}

fn named(phone: &str) -> Value {
    json!({ "phone": phone })
}

/// The phones that FlexPortal was sent, in order.
fn phones(app: &App) -> Vec<Value> {
    app.puts().into_iter().filter_map(|put| put.get("phone").cloned()).collect()
}

async fn decide(app: &App, shop: &str, decision: ShopDecision) {
    let shop = ShopName::of(shop).expect("a name");
    assert!(app.outbox.decide_on_shop(&source(), &shop, decision, DoneBy::Terminal).await.expect("the database"));
    app.upkeep().round().await.expect("the database");
}

#[tokio::test]
async fn a_staging_copy_does_not_write_over_live_customers() {
    let app = App::start().await;
    app.sync(shopify(1, 0, &named("live"))).await;
    let test = app.sync(shopify(1, 5, &named("test")).of_shop(Some(STAGING))).await;
    assert_eq!((test.status.as_str(), test.is_finished), ("held", false));
    let deleted = Webhook::new(ShopKind::Shopify, "customers/delete", json!({"id": 7_120_000_001_u64}).to_string());
    assert_eq!(app.sync(deleted.of_shop(Some(STAGING))).await.status, "held");
    app.upkeep().round().await.expect("the database");
    app.drain().await;
    assert_eq!(phones(&app), ["live"]);
    assert_eq!(app.sync(shopify(1, 6, &named("live again"))).await.status, "synced");
    let state = "select count(*) from customer_sync_state where state = 'held' \
                 and shop_customer_id = 'staging.shop.example#7120000001' and events = 2";
    assert_eq!(app.count(state).await, 1);
}

#[tokio::test]
async fn the_same_shop_under_another_name_takes_its_place_in_the_order() {
    let app = App::start().await;
    let first = shopify(1, 0, &named("old")).with_delivery_id("same");
    app.sync(first.clone()).await;
    let repeated = app.deliver(first.of_shop(Some(STAGING))).await.event_id();
    let newer = app.deliver(shopify(1, 9, &named("new")).of_shop(Some(STAGING))).await.event_id();
    let other = app.deliver(shopify(2, 9, &named("other")).of_shop(Some(STAGING))).await.event_id();
    let late = app.deliver(shopify(3, 1, &named("late")).of_shop(Some(STAGING))).await.event_id();
    app.sync(shopify(3, 5, &named("in time"))).await;

    decide(&app, "https://Staging.shop.example/", ShopDecision::Accept).await;
    app.drain().await;

    assert_eq!(app.event(repeated).await.status, "superseded", "it had arrived before");
    assert_eq!(app.event(newer).await.status, "synced");
    assert_eq!(app.event(other).await.status, "synced");
    assert_eq!(app.event(late).await.status, "superseded", "what is newer was sent already");
    assert_eq!(phones(&app), ["old", "in time", "new", "other"]);
    assert_eq!(app.sync(shopify(1, 10, &named("newest")).of_shop(Some(STAGING))).await.status, "synced");
    assert_eq!(app.count("select count(*) from deliveries where shop_customer_id like '%#%'").await, 0);
}

#[tokio::test]
async fn another_shop_that_is_ignored_is_closed_and_not_stored_any_more() {
    let app = App::start().await;
    app.sync(shopify(1, 0, &named("live"))).await;
    let held = app.deliver(shopify(1, 5, &named("test")).of_shop(Some(STAGING))).await.event_id();
    decide(&app, STAGING, ShopDecision::Ignore).await;
    assert_eq!(app.event(held).await.status, "discarded");
    let later = app.deliver(shopify(1, 6, &named("test")).of_shop(Some(STAGING))).await;
    assert_eq!((later.status, later.word()), (200, "ignored"));
    assert!(later.body["reason"].as_str().is_some_and(|reason| reason.contains("source of its own")), "{later:?}");
    app.drain().await;
    assert_eq!(phones(&app), ["live"]);
    assert_eq!(app.count("select count(*) from deliveries").await, 2);
}

#[tokio::test]
async fn a_named_shop_is_the_only_one_heard_once_it_has_spoken() {
    let app = App::start_with(&[("SHOPIFY_SHOP", "www.shop.example, old.example")], "").await;
    let before = app.sync(shopify(1, 0, &named("test")).of_shop(Some(STAGING))).await;
    assert_eq!(before.status, "held", "the name may be mistyped");
    assert_eq!(app.sync(shopify(1, 1, &named("live"))).await.status, "synced");
    assert_eq!(app.deliver(shopify(1, 2, &named("test")).of_shop(Some(STAGING))).await.word(), "ignored");
    assert_eq!(app.sync(shopify(1, 3, &named("live, old name")).of_shop(Some("old.example"))).await.status, "synced");
    app.upkeep().round().await.expect("the database");
    app.drain().await;
    assert_eq!(phones(&app), ["live", "live, old name"]);
    assert_eq!(app.count("select count(*) from outbox_events where status = 'held'").await, 1, "a person decides");
}

#[tokio::test]
async fn a_staging_copy_that_spoke_first_is_set_apart() {
    let app = App::start().await;
    app.sync(shopify(1, 5, &named("test")).of_shop(Some(STAGING))).await;
    app.fake.fail_next(1, flexportal_sync::fake_flexportal::Failure::status(422));
    let failed = app.sync(shopify(2, 5, &named("test")).of_shop(Some(STAGING))).await;
    assert_eq!(failed.status, "failed");
    let live = app.sync(shopify(1, 0, &named("live"))).await;
    assert_eq!(live.status, "held");
    let waits = app.deliver(shopify(3, 5, &named("test")).of_shop(Some(STAGING))).await.event_id();

    decide(&app, STAGING, ShopDecision::Ignore).await;
    decide(&app, SHOP, ShopDecision::Accept).await;
    app.drain().await;

    assert_eq!(app.event(waits).await.status, "discarded");
    assert_eq!(app.count("select count(*) from failed_syncs").await, 0);
    assert_eq!(phones(&app).last(), Some(&json!("live")), "the copy's word is not older, and counts no more");
    assert_eq!(app.count("select count(*) from customer_links where shop_customer_id like '%#%'").await, 0);
    assert_eq!(app.sync(shopify(3, 1, &named("live"))).await.status, "synced");
    // What was on its way in while the person decided is set apart as well.
    assert_eq!(app.count("select count(*) from source_shops where is_to_set_apart").await, 1);
    app.advance(Duration::from_mins(2));
    app.upkeep().round().await.expect("the database");
    assert_eq!(app.count("select count(*) from source_shops where is_to_set_apart").await, 0);
}

#[tokio::test]
async fn whoever_was_accepted_can_be_ignored_after_all() {
    let app = App::start().await;
    app.sync(shopify(1, 0, &named("live"))).await;
    let webhook = shopify(1, 5, &named("test")).with_delivery_id("same").of_shop(Some(STAGING));
    app.deliver(webhook.clone()).await;
    decide(&app, STAGING, ShopDecision::Accept).await;
    app.drain().await;
    // The same once more, as if it had been held: what an accepted repetition leaves.
    app.db
        .execute(
            "insert into deliveries (id, source, delivery_id, topic, shop_customer_id, concerns, occurred_at, received_at, payload, shop)
             select gen_random_uuid(), source, 'staging.shop.example#same', topic, shop_customer_id, concerns, occurred_at,
                 received_at, payload, shop
             from deliveries where delivery_id = 'same'",
        )
        .await;
    decide(&app, STAGING, ShopDecision::Ignore).await;
    assert_eq!(
        app.count("select count(*) from deliveries where shop_customer_id like 'staging.shop.example#%'").await,
        2
    );
    assert_eq!(app.sync(shopify(1, 1, &named("live again"))).await.status, "synced");
    assert_eq!(phones(&app), ["live", "test", "live again"]);
}

#[tokio::test]
async fn what_does_not_say_which_shop_it_is_of_belongs_to_the_source() {
    let app = App::start().await;
    app.sync(shopify(1, 0, &named("first")).of_shop(None)).await;
    app.sync(shopify(1, 1, &named("second"))).await;
    app.sync(shopify(1, 2, &named("third")).of_shop(None)).await;
    app.sync(shopify(1, 3, &named("fourth")).of_shop(Some("https://WWW.Shop.example:443/"))).await;
    assert_eq!(phones(&app), ["first", "second", "third", "fourth"]);
}

#[tokio::test]
async fn of_two_shops_that_speak_first_at_once_one_is_heard() {
    let app = App::start().await;
    let shops: Vec<_> = (0..20).map(|n| format!("shop-{n}.example")).collect();
    let deliveries = shops.iter().map(|shop| app.deliver(shopify(1, 0, &named(shop)).of_shop(Some(shop))));
    let answers = futures_util::future::join_all(deliveries).await;
    assert!(answers.iter().all(|answer| answer.word() == "accepted"), "{answers:?}");
    app.drain().await;
    assert_eq!(app.count("select count(*) from outbox_events where status = 'held'").await, 19);
    assert_eq!(app.count("select count(*) from source_shops where standing = 'remembered'").await, 1);
    assert_eq!(phones(&app).len(), 1);
}

#[tokio::test]
async fn however_many_names_are_made_up_a_hundred_are_noted() {
    let app = App::start().await;
    app.sync(shopify(1, 0, &named("live"))).await;
    let body = shopify(1, 1, &named("test"));
    for n in 0..120 {
        let answer = app.deliver(body.clone().of_shop(Some(&format!("made-up-{n}.example")))).await;
        assert_eq!(answer.word(), "accepted");
    }
    assert_eq!(app.count("select count(*) from source_shops").await, 100);
    assert_eq!(app.count("select count(*) from outbox_events where status = 'held'").await, 120);
}

#[tokio::test]
async fn a_row_that_somebody_holds_turns_no_shop_away() {
    let app = App::start().await;
    app.sync(shopify(1, 0, &named("live"))).await;
    let mut forgotten = app.db.pool.begin().await.expect("a transaction");
    let insert = "insert into source_shops (source, shop, standing, first_spoke_at) \
                  values ('shopify', 'staging.shop.example', 'other', now())";
    sqlx::query(insert).execute(&mut *forgotten).await.expect("held");
    let (test, live) = tokio::join!(
        app.deliver(shopify(1, 5, &named("test")).of_shop(Some(STAGING))),
        app.deliver(shopify(2, 5, &named("other")))
    );
    assert_eq!((test.word(), live.word()), ("accepted", "accepted"));
    forgotten.rollback().await.expect("let go");
    app.upkeep().round().await.expect("the database");
    app.drain().await;
    assert_eq!(app.event(test.event_id()).await.status, "held");
    assert_eq!(phones(&app), ["live", "other"]);
}

#[tokio::test]
async fn woocommerce_names_its_shop_by_an_address_with_a_path() {
    let app = App::start().await;
    let change = |phone: &str| {
        let body = json!({"id": 1, "email": "customer1@example.com", "role": "customer", "billing": {"phone": phone},
                          "date_modified_gmt": "2026-11-23T09:00:00"});
        Webhook::new(ShopKind::WooCommerce, "customer.updated", body.to_string())
    };
    assert_eq!(app.sync(change("live").of_shop(Some("https://example.com/"))).await.status, "synced");
    assert_eq!(app.sync(change("test").of_shop(Some("https://example.com/staging/"))).await.status, "held");
}

fn redact_shop(shop: &str) -> Webhook {
    Webhook::new(ShopKind::Shopify, "shop/redact", json!({"shop_id": 1, "shop_domain": shop}).to_string())
}

fn redact_customer(shop: &str, customer: &Value) -> Webhook {
    let body = json!({"shop_id": 1, "shop_domain": shop, "customer": customer, "orders_to_redact": []});
    Webhook::new(ShopKind::Shopify, "customers/redact", body.to_string())
}

const NOT_ERASED: &str = "select count(*) from deliveries where concerns = 'customer' and email is not null";

#[tokio::test]
async fn another_shop_that_parts_with_the_app_takes_its_own_customers_with_it_and_nobody_elses() {
    let app = App::start().await;
    app.sync(shopify(1, 0, &named("live"))).await;
    let waits = app.deliver(shopify(2, 0, &named("waits"))).await.event_id();
    app.deliver(shopify(1, 5, &named("test")).of_shop(Some(STAGING))).await;
    // The header is not signed: what the body says counts.
    let request = app.deliver(redact_shop(STAGING).of_shop(Some(SHOP))).await.event_id();
    app.upkeep().round().await.expect("the database");
    app.drain().await;
    assert_eq!(app.event(request).await.status, "unchanged");
    assert_eq!(app.event(waits).await.status, "synced");
    assert_eq!(app.count(NOT_ERASED).await, 2);
    assert_eq!(app.count("select count(*) from outbox_events where status = 'held'").await, 0);
}

#[tokio::test]
async fn whose_customers_a_parting_shop_means_is_asked_where_nobody_knows() {
    for confirms in [true, false] {
        let app = App::start().await;
        app.sync(shopify(1, 0, &named("from before")).of_shop(None)).await;
        app.sync(shopify(2, 0, &named("named"))).await;
        let request = app.deliver(redact_shop(SHOP)).await.event_id();
        app.upkeep().round().await.expect("the database");
        let left = app.event(request).await;
        assert_eq!((left.status.as_str(), left.error_code.as_deref()), ("failed", Some("SHOP_UNCERTAIN")));
        assert!(left.error.as_deref().is_some_and(|error| error.contains("1 customer ")), "{left:?}");
        assert_eq!(app.count(NOT_ERASED).await, 1, "whom the shop named is erased");

        let folder = folder();
        let id = request.to_string();
        let mut show = program(&folder);
        show.args(["failures", "show", &id]).env("DATABASE_URL", app.db.url.expose_secret());
        let shown = run(show).await;
        assert!(shown.out.contains("nobody knows whether they are its"), "{}{}", shown.out, shown.err);

        let mut act = program(&folder);
        let action: &[&str] = if confirms { &["retry", &id] } else { &["discard", &id, "--reason", "not theirs"] };
        act.arg("failures").args(action).env("DATABASE_URL", app.db.url.expose_secret());
        let acted = run(act).await;
        assert_eq!(acted.code, Some(0), "{}{}", acted.out, acted.err);
        app.upkeep().round().await.expect("the database");
        let ended = if confirms { ("unchanged", 0) } else { ("discarded", 1) };
        assert_eq!((app.event(request).await.status.as_str(), app.count(NOT_ERASED).await), ended);
        assert_eq!(app.count("select count(*) from failed_syncs").await, 0);
    }
}

#[tokio::test]
async fn a_redaction_of_another_shop_does_not_reach_the_customer_of_the_same_id_or_email() {
    let app = App::start().await;
    app.sync(shopify(1, 0, &named("live"))).await;
    app.deliver(shopify(1, 5, &named("test")).of_shop(Some(STAGING))).await;
    app.deliver(shopify(2, 5, &json!({"email": "customer1@example.com"})).of_shop(Some(STAGING))).await;
    app.deliver(redact_customer(STAGING, &json!({"id": 7_120_000_001_u64, "email": "customer1@example.com"}))).await;
    app.upkeep().round().await.expect("the database");
    assert_eq!(app.count(NOT_ERASED).await, 2, "the live one, and another of the copy");
    app.deliver(redact_customer(STAGING, &json!({"email": "customer1@example.com"}))).await;
    app.upkeep().round().await.expect("the database");
    assert_eq!(app.count(NOT_ERASED).await, 1, "the live one");
    assert_eq!(app.sync(shopify(1, 9, &named("live again"))).await.status, "synced");
}

#[tokio::test]
async fn what_is_held_is_erased_with_its_customer() {
    let app = App::start().await;
    app.sync(shopify(1, 0, &named("live"))).await;
    let held =
        app.deliver(shopify(7, 5, &json!({"email": "Held@example.com"})).of_shop(Some(STAGING))).await.event_id();
    let folder = folder();
    let mut erase = program(&folder);
    erase.args(["erase", "--source", "shopify", "--email", "held@example.com"]);
    erase.env("DATABASE_URL", app.db.url.expose_secret());
    let erased = run(erase).await;
    assert_eq!(erased.code, Some(0), "{}{}", erased.out, erased.err);
    let event = app.event(held).await;
    assert_eq!((event.status.as_str(), event.error_code.as_deref()), ("discarded", Some("ERASED")));
    decide(&app, STAGING, ShopDecision::Accept).await;
    app.drain().await;
    assert_eq!(app.puts().len(), 1);
}

#[tokio::test]
async fn a_privacy_request_is_neither_held_nor_makes_its_shop_the_first_speaker() {
    let app = App::start().await;
    let request = app.deliver(redact_customer(STAGING, &json!({"id": 5}))).await.event_id();
    app.upkeep().round().await.expect("the database");
    assert_eq!(app.event(request).await.status, "unchanged");
    assert_eq!(app.count("select count(*) from source_shops").await, 0);
    assert_eq!(app.sync(shopify_topic("customers/create", 1, 0, &named("live"))).await.status, "synced");
}

#[tokio::test]
async fn a_person_sees_which_shop_spoke_and_decides() {
    let app = App::start().await;
    app.sync(shopify(1, 0, &named("live"))).await;
    let held =
        app.deliver(shopify(1, 5, &json!({"email": "other@example.com"})).of_shop(Some(STAGING))).await.event_id();
    app.deliver(shopify(2, 5, &named("new")).of_shop(Some(STAGING))).await;
    let folder = folder();
    let sources = async |arguments: &[&str]| {
        let mut sources = program(&folder);
        sources.arg("sources").args(arguments).env("DATABASE_URL", app.db.url.expose_secret());
        run(sources).await
    };
    let list = sources(&["list"]).await;
    assert!(
        list.out.contains("taken: the first that spoke") && list.out.contains("2 webhooks of 2 customers"),
        "{}",
        list.out
    );
    assert!(list.out.contains("sources accept shopify staging.shop.example"), "{}", list.out);

    let status = app.outbox.status().await.expect("a status");
    assert_eq!((status.held[0].shop.as_str(), status.held[0].webhooks), (STAGING, 2));
    let mut check = program(&folder);
    check.arg("check").env("DATABASE_URL", app.db.url.expose_secret());
    let checked = run(check).await;
    assert!(checked.out.contains("bad   source `shopify`: 2 webhooks of another shop"), "{}", checked.out);
    assert_eq!(checked.code, Some(1));

    let unknown = sources(&["accept", "shopify", "nobody.example"]).await;
    assert_eq!(unknown.code, Some(1));
    assert!(unknown.err.contains("there spoke: shop.example, staging.shop.example"), "{}", unknown.err);

    let dry = sources(&["accept", "shopify", STAGING, "--dry-run"]).await;
    assert!(dry.out.contains("1 of 2 customers have another e-mail with us"), "{}{}", dry.out, dry.err);
    assert_eq!(app.event(held).await.status, "held");

    let ignored = sources(&["ignore", "shopify", STAGING]).await;
    assert_eq!(ignored.code, Some(0), "{}", ignored.err);
    assert_eq!(app.event(held).await.status, "discarded");
    assert_eq!(
        app.count("select count(*) from interventions where action = 'ignore_shop' and done_by = 'terminal'").await,
        1
    );
    assert_eq!(app.outbox.status().await.expect("a status").held, []);

    // What is ignored from now on is shown as well.
    app.deliver(shopify(1, 6, &named("test")).of_shop(Some(STAGING))).await;
    app.intake.keep_notices().await.expect("the database");
    wait_until(&app.db.pool, "select count(*) = 1 from notices where kind = 'other_shop_ignored'").await;
}

#[tokio::test]
async fn the_shop_that_the_configuration_names_cannot_be_ignored() {
    let app = App::start_with(&[("SHOPIFY_SHOP", SHOP)], "").await;
    app.sync(shopify(1, 0, &named("live"))).await;
    let folder = folder();
    let mut ignore = program(&folder);
    ignore.args(["sources", "ignore", "shopify", SHOP]);
    ignore.env("DATABASE_URL", app.db.url.expose_secret()).env("SHOPIFY_SHOP", SHOP);
    ignore.env("SHOPIFY_WEBHOOK_SECRET", "secret");
    let ignored = run(ignore).await;
    assert_eq!(ignored.code, Some(1));
    assert!(ignored.err.contains("change it there"), "{}", ignored.err);
}
