//! The drain beside that of other job queues: same Postgres, same events, same PUT, same run.
//!
//! Each peer is a script in `benches/peers` with its library from the registry. It fills a database of its own with
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
    /// Its script, and its package.
    name: &'static str,
    /// For people.
    told: &'static str,
    /// For the script.
    configuration: &'static str,
}

const PEERS: &[Peer] = &[
    Peer { name: "graphile-worker", told: "64 jobs at once, else its defaults", configuration: "{}" },
    Peer {
        name: "graphile-worker",
        told: "the next one, but with Node's own `fetch`",
        configuration: r#"{
            "processes": 1,
            "fetch": true,
            "worker": {"localQueue": {"size": 500}, "completeJobBatchDelay": 5, "failJobBatchDelay": 5}
        }"#,
    },
    Peer {
        name: "graphile-worker",
        told: "local queue of 500, completion batched over 5 ms",
        configuration: r#"{
            "processes": 1,
            "worker": {"localQueue": {"size": 500}, "completeJobBatchDelay": 5, "failJobBatchDelay": 5}
        }"#,
    },
    Peer {
        name: "graphile-worker",
        told: "2 processes, local queues of 2000, completion batched over 50 ms",
        configuration: r#"{
            "processes": 2,
            "worker": {"localQueue": {"size": 2000}, "completeJobBatchDelay": 50, "failJobBatchDelay": 50}
        }"#,
    },
    Peer {
        name: "pg-boss",
        told: "4 workers, batches of 500",
        configuration: r#"{
            "processes": 1,
            "work": {"batchSize": 500, "localConcurrency": 4, "burstWhenBatchFull": true, "perJobResults": true}
        }"#,
    },
    Peer {
        name: "pg-boss",
        told: "2 processes with 2 workers each, batches of 500",
        configuration: r#"{
            "processes": 2,
            "work": {"batchSize": 500, "localConcurrency": 2, "burstWhenBatchFull": true, "perJobResults": true}
        }"#,
    },
];

/// What a script prints.
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
            let name = fresh_database_name("flexportal_sync_peer");
            let url = create_database(&self.url, &name, None).await?;
            let drained = self.drained_by(peer, &scripts, &url, events.path()).await;
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
        peer: &Peer,
        scripts: &Scripts,
        url: &SecretString,
        events: &Path,
    ) -> anyhow::Result<Drained> {
        let stub = Stub::start().await?;
        let mut command = tokio::process::Command::new(&scripts.node);
        let output = command
            .arg(scripts.folder.join(peer.name).with_extension("mjs"))
            .arg(peer.configuration)
            .env("DATABASE_URL", url.expose_secret())
            .env("TARGET", format!("http://{}", stub.addr()))
            .env("EVENTS", events)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .context("node does not run")?;
        if !output.status.success() {
            bail!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        let drained: Drained = serde_json::from_slice(&output.stdout).context("not what a script prints")?;
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

    /// `Node.js v26.10.0`.
    async fn node_version(&self) -> anyhow::Result<String> {
        let output = tokio::process::Command::new(&self.node).arg("--version").output().await;
        Ok(format!("Node.js {}", String::from_utf8_lossy(&output.context("node does not run")?.stdout).trim()))
    }
}
