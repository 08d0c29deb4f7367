//! From one schema to the next: with rows in the tables, people at them, and older programs beside.

use std::path::Path;

use super::*;
use secrecy::ExposeSecret;

use flexportal_sync::config::ShopKind;

use crate::cli::{folder, program, run};

/// The last migration before bodies were kept as text.
const BEFORE: i64 = 20_261_128_000_200;

/// A change as programs of that time stored it.
const OLDER_STORE: &str = "
    with stored as (
        insert into deliveries (
            id, source, delivery_id, topic, shop_customer_id, email, concerns, occurred_at, received_at, payload
        )
        select id, source, delivery_id, topic, shop_customer_id, email, concerns, occurred_at, received_at, payload::jsonb
        from unnest(
            array[gen_random_uuid()], array['generic'], array[gen_random_uuid()::text], array['customer.updated'],
            array['shop-1'], array[null::text], array['customer'], array[now()], array[now()], array[$1::text]
        ) as event (id, source, delivery_id, topic, shop_customer_id, email, concerns, occurred_at, received_at, payload)
        on conflict (source, delivery_id) do nothing
        returning id, source, shop_customer_id
    )
    insert into waiting_customers as waiting (source, shop_customer_id, target, due_at, first_event_id)
    select source, shop_customer_id, 'default', now(), id
    from stored
    on conflict (source, shop_customer_id) do update
    set first_event_id = least(waiting.first_event_id, excluded.first_event_id), revision = waiting.revision + 1";

/// The words in which they erased.
const OLDER_ERASE: &str = r#"update deliveries set payload = '{"erased": true}' where payload <> '{"erased": true}'"#;

/// A database as they left it.
async fn older_database() -> Database {
    let db = database().await;
    sqlx::raw_sql("drop schema public cascade; create schema public").execute(&db.pool).await.expect("emptied");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
    let migrations = sqlx::migrate::Migrator::new(folder).await.expect("the migrations");
    migrations.run_to(BEFORE, &db.pool).await.expect("migrated");
    db
}

/// A command of the program, on that database.
fn on(db: &Database, folder: &tempfile::TempDir, command: &str) -> assert_cmd::Command {
    let mut program = program(folder);
    program
        .arg(command)
        .env("DATABASE_URL", db.url.expose_secret())
        .env("LISTEN_ADDR", "127.0.0.1:0")
        .env("FLEXPORTAL_API_KEY", "fake-key")
        .env("FLEXPORTAL_TENANT_ID", "fake-tenant")
        .env("SHOPIFY_WEBHOOK_SECRET", "secret");
    program
}

async fn store_as_before(db: &Database, company: &str) {
    let webhook = linked(1, 0, &json!({"company": company}));
    let body = String::from_utf8(webhook.body).expect("text");
    sqlx::query(OLDER_STORE).bind(body).execute(&db.pool).await.expect("stored");
}

async fn fake() -> FakeFlexportal {
    FakeFlexportal::start(FakeOptions { customers: 2, ..FakeOptions::default() }).await.expect("a fake")
}

async fn arrives(fake: &FakeFlexportal, company: &str) {
    let is_there = || {
        fake.requests().iter().any(|request| request.body == Some(json!({"customerId": "cus_1", "company": company})))
    };
    eventually(company, is_there).await;
}

#[tokio::test]
async fn what_an_older_program_stored_is_sent_and_it_can_go_on_beside_a_newer_one() {
    let (db, fake) = (older_database().await, fake().await);
    store_as_before(&db, "Before").await;
    let process = Process::start(&db.url, &fake).await;
    arrives(&fake, "Before").await;
    store_as_before(&db, "Beside").await;
    arrives(&fake, "Beside").await;
    let seen = "select count(*) from outbox_events where payload #>> '{data,company}' in ('Before', 'Beside')";
    assert_eq!(db.count(seen).await, 2, "people see what they saw");
    assert_eq!((db.execute(OLDER_ERASE).await, db.execute(OLDER_ERASE).await), (2, 0));
    drop(process);
}

#[tokio::test]
async fn a_migration_that_finds_its_table_held_says_what_to_do_and_leaves_all_as_it_was() {
    let db = older_database().await;
    store_as_before(&db, "Before").await;
    let folder = folder();
    let backup = db.hold("lock table deliveries in access share mode").await;
    for command in ["migrate", "serve"] {
        let held = run(on(&db, &folder, command)).await;
        assert_eq!(held.code, Some(1), "{}", held.err);
        assert!(held.err.contains("pg_stat_activity"), "{}", held.err);
    }
    let as_before = "select count(*) from outbox_events e join deliveries d using (id) where d.payload = e.payload";
    assert_eq!(db.count(as_before).await, 1);
    backup.release().await;
    let free = run(on(&db, &folder, "migrate")).await;
    assert_eq!(free.code, Some(0), "{}", free.err);
}

/// Makes the next migration stop in its middle, where no `lock_timeout` ends the wait.
async fn stop_migrations(db: &Database) {
    let stop = "
        create table stops (is_one boolean);
        create function stop() returns boolean language plpgsql
            as $$ begin perform pg_sleep(3600) from stops; return true; end $$;
        alter table deliveries add constraint stop check (payload::text is not null and stop());
        insert into stops values (true)";
    sqlx::raw_sql(stop).execute(&db.pool).await.expect("stopped");
}

/// Waits until one has stopped there.
async fn has_stopped(db: &Database) {
    let stopped = "select count(*) from pg_stat_activity
                   where datname = current_database() and wait_event = 'PgSleep'";
    in_time("a migration under way", async {
        while db.count(stopped).await == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Cuts off who has.
const CUT: &str = "select pg_terminate_backend(pid) from pg_stat_activity
                   where datname = current_database() and wait_event = 'PgSleep'";

#[tokio::test]
async fn a_service_whose_connection_is_cut_in_the_middle_of_a_migration_begins_it_again() {
    let (db, fake) = (older_database().await, fake().await);
    store_as_before(&db, "Before").await;
    stop_migrations(&db).await;
    let process = Process::start_unready(&db.url, &fake).await;
    has_stopped(&db).await;
    db.execute("delete from stops").await;
    db.execute(CUT).await;
    process.logs("ready").await;
    arrives(&fake, "Before").await;
}

#[tokio::test]
async fn a_migration_that_is_cut_each_time_is_given_up() {
    let db = older_database().await;
    store_as_before(&db, "Before").await;
    stop_migrations(&db).await;
    let folder = folder();
    let mut serve = std::pin::pin!(run(on(&db, &folder, "serve")));
    let ended = async {
        loop {
            tokio::select! {
                ended = &mut serve => break ended,
                () = has_stopped(&db) => {
                    db.execute(CUT).await;
                }
            }
        }
    };
    let ended = in_time("it gives up", ended).await;
    assert_eq!(ended.code, Some(1), "{}", ended.err);
    assert_eq!(ended.err.matches("beginning it again").count(), 3, "{}", ended.err);
}

#[tokio::test]
async fn a_time_far_ahead_that_counted_before_holds_up_no_change_after_the_upgrade() {
    let (db, fake) = (older_database().await, fake().await);
    // The program before took what the shop told, and FlexPortal acknowledged it.
    let acknowledged = "
        insert into customer_links (source, shop_customer_id, flexportal_customer_id, origin, acknowledged)
        select 'generic', 'shop-1', 'cus_1', 'event', jsonb_build_object(
            'company', jsonb_build_object('at', now() + interval '4 hours', 'event', id),
            'phone', jsonb_build_object('at', now() - interval '1 hour', 'event', id)
        )
        from (select ('019ab0d4-5b00-7000-8000-' || '000000000001')::uuid as id) as event";
    sqlx::raw_sql(acknowledged).execute(&db.pool).await.expect("linked");
    let process = Process::start(&db.url, &fake).await;
    let data = json!({"customerId": "shop-1", "flexportalCustomerId": "cus_1", "company": "Right", "phone": "+49"});
    let body = json!({"type": "customer.updated", "data": data}).to_string();
    process.deliver(Webhook::new(ShopKind::Generic, "customer.updated", body)).await;
    eventually("the right change", || {
        fake.requests().iter().any(|request| {
            request.body.as_ref().is_some_and(|body| body["company"] == "Right" && body["phone"] == "+49")
        })
    })
    .await;
}
