//! From a stored event to the PUT, and what becomes of it.

use std::time::Duration;

use flexportal_sync::fake_flexportal::{
    Behaviour, Failure, FakeCustomer, FakeStatus, Gateway, GatewayRequests, Refusal,
};
use flexportal_sync::sync::StepOutcome;
use serde_json::json;
use sqlx::Row;

use crate::support::shop::{generic, linked, shopify, shopify_topic};
use crate::support::{App, in_time};

const HOUR: Duration = Duration::from_hours(1);

#[tokio::test]
async fn a_change_becomes_one_put_with_the_documented_fields() {
    let app = App::start().await;
    let event = app.sync(linked(1, 0, &json!({"firstName": "Ada", "phone": "+49301"}))).await;
    assert_eq!((event.status.as_str(), event.attempts, event.http_status), ("synced", 1, Some(200)));
    assert_eq!(event.flexportal_id.as_deref(), Some("cus_1"));
    assert!(event.is_finished && event.next_attempt_at.is_none());
    assert_eq!(app.puts(), [json!({"customerId": "cus_1", "firstName": "Ada", "phone": "+49301"})]);
    assert_eq!(app.lookups(), 0, "the event carried the id");
    assert_eq!(app.count("select count(*) from waiting_customers").await, 0);
    assert_eq!(app.count("select count(*) from sync_attempts where request_body ->> 'firstName' = 'Ada'").await, 1);
}

#[tokio::test]
async fn a_customer_is_looked_up_by_email_once_and_linked() {
    let app = App::start().await;
    app.sync(shopify(3, 0, &json!({}))).await;
    assert_eq!((app.lookups(), app.puts().len()), (1, 1));
    app.sync(shopify(3, 1, &json!({"first_name": "Eva"}))).await;
    assert_eq!((app.lookups(), app.puts().len()), (1, 2), "the link is used");
    let links = "select count(*) from customer_links where flexportal_customer_id = 'cus_3' and origin = 'lookup'";
    assert_eq!(app.count(links).await, 1);
}

#[tokio::test]
async fn an_inactive_customer_is_found_by_the_second_question() {
    let app = App::start().await;
    app.fake.add_customer(FakeCustomer::new("cus_gone", "gone@example.com").inactive());
    let event = app.sync(generic("x", 0, &json!({"email": "gone@example.com", "phone": "1"}))).await;
    assert_eq!((event.status.as_str(), event.flexportal_id.as_deref()), ("synced", Some("cus_gone")));
    assert_eq!(app.lookups(), 2);
}

#[tokio::test]
async fn an_email_in_capitals_is_asked_for_in_lower_case_too() {
    let app = App::start().await;
    let event = app.sync(generic("x", 0, &json!({"email": "Customer4@Example.com", "phone": "1"}))).await;
    assert_eq!(event.flexportal_id.as_deref(), Some("cus_4"));
}

#[tokio::test]
async fn several_customers_with_one_email_are_never_guessed_at() {
    let app = App::start().await;
    app.fake.add_customer(FakeCustomer::new("cus_a", "twin@example.com"));
    app.fake.add_customer(FakeCustomer::new("cus_b", "twin@example.com"));
    let event = app.sync(generic("x", 0, &json!({"email": "twin@example.com", "phone": "1"}))).await;
    assert_eq!(event.status, "unmatched");
    assert!(event.error.expect("a reason").contains("several"));
    assert!(app.puts().is_empty());
}

#[tokio::test]
async fn two_customers_whose_emails_differ_in_case_only_are_never_guessed_at() {
    let app = App::start().await;
    app.fake.add_customer(FakeCustomer::new("cus_a", "Twin@example.com"));
    app.fake.add_customer(FakeCustomer::new("cus_b", "twin@example.com"));
    let event = app.sync(generic("x", 0, &json!({"email": "Twin@example.com", "phone": "1"}))).await;
    assert_eq!(event.status, "unmatched");
    assert!(app.puts().is_empty());
}

#[tokio::test]
async fn an_unknown_customer_is_unmatched_and_looked_for_again_each_interval() {
    let app = App::start().await;
    let id = app.deliver(generic("x", 0, &json!({"email": "new@example.com", "phone": "1"}))).await.event_id();
    app.drain().await;
    let event = app.event(id).await;
    assert_eq!((event.status.as_str(), event.attempts, event.is_finished), ("unmatched", 0, false));
    assert_eq!(app.count("select count(*) from failed_syncs").await, 0, "unmatched is not failed");
    let age = "select count(*) from sync_backlog b, outbox_events e
        where b.oldest_received_at = date_trunc('milliseconds', e.received_at)
          and b.oldest_wait between now() - e.received_at and now() - e.received_at + interval '1 s'";
    assert_eq!(app.count(age).await, 1, "it is as old as its oldest event, however late the next look is");

    app.advance(Duration::from_secs(59 * 60 + 59));
    assert_eq!(app.worker.step().await.expect("the database"), StepOutcome::Idle);
    app.fake.add_customer(FakeCustomer::new("cus_new", "new@example.com"));
    app.advance(Duration::from_secs(1));
    app.drain().await;
    let event = app.event(id).await;
    assert_eq!((event.status.as_str(), event.error), ("synced", None));
}

#[tokio::test]
async fn the_next_event_of_an_unmatched_customer_is_tried_at_once() {
    let app = App::start().await;
    let first = app.deliver(generic("x", 0, &json!({"email": "new@example.com", "phone": "1"}))).await.event_id();
    app.drain().await;
    app.fake.add_customer(FakeCustomer::new("cus_new", "new@example.com"));
    let second = app.sync(generic("x", 1, &json!({"company": "C"}))).await;
    assert_eq!(second.status, "synced");
    assert_eq!(app.event(first).await.status, "superseded");
    assert_eq!(app.puts(), [json!({"customerId": "cus_new", "phone": "1", "company": "C"})]);
}

#[tokio::test]
async fn an_unmatched_event_is_given_up_after_its_time() {
    let app = App::start_with(&[("UNMATCHED_MAX_AGE", "2h")], "").await;
    let id = app.deliver(generic("x", 0, &json!({"email": "new@example.com"}))).await.event_id();
    let with_a_value = app.deliver(generic("x", 1, &json!({"phone": "1"}))).await.event_id();
    app.drain().await;
    for _ in 0..2 {
        app.advance(HOUR);
        app.drain().await;
    }
    let event = app.event(with_a_value).await;
    assert_eq!((event.status.as_str(), event.is_finished, event.next_attempt_at), ("unmatched", true, None));
    assert!(app.event(id).await.is_finished);
    assert_eq!(app.count("select count(*) from waiting_customers").await, 0);
}

#[tokio::test]
async fn an_older_event_never_causes_a_put() {
    let app = App::start().await;
    let newer = app.deliver(linked(1, 10, &json!({"phone": "new"}))).await.event_id();
    app.drain().await;
    let older = app.sync(linked(1, 5, &json!({"phone": "old"}))).await;
    assert_eq!((older.status.as_str(), older.superseded_by), ("superseded", Some(newer)));
    assert_eq!(app.puts().len(), 1);
}

#[tokio::test]
async fn waiting_events_go_out_as_one_put_with_the_newest_of_each_field() {
    let app = App::start().await;
    let first = app.deliver(linked(1, 1, &json!({"phone": "1", "company": "old"}))).await.event_id();
    let second = app.deliver(linked(1, 3, &json!({"company": "new", "firstName": null}))).await.event_id();
    let third = app.deliver(linked(1, 2, &json!({"company": "middle", "firstName": "hidden"}))).await.event_id();
    app.drain().await;
    assert_eq!(app.puts(), [json!({"customerId": "cus_1", "phone": "1", "company": "new"})]);
    assert_eq!(app.event(second).await.status, "synced");
    for folded in [first, third] {
        let event = app.event(folded).await;
        assert_eq!((event.status.as_str(), event.superseded_by), ("superseded", Some(second)));
    }
}

#[tokio::test]
async fn a_late_partial_event_still_delivers_what_nothing_newer_touched() {
    let app = App::start().await;
    app.sync(linked(1, 10, &json!({"phone": "new"}))).await;
    let late = app.sync(linked(1, 5, &json!({"phone": "old", "company": "C"}))).await;
    assert_eq!(late.status, "synced");
    assert_eq!(app.puts()[1], json!({"customerId": "cus_1", "company": "C"}));
}

#[tokio::test]
async fn an_emptied_field_of_a_snapshot_is_not_filled_again_by_an_older_one() {
    let app = App::start().await;
    app.sync(shopify(1, 10, &json!({"phone": null}))).await;
    let older = app.sync(shopify(1, 5, &json!({"phone": "+4930"}))).await;
    assert_eq!(older.status, "superseded");
    assert_eq!(app.fake.customer("cus_1").expect("there").phone, None);
}

#[tokio::test]
async fn what_flexportal_has_already_causes_no_request_for_a_day() {
    let app = App::start().await;
    app.sync(linked(1, 0, &json!({"phone": "1"}))).await;
    let again = app.sync(linked(1, 1, &json!({"phone": "1"}))).await;
    assert_eq!((again.status.as_str(), again.attempts, app.puts().len()), ("unchanged", 0, 1));
    let late = app.sync(linked(1, 0, &json!({"phone": "2"}))).await;
    assert_eq!(late.status, "superseded", "the newer one said so, though nothing was sent for it");
    app.advance(24 * HOUR);
    assert_eq!(app.sync(linked(1, 2, &json!({"phone": "1"}))).await.status, "synced");
    assert_eq!(app.puts().len(), 2);
}

#[tokio::test]
async fn an_event_with_nothing_to_send_is_unchanged_and_asks_nobody() {
    let app = App::start().await;
    let event = app.sync(generic("nobody", 0, &json!({"firstName": "", "phone": null}))).await;
    assert_eq!(event.status, "unchanged");
    assert!(app.fake.requests().is_empty());
}

#[tokio::test]
async fn a_refusal_fails_at_once_and_tells_people_why_and_what_to_do() {
    let app = App::start().await;
    app.fake.set_behaviour(Behaviour {
        refuse_customers: vec![Refusal {
            customer_id: "cus_1".into(),
            status: 422,
            code: "VALIDATION_ERROR".into(),
            message: "too long".into(),
            path: Some("phone".into()),
        }],
        ..Behaviour::default()
    });
    let id = app.deliver(linked(1, 0, &json!({"phone": "1"}))).await.event_id();
    app.drain().await;
    let event = app.event(id).await;
    assert_eq!((event.status.as_str(), event.attempts, event.http_status), ("failed", 1, Some(422)));
    let row = sqlx::query("select * from failed_syncs where event_id = $1").bind(id).fetch_one(&app.db.pool).await;
    let row = row.expect("a failed sync");
    assert_eq!(row.get::<String, _>("error_code"), "VALIDATION_ERROR");
    assert!(row.get::<String, _>("error").contains("phone"), "the field is named");
    assert_eq!(row.get::<serde_json::Value, _>("request_body"), json!({"customerId": "cus_1", "phone": "1"}));
    assert!(row.get::<String, _>("response_body").contains("too long"));
    assert!(row.get::<String, _>("what_to_do").contains("retry_sync"));
    assert_eq!(app.count("select events from failure_groups where error_code = 'VALIDATION_ERROR'").await, 1);
    assert_eq!(app.count("select count(*) from customer_sync_state where state = 'failed'").await, 1);
}

#[tokio::test]
async fn every_kind_of_permanent_refusal_fails_at_once() {
    for failure in
        [Failure::status(400), Failure::status(409), Failure::status(422), Failure::status(418), Failure::SuccessFalse]
    {
        let app = App::start().await;
        app.fake.fail_next(1, failure.clone());
        let event = app.sync(linked(1, 0, &json!({"phone": "1"}))).await;
        assert_eq!((event.status.as_str(), event.attempts), ("failed", 1), "{failure:?}");
    }
}

#[tokio::test]
async fn every_passing_fault_is_tried_again_with_the_same_idempotency_key() {
    // Half of a second, by the dice; with a time limit of 2 s, a request of unknown fate may arrive for 9 s.
    let (backoff, rest) = (Duration::from_millis(500), Duration::from_secs(9));
    let faults = [
        (Failure::status(500), backoff),
        (Failure::status(503), backoff),
        (Failure::status(408), backoff),
        (Failure::status(425), backoff),
        (Failure::status(302), backoff),
        (Failure::Garbage, backoff),
        (Failure::CloseHalfway, backoff),
        (Failure::status(502), rest),
        (Failure::status(504), rest),
        (Failure::Drop, rest),
    ];
    for (failure, wait) in faults {
        let app = App::start().await;
        app.fake.fail_next(1, failure.clone());
        let id = app.deliver(linked(1, 0, &json!({"phone": "1"}))).await.event_id();
        app.drain().await;
        let event = app.event(id).await;
        assert_eq!((event.status.as_str(), event.attempts), ("pending", 1), "{failure:?}");
        assert!(event.error.is_some() && event.next_attempt_at.is_some());
        // A little of the rest has passed while the answer came.
        app.advance(wait.mul_f64(0.9));
        assert_eq!(app.worker.step().await.expect("the database"), StepOutcome::Idle, "{failure:?}");
        app.advance(wait.mul_f64(0.1));
        app.drain().await;
        let event = app.event(id).await;
        assert_eq!((event.status.as_str(), event.attempts, event.error), ("synced", 2, None), "{failure:?}");
        let keys: Vec<_> = app.fake.requests().into_iter().map(|request| request.idempotency_key).collect();
        assert_eq!(keys.len(), 2);
        assert!(keys[0].is_some() && keys[0] == keys[1], "{keys:?}");
        let attempts = "select count(*) from sync_attempts where attempt in (1, 2)";
        assert_eq!(app.count(attempts).await, 2);
    }
}

#[tokio::test]
async fn no_answer_in_time_is_tried_again() {
    let app = App::start_with(&[("FLEXPORTAL_TIMEOUT", "100ms")], "").await;
    app.fake.fail_next(1, Failure::Hang);
    let id = app.deliver(linked(1, 0, &json!({"phone": "1"}))).await.event_id();
    app.drain().await;
    let event = app.event(id).await;
    assert_eq!((event.status.as_str(), event.error_code.as_deref()), ("pending", Some("TIMED_OUT")));
}

#[tokio::test]
async fn after_the_last_attempt_it_fails() {
    let app = App::start_with(&[("RETRY_MAX_ATTEMPTS", "3")], "").await;
    app.fake.set_behaviour(Behaviour { error_rate: 1.0, ..Behaviour::default() });
    let id = app.deliver(linked(1, 0, &json!({"phone": "1"}))).await.event_id();
    for _ in 0..3 {
        app.drain().await;
        app.advance(HOUR);
    }
    app.drain().await;
    let event = app.event(id).await;
    assert_eq!((event.status.as_str(), event.attempts, event.http_status), ("failed", 3, Some(500)));
    assert_eq!(app.puts().len(), 3);
}

#[tokio::test]
async fn a_newer_event_takes_the_place_of_one_that_waits_for_its_retry() {
    let app = App::start().await;
    app.fake.fail_next(1, Failure::status(500));
    let first = app.deliver(linked(1, 0, &json!({"phone": "1"}))).await.event_id();
    app.drain().await;
    let second = app.sync(linked(1, 1, &json!({"phone": "2"}))).await;
    assert_eq!((second.status.as_str(), second.attempts), ("synced", 1));
    assert_eq!(app.event(first).await.status, "superseded");
}

#[tokio::test]
async fn a_429_holds_the_target_and_costs_no_attempt() {
    let app = App::start().await;
    let limited = Failure::Status { status: 429, code: "RATE_LIMITED".into(), retry_after: Some("30".into()) };
    app.fake.fail_next(1, limited);
    let id = app.deliver(linked(1, 0, &json!({"phone": "1"}))).await.event_id();
    app.drain().await;
    let event = app.event(id).await;
    assert_eq!((event.status.as_str(), event.attempts, event.http_status), ("pending", 0, Some(429)));

    app.deliver(linked(2, 0, &json!({"phone": "2"}))).await;
    app.advance(Duration::from_secs(29));
    app.drain().await;
    assert_eq!(app.puts().len(), 1, "the whole target waits");
    assert_eq!(app.count("select count(*) from sync_backlog where hold_reason = 'rate_limited'").await, 1);
    app.advance(Duration::from_secs(1));
    app.drain().await;
    assert_eq!((app.event(id).await.status.as_str(), app.puts().len()), ("synced", 3));
}

#[tokio::test]
async fn refused_credentials_pause_the_target_and_a_probe_resumes_it() {
    for status in [401, 403] {
        let app = App::start().await;
        app.fake.fail_next(2, Failure::status(status));
        let first = app.deliver(linked(1, 0, &json!({"phone": "1"}))).await.event_id();
        app.drain().await;
        app.deliver(linked(2, 0, &json!({"phone": "2"}))).await;
        app.drain().await;
        let event = app.event(first).await;
        assert_eq!((event.status.as_str(), event.attempts, app.puts().len()), ("pending", 0, 1), "{status}");

        app.advance(Duration::from_secs(30));
        app.drain().await;
        assert_eq!(app.puts().len(), 2, "one probe, and it fails");
        app.advance(Duration::from_secs(30));
        app.drain().await;
        assert_eq!(app.puts().len(), 4, "one probe, and then the rest");
        assert_eq!(app.event(first).await.status, "synced");
        assert_eq!(app.get("/readyz").await.status, 200);
    }
}

#[tokio::test]
async fn a_404_marks_the_link_as_missing_and_looks_the_customer_up_once_more() {
    let app = App::start().await;
    app.sync(shopify(3, 0, &json!({}))).await;
    app.fake.remove_customer("cus_3");
    app.fake.add_customer(FakeCustomer::new("cus_merged", "customer3@example.com"));
    let event = app.sync(shopify(3, 1, &json!({"first_name": "Eva"}))).await;
    assert_eq!((event.status.as_str(), event.flexportal_id.as_deref()), ("synced", Some("cus_merged")));

    app.fake.remove_customer("cus_merged");
    let event = app.sync(shopify(3, 2, &json!({"first_name": "Ida"}))).await;
    assert_eq!(event.status, "unmatched");
    assert_eq!(app.count("select count(*) from customer_links where missing_since is null").await, 0);
}

#[tokio::test]
async fn a_customer_found_instead_of_one_that_is_gone_gets_all_that_is_said() {
    let app = App::start().await;
    app.sync(shopify(3, 10, &json!({"phone": "+4930"}))).await;
    app.fake.remove_customer("cus_3");
    app.fake.add_customer(FakeCustomer::new("cus_merged", "customer3@example.com"));
    // For the old customer only the company would be new, for the one found instead everything is.
    let body = json!({"phone": "+4930", "default_address": {"company": "C"}});
    let event = app.sync(shopify(3, 11, &body)).await;
    assert_eq!((event.status.as_str(), event.flexportal_id.as_deref()), ("synced", Some("cus_merged")));
    assert_eq!(app.puts().last().expect("a put")["phone"], "+4930");
    let late = app.sync(shopify(3, 9, &json!({"phone": "old"}))).await;
    assert_eq!(late.status, "superseded");
}

#[tokio::test]
async fn a_customer_that_was_found_stays_linked_though_its_change_failed() {
    let app = App::start().await;
    app.fake.fail_next_for("cus_3", 1, Failure::status(422));
    let event = app.sync(shopify(3, 0, &json!({}))).await;
    assert_eq!((event.status.as_str(), event.flexportal_id.as_deref()), ("failed", Some("cus_3")));
    app.sync(shopify(3, 1, &json!({"first_name": "Eva"}))).await;
    assert_eq!(app.lookups(), 1);
}

#[tokio::test]
async fn a_value_taken_back_after_a_request_of_unknown_fate_is_sent_again() {
    let app = App::start_with(&[("FLEXPORTAL_TIMEOUT", "1s")], "").await;
    app.sync(linked(1, 0, &json!({"phone": "1"}))).await;
    // FlexPortal makes the change, and nobody learns of it.
    app.fake.set_behaviour(Behaviour { apply_before_failing: true, ..Behaviour::default() });
    app.fake.fail_next(1, Failure::Hang);
    app.deliver(linked(1, 1, &json!({"phone": "2"}))).await;
    app.drain().await;
    assert_eq!(app.fake.customer("cus_1").expect("there").phone.as_deref(), Some("2"));
    app.advance(Duration::from_secs(7));
    let back = app.sync(linked(1, 2, &json!({"phone": "1"}))).await;
    assert_eq!(back.status, "synced", "what was acknowledged before is in doubt");
    assert_eq!(app.fake.customer("cus_1").expect("there").phone.as_deref(), Some("1"));
}

#[tokio::test]
async fn after_a_worker_died_nothing_is_unchanged() {
    let app = App::start().await;
    app.sync(linked(1, 0, &json!({"phone": "1"}))).await;
    app.deliver(linked(1, 1, &json!({"phone": "1"}))).await;
    let target = flexportal_sync::domain::TargetName::parse("default").expect("a name");
    app.outbox.claim(&target, 1).await.expect("claimed, and then it died");
    app.advance(Duration::from_secs(30));
    app.drain().await;
    assert_eq!(app.puts().len(), 2);
}

#[tokio::test]
async fn hundreds_of_waiting_events_are_one_change() {
    let app = App::start().await;
    for second in 0..450 {
        app.deliver(linked(1, second, &json!({"phone": second.to_string()}))).await;
    }
    app.drain().await;
    assert_eq!(app.fake.customer("cus_1").expect("there").phone.as_deref(), Some("449"));
    assert_eq!(app.puts().len(), 1, "all that wait go out as one");
    assert_eq!(app.count("select count(*) from outbox_events where status not in ('synced', 'superseded')").await, 0);
}

#[tokio::test]
async fn more_than_is_read_at_once_is_worked_off_in_turns() {
    let app = App::start().await;
    for second in 0..12 {
        let large = "x".repeat(900_000);
        app.deliver(linked(1, second, &json!({"phone": second.to_string(), "unread": large}))).await;
    }
    app.drain().await;
    assert_eq!(app.fake.customer("cus_1").expect("there").phone.as_deref(), Some("11"));
    assert_eq!(app.puts().len(), 2, "eight megabytes at a time");
    assert_eq!(app.count("select count(*) from outbox_events where status not in ('synced', 'superseded')").await, 0);
}

#[tokio::test]
async fn an_answer_with_nul_characters_or_odd_types_can_be_written_down() {
    let app = App::start().await;
    let gateway = Gateway {
        requests: GatewayRequests::All,
        status: 422,
        content_type: "application/json".into(),
        body: r#"{"error":{"code":"ODD","message":"A\u0000B","requestId":[1]},"x":null}"#.into(),
        is_cut_off: false,
    };
    app.fake.set_behaviour(Behaviour { gateway: Some(gateway), ..Behaviour::default() });
    let event = app.sync(linked(1, 0, &json!({"phone": "1"}))).await;
    assert_eq!((event.status.as_str(), event.error.as_deref()), ("failed", Some("A\u{fffd}B")));
}

#[tokio::test]
async fn attempts_fail_for_a_day_before_the_event_does_and_a_stopped_worker_does_not_count() {
    let app = App::start().await;
    app.fake.set_behaviour(Behaviour { error_rate: 1.0, error_status: 500, ..Behaviour::default() });
    let event = app.deliver(linked(1, 0, &json!({"phone": "1"}))).await.event_id();
    app.drain().await;
    // For two days nobody works: of them the longest delay counts.
    app.advance(Duration::from_hours(48));
    app.drain().await;
    assert_eq!(app.event(event).await.status, "pending");
    // Full jitter at a roll of a half: the longest delay is 7.5 minutes.
    for _ in 0..(24 * 8 - 4) {
        app.advance(Duration::from_secs(450));
        app.drain().await;
    }
    let almost = app.event(event).await;
    assert_eq!(almost.status, "pending", "{almost:?}");
    for _ in 0..6 {
        app.advance(Duration::from_secs(450));
        app.drain().await;
    }
    assert_eq!(app.event(event).await.status, "failed");

    // A person's retry begins anew.
    sqlx::query("select retry_sync($1)").bind(event).execute(&app.db.pool).await.expect("set back");
    app.drain().await;
    assert_eq!(app.event(event).await.status, "pending");
}

#[tokio::test]
async fn a_429_that_says_at_once_is_not_asked_over_and_over() {
    let app = App::start().await;
    let limited = Failure::Status { status: 429, code: "RATE_LIMITED".into(), retry_after: Some("0".into()) };
    app.fake.fail_next(1, limited);
    app.deliver(linked(1, 0, &json!({"phone": "1"}))).await;
    app.drain().await;
    assert_eq!(app.puts().len(), 1);
    app.advance(Duration::from_secs(1));
    app.drain().await;
    assert_eq!(app.puts().len(), 2);
}

#[tokio::test]
async fn failed_events_that_went_out_together_all_show_the_request() {
    let app = App::start().await;
    app.fake.fail_next(1, Failure::status(422));
    app.deliver(linked(1, 0, &json!({"phone": "1"}))).await;
    app.deliver(linked(1, 1, &json!({"company": "C"}))).await;
    app.drain().await;
    let shown =
        "select count(*) from failed_syncs where request_body ->> 'company' = 'C' and response_body is not null";
    assert_eq!(app.count(shown).await, 2);
}

#[tokio::test]
async fn an_old_event_does_not_tie_its_customer_to_a_former_id() {
    let app = App::start().await;
    app.sync(generic("x", 10, &json!({"flexportalCustomerId": "cus_2", "phone": "new"}))).await;
    let late = app.sync(generic("x", 5, &json!({"flexportalCustomerId": "cus_1", "phone": "old"}))).await;
    assert_eq!((late.status.as_str(), app.puts().len()), ("superseded", 1));
    let links = "select count(*) from customer_links where flexportal_customer_id = 'cus_2'";
    assert_eq!(app.count(links).await, 1);
}

#[tokio::test]
async fn a_change_from_the_far_future_does_not_block_its_customer() {
    let app = App::start().await;
    let mut future = linked(1, 0, &json!({"phone": "1"}));
    let body = String::from_utf8(future.body).expect("text").replace("2026-11-23", "2126-11-23");
    future.body = body.into_bytes();
    let event = app.sync(future).await;
    assert_eq!(event.warnings.len(), 1, "{event:?}");
    app.advance(HOUR);
    assert_eq!(app.sync(linked(1, 60, &json!({"phone": "2"}))).await.status, "synced");
}

#[tokio::test]
async fn a_customer_deleted_in_the_shop_becomes_inactive_or_not_as_configured() {
    let app = App::start().await;
    app.sync(shopify(5, 0, &json!({}))).await;
    let deleted = || {
        let mut webhook = shopify_topic("customers/delete", 5, 1, &json!({}));
        webhook.body = json!({"id": 7_120_000_005_u64}).to_string().into();
        webhook
    };
    assert_eq!(app.sync(deleted()).await.status, "synced");
    assert_eq!(app.fake.customer("cus_5").expect("kept").status, FakeStatus::Inactive);

    let file = "[[source]]\nname = \"shopify\"\nkind = \"shopify\"\non_delete = \"ignore\"\n";
    let app = App::start_with(&[], file).await;
    assert_eq!(app.sync(deleted()).await.status, "unchanged");
    assert!(app.fake.requests().is_empty());
}

#[tokio::test]
async fn an_account_disabled_and_enabled_again_ends_active_but_staff_has_the_last_word() {
    let app = App::start().await;
    let topic = |topic: &str, second| shopify_topic(topic, 6, second, &json!({}));
    app.sync(topic("customers/disable", 1)).await;
    assert_eq!(app.fake.customer("cus_6").expect("there").status, FakeStatus::Inactive);
    app.sync(topic("customers/enable", 2)).await;
    assert_eq!(app.fake.customer("cus_6").expect("there").status, FakeStatus::Active);

    app.fake.add_customer(FakeCustomer { first_name: "S".into(), ..FakeCustomer::numbered(6).inactive() });
    app.sync(shopify_topic("customers/enable", 6, 3, &json!({"first_name": "Eva"}))).await;
    assert_eq!(app.fake.customer("cus_6").expect("there").status, FakeStatus::Inactive, "staff set it");
    assert!(app.puts().last().expect("a put").get("status").is_none());
}

#[tokio::test]
async fn with_same_id_the_shops_id_is_flexportals() {
    let file = "[[source]]\nname = \"generic\"\nkind = \"generic\"\nidentity = \"same_id\"\n";
    let app = App::start_with(&[], file).await;
    let event = app.sync(generic("cus_7", 0, &json!({"phone": "1"}))).await;
    assert_eq!((event.status.as_str(), app.lookups()), ("synced", 0));
    let unknown = app.sync(generic("cus_unknown", 0, &json!({"phone": "1", "email": "customer1@example.com"}))).await;
    assert_eq!((unknown.status.as_str(), app.lookups()), ("unmatched", 0));
    let carried = app.sync(generic("x", 0, &json!({"flexportalCustomerId": "cus_8", "phone": "1"}))).await;
    assert_eq!(carried.flexportal_id.as_deref(), Some("cus_8"), "an id that the event carries comes first");
}

#[tokio::test]
async fn another_email_than_flexportals_is_a_warning_unless_it_is_sent() {
    let app = App::start().await;
    let event = app.sync(linked(1, 0, &json!({"email": "moved@example.com", "phone": "1"}))).await;
    assert_eq!(event.warnings.len(), 1, "{event:?}");
    assert!(event.warnings[0].contains("e-mail") && !event.warnings[0].contains("moved"));

    let app = App::start_with(&[("FLEXPORTAL_SEND_EMAIL", "true")], "").await;
    app.fake.set_behaviour(Behaviour { accept_email: true, ..Behaviour::default() });
    let event = app.sync(linked(1, 0, &json!({"email": "moved@example.com"}))).await;
    assert_eq!((event.status.as_str(), event.warnings.len()), ("synced", 0));
    assert_eq!(app.fake.customer("cus_1").expect("there").email, "moved@example.com");
    app.fake.set_behaviour(Behaviour { drop_email: true, ..Behaviour::default() });
    let event = app.sync(linked(2, 0, &json!({"email": "dropped@example.com"}))).await;
    assert_eq!((event.status.as_str(), event.warnings.len()), ("synced", 1));
}

#[tokio::test]
async fn a_person_sets_a_failed_event_back_or_closes_it() {
    let app = App::start().await;
    app.fake.fail_next(2, Failure::status(422));
    let first = app.deliver(linked(1, 0, &json!({"phone": "1"}))).await.event_id();
    let second = app.deliver(linked(2, 0, &json!({"phone": "2"}))).await.event_id();
    app.drain().await;
    let say = async |sql: &'static str, id| -> String {
        sqlx::query_scalar(sql).bind(id).fetch_one(&app.db.pool).await.expect("a word")
    };
    assert_eq!(say("select retry_sync($1)", first).await, "will be tried again at once");
    assert_eq!(app.event(first).await.status, "pending");
    // The function goes by Postgres' own clock, which is ahead of the one moved by hand, or behind it.
    sqlx::query("update waiting_customers set due_at = '-infinity'").execute(&app.db.pool).await.expect("due");
    app.drain().await;
    let event = app.event(first).await;
    assert_eq!((event.status.as_str(), event.attempts), ("synced", 2));
    assert!(say("select retry_sync($1)", first).await.starts_with("nothing to do"));

    assert_eq!(say("select discard_sync($1, 'test data')", second).await, "closed; it was failed");
    let event = app.event(second).await;
    assert_eq!(event.status, "discarded");
    assert!(event.warnings.iter().any(|warning| warning.contains("test data")));
    assert!(say("select discard_sync($1, 'again')", second).await.starts_with("nothing to do"));
}

#[tokio::test]
async fn a_change_that_arrives_during_a_request_is_not_forgotten() {
    let app = App::start().await;
    app.fake.set_behaviour(Behaviour { latency_ms: 1000, ..Behaviour::default() });
    app.deliver(linked(1, 0, &json!({"phone": "1"}))).await;
    let (step, ()) = tokio::join!(app.worker.step(), async {
        app.fake.wait_for_requests(1).await;
        app.deliver(linked(1, 1, &json!({"phone": "2"}))).await;
        assert_eq!(app.worker.step().await.expect("the database"), StepOutcome::Idle, "one request per customer");
    });
    step.expect("the database");
    app.drain().await;
    assert_eq!(app.puts().iter().map(|put| put["phone"].clone()).collect::<Vec<_>>(), ["1", "2"]);
}

#[tokio::test]
async fn a_change_that_arrived_during_a_request_goes_out_right_after_it() {
    let app = App::start().await;
    app.fake.set_behaviour(Behaviour { latency_ms: 1000, ..Behaviour::default() });
    let shutdown = tokio_util::sync::CancellationToken::new();
    let running = tokio::spawn(app.worker.clone().run(shutdown.clone()));
    app.deliver(linked(1, 0, &json!({"phone": "1"}))).await;
    app.fake.wait_for_requests(1).await;
    app.deliver(linked(1, 1, &json!({"phone": "2"}))).await;
    // Sooner than the fallback polls, which is after 3.75 s at the earliest.
    let second = tokio::time::timeout(Duration::from_secs(3), app.fake.wait_for_requests(2));
    second.await.expect("the worker is woken");
    shutdown.cancel();
    running.await.expect("no panic");
}

#[tokio::test]
async fn a_customer_of_a_dead_worker_is_taken_over_when_the_lease_ends() {
    let app = App::start().await;
    let id = app.deliver(linked(1, 0, &json!({"phone": "1"}))).await.event_id();
    let claimed = app.outbox.claim(&flexportal_sync::domain::TargetName::parse("default").expect("a name"), 10).await;
    assert_eq!(claimed.expect("the database").len(), 1);
    assert_eq!(app.event(id).await.status, "in_flight");
    app.advance(Duration::from_secs(29));
    assert_eq!(app.worker.step().await.expect("the database"), StepOutcome::Idle);
    app.advance(Duration::from_secs(1));
    app.drain().await;
    assert_eq!(app.event(id).await.status, "synced");
}

#[tokio::test]
async fn a_worker_whose_lease_ended_writes_nothing() {
    let app = App::start().await;
    app.fake.set_behaviour(Behaviour { latency_ms: 1500, ..Behaviour::default() });
    let id = app.deliver(linked(1, 0, &json!({"phone": "1"}))).await.event_id();
    let (late, ()) = tokio::join!(app.worker.step(), async {
        app.fake.wait_for_requests(1).await;
        app.fake.set_behaviour(Behaviour::default());
        app.advance(Duration::from_secs(31));
        app.drain().await;
    });
    late.expect("the database");
    let event = app.event(id).await;
    assert_eq!((event.status.as_str(), event.attempts), ("synced", 1));
    assert_eq!(app.puts().len(), 2);
    assert_eq!(app.count("select count(*) from sync_attempts").await, 1, "only the new owner's word counts");
}

#[tokio::test]
async fn no_more_requests_go_out_than_the_budget_allows() {
    let app = App::start_with(&[("FLEXPORTAL_RATE_LIMIT_PER_MINUTE", "100")], "").await;
    for n in 1..=20 {
        app.deliver(linked(n, 0, &json!({"phone": "1"}))).await;
    }
    app.drain().await;
    assert_eq!(app.puts().len(), 10, "a tenth at once");
    app.advance(Duration::from_millis(667));
    app.drain().await;
    assert_eq!(app.puts().len(), 11, "then evenly");
    app.advance(Duration::from_secs(2));
    app.drain().await;
    assert_eq!(app.puts().len(), 14);
}

#[tokio::test]
async fn an_event_that_somebody_holds_keeps_only_its_own_customer_waiting() {
    let app = App::start().await;
    app.fake.fail_next_for("cus_1", 1, Failure::status(503));
    let held = app.deliver(linked(1, 0, &json!({"phone": "1"}))).await.event_id();
    app.drain().await;
    assert_eq!(app.event(held).await.attempts, 1, "it has a row that can be held");
    let person = app.db.hold("select from event_states for update").await;
    app.advance(Duration::from_hours(1));
    for n in 2..=4 {
        app.deliver(linked(n, 0, &json!({"phone": "1"}))).await;
    }
    let worker = app.worker.clone();
    let step = tokio::spawn(async move { worker.step().await });
    in_time("the others", async {
        while app.count("select count(*) from event_states where status = 'synced'").await < 3 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(app.event(held).await.attempts, 1, "it is held still");
    person.release().await;
    step.await.expect("no panic").expect("the database");
    assert_eq!(app.event(held).await.status, "synced");
}
