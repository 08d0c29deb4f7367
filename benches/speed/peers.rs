//! The drain beside that of other job queues: same Postgres, same events, same PUT, same run.
//!
//! Each peer is a program in `benches/peers` with its library from the registry. It fills a database of its own with
//! the events, and then works them off, one PUT for each, as its documentation says is fastest. Its time runs, as
//! ours does, from the first PUT until the last job is done in its own tables.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, bail, ensure};
use flexportal_sync::throwaway_postgres::{create_database, drop_database, fresh_database_name};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::stub::Stub;
use super::{Bench, DRAINED_BODY_BYTES, IN_FLIGHT, count, webhooks};

/// A peer as it is set up. Which were tried and are not the best: `benches/README.md`.
struct Peer {
    /// Its package.
    name: &'static str,
    runs: Runs,
    /// For people.
    told: &'static str,
    /// For the program.
    configuration: &'static str,
}

/// What its program is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Runs {
    /// A script of the package's name, on Node.js.
    Script,
    /// A package of the package's name, built by cargo; left out if it is not built.
    Crate,
}

const PEERS: &[Peer] = &[
    Peer {
        name: "graphile-worker",
        runs: Runs::Script,
        told: "64 jobs at once, else its defaults",
        configuration: "{}",
    },
    Peer {
        name: "graphile-worker",
        runs: Runs::Script,
        told: "the next one, but with Node's own `fetch`",
        configuration: r#"{
            "processes": 1,
            "fetch": true,
            "worker": {"localQueue": {"size": 500}, "completeJobBatchDelay": 5, "failJobBatchDelay": 5}
        }"#,
    },
    Peer {
        name: "graphile-worker",
        runs: Runs::Script,
        told: "local queue of 500, completion batched over 5 ms",
        configuration: r#"{
            "processes": 1,
            "worker": {"localQueue": {"size": 500}, "completeJobBatchDelay": 5, "failJobBatchDelay": 5}
        }"#,
    },
    Peer {
        name: "graphile-worker",
        runs: Runs::Script,
        told: "2 processes, local queues of 2000, completion batched over 50 ms",
        configuration: r#"{
            "processes": 2,
            "worker": {"localQueue": {"size": 2000}, "completeJobBatchDelay": 50, "failJobBatchDelay": 50}
        }"#,
    },
    Peer {
        name: "pg-boss",
        runs: Runs::Script,
        told: "4 workers, batches of 500",
        configuration: r#"{
            "processes": 1,
            "work": {"batchSize": 500, "localConcurrency": 4, "burstWhenBatchFull": true, "perJobResults": true}
        }"#,
    },
    Peer {
        name: "pg-boss",
        runs: Runs::Script,
        told: "2 processes with 2 workers each, batches of 500",
        configuration: r#"{
            "processes": 2,
            "work": {"batchSize": 500, "localConcurrency": 2, "burstWhenBatchFull": true, "perJobResults": true}
        }"#,
    },
    Peer {
        name: "graphile_worker",
        runs: Runs::Crate,
        told: "local queue of 2000, completion batched over 5 ms",
        configuration: r#"{"concurrency": 64, "localQueue": 2000, "batchDelayMs": 5}"#,
    },
];

/// How [`Runs::Crate`] comes to be; its target folder is named, since a shared one would be looked for in vain.
const BUILD_CRATE: &str = "cargo build --release --locked --manifest-path benches/peers/graphile_worker/Cargo.toml \
                           --target-dir benches/peers/graphile_worker/target";

/// What a program prints.
#[derive(Debug, Deserialize)]
struct Drained {
    version: String,
    jobs: usize,
    seconds: f64,
    puts: usize,
}

impl Bench<'_> {
    pub(crate) async fn peers(&self) -> anyhow::Result<()> {
        let scripts = Scripts::find()?;
        let events = events(self.scale.drained)?;
        let ours = self.drain().await?;
        println!(
            "\npeers: {} jobs of {DRAINED_BODY_BYTES} bytes, {IN_FLIGHT} in flight, {}\n",
            self.scale.drained,
            scripts.node_version().await?,
        );
        println!("| who | version | configuration | PUTs/s | of ours |");
        println!("|-----|---------|---------------|-------:|--------:|");
        println!("| flexportal-sync | {} | as it comes | {ours:.0} | 1.00 |", env!("CARGO_PKG_VERSION"));
        for peer in PEERS {
            let Some(command) = scripts.command(peer) else {
                println!("| {} | | not built: `{BUILD_CRATE}` | | |", peer.name);
                continue;
            };
            let name = fresh_database_name("flexportal_sync_peer");
            let url = create_database(&self.url, &name, None).await?;
            let drained = self.drained_by(command, &url, events.path()).await;
            drop_database(&self.url, &name).await?;
            let drained = drained.with_context(|| format!("{} ({})", peer.name, peer.told))?;
            let rate = count(drained.puts) / drained.seconds;
            println!("| {} | {} | {} | {rate:.0} | {:.2} |", peer.name, drained.version, peer.told, rate / ours);
        }
        Ok(())
    }

    /// Lets it drain, and looks at its books: that no job is left, it has looked itself.
    async fn drained_by(
        &self,
        mut command: tokio::process::Command,
        url: &SecretString,
        events: &Path,
    ) -> anyhow::Result<Drained> {
        let stub = Stub::start().await?;
        let output = command
            .env("DATABASE_URL", url.expose_secret())
            .env("TARGET", format!("http://{}", stub.addr()))
            .env("EVENTS", events)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .context("it does not run")?;
        if !output.status.success() {
            bail!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        let drained: Drained = serde_json::from_slice(&output.stdout).context("not what it should print")?;
        let (received, expected) = (stub.received(), self.scale.drained);
        ensure!(
            (drained.jobs, drained.puts, received) == (expected, expected, expected),
            "{} jobs, {} PUTs sent and {received} received of {expected}",
            drained.jobs,
            drained.puts,
        );
        Ok(drained)
    }
}

/// The events of the drain, one a line.
fn events(number: usize) -> anyhow::Result<tempfile::NamedTempFile> {
    let mut file = tempfile::NamedTempFile::new().context("no file for the events")?;
    for webhook in webhooks::of_generic(number, DRAINED_BODY_BYTES)? {
        writeln!(file, "{}", webhook.body())?;
    }
    file.flush()?;
    Ok(file)
}

/// `benches/peers`, installed.
struct Scripts {
    folder: PathBuf,
    /// It comes with the libraries, so that they always run on the one that they were measured on.
    node: PathBuf,
}

impl Scripts {
    fn find() -> anyhow::Result<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers");
        let modules = folder.join("node_modules");
        let node = modules.join(".bin/node");
        if !modules.exists() {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let has_npm = std::env::split_paths(&path).any(|folder| folder.join("npm").exists());
            let first = if has_npm { "" } else { "npm (it comes with Node.js; Debian: `apt-get install npm`), and " };
            bail!("the peers need {first}their libraries, which are not installed: `npm ci --prefix benches/peers`");
        }
        if !node.exists() {
            bail!(
                "the peers' Node.js is not installed: npm was kept from running the install script of the package \
                 `node`; `npm ci --prefix benches/peers --ignore-scripts=false`"
            );
        }
        Ok(Self { folder, node })
    }

    /// What runs a peer, unless it is not built.
    fn command(&self, peer: &Peer) -> Option<tokio::process::Command> {
        let mut command = match peer.runs {
            Runs::Script => {
                let mut node = tokio::process::Command::new(&self.node);
                node.arg(self.folder.join(peer.name).with_extension("mjs"));
                node
            }
            Runs::Crate => {
                let program = self.folder.join(peer.name).join("target/release/peer-graphile-worker");
                tokio::process::Command::new(program.exists().then_some(program)?)
            }
        };
        command.arg(peer.configuration);
        Some(command)
    }

    /// `Node.js v26.10.0`.
    async fn node_version(&self) -> anyhow::Result<String> {
        let output = tokio::process::Command::new(&self.node).arg("--version").output().await;
        Ok(format!("Node.js {}", String::from_utf8_lossy(&output.context("node does not run")?.stdout).trim()))
    }
}
