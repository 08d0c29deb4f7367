//! How fast the service is beside its own Postgres: everything is a ratio to `pgbench` in the same run.
//!
//! ```text
//! intake   load (keep-alive connections) ─▶ serve --role intake ─▶ Postgres
//! drain    Postgres (filled) ─▶ serve --role worker ─▶ a server that answers every PUT alike
//! idle     one webhook ─▶ serve ─▶ one PUT, one after the other
//! growth   intake and drain beside those on an empty table; only if asked for, since it takes long
//! soak     load ─▶ serve ─▶ PUTs, for long: is the memory flat; only if asked for, since it takes long
//! peers    the drain, and beside it those of other job queues; only if asked for, since it needs npm
//! yardstick: pgbench, one row of the same payload and a unique key per transaction, sent by the client
//! bare     the same as the intake and the drain, by the least that does it, beside them: how much room there is
//! ```
//!
//! The service is the real binary in a process of its own, Postgres waits for its disk, and all share the machine's
//! cores with the load. Exit code 1 if the books are wrong: an accepted webhook without its row, an event that is not
//! synced. Speed itself is measured, not judged.

use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::{Parser, ValueEnum};
use flexportal_sync::config::{ShopKind, Variables};
use flexportal_sync::domain::Clock;
use flexportal_sync::outbox::Outbox;
use flexportal_sync::throwaway_postgres::{
    Durability, FoundPostgres, create_database, drop_database, fresh_database_name, server_programs,
};
use secrecy::{ExposeSecret, SecretString};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::time::Instant;

mod bare;
mod cores;
mod growth;
mod history;
mod idle;
mod load;
mod peers;
mod server;
mod soak;
mod stub;
mod webhooks;

use bare::{BareProcess, BareRole};
use cores::{Cores, Shares};
use growth::Situation;
use load::Load;
use server::{Role, Server};
use stub::Stub;

/// Measures the service against pgbench on the same Postgres.
#[derive(Debug, Parser)]
struct Speed {
    /// What to measure; nothing: intake, drain and idle, and with --smoke growth and soak
    #[arg(value_enum)]
    what: Vec<What>,
    /// Tiny amounts, for CI: does it run, are the books right
    #[arg(long)]
    smoke: bool,
    /// Growth: finished events in the tables [default: 10000000]
    #[arg(long)]
    finished: Option<usize>,
    /// Growth: customers that wait [default: 1000000]
    #[arg(long)]
    waiting: Option<usize>,
    /// Growth: for how long the transaction is held open under load [default: 60s]
    #[arg(long, value_parser = humantime::parse_duration)]
    open_for: Option<Duration>,
    /// Growth: measurements of each situation [default: 5]
    #[arg(long)]
    rounds: Option<NonZeroUsize>,
    /// Soak: for how long [default: 5m]
    #[arg(long, value_parser = humantime::parse_duration)]
    soak_for: Option<Duration>,
    /// Growth: only these situations
    #[arg(long, value_delimiter = ',')]
    situations: Vec<Situation>,
    #[command(flatten)]
    bare: BareRole,
    /// What `cargo bench` adds
    #[arg(long = "bench", hide = true)]
    _is_bench: bool,
}

/// One measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// Accepted and committed webhooks per second
    Intake,
    /// Events per second from the database to the PUT and into the books; WAL until then, and when they are removed
    Drain,
    /// From the webhook to its PUT, while nothing else happens
    Idle,
    /// Intake and drain with what is stored, what waits, and an open transaction, beside those on an empty table
    Growth,
    /// The memory over a long run at full speed, from the webhook to the PUT
    Soak,
    /// The drain beside that of other job queues, which `npm ci --prefix benches/peers` installs
    Peers,
}

/// How much is done.
struct Scale {
    /// Each measurement of a rate lasts so long.
    lasts: Duration,
    /// Connections of the intake's load.
    connections: &'static [usize],
    /// Clients of pgbench.
    clients: &'static [usize],
    /// Customers of the intake's load.
    customers: usize,
    /// Events that are drained.
    drained: usize,
    idle: idle::Scale,
    growth: growth::Scale,
    soak: soak::Scale,
}

const FULL: Scale = Scale {
    lasts: Duration::from_secs(8),
    connections: &[8, 64, 256],
    clients: &[16, 32, 64],
    customers: 5_000,
    drained: 30_000,
    idle: idle::Scale { webhooks: 500, after_a_pause: 20, pause: Duration::from_millis(1_500) },
    growth: growth::Scale {
        finished: 10_000_000,
        waiting: 1_000_000,
        open_for: Duration::from_mins(1),
        churned: 1_000,
        connections: 64,
        lasts: Duration::from_secs(3),
        drained: 10_000,
        rounds: 5,
    },
    soak: soak::Scale { lasts: Duration::from_mins(5), customers: 5_000 },
};

const SMOKE: Scale = Scale {
    lasts: Duration::from_millis(300),
    connections: &[8],
    clients: &[2],
    customers: 50,
    drained: 200,
    idle: idle::Scale { webhooks: 5, after_a_pause: 1, pause: Duration::from_millis(100) },
    growth: growth::Scale {
        finished: 2_000,
        waiting: 1_000,
        open_for: Duration::from_secs(1),
        churned: 50,
        connections: 8,
        lasts: Duration::from_millis(300),
        drained: 200,
        rounds: 1,
    },
    soak: soak::Scale { lasts: Duration::ZERO, customers: 50 },
};

/// Requests in flight of the worker.
const IN_FLIGHT: usize = 64;
/// Bodies of the drain, of the soak, and of the way from webhook to PUT are padded to this size.
const DRAINED_BODY_BYTES: usize = 1_500;

#[tokio::main]
async fn main() -> ExitCode {
    let speed = Speed::parse();
    match speed.run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A Postgres, an empty database of ours on it, and how much to do.
struct Bench<'a> {
    url: SecretString,
    pool: PgPool,
    scale: &'a Scale,
}

impl Speed {
    async fn run(&self) -> anyhow::Result<()> {
        let variables = Variables::without_dot_env();
        let given = variables.text("DATABASE_URL").map(SecretString::from);
        if self.bare.run(given.as_ref()).await? {
            return Ok(());
        }
        let postgres = FoundPostgres::find(given.as_ref(), Durability::Durable).await?;
        let outcome = self.on(&postgres).await;
        postgres.stop().await?;
        outcome
    }

    async fn on(&self, postgres: &FoundPostgres) -> anyhow::Result<()> {
        let scale = if self.smoke { &SMOKE } else { &FULL };
        println!(
            "flexportal-sync {} ({} build), {}, {}",
            env!("CARGO_PKG_VERSION"),
            if cfg!(debug_assertions) { "dev" } else { "release" },
            postgres.describe(),
            cores::machine(),
        );
        let all: &[_] = if self.smoke {
            &[What::Intake, What::Drain, What::Idle, What::Growth, What::Soak]
        } else {
            &[What::Intake, What::Drain, What::Idle]
        };
        for what in if self.what.is_empty() { all } else { &self.what } {
            let name = fresh_database_name("flexportal_sync_speed");
            let url = create_database(postgres.url(), &name, None).await?;
            let pool = PgPoolOptions::new().max_connections(2).connect(url.expose_secret()).await?;
            let bench = Bench { url: url.clone(), pool, scale };
            let outcome = match what {
                What::Intake => bench.intake().await,
                What::Drain => bench.drain().await.map(drop),
                What::Idle => bench.idle().await,
                What::Growth => self.growth(&scale.growth).on(&url).await,
                What::Soak => {
                    bench.soak(soak::Scale { lasts: self.soak_for.unwrap_or(scale.soak.lasts), ..scale.soak }).await
                }
                What::Peers => bench.peers().await,
            };
            bench.pool.close().await;
            drop_database(postgres.url(), &name).await?;
            outcome?;
        }
        Ok(())
    }

    fn growth(&self, scale: &growth::Scale) -> growth::Growth {
        let situations = match self.situations.as_slice() {
            [] => Situation::value_variants(),
            chosen => chosen,
        };
        let scale = growth::Scale {
            finished: self.finished.unwrap_or(scale.finished),
            waiting: self.waiting.unwrap_or(scale.waiting),
            open_for: self.open_for.unwrap_or(scale.open_for),
            rounds: self.rounds.map_or(scale.rounds, NonZeroUsize::get),
            ..*scale
        };
        growth::Growth { scale, situations: situations.to_vec() }
    }
}

impl Bench<'_> {
    async fn intake(&self) -> anyhow::Result<()> {
        let webhooks = webhooks::of_shopify(self.scale.customers)?;
        let payload = webhooks.first().context("no webhooks")?.body();
        let server = Server::start(Role::Intake, &self.url, None).await?;
        // The first connections and pages are nobody's measure.
        let first = Load { connections: 8, lasts: self.scale.lasts / 4, rate: None };
        first.put(server.addr(), &webhooks).await?;
        println!("\nintake: {} bytes of payload\n", payload.len());
        println!("| connections | webhooks/s | pgbench/s | ratio | p50 | p99 | bare/s | its ratio |");
        println!("|------------:|-----------:|----------:|------:|----:|----:|-------:|----------:|");
        let (mut highest, mut shares) = (0.0_f64, String::new());
        for connections in self.scale.connections {
            let yardstick = self.pgbench(payload, self.scale.clients).await?;
            let load = Load { connections: *connections, lasts: self.scale.lasts, rate: None };
            self.empty().await?;
            let before = Cores::now(server.id())?;
            let measured = load.put(server.addr(), &webhooks).await?;
            let each = before.each(measured.count())?;
            self.are_stored(measured.count()).await?;
            let (bare, addr) = BareProcess::intake(&self.url, &self.pool).await?;
            first.put(&addr, &webhooks).await?;
            sqlx::raw_sql("truncate bare_deliveries; checkpoint").execute(&self.pool).await?;
            let before = Cores::now(bare.id())?;
            let least = load.put(&addr, &webhooks).await?;
            let each_of_bare = before.each(least.count())?;
            drop(bare);
            let stored = self.count("select count(*) from bare_deliveries").await?;
            ensure!(stored == i64::try_from(least.count())?, "{} were accepted, {stored} are stored", least.count());
            highest = highest.max(measured.rate());
            println!(
                "| {connections} | {:.0} | {yardstick:.0} | {:.2} | {} | {} | {:.0} | {:.2} |",
                measured.rate(),
                measured.rate() / yardstick,
                milliseconds(measured.percentile(0.5)),
                milliseconds(measured.percentile(0.99)),
                least.rate(),
                least.rate() / yardstick,
            );
            writeln!(shares, "| {connections} | flexportal-sync | {each} |\n| | bare | {each_of_bare} |")?;
        }
        let fewest = &self.scale.connections[..1];
        println!("\npgbench with {} clients: {:.0}/s", fewest[0], self.pgbench(payload, fewest).await?);
        print!("\ntime of all cores, in µs for each webhook\n\n{}{shares}", Shares::head("connections"));
        for (part, told) in [(2.0, "half"), (4.0, "a quarter")] {
            let load = Load { connections: 64, lasts: self.scale.lasts, rate: Some(highest / part) };
            self.empty().await?;
            let calm = load.put(server.addr(), &webhooks).await?;
            self.are_stored(calm.count()).await?;
            println!(
                "\nat {told} of the highest rate ({:.0}/s): p50 {}, p99 {}",
                calm.rate(),
                milliseconds(calm.percentile(0.5)),
                milliseconds(calm.percentile(0.99)),
            );
        }
        println!("memory of the service at most: {} MiB", server.peak_memory_bytes()? / 1024 / 1024);
        Ok(())
    }

    /// Tables without a row, as those of the yardstick: growth is measured elsewhere.
    async fn empty(&self) -> anyhow::Result<()> {
        sqlx::raw_sql("truncate deliveries, waiting_customers").execute(&self.pool).await?;
        checkpoint(&self.pool).await
    }

    async fn are_stored(&self, accepted: usize) -> anyhow::Result<()> {
        let stored = self.count("select count(*) from deliveries").await?;
        ensure!(stored == i64::try_from(accepted)?, "{accepted} were accepted, {stored} are stored");
        Ok(())
    }

    /// Events per second.
    async fn drain(&self) -> anyhow::Result<f64> {
        let events = self.scale.drained;
        let webhooks = webhooks::of_generic(events, DRAINED_BODY_BYTES)?;
        let payload = webhooks.first().context("no webhooks")?.body();
        let before = self.wal().await?;
        let intake = Server::start(Role::Intake, &self.url, None).await?;
        let after_migrations = self.wal().await?;
        let yardstick = self.pgbench(payload, self.scale.clients).await?;
        checkpoint(&self.pool).await?;
        let before_intake = self.wal().await?;
        Load::once(&intake, &webhooks).await?;
        drop(intake);
        let before_drain = self.wal().await?;
        let stub = Stub::start().await?;
        let began = Instant::now();
        let worker = Server::start(Role::Worker, &self.url, Some(stub.addr())).await?;
        let first = stub.wait_for(1).await?;
        let cores = Cores::now(worker.id())?;
        stub.wait_for(events).await?;
        self.all_are_settled().await?;
        let took = first.elapsed();
        let shares = cores.each(events)?;
        let after_drain = self.wal().await?;
        let synced = self.count("select count(*) from event_states where status = 'synced'").await?;
        let made = self.count("select count(*) from sync_attempts where http_status = 200").await?;
        let linked = self.count("select count(*) from customer_links where last_synced_at is not null").await?;
        let expected = i64::try_from(events)?;
        ensure!((synced, made, linked) == (expected, expected, expected), "{synced}, {made}, {linked} of {expected}");
        let memory = worker.peak_memory_bytes()? / 1024 / 1024;
        drop(worker);
        let (bare_rate, shares_of_bare) = self.drain_barely(events).await?;
        // Weeks later, each page is logged as a whole when it is first changed.
        checkpoint(&self.pool).await?;
        let before_removal = self.wal().await?;
        self.remove(events).await?;
        let after_removal = self.wal().await?;
        let rate = per_second(events, took);
        println!(
            "\ndrain: {events} events of {} bytes, each of a customer of its own, {IN_FLIGHT} in flight\n",
            payload.len()
        );
        println!("| events/s | pgbench/s | ratio | from start to first PUT | memory at most | bare/s | its ratio |");
        println!("|---------:|----------:|------:|------------------------:|---------------:|-------:|----------:|");
        println!(
            "| {rate:.0} | {yardstick:.0} | {:.2} | {} | {memory} MiB | {bare_rate:.0} | {:.2} |",
            rate / yardstick,
            milliseconds(first.duration_since(began)),
            bare_rate / yardstick,
        );
        println!(
            "\ntime of all cores, in µs for each event\n\n{}\
                  | {events} | flexportal-sync | {shares} |\n| | bare | {shares_of_bare} |",
            Shares::head("events")
        );
        let each = |from: f64, to: f64| (to - from) / count(events);
        println!(
            "\nWAL per event: {:.0} bytes at intake, {:.0} in the drain, {:.0} together; {:.0} more when it is removed \
             and vacuumed (migrations: {:.0} KB apart)",
            each(before_intake, before_drain),
            each(before_drain, after_drain),
            each(before_intake, after_drain),
            each(before_removal, after_removal),
            (after_migrations - before) / 1e3,
        );
        Ok(rate)
    }

    /// The same events, sent by the least that does; how many a second, and what each took.
    async fn drain_barely(&self, events: usize) -> anyhow::Result<(f64, Shares)> {
        checkpoint(&self.pool).await?;
        BareProcess::prepare_worker(&self.pool).await?;
        let stub = Stub::start().await?;
        let worker = BareProcess::worker(stub.addr(), &self.url)?;
        let first = stub.wait_for(1).await?;
        let cores = Cores::now(worker.id())?;
        stub.wait_for(events).await?;
        self.becomes_empty("select count(*) from bare_queue").await?;
        let (took, shares) = (first.elapsed(), cores.each(events)?);
        let kept = self.count(
            "select least(states, attempts, links)
             from (select count(*) as states from bare_states) as states,
                  (select count(*) as attempts from bare_attempts) as attempts,
                  (select count(*) as links from bare_links) as links",
        );
        let kept = kept.await?;
        ensure!(kept == i64::try_from(events)?, "the bare worker kept {kept} of {events}");
        Ok((per_second(events, took), shares))
    }

    /// Removes finished events, as is done when `RETENTION` is over, and vacuums.
    async fn remove(&self, events: usize) -> anyhow::Result<()> {
        let outbox = Outbox::new(&self.url, 1, Clock::System).map_err(anyhow::Error::msg)?;
        let (mut removed, mut begin) = (0, None);
        let soon = outbox.now().await? + Duration::from_mins(1);
        loop {
            let batch = outbox.remove_finished(soon, begin).await?;
            removed += batch.events;
            begin = batch.next;
            if begin.is_none() {
                break;
            }
        }
        outbox.close().await;
        ensure!(removed == events, "{removed} of {events} events were removed");
        sqlx::raw_sql("vacuum deliveries, event_states, sync_attempts, duplicates").execute(&self.pool).await?;
        Ok(())
    }

    /// One-row commits per second, the best of several numbers of clients.
    async fn pgbench(&self, payload: &str, clients: &[usize]) -> anyhow::Result<f64> {
        let program = pgbench_program()?;
        let folder = tempfile::tempdir().context("no folder for pgbench")?;
        let script = folder.path().join("insert.sql");
        std::fs::write(
            &script,
            "\\set key random(1, 9000000000000000000)\ninsert into yardstick (key, payload) values (:key, :payload);\n",
        )?;
        let mut best = 0.0_f64;
        for clients in clients {
            let empty = "drop table if exists yardstick;
                         create table yardstick (key bigint primary key, payload json not null)";
            sqlx::raw_sql(empty).execute(&self.pool).await?;
            checkpoint(&self.pool).await?;
            let mut command = Command::new(&program);
            let seconds = (self.scale.lasts / 2).as_secs().max(1);
            command
                .args(["--no-vacuum", "--protocol=prepared", "--jobs=2"])
                .arg(format!("--client={clients}"))
                .arg(format!("--time={seconds}"))
                .arg(format!("--define=payload={payload}"))
                .arg("--file")
                .arg(&script)
                .arg(self.url.expose_secret());
            let output =
                tokio::task::spawn_blocking(move || command.output()).await?.context("pgbench does not run")?;
            let told = String::from_utf8_lossy(&output.stdout);
            let rate =
                told.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse::<f64>().ok());
            let Some(rate) = rate else { bail!("pgbench: {}", String::from_utf8_lossy(&output.stderr)) };
            best = best.max(rate);
        }
        Ok(best)
    }

    /// Waits until nobody has work any more: a worker that ended before would keep its customers for as long as its lease.
    async fn all_are_settled(&self) -> anyhow::Result<()> {
        self.becomes_empty("select count(*) from waiting_customers").await
    }

    /// Waits until a count is 0, for a minute at most.
    async fn becomes_empty(&self, count: &'static str) -> anyhow::Result<()> {
        let began = Instant::now();
        while self.count(count).await? > 0 {
            ensure!(began.elapsed() < Duration::from_mins(1), "`{count}` does not become 0");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    async fn wal(&self) -> anyhow::Result<f64> {
        let position = sqlx::query_scalar("select (pg_current_wal_insert_lsn() - '0/0')::float8");
        Ok(position.fetch_one(&self.pool).await?)
    }

    async fn count(&self, sql: &'static str) -> anyhow::Result<i64> {
        Ok(sqlx::query_scalar(sql).fetch_one(&self.pool).await?)
    }
}

/// What was written before is nobody's measure: else it goes to the disk when Postgres finds it is time.
async fn checkpoint(pool: &PgPool) -> anyhow::Result<()> {
    sqlx::raw_sql("checkpoint").execute(pool).await.context("the role of DATABASE_URL may not checkpoint")?;
    Ok(())
}

/// `pgbench` beside the server's programs, else from the path.
fn pgbench_program() -> anyhow::Result<std::path::PathBuf> {
    let beside = server_programs().into_iter().map(|folder| folder.join("pgbench")).find(|path| path.exists());
    let on_path = || {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).map(|folder| folder.join("pgbench")).find(|path| Path::exists(path))
    };
    beside.or_else(on_path).context("there is no pgbench: it comes with Postgres (Debian: postgresql)")
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn count(number: usize) -> f64 {
    number as f64
}

fn per_second(number: usize, took: Duration) -> f64 {
    count(number) / took.as_secs_f64()
}

fn milliseconds(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1e3)
}

/// The secret of every source.
const SECRET: &str = "speed-secret";
/// The sources that are configured.
const KINDS: [ShopKind; 2] = [ShopKind::Shopify, ShopKind::Generic];
