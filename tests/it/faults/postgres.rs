//! Postgres restarts, cuts connections and is full: no hand is needed.
//!
//! Meanwhile intake answers 503 and says when to come back, and everything that was answered 200, before, between and
//! after, reaches FlexPortal.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use flexportal_sync::fake_flexportal::{Behaviour, FakeFlexportal};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use sqlx::{Connection, PgConnection, PgExecutor, PgPool};
use tokio_util::sync::CancellationToken;

use super::{ALL_SYNCED, Scene, assert_in_order, change, fake, phone_of, wait_for_requests};
use crate::support::shop::{Webhook, shopify};
use crate::support::{Cluster, Intake, Outage, Process, assert_turned_away, in_time, wait_until};

/// Customers who change all the time.
const CUSTOMERS: u32 = 6;

/// A shop whose customers change until it is told to close: each change is sent until it is answered 200, and then the
/// next one comes.
struct Shop {
    intake: Intake,
    closes: CancellationToken,
    /// How many changes were answered 200, of all customers together.
    stored: AtomicU32,
}

impl Shop {
    fn new(process: &Process) -> Self {
        Self { intake: process.intake.clone(), closes: CancellationToken::new(), stored: AtomicU32::new(0) }
    }

    /// Sends until it closes, and tells the last change of each customer.
    async fn sells(&self) -> Vec<u32> {
        let customers = (1..=CUSTOMERS).map(async |n| {
            let mut second = 0;
            while !self.closes.is_cancelled() {
                second += 1;
                self.intake.deliver_until_stored(change(n, second)).await;
                self.stored.fetch_add(1, Ordering::Relaxed);
                // A customer has a change for every second of an hour, and no more.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            second
        });
        futures_util::future::join_all(customers).await
    }

    /// What was answered 200 is stored, each change once.
    async fn finds_all(&self, pool: &PgPool) {
        let stored = "select count(*) from deliveries where shop_customer_id <> 'shop-20'";
        let stored: i64 = sqlx::query_scalar(stored).fetch_one(pool).await.expect("a number");
        assert_eq!(stored, i64::from(self.stored.load(Ordering::Relaxed)));
    }

    /// Waits until so many more were answered 200.
    async fn sells_more(&self, more: u32) {
        let enough = self.stored.load(Ordering::Relaxed) + more;
        let selling = async {
            while self.stored.load(Ordering::Relaxed) < enough {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        in_time("more changes", selling).await;
    }
}

/// Waits until all that was answered 200 is at FlexPortal, with the last change of each customer.
///
/// Half a minute passes for claims that nobody holds any more, since their worker lost sight of the database: a sync
/// that lives is over long before it is five seconds old.
async fn all_arrives(pool: &PgPool, fake: &FakeFlexportal, last: &[u32]) {
    let stale = "update waiting_customers set lease_expires_at = now() \
                 where lease_id is not null and claimed_at < now() - interval '5 s'";
    let arriving = async {
        while !sqlx::query_scalar(ALL_SYNCED).fetch_one(pool).await.unwrap_or(false) {
            sqlx::query(stale).execute(pool).await.expect("moved");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    in_time("all synced", arriving).await;
    for (n, last) in (1..).zip(last) {
        assert_eq!(phone_of(fake, n), Some(*last), "cus_{n}");
    }
    assert_in_order(fake);
}

/// A process without its database lives, is not ready, and turns deliveries away.
async fn assert_cut_off(process: &Process, webhook: Webhook) {
    let (alive, ready) = (process.get("/healthz"), process.get("/readyz"));
    let (alive, ready, delivery) = tokio::join!(alive, ready, process.deliver(webhook));
    assert_eq!(alive.status, 200);
    assert_turned_away(&ready);
    assert_turned_away(&delivery);
}

async fn restarts(outage: Outage) {
    let Some(mut cluster) = Cluster::start(&[]).await else { return };
    let fake = fake().await;
    let process = Process::start(&cluster.url, &fake).await;
    fake.set_behaviour(Behaviour { latency_ms: 20, ..Behaviour::default() });
    let shop = Shop::new(&process);
    let fault = async {
        shop.sells_more(50).await;
        cluster.goes_away(outage).await;
        // With a change of a customer who comes just then.
        assert_cut_off(&process, change(20, 1)).await;

        cluster.comes_back().await;
        let before = fake.requests().len();
        shop.sells_more(50).await;
        wait_for_requests(&fake, before + 20).await;
        assert_eq!(process.get("/readyz").await.status, 200);
        shop.closes.cancel();
    };
    let (last, ()) = tokio::join!(shop.sells(), fault);
    shop.finds_all(&cluster.pool).await;
    all_arrives(&cluster.pool, &fake, &last).await;
}

#[tokio::test]
async fn a_postgres_that_is_stopped_at_once_and_comes_back_needs_no_hand() {
    restarts(Outage::Stopped).await;
}

#[tokio::test]
async fn a_postgres_that_is_killed_and_comes_back_needs_no_hand() {
    restarts(Outage::Killed).await;
}

#[tokio::test]
async fn connections_killed_again_and_again_under_load_lose_nothing() {
    let scene = Scene::new().await;
    let process = scene.start().await;
    let shop = Shop::new(&process);
    let fault = async {
        for _ in 0..40 {
            shop.sells_more(5).await;
            cut_all(&scene.db.pool).await;
        }
        shop.closes.cancel();
    };
    let (last, ()) = tokio::join!(shop.sells(), fault);
    shop.finds_all(&scene.db.pool).await;
    all_arrives(&scene.db.pool, &scene.fake, &last).await;
}

/// Cuts the service's connections to this database.
pub async fn cut_all(executor: impl PgExecutor<'_>) {
    let cut = "select pg_terminate_backend(pid) from pg_stat_activity \
               where datname = current_database() and application_name = 'flexportal-sync'";
    sqlx::query(cut).execute(executor).await.expect("cut");
}

#[tokio::test]
async fn a_full_server_turns_deliveries_away_until_it_has_room() {
    let Some(cluster) = Cluster::start(&["-c", "max_connections=15"]).await else { return };
    let fake = fake().await;
    let process = Process::start(&cluster.url, &fake).await;
    assert_eq!(process.deliver(change(1, 1)).await.word(), "accepted");
    wait_until(&cluster.pool, ALL_SYNCED).await;

    let others = take_all_connections(&cluster).await;
    // One that starts now waits, and turns deliveries away as well.
    let late = Process::start_unready(&cluster.url, &fake).await;
    let says_so = late.logs("the database is away; trying again every second");
    tokio::join!(assert_cut_off(&process, change(1, 2)), assert_cut_off(&late, change(1, 2)), says_so);

    drop(others);
    late.logs("ready").await;
    process.intake.deliver_until_stored(change(1, 3)).await;
    all_arrives(&cluster.pool, &fake, &[3]).await;
    // Two processes share the few connections there are.
    in_time("it is ready again", async {
        while process.get("/readyz").await.status != 200 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Takes every connection that the server has, those of the service too.
async fn take_all_connections(cluster: &Cluster) -> Vec<PgConnection> {
    let all_taken = "select count(*) = current_setting('max_connections')::integer from pg_stat_activity \
                     where backend_type = 'client backend' and application_name <> 'flexportal-sync' and state <> ''";
    // One and the same connection all the time: a full server has no other for the pool.
    let mut own = cluster.pool.acquire().await.expect("a connection");
    let mut taken = Vec::new();
    let taking = async {
        while !sqlx::query_scalar::<_, bool>(all_taken).fetch_one(&mut *own).await.expect("an answer") {
            cut_all(&mut *own).await;
            taken.extend(take_free_connections(&cluster.url).await);
        }
    };
    in_time("all connections", taking).await;
    taken
}

async fn take_free_connections(url: &SecretString) -> Vec<PgConnection> {
    let mut taken = Vec::new();
    while let Ok(connection) = PgConnection::connect(url.expose_secret()).await {
        taken.push(connection);
    }
    taken
}

#[tokio::test]
async fn connections_cut_and_a_database_away_need_no_hand() {
    let scene = Scene::new().await;
    let process = scene.start().await;
    cut_all(&scene.db.pool).await;
    // At most the one connection that was cut is answered 503, and then the shop sends again.
    process.intake.deliver_until_stored(shopify(1, 0, &json!({}))).await;
    wait_until(&scene.db.pool, ALL_SYNCED).await;

    let mut kept = scene.db.pool.acquire().await.expect("a connection");
    scene.db.allow_connections(false).await;
    cut_all(&mut *kept).await;
    assert_turned_away(&process.deliver(shopify(2, 0, &json!({}))).await);
    scene.db.allow_connections(true).await;
    process.intake.deliver_until_stored(shopify(2, 0, &json!({}))).await;
    wait_until(&scene.db.pool, "select count(*) = 2 from outbox_events where status = 'synced'").await;
}

#[tokio::test]
async fn while_all_is_well_nothing_is_warned_of() {
    let scene = Scene::new().await;
    let process = scene.start().await;
    for n in 1..=3 {
        assert_eq!(process.deliver(change(1, n)).await.word(), "accepted");
        scene.ends_with(n).await;
        assert_eq!(process.get("/metrics").await.status, 200);
        assert_eq!(process.get("/readyz").await.status, 200);
    }
    let mut log = process.log();
    log.retain(|line| line["level"] != "INFO");
    assert!(log.is_empty(), "{log:?}");
}
