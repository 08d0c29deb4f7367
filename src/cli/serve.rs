//! `serve`: the service itself.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;

use super::{asked_to_leave, configure};
use crate::config::Needs;
use crate::service::{self, Role};

/// `serve`
#[derive(Debug, Args)]
pub(super) struct Serve {
    /// Which parts run in this process, to split them over machines
    #[arg(long, value_enum, default_value_t = Role::All)]
    role: Role,
    /// Leave the database schema as it is
    #[arg(long)]
    no_migrate: bool,
}

impl Serve {
    pub(super) async fn run(self, file: Option<&Path>) -> anyhow::Result<ExitCode> {
        let needs = Needs { database: true, intake: self.role.takes_webhooks(), worker: self.role.syncs() };
        let config = configure(file, needs)?;
        service::serve(&config, self.role, !self.no_migrate, asked_to_leave()).await?;
        Ok(ExitCode::SUCCESS)
    }
}
