//! `status`: the state of the whole on one screen.

use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::asked_to_leave;
use super::failures::table_of_groups;
use super::show::{self, plain, span, table, time, time_or_none};
use crate::domain::counted;
use crate::outbox::{BacklogStatus, Outbox, Status as State};

/// `status`
#[derive(Debug, Args)]
pub(super) struct Status {
    /// Show it anew every few seconds, until Ctrl-C
    #[arg(long, conflicts_with = "json")]
    watch: bool,
    /// Between two looks
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = humantime::parse_duration, requires = "watch")]
    every: Duration,
    /// As JSON, for scripts
    #[arg(long)]
    json: bool,
}

/// Oftener says nothing new and costs the database.
const SHORTEST: Duration = Duration::from_millis(500);

impl Status {
    pub(super) async fn run(self, file: Option<&Path>) -> anyhow::Result<ExitCode> {
        let (_, outbox) = show::outbox(file).await?;
        if self.watch {
            return self.watch(&outbox).await;
        }
        let status = outbox.status().await?;
        if self.json {
            show::json(&status)?;
        } else {
            println!("{}", screen(&status));
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn watch(&self, outbox: &Outbox) -> anyhow::Result<ExitCode> {
        let terminal = console::Term::stdout();
        let mut leave = std::pin::pin!(asked_to_leave());
        loop {
            // A database that is away for a moment does not end the watch.
            let shown = match outbox.status().await {
                Ok(status) => screen(&status),
                Err(error) => format!("{error}; looking again"),
            };
            if terminal.is_term() {
                terminal.clear_screen()?;
            }
            println!("{shown}");
            tokio::select! {
                () = &mut leave => return Ok(ExitCode::SUCCESS),
                () = tokio::time::sleep(self.every.max(SHORTEST)) => {}
            }
        }
    }
}

/// All of it as text.
fn screen(status: &State) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{} UTC: {}", time(status.at), verdict(status));
    let _ = writeln!(text, "\nbacklog   {}", backlog(&status.backlog));
    let _ = writeln!(
        text,
        "intake    {} in the last minute, {} in the last hour",
        status.intake.last_minute, status.intake.last_hour
    );
    let _ = writeln!(
        text,
        "sync      {} requests in the last minute, {} in the last hour; {} events settled in the last hour",
        status.sync.requests_last_minute, status.sync.requests_last_hour, status.sync.settled_last_hour
    );
    let mut targets = table(&["target", "quota", "free now", "last minute", "waiting", "due", "oldest", "pause"]);
    for target in &status.targets {
        targets.add_row([
            target.name.to_string(),
            target.rate_limit_per_minute.map_or_else(|| "none".to_owned(), |limit| format!("{limit}/min")),
            target.available_now.map(|free| free.to_string()).unwrap_or_default(),
            target.used_last_minute.to_string(),
            target.backlog.customers.to_string(),
            target.backlog.due.to_string(),
            target.backlog.oldest_wait_seconds.map(span).unwrap_or_default(),
            target
                .hold
                .as_ref()
                .map(|hold| format!("{}, until {}: {}", hold.reason.as_str(), time(hold.until), hold.explanation))
                .unwrap_or_default(),
        ]);
    }
    let mut sources = table(&["source", "kind", "target", "last delivery (UTC)", "last hour", "silence"]);
    for source in &status.sources {
        sources.add_row([
            source.name.to_string(),
            source.kind.clone(),
            source.target.to_string(),
            time_or_none(source.last_received_at),
            source.last_hour.to_string(),
            source
                .silence
                .as_ref()
                .map(|silence| {
                    format!("about {:.0} deliveries should have come since: {}", silence.expected, silence.explanation)
                })
                .unwrap_or_default(),
        ]);
    }
    let _ = writeln!(text, "\n{targets}\n\n{sources}");
    if status.failures.events > 0 {
        let _ = writeln!(text, "\nfailures, by cause:\n{}", table_of_groups(&status.failures.groups));
    }
    if status.data_requests > 0 {
        let _ = writeln!(
            text,
            "\nprivacy requests open: {} (flexportal-sync events list --status pending)",
            status.data_requests
        );
    }
    for held in &status.held {
        let _ = writeln!(
            text,
            "\nheld: {} of {}, since {}: {}",
            counted(held.webhooks, "webhook"),
            plain(&held.shop),
            time(held.since),
            plain(&held.explanation)
        );
    }
    if !status.notices.is_empty() {
        let mut notices = table(&["notice", "about", "times", "first (UTC)", "last (UTC)", "what to know"]);
        for notice in &status.notices {
            notices.add_row([
                notice.kind.replace('_', " "),
                notice.subject.clone(),
                notice.count.to_string(),
                time(notice.first_at),
                time(notice.last_at),
                notice.detail.clone(),
            ]);
        }
        let _ = writeln!(text, "\nnotices of the last day:\n{notices}");
    }
    text.trim_end().to_owned()
}

/// The first thing that anybody wants to know.
fn verdict(status: &State) -> String {
    let mut wrong = Vec::new();
    let paused = status.targets.iter().filter(|target| target.hold.is_some()).count();
    if paused > 0 {
        wrong.push(format!("{paused} of {} targets paused", status.targets.len()));
    }
    let silent = status.sources.iter().filter(|source| source.silence.is_some()).count();
    if silent > 0 {
        wrong.push(format!("{silent} of {} sources silent", status.sources.len()));
    }
    if status.failures.events > 0 {
        let number = counted::<i64>;
        let (events, customers) = (status.failures.events, status.failures.customers);
        wrong.push(format!("{} of {}", number(events, "failed event"), number(customers, "customer")));
    }
    let number = counted::<i64>;
    if status.data_requests > 0 {
        wrong.push(format!("{} open", number(status.data_requests, "privacy request")));
    }
    let held = status.held.iter().map(|held| held.webhooks).sum::<i64>();
    if held > 0 {
        wrong.push(format!("{} of another shop held", number(held, "webhook")));
    }
    let mut verdict = match (wrong.is_empty(), status.backlog.due) {
        (true, 0) => "in sync".to_owned(),
        (true, due) => format!("syncing, {due} to go"),
        (false, _) => wrong.join(", "),
    };
    if status.unmatched > 0 {
        let _ = write!(verdict, "; {} of customers unknown to FlexPortal", number(status.unmatched, "change"));
    }
    verdict
}

fn backlog(backlog: &BacklogStatus) -> String {
    let mut text =
        format!("{} customers waiting, {} due, {} in flight", backlog.customers, backlog.due, backlog.in_flight);
    if let Some(wait) = backlog.oldest_wait_seconds {
        let _ = write!(text, "; the oldest for {}", span(wait));
    }
    if backlog.due > 0 {
        match backlog.clears_in_seconds {
            Some(seconds) => {
                let _ = write!(text, "; done in about {} at the quota", span(seconds));
            }
            None => text.push_str("; no quota limits them"),
        }
    }
    text
}
