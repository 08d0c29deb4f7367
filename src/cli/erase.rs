//! `erase`: a customer's personal data goes, the rows stay.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use serde::Serialize;

use super::filters::{customer, source};
use super::show;
use crate::domain::{ShopCustomerId, SourceName};
use crate::outbox::{DoneBy, Erased, LEASE, Outbox};

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
    /// Say what would be erased; change nothing
    #[arg(long)]
    dry_run: bool,
    /// As JSON, for scripts
    #[arg(long)]
    json: bool,
}

/// What became of one customer's data, for scripts.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    source: &'a SourceName,
    shop_customer_id: &'a ShopCustomerId,
    dry_run: bool,
    erased: Erased,
}

/// Between two looks whether a worker has let go.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A lease, and then as long again: another worker may be quicker.
const WAIT_AT_MOST: Duration = LEASE.saturating_mul(2);

impl Erase {
    pub(super) async fn run(self, file: Option<&Path>) -> anyhow::Result<ExitCode> {
        let (_, outbox) = show::outbox(file).await?;
        show::check_source(&outbox, Some(&self.source)).await?;
        let customers = match (self.customer, self.email) {
            (Some(customer), _) => vec![customer],
            (None, Some(email)) => outbox.customers_with_email(&self.source, &email).await?,
            (None, None) => vec![],
        };
        let namesakes = outbox.namesakes(&self.source, &customers).await?;
        let mut reports = Vec::with_capacity(customers.len());
        for customer in &customers {
            let erased = if self.dry_run {
                outbox.would_erase(&self.source, customer).await?
            } else {
                erase(&outbox, &self.source, customer).await?
            };
            if !self.json {
                println!(
                    "customer {}: {erased}{}",
                    show::plain(customer.as_str()),
                    if self.dry_run { " (not yet: this was a dry run)" } else { "" }
                );
            }
            let (source, dry_run) = (&self.source, self.dry_run);
            reports.push(Report { source, shop_customer_id: customer, dry_run, erased });
        }
        if self.json {
            show::json(&reports)?;
        }
        if !reports.iter().any(|report| report.erased.is_anything()) {
            bail!("nothing personal is stored of this customer (any more): check --source, and --customer or --email");
        }
        show::tell_namesakes(&namesakes, "erase");
        Ok(ExitCode::SUCCESS)
    }
}

async fn erase(outbox: &Outbox, source: &SourceName, customer: &ShopCustomerId) -> anyhow::Result<Erased> {
    let erasing = async {
        let mut has_told = false;
        loop {
            if let Some(erased) = outbox.erase(source, customer, None, DoneBy::Terminal).await? {
                return Ok(erased);
            }
            if !has_told {
                let customer = show::plain(customer.as_str());
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
