//! `POST /webhooks/{source}`: read, verify, parse, commit, answer, in that order.
//!
//! 200 only after the commit. What is wrong with a delivery is a 4xx, so that no shop repeats it for hours;
//! what is wrong with us is a 503 with `Retry-After`.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{CONTENT_LENGTH, EXPECT};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;
use tracing::Instrument;
use tracing::field::Empty;

use super::{ANSWER_WITHIN, AppState, Problem, READ_WITHIN};
use crate::domain::EventId;
use crate::metrics::DeliveryResult;
use crate::outbox::{CommitError, Committer, NewEvent, StoreOutcome};
use crate::shops::{Ignored, Received, Rejection, Shop};
use crate::telemetry;

/// Seconds after which a shop may try again when the database is away or the line is full.
const RETRY_AFTER_SECONDS: u16 = 5;

/// Of a body that is too large, so much is read on and thrown away.
const DISCARDED_BYTES: usize = 8 * 1024 * 1024;

#[derive(Serialize)]
struct Answer {
    status: DeliveryResult,
    #[serde(rename = "eventId", skip_serializing_if = "Option::is_none")]
    event_id: Option<EventId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Cow<'static, str>>,
}

pub(super) async fn receive(
    State(state): State<Arc<AppState>>,
    source: Result<Path<String>, axum::extract::rejection::PathRejection>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let shop = source.ok().and_then(|Path(name)| state.shops.iter().find(|shop| shop.source().name.as_str() == name));
    let Some(shop) = shop.cloned() else {
        return Problem::new(StatusCode::NOT_FOUND, "no such source is configured").response();
    };
    let began = Instant::now();
    // A trace of its own: whoever posts has no say in where it belongs.
    let span = tracing::info_span!(
        parent: None,
        "intake.receive",
        otel.kind = "server",
        source = %shop.source().name,
        result = Empty,
        event.id = Empty,
    );
    let taken = take(&state, &shop, &headers, body).instrument(span.clone()).await;
    let result = taken.as_ref().map_or_else(|problem| refused_as(problem.status()), |answer| answer.status);
    span.record("result", result.as_str());
    state.metrics.delivery_answered(&shop.source().name, result, began.elapsed());
    match taken {
        Ok(answer) => {
            let event_id = answer.event_id.map(|id| id.to_string());
            span.record("event.id", event_id.as_deref());
            tracing::info!(
                source = %shop.source().name,
                result = result.as_str(),
                event.id = event_id,
                reason = answer.reason.as_deref(),
                "delivery answered"
            );
            Json(answer).into_response()
        }
        Err(problem) => {
            tracing::warn!(
                source = %shop.source().name,
                http.status = problem.status().as_u16(),
                reason = problem.detail(),
                "delivery refused"
            );
            problem.response()
        }
    }
}

fn refused_as(status: StatusCode) -> DeliveryResult {
    match status {
        StatusCode::UNAUTHORIZED => DeliveryResult::RejectedSignature,
        status if status.is_server_error() => DeliveryResult::Unavailable,
        _ => DeliveryResult::Refused,
    }
}

async fn take(state: &AppState, shop: &Arc<Shop>, headers: &HeaderMap, body: Body) -> Result<Answer, Problem> {
    let Some(committer) = &state.committer else {
        return Err(Problem::new(StatusCode::NOT_FOUND, "this process takes no webhooks"));
    };
    let limit = shop.reads_at_most(state.max_body_bytes);
    refuse_announced(state, limit, headers)?;
    let read = tokio::time::timeout(READ_WITHIN, read(state, limit, body)).await;
    let (body, _room) = read.unwrap_or_else(|_| {
        let detail = format!("the body did not arrive within {} s", READ_WITHIN.as_secs());
        Err(Problem::new(StatusCode::REQUEST_TIMEOUT, detail))
    })?;
    let storing = store(state, shop, committer, headers, &body);
    let stored = tokio::time::timeout(ANSWER_WITHIN, storing).await;
    stored.unwrap_or_else(|_| Err(Problem::unavailable("it took too long: try again", RETRY_AFTER_SECONDS)))
}

/// A body that announces itself as far too large is not waited for; nor is one too large whose sender asks first.
/// Others are read on for a while, so that a sender who is at it reads the answer.
fn refuse_announced(state: &AppState, max: usize, headers: &HeaderMap) -> Result<(), Problem> {
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    let limit = if headers.contains_key(EXPECT) { 0 } else { DISCARDED_BYTES };
    let is_refused = announced.is_some_and(|length| length > max && length > limit);
    if is_refused { Err(too_large(state)) } else { Ok(()) }
}

fn too_large(state: &AppState) -> Problem {
    let detail = format!("the body is larger than {} bytes (MAX_BODY_BYTES)", state.max_body_bytes);
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
}

async fn store(
    state: &AppState,
    shop: &Shop,
    committer: &Committer,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Answer, Problem> {
    if shop.is_unsigned_ping(headers, body) {
        return Ok(Answer { status: DeliveryResult::Ignored, event_id: None, reason: Some("set-up ping".into()) });
    }
    let verified = shop.verify(headers, body, state.clock.now())?;
    let delivery = match shop.receive(&verified, state.max_body_bytes)? {
        Received::Ignored(Ignored { reason, notice }) => {
            if let Some(kind) = notice {
                state.outbox.notices().note(kind, shop.source().name.as_str(), reason.clone());
            }
            return Ok(Answer { status: DeliveryResult::Ignored, event_id: None, reason: Some(reason) });
        }
        Received::Delivery(delivery) => *delivery,
    };
    let event = NewEvent {
        source: shop.source().name.clone(),
        target: shop.source().target.clone(),
        delivery,
        traceparent: telemetry::traceparent(),
    };
    let committing = committer.commit(event).instrument(tracing::info_span!("outbox.commit"));
    let (status, id) = match committing.await? {
        StoreOutcome::Stored(id) => (DeliveryResult::Accepted, id),
        StoreOutcome::Duplicate(id) => (DeliveryResult::Duplicate, id),
        StoreOutcome::Ignored => {
            let reason = "another shop is the one of this source: give this one a source of its own";
            return Ok(Answer { status: DeliveryResult::Ignored, event_id: None, reason: Some(reason.into()) });
        }
    };
    Ok(Answer { status, event_id: Some(id), reason: None })
}

/// Reads the body, within its own limit and that of all bodies together.
///
/// Room is taken as bytes arrive: who only announces a large body keeps nobody out.
async fn read(
    state: &AppState,
    max: usize,
    mut body: Body,
) -> Result<(Vec<u8>, Option<OwnedSemaphorePermit>), Problem> {
    let (mut bytes, mut room) = (Vec::new(), None::<OwnedSemaphorePermit>);
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return Err(Problem::new(StatusCode::BAD_REQUEST, "the body ended early"));
        };
        // Trailers say nothing to us.
        let Ok(chunk) = frame.into_data() else { continue };
        if bytes.len() + chunk.len() > max {
            discard(body).await;
            return Err(too_large(state));
        }
        let size = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
        let more = state.reading.clone().try_acquire_many_owned(size);
        let more = more.map_err(|_| Problem::unavailable("too many deliveries arrive at once", RETRY_AFTER_SECONDS))?;
        match &mut room {
            Some(room) => room.merge(more),
            None => room = Some(more),
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok((bytes, room))
}

/// Reads on for a while without keeping anything: who is still sending would take a closed connection for an error
/// of ours, and not read the answer.
async fn discard(mut body: Body) {
    let mut discarded = 0;
    while let Some(Ok(frame)) = body.frame().await {
        discarded += frame.data_ref().map_or(0, axum::body::Bytes::len);
        if discarded > DISCARDED_BYTES {
            return;
        }
    }
}

impl From<Rejection> for Problem {
    fn from(rejection: Rejection) -> Self {
        let status = match rejection {
            Rejection::Unauthorized => StatusCode::UNAUTHORIZED,
            Rejection::Malformed(_) => StatusCode::BAD_REQUEST,
            Rejection::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Rejection::UnsupportedMediaType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        };
        Self::new(status, rejection.to_string())
    }
}

impl From<CommitError> for Problem {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Overloaded | CommitError::Unavailable => {
                Self::unavailable(error.to_string(), RETRY_AFTER_SECONDS)
            }
            CommitError::Refused => Self::new(StatusCode::BAD_REQUEST, error.to_string()),
        }
    }
}
