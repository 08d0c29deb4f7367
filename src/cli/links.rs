//! `links`: which FlexPortal customer a shop's customer is; shown, and given by a person.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

use super::filters::{customer, source};
use super::show::{self, Progress, plain, table, time_or_none};
use crate::config::Config;
use crate::domain::{FlexportalCustomerId, ShopCustomerId, SourceName, counted};
use crate::outbox::{DoneBy, LinkFilter, NewLink, Outbox};

/// `links`
#[derive(Debug, Args)]
pub(super) struct Links {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The links there are
    List {
        /// Of this shop
        #[arg(long, value_name = "SOURCE", value_parser = source)]
        source: Option<SourceName>,
        /// Of this customer of the shop
        #[arg(long, value_name = "ID", value_parser = customer)]
        customer: Option<ShopCustomerId>,
        /// To this customer of FlexPortal
        #[arg(long, value_name = "ID", value_parser = flexportal_customer)]
        flexportal_customer: Option<FlexportalCustomerId>,
        /// How many at most
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=10_000))]
        limit: i64,
        /// As JSON, for scripts
        #[arg(long)]
        json: bool,
    },
    /// Take links from a CSV file with the columns `source,shop_customer_id,flexportal_customer_id`
    ///
    /// The first line names the columns. A link that is there is replaced. If any line is wrong, nothing is taken.
    /// Customers that FlexPortal did not know, and that wait or were given up, are tried at once.
    Import {
        /// The file; `-` reads standard input
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Examine the file and say what would be done; change nothing
        #[arg(long)]
        dry_run: bool,
        /// As JSON, for scripts
        #[arg(long)]
        json: bool,
    },
}

fn flexportal_customer(text: &str) -> Result<FlexportalCustomerId, String> {
    FlexportalCustomerId::parse(text).map_err(|error| error.to_string())
}

/// Written in one statement.
const BATCH: usize = 1_000;
/// Faults that are shown of one file.
const MAX_FAULTS: usize = 20;

impl Links {
    pub(super) async fn run(self, file: Option<&Path>) -> anyhow::Result<ExitCode> {
        let (config, outbox) = show::outbox(file).await?;
        match self.command {
            Command::List { source, customer, flexportal_customer, limit, json } => {
                show::check_source(&outbox, source.as_ref()).await?;
                let filter = LinkFilter { source, customer, flexportal_id: flexportal_customer };
                let page = outbox.links(&filter, None, limit).await?;
                if json {
                    show::json(&page.items)?;
                    return Ok(ExitCode::SUCCESS);
                }
                let mut table =
                    table(&["source", "customer", "FlexPortal", "origin", "last synced (UTC)", "missing since (UTC)"]);
                for link in &page.items {
                    table.add_row([
                        link.source.to_string(),
                        plain(&link.shop_customer_id),
                        plain(&link.flexportal_customer_id),
                        link.origin.clone(),
                        time_or_none(link.last_synced_at),
                        time_or_none(link.missing_since),
                    ]);
                }
                if page.items.is_empty() {
                    println!("no links");
                } else {
                    println!("{table}");
                }
                if page.next.is_some() {
                    println!("there are more: --limit, or narrow it down by --source, --customer");
                }
                Ok(ExitCode::SUCCESS)
            }
            Command::Import { file, dry_run, json } => {
                let report = import(&config, &outbox, &file, dry_run).await?;
                if json {
                    show::json(&report)?;
                } else {
                    println!("{report}");
                }
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

/// A line as it stands in the file.
#[derive(Debug, Deserialize)]
struct Line {
    source: String,
    shop_customer_id: String,
    flexportal_customer_id: String,
}

/// What came of an import.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    dry_run: bool,
    /// Links in the file.
    links: u64,
    /// Those that are new, or lead to another customer now.
    imported: u64,
    /// Customers that FlexPortal did not know, and that are tried at once.
    woken: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dry_run, links, imported, woken } = *self;
        let unchanged = links.saturating_sub(imported);
        let (imported, woken) = (counted(imported, "link"), counted(woken, "customer"));
        if dry_run {
            return write!(
                f,
                "{imported} would be taken, {unchanged} are there; {woken} would be tried at once; nothing was changed"
            );
        }
        write!(f, "{imported} taken, {unchanged} were there before; {woken} tried at once")
    }
}

async fn import(config: &Config, outbox: &Outbox, file: &Path, dry_run: bool) -> anyhow::Result<Report> {
    let reader: Box<dyn Read> = if file.as_os_str() == "-" {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(file).with_context(|| format!("cannot read {}", file.display()))?)
    };
    let known = outbox.source_names().await?;
    let is_known = |source: &SourceName| {
        known.contains(source) || config.sources.iter().any(|configured| configured.name == *source)
    };
    let links = read_links(reader, is_known)?;
    let mut report = Report { dry_run, links: links.len() as u64, imported: 0, woken: 0 };
    let progress = (links.len() > BATCH).then(|| Progress::new("links", links.len()));
    for (n, batch) in links.chunks(BATCH).enumerate() {
        let done = if dry_run {
            outbox.rehearse_import(batch).await?
        } else {
            outbox.import_links(batch, DoneBy::Terminal).await?
        };
        report.imported += done.imported;
        report.woken += done.woken;
        if let Some(progress) = &progress {
            progress.at((n + 1) * BATCH);
        }
    }
    if let Some(progress) = &progress {
        progress.done();
    }
    Ok(report)
}

/// All lines of a file, or all that is wrong with it.
fn read_links(reader: impl Read, is_known: impl Fn(&SourceName) -> bool) -> anyhow::Result<Vec<NewLink>> {
    let mut csv = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(reader);
    let (mut links, mut faults) = (Vec::new(), Vec::new());
    let columns = csv.headers().context("cannot read the first line")?.clone();
    for column in ["source", "shop_customer_id", "flexportal_customer_id"] {
        if !columns.iter().any(|name| name == column) {
            bail!(
                "the column {column} is missing: the first line names the columns source,shop_customer_id,flexportal_customer_id"
            );
        }
    }
    for (n, line) in csv.deserialize::<Line>().enumerate() {
        let number = n + 2;
        match line.map_err(|error| told(&error)).and_then(|line| link(line, &is_known)) {
            Ok(link) => links.push(link),
            Err(fault) => faults.push(format!("line {number}: {fault}")),
        }
    }
    if !faults.is_empty() {
        let more = faults.len().saturating_sub(MAX_FAULTS);
        let shown = faults[..faults.len().min(MAX_FAULTS)].join("\n");
        let more = if more > 0 { format!("\nand {more} more") } else { String::new() };
        bail!("nothing was taken:\n{shown}{more}");
    }
    Ok(links)
}

/// What is wrong with a line, without the library's own words for places, which we give ourselves.
fn told(error: &csv::Error) -> String {
    match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("it has {len} columns, the first line has {expected_len}")
        }
        csv::ErrorKind::Utf8 { .. } => "it is not UTF-8".to_owned(),
        csv::ErrorKind::Deserialize { err, .. } => err.to_string(),
        _ => error.to_string(),
    }
}

fn link(line: Line, is_known: &impl Fn(&SourceName) -> bool) -> Result<NewLink, String> {
    let named = |column: &'static str| move |error: crate::domain::IdError| format!("{column} {error}");
    let source = SourceName::parse(line.source).map_err(named("source"))?;
    if !is_known(&source) {
        return Err(format!("there is no source `{source}`"));
    }
    Ok(NewLink {
        source,
        customer: ShopCustomerId::parse(line.shop_customer_id).map_err(named("shop_customer_id"))?,
        flexportal_id: FlexportalCustomerId::parse(line.flexportal_customer_id)
            .map_err(named("flexportal_customer_id"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_wrong_with_a_file_is_told_at_once() {
        let known = |source: &SourceName| source.as_str() == "shopify";
        let good = "flexportal_customer_id , source,shop_customer_id\ncus_1,shopify,1\n\"cus,2\",shopify,2\n";
        let links = read_links(good.as_bytes(), known).expect("good");
        assert_eq!(links[1].flexportal_id.as_str(), "cus,2");

        let bad = "source,shop_customer_id,flexportal_customer_id\nshopify,1\nshop,1,c\nshopify,,c\nshopify,1,..\n";
        let error = read_links(bad.as_bytes(), known).expect_err("bad").to_string();
        for fault in [
            "line 2: ",
            "line 3: there is no source `shop`",
            "line 4: shop_customer_id is empty",
            "line 5: flexportal_customer_id",
        ] {
            assert!(error.contains(fault), "{fault}: {error}");
        }
        let error = read_links("a,b\n".as_bytes(), known).expect_err("no columns").to_string();
        assert!(error.contains("the column source is missing"), "{error}");
    }
}
