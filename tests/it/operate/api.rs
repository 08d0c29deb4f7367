//! The admin API, over real HTTP.

use flexportal_sync::fake_flexportal::Failure;
use serde_json::{Value, json};

use crate::support::shop::{generic, linked, shopify};
use crate::support::{Answer, App};

const TOKEN: &str = "an-admin-token-of-some-length";

async fn app() -> App {
    App::start_with(&[("ADMIN_TOKEN", TOKEN), ("FLEXPORTAL_RATE_LIMIT_PER_MINUTE", "60")], "").await
}

async fn get(app: &App, path: &str) -> Value {
    let answer = app.ask(app.request("GET", path).bearer_auth(TOKEN)).await;
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
    assert_eq!(answer.headers["cache-control"], "no-store");
    answer.body
}

async fn post(app: &App, path: &str, body: &Value) -> Answer {
    app.ask(app.request("POST", path).bearer_auth(TOKEN).json(body)).await
}

#[tokio::test]
async fn without_a_token_configured_there_is_neither_api_nor_console() {
    let app = App::start().await;
    for path in ["/api/v1/status", "/api/v1/openapi.json", "/console"] {
        assert_eq!(app.ask(app.request("GET", path).bearer_auth("")).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn nobody_gets_through_without_the_token() {
    let app = app().await;
    let longer = format!("{TOKEN}x");
    for (path, method) in [
        ("/api/v1/status", "GET"),
        ("/api/v1/openapi.json", "GET"),
        ("/api/v1/failures/retry", "POST"),
        ("/api/v1/events/01a20ac5-81a5-7e33-b6da-56d3d63588d4", "GET"),
    ] {
        let none = app.ask(app.request(method, path)).await;
        assert_eq!((none.status, none.headers["www-authenticate"].as_bytes()), (401, b"Bearer".as_slice()), "{path}");
        assert_eq!(none.headers["content-type"], "application/problem+json");
        for wrong in ["", "wrong", &TOKEN[1..], longer.as_str()] {
            assert_eq!(app.ask(app.request(method, path).bearer_auth(wrong)).await.status, 401, "{path} {wrong}");
        }
        let basic = app.request(method, path).header("authorization", format!("Basic {TOKEN}"));
        assert_eq!(app.ask(basic).await.status, 401, "{path}");
        let in_the_address = format!("{path}?token={TOKEN}");
        assert_eq!(app.ask(app.request(method, &in_the_address)).await.status, 401, "{path}");
    }
    let any_case = app.request("GET", "/api/v1/status").header("authorization", format!("bEaReR {TOKEN}"));
    assert_eq!(app.ask(any_case).await.status, 200);
}

#[tokio::test]
async fn what_failed_is_paged_counted_tried_again_and_closed() {
    let app = app().await;
    for n in 1..=5 {
        let (status, code) = if n == 5 { (409, "CONFLICT") } else { (422, "VALIDATION_ERROR") };
        app.fake.fail_next(1, Failure::Status { status, code: code.to_owned(), retry_after: None });
        assert_eq!(app.sync(linked(n, n, &json!({"phone": "x"}))).await.status, "failed");
        app.advance(std::time::Duration::from_secs(1));
    }
    let first = get(&app, "/api/v1/failures?limit=3").await;
    let second = get(&app, &format!("/api/v1/failures?limit=3&cursor={}", first["next"].as_str().expect("more"))).await;
    assert_eq!(second["next"], Value::Null);
    let ids = |page: &Value| {
        let items = page["items"].as_array().expect("items").clone();
        items.into_iter().map(|item| item["eventId"].clone()).collect::<Vec<_>>()
    };
    let all = [ids(&first), ids(&second)].concat();
    assert_eq!(all.len(), 5);
    assert_eq!(all.iter().map(Value::to_string).collect::<std::collections::BTreeSet<_>>().len(), 5, "each once");
    assert_eq!(first["items"][0]["requestBody"]["phone"], "x");
    assert_eq!(
        first["items"][1]["whatToDo"],
        "Correct the field named in the error in the shop: the next change is sent by itself. Or, once FlexPortal takes it: try it again"
    );

    let groups = get(&app, "/api/v1/failures/groups").await;
    assert_eq!((&groups["items"][0]["customers"], &groups["items"][0]["httpStatus"]), (&json!(4), &json!(422)));
    let cause = groups["items"][0]["cause"].clone();

    let dry = post(&app, "/api/v1/failures/retry", &json!({"all": true, "cause": cause, "dryRun": true})).await.body;
    assert_eq!((&dry["possible"], &dry["changed"], &dry["takesSeconds"]), (&json!(4), &json!(0), &json!(4.0)), "{dry}");
    assert_eq!(dry["results"].as_array().map(Vec::len), Some(4), "which they are: {dry}");
    let before = json!({"all": true, "failedBefore": "2026-11-23T10:00:02Z", "dryRun": true});
    assert_eq!(post(&app, "/api/v1/failures/retry", &before).await.body["matched"], 2);
    let done = post(&app, "/api/v1/failures/retry", &json!({"all": true, "cause": cause})).await.body;
    assert_eq!((&done["matched"], &done["changed"], &done["remaining"]), (&json!(4), &json!(4), &json!(0)), "{done}");
    app.drain().await;
    let nothing = post(&app, "/api/v1/failures/retry", &json!({"events": [all[4]]})).await.body;
    assert_eq!(nothing["results"][0]["isDone"], false);

    let rest = json!({"all": true, "reason": "seen"});
    let closed = app
        .ask(
            app.request("POST", "/api/v1/failures/discard")
                .bearer_auth(TOKEN)
                .header("x-client", "console")
                .json(&rest),
        )
        .await
        .body;
    assert_eq!(closed["changed"], 1);
    assert_eq!(
        app.count("select count(*) from interventions where done_by = 'console' and action = 'discard'").await,
        1
    );
    assert_eq!(app.count("select count(*) from interventions where done_by = 'api' and action = 'retry'").await, 5);
    assert_eq!(get(&app, "/api/v1/failures").await["items"], json!([]));
}

#[tokio::test]
async fn events_customers_links_and_previews_are_those_of_the_terminal() {
    let app = app().await;
    app.sync(shopify(1, 0, &json!({"phone": "1", "note": 12_345_678_901_234_567_890_u64}))).await;
    let unmatched = app.deliver(generic("c/ä ?", 1, &json!({"phone": "2"}))).await.event_id();
    app.drain().await;
    let events = get(&app, "/api/v1/events?status=unmatched").await;
    assert_eq!(events["items"][0]["eventId"], json!(unmatched));
    let first =
        get(&app, "/api/v1/events?source=shopify").await["items"][0]["eventId"].as_str().expect("an id").to_owned();
    let raw =
        app.request("GET", &format!("/api/v1/events/{first}")).bearer_auth(TOKEN).send().await.expect("an answer");
    let raw = raw.text().await.expect("text");
    assert!(raw.contains("12345678901234567890"), "digit for digit: {raw}");
    let event: Value = serde_json::from_str(&raw).expect("JSON");
    assert_eq!((&event["status"], &event["explanation"]), (&json!("synced"), &json!("FlexPortal acknowledged it")));
    assert_eq!(event["requests"][1]["requestBody"]["phone"], "1");

    let customers = get(&app, "/api/v1/customers?limit=1").await;
    let next = get(&app, &format!("/api/v1/customers?cursor={}", customers["next"].as_str().expect("more"))).await;
    assert_eq!((&customers["items"][0]["source"], &next["items"][0]["source"]), (&json!("generic"), &json!("shopify")));
    let found = get(&app, "/api/v1/customers?email=CUSTOMER1@example.com").await;
    assert_eq!(found["items"][0]["shopCustomerId"], "7120000001");
    let story = get(&app, "/api/v1/customers/generic/c%2F%C3%A4%20%3F").await;
    assert_eq!((&story["state"], &story["story"][0]["step"]), (&json!("unmatched"), &json!("received")));

    let links = json!({"links": [
        {"source": "generic", "shopCustomerId": "c/ä ?", "flexportalCustomerId": "cus_2"},
        {"source": "nowhere", "shopCustomerId": "c", "flexportalCustomerId": "cus_3"},
    ]});
    let imported = post(&app, "/api/v1/links/import", &links).await.body;
    assert_eq!(
        (&imported["imported"], &imported["woken"], &imported["refused"][0]["line"]),
        (&json!(1), &json!(1), &json!(2))
    );
    app.drain().await;
    assert_eq!(get(&app, "/api/v1/links?flexportalCustomerId=cus_2").await["items"][0]["origin"], "import");
    assert_eq!(app.event(unmatched).await.status, "synced");

    let preview = post(&app, "/api/v1/preview", &json!({"eventId": first})).await.body;
    assert_eq!(preview["request"], Value::Null);
    let body: Value = serde_json::from_slice(&generic("c/ä ?", 9, &json!({"phone": "3"})).body).expect("JSON");
    let preview = post(&app, "/api/v1/preview", &json!({"source": "generic", "body": body})).await.body;
    assert_eq!(preview["differences"], json!([{"field": "phone", "before": "2", "after": "3"}]));

    let timeline = get(&app, "/api/v1/timeline?minutes=5").await;
    let minutes = timeline["minutes"].as_array().expect("minutes");
    assert_eq!((minutes.len(), &minutes[4]["received"]), (5, &json!(2)));
    assert_eq!(minutes[4]["requests"], json!(app.fake.requests().len()));
    assert_eq!(get(&app, "/api/v1/status").await["intake"]["lastHour"], 2);
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_a_problem_that_says_so() {
    let app = app().await;
    let event = "01a20ac5-81a5-7e33-b6da-56d3d63588d4";
    for (method, path, body, status, says) in [
        ("GET", "/api/v1/failures?limit=0", Value::Null, 400, "1 to 500"),
        ("GET", "/api/v1/failures?olderThan=soon", Value::Null, 400, "30m, 2h or 7d"),
        ("GET", "/api/v1/failures?colour=red", Value::Null, 400, "colour"),
        ("GET", "/api/v1/failures?source=No%20Shop", Value::Null, 400, "source"),
        ("GET", "/api/v1/failures?cursor=abc", Value::Null, 400, "cursor"),
        ("GET", "/api/v1/events?status=lost", Value::Null, 400, "lost"),
        ("GET", "/api/v1/events?email=%00", Value::Null, 400, "cannot take"),
        ("GET", "/api/v1/timeline?minutes=0", Value::Null, 400, "1 to 1440"),
        ("GET", "/api/v1/events/none", Value::Null, 404, ""),
        ("GET", &format!("/api/v1/events/{event}"), Value::Null, 404, "no such event"),
        ("GET", "/api/v1/customers/generic/nobody", Value::Null, 404, "nothing is stored"),
        ("GET", "/api/v1/nothing", Value::Null, 404, ""),
        ("POST", "/api/v1/status", json!({}), 405, "Allow"),
        ("POST", "/api/v1/failures/retry", json!({}), 400, "name events"),
        ("POST", "/api/v1/failures/retry", json!({"events": [event], "all": true}), 400, "not both"),
        ("POST", "/api/v1/failures/retry", json!({"events": [event], "source": "generic"}), 400, "filters go with"),
        ("POST", "/api/v1/failures/retry", json!({"events": vec![event; 1001]}), 400, "a thousand"),
        ("POST", "/api/v1/failures/retry", json!({"everything": true}), 422, "everything"),
        ("POST", "/api/v1/failures/discard", json!({"all": true}), 400, "reason"),
        ("POST", "/api/v1/failures/discard", json!({"all": true, "reason": " "}), 400, "reason"),
        ("POST", "/api/v1/preview", json!({"eventId": event}), 404, "no change"),
        ("POST", "/api/v1/preview", json!({"eventId": event, "source": "generic"}), 400, "alone"),
        ("POST", "/api/v1/preview", json!({"source": "generic", "body": {}}), 422, "cannot be read"),
    ] {
        let request = app.request(method, path).bearer_auth(TOKEN);
        let request = if body.is_null() { request } else { request.json(&body) };
        let answer = app.ask(request).await;
        assert_eq!(answer.status, status, "{method} {path} {answer:?}");
        assert_eq!(answer.headers["content-type"], "application/problem+json", "{method} {path}");
        let detail = answer.body["detail"].as_str().unwrap_or_default();
        assert!(detail.contains(says), "{method} {path}: {detail}");
    }
    let not_json = app.request("POST", "/api/v1/failures/retry").bearer_auth(TOKEN).body("all");
    assert_eq!(app.ask(not_json).await.status, 415);
    let huge =
        app.request("POST", "/api/v1/preview").bearer_auth(TOKEN).json(&json!({"source": "x".repeat(3_000_000)}));
    assert_eq!(app.ask(huge).await.status, 413);
    assert_eq!(app.count("select count(*) from interventions").await, 0, "nothing was done");
}

#[tokio::test]
async fn with_the_database_away_the_api_says_so_and_asks_to_come_back() {
    let app = app().await;
    app.db.allow_connections(false).await;
    let answer = app.ask(app.request("GET", "/api/v1/status").bearer_auth(TOKEN)).await;
    assert_eq!((answer.status, answer.headers.contains_key("retry-after")), (503, true), "{answer:?}");
    app.db.allow_connections(true).await;
}

#[test]
fn the_description_is_the_one_that_was_reviewed() {
    insta::assert_snapshot!(serde_json::to_string_pretty(&flexportal_sync::admin::openapi()).expect("JSON"));
}

#[tokio::test]
async fn a_dry_run_of_thousands_counts_what_could_be_done_and_the_rest_is_left_for_the_next_request() {
    let app = app().await;
    app.db
        .execute(
            "with failed as (
                 insert into deliveries (id, source, delivery_id, topic, shop_customer_id, concerns, occurred_at, received_at, payload)
                 select gen_random_uuid(), 'generic', 'd' || n, 'customer.updated', 'c' || n, 'customer', now(), now(),
                     case when n % 5 = 0 then '{\"erased\": true}' else '{}' end::jsonb
                 from generate_series(1, 2500) as n
                 returning id, source, shop_customer_id
             )
             insert into event_states (event_id, status, attempts, cause, finished_at, source, shop_customer_id)
             select id, 'failed', 1, 'a test', now(), source, shop_customer_id from failed",
        )
        .await;
    let asked = json!({"all": true, "dryRun": true});
    let dry = post(&app, "/api/v1/failures/retry", &asked).await.body;
    assert_eq!((&dry["matched"], &dry["possible"], &dry["changed"]), (&json!(2500), &json!(2000), &json!(0)), "{dry}");
    let done = post(&app, "/api/v1/failures/retry", &json!({"all": true})).await.body;
    assert_eq!(done["remaining"], 500, "{done}");
    assert!(
        done["changed"].as_i64().is_some_and(|changed| changed >= 1_500),
        "but for the 500 that are erased: {done}"
    );
    assert_eq!(app.count("select count(*) from event_states where status = 'pending'").await, done["changed"]);
}
