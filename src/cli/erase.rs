//! `erase`: a customer's personal data goes, the rows stay.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;

use super::configure;
use crate::config::Needs;
use crate::domain::{Clock, ShopCustomerId, SourceName};
use crate::outbox::{Erased, LEASE, Outbox, StoreError};

/// `erase`
#[derive(Debug, Args)]
pub(super) struct Erase {
    /// The configured shop
    #[arg(long, value_name = "SOURCE", value_parser = source)]
    source: SourceName,
    /// The shop's id of the customer
    #[arg(long, value_name = "ID", value_parser = customer, required_unless_present = "email", conflicts_with = "email")]
    customer: Option<ShopCustomerId>,
    /// The customer's e-mail, as any of its deliveries gave it; every customer that had it is erased
    #[arg(long, value_name = "EMAIL")]
    email: Option<String>,
}

fn source(text: &str) -> Result<SourceName, String> {
    SourceName::parse(text).map_err(|error| error.to_string())
}

fn customer(text: &str) -> Result<ShopCustomerId, String> {
    ShopCustomerId::parse(text).map_err(|error| error.to_string())
}

/// Between two looks whether a worker has let go.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A lease, and then as long again: another worker may be quicker.
const WAIT_AT_MOST: Duration = LEASE.saturating_mul(2);

impl Erase {
    pub(super) async fn run(self, file: Option<&Path>) -> anyhow::Result<ExitCode> {
        let config = configure(file, Needs::DATABASE)?;
        let database_url = config.database_url.as_ref().context("DATABASE_URL is not set")?;
        let outbox = Outbox::new(database_url, 1, Clock::System).map_err(anyhow::Error::msg)?;
        if outbox.missing_migrations().await? > 0 {
            return Err(StoreError::NotMigrated.into());
        }
        let customers = match (self.customer, self.email) {
            (Some(customer), _) => vec![customer],
            (None, Some(email)) => outbox.customers_with_email(&self.source, &email).await?,
            (None, None) => vec![],
        };
        let mut events = 0;
        for customer in &customers {
            let erased = erase(&outbox, &self.source, customer).await?;
            println!(
                "customer {customer}: {} events and {} requests erased; {} changes that waited are not sent",
                erased.events, erased.attempts, erased.closed
            );
            events += erased.events;
        }
        if events == 0 {
            bail!("nothing is stored of this customer: check --source, and --customer or --email");
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn erase(outbox: &Outbox, source: &SourceName, customer: &ShopCustomerId) -> anyhow::Result<Erased> {
    let erasing = async {
        let mut has_told = false;
        loop {
            if let Some(erased) = outbox.erase(source, customer).await? {
                return Ok(erased);
            }
            if !has_told {
                eprintln!("customer {customer}: a request is under way; waiting until it cannot arrive any more");
                has_told = true;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::time::timeout(WAIT_AT_MOST, erasing)
        .await
        .context("the customer is claimed again and again: nothing was erased; run it again in a moment")?
}
