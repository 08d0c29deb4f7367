//! Claims, the PUTs, and a commit of whatever was answered during the one before: attempt, state and link.
//!
//! Nothing else of the service: no order, nothing known before it is sent and no hash of it, no retries, no leave, no
//! limits, no log.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::json;
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;
use sqlx::types::Uuid;
use tokio::sync::{Semaphore, mpsc};

use super::super::IN_FLIGHT;

/// As the service has it (`src/sync/worker.rs`).
const IN_HAND: usize = 8 * IN_FLIGHT;
const LEAST_CLAIMED: usize = 2 * IN_FLIGHT;

/// The events that the service has stored, all of them waiting.
pub(super) const TABLES: &str = "
    create table bare_events (id uuid primary key, customer text not null, payload json not null)
        with (autovacuum_enabled = false);
    create table bare_queue (
        customer text primary key, event_id uuid not null, due_at timestamptz not null, lease_id uuid
    ) with (fillfactor = 50, autovacuum_enabled = false);
    create index on bare_queue (due_at);
    create table bare_states (event_id uuid primary key, status text not null, finished_at timestamptz not null);
    create table bare_attempts (
        event_id uuid, attempt int, started_at timestamptz not null, micros bigint not null, http_status int not null,
        primary key (event_id, attempt)
    );
    create table bare_links (customer text primary key, event_id uuid not null, synced_at timestamptz not null);
    insert into bare_events select id, shop_customer_id, payload from deliveries;
    insert into bare_queue select shop_customer_id, id, now() from deliveries;
    analyze bare_events, bare_queue";

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow)]
    data: Data<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data<'a> {
    flexportal_customer_id: Cow<'a, str>,
    first_name: Cow<'a, str>,
    last_name: Cow<'a, str>,
    phone: Cow<'a, str>,
}

struct Answered {
    event: Uuid,
    customer: String,
    status: u16,
    took: Duration,
}

/// Sends all that waits, and ends.
pub(super) async fn drain(flexportal: SocketAddr, database_url: &SecretString) -> anyhow::Result<()> {
    let mut connection = PgConnection::connect(database_url.expose_secret()).await?;
    let (answered, answers) = mpsc::channel(IN_HAND);
    let settled = tokio::spawn(settle(PgConnection::connect(database_url.expose_secret()).await?, answers));
    let http = reqwest::Client::builder().no_proxy().build()?;
    let room = Arc::new(Semaphore::new(IN_HAND));
    let lanes = Arc::new(Semaphore::new(IN_FLIGHT));
    loop {
        let mut places = room.clone().acquire_many_owned(u32::try_from(LEAST_CLAIMED)?).await?;
        while let Ok(more) = room.clone().try_acquire_owned() {
            places.merge(more);
        }
        let claim = "
            with due as (
                select ctid as at
                from bare_queue
                where due_at <= now() and lease_id is null
                order by due_at
                limit $1
                for update skip locked
            ),
            claimed as (
                update bare_queue set lease_id = gen_random_uuid()
                from due
                where bare_queue.ctid = due.at
                returning bare_queue.event_id
            )
            select id, customer, payload::text from claimed join bare_events on id = event_id";
        let limit = i64::try_from(places.num_permits())?;
        let events: Vec<(Uuid, String, String)> = sqlx::query_as(claim).bind(limit).fetch_all(&mut connection).await?;
        if events.is_empty() {
            break;
        }
        for (event, customer, payload) in events {
            let place = places.split(1).context("more than asked for")?;
            let (http, lanes, answered) = (http.clone(), lanes.clone(), answered.clone());
            tokio::spawn(async move {
                let _place = place;
                let lane = lanes.acquire_owned().await?;
                let began = Instant::now();
                let status = put(&http, flexportal, &payload).await?;
                drop(lane);
                answered.send(Answered { event, customer, status, took: began.elapsed() }).await?;
                anyhow::Ok(())
            });
        }
    }
    drop(answered);
    settled.await?
}

async fn put(http: &reqwest::Client, flexportal: SocketAddr, payload: &str) -> anyhow::Result<u16> {
    let Event { data } = serde_json::from_str(payload)?;
    let full_name = format!("{} {}", data.first_name, data.last_name);
    let request = http
        .put(format!("http://{flexportal}/v1/customers/{}", data.flexportal_customer_id))
        .header("authorization", "Bearer key")
        .header("tenant-id", "tenant")
        .header("content-type", "application/json")
        .body(json!({"fullName": full_name, "phone": data.phone}).to_string());
    let answer = request.send().await?;
    let status = answer.status().as_u16();
    answer.bytes().await?;
    Ok(status)
}

async fn settle(mut connection: PgConnection, mut answers: mpsc::Receiver<Answered>) -> anyhow::Result<()> {
    let mut group = Vec::new();
    while answers.recv_many(&mut group, IN_HAND).await > 0 {
        let statement = "
            with answered as (
                select * from unnest($1::uuid[], $2::text[], $3::int[], $4::bigint[]) as answered (event_id, customer, status, micros)
            ),
            gone as (
                delete from bare_queue queue using answered where queue.customer = answered.customer
            ),
            attempts as (
                insert into bare_attempts select event_id, 1, now(), micros, status from answered
            ),
            links as (
                insert into bare_links select customer, event_id, now() from answered
                on conflict (customer) do update set event_id = excluded.event_id, synced_at = excluded.synced_at
            )
            insert into bare_states select event_id, 'synced', now() from answered";
        let micros = |answered: &Answered| i64::try_from(answered.took.as_micros()).unwrap_or(i64::MAX);
        sqlx::query(statement)
            .bind(group.iter().map(|answered| answered.event).collect::<Vec<_>>())
            .bind(group.iter().map(|answered| answered.customer.as_str()).collect::<Vec<_>>())
            .bind(group.iter().map(|answered| i32::from(answered.status)).collect::<Vec<_>>())
            .bind(group.iter().map(micros).collect::<Vec<_>>())
            .execute(&mut connection)
            .await?;
        group.clear();
    }
    Ok(())
}
