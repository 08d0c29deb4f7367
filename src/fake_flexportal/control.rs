//! The control plane under `/_fake/`: how a person or another process looks at the fake and steers it.
//!
//! No keys are asked for; the fake listens on the loopback address unless told otherwise and holds nothing real.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::answers::{invalid, refusal};
use super::behaviour::{Behaviour, Failure};
use super::customers::FakeCustomer;
use super::endpoints::MAX_BODY_BYTES;
use super::state::Shared;

type Fake = State<Arc<Shared>>;

/// Routes below `/_fake`.
pub(super) fn router() -> Router<Arc<Shared>> {
    Router::new()
        .route("/healthz", get(async || Json(json!({"status": "ok"}))))
        .route("/requests", get(requests).delete(forget_requests))
        .route("/behaviour", get(behaviour).put(change_behaviour))
        .route("/customers", get(customers).post(add_customers))
        .route("/customers/{customer_id}", delete(remove_customer))
        .route("/fail-next", post(fail_next))
        .fallback(async || refusal(StatusCode::NOT_FOUND, "NOT_FOUND", "no such path of the control plane"))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
}

async fn requests(State(shared): Fake) -> Response {
    let requests = shared.memory().log.all();
    Json(requests).into_response()
}

async fn forget_requests(State(shared): Fake) -> StatusCode {
    shared.forget_requests();
    StatusCode::NO_CONTENT
}

async fn behaviour(State(shared): Fake) -> Json<Behaviour> {
    Json(shared.memory().behaviour.clone())
}

/// Sets the switches that the body names and leaves the others.
async fn change_behaviour(State(shared): Fake, body: Bytes) -> Result<Json<Behaviour>, Unusable> {
    let changes: Map<String, Value> = serde_json::from_slice(&body)?;
    let mut memory = shared.memory();
    let mut merged = serde_json::to_value(&memory.behaviour).unwrap_or_default();
    for (name, value) in changes {
        merged[name] = value;
    }
    let merged: Behaviour = serde_json::from_value(merged)?;
    merged.check()?;
    memory.behaviour = merged.clone();
    Ok(Json(merged))
}

async fn customers(State(shared): Fake) -> Json<Vec<FakeCustomer>> {
    Json(shared.memory().customers.all().cloned().collect())
}

/// Adds or replaces one customer or a list of them; all or none.
async fn add_customers(State(shared): Fake, body: Bytes) -> Result<Json<Value>, Unusable> {
    let customers: Vec<FakeCustomer> = match serde_json::from_slice(&body)? {
        Value::Array(list) => list.into_iter().map(serde_json::from_value).collect::<Result<_, _>>(),
        one => serde_json::from_value(one).map(|one| vec![one]),
    }?;
    for customer in &customers {
        customer.check()?;
    }
    let added = customers.len();
    let mut memory = shared.memory();
    for customer in customers {
        memory.customers.add(customer, shared.clock.now());
    }
    Ok(Json(json!({"added": added})))
}

async fn remove_customer(State(shared): Fake, Path(customer_id): Path<String>) -> Response {
    match shared.memory().customers.remove(&customer_id) {
        Some(_) => StatusCode::NO_CONTENT.into_response(),
        None => refusal(StatusCode::NOT_FOUND, "NOT_FOUND", "no such customer"),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FailNext {
    count: u32,
    failure: Failure,
    #[serde(default)]
    customer_id: Option<String>,
}

async fn fail_next(State(shared): Fake, body: Bytes) -> Result<StatusCode, Unusable> {
    let FailNext { count, failure, customer_id } = serde_json::from_slice(&body)?;
    failure.check()?;
    if count > MAX_ORDERED_FAILURES {
        return Err(format!("count must be at most {MAX_ORDERED_FAILURES}; rates fail more than that").into());
    }
    shared.memory().fail_next(customer_id.as_deref(), count as usize, failure);
    Ok(StatusCode::NO_CONTENT)
}

/// Each takes memory until it is spent.
const MAX_ORDERED_FAILURES: u32 = 100_000;

/// A body that the control plane can make nothing of; says why.
struct Unusable(String);

impl From<String> for Unusable {
    fn from(reason: String) -> Self {
        Self(reason)
    }
}

impl From<serde_json::Error> for Unusable {
    fn from(error: serde_json::Error) -> Self {
        Self(error.to_string())
    }
}

impl IntoResponse for Unusable {
    fn into_response(self) -> Response {
        invalid(StatusCode::UNPROCESSABLE_ENTITY, &self.0)
    }
}
