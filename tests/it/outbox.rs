//! The store by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use flexportal_sync::domain::{Clock, DeliveryId, Dice, EventId, EventStatus, ShopCustomerId, SourceName, TargetName};
use flexportal_sync::fake_flexportal::Failure;
use flexportal_sync::metrics::Metrics;
use flexportal_sync::outbox::{
    CommitError, Committer, EventResult, NewEvent, Next, Outbox, Settled, Settlement, StoreOutcome,
};
use flexportal_sync::service::{Role, Service};
use flexportal_sync::shops::{Concerns, Delivery};

use serde_json::json;

use crate::support::App;
use crate::support::app::config;
use crate::support::shop::{linked, shopify};

fn event(delivery: &str, customer: &str, payload: &str) -> NewEvent {
    NewEvent {
        source: SourceName::parse("shop").expect("a name"),
        target: TargetName::parse("default").expect("a name"),
        delivery: Delivery {
            shop: None,
            delivery_id: DeliveryId::parse(delivery).expect("an id"),
            topic: "customer.updated".into(),
            customer: Some(ShopCustomerId::parse(customer).expect("an id")),
            email: None,
            occurred_at: None,
            triggered_at: None,
            concerns: Concerns::Customer,
            is_asked_for: false,
            payload: payload.into(),
            warnings: vec!["one".into(), "two".into()],
        },
        traceparent: None,
    }
}

#[tokio::test]
async fn a_group_is_stored_in_one_go_and_duplicates_point_to_the_first() {
    let app = App::start().await;
    let events = [
        event("d1", "c1", "{}"),
        event("d2", "c1", "{}"),
        event("d1", "c1", r#"{"again": true}"#),
        event("d3", "c2", "{}"),
    ];
    let outcomes = app.outbox.store(&events).await.expect("stored");
    let [StoreOutcome::Stored(first), StoreOutcome::Stored(second), again, StoreOutcome::Stored(third)] = outcomes[..]
    else {
        panic!("{outcomes:?}")
    };
    assert_eq!(again, StoreOutcome::Duplicate(first));
    assert!(first < second && second < third, "in the order of the group");
    assert_eq!(app.outbox.store(&events[1..2]).await.expect("stored"), [StoreOutcome::Duplicate(second)]);
    assert_eq!(app.count("select count(*) from outbox_events where warnings = '{one,two}'").await, 3);
    assert_eq!(app.count("select count(*) from waiting_customers").await, 2, "the queue is customers, not events");
    assert_eq!(app.count("select revision from waiting_customers where shop_customer_id = 'c1'").await, 1);
}

#[tokio::test]
async fn one_delivery_that_postgres_refuses_does_not_take_its_group_with_it() {
    let app = App::start().await;
    let committer = Committer::start(app.outbox.clone(), Metrics::default(), || {});
    let good = [event("g1", "c", "{}"), event("g2", "c", "{}")];
    let bad = event("b", "c", "{");
    let (first, second, third) =
        tokio::join!(committer.commit(good[0].clone()), committer.commit(bad), committer.commit(good[1].clone()));
    assert!(matches!(first, Ok(StoreOutcome::Stored(_))), "{first:?}");
    assert!(matches!(second, Err(CommitError::Refused)));
    assert!(matches!(third, Ok(StoreOutcome::Stored(_))), "{third:?}");
}

#[tokio::test]
async fn when_the_line_is_full_the_next_delivery_is_turned_away_and_none_of_the_others() {
    let app = App::start().await;
    let committer = Committer::start(app.outbox.clone(), Metrics::default(), || {});
    // Nothing can be committed while somebody holds the table.
    let mut holding = app.db.pool.begin().await.expect("a transaction");
    sqlx::query("lock table deliveries in exclusive mode").execute(&mut *holding).await.expect("held");
    let deliveries: Vec<_> = (0..2_000).map(|n| event(&format!("d{n}"), "c", "{}")).collect();
    let waiting: Vec<_> = deliveries
        .into_iter()
        .map(|event| {
            let committer = committer.clone();
            tokio::spawn(async move { committer.commit(event).await })
        })
        .collect();
    while committer.has_room() {
        tokio::task::yield_now().await;
    }
    let late = committer.commit(event("late", "c", "{}")).await;
    assert!(matches!(late, Err(CommitError::Overloaded)), "{late:?}");
    holding.rollback().await.expect("let go");
    let outcomes = futures_util::future::join_all(waiting).await;
    let accepted = outcomes.iter().filter(|outcome| matches!(outcome, Ok(Ok(StoreOutcome::Stored(_))))).count();
    assert!((1_024..2_000).contains(&accepted), "{accepted}");
    let stored = usize::try_from(app.count("select count(*) from deliveries").await).expect("a count");
    assert_eq!(stored, accepted, "who was answered is there, and nobody else");
}

#[tokio::test]
async fn a_commit_wakes_the_workers_of_other_processes_and_a_duplicate_wakes_nobody() {
    let app = App::start().await;
    let mut listener = sqlx::postgres::PgListener::connect_with(&app.db.pool).await.expect("a listener");
    listener.listen("flexportal_sync").await.expect("listening");
    let commits = Arc::new(AtomicUsize::new(0));
    let count = commits.clone();
    let committer = Committer::start(app.outbox.clone(), Metrics::default(), move || {
        count.fetch_add(1, Ordering::Relaxed);
    });
    for n in 0..3 {
        let outcome = committer.commit(event(&format!("d{n}"), "c", "{}")).await;
        assert!(matches!(outcome, Ok(StoreOutcome::Stored(_))), "{outcome:?}");
        let again = committer.commit(event(&format!("d{n}"), "c", "{}")).await;
        assert!(matches!(again, Ok(StoreOutcome::Duplicate(_))), "{again:?}");
        let notified = tokio::time::timeout(Duration::from_secs(10), listener.recv()).await;
        notified.expect("in time").expect("a notification");
    }
    assert_eq!(commits.load(Ordering::Relaxed), 3, "one for each that is new, and none for what is known");
}

#[tokio::test]
async fn what_meets_a_connection_that_was_cut_is_stored_over_another() {
    let app = App::start().await;
    for n in 0..5 {
        let stored = app.outbox.store(&[event(&format!("d{n}"), "c", "{}")]).await;
        assert!(matches!(*stored.expect("stored"), [StoreOutcome::Stored(_)]));
        let cut = "select count(pg_terminate_backend(pid)) from pg_stat_activity \
                   where datname = current_database() and application_name = 'flexportal-sync'";
        assert!(app.count(cut).await > 0, "there was a connection to cut");
    }
    assert_eq!(app.count("select count(*) from deliveries").await, 5);
}

#[tokio::test]
async fn two_processes_that_store_the_same_deliveries_do_not_block_each_other() {
    let app = App::start().await;
    let forward: Vec<_> = (0..200).map(|n| event(&format!("d{n}"), &format!("c{}", n % 7), "{}")).collect();
    let backward: Vec<_> = (0..200).rev().map(|n| event(&format!("d{n}"), &format!("c{}", n % 7), "{}")).collect();
    let (one, other) = tokio::join!(app.outbox.store(&forward), app.outbox.store(&backward));
    let stored = |outcomes: &[StoreOutcome]| {
        outcomes.iter().filter(|outcome| matches!(outcome, StoreOutcome::Stored(_))).count()
    };
    assert_eq!(stored(&one.expect("stored")) + stored(&other.expect("stored")), 200);
    assert_eq!(app.count("select count(*) from outbox_events").await, 200);
}

#[tokio::test]
async fn everything_that_people_read_carries_a_comment() {
    let app = App::start().await;
    let uncommented = app
        .count(
            "select count(*) from pg_class c join pg_namespace n on n.oid = c.relnamespace
             join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
             where n.nspname = 'public' and c.relkind in ('r', 'v')
               and (obj_description(c.oid) is null or col_description(c.oid, a.attnum) is null)",
        )
        .await;
    assert_eq!(uncommented, 0);
}

#[tokio::test]
async fn outbox_events_has_the_columns_of_the_contract() {
    let app = App::start().await;
    for sql in [
        "select id, source, delivery_id, topic, shop_customer_id, email, occurred_at, received_at, payload, status, attempts, next_attempt_at, last_http_status, last_error_code, last_error, warnings, flexportal_customer_id, superseded_by, finished_at from outbox_events",
        "select event_id, attempt, started_at, duration_ms, request_body, http_status, error_code, error, response_body from sync_attempts",
        "select source, shop_customer_id, flexportal_customer_id, origin, last_synced_at, last_occurred_at, acknowledged from customer_links",
        "select 1 from failed_syncs, failure_groups, customer_sync_state, sync_backlog",
    ] {
        sqlx::query(sql).fetch_all(&app.db.pool).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    let is_jsonb = "select count(*) from information_schema.columns where data_type = 'jsonb'
        and (table_name, column_name) in (('outbox_events', 'payload'), ('sync_attempts', 'request_body'), ('failed_syncs', 'request_body'))";
    assert_eq!(app.count(is_jsonb).await, 3);
}

#[tokio::test]
async fn an_older_program_can_still_ask_whether_a_body_was_erased() {
    let app = App::start().await;
    let bodies = ["{}", r#"{"erased": true}"#];
    let events: Vec<_> = (0..2).map(|n| event(&format!("d{n}"), "c", bodies[n])).collect();
    app.outbox.store(&events).await.expect("stored");
    assert_eq!(app.count(r#"select count(*) from deliveries where payload <> '{"erased": true}'"#).await, 1);
    assert_eq!(app.count(r#"select count(*) from deliveries where payload = '{"erased": true}'"#).await, 1);
}

#[tokio::test]
async fn what_we_rely_on_is_set_by_us_whatever_the_role_has_for_its_own() {
    let app = App::start().await;
    let name: String = sqlx::query_scalar("select current_database()").fetch_one(&app.db.pool).await.expect("a name");
    for (given, kept) in [("off", "on"), ("local", "on"), ("remote_write", "on"), ("remote_apply", "remote_apply")] {
        // The name is one of the tests' own.
        let alter = format!(
            "alter database \"{name}\" set synchronous_commit = {given};
             alter database \"{name}\" set default_transaction_isolation = 'serializable';
             alter database \"{name}\" set statement_timeout = '1ms'"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(alter)).execute(&app.db.pool).await.expect("altered");
        for connect in [Outbox::new, Outbox::for_intake, Outbox::for_people] {
            let outbox = connect(&app.db.url, 1, Clock::System).expect("an address");
            let setting = outbox.settings().await.expect("the settings");
            assert_eq!(setting.synchronous_commit, kept, "where it was {given}");
            assert_eq!(setting.transaction_isolation, "read committed");
            assert_ne!(setting.statement_timeout, "1ms");
            outbox.close().await;
        }
    }
}

#[tokio::test]
async fn no_timeout_of_the_server_cuts_off_a_delivery_that_waits_for_a_standby() {
    let app = App::start().await;
    assert_eq!(app.intake.settings().await.expect("the settings").statement_timeout, "0");
}

/// The build trusts `.sqlx`; this shows that `.sqlx` and the migrations agree.
#[tokio::test]
async fn every_checked_query_fits_the_migrated_database() {
    use sqlx::{Column, Executor, SqlSafeStr, TypeInfo};
    let app = App::start().await;
    let mut connection = app.db.pool.acquire().await.expect("a connection");
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/.sqlx");
    let mut checked = 0;
    for entry in std::fs::read_dir(folder).expect("query data") {
        let text = std::fs::read_to_string(entry.expect("a file").path()).expect("a file");
        let data: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let sql = data["query"].as_str().expect("a query").to_owned();
        let described = connection.describe(sqlx::AssertSqlSafe(sql.clone()).into_sql_str()).await;
        let described = described.unwrap_or_else(|error| panic!("{error}: {sql}"));
        let now: Vec<_> = described.columns().iter().map(|column| (column.name(), column.type_info().name())).collect();
        let then = data["describe"]["columns"].as_array().expect("columns");
        assert_eq!(now.len(), then.len(), "{sql}");
        for ((name, type_name), column) in now.iter().zip(then) {
            assert_eq!(Some(*name), column["name"].as_str(), "{sql}");
            assert!(
                column["type_info"]
                    .as_str()
                    .is_none_or(|before| before.eq_ignore_ascii_case(&type_name.replace("[]", "array"))),
                "{sql}: {name}"
            );
        }
        checked += 1;
    }
    assert!(checked > 20);
}

#[tokio::test]
async fn who_is_not_claimed_yet_is_not_touched_by_a_claim() {
    let app = App::start().await;
    for n in 1..=4 {
        app.deliver(linked(n, 0, &json!({"phone": "1"}))).await;
    }
    app.db.execute("update waiting_customers set priority = 2 where shop_customer_id in ('shop-3', 'shop-4')").await;
    let target = TargetName::parse("default").expect("a name");
    let untouched = "select count(*) from waiting_customers where priority = 2 and lease_id is null and xmax = 0";
    // `update` leaves its own mark where it moved a row; a new version of the table has none.
    app.db.execute("vacuum full waiting_customers").await;
    assert_eq!(app.count(untouched).await, 2);
    assert_eq!(app.outbox.claim(&target, 2).await.expect("claimed").len(), 2);
    assert_eq!(app.count(untouched).await, 2, "replays are locked only when it is their turn");
    assert_eq!(app.outbox.claim(&target, 2).await.expect("claimed").len(), 2);
    assert_eq!(app.count(untouched).await, 0);
}

#[tokio::test]
async fn what_was_planned_for_an_empty_queue_does_not_read_all_of_a_full_one() {
    let app = App::start().await;
    let outbox = Outbox::new(&app.db.url, 1, Clock::System).expect("an address");
    let target = TargetName::parse("default").expect("a name");
    let fill = async |name: &str, customers: u32| {
        let sql = format!(
            "insert into waiting_customers (source, shop_customer_id, target, due_at, first_event_id)
             select 'generic', '{name}' || n, 'default', now() - interval '1 hour', gen_random_uuid()
             from generate_series(1, {customers}) as n"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&app.db.pool).await.expect("filled");
    };
    let rounds = async |customers: usize| {
        for _ in 0..8 {
            assert!(outbox.look(&target).await.expect("a look").is_due);
            let claims = outbox.claim(&target, 64).await.expect("claimed");
            assert_eq!(claims.len(), customers);
            let syncs = claims.into_iter().map(async |mut claimed| {
                outbox.read(&mut claimed).await.expect("read");
                outbox.settle(&claimed, &Settlement::nothing(Next::Done)).await.expect("settled")
            });
            assert_eq!(futures_util::future::join_all(syncs).await, vec![Settled::Done; customers]);
            fill("next", u32::from(customers == 1)).await;
        }
    };
    fill("gone", 20_000).await;
    app.db.execute("delete from waiting_customers").await;
    app.db.execute("vacuum (analyze) waiting_customers").await;
    // Often enough for the database to settle on plans.
    fill("first", 1).await;
    rounds(1).await;
    app.db.execute("delete from waiting_customers").await;

    fill("due", 20_000).await;
    rounds(64).await;
    let read = app.rows_read().await;
    assert!(read > 512, "{read}: it was not measured");
    // Once through all in each round would be 160,000; emptying the queue is counted, too.
    assert!(read < 60_000, "{read} rows were read of 20000, for 512 customers in 8 rounds");
}

#[tokio::test]
async fn what_was_planned_for_empty_tables_does_not_read_all_of_full_ones() {
    let app = App::start().await;
    reads_little_of_full_tables_with_plans_from_now(&app).await;
}

#[tokio::test]
async fn what_was_planned_for_nearly_empty_tables_does_not_either() {
    let app = App::start().await;
    app.sync(linked(20, 0, &json!({"phone": "1"}))).await;
    reads_little_of_full_tables_with_plans_from_now(&app).await;
}

async fn reads_little_of_full_tables_with_plans_from_now(app: &App) {
    // Autovacuum summarises the indexes by time when it likes; the rows that it reads for them would count.
    for quietly in [
        "alter table event_states set (autovacuum_enabled = false)",
        "alter table sync_attempts set (autovacuum_enabled = false)",
        "alter index event_states_by_time set (autosummarize = off)",
        "alter index sync_attempts_by_time set (autosummarize = off)",
    ] {
        app.db.execute(quietly).await;
    }
    // Now the database knows how few rows there are; else it would expect ten pages of each. It forgets its plans, too.
    app.db.execute("vacuum (analyze)").await;
    let before = app.count("select count(*) from deliveries").await;
    let sync_some = async |second: u32| {
        for n in 1..=4 {
            let fields = json!({"phone": format!("+49 {second}")});
            let once = || linked(n, second, &fields).with_delivery_id(&format!("{n} at {second}"));
            app.deliver(once()).await;
            app.drain().await;
            assert_eq!(app.deliver(once()).await.word(), "duplicate");
            app.deliver(shopify(n + 4, second, &fields)).await;
            // Not known to FlexPortal.
            app.deliver(linked(99, second, &fields)).await;
            app.drain().await;
            app.fake.fail_next(1, Failure::status(422));
            app.deliver(linked(n + 8, second, &json!({"phone": "refused"}))).await;
            app.drain().await;
            app.deliver(linked(n + 8, second + 1, &fields)).await;
            app.drain().await;
        }
    };
    sync_some(0).await;
    app.db
        .execute(
            "with finished as (
                 insert into deliveries (id, source, delivery_id, topic, shop_customer_id, concerns, occurred_at, received_at, payload)
                 select gen_random_uuid(), 'generic', 'old' || n, 'customer.updated', 'old' || n, 'customer', now(), now(), '{}'
                 from generate_series(1, 20000) as n
                 returning id, source, shop_customer_id
             ),
             linked as (
                 insert into customer_links (source, shop_customer_id, flexportal_customer_id, origin)
                 select source, shop_customer_id, shop_customer_id, 'event' from finished
             ),
             states as (
                 insert into event_states (event_id, status, attempts, finished_at, source, shop_customer_id)
                 select id, 'failed', 1, now(), source, shop_customer_id from finished
             ),
             tomorrow as (
                 insert into waiting_customers (source, shop_customer_id, target, due_at, first_event_id)
                 select source, shop_customer_id, 'default', now() + interval '1 day', id from finished
             )
             insert into sync_attempts (event_id, attempt, operation, started_at, duration_ms)
             select id, 1, 'update_customer', now(), 1 from finished",
        )
        .await;
    sync_some(10).await;
    let read = app.rows_read().await;
    assert!(read > 40, "{read}: it was not measured");
    assert!(read < 20_000, "{read} rows were read of 20000 in each table, to sync 40 events");
    let as_expected =
        "select count(*) from outbox_events where status = any(array['synced', 'unmatched', 'superseded'])";
    assert_eq!(app.count(as_expected).await, before + 40);
}

#[tokio::test]
async fn a_start_takes_what_waits_along_with_its_source_and_passes_nobody_else() {
    let app = App::start().await;
    app.deliver(linked(1, 0, &json!({"phone": "1"}))).await;
    app.deliver(shopify(2, 0, &json!({}))).await;
    app.db
        .execute(
            "insert into waiting_customers (source, shop_customer_id, target, due_at, first_event_id)
             select 'shopify', 'c' || n, 'default', now(), gen_random_uuid()
             from generate_series(1, 20000) as n",
        )
        .await;
    let start = async |file: &str| {
        let config = config(&app.db, &app.fake, &[], file);
        let service = Service::new(&config, Role::All, app.clock.clone(), Dice::Loaded(0.5)).expect("a service");
        service.prepare_database(false).await.expect("a database");
    };
    start("").await;
    let read = app.rows_read().await;
    assert!(read > 0, "it was not measured");
    assert!(read < 20_000, "{read} rows were read, and nothing has moved");

    let file = r#"
        [[target]]
        name = "nordics"
        base_url = "http://127.0.0.1:1"
        api_key = "key"
        tenant_id = "tenant"
        [[source]]
        name = "generic"
        kind = "generic"
        target = "nordics"
    "#;
    start(file).await;
    let moved = "select count(*) from waiting_customers where target = 'nordics'";
    assert_eq!(app.count(moved).await, 1, "the customer of the source that moved");
    start("").await;
    assert_eq!(app.count(moved).await, 0, "and back");
}

#[tokio::test]
async fn a_customer_whose_row_somebody_holds_keeps_no_other_from_being_settled() {
    let app = App::start().await;
    for n in 1..=2 {
        app.deliver(linked(n, 0, &json!({"phone": "1"}))).await;
    }
    let target = TargetName::parse("default").expect("a name");
    let mut claims = app.outbox.claim(&target, 2).await.expect("claimed");
    claims.sort_by(|a, b| a.customer.cmp(&b.customer));
    let row = "select from waiting_customers where shop_customer_id = 'shop-1' for update";
    let somebody = app.db.hold(row).await;
    let settlement = Settlement::nothing(Next::Done);
    let mut blocked = std::pin::pin!(app.outbox.settle(&claims[0], &settlement));
    let other = app.outbox.settle(&claims[1], &settlement);
    let other = async {
        tokio::select! {
            biased;
            settled = &mut blocked => panic!("{settled:?} while the row is held"),
            settled = other => settled,
        }
    };
    let other = tokio::time::timeout(Duration::from_secs(4), other).await.expect("it does not wait");
    assert_eq!(other.expect("settled"), Settled::Done);
    somebody.release().await;
    assert_eq!(blocked.await.expect("settled"), Settled::Done);
    assert_eq!(app.count("select count(*) from waiting_customers").await, 0);
}

#[tokio::test]
async fn what_cannot_be_settled_spoils_nothing_beside_it() {
    let app = App::start().await;
    for n in 1..=2 {
        app.deliver(linked(n, 0, &json!({"phone": "1"}))).await;
    }
    let target = TargetName::parse("default").expect("a name");
    let claims = app.outbox.claim(&target, 2).await.expect("claimed");
    // Synced, and not final: a row that the table does not take.
    let result = EventResult {
        event: EventId(uuid::Uuid::nil()),
        status: EventStatus::Synced,
        failing_for: None,
        attempts: 1,
        http_status: None,
        error_code: None,
        error: None,
        cause: None,
        warnings: vec![],
        flexportal_id: None,
        superseded_by: None,
        attempted_as: None,
        is_final: false,
    };
    let impossible = Settlement { results: vec![result], ..Settlement::nothing(Next::Done) };
    let settlement = Settlement::nothing(Next::Done);
    // Both wait behind a third, and go together.
    let (_, spoilt, good) = tokio::join!(
        app.outbox.settle(&claims[0], &impossible),
        app.outbox.settle(&claims[0], &impossible),
        app.outbox.settle(&claims[1], &settlement),
    );
    spoilt.expect_err("the table does not take it");
    assert_eq!(good.expect("settled"), Settled::Done);
    assert_eq!(app.count("select count(*) from waiting_customers").await, 1);
}
