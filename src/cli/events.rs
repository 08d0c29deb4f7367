//! `events`: every delivery with what became of it.

use std::path::Path;
use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Subcommand};

use super::filters::{Age, customer, event, source};
use super::show::{self, plain, plain_or_none, table, time, time_or_none};
use crate::domain::{EventId, EventStatus, ShopCustomerId, SourceName};
use crate::inspect::{self, ExplainedEvent};
use crate::outbox::{EventFilter, Outbox, RequestMade};

/// `events`
#[derive(Debug, Args)]
pub(super) struct Events {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Events with their status, newest first
    List(List),
    /// One event in full: what became of it, the payload, each attempt with request and answer
    Show {
        /// The event
        #[arg(value_name = "EVENT", value_parser = event)]
        event: EventId,
        /// As JSON, for scripts
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
struct List {
    /// Of this shop
    #[arg(long, value_name = "SOURCE", value_parser = source)]
    source: Option<SourceName>,
    /// In this status
    #[arg(long, value_enum)]
    status: Option<EventStatus>,
    /// Of this customer of the shop
    #[arg(long, value_name = "ID", value_parser = customer)]
    customer: Option<ShopCustomerId>,
    /// With this e-mail
    #[arg(long, value_name = "EMAIL")]
    email: Option<String>,
    /// With this error code, such as `VALIDATION_ERROR`
    #[arg(long, value_name = "CODE")]
    code: Option<String>,
    /// That arrived longer ago than this, such as 2h or 7d
    #[arg(long, value_name = "AGE")]
    older_than: Option<Age>,
    /// That arrived within this time, such as 30m
    #[arg(long, value_name = "AGE")]
    newer_than: Option<Age>,
    /// How many at most
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=10_000))]
    limit: i64,
    /// As JSON, for scripts
    #[arg(long)]
    json: bool,
}

impl Events {
    pub(super) async fn run(self, file: Option<&Path>) -> anyhow::Result<ExitCode> {
        let (_, outbox) = show::outbox(file).await?;
        match self.command {
            Command::List(list) => list.run(&outbox).await,
            Command::Show { event, json } => show_one(&outbox, event, json).await,
        }
    }
}

impl List {
    async fn run(self, outbox: &Outbox) -> anyhow::Result<ExitCode> {
        show::check_source(outbox, self.source.as_ref()).await?;
        let now = outbox.now().await?;
        let filter = EventFilter {
            source: self.source,
            status: self.status,
            customer: self.customer,
            email: self.email,
            code: self.code,
            received_before: self.older_than.map(|age| age.before(now)),
            received_since: self.newer_than.map(|age| age.before(now)),
        };
        let page = outbox.events(&filter, None, self.limit).await?;
        if self.json {
            show::json(&page.items)?;
            return Ok(ExitCode::SUCCESS);
        }
        if page.items.is_empty() {
            println!("no events");
            return Ok(ExitCode::SUCCESS);
        }
        let mut table =
            table(&["received at (UTC)", "event", "source", "topic", "customer", "status", "attempts", "note"]);
        for event in &page.items {
            let note = event.error.clone().unwrap_or_else(|| event.warnings.join("; "));
            table.add_row([
                time(event.received_at),
                event.event_id.to_string(),
                event.source.to_string(),
                plain(&event.topic),
                plain_or_none(event.shop_customer_id.as_deref()),
                event.status.to_string(),
                event.attempts.to_string(),
                plain(&note),
            ]);
        }
        println!("{table}");
        if page.next.is_some() {
            println!("there are more: --limit, or narrow it down by --source, --status, --customer, --older-than");
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn show_one(outbox: &Outbox, event: EventId, json: bool) -> anyhow::Result<ExitCode> {
    let Some(event) = inspect::explained_event(outbox, event).await? else {
        bail!("there is no event {event}: flexportal-sync events list shows the newest");
    };
    if json {
        show::json(&event)?;
    } else {
        print(&event);
    }
    Ok(ExitCode::SUCCESS)
}

fn print(event: &ExplainedEvent) {
    let ExplainedEvent { detail, explanation } = event;
    let summary = &detail.summary;
    println!("{} {}: {}", summary.event_id, summary.status, plain(explanation));
    let facts = show::facts([
        ("source", summary.source.to_string()),
        ("topic", plain(&summary.topic)),
        ("delivery id", plain(&summary.delivery_id)),
        ("customer", plain_or_none(summary.shop_customer_id.as_deref())),
        ("e-mail", plain_or_none(summary.email.as_deref())),
        ("FlexPortal customer", plain_or_none(summary.flexportal_customer_id.as_deref())),
        ("occurred at (UTC)", time(summary.occurred_at)),
        ("received at (UTC)", time(summary.received_at)),
        ("next attempt at (UTC)", time_or_none(summary.next_attempt_at)),
        ("finished at (UTC)", time_or_none(summary.finished_at)),
        ("attempts", summary.attempts.to_string()),
        ("shop", summary.shop.as_deref().map(show::plain).unwrap_or_default()),
        ("superseded by", summary.superseded_by.map(|event| event.to_string()).unwrap_or_default()),
        ("error", plain_or_none(summary.error.as_deref())),
        ("warnings", plain(&summary.warnings.join("; "))),
        ("what to do", plain_or_none(detail.what_to_do.as_deref())),
    ]);
    println!("{facts}");
    show::part("payload", &show::indented(detail.payload.0.get()));
    if detail.requests_under != summary.event_id && !detail.requests.is_empty() {
        println!("\nits requests stand under the event it went out with: {}", detail.requests_under);
    }
    for request in &detail.requests {
        print_request(request);
    }
    for done in &detail.interventions {
        let reason = done.reason.as_deref().map(|reason| format!(" ({})", plain(reason))).unwrap_or_default();
        println!("\n{} {} by {}{reason}: {}", time(done.at), done.action, plain(&done.done_by), done.outcome);
    }
}

fn print_request(request: &RequestMade) {
    let answer = match (request.http_status, &request.error) {
        (Some(status), None) => status.to_string(),
        (Some(status), Some(error)) => format!("{status}: {}", plain(error)),
        (None, error) => plain_or_none(error.as_deref()),
    };
    println!(
        "\nattempt {} at {} UTC: {}, {} ms, {answer}",
        request.attempt,
        time(request.started_at),
        request.operation,
        request.duration_ms
    );
    if let Some(body) = &request.request_body {
        show::part("request", &show::indented(body.0.get()));
    }
    if let Some(body) = &request.response_body {
        show::part("answer", &show::indented(body));
    }
}
