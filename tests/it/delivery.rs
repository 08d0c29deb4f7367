//! What the promise rests on beside the single request: order over time, turns, pauses, and requests that may still
//! arrive.

use std::time::Duration;

use flexportal_sync::domain::{Acknowledged, EventId, FlexportalCustomerId, ShopCustomerId, SourceName};
use flexportal_sync::fake_flexportal::{Behaviour, Failure, FakeCustomer};
use flexportal_sync::inspect::explained_event;
use flexportal_sync::outbox::{DoneBy, LinkChange, NewLink, Next, Settled, Settlement};
use flexportal_sync::sync::StepOutcome;
use serde_json::{Value, json};

use crate::support::App;
use crate::support::shop::{generic, linked, shopify};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn shopifys_default_address_may_stand_among_the_others_alone() {
    let app = App::start().await;
    let address = |city: &str, default: bool| json!({"address1": "Street 1", "city": city, "zip": "10115", "country_code": "DE", "name": "Ada", "default": default});
    let city = async |second: u32, addresses: Value| {
        let event = app.sync(shopify(1, second, &json!({"default_address": null, "addresses": addresses}))).await;
        let put = app.puts().pop().expect("a request");
        (put["billingAddress"]["city"].as_str().map(str::to_owned), event.warnings.concat())
    };
    assert_eq!(city(0, json!([address("Bonn", false)])).await.0.as_deref(), Some("Bonn"), "the only one");
    let flagged = json!([address("Ulm", false), address("Jena", true), address("Trier", false)]);
    assert_eq!(city(1, flagged).await.0.as_deref(), Some("Jena"));
    let puts = app.puts().len();
    for several in [[address("Ulm", false), address("Trier", false)], [address("Ulm", true), address("Trier", true)]] {
        let (_, warnings) = city(2, json!(several)).await;
        assert!(warnings.contains("which of several `addresses` is the default is not said"), "{warnings}");
    }
    assert_eq!(app.puts().len(), puts, "no guess");
}

#[tokio::test]
async fn an_id_among_shopifys_metafields_is_no_silent_fallback() {
    let file = "[[source]]\nname = 'shopify'\nkind = 'shopify'\nflexportal_id_field = 'fp_id'";
    let app = App::start_with(&[], file).await;
    let metafields = json!({"metafields": [{"key": "fp_id", "value": "cus_9"}]});
    let event = app.sync(shopify(1, 0, &metafields)).await;
    assert_eq!(event.warnings, ["`fp_id` is not at the top of the body, and `metafields` are not read"]);
    for none in [json!([]), json!(null)] {
        let event = app.sync(shopify(2, 0, &json!({"metafields": none}))).await;
        assert_eq!(event.warnings, [""; 0], "there are none");
    }
    assert_eq!(app.sync(shopify(1, 1, &json!({"fp_id": "cus_9"}))).await.flexportal_id.as_deref(), Some("cus_9"));
}

#[tokio::test]
async fn what_was_mended_in_the_shop_closes_the_failed_event() {
    let app = App::start().await;
    app.fake.fail_next(1, Failure::status(422));
    let failed = app.sync(shopify(1, 0, &json!({"phone": "bad"}))).await;
    assert_eq!(failed.status, "failed");
    let mended = app.deliver(shopify(1, 1, &json!({"phone": "+4930"}))).await.event_id();
    app.drain().await;
    assert_eq!(app.event(mended).await.status, "synced");
    assert_eq!(app.count("select count(*) from failed_syncs").await, 0);
    let closed = "select count(*) from outbox_events where status = 'superseded' and last_http_status = 422";
    assert_eq!(app.count(closed).await, 1, "and still tells what had happened");
    assert_eq!(app.count("select count(*) from outbox_events where superseded_by is not null").await, 1);
}

#[tokio::test]
async fn a_failed_event_with_a_word_left_stays_until_that_is_said_too() {
    let app = App::start().await;
    app.fake.fail_next(1, Failure::status(422));
    let failed = app.deliver(linked(1, 0, &json!({"phone": "bad", "company": "C"}))).await.event_id();
    app.drain().await;
    app.sync(linked(1, 1, &json!({"phone": "+4930"}))).await;
    assert_eq!(app.event(failed).await.status, "failed", "nobody has told FlexPortal the company");
    let last = app.deliver(linked(1, 2, &json!({"company": "D"}))).await.event_id();
    app.drain().await;
    let closed = app.event(failed).await;
    assert_eq!((closed.status.as_str(), closed.superseded_by), ("superseded", Some(last)));
}

#[tokio::test]
async fn a_change_given_up_as_unmatched_is_closed_by_a_newer_one_too() {
    let app = App::start_with(&[("UNMATCHED_MAX_AGE", "1s")], "").await;
    let given_up = app.deliver(generic("x", 0, &json!({"email": "new@example.com", "phone": "1"}))).await.event_id();
    app.drain().await;
    app.advance(Duration::from_hours(1));
    app.drain().await;
    assert!(app.event(given_up).await.is_finished);
    app.fake.add_customer(FakeCustomer::new("cus_new", "new@example.com"));
    app.sync(generic("x", 1, &json!({"email": "new@example.com", "phone": "2"}))).await;
    assert_eq!(app.event(given_up).await.status, "superseded");
    assert_eq!(app.count("select count(*) from customer_sync_state where state = 'in_sync'").await, 1);
}

#[tokio::test]
async fn an_older_change_that_arrives_late_closes_nothing() {
    let app = App::start().await;
    app.fake.fail_next(1, Failure::status(422));
    let failed = app.deliver(linked(1, 10, &json!({"phone": "bad"}))).await.event_id();
    app.drain().await;
    assert_eq!(app.sync(linked(1, 5, &json!({"phone": "older"}))).await.status, "synced");
    assert_eq!(app.event(failed).await.status, "failed");
}

#[tokio::test]
async fn nothing_older_reaches_a_customer_that_took_anothers_place() {
    let app = App::start().await;
    app.sync(shopify(3, 10, &json!({"phone": "+4930"}))).await;
    app.fake.remove_customer("cus_3");
    app.fake.add_customer(FakeCustomer {
        phone: Some("+4930".into()),
        ..FakeCustomer::new("cus_m", "customer3@example.com")
    });
    // A word on another field leads to the new customer, and then the late one arrives.
    app.sync(cut_shopify(3, 11, r#"{"first_name": "Eva"}"#)).await;
    assert_eq!(app.puts().last().expect("a put")["customerId"], "cus_m");
    app.sync(cut_shopify(3, 9, r#"{"phone": "+49301"}"#)).await;
    assert_eq!(app.fake.customer("cus_m").expect("there").phone.as_deref(), Some("+4930"));
}

/// A Shopify change cut down to a few fields, as `include_fields` of the subscription does.
fn cut_shopify(n: u32, second: u32, fields: &str) -> crate::support::shop::Webhook {
    let mut body: serde_json::Value = serde_json::from_str(fields).expect("an object");
    body["id"] = json!(7_120_000_000_u64 + u64::from(n));
    body["updated_at"] = json!(format!("2026-11-23T10:00:{second:02}Z"));
    body["email"] = json!(format!("customer{n}@example.com"));
    crate::support::shop::Webhook::new(flexportal_sync::config::ShopKind::Shopify, "customers/update", body.to_string())
}

#[tokio::test]
async fn live_changes_go_before_retries_and_those_before_replays() {
    let app = App::start_with(&[("FLEXPORTAL_RATE_LIMIT_PER_MINUTE", "10")], "").await;
    let step = async || {
        // One request at a time: a tenth of ten.
        app.advance(Duration::from_secs(7));
        assert_eq!(app.worker.step().await.expect("the database"), StepOutcome::Worked(1));
    };
    app.fake.fail_next_for("cus_1", 1, Failure::status(422));
    app.fake.fail_next_for("cus_2", 1, Failure::status(503));
    let replayed = app.deliver(linked(1, 0, &json!({"phone": "1"}))).await.event_id();
    step().await;
    app.deliver(linked(2, 0, &json!({"phone": "2"}))).await;
    step().await;
    sqlx::query("select retry_sync($1)").bind(replayed).execute(&app.db.pool).await.expect("set back");
    // It goes by Postgres' own clock, which is ahead of the one moved by hand, or behind it.
    sqlx::query("update waiting_customers set due_at = '-infinity' where priority = 2")
        .execute(&app.db.pool)
        .await
        .expect("due");
    app.deliver(linked(3, 0, &json!({"phone": "3"}))).await;
    app.fake.forget_requests();
    for _ in 0..3 {
        step().await;
    }
    let order: Vec<_> = app.puts().iter().map(|put| put["phone"].clone()).collect();
    assert_eq!(order, ["3", "2", "1"]);
}

#[tokio::test]
async fn who_has_just_changed_lets_others_go_first_and_keeps_its_place() {
    let app = App::start_with(&[("FLEXPORTAL_RATE_LIMIT_PER_MINUTE", "20")], "").await;
    let step = async |milliseconds| {
        app.advance(Duration::from_millis(milliseconds));
        app.drain().await;
        app.puts().iter().map(|put| put["phone"].clone()).collect::<Vec<_>>()
    };
    // The places that there are at once; then there is one every 3.3 s.
    app.sync(linked(8, 0, &json!({"phone": "8"}))).await;
    app.sync(linked(9, 0, &json!({"phone": "9"}))).await;
    app.fake.forget_requests();
    for (n, phone) in [(1, "old"), (2, "2"), (3, "3")] {
        app.deliver(linked(n, 0, &json!({"phone": phone}))).await;
        app.advance(Duration::from_millis(1));
    }
    app.advance(3 * SECOND);
    let event = app.deliver(linked(1, 3, &json!({"phone": "new"}))).await.event_id();
    let why = explained_event(&app.outbox, EventId(event)).await.expect("the database").expect("stored").explanation;
    assert!(why.contains("has just changed, and for 5 s others go first"), "{why}");
    app.advance(Duration::from_millis(2_500));
    assert_eq!(step(0).await, ["2"], "the other was the first in line, but changed 2.5 s ago");
    assert_eq!(step(2_300).await, ["2", "3"], "4.8 s ago");
    app.deliver(linked(4, 4, &json!({"phone": "4"}))).await;
    assert_eq!(step(3_400).await, ["2", "3", "new"], "its place was kept, and one request says it all");
    assert_eq!(step(3_400).await, ["2", "3", "new", "4"]);
}

#[tokio::test]
async fn who_never_is_quiet_goes_after_ten_seconds_though_others_wait() {
    for (waited, goes_first) in [(9_900, "quiet"), (10_100, "restless")] {
        let app = App::start_with(&[("FLEXPORTAL_RATE_LIMIT_PER_MINUTE", "10")], "").await;
        app.sync(linked(9, 0, &json!({"phone": "9"}))).await;
        app.fake.forget_requests();
        app.deliver(linked(1, 0, &json!({"phone": "restless"}))).await;
        app.advance(Duration::from_millis(1));
        app.deliver(linked(2, 0, &json!({"phone": "quiet"}))).await;
        app.advance(Duration::from_millis(waited - 1));
        app.deliver(linked(1, 1, &json!({"phone": "restless"}))).await;
        app.drain().await;
        let phones: Vec<_> = app.puts().iter().map(|put| put["phone"].clone()).collect();
        assert_eq!(phones, [goes_first], "after {waited} ms");
    }
}

#[tokio::test]
async fn who_was_asked_for_in_vain_is_not_asked_for_before_others() {
    let app =
        App::start_with(&[("FLEXPORTAL_RATE_LIMIT_PER_MINUTE", "40"), ("FLEXPORTAL_MAX_CONCURRENCY", "1")], "").await;
    // Four places at once; two of them tell that nobody has this address.
    let unknown = |second, phone| generic("unknown", second, &json!({"email": "nobody@example.com", "phone": phone}));
    let event = app.sync(unknown(0, "1")).await;
    assert_eq!((event.status.as_str(), app.lookups()), ("unmatched", 2));
    app.sync(linked(8, 0, &json!({"phone": "8"}))).await;
    app.sync(linked(9, 0, &json!({"phone": "9"}))).await;
    app.fake.forget_requests();
    app.deliver(unknown(1, "2")).await;
    app.advance(Duration::from_millis(1));
    app.deliver(linked(2, 0, &json!({"phone": "quiet"}))).await;
    app.advance(6 * SECOND);
    app.deliver(unknown(2, "3")).await;
    let steps = app.worker.step().await.expect("the database");
    assert_ne!(steps, StepOutcome::Idle);
    assert_eq!(app.fake.requests().first().map(|request| request.method.as_str().to_owned()), Some("PUT".to_owned()));
}

#[tokio::test]
async fn where_nobody_else_waits_nobody_is_waited_for() {
    let app = App::start_with(&[("FLEXPORTAL_RATE_LIMIT_PER_MINUTE", "10")], "").await;
    app.sync(linked(9, 0, &json!({"phone": "9"}))).await;
    app.fake.forget_requests();
    app.deliver(linked(1, 0, &json!({"phone": "old"}))).await;
    app.advance(7 * SECOND);
    app.deliver(linked(1, 1, &json!({"phone": "new"}))).await;
    app.drain().await;
    assert_eq!(app.puts().len(), 1, "the place is used");
    assert_eq!(app.puts()[0]["phone"], "new");
}

#[tokio::test]
async fn who_has_just_changed_is_found_meanwhile_and_only_once() {
    let app = App::start_with(&[("FLEXPORTAL_RATE_LIMIT_PER_MINUTE", "10")], "").await;
    app.sync(linked(9, 0, &json!({"phone": "9"}))).await;
    app.fake.forget_requests();
    app.deliver(shopify(1, 0, &json!({"phone": "old"}))).await;
    app.advance(SECOND);
    app.deliver(linked(2, 0, &json!({"phone": "2"}))).await;
    app.advance(6 * SECOND);
    app.deliver(shopify(1, 1, &json!({"phone": "new"}))).await;
    let step = async || {
        app.drain().await;
        app.advance(7 * SECOND);
        let phones: Vec<_> = app.puts().iter().map(|put| put["phone"].clone()).collect();
        (app.lookups(), phones)
    };
    assert_eq!(step().await, (1, vec![]), "the answer holds, however often it changes");
    assert_eq!(app.count("select count(*) from customer_links where origin = 'lookup'").await, 1);
    assert_eq!(step().await, (1, vec![json!("new")]));
    assert_eq!(step().await, (1, vec![json!("new"), json!("2")]));
}

#[tokio::test]
async fn of_those_who_have_just_changed_the_known_one_waits_for_the_quiet_ones() {
    let app = App::start_with(&[("FLEXPORTAL_RATE_LIMIT_PER_MINUTE", "10")], "").await;
    app.deliver(shopify(1, 0, &json!({"phone": "0"}))).await;
    for _ in 0..3 {
        app.drain().await;
        app.advance(Duration::from_mins(1));
    }
    assert_eq!(app.puts().len(), 1);
    app.fake.forget_requests();
    app.sync(linked(9, 0, &json!({"phone": "9"}))).await;
    app.deliver(shopify(1, 1, &json!({"phone": "old"}))).await;
    app.advance(SECOND);
    app.deliver(linked(2, 0, &json!({"phone": "2"}))).await;
    app.advance(6 * SECOND);
    app.deliver(shopify(1, 2, &json!({"phone": "new"}))).await;
    app.drain().await;
    let phones: Vec<_> = app.puts().iter().map(|put| put["phone"].clone()).collect();
    assert_eq!((app.lookups(), phones.as_slice()), (0, &[json!("9"), json!("2")][..]));
}

#[tokio::test]
async fn without_a_quota_nobody_goes_first() {
    let app = App::start_with(&[("FLEXPORTAL_MAX_CONCURRENCY", "1")], "").await;
    app.deliver(linked(1, 0, &json!({"phone": "old"}))).await;
    app.advance(SECOND);
    app.deliver(linked(2, 0, &json!({"phone": "2"}))).await;
    app.advance(6 * SECOND);
    app.deliver(linked(1, 1, &json!({"phone": "new"}))).await;
    app.drain().await;
    let phones: Vec<_> = app.puts().iter().map(|put| put["phone"].clone()).collect();
    assert_eq!(phones, ["new", "2"]);
}

#[tokio::test]
async fn a_newer_change_of_a_customer_that_waits_for_its_retry_is_live() {
    let app = App::start().await;
    app.fake.fail_next(1, Failure::status(503));
    app.deliver(linked(1, 0, &json!({"phone": "1"}))).await;
    app.drain().await;
    let priority = "select priority::bigint from waiting_customers";
    assert_eq!(app.count(priority).await, 1);
    app.deliver(linked(1, 1, &json!({"phone": "2"}))).await;
    assert_eq!(app.count(priority).await, 0);
    app.drain().await;
    assert_eq!(app.puts().len(), 2);
}

#[tokio::test]
async fn after_a_timeout_the_customer_rests_until_the_request_cannot_arrive_any_more() {
    // Under way for twice the time limit and five seconds at the longest: 25 s after it was begun.
    let app = App::start_with(&[("FLEXPORTAL_TIMEOUT", "100ms")], "").await;
    app.fake.fail_next(1, Failure::Hang);
    app.deliver(linked(1, 0, &json!({"phone": "old"}))).await;
    app.drain().await;
    let newer = app.deliver(linked(1, 1, &json!({"phone": "new"}))).await.event_id();
    app.advance(Duration::from_secs(5));
    assert_eq!(app.worker.step().await.expect("the database"), StepOutcome::Idle, "the newer one waits as well");
    let event = app.event(newer).await;
    assert_eq!(event.status, "pending");
    assert!(event.next_attempt_at.expect("waits") > app.clock.now());
    app.advance(SECOND);
    app.drain().await;
    assert_eq!(app.event(newer).await.status, "synced");
    assert_eq!(app.puts().len(), 2);
}

#[tokio::test]
async fn after_any_request_of_unknown_fate_the_newer_change_waits_too() {
    for failure in [Failure::Drop, Failure::status(502), Failure::status(504)] {
        let app = App::start_with(&[("FLEXPORTAL_TIMEOUT", "1s")], "").await;
        app.fake.fail_next(1, failure.clone());
        app.deliver(linked(1, 0, &json!({"phone": "old"}))).await;
        app.drain().await;
        let newer = app.deliver(linked(1, 1, &json!({"phone": "new"}))).await.event_id();
        app.advance(6 * SECOND);
        assert_eq!(app.worker.step().await.expect("the database"), StepOutcome::Idle, "{failure:?}");
        app.advance(SECOND);
        app.drain().await;
        assert_eq!((app.event(newer).await.status.as_str(), app.puts().len()), ("synced", 2), "{failure:?}");
    }
}

#[tokio::test]
async fn what_was_answered_or_never_sent_is_not_waited_for() {
    let app = App::start().await;
    for (n, failure) in (1..).zip([Failure::status(500), Failure::status(503), Failure::CloseHalfway, Failure::Garbage])
    {
        app.fake.fail_next(1, failure.clone());
        app.deliver(linked(n, 0, &json!({"phone": "old"}))).await;
        app.drain().await;
        let newer = app.sync(linked(n, 1, &json!({"phone": "new"}))).await;
        assert_eq!(newer.status, "synced", "{failure:?}");
    }
    // Nobody listens at this address any more.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port");
    let app = App::start_with(&[("FLEXPORTAL_BASE_URL", &format!("http://{nobody}"))], "").await;
    app.deliver(linked(1, 0, &json!({"phone": "old"}))).await;
    app.drain().await;
    let newer = app.deliver(linked(1, 1, &json!({"phone": "new"}))).await.event_id();
    app.drain().await;
    let event = app.event(newer).await;
    assert_eq!((event.attempts, event.error_code.as_deref()), (1, Some("UNREACHED")), "tried at once");
}

#[tokio::test]
async fn an_old_value_that_arrives_after_the_timeout_is_not_the_last_word() {
    let app = App::start_with(&[("FLEXPORTAL_TIMEOUT", "200ms")], "").await;
    app.fake.set_behaviour(Behaviour { latency_ms: 1_000, ..Behaviour::default() });
    let running = running(&app);
    app.deliver(linked(1, 0, &json!({"phone": "old"}))).await;
    app.fake.wait_for_requests(1).await;
    app.fake.set_behaviour(Behaviour::default());
    app.deliver(linked(1, 1, &json!({"phone": "new"}))).await;
    // FlexPortal takes its time with the old one, and by then nothing newer may have been sent.
    let applied = async {
        while app.fake.customer("cus_1").expect("there").phone.as_deref() != Some("old") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(20 * SECOND, applied).await.expect("it arrives late");
    assert_eq!(app.puts().len(), 1);
    app.advance(Duration::from_secs(6));
    let second = tokio::time::timeout(20 * SECOND, app.fake.wait_for_requests(2));
    second.await.expect("the newer one goes out by itself");
    running.stop().await;
    assert_eq!(app.fake.customer("cus_1").expect("there").phone.as_deref(), Some("new"));
}

#[tokio::test]
async fn nothing_older_follows_a_change_of_unknown_fate() {
    let app = App::start_with(&[("FLEXPORTAL_TIMEOUT", "100ms"), ("RETRY_MAX_ATTEMPTS", "1")], "").await;
    app.fake.set_behaviour(Behaviour { apply_before_failing: true, ..Behaviour::default() });
    app.fake.fail_next(1, Failure::Hang);
    let newer = app.deliver(linked(1, 10, &json!({"phone": "new"}))).await.event_id();
    app.drain().await;
    assert_eq!(app.event(newer).await.status, "failed");
    assert_eq!(app.fake.customer("cus_1").expect("there").phone.as_deref(), Some("new"), "it was carried out");
    app.advance(Duration::from_secs(6));
    let older = app.sync(linked(1, 5, &json!({"phone": "old"}))).await;
    assert_eq!((older.status.as_str(), older.superseded_by), ("superseded", Some(newer)));
    assert_eq!(app.puts().len(), 1);

    sqlx::query("select retry_sync($1)").bind(newer).execute(&app.db.pool).await.expect("set back");
    sqlx::query("update waiting_customers set due_at = '-infinity'").execute(&app.db.pool).await.expect("due");
    app.drain().await;
    assert_eq!(app.event(newer).await.status, "synced", "its own word still goes out");
}

#[tokio::test]
async fn what_was_erased_is_nowhere_any_more_and_what_waited_is_not_sent() {
    let app = App::start().await;
    let marked = json!({"first_name": "Marked", "phone": "marked-phone", "email": "customer1@example.com"});
    app.sync(shopify(1, 0, &marked)).await;
    app.fake.fail_next(1, Failure::status(503));
    let waits = app.deliver(shopify(1, 1, &json!({"first_name": "Marked-2"}))).await.event_id();
    app.drain().await;
    let source = SourceName::parse("shopify").expect("a name");
    let customers = app.outbox.customers_with_email(&source, "Customer1@Example.com").await.expect("asked");
    let [customer] = customers.as_slice() else { panic!("{customers:?}") };
    let erased = app
        .outbox
        .erase(&source, customer, None, DoneBy::Terminal)
        .await
        .expect("the database")
        .expect("nobody has it");
    assert_eq!((erased.events, erased.closed), (2, 1));

    for sql in [
        "select count(*) from deliveries d where d::text ilike '%marked%' or d::text like '%@example.com%'",
        "select count(*) from event_states s where s::text ilike '%marked%'",
        "select count(*) from sync_attempts a where a::text ilike '%marked%' or a::text like '%@example.com%'",
        "select count(*) from customer_links l where l::text like '%hash%'",
        "select count(*) from waiting_customers",
    ] {
        assert_eq!(app.count(sql).await, 0, "{sql}");
    }
    let event = app.event(waits).await;
    assert_eq!((event.status.as_str(), event.error_code.as_deref()), ("discarded", Some("ERASED")));
    let sent = app.puts().len();
    app.advance(Duration::from_hours(1));
    app.drain().await;
    assert_eq!(app.puts().len(), sent);
    app.sync(shopify(1, 0, &json!({"first_name": "Older"}))).await;
    assert_eq!(app.puts().len(), sent, "what was said is said");
}

#[tokio::test]
async fn a_customer_is_not_erased_under_the_hands_of_a_worker() {
    let app = App::start().await;
    app.deliver(linked(1, 0, &json!({"phone": "1"}))).await;
    let target = flexportal_sync::domain::TargetName::parse("default").expect("a name");
    app.outbox.claim(&target, 1).await.expect("claimed, and then it died");
    let source = SourceName::parse("generic").expect("a name");
    let customer = ShopCustomerId::parse("shop-1").expect("an id");
    assert_eq!(app.outbox.erase(&source, &customer, None, DoneBy::Terminal).await.expect("the database"), None);
    app.advance(Duration::from_secs(30));
    assert!(app.outbox.erase(&source, &customer, None, DoneBy::Terminal).await.expect("the database").is_some());
    app.drain().await;
    assert!(app.puts().is_empty());
}

/// The worker of an app in its own loop.
struct RunningWorker(tokio_util::sync::CancellationToken, tokio::task::JoinHandle<()>);

fn running(app: &App) -> RunningWorker {
    let shutdown = tokio_util::sync::CancellationToken::new();
    RunningWorker(shutdown.clone(), tokio::spawn(app.worker.clone().run(shutdown)))
}

impl RunningWorker {
    async fn stop(self) {
        self.0.cancel();
        self.1.await.expect("no panic");
    }
}

#[tokio::test]
async fn many_failures_in_a_row_pause_the_target_and_one_probe_ends_it() {
    let app = App::start().await;
    app.fake.set_behaviour(Behaviour { error_rate: 1.0, error_status: 503, ..Behaviour::default() });
    for n in 1..=20 {
        app.deliver(linked(n, 0, &json!({"phone": n.to_string()}))).await;
    }
    app.drain().await;
    let sent = app.puts().len();
    assert!((10..=16).contains(&sent), "{sent}: ten in a row, and what was in flight beside them");
    assert_eq!(app.count("select count(*) from sync_backlog where hold_reason = 'failing'").await, 1);

    let attempts = app.count("select sum(attempts) from outbox_events").await;
    app.advance(Duration::from_secs(30));
    app.drain().await;
    assert_eq!(app.puts().len(), sent + 1, "one probe");
    assert_eq!(app.count("select sum(attempts) from outbox_events").await, attempts, "which costs no attempt");
    let probed = app.puts().pop().expect("a put")["customerId"].clone();

    app.fake.set_behaviour(Behaviour::default());
    app.advance(Duration::from_secs(30));
    app.drain().await;
    let second = app.puts()[sent + 1]["customerId"].clone();
    assert_ne!(probed, second, "another customer's turn: what if the first was the one at fault?");
    assert_eq!(app.count("select count(*) from targets where hold_reason is not null").await, 0);
    app.advance(Duration::from_mins(1));
    app.drain().await;
    assert_eq!(app.count("select count(*) from outbox_events where status <> 'synced'").await, 0);
}

#[tokio::test]
async fn one_customer_that_always_fails_does_not_stop_the_others() {
    let app = App::start_with(&[("RETRY_MAX_ATTEMPTS", "30")], "").await;
    app.fake.fail_next_for("cus_1", 30, Failure::status(500));
    let poison = app.deliver(linked(1, 0, &json!({"phone": "1"}))).await.event_id();
    for _ in 0..15 {
        app.drain().await;
        app.advance(Duration::from_hours(1));
    }
    assert_eq!(app.event(poison).await.attempts, 15);
    assert_eq!(app.sync(linked(2, 0, &json!({"phone": "2"}))).await.status, "synced");
}

#[tokio::test]
async fn what_is_held_is_not_sent_by_those_who_had_leave_before() {
    let app = App::start().await;
    // All eight are claimed together; the first answer holds the target while the others still look customers up.
    let limited = Failure::Status { status: 429, code: "RATE_LIMITED".into(), retry_after: Some("60".into()) };
    app.fake.fail_next(8, limited);
    for n in 1..=8 {
        app.deliver(shopify(n, 0, &json!({}))).await;
    }
    app.drain().await;
    assert!(app.fake.requests().len() <= 8);
    assert_eq!(app.count("select sum(attempts) from outbox_events").await, 0);
    app.fake.forget_requests();
    app.advance(Duration::from_secs(59));
    app.drain().await;
    assert!(app.fake.requests().is_empty());
}

#[tokio::test]
async fn without_a_limit_the_budget_is_not_even_looked_at() {
    let app = App::start().await;
    let row = "select xmin::text::bigint from targets where name = 'default'";
    let before = app.count(row).await;
    for n in 1..=5 {
        app.sync(linked(n, 0, &json!({"phone": "1"}))).await;
    }
    assert_eq!(app.count(row).await, before, "the row is as it was, and was not locked");
    assert_eq!(app.count("select xmax::text::bigint from targets where name = 'default'").await, 0);
}

#[tokio::test]
async fn an_event_that_cannot_be_read_fails_alone() {
    let app = App::start().await;
    let bad = app.deliver(linked(1, 0, &json!({"phone": "1"}))).await.event_id();
    let good = app.deliver(linked(1, 1, &json!({"company": "C"}))).await.event_id();
    sqlx::query("update deliveries set payload = '[]' where id = $1")
        .bind(bad)
        .execute(&app.db.pool)
        .await
        .expect("spoilt");
    app.drain().await;
    assert_eq!(app.event(good).await.status, "synced");
    let event = app.event(bad).await;
    assert_eq!((event.status.as_str(), event.error_code.as_deref()), ("failed", Some("UNREADABLE")));
}

#[tokio::test]
async fn a_row_that_nobody_can_have_written_fails_its_customer_and_nobody_else() {
    let app = App::start().await;
    app.sync(linked(1, 0, &json!({"phone": "1"}))).await;
    sqlx::query(r#"update customer_links set acknowledged = '{"nonsense": 1}'"#)
        .execute(&app.db.pool)
        .await
        .expect("spoilt");
    let spoilt = app.deliver(linked(1, 1, &json!({"phone": "2"}))).await.event_id();
    let other = app.deliver(linked(2, 0, &json!({"phone": "2"}))).await.event_id();
    app.drain().await;
    assert_eq!(app.event(other).await.status, "synced");
    let event = app.event(spoilt).await;
    assert_eq!((event.status.as_str(), event.error_code.as_deref()), ("failed", Some("INTERNAL")));
    assert!(event.error.expect("a reason").contains("cannot be read"));
}

#[tokio::test]
async fn a_lookup_counts_against_the_budget() {
    let app = App::start_with(&[("FLEXPORTAL_RATE_LIMIT_PER_MINUTE", "20")], "").await;
    app.fake.add_customer(FakeCustomer::new("cus_gone", "gone@example.com").inactive());
    let running = running(&app);
    // Two lookups and a PUT, of which a tenth of twenty may go out at once.
    let id = app.deliver(generic("x", 0, &json!({"email": "gone@example.com", "phone": "1"}))).await.event_id();
    tokio::time::timeout(20 * SECOND, app.fake.wait_for_requests(2)).await.expect("two at once");
    assert!(!app.event(id).await.is_finished);
    app.advance(Duration::from_secs(4));
    tokio::time::timeout(20 * SECOND, app.fake.wait_for_requests(3)).await.expect("the third in its time");
    running.stop().await;
    assert_eq!(app.event(id).await.status, "synced");
}

#[tokio::test]
async fn what_a_dead_worker_may_have_sent_is_doubted_until_something_is_acknowledged() {
    let app = App::start().await;
    let target = flexportal_sync::domain::TargetName::parse("default").expect("a name");
    for (n, what_meets_the_next) in
        [Failure::status(429), Failure::status(401), Failure::status(422)].into_iter().enumerate()
    {
        let n = u32::try_from(n).expect("few") + 1;
        app.sync(linked(n, 0, &json!({"phone": "one"}))).await;
        // It is claimed and, for all that anybody knows, sent; then the worker dies.
        app.deliver(linked(n, 1, &json!({"phone": "two"}))).await;
        assert_eq!(app.outbox.claim(&target, 1).await.expect("claimed").len(), 1);
        app.advance(SECOND * 31);
        // Whoever takes over is turned away before it can say it once more.
        app.fake.fail_next(1, what_meets_the_next);
        app.worker.step().await.expect("the database");
        app.advance(SECOND * 61);
        // The shop takes it back.
        let undone = app.deliver(linked(n, 2, &json!({"phone": "one"}))).await.event_id();
        app.drain().await;
        assert_eq!(app.event(undone).await.status, "synced", "{n}");
        assert_eq!(app.puts().last().expect("a put")["phone"], "one");
        app.drain().await;
    }
}

#[tokio::test]
async fn a_deactivation_of_ours_is_taken_back_though_a_fault_came_between() {
    let app = App::start_with(&[("RETRY_MAX_ATTEMPTS", "12")], "").await;
    let topic = |topic: &str, second| crate::support::shop::shopify_topic(topic, 6, second, &json!({}));
    app.sync(topic("customers/disable", 1)).await;
    app.fake.fail_next(1, Failure::status(503));
    let enabled = app.deliver(topic("customers/enable", 2)).await.event_id();
    app.drain().await;
    app.advance(SECOND * 5);
    app.drain().await;
    assert_eq!(app.event(enabled).await.status, "synced");
    assert_eq!(app.puts().last().expect("a put")["status"], "active");

    // One that nobody knows to have been carried out, and that was given up, is taken back as well.
    app.fake.fail_next(12, Failure::status(503));
    app.deliver(topic("customers/disable", 3)).await;
    for _ in 0..12 {
        app.drain().await;
        app.advance(Duration::from_mins(15));
    }
    assert_eq!(app.count("select count(*) from failed_syncs").await, 1);
    app.sync(topic("customers/enable", 4)).await;
    assert_eq!(app.puts().last().expect("a put")["status"], "active");
    // And once only: what staff sets afterwards stays.
    app.sync(crate::support::shop::shopify_topic("customers/enable", 6, 5, &json!({"first_name": "Eva"}))).await;
    assert!(app.puts().last().expect("a put").get("status").is_none());
}

#[tokio::test]
async fn a_link_that_a_person_gives_stands_whatever_was_under_way() {
    let app = App::start().await;
    let target = flexportal_sync::domain::TargetName::parse("default").expect("a name");
    app.sync(linked(1, 0, &json!({"phone": "1"}))).await;
    app.deliver(generic("shop-1", 1, &json!({"phone": "2"}))).await;
    let mut claimed = app.outbox.claim(&target, 1).await.expect("claimed").pop().expect("a customer");
    app.outbox.read(&mut claimed).await.expect("read");
    let cus = |n: u32| FlexportalCustomerId::parse(format!("cus_{n}")).expect("an id");
    let link = NewLink { source: claimed.source.clone(), customer: claimed.customer.clone(), flexportal_id: cus(2) };
    assert_eq!(app.outbox.import_links(&[link], DoneBy::Terminal).await.expect("imported").imported, 1);
    // What was under way to the other one is acknowledged only now.
    let acknowledged = LinkChange::Acknowledged {
        flexportal_id: cus(1),
        origin: None,
        acknowledged: Acknowledged::default(),
        occurred_at: None,
        synced_at: None,
        email: None,
        status_shown: None,
    };
    let settlement = Settlement { link: acknowledged, ..Settlement::nothing(Next::Done) };
    let settled = app.outbox.settle(&claimed, &settlement).await.expect("settled");
    assert_eq!(settled, Settled::StillWaiting, "it is synced once more, to the one that was given");
    let linked_to = "select count(*) from customer_links where flexportal_customer_id = 'cus_2' and origin = 'import'";
    assert_eq!(app.count(linked_to).await, 1);
    app.drain().await;
    assert_eq!(app.puts().last().expect("a put")["customerId"], "cus_2");
}

#[tokio::test]
async fn who_was_turned_away_by_a_rate_limit_keeps_its_place() {
    let app = App::start_with(&[("FLEXPORTAL_MAX_CONCURRENCY", "1")], "").await;
    for n in 1..=3 {
        app.deliver(linked(n, n, &json!({"phone": "1"}))).await;
        app.advance(SECOND);
    }
    app.fake.fail_next(1, Failure::status(429));
    app.worker.step().await.expect("the database");
    app.advance(SECOND * 61);
    app.worker.step().await.expect("the database");
    assert_eq!(app.puts().last().expect("a put")["customerId"], "cus_1", "the first in line is still the first");
}

#[tokio::test]
async fn what_was_said_is_remembered_of_a_customer_that_flexportal_lost_and_found_again() {
    let app = App::start().await;
    app.sync(linked(1, 10, &json!({"phone": "new"}))).await;
    app.fake.remove_customer("cus_1");
    assert_eq!(app.sync(generic("shop-1", 11, &json!({"company": "A"}))).await.status, "unmatched");
    assert_eq!(app.count("select count(*) from customer_links where missing_since is null").await, 0);
    app.fake.add_customer(FakeCustomer::numbered(1));
    let late = app.deliver(generic("shop-1", 5, &json!({"phone": "old"}))).await.event_id();
    app.sync(linked(1, 12, &json!({"company": "B"}))).await;
    assert_eq!(app.puts().last(), Some(&json!({"customerId": "cus_1", "company": "B"})));
    assert_eq!(app.event(late).await.status, "superseded", "however late it is");
    assert_eq!(app.count("select count(*) from customer_links where flexportal_customer_id = 'cus_1'").await, 1);
}
