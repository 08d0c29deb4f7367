//! The budget of several processes, one of them killed and started again, against servers that count in every usual way.
//!
//! A few seconds always, held against the line that any minute has to keep to; whole minutes, counted as servers count
//! them, with `LIMIT_SOAK_SECONDS=150` or more.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use flexportal_sync::fake_flexportal::Behaviour;

use super::{Scene, change};
use crate::limiter::{most_in_fixed_windows, most_in_sliding_windows, refused_by_a_bucket};
use crate::support::eventually;

const LIMIT: u32 = 120;
/// A tenth at once.
const BURST: usize = 12;
/// The rest within the minute.
const SPACING: Duration = Duration::from_millis(60_000 / 109);
/// What the budget leaves for the way of a request, and as much for a machine that is busy with other tests.
const SLACK: TimeDelta = TimeDelta::seconds(1);

#[expect(clippy::disallowed_methods, reason = "not configuration of the service")]
fn soak() -> Option<u32> {
    std::env::var("LIMIT_SOAK_SECONDS").ok()?.parse().ok()
}

/// More requests between two than a burst and its even spacing allow, at most.
fn most_beyond_the_line(arrivals: &[DateTime<Utc>]) -> i64 {
    let spacing = TimeDelta::from_std(SPACING).expect("short");
    let beyond = |first: usize, last: usize| {
        let allowed = (arrivals[last] - arrivals[first] + SLACK).num_microseconds().expect("short")
            / spacing.num_microseconds().expect("short");
        let sent = i64::try_from(last - first + 1).expect("few");
        sent - i64::try_from(BURST).expect("few") - allowed
    };
    let all = (0..arrivals.len()).flat_map(|first| (first..arrivals.len()).map(move |last| (first, last)));
    all.map(|(first, last)| beyond(first, last)).max().unwrap_or_default()
}

async fn keep_to_the_limit(replicas: usize) {
    let limit = LIMIT.to_string();
    let variables = [("FLEXPORTAL_RATE_LIMIT_PER_MINUTE", limit.as_str()), ("FLEXPORTAL_MAX_CONCURRENCY", "16")];
    let scene = Scene::new().await;
    scene.fake.set_behaviour(Behaviour { rate_limit_per_minute: LIMIT, latency_ms: 20, ..Behaviour::default() });
    let mut processes = Vec::new();
    for _ in 0..replicas {
        processes.push(scene.start_with(&variables).await);
    }
    let wanted = soak().map_or(BURST + 6, |seconds| BURST + usize::try_from(seconds).expect("few") * 9 / 5);
    let mut is_restarted = false;
    // Each customer changes again and again, so that there is always more to send than may be sent.
    for second in 0.. {
        if scene.fake.requests().len() >= wanted {
            break;
        }
        for n in 1..=19 {
            assert_eq!(processes[0].deliver(change(n, second % 3_600)).await.status, 200);
        }
        if second == 3 {
            let killed = processes.pop().expect("one at least");
            killed.kill().await;
            processes.push(scene.start_with(&variables).await);
            is_restarted = true;
        }
        let before = scene.fake.requests().len();
        eventually("another request", || scene.fake.requests().len() > before).await;
    }
    assert!(is_restarted);
    let requests = scene.fake.requests();
    assert!(requests.iter().all(|request| request.status != Some(429)), "{replicas} replicas");
    let arrivals: Vec<_> = requests.into_iter().map(|request| request.received_at).collect();
    assert!(most_beyond_the_line(&arrivals) <= 0, "{replicas} replicas: {arrivals:#?}");
    if soak().is_some() {
        let limit = usize::try_from(LIMIT).expect("few");
        let most = most_in_fixed_windows(&arrivals).max(most_in_sliding_windows(&arrivals));
        assert!(most <= limit, "{replicas} replicas: {most}");
        assert_eq!(refused_by_a_bucket(&arrivals, limit, f64::from(LIMIT)), 0, "{replicas} replicas");
    }
}

#[tokio::test]
async fn one_process_keeps_to_the_limit_over_a_restart() {
    keep_to_the_limit(1).await;
}

#[tokio::test]
async fn two_processes_keep_to_the_limit_over_a_restart() {
    keep_to_the_limit(2).await;
}

#[tokio::test]
async fn three_processes_keep_to_the_limit_over_a_restart() {
    keep_to_the_limit(3).await;
}
