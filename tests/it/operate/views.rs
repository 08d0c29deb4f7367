//! What people find with `psql`.

use secrecy::ExposeSecret;
use serde_json::json;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, Row};

use crate::support::App;
use crate::support::shop::{generic, linked};
use clap::ValueEnum;
use flexportal_sync::domain::{Clock, EventStatus, ShopCustomerId, SourceName};
use flexportal_sync::fake_flexportal::Failure;
use flexportal_sync::outbox::{
    CustomerFilter, CustomerState, CustomerSync, EventFilter, FailureFilter, Outbox, Page, Remedy,
};

#[tokio::test]
async fn the_backlog_tells_how_long_it_will_take_at_the_quota() {
    let app = App::start_with(&[("FLEXPORTAL_RATE_LIMIT_PER_MINUTE", "60")], "").await;
    for n in 1..=30 {
        app.deliver(generic(&format!("c{n}"), 0, &json!({"phone": "1"}))).await;
    }
    // The views go by the database's clock, and those deliveries are due by the test's.
    app.db.execute("update waiting_customers set due_at = now()").await;
    let row = sqlx::query("select customers_due, extract(epoch from clears_in)::bigint as seconds from sync_backlog");
    let row = row.fetch_one(&app.db.pool).await.expect("a row");
    assert_eq!((row.get::<i64, _>("customers_due"), row.get::<i64, _>("seconds")), (30, 30));
}

#[tokio::test]
async fn a_role_that_may_only_read_sees_everything_and_an_operators_acts_through_the_functions() {
    let app = App::start().await;
    app.fake.fail_next(1, Failure::status(422));
    let failed = app.deliver(linked(1, 0, &json!({"phone": "1"}))).await.event_id();
    app.drain().await;
    let role = format!("support_{}", uuid::Uuid::new_v4().simple());
    let mut connection = app.db.pool.acquire().await.expect("a connection");
    let mut run = async |sql: String| sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut *connection).await;
    // As the README has it.
    run(format!("create role {role}; grant select on all tables in schema public to {role}")).await.expect("granted");
    run(format!("set role {role}")).await.expect("taken");
    for view in [
        "outbox_events",
        "failed_syncs",
        "failure_groups",
        "customer_sync_state",
        "sync_backlog",
        "sync_attempts",
        "customer_links",
        "interventions",
    ] {
        run(format!("select * from {view}")).await.unwrap_or_else(|error| panic!("{view}: {error}"));
    }
    run(format!("select retry_sync('{failed}')")).await.expect_err("reading is not acting");
    run("delete from event_states".to_owned()).await.expect_err("nor writing");
    run(format!(
        "reset role; grant execute on function retry_sync(uuid), discard_sync(uuid, text) to {role}; set role {role}"
    ))
    .await
    .expect("granted");
    // Tables of the caller's own do not stand in for the real ones.
    run("create temporary table event_states (event_id uuid, status text, last_error_code text)".to_owned())
        .await
        .expect("made");
    run(format!("select retry_sync('{failed}')")).await.expect("allowed");
    run(format!("reset role; drop table pg_temp.event_states; drop owned by {role}; drop role {role}"))
        .await
        .expect("gone");
    assert_eq!(app.event(failed).await.status, "pending");
    let done_by: String =
        sqlx::query_scalar("select done_by from interventions").fetch_one(&app.db.pool).await.expect("a trace");
    let user: String = sqlx::query_scalar("select session_user::text").fetch_one(&app.db.pool).await.expect("a user");
    assert_eq!(done_by, user, "who called it, whatever role it has put on");
}

#[tokio::test]
async fn what_an_operator_says_of_itself_does_not_hide_its_role() {
    let app = App::start().await;
    app.fake.fail_next(1, Failure::status(422));
    let failed = app.deliver(linked(1, 0, &json!({"phone": "1"}))).await.event_id();
    app.drain().await;
    let role = format!("support_{}", uuid::Uuid::new_v4().simple());
    let run = async |sql: String| {
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&app.db.pool).await.expect("carried out");
    };
    run(format!("create role {role} login password 'secret'; grant execute on function retry_sync(uuid) to {role}"))
        .await;
    let options: PgConnectOptions = app.db.url.expose_secret().parse().expect("an address");
    let mut operator = options.username(&role).password("secret").connect().await.expect("a connection");
    sqlx::raw_sql("set flexportal_sync.done_by = 'shop'").execute(&mut operator).await.expect("said");
    sqlx::query("select retry_sync($1)").bind(failed).execute(&mut operator).await.expect("allowed");
    operator.close().await.expect("closed");
    let done_by: String =
        sqlx::query_scalar("select done_by from interventions").fetch_one(&app.db.pool).await.expect("a trace");
    assert_eq!(done_by, format!("shop ({role})"));
    run(format!("drop owned by {role}; drop role {role}")).await;
}

/// A million events of two hundred thousand customers, most of them finished long ago.
async fn a_million_events(app: &App) {
    app.db
        .execute(
            "insert into deliveries (id, source, delivery_id, topic, shop_customer_id, email, concerns, occurred_at, received_at, payload)
             select
                 (lpad(to_hex(1795000000000 + n), 12, '0') || '7000' || '8000' || lpad(to_hex(n), 12, '0'))::uuid,
                 case when n % 10 = 0 then 'generic' else 'shopify' end, 'd' || n, 'customers/update', 'c' || n % 200000,
                 'customer' || n % 200000 || '@example.com', 'customer',
                 to_timestamp((1795000000000 + n) / 1000.0), to_timestamp((1795000000000 + n) / 1000.0), '{}'
             from generate_series(1, 1000000) as n",
        )
        .await;
    app.db
        .execute(
            "insert into event_states (event_id, status, attempts, last_http_status, last_error_code, last_error, cause, finished_at, source, shop_customer_id)
             select id, case when rn % 500 = 0 then 'failed' when rn % 700 = 0 then 'discarded' else 'synced' end, 1,
                 case when rn % 500 = 0 then 422 else 200 end, case when rn % 500 = 0 then 'VALIDATION_ERROR' end,
                 case when rn % 500 = 0 then 'not a phone number' end, case when rn % 500 = 0 then '`phone` refused' end,
                 received_at, case when rn % 500 = 0 then source end, case when rn % 500 = 0 then shop_customer_id end
             from (select id, source, shop_customer_id, received_at, row_number() over (order by id) as rn from deliveries) as d",
        )
        .await;
    app.db
        .execute(
            "insert into sync_attempts (event_id, attempt, operation, started_at, duration_ms, request_body, http_status)
             select event_id, 1, 'update_customer', finished_at, 40, '{}', last_http_status from event_states order by event_id",
        )
        .await;
    app.db
        .execute(
            "insert into waiting_customers (source, shop_customer_id, target, due_at, first_event_id)
             -- the first in their order: whoever looks for the others has to pass them all
             select source, shop_customer_id, 'default', now(), (array_agg(id))[1] from deliveries
             where source = 'generic' group by 1, 2 order by 1, 2 limit 10000",
        )
        .await;
    // What the upkeep of Postgres does by itself meanwhile.
    for index in ["sync_attempts_by_time", "event_states_by_time"] {
        sqlx::query("select brin_summarize_new_values($1::regclass)")
            .bind(index)
            .execute(&app.db.pool)
            .await
            .expect("read");
    }
    for table in ["deliveries", "event_states", "sync_attempts", "waiting_customers"] {
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("analyze {table}"))).execute(&app.db.pool).await.expect("analysed");
    }
}

/// What a statement reads of the big tables from one end to the other.
async fn scanned(app: &App, sql: &str) -> Vec<String> {
    let explain = format!("explain (format json) {sql}");
    let plan: serde_json::Value = sqlx::query_scalar(sqlx::AssertSqlSafe(explain))
        .fetch_one(&app.db.pool)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
    let mut scanned = Vec::new();
    collect_scans(&plan[0]["Plan"], &mut scanned);
    scanned
}

fn collect_scans(plan: &serde_json::Value, scanned: &mut Vec<String>) {
    let big = ["deliveries", "event_states", "sync_attempts"];
    let table = plan["Relation Name"].as_str().unwrap_or_default();
    if plan["Node Type"] == "Seq Scan" && big.contains(&table) {
        scanned.push(table.to_owned());
    }
    for part in plan["Plans"].as_array().into_iter().flatten() {
        collect_scans(part, scanned);
    }
}

/// Asks a question often enough for the database to settle on a plan, and sees how much was read for it.
async fn reads_little(app: &App, question: &str, ask: impl AsyncFn(&Outbox)) {
    const TIMES: i64 = 7;
    let before = app.rows_read().await;
    let outbox = Outbox::for_people(&app.db.url, 1, Clock::System).expect("an address");
    for _ in 0..TIMES {
        ask(&outbox).await;
    }
    outbox.close().await;
    let each = (app.rows_read().await - before) / TIMES;
    assert!(each < 200_000, "{question}: {each} rows were read of a million and more");
}

#[tokio::test]
async fn at_a_million_events_nothing_that_people_ask_reads_a_table_from_end_to_end() {
    let app = App::start().await;
    a_million_events(&app).await;
    for sql in [
        "select * from failed_syncs order by failed_at desc limit 50",
        "select * from failed_syncs where source = 'shopify' order by failed_at desc limit 50",
        "select * from failure_groups",
        "select * from customer_sync_state where source = 'shopify' and shop_customer_id = 'c1'",
        "select * from customer_sync_state where source = 'shopify' limit 50",
        "select * from sync_backlog",
        "select * from outbox_events where id = '01a1f0b2-8c00-7000-8000-000000000001'",
        "select * from outbox_events order by id desc limit 50",
        "select * from outbox_events where source = 'shopify' and shop_customer_id = 'c1'",
        "select * from outbox_events where lower(email) = 'customer1@example.com'",
        "select * from sync_attempts where event_id = '01a1f0b2-8c00-7000-8000-000000000001'",
    ] {
        assert_eq!(scanned(&app, sql).await, Vec::<String>::new(), "{sql}");
    }
    // The same through the functions that terminal, API and console use.
    let sources = [
        None,
        Some(SourceName::parse("shopify").expect("a name")),
        Some(SourceName::parse("generic").expect("a name")),
    ];
    for source in &sources {
        let filter = CustomerFilter { source: source.clone(), ..CustomerFilter::default() };
        reads_little(&app, "customers", async |outbox| {
            let first = outbox.customers(&filter, None, 50).await.expect("customers");
            let next = outbox.customers(&filter, first.next.as_deref(), 50).await.expect("customers");
            assert_eq!((first.items.len(), next.items.len()), (50, 50));
        })
        .await;
        for state in CustomerSync::value_variants() {
            let filter = CustomerFilter { source: source.clone(), state: Some(*state), ..CustomerFilter::default() };
            reads_little(&app, state.as_str(), async |outbox| {
                let page = outbox.customers(&filter, None, 50).await.expect("customers");
                assert!(page.items.iter().all(|customer| customer.state == *state));
            })
            .await;
        }
    }
    // What is common in life, and of which there is none here, has no index to find that out by.
    let common = [EventStatus::Superseded, EventStatus::Unchanged];
    for status in EventStatus::value_variants().iter().filter(|status| !common.contains(status)) {
        let filter = EventFilter { status: Some(*status), ..EventFilter::default() };
        reads_little(&app, status.as_str(), async |outbox| {
            outbox.events(&filter, None, 50).await.expect("events");
        })
        .await;
    }
    let source = SourceName::parse("shopify").expect("a name");
    let customer = ShopCustomerId::parse("c1").expect("an id");
    reads_little(&app, "one customer", async |outbox| {
        let filter = CustomerFilter { email: Some("Customer1@example.com".to_owned()), ..CustomerFilter::default() };
        assert_eq!(outbox.customers(&filter, None, 50).await.expect("customers").items.len(), 1);
        assert!(outbox.customer_history(&source, &customer).await.expect("a history").is_some());
        outbox.would_erase(&source, &customer).await.expect("an estimate");
        outbox.namesakes(&source, std::slice::from_ref(&customer)).await.expect("namesakes");
    })
    .await;
    reads_little(&app, "failures", async |outbox| {
        for filter in [
            FailureFilter { cause: Some("`phone` refused".to_owned()), ..FailureFilter::default() },
            FailureFilter { customer: Some(customer.clone()), ..FailureFilter::default() },
        ] {
            outbox.failures(&filter, None, 50).await.expect("failures");
        }
        let failed = outbox.failed_events(&FailureFilter::default(), 1_000).await.expect("events");
        outbox.rehearse(Remedy::Retry, &failed).await.expect("a rehearsal");
        outbox.takes_seconds(&failed).await.expect("an estimate");
        outbox.event(failed[0]).await.expect("an event");
    })
    .await;
    reads_little(&app, "status", async |outbox| {
        assert_eq!(outbox.status().await.expect("a status").failures.events, 2_000);
    })
    .await;
    let asking = Outbox::for_people(&app.db.url, 1, Clock::System).expect("an address");
    let failures = asking.failures(&FailureFilter::default(), None, 50).await.expect("failures");
    assert_eq!(failures.items.len(), 50);
    let next = asking.failures(&FailureFilter::default(), failures.next.as_deref(), 50).await.expect("failures");
    assert!(next.items[0].failed_at <= failures.items[49].failed_at);
    assert_ne!(next.items[0].event_id, failures.items[49].event_id);
    let page = asking.customers(&CustomerFilter::default(), None, 50).await.expect("customers");
    let next = asking.customers(&CustomerFilter::default(), page.next.as_deref(), 50).await.expect("customers");
    let names =
        |page: &Page<CustomerState>| page.items.iter().map(|one| one.shop_customer_id.clone()).collect::<Vec<_>>();
    assert_eq!((names(&page).len(), names(&next).len()), (50, 50));
    assert!(names(&page).last() < names(&next).first());
}
