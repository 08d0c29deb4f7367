//! `serve`: the service itself.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;

use super::{asked_to_leave, start_telemetry};
use crate::config::{Config, Needs};
use crate::service::{self, Role};
use crate::telemetry::Traces;

/// After the service has left, which takes 28 s at most; orchestrators kill after 30.
const LAST_SPANS_WITHIN: Duration = Duration::from_millis(1_500);

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
        let config = Config::load(file, needs)?;
        let traces = config.otlp_endpoint.as_ref().map(Traces::to).transpose().context("traces cannot be sent")?;
        start_telemetry(&config, traces.as_ref());
        let served = service::serve(&config, self.role, !self.no_migrate, asked_to_leave()).await;
        if let Some(traces) = traces {
            traces.finish(LAST_SPANS_WITHIN).await;
        }
        served?;
        Ok(ExitCode::SUCCESS)
    }
}
