//! Logs, on standard error: lines for people on a terminal, JSON elsewhere. Never bodies, names, e-mail
//! addresses or secrets.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Starts logging for the process; a second call does nothing. `filter` is `RUST_LOG`, checked.
pub fn start(format: Option<LogFormat>, filter: Option<&str>) {
    let is_terminal = std::io::stderr().is_terminal();
    let filter = filter.and_then(|filter| EnvFilter::try_new(filter).ok());
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|| EnvFilter::new("info")))
        .with_writer(std::io::stderr)
        .with_ansi(is_terminal);
    // The default hook would write the panic's message as plain text, and a message may quote what it was about.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        tracing::error!(place, "a panic: please report it");
    }));
    // Fails only if a subscriber is there already.
    let _ = match format.unwrap_or(if is_terminal { LogFormat::Text } else { LogFormat::Json }) {
        LogFormat::Text => logs.with_target(false).try_init(),
        LogFormat::Json => logs.json().flatten_event(true).with_target(false).try_init(),
    };
}
