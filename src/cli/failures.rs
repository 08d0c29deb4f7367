//! `failures`: what failed, counted and one by one; set back or closed.

use std::path::Path;
use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::filters::{Age, customer, event, source};
use super::show::{self, Progress, Rows, plain, plain_or_none, span, table, time};
use crate::domain::{EventId, PgInstant, ShopCustomerId, SourceName, counted};
use crate::inspect::MAX_REASON_CHARACTERS;
use crate::outbox::{DoneBy, Failure, FailureFilter, FailureGroup, Intervention, Outbox, Remedy};

/// `failures`
#[derive(Debug, Args)]
pub(super) struct Failures {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The failed events, newest first
    List {
        #[command(flatten)]
        filter: Filter,
        /// How many at most
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=10_000))]
        limit: i64,
        /// As JSON, for scripts
        #[arg(long)]
        json: bool,
    },
    /// The failures counted by cause, the most frequent first
    Groups {
        /// Of this shop only
        #[arg(long, value_name = "SOURCE", value_parser = source)]
        source: Option<SourceName>,
        /// As JSON, for scripts
        #[arg(long)]
        json: bool,
    },
    /// One failure in full: the error, the request, the answer, what to do
    Show {
        /// The event
        #[arg(value_name = "EVENT", value_parser = event)]
        event: EventId,
        /// As JSON, for scripts
        #[arg(long)]
        json: bool,
    },
    /// Try events again, with a full set of attempts; they wait behind live changes
    Retry(Again),
    /// Close events for good: they are not tried again
    Discard {
        #[command(flatten)]
        which: Which,
        /// Why; it is kept with the event
        #[arg(long, value_name = "TEXT", value_parser = reason)]
        reason: String,
    },
}

#[derive(Debug, Args)]
struct Again {
    #[command(flatten)]
    which: Which,
}

/// Which failures.
#[derive(Debug, Args)]
struct Filter {
    /// Of this shop
    #[arg(long, value_name = "SOURCE", value_parser = source)]
    source: Option<SourceName>,
    /// With this error code, such as `VALIDATION_ERROR`
    #[arg(long, value_name = "CODE")]
    code: Option<String>,
    /// With this cause, as `failures groups` shows it
    #[arg(long, value_name = "CAUSE")]
    cause: Option<String>,
    /// Of this customer of the shop
    #[arg(long, value_name = "ID", value_parser = customer)]
    customer: Option<ShopCustomerId>,
    /// That failed longer ago than this, such as 2h or 7d
    #[arg(long, value_name = "AGE")]
    older_than: Option<Age>,
    /// That failed within this time, such as 30m
    #[arg(long, value_name = "AGE")]
    newer_than: Option<Age>,
}

/// Events by their ids, or all failures that a filter matches.
#[derive(Debug, Args)]
struct Which {
    /// The events
    #[arg(value_name = "EVENT", value_parser = event, required_unless_present = "all", conflicts_with = "all")]
    events: Vec<EventId>,
    /// All failures that the filters match
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    filter: Filter,
    /// Say what would be done, and how long it takes at the quota; change nothing
    #[arg(long)]
    dry_run: bool,
    /// As JSON, for scripts
    #[arg(long)]
    json: bool,
}

/// Set back or closed in one transaction.
const BATCH: usize = 200;
/// Failures that one command takes on; the next one takes the rest.
const MAX_EVENTS: i64 = 1_000_000;

fn reason(text: &str) -> Result<String, String> {
    match text.trim().chars().count() {
        1..=MAX_REASON_CHARACTERS => Ok(text.trim().to_owned()),
        _ => Err(format!("give 1 to {MAX_REASON_CHARACTERS} characters, such as \"test data\"")),
    }
}

impl Failures {
    pub(super) async fn run(self, file: Option<&Path>) -> anyhow::Result<ExitCode> {
        let (_, outbox) = show::outbox(file).await?;
        let source = match &self.command {
            Command::List { filter, .. } => filter.source.as_ref(),
            Command::Groups { source, .. } => source.as_ref(),
            Command::Retry(Again { which }) | Command::Discard { which, .. } => which.filter.source.as_ref(),
            Command::Show { .. } => None,
        };
        show::check_source(&outbox, source).await?;
        match self.command {
            Command::List { filter, limit, json } => list(&outbox, &filter, limit, json).await,
            Command::Groups { source, json } => groups(&outbox, source.as_ref(), json).await,
            Command::Show { event, json } => show_one(&outbox, event, json).await,
            Command::Retry(Again { which }) => which.carry_out(&outbox, Remedy::Retry).await,
            Command::Discard { which, reason } => which.carry_out(&outbox, Remedy::Discard { reason: &reason }).await,
        }
    }
}

impl Filter {
    fn at(&self, now: PgInstant) -> FailureFilter {
        FailureFilter {
            source: self.source.clone(),
            code: self.code.clone(),
            cause: self.cause.clone(),
            customer: self.customer.clone(),
            failed_before: self.older_than.map(|age| age.before(now)),
            failed_since: self.newer_than.map(|age| age.before(now)),
        }
    }
}

async fn list(outbox: &Outbox, filter: &Filter, limit: i64, json: bool) -> anyhow::Result<ExitCode> {
    let page = outbox.failures(&filter.at(outbox.now().await?), None, limit).await?;
    if json {
        show::json(&page.items)?;
    } else if page.items.is_empty() {
        println!("no failures");
    } else {
        println!("{}", table_of(&page.items));
        if page.next.is_some() {
            println!(
                "there are more: --limit, or narrow it down by --source, --code, --cause, --customer, --older-than"
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Failures as a table; also the end of `demo`.
pub(super) fn table_of(failures: &[Failure]) -> Rows {
    let mut table = table(&["failed at (UTC)", "event", "source", "customer", "cause", "http", "code", "error"]);
    for failure in failures {
        table.add_row([
            time(failure.failed_at),
            failure.event_id.to_string(),
            failure.source.to_string(),
            plain_or_none(failure.shop_customer_id.as_deref()),
            plain(&failure.cause),
            failure.http_status.map(|status| status.to_string()).unwrap_or_default(),
            plain_or_none(failure.error_code.as_deref()),
            plain_or_none(failure.error.as_deref()),
        ]);
    }
    table
}

async fn groups(outbox: &Outbox, source: Option<&SourceName>, json: bool) -> anyhow::Result<ExitCode> {
    let groups = outbox.failure_groups(source, 1_000).await?;
    if json {
        show::json(&groups)?;
    } else if groups.is_empty() {
        println!("no failures");
    } else {
        println!("{}", table_of_groups(&groups));
    }
    Ok(ExitCode::SUCCESS)
}

/// Groups as a table; also a part of `status`.
pub(super) fn table_of_groups(groups: &[FailureGroup]) -> Rows {
    let mut table =
        table(&["customers", "events", "source", "cause", "http", "code", "since (UTC)", "last (UTC)", "for example"]);
    for group in groups {
        table.add_row([
            group.customers.to_string(),
            group.events.to_string(),
            group.source.to_string(),
            plain(&group.cause),
            group.http_status.map(|status| status.to_string()).unwrap_or_default(),
            plain_or_none(group.error_code.as_deref()),
            time(group.first_failed_at),
            time(group.last_failed_at),
            group.example_event_id.to_string(),
        ]);
    }
    table
}

async fn show_one(outbox: &Outbox, event: EventId, json: bool) -> anyhow::Result<ExitCode> {
    let Some(failure) = outbox.failure(event).await? else {
        if outbox.event(event).await?.is_none() {
            bail!("there is no event {event}");
        }
        bail!("{event} is not failed (any more): flexportal-sync events show {event}");
    };
    if json {
        show::json(&failure)?;
        return Ok(ExitCode::SUCCESS);
    }
    let facts = show::facts([
        ("event", failure.event_id.to_string()),
        ("source", failure.source.to_string()),
        ("topic", plain(&failure.topic)),
        ("customer", plain_or_none(failure.shop_customer_id.as_deref())),
        ("e-mail", plain_or_none(failure.email.as_deref())),
        ("FlexPortal customer", plain_or_none(failure.flexportal_customer_id.as_deref())),
        ("occurred at (UTC)", time(failure.occurred_at)),
        ("received at (UTC)", time(failure.received_at)),
        ("failed at (UTC)", time(failure.failed_at)),
        ("attempts", failure.attempts.to_string()),
        ("http status", failure.http_status.map(|status| status.to_string()).unwrap_or_default()),
        ("error code", plain_or_none(failure.error_code.as_deref())),
        ("error", plain_or_none(failure.error.as_deref())),
        ("cause", plain(&failure.cause)),
        ("warnings", plain(&failure.warnings.join("; "))),
        ("request", failure.request_body.as_ref().map(|body| show::indented(body.0.get())).unwrap_or_default()),
        ("answer", failure.response_body.as_deref().map(show::indented).unwrap_or_default()),
        ("what to do", plain(&failure.what_to_do)),
    ]);
    println!("{facts}");
    Ok(ExitCode::SUCCESS)
}

/// What came of it, for scripts.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    dry_run: bool,
    matched: usize,
    changed: usize,
    /// How many could be changed: in a dry run, what it would come to.
    possible: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    takes_seconds: Option<f64>,
    results: Vec<Intervention>,
}

impl Which {
    async fn carry_out(self, outbox: &Outbox, remedy: Remedy<'_>) -> anyhow::Result<ExitCode> {
        let events = if self.all {
            outbox.failed_events(&self.filter.at(outbox.now().await?), MAX_EVENTS).await?
        } else {
            self.events.clone()
        };
        let takes_seconds = match remedy {
            Remedy::Retry => outbox.takes_seconds(&events).await?,
            Remedy::Discard { .. } => None,
        };
        let results = act_on_all(outbox, remedy, &events, self.dry_run).await?;
        let possible = results.iter().filter(|result| result.is_done).count();
        let changed = if self.dry_run { 0 } else { possible };
        let report = Report { dry_run: self.dry_run, matched: events.len(), changed, possible, takes_seconds, results };
        if self.json {
            show::json(&report)?;
        } else {
            self.tell(remedy, &report);
        }
        // Asked for by name, an event that is not there is a mistake; that nothing matches a filter is not.
        let has_unknown = report.results.iter().any(Intervention::is_of_unknown_event);
        Ok(if has_unknown { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    fn tell(&self, remedy: Remedy<'_>, report: &Report) {
        let all = counted(report.matched as u64, "event");
        if report.matched == 0 {
            println!("nothing to do: no failure matches");
        } else if !self.all {
            for result in &report.results {
                println!("{}: {}", result.event_id, result.outcome);
            }
        } else if !self.dry_run {
            let will = if remedy == Remedy::Retry { "will be " } else { "" };
            println!("{} of {all} {will}{}", report.changed, remedy.done());
        }
        if self.dry_run && report.matched > 0 {
            println!("{} of {all} would be {}; nothing was changed", report.possible, remedy.done());
        }
        if let Some(seconds) = report.takes_seconds.filter(|_| report.possible > 0) {
            println!("at the quota, behind all that is due, that takes about {}", span(seconds));
        }
    }
}

async fn act_on_all(
    outbox: &Outbox,
    remedy: Remedy<'_>,
    events: &[EventId],
    dry_run: bool,
) -> anyhow::Result<Vec<Intervention>> {
    let progress = (events.len() > BATCH).then(|| Progress::new("events", events.len()));
    let mut results = Vec::with_capacity(events.len());
    for (n, batch) in events.chunks(BATCH).enumerate() {
        results.extend(if dry_run {
            outbox.rehearse(remedy, batch).await?
        } else {
            outbox.apply(remedy, batch, DoneBy::Terminal).await?
        });
        if let Some(progress) = &progress {
            progress.at((n + 1) * BATCH);
        }
    }
    if let Some(progress) = &progress {
        progress.done();
    }
    Ok(results)
}
