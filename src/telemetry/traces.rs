//! Traces over OTLP: from the webhook to the PUT in one, though a database lies between.
//!
//! The place of a delivery in its trace is stored with it as W3C `traceparent` (<https://www.w3.org/TR/trace-context/>),
//! and taken up again by the sync. Spans leave on a thread of their own; if the collector is away, they are dropped.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry::KeyValue;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{TraceContextExt, TracerProvider};
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;
use url::Url;

const SERVICE_NAME: &str = "flexportal-sync";
const TRACEPARENT: &str = "traceparent";

/// Where spans go.
#[derive(Debug)]
pub struct Traces(SdkTracerProvider);

impl Traces {
    /// To a collector's base address, as `OTEL_EXPORTER_OTLP_ENDPOINT` has it; connects to nothing yet. The SDK reads
    /// the other `OTEL_` variables itself.
    ///
    /// # Errors
    /// What of those variables cannot be used.
    pub fn to(collector: &Url) -> anyhow::Result<Self> {
        let endpoint = format!("{}/v1/traces", collector.as_str().trim_end_matches('/'));
        let exporter = opentelemetry_otlp::SpanExporter::builder().with_http().with_endpoint(endpoint).build()?;
        let exporter = Reporting { exporter, is_failing: AtomicBool::new(false) };
        Ok(Self(SdkTracerProvider::builder().with_resource(resource()).with_batch_exporter(exporter).build()))
    }

    /// Takes our own spans, without log lines: those go to standard error.
    pub(super) fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        tracing_opentelemetry::layer()
            .with_tracer(self.0.tracer(SERVICE_NAME))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(filter_fn(|metadata| metadata.is_span() && metadata.target().starts_with("flexportal_sync")))
    }

    /// Sends what is left, for no longer than this.
    pub async fn finish(self, within: Duration) {
        let (done, finished) = tokio::sync::oneshot::channel();
        // Not on a thread of the runtime: that one would be waited for at the end, however long it takes.
        std::thread::spawn(move || done.send(self.0.shutdown_with_timeout(within)));
        if !matches!(tokio::time::timeout(within, finished).await, Ok(Ok(Ok(())))) {
            tracing::warn!("the last spans could not be exported");
        }
    }
}

/// What `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_SERVICE_NAME` say, and our own name where they give none.
fn resource() -> Resource {
    let given = Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    let name = Resource::builder().build().get(&"service.name".into());
    let is_named = name.is_some_and(|name| !name.as_str().starts_with("unknown_service"));
    if is_named { given.build() } else { given.with_service_name(SERVICE_NAME).build() }
}

/// The current span's place in its trace; none where nothing is traced.
#[must_use]
pub fn traceparent() -> Option<String> {
    let span = Span::current();
    if span.is_disabled() {
        return None;
    }
    let mut headers = HashMap::new();
    TraceContextPropagator::new().inject_context(&span.context(), &mut headers);
    headers.remove(TRACEPARENT)
}

/// Puts a span that has not begun into the trace that a stored delivery belongs to.
pub fn continue_trace(span: &Span, traceparent: &str) {
    // Fails where nothing is traced.
    let _ = span.set_parent(context(traceparent));
}

/// Notes that a span also did what a stored delivery asked for.
pub fn link_trace(span: &Span, traceparent: &str) {
    span.add_link(context(traceparent).span().span_context().clone());
}

fn context(traceparent: &str) -> Context {
    let headers = HashMap::from([(TRACEPARENT.to_owned(), traceparent.to_owned())]);
    TraceContextPropagator::new().extract_with_context(&Context::new(), &headers)
}

/// Says once that the collector takes no spans, and once that it takes them again.
#[derive(Debug)]
struct Reporting {
    exporter: opentelemetry_otlp::SpanExporter,
    is_failing: AtomicBool,
}

impl SpanExporter for Reporting {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let result = self.exporter.export(batch).await;
        let was_failing = self.is_failing.swap(result.is_err(), Ordering::Relaxed);
        match &result {
            Err(error) if !was_failing => tracing::warn!(%error, "spans cannot be exported and are dropped"),
            Ok(()) if was_failing => tracing::info!("spans can be exported again"),
            Ok(()) | Err(_) => {}
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
