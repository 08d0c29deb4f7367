//! `demo`: the newcomer's first minute. A throwaway Postgres, the fake FlexPortal and the service in one
//! process, real signed webhooks over real HTTP, and at the end what became of each.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpListener;

use super::asked_to_leave;
use super::show::{Progress, Rows, table};
use crate::config::{Config, Needs, Variables};
use crate::domain::{Clock, Dice, EventId, EventStatus};
use crate::fake_flexportal::{FakeFlexportal, FakeOptions};
use crate::outbox::{FailureFilter, Outbox};
use crate::service::{Prepare, Role, Service};
use crate::telemetry;
use crate::throwaway_postgres::{Durability, FoundPostgres, create_database, drop_database, fresh_database_name};

mod deliveries;

use deliveries::{Delivery, Expected, Sender};

/// `demo`
#[derive(Debug, Args)]
pub(super) struct Demo {
    /// Leave everything running at the end, and print the addresses, until Ctrl-C
    #[arg(long)]
    keep: bool,
}

/// Customers that the fake FlexPortal knows.
const CUSTOMERS: u32 = 40;
/// It takes a second or two; whoever waits longer should learn that something is wrong.
const ALL_SETTLED_WITHIN: Duration = Duration::from_secs(30);

impl Demo {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        // Not `.env`: the demo is to work beside a half-finished configuration, and to stay away from it.
        let variables = Variables::without_dot_env();
        // The failures shown at the end would be logged as well.
        telemetry::start(None, Some(variables.text("RUST_LOG").unwrap_or("off")), None);
        let given = variables.text("DATABASE_URL").map(SecretString::from);
        println!("looking for a Postgres …");
        let mut leave = std::pin::pin!(asked_to_leave());
        let postgres = tokio::select! {
            found = FoundPostgres::find(given.as_ref(), Durability::Fast) => found?,
            () = &mut leave => return Ok(interrupted()),
        };
        println!("  {}", postgres.describe());
        let name = fresh_database_name("flexportal_sync_demo");
        let kept = OnceCell::new();
        let outcome = tokio::select! {
            outcome = self.on(&postgres, &name, &kept) => outcome,
            () = leave => Ok(kept.get().copied().unwrap_or_else(interrupted)),
        };
        // Whatever came of it, nothing is left behind.
        let dropped = drop_database(postgres.url(), &name).await;
        postgres.stop().await?;
        let code = outcome?;
        dropped?;
        Ok(code)
    }

    /// Runs on a server, in a database of that name; what it came to stands in `kept` while all is left running.
    async fn on(&self, postgres: &FoundPostgres, name: &str, kept: &OnceCell<ExitCode>) -> anyhow::Result<ExitCode> {
        let database_url = create_database(postgres.url(), name, None).await?;
        let fake_options = FakeOptions { customers: CUSTOMERS, ..FakeOptions::default() };
        let fake = FakeFlexportal::start(fake_options).await.context("the fake FlexPortal did not start")?;
        deliveries::misbehave(&fake);
        let admin_token = uuid::Uuid::new_v4().simple().to_string();
        let config = config(&database_url, &fake, &admin_token)?;
        let service = Service::new(&config, Role::All, Clock::System, Dice::Random)?;
        service.prepare_database(true).await?;
        let outbox = service.outbox().clone();
        let listener = TcpListener::bind("127.0.0.1:0").await.context("no free port")?;
        let (running, _) = service.start(listener, Prepare::Nothing)?;
        println!("  fake FlexPortal at {}, with {CUSTOMERS} customers", fake.base_url());
        println!("  the service at http://{}/webhooks/{{shopify,woocommerce,generic}}", running.addr);
        println!();

        let start = Instant::now();
        let sender = Sender::new(running.addr)?;
        let sent = send_all(&sender).await?;
        let settled = wait_until_settled(&outbox, &sent).await?;
        let took = start.elapsed();

        println!("{}", summary(&sent, &settled));
        print_failures(&outbox).await?;
        let wrong = sent.iter().filter(|delivery| !is_as_expected(delivery, &settled)).count();
        let good = if wrong == 0 {
            println!(
                "All {} deliveries ended as they should, in {:.1} s and {} requests to FlexPortal.",
                sent.len(),
                took.as_secs_f64(),
                fake.requests().len()
            );
            ExitCode::SUCCESS
        } else {
            println!("{wrong} of {} deliveries did not end as they should: please report this.", sent.len());
            ExitCode::FAILURE
        };
        if self.keep {
            keep(postgres, &database_url, name, &fake, &running.addr.to_string(), &admin_token);
            let _ = kept.set(good);
            std::future::pending::<()>().await;
        }
        running.stop().await;
        outbox.close().await;
        Ok(good)
    }
}

fn interrupted() -> ExitCode {
    println!("\ninterrupted: cleaning up");
    ExitCode::FAILURE
}

fn config(database_url: &SecretString, fake: &FakeFlexportal, admin_token: &str) -> anyhow::Result<Config> {
    let base_url = fake.base_url();
    let variables: Variables = [
        ("DATABASE_URL", database_url.expose_secret()),
        ("FLEXPORTAL_BASE_URL", base_url.as_str()),
        ("FLEXPORTAL_API_KEY", "fake-key"),
        ("FLEXPORTAL_TENANT_ID", "fake-tenant"),
        // FlexPortal's lowest plan allows 100; a first minute has no time for that.
        ("FLEXPORTAL_RATE_LIMIT_PER_MINUTE", "6000"),
        ("RETRY_BASE_DELAY", "500ms"),
        ("SHOPIFY_WEBHOOK_SECRET", deliveries::SECRET),
        ("WOOCOMMERCE_WEBHOOK_SECRET", deliveries::SECRET),
        ("GENERIC_WEBHOOK_SECRET", deliveries::SECRET),
        ("ADMIN_TOKEN", admin_token),
    ]
    .into_iter()
    .collect();
    Ok(Config::from_parts(&variables, None, Needs::EVERYTHING)?)
}

/// A delivery and what was answered.
struct Sent {
    delivery: Delivery,
    answer: String,
    event: Option<EventId>,
}

async fn send_all(sender: &Sender) -> anyhow::Result<Vec<Sent>> {
    let deliveries = deliveries::all()?;
    let progress = Progress::new("sending", deliveries.len());
    let mut sent = Vec::with_capacity(deliveries.len());
    for delivery in deliveries {
        let (answer, event) = sender.send(&delivery).await?;
        sent.push(Sent { delivery, answer, event });
        progress.at(sent.len());
    }
    progress.done();
    Ok(sent)
}

/// Asks until every stored event has a verdict.
async fn wait_until_settled(outbox: &Outbox, sent: &[Sent]) -> anyhow::Result<BTreeMap<EventId, EventStatus>> {
    let mut events: Vec<_> = sent.iter().filter_map(|sent| sent.event).collect();
    events.sort_unstable();
    events.dedup();
    let progress = Progress::new("syncing", events.len());
    let deadline = Instant::now() + ALL_SETTLED_WITHIN;
    loop {
        let outcomes = outbox.outcomes(&events).await?;
        let is_settled = |status| !matches!(status, EventStatus::Pending | EventStatus::InFlight);
        let settled = outcomes.iter().filter(|outcome| is_settled(outcome.status)).count();
        progress.at(settled);
        if settled == events.len() {
            progress.done();
            return Ok(outcomes.into_iter().map(|outcome| (outcome.event, outcome.status)).collect());
        }
        if Instant::now() > deadline {
            bail!("after {} s only {settled} of {} events are settled", ALL_SETTLED_WITHIN.as_secs(), events.len());
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

fn ended_as(sent: &Sent, settled: &BTreeMap<EventId, EventStatus>) -> Option<EventStatus> {
    sent.event.filter(|_| sent.answer == "accepted").and_then(|event| settled.get(&event).copied())
}

fn is_as_expected(sent: &Sent, settled: &BTreeMap<EventId, EventStatus>) -> bool {
    match sent.delivery.expected {
        Expected::Answer(answer) => sent.answer == answer,
        Expected::Status(status) => sent.answer == "accepted" && ended_as(sent, settled) == Some(status),
    }
}

fn summary(sent: &[Sent], settled: &BTreeMap<EventId, EventStatus>) -> Rows {
    let mut table = table(&["delivery", "sent", "answered", "ended as", "as it should"]);
    let mut kinds: Vec<&str> = Vec::new();
    for one in sent {
        if !kinds.contains(&one.delivery.what) {
            kinds.push(one.delivery.what);
        }
    }
    for kind in kinds {
        let of_kind: Vec<_> = sent.iter().filter(|one| one.delivery.what == kind).collect();
        let good = of_kind.iter().filter(|one| is_as_expected(one, settled)).count();
        let verdict = if good == of_kind.len() { "yes".to_owned() } else { format!("{good} of {}", of_kind.len()) };
        table.add_row([
            kind.to_owned(),
            of_kind.len().to_string(),
            counted(of_kind.iter().map(|one| one.answer.clone())),
            counted(of_kind.iter().filter_map(|one| ended_as(one, settled)).map(|status| status.to_string())),
            verdict,
        ]);
    }
    table
}

/// `2 synced, 1 superseded`
fn counted(words: impl Iterator<Item = String>) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for word in words {
        *counts.entry(word).or_default() += 1;
    }
    let parts: Vec<_> = counts.iter().map(|(word, count)| format!("{count} {word}")).collect();
    if parts.is_empty() { "-".to_owned() } else { parts.join(", ") }
}

async fn print_failures(outbox: &Outbox) -> anyhow::Result<()> {
    println!("\nflexportal-sync failures list:");
    let failures = outbox.failures(&FailureFilter::default(), None, 20).await?;
    println!("{}\n", super::failures::table_of(&failures.items));
    Ok(())
}

fn keep(
    postgres: &FoundPostgres,
    database_url: &SecretString,
    name: &str,
    fake: &FakeFlexportal,
    addr: &str,
    admin_token: &str,
) {
    println!("\nEverything keeps running until Ctrl-C:");
    if postgres.is_throwaway() {
        let url = database_url.expose_secret();
        println!("  psql '{url}' -c 'select * from outbox_events'");
        println!("  DATABASE_URL='{url}' flexportal-sync status");
    } else {
        // Its password is not ours to show.
        println!("  the database {name} on the server of DATABASE_URL: select * from outbox_events");
    }
    println!("  the console at http://{addr}/console, with the token {admin_token}");
    println!("  curl -H 'Authorization: Bearer {admin_token}' http://{addr}/api/v1/status");
    println!("  curl {}_fake/requests", fake.base_url());
    println!(
        "  flexportal-sync send --kind shopify --secret {} --url http://{addr}/webhooks/shopify",
        deliveries::SECRET
    );
}
