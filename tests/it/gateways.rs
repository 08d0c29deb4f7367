//! What answers in FlexPortal's place: an ingress, a proxy, a login page. Each of twenty statuses, with each kind of body, to
//! each kind of request, for three seconds: no event fails, no link is lost, and what FlexPortal itself refuses is refused.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use flexportal_sync::fake_flexportal::{Behaviour, FakeCustomer, Gateway, GatewayRequests};
use serde_json::json;

use crate::support::App;
use crate::support::shop::generic;

const STATUSES: [u16; 20] =
    [400, 401, 402, 403, 404, 405, 406, 408, 409, 410, 413, 421, 422, 429, 431, 451, 500, 502, 503, 504];

/// A body, its type, whether it is cut off, and whether it is FlexPortal's own.
const BODIES: [(&str, &str, bool, bool); 6] = [
    ("<html><body>nginx</body></html>", "text/html", false, false),
    ("", "text/plain", false, false),
    (r#"{"error":{"code":"VALIDATION_ERROR","message":"not"#, "application/json", true, false),
    (r#"{"status":404,"error":"Not Found","path":"/v1/customers"}"#, "application/json", false, false),
    (r#"{"error":{"code":"not_found","message":"no route matched"}}"#, "application/json", false, false),
    (r#"{"error":{"code":"CONFLICT","message":"FlexPortal's own"}}"#, "application/json", false, true),
];

const LIMIT: usize = 600;

/// Which request of a customer meets the gateway.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Meets {
    /// The customer is linked.
    Put,
    /// It has to be looked up.
    Lookup,
    /// FlexPortal itself has answered 404 to its update, and is asked whether it is there.
    List,
}

async fn meets(meets: Meets) {
    let limit = LIMIT.to_string();
    // What is refused for good by a person's standards still has its day.
    let app = App::start_with(&[("FLEXPORTAL_RATE_LIMIT_PER_MINUTE", &limit), ("RETRY_MAX_DELAY", "1s")], "").await;
    let mut n = 0;
    for status in STATUSES {
        for (body, content_type, is_cut_off, is_own) in BODIES {
            n += 1;
            one(&app, n, meets, status, (body, content_type, is_cut_off, is_own)).await;
        }
    }
    let arrivals: Vec<DateTime<Utc>> = app.fake.requests().iter().map(|request| request.received_at).collect();
    let within_a_minute = |(first, at): (usize, &DateTime<Utc>)| {
        arrivals[first..].iter().take_while(|later| **later - *at < TimeDelta::seconds(60)).count()
    };
    let most = arrivals.iter().enumerate().map(within_a_minute).max().unwrap_or_default();
    assert!(most <= LIMIT, "{most} requests within a minute");
}

async fn one(
    app: &App,
    n: u32,
    meets: Meets,
    status: u16,
    (body, content_type, is_cut_off, is_own): (&str, &str, bool, bool),
) {
    let what = format!("{status} with {body:?} to {meets:?}");
    let (customer, id, email) = (format!("shop-{n}"), format!("cus_x{n}"), format!("x{n}@example.com"));
    let mut fields = json!({"email": email, "phone": "1"});
    if meets != Meets::Lookup {
        // Linked by the event, to somebody whose e-mail leads nowhere: a link that was lost would stay so.
        fields["flexportalCustomerId"] = json!(id);
        fields["email"] = json!("nobody@example.com");
    }
    if meets != Meets::List {
        app.fake.add_customer(FakeCustomer::new(&id, &email));
    }
    let requests = if meets == Meets::List { GatewayRequests::Lists } else { GatewayRequests::All };
    let gateway = Gateway { requests, status, content_type: content_type.into(), body: body.into(), is_cut_off };
    app.fake.set_behaviour(Behaviour { gateway: Some(gateway), ..Behaviour::default() });
    let event = app.deliver(generic(&customer, n, &fields)).await.event_id();
    // Six looks, half a second apart.
    for _ in 0..6 {
        app.drain().await;
        app.advance(Duration::from_millis(500));
    }
    app.fake.set_behaviour(Behaviour::default());
    if meets == Meets::List {
        app.fake.add_customer(FakeCustomer::new(&id, &email));
    }
    let is_refusal = is_own && status < 500 && ![401, 403, 408, 429].contains(&status);
    let fails = is_refusal && (meets == Meets::Lookup || meets == Meets::Put && ![404, 410].contains(&status));
    // FlexPortal's own refusal of the list shows that it answers, whatever it refuses.
    let is_shown = meets == Meets::List && is_refusal && ![404, 410].contains(&status);
    for _ in 0..8 {
        app.advance(Duration::from_secs(31));
        app.drain().await;
    }
    let settled = app.event(event).await;
    if fails {
        assert_eq!(settled.status, "failed", "{what}: {settled:?}");
        return;
    }
    if is_shown {
        // Nobody else has the e-mail; the next change finds it again by its id.
        assert_eq!(settled.status, "unmatched", "{what}: {settled:?}");
        let next = generic(&customer, n + 1, &json!({"phone": "2", "email": "nobody@example.com"}));
        let next = app.sync(next).await;
        assert_eq!(next.status, "synced", "{what}: {next:?}");
        return;
    }
    assert_eq!(settled.status, "synced", "{what}: {settled:?}");
    let link = "select count(*) from customer_links where missing_since is not null or flexportal_customer_id is null";
    assert_eq!(app.count(link).await, 0, "{what}");
    let linked = sqlx::query_scalar::<_, i64>("select count(*) from customer_links where flexportal_customer_id = $1");
    assert_eq!(linked.bind(id).fetch_one(&app.db.pool).await.expect("a number"), 1, "{what}");
}

#[tokio::test]
async fn what_answers_updates_in_flexportals_place_fails_no_event_and_loses_no_link() {
    meets(Meets::Put).await;
}

#[tokio::test]
async fn what_answers_lookups_in_flexportals_place_fails_no_event() {
    meets(Meets::Lookup).await;
}

#[tokio::test]
async fn what_answers_the_list_in_flexportals_place_does_not_confirm_that_a_customer_is_missing() {
    meets(Meets::List).await;
}

#[tokio::test]
async fn a_missing_customer_is_tried_by_its_id_with_the_next_change_or_after_a_day_and_not_before() {
    let app = App::start().await;
    let told = |second, phone| {
        let fields = json!({"flexportalCustomerId": "cus_gone", "email": "gone@example.com", "phone": phone});
        generic("shop-1", second, &fields)
    };
    app.fake.add_customer(FakeCustomer::new("cus_gone", "other@example.com"));
    app.sync(told(0, "1")).await;
    app.fake.remove_customer("cus_gone");
    let without_id = |second| generic("shop-1", second, &json!({"email": "gone@example.com", "phone": "2"}));
    assert_eq!(app.sync(without_id(1)).await.status, "unmatched");
    let puts = || app.puts().len();
    let before = puts();
    for _ in 0..5 {
        app.advance(Duration::from_hours(1));
        app.drain().await;
    }
    assert_eq!(puts(), before, "it is looked up by its e-mail alone");
    app.advance(Duration::from_hours(24));
    app.drain().await;
    assert_eq!(puts(), before + 1, "once a day");
    app.advance(Duration::from_secs(1));
    assert_eq!(app.sync(without_id(2)).await.status, "unmatched");
    assert_eq!(puts(), before + 2, "and with the next change");
    app.fake.add_customer(FakeCustomer::new("cus_gone", "other@example.com"));
    assert_eq!(app.sync(without_id(3)).await.status, "synced");
    assert_eq!(app.count("select count(*) from customer_links where missing_since is not null").await, 0);
}

#[tokio::test]
async fn a_404_of_a_customer_that_the_list_shows_is_tried_again() {
    let app = App::start().await;
    app.sync(generic("shop-1", 0, &json!({"email": "customer1@example.com", "phone": "1"}))).await;
    let missing = flexportal_sync::fake_flexportal::Failure::Status {
        status: 404,
        code: "NOT_FOUND".to_owned(),
        retry_after: None,
    };
    app.fake.fail_next_for("cus_1", 1, missing);
    let event = app.sync(generic("shop-1", 1, &json!({"phone": "2"}))).await;
    assert_eq!((event.status.as_str(), event.error_code.as_deref()), ("pending", Some("CONTRADICTION")));
    app.advance(Duration::from_secs(2));
    app.drain().await;
    assert_eq!(app.puts().last().expect("a request")["phone"], "2");
}
