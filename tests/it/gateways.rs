//! What answers in FlexPortal's place: an ingress, a proxy, a login page. Each of twenty statuses, with each kind of body, to
//! each kind of request, for three seconds: no event fails, no link is lost, and what FlexPortal itself refuses is refused.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use flexportal_sync::domain::{FlexportalCustomerId, ShopCustomerId, SourceName};
use flexportal_sync::fake_flexportal::{Behaviour, Failure, FakeCustomer, Gateway, GatewayRequests};
use flexportal_sync::outbox::{DoneBy, NewLink};
use serde_json::json;

use crate::support::App;
use crate::support::shop::{generic, linked};

const STATUSES: [u16; 20] =
    [200, 302, 400, 401, 403, 404, 405, 406, 408, 409, 410, 413, 415, 422, 429, 451, 500, 502, 503, 504];

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
    /// The same, and FlexPortal itself answers all others.
    PutAlone,
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
    let requests = match meets {
        Meets::Put | Meets::Lookup => GatewayRequests::All,
        Meets::PutAlone => GatewayRequests::Updates,
        Meets::List => GatewayRequests::Lists,
    };
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
    let is_own = is_own && (400..500).contains(&status) && ![408, 429].contains(&status);
    let (is_not_found, is_key_refused) = ([404, 410].contains(&status), [401, 403].contains(&status));
    let fails = is_own
        && match meets {
            Meets::Put | Meets::PutAlone => !is_not_found && !is_key_refused,
            Meets::Lookup => !is_key_refused,
            Meets::List => false,
        };
    // FlexPortal's own refusal of the list shows that it answers, whatever it refuses; one more 404 does not.
    let is_shown = match meets {
        Meets::Put | Meets::Lookup => false,
        Meets::PutAlone => is_own && is_not_found,
        Meets::List => is_own && !is_not_found,
    };
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
async fn what_answers_updates_alone_in_flexportals_place_fails_no_event_and_loses_no_link() {
    meets(Meets::PutAlone).await;
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
    let missing = Failure::Status { status: 404, code: "NOT_FOUND".to_owned(), retry_after: None };
    app.fake.fail_next_for("cus_1", 1, missing);
    let event = app.sync(generic("shop-1", 1, &json!({"phone": "2"}))).await;
    assert_eq!((event.status.as_str(), event.error_code.as_deref()), ("pending", Some("CONTRADICTION")));
    app.advance(Duration::from_secs(2));
    app.drain().await;
    assert_eq!(app.puts().last().expect("a request")["phone"], "2");
}

const MISSING: &str = "select count(*) from customer_links where missing_since is not null";

/// A customer that FlexPortal acknowledged, and does not know any more.
async fn with_a_missing_customer(app: &App) {
    app.sync(linked(1, 0, &json!({"email": "nobody@example.com", "phone": "1"}))).await;
    app.fake.remove_customer("cus_1");
    assert_eq!(app.sync(generic("shop-1", 1, &json!({"company": "C"}))).await.status, "unmatched");
    assert_eq!(app.count(MISSING).await, 1);
}

#[tokio::test]
async fn a_missing_customer_whose_id_each_change_carries_is_not_asked_for_again_and_again() {
    let app = App::start().await;
    with_a_missing_customer(&app).await;
    assert_eq!(app.sync(linked(1, 2, &json!({"company": "D"}))).await.status, "unmatched");
    let before = app.puts().len();
    for _ in 0..5 {
        app.advance(Duration::from_hours(1));
        app.drain().await;
    }
    assert_eq!(app.puts().len(), before);
    app.fake.add_customer(FakeCustomer::numbered(1));
    app.advance(Duration::from_hours(24));
    app.drain().await;
    assert_eq!((app.puts().len(), app.count(MISSING).await), (before + 1, 0), "once a day");
}

#[tokio::test]
async fn a_request_that_failed_does_not_show_a_missing_customer() {
    let app = App::start().await;
    with_a_missing_customer(&app).await;
    app.fake.fail_next_for("cus_1", 1, Failure::status(503));
    assert_eq!(app.sync(generic("shop-1", 2, &json!({"company": "D"}))).await.status, "pending");
    assert_eq!(app.count(MISSING).await, 1);
}

#[tokio::test]
async fn what_a_missing_customer_acknowledged_before_is_sent_again_once_it_is_there() {
    let app = App::start().await;
    with_a_missing_customer(&app).await;
    app.fake.add_customer(FakeCustomer::numbered(1));
    assert_eq!(app.sync(generic("shop-1", 2, &json!({"phone": "1"}))).await.status, "synced");
    assert_eq!(app.puts().last().expect("a request")["phone"], "1");
    assert_eq!(app.count(MISSING).await, 0);
}

#[tokio::test]
async fn a_missing_customer_is_tried_by_its_id_though_several_have_its_email() {
    let app = App::start().await;
    with_a_missing_customer(&app).await;
    for id in ["cus_a", "cus_b"] {
        app.fake.add_customer(FakeCustomer::new(id, "nobody@example.com"));
    }
    let event = app.sync(generic("shop-1", 2, &json!({"phone": "2"}))).await;
    assert!(event.status == "unmatched" && event.error.as_deref().unwrap_or_default().contains("several"), "{event:?}");
    app.fake.add_customer(FakeCustomer::numbered(1));
    let event = app.sync(generic("shop-1", 3, &json!({"phone": "3"}))).await;
    assert_eq!((event.status.as_str(), event.flexportal_id.as_deref()), ("synced", Some("cus_1")));
}

#[tokio::test]
async fn a_refused_list_does_not_pause_updates() {
    let app = App::start().await;
    let gateway = Gateway {
        requests: GatewayRequests::Lists,
        status: 403,
        content_type: "application/json".into(),
        body: r#"{"error":{"code":"INSUFFICIENT_PERMISSIONS","message":"the key may not list"}}"#.into(),
        is_cut_off: false,
    };
    app.fake.set_behaviour(Behaviour { gateway: Some(gateway), ..Behaviour::default() });
    with_a_missing_customer(&app).await;
    assert_eq!(app.sync(linked(2, 0, &json!({"phone": "2"}))).await.status, "synced");
}

#[tokio::test]
async fn a_404_is_confirmed_by_one_list_after_it_which_is_no_attempt_of_the_customer() {
    let app = App::start().await;
    with_a_missing_customer(&app).await;
    let requests = app.fake.requests();
    let is_list = |query: Option<&str>| query == Some("limit=1");
    let asked: Vec<_> = requests.iter().map(|request| (request.status, is_list(request.query.as_deref()))).collect();
    assert_eq!(asked[1..3], [(Some(404), false), (Some(200), true)]);
    assert_eq!(asked.iter().filter(|(_, is_list)| *is_list).count(), 1);
    let recorded = app.count("select count(*) from sync_attempts").await;
    assert_eq!(usize::try_from(recorded).expect("a number"), requests.len() - 1);
}

#[tokio::test]
async fn an_imported_link_takes_the_place_of_one_that_is_missing_also_to_the_same_customer() {
    let app = App::start().await;
    with_a_missing_customer(&app).await;
    app.fake.add_customer(FakeCustomer::numbered(1));
    let link = NewLink {
        source: SourceName::parse("generic").expect("a name"),
        customer: ShopCustomerId::parse("shop-1").expect("an id"),
        flexportal_id: FlexportalCustomerId::parse("cus_1").expect("an id"),
    };
    let imported = app.outbox.import_links(&[link], DoneBy::Terminal).await.expect("imported");
    assert_eq!((imported.imported, imported.woken, app.count(MISSING).await), (1, 1, 0));
    app.drain().await;
    assert_eq!(app.puts().last().expect("a request")["company"], "C");
}
