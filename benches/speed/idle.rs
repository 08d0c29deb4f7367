//! One webhook at a time, from its sending to its PUT, and what a service without work takes.

use std::time::Duration;

use anyhow::Context;
use tokio::time::Instant;

use super::load::{Connection, Measured};
use super::server::{Role, Server};
use super::stub::Stub;
use super::{Bench, DRAINED_BODY_BYTES, count, milliseconds, webhooks};

/// How much is done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    /// Webhooks sent one after the other.
    pub(crate) webhooks: usize,
    /// Those that are sent after a pause.
    pub(crate) after_a_pause: usize,
    /// Long enough for connections to be tested before they are used again.
    pub(crate) pause: Duration,
}

impl Bench<'_> {
    pub(crate) async fn idle(&self) -> anyhow::Result<()> {
        let Scale { webhooks, after_a_pause, pause } = self.scale.idle;
        let stub = Stub::start().await?;
        let server = Server::start(Role::All, &self.url, Some(stub.addr())).await?;
        let first_start = server.ready_in();
        let memory = server.memory_bytes()?;
        println!("\nidle: from the webhook sent to its PUT received, one after the other\n");
        println!("| | webhooks | p50 | p95 | p99 |");
        println!("|:--|---------:|----:|----:|----:|");
        line("at once", &one_by_one(&server, &stub, webhooks, Duration::ZERO).await?);
        let quiet = format!("after {} s of quiet", pause.as_secs_f64());
        line(&quiet, &one_by_one(&server, &stub, after_a_pause, pause).await?);
        self.all_are_settled().await?;
        let memory_after = server.memory_bytes()?;
        drop(server);
        let server = Server::start(Role::All, &self.url, Some(stub.addr())).await?;
        let ready_in = server.ready_in();
        drop(server);
        let intake = Server::start(Role::Intake, &self.url, None).await?;
        let _worker = Server::start(Role::Worker, &self.url, Some(stub.addr())).await?;
        line("at once, intake and worker apart", &one_by_one(&intake, &stub, webhooks, Duration::ZERO).await?);
        let binary = std::fs::metadata(env!("CARGO_BIN_EXE_flexportal-sync")).context("no binary")?.len();
        println!(
            "\nmemory before the first webhook: {:.1} MB, after these: {:.1} MB; ready in {}, at the first start with \
             migrations in {}; the binary has {:.1} MB",
            count(usize::try_from(memory)?) / 1e6,
            count(usize::try_from(memory_after)?) / 1e6,
            milliseconds(ready_in),
            milliseconds(first_start),
            count(usize::try_from(binary)?) / 1e6,
        );
        Ok(())
    }
}

/// Sends webhooks, the next when FlexPortal has the one before.
async fn one_by_one(server: &Server, stub: &Stub, webhooks: usize, pause: Duration) -> anyhow::Result<Measured> {
    let webhooks = webhooks::of_generic(webhooks, DRAINED_BODY_BYTES)?;
    let mut times = Vec::with_capacity(webhooks.len());
    let mut connection = Connection::open(server.addr()).await?;
    for webhook in &webhooks {
        tokio::time::sleep(pause).await;
        let (received, sent) = (stub.received(), Instant::now());
        connection.send(webhook).await?;
        times.push(stub.wait_for(received + 1).await?.duration_since(sent));
    }
    Ok(Measured::of(times, Duration::from_secs(1)))
}

fn line(situation: &str, measured: &Measured) {
    let [p50, p95, p99] = [0.5, 0.95, 0.99].map(|share| milliseconds(measured.percentile(share)));
    println!("| {situation} | {} | {p50} | {p95} | {p99} |", measured.count());
}
