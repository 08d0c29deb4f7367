//! The real binary, killed, stopped, and cut off from its database.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use flexportal_sync::config::SETTINGS;
use flexportal_sync::domain::Clock;
use flexportal_sync::fake_flexportal::{Behaviour, FakeFlexportal, FakeOptions};
use reqwest::StatusCode;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::support::shop::{SHOPIFY_SECRET, Webhook, shopify};
use crate::support::{Database, database};

/// Longer than anything here takes; what runs into it has failed.
const DEADLINE: Duration = Duration::from_secs(20);

/// The service as a process of its own; killed when it is dropped.
struct Service {
    child: Child,
    addr: String,
    _folder: tempfile::TempDir,
}

impl Service {
    async fn start(db: &Database, fake: &FakeFlexportal) -> Self {
        Self::start_with(db, fake, &[], &[("SHOPIFY_WEBHOOK_SECRET", SHOPIFY_SECRET)]).await
    }

    async fn start_with(db: &Database, fake: &FakeFlexportal, arguments: &[&str], more: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = Command::new(env!("CARGO_BIN_EXE_flexportal-sync"));
        for setting in SETTINGS {
            command.env_remove(setting.name);
        }
        command
            .arg("serve")
            .args(arguments)
            .envs(more.iter().copied())
            .current_dir(folder.path())
            .env("DATABASE_URL", db.url.expose_secret())
            .env("LISTEN_ADDR", "127.0.0.1:0")
            .env("FLEXPORTAL_API_KEY", "fake-key")
            .env("FLEXPORTAL_TENANT_ID", "fake-tenant")
            .env("FLEXPORTAL_BASE_URL", fake.base_url().as_str())
            .env("FLEXPORTAL_RATE_LIMIT_PER_MINUTE", "0")
            .env("LOG_FORMAT", "json")
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let logs = BufReader::new(child.stderr.take().expect("piped"));
        let (found, addr) = tokio::sync::oneshot::channel();
        // Reads to the end, so that the service never waits for its log to be read.
        std::thread::spawn(move || {
            let mut found = Some(found);
            let mut addr = None;
            for line in logs.lines().map_while(Result::ok) {
                let line: Value = serde_json::from_str(&line).unwrap_or_default();
                match line["message"].as_str() {
                    Some("listening") => addr = line["addr"].as_str().map(str::to_owned),
                    Some("ready") => drop(found.take().map(|found| found.send(addr.clone().unwrap_or_default()))),
                    _ => {}
                }
            }
        });
        let addr = tokio::time::timeout(DEADLINE, addr).await.expect("in time").expect("it gets ready");
        Self { child, addr, _folder: folder }
    }

    async fn deliver(&self, webhook: Webhook) -> StatusCode {
        let headers = webhook.signed_at(Clock::System.now());
        let client = reqwest::Client::builder().timeout(DEADLINE).no_proxy().build().expect("a client");
        let url = format!("http://{}/webhooks/shopify", self.addr);
        client.post(url).headers(headers).body(webhook.body).send().await.expect("an answer").status()
    }

    fn kill(mut self) {
        self.child.kill().expect("it is there");
    }

    async fn terminate(mut self) -> ExitStatus {
        let signalled = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        assert!(signalled.expect("kill runs").success());
        let mut child = std::mem::replace(&mut self.child, Command::new("true").spawn().expect("it starts"));
        let ended = tokio::task::spawn_blocking(move || child.wait().expect("it ends"));
        tokio::time::timeout(DEADLINE, ended).await.expect("it leaves in time").expect("no panic")
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn fake() -> FakeFlexportal {
    FakeFlexportal::start(FakeOptions { customers: 20, ..FakeOptions::default() }).await.expect("the fake starts")
}

async fn wait_for_requests(fake: &FakeFlexportal, count: usize) {
    tokio::time::timeout(DEADLINE, fake.wait_for_requests(count)).await.expect("a request in time");
}

/// Asks the database until the answer is yes.
async fn wait_until(db: &Database, sql: &'static str) {
    let asking = async {
        while !sqlx::query_scalar::<_, bool>(sql).fetch_one(&db.pool).await.unwrap_or(false) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, asking).await.unwrap_or_else(|_| panic!("never true: {sql}"));
}

const ALL_SYNCED: &str = "select bool_and(status in ('synced', 'superseded', 'unchanged')) from outbox_events";

#[tokio::test]
async fn a_worker_killed_during_a_request_is_taken_over_and_nothing_is_lost() {
    let (db, fake) = (database().await, fake().await);
    let service = Service::start(&db, &fake).await;
    fake.set_behaviour(Behaviour { hang_rate: 1.0, ..Behaviour::default() });
    assert_eq!(service.deliver(shopify(1, 0, &json!({}))).await, 200);
    wait_for_requests(&fake, 1).await;
    service.kill();

    fake.set_behaviour(Behaviour::default());
    let service = Service::start(&db, &fake).await;
    wait_until(&db, "select status = 'in_flight' from outbox_events").await;
    // Half a minute passes.
    sqlx::query("update waiting_customers set lease_expires_at = lease_expires_at - interval '30 s'")
        .execute(&db.pool)
        .await
        .expect("moved");
    wait_until(&db, ALL_SYNCED).await;
    assert_eq!(fake.customer("cus_1").expect("there").first_name, "Ada");
    drop(service);
}

#[tokio::test]
async fn what_was_answered_200_survives_a_kill_right_after_it() {
    let (db, fake) = (database().await, fake().await);
    let service = Service::start(&db, &fake).await;
    for n in 1..=10 {
        assert_eq!(service.deliver(shopify(n, 0, &json!({}))).await, 200);
    }
    service.kill();
    let _service = Service::start(&db, &fake).await;
    sqlx::query("update waiting_customers set lease_expires_at = now() where lease_id is not null")
        .execute(&db.pool)
        .await
        .expect("moved");
    wait_until(&db, ALL_SYNCED).await;
    let events: i64 =
        sqlx::query_scalar("select count(*) from outbox_events").fetch_one(&db.pool).await.expect("a count");
    assert_eq!(events, 10);
}

#[tokio::test]
async fn at_sigterm_the_request_in_flight_is_finished_and_the_lease_given_back() {
    let (db, fake) = (database().await, fake().await);
    let service = Service::start(&db, &fake).await;
    fake.set_behaviour(Behaviour { latency_ms: 1000, ..Behaviour::default() });
    assert_eq!(service.deliver(shopify(1, 0, &json!({}))).await, 200);
    wait_for_requests(&fake, 1).await;
    assert!(service.terminate().await.success());
    wait_until(&db, ALL_SYNCED).await;
    wait_until(&db, "select count(*) = 0 from waiting_customers").await;
}

#[tokio::test]
async fn connections_cut_and_a_database_away_need_no_hand() {
    let (db, fake) = (database().await, fake().await);
    let service = Service::start(&db, &fake).await;
    let name = url::Url::parse(db.url.expose_secret()).expect("a url").path().trim_start_matches('/').to_owned();
    let admin = db.admin().await;
    let cut = async || {
        sqlx::query("select pg_terminate_backend(pid) from pg_stat_activity where datname = $1 and application_name = 'flexportal-sync'")
            .bind(&name)
            .execute(&admin)
            .await
            .expect("cut");
    };
    cut().await;
    // At most the one connection that was cut is answered 503, and then the shop sends again.
    let again = async { while service.deliver(shopify(1, 0, &json!({}))).await != 200 {} };
    tokio::time::timeout(DEADLINE, again).await.expect("it recovers");
    wait_until(&db, ALL_SYNCED).await;

    db.allow_connections(false).await;
    cut().await;
    assert_eq!(service.deliver(shopify(2, 0, &json!({}))).await, 503);
    db.allow_connections(true).await;
    let again = async { while service.deliver(shopify(2, 0, &json!({}))).await != 200 {} };
    tokio::time::timeout(DEADLINE, again).await.expect("it recovers");
    wait_until(&db, "select count(*) = 2 from outbox_events where status = 'synced'").await;
}

#[tokio::test]
async fn intake_and_worker_run_apart_each_with_its_own_secrets_only() {
    let (db, fake) = (database().await, fake().await);
    let secret = [("SHOPIFY_WEBHOOK_SECRET", SHOPIFY_SECRET)];
    let intake = Service::start_with(&db, &fake, &["--role", "intake"], &secret).await;
    let worker = Service::start_with(&db, &fake, &["--role", "worker", "--no-migrate"], &[]).await;
    assert_eq!(intake.deliver(shopify(1, 0, &json!({}))).await, 200);
    wait_until(&db, ALL_SYNCED).await;
    assert_eq!(worker.deliver(shopify(2, 0, &json!({}))).await, 404, "a worker takes no webhooks");
}
