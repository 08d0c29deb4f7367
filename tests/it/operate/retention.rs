//! What has long been finished is removed; what failed stays.

use std::time::Duration;

use chrono::TimeDelta;
use flexportal_sync::domain::Clock;
use flexportal_sync::fake_flexportal::Failure;
use serde_json::json;

use crate::support::App;
use crate::support::shop::{generic, linked};

const DAY: Duration = Duration::from_hours(24);

#[tokio::test]
async fn finished_events_go_after_their_time_and_failed_and_waiting_ones_stay() {
    let app = App::start_with(&[("RETENTION", "30d"), ("UNMATCHED_MAX_AGE", "60d")], "").await;
    for n in 1..=3 {
        app.sync(linked(n, 0, &json!({"phone": "1"}))).await;
    }
    let again = linked(1, 1, &json!({"phone": "1"}));
    app.sync(again.clone()).await;
    app.deliver(again).await;
    app.fake.fail_next(1, Failure::status(422));
    let failed = app.sync(linked(4, 0, &json!({"phone": "1"}))).await;
    assert_eq!(failed.status, "failed");
    app.sync(generic("unknown", 0, &json!({"phone": "1"}))).await;

    app.advance(DAY * 29);
    app.upkeep().round().await.expect("the database");
    assert_eq!(app.count("select count(*) from deliveries").await, 6, "not before its time");
    app.advance(DAY * 2);
    app.upkeep().round().await.expect("the database");
    assert_eq!(app.count("select count(*) from deliveries").await, 2, "the failed one and the one that waits");
    assert_eq!(app.count("select count(*) from event_states where status not in ('failed', 'unmatched')").await, 0);
    assert_eq!(app.count("select count(*) from failed_syncs where request_body is not null").await, 1);
    assert_eq!(app.count("select count(*) from duplicates").await, 0);
    assert_eq!(app.count("select count(*) from customer_links").await, 4, "who is who is kept");
}

#[tokio::test]
async fn a_process_whose_clock_is_wrong_removes_nothing_and_says_so() {
    let app = App::start_with(&[("RETENTION", "30d")], "").await;
    app.sync(linked(1, 0, &json!({"phone": "1"}))).await;
    for days in [40, -40] {
        let clock = Clock::manual(app.clock.now() + TimeDelta::days(days));
        app.upkeep_by(clock).round().await.expect("the database");
    }
    assert_eq!(app.count("select count(*) from deliveries").await, 1, "it finished just now");
    app.outbox.keep_notices().await.expect("the database");
    let told = "select sum(count)::bigint from notices where kind = 'clocks_differ' and subject = 'retention'";
    assert_eq!(app.count(told).await, 2);

    app.advance(DAY * 31);
    app.upkeep_by(Clock::manual(app.clock.now() + TimeDelta::minutes(61))).round().await.expect("the database");
    assert_eq!(app.count("select count(*) from deliveries").await, 1, "until it is known which clock is wrong");
    app.upkeep_by(Clock::manual(app.clock.now() + TimeDelta::minutes(59))).round().await.expect("the database");
    assert_eq!(app.count("select count(*) from deliveries").await, 0);
}

#[tokio::test]
async fn what_is_removed_is_decided_by_postgres_clock() {
    let app = App::start_with(&[("RETENTION", "30d")], "").await;
    app.sync(linked(1, 0, &json!({"phone": "1"}))).await;
    app.advance(DAY * 29 + Duration::from_mins(23 * 60 + 50));
    app.upkeep_by(Clock::manual(app.clock.now() + TimeDelta::minutes(50))).round().await.expect("the database");
    assert_eq!(app.count("select count(*) from deliveries").await, 1);
    app.advance(Duration::from_mins(20));
    app.upkeep_by(Clock::manual(app.clock.now() - TimeDelta::minutes(50))).round().await.expect("the database");
    assert_eq!(app.count("select count(*) from deliveries").await, 0);
}

#[tokio::test]
async fn the_request_of_a_failed_event_stays_with_it_though_it_stands_under_another() {
    let app = App::start_with(&[("RETENTION", "1d")], "").await;
    app.fake.fail_next(1, Failure::status(422));
    app.deliver(linked(1, 0, &json!({"phone": "1"}))).await;
    let head = app.deliver(linked(1, 1, &json!({"firstName": "Ada"}))).await.event_id();
    app.drain().await;
    assert_eq!(app.count("select count(*) from failed_syncs where request_body is not null").await, 2);
    sqlx::query("select discard_sync($1, 'seen')").bind(head).execute(&app.db.pool).await.expect("closed");
    // `discard_sync` goes by the database's clock, the removal by that of the test.
    app.db.execute("update event_states set finished_at = '2026-11-23T10:00:00Z' where status = 'discarded'").await;
    app.advance(DAY * 3);
    app.upkeep().round().await.expect("the database");
    assert_eq!(app.count("select count(*) from failed_syncs where request_body is not null").await, 1);
}

#[tokio::test]
async fn more_than_a_batch_is_removed_in_one_round() {
    let app = App::start_with(&[("RETENTION", "1d")], "").await;
    app.db
        .execute(
            "with made as (
                 insert into deliveries (id, source, delivery_id, topic, shop_customer_id, concerns, occurred_at, received_at, payload)
                 select ('019ab000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, 'generic', 'd' || n, 't', 'c' || n,
                     'customer', '2025-11-23', '2025-11-23', '{}'
                 from generate_series(1, 1203) as n
                 returning id
             )
             insert into event_states (event_id, status, finished_at)
             select id, 'synced', '2025-11-23' from made",
        )
        .await;
    app.upkeep().round().await.expect("the database");
    assert_eq!(app.count("select count(*) from deliveries").await, 0);
    assert_eq!(app.count("select count(*) from event_states").await, 0);
}

#[tokio::test]
async fn what_others_are_at_is_left_to_them_and_live_work_goes_on_meanwhile() {
    let app = App::start_with(&[("RETENTION", "1d")], "").await;
    let held = app.sync(linked(1, 0, &json!({"phone": "1"}))).await;
    assert_eq!(held.status, "synced");
    app.sync(linked(2, 0, &json!({"phone": "1"}))).await;
    app.advance(DAY * 2);
    let other = app.db.hold("select from event_states order by event_id limit 1 for update").await;
    let upkeep = app.upkeep();
    crate::support::in_time("the removal", async { upkeep.round().await.expect("the database") }).await;
    assert_eq!(
        app.count("select count(*) from deliveries").await,
        1,
        "the one that is held is left for the next round"
    );
    other.release().await;
    // Removing takes rows of what is finished alone: with one of its transactions open, a change comes in and goes out.
    let removal = app.db.hold("delete from deliveries").await;
    let live = crate::support::in_time("the live change", app.sync(linked(1, 2, &json!({"phone": "2"})))).await;
    assert_eq!(live.status, "synced");
    removal.release().await;
    app.upkeep().round().await.expect("the database");
    assert_eq!(app.count("select count(*) from deliveries").await, 1, "the live one");
}
