//! The budget against servers that count in every usual way, with one to three replicas and a restart in the window.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use flexportal_sync::domain::Dice;
use flexportal_sync::fake_flexportal::FakeCustomer;
use flexportal_sync::sync::Worker;
use serde_json::json;

use crate::support::App;
use crate::support::shop::linked;

const LIMIT: usize = 100;
const MINUTE: TimeDelta = TimeDelta::minutes(1);
const MINUTES: i32 = 3;

/// Counts in minutes that begin at some second: who counts so refuses nothing, wherever it begins.
pub fn most_in_fixed_windows(arrivals: &[DateTime<Utc>]) -> usize {
    let begins = (0..60).map(|second| arrivals[0] - TimeDelta::seconds(second));
    let most = |begin: DateTime<Utc>| {
        let minutes = arrivals.iter().map(|at| (*at - begin).num_seconds() / 60);
        let mut counts = std::collections::BTreeMap::<i64, usize>::new();
        minutes.for_each(|minute| *counts.entry(minute).or_default() += 1);
        counts.into_values().max().unwrap_or_default()
    };
    begins.map(most).max().unwrap_or_default()
}

/// Counts the last 60 seconds at every arrival.
pub fn most_in_sliding_windows(arrivals: &[DateTime<Utc>]) -> usize {
    let before = |at: &DateTime<Utc>| arrivals.iter().filter(|other| *other <= at && *at - **other < MINUTE).count();
    arrivals.iter().map(before).max().unwrap_or_default()
}

/// A bucket of `size` that is filled again evenly, with `limit` a minute: how many find it empty.
pub fn refused_by_a_bucket(arrivals: &[DateTime<Utc>], limit: usize, size: f64) -> usize {
    let (mut tokens, mut last, mut refused) = (size, arrivals[0], 0);
    for at in arrivals {
        let filled = (*at - last).as_seconds_f64() * f64::from(u32::try_from(limit).expect("small")) / 60.0;
        tokens = (tokens + filled).min(size);
        last = *at;
        // A hair of rounding is no token.
        if tokens >= 1.0 - 1e-3 {
            tokens -= 1.0;
        } else {
            refused += 1;
        }
    }
    refused
}

/// Lets `replicas` workers run for some minutes with more than enough to do; one of them begins anew in between.
async fn arrivals(replicas: usize, seed: u64) -> Vec<DateTime<Utc>> {
    let app =
        App::start_with(&[("FLEXPORTAL_RATE_LIMIT_PER_MINUTE", "100"), ("FLEXPORTAL_MAX_CONCURRENCY", "16")], "").await;
    (0..340).for_each(|n| app.fake.add_customer(FakeCustomer::numbered(n)));
    let deliveries = (0..340_u32).map(|n| app.deliver(linked(n, 0, &json!({"phone": n.to_string()}))));
    let answers = futures_util::future::join_all(deliveries).await;
    assert!(answers.iter().all(|answer| answer.word() == "accepted"));
    let mut workers: Vec<Worker> = (0..replicas).map(|_| app.another_worker()).collect();
    let dice = Dice::seeded(seed);
    let begin = app.clock.now();
    let mut restarts = 0;
    while app.clock.now() - begin < MINUTE * MINUTES {
        let steps = futures_util::future::join_all(workers.iter().map(Worker::step)).await;
        assert!(steps.iter().all(Result::is_ok), "{steps:?}");
        app.advance(Duration::from_millis(700).mul_f64(dice.roll()));
        if (app.clock.now() - begin) > TimeDelta::seconds(20) * (restarts + 1) {
            workers[0] = app.another_worker();
            restarts += 1;
        }
    }
    assert!(restarts > 5);
    app.fake.requests().into_iter().map(|request| request.received_at).collect()
}

#[tokio::test]
async fn no_way_of_counting_finds_more_than_the_limit_and_nine_tenths_of_it_are_used() {
    for replicas in 1..=3 {
        let seed = u64::try_from(replicas).expect("small");
        let arrivals = arrivals(replicas, seed).await;
        let context = format!("{replicas} replicas, seed {seed}, {} requests", arrivals.len());
        assert!(most_in_fixed_windows(&arrivals) <= LIMIT, "{context}");
        assert!(most_in_sliding_windows(&arrivals) <= LIMIT, "{context}");
        assert_eq!(refused_by_a_bucket(&arrivals, LIMIT, 100.0), 0, "{context}");
        assert_eq!(refused_by_a_bucket(&arrivals, LIMIT, 10.0), 0, "a tenth at once is all it takes: {context}");
        assert_eq!(arrivals.iter().filter(|at| **at == arrivals[0]).count(), 10, "a tenth at once: {context}");
        let usable = LIMIT * usize::try_from(MINUTES).expect("small") * 9 / 10;
        assert!(arrivals.len() >= usable, "{context}");
    }
}

#[test]
fn the_counting_itself_is_right() {
    let begin = DateTime::from_timestamp(1_795_428_000, 0).expect("in range");
    let every = |milliseconds: i64, count: i64| {
        (0..count).map(|n| begin + TimeDelta::milliseconds(n * milliseconds)).collect::<Vec<_>>()
    };
    let (crowd, apart) = (every(590, 101), every(600, 200));
    assert_eq!((most_in_fixed_windows(&crowd), most_in_sliding_windows(&crowd)), (101, 101));
    assert_eq!((most_in_fixed_windows(&apart), most_in_sliding_windows(&apart)), (100, 100));
    assert_eq!((refused_by_a_bucket(&apart, LIMIT, 10.0), refused_by_a_bucket(&[begin; 12], LIMIT, 10.0)), (0, 2));
}
