//! `GET /metrics` for Prometheus: what this process counts, and how the whole service stands by its database.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use tokio::sync::Mutex;

use super::AppState;
use crate::domain::Clock;
use crate::metrics;
use crate::outbox::{FailureGroup, Outbox, Status, StoreError};

mod standing;

/// A scrape must not hang with the database.
const ASK_WITHIN: Duration = Duration::from_secs(2);
/// Nor with a database that does not answer at all.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);
/// However often it is scraped, the database is asked no more often than this.
const FRESH_FOR: Duration = Duration::from_secs(5);
/// Causes of failure that are told apart; the rest counts as `other`.
const MAX_CAUSES: i64 = 50;

pub(super) async fn show(State(state): State<Arc<AppState>>) -> Response {
    let text = state.metrics.text() + &state.standing.text().await;
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response()
}

/// How the whole service stands, as it was found last; clones share it.
#[derive(Debug, Clone)]
pub struct Standing {
    outbox: Outbox,
    clock: Clock,
    last: Arc<Mutex<Option<Found>>>,
}

#[derive(Debug)]
struct Found {
    at: DateTime<Utc>,
    text: String,
}

impl Standing {
    /// As this outbox finds it: one of its own, so that the work does not wait for scrapes, nor a scrape for the work.
    #[must_use]
    pub fn new(outbox: Outbox, clock: Clock) -> Self {
        Self { outbox, clock, last: Arc::default() }
    }

    /// In Prometheus' text format. Who comes while somebody asks waits for that answer.
    async fn text(&self) -> String {
        let mut last = self.last.lock().await;
        let now = self.clock.now();
        if let Some(found) = &*last
            && (now - found.at).to_std().is_ok_and(|age| age < FRESH_FOR)
        {
            return found.text.clone();
        }
        let asked = tokio::time::timeout(ASK_WITHIN, ask(&self.outbox)).await;
        let answer = asked.unwrap_or(Err(StoreError::Unavailable(sqlx::Error::PoolTimedOut)));
        if let Err(error) = &answer {
            tracing::debug!(error = %error, "metrics are shown without what the database knows");
        }
        let found = answer.ok();
        // A database that takes its time over much is not away.
        let is_up = found.is_some()
            || tokio::time::timeout(ANSWER_WITHIN, self.outbox.server_version())
                .await
                .is_ok_and(|answer| answer.is_ok());
        let text = standing::text(found.as_ref(), is_up);
        *last = Some(Found { at: now, text: text.clone() });
        text
    }
}

async fn ask(outbox: &Outbox) -> Result<(Status, Vec<FailureGroup>), StoreError> {
    Ok((outbox.status().await?, outbox.failure_groups(None, MAX_CAUSES).await?))
}
