//! `sources`: which shop speaks on each source, and what a person decides of another one.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};

use super::filters::source;
use super::show::{self, plain, table, time, time_or_none};
use crate::config::Config;
use crate::domain::{ShopName, SourceName, counted};
use crate::outbox::{DoneBy, Outbox, ShopDecision, SpokenShop, Standing};

/// `sources`
#[derive(Debug, Args)]
pub(super) struct Sources {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The shops that spoke on each source, and how many webhooks of each are held
    List {
        /// As JSON, for scripts
        #[arg(long)]
        json: bool,
    },
    /// It is the same shop under another name: its webhooks are the source's, and those that are held take their place in
    /// the order
    ///
    /// Says first how many of its customers the source knows under the same id with another e-mail: where they are many,
    /// it is another shop.
    Accept(Decide),
    /// It is another shop, a staging copy for instance: what is held of it is closed, and what comes later is answered
    /// `ignored`
    ///
    /// If the source's own customers should hear it, give it a source of its own. Of a shop that was heard so far, what
    /// waits is closed, and what it said is set apart from the source's customers: the links that came of it are removed.
    Ignore(Decide),
}

#[derive(Debug, Args)]
struct Decide {
    /// The configured shop
    #[arg(value_name = "SOURCE", value_parser = source)]
    source: SourceName,
    /// The shop that spoke, as `sources list` names it
    #[arg(value_name = "SHOP")]
    shop: String,
    /// Say what would be done; change nothing
    #[arg(long)]
    dry_run: bool,
}

impl Sources {
    pub(super) async fn run(self, file: Option<&Path>) -> anyhow::Result<ExitCode> {
        let (config, outbox) = show::outbox(file).await?;
        match self.command {
            Command::List { json } => list(&config, &outbox, json).await?,
            Command::Accept(decide) => decide.run(&config, &outbox, ShopDecision::Accept).await?,
            Command::Ignore(decide) => decide.run(&config, &outbox, ShopDecision::Ignore).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn list(config: &Config, outbox: &Outbox, json: bool) -> anyhow::Result<()> {
    let shops = outbox.spoken_shops().await?;
    if json {
        return show::json(&shops);
    }
    let mut rows =
        table(&["source", "shop", "what becomes of its webhooks", "first spoke (UTC)", "held", "since (UTC)"]);
    for shop in &shops {
        rows.add_row([
            shop.source.to_string(),
            plain(&shop.shop),
            meaning(shop).to_owned(),
            time(shop.first_spoke_at),
            held(shop),
            time_or_none(shop.held_since),
        ]);
    }
    let is_silent = |name: &SourceName| !shops.iter().any(|shop| shop.source == *name);
    for source in config.sources.iter().filter(|source| is_silent(&source.name)) {
        rows.add_row([source.name.to_string(), String::new(), "no shop has said its name yet".to_owned()]);
    }
    println!("{rows}");
    for shop in shops.iter().filter(|shop| shop.held > 0) {
        let (source, name) = (&shop.source, plain(&shop.shop));
        println!("\nthe same shop as the source `{source}`: flexportal-sync sources accept {source} {name}");
        println!("another one, such as a staging copy:  flexportal-sync sources ignore {source} {name}");
    }
    Ok(())
}

fn held(shop: &SpokenShop) -> String {
    if shop.held == 0 {
        return String::new();
    }
    format!("{} of {}", counted(shop.held, "webhook"), counted(shop.held_customers, "customer"))
}

fn meaning(shop: &SpokenShop) -> &'static str {
    match (shop.standing, shop.by.as_str()) {
        (Standing::Ours, "remembered") => "taken: the first that spoke",
        (Standing::Ours, "accepted") => "taken: accepted by a person",
        (Standing::Ours, _) => "taken: named in the configuration",
        (Standing::Held | Standing::First, _) => "held until a person decides",
        (Standing::Ignored, "ignored") => "ignored: by a person",
        (Standing::Ignored, _) => "ignored: the configuration names another shop",
    }
}

impl Decide {
    async fn run(&self, config: &Config, outbox: &Outbox, decision: ShopDecision) -> anyhow::Result<()> {
        show::check_source(outbox, Some(&self.source)).await?;
        let name = ShopName::of(&self.shop).context("SHOP holds no name: see flexportal-sync sources list")?;
        let spoken = outbox.spoken_shops().await?;
        let Some(shop) = spoken.iter().find(|shop| shop.source == self.source && shop.shop == name.as_str()) else {
            let known = spoken.iter().filter(|shop| shop.source == self.source);
            let known: Vec<_> = known.map(|shop| plain(&shop.shop)).collect();
            bail!(
                "no shop {} spoke on the source `{}`; there spoke: {}",
                plain(name.as_str()),
                self.source,
                known.join(", ")
            );
        };
        let is_named = config.sources.iter().any(|source| source.name == self.source && source.shop.contains(&name));
        if decision == ShopDecision::Ignore && is_named {
            bail!("the configuration names {} as the shop of `{}`: change it there", plain(name.as_str()), self.source);
        }
        if decision == ShopDecision::Accept {
            let other = outbox.ids_with_other_emails(&self.source, &name).await?;
            println!(
                "{other} of {} have another e-mail with us under the same id",
                counted(shop.held_customers, "customer")
            );
        }
        let would = if self.dry_run { " (not yet: this was a dry run)" } else { "" };
        let done = match decision {
            ShopDecision::Accept => "is taken for the source's shop; held webhooks that take their place",
            ShopDecision::Ignore => "is ignored; held webhooks that are closed",
        };
        if !self.dry_run {
            outbox.decide_on_shop(&self.source, &name, decision, DoneBy::Terminal).await?;
            carry_out(outbox).await?;
        }
        println!("{} {done}: {}{would}", plain(name.as_str()), shop.held);
        Ok(())
    }
}

/// What a worker has in hand just now is done by any worker once it has let go.
async fn carry_out(outbox: &Outbox) -> anyhow::Result<()> {
    if outbox.settle_shops().await? {
        outbox.wake_all().await?;
    }
    Ok(())
}
