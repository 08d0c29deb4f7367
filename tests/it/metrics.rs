//! `GET /metrics`: what is counted, and that nothing personal is in it.

use std::io::Write;
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::Duration;

use flexportal_sync::fake_flexportal::Failure;
use serde_json::{Value, json};

use crate::support::App;
use crate::support::shop::{linked, shopify, shopify_topic};

/// What `/metrics` shows, as text.
async fn scrape(app: &App) -> String {
    let answer = app.get("/metrics").await;
    assert_eq!(
        (answer.status, answer.headers["content-type"].as_bytes()),
        (200, b"text/plain; version=0.0.4; charset=utf-8".as_slice())
    );
    let Value::String(text) = answer.body else { panic!("no text: {:?}", answer.body) };
    text
}

/// The value of one series, by its name and labels as they are written.
fn value<T: FromStr>(text: &str, series: &str) -> T {
    let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok());
    value.unwrap_or_else(|| panic!("no {series} in\n{text}"))
}

/// The same of what is counted.
fn count(text: &str, series: &str) -> u64 {
    value(text, series)
}

#[tokio::test]
async fn every_answer_to_a_delivery_is_counted_by_source() {
    let app = App::start().await;
    let before = scrape(&app).await;
    assert_eq!(count(&before, r#"flexportal_sync_deliveries_total{source="shopify",result="rejected_signature"}"#), 0);

    let change = shopify(1, 0, &json!({}));
    app.deliver(change.clone()).await;
    app.deliver(change.clone()).await;
    app.deliver(shopify_topic("orders/create", 1, 0, &json!({}))).await;
    let mut forged = change.signed_at(app.clock.now());
    forged.insert("x-shopify-hmac-sha256", "AAAA".parse().expect("a header"));
    app.post("shopify", forged, change.body.clone()).await;
    app.deliver(shopify_topic("customers/update", 1, 0, &json!({"id": null}))).await;
    app.db.execute("alter table deliveries rename to elsewhere").await;
    app.deliver(shopify(1, 1, &json!({}))).await;

    let after = scrape(&app).await;
    for result in ["accepted", "duplicate", "ignored", "rejected_signature", "refused", "unavailable"] {
        let series = format!(r#"flexportal_sync_deliveries_total{{source="shopify",result="{result}"}}"#);
        assert_eq!(count(&after, &series), 1, "{result}");
    }
    assert_eq!(count(&after, "flexportal_sync_intake_duration_seconds_count"), 6);
    assert_eq!(count(&after, "flexportal_sync_commit_group_size_count"), 2, "what failed was not committed");
    assert_eq!(count(&after, r#"flexportal_sync_deliveries_total{source="generic",result="accepted"}"#), 0);
}

#[tokio::test]
async fn requests_are_counted_by_outcome_and_what_folding_saved_is_too() {
    let app = App::start().await;
    app.deliver(linked(1, 0, &json!({"phone": "1"}))).await;
    app.deliver(linked(1, 1, &json!({"company": "C"}))).await;
    app.advance(Duration::from_mins(2));
    app.drain().await;
    app.sync(linked(1, 2, &json!({"phone": "1"}))).await;
    app.fake.fail_next(1, Failure::status(503));
    app.sync(shopify(2, 0, &json!({}))).await;
    app.advance(Duration::from_secs(1));
    app.drain().await;
    app.fake.fail_next(1, Failure::status(422));
    app.sync(linked(3, 0, &json!({"phone": "3"}))).await;

    let text = scrape(&app).await;
    let requests = |operation: &str, outcome: &str| {
        let labels = format!(r#"target="default",operation="{operation}",outcome="{outcome}""#);
        count(&text, &format!("flexportal_sync_requests_total{{{labels}}}"))
    };
    assert_eq!(requests("find_by_email", "unavailable"), 1);
    assert_eq!(requests("find_by_email", "ok"), 1);
    assert_eq!(requests("update_customer", "ok"), 2);
    assert_eq!(requests("update_customer", "refused"), 1);
    assert_eq!(requests("update_customer", "rate_limited"), 0);
    let of_default =
        |name: &str, labels: &str| count(&text, &format!(r#"flexportal_sync_{name}{{target="default"{labels}}}"#));
    assert_eq!(of_default("request_duration_seconds_count", r#",operation="update_customer""#), 3);
    assert_eq!(of_default("requests_saved_total", r#",reason="folded""#), 1);
    assert_eq!(of_default("requests_saved_total", r#",reason="unchanged""#), 1);
    assert_eq!(of_default("retries_total", ""), 1);
    let settled = |source: &str, status: &str| {
        let labels = format!(r#"source="{source}",target="default",status="{status}""#);
        count(&text, &format!("flexportal_sync_events_settled_total{{{labels}}}"))
    };
    assert_eq!(settled("generic", "superseded"), 1);
    assert_eq!(settled("generic", "synced"), 1);
    assert_eq!(settled("generic", "unchanged"), 1);
    assert_eq!(settled("generic", "failed"), 1);
    assert_eq!(settled("shopify", "synced"), 1);
    assert_eq!(of_default("delay_seconds_count", ""), 4, "what failed is not there");
    let late: f64 = value(&text, r#"flexportal_sync_delay_seconds_sum{target="default"}"#);
    assert!((241.0..242.0).contains(&late), "two of them waited for two minutes, one for a second: {late}");
}

#[tokio::test]
async fn two_services_in_one_process_count_apart() {
    let (one, other) = (App::start().await, App::start().await);
    one.sync(linked(1, 0, &json!({"phone": "1"}))).await;
    let series = r#"flexportal_sync_requests_total{target="default",operation="update_customer",outcome="ok"}"#;
    assert_eq!((count(&scrape(&one).await, series), count(&scrape(&other).await, series)), (1, 0));
}

/// Where `promtool` is at hand, as in `.ci/run`.
#[tokio::test]
async fn promtool_has_nothing_to_say_about_the_names() {
    let app = App::start().await;
    app.sync(linked(1, 0, &json!({"phone": "1"}))).await;
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut promtool) = command.spawn() else { return };
    promtool.stdin.take().expect("piped").write_all(scrape(&app).await.as_bytes()).expect("written");
    let output = promtool.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
