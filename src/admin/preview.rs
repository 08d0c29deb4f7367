//! What would be sent, without sending anything.

use axum::Json;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::Admin;
use super::given::{Body, Posted, ProblemBody};
use crate::domain::{EventId, SourceName};
use crate::http::Problem;
use crate::sync::preview::Preview;

/// A stored event, or a body as a shop would send it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Previewed {
    /// The event.
    event_id: Option<EventId>,
    /// The shop that would send the body.
    source: Option<String>,
    /// Its topic; what the shop's updates usually have, if nothing is said.
    topic: Option<String>,
    /// The body.
    #[schema(value_type = Option<Object>)]
    body: Option<Box<RawValue>>,
}

/// What would be sent for an event or a body; sends nothing.
#[utoipa::path(
    post, path = "/preview", tag = "events", request_body = Previewed,
    responses(
        (status = 200, description = "what would be sent", body = Preview),
        (status = 404, description = "there is no such event or source", body = ProblemBody, content_type = "application/problem+json"),
        Posted,
    )
)]
pub(super) async fn preview(admin: Admin, Body(wanted): Body<Previewed>) -> Result<Json<Preview>, Problem> {
    let wrong = |detail: &str| Problem::new(StatusCode::BAD_REQUEST, detail);
    let (previewer, outbox) = (&admin.previewer, &admin.outbox);
    match wanted {
        Previewed { event_id: Some(event), source: None, topic: None, body: None } => {
            Ok(Json(previewer.of_event(outbox, event).await?))
        }
        Previewed { event_id: None, source: Some(source), topic, body: Some(body) } => {
            let source = SourceName::parse(source).map_err(|error| wrong(&format!("source: {error}")))?;
            Ok(Json(previewer.of_body(outbox, &source, topic.as_deref(), body.get().as_bytes()).await?))
        }
        _ => Err(wrong("give `eventId` alone, or `source` and `body`, and `topic` if it is another than usual")),
    }
}
