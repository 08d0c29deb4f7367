//! SIGTERM: what is in flight is finished, the rest given back without costing an attempt, and the process leaves
//! within 30 s. A second signal ends it at once.

use std::time::{Duration, Instant};

use flexportal_sync::fake_flexportal::{Behaviour, Failure};
use serde_json::json;

use super::{ALL_SYNCED, Scene, change, phone_of, wait_for_requests};
use crate::support::shop::{GENERIC_SECRET, shopify};
use crate::support::{Process, wait_until};

/// Orchestrators kill then.
const LEAVE_WITHIN: Duration = Duration::from_secs(30);

#[tokio::test]
async fn at_sigterm_the_request_in_flight_is_finished_and_the_lease_given_back() {
    let scene = Scene::new().await;
    let process = scene.start().await;
    scene.fake.set_behaviour(Behaviour { latency_ms: 1000, ..Behaviour::default() });
    assert_eq!(process.deliver(shopify(1, 0, &json!({}))).await.status, 200);
    wait_for_requests(&scene.fake, 1).await;
    process.terminate();
    assert!(process.leaves().await.success());
    wait_until(&scene.db.pool, ALL_SYNCED).await;
    wait_until(&scene.db.pool, "select count(*) = 0 from waiting_customers").await;
}

#[tokio::test]
async fn at_sigterm_the_rest_is_given_back_without_costing_an_attempt() {
    let scene = Scene::new().await;
    // Two requests at once, and the next after seconds: the first lookups go out, and those in lower case wait.
    let limited = [("FLEXPORTAL_RATE_LIMIT_PER_MINUTE", "20")];
    let process = scene.start_with(&limited).await;
    let hold = scene.db.hold("select from targets where name = 'default' for update").await;
    for n in 1..=5 {
        let email = format!("Customer{n}@example.com");
        assert_eq!(process.deliver(shopify(n, 0, &json!({"phone": "1", "email": email}))).await.status, 200);
    }
    hold.release().await;
    wait_for_requests(&scene.fake, 2).await;
    wait_until(&scene.db.pool, "select count(*) = 2 from outbox_events where status = 'in_flight'").await;
    process.terminate();
    let asked_at = Instant::now();
    assert!(process.leaves().await.success());
    assert!(asked_at.elapsed() < Duration::from_secs(5), "{:?}: it waits for no budget", asked_at.elapsed());

    let db = &scene.db;
    assert_eq!(db.count("select count(*) from waiting_customers where lease_id is null and due_at <= now()").await, 5);
    assert_eq!(db.count("select sum(attempts)::bigint from outbox_events where status = 'pending'").await, 0);
    // The next process has a budget of its own, as it were: this is about what was given back.
    db.execute("update targets set budget_used_until = '-infinity'").await;
    let _process = scene.start().await;
    wait_until(&scene.db.pool, ALL_SYNCED).await;
    assert_eq!(scene.db.count("select max(attempts)::bigint from outbox_events").await, 1);
}

#[tokio::test]
async fn nobody_is_claimed_without_a_lane_for_the_request_and_none_is_begun_after_sigterm() {
    let scene = Scene::new().await;
    let process = scene.start_with(&[("FLEXPORTAL_MAX_CONCURRENCY", "2")]).await;
    scene.fake.set_behaviour(Behaviour { latency_ms: 8000, ..Behaviour::default() });
    for n in 1..=6 {
        assert_eq!(process.deliver(change(n, 1)).await.status, 200);
    }
    wait_for_requests(&scene.fake, 2).await;
    assert_eq!(scene.db.count("select count(*) from waiting_customers where lease_id is not null").await, 2);
    process.terminate();
    assert!(process.leaves().await.success());
    assert_eq!(scene.fake.requests().len(), 2, "no more at once, and none was begun after it");
    let left = "select count(*) from waiting_customers where lease_id is null and due_at <= now()";
    assert_eq!(scene.db.count(left).await, 4);
    assert_eq!(scene.db.count("select sum(attempts)::bigint from outbox_events where status = 'pending'").await, 0);
}

#[tokio::test]
async fn at_sigterm_a_webhook_under_way_is_stored_and_answered() {
    let scene = Scene::new().await;
    let process = scene.start().await;
    let hold = scene.db.hold("lock table deliveries in exclusive mode").await;
    let intake = process.intake.clone();
    let sending = tokio::spawn(async move { intake.try_deliver(change(1, 1)).await });
    hold.is_met().await;
    process.terminate();
    process.logs("leaving: finishing what is under way").await;
    hold.release().await;
    assert_eq!(sending.await.expect("no panic").expect("an answer").word(), "accepted");
    assert!(process.leaves().await.success());

    let _process = scene.start().await;
    scene.ends_with(1).await;
}

#[tokio::test]
async fn at_sigterm_intake_goes_on_until_the_worker_has_let_go() {
    let scene = Scene::new().await;
    let process = scene.start().await;
    scene.fake.set_behaviour(Behaviour { latency_ms: 3000, ..Behaviour::default() });
    assert_eq!(process.deliver(change(1, 1)).await.word(), "accepted");
    wait_for_requests(&scene.fake, 1).await;
    process.terminate();
    process.logs("leaving: finishing what is under way").await;

    let ready = process.get("/readyz").await;
    assert_eq!(ready.status, 503);
    assert!(ready.body["detail"].as_str().is_some_and(|why| why.contains("leaving")), "{ready:?}");
    assert_eq!(process.get("/healthz").await.status, 200);
    let delivered = process.deliver(change(2, 2)).await;
    assert_eq!(delivered.word(), "accepted");
    assert_eq!(delivered.headers["connection"], "close", "the next one finds another process, if there is one");
    assert!(scene.fake.requests()[0].ended_at.is_none(), "the worker has not let go yet");
    assert!(process.leaves().await.success());

    assert_eq!(scene.fake.requests().len(), 1, "nothing was begun for it any more");
    scene.fake.set_behaviour(Behaviour::default());
    let _process = scene.start().await;
    wait_until(&scene.db.pool, ALL_SYNCED).await;
    assert_eq!((phone_of(&scene.fake, 1), phone_of(&scene.fake, 2)), (Some(1), Some(2)));
}

#[tokio::test]
async fn whoever_connected_before_the_listener_stopped_is_served() {
    let scene = Scene::new().await;
    let secret = [("GENERIC_WEBHOOK_SECRET", GENERIC_SECRET)];
    let process = Process::start_as(&["--role", "intake"], &scene.db.url, &scene.fake, &secret).await;
    let mut lines = vec![];
    for _ in 0..20 {
        lines.push(process.intake.connect().await);
    }
    // Answered, so those before it were accepted, too.
    assert_eq!(process.deliver(change(1, 1)).await.word(), "accepted");
    process.freeze();
    for _ in 0..20 {
        lines.push(process.intake.connect().await);
    }
    for (n, line) in lines.iter_mut().enumerate() {
        line.send(change(1, 2 + u32::try_from(n).expect("few"))).await;
    }
    process.terminate();
    process.thaw();
    let mut answers = vec![];
    for line in &mut lines {
        answers.push(line.read_to_end().await);
    }
    let asked_at = Instant::now();
    assert!(process.leaves().await.success());
    assert!(asked_at.elapsed() < Duration::from_secs(5), "{:?}: it has nothing else to do", asked_at.elapsed());
    let unserved: Vec<_> = answers.iter().filter(|answer| !answer.starts_with("HTTP/1.1 200")).collect();
    assert!(unserved.is_empty(), "{unserved:?}");
    assert_eq!(scene.db.count("select count(*) from outbox_events").await, 41);
}

#[tokio::test]
async fn a_flexportal_that_hangs_does_not_keep_it_beyond_half_a_minute() {
    let scene = Scene::new().await;
    // The longest that may be configured. Half of the lookups get no answer, and half one that comes late.
    let process = scene.start_with(&[("FLEXPORTAL_TIMEOUT", "20s")]).await;
    scene.fake.set_behaviour(Behaviour { latency_ms: 18_000, ..Behaviour::default() });
    scene.fake.fail_next(4, Failure::Hang);
    for n in 1..=12 {
        assert_eq!(process.deliver(shopify(n, 0, &json!({"phone": "1"}))).await.status, 200);
    }
    wait_for_requests(&scene.fake, 8).await;
    process.terminate();
    let asked_at = Instant::now();
    assert!(process.leaves().await.success());
    assert!(asked_at.elapsed() < LEAVE_WITHIN, "{:?}", asked_at.elapsed());

    assert_eq!(scene.fake.requests().len(), 8, "those in flight, and no more");
    let given_back = "select count(*) from waiting_customers where lease_id is null";
    assert_eq!(scene.db.count(given_back).await, 12);
    assert_eq!(scene.db.count("select count(*) from outbox_events where attempts = 0").await, 8);
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let scene = Scene::new().await;
    let process = scene.start().await;
    scene.fake.fail_next(1, Failure::Hang);
    assert_eq!(process.deliver(change(1, 1)).await.word(), "accepted");
    wait_for_requests(&scene.fake, 1).await;
    process.terminate();
    process.logs("leaving: finishing what is under way").await;
    let asked_at = Instant::now();
    process.terminate();
    assert_eq!(process.leaves().await.code(), Some(1));
    assert!(asked_at.elapsed() < Duration::from_secs(5), "{:?}: FlexPortal hangs for ten", asked_at.elapsed());

    let _process = scene.start().await;
    scene.the_lease_ends().await;
    scene.ends_with(1).await;
}

#[tokio::test]
async fn a_second_signal_that_comes_with_the_first_is_not_missed() {
    let scene = Scene::new().await;
    let process = scene.start().await;
    scene.fake.fail_next(1, Failure::Hang);
    assert_eq!(process.deliver(change(1, 1)).await.word(), "accepted");
    wait_for_requests(&scene.fake, 1).await;
    process.freeze();
    process.terminate();
    process.interrupt();
    process.thaw();
    assert_eq!(process.leaves().await.code(), Some(1));
}
