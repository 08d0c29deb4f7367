//! A collector of traces: takes OTLP as protobuf over HTTP, and keeps what it was sent.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::span;
use prost::Message;

use super::eventually;

/// Listens until the test is over.
pub struct Collector {
    pub url: String,
    bodies: Arc<Mutex<Vec<Bytes>>>,
}

/// A span, as far as tests look at it; ids in hex.
#[derive(Debug, Clone)]
pub struct Span {
    pub name: String,
    pub trace: String,
    pub id: String,
    pub parent: String,
    pub is_client: bool,
    /// Trace and span.
    pub links: Vec<(String, String)>,
    pub attributes: BTreeMap<String, String>,
    pub service: String,
}

impl Collector {
    pub async fn start() -> Self {
        let bodies = Arc::<Mutex<Vec<Bytes>>>::default();
        let app = Router::new().route("/v1/traces", post(take)).with_state(bodies.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, bodies }
    }

    /// The variables of a process that sends its spans here, and soon.
    pub fn variables(&self) -> [(&str, &str); 2] {
        [("OTEL_EXPORTER_OTLP_ENDPOINT", &self.url), ("OTEL_BSP_SCHEDULE_DELAY", "20")]
    }

    /// What it was sent, byte for byte.
    pub fn bodies(&self) -> Vec<Bytes> {
        self.bodies.lock().expect("nobody panics holding it").clone()
    }

    /// All spans of that name so far.
    pub fn spans(&self, name: &str) -> Vec<Span> {
        let sent = self.bodies().into_iter().map(|body| ExportTraceServiceRequest::decode(body).expect("spans"));
        let all = sent.flat_map(|sent| sent.resource_spans).flat_map(|of_resource| {
            let resource = of_resource.resource.map(|resource| attributes(resource.attributes)).unwrap_or_default();
            let service = resource.get("service.name").cloned().unwrap_or_default();
            let spans = of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            spans.map(move |span| Span {
                is_client: span.kind() == span::SpanKind::Client,
                name: span.name,
                trace: hex::encode(span.trace_id),
                id: hex::encode(span.span_id),
                parent: hex::encode(span.parent_span_id),
                links: span
                    .links
                    .iter()
                    .map(|link| (hex::encode(&link.trace_id), hex::encode(&link.span_id)))
                    .collect(),
                attributes: attributes(span.attributes),
                service: service.clone(),
            })
        });
        all.filter(|span| span.name == name).collect()
    }

    /// Waits for so many spans of that name.
    pub async fn has(&self, count: usize, name: &str) -> Vec<Span> {
        eventually(name, || self.spans(name).len() >= count).await;
        self.spans(name)
    }
}

async fn take(State(bodies): State<Arc<Mutex<Vec<Bytes>>>>, body: Bytes) {
    bodies.lock().expect("nobody panics holding it").push(body);
}

fn attributes(pairs: Vec<opentelemetry_proto::tonic::common::v1::KeyValue>) -> BTreeMap<String, String> {
    let text = |value| match value {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    };
    pairs.into_iter().filter_map(|pair| Some((pair.key, text(pair.value?.value?)))).collect()
}
