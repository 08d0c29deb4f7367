//! Everything at once, for as long as `FAULTS_SOAK_SECONDS` says: three replicas killed and started again, Postgres
//! stopped, killed and cut off, a FlexPortal that fails in every way it can; and no lease is moved.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use flexportal_sync::domain::Dice;
use flexportal_sync::fake_flexportal::{Behaviour, FakeFlexportal};
use sqlx::PgPool;

use super::postgres::cut_all;
use super::{ALL_SYNCED, assert_in_order, change, fake, phone_of};
use crate::support::{Cluster, Intake, Outage, Process};

const CUSTOMERS: u32 = 12;
const REPLICAS: usize = 3;
/// A request that times out may arrive for seven seconds; the fake's take at most three.
const VARIABLES: [(&str, &str); 3] =
    [("FLEXPORTAL_TIMEOUT", "1s"), ("RETRY_MAX_DELAY", "1s"), ("RETRY_MAX_ATTEMPTS", "1000")];
/// A lease, a pause, and what else may have to pass before the last change is told.
const CALM: Duration = Duration::from_mins(3);

#[expect(clippy::disallowed_methods, reason = "not configuration of the service")]
fn soak() -> Option<Duration> {
    Some(Duration::from_secs(std::env::var("FAULTS_SOAK_SECONDS").ok()?.parse().ok()?))
}

#[tokio::test]
async fn everything_at_once_loses_nothing_and_keeps_every_customer_in_order() {
    let Some(length) = soak() else { return };
    let Some(mut cluster) = Cluster::start(&[]).await else { return };
    let fake = fake().await;
    let mut processes = Vec::new();
    for _ in 0..REPLICAS {
        processes.push(Process::start_with(&cluster.url, &fake, &VARIABLES).await);
    }
    let intakes = Mutex::new(processes.iter().map(|process| process.intake.clone()).collect::<Vec<_>>());
    let end = Instant::now() + length;
    let changing = (1..=CUSTOMERS).map(async |n| {
        let mut second = 0;
        while Instant::now() < end {
            second += 1;
            deliver_to_any(&intakes, n, second).await;
            tokio::time::sleep(length / 3_600).await;
        }
        second
    });
    let failing = async {
        while Instant::now() < end {
            fail_somehow(&mut cluster, &mut processes, &fake).await;
            *intakes.lock().expect("no panic") = processes.iter().map(|process| process.intake.clone()).collect();
        }
        fake.set_behaviour(Behaviour::default());
    };
    let (last, ()) = tokio::join!(futures_util::future::join_all(changing), failing);
    wait_for_all(&cluster.pool).await;
    for (n, last) in (1..).zip(last) {
        assert_eq!(phone_of(&fake, n), Some(last), "cus_{n}");
    }
    assert_in_order(&fake);
}

/// One fault, and a while with it.
async fn fail_somehow(cluster: &mut Cluster, processes: &mut Vec<Process>, fake: &FakeFlexportal) {
    let pause = Duration::from_secs(3).mul_f64(Dice::Random.roll());
    tokio::time::sleep(pause).await;
    match Dice::Random.roll() {
        roll if roll < 0.15 => {
            cluster.goes_away(Outage::Stopped).await;
            tokio::time::sleep(pause).await;
            cluster.comes_back().await;
        }
        roll if roll < 0.25 => {
            cluster.goes_away(Outage::Killed).await;
            tokio::time::sleep(pause).await;
            cluster.comes_back().await;
        }
        roll if roll < 0.45 => cut_all(&cluster.pool).await,
        roll if roll < 0.65 => {
            processes.remove(0).kill().await;
            processes.push(Process::start_with(&cluster.url, fake, &VARIABLES).await);
        }
        roll if roll < 0.75 => {
            processes[0].terminate();
            processes.remove(0).leaves().await;
            processes.push(Process::start_with(&cluster.url, fake, &VARIABLES).await);
        }
        _ => fake.set_behaviour(Behaviour {
            latency_ms: if Dice::Random.roll() < 0.2 { 3_000 } else { 30 },
            error_rate: 0.1 * Dice::Random.roll(),
            error_status: 503,
            drop_rate: 0.1 * Dice::Random.roll(),
            hang_rate: 0.02 * Dice::Random.roll(),
            garbage_rate: 0.1 * Dice::Random.roll(),
            apply_before_failing: Dice::Random.roll() < 0.5,
            ..Behaviour::default()
        }),
    }
}

/// Sends a change to one process after the other, until one of them has stored it.
async fn deliver_to_any(intakes: &Mutex<Vec<Intake>>, n: u32, second: u32) {
    let webhook = change(n, second);
    for turn in 0.. {
        let intake = {
            let intakes = intakes.lock().expect("no panic");
            intakes[(n as usize + turn) % intakes.len()].clone()
        };
        match intake.try_deliver(webhook.clone()).await {
            Some(answer) if answer.status == 200 => return,
            Some(answer) => assert_eq!(answer.status, 503, "{answer:?}"),
            None => {}
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn wait_for_all(pool: &PgPool) {
    let waiting = async {
        while !sqlx::query_scalar(ALL_SYNCED).fetch_one(pool).await.unwrap_or(false) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(CALM, waiting).await.expect("all is synced in the end");
}
