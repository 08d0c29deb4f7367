//! `graphile_worker` of crates.io, drained: a task that sends one PUT. Same contract as the scripts beside it:
//!
//! ```text
//! DATABASE_URL=… TARGET=http://… EVENTS=<file, one JSON body a line> peer-graphile-worker '<configuration as JSON>'
//! ```

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use graphile_worker::{
    IntoTaskHandlerResult, JobSpec, LocalQueueConfig, RawJobSpec, TaskHandler, WorkerContext, WorkerOptions,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::sync::Semaphore;

/// Requests in flight.
const IN_FLIGHT: usize = 64;
/// Jobs handed to the library's bulk API at once.
const FILLED_AT_ONCE: usize = 1_000;
/// How often it is looked whether all is done.
const LOOKS_EVERY: Duration = Duration::from_millis(5);
/// Whoever takes longer never ends.
const PATIENCE: Duration = Duration::from_mins(5);

/// What is not said is the library's default, but for the number of jobs at once.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Configuration {
    /// Jobs at once; of them, [`IN_FLIGHT`] may send their request.
    #[serde(default = "in_flight")]
    concurrency: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    local_queue: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    batch_delay_ms: Option<u64>,
    #[serde(default = "in_flight")]
    connections: usize,
}

fn in_flight() -> usize {
    IN_FLIGHT
}

/// An event of the service's drain.
#[derive(Debug, Serialize, Deserialize)]
struct Event {
    r#type: String,
    timestamp: String,
    data: Customer,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Customer {
    customer_id: String,
    flexportal_customer_id: String,
    first_name: String,
    last_name: String,
    phone: String,
}

/// Where requests go, and what went there.
#[derive(Clone, Debug)]
struct Flexportal(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    client: reqwest::Client,
    target: String,
    places: Semaphore,
    first: OnceLock<Instant>,
    puts: AtomicUsize,
}

impl TaskHandler for Event {
    const IDENTIFIER: &'static str = "put";

    async fn run(self, context: WorkerContext) -> impl IntoTaskHandlerResult {
        let Flexportal(flexportal) = context.get_ext::<Flexportal>().ok_or("no target")?;
        flexportal.update(&self).await.map_err(|error| error.to_string())
    }
}

impl Inner {
    /// The service's request: FlexPortal `PUT /v1/customers/{customerId}`.
    async fn update(&self, event: &Event) -> anyhow::Result<()> {
        let _place = self.places.acquire().await?;
        self.first.get_or_init(Instant::now);
        let customer = &event.data;
        let key = format!("{} {} {}", event.r#type, customer.customer_id, event.timestamp);
        let body = json!({
            "customerId": customer.flexportal_customer_id,
            "firstName": customer.first_name,
            "lastName": customer.last_name,
            "phone": customer.phone,
        });
        let url = format!("{}/v1/customers/{}", self.target, customer.flexportal_customer_id);
        let request = self.client.put(url).bearer_auth("key").header("tenant-id", "tenant");
        let answer = request.header("idempotency-key", key).json(&body).send().await?.error_for_status()?;
        ensure!(answer.json::<Value>().await?["success"] == true, "FlexPortal did not do it");
        self.puts.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let configuration = std::env::args().nth(1).unwrap_or_else(|| "{}".to_owned());
    let configuration: Configuration = serde_json::from_str(&configuration).context("the configuration")?;
    let flexportal = Flexportal(Arc::new(Inner {
        client: reqwest::Client::builder().no_proxy().build()?,
        target: std::env::var("TARGET").context("TARGET")?,
        places: Semaphore::new(IN_FLIGHT),
        first: OnceLock::new(),
        puts: AtomicUsize::new(0),
    }));
    let connections = u32::try_from(configuration.connections)?;
    let url = std::env::var("DATABASE_URL").context("DATABASE_URL")?;
    let pool = PgPoolOptions::new().max_connections(connections).connect(&url).await?;

    let mut options = WorkerOptions::default()
        .concurrency(configuration.concurrency)
        .add_extension(flexportal.clone())
        .define_job::<Event>()
        .listen_os_shutdown_signals(false)
        .pg_pool(pool.clone());
    if let Some(size) = configuration.local_queue {
        options = options.local_queue(LocalQueueConfig::default().with_size(size));
    }
    if let Some(delay) = configuration.batch_delay_ms.map(Duration::from_millis) {
        options = options.complete_job_batch_delay(delay).fail_job_batch_delay(delay);
    }
    let worker = options.init().await?;

    let mut jobs = Vec::new();
    for line in std::fs::read_to_string(std::env::var("EVENTS").context("EVENTS")?)?.lines() {
        let payload = serde_json::from_str(line)?;
        jobs.push(RawJobSpec { identifier: Event::IDENTIFIER.to_owned(), payload, spec: JobSpec::default() });
    }
    for some in jobs.chunks(FILLED_AT_ONCE) {
        worker.create_utils().add_raw_jobs(some).await?;
    }
    // What a table that was filled over days would have been through by itself.
    sqlx::query("vacuum analyze").execute(&pool).await?;

    let drained = async {
        // The tables are left alone while there is work.
        while flexportal.0.puts.load(Ordering::Relaxed) < jobs.len() {
            tokio::time::sleep(LOOKS_EVERY).await;
        }
        while is_left(&pool).await? {
            tokio::time::sleep(LOOKS_EVERY).await;
        }
        let took = flexportal.0.first.get().context("no request")?.elapsed();
        worker.request_shutdown();
        anyhow::Ok(took)
    };
    let (took, ran) = tokio::join!(tokio::time::timeout(PATIENCE, drained), worker.run());
    ran?;
    let took = took.context("the jobs do not end")??;
    ensure!(!is_left(&pool).await?, "jobs came back");
    let told = json!({
        "peer": "graphile_worker",
        "version": "0.14.1",
        "configuration": configuration,
        "jobs": jobs.len(),
        "seconds": took.as_secs_f64(),
        "puts": flexportal.0.puts.load(Ordering::Relaxed),
    });
    println!("{told}");
    Ok(())
}

async fn is_left(pool: &PgPool) -> anyhow::Result<bool> {
    let left = sqlx::query_scalar("select exists (select from graphile_worker._private_jobs)");
    Ok(left.fetch_one(pool).await?)
}
