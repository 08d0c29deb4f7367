//! The command line: parse, run, exit code.

use std::process::ExitCode;

use clap::Parser;
use flexportal_sync::cli::{Cli, run};

#[tokio::main]
async fn main() -> ExitCode {
    run(Cli::parse()).await
}
