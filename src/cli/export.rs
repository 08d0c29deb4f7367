//! `export`: all that is held on a customer, as JSON: the answer to a request for personal data.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::bail;
use clap::Args;

use super::filters::{customer, source};
use super::show;
use crate::domain::{ShopCustomerId, SourceName};
use crate::outbox::{CustomerFilter, DoneBy, EventFilter, LinkFilter, Outbox};

/// `export`
#[derive(Debug, Args)]
pub(super) struct Export {
    /// The configured shop
    #[arg(long, value_name = "SOURCE", value_parser = source)]
    source: SourceName,
    /// The shop's id of the customer
    #[arg(long, value_name = "ID", value_parser = customer, required_unless_present = "email", conflicts_with = "email")]
    customer: Option<ShopCustomerId>,
    /// The customer's e-mail, as any of its deliveries gave it; every customer that had it is printed
    #[arg(long, value_name = "EMAIL")]
    email: Option<String>,
}

/// Events read at once.
const PAGE: i64 = 200;
/// People's own deeds, narrow rows: more than anybody does to one customer.
const MAX_INTERVENTIONS: i64 = 100_000;

impl Export {
    pub(super) async fn run(self, file: Option<&Path>) -> anyhow::Result<ExitCode> {
        let (_, outbox) = show::outbox(file).await?;
        show::check_source(&outbox, Some(&self.source)).await?;
        let customers = match (self.customer, &self.email) {
            (Some(customer), _) => vec![customer],
            (None, Some(email)) => outbox.customers_with_email(&self.source, email).await?,
            (None, None) => vec![],
        };
        let mut held = Vec::new();
        for customer in customers {
            if outbox.is_anything_held(&self.source, &customer).await? {
                held.push(customer);
            }
        }
        if held.is_empty() {
            bail!("nothing is stored of this customer: check --source, and --customer or --email");
        }
        show::tell_namesakes(&outbox.namesakes(&self.source, &held).await?, "export");
        let mut out = std::io::stdout().lock();
        write!(out, "[")?;
        for (n, customer) in held.iter().enumerate() {
            write!(out, "{}", if n > 0 { "," } else { "" })?;
            // Noted first: what cannot be noted is not printed.
            outbox.note_export(&self.source, customer, DoneBy::Terminal).await?;
            print(&mut out, &outbox, &self.source, customer).await?;
        }
        writeln!(out, "]")?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Prints page by page: a customer may have a long history.
async fn print(
    out: &mut impl Write,
    outbox: &Outbox,
    source: &SourceName,
    customer: &ShopCustomerId,
) -> anyhow::Result<()> {
    let of_customer =
        |email| CustomerFilter { source: Some(source.clone()), customer: Some(customer.clone()), email, state: None };
    let state = outbox.customers(&of_customer(None), None, 1).await?.items.pop();
    let filter = LinkFilter { source: Some(source.clone()), customer: Some(customer.clone()), flexportal_id: None };
    let link = outbox.links(&filter, None, 1).await?.items.pop();
    let interventions = outbox.interventions_of(source, customer, MAX_INTERVENTIONS).await?;
    writeln!(
        out,
        "{{\n\"source\": {},\n\"shopCustomerId\": {},\n\"exportedAt\": {},\n\"state\": {},\n\"link\": {},\n\"acknowledged\": {},\n\"interventions\": {},\n\"events\": [",
        serde_json::to_string(source)?,
        serde_json::to_string(customer)?,
        serde_json::to_string(&outbox.now().await?.utc())?,
        serde_json::to_string(&state)?,
        serde_json::to_string(&link)?,
        serde_json::to_string(&outbox.acknowledged_of(source, customer).await?)?,
        serde_json::to_string(&interventions)?,
    )?;
    let filter =
        EventFilter { source: Some(source.clone()), customer: Some(customer.clone()), ..EventFilter::default() };
    let (mut cursor, mut is_first) = (None, true);
    loop {
        let page = outbox.events(&filter, cursor.as_deref(), PAGE).await?;
        for summary in page.items {
            let Some(event) = outbox.event(summary.event_id).await? else { continue };
            write!(out, "{}{}", if is_first { "" } else { ",\n" }, serde_json::to_string(&event)?)?;
            is_first = false;
        }
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    writeln!(out, "\n]}}")?;
    Ok(())
}
