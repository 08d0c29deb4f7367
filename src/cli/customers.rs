//! `customers`: whether each is in sync, and one customer's story.

use std::path::Path;
use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Subcommand};

use super::filters::{customer, source};
use super::show::{self, plain, plain_or_none, table, time, time_or_none};
use crate::domain::{ShopCustomerId, SourceName};
use crate::inspect;
use crate::outbox::{CustomerFilter, CustomerState, CustomerSync, Outbox};

/// `customers`
#[derive(Debug, Args)]
pub(super) struct Customers {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Customers with their state
    List {
        /// Of this shop
        #[arg(long, value_name = "SOURCE", value_parser = source)]
        source: Option<SourceName>,
        /// In this state
        #[arg(long, value_enum)]
        state: Option<CustomerSync>,
        /// How many at most
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=10_000))]
        limit: i64,
        /// As JSON, for scripts
        #[arg(long)]
        json: bool,
    },
    /// One customer's story in time order, each step with its cause
    #[command(visible_alias = "why")]
    Show(Show),
}

#[derive(Debug, Args)]
pub(super) struct Show {
    /// The shop's id of the customer
    #[arg(value_name = "ID", value_parser = customer, required_unless_present = "email", conflicts_with = "email")]
    customer: Option<ShopCustomerId>,
    /// The customer's e-mail instead, as any of its deliveries gave it
    #[arg(long, value_name = "EMAIL")]
    email: Option<String>,
    /// The shop; needed only if several have such a customer
    #[arg(long, value_name = "SOURCE", value_parser = source)]
    source: Option<SourceName>,
    /// As JSON, for scripts
    #[arg(long)]
    json: bool,
}

/// More than one screen of namesakes helps nobody.
const MAX_NAMESAKES: i64 = 20;

impl Customers {
    pub(super) async fn run(self, file: Option<&Path>) -> anyhow::Result<ExitCode> {
        let (_, outbox) = show::outbox(file).await?;
        match self.command {
            Command::List { source, state, limit, json } => {
                show::check_source(&outbox, source.as_ref()).await?;
                let filter = CustomerFilter { source, state, ..CustomerFilter::default() };
                let page = outbox.customers(&filter, None, limit).await?;
                if json {
                    show::json(&page.items)?;
                } else if page.items.is_empty() {
                    println!("no customers");
                } else {
                    println!("{}", table_of(&page.items));
                    if page.next.is_some() {
                        println!("there are more: --limit, or narrow it down by --source, --state");
                    }
                }
                Ok(ExitCode::SUCCESS)
            }
            Command::Show(show) => show.run(&outbox).await,
        }
    }
}

fn table_of(customers: &[CustomerState]) -> show::Rows {
    let mut table = table(&[
        "source",
        "customer",
        "state",
        "FlexPortal",
        "last synced (UTC)",
        "next attempt (UTC)",
        "events",
        "failed",
    ]);
    for customer in customers {
        table.add_row([
            customer.source.to_string(),
            plain(&customer.shop_customer_id),
            customer.state.as_str().to_owned(),
            plain_or_none(customer.flexportal_customer_id.as_deref()),
            time_or_none(customer.last_synced_at),
            time_or_none(customer.next_attempt_at),
            customer.events.to_string(),
            customer.failed_events.to_string(),
        ]);
    }
    table
}

impl Show {
    pub(super) async fn run_on(self, file: Option<&Path>) -> anyhow::Result<ExitCode> {
        let (_, outbox) = show::outbox(file).await?;
        self.run(&outbox).await
    }

    async fn run(self, outbox: &Outbox) -> anyhow::Result<ExitCode> {
        show::check_source(outbox, self.source.as_ref()).await?;
        let filter = CustomerFilter {
            source: self.source.clone(),
            customer: self.customer.clone(),
            email: self.email.clone(),
            state: None,
        };
        let found = outbox.customers(&filter, None, MAX_NAMESAKES).await?.items;
        let one = match found.as_slice() {
            [] => bail!("nothing is stored of this customer: check the id, --email and --source"),
            [one] => one,
            several => bail!("several customers are meant; name one by its id and --source:\n{}", table_of(several)),
        };
        // It was stored once, so it is one.
        let customer = ShopCustomerId::parse(one.shop_customer_id.clone())?;
        let Some(told) = inspect::customer_story(outbox, &one.source, &customer).await? else {
            bail!("nothing is stored of this customer (any more)");
        };
        if self.json {
            show::json(&told)?;
            return Ok(ExitCode::SUCCESS);
        }
        println!("{}\n", table_of(std::slice::from_ref(&told.state)));
        let mut table = table(&["when (UTC)", "what", "event"]);
        for step in &told.story {
            table.add_row([
                time(step.at),
                plain(&step.text),
                step.event_id.map(|event| event.to_string()).unwrap_or_default(),
            ]);
        }
        println!("{table}");
        if told.has_older_events {
            let customer = plain(customer.as_str()).replace('\'', r"'\''");
            println!(
                "older events are left out: flexportal-sync events list --source {} --customer '{customer}' --limit 10000",
                one.source
            );
        }
        Ok(ExitCode::SUCCESS)
    }
}
