//! `GET /metrics` for Prometheus: what this process counts, and how the whole service stands.

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

use super::AppState;
use crate::metrics;

pub(super) async fn show(State(state): State<AppState>) -> Response {
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], state.metrics.text()).into_response()
}
