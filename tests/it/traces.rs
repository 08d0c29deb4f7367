//! Traces over OTLP: from the webhook to the PUT, over processes and a database; and nothing personal in any of what
//! the service tells about itself.

use std::time::{Duration, Instant};

use flexportal_sync::config::ShopKind;
use flexportal_sync::domain::Clock;
use flexportal_sync::fake_flexportal::{Behaviour, FakeFlexportal, FakeOptions, Refusal};
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

use crate::support::shop::{GENERIC_SECRET, SHOPIFY_SECRET, Webhook, generic, linked, shopify};
use crate::support::{Collector, Database, Process, database, wait_until};

const ALL_SETTLED: &str = "select bool_and(status <> 'pending' and status <> 'in_flight') from outbox_events";
/// Of a trace that is not ours.
const FOREIGN: &str = "00-11111111111111111111111111111111-2222222222222222-01";

async fn scene() -> (Database, FakeFlexportal, Collector) {
    let fake = FakeFlexportal::start(FakeOptions { customers: 20, ..FakeOptions::default() }).await;
    (database().await, fake.expect("the fake starts"), Collector::start().await)
}

fn secrets<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [&[("SHOPIFY_WEBHOOK_SECRET", SHOPIFY_SECRET), ("GENERIC_WEBHOOK_SECRET", GENERIC_SECRET)], more].concat()
}

#[tokio::test]
async fn the_webhook_and_the_put_are_one_trace_over_two_processes() {
    let (db, fake, collector) = scene().await;
    let variables = collector.variables();
    let intake = Process::start_as(&["--role", "intake"], &db.url, &fake, &secrets(&variables)).await;
    let webhook = shopify(3, 0, &json!({"phone": "1"}));
    let mut headers = webhook.signed_at(Clock::System.now());
    headers.insert("traceparent", FOREIGN.parse().expect("a header"));
    let event = intake.post("shopify", headers, webhook.body).await.event_id().to_string();
    let worker = Process::start_as(&["--role", "worker"], &db.url, &fake, &variables).await;
    wait_until(&db.pool, ALL_SETTLED).await;
    worker.terminate();
    assert!(worker.leaves().await.success(), "what is left is sent at the end");

    let only = |name: &str| {
        let spans = collector.spans(name);
        assert_eq!(spans.len(), 1, "{name}: {spans:?}");
        spans[0].clone()
    };
    collector.has(1, "intake.receive").await;
    let (received, committed, synced) = (only("intake.receive"), only("outbox.commit"), only("sync.customer"));
    let (found, put) = (only("flexportal.find_by_email"), only("flexportal.update_customer"));
    assert_eq!(received.parent, "", "a shop's own trace is not trusted");
    assert_ne!(received.trace, FOREIGN[3..35]);
    for (span, parent) in [(&committed, &received), (&synced, &received), (&found, &synced), (&put, &synced)] {
        assert_eq!((&span.trace, &span.parent), (&received.trace, &parent.id), "{span:?}");
    }
    assert!(put.is_client && put.service == "flexportal-sync");
    assert_eq!(received.attributes["event.id"], event);
    assert_eq!(received.attributes["result"], "accepted");
    assert_eq!((&synced.attributes["status"], &synced.attributes["event.id"]), (&"synced".to_owned(), &event));
    assert_eq!(
        (&put.attributes["http.response.status_code"], &put.attributes["outcome"]),
        (&"200".into(), &"ok".into())
    );
}

#[tokio::test]
async fn a_put_belongs_to_its_newest_change_and_is_linked_to_those_folded_into_it() {
    let (db, fake, collector) = scene().await;
    let variables = collector.variables();
    let intake = Process::start_as(&["--role", "intake"], &db.url, &fake, &secrets(&variables)).await;
    let newest = intake.deliver(linked(1, 5, &json!({"phone": "5"}))).await.event_id().to_string();
    let older = intake.deliver(linked(1, 4, &json!({"company": "C"}))).await.event_id().to_string();
    let received = collector.has(2, "intake.receive").await;
    let place = |event: &str| {
        let span = received.iter().find(|span| span.attributes["event.id"] == event).expect("traced");
        (span.trace.clone(), span.id.clone())
    };
    let _worker = Process::start_as(&["--role", "worker"], &db.url, &fake, &variables).await;
    let synced = collector.has(1, "sync.customer").await;
    assert_eq!((synced[0].trace.clone(), synced[0].parent.clone()), place(&newest), "newest by the shop's time");
    assert_eq!(synced[0].links, [place(&older)]);
    assert_eq!(synced[0].attributes["events"], "2");
    assert_eq!(collector.spans("flexportal.update_customer").len(), 1);
}

#[tokio::test]
async fn without_a_collector_nothing_is_stored_of_traces() {
    let (db, fake, _) = scene().await;
    let process = Process::start(&db.url, &fake).await;
    process.deliver(linked(1, 0, &json!({"phone": "1"}))).await;
    wait_until(&db.pool, ALL_SETTLED).await;
    assert_eq!(db.count("select count(*) from deliveries where traceparent is not null").await, 0);
}

#[tokio::test]
async fn a_collector_that_is_away_harms_nothing_and_is_told_of_once() {
    let (db, fake, _) = scene().await;
    // A port that nobody listens on any more.
    let away = tokio::net::TcpListener::bind("127.0.0.1:0").await.and_then(|port| port.local_addr()).expect("a port");
    let endpoint = format!("http://{away}");
    let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("OTEL_BSP_SCHEDULE_DELAY", "20")];
    let process = Process::start_with(&db.url, &fake, &variables).await;
    for second in 0..20 {
        assert_eq!(process.deliver(linked(1, second, &json!({"phone": second.to_string()}))).await.status, 200);
    }
    wait_until(&db.pool, ALL_SETTLED).await;
    process.logs("spans cannot be exported and are dropped").await;
    assert_eq!(
        process.log().iter().filter(|line| line["message"] == "spans cannot be exported and are dropped").count(),
        1
    );
    process.terminate();
    let asked_at = Instant::now();
    assert!(process.leaves().await.success());
    assert!(asked_at.elapsed() < Duration::from_secs(5), "{:?}", asked_at.elapsed());
}

/// Marks are words that stand nowhere but in what is personal or secret.
#[tokio::test]
async fn nothing_personal_or_secret_is_in_metrics_logs_or_traces() {
    let (db, fake, collector) = scene().await;
    fake.set_behaviour(Behaviour {
        refuse_customers: vec![Refusal {
            customer_id: "cus_2".to_owned(),
            status: 422,
            code: "VALIDATION_ERROR".to_owned(),
            message: "markedrefusal is no phone number".to_owned(),
            path: Some("phone".to_owned()),
        }],
        ..Behaviour::default()
    });
    let marked = json!({
        "firstName": "Markedfirst", "lastName": "Markedlast", "company": "Markedcompany", "phone": "+4966600666",
        "email": "marked@example.com",
        "billingAddress": {"streetAddress": "Markedstreet 1", "city": "Markedcity", "country": "DE", "postalCode": "66600"},
    });
    let mut variables = collector.variables().to_vec();
    variables.extend([("ADMIN_TOKEN", "marked-admin-token-0123456789"), ("RUST_LOG", "info,flexportal_sync=trace")]);
    let process = Process::start_with(&db.url, &fake, &variables).await;

    process.deliver(linked(1, 0, &marked)).await;
    process.deliver(linked(2, 0, &marked)).await;
    process.deliver(generic("marked-customer", 0, &marked)).await;
    process.deliver(shopify(4, 0, &json!({"first_name": "Markedfirst", "phone": "+4966600666"}))).await;
    let unreadable = json!({"type": "customer.updated", "data": {"customerId": {"marked": "marked"}, "email": "marked@example.com"}});
    process.deliver(Webhook::new(ShopKind::Generic, "customer.updated", unreadable.to_string())).await;
    process.deliver(Webhook::new(ShopKind::Shopify, "customers/marked", b"{\"id\": \"marked".as_slice())).await;
    let forged = shopify(5, 0, &json!({"first_name": "Markedfirst"}));
    let mut headers = forged.signed_at(Clock::System.now());
    headers.insert("x-shopify-hmac-sha256", "bWFya2Vk".parse().expect("a header"));
    process.post("shopify", headers, forged.body).await;
    process.post("marked", HeaderMap::new(), "marked").await;
    wait_until(&db.pool, ALL_SETTLED).await;
    assert_eq!(db.count("select count(*) from outbox_events where status in ('failed', 'unmatched')").await, 2);

    let Value::String(metrics) = process.get("/metrics").await.body else { panic!("no text") };
    collector.has(4, "sync.customer").await;
    collector.has(6, "intake.receive").await;
    let traces = collector.bodies().concat();
    let log = process.log().iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
    for (place, text) in
        [("metrics", &metrics), ("traces", &String::from_utf8_lossy(&traces).into_owned()), ("log", &log)]
    {
        let text = text.to_lowercase();
        for mark in [
            "marked",
            "66600",
            "7120000004",
            "customer4",
            "cus_1",
            "shop-1",
            "bwfya2vk",
            "fake-key",
            "bG3GFucjRb",
            "hush-shopify",
        ] {
            let found = text.find(&mark.to_lowercase());
            let around = found.map(|at| text.get(at.saturating_sub(200)..(at + 200).min(text.len())));
            assert!(found.is_none(), "{mark} in {place}: {around:?}");
        }
    }
}
