//! Probes: `/healthz` while the process lives, `/readyz` while intake can store.

use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};

use super::{AppState, Problem};

/// A probe must not hang with the database.
const PROBE_WITHIN: Duration = Duration::from_secs(2);
const RETRY_AFTER_SECONDS: u16 = 5;

pub(super) async fn alive() -> &'static str {
    "alive\n"
}

pub(super) async fn ready(State(state): State<AppState>) -> Response {
    let problem = |why: String| Problem::unavailable(why, RETRY_AFTER_SECONDS).response();
    if state.committer.as_ref().is_some_and(|committer| !committer.has_room()) {
        return problem("too many deliveries are waiting to be stored".to_owned());
    }
    match tokio::time::timeout(PROBE_WITHIN, state.outbox.missing_migrations()).await {
        Ok(Ok(0)) => "ready\n".into_response(),
        Ok(Ok(missing)) => problem(format!("{missing} migrations are missing: run flexportal-sync migrate")),
        Ok(Err(_)) => problem("the database is unavailable".to_owned()),
        Err(_) => problem("the database does not answer".to_owned()),
    }
}
