//! The drill: a burst of webhooks to the real service, a worker killed in the middle, a FlexPortal with a quota and
//! faults, and then the question what became of every single change.
//!
//! ```text
//! burst ─sending─▶ intake ─▶ Postgres ─▶ worker (kill -9, started again) ─▶ fake FlexPortal
//!   └───────────────────────── judge ◀─ answers, events, FlexPortal's log and state
//! ```
//!
//! Intake and worker are processes of the real binary, on a Postgres that waits for its disk; the fake FlexPortal
//! lives in this process. The seed settles what is sent, in which order, and which requests FlexPortal fails, by
//! their number; the timing is chance. Exit code 1 if anything was lost, wrong or set back; the other figures are
//! measured only.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use chrono::{DateTime, Utc};
use clap::Parser;
use flexportal_sync::config::Variables;
use flexportal_sync::domain::{Clock, Dice};
use flexportal_sync::fake_flexportal::{Behaviour, FakeCustomer, FakeFlexportal, FakeOptions, Refusal};
use flexportal_sync::throwaway_postgres::{
    Durability, FoundPostgres, create_database, drop_database, fresh_database_name,
};
use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::{PgPool, PgPoolOptions};
use tokio::sync::watch;
use tokio::time::Instant;

mod burst;
mod floor;
mod judge;
mod process;
mod progress;
mod report;
mod sending;
mod verdict;

use burst::{Burst, RATE, Size};
use process::{Process, Role, Surroundings};
use progress::Progress;
use sending::send;
use verdict::End;

/// Sends a seeded burst through the real service and judges what became of it.
#[derive(Debug, Parser)]
struct Drill {
    /// Which burst
    #[arg(long, default_value_t = 20_261_123)]
    seed: u64,
    /// A small and quick one, for CI
    #[arg(long)]
    smoke: bool,
    /// Worker processes; one of them is killed
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "smoke", value_parser = clap::value_parser!(u8).range(1..))]
    workers: u8,
    /// What `cargo bench` adds
    #[arg(long = "bench", hide = true)]
    _is_bench: bool,
}

/// FlexPortal answers after this, in milliseconds.
const LATENCY_MS: u32 = 40;
/// Share of requests that FlexPortal answers with 503.
const UNAVAILABLE_RATE: f64 = 0.01;
/// How often the events are counted while they are waited for.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What differs between the drill and its smoke test.
struct Scale {
    size: Size,
    limit_per_minute: u32,
    settled_within: Duration,
    /// A killed worker's customers are taken over after a second, not after half a minute; aims that need time are
    /// not judged.
    is_smoke: bool,
}

impl Drill {
    fn scale(&self) -> Scale {
        if self.smoke {
            Scale {
                size: Size { deliveries: 150, customers: 40 },
                limit_per_minute: 6_000,
                settled_within: Duration::from_mins(1),
                is_smoke: true,
            }
        } else {
            Scale {
                size: Size { deliveries: 3_000, customers: 600 },
                limit_per_minute: 600,
                settled_within: Duration::from_mins(5),
                is_smoke: false,
            }
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let drill = Drill::parse();
    match run(&drill).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Finds a Postgres, runs, and leaves nothing behind, whatever came of it.
async fn run(drill: &Drill) -> anyhow::Result<ExitCode> {
    let variables = Variables::without_dot_env();
    let given = variables.text("DATABASE_URL").map(SecretString::from);
    let mut leave = std::pin::pin!(asked_to_leave());
    let postgres = tokio::select! {
        found = FoundPostgres::find(given.as_ref(), Durability::Durable) => found?,
        () = &mut leave => bail!("interrupted"),
    };
    let name = fresh_database_name("flexportal_sync_drill");
    let outcome = tokio::select! {
        outcome = on(drill, &postgres, &name) => outcome,
        () = leave => Err(anyhow::anyhow!("interrupted: cleaned up")),
    };
    let dropped = drop_database(postgres.url(), &name).await;
    postgres.stop().await?;
    let code = outcome?;
    dropped?;
    Ok(code)
}

/// Resolves at SIGTERM or Ctrl-C.
async fn asked_to_leave() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}

/// The drill itself, on a server, in a database of that name.
async fn on(drill: &Drill, postgres: &FoundPostgres, name: &str) -> anyhow::Result<ExitCode> {
    let scale = drill.scale();
    let burst = Arc::new(Burst::new(drill.seed, scale.size, Clock::System.now()));
    introduce(drill, &scale, postgres, &burst);

    let database_url = create_database(postgres.url(), name, None).await?;
    let pool = PgPoolOptions::new().max_connections(1).connect(database_url.expose_secret()).await?;
    let fake = flexportal(drill.seed, &burst, scale.limit_per_minute).await?;
    let surroundings = Surroundings::new(database_url, &fake);
    let mut intake = Process::start(Role::Intake, &surroundings)?;
    let addr = intake.ready().await?;
    let mut workers = Vec::new();
    for _ in 0..drill.workers {
        let mut worker = Process::start(Role::Worker, &surroundings)?;
        worker.ready().await?;
        workers.push(worker);
    }

    let (begun, seen) = watch::channel(0);
    let total = burst.deliveries.len();
    let (sent, killed, ()) = tokio::try_join!(
        send(Arc::clone(&burst), &addr, &begun),
        kill_one(&mut workers, &surroundings, &fake, &pool, seen.clone(), total / 2, scale.is_smoke),
        show(seen, total),
    )?;
    wait_until_settled(&pool, scale.settled_within, &mut intake, &mut workers).await?;

    let end = End { scale: &scale, burst: &burst, sent: &sent, killed: &killed, fake: &fake, pool: &pool };
    let (mut report, is_good) = end.judged().await?;
    let peak = |process: &Process| process.peak_memory_bytes().map(|bytes| format!("{} MiB", bytes / 1_048_576));
    let peaks: Vec<_> = std::iter::once(&intake).chain(&workers).filter_map(peak).collect();
    if !peaks.is_empty() {
        report.figure("memory at most, intake / worker", peaks.join(" / "));
    }
    println!("\n{report}");
    for (role, process) in std::iter::once(("intake", &intake)).chain(workers.iter().map(|worker| ("worker", worker))) {
        for (warning, times) in process.warnings() {
            println!("log of the {role}, {times} times: {warning}");
        }
    }
    pool.close().await;
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn introduce(drill: &Drill, scale: &Scale, postgres: &FoundPostgres, burst: &Burst) {
    let late = burst.changes.iter().filter(|change| change.is_late).count();
    let refused = burst.customers.iter().filter(|customer| customer.is_refused).count();
    let looked_up = burst.customers.iter().filter(|customer| customer.is_looked_up()).count();
    println!(
        "flexportal-sync {} ({}), {}, {} cores",
        env!("CARGO_PKG_VERSION"),
        if cfg!(debug_assertions) { "debug build" } else { "release build" },
        postgres.describe(),
        std::thread::available_parallelism().map_or(0, usize::from),
    );
    println!(
        "seed {}: {} deliveries at {RATE}/s, of which {} sent twice and {late} late; {} customers, of which {refused} \
         refused and {looked_up} looked up by e-mail, the others known by id",
        drill.seed,
        burst.deliveries.len(),
        burst.deliveries.len() - burst.changes.len(),
        burst.customers.len(),
    );
    println!(
        "FlexPortal: {} requests a minute, {LATENCY_MS} ms, {} % answered 503; workers: {}, one killed and \
         started again half-way{}",
        scale.limit_per_minute,
        UNAVAILABLE_RATE * 100.0,
        drill.workers,
        if scale.is_smoke { "; its claims then end after a second" } else { "" },
    );
}

async fn flexportal(seed: u64, burst: &Burst, limit_per_minute: u32) -> anyhow::Result<FakeFlexportal> {
    let refusal = |customer: &burst::Customer| Refusal {
        customer_id: customer.flexportal_id(),
        status: 422,
        code: "VALIDATION_ERROR".to_owned(),
        message: "not a phone number".to_owned(),
        path: Some("phone".to_owned()),
    };
    let behaviour = Behaviour {
        latency_ms: u64::from(LATENCY_MS),
        error_rate: UNAVAILABLE_RATE,
        error_status: 503,
        rate_limit_per_minute: limit_per_minute,
        refuse_customers: burst.customers.iter().filter(|customer| customer.is_refused).map(refusal).collect(),
        ..Behaviour::default()
    };
    let options = FakeOptions { behaviour, dice: Dice::seeded(seed), ..FakeOptions::default() };
    let fake = FakeFlexportal::start(options).await.context("the fake FlexPortal did not start")?;
    for customer in &burst.customers {
        fake.add_customer(FakeCustomer::new(customer.flexportal_id(), customer.email()));
    }
    Ok(fake)
}

/// How a worker came to its end and what it left.
struct Killed {
    at: DateTime<Utc>,
    /// Source and shop's id of the customers it held; none where it was not alone, for whose they are cannot be told
    /// from outside.
    held: Option<Vec<(String, String)>>,
}

/// Kills a worker while a request is under way, once `after` deliveries have begun, and starts another in its place.
async fn kill_one(
    workers: &mut [Process],
    surroundings: &Surroundings,
    fake: &FakeFlexportal,
    pool: &PgPool,
    mut begun: watch::Receiver<usize>,
    after: usize,
    shortens_leases: bool,
) -> anyhow::Result<Killed> {
    begun.wait_for(|begun| *begun >= after).await.context("the sender is gone")?;
    // Whoever is in the log has no answer yet: FlexPortal takes its time.
    let next_request = fake.wait_for_requests(fake.requests().len() + 1);
    // Where none comes, the kill is worth less, but there is one.
    let _ = tokio::time::timeout(Duration::from_secs(1), next_request).await;
    let is_alone = workers.len() == 1;
    let worker = workers.first_mut().context("there is no worker to kill")?;
    worker.kill()?;
    let at = Clock::System.now();
    let held = sqlx::query_as("select distinct source, shop_customer_id from outbox_events where status = 'in_flight'")
        .fetch_all(pool)
        .await?;
    if shortens_leases {
        // Locked in the order in which intake locks them.
        sqlx::query(
            r"
            with held as (
                select source, shop_customer_id
                from waiting_customers
                where lease_id is not null
                order by source, shop_customer_id
                for update
            )
            update waiting_customers waiting
            set lease_expires_at = clock_timestamp() + interval '1 s'
            from held
            where waiting.source = held.source
              and waiting.shop_customer_id = held.shop_customer_id
            ",
        )
        .execute(pool)
        .await?;
    }
    *worker = Process::start(Role::Worker, surroundings)?;
    Ok(Killed { at, held: is_alone.then_some(held) })
}

async fn show(mut begun: watch::Receiver<usize>, total: usize) -> anyhow::Result<()> {
    let mut progress = Progress::new("sending", total);
    loop {
        let position = *begun.borrow_and_update();
        progress.at(position);
        if position == total {
            return Ok(());
        }
        begun.changed().await.context("the sender is gone")?;
    }
}

/// Waits until no event waits any more, or for so long; whether any is left is the judge's business.
async fn wait_until_settled(
    pool: &PgPool,
    within: Duration,
    intake: &mut Process,
    workers: &mut [Process],
) -> anyhow::Result<()> {
    let deadline = Instant::now() + within;
    let mut progress = None;
    loop {
        intake.check()?;
        workers.iter_mut().try_for_each(Process::check)?;
        let (waiting, all): (i64, i64) = sqlx::query_as(
            "select count(*) filter (where status in ('pending', 'in_flight')), count(*) from outbox_events",
        )
        .fetch_one(pool)
        .await?;
        let all = usize::try_from(all).unwrap_or(0);
        let settled = all - usize::try_from(waiting).unwrap_or(0);
        progress.get_or_insert_with(|| Progress::new("settling", all)).at(settled);
        if settled == all || Instant::now() >= deadline {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
