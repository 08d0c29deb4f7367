//! The commands: arguments in, a library call, lines out.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::{Config, ConfigError, Needs};
use crate::outbox::StoreError;
use crate::telemetry::{self, Traces};

mod check;
mod customers;
mod demo;
mod erase;
mod events;
mod export;
mod failures;
mod fake_flexportal;
mod filters;
mod links;
mod migrate;
mod preview;
mod send;
mod serve;
mod show;
mod sources;
mod status;

/// Keeps FlexPortal customers in step with a web shop.
///
/// It takes the customer webhooks of Shopify, WooCommerce, or anything that signs as Standard Webhooks says,
/// stores each in Postgres, and sends FlexPortal one update for each change.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true, after_help = AFTER_HELP)]
pub struct Cli {
    /// TOML file with the configuration; environment variables win over it
    #[arg(long, global = true, value_name = "FILE", help_heading = "Configuration")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
First minute:   flexportal-sync demo
To run it:      DATABASE_URL=… FLEXPORTAL_API_KEY=… FLEXPORTAL_TENANT_ID=… SHOPIFY_WEBHOOK_SECRET=… \\
                flexportal-sync serve
How is it:      flexportal-sync status
What failed:    flexportal-sync failures groups, then failures list, show, retry, discard

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service: webhook intake and sync worker
    Serve(serve::Serve),
    /// Apply the database migrations and exit; `serve` does so too
    Migrate,
    /// Examine configuration, database, migrations and FlexPortal credentials
    Check(check::Check),
    /// See the whole thing work in a minute, without any account
    Demo(demo::Demo),
    /// Sign a webhook as a shop would and post it
    Send(send::Send),
    /// The state of the whole on one screen: intake, backlog, quota, pauses, silence, failures
    Status(status::Status),
    /// What failed, and why; try it again, or close it
    Failures(failures::Failures),
    /// Every delivery, and what became of it
    Events(events::Events),
    /// Whether customers are in sync, and one customer's story
    Customers(customers::Customers),
    /// One customer's story: the same as `customers show`
    #[command(hide = true)]
    Why(customers::Show),
    /// What would be sent for an event or a body; sends nothing
    Preview(preview::Preview),
    /// Which FlexPortal customer a shop's customer is
    Links(links::Links),
    /// Which shop speaks on each source; accept or ignore another one
    Sources(sources::Sources),
    /// Erase a customer's personal data; ids, times and status stay
    Erase(erase::Erase),
    /// Print all that is held on a customer, as JSON
    Export(export::Export),
    /// Run a stand-in for FlexPortal, for integration tests
    FakeFlexportal(crate::fake_flexportal::FakeOptions),
}

impl Command {
    /// Whether it looks something up and leaves, rather than run for others.
    fn only_shows(&self) -> bool {
        match self {
            Self::Serve(_)
            | Self::Migrate
            | Self::Demo(_)
            | Self::Send(_)
            | Self::Sources(_)
            | Self::Erase(_)
            | Self::FakeFlexportal(_) => false,
            Self::Check(_)
            | Self::Status(_)
            | Self::Failures(_)
            | Self::Events(_)
            | Self::Customers(_)
            | Self::Why(_)
            | Self::Preview(_)
            | Self::Links(_)
            | Self::Export(_) => true,
        }
    }
}

/// Runs a command to its exit code; errors go to standard error.
pub async fn run(cli: Cli) -> ExitCode {
    if cli.command.only_shows() {
        // Whoever reads may have seen enough (`| head`): that ends the command, and is no fault.
        sigpipe::reset();
    }
    let file = cli.config.as_deref();
    let result = match cli.command {
        Command::Serve(serve) => serve.run(file).await,
        Command::Migrate => migrate::run(file).await,
        Command::Check(check) => check.run(file).await,
        Command::Demo(demo) => demo.run().await,
        Command::Send(send) => send.run().await,
        Command::Status(status) => status.run(file).await,
        Command::Failures(failures) => failures.run(file).await,
        Command::Events(events) => events.run(file).await,
        Command::Customers(customers) => customers.run(file).await,
        Command::Why(show) => show.run_on(file).await,
        Command::Preview(preview) => preview.run(file).await,
        Command::Links(links) => links.run(file).await,
        Command::Sources(sources) => sources.run(file).await,
        Command::Erase(erase) => erase.run(file).await,
        Command::Export(export) => export.run(file).await,
        Command::FakeFlexportal(options) => fake_flexportal::run(options).await,
    };
    match result {
        Ok(code) => code,
        Err(error) if error.is::<StoreError>() => {
            let mend = error.downcast_ref().map_or("", mend_database);
            eprintln!("error: {}\n{mend}", told_once(&error));
            ExitCode::FAILURE
        }
        Err(error) if error.is::<ConfigError>() => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
        Err(error) => {
            eprintln!("error: {}", told_once(&error));
            ExitCode::FAILURE
        }
    }
}

/// The chain of causes, each told once: some messages hold their cause already.
fn told_once(error: &anyhow::Error) -> String {
    error.chain().skip(1).fold(error.to_string(), |told, cause| {
        let cause = cause.to_string();
        if told.contains(&cause) { told } else { format!("{told}: {cause}") }
    })
}

/// What to do about a database that cannot be used; the last line of the error.
fn mend_database(error: &StoreError) -> &'static str {
    match error.sqlstate().as_deref() {
        Some(code) if code.starts_with("28") => "check user and password in DATABASE_URL",
        Some("3D000") => "create the database (createdb), or mend its name in DATABASE_URL",
        Some("55P03") => {
            "end the transaction that holds the table (pg_stat_activity), a backup perhaps, and start again"
        }
        Some("42501") => "grant the user of DATABASE_URL the right to create tables in the schema",
        _ => match error {
            StoreError::Unavailable(_) => "check that Postgres runs and that DATABASE_URL is right",
            StoreError::Migrations(_) => "see the error; a migration that failed half-way is mended by hand",
            StoreError::NotMigrated => "flexportal-sync migrate",
            StoreError::Refused(_) | StoreError::Inconsistent(_) => "please report this",
        },
    }
}

/// Reads the configuration and starts logging as it says.
fn configure(file: Option<&std::path::Path>, needs: Needs) -> anyhow::Result<Config> {
    let config = Config::load(file, needs)?;
    start_telemetry(&config, None);
    Ok(config)
}

fn start_telemetry(config: &Config, traces: Option<&Traces>) {
    telemetry::start(config.log_format, config.log_filter.as_deref(), traces);
    for notice in &config.notices {
        tracing::warn!("{notice}");
    }
}

/// Resolves at the first SIGTERM or Ctrl-C; a second one ends the process at once.
async fn asked_to_leave() {
    let mut signals = Signals::from_now_on();
    signals.next().await;
    tokio::spawn(async move {
        signals.next().await;
        eprintln!("leaving at once");
        std::process::exit(1);
    });
}

/// SIGTERM and Ctrl-C. One that comes while nobody waits is not missed.
struct Signals(Vec<Signal>);

impl Signals {
    fn from_now_on() -> Self {
        Self(
            [SignalKind::terminate(), SignalKind::interrupt()]
                .into_iter()
                .filter_map(|kind| signal(kind).ok())
                .collect(),
        )
    }

    async fn next(&mut self) {
        if self.0.is_empty() {
            // This machine has none.
            return std::future::pending().await;
        }
        let any = self.0.iter_mut().map(|signal| Box::pin(signal.recv()));
        futures_util::future::select_all(any).await;
    }
}
