//! The service under test: real HTTP in front, a real Postgres inside, the fake FlexPortal behind, and time
//! moved by hand.

use std::net::SocketAddr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use flexportal_sync::config::{Config, Needs, Variables};
use flexportal_sync::domain::{Clock, Dice};
use flexportal_sync::fake_flexportal::{FakeFlexportal, FakeOptions};
use flexportal_sync::inspect::Previewer;
use flexportal_sync::outbox::Outbox;
use flexportal_sync::service::{Prepare, Role, Running, Service};
use flexportal_sync::sync::{StepOutcome, Worker};
use flexportal_sync::upkeep::Upkeep;
use reqwest::header::HeaderMap;
use serde_json::Value;
use sqlx::Row;

use super::in_time;
use super::shop::Webhook;
use super::{Database, database};

/// What was answered to a webhook.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Answer {
    /// `accepted`, `duplicate`, `ignored`; nothing for a problem.
    pub fn word(&self) -> &str {
        self.body["status"].as_str().unwrap_or_default()
    }

    pub fn event_id(&self) -> uuid::Uuid {
        self.body["eventId"].as_str().and_then(|id| id.parse().ok()).unwrap_or_else(|| panic!("no event id: {self:?}"))
    }
}

/// A row of `outbox_events`, as far as tests look at it.
#[derive(Debug, PartialEq)]
pub struct Event {
    pub status: String,
    pub attempts: i32,
    pub http_status: Option<i32>,
    pub error_code: Option<String>,
    pub error: Option<String>,
    pub warnings: Vec<String>,
    pub flexportal_id: Option<String>,
    pub superseded_by: Option<uuid::Uuid>,
    pub is_finished: bool,
    pub next_attempt_at: Option<DateTime<Utc>>,
}

/// One service with all three sources, and everything around it.
pub struct App {
    pub fake: FakeFlexportal,
    pub db: Database,
    pub clock: Clock,
    pub worker: Worker,
    pub outbox: Outbox,
    pub intake: Outbox,
    pub addr: SocketAddr,
    client: reqwest::Client,
    config: Config,
    _running: Running,
}

/// The instant at which every test begins; the fixtures are signed two seconds before.
pub fn start_of_time() -> DateTime<Utc> {
    "2026-11-23T10:00:00Z".parse().expect("a time")
}

impl App {
    pub async fn start() -> Self {
        Self::start_with(&[], "").await
    }

    /// With more variables and a file.
    pub async fn start_with(variables: &[(&str, &str)], file: &str) -> Self {
        let clock = Clock::manual(start_of_time());
        let options = FakeOptions { clock: clock.clone(), customers: 20, ..FakeOptions::default() };
        let fake = FakeFlexportal::start(options).await.expect("the fake starts");
        let db = database().await;
        let config = config(&db, &fake, variables, file);
        let mut service = Service::new(&config, Role::All, clock.clone(), Dice::Loaded(0.5)).expect("a service");
        let worker = service.worker.take().expect("a worker");
        let (outbox, intake) = (service.outbox().clone(), service.intake().clone());
        service.prepare_database(false).await.expect("a database");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let (running, _) = service.start(listener, Prepare::Nothing).expect("a start");
        let client = reqwest::Client::builder().timeout(Duration::from_secs(20)).no_proxy().build().expect("a client");
        Self { fake, db, clock, worker, outbox, intake, addr: running.addr, client, config, _running: running }
    }

    /// The worker of another process on the same database.
    pub fn another_worker(&self) -> Worker {
        let service = Service::new(&self.config, Role::Worker, self.clock.clone(), Dice::Loaded(0.5));
        service.expect("a service").worker.expect("a worker")
    }

    /// Sends a webhook to the source of its kind.
    pub async fn deliver(&self, webhook: Webhook) -> Answer {
        let source = webhook.source();
        self.deliver_to(source, webhook).await
    }

    pub async fn deliver_to(&self, source: &str, webhook: Webhook) -> Answer {
        let headers = webhook.signed_at(self.clock.now());
        self.post(source, headers, webhook.body).await
    }

    /// Sends exactly these bytes.
    pub async fn post(&self, source: &str, headers: HeaderMap, body: impl Into<reqwest::Body>) -> Answer {
        let url = format!("http://{}/webhooks/{source}", self.addr);
        answer(self.client.post(url).headers(headers).body(body)).await.expect("an answer")
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask(self.request("GET", path)).await
    }

    /// A request to the service, to be added to.
    pub fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let method = method.parse().expect("a method");
        self.client.request(method, format!("http://{}{path}", self.addr))
    }

    pub async fn ask(&self, request: reqwest::RequestBuilder) -> Answer {
        answer(request).await.expect("an answer")
    }

    /// What would be sent.
    pub fn previewer(&self) -> Previewer {
        Previewer::new(&self.config, &[]).expect("a configuration")
    }

    /// What is done beside the sync.
    pub fn upkeep(&self) -> Upkeep {
        self.upkeep_by(self.clock.clone())
    }

    /// The upkeep of a process whose own clock shows something else than Postgres'.
    pub fn upkeep_by(&self, clock: Clock) -> Upkeep {
        Upkeep::new(self.outbox.clone(), self.config.retention, self.config.retry.longest_delay(), clock)
    }

    /// Works until nothing is due.
    pub async fn drain(&self) {
        while self.worker.step().await.expect("the database") != StepOutcome::Idle {}
    }

    /// Lets time pass.
    pub fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    /// Delivers, works it off, and gives the event as it is then.
    pub async fn sync(&self, webhook: Webhook) -> Event {
        let answer = self.deliver(webhook).await;
        assert_eq!(answer.word(), "accepted", "{answer:?}");
        self.drain().await;
        self.event(answer.event_id()).await
    }

    pub async fn event(&self, id: uuid::Uuid) -> Event {
        let row = sqlx::query("select * from outbox_events where id = $1")
            .bind(id)
            .fetch_one(&self.db.pool)
            .await
            .expect("the event");
        Event {
            status: row.get("status"),
            attempts: row.get("attempts"),
            http_status: row.get("last_http_status"),
            error_code: row.get("last_error_code"),
            error: row.get("last_error"),
            warnings: row.get("warnings"),
            flexportal_id: row.get("flexportal_customer_id"),
            superseded_by: row.get("superseded_by"),
            is_finished: row.get::<Option<DateTime<Utc>>, _>("finished_at").is_some(),
            next_attempt_at: row.get("next_attempt_at"),
        }
    }

    /// The bodies of all PUTs so far, in order.
    pub fn puts(&self) -> Vec<Value> {
        let requests = self.fake.requests();
        requests.into_iter().filter(|request| request.method == "PUT").filter_map(|request| request.body).collect()
    }

    /// How many lookups there were.
    pub fn lookups(&self) -> usize {
        let is_lookup = |query: &str| query.contains("email=");
        self.fake.requests().iter().filter(|request| request.query.as_deref().is_some_and(is_lookup)).count()
    }

    /// Rows and index entries of the big tables, and the queue, that were read so far: connections tell it when they end.
    pub async fn rows_read(&self) -> i64 {
        let ended: Vec<i32> = sqlx::query_scalar(
            "select pid
             from (
                 select pid from pg_stat_activity
                 where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'
                 offset 0
             ) as others
             where pg_terminate_backend(pid)",
        )
        .fetch_all(&self.db.pool)
        .await
        .expect("ended");
        in_time("the end of the other connections", async {
            let left = "select exists (select from pg_stat_activity where pid = any($1))";
            while sqlx::query_scalar(left).bind(&ended).fetch_one(&self.db.pool).await.expect("an answer") {
                tokio::task::yield_now().await;
            }
        })
        .await;
        self.count(
            "select (
                 select sum(seq_tup_read) from pg_stat_user_tables where relname = any(big)
             )::bigint + (
                 select sum(idx_tup_read) from pg_stat_user_indexes where relname = any(big)
             )::bigint
             from (
                 select array['deliveries', 'event_states', 'sync_attempts', 'waiting_customers', 'customer_links'] as big
             ) as tables",
        )
        .await
    }

    /// One number from the database.
    pub async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.db.pool).await.expect("a number")
    }
}

/// The configuration of a test: the three sources with the secrets of the fixtures, and no rate limit.
pub fn config(db: &Database, fake: &FakeFlexportal, variables: &[(&str, &str)], file: &str) -> Config {
    use secrecy::ExposeSecret;
    let base_url = fake.base_url();
    let mut all = vec![
        ("DATABASE_URL", db.url.expose_secret()),
        ("FLEXPORTAL_API_KEY", "fake-key"),
        ("FLEXPORTAL_TENANT_ID", "fake-tenant"),
        ("FLEXPORTAL_BASE_URL", base_url.as_str()),
        ("FLEXPORTAL_RATE_LIMIT_PER_MINUTE", "0"),
        ("FLEXPORTAL_TIMEOUT", "2s"),
        ("SHOPIFY_WEBHOOK_SECRET", super::shop::SHOPIFY_SECRET),
        ("WOOCOMMERCE_WEBHOOK_SECRET", super::shop::WOOCOMMERCE_SECRET),
        ("GENERIC_WEBHOOK_SECRET", super::shop::GENERIC_SECRET),
        ("GENERIC_WEBHOOK_SECRET_PREVIOUS", super::shop::GENERIC_PREVIOUS_SECRET),
    ];
    all.retain(|(name, _)| !variables.iter().any(|(other, _)| other == name));
    all.extend_from_slice(variables);
    let variables: Variables = all.into_iter().collect();
    Config::from_parts(&variables, Some(("test.toml", file)), Needs::EVERYTHING)
        .unwrap_or_else(|error| panic!("{error}"))
}

/// Asks, and reads the answer to its end.
pub async fn answer(request: reqwest::RequestBuilder) -> reqwest::Result<Answer> {
    let response = request.send().await?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let text = response.text().await?;
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    Ok(Answer { status, headers, body })
}
