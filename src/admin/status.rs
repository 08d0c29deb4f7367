//! The state of the whole, and the last hour.

use axum::Json;
use serde::Deserialize;
use utoipa::IntoParams;

use super::Admin;
use super::given::{Asked, Given};
use crate::http::Problem;
use crate::outbox::{Status, Timeline};

/// The state of the whole: intake, backlog, quota, pauses, silence, failures.
#[utoipa::path(
    get, path = "/status", tag = "status",
    responses(
        (status = 200, description = "how it is", body = Status),
        Asked,
    )
)]
pub(super) async fn status(admin: Admin) -> Result<Json<Status>, Problem> {
    Ok(Json(admin.outbox.status().await?))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Span {
    /// How many minutes, up to a day of them.
    #[param(minimum = 1, maximum = 1440, default = 60)]
    minutes: Option<u32>,
}

/// The last minutes: what arrived, what was settled, what was asked of FlexPortal.
#[utoipa::path(
    get, path = "/timeline", tag = "status", params(Span),
    responses(
        (status = 200, description = "minute by minute, oldest first", body = Timeline),
        Asked,
    )
)]
pub(super) async fn timeline(admin: Admin, Given(span): Given<Span>) -> Result<Json<Timeline>, Problem> {
    let minutes = span.minutes.unwrap_or(60);
    if !(1..=1440).contains(&minutes) {
        return Err(Problem::new(axum::http::StatusCode::BAD_REQUEST, "minutes: write a number from 1 to 1440"));
    }
    Ok(Json(admin.outbox.timeline(minutes).await?))
}
