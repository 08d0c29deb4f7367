//! `/console`: the operator's page, served from the program; no other host is asked for anything.

use axum::Router;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::IntoResponse;
use axum::routing::get;

/// The page runs its own script and nothing else, asks this service and nobody else, and stands in no other page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
                      form-action 'none'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
                      trusted-types 'none'";

/// The page and its two parts. They hold nothing that needs the token; what they show does.
pub(super) fn router() -> Router {
    Router::new()
        .route("/console", get(async || file("text/html; charset=utf-8", include_str!("console/index.html"))))
        .route(
            "/console/console.css",
            get(async || file("text/css; charset=utf-8", include_str!("console/console.css"))),
        )
        .route(
            "/console/console.js",
            get(async || file("text/javascript; charset=utf-8", include_str!("console/console.js"))),
        )
}

fn file(kind: &'static str, text: &'static str) -> impl IntoResponse {
    let headers: [(HeaderName, HeaderValue); 5] = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        // Another version of the program has another page.
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    (headers, text)
}
