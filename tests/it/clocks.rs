//! Postgres' clock is set back and forward while work waits: sending goes on, and never faster than the quota.

use std::time::Duration;

use chrono::{DateTime, Utc};
use flexportal_sync::domain::TargetName;
use flexportal_sync::fake_flexportal::{Failure, FakeCustomer};
use flexportal_sync::outbox::HoldReason;
use flexportal_sync::sync::Worker;
use serde_json::json;

use crate::limiter::most_in_sliding_windows;
use crate::support::App;
use crate::support::shop::linked;

const HOUR: Duration = Duration::from_hours(1);
const LIMITED: [(&str, &str); 2] = [("FLEXPORTAL_RATE_LIMIT_PER_MINUTE", "100"), ("FLEXPORTAL_MAX_CONCURRENCY", "16")];

fn target() -> TargetName {
    TargetName::parse("default").expect("a name")
}

/// Changes of so many customers, one each.
async fn deliver(app: &App, customers: std::ops::Range<u32>) {
    for n in customers {
        app.fake.add_customer(FakeCustomer::numbered(n));
        assert_eq!(app.deliver(linked(n, 0, &json!({"phone": "1"}))).await.word(), "accepted");
    }
}

/// Works for so long, and looks at the clock each second, as the service does.
async fn work_for(app: &App, upkeep: &flexportal_sync::upkeep::Upkeep, seconds: u32) {
    for _ in 0..seconds {
        upkeep.follow_the_clock().await.expect("the database");
        app.drain().await;
        app.advance(Duration::from_secs(1));
    }
}

const UNSENT: &str = "select count(*) from outbox_events where status <> 'synced'";

#[tokio::test]
async fn after_a_clock_that_was_set_back_sending_goes_on_within_a_minute() {
    let app = App::start_with(&LIMITED, "").await;
    let upkeep = app.upkeep();
    deliver(&app, 1..16).await;
    work_for(&app, &upkeep, 1).await;
    assert_eq!(app.fake.requests().len(), 10, "a tenth of the limit at once");

    app.clock.set_back(HOUR);
    deliver(&app, 16..17).await;
    work_for(&app, &upkeep, 60).await;
    assert_eq!(app.count(UNSENT).await, 0);
    let arrivals: Vec<_> = app.fake.requests().into_iter().map(|request| request.received_at).collect();
    assert!(arrivals[10..].iter().all(|at| *at >= arrivals[0] - HOUR + Duration::from_secs(5)), "{arrivals:?}");
}

#[tokio::test]
async fn a_start_after_the_clock_was_set_back_waits_for_nothing_either() {
    let app = App::start_with(&LIMITED, "").await;
    deliver(&app, 1..16).await;
    app.drain().await;
    app.clock.set_back(HOUR);
    work_for(&app, &app.upkeep(), 60).await;
    assert_eq!(app.count(UNSENT).await, 0);
}

#[tokio::test]
async fn a_dead_workers_customer_is_taken_over_in_time_though_the_clock_was_set_back() {
    let app = App::start().await;
    let upkeep = app.upkeep();
    deliver(&app, 1..2).await;
    upkeep.follow_the_clock().await.expect("the database");
    assert_eq!(app.outbox.claim(&target(), 1).await.expect("the database").len(), 1);
    app.clock.set_back(HOUR);
    work_for(&app, &upkeep, 30).await;
    assert_eq!(app.fake.requests().len(), 0, "the worker may still be at it");
    work_for(&app, &upkeep, 1).await;
    assert_eq!(app.count(UNSENT).await, 0);
}

#[tokio::test]
async fn rests_retries_and_pauses_end_in_their_time_though_the_clock_was_set_back() {
    let app = App::start_with(&[("RETRY_MAX_DELAY", "1m"), ("FLEXPORTAL_TIMEOUT", "1s")], "").await;
    let upkeep = app.upkeep();
    deliver(&app, 1..2).await;
    app.fake.fail_next(1, Failure::Hang);
    work_for(&app, &upkeep, 1).await;
    deliver(&app, 2..3).await;
    app.fake.fail_next(1, Failure::status(500));
    work_for(&app, &upkeep, 1).await;
    assert_eq!(app.count("select count(*) from waiting_customers where rests_until is not null").await, 1);
    app.outbox.hold(&target(), HoldReason::Failing, Duration::from_secs(30)).await.expect("the database");
    app.clock.set_back(HOUR);
    deliver(&app, 3..4).await;
    work_for(&app, &upkeep, 31).await;
    assert!(app.fake.requests().len() > 2, "a probe after half a minute, as ever");
    work_for(&app, &upkeep, 60).await;
    assert_eq!(app.count(UNSENT).await, 0);
}

/// Lets two workers send as fast as they may, while Postgres' clock is set forward at these seconds; when requests arrived,
/// by how much time had passed.
async fn arrivals(steps: &[(u64, Duration)]) -> Vec<DateTime<Utc>> {
    let app = App::start_with(&LIMITED, "").await;
    deliver(&app, 1..300).await;
    let workers: Vec<Worker> = (0..2).map(|_| app.another_worker()).collect();
    let (mut steps, mut arrivals) = (steps.iter().peekable(), vec![]);
    while app.clock.passed() < Duration::from_secs(150) {
        if let Some((_, step)) = steps.next_if(|(second, _)| Duration::from_secs(*second) <= app.clock.passed()) {
            app.clock.set_forward(*step);
        }
        for worker in &workers {
            worker.step().await.expect("the database");
        }
        arrivals.resize(app.fake.requests().len(), DateTime::UNIX_EPOCH + app.clock.passed());
        app.advance(Duration::from_millis(500));
    }
    arrivals
}

#[tokio::test]
async fn no_minute_has_more_than_the_limit_though_the_clock_is_set_forward() {
    let seconds = Duration::from_secs;
    let cases: [&[(u64, Duration)]; 4] = [
        &[],
        &[(20, seconds(10)), (40, seconds(10))],
        &[(15, seconds(2)), (25, seconds(2)), (35, seconds(2)), (45, seconds(2)), (55, seconds(2))],
        &[(20, HOUR)],
    ];
    for steps in cases {
        let arrivals = arrivals(steps).await;
        assert!(most_in_sliding_windows(&arrivals) <= 100, "{steps:?}: {}", most_in_sliding_windows(&arrivals));
        assert!(arrivals.len() >= 100, "{steps:?}: {}, and it goes on", arrivals.len());
    }
}

#[tokio::test]
async fn a_step_forward_lets_nobody_take_over_while_a_request_may_be_under_way() {
    let app = App::start_with(&LIMITED, "").await;
    deliver(&app, 1..2).await;
    let other = app.another_worker();
    other.step().await.expect("the database");
    deliver(&app, 2..3).await;
    assert_eq!(app.outbox.claim(&target(), 1).await.expect("the database").len(), 1);
    app.clock.set_forward(Duration::from_secs(10));
    deliver(&app, 3..4).await;
    for _ in 0..28 {
        other.step().await.expect("the database");
        app.advance(Duration::from_secs(1));
    }
    let requests = app.fake.requests();
    assert!(requests.iter().all(|request| !request.path.ends_with("/cus_2")), "its claim has not ended in truth");
    app.advance(Duration::from_secs(40));
    other.step().await.expect("the database");
    assert_eq!(app.count(UNSENT).await, 0);
}

#[tokio::test]
async fn a_step_forward_holds_the_target_once_and_is_shown() {
    let app = App::start_with(&LIMITED, "").await;
    let (one, other) = (app.another_worker(), app.another_worker());
    deliver(&app, 1..40).await;
    for worker in [&one, &other] {
        worker.step().await.expect("the database");
        app.advance(Duration::from_secs(2));
    }
    let before = app.fake.requests().len();
    app.clock.set_forward(Duration::from_secs(10));
    one.step().await.expect("the database");
    let hold = app.outbox.status().await.expect("the database").targets.remove(0).hold.expect("it is held");
    assert_eq!((hold.reason, hold.until), (HoldReason::ClockStep, app.clock.now() + Duration::from_secs(30)));
    // As long as a lease: what was sent under those that ended early may still be under way.
    app.advance(Duration::from_secs(29));
    other.step().await.expect("the database");
    assert_eq!(app.fake.requests().len(), before);
    app.advance(Duration::from_secs(1));
    other.step().await.expect("the database");
    assert!(app.fake.requests().len() > before, "the step was made up for by the first to notice it");
    assert!(app.outbox.status().await.expect("the database").targets.remove(0).hold.is_none());
}

#[tokio::test]
async fn a_probe_that_gets_through_does_not_end_the_pause_after_a_step() {
    let app = App::start_with(&LIMITED, "").await;
    let worker = app.another_worker();
    deliver(&app, 1..40).await;
    worker.step().await.expect("the database");
    app.advance(Duration::from_secs(2));
    app.clock.set_forward(Duration::from_secs(10));
    worker.step().await.expect("the database");
    app.outbox.hold(&target(), HoldReason::Failing, Duration::from_secs(1)).await.expect("the database");
    app.outbox.resume(&target()).await.expect("the database");
    let hold = app.outbox.status().await.expect("the database").targets.remove(0).hold.expect("it is held");
    assert_eq!((hold.reason, hold.until), (HoldReason::ClockStep, app.clock.now() + Duration::from_secs(30)));
}
