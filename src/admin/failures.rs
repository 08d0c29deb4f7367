//! What failed; set back or closed.

use std::time::{Duration, Instant};

use axum::Json;
use axum::http::{HeaderMap, StatusCode};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Admin;
use super::given::{Age, Asked, Body, Given, Limit, Posted};
use crate::domain::{EventId, ShopCustomerId, SourceName};
use crate::http::Problem;
use crate::inspect::MAX_REASON_CHARACTERS;
use crate::outbox::{DoneBy, Failure, FailureFilter, FailureGroup, Intervention, Outbox, Page, Remedy};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query, rename_all = "camelCase")]
pub(super) struct Failures {
    /// Of this shop.
    #[param(pattern = "^[a-z0-9_-]{1,63}$")]
    source: Option<String>,
    /// With this error code.
    code: Option<String>,
    /// With this cause, as the groups have it.
    cause: Option<String>,
    /// Of this customer of the shop.
    #[param(min_length = 1, max_length = 255, pattern = r"\S")]
    customer: Option<String>,
    /// Failed longer ago than this.
    #[param(inline)]
    older_than: Option<Age>,
    /// Failed within this time.
    #[param(inline)]
    newer_than: Option<Age>,
    /// Rows on the page.
    #[serde(default)]
    #[param(inline, required = false)]
    limit: Limit,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// The failed events, newest first.
#[utoipa::path(
    get, path = "/failures", tag = "failures", params(Failures),
    responses(
        (status = 200, description = "a page of them", body = Page<Failure>),
        Asked,
    )
)]
pub(super) async fn list(admin: Admin, Given(given): Given<Failures>) -> Result<Json<Page<Failure>>, Problem> {
    let now = admin.outbox.now().await?;
    let filter = FailureFilter {
        source: named(given.source, "source", SourceName::parse)?,
        code: given.code,
        cause: given.cause,
        customer: named(given.customer, "customer", ShopCustomerId::parse)?,
        failed_before: given.older_than.map(|age| age.before(now)),
        failed_since: given.newer_than.map(|age| age.before(now)),
    };
    Ok(Json(admin.outbox.failures(&filter, given.cursor.as_deref(), given.limit.rows()).await?))
}

/// A text of a request as the name or id that it has to be.
pub(super) fn named<T>(
    text: Option<String>,
    key: &str,
    parse: impl Fn(String) -> Result<T, crate::domain::IdError>,
) -> Result<Option<T>, Problem> {
    let wrong = |error| Problem::new(StatusCode::BAD_REQUEST, format!("{key}: {error}"));
    text.map(|text| parse(text).map_err(wrong)).transpose()
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Groups {
    /// Of this shop.
    #[param(pattern = "^[a-z0-9_-]{1,63}$")]
    source: Option<String>,
}

/// Failures with the same cause.
#[derive(Serialize, ToSchema)]
pub(super) struct FailureGroups {
    /// The most frequent first, a thousand at most.
    items: Vec<FailureGroup>,
}

/// The failures counted by cause, the most frequent first.
#[utoipa::path(
    get, path = "/failures/groups", tag = "failures", params(Groups),
    responses(
        (status = 200, description = "the causes", body = FailureGroups),
        Asked,
    )
)]
pub(super) async fn groups(admin: Admin, Given(given): Given<Groups>) -> Result<Json<FailureGroups>, Problem> {
    let source = named(given.source, "source", SourceName::parse)?;
    Ok(Json(FailureGroups { items: admin.outbox.failure_groups(source.as_ref(), 1_000).await? }))
}

/// Events by their ids, or all failures that the filters match.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Selection {
    /// These events, a thousand at most.
    #[schema(max_items = 1000)]
    events: Option<Vec<EventId>>,
    /// All failures that the filters match; without it, filters are refused.
    #[serde(default)]
    all: bool,
    /// Of this shop.
    source: Option<String>,
    /// With this error code.
    code: Option<String>,
    /// With this cause, as the groups have it.
    cause: Option<String>,
    /// Of this customer of the shop.
    customer: Option<String>,
    /// Failed longer ago than this.
    #[schema(inline)]
    older_than: Option<Age>,
    /// Failed within this time.
    #[schema(inline)]
    newer_than: Option<Age>,
    /// Failed before this moment, such as that of a dry run.
    failed_before: Option<DateTime<Utc>>,
    /// Only says what would be done.
    #[serde(default)]
    dry_run: bool,
    /// Why; it is kept with the event. Needed, and taken, where events are closed.
    #[schema(min_length = 1, max_length = 500)]
    reason: Option<String>,
}

/// What came of it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Outcome {
    /// When.
    at: DateTime<Utc>,
    /// Nothing was changed.
    dry_run: bool,
    /// How many events were meant.
    matched: usize,
    /// How many were set back, or closed; none in a dry run.
    changed: usize,
    /// How many could be: what was closed or settled meanwhile, or erased, is not tried again. What there is no time to
    /// look at is taken to be possible.
    possible: usize,
    /// How many were left for the next request, which takes on as many again: some two thousand. Whoever asks until it is
    /// 0 stops when nothing was changed: what is left then is not possible.
    remaining: usize,
    /// A fault of the database cut it short.
    broke_off: bool,
    /// How long they take at the quota, behind all that is due, in seconds; null without a quota, and where nothing is
    /// tried again.
    takes_seconds: Option<f64>,
    /// What came of each, or would, of the first hundred.
    results: Vec<Intervention>,
}

/// Events named in one request at most.
const MAX_NAMED: usize = 1_000;
/// Events that one request acts on: it is answered in time.
const MAX_ACTED_ON: usize = 2_000;
/// Well before the request is given up.
const ACT_WITHIN: Duration = Duration::from_secs(8);
/// In one transaction.
const BATCH: usize = 200;
/// Counted at most.
const MAX_MATCHED: i64 = 1_000_000;
/// Shown one by one.
const MAX_RESULTS: usize = 100;

/// Tries events again, with a full set of attempts; they wait behind live changes.
#[utoipa::path(
    post, path = "/failures/retry", tag = "failures", request_body = Selection,
    responses(
        (status = 200, description = "what came of it", body = Outcome),
        Posted,
    )
)]
pub(super) async fn retry(
    admin: Admin,
    headers: HeaderMap,
    Body(selection): Body<Selection>,
) -> Result<Json<Outcome>, Problem> {
    if selection.reason.is_some() {
        return Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "reason: goes with closing events, not with trying them again",
        ));
    }
    selection.carry_out(&admin.outbox, Remedy::Retry, done_by(&headers)).await
}

/// Closes events for good: they are not tried again.
#[utoipa::path(
    post, path = "/failures/discard", tag = "failures", request_body = Selection,
    responses(
        (status = 200, description = "what came of it", body = Outcome),
        Posted,
    )
)]
pub(super) async fn discard(
    admin: Admin,
    headers: HeaderMap,
    Body(selection): Body<Selection>,
) -> Result<Json<Outcome>, Problem> {
    let is_reason = |reason: &String| !reason.trim().is_empty() && reason.chars().count() <= MAX_REASON_CHARACTERS;
    let Some(reason) = selection.reason.clone().filter(is_reason) else {
        let detail = format!("reason: write 1 to {MAX_REASON_CHARACTERS} characters");
        return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
    };
    selection.carry_out(&admin.outbox, Remedy::Discard { reason: &reason }, done_by(&headers)).await
}

impl Selection {
    async fn carry_out(self, outbox: &Outbox, remedy: Remedy<'_>, by: DoneBy) -> Result<Json<Outcome>, Problem> {
        let dry_run = self.dry_run;
        let events = self.events(outbox).await?;
        let takes_seconds = match remedy {
            Remedy::Retry => outbox.takes_seconds(&events).await?,
            Remedy::Discard { .. } => None,
        };
        let at = outbox.now().await?.utc();
        let matched = events.len();
        let (mut looked_at, mut possible, mut results, mut broke_off) = (0, 0, Vec::new(), false);
        let began = Instant::now();
        let most = if dry_run { matched } else { matched.min(MAX_ACTED_ON) };
        for batch in events[..most].chunks(BATCH) {
            if began.elapsed() > ACT_WITHIN {
                break;
            }
            let outcome =
                if dry_run { outbox.rehearse(remedy, batch).await } else { outbox.apply(remedy, batch, by).await };
            let outcome = match outcome {
                Ok(outcome) => outcome,
                // What was done is told.
                Err(error) if looked_at > 0 && !dry_run => {
                    tracing::warn!(error = %error, done = looked_at, of = matched, "an action broke off");
                    broke_off = true;
                    break;
                }
                Err(error) => return Err(error.into()),
            };
            looked_at += batch.len();
            possible += outcome.iter().filter(|result| result.is_done).count();
            results.extend(outcome.into_iter().take(MAX_RESULTS - results.len()));
        }
        let left = matched - looked_at;
        let (changed, possible, remaining) =
            if dry_run { (0, possible + left, matched) } else { (possible, possible, left) };
        Ok(Json(Outcome { at, dry_run, matched, changed, possible, remaining, broke_off, takes_seconds, results }))
    }

    async fn events(self, outbox: &Outbox) -> Result<Vec<EventId>, Problem> {
        let wrong = |detail: &str| Problem::new(StatusCode::BAD_REQUEST, detail);
        let now = outbox.now().await?;
        let filter = FailureFilter {
            source: named(self.source, "source", SourceName::parse)?,
            code: self.code,
            cause: self.cause,
            customer: named(self.customer, "customer", ShopCustomerId::parse)?,
            failed_before: self.older_than.map(|age| age.before(now)).into_iter().chain(self.failed_before).min(),
            failed_since: self.newer_than.map(|age| age.before(now)),
        };
        match (self.events, self.all) {
            (Some(_), true) => Err(wrong("name events, or say `all`: not both")),
            (None, true) => Ok(outbox.failed_events(&filter, MAX_MATCHED).await?),
            (None, false) => Err(wrong("name events, or say `all`")),
            (Some(_), false) if !filter.is_empty() => Err(wrong("filters go with `all`, not with named events")),
            (Some(events), false) if events.len() > MAX_NAMED => Err(wrong("name a thousand events at most")),
            (Some(events), false) => Ok(events),
        }
    }
}

/// The console says that it is the console.
fn done_by(headers: &HeaderMap) -> DoneBy {
    match headers.get("x-client") {
        Some(client) if client == "console" => DoneBy::Console,
        _ => DoneBy::Api,
    }
}
