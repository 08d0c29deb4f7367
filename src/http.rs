//! HTTP in: webhooks, probes and metrics.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::{get, post};
use tokio::sync::Semaphore;
use tower_http::catch_panic::CatchPanicLayer;

use crate::domain::Clock;
use crate::metrics::Metrics;
use crate::outbox::{Committer, Outbox};
use crate::shops::Shop;

mod health;
mod intake;
mod listen;
mod metrics;
mod problem;

pub use listen::{Leaving, serve};
pub use metrics::Standing;
pub use problem::Problem;

/// What the handlers need.
pub struct AppState {
    /// The configured shops, by name; none where this process takes no webhooks.
    pub shops: Arc<[Arc<Shop>]>,
    /// Where deliveries are handed in; `None` where this process takes no webhooks.
    pub committer: Option<Committer>,
    /// For the readiness probe.
    pub outbox: Outbox,
    /// What this process counts.
    pub metrics: Metrics,
    /// How the whole stands.
    pub standing: Standing,
    /// By which signatures are stale.
    pub clock: Clock,
    /// `MAX_BODY_BYTES`.
    pub max_body_bytes: usize,
    /// Room for bodies that are being read, in bytes: nobody has shown yet that they may take any.
    pub reading: Arc<Semaphore>,
    /// Whether the process is on its way out.
    pub leaving: Leaving,
}

/// Once a delivery has been read. Shopify gives up after 5 s; a slower commit is answered before, and sent again.
const ANSWER_WITHIN: Duration = Duration::from_millis(4_500);
/// A body may take this long to arrive: `WooCommerce` waits for a minute, and never sends again.
const READ_WITHIN: Duration = Duration::from_secs(30);

/// Room for bodies that are being read, in bytes.
pub const MAX_READING_BYTES: usize = 128 * 1024 * 1024;

/// All routes.
///
/// `more` are those that other parts of the program add.
pub fn app(state: AppState, more: Router) -> Router {
    Router::new()
        .route("/webhooks/{source}", post(intake::receive))
        // As people type it into a shop's form.
        .route("/webhooks/{source}/", post(intake::receive))
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(metrics::show))
        .with_state(Arc::new(state))
        .merge(more)
        .method_not_allowed_fallback(wrong_method)
        .fallback(nothing_here)
        .layer(CatchPanicLayer::custom(|_panic| {
            // The panic's message could quote anything; the hook of `telemetry` has logged where it was.
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "an unexpected fault in flexportal-sync").response()
        }))
}

async fn wrong_method() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "the header Allow names the methods; webhooks are sent by POST")
}

async fn nothing_here() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "there is nothing here; webhooks go to /webhooks/{source}")
}
