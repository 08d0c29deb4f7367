//! The words of the tests: `app.deliver(…)`, `app.drain()`, `app.events()`.

use std::time::Duration;

pub mod app;
mod browser;
mod cluster;
mod collector;
mod database;
mod process;
pub mod shop;

pub use app::{Answer, App, start_of_time};
pub use browser::{Browser, Window};
pub use cluster::{Cluster, Outage};
pub use collector::Collector;
pub use database::{Database, Hold, database, wait_until};
pub use process::{Intake, Process, assert_turned_away};

/// Longer than anything takes that these tests wait for; what runs into it has failed.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Waits for what has to come.
pub async fn in_time<T>(what: &str, coming: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, coming).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

/// Waits until something holds that nobody announces.
pub async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let holding = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    in_time(what, holding).await;
}
