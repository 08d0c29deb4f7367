//! `GET /metrics`: what is counted, and that nothing personal is in it.

use std::io::Write;
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use flexportal_sync::config::ShopKind;
use flexportal_sync::fake_flexportal::Failure;
use serde_json::{Value, json};

use crate::support::shop::{Webhook, linked, shopify, shopify_topic};
use crate::support::{App, start_of_time};

const ALERTS: &str = include_str!("../../deploy/prometheus-alerts.yml");
const ALERT_TESTS: &str = include_str!("../../deploy/prometheus-alerts-test.yml");
const DASHBOARD: &str = include_str!("../../deploy/grafana-dashboard.json");

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

/// The same of what is counted; gauges are written with a point.
fn count(text: &str, series: &str) -> u64 {
    value::<String>(text, series).trim_end_matches(".0").parse().expect("a count")
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

#[tokio::test]
async fn how_the_service_stands_is_read_from_the_database() {
    let app = App::start_with(&[("FLEXPORTAL_RATE_LIMIT_PER_MINUTE", "60")], "").await;
    let text = scrape(&app).await;
    let of_default = |text: &str, name: &str, labels: &str| {
        let value: f64 = value(text, &format!(r#"flexportal_sync_{name}{{target="default"{labels}}}"#));
        format!("{value:.0}")
    };
    assert_eq!(count(&text, "flexportal_sync_database_up"), 1);
    assert_eq!(of_default(&text, "quota_limit_requests", ""), "60");
    assert_eq!(of_default(&text, "quota_available_requests", ""), "6", "a tenth at once");
    assert_eq!(of_default(&text, "waiting_customers", ""), "0");
    assert_eq!(of_default(&text, "overdue_seconds", ""), "0");
    assert_eq!(of_default(&text, "target_held", r#",reason="refused""#), "0");
    assert_eq!(count(&text, r#"flexportal_sync_source_silent{source="shopify"}"#), 0);

    for n in 1..=3 {
        app.deliver(linked(n, 0, &json!({"phone": "1"}))).await;
    }
    app.deliver(data_request()).await;
    app.advance(Duration::from_mins(2));
    let text = scrape(&app).await;
    assert_eq!(of_default(&text, "waiting_customers", ""), "3");
    assert_eq!(of_default(&text, "due_customers", ""), "3");
    assert_eq!(of_default(&text, "overdue_seconds", ""), "120");
    assert_eq!(of_default(&text, "oldest_waiting_age_seconds", ""), "120");
    assert_eq!(of_default(&text, "backlog_clear_seconds", ""), "3", "a second each");
    assert_eq!(count(&text, "flexportal_sync_open_data_requests"), 1);
    let last: f64 = value(&text, r#"flexportal_sync_source_last_delivery_timestamp_seconds{source="generic"}"#);
    #[expect(clippy::cast_precision_loss, reason = "seconds")]
    let start = start_of_time().timestamp() as f64;
    assert!((last - start).abs() < 1.0, "{last}");

    app.fake.fail_next(1, Failure::status(422));
    app.drain().await;
    app.fake.fail_next(1, Failure::status(401));
    app.deliver(linked(4, 0, &json!({"phone": "1"}))).await;
    app.drain().await;
    app.advance(Duration::from_secs(10));
    let text = scrape(&app).await;
    assert_eq!(of_default(&text, "waiting_customers", ""), "1");
    assert_eq!(of_default(&text, "quota_used_requests", ""), "4");
    assert_eq!(of_default(&text, "target_held", r#",reason="refused""#), "1");
    assert_eq!(of_default(&text, "target_held", r#",reason="failing""#), "0");
    assert_eq!(count(&text, r#"flexportal_sync_failed_events{source="generic",cause="refused: INTERNAL_ERROR"}"#), 1);
}

#[tokio::test]
async fn a_database_that_hangs_holds_a_scrape_up_for_two_seconds_and_hides_nothing_else() {
    let app = App::start().await;
    app.deliver(linked(1, 0, &json!({"phone": "1"}))).await;
    let hold = app.db.hold("lock table targets in access exclusive mode").await;
    let asked_at = Instant::now();
    let text = scrape(&app).await;
    let (is_up, is_known) = ("flexportal_sync_database_up", "flexportal_sync_standing_known");
    assert_eq!((count(&text, is_up), count(&text, is_known)), (1, 0), "it answers, but not this");
    assert_eq!(count(&text, r#"flexportal_sync_deliveries_total{source="generic",result="accepted"}"#), 1);
    assert!(!text.contains("waiting_customers"), "what is not known is not told");
    scrape(&app).await;
    assert!(asked_at.elapsed() < Duration::from_millis(3_500), "{:?}: it was asked once", asked_at.elapsed());

    hold.release().await;
    app.advance(Duration::from_secs(5));
    let text = scrape(&app).await;
    assert_eq!((count(&text, is_up), count(&text, is_known)), (1, 1));

    app.db.go_away().await;
    app.advance(Duration::from_secs(5));
    let text = scrape(&app).await;
    assert_eq!((count(&text, is_up), count(&text, is_known)), (0, 0), "now it is away");
}

fn data_request() -> Webhook {
    let body = json!({"shop_domain": "shop.example", "orders_requested": [], "customer": {"id": 1}});
    Webhook::new(ShopKind::Shopify, "customers/data_request", body.to_string())
}

/// One of everything: waits, fails, is held; with a limit.
async fn busy() -> App {
    let app = App::start_with(&[("FLEXPORTAL_RATE_LIMIT_PER_MINUTE", "60")], "").await;
    app.fake.fail_next(1, Failure::status(422));
    app.sync(linked(1, 0, &json!({"phone": "1"}))).await;
    app.deliver(data_request()).await;
    app.advance(Duration::from_mins(1));
    app
}

/// Whoever reads them wants those that are there.
#[tokio::test]
async fn alerts_and_dashboard_ask_for_metrics_that_exist() {
    let app = busy().await;
    let shown = scrape(&app).await;
    let exists = |name: &str| shown.lines().any(|line| line.split(['{', ' ']).next() == Some(name));
    for text in [ALERTS, ALERT_TESTS, DASHBOARD] {
        let names = text.match_indices("flexportal_sync_").map(|(at, _)| {
            let end = text[at..].find(|c: char| !c.is_ascii_lowercase() && c != '_');
            &text[at..at + end.unwrap_or(text.len() - at)]
        });
        let unknown: Vec<_> = names.filter(|name| !exists(name)).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }
    let readme = include_str!("../../README.md");
    for name in shown.lines().filter_map(|line| line.strip_prefix("# TYPE flexportal_sync_")?.split(' ').next()) {
        assert!(readme.contains(&format!("`{name}`")), "{name} is not in the README");
    }
}

#[tokio::test]
async fn the_dashboard_can_be_imported_and_its_queries_be_read() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let mut ids: Vec<_> = panels.iter().map(|panel| panel["id"].as_u64().expect("an id")).collect();
    ids.dedup();
    assert_eq!(ids.len(), panels.len());
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let queries: Vec<_> = targets
        .map(|target| {
            assert_eq!(target["datasource"]["uid"], "${datasource}");
            target["expr"].as_str().expect("a query").replace("$__rate_interval", "5m")
        })
        .collect();
    assert!(queries.len() > 20);
    let rules: Vec<_> =
        queries.iter().enumerate().map(|(n, expr)| json!({"record": format!("q{n}"), "expr": expr})).collect();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("queries.yml");
    // JSON is YAML.
    std::fs::write(&file, json!({"groups": [{"name": "queries", "rules": rules}]}).to_string()).expect("written");
    promtool(&["check", "rules", file.to_str().expect("text")], "");
}

#[tokio::test]
async fn promtool_has_nothing_to_say_about_the_names() {
    promtool(&["check", "metrics"], &scrape(&busy().await).await);
}

/// Asks `promtool`, where it is at hand, as in `.ci/run`.
fn promtool(arguments: &[&str], input: &str) {
    let mut command = Command::new("promtool");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut promtool) = command.spawn() else { return };
    promtool.stdin.take().expect("piped").write_all(input.as_bytes()).expect("written");
    let output = promtool.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
