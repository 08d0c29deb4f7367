//! The admin API, `/api/v1`: what the terminal shows and does, over HTTP, by the same functions.
//!
//! Off without `ADMIN_TOKEN`; with it, every request bears it. The description at `/api/v1/openapi.json` is made from the
//! handlers and the types they answer with. Beside it, `/console` serves the operator's page, which is a client of this
//! API like any other.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use secrecy::SecretString;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::auth::Bearer;
use crate::http::Problem;
use crate::inspect::{PreviewError, Previewer};
use crate::outbox::{InspectError, Outbox, StoreError};

mod auth;
mod console;
mod customers;
mod events;
mod failures;
mod given;
mod links;
mod preview;
mod status;

/// Bodies are small: a sample to preview, a page of links.
const MAX_BODY_BYTES: usize = 2 * 1024 * 1024;
/// A question that takes longer is one too many for a database that is also at work.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
const RETRY_AFTER_SECONDS: u16 = 5;

/// What the handlers need.
#[derive(Debug, Clone)]
pub struct AdminState {
    /// Connections of its own: people never take those of the live work.
    pub outbox: Outbox,
    /// Works out what would be sent.
    pub previewer: Arc<Previewer>,
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "flexportal-sync",
        description = "See what failed, know why, put it right: the admin API of flexportal-sync.",
        license(name = "Apache-2.0 OR MIT")
    ),
    modifiers(&Bearer),
    security(("token" = []))
)]
struct Description;

/// The API and the console, for whoever bears the token.
pub fn router(state: AdminState, token: &SecretString) -> Router {
    let (api, description) = described();
    // A document of maps and strings always serialises.
    let description: Arc<[u8]> = serde_json::to_vec(&description).unwrap_or_default().into();
    let json = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    api.route("/api/v1/openapi.json", get(move || async move { (json, description.to_vec()) }))
        .with_state(state)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .route_layer(middleware::from_fn(in_time))
        .route_layer(middleware::from_fn_with_state(auth::Token::new(token), auth::require))
        .merge(console::router())
}

/// The API's description, as `GET /api/v1/openapi.json` answers it.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    described().1
}

fn described() -> (Router<AdminState>, utoipa::openapi::OpenApi) {
    let api = OpenApiRouter::new()
        .routes(routes!(status::status))
        .routes(routes!(status::timeline))
        .routes(routes!(failures::list))
        .routes(routes!(failures::groups))
        .routes(routes!(failures::retry))
        .routes(routes!(failures::discard))
        .routes(routes!(events::list))
        .routes(routes!(events::show))
        .routes(routes!(customers::list))
        .routes(routes!(customers::show))
        .routes(routes!(links::list))
        .routes(routes!(links::import))
        .routes(routes!(preview::preview));
    OpenApiRouter::with_openapi(Description::openapi()).nest("/api/v1", api).split_for_parts()
}

async fn in_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(ANSWER_WITHIN, next.run(request)).await {
        Ok(mut response) => {
            // Personal data stays in no cache.
            response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            response
        }
        Err(_) => Problem::unavailable("it took too long: narrow it down", RETRY_AFTER_SECONDS).into_response(),
    }
}

/// What the handlers of a module share.
type Admin = State<AdminState>;

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            // A text that Postgres does not take, such as one with a NUL.
            StoreError::Refused(_) => {
                Self::new(StatusCode::BAD_REQUEST, "the database cannot take a value of this request")
            }
            StoreError::Unavailable(error) => {
                tracing::warn!(error = %error, "the admin API waits for the database");
                Self::unavailable("the database is unavailable", RETRY_AFTER_SECONDS)
            }
            error @ (StoreError::Inconsistent(_) | StoreError::NotMigrated | StoreError::Migrations(_)) => {
                tracing::error!(error = %error, "the admin API cannot read the database");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the database holds something unreadable: see the log")
            }
        }
    }
}

impl From<InspectError> for Problem {
    fn from(error: InspectError) -> Self {
        match error {
            InspectError::Store(error) => error.into(),
            InspectError::Cursor(error) => Self::new(StatusCode::BAD_REQUEST, error.to_string()),
        }
    }
}

impl From<PreviewError> for Problem {
    fn from(error: PreviewError) -> Self {
        match error {
            PreviewError::NoSuchEvent(_) | PreviewError::NoSuchSource(_) => {
                Self::new(StatusCode::NOT_FOUND, error.to_string())
            }
            PreviewError::Unreadable(_) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()),
            PreviewError::Store(error) => error.into(),
        }
    }
}
