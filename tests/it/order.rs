//! Newest wins, whatever clocks do: one key for each change, given when it is stored.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use flexportal_sync::config::ShopKind;
use reqwest::header::HeaderValue;
use serde_json::{Value, json};
use sqlx::Row;

use crate::support::shop::{Webhook, generic, shopify_topic};
use crate::support::{App, wait_until};

/// A generic change of a customer that FlexPortal has, with the time that the shop tells, or none.
fn change(n: u32, told: Option<DateTime<Utc>>, phone: &str) -> Webhook {
    let data = json!({"customerId": format!("shop-{n}"), "flexportalCustomerId": format!("cus_{n}"), "phone": phone});
    let body = json!({"type": "customer.updated", "timestamp": told, "data": data});
    Webhook::new(ShopKind::Generic, "customer.updated", body.to_string())
}

/// What FlexPortal was last told of a customer's phone.
fn phone_of(app: &App, n: u32) -> Option<Value> {
    let puts = app.puts();
    let mut of_customer = puts.iter().rev().filter(|put| put["customerId"] == format!("cus_{n}"));
    of_customer.find_map(|put| put.get("phone").cloned())
}

async fn deliver_shopify(app: &App, webhook: Webhook, triggered_at: &str) -> uuid::Uuid {
    let mut headers = webhook.signed_at(app.clock.now());
    headers.insert("x-shopify-triggered-at", HeaderValue::from_str(triggered_at).expect("a header"));
    app.post("shopify", headers, webhook.body).await.event_id()
}

fn address(city: &str) -> Value {
    json!({"default_address": {
        "name": "Ada Lovelace", "company": null, "address1": "Street 1", "city": city, "zip": "10115", "country_code": "DE",
    }})
}

#[tokio::test]
async fn what_was_sent_after_the_answer_wins_also_when_the_clock_is_set_back_in_between() {
    let app = App::start().await;
    for n in 1..=10 {
        app.deliver(change(n, None, "old")).await;
    }
    app.clock.set_back(Duration::from_millis(500));
    for n in 1..=10 {
        app.deliver(change(n, None, "new")).await;
    }
    app.advance(Duration::from_secs(1));
    app.drain().await;
    for n in 1..=10 {
        assert_eq!(phone_of(&app, n), Some(json!("new")), "customer {n}");
    }

    // The same where the first was sent before the second arrived.
    for n in 1..=10 {
        app.deliver(change(n, None, "older")).await;
    }
    app.drain().await;
    app.clock.set_back(Duration::from_hours(1));
    for n in 1..=10 {
        app.deliver(change(n, None, "newest")).await;
    }
    app.advance(Duration::from_hours(2));
    app.drain().await;
    for n in 1..=10 {
        assert_eq!(phone_of(&app, n), Some(json!("newest")), "customer {n}");
    }
    let went_back = "select count(*) from (
        select received_at < lag(received_at) over (partition by shop_customer_id order by arrival) as is_earlier
        from deliveries
    ) as arrivals where is_earlier";
    assert_eq!(app.count(went_back).await, 0, "no arrival is earlier than the one before");
}

#[tokio::test]
async fn a_time_of_the_second_leaves_the_order_to_the_arrival() {
    let app = App::start().await;
    let second = app.clock.now();
    app.advance(Duration::from_millis(900));
    for n in 1..=10 {
        app.deliver(change(n, Some(second), "first")).await;
    }
    app.clock.set_back(Duration::from_millis(20));
    for n in 1..=10 {
        app.deliver(change(n, Some(second), "second")).await;
    }
    app.advance(Duration::from_secs(1));
    app.drain().await;
    for n in 1..=10 {
        assert_eq!(phone_of(&app, n), Some(json!("second")), "customer {n}");
    }
}

#[tokio::test]
async fn a_time_far_ahead_holds_up_no_right_change_after_it() {
    let app = App::start().await;
    let now = app.clock.now();
    let ahead = app.sync(change(1, Some(now + TimeDelta::hours(4)), "ahead")).await;
    assert_eq!(ahead.status, "synced");
    assert!(ahead.warnings.iter().any(|warning| warning.contains("five minutes ahead")), "{:?}", ahead.warnings);
    app.advance(Duration::from_secs(10));
    let right = app.sync(change(1, Some(app.clock.now() - TimeDelta::seconds(1)), "right")).await;
    assert_eq!((right.status.as_str(), right.warnings.as_slice()), ("synced", [].as_slice()));
    assert_eq!(phone_of(&app, 1), Some(json!("right")));
}

#[tokio::test]
async fn times_within_five_minutes_ahead_are_compared_as_they_are_and_no_time_is_newer_than_all() {
    let app = App::start().await;
    let now = app.clock.now();
    app.sync(change(1, Some(now + TimeDelta::minutes(4)), "of a clock ahead")).await;
    app.advance(Duration::from_secs(10));
    let older = app.sync(change(1, Some(now + TimeDelta::minutes(3)), "older by the same clock")).await;
    assert_eq!(older.status, "superseded");
    let untimed = app.sync(change(1, None, "without a time")).await;
    assert_eq!(untimed.status, "synced", "it was sent after the others were answered");
    assert_eq!(phone_of(&app, 1), Some(json!("without a time")));

    // Also where the other waits still, or failed.
    app.deliver(change(2, Some(now + TimeDelta::minutes(4)), "waits")).await;
    app.deliver(change(2, None, "after it")).await;
    app.drain().await;
    assert_eq!(phone_of(&app, 2), Some(json!("after it")));
    app.fake.fail_next(1, flexportal_sync::fake_flexportal::Failure::status(422));
    let failed = app.deliver(change(3, Some(now + TimeDelta::minutes(4)), "refused")).await.event_id();
    app.drain().await;
    assert_eq!(app.event(failed).await.status, "failed");
    app.sync(change(3, None, "mended")).await;
    assert_eq!(app.event(failed).await.status, "superseded", "what is newer closes it");
}

#[tokio::test]
async fn an_update_of_the_second_of_its_creation_is_newer_though_it_arrived_before() {
    let app = App::start().await;
    for (n, is_settled_between) in [(1, false), (2, true)] {
        let updated = app.deliver(shopify_topic("customers/update", n, 0, &address("Berlin"))).await.event_id();
        if is_settled_between {
            app.drain().await;
        }
        app.advance(Duration::from_millis(300));
        let created = app.deliver(shopify_topic("customers/create", n, 0, &json!({}))).await.event_id();
        app.drain().await;
        let put = app.puts().pop().expect("a request");
        assert_eq!(put["billingAddress"]["city"], "Berlin", "{put}");
        assert_eq!(app.event(updated).await.status, "synced");
        assert_eq!(app.event(created).await.status, "superseded");
    }
}

#[tokio::test]
async fn changes_of_one_second_follow_each_other_as_they_were_triggered() {
    let app = App::start().await;
    let later = shopify_topic("customers/update", 1, 0, &json!({"phone": "+4930"}));
    let later = deliver_shopify(&app, later, "2026-11-23T10:00:00.700000001Z").await;
    let earlier = shopify_topic("customers/update", 1, 0, &json!({"phone": "+4920"}));
    let earlier = deliver_shopify(&app, earlier, "2026-11-23T10:00:00.600000001Z").await;
    app.drain().await;
    assert_eq!(app.puts().last().expect("a request")["phone"], "+4930");
    assert_eq!(app.event(later).await.status, "synced");
    assert_eq!(app.event(earlier).await.status, "superseded");
}

#[tokio::test]
async fn a_body_without_its_time_has_that_of_its_trigger() {
    let app = App::start().await;
    let webhook = shopify_topic("customers/update", 1, 0, &json!({"updated_at": null}));
    let id = deliver_shopify(&app, webhook, "2026-11-23T09:59:58.5Z").await;
    let row = sqlx::query("select occurred_at from outbox_events where id = $1").bind(id);
    let occurred_at: DateTime<Utc> = row.fetch_one(&app.db.pool).await.expect("the event").get(0);
    assert_eq!(occurred_at.to_rfc3339(), "2026-11-23T09:59:58.500+00:00");
}

#[tokio::test]
async fn an_email_of_an_older_change_that_arrived_later_is_not_looked_up() {
    let app = App::start().await;
    let email = |second, email| generic("shop-1", second, &json!({"email": email, "phone": "1"}));
    app.sync(email(10, "customer1@example.com")).await;
    app.sync(email(5, "customer2@example.com")).await;
    sqlx::raw_sql("delete from customer_links").execute(&app.db.pool).await.expect("forgotten");
    app.sync(generic("shop-1", 11, &json!({"phone": "2"}))).await;
    assert_eq!(app.puts().last().expect("a request")["customerId"], "cus_1");
}

#[tokio::test]
async fn a_start_makes_sure_that_numbers_go_on_past_what_is_stored() {
    let app = App::start().await;
    app.deliver(change(1, None, "1")).await;
    sqlx::raw_sql("update deliveries set arrival = 5000000; alter sequence arrival_numbers restart")
        .execute(&app.db.pool)
        .await
        .expect("restored");
    app.outbox.register(&[], &[]).await.expect("registered");
    app.deliver(change(1, None, "2")).await;
    assert!(app.count("select max(arrival) from deliveries").await > 5_000_000);
    assert_eq!(app.count("select count(*) from deliveries where arrival > 5000000").await, 1);
    let next = app.count("select last_value from arrival_numbers").await;
    app.outbox.register(&[], &[]).await.expect("registered");
    assert_eq!(app.count("select last_value from arrival_numbers").await, next, "nothing is behind any more");
}

#[tokio::test]
async fn a_lock_on_the_queue_that_somebody_forgot_costs_no_delivery_an_answer() {
    let app = App::start().await;
    app.fake.fail_next(1, flexportal_sync::fake_flexportal::Failure::status(422));
    let failed = app.deliver(change(1, None, "bad")).await.event_id();
    app.drain().await;
    assert_eq!(app.event(failed).await.status, "failed");
    let mut forgotten = app.db.pool.begin().await.expect("a transaction");
    sqlx::query("select retry_sync($1)").bind(failed).execute(&mut *forgotten).await.expect("set back");

    let held = app.deliver(change(1, None, "held")).await;
    let other = app.deliver(change(2, None, "free")).await;
    assert_eq!((held.status, other.status), (200, 200), "{held:?} {other:?}");
    // The others go through at once; whoever was stored with the one that is held, too.
    while app.outbox.queue_left_out().await.expect("the database") {}
    app.drain().await;
    assert_eq!(phone_of(&app, 2), Some(json!("free")));
    assert_eq!(app.event(held.event_id()).await.status, "pending");
    let waiting = "select count(*) from customer_sync_state where shop_customer_id = 'shop-1' and state = 'failed'";
    assert_eq!(app.count(waiting).await, 1);
    assert_eq!(app.count("select count(*) from unqueued_changes").await, 1, "of the customer that is held alone");

    forgotten.rollback().await.expect("let go");
    app.upkeep().queue_left_out().await.expect("the database");
    app.drain().await;
    assert_eq!(phone_of(&app, 1), Some(json!("held")));
    assert_eq!(app.event(held.event_id()).await.status, "synced");
    assert_eq!(app.count("select count(*) from unqueued_changes").await, 0);

    // Somebody should know, though nothing failed.
    app.intake.keep_notices().await.expect("the database");
    wait_until(&app.db.pool, "select count(*) > 0 from notices").await;
    let notices = app.outbox.status().await.expect("a status").notices;
    let [notice] = &notices[..] else { panic!("one, not {notices:?}") };
    assert_eq!((notice.kind.as_str(), notice.subject.as_str()), ("queue_row_locked", "generic"));
    assert!(notice.detail.contains("idle in transaction"), "{notice:?}");
    let Value::String(metrics) = app.get("/metrics").await.body else { panic!("no text") };
    let line = metrics.lines().find(|line| line.contains(r#"notices_total{kind="queue_row_locked"}"#));
    assert_eq!(line.expect("a counter").rsplit(' ').next(), Some(notice.count.to_string().as_str()));

    // A day without it, and it is told of no more.
    app.clock.advance(Duration::from_hours(25));
    assert_eq!(app.outbox.status().await.expect("a status").notices, []);
}

#[tokio::test]
async fn a_duplicate_is_told_so_though_somebody_holds_its_count() {
    let app = App::start().await;
    let webhook = change(1, None, "1");
    let first = app.deliver(webhook.clone()).await;
    app.deliver(webhook.clone()).await;
    let mut forgotten = app.db.pool.begin().await.expect("a transaction");
    sqlx::query("update duplicates set deliveries = 9").execute(&mut *forgotten).await.expect("held");
    let again = app.deliver(webhook).await;
    assert_eq!((again.word(), again.event_id()), ("duplicate", first.event_id()));
    forgotten.rollback().await.expect("let go");
}
