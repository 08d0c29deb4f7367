//! `check`: one line for each thing that must be right.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;

use crate::config::{Config, ConfigError, Needs};
use crate::domain::Clock;
use crate::flexportal::Client;
use crate::outbox::Outbox;
use crate::service::Role;

/// `check`
#[derive(Debug, Args)]
pub(super) struct Check {
    /// Ask only whether the service lives (for container health checks)
    #[arg(long, conflicts_with = "role")]
    alive: bool,
    /// Which parts are to run with this configuration
    #[arg(long, value_enum, default_value_t = Role::All)]
    role: Role,
}

/// The oldest Postgres whose SQL we speak.
const OLDEST_POSTGRES: u32 = 13;

impl Check {
    pub(super) async fn run(self, file: Option<&Path>) -> anyhow::Result<ExitCode> {
        if self.alive {
            return alive(&Config::load(file, Needs::NOTHING)?).await;
        }
        let needs = Needs { database: true, intake: self.role.takes_webhooks(), worker: self.role.syncs() };
        let mut report = Report::default();
        // What can be examined is, even if something else is missing.
        let config = match Config::load(file, needs) {
            Ok(config) => {
                let names: Vec<_> = config.sources.iter().map(|source| source.name.as_str()).collect();
                Report::good("configuration", &format!("sources: {}", names.join(", ")));
                for notice in &config.notices {
                    Report::note("configuration", notice);
                }
                Some(config)
            }
            Err(error) => {
                report.bad_configuration(&error);
                Config::load(file, Needs::NOTHING).ok()
            }
        };
        if let Some(config) = config {
            database(&config, &mut report).await;
            for target in &config.targets {
                let what = format!("FlexPortal `{}`", target.name);
                let pinged = match Client::new(target, Clock::System) {
                    Ok(client) => client.ping().await.map_err(|error| error.to_string()),
                    Err(error) => Err(error),
                };
                match pinged {
                    Ok(()) => Report::good(&what, &format!("{} takes the credentials", target.base_url)),
                    Err(error) => report.bad(
                        &what,
                        &format!(
                            "{error}; check FLEXPORTAL_API_KEY, FLEXPORTAL_TENANT_ID and the region ({})",
                            target.base_url
                        ),
                    ),
                }
            }
        }
        Ok(if report.any_bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

async fn database(config: &Config, report: &mut Report) {
    let Some(url) = &config.database_url else { return };
    let outbox = match Outbox::new(url, 1, Clock::System) {
        Ok(outbox) => outbox,
        Err(error) => return report.bad("database", &error),
    };
    match outbox.server_version().await {
        Err(error) => {
            return report
                .bad("database", &format!("{error}; check that Postgres runs and that DATABASE_URL is right"));
        }
        Ok(version) => {
            let major = version.split(['.', ' ']).next().and_then(|major| major.parse::<u32>().ok());
            if major.is_some_and(|major| major < OLDEST_POSTGRES) {
                report.bad("database", &format!("Postgres {version} is too old: {OLDEST_POSTGRES} or later is needed"));
            } else {
                Report::good("database", &format!("Postgres {version}"));
            }
        }
    }
    match outbox.missing_migrations().await {
        Ok(0) => Report::good("migrations", "all applied"),
        Ok(missing) => report.bad("migrations", &format!("{missing} are missing: run flexportal-sync migrate")),
        Err(error) => report.bad("migrations", &error.to_string()),
    }
}

async fn alive(config: &Config) -> anyhow::Result<ExitCode> {
    let mut addr = config.listen_addr;
    if addr.ip().is_unspecified() {
        addr.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    let client =
        reqwest::Client::builder().timeout(Duration::from_secs(3)).no_proxy().build().context("no HTTP client")?;
    let answer = client.get(format!("http://{addr}/healthz")).send().await;
    match answer {
        Ok(answer) if answer.status().is_success() => Ok(ExitCode::SUCCESS),
        Ok(answer) => bail!("http://{addr}/healthz answers {}", answer.status()),
        Err(_) => bail!("nothing answers at http://{addr}/healthz"),
    }
}

#[derive(Default)]
struct Report {
    any_bad: bool,
}

impl Report {
    fn good(what: &str, detail: &str) {
        println!("ok    {what}: {detail}");
    }

    fn note(what: &str, detail: &str) {
        println!("note  {what}: {detail}");
    }

    fn bad(&mut self, what: &str, detail: &str) {
        self.any_bad = true;
        println!("bad   {what}: {detail}");
    }

    fn bad_configuration(&mut self, error: &ConfigError) {
        for line in error.to_string().lines() {
            self.bad("configuration", line.trim());
        }
    }
}
