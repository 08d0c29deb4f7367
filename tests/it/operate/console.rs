//! The console, in a real browser, on the real service.

use std::time::Duration;

use flexportal_sync::fake_flexportal::{Behaviour, Failure, Refusal};
use serde_json::{Value, json};

use crate::support::shop::{generic, linked, shopify};
use crate::support::{App, Browser, Window};

const TOKEN: &str = "an-admin-token-of-some-length";

async fn app() -> App {
    App::start_with(&[("ADMIN_TOKEN", TOKEN), ("FLEXPORTAL_RATE_LIMIT_PER_MINUTE", "60")], "").await
}

impl Browser {
    /// Opens the console and signs in.
    async fn signed_in(app: &App, window: Window, hash: &str) -> Option<Self> {
        let browser = Self::open(window).await?;
        browser.goto(&format!("http://{}/console{hash}", app.addr)).await;
        browser.write("sign-in-token", TOKEN).await;
        browser.click("sign-in").await;
        browser.holds("document.getElementById('sign-in').hidden").await;
        Some(browser)
    }

    /// Nothing to complain of, and nothing from anywhere else.
    async fn is_content(&self, app: &App) {
        assert_eq!(self.complaints().await, Vec::<String>::new());
        let elsewhere = format!(
            "performance.getEntriesByType('resource').map((entry) => entry.name)\
             .filter((name) => !name.startsWith('http://{}/') && !name.startsWith('data:'))",
            app.addr
        );
        assert_eq!(self.value(&elsewhere).await, json!([]));
    }
}

/// FlexPortal refuses the phone of these customers.
fn refuse_phones(app: &App, customers: impl Iterator<Item = u32>, message: &str) {
    let refusal = |n: u32| Refusal {
        customer_id: format!("cus_{n}"),
        status: 422,
        code: "VALIDATION_ERROR".to_owned(),
        message: message.to_owned(),
        path: Some("phone".to_owned()),
    };
    app.fake.set_behaviour(Behaviour { refuse_customers: customers.map(refusal).collect(), ..Behaviour::default() });
}

#[tokio::test]
async fn the_token_is_kept_in_the_tab_and_in_no_address() {
    let app = app().await;
    let Some(browser) = Browser::open(Window::DESK).await else { return };
    browser.goto(&format!("http://{}/console", app.addr)).await;
    browser.write("sign-in-token", "wrong").await;
    browser.click("sign-in").await;
    browser.says("sign-in-message", "token").await;
    // Chromium itself notes the 401.
    let _ = browser.complaints().await;

    browser.client.refresh().await.expect("loaded again");
    browser.write("sign-in-token", TOKEN).await;
    browser.click("sign-in").await;
    browser.find("overview").await;
    browser.client.refresh().await.expect("loaded again");
    browser.find("overview").await;
    let kept = browser.value("[Object.values(sessionStorage).includes(arguments[0] ?? ''), location.href, localStorage.length, document.cookie]").await;
    assert_eq!((&kept[2], &kept[3]), (&json!(0), &json!("")));
    assert!(!kept[1].as_str().is_some_and(|address| address.contains(TOKEN)), "{kept}");
    assert_eq!(browser.value(&format!("Object.values(sessionStorage).includes('{TOKEN}')")).await, json!(true));
    let asked = browser.value("performance.getEntriesByType('resource').map((entry) => entry.name).join()").await;
    assert!(!asked.to_string().contains(TOKEN), "{asked}");
    browser.is_content(&app).await;

    // A token that is not taken any longer brings the sign-in back.
    browser.value("(Object.keys(sessionStorage).forEach((key) => sessionStorage.setItem(key, 'old')), true)").await;
    browser.click("nav-events").await;
    browser.says("sign-in-message", "token").await;
    browser.close().await;
}

#[tokio::test]
async fn the_overview_answers_is_it_in_sync_and_a_retry_is_counted_before_it_acts() {
    let app = app().await;
    refuse_phones(&app, 1..=3, "not a phone number");
    for n in 1..=3 {
        app.sync(linked(n, n, &json!({"phone": "x"}))).await;
        app.advance(Duration::from_secs(1));
    }
    refuse_phones(&app, std::iter::empty(), "");
    for n in 4..=9 {
        app.deliver(linked(n, n, &json!({"phone": "1"}))).await;
    }
    app.fake.fail_next(10, Failure::status(403));
    app.worker.step().await.expect("the database");
    app.fake.fail_next(0, Failure::status(403));

    let Some(browser) = Browser::signed_in(&app, Window::DESK, "").await else { return };
    browser.says("backlog", "6 customers wait").await;
    browser.says("backlog-end", "At the quota, what is due is done in about").await;
    browser.says("target-default", "of 60 requests used in the last minute").await;
    browser.says("target-default", "6 customers wait, ").await;
    browser.says("target-default", "FLEXPORTAL_API_KEY").await;
    browser.says("failure-group", "phone refused").await;
    browser.says("chart-intake-summary", "9").await;
    browser.says("source-generic", "generic").await;

    browser.click_css("[data-testid=failure-group] [data-testid=retry]").await;
    let count = browser.find("confirm-count").await.attr("data-count").await.expect("asked");
    assert_eq!(count.as_deref(), Some("3"));
    assert!(browser.text("confirm-time").await.contains("9 s"), "behind those that are due");
    browser.click("confirm-cancel").await;
    browser.holds("!document.querySelector('dialog').open").await;
    assert_eq!(app.count("select count(*) from interventions").await, 0, "nothing was done");
    assert_eq!(app.count("select count(*) from failed_syncs").await, 3);

    browser.click_css("[data-testid=failure-group] [data-testid=retry]").await;
    browser.click("confirm").await;
    let done = browser.find("confirm-result").await.attr("data-count").await.expect("asked");
    assert_eq!(done.as_deref(), Some("3"));
    assert_eq!(app.count("select count(*) from failed_syncs").await, 0);
    assert_eq!(app.count("select count(*) from interventions where action = 'retry' and done_by = 'console'").await, 3);
    browser.click("confirm-close").await;
    browser.says("failures", "Nothing").await;
    browser.is_content(&app).await;
    browser.close().await;
}

#[tokio::test]
async fn a_source_that_fell_silent_is_told_and_a_long_story_says_that_it_has_a_beginning() {
    let app = app().await;
    app.deliver(generic("c-1", 0, &json!({"phone": "1"}))).await;
    app.db
        .execute(
            "insert into deliveries (id, source, delivery_id, topic, shop_customer_id, concerns, occurred_at, received_at, payload)
             select ('019ab000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, source, 'd' || n, topic, shop_customer_id,
                 concerns, occurred_at, received_at, payload
             from deliveries, generate_series(1, 200) as n",
        )
        .await;
    app.db
        .execute(
            "insert into source_hours (source, hour, deliveries, last_at)
             select 'shopify', hour, 30, hour + interval '59 min'
             from generate_series(timestamptz '2026-11-10T00:00Z', '2026-11-23T05:00Z', '1 hour') as hour",
        )
        .await;
    let Some(browser) = Browser::signed_in(&app, Window::DESK, "").await else { return };
    browser.says("silence", "Shopify removes a subscription").await;
    browser.says("source-shopify", "silent").await;
    browser.goto(&format!("http://{}/console#/customers/generic/c-1", app.addr)).await;
    browser.says("older-events", "newest events").await;
    browser.is_content(&app).await;
    browser.close().await;
}

#[tokio::test]
async fn another_shops_webhooks_and_what_is_worth_knowing_are_on_the_first_page() {
    let app = app().await;
    app.sync(shopify(1, 0, &json!({"phone": "1"}))).await;
    app.deliver(shopify(1, 1, &json!({"phone": "2"})).of_shop(Some("staging.<b>shop</b>.example"))).await;
    app.db
        .execute(
            "insert into notices (kind, subject, count, first_at, last_at, detail)
             values ('owner_without_rights', 'woocommerce', 3, '2026-11-23T09:00Z', '2026-11-23T09:59Z', 'give it to an <i>administrator</i>')",
        )
        .await;
    let Some(browser) = Browser::signed_in(&app, Window::DESK, "").await else { return };
    browser.says("verdict", "Needs a person").await;
    browser.says("verdict", "of staging.<b>shop</b>.example is held").await;
    browser.says("verdict", "flexportal-sync sources ignore shopify").await;
    browser.says("notices", "woocommerce: give it to an <i>administrator</i>").await;
    browser.says("notices", "3 times").await;
    browser.is_content(&app).await;
    browser.close().await;
}

#[tokio::test]
async fn more_than_one_request_takes_on_is_discarded_to_the_last_with_a_reason() {
    let app = app().await;
    app.db
        .execute(
            "with made as (
                 insert into deliveries (id, source, delivery_id, topic, shop_customer_id, concerns, occurred_at, received_at, payload)
                 select ('019ab000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, 'generic', 'd' || n, 't', 'c' || n,
                     'customer', '2025-11-23', '2025-11-23', '{}'
                 from generate_series(1, 2500) as n
                 returning id, source, shop_customer_id
             )
             insert into event_states (event_id, status, last_http_status, last_error_code, cause, finished_at, source, shop_customer_id)
             select id, 'failed', 422, 'VALIDATION_ERROR', '`phone` refused', '2025-11-23', source, shop_customer_id from made",
        )
        .await;
    let Some(browser) = Browser::signed_in(&app, Window::DESK, "").await else { return };
    browser.click_css("[data-testid=failure-group] [data-testid=discard]").await;
    assert_eq!(browser.find("confirm-count").await.attr("data-count").await.expect("asked").as_deref(), Some("2500"));
    assert_eq!(browser.value("document.querySelector('[data-testid=confirm]').disabled").await, json!(true));
    browser.write("confirm-reason", "a test of ours").await;
    browser.click("confirm").await;
    assert_eq!(browser.find("confirm-result").await.attr("data-count").await.expect("asked").as_deref(), Some("2500"));
    assert_eq!(app.count("select count(*) from failed_syncs").await, 0);
    assert_eq!(app.count("select count(*) from interventions where reason = 'a test of ours'").await, 2_500);
    browser.is_content(&app).await;
    browser.close().await;
}

#[tokio::test]
async fn what_failed_after_the_count_is_not_set_back_with_what_was_counted() {
    let app = app().await;
    // More than are named one by one.
    app.db
        .execute(
            "with made as (
                 insert into deliveries (id, source, delivery_id, topic, shop_customer_id, concerns, occurred_at, received_at, payload)
                 select ('019ab000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, 'generic', 'd' || n, 't', 'c' || n,
                     'customer', '2025-11-23', '2025-11-23', '{}'
                 from generate_series(1, 2100) as n
                 returning id, source, shop_customer_id
             )
             insert into event_states (event_id, status, last_http_status, last_error_code, cause, finished_at, source, shop_customer_id)
             select id, 'failed', 422, 'VALIDATION_ERROR', '`phone` refused', '2025-11-23', source, shop_customer_id from made",
        )
        .await;
    let Some(browser) = Browser::signed_in(&app, Window::DESK, "").await else { return };
    browser.click_css("[data-testid=failure-group] [data-testid=retry]").await;
    assert_eq!(browser.find("confirm-count").await.attr("data-count").await.expect("asked").as_deref(), Some("2100"));

    app.advance(Duration::from_secs(1));
    refuse_phones(&app, 1..=1, "not a phone number");
    assert_eq!(app.sync(linked(1, 1, &json!({"phone": "x"}))).await.status, "failed");
    browser.click("confirm").await;

    assert_eq!(browser.find("confirm-result").await.attr("data-count").await.expect("asked").as_deref(), Some("2100"));
    assert_eq!(app.count("select count(*) from failed_syncs").await, 1, "the one that nobody had seen");
    assert_eq!(app.count("select count(*) from interventions where done_by = 'console'").await, 2_100);
    browser.is_content(&app).await;
    browser.close().await;
}

#[tokio::test]
async fn while_the_database_is_away_the_page_says_so_and_recovers() {
    let app = app().await;
    let Some(browser) = Browser::signed_in(&app, Window::DESK, "").await else { return };
    let refresh = "document.dispatchEvent(new Event('visibilitychange'))";
    browser.says("verdict", "All is well").await;

    app.db.go_away().await;
    browser.value(refresh).await;
    browser.says("away", "The service is away").await;
    browser.holds("document.querySelector('[data-testid=verdict]').hidden").await;
    browser.says("backlog", "Nothing waits.").await;

    app.db.allow_connections(true).await;
    browser.value(refresh).await;
    browser.holds("document.querySelector('[data-testid=away]').hidden").await;
    browser.says("verdict", "All is well").await;
    let complaints = browser.complaints().await;
    assert!(complaints.iter().all(|line| line.contains("503")), "{complaints:?}");
    browser.close().await;
}

#[tokio::test]
async fn an_event_shows_request_and_answer_and_a_customer_its_story() {
    let app = app().await;
    app.fake.fail_next_for("cus_1", 1, Failure::status(503));
    let event = app.deliver(shopify(1, 0, &json!({"phone": "+49 30"}))).await.event_id();
    app.drain().await;
    app.advance(Duration::from_secs(5));
    refuse_phones(&app, 1..=1, "not a phone number");
    app.drain().await;

    // Straight to the event, through the sign-in.
    let hash = format!("#/events/{event}");
    let Some(browser) = Browser::signed_in(&app, Window::DESK, &hash).await else { return };
    browser.says("event-status", "failed").await;
    assert_eq!(browser.text("explanation").await, "given up after 2 attempts:", "the error has a place of its own");
    browser.says("error", "not a phone number").await;
    browser.holds("document.querySelectorAll('[data-testid=attempt]').length === 3").await;
    browser.says("attempts", "+49 30").await;
    browser.says("attempts", "PUT /v1/customers/").await;
    browser.says("attempts", "not a phone number").await;
    browser.says("payload", "Lovelace").await;
    browser.click("preview").await;
    browser.says("preview-outcome", "this would be sent").await;

    browser.click("nav-customers").await;
    browser.write("customer-search", "CUSTOMER1@example.com\n").await;
    browser.click_css("a[data-testid=customer]").await;
    browser.says("customer-state", "failed").await;
    browser.says("story", "answered 503").await;
    browser.says("story", "given up after 2 attempts").await;
    browser.client.back().await.expect("back");
    browser.find("customer-list").await;

    browser.click("nav-failures").await;
    browser.find("failure-list").await;
    browser.write("filter-customer", "nobody").await;
    browser.says("filter-differs", "not applied yet").await;
    browser.holds("document.querySelector('[data-testid=discard-matching]').disabled").await;
    browser.click_css("a[data-testid=failure]").await;
    browser.says("event-status", "failed").await;
    browser.click("discard").await;
    browser.find("confirm-count").await;
    browser.client.back().await.expect("back");
    browser.holds("!document.querySelector('dialog').open").await;
    browser.click_css("a[data-testid=failure]").await;
    browser.says("event-status", "failed").await;
    browser.click("discard").await;
    browser.write("confirm-reason", "seen").await;
    browser.click("confirm").await;
    browser.find("confirm-result").await;
    browser.holds("document.getElementById('failure-count').hidden").await;
    browser.click("confirm-close").await;
    browser.says("event-status", "discarded").await;
    browser.says("interventions", "seen").await;
    browser.is_content(&app).await;
    browser.close().await;
}

#[tokio::test]
async fn what_shops_and_flexportal_send_is_text_and_nothing_else() {
    const HOSTILE: &str = "<script>window.pwned=1</script><img src=x onerror=window.pwned=2>\u{202e}evil\"'`${1}";
    let app = app().await;
    let answer = format!("<img src=x onerror=window.pwned=3>{}", "<b>loud</b>".repeat(300));
    refuse_phones(&app, 1..=1, &answer);
    let fields = json!({
        "phone": HOSTILE, "firstName": HOSTILE, "lastName": HOSTILE, "company": HOSTILE, "email": "\"<script>\"@example.org",
        "flexportalCustomerId": "cus_1",
    });
    let event = app.deliver(generic(HOSTILE, 0, &fields)).await.event_id();
    app.deliver(generic("javascript:window.pwned=4", 1, &json!({"phone": HOSTILE}))).await;
    app.drain().await;
    assert_eq!(app.event(event).await.status, "failed");

    let Some(browser) = Browser::signed_in(&app, Window::DESK, "").await else { return };
    // Twice: also without its policy, the page lets nothing of it be anything but text.
    for without_policy in [false, true] {
        browser.devtools("Page.setBypassCSP", json!({"enabled": without_policy})).await;
        browser.client.refresh().await.expect("loaded again");
        if without_policy {
            let runs = "(() => { const script = document.createElement('script'); script.textContent = 'window.ran = true'; document.head.append(script); script.remove(); return window.ran; })()";
            assert_eq!(browser.value(runs).await, json!(true), "nothing stands in the way but the page itself");
        }
        nothing_but_text(&browser, &app, event, HOSTILE).await;
    }
    browser.close().await;
}

/// Looks through all pages.
async fn nothing_but_text(browser: &Browser, app: &App, event: uuid::Uuid, hostile: &str) {
    let customer = url::form_urlencoded::byte_serialize(hostile.as_bytes()).collect::<String>().replace('+', "%20");
    for (hash, part) in [
        ("#/".to_owned(), "failure-group"),
        ("#/failures".to_owned(), "failure-list"),
        (format!("#/events/{event}"), "payload"),
        ("#/events".to_owned(), "event-list"),
        ("#/customers".to_owned(), "customer-list"),
        (format!("#/customers/generic/{customer}"), "story"),
        ("#/customers/generic/javascript%3Awindow.pwned%3D4".to_owned(), "story"),
        ("#/events/<script>window.pwned=5</script>".to_owned(), "not-found"),
    ] {
        browser.goto(&format!("http://{}/console{hash}", app.addr)).await;
        browser.find(part).await;
        let injected = browser
            .value(
                "[window.pwned ?? null, document.querySelectorAll('img, iframe, object, embed, [onerror], [href^=\"javascript:\" i]').length,
                  document.scripts.length, document.querySelectorAll('b').length, /[\\u0000-\\u0008\\u202a-\\u202e\\u2066-\\u2069]/.test(document.body.innerText)]",
            )
            .await;
        assert_eq!(
            (&injected[0], &injected[1], &injected[2]),
            (&Value::Null, &json!(0), &json!(1)),
            "{hash}: {injected}"
        );
        assert_eq!(injected[4], json!(false), "{hash}: characters that turn the writing are shown by their numbers");
    }
    browser.goto(&format!("http://{}/console#/events/{event}", app.addr)).await;
    browser.says("attempts", "<img src=x onerror=window.pwned=3>").await;
    // An event and a customer that do not exist are answered 404, which Chromium notes.
    let complaints = browser.complaints().await;
    assert!(complaints.iter().all(|line| line.contains("404")), "{complaints:?}");
}

#[tokio::test]
async fn on_a_phone_in_the_dark_nothing_stands_out_over_the_edge() {
    let app = app().await;
    refuse_phones(&app, 1..=1, &"a very long word without any space ".replace(' ', "_").repeat(8));
    let event =
        app.deliver(linked(1, 1, &json!({"phone": "x".repeat(200), "company": "Ä".repeat(120)}))).await.event_id();
    app.drain().await;
    let Some(browser) = Browser::signed_in(&app, Window::PHONE, "").await else { return };
    assert_eq!(browser.value("innerWidth").await, json!(360));
    assert_eq!(browser.value("matchMedia('(prefers-color-scheme: dark)').matches").await, json!(true));
    let brightness = "(() => { const [r, g, b] = getComputedStyle(document.body).backgroundColor.match(/[\\d.]+/g).map(Number); return r + g + b; })()";
    assert!(browser.value(brightness).await.as_f64().is_some_and(|light| light < 200.0));
    for (hash, part) in [
        ("#/".to_owned(), "overview"),
        ("#/failures".to_owned(), "failure-list"),
        (format!("#/events/{event}"), "payload"),
        ("#/events".to_owned(), "event-list"),
        ("#/customers/generic/shop-1".to_owned(), "story"),
    ] {
        browser.goto(&format!("http://{}/console{hash}", app.addr)).await;
        browser.find(part).await;
        assert_eq!(browser.value("document.documentElement.scrollWidth <= innerWidth").await, json!(true), "{hash}");
    }
    browser.goto(&format!("http://{}/console#/failures", app.addr)).await;
    browser.click_css("[data-testid=retry-matching]").await;
    browser.find("confirm-count").await;
    assert_eq!(
        browser.value("document.documentElement.scrollWidth <= innerWidth").await,
        json!(true),
        "with the question open"
    );
    browser.is_content(&app).await;
    browser.close().await;
}

#[tokio::test]
async fn the_page_is_served_with_a_policy_that_lets_it_ask_nobody_else() {
    let app = app().await;
    for path in ["/console", "/console/console.css", "/console/console.js"] {
        let page = app.get(path).await;
        assert_eq!(page.status, 200, "{path}");
        let policy = page.headers["content-security-policy"].to_str().expect("text");
        for rule in [
            "default-src 'none'",
            "script-src 'self'",
            "connect-src 'self'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
        ] {
            assert!(policy.contains(rule), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(page.headers["x-content-type-options"], "nosniff");
        let text = page.body.as_str().unwrap_or_default();
        assert!(!text.contains("innerHTML") && !text.contains(TOKEN), "{path}");
    }
}

/// Pictures for the README: `cargo test --test it pictures -- --ignored`.
#[tokio::test]
#[ignore = "makes pictures"]
async fn pictures_for_the_readme() {
    // With time that stands still nobody waits for a quota that is used up.
    let app = App::start_with(&[("ADMIN_TOKEN", TOKEN), ("FLEXPORTAL_RATE_LIMIT_PER_MINUTE", "6000")], "").await;
    scenery(&app).await;
    let failed: uuid::Uuid =
        sqlx::query_scalar("select event_id from failed_syncs where error_code = 'VALIDATION_ERROR' limit 1")
            .fetch_one(&app.db.pool)
            .await
            .expect("a failure");
    for (name, window, hash, part) in [
        ("console-overview", Window { height: 1_250, ..Window::DESK }, String::new(), "failure-group"),
        ("console-event", Window { height: 1_250, ..Window::DESK }, format!("#/events/{failed}"), "payload"),
        (
            "console-phone",
            Window { width: 390, height: 1_100, is_dark: true },
            "#/customers/shopify/7120000001".to_owned(),
            "story",
        ),
    ] {
        let browser = Browser::signed_in(&app, window, &hash).await.expect("a browser");
        browser.find(part).await;
        browser.holds("!document.body.innerText.includes('Loading')").await;
        let path = format!("{}/docs/{name}.png", env!("CARGO_MANIFEST_DIR"));
        std::fs::write(&path, browser.screenshot().await).expect("written");
        browser.close().await;
    }
}

/// An hour of a shop's life.
async fn scenery(app: &App) {
    let address = json!({"name": "Ada Lovelace", "address1": "Unter den Linden 5", "city": "Berlin", "zip": "10117", "country_code": "DE"});
    for minute in 0..55_u32 {
        for n in 0..(2 + (minute * 7) % 5) {
            let customer = 2 + (minute * 3 + n) % 18;
            app.deliver(shopify(
                customer,
                minute * 60 % 3_600,
                &json!({"phone": format!("+49 30 {minute}{n}"), "default_address": address}),
            ))
            .await;
        }
        app.drain().await;
        app.advance(Duration::from_mins(1));
    }
    refuse_phones(app, 1..=4, "not a phone number");
    app.fake.fail_next_for("cus_1", 1, Failure::status(503));
    for n in 1..=4 {
        app.deliver(shopify(n, 3_300 + n, &json!({"phone": "030 / 12 34 ext. 5", "default_address": address}))).await;
        app.drain().await;
        app.advance(Duration::from_secs(4));
        app.drain().await;
    }
    app.fake.fail_next_for(
        "cus_19",
        1,
        Failure::Status { status: 409, code: "CONFLICT".to_owned(), retry_after: None },
    );
    app.deliver(linked(19, 3_350, &json!({"company": "Lovelace Analytics GmbH"}))).await;
    app.drain().await;
    app.advance(Duration::from_secs(30));
    for n in 5..=18 {
        app.deliver(shopify(n, 3_400 + n, &json!({"phone": "+49 30 901820"}))).await;
    }
    app.worker.step().await.expect("the database");
}
