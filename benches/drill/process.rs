//! The service as processes of its own: the real binary, started, killed and weighed.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use flexportal_sync::config::{SETTINGS, ShopKind};
use flexportal_sync::fake_flexportal::FakeFlexportal;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::sync::oneshot;

use super::sending::SECRET;

/// Starting takes a second at most; migrations, on a slow disk, a few.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// What every process is told.
#[derive(Debug)]
pub(crate) struct Surroundings {
    /// The database that they share.
    pub(crate) database_url: SecretString,
    /// FlexPortal's address.
    pub(crate) flexportal_url: String,
    /// `FLEXPORTAL_RATE_LIMIT_PER_MINUTE`.
    pub(crate) limit_per_minute: u32,
}

impl Surroundings {
    pub(crate) fn new(database_url: SecretString, fake: &FakeFlexportal) -> Self {
        let limit_per_minute = fake.behaviour().rate_limit_per_minute;
        Self { database_url, flexportal_url: fake.base_url().to_string(), limit_per_minute }
    }
}

/// Which part of the service a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Takes webhooks, and applies the migrations.
    Intake,
    /// Syncs.
    Worker,
}

/// One process; killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    ready: Option<oneshot::Receiver<String>>,
    warnings: Arc<Mutex<BTreeMap<String, usize>>>,
    _folder: tempfile::TempDir,
}

impl Process {
    /// Starts one, without waiting for it.
    pub(crate) fn start(role: Role, surroundings: &Surroundings) -> anyhow::Result<Self> {
        // A folder of its own, so that no `.env` is found.
        let folder = tempfile::tempdir().context("no folder for a process")?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_flexportal-sync"));
        for setting in SETTINGS {
            command.env_remove(setting.name);
        }
        command
            .arg("serve")
            .current_dir(folder.path())
            .env("DATABASE_URL", surroundings.database_url.expose_secret())
            .env("LISTEN_ADDR", "127.0.0.1:0")
            .env("LOG_FORMAT", "json")
            .stdin(Stdio::null())
            .stderr(Stdio::piped());
        match role {
            Role::Intake => {
                command.args(["--role", "intake"]);
                command.envs(ShopKind::ALL.map(|kind| (kind.secret_variable(), SECRET)));
            }
            Role::Worker => {
                command.args(["--role", "worker", "--no-migrate"]);
                command
                    .env("FLEXPORTAL_API_KEY", "fake-key")
                    .env("FLEXPORTAL_TENANT_ID", "fake-tenant")
                    .env("FLEXPORTAL_BASE_URL", &surroundings.flexportal_url)
                    .env("FLEXPORTAL_RATE_LIMIT_PER_MINUTE", surroundings.limit_per_minute.to_string());
            }
        }
        let mut child = command.spawn().context("the service does not start")?;
        let log = child.stderr.take().context("the service has no standard error")?;
        let (found, ready) = oneshot::channel();
        let warnings = Arc::<Mutex<BTreeMap<String, usize>>>::default();
        let counts = Arc::clone(&warnings);
        // Reads to the end, so that the service never waits for its log to be read.
        std::thread::spawn(move || read_log(BufReader::new(log), found, &counts));
        Ok(Self { child, ready: Some(ready), warnings, _folder: folder })
    }

    /// Waits until it says that it is ready, and gives the address it listens on.
    pub(crate) async fn ready(&mut self) -> anyhow::Result<String> {
        let ready = self.ready.take().context("it was waited for before")?;
        let addr = tokio::time::timeout(READY_WITHIN, ready).await.context("the service does not get ready")?;
        addr.context("the service ended before it was ready")
    }

    /// Fails if it has ended by itself.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait().context("the service cannot be looked at")? {
            Some(status) => bail!("the service ended by itself: {status}"),
            None => Ok(()),
        }
    }

    /// `kill -9`, and waits until the process is gone.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().context("the service cannot be killed")?;
        self.child.wait().context("the service does not end")?;
        Ok(())
    }

    /// The most memory it had so far, where the system tells.
    pub(crate) fn peak_memory_bytes(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        let kibibytes: u64 = peak.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kibibytes * 1_024)
    }

    /// Warnings and errors of its log, and how often it said each.
    pub(crate) fn warnings(&self) -> BTreeMap<String, usize> {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Gone already, or not to be helped.
        let _ = self.kill();
    }
}

fn read_log(log: impl BufRead, found: oneshot::Sender<String>, warnings: &Mutex<BTreeMap<String, usize>>) {
    let (mut found, mut addr) = (Some(found), String::new());
    for line in log.lines().map_while(Result::ok) {
        let line: Value = serde_json::from_str(&line).unwrap_or(Value::String(line));
        match line["message"].as_str() {
            Some("listening") => line["addr"].as_str().unwrap_or_default().clone_into(&mut addr),
            Some("ready") => drop(found.take().map(|found| found.send(addr.clone()))),
            _ => {}
        }
        let warning = match (&line, line["level"].as_str()) {
            (Value::String(text), _) => text.clone(), // not of the log: what the program says before it gives up
            (_, Some(level @ ("WARN" | "ERROR"))) => {
                format!("{level} {}", line["message"].as_str().unwrap_or_default())
            }
            _ => continue,
        };
        *warnings.lock().unwrap_or_else(PoisonError::into_inner).entry(warning).or_default() += 1;
    }
}
