//! The service as a process of its own.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use flexportal_sync::config::SETTINGS;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;

use super::{IN_FLIGHT, KINDS, SECRET};

/// With migrations, on a slow disk.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// Which part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Intake,
    Worker,
    All,
}

/// A running service; killed when it is dropped. Its log goes to a file, as it would to a journal.
pub(crate) struct Server {
    child: Child,
    addr: String,
    ready_in: Duration,
    folder: tempfile::TempDir,
}

impl Server {
    /// Starts one and waits until it is ready.
    pub(crate) async fn start(
        role: Role,
        database_url: &SecretString,
        flexportal: Option<SocketAddr>,
    ) -> anyhow::Result<Self> {
        // A folder of its own, so that no `.env` is found.
        let folder = tempfile::tempdir().context("no folder for the service")?;
        let log = std::fs::File::create(folder.path().join("log"))?;
        let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
        let addr = free.context("no port")?.to_string();
        let mut command = Command::new(env!("CARGO_BIN_EXE_flexportal-sync"));
        for setting in SETTINGS {
            command.env_remove(setting.name);
        }
        command
            .args(["serve", "--role"])
            .arg(match role {
                Role::Intake => "intake",
                Role::Worker => "worker",
                Role::All => "all",
            })
            .current_dir(folder.path())
            .env("DATABASE_URL", database_url.expose_secret())
            .env("LISTEN_ADDR", &addr)
            .env("LOG_FORMAT", "json")
            .envs(KINDS.map(|kind| (kind.secret_variable(), SECRET)))
            .stdin(Stdio::null())
            .stderr(log);
        if let Some(flexportal) = flexportal {
            command
                .env("FLEXPORTAL_API_KEY", "key")
                .env("FLEXPORTAL_TENANT_ID", "tenant")
                .env("FLEXPORTAL_BASE_URL", format!("http://{flexportal}"))
                .env("FLEXPORTAL_RATE_LIMIT_PER_MINUTE", "0")
                .env("FLEXPORTAL_MAX_CONCURRENCY", IN_FLIGHT.to_string());
        }
        let began = Instant::now();
        let child = command.spawn().context("the service does not start")?;
        let mut server = Self { child, addr, ready_in: Duration::ZERO, folder };
        let client = reqwest::Client::builder().no_proxy().build()?;
        let url = format!("http://{}/readyz", server.addr);
        while !client.get(&url).send().await.is_ok_and(|answer| answer.status() == 200) {
            if let Some(status) = server.child.try_wait()? {
                let log = std::fs::read_to_string(server.folder.path().join("log")).unwrap_or_default();
                bail!("the service ended by itself, {status}: {log}");
            }
            if began.elapsed() > READY_WITHIN {
                bail!("the service does not get ready");
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        server.ready_in = began.elapsed();
        Ok(server)
    }

    pub(crate) fn addr(&self) -> &str {
        &self.addr
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// From its start to its first answer.
    pub(crate) fn ready_in(&self) -> Duration {
        self.ready_in
    }

    /// The memory that it has.
    pub(crate) fn memory_bytes(&self) -> anyhow::Result<u64> {
        self.memory("VmRSS:")
    }

    /// The most memory that it had.
    pub(crate) fn peak_memory_bytes(&self) -> anyhow::Result<u64> {
        self.memory("VmHWM:")
    }

    fn memory(&self, name: &str) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.context("the system does not tell the memory of a process")?;
        let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no such line")?;
        let kibibytes: u64 = line.trim().strip_suffix("kB").context("no kilobytes")?.trim().parse()?;
        Ok(kibibytes * 1_024)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Gone already, or not to be helped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
