//! Several processes on one database: one request at a time for a customer, and never an older value after a newer.

use std::ops::RangeInclusive;

use flexportal_sync::fake_flexportal::Behaviour;
use serde_json::json;

use super::{ALL_SYNCED, Scene, change, phone_of, wait_for_requests, wait_until_quiet};
use crate::support::shop::{SHOPIFY_SECRET, shopify};
use crate::support::{Process, wait_until};

#[tokio::test]
async fn two_replicas_of_which_one_is_killed_keep_a_customer_in_order() {
    keep_a_customer_in_order(2).await;
}

#[tokio::test]
async fn three_replicas_of_which_one_is_killed_keep_a_customer_in_order() {
    keep_a_customer_in_order(3).await;
}

async fn keep_a_customer_in_order(replicas: usize) {
    let scene = Scene::new().await;
    let mut processes = Vec::new();
    for _ in 0..replicas {
        processes.push(scene.start().await);
    }
    scene.fake.set_behaviour(Behaviour { latency_ms: 15, ..Behaviour::default() });
    deliver_in_turn(&processes, 1..=40).await;
    scene.ends_with(40).await;
    wait_until(&scene.db.pool, "select count(*) = 0 from waiting_customers").await;

    // The first gets the customer while the others cannot, and dies with a request on its way.
    let killed = processes.remove(0);
    for process in &processes {
        process.freeze();
    }
    scene.fake.set_behaviour(Behaviour { latency_ms: 1_500, ..Behaviour::default() });
    let before = scene.fake.requests().len();
    assert_eq!(killed.deliver(change(1, 41)).await.word(), "accepted");
    wait_for_requests(&scene.fake, before + 1).await;
    for process in &processes {
        process.thaw();
    }
    killed.kill().await;
    scene.fake.set_behaviour(Behaviour { latency_ms: 15, ..Behaviour::default() });
    deliver_in_turn(&processes, 42..=60).await;
    wait_until_quiet(&scene.fake).await;
    assert_eq!(phone_of(&scene.fake, 1), Some(41));
    assert_eq!(scene.fake.requests().len(), before + 1, "the others wait for the lease to end");

    scene.the_lease_ends().await;
    deliver_in_turn(&processes, 61..=80).await;
    scene.ends_with(80).await;
}

/// Each change of `cus_1` is taken in by the next of them.
async fn deliver_in_turn(processes: &[Process], seconds: RangeInclusive<u32>) {
    for (second, process) in seconds.zip(processes.iter().cycle()) {
        assert_eq!(process.deliver(change(1, second)).await.word(), "accepted");
    }
}

#[tokio::test]
async fn a_worker_that_was_frozen_and_wakes_up_writes_nothing() {
    let scene = Scene::new().await;
    let frozen = scene.start().await;
    scene.fake.set_behaviour(Behaviour { latency_ms: 500, ..Behaviour::default() });
    assert_eq!(frozen.deliver(change(1, 1)).await.word(), "accepted");
    wait_for_requests(&scene.fake, 1).await;
    frozen.freeze();
    wait_until_quiet(&scene.fake).await;

    scene.fake.set_behaviour(Behaviour { latency_ms: 2_000, ..Behaviour::default() });
    let other = scene.start().await;
    assert_eq!(other.deliver(change(1, 2)).await.word(), "accepted");
    scene.the_lease_ends().await;
    wait_for_requests(&scene.fake, 2).await;
    frozen.thaw();
    frozen
        .logs("a claim is not ours any more: another worker took it over, or the answer to our own word was lost")
        .await;
    assert_eq!(scene.db.count("select count(*) from sync_attempts").await, 0);
    assert_eq!(scene.db.count("select count(*) from outbox_events where status = 'in_flight'").await, 2);
    scene.ends_with(2).await;
    assert_eq!(scene.db.count("select count(*) from sync_attempts").await, 1);
}

#[tokio::test]
async fn intake_and_worker_run_apart_each_with_its_own_secrets_only() {
    let scene = Scene::new().await;
    let secret = [("SHOPIFY_WEBHOOK_SECRET", SHOPIFY_SECRET)];
    let (url, fake) = (&scene.db.url, &scene.fake);
    let intake = Process::start_as(&["--role", "intake"], url, fake, &secret).await;
    let worker = Process::start_as(&["--role", "worker", "--no-migrate"], url, fake, &[]).await;
    assert_eq!(intake.deliver(shopify(1, 0, &json!({}))).await.status, 200);
    wait_until(&scene.db.pool, ALL_SYNCED).await;
    assert_eq!(worker.deliver(shopify(2, 0, &json!({}))).await.status, 404, "a worker takes no webhooks");
}
