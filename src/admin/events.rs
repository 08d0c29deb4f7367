//! Events: a page of them, and one in full.

use axum::Json;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::IntoParams;

use super::Admin;
use super::failures::named;
use super::given::{Age, Asked, Given, InPath, Limit, ProblemBody};
use crate::domain::{EventId, EventStatus, ShopCustomerId, SourceName};
use crate::http::Problem;
use crate::inspect::{self, ExplainedEvent};
use crate::outbox::{EventFilter, EventSummary, Page};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query, rename_all = "camelCase")]
pub(super) struct Events {
    /// Of this shop.
    #[param(pattern = "^[a-z0-9_-]{1,63}$")]
    source: Option<String>,
    /// In this status.
    #[param(inline)]
    status: Option<EventStatus>,
    /// Of this customer of the shop.
    #[param(min_length = 1, max_length = 255, pattern = r"\S")]
    customer: Option<String>,
    /// With this e-mail, letter case apart.
    email: Option<String>,
    /// With this error code.
    code: Option<String>,
    /// Arrived longer ago than this.
    #[param(inline)]
    older_than: Option<Age>,
    /// Arrived within this time.
    #[param(inline)]
    newer_than: Option<Age>,
    /// Rows on the page.
    #[serde(default)]
    #[param(inline, required = false)]
    limit: Limit,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// Events with what became of them, newest first.
#[utoipa::path(
    get, path = "/events", tag = "events", params(Events),
    responses(
        (status = 200, description = "a page of them", body = Page<EventSummary>),
        Asked,
    )
)]
pub(super) async fn list(admin: Admin, Given(given): Given<Events>) -> Result<Json<Page<EventSummary>>, Problem> {
    let now = admin.outbox.now().await?;
    let filter = EventFilter {
        source: named(given.source, "source", SourceName::parse)?,
        status: given.status,
        customer: named(given.customer, "customer", ShopCustomerId::parse)?,
        email: given.email,
        code: given.code,
        received_before: given.older_than.map(|age| age.before(now)),
        received_since: given.newer_than.map(|age| age.before(now)),
    };
    Ok(Json(admin.outbox.events(&filter, given.cursor.as_deref(), given.limit.rows()).await?))
}

/// One event: what became of it and why, the payload, each request with its answer.
#[utoipa::path(
    get, path = "/events/{event}", tag = "events",
    params(("event" = EventId, Path, description = "the event's id")),
    responses(
        (status = 200, description = "the event", body = ExplainedEvent),
        Asked,
        (status = 404, description = "there is no such event", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn show(admin: Admin, InPath(event): InPath<EventId>) -> Result<Json<ExplainedEvent>, Problem> {
    let found = inspect::explained_event(&admin.outbox, event).await?;
    found.map(Json).ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, "there is no such event"))
}
