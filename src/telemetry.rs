//! Logs, on standard error: lines for people on a terminal, JSON elsewhere. And [`Traces`], if they are asked for.
//!
//! Neither ever holds bodies, names, e-mail addresses, customer ids or secrets.

use std::io::IsTerminal;

use tracing::Dispatch;
use tracing_subscriber::filter::{FilterExt, FilterFn, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

use crate::config::LogFormat;

mod traces;

pub use traces::{Traces, continue_trace, link_trace, traceparent};

/// Starts logging for the process, and tracing where there is somewhere to; a second call does nothing. `filter` is
/// `RUST_LOG`, checked.
pub fn start(format: Option<LogFormat>, filter: Option<&str>, traces: Option<&Traces>) {
    let is_terminal = std::io::stderr().is_terminal();
    let filter = filter.and_then(|filter| EnvFilter::try_new(filter).ok()).unwrap_or_else(|| EnvFilter::new("info"));
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(is_terminal).with_target(false);
    let logs = match format.unwrap_or(if is_terminal { LogFormat::Text } else { LogFormat::Json }) {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed(),
    };
    let logs = logs.with_filter(filter.and(no_spans()));
    // The default hook would write the panic's message as plain text, and a message may quote what it was about.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        tracing::error!(place, "a panic: please report it");
    }));
    // Fails only if a subscriber is there already.
    let _ = dispatch(logs, traces).try_init();
}

/// Log lines say all they have to say themselves; and spans that nobody takes cost nothing.
fn no_spans() -> FilterFn {
    filter_fn(|metadata| !metadata.is_span())
}

/// Logs, and traces if there are any. No layer in their place: one that is `None` takes an interest in every span, and has
/// each made, entered and closed.
fn dispatch(logs: impl Layer<Registry> + Send + Sync, traces: Option<&Traces>) -> Dispatch {
    let logs = tracing_subscriber::registry().with(logs);
    match traces {
        Some(traces) => Dispatch::new(logs.with(traces.layer())),
        None => Dispatch::new(logs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_traces_no_span_is_made() {
        let logs = fmt::layer().with_writer(std::io::sink).with_filter(EnvFilter::new("info").and(no_spans()));
        tracing::dispatcher::with_default(&dispatch(logs, None), || {
            assert!(tracing::info_span!("webhook").is_disabled());
            assert!(tracing::enabled!(tracing::Level::INFO), "lines are written");
        });
    }
}
