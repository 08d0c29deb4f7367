//! `kill -9` at each point between intake commit, claim, request and settle.
//!
//! What was answered 200 is synced by the next process; what was not answered may be sent again, and is stored once.

use std::time::Duration;

use flexportal_sync::fake_flexportal::{Behaviour, Failure};
use flexportal_sync::outbox::LEASE;
use serde_json::json;

use super::{ALL_SYNCED, Scene, change, phone_of, wait_for_requests, wait_until_quiet};
use crate::support::shop::{Webhook, linked, shopify};
use crate::support::{Hold, Process, eventually, wait_until};

/// A process that has synced a first change of `cus_1`.
async fn synced_once(scene: &Scene, variables: &[(&str, &str)]) -> Process {
    let process = scene.start_with(variables).await;
    assert_eq!(process.deliver(change(1, 1)).await.word(), "accepted");
    wait_until(&scene.db.pool, ALL_SYNCED).await;
    process
}

/// Kills a process that is held before it has answered a webhook.
async fn kill_unanswered(process: Process, webhook: Webhook, hold: &Hold) {
    let intake = process.intake.clone();
    let sending = tokio::spawn(async move { intake.try_deliver(webhook).await });
    hold.is_met().await;
    process.kill().await;
    assert!(sending.await.expect("no panic").is_none(), "nobody answered");
}

/// The next process works, and leaves the claimed customer alone: another one's change goes out meanwhile.
async fn nobody_takes_over(scene: &Scene, process: &Process) {
    let requests = scene.fake.requests().len();
    assert_eq!(process.deliver(change(2, 1)).await.word(), "accepted");
    eventually("the other customer's change", || phone_of(&scene.fake, 2) == Some(1)).await;
    // And is settled: its claim is none that a dead worker left behind.
    wait_until(&scene.db.pool, "select count(*) = 0 from waiting_customers where shop_customer_id = 'shop-2'").await;
    assert_eq!(scene.fake.requests().len(), requests + 1);
}

#[tokio::test]
async fn before_the_intake_commit_nothing_is_stored_and_the_shop_sends_it_again() {
    let scene = Scene::new().await;
    let process = synced_once(&scene, &[]).await;
    let hold = scene.db.hold("lock table deliveries in exclusive mode").await;
    kill_unanswered(process, change(1, 2), &hold).await;
    hold.turn_away().await;
    assert_eq!(scene.db.count("select count(*) from deliveries").await, 1);

    let process = scene.start().await;
    assert_eq!(process.deliver(change(1, 2)).await.word(), "accepted");
    scene.ends_with(2).await;
}

#[tokio::test]
async fn after_the_intake_commit_and_before_the_answer_it_is_stored_once() {
    let scene = Scene::new().await;
    let process = synced_once(&scene, &[]).await;
    // Its customer's place in the queue is taken for a moment; the delivery itself is written already.
    let hold = scene.db.hold(
        "insert into waiting_customers (source, shop_customer_id, target, due_at, first_event_id) \
         values ('generic', 'shop-1', 'default', now(), gen_random_uuid())",
    );
    let hold = hold.await;
    let unanswered = change(1, 2);
    kill_unanswered(process, unanswered.clone(), &hold).await;
    // Postgres has the whole statement, and carries it out for the dead.
    hold.release().await;
    wait_until(&scene.db.pool, "select count(*) = 2 from deliveries").await;

    let process = scene.start().await;
    assert_eq!(process.deliver(unanswered).await.word(), "duplicate");
    scene.ends_with(2).await;
    assert_eq!(scene.db.count("select count(*) from deliveries").await, 2);
}

#[tokio::test]
async fn what_was_answered_200_survives_a_kill_right_after_it() {
    let scene = Scene::new().await;
    let process = scene.start().await;
    for n in 1..=10 {
        assert_eq!(process.deliver(shopify(n, 0, &json!({}))).await.status, 200);
    }
    process.kill().await;
    // Its last statements end, and half a minute passes.
    let own = "select count(*) = 0 from pg_stat_activity \
               where datname = current_database() and application_name = 'flexportal-sync'";
    wait_until(&scene.db.pool, own).await;
    scene.db.execute("update waiting_customers set lease_expires_at = now() where lease_id is not null").await;
    let _process = scene.start().await;
    wait_until(&scene.db.pool, ALL_SYNCED).await;
    assert_eq!(scene.db.count("select count(*) from outbox_events").await, 10);
}

#[tokio::test]
async fn after_the_intake_commit_and_before_the_claim_the_next_process_syncs_it_at_once() {
    let limited = [("FLEXPORTAL_RATE_LIMIT_PER_MINUTE", "600")];
    let scene = Scene::new().await;
    let process = synced_once(&scene, &limited).await;
    let hold = scene.db.hold("select from targets where name = 'default' for update").await;
    assert_eq!(process.deliver(change(1, 2)).await.word(), "accepted");
    hold.is_met().await;
    assert_eq!(scene.db.count("select count(*) from waiting_customers where lease_id is null").await, 1);
    process.kill().await;
    hold.release().await;

    let _process = scene.start_with(&limited).await;
    scene.ends_with(2).await;
}

#[tokio::test]
async fn between_claim_and_request_the_customer_is_taken_over_when_the_lease_ends() {
    let scene = Scene::new().await;
    let process = synced_once(&scene, &[]).await;
    let hold = scene.db.hold("lock table event_states in access exclusive mode").await;
    assert_eq!(process.deliver(change(1, 2)).await.word(), "accepted");
    // The upkeep may wait for that table as well.
    wait_until(&scene.db.pool, "select exists (select from waiting_customers where lease_id is not null)").await;
    hold.is_met().await;
    process.kill().await;
    hold.release().await;
    assert_eq!(scene.fake.requests().len(), 1, "the one before");

    let process = scene.start().await;
    nobody_takes_over(&scene, &process).await;
    scene.the_lease_ends().await;
    scene.ends_with(2).await;
}

#[tokio::test]
async fn during_a_request_nothing_else_is_sent_until_it_cannot_arrive_any_more() {
    let scene = Scene::new().await;
    let process = synced_once(&scene, &[]).await;
    scene.fake.set_behaviour(Behaviour { latency_ms: 2_000, ..Behaviour::default() });
    assert_eq!(process.deliver(change(1, 2)).await.word(), "accepted");
    wait_for_requests(&scene.fake, 2).await;
    process.kill().await;

    // What is newer waits, though FlexPortal would take it at once.
    scene.fake.set_behaviour(Behaviour::default());
    let process = scene.start().await;
    assert_eq!(process.deliver(change(1, 3)).await.word(), "accepted");
    nobody_takes_over(&scene, &process).await;
    wait_until_quiet(&scene.fake).await;
    assert_eq!(phone_of(&scene.fake, 1), Some(2), "the dead worker's request has arrived");
    scene.the_lease_ends().await;
    scene.ends_with(3).await;
}

#[tokio::test]
async fn during_a_request_that_was_carried_out_it_is_repeated_under_the_same_key() {
    let scene = Scene::new().await;
    let process = synced_once(&scene, &[]).await;
    scene.fake.set_behaviour(Behaviour { apply_before_failing: true, ..Behaviour::default() });
    scene.fake.fail_next(1, Failure::Hang);
    assert_eq!(process.deliver(change(1, 2)).await.word(), "accepted");
    eventually("carried out, and not answered", || phone_of(&scene.fake, 1) == Some(2)).await;
    process.kill().await;

    let process = scene.start().await;
    nobody_takes_over(&scene, &process).await;
    scene.the_lease_ends().await;
    assert_repeated(&scene).await;
}

#[tokio::test]
async fn during_a_request_that_was_carried_out_a_value_acknowledged_before_is_sent_again() {
    let scene = Scene::new().await;
    let process = synced_once(&scene, &[]).await;
    scene.fake.set_behaviour(Behaviour { apply_before_failing: true, ..Behaviour::default() });
    scene.fake.fail_next(1, Failure::Hang);
    assert_eq!(process.deliver(change(1, 2)).await.word(), "accepted");
    eventually("carried out, and not answered", || phone_of(&scene.fake, 1) == Some(2)).await;
    process.kill().await;

    // Back to what FlexPortal had acknowledged last, as far as anybody knows.
    let process = scene.start().await;
    assert_eq!(process.deliver(linked(1, 3, &json!({"phone": "1"}))).await.word(), "accepted");
    scene.the_lease_ends().await;
    wait_until(&scene.db.pool, ALL_SYNCED).await;
    assert_eq!(phone_of(&scene.fake, 1), Some(1));
}

#[tokio::test]
async fn between_answer_and_settle_the_request_is_repeated_under_the_same_key() {
    let scene = Scene::new().await;
    let process = synced_once(&scene, &[]).await;
    let hold = scene.db.hold("lock table sync_attempts in exclusive mode").await;
    assert_eq!(process.deliver(change(1, 2)).await.word(), "accepted");
    hold.is_met().await;
    assert_eq!(scene.fake.requests()[1].status, Some(200));
    process.kill().await;
    // Else the server would finish what it was asked by the dead.
    hold.turn_away().await;

    let process = scene.start().await;
    nobody_takes_over(&scene, &process).await;
    scene.the_lease_ends().await;
    assert_repeated(&scene).await;
}

/// The second change of `cus_1` went out twice, as the same request.
async fn assert_repeated(scene: &Scene) {
    scene.ends_with(2).await;
    let mut sent = scene.fake.requests();
    sent.retain(|request| request.path == "/v1/customers/cus_1");
    assert_eq!(sent.len(), 3);
    assert_eq!((&sent[1].idempotency_key, &sent[1].body), (&sent[2].idempotency_key, &sent[2].body));
    assert_ne!(sent[0].idempotency_key, sent[1].idempotency_key);
}

#[tokio::test]
async fn after_the_settle_nothing_is_sent_again() {
    let scene = Scene::new().await;
    let synced = change(1, 2);
    let process = synced_once(&scene, &[]).await;
    assert_eq!(process.deliver(synced.clone()).await.word(), "accepted");
    scene.ends_with(2).await;
    process.kill().await;

    let process = scene.start().await;
    assert_eq!(process.deliver(synced).await.word(), "duplicate");
    nobody_takes_over(&scene, &process).await;
    scene.ends_with(2).await;
}

#[tokio::test]
async fn the_takeover_comes_by_itself_within_the_lease() {
    let scene = Scene::new().await;
    let process = synced_once(&scene, &[]).await;
    scene.fake.fail_next(1, Failure::Hang);
    assert_eq!(process.deliver(change(1, 2)).await.word(), "accepted");
    wait_for_requests(&scene.fake, 2).await;
    process.kill().await;

    let _process = scene.start().await;
    let taken_over = tokio::time::timeout(LEASE + Duration::from_secs(3), scene.fake.wait_for_requests(3));
    taken_over.await.expect("in time");
    let sent = scene.fake.requests();
    let between = (sent[2].received_at - sent[1].received_at).to_std().expect("in order");
    // The claim was a moment before the request.
    let moment = Duration::from_secs(1);
    assert!(between + moment > LEASE, "{between:?}: the lease outlasts the longest request");
    scene.ends_with(2).await;
}
