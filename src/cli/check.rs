//! `check`: one line for each thing that must be right.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;

use super::show;
use crate::config::{Config, ConfigError, Needs, Target};
use crate::domain::{Clock, counted};
use crate::flexportal::Client;
use crate::outbox::{Budget, HoldReason, Outbox};
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
            let outbox = database(&config, &mut report).await;
            if let Some(outbox) = &outbox {
                shops(outbox, &mut report).await;
            }
            for target in &config.targets {
                flexportal(target, outbox.as_ref(), &mut report).await;
            }
        }
        Ok(if report.any_bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

/// The outbox, if it can be asked for more.
async fn database(config: &Config, report: &mut Report) -> Option<Outbox> {
    let outbox = match Outbox::new(config.database_url.as_ref()?, 1, Clock::System) {
        Ok(outbox) => outbox,
        Err(error) => {
            report.bad("database", &error);
            return None;
        }
    };
    match outbox.server_version().await {
        Err(error) => {
            report.bad("database", &format!("{error}; check that Postgres runs and that DATABASE_URL is right"));
            return None;
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
    if outbox.settings().await.is_ok_and(|settings| !settings.is_flushed) {
        let lost = "its `fsync` is off: webhooks that were answered 200 are lost if the machine stops; turn it on";
        Report::note("database", lost);
    }
    match outbox.missing_migrations().await {
        Ok(0) => {
            Report::good("migrations", "all applied");
            return Some(outbox);
        }
        Ok(missing) => report.bad("migrations", &format!("{missing} are missing: run flexportal-sync migrate")),
        Err(error) => report.bad("migrations", &error.to_string()),
    }
    None
}

/// Whether another shop than a source's spoke, and nobody has decided yet.
async fn shops(outbox: &Outbox, report: &mut Report) {
    match outbox.spoken_shops().await {
        Ok(shops) => {
            for shop in shops.iter().filter(|shop| shop.held > 0) {
                let (what, name) = (format!("source `{}`", shop.source), show::plain(&shop.shop));
                report.bad(
                    &what,
                    &format!(
                        "{} of another shop, {name}, are held: flexportal-sync sources accept {source} {name} if it is the \
                         same shop under another name, else flexportal-sync sources ignore {source} {name}",
                        counted(shop.held, "webhook"),
                        source = shop.source,
                    ),
                );
            }
        }
        Err(error) => report.bad("sources", &error.to_string()),
    }
}

/// What the service has met with, then whether the credentials are taken now.
async fn flexportal(target: &Target, outbox: Option<&Outbox>, report: &mut Report) {
    let what = format!("FlexPortal `{}`", target.name);
    if let Some(outbox) = outbox {
        match outbox.hold_of(&target.name).await {
            Ok(None) => {}
            Ok(Some(HoldReason::RateLimited)) => Report::note(&what, "held after an answer 429: it goes on by itself"),
            Ok(Some(HoldReason::ClockStep)) => {
                Report::note(&what, "held since Postgres' clock was set forward: it goes on by itself within a minute");
            }
            Ok(Some(HoldReason::Refused)) => report.bad(
                &what,
                "paused: FlexPortal answered 401 or 403, and events wait; mend FLEXPORTAL_API_KEY, its permissions, or \
                 FLEXPORTAL_TENANT_ID, and it goes on by itself within 30 s",
            ),
            Ok(Some(HoldReason::Failing)) => report.bad(
                &what,
                "paused: FlexPortal failed one customer after the other, and events wait; it is probed every 30 s and \
                 goes on by itself",
            ),
            Err(error) => report.bad(&what, &error.to_string()),
        }
        if !has_leave(target, outbox).await {
            return Report::note(&what, "not asked: the request budget is used up just now; try again in a moment");
        }
    }
    let pinged = match Client::new(target, Clock::System) {
        Ok(client) => client.ping().await.map_err(|error| error.to_string()),
        Err(error) => Err(error),
    };
    match pinged {
        Ok(()) => Report::good(&what, &format!("{} takes the credentials", target.base_url)),
        Err(error) => report.bad(
            &what,
            &format!("{error}; check FLEXPORTAL_API_KEY, FLEXPORTAL_TENANT_ID and the region ({})", target.base_url),
        ),
    }
}

/// The one request of this command counts as any other. A target that is held may be asked nevertheless, and one that
/// the service does not know yet has no budget.
async fn has_leave(target: &Target, outbox: &Outbox) -> bool {
    let Some(budget) = Budget::per_minute(target.rate_limit_per_minute) else { return true };
    let known = outbox.look(&target.name).await;
    if known.is_ok_and(|look| look.has_hold) {
        return true;
    }
    outbox.take_budget(&target.name, Some(budget), 1).await.map_or(true, |grant| !grant.leaves.is_empty())
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
