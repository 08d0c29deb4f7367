//! For how long attempts go on.

use std::time::Duration;

use flexportal_sync::fake_flexportal::{Behaviour, FakeCustomer};
use serde_json::json;
use uuid::Uuid;

use crate::support::App;
use crate::support::shop::{generic, linked};

const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

fn is_down(app: &App, is_down: bool) {
    let error_rate = if is_down { 1.0 } else { 0.0 };
    app.fake.set_behaviour(Behaviour { error_rate, ..Behaviour::default() });
}

async fn after(app: &App, pause: Duration, event: Uuid) -> String {
    app.advance(pause);
    app.drain().await;
    app.event(event).await.status
}

#[tokio::test]
async fn an_event_fails_when_its_attempts_have_failed_for_a_day() {
    let app = App::start().await;
    is_down(&app, true);
    let event = app.deliver(linked(1, 0, &json!({"phone": "1"}))).await.event_id();
    app.drain().await;
    for _ in 1..24 * 6 {
        assert_eq!(after(&app, MINUTE * 10, event).await, "pending");
    }
    assert_eq!(after(&app, MINUTE * 10, event).await, "failed");
    assert_eq!(app.event(event).await.attempts, 24 * 6 + 1);
}

#[tokio::test]
async fn of_the_time_in_which_no_worker_ran_no_more_counts_than_the_longest_delay() {
    let app = App::start_with(&[("RETRY_MAX_AGE", "1h")], "").await;
    is_down(&app, true);
    let event = app.deliver(linked(1, 0, &json!({"phone": "1"}))).await.event_id();
    app.drain().await;
    for _ in 0..3 {
        assert_eq!(after(&app, DAY * 3, event).await, "pending", "a quarter of an hour of these three days");
    }
    assert_eq!(after(&app, DAY * 3, event).await, "failed");
}

#[tokio::test]
async fn a_persons_retry_begins_anew() {
    let app = App::start_with(&[("RETRY_MAX_AGE", "20m")], "").await;
    is_down(&app, true);
    let event = app.deliver(linked(1, 0, &json!({"phone": "1"}))).await.event_id();
    for status in ["pending", "pending", "failed"] {
        assert_eq!(after(&app, MINUTE * 15, event).await, status);
    }
    sqlx::query("select retry_sync($1)").bind(event).execute(&app.db.pool).await.expect("set back");
    // The function goes by Postgres' own clock, which is ahead of the one moved by hand, or behind it.
    sqlx::query("update waiting_customers set due_at = '-infinity'").execute(&app.db.pool).await.expect("due");
    for status in ["pending", "pending", "failed"] {
        assert_eq!(after(&app, MINUTE * 15, event).await, status);
    }
}

#[tokio::test]
async fn an_answer_that_flexportal_has_no_such_customer_begins_anew() {
    let app = App::start_with(&[("RETRY_MAX_AGE", "20m")], "").await;
    is_down(&app, true);
    let event = app.deliver(generic("x", 0, &json!({"email": "new@example.com", "phone": "1"}))).await.event_id();
    for status in ["pending", "pending"] {
        assert_eq!(after(&app, MINUTE * 15, event).await, status);
    }
    is_down(&app, false);
    assert_eq!(after(&app, MINUTE * 15, event).await, "unmatched");
    is_down(&app, true);
    for (pause, status) in [(HOUR, "pending"), (MINUTE * 15, "pending"), (MINUTE * 15, "failed")] {
        assert_eq!(after(&app, pause, event).await, status);
    }
}

#[tokio::test]
async fn the_number_of_attempts_can_be_limited_beside_their_time_and_zero_is_no_limit() {
    let unlimited = [("RETRY_MAX_AGE", "0s"), ("RETRY_MAX_ATTEMPTS", "0")];
    let app = App::start_with(&unlimited, "").await;
    is_down(&app, true);
    let event = app.deliver(linked(1, 0, &json!({"phone": "1"}))).await.event_id();
    for _ in 0..200 {
        assert_eq!(after(&app, HOUR, event).await, "pending");
    }
}

#[tokio::test]
async fn a_target_whose_few_customers_all_fail_is_held_and_costs_no_more_attempts() {
    let app = App::start().await;
    app.fake.add_customer(FakeCustomer::numbered(1));
    is_down(&app, true);
    let event = app.deliver(linked(1, 0, &json!({"phone": "1"}))).await.event_id();
    app.drain().await;
    // The breaker goes by the process's own monotonic clock, which no hand moves: ten customers are enough at once.
    for n in 2..=10 {
        app.deliver(linked(n, 0, &json!({"phone": "1"}))).await;
    }
    app.drain().await;
    assert_eq!(app.count("select count(*) from sync_backlog where hold_reason = 'failing'").await, 1);
    let before = app.event(event).await.attempts;
    for _ in 0..300 {
        assert_eq!(after(&app, MINUTE * 15, event).await, "pending", "an outage of three days fails nothing");
    }
    assert_eq!(app.event(event).await.attempts, before);
}
