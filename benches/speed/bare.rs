//! The least that does what is measured: what it makes of the same load on the same machine is the room that there is.
//!
//! Processes of their own, like the service, with its HTTP library, JSON library and driver, and its groups.

mod intake;
mod worker;

use std::net::SocketAddr;
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context, bail};
use secrecy::{ExposeSecret, SecretString};
use sqlx::{Executor, PgPool};
use tokio::net::TcpStream;

/// What this process is to be, if it is a bare one.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct BareRole {
    /// To take webhooks, at this address
    #[arg(long, hide = true)]
    bare_intake: Option<SocketAddr>,
    /// To send what waits, to this address
    #[arg(long, hide = true)]
    bare_worker: Option<SocketAddr>,
}

impl BareRole {
    /// Is one, until it is killed; `false` if it is not to be one.
    pub(crate) async fn run(self, database_url: Option<&SecretString>) -> anyhow::Result<bool> {
        let database_url = || database_url.context("no database");
        if let Some(addr) = self.bare_intake {
            intake::serve(addr, database_url()?).await?;
        } else if let Some(flexportal) = self.bare_worker {
            worker::drain(flexportal, database_url()?).await?;
        } else {
            return Ok(false);
        }
        Ok(true)
    }
}

/// A running one; killed when it is dropped.
pub(crate) struct BareProcess(Child);

impl BareProcess {
    /// Starts one that takes webhooks into an empty table, and waits until it takes connections.
    pub(crate) async fn intake(database_url: &SecretString, pool: &PgPool) -> anyhow::Result<(Self, String)> {
        pool.execute(intake::TABLES).await?;
        let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
        let addr = free.context("no port")?.to_string();
        let mut process = Self::start("--bare-intake", &addr, database_url)?;
        while TcpStream::connect(&addr).await.is_err() {
            if let Some(status) = process.0.try_wait()? {
                bail!("the bare intake ended by itself, {status}");
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok((process, addr))
    }

    /// Copies all events that the service has stored to tables of their own, as if none of them were sent.
    pub(crate) async fn prepare_worker(pool: &PgPool) -> anyhow::Result<()> {
        pool.execute(worker::TABLES).await?;
        Ok(())
    }

    /// Starts one that sends all of them.
    pub(crate) fn worker(flexportal: SocketAddr, database_url: &SecretString) -> anyhow::Result<Self> {
        Self::start("--bare-worker", &flexportal.to_string(), database_url)
    }

    fn start(what: &str, addr: &str, database_url: &SecretString) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args([what, addr]).env("DATABASE_URL", database_url.expose_secret());
        Ok(Self(command.spawn().with_context(|| format!("no process starts for {what}"))?))
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for BareProcess {
    fn drop(&mut self) {
        // Gone already, or not to be helped.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
