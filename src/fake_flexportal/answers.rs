//! The shapes of FlexPortal's refusals, shared by the customer endpoints and the control plane.

use axum::Json;
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;

/// One entry of `error.details`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Fault {
    /// Dotted path of the field, or the name of the query parameter.
    pub(super) path: String,
    /// For people.
    pub(super) message: String,
    /// For programs.
    pub(super) code: String,
}

impl Fault {
    pub(super) fn new(path: impl Into<String>, code: &str, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into(), code: code.to_owned() }
    }
}

/// An error body without details.
pub(super) fn refusal(status: StatusCode, code: &str, message: &str) -> Response {
    (status, Json(json!({"error": {"code": code, "message": message}}))).into_response()
}

/// An error body that lists what is wrong, all at once.
pub(super) fn refusal_with(status: StatusCode, code: &str, message: &str, details: &[Fault]) -> Response {
    (status, Json(json!({"error": {"code": code, "message": message, "details": details}}))).into_response()
}

/// `VALIDATION_ERROR` without details.
pub(super) fn invalid(status: StatusCode, message: &str) -> Response {
    refusal(status, "VALIDATION_ERROR", message)
}

/// Adds `Retry-After` where there is one to add and a header can hold it.
pub(super) fn retry_after(mut response: Response, value: Option<&str>) -> Response {
    if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
        response.headers_mut().insert(RETRY_AFTER, value);
    }
    response
}
