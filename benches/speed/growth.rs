//! Intake and drain with much in the tables, beside those on an empty table of the same run.
//!
//! For each situation a database is filled ([`history`](super::history)), and then measured in turn with a new, empty
//! one, so that what else the machine does meets both: first the drain, then the intake, both right after a checkpoint,
//! from when each page that is written goes into the WAL as a whole once more.

use std::time::Duration;

use anyhow::{Context, ensure};
use chrono::{DateTime, Utc};
use clap::ValueEnum;
use flexportal_sync::throwaway_postgres::{create_database, drop_database, fresh_database_name};
use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::{PgConnection, PgPoolOptions};
use sqlx::{Connection as _, PgPool};
use tokio::time::Instant;

use super::history::{Loaded, Waiting};
use super::load::Load;
use super::server::{Role, Server};
use super::stub::Stub;
use super::{DRAINED_BODY_BYTES, checkpoint, per_second, webhooks};

/// What is in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Situation {
    /// Events that were finished within the last four weeks
    Finished,
    /// Customers that are due, of a target whose worker is away
    OtherTarget,
    /// Customers of the same target that are due tomorrow
    Tomorrow,
    /// Customers of the same target that are due, and let live changes go first
    Replays,
    /// Customers of the same target that are due, for live changes, as after a night without FlexPortal
    Backlog,
    /// A transaction that has been open for a while under load
    OpenTransaction,
}

/// How much of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    /// Finished events.
    pub(crate) finished: usize,
    /// Waiting customers.
    pub(crate) waiting: usize,
    /// For how long the transaction is open before the first measurement.
    pub(crate) open_for: Duration,
    /// Events per second while it is, at most.
    pub(crate) churned: usize,
    /// Connections of the intake's load.
    pub(crate) connections: usize,
    /// The intake is measured for so long.
    pub(crate) lasts: Duration,
    /// Events that are drained.
    pub(crate) drained: usize,
    /// Measurements of each situation, and as many of an empty table.
    pub(crate) rounds: usize,
}

/// Customers of the intake's load.
const CUSTOMERS: usize = 5_000;

/// The measurement.
pub(crate) struct Growth {
    pub(crate) scale: Scale,
    pub(crate) situations: Vec<Situation>,
}

/// What one measurement found.
struct Rates {
    /// Per second.
    intake: f64,
    /// Per second.
    drain: f64,
    /// From the worker's start to its first answer, in seconds.
    ready_in: f64,
}

impl Growth {
    /// Measures on a server, in databases of its own.
    pub(crate) async fn on(&self, server: &SecretString) -> anyhow::Result<()> {
        let Scale { connections, drained, rounds, .. } = self.scale;
        println!(
            "\ngrowth: intake at {connections} connections, and the drain of {drained} events; medians of {rounds} rounds \
             (lowest to highest ratio), each beside an empty table\n"
        );
        println!("| situation | intake/s | of empty | drain/s | of empty | worker ready in |");
        println!("|:----------|---------:|---------:|--------:|---------:|----------------:|");
        for situation in &self.situations {
            let database = Database::create(server).await?;
            let outcome = self.measure(*situation, &database, server).await;
            database.drop(server).await?;
            println!("{}", outcome?);
        }
        Ok(())
    }

    /// A line of the table.
    async fn measure(&self, situation: Situation, full: &Database, server: &SecretString) -> anyhow::Result<String> {
        let began = Instant::now();
        let (told, _held) = self.bring_about(situation, full).await?;
        eprintln!("{told}: brought about in {:.0} s", began.elapsed().as_secs_f64());
        let (mut here, mut empty) = (Vec::new(), Vec::new());
        for _ in 0..self.scale.rounds {
            let new = Database::create(server).await?;
            let rates = self.rates_of_empty(&new, situation).await;
            new.drop(server).await?;
            empty.push(rates.context("on an empty table")?);
            here.push(self.rates(full, situation).await.with_context(|| told.clone())?);
        }
        let column = |rate: fn(&Rates) -> f64| {
            let rates = sorted(here.iter().map(rate));
            let ratios = sorted(here.iter().zip(&empty).map(|(here, empty)| rate(here) / rate(empty)));
            let (lowest, highest) = (ratios[0], ratios[ratios.len() - 1]);
            format!("{:.0} | {:.2} ({lowest:.2} to {highest:.2})", median(&rates), median(&ratios))
        };
        let ready_in = median(&sorted(here.iter().map(|rates| rates.ready_in)));
        let (intake, drain) = (column(|rates| rates.intake), column(|rates| rates.drain));
        Ok(format!("| {told} | {intake} | {drain} | {ready_in:.2} s |"))
    }

    /// Brings a situation about; it lasts as long as the connection.
    async fn bring_about(
        &self,
        situation: Situation,
        database: &Database,
    ) -> anyhow::Result<(String, Option<PgConnection>)> {
        let Scale { finished, waiting, .. } = self.scale;
        let loaded = self.loaded();
        let told = match situation {
            Situation::Finished => {
                database.remember(finished, loaded).await?;
                format!("{finished} finished events")
            }
            Situation::OtherTarget => {
                database.let_wait(waiting, Waiting::ForAnotherTarget, loaded).await?;
                format!("{waiting} customers of another target are due")
            }
            Situation::Tomorrow => {
                database.let_wait(waiting, Waiting::ForTomorrow, loaded).await?;
                format!("{waiting} customers are due tomorrow")
            }
            Situation::Replays => {
                database.let_wait(waiting, Waiting::BehindLiveChanges, loaded).await?;
                format!("{waiting} replays are due")
            }
            Situation::Backlog => {
                database.let_wait(waiting, Waiting::ForLong, loaded).await?;
                format!("{waiting} customers are due")
            }
            Situation::OpenTransaction => {
                let mut held = database.connect().await?;
                sqlx::raw_sql("begin isolation level repeatable read; select 1").execute(&mut held).await?;
                let events = self.churn(database).await?;
                let seconds = self.scale.open_for.as_secs_f64();
                return Ok((format!("a transaction open for {seconds:.0} s and {events} events"), Some(held)));
            }
        };
        Ok((told, None))
    }

    /// Events come and are synced for a while.
    async fn churn(&self, database: &Database) -> anyhow::Result<usize> {
        let Scale { open_for, churned, drained, .. } = self.scale;
        let stub = Stub::start().await?;
        let server = Server::start(Role::All, &database.url, Some(stub.addr())).await?;
        let began = Instant::now();
        let mut second = tokio::time::interval(Duration::from_secs(1));
        let mut sent = 0;
        while began.elapsed() < open_for {
            // Again and again the same customers.
            for webhooks in webhooks::of_generic(drained, DRAINED_BODY_BYTES)?.chunks(churned) {
                second.tick().await;
                if began.elapsed() >= open_for {
                    break;
                }
                Load::once(&server, webhooks).await?;
                sent += webhooks.len();
                // As many as it can take: what waits is another situation.
                stub.wait_for(sent.saturating_sub(churned)).await?;
            }
        }
        stub.wait_for(sent).await?;
        let mut left = 600;
        while database.count("select count(*) from waiting_customers").await? > 0 {
            left -= 1;
            ensure!(left > 0, "not all of {sent} events are synced");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(sent)
    }

    fn loaded(&self) -> Loaded {
        Loaded { shopify: CUSTOMERS, generic: self.scale.drained }
    }

    async fn rates_of_empty(&self, database: &Database, situation: Situation) -> anyhow::Result<Rates> {
        if situation == Situation::Backlog {
            // As many as are drained, of the same kind.
            database.let_wait(self.scale.drained, Waiting::ForLong, self.loaded()).await?;
        }
        self.rates(database, situation).await
    }

    async fn rates(&self, database: &Database, situation: Situation) -> anyhow::Result<Rates> {
        let (ready_in, drain) = match situation {
            Situation::Backlog => self.work(database, uuid::Uuid::nil()).await?,
            _ => self.drain(database).await?,
        };
        let intake = self.intake(database).await?;
        Ok(Rates { intake, drain, ready_in })
    }

    /// What a worker makes of events that are delivered just before.
    async fn drain(&self, database: &Database) -> anyhow::Result<(f64, f64)> {
        let webhooks = webhooks::of_generic(self.scale.drained, DRAINED_BODY_BYTES)?;
        let last = database.last_event().await?;
        let intake = Server::start(Role::Intake, &database.url, None).await?;
        Load::once(&intake, &webhooks).await?;
        drop(intake);
        self.work(database, last).await
    }

    /// A worker's time until it was ready, in seconds, and the events per second that it synced then, of those after one.
    async fn work(&self, database: &Database, last: uuid::Uuid) -> anyhow::Result<(f64, f64)> {
        let events = self.scale.drained;
        let synced = "select count(*) from event_states where event_id > $1 and status = 'synced'";
        let made = "select count(*) from sync_attempts where event_id > $1 and http_status = 200";
        let (synced_before, made_before) =
            (database.count_since(synced, last).await?, database.count_since(made, last).await?);
        checkpoint(&database.pool).await?;
        let began: DateTime<Utc> = sqlx::query_scalar("select clock_timestamp()").fetch_one(&database.pool).await?;
        let stub = Stub::start().await?;
        let worker = Server::start(Role::Worker, &database.url, Some(stub.addr())).await?;
        stub.wait_for(events).await?;
        let expected = synced_before + i64::try_from(events)?;
        let mut left = 3_000;
        while database.count_since(synced, last).await? < expected {
            left -= 1;
            ensure!(left > 0, "not all of {events} events are synced");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let ready_in = worker.ready_in();
        drop(worker);
        // At one moment: what the worker said last may be written after its end.
        let at_once = "select synced, made
                       from (select count(*) as synced from event_states where event_id > $1 and status = 'synced') as synced,
                            (select count(*) as made from sync_attempts where event_id > $1 and http_status = 200) as made";
        let (synced_now, made_now): (i64, i64) = sqlx::query_as(at_once).bind(last).fetch_one(&database.pool).await?;
        let (synced, made) = (synced_now - synced_before, made_now - made_before);
        ensure!(made == synced, "{made} requests were recorded of {synced}");
        // By the books, which tell it to the millisecond without being looked at all the time.
        let took = sqlx::query_scalar(
            "select extract(epoch from max(s.finished_at) - min(a.started_at))::float8
             from event_states s
             join sync_attempts a using (event_id)
             where s.event_id > $1
               and a.started_at > $2",
        );
        let took: f64 = took.bind(last).bind(began).fetch_one(&database.pool).await?;
        Ok((ready_in.as_secs_f64(), per_second(usize::try_from(synced)?, Duration::from_secs_f64(took))))
    }

    /// Webhooks per second.
    async fn intake(&self, database: &Database) -> anyhow::Result<f64> {
        let webhooks = webhooks::of_shopify(CUSTOMERS)?;
        let server = Server::start(Role::Intake, &database.url, None).await?;
        let Scale { connections, lasts, .. } = self.scale;
        let last = database.last_event().await?;
        // The first connections are nobody's measure.
        let first = Load { connections, lasts: lasts / 10, rate: None }.put(server.addr(), &webhooks).await?;
        checkpoint(&database.pool).await?;
        let measured = Load { connections, lasts, rate: None }.put(server.addr(), &webhooks).await?;
        drop(server);
        let accepted = i64::try_from(first.count() + measured.count())?;
        let stored = database.count_since("select count(*) from deliveries where id > $1", last).await?;
        ensure!(stored == accepted, "{accepted} were accepted, {stored} are stored");
        // Nobody is to drain them in the next round.
        sqlx::query("delete from waiting_customers where source = 'shopify' and first_event_id > $1")
            .bind(last)
            .execute(&database.pool)
            .await?;
        sqlx::raw_sql("vacuum waiting_customers").execute(&database.pool).await?;
        Ok(measured.rate())
    }
}

/// A database of ours, migrated.
pub(crate) struct Database {
    name: String,
    pub(crate) url: SecretString,
    pub(crate) pool: PgPool,
}

impl Database {
    async fn create(server: &SecretString) -> anyhow::Result<Self> {
        let name = fresh_database_name("flexportal_sync_growth");
        let url = create_database(server, &name, None).await?;
        let pool = PgPoolOptions::new().max_connections(2).connect(url.expose_secret()).await?;
        // It migrates.
        drop(Server::start(Role::Intake, &url, None).await?);
        Ok(Self { name, url, pool })
    }

    async fn drop(self, server: &SecretString) -> anyhow::Result<()> {
        self.pool.close().await;
        Ok(drop_database(server, &self.name).await?)
    }

    pub(crate) async fn connect(&self) -> anyhow::Result<PgConnection> {
        Ok(PgConnection::connect(self.url.expose_secret()).await?)
    }

    /// All later events have larger ids.
    async fn last_event(&self) -> anyhow::Result<uuid::Uuid> {
        let last = sqlx::query_scalar("select id from deliveries order by id desc limit 1");
        Ok(last.fetch_optional(&self.pool).await?.unwrap_or_default())
    }

    async fn count(&self, sql: &'static str) -> anyhow::Result<i64> {
        Ok(sqlx::query_scalar(sql).fetch_one(&self.pool).await?)
    }

    async fn count_since(&self, sql: &'static str, last: uuid::Uuid) -> anyhow::Result<i64> {
        Ok(sqlx::query_scalar(sql).bind(last).fetch_one(&self.pool).await?)
    }
}

fn sorted(rates: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut rates: Vec<_> = rates.collect();
    rates.sort_by(f64::total_cmp);
    rates
}

fn median(sorted: &[f64]) -> f64 {
    let half = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) { f64::midpoint(sorted[half - 1], sorted[half]) } else { sorted[half] }
}
