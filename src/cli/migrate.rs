//! `migrate`: the schema, without the service.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;

use super::configure;
use crate::config::Needs;
use crate::domain::Clock;
use crate::outbox::Outbox;

pub(super) async fn run(file: Option<&Path>) -> anyhow::Result<ExitCode> {
    let config = configure(file, Needs::DATABASE)?;
    let url = config.database_url.as_ref().context("DATABASE_URL is not set")?;
    let outbox = Outbox::new(url, 1, Clock::System).map_err(anyhow::Error::msg)?;
    let missing = outbox.missing_migrations().await?;
    outbox.migrate().await?;
    match missing {
        0 => println!("the database is up to date"),
        n => println!("{n} migrations applied"),
    }
    Ok(ExitCode::SUCCESS)
}
