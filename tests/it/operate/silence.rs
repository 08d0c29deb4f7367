//! A shop that was talkative and went quiet is told from one that is asleep.

use std::time::Duration;

use chrono::{Datelike, Timelike, Weekday};
use flexportal_sync::domain::Clock;
use flexportal_sync::outbox::Outbox;
use serde_json::json;

use crate::support::shop::generic;
use crate::support::{App, in_time};

const HOUR: Duration = Duration::from_hours(1);

/// A shop's deliveries in each hour of a span, as counted.
async fn talk(app: &App, hours: u32, rate: impl Fn(chrono::DateTime<chrono::Utc>) -> i64) {
    let now = app.clock.now();
    for n in (1..=hours).rev() {
        let hour = now - HOUR * n;
        let deliveries = rate(hour);
        if deliveries > 0 {
            sqlx::query("insert into source_hours (source, hour, deliveries, last_at) values ('generic', date_trunc('hour', $1), $2, date_trunc('hour', $1) + interval '59 min')")
                .bind(hour)
                .bind(deliveries)
                .execute(&app.db.pool)
                .await
                .expect("counted");
        }
    }
}

async fn is_silent(app: &App) -> bool {
    let status = app.outbox.status().await.expect("a status");
    let source = status.sources.iter().find(|source| source.name.as_str() == "generic").expect("the source");
    source.silence.as_ref().is_some_and(|silence| {
        assert!(silence.explanation.contains("look whether"), "{silence:?}");
        true
    })
}

#[tokio::test]
async fn a_talkative_source_that_stops_is_silent_within_hours() {
    let app = App::start().await;
    talk(&app, 24 * 10, |_| 10).await;
    assert!(!is_silent(&app).await);
    app.advance(HOUR);
    assert!(!is_silent(&app).await, "ten are missing: that can be chance");
    app.advance(HOUR * 2);
    assert!(is_silent(&app).await);
    let metrics = app.get("/metrics").await.body;
    let gauge = r#"flexportal_sync_source_silent{source="generic"} 1.0"#;
    assert!(metrics.as_str().is_some_and(|text| text.contains(gauge)), "{metrics}");
    // What arrives ends it at once, before it is counted.
    app.deliver(generic("c", 0, &json!({"phone": "1"}))).await;
    assert!(!is_silent(&app).await);
}

#[tokio::test]
async fn nights_and_weekends_are_not_silence() {
    let app = App::start().await;
    // It is Monday, ten o'clock; go on to Friday evening.
    app.advance(HOUR * (24 * 4 + 8));
    let shop = |at: chrono::DateTime<chrono::Utc>| {
        let is_open = (8..18).contains(&at.hour()) && !matches!(at.weekday(), Weekday::Sat | Weekday::Sun);
        if is_open { 30 } else { 0 }
    };
    talk(&app, 24 * 21, shop).await;
    for _ in 0..(24 * 2 + 12) {
        app.advance(HOUR);
        assert!(!is_silent(&app).await, "{}", app.clock.now());
    }
    // Monday morning, and nobody comes.
    app.advance(HOUR * 5);
    assert!(is_silent(&app).await, "{}", app.clock.now());
}

#[tokio::test]
async fn a_new_source_and_one_that_seldom_speaks_are_not_judged_early() {
    let app = App::start().await;
    talk(&app, 5, |_| 1_000).await;
    app.advance(HOUR * 12);
    assert!(!is_silent(&app).await, "it was never seen at this time of day");
    app.db.execute("delete from source_hours").await;
    talk(&app, 24 * 10, |at| i64::from(at.hour() == 12)).await;
    app.advance(HOUR * 24 * 3);
    assert!(!is_silent(&app).await, "three are missing");
}

#[tokio::test]
async fn deliveries_are_counted_once_each_by_however_many_processes() {
    let app = App::start().await;
    for n in 0..5 {
        app.deliver(generic(&format!("c{n}"), n, &json!({"phone": "1"}))).await;
    }
    let counted = "select coalesce(sum(deliveries), 0)::bigint from source_hours where source = 'generic'";
    app.upkeep().round().await.expect("the database");
    assert_eq!(app.count(counted).await, 0, "others may still be on their way");
    app.advance(HOUR);
    let (one, other) = (app.upkeep(), app.upkeep());
    let rounds = tokio::join!(one.round(), other.round());
    rounds.0.and(rounds.1).expect("the database");
    app.upkeep().round().await.expect("the database");
    assert_eq!(app.count(counted).await, 5);
    app.deliver(generic("later", 0, &json!({"phone": "1"}))).await;
    app.advance(HOUR);
    app.upkeep().round().await.expect("the database");
    assert_eq!(app.count(counted).await, 6);
}

#[tokio::test]
async fn by_the_machines_clock_counting_comes_to_an_end() {
    let app = App::start().await;
    let outbox = Outbox::new(&app.db.url, 1, Clock::System).expect("an address");
    let counting = async { while outbox.count_deliveries().await.expect("the database") {} };
    in_time("the end of counting", counting).await;
}

#[tokio::test]
async fn however_long_a_source_is_silent_it_is_told() {
    let app = App::start().await;
    talk(&app, 24 * 40, |_| 10).await;
    app.upkeep().round().await.expect("the database");
    let kept = app.count("select count(*) from source_hours").await;
    assert!((24 * 34..=24 * 35 + 1).contains(&kept), "older hours are let go: {kept}");
    for _ in 0..12 {
        app.advance(HOUR * 24 * 5);
        app.upkeep().round().await.expect("the database");
        assert!(is_silent(&app).await, "{}", app.clock.now());
    }
    // Of a shop that is gone for good it ends like this, and its events stay within reach.
    app.db.execute("delete from source_hours where source = 'generic'").await;
    for _ in 0..2 {
        app.upkeep().round().await.expect("the database");
        assert!(!is_silent(&app).await);
        app.advance(HOUR * 24);
    }
}
