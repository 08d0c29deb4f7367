//! `preview`: what would be sent, without sending anything.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;

use super::filters::{event, source};
use super::show::{self, plain, table, time};
use crate::config::Source;
use crate::domain::{EventId, SourceName};
use crate::inspect::Previewer;
use crate::shops::Shop;
use crate::sync::preview;

/// `preview`
#[derive(Debug, Args)]
pub(super) struct Preview {
    /// A stored event
    #[arg(value_name = "EVENT", value_parser = event, required_unless_present = "file", conflicts_with = "file")]
    event: Option<EventId>,
    /// A body as the shop would send it; `-` reads standard input
    #[arg(long, value_name = "FILE", requires = "source")]
    file: Option<PathBuf>,
    /// The shop that would send it
    #[arg(long, value_name = "SOURCE", value_parser = source)]
    source: Option<SourceName>,
    /// Topic of the body; default: customers/update for Shopify, customer.updated for WooCommerce; generic bodies carry theirs
    #[arg(long)]
    topic: Option<String>,
    /// As JSON, for scripts
    #[arg(long)]
    json: bool,
}

impl Preview {
    pub(super) async fn run(self, file: Option<&Path>) -> anyhow::Result<ExitCode> {
        let (config, outbox) = show::outbox(file).await?;
        // Reading needs no secrets; those of the file are there for their policies.
        let shops =
            config.sources.iter().cloned().map(|source| Shop::new(Source { secrets: vec![], ..source }).map(Arc::new));
        let shops: Vec<_> = shops.collect::<Result<_, _>>().map_err(anyhow::Error::msg)?;
        let previewer = Previewer::new(&config, &shops).map_err(anyhow::Error::msg)?;
        let preview = match (self.event, &self.file, &self.source) {
            (Some(event), _, _) => previewer.of_event(&outbox, event).await?,
            (None, Some(body), Some(source)) => {
                let body = read(body)?;
                previewer.of_body(&outbox, source, self.topic.as_deref(), &body).await?
            }
            // clap asks for one of them.
            (None, _, _) => anyhow::bail!("name an event, or a body with --source and --file"),
        };
        if self.json {
            show::json(&preview)?;
        } else {
            print(&preview);
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    if file.as_os_str() == "-" {
        let mut body = Vec::new();
        std::io::Read::read_to_end(&mut std::io::stdin(), &mut body).context("cannot read standard input")?;
        return Ok(body);
    }
    std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

fn print(preview: &preview::Preview) {
    println!("{}", plain(&preview.outcome));
    for warning in &preview.warnings {
        println!("warning: {}", plain(warning));
    }
    let Some(request) = &preview.request else { return };
    println!("\n{} {}\n{}", request.method, plain(&request.path), show::indented(&request.body.to_string()));
    let before = match preview.last_sent_at {
        Some(at) => format!("last sent at {} UTC", time(at)),
        None => "last sent: nothing yet".to_owned(),
    };
    if preview.differences.is_empty() {
        println!("\n{before}: the same values");
        return;
    }
    let mut table = table(&["field", &before, "now"]);
    for difference in &preview.differences {
        let shown = |value: &Option<serde_json::Value>| {
            value.as_ref().map(|value| plain(&value.to_string())).unwrap_or_default()
        };
        table.add_row([difference.field.clone(), shown(&difference.before), shown(&difference.after)]);
    }
    println!("\n{table}");
}
