//! Probes: `/healthz` while the process lives, `/readyz` while intake can store and the process is to stay.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};

use super::{AppState, Problem};
use crate::outbox::StoreError;

/// A probe must not hang with the database.
const PROBE_WITHIN: Duration = Duration::from_secs(2);
const RETRY_AFTER_SECONDS: u16 = 5;

pub(super) async fn alive() -> &'static str {
    "alive\n"
}

pub(super) async fn ready(State(state): State<Arc<AppState>>) -> Response {
    let problem = |why: String| Problem::unavailable(why, RETRY_AFTER_SECONDS).response();
    if state.leaving.asked.is_cancelled() {
        return problem("this process is leaving: it stores what still comes, but send to another one".to_owned());
    }
    if state.committer.as_ref().is_some_and(|committer| !committer.has_room()) {
        return problem("too many deliveries are waiting to be stored".to_owned());
    }
    let asked = async {
        match state.outbox.missing_migrations().await? {
            0 if state.outbox.is_writable().await? => Ok(None),
            0 => Ok(Some(
                "the database takes no writes: a standby, read-only, or without the right to insert".to_owned(),
            )),
            missing => Ok(Some(format!("{missing} migrations are missing: run flexportal-sync migrate"))),
        }
    };
    let answer: Result<Result<_, StoreError>, _> = tokio::time::timeout(PROBE_WITHIN, asked).await;
    match answer {
        Ok(Ok(None)) => "ready\n".into_response(),
        Ok(Ok(Some(why))) => problem(why),
        Ok(Err(_)) => problem("the database is unavailable".to_owned()),
        Err(_) => problem("the database does not answer".to_owned()),
    }
}
